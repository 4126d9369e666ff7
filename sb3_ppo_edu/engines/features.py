"""From observations to the matrix that the networks take: without parameters, so that its backward pass is nothing."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn


def features_of(policy: ActorCriticPolicy, observations: PyTorchObs) -> th.Tensor:
    """
    Compute the features of some observations.

    As SB3 does it: numbers become float32 (images are divided by 255 where the policy says so), classes one-hot; what
    belongs to one observation becomes one row; the parts of a dictionary lie side by side.

    :param policy: actor-critic policy that :func:`why_not_features` does not refuse
    :param observations: shape ``(batch, *obs_shape)``, or a dict of such
    :return: shape ``(batch, features_dim)``
    """
    parts: Any = preprocess_obs(observations, policy.observation_space, policy.normalize_images)
    if isinstance(parts, dict):
        return th.cat([parts[key].flatten(1) for key in parts_of(policy)], dim=1)
    features: th.Tensor = parts.flatten(1)
    return features


def parts_of(policy: ActorCriticPolicy) -> dict[Any, spaces.Space[Any]]:
    """
    List what the features consist of.

    :param policy: actor-critic policy that :func:`why_not_features` does not refuse
    :return: the spaces of a dictionary's parts by key, in the order of the features; the one space under None otherwise
    """
    space, extractor = policy.observation_space, policy.features_extractor
    if isinstance(space, spaces.Dict):
        assert isinstance(extractor, CombinedExtractor)
        return {key: space[key] for key in extractor.extractors}
    return {None: space}


def why_not_features(policy: ActorCriticPolicy) -> str | None:
    """
    Find the first thing about a policy's features extractors that is not flattening and putting side by side.

    :param policy: actor-critic policy
    :return: what it is, as the end of a sentence, or None if there is nothing
    """
    space = policy.observation_space
    kind = CombinedExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
    for extractor in (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor):
        if type(extractor) is not kind:
            return f"the features extractor is {type(extractor).__name__}"
        if not isinstance(extractor, CombinedExtractor):
            continue
        for key, module in extractor.extractors.items():
            if type(module) is not nn.Flatten or (module.start_dim, module.end_dim) != (1, -1):
                return f"the features extractor has a {type(module).__name__} for {key!r}"
        if type(extractor.extractors) is not nn.ModuleDict or list(extractor.extractors) != list(parts_of(policy)):
            return "the features extractors are not made of the same parts"
    if sum(map(get_flattened_obs_dim, parts_of(policy).values())) != policy.features_dim:
        return "the features extractor does not have the size of the observations"
    return None
