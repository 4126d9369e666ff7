"""Moved to :mod:`sb3_ppo_edu.course.exercises`."""

from sb3_ppo_edu.serialization.moved import forward

__getattr__ = forward(__name__, "sb3_ppo_edu.course.exercises", {"exercises": "catalogue"})
