"""The ways to act and to update: one interface, and the engines behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sb3_ppo_edu.engines.autograd import AutogradEngine
from sb3_ppo_edu.engines.base import (
    Engine,
    Minibatch,
    MinibatchStatistics,
    NonFiniteUpdateError,
    PolicyInputs,
    check_finite_output,
    gradient_shares,
    project_log_std,
)
from sb3_ppo_edu.engines.factory import ENGINE_NAMES, EngineFactory, EngineName, UnsupportedPolicyError, make_engine
from sb3_ppo_edu.engines.fingerprint import fingerprint
from sb3_ppo_edu.engines.wrappers import AccumulatingEngine, EngineWrapper, as_array, mean_statistics, with_moments
from sb3_ppo_edu.functional.objectives import UpdateSettings

if TYPE_CHECKING:
    from sb3_ppo_edu.engines.fused.engine import FusedEngine

__all__ = [
    "ENGINE_NAMES",
    "AccumulatingEngine",
    "AutogradEngine",
    "Engine",
    "EngineFactory",
    "EngineName",
    "EngineWrapper",
    "FusedEngine",
    "Minibatch",
    "MinibatchStatistics",
    "NonFiniteUpdateError",
    "PolicyInputs",
    "UnsupportedPolicyError",
    "UpdateSettings",
    "as_array",
    "check_finite_output",
    "fingerprint",
    "gradient_shares",
    "make_engine",
    "mean_statistics",
    "project_log_std",
    "with_moments",
]


def __getattr__(name: str) -> Any:
    """Import the kernels' engine when it is first used (PEP 562)."""
    if name != "FusedEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sb3_ppo_edu.engines.fused.engine import FusedEngine

    globals()[name] = FusedEngine
    return FusedEngine
