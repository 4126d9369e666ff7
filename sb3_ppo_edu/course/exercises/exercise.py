"""
What an exercise is: one function with a set of *faults*, their names, and the inputs that tell these apart.

With no fault the function is right (tests compare it with the package's own where there is one); with one it makes that
mistake; with two it makes both. What a student's numbers look like can so be compared with every mistake and every pair of
mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sb3_ppo_edu.course.exercises.observing import Answer, Case

Faults = frozenset[str]
Faulty = Callable[..., Any]
MakeCases = Callable[[np.random.Generator], list[Case]]

VISIBLE_SEED = 0
"""Seed of the inputs that students' checks use; graders take another one."""


@dataclass(frozen=True)
class Exercise:
    """
    One function to write.

    :param name: of the function, and of the exercise
    :param expects: what it returns, in a few words, for the report
    :param faulty: the function with a set of faults as its first argument
    :param mistakes: names of the faults that it knows, the more telling ones first
    :param make_cases: makes inputs from random numbers
    :param points: what it is worth
    """

    name: str
    expects: str
    faulty: Faulty
    mistakes: tuple[str, ...]
    make_cases: MakeCases
    points: int

    def cases(self, seed: int = VISIBLE_SEED, lesson: str = "") -> list[Case]:
        """
        Make inputs to try an answer on.

        :param seed: of the random numbers in them
        :param lesson: number or name of the lesson, where several ask for the function and one of them for less
        """
        return [case for case in self.make_cases(np.random.default_rng(seed)) if lesson[:2] not in case.beyond]

    def solution(self, *arguments: Any) -> Any:
        """Compute what is right."""
        return self.faulty(frozenset(), *arguments)

    def with_faults(self, *names: str) -> Answer:
        """Make an answer that makes mistakes."""
        faults = frozenset(names)
        return lambda *arguments: self.faulty(faults, *arguments)

    def wrong_answers(self) -> Iterator[tuple[tuple[str, ...], Answer]]:
        """
        List the answers with one mistake, then those with two.

        :return: pairs of the mistakes' names and the answer
        """
        for count in (1, 2):
            for names in combinations(self.mistakes, count):
                yield names, self.with_faults(*names)
