"""The policies of :mod:`~sb3_ppo_edu.policies.net_arch` with action masks, on sb3-contrib's."""

from __future__ import annotations

from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)

from sb3_ppo_edu.policies.net_arch import NET_ARCH_POLICIES, NetArchMixin


class NetArchMaskablePolicy(NetArchMixin, MaskableActorCriticPolicy):
    """sb3-contrib's ``MlpPolicy`` with the mixin's arguments."""


class NetArchMaskableCnnPolicy(NetArchMixin, MaskableActorCriticCnnPolicy):
    """sb3-contrib's ``CnnPolicy`` with the mixin's arguments."""


class NetArchMaskableMultiInputPolicy(NetArchMixin, MaskableMultiInputActorCriticPolicy):
    """sb3-contrib's ``MultiInputPolicy`` with the mixin's arguments."""


NET_ARCH_POLICIES.update(
    {
        MaskableActorCriticPolicy: NetArchMaskablePolicy,
        MaskableActorCriticCnnPolicy: NetArchMaskableCnnPolicy,
        MaskableMultiInputActorCriticPolicy: NetArchMaskableMultiInputPolicy,
    }
)
