"""The reports of the learning experiments: from rows to pages."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_ppo_edu.lab.algorithms import ALGORITHMS, RANDOM
from sb3_ppo_edu.lab.comparison_report import compare_with_sb3, compared, comparison_section
from sb3_ppo_edu.lab.experiments import SUITES, Suite
from sb3_ppo_edu.lab.formatting import NOTHING, in_words, interval, number
from sb3_ppo_edu.lab.learning import OURS, REFERENCE_ENGINE, THEIRS, Task
from sb3_ppo_edu.lab.lecture_table import lecture_section, published_section
from sb3_ppo_edu.lab.method import budgets_in_words, method, wrappers_in_words
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table
from sb3_ppo_edu.lab.plots import Band, draw_bands, draw_each, draw_profiles
from sb3_ppo_edu.lab.rows import read_rows
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.sensitivity_report import sensitivity_lead, sensitivity_sections
from sb3_ppo_edu.lab.statistics import aggregates
from sb3_ppo_edu.lab.statistics.comparisons import Equivalence
from sb3_ppo_edu.lab.suite import CURVES_FILE, RUNS_FILE, identity, is_of
from sb3_ppo_edu.lab.summary import (
    NEARLY,
    Comparison,
    Summary,
    Who,
    band,
    environment_steps,
    learners_of,
    of_task,
    score_table,
    steps_of,
    summarise,
    title_of,
)

TITLES = [algorithm.title for algorithm in ALGORITHMS.values()]
"""All algorithms, in the order of the pictures' palette."""

FEW = 3
"""Curves that one pair of axes can take."""

CAPTION = "mean evaluation return over the seeds, with its 95% interval"

ENOUGH_FOR_SHARES = 10
"""Seeds below which the interval of a share of them says nothing."""


def read_page(folder: Path, name: str) -> Page:
    """
    Make the report of a suite from the rows of its folder.

    :param folder: where the rows are
    :param name: key of :data:`SUITES`
    :return: the report
    :raises ValueError: if there are no rows
    """
    rows, points = read_rows(folder / RUNS_FILE, RunRow), read_rows(folder / CURVES_FILE, CurveRow)
    if not rows:
        raise ValueError(f"{folder / RUNS_FILE}: found no rows; run the suite first: {SUITES[name].command} --folder {folder}")
    return make_page(rows, points, name)


def make_page(rows: Sequence[RunRow], points: Sequence[CurveRow], name: str) -> Page:
    """
    Make the report of a suite.

    :param rows: its rows
    :param points: its evaluations during training
    :param name: key of :data:`SUITES`
    :return: the report
    """
    suite = SUITES[name]
    tasks = [task for task in suite.tasks if of_task(rows, task)]
    if name.startswith("sensitivity"):
        words = [*sensitivity_lead(rows, tasks), *what_is_missing(rows, tasks, suite)]
        return Page(suite.title, words, sensitivity_sections(rows, points, tasks), made_by(rows, name))
    sections = [comparison_section(rows, tasks)] if name.startswith("parity") else [overview(rows, points, tasks)]
    if name == "mujoco":
        sections.append(published_section(rows, tasks))
    if name == "peers":
        sections.append(lecture_section(rows, points, tasks))
    sections += [task_section(rows, points, task) for task in tasks]
    if len(tasks) > 1 and not name.startswith("parity"):
        sections.append(together_section(rows, tasks))
    if not name.startswith("parity") and any(compared(rows, task) for task in tasks):
        sections.append(comparison_section(rows, tasks))
    return Page(suite.title, lead(rows, tasks, suite), [*sections, method(rows, tasks, suite.note)], made_by(rows, name))


def plus_minus(summary: Summary) -> str:
    """
    Write mean and spread of the final returns.

    :param summary: of an algorithm
    :return: such as "231 ± 12"
    """
    digits = 1 if abs(summary.mean) < 10 else 0
    return f"{number(summary.mean, digits)} ± {number(summary.std, digits)}"


