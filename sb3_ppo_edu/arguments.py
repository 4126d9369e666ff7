"""Checks of constructor arguments: each error names what, where, found, expected, and the remedy where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from stable_baselines3.common.utils import LinearSchedule


def _refuse(name: str, value: object, expected: str) -> ValueError:
    """
    Build the error of an argument.

    :param name: name of the argument
    :param value: what was found
    :param expected: what was expected
    :return: the error to raise
    """
    return ValueError(f"{name}={value!r}: expected {expected}")


def check_integer(name: str, value: object, minimum: int, why: str = "") -> None:
    """
    Check a whole number.

    :param name: name of the argument
    :param value: the value given
    :param minimum: smallest legal value
    :param why: reason of the minimum, in parentheses behind the expectation
    :raises ValueError: if it is no integer, or below the minimum
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise _refuse(name, value, f"an integer ≥ {minimum}" + (f" ({why})" if why else ""))


def check_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, remedy: str = ""
) -> None:
    """
    Check a finite real number.

    :param name: name of the argument
    :param value: the value given
    :param low: smallest legal value
    :param high: largest legal value
    :param open_low: the lower end itself is not legal
    :param remedy: what to do instead
    :raises ValueError: if it is no finite number within the range
    """
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < low or number > high or (open_low and number == low):
        lower = f" {'>' if open_low else '≥'} {low:g}" if low > -math.inf else ""
        upper = f" and ≤ {high:g}" if high < math.inf else ""
        raise _refuse(name, value, f"a finite number{lower}{upper}" + (f": {remedy}" if remedy else ""))


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """
    Check a mode's name.

    :param name: name of the argument
    :param value: the value given
    :param choices: legal values
    :raises ValueError: if it is none of them
    """
    if value not in choices:
        raise _refuse(name, value, "one of " + ", ".join(repr(choice) for choice in choices))


def check_flag(name: str, value: object) -> None:
    """
    Check a boolean.

    :param name: name of the argument
    :param value: the value given
    :raises ValueError: if it is not True or False
    """
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False")


def check_range(name: str, value: object) -> None:
    """
    Check a pair of numbers (low, high).

    :param name: name of the argument
    :param value: the value given
    :raises ValueError: if it is no pair of finite numbers with low < high
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise _refuse(name, value, "a pair (low, high)")
    for bound in value:
        check_number(name, bound)
    if not value[0] < value[1]:
        raise _refuse(name, value, "a pair (low, high) with low < high")


def parse_schedule(name: str, value: Any, low: float = 0.0, *, open_low: bool = False) -> float | Callable[[float], float]:
    """
    Check a number or a schedule; read the zoo's form ``"lin_3e-4"`` as a line from that number to 0.

    :param name: name of the argument
    :param value: a number, a callable of the remaining progress (1 at the start, 0 at the end), or a string "lin_x"
    :param low: smallest legal number
    :param open_low: the lower end itself is not legal
    :return: the number or callable as given, or a ``LinearSchedule``
    :raises ValueError: if it is neither
    """
    if callable(value):
        schedule: Callable[[float], float] = value
        check_number(
            f"{name}(1.0)", schedule(1.0), low, open_low=open_low, remedy="a schedule maps the remaining progress to it"
        )
        return schedule
    if isinstance(value, str):
        try:
            start = float(value.removeprefix("lin_"))
        except ValueError:
            start = math.nan
        in_range = math.isfinite(start) and (start > low if open_low else start >= low)
        if not value.startswith("lin_") or not in_range:
            lower = f" with a number {'>' if open_low else '≥'} {low:g}" if low > -math.inf else ""
            raise _refuse(name, value, f"a number, a schedule, or a string such as 'lin_3e-4' (a line from 3e-4 to 0){lower}")
        return LinearSchedule(start, 0.0, 1.0)
    check_number(name, value, low, open_low=open_low)
    number: float = value
    return number
