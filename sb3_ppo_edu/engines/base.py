"""The seam between the algorithm and the ways to compute it.

``EduPPO`` decides when and how the parameters move; an engine knows how to act and how to get losses and gradients. It has
few verbs, so that whatever wants to step in between has its place there: the KL rule between ``gradients`` and ``apply``, or
several processes that average their gradients at the same place, where every parameter's ``.grad`` holds them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ppo_edu.losses import KlEstimator, VfClipMode


@dataclass(frozen=True)
class UpdateSettings:
    """
    What one update (all epochs over one rollout) needs to know; schedules are already evaluated.

    :param clip_range: ε of the clipped surrogate
    :param clip_range_vf: ε of the value clipping in units of the return, or None
    :param ent_coef: weight of the entropy loss
    :param vf_coef: weight of the value loss
    :param max_grad_norm: gradients are scaled down to this global L2 norm
    :param normalize_advantage: standardise the advantages of each minibatch
    :param advantage_moments: (mean, std) to use instead of each minibatch's own
    :param clip_advantage: bound of the advantages' absolute value after normalisation, or None
    :param dual_clip: c of the dual clip, or None
    :param vf_clip_mode: "sb3" or "max"
    :param kl_estimator: "k3" or "k1"
    :param log_std_bounds: range the policy's log standard deviation is projected to after each step, or None
    """

    clip_range: float
    clip_range_vf: float | None
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    normalize_advantage: bool
    advantage_moments: tuple[float, float] | None
    clip_advantage: float | None
    dual_clip: float | None
    vf_clip_mode: VfClipMode
    kl_estimator: KlEstimator
    log_std_bounds: tuple[float, float] | None


class MinibatchStatistics(NamedTuple):
    """
    What one minibatch says about the update, at the parameters before its step.

    :param policy_loss: clipped surrogate loss
    :param value_loss: value loss, not weighted
    :param entropy_loss: negative mean entropy in nats, not weighted
    :param loss: the weighted sum that is differentiated
    :param approx_kl: estimate of KL(old || new) in nats, float32 as SB3 keeps it
    :param clip_fraction: fraction of ratios outside the clip range
    :param ratio_max: largest probability ratio
    """

    policy_loss: float
    value_loss: float
    entropy_loss: float
    loss: float
    approx_kl: np.float32
    clip_fraction: float
    ratio_max: float


class NonFiniteUpdateError(ValueError):
    """
    A loss or gradient became NaN or infinite. Raised before any parameter moves.

    It is a ``ValueError`` because rl_zoo3's optimisation prunes a trial on that type.
    """


class Engine(Protocol):
    """One way to act and to update. All engines work on the policy's own parameter tensors and the optimizer's own state."""

    name: str
    policy: ActorCriticPolicy

    def act(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sample actions during a rollout.

        :param observations: batch of observations, shape ``(n_envs, ...)`` (or a dict of such)
        :return: actions as the rollout buffer stores them ``(n_envs, *action_shape)``, values ``(n_envs, 1)``,
            log-probabilities ``(n_envs,)``
        """
        ...

    def value(self, observations: PyTorchObs) -> th.Tensor:
        """
        Values to bootstrap from.

        :param observations: shape ``(batch, ...)`` (or a dict of such)
        :return: shape ``(batch, 1)``
        """
        ...

    def attach(self) -> None:
        """
        Look again at parameters, gradients and optimizer state, in case something replaced their memory.

        Called before each rollout and each update.
        """
        ...

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[Any]:
        """
        Shuffle the rollout for one epoch, with the permutation that ``RolloutBuffer.get`` draws.

        :param rollout_buffer: full rollout buffer
        :param batch_size: transitions per minibatch; the last one may have fewer
        :return: minibatches in the form that ``gradients`` of this engine takes
        """
        ...

    def gradients(self, minibatch: Any, settings: UpdateSettings) -> MinibatchStatistics:
        """
        Compute losses and gradients. No parameter moves.

        :param minibatch: transitions of the rollout, from ``minibatches``
        :param settings: settings of this update
        :return: statistics of the minibatch
        :raises NonFiniteUpdateError: if a loss is NaN or infinite
        """
        ...

    def last_ratios(self) -> np.ndarray:
        """
        Give the probability ratios of the last ``gradients`` call, for the log.

        :return: shape ``(batch,)``, empty before the first call
        """
        ...

    def apply(self) -> float:
        """
        Clip the gradients of the last ``gradients`` call by their global norm and take the optimizer's step.

        :return: the global L2 norm of the gradients before clipping
        :raises NonFiniteUpdateError: if the norm is NaN or infinite; no parameter has moved then
        """
        ...


def check_finite(statistics: MinibatchStatistics) -> None:
    """
    Stop before a loss that is NaN or infinite reaches the parameters.

    :param statistics: statistics of a minibatch
    :raises NonFiniteUpdateError: naming each loss that is not finite
    """
    if not math.isfinite(statistics.loss):
        parts = ("policy_loss", "value_loss", "entropy_loss", "loss")
        found = ", ".join(
            f"{part}={getattr(statistics, part)}" for part in parts if not math.isfinite(getattr(statistics, part))
        )
        raise NonFiniteUpdateError(found)


def check_finite_norm(grad_norm: float) -> None:
    """
    Stop before a gradient that is NaN or infinite reaches the parameters.

    :param grad_norm: global L2 norm of the gradients
    :raises NonFiniteUpdateError: if it is not finite
    """
    if not math.isfinite(grad_norm):
        raise NonFiniteUpdateError(f"grad_norm={grad_norm}")


def gradient_shares(policy: ActorCriticPolicy) -> dict[str, float]:
    """
    Tell the policy's part of the last gradient from the value function's.

    :param policy: with the gradient in its parameters' ``.grad``, clipped or not
    :return: for "policy" and "value", the L2 norm of that part over the norm of all; what both share is in neither
    """
    squares = {"policy": 0.0, "value": 0.0, "shared": 0.0}
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            found = PART.search(name)
            # In numpy: with small networks a call costs more than the numbers, and torch's calls cost most.
            gradient = parameter.grad.cpu().numpy().ravel()
            squares["shared" if found is None else found.lastgroup or ""] += float(gradient.dot(gradient))
    total = sum(squares.values())
    return {part: math.sqrt(squares[part] / total) if total > 0 else 0.0 for part in ("policy", "value")}


PART = re.compile("(?P<policy>policy_net|action_net|log_std|pi_features)|(?P<value>value_net|vf_features)")
"""Words in the names of SB3's parameters by which the two parts are known."""


def project_log_std(policy: ActorCriticPolicy, bounds: tuple[float, float] | None) -> None:
    """
    Move the policy's ``log_std`` to the nearest point within ``bounds``.

    A projection after the step, not a clamp inside the network: a clamped parameter has no gradient and could never return.

    :param policy: policy with a parameter ``log_std``
    :param bounds: (low, high) in log units, or None for no bounds
    """
    if bounds is not None:
        log_std: nn.Parameter = policy.log_std
        log_std.data.clamp_(*bounds)
