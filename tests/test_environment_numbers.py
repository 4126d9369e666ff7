"""What a rollout tells of its environment: each number on rollouts made by hand, for which it is known."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_edu.algorithms.environment_numbers import (
    UnfinishedEpisodes,
    action_numbers,
    against_monitor,
    encoded_actions,
    environment_numbers,
    episode_numbers,
    in_order,
    observation_numbers,
)
from sb3_ppo_edu.algorithms.logged_settings import logged_settings
from tests.rollouts import collect, make_model, record

SPACE = spaces.Box(-10.0, 10.0, (2,), np.float32)


def walk(n_steps: int = 200, late: bool = False, effect: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """
    A point with a position and a velocity that the action pushes, in four environments.

    :param late: whether the action of the step before pushes
    :param effect: of an action of 1
    :return: observations, shape ``(n_steps, 4, 2)``, and actions, shape ``(n_steps, 4, 1)``
    """
    random = np.random.default_rng(0)
    actions = random.normal(size=(n_steps, 4, 1))
    observations = np.zeros((n_steps, 4, 2))
    for step in range(1, n_steps):
        push = actions[step - 2 if late else step - 1, :, 0]
        position, velocity = observations[step - 1].T
        # The noise is a tenth of the push: what it leaves unexplained is 1 in 101.
        velocity = 0.9 * velocity + effect * push + 0.1 * random.normal(size=4)
        observations[step] = np.stack([0.9 * position + 0.1 * velocity, velocity], axis=1)
    return observations, actions


NO_STARTS = np.zeros((200, 4), bool)


def test_action_with_an_effect() -> None:
    """Of what the observation leaves, the action explains 100 parts in 101; the one before it explains nothing."""
    numbers = action_numbers(*walk(), np.zeros((200, 4)), NO_STARTS)
    assert numbers["action_effect"] == pytest.approx(100 / 101, abs=0.01)
    assert numbers["action_effect_late"] < 0.02
    assert numbers["observation_predicted_max"] > 0.98


def test_action_without_an_effect() -> None:
    """What is pushed by noise alone, no action explains."""
    numbers = action_numbers(*walk(effect=0.0), np.zeros((200, 4)), NO_STARTS)
    assert numbers["action_effect"] < 0.02
    assert numbers["action_effect_late"] < 0.02


def test_action_with_a_late_effect() -> None:
    """It is the action before that explains what comes next."""
    numbers = action_numbers(*walk(late=True), np.zeros((200, 4)), NO_STARTS)
    assert numbers["action_effect"] < 0.05
    assert numbers["action_effect_late"] > 0.95


def test_action_that_only_the_reward_depends_on() -> None:
    """A reward of the observation times the action, as of a bandit with a context, is an effect."""
    random = np.random.default_rng(1)
    observations, actions = random.normal(size=(200, 4, 2)), random.normal(size=(200, 4, 1))
    rewards = observations[..., 0] * actions[..., 0]
    assert action_numbers(observations, actions, rewards, NO_STARTS)["action_effect"] > 0.9
    numbers = action_numbers(observations, actions, np.zeros((200, 4)), NO_STARTS)
    assert numbers["action_effect"] < 0.02
    # Noise follows from nothing.
    assert abs(numbers["observation_predicted_max"]) < 0.1


def test_transitions_over_an_end_are_left_out() -> None:
    """Where every second step begins an episode there is no transition with a step before and one after it."""
    starts = np.arange(200)[:, None].repeat(4, 1) % 2 == 0
    assert action_numbers(*walk(), np.zeros((200, 4)), starts) == {}


def test_observations_that_say_nothing() -> None:
    """Of two parts one is constant; a fifth of the steps repeat; four values of 40; one part outside; two starts alike."""
    column = np.repeat(np.arange(4.0), 10) * 5
    observations = np.stack([column, np.full(40, 1.0)], axis=1)[:, None]
    starts = np.zeros((40, 1), bool)
    starts[[0, 1, 20]] = True
    numbers = observation_numbers(observations, starts, SPACE)
    assert numbers["observation_constant"] == 0.5
    assert numbers["observation_distinct"] == 4 / 40
    assert numbers["observation_outside"] == 0.5
    # Of the part that varies, 0 and 15 are its ends, and each is there ten times.
    assert numbers["observation_clipped"] == 20 / 40
    # 39 steps, of which two lead into an episode; of the 37 others two change something.
    assert numbers["observation_repeated"] == pytest.approx(35 / 37)
    assert numbers["starts_distinct"] == pytest.approx(2 / 3)


def test_rewards_against_the_monitor() -> None:
    """Twice the returns and a half a step more: slope 2, correlation 1, and the largest difference over their mean size."""
    told, length = np.array([10.0, 20.0, 30.0, 40.0]), np.full(4, 10.0)
    numbers = against_monitor(2 * told + 5, told, length)
    assert numbers["monitor_slope"] == pytest.approx(2.0)
    assert numbers["monitor_correlation"] == pytest.approx(1.0)
    assert numbers["monitor_ratio"] == pytest.approx(220 / 100)
    assert numbers["monitor_offset"] == pytest.approx(120 / 40)
    assert numbers["monitor_difference"] == pytest.approx(45 / 25)
    assert against_monitor(np.ones(4), told, length)["monitor_correlation"] == 0.0
    assert against_monitor(-told, told, length)["monitor_slope"] == pytest.approx(-1.0)


def test_episodes_against_the_monitor() -> None:
    """Only an episode that begins within the rollout is compared; one whose length differs is not the monitor's."""
    starts, ends = np.zeros((6, 2), bool), np.zeros((6, 2), bool)
    ends[1, 0] = ends[3, 1] = ends[4, 0] = True
    starts[2, 0] = starts[0, 1] = starts[4, 1] = starts[5, 0] = True
    rewards = np.arange(12.0).reshape(6, 2)
    # The first ends at step 1 and began before; the second has 1 + 3 + 5 + 7 = 16, the third 4 + 6 + 8 = 18.
    reported = [{"r": 99.0, "l": 9}, {"r": 3.0, "l": 2}, {"r": 16.0, "l": 4}, {"r": 18.0, "l": 3}]
    numbers = episode_numbers(reported, starts, ends, rewards)
    assert numbers["episode_length_max"] == 4
    assert (numbers["monitor_lengths_equal"], numbers["monitor_length_ratio"]) == (1.0, 1.0)
    assert numbers["monitor_difference"] == 0.0
    reported[-1] = {"r": 18.0, "l": 6}
    numbers = episode_numbers(reported, starts, ends, rewards)
    assert (numbers["monitor_lengths_equal"], numbers["monitor_length_ratio"]) == (0.5, 10 / 7)
    assert episode_numbers([], starts, ends, rewards) == {"episode_length_max": 4.0}


