"""From the rows of a suite to the numbers of its report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sb3_ppo_edu.lab.algorithms import ALGORITHMS, RANDOM, SETTINGS, held
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.plots import Band
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.statistics import aggregates, comparisons, curves
from sb3_ppo_edu.lab.statistics.aggregates import Interval

NEARLY = 0.1
"""Numbers of steps that differ by less than this share are the same."""


class Who(NamedTuple):
    """
    What a line of a page is about: an algorithm, and whose settings it has.

    :param algorithm: key of the algorithm
    :param settings: as the runs have it
    """

    algorithm: str
    settings: str


class Summary(NamedTuple):
    """
    One algorithm in one environment. Steps are the environment's.

    :param who: the algorithm and its settings
    :param seeds: number of runs
    :param steps: trained, the most of all runs
    :param mean: mean over the runs of the final return
    :param std: its standard deviation over the runs (n − 1); 0 for a single run
    :param iqm: interquartile mean with its interval
    :param reached: runs whose final return is at least the target
    :param steps_to_target: median over the runs of the steps to the target, or None if fewer than half reach it
    :param seconds_to_target: median over the same runs of their share of :func:`training_time`, or None if unknown
    :param variation: coefficient of variation over the runs, or None for a single one
    :param early: mean share of early evaluations that are not worse than the one before, or None without a curve
    :param forgetting: mean of best minus final evaluation, or None without a curve
    :param seconds: median of :func:`training_time`, or None if no run's is known
    :param timed: runs of which it is known
    """

    who: Who
    seeds: int
    steps: int
    mean: float
    std: float
    iqm: Interval
    reached: int
    steps_to_target: int | None
    seconds_to_target: float | None
    variation: float | None
    early: float | None
    forgetting: float | None
    seconds: float | None
    timed: int


class Comparison(NamedTuple):
    """
    Two algorithms in one environment, on the seeds that both have.

    :param test: two one-sided tests of the final returns, paired by seed; None with fewer than two seeds
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


def of_task(rows: Sequence[RunRow], task: Task, who: Who | None = None) -> list[RunRow]:
    """
    Choose the rows of an environment.

    :param rows: all rows
    :param task: the environment
    :param who: only this one's
    :return: its rows
    """
    return [row for row in rows if row.env == task.env and who in (None, Who(row.algorithm, row.settings))]


def learners_of(rows: Sequence[RunRow], task: Task) -> list[Who]:
    """
    List who has rows.

    :param rows: all rows
    :param task: the environment
    :return: algorithms with their settings, in the order of the rows, random actions last
    """
    found = dict.fromkeys(Who(row.algorithm, row.settings) for row in of_task(rows, task))
    return sorted(found, key=lambda who: who.algorithm == RANDOM)


def title_of(who: Who, among: Sequence[Who]) -> str:
    """
    Name a line of a page.

    :param who: the algorithm and its settings
    :param among: all lines
    :return: the algorithm's title, with the settings where it is there with others as well
    """
    title = ALGORITHMS[who.algorithm].title
    return title if sum(other.algorithm == who.algorithm for other in among) == 1 else f"{title}, {SETTINGS[who.settings]}"


def environment_steps(row: RunRow) -> int:
    """
    Count the environment steps of a run.

    :param row: the run
    :return: its decisions times the steps that each is held for; the last one of an episode may be held for fewer
    """
    return row.steps * held(row.algorithm, row.settings, row.env, row.overrides)


def steps_of(rows: Sequence[RunRow], task: Task) -> int:
    """
    Count the environment steps that an environment was trained for.

    :param rows: all rows
    :param task: the environment
    :return: the task's, if some algorithm has nearly as many; else the most of all
    """
    most = max((environment_steps(row) for row in of_task(rows, task) if row.algorithm != RANDOM), default=task.steps)
    return task.steps if most > (1.0 - NEARLY) * task.steps else most


def curve_of(points: Sequence[CurveRow], run: RunRow) -> tuple[list[int], list[float]]:
    """
    Find the learning curve of a run.

    :param points: all evaluations
    :param run: the run
    :return: environment steps and mean returns; empty without evaluations
    """
    own = [
        point
        for point in points
        if (point.algorithm, point.env, point.settings, point.variant, point.seed)
        == (run.algorithm, run.env, run.settings, run.variant, run.seed)
    ]
    repeats = held(run.algorithm, run.settings, run.env, run.overrides) if own else 1
    return [repeats * point.step for point in own], [point.mean for point in own]


