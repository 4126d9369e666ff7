"""The lean loop: the ordinary loop's bits, and the ordinary loop wherever somebody may see or do something at a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint
from sb3_ppo_edu.engines import NonFiniteUpdateError
from sb3_ppo_edu.rollouts import lean


class Task(gym.Env[Any, Any]):
    """Episodes that end by the task after seven steps, and by time after eleven, in turn."""

    def __init__(self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] | None = None) -> None:
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,))
        self.episode = self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Reward what depends on the action."""
        self.steps += 1
        terminated = self.episode % 2 == 0 and self.steps == 7
        return self._observe(), float(np.sum(action)), terminated, self.steps == 11, {}

    def _observe(self) -> Any:
        """Noise of this environment's own generator."""
        return self._sample(self.observation_space)

    def _sample(self, space: spaces.Space[Any]) -> Any:
        """Numbers between 0 and 1, one of four classes, bits; or some of them."""
        if isinstance(space, spaces.Dict):
            return {key: self._sample(part) for key, part in space.items()}
        if isinstance(space, spaces.Box):
            return self.np_random.random(space.shape).astype(space.dtype)
        return self.np_random.integers(2 if space.shape else 4, size=space.shape)


SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(2),
    "box": spaces.Box(-0.3, 0.5, (2,)),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "parts": spaces.Dict({"b": spaces.Box(-1, 1, (2, 2), np.float64), "a": spaces.Discrete(4), "c": spaces.Box(-1, 1, (3,))}),
    "classes": spaces.MultiDiscrete([2, 4]),
    "bits": spaces.Dict({"a": spaces.MultiBinary(2)}),
}


@pytest.fixture
def lean_rollouts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for each rollout that the lean loop collects."""
    found: list[int] = []
    original = lean.collect_lean

    def counting(model: Any, *arguments: Any) -> bool:
        found.append(model.num_timesteps)
        return original(model, *arguments)

    monkeypatch.setattr("sb3_ppo_edu.algorithms.ppo.collect_lean", counting)
    return found


class Reader(BaseCallback):
    """Reads the local variables of each step, and changes nothing."""

    changes_policy = False

    def _on_step(self) -> bool:
        """Look at them."""
        return self.locals["new_obs"] is not None


def make(
    env: gym.Env[Any, Any] | None = None, space: str = "discrete", n_envs: int = 1, observations: str = "", **arguments: Any
) -> EduPPO:
    """A small model of the fast engine."""
    task = lambda: gym.wrappers.RecordEpisodeStatistics(Task(SPACES[space], OBSERVATIONS.get(observations)))  # noqa: E731
    given = env or DummyVecEnv([task] * n_envs)
    policy = "MultiInputPolicy" if isinstance(given.observation_space, spaces.Dict) else "MlpPolicy"
    return EduPPO(policy, given, **{"n_steps": 32, "seed": 5, "device": "cpu", "engine": "fused", **arguments})


CASES: dict[str, dict[str, Any]] = {
    "discrete": {"space": "discrete"},
    "several environments": {"space": "discrete", "n_envs": 3},
    "many environments": {"space": "discrete", "n_envs": 9},
    "multidiscrete": {"space": "multidiscrete", "n_envs": 2},
    "box": {"space": "box", "n_envs": 2},
    "tanh": {"space": "box", "action_distribution": "tanh_gaussian"},
    "gSDE": {"space": "box", "n_envs": 3, "use_sde": True},
    "gSDE, drawn anew": {"space": "box", "n_envs": 2, "use_sde": True, "sde_sample_freq": 5},
    "gSDE, squashed": {"space": "box", "use_sde": True, "sde_sample_freq": 4, "policy_kwargs": {"squash_output": True}},
    "recomputed advantages": {"space": "box", "recompute_advantages": True},
    "observations of parts": {"observations": "parts", "n_envs": 2},
    "parts of many environments": {"observations": "parts", "n_envs": 9, "recompute_advantages": True},
    "observations of classes": {"observations": "classes", "space": "box"},
}


@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_ordinary_loop(case: str, lean_rollouts: list[int]) -> None:
    """Parameters, the rollout, episode statistics and random streams: nothing tells the two loops apart."""
    found = []
    for callback in (None, Reader()):
        model = make(batch_size=16, **CASES[case])
        model.learn(96 * model.n_envs, callback=callback)
        buffer = {name: value for name, value in vars(model.rollout_buffer).items() if isinstance(value, np.ndarray)}
        if isinstance(model.rollout_buffer.observations, dict):
            buffer |= model.rollout_buffer.observations
        found.append((model, buffer, th.get_rng_state()))
    assert len(lean_rollouts) == 3
    (lean, rows, stream), (ordinary, other_rows, other_stream) = found
    for one, other in zip(lean.policy.parameters(), ordinary.policy.parameters(), strict=True):
        assert th.equal(one, other)
    for name, column in rows.items():
        np.testing.assert_array_equal(column, other_rows[name], err_msg=name)
    assert th.equal(stream, other_stream)
    assert lean.num_timesteps == ordinary.num_timesteps
    assert [info["r"] for info in lean.ep_info_buffer or ()] == [info["r"] for info in ordinary.ep_info_buffer or ()]
    np.testing.assert_equal(lean._last_obs, ordinary._last_obs)


class OwnBuffer(RolloutBuffer):
    """A buffer of somebody's."""


