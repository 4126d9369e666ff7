"""
Random inputs that no right answer can stumble over, and pairs of inputs that differ in one number alone.

Where an objective has a kink, two right formulas may have different derivatives, and where a number lies on a threshold ``>``
and ``>=`` differ. So no random number comes near either; and there is one on each side of them, or nobody would notice what is
wrong there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_ppo_edu.course.exercises.observing import Case

FloatArray = npt.NDArray[np.floating]
SYMBOLS = {"gamma": "γ", "lam": "λ", "clip_range": "ε", "clip_epsilon": "ε", "clip_range_vf": "ε"}


def window(*clip_ranges: float) -> list[float]:
    """List the bounds of windows around 1, in their order."""
    return sorted(1.0 + sign * clip_range for clip_range in clip_ranges for sign in (-1.0, 1.0))


def away_from(
    kinks: Sequence[float] | FloatArray, rng: np.random.Generator, low: float, high: float, size: int, margin: float = 0.02
) -> FloatArray:
    """
    Draw numbers on all sides of some places, in turn, and near none of them.

    :param kinks: the places, rising
    :param rng: random numbers
    :param low: lower bound
    :param high: upper bound
    :param size: how many
    :param margin: how near they may come
    :return: shape ``(size,)``
    """
    bounds = [low, *(place for kink in kinks for place in (kink - margin, kink + margin)), high]
    sides = [(begin, end) for begin, end in zip(bounds[::2], bounds[1::2], strict=True) if begin < end]
    return np.array([rng.uniform(*sides[index % len(sides)]) for index in range(size)])


def varied(case: Case, **change: Any) -> Case:
    """
    Make the same inputs with another argument: who leaves it out gives the same answer to both.

    :param case: the inputs
    :param change: the argument by its name
    """
    ((name, value),) = change.items()
    other = f"{SYMBOLS.get(name, name)} = {value:g}" if isinstance(value, int | float) else f"other `{name}`"
    return replace(case, name=f"the same as “{case.name}”, {other}", arguments={**case.arguments, **change})


def moved(case: Case, name: str, *place: int, by: float = 0.7) -> Case:
    """
    Make the same inputs with one entry of an array changed: what else changes in the result has to do with it.

    :param case: the inputs
    :param name: of the array
    :param place: of the entry
    :param by: what is added to it
    """
    value = case.arguments[name]
    other = value.clone() if isinstance(value, th.Tensor) else value.copy()
    other[place] += by
    return varied(case, **{name: other})
