"""Statistics of scores with faults, and inputs that tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_ppo_edu.course.exercises.observing import Case

FloatArray = npt.NDArray[np.floating]
Faults = frozenset[str]
Rng = np.random.Generator


def interquartile_mean(faults: Faults, scores: FloatArray) -> float:
    """
    Average the middle half of the runs.

    :param scores: shape ``(runs,)``
    :return: the mean
    """
    ordered = scores if "not-sorted" in faults else np.sort(scores)
    cut = len(scores) // (8 if "cut-an-eighth" in faults else 4)
    if "plain-mean" in faults:
        cut = 0
    if "median-for-middle-half" in faults:
        return float(np.median(scores))
    if "empty-slice" in faults and cut == 0:
        return float("nan")
    if "ends-replaced" in faults:
        return float(ordered.clip(ordered[cut], ordered[len(scores) - 1 - cut]).mean())
    if "between-percentiles" in faults:
        low, high = np.percentile(scores, [25, 75])
        return float(scores[(scores >= low) & (scores <= high)].mean())
    end = len(scores) if "cut-at-one-end" in faults else len(scores) - cut
    return float(ordered[cut:end].mean())


def score_cases(rng: Rng) -> list[Case]:
    """Make scores of runs."""
    return [
        Case(
            "eight runs, one of which collapsed", {"scores": np.array([200.0, 210.0, 9.0, 190.0, 205.0, 250.0, 230.0, 180.0])}
        ),
        Case("three runs", {"scores": np.array([3.0, 1.0, 2.5])}),
        Case("seven runs", {"scores": np.array([7.0, 1.0, 4.0, 2.0, 9.5, 30.0, 5.5])}),
        Case("ten random runs", {"scores": rng.normal(200.0, 50.0, size=10).round(1)}),
        Case("seventeen random runs", {"scores": rng.exponential(100.0, size=17).round(1)}),
    ]


def probability_of_improvement(faults: Faults, first: FloatArray, second: FloatArray) -> float:
    """
    Estimate how often a run of the first algorithm beats one of the second.

    :param first: shape ``(runs,)``
    :param second: shape ``(other_runs,)``
    :return: from 0 to 1
    """
    if "other-way-round" in faults:
        first, second = second, first
    if "means-compared" in faults:
        first, second = first.mean(keepdims=True), second.mean(keepdims=True)
    if "pair-by-pair" in faults:
        shared = min(len(first), len(second))
        difference: Any = first[:shared] - second[:shared]
    else:
        difference = first[:, None] - second[None, :]
    if "ties-left-out" in faults:
        difference = difference[difference != 0] if (difference != 0).any() else -np.ones(1)
    if "divided-by-own-number" in faults:
        first, second = first[:, None], second[None, :]
        return float(((first > second) + 0.5 * (first == second)).sum() / first.size**2)
    tie = 0.0 if "ties-lost" in faults else 1.0 if "ties-won" in faults else 0.5
    return float(np.where(difference == 0, tie, difference > 0).mean())


def pair_cases(rng: Rng) -> list[Case]:
    """Make scores of two algorithms."""

    def case(name: str, first: Any, second: Any) -> Case:
        return Case(name, {"first": np.array(first, dtype=float), "second": np.array(second, dtype=float)})

    return [
        case("an algorithm against itself", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        case("three runs each", [5.0, 1.0, 4.0], [2.0, 4.5, 0.0]),
        case("some runs reach the most there is", [500.0, 500.0, 480.0, 300.0], [500.0, 450.0, 500.0, 200.0]),
        case("random, six runs against six", rng.normal(size=6).round(1), rng.normal(size=6).round(1)),
        case("two runs against five", [3.0, 1.0], [2.0, 0.5, 3.0, 1.5, -1.0]),
        case("random, seven runs against four", rng.normal(0.5, 1.0, size=7).round(1), rng.normal(size=4).round(1)),
    ]