def summarise(rows: Sequence[RunRow], points: Sequence[CurveRow], task: Task, who: Who) -> Summary:
    """
    Sum up an algorithm in an environment.

    :param rows: all rows
    :param points: all evaluations during training
    :param task: the environment
    :param who: the algorithm and its settings; it has rows
    :return: the summary
    """
    own = of_task(rows, task, who)
    finals = np.array([row.final_mean for row in own])
    learned = [(row, curve) for row in own if (curve := curve_of(points, row))[0]]
    reaching = [
        (found, row) for row, curve in learned if (found := curves.steps_to_threshold(*curve, task.target)) is not None
    ]
    reaching.sort(key=lambda pair: pair[0])
    half = -(-len(own) // 2)
    reached_by_half = len(reaching) >= half
    times = [training_time(row) for row in own]
    needed = [
        time * steps / environment_steps(row) for steps, row in reaching[:half] if (time := training_time(row)) is not None
    ]
    return Summary(
        who,
        len(own),
        max(environment_steps(row) for row in own),
        float(finals.mean()),
        float(finals.std(ddof=1)) if len(own) > 1 else 0.0,
        aggregates.bootstrap(finals, aggregates.interquartile_mean),
        int((finals >= task.target).sum()),
        reaching[half - 1][0] if reached_by_half else None,
        max(needed) if reached_by_half and len(needed) == half else None,
        curves.coefficient_of_variation(finals) if len(own) > 1 else None,
        float(np.mean([curves.early_improvement(*curve) for _, curve in learned if len(curve[0]) > 1])) if learned else None,
        float(np.mean([curves.forgetting(*curve) for _, curve in learned])) if learned else None,
        median_or_none(times),
        sum(time is not None for time in times),
    )


def compare(rows: Sequence[RunRow], task: Task, first: Who, second: Who) -> Comparison | None:
    """
    Compare two algorithms in an environment, on the seeds that both have.

    :param rows: all rows
    :param task: the environment
    :param first: an algorithm with its settings
    :param second: the other
    :return: the comparison, or None if they have no seed in common
    """
    by_seed = {row.seed: row for row in of_task(rows, task, second)}
    pairs = [(row, by_seed[row.seed]) for row in of_task(rows, task, first) if row.seed in by_seed]
    if not pairs:
        return None
    finals = [np.array([pair[which].final_mean for pair in pairs]) for which in (0, 1)]
    same_bits = sum(one.fingerprint == other.fingerprint for one, other in pairs)
    test = None
    if len(pairs) > 1:
        margin = task.margin or float(finals[1].std(ddof=1)) or 1.0
        test = comparisons.equivalence(*finals, margin=margin, pairs=True)
    speeds = [speed_ratio(one, other) for one, other in pairs]
    improvement = comparisons.improvement_interval(*finals)
    if same_bits == len(pairs):  # the same policies: nothing to estimate
        improvement = Interval(0.5, 0.5, 0.5)
    known = sum(speed is not None for speed in speeds)
    return Comparison(test, improvement, same_bits, len(pairs), median_or_none(speeds), known)


def score_table(rows: Sequence[RunRow], tasks: Sequence[Task], whos: Sequence[Who]) -> aggregates.Scores | None:
    """
    Put an algorithm's final returns in all its environments on one scale: random actions 0, the target 1.

    :param rows: all rows
    :param tasks: environments
    :param whos: the algorithm, with its settings in one environment or another
    :return: scores of shape ``(runs, tasks)``: the environments that random actions have rows of, and it has all of its runs;
        None if there are none
    """
    own_rows = {task: [row for who in whos for row in of_task(rows, task, who)] for task in tasks}
    runs = max(map(len, own_rows.values()), default=0)
    columns, low, high = [], [], []
    for task, own in own_rows.items():
        random = [row for row in of_task(rows, task) if row.algorithm == RANDOM]
        if own and random and len(own) == runs:
            columns.append([row.final_mean for row in own])
            low.append(float(np.mean([row.final_mean for row in random])))
            high.append(task.target)
    if not columns:
        return None
    return aggregates.normalize(np.array(columns).T, low, high)


def band(rows: Sequence[RunRow], points: Sequence[CurveRow], task: Task, who: Who) -> Band | None:
    """
    Average the learning curves of an algorithm.

    :param rows: all rows
    :param points: all evaluations during training
    :param task: the environment
    :param who: the algorithm and its settings
    :return: the curve with its 95% interval at the steps that all seeds have, or None if there are none
    """
    found = [curve for row in of_task(rows, task, who) if (curve := curve_of(points, row))[0]]
    if not found:
        return None
    common = sorted(set.intersection(*(set(steps) for steps, _ in found)))
    if not common:
        return None
    returns = np.array([[dict(zip(*curve, strict=True))[step] for step in common] for curve in found])
    drawn = np.random.default_rng(0).integers(len(returns), size=(2_000, len(returns)))
    low, high = aggregates.percentile_interval(returns[drawn].mean(axis=1), 0.95)
    return Band(np.array(common), returns.mean(axis=0), low, high, len(returns))
