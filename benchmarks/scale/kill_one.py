"""Kill one of two processes that train together at random moments, and resume.

``python benchmarks/scale/kill_one.py --kills 20`` trains Pendulum-v1 in two processes, kills one by SIGKILL at a moment
drawn over the training, sees how the other ends and what it says, resumes both, and compares the parameters with those of a
training that nobody disturbed. Rows go to ``kill_one.csv``, what they come to to ``kill_one.md``.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch as th
import yaml

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.settings import versions

SETTINGS = {"n_timesteps": 16_384, "normalize": True, "n_envs": 4, "n_steps": 64, "batch_size": 64, "n_epochs": 4}
PATIENCE = 60.0
"""Seconds after which the process that is left counts as hanging."""


def start(words: list[str]) -> list[subprocess.Popen[str]]:
    """Start two processes as torchrun does."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "sb3_ppo_edu", *words],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def train(folder: Path, name: str) -> list[subprocess.Popen[str]]:
    """Start a training."""
    words = [
        "train",
        "--env",
        "Pendulum-v1",
        "--config",
        str(folder / "settings.yml"),
        "--folder",
        str(folder),
        "--name",
        name,
    ]
    return start([*words, "--checkpoint-freq", "1000", "--eval-freq", "8192", "--eval-episodes", "1", "--no-replay"])


def bits(run: Path) -> bytes:
    """Give the parameters that a run ended with."""
    model = EduPPO.load(run / "model.zip", device="cpu")
    return bytes(th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().numpy().tobytes())


def wait_for(checkpoints: Path, step: int) -> None:
    """Wait until a training has made a checkpoint of a step or a later one."""
    while not any(int(path.stem.rpartition("-")[2]) >= step for path in checkpoints.glob("checkpoint-*.zip")):
        time.sleep(0.005)


def kill_one(folder: Path, index: int, rng: random.Random, expected: bytes) -> dict[str, Any]:
    """Kill one of two processes at a random moment; tell how it went."""
    name, rank = f"killed-{index}", rng.randrange(2)
    running = train(folder, name)
    step, delay = rng.randrange(1000, SETTINGS["n_timesteps"] - 1000), rng.uniform(0.0, 0.1)
    wait_for(folder / name / "checkpoints", step // 1000 * 1000)
    time.sleep(delay)
    running[rank].send_signal(signal.SIGKILL)
    begin = time.perf_counter()
    try:
        output, _ = running[1 - rank].communicate(timeout=PATIENCE)
        hung = False
    except subprocess.TimeoutExpired:
        running[1 - rank].kill()
        output, _ = running[1 - rank].communicate()
        hung = True
    seconds = time.perf_counter() - begin
    running[rank].communicate()
    row: dict[str, Any] = {
        "killed": rank,
        "after_step": step // 1000 * 1000,
        "and_seconds": round(delay, 3),
        "hung": hung,
        "seconds_until_the_other_ended": round(seconds, 2),
        "exit_code": running[1 - rank].returncode,
        "named": f"rank {1 - rank} of 2: rank {rank} ended" in output,
    }
    again = start(["resume", str(folder / name)])
    outputs = [process.communicate()[0] for process in again]
    row["resumed"] = [process.returncode for process in again] == [0, 0]
    row["same_bits"] = row["resumed"] and bits(folder / name) == expected
    if not (row["named"] and row["same_bits"]):
        print(output, *outputs, sep="\n----\n", file=sys.stderr)
    return row


def page(rows: list[dict[str, Any]], kills: int) -> str:
    """Write what the rows come to."""
    waits = [row["seconds_until_the_other_ended"] for row in rows]
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        "# One of two processes killed",
        "",
        f"Pendulum-v1 in two processes, {SETTINGS['n_timesteps']:,} steps, a checkpoint every 1,000; one of them",
        "killed by SIGKILL up to 0.1 s after a checkpoint drawn from all but the last.",
        "",
        "| | |",
        "| --- | ---: |",
        f"| killed | {len(rows)} |",
        f"| the other ended within {PATIENCE:.0f} s | {sum(not row['hung'] for row in rows)} |",
        f"| seconds until it did, median and longest | {statistics.median(waits):.1f}, {max(waits):.1f} |",
        f"| its message named the killed rank | {sum(row['named'] for row in rows)} |",
        f"| resumed from the last common checkpoint | {sum(row['resumed'] for row in rows)} |",
        f"| ended with the bits of the undisturbed training | {sum(row['same_bits'] for row in rows)} |",
        "",
        f"Made by `python benchmarks/scale/kill_one.py --kills {kills}` on {machine()}; {listed}.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Kill, resume, compare, and write rows and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where rows and page go")
    given = parser.parse_args()
    rng, rows = random.Random(given.seed), []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "settings.yml").write_text(yaml.safe_dump({"Pendulum-v1": SETTINGS}), encoding="utf-8")
        whole = train(folder, "whole")
        for process in whole:
            process.communicate()
        expected = bits(folder / "whole")
        for index in range(given.kills):
            rows.append(kill_one(folder, index, rng, expected))
            print(rows[-1], flush=True)
    with (given.folder / "kill_one.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = page(rows, given.kills)
    (given.folder / "kill_one.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(row["named"] and row["same_bits"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
