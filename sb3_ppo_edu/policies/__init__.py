"""Policies beyond Stable-Baselines3's: actions within bounds, shared layers, LayerNorm, observations for the critic alone."""

from sb3_ppo_edu.policies.bounded import (
    ACTION_DISTRIBUTIONS,
    BOUNDED_POLICIES,
    STOCK_POLICIES,
    BetaCnnPolicy,
    BetaMixin,
    BetaMultiInputPolicy,
    BetaPolicy,
    BoundedActionMixin,
    TanhGaussianCnnPolicy,
    TanhGaussianMixin,
    TanhGaussianMultiInputPolicy,
    TanhGaussianPolicy,
    check_bounded_action_space,
    resolve_policy,
)
from sb3_ppo_edu.policies.net_arch import NetArchExtractor, NetArchMixin
from sb3_ppo_edu.policies.small_images import SmallCNN, SmallImagePolicy

__all__ = [
    "ACTION_DISTRIBUTIONS",
    "BOUNDED_POLICIES",
    "STOCK_POLICIES",
    "BetaCnnPolicy",
    "BetaMixin",
    "BetaMultiInputPolicy",
    "BetaPolicy",
    "BoundedActionMixin",
    "NetArchExtractor",
    "NetArchMixin",
    "SmallCNN",
    "SmallImagePolicy",
    "TanhGaussianCnnPolicy",
    "TanhGaussianMixin",
    "TanhGaussianMultiInputPolicy",
    "TanhGaussianPolicy",
    "check_bounded_action_space",
    "resolve_policy",
]