def reaching(summary: Summary) -> str:
    """
    Write how many seeds have reached the target.

    :param summary: of an algorithm
    :return: such as "17 of 20 [64%, 95%]"; without the interval where so few seeds make it meaningless
    """
    text = f"{summary.reached} of {summary.seeds}"
    if summary.seeds < ENOUGH_FOR_SHARES:
        return text
    share = aggregates.wilson(summary.reached, summary.seeds)
    return f"{text} [{share.low:.0%}, {share.high:.0%}]"


def trained_for(summary: Summary) -> str:
    """
    Write how long runs trained.

    :param summary: of an algorithm
    :return: such as "40 s", or "40 s (2 of 5)" where only so many runs' times are known
    """
    if summary.seconds is None:
        return NOTHING
    return f"{number(summary.seconds)} s" + (f" ({summary.timed} of {summary.seeds})" if summary.timed < summary.seeds else "")


def lead(rows: Sequence[RunRow], tasks: Sequence[Task], suite: Suite) -> list[str]:
    """
    Say in plain words what the suite came to.

    :param rows: its rows
    :param tasks: environments that have rows
    :param suite: the suite
    :return: paragraphs
    """
    found = []
    every_pair = [(task, one) for task in tasks for one in compared(rows, task)]
    pairs = [(task, one.found) for task, one in every_pair if one.first.algorithm == OURS]
    speeds = [one for task in tasks for who in learners_of(rows, task) if (one := compare_with_sb3(rows, task, who))]
    bits = [one.found for _, one in every_pair if one.first.algorithm == REFERENCE_ENGINE]
    if bits:
        same, all_of_them = sum(one.same_bits for one in bits), sum(one.seeds for one in bits)
        found.append(
            f'With `engine="autograd"` EduPPO ended with **the same bits** as SB3\'s PPO in {same} of {all_of_them} runs.'
        )
    if any({who.algorithm for who in learners_of(rows, task)} - {OURS, REFERENCE_ENGINE, THEIRS, RANDOM} for task in tasks):
        found += [ranked(rows, task) for task in tasks]
    tested = [(task, comparison, comparison.test) for task, comparison in pairs if comparison.test is not None]
    if tested:
        equal = [task.env + why_equal(comparison, test) for task, comparison, test in tested if test.equivalent]
        other = [task.env for task, _, test in tested if test.low > test.margin or test.high < -test.margin]
        unclear = len(tested) - len(equal) - len(other)
        listed = f" ({', '.join(equal)})" if equal else ""
        parts = [
            f'EduPPO as it comes (`engine="auto"`) is shown to learn **as well as SB3\'s PPO** within the stated margins in '
            f"{len(equal)} of {len(tested)} environments{listed}",
            *([f"in {in_words(other)} it is shown to differ"] if other else []),
            *([f"in {unclear} the seeds differ too much among themselves to tell"] if unclear else []),
        ]
        found.append(f"{'; '.join(parts)}.{in_less_time(speeds)}")
    return found + what_is_missing(rows, tasks, suite)


def ranked(rows: Sequence[RunRow], task: Task) -> str:
    """
    Name all algorithms of an environment, the best first.

    :param rows: all rows
    :param task: the environment
    :return: a sentence
    """
    present, total = learners_of(rows, task), steps_of(rows, task)
    means = {who: float(np.mean([row.final_mean for row in of_task(rows, task, who)])) for who in present}
    listed = []
    for who in sorted(means, key=lambda who: -means[who]):
        steps = max(environment_steps(row) for row in of_task(rows, task, who))
        other = abs(steps - total) > NEARLY * total and who.algorithm != RANDOM
        listed.append(f"{title_of(who, present)} {number(means[who])}" + (f" ({number(steps)} steps)" if other else ""))
    return f"**{task.env}**, mean final return after {number(total)} environment steps: {', '.join(listed)}."


