"""Kill trainings at random moments, resume them, and compare with trainings that nobody disturbed.

``python benchmarks/durability/kill.py --kills 100`` trains four small cases with both engines to the end, then kills (SIGKILL)
as many trainings at moments drawn over their whole length, resumes each, and compares parameters, optimizer state,
``progress.csv`` (clocks aside) and ``evaluations.npz`` bit by bit. Rows go to ``kill.csv``, a table to ``kill.md``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

# Every optimizer imports it, which takes longer than a training here: once, before they are forked.
from torch import _dynamo  # noqa: F401

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.settings import versions
from sb3_ppo_edu.vec_env import InProcessVecEnv

# Environments in processes of their own are forked from one that has imported what they need.
multiprocessing.set_forkserver_preload(["stable_baselines3"])

CLOCKS = ("time/fps", "time/time_elapsed")
SAVE_FREQ = 150


class Seeker(gym.Env[Any, Any]):
    """A point that looks for a goal, seen as a dictionary: small enough to be trained in a second."""

    observation_space = spaces.Dict({"place": spaces.Box(-2, 2, (2,), np.float32), "side": spaces.Discrete(2)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put point and goal somewhere."""
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move, with noise."""
        moved = self.place + 0.2 * action + 0.02 * self.np_random.normal(size=2)
        self.place, self.steps = np.clip(moved, -2, 2).astype(np.float32), self.steps + 1
        distance = float(np.abs(self.place).sum())
        return self._seen(), -distance, distance < 0.05, self.steps >= 40, {}

    def _seen(self) -> dict[str, Any]:
        return {"place": self.place.copy(), "side": int(self.place[0] > 0)}


@dataclass(frozen=True)
class Case:
    """A training to disturb."""

    make: Callable[[], gym.Env]
    vec_env: type[Any] = InProcessVecEnv
    normalize: bool = False
    policy: str = "MlpPolicy"
    engines: tuple[str, ...] = ("fused", "autograd")

    def envs(self, count: int, seed: int, vec_env: type[Any] | None = None) -> VecEnv:
        """Build vectorised environments."""
        env = make_vec_env(self.make, count, seed=seed, vec_env_cls=vec_env or self.vec_env, wrapper_class=Resumable)
        return VecNormalize(env) if self.normalize else env


CASES = {
    "CartPole, one process": Case(partial(gym.make, "CartPole-v1")),
    "LunarLanderContinuous, normalised": Case(partial(gym.make, "LunarLanderContinuous-v3"), normalize=True),
    "Pendulum, processes": Case(partial(gym.make, "Pendulum-v1"), vec_env=SubprocVecEnv),
    "dictionary observations": Case(Seeker, policy="MultiInputPolicy", engines=("autograd",)),
}


def train(case: Case, engine: str, folder: Path, steps: int) -> None:
    """Train, or go on with a training, to the end; leave what it came to in ``result.json``."""
    th.set_num_threads(1)
    env = case.envs(2, seed=3)
    checkpoints = folder / "checkpoints"
    callback = [
        ExactCheckpoint(SAVE_FREQ, checkpoints),
        EvalCallback(case.envs(1, seed=9, vec_env=InProcessVecEnv), eval_freq=170, n_eval_episodes=2, log_path=str(folder)),
    ]
    callback[1].verbose = 0
    if list(checkpoints.glob("checkpoint-*.zip")):
        model = EduPPO.resume(checkpoints, env, device="cpu")
        assert set(model.resumed_envs) == {"replayed"}, model.resumed_envs
    else:
        model = EduPPO(case.policy, env, n_steps=64, batch_size=32, n_epochs=2, seed=1, device="cpu", engine=engine)  # type: ignore[arg-type]
        model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    model.learn(steps, callback=callback)
    result = digests(model, folder)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def digests(model: EduPPO, folder: Path) -> dict[str, str]:
    """Digest everything that must not depend on the interruption."""
    parameters, optimizer = hashlib.sha256(), hashlib.sha256()
    for tensor in model.policy.state_dict().values():
        parameters.update(tensor.numpy().tobytes())
    for state in model.policy.optimizer.state_dict()["state"].values():
        for value in state.values():
            optimizer.update(th.as_tensor(value).numpy().tobytes())
    with (folder / "progress.csv").open(newline="", encoding="utf-8") as file:
        rows = [sorted((key, cell) for key, cell in row.items() if key not in CLOCKS) for row in csv.DictReader(file)]
    with np.load(folder / "evaluations.npz") as arrays:
        evaluations = b"".join(arrays[name].tobytes() for name in sorted(arrays.files))
    return {
        "parameters": parameters.hexdigest(),
        "optimizer": optimizer.hexdigest(),
        "progress.csv": hashlib.sha256(repr(rows).encode()).hexdigest(),
        "evaluations.npz": hashlib.sha256(evaluations).hexdigest(),
    }


def in_child(case: Case, engine: str, folder: Path, steps: int, kill_after: float | None) -> float:
    """Train in a forked process, which is killed some seconds after it has begun or left alone; return how long it trained."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            train(case, engine, folder, steps)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    # The log is opened when everything is built and learning begins.
    while not (folder / "progress.csv").exists():
        time.sleep(0.002)
    start = time.perf_counter()
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if kill_after is None and status != 0:
        raise RuntimeError(f"the training in {folder} ended with status {status}")
    return time.perf_counter() - start


