"""
The symptoms: each a pure function of a record, and one table, :data:`SYMPTOMS`, of all of them.

A symptom is looked for only in a record that has what it needs; otherwise it is *not examined*, which is not the same as
healthy. Positions beyond a range are judged on a logarithmic scale, see :func:`~sb3_ppo_edu.doctor.findings.beyond`.

Where one thing is wrong, metrics no longer show what another setting does. There a setting is judged by itself, from one and a
half to five times beyond its usual range on (calibration, as below; the usual ranges have the sources of their symptoms).

Sources: the *lecture* (KL below 0.05, clip fraction 0.1 to 0.3, gradient norm 0.1 to 10), the *activity* (its six problems),
the PPO paper (https://arxiv.org/abs/1707.06347), Andrychowicz et al. 2020 (https://arxiv.org/abs/2006.05990), RL Baselines3
Zoo's tuned settings, and *calibration*: trainings of ``benchmarks/doctor``, on seeds that its trial does not use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sb3_ppo_edu.doctor.findings import (
    MIN_UPDATES,
    Band,
    Change,
    Evidence,
    Finding,
    Symptom,
    beyond,
    current,
    evidence_of,
    find,
    median,
    show,
)
from sb3_ppo_edu.doctor.record import Record

KL, CLIP = "train/approx_kl", "train/clip_fraction"
RETURN, LENGTH, EVALUATED = "rollout/ep_rew_mean", "rollout/ep_len_mean", "eval/mean_reward"
EXPLAINED = "train/explained_variance"

USUAL_RATE = 1e-4
"""A learning rate from which on small steps have another reason; RL Baselines3 Zoo's are 3e-5 to 1e-3."""

NARROW = 0.01
"""Standard deviation below which log-probabilities in float32 are rounding more than number."""

STANDARD_ERRORS = 4.0
"""Of evaluations, by which they have to lie behind: with four of them, chance gets there once in seventy times."""

LECTURE_KL = 0.05
LECTURE_CLIP = 0.3
SB3_MAX_GRAD_NORM = 0.5

# --------------------------------------------------------------------------------------------------------------------------
# What several symptoms look at
# --------------------------------------------------------------------------------------------------------------------------


def epochs_per_update(record: Record) -> float | None:
    """
    Work out how many epochs the updates had, from what was counted.

    :param record: the record
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
    Work out how many transitions a rollout has.

    :param record: the record
    :return: transitions, or None if iterations were not counted
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

    :param record: the record
    :return: median standard deviation; where it was not logged, worked out of value loss and explained variance
    """
    if record.has("train/return_std"):
        return median(record, "train/return_std", 0.1)
    unexplained = 1.0 - min(median(record, EXPLAINED, 0.1), 0.99)
    # A loss below 0 is none, and a negative share can't be left unexplained: such a record says nothing of the scale.
    squared = median(record, "train/value_loss", 0.1) / unexplained
    return math.sqrt(squared) if squared >= 0 else math.nan


