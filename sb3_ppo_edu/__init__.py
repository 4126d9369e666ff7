"""PPO for Stable-Baselines3 that teaches, is SB3's PPO to the bit, and is several times faster."""

from sb3_ppo_edu.ppo import EduPPO
from sb3_ppo_edu.reinforce import Reinforce
from sb3_ppo_edu.version import __version__

__all__ = ["EduPPO", "Reinforce", "__version__"]
