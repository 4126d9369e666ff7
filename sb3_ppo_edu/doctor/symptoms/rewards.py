"""
Whether the rewards that the policy is trained on are those that its monitor reports.

An episode's sum is compared with the monitor's return, see :mod:`sb3_ppo_edu.algorithms.environment_numbers`. With no
wrapper between them they are equal to rounding.
"""

from __future__ import annotations

import math

from sb3_ppo_edu.doctor.findings import Band, Evidence, Finding, Symptom, beyond, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import LEARNING
from sb3_ppo_edu.doctor.symptoms.metrics import RETURN, RETURN_BAND, gained

DIFFERENCE, RATIO, SLOPE = "train/monitor_difference", "train/monitor_ratio", "train/monitor_slope"
OFFSET, CORRELATION, ZERO = "train/monitor_offset", "train/monitor_correlation", "train/reward_zero"

ROUNDED = 0.01
"""Difference, over the size of the returns, below which rewards are those that the monitor has seen."""


def are_equal(record: Record) -> bool:
    """Tell whether rewards are the monitor's, or are normalised, which changes them on purpose."""
    return median(record, DIFFERENCE) < ROUNDED and median(record, DIFFERENCE, 0.67) < ROUNDED


def is_normalized(record: Record) -> bool:
    """Tell whether rewards are normalised, as far as it is known."""
    return bool(record.setting("normalize_rewards" if "normalize_rewards" in record.settings else "normalize"))


def compared(record: Record, how: str) -> Evidence:
    """
    Write how rewards and returns compare.

    :param how: what has been done to the rewards
    """
    slope, correlation = median(record, SLOPE), median(record, CORRELATION)
    ratio, offset = median(record, RATIO), median(record, OFFSET)
    related = "" if math.isnan(slope) else f", slope {show(slope)}, correlation {show(correlation)}"
    text = (
        f"{how}: they add up to {show(ratio)} times the returns that the monitor reports ({show(offset)} more a step{related})"
    )
    return evidence_of(record, RATIO if record.has(RATIO) else DIFFERENCE, text)


def reward_sign(record: Record) -> Finding | None:
    """Find rewards that are high where the monitor's returns are low."""
    slope, ratio, related = median(record, SLOPE), median(record, RATIO), median(record, CORRELATION)
    if are_equal(record):
        return None
    if math.isnan(slope):
        # Returns that do not vary tell a turned reward from a constant one no more.
        evidence = compared(record, "rewards are turned around, or a constant of the other sign")
        return find("reward-sign", 1.0 if ratio < 0 else -1.0, evidence, most=0.75)
    turned = related < -0.5 and slope < 0
    return find("reward-sign", 1.0 if turned else -1.0, compared(record, "rewards are turned around"))


def reward_noise(record: Record) -> Finding | None:
    """Find rewards that have little to do with the monitor's returns."""
    related = median(record, CORRELATION)
    if are_equal(record) or math.isnan(related) or related < -0.5:
        return None
    how = "rewards are a constant" if median(record, SLOPE) == 0 else "rewards follow something else, such as noise"
    return find("reward-noise", beyond(max(1.0 - related, 1e-9), 0.08, 0.5), compared(record, how), most=0.95)


