"""The fused engine computes what the autograd engine computes: gradients, steps, samples, state."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import (
    AutogradEngine,
    FusedEngine,
    NonFiniteUpdateError,
    PolicyInputs,
    UnsupportedPolicyError,
    UpdateSettings,
    as_array,
    make_engine,
)
from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.fused.minibatches import FusedMinibatch
from sb3_ppo_edu.policies.bounded import BetaPolicy, TanhGaussianPolicy
from tests.environments import RandomWalk

ACTIVATIONS: dict[str, type[th.nn.Module]] = {
    "tanh": th.nn.Tanh,
    "relu": th.nn.ReLU,
    "elu": th.nn.ELU,
    "leaky_relu": th.nn.LeakyReLU,
    "gelu": th.nn.GELU,
    "silu": th.nn.SiLU,
}
GSDE: dict[str, Any] = {"use_sde": True, "log_std_init": -2.5}
HEADS: dict[str, tuple[Callable[..., ActorCriticPolicy], spaces.Space]] = {
    "categorical": (ActorCriticPolicy, spaces.Discrete(4)),
    "multicategorical": (ActorCriticPolicy, spaces.MultiDiscrete([2, 4, 3])),
    "bernoulli": (ActorCriticPolicy, spaces.MultiBinary(3)),
    "gaussian": (ActorCriticPolicy, spaces.Box(-1.0, 1.0, (2,), np.float32)),
    "tanh_gaussian": (TanhGaussianPolicy, spaces.Box(-2.0, 1.0, (3,), np.float32)),
    "beta": (BetaPolicy, spaces.Box(-2.0, 1.0, (2,), np.float32)),
    "gsde": (partial(ActorCriticPolicy, **GSDE), spaces.Box(-1.0, 1.0, (3,), np.float32)),
    "gsde_squashed": (partial(ActorCriticPolicy, squash_output=True, **GSDE), spaces.Box(-2.0, 1.0, (2,), np.float32)),
}
DEFAULTS = UpdateSettings(
    clip_range=0.2,
    clip_range_vf=None,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
    normalize_advantage=True,
    advantage_moments=None,
    clip_advantage=None,
    dual_clip=None,
    vf_clip_mode="sb3",
    kl_estimator="k3",
    log_std_bounds=None,
)
widths = st.lists(st.integers(1, 9), max_size=3)
update_settings = st.builds(
    UpdateSettings,
    clip_range=st.sampled_from([0.0, -0.01]) | st.floats(0.05, 0.5),
    clip_range_vf=st.none() | st.sampled_from([0.0, -0.01]) | st.floats(0.05, 1.0),
    ent_coef=st.sampled_from([0.0, 0.01, 1.0, -0.5]),
    vf_coef=st.sampled_from([0.0, 0.5, 2.0]),
    max_grad_norm=st.just(0.5),
    normalize_advantage=st.booleans(),
    advantage_moments=st.none() | st.tuples(st.floats(-1, 1), st.floats(0.5, 2)),
    clip_advantage=st.none() | st.floats(0.1, 2),
    dual_clip=st.none() | st.floats(1.05, 3.0),
    vf_clip_mode=st.sampled_from(["sb3", "max"]),
    kl_estimator=st.sampled_from(["k3", "k1"]),
    log_std_bounds=st.none(),
)


def make_policy(head: str = "gaussian", features: int = 5, seed: int = 0, double: bool = False, **kwargs: Any) -> Any:
    """A policy of the head, with parameters large enough for all nonlinearities to matter."""
    policy_class, action_space = HEADS[head]
    th.manual_seed(seed)
    policy: Any = policy_class(spaces.Box(-10, 10, (features,), np.float32), action_space, lambda _: 1e-3, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    if double:
        policy.double()
        # SB3 casts observations to float32 on their way into the network.
        policy.extract_features = lambda obs, extractor=None: obs.double().flatten(1)
    if policy.use_sde:
        policy.reset_noise(5)
    return policy


def make_minibatch(policy: Any, batch: int, seed: int, constant_advantage: bool = False) -> RolloutBufferSamples:
    """Transitions whose ratios and values lie on both sides of every clip."""
    generator = np.random.default_rng(seed)
    tensor = lambda array: th.as_tensor(array, dtype=next(policy.parameters()).dtype)  # noqa: E731
    observations = tensor(generator.normal(size=(batch, policy.observation_space.shape[0])))
    space = policy.action_space
    space.seed(seed)
    if policy.use_sde:  # others would have log-probabilities of millions, which cost digits
        actions = policy(observations)[0].detach()
    elif isinstance(space, spaces.Box):
        actions = tensor(generator.normal(size=(batch, *space.shape)) * 1.5)
    else:
        actions = tensor(np.array([space.sample() for _ in range(batch)]).reshape(batch, -1))
    with th.no_grad():
        index = actions.long().flatten() if isinstance(space, spaces.Discrete) else actions
        values, log_prob, _ = policy.evaluate_actions(observations, index)
    advantages = np.full(batch, 0.5) if constant_advantage else generator.normal(size=batch)
    return RolloutBufferSamples(
        observations,
        actions,
        values.flatten() + tensor(generator.normal(size=batch)) * 0.5,
        log_prob + tensor(generator.normal(size=batch)) * 0.3,
        tensor(advantages),
        values.flatten() + tensor(generator.normal(size=batch)),
    )


def as_arrays(engine: FusedEngine, samples: RolloutBufferSamples) -> FusedMinibatch:
    """The same transitions for the fused engine."""
    return engine.minibatch_of(*samples[:6])


def gradients_of(policy: Any) -> dict[str, th.Tensor]:
    """A copy of all gradients."""
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    head=st.sampled_from(sorted(HEADS)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    actor=widths,
    critic=widths,
    same=st.booleans(),
    features=st.integers(1, 6),
    batch=st.integers(1, 17),
    constant_advantage=st.booleans(),
    seed=st.integers(0, 10**6),
    update=update_settings,
)
def test_gradients_are_autograds(
    head: str,
    activation: str,
    actor: list[int],
    critic: list[int],
    same: bool,
    features: int,
    batch: int,
    constant_advantage: bool,
    seed: int,
    update: UpdateSettings,
) -> None:
    """In float64 every gradient tensor and every statistic agrees with autograd's to 1e-10 relative."""
    net_arch = {"pi": actor, "vf": actor if same else critic}
    policy = make_policy(head, features, seed, double=True, net_arch=net_arch, activation_fn=ACTIVATIONS[activation])
    samples = make_minibatch(policy, batch, seed, constant_advantage)

    expected_statistics = AutogradEngine(policy).gradients(TensorMinibatch(samples), update)
    expected = gradients_of(policy)
    fused = FusedEngine(policy)
    statistics = fused.gradients(as_arrays(fused, samples), update)

    for name, gradient in gradients_of(policy).items():
        scale = max(expected[name].abs().max().item(), 1e-6)
        assert (gradient - expected[name]).abs().max().item() <= 1e-10 * scale, name
    np.testing.assert_allclose(as_array(statistics.ratios), as_array(expected_statistics.ratios), rtol=1e-10)
    for name, value in zip(expected_statistics._fields[:-1], expected_statistics, strict=False):
        tolerance = 1e-6 if name in ("approx_kl", "clip_fraction") else 1e-10  # those two are float32 in SB3
        assert getattr(statistics, name) == pytest.approx(float(value), rel=tolerance, abs=tolerance), name


