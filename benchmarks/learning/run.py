"""Train with the settings of ``hyperparams/eduppo.yml`` and judge the final policies: the learning targets.

``python benchmarks/learning/run.py`` trains the environments that have a target on three seeds each, judges every final
policy on 100 deterministic episodes, and writes one row for each run to ``targets.csv`` and a table to ``targets.md``
beside this file. The exit status is 1 if a run misses its target. ``--envs``, ``--seeds``, ``--steps`` and ``--name`` make
other tables.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from sb3_ppo_edu.hyperparameters import load_hyperparameters
from sb3_ppo_edu.runs import (
    close_run,
    evaluate_run,
    learn,
    open_run,
    save_model,
    settings_from_hyperparameters,
    start_run,
    versions,
)

#: Mean return over the evaluation episodes that every seed shall reach.
TARGETS = {"CartPole-v1": 475.0, "Pendulum-v1": -250.0}


@dataclass(frozen=True)
class Row:
    """What one run came to.

    :param env: environment id
    :param seed: seed of the run
    :param steps: environment steps trained for
    :param engine: engine that trained, ``autograd`` or ``fused``
    :param episodes: evaluation episodes
    :param mean: mean of their returns
    :param std: standard deviation of their returns
    :param minimum: smallest of their returns
    :param target: smallest mean that counts as learned, or None
    :param reached: whether the mean is at least the target, or None
    :param seconds: wall-clock time of the training
    """

    env: str
    seed: int
    steps: int
    engine: str
    episodes: int
    mean: float
    std: float
    minimum: float
    target: float | None
    reached: bool | None
    seconds: float


def run_one(env_id: str, seed: int, steps: int | None, episodes: int, engine: str) -> Row:
    """Train one agent with the settings of its environment, and judge it.

    :param env_id: environment id
    :param seed: seed of the run
    :param steps: environment steps, or None for the settings' own
    :param episodes: deterministic evaluation episodes
    :param engine: EduPPO's argument of that name
    :return: the result
    """
    settings = settings_from_hyperparameters(
        env_id, load_hyperparameters(env_id, overrides={"engine": engine}), steps=steps, seed=seed, device="cpu"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(settings, Path(folder, "run"))
        start = time.perf_counter()
        learn(run)
        seconds = time.perf_counter() - start
        save_model(run)
        close_run(run)
        returns = np.array(evaluate_run(open_run(run.folder), episodes).returns)
    target = TARGETS.get(env_id)
    return Row(
        env=env_id,
        seed=seed,
        steps=run.model.num_timesteps,
        engine=run.model.engine_reason.split(":")[0],
        episodes=len(returns),
        mean=round(float(returns.mean()), 1),
        std=round(float(returns.std()), 1),
        minimum=round(float(returns.min()), 1),
        target=target,
        reached=None if target is None else bool(returns.mean() >= target),
        seconds=round(seconds, 1),
    )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the raw rows.

    :param path: the CSV file, replaced
    :param rows: one for each run
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_table(path: Path, rows: Sequence[Row], command: str) -> None:
    """Write the table, with the command that makes it.

    :param path: the Markdown file, replaced
    :param rows: one for each run
    :param command: the command line
    """
    lines = [
        "# Learning with the settings of `hyperparams/eduppo.yml`",
        "",
        f"Made by `{command}` on {platform.system()} {platform.machine()} with {os.cpu_count()} cores, one thread; "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + f". Raw rows: [{path.stem}.csv]({path.stem}.csv).",
        "",
        "Return of the final policy, deterministic, over all evaluation episodes: mean, standard deviation, minimum. The",
        "seconds include the evaluations during training, on a machine that may do other work: no measurement of speed.",
        "",
        "| environment | steps | seed | mean | std | minimum | target | reached | engine | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|---:|",
    ]
    for row in rows:
        target, reached = ("", "") if row.target is None else (f"{row.target:g}", "yes" if row.reached else "no")
        lines.append(
            f"| {row.env} | {row.steps:,} | {row.seed} | {row.mean} | {row.std} | {row.minimum} | {target} | {reached} "
            f"| {row.engine} | {row.seconds} |"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, judge, and write after each run what there is.

    :param arguments: command-line arguments; those of the process by default
    :return: 0 if every run with a target reached it, else 1
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(TARGETS), help="environment ids")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds")
    parser.add_argument("--steps", type=int, help="environment steps (default: the settings' own)")
    parser.add_argument("--episodes", type=int, default=100, help="evaluation episodes")
    parser.add_argument("--engine", default="auto", choices=["auto", "autograd", "fused"], help="EduPPO's engine")
    parser.add_argument("--name", default="targets", help="name of the files that are written (and replaced)")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where they are written")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "benchmarks/learning/run.py", *words])
    rows: list[Row] = []
    for env_id in given.envs:
        for seed in given.seeds:
            rows.append(run_one(env_id, seed, given.steps, given.episodes, given.engine))
            print(rows[-1], flush=True)
            write_rows(given.folder / f"{given.name}.csv", rows)
            write_table(given.folder / f"{given.name}.md", rows, command)
    return int(any(row.reached is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
