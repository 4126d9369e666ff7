"""Train in short cycles for a long time, and see whether memory, open files or processes grow.

``python benchmarks/durability/soak.py --minutes 120`` trains CartPole (one process, fused) and Pendulum (worker processes,
autograd, normalised) in turn: each cycle trains some steps with checkpoints, resumes the newest in new environments, trains
on, and closes everything. Memory, open files and child processes after each cycle go to ``soak.csv``, what they come to to
``soak.md``.
"""

from __future__ import annotations

import argparse
import csv
import gc
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.settings import versions
from sb3_ppo_edu.vec_env import InProcessVecEnv

WARM_UP = 0.2
"""Share of the cycles, at the beginning, in which caches may still fill."""


def envs(index: int) -> VecEnv:
    """Build the environments of a cycle."""
    if index % 2:
        env = make_vec_env("Pendulum-v1", 2, seed=index, vec_env_cls=SubprocVecEnv, wrapper_class=Resumable)
        return VecNormalize(env)
    return make_vec_env("CartPole-v1", 4, seed=index, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable)


def cycle(index: int, folder: Path) -> None:
    """Train, resume what the last checkpoint holds, train on, and close everything."""
    engine: Any = "autograd" if index % 2 else "fused"
    env = envs(index)
    model = EduPPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=4, seed=index, device="cpu", engine=engine)
    model.set_logger(configure(str(folder / "log"), ["csv", "tensorboard"]))
    model.learn(1500, callback=ExactCheckpoint(300, folder / "checkpoints"))
    model.logger.close()
    env.close()
    env = envs(index)
    model = EduPPO.resume(folder / "checkpoints", env, device="cpu")
    model.learn(1500, callback=ExactCheckpoint(300, folder / "checkpoints"))
    model.learn(500, reset_num_timesteps=False)
    model.logger.close()
    env.close()


def resources() -> dict[str, int]:
    """Count what a process holds (Linux)."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    resident = int(status.split("VmRSS:")[1].split()[0])
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split()
    return {"resident_kib": resident, "files": len(os.listdir("/proc/self/fd")), "children": len(children)}


def main() -> int:
    """Soak, and write rows and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where rows and page go")
    given = parser.parse_args()
    th.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    while time.perf_counter() - start < 60 * given.minutes or len(rows) < 10:
        with tempfile.TemporaryDirectory() as folder:
            cycle(len(rows), Path(folder))
        rows.append({"cycle": len(rows), "seconds": round(time.perf_counter() - start, 1), **resources()})
    with (given.folder / "soak.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = page(rows, given.minutes)
    (given.folder / "soak.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def page(rows: list[dict[str, Any]], minutes: float) -> str:
    """Compare the second fifth of the cycles with the last fifth."""
    begin, share = int(len(rows) * WARM_UP), max(len(rows) // 5, 1)
    early, late = rows[begin : begin + share], rows[-share:]
    lines = [
        "# Soak",
        "",
        f"{len(rows)} cycles of training, resuming and closing in {rows[-1]['seconds'] / 60:.0f} minutes; medians over a",
        "fifth of the cycles, after a fifth in which caches fill, and at the end.",
        "",
        "| | early | at the end |",
        "| --- | ---: | ---: |",
    ]
    for name, title, unit in (
        ("resident_kib", "resident memory, MiB", 1024),
        ("files", "open files", 1),
        ("children", "child processes", 1),
    ):
        values = [statistics.median(row[name] for row in part) / unit for part in (early, late)]
        lines.append(f"| {title} | {values[0]:.1f} | {values[1]:.1f} |")
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    made = f"Made by `python benchmarks/durability/soak.py --minutes {minutes:g}` on {machine()}; {listed}."
    return "\n".join([*lines, "", made, ""])


if __name__ == "__main__":
    sys.exit(main())
