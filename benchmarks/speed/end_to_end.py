"""Time whole trainings of SB3's PPO and of EduPPO's two engines beside each other.

``python benchmarks/speed/end_to_end.py`` runs every case five times in every variant, each run in a process of its own with
one thread, the variants in turn and in another order each time, so that a machine that slows down slows all of them. It
writes a row for each run to ``end_to_end.csv`` and a table to ``end_to_end.md`` beside this file. Only ``learn`` is timed,
from the first step to the last update, without warm-up.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

#: One thread for every library that reads it when it is imported.
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Case:
    """What is trained.

    :param env: environment id
    :param n_envs: environments
    :param rollouts: rollouts to train for
    :param arguments: arguments of PPO that differ from SB3's defaults
    :param as_users_run_it: SB3's environments keep the render mode that ``make_vec_env`` gives them, ours have none
    """

    env: str
    n_envs: int
    rollouts: int
    arguments: dict[str, Any]
    as_users_run_it: bool = False


LUNAR = {"n_steps": 1024, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "ent_coef": 0.01}
#: The zoo's settings are those of rl_zoo3/hyperparams/ppo.yml, rl_zoo3 2.9.2; Pendulum's without gSDE.
CASES = {
    "CartPole-v1, SB3's defaults": Case("CartPole-v1", 1, 3, {}),
    "CartPole-v1, the zoo's": Case(
        "CartPole-v1", 8, 40, {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98}
    ),
    "Pendulum-v1, the zoo's": Case("Pendulum-v1", 4, 2, {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3}),
    "LunarLander-v3, the zoo's": Case("LunarLander-v3", 16, 1, LUNAR),
    "LunarLander-v3, as users run it": Case("LunarLander-v3", 16, 1, LUNAR, as_users_run_it=True),
}
#: EduPPO's variants: the engine, and whether the environments are in its own vector environment or in SB3's.
VARIANTS = ("sb3", "autograd", "fused", "fused, DummyVecEnv")


@dataclass(frozen=True)
class Row:
    """What one run took.

    :param case: key of ``CASES``
    :param variant: one of ``VARIANTS``
    :param repetition: index
    :param steps: environment steps
    :param wall: seconds of wall clock
    :param cpu: seconds of processor time
    :param peak_mib: largest resident memory of the process, in MiB
    """

    case: str
    variant: str
    repetition: int
    steps: int
    wall: float
    cpu: float
    peak_mib: float


def measure(case_name: str, variant: str, repetition: int) -> Row:
    """Train once in this process.

    :param case_name: key of ``CASES``
    :param variant: one of ``VARIANTS``
    :param repetition: index, the seed too
    :return: what it took
    """
    import resource

    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_ppo_edu import EduPPO
    from sb3_ppo_edu.vec_env import InProcessVecEnv

    torch.set_num_threads(1)
    case = CASES[case_name]
    kept = case.as_users_run_it and variant == "sb3"
    env = make_vec_env(
        case.env,
        case.n_envs,
        seed=repetition,
        env_kwargs=None if kept else {"render_mode": None},
        vec_env_cls=InProcessVecEnv if variant in ("autograd", "fused") else None,
    )
    arguments: dict[str, Any] = {"seed": repetition, "device": "cpu", **case.arguments}
    model: Any
    if variant == "sb3":
        model = PPO("MlpPolicy", env, **arguments)
    else:
        arguments["engine"] = variant.split(",")[0]
        model = EduPPO("MlpPolicy", env, **arguments)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(case.rollouts * model.n_steps * case.n_envs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row(case_name, variant, repetition, model.num_timesteps, round(wall, 4), round(cpu, 4), round(peak, 1))


def measure_in_child(case_name: str, variant: str, repetition: int) -> Row:
    """Train once in a fresh process with one thread.

    :param case_name: key of ``CASES``
    :param variant: one of ``VARIANTS``
    :param repetition: index
    :return: what it took
    """
    child = [sys.executable, "-W", "ignore", __file__, "--child", case_name, variant, str(repetition)]
    output = subprocess.run(child, env={**os.environ, **THREADS}, check=True, capture_output=True, text=True).stdout
    return Row(**json.loads(output.splitlines()[-1]))


def ratios(rows: list[Row], case_name: str, variant: str) -> list[float]:
    """Pair the runs of a repetition.

    :param rows: all rows
    :param case_name: key of ``CASES``
    :param variant: one of ``VARIANTS``
    :return: SB3's wall clock over the variant's, for each repetition
    """
    walls = {(row.variant, row.repetition): row.wall for row in rows if row.case == case_name}
    return [walls["sb3", index] / walls[variant, index] for name, index in walls if name == variant]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write the raw rows.

    :param path: the CSV file, replaced
    :param rows: one for each run
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Read the raw rows.

    :param path: the CSV file
    :return: one for each run
    """
    types = {"repetition": int, "steps": int, "wall": float, "cpu": float, "peak_mib": float}
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{name: types.get(name, str)(value) for name, value in row.items()}) for row in csv.DictReader(file)]


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the table, with the command that makes it.

    :param path: the Markdown file, replaced
    :param rows: one for each run
    """
    from sb3_ppo_edu.runs import versions

    repetitions = max(row.repetition for row in rows) + 1
    lines = [
        "# Speed, end to end",
        "",
        "Made by `python benchmarks/speed/end_to_end.py` on",
        f"{platform.system()} {platform.machine()} with {os.cpu_count()} cores, one thread; "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + ".",
        f"Raw rows: [{path.stem}.csv]({path.stem}.csv).",
        "",
        f"How many times as fast as SB3's PPO `learn` is: median, smallest and largest of {repetitions} repetitions, each",
        'the ratio of two wall-clock times measured next to each other. "DummyVecEnv": in SB3\'s vector environment, as SB3;',
        "the other columns use our `InProcessVecEnv`.",
        '"As users run it": SB3\'s LunarLander keeps the render mode that `make_vec_env` sets, ours has none.',
        "",
        "| case | SB3, seconds | " + " | ".join(VARIANTS[1:]) + " | peak memory, SB3 and fused, MiB |",
        "|---|---:|" + "---:|" * len(VARIANTS),
    ]
    for case_name in dict.fromkeys(row.case for row in rows):
        here = [row for row in rows if row.case == case_name]
        cells = []
        for variant in VARIANTS[1:]:
            found = ratios(rows, case_name, variant)
            cells.append(f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        seconds = statistics.median(row.wall for row in here if row.variant == "sb3")
        peaks = [statistics.median(row.peak_mib for row in here if row.variant == variant) for variant in ("sb3", "fused")]
        lines.append(f"| {case_name} | {seconds:.2f} | " + " | ".join(cells) + f" | {peaks[0]:.0f} and {peaks[1]:.0f} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--report-only", action="store_true", help="write the table anew from the rows that are there")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case_name, variant, repetition = arguments.child
        print(json.dumps(asdict(measure(case_name, variant, int(repetition)))))
        return
    rows: list[Row] = []
    if arguments.report_only:
        write_table(arguments.folder / "end_to_end.md", read_rows(arguments.folder / "end_to_end.csv"))
        return
    for repetition in range(arguments.repetitions):
        for case_name in CASES:
            turn = repetition % len(VARIANTS)
            for variant in VARIANTS[turn:] + VARIANTS[:turn]:
                rows.append(measure_in_child(case_name, variant, repetition))
                print(rows[-1], file=sys.stderr)
        write_rows(arguments.folder / "end_to_end.csv", rows)
    write_table(arguments.folder / "end_to_end.md", rows)


if __name__ == "__main__":
    main()
