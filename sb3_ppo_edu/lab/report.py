"""The reports of the learning experiments: from rows to pages."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_ppo_edu.lab.algorithms import ALGORITHMS, RANDOM
from sb3_ppo_edu.lab.experiments import SUITES, Suite
from sb3_ppo_edu.lab.formatting import NOTHING, in_words, interval, number
from sb3_ppo_edu.lab.learning import OURS, REFERENCE_ENGINE, THEIRS, Task
from sb3_ppo_edu.lab.method import method
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table
from sb3_ppo_edu.lab.plots import Band, draw_bands, draw_profiles
from sb3_ppo_edu.lab.rows import read_rows
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.sensitivity_report import sensitivity_lead, sensitivity_sections
from sb3_ppo_edu.lab.statistics import aggregates
from sb3_ppo_edu.lab.statistics.comparisons import Equivalence
from sb3_ppo_edu.lab.suite import CURVES_FILE, RUNS_FILE
from sb3_ppo_edu.lab.summary import Comparison, Summary, algorithms_of, band, compare, of_task, score_table, summarise

TITLES = [algorithm.title for algorithm in ALGORITHMS.values()]
"""All algorithms, in the order of the pictures' palette."""

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
    sections += [task_section(rows, points, task) for task in tasks]
    if len(tasks) > 1 and not name.startswith("parity"):
        sections.append(together_section(rows, tasks))
    if not name.startswith("parity") and any(compare(rows, task, OURS, THEIRS) for task in tasks):
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
    pairs = [(task, comparison) for task in tasks if (comparison := compare(rows, task, OURS, THEIRS)) is not None]
    bits = [comparison for task in tasks if (comparison := compare(rows, task, REFERENCE_ENGINE, THEIRS)) is not None]
    if bits:
        same, all_of_them = sum(one.same_bits for one in bits), sum(one.seeds for one in bits)
        found.append(
            f'With `engine="autograd"` EduPPO ended with **the same bits** as SB3\'s PPO in {same} of {all_of_them} runs.'
        )
    if any(set(algorithms_of(rows, task)) - {OURS, REFERENCE_ENGINE, THEIRS, RANDOM} for task in tasks):
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
        found.append(f"{'; '.join(parts)}.{in_less_time([one for _, one in pairs])}")
    return found + what_is_missing(rows, tasks, suite)


def ranked(rows: Sequence[RunRow], task: Task) -> str:
    """
    Name all algorithms of an environment, the best first.

    :param rows: all rows
    :param task: the environment
    :return: a sentence
    """
    means = {name: float(np.mean([row.final_mean for row in of_task(rows, task, name)])) for name in algorithms_of(rows, task)}
    best_first = sorted(means, key=lambda name: -means[name])
    listed = ", ".join(f"{ALGORITHMS[name].title} {number(means[name])}" for name in best_first)
    return f"**{task.env}**, mean final return after {number(task.steps)} steps, the last rollout completed: {listed}."


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
    expected = len(suite.runs(range(suite.seeds)))
    absent = [task.env for task in suite.tasks if task not in tasks]
    if len(rows) >= expected:
        return []
    without = f", none of {', '.join(absent)}" if absent else ""
    return [f"**Not all of it is run yet**: there are {len(rows)} of {expected} runs{without}."]


def overview(rows: Sequence[RunRow], points: Sequence[CurveRow], tasks: Sequence[Task]) -> Section:
    """
    Show the final returns of all algorithms in all environments.

    :param rows: all rows
    :param points: all evaluations during training
    :param tasks: environments that have rows
    :return: the section
    """
    names = list(dict.fromkeys(name for task in tasks for name in algorithms_of(rows, task)))
    header = ["environment", "steps", "target", *(ALGORITHMS[name].title for name in names)]
    lines = []
    for task in tasks:
        present = algorithms_of(rows, task)
        cells = [plus_minus(summarise(rows, points, task, name)) if name in present else NOTHING for name in names]
        lines.append([task.env, number(task.steps), number(task.target), *cells])
    text = "Return of the final policy, deterministic: mean ± standard deviation over the seeds."
    return Section("Final returns", [text], Table(header, lines))


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
        "final return",
        "IQM [95% interval]",
        f"≥ {number(task.target)}",
        "steps to it",
        "variation",
        "early rises",
        "forgotten",
        "training",
        "processor",
    ]
    names = algorithms_of(rows, task)
    lines = []
    for name in names:
        found = summarise(rows, points, task, name)
        iqm = interval(found.iqm, 0)
        lines.append(
            [
                ALGORITHMS[name].title,
                str(found.seeds),
                plus_minus(found),
                iqm,
                reaching(found),
                number(found.steps_to_target),
                number(found.variation, 2),
                NOTHING if found.early is None else f"{found.early:.0%}",
                number(found.forgetting),
                NOTHING if name == RANDOM else trained_for(found),
                NOTHING if name == RANDOM else f"{number(found.processor)} s",
            ]
        )
    bands = {ALGORITHMS[name].title: curve for name in names if (curve := band(rows, points, task, name)) is not None}
    picture = None
    if bands:
        random = [row.final_mean for row in of_task(rows, task, RANDOM)]
        figure = draw_bands(task.env, bands, task.target, sum(random) / len(random) if random else None, TITLES)
        caption = f"{task.env}: mean evaluation return over the seeds, with its 95% interval"
        picture = Picture(f"{task.env}.png", figure, caption)
    return Section(task.env, (), Table(header, lines), picture)


