"""Do memory and masks learn what they are for, and as well as sb3-contrib's? Twenty seeds each on two tasks.

``python benchmarks/learning/memory_and_masks.py`` trains ``RecurrentEduPPO`` and sb3-contrib's ``RecurrentPPO`` on CartPole
without velocities, with this package's settings and with the zoo's, and ``MaskableEduPPO`` and ``MaskablePPO`` on tic-tac-toe
against a player that moves at random. CartPole's final policy is judged on 100 deterministic episodes; tic-tac-toe's plays
10,000 steps with its most likely moves, which are its score, and 10,000 with drawn ones, and no move may be illegal. One row
for each run is kept in ``memory_and_masks.csv`` beside this file (what is there is not trained again);
``memory_and_masks.md`` says what they come to. ``--report-only`` trains nothing.

The margin is 10% of the return that has to be reached: 45 of CartPole's 450, 0.08 of tic-tac-toe's 0.8. Algorithms are
equivalent where the 90% interval of the difference of their means, seed by seed, lies within it; the power is the probability
that two equal algorithms pass this test, with so many seeds and the spread that was found.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_edu import MaskableEduPPO, RecurrentEduPPO
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.rows import append_rows, read_rows
from sb3_ppo_edu.lab.speed.rows import conditions
from sb3_ppo_edu.lab.statistics.comparisons import equivalence
from sb3_ppo_edu.training.evaluation import evaluate
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters

ROWS = Path(__file__).with_suffix(".csv")
MEMORY = "CartPoleNoVel-v1"
SEEDS = 20
LEAST_PAIRS = 5
"""Pairs from which on the test says something; how many there are stands beside it."""
EPISODES = 100
PLAYED_STEPS = 10_000
EVALUATION_SEED = 1_000_000
N_ENVS = 8

ABOUT_THE_RUN = ("n_envs", "n_timesteps", "normalize")
"""What settings say that is no argument of the algorithm."""


@dataclass(frozen=True)
class Row:
    """
    What one run came to.

    :param env: environment id
    :param algorithm: name of its class
    :param seed: of the run
    :param steps: environment steps
    :param mean: mean return of the final policy, with its most likely actions
    :param std: standard deviation over the episodes
    :param illegal: illegal actions in all that was played
    :param seconds: wall-clock time of training and play; no measurement, since the machine may have had other things to do
    """

    env: str
    algorithm: str
    seed: int
    steps: int
    mean: float
    std: float
    illegal: int
    seconds: float


def train_recurrent(
    algorithm: Callable[..., BaseAlgorithm], seed: int, steps: int, changes: dict[str, Any] | None = None
) -> tuple[BaseAlgorithm, list[float], int]:
    """
    Learn CartPole without velocities, with this package's settings, and play it.

    :param changes: what else differs from the settings
    :return: the model, returns of 100 episodes, and no illegal action
    """
    given = load_hyperparameters(MEMORY, algo="recurrenteduppo")
    settings = EnvironmentSettings(MEMORY, normalize=given["normalize"])
    about_the_run = (*ABOUT_THE_RUN, "learning_rate", "clip_range")
    arguments = {name: value for name, value in given.items() if name not in about_the_run}
    env = make_training_env(settings, N_ENVS, seed=100 * seed)
    # Both schedules fall in a line to 0: as functions, which sb3-contrib knows too.
    schedules = {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left}
    model = algorithm(env=env, seed=seed, device="cpu", **schedules, **{**arguments, **(changes or {})})
    model.learn(steps)
    judged = make_evaluation_env(settings, 10, EVALUATION_SEED)
    judged.obs_rms = env.obs_rms  # type: ignore[attr-defined]
    return model, evaluate(model, judged, EPISODES).returns, 0


def train_recurrent_as_the_zoo(
    algorithm: Callable[..., BaseAlgorithm], seed: int, steps: int
) -> tuple[BaseAlgorithm, list[float], int]:
    """The same with the zoo's settings of ``ppo_lstm``."""
    return train_recurrent(algorithm, seed, steps, {"n_steps": 32, "gae_lambda": 0.8, "target_kl": None})


def train_masked(algorithm: Callable[..., BaseAlgorithm], seed: int, steps: int) -> tuple[BaseAlgorithm, list[float], int]:
    """
    Learn tic-tac-toe and play it.

    :return: the model, returns of the games with the most likely moves, and the illegal moves of both kinds of play
    """
    settings = load_hyperparameters("TicTacToe-v0", algo="maskableeduppo")
    arguments = {name: value for name, value in settings.items() if name not in ABOUT_THE_RUN}
    env = make_training_env("TicTacToe-v0", N_ENVS, seed=100 * seed)
    model = algorithm(env=env, seed=seed, device="cpu", **arguments)
    model.learn(steps)
    returns, illegal = play(model, deterministic=True)
    return model, returns, illegal + play(model, deterministic=False)[1]


