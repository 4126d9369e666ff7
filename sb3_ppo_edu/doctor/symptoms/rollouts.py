"""
The data of an update: the size of rollouts, the horizon of the discount, the ends of episodes, and GAE.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (errata: notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import MIN_UPDATES, Band, Change, Finding, Symptom, beyond, evidence_of, find, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import OUTCOME, VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import EXPLAINED_BAND, KL, KL_BAND, LENGTH, RETURN_BAND, rollout_size


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
    """Find episodes that all end after the same number of steps, or at the task's limit, and are reported as ended by it."""
    limit, longest = record.number("time_limit"), record.values("train/episode_length_max")
    reached = int((longest == limit).sum())
    if limit is not None and reached > 1 and not record.values("train/episodes_truncated").any():
        text = (
            f"in {reached} rollouts an episode has reached the limit of {show(limit)} steps, and none is reported as cut off"
        )
        evidence = evidence_of(record, "train/episode_length_max", text)
        return find("limit-as-terminal", min(reached / 6, 1.0), evidence, most=0.85)
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
    """Find advantages that are not those of GAE, worked out again, or of another discount than the one that is set."""
    for name in ("gamma", "gae_lambda"):
        given, used = record.number(name), record.number(f"buffer_{name}")
        if given is not None and used is not None and abs(given - used) > 1e-6:
            text = f"{show(used)} in the rollout buffer, where the model's {name} is {show(given)}"
            return find("advantages-wrong", 1.0, evidence_of(record, f"settings/buffer_{name}", text))
    if not record.has("doctor/gae_error"):
        return None
    error = float(record.values("doctor/gae_error").max())
    text = f"up to {show(error)} standard deviations away from GAE worked out again, expected 0 to rounding"
    return find("advantages-wrong", beyond(error, 1e-2, 1e-1), evidence_of(record, "doctor/gae_error", text))


SYMPTOMS: tuple[Symptom, ...] = (
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
        needs=("doctor/gae_error|settings/buffer_gamma",),
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
)
