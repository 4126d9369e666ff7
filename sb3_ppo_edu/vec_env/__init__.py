"""Vector environments: in this process, in others, from Gymnasium, guarded against NaN, normalised, and curious."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

if TYPE_CHECKING:
    from sb3_ppo_edu.vec_env.curiosity import Curiosity
    from sb3_ppo_edu.vec_env.normalize import VecNormalize

__all__ = ["Curiosity", "InProcessVecEnv", "VecNormalize"]

_HOMES = {"Curiosity": "sb3_ppo_edu.vec_env.curiosity", "VecNormalize": "sb3_ppo_edu.vec_env.normalize"}


def __getattr__(name: str) -> Any:
    """Import a wrapper when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found
