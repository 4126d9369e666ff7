"""The fast engine for policies with an LSTM or a GRU: whole sequences in a call, step by step and without padding.

What is learnt from begins a sequence where an episode does, where an environment's transitions do and where a minibatch does;
there the state is the one that was stored when the transition was made, as in sb3-contrib's ``RecurrentPPO``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines.base import MinibatchStatistics, PolicyInputs
from sb3_ppo_edu.engines.fused.description import LSTM, Description, RecurrentStruct, RolloutStruct, address, array_address
from sb3_ppo_edu.engines.fused.engine import FusedEngine
from sb3_ppo_edu.engines.fused.masked import MaskedEngine
from sb3_ppo_edu.engines.fused.minibatches import Columns, FusedMinibatch, as_columns, columns_of, struct_of
from sb3_ppo_edu.engines.fused.observations import StoredParts
from sb3_ppo_edu.engines.recurrence import modules_below
from sb3_ppo_edu.functional.objectives import Array, UpdateSettings
from sb3_ppo_edu.rollouts.sequences import STATES, has_plain_sequences, rotate


class StoredStates(NamedTuple):
    """
    States of a rollout, a row a transition; those where no sequence begins are never read.

    :param actor: hidden and cell states before the transition, each of shape ``(transitions, n_layers, n_units)``
    :param critic: likewise
    :param episode_starts: whether a transition begins an episode, shape ``(transitions,)``
    """

    actor: tuple[Array, ...]
    critic: tuple[Array, ...]
    episode_starts: Array


class SequenceOrder(NamedTuple):
    """
    Transitions in the order of time steps, the longest sequence first in each.

    :param rows: indices of the transitions
    :param counts: transitions of each time step: so many sequences are as long as that
    """

    rows: NDArray[np.int64]
    counts: NDArray[np.int64]


def order_of_steps(begins: NDArray[np.bool_]) -> SequenceOrder:
    """
    Bring sequences that lie one after the other into the order of time steps.

    :param begins: whether a transition begins a sequence, shape ``(batch,)``; the first does in any case
    :return: the order
    """
    first = np.flatnonzero(np.concatenate([[True], begins[1:]]))
    lengths = np.diff(first, append=len(begins))
    rank = np.empty_like(first)
    rank[np.argsort(-lengths, kind="stable")] = np.arange(len(first))
    step = np.arange(len(begins)) - np.repeat(first, lengths)
    return SequenceOrder(np.lexsort((np.repeat(rank, lengths), step)), np.bincount(step))


class SequenceMinibatch(FusedMinibatch):
    """
    Sequences of a rollout; the kernels gather transitions and states.

    :param columns: all transitions
    :param order: those of the minibatch; indices of ``columns`` and ``states``
    :param struct: where the columns lie
    :param states: of all transitions
    """

    __slots__ = ("counts", "states")

    def __init__(self, columns: Columns, order: SequenceOrder, struct: RolloutStruct, states: StoredStates) -> None:
        rows = np.ascontiguousarray(order.rows, np.int64)
        super().__init__(columns, rows, struct, array_address(rows))
        self.counts, self.states = np.ascontiguousarray(order.counts, np.int64), states


class RecurrentFusedEngine(FusedEngine):
    """
    Acts and updates by compiled kernels, with a memory.

    :param policy: recurrent actor-critic policy with its optimizer, sb3-contrib's or one with GRUs
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        below = actor, critic, _ = modules_below(policy)
        super().__init__(policy, Description(policy, below))
        self._actor = self.description.recurrent[actor]
        self._critic = self.description.recurrent.get(critic)
        self.hidden_states: Any = None
        """After a call of ``act``: the states behind the step."""

    # -- acting ----------------------------------------------------------------------------------------------------------

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`; the states behind the step are then in ``hidden_states``."""
        given: Any = inputs.hidden_states
        self._begin_step(inputs, given[0][0].shape[1])
        following = following_critics = self._point(self._actor, given[0], leave=True)
        if self._critic is not None and self._critic is not self._actor:
            following_critics = self._point(self._critic, given[1], leave=True)
        outputs = super().act(inputs)
        self.hidden_states = type(given)(following, following_critics)
        return outputs

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`; hidden states are the critic's."""
        given: Any = inputs.hidden_states
        self._begin_step(inputs, given[0].shape[1])
        if self._critic is not None:
            self._point(self._critic, given, leave=False)
        return super().value(inputs)

    def acting_in(self, rollout_buffer: RolloutBuffer) -> None:
        """See :meth:`FusedEngine.acting_in`: states have to be stored too, by the ordinary loop."""

    def _begin_step(self, inputs: PolicyInputs, n: int) -> None:
        """Tell the kernels that there is one time step of n environments, and which of them begin an episode."""
        given: Any = inputs.episode_starts
        starts, counts, model = given.to(self._dtype).contiguous(), np.array([n], np.int64), self.description.model
        model.steps, model.counts = 1, array_address(counts)
        model.episode_starts = address(starts, "episode_starts", self._dtype, (n,))
        self._alive_inputs: list[Any] = [starts, counts]

    def _point(self, struct: RecurrentStruct, given: Sequence[th.Tensor], leave: bool) -> Any:
        """Tell where the environments' states lie, and where the next ones are to go; gives those."""
        states = [state.contiguous() for state in given]
        self._alive_inputs += states
        hidden, cell = states
        n, units = hidden.shape[1], struct.units
        struct.state_row, struct.state_layer = units, n * units
        shape = (struct.depth, n, units)
        struct.hidden, struct.cell = (address(state, "hidden_states", self._dtype, shape) for state in states)
        struct.next_hidden = struct.next_cell = None
        if not leave:
            return None
        # A GRU has no cell state: what stands in its place is handed on.
        following = th.empty_like(hidden), th.empty_like(cell) if struct.kind == LSTM else cell
        struct.next_hidden, struct.next_cell = map(th.Tensor.data_ptr, following)
        return following

    # -- updating --------------------------------------------------------------------------------------------------------

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[SequenceMinibatch]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`; the buffer is one of sb3-contrib's."""
        if not has_plain_sequences(rollout_buffer) or not (self._are_features or self._parts):
            for samples in rollout_buffer.get(batch_size):
                # A buffer of the user's own may look at the policy, or change it, between two minibatches.
                self.attach()
                yield self.minibatch_of(samples)
            return
        stored: Any = rollout_buffer
        rotated, form = rotate(stored), self._form
        observations: Any = stored.observations
        if not self._are_features:
            observations = StoredParts(self._parts or [], observations, len(rotated.rows))
        columns = as_columns(observations, *columns_of(stored)[1:], **form)
        struct = struct_of(columns)
        hidden, cell, *critics = (np.ascontiguousarray(getattr(stored, name), form["dtype"]) for name in STATES)
        starts = np.ascontiguousarray(stored.episode_starts.ravel(), form["dtype"])
        states = StoredStates((hidden, cell), (critics[0], critics[1]), starts)
        for first in range(0, len(rotated.rows), batch_size):
            taken = slice(first, first + batch_size)
            order = order_of_steps(rotated.begins[taken])
            yield SequenceMinibatch(columns, order._replace(rows=rotated.rows[taken][order.rows]), struct, states)

    def minibatch_of(self, samples: Any) -> SequenceMinibatch:  # type: ignore[override]
        """
        Put padded sequences in the form that the kernels read.

        :param samples: as sb3-contrib's rollout buffers give them
        :return: all of them as one minibatch
        """
        n_sequences = samples.lstm_states.pi[0].shape[1]
        is_transition = (samples.mask > 1e-8).numpy().reshape(n_sequences, -1)
        lengths = is_transition.sum(axis=1)
        by_length = np.argsort(-lengths, kind="stable")
        step, rank = np.nonzero(is_transition[by_length].T)
        rows = by_length[rank] * is_transition.shape[1] + step
        features, form = self._features(samples.observations).numpy()[rows], self._form
        given = (*samples[1:6], samples.action_masks) if form.get("n_masks") else samples[1:6]
        columns = as_columns(features, *(column.numpy()[rows] for column in given), **form)
        order = SequenceOrder(np.arange(len(rows)), np.bincount(step))
        actor, critic = (
            tuple(np.ascontiguousarray(state.numpy()[:, by_length].swapaxes(0, 1)) for state in states)
            for states in samples.lstm_states
        )
        starts = np.ascontiguousarray(samples.episode_starts.numpy().ravel()[rows], form["dtype"])
        return SequenceMinibatch(columns, order, struct_of(columns), StoredStates(actor, critic, starts))

    def in_parts(self, minibatch: SequenceMinibatch, size: int) -> list[SequenceMinibatch]:
        """
        Split a minibatch where sequences end, so that its gradient is the parts' together.

        :param minibatch: the minibatch
        :param size: transitions of a part, or else those of one sequence
        :return: its parts
        """
        counts = minibatch.counts
        sequence = np.arange(minibatch.size) - np.repeat(np.cumsum(counts) - counts, counts)
        lengths, parts, begin = np.bincount(sequence), [], 0
        while begin < len(lengths):
            end = begin + max(int(np.searchsorted(np.cumsum(lengths[begin:]), size, side="right")), 1)
            taken, steps = (begin <= sequence) & (sequence < end), np.clip(counts - begin, 0, end - begin)
            order = SequenceOrder(minibatch.rows[taken], steps[steps > 0])
            parts.append(SequenceMinibatch(minibatch.columns, order, minibatch.struct, minibatch.states))
            begin = end
        return parts

    def gradients(self, minibatch: FusedMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        assert isinstance(minibatch, SequenceMinibatch)
        model, states = self.description.model, minibatch.states
        model.steps, model.counts = len(minibatch.counts), array_address(minibatch.counts)
        model.episode_starts = array_address(states.episode_starts)
        # A shared LSTM is the actor's.
        for struct, of_tower in ((self._critic, states.critic), (self._actor, states.actor)):
            if struct is not None:
                check_states(of_tower, minibatch, (struct.depth, struct.units))
                struct.state_row, struct.state_layer = struct.depth * struct.units, struct.units
                struct.hidden, struct.cell = map(array_address, of_tower)
                struct.next_hidden = struct.next_cell = None
        return super().gradients(minibatch, settings)


def check_states(states: tuple[Array, ...], minibatch: SequenceMinibatch, shape: tuple[int, int]) -> None:
    """
    Check that there is a state of the right size where each sequence begins.

    :param states: hidden and cell states
    :param minibatch: the sequences
    :param shape: layers and units
    :raises ValueError: if the kernels would read beyond them
    """
    needed = int(minibatch.rows[: minibatch.counts[0]].max()) + 1
    for state in states:
        if state.shape[1:] != shape or len(state) < needed:
            raise ValueError(
                f"hidden states of the rollout: found shape {state.shape}, expected {needed} or more times {shape}"
            )


class MaskedRecurrentEngine(RecurrentFusedEngine, MaskedEngine):
    """
    The same with action masks: see :class:`~sb3_ppo_edu.engines.fused.masked.MaskedEngine`.

    :param policy: recurrent actor-critic policy with masks and its optimizer
    """
