r"""
Averaging an engine's gradients over processes.

Between an engine's ``gradients`` and ``apply``: :math:`\nabla L = \frac1N\sum_r \nabla L_r`, each the mean over an equal shard
of the minibatch; where an objective weights transitions, the shards count by the sum of their weights. Every process then
takes the same step from the same parameters, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.algorithms.update_record import NUMBERS
from sb3_ppo_edu.distributed.process_group import ProcessGroup, format_ranks
from sb3_ppo_edu.engines import Engine, EngineWrapper, MinibatchStatistics, NonFiniteUpdateError, UpdateSettings, as_array
from sb3_ppo_edu.functional.objectives import Array


class Moments(NamedTuple):
    """
    Number, mean and sum of squared deviations of values, in a form in which the moments of subsets can be merged.

    :param number: how many values
    :param mean: their mean
    :param squares: sum of their squared deviations from it
    """

    number: float
    mean: float
    squares: float

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """
        Compute the moments of values.

        :param values: of any shape
        :return: their moments
        """
        values = values.astype(np.float64)
        mean = values.mean()
        return cls(float(values.size), float(mean), float(((values - mean) ** 2).sum()))

    @staticmethod
    def merge(subsets: Sequence[Moments]) -> Moments:
        """
        Merge the moments of disjoint subsets (Chan, Golub and LeVeque's formula).

        :param subsets: moments of each
        :return: moments of their union
        """
        number = sum(subset.number for subset in subsets)
        mean = sum(subset.number * subset.mean for subset in subsets) / number
        return Moments(number, mean, sum(subset.squares + subset.number * (subset.mean - mean) ** 2 for subset in subsets))

    @property
    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation, with the n - 1 denominator."""
        return self.mean, (self.squares / (self.number - 1)) ** 0.5


class MinibatchShard(NamedTuple):
    """
    This process's shard of a minibatch.

    :param minibatch: the shard, in the form of the engine that computes it
    :param moments: mean and standard deviation of the advantages of the whole minibatch
    """

    minibatch: Any
    moments: tuple[float, float]

    @property
    def size(self) -> int:
        """Number of transitions of this shard."""
        size: int = self.minibatch.size
        return size

    @property
    def advantages(self) -> th.Tensor | Array:
        """Advantages of this shard."""
        advantages: th.Tensor | Array = self.minibatch.advantages
        return advantages


class AveragingEngine(EngineWrapper[Any]):
    """
    Averages another engine's gradients and statistics over all processes.

    :param engine: computes the gradients of this process's shard of each minibatch
    :param group: the process group
    """

    def __init__(self, engine: Engine[Any], group: ProcessGroup) -> None:
        super().__init__(engine)
        self.group = group
        self._rollout_moments = (0.0, 1.0)

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[MinibatchShard]:
        """
        Shuffle the rollout for one epoch, see :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`.

        :param rollout_buffer: full rollout buffer of this process
        :param batch_size: transitions of this process's shard of a minibatch
        :return: shards, each with the moments of the advantages of the whole minibatch
        """
        shards = list(self.engine.minibatches(rollout_buffer, batch_size))
        self.group.record_progress()
        # All moments of an epoch in one operation: communicating takes longer than computing.
        own = [Moments.of(as_array(shard.advantages)) for shard in shards]
        table = th.zeros(self.group.size, len(own), 3, dtype=th.float64)
        table[self.group.rank] = th.tensor(own, dtype=th.float64)
        by_rank = self.group.all_reduce(table).tolist()
        bad = [rank for rank, moments in enumerate(by_rank) if not np.isfinite(moments).all()]
        if bad:  # found here: once merged, the moments of every minibatch would not be finite
            raise NonFiniteUpdateError(f"{format_ranks(bad)}: advantages that are not finite")
        merged = [Moments.merge([Moments(*moments[index]) for moments in by_rank]) for index in range(len(own))]
        self._rollout_moments = Moments.merge(merged).mean_and_std
        for shard, moments in zip(shards, merged, strict=True):
            yield MinibatchShard(shard, moments.mean_and_std)

    def gradients(self, minibatch: MinibatchShard, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        settings = replace(settings, kl_limit=None)  # it is the mean over all processes that counts
        if settings.normalize_advantage:
            per_rollout = settings.advantage_moments is not None
            settings = replace(settings, advantage_moments=self._rollout_moments if per_rollout else minibatch.moments)
        failure = ""
        try:
            statistics = self.engine.gradients(minibatch.minibatch, settings)
        except NonFiniteUpdateError as error:
            # The others wait for this process's gradient: they have to learn of it too.
            failure, statistics = str(error), MinibatchStatistics(*[np.float32(np.nan)] * len(NUMBERS))
        return self._average(statistics, failure)

    def _average(self, statistics: MinibatchStatistics, failure: str) -> MinibatchStatistics:
        """Average gradients and statistics at once; ``ratio_max`` is the largest of all, ``ratios`` stay this process's."""
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        # Every process sends as many numbers, also one whose gradients could not be computed.
        gradients = [th.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in trained]
        largest = [0.0] * self.group.size
        largest[self.group.rank] = float(statistics.ratio_max)
        weight = float(statistics.weight)
        own = [*(float(value) * weight for value in statistics[: len(NUMBERS) - 1]), weight, *largest]
        numbers = th.tensor(own, dtype=gradients[0].dtype, device=gradients[0].device)
        flat = self.group.all_reduce(th.cat([numbers, *(gradient.reshape(-1) * weight for gradient in gradients)]))
        sums, total = flat[: len(numbers)].tolist(), float(flat[len(NUMBERS) - 1])
        flat = flat[len(numbers) :].div_(total)
        mean = {name: value / total for name, value in zip(NUMBERS[:-1], sums, strict=False)}
        mean["weight"] = total / self.group.size
        largest = sums[len(mean) :]
        if not all(map(math.isfinite, mean.values())):
            bad = [rank for rank, ratio in enumerate(largest) if not math.isfinite(ratio)]
            raise NonFiniteUpdateError(f"{format_ranks(bad) if bad else 'their sum'}: {failure or 'not finite there'}")
        for gradient, averaged in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(averaged.view_as(gradient))
        return statistics._replace(**{**mean, "approx_kl": np.float32(mean["approx_kl"]), "ratio_max": max(largest)})
