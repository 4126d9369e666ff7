"""
Which submissions are so alike that somebody should look at them: the same but for names, comments and a detail.

Not counted is what everybody writes the same: what was handed out, what the reference does, short functions, and forms that
many have come to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from sb3_ppo_edu.course import forms, slicing
from sb3_ppo_edu.course.building import Lesson, strip_solution

Form = tuple[str, ...]
FEWEST_STATEMENTS = 5
"""The definition, and four in it: shorter functions are alike by themselves."""
ALIKE = 0.7
"""Share of common sequences of tokens from which on two forms are alike."""
MANY, SHARE_OF_MANY = 3, 0.2
"""Submissions, and their share of all, that may have the same form before it is what everybody writes."""
LENGTH = 8
"""Tokens of a sequence: about two operations on names."""


class Likeness(NamedTuple):
    """
    Two submissions that are alike.

    :param one: name of the first
    :param other: name of the second
    :param exercises: in which they are
    :param share: of the sequences of tokens that they have in common there
    """

    one: str
    other: str
    exercises: tuple[str, ...]
    share: float


class Known:
    """
    What everybody has: the forms of what was handed out, and of the reference.

    :param lesson: whose
    """

    def __init__(self, lesson: Lesson) -> None:
        self.forms = set[Form]()
        for cell in lesson.cells:
            if cell.cell_type == "code":
                both = [cell.source, strip_solution(cell.source, cell.metadata.get("todo", ""))]
                self.forms.update(map(tuple, forms.forms(slicing.statements(both))))

    def own(self, found: Sequence[Sequence[str]]) -> Form:
        """
        Put together what somebody has written.

        :param found: forms of what a function needs
        :return: tokens; empty if that is too little to tell anything
        """
        own = tuple(token for form in map(tuple, found) if form not in self.forms for token in form)
        return own if forms.size(own) >= FEWEST_STATEMENTS else ()


def find_likenesses(submissions: Mapping[str, Mapping[str, Form]]) -> list[Likeness]:
    """
    Compare each submission of a lesson with each other.

    :param submissions: name -> exercise -> what :meth:`Known.own` gave
    :return: those that are alike, the most alike first
    """
    count = Counter((exercise, form) for one in submissions.values() for exercise, form in one.items())
    most = max(MANY, SHARE_OF_MANY * len(submissions))
    sequences = {
        (name, exercise): frozenset(_local(form[start : start + LENGTH]) for start in range(len(form) - LENGTH + 1))
        for name, one in submissions.items()
        for exercise, form in one.items()
        if form and count[exercise, form] <= most
    }
    found = []
    for one, other in combinations(sorted(submissions), 2):
        shares = {}
        for exercise in submissions[one]:
            mine, theirs = sequences.get((one, exercise)), sequences.get((other, exercise))
            if mine and theirs and len(mine & theirs) >= ALIKE * len(mine | theirs):
                shares[exercise] = len(mine & theirs) / len(mine | theirs)
        if shares:
            found.append(Likeness(one, other, tuple(shares), min(shares.values())))
    return sorted(found, key=lambda pair: (-len(pair.exercises), -pair.share, pair.one, pair.other))


def _local(tokens: Form) -> Form:
    """Number names anew, so that a name more or less elsewhere makes no difference here."""
    places: dict[str, str] = {}
    return tuple(
        places.setdefault(token, f"{forms.NAME}{len(places)}") if token.startswith(forms.NAME) else token for token in tokens
    )
