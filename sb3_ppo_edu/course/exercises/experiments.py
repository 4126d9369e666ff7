"""What makes two runs comparable, with faults, and runs that tell these apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_ppo_edu.course.exercises.inputs import varied
from sb3_ppo_edu.course.exercises.observing import Case

FloatArray = npt.NDArray[np.floating]
Faults = frozenset[str]
Rng = np.random.Generator


def first_difference(faults: Faults, first: FloatArray, second: FloatArray) -> int:
    """
    Find the update at which two runs part.

    :param first: numbers of a run after each update, shape ``(updates, numbers)``
    :param second: the other run's, the same shape
    :return: index of the first update in which any number differs, −1 if there is none
    """
    different = first != second
    if "nan-never-equal" not in faults:
        different &= ~(np.isnan(first) & np.isnan(second))
    if "tolerance-for-bits" in faults:
        different = ~np.isclose(first, second, equal_nan="nan-never-equal" not in faults)
    if "sums-compared" in faults:
        of_first, of_second = first.sum(axis=1), second.sum(axis=1)
        different = ((of_first != of_second) & ~(np.isnan(of_first) & np.isnan(of_second)))[:, None]
    rows = np.flatnonzero(different.all(axis=1) if "all-for-any" in faults else different.any(axis=1))
    if "counted-not-found" in faults:
        return len(rows)
    if len(rows) == 0:
        return 0 if "zero-for-never" in faults else -1
    row = int(rows[-1] if "last-not-first" in faults else rows[0])
    return row + 1 if "numbered-from-one" in faults else row


def run_pairs(rng: Rng) -> list[Case]:
    """Make pairs of runs that part, or do not."""

    def case(name: str, change: dict[tuple[int, int], float], updates: int = 5, numbers: int = 3) -> Case:
        first = rng.normal(size=(updates, numbers)).round(3)
        second = first.copy()
        for place, by in change.items():
            second[place] += by
        return Case(name, {"first": first, "second": second})

    ulp = case("by one bit of one number", {})
    ulp.arguments["second"][2, 1] = np.nextafter(ulp.arguments["second"][2, 1], np.inf)
    nan = case("a NaN in both, and a difference after it", {(3, 0): 0.5, (4, 0): 0.5})
    for run in nan.arguments.values():
        run[1, 2] = np.nan
    first_nan = case("a NaN in the first run, where the second has 0", {(4, 1): 0.5})
    first_nan.arguments["first"][2, 0], first_nan.arguments["second"][2, 0] = np.nan, 0.0
    second_nan = case("a NaN in the second run, where the first has 0", {(3, 1): 0.5})
    second_nan.arguments["first"][1, 1], second_nan.arguments["second"][1, 1] = 0.0, np.nan
    return [
        case("they part at the third update", {(2, 0): 0.25, (3, 1): 0.5, (4, 1): 0.75}),
        case("two equal runs", {}),
        ulp,
        nan,
        first_nan,
        second_nan,
        case("two differences that add up to nothing", {(1, 0): 0.5, (1, 1): -0.5, (2, 0): 0.125}),
        case("they part at once, in every number", {(0, 0): 1.0, (0, 1): 1.0, (0, 2): 1.0}),
        case("random", {(int(rng.integers(1, 7)), 1): 0.5, (7, 0): 1.0}, updates=8, numbers=2),
    ]


def score_within_budget(
    faults: Faults, decisions: npt.NDArray[np.integer], scores: FloatArray, budget: int, action_repeat: int
) -> float:
    """
    Look up what a run had reached when its budget was spent.

    :param decisions: made before each evaluation, rising, shape ``(evaluations,)``
    :param scores: of the evaluations, the same shape
    :param budget: steps of the environment
    :param action_repeat: steps of the environment that one decision takes
    :return: score of the last evaluation within the budget
    """
    steps: Any = decisions if "decisions-for-steps" in faults else decisions * action_repeat
    if "repeat-divided" in faults:
        steps = decisions / action_repeat
    within = steps < budget if "budget-boundary-lost" in faults else steps <= budget
    if "budget-overdrawn" in faults:
        within = np.arange(len(steps)) <= int(np.argmax(steps >= budget)) if (steps >= budget).any() else steps > 0
    if "nearest-to-budget" in faults:
        return float(scores[np.argmin(np.abs(steps - budget))])
    if "budget-ignored" in faults:
        within = np.ones(len(steps), dtype=bool)
    found = scores[within]
    if len(found) == 0:
        return float("nan")
    if "best-not-final" in faults:
        return float(found.max())
    return float(found.mean() if "mean-of-run" in faults else found[-1])


def budget_cases(rng: Rng) -> list[Case]:
    """Make evaluations of runs, and budgets."""

    def case(name: str, decisions: list[int], scores: list[float], budget: int, action_repeat: int = 1) -> Case:
        return Case(
            name,
            {
                "decisions": np.array(decisions),
                "scores": np.array(scores),
                "budget": budget,
                "action_repeat": action_repeat,
            },
        )

    every = list(range(1000, 9000, 1000))
    return [
        case("a budget between two evaluations", [100, 200, 300, 400], [10.0, 40.0, 30.0, 90.0], 380),
        case("an evaluation exactly at the budget", [100, 200, 300, 400], [10.0, 40.0, 30.0, 90.0], 300),
        case("each action held for four steps", [100, 200, 300, 400], [10.0, 40.0, 30.0, 90.0], 900, 4),
        case("a budget that is never spent", [100, 200, 300, 400], [10.0, 40.0, 90.0, 60.0], 10_000, 2),
        several := case("random", every, rng.normal(100.0, 50.0, size=8).round(1).tolist(), int(rng.integers(5600, 5900))),
        varied(several, action_repeat=2),
        varied(several, budget=int(rng.integers(2100, 2400))),
        varied(several, budget=int(rng.integers(3600, 3900))),
    ]
