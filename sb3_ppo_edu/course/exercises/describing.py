"""
What can be said of numbers whose origin is not known: only what is seen, so that it cannot mislead.

From what tells most to what tells least: an exception, a shape, NaN, a gradient, a sign or a factor that all numbers share,
the entries or the inputs that are wrong, what a change of one number of the input changes, which part of the formula is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sb3_ppo_edu.course.exercises.comparing import alike, close, same_values
from sb3_ppo_edu.course.exercises.exercise import Exercise
from sb3_ppo_edu.course.exercises.locating import as_array, influence, where_it_is_wrong
from sb3_ppo_edu.course.exercises.observing import Case, Observation

SCALES = {1 / np.log(2): "to base 2", 1 / np.log(10): "to base 10"}
"""Factors that tell of another logarithm than the natural one."""
FEWEST_RIGHT = 3
"""Inputs that have to be right before the others are called special."""


class Finding(NamedTuple):
    """
    What is seen.

    :param family: of the mistake, or empty if what is seen does not tell
    :param headline: in one line
    :param text: in a sentence or two
    """

    family: str
    headline: str
    text: str


class Seen(NamedTuple):
    """One input, what the answer did, and what is right."""

    case: Case
    found: Observation
    expected: Observation

    @property
    def right(self) -> bool:
        """Whether the two are alike."""
        return alike(self.found, self.expected)


def describe(
    exercise: Exercise, cases: Sequence[Case], observations: Sequence[Observation], expected: Sequence[Observation]
) -> Finding:
    """
    Choose the words for numbers whose origin is not known.

    :param exercise: what was asked
    :param cases: the inputs
    :param observations: what the answer did
    :param expected: what is right
    """
    seen = [Seen(*one) for one in zip(cases, observations, expected, strict=True)]
    return next(_findings(exercise, seen))


def _findings(exercise: Exercise, seen: Sequence[Seen]) -> Iterator[Finding]:
    """List what is seen, the most telling first."""
    raised = [one for one in seen if one.found.error]
    if raised:
        first = raised[0].found
        rest = "Right for all the others." if all(one.right for one in seen if not one.found.error) else ""
        text = f"{_names(raised)}: {first.message[:300]}. {rest}".strip()
        yield Finding("raises", f"it raises {first.error} for some inputs", text)
        return
    for one in seen:
        if one.found.shape != one.expected.shape or len(one.found.values) != len(one.expected.values):
            found, wanted = one.found.shape, one.expected.shape
            text = f"found shape {found}, expected {wanted}: {exercise.expects}."
            yield Finding("shape", "the shape is not right", f"{text} {_about_shapes(found, wanted)}".strip())
            return
    yield from _not_finite(seen)
    if all(same_values(one.found, one.expected) for one in seen):
        yield Finding("gradient", "the numbers are right, the gradient is not", _about_gradients(seen))
    yield from _of_all_numbers(seen)
    yield from _of_sizes(seen)
    yield from _special(seen)
    for family, headline, text in (where_it_is_wrong(seen), influence(seen)):
        if headline:
            yield Finding(family, headline, text)
    yield from _of_parts(seen)
    yield from _of_range(seen)
    hint = "No mistake that has a name here. Work the first input out by hand, and print what comes in between."
    wrong = np.concatenate([np.subtract(one.found.values, one.expected.values) for one in seen if not one.right])
    wrong = wrong[abs(wrong) > 1e-4]
    if len(wrong) > 2 and abs(np.sign(wrong).sum()) == len(wrong):
        hint += f" Wherever it is wrong, it is too {'large' if wrong[0] > 0 else 'small'}."
    yield Finding("", "the numbers are not right", hint)


def _names(seen: Sequence[Seen], most: int = 3) -> str:
    """Name inputs."""
    return ", ".join(f"“{one.case.name}”" for one in seen[:most]) + (", …" if len(seen) > most else "")


def _not_finite(seen: Sequence[Seen]) -> Iterator[Finding]:
    """NaN or infinite where a number is expected, or a number where NaN is."""
    broken = [
        one for one in seen if not np.isfinite(np.array(one.found.values)[np.isfinite(np.array(one.expected.values))]).all()
    ]
    if broken:
        text = f"{_names(broken)}: look for a division by 0, a logarithm of 0, or exp of something large."
        if all(one.right for one in seen if one not in broken):
            text += " Right for all the others."
        yield Finding("not-finite", "some results are NaN or infinite", text)


def _of_all_numbers(seen: Sequence[Seen]) -> Iterator[Finding]:
    """A sign, a factor, a difference that all numbers have in common; or their order."""
    values = np.concatenate([one.found.values for one in seen])
    wanted = np.concatenate([one.expected.values for one in seen])
    if close(values, -wanted):
        yield Finding("sign", "the sign is wrong", "Each number is minus what it should be.")
    ratios = values[wanted != 0] / wanted[wanted != 0]
    if len(ratios) and np.allclose(ratios, ratios[0], rtol=1e-3) and close(values[wanted == 0], wanted[wanted == 0]):
        logarithm = next((base for scale, base in SCALES.items() if np.isclose(ratios[0], scale, rtol=1e-3)), None)
        cause = "a factor too many or too few" if logarithm is None else f"a logarithm {logarithm}, where nats are asked for"
        yield Finding("number", "the scale is wrong", f"Each number is {ratios[0]:.4g} times what it should be: {cause}.")
    differences = values - wanted
    if np.allclose(differences, differences[0], rtol=1e-3, atol=1e-5):
        text = f"Each number is {differences[0]:+.4g} beside what it should be: a term too many or too few."
        yield Finding("number", "a constant is wrong", text)
    wrong = [one for one in seen if not same_values(one.found, one.expected)]
    if all(close(np.sort(one.found.values), np.sort(one.expected.values)) for one in wrong) and len(wrong) > 1:
        text = "Sorted, they are those that are expected: which index, which axis belongs to what?"
        yield Finding("places", "the numbers are the right ones, in the wrong places", text)


def _of_sizes(seen: Sequence[Seen]) -> Iterator[Finding]:
    """A constant that is there once, and belongs to each column; a factor that goes with a size."""
    offsets = [np.subtract(one.found.values, one.expected.values) for one in seen]
    if len(seen) < 3 or not all(np.isfinite(one).all() and len(one) for one in offsets):
        return
    for name, sizes in _sizes(seen):
        if min(sizes) != 1 or len(set(sizes)) < 3:
            continue
        alone = np.concatenate([offset for offset, size in zip(offsets, sizes, strict=True) if size == 1])
        several = np.concatenate([offset / (size - 1) for offset, size in zip(offsets, sizes, strict=True) if size > 1])
        if np.allclose(alone, 0.0, atol=1e-5) and np.allclose(several, several[0], rtol=1e-3) and abs(several[0]) > 1e-4:
            text = (
                f"Right where there is one {name}. With each further one all numbers are {several[0]:+.4g} more beside what "
                "they should be: a term belongs to each of them, and is there once."
            )
            yield Finding("number", "a constant is there once for all dimensions", text)


def _sizes(seen: Sequence[Seen]) -> Iterator[tuple[str, list[int]]]:
    """List the sizes of the last axes of the arguments."""
    for name in seen[0].case.arguments:
        shapes = [np.shape(as_array(one.case.arguments[name])) for one in seen]
        if all(shapes):
            yield f"`{name}`" if len(shapes[0]) == 1 else f"column of `{name}`", [shape[-1] for shape in shapes]


def _special(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Few inputs are wrong, and their names say what is special about them."""
    wrong = [one for one in seen if not one.right]
    right = len(seen) - len(wrong)
    telling = not any("random" in one.case.name or "the same as" in one.case.name for one in wrong)
    if telling and right >= FEWEST_RIGHT and 2 * len(wrong) <= right:
        text = f"Right for {right} other inputs. What is special about {'this one' if len(wrong) == 1 else 'these'}?"
        yield Finding("special-case", f"wrong only for {_names(wrong)}", text)


