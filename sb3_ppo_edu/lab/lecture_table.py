"""What the lecture says of algorithms, and what others have published, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_ppo_edu.lab.algorithms import ALGORITHMS, RANDOM
from sb3_ppo_edu.lab.formatting import NOTHING, in_words, number
from sb3_ppo_edu.lab.learning import Task
from sb3_ppo_edu.lab.page import Section, Table
from sb3_ppo_edu.lab.published import PUBLISHED
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.summary import Who, learners_of, of_task, summarise, title_of


class Opinion(NamedTuple):
    """
    A row of the lecture's comparison.

    :param efficiency: its word for sample efficiency
    :param stability: for stability
    :param simplicity: for simplicity
    :param generality: for generality
    :param networks: what the algorithm keeps: networks, targets among them
    :param replays: whether it keeps a replay buffer too
    """

    efficiency: str
    stability: str
    simplicity: str
    generality: str
    networks: int
    replays: bool = False


LECTURE_SAYS = {
    "eduppo": Opinion("good", "high", "high", "high", 2),
    "a2c": Opinion("moderate", "moderate", "high", "high", 2),
    "trpo": Opinion("good", "high", "low", "high", 2),
    "sac": Opinion("very good", "high", "moderate", "moderate", 5, replays=True),
    "td3": Opinion("very good", "high", "moderate", "low", 6, replays=True),
    "dqn": Opinion("good", "moderate", "moderate", "low", 2, replays=True),
}
"""The table "PPO vs Other RL Algorithms" of lecture 10, and what there is to count of each algorithm in SB3."""


def lecture_section(rows: Sequence[RunRow], points: Sequence[CurveRow], tasks: Sequence[Task]) -> Section:
    """
    Answer the lecture's comparison row by row.

    :param rows: all rows
    :param points: all evaluations during training
    :param tasks: environments that have rows
    :return: the section
    """
    lines = []
    for algorithm, says in LECTURE_SAYS.items():
        who = Who(algorithm, "zoo")
        found = {task.env: summarise(rows, points, task, who) for task in tasks if of_task(rows, task, who)}
        if not found:
            continue
        known = ALGORITHMS[algorithm]
        steps = [number(found[task.env].steps_to_target) if task.env in found else "cannot act" for task in tasks]
        ends = f"{sum(one.reached for one in found.values())} of {sum(one.seeds for one in found.values())}"
        forgets = [
            one.forgetting / abs(task.target) for task in tasks if (one := found.get(task.env)) and one.forgetting is not None
        ]
        lines.append(
            [
                known.title,
                says.efficiency,
                " / ".join(steps),
                says.stability,
                f"{ends}, {np.mean(forgets):.0%}" if forgets else ends,
                says.simplicity,
                f"{says.networks}{', replay buffer' if says.replays else ''}",
                says.generality,
                in_words(known.actions),
            ]
        )
    header = [
        "algorithm",
        "sample efficiency: the lecture",
        f"steps to the target: {' / '.join(task.env for task in tasks)}",
        "stability: the lecture",
        "runs that end at the target, forgotten",
        "simplicity: the lecture",
        "networks it keeps",
        "generality: the lecture",
        "actions it can choose",
    ]
    text = [
        "The lecture's table of algorithms, word for word, and beside each word what was measured with the zoo's "
        "settings. **Steps to the target**: the median over the seeds; a dash where fewer than half of them reach "
        "it. **Forgotten**: best minus final evaluation, as a share of the target, the mean over the "
        "environments. **Networks**: targets included."
    ]
    return Section("The lecture's table, row by row", text, Table(header, lines, names=len(header)))


def published_section(rows: Sequence[RunRow], tasks: Sequence[Task]) -> Section:
    """
    Put published figures beside those of this page.

    :param rows: all rows
    :param tasks: environments that have rows
    :return: the section
    """
    lines = []
    whos = list(dict.fromkeys(who for task in tasks for who in learners_of(rows, task) if who.algorithm != RANDOM))
    for task in tasks:
        cells = []
        for who in whos:
            finals = [row.final_mean for row in of_task(rows, task, who)]
            cells.append(
                f"{number(float(np.mean(finals)))} ± {number(float(np.std(finals)))} ({len(finals)})" if finals else NOTHING
            )
        for table in PUBLISHED:
            known = table.returns.get(task.env.partition("-v")[0])
            cells.append(NOTHING if known is None else f"{number(known[0])} ± {number(known[1])}")
        lines.append([task.env, *cells])
    header = [
        "environment",
        *(f"{title_of(who, whos)}, here (seeds)" for who in whos),
        *(f"{one.name}, {one.version}" for one in PUBLISHED),
    ]
    listed = "; ".join(f"[{one.name}]({one.address}): {one.measured}" for one in PUBLISHED)
    text = [
        f"Figures of others after a million steps, carried over: {listed}.",
        "Here: the final policy, deterministic, mean ± standard deviation over the seeds. **The versions of the environments "
        "differ**: v5 has mended rewards and observations, contact forces of Ant and Humanoid among them, and v3 runs on an "
        "older simulator, so that figures of Ant and Humanoid above all are no measure of each other. This page's targets "
        "are the highest published mean of each line.",
    ]
    return Section("Beside published figures", text, Table(header, lines))
