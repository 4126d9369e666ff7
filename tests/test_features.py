"""Observations of several parts, and of classes: the features that engines and kernels make of them are SB3's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch import nn

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import AutogradEngine, FusedEngine, PolicyInputs, UpdateSettings, as_array, make_engine
from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from sb3_ppo_edu.engines.features import features_of
from sb3_ppo_edu.engines.fused.minibatches import as_columns
from sb3_ppo_edu.engines.fused.observations import StoredParts, kernel_parts
from sb3_ppo_edu.policies.bounded import BetaMultiInputPolicy, BetaPolicy, TanhGaussianMultiInputPolicy, TanhGaussianPolicy
from tests.environments import RandomWalk
from tests.recorded_kernels import record_features, record_gradients
from tests.test_fused import DEFAULTS, HEADS, gradients_of, update_settings

OF_PARTS: dict[Any, Any] = {
    ActorCriticPolicy: MultiInputActorCriticPolicy,
    TanhGaussianPolicy: TanhGaussianMultiInputPolicy,
    BetaPolicy: BetaMultiInputPolicy,
}
# The last two are types that the kernels do not read: Python casts them.
TYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64", "float16", "uint16")
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
boxes = st.builds(
    lambda shape, dtype: spaces.Box(0, 100 if dtype == "int8" else 200, shape, np.dtype(dtype).type),
    shapes,
    st.sampled_from(TYPES),
)
classes = st.builds(spaces.Discrete, st.integers(1, 9)) | st.builds(
    spaces.MultiDiscrete, st.lists(st.integers(1, 5), min_size=1, max_size=4)
)
parts = boxes | classes | st.builds(spaces.MultiBinary, st.integers(1, 5) | shapes)
observation_spaces: Any = (
    st.dictionaries(st.sampled_from(["velocity", "place", "a", "Z", "goal_1"]), parts, min_size=1, max_size=5).map(
        lambda found: spaces.Dict(dict(found))
    )
    | parts
)


def make_policy(space: spaces.Space, head: str = "gaussian", seed: int = 0, double: bool = False, **kwargs: Any) -> Any:
    """A policy of these observations, in float64 with SB3's features."""
    kind, action_space = HEADS[head]
    th.manual_seed(seed)
    plain, options = (kind.func, kind.keywords) if isinstance(kind, partial) else (kind, {})  # gSDE's have options
    policy: Any = partial(OF_PARTS[plain] if isinstance(space, spaces.Dict) else plain, **options)
    policy = policy(space, action_space, lambda _: 1e-3, **{"net_arch": [6, 5], **kwargs})
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
        for tower in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
            tower[0].weight.mul_(0.02)  # observations go up to 200, where tanh has no digits left
    if double:
        policy.double()
        policy.extract_features = lambda obs, _=None: in_float64(ActorCriticPolicy.extract_features(policy, obs))
    return policy


def in_float64(features: Any) -> Any:
    """One matrix, or the actor's and the critic's."""
    return tuple(part.double() for part in features) if isinstance(features, tuple) else features.double()


def sample(space: spaces.Space, column: np.ndarray) -> None:
    """Fill a column of a rollout buffer with samples of a space, of no more digits than float32 has."""
    for row in np.ndindex(column.shape[:2]):
        drawn: Any = space.sample()
        column[row] = drawn.astype(np.float32) if column.dtype == np.float64 else drawn


def make_rollout(policy: Any, n_steps: int = 5, n_envs: int = 3, seed: int = 0) -> Any:
    """SB3's own buffer, full, with ratios and values on both sides of every clip."""
    space, action_space = policy.observation_space, policy.action_space
    kind = DictRolloutBuffer if isinstance(space, spaces.Dict) else RolloutBuffer
    buffer: Any = kind(n_steps, space, action_space, "cpu", n_envs=n_envs)
    space.seed(seed)
    action_space.seed(seed)
    for key, part in buffer.observations.items() if isinstance(space, spaces.Dict) else [(None, buffer.observations)]:
        sample(space[key] if key else space, part)
    generator = np.random.default_rng(seed)
    for step in range(n_steps):
        drawn = np.array([action_space.sample() for _ in range(n_envs)])
        buffer.actions[step] = drawn.reshape(n_envs, -1)
        with th.no_grad():
            actions = th.as_tensor(drawn if isinstance(action_space, spaces.Discrete) else drawn.astype(np.float32))
            values, log_probs, _ = policy.evaluate_actions(row_of(buffer, step), actions)
        buffer.values[step] = values.flatten().numpy() + generator.normal(size=n_envs) * 0.5
        buffer.log_probs[step] = log_probs.numpy() + generator.normal(size=n_envs) * 0.3
    buffer.advantages[:] = generator.normal(size=(n_steps, n_envs))
    buffer.returns[:] = buffer.values + generator.normal(size=(n_steps, n_envs))
    buffer.pos, buffer.full = n_steps, True
    return buffer


