"""Environments brought to where others were: the same observations, rewards, ends and random numbers from there on."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_ppo_edu.checkpoint.environments import (
    OFFERED,
    REPLAYED,
    RESET,
    Resumable,
    capture_single,
    capture_vec_env,
    restore_single,
    restore_vec_env,
)
from sb3_ppo_edu.checkpoint.plain import pack, unpack
from sb3_ppo_edu.envs.wrappers import ActionRepeat
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

ENVS = [
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
    "FrozenLake-v1",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "BipedalWalker-v3",
    "BipedalWalkerHardcore-v3",
    "HalfCheetah-v5",
    "Hopper-v5",
]


def drive(env: gym.Env, steps: int, actions: np.random.Generator) -> list[Any]:
    """Step with random actions, resetting where an episode ends; give all that was seen, and the random state at the end."""
    seen: list[Any] = []
    for _ in range(steps):
        space: Any = env.action_space
        action = actions.integers(space.n) if isinstance(space, spaces.Discrete) else actions.uniform(space.low, space.high)
        observation, reward, terminated, truncated, _ = env.step(
            np.float32(action) if isinstance(space, spaces.Box) else action
        )
        seen.append((np.asarray(observation).tobytes(), float(reward), terminated, truncated))
        if terminated or truncated:
            seen.append(np.asarray(env.reset()[0]).tobytes())
    return [*seen, env.unwrapped.np_random.bit_generator.state]


def through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    """The state as a checkpoint keeps it."""
    found: dict[str, Any] = unpack(pack(state))
    return found


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("steps", [0, 17, 230])
def test_an_environment_goes_on_as_the_other(env_id: str, steps: int) -> None:
    """After random steps and ends of episodes another environment is brought to the same point and sees the same future."""
    if env_id in ("HalfCheetah-v5", "Hopper-v5"):
        pytest.importorskip("mujoco")
    first, second = (Resumable(Monitor(gym.make(env_id))) for _ in range(2))
    first.reset(seed=3)
    drive(first, steps, np.random.default_rng(1))
    state = through_bytes(first.capture_state())
    second.reset(seed=99)
    drive(second, 5, np.random.default_rng(2))
    assert second.restore_state(state) == REPLAYED
    assert drive(first, 150, np.random.default_rng(4)) == drive(second, 150, np.random.default_rng(4))
    monitors: Any = first.env, second.env
    assert monitors[0].episode_returns == monitors[1].episode_returns
    assert monitors[0].total_steps == monitors[1].total_steps


@given(steps=st.integers(0, 60), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_any_cut_will_do(steps: int, seed: int) -> None:
    """Wherever CartPole is cut, the other goes on alike; capturing changes nothing for the first."""
    first, second, untouched = (Resumable(gym.make("CartPole-v1")) for _ in range(3))
    for env in (first, untouched):
        env.reset(seed=seed)
        drive(env, steps, np.random.default_rng(seed))
    assert second.restore_state(through_bytes(first.capture_state())) == REPLAYED
    futures = [drive(env, 60, np.random.default_rng(5)) for env in (first, second, untouched)]
    assert futures[0] == futures[1] == futures[2]


def test_actions_are_remembered_as_they_were() -> None:
    """An array that its owner goes on changing is copied."""
    env = Resumable(gym.make("Pendulum-v1"))
    env.reset(seed=0)
    action = np.array([1.0], np.float32)
    env.step(action)
    action[0] = -2.0
    assert env.record()["actions"].tolist() == [[1.0]]


def test_wrappers_inside_and_outside_are_restored() -> None:
    """Time limits, repeated actions and Monitor's returns go on, on whichever side of the recorder they are."""
    make = lambda: Monitor(ActionRepeat(Resumable(gym.make("CartPole-v1", max_episode_steps=30)), 2))  # noqa: E731
    first, second = make(), make()
    first.reset(seed=0)
    drive(first, 8, np.random.default_rng(0))
    assert restore_single(second, through_bytes(capture_single(first))) == REPLAYED
    assert drive(first, 100, np.random.default_rng(1)) == drive(second, 100, np.random.default_rng(1))
    assert first.episode_returns == second.episode_returns


