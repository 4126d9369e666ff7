"""
The symptoms: each a pure function of a record, by families, and one table, :data:`SYMPTOMS`, of all of them.

A symptom is looked for only in a record that has what it needs; otherwise it is *not examined*, which is not the same as
healthy. Positions beyond a range are judged on a logarithmic scale, see :func:`~sb3_ppo_edu.doctor.findings.beyond`.

Sources: the *lecture* (lecture 10 of Reinforcement Learning, Sogang University, autumn 2025: KL below 0.05, clip fraction 0.1
to 0.3, gradient norm 0.1 to 10), the *activity* that came with it (its six problems; errata of both: notebooks/errata.md),
the PPO paper (https://arxiv.org/abs/1707.06347), Andrychowicz et al. 2020 (https://arxiv.org/abs/2006.05990), RL Baselines3
Zoo's tuned settings, and *calibration*: trainings of ``benchmarks/doctor``, on seeds that its trial does not use.
"""

from __future__ import annotations

from sb3_ppo_edu.doctor.findings import Symptom
from sb3_ppo_edu.doctor.symptoms import (
    construction,
    environment,
    exploration,
    gradients,
    non_finite,
    normalization,
    outcome,
    policy_steps,
    rewards,
    rollouts,
    throughput,
    value_function,
)
from sb3_ppo_edu.doctor.symptoms.metrics import RETURN

__all__ = ["BY_NAME", "RETURN", "SYMPTOMS"]

SYMPTOMS: tuple[Symptom, ...] = (
    *non_finite.SYMPTOMS,
    *policy_steps.SYMPTOMS,
    *exploration.SYMPTOMS,
    *value_function.SYMPTOMS,
    *normalization.SYMPTOMS,
    *gradients.SYMPTOMS,
    *construction.SYMPTOMS,
    *rollouts.SYMPTOMS,
    *environment.SYMPTOMS,
    *rewards.SYMPTOMS,
    *outcome.SYMPTOMS,
    *throughput.SYMPTOMS,
)
"""All that the doctor looks for."""

BY_NAME = {symptom.name: symptom for symptom in SYMPTOMS}
"""The table by name."""
