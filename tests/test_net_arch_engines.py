"""The engines with backward passes of their own on shared layers, LayerNorm and observations for the critic alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import nn

from sb3_ppo_edu import MaskableEduPPO
from sb3_ppo_edu.engines import AutogradEngine, FusedEngine, PolicyInputs, UpdateSettings, make_engine
from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from sb3_ppo_edu.engines.derivation.layers import LayerNorm
from sb3_ppo_edu.engines.fingerprint import fingerprint
from sb3_ppo_edu.engines.fused import engine as fused_engine
from sb3_ppo_edu.engines.support import why_not_derived
from sb3_ppo_edu.policies.bounded import BetaMultiInputPolicy, TanhGaussianMultiInputPolicy
from sb3_ppo_edu.policies.net_arch import NET_ARCH_POLICIES, base_of
from tests.recorded_kernels import record_act, record_gradients, record_value
from tests.test_fused import ACTIVATIONS, GSDE, gradients_of, update_settings
from tests.test_kernels import AtLevel, assert_same_bits, both_levels, state_of, update_settings_with
from tests.test_net_arch import make_model

HEADS: dict[str, tuple[type[Any], dict[str, Any], spaces.Space]] = {
    "categorical": (MultiInputActorCriticPolicy, {}, spaces.MultiDiscrete([2, 3])),
    "gaussian": (MultiInputActorCriticPolicy, {}, spaces.Box(-1.0, 1.0, (2,), np.float32)),
    "tanh_gaussian": (TanhGaussianMultiInputPolicy, {}, spaces.Box(-2.0, 1.0, (3,), np.float32)),
    "beta": (BetaMultiInputPolicy, {}, spaces.Box(-2.0, 1.0, (2,), np.float32)),
    "gsde": (MultiInputActorCriticPolicy, GSDE, spaces.Box(-1.0, 1.0, (3,), np.float32)),
}


class Double(nn.Module):
    """Flattens, and casts to float64."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.double().flatten(1)


def make_policy(
    head: str, options: dict[str, Any], sizes: tuple[int, int, int] = (2, 3, 1), double: bool = False, **arguments: Any
) -> Any:
    """A policy that observes "a", "b" and "c", with parameters large enough for all nonlinearities to matter."""
    base, more, actions = HEADS[head]
    space = spaces.Dict({key: spaces.Box(-10, 10, (size,)) for key, size in zip("abc", sizes, strict=True)})
    policy: Any = NET_ARCH_POLICIES[base](space, actions, lambda _: 1e-3, **options, **more, **arguments)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    if double:
        policy.double()
        for key in "abc":  # SB3 casts observations to float32 on their way into the network
            policy.features_extractor.extractors[key] = Double()
    if policy.use_sde:
        policy.reset_noise(5)
    return policy


def make_minibatch(policy: Any, batch: int) -> RolloutBufferSamples:
    """Transitions whose ratios and values lie on both sides of every clip."""
    dtype = policy.value_net.weight.dtype
    observations: Any = {key: th.randn(batch, *part.shape) for key, part in policy.observation_space.items()}
    with th.no_grad():
        actions = policy(observations)[0].reshape(batch, -1).to(dtype)
        values, log_prob, _ = policy.evaluate_actions(observations, actions)
    noise = th.randn(4, batch, dtype=dtype)
    values = values.flatten()
    return RolloutBufferSamples(
        observations, actions, values + noise[0] / 2, log_prob + 0.3 * noise[1], noise[2], values + noise[3]
    )


