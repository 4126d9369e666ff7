"""
What the doctor costs: the numbers that EduPPO records for it, and the callback that watches.

    python benchmarks/doctor/cost.py

One training goes on block by block: a block without either, one that records, one that records and watches, and so on in
turn, so that whatever else the machine does meets all three alike. Compared is the processor time of the process, not the
time that passes; of the differences between neighbouring blocks the median is taken. Beside it stands the time that is spent
inside of the doctor's own functions, which is far less noisy and leaves out only what writing more columns costs. What is
called at every step would be slowed down by a clock: its time is taken afterwards and multiplied by the number of steps.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms import diagnostics
from sb3_ppo_edu.algorithms.environment_numbers import UnfinishedEpisodes
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.vec_env import InProcessVecEnv
from sb3_ppo_edu.version import __version__

HERE = Path(__file__).resolve().parent

CASES: Mapping[str, tuple[str, int, int, dict[str, Any]]] = {
    "CartPole-v1, the zoo's settings": (
        "CartPole-v1",
        8,
        16,
        {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3},
    ),
    "CartPole-v1, SB3's defaults": ("CartPole-v1", 1, 10, {}),
    "Pendulum-v1, four environments": ("Pendulum-v1", 4, 16, {"n_steps": 256, "gamma": 0.9, "learning_rate": 1e-3}),
    "LunarLander-v3, eight environments": ("LunarLander-v3", 8, 6, {"n_steps": 128, "n_epochs": 4, "gamma": 0.999}),
}
"""What is trained: environment, how many of it, blocks of each kind, and arguments."""

MEASURED = 16
"""Of the updates that are measured for the doctor, one of as many is for what the environment does, once a training is older:
so many of them are a block, and each block has one."""

RECORDED: Sequence[tuple[Any, str]] = (
    (diagnostics, "doctor_numbers"),
    (diagnostics, "environment_numbers"),
    (diagnostics, "logged_settings"),
    (UnfinishedEpisodes, "add"),
    (UnfinishedEpisodes, "sums"),
)
"""What gathers what is logged for the doctor: owners and names of functions."""

WATCHED = ("update_locals", "on_rollout_start", "on_rollout_end")
"""Methods of the doctor that are called once in an iteration."""

KINDS = ("neither", "recorded", "watched")


class Blocks(BaseCallback):
    """
    Goes from block to block, with and without the doctor, and takes the processor time of each.

    :param doctor: watches in the blocks of its kind
    :param blocks: of each kind, after one of each to warm up
    :param iterations: of a block
    """

    reads_every_step = changes_policy = False

    def __init__(self, doctor: TrainingDoctor, blocks: int, iterations: int) -> None:
        super().__init__()
        self.doctor = doctor
        self.iterations = iterations
        self.order = [kind for block in range(blocks + 1) for kind in (KINDS if block % 2 else KINDS[::-1])]
        self.seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.watches = False
        self.records = [getattr(owner, name) for owner, name in RECORDED]
        self._rollouts, self._began = 0, 0.0

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Hand on to the doctor what it is to see, without the copy that SB3 makes."""
        if self.watches:
            self.doctor.update_locals(locals_)

    def _init_callback(self) -> None:
        """Tell the doctor of the model."""
        self.doctor.init_callback(self.model)

    def _on_training_start(self) -> None:
        """Tell the doctor that training starts."""
        self.doctor.on_training_start(self.locals, self.globals)

    def _on_rollout_start(self) -> None:
        """Go on to the next block."""
        block, within = divmod(self._rollouts, self.iterations)
        if within == 0:
            self._end_block(block)
            self.watches = self.order[block] == "watched"
            self._record(self.order[block] != "neither")
        self._rollouts += 1
        if self.watches:
            self.doctor.on_rollout_start()

    def _on_step(self) -> bool:
        """Have the doctor see a step."""
        return not self.watches or self.doctor.on_step()

    def _on_rollout_end(self) -> None:
        """Have the doctor see a rollout."""
        if self.watches:
            self.doctor.on_rollout_end()

    def _on_training_end(self) -> None:
        """End the last block; the doctor's report is no part of it."""
        self._end_block(len(self.order))
        self._record(True)
        self.doctor.on_training_end()

    def _end_block(self, block: int) -> None:
        """Take the time of the block before; the first ones warm up."""
        now = time.process_time()
        if block > len(KINDS):
            self.seconds[self.order[block - 1]].append(now - self._began)
        self._began = now

    def _record(self, wanted: bool) -> None:
        """Have the numbers recorded, or not."""
        for (owner, name), function in zip(RECORDED, self.records, strict=True):
            setattr(owner, name, function if wanted else lambda *_: {})


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
    _measured: list[tuple[Any, str, Any]] = field(default_factory=list)

    def measure(self, owner: Any, name: str, label: str) -> None:
        """
        Measure a method from now on; what it calls is not counted twice.

        :param name: of the method
        :param label: under which its time is added up
        """
        method = getattr(owner, name)
        self._measured.append((owner, name, method))

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

    def stop(self) -> None:
        """Measure no more."""
        for owner, name, method in self._measured:
            setattr(owner, name, method)

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


def iterations_of_block(model: EduPPO) -> int:
    """Say how many iterations have what the environment does measured once."""
    minibatches = model.n_epochs * -(-model.n_steps * model.n_envs // model.batch_size)
    return MEASURED * (1 if minibatches >= diagnostics.SHORT_UPDATE else diagnostics.SAMPLED_UPDATES)


def compare_blocks(model: EduPPO, blocks: int) -> dict[str, np.ndarray]:
    """
    Train in blocks of each kind in turn.

    :param blocks: of each kind
    :return: processor seconds of an iteration in each block, by kind
    """
    iterations = iterations_of_block(model)
    callback = Blocks(TrainingDoctor(page=None, verbose=0), blocks, iterations)
    model.learn(len(callback.order) * iterations * model.n_steps * model.n_envs, callback=callback)
    return {kind: np.array(numbers) / iterations for kind, numbers in callback.seconds.items()}


def measure_inside(model: EduPPO, blocks: int) -> dict[str, float]:
    """
    Train with the doctor, and measure inside of its functions.

    :param blocks: how long
    :return: shares of the processor time: of what is recorded, and of what watches
    """

    class Measured(TrainingDoctor):
        """One whose methods can be replaced: where an instance has one of its own, EduPPO shows it all local variables."""

    meter, doctor, n_rollouts = Meter(), Measured(page=None, verbose=0), blocks * iterations_of_block(model)
    meter.calibrate()
    for owner, name in RECORDED:
        meter.measure(owner, name, "recorded")
    for name in WATCHED:
        meter.measure(Measured, name, "watched")
    began = time.process_time()
    model.learn(n_rollouts * model.n_steps * model.n_envs, callback=doctor)
    total = time.process_time() - began
    meter.stop()
    meter.seconds["watched"] += n_rollouts * model.n_steps * seconds_of(doctor.on_step)
    return {label: seconds / total for label, seconds in meter.seconds.items()}


def seconds_of(function: Callable[[], Any], calls: int = 2000) -> float:
    """
    Take the time of a short function.

    :param calls: so many in a row, ten times
    :return: seconds of one, in the fastest of the ten
    """
    return min(timeit.repeat(function, timer=time.process_time, repeat=10, number=calls)) / calls


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
        cells = [name, f"{1000 * np.median(base):.1f}", *shares, interval(recorded), interval(watched)]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    arguments.output.write_text(report(rows, arguments.scale), encoding="utf-8")


if __name__ == "__main__":
    main()
