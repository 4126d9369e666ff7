"""
Which mistake explains what an answer did, on every input.

Searched in the order of how much they tell: the catalogue's mistakes; an argument without effect; one small change to what is
right, or one thing done before or after it; two of the catalogue's; another quantity of the course; two changes. Only what
explains all inputs counts, and only if nothing else does: where two changes that are not the same explain them, neither is
named.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.comparing import ABSOLUTE, RELATIVE, alike, same_values
from sb3_ppo_edu.course.exercises.exercise import Exercise
from sb3_ppo_edu.course.exercises.locating import as_array
from sb3_ppo_edu.course.exercises.mistakes import MISTAKES
from sb3_ppo_edu.course.exercises.mistakes.families import IDEAS
from sb3_ppo_edu.course.exercises.observing import Answer, Case, Observation, observe_once, to_numbers
from sb3_ppo_edu.course.exercises.transforming import after, before
from sb3_ppo_edu.course.exercises.variants import variants

TELLING = ("sign", "term", "factor", "function", "reduction", "axis", "power")
"""Families with which a detour may come together."""
DISCRETE = ("comparison", "condition", "order", "step", "statement", "reduction", "bound", "axis", "argument", "sign")
"""Families that are named where all results are whole numbers."""
OTHER_SEEDS = (101, 102)
"""Of the inputs on which explanations are compared with each other."""
FEWEST = 3
"""Inputs that a mistake has to explain."""
GLANCE = 4
"""Numbers of the first input that are looked at before all the rest is computed."""


class Mistake(NamedTuple):
    """
    What is wrong with an answer.

    :param name: in the catalogue, or the family's
    :param title: in a few words
    :param idea: what it misses
    """

    name: str
    title: str
    idea: str


Explanation = tuple[Mistake, ...]
Candidate = tuple[Explanation, Answer]


def explain(
    exercise: Exercise, cases: Sequence[Case], observations: Sequence[Observation], expected: Sequence[Observation]
) -> Explanation:
    """
    Find what explains an answer on all inputs that it returned something for.

    :param exercise: what was asked
    :param cases: the inputs
    :param observations: what the answer did
    :param expected: what is right
    :return: the mistakes, one or two, or none if nothing explains it
    """
    returned = [one for one in zip(cases, observations, expected, strict=True) if not one[1].error]
    if len(returned) < min(FEWEST, len(cases)):
        return ()
    # Random inputs tell most and stand last; where the answer is right, there is nothing to explain.
    returned.sort(key=lambda one: (alike(one[1], one[2]), -cases.index(one[0])))
    observed = [(case, observation) for case, observation, _ in returned]
    if all(np.isnan(observation.values).all() for _, observation in observed):
        return ()  # every broken formula gives NaN
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return _first_that_does(exercise, cases, observations, expected, observed)


def _first_that_does(
    exercise: Exercise,
    cases: Sequence[Case],
    observations: Sequence[Observation],
    expected: Sequence[Observation],
    observed: Sequence[tuple[Case, Observation]],
) -> Explanation:
    """Search in the order of how much an explanation tells."""
    if mistake := next((one for one, answer in _catalogue(exercise, 1) if _does(answer, observed)), ()):
        return mistake
    unread = list(_without_effect(cases, observations, expected))
    evidence = _evidence(observations, expected)
    levels: list[Callable[[], Iterable[Candidate]]] = [
        lambda: _variants(exercise, evidence),
        lambda: itertools.chain(
            _catalogue(exercise, 2), _detours(cases, [((), exercise.solution)]), _other_quantities(exercise)
        ),
        lambda: _wrong_detours(exercise, cases, evidence),
    ]
    for level in levels if evidence else ():
        if found := [candidate for candidate in level() if _does(candidate[1], observed)]:
            return found[0][0] if _are_one(exercise, cases, found) else ()
        if any(isinstance(cases[-1].arguments[name], int | float) for name in unread):
            break  # numbers that are written in would need two changes to be explained
    words = f"{', '.join(f'`{name}`' for name in unread)} {'has' if len(unread) == 1 else 'have'} no effect"
    return (_family("without-effect", words),) if unread else ()


def _evidence(observations: Sequence[Observation], expected: Sequence[Observation]) -> str:
    """
    Tell how much can be concluded from what is wrong.

    :return: "numbers"; "counts" where all are whole, which much may explain; empty where hardly anything or only NaN is wrong
    """
    pairs = [
        (found, wanted)
        for one, other in zip(observations, expected, strict=True)
        if not one.error
        for found, wanted in _pairs(one, other)
    ]
    counts = all(float(number).is_integer() for found, _ in pairs for number in found if np.isfinite(number))
    differing = 0
    for found, wanted in pairs:
        if len(found) != len(wanted):
            differing += FEWEST  # a shape is much to explain
            continue
        differing += int(np.sum(~np.isclose(found, wanted, rtol=RELATIVE, atol=ABSOLUTE) & np.isfinite(found)))
    return "" if differing < (FEWEST if counts else FEWEST - 1) else "counts" if counts else "numbers"


def _pairs(one: Observation, other: Observation) -> Iterator[tuple[Sequence[float], Sequence[float]]]:
    """List the numbers and the gradients that were found, with those that are right."""
    yield one.values, other.values
    for name, wanted in other.gradients.items():
        yield one.gradients.get(name, []), wanted


def _are_one(exercise: Exercise, cases: Sequence[Case], found: Sequence[Candidate]) -> bool:
    """Tell whether all that explains an answer does the same on other inputs too, so that each name for it is right."""
    if len({explanation for explanation, _ in found}) == 1:
        return True
    asked = {case.name for case in cases}
    others = [case for seed in OTHER_SEEDS for case in exercise.cases(seed) if case.name in asked]
    first = [observe_once(found[0][1], case) for case in others]
    return all(
        _alike(observe_once(answer, case), one) for _, answer in found[1:] for case, one in zip(others, first, strict=True)
    )


def _alike(one: Observation, other: Observation) -> bool:
    """Tell whether two answers did the same, which may be to raise."""
    return bool(one.error and other.error) or alike(one, other)


def _does(answer: Answer, observed: Sequence[tuple[Case, Observation]]) -> bool:
    """Tell whether an answer does what was observed; most differ in the first numbers of the first input already."""
    case, seen = observed[0]
    try:
        numbers = to_numbers(answer(*case.arguments.values()))
    except Exception:
        return False
    if numbers.shape != seen.shape:
        return False
    for found, wanted in zip(numbers.flat, seen.values[:GLANCE], strict=False):
        # NaN is in no interval.
        if not (
            abs(found - wanted) <= 10 * (ABSOLUTE + RELATIVE * abs(wanted)) or found == wanted or found != wanted != wanted
        ):
            return False
    return all(alike(observation, observe_once(answer, case)) for case, observation in observed)


def _without_effect(
    cases: Sequence[Case], observations: Sequence[Observation], expected: Sequence[Observation]
) -> Iterator[str]:
    """Name the arguments that change nothing, in pairs of inputs that differ in this one alone and have other answers."""
    for name in cases[0].arguments:
        pairs_of = [
            (one, other)
            for one, other in itertools.combinations(range(len(cases)), 2)
            if _differ_in(name, cases[one], cases[other])
            if _nowhere_equal(cases[one].arguments[name], cases[other].arguments[name])
            if not same_values(expected[one], expected[other])
        ]
        if pairs_of and all(same_values(observations[one], observations[other]) for one, other in pairs_of):
            yield name


def _nowhere_equal(one: Any, other: Any) -> bool:
    """Tell whether two arguments have the same shape and no number in common."""
    first, second = as_array(one), as_array(other)
    return first.shape == second.shape and bool((first != second).all())


def _differ_in(name: str, one: Case, other: Case) -> bool:
    """Tell whether two inputs are the same objects but for one argument; :func:`varied` makes such pairs."""
    return {key for key, value in one.arguments.items() if value is not other.arguments[key]} == {name}


def _variants(exercise: Exercise, evidence: str) -> Iterator[Candidate]:
    """List what differs in one thing from what is right."""
    for one in variants(exercise.name):
        if evidence == "numbers" or one.family in DISCRETE:
            yield (_family(one.family, one.title),), one.answer


def _wrong_detours(exercise: Exercise, cases: Sequence[Case], evidence: str) -> Iterator[Candidate]:
    """List detours of answers that are wrong already; a few whole numbers can be explained by anything."""
    if evidence == "numbers":
        telling = [one for one in _variants(exercise, evidence) if one[0][0].name in TELLING]
        yield from _detours(cases, [*_catalogue(exercise, 1), *telling])


def _catalogue(exercise: Exercise, count: int) -> Iterator[Candidate]:
    """List the catalogue's mistakes, or pairs of them."""
    for names in itertools.combinations(exercise.mistakes, count):
        found = [MISTAKES[name] for name in names]
        yield tuple(Mistake(one.name, one.title, one.idea) for one in found), exercise.with_faults(*names)


