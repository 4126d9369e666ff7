"""Vector environments: in this process, in others, from Gymnasium, guarded against NaN, and normalised."""

from typing import TYPE_CHECKING, Any

from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

if TYPE_CHECKING:
    from sb3_ppo_edu.vec_env.normalize import VecNormalize

__all__ = ["InProcessVecEnv", "VecNormalize"]


def __getattr__(name: str) -> Any:
    """Import VecNormalize when it is first used (PEP 562)."""
    if name != "VecNormalize":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sb3_ppo_edu.vec_env.normalize import VecNormalize

    globals()[name] = VecNormalize
    return VecNormalize
