"""What a symptom is, what a finding is, and the arithmetic by which numbers are judged."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.functional.schedules import KL, beginning_at, read

LIKELY = 0.5
"""Confidence at the edge of the healthy range. A finding below it is not reported as one."""

MIN_UPDATES = 8
"""Updates that a record must tell of before anything but NaN is called a fault: the first ones say little."""


@dataclass(frozen=True)
class Evidence:
    """
    What a finding rests on.

    :param key: the metric, such as ``train/approx_kl``, or ``settings/…`` for a setting
    :param text: what was found and what was expected, with the numbers
    :param begin: first environment step it was seen at
    :param end: last one
    """

    key: str
    text: str
    begin: int
    end: int


@dataclass(frozen=True)
class Finding:
    """
    A fault that a record shows.

    :param severity: how far beyond the healthy range, in [0, 1]
    :param confidence: how sure it is, in [0, 1]
    :param evidence: what it rests on, the most telling first
    :param explained_by: name of another finding whose consequence this one may be, or None
    """

    name: str
    severity: float
    confidence: float
    evidence: tuple[Evidence, ...]
    explained_by: str | None = None


@dataclass(frozen=True)
class Change:
    """
    One change of a setting.

    :param setting: name of EduPPO's argument, or ``normalize``
    :param factor: multiply the present value by this, where it is known
    :param value: the new value; with ``factor``, the one to take where the present value is not known
    :param low: the new value is at least this
    :param high: the new value is at most this
    :param whole: the value is a whole number
    """

    setting: str
    value: Any
    factor: float | None = None
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def new_value(self, record: Record) -> Any:
        """
        Work out the new value.

        :param record: of the run, with the present value if it is known
        :return: the value to try; a schedule stays a schedule
        """
        present = current(record, self.setting)
        if self.factor is None or present is None or present <= 0:
            return self.value
        changed = float(f"{min(max(present * self.factor, self.low), self.high):.2g}")
        if self.whole:
            return round(changed)
        written = record.setting(self.setting)
        stays = isinstance(written, str) and "_" in written and read(written).shape != KL
        return beginning_at(written, changed) if stays else changed

    def flag(self, record: Record) -> str:
        """
        Spell the change as a flag of ``sb3-edu train``.

        :return: such as ``--learning-rate 0.0001``
        """
        flag = "--" + self.setting.replace("_", "-")
        value = self.new_value(record)
        if isinstance(value, bool) and self.setting == "normalize":
            return flag if value else flag.replace("--", "--no-")
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{flag} {shlex.quote(text)}"


@dataclass(frozen=True)
class Band:
    """
    The healthy range of a metric, to be drawn.

    :param low: lower end, or None
    :param high: upper end, or None
    :param log: whether the axis is logarithmic
    """

    key: str
    low: float | None
    high: float | None
    log: bool = False


@dataclass(frozen=True)
class Symptom:
    """
    One line of the doctor's table.

    :param name: short name, for tables and files
    :param title: the fault, as a sentence
    :param needs: what must be in the record: metrics, or ``settings/…``; ``a|b`` means either
    :param healthy: the healthy range in words
    :param source: where the range comes from
    :param meaning: what the fault does
    :param remedy: what to change, and in which direction
    :param changes: the first change to try, as settings; empty where it is not one of a setting
    :param not_when: when it does not apply
    :param examine: finds it in a record that has what it needs
    :param bands: what to draw
    :param explains: names of symptoms that may be its consequence
    :param min_updates: updates it needs to see
    :param unusual: the setting that is at fault, judged by itself; for a training in which other faults hide what it does
    """

    name: str
    title: str
    needs: tuple[str, ...]
    healthy: str
    source: str
    meaning: str
    remedy: str
    not_when: str
    examine: Callable[[Record], Finding | None]
    changes: tuple[Change, ...] = ()
    bands: tuple[Band, ...] = ()
    explains: tuple[str, ...] = field(default=())
    min_updates: int = MIN_UPDATES
    unusual: Callable[[Record], Finding | None] | None = None

    def missing(self, record: Record) -> str | None:
        """Say why the symptom cannot be told from a record."""
        if record.updates < self.min_updates:
            return f"the record has {record.updates} updates, of at least {self.min_updates}"
        for need in self.needs:
            if not any(available(record, name, 1) for name in need.split("|")):
                return f"not recorded: {need.replace('|', ' or ')}"
        return None


# --------------------------------------------------------------------------------------------------------------------------
# Arithmetic
# --------------------------------------------------------------------------------------------------------------------------


def available(record: Record, need: str, at_least: int) -> bool:
    """
    Say whether a record has something.

    :param need: a metric, or ``settings/…``
    :param at_least: numbers of the metric that are needed
    """
    if need.startswith("settings/"):
        return need.removeprefix("settings/") in record.settings
    return record.has(need, at_least)


def current(record: Record, name: str) -> float | None:
    """Give the value of a setting when training began: as it was logged, or as the settings say."""
    logged = record.series(f"train/{name}")[1]
    return float(logged[0]) if len(logged) else record.number(name)


def median(record: Record, key: str, begin: float = 0.0, end: float = 1.0) -> float:
    """
    Give the median of a metric over a part of the run.

    :param begin: see :meth:`Record.values`
    :param end: see :meth:`Record.values`
    :return: the median, NaN if it was not logged
    """
    values = np.sort(record.values(key, begin, end))
    # numpy's own median takes four times as long on so few numbers, and a look asks for a hundred of them.
    return (float(values[(len(values) - 1) // 2]) + float(values[len(values) // 2])) / 2 if len(values) else math.nan


def beyond(value: float, limit: float, extreme: float) -> float:
    """
    Judge how far a positive number lies beyond a limit, on a logarithmic scale.

    :param value: the number; zero or less lies below every limit
    :param limit: where the healthy range ends
    :param extreme: where there is no doubt left; above the limit or below it, which says which side is ill
    :return: negative within the healthy range, 0 at the limit, 1 at the extreme and beyond
    """
    if math.isnan(value):
        return -1.0
    if value / limit <= 0:  # as the smallest numbers are, too
        return 1.0 if extreme < limit else -1.0
    return max(min(math.log(value / limit) / math.log(extreme / limit), 1.0), -1.0)


def find(name: str, position: float, *evidence: Evidence, most: float = 1.0) -> Finding | None:
    """
    Make a finding if a number lies beyond its healthy range.

    :param position: from :func:`beyond`; the least of several where all are needed
    :param evidence: what it rests on
    :param most: the highest confidence that this evidence can give
    """
    if position < 0:
        return None
    return Finding(name, round(position, 3), round(LIKELY + (most - LIKELY) * position, 3), evidence)


def evidence_of(record: Record, key: str, text: str) -> Evidence:
    """Make evidence of a metric, with the steps it was logged at."""
    steps = record.series(key)[0]
    if not len(steps):
        steps = record.steps
    return Evidence(key, text, int(steps[0]), int(steps[-1]))


def show(value: float) -> str:
    """
    Write a number as people read it.

    :return: three digits, without an exponent where that can be read
    """
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