def row_of(buffer: Any, step: int) -> Any:
    """The observations of one step, as an environment gives them: of classes without an axis of their own."""

    def as_given(column: np.ndarray, space: spaces.Space) -> th.Tensor:
        return th.as_tensor(column[step].reshape(-1) if isinstance(space, spaces.Discrete) else column[step])

    space = buffer.observation_space
    if isinstance(space, spaces.Dict):
        return {key: as_given(part, space[key]) for key, part in buffer.observations.items()}
    return as_given(buffer.observations, space)


def minibatches_of(engine: Any, buffer: RolloutBuffer, batch_size: int = 10) -> list[Any]:
    """One epoch, in the same order each time."""
    np.random.seed(3)
    return list(engine.minibatches(buffer, batch_size))


# -- features ------------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(space=observation_spaces, n_envs=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_features_are_sb3s(space: spaces.Space, n_envs: int, seed: int) -> None:
    """To the bit: those of Python for what an environment gives, and those of the kernels for what a rollout buffer stores."""
    policy = make_policy(space)
    buffer, engine = make_rollout(policy, 4, n_envs, seed), FusedEngine(policy)
    known = kernel_parts(policy)
    assert known is not None
    stored = StoredParts(known, buffer.observations, 4 * n_envs)
    for step in range(4):
        expected = ActorCriticPolicy.extract_features(policy, row_of(buffer, step))
        assert isinstance(expected, th.Tensor)
        assert th.equal(features_of(policy, row_of(buffer, step)), expected)
        found = np.full((n_envs, policy.features_dim), np.nan, np.float32)
        engine._kernels.features(stored.address, step * n_envs, n_envs, found.ctypes.data, policy.features_dim)
        record_features(engine, stored, step * n_envs, found)
        np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("shared", [True, False])
def test_features_lie_in_the_order_of_the_extractors_parts(shared: bool) -> None:
    """That of its modules, whatever the order of the keys in an observation; worked out by hand."""
    space = spaces.Dict({"b": spaces.Box(0, 9, (2, 2)), "a": spaces.Discrete(3), "c": spaces.MultiDiscrete([2, 3])})
    policy = make_policy(space, share_features_extractor=shared)
    order = list(policy.features_extractor.extractors)
    by_hand = {"a": [0, 0, 1], "b": [1, 2, 3, 4], "c": [0, 1, 1, 0, 0]}
    given = {
        "c": th.tensor([[1, 0]]),
        "b": th.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        "a": th.tensor([2]),
    }
    assert features_of(policy, given).tolist() == [[number for key in order for number in by_hand[key]]]
    engines: list[Any] = [FusedEngine(policy), NumpyEngine(policy), AutogradEngine(policy)]
    values = [engine.value(PolicyInputs(given)).item() for engine in engines]
    assert values == pytest.approx([values[-1]] * 3, rel=1e-5)


