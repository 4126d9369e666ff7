"""Single values as users and files give them: taken as numbers, and shown in errors however long they are."""

from __future__ import annotations

import numpy as np
import torch as th

LONGEST, BEGINNING = 80, 40
"""Characters of a value that an error shows whole, and of a longer one."""


def shown(value: object) -> str:
    """
    Show a value that was found.

    :param value: anything
    :return: as Python writes it, or the beginning of that where it is long and no class
    """
    try:
        text = repr(value)
    except Exception:  # Python writes no integer of more than 4,300 digits, and a class may fail at it
        text = hex(value) if type(value) is int else f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST or isinstance(value, type) else f"{text[:BEGINNING]} …"  # a class's name is at its end


def unwrapped(value: object) -> object:
    """
    Take a single value out of numpy's or torch's hands.

    :param value: a scalar, a 0-dimensional array or tensor, or anything else
    :return: Python's own value where there is one; everything else as it is
    """
    if isinstance(value, (np.generic, np.ndarray, th.Tensor)) and value.ndim == 0:
        return value.item()
    return value


def as_float(value: object) -> float:
    """
    Take a value as a real number.

    :param value: Python's, or a scalar or 0-dimensional array or tensor
    :return: the number as Python's ``float``; NaN for text, booleans, all else that is none, and integers beyond a float
    """
    number = unwrapped(value)
    # numpy has no Python equivalent of its long double, and leaves it as it is.
    if not isinstance(number, (int, float, np.floating)) or isinstance(number, bool):
        return float("nan")
    try:
        return float(number)
    except OverflowError:
        return float("nan")
