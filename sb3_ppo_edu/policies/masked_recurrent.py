"""Actor-critic policies with a memory that are told which actions are legal: sb3-contrib's recurrent ones and those with GRUs.

What is illegal gets a logit of -10⁸, as in sb3-contrib's maskable distributions, so that its probability is 0 in float32, and
so are its part of the entropy and its gradient. A mask has all classes of all choices of an action side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.distributions import Distribution

from sb3_ppo_edu.policies.recurrent import CnnGruPolicy, MlpGruPolicy, MultiInputGruPolicy, PoliciesOfCells, SavedMemory

HUGE = 1e8
"""Logit of what is sure, and negative of what is out of the question; sb3-contrib's."""


class MaskedMixin(SavedMemory):
    """Gives a recurrent policy an argument ``action_masks``, of shape ``(n, n_choices)``; None forbids nothing."""

    further_inputs = ("lstm_states", "episode_starts", "action_masks")
    _action_masks: th.Tensor | None = None

    @contextmanager
    def _told(self, action_masks: Any) -> Iterator[None]:
        """Have the distributions that are made within take masks into account; without any, those of the caller stay."""
        before = self._action_masks
        if action_masks is not None:
            self._action_masks = th.as_tensor(action_masks, device=self.device).bool()
        try:
            yield
        finally:
            self._action_masks = before

    def forward(  # type: ignore[override]
        self, obs: Any, lstm_states: Any, episode_starts: th.Tensor, deterministic: bool = False, action_masks: Any = None
    ) -> Any:
        """
        Act.

        :param obs: observations, shape ``(n, *obs_shape)``
        :param lstm_states: hidden and cell states of actor and critic
        :param episode_starts: which observations begin an episode, shape ``(n,)``
        :param deterministic: the likeliest legal action instead of a random one
        :param action_masks: which actions are legal
        :return: actions, values, log-probabilities and the next states
        """
        with self._told(action_masks):
            return super().forward(obs, lstm_states, episode_starts, deterministic)

    def evaluate_actions(  # type: ignore[override]
        self, obs: Any, actions: th.Tensor, lstm_states: Any, episode_starts: th.Tensor, action_masks: Any = None
    ) -> Any:
        """
        Judge actions.

        :param obs: observations, shape ``(n, *obs_shape)``
        :param actions: shape ``(n, *action_shape)``
        :param lstm_states: hidden and cell states of actor and critic where sequences begin
        :param episode_starts: which observations begin an episode, shape ``(n,)``
        :param action_masks: which actions were legal
        :return: values, log-probabilities and entropies
        """
        with self._told(action_masks):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)

    def get_distribution(  # type: ignore[override]
        self, obs: Any, lstm_states: Any, episode_starts: th.Tensor, action_masks: Any = None
    ) -> Any:
        """
        Give what actions are drawn from.

        :param obs: observations, shape ``(n, *obs_shape)``
        :param lstm_states: hidden and cell states of the actor where sequences begin
        :param episode_starts: which observations begin an episode, shape ``(n,)``
        :param action_masks: which actions are legal
        :return: the distribution, and the states behind the last step
        """
        with self._told(action_masks):
            return super().get_distribution(obs, lstm_states, episode_starts)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> Any:
        """
        Choose actions.

        :param observation: of one environment or of several
        :param state: as the last call gave it; None for zeros
        :param episode_start: which of them begin an episode; None for none
        :param deterministic: the likeliest legal action instead of a random one
        :param action_masks: which actions are legal, shape ``(n_envs, n_choices)`` or ``(n_choices,)``
        :return: the actions, and the next states
        """
        with self._told(None if action_masks is None else np.atleast_2d(action_masks)):
            return super().predict(observation, state, episode_start, deterministic)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        """Make the distribution of what is legal."""
        logits = self.action_net(latent_pi)
        if self._action_masks is not None:
            logits = masked(logits, self._action_masks, self.action_space)
        distribution: Distribution = self.action_dist.proba_distribution(action_logits=logits)
        return distribution


def masked(logits: th.Tensor, masks: th.Tensor, action_space: spaces.Space[Any]) -> th.Tensor:
    """
    Put what is illegal out of the question.

    :param logits: of a Categorical, several side by side, or Bernoullis, shape ``(n, n_logits)``
    :param masks: bool, shape ``(n, n_choices)``; of a binary choice first whether 0 is legal, then whether 1 is
    :param action_space: Discrete, MultiDiscrete or MultiBinary
    :return: logits of the same shape
    """
    if not isinstance(action_space, spaces.MultiBinary):
        return th.where(masks.reshape(logits.shape), logits, -HUGE)
    zero, one = masks.reshape(*logits.shape, 2).unbind(-1)
    return th.where(one, th.where(zero, logits, HUGE), -HUGE)


class MaskedMlpLstmPolicy(MaskedMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` with masks; arguments as there."""


class MaskedCnnLstmPolicy(MaskedMixin, RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` with masks; arguments as there."""


class MaskedMultiInputLstmPolicy(MaskedMixin, RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` with masks; arguments as there."""


class MaskedMlpGruPolicy(MaskedMixin, MlpGruPolicy):
    """``MlpGruPolicy`` with masks; arguments as there."""


class MaskedCnnGruPolicy(MaskedMixin, CnnGruPolicy):
    """``CnnGruPolicy`` with masks; arguments as there."""


class MaskedMultiInputGruPolicy(MaskedMixin, MultiInputGruPolicy):
    """``MultiInputGruPolicy`` with masks; arguments as there."""


MASKED_POLICIES: PoliciesOfCells = {
    "lstm": {
        "MlpLstmPolicy": MaskedMlpLstmPolicy,
        "CnnLstmPolicy": MaskedCnnLstmPolicy,
        "MultiInputLstmPolicy": MaskedMultiInputLstmPolicy,
    },
    "gru": {
        "MlpLstmPolicy": MaskedMlpGruPolicy,
        "CnnLstmPolicy": MaskedCnnGruPolicy,
        "MultiInputLstmPolicy": MaskedMultiInputGruPolicy,
    },
}
"""For each cell, the classes that stand in for those without masks."""
