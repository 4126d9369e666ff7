"""PPO for Stable-Baselines3 that teaches, is SB3's PPO to the bit, and is several times faster."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_ppo_edu.version import __version__

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.maskable import MaskableEduPPO
    from sb3_ppo_edu.algorithms.maskable_recurrent import MaskableRecurrentEduPPO
    from sb3_ppo_edu.algorithms.ppo import EduPPO
    from sb3_ppo_edu.algorithms.recurrent import RecurrentEduPPO
    from sb3_ppo_edu.algorithms.reinforce import Reinforce

__all__ = ["EduPPO", "MaskableEduPPO", "MaskableRecurrentEduPPO", "RecurrentEduPPO", "Reinforce", "__version__"]

_HOMES = {
    "EduPPO": "sb3_ppo_edu.algorithms.ppo",
    "MaskableEduPPO": "sb3_ppo_edu.algorithms.maskable",
    "MaskableRecurrentEduPPO": "sb3_ppo_edu.algorithms.maskable_recurrent",
    "RecurrentEduPPO": "sb3_ppo_edu.algorithms.recurrent",
    "Reinforce": "sb3_ppo_edu.algorithms.reinforce",
}
"""Public name -> the module that it is imported from when it is first used: until then no torch is loaded (PEP 562)."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    """List the public names, those that are not imported yet among them."""
    return sorted({*globals(), *__all__})
