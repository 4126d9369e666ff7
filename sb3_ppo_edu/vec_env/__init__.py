"""Vector environments: in this process, in others, from Gymnasium, guarded against NaN, and normalised."""

from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from sb3_ppo_edu.vec_env.normalize import VecNormalize

__all__ = ["InProcessVecEnv", "VecNormalize"]
