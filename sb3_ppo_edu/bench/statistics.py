"""Intervals of numbers that are estimated from repetitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
"""Bootstrap resamples: the Monte Carlo error of a 95% interval's ends is then small beside the interval."""


def median_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of the median.

    The values are resampled with replacement; the interval leaves out ``(1 - confidence) / 2`` of the resamples' medians at
    either end (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). With five values or fewer that is
    the range from the smallest to the largest.

    :param values: independent repetitions, shape ``(n,)``, n ≥ 1
    :param confidence: in (0, 1)
    :param resamples: number of resamples
    :param seed: of the resampling; the same seed gives the same interval
    :return: lower and upper end
    :raises ValueError: if there are no values
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"values: found shape {sample.shape}, expected (n,) with n ≥ 1")
    drawn = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.median(sample[drawn], axis=1), (tail, 1.0 - tail))
    return float(low), float(high)