# -- gradients and updates -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    space=observation_spaces,
    head=st.sampled_from(sorted(HEADS)),
    n_envs=st.integers(1, 4),
    shared=st.booleans(),
    seed=st.integers(0, 10**6),
    update=update_settings,
)
def test_gradients_are_autograds(
    space: spaces.Space, head: str, n_envs: int, shared: bool, seed: int, update: UpdateSettings
) -> None:
    """In float64 every gradient of a minibatch of the rollout buffer agrees with autograd's to 1e-10, with both engines."""
    policy = make_policy(space, head, seed, double=True, share_features_extractor=shared)
    buffer = make_rollout(policy, 5, n_envs, seed)
    reference = AutogradEngine(policy)
    engines: list[Any] = [FusedEngine(policy), NumpyEngine(policy)]
    reference_epoch = [
        TensorMinibatch(
            one.samples._replace(**{name: getattr(one.samples, name).double() for name in one.samples._fields[1:]})
        )
        for one in minibatches_of(reference, buffer)
    ]
    for engine in engines:
        for minibatch, theirs in zip(minibatches_of(engine, buffer), reference_epoch, strict=True):
            expected_ratios = as_array(reference.gradients(theirs, update).ratios)
            expected = gradients_of(policy)
            ratios = as_array(engine.gradients(theirs if isinstance(engine, NumpyEngine) else minibatch, update).ratios)
            np.testing.assert_allclose(ratios, expected_ratios, rtol=1e-10)
            for name, gradient in gradients_of(policy).items():
                scale = max(expected[name].abs().max().item(), 1e-6)
                assert (gradient - expected[name]).abs().max().item() <= 1e-10 * scale, name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(space=observation_spaces, head=st.sampled_from(sorted(HEADS)), seed=st.integers(0, 10**6), update=update_settings)
def test_float32_agrees_with_the_derivation(space: spaces.Space, head: str, seed: int, update: UpdateSettings) -> None:
    """Each gradient tensor is the numpy engine's to 1e-5 of the largest gradient, from the rollout buffer's own columns."""
    policy = make_policy(space, head, seed)
    buffer = make_rollout(policy, 4, 3, seed)
    fused, derived = FusedEngine(policy), NumpyEngine(policy)
    for minibatch, theirs in zip(minibatches_of(fused, buffer), minibatches_of(derived, buffer), strict=True):
        derived.gradients(theirs, update)
        expected = gradients_of(policy)
        statistics = fused.gradients(minibatch, update)
        record_gradients(fused, minibatch, update, statistics.ratios)
        scale = max(*(gradient.abs().max().item() for gradient in expected.values()), 1e-3)
        tolerance = 1e-5 * max(1.0, theirs.samples.old_log_prob.abs().max().item() / 10)
        for name, gradient in gradients_of(policy).items():
            assert (gradient - expected[name]).abs().max().item() <= tolerance * scale, name


class InParts(gym.ObservationWrapper[Any, Any, Any]):
    """Gives the first numbers of an observation and the others as two parts, and a class and two bits beside."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        self.observation_space = spaces.Dict(
            {
                "velocity": spaces.Box(space.low[2:], space.high[2:]),
                "place": spaces.Box(space.low[:2], space.high[:2], dtype=np.float32),
                "sign": spaces.Discrete(2),
                "bits": spaces.MultiBinary(2),
            }
        )

    def observation(self, observation: Any) -> Any:
        """Cut it."""
        bits = (observation[:2] > 0).astype(np.int8)
        return {"place": observation[:2], "velocity": observation[2:], "sign": int(observation[0] > 0), "bits": bits}


def in_parts(name: str) -> gym.Env[Any, Any]:
    """Make such an environment."""
    return InParts(gym.make(name))


ENVS: dict[str, Callable[[], gym.Env[Any, Any]]] = {
    **{name: partial(in_parts, name) for name in ("CartPole-v1", "LunarLander-v3", "Pendulum-v1")},
    "random": lambda: RandomWalk("dict", "multidiscrete"),
    "classes": lambda: RandomWalk("discrete", "box"),
}


@pytest.mark.parametrize("engine", ["fused", "numpy"])
@pytest.mark.parametrize("name", ENVS)
def test_actions_and_updates_are_sb3s(name: str, engine: Any) -> None:
    """The first rollout's actions are SB3's own, and after the update parameters agree within 1e-5 relative."""
    policy = "MultiInputPolicy" if isinstance(ENVS[name]().observation_space, spaces.Dict) else "MlpPolicy"
    arguments: dict[str, Any] = {"n_steps": 96, "batch_size": 32, "n_epochs": 4, "seed": 1, "device": "cpu"}
    theirs = PPO(policy, make_vec_env(ENVS[name], 2, seed=1), **arguments).learn(192)
    ours = EduPPO(policy, make_vec_env(ENVS[name], 2, seed=1), engine=engine, **arguments).learn(192)
    np.testing.assert_allclose(ours.rollout_buffer.actions, theirs.rollout_buffer.actions, rtol=1e-5, atol=1e-6)
    for key, value in theirs.policy.state_dict().items():
        assert (ours.policy.state_dict()[key] - value).norm() / value.norm().clamp(min=1e-3) < 1e-5, key


def test_a_minibatch_of_ones_own_buffer_is_taken_too() -> None:
    """Where a buffer's own ``get`` is to be called, minibatches are those that it gives."""

    class Own(DictRolloutBuffer):
        """Somebody's."""

    arguments: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 1, "device": "cpu", "engine": "fused"}
    models = [
        EduPPO("MultiInputPolicy", RandomWalk("dict"), rollout_buffer_class=kind, **arguments).learn(64)
        for kind in (Own, DictRolloutBuffer)
    ]
    for one, other in zip(*(model.policy.parameters() for model in models), strict=True):
        th.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# -- what is refused -----------------------------------------------------------------------------------------------------


