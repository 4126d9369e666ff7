"""What is worked out again beside a training: the advantages of a rollout, and what an update has made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate

CHECKED = 512
"""Transitions of a rollout by which it is seen what an update has done."""


def gae_error(buffer: RolloutBuffer, values: Any, ends: Any) -> float | None:
    """
    Work the advantages of a rollout out again.

    :param buffer: full buffer
    :param values: of the observations after it, shape ``(n_envs,)`` or ``(n_envs, 1)``
    :param ends: whether its last step ended an episode, shape ``(n_envs,)``
    :return: the largest difference, in standard deviations of the right ones; None where those two are not known
    """
    if not isinstance(values, th.Tensor) or ends is None or values.numel() != buffer.n_envs:
        return None
    expected = generalized_advantage_estimate(
        buffer.rewards,
        buffer.values,
        np.concatenate([buffer.episode_starts[1:], np.asarray(ends)[None].astype(np.float32)]),
        values.detach().cpu().numpy().flatten(),
        buffer.gamma,
        buffer.gae_lambda,
    )
    return float(np.abs(buffer.advantages - expected).max() / (expected.std() + 1e-8))


def sample_of(buffer: RolloutBuffer) -> tuple[th.Tensor, ...] | None:
    """
    Keep some of a rollout, which its update leaves nothing of.

    :param buffer: full and not flattened yet
    :return: observations, actions, log-probabilities and advantages; None for observations that are not one array
    """
    if not isinstance(buffer.observations, np.ndarray):
        return None
    every = -(-buffer.buffer_size * buffer.n_envs // CHECKED)
    observations, actions, *others = (
        buffer.to_torch(one.reshape(-1, *one.shape[2:])[::every])  # the first two axes are steps and environments
        for one in (buffer.observations, buffer.actions, buffer.log_probs, buffer.advantages)
    )
    observations = observations.reshape(-1, *buffer.obs_shape)
    return observations, actions.long().flatten() if isinstance(buffer.action_space, spaces.Discrete) else actions, *others


def surrogate_gain(
    policy: ActorCriticPolicy, observations: th.Tensor, actions: th.Tensor, log_probs: th.Tensor, advantages: th.Tensor
) -> float | None:
    """
    Correlate how much likelier an update has made actions with their advantages: it is there to make good ones likelier.

    :param policy: after the update
    :param observations: of a rollout
    :param actions: taken there
    :param log_probs: of the actions before the update, shape ``(n,)``
    :param advantages: shape ``(n,)``
    :return: correlation in [-1, 1]; None where nothing has changed
    """
    training = policy.training
    if training:  # to walk through all modules takes a tenth of the whole
        policy.set_training_mode(False)
    with th.no_grad():
        change = policy.evaluate_actions(observations, actions)[1] - log_probs
    if training:
        policy.set_training_mode(True)
    change, gain = change - change.mean(), advantages - advantages.mean()
    moved, size = float((change**2).mean().sqrt()), float((gain**2).mean().sqrt())
    # Log-probabilities worked out in another way differ by rounding.
    return float((change * gain).mean()) / (moved * size) if moved > 1e-5 and size > 1e-9 else None
