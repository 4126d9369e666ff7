"""
From what an answer did to what is wrong with it, in terms of the idea.

The order matters: first what stops an answer from being judged at all (not written, an exception, nothing returned), then the
mistakes that have a name, one or two at once, and last what can be said of numbers alone: sign, scale, shape, NaN.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.comparing import alike, close, same_values
from sb3_ppo_edu.course.exercises.describing import describe
from sb3_ppo_edu.course.exercises.exercise import VISIBLE_SEED, Exercise
from sb3_ppo_edu.course.exercises.mistakes.families import IDEAS
from sb3_ppo_edu.course.exercises.naming import explain
from sb3_ppo_edu.course.exercises.observing import Answer, Case, Observation, observe, observe_once
from sb3_ppo_edu.course.exercises.verdict import Verdict

NBGRADER_VARIABLE = "NBGRADER_EXECUTION"
"""Set by nbgrader while it validates or grades."""


SHAPES_DIFFER = "Two shapes do not fit together: print both with `.shape`, and say which axis is which."

HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("requires grad", "numpy"),
        "A loss has to stay in torch, or no gradient gets through: use torch's functions instead of numpy's, and no "
        "`.numpy()` on the way.",
    ),
    (
        ("modified by an inplace operation",),
        "Something is changed in place that the gradient still needs: compute something new.",
    ),
    (("in-place operation",), "An argument is changed in place, which needs a gradient: compute something new instead."),
    (("TypeError", "positional argument"), "The signature was changed: keep the arguments and their order."),
    (("NameError",), "A name is used that nothing has been assigned to: a typing error, or a cell above that was not run."),
    (("UnboundLocalError",), "A name is used before something is assigned to it."),
    (("could not infer output dtype",), "The mean of yes and no is taken of numbers: `.float()` makes 1 and 0 of them."),
    (("numpy boolean",), "Yes and no are no numbers to numpy: `1.0 * mask` or `mask.astype(float)` makes 1 and 0 of them."),
    (
        ("with a bool tensor",),
        "Yes and no are no numbers to torch: `.float()` makes 1 and 0 of them, `~mask` is the opposite.",
    ),
    (("size of tensor",), SHAPES_DIFFER),
    (("broadcast",), SHAPES_DIFFER),
    (("dimensions", "match"), SHAPES_DIFFER),
    (("shapes", "not aligned"), SHAPES_DIFFER),
    (("IndexError",), "An index points beyond the end: which is the last one, and what follows after it?"),
)
"""Parts of an exception's type and message, and what it means."""


def check(name: str, answer: Answer, seed: int = VISIBLE_SEED, lesson: str = "") -> Verdict:
    """
    Try an answer and say whether it is right, and if not, what it misses.

    :param name: name of the exercise
    :param answer: the function that was written
    :param seed: of the inputs
    :param lesson: number of the lesson, where several ask for the function and one of them for less
    :return: the verdict; it shows itself in a notebook, ``print`` gives it as text
    :raises ValueError: if there is no such exercise, or the answer cannot be called
    :raises AssertionError: under nbgrader, which takes points off where a cell raises, if the answer is not right
    """
    exercise = find_exercise(name)
    if not callable(answer):
        raise ValueError(f"check({name!r}, {answer!r}): expected the function itself: check({name!r}, {name})")
    cases = exercise.cases(seed, lesson)
    if NBGRADER_VARIABLE not in os.environ:
        return judge(exercise, observe(answer, cases), seed, lesson)
    # nbgrader takes all points off where anything is written there, be it a warning on the way to the right number.
    with contextlib.redirect_stderr(sys.stdout):
        verdict = judge(exercise, observe(answer, cases), seed, lesson)
    if not verdict.passed:
        raise AssertionError(str(verdict))
    return verdict


def find_exercise(name: str) -> Exercise:
    """
    Look up an exercise.

    :raises ValueError: if there is none
    """
    if name not in EXERCISES:
        raise ValueError(f"exercise {name!r}: expected one of {', '.join(EXERCISES)}")
    return EXERCISES[name]


