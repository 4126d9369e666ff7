"""The seam between the algorithm and the ways to compute it.

``EduPPO`` decides when and how the parameters move; an engine knows how to act and how to get losses and gradients. It has
few verbs, so that whatever wants to step in between has its place there: the KL rule between ``gradients`` and ``apply``, or
several processes that average their gradients at the same place, where every parameter's ``.grad`` holds them.

The policy is the truth, and an engine is at most a cache of it: ``attach`` looks at the policy again, ``detach`` gives back
what the engine has moved.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.objectives import Array, Losses, UpdateSettings


class PolicyInputs(NamedTuple):
    """
    What a policy acts on.

    :param observations: shape ``(n_envs, ...)``, or a dict of such
    :param action_masks: which actions are legal, bool, shape ``(n_envs, n_choices)`` with all classes of all choices side by
        side, on the CPU, where there are masks
    :param hidden_states: of recurrent layers, before the step, where there are any
    :param episode_starts: whether each observation begins an episode, shape ``(n_envs,)``, where hidden states need it
    """

    observations: PyTorchObs
    action_masks: th.Tensor | None = None
    hidden_states: tuple[Any, ...] | None = None
    episode_starts: th.Tensor | None = None

    def further(self) -> dict[str, Any]:
        """
        Give what is there beside the observations.

        :return: by the names that sb3-contrib's policies give these arguments
        """
        names = ("action_masks", "lstm_states", "episode_starts")
        return {name: value for name, value in zip(names, self[1:], strict=True) if value is not None}

    def columns(self) -> dict[str, Any]:
        """
        Give what the rollout buffer has to store beside SB3's columns.

        :return: by the names that sb3-contrib's rollout buffers give these arguments; the buffer has episode starts anyway
        """
        return {name: value for name, value in self.further().items() if name != "episode_starts"}


class Minibatch(Protocol):
    """Transitions of a rollout, in the form that one engine takes."""

    @property
    def size(self) -> int:
        """Number of transitions."""
        ...

    @property
    def advantages(self) -> th.Tensor | Array:
        """As the rollout buffer has them, not normalised, shape ``(size,)``."""
        ...


AnyMinibatch = TypeVar("AnyMinibatch", bound=Minibatch)


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
    :param weight: mean weight of the transitions in the losses, 1 where they have none
    :param ratios: all probability ratios, shape ``(batch,)``
    """

    policy_loss: float
    value_loss: float
    entropy_loss: float
    loss: float
    approx_kl: np.float32
    clip_fraction: float
    ratio_max: float
    weight: float = 1.0
    ratios: th.Tensor | Array = np.empty(0)


class NonFiniteUpdateError(ValueError):
    """
    An action, value, loss or gradient became NaN or infinite. Raised before the environment steps or a parameter moves.

    It is a ``ValueError`` because rl_zoo3's optimisation prunes a trial on that type.
    """


