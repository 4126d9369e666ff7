"""The ways to act and to update: one interface, chosen by name."""

from __future__ import annotations

from typing import Literal

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines.autograd import AutogradEngine
from sb3_ppo_edu.engines.base import Engine, MinibatchStatistics, NonFiniteUpdateError, UpdateSettings, project_log_std

EngineName = Literal["auto", "autograd", "fused"]

__all__ = [
    "AutogradEngine",
    "Engine",
    "EngineName",
    "MinibatchStatistics",
    "NonFiniteUpdateError",
    "UpdateSettings",
    "make_engine",
    "project_log_std",
]


def make_engine(name: EngineName, policy: ActorCriticPolicy) -> tuple[Engine, str]:
    """
    Choose the engine for a policy.

    :param name: "auto" (the fastest that supports the policy), "autograd" or "fused"
    :param policy: actor-critic policy with its optimizer
    :return: the engine, and one sentence that says why it is this one
    :raises ValueError: if "fused" is asked for where it can't be, with that sentence
    """
    no_fused = "the fused engine is not part of this version"
    if name == "fused":
        raise ValueError(f"engine='fused': {no_fused}: use engine='auto' or 'autograd'")
    reason = "autograd was asked for" if name == "autograd" else no_fused
    return AutogradEngine(policy), f"autograd: {reason}."
