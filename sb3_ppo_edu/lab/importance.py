"""How much each setting matters, from the rows of the sensitivity study.

Returns are put on a scale on which random actions are 0 and the environment's target is 1; what is worse than random counts
as 0, so that one policy that flies away does not outweigh all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_ppo_edu.lab.algorithms import RANDOM
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.runs import RunRow
from sb3_ppo_edu.lab.sensitivity import FACTORS, JOINT, LECTURE_ORDER, Factor, settings_in, variant_of
from sb3_ppo_edu.lab.statistics.aggregates import RESAMPLES, Interval, bootstrap, mean, normalize, percentile_interval
from sb3_ppo_edu.serialization.extras import need

TREES = 64
"""Trees of a fANOVA's forest."""

RESAMPLED_FORESTS, RESAMPLED_TREES = 50, 16
"""Resamples of the joint design, each with a smaller forest of its own."""

ENOUGH = 16
"""Points of the joint design below which no forest is grown."""


class Level(NamedTuple):
    """
    One value of a factor, the others being at SB3's defaults.

    :param value: of the factor
    :param score: mean score over the seeds, with its interval
    :param returns: final returns of the seeds
    """

    value: float
    score: Interval
    returns: tuple[float, ...]


class Effect(NamedTuple):
    """
    What one factor does in one environment.

    :param factor: the factor
    :param reach: best minus worst mean score over the levels inside its range, with a bootstrap interval over seeds
    :param chance: p-value of Kruskal and Wallis's test that those levels don't differ, or None with fewer than two levels
    :param importance: share of the variance of the joint design that its main effect explains (fANOVA), or None
    """

    factor: Factor
    reach: Interval
    chance: float | None
    importance: Interval | None


def scores_of(rows: Sequence[RunRow], task: Task, returns: Sequence[float]) -> np.ndarray:
    """
    Put final returns on the scale from random actions to the target.

    :param rows: all rows, among them random actions'
    :param task: the environment
    :param returns: final returns
    :return: scores, at least 0
    :raises ValueError: if random actions have no row
    """
    random = [row.final_mean for row in rows if row.env == task.env and row.algorithm == RANDOM]
    if not random:
        raise ValueError(f"{task.env}: found no row of random actions, expected one: it is where the scores begin")
    scaled = normalize(np.asarray(returns, dtype=np.float64)[:, None], [float(np.mean(random))], [task.target])
    return np.maximum(scaled[:, 0], 0.0)


def returns_at(rows: Sequence[RunRow], task: Task, factor: Factor, value: float) -> list[float]:
    """
    Find the final returns at one level.

    :param rows: all rows
    :param task: the environment
    :param factor: the factor
    :param value: of the factor
    :return: one for each seed that is done
    """
    name = variant_of(factor, value)
    return [row.final_mean for row in rows if (row.env, row.variant) == (task.env, name) and row.algorithm != RANDOM]


def levels_of(rows: Sequence[RunRow], task: Task, factor: Factor) -> list[Level]:
    """
    Sum up a factor's levels.

    :param rows: all rows
    :param task: the environment
    :param factor: the factor
    :return: its levels that have rows
    """
    found = []
    for value in factor.levels:
        returns = returns_at(rows, task, factor, value)
        if returns:
            found.append(Level(value, bootstrap(scores_of(rows, task, returns), mean), tuple(returns)))
    return found


def reaches(rows: Sequence[RunRow], task: Task, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, np.ndarray]:
    """
    Estimate how far the mean score moves over each factor's range, with bootstrap resamples of the seeds.

    The defaults' runs, which all factors share, are resampled once for all of them.

    :param rows: all rows
    :param task: the environment
    :param resamples: number of resamples
    :param seed: of the resampling
    :return: best minus worst level by factor: first from all runs, then for each resample; shape ``(1 + resamples,)``
    """
    generator = np.random.default_rng(seed)
    means: dict[str, np.ndarray] = {}
    for factor in FACTORS:
        for value in factor.within:
            name, returns = variant_of(factor, value), returns_at(rows, task, factor, value)
            if name not in means and returns:
                scores = scores_of(rows, task, returns)
                drawn = scores[generator.integers(len(scores), size=(resamples, len(scores)))]
                means[name] = np.concatenate([[scores.mean()], drawn.mean(axis=1)])
    found = {}
    for factor in FACTORS:
        levels = [means[name] for value in factor.within if (name := variant_of(factor, value)) in means]
        if len(levels) > 1:
            found[factor.name] = np.ptp(np.stack(levels), axis=0)
    return found


def lecture_order_holds(rows: Sequence[RunRow], task: Task) -> float | None:
    """
    Estimate the probability that the lecture's ranking holds: learning rate before clip range before rollout.

    :param rows: all rows
    :param task: the environment
    :return: share of the bootstrap's resamples in which the three reaches fall in that order, or None if one has no rows
    """
    found = reaches(rows, task)
    if any(name not in found for name in LECTURE_ORDER):
        return None
    first, second, third = (found[name][1:] for name in LECTURE_ORDER)
    return float(((first > second) & (second > third)).mean())


