"""Where an answer is wrong: in which entries of its result, and after which change of its input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_ppo_edu.course.exercises.comparing import ABSOLUTE, RELATIVE
from sb3_ppo_edu.course.exercises.observing import Case, Observation

Mask = npt.NDArray[np.bool_]
Found = tuple[str, str, str]
NOTHING: Found = ("", "", "")
FEWEST = 3
"""Entries that have to be wrong, and right, before a rule is sought."""
CLEAR = 0.6
"""Share of the entries that a rule points at which have to be wrong."""
MOST = 6
"""Places that are listed."""


class Seen(Protocol):
    """One input, what the answer did, and what is right."""

    @property
    def case(self) -> Case:
        """The input."""

    @property
    def found(self) -> Observation:
        """What the answer did."""

    @property
    def expected(self) -> Observation:
        """What is right."""


def as_array(value: Any) -> np.ndarray:
    """Read an argument as an array."""
    return value.detach().numpy() if isinstance(value, th.Tensor) else np.asarray(value)


def where_it_is_wrong(seen: Sequence[Seen]) -> Found:
    """
    Find in words of the arguments which entries are wrong.

    :param seen: all inputs, of whose results the shapes are right
    :return: family, headline and a sentence; empty where no rule holds, or more than one
    """
    rules: dict[str, list[Mask]] = {}
    wrong = []
    usable = [one for one in seen if one.expected.shape]
    for one in usable:
        wrong.append(_differs(one.found.values, one.expected.values))
        for words, mask in _properties(one):
            rules.setdefault(words, []).append(mask)
    if not wrong or not (bad := np.concatenate(wrong)).any() or not FEWEST <= bad.sum() <= (~bad).sum():
        return NOTHING
    masks = {words: np.concatenate(parts) for words, parts in rules.items() if len(parts) == len(usable)}
    pairs = {
        f"{one} and {other}": masks[one] & masks[other]
        for one, other in itertools.combinations(masks, 2)
        if one.split(" is ")[0] != other.split(" is ")[0]
    }
    for known in (masks, pairs):
        clear = {
            words: bad.sum() / mask.sum()
            for words, mask in known.items()
            if not (bad & ~mask).any() and not mask.all() and bad.sum() >= CLEAR * mask.sum()
        }
        best = [words for words, share in clear.items() if share == max(clear.values())]
        if len(best) == 1:
            text = f"All {int((~bad).sum())} numbers that are right and all {int(bad.sum())} that are wrong were looked at."
            return "entries", f"wrong only where {best[0]}", text
        if best:
            return NOTHING
    return NOTHING


def influence(seen: Sequence[Seen]) -> Found:
    """
    Compare what a change of one argument changes with what it should change.

    :param seen: all inputs, some of which differ in one argument alone
    :return: family, headline and a sentence; empty where nothing is to be said
    """
    pairs = sorted(itertools.combinations(seen, 2), key=lambda pair: -_size_of_difference(pair[0].case, pair[1].case))
    for one, other in pairs:
        name = _only_difference(one.case, other.case)
        if (
            not name
            or "the same as" not in other.case.name
            or not one.expected.shape
            or one.expected.shape != other.expected.shape
        ):
            continue
        should = _differs(one.expected.values, other.expected.values).reshape(one.expected.shape)
        does = _differs(one.found.values, other.found.values).reshape(one.expected.shape)
        if (should == does).all() or not should.any():
            continue
        values = [as_array(which.case.arguments[name]) for which in (one, other)]
        where = f" {_places(values[0] != values[1])}" if np.ndim(values[0]) else ""
        text = (
            f"“{one.case.name}” and the input after which only `{name}`{where} is another: that must change the result "
            f"{_places(should)}; yours changes {_places(does)}."
        )
        if (does & ~should).any():
            return "influence", f"`{name}` has an effect where it should have none", text
        return "influence", f"`{name}` has no effect where it should have one", text
    return NOTHING


def _size_of_difference(one: Case, other: Case) -> int:
    """Count the numbers of the argument in which two inputs differ: an array says where, and so tells more."""
    name = _only_difference(one, other)
    return int(np.size(as_array(one.arguments[name]))) if name else 0


def _only_difference(one: Case, other: Case) -> str:
    """Name the only argument that is not the same object in two inputs, if there is one."""
    names = [name for name, value in one.arguments.items() if value is not other.arguments[name]]
    return names[0] if len(names) == 1 else ""


def _differs(found: Sequence[float], expected: Sequence[float]) -> Mask:
    """Mark the numbers that are not the same."""
    same: Mask = np.isclose(np.array(found), np.array(expected), rtol=10 * RELATIVE, atol=10 * ABSOLUTE, equal_nan=True)
    return ~same


def _places(mask: Mask) -> str:
    """List where a mask is true."""
    places = [f"[{', '.join(map(str, place))}]" for place in np.argwhere(mask).tolist()]
    if not places:
        return "nowhere"
    return (
        "everywhere" if mask.all() and mask.size > 1 else f"at {', '.join(places[:MOST])}{', …' if len(places) > MOST else ''}"
    )


def _properties(one: Seen) -> Iterator[tuple[str, Mask]]:
    """List what can be said of each entry of a result, in words of the arguments."""
    shape = one.expected.shape or ()
    if len(shape) and shape[0] > 0:
        step = np.indices(shape)[0]
        yield "it is the first of the first axis", (step == 0).ravel()
        yield "it is the last of the first axis", (step == shape[0] - 1).ravel()
        yield "it is not the first of the first axis", (step > 0).ravel()
        yield "it is not the last of the first axis", (step < shape[0] - 1).ravel()
    numbers = {name: value for name, value in one.case.arguments.items() if isinstance(value, float) and 0 < value < 1}
    for name, value in one.case.arguments.items():
        array = as_array(value)
        if array.shape != shape or not array.ndim:
            continue
        array = array.ravel().astype(float)
        if np.isin(array, (0.0, 1.0)).all():
            yield f"`{name}` is 1", array == 1
            yield f"`{name}` is 0", array == 0
        else:
            yield f"`{name}` is above 0", array > 0
            yield f"`{name}` is below 0", array < 0
            for number, bound in numbers.items():
                yield f"`{name}` is above 1 + `{number}`", array > 1 + bound
                yield f"`{name}` is below 1 − `{number}`", array < 1 - bound
