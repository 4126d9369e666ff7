"""Large minibatches in parts: what memory can't hold at once adds up to the same gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ppo_edu.engines.base import Engine, MinibatchStatistics, UpdateSettings


class AccumulatingEngine:
    r"""
    Computes each minibatch in parts of ``micro_batch_size`` with another engine.

    Every loss is a mean over the minibatch, so that the gradient of the whole is the mean of the parts' gradients, weighted by
    their sizes: :math:`\nabla L = \sum_i \frac{n_i}{n} \nabla L_i`. What is not a mean are the advantages' moments; they are
    taken of the whole minibatch first. Results agree with those of one large minibatch to float rounding.

    :param engine: computes the parts
    :param micro_batch_size: transitions of a part; divides the size of minibatches
    """

    def __init__(self, engine: Engine, micro_batch_size: int) -> None:
        self.engine, self.micro_batch_size = engine, micro_batch_size
        self.name, self.policy = engine.name, engine.policy
        self._ratios: np.ndarray = np.empty(0)

    def act(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        return self.engine.act(observations)

    def value(self, observations: PyTorchObs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        return self.engine.value(observations)

    def attach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.attach`."""
        self.engine.attach()

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[list[Any]]:
        """
        Shuffle the rollout for one epoch, see :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`.

        :param rollout_buffer: full rollout buffer
        :param batch_size: transitions per minibatch, a multiple of ``micro_batch_size``
        :return: minibatches as lists of their parts
        """
        parts: list[Any] = []
        for part in self.engine.minibatches(rollout_buffer, self.micro_batch_size):
            parts.append(part)
            if len(parts) * self.micro_batch_size == batch_size:
                yield parts
                parts = []
        if parts:
            yield parts

    def gradients(self, minibatch: list[Any], settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        sizes = [len(part.advantages) for part in minibatch]
        settings = with_moments(settings, [part.advantages for part in minibatch])
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        totals = [th.zeros_like(parameter) for parameter in parameters]
        statistics, ratios = [], []
        for part, size in zip(minibatch, sizes, strict=True):
            statistics.append(self.engine.gradients(part, settings))
            ratios.append(np.array(self.engine.last_ratios()))
            for total, parameter in zip(totals, parameters, strict=True):
                if parameter.grad is not None:
                    total.add_(parameter.grad, alpha=size / sum(sizes))
        for total, parameter in zip(totals, parameters, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(total)
        self._ratios = np.concatenate(ratios)
        return mean_statistics(statistics, sizes)

    def last_ratios(self) -> np.ndarray:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.last_ratios`."""
        return self._ratios

    def apply(self) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        return self.engine.apply()


def with_moments(settings: UpdateSettings, parts: Sequence[Any]) -> UpdateSettings:
    """
    Fix the moments that advantages are standardised with, where each minibatch has its own.

    :param settings: settings of this update
    :param parts: advantages of a minibatch, in parts, as tensors or arrays
    :return: settings with the moments of all parts together
    """
    if not settings.normalize_advantage or settings.advantage_moments is not None:
        return settings
    advantages = np.concatenate([np.asarray(part.cpu() if isinstance(part, th.Tensor) else part) for part in parts])
    if len(advantages) < 2:  # a deviation of one number is none, and it is left as it is
        return replace(settings, normalize_advantage=False)
    moments = float(np.mean(advantages, dtype=np.float64)), float(np.std(advantages, ddof=1, dtype=np.float64))
    return replace(settings, advantage_moments=moments)


def mean_statistics(statistics: Sequence[MinibatchStatistics], weights: Sequence[float]) -> MinibatchStatistics:
    """
    Sum up the statistics of a minibatch's parts.

    :param statistics: of each part
    :param weights: of each part, such as their sizes
    :return: their weighted mean, with the largest ratio of all
    """
    mean = np.average(np.array(statistics, dtype=np.float64), axis=0, weights=weights)
    found = dict(zip(MinibatchStatistics._fields, mean.tolist(), strict=True))
    largest = max(one.ratio_max for one in statistics)
    return MinibatchStatistics(**{**found, "approx_kl": np.float32(found["approx_kl"]), "ratio_max": largest})