def test_gelu_approximation() -> None:
    """GELU(approximate="tanh") has its own forward and backward."""
    policy = make_policy("gaussian", double=True, net_arch=[6, 5], activation_fn=th.nn.GELU)
    for network in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
        for module in network:
            if isinstance(module, th.nn.GELU):
                module.approximate = "tanh"
    samples = make_minibatch(policy, 8, 0)
    AutogradEngine(policy).gradients(TensorMinibatch(samples), DEFAULTS)
    expected = gradients_of(policy)
    fused = FusedEngine(policy)
    fused.gradients(as_arrays(fused, samples), DEFAULTS)
    for name, gradient in gradients_of(policy).items():
        th.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-14)


OPTIMIZERS: dict[str, tuple[type[th.optim.Optimizer], dict[str, Any]]] = {
    "adam": (th.optim.Adam, {"eps": 1e-5}),
    "adam-options": (th.optim.Adam, {"betas": (0.7, 0.9), "weight_decay": 0.1, "amsgrad": True}),
    "adam-maximize": (th.optim.Adam, {"maximize": True, "weight_decay": 0.1}),
    "adamw": (th.optim.AdamW, {"weight_decay": 0.1}),
    "adamw-amsgrad": (th.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    "sgd": (th.optim.SGD, {}),
    "sgd-decay": (th.optim.SGD, {"weight_decay": 0.1}),
    "sgd-momentum": (th.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd-nesterov": (th.optim.SGD, {"momentum": 0.9, "nesterov": True, "maximize": True}),
    "rmsprop": (th.optim.RMSprop, {}),
    "rmsprop-options": (th.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    "rmsprop-momentum": (th.optim.RMSprop, {"momentum": 0.5, "maximize": True}),
    "rmsprop-tf": (RMSpropTFLike, {"eps": 1e-5}),
    "rmsprop-tf-options": (RMSpropTFLike, {"momentum": 0.5, "centered": True, "weight_decay": 0.1}),
}


def optimizer_policies(name: str) -> tuple[Any, Any]:
    """Two equal policies with the optimizer, in float64."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    make = lambda: make_policy(  # noqa: E731
        "gaussian", double=True, net_arch=[7, 4], optimizer_class=optimizer_class, optimizer_kwargs=dict(kwargs)
    )
    return make(), make()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs(name: str) -> None:
    """Four updates of three steps with changing learning rate leave torch's parameters and optimizer state, keys included."""
    reference, policy = optimizer_policies(name)
    torch_engine, fused = AutogradEngine(reference), FusedEngine(policy)
    for step in range(12):
        if step % 3 == 0:
            for one in (reference, policy):
                one.optimizer.param_groups[0]["lr"] = 1e-3 * (step + 1)
            torch_engine.attach()
            fused.attach()
        samples = make_minibatch(reference, 9, step)
        torch_engine.gradients(TensorMinibatch(samples), DEFAULTS)
        fused.gradients(as_arrays(fused, samples), DEFAULTS)
        assert fused.apply(DEFAULTS) == pytest.approx(torch_engine.apply(DEFAULTS), rel=1e-10)
        if step % 3 == 2:  # an update of three steps
            fused.detach()
            compare_states(policy, reference, rtol=1e-10)
    compare_states(policy, reference, rtol=1e-10)


def compare_states(ours: Any, theirs: Any, rtol: float, atol: float = 1e-9) -> None:
    """Parameters and optimizer states agree, and have the same keys and types."""
    for name, value in theirs.state_dict().items():
        th.testing.assert_close(ours.state_dict()[name], value, rtol=rtol, atol=atol)
    our_state, their_state = ours.optimizer.state_dict()["state"], theirs.optimizer.state_dict()["state"]
    assert our_state.keys() == their_state.keys()
    for index, state in their_state.items():
        assert our_state[index].keys() == state.keys()
        for key, value in state.items():
            if isinstance(value, th.Tensor):
                th.testing.assert_close(our_state[index][key], value, rtol=rtol, atol=atol)
            else:
                assert our_state[index][key] == value


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_engines_may_alternate(name: str) -> None:
    """Changing the engine at every update, or reloading the optimizer between, is the same as not changing it."""
    reference, policy = optimizer_policies(name)
    torch_engine = AutogradEngine(reference)
    for step in range(8):
        samples = make_minibatch(reference, 9, step)
        torch_engine.gradients(TensorMinibatch(samples), DEFAULTS)
        torch_engine.apply(DEFAULTS)
        if step % 4 == 3:
            policy.optimizer.load_state_dict(copy.deepcopy(policy.optimizer.state_dict()))
        if step % 2:
            other = AutogradEngine(policy)
            other.gradients(TensorMinibatch(samples), DEFAULTS)
            other.apply(DEFAULTS)
        else:
            fused = FusedEngine(policy)
            fused.gradients(as_arrays(fused, samples), DEFAULTS)
            fused.apply(DEFAULTS)
            fused.detach()
    compare_states(policy, reference, rtol=1e-10)


@pytest.mark.parametrize("n_envs", [1, 5, 40])
@pytest.mark.parametrize("head", HEADS)
def test_acts_as_the_policy(head: str, n_envs: int) -> None:
    """Actions, values and log-probabilities are the policy's own, and the random stream ends in the same place."""
    policy = make_policy(head, net_arch=[8, 8])
    engine = FusedEngine(policy)
    generator = np.random.default_rng(1)
    for step in range(20):
        observations = th.as_tensor(generator.normal(size=(n_envs, 5)), dtype=th.float32)
        results = []
        for actor in (AutogradEngine(policy), engine):
            th.manual_seed(step)
            actions, values, log_prob = actor.act(PolicyInputs(observations))
            results.append((actions, values, log_prob, th.rand(1)))
        for ours, theirs in zip(results[1], results[0], strict=True):
            assert ours.shape == theirs.shape
            th.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=2e-5, atol=2e-5)
        values = engine.value(PolicyInputs(observations))
        th.testing.assert_close(values, policy.predict_values(observations), rtol=1e-5, atol=1e-6)
        assert th.equal(results[0][3], results[1][3])


def make_model(engine: str, env: Any, seed: int = 1, **kwargs: Any) -> EduPPO:
    """A model with small rollouts."""
    arguments: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 3, "seed": seed, "device": "cpu", **kwargs}
    return EduPPO("MlpPolicy", env, engine=engine, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "LunarLander-v3", "Pendulum-v1"])
