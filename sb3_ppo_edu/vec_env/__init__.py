"""Vector environments: in this process, in others, from Gymnasium, and guarded against NaN."""

from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

__all__ = ["InProcessVecEnv"]
