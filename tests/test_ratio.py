"""The probability ratio is 1 before the first step, whatever distribution the actions are of."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import EngineName
from tests.rollouts import collect, make_model, transitions, update_settings

RATIO_CASES: dict[str, dict[str, Any]] = {
    "categorical": {"action": "discrete"},
    "multicategorical": {"action": "multidiscrete"},
    "bernoulli": {"action": "multibinary"},
    "gaussian": {},
    "gaussian-dict": {"observation": "dict"},
    "categorical-image": {"observation": "image", "action": "discrete"},
    "gsde": {"use_sde": True},
    "gsde-squashed": {"use_sde": True, "policy_kwargs": {"squash_output": True}},
    "tanh_gaussian": {"action_distribution": "tanh_gaussian"},
    "tanh_gaussian-dict": {"action_distribution": "tanh_gaussian", "observation": "dict"},
    "tanh_gaussian-image": {"action_distribution": "tanh_gaussian", "observation": "image"},
    "beta": {"action_distribution": "beta"},
    "beta-dict": {"action_distribution": "beta", "observation": "dict"},
}


def first_ratios(model: EduPPO) -> th.Tensor:
    """The ratios of a fresh rollout under the parameters that made it, evaluated as one batch."""
    data = transitions(model)
    actions = data["actions"].long().flatten() if isinstance(model.action_space, spaces.Discrete) else data["actions"]
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(data["observations"], actions)
    return th.exp(log_prob - data["log_probs"].flatten())


@pytest.mark.parametrize("case", RATIO_CASES)
@pytest.mark.parametrize("name", ["autograd", "auto"])
def test_the_first_ratios_are_1(case: str, name: EngineName) -> None:
    """Before the first step every ratio is 1, to the rounding of a matrix product of another batch size."""
    model = make_model(**{"n_envs": 2, "engine": name, **RATIO_CASES[case]})
    collect(model)
    assert float((first_ratios(model) - 1.0).abs().max()) < 1e-5
    engine = model.attach_engine()
    (minibatch,) = engine.minibatches(model.rollout_buffer, model.n_steps * model.n_envs)
    statistics = engine.gradients(minibatch, update_settings())
    assert statistics.ratio_max == pytest.approx(1.0, abs=1e-5)
    assert statistics.clip_fraction == 0.0
    assert abs(float(statistics.approx_kl)) < 1e-5


def saturated(action_distribution: str, name: EngineName) -> EduPPO:
    """A model all of whose actions are so far out that tanh rounds to 1 in float32."""
    model = make_model(action_distribution=action_distribution, engine=name)
    action_net: Any = model.policy.action_net
    # For the Beta alpha = 1 + softplus(1e9) and beta = 1 + softplus(-20): x is 1 to some 1e-9.
    outputs = [1e9, 1e9, -20.0, -20.0] if action_distribution == "beta" else [14.0, 14.0]
    with th.no_grad():
        action_net.bias.copy_(th.tensor(outputs))
    collect(model)
    return model


@pytest.mark.parametrize("name", ["autograd", "numpy", "auto"])
@pytest.mark.parametrize(("action_distribution", "slope"), [("tanh_gaussian", 1.0), ("beta", 0.5)])
def test_the_first_ratios_are_1_where_the_squashing_has_saturated(
    action_distribution: str, slope: float, name: EngineName
) -> None:
    """The raw action is stored, so a squashed action that rounds to its bound does no harm."""
    model = saturated(action_distribution, name)
    assert bool((th.tanh(slope * transitions(model)["actions"]) == 1.0).all())
    assert float((first_ratios(model) - 1.0).abs().max()) < 1e-5


def test_an_inverse_tanh_misses_the_ratio_by_orders_of_magnitude() -> None:
    """SB3's squashed Gaussian, given only tanh(u), recovers at most |u| = 8.3: its ratios are far from 1 at mean 14."""
    distribution = SquashedDiagGaussianDistribution(1)
    distribution.proba_distribution(th.full((32, 1), 14.0), th.zeros(1))
    raw_actions = distribution.distribution.sample()
    squashed = th.tanh(raw_actions)
    assert bool((squashed == 1.0).all())
    old_log_prob = distribution.log_prob(squashed, raw_actions)
    log_ratio = distribution.log_prob(squashed) - old_log_prob
    assert float(log_ratio.abs().min()) > math.log(100.0)
