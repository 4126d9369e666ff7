"""The laboratory's experiments by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sb3_ppo_edu.lab.learning import (
    ATARI,
    FIRST_LANDER_SEED,
    FIRST_PARITY_SEED,
    LANDER,
    LECTURE,
    MINATAR,
    MUJOCO,
    PARITY,
    PEERS,
    QUICK,
    Task,
    runs_of,
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
        runs_of(LECTURE),
        5,
        "sb3-edu bench learn --suite lecture",
        "On LunarLander-v3 the zoo's settings, made for 1,000,000 steps, came first: with the same seeds and 500,000 steps "
        "EduPPO and SB3's PPO reached the target in three of five runs each ([rows](zoo-LunarLander-v3.csv), with "
        "`sb3_ppo_edu.lab.runs.execute`).",
    ),
    "lander": Suite(
        "LunarLander in fifty thousand steps",
        LANDER,
        runs_of(LANDER, FIRST_LANDER_SEED, evaluations=10),
        20,
        "sb3-edu bench learn --suite lander",
        f"The seeds from {FIRST_LANDER_SEED} on were written down before the first of these runs; rows of others are of an "
        "earlier edition. The settings were chosen on others (`benchmarks/lunarlander`): those that ship by searches from "
        "seed 30000 on and on the seeds 1000 to 1007, and a comparison on the seeds 2000 to 2063; those of each variant by "
        "searches of equal effort, from seed 100000 on.",
    ),
    "mujoco": Suite(
        "MuJoCo in a million steps",
        MUJOCO,
        runs_of(MUJOCO),
        5,
        "sb3-edu bench learn --suite mujoco",
    ),
    "minatar": Suite("Images: MinAtar's games", MINATAR, runs_of(MINATAR), 3, "sb3-edu bench learn --suite minatar"),
    "atari": Suite(
        "A sign of life on Atari",
        ATARI,
        runs_of(ATARI, evaluations=8, eval_episodes=5, final_episodes=20),
        1,
        "sb3-edu bench learn --suite atari",
    ),
    "peers": Suite("EduPPO among other algorithms", PEERS, runs_of(PEERS), 5, "sb3-edu bench learn --suite peers"),
    "parity": Suite(
        "EduPPO is SB3's PPO",
        PARITY,
        runs_of(PARITY, FIRST_PARITY_SEED, evaluations=5, final_episodes=50),
        128,
        "sb3-edu bench parity",
        f"The seeds from {FIRST_PARITY_SEED} on and the margins were written down before the first of these runs; rows of "
        "other seeds are of an earlier edition, with a margin of ±50 on LunarLander-v3.",
    ),
    "parity-quick": Suite(
        "EduPPO is SB3's PPO: a first look",
        QUICK,
        runs_of(QUICK, evaluations=5, final_episodes=50),
        5,
        "sb3-edu bench parity --quick",
    ),
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
