"""
Metrics that several symptoms look at: their names in the log, their healthy ranges, and what is worked out of them.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (errata: notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, median
from sb3_ppo_edu.doctor.record import Record

KL, CLIP = "train/approx_kl", "train/clip_fraction"
RETURN, LENGTH, EVALUATED = "rollout/ep_rew_mean", "rollout/ep_len_mean", "eval/mean_reward"
"""SB3's log keys of returns and lengths."""
EXPLAINED = "train/explained_variance"

LECTURE_KL, LECTURE_CLIP = 0.05, 0.3
"""What the lecture calls too much: nats, and share of the ratios."""

SB3_MAX_GRAD_NORM = 0.5
"""Default of Stable-Baselines3, for records whose settings are not known."""

RATE_BAND = Band("train/learning_rate", 1e-5, 1e-3, log=True)
KL_BAND, CLIP_BAND = Band(KL, 0.003, LECTURE_KL, log=True), Band(CLIP, 0.05, LECTURE_CLIP)
RETURN_BAND = Band(RETURN, None, None)
EXPLAINED_BAND = Band(EXPLAINED, 0.3, 1.0)


def epochs_per_update(record: Record) -> float | None:
    """
    Work out how many epochs the updates had, from what was counted.

    :return: median of the epochs of an update, or None if they were not counted
    """
    steps, epochs = record.series("train/n_updates")
    iteration_steps, iterations = record.series("time/iterations")
    if len(epochs) < 2 or len(iterations) < 2:
        return record.number("n_epochs")
    at = np.interp(steps, iteration_steps, iterations)
    per_update = np.diff(epochs)[np.diff(at) > 0] / np.diff(at)[np.diff(at) > 0]
    return float(np.median(per_update)) if len(per_update) else None


def rollout_size(record: Record) -> float | None:
    """
    Work out how large a rollout is, from what was counted or else from the settings.

    :return: transitions, or None if neither is known
    """
    steps, iterations = record.series("time/iterations")
    if len(steps) and iterations[-1] > 0:
        # Differences, where there are some: a training that goes on with a model begins at other steps than 0.
        if len(steps) > 1 and iterations[-1] > iterations[0]:
            return float((steps[-1] - steps[0]) / (iterations[-1] - iterations[0]))
        return float(steps[-1] / iterations[-1])
    n_steps, n_envs = record.number("n_steps"), record.number("n_envs")
    return None if n_steps is None or n_envs is None else n_steps * n_envs


def return_scale(record: Record) -> float:
    """
    Give the typical deviation of the returns that the value function has to predict.

    :return: median standard deviation; where it was not logged, worked out of value loss and explained variance
    """
    if record.has("train/return_std"):
        return median(record, "train/return_std", 0.1)
    unexplained = 1.0 - min(median(record, EXPLAINED, 0.1), 0.99)
    # A loss below 0 is none, and a negative share can't be left unexplained: such a record says nothing of the scale.
    squared = median(record, "train/value_loss", 0.1) / unexplained
    return math.sqrt(squared) if squared >= 0 else math.nan


def entropy_of(record: Record) -> np.ndarray:
    """
    Give the policy's entropy.

    :return: mean entropy of each update, in nats
    """
    return -record.values("train/entropy_loss")


def is_discrete(record: Record) -> bool:
    """
    Tell whether the actions are discrete: only Gaussian policies log a standard deviation.

    :return: whether no standard deviation was logged and no entropy is negative
    """
    return not record.has("train/std") and bool((entropy_of(record) >= 0).all())


def progress(record: Record) -> tuple[float, float, float, float]:
    """
    Sum up the learning curve.

    :return: return at the start, at its peak and at the end, each the mean of a tenth of the record, and its noise
    """
    return record.once(_progress)


def _progress(record: Record) -> tuple[float, float, float, float]:
    """Work out what :func:`progress` gives."""
    values = record.values(RETURN)
    window = max(len(values) // 10, 1)
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    noise = float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0
    return float(means[0]), float(means.max()), float(means[-1]), noise


def gained(record: Record) -> float:
    """
    Say how much of the return at the start has been gained.

    :return: gain from start to end over the size of the return at the start
    """
    start, _, end, noise = progress(record)
    return (end - start) / max(abs(start), noise, 1e-8)
