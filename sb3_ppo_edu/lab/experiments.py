"""The laboratory's experiments by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sb3_ppo_edu.lab.learning import (
    LANDER,
    LECTURE,
    PARITY,
    PEERS,
    QUICK,
    Task,
    lander_runs,
    lecture_runs,
    parity_runs,
    peer_runs,
)
from sb3_ppo_edu.lab.runs import Run
from sb3_ppo_edu.lab.sensitivity import QUICK_TASKS, TASKS, sensitivity_runs


class Suite(NamedTuple):
    """
    An experiment that is made of runs.

    :param title: heading of its report
    :param tasks: its environments
    :param runs: its runs, given the seeds
    :param seeds: how many seeds it has
    :param command: what runs it
    :param note: what else is to be known of it
    """

    title: str
    tasks: tuple[Task, ...]
    runs: Callable[[Sequence[int]], list[Run]]
    seeds: int
    command: str
    note: str = ""


SUITES = {
    "lecture": Suite(
        "The lecture's benchmark",
        LECTURE,
        lecture_runs,
        5,
        "sb3-edu bench learn --suite lecture",
        "On LunarLander-v3 the zoo's settings, made for 1,000,000 steps, came first: with the same seeds and 500,000 steps "
        "EduPPO and SB3's PPO reached the target in three of five runs each ([rows](zoo-LunarLander-v3.csv), with "
        "`sb3_ppo_edu.lab.runs.execute`).",
    ),
    "lander": Suite(
        "LunarLander in fifty thousand steps",
        LANDER,
        lander_runs,
        20,
        "sb3-edu bench learn --suite lander",
        "The seeds are 4000 to 4019, written down before the first of these runs. The settings were chosen on others "
        "(`benchmarks/lunarlander`): those of LunarLander-v3 by a search from seed 30000 on and a comparison on the seeds "
        "2000 to 2063, those of LunarLanderContinuous-v3 by a search on the seeds 1000 to 1007.",
    ),
    "peers": Suite("EduPPO among other algorithms", PEERS, peer_runs, 3, "sb3-edu bench learn --suite peers"),
    "parity": Suite(
        "EduPPO is SB3's PPO",
        PARITY,
        parity_runs(PARITY),
        5,
        "sb3-edu bench parity",
        "LunarLander-v3 has twenty seeds because with its first five equivalence was not shown (−25, 90% interval −68 to 19).",
    ),
    "parity-quick": Suite("EduPPO is SB3's PPO: a first look", QUICK, parity_runs(QUICK), 5, "sb3-edu bench parity --quick"),
    "sensitivity": Suite(
        "What PPO is sensitive to", TASKS, lambda seeds: sensitivity_runs(TASKS, seeds, 64), 3, "sb3-edu bench sensitivity"
    ),
    "sensitivity-quick": Suite(
        "What PPO is sensitive to: a first look",
        QUICK_TASKS,
        lambda seeds: sensitivity_runs(QUICK_TASKS, seeds, 16),
        2,
        "sb3-edu bench sensitivity --quick",
    ),
}
