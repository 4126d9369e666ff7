"""What the rows of the speed experiment come to: plain numbers, which the report prints and the pictures draw."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, REFERENCE
from sb3_ppo_edu.lab.speed.rows import EndToEndRow, FurtherRow, GridRow, SplitRow
from sb3_ppo_edu.lab.statistics.aggregates import Interval, Scores, bootstrap

PARTS = ("environment", "acting", "advantages", "update", "rest")
"""Parts of a training, in the order in which they happen."""

FLOOR = "floor"
FLOOR_PARTS = ("environment", "acting", "update")
"""Parts of the floor that add up to it."""

WITHOUT_STOPWATCHES = "without stopwatches"
"""What the kernels' training takes as a whole, beside its parts."""


def estimate(values: Sequence[float]) -> Interval | None:
    """
    Estimate the median.

    :param values: one for each repetition
    :return: the median and its bootstrap interval, or None if there are no values; of five values or fewer the interval is the
        range from the smallest to the largest
    """
    return bootstrap(values, median) if values else None


def median(scores: Scores) -> np.ndarray:
    """
    Take the median of single values, for the bootstrap.

    :param scores: shape ``(..., runs, tasks)``
    :return: shape ``(...)``
    """
    return np.asarray(np.median(scores, axis=(-2, -1)))


def cases_in(rows: Sequence[EndToEndRow] | Sequence[SplitRow]) -> list[str]:
    """
    List the cases that there are rows of.

    :param rows: the rows
    :return: keys of ``CASES``, in its order
    """
    found = {row.case for row in rows}
    return [case for case in CASES if case in found]


def algorithms_in(rows: Sequence[EndToEndRow] | Sequence[SplitRow]) -> list[str]:
    """
    List the algorithms that there are rows of.

    :param rows: the rows
    :return: keys of ``ALGORITHMS``, in its order
    """
    found = {row.algorithm for row in rows}
    return [algorithm for algorithm in ALGORITHMS if algorithm in found]


def speedups(rows: Sequence[EndToEndRow], case: str, algorithm: str, quantity: str = "wall_seconds") -> list[float]:
    """
    Divide what SB3's PPO took by what another took, repetition by repetition.

    :param rows: the rows
    :param case: key of ``CASES``
    :param algorithm: key of ``ALGORITHMS``
    :param quantity: "wall_seconds" or "cpu_seconds"
    :return: one ratio for each repetition that both have, above 1 where the other is faster
    """
    taken = {(row.algorithm, row.repetition): float(getattr(row, quantity)) for row in rows if row.case == case}
    repetitions = sorted(repetition for name, repetition in taken if name == REFERENCE)
    return [taken[REFERENCE, one] / taken[algorithm, one] for one in repetitions if (algorithm, one) in taken]


def median_of(rows: Sequence[EndToEndRow], case: str, algorithm: str, quantity: str) -> float | None:
    """
    Take the median of a quantity over the repetitions.

    :param rows: the rows
    :param case: key of ``CASES``
    :param algorithm: key of ``ALGORITHMS``
    :param quantity: name of a column
    :return: the median, or None if there are no rows
    """
    values = [float(getattr(row, quantity)) for row in rows if (row.case, row.algorithm) == (case, algorithm)]
    return statistics.median(values) if values else None


def parts_of(rows: Sequence[SplitRow], case: str, algorithm: str) -> dict[str, float]:
    """
    Take the median seconds of each part over the repetitions.

    :param rows: the rows
    :param case: key of ``CASES``
    :param algorithm: key of ``ALGORITHMS``, or "floor"
    :return: seconds of each part; empty if there are no rows
    """
    seconds: dict[str, list[float]] = {}
    for row in rows:
        if (row.case, row.algorithm) == (case, algorithm):
            seconds.setdefault(row.part, []).append(row.seconds)
    return {part: statistics.median(values) for part, values in seconds.items()}


def floor_seconds(rows: Sequence[SplitRow], case: str) -> float | None:
    """
    Add up the floor.

    :param rows: the rows
    :param case: key of ``CASES``
    :return: seconds, or None if there are no rows
    """
    least = parts_of(rows, case, FLOOR)
    return math.fsum(least[part] for part in FLOOR_PARTS) if least else None


def shares_of_floor(rows: Sequence[SplitRow], case: str, algorithm: str = "fused") -> list[float]:
    """
    Divide the floor of a training by what it took, repetition by repetition.

    :param rows: the rows
    :param case: key of ``CASES``
    :param algorithm: key of ``ALGORITHMS``
    :return: for each repetition that has a floor a share ≤ 1, of the training without stopwatches where there was one
    """
    parts = {(row.algorithm, row.repetition, row.part): row.seconds for row in rows if row.case == case}
    shares = []
    for one in sorted({repetition for name, repetition, _ in parts if name == FLOOR}):
        least = math.fsum(parts[FLOOR, one, part] for part in FLOOR_PARTS)
        whole = parts.get((algorithm, one, WITHOUT_STOPWATCHES))
        if whole is None:
            whole = math.fsum(parts.get((algorithm, one, part), 0.0) for part in PARTS)
        if whole:
            shares.append(least / whole)
    return shares


def further_median(rows: Sequence[FurtherRow], kind: str, algorithm: str, part: str) -> float | None:
    """
    Take the median over the repetitions.

    :param rows: the rows
    :param kind: "import", "updates" or "callbacks"
    :param algorithm: key of ``ALGORITHMS``; none for imports
    :param part: what was measured
    :return: seconds, or None if there are no rows
    """
    values = [row.seconds for row in rows if (row.kind, row.algorithm, row.part) == (kind, algorithm, part)]
    return statistics.median(values) if values else None


Point = tuple[int, int, int]
"""Width, depth, and batch size or number of environments."""


def grid_microseconds(rows: Sequence[GridRow], kind: str, engine: str) -> dict[Point, float]:
    """
    Look up what one update, or one step of acting, takes.

    :param rows: the rows
    :param kind: "update" or "acting"
    :param engine: "sb3", "autograd", "fused", "fused-v3" or "floor"
    :return: microseconds at each point
    """
    return {(row.width, row.depth, row.rows): row.microseconds for row in rows if (row.kind, row.engine) == (kind, engine)}


def grid_speedups(rows: Sequence[GridRow], kind: str, engine: str) -> dict[Point, float]:
    """
    Divide what SB3 takes by what an engine takes, point by point.

    :param rows: the rows
    :param kind: "update" or "acting"
    :param engine: "autograd", "fused", "fused-v3" or "floor"
    :return: the ratio at each point, above 1 where the engine is faster
    """
    reference = grid_microseconds(rows, kind, REFERENCE)
    return {point: reference[point] / taken for point, taken in grid_microseconds(rows, kind, engine).items()}
