"""Checks of single values: each returns the plain Python value, and names in its error what, where, found and expected.

A number from numpy or torch is as good as any other; text, booleans and fractions are no numbers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_ppo_edu.engines import NonFiniteUpdateError
from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate
from sb3_ppo_edu.functional.schedules import KL, TextSchedule, read
from sb3_ppo_edu.functional.values import as_float, shown, unwrapped


class ArgumentError(ValueError, AssertionError):
    """
    An argument is wrong.

    It is a ``ValueError``, on which the zoo prunes a trial, and an ``AssertionError``, which is what SB3's PPO raises.
    """


def refuse(name: str, value: object, expected: str) -> ArgumentError:
    """
    Build the error of an argument.

    :param name: name of the argument
    :param value: what was found
    :param expected: what was expected
    :return: the error to raise
    """
    return ArgumentError(f"{name}={shown(value)}: expected {expected}")


def check_integer(name: str, value: object, minimum: int, why: str = "", maximum: int = sys.maxsize) -> int:
    """
    Check a whole number.

    :param name: name of the argument
    :param value: the value given: Python's, or a scalar or 0-dimensional array or tensor of integers
    :param minimum: smallest legal value
    :param why: reason of the minimum, in parentheses behind the expectation
    :param maximum: largest legal value
    :return: the number as Python's ``int``
    :raises ArgumentError: if it is no integer, or out of range
    """
    number = unwrapped(value)
    if isinstance(number, bool) or not isinstance(number, int) or not minimum <= number <= maximum:
        told = maximum < sys.maxsize or (isinstance(number, int) and number > maximum)
        upper = f" and ≤ {maximum}" if told else ""
        raise refuse(name, value, f"an integer ≥ {minimum}{upper}" + (f" ({why})" if why else ""))
    return int(number)


def check_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, remedy: str = ""
) -> float:
    """
    Check a finite real number.

    :param name: name of the argument
    :param value: the value given: Python's, or a scalar or 0-dimensional array or tensor of real numbers
    :param low: smallest legal value
    :param high: largest legal value
    :param open_low: the lower end itself is not legal
    :param remedy: what to do instead
    :return: the number as Python's ``float``
    :raises ArgumentError: if it is no finite number within the range
    """
    number = as_float(value)
    if not math.isfinite(number) or number < low or number > high or (open_low and number == low):
        lower = f" {'>' if open_low else '≥'} {low:g}" if low > -math.inf else ""
        upper = f" and ≤ {high:g}" if high < math.inf else ""
        raise refuse(name, value, f"a finite number{lower}{upper}" + (f": {remedy}" if remedy else ""))
    return number


def check_choice(name: str, value: object, choices: Sequence[str], otherwise: str = "") -> str:
    """
    Check a mode's name.

    :param name: name of the argument
    :param value: the value given
    :param choices: legal values
    :param otherwise: what else the caller lets pass, for the error
    :return: the one of them that it is
    :raises ArgumentError: if it is none of them
    """
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    raise refuse(name, value, "one of " + ", ".join([*map(repr, choices), *filter(None, [otherwise])]))


def check_flag(name: str, value: object) -> bool:
    """
    Check a boolean.

    :param name: name of the argument
    :param value: the value given: Python's, or a scalar or 0-dimensional array or tensor of booleans
    :return: the value as Python's ``bool``
    :raises ArgumentError: if it is not True or False
    """
    flag = unwrapped(value)
    if not isinstance(flag, bool):
        raise refuse(name, value, "True or False")
    return flag


def check_range(name: str, value: object) -> tuple[float, float]:
    """
    Check a pair of numbers (low, high).

    :param name: name of the argument
    :param value: the value given: a tuple, list, array or tensor
    :return: the pair
    :raises ArgumentError: if it is no pair of finite numbers with low < high
    """
    pair = value.tolist() if isinstance(value, (np.ndarray, th.Tensor)) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise refuse(name, value, "a pair (low, high)")
    low, high = check_number(name, pair[0]), check_number(name, pair[1])
    if not low < high:
        raise refuse(name, value, "a pair (low, high) with low < high")
    return low, high


def parse_schedule(name: str, value: Any, low: float = 0.0, *, open_low: bool = False) -> float | Schedule:
    """
    Check a number or a schedule; read a schedule's text, see :mod:`sb3_ppo_edu.functional.schedules`.

    :param name: name of the argument
    :param value: a number, a callable of the remaining progress (1 at the start, 0 at the end), or a string such as "lin_3e-4"
    :param low: smallest legal number
    :param open_low: the lower end itself is not legal, but where a schedule comes to it
    :return: the number as Python's ``float``, the callable as given, or for a string a schedule: SB3's own for a line
    :raises ArgumentError: if it is neither, with the nearest string that is one
    """
    only_progress = "a number or a schedule of the remaining progress: only the learning rate follows the KL"
    if isinstance(innermost(value), KLAdaptiveLearningRate) and name != "learning_rate":
        raise refuse(name, value, only_progress)
    if callable(value):
        schedule: Schedule = value
        inner = innermost(schedule)
        if isinstance(inner, KLAdaptiveLearningRate):
            try:
                inner.check()
            except ValueError as error:
                raise ArgumentError(f"{name}: {error}") from error
        elif isinstance(inner, TextSchedule):
            if not isinstance(text := vars(inner).get("text"), str):
                raise refuse(f"{name}.text", text, "a schedule's text")
            parse_schedule(name, text, low, open_low=open_low)
        elif knows_only_progress(schedule):
            evaluate_schedule(name, schedule, 1.0, low, open_low=open_low)
        return schedule
    if isinstance(value, str):
        lower = f" with a number {'>' if open_low else '≥'} {low:g}" if low > -math.inf else ""
        expected = f"a number, a schedule, or a string such as 'lin_3e-4' (a line from 3e-4 to 0){lower}"
        try:
            warmup, shape, numbers = words = read(value)
            schedule = KLAdaptiveLearningRate.of(value) if shape == KL else TextSchedule(value)
        except ValueError as error:
            raise refuse(name, value, f"{expected}{error}") from None
        if shape == KL and name != "learning_rate":
            raise refuse(name, value, only_progress)
        if min(words.values) < low or (open_low and words.values[0] == low):
            raise refuse(name, value, expected)
        if shape == "lin" and not warmup:
            return LinearSchedule(numbers[0], (*numbers, 0.0)[1], 1.0)
        return schedule
    return check_number(name, value, low, open_low=open_low)


MOST_LAYERS = 8
"""Around a schedule."""


def knows_only_progress(schedule: Schedule) -> bool:
    """
    Tell whether a schedule may be asked beforehand: one that counts its calls, or draws, would then say another thing later.

    :param schedule: a function of the remaining progress
    :return: True for SB3's own, and for a function that names nothing but its argument
    """
    schedule = innermost(schedule)
    if isinstance(schedule, FunctionType):
        code = schedule.__code__
        inner = [one for one in code.co_consts if isinstance(one, CodeType)]
        return not any((code.co_names, code.co_freevars, inner, schedule.__defaults__, schedule.__kwdefaults__))
    return not callable(schedule) or type(schedule) in (ConstantSchedule, FloatSchedule, LinearSchedule)


def is_saved_whole(schedule: Any) -> bool:
    """
    Tell whether a file has all of a schedule, no code of its own, so that what it has can be checked.

    :param schedule: a schedule, or anything else
    :return: True for SB3's own and for those of this package
    """
    kinds = (ConstantSchedule, FloatSchedule, LinearSchedule, KLAdaptiveLearningRate, TextSchedule)
    inner = innermost(schedule)
    return type(schedule) in kinds and (not callable(inner) or type(inner) in kinds)


def adaptive_rate(schedule: Any) -> KLAdaptiveLearningRate | None:
    """
    Look for an adaptive rate within what SB3 and this package put around a schedule.

    :param schedule: of the learning rate, ``model.lr_schedule``
    :return: the rate, or None if it is any other schedule
    """
    inner = innermost(schedule)
    return inner if isinstance(inner, KLAdaptiveLearningRate) else None


def innermost(schedule: Any) -> Any:
    """
    Take off what SB3 and this package put around a schedule.

    :param schedule: a schedule, or anything else
    :return: what is inside; a few layers at most are taken off, as a file may put one into itself
    """
    for _ in range(MOST_LAYERS):
        if type(schedule) is FloatSchedule:
            schedule = getattr(schedule, "value_schedule", None)
        elif isinstance(schedule, partial):
            schedule = (None, *schedule.args)[-1]
    return schedule


def evaluate_schedule(name: str, schedule: Schedule, progress: float, low: float, *, open_low: bool = False) -> float:
    """
    Ask a schedule, and check what it says.

    :param name: name of the argument
    :param schedule: a function of the remaining progress
    :param progress: 1 at the start, 0 at the end
    :param low: smallest legal value
    :param open_low: the lower end itself is not legal
    :return: the number as Python's ``float``
    :raises ArgumentError: if it is no finite number within the range, or the schedule can't be asked
    """
    where, remedy = f"{name}({round(progress, 4)})", "a schedule maps the remaining progress to it"
    try:
        value: object = schedule(progress)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        raise ArgumentError(f"{where}: found {type(error).__name__}: {error}; expected a number: {remedy}") from error
    return check_number(where, value, low, open_low=open_low, remedy=remedy)


LIKELY_CAUSES = (
    "Likely causes: NaN, infinite or huge observations or rewards (wrap the environment in "
    "sb3_ppo_edu.vec_env.guard.FiniteGuard, normalise with VecNormalize), a learning rate that is too high, or a log_std that "
    "ran away (log_std_bounds)."
)
NOT_STEPPED = "No environment was stepped with them."


def not_finite(found: str, consequence: str) -> NonFiniteUpdateError:
    """
    Build the error of a training that has to stop.

    :param found: what was found, and where
    :param consequence: what has become of parameters or environments
    :return: the error to raise
    """
    return NonFiniteUpdateError(f"{found}: expected finite numbers. {consequence} {LIKELY_CAUSES}")
