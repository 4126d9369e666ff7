"""Torch's distributions validate what they are given: a quarter of the time of a small policy's step.

For a policy of which every part is known the checks find nothing but NaN, and what is not finite is stopped by the engines'
own checks, before an environment steps or a parameter moves.
"""

from __future__ import annotations

import os
import threading
from typing import ClassVar

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
    """
    A context in which torch's distributions are not validated.

    Threads may be in it at once, and the last restores what was before. An interrupt between its lines never leaves
    validation off for good: the thread is known to be inside until it has been restored, and :meth:`leave` does that.
    """

    _lock, _before = threading.Lock(), True
    _inside: ClassVar[set[int]] = set()

    def __enter__(self) -> None:
        """Switch validation off."""
        cls = WithoutValidation
        with cls._lock:
            if not cls._inside:
                cls._before = Distribution._validate_args
            cls._inside.add(threading.get_ident())
            Distribution.set_default_validate_args(False)

    def __exit__(self, *_: object) -> None:
        """Restore what was before."""
        self.leave()

    @classmethod
    def leave(cls) -> None:
        """Restore what was before, if this thread is the last inside; one that is not inside does nothing."""
        thread = threading.get_ident()
        if thread in cls._inside:
            with cls._lock:
                if cls._inside == {thread}:
                    Distribution.set_default_validate_args(cls._before)
                cls._inside.discard(thread)

    @classmethod
    def forget_threads(cls) -> None:
        """Restore in a process that was forked while threads were inside: of those it has none."""
        cls._lock = threading.Lock()
        if cls._inside:
            Distribution.set_default_validate_args(cls._before)
            cls._inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WithoutValidation.forget_threads)
