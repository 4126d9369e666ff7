r"""Numbers that sum up many runs, with bootstrap intervals.

A *score matrix* has one row for each run (seed) and one column for each task (environment); functions of it take arrays of
shape ``(..., runs, tasks)`` and reduce the last two axes, so that a whole bootstrap is one call. The aggregates are those of
Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021,
https://arxiv.org/abs/2108.13264.

Intervals are percentile bootstraps. With few runs they are too narrow: five runs have only 126 different resamples, and the
interval can't reach beyond the best and the worst of them. Report the number of runs beside each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
"""Bootstrap resamples: the Monte Carlo error of a 95% interval's ends is then small beside the interval."""

Scores = NDArray[np.float64]
Statistic = Callable[[Scores], NDArray[np.float64]]


class Interval(NamedTuple):
    """
    An estimate and its interval.

    :param value: the estimate from all runs
    :param low: lower end
    :param high: upper end
    """

    value: float
    low: float
    high: float


def score_matrix(scores: ArrayLike) -> Scores:
    """
    Check a score matrix.

    :param scores: shape ``(runs, tasks)``, or ``(runs,)`` for one task
    :return: shape ``(runs, tasks)``
    :raises ValueError: if there are no runs or tasks, or a score is not finite
    """
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"scores: found shape {matrix.shape}, expected (runs, tasks) or (runs,), with at least one of each")
    if not np.isfinite(matrix).all():
        raise ValueError("scores: found NaN or infinity, expected finite numbers; give a failed run the score it deserves")
    return matrix


def normalize(returns: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    r"""
    Put returns of different tasks on one scale: :math:`(x - low) / (high - low)`.

    :param returns: shape ``(runs, tasks)``
    :param low: return that counts as 0 in each task, such as a random policy's; shape ``(tasks,)``
    :param high: return that counts as 1, such as the threshold of solving it; shape ``(tasks,)``
    :return: shape ``(runs, tasks)``
    :raises ValueError: if ``high`` is not above ``low`` everywhere
    """
    bottom, top = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if not np.all(top > bottom):
        raise ValueError(f"high={top.tolist()}: expected numbers above low={bottom.tolist()}")
    return (np.asarray(returns, dtype=np.float64) - bottom) / (top - bottom)


def mean(scores: Scores) -> NDArray[np.float64]:
    """
    Mean over all runs and tasks.

    :param scores: shape ``(..., runs, tasks)``
    :return: shape ``(...)``
    """
    return np.asarray(scores.mean(axis=(-2, -1)))


def median(scores: Scores) -> NDArray[np.float64]:
    """
    Median over the tasks of each task's mean.

    :param scores: shape ``(..., runs, tasks)``
    :return: shape ``(...)``
    """
    return np.asarray(np.median(scores.mean(axis=-2), axis=-1))


def interquartile_mean(scores: Scores) -> NDArray[np.float64]:
    """
    Mean of the middle half of all runs of all tasks (IQM): less moved by outliers than the mean, surer than the median.

    ``int(n / 4)`` of the n scores are left out at either end.

    :param scores: shape ``(..., runs, tasks)``
    :return: shape ``(...)``
    """
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def optimality_gap(scores: Scores, target: float = 1.0) -> NDArray[np.float64]:
    r"""
    How far runs fall short of a target: the mean of :math:`\max(target - x, 0)`.

    :param scores: shape ``(..., runs, tasks)``
    :param target: score beyond which more does not count
    :return: shape ``(...)``
    """
    return np.asarray(np.maximum(target - scores, 0.0).mean(axis=(-2, -1)))


def resample_runs(scores: Scores, resamples: int, generator: np.random.Generator) -> Scores:
    """
    Draw runs with replacement within each task (a stratified bootstrap).

    :param scores: shape ``(runs, tasks)``
    :param resamples: how often
    :param generator: source of randomness
    :return: shape ``(resamples, runs, tasks)``
    """
    runs, tasks = scores.shape
    drawn = generator.integers(runs, size=(resamples, runs, tasks))
    return np.take_along_axis(scores[None], drawn, axis=1)


def percentile_interval(estimates: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """
    Leave out the same share of estimates at either end.

    :param estimates: shape ``(resamples, ...)``
    :param confidence: share that stays, in (0, 1)
    :return: lower and upper ends, shape ``(2, ...)``
    :raises ValueError: if the confidence is not in (0, 1)
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence}: expected a number > 0 and < 1, such as 0.95")
    tail = (1.0 - confidence) / 2.0
    return np.asarray(np.quantile(estimates, (tail, 1.0 - tail), axis=0))


def bootstrap(
    scores: ArrayLike, statistic: Statistic, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """
    Estimate a statistic of a score matrix, with its stratified percentile bootstrap interval.

    Runs are resampled with replacement within each task; the interval leaves out ``(1 - confidence) / 2`` of the resamples'
    statistics at either end (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).

    :param scores: shape ``(runs, tasks)``, or ``(runs,)`` for one task
    :param statistic: such as :func:`interquartile_mean`
    :param confidence: in (0, 1)
    :param resamples: number of resamples
    :param seed: of the resampling; the same seed gives the same interval
    :return: the estimate and its interval
    :raises ValueError: if there are no scores, or they are not finite
    """
    matrix = score_matrix(scores)
    estimates = statistic(resample_runs(matrix, resamples, np.random.default_rng(seed)))
    low, high = percentile_interval(estimates, confidence)
    return Interval(float(statistic(matrix)), float(low), float(high))


def wilson(hits: int, cases: int) -> Interval:
    """
    Give a share and its 95% interval (E. B. Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    :param hits: how many
    :param cases: of how many, ≥ 1
    :return: the share and the ends, in [0, 1]
    """
    z, share = 1.959964, hits / cases
    middle = share + z * z / (2 * cases)
    half = z * math.sqrt(share * (1 - share) / cases + (z / (2 * cases)) ** 2)
    whole = 1 + z * z / cases
    return Interval(share, max((middle - half) / whole, 0.0), min((middle + half) / whole, 1.0))


def performance_profile(scores: Scores, thresholds: ArrayLike) -> NDArray[np.float64]:
    r"""
    Share of runs above each threshold: :math:`F(\tau) = \frac{1}{MN}\sum [x_{mn} > \tau]`.

    :param scores: shape ``(..., runs, tasks)``
    :param thresholds: τ, shape ``(T,)``
    :return: shape ``(..., T)``
    """
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray((flat[..., None, :] > np.asarray(thresholds)[:, None]).mean(axis=-1))


def profile_band(
    scores: ArrayLike, thresholds: ArrayLike, *, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Pointwise bootstrap band of the performance profile.

    :param scores: shape ``(runs, tasks)``, or ``(runs,)`` for one task
    :param thresholds: τ, shape ``(T,)``
    :param confidence: in (0, 1), at each threshold
    :param resamples: number of resamples
    :param seed: of the resampling
    :return: lower and upper ends, each of shape ``(T,)``
    """
    resampled = resample_runs(score_matrix(scores), resamples, np.random.default_rng(seed))
    low, high = percentile_interval(performance_profile(resampled, thresholds), confidence)
    return low, high
