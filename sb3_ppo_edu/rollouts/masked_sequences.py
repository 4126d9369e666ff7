"""sb3-contrib's rollout buffers for sequences, with the masks of each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.vec_env.action_masks import choices_of


class MaskedSamples(NamedTuple):
    """
    Padded sequences, see sb3-contrib's ``RecurrentRolloutBufferSamples``.

    :param action_masks: which actions were legal, shape ``(n_sequences * length, n_choices)``; of padding, none
    """

    observations: Any
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    lstm_states: Any
    episode_starts: th.Tensor
    mask: th.Tensor
    action_masks: th.Tensor


class MaskedSequencesMixin(RolloutBuffer):
    """Stores masks beside what a rollout buffer for sequences stores."""

    pad: Any  # of the minibatch in hand: puts a column into padded sequences

    def reset(self) -> None:
        """Empty the buffer; nothing is forbidden."""
        super().reset()
        n_choices = sum(choices_of(self.action_space))
        self.action_masks = np.ones((self.buffer_size, self.n_envs, n_choices), dtype=np.float32)

    def add(self, *args: Any, action_masks: th.Tensor | None = None, **kwargs: Any) -> None:
        """
        Append one step of every environment.

        :param args: as without masks
        :param action_masks: which actions were legal, shape ``(n_envs, n_choices)``; None for all
        :param kwargs: as without masks
        """
        if action_masks is not None:
            self.action_masks[self.pos] = action_masks.cpu().numpy()
        super().add(*args, **kwargs)

    def get(self, batch_size: int | None = None) -> Iterator[Any]:  # type: ignore[override]
        """
        Go through the rollout.

        :param batch_size: transitions per minibatch
        :return: minibatches of padded sequences
        """
        if not self.generator_ready:
            self.action_masks = self.swap_and_flatten(self.action_masks)
        yield from super().get(batch_size)

    def _get_samples(self, batch_inds: np.ndarray, env_change: Any, env: Any = None) -> Any:  # type: ignore[override]
        """Add the masks of some transitions to what there is of them."""
        found: Any = super()._get_samples(batch_inds, env_change, env)  # type: ignore[call-arg]
        masks = self.pad(self.action_masks[batch_inds])
        return MaskedSamples(**found._asdict(), action_masks=masks.flatten(end_dim=1))


class MaskedSequencesBuffer(MaskedSequencesMixin, RecurrentRolloutBuffer):  # type: ignore[misc]
    """sb3-contrib's ``RecurrentRolloutBuffer`` with masks."""


class MaskedSequencesDictBuffer(MaskedSequencesMixin, RecurrentDictRolloutBuffer):  # type: ignore[misc]
    """sb3-contrib's ``RecurrentDictRolloutBuffer`` with masks."""
