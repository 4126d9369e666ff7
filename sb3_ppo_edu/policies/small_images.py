"""A policy for images that are too small for ``CnnPolicy``, such as MinAtar's 10 × 10."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

FILTERS = 16
"""Of the one convolution, which looks at 3 × 3 pixels: the network of MinAtar's paper (https://arxiv.org/abs/1903.03176)."""


class SmallCNN(BaseFeaturesExtractor):
    """
    One convolution of 3 × 3 pixels and one linear layer, each with ReLU.

    :param observation_space: images of shape ``(height, width, channels)``, at least 3 × 3, of numbers around 0 to 1
    :param features_dim: number of features
    :raises ValueError: if the observations are no such images
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        shape = observation_space.shape or ()
        if len(shape) != 3 or min(shape[:2]) < 3:
            raise ValueError(f"SmallCNN: found observations of {observation_space}, expected images (height, width, channels)")
        pixels = (shape[0] - 2) * (shape[1] - 2)
        self.convolution = nn.Sequential(nn.Conv2d(shape[2], FILTERS, 3), nn.ReLU(), nn.Flatten())
        self.linear = nn.Sequential(nn.Linear(FILTERS * pixels, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Extract features.

        :param observations: shape ``(batch, height, width, channels)``
        :return: shape ``(batch, features_dim)``
        """
        features: th.Tensor = self.linear(self.convolution(observations.permute(0, 3, 1, 2)))
        return features


class SmallImagePolicy(ActorCriticPolicy):
    """SB3's actor-critic policy with :class:`SmallCNN`, and nothing between its features and the heads unless asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": SmallCNN, "net_arch": [], **kwargs})
