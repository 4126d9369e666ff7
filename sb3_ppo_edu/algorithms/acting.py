"""One step of a rollout: what the policy is given, and what the environments are given."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.checks import NOT_STEPPED, not_finite
from sb3_ppo_edu.algorithms.observations import explaining
from sb3_ppo_edu.engines import Engine, NonFiniteUpdateError, PolicyInputs, check_finite_output


class ActingModel(OnPolicyAlgorithm):
    """
    The steps of a rollout, each in a method, so that a subclass can give its policy more than observations.

    Where there are action masks or hidden states, ``acting_inputs`` and ``value_inputs`` add them, ``end_step`` keeps what the
    next step goes on from, and the engine's ``columns`` puts them into the rollout buffer.
    """

    def acting_inputs(self, env: VecEnv, observations: PyTorchObs) -> PolicyInputs:
        """
        Put together what the policy acts on.

        :param env: the training environments
        :param observations: their latest, on the model's device
        :return: what the engine's ``act`` takes
        """
        return PolicyInputs(observations)

    def store_inputs(self, env: VecEnv, rollout_buffer: RolloutBuffer, step: int) -> None:
        """
        Write what the policy acts on beside observations to where the lean loop's engine reads it.

        A class that overrides ``acting_inputs`` without this one has the ordinary loop.

        :param env: the training environments
        :param rollout_buffer: SB3's own, or sb3-contrib's
        :param step: its row
        """

    def value_inputs(self, observations: PyTorchObs, env_index: int | None = None) -> PolicyInputs:
        """
        Put together what a value is asked of.

        :param observations: the latest of all environments, or the last one of an episode that a time limit has ended
        :param env_index: the environment of that episode; None for all
        :return: what the engine's ``value`` takes
        """
        return PolicyInputs(observations)

    def act(self, engine: Engine[Any], inputs: PolicyInputs) -> tuple[np.ndarray, th.Tensor, th.Tensor]:
        """Sample actions, and stop before one that is not finite, or comes from what is not, reaches the environment."""
        try:
            action_tensor, values, log_probs = engine.act(inputs)
            actions = action_tensor.cpu().numpy()
            check_finite_output(actions, values.cpu().numpy(), log_probs.cpu().numpy())
        except NonFiniteUpdateError as error:
            raise not_finite(f"{error} after {self.num_timesteps} steps", NOT_STEPPED) from error
        return actions, values, log_probs

    def step_locals(self, inputs: PolicyInputs) -> dict[str, Any]:
        """
        Give what callbacks find among a step's local variables beside SB3's.

        :param inputs: what the policy has acted on
        :return: by the names that sb3-contrib's algorithms have there
        """
        return {}

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """
        Turn sampled actions into what the environment takes.

        :param actions: as sampled, and as the rollout buffer stores them
        :return: Box actions within their bounds, squashed or clipped; other actions as they are
        """
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            unscaled = self.policy.unscale_action(actions)
            if not np.isfinite(unscaled).all():
                raise not_finite(f"actions={unscaled.tolist()} after {self.num_timesteps} steps", NOT_STEPPED)
            return unscaled
        # np.clip, which does the same, takes three times as long.
        clipped: np.ndarray = np.minimum(np.maximum(actions, self.action_space.low), self.action_space.high)
        return clipped

    def end_step(self, new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        Go on from a step that is stored.

        :param new_obs: observations that the environments gave, shape ``(n_envs, *obs_shape)``, or a dict of such
        :param dones: whether each begins an episode, shape ``(n_envs,)``
        :param infos: one for each environment
        """
        self._last_obs, self._last_episode_starts = cast(Any, new_obs), dones

    def begin_episodes(self, new_obs: Any) -> None:
        """
        Go on from environments that have all been reset.

        :param new_obs: their first observations
        """
        self._last_obs, self._last_episode_starts = new_obs, np.ones((self.n_envs,), dtype=bool)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions.

        :param observation: of one environment or of several; what is for the critic alone (``critic_keys``) may be left out
        :param state: handed on as it is
        :param episode_start: not used
        :param deterministic: the likeliest action instead of a random one
        :return: the actions, and ``state``
        :raises ValueError: if the observation is not one of the model's
        """
        with self.explaining(observation):
            return super().predict(observation, state, episode_start, deterministic)

    def explaining(self, observation: Any) -> AbstractContextManager[None]:
        """Say what is wrong with an observation where something fails with it."""
        return explaining(observation, self.observation_space, getattr(self, "critic_keys", None) or ())

    def count_observations(self, observation: Any) -> int:
        """
        Count the observations that ``predict`` is given.

        :param observation: of one environment, or of several in an array or a dict of arrays
        :return: how many environments they are of
        """
        with self.explaining(observation):
            tensors, _ = self.policy.obs_to_tensor(observation)
            return len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)

    def _last_obs_as_tensor(self) -> PyTorchObs:
        """The latest observations on the model's device; on the CPU they share the environments' memory."""
        assert self._last_obs is not None, "No previous observation was provided"
        if th.device(self.device).type == "cpu" and isinstance(self._last_obs, np.ndarray):
            return th.from_numpy(self._last_obs)
        tensors: PyTorchObs = obs_as_tensor(self._last_obs, self.device)
        return tensors
