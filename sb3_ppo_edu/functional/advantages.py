r"""Advantages and returns of a rollout: GAE as the recursion, n-step and Monte Carlo returns as its relatives.

Time indexing. A rollout of ``n_steps`` steps holds, for step t: the reward :math:`r_t` received after the action, the
value :math:`V(s_t)` of the observation the action was taken in, and :math:`d_t` = 1 if the episode ended *with* that step.
So :math:`d_t` belongs to the transition t → t+1 and masks :math:`V(s_{t+1})`. SB3's ``RolloutBuffer`` stores the same fact
one step later, as ``episode_starts[t + 1]``. (The lecture's listing uses ``dones[t + 1]`` beside a ``done`` stored after the
step: the mask is off by one there.)

A time limit is not an end of the task: as in SB3, ``EduPPO._bootstrap_time_limits`` adds :math:`\gamma V(s_{terminal})` to the
reward of such a step before these functions see it.

Source: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
https://arxiv.org/abs/1506.02438
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def _check_rollout(rewards: FloatArray, values: FloatArray, dones: npt.NDArray[np.generic], last_values: FloatArray) -> None:
    """
    Refuse arrays that do not belong to one rollout.

    :param rewards: shape ``(n_steps, ...)``
    :param values: the same shape
    :param dones: the same shape
    :param last_values: shape ``(...)``
    :raises ValueError: naming the shapes found and expected, or the type of rewards that are no floating-point numbers
    """
    if not np.issubdtype(rewards.dtype, np.floating):
        raise ValueError(
            f"rewards of type {rewards.dtype}: expected floating-point numbers, since the result has their type and would be "
            "rounded: use rewards.astype(np.float32)"
        )
    shape = rewards.shape
    if len(shape) < 1 or shape[0] < 1 or values.shape != shape or dones.shape != shape or last_values.shape != shape[1:]:
        raise ValueError(
            f"rewards {shape}, values {values.shape}, dones {dones.shape}, last_values {last_values.shape}: expected "
            "(n_steps, ...) for the first three with n_steps ≥ 1, and (...) for last_values, such as (n_steps, n_envs) and "
            "(n_envs,)"
        )


def generalized_advantage_estimate(
    rewards: FloatArray,
    values: FloatArray,
    dones: npt.NDArray[np.generic],
    last_values: FloatArray,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
) -> FloatArray:
    r"""
    Generalized advantage estimate, equation 16 of the GAE paper, computed backwards.

    .. math::
        \delta_t = r_t + \gamma (1 - d_t) V(s_{t+1}) - V(s_t), \qquad
        \hat A_t = \delta_t + \gamma\lambda (1 - d_t) \hat A_{t+1}, \qquad \hat A_T = 0

    λ = 0 gives the one-step TD error :math:`\delta_t`; λ = 1 the Monte Carlo return minus the value. The arithmetic is that
    of ``RolloutBuffer.compute_returns_and_advantage``, to the bit. The TD(λ) targets of the value function are
    ``advantages + values``.

    :param rewards: :math:`r_t`, shape ``(n_steps, n_envs)`` (or ``(n_steps,)``)
    :param values: :math:`V(s_t)`, the same shape
    :param dones: :math:`d_t`, the same shape, booleans or 0/1
    :param last_values: :math:`V(s_T)` of the observations after the last step, shape ``(n_envs,)``
    :param gamma: discount factor in [0, 1]
    :param gae_lambda: λ in [0, 1]
    :return: :math:`\hat A_t`, shape of ``rewards``
    :raises ValueError: if the shapes do not belong together
    """
    _check_rollout(rewards, values, dones, last_values)
    not_done = 1.0 - dones.astype(rewards.dtype)
    next_values = np.concatenate([values[1:], last_values[None]])
    deltas = rewards + gamma * next_values * not_done - values
    decays = gamma * gae_lambda * not_done
    if deltas[0].size == 1:
        # One environment: a vector's elements are numpy scalars, ten times as quick as arrays of one.
        deltas, decays = deltas.reshape(-1), decays.reshape(-1)
    advantages = np.empty_like(deltas)
    advantage = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + decays[t] * advantage
        advantages[t] = advantage
    return advantages.reshape(rewards.shape)


def monte_carlo_returns(
    rewards: FloatArray, dones: npt.NDArray[np.generic], last_values: FloatArray, gamma: float = 0.99
) -> FloatArray:
    r"""
    Discounted returns :math:`G_t = r_t + \gamma (1 - d_t) G_{t+1}` with :math:`G_T` = ``last_values``.

    :param rewards: shape ``(n_steps, n_envs)``
    :param dones: the same shape
    :param last_values: bootstrap for episodes that go on after the rollout, shape ``(n_envs,)``; zeros for none
    :param gamma: discount factor in [0, 1]
    :return: shape of ``rewards``
    :raises ValueError: if the shapes do not belong together
    """
    no_values = np.zeros_like(rewards)
    # A value function that is 0 within the rollout turns λ = 1 advantages into returns.
    return generalized_advantage_estimate(rewards, no_values, dones, last_values, gamma, gae_lambda=1.0)


def n_step_returns(
    rewards: FloatArray,
    values: FloatArray,
    dones: npt.NDArray[np.generic],
    last_values: FloatArray,
    n: int,
    gamma: float = 0.99,
) -> FloatArray:
    r"""
    n-step returns :math:`G^{(n)}_t = \sum_{l=0}^{n-1} \gamma^l r_{t+l} + \gamma^n V(s_{t+n})`, cut at the episode's end.

    Where fewer than n steps remain in the rollout, the sum ends with the rollout and bootstraps from ``last_values``.
    GAE is the average of the advantages :math:`G^{(n)}_t - V(s_t)` over n with weights :math:`(1-\lambda)\lambda^{n-1}`.
    The recursion runs over n: :math:`G^{(n)}_t = r_t + \gamma (1 - d_t) G^{(n-1)}_{t+1}` with :math:`G^{(0)}_t = V(s_t)`.

    Source: Sutton and Barto 2018, "Reinforcement Learning", equation 7.1, http://incompleteideas.net/book/the-book.html

    :param rewards: shape ``(n_steps, n_envs)``
    :param values: the same shape
    :param dones: the same shape
    :param last_values: shape ``(n_envs,)``
    :param n: number of rewards summed, ≥ 1
    :param gamma: discount factor in [0, 1]
    :return: shape of ``rewards``
    :raises ValueError: if n < 1 or the shapes do not belong together
    """
    _check_rollout(rewards, values, dones, last_values)
    if n < 1:
        raise ValueError(f"n={n}: expected an integer ≥ 1 (the number of rewards that are summed)")
    not_done = 1.0 - dones.astype(rewards.dtype)
    returns = np.concatenate([values, last_values[None]])
    for _ in range(min(n, len(rewards))):  # beyond the rollout's length nothing changes any more
        returns[:-1] = rewards + gamma * not_done * returns[1:]
    return returns[:-1].astype(rewards.dtype, copy=False)
