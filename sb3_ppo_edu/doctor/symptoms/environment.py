"""
What is wrong with the environment: what observations say, what actions do, how episodes begin and end.

Numbers are those that EduPPO logs of a rollout, see :mod:`sb3_ppo_edu.algorithms.environment_numbers`. Limits without a source
are calibration: healthy trainings of ``benchmarks/doctor/own_faults.py`` and of its ``train`` split.
"""

from __future__ import annotations

import numpy as np

from sb3_ppo_edu.doctor.findings import Band, Finding, Symptom, beyond, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import LEARNING
from sb3_ppo_edu.doctor.symptoms.metrics import EXPLAINED_BAND, LENGTH, RETURN_BAND, rollout_size

CONSTANT, PREDICTED, PREDICTED_LEAST = (
    "train/observation_constant",
    "train/observation_predicted_max",
    "train/observation_predicted_min",
)
REPEATED, DISTINCT, OUTSIDE = "train/observation_repeated", "train/observation_distinct", "train/observation_outside"
CLIPPED = "train/observation_clipped"
EFFECT, LATE_EFFECT, STARTS = "train/action_effect", "train/action_effect_late", "train/starts_distinct"
LONGEST, LENGTHS_EQUAL, LENGTH_RATIO = "train/episode_length_max", "train/monitor_lengths_equal", "train/monitor_length_ratio"
ENDED, TRUNCATED = "train/episodes_ended", "train/episodes_truncated"

UNKNOWN_LIMIT = 5000
"""Steps of an episode that are long where the environment's limit is not known."""


def worst(record: Record, key: str) -> float:
    """Give the larger one of a metric's median and of that of its last third: a fault may begin in mid-training."""
    return max(median(record, key), median(record, key, 0.67))


def observations_constant(record: Record) -> Finding | None:
    """Find observations of which parts never change."""
    share, always = worst(record, CONSTANT), float(record.values(CONSTANT).min())
    if share < 0.5:
        share = always  # a few parts may rest for a while, such as contacts of one that flies
    text = f"{share:.0%} of the observation's parts never change within a rollout; healthy 0 %"
    most = 1.0 if share >= 0.5 else 0.75
    return find("observations-constant", beyond(share, 0.02, 0.6), evidence_of(record, CONSTANT, text), most=most)


def observations_without_information(record: Record) -> Finding | None:
    """Find observations that have nothing to do with those before them."""
    known, least = median(record, PREDICTED), median(record, PREDICTED_LEAST)
    lost = min(known, median(record, PREDICTED, 0.67))
    text = f"at most {max(lost, 0):.0%} of the variance of any part follows from the observation before it and the action"
    position = beyond(max(1.0 - lost, 1e-9), 0.05, 0.5)
    if position >= 0:
        return find("observations-without-information", position, evidence_of(record, PREDICTED, f"{text}; healthy 98 %"))
    text = f"of one part only {max(least, 0):.0%} of the variance follows from the observation before it and the action"
    evidence = evidence_of(record, PREDICTED_LEAST, f"{text}; healthy above 40 %")
    return find("observations-without-information", beyond(max(1.0 - least, 1e-9), 0.75, 0.97), evidence, most=0.7)


def observations_stale(record: Record) -> Finding | None:
    """Find observations that are handed out several times."""
    share = worst(record, REPEATED)
    if median(record, CONSTANT) == 1:
        return None
    text = f"{share:.0%} of the steps leave every part of the observation as it was; healthy 0 %"
    return find("observations-stale", beyond(share, 0.2, 0.6), evidence_of(record, REPEATED, text), most=0.95)


def observations_coarse(record: Record) -> Finding | None:
    """Find observations with a handful of different values."""
    share = median(record, DISTINCT)
    if median(record, CONSTANT) == 1:
        return None
    clipped = worst(record, CLIPPED)
    text = f"no part has more different values than {share:.1%} of the steps; of physical quantities nearly all differ"
    found = find("observations-coarse", beyond(share, 0.15, 0.03), evidence_of(record, DISTINCT, text), most=0.7)
    text = f"{clipped:.0%} of the numbers are the least or the largest of their part; healthy below 30 %"
    return found or find("observations-coarse", beyond(clipped, 0.4, 0.8), evidence_of(record, CLIPPED, text), most=0.8)


