"""Policies beyond Stable-Baselines3's: actions within bounds."""

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

__all__ = [
    "ACTION_DISTRIBUTIONS",
    "BOUNDED_POLICIES",
    "STOCK_POLICIES",
    "BetaCnnPolicy",
    "BetaMixin",
    "BetaMultiInputPolicy",
    "BetaPolicy",
    "BoundedActionMixin",
    "TanhGaussianCnnPolicy",
    "TanhGaussianMixin",
    "TanhGaussianMultiInputPolicy",
    "TanhGaussianPolicy",
    "check_bounded_action_space",
    "resolve_policy",
]
