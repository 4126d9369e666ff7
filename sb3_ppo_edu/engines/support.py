"""Which policies the backward passes that are derived by hand serve: SB3's MLP policies and ours, as they were built."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from sb3_ppo_edu.engines.features import why_not_features
from sb3_ppo_edu.engines.fingerprint import (
    ACTIVATIONS,
    MASKED_DISTRIBUTIONS,
    MASKED_POLICIES,
    POLICY_METHODS,
    has_memory,
    overlap,
    why_not_plain,
)
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution
from sb3_ppo_edu.policies.bounded import (
    BetaMultiInputPolicy,
    BetaPolicy,
    TanhGaussianMultiInputPolicy,
    TanhGaussianPolicy,
)
from sb3_ppo_edu.policies.further_inputs import sb3_contribs
from sb3_ppo_edu.policies.net_arch import NetArchExtractor, base_of

POLICIES = (
    *(ActorCriticPolicy, TanhGaussianPolicy, BetaPolicy),
    *(MultiInputActorCriticPolicy, TanhGaussianMultiInputPolicy, BetaMultiInputPolicy),
)


class Tower(NamedTuple):
    """
    One of the policy's two towers, as torch modules.

    :param linears: its linear layers
    :param norms: the LayerNorm behind each, or None
    :param activations: the activation module behind that
    """

    linears: list[nn.Linear]
    norms: list[nn.LayerNorm | None]
    activations: list[nn.Module]


def read_tower(network: nn.Module) -> Tower | None:
    """
    Read linear layers and activations in turn, all with a LayerNorm in between or none.

    :param network: a tower of SB3's ``MlpExtractor`` or of ours
    :return: the tower, or None if it is anything else
    """
    if type(network) is not nn.Sequential:
        return None
    modules = list(network)
    size = 3 if any(isinstance(module, nn.LayerNorm) for module in modules) else 2
    linears, activations = modules[::size], modules[size - 1 :: size]
    norms: list[Any] = modules[1::size] if size == 3 else [None] * len(linears)
    if len(modules) != size * len(linears) or not all(map(is_plain_linear, linears)):
        return None
    if size == 3 and not all(map(is_plain_norm, norms, linears)):
        return None
    if any(type(activation) not in ACTIVATIONS or not has_plain_options(activation) for activation in activations):
        return None
    # The towers take the first activation for all: SB3 builds them from one class.
    if len({repr(activation) for activation in activations}) > 1:
        return None
    return Tower([linear for linear in linears if isinstance(linear, nn.Linear)], norms, activations)


def has_plain_options(activation: nn.Module) -> bool:
    """Tell whether an activation's options are Python's own numbers and words: others may be rounded otherwise, or change."""
    options: Any = getattr(activation, "__constants__", ())  # torch's list of their names
    return all(type(getattr(activation, name)) in (float, int, bool, str) for name in options)


def is_plain_linear(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Tell whether a module is a linear layer with a bias and nothing else."""
    return type(layer) is nn.Linear and [name for name, one in layer.named_parameters() if one is not None] == [
        "weight",
        "bias",
    ]


def is_plain_norm(norm: nn.Module, linear: Any) -> bool:
    """Tell whether a module normalises what a linear layer gives, with a scale and a shift and nothing else."""
    shape = (linear.out_features,)
    return (
        type(norm) is nn.LayerNorm
        and [(name, tuple(one.shape)) for name, one in norm.named_parameters()] == [("weight", shape), ("bias", shape)]
        and tuple(norm.normalized_shape) == shape
        and type(norm.eps) is float
        and norm.eps > SMALLEST_EPSILON
    )


SMALLEST_EPSILON = 1e-30
"""Of a LayerNorm: less than that is 0 in float32, which outputs without any variance are not divided by."""


