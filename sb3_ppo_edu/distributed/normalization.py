"""``VecNormalize``'s running moments over processes: what a process has added to them, and merging it into all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

Increment = tuple[Any, Any, float]
"""Mean, variance and count of values that are added to running moments."""


def running_moments(env: VecNormalize | None) -> dict[str, RunningMeanStd]:
    """
    Find the running moments that a training normalizes with.

    :param env: its normalization, or None
    :return: the moments by name
    """
    if env is None:
        return {}
    found = {"return": env.ret_rms}
    if env.norm_obs:
        observations = env.obs_rms if isinstance(env.obs_rms, dict) else {"observation": env.obs_rms}
        found.update({f"observation {key}": moments for key, moments in observations.items()})
    return found


def increment_of_reset(env: VecNormalize) -> dict[str, Increment]:
    """
    Find what a reset has added to running moments: the first observations, and returns of zero.

    :param env: the normalization, just reset
    :return: mean, variance and count by name
    """
    found: dict[str, Increment] = {}
    for name in running_moments(env):
        kind, _, key = name.partition(" ")
        if kind == "return":
            values = np.zeros(env.num_envs if env.norm_reward else 0)
        else:
            old = env.old_obs
            values = old[key] if isinstance(old, dict) else old
        found[name] = (values.mean(axis=0), values.var(axis=0), len(values)) if len(values) else (0.0, 0.0, 0)
    return found


def increment_between(before: Mapping[str, Any], after: RunningMeanStd) -> Increment:
    """
    Find the moments of what was added to running moments: the inverse of ``update_from_moments``.

    :param before: mean, var and count before
    :param after: the moments after
    :return: mean, variance and count of what was added; the count is 0 if nothing was
    """
    count = after.count - before["count"]
    if count <= 0:
        return before["mean"], np.zeros_like(before["var"]), 0.0
    mean = before["mean"] + (after.mean - before["mean"]) * after.count / count
    delta = mean - before["mean"]
    squares = after.var * after.count - before["var"] * before["count"] - delta**2 * before["count"] * count / after.count
    return mean, np.maximum(squares / count, 0.0), count


def merge_increments(moments: RunningMeanStd, before: Mapping[str, Any], increments: Sequence[Increment]) -> None:
    """
    Set running moments to an earlier state plus what every process has added to it.

    :param moments: changed in place
    :param before: mean, var and count of the state that all processes started from
    :param increments: of each process, in the order of their ranks
    """
    vars(moments).update(deepcopy(dict(before)))
    for mean, variance, count in increments:
        if count:
            moments.update_from_moments(mean, variance, count)
