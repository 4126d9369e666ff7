"""Vector environments that play what they are given, to watch what wrappers around them make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


class Stream(VecEnv):
    """
    Play steps from a random generator: observations, rewards, ends of episodes.

    Its ``dtype``, if set, is that of observations from there on, whatever the space says.

    :param seed: of the generator
    :param n_envs: number of environments
    :param space: of observations; a dictionary's parts too are boxes or discrete
    :param reward_dtype: of rewards
    :param order: of observations in memory, "C" or "F"
    :param scale: of observations and rewards
    :param ends: share of steps at which an episode ends
    :param broken: share of observations' and rewards' numbers that are not finite
    """

    def __init__(
        self,
        seed: int,
        n_envs: int,
        space: spaces.Space,
        reward_dtype: str = "float32",
        order: Any = "C",
        scale: float = 1.0,
        ends: float = 0.2,
        broken: float = 0.0,
    ) -> None:
        super().__init__(n_envs, space, spaces.Discrete(2))
        self.random = np.random.default_rng(seed)
        self.reward_dtype, self.order, self.dtype = reward_dtype, order, None
        self.scale, self.ends, self.broken = scale, ends, broken

    def _numbers(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Draw numbers."""
        numbers: Any = self.scale * (self.random.normal(size=shape) + self.random.integers(-3, 4))
        if self.broken:
            numbers = np.where(
                self.random.random(shape) < self.broken, self.random.choice([np.nan, np.inf, -np.inf], shape), numbers
            )
        if np.dtype(dtype).kind != "f":
            numbers = np.clip(np.nan_to_num(numbers), 0, 100)
        drawn: np.ndarray = np.asarray(numbers).astype(dtype).copy(order=self.order)
        return drawn

    def _observation(self, leading: tuple[int, ...]) -> Any:
        """Draw an observation of all environments, or of one."""
        if isinstance(self.observation_space, spaces.Dict):
            parts = self.observation_space.items()
            return {key: self._numbers((*leading, *(part.shape or ())), part.dtype) for key, part in parts}
        return self._numbers((*leading, *(self.observation_space.shape or ())), self.dtype or self.observation_space.dtype)

    def reset(self) -> Any:
        """Give first observations."""
        return self._observation((self.num_envs,))

    def step_async(self, actions: np.ndarray) -> None:
        """Ignore the actions."""

    def step_wait(self) -> Any:
        """Give the next step."""
        dones = self.random.random(self.num_envs) < self.ends
        infos: list[dict[str, Any]] = [{"index": index} for index in range(self.num_envs)]
        for index in np.flatnonzero(dones):
            if self.random.random() < 0.9:
                infos[index]["terminal_observation"] = self._observation(())
        return self._observation((self.num_envs,)), self._numbers((self.num_envs,), self.reward_dtype), dones, infos

    def close(self) -> None:
        """Close nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Give this environment's attribute for each."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set nothing."""

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call nothing."""
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Say no."""
        return [False] * self.num_envs


def bits(value: Any) -> Any:
    """
    Make anything comparable bit by bit, with its types and its order in memory; NaN is NaN.

    :param value: arrays, numbers, dictionaries, lists, tuples, objects with attributes
    :return: the same in plain Python
    """
    if isinstance(value, np.ndarray):
        clean = value.copy(order="K")
        if clean.dtype.kind == "f":
            clean[np.isnan(clean)] = np.nan
        # A long double has bytes that are no part of the number.
        content = repr(clean.ravel().tolist()) if clean.dtype == np.longdouble else clean.tobytes()
        return "array", value.dtype.str, value.shape, value.flags.c_contiguous, value.flags.f_contiguous, content
    if isinstance(value, np.generic):
        return "scalar", bits(np.asarray(value))
    if isinstance(value, dict):
        return type(value).__name__, [(key, bits(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return type(value).__name__, [bits(one) for one in value]
    if type(value).__name__ == "RunningMeanStd":
        return type(value).__name__, bits(vars(value))
    return type(value).__name__, repr(value)


def box(shape: tuple[int, ...], dtype: Any = np.float32) -> spaces.Box:
    """Any numbers of that shape and type."""
    return spaces.Box(0, 100, shape, dtype) if np.dtype(dtype).kind in "iu" else spaces.Box(-np.inf, np.inf, shape, dtype)


PARTS = spaces.Dict({"b": box((3,)), "a": box((2, 2), np.float64), "c": spaces.Discrete(3), "d": box((3,))})


def state_of(env: VecNormalize) -> Any:
    """All that it keeps, in order, save what it wraps and what its class has."""
    return bits({key: value for key, value in vars(env).items() if key not in ("venv", "class_attributes")})


def play(env: VecNormalize, steps: int = 12) -> Any:
    """Reset and step; give all that is handed out and kept."""
    action = np.zeros((env.num_envs, *(env.action_space.shape or ())))
    found = [env.reset(), *(env.step(action) for _ in range(steps))]
    return bits(found), state_of(env)


def used(kind: Any, space: spaces.Space = PARTS) -> Any:
    """One that has seen some steps."""
    arguments: dict[str, Any] = {"norm_obs_keys": ["d", "a"]} if space is PARTS else {}
    env = kind(Stream(1, 3, space), gamma=0.9, **arguments)
    play(env)
    return env


def contents(env: VecNormalize) -> Any:
    """All that a file has of it, save spaces."""
    left_out = ("venv", "class_attributes", "returns", "observation_space", "action_space")
    return bits({key: value for key, value in vars(env).items() if key not in left_out})
