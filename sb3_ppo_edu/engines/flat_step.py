"""The optimizer's step on one flat copy of the parameters: the bits of a step for each, in a fraction of the calls."""

from __future__ import annotations

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor, NatureCNN

from sb3_ppo_edu.engines.fingerprint import why_not_plain
from sb3_ppo_edu.engines.flat import FlatOptimizer, FlatParameters, why_not_flat

FLAT_LIMIT = 2**18
"""Parameters up to which one flat tensor pays: a larger one falls out of the cache between two elementwise operations, while
its parts, one after another, do not (measured: 1.15 times as fast as SB3 at 140,000 parameters, 0.8 times at 550,000)."""

FULLY_TRAINED_MODULES = (FlattenExtractor, NatureCNN, CombinedExtractor, MlpExtractor)
"""Modules of SB3 whose every parameter has a gradient in every minibatch. Torch skips a parameter without one; a flat tensor
can't."""


def may_step_flat(policy: ActorCriticPolicy) -> bool:
    """
    Tell whether a flat step is the optimizer's own: for policies that are SB3's or ours in all parts, and not too large.

    :param policy: actor-critic policy with its optimizer
    :return: True if it is
    """
    parts = (policy.pi_features_extractor, policy.vf_features_extractor, policy.mlp_extractor)
    # Torch's fused kernel rounds the end of a tensor otherwise than its middle.
    return (
        type(policy).__module__.startswith(("stable_baselines3.", "sb3_ppo_edu.policies"))
        and all(type(part) in FULLY_TRAINED_MODULES for part in parts)
        and sum(parameter.numel() for parameter in policy.parameters()) <= FLAT_LIMIT
        and why_not_flat(policy) is None
        and not any(policy.optimizer.param_groups[0].get(option) for option in ("fused", "foreach"))
        and why_not_plain(policy) is None
    )


class FlatStep:
    """
    Steps for one update: loads what the optimizer has, and stores its state when the update has ended.

    The parameters themselves are current after every step.

    :param policy: actor-critic policy for which :func:`may_step_flat` holds
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.parameters = list(policy.parameters())
        self._flat = FlatParameters(self.parameters)
        self._optimizer = FlatOptimizer(policy.optimizer, self._flat)
        self._flat.load()
        self._optimizer.load()

    def step(self) -> None:
        """Take the optimizer's step with the gradients in every ``.grad``."""
        self._flat.gradients.load([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        self._optimizer.step()
        self._flat.store_values()

    def store(self) -> None:
        """Give the policy's optimizer its state."""
        self._optimizer.store()