def progress(record: Record) -> tuple[float, float, float, float]:
    """
    Sum up the learning curve.

    :param record: the record
    :return: return at the start, at its peak and at the end, each the mean of a tenth of the record, and its noise
    """
    values = record.values(RETURN)
    window = max(len(values) // 10, 1)
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    noise = float(np.abs(np.diff(values)).mean()) if len(values) > 1 else 0.0
    return float(means[0]), float(means.max()), float(means[-1]), noise


def gained(record: Record) -> float:
    """
    Say how much of the return at the start has been gained.

    :param record: the record
    :return: gain from start to end over the size of the return at the start
    """
    start, _, end, noise = progress(record)
    return (end - start) / max(abs(start), noise, 1e-8)


BY_ITSELF = 0.65
"""The most that a setting is trusted with by itself: less than a metric, more than an outcome."""


def unusual(name: str, key: str, limit: float, extreme: float, usual: str) -> Callable[[Record], Finding | None]:
    """
    Judge a setting by itself, whatever the metrics say: in an ill training they can't acquit it.

    A thousandfold reward, for one, takes all of the gradient's norm, so that the policy hardly moves at any learning rate.

    :param name: of the symptom
    :param key: of the setting, by the name of EduPPO's argument
    :param limit: value from which on it is suspected
    :param extreme: value at which it is suspected as much as can be
    :param usual: the usual range, in words
    :return: what finds it in a record, see :attr:`Symptom.unusual`
    """

    def suspect(record: Record) -> Finding | None:
        value = current(record, key)
        if value is None and key == "n_epochs":
            value = epochs_per_update(record)
        if value is None:
            return None
        logged = f"train/{key}" if record.has(f"train/{key}") else f"settings/{key}"
        evidence = evidence_of(record, logged, f"{show(value)}, usual {usual}")
        return find(name, beyond(value, limit, extreme), evidence, most=BY_ITSELF)

    return suspect


# --------------------------------------------------------------------------------------------------------------------------
# Steps of the policy
# --------------------------------------------------------------------------------------------------------------------------


def learning_rate_too_high(record: Record) -> Finding | None:
    """Find updates that move the policy too far: KL and clip fraction are both high."""
    # A policy that has collapsed has no KL any more: the beginning counts as much as the rest, and a collapse counts too.
    kl, clip = (max(median(record, key, 0.0, 0.3), median(record, key, 0.1)) for key in (KL, CLIP))
    rate = current(record, "learning_rate")
    if rate is not None and rate <= 1e-3 and median(record, "train/std", 0.5) < 0.1:
        # Between narrow Gaussians a usual step is far: what is wrong is that they are narrow.
        return None
    texts = [
        evidence_of(record, KL, f"median {show(kl)} nats, healthy below {LECTURE_KL}"),
        evidence_of(record, CLIP, f"median {show(clip)}, healthy below {LECTURE_CLIP}"),
    ]
    position = max(min(beyond(kl, LECTURE_KL, 0.3), beyond(clip, LECTURE_CLIP, 0.55)), beyond(kl, 0.12, 1.0))
    if rate is not None and rate > 1e-3:
        # Where KL and clip fraction are healthy by themselves, it is the rate that tells.
        place = 0 if position < 0 else len(texts)
        texts.insert(place, evidence_of(record, "train/learning_rate", f"{show(rate)}, usual 1e-5 to 1e-3"))
        position = position if position < 0 else min(position + 0.3 * beyond(rate, 1e-3, 1e-2), 1.0)
        # An unusual rate needs less of a KL to be the cause.
        position = max(position, min(beyond(rate, 2e-3, 2e-2), beyond(kl, 0.025, 0.1)))
        if record.has("train/entropy_loss") and is_discrete(record):
            entropy = entropy_of(record)
            left = float(np.median(entropy[len(entropy) // 4 :])) / max(float(entropy.max()), 1e-9)
            if left < 0.1:
                texts.append(evidence_of(record, "train/entropy_loss", f"only {left:.1%} of the entropy is left"))
                position = max(position, beyond(rate, 1e-3, 1e-2))
    # With a mild rate, it is the number of passes that carries the policy away.
    most = 0.7 if rate is not None and rate <= 1e-3 and (epochs_per_update(record) or 0) > 20 else 1.0
    return find("learning-rate-too-high", position, *texts, most=most)


def learning_rate_too_low(record: Record) -> Finding | None:
    """Find updates that hardly move the policy: even the larger ones of them have a tiny KL, and nothing is clipped."""
    kl = float(np.quantile(record.values(KL), 0.75))
    clip = float(np.quantile(record.values(CLIP), 0.75))
    position = min(beyond(kl, 4e-4, 2e-5), beyond(max(clip, 1e-9), 6e-3, 5e-4))
    texts = [
        evidence_of(record, KL, f"three updates of four below {show(kl)} nats, healthy above 0.003"),
        evidence_of(record, CLIP, f"three updates of four below {show(clip)}, healthy above 0.05"),
    ]
    rate = current(record, "learning_rate")
    if rate is not None:
        if rate > 1e-3:
            # Then it is a policy that has been thrown into a corner, and moves no more.
            return None
        if rate >= USUAL_RATE and reward_never_seen(record) is not None:
            # There is nothing to move towards.
            return None
        texts.append(evidence_of(record, "train/learning_rate", f"{show(rate)}, usual 1e-5 to 1e-3"))
    # Where the rate is a usual one, something else holds the policy.
    return find("learning-rate-too-low", position, *texts, most=0.65 if rate is not None and rate >= USUAL_RATE else 1.0)


def clip_range_too_tight(record: Record) -> Finding | None:
    """Find a clip range so narrow that many ratios leave it although the policy hardly moves."""
    clip_range = median(record, "train/clip_range", 0.0, 0.3)
    kl, clip = median(record, KL), median(record, CLIP)
    position = min(beyond(clip_range, 0.06, 0.02), max(beyond(clip, 0.3, 0.5), beyond(kl, 3e-3, 5e-4)))
    return find(
        "clip-range-too-tight",
        position,
        evidence_of(record, "train/clip_range", f"{show(clip_range)}, usual 0.1 to 0.3"),
        evidence_of(record, CLIP, f"median {show(clip)} although the KL is only {show(kl)} nats"),
    )


def clip_range_too_loose(record: Record) -> Finding | None:
    """Find a clip range so wide that it no longer holds the policy: the KL is high, and the ratios go unclipped."""
    # One update is enough to throw the policy into a corner, where nothing moves any more.
    clip_range, kl = median(record, "train/clip_range", 0.0, 0.3), median(record, KL, 0.1)
    farthest = float(record.values(KL, 0.0, 0.3).max())
    clipped = show(median(record, CLIP, 0.1))
    text = f"median {show(kl)} nats, at first up to {show(farthest)}, with only {clipped} of the ratios clipped"
    return find(
        "clip-range-too-loose",
        min(beyond(clip_range, 0.45, 0.9), max(beyond(kl, 0.02, 0.06), beyond(farthest, 0.1, 0.3))),
        evidence_of(record, "train/clip_range", f"{show(clip_range)}, usual 0.1 to 0.3"),
        evidence_of(record, KL, text),
    )


def too_many_epochs(record: Record) -> Finding | None:
    """Find updates that go over the same data too often: many passes, and KL far above that of the first one."""
    epochs, kl = epochs_per_update(record), median(record, KL, 0.1)
    if epochs is None:
        return None
    texts = [
        evidence_of(record, "train/n_updates", f"{show(epochs)} epochs in an update, usual 3 to 20"),
        evidence_of(record, KL, f"median {show(kl)} nats in the last epoch, healthy below {LECTURE_KL}"),
    ]
    position = min(beyond(epochs, 22, 40), max(beyond(kl, 0.02, 0.06), beyond(median(record, CLIP, 0.1), 0.2, 0.35)))
    if record.has("train/kl_first_epoch"):
        first = median(record, "train/kl_first_epoch", 0.1)
        texts.append(evidence_of(record, "train/kl_first_epoch", f"median {show(first)} nats in the first epoch"))
        if position < 0:
            # What rises within an update from next to nothing is fitted to the rollout, even where it stays below the limit.
            rises = min(beyond(epochs, 30, 60), beyond(kl / max(first, 1e-9), 8.0, 40.0), beyond(kl, 4e-3, 2e-2))
            return find("too-many-epochs", rises, *texts, most=0.6)
    return find("too-many-epochs", position, *texts)


def kl_stop_every_time(record: Record, end: float = 1.0) -> Finding | None:
    """
    Find a KL rule that ends nearly every update in its first epoch.

    :param record: the record
    :param end: where the part of it ends that is looked at
    :return: the finding, or None
    """
    if record.has("train/early_stop_epoch"):
        stopped = record.values("train/early_stop_epoch", 0.0, end)
        if (current(record, "n_epochs") or 2) < 2:
            return None
        share, key = float((stopped == 0).mean()), "train/early_stop_epoch"
    else:
        if record.number("target_kl") is None or (record.number("n_epochs") or 1) < 2:
            return None
        epochs = epochs_per_update(record)
        share, key = float(epochs is not None and epochs <= 1), "train/n_updates"
    text = f"{share:.0%} of the updates end in their first epoch, healthy below half of them"
    return find("kl-stop-every-time", beyond(share, 0.7, 0.95), evidence_of(record, key, text), most=0.8)


def target_kl_too_small(record: Record) -> Finding | None:
    """Find a limit of the KL so small that a usual step already breaks it."""
    target = record.number("target_kl")
    # A policy that has been thrown into a corner has no KL any more: then the beginning tells.
    stop = kl_stop_every_time(record) or kl_stop_every_time(record, 0.3)
    if target is None or stop is None:
        return None
    text = f"{show(target)} nats, usual 0.01 to 0.05"
    return find(
        "target-kl-too-small", beyond(target, 5e-3, 1e-3), evidence_of(record, "settings/target_kl", text), *stop.evidence
    )


def ratio_not_one(record: Record) -> Finding | None:
    """Find ratios that are not 1 before the first step, where old and new policy are the same."""
    ratios = record.columns["train/ratio_first"]
    if record.has("train/std"):
        # A narrow Gaussian's log-probability is a square over its variance: of 1e-6, float32 leaves nothing certain.
        ratios = np.where(record.columns["train/std"] < NARROW, math.nan, ratios)
    ratios = ratios[np.isfinite(ratios)]
    away = float(np.abs(ratios - 1.0).max()) if len(ratios) else 0.0
    text = f"up to {show(away)} away from 1 on the first minibatch of an update, where it must be 1 to rounding"
    return find("ratio-not-one", beyond(away, 5e-3, 5e-2), evidence_of(record, "train/ratio_first", text))


# --------------------------------------------------------------------------------------------------------------------------
# Exploration
# --------------------------------------------------------------------------------------------------------------------------


def entropy_of(record: Record) -> np.ndarray:
    """
    Give the policy's entropy.

    :param record: the record
    :return: mean entropy of each update, in nats
    """
    return -record.values("train/entropy_loss")


def is_discrete(record: Record) -> bool:
    """
    Tell whether the actions are discrete: only Gaussian policies log a standard deviation.

    :param record: the record
    :return: whether no standard deviation was logged and no entropy is negative
    """
    return not record.has("train/std") and bool((entropy_of(record) >= 0).all())


def entropy_collapse(record: Record) -> Finding | None:
    """Find a policy that has become certain early, at a return that it does not better afterwards."""
    entropy = entropy_of(record)
    start = float(entropy[: max(len(entropy) // 20, 1)].mean())
    early = float(np.median(entropy[len(entropy) // 3 : max(len(entropy) // 2, len(entropy) // 3 + 1)]))
    if is_discrete(record):
        position = beyond(max(early, 1e-12) / max(start, 1e-9), 0.15, 0.01)
        text = f"{show(early)} nats before half of the training, {early / max(start, 1e-9):.1%} of what it began with"
    elif record.has("train/std"):
        std, at_first = median(record, "train/std", 1 / 3, 1 / 2), float(record.values("train/std")[0])
        position = beyond(std, 0.12, 0.02)
        text = f"a standard deviation of {show(std)} before half of the training; it began at {show(at_first)}"
    else:
        return None
    coefficient = current(record, "ent_coef")
    texts = [evidence_of(record, "train/entropy_loss", text)]
    if coefficient is not None and coefficient < 0:
        # A sign that was mixed up is a fault before it has done its work.
        position = max(position, beyond(-coefficient, 0.05, 0.5))
        texts.insert(0, evidence_of(record, "train/ent_coef", f"{show(coefficient)}: it pays for certainty"))
        return find("entropy-collapse", position, *texts)
    # A policy that has solved its task is certain too: it goes on to rise, or stands at its peak.
    if record.has(RETURN, 4):
        values = record.values(RETURN)
        then, (start_return, peak, end, noise) = float(values[len(values) // 3 :][:3].mean()), progress(record)
        if end - then > max(0.1 * abs(then), 2 * noise) or (peak - start_return > abs(start_return) and end > 0.9 * peak > 0):
            return None
    return find("entropy-collapse", position, *texts, most=0.9)


def entropy_bonus_too_large(record: Record) -> Finding | None:
    """Find an entropy bonus that outweighs the return: the entropy does not fall, or the standard deviation grows."""
    coefficient = current(record, "ent_coef")
    entropy = entropy_of(record)
    start, end = float(entropy[: max(len(entropy) // 20, 1)].mean()), float(np.median(entropy[len(entropy) // 2 :]))
    if is_discrete(record):
        stays = beyond(end / max(start, 1e-9), 0.93, 0.99)
        text = f"entropy {show(end)} nats in the second half, {end / max(start, 1e-9):.0%} of what it began with"
    else:
        stays = beyond(math.exp(min(end - start, 50.0)), 1.0, 1.5)
        text = f"entropy {show(end)} nats in the second half, of {show(start)} at the start"
    texts = [evidence_of(record, "train/entropy_loss", text)]
    if coefficient is None:
        # Without the weight, an entropy that does not fall may have other causes; one that grows has few.
        return find("entropy-bonus-too-large", beyond(math.exp(min(end - start, 50.0)), 1.3, 4.0), *texts, most=0.7)
    texts.insert(0, evidence_of(record, "train/ent_coef", f"{show(coefficient)}, usual 0 to 0.02"))
    return find("entropy-bonus-too-large", min(beyond(coefficient, 0.04, 0.2), stays), *texts)


def std_explodes(record: Record) -> Finding | None:
    """Find a standard deviation that grows beyond what the actions can use."""
    start, end = float(record.values("train/std")[0]), median(record, "train/std", 0.8)
    text = f"{show(end)} at the end, of {show(start)} at the start; healthy 0.1 to 1, and falling"
    return find(
        "std-explodes",
        min(beyond(end, 2.0, 5.0), beyond(end / max(start, 1e-9), 1.5, 3.0)),
        evidence_of(record, "train/std", text),
    )


def std_starts_wide(record: Record) -> Finding | None:
    """Find a Gaussian that is much wider than its actions' range from the first update on."""
    start = float(record.values("train/std")[0])
    texts = [evidence_of(record, "train/std", f"{show(start)} in the first update, usual 0.3 to 1")]
    if not record.has("train/action_saturation"):
        return find("std-starts-wide", beyond(start, 3.0, 8.0), *texts, most=0.7)
    saturation = median(record, "train/action_saturation", 0.0, 0.3)
    text = f"{saturation:.0%} of the actions are cut off at their bounds"
    position = min(beyond(start, 2.0, 5.0), beyond(saturation, 0.4, 0.7))
    return find("std-starts-wide", position, *texts, evidence_of(record, "train/action_saturation", text))


def actions_saturated(record: Record) -> Finding | None:
    """Find actions that lie at their bounds most of the time."""
    share = median(record, "train/action_saturation", 0.5)
    text = f"{share:.0%} of the actions are at their bounds in the second half, healthy below half of them"
    return find("actions-saturated", beyond(share, 0.6, 0.9), evidence_of(record, "train/action_saturation", text), most=0.8)


# --------------------------------------------------------------------------------------------------------------------------
# Value function, advantages, scales
# --------------------------------------------------------------------------------------------------------------------------


def value_not_trained(record: Record) -> Finding | None:
    """Find a value loss that has no weight."""
    weight = current(record, "vf_coef")
    if weight is None:
        return None
    explained = median(record, EXPLAINED, 0.5)
    texts = [evidence_of(record, "train/vf_coef", f"{show(weight)}, usual 0.25 to 1")]
    if not math.isnan(explained):
        texts.append(evidence_of(record, EXPLAINED, f"median {show(explained)} in the second half"))
    return find("value-not-trained", beyond(weight, 0.02, 1e-3), *texts)


def value_not_learning(record: Record) -> Finding | None:
    """Find a value function that explains nothing of the returns, in the second half of the training."""
    explained = median(record, EXPLAINED, 0.5)
    position = beyond(max(1.0 - explained, 1e-9), 0.95, 1.3)
    # Returns that hardly vary, as of a policy that always reaches the limit, leave nothing to explain.
    if record.has("train/return_std") and median(record, "train/return_std", 0.5) < 1e-6:
        return None
    # Of a policy that reaches the limit every time they vary so little that noise is most of it.
    if record.has(RETURN, 2) and gained(record) > 0.5:
        return None
    text = f"median {show(explained)} in the second half, healthy above 0.3 and rising"
    return find("value-not-learning", position, evidence_of(record, EXPLAINED, text), most=0.7)


def value_overfits(record: Record) -> Finding | None:
    """Find a value function that fits the data it has seen and not the next rollout."""
    explained = median(record, EXPLAINED, 0.5)
    fitted = 1.0 - float(np.median(fit_of(record)))
    position = min(beyond(max(1.0 - fitted, 1e-9), 0.3, 0.1), beyond(max(1.0 - explained, 1e-9), 0.8, 1.0))
    return find(
        "value-overfits",
        position,
        evidence_of(record, "train/value_loss", f"explains {fitted:.0%} of the returns it was trained on"),
        evidence_of(record, EXPLAINED, f"median {show(explained)} on the rollout before training on it"),
        most=0.7,
    )


def fit_of(record: Record) -> np.ndarray:
    """
    Give the share of the returns' variance that is left after training on them.

    :param record: the record
    :return: value loss over the variance of the returns, of the second half of the updates that have both
    """
    loss, deviation = record.columns["train/value_loss"], record.columns["train/return_std"]
    both = np.isfinite(loss) & np.isfinite(deviation) & (deviation > 0)
    shares: np.ndarray = loss[both] / deviation[both] ** 2
    return shares[len(shares) // 2 :] if len(shares) else np.array([math.nan])


def value_dominates(record: Record) -> Finding | None:
    """Find a value loss whose gradient leaves the policy nothing of the norm that clipping grants."""
    policy, value = median(record, "train/grad_norm_policy", 0.1), median(record, "train/grad_norm_value", 0.1)
    limit = record.number("max_grad_norm") or SB3_MAX_GRAD_NORM
    norm = median(record, "train/grad_norm", 0.1)
    position = min(beyond(value / max(policy, 1e-12), 1000.0, 1e5), beyond(norm, 1000 * limit, 1e5 * limit))
    return find(
        "value-dominates",
        position,
        evidence_of(record, "train/grad_norm_value", f"median {show(value)}, the policy's {show(policy)}"),
        evidence_of(record, "train/grad_norm", f"median {show(norm)}, clipped to {show(limit)}"),
        most=0.65,
    )


def advantages_left_raw(record: Record) -> Finding | None:
    """Find advantages that are not normalised by the setting alone."""
    if record.setting("normalize_advantage") is not False:
        return None
    evidence = evidence_of(record, "settings/normalize_advantage", "False, usual True")
    return find("advantages-not-normalized", 0.5, evidence, most=BY_ITSELF)


def advantages_not_normalized(record: Record) -> Finding | None:
    """Find a policy loss larger than normalised advantages can give."""
    loss = float(np.median(np.abs(record.values("train/policy_gradient_loss"))))
    text = f"median {show(loss)} in size, below 0.2 with normalised advantages"
    texts = [evidence_of(record, "train/policy_gradient_loss", text)]
    position = beyond(loss, 1.0, 10.0)
    if record.setting("normalize_advantage") is False and record.has("train/advantage_std"):
        deviation = median(record, "train/advantage_std")
        position = max(position, beyond(deviation, 10.0, 100.0), beyond(deviation, 0.05, 0.005))
        texts.insert(0, evidence_of(record, "train/advantage_std", f"median {show(deviation)} and not normalised; expected 1"))
    elif record.setting("normalize_advantage") is True:
        return None
    return find("advantages-not-normalized", position, *texts)


def reward_scale_too_large(record: Record) -> Finding | None:
    """Find returns so large that the value function can't get there, or gets all of the gradient."""
    scale = return_scale(record)
    key = "train/return_std" if record.has("train/return_std") else "train/value_loss"
    text = f"returns deviate by about {show(scale)}, healthy 0.1 to 300"
    return find("reward-scale-too-large", beyond(scale, 600.0, 5000.0), evidence_of(record, key, text))


def rewards_are_seen(record: Record) -> bool:
    """
    Tell whether a step has ever been rewarded or punished.

    :param record: the record
    :return: False where all rewards were 0, or were not logged
    """
    return any(bool(record.values(key).any()) for key in ("train/reward_mean", "train/reward_std"))


def reward_scale_too_small(record: Record) -> Finding | None:
    """Find returns so small that the value function's first guesses drown them."""
    scale = return_scale(record)
    unseen = record.has(RETURN) and float(np.ptp(record.values(RETURN))) == 0 and not rewards_are_seen(record)
    if scale == 0 or unseen or abs(median(record, "train/return_mean", 0.1)) > 1:
        # Large returns that hardly vary, as of a policy that has solved its task, are not small ones.
        return None
    key = "train/return_std" if record.has("train/return_std") else "train/value_loss"
    text = f"returns deviate by about {show(scale)}, healthy 0.1 to 300"
    return find("reward-scale-too-small", beyond(scale, 0.07, 0.02), evidence_of(record, key, text))


def value_clip_against_scale(record: Record) -> Finding | None:
    """Find value clipping, which is in units of the return, that is small against the returns."""
    clip, scale = median(record, "train/clip_range_vf"), return_scale(record)
    return find(
        "value-clip-too-tight",
        min(beyond(clip / max(scale, 1e-9), 0.03, 0.003), beyond(1.0 - min(median(record, EXPLAINED, 0.5), 0.999), 0.3, 0.8)),
        evidence_of(record, "train/clip_range_vf", f"{show(clip)}, while returns deviate by about {show(scale)}"),
        evidence_of(record, EXPLAINED, f"median {show(median(record, EXPLAINED, 0.5))} in the second half"),
    )


def observations_not_normalized(record: Record) -> Finding | None:
    """Find observations that are large, or whose parts differ by orders of magnitude."""
    largest, smallest = median(record, "train/observation_scale_max"), median(record, "train/observation_scale_min")
    position = max(beyond(largest, 30.0, 150.0), beyond(largest / max(smallest, 1e-12), 2000.0, 1e5))
    text = f"parts from {show(smallest)} to {show(largest)} in size (root mean square), healthy 0.01 to 10"
    return find("observations-not-normalized", position, evidence_of(record, "train/observation_scale_max", text))


def gradients_always_clipped(record: Record) -> Finding | None:
    """Find gradients that are cut down by orders of magnitude in every update."""
    limit = record.number("max_grad_norm") or SB3_MAX_GRAD_NORM
    least = float(np.quantile(record.values("train/grad_norm"), 0.1))
    text = f"nine updates of ten above {show(least)}, and clipped to {show(limit)}; healthy 0.1 to 10"
    position = min(beyond(least, 400.0, 1e4), beyond(least / limit, 400.0, 1e4))
    return find("gradients-always-clipped", position, evidence_of(record, "train/grad_norm", text), most=0.6)


def max_grad_norm_too_small(record: Record) -> Finding | None:
    """Find a limit of the gradient's norm so small that it stops learning, since Adam's epsilon drowns what is left."""
    limit = record.number("max_grad_norm")
    if limit is None:
        return None
    norm, kl = median(record, "train/grad_norm"), float(np.quantile(record.values(KL), 0.75))
    position = min(beyond(limit, 5e-3, 1e-4), max(beyond(kl, 4e-3, 5e-4), beyond(norm / limit, 100.0, 1e4)))
    texts = [
        evidence_of(record, "settings/max_grad_norm", f"{show(limit)}, usual 0.3 to 5"),
        evidence_of(record, KL, f"three updates of four below {show(kl)} nats"),
    ]
    if not math.isnan(norm):
        texts.insert(1, evidence_of(record, "train/grad_norm", f"median {show(norm)} before clipping"))
    return find("max-grad-norm-too-small", position, *texts)


# --------------------------------------------------------------------------------------------------------------------------
# Data: rollouts, horizon, ends of episodes
# --------------------------------------------------------------------------------------------------------------------------


def rollout_too_short(record: Record) -> Finding | None:
    """Find rollouts with too few transitions for an estimate of the advantages."""
    size = rollout_size(record)
    if size is None:
        return None
    key = "time/iterations" if record.has("time/iterations") else "settings/n_steps"
    text = f"{show(size)} transitions in a rollout, usual 256 to 32,768"
    return find("rollout-too-short", beyond(size, 140.0, 40.0), evidence_of(record, key, text))


def gamma_too_low(record: Record) -> Finding | None:
    """Find a discount whose horizon is short against the episodes."""
    gamma = record.number("gamma")
    if gamma is None or gamma >= 1:
        return None
    horizon, length = 1.0 / (1.0 - gamma), float(record.values(LENGTH).max())
    return find(
        "gamma-too-low",
        min(beyond(horizon, 8.0, 2.5), beyond(length / horizon, 5.0, 20.0)),
        evidence_of(record, "settings/gamma", f"{show(gamma)}: rewards beyond {show(horizon)} steps hardly count"),
        evidence_of(record, LENGTH, f"episodes of up to {show(length)} steps"),
    )


def gamma_too_high(record: Record) -> Finding | None:
    """Find a discount whose horizon is far longer than the episodes, so that every estimate is noise or runs away."""
    gamma = record.number("gamma")
    if gamma is None:
        return None
    horizon, length = (1.0 / (1.0 - gamma) if gamma < 1 else math.inf), float(record.values(LENGTH).max())
    return find(
        "gamma-too-high",
        min(beyond(min(horizon, 1e9), 3000.0, 2e4), beyond(min(horizon, 1e9) / max(length, 1.0), 5.0, 20.0)),
        evidence_of(record, "settings/gamma", f"{gamma:g}: a horizon of {show(horizon)} steps, usual 20 to 1,000"),
        evidence_of(record, LENGTH, f"episodes of up to {show(length)} steps"),
        most=0.85,
    )


def limit_as_terminal(record: Record) -> Finding | None:
    """Find episodes that all end after the same number of steps, and are reported as ended by the task."""
    lengths = record.values(LENGTH)
    ended, truncated = record.values("train/episodes_ended").sum(), record.values("train/episodes_truncated").sum()
    if len(lengths) < MIN_UPDATES or ended < 10 or truncated > 0 or np.ptp(lengths) > 1e-6 or lengths[0] < 20:
        return None
    text = f"{show(float(ended))} episodes of exactly {show(float(lengths[0]))} steps, none of them reported as cut off"
    return find("limit-as-terminal", 0.6, evidence_of(record, LENGTH, text))


def terminal_as_limit(record: Record) -> Finding | None:
    """Find episodes of various lengths that are all reported as cut off by a time limit."""
    lengths = record.values(LENGTH)
    ended, truncated = record.values("train/episodes_ended").sum(), record.values("train/episodes_truncated").sum()
    if ended < 10 or truncated < ended or float(np.ptp(lengths)) < 0.05 * float(lengths.mean()):
        return None
    text = (
        f"{show(float(lengths.min()))} to {show(float(lengths.max()))} steps on average, yet all {show(float(ended))} "
        "episodes are reported as cut off by a time limit"
    )
    return find("terminal-as-limit", 0.6, evidence_of(record, LENGTH, text))


def advantages_wrong(record: Record) -> Finding | None:
    """Find advantages that are not those of GAE, worked out again from the same rollout."""
    error = float(record.values("doctor/gae_error").max())
    text = f"up to {show(error)} standard deviations away from GAE worked out again, expected 0 to rounding"
    return find("advantages-wrong", beyond(error, 1e-2, 1e-1), evidence_of(record, "doctor/gae_error", text))


# --------------------------------------------------------------------------------------------------------------------------
# Outcome
# --------------------------------------------------------------------------------------------------------------------------


def reward_never_seen(record: Record) -> Finding | None:
    """Find a return that is the same from the first episode to the last."""
    values = record.values(RETURN)
    if len(values) < MIN_UPDATES or float(np.ptp(values)) > 1e-9:
        return None
    lengths = record.values(LENGTH)
    if len(lengths) and float(np.ptp(lengths)) > 1e-9:
        return None
    if rewards_are_seen(record) and reward_scale_too_small(record) is not None:
        # There are rewards, and what they lack is size.
        return None
    text = f"{show(float(values[0]))} in every row: no action has made a difference yet"
    return find("reward-never-seen", 1.0, evidence_of(record, RETURN, text))


def does_nothing(record: Record) -> Finding | None:
    """Find a policy that has learned to do nothing: the return has risen to 0 and stays, and no episode ends."""
    values, lengths = record.values(RETURN, 0.7), record.values(LENGTH, 0.7)
    worst = float(np.abs(record.values(RETURN)).max())
    if worst == 0 or not len(lengths) or float(np.ptp(lengths)) > 1e-6 or float(record.values(RETURN)[0]) >= 0:
        return None
    level = float(np.abs(values).max())
    text = f"within {show(level)} of 0 at the end, after {show(float(record.values(RETURN)[0]))} at the start"
    length = f"every episode lasts {show(float(lengths[-1]))} steps: none reaches its goal"
    texts = [evidence_of(record, RETURN, text), evidence_of(record, LENGTH, length)]
    explained = median(record, EXPLAINED, 0.5)
    if level / worst > 0.15 and explained < 0.1 and float(record.values(RETURN).max()) < 0:
        # On the way there: the return comes nearer to 0, in states that the value function cannot tell apart.
        texts.append(evidence_of(record, EXPLAINED, f"median {show(explained)} in the second half"))
        return find("does-nothing", beyond(level / worst, 0.75, 0.3), *texts, most=0.65)
    return find("does-nothing", beyond(level / worst, 0.15, 0.02), *texts, most=0.9)


def no_progress(record: Record) -> Finding | None:
    """Find a return that at the end is not better than at the start."""
    if len(record.values(RETURN)) < 2 * MIN_UPDATES:
        return None
    (start, peak, end, noise), gain = progress(record), gained(record)
    if peak - start > max(0.25 * abs(start), 4 * noise):
        return None
    random = record.number("random_return")
    known = "" if random is None else f"; random actions earn {show(random)}"
    text = f"{show(start)} at the start and {show(end)} at the end{known}"
    return find("no-progress", beyond(max(gain, 1e-6), 0.1, 0.01), evidence_of(record, RETURN, text), most=0.6)


def forgetting(record: Record) -> Finding | None:
    """Find a return that has risen, and has lost much of it again by the end."""
    if len(record.values(RETURN)) < 2 * MIN_UPDATES:
        return None
    start, peak, end, noise = progress(record)
    rise = peak - start
    if rise <= max(0.5 * abs(start), 4 * noise):
        return None
    steps, values = record.series(RETURN)
    at = int(steps[int(values.argmax())])
    text = f"{show(start)} at the start, {show(peak)} at its peak near step {at:,}, {show(end)} at the end"
    lost = (peak - end) / rise
    return find("forgetting", beyond(max(lost, 1e-9), 0.4, 0.9), Evidence(RETURN, text, at, int(steps[-1])), most=0.7)


def poor_evaluation(record: Record) -> Finding | None:
    """Find evaluations that stay far behind training and do not follow it: other statistics, or another environment."""
    evaluated = record.values(EVALUATED)
    late = evaluated[-max(math.ceil(0.4 * len(evaluated)), 3) :]
    start, _, end, noise = progress(record)
    rise = end - start
    if len(evaluated) < 4 or rise <= max(0.3 * abs(start), 4 * noise):
        return None
    # The most certain action of a young policy can be far worse than its noisy ones. It becomes better as training goes on,
    # which what is evaluated on something else does not: so it has to be behind now, and not to have risen either.
    early = evaluated[: max(len(evaluated) // 3, 1)]
    behind = (end - float(np.median(late))) / rise
    left = 1.0 - (float(np.median(late)) - float(np.median(early))) / rise
    # Few episodes scatter: a gap has to be large against the standard error of the evaluations' mean as well.
    error = float(late.std(ddof=1)) / math.sqrt(len(late))
    errors = (end - float(late.mean())) / max(error, 1e-3 * rise)
    position = min(beyond(max(min(behind, left), 1e-9), 0.55, 1.2), beyond(max(errors, 1e-9), STANDARD_ERRORS, 12.0))
    text = (
        f"median {show(float(np.median(late)))} in the last evaluations, {show(float(np.median(early)))} in the first; "
        f"training went from {show(start)} to {show(end)}, which is {show(errors)} standard errors away"
    )
    return find("poor-evaluation", position, evidence_of(record, EVALUATED, text), most=0.9)


def nan_coming(record: Record) -> Finding | None:
    """Find numbers that are no longer finite, or that grow without bound."""
    # The explained variance of returns that do not vary, and the mean of no episode, are NaN in good health.
    broken = {
        key: step
        for key, step in record.not_finite.items()
        if key.startswith("train/") and key not in (EXPLAINED, "train/grad_norm_policy", "train/grad_norm_value")
    }
    if broken:
        key, step = min(broken.items(), key=lambda item: (item[1], item[0]))
        last = max(step, int(record.steps[-1]) if len(record.steps) else 0)
        return Finding("nan-coming", 1.0, 1.0, (Evidence(key, f"NaN or infinite from step {step:,} on", step, last),))
    for key in ("train/value_loss", "train/grad_norm", "train/loss", KL):
        sizes = np.abs(record.values(key))
        sizes = sizes[sizes > 0]
        if len(sizes) < MIN_UPDATES:
            continue
        growth = float(np.median(sizes[-2:]) / np.median(sizes[: len(sizes) // 2]))
        finding = find(
            "nan-coming",
            min(beyond(growth, 1e4, 1e7), beyond(float(sizes[-1]), 1e6, 1e10)),
            evidence_of(record, key, f"{show(float(sizes[-1]))} at the end, {growth:.0e} times its usual size"),
        )
        if finding is not None:
            return finding
    return None


def slower_and_slower(record: Record) -> Finding | None:
    """Find a training that has become slow, or was slow from the start for a reason that the settings tell."""
    steps, elapsed = record.series("time/time_elapsed")
    spent = elapsed[-1] - elapsed[0]
    # Evaluations in between take their time too, and other times as the policy changes.
    if len(steps) >= 2 * MIN_UPDATES and spent >= 20 and not record.has(EVALUATED):
        half = int(np.searchsorted(steps, (steps[0] + steps[-1]) / 2))
        first = (steps[half] - steps[0]) / max(elapsed[half] - elapsed[0], 1.0)
        second = (steps[-1] - steps[half]) / max(elapsed[-1] - elapsed[half], 1.0)
        text = f"{show(float(second))} steps per second in the second half, {show(float(first))} in the first"
        position = beyond(float(first / max(second, 1e-9)), 4.0, 10.0)
        if position >= 0:
            return find("throughput-lost", position, evidence_of(record, "time/time_elapsed", text), most=0.7)
    fps = median(record, "time/fps")
    threads, policy, device = record.number("torch_threads"), record.setting("policy"), str(record.setting("device"))
    if policy != "MlpPolicy" or spent < 20:
        return None
    if threads is not None and threads > 1:
        text = f"{show(fps)} steps per second with {threads:.0f} torch threads; a small network is fastest with one"
        return find("throughput-lost", beyond(fps, 500.0, 50.0), evidence_of(record, "time/fps", text), most=0.65)
    if device.startswith("cuda"):
        text = f"{show(fps)} steps per second on {device}; a small network is faster on the CPU"
        return find("throughput-lost", beyond(fps, 1000.0, 100.0), evidence_of(record, "time/fps", text), most=0.65)
    return None


# --------------------------------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------------------------------

LOWER_RATE = Change("learning_rate", 1e-4, factor=1 / 3, low=1e-6, high=3e-4)
HIGHER_RATE = Change("learning_rate", 3e-4, factor=10, low=3e-4, high=3e-3)
NORMALIZE = Change("normalize", True)
RATE_BAND = Band("train/learning_rate", 1e-5, 1e-3, log=True)
KL_BAND, CLIP_BAND = Band(KL, 0.003, LECTURE_KL, log=True), Band(CLIP, 0.05, LECTURE_CLIP)
RETURN_BAND = Band(RETURN, None, None)
EXPLAINED_BAND = Band(EXPLAINED, 0.3, 1.0)

OUTCOME = ("no-progress", "forgetting", "poor-evaluation", "does-nothing", "reward-never-seen")
VALUE = ("value-not-learning", "value-overfits", "value-dominates")

SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        name="nan-coming",
        title="Numbers are no longer finite, or on the way there",
        needs=(),
        healthy="finite, and of the same order throughout",
        source="arithmetic: one NaN in a parameter makes the policy useless",
        meaning="A loss or gradient has left the range of float32; what comes after it is lost.",
        remedy="Look for NaN or huge values in observations and rewards (VecCheckNan), normalise both, lower the learning "
        "rate.",
        not_when="an explained variance of NaN is no fault: it only says that all returns were equal.",
        examine=nan_coming,
        changes=(NORMALIZE,),
        bands=(Band("train/value_loss", None, None, log=True),),
        min_updates=0,
        explains=(*OUTCOME, *VALUE, "gradients-always-clipped"),
    ),
    Symptom(
        name="learning-rate-too-high",
        title="The learning rate is too high",
        needs=(KL, CLIP),
        healthy="KL 0.003 to 0.05 nats, clip fraction 0.05 to 0.3",
        source="lecture (KL < 0.05, clip fraction 0.1 to 0.3: 'Large KL and high clip fraction → updates too aggressive')",
        meaning="Each update carries the policy out of the region in which its advantages hold; training becomes unstable.",
        remedy="Lower learning_rate by a factor of 3, to 3e-4 at most; then lower n_epochs or set target_kl to 0.03.",
        not_when="a clip range above 0.4, or more than 20 epochs, can do the same: they are named first where they are seen.",
        examine=learning_rate_too_high,
        changes=(LOWER_RATE,),
        bands=(KL_BAND, CLIP_BAND, RATE_BAND),
        explains=(
            "kl-stop-every-time",
            "entropy-collapse",
            "std-explodes",
            "actions-saturated",
            "value-not-learning",
            "value-overfits",
            "nan-coming",
            *OUTCOME,
        ),
        unusual=unusual("learning-rate-too-high", "learning_rate", 3e-3, 2e-2, "1e-5 to 1e-3"),
    ),
    Symptom(
        name="learning-rate-too-low",
        title="The learning rate is too low",
        needs=(KL, CLIP),
        healthy="KL 0.003 to 0.05 nats, clip fraction 0.05 to 0.3",
        source="lecture ('Very small KL and near-zero clip fraction → updates too conservative'); the limit 4e-4 is "
        "calibration (healthy trainings on CartPole-v1 have 0.0014)",
        meaning="The policy hardly changes from one rollout to the next: most of what was collected goes unused.",
        remedy="Raise learning_rate by a factor of 10 to at least 3e-4, then by steps of 3.",
        not_when="the end of a falling schedule, or a policy that has long solved its task, has small steps in good health.",
        examine=learning_rate_too_low,
        changes=(HIGHER_RATE,),
        bands=(KL_BAND, CLIP_BAND, RATE_BAND),
        explains=("reward-never-seen", "value-not-learning", "no-progress"),
        unusual=unusual("learning-rate-too-low", "learning_rate", 1e-5, 1e-6, "1e-5 to 1e-3"),
    ),
    Symptom(
        name="clip-range-too-tight",
        title="The clip range is too tight",
        needs=("train/clip_range", KL, CLIP),
        healthy="clip_range 0.1 to 0.3, clip fraction 0.05 to 0.3",
        source="PPO paper (0.1 to 0.3 tried, 0.2 best); lecture ('Too low clip range → slow learning')",
        meaning="Ratios leave the range after the first steps, and from then on those samples have no gradient.",
        remedy="Raise clip_range to 0.2.",
        not_when="a schedule that ends at 0 is tight at its end by design: only its beginning is looked at.",
        examine=clip_range_too_tight,
        changes=(Change("clip_range", 0.2),),
        bands=(CLIP_BAND, KL_BAND, Band("train/clip_range", 0.1, 0.3)),
        explains=("reward-never-seen", "learning-rate-too-low", "no-progress"),
        unusual=unusual("clip-range-too-tight", "clip_range", 0.04, 0.01, "0.1 to 0.3"),
    ),
    Symptom(
        name="clip-range-too-loose",
        title="The clip range is too loose",
        needs=("train/clip_range", KL, CLIP),
        healthy="clip_range 0.1 to 0.3",
        source="PPO paper (0.1 to 0.3 tried, 0.2 best), RL Baselines3 Zoo (0.1 to 0.4)",
        meaning="Nothing stops the policy from leaving the region in which its advantages hold.",
        remedy="Lower clip_range to 0.2.",
        not_when="with target_kl set, the KL rule may hold the policy instead; then the KL is not high.",
        examine=clip_range_too_loose,
        changes=(Change("clip_range", 0.2),),
        bands=(KL_BAND, CLIP_BAND, Band("train/clip_range", 0.1, 0.3)),
        explains=(
            "learning-rate-too-high",
            "kl-stop-every-time",
            "entropy-collapse",
            "value-not-learning",
            "std-explodes",
            *OUTCOME,
        ),
        unusual=unusual("clip-range-too-loose", "clip_range", 0.6, 1.5, "0.1 to 0.3"),
    ),
    Symptom(
        name="too-many-epochs",
        title="Too many epochs on the same data",
        needs=(KL, CLIP, "train/n_updates|settings/n_epochs"),
        healthy="3 to 20 epochs; KL in the last epoch below 0.05 nats",
        source="PPO paper (3 to 15), RL Baselines3 Zoo (up to 20), activity ('Reduce number of epochs per batch')",
        meaning="The policy is fitted to the noise of one rollout: KL and clip fraction rise from epoch to epoch.",
        remedy="Lower n_epochs to 10, or set target_kl to 0.03.",
        not_when="with few, large minibatches or a small learning rate many epochs can be right: then the KL stays low.",
        examine=too_many_epochs,
        changes=(Change("n_epochs", 10),),
        bands=(KL_BAND, CLIP_BAND),
        explains=(
            "learning-rate-too-high",
            "value-overfits",
            "value-not-learning",
            "kl-stop-every-time",
            "entropy-collapse",
            *OUTCOME,
        ),
        unusual=unusual("too-many-epochs", "n_epochs", 30.0, 60.0, "3 to 20"),
    ),
    Symptom(
        name="target-kl-too-small",
        title="The KL limit is too small",
        needs=(KL, "settings/target_kl", "train/early_stop_epoch|settings/n_epochs"),
        healthy="target_kl 0.01 to 0.05",
        source="Spinning Up (0.01 to 0.05), activity (0.03)",
        meaning="The rule stops the update after a few minibatches every time; most of each rollout goes unused.",
        remedy="Raise target_kl to 0.03.",
        not_when="without target_kl.",
        examine=target_kl_too_small,
        changes=(Change("target_kl", 0.03),),
        bands=(KL_BAND, Band("train/early_stop_epoch", 1, None)),
        explains=("reward-never-seen", "kl-stop-every-time", "learning-rate-too-low", "value-not-learning", "no-progress"),
        unusual=unusual("target-kl-too-small", "target_kl", 3e-3, 3e-4, "0.01 to 0.05"),
    ),
    Symptom(
        name="kl-stop-every-time",
        title="The KL rule stops nearly every update in its first epoch",
        needs=(KL, "train/early_stop_epoch|settings/target_kl"),
        healthy="stops in less than half of the updates' first epochs",
        source="activity (KL stop as the second line of defence); the share is calibration",
        meaning="The steps are too large for the limit: the rule works as a brake that is never released.",
        remedy="Lower learning_rate by a factor of 3, or raise batch_size if the estimates are noisy.",
        not_when="without target_kl.",
        examine=kl_stop_every_time,
        changes=(LOWER_RATE,),
        bands=(KL_BAND, Band("train/early_stop_epoch", 1, None)),
        explains=("no-progress",),
    ),
    Symptom(
        name="ratio-not-one",
        title="The ratio is not 1 before the first step",
        needs=("train/ratio_first",),
        healthy="1 to rounding (1 ± 0.001)",
        source="arithmetic: old and new policy are the same until a parameter moves",
        meaning="The log-probabilities stored in the rollout are not those of the policy that is trained: dropout or batch "
        "normalisation in the policy, transformed actions, or a stale copy.",
        remedy="Make the policy deterministic in training mode and store the actions as they were sampled.",
        not_when="policies with dropout on purpose; Gaussians narrower than 0.01, whose log-probabilities are all rounding.",
        examine=ratio_not_one,
        bands=(Band("train/ratio_first", 0.999, 1.001),),
        explains=("learning-rate-too-high", *OUTCOME),
        min_updates=1,
    ),
    Symptom(
        name="entropy-collapse",
        title="The policy has become certain too early",
        needs=("train/entropy_loss",),
        healthy="entropy falls slowly: at half of the training above 15 % of its start, or standard deviation above 0.1",
        source="lecture ('No entropy → premature convergence'), activity ('overconfident early'); the limits are calibration",
        meaning="Without exploration nothing better can be found; the return stays where it was.",
        remedy="Raise ent_coef to 0.01 (and to 0.02 after that).",
        not_when="a policy that has solved its task is certain too: where the return stands at its peak, nothing is found.",
        examine=entropy_collapse,
        changes=(Change("ent_coef", 0.01),),
        bands=(Band("train/entropy_loss", None, None), RETURN_BAND),
        explains=("no-progress", "learning-rate-too-low", "value-not-learning", "nan-coming"),
    ),
    Symptom(
        name="entropy-bonus-too-large",
        title="The entropy bonus drowns the return",
        needs=("train/entropy_loss",),
        healthy="ent_coef 0 to 0.02; entropy falls",
        source="PPO paper (0.01), RL Baselines3 Zoo (0 to 0.01 for these environments); the limit 0.04 is calibration",
        meaning="The policy is paid for being random: entropy stays at its maximum, or the standard deviation grows "
        "without end.",
        remedy="Lower ent_coef to 0.",
        not_when="tasks in which random actions are right.",
        examine=entropy_bonus_too_large,
        changes=(Change("ent_coef", 0.0),),
        bands=(Band("train/entropy_loss", None, None), RETURN_BAND),
        explains=(
            "reward-never-seen",
            "std-explodes",
            "no-progress",
            "actions-saturated",
            "learning-rate-too-low",
            "value-not-learning",
            "forgetting",
        ),
        unusual=unusual("entropy-bonus-too-large", "ent_coef", 0.1, 0.5, "0 to 0.02"),
    ),
    Symptom(
        name="std-explodes",
        title="The standard deviation grows without end",
        needs=("train/std",),
        healthy="0.1 to 1, and falling",
        source="README (above 2: log_std_bounds); the growth is calibration",
        meaning="Actions are cut off at their bounds, the gradient no longer sees what was done.",
        remedy="Bound it with log_std_bounds, and lower ent_coef.",
        not_when="discrete actions, or actions whose bounds are much wider than 1.",
        examine=std_explodes,
        changes=(Change("log_std_bounds", "[-3, 0.5]"),),
        bands=(Band("train/std", 0.1, 1.0, log=True),),
        explains=("actions-saturated", "no-progress", "forgetting"),
    ),
    Symptom(
        name="std-starts-wide",
        title="The policy starts much wider than its actions' range",
        needs=("train/std",),
        healthy="standard deviation 0.3 to 1 at the start; less than 40 % of the actions at their bounds",
        source="Andrychowicz et al. 2020 (initial standard deviation 0.5); the limits are calibration",
        meaning="Nearly every action is cut off at its bound, so the policy acts at random between extremes and learns "
        "slowly.",
        remedy='Start narrower: policy_kwargs "dict(log_std_init=-0.5)", or action_distribution="tanh_gaussian".',
        not_when="actions whose bounds are much wider than 1.",
        examine=std_starts_wide,
        changes=(Change("policy_kwargs", "dict(log_std_init=-0.5)"),),
        bands=(Band("train/std", 0.1, 1.0, log=True), Band("train/action_saturation", 0.0, 0.4)),
        explains=("actions-saturated", "std-explodes", "learning-rate-too-low", "no-progress", "value-not-learning"),
    ),
    Symptom(
        name="actions-saturated",
        title="The actions lie at their bounds",
        needs=("train/action_saturation",),
        healthy="less than half of the actions at their bounds",
        source="calibration (a Gaussian of standard deviation 1 with bounds ±1 has a third of its actions there)",
        meaning="What is cut off cannot be told apart: log-probabilities go on changing where the action does not.",
        remedy='Use action_distribution="tanh_gaussian" or "beta", which stay within the bounds.',
        not_when="tasks whose best actions are the bounds, such as full thrust.",
        examine=actions_saturated,
        changes=(Change("action_distribution", "tanh_gaussian"),),
        bands=(Band("train/action_saturation", 0.0, 0.5),),
        explains=("no-progress",),
    ),
    Symptom(
        name="value-not-trained",
        title="The value loss has no weight",
        needs=("train/vf_coef|settings/vf_coef",),
        healthy="vf_coef 0.25 to 1",
        source="PPO paper (1), SB3 (0.5), activity ('Ensure value loss is being minimized')",
        meaning="The value function stays at its first guess; advantages are as noisy as the returns themselves.",
        remedy="Set vf_coef to 0.5.",
        not_when="a value function that is trained elsewhere.",
        examine=value_not_trained,
        changes=(Change("vf_coef", 0.5),),
        bands=(EXPLAINED_BAND, Band("train/value_loss", None, None, log=True)),
        explains=(*VALUE, *OUTCOME, "entropy-collapse"),
        min_updates=2,
    ),
    Symptom(
        name="value-not-learning",
        title="The value function does not learn",
        needs=(EXPLAINED,),
        healthy="explained variance above 0.3 and rising",
        source="README; SB3's documentation (≤ 0 is worse than predicting the mean); the limit 0.05 is calibration",
        meaning="Advantages are as noisy as the returns themselves.",
        remedy="Normalise rewards, raise vf_coef or the critic's size, lengthen rollouts.",
        not_when="returns that do not vary, as of a policy that always reaches the limit, leave nothing to explain.",
        examine=value_not_learning,
        changes=(NORMALIZE,),
        bands=(EXPLAINED_BAND, Band("train/value_loss", None, None, log=True)),
        explains=("no-progress",),
    ),
    Symptom(
        name="value-overfits",
        title="The value function fits what it has seen and not what comes",
        needs=(EXPLAINED, "train/value_loss", "train/return_std"),
        healthy="explained variance on new data near that on the data trained on",
        source="activity ('Check value function isn't over-fitting'); the limits are calibration",
        meaning="Each rollout is learned by heart; the next one's advantages are wrong.",
        remedy="Lower n_epochs to 5 or lengthen rollouts.",
        not_when="returns that do not vary.",
        examine=value_overfits,
        changes=(Change("n_epochs", 5),),
        bands=(EXPLAINED_BAND, Band("train/value_loss", None, None, log=True)),
        explains=("no-progress", "value-not-learning"),
    ),
    Symptom(
        name="value-dominates",
        title="The value loss takes all of the gradient",
        needs=("train/grad_norm_policy", "train/grad_norm_value", "train/grad_norm"),
        healthy="value gradient less than 1,000 times the policy's",
        source="calibration (healthy trainings reach 300 times); lecture (gradient norm 0.1 to 10)",
        meaning="Both are clipped by one norm: what the value part takes, the policy does not get. In a shared network it "
        "also shapes "
        "the features.",
        remedy="Normalise rewards, or lower vf_coef by a factor of 10.",
        not_when="with Adam and separate networks the damage is small.",
        examine=value_dominates,
        changes=(NORMALIZE,),
        bands=(Band("train/grad_norm", 0.1, 10.0, log=True),),
        explains=("no-progress", "gradients-always-clipped"),
    ),
    Symptom(
        name="value-clip-too-tight",
        title="Value clipping is tight against the returns",
        needs=("train/clip_range_vf", EXPLAINED, "train/value_loss"),
        healthy="clip_range_vf of the order of the returns' deviation",
        source="SB3's documentation ('this clipping depends on the reward scaling')",
        meaning="The value function may move by clip_range_vf per update only, and never gets to the returns.",
        remedy="Turn value clipping off, or normalise rewards.",
        not_when="without clip_range_vf.",
        examine=value_clip_against_scale,
        changes=(Change("clip_range_vf", "null"),),
        bands=(EXPLAINED_BAND,),
        explains=("value-not-learning", "no-progress", "value-dominates"),
    ),
    Symptom(
        name="advantages-not-normalized",
        title="Advantages are not normalised",
        needs=("train/policy_gradient_loss",),
        healthy="standard deviation 1 when they enter the loss",
        source="activity ('Check advantage normalization'), lecture ('Skipping advantage normalisation')",
        meaning="The size of the rewards decides on the size of the policy's steps, against entropy bonus and value loss.",
        remedy="Set normalize_advantage to true.",
        not_when="where they were normalised, their own scale does not matter.",
        examine=advantages_not_normalized,
        changes=(Change("normalize_advantage", "true"),),
        bands=(Band("train/policy_gradient_loss", -0.2, 0.2), Band("train/advantage_std", 0.1, 10.0, log=True)),
        explains=("gradients-always-clipped", "entropy-collapse", *OUTCOME),
        unusual=advantages_left_raw,
    ),
    Symptom(
        name="reward-scale-too-large",
        title="Rewards are too large",
        needs=("train/return_std|train/value_loss", "train/return_std|" + EXPLAINED),
        healthy="returns that deviate by 0.1 to 300",
        source="activity (returns of LunarLander deviate by some hundreds); the limit 600 is calibration",
        meaning="The value function needs ages to get there, and its gradient takes all that clipping leaves.",
        remedy="Normalise rewards (VecNormalize: --normalize) or scale them down.",
        not_when="with reward normalisation, which this measures after.",
        examine=reward_scale_too_large,
        changes=(NORMALIZE,),
        bands=(Band("train/return_std", 0.1, 300.0, log=True), Band("train/value_loss", None, None, log=True), EXPLAINED_BAND),
        explains=(
            *VALUE,
            "gradients-always-clipped",
            "value-clip-too-tight",
            "advantages-not-normalized",
            "learning-rate-too-low",
            "nan-coming",
            *OUTCOME,
        ),
    ),
    Symptom(
        name="reward-scale-too-small",
        title="Rewards are too small",
        needs=("train/return_std|train/value_loss", "train/return_std|" + EXPLAINED),
        healthy="returns that deviate by 0.1 to 300",
        source="calibration: a new value network's guesses deviate by about 0.1",
        meaning="The value function's first guesses drown the returns, and its loss is too small to correct them.",
        remedy="Normalise rewards (VecNormalize: --normalize) or scale them up.",
        not_when="rewards that have not been seen yet; returns that are large and do not vary.",
        examine=reward_scale_too_small,
        changes=(NORMALIZE,),
        bands=(Band("train/return_std", 0.1, 300.0, log=True), EXPLAINED_BAND),
        explains=("reward-never-seen", *VALUE, "no-progress"),
    ),
    Symptom(
        name="observations-not-normalized",
        title="Observations are not normalised, or of mixed scale",
        needs=("train/observation_scale_max", "train/observation_scale_min"),
        healthy="each part between 0.01 and 10 in size",
        source="Andrychowicz et al. 2020 (normalise observations), VecNormalize clips at 10; the limits are calibration",
        meaning="Large parts saturate tanh units at once, small ones are not seen.",
        remedy="Normalise observations (VecNormalize: --normalize).",
        not_when="images, which SB3 divides by 255 itself: they are not measured.",
        examine=observations_not_normalized,
        changes=(NORMALIZE,),
        bands=(Band("train/observation_scale_max", 0.01, 10.0, log=True), EXPLAINED_BAND),
        explains=("learning-rate-too-high", "learning-rate-too-low", *VALUE, "entropy-collapse", *OUTCOME),
    ),
    Symptom(
        name="max-grad-norm-too-small",
        title="Gradients are clipped to nothing",
        needs=("settings/max_grad_norm", KL),
        healthy="max_grad_norm 0.3 to 5",
        source="SB3 (0.5), RL Baselines3 Zoo (0.3 to 5); the limit is Adam's epsilon of 1e-5, below which it takes no step",
        meaning="What is left of the gradient is smaller than Adam's epsilon: nothing moves.",
        remedy="Set max_grad_norm to 0.5.",
        not_when="other optimizers than Adam and RMSprop scale with the gradient: there the learning rate counts with it.",
        examine=max_grad_norm_too_small,
        changes=(Change("max_grad_norm", 0.5),),
        bands=(Band("train/grad_norm", 0.1, 10.0, log=True), KL_BAND),
        explains=(
            "reward-never-seen",
            "learning-rate-too-low",
            "gradients-always-clipped",
            "value-not-learning",
            "no-progress",
            "value-dominates",
        ),
    ),
    Symptom(
        name="gradients-always-clipped",
        title="Every gradient is clipped by orders of magnitude",
        needs=("train/grad_norm",),
        healthy="gradient norm 0.1 to 10",
        source="lecture (0.1 to 10, of normalised rewards); the limit 400 is calibration: healthy trainings reach 140",
        meaning="Only the direction of the gradient is left, and the larger loss decides on it: mostly the value loss.",
        remedy="Normalise rewards, or lower vf_coef.",
        not_when="with Adam, whose steps do not depend on the scale, it is a sign more than a fault.",
        examine=gradients_always_clipped,
        changes=(NORMALIZE,),
        bands=(Band("train/grad_norm", 0.1, 10.0, log=True),),
        explains=("no-progress",),
    ),
    Symptom(
        name="rollout-too-short",
        title="Rollouts are too short, or environments too few",
        needs=(KL, "time/iterations|settings/n_steps"),
        healthy="256 transitions or more",
        source="RL Baselines3 Zoo (256 to 32,768); lecture ('too few parallel envs'); the limit 140 is calibration",
        meaning="Each update is made from a handful of correlated transitions, and advantages are cut off at the "
        "rollout's end.",
        remedy="Raise n_steps to 512 or more.",
        not_when="tasks of a few steps.",
        examine=rollout_too_short,
        changes=(Change("n_steps", 512),),
        bands=(KL_BAND, RETURN_BAND),
        explains=(
            "learning-rate-too-high",
            "learning-rate-too-low",
            "entropy-collapse",
            "value-overfits",
            "value-not-learning",
            "std-explodes",
            *OUTCOME,
        ),
    ),
    Symptom(
        name="gamma-too-low",
        title="The discount is too low: the horizon is too short",
        needs=("settings/gamma", LENGTH),
        healthy="1 / (1 − γ) at least a tenth of an episode; γ 0.9 to 0.999",
        source="Andrychowicz et al. 2020 (the discount is one of the most important settings; start at 0.99)",
        meaning="The policy does not see the consequences of what it does.",
        remedy="Set gamma to 0.99.",
        not_when="tasks in which each reward depends on the last few actions only.",
        examine=gamma_too_low,
        changes=(Change("gamma", 0.99),),
        bands=(RETURN_BAND, Band(LENGTH, None, None)),
        explains=(
            "reward-never-seen",
            "no-progress",
            "does-nothing",
            "value-not-learning",
            "forgetting",
            "reward-scale-too-small",
        ),
    ),
    Symptom(
        name="gamma-too-high",
        title="The discount is too high: the horizon is far beyond the episodes",
        needs=("settings/gamma", LENGTH),
        healthy="1 / (1 − γ) of 20 to 1,000 steps",
        source="Andrychowicz et al. 2020 (0.95 to 0.999 tried); the limits are calibration",
        meaning="The value function has to sum up rewards that never come to an end: its targets run away, and advantages "
        "are noise.",
        remedy="Set gamma to 0.99.",
        not_when="episodes that end by themselves after few steps bear γ = 1.",
        examine=gamma_too_high,
        changes=(Change("gamma", 0.99),),
        bands=(EXPLAINED_BAND, Band("train/value_loss", None, None, log=True), RETURN_BAND),
        explains=(*VALUE, "reward-scale-too-large", "gradients-always-clipped", *OUTCOME),
    ),
    Symptom(
        name="limit-as-terminal",
        title="A time limit is reported as the end of the task",
        needs=(LENGTH, "train/episodes_ended", "train/episodes_truncated"),
        healthy="episodes that all have the same length are cut off (truncated), not ended (terminated)",
        source="Pardo et al. 2018 (https://arxiv.org/abs/1712.00378), lecture ('mishandling episode termini')",
        meaning="The value of the last state is taken to be 0, though the task would have gone on.",
        remedy="Have the environment return truncated=True at its time limit: gymnasium's TimeLimit wrapper does.",
        not_when="tasks that do have a fixed number of steps, and observe how many are left.",
        examine=limit_as_terminal,
        bands=(Band(LENGTH, None, None), EXPLAINED_BAND),
        explains=("value-not-learning", "no-progress"),
    ),
    Symptom(
        name="terminal-as-limit",
        title="The end of the task is reported as a time limit",
        needs=(LENGTH, "train/episodes_ended", "train/episodes_truncated"),
        healthy="episodes of various lengths are ended (terminated), not cut off (truncated)",
        source="Pardo et al. 2018 (https://arxiv.org/abs/1712.00378), lecture ('mishandling episode termini')",
        meaning="The value of a state that has no future is bootstrapped: failing costs nothing.",
        remedy="Have the environment return terminated=True where the task is over.",
        not_when="limits of random length.",
        examine=terminal_as_limit,
        bands=(Band(LENGTH, None, None), EXPLAINED_BAND),
        explains=("value-not-learning", "no-progress"),
    ),
    Symptom(
        name="advantages-wrong",
        title="The advantages are not those of GAE",
        needs=("doctor/gae_error",),
        healthy="equal to GAE worked out again, to rounding",
        source="GAE paper (https://arxiv.org/abs/1506.02438, equation 16); lecture's errata (`1 - dones[t]`)",
        meaning="A mask that is off by one lets values leak from one episode into the one before.",
        remedy="Use SB3's rollout buffer, or mask δ and the recursion at t with whether step t ended the episode.",
        not_when="buffers with another estimator on purpose.",
        examine=advantages_wrong,
        bands=(Band("train/advantage_std", None, None, log=True),),
        explains=("value-not-learning", *OUTCOME),
        min_updates=1,
    ),
    Symptom(
        name="reward-never-seen",
        title="No reward has been seen",
        needs=(RETURN,),
        healthy="returns that vary",
        source="arithmetic: equal returns have no gradient",
        meaning="Every episode earns the same whatever was done; there is nothing to learn from.",
        remedy="Explore more (ent_coef 0.01, more environments), shape the reward, or make the task easier at first.",
        not_when="a policy that earns the maximum from the first episode on.",
        examine=reward_never_seen,
        changes=(Change("ent_coef", 0.01),),
        bands=(RETURN_BAND, Band(LENGTH, None, None)),
        explains=(*VALUE, "no-progress", "limit-as-terminal"),
    ),
    Symptom(
        name="does-nothing",
        title="The policy has learned to do nothing",
        needs=(RETURN, LENGTH),
        healthy="a return above that of no action",
        source="MountainCarContinuous-v0, where doing nothing earns 0; the limits are calibration",
        meaning="Acting costs, the reward for success was never found, so the policy has found how to lose nothing.",
        remedy="Explore more at the start: ent_coef 0.01, gSDE (use_sde), or a reward for getting nearer.",
        not_when="tasks whose best return is 0.",
        examine=does_nothing,
        changes=(Change("use_sde", "true"),),
        bands=(RETURN_BAND, Band(LENGTH, None, None)),
        explains=(
            "value-not-learning",
            "reward-scale-too-small",
            "entropy-collapse",
            "limit-as-terminal",
            "learning-rate-too-low",
        ),
    ),
    Symptom(
        name="poor-evaluation",
        title="Training is good and evaluation is poor",
        needs=(RETURN, EVALUATED),
        healthy="evaluation at or above training, or rising with it",
        source="lecture (scenario 3: 'Good training, poor evaluation'); four standard errors: Student's t, 1 in 70; the other "
        "limits are calibration",
        meaning="The policy is evaluated on something else than it was trained on: statistics of VecNormalize that are "
        "not those of "
        "training, another environment, or a policy that needs its noise.",
        remedy="Give the evaluation the training's statistics (sync_envs_normalization), compare the two environments, "
        "and evaluate "
        "with --stochastic.",
        not_when="tasks in which only a random policy does well; a young policy, whose evaluations are poor and rise with it; "
        "fewer than four evaluations.",
        examine=poor_evaluation,
        bands=(RETURN_BAND, Band(EVALUATED, None, None)),
    ),
    Symptom(
        name="forgetting",
        title="What was learned has been lost again",
        needs=(RETURN,),
        healthy="a return that ends near its peak",
        source="activity ('Catastrophic forgetting': lower rate, fewer epochs, larger batches); the limits are calibration",
        meaning="An update went too far, and the data collected after it no longer shows the way back.",
        remedy="Let the learning rate fall to 0 (lin_3e-4), lower n_epochs, set target_kl to 0.03.",
        not_when="an environment that becomes harder on purpose.",
        examine=forgetting,
        changes=(Change("target_kl", 0.03),),
        bands=(RETURN_BAND, KL_BAND),
    ),
    Symptom(
        name="no-progress",
        title="The return does not rise",
        needs=(RETURN,),
        healthy="rises within the first third of the training",
        source="lecture (scenario 1: 'Policy not learning'); the limits are calibration",
        meaning="Whatever moves, it does not make the policy better.",
        remedy="Look at the other findings first. If there are none: train for longer, and compare with a similar task's "
        "settings.",
        not_when="a model that was good when training began, or a training that is short for its task.",
        examine=no_progress,
        changes=(Change("steps", 1_000_000, factor=4, whole=True),),
        bands=(RETURN_BAND, KL_BAND, EXPLAINED_BAND),
    ),
    Symptom(
        name="throughput-lost",
        title="Time is lost to threads, rendering or a device that does not pay",
        needs=("time/time_elapsed", "time/fps"),
        healthy="the same speed throughout; thousands of steps per second with a small network",
        source="benchmarks/speed (threads.md, limits.md); that it has to be four times slower is calibration: on a machine "
        "that others use too, healthy trainings became three times slower",
        meaning="Small networks are slower with several threads or on a GPU, a render mode makes an environment draw for "
        "nobody, and "
        "a training that slows down shares its machine or fills its memory.",
        remedy="Use one thread (--threads 1), the CPU (--device cpu), and no render mode.",
        not_when="large networks and images; with evaluations in between, whose length changes, a training that slows down is "
        "not looked for.",
        examine=slower_and_slower,
        changes=(Change("threads", 1),),
        bands=(Band("time/fps", None, None),),
    ),
)

BY_NAME = {symptom.name: symptom for symptom in SYMPTOMS}
"""The table by name."""
