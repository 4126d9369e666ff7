"""Symptoms by name that may be the consequence of many others."""

OUTCOME = ("no-progress", "forgetting", "poor-evaluation", "does-nothing", "reward-never-seen")
"""What comes of a training: see :mod:`~sb3_ppo_edu.doctor.symptoms.outcome`."""

VALUE = ("value-not-learning", "value-overfits", "value-dominates")
"""What the value function learns: see :mod:`~sb3_ppo_edu.doctor.symptoms.value_function`."""
