"""Probe environments whose values and good actions are known: each tells which part is broken, within a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_edu import EduPPO
from tests.environments import Probe

GAMMA = 0.5
ACTIONS = ("discrete", "gaussian", "tanh_gaussian", "beta")
probes = pytest.mark.parametrize("actions", ACTIONS)
engines = pytest.mark.parametrize("engine", ["autograd", "auto"])


def solve(kind: str, actions: str, engine: Any) -> EduPPO:
    """Train on a probe: 8 rollouts of 4 environments, 2048 steps."""
    discrete = actions == "discrete"
    distribution: Any = "gaussian" if discrete else actions
    model = EduPPO(
        "MlpPolicy",
        make_vec_env(lambda: Probe(kind, discrete), n_envs=4, seed=0),
        learning_rate=0.01,
        n_steps=64,
        batch_size=64,
        n_epochs=4,
        gamma=GAMMA,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        device="cpu",
        engine=engine,
        action_distribution=distribution,
    )
    return model.learn(8 * 4 * 64)


def values_at(model: EduPPO, *observations: float) -> list[float]:
    """The critic's values of some observations."""
    with th.no_grad():
        values: list[float] = model.policy.predict_values(th.tensor(observations)[:, None]).flatten().tolist()
    return values


def share_of_good_actions(model: EduPPO, observation: float) -> float:
    """How often 1000 sampled actions are 1 (Discrete) or positive (Box)."""
    actions, _ = model.predict(np.full((1000, 1), observation, np.float32))
    return float(np.mean(actions > 0))


def deterministic_action(model: EduPPO, observation: float) -> float:
    """The action without noise."""
    action, _ = model.predict(np.array([observation], np.float32), deterministic=True)
    return float(np.asarray(action).item())


@probes
@engines
def test_constant_reward(actions: str, engine: Any) -> None:
    """One step, reward 1: the value is 1. If not, the value loss or the optimizer is broken."""
    assert values_at(solve("constant", actions, engine), 0.0) == pytest.approx([1.0], abs=0.02)


@probes
@engines
def test_reward_equal_to_the_observation(actions: str, engine: Any) -> None:
    """One step, reward ±1 as observed: the values are -1 and 1. If not, observations and returns are out of step."""
    assert values_at(solve("observation", actions, engine), -1.0, 1.0) == pytest.approx([-1.0, 1.0], abs=0.05)


@probes
@engines
def test_delayed_reward(actions: str, engine: Any) -> None:
    """Two steps, reward 1 at the end: the values are γ and 1. If not, discounting, GAE or the mask of dones is wrong."""
    assert values_at(solve("discount", actions, engine), 0.0, 1.0) == pytest.approx([GAMMA, 1.0], abs=0.05)


@probes
@engines
def test_reward_for_the_action(actions: str, engine: Any) -> None:
    """One step, reward 1 for 1 or positive, -1 else: the policy prefers it. If not, the surrogate or its sign is wrong."""
    model = solve("action", actions, engine)
    assert share_of_good_actions(model, 0.0) > 0.95
    assert deterministic_action(model, 0.0) > 0.4
    assert values_at(model, 0.0) == pytest.approx([1.0], abs=0.1)


@probes
@engines
def test_reward_for_the_action_that_fits_the_observation(actions: str, engine: Any) -> None:
    """One step, the good action has the observation's sign: the policy follows it, and the value of both states is 1."""
    model = solve("both", actions, engine)
    assert share_of_good_actions(model, -1.0) < 0.05
    assert share_of_good_actions(model, 1.0) > 0.95
    assert deterministic_action(model, -1.0) < 0.1 < 0.4 < deterministic_action(model, 1.0)
    assert values_at(model, -1.0, 1.0) == pytest.approx([1.0, 1.0], abs=0.1)
