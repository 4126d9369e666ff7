"""Which settings walk to 300 in 2,000,000 steps of BipedalWalker-v3? One change at a time around a first guess.

``python benchmarks/bipedalwalker/variants.py`` trains each of :data:`VARIANTS` on the plain environment with the seeds 100
and 101, those with the best means then with 102 to 105 (``--variants`` and ``--seeds`` name them), and appends a row for each
run to ``variants.csv`` beside this file; what is there is not trained again, and several processes may share the file.
``--fresh`` trains one variant with the seeds 0 to 9, which no search has seen: those count. The final policy, not the best one
seen, plays 100 episodes with its most likely actions, the same episodes for every run.

An episode that comes to the end of the ground earns about 360 for the way, less what the motors take, and a fall costs 100: a
mean of 300 needs a gait that is fast enough to be cheap, and nearly no falls.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.rows import append_rows, read_rows
from sb3_ppo_edu.training.evaluation import evaluate

ROWS = Path(__file__).with_suffix(".csv")
ENV = "BipedalWalker-v3"
STEPS = 2_000_000
SEARCHED, FRESH = range(100, 102), range(10)
EPISODES = 100
EVALUATION_SEED = 1_000_000
GOAL = 300.0

BEGIN: dict[str, Any] = {
    "n_envs": 16,
    "n_steps": 256,
    "batch_size": 128,
    "n_epochs": 10,
    "learning_rate": "lin_3e-4",
    "clip_range": 0.2,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
"""The first guess; what it does not name has EduPPO's default."""

VARIANTS: dict[str, dict[str, Any]] = {
    "first guess": {},
    "rate 5e-4": {"learning_rate": "lin_5e-4"},
    "γ 0.995": {"gamma": 0.995},
    "λ 0.9": {"gae_lambda": 0.9},
    "n_steps 512": {"n_steps": 512},
    "n_steps 128": {"n_steps": 128},
    "batch 64": {"batch_size": 64},
    "20 epochs": {"n_epochs": 20},
    "recomputed advantages": {"recompute_advantages": True},
    "ReLU 256": {"policy_kwargs": {"net_arch": [256, 256], "activation_fn": th.nn.ReLU}},
    "clip to 0": {"clip_range": "lin_0.2"},
    "cosine": {"learning_rate": "cos_3e-4"},
}
"""What each changes in :data:`BEGIN`."""


@dataclass(frozen=True)
class Row:
    """
    What one run came to.

    :param variant: key of :data:`VARIANTS`
    :param seed: of the run
    :param steps: steps of the environment in training
    :param mean: mean return of the final policy
    :param std: standard deviation over the episodes
    :param falls: episodes with a fall, of 100
    :param length: mean length of an episode
    :param seconds: wall-clock time; no measurement, since the machine may have had other things to do
    """

    variant: str
    seed: int
    steps: int
    mean: float
    std: float
    falls: int
    length: float
    seconds: float


def run_one(variant: str, seed: int) -> Row:
    """
    Train once and judge the final policy.

    :param variant: key of :data:`VARIANTS`
    :param seed: of the run
    """
    begin = time.perf_counter()
    arguments = {**BEGIN, **VARIANTS[variant]}
    settings = EnvironmentSettings(ENV, normalize={"norm_obs": True, "norm_reward": True, "gamma": arguments["gamma"]})
    env: Any = make_training_env(settings, arguments.pop("n_envs"), seed=100 * seed)
    judged: Any = make_evaluation_env(settings, 10, EVALUATION_SEED)
    model = EduPPO("MlpPolicy", env, seed=seed, device="cpu", **arguments)
    model.learn(STEPS)
    judged.obs_rms = env.obs_rms
    found = evaluate(model, judged, EPISODES)
    returns, lengths = np.asarray(found.returns), np.asarray(found.lengths)
    # Without a fall the way alone earns more than 0 in every episode that is not over at once.
    falls = int(np.sum((lengths < 1600) & (returns < 200)))
    mean, std, length = (float(f"{x:.2f}") for x in (returns.mean(), returns.std(), lengths.mean()))
    return Row(variant, seed, model.num_timesteps, mean, std, falls, length, round(time.perf_counter() - begin, 1))


def table(rows: list[Row]) -> str:
    """Means of every variant, the best first."""
    lines = []
    for variant in VARIANTS:
        found = sorted((row for row in rows if row.variant == variant), key=lambda row: row.seed)
        if found:
            means = [row.mean for row in found]
            reached = sum(mean >= GOAL for mean in means)
            lines.append((np.mean(means), f"{variant:24} {np.mean(means):7.1f}  {reached}/{len(means)}  {means}"))
    return "\n".join(line for _, line in sorted(lines, reverse=True))


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEARCHED))
    parser.add_argument("--fresh", action="store_true", help=f"the seeds {FRESH[0]} to {FRESH[-1]}, for what ships")
    given = parser.parse_args()
    th.set_num_threads(1)
    for seed in FRESH if given.fresh else given.seeds:
        for variant in given.variants:
            if not any((row.variant, row.seed) == (variant, seed) for row in read_rows(ROWS, Row)):
                row = run_one(variant, seed)
                append_rows(ROWS, [row])
                print(row, flush=True)
    print(table(read_rows(ROWS, Row)))


if __name__ == "__main__":
    main()
