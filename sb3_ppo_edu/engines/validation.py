"""Torch's distributions validate what they are given: a quarter of the time of a small policy's step.

For a policy of which every part is known the checks find nothing but NaN, and what is not finite is stopped by the engines'
own checks, before an environment steps or a parameter moves.
"""

from __future__ import annotations

import threading

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor, NatureCNN
from torch import nn
from torch.distributions import Distribution

from sb3_ppo_edu.engines.fingerprint import ACTIVATIONS, DISTRIBUTIONS, why_not_plain
from sb3_ppo_edu.functional.distributions import BetaDistribution

KNOWN_MODULES = {
    *(FlattenExtractor, NatureCNN, CombinedExtractor, MlpExtractor),
    *(nn.Sequential, nn.ModuleDict, nn.Linear, nn.Conv2d, nn.Flatten, nn.Identity),
    *(nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.ReLU6, nn.CELU, nn.SELU, nn.Mish),
    *ACTIVATIONS,
}
"""Modules of SB3 and torch that a policy is built of. What they compute hangs on their parameters and inputs alone, and they
change neither parameters nor gradients."""


def has_known_parts(policy: ActorCriticPolicy) -> bool:
    """
    Tell whether a policy is SB3's or ours in all parts, and nobody has changed one.

    :param policy: actor-critic policy with its optimizer
    :return: True if it is
    """
    return (
        type(policy).__module__.startswith(("stable_baselines3.", "sb3_ppo_edu.policies"))
        and all(type(module) in KNOWN_MODULES for module in policy.modules() if module is not policy)
        and why_not_plain(policy) is None
    )


def needs_no_validation(policy: ActorCriticPolicy) -> bool:
    """
    Tell whether validation would find nothing in a policy's distributions that is not found elsewhere.

    :param policy: actor-critic policy with its optimizer
    :return: True if it would not; False for Beta too, as torch may draw from one with NaN for ever
    """
    kind = type(policy.action_dist)
    return kind in DISTRIBUTIONS and kind is not BetaDistribution and has_known_parts(policy)


class WithoutValidation:
    """A context in which torch's distributions are not validated. Threads may be in it at once; the last restores."""

    _lock, _inside, _before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        """Switch validation off."""
        cls = WithoutValidation
        with cls._lock:
            if cls._inside == 0:
                cls._before = Distribution._validate_args
                Distribution.set_default_validate_args(False)
            cls._inside += 1

    def __exit__(self, *_: object) -> None:
        """Restore what was before."""
        cls = WithoutValidation
        with cls._lock:
            cls._inside -= 1
            if cls._inside == 0:
                Distribution.set_default_validate_args(cls._before)
