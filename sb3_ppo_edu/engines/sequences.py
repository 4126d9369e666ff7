"""The reference engine for policies with a memory: minibatches are sequences, and padding is left out of every mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.engines.autograd import AutogradEngine


class SequenceMinibatch(NamedTuple):
    """
    Sequences of consecutive transitions, padded to the longest, one after the other.

    :param samples: as sb3-contrib's rollout buffers give them; what losses are computed from is without padding, in the same
        order: ``advantages``, ``returns``, ``old_values``, ``old_log_prob``
    :param is_transition: False where there is padding, shape ``(n_sequences * length,)``
    """

    samples: Any
    is_transition: th.Tensor

    @property
    def size(self) -> int:
        """Number of transitions, padding not counted."""
        return len(self.samples.advantages)

    @property
    def advantages(self) -> th.Tensor:
        """Not normalised, shape ``(size,)``."""
        advantages: th.Tensor = self.samples.advantages
        return advantages

    def further(self, names: tuple[str, ...]) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.engines.autograd.TensorMinibatch.further`."""
        return {name: getattr(self.samples, name) for name in names}


class SequenceEngine(AutogradEngine):
    """
    Updates a policy with a memory on sequences, each from the state that was stored where it begins.

    sb3-contrib's policies call their LSTM once for each step of a minibatch in which an episode begins. Sequences are cut
    where episodes begin, so that a start is only ever the first of its sequence, and a state of zeros says the same: with
    ``whole_sequences`` the LSTM is called once for all steps, and the minibatch takes a quarter of the time.

    :param policy: recurrent actor-critic policy with its optimizer
    :param whole_sequences: one call of the LSTM for a minibatch; results then agree with sb3-contrib's to within rounding only
    :param channels_last: see :class:`~sb3_ppo_edu.engines.autograd.AutogradEngine`
    """

    in_sequences = True

    def __init__(self, policy: ActorCriticPolicy, *, whole_sequences: bool = False, channels_last: bool = False) -> None:
        super().__init__(policy, channels_last=channels_last)
        self.whole_sequences = whole_sequences

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[SequenceMinibatch]:  # type: ignore[override]
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`; the buffer is one of sb3-contrib's."""
        for samples in rollout_buffer.get(batch_size):
            found = without_padding(samples)
            yield found._replace(samples=without_starts(found.samples)) if self.whole_sequences else found

    def evaluate(self, minibatch: Any, observations: Any, actions: th.Tensor) -> tuple[Any, Any, Any]:
        """See :meth:`sb3_ppo_edu.engines.autograd.AutogradEngine.evaluate`; what the policy says of padding is left out."""
        values, log_prob, entropy = super().evaluate(minibatch, observations, actions)
        rows = minibatch.is_transition
        return values[rows], log_prob[rows], None if entropy is None else entropy[rows]

    def in_parts(self, minibatch: SequenceMinibatch, size: int) -> list[SequenceMinibatch]:
        """
        Split a minibatch where sequences end, so that its gradient is the parts' together.

        :param minibatch: the minibatch
        :param size: transitions of a part, padding counted, or else those of one sequence
        :return: its parts
        """
        n_sequences = minibatch.samples.lstm_states.pi[0].shape[1]
        length = len(minibatch.is_transition) // n_sequences
        step = max(size // length, 1)
        return [part_of(minibatch, slice(begin, begin + step), length) for begin in range(0, n_sequences, step)]


LOSS_COLUMNS = ("old_values", "old_log_prob", "advantages", "returns")
"""What losses are computed from, beside what the policy says."""


def part_of(minibatch: SequenceMinibatch, sequences: slice, length: int) -> SequenceMinibatch:
    """
    Take some of a minibatch's sequences.

    :param minibatch: the minibatch
    :param sequences: which
    :param length: of each, padding counted
    :return: those
    """
    samples, padded = minibatch.samples, slice(sequences.start * length, sequences.stop * length)
    is_transition = minibatch.is_transition[padded]
    begin = int(minibatch.is_transition[: padded.start].sum())
    rows = slice(begin, begin + int(is_transition.sum()))
    observations = samples.observations
    in_rows = [name for name in ("actions", "episode_starts", "action_masks") if hasattr(samples, name)]
    taken = {
        "observations": {name: part[padded] for name, part in observations.items()}
        if isinstance(observations, dict)
        else observations[padded],
        "lstm_states": type(samples.lstm_states)(
            *(tuple(state[:, sequences].contiguous() for state in states) for states in samples.lstm_states)
        ),
        **{name: getattr(samples, name)[padded] for name in in_rows},
        **{name: getattr(samples, name)[rows] for name in LOSS_COLUMNS},
    }
    return SequenceMinibatch(samples._replace(**taken), is_transition)


def without_padding(samples: Any) -> SequenceMinibatch:
    """
    Take the padding out of what losses are computed from.

    :param samples: as sb3-contrib's rollout buffers give them
    :return: the minibatch
    """
    is_transition = samples.mask > 1e-8
    taken = {name: getattr(samples, name)[is_transition] for name in LOSS_COLUMNS}
    if samples.actions.dtype == th.int8:  # of MultiBinary, whose log-probability torch can't compute from integers
        taken["actions"] = samples.actions.float()
    return SequenceMinibatch(samples._replace(**taken), is_transition)


def without_starts(samples: Any) -> Any:
    """
    Let sequences that begin an episode begin with a state of zeros, instead of having the policy set it to zero.

    :param samples: as sb3-contrib's rollout buffers give them
    :return: the same without starts; as they are if an episode begins inside of a sequence
    """
    starts = samples.episode_starts.view(samples.lstm_states.pi[0].shape[1], -1)
    if starts[:, 1:].any():
        return samples
    goes_on = (1.0 - starts[:, 0]).view(1, -1, 1)
    states = [tuple(state * goes_on for state in part) for part in samples.lstm_states]
    return samples._replace(
        lstm_states=type(samples.lstm_states)(*states), episode_starts=th.zeros_like(samples.episode_starts)
    )
