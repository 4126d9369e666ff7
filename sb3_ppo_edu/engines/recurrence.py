"""Which policies with a memory the kernels serve: sb3-contrib's with LSTMs and ours with GRUs, as they were built."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from sb3_ppo_edu.engines.fingerprint import POLICY_METHODS, is_foreign, why_not_plain
from sb3_ppo_edu.engines.support import classes_of, is_plain_linear, why_not_parameters, why_not_towers
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.policies.masked_recurrent import MASKED_POLICIES
from sb3_ppo_edu.policies.recurrent import GRU_POLICIES, LSTM_POLICIES

CELLS: dict[type[ActorCriticPolicy], type[nn.RNNBase]] = {
    policies[name]: cell
    for cell, kinds in (
        (nn.LSTM, (LSTM_POLICIES, MASKED_POLICIES["lstm"])),
        (nn.GRU, (GRU_POLICIES, MASKED_POLICIES["gru"])),
    )
    for policies in kinds
    for name in ("MlpLstmPolicy", "MultiInputLstmPolicy")
}
"""Policy class and the class of its recurrent layers."""

OWN_METHODS = {(kind, name): getattr(kind, name) for kind in CELLS for name in POLICY_METHODS}
FOREIGN = [
    f"{kind.__name__}.{name}"
    for (kind, name), method in OWN_METHODS.items()
    if is_foreign(method, next(owner.__module__ for owner in kind.__mro__ if name in vars(owner)))
]
"""Those that had been replaced before this was imported."""


def why_not_recurrent(policy: ActorCriticPolicy) -> str | None:
    """
    Find the first thing about a policy with a memory that the recurrent kernels do not have.

    :param policy: actor-critic policy with its optimizer
    :return: what it is, as the end of a sentence, or None if they have it all
    """
    kind = type(policy)
    if kind not in CELLS:
        served = "neither sb3-contrib's MlpLstmPolicy or MultiInputLstmPolicy nor one of ours with GRUs"
        return f"the policy is a {kind.__name__}, {served}"
    if type(policy.mlp_extractor) is not MlpExtractor:
        return f"the network is a {type(policy.mlp_extractor).__name__}"
    replaced = [f"{kind.__name__}.{name}" for name in POLICY_METHODS if getattr(kind, name) is not OWN_METHODS[kind, name]]
    if replaced or FOREIGN:
        return f"{(replaced + FOREIGN)[0]} has been replaced"
    if "action_masks" in further_inputs(policy) and not classes_of(policy.action_dist):
        return "there are masks of actions that are no classes"
    actor, critic, first = modules_below(policy)
    for name, module in (("lstm_actor", actor), ("lstm_critic", critic)):
        if module is not None and (obstacle := why_not_layers(policy, module)):
            return f"policy.{name} {obstacle}"
    if critic is None and not (is_plain_linear(first) and first.in_features == policy.features_dim):
        return "policy.critic is not a linear layer that takes the features"
    critic_inputs = first.out_features if critic is None else critic.hidden_size
    own: Any = policy  # a shared LSTM is there once; one that actor and critic both learn is not served
    below = [module for module in (actor, own.lstm_critic, first) if module is not None]
    return (
        why_not_towers(policy, actor.hidden_size, critic_inputs) or why_not_parameters(policy, below) or why_not_plain(policy)
    )


def modules_below(policy: ActorCriticPolicy) -> tuple[Any, Any, Any]:
    """
    List what is between features and networks.

    :param policy: recurrent actor-critic policy
    :return: the actor's recurrent layers; the critic's, the same for a shared LSTM and None where there are none; and the
        linear layer that is in their place then
    """
    modules: Any = policy
    critic = modules.lstm_critic
    if critic is None and modules.shared_lstm:
        critic = modules.lstm_actor
    return modules.lstm_actor, critic, modules.critic if critic is None else None


def why_not_layers(policy: ActorCriticPolicy, module: Any) -> str | None:
    """Find the first thing that is not a stack of the cells that the policy's class has, which take the features."""
    expected = CELLS[type(policy)]
    if type(module) is not expected:
        return f"is a {type(module).__name__}"
    if not module.bias or module.dropout or module.bidirectional or module.batch_first or getattr(module, "proj_size", 0):
        options = "no bias, dropout, a second direction, the batch first or a projection"
        return f"is a {expected.__name__} with options that the kernels do not have ({options})"
    if module.input_size != policy.features_dim:
        return "does not take the features"
    rows = (4 if expected is nn.LSTM else 3) * module.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(module.num_layers):
        inputs = module.hidden_size if layer else module.input_size
        shapes |= {
            f"weight_ih_l{layer}": (rows, inputs),
            f"weight_hh_l{layer}": (rows, module.hidden_size),
            f"bias_ih_l{layer}": (rows,),
            f"bias_hh_l{layer}": (rows,),
        }
    if {name: tuple(parameter.shape) for name, parameter in module.named_parameters()} != shapes:
        return "has parameters of other names or shapes than its sizes say"
    return None
