"""
The scale of what is learned from: advantages, rewards and observations.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025, the activity its notebook (errata of both:
notebooks/errata.md).
"""

from __future__ import annotations

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Change, Finding, Symptom, beyond, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import OUTCOME, VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import EXPLAINED, EXPLAINED_BAND, RETURN, return_scale
from sb3_ppo_edu.doctor.symptoms.settings import BY_ITSELF, NORMALIZE


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

    :return: False where all rewards were 0, or were not logged
    """
    return any(bool(record.values(key).any()) for key in ("train/reward_mean", "train/reward_std"))


def reward_scale_too_small(record: Record) -> Finding | None:
    """Find returns so small that the value function's first guesses drown them."""
    scale = return_scale(record)
    unseen = record.has(RETURN) and float(np.ptp(record.values(RETURN))) == 0 and not rewards_are_seen(record)
    if scale == 0 or unseen or median(record, "train/reward_zero") == 1 or abs(median(record, "train/return_mean", 0.1)) > 1:
        # Large returns that hardly vary, as of a policy that has solved its task, are not small ones.
        return None
    key = "train/return_std" if record.has("train/return_std") else "train/value_loss"
    text = f"returns deviate by about {show(scale)}, healthy 0.1 to 300"
    return find("reward-scale-too-small", beyond(scale, 0.07, 0.02), evidence_of(record, key, text))


def observations_not_normalized(record: Record) -> Finding | None:
    """Find observations that are large, or whose parts differ by orders of magnitude."""
    largest, smallest = median(record, "train/observation_scale_max"), median(record, "train/observation_scale_min")
    position = max(beyond(largest, 30.0, 150.0), beyond(largest / max(smallest, 1e-12), 2000.0, 1e5))
    text = f"parts from {show(smallest)} to {show(largest)} in size (root mean square), healthy 0.01 to 10"
    return find("observations-not-normalized", position, evidence_of(record, "train/observation_scale_max", text))


SYMPTOMS: tuple[Symptom, ...] = (
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
            "reward-altered",
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
        explains=("reward-never-seen", "reward-altered", *VALUE, "no-progress"),
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
)