def test_columns_in_the_order_of_their_steps() -> None:
    """Before and after SB3 has flattened them for minibatches, columns come as they were collected."""
    buffer = RolloutBuffer(3, SPACE, spaces.Discrete(3, start=5), n_envs=2)
    buffer.actions[..., 0] = [[5, 6], [7, 5], [6, 7]]
    buffer.full = True
    encoded = encoded_actions(buffer)
    assert encoded.astype(int).tolist() == [[[1, 0], [0, 1]], [[0, 0], [1, 0]], [[0, 1], [0, 0]]]
    before = in_order(buffer, buffer.observations).copy()
    next(buffer.get(2))
    assert encoded_actions(buffer).tolist() == encoded.tolist()
    assert in_order(buffer, buffer.observations).tolist() == before.tolist()


@pytest.mark.parametrize("engine", ["autograd", "fused"])
def test_rewards_are_the_monitors_to_rounding(engine: Any) -> None:
    """What time limits add is taken off again: episodes of 5 steps by a limit earn what the monitor says."""
    model = make_model(env={"end_probability": 0.2, "time_limit": 5}, n_envs=2, gamma=0.9, engine=engine)
    collect(model)
    session, ends = model.session, model._last_episode_starts
    assert session.truncated_episodes > 0
    assert all(value != 0 for *_, value in session.bootstraps)
    numbers = environment_numbers(model, ends, session.bootstraps)
    assert numbers["monitor_difference"] < 1e-6
    assert numbers["monitor_lengths_equal"] == 1
    assert environment_numbers(model, ends, [])["monitor_difference"] > 1e-3


