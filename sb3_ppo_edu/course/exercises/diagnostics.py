"""What the diagnostics of a training say, with faults, and readings that tell these apart."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_ppo_edu.course.exercises.inputs import away_from
from sb3_ppo_edu.course.exercises.observing import Case

FloatArray = npt.NDArray[np.floating]
Faults = frozenset[str]
Rng = np.random.Generator

TOO_FAR, TOO_NEAR = 0.05, 0.003
"""Nats between which the KL divergence of an update lies in a healthy training."""
SILENCED, UNTOUCHED = 0.3, 0.05
"""Clip fractions above which most of an update is lost, and below which clipping plays no part."""


def explained_variance(faults: Faults, values: FloatArray, returns: FloatArray) -> float:
    """
    Compute how much of the returns a critic explains.

    :param values: what it predicted, shape ``(batch,)``
    :param returns: what came of it, shape ``(batch,)``
    :return: 1 − Var(returns − values)/Var(returns); NaN where all returns are equal
    """
    errors = returns - values
    left, total = errors.var(), returns.var()
    if total == 0 and "explained-of-nothing" not in faults:
        return 0.0 if "zero-for-undefined" in faults else float("nan")
    if "squared-correlation" in faults:
        return float(np.corrcoef(values, returns)[0, 1] ** 2)
    if "error-squared-for-variance" in faults:
        left = np.mean(errors**2)
    if "variance-of-predictions" in faults:
        total = values.var()
    if "spread-of-predictions" in faults:
        left = total - values.var()
    if "std-ratio" in faults:
        left, total = np.sqrt(np.abs(left)), np.sqrt(total)
    with np.errstate(divide="ignore", invalid="ignore"):
        unexplained = left / total
    return float(unexplained if "unexplained-share" in faults else 1.0 - unexplained)


def explained_cases(rng: Rng) -> list[Case]:
    """Make critics, good and bad."""

    def case(name: str, values: list[float], returns: list[float]) -> Case:
        return Case(name, {"values": np.array(values), "returns": np.array(returns)})

    returns = rng.normal(20.0, 8.0, size=8).round(1)
    return [
        case("a critic that is roughly right", [1.0, 1.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0]),
        case("right but for a constant", [11.0, 12.0, 13.0, 14.0], [1.0, 2.0, 3.0, 4.0]),
        case("the same value everywhere", [2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]),
        case("worse than a constant", [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]),
        case("much worse than a constant", [9.0, 2.0, 8.0, 1.0], [1.0, 2.0, 3.0, 4.5]),
        case("all returns are equal", [4.0, 5.0, 7.0], [5.0, 5.0, 5.0]),
        case("eight random returns", (returns + rng.normal(1.0, 4.0, size=8)).round(1).tolist(), returns.tolist()),
    ]


def learning_rate_advice(faults: Faults, approx_kl: FloatArray, clip_fraction: FloatArray) -> int:
    """
    Say which way the learning rate should go.

    :param approx_kl: of each update, shape ``(updates,)``
    :param clip_fraction: of each update, shape ``(updates,)``
    :return: −1 for a lower one, 1 for a higher one, 0 where it is not to blame
    """
    if "votes-counted" in faults:
        pairs = zip(approx_kl[:, None], clip_fraction[:, None], strict=True)
        each = [learning_rate_advice(frozenset(), *pair) for pair in pairs]
        return max(sorted(set(each)), key=each.count)
    if "last-update-only" in faults:
        divergence, clipped = approx_kl[-1], clip_fraction[-1]
    elif "peak-for-trend" in faults:
        divergence, clipped = approx_kl.max(), clip_fraction.max()
    elif "mean-for-median" in faults:
        divergence, clipped = approx_kl.mean(), clip_fraction.mean()
    else:
        divergence, clipped = np.median(approx_kl), np.median(clip_fraction)
    if "thresholds-included" in faults:
        divergence = np.nextafter(divergence, 1.0 if divergence >= TOO_FAR else 0.0)
        clipped = np.nextafter(clipped, 0.0)
    if "clip-fraction-alone" in faults:
        advice = -1 if clipped > SILENCED else 1 if clipped < UNTOUCHED else 0
    elif divergence > TOO_FAR:
        advice = -1
    else:
        free = clipped < UNTOUCHED or "silenced-taken-for-slow" in faults
        advice = 1 if divergence < TOO_NEAR and free else 0
    return -advice if "knob-wrong-way" in faults else advice


def reading_cases(rng: Rng) -> list[Case]:
    """Make the diagnostics of trainings: too fast, too slow, silenced, healthy, and with peaks."""

    def case(name: str, approx_kl: list[float], clip_fraction: list[float]) -> Case:
        return Case(name, {"approx_kl": np.array(approx_kl), "clip_fraction": np.array(clip_fraction)})

    def at_random(name: str, divergence: float, clipped: float) -> Case:
        spread = rng.uniform(0.9, 1.1, size=(2, 7))
        return case(name, (divergence * spread[0]).round(6).tolist(), (clipped * spread[1]).round(3).tolist())

    def anywhere(number: int) -> Case:
        # Off the thresholds by a fifth and more, and so far from one another that no other input tells the answer.
        divergence = np.exp(away_from(np.log([TOO_NEAR, TOO_FAR]), rng, np.log(1e-4), np.log(0.5), 3, margin=0.2)[number % 3])
        clipped = away_from([UNTOUCHED, SILENCED], rng, 0.0, 0.7, 3, margin=0.04)[rng.integers(3)]
        return at_random(f"random, number {number + 1}", float(divergence), float(clipped))

    return [
        case("every update leaps", [0.02, 0.09, 0.12, 0.3, 0.08], [0.25, 0.4, 0.45, 0.5, 0.35]),
        case("nothing moves", [1e-6, 2e-6, 1e-6, 3e-6, 2e-6], [0.0, 0.0, 0.0, 0.0, 0.0]),
        case("it wants to move and is clipped", [2e-4, 3e-4, 1e-4, 4e-4, 2e-4], [0.4, 0.5, 0.45, 0.5, 0.4]),
        case("healthy", [0.005, 0.012, 0.008, 0.02, 0.009], [0.06, 0.12, 0.08, 0.2, 0.1]),
        case("healthy, with one peak", [0.01, 0.012, 0.8, 0.009, 0.011], [0.1, 0.11, 0.5, 0.09, 0.1]),
        case("healthy, with a small peak", [0.01, 0.012, 0.07, 0.009, 0.011], [0.1, 0.11, 0.2, 0.09, 0.1]),
        case("it leaps, but for the last update", [0.1, 0.2, 0.15, 0.09, 0.01], [0.3, 0.4, 0.35, 0.3, 0.1]),
        case("nothing moves, with one peak", [1e-5, 1e-5, 0.02, 1e-5, 1e-5], [0.0, 0.0, 0.3, 0.0, 0.0]),
        case("leaps and standstill", [0.07, 0.001, 0.004, 0.06, 0.002], [0.2, 0.01, 0.02, 0.2, 0.02]),
        case("six updates, half of them too fast", [0.01, 0.08, 0.03, 0.1, 0.02, 0.09], [0.1, 0.3, 0.1, 0.3, 0.1, 0.3]),
        case(
            "six updates, half of them a little too fast", [0.01, 0.06, 0.03, 0.1, 0.02, 0.09], [0.1, 0.3, 0.1, 0.3, 0.1, 0.3]
        ),
        case("a KL of exactly 0.05", [0.05] * 5, [0.2, 0.3, 0.2, 0.1, 0.2]),
        case("a KL of exactly 0.003", [0.003] * 5, [0.0, 0.01, 0.0, 0.02, 0.0]),
        case("a clip fraction of exactly 0.05", [0.001, 0.002, 0.001, 0.002, 0.001], [0.05] * 5),
        # Medians on both sides of each threshold, a fifth away from it, which is twice as far as they are spread.
        at_random("random, about 0.06 nats", 0.06, 0.2),
        at_random("random, about 0.04 nats", 0.04, 0.02),
        at_random("random, about 0.01 nats", 0.01, 0.02),
        at_random("random, about 0.0036 nats", 0.0036, 0.02),
        at_random("random, about 0.0024 nats", 0.0024, 0.02),
        at_random("random, about 0.0024 nats, 4 % of it clipped", 0.0024, 0.04),
        at_random("random, about 0.0024 nats, 6 % of it clipped", 0.0024, 0.06),
        at_random("random, about 0.0005 nats, much of it clipped", 5e-4, 0.4),
        *map(anywhere, range(9)),
    ]
