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
from sb3_ppo_edu.course.exercises.exercise import VISIBLE_SEED, Exercise
from sb3_ppo_edu.course.exercises.naming import explain
from sb3_ppo_edu.course.exercises.observing import Answer, Case, Observation, observe, observe_once
from sb3_ppo_edu.course.exercises.verdict import Verdict

NBGRADER_VARIABLE = "NBGRADER_EXECUTION"
"""Set by nbgrader while it validates or grades."""


WRONG_SHAPE, WRONG_GRADIENT = "the shape is not right", "the numbers are right, the gradient is not"
WRONG_SIGN, WRONG_SCALE, WRONG_CONSTANT = "the sign is wrong", "the scale is wrong", "a constant is wrong"
FAMILY_OF = {
    WRONG_SHAPE: "shape",
    WRONG_GRADIENT: "gradient",
    WRONG_SIGN: "sign",
    WRONG_SCALE: "number",
    WRONG_CONSTANT: "number",
}
"""What can be said of numbers alone -> family of mistakes."""
SCALES = {1 / np.log(2): "to base 2", 1 / np.log(10): "to base 10"}
"""Factors that tell of another logarithm than the natural one."""


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
        _nothing(exercise, observations, share)
        or _meddling(exercise, observations, share)
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


def _nothing(exercise: Exercise, observations: Sequence[Observation], share: float) -> Verdict | None:
    """Report what keeps an answer from being compared: not written, None, or what is no number."""
    raised = [one for one in observations if one.error]
    if raised and raised[0].error == "NotImplementedError":
        return Verdict(exercise.name, "todo", "not written yet", (f"Expected: {exercise.expects}.",))
    if all(one.kind == "NoneType" for one in observations):
        text = "A function without `return` returns None, whatever it has computed."
        return Verdict(exercise.name, "wrong", "it returns nothing", (text, f"Expected: {exercise.expects}."))
    strange = [one for one in observations if not one.error and one.shape is None]
    if strange:
        found = f"found {strange[0].kind}, expected {exercise.expects}"
        return Verdict(
            exercise.name, "wrong", "it returns something that is no tensor, array or number", (found,), share=share
        )
    return None


def _stopped(exercise: Exercise, observations: Sequence[Observation], share: float) -> Verdict | None:
    """Report an exception, where it is one for all inputs or one that everybody meets."""
    raised = [one for one in observations if one.error]
    if not raised or (len(raised) < len(observations) and _hint(raised[0]) is None):
        return None
    first = raised[0]
    where = (("where", first.line),) if first.line else ()
    evidence = (("input", first.case), (first.error, first.message[:300]), *where)
    hint = _hint(first)
    return Verdict(exercise.name, "crashed", f"it raises {first.error}", (hint,) if hint else (), evidence, share=share)


def _hint(raised: Observation) -> str | None:
    """Translate the exceptions that everybody meets."""
    message = raised.message
    if "requires grad" in message and "numpy" in message:
        return (
            "A loss has to stay in torch, or no gradient gets through: use torch's functions instead of numpy's, and no "
            "`.numpy()` on the way."
        )
    if raised.error == "TypeError" and "positional argument" in message:
        return "The signature was changed: keep the arguments and their order."
    if raised.error in ("NameError", "UnboundLocalError"):
        return "A name is used that nothing has been assigned to: a typing error, or a cell above that was not run."
    if "size of tensor" in message or "broadcast" in message:
        return "Two shapes do not fit together: print both with `.shape`, and say which axis is which."
    return None


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
    headline, text = _describe(exercise, observations, expected)
    names = (FAMILY_OF[headline],) if headline in FAMILY_OF else ()
    right = [case.name for case, ok in zip(cases, same, strict=True) if ok]
    paragraphs = [text] if text else []
    if right:
        paragraphs.append(f"Right already: {', '.join(f'“{name}”' for name in right)}.")
    return Verdict(
        exercise.name, "wrong", headline, tuple(paragraphs), _first_difference(cases, observations, expected), names, share
    )