def play(model: Any, *, deterministic: bool) -> tuple[list[float], int]:
    """
    Play tic-tac-toe with masks.

    :return: returns of the games, and the number of illegal moves
    """
    th.manual_seed(0)
    env = make_training_env("TicTacToe-v0", N_ENVS, seed=EVALUATION_SEED)
    observations, returns, illegal = np.asarray(env.reset()), [], 0
    for _ in range(PLAYED_STEPS // N_ENVS):
        actions, _ = model.predict(observations, deterministic=deterministic, action_masks=get_action_masks(env))
        observations, _, _, infos = env.step(actions)  # type: ignore[assignment]
        returns += [float(info["episode"]["r"]) for info in infos if "episode" in info]
        illegal += sum("illegal_move" in info for info in infos)
    return returns, illegal


@dataclass(frozen=True)
class Task:
    """
    An environment to learn.

    :param steps: environment steps of a training
    :param goal: return that has to be reached
    :param algorithms: ours first
    :param train: trains one and plays
    """

    steps: int
    goal: float
    algorithms: tuple[Callable[..., BaseAlgorithm], ...]
    train: Callable[[Callable[..., BaseAlgorithm], int, int], tuple[BaseAlgorithm, list[float], int]]

    @property
    def names(self) -> list[str]:
        """Names of the algorithms."""
        return [algorithm.__name__ for algorithm in self.algorithms]


TASKS = {
    MEMORY: Task(99_328, 450.0, (RecurrentEduPPO, RecurrentPPO), train_recurrent),
    f"{MEMORY}, the zoo's settings": Task(99_840, 450.0, (RecurrentEduPPO, RecurrentPPO), train_recurrent_as_the_zoo),
    "TicTacToe-v0": Task(100_352, 0.8, (MaskableEduPPO, MaskablePPO), train_masked),
}


def run_one(env_id: str, algorithm: Callable[..., BaseAlgorithm], seed: int) -> Row:
    """
    Train once and judge the final policy.

    :param env_id: key of :data:`TASKS`
    :param algorithm: class of the algorithm
    :param seed: of the run
    """
    task = TASKS[env_id]
    start = time.perf_counter()
    model, returns, illegal = task.train(algorithm, seed, task.steps)
    seconds = round(time.perf_counter() - start, 1)
    mean, std = round(float(np.mean(returns)), 3), round(float(np.std(returns)), 3)
    return Row(env_id, algorithm.__name__, seed, model.num_timesteps, mean, std, illegal, seconds)


def report(rows: list[Row]) -> str:
    """
    Test and describe.

    :param rows: all rows
    :return: Markdown
    """
    lines, tests = [], []
    for env_id, task in TASKS.items():
        means: list[dict[int, float]] = []
        for name in task.names:
            found = [row for row in rows if (row.env, row.algorithm) == (env_id, name)]
            means.append({row.seed: row.mean for row in found})
            if found:
                reached = f"{sum(row.mean >= task.goal for row in found)} of {len(found)}"
                of_seeds = ", ".join(f"{row.mean:g}" for row in sorted(found, key=lambda row: row.seed))
                illegal = sum(row.illegal for row in found)
                cells = (env_id, name, f"{found[0].steps:,}", of_seeds, f"{task.goal:g}: {reached}", illegal)
                lines.append(f"| {' | '.join(map(str, cells))} |")
        pairs = sorted(means[0].keys() & means[1].keys())
        interval, power, verdict = "", "", "not trained yet"
        if len(pairs) >= LEAST_PAIRS:
            ours, theirs = (np.array([one[seed] for seed in pairs]) for one in means)
            test = equivalence(ours, theirs, margin=task.goal / 10, pairs=True)
            power = f"{test.power:.0%}"
            verdict = "equivalent" if test.equivalent else "not shown"
            interval = f"{test.difference:.3g} [{test.low:.3g}, {test.high:.3g}]"
        tested = (env_id, " − ".join(task.names), interval, f"±{task.goal / 10:g}", f"{len(pairs)} of {SEEDS}", power, verdict)
        tests.append(f"| {' | '.join(tested)} |")
    now = conditions("full")
    return f"""# Memory and masks learn what they are for

Mean return of the final policy with its most likely actions, seed by seed: CartPole without velocities over {EPISODES}
episodes, tic-tac-toe against a player that moves at random over {PLAYED_STEPS:,} steps. Illegal moves are counted in these and
in {PLAYED_STEPS:,} steps with drawn moves. Settings: `hyperparams/recurrenteduppo.yml` and the zoo's `ppo_lstm` for CartPole,
`hyperparams/maskableeduppo.yml` for tic-tac-toe. Rows: [memory_and_masks.csv](memory_and_masks.csv).

| environment | algorithm | steps | mean return of each seed | reached | illegal moves |
|---|---|---:|---|---|---:|
{chr(10).join(lines)}

Are ours as good as sb3-contrib's? The difference of the means with its 90% interval, seed by seed; two one-sided tests at 5%
call them equivalent where it lies within the margin. Power: the probability that two equal algorithms pass, with so many seeds
and the spread that was found.

| environment | difference | found | margin | pairs | power | verdict |
|---|---|---|---|---:|---:|---|
{chr(10).join(tests)}

Made by `python benchmarks/learning/memory_and_masks.py` with one thread on {now.machine}; {now.versions}.
"""


def main() -> None:
    """Train what is missing, and write the report after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for task in TASKS.values() for name in task.names]
    parser.add_argument("--algorithms", nargs="+", default=names, choices=names)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--seeds", nargs="+", type=int, help="for several processes (default: all)")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    given = parser.parse_args()
    rows = read_rows(ROWS, Row)
    for env_id, task in TASKS.items():
        for algorithm in task.algorithms:
            for seed in given.seeds or range(SEEDS):
                done = any((row.env, row.algorithm, row.seed) == (env_id, algorithm.__name__, seed) for row in rows)
                if given.report_only or done or algorithm.__name__ not in given.algorithms or env_id not in given.tasks:
                    continue
                row = run_one(env_id, algorithm, seed)
                append_rows(ROWS, [row])
                print(row, flush=True)
                rows = read_rows(ROWS, Row)  # other processes may have written some
                ROWS.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    ROWS.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    main()