def classes_of(distribution: Any) -> list[int]:
    """Count the classes of each choice of a (multi-)categorical, with masks or without; none for other distributions."""
    one, *several = sb3_contribs("maskable.distributions", *MASKED_DISTRIBUTIONS) or (None,)
    if type(distribution) in (CategoricalDistribution, one):
        return [int(distribution.action_dim)]
    if type(distribution) in (MultiCategoricalDistribution, *several):
        return [int(size) for size in distribution.action_dims]
    return []


def number_of_outputs(distribution: Any) -> int | None:
    """Outputs of the action net that a distribution takes, or None for one that is not known."""
    if classes := classes_of(distribution):
        return sum(classes)
    if type(distribution) is BernoulliDistribution:
        return distribution.action_dims
    if type(distribution) in (DiagGaussianDistribution, TanhGaussianDistribution, StateDependentNoiseDistribution):
        return int(distribution.action_dim)
    if type(distribution) is BetaDistribution:
        return 2 * distribution.action_dim
    return None


def why_not_derived(policy: ActorCriticPolicy) -> str | None:
    """
    Find the first thing about a policy that the backward passes derived by hand do not have.

    :param policy: actor-critic policy with its optimizer
    :return: what it is, as the end of a sentence, or None if they have it all
    """
    return why_not_architecture(policy) or why_not_parameters(policy) or why_not_plain(policy)


def why_not_architecture(policy: ActorCriticPolicy) -> str | None:
    """Find the first module or distribution that is not served."""
    masked, kind = sb3_contribs("maskable.policies", *MASKED_POLICIES), base_of(type(policy))
    if kind not in (*POLICIES, *masked):
        return f"the policy is a {type(policy).__name__}, neither SB3's MlpPolicy or MultiInputPolicy nor one of ours"
    for name in POLICY_METHODS:
        own = masked[0] if kind in masked else ActorCriticPolicy
        if getattr(type(policy), name, None) is not getattr(own, name, None):
            return f"{type(policy).__name__}.{name} has been replaced"
    return why_not_towers(policy, policy.features_dim, policy.features_dim)


def why_not_towers(policy: ActorCriticPolicy, actor_inputs: int, critic_inputs: int) -> str | None:
    """
    Find the first thing about features, networks and distribution that is not served.

    :param policy: actor-critic policy
    :param actor_inputs: numbers that the actor's network takes
    :param critic_inputs: numbers that the critic's network takes
    :return: what it is, as the end of a sentence, or None if there is nothing
    """
    if obstacle := why_not_features(policy):
        return obstacle
    network: Any = policy.mlp_extractor
    if type(network) not in (MlpExtractor, NetArchExtractor):
        return f"the network is a {type(network).__name__}"
    widths: list[tuple[int, int]] = []
    for name, tower, head in (
        ("actor", network.policy_net, policy.action_net),
        ("critic", network.value_net, policy.value_net),
        ("shared part", shared_net(policy), None),
    ):
        found = read_tower(tower)
        if found is None:
            return f"the {name}'s network is not made of linear layers with one supported activation"
        if head is not None and not is_plain_linear(head):
            return f"the {name}'s last layer is a {type(head).__name__}, not a Linear with weight and bias of its own"
        layers: list[Any] = [*found.linears, *([] if head is None else [head])]
        if any(below.out_features != above.in_features for below, above in pairwise(layers)):
            return f"the {name}'s layers do not fit together"
        for layer in layers:
            if layer.weight.shape != (layer.out_features, layer.in_features) or layer.bias.shape != (layer.out_features,):
                return f"a layer of the {name}'s has parameters of other shapes than its size says"
        if layers:
            widths.append((layers[0].in_features, layers[-1].out_features))
    of_actor = first_features(policy)
    if len(widths) > 2:  # there are shared layers
        inputs, shared_outputs = widths.pop()
        if not inputs == actor_inputs == critic_inputs or of_actor is not None:
            return "the shared part does not take the features"
        actor_inputs = critic_inputs = shared_outputs
    if of_actor is not None:
        if type(of_actor) is not int or not 0 < of_actor <= actor_inputs:
            return f"actor_inputs is {of_actor!r}"
        actor_inputs = of_actor
    outputs = number_of_outputs(getattr(policy, "action_dist", None))
    if outputs is None:
        return f"the action distribution is {type(getattr(policy, 'action_dist', None)).__name__}"
    if widths != [(actor_inputs, outputs), (critic_inputs, 1)]:
        return "the networks do not have the sizes of observations and actions"
    return why_not_gsde(policy)


