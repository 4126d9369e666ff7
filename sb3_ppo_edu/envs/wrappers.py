"""Wrappers around single environments that the settings in ``hyperparams/`` name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sb3_ppo_edu.vec_env.action_masks import INFO, METHOD


class ActionRepeat(gym.Wrapper):
    """
    Take each action several times in a row, and add up the rewards.

    A decision then counts for longer: exploration is steadier, and an episode has fewer of them to learn from. The steps that
    training counts are decisions; the environment makes up to ``repeat`` times as many.

    :param repeat: times that each action is taken, ≥ 1; fewer where the episode ends
    :raises ValueError: if it is less than 1
    """

    REPEAT = 4
    """How often if nothing else is said."""

    def __init__(self, env: gym.Env, repeat: int = REPEAT) -> None:
        super().__init__(env)
        if repeat < 1:
            raise ValueError(f"repeat={repeat}: expected an integer ≥ 1 (how often each action is taken)")
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Step the environment until the action has been taken often enough or the episode ends.

        :return: last observation, sum of the rewards, terminated, truncated, last information
        """
        total = 0.0
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class MasksFromInfo(gym.Wrapper):
    """
    Give an environment that tells its masks in ``info["action_mask"]`` sb3-contrib's method ``action_masks``.

    An environment that has the method keeps its own.

    :param env: gives an ``action_mask`` in the infos of ``reset`` and of every ``step``
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._mask: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and keep its first mask."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._mask = info.get(INFO)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and keep the next mask."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._mask = info.get(INFO)
        return observation, reward, terminated, truncated, info

    def action_masks(self) -> Any:
        """
        Tell which actions are legal.

        :return: the mask
        :raises ValueError: if the environment has told none
        """
        if self.env.has_wrapper_attr(METHOD):
            return self.env.get_wrapper_attr(METHOD)()
        if self._mask is None:
            raise ValueError(
                f"env={self.spec.id if self.spec else self.unwrapped}: found neither a method {METHOD}() nor an {INFO} in its "
                "last info, expected one of them: add the method, or wrap the environment in "
                "sb3_contrib.common.wrappers.ActionMasker"
            )
        return self._mask


class LanderSymmetry(gym.Wrapper):
    """
    Show LunarLander always from the same side: where the lander is left of the pad, everything is mirrored.

    LunarLander without wind is the same game in a mirror. The agent then sees only half of the states, acts there, and what it
    does in one half it does mirrored in the other: a policy that respects the symmetry from the start, and needs to learn half
    as much.

    :param env: LunarLander-v3 or LunarLanderContinuous-v3
    :raises ValueError: if the spaces are not those of LunarLander
    """

    SIGNS = np.array([-1, 1, -1, 1, -1, -1, 1, 1], dtype=np.float32)
    """Position, velocity, angle, angular velocity: what is horizontal or turns changes its sign."""

    ORDER = (0, 1, 2, 3, 4, 5, 7, 6)
    """The contacts of the left and the right leg change places."""

    DISCRETE = (0, 3, 2, 1)
    """Nothing, left engine, main engine, right engine."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        actions = env.action_space
        fits = (isinstance(actions, gym.spaces.Discrete) and actions.n == 4) or actions.shape == (2,)
        if env.observation_space.shape != (8,) or not fits:
            raise ValueError(
                f"LanderSymmetry: found observations of {env.observation_space} and actions of {actions}, "
                "expected those of LunarLander-v3 or LunarLanderContinuous-v3"
            )
        self.mirrored = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and show its first observation from the agent's side."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action as it is meant from the side that the agent sees."""
        if self.mirrored:
            discrete = isinstance(self.action_space, gym.spaces.Discrete)
            action = self.DISCRETE[int(action)] if discrete else np.asarray(action) * np.array([1, -1], dtype=np.float32)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(observation), reward, terminated, truncated, info

    def _seen(self, observation: Any) -> Any:
        """Mirror an observation from the left of the pad, and remember whether it was one."""
        self.mirrored = bool(observation[0] < 0)
        return (observation * self.SIGNS)[list(self.ORDER)] if self.mirrored else observation


class HiddenNumbers(gym.ObservationWrapper):
    """
    Show 0 in the place of some numbers of an observation, such as velocities: what is left says less than the whole state.

    :param env: with observations in a flat ``Box``
    :param numbers: their positions in the observation
    :raises ValueError: if the observation has no such positions
    """

    def __init__(self, env: gym.Env, numbers: Sequence[int]) -> None:
        super().__init__(env)
        shape = env.observation_space.shape
        if shape is None or len(shape) != 1 or not all(0 <= number < shape[0] for number in numbers):
            raise ValueError(
                f"HiddenNumbers(numbers={list(numbers)}): found observations of {env.observation_space}, "
                "expected a flat Box that has these positions"
            )
        self._numbers = list(numbers)

    def observation(self, observation: NDArray[np.floating]) -> NDArray[np.floating]:
        """Hide the numbers in a copy."""
        seen: NDArray[np.floating] = observation.copy()
        seen[self._numbers] = 0.0
        return seen