class OwnAct(EduPPO):
    """A subclass with a method of its own."""

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Do as before."""
        return super().within_bounds(actions)


def patch_act(model: EduPPO) -> None:
    """Replace a method of the instance."""
    vars(model)["act"] = model.act


ORDINARY: dict[str, tuple[dict[str, Any], Callable[[EduPPO], object]]] = {
    "another engine": ({"engine": "autograd"}, lambda model: None),
    "the numpy engine": ({"engine": "numpy"}, lambda model: None),
    "parts of minibatches": ({"micro_batch_size": 16}, lambda model: None),
    "a buffer of somebody's": ({"rollout_buffer_class": OwnBuffer}, lambda model: None),
    "actions of another type": ({"space": "multibinary"}, lambda model: None),
    "a Beta": ({"space": "box", "action_distribution": "beta"}, lambda model: None),
    "bits, which storing may change": ({"observations": "bits"}, lambda model: None),
    "a patched method": ({}, patch_act),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_everything_else_has_the_ordinary_loop(case: str, lean_rollouts: list[int]) -> None:
    """Where the lean loop can't serve, or somebody's own code is to be called."""
    arguments, change = ORDINARY[case]
    model = make(**arguments)
    change(model)
    model.learn(32)
    assert lean_rollouts == []


def test_a_subclass_with_methods_of_its_own_has_the_ordinary_loop(lean_rollouts: list[int]) -> None:
    """Whoever overrides what is called at each step has it called."""
    OwnAct("MlpPolicy", Task(SPACES["box"]), n_steps=32, device="cpu", engine="fused").learn(32)
    assert lean_rollouts == []


CALLBACKS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "SB3's own": (
        lambda folder: [CheckpointCallback(8, folder), EvalCallback(Task(SPACES["discrete"]), eval_freq=16, verbose=0)],
        True,
    ),
    "a function": (lambda folder: lambda *_: True, False),
    "a function inside": (lambda folder: EveryNTimesteps(8, ConvertCallback(lambda *_: True)), False),
    "one that reads": (lambda folder: [CheckpointCallback(8, folder), Reader()], False),
    "exact checkpoints": (lambda folder: ExactCheckpoint(16, folder), False),
    "of episodes": (lambda folder: StopTrainingOnMaxEpisodes(10**6), False),
}


@pytest.mark.parametrize("case", CALLBACKS)
def test_callbacks_decide(case: str, tmp_path: Any, lean_rollouts: list[int]) -> None:
    """SB3's own that look at no step may be there; those that read or step in have the ordinary loop."""
    callback, lean = CALLBACKS[case]
    make().learn(32, callback=callback(str(tmp_path)))
    assert bool(lean_rollouts) is lean


def test_a_callback_ends_training_at_its_step(lean_rollouts: list[int]) -> None:
    """An evaluation that says so ends the rollout there, with as many steps counted as in the ordinary loop."""

    class Stop(EvalCallback):
        """Never evaluates; ends after 20 steps."""

        changes_policy = reads_every_step = False

        def _on_step(self) -> bool:
            """Count."""
            return self.n_calls < 20

    model = make()
    model.learn(320, callback=Stop(Task(SPACES["discrete"])))
    assert len(lean_rollouts) == 1
    assert model.num_timesteps == 20
    model.learn(64)
    assert model.num_timesteps == 64


def test_nothing_that_is_not_finite_reaches_an_environment(lean_rollouts: list[int]) -> None:
    """NaN in the weights stops before the first step; weights put right again, training goes on."""
    env = Task(SPACES["box"])
    model = make(env)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.policy.action_net.load_state_dict({"weight": th.full((2, 64), float("nan")), "bias": th.zeros(2)})
    with pytest.raises(NonFiniteUpdateError, match="No environment was stepped"):
        model.learn(32)
    assert len(lean_rollouts) == 1
    assert env.steps == 0
    model.policy.load_state_dict(before)
    model.learn(32)


def test_an_environment_may_give_parameters_other_memory(lean_rollouts: list[int]) -> None:
    """What the kernels were told of is kept for them until the next look at the policy."""

    class Meddler(Task):
        """Moves all parameters at a step."""

        model: EduPPO

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            """Move them, and overwrite what may have been freed."""
            for parameter in self.model.policy.parameters():
                parameter.data = parameter.data.clone()
            self.junk = [th.full((64, 64), float("nan")) for _ in range(8)]
            return super().step(action)

    env = Meddler(SPACES["discrete"])
    env.model = model = make(env)
    model.learn(64)
    assert len(lean_rollouts) == 2
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


class SameArray(DummyVecEnv):
    """Gives its own array at every step, which the next one changes."""

    def _obs_from_buf(self) -> Any:
        found: Any = self.buf_obs
        return found[None]


def test_an_array_that_a_step_changes_is_stored_as_in_sb3(lean_rollouts: list[int]) -> None:
    """SB3 stores observations after the step: where the environments give the same array each time, they are the next ones."""
    found = []
    for callback in (None, Reader()):
        given: Any = SameArray([lambda: Task(SPACES["box"])] * 2)
        model = make(given)
        found.append(model.learn(64, callback=callback).rollout_buffer.observations.copy())
    assert len(lean_rollouts) == 1
    np.testing.assert_array_equal(*found)
    sb3 = PPO("MlpPolicy", SameArray([lambda: Task(SPACES["box"])] * 2), n_steps=32, seed=5, device="cpu").learn(64)
    np.testing.assert_allclose(found[0], sb3.rollout_buffer.observations, rtol=1e-5, atol=1e-5)
