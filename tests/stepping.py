"""A random walk whose infos differ in every step, and two vector environments compared step by step."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from tests.environments import RandomWalk

N_ENVS = 3


class Noted(RandomWalk):
    """A random walk that says something else in its info at every step, and at a reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"began": float(self.np_random.random()), "options": str(options or {})}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; of what is said, one key is in some steps only, and one is a dictionary."""
        observation, reward, terminated, truncated, _ = super().step(action)
        info: dict[str, Any] = {"steps": self.steps, "deep": {"half": self.steps / 2, "word": f"step {self.steps}"}}
        if self.steps % 2:
            info["odd"] = np.full(2, self.steps)
        return observation, reward, terminated, truncated, info

    def plus(self, number: int) -> int:
        """Add something to the steps."""
        return self.steps + number

    def fail(self) -> None:
        """Raise an error."""
        raise LookupError("as asked")


def noted(observation: str, action: str) -> gym.Env:
    """Make one."""
    return Noted(observation, action, end_probability=0.1, time_limit=8)


def make(vec_env_cls: Any, observation: str = "box", action: str = "box", seed: int = 5, **kwargs: Any) -> VecEnv:
    """Build a vector environment of them as SB3 does."""
    return make_vec_env(partial(noted, observation, action), N_ENVS, seed=seed, vec_env_cls=vec_env_cls, **kwargs)


def same(one: Any, other: Any) -> bool:
    """Compare observations, infos and what is in them; the time of day apart."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one if key != "t")
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other))
    return bool(one == other)


def assert_same_episodes(env: VecEnv, reference: VecEnv, steps: int = 60) -> None:
    """Drive two vector environments with the same actions, and compare everything in every step."""
    env.action_space.seed(1)
    assert env.observation_space == reference.observation_space and env.action_space == reference.action_space
    assert same(env.reset(), reference.reset())
    assert [sorted(info.items()) for info in env.reset_infos] == [sorted(info.items()) for info in reference.reset_infos]
    ends = 0
    for step in range(steps):
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        found, expected = env.step(actions), reference.step(actions)
        assert same(found[0], expected[0]), step
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
        assert same(found[2], expected[2]), step
        for info, other in zip(found[3], expected[3], strict=True):
            assert {key: same(info.get(key), other[key]) for key in other if key != "episode"} == dict.fromkeys(
                other.keys() - {"episode"}, True
            )
            assert info.keys() == other.keys()
            if "episode" in other:
                ends += 1
                assert [info["episode"][key] for key in "rl"] == [other["episode"][key] for key in "rl"]
        for index in np.flatnonzero(found[2]):
            assert same(env.reset_infos[index], reference.reset_infos[index])
    assert ends >= env.num_envs, "no episode ended: nothing was shown"
