"""The ways to act and to update: one interface, chosen by name."""

from __future__ import annotations

from typing import Literal

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines.accumulating import AccumulatingEngine, mean_statistics, with_moments
from sb3_ppo_edu.engines.autograd import AutogradEngine
from sb3_ppo_edu.engines.base import (
    Engine,
    MinibatchStatistics,
    NonFiniteUpdateError,
    UpdateSettings,
    gradient_shares,
    project_log_std,
)
from sb3_ppo_edu.engines.fused import FusedEngine, why_not_fused

EngineName = Literal["auto", "autograd", "fused"]

__all__ = [
    "AccumulatingEngine",
    "AutogradEngine",
    "Engine",
    "EngineName",
    "FusedEngine",
    "MinibatchStatistics",
    "NonFiniteUpdateError",
    "UpdateSettings",
    "gradient_shares",
    "make_engine",
    "mean_statistics",
    "project_log_std",
    "with_moments",
]


def make_engine(
    name: EngineName, policy: ActorCriticPolicy, *, compile: bool = False, bf16: bool = False
) -> tuple[Engine, str]:
    """
    Choose the engine for a policy.

    :param name: "auto" (the fastest that supports the policy), "autograd" or "fused"
    :param policy: actor-critic policy with its optimizer
    :param compile: let ``torch.compile`` compile the policy; only the autograd engine has something to compile
    :param bf16: compute the networks in bfloat16; only the autograd engine can
    :return: the engine, and one sentence that says why it is this one
    :raises ValueError: if "fused" is asked for where it can't be, with that sentence
    """
    if name not in ("auto", "autograd", "fused"):
        raise ValueError(f"engine={name!r}: expected one of 'auto', 'autograd', 'fused'")
    wanted = [option for option, given in (("compile=True", compile), ("bf16=True", bf16)) if given]
    obstacle = f"{wanted[0]} is for the autograd engine" if wanted else why_not_fused(policy)
    if name == "fused" and obstacle is not None:
        raise ValueError(f"engine='fused': {obstacle}: use engine='auto' or 'autograd'")
    if name == "autograd":
        return AutogradEngine(policy, compile=compile, bf16=bf16), "autograd: it was asked for."
    if obstacle is not None:
        return AutogradEngine(policy, compile=compile, bf16=bf16), f"autograd: {obstacle}."
    return FusedEngine(policy), "fused: policy, distribution and optimizer are supported."
