"""From the rows of a suite to the numbers of its report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sb3_ppo_edu.lab.algorithms import RANDOM
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.plots import Band
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.statistics import aggregates, comparisons, curves
from sb3_ppo_edu.lab.statistics.aggregates import Interval


class Summary(NamedTuple):
    """
    One algorithm in one environment.

    :param algorithm: key of the algorithm
    :param seeds: number of runs
    :param mean: mean over the runs of the final return
    :param std: its standard deviation over the runs (n − 1); 0 for a single run
    :param iqm: interquartile mean with its interval
    :param reached: runs whose final return is at least the target
    :param steps_to_target: median over the runs of the steps to the target, or None if fewer than half reach it
    :param variation: coefficient of variation over the runs, or None for a single one
    :param early: mean share of early evaluations that are not worse than the one before, or None without a curve
    :param forgetting: mean of best minus final evaluation, or None without a curve
    :param seconds: median of :func:`training_time`, or None if no run's is known
    :param timed: runs of which it is known
    :param processor: seconds of a processor that a run takes, evaluations included, median
    """

    algorithm: str
    seeds: int
    mean: float
    std: float
    iqm: Interval
    reached: int
    steps_to_target: int | None
    variation: float | None
    early: float | None
    forgetting: float | None
    seconds: float | None
    timed: int
    processor: float


class Comparison(NamedTuple):
    """
    Two algorithms in one environment.

    :param test: two one-sided tests of the final returns, or None with fewer than two runs of either
    :param improvement: probability that a run of the first is better than one of the second
    :param same_bits: seeds of which both end with the same parameters to the bit
    :param seeds: seeds that both have
    :param speed: median over seeds of the second's :func:`training_time` over the first's, or None if unknown
    :param timed: seeds of which both times are known
    """

    test: comparisons.Equivalence | None
    improvement: Interval
    same_bits: int
    seeds: int
    speed: float | None
    timed: int


def training_time(row: RunRow) -> float | None:
    """
    Say how long a run trained, also where it shared the machine: with one thread, that is its processor time.

    :param row: the run
    :return: seconds of a processor, without the evaluations; in rows that lack them the wall clock, or None if even training
        and evaluations together took less of the processor than that: the run has waited, nobody knows how long
    """
    if not math.isnan(row.train_cpu_seconds):
        return row.train_cpu_seconds
    return row.train_seconds if row.train_seconds <= row.cpu_seconds else None


def median_or_none(values: Iterable[float | None]) -> float | None:
    """
    Take the median of what is known.

    :param values: numbers, None where unknown
    :return: the median, or None if none is known
    """
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def speed_ratio(ours: RunRow, theirs: RunRow) -> float | None:
    """
    Compare the training times of two runs.

    :param ours: a run
    :param theirs: another
    :return: the second's over the first's, or None if either is unknown or nothing, or they are times of two kinds
    """
    if math.isnan(ours.train_cpu_seconds) != math.isnan(theirs.train_cpu_seconds):
        return None
    one, other = training_time(ours), training_time(theirs)
    return other / one if one and other else None


def of_task(rows: Sequence[RunRow], task: Task, algorithm: str | None = None) -> list[RunRow]:
    """
    Choose the rows of an environment.

    :param rows: all rows
    :param task: the environment
    :param algorithm: only this one's
    :return: its rows
    """
    return [row for row in rows if row.env == task.env and algorithm in (None, row.algorithm)]


def algorithms_of(rows: Sequence[RunRow], task: Task) -> list[str]:
    """
    List the algorithms that have rows.

    :param rows: all rows
    :param task: the environment
    :return: their keys, in the order of the rows
    """
    return list(dict.fromkeys(row.algorithm for row in of_task(rows, task)))


def curve_of(points: Sequence[CurveRow], run: RunRow) -> tuple[list[int], list[float]]:
    """
    Find the learning curve of a run.

    :param points: all evaluations
    :param run: the run
    :return: steps and mean returns; empty without evaluations
    """
    own = [
        point
        for point in points
        if (point.algorithm, point.env, point.settings, point.variant, point.seed)
        == (run.algorithm, run.env, run.settings, run.variant, run.seed)
    ]
    return [point.step for point in own], [point.mean for point in own]


def summarise(rows: Sequence[RunRow], points: Sequence[CurveRow], task: Task, algorithm: str) -> Summary:
    """
    Sum up an algorithm in an environment.

    :param rows: all rows
    :param points: all evaluations during training
    :param task: the environment
    :param algorithm: key of the algorithm; it has rows
    :return: the summary
    """
    own = of_task(rows, task, algorithm)
    finals = np.array([row.final_mean for row in own])
    learned = [curve for row in own if (curve := curve_of(points, row))[0]]
    reaching = sorted(found for curve in learned if (found := curves.steps_to_threshold(*curve, task.target)) is not None)
    half = -(-len(own) // 2)
    times = [training_time(row) for row in own]
    return Summary(
        algorithm,
        len(own),
        float(finals.mean()),
        float(finals.std(ddof=1)) if len(own) > 1 else 0.0,
        aggregates.bootstrap(finals, aggregates.interquartile_mean),
        int((finals >= task.target).sum()),
        reaching[half - 1] if len(reaching) >= half else None,
        curves.coefficient_of_variation(finals) if len(own) > 1 else None,
        float(np.mean([curves.early_improvement(*curve) for curve in learned if len(curve[0]) > 1])) if learned else None,
        float(np.mean([curves.forgetting(*curve) for curve in learned])) if learned else None,
        median_or_none(times),
        sum(time is not None for time in times),
        float(np.median([row.cpu_seconds for row in own])),
    )


def compare(rows: Sequence[RunRow], task: Task, first: str, second: str) -> Comparison | None:
    """
    Compare two algorithms in an environment.

    :param rows: all rows
    :param task: the environment
    :param first: key of an algorithm
    :param second: key of the other
    :return: the comparison, or None if either has no rows
    """
    ours, theirs = (of_task(rows, task, algorithm) for algorithm in (first, second))
    if not ours or not theirs:
        return None
    finals = [np.array([row.final_mean for row in own]) for own in (ours, theirs)]
    by_seed = {row.seed: row for row in theirs}
    pairs = [(row, by_seed[row.seed]) for row in ours if row.seed in by_seed]
    same_bits = sum(one.fingerprint == other.fingerprint for one, other in pairs)
    test = comparisons.equivalence(*finals, margin=task.margin) if min(map(len, finals)) > 1 else None
    speeds = [speed_ratio(one, other) for one, other in pairs]
    improvement = comparisons.improvement_interval(*finals)
    if same_bits == len(ours) == len(theirs):  # the same policies: nothing to estimate
        test = comparisons.Equivalence(0.0, 0.0, 0.0, 0.0, task.margin, True)
        improvement = Interval(0.5, 0.5, 0.5)
    return Comparison(
        test,
        improvement,
        same_bits,
        len(pairs),
        median_or_none(speeds),
        sum(speed is not None for speed in speeds),
    )


def score_table(rows: Sequence[RunRow], tasks: Sequence[Task], algorithm: str) -> aggregates.Scores | None:
    """
    Put an algorithm's final returns in all its environments on one scale: random actions 0, the target 1.

    :param rows: all rows
    :param tasks: environments
    :param algorithm: key of the algorithm
    :return: scores of shape ``(runs, tasks)``: the environments that random actions have rows of, and it has all of its runs;
        None if there are none
    """
    runs = max((len(of_task(rows, task, algorithm)) for task in tasks), default=0)
    columns, low, high = [], [], []
    for task in tasks:
        own, random = of_task(rows, task, algorithm), of_task(rows, task, RANDOM)
        if own and random and len(own) == runs:
            columns.append([row.final_mean for row in own])
            low.append(float(np.mean([row.final_mean for row in random])))
            high.append(task.target)
    if not columns:
        return None
    return aggregates.normalize(np.array(columns).T, low, high)


def band(rows: Sequence[RunRow], points: Sequence[CurveRow], task: Task, algorithm: str) -> Band | None:
    """
    Average the learning curves of an algorithm.

    :param rows: all rows
    :param points: all evaluations during training
    :param task: the environment
    :param algorithm: key of the algorithm
    :return: the curve with its 95% interval at the steps that all seeds have, or None if there are none
    """
    found = [curve for row in of_task(rows, task, algorithm) if (curve := curve_of(points, row))[0]]
    if not found:
        return None
    common = sorted(set.intersection(*(set(steps) for steps, _ in found)))
    if not common:
        return None
    returns = np.array([[dict(zip(*curve, strict=True))[step] for step in common] for curve in found])
    drawn = np.random.default_rng(0).integers(len(returns), size=(2_000, len(returns)))
    low, high = aggregates.percentile_interval(returns[drawn].mean(axis=1), 0.95)
    return Band(np.array(common), returns.mean(axis=0), low, high, len(returns))
