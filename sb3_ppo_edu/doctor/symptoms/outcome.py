"""
What comes of a training: returns, episodes and evaluations.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025, the activity its notebook (errata of both:
notebooks/errata.md).
"""

from __future__ import annotations

import math

import numpy as np

from sb3_ppo_edu.doctor.findings import (
    MIN_UPDATES,
    Band,
    Change,
    Evidence,
    Finding,
    Symptom,
    beyond,
    evidence_of,
    find,
    median,
    show,
)
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import (
    EVALUATED,
    EXPLAINED,
    EXPLAINED_BAND,
    KL_BAND,
    LENGTH,
    RETURN,
    RETURN_BAND,
    gained,
    progress,
)
from sb3_ppo_edu.doctor.symptoms.normalization import reward_scale_too_small, rewards_are_seen

STANDARD_ERRORS = 4.0
"""Of evaluations, by which they have to lie behind: with four of them, chance gets there once in seventy times."""


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


SYMPTOMS: tuple[Symptom, ...] = (
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
)
