"""Exercises that answer back: what a student wrote is checked, and what is wrong is named in terms of the idea."""

from sb3_ppo_edu.course.exercises.judging import check

__all__ = ["check"]