def observations_outside(record: Record) -> Finding | None:
    """Find observations that leave the space that the environment declares."""
    if record.setting("normalize_observations" if "normalize_observations" in record.settings else "normalize"):
        return None
    share = worst(record, OUTSIDE)
    text = f"{share:.0%} of the observation's parts leave the range that the environment's observation space declares"
    return find("observations-outside", beyond(share, 0.05, 0.5), evidence_of(record, OUTSIDE, text), most=0.7)


def action_without_effect(record: Record) -> Finding | None:
    """Find actions that what comes next does not depend on."""
    # Late in a training the policy hardly varies its actions, and nothing can be told from them.
    # State-dependent exploration makes it a function of the observation for many steps: there, once is enough.
    sde = bool(record.setting("use_sde"))
    effect = float(record.values(EFFECT).max() if sde else np.quantile(record.values(EFFECT, 0.0, 0.5), 0.75))
    text = f"the action explains {max(effect, 0):.1%} of what observations leave unexplained of what comes next"
    evidence = evidence_of(record, EFFECT, f"{text}; healthy above 50 %: it is ignored, replaced, or acts much later")
    strong = find("action-without-effect", beyond(effect, 0.08, 0.02), evidence)
    return strong or (None if sde else find("action-without-effect", beyond(effect, 0.35, 0.08), evidence, most=0.7))


def action_late(record: Record) -> Finding | None:
    """Find actions whose effect comes one step late."""
    now, late = median(record, EFFECT, 0.0, 0.5), median(record, LATE_EFFECT, 0.0, 0.5)
    text = f"the action before explains {late:.0%} of the next change, the action of the step itself {max(now, 0):.0%}"
    position = min(beyond(late, 0.15, 0.5), beyond(max(now, 1e-9) / max(late, 1e-9), 0.6, 0.2))
    return find("action-late", position, evidence_of(record, LATE_EFFECT, text))


def episodes_never_end(record: Record) -> Finding | None:
    """Find a training in which no episode ends, as far as it is told."""
    ends, size, n_envs = record.values(ENDED), rollout_size(record), record.number("n_envs")
    if ends.sum() > 0 or size is None or n_envs is None:
        return None
    seen, limit = len(ends) * size / n_envs, record.number("time_limit")
    text = f"no episode has ended in {show(seen)} steps of each environment"
    texts = [evidence_of(record, ENDED, text + (f"; its time limit is {show(limit)}" if limit else ""))]
    if record.has(LENGTH):
        told = f"the monitor reports episodes of {show(median(record, LENGTH))} steps whose end the training is not told"
        texts.append(evidence_of(record, LENGTH, told))
    position = beyond(seen / (limit or UNKNOWN_LIMIT), 1.2, 3.0)
    return find("episodes-never-end", position, *texts, most=1.0 if limit or record.has(LENGTH) else 0.8)


def episodes_cut_short(record: Record) -> Finding | None:
    """Find episodes that all end after the same number of steps, long before the environment's own limit."""
    limit, longest = record.number("time_limit"), record.values(LONGEST)
    cap = float(longest.max())
    if limit is None or len(longest) < 3 or cap > 0.9 * limit or record.values(ENDED).sum() < 5:
        return None
    share = float((longest == cap).mean())
    text = (
        f"the longest episode of {share:.0%} of the rollouts has exactly {show(cap)} steps; the task's limit is {show(limit)}"
    )
    return find("episodes-cut-short", beyond(share, 0.5, 0.9), evidence_of(record, LONGEST, text), most=0.95)


def ends_changed(record: Record) -> Finding | None:
    """Find episodes that are not those that the monitor reports."""
    equal, ratio = median(record, LENGTHS_EQUAL), median(record, LENGTH_RATIO)
    whole = round(ratio)
    if whole >= 2 and abs(ratio - whole) < 0.1 * whole:
        # Each action is held for so many steps: a wrapper that many tasks are learned with.
        text = f"each step that the policy sees is {whole} of the environment's"
        return find("ends-changed", beyond(ratio, 6.0, 20.0), evidence_of(record, LENGTH_RATIO, text), most=0.7)
    text = f"{equal:.0%} of the episodes have the length that the monitor reports; it reports {ratio:.2g} times as many steps"
    return find("ends-changed", beyond(1.0 - equal, 0.2, 0.7), evidence_of(record, LENGTHS_EQUAL, text), most=0.9)