def judge(exercise: Exercise, observations: Sequence[Observation], seed: int = VISIBLE_SEED, lesson: str = "") -> Verdict:
    """
    Judge what an answer did. Nothing of the answer itself is needed, so observations may come from another process.

    :param exercise: what was asked
    :param observations: one for each case
    :param seed: of the inputs
    :param lesson: that the answer was written for
    """
    cases = exercise.cases(seed, lesson)
    expected = _expected(exercise.name, seed, lesson)
    if [one.case for one in observations] != [case.name for case in cases]:
        return Verdict(exercise.name, "crashed", "it did not finish", ("Not every input was answered.",))
    same = [alike(one, other) for one, other in zip(observations, expected, strict=True)]
    share = float(np.mean([ok and one.repeatable and not one.changed for ok, one in zip(same, observations, strict=True)]))
    verdict = (
        _nothing(exercise, observations)
        or _meddling(exercise, observations, share)
        or _strange(exercise, observations, share)
        or (_right(exercise, cases) if all(same) else None)
        or _named(exercise, cases, observations, expected, share)
        or _stopped(exercise, observations, share)
        or _by_numbers(exercise, cases, observations, expected, same, share)
    )
    return verdict


@lru_cache(maxsize=256)
def _expected(name: str, seed: int, lesson: str) -> tuple[Observation, ...]:
    """Observe what is right."""
    exercise = EXERCISES[name]
    return tuple(observe_once(exercise.solution, case) for case in exercise.cases(seed, lesson))


def _right(exercise: Exercise, cases: Sequence[Case]) -> Verdict:
    """Praise, shortly."""
    gradients = " Gradients too." if cases[0].differentiable else ""
    return Verdict(
        exercise.name, "right", "right", (f"{len(cases)} inputs, from “{cases[0].name}” on.{gradients}",), share=1.0
    )


def _nothing(exercise: Exercise, observations: Sequence[Observation]) -> Verdict | None:
    """Report what was not written, or returns nothing."""
    raised = [one for one in observations if one.error]
    if raised and raised[0].error == "NotImplementedError":
        return Verdict(exercise.name, "todo", "not written yet", (f"Expected: {exercise.expects}.",))
    if all(one.kind == "NoneType" for one in observations):
        text = "A function without `return` returns None, whatever it has computed."
        return Verdict(exercise.name, "wrong", "it returns nothing", (text, f"Expected: {exercise.expects}."))
    return None


def _strange(exercise: Exercise, observations: Sequence[Observation], share: float) -> Verdict | None:
    """Report what is no number."""
    strange = [one for one in observations if not one.error and one.shape is None]
    if strange:
        found = f"found {strange[0].kind}, expected {exercise.expects}"
        return Verdict(
            exercise.name, "wrong", "it returns something that is no tensor, array or number", (found,), share=share
        )
    return None


def _stopped(exercise: Exercise, observations: Sequence[Observation], share: float) -> Verdict | None:
    """Report an exception that stands in the way of every input."""
    raised = [one for one in observations if one.error]
    if len(raised) < len(observations):
        return None
    first = raised[0]
    where = (("where", first.line),) if first.line else ()
    evidence = (("input", first.case), (first.error, first.message[:300]), *where)
    hint = _hint(first)
    names = ("raises",) if hint else ()
    return Verdict(exercise.name, "crashed", f"it raises {first.error}", (hint,) if hint else (), evidence, names, share)


def _hint(raised: Observation) -> str | None:
    """Translate the exceptions that everybody meets."""
    return next((hint for parts, hint in HINTS if all(part in f"{raised.error}: {raised.message}" for part in parts)), None)


