"""
What follows the KL divergence of an update: the learning rate and the penalty's weight.

The rollout buffer stores log-probabilities, not the parameters of the distributions, and SB3's files and bits depend on that.
So the policy is asked once more about the rollout's observations before the first step of the update, when it still is the one
that collected the rollout, and after the last: two forward passes of the actor in all, whichever engine computes the update.
That is exact, needs no further column of the buffer, and costs nothing where nothing is adaptive. A policy with a memory goes
through the rollout from the state that it began with, with zeros where an episode begins, before the update and after it.

A rollout buffer of one's own keeps it in an order that is not known: with these, and with distributions for whose divergence
there is no formula, the estimate of the last epoch's minibatches stands in, k3 unless ``kl_estimator`` says k1. Each is from
before the minibatch's step, so that an update of a single one would measure nothing; it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from torch.distributions import Distribution

from sb3_ppo_edu.algorithms.checks import ArgumentError, adaptive_rate
from sb3_ppo_edu.algorithms.model import PPOModel
from sb3_ppo_edu.algorithms.update_record import UpdateRecord
from sb3_ppo_edu.engines.autograd import FiniteDistribution
from sb3_ppo_edu.functional.kl import KLPenaltyObjective, kl_divergence
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.rollouts.buffers import BLOCK, BLOCK_BYTES, known_kinds, rows_as_tensors

STORED = frozenset(("action_masks", "lstm_states", "episode_starts"))
"""What a policy may take beside observations, for the rollout to be gone through again."""


class KLControl:
    """
    Measures one update, and has what is adaptive follow.

    :param model: about to be updated, with a full rollout
    :param progress_remaining: 1 at the start of the training, 0 at its end
    :raises ArgumentError: if only estimates can be had, and the update has a single minibatch
    """

    def __init__(self, model: PPOModel, progress_remaining: float) -> None:
        self.model, self.progress_remaining = model, progress_remaining
        self.rate = adaptive_rate(model.lr_schedule)
        self.objective = model.objective if isinstance(model.objective, KLPenaltyObjective) else None
        self._before = self._distributions() if self.rate or self.objective else None
        if self._before is None and (self.rate or (self.objective and self.objective.d_targ is not None)):
            rollout, found = model.n_steps * model.n_envs, type(model.rollout_buffer).__name__
            if model.n_epochs == 1 and model.batch_size >= rollout:
                raise ArgumentError(
                    f"n_epochs=1 with batch_size={model.batch_size} of {rollout} transitions, and what follows the KL: "
                    f"expected two minibatches or more, since with {found} and this policy the KL is estimated before steps: "
                    "raise n_epochs, lower batch_size, or leave rollout_buffer_class out"
                )

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
            pairs = zip(self._before, after, strict=True)
            mean = float(th.cat([kl_divergence(old, new).double() for old, new in pairs]).mean())
        return self.model.session.mean_over_processes(mean)

    def _distributions(self) -> list[list[Distribution]] | None:
        """What the policy would draw the actions of the rollout from now, part by part; None where that can't be said."""
        policy: Any = self.model.policy
        buffer: Any = self.model.rollout_buffer
        known, needed = (*known_kinds(), *getattr(self.model, "buffer_classes", ())), further_inputs(policy)
        if type(buffer) not in known or not STORED.issuperset(needed):
            return None
        memory = self._first_states() if "lstm_states" in needed else None
        policy.set_training_mode(False)
        found: list[list[Any]] = []
        for rows in self._blocks():
            observations = rows_as_tensors(buffer.observations, rows, self.model.device)
            inputs: dict[str, Any] = {"action_masks": buffer.action_masks[rows]} if "action_masks" in needed else {}
            if memory is not None:
                starts = th.as_tensor(buffer.episode_starts[rows], dtype=th.float32, device=self.model.device)
                inputs |= {"lstm_states": memory, "episode_starts": starts.flatten()}
            with th.no_grad(), FiniteDistribution():
                given = policy.get_distribution(observations, **inputs)
            given, memory = (given, None) if memory is None else given
            parts = getattr(given, "distributions", getattr(given, "distribution", None))  # sb3-contrib's several, or SB3's
            found.append(parts if isinstance(parts, list) else [parts])
        policy.set_training_mode(True)
        return (
            found if all(isinstance(part, Distribution) for parts in found for part in parts) and has_formula(found) else None
        )

    def _first_states(self) -> tuple[th.Tensor, ...]:
        """The actor's states where the rollout begins, before and after the buffer is flattened."""
        buffer: Any = self.model.rollout_buffer
        states = (buffer.hidden_states_pi, buffer.cell_states_pi)
        ready, every = buffer.generator_ready, buffer.buffer_size
        first = [state[::every].swapaxes(0, 1) if ready else state[0] for state in states]  # (n_layers, n_envs, n_units)
        return tuple(th.tensor(np.ascontiguousarray(state), device=self.model.device) for state in first)

    def _blocks(self) -> Iterator[Any]:
        """Indices of the rollout's transitions, some steps of all environments, before and after the buffer is flattened."""
        buffer = self.model.rollout_buffer
        observations: Any = buffer.observations
        parts = observations.values() if isinstance(observations, dict) else [observations]
        n_steps, n_envs = buffer.buffer_size, buffer.n_envs
        n_bytes = max(sum(part.nbytes for part in parts), 1)
        size = max(min(BLOCK // n_envs, BLOCK_BYTES * n_steps // n_bytes), 1)
        for start in range(0, n_steps, size):
            steps = np.arange(start, min(start + size, n_steps))
            rows, columns = np.tile(steps, n_envs), np.repeat(np.arange(n_envs), len(steps))
            yield columns * n_steps + rows if buffer.generator_ready else (rows, columns)


def has_formula(blocks: list[list[Distribution]]) -> bool:
    """Tell whether torch has a formula for the divergence of two distributions of these kinds."""
    try:
        kl_divergence(blocks[0], blocks[0])
    except NotImplementedError:
        return False
    return True