class Hidden(gym.Env[Any, Any]):
    """Draws from Python's global random numbers, which no environment may count on."""

    observation_space = spaces.Box(0, 1, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draw."""
        super().reset(seed=seed)
        return np.array([random.random()]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Draw."""
        return np.array([random.random()]), 0.0, False, False, {}


class Offering(Hidden):
    """The same, which offers its state."""

    def get_state(self) -> dict[str, Any]:
        """Give the only thing there is to it."""
        return {"next": random.getstate()[1][:3], "seen": 0.25}

    def set_state(self, state: dict[str, Any]) -> None:
        """Note that it was set."""
        self.given = state


def test_what_cannot_be_replayed_is_reported() -> None:
    """The replay sees other numbers: it is said, and the environment's random state is set for the episode that begins."""
    first, second = Resumable(Hidden()), Resumable(Hidden())
    first.reset(seed=0)
    first.step(0)
    state = through_bytes(first.capture_state())
    assert second.restore_state(state) == f"{RESET}: its replay went another way"
    assert second.unwrapped.np_random.bit_generator.state == state["random"]
    assert restore_single(Monitor(Hidden()), capture_single(Monitor(Hidden()))).startswith(f"{RESET}: it is not wrapped")


def test_a_state_that_is_offered_is_used() -> None:
    """``get_state`` and ``set_state`` go before replaying."""
    first, second = Resumable(Offering()), Resumable(Offering())
    first.reset(seed=0)
    assert second.restore_state(through_bytes(first.capture_state())) == OFFERED
    given: Any = second.unwrapped
    assert given.given["seen"] == 0.25 and len(given.given["next"]) == 3


def test_other_wrappers_are_refused() -> None:
    """A state of an environment in other wrappers is of another environment."""
    state = Resumable(gym.make("CartPole-v1")).capture_state()
    with pytest.raises(ValueError, match=r"found the wrappers \['Resumable', 'Monitor'.*expected those it was saved with"):
        Resumable(Monitor(gym.make("CartPole-v1"))).restore_state(state)


class PatchedTimeLimit(gym.wrappers.TimeLimit):
    """What importing rl_zoo3 puts in the place of Gymnasium's, by name and state."""


@pytest.mark.parametrize(
    ("saved", "restored"), [(gym.wrappers.TimeLimit, PatchedTimeLimit), (PatchedTimeLimit, gym.wrappers.TimeLimit)]
)
def test_the_time_limit_of_rl_zoo3_is_gymnasiums(saved: Any, restored: Any) -> None:
    """A run goes on in a process that has imported rl_zoo3, and one that has gone on there goes on without."""
    first, second = (Resumable(kind(gym.make("CartPole-v1").unwrapped, 9)) for kind in (saved, restored))
    first.reset(seed=0)
    first.step(0)
    assert second.restore_state(through_bytes(first.capture_state())) == REPLAYED
    assert second.get_wrapper_attr("_elapsed_steps") == 1


# -- vector environments -------------------------------------------------------------------------------------------------


def build(kind: str) -> VecEnv:
    """Two Pendulums in layers."""
    base = SubprocVecEnv if kind == "processes" else DummyVecEnv if kind == "dummy" else InProcessVecEnv
    env: VecEnv = make_vec_env("Pendulum-v1", 2, seed=1, vec_env_cls=base, wrapper_class=Resumable)
    if kind == "layers":
        return VecFrameStack(VecNormalize(VecMonitor(env)), 3)
    return VecNormalize(env)


def drive_all(env: VecEnv, steps: int, actions: np.random.Generator) -> list[bytes]:
    """Step all with random actions; give all that was seen."""
    seen = []
    for _ in range(steps):
        observations, rewards, dones, _ = env.step(actions.uniform(-2, 2, (2, 1)).astype(np.float32))
        seen += [np.asarray(observations).tobytes(), rewards.tobytes(), dones.tobytes()]
    return seen


@pytest.mark.parametrize("kind", ["dummy", "in process", "processes", "layers"])
def test_vector_environments_go_on_as_the_other(kind: str) -> None:
    """Running moments, discounted returns, stacked frames and every environment are restored, in this process or others."""
    first, second = build(kind), build(kind)
    try:
        first.reset()
        drive_all(first, 230, np.random.default_rng(0))
        state = through_bytes(capture_vec_env(first))
        second.reset()
        assert restore_vec_env(second, state) == [REPLAYED, REPLAYED]
        assert drive_all(first, 220, np.random.default_rng(1)) == drive_all(second, 220, np.random.default_rng(1))
    finally:
        first.close()
        second.close()


def test_another_number_of_environments_is_refused() -> None:
    """One environment is not two."""
    state = capture_vec_env(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2))
    with pytest.raises(ValueError, match=r"found 1 environments in \['DummyVecEnv'\].*2 in \['DummyVecEnv'\]"):
        restore_vec_env(DummyVecEnv([lambda: gym.make("CartPole-v1")]), state)


def test_processes_without_a_recorder_are_reported() -> None:
    """What is out of reach says so."""
    env = SubprocVecEnv([lambda: gym.make("CartPole-v1")])
    try:
        env.reset()
        (how,) = restore_vec_env(env, capture_vec_env(env))
        assert how.startswith(RESET) and "Resumable" in how
    finally:
        env.close()
