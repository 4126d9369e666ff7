"""What happened in one update, minibatch by minibatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_ppo_edu.engines import MinibatchStatistics

NUMBERS = MinibatchStatistics._fields[:-1]
"""Statistics of a minibatch that are one number each."""


@dataclass
class UpdateRecord:
    """
    What happened in one update, from the first minibatch to the last.

    :param rows: the :data:`NUMBERS` of every minibatch, the one at which the KL rule stopped included
    :param ratios: probability ratios of the last minibatch
    :param epoch_kls: KL estimates of the current epoch
    :param epoch_starts: index of each epoch's first minibatch
    :param grad_norms: global gradient norm before clipping, of every step taken
    :param stopped_in: index of the epoch in which the KL rule stopped the update, or None
    :param collected: the rollout's first advantages and returns, where they have been estimated anew
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    ratios: th.Tensor | NDArray[np.floating[Any]] = field(default_factory=lambda: np.empty(0))
    epoch_kls: list[np.float32] = field(default_factory=list)
    epoch_starts: list[int] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    stopped_in: int | None = None
    collected: tuple[np.ndarray, np.ndarray] | None = None

    def begin_epoch(self) -> None:
        """Begin an epoch."""
        self.epoch_kls = []
        self.epoch_starts.append(len(self.rows))

    def add(self, statistics: MinibatchStatistics) -> None:
        """
        Take in one minibatch.

        :param statistics: what the engine reported
        """
        self.rows.append(statistics[:-1])
        self.ratios = statistics.ratios
        self.epoch_kls.append(statistics.approx_kl)

    def column(self, name: str, start: int = 0, end: int | None = None) -> list[Any]:
        """
        One statistic of some minibatches.

        :param name: name of the statistic
        :param start: index of the first minibatch
        :param end: index behind the last one, or None for all
        :return: a number for each
        """
        index = NUMBERS.index(name)
        return [row[index] for row in self.rows[start:end]]

    def mean(self, name: str) -> np.float64:
        """
        Mean of one statistic over all minibatches.

        :param name: name of the statistic
        :return: its mean
        """
        mean: np.float64 = np.mean(self.column(name))
        return mean

    def by_epoch(self) -> dict[str, float]:
        """
        Sum up the first and the last epoch: KL and clip fraction rise in between where the data is used too often.

        :return: log keys and values
        """
        second = self.epoch_starts[1] if len(self.epoch_starts) > 1 else None
        kls, clipped = self.column("approx_kl", 0, second), self.column("clip_fraction", 0, second)
        clipped_last = self.column("clip_fraction", self.epoch_starts[-1])
        return {
            "kl_first_epoch": sum(map(float, kls)) / len(kls),
            "clip_fraction_first_epoch": sum(clipped) / len(clipped),
            "clip_fraction_last_epoch": sum(clipped_last) / len(clipped_last),
            "ratio_first": float(self.column("ratio_max", 0, 1)[0]),
        }