class Halved(CombinedExtractor):
    """SB3's but for the scale."""

    def forward(self, observations: Any) -> th.Tensor:
        """Features."""
        return 0.5 * super().forward(observations)


def replaced(model: Any) -> None:
    """Another features extractor."""
    policy = model.policy
    policy.features_extractor = policy.pi_features_extractor = policy.vf_features_extractor = Halved(model.observation_space)


def part_replaced(model: Any) -> None:
    """Another module for a part."""
    model.policy.features_extractor.extractors["vector"] = nn.Sequential(nn.Flatten(), nn.Tanh())


def part_hooked(model: Any) -> None:
    """A hook on a part's module."""
    model.policy.features_extractor.extractors["vector"].register_forward_hook(lambda module, inputs, output: 0.5 * output)


def parts_turned(model: Any) -> None:
    """The critic's features in another order."""
    model.policy.share_features_extractor = False
    critics = CombinedExtractor(model.observation_space)
    critics.extractors = nn.ModuleDict(dict(reversed(list(critics.extractors.items()))))
    model.policy.vf_features_extractor = critics


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "extractor": (replaced, "the features extractor is Halved"),
    "part": (part_replaced, "the features extractor has a Sequential for 'vector'"),
    "hook": (part_hooked, "policy.features_extractor.extractors.vector has hooks"),
    "order": (parts_turned, "the features extractors are not made of the same parts"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_done_to_an_extractor_is_noticed(change: str) -> None:
    """Between two rollouts; the default engine says why, and goes on with SB3's numbers."""
    apply, reason = CHANGES[change]
    arguments: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 1, "device": "cpu"}
    models: list[Any] = []
    for kind in (EduPPO, PPO):
        models.append(kind("MultiInputPolicy", RandomWalk("dict"), **arguments).learn(32))
        apply(models[-1])
        models[-1].learn(32, reset_num_timesteps=False)
    assert models[0].engine_reason == f"autograd: {reason}."
    for ours, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [MultiInputActorCriticPolicy, TanhGaussianMultiInputPolicy, BetaMultiInputPolicy])
