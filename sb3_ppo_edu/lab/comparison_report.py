"""Whether EduPPO is SB3's PPO: its two engines and SB3's PPO with the same settings and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sb3_ppo_edu.lab.formatting import NOTHING, interval, number
from sb3_ppo_edu.lab.learning import OURS, REFERENCE_ENGINE, THEIRS, Task
from sb3_ppo_edu.lab.page import Section, Table
from sb3_ppo_edu.lab.runs import RunRow
from sb3_ppo_edu.lab.summary import Comparison, Who, compare, learners_of


class Compared(NamedTuple):
    """
    A comparison of a page.

    :param first: an algorithm with its settings
    :param second: another with the same settings
    :param found: what it came to
    """

    first: Who
    second: Who
    found: Comparison


def compared(rows: Sequence[RunRow], task: Task) -> list[Compared]:
    """
    Compare what is to be equal.

    EduPPO as it comes is compared with its autograd engine, or where that has no rows with SB3's PPO, whose bits it has; and
    the autograd engine with SB3's PPO.

    :param rows: all rows
    :param task: the environment
    :return: comparisons of algorithms with the same settings
    """
    found = []
    present = learners_of(rows, task)
    for settings in dict.fromkeys(who.settings for who in present):
        ours, reference, theirs = (Who(name, settings) for name in (OURS, REFERENCE_ENGINE, THEIRS))
        pairs = [(ours, reference), (reference, theirs)] if reference in present else [(ours, theirs)]
        found += [Compared(*pair, one) for pair in pairs if (one := compare(rows, task, *pair)) is not None]
    return found


def compare_with_sb3(rows: Sequence[RunRow], task: Task, who: Who) -> Comparison | None:
    """
    Compare EduPPO as it comes with SB3's PPO with the same settings.

    :param rows: all rows
    :param task: the environment
    :param who: an algorithm with its settings
    :return: the comparison, or None if it is another algorithm, or SB3's PPO has no such rows
    """
    return compare(rows, task, who, Who(THEIRS, who.settings)) if who.algorithm == OURS else None


def comparison_section(rows: Sequence[RunRow], tasks: Sequence[Task]) -> Section:
    """
    Compare EduPPO with SB3's PPO.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: the section
    """
    header = [
        "environment",
        "compared",
        "seeds",
        "bits equal",
        "difference [90% interval]",
        "margin",
        "power",
        "equivalent",
        "P(better)",
        "times as fast",
    ]
    lines = [comparison_line(task, one) for task in tasks for one in compared(rows, task)]
    text = [
        "With the same settings, environments and seeds. **Bits equal**: seeds of which both end with the very same "
        "parameters. **Equivalent**: the 90% interval of the difference of the mean final returns, seed by seed, lies "
        "within the margin (two one-sided tests at 5%). **Power**: the probability that two equal algorithms pass "
        "this test, with so many seeds and the spread that was found. **P(better)**: probability that a run of the "
        "first ends higher than one of the second; 0.5 is a draw. As it comes, EduPPO trains with the fused engine "
        "where that supports the settings, else with autograd, which is why its bits may be SB3's."
    ]
    if any(task.margin is None for task in tasks):
        text.append("A margin that is marked with σ is one standard deviation of the second's returns over the seeds.")
    if all(row.algorithm != REFERENCE_ENGINE for row in rows):
        text.append(
            'With `engine="autograd"` EduPPO has no rows of its own here: it ends with the bits of SB3\'s PPO '
            "(`sb3-edu bench parity`), whose returns are its returns."
        )
    return Section("EduPPO and SB3's PPO", text, Table(header, lines, names=2))


def comparison_line(task: Task, one: Compared) -> list[str]:
    """
    Write one comparison.

    :param task: the environment
    :param one: the comparison
    :return: cells
    """
    names = {OURS: "as it comes", REFERENCE_ENGINE: "autograd", THEIRS: "SB3's PPO"}
    found, test = one.found, one.found.test
    cells = [NOTHING] * 4
    if test is not None:
        digits = 1 if test.margin < 100 else 0
        difference = f"{number(test.difference, digits)} [{number(test.low, digits)}, {number(test.high, digits)}]"
        margin = f"±{number(test.margin)}{' (σ)' if task.margin is None else ''}"
        cells = [difference, margin, f"{test.power:.0%}", "yes" if test.equivalent else "not shown"]
    return [
        task.env,
        f"{names[one.first.algorithm]} − {names[one.second.algorithm]}",
        str(found.seeds),
        f"{found.same_bits} of {found.seeds}",
        *cells,
        interval(found.improvement),
        number(found.speed, 1),
    ]
