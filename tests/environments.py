"""Small environments for the tests: every kind of space, time limits, known values."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-np.inf, np.inf, (5,), np.float32),
    "discrete": spaces.Discrete(6),
    "dict": spaces.Dict({"vector": spaces.Box(-1.0, 1.0, (3,), np.float32), "choice": spaces.Discrete(4)}),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
}
ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, 0.5], np.float32)),
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(3),
}


class RandomWalk(gym.Env[Any, Any]):
    """
    Random observations, a reward that depends on observation and action, random ends, and a time limit.

    :param observation: key of ``OBSERVATION_SPACES``
    :param action: key of ``ACTION_SPACES``
    :param end_probability: probability that a step ends the episode
    :param time_limit: steps after which the episode is truncated
    """

    def __init__(
        self, observation: str = "box", action: str = "box", end_probability: float = 0.05, time_limit: int = 11
    ) -> None:
        self.observation_space = OBSERVATION_SPACES[observation]
        self.action_space = ACTION_SPACES[action]
        self.end_probability = end_probability
        self.time_limit = time_limit

    def _observe(self) -> Any:
        """Draw an observation from the environment's own generator."""
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step whose reward depends on the action."""
        self.steps += 1
        reward = float(np.sum(action)) + float(self.np_random.normal())
        terminated = bool(self.np_random.random() < self.end_probability)
        return self._observe(), reward, terminated, self.steps >= self.time_limit, {}


class Probe(gym.Env[NDArray[np.float32], Any]):
    """
    Environments whose values are known by hand, after Andy Jones' "Debugging RL, without the agonizing pain".

    - "constant": one step, reward 1: the value is 1
    - "observation": one step, reward equal to the observation ±1: the value is the observation
    - "discount": two steps, reward 1 at the end: the values are γ and 1
    - "action": one step, reward 1 for a good action, -1 for a bad one: the policy prefers the good one
    - "both": one step, the good action has the sign of the observation

    A good action is 1 of Discrete(2), or positive in a Box of [-1, 1].

    :param kind: one of the five
    :param discrete: Discrete(2) actions instead of a Box
    """

    def __init__(self, kind: str, discrete: bool) -> None:
        self.kind = kind
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode with an observation of -1 or 1, or 0 where it is to be of no use."""
        super().reset(seed=seed)
        self.steps = 0
        self.sign = float(self.np_random.choice([-1.0, 1.0])) if self.kind in ("observation", "both") else 0.0
        return np.array([self.sign], np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Give the reward of the kind."""
        self.steps += 1
        if self.kind == "discount":
            return np.array([1.0], np.float32), float(self.steps == 2), self.steps == 2, False, {}
        good = action == 1 if isinstance(self.action_space, spaces.Discrete) else action[0] > 0
        choice = 1.0 if good else -1.0
        reward = {"constant": 1.0, "observation": self.sign, "action": choice, "both": choice * self.sign}[self.kind]
        return np.array([self.sign], np.float32), float(reward), True, False, {}
