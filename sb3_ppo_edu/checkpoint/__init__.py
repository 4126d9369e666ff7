"""Exact save and resume: a resumed training is the one that was never interrupted."""

from sb3_ppo_edu.checkpoint.callback import ExactCheckpoint
from sb3_ppo_edu.checkpoint.environments import Resumable
from sb3_ppo_edu.checkpoint.files import CheckpointError

__all__ = ["CheckpointError", "ExactCheckpoint", "Resumable"]
