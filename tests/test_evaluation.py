"""Evaluation: everyone is judged on the same episodes, and each counts once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env
from sb3_ppo_edu.training.evaluation import Evaluation, RandomPolicy, evaluate


class ShortOrLong(gym.Env[Any, Any]):
    """One step from an odd seed, twenty from an even one; a reward of 1 for each step."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Choose the length."""
        super().reset(seed=seed)
        self.left = 1 if seed is None or seed % 2 else 20
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count down."""
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


gym.register("ShortOrLong-v0", f"{__name__}:ShortOrLong")


@pytest.mark.parametrize("n_envs", [1, 3, 4])
def test_short_episodes_count_no_more_than_long_ones(n_envs: int) -> None:
    """Ten seeds are played once each, five odd and five even, however many environments share them and in seed order."""
    env = make_evaluation_env(EnvironmentSettings("ShortOrLong-v0"), n_envs, first_seed=100)
    evaluation = evaluate(RandomPolicy(env.action_space, n_envs, 0), env, 10)
    assert evaluation == Evaluation(list(range(100, 110)), [20.0, 1.0] * 5, [20, 1] * 5)


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.Box(-2.0, 3.0, (2,)), spaces.MultiDiscrete([2, 3])])
def test_random_actions_come_from_their_seed(space: spaces.Space) -> None:
    """Random actions lie in the space, repeat with their seed, and leave the environment's own space alone."""
    space.seed(1)
    expected_next = space.sample()
    space.seed(1)
    actions = [RandomPolicy(space, 4, seed).predict(np.zeros((4, 1)))[0] for seed in (7, 7, 8)]
    assert len(actions[0]) == 4
    assert all(space.contains(action) for action in actions[0])
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    np.testing.assert_array_equal(space.sample(), expected_next)


def test_summary_by_hand() -> None:
    """Returns 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3, median 2."""
    summary = Evaluation([5, 6, 7], [6.0, 1.0, 2.0], [3, 3, 3]).summary()
    assert summary["mean"] == 3.0
    assert summary["std"] == pytest.approx((14 / 3) ** 0.5)
    assert (summary["n"], summary["median"], summary["min"], summary["max"]) == (3, 2.0, 1.0, 6.0)
    assert (summary["seeds"], summary["returns"], summary["lengths"]) == ([5, 6, 7], [6.0, 1.0, 2.0], [3, 3, 3])


def test_median_seed_by_hand() -> None:
    """The episode in the middle; of two, the lower."""
    assert Evaluation([5, 6, 7], [6.0, 1.0, 2.0], [1, 1, 1]).median_seed() == 7
    assert Evaluation([5, 6, 7, 8], [6.0, 1.0, 2.0, 3.0], [1, 1, 1, 1]).median_seed() == 7
    assert Evaluation([5], [6.0], [1]).median_seed() == 5
