"""The in-process vector environment is a drop-in for SB3's DummyVecEnv."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import ACTION_SPACES, OBSERVATION_SPACES, RandomWalk


class Reuser(gym.Env[Any, Any]):
    """Returns the same array and the same info at every step, changed in place."""

    observation_space = spaces.Box(-100, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.observation = np.zeros(1, np.float32)
        self.info: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start at 0."""
        super().reset(seed=seed)
        self.observation[:] = 0.0
        return self.observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count to 3."""
        self.observation += 1.0
        self.info["count"] = float(self.observation[0])
        return self.observation, 1.0, bool(self.observation[0] >= 3.0), False, self.info


@pytest.mark.parametrize("action", ACTION_SPACES)
@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_steps_are_dummy_vec_envs(observation: str, action: str) -> None:
    """The same actions give the same observations, rewards, ends and infos, step by step, and none of it changes later."""
    records = []
    for kind in (DummyVecEnv, InProcessVecEnv):
        env = make_vec_env(lambda: RandomWalk(observation, action), n_envs=3, seed=4, vec_env_cls=kind)
        env.action_space.seed(1)
        steps: list[Any] = [env.reset()]
        for _ in range(40):
            steps.append(env.step(np.stack([env.action_space.sample() for _ in range(3)])))
        for _, _, _, infos in steps[1:]:
            for info in infos:
                info.get("episode", {}).pop("t", None)  # the time of day
        records.append(steps)
    np.testing.assert_equal(records[1], records[0])
    assert any(info["TimeLimit.truncated"] for _, _, _, infos in records[0][1:] for info in infos)


def test_environments_may_reuse_their_arrays() -> None:
    """An environment that returns one array and one info again and again: what was received keeps its values."""
    env = InProcessVecEnv([Reuser])
    observations = [env.reset()]
    infos = []
    for _ in range(4):
        observation, _, _, info = env.step(np.array([0]))
        observations.append(observation)
        infos.append(info[0])
    assert [float(np.asarray(observation)[0, 0]) for observation in observations] == [0.0, 1.0, 2.0, 0.0, 1.0]
    assert [info["count"] for info in infos] == [1.0, 2.0, 3.0, 1.0]
    assert float(infos[2]["terminal_observation"][0]) == 3.0


def test_an_environment_given_alone_is_put_into_it() -> None:
    """EduPPO wraps a single environment in it, with SB3's Monitor; a vector environment stays the one that was given."""
    check_env(RandomWalk())
    model = EduPPO("MlpPolicy", RandomWalk(), n_steps=64, device="cpu")
    assert type(model.get_env()) is InProcessVecEnv
    model.learn(64)
    assert len(model.ep_info_buffer or ()) > 0
    given = VecNormalize(make_vec_env(RandomWalk))
    assert EduPPO("MlpPolicy", given, n_steps=64, device="cpu").get_env() is given
    assert type(given.venv) is DummyVecEnv


def test_training_in_it_is_training_in_sb3s() -> None:
    """SB3's PPO ends with the same statistics in either."""
    returns = []
    for kind in (DummyVecEnv, InProcessVecEnv):
        env = make_vec_env(RandomWalk, n_envs=2, seed=1, vec_env_cls=kind)
        model = PPO("MlpPolicy", env, n_steps=64, seed=1, device="cpu").learn(256)
        returns.append([info["r"] for info in model.ep_info_buffer or ()])
    assert returns[0] == returns[1]
    assert len(returns[0]) > 0