def why_equal(found: Comparison, test: Equivalence) -> str:
    """
    Say which equivalence is not one of statistics.

    :param found: the comparison
    :param test: its test
    :return: a few words, or nothing
    """
    if test.low < 0.0 or test.high > 0.0:
        return ""
    return " with the same bits" if found.same_bits == found.seeds else " with one return in all runs"


def in_less_time(comparisons: Sequence[Comparison]) -> str:
    """
    Say how much faster EduPPO trained.

    :param comparisons: with SB3's PPO
    :return: a sentence, or nothing if no run's time is known
    """
    speeds = sorted(one.speed for one in comparisons if one.speed is not None)
    if not speeds:
        return ""
    low, high = number(speeds[0], 1), number(speeds[-1], 1)
    timed, pairs = sum(one.timed for one in comparisons), sum(one.seeds for one in comparisons)
    where = "" if timed == pairs else f", where the times of both are known ({timed} of {pairs} pairs of runs)"
    return f" It trained {low if low == high else f'{low} to {high}'} times as fast here{where}."


def what_is_missing(rows: Sequence[RunRow], tasks: Sequence[Task], suite: Suite) -> list[str]:
    """
    Say which runs of a suite have no rows.

    :param rows: its rows
    :param tasks: environments that have rows
    :param suite: the suite
    :return: a paragraph, or nothing
    """
    expected = suite.runs(range(suite.seeds))
    of_run = {identity(row): row for row in rows}
    done = sum(is_of(row, run) for run in expected if (row := of_run.get(identity(run))) is not None)
    absent = [task.env for task in suite.tasks if task not in tasks]
    if done >= len(expected):
        return []
    without = f", none of {', '.join(absent)}" if absent else ""
    earlier = " The other rows are of an earlier edition of this page." if len(rows) > done else ""
    return [f"**Not all of it is run yet**: there are {done} of {len(expected)} runs{without}.{earlier}"]


def overview(rows: Sequence[RunRow], points: Sequence[CurveRow], tasks: Sequence[Task]) -> Section:
    """
    Show the final returns of all algorithms in all environments.

    :param rows: all rows
    :param points: all evaluations during training
    :param tasks: environments that have rows
    :return: the section
    """
    present = {task: learners_of(rows, task) for task in tasks}
    # An algorithm with several settings in one environment has as many columns everywhere.
    several = {who.algorithm for found in present.values() for who in found if title_of(who, found) != title_of(who, [who])}
    columns = {
        task: {title_of(who, [who, who] if who.algorithm in several else [who]): who for who in found}
        for task, found in present.items()
    }
    names = list(dict.fromkeys(name for task in tasks for name in columns[task]))
    lines = []
    for task in tasks:
        cells = [
            plus_minus(summarise(rows, points, task, columns[task][name])) if name in columns[task] else NOTHING
            for name in names
        ]
        lines.append([task.env, number(steps_of(rows, task)), number(task.target), *cells])
    text = "Return of the final policy, deterministic: mean ± standard deviation over the seeds."
    return Section("Final returns", [text], Table(["environment", "environment steps", "target", *names], lines))


def task_section(rows: Sequence[RunRow], points: Sequence[CurveRow], task: Task) -> Section:
    """
    Show one environment: what each algorithm came to, and how it learned.

    :param rows: all rows
    :param points: all evaluations during training
    :param task: the environment
    :return: the section
    """
    header = [
        "algorithm",
        "seeds",
        "environment steps",
        "final return",
        "IQM [95% interval]",
        f"≥ {number(task.target)}",
        "steps to it",
        "seconds to it",
        "variation",
        "early rises",
        "forgotten",
        "training",
    ]
    present = learners_of(rows, task)
    lines = []
    for who in present:
        found = summarise(rows, points, task, who)
        random = who.algorithm == RANDOM
        lines.append(
            [
                title_of(who, present),
                str(found.seeds),
                NOTHING if random else number(found.steps),
                plus_minus(found),
                interval(found.iqm, 0),
                reaching(found),
                number(found.steps_to_target),
                number(found.seconds_to_target),
                number(found.variation, 2),
                NOTHING if found.early is None else f"{found.early:.0%}",
                number(found.forgetting),
                NOTHING if random else trained_for(found),
            ]
        )
    title = f"{task.env}, {number(steps_of(rows, task))} environment steps"
    title += wrappers_in_words(rows, task) + budgets_in_words(rows, task)
    return Section(title, (), Table(header, lines), task_picture(rows, points, task, title))


