"""
How far an update moves the policy: learning rate, clip range, epochs, and the rule that ends an update by its KL.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025, the activity its notebook (errata of both:
notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Change, Finding, Symptom, beyond, current, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import OUTCOME
from sb3_ppo_edu.doctor.symptoms.metrics import (
    CLIP,
    CLIP_BAND,
    KL,
    KL_BAND,
    LECTURE_CLIP,
    LECTURE_KL,
    RATE_BAND,
    entropy_of,
    epochs_per_update,
    is_discrete,
)
from sb3_ppo_edu.doctor.symptoms.outcome import reward_never_seen
from sb3_ppo_edu.doctor.symptoms.settings import HIGHER_RATE, LOWER_RATE, unusual

USUAL_RATE = 1e-4
"""A learning rate from which on small steps have another reason; RL Baselines3 Zoo's are 3e-5 to 1e-3."""

NARROW = 0.01
"""Standard deviation below which log-probabilities in float32 are rounding more than number."""


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

    :param end: where the part of it ends that is looked at
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


SYMPTOMS: tuple[Symptom, ...] = (
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
)