def test_a_method_that_is_put_on_a_policys_class_is_noticed(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a class that had it from another one so far."""
    model = EduPPO(policy, RandomWalk("dict"), n_steps=32, batch_size=32, device="cpu")
    model.learn(32)
    assert model.engine_reason.startswith("fused")
    monkeypatch.setattr(policy, "evaluate_actions", lambda self, *given: ActorCriticPolicy.evaluate_actions(self, *given))
    model.learn(32)
    assert model.engine_reason == f"autograd: {policy.__name__}.evaluate_actions has been replaced."


def test_a_method_that_is_put_on_sb3s_extractor_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its class, between two rollouts."""
    model = EduPPO("MultiInputPolicy", RandomWalk("dict"), n_steps=32, batch_size=32, device="cpu").learn(32)
    forward = CombinedExtractor.forward
    monkeypatch.setattr(CombinedExtractor, "forward", lambda self, observations: 0.5 * forward(self, observations))
    model.learn(32)
    assert model.engine_reason == "autograd: CombinedExtractor.forward has been replaced."


def test_images_have_autograd() -> None:
    """A part that SB3 gives a convolutional network is no part of the features that engines make; the reason says so."""
    space = spaces.Dict({"camera": spaces.Box(0, 255, (1, 36, 36), np.uint8), "speed": spaces.Box(-1, 1, (1,))})
    policy = make_policy(space)
    assert type(policy.features_extractor.extractors["camera"]) is NatureCNN
    engine, reason = make_engine("auto", policy)
    assert engine.name == "autograd"
    assert reason == "autograd: the features extractor has a NatureCNN for 'camera'."


def test_a_column_of_another_size_is_refused() -> None:
    """No kernel reads beyond an array: the error names the part, what was found and what was expected."""
    policy = make_policy(spaces.Dict({"a": spaces.Box(0, 1, (3,)), "b": spaces.Discrete(2)}))
    buffer = make_rollout(policy, 4, 2)
    known = kernel_parts(policy)
    assert known is not None
    buffer.observations["a"] = buffer.observations["a"][:, :, :2]
    with pytest.raises(ValueError, match=r"observations\['a'\]: found shape \(4, 2, 2\), expected 8 rows of 3"):
        StoredParts(known, buffer.observations, 8)
    engine = FusedEngine(policy)
    with pytest.raises(ValueError, match=r"observations\['a'\]: found shape"):
        next(engine.minibatches(buffer, 8))
    with pytest.raises(ValueError, match="rollout: found columns of"):
        as_columns(StoredParts([], {}, 8), np.zeros((8, 2)), *[np.zeros(8)] * 4, features_dim=5, action_size=1, dtype="f4")


def test_columns_of_another_layout_are_read_right() -> None:
    """A column that is not contiguous, or of a type that the kernels do not know, is copied; no environment writes there."""
    policy = make_policy(spaces.Dict({"a": spaces.Box(0, 9, (3,)), "b": spaces.Discrete(4)}))
    buffer = make_rollout(policy, 4, 2)
    engine, known = FusedEngine(policy), kernel_parts(policy)
    assert known is not None
    arrays = {key: part.reshape(8, -1) for key, part in buffer.observations.items()}
    strange = {"a": np.asfortranarray(arrays["a"]), "b": arrays["b"].astype(">i8")}
    found = []
    for columns in (arrays, strange):
        stored = StoredParts(known, columns, 8)
        assert stored.may_be_written is (columns is arrays)
        found.append(np.empty((8, 7), np.float32))
        engine._kernels.features(stored.address, 0, 8, found[-1].ctypes.data, 7)
    np.testing.assert_array_equal(found[0], found[1])


class WrongClass(RandomWalk):
    """Gives a class that its space does not have, at its fifth step."""

    def step(self, action: Any) -> Any:
        """Step."""
        observation, *rest = super().step(action)
        if self.steps == 5:
            observation["choice"] = self.wrong
        return observation, *rest

    wrong = 4


@pytest.mark.parametrize("wrong", [4, -1, 2**40])
@pytest.mark.parametrize("algorithm", [EduPPO, PPO])
def test_a_class_that_there_is_not_stops_training_as_in_sb3(algorithm: Any, wrong: int) -> None:
    """The error is torch's own, and the environment receives no further action."""
    env = WrongClass("dict", end_probability=0.0)
    env.wrong = wrong
    with pytest.raises(RuntimeError, match="Class values must be"):
        algorithm("MultiInputPolicy", env, n_steps=32, batch_size=32, device="cpu").learn(32)
    assert env.steps == 5


def test_a_wrong_class_in_a_rollout_stops_the_update() -> None:
    """Whoever writes one into the buffer gets no gradient of it: nothing is read or written outside of a choice."""
    policy = make_policy(spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiDiscrete([2, 2])}))
    engine = FusedEngine(policy)
    for key, wrong in (("a", 3), ("a", -5), ("b", 2), ("b", 2**60)):
        buffer = make_rollout(policy, 4, 2)
        buffer.observations[key][2, 1, -1] = wrong
        stored, found = StoredParts(kernel_parts(policy) or [], buffer.observations, 8), np.zeros((1, 7), np.float32)
        engine._kernels.features(stored.address, 5, 1, found.ctypes.data, 7)
        assert np.isnan(found).any()
        record_features(engine, stored, 5, found)
        with pytest.raises(ValueError, match="nan"):
            engine.gradients(minibatches_of(engine, buffer, 8)[0], DEFAULTS)
