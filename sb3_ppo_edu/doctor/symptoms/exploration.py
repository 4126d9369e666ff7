"""
How random the policy is: entropy and its bonus, standard deviation, actions at their bounds.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025, the activity its notebook (errata of both:
notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Change, Finding, Symptom, beyond, current, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.metrics import RETURN, RETURN_BAND, entropy_of, is_discrete, progress
from sb3_ppo_edu.doctor.symptoms.settings import unusual


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
    # Beyond any use it is named by itself: some tasks are learned in spite of it.
    position = max(min(beyond(coefficient, 0.04, 0.2), stays), beyond(coefficient, 0.3, 2.0))
    return find("entropy-bonus-too-large", position, *texts)


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


SYMPTOMS: tuple[Symptom, ...] = (
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
        source="our guide (above 2: log_std_bounds); the growth is calibration",
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
)