def test_actions_and_updates_are_sb3s(env_id: str) -> None:
    """The first rollout's actions are SB3's own, and after the update parameters agree within 1e-5 relative."""
    theirs = PPO("MlpPolicy", env_id, n_steps=256, seed=1, device="cpu").learn(256)
    ours = EduPPO("MlpPolicy", env_id, n_steps=256, seed=1, device="cpu", engine="fused").learn(256)
    np.testing.assert_allclose(ours.rollout_buffer.actions, theirs.rollout_buffer.actions, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.rollout_buffer.observations, theirs.rollout_buffer.observations, rtol=1e-5, atol=1e-5)
    for name, value in theirs.policy.state_dict().items():
        difference = (ours.policy.state_dict()[name] - value).norm() / value.norm().clamp(min=1e-3)
        assert difference < 1e-5, name


@pytest.mark.parametrize(
    ("observation", "action", "kwargs"),
    [
        ("box", "discrete", {}),
        ("box", "multidiscrete", {"ent_coef": 0.01}),
        ("box", "multibinary", {"clip_range_vf": 0.2, "vf_clip_mode": "max"}),
        ("discrete", "discrete", {"target_kl": 0.01, "kl_check": "epoch"}),
        ("box", "box", {"action_distribution": "tanh_gaussian", "ent_coef": 0.01, "log_std_bounds": (-1.0, -0.01)}),
        ("box", "box", {"action_distribution": "beta", "ent_coef": 0.01}),
        ("box", "box", {"dual_clip": 2.0, "advantage_normalization": "batch", "clip_advantage": 2.0, "batch_size": 20}),
        ("box", "box", {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [16, 4]}, "activation_fn": th.nn.ELU}}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_training_agrees_with_autograd(observation: str, action: str, kwargs: dict[str, Any]) -> None:
    """Three rollouts and updates with either engine give the same parameters and logs within rounding."""
    models = []
    for engine in ("autograd", "fused"):
        env = make_vec_env(lambda: RandomWalk(observation, action), n_envs=2, seed=3)
        env = VecNormalize(env, norm_obs=observation == "box")
        model = make_model(engine, env, **kwargs)
        model.learn(3 * 128)
        models.append(model)
    reference, fused = models
    assert isinstance(fused.attach_engine(), FusedEngine)
    for name, value in reference.policy.state_dict().items():
        th.testing.assert_close(fused.policy.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    ours, theirs = fused.logger.name_to_value, reference.logger.name_to_value
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if key.startswith("train/"):
            assert ours[key] == pytest.approx(value, rel=2e-3, abs=2e-4), key


def test_other_rollout_buffers() -> None:
    """A rollout buffer of one's own is asked for its minibatches instead of being read."""

    class CustomBuffer(RolloutBuffer):
        """Only a subclass."""

    models = [make_model("fused", "Pendulum-v1", rollout_buffer_class=kind).learn(128) for kind in (None, CustomBuffer)]
    for name, value in models[0].policy.state_dict().items():
        th.testing.assert_close(models[1].policy.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_switching_in_mid_run_and_across_files(tmp_path: Path) -> None:
    """Switching engines between rollouts, or saving with one and loading with the other, is as if nothing had happened."""
    reference = make_model("autograd", "Pendulum-v1")
    reference.learn(4 * 64)
    switched = make_model("fused", "Pendulum-v1")
    switched.learn(64)
    switched.engine = "autograd"
    switched.learn(64, reset_num_timesteps=False)
    switched.engine = "fused"
    switched.learn(2 * 64, reset_num_timesteps=False)
    for name, value in reference.policy.state_dict().items():
        th.testing.assert_close(switched.policy.state_dict()[name], value, rtol=1e-3, atol=1e-5)

    switched.save(tmp_path / "fused.zip")
    continued = []
    for engine in ("autograd", "fused"):
        loaded = EduPPO.load(tmp_path / "fused.zip", env=make_vec_env("Pendulum-v1", seed=4), device="cpu")
        assert isinstance(loaded, EduPPO)
        for name, value in switched.policy.state_dict().items():
            assert th.equal(loaded.policy.state_dict()[name], value)
        loaded.engine = engine
        loaded.set_random_seed(3)
        loaded.learn(2 * 64, reset_num_timesteps=False)
        continued.append(loaded)
    compare_states(continued[1].policy, continued[0].policy, rtol=1e-3, atol=1e-5)
    theirs = PPO.load(tmp_path / "fused.zip", device="cpu")
    assert th.equal(theirs.policy.value_net.weight, switched.policy.value_net.weight)


def test_continues_sb3s_zip(tmp_path: Path) -> None:
    """A model saved by SB3 goes on under the fused engine as it would have gone on in SB3, within rounding."""
    PPO("MlpPolicy", "Pendulum-v1", n_steps=64, batch_size=32, seed=1, device="cpu").learn(128).save(tmp_path / "sb3.zip")
    continued: list[Any] = []
    for algorithm in (PPO, EduPPO):
        model = algorithm.load(tmp_path / "sb3.zip", env=make_vec_env("Pendulum-v1", seed=4), device="cpu")
        model.set_random_seed(3)
        model.learn(128, reset_num_timesteps=False)
        continued.append(model)
    assert isinstance(continued[1].attach_engine(), FusedEngine)
    compare_states(continued[1].policy, continued[0].policy, rtol=1e-3, atol=1e-5)


def test_replaced_memory_is_taken_over() -> None:
    """Parameters whose memory someone replaced (``policy.to``, ``p.data = …``) are found before the next rollout."""
    model = make_model("fused", "Pendulum-v1")
    model.learn(64)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.data = parameter.data.clone() + 1.0
    expected = model.policy.predict_values(th.zeros(1, 3))
    engine = model.attach_engine()
    th.testing.assert_close(engine.value(PolicyInputs(th.zeros(1, 3))), expected)
    before = model.policy.value_net.weight.clone()
    model.learn(64)
    assert not th.equal(model.policy.value_net.weight, before)


@pytest.mark.parametrize(
    ("reason", "policy", "kwargs"),
    [
        ("TinyFeatures", "MlpPolicy", {"policy_kwargs": {"features_extractor_class": "TinyFeatures"}}),
        ("Adagrad", "MlpPolicy", {"policy_kwargs": {"optimizer_class": th.optim.Adagrad}}),
        ("Dropout|activation", "MlpPolicy", {"policy_kwargs": {"activation_fn": th.nn.Softplus}}),
        ("CustomPolicy", "custom", {}),
    ],
)
def test_unsupported_falls_back_with_the_reason(reason: str, policy: Any, kwargs: dict[str, Any]) -> None:
    """What the fused engine can't do goes to autograd under "auto", which says why; "fused" won't learn, in the same words."""
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class TinyFeatures(BaseFeaturesExtractor):
        """A features extractor that is not Flatten."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, 3)
            self.linear = th.nn.Linear(space.shape[0], 3)

        def forward(self, x: th.Tensor) -> th.Tensor:
            """Features."""
            out: th.Tensor = self.linear(x)
            return out

    class CustomPolicy(ActorCriticPolicy):
        """A policy class of one's own, which may do anything."""

    if "features_extractor_class" in kwargs.get("policy_kwargs", {}):
        kwargs = {"policy_kwargs": {"features_extractor_class": TinyFeatures}}
    policy = CustomPolicy if policy == "custom" else policy
    model = EduPPO(policy, "Pendulum-v1", n_steps=64, device="cpu", **kwargs)
    assert isinstance(model.attach_engine(), AutogradEngine)
    assert re.search(reason, model.engine_reason)
    model = EduPPO(policy, "Pendulum-v1", n_steps=64, device="cpu", engine="fused", **kwargs)
    with pytest.raises(UnsupportedPolicyError, match=reason):
        model.learn(64)
    assert re.search(reason, model.engine_reason)


def test_auto_chooses_fused_and_says_so() -> None:
    """Auto takes the fused engine for an MLP policy, autograd only on request."""
    policy = make_policy("gaussian")
    engine, reason = make_engine("auto", policy)
    assert isinstance(engine, FusedEngine)
    assert "fused" in reason
    engine, reason = make_engine("autograd", policy)
    assert isinstance(engine, AutogradEngine)
    assert "asked" in reason


@pytest.mark.parametrize("engine_class", [AutogradEngine, FusedEngine])
@pytest.mark.parametrize("where", ["advantages", "returns", "observations", "old_log_prob"])
def test_non_finite_numbers_stop_before_the_parameters(engine_class: Any, where: str) -> None:
    """NaN anywhere in a minibatch stops the update in which it arises, with all parameters as they were."""
    policy = make_policy("gaussian")
    engine = engine_class(policy)
    samples = make_minibatch(policy, 8, 0)
    getattr(samples, where)[3] = float("nan")
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NonFiniteUpdateError):
        engine.gradients(as_arrays(engine, samples) if engine_class is FusedEngine else TensorMinibatch(samples), DEFAULTS)
        engine.apply(DEFAULTS)
    engine.detach()
    for name, value in before.items():
        assert th.equal(policy.state_dict()[name], value)
