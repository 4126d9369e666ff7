"""Environments that draw the same numbers whatever version of Gymnasium samples the spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
    "dict": spaces.Dict({"vector": spaces.Box(-1.0, 1.0, (2,), np.float32), "choice": spaces.Discrete(3)}),
}
ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, 0.5], np.float32)),
    "discrete": spaces.Discrete(3),
}


class Draws(gym.Env[Any, Any]):
    """
    Uniform observations, a reward that depends on observation and action, random ends, and a time limit of 7 steps.

    :param observation: key of ``OBSERVATION_SPACES``
    :param action: key of ``ACTION_SPACES``
    """

    def __init__(self, observation: str, action: str) -> None:
        self.observation_space = OBSERVATION_SPACES[observation]
        self.action_space = ACTION_SPACES[action]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return draw(self.observation_space, self.np_random), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Pay the action's sum times a number drawn."""
        self.steps += 1
        reward = float(np.sum(action)) * float(self.np_random.random())
        terminated = bool(self.np_random.random() < 0.1)
        return draw(self.observation_space, self.np_random), reward, terminated, self.steps >= 7, {}


def draw(space: spaces.Space, random: np.random.Generator) -> Any:
    """Draw from a space of this file, with uniform numbers alone."""
    if isinstance(space, spaces.Dict):
        return {name: draw(part, random) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return int(random.random() * int(space.n))
    assert isinstance(space, spaces.Box)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (low + (high - low) * random.random(space.shape)).astype(space.dtype)
