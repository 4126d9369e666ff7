"""What a finding is made of: distance from a range, confidence, and the change to try."""

from __future__ import annotations

import math

import pytest

from sb3_ppo_edu.doctor.findings import Change, beyond, find
from tests.doctor_records import make_record


@pytest.mark.parametrize(
    ("value", "limit", "extreme", "expected"),
    [(1.0, 1.0, 100.0, 0.0), (10.0, 1.0, 100.0, 0.5), (1e9, 1.0, 100.0, 1.0), (0.1, 1.0, 100.0, -0.5), (0.1, 1.0, 0.01, 0.5)],
)
def test_distance_is_logarithmic(value: float, limit: float, extreme: float, expected: float) -> None:
    """From limit to extreme is one; half of it in powers of ten is a half; the other side of the limit is negative."""
    assert beyond(value, limit, extreme) == pytest.approx(expected)


def test_distance_of_odd_numbers() -> None:
    """Zero lies below every limit; NaN is beyond none."""
    assert beyond(0.0, 1.0, 0.1) == 1.0
    assert beyond(0.0, 1.0, 10.0) == -1.0
    assert beyond(5e-324, 100.0, 10.0) == 1.0
    assert beyond(math.nan, 1.0, 10.0) < 0


def test_confidence_runs_from_a_half_to_the_most() -> None:
    """At the limit 0.5, at the extreme what the evidence can give at most; within the range there is no finding."""
    for position, expected in ((0.0, 0.5), (0.5, 0.65), (1.0, 0.8)):
        finding = find("x", position, most=0.8)
        assert finding is not None
        assert finding.confidence == pytest.approx(expected)
    assert find("x", -0.01) is None


def test_change_of_a_known_value() -> None:
    """A third of 3e-3 is 1e-3, but at most 3e-4; a schedule stays one; without a known value the given one is taken."""
    change = Change("learning_rate", 1e-4, factor=1 / 3, high=3e-4)
    assert change.new_value(make_record({"train/learning_rate": 3e-4})) == pytest.approx(1e-4)
    assert change.new_value(make_record({"train/learning_rate": 3e-2})) == pytest.approx(3e-4)
    schedule = make_record({"train/learning_rate": 3e-4}, {"learning_rate": "lin_3e-4"})
    assert change.new_value(schedule) == "lin_0.0001"
    assert change.new_value(make_record(without=("train/learning_rate", "learning_rate"))) == 1e-4
    assert change.flag(make_record({"train/learning_rate": 3e-4})) == "--learning-rate 0.0001"
    assert Change("normalize", True).flag(make_record()) == "--normalize"
    assert Change("log_std_bounds", "[-3, 0.5]").flag(make_record()) == "--log-std-bounds '[-3, 0.5]'"
