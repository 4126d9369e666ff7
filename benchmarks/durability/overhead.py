"""What checkpoints and the record of actions cost.

``python benchmarks/durability/overhead.py`` trains on LunarLander-v3 with a checkpoint every 10,000 steps and measures the
share of wall-clock that saving takes; and it times steps of environments with and without ``Resumable``, in turn.
Both go to ``overhead.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.settings import versions
from sb3_ppo_edu.vec_env import InProcessVecEnv

STEPS, SAVE_FREQ = 100_000, 10_000
ENVS = ("CartPole-v1", "Pendulum-v1", "LunarLander-v3", "BipedalWalker-v3")


class Timed(ExactCheckpoint):
    """Adds up how long saving takes."""

    seconds = 0.0

    def save(self) -> Path | None:
        """Save, and count the time."""
        start = time.perf_counter()
        path = super().save()
        self.seconds += time.perf_counter() - start
        return path


def share_of_saving(seed: int) -> tuple[float, float]:
    """Train once; give the seconds of training and the share of them that saving took."""
    # Given an id and no render mode, make_vec_env switches rendering on, which takes longer than everything else.
    bare = {"render_mode": None}
    env = make_vec_env("LunarLander-v3", 8, seed, env_kwargs=bare, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable)
    model = EduPPO("MlpPolicy", VecNormalize(env), n_steps=256, batch_size=64, n_epochs=4, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        callback = Timed(SAVE_FREQ, folder)
        start = time.perf_counter()
        model.learn(STEPS, callback=callback)
        seconds = time.perf_counter() - start
    return seconds, callback.seconds / seconds


def seconds_of(env: gym.Env, actions: list[object]) -> float:
    """Time steps, with resets where episodes end."""
    env.reset(seed=0)
    start = time.perf_counter()
    for action in actions:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return time.perf_counter() - start


def seconds_of_vec(env: VecEnv, actions: list[object]) -> float:
    """Time steps as a training takes them, from a vector environment."""
    env.seed(0)
    env.reset()
    start = time.perf_counter()
    for action in actions:
        env.step(np.array([action]))
    return time.perf_counter() - start


class Cost(NamedTuple):
    """Microseconds of a step without the recorder, and the median ratio with it."""

    bare: float
    ratio: float


def in_turn(timed: Callable[[Any, list[object]], float], bare: Any, recorded: Any, actions: list[object], rounds: int) -> Cost:
    """Time the same steps with and without the recorder in turn."""
    timed(bare, actions), timed(recorded, actions)
    pairs = []
    for index in range(rounds):
        first, second = (bare, recorded) if index % 2 else (recorded, bare)
        one, other = timed(first, actions), timed(second, actions)
        pairs.append((one, other) if index % 2 else (other, one))
    return Cost(min(one for one, _ in pairs) / len(actions) * 1e6, statistics.median(other / one for one, other in pairs))


def cost_of_recording(env_id: str, steps: int = 4000, rounds: int = 25) -> tuple[Cost, Cost]:
    """Time an environment by itself, and as training steps it: with Monitor, from SB3's vector environment."""
    bare, recorded = gym.make(env_id), Resumable(gym.make(env_id))
    bare.action_space.seed(0)
    actions: list[object] = [bare.action_space.sample() for _ in range(steps)]
    kwargs: dict[str, Any] = {"n_envs": 1, "env_kwargs": {"render_mode": None}}
    pair = make_vec_env(env_id, **kwargs), make_vec_env(env_id, **kwargs, wrapper_class=Resumable)
    return in_turn(seconds_of, bare, recorded, actions, rounds), in_turn(seconds_of_vec, *pair, actions, rounds)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the page goes")
    given = parser.parse_args()
    th.set_num_threads(1)
    shares = [share_of_saving(seed) for seed in range(5)]
    lines = [
        "# What being able to resume costs",
        "",
        f"LunarLander-v3, {STEPS:,} steps with the fused engine, a checkpoint every {SAVE_FREQ:,}: saving takes "
        f"{statistics.median(share for _, share in shares):.1%} of the",
        f"training's {statistics.median(seconds for seconds, _ in shares):.0f} s (median of five; "
        f"{min(share for _, share in shares):.1%} to {max(share for _, share in shares):.1%}).",
        "",
        "`Resumable` around an environment, median ratio of 25 rounds in turn: by itself, and in a step as training takes it",
        "(with `Monitor`, from SB3's `DummyVecEnv`; the policy's share is not in it). Actions are random, so that in CartPole",
        "every twentieth step begins a new record.",
        "",
        "| environment | a step, µs | with the recorder | a step in training, µs | with the recorder |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for env_id in ENVS:
        alone, training = cost_of_recording(env_id)
        shown = (f"{cost.bare:.1f} | {cost.ratio - 1:+.1%}" for cost in (alone, training))
        lines.append(f"| {env_id} | {' | '.join(shown)} |")
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = "\n".join([*lines, "", f"Made by `python benchmarks/durability/overhead.py` on {machine()}; {listed}.", ""])
    (given.folder / "overhead.md").write_text(text.replace("+-", "-"), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
