"""Whether one algorithm is better than another, or the two are equivalent."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_ppo_edu.lab.statistics.aggregates import (
    RESAMPLES,
    Interval,
    Scores,
    bootstrap,
    mean,
    percentile_interval,
    resample_runs,
    score_matrix,
)
from sb3_ppo_edu.serialization.extras import need


def probability_of_improvement(first: Scores, second: Scores) -> NDArray[np.float64]:
    r"""
    Probability that a run of the first algorithm beats a run of the second, averaged over tasks.

    :math:`P(X > Y) = \frac{1}{NK}\sum_{i,j} [x_i > y_j] + \tfrac12 [x_i = y_j]`, the Mann-Whitney statistic; 0.5 is a draw
    (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264, section 4.3).

    :param first: shape ``(..., runs, tasks)``
    :param second: shape ``(..., other_runs, tasks)``
    :return: shape ``(...)``
    """
    above = first[..., :, None, :] - second[..., None, :, :]
    return np.asarray(((np.sign(above) + 1.0) / 2.0).mean(axis=(-3, -2, -1)))


def improvement_interval(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """
    Estimate the probability of improvement, with a percentile bootstrap interval.

    Runs of both algorithms are resampled within each task.

    :param first: scores of one algorithm, shape ``(runs, tasks)``, or ``(runs,)`` for one task
    :param second: scores of the other
    :param confidence: in (0, 1)
    :param resamples: number of resamples
    :param seed: of the resampling
    :return: the estimate and its interval
    """
    one, other = score_matrix(first), score_matrix(second)
    generator = np.random.default_rng(seed)
    estimates = probability_of_improvement(
        resample_runs(one, resamples, generator), resample_runs(other, resamples, generator)
    )
    low, high = percentile_interval(estimates, confidence)
    return Interval(float(probability_of_improvement(one, other)), float(low), float(high))


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """
    Mean of the differences between runs with the same seed, with a percentile bootstrap interval.

    :param first: shape ``(runs,)``
    :param second: shape ``(runs,)``, run by run with the seeds of ``first``
    :param confidence: in (0, 1)
    :param resamples: number of resamples
    :param seed: of the resampling
    :return: the mean of ``first - second`` and its interval
    :raises ValueError: if there are not equally many
    """
    return bootstrap(paired(first, second), mean, confidence=confidence, resamples=resamples, seed=seed)


def paired(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """
    Differences of pairs.

    :param first: shape ``(runs,)``
    :param second: shape ``(runs,)``
    :return: ``first - second``
    :raises ValueError: if there are not equally many, or none
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError(f"found shapes {one.shape} and {other.shape}, expected the same (runs,), one pair for each seed")
    return one - other


class Equivalence(NamedTuple):
    """
    What two one-sided tests found.

    :param difference: mean of the first minus mean of the second
    :param low: lower end of the interval of the difference, at confidence 1 - 2 alpha
    :param high: its upper end
    :param p_value: the larger one of the two tests' p-values
    :param margin: difference that does not matter
    :param equivalent: both tests reject, which is the same as the interval lying inside ±margin
    :param power: probability that two samples of this size and spread pass whose means are equal, see :func:`power`
    """

    difference: float
    low: float
    high: float
    p_value: float
    margin: float
    equivalent: bool
    power: float


def power(error: float, freedom: float, *, margin: float, alpha: float = 0.05) -> float:
    r"""
    Probability that two equal means pass two one-sided t-tests.

    The difference found must lie within :math:`m - t_{1-\alpha,\nu}\,s` of 0, and is :math:`s` times a t-distributed number:
    :math:`\max(0, 2F_\nu(m/s - t_{1-\alpha,\nu}) - 1)`. It takes the measured :math:`s` for the true one (Chow, Shao and Wang,
    Sample Size Calculations in Clinical Research, section 3.2).

    :param error: standard error :math:`s` of the difference, ≥ 0
    :param freedom: its degrees of freedom :math:`\nu`
    :param margin: difference :math:`m` that does not matter, > 0
    :param alpha: level of each test
    :return: the probability
    """
    if error == 0.0:
        return 1.0
    stats = need("scipy.stats", "lab", "the power of a test")
    return max(0.0, float(2.0 * stats.t.cdf(margin / error - stats.t.ppf(1.0 - alpha, freedom), freedom) - 1.0))


def equivalence(
    first: ArrayLike, second: ArrayLike, *, margin: float, alpha: float = 0.05, pairs: bool = False
) -> Equivalence:
    r"""
    Test whether two means differ by less than a margin: two one-sided t-tests.

    The hypotheses :math:`\mu_1 - \mu_2 \le -m` and :math:`\ge m` must both be rejected at level α (Schuirmann 1987,
    https://doi.org/10.1007/BF01068419). Unpaired samples use Welch's standard error and degrees of freedom. Where the samples
    have no spread at all there is nothing to estimate, and the difference itself decides.

    :param first: shape ``(runs,)``, at least two
    :param second: the same
    :param margin: difference that does not matter, in units of the scores, > 0; choose it before looking
    :param alpha: level of each test
    :param pairs: the two have the same seeds, run by run
    :return: the verdict
    :raises ValueError: for a margin that is not positive, or fewer than two runs
    """
    if not margin > 0.0:
        raise ValueError(f"margin={margin}: expected a number > 0, in units of the scores")
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(one.size, other.size) < 2:
        raise ValueError(f"found {one.size} and {other.size} runs, expected at least two of each")
    difference, error, freedom = paired_error(one, other) if pairs else welch_error(one, other)
    if error == 0.0:
        inside = abs(difference) < margin
        return Equivalence(difference, difference, difference, 0.0 if inside else 1.0, margin, inside, 1.0)
    # Imported here, as every library of an extra: the package works without it.
    stats = need("scipy.stats", "lab", "an equivalence test")
    p_low = float(stats.t.sf((difference + margin) / error, freedom))
    p_high = float(stats.t.cdf((difference - margin) / error, freedom))
    half = float(stats.t.ppf(1.0 - alpha, freedom)) * error
    p_value = max(p_low, p_high)
    passes = power(error, freedom, margin=margin, alpha=alpha)
    return Equivalence(difference, difference - half, difference + half, p_value, margin, p_value < alpha, passes)


def paired_error(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    """
    Mean difference of pairs, its standard error, and the degrees of freedom.

    :param first: shape ``(runs,)``
    :param second: shape ``(runs,)``
    :return: difference, error, degrees of freedom
    """
    differences = paired(first, second)
    n = len(differences)
    return float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n), n - 1.0


def welch_error(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    r"""
    Difference of means, its standard error, and Welch's degrees of freedom.

    With :math:`v_i = s_i^2 / n_i`: the error is :math:`\sqrt{v_1 + v_2}`, the degrees of freedom
    :math:`(v_1 + v_2)^2 / (v_1^2/(n_1 - 1) + v_2^2/(n_2 - 1))`.

    :param first: shape ``(runs,)``
    :param second: shape ``(other_runs,)``
    :return: difference, error, degrees of freedom
    """
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in (first, second)]
    total = sum(parts)
    difference = float(first.mean() - second.mean())
    if total == 0.0:
        return difference, 0.0, math.inf
    # Shares first: the square of a tiny variance is 0 in floating point.
    spread = sum((part / total) ** 2 / (len(sample) - 1) for part, sample in zip(parts, (first, second), strict=True))
    return difference, math.sqrt(total), 1.0 / spread
