"""
What follows the KL divergence of an update: the learning rate and the penalty's weight.

The rollout buffer stores log-probabilities, not the parameters of the distributions, and SB3's files and bits depend on that.
So the policy is asked once more about the rollout's observations before the first step of the update, when it still is the one
that collected the rollout, and after the last: two forward passes of the actor in all, whichever engine computes the update.
That is exact, needs no further column of the buffer, and costs nothing where nothing is adaptive.

For hidden states the rollout would have to be cut into sequences first, and a rollout buffer of one's own keeps it in an order
that is not known: with these, and with distributions for whose divergence there is no formula, the estimate of the last
epoch's minibatches stands in, k3 unless ``kl_estimator`` says k1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from torch.distributions import Distribution

from sb3_ppo_edu.algorithms.checks import adaptive_rate
from sb3_ppo_edu.algorithms.model import PPOModel
from sb3_ppo_edu.algorithms.update_record import UpdateRecord
from sb3_ppo_edu.engines.autograd import FiniteDistribution
from sb3_ppo_edu.functional.kl import KLPenaltyObjective, kl_divergence
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.rollouts.buffers import BLOCK, BLOCK_BYTES, known_kinds, rows_as_tensors


class KLControl:
    """
    Measures one update, and has what is adaptive follow.

    :param model: about to be updated, with a full rollout
    :param progress_remaining: 1 at the start of the training, 0 at its end
    """

    def __init__(self, model: PPOModel, progress_remaining: float) -> None:
        self.model, self.progress_remaining = model, progress_remaining
        self.rate = adaptive_rate(model.lr_schedule)
        self.objective = model.objective if isinstance(model.objective, KLPenaltyObjective) else None
        self._before = self._distributions() if self.rate or self.objective else None

    def follow(self, record: UpdateRecord) -> None:
        """
        Measure at the end of the update, let what is adaptive follow for the next one, and log it.

        :param record: of the update
        """
        if self.objective is not None:
            self.model.logger.record("train/beta", self.objective.beta)
        adaptive = [one for one in (self.rate, self.objective) if one is not None]
        if adaptive:
            kl = self._measure(record)
            self.model.logger.record("train/kl", kl)
            for one in adaptive:
                one.adapt(kl, self.progress_remaining)

    def _measure(self, record: UpdateRecord) -> float:
        """The divergence from the policy that collected the rollout, the mean over all states of all processes."""
        mean = float(np.mean(record.epoch_kls))
        after = None if self._before is None else self._distributions()
        if self._before is not None and after is not None:
            try:
                pairs = zip(self._before, after, strict=True)
                mean = float(th.cat([kl_divergence(old, new).double() for old, new in pairs]).mean())
            except NotImplementedError:  # torch has no formula for two distributions of this kind
                self._before = None
        return self.model.session.mean_over_processes(mean)

    def _distributions(self) -> list[list[Distribution]] | None:
        """What the policy would draw the actions of the rollout from now, part by part; None where that can't be said."""
        policy: Any = self.model.policy
        buffer = self.model.rollout_buffer
        if type(buffer) not in known_kinds() or not {"action_masks"}.issuperset(further_inputs(policy)):
            return None
        policy.set_training_mode(False)
        found: list[list[Any]] = []
        for rows in self._blocks():
            observations = rows_as_tensors(buffer.observations, rows, self.model.device)
            masks = {name: getattr(buffer, name)[rows] for name in further_inputs(policy)}
            with th.no_grad(), FiniteDistribution():
                given = policy.get_distribution(observations, **masks)
            parts = getattr(given, "distributions", getattr(given, "distribution", None))  # sb3-contrib's several, or SB3's
            found.append(parts if isinstance(parts, list) else [parts])
        policy.set_training_mode(True)
        return found if all(isinstance(part, Distribution) for parts in found for part in parts) else None

    def _blocks(self) -> Iterator[Any]:
        """Indices of the rollout's transitions, environment by environment, before and after the buffer is flattened."""
        buffer = self.model.rollout_buffer
        observations: Any = buffer.observations
        parts = observations.values() if isinstance(observations, dict) else [observations]
        n = buffer.buffer_size * buffer.n_envs
        size = max(min(BLOCK, BLOCK_BYTES * n // max(sum(part.nbytes for part in parts), 1)), 1)
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            yield rows if buffer.generator_ready else (rows % buffer.buffer_size, rows // buffer.buffer_size)
