"""Images that are too small for ``CnnPolicy``: the network, and a training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.policies import SmallCNN, SmallImagePolicy


class Side(gym.Env[Any, Any]):
    """One pixel of the first channel is set, left or right of the middle; the action has to say where."""

    observation_space = spaces.Box(0, 1, (5, 6, 2), bool)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Set a pixel."""
        super().reset(seed=seed)
        self.image = np.zeros((5, 6, 2), bool)
        row, self.column = self.np_random.integers(5), int(self.np_random.integers(6))
        self.image[row, self.column, 0] = True
        return self.image, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """End the episode, with 1 if the answer is right."""
        return self.image, float(int(action) == int(self.column >= 3)), True, False, {}


def test_features_are_those_of_one_convolution_and_one_layer() -> None:
    """By hand: 16 filters of 3 × 3 over the two channels, ReLU, flattened; then 128 features, ReLU."""
    network = SmallCNN(Side.observation_space)
    images = th.rand(4, 5, 6, 2)
    convolution, linear = network.convolution[0], network.linear[0]
    assert isinstance(convolution, th.nn.Conv2d) and isinstance(linear, th.nn.Linear)
    assert convolution.bias is not None
    found = th.zeros(4, 16, 3, 4)
    for row in range(3):
        for column in range(4):
            seen = images[:, row : row + 3, column : column + 3].permute(0, 3, 1, 2)
            found[:, :, row, column] = th.einsum("bcij,fcij->bf", seen, convolution.weight) + convolution.bias
    expected = (found.relu().flatten(1) @ linear.weight.T + linear.bias).relu()
    assert network(images).shape == (4, 128)
    th.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (10,)), spaces.Box(0, 1, (2, 10, 1)), spaces.Discrete(3)])
def test_what_is_no_image_is_refused(space: spaces.Space[Any]) -> None:
    """The message names what was found and what is expected."""
    with pytest.raises(ValueError, match=r"SmallCNN: found observations of .*expected images \(height, width, channels\)"):
        SmallCNN(space)


def test_sb3s_ppo_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Equal parameters, nothing between features and heads, and a saved model that predicts the same."""
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
    ours = EduPPO(SmallImagePolicy, Side(), engine="autograd", **settings).learn(64)
    theirs = PPO(SmallImagePolicy, Side(), **settings).learn(64)
    for name, tensor in ours.policy.state_dict().items():
        assert th.equal(tensor, theirs.policy.state_dict()[name]), name
    assert list(ours.policy.mlp_extractor.parameters()) == []
    ours.save(tmp_path / "model")
    images = np.random.default_rng(0).random((8, 5, 6, 2)) < 0.5
    actions = EduPPO.load(tmp_path / "model").predict(images, deterministic=True)[0]
    assert actions.tolist() == ours.predict(images, deterministic=True)[0].tolist()
