"""Measure what images cost on a CPU: SB3's PPO and EduPPO with the options of its autograd engine, in turn.

``python benchmarks/speed/images.py`` writes ``images.csv`` and ``images.md`` beside this file. Eight environments with four
frames of 84 × 84, SB3's ``CnnPolicy``, minibatches of 256, four epochs: what the zoo has for Atari games. Each training, of a
rollout and an update, runs in a process of its own, with one thread and with two. A run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import PolicyInputs
from sb3_ppo_edu.lab.formatting import number
from sb3_ppo_edu.lab.page import Page, Section, Table, to_markdown
from sb3_ppo_edu.lab.rows import append_rows, read_rows
from sb3_ppo_edu.lab.speed.rows import conditions

SIDE, N_ENVS, N_STEPS, BATCH_SIZE, N_EPOCHS, ACTS = 84, 8, 128, 256, 4, 100
MINIBATCHES = N_EPOCHS * N_STEPS * N_ENVS // BATCH_SIZE
THREADS = (1, 2)
OPTIONS: dict[str, dict[str, bool] | None] = {
    "SB3's PPO": None,
    "EduPPO, `autograd`": {},
    "`channels_last=True`": {"channels_last": True},
    "`bf16=True`": {"bf16": True},
    "both": {"channels_last": True, "bf16": True},
}
"""What is measured: the engine's options, or None for SB3."""

PARTS = {"minibatch": "minibatch, ms", "act": "act, ms", "training": "training, s"}


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """
    What one training took.

    :param name: key of :data:`OPTIONS`
    :param threads: torch threads
    :param repetition: index, the seed too
    :param part: "minibatch" (milliseconds of an update by minibatches), "act" (milliseconds) or "training" (seconds)
    :param cpu: processor time, all threads together
    :param wall: wall-clock time
    :param peak_mib: largest resident memory of the process
    :param load: processes that wanted a processor in the last minute
    """

    name: str
    threads: int
    repetition: int
    part: str
    cpu: float
    wall: float
    peak_mib: float
    load: float


class MovingSquare(gym.Env[Any, Any]):
    """A bright square wanders over a dark field; the action that names its quarter is worth 1."""

    observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put the square anywhere."""
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.integers(0, SIDE - 8, 2)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Judge the action, and move the square."""
        row, column = self.place > SIDE // 2 - 4
        self.steps += 1
        self.place = np.clip(self.place + self.np_random.integers(-4, 5, 2), 0, SIDE - 8)
        return self._observe(), float(action == 2 * row + column), False, self.steps >= 100, {}

    def _observe(self) -> Any:
        """Draw the field."""
        field = np.full((SIDE, SIDE, 1), 30, np.uint8)
        field[self.place[0] : self.place[0] + 8, self.place[1] : self.place[1] + 8] = 220
        return field


def make_model(options: dict[str, bool] | None, seed: int) -> Any:
    """Build a model with settings for Atari games."""
    env = VecFrameStack(make_vec_env(MovingSquare, N_ENVS, seed=seed), 4)
    settings: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": BATCH_SIZE, "n_epochs": N_EPOCHS, "ent_coef": 0.01}
    settings |= {"learning_rate": 2.5e-4, "clip_range": 0.1, "seed": seed, "device": "cpu"}
    if options is None:
        return PPO("CnnPolicy", env, **settings)
    return EduPPO("CnnPolicy", env, **settings, engine="autograd", engine_kwargs=options)


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Processor time and wall-clock time of a call, in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(name: str, threads: int, repetition: int) -> list[ImageRow]:
    """Train in this process."""
    th.set_num_threads(threads)
    model = make_model(OPTIONS[name], repetition)
    updates: list[tuple[float, float]] = []
    train = model.train
    model.train = lambda: updates.append(timed(train))
    whole = timed(lambda: model.learn(N_STEPS * N_ENVS))

    inputs = PolicyInputs(th.from_numpy(model._last_obs))
    act = model.attach_engine().act if isinstance(model, EduPPO) else lambda one: model.policy(one.observations)
    with th.no_grad():
        acts = timed(lambda: [act(inputs) for _ in range(ACTS)])

    [update] = updates
    found = {"minibatch": tuple(1e3 * one / MINIBATCHES for one in update), "act": tuple(1e3 * one / ACTS for one in acts)}
    found["training"] = whole
    peak, load = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, os.getloadavg()[0]
    given: dict[str, Any] = {"name": name, "threads": threads, "repetition": repetition, "peak_mib": peak, "load": load}
    return [ImageRow(**given, part=part, cpu=cpu, wall=wall) for part, (cpu, wall) in found.items()]


