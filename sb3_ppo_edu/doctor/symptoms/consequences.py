"""Symptoms by name that may be the consequence of many others."""

OUTCOME = ("no-progress", "forgetting", "poor-evaluation", "does-nothing", "reward-never-seen", "update-without-gain")
"""What comes of a training: see :mod:`~sb3_ppo_edu.doctor.symptoms.outcome`."""

VALUE = ("value-not-learning", "value-overfits", "value-dominates")
"""What the value function learns: see :mod:`~sb3_ppo_edu.doctor.symptoms.value_function`."""

LEARNING = (
    *OUTCOME,
    *VALUE,
    "learning-rate-too-low",
    "entropy-collapse",
    "actions-saturated",
    "std-explodes",
    "gradients-always-clipped",
    "limit-as-terminal",
)
"""What an environment that cannot be learned makes of a training."""
