"""Actor-critic policies with a memory: sb3-contrib's, whose cells are LSTMs, and the same with GRUs.

A GRU (https://arxiv.org/abs/1406.1078) has three gates' weights where an LSTM has four, and one state where that has two: the
hidden state. The place of the cell state stays, so that sb3-contrib's rollout buffers and ``predict`` serve both; it holds
zeros, and is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

import torch as th
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.policies.further_inputs import algorithm_for

RecurrentCell = Literal["lstm", "gru"]


class SavedMemory(RecurrentActorCriticPolicy):
    """Has ``policy.save`` keep the sizes of the memory, which sb3-contrib's policies forget, so that ``load`` finds them."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """See SB3's :class:`~stable_baselines3.common.policies.BasePolicy`."""
        return {
            **super()._get_constructor_parameters(),
            "lstm_hidden_size": self.lstm_actor.hidden_size,
            "n_lstm_layers": self.lstm_actor.num_layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }


class GruMixin(SavedMemory):
    """Gives a recurrent policy GRUs in place of its LSTMs; their arguments keep the names, such as ``lstm_hidden_size``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lstm_actor = self._gru_like(self.lstm_actor)
        if self.lstm_critic is not None:
            self.lstm_critic = self._gru_like(self.lstm_critic)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = self.optimizer_class(self.parameters(), lr=learning_rate, **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _gru_like(self, lstm: nn.RNNBase) -> Any:
        """Make a GRU of the same sizes; typed as what it stands for."""
        return nn.GRU(lstm.input_size, lstm.hidden_size, num_layers=lstm.num_layers, **self.lstm_kwargs)

    @staticmethod
    def _process_sequence(
        features: th.Tensor, lstm_states: tuple[th.Tensor, th.Tensor], episode_starts: th.Tensor, lstm: Any
    ) -> tuple[th.Tensor, Any]:
        """
        Go through sequences, each from its own state, which an episode's start sets to zero.

        :param features: shape ``(n_sequences * length, n_features)``, one sequence after the other
        :param lstm_states: hidden states ``(n_layers, n_sequences, n_units)``, and as many zeros
        :param episode_starts: whether an observation begins an episode, shape ``(n_sequences * length,)``
        :param lstm: the GRU
        :return: outputs, shape ``(n_sequences * length, n_units)``, and the states behind the last step
        """
        hidden, unused = lstm_states
        n_sequences = hidden.shape[1]
        sequences = features.reshape(n_sequences, -1, lstm.input_size).swapaxes(0, 1)
        starts = episode_starts.reshape(n_sequences, -1).swapaxes(0, 1)
        outputs = []
        begin = 0
        # From one start to the next the GRU goes alone.
        for end in [*(th.nonzero(starts.any(dim=1)).flatten().tolist()), len(sequences)]:
            if end > begin:
                found, hidden = lstm(sequences[begin:end], hidden)
                outputs.append(found)
            if end < len(sequences):
                hidden = hidden * (1.0 - starts[end]).view(1, n_sequences, 1)
            begin = end
        return th.cat(outputs).transpose(0, 1).flatten(end_dim=1), (hidden, unused)


class MlpGruPolicy(GruMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``MlpLstmPolicy`` with GRUs; arguments as there."""


class CnnGruPolicy(GruMixin, RecurrentActorCriticCnnPolicy):
    """sb3-contrib's ``CnnLstmPolicy`` with GRUs; arguments as there."""


class MultiInputGruPolicy(GruMixin, RecurrentMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputLstmPolicy`` with GRUs; arguments as there."""


LSTM_POLICIES: dict[str, type[RecurrentActorCriticPolicy]] = {
    "MlpLstmPolicy": RecurrentActorCriticPolicy,
    "CnnLstmPolicy": RecurrentActorCriticCnnPolicy,
    "MultiInputLstmPolicy": RecurrentMultiInputActorCriticPolicy,
}
GRU_POLICIES: dict[str, type[RecurrentActorCriticPolicy]] = {
    "MlpLstmPolicy": MlpGruPolicy,
    "CnnLstmPolicy": CnnGruPolicy,
    "MultiInputLstmPolicy": MultiInputGruPolicy,
}
"""By the names of those with LSTMs: the cell is an argument of its own."""


PoliciesOfCells = Mapping[str, Mapping[str, type[RecurrentActorCriticPolicy]]]


def resolve_recurrent_policy(
    policy: str | type[ActorCriticPolicy],
    recurrent_cell: str,
    policies: PoliciesOfCells = MappingProxyType({"lstm": LSTM_POLICIES, "gru": GRU_POLICIES}),
) -> tuple[type[RecurrentActorCriticPolicy], RecurrentCell]:
    """
    Find the policy class for a kind of cell.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy" or a policy class
    :param recurrent_cell: "lstm" or "gru"; a class with GRUs answers to "lstm", the default, too
    :param policies: for each cell, the classes by these names, which stand in for the stock classes too
    :return: the class, and the cell that it has
    :raises ValueError: for a policy without a memory, an unknown name, and a class whose cell is another
    """
    expected = f"expected one of {', '.join(map(repr, LSTM_POLICIES))}, or a RecurrentActorCriticPolicy class of one's own"
    if isinstance(policy, str):
        if policy not in LSTM_POLICIES:
            raise ValueError(
                f"policy={policy!r}: {expected}; a policy without a memory, such as 'MlpPolicy', is trained by EduPPO, with "
                "action masks by MaskableEduPPO"
            )
        return policies[recurrent_cell][policy], cast(RecurrentCell, recurrent_cell)
    if not isinstance(policy, type) or not issubclass(policy, RecurrentActorCriticPolicy):
        found, other = getattr(policy, "__name__", repr(policy)), algorithm_for(policy)
        raise ValueError(f"policy={found}: found one without a memory, {expected}; {other} trains policies such as it is")
    own = cell_of(policy)
    for stock in (LSTM_POLICIES, GRU_POLICIES):
        for alias, kind in stock.items():
            if policy is kind:
                cell: RecurrentCell = "gru" if "gru" in (own, recurrent_cell) else "lstm"
                return policies[cell][alias], cell
    if own == "lstm" and recurrent_cell == "gru":
        raise ValueError(
            f"recurrent_cell='gru' with the policy {policy.__name__}, whose cells are LSTMs. Derive it from the mixin: class "
            f"MyPolicy(GruMixin, {policy.__name__}), from sb3_ppo_edu.policies.recurrent"
        )
    return policy, own


def cell_of(policy: type[ActorCriticPolicy]) -> RecurrentCell:
    """
    Tell which cells a policy has.

    :param policy: a policy class with a memory
    :return: "lstm" or "gru"
    """
    return "gru" if issubclass(policy, GruMixin) else "lstm"


LEFT_OUT = ("batch_first", "bidirectional", "dtype", "proj_size")
"""Arguments of torch's LSTM that give its inputs or states another form."""


def check_memory(policy_kwargs: Mapping[str, Any]) -> None:
    """
    Check that what actor and critic remember with is said once, and can be handed on from step to step.

    :param policy_kwargs: arguments of a recurrent policy
    :raises ValueError: if ``lstm_kwargs`` are no dict; if one LSTM is shared and the critic has one of its own; if it is
        shared by two features extractors; if its inputs or states are to have another form
    """
    lstm_kwargs = policy_kwargs.get("lstm_kwargs") or {}
    if not isinstance(lstm_kwargs, Mapping):
        raise ValueError(f"policy_kwargs: lstm_kwargs={shown(lstm_kwargs)}: expected None or a dict of torch's arguments")
    unfit = [name for name in LEFT_OUT if lstm_kwargs.get(name) not in (None, 0, th.float32)]
    if unfit:
        raise ValueError(
            f"policy_kwargs: found lstm_kwargs with {unfit[0]}={lstm_kwargs[unfit[0]]!r}, expected a plain LSTM, such as "
            f"dict(dropout=0.1): the policy goes step by step, from states of lstm_hidden_size floats: leave {unfit[0]} out"
        )
    if not policy_kwargs.get("shared_lstm", False):
        return
    if policy_kwargs.get("enable_critic_lstm", True):
        raise ValueError(
            "policy_kwargs: found shared_lstm=True with enable_critic_lstm=True (its default), expected one of the two: "
            "dict(shared_lstm=True, enable_critic_lstm=False) has one LSTM for both, dict() one for each"
        )
    if not policy_kwargs.get("share_features_extractor", True):
        raise ValueError(
            "policy_kwargs: found shared_lstm=True with share_features_extractor=False, expected the features extractor "
            "shared as well, since a shared LSTM takes the features of one: leave share_features_extractor out"
        )
