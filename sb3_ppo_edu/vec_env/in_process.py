"""A vector environment in this process that copies only what its caller could see change."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs


class InProcessVecEnv(DummyVecEnv):
    """
    SB3's ``DummyVecEnv`` without its deep copies, which take longer than a step of CartPole.

    Observations, rewards and ends are copied as there. Of each info the dictionary is copied, and what it holds is not: an
    environment that goes on changing an object it has put into an info shows the change. Terminal observations are copied.

    :param env_fns: functions that each make one environment
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]]) -> None:
        super().__init__(env_fns)
        self._single_observation = self.keys == [None]

    def step_wait(self) -> VecEnvStepReturn:
        """
        Step every environment, and reset those whose episode ended.

        :return: observations, rewards, dones and infos, as ``DummyVecEnv`` gives them
        """
        infos: list[dict[str, Any]] = []
        actions, rewards, dones = self.actions, self.buf_rews, self.buf_dones
        observations = self.buf_obs[self.keys[0]] if self._single_observation else None
        for index, env in enumerate(self.envs):
            observation, reward, terminated, truncated, info = env.step(actions[index])
            done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                info["terminal_observation"] = deepcopy(observation)
                observation, self.reset_infos[index] = env.reset()
            rewards[index] = reward
            dones[index] = done
            if observations is None:
                self._save_obs(index, observation)
            else:
                observations[index] = observation
            infos.append(dict(info))
        self.buf_infos = infos
        return self._obs_from_buf(), rewards.copy(), dones.copy(), infos

    def _obs_from_buf(self) -> VecEnvObs:
        """
        Copy the observations.

        :return: an array, or a dict or tuple of arrays as the observation space asks
        """
        if self._single_observation:
            observations: np.ndarray = self.buf_obs[self.keys[0]].copy()
            return observations
        copied: VecEnvObs = dict_to_obs(self.observation_space, {key: array.copy() for key, array in self.buf_obs.items()})
        return copied