def _detours(cases: Sequence[Case], answers: Sequence[Candidate]) -> Iterator[Candidate]:
    """List answers with one thing done before or after."""
    arguments = cases[-1].arguments
    number = np.ndim(answers[0][1](*arguments.values())) == 0
    changes = [*after(number), *before(arguments)]
    for explanation, answer in answers:
        for family, title, change in changes:
            yield (*explanation, _family(family, title)), change(answer)


def _other_quantities(exercise: Exercise) -> Iterator[Candidate]:
    """List what other exercises ask for: of arguments of the same names, or of the same kinds in the same order."""
    mine = exercise.cases()[0].arguments
    for name, other in EXERCISES.items():
        theirs = other.cases()[0].arguments
        explanation = (_family("other-quantity", f"This is `{name}`"),)
        if name == exercise.name:
            continue
        if theirs.keys() <= mine.keys():
            places = [list(mine).index(one) for one in theirs]
            yield explanation, lambda *given, o=other, p=places: o.solution(*(given[place] for place in p))
        elif [type(one) for one in theirs.values()] == [type(one) for one in mine.values()]:
            yield explanation, other.solution


def _family(name: str, title: str) -> Mistake:
    """Describe a mistake of a family."""
    return Mistake(name, title[0].upper() + title[1:], IDEAS[name])
