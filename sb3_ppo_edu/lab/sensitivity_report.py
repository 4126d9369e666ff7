"""The report of the sensitivity study: from rows to a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sb3_ppo_edu.lab.algorithms import RANDOM
from sb3_ppo_edu.lab.formatting import NOTHING, interval, number
from sb3_ppo_edu.lab.importance import Effect, effects_of, lecture_order_holds, levels_of, reaches
from sb3_ppo_edu.lab.learning import OURS, Task
from sb3_ppo_edu.lab.page import Picture, Section, Table
from sb3_ppo_edu.lab.plots import Panel, draw_bands, draw_one_setting, draw_panels
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.sensitivity import COLLAPSE, FACTORS, JOINT, LECTURE_ORDER, Factor, variant_of
from sb3_ppo_edu.lab.summary import Who, band

NO_DIFFERENCE = 0.01
"""Reach below which a setting counts as doing nothing."""
SURE = 0.95
RATE = FACTORS[0]


def sensitivity_sections(rows: Sequence[RunRow], points: Sequence[CurveRow], tasks: Sequence[Task]) -> list[Section]:
    """
    Write the study: the ranking, what each setting does, and the lecture's two demonstrations.

    :param rows: all rows
    :param points: all evaluations during training
    :param tasks: environments that have rows
    :return: the sections
    """
    found = {task: effects_of(rows, task) for task in tasks}
    return [
        ranking_section(found),
        *(settings_section(rows, task) for task in tasks if any(levels_of(rows, task, factor) for factor in FACTORS)),
        *rate_section(rows, tasks),
        *collapse_section(rows, points, tasks),
        method_section(rows),
    ]


def sensitivity_lead(rows: Sequence[RunRow], tasks: Sequence[Task]) -> list[str]:
    """
    Say in plain words what the study came to.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: paragraphs
    """
    paragraphs = []
    for task in tasks:
        holds = lecture_order_holds(rows, task)
        if holds is None:
            continue
        reach = {name: float(found[0]) for name, found in reaches(rows, task).items()}
        order = sorted(LECTURE_ORDER, key=lambda name: -reach[name])
        titles = {factor.name: factor.title for factor in FACTORS}
        listed = ", ".join(f"{titles[name]} ({reach[name]:.2f})" for name in order)
        paragraphs.append(
            f"**{task.env}**: the lecture ranks learning rate, clip range, rollout. Over its own ranges we find {listed}: "
            f"{verdict([reach[name] for name in order], holds)}"
        )
    return paragraphs


def verdict(reaches: Sequence[float], holds: float) -> str:
    """
    Say whether the lecture's ranking holds.

    :param reaches: of the three settings, the largest first
    :param holds: probability that the ranking is right, as the seeds have it
    :return: a sentence
    """
    if reaches[1] < NO_DIFFERENCE:
        return "only the first **makes a difference** here; the order of the others can't be told."
    if holds >= SURE:
        return f"the ranking **holds** here (probability {holds:.0%})."
    if holds <= 1 - SURE:
        return f"the ranking **does not hold** here (probability {holds:.0%})."
    return f"whether the ranking holds here is **not settled** (probability {holds:.0%})."


def ranking_section(found: dict[Task, list[Effect]]) -> Section:
    """
    Rank the settings.

    :param found: effects by environment, the strongest first
    :return: the section
    """
    header = ["environment", "setting", "from … to", "reach [95% interval]", "p", "importance, jointly [95% interval]"]
    lines = [
        [
            task.env,
            effect.factor.title,
            f"{effect.factor.low:g} … {effect.factor.high:g}",
            interval(effect.reach),
            NOTHING if effect.chance is None else f"{effect.chance:.3f}",
            interval(effect.importance),
        ]
        for task, effects in found.items()
        for effect in effects
    ]
    text = [
        "The most sensitive first. **Reach**: best minus worst mean score when this setting alone goes through its range. "
        "Best minus worst is above 0 by chance alone: **p** is the probability of such differences if the setting did "
        "nothing (Kruskal and Wallis). **Importance, jointly**: share of the variance that the setting explains by itself "
        "when all of them vary at once, each over its range as drawn, which for most is by powers (fANOVA); what is missing "
        "from 1 is due to combinations and to the seed.",
    ]
    return Section("Ranking", text, Table(header, lines, names=2))


def panel_of(rows: Sequence[RunRow], task: Task, factor: Factor) -> Panel | None:
    """
    Sum up a setting for its picture.

    :param rows: all rows
    :param task: the environment
    :param factor: the setting
    :return: its panel, or None without rows
    """
    levels = levels_of(rows, task, factor)
    if not levels:
        return None
    return Panel(
        factor.title.partition(" (")[0],
        [level.value for level in levels],
        [level.score.value for level in levels],
        [level.score.low for level in levels],
        [level.score.high for level in levels],
        factor.default,
    )


def settings_section(rows: Sequence[RunRow], task: Task) -> Section:
    """
    Show what each setting does in one environment.

    :param rows: all rows
    :param task: the environment
    :return: the section
    """
    header = ["setting", "value", "seeds", "final returns", "score [95% interval]"]
    lines = []
    for factor in FACTORS:
        for level in levels_of(rows, task, factor):
            returns = ", ".join(map(number, level.returns))
            value = f"{level.value:g}" + (" (default)" if level.value == factor.default else "")
            lines.append([factor.title, value, str(len(level.returns)), returns, interval(level.score)])
    panels = [panel for factor in FACTORS if (panel := panel_of(rows, task, factor)) is not None]
    caption = f"{task.env}: mean score at each value, the others at SB3's defaults (dotted), with 95% intervals over seeds"
    title = f"{task.env}, {task.steps:,} steps: one setting at a time"
    picture = Picture(f"{task.env}.png", draw_panels(title, panels), caption)
    return Section(task.env, (), Table(header, lines, names=2), picture)


def rate_section(rows: Sequence[RunRow], tasks: Sequence[Task]) -> list[Section]:
    """
    Show the lecture's picture of return against learning rate.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: the section, or none without rows
    """
    panels = {task.env: panel for task in tasks if (panel := panel_of(rows, task, RATE)) is not None}
    if not panels:
        return []
    figure = draw_one_setting("A sweet spot: score against learning rate", panels)
    caption = "Score of the final policy against the learning rate; dotted: SB3's default"
    text = ["Too low, and the steps do not suffice; too high, and the policy is destroyed. In between lies the sweet spot."]
    return [Section("Learning rate", text, None, Picture("learning-rate.png", figure, caption))]


def collapse_section(rows: Sequence[RunRow], points: Sequence[CurveRow], tasks: Sequence[Task]) -> list[Section]:
    """
    Show the lecture's demonstration: a policy that collapses at a learning rate of 0.1.

    :param rows: all rows
    :param points: all evaluations during training
    :param tasks: environments that have rows
    :return: the section, or none until both learning rates are run
    """
    task = tasks[0]
    bands = {}
    for value in (RATE.default, COLLAPSE):
        own = [row for row in rows if row.variant == variant_of(RATE, value)]
        found = band(own, points, task, Who(OURS, "defaults"))
        if found is not None:
            bands[f"learning rate {value:g}"] = found
    if len(bands) < 2:
        return []
    random = [row.final_mean for row in rows if (row.env, row.algorithm) == (task.env, RANDOM)]
    first = [
        f"{name}: {number(curve.mean[0])} after {number(curve.steps[0])} steps and {number(curve.mean[-1])} at the end"
        for name, curve in bands.items()
    ]
    text = [
        f"Mean returns in {task.env}: {'; '.join(first)}; random actions: {number(float(np.mean(random)))}.",
        f"Clipping does not prevent the collapse at {COLLAPSE:g}: it removes the gradient of a ratio that has left the "
        "interval, which Adam's steps of that size leave at once; the data says nothing about a policy so far off.",
    ]
    figure = draw_bands(f"{task.env}: collapsed before its first evaluation", bands, task.target, float(np.mean(random)))
    return [Section("Collapse", text, None, Picture("collapse.png", figure, f"{task.env}: learning with two learning rates"))]


def method_section(rows: Sequence[RunRow]) -> Section:
    """
    Say how the numbers came about.

    :param rows: all rows
    :return: the section
    """
    found = {row.env: 0 for row in rows}
    for row in rows:
        found[row.env] += row.variant == JOINT
    numbers = sorted(set(found.values()) - {0})
    joint = (
        f" The joint design is a scrambled Sobol sequence over the ranges of the ranking ({' or '.join(map(str, numbers))} "
        "runs in each environment, with different seeds)."
        if numbers
        else ""
    )
    return Section(
        "How it was measured",
        [
            "EduPPO with SB3's default settings, no normalisation; the network is SB3's too. One setting at a time takes "
            f"each of its values while the others stay.{joint} Returns are those of the final policy, deterministic, over 30 "
            "episodes; scores put random actions at 0 and the target at 1, and worse than random counts as 0.",
            "With few seeds the intervals, a bootstrap over seeds, are too narrow."
            + (" Those of the importances come from forests grown on resampled runs." if numbers else ""),
        ],
    )