def ends_unreported(record: Record) -> Finding | None:
    """Find episodes that end and that no monitor reports."""
    ended = float(record.values(ENDED).sum())
    if record.has(LENGTH) or ended < 5:
        return None
    text = f"{show(ended)} episodes have ended in the rollouts that were measured, and no monitor has reported any"
    return find("ends-unreported", 0.5, evidence_of(record, ENDED, text))


def resets_alike(record: Record) -> Finding | None:
    """Find episodes that begin in the same place every time."""
    distinct = median(record, STARTS)
    if median(record, CONSTANT) == 1:
        return None
    text = f"only {distinct:.0%} of the episodes of a rollout begin with an observation of their own"
    return find("resets-alike", beyond(distinct, 0.7, 0.15), evidence_of(record, STARTS, text), most=0.8)


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        name="observations-constant",
        title="Observations, or parts of them, never change",
        needs=(CONSTANT,),
        healthy="no part is constant over a rollout",
        source="arithmetic: what never changes says nothing",
        meaning="The policy cannot tell one state from another, or is blind to a part of it.",
        remedy="Print a few observations; look for a wrapper that masks, zeroes or normalises them with wrong statistics.",
        not_when="parts that a task never uses, such as contacts that do not happen or one-hot codes.",
        examine=observations_constant,
        bands=(Band(CONSTANT, 0.0, 0.0), EXPLAINED_BAND),
        explains=(*LEARNING, "resets-alike", "observations-coarse", "action-without-effect", "observations-stale"),
        min_updates=2,
    ),
    Symptom(
        name="observations-without-information",
        title="Observations are noise: they do not follow from one another",
        needs=(PREDICTED, PREDICTED_LEAST),
        healthy="98 % of some part's variance follows from the observation before it and the action",
        source="arithmetic of least squares; the limits are calibration",
        meaning="The policy sees noise, another environment's observation, or its own one shuffled, in place of the state.",
        remedy="Compare env.step's observations with what the policy is given; look for noise and shuffling.",
        not_when="tasks whose states are drawn anew at each step, such as bandits with a context.",
        examine=observations_without_information,
        bands=(Band(PREDICTED, 0.9, 1.0), EXPLAINED_BAND),
        explains=(*LEARNING, "action-without-effect", "observations-outside"),
        min_updates=2,
    ),
    Symptom(
        name="observations-stale",
        title="Observations are repeated: old ones are handed out while the environment goes on",
        needs=(REPEATED, CONSTANT),
        healthy="each step changes some part",
        source="arithmetic; the limits are calibration",
        meaning="The policy acts on what was, not on what is.",
        remedy="Look for a wrapper or a sensor that is updated every few steps only, or returns the array of an earlier step.",
        not_when="tasks that wait, such as board games in which the other side moves, or walls that stop every move.",
        examine=observations_stale,
        bands=(Band(REPEATED, 0.0, 0.1),),
        explains=(*LEARNING, "action-late", "observations-coarse", "action-without-effect"),
        min_updates=2,
    ),
    Symptom(
        name="observations-coarse",
        title="Observations are rounded or clipped to a handful of values",
        needs=(DISTINCT, CLIPPED, CONSTANT),
        healthy="nearly every step has a value of its own",
        source="arithmetic; the limits are calibration",
        meaning="States that need different actions look the same.",
        remedy="Look for rounding, integer types and tight clipping on the way from the environment to the policy.",
        not_when="tasks on a grid, boards and other discrete states.",
        examine=observations_coarse,
        bands=(Band(DISTINCT, 0.5, 1.0),),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="observations-outside",
        title="Observations leave the range that their space declares",
        needs=(OUTSIDE,),
        healthy="all within the observation space",
        source="Gymnasium's definition of a space (check_env says so too)",
        meaning="Something scales, shifts or adds to observations after the environment, or its space is wrong.",
        remedy="Run check_env, and compare the observations with the space part by part.",
        not_when="normalised observations.",
        examine=observations_outside,
        bands=(Band(OUTSIDE, 0.0, 0.0),),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="action-without-effect",
        title="The action has no effect, or hardly any, on what comes next",
        needs=(EFFECT,),
        healthy="early in training the action explains more than half of what is left to explain",
        source="arithmetic of least squares; the limits are calibration",
        meaning="Whatever the policy does, the same happens: its actions are ignored, replaced at random, or lost on the way.",
        remedy="Step the environment by hand with two different actions from the same state, through all wrappers.",
        not_when="a policy that does not vary its actions from the start; effects that come after many steps only.",
        examine=action_without_effect,
        bands=(Band(EFFECT, 0.5, 1.0),),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="action-late",
        title="Actions take effect a step late, or observations come a step late",
        needs=(EFFECT, LATE_EFFECT),
        healthy="the action of a step explains its change",
        source="arithmetic of least squares; the limits are calibration",
        meaning="The policy is credited with what its action before has done.",
        remedy="Look for a delay between policy and environment: a queue of actions, or an observation from before the step.",
        not_when="tasks with a delay of their own: give the policy its last actions there.",
        examine=action_late,
        bands=(Band(LATE_EFFECT, 0.0, 0.3), Band(EFFECT, 0.5, 1.0)),
        explains=(*LEARNING, "action-without-effect"),
        min_updates=2,
    ),
    Symptom(
        name="episodes-never-end",
        title="Episodes never end",
        needs=(ENDED,),
        healthy="episodes end, by themselves or at their limit",
        source="Gymnasium's TimeLimit; the factor is calibration",
        meaning="No end is ever told: failing costs nothing, nothing begins anew, and returns are not known.",
        remedy="Have the environment return terminated or truncated, and put TimeLimit around it.",
        not_when="tasks without an end that are meant to be so.",
        examine=episodes_never_end,
        bands=(Band(ENDED, 1.0, None),),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="episodes-cut-short",
        title="Episodes are cut off long before the environment's own limit",
        needs=(LONGEST, ENDED, "settings/time_limit"),
        healthy="episodes that end by themselves or at the limit that the environment is registered with",
        source="Gymnasium's registration (max_episode_steps); the share is calibration",
        meaning="What takes longer than that is never seen.",
        remedy="Look for a second TimeLimit, and raise or remove it.",
        not_when="a shorter limit on purpose; a task that always takes the same number of steps.",
        examine=episodes_cut_short,
        bands=(Band(LONGEST, None, None), RETURN_BAND),
        explains=(*LEARNING, "ends-changed", "ends-unreported"),
        min_updates=2,
    ),
    Symptom(
        name="ends-changed",
        title="Episodes are not those that the monitor reports: ends are added, left out or moved, or actions held for long",
        needs=(LENGTHS_EQUAL, LENGTH_RATIO),
        healthy="the same lengths",
        source="arithmetic; up to five steps an action (RL Baselines3 Zoo's frame skips are 4) are usual",
        meaning="Something between the monitor and the training ends episodes, or goes on where one has ended.",
        remedy="Look at the wrappers around the monitor that touch terminated and truncated, or repeat actions.",
        not_when="wrappers that are meant to do so.",
        examine=ends_changed,
        bands=(Band(LENGTHS_EQUAL, 0.9, 1.0),),
        explains=(*LEARNING, "reward-altered", "terminal-as-limit"),
        min_updates=2,
    ),
    Symptom(
        name="ends-unreported",
        title="Episodes end and no monitor reports them: something around it ends them early, or there is none",
        needs=(ENDED,),
        healthy="each episode is reported",
        source="Stable-Baselines3's Monitor",
        meaning="Returns are not known; where there is a monitor, episodes are ended before the environment ends them.",
        remedy="Put Monitor around the environment, outside of what ends its episodes.",
        not_when="environments without a monitor on purpose.",
        examine=ends_unreported,
        bands=(Band(ENDED, None, None),),
        explains=LEARNING,
        min_updates=2,
    ),
    Symptom(
        name="resets-alike",
        title="Episodes begin in the same place every time: resets or environments share a seed",
        needs=(STARTS, CONSTANT),
        healthy="each episode begins with an observation of its own",
        source="arithmetic; the limits are calibration",
        meaning="The policy learns one course by heart and meets no other, or all environments are copies of one.",
        remedy="Do not give reset the same seed every time; seed each environment once, with a number of its own.",
        not_when="tasks that have one start only, such as most grids.",
        examine=resets_alike,
        bands=(Band(STARTS, 0.9, 1.0), RETURN_BAND),
        explains=("poor-evaluation", "forgetting", "no-progress"),
        min_updates=2,
    ),
)