def test_settings_of_a_training() -> None:
    """Arguments, the limit, networks and optimizer, as numbers; what is off or no number is left out."""
    env = make_vec_env(lambda: gym.make("CartPole-v1", max_episode_steps=33), 2)
    for algorithm in (PPO, type(make_model())):
        model = algorithm("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [16, 5]}, gamma=0.8)
        settings = logged_settings(model)
        assert settings["gamma"] == settings["buffer_gamma"] == 0.8
        assert (settings["n_envs"], settings["n_steps"], settings["n_actions"]) == (2, 8, 2)
        assert (settings["time_limit"], settings["layer_width"], settings["trained"]) == (33, 5, 1)
        assert (settings["adaptive"], settings["optimizer_eps"], settings["normalize_advantage"]) == (1, 1e-5, 1)
        assert "target_kl" not in settings
        model.policy.action_net.requires_grad_(False)
        size = sum(one.numel() for one in model.policy.parameters())
        assert logged_settings(model)["trained"] == pytest.approx(1 - 12 / size)


def test_episodes_over_several_rollouts() -> None:
    """
    Two rollouts of 3 steps in two environments: what the first leaves, the second goes on with.

    Environment 0 begins at step 1 with rewards 3, 5, then 7: three steps and 15 when it ends. Environment 1 has begun before.
    """
    buffer = RolloutBuffer(3, SPACE, SPACE, n_envs=2)
    buffer.rewards[:] = [[1, 2], [3, 4], [5, 6]]
    buffer.episode_starts[1, 0] = 1
    unfinished = UnfinishedEpisodes()
    assert unfinished.sums() is None
    unfinished.add(buffer)
    left = unfinished.sums()
    assert left is not None
    assert left[:, 0].tolist() == [2, 8]
    assert np.isnan(left[:, 1]).all()
    unfinished = UnfinishedEpisodes(np.array([[9.0, 10.0], [0.5, 0.25]]))
    unfinished.add(buffer)
    later = unfinished.sums()
    assert later is not None and later[:, 1].tolist() == [13, 12.25]
    ends = np.zeros((3, 2), bool)
    ends[0] = True
    reported = [{"r": 15.0, "l": 3}, {"r": 8.0, "l": 8}]
    numbers = episode_numbers(reported, np.zeros((3, 2), bool), ends, np.full((3, 2), 7.0), left)
    assert numbers["episode_length_max"] == 3
    assert (numbers["monitor_lengths_equal"], numbers["monitor_difference"]) == (1.0, 0.0)


@pytest.mark.parametrize("waiting", [0, 2**16])
def test_unfinished_episodes_are_summed_up_late(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether asked for after each of 12 rollouts, or now and then, the sums are those of each episode's own steps."""
    monkeypatch.setattr("sb3_ppo_edu.algorithms.environment_numbers.MOST_WAITING", waiting)
    random = np.random.default_rng(0)
    buffer, unfinished, always = RolloutBuffer(4, SPACE, SPACE, n_envs=3), UnfinishedEpisodes(), UnfinishedEpisodes()
    rewards, starts = random.normal(size=(48, 3)).astype(np.float32), random.random((48, 3)) < 0.08
    starts[0] = True
    for end in range(4, 49, 4):
        buffer.reset()
        buffer.rewards[:], buffer.episode_starts[:] = rewards[end - 4 : end], starts[end - 4 : end]
        unfinished.add(buffer)
        always.add(buffer)
        kept = always.sums()
        if end in (8, 32, 48):
            begun = [int(np.flatnonzero(starts[:end, env])[-1]) for env in range(3)]
            sums = unfinished.sums()
            assert sums is not None and kept is not None and np.array_equal(sums, kept)
            assert sums[0].tolist() == [end - first for first in begun]
            expected = [rewards[first:end, env].sum(dtype=np.float64) for env, first in enumerate(begun)]
            assert sums[1] == pytest.approx(expected, rel=1e-12)


def test_long_episodes_are_compared_too() -> None:
    """Episodes of 50 steps, in rollouts of 32 of which none holds a whole one: rewards are the monitor's."""
    model = make_model(env={"end_probability": 0.0, "time_limit": 50}, n_epochs=100, learning_rate=1e-9)
    recorder = record(model)
    model.learn(5 * 32)
    model.logger.dump()
    # Of the fifth update: the episode that began with step 100 ends with step 150.
    assert recorder.rows[-1]["train/episode_length_max"] == 50
    assert recorder.rows[-1]["train/monitor_difference"] < 1e-6