def reward_altered(record: Record) -> Finding | None:
    """Find rewards of another scale than the monitor's, shifted, or different in some steps."""
    if are_equal(record) or is_normalized(record):
        return None
    slope, ratio, related = median(record, SLOPE), median(record, RATIO), median(record, CORRELATION)
    size = ratio if math.isnan(slope) or abs(related) < 0.5 else slope
    factor = max(abs(size), 1e-9)
    scaled = beyond(max(factor, 1 / factor), 30.0, 300.0)
    shifted = beyond(abs(ratio - slope) / factor, 0.3, 2.0) if not math.isnan(slope) else -1.0
    begin, end = median(record, RATIO, 0.0, 0.33), median(record, RATIO, 0.67)
    scale, shift = f"rewards are multiplied by {show(factor)}", f"{show(median(record, OFFSET))} is added to each reward"
    evidence = compared(record, shift if shifted > scaled else scale)
    if record.has(RATIO, 4) and begin * end > 0 and (moved := max(begin / end, end / begin)) > 1.5:
        evidence = evidence_of(
            record, RATIO, f"rewards add up to {show(begin)} times the returns at first, {show(end)} at last"
        )
        scaled = max(scaled, beyond(moved, 1.5, 5.0))
    found = find("reward-altered", max(scaled, shifted), evidence, most=0.9)
    if found is not None:
        return found
    # What is added or changed on purpose does no harm: then the return rises.
    if record.has(RETURN, 4) and gained(record) > 0.5:
        return None
    evidence = compared(record, "some rewards are other ones, left out or late")
    return find("reward-altered", beyond(median(record, DIFFERENCE), 0.02, 1.0), evidence, most=0.7)


def reward_sparse(record: Record) -> Finding | None:
    """Find rewards that come at the end of an episode only, in a training that gets nowhere."""
    share = median(record, ZERO)
    if record.has(RETURN, 4) and gained(record) > 0.5:
        return None
    text = f"{share:.1%} of the steps are neither rewarded nor punished"
    return find("reward-sparse", beyond(max(1.0 - share, 1e-9), 0.04, 0.004), evidence_of(record, ZERO, text), most=0.65)


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        name="reward-sign",
        title="Rewards have the wrong sign: they are high where the monitor's returns are low",
        needs=(DIFFERENCE,),
        healthy="equal to the monitor's",
        source="arithmetic",
        meaning="The policy is paid for doing badly.",
        remedy="Look for a minus, or a cost taken for a reward, in the wrappers around the monitor.",
        not_when="costs that a monitor reports as such.",
        examine=reward_sign,
        bands=(Band(SLOPE, 1.0, 1.0), RETURN_BAND),
        explains=(*LEARNING, "reward-altered", "forgetting"),
        min_updates=2,
    ),
    Symptom(
        name="reward-noise",
        title="Rewards hardly follow the monitor's returns: they are noise, or constant, or clipped",
        needs=(DIFFERENCE, CORRELATION),
        healthy="a correlation of 1 between what an episode is rewarded with and its return",
        source="arithmetic; the limits are calibration",
        meaning="What is learned from is not what is reported, and drowns it.",
        remedy="Take away what adds to, clips or replaces rewards around the monitor.",
        not_when="rewards that are shaped on purpose; returns that hardly vary.",
        examine=reward_noise,
        bands=(Band(CORRELATION, 0.9, 1.0), RETURN_BAND),
        explains=(*LEARNING, "reward-altered"),
        min_updates=2,
    ),
    Symptom(
        name="reward-altered",
        title="Rewards are not those that the monitor reports: scaled, shifted, clipped or delayed",
        needs=(DIFFERENCE,),
        healthy="equal to the monitor's, or scaled by less than thirty",
        source="arithmetic; the limits are calibration",
        meaning="The return that is reported is not the one that is maximised, or the value function meets another scale.",
        remedy="Compare env.step's rewards inside and outside of the wrappers.",
        not_when="rewards that are shaped on purpose: then the return rises, and nothing is found.",
        examine=reward_altered,
        bands=(Band(RATIO, 0.1, 10.0, log=True), RETURN_BAND),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="reward-sparse",
        title="Rewards come at the end of episodes only, or hardly ever",
        needs=(ZERO,),
        healthy="a reward for every step, or a return that rises",
        source="lecture (reward shaping); the limits are calibration",
        meaning="Which action has earned the reward cannot be told.",
        remedy="Give rewards when they are earned, shape them, or raise gamma and gae_lambda.",
        not_when="tasks that are won or lost at their end: then a rising return says that it is learned.",
        examine=reward_sparse,
        bands=(Band(ZERO, None, 0.9), RETURN_BAND),
        explains=("value-not-learning", "no-progress", "reward-never-seen"),
        min_updates=2,
    ),
)
