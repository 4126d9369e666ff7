"""gSDE with kernels and by hand: every option of SB3's, SB3's random numbers, and what users do to the distribution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import StateDependentNoiseDistribution, TanhBijector
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import AutogradEngine, FusedEngine, PolicyInputs, UnsupportedPolicyError, UpdateSettings, make_engine
from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from tests.recorded_kernels import record_act, record_gradients
from tests.test_fused import DEFAULTS, HEADS, gradients_of, make_minibatch, make_policy

BY_HAND: tuple[Any, ...] = (NumpyEngine, FusedEngine)


def make_gsde(actions: int, features: int = 5, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A policy with so many actions."""
    made = partial(ActorCriticPolicy, use_sde=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HEADS, "gsde", (made, spaces.Box(-1.0, 1.0, (actions,), np.float32)))
        return make_policy("gsde", features, seed, double, **options)


def act(engine: Any, observations: th.Tensor) -> list[th.Tensor]:
    """Actions, values, log-probabilities and the next random number."""
    th.manual_seed(3)
    return [*(tensor.detach() for tensor in engine.act(PolicyInputs(observations))), th.rand(1)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    full_std=st.booleans(),
    use_expln=st.booleans(),
    squash_output=st.booleans(),
    widths=st.lists(st.integers(1, 20), max_size=2),
    features=st.integers(1, 20),
    actions=st.integers(1, 9),
    batch=st.integers(2, 40),
    ent_coef=st.sampled_from([0.0, 0.01, -0.5]),
    seed=st.integers(0, 10**6),
)
def test_every_option_is_sb3s(
    full_std: bool,
    use_expln: bool,
    squash_output: bool,
    widths: list[int],
    features: int,
    actions: int,
    batch: int,
    ent_coef: float,
    seed: int,
) -> None:
    """
    In float64 what is sampled, and each gradient tensor, are the policy's own to 1e-10.

    Without squashing half of ``log_std`` is above 0, where ``expln`` has another form. With it, saturated actions would cost
    digits.
    """
    options: dict[str, Any] = {"full_std": full_std, "use_expln": use_expln, "squash_output": squash_output}
    options |= {"log_std_init": -2.5 if squash_output else 0.0, "net_arch": widths}
    policy = make_gsde(actions, features, seed, double=True, **options)
    samples, update = make_minibatch(policy, batch, seed), UpdateSettings(**{**vars(DEFAULTS), "ent_coef": ent_coef})
    # The derivation, as SB3, rounds observations to float32.
    samples = samples._replace(observations=samples.observations.float().double())
    policy.reset_noise(batch - batch % 2)
    expected_outputs = act(AutogradEngine(policy), samples.observations)
    statistics = AutogradEngine(policy).gradients(TensorMinibatch(samples), update)
    expected = gradients_of(policy)

    engine = FusedEngine(policy)
    outputs, minibatch = act(engine, samples.observations), engine.minibatch_of(*samples[:6])
    matrices = policy.action_dist.exploration_matrices if batch % 2 == 0 else policy.action_dist.exploration_mat[None]
    record_act(engine, samples.observations, matrices.detach().expand(batch, -1, -1).numpy(), tuple(outputs[:3]))
    found = engine.gradients(minibatch, update)
    record_gradients(engine, minibatch, update, found.ratios)
    for ours, theirs in zip(outputs, expected_outputs, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for name, gradient in gradients_of(policy).items():
        assert (gradient - expected[name]).abs().max().item() <= 1e-10 * max(expected[name].abs().max().item(), 1e-6), name
    assert found.entropy_loss == pytest.approx(statistics.entropy_loss, rel=1e-10, abs=1e-10)

    policy.zero_grad()
    by_hand = NumpyEngine(policy)
    for ours, theirs in zip(act(by_hand, samples.observations), expected_outputs, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    by_hand.gradients(TensorMinibatch(samples), update)
    for name, gradient in gradients_of(policy).items():
        assert (gradient - expected[name]).abs().max().item() <= 1e-10 * max(expected[name].abs().max().item(), 1e-6), name


@pytest.mark.parametrize("engine", ["numpy", "fused"])
@pytest.mark.parametrize(
    "policy_kwargs", [{}, {"squash_output": True, "full_std": False, "use_expln": True, "log_std_init": -2.0}]
)
def test_rollouts_and_updates_are_sb3s(engine: Any, policy_kwargs: dict[str, Any]) -> None:
    """Trained as the zoo does, actions of two rollouts and all random numbers are SB3's, parameters between them to 1e-5."""
    left: list[Any] = []
    for kind in (PPO, partial(EduPPO, engine=engine)):
        env = make_vec_env("Pendulum-v1", n_envs=4, seed=1)
        arguments: dict[str, Any] = {"n_steps": 64, "n_epochs": 4, "gamma": 0.9, "seed": 1, "device": "cpu"}
        model: Any = kind("MlpPolicy", env, use_sde=True, sde_sample_freq=4, policy_kwargs=policy_kwargs, **arguments)
        first = model.learn(256).rollout_buffer.actions.copy()
        parameters = {name: value.clone() for name, value in model.policy.state_dict().items()}
        model.learn(256, reset_num_timesteps=False)
        left.append((first, model.rollout_buffer.actions, parameters, th.get_rng_state()))
    theirs, ours = left
    assert model.engine_reason.startswith(engine)
    assert th.equal(ours[3], theirs[3])
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-3)
    for name, value in theirs[2].items():
        assert (ours[2][name] - value).norm() / value.norm().clamp(min=1e-3) < 1e-5, name


# -- the policy is the truth ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_class", BY_HAND)
def test_matrices_of_the_users_act(engine_class: Any) -> None:
    """Whatever lies in the distribution counts at once: one matrix for all, or one for each where there are as many."""
    policy = make_gsde(2, double=False, net_arch=[7])
    engine, options = engine_class(policy), policy.action_dist
    for rows, matrices in ((1, 1), (1, 3), (3, 3), (4, 3), (9, 9)):
        options.exploration_mat = th.randn(7, 2)
        options.exploration_matrices = th.randn(2, 7, matrices).permute(2, 1, 0)  # not contiguous
        observations = th.randn(rows, 5)
        for ours, theirs in zip(act(engine, observations), act(AutogradEngine(policy), observations), strict=True):
            th.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_matrices_of_another_shape_are_refused() -> None:
    """SB3 refuses them as well; no number is taken twice, and none read beyond the matrix."""
    policy = make_gsde(2, net_arch=[7])
    engine = FusedEngine(policy)
    policy.action_dist.exploration_mat = th.randn(1, 2)
    with pytest.raises(ValueError, match=r"exploration matrices: found shape \(1, 2\), expected \(7, 2\)"):
        engine.act(PolicyInputs(th.randn(1, 5)))


class OwnBijector(TanhBijector):
    """A bijector of the user's."""


class OwnDistribution(StateDependentNoiseDistribution):
    """A distribution of the user's."""


def become_own(policy: Any) -> None:
    """Give the distribution another class."""
    policy.action_dist.__class__ = OwnDistribution


def patched_class(policy: Any) -> None:
    """Replace a method of SB3's class; undone by the fixture."""
    patched: Any = StateDependentNoiseDistribution
    patched.get_noise = lambda self, latent_sde: latent_sde[:, :2]


@pytest.fixture
def untouched_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test replaces there is put back."""
    monkeypatch.setattr(StateDependentNoiseDistribution, "get_noise", StateDependentNoiseDistribution.get_noise)
    monkeypatch.setattr(TanhBijector, "log_prob_correction", TanhBijector.log_prob_correction)


NOT_SERVED: dict[str, Callable[[Any], Any]] = {
    "gSDE learns its features": lambda policy: setattr(policy.action_dist, "learn_features", True),
    "gSDE's bijector is OwnBijector": lambda policy: setattr(policy.action_dist, "bijector", OwnBijector()),
    "gSDE's epsilon is not a number": lambda policy: setattr(policy.action_dist, "epsilon", th.tensor(1e-6)),
    "gSDE does not have the size": lambda policy: setattr(policy.action_dist, "latent_sde_dim", 3),
    "the action distribution is OwnDistribution": become_own,
    "policy.action_dist.get_noise has been replaced": lambda policy: setattr(policy.action_dist, "get_noise", None),
    "bijector.log_prob_correction has been": lambda policy: setattr(policy.action_dist.bijector, "log_prob_correction", None),
    "StateDependentNoiseDistribution.get_noise has been replaced": patched_class,
    "policy.log_std is not a parameter of shape": lambda policy: setattr(policy.action_dist, "full_std", False),
}


@pytest.mark.usefixtures("untouched_classes")
@pytest.mark.parametrize("reason", NOT_SERVED)
def test_what_is_not_sb3s_goes_to_autograd(reason: str) -> None:
    """Then "auto" falls back and says why; an engine that is asked for by name refuses in the same words."""
    policy = make_gsde(2, net_arch=[7], squash_output=True)
    assert make_engine("auto", policy)[1].startswith("fused")
    NOT_SERVED[reason](policy)
    engine, found = make_engine("auto", policy)
    assert engine.name == "autograd" and reason in found
    for name in ("numpy", "fused"):
        with pytest.raises(UnsupportedPolicyError, match=reason):
            make_engine(name, policy)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "epsilon": lambda policy: setattr(policy.action_dist, "epsilon", 0.5),
    "bijector's epsilon": lambda policy: setattr(policy.action_dist.bijector, "epsilon", 0.5),
    "expln": lambda policy: setattr(policy.action_dist, "use_expln", True),
    "no squashing": lambda policy: setattr(policy.action_dist, "bijector", None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_options_that_are_changed_in_place_count(name: str) -> None:
    """From the next rollout on, log-probabilities and actions are those of the distribution as it is."""
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=1)
    options = {"squash_output": True, "log_std_init": 0.5, "net_arch": [7]}
    model = EduPPO("MlpPolicy", env, n_steps=32, use_sde=True, policy_kwargs=options, device="cpu", engine="fused", seed=1)
    before = model.attach_engine()
    CHANGES[name](model.policy)
    engine = model.attach_engine()
    assert engine is not before
    observations = th.randn(2, 3)
    for ours, theirs in zip(act(engine, observations), act(AutogradEngine(model.policy), observations), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ["fused", "numpy"])
def test_saturated_actions_have_sb3s_log_probabilities(engine: Any) -> None:
    """Where many actions are beyond 0.9999, atanh of what is stored still gives SB3's numbers to 1e-4, and its update."""
    given: dict[str, Any] = {"n_steps": 48, "batch_size": 96, "n_epochs": 1, "seed": 3, "device": "cpu", "use_sde": True}
    given["policy_kwargs"] = {"squash_output": True}
    theirs = PPO("MlpPolicy", make_vec_env("Pendulum-v1", 2), **given).learn(96)
    ours = EduPPO("MlpPolicy", make_vec_env("Pendulum-v1", 2), engine=engine, **given).learn(96)
    assert (np.abs(theirs.rollout_buffer.actions) > 0.9999).mean() > 0.05
    np.testing.assert_allclose(ours.rollout_buffer.log_probs, theirs.rollout_buffer.log_probs, atol=1e-4)
    for name, parameter in theirs.policy.state_dict().items():
        th.testing.assert_close(ours.policy.state_dict()[name], parameter, rtol=1e-4, atol=1e-6)
