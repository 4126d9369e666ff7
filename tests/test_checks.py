"""The checks of single values: what they let through, the plain value they return, and what their errors say."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_ppo_edu.algorithms.checks import (
    ArgumentError,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_range,
    parse_schedule,
)

FLOAT_TYPES = (np.float16, np.float32, np.float64, np.longdouble, th.float16, th.bfloat16, th.float32, th.float64)
INTEGER_TYPES = (np.int8, np.int16, np.int32, np.int64, np.uint8, th.int8, th.int32, th.int64, th.uint8)
NO_NUMBERS = (True, np.bool_(True), th.tensor(True), "0.5", b"1", None, Fraction(1, 2), Decimal("0.5"), 1j, [1], np.ones(1))


def given_as(number: float, kind: Any, wrapped: bool) -> tuple[Any, float]:
    """
    Give a number in the hands of numpy or torch.

    :param number: the number
    :param kind: a type of numpy or torch
    :param wrapped: numpy's as a 0-dimensional array and not as a scalar
    :return: what it becomes in there, and the number that that is, as numpy or torch say themselves
    """
    if isinstance(kind, th.dtype):
        tensor = th.tensor(number, dtype=kind)
        return tensor, float(tensor)
    return (np.array(number, dtype=kind) if wrapped else kind(number)), float(kind(number))


@given(st.floats(-100, 100), st.sampled_from(FLOAT_TYPES), st.booleans())
def test_a_number_of_any_type_is_pythons_float(number: float, kind: Any, wrapped: bool) -> None:
    """Whatever hands a number comes from, the check returns the ``float`` that it is in there, to the bit."""
    value, expected = given_as(number, kind, wrapped)
    found = check_number("x", value)
    assert (type(found), found) == (float, expected)
    assert parse_schedule("x", value, low=-math.inf) == expected


@given(st.integers(1, 127), st.sampled_from(INTEGER_TYPES), st.booleans())
def test_an_integer_of_any_type_is_pythons_int(number: int, kind: Any, wrapped: bool) -> None:
    """Whatever hands an integer comes from, the check returns the ``int`` that it is; it is a number too."""
    value, _ = given_as(number, kind, wrapped)
    found = check_integer("n", value, 1)
    assert (type(found), found) == (int, number)
    assert (type(check_number("x", value)), check_number("x", value)) == (float, float(number))


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array(True), th.tensor(True)])
def test_a_flag_of_any_type_is_pythons_bool(value: Any) -> None:
    """Python's, numpy's and torch's True are True itself."""
    assert check_flag("flag", value) is True


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused_by_the_arguments_name(value: Any) -> None:
    """Booleans, text, fractions, complex numbers and arrays with dimensions are no numbers, and the error says whose."""
    for check in (lambda: check_number("gamma", value), lambda: check_integer("gamma", value, 0)):
        with pytest.raises(ArgumentError) as error:
            check()
        assert str(error.value).startswith(f"gamma={value!r}: expected ")
    if not isinstance(value, (str, bytes)):
        with pytest.raises(ArgumentError, match=r"^clip_range="):
            parse_schedule("clip_range", value)


def test_an_error_is_of_both_kinds() -> None:
    """The zoo prunes a trial on ``ValueError``; SB3's own tests expect ``AssertionError``."""
    for kind in (ValueError, AssertionError):
        with pytest.raises(kind, match=r"^n=0: expected an integer ≥ 1$"):
            check_integer("n", 0, 1)


