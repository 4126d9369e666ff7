"""
What the doctor costs: the numbers that EduPPO records for it, and the callback that watches.

    python benchmarks/doctor/cost.py

One training goes on block by block: a block without either, one that records, one that records and watches, and so on in
turn, so that whatever else the machine does meets all three alike. Compared is the processor time of the process, not the
time that passes; of the differences between neighbouring blocks the median is taken. Beside it stands the time that is spent
inside of the doctor's own functions, which is far less noisy and leaves out only what writing more columns costs.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms import diagnostics
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.vec_env import InProcessVecEnv
from sb3_ppo_edu.version import __version__

HERE = Path(__file__).resolve().parent

CASES: Mapping[str, tuple[str, int, int, dict[str, Any]]] = {
    "CartPole-v1, the zoo's settings": (
        "CartPole-v1",
        8,
        64,
        {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3},
    ),
    "CartPole-v1, SB3's defaults": ("CartPole-v1", 1, 10, {}),
    "Pendulum-v1, four environments": ("Pendulum-v1", 4, 16, {"n_steps": 256, "gamma": 0.9, "learning_rate": 1e-3}),
    "LunarLander-v3, eight environments": ("LunarLander-v3", 8, 16, {"n_steps": 128, "n_epochs": 4, "gamma": 0.999}),
}
"""What is trained: environment, how many of it, blocks of each kind, and arguments."""

BLOCK = 16
"""Iterations of a block: of short updates every fourth is measured for the doctor, and of those every fourth for what the
environment does, so each block has one of them."""

RECORDED = ("doctor_numbers", "environment_numbers", "unfinished_episodes", "logged_settings")
"""Functions of ``diagnostics`` that gather what is logged for the doctor."""

KINDS = ("neither", "recorded", "watched")


class Watching(TrainingDoctor):
    """The doctor over many calls of ``learn``: it begins once, and writes no report, which is no part of training."""

    def _on_training_start(self) -> None:
        """Begin, but once."""
        if not self._watching:
            super()._on_training_start()

    def _on_training_end(self) -> None:
        """Go on watching."""


@dataclass
class Meter:
    """
    Adds up the processor time that is spent inside of methods.

    :param seconds: by the label that a method was given
    :param own: what the clock takes itself, in seconds a call
    """

    seconds: dict[str, float] = field(default_factory=dict)
    own: float = 0.0
    _inside: bool = False

    def measure(self, owner: Any, name: str, label: str) -> None:
        """
        Measure a method from now on; what it calls is not counted twice.

        :param name: of the method
        :param label: under which its time is added up
        """
        method = getattr(owner, name)

        def measured(*arguments: Any) -> Any:
            if self._inside:
                return method(*arguments)
            self._inside, began = True, time.process_time_ns()
            try:
                return method(*arguments)
            finally:
                self._inside = False
                spent = time.process_time_ns() - began
                self.seconds[label] = self.seconds.get(label, 0.0) + spent / 1e9 - self.own

        setattr(owner, name, measured)

    def calibrate(self, calls: int = 20_000) -> None:
        """
        Find out what the clock itself takes between its two readings, to take it off from now on.

        :param calls: of an empty method
        """

        class Empty:
            def method(self) -> None:
                """Do nothing."""

        empty = Empty()
        self.measure(empty, "method", "nothing")
        for _ in range(calls):
            empty.method()
        self.own = self.seconds.pop("nothing") / calls


def make_model(env_id: str, n_envs: int, arguments: Mapping[str, Any], folder: str) -> EduPPO:
    """
    Build the model that is trained.

    :param env_id: Gymnasium id
    :param n_envs: environments stepped together
    :return: the model, which logs as ``sb3-edu train`` does, but for TensorBoard
    """
    env = make_vec_env(env_id, n_envs, seed=0, env_kwargs={"render_mode": None}, vec_env_cls=InProcessVecEnv)
    model = EduPPO("MlpPolicy", env, seed=0, device="cpu", **arguments)
    model.set_logger(configure(folder, ["csv"]))
    return model


def compare_blocks(model: EduPPO, blocks: int) -> dict[str, np.ndarray]:
    """
    Train in blocks of each kind in turn.

    :param blocks: of each kind
    :return: processor seconds of each block, by kind
    """
    doctor = Watching(page=None, verbose=0)
    records = {name: getattr(diagnostics, name) for name in RECORDED}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for block in range(blocks + 1):
        for kind in KINDS if block % 2 else reversed(KINDS):
            for name in RECORDED if kind == "neither" else ():
                setattr(diagnostics, name, lambda *_: {})
            began = time.process_time()
            try:
                model.learn(
                    BLOCK * model.n_steps * model.n_envs,
                    callback=doctor if kind == "watched" else None,
                    reset_num_timesteps=False,
                )
            finally:
                for name, function in records.items():
                    setattr(diagnostics, name, function)
            if block:  # the first ones warm up
                seconds[kind].append(time.process_time() - began)
    doctor._finish()
    return {kind: np.array(numbers) for kind, numbers in seconds.items()}


def measure_inside(model: EduPPO, blocks: int) -> dict[str, float]:
    """
    Train with the doctor, and measure inside of its functions.

    :param blocks: how long
    :return: shares of the processor time: of what is recorded, and of what watches
    """
    meter, doctor = Meter(), Watching(page=None, verbose=0)
    meter.calibrate()
    for name in RECORDED:
        meter.measure(diagnostics, name, "recorded")
    for name in ("update_locals", "on_step", "on_rollout_start", "on_rollout_end"):
        meter.measure(doctor, name, "watched")
    began = time.process_time()
    model.learn(BLOCK * blocks * model.n_steps * model.n_envs, callback=doctor)
    total = time.process_time() - began
    doctor._finish()
    return {label: seconds / total for label, seconds in meter.seconds.items()}


def interval(shares: np.ndarray) -> str:
    """
    Write the median of some shares with its 95 % interval (bootstrap of 2,000 resamples).

    :param shares: of pairs of blocks
    :return: such as "0.4 % (0.1 to 0.7)"
    """
    random = np.random.default_rng(0)
    medians = np.median(random.choice(shares, (2000, len(shares))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return f"{np.median(shares):.1%} ({low:.1%} to {high:.1%})".replace("%", " %")


def report(rows: Sequence[str], scale: float) -> str:
    """Write the page."""
    libraries = f"sb3_ppo_edu {__version__}, stable_baselines3 {stable_baselines3.__version__}, torch {th.__version__}"
    versions = f"{libraries}, Python {platform.python_version()}"
    lines = [
        "# What the doctor costs",
        "",
        "Shares of a training's processor time. *Recorded* are the numbers that EduPPO logs for the doctor, always; *watched* "
        "is what `TrainingDoctor` takes on top of that, without the report at its end (some 2 s, nearly all of it for drawing "
        "the page). *Inside*: measured in the doctor's own functions, what the clock takes left out. *Blocks*: difference "
        "between neighbouring blocks of the same training with and without, median and 95 % interval; on a machine that does "
        "other things too it is as wide as that.",
        "",
        "| training | ms an iteration | recorded, inside | watched, inside | recorded, blocks | watched, blocks |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
        f"`python benchmarks/doctor/cost.py --scale {scale:g}`; {versions}, one thread.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="how many times as many blocks (default: 1)")
    parser.add_argument("--output", type=Path, default=HERE / "cost.md", metavar="FILE", help="where the table goes")
    arguments = parser.parse_args(argv)
    th.set_num_threads(1)
    rows = []
    for name, (env_id, n_envs, blocks, settings) in CASES.items():
        blocks = max(round(blocks * arguments.scale), 2)
        with tempfile.TemporaryDirectory() as folder:
            inside = measure_inside(make_model(env_id, n_envs, settings, folder), blocks)
            seconds = compare_blocks(make_model(env_id, n_envs, settings, folder), blocks)
        base = seconds["neither"]
        recorded, watched = (seconds["recorded"] - base) / base, (seconds["watched"] - seconds["recorded"]) / base
        shares = [f"{inside[label]:.2%}".replace("%", " %") for label in ("recorded", "watched")]
        cells = [name, f"{1000 * np.median(base) / BLOCK:.1f}", *shares, interval(recorded), interval(watched)]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    arguments.output.write_text(report(rows, arguments.scale), encoding="utf-8")


if __name__ == "__main__":
    main()