widths = st.lists(st.integers(2, 9), max_size=2)
options_of_networks = st.one_of(
    st.builds(lambda shared, norm: {"shared_net_arch": shared, "layer_norm": norm}, widths, st.booleans()),
    st.builds(lambda keys, norm: {"critic_keys": keys, "layer_norm": norm}, st.sampled_from(["a", "b", "ac"]), st.booleans()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    head=st.sampled_from(sorted(HEADS)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    options=options_of_networks,
    actor=widths,
    critic=widths,
    batch=st.integers(1, 17),
    seed=st.integers(0, 10**6),
    update=update_settings,
)
def test_gradients_are_autograds(
    head: str,
    activation: str,
    options: dict[str, Any],
    actor: list[int],
    critic: list[int],
    batch: int,
    seed: int,
    update: UpdateSettings,
) -> None:
    """In float64 every gradient tensor of the numpy engine and of the kernels agrees with autograd's to 1e-10 relative."""
    th.manual_seed(seed)
    net_arch = {"pi": actor, "vf": critic}
    policy = make_policy(head, options, double=True, net_arch=net_arch, activation_fn=ACTIVATIONS[activation])
    samples = make_minibatch(policy, batch)
    expected_statistics = AutogradEngine(policy).gradients(TensorMinibatch(samples), update)
    expected = gradients_of(policy)
    for engine in (NumpyEngine(policy), FusedEngine(policy)):
        policy.zero_grad()
        given: Any = engine.minibatch_of(*samples[:6]) if isinstance(engine, FusedEngine) else TensorMinibatch(samples)
        statistics = engine.gradients(given, update)
        for name, gradient in gradients_of(policy).items():
            scale = max(expected[name].abs().max().item(), 1e-4)
            assert (gradient - expected[name]).abs().max().item() <= 1e-10 * scale, (engine.name, name)
        for name in ("policy_loss", "value_loss", "entropy_loss", "loss"):
            theirs = float(getattr(expected_statistics, name))
            assert getattr(statistics, name) == pytest.approx(theirs, rel=1e-10, abs=1e-10), (engine.name, name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    head=st.sampled_from(sorted(HEADS)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    options=options_of_networks,
    units=st.lists(st.integers(3, 40), max_size=2),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    batch=st.integers(2, 70),
    seed=st.integers(0, 10**6),
)
def test_float32_agrees_with_the_derivation(
    head: str, activation: str, options: dict[str, Any], units: list[int], sizes: Any, batch: int, seed: int
) -> None:
    """In float32 gradients are the numpy engine's to 1e-4 of the largest one, and values to 1e-4, row by row too."""
    th.manual_seed(seed)
    policy = make_policy(head, options, sizes, net_arch=units, activation_fn=ACTIVATIONS[activation])
    samples, update = make_minibatch(policy, batch), update_settings_with(ent_coef=0.01, clip_range_vf=0.2)
    derivation, engine = NumpyEngine(policy), FusedEngine(policy)
    derivation.gradients(TensorMinibatch(samples), update)
    expected = gradients_of(policy)
    minibatch = engine.minibatch_of(*samples[:6])
    record_gradients(engine, minibatch, update, engine.gradients(minibatch, update).ratios)
    scale = max(*(gradient.abs().max().item() for gradient in expected.values()), 1e-3)
    for name, gradient in gradients_of(policy).items():
        assert (gradient - expected[name]).abs().max().item() <= 1e-4 * scale, name
    for rows in (1, 4, batch):
        inputs = PolicyInputs({key: part[:rows] for key, part in samples.observations.items()})  # type: ignore[attr-defined]
        values = engine.value(inputs)
        th.testing.assert_close(values, derivation.value(inputs), rtol=1e-4, atol=1e-4)
        features = policy.extract_features(inputs.observations, policy.features_extractor)
        record_value(engine, features, values)


@pytest.mark.parametrize("n_envs", [1, 5, 40])
@pytest.mark.parametrize("options", [{"shared_net_arch": [7, 5], "layer_norm": True}, {"critic_keys": ["a"]}], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_acts_as_the_policy(head: str, options: dict[str, Any], n_envs: int) -> None:
    """Actions, values and log-probabilities are the policy's own, and the random stream ends in the same place."""
    th.manual_seed(1)
    policy = make_policy(head, options, net_arch=[8, 6])
    engines: list[Any] = [AutogradEngine(policy), NumpyEngine(policy), FusedEngine(policy)]
    for step in range(5):
        th.manual_seed(step)
        inputs = PolicyInputs({key: th.randn(n_envs, *part.shape) for key, part in policy.observation_space.items()})
        results = []
        for engine in engines:
            th.manual_seed(step)
            results.append((*engine.act(inputs), th.rand(1)))
        for found in results[1:]:
            for ours, theirs in zip(found, results[0], strict=True):
                th.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=2e-5, atol=2e-5)
        features = policy.extract_features(inputs.observations, policy.features_extractor)
        if memory := engines[2]._memory.get(n_envs):  # a Beta draws from elsewhere
            noise = np.concatenate([part.numpy().ravel() for part in memory.noise])
            record_act(engines[2], features, noise, results[2][:3])


@both_levels
@pytest.mark.parametrize("options", [{"shared_net_arch": [33, 20], "layer_norm": True}, {"critic_keys": ["b"]}], ids=str)
def test_avx2_and_avx512_give_the_same_bits(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions, values, parameters, gradients and moments after some steps."""
    left = []
    for level in ("v3", "v4"):
        monkeypatch.setattr(fused_engine, "load_library", lambda level=level: AtLevel(level))
        th.manual_seed(0)
        policy = make_policy("gaussian", options, (5, 9, 20), net_arch=[33])
        engine, update, found = FusedEngine(policy), update_settings_with(ent_coef=0.01), []
        for _ in range(3):
            samples = make_minibatch(policy, 37)
            for rows in (1, 3, 37):
                inputs = PolicyInputs({key: part[:rows] for key, part in samples.observations.items()})  # type: ignore[attr-defined]
                found += [tensor.numpy() for tensor in engine.act(inputs)]
            engine.gradients(engine.minibatch_of(*samples[:6]), update)
            engine.apply(update)
        left.append(found + state_of(policy))
    assert_same_bits(*left)


@pytest.mark.parametrize(
    "options",
    [
        {"shared_net_arch": [5], "layer_norm": True},
        {"critic_keys": ["choice"]},
        {"critic_keys": ["vector"], "layer_norm": True, "algorithm": MaskableEduPPO, "action": "multidiscrete"},
    ],
    ids=["shared", "critic", "masks"],
)
def test_training_is_autograds(options: dict[str, Any]) -> None:
    """``auto`` takes the kernels; three rollouts and updates end where the reference does, to rounding."""
    trained = [make_model(engine=engine, **options).learn(48) for engine in ("autograd", "numpy", "auto")]
    assert trained[2].engine_reason.startswith("fused: policy, distribution and optimizer are supported")
    for model in trained[1:]:
        for ours, theirs in zip(model.policy.parameters(), trained[0].policy.parameters(), strict=True):
            th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layer_norm_by_hand() -> None:
    """
    For z = (1, 3), scale (2, 1), shift (0, 5) and ε = 0.21, of mean 2: σ = √(1 + 0.21) = 1.1, n = ∓1/1.1.

    So y = (-2/1.1, 5 + 1/1.1). From ȳ = (1, 0): n̄ = (2, 0), of mean 1, and n̄·n of mean -1/1.1; so
    z̄ = (2 - 1 - 1/1.21, 0 - 1 + 1/1.21)/1.1. The scale's gradient is ȳ·n = (-1/1.1, 0), the shift's ȳ.
    """
    module = nn.LayerNorm(2, eps=0.21, dtype=th.float64)
    module.weight.data, module.bias.data = th.tensor([2.0, 1.0]).double(), th.tensor([0.0, 5.0]).double()
    layer = LayerNorm(module)
    np.testing.assert_allclose(layer.forward(np.array([[1.0, 3.0]])), [[-2 / 1.1, 5 + 1 / 1.1]])
    slope = (1 - 1 / 1.21) / 1.1
    np.testing.assert_allclose(layer.backward(np.array([[1.0, 0.0]])), [[slope, -slope]])
    th.testing.assert_close(module.weight.grad, th.tensor([-1 / 1.1, 0.0], dtype=th.float64))
    th.testing.assert_close(module.bias.grad, th.tensor([1.0, 0.0], dtype=th.float64))


def test_what_users_change_is_seen() -> None:
    """An ε, the number of the actor's inputs, another norm, scale or method: each changes the fingerprint or is named."""
    policy = make_policy("gaussian", {"layer_norm": True, "critic_keys": "b"}, net_arch=[4])
    assert why_not_derived(policy) is None
    before = fingerprint(policy)
    norm = policy.mlp_extractor.policy_net[1]
    norm.eps = 0.1
    assert not fingerprint(policy).matches(before) and why_not_derived(policy) is None
    norm.eps = 0.0
    assert "not made of linear layers" in (why_not_derived(policy) or "")
    norm.eps = 1e-5
    assert fingerprint(policy).matches(before)
    policy.mlp_extractor.actor_inputs = 2
    assert not fingerprint(policy).matches(before) and "do not have the sizes" in (why_not_derived(policy) or "")
    policy.mlp_extractor.actor_inputs = -3
    assert "actor_inputs is -3" in (why_not_derived(policy) or "")
    policy.mlp_extractor.actor_inputs = 3
    for other in (nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4, bias=False), nn.RMSNorm(4), nn.LayerNorm(5)):
        policy.mlp_extractor.policy_net[1] = other
        assert "not made of linear layers" in (why_not_derived(policy) or "")
    shared = make_policy("gaussian", {"shared_net_arch": [4]}, net_arch=[4])
    shared.mlp_extractor.shared_net[0] = nn.Linear(5, 4)
    assert "the shared part does not take the features" in (why_not_derived(shared) or "")


def test_layer_norm_that_users_put_into_sb3s_policy_is_served() -> None:
    """In a tower of SB3's own policy, too; what SB3's network has by the names of ours is not called there, nor here."""
    policy: Any = ActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-3, net_arch=[])
    policy.mlp_extractor.policy_net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh())
    policy.action_net = nn.Linear(4, 2)
    policy.mlp_extractor.shared_net, policy.mlp_extractor.actor_inputs = nn.Sequential(nn.Tanh()), 1
    policy.optimizer = th.optim.Adam(policy.parameters())
    inputs = PolicyInputs(th.randn(6, 3))
    for engine in (NumpyEngine(policy), FusedEngine(policy)):
        th.testing.assert_close(engine.value(inputs), policy.predict_values(inputs.observations))
    assert make_engine("auto", policy)[0].name == "fused" and base_of(type(policy)) is ActorCriticPolicy