def test_a_choice_and_a_range_become_plain() -> None:
    """Text of numpy becomes Python's, a list becomes a pair of floats."""
    assert type(check_choice("mode", np.str_("max"), ("sb3", "max"))) is str
    bounds = check_range("bounds", [np.int64(-2), np.float32(0.5)])
    assert bounds == (-2.0, 0.5)
    assert [type(bound) for bound in bounds] == [float, float]


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_integer("n", 2, 2),
        lambda: check_integer("n", np.int64(3), 2),
        lambda: check_number("x", 0.0, 0.0, 1.0),
        lambda: check_number("x", 1, 0.0, 1.0),
        lambda: check_number("x", np.float32(0.5), 0.0, 1.0),
        lambda: check_number("x", -1e300),
        lambda: check_number("x", 1e-300, 0.0, open_low=True),
        lambda: check_choice("mode", "max", ("sb3", "max")),
        lambda: check_flag("flag", False),
        lambda: check_range("bounds", (-2, 0.5)),
        lambda: check_range("bounds", [-2.0, 0.5]),
    ],
)
def test_legal_values_pass(check: Callable[[], None]) -> None:
    """A legal value, also at the end of its range or as a numpy scalar, passes without a word."""
    check()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_integer("n", 1, 2), "n=1: expected an integer ≥ 2"),
        (lambda: check_integer("n", 1, 2, "so it is"), "n=1: expected an integer ≥ 2 (so it is)"),
        (lambda: check_integer("n", 2.0, 2), "n=2.0: expected an integer ≥ 2"),
        (lambda: check_integer("n", True, 1), "n=True: expected an integer ≥ 1"),
        (lambda: check_integer("n", None, 1), "n=None: expected an integer ≥ 1"),
        (lambda: check_integer("n", "8", 1), "n='8': expected an integer ≥ 1"),
        (lambda: check_number("x", -0.1, 0.0, 1.0), "x=-0.1: expected a finite number ≥ 0 and ≤ 1"),
        (lambda: check_number("x", 1.1, 0.0, 1.0), "x=1.1: expected a finite number ≥ 0 and ≤ 1"),
        (lambda: check_number("x", 0.0, 0.0, open_low=True), "x=0.0: expected a finite number > 0"),
        (lambda: check_number("x", 0, 0.0, open_low=True, remedy="leave it"), "x=0: expected a finite number > 0: leave it"),
        (lambda: check_number("x", math.nan), "x=nan: expected a finite number"),
        (lambda: check_number("x", math.inf, 0.0), "x=inf: expected a finite number ≥ 0"),
        (lambda: check_number("x", "0.5"), "x='0.5': expected a finite number"),
        (lambda: check_number("x", True, 0.0, 1.0), "x=True: expected a finite number ≥ 0 and ≤ 1"),
        (lambda: check_number("x", None), "x=None: expected a finite number"),
        (lambda: check_number("x", 1j), "x=1j: expected a finite number"),
        (lambda: check_choice("mode", "min", ("sb3", "max")), "mode='min': expected one of 'sb3', 'max'"),
        (lambda: check_choice("mode", None, ("sb3", "max")), "mode=None: expected one of 'sb3', 'max'"),
        (lambda: check_flag("flag", 1), "flag=1: expected True or False"),
        (lambda: check_flag("flag", "yes"), "flag='yes': expected True or False"),
        (lambda: check_range("bounds", 3.0), "bounds=3.0: expected a pair (low, high)"),
        (lambda: check_range("bounds", (1.0, 2.0, 3.0)), "bounds=(1.0, 2.0, 3.0): expected a pair (low, high)"),
        (lambda: check_range("bounds", (1.0, 1.0)), "bounds=(1.0, 1.0): expected a pair (low, high) with low < high"),
        (lambda: check_range("bounds", (2.0, 1.0)), "bounds=(2.0, 1.0): expected a pair (low, high) with low < high"),
        (lambda: check_range("bounds", (-math.inf, 1.0)), "bounds=-inf: expected a finite number"),
        (lambda: check_range("bounds", ("a", 1.0)), "bounds='a': expected a finite number"),
    ],
)
def test_wrong_values_are_named(check: Callable[[], None], message: str) -> None:
    """The error is a ValueError that says the name, what was found, and what was expected, to the letter."""
    with pytest.raises(ValueError) as error:
        check()
    assert str(error.value) == message


def test_parse_schedule_keeps_numbers_and_callables() -> None:
    """A number stays that number and a callable that callable: SB3 wraps them itself."""
    schedule = ConstantSchedule(0.1)
    assert parse_schedule("x", 3e-4) == 3e-4
    assert parse_schedule("x", 1) == 1
    assert parse_schedule("x", schedule) is schedule
    assert parse_schedule("x", -0.5, low=-math.inf) == -0.5


@pytest.mark.parametrize(("text", "start"), [("lin_3e-4", 3e-4), ("lin_0.2", 0.2), ("lin_1", 1.0)])
def test_parse_schedule_reads_the_zoos_lines(text: str, start: float) -> None:
    """The string "lin_x" is x at the start, x/2 half-way, and 0 at the end."""
    schedule = parse_schedule("x", text)
    assert isinstance(schedule, LinearSchedule)
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([start, start / 2, 0.0])


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("0.1", {}),
        ("lin_", {}),
        ("lin_fast", {}),
        ("lin_nan", {}),
        ("lin_inf", {}),
        ("lin_-1", {}),
        ("lin_0", {"open_low": True}),
        ("exp_0.1", {}),
        (-0.1, {}),
        (0.0, {"open_low": True}),
        (math.nan, {}),
        (None, {}),
        (True, {}),
        ([0.1], {}),
    ],
)
def test_parse_schedule_refuses(value: Any, limits: dict[str, Any]) -> None:
    """Neither a number in range, nor a callable, nor "lin_x" with such a number: refused with name, value, expectation."""
    with pytest.raises(ValueError) as error:
        parse_schedule("clip_range", value, **limits)
    assert str(error.value).startswith(f"clip_range={value!r}: expected a ")
    assert ("> 0" if limits else "≥ 0") in str(error.value)
    if isinstance(value, str):
        assert "'lin_3e-4' (a line from 3e-4 to 0)" in str(error.value)


def test_parse_schedule_takes_falling_negative_lines_where_negative_numbers_are_legal() -> None:
    """An entropy coefficient may be negative, as a number and as a line; its error then names no lower end."""
    schedule = parse_schedule("ent_coef", "lin_-0.5", low=-math.inf)
    assert callable(schedule)
    assert schedule(1.0) == -0.5
    with pytest.raises(ValueError, match=r"ent_coef='lin_x': expected .* to 0\) \(lin_START"):
        parse_schedule("ent_coef", "lin_x", low=-math.inf)
