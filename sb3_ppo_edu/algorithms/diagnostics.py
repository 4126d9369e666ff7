"""What is logged of an update and its rollout: SB3's keys, what SB3 leaves out, and what tells a training's faults apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import explained_variance

from sb3_ppo_edu.algorithms.environment_numbers import environment_numbers, is_sampled
from sb3_ppo_edu.algorithms.logged_settings import logged_settings
from sb3_ppo_edu.algorithms.model import PPOModel
from sb3_ppo_edu.algorithms.update_record import UpdateRecord
from sb3_ppo_edu.engines import UpdateSettings, as_array, gradient_shares

SHORT_UPDATE, SAMPLED_UPDATES = 100, 4
"""Of updates with fewer minibatches than the first number, one of as many as the second is measured for the doctor."""


def log_update(model: PPOModel, record: UpdateRecord, settings: UpdateSettings) -> None:
    """
    Log an update under SB3's keys, and what SB3 leaves out beside them.

    :param model: the model, just updated
    :param record: what happened
    :param settings: settings of this update
    """
    if record.stopped_in is not None and (model.verbose or 0) >= 1:
        kl = record.epoch_kls[-1] if model.kl_check == "minibatch" else np.mean(record.epoch_kls)
        print(f"Early stopping at step {record.stopped_in} due to reaching max kl: {kl:.2f}")
    buffer = model.rollout_buffer
    model.logger.record("train/entropy_loss", record.mean("entropy_loss"))
    model.logger.record("train/policy_gradient_loss", record.mean("policy_loss"))
    model.logger.record("train/value_loss", record.mean("value_loss"))
    model.logger.record("train/approx_kl", np.mean(record.epoch_kls))
    model.logger.record("train/clip_fraction", record.mean("clip_fraction"))
    model.logger.record("train/loss", record.column("loss")[-1])
    model.logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
    if hasattr(model.policy, "log_std"):
        model.logger.record("train/std", th.exp(model.policy.log_std).mean().item())
    model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
    model.logger.record("train/clip_range", settings.clip_range)
    if settings.clip_range_vf is not None:
        model.logger.record("train/clip_range_vf", settings.clip_range_vf)

    model.logger.record("train/kl_max", max(record.column("approx_kl")))
    model.logger.record("train/early_stop_epoch", model.n_epochs if record.stopped_in is None else record.stopped_in)
    model.logger.record("train/ratio_max", max(record.column("ratio_max")))
    # Of the wrapper Curiosity; SB3's wrappers look for an attribute in those inside of them.
    for name, value in getattr(model.env, "curiosity_log", {}).items():
        model.logger.record(f"curiosity/{name}", value)
    if record.grad_norms:
        model.logger.record("train/grad_norm", np.mean(record.grad_norms))
    model.logger.record("train/advantage_mean", buffer.advantages.mean())
    model.logger.record("train/advantage_std", buffer.advantages.std())
    # What sb3-edu doctor reads; too much for SB3's table on the console. Of short updates a sample: there it would count.
    session, every = model.session, 1 if len(record.rows) >= SHORT_UPDATE else SAMPLED_UPDATES
    index, between = divmod(session.iteration - min(session.iteration, 1), every)
    if between == 0:
        numbers = doctor_numbers(model, record, settings)
        if is_sampled(index):
            ends = model._last_episode_starts
            unfinished = session.unfinished.sums()
            numbers |= environment_numbers(model, ends, session.bootstraps, session.n_processes, unfinished)
        for name, value in numbers.items():
            model.logger.record(f"train/{name}", value, exclude="stdout")
    session.unfinished.add(buffer)
    if session.iteration == 1:
        for name, value in logged_settings(model).items():
            model.logger.record(f"settings/{name}", value, exclude="stdout")


def doctor_numbers(model: PPOModel, record: UpdateRecord, settings: UpdateSettings) -> dict[str, float]:
    """
    Gather what tells a training's faults apart.

    :param model: the model, just updated
    :param record: what happened in this update
    :param settings: settings of this update
    :return: log keys, without ``train/``, and values
    """
    numbers = {"ent_coef": settings.ent_coef, "vf_coef": settings.vf_coef, **record.by_epoch()}
    if record.grad_norms:
        grad_norm = sum(record.grad_norms) / len(record.grad_norms)
        numbers |= {f"grad_norm_{part}": share * grad_norm for part, share in gradient_shares(model.policy).items()}
    ratios = np.sort(as_array(record.ratios))
    if len(ratios):
        numbers |= {f"ratio_{name}": float(ratios[int(q * (len(ratios) - 1))]) for name, q in QUANTILES.items()}
    numbers |= rollout_statistics(model.rollout_buffer)
    if isinstance(model.action_space, spaces.Box):
        actions = model.within_bounds(model.rollout_buffer.actions.reshape(-1, *model.action_space.shape))
        numbers["action_saturation"] = share_at_bounds(actions, model.action_space)
    buffer = model.rollout_buffer
    # sb3-contrib's buffers for sequences flatten them with the other columns, one environment after the other.
    starts = (
        buffer.episode_starts
        if buffer.episode_starts.shape[1] == buffer.n_envs
        else buffer.episode_starts.reshape(buffer.n_envs, -1).T
    )
    ended = starts[1:].sum()
    if model._last_episode_starts is not None:  # an update without a rollout before it has none
        ended += model._last_episode_starts.sum()
    numbers |= {"episodes_ended": float(ended), "episodes_truncated": float(model.session.truncated_episodes)}
    return numbers


MAX_OBSERVATION_PARTS = 512
"""Observations with more parts are images or the like: measuring each part would take time, and SB3 scales images itself."""

AT_BOUND = 0.99
"""An action beyond this share of the way from the middle of its range to its bound counts as one at its bound."""


def share_at_bounds(actions: NDArray[Any], action_space: spaces.Box) -> float:
    """
    Say how many of the actions lie at their bounds, where an environment can't tell them apart.

    :param actions: as the environment got them, shape ``(n, *action_shape)``
    :param action_space: with finite bounds
    :return: share of all components, in [0, 1]
    """
    middle, half_width = (action_space.high + action_space.low) / 2, (action_space.high - action_space.low) / 2
    return float((np.abs(actions - middle) >= AT_BOUND * half_width).mean())


QUANTILES = {"low": 0.05, "high": 0.95}
"""Which quantiles of advantages and ratios are logged, by the last part of their names."""


def rollout_statistics(rollout_buffer: RolloutBuffer) -> dict[str, float]:
    """
    Sum up a rollout: what the value function was asked and answered, and what went in and out of the policy.

    :param rollout_buffer: full buffer with returns and advantages
    :return: mean and standard deviation of rewards (time limits bootstrapped), values and returns; the 5 % and 95 %
        quantiles of the advantages; for flat observations the root mean square of their largest and smallest part, parts
        that are always 0 left out
    """
    columns = {"reward": rollout_buffer.rewards, "value": rollout_buffer.values, "return": rollout_buffer.returns}
    numbers: dict[str, float] = {}
    for name, column in columns.items():
        # numpy's own std takes three times as long on the arrays of a short rollout.
        flat = column.ravel().astype(np.float64)
        mean = float(np.add.reduce(flat)) / len(flat)
        flat -= mean
        numbers |= {f"{name}_mean": mean, f"{name}_std": math.sqrt(float(flat.dot(flat)) / len(flat))}
    advantages = np.sort(rollout_buffer.advantages, axis=None)
    numbers |= {f"advantage_{name}": float(advantages[int(q * (len(advantages) - 1))]) for name, q in QUANTILES.items()}
    space = rollout_buffer.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and 0 < space.shape[0] <= MAX_OBSERVATION_PARTS:
        observations = rollout_buffer.observations.reshape(-1, space.shape[0])
        sizes = np.sqrt(np.einsum("ij,ij->j", observations, observations, dtype=np.float64) / len(observations))
        seen = [size for size in sizes.tolist() if size > 0] or [0.0]
        numbers |= {"observation_scale_max": max(seen), "observation_scale_min": min(seen)}
    return numbers
