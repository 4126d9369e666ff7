"""Actor-critic policies with layers that actor and critic share, LayerNorm, and observations for the critic alone.

A mixin puts all three into any SB3 ``ActorCriticPolicy``, and the classes here apply it to SB3's three and ours. They train
under SB3's own PPO and A2C too. A policy of your own takes the three arguments by::

    class MyPolicyWithOptions(NetArchMixin, MyPolicy):
        pass
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, MlpExtractor, create_mlp
from torch import nn

from sb3_ppo_edu.policies.bounded import (
    BetaCnnPolicy,
    BetaMultiInputPolicy,
    BetaPolicy,
    TanhGaussianCnnPolicy,
    TanhGaussianMultiInputPolicy,
    TanhGaussianPolicy,
)
from sb3_ppo_edu.policies.further_inputs import further_inputs


class NetArchExtractor(MlpExtractor):
    r"""
    The networks between the features and the last layers of actor and critic, as SB3's ``MlpExtractor``.

    With features x, the latents are :math:`h_\pi = f_\pi(s(x)_{1 \dots n})` and :math:`h_V = f_V(s(x))`. Each layer is
    :math:`h = f(N(W h_{below} + b))`, with N LayerNorm (Ba et al. 2016, equations 3 and 4, https://arxiv.org/abs/1607.06450)
    or the identity.

    :param features_dim: number of features
    :param net_arch: units of the layers of f_π and f_V, as SB3 takes them: a list, or a dict of "pi" and "vf"
    :param activation_fn: activation f
    :param shared_net_arch: units of the layers of s; without any, s is the identity
    :param layer_norm: normalise what each layer gives before its activation
    :param actor_inputs: n, if the actor takes the first n features only; None for all
    """

    def __init__(
        self,
        features_dim: int,
        net_arch: list[int] | dict[str, list[int]],
        activation_fn: type[nn.Module],
        shared_net_arch: Sequence[int] = (),
        layer_norm: bool = False,
        actor_inputs: int | None = None,
    ) -> None:
        super().__init__(features_dim, [], activation_fn, "cpu")
        self.actor_inputs = actor_inputs

        def layers(inputs: int, units: Sequence[int]) -> tuple[nn.Sequential, int]:
            """Some layers one after the other, and the number of their outputs."""
            norms: list[type[nn.Module]] = [nn.LayerNorm] if layer_norm else []
            modules = create_mlp(inputs, -1, list(units), activation_fn, post_linear_modules=norms)
            return nn.Sequential(*modules), [inputs, *units][-1]

        arch = net_arch if isinstance(net_arch, dict) else {"pi": net_arch, "vf": net_arch}
        self.shared_net, inputs = layers(features_dim, shared_net_arch)
        self.policy_net, self.latent_dim_pi = layers(actor_inputs or inputs, arch.get("pi", []))
        self.value_net, self.latent_dim_vf = layers(inputs, arch.get("vf", []))

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute both latents.

        :param features: shape ``(batch, features_dim)``
        :return: the actor's, shape ``(batch, latent_dim_pi)``, and the critic's, shape ``(batch, latent_dim_vf)``
        """
        shared = self.shared_net(features)
        return self.policy_net(shared[:, : self.actor_inputs]), self.value_net(shared)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        """
        Compute the actor's latent.

        :param features: shape ``(batch, features_dim)``
        :return: shape ``(batch, latent_dim_pi)``
        """
        latent: th.Tensor = self.policy_net(self.shared_net(features)[:, : self.actor_inputs])
        return latent

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        """
        Compute the critic's latent.

        :param features: shape ``(batch, features_dim)``
        :return: shape ``(batch, latent_dim_vf)``
        """
        latent: th.Tensor = self.value_net(self.shared_net(features))
        return latent


class NetArchMixin(BasePolicy):
    """
    Gives an actor-critic policy three arguments more.

    What is for the critic alone exists in training only, where it makes values better: ``predict``, an exported file and an
    evaluation act without it, whether they are given it or not.

    :param args: of the policy
    :param shared_net_arch: units of layers below those of ``net_arch``, which actor and critic share; None for none
    :param layer_norm: normalise what each hidden layer gives before its activation
    :param critic_keys: keys of a Dict of observations that only the critic is given, in training; ``predict`` does without
    :param kwargs: of the policy
    :raises ValueError: if there are no such keys, no others, one twice, or shared layers, which would show them to the actor
    """

    mlp_extractor: MlpExtractor
    net_arch: list[int] | dict[str, list[int]]
    activation_fn: type[nn.Module]
    features_dim: int
    share_features_extractor: bool

    def __init__(
        self,
        *args: Any,
        shared_net_arch: Sequence[int] | None = None,
        layer_norm: bool = False,
        critic_keys: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if shared_net_arch and critic_keys:
            raise ValueError(
                f"shared_net_arch={shared_net_arch} with critic_keys={critic_keys}: expected one of the two: shared layers "
                "would show the actor what only the critic may see; leave one out"
            )
        self.shared_net_arch, self.layer_norm, self.critic_keys = shared_net_arch, layer_norm, critic_keys
        super().__init__(*args, **kwargs)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Build the features extractor; what is for the critic alone comes last in its features."""
        extractor, hidden = super().make_features_extractor(), self.critic_keys
        if not hidden:
            return extractor
        where, space = f"critic_keys={list(hidden)} with {type(self).__name__}", self.observation_space
        if not isinstance(space, spaces.Dict) or not isinstance(extractor, CombinedExtractor):
            raise ValueError(
                f"{where}: found observation_space={space} and a {type(extractor).__name__}, expected a Dict of observations "
                "and a CombinedExtractor: use 'MultiInputPolicy' and an environment whose observations are a Dict"
            )
        if unknown := [key for key in hidden if key not in space.spaces]:
            near = difflib.get_close_matches(str(unknown[0]), space.spaces, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{where}: found {unknown[0]!r}{meant}, expected some of {', '.join(map(repr, space.spaces))}")
        if len({*hidden}) < len(hidden):
            raise ValueError(f"{where}: found a key twice, expected each once")
        parts = extractor.extractors
        last = sorted(parts, key=lambda key: key in hidden)  # False before True, and otherwise as they were
        if last[0] in hidden:
            raise ValueError(f"{where}: found all keys, expected one more at least, for the actor to act on")
        extractor.extractors = nn.ModuleDict({key: parts[key] for key in last})
        return extractor

    def _actor_inputs(self) -> int | None:
        """Count the features that the actor is given; None for all."""
        if not self.critic_keys:
            return None
        parts: Any = self.features_extractor.extractors
        space: Any = self.observation_space
        return sum(
            part.features_dim if isinstance(part, BaseFeaturesExtractor) else get_flattened_obs_dim(space[key])
            for key, part in parts.items()
            if key not in self.critic_keys
        )

    def _build_mlp_extractor(self) -> None:
        """Build the networks between features and last layers."""
        arguments = (self.shared_net_arch or (), self.layer_norm, self._actor_inputs())
        self.mlp_extractor = NetArchExtractor(self.features_dim, self.net_arch, self.activation_fn, *arguments).to(self.device)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Choose actions, as SB3; what is for the critic alone may be left out of the observations.

        :param observation: of one environment or of several
        :param args: as SB3 has them
        :param kwargs: likewise
        :return: the actions, and the next states
        """
        space: Any = self.observation_space
        given: Any = observation if isinstance(observation, dict) else {}
        known = next((key for key in given if key in space.spaces), None)
        if known is not None:
            shape = np.shape(given[known])
            several = shape[: len(shape) - len(space[known].shape)]
            absent = [key for key in self.critic_keys or () if key not in given]
            zeros = {key: np.zeros((*several, *space[key].shape), space[key].dtype) for key in absent}
            observation = {**given, **zeros} if zeros else observation
        return super().predict(observation, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What ``save`` keeps to build the policy anew; SB3 2.9 forgets ``share_features_extractor``."""
        names = ("shared_net_arch", "layer_norm", "critic_keys", "share_features_extractor")
        return {**super()._get_constructor_parameters(), **{name: getattr(self, name) for name in names}}


class NetArchPolicy(NetArchMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` with the mixin's arguments."""


class NetArchCnnPolicy(NetArchMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` with the mixin's arguments."""


class NetArchMultiInputPolicy(NetArchMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` with the mixin's arguments."""


class NetArchTanhGaussianPolicy(NetArchMixin, TanhGaussianPolicy):
    """``TanhGaussianPolicy`` with the mixin's arguments."""


class NetArchTanhGaussianCnnPolicy(NetArchMixin, TanhGaussianCnnPolicy):
    """``TanhGaussianCnnPolicy`` with the mixin's arguments."""


class NetArchTanhGaussianMultiInputPolicy(NetArchMixin, TanhGaussianMultiInputPolicy):
    """``TanhGaussianMultiInputPolicy`` with the mixin's arguments."""


class NetArchBetaPolicy(NetArchMixin, BetaPolicy):
    """``BetaPolicy`` with the mixin's arguments."""


class NetArchBetaCnnPolicy(NetArchMixin, BetaCnnPolicy):
    """``BetaCnnPolicy`` with the mixin's arguments."""


class NetArchBetaMultiInputPolicy(NetArchMixin, BetaMultiInputPolicy):
    """``BetaMultiInputPolicy`` with the mixin's arguments."""


NET_ARCH_POLICIES: dict[type[BasePolicy], type[NetArchMixin]] = {
    ActorCriticPolicy: NetArchPolicy,
    ActorCriticCnnPolicy: NetArchCnnPolicy,
    MultiInputActorCriticPolicy: NetArchMultiInputPolicy,
    TanhGaussianPolicy: NetArchTanhGaussianPolicy,
    TanhGaussianCnnPolicy: NetArchTanhGaussianCnnPolicy,
    TanhGaussianMultiInputPolicy: NetArchTanhGaussianMultiInputPolicy,
    BetaPolicy: NetArchBetaPolicy,
    BetaCnnPolicy: NetArchBetaCnnPolicy,
    BetaMultiInputPolicy: NetArchBetaMultiInputPolicy,
}
"""By policy, the class that has the mixin as well; :mod:`~sb3_ppo_edu.policies.masked_net_arch` adds those with masks."""


def base_of(policy: type[Any]) -> type[Any]:
    """
    Find the policy that one of the classes here is made of.

    :param policy: a policy's class
    :return: that policy's class; any other class as it is
    """
    return next((base for base, ours in NET_ARCH_POLICIES.items() if ours is policy), policy)


def resolve_net_arch(policy: type[BasePolicy], arguments: dict[str, Any]) -> type[BasePolicy]:
    """
    Find the policy class that takes the mixin's arguments.

    :param policy: a policy's class
    :param arguments: those that are set, by name
    :return: the class with the mixin
    :raises ValueError: for a custom class without the mixin, and for a policy with a memory
    """
    what = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) + f" with the policy {policy.__name__}"
    if "lstm_states" in further_inputs(policy):
        raise ValueError(
            f"{what}: found one with a memory, expected one without, whose networks take the features: leave it out"
        )
    found = policy if issubclass(policy, NetArchMixin) else NET_ARCH_POLICIES.get(policy)
    if found is None:
        raise ValueError(
            f"{what}, which builds networks of its own. Derive it from the mixin: class MyPolicy(NetArchMixin, "
            f"{policy.__name__}), from sb3_ppo_edu.policies.net_arch"
        )
    return found
