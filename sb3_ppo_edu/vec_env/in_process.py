"""A vector environment in this process that copies only what its caller could see change."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError, explain, wrong_observation, wrong_reward


class InProcessVecEnv(DummyVecEnv):
    """
    SB3's ``DummyVecEnv`` without its deep copies, which take longer than a step of CartPole.

    Observations, rewards and ends are copied as there. Of each info the dictionary is copied, and what it holds is not: an
    environment that goes on changing an object it has put into an info shows the change. Terminal observations are copied.

    :param env_fns: functions that each make one environment
    :param first: index of the first environment, where others have some before it
    :raises EnvironmentFaultError: by every method, if an environment calls ``sys.exit``, or gives what is none of its
        observations, such as one of another shape
    """

    stores_directly = True
    """Whether observations of the usual kind are stored without asking ``_save_obs``, which a subclass may want to see."""

    def __init__(self, env_fns: list[Callable[[], gym.Env]], first: int = 0) -> None:
        self.first, self.calls = first, 0
        super().__init__([partial(self._made, env_fn, index) for index, env_fn in enumerate(env_fns)])
        self._single_observation, self._shape = self.keys == [None], self.observation_space.shape

    def _made(self, env_fn: Callable[[], gym.Env], index: int) -> gym.Env:
        """Make an environment."""
        try:
            return env_fn()
        except SystemExit as error:
            self._blame(index, explain(error), error)
            raise

    def reset(self) -> VecEnvObs:
        """
        Reset every environment.

        :return: their first observations
        """
        for index in range(self.num_envs):
            options = {"options": self._options[index]} if self._options[index] else {}
            observation, self.reset_infos[index] = self._reset_one(index, seed=self._seeds[index], **options)
            self._save_obs(index, observation)
        self._reset_seeds()
        self._reset_options()
        return self._obs_from_buf()

    def _reset_one(self, index: int, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Reset an environment."""
        try:
            observation, info = self.envs[index].reset(**arguments)
        except (Exception, SystemExit) as error:
            self._blame(index, explain(error), error)
            raise
        return observation, info

    def _blame(self, index: int, what: str, error: BaseException | None = None) -> None:
        """Raise what an environment has done wrong, if there is anything."""
        if what:
            raise EnvironmentFaultError(self.first + index, self.calls, what) from error

    def step_async(self, actions: np.ndarray) -> None:
        """
        Take in the actions of the next step.

        :param actions: one for each environment
        """
        self.calls += 1
        self.actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """
        Step every environment, and reset those whose episode ended.

        :return: observations, rewards, dones and infos, as ``DummyVecEnv`` gives them
        """
        infos: list[dict[str, Any]] = []
        actions, rewards, dones = self.actions, self.buf_rews, self.buf_dones
        rows = self.buf_obs[self.keys[0]] if self._single_observation and self.stores_directly else None
        shape = self._shape
        for index, env in enumerate(self.envs):
            try:
                observation, reward, terminated, truncated, info = env.step(actions[index])
            except (Exception, SystemExit) as error:
                self._blame(index, explain(error), error)
                raise
            done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                self._blame(index, wrong_observation(observation, self.observation_space))
                info["terminal_observation"] = deepcopy(observation)
                observation, self.reset_infos[index] = self._reset_one(index)
            try:
                rewards[index] = reward
            except (TypeError, ValueError) as error:
                self._blame(index, wrong_reward(reward), error)
                raise
            dones[index] = done
            # The first case of _save_obs without its call, which takes a tenth of CartPole's step.
            if (
                rows is None
                or type(observation) is not np.ndarray
                or observation.shape != shape
                or observation.dtype is not rows.dtype
            ):
                self._save_obs(index, observation)
            else:
                rows[index] = observation
            infos.append(dict(info))
        self.buf_infos = infos
        return self._obs_from_buf(), rewards.copy(), dones.copy(), infos

    def _save_obs(self, env_idx: int, obs: VecEnvObs) -> None:
        """Store an environment's observation."""
        if self._single_observation:
            rows = self.buf_obs[self.keys[0]]
            if type(obs) is not np.ndarray or obs.shape != self._shape or obs.dtype is not rows.dtype:
                self._blame(env_idx, wrong_observation(obs, self.observation_space))
            rows[env_idx] = obs
        else:
            self._blame(env_idx, wrong_observation(obs, self.observation_space))
            super()._save_obs(env_idx, obs)

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