def comparison_section(rows: Sequence[RunRow], tasks: Sequence[Task]) -> Section:
    """
    Compare EduPPO with SB3's PPO.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: the section
    """
    header = [
        "environment",
        "EduPPO",
        "bits equal",
        "difference [90% interval]",
        "margin",
        "equivalent",
        "P(EduPPO better)",
        "times as fast",
    ]
    lines = []
    for task in tasks:
        for name in (OURS, REFERENCE_ENGINE):
            found = compare(rows, task, name, THEIRS)
            if found is not None:
                lines.append(comparison_line(task, name, found))
    text = [
        "Against SB3's PPO with the same settings, environments and seeds. **Bits equal**: seeds of which both end with the "
        "very same parameters. **Equivalent**: the 90% interval of the difference of the mean final returns lies within the "
        "margin (two one-sided tests at 5%). **P(EduPPO better)**: probability that a run of EduPPO ends higher than one of "
        "SB3's; 0.5 is a draw. As it comes, EduPPO trains with the fused engine where that supports the settings, else with "
        "autograd, which is why its bits may be SB3's."
    ]
    if all(row.algorithm != REFERENCE_ENGINE for row in rows):
        text.append(
            'With `engine="autograd"` EduPPO has no rows of its own here: it ends with the bits of SB3\'s PPO '
            "(`sb3-edu bench parity`), whose returns are its returns."
        )
    return Section("EduPPO and SB3's PPO", text, Table(header, lines, names=2))


def comparison_line(task: Task, name: str, found: Comparison) -> list[str]:
    """
    Write one comparison.

    :param task: the environment
    :param name: key of the algorithm that is compared with SB3's PPO
    :param found: the comparison
    :return: cells
    """
    test, better = found.test, found.improvement
    difference = NOTHING
    if test is not None:
        digits = 1 if task.margin < 100 else 0
        difference = f"{number(test.difference, digits)} [{number(test.low, digits)}, {number(test.high, digits)}]"
    return [
        task.env,
        "autograd" if name == REFERENCE_ENGINE else "as it comes",
        f"{found.same_bits} of {found.seeds}",
        difference,
        f"±{number(task.margin)}",
        NOTHING if test is None else "yes" if test.equivalent else "not shown",
        interval(better),
        number(found.speed, 1),
    ]


def together_section(rows: Sequence[RunRow], tasks: Sequence[Task]) -> Section:
    """
    Sum up the environments together.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: the section
    """
    names = [name for name in dict.fromkeys(row.algorithm for row in rows) if name != RANDOM]
    lines, profiles = [], {}
    thresholds = np.linspace(0.0, 1.5, 61)
    for name in names:
        scores = score_table(rows, tasks, name)
        if scores is None:
            continue
        cells = [
            interval(aggregates.bootstrap(scores, statistic))
            for statistic in (aggregates.interquartile_mean, aggregates.median, aggregates.mean, aggregates.optimality_gap)
        ]
        lines.append([ALGORITHMS[name].title, str(scores.shape[1]), str(scores.shape[0]), *cells])
        if scores.shape[1] == len(tasks):
            low, high = aggregates.profile_band(scores, thresholds)
            shares = aggregates.performance_profile(scores, thresholds)
            profiles[ALGORITHMS[name].title] = Band(thresholds, shares, low, high, len(scores))
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
