"""The fused engine: hand-derived passes over flat arrays."""

from sb3_ppo_edu.engines.fused.engine import (
    CLIP_EPS,
    FusedEngine,
    FusedMinibatch,
    kl_estimate,
    surrogate,
    value_error,
    why_not_fused,
)

__all__ = ["CLIP_EPS", "FusedEngine", "FusedMinibatch", "kl_estimate", "surrogate", "value_error", "why_not_fused"]
