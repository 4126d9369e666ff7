"""
The allowlist: the types that an untrusted pickle may name.

Each falls into one of three groups:

- *named*: a class that may be mentioned (``policy_class``, ``activation_fn``) and is never called,
- *filled*: a class whose instances are made empty and get their attributes from the file (spaces, schedules),
- *made*: numpy's arrays, numbers and random generators, and a few containers, made by functions that check what they get
  (:mod:`sb3_ppo_edu.serialization.constructors`).

A pickle names a type by two strings, its module and its qualified name. Files keep the module that a policy of ours was in
when they were written, so every path that it ever had stays on the list.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import buffers, policies, torch_layers, utils
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate
from sb3_ppo_edu.functional.schedules import TextSchedule
from sb3_ppo_edu.policies import (
    BetaCnnPolicy,
    BetaMultiInputPolicy,
    BetaPolicy,
    TanhGaussianCnnPolicy,
    TanhGaussianMultiInputPolicy,
    TanhGaussianPolicy,
)
from sb3_ppo_edu.policies.net_arch import NET_ARCH_POLICIES
from sb3_ppo_edu.serialization.constructors import CONSTRUCTORS, Constructor

OWN_POLICIES: tuple[type, ...] = (
    TanhGaussianPolicy,
    TanhGaussianCnnPolicy,
    TanhGaussianMultiInputPolicy,
    BetaPolicy,
    BetaCnnPolicy,
    BetaMultiInputPolicy,
)

NAMED: tuple[type, ...] = (
    policies.ActorCriticPolicy,
    policies.ActorCriticCnnPolicy,
    policies.MultiInputActorCriticPolicy,
    *OWN_POLICIES,
    *NET_ARCH_POLICIES.values(),
    torch_layers.FlattenExtractor,
    torch_layers.NatureCNN,
    torch_layers.CombinedExtractor,
    buffers.RolloutBuffer,
    buffers.DictRolloutBuffer,
    th.nn.CELU,
    th.nn.ELU,
    th.nn.GELU,
    th.nn.Hardsigmoid,
    th.nn.Hardswish,
    th.nn.Hardtanh,
    th.nn.Identity,
    th.nn.LeakyReLU,
    th.nn.Mish,
    th.nn.PReLU,
    th.nn.ReLU,
    th.nn.ReLU6,
    th.nn.SELU,
    th.nn.SiLU,
    th.nn.Sigmoid,
    th.nn.Softplus,
    th.nn.Softsign,
    th.nn.Tanh,
    th.optim.Adadelta,
    th.optim.Adagrad,
    th.optim.Adam,
    th.optim.AdamW,
    th.optim.Adamax,
    th.optim.NAdam,
    th.optim.RAdam,
    th.optim.RMSprop,
    th.optim.SGD,
    RMSpropTFLike,
    np.bool_,
    *(np.dtype(code).type for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
    # Arguments of the functions that make their instances.
    np.ndarray,
    np.random.MT19937,
    np.random.PCG64,
    np.random.SeedSequence,
)

NAMED_IN_SB3_CONTRIB = frozenset(
    f"sb3_contrib.common.{name}"
    for name in (
        "maskable.buffers MaskableDictRolloutBuffer",
        "maskable.buffers MaskableRolloutBuffer",
        "maskable.policies MaskableActorCriticCnnPolicy",
        "maskable.policies MaskableActorCriticPolicy",
        "maskable.policies MaskableMultiInputActorCriticPolicy",
        "recurrent.policies RecurrentActorCriticCnnPolicy",
        "recurrent.policies RecurrentActorCriticPolicy",
        "recurrent.policies RecurrentMultiInputActorCriticPolicy",
    )
)
BUILT_ON_SB3_CONTRIB = frozenset(
    f"sb3_ppo_edu.policies.{name}"
    for name in (
        "masked_net_arch NetArchMaskableCnnPolicy",
        "masked_net_arch NetArchMaskableMultiInputPolicy",
        "masked_net_arch NetArchMaskablePolicy",
        "masked_recurrent MaskedCnnGruPolicy",
        "masked_recurrent MaskedCnnLstmPolicy",
        "masked_recurrent MaskedMlpGruPolicy",
        "masked_recurrent MaskedMlpLstmPolicy",
        "masked_recurrent MaskedMultiInputGruPolicy",
        "masked_recurrent MaskedMultiInputLstmPolicy",
        "recurrent CnnGruPolicy",
        "recurrent MlpGruPolicy",
        "recurrent MultiInputGruPolicy",
    )
)
NAMED_LATER = NAMED_IN_SB3_CONTRIB | BUILT_ON_SB3_CONTRIB
"""Named, too, but not imported before a file names them: who trains without both shall not wait for sb3-contrib."""

SPACES: tuple[type, ...] = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiDiscrete,
    spaces.MultiBinary,
    spaces.Dict,
    spaces.Tuple,
)

FILLED: tuple[type, ...] = (
    *SPACES,
    utils.ConstantSchedule,
    utils.FloatSchedule,
    utils.LinearSchedule,
    KLAdaptiveLearningRate,
    TextSchedule,
)

FILLED_IN_STATISTICS: tuple[type, ...] = (VecNormalize, RunningMeanStd)
"""Filled in files of statistics only: no model holds one."""


def by_pickled_name(classes: Collection[type]) -> dict[str, Any]:
    """
    Key classes by the two strings that a pickle names them by.

    :param classes: the classes
    :return: module and qualified name, separated by a space -> class
    """
    return {f"{cls.__module__} {cls.__qualname__}": cls for cls in classes}


ALLOWED: dict[str, Any] = {
    **by_pickled_name(NAMED),
    # Files of the first edition name our policies by the module that they were in.
    **{f"sb3_ppo_edu.policies {cls.__qualname__}": cls for cls in OWN_POLICIES},
    **by_pickled_name(FILLED),
    # Stable-Baselines3 1.x had gym's spaces, which are Gymnasium's by another name.
    **{name.replace("gymnasium", "gym", 1): cls for name, cls in by_pickled_name(SPACES).items()},
    **{name: Constructor(make) for name, make in CONSTRUCTORS.items()},
}
"""Everything that may be named: classes themselves, and a :class:`Constructor` for what may be called."""