class Engine(Protocol[AnyMinibatch]):
    """One way to act and to update. All engines move the policy's own parameter tensors and the optimizer's own state."""

    @property
    def name(self) -> str:
        """In one word, as ``EduPPO(engine=…)`` takes it."""
        ...

    @property
    def policy(self) -> ActorCriticPolicy:
        """The policy that it acts with and updates."""
        ...

    def attach(self) -> None:
        """
        Take over what the policy and its optimizer are now.

        Called before each rollout and each update, and after callbacks that may have changed the policy. Whether this engine
        still serves the policy has been looked at before.
        """
        ...

    def detach(self) -> None:
        """
        Leave parameters, gradients and optimizer state to the policy and its optimizer.

        Called when an update has ended, however it did. An engine that works on the policy's own tensors has nothing to do.
        """
        ...

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sample actions during a rollout.

        :param inputs: what the policy acts on
        :return: actions as the rollout buffer stores them ``(n_envs, *action_shape)``, values ``(n_envs, 1)``,
            log-probabilities ``(n_envs,)``
        """
        ...

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """
        Values to bootstrap from.

        :param inputs: what the policy acts on
        :return: shape ``(batch, 1)``
        """
        ...

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """
        What the rollout buffer has to store beside SB3's columns, such as masks or hidden states.

        :param inputs: what the policy has just acted on
        :return: further arguments of the buffer's ``add``, by name
        """
        ...

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[AnyMinibatch]:
        """
        Shuffle the rollout for one epoch, with the permutation that ``RolloutBuffer.get`` draws.

        :param rollout_buffer: full rollout buffer
        :param batch_size: transitions per minibatch; the last one may have fewer
        :return: minibatches in the form that ``gradients`` of this engine takes
        """
        ...

    def gradients(self, minibatch: AnyMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """
        Compute losses and gradients, which are then in the parameters' ``.grad``. No parameter moves.

        :param minibatch: transitions of the rollout, from ``minibatches``
        :param settings: settings of this update
        :return: statistics of the minibatch
        :raises NonFiniteUpdateError: if a loss is NaN or infinite
        """
        ...

    def apply(self, settings: UpdateSettings) -> float:
        """
        Clip the gradients by their global norm and take the optimizer's step.

        :param settings: settings of this update
        :return: the global L2 norm of the gradients before clipping
        :raises NonFiniteUpdateError: if the norm is NaN or infinite; no parameter has moved then
        """
        ...


def statistics_of(
    found: Losses, log_prob: th.Tensor, old_log_prob: th.Tensor, settings: UpdateSettings
) -> MinibatchStatistics:
    """
    Put together what a minibatch says, from its losses and log-probabilities.

    :param found: losses as numbers
    :param log_prob: of the actions now, shape ``(batch,)``
    :param old_log_prob: of the actions when they were taken, the same shape
    :param settings: settings of this update
    :return: the statistics
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    return MinibatchStatistics(
        policy_loss=found.policy,
        value_loss=found.value,
        entropy_loss=found.entropy,
        loss=found.total,
        approx_kl=np.float32(losses.approx_kl(log_ratio, settings.kl_estimator).item()),
        clip_fraction=losses.clip_fraction(ratio, settings.clip_range).item(),
        ratio_max=ratio.max().item(),
        weight=found.weight,
        ratios=ratio,
    )


def stops(statistics: MinibatchStatistics, settings: UpdateSettings) -> bool:
    """
    Tell whether a minibatch ends the update, as SB3: without a backward pass, so that gradients stay those of the last step.

    :param statistics: of the minibatch
    :param settings: of the update
    """
    return settings.kl_limit is not None and bool(statistics.approx_kl > settings.kl_limit)


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


def check_finite_output(actions: Array, values: Array, log_probs: Array) -> None:
    """
    Stop before a policy's output that is NaN or infinite reaches the environment.

    :param actions: as sampled, any shape
    :param values: of the observations, shape ``(n_envs, 1)``
    :param log_probs: of the actions, shape ``(n_envs,)``
    :raises NonFiniteUpdateError: naming each output that is not finite
    """
    # A product is finite only where both factors are: a call or two a step. Where it is not, it takes a look at each.
    if math.isfinite(log_probs.ravel().dot(values).item()):
        if actions.dtype.kind != "f":
            return
        flat = actions.ravel()
        if math.isfinite(flat.dot(flat)):
            return
    outputs = {"actions": actions, "values": values, "log_probs": log_probs}
    bad = [f"{name}={output.tolist()}" for name, output in outputs.items() if not np.isfinite(output).all()]
    if bad:
        raise NonFiniteUpdateError(f"policy output: {', '.join(bad)}")


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
        if (grad := parameter.grad) is not None:
            # In numpy: with small networks a call costs more than the numbers, and torch's calls cost most.
            part = grad.cpu()
            # Numpy has no bfloat16, and squares in half precision overflow.
            gradient = (part if part.dtype in (th.float32, th.float64) else part.float()).numpy().ravel()
            squares[part_of(name)] += float(gradient.dot(gradient))
    total = sum(squares.values())
    return {part: math.sqrt(squares[part] / total) if total > 0 else 0.0 for part in ("policy", "value")}


PART = re.compile("(?P<policy>policy_net|action_net|log_std|pi_features|lstm_actor)|(?P<value>value_net|vf_features|critic)")
"""Words in the names of SB3's and sb3-contrib's parameters by which the two parts are known."""


@lru_cache(maxsize=1024)
def part_of(name: str) -> str:
    """Say whether a parameter is of the "policy", of the "value" function, or "shared"."""
    found = PART.search(name)
    return "shared" if found is None else str(found.lastgroup)


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