def task_picture(rows: Sequence[RunRow], points: Sequence[CurveRow], task: Task, title: str) -> Picture | None:
    """
    Draw how each algorithm learned an environment.

    :param rows: all rows
    :param points: all evaluations during training
    :param task: the environment
    :param title: of the picture
    :return: the picture, or None without evaluations
    """
    present = learners_of(rows, task)
    bands = {title_of(who, present): curve for who in present if (curve := band(rows, points, task, who)) is not None}
    if not bands:
        return None
    random = [row.final_mean for row in of_task(rows, task) if row.algorithm == RANDOM]
    draw = draw_bands if len(bands) <= FEW else draw_each
    known = TITLES if set(bands) <= set(TITLES) else []
    figure = draw(title, bands, task.target, sum(random) / len(random) if random else None, known)
    return Picture(f"{task.env.replace('/', '-').replace(':', '-')}.png", figure, f"{title}: {CAPTION}")


def together_section(rows: Sequence[RunRow], tasks: Sequence[Task]) -> Section:
    """
    Sum up the environments together.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: the section
    """
    # This package's settings that both PPOs can have stand for its own where EduPPO's go beyond them: one line for both.
    groups: dict[Who, list[Who]] = {}
    for who in dict.fromkeys(Who(row.algorithm, row.settings) for row in rows if row.algorithm != RANDOM):
        groups.setdefault(who._replace(settings="own") if who.settings == "shared" else who, []).append(who)
    lines, profiles = [], {}
    thresholds = np.linspace(0.0, 1.5, 61)
    for group, members in groups.items():
        scores = score_table(rows, tasks, members)
        if scores is None:
            continue
        title = title_of(group, list(groups))
        cells = [
            interval(aggregates.bootstrap(scores, statistic))
            for statistic in (aggregates.interquartile_mean, aggregates.median, aggregates.mean, aggregates.optimality_gap)
        ]
        lines.append([title, str(scores.shape[1]), str(scores.shape[0]), *cells])
        if scores.shape[1] == len(tasks):
            low, high = aggregates.profile_band(scores, thresholds)
            shares = aggregates.performance_profile(scores, thresholds)
            profiles[title] = Band(thresholds, shares, low, high, len(scores))
    text = [
        "Scores: 0 is the mean return of random actions, 1 the target. Intervals are stratified bootstraps over seeds (95%; "
        "with few seeds too narrow). **Median**: of the environments' means. **Optimality gap**: how far runs fall short of 1 "
        "on average; less is better. Algorithms with fewer environments are not to be compared with the others.",
    ]
    header = ["algorithm", "environments", "seeds", "IQM", "median", "mean", "optimality gap"]
    picture = None
    if profiles:
        caption = "Performance profiles: share of all runs whose score is above a threshold, with 95% bands"
        picture = Picture("profiles.png", draw_profiles("All environments together", profiles, TITLES), caption)
    return Section("All environments together", text, Table(header, lines), picture)


def made_by(rows: Sequence[RunRow], name: str) -> str:
    """
    Name the command, the machines and the versions.

    :param rows: all rows
    :param name: key of :data:`SUITES`
    :return: a paragraph
    """
    machines, versions = (" and ".join(sorted({getattr(row, what) for row in rows})) for what in ("machine", "versions"))
    return textwrap.fill(f"Made by `{SUITES[name].command}` on {machines}; {versions}.", 120, break_long_words=False)
