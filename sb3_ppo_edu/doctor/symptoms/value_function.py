"""
What the value function learns: its loss, its fit to old and new returns, and the clipping of its steps.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025, the activity its notebook (errata of both:
notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Change, Finding, Symptom, beyond, current, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import OUTCOME, VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import EXPLAINED, EXPLAINED_BAND, RETURN, SB3_MAX_GRAD_NORM, gained, return_scale
from sb3_ppo_edu.doctor.symptoms.settings import NORMALIZE


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


def value_clip_too_tight(record: Record) -> Finding | None:
    """Find value clipping, which is in units of the return, that is small against the returns."""
    clip, scale = median(record, "train/clip_range_vf"), return_scale(record)
    return find(
        "value-clip-too-tight",
        min(beyond(clip / max(scale, 1e-9), 0.03, 0.003), beyond(1.0 - min(median(record, EXPLAINED, 0.5), 0.999), 0.3, 0.8)),
        evidence_of(record, "train/clip_range_vf", f"{show(clip)}, while returns deviate by about {show(scale)}"),
        evidence_of(record, EXPLAINED, f"median {show(median(record, EXPLAINED, 0.5))} in the second half"),
    )


SYMPTOMS: tuple[Symptom, ...] = (
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
        source="our guide; SB3's documentation (≤ 0 is worse than predicting the mean); the limit 0.05 is calibration",
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
        examine=value_clip_too_tight,
        changes=(Change("clip_range_vf", "null"),),
        bands=(EXPLAINED_BAND,),
        explains=("value-not-learning", "no-progress", "value-dominates"),
    ),
)
