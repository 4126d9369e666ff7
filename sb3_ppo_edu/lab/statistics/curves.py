"""What a learning curve says: the lecture's own measures of a benchmark.

A curve is the mean return of an evaluation after each of some numbers of environment steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def curve(steps: ArrayLike, returns: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """
    Check a learning curve.

    :param steps: environment steps of each evaluation, ascending, shape ``(n,)``
    :param returns: mean return of each, shape ``(n,)``
    :return: both as arrays
    :raises ValueError: if they are empty, differ in length, or the steps do not ascend
    """
    at, values = np.asarray(steps, dtype=np.int64), np.asarray(returns, dtype=np.float64)
    if at.ndim != 1 or at.shape != values.shape or not len(at):
        raise ValueError(f"found steps of shape {at.shape} and returns of shape {values.shape}, expected the same (n,), n ≥ 1")
    if np.any(np.diff(at) <= 0):
        raise ValueError(f"steps={at.tolist()}: expected ascending numbers")
    return at, values


def coefficient_of_variation(returns: ArrayLike) -> float:
    r"""
    Spread over seeds relative to the mean, :math:`s / |\bar x|` with n − 1 in s: the lecture's training stability.

    It says little where the mean is near 0 or a return's zero is arbitrary, as Pendulum's.

    :param returns: final returns, one for each seed, shape ``(n,)``, n ≥ 2
    :return: the coefficient; infinity if the mean is 0 and the returns differ
    :raises ValueError: if there are fewer than two
    """
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"returns: found shape {values.shape}, expected (n,) with n ≥ 2")
    spread, size = float(values.std(ddof=1)), abs(float(values.mean()))
    if spread == 0.0:
        return 0.0
    return spread / size if size > 0.0 else float("inf")


def steps_to_threshold(steps: ArrayLike, returns: ArrayLike, threshold: float, *, lasting: int = 1) -> int | None:
    """
    Environment steps until a threshold is reached: the lecture's sample efficiency.

    :param steps: of each evaluation, shape ``(n,)``
    :param returns: mean return of each
    :param threshold: return that counts as reached
    :param lasting: evaluations in a row that must reach it; 1 counts a lucky one too
    :return: steps of the first of them, or None if there are none
    :raises ValueError: if ``lasting`` is not positive
    """
    if lasting < 1:
        raise ValueError(f"lasting={lasting}: expected an integer ≥ 1")
    at, values = curve(steps, returns)
    reached = values >= threshold
    for start in range(len(at) - lasting + 1):
        if reached[start : start + lasting].all():
            return int(at[start])
    return None


def early_improvement(steps: ArrayLike, returns: ArrayLike, *, share: float = 0.25) -> float:
    """
    How monotonic early training is: the share of its evaluations that are not worse than the one before.

    Early is the first ``share`` of the steps, and at least the first two evaluations. Evaluations are noisy, so 1.0 is not to
    be expected; a curve that goes nowhere has about 0.5.

    :param steps: of each evaluation, shape ``(n,)``, n ≥ 2
    :param returns: mean return of each
    :param share: in (0, 1]
    :return: in [0, 1]
    :raises ValueError: if there are fewer than two evaluations
    """
    at, values = curve(steps, returns)
    if len(at) < 2:
        raise ValueError("found one evaluation, expected at least two")
    early = values[: max(2, int(np.searchsorted(at, share * at[-1], side="right")))]
    return float(np.mean(np.diff(early) >= 0.0))


def forgetting(steps: ArrayLike, returns: ArrayLike) -> float:
    """
    How much of what was learned is gone at the end: best minus final.

    :param steps: of each evaluation, shape ``(n,)``
    :param returns: mean return of each
    :return: in units of the return, ≥ 0; noise of the evaluations makes it positive for any curve
    """
    _, values = curve(steps, returns)
    return float(values.max() - values[-1])


def same_bits(fingerprints: list[str]) -> bool:
    """
    Tell whether repetitions of one run, seed included, ended with the same bits.

    :param fingerprints: of the final parameters, at least two
    :return: True if all are equal
    :raises ValueError: if there are fewer than two
    """
    if len(fingerprints) < 2:
        raise ValueError(f"found {len(fingerprints)} fingerprint, expected at least two runs with the same seed")
    return len(set(fingerprints)) == 1