def _meddling(exercise: Exercise, observations: Sequence[Observation], share: float) -> Verdict | None:
    """Report an answer that changes its inputs, or remembers something."""
    changed = [one for one in observations if one.changed]
    if changed:
        names = ", ".join(f"`{name}`" for name in changed[0].changed)
        text = (
            f"After the call {names} is no longer what it was. In PPO the same batch is used in every epoch: compute "
            "something new (`a = a - b`) instead of changing in place (`a -= b`, `a.sub_(b)`, `a[t] = …`)."
        )
        evidence = (("input", changed[0].case),)
        return Verdict(exercise.name, "wrong", "it changes its inputs", (text,), evidence, ("inputs-changed",), share)
    unsteady = [one for one in observations if not one.repeatable]
    if unsteady:
        text = (
            "The same input gave two different results: something random, or something that is left over from an earlier call "
            "(a global variable, a list as default argument). The result may depend on the arguments only."
        )
        evidence = (("input", unsteady[0].case),)
        return Verdict(exercise.name, "wrong", "its result is not repeatable", (text,), evidence, ("not-repeatable",), share)
    return None


def _named(
    exercise: Exercise,
    cases: Sequence[Case],
    observations: Sequence[Observation],
    expected: Sequence[Observation],
    share: float,
) -> Verdict | None:
    """Name the mistake, or the two, that explain the numbers found."""
    found = explain(exercise, cases, observations, expected)
    if not found:
        return None
    raised = [one for one in observations if one.error]
    paragraphs = [mistake.idea for mistake in found]
    if raised:
        paragraphs.append(f"And for the input “{raised[0].case}” it raises {raised[0].error}: {raised[0].message[:300]}")
    return Verdict(
        exercise.name,
        "wrong",
        "; and: ".join(mistake.title for mistake in found),
        tuple(dict.fromkeys(paragraphs)),
        _first_difference(cases, observations, expected),
        tuple(mistake.name for mistake in found),
        share,
    )


def _by_numbers(
    exercise: Exercise,
    cases: Sequence[Case],
    observations: Sequence[Observation],
    expected: Sequence[Observation],
    same: Sequence[bool],
    share: float,
) -> Verdict:
    """Say what can be said of numbers whose origin is not known."""
    found = describe(exercise, cases, observations, expected)
    names = (found.family,) if found.family else ()
    right = [case.name for case, ok in zip(cases, same, strict=True) if ok]
    paragraphs = [found.text, *([IDEAS[found.family]] if found.family in IDEAS else [])]
    raised = next((one for one in observations if one.error), None)
    if raised and (hint := _hint(raised)):
        paragraphs.append(hint)
    if right and found.family != "special-case":
        paragraphs.append(f"Right already: {', '.join(f'“{name}”' for name in right)}.")
    return Verdict(
        exercise.name,
        "wrong",
        found.headline,
        tuple(paragraphs),
        _first_difference(cases, observations, expected),
        names,
        share,
    )


def _first_difference(
    cases: Sequence[Case], observations: Sequence[Observation], expected: Sequence[Observation]
) -> tuple[tuple[str, str], ...]:
    """Show the first input where the answer is wrong, with what came out and what should have."""
    for case, one, other in zip(cases, observations, expected, strict=True):
        if not alike(one, other):
            rows = [("input", case.name)]
            rows += [(name, _short(value)) for name, value in case.arguments.items()]
            if not same_values(one, other):
                found = f"raises {one.error}" if one.error else _numbers(one.values, one.shape)
                rows += [("found", found), ("expected", _numbers(other.values, other.shape))]
            else:
                for name in other.gradients:
                    if not close(found_slope := one.gradients.get(name, []), other.gradients[name]):
                        rows.append((f"∂/∂{name}", _numbers(found_slope, None)))
                        rows.append(("expected", _numbers(other.gradients[name], None)))
            return tuple(rows)
    return ()


def _short(value: object) -> str:
    """Write an argument in one line."""
    if isinstance(value, int | float):
        return f"{value:g}"
    numbers = np.asarray(value, dtype=float)
    return _numbers(numbers.ravel().tolist(), numbers.shape)


def _numbers(values: Sequence[float], shape: tuple[int, ...] | None, most: int = 12) -> str:
    """Write numbers in one line, with their shape where it is no plain list."""
    text = ", ".join(f"{value:.5g}" for value in values[:most]) + (", …" if len(values) > most else "")
    if shape == ():
        return text
    return f"[{text}]" + (f" of shape {shape}" if shape is not None and len(shape) > 1 else "")