def why_not_gsde(policy: ActorCriticPolicy) -> str | None:
    """Find the first option of a state-dependent exploration that SB3's policies do not set."""
    distribution = policy.action_dist
    if not isinstance(distribution, StateDependentNoiseDistribution):
        return None
    if distribution.learn_features:
        return "gSDE learns its features"
    if type(distribution.bijector) not in (type(None), TanhBijector):
        return f"gSDE's bijector is {type(distribution.bijector).__name__}"
    if distribution.latent_sde_dim != policy.action_net.in_features:
        return "gSDE does not have the size of the last hidden layer"
    if any(type(part.epsilon) not in (float, int) for part in (distribution, distribution.bijector) if part is not None):
        return "gSDE's epsilon is not a number"
    return None


def shared_net(policy: ActorCriticPolicy) -> nn.Module:
    """The layers that actor and critic share; SB3's own network has none, and does not call what somebody has put there."""
    network: Any = policy.mlp_extractor
    shared: nn.Module = network.shared_net if type(network) is NetArchExtractor else nn.Sequential()
    return shared


def first_features(policy: ActorCriticPolicy) -> int | None:
    """How many of the features the actor takes, the first ones; None for all."""
    network: Any = policy.mlp_extractor
    return network.actor_inputs if type(network) is NetArchExtractor else None


def log_std_shape(policy: ActorCriticPolicy) -> tuple[int, ...]:
    """A number for each action, or with gSDE for each of its weights."""
    head: Any = policy.action_net
    distribution = policy.action_dist
    if isinstance(distribution, StateDependentNoiseDistribution):
        return head.in_features, head.out_features if distribution.full_std else 1
    return (head.out_features,)


def why_not_parameters(policy: ActorCriticPolicy, below: Sequence[nn.Module] = ()) -> str | None:
    """
    Find the first parameter that is not one of the layers' own, or shared by two of them.

    :param policy: actor-critic policy that :func:`why_not_towers` does not refuse
    :param below: modules between features and networks
    :return: what it is, as the end of a sentence, or None if there is nothing
    """
    network = policy.mlp_extractor
    towers: list[Any] = [network.policy_net, network.value_net, shared_net(policy)]
    layers: list[Any] = [layer for tower in towers for layer in tower if isinstance(layer, (nn.Linear, nn.LayerNorm))]
    expected: list[Any] = [
        parameter for layer in (*layers, policy.action_net, policy.value_net) for parameter in (layer.weight, layer.bias)
    ]
    expected += [parameter for module in below for parameter in module.parameters()]
    if hasattr(policy, "log_std"):
        if type(policy.log_std) is not nn.Parameter or policy.log_std.shape != log_std_shape(policy):
            return f"policy.log_std is not a parameter of shape {log_std_shape(policy)}"
        expected.append(policy.log_std)
    known = {id(parameter) for parameter in expected}
    if len(known) != len(expected) or overlap(expected):
        return "layers share parameters"
    for name, parameter in policy.named_parameters():
        if id(parameter) not in known:
            return f"policy.{name} is a parameter beside those of the layers"
        if parameter.device.type != "cpu":
            return "the policy is not on the CPU"
        if not has_memory(parameter):
            return f"policy.{name} has no memory: its storage has been resized"
    if len({parameter.dtype for parameter in expected}) > 1 or expected[0].dtype not in (th.float32, th.float64):
        return "the parameters are not all float32"
    if not any(parameter.requires_grad for parameter in expected):
        return "all parameters are frozen"
    return None
