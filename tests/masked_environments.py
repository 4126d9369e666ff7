"""Environments in which some actions are illegal, and say so by their method or by their infos."""

from __future__ import annotations

from typing import Any

import numpy as np
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
