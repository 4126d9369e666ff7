"""SB3's rollout buffer, filled and finished at less cost.

``RolloutBuffer.add`` copies every array two or three times, and ``compute_returns_and_advantage`` takes ten small array
operations per step. Both count once a fast engine has made the rest cheap. The functions here write the same bits into SB3's
own buffer; a buffer of any other class, which may do anything, is left to its own methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.advantages import generalized_advantage_estimate


def add_transition(
    rollout_buffer: RolloutBuffer,
    observations: Any,
    actions: NDArray[Any],
    rewards: NDArray[Any],
    episode_starts: NDArray[Any],
    values: th.Tensor,
    log_probs: th.Tensor,
) -> None:
    """
    Append one step of every environment.

    :param rollout_buffer: the buffer, not full
    :param observations: shape ``(n_envs, *obs_shape)``, or a dict of such
    :param actions: shape ``(n_envs, *action_shape)``, as sampled
    :param rewards: shape ``(n_envs,)``
    :param episode_starts: whether each observation begins an episode, shape ``(n_envs,)``
    :param values: shape ``(n_envs, 1)``
    :param log_probs: shape ``(n_envs,)``
    """
    if type(rollout_buffer) is not RolloutBuffer:
        if isinstance(rollout_buffer.action_space, spaces.Discrete):
            actions = actions.reshape(-1, 1)
        rollout_buffer.add(observations, actions, rewards, episode_starts, values, log_probs)
        return
    step = rollout_buffer.pos
    rollout_buffer.observations[step] = observations.reshape(rollout_buffer.observations.shape[1:])
    rollout_buffer.actions[step] = actions.reshape(rollout_buffer.actions.shape[1:])
    rollout_buffer.rewards[step] = rewards
    rollout_buffer.episode_starts[step] = episode_starts
    rollout_buffer.values[step] = values.numpy(force=True).reshape(-1)
    rollout_buffer.log_probs[step] = log_probs.numpy(force=True)
    rollout_buffer.pos = step + 1
    rollout_buffer.full = rollout_buffer.pos == rollout_buffer.buffer_size


def compute_returns_and_advantage(rollout_buffer: RolloutBuffer, last_values: th.Tensor, dones: NDArray[np.bool_]) -> None:
    """
    Compute advantages by GAE and the TD(λ) targets, ``returns = advantages + values``.

    :param rollout_buffer: the full buffer
    :param last_values: values of the observations after the last step, shape ``(n_envs, 1)``
    :param dones: whether each environment's last step ended its episode, shape ``(n_envs,)``
    """
    if type(rollout_buffer) is not RolloutBuffer:
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        return
    # SB3 stores whether a step *begins* an episode: one step later than whether the step before ended one.
    ends = np.concatenate([rollout_buffer.episode_starts[1:], dones[None].astype(np.float32)])
    rollout_buffer.advantages = generalized_advantage_estimate(
        rollout_buffer.rewards,
        rollout_buffer.values,
        ends,
        last_values.numpy(force=True).flatten(),
        rollout_buffer.gamma,
        rollout_buffer.gae_lambda,
    )
    rollout_buffer.returns = rollout_buffer.advantages + rollout_buffer.values
