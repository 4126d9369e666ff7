"""
What clipping leaves of the gradient.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (errata: notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Change, Finding, Symptom, beyond, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.metrics import KL, KL_BAND, SB3_MAX_GRAD_NORM
from sb3_ppo_edu.doctor.symptoms.settings import NORMALIZE


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


def gradients_always_clipped(record: Record) -> Finding | None:
    """Find gradients that are cut down by orders of magnitude in every update."""
    limit = record.number("max_grad_norm") or SB3_MAX_GRAD_NORM
    least = float(np.quantile(record.values("train/grad_norm"), 0.1))
    text = f"nine updates of ten above {show(least)}, and clipped to {show(limit)}; healthy 0.1 to 10"
    position = min(beyond(least, 400.0, 1e4), beyond(least / limit, 400.0, 1e4))
    return find("gradients-always-clipped", position, evidence_of(record, "train/grad_norm", text), most=0.6)


SYMPTOMS: tuple[Symptom, ...] = (
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
)
