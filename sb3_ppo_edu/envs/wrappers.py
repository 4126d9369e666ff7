"""Wrappers around single environments that the settings in ``hyperparams/`` name."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym


class ActionRepeat(gym.Wrapper):
    """
    Take each action several times in a row, and add up the rewards.

    A decision then counts for longer: exploration is steadier, and an episode has fewer of them to learn from. The steps that
    training counts are decisions; the environment makes up to ``repeat`` times as many.

    :param env: the environment
    :param repeat: times that each action is taken, ≥ 1; fewer where the episode ends
    :raises ValueError: if it is less than 1
    """

    def __init__(self, env: gym.Env, repeat: int = 4) -> None:
        super().__init__(env)
        if repeat < 1:
            raise ValueError(f"repeat={repeat}: expected an integer ≥ 1 (how often each action is taken)")
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Step the environment until the action has been taken often enough or the episode ends.

        :param action: the action
        :return: last observation, sum of the rewards, terminated, truncated, last information
        """
        total = 0.0
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info
