"""Numbers as readers of a report want them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sb3_ppo_edu.lab.plots import MINUS
from sb3_ppo_edu.lab.statistics.aggregates import Interval

NOTHING = "–"


def number(value: float | None, digits: int = 0) -> str:
    """
    Write a number for a table.

    :param value: the number, or None
    :param digits: after the point
    :return: text with thousands separated and a true minus
    """
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:,.{digits}f}".replace("-", MINUS)


def interval(found: Interval | None, digits: int = 2) -> str:
    """
    Write an estimate and its interval.

    :param found: the estimate, or None
    :param digits: after the point
    :return: such as "0.52 [0.40, 0.61]"
    """
    if found is None:
        return NOTHING
    return f"{number(found.value, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


def in_words(names: Sequence[str]) -> str:
    """
    List names in a sentence.

    :param names: at least one
    :return: such as "A2C, TRPO and DQN"
    """
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