def measure_in_child(name: str, threads: int, repetition: int) -> list[ImageRow]:
    """Train in a fresh process."""
    command = [sys.executable, __file__, "--child", json.dumps([name, threads, repetition])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [ImageRow(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def medians(rows: list[ImageRow], threads: int, name: str, column: str) -> list[float]:
    """Medians of one row of the table, a part after the other."""
    return [
        statistics.median(getattr(row, column) for row in rows if (row.threads, row.name, row.part) == (threads, name, part))
        for part in PARTS
    ]


def table(rows: list[ImageRow], threads: int, column: str) -> Table:
    """Medians, with SB3's divided by them in brackets."""
    reference, *_ = (medians(rows, threads, name, column) for name in OPTIONS)
    lines = []
    for name in OPTIONS:
        found = medians(rows, threads, name, column)
        cells = [f"{number(one, 1)} ({number(sb3 / one, 2)})" for one, sb3 in zip(found, reference, strict=True)]
        peak = statistics.median(row.peak_mib for row in rows if (row.threads, row.name) == (threads, name))
        lines.append([name, *cells, number(peak)])
    return Table(["", *PARTS.values(), "memory, MiB"], lines)


def page(rows: list[ImageRow]) -> Page:
    """Write what the rows come to."""
    now, loads = conditions("full"), [row.load for row in rows]
    counts = {
        threads: min(
            len([row for row in rows if (row.name, row.threads, row.part) == (name, threads, "act")]) for name in OPTIONS
        )
        for threads in THREADS
    }
    sb3, autograd = (medians(rows, 1, name, "cpu")[0] for name in list(OPTIONS)[:2])
    sections = [
        Section(
            f"{'One thread' if threads == 1 else 'Two threads'}, {title}",
            [f"Each was trained {'once' if counts[threads] == 1 else f'{counts[threads]} times or more'}."],
            table(rows, threads, column),
        )
        for threads in THREADS
        if counts[threads]
        for column, title in (("cpu", "processor time"), ("wall", "wall-clock time"))
    ]
    lead = [
        f"{N_ENVS} environments of our own that draw a moving square, four frames of {SIDE} × {SIDE}, SB3's `CnnPolicy`, "
        f"one rollout of {N_STEPS} steps, {N_EPOCHS} epochs of minibatches of {BATCH_SIZE}. A minibatch is its share of the "
        "update, act one call for all environments, training the whole `learn`. Medians of trainings in processes of their "
        "own, in turn; in brackets how many times as fast as SB3.",
        f"Other work was on the machine: {number(min(loads), 1)} to {number(max(loads), 1)} processes for "
        f"{os.cpu_count()} cores, so that processor time says more than wall-clock time.",
        "With its defaults EduPPO has SB3's bits. For a minibatch of images torch allocates and frees some hundred megabytes, "
        "which the C library gives back to the system, and the system hands out again page by page. The autograd engine keeps "
        "them until the update ends (`sb3_ppo_edu/engines/memory.py`; with glibc, and unless the environment sets its "
        f"allocator): {number(100 * (1 - autograd / sb3))} % of SB3's processor time for a minibatch in one thread.",
        "Most of the rest is convolutions: half of it their backward passes, a third that of the first one alone. "
        "`channels_last=True` makes those cheaper; acting gains nothing by it, so only updates have it. `bf16=True` is for "
        "processors with instructions for bfloat16. Kept from using them (`ONEDNN_MAX_CPU_ISA`), the processor below took 1.8 "
        "times as long with it as without where it still had AVX-512, and ten times as long with AVX2; `model.engine_reason` "
        "says so where they are missing. Both options agree with SB3 to rounding only.",
    ]
    made_by = f"Made by `python benchmarks/speed/images.py` on {now.machine}; {now.versions}."
    return Page("Images on a CPU", lead, sections, made_by)


def main() -> None:
    """Measure what is not there yet, and write rows and page; with ``--page`` the page only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each")
    parser.add_argument("--page", action="store_true", help="write the page of the rows that are there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps([asdict(row) for row in measure(*json.loads(given.child))]))
        return
    file, names = Path(__file__).with_name("images.csv"), list(OPTIONS)
    done = {(row.name, row.threads, row.repetition) for row in read_rows(file, ImageRow)}
    for repetition in range(given.repeats):
        for threads in THREADS:
            for name in names if repetition % 2 == 0 else reversed(names):
                if (name, threads, repetition) not in done and not given.page:
                    append_rows(file, measure_in_child(name, threads, repetition))
                    print(name, threads, repetition, flush=True)
    text = to_markdown(page(read_rows(file, ImageRow)))
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