def _describe(exercise: Exercise, observations: Sequence[Observation], expected: Sequence[Observation]) -> tuple[str, str]:
    """Choose the words for numbers whose origin is not known: a headline and a sentence."""
    raised = [one for one in observations if one.error]
    if raised:
        return f"it raises {raised[0].error} for some inputs", raised[0].message[:300]
    shapes = [(one.shape, other.shape) for one, other in zip(observations, expected, strict=True) if one.shape != other.shape]
    if shapes:
        found, wanted = shapes[0]
        text = f"found shape {found}, expected {wanted}: {exercise.expects}."
        return WRONG_SHAPE, f"{text} {_about_shapes(found, wanted)}".strip()
    values = np.array([value for one in observations for value in one.values])
    wanted_values = np.array([value for one in expected for value in one.values])
    if not np.all(np.isfinite(values[np.isfinite(wanted_values)])):
        text = "Look for a division by 0, a logarithm of 0, or exp of something large."
        return "some results are NaN or infinite", text
    if all(same_values(one, other) for one, other in zip(observations, expected, strict=True)):
        return WRONG_GRADIENT, _describe_gradients(observations, expected)
    if close(values, -wanted_values):
        return WRONG_SIGN, "Each number is minus what it should be."
    ratios = values[wanted_values != 0] / wanted_values[wanted_values != 0]
    if (
        len(ratios)
        and np.allclose(ratios, ratios[0], rtol=1e-3)
        and close(values[wanted_values == 0], wanted_values[wanted_values == 0])
    ):
        logarithm = next((base for scale, base in SCALES.items() if np.isclose(ratios[0], scale, rtol=1e-3)), None)
        cause = "a factor too many or too few" if logarithm is None else f"a logarithm {logarithm}, where nats are asked for"
        return WRONG_SCALE, f"Each number is {ratios[0]:.4g} times what it should be: {cause}."
    differences = values - wanted_values
    if np.allclose(differences, differences[0], rtol=1e-3, atol=1e-5):
        return (
            WRONG_CONSTANT,
            f"Each number is {differences[0]:+.4g} beside what it should be: a term too many or too few.",
        )
    return (
        "the numbers are not right",
        "No mistake that has a name here. Work the first input out by hand, and print what comes in between.",
    )


def _about_shapes(found: tuple[int, ...] | None, wanted: tuple[int, ...] | None) -> str:
    """Say where a wrong shape comes from."""
    if found is None or wanted is None:
        return ""
    if wanted == ():
        one = "One number, but still in a list: some `keepdim` or `[:, None]` is too much."
        return one if np.prod(found) == 1 else "One number is expected: something is still to be added up or averaged."
    if len(wanted) == 1 and found == wanted * 2:
        return "Each was put together with each, where each belongs to one: a broadcast, or an index for all rows at once."
    if found == wanted[::-1]:
        return "The axes are exchanged."
    return "An axis too many was added up or averaged." if len(found) < len(wanted) else ""


def _describe_gradients(observations: Sequence[Observation], expected: Sequence[Observation]) -> str:
    """Say what is wrong with gradients while the numbers are right."""
    pairs = list(zip(observations, expected, strict=True))
    names = [name for name in expected[0].gradients if not all(close(a.gradients[name], b.gradients[name]) for a, b in pairs)]
    found = [value for one in observations for name in names for value in one.gradients[name]]
    which = f"The gradient with respect to {', '.join(f'`{name}`' for name in names)}"
    if not np.all(np.isfinite(found)):
        return f"{which} is NaN for some inputs: 0 times infinity somewhere on the way back, such as at log 0."
    if not any(found):
        return f"{which} is missing: none flows. Something cuts the graph (`.item()`, `.detach()`)."
    return f"{which} is not right: what is detached, and what should be?"


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
                    if not close(one.gradients[name], other.gradients[name]):
                        rows.append((f"∂/∂{name}", _numbers(one.gradients[name], None)))
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