def difference_by_chance(rows: Sequence[RunRow], task: Task, factor: Factor) -> float | None:
    """
    Test whether the levels inside a factor's range differ at all (Kruskal and Wallis 1952).

    :param rows: all rows
    :param task: the environment
    :param factor: the factor
    :return: p-value, or None with fewer than two levels
    """
    groups = [found for value in factor.within if (found := returns_at(rows, task, factor, value))]
    if len(groups) < 2:
        return None
    scores = [scores_of(rows, task, group) for group in groups]
    if np.ptp(np.concatenate(scores)) == 0.0:
        return 1.0
    return float(need("scipy.stats", "lab", "the sensitivity study").kruskal(*scores).pvalue)


def effects_of(rows: Sequence[RunRow], task: Task) -> list[Effect]:
    """
    Say what each factor does, the strongest first.

    :param rows: all rows
    :param task: the environment
    :return: factors with at least two levels inside their ranges, ordered by reach
    """
    found = reaches(rows, task)
    shares = joint_importance(rows, task)
    effects = []
    for factor in FACTORS:
        if factor.name in found:
            low, high = percentile_interval(found[factor.name][1:], 0.95)
            reach = Interval(float(found[factor.name][0]), float(low), float(high))
            effects.append(Effect(factor, reach, difference_by_chance(rows, task, factor), shares.get(factor.name)))
    return sorted(effects, key=lambda effect: -effect.reach.value)


def joint_importance(rows: Sequence[RunRow], task: Task, *, seed: int = 0) -> dict[str, Interval]:
    """
    Estimate by fANOVA which share of the score's variance each factor explains when all of them vary.

    Hutter, Hoos and Leyton-Brown 2014, An Efficient Approach for Assessing Hyperparameter Importance; Optuna's implementation
    and its forest. The variance is that over the joint design's own distribution: settings that it draws on a logarithmic
    scale are handed over as logarithms, as Optuna's evaluator weighs a range evenly whatever its distribution says. The
    intervals come from forests of resampled runs.

    :param rows: all rows
    :param task: the environment
    :param seed: of the forests and the resamples
    :return: share by factor, none if fewer than 16 runs are done
    """
    own = [row for row in rows if (row.env, row.variant) == (task.env, JOINT)]
    if len(own) < ENOUGH:
        return {}
    points = [settings_in(row.overrides) for row in own]
    scores = scores_of(rows, task, [row.final_mean for row in own])
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(own), size=(RESAMPLED_FORESTS, len(own)))
    resampled = [
        forest_shares([points[i] for i in drawn], scores[drawn], seed + index, RESAMPLED_TREES)
        for index, drawn in enumerate(draws, start=1)
    ]
    shares = forest_shares(points, scores, seed, TREES)
    found = {}
    for factor in FACTORS:
        low, high = percentile_interval(np.array([share[factor.name] for share in resampled]), 0.95)
        found[factor.name] = Interval(shares[factor.name], float(low), float(high))
    return found


def forest_shares(points: Sequence[dict[str, float]], scores: np.ndarray, seed: int, trees: int) -> dict[str, float]:
    """
    Grow a forest on runs, and let fANOVA take it apart.

    :param points: value by factor of each run
    :param scores: of the runs, shape ``(n,)``
    :param seed: of the forest
    :param trees: of the forest
    :return: share of the variance by factor
    """
    for library in ("sklearn", "optuna"):
        need(library, "lab", "the sensitivity study's fANOVA")
    # Imported here: it is slow to import.
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution

    def scaled(factor: Factor, value: float) -> float:
        return value if factor.scale == "linear" else float(np.log(value))

    # Powers of two are drawn evenly: half a step beyond the first and the last makes all of them equally wide.
    beyond = {factor.name: 0.5 * float(np.log(2.0)) if factor.scale == "power" else 0.0 for factor in FACTORS}
    distributions: dict[str, BaseDistribution] = {
        factor.name: FloatDistribution(
            scaled(factor, factor.low) - beyond[factor.name], scaled(factor, factor.high) + beyond[factor.name]
        )
        for factor in FACTORS
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(verbosity)
    trials = [
        optuna.trial.create_trial(
            params={factor.name: scaled(factor, point[factor.name]) for factor in FACTORS},
            distributions=distributions,
            value=float(score),
        )
        for point, score in zip(points, scores, strict=True)
    ]
    study.add_trials(trials)
    shares = optuna.importance.FanovaImportanceEvaluator(n_trees=trees, seed=seed).evaluate(study)
    return {name: float(share) for name, share in shares.items()}
