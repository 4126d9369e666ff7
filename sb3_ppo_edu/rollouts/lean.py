"""A rollout with nothing between its steps: the ordinary loop's bits, at the cost of little more than the environment.

Where the engine can act on the rollout buffer's own rows and nobody looks at a step's local variables, a step needs no
tensors, no copies and no bookkeeping: on small tasks these take longer than the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.rollouts.buffers import is_sb3s_own, store_observations


def serves_lean_loop(rollout_buffer: RolloutBuffer) -> bool:
    """
    Tell whether a rollout buffer may be written row by row.

    :param rollout_buffer: an emptied rollout buffer
    :return: True for SB3's own two
    """
    return is_sb3s_own(rollout_buffer) and rollout_buffer.device.type == "cpu" and rollout_buffer.pos == 0


def collect_lean(
    model: OnPolicyAlgorithm,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    act: Callable[[int], NDArray[Any]],
    bootstrap: Callable[[NDArray[Any], NDArray[Any], list[dict[str, Any]]], None],
    end_step: Callable[[Any, NDArray[Any], list[dict[str, Any]]], None],
) -> bool:
    """
    Fill a rollout buffer.

    :param model: gives the latest observations, and counts steps and episodes
    :param env: the training environments
    :param callback: called at every step; it does not read the local variables here
    :param rollout_buffer: emptied, for which :func:`serves_lean_loop` holds
    :param act: acts on the observations in the buffer's row of a step, writes values, log-probabilities and actions there, and
        gives the actions as the environments take them
    :param bootstrap: adds to the rewards, in place, what a time limit has cut off
    :param end_step: keeps the latest observations, dones and infos
    :return: False if the callback ended training
    """
    for step in range(rollout_buffer.buffer_size):
        if model.use_sde and model.sde_sample_freq > 0 and step % model.sde_sample_freq == 0:
            model.policy.reset_noise(env.num_envs)
        store_observations(rollout_buffer, step, last_obs := model._last_obs)
        new_obs, rewards, dones, infos = env.step(act(step))

        model.num_timesteps += env.num_envs
        if not callback.on_step():
            return False

        model._update_info_buffer(infos, dones)
        bootstrap(rewards, dones, infos)
        if new_obs is last_obs or model._last_obs is not last_obs:  # the ordinary loop stores what is there by now
            store_observations(rollout_buffer, step, model._last_obs)
        rollout_buffer.rewards[step] = rewards
        rollout_buffer.episode_starts[step] = model._last_episode_starts
        rollout_buffer.pos = step + 1
        end_step(new_obs, dones, infos)
    rollout_buffer.full = True
    return True
