"""
The catalogue of common mistakes: what they are called, and which idea each of them misses.

How a mistake computes is in the module of its exercise, such as :mod:`sb3_ppo_edu.course.exercises.advantages`; the words
are in the module of the same name here. They say what is wrong in terms of the algorithm and leave the mending to the
student.
"""

from __future__ import annotations

from dataclasses import dataclass

from sb3_ppo_edu.course.exercises.mistakes import (
    advantages,
    backward,
    densities,
    diagnostics,
    experiments,
    losses,
    masks,
    memory,
    objectives,
    preferences,
    scores,
)


@dataclass(frozen=True)
class Mistake:
    """
    A common mistake.

    :param name: its name in the catalogue
    :param title: in a few words
    :param idea: the idea that it misses, in one or two sentences
    """

    name: str
    title: str
    idea: str


_TEXTS = {
    **losses.TEXTS,
    **advantages.TEXTS,
    **objectives.TEXTS,
    **densities.TEXTS,
    **backward.TEXTS,
    **scores.TEXTS,
    **diagnostics.TEXTS,
    **experiments.TEXTS,
    **memory.TEXTS,
    **masks.TEXTS,
    **preferences.TEXTS,
}

MISTAKES = {name: Mistake(name, title, idea) for name, (title, idea) in _TEXTS.items()}
"""All mistakes by name."""