def measure(
    kills: int, steps: int, seed: int, folder: Path, report: Callable[[dict[str, Any]], None], cases: int | None = None
) -> list[dict[str, Any]]:
    """Kill and resume, case by case and engine by engine in turn; only so many of them if ``cases`` says how many."""
    drawn = random.Random(seed)
    combinations = [(name, engine) for name, case in CASES.items() for engine in case.engines]
    if cases is not None:
        combinations = drawn.sample(combinations, cases)
    undisturbed, lengths = {}, {}
    for name, engine in combinations:
        place = folder / f"undisturbed-{name}-{engine}".replace(" ", "_")
        lengths[name, engine] = in_child(CASES[name], engine, place, steps, None)
        undisturbed[name, engine] = json.loads((place / "result.json").read_text(encoding="utf-8"))
    rows = []
    for index in range(kills):
        name, engine = combinations[index % len(combinations)]
        place = folder / f"killed-{index}"
        moment = drawn.uniform(0.0, 1.0) * lengths[name, engine]
        in_child(CASES[name], engine, place, steps, moment)
        found = sorted(path.name for path in (place / "checkpoints").glob("checkpoint-*.zip"))
        if not (place / "result.json").exists():
            in_child(CASES[name], engine, place, steps, None)
        result = json.loads((place / "result.json").read_text(encoding="utf-8"))
        same = {what: result[what] == value for what, value in undisturbed[name, engine].items()}
        at = int(found[-1][11:-4]) if found else 0
        rows.append({"case": name, "engine": engine, "killed_after": f"{moment:.3f}", "resumed_at": at, **same})
        report(rows[-1])
    return rows


def main() -> int:
    """Measure, and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--cases", type=int, help="how many of the cases, drawn with the seed (default: all)")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where rows and table go")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given.kills, given.steps, given.seed, Path(folder), lambda row: print(row, flush=True), given.cases)
    with (given.folder / "kill.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (given.folder / "kill.md").write_text(table(rows, given), encoding="utf-8")
    return 0 if all(value is True for row in rows for value in row.values() if isinstance(value, bool)) else 1


def table(rows: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """Write the table."""
    command = f"python benchmarks/durability/kill.py --kills {given.kills} --steps {given.steps} --seed {given.seed}"
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines = [
        "# Killed and resumed",
        "",
        f"Trainings of {given.steps:,} steps with a checkpoint every {SAVE_FREQ}, killed by SIGKILL at moments drawn over",
        "their whole length, and resumed. How many ended with the same bits as the training that nobody disturbed:",
        "",
        f"![Each of {len(rows)} killed trainings, by the step that it went on from](kill.png)",
        "",
    ]
    return "\n".join([*lines, *lines_of(rows), "", f"Made by `{command}` on {machine()}; {listed}.", ""])


def lines_of(rows: list[dict[str, Any]]) -> list[str]:
    """Write the lines of the table."""
    what = [name for name, value in rows[0].items() if isinstance(value, bool)]
    lines = [
        "| case | engine | killed | before the first checkpoint | " + " | ".join(what) + " |",
        "| --- | --- | ---: | ---: | " + " | ".join(["---:"] * len(what)) + " |",
    ]
    for name, engine in dict.fromkeys((row["case"], row["engine"]) for row in rows):
        own = [row for row in rows if (row["case"], row["engine"]) == (name, engine)]
        counts = " | ".join(str(sum(row[one] for row in own)) for one in what)
        early = sum(int(row["resumed_at"]) == 0 for row in own)
        lines.append(f"| {name} | {engine} | {len(own)} | {early} | {counts} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