def _of_parts(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Gradients tell which part of a formula is right."""
    names = list(seen[0].expected.gradients)
    right = [
        name for name in names if all(close(one.found.gradients.get(name, []), one.expected.gradients[name]) for one in seen)
    ]
    if not right or not any(any(one.expected.gradients[name]) for one in seen for name in right):
        return
    words = ", ".join(f"`{name}`" for name in right)
    if right == names:
        text = f"The gradient with respect to {words} is right: something is wrong that does not depend on it."
        yield Finding("part", "the gradient is right, the numbers are not", text)
    elif len(names) > 1:
        others = ", ".join(f"`{name}`" for name in names if name not in right)
        text = f"The gradient with respect to {words} is right, that with respect to {others} is not."
        yield Finding("part", f"the part with {others} is not right", text)


def _of_range(seen: Sequence[Seen]) -> Iterator[Finding]:
    """Numbers of a kind that none of the right ones is."""
    values = np.concatenate([one.found.values for one in seen])
    wanted = np.concatenate([one.expected.values for one in seen])
    if (wanted[np.isfinite(wanted)] >= 0).all() and (values < -1e-4).any():
        below = [one for one in seen if min(one.found.values, default=0.0) < -1e-4]
        yield Finding("range", "some results are negative, where none should be", f"See {_names(below)}.")
    for name, value in seen[0].case.arguments.items():
        if np.ndim(as_array(value)) == 1 and len(seen) >= FEWEST_RIGHT:
            of_them = [
                [
                    bool(np.isin(numbers, as_array(one.case.arguments[name])).all())
                    for numbers in (one.found.values, one.expected.values)
                ]
                for one in seen
            ]
            if all(wanted for _, wanted in of_them) and not all(found for found, _ in of_them):
                text = f"What is asked for is one of `{name}`."
                yield Finding("range", f"some results are none of `{name}`", text)


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


def _about_gradients(seen: Sequence[Seen]) -> str:
    """Say what is wrong with gradients while the numbers are right."""
    names = [
        name
        for name in seen[0].expected.gradients
        if not all(close(one.found.gradients.get(name, []), one.expected.gradients[name]) for one in seen)
    ]
    found = [value for one in seen for name in names for value in one.found.gradients.get(name, [])]
    which = f"The gradient with respect to {', '.join(f'`{name}`' for name in names)}"
    if not np.all(np.isfinite(found)):
        return f"{which} is NaN for some inputs: 0 times infinity somewhere on the way back, such as at log 0."
    if not any(found):
        return f"{which} is missing: none flows. Something cuts the graph (`.item()`, `.detach()`)."
    return f"{which} is not right: what is detached, and what should be?"
