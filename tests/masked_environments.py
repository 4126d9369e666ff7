"""Environments in which some actions are illegal, and say so by their method or by their infos."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_ppo_edu.vec_env.action_masks import choices_of
from tests.environments import RandomWalk


class MaskedWalk(RandomWalk):
    """
    A random walk whose legal actions change at each step, and that ends with an error where one is illegal.

    :param action: "discrete", "multidiscrete" or "multibinary"
    :param strict: whether an illegal action is an error
    :param others: of :class:`~tests.environments.RandomWalk`
    """

    def __init__(self, observation: str = "box", action: str = "discrete", strict: bool = True, **others: Any) -> None:
        super().__init__(observation, action, **others)
        self.strict, self.choices = strict, choices_of(self.action_space)
        self.masks: NDArray[np.bool_] = np.ones(sum(self.choices), bool)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions are legal; in each choice at least one, and sometimes no other."""
        return self.masks

    def _observe(self) -> Any:
        """Draw the next masks and an observation."""
        parts = []
        for size in self.choices:
            mask = self.np_random.random(size) < 0.5
            mask[self.np_random.integers(size)] = True
            parts.append(mask)
        self.masks = np.concatenate(parts)
        return super()._observe()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        places = np.cumsum([0, *self.choices[:-1]]) + np.asarray(action, int).reshape(-1)
        if self.strict and not self.masks[places].all():
            raise AssertionError(f"illegal action {action} with masks {self.masks}")
        return super().step(action)


class ToldMasks(MaskedWalk):
    """The same masks in infos only; an episode begins with all actions legal but the first of each choice."""

    action_masks: Any = property(lambda self: (_ for _ in ()).throw(AttributeError("no masks by a method")))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = super().reset(seed=seed, options=options)
        self.masks = np.ones(sum(self.choices), bool)
        self.masks[np.cumsum([0, *self.choices[:-1]])] = False
        return observation, {**info, "action_mask": self.masks.astype(np.int8)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "action_mask": self.masks.astype(np.int8)}


class TicTacToe(gym.Env[NDArray[np.float32], Any]):
    """
    Noughts and crosses against random moves; an illegal move is an error.

    The observation has nine fields of one's own and nine of the other's, the reward is 1 for a win and -1 for a loss.
    """

    observation_space = spaces.Box(0.0, 1.0, (18,), np.float32)
    action_space = spaces.Discrete(9)
    LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a game; who begins is drawn."""
        super().reset(seed=seed)
        self.fields = np.zeros((2, 9), np.float32)
        if self.np_random.random() < 0.5:
            self._answer()
        return self.fields.ravel().copy(), {}

    def action_masks(self) -> NDArray[np.bool_]:
        """The empty fields."""
        empty: NDArray[np.bool_] = self.fields.sum(axis=0) == 0
        return empty

    def _answer(self) -> None:
        """Move at random."""
        self.fields[1, self.np_random.choice(np.flatnonzero(self.action_masks()))] = 1

    def _wins(self, player: int) -> bool:
        """Look for three in a row."""
        return bool(self.fields[player][self.LINES].all(axis=1).any())

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move, and have the other move."""
        if not self.action_masks()[action]:
            raise AssertionError(f"illegal move {action} in {self.fields}")
        self.fields[0, action] = 1
        if not self._wins(0) and self.action_masks().any():
            self._answer()
        reward = float(self._wins(0)) - float(self._wins(1))
        return self.fields.ravel().copy(), reward, bool(reward) or not self.action_masks().any(), False, {}
