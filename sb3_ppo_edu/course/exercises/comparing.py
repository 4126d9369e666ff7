"""Whether two answers did the same: their numbers as float32 arithmetic allows, their shapes, their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sb3_ppo_edu.course.exercises.observing import Observation

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""How far numbers may be apart: float32, added up in any order."""


def close(found: Sequence[float] | np.ndarray, expected: Sequence[float] | np.ndarray) -> bool:
    """Compare numbers as float32 arithmetic allows; NaN equals NaN."""
    return len(found) == len(expected) and bool(
        np.allclose(np.array(found), np.array(expected), rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    )


def same_values(one: Observation, other: Observation) -> bool:
    """Tell whether two answers gave the same numbers in the same shape."""
    return not one.error and not other.error and one.shape == other.shape and close(one.values, other.values)


def alike(one: Observation, other: Observation) -> bool:
    """Tell whether two answers gave the same numbers and the same gradients."""
    return (
        same_values(one, other)
        and one.gradients.keys() == other.gradients.keys()
        and all(close(one.gradients[name], other.gradients[name]) for name in other.gradients)
    )
