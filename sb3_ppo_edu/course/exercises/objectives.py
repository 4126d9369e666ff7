"""
Losses, objectives and estimates of policy and critic with faults, and inputs that tell them apart.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (notebooks/errata.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_ppo_edu.course.exercises.inputs import away_from, moved, varied, window
from sb3_ppo_edu.course.exercises.observing import Case

FloatArray = npt.NDArray[np.floating]
Faults = frozenset[str]
Rng = np.random.Generator

CLIP = 0.2


def _tensor(numbers: Any) -> th.Tensor:
    """Make a tensor as a network would give it."""
    return th.tensor(np.asarray(numbers), dtype=th.float32)


def _reduced(faults: Faults, losses: th.Tensor) -> th.Tensor:
    """Take the mean over the batch, or fail to."""
    if "not-reduced" in faults:
        return losses
    return losses.sum() if "summed-not-averaged" in faults else losses.mean()


def reinforce_loss(faults: Faults, log_probs: th.Tensor, returns: th.Tensor) -> th.Tensor:
    """
    Compute the loss of REINFORCE.

    :param log_probs: shape ``(batch,)``
    :param returns: shape ``(batch,)``
    :return: scalar
    """
    if "no-gradient" in faults:
        log_probs = log_probs.detach()
    if "probabilities-not-logs" in faults:
        log_probs = log_probs.exp()
    if "product-of-means" in faults:
        log_probs, returns = log_probs.mean().expand_as(log_probs), returns.mean().expand_as(returns)
    loss = _reduced(faults, log_probs * returns)
    if "regression" in faults:
        return _reduced(faults, (log_probs - returns) ** 2)
    return loss if "sign-flipped" in faults else -loss


def reinforce_cases(rng: Rng) -> list[Case]:
    """Make batches of log-probabilities and returns."""

    def case(name: str, log_probs: Any, returns: Any) -> Case:
        return Case(name, {"log_probs": _tensor(log_probs), "returns": _tensor(returns)}, ("log_probs",))

    return [
        case("two actions, one good, one bad", [-0.5, -2.0], [1.0, -1.0]),
        case("a single action", [-1.0], [3.0]),
        case("six random ones", -rng.uniform(0.1, 3.0, size=6).round(2), rng.normal(size=6).round(2)),
    ]


def actor_critic_loss(
    faults: Faults, log_probs: th.Tensor, values: th.Tensor, returns: th.Tensor, vf_coef: float
) -> th.Tensor:
    """
    Compute the loss of an actor-critic that learns from returns.

    :param log_probs: shape ``(batch,)``
    :param values: shape ``(batch, 1)``, as a critic gives them
    :param returns: shape ``(batch,)``
    :param vf_coef: weight of the value loss
    :return: scalar
    """
    if "broadcast" not in faults:
        values = values.squeeze(-1)
    if "no-gradient" in faults:
        log_probs = log_probs.detach()
    advantages = returns - (values if "advantage-not-detached" in faults else values.detach())
    if "advantage-sign" in faults:
        advantages = -advantages
    if "critic-detached" in faults:
        values = values.detach()
    policy_loss = -_reduced(faults, log_probs * advantages)
    value_loss = _reduced(faults, (returns - values) ** 2)
    if "factor-half" in faults:
        value_loss = 0.5 * value_loss
    if "vf-coef-missing" not in faults:
        value_loss = vf_coef * value_loss
    return policy_loss - value_loss if "value-sign" in faults else policy_loss + value_loss


def actor_critic_cases(rng: Rng) -> list[Case]:
    """Make batches as a rollout and a critic give them."""

    def case(name: str, log_probs: Any, values: Any, returns: Any, vf_coef: float = 0.5) -> Case:
        arguments = {
            "log_probs": _tensor(log_probs),
            "values": _tensor(values)[:, None],
            "returns": _tensor(returns),
            "vf_coef": vf_coef,
        }
        return Case(name, arguments, ("log_probs", "values"))

    return [
        case("two actions", [-0.5, -2.0], [1.0, 2.0], [2.0, 1.5]),
        case("a single action", [-1.0], [0.0], [3.0]),
        several := case("six random ones", -rng.uniform(0.1, 3.0, size=6), rng.normal(size=6), rng.normal(size=6)),
        varied(several, vf_coef=0.25),
    ]


def probability_ratio(faults: Faults, log_probs: th.Tensor, old_log_probs: th.Tensor) -> th.Tensor:
    """
    Compute the ratio of new and old probability.

    :param log_probs: shape ``(batch,)``
    :param old_log_probs: shape ``(batch,)``
    :return: shape ``(batch,)``
    """
    if "old-not-detached" not in faults:
        old_log_probs = old_log_probs.detach()
    if "no-gradient" in faults:
        log_probs = log_probs.detach()
    log_ratio = log_probs / old_log_probs if "ratio-of-log-probs" in faults else log_probs - old_log_probs
    if "ratio-inverted" in faults:
        log_ratio = -log_ratio
    return log_ratio if {"ratio-not-exponentiated", "ratio-of-log-probs"} & faults else log_ratio.exp()


def ratio_cases(rng: Rng) -> list[Case]:
    """Make log-probabilities of two policies, both with a graph behind them."""

    def case(name: str, log_probs: Any, old_log_probs: Any) -> Case:
        arguments = {"log_probs": _tensor(log_probs), "old_log_probs": _tensor(old_log_probs)}
        return Case(name, arguments, ("log_probs", "old_log_probs"))

    old = -rng.uniform(0.2, 3.0, size=6).round(2)
    return [
        case("equal policies", [-0.5, -1.0, -2.0], [-0.5, -1.0, -2.0]),
        case("an action twice and one half as likely", np.log([0.6, 0.2]), np.log([0.3, 0.4])),
        several := case("six random ones", old + rng.normal(0.0, 0.3, size=6).round(2), old),
        moved(several, "log_probs", 2),
    ]


def _surrogate(faults: Faults, ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """Compute the clipped surrogate objective of each transition."""
    if "advantage-absolute" in faults:
        advantages = advantages.abs()
    low: float | None = 1.0 - clip_range
    high: float | None = 1.0 + clip_range
    if "clip-around-zero" in faults:
        low, high = -clip_range, clip_range
    if "clip-above-only" in faults:
        low = None
    if "clip-below-only" in faults:
        high = None
    unclipped = ratio * advantages
    if "clip-bounds-swapped" in faults:
        low, high = high, low
    if "clip-the-product" in faults:
        clipped = th.clamp(unclipped, low, high)
    elif "clip-the-advantage" in faults:
        clipped = ratio * th.clamp(advantages, low, high)
    else:
        clipped = th.clamp(ratio, low, high) * advantages
    if "smaller-ratio" in faults:
        return th.min(ratio, th.clamp(ratio, low, high)) * advantages
    if "only-clipped" in faults:
        return clipped
    if "not-clipped" in faults:
        return unclipped
    return th.max(unclipped, clipped) if "max-for-min" in faults else th.min(unclipped, clipped)


def clipped_objective(faults: Faults, ratio: th.Tensor, advantages: th.Tensor, clip_range: float) -> th.Tensor:
    """
    Compute the clipped surrogate objective, transition by transition.

    :param ratio: shape ``(batch,)``
    :param advantages: shape ``(batch,)``
    :param clip_range: ε
    :return: shape ``(batch,)``
    """
    objective = _surrogate(faults, ratio, advantages, clip_range)
    if "objective-not-loss" in faults:
        objective = -objective
    return objective.mean() if "averaged-too-early" in faults else objective


def clipped_cases(rng: Rng) -> list[Case]:
    """Make ratios on all sides of the window, for good and bad actions."""

    def case(name: str, ratio: Any, advantages: Any, clip_range: float = CLIP) -> Case:
        return Case(name, {"ratio": _tensor(ratio), "advantages": _tensor(advantages), "clip_range": clip_range}, ("ratio",))

    return [
        case("a good action", [0.5, 0.9, 1.0, 1.1, 1.5], [2.0] * 5),
        case("a bad action", [0.5, 0.9, 1.0, 1.1, 1.5], [-2.0] * 5),
        several := case("ten random ones, ε = 0.3", *on_all_sides(rng, 0.3, 0.1), 0.3),
        varied(several, clip_range=0.1),
        moved(several, "advantages", 3, by=float(several.arguments["advantages"][3].sign())),
    ]


def on_all_sides(rng: Rng, *clip_ranges: float) -> tuple[FloatArray, FloatArray]:
    """
    Draw ratios on all sides of some windows, each with an advantage above 0 and one below, none near a kink of the objective.

    :param clip_ranges: the two ε
    :return: ten ratios and advantages
    """
    # Five sides of two windows and two signs: ten pairs before one comes again.
    return away_from(window(*clip_ranges), rng, 0.4, 1.8, 10), away_from([0.0], rng, -2.0, 2.0, 10, margin=0.2)


def policy_loss(
    faults: Faults, log_probs: th.Tensor, old_log_probs: th.Tensor, advantages: th.Tensor, clip_epsilon: float
) -> th.Tensor:
    """
    Compute the policy loss of PPO.

    :param log_probs: shape ``(batch,)``
    :param old_log_probs: shape ``(batch,)``
    :param advantages: shape ``(batch,)``
    :param clip_epsilon: ε
    :return: scalar
    """
    # Constants of the buffer here: whether they are detached once more makes no difference.
    ratio = probability_ratio(faults, log_probs, old_log_probs)
    if "clip-log-ratio" in faults:
        clipped = th.clamp(log_probs - old_log_probs, -clip_epsilon, clip_epsilon).exp()
        objective = th.min(ratio * advantages, clipped * advantages)
    else:
        objective = _surrogate(faults, ratio, advantages, clip_epsilon)
    loss = _reduced(faults, objective)
    return loss if "sign-flipped" in faults else -loss


def policy_cases(rng: Rng) -> list[Case]:
    """Make minibatches."""

    def case(name: str, log_probs: Any, old_log_probs: Any, advantages: Any, clip_epsilon: float = CLIP) -> Case:
        arguments = {
            "log_probs": _tensor(log_probs),
            "old_log_probs": _tensor(old_log_probs),
            "advantages": _tensor(advantages),
            "clip_epsilon": clip_epsilon,
        }
        return Case(name, arguments, ("log_probs",))

    ratios = np.array([0.5, 0.9, 1.0, 1.1, 1.5])
    old = -rng.uniform(0.2, 3.0, size=10).round(2)
    moved, advantages = on_all_sides(rng, 0.3, 0.1)
    return [
        # Old log-probabilities other than the activity's zeros, whose quotient nobody could tell from a division by zero.
        case("the activity's three transitions", [-1.0, -0.9, -1.1], [-1.0, -1.0, -1.0], [1.0, 1.0, -1.0]),
        case("good actions, ratios from 0.5 to 1.5", np.log(ratios) - 1.0, -np.ones(5), [2.0] * 5),
        case("bad actions, ratios from 0.5 to 1.5", np.log(ratios) - 1.0, -np.ones(5), [-2.0] * 5),
        several := case("ten random ones, ε = 0.3", old + np.log(moved), old, advantages, 0.3),
        varied(several, clip_epsilon=0.1),
    ]


def clipped_value_loss(
    faults: Faults, values: th.Tensor, old_values: th.Tensor, returns: th.Tensor, clip_range_vf: float
) -> th.Tensor:
    """
    Compute the lecture's clipped value loss.

    :param values: shape ``(batch,)``
    :param old_values: shape ``(batch,)``
    :param returns: shape ``(batch,)``
    :param clip_range_vf: ε of the value
    :return: scalar
    """
    centre = old_values
    if "value-clip-around-zero" in faults:
        centre = th.zeros_like(old_values)
    if "value-clip-around-return" in faults:
        centre = returns
    clipped = centre + th.clamp(values - centre, -clip_range_vf, clip_range_vf)
    if "value-window-as-of-ratio" in faults:
        clipped = th.max(th.min(values, (1 + clip_range_vf) * old_values), (1 - clip_range_vf) * old_values)

    def error(prediction: th.Tensor) -> th.Tensor:
        return (prediction - returns).abs() if "absolute-error" in faults else (prediction - returns) ** 2

    losses = th.max(error(values), error(clipped))
    if "value-clip-min" in faults:
        losses = th.min(error(values), error(clipped))
    if "value-clip-no-max" in faults:
        losses = error(clipped)
    if "value-not-clipped" in faults:
        losses = error(values)
    if "factor-half" in faults:
        losses = 0.5 * losses
    loss = _reduced(faults, losses)
    return -loss if "sign-flipped" in faults else loss


def value_cases(rng: Rng) -> list[Case]:
    """Make values that have moved towards the return and away from it, within the window and beyond."""

    def case(name: str, values: Any, old_values: Any, returns: Any, clip_range_vf: float = CLIP) -> Case:
        arguments = {
            "values": _tensor(values),
            "old_values": _tensor(old_values),
            "returns": _tensor(returns),
            "clip_range_vf": clip_range_vf,
        }
        return Case(name, arguments, ("values",))

    old = rng.normal(2.0, 1.0, size=10)
    change = away_from([-0.5, -0.2, 0.2, 0.5], rng, -1.5, 1.5, 10, margin=0.03)
    # The two errors are equal where the return lies half-way between the value and the clipped one.
    ties = np.stack([(change + np.clip(change, -window, window)) / 2 for window in (0.5, 0.2)], axis=1)
    aims = [away_from(kinks, rng, -2.0, 2.0, 3, margin=0.05)[i % 3] for i, kinks in enumerate(np.sort(ties))]
    return [
        case("within the window", [1.1, 0.95], [1.0, 1.0], [2.0, 2.0]),
        case("beyond the window, towards the return", [1.5, 1.8], [1.0, 1.0], [2.0, 2.0]),
        case("beyond the window, away from the return", [0.2, 0.5], [1.0, 1.0], [2.0, 2.0]),
        several := case("ten random ones, ε = 0.5", old + change, old, old + aims, 0.5),
        varied(several, clip_range_vf=0.2),
    ]


def approx_kl(faults: Faults, log_probs: th.Tensor, old_log_probs: th.Tensor) -> th.Tensor:
    """
    Estimate KL(old ‖ new) by k3.

    :param log_probs: shape ``(batch,)``
    :param old_log_probs: shape ``(batch,)``
    :return: scalar
    """
    log_ratio = log_probs - old_log_probs
    if "kl-direction" in faults:
        log_ratio = -log_ratio
    ratio = log_ratio if "kl-ratio-not-exponentiated" in faults else log_ratio.exp()
    estimates = (ratio - 1) - log_ratio
    if "kl-k1" in faults:
        estimates = -log_ratio
    if "kl-k2" in faults:
        estimates = 0.5 * log_ratio**2
    estimate = _reduced(faults, estimates)
    return -estimate if "kl-sign" in faults else estimate


def kl_cases(rng: Rng) -> list[Case]:
    """Make log-probabilities of two policies."""

    def case(name: str, log_probs: Any, old_log_probs: Any) -> Case:
        return Case(name, {"log_probs": _tensor(log_probs), "old_log_probs": _tensor(old_log_probs)})

    old = -rng.uniform(0.2, 3.0, size=8).round(2)
    return [
        case("equal policies", [-0.5, -1.0], [-0.5, -1.0]),
        case("a single action", [-0.7], [-1.2]),
        case("both actions have become likelier", np.log([0.6, 0.3]), np.log([0.3, 0.2])),
        case("eight random ones", old + rng.normal(0.0, 0.5, size=8).round(2), old),
    ]


def clip_fraction(faults: Faults, ratio: th.Tensor, clip_range: float) -> th.Tensor:
    """
    Compute the share of ratios outside of the window.

    :param ratio: shape ``(batch,)``
    :param clip_range: ε
    :return: scalar
    """
    outside = (ratio - 1.0 > clip_range) if "fraction-one-sided" in faults else (ratio - 1.0).abs() > clip_range
    if "log-ratio-compared" in faults:
        outside = ratio.log().abs() > clip_range
    if "fraction-inside" in faults:
        outside = ~outside
    return outside.float().sum() if "count-not-fraction" in faults else outside.float().mean()


def fraction_cases(rng: Rng) -> list[Case]:
    """Make ratios, some of them between 1 ± ε and exp(±ε), which are different windows."""
    ratio = away_from(np.sort([*window(0.2, 0.3), np.exp(-0.3), np.exp(0.3)]), rng, 0.4, 1.8, 24, margin=0.01)
    # All sides of the windows, and more of some: whoever has seen the fraction of other inputs does not know this one's.
    ratio = ratio[(np.arange(24) < 12) | (rng.random(24) < 0.5)]
    return [
        Case("none outside", {"ratio": _tensor([0.9, 1.0, 1.1]), "clip_range": CLIP}),
        Case("all have become likelier", {"ratio": _tensor([1.05, 1.1, 1.15, 1.5, 1.6]), "clip_range": CLIP}),
        Case("one above, two below", {"ratio": _tensor([0.5, 0.7, 1.0, 1.5, 1.1]), "clip_range": CLIP}),
        several := Case("random ones, ε = 0.3", {"ratio": _tensor(ratio), "clip_range": 0.3}),
        varied(several, clip_range=0.2),
    ]


def total_loss(
    faults: Faults, policy: th.Tensor, value: th.Tensor, entropy: th.Tensor, vf_coef: float, ent_coef: float
) -> th.Tensor:
    """
    Add up the three parts of PPO's loss.

    :param policy: the policy loss, scalar
    :param value: the value loss, scalar
    :param entropy: the mean entropy, scalar
    :param vf_coef: weight of the value loss
    :param ent_coef: weight of the entropy
    :return: scalar
    """
    if "coefficients-swapped" in faults:
        vf_coef, ent_coef = ent_coef, vf_coef
    if "coefficients-missing" in faults:
        vf_coef = ent_coef = 1.0
    vf_coef = -vf_coef if "value-sign" in faults else vf_coef
    ent_coef = -ent_coef if "entropy-bonus-sign" in faults else ent_coef
    loss = policy + vf_coef * value - ent_coef * entropy
    return -loss if "sign-flipped" in faults else loss


def total_cases(rng: Rng) -> list[Case]:
    """Make the three parts."""

    def case(name: str, parts: Any, vf_coef: float, ent_coef: float) -> Case:
        names = ("policy_loss", "value_loss", "entropy")
        arguments: dict[str, Any] = {name: _tensor(part) for name, part in zip(names, parts, strict=True)}
        return Case(name, {**arguments, "vf_coef": vf_coef, "ent_coef": ent_coef}, names)

    return [
        case("the lecture's coefficients", [-0.1, 2.0, 1.4], 0.5, 0.01),
        several := case("other coefficients", rng.normal(size=3).round(2) + 0.5, 0.25, 0.1),
        varied(several, vf_coef=1.5),
        varied(several, ent_coef=0.3),
    ]
