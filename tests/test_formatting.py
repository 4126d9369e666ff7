"""Numbers and names as readers of a report want them."""

from __future__ import annotations

import math

import pytest

from sb3_ppo_edu.lab.formatting import in_words, interval, number
from sb3_ppo_edu.lab.statistics.aggregates import Interval


def test_numbers_have_thousands_and_a_true_minus() -> None:
    """What is not known is a dash, not "nan"."""
    assert number(-1234.56) == "−1,235"
    assert number(0.126, 2) == "0.13"
    assert number(None) == number(math.nan) == "–"


def test_an_interval_stands_behind_its_estimate() -> None:
    """Both ends have as many digits as the estimate."""
    assert interval(Interval(-0.5, -1.0, 0.25)) == "−0.50 [−1.00, 0.25]"
    assert interval(None) == "–"


@pytest.mark.parametrize(
    ("names", "text"), [(["A2C"], "A2C"), (["A2C", "DQN"], "A2C and DQN"), (["A2C", "TRPO", "DQN"], "A2C, TRPO and DQN")]
)
def test_names_in_a_sentence(names: list[str], text: str) -> None:
    """Commas between the names, "and" before the last."""
    assert in_words(names) == text
