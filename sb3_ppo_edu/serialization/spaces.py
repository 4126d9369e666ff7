"""Spaces from someone else's file: Gymnasium checks what its constructors get, and nothing of what a pickle fills in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, reason


def check_space(space: Any, where: str) -> None:
    """
    Check that a space is one that its constructor could have made: bounds in order and in shape, counts that count.

    :param space: as a file has it
    :param where: file and attribute, for the message
    :raises DamagedFileError: naming the first thing that no space has
    """
    try:
        wrong = next(_wrong(space), None)
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        wrong = f"a space without what it needs ({reason(error)})"
    if wrong is not None:
        raise DamagedFileError(f"{where}: found {wrong}; expected a space as Gymnasium or gym makes it: {ANOTHER_COPY}")


def _wrong(space: Any) -> Iterator[str]:
    """List what no space has."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else dict(enumerate(space.spaces))
        for key, part in parts.items():
            yield from (f"in its part {key!r} {wrong}" for wrong in _wrong(part))
        return
    shape = space.shape
    if not isinstance(shape, tuple) or not all(_is_count(size, 0) for size in shape):
        yield f"the shape {shape!r}"
    if not isinstance(space.dtype, np.dtype) or space.dtype.kind not in "biuf":
        yield f"the dtype {space.dtype!r}"
    if isinstance(space, spaces.Box):
        yield from _wrong_bounds(space)
    elif isinstance(space, spaces.Discrete):
        if not (_is_count(space.n, 1) and _is_count(space.start, -math.inf)) or shape != ():
            yield f"n={space.n!r} from {space.start!r} of shape {shape!r} in a Discrete"
    elif isinstance(space, spaces.MultiDiscrete):
        counts = space.nvec.ravel().tolist() if _is_array(space.nvec, shape) else []
        if not counts or not all(_is_count(one, 1) for one in counts):
            yield f"nvec={space.nvec!r} of shape {shape!r} in a MultiDiscrete"
    elif not isinstance(space, spaces.MultiBinary):
        yield f"a {type(space).__name__}"


def _wrong_bounds(space: spaces.Box) -> Iterator[str]:
    """List what is wrong with the bounds of a Box."""
    for name in ("low", "high", "bounded_below", "bounded_above"):
        if not _is_array(getattr(space, name), space.shape):
            yield f"{name} that is no array of the shape {space.shape!r} in a Box"
    for name, bound in (("low", space.low), ("high", space.high)):
        if bound.dtype != space.dtype:
            yield f"{name} of dtype {bound.dtype} in a Box of {space.dtype}"
        if np.isnan(bound).any():
            yield f"NaN in {name} of a Box"
    if (space.low > space.high).any():
        yield "low above high in a Box"


def _is_count(value: Any, least: float) -> bool:
    """Tell whether something is a whole number, and not below the least."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)


def _is_array(value: Any, shape: Any) -> bool:
    """Tell whether something is an array of that shape."""
    return isinstance(value, np.ndarray) and value.shape == shape
