"""Engines around an engine: they forward, and write only what they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines.base import (
    AnyMinibatch,
    Engine,
    Minibatch,
    MinibatchStatistics,
    PolicyInputs,
)
from sb3_ppo_edu.functional.objectives import Array, UpdateSettings


class EngineWrapper(Generic[AnyMinibatch]):
    """
    Does what another engine does. A subclass writes what it changes.

    :param engine: the engine inside
    """

    def __init__(self, engine: Engine[AnyMinibatch]) -> None:
        self.engine = engine

    @property
    def name(self) -> str:
        """Name of the engine inside."""
        return self.engine.name

    @property
    def policy(self) -> ActorCriticPolicy:
        """The policy that the engine inside acts with and updates."""
        return self.engine.policy

    @property
    def hidden_states(self) -> tuple[Any, ...] | None:
        """Of recurrent layers after the last ``act``, where the engine inside has such."""
        return getattr(self.engine, "hidden_states", None)

    def attach(self) -> None:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.attach`."""
        self.engine.attach()

    def detach(self) -> None:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.detach`."""
        self.engine.detach()

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.act`."""
        return self.engine.act(inputs)

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.value`."""
        return self.engine.value(inputs)

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.columns`."""
        return self.engine.columns(inputs)

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[Any]:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.minibatches`."""
        return self.engine.minibatches(rollout_buffer, batch_size)

    def gradients(self, minibatch: Any, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.gradients`."""
        return self.engine.gradients(minibatch, settings)

    def apply(self, settings: UpdateSettings) -> float:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.apply`."""
        return self.engine.apply(settings)


class MinibatchInParts(NamedTuple):
    """
    A minibatch as the parts that it is computed in.

    :param parts: in the form of the engine that computes them
    """

    parts: list[Any]

    @property
    def size(self) -> int:
        """Number of transitions of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def advantages(self) -> Array:
        """Advantages of all parts."""
        return np.concatenate([as_array(part.advantages) for part in self.parts])


class AccumulatingEngine(EngineWrapper[AnyMinibatch]):
    r"""
    Computes each minibatch in parts of ``micro_batch_size`` with another engine.

    Every loss is a mean over the minibatch, so that the gradient of the whole is the mean of the parts' gradients, weighted by
    their sizes: :math:`\nabla L = \sum_i \frac{n_i}{n} \nabla L_i`, or by their transitions' weights where an objective has
    some. What is not a mean are the advantages' moments; they are taken of the whole minibatch first. Results agree with those
    of one large minibatch to float rounding.

    :param engine: computes the parts
    :param micro_batch_size: transitions of a part; divides the size of minibatches
    """

    def __init__(self, engine: Engine[AnyMinibatch], micro_batch_size: int) -> None:
        super().__init__(engine)
        self.micro_batch_size = micro_batch_size

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[MinibatchInParts]:
        """
        Shuffle the rollout for one epoch, see :meth:`~sb3_ppo_edu.engines.base.Engine.minibatches`.

        :param rollout_buffer: full rollout buffer
        :param batch_size: transitions per minibatch, a multiple of ``micro_batch_size``
        :return: minibatches in parts
        """
        if batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size={self.micro_batch_size}: expected a divisor of batch_size={batch_size}")
        in_parts = getattr(self.engine, "in_parts", None)
        if in_parts is not None:  # of sequences, which can't be cut anywhere
            for minibatch in self.engine.minibatches(rollout_buffer, batch_size):
                yield MinibatchInParts(in_parts(minibatch, self.micro_batch_size))
            return
        parts: list[AnyMinibatch] = []
        for part in self.engine.minibatches(rollout_buffer, self.micro_batch_size):
            parts.append(part)
            if len(parts) * self.micro_batch_size == batch_size:
                yield MinibatchInParts(parts)
                parts = []
        if parts:
            yield MinibatchInParts(parts)

    def gradients(self, minibatch: MinibatchInParts, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`~sb3_ppo_edu.engines.base.Engine.gradients`."""
        settings = replace(with_moments(settings, minibatch), kl_limit=None)  # the estimate of all parts counts
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        stepped = {id(parameter) for group in self.policy.optimizer.param_groups for parameter in group["params"]}
        # The optimizer does not clear the gradients of others, to which torch adds with every pass.
        others = {index: one.grad for index, one in enumerate(parameters) if id(one) not in stepped}
        totals = [th.zeros_like(parameter) for parameter in parameters]
        statistics = []
        for part in minibatch.parts:
            for index in others:
                parameters[index].grad = None
            statistics.append(self.engine.gradients(part, settings))
            for total, parameter in zip(totals, parameters, strict=True):
                if parameter.grad is not None:
                    total.add_(parameter.grad, alpha=part.size / minibatch.size * statistics[-1].weight)
        weights = [part.size * one.weight for part, one in zip(minibatch.parts, statistics, strict=True)]
        for index, (total, parameter) in enumerate(zip(totals, parameters, strict=True)):
            if parameter.grad is not None:
                before = others.get(index)
                total.div_(sum(weights) / minibatch.size)
                parameter.grad.copy_(total if before is None else total + before)
        return mean_statistics(statistics, weights)._replace(weight=sum(weights) / minibatch.size)


def as_array(tensor: th.Tensor | Array) -> Array:
    """
    Give an array of what may be a tensor on any device.

    :param tensor: tensor or array
    :return: the array
    """
    return np.asarray(tensor.cpu() if isinstance(tensor, th.Tensor) else tensor)


def with_moments(settings: UpdateSettings, minibatch: Minibatch) -> UpdateSettings:
    """
    Fix the moments that advantages are standardised with, where each minibatch has its own.

    :param settings: settings of this update
    :param minibatch: all of a minibatch
    :return: settings with its moments
    """
    if not settings.normalize_advantage or settings.advantage_moments is not None:
        return settings
    advantages = as_array(minibatch.advantages)
    if len(advantages) < 2:  # a deviation of one number is none, and it is left as it is
        return replace(settings, normalize_advantage=False)
    moments = float(np.mean(advantages, dtype=np.float64)), float(np.std(advantages, ddof=1, dtype=np.float64))
    return replace(settings, advantage_moments=moments)


def mean_statistics(statistics: Sequence[MinibatchStatistics], weights: Sequence[float]) -> MinibatchStatistics:
    """
    Sum up the statistics of a minibatch's parts.

    :param statistics: of each part
    :param weights: of each part, such as their sizes
    :return: their weighted mean, with the largest ratio of all, and all ratios
    """
    ratios = np.concatenate([as_array(one.ratios) for one in statistics])
    numbers = np.array([one[:-1] for one in statistics], dtype=np.float64)
    found = dict(zip(MinibatchStatistics._fields[:-1], np.average(numbers, axis=0, weights=weights).tolist(), strict=True))
    largest = max(one.ratio_max for one in statistics)
    return MinibatchStatistics(
        **{**found, "approx_kl": np.float32(found["approx_kl"]), "ratio_max": largest, "ratios": ratios}
    )
