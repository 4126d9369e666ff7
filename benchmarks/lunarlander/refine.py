"""Compare changes of LunarLander's settings on seeds that neither the search nor a report uses.

``python benchmarks/lunarlander/refine.py --env LunarLander-v3 n_steps=16 n_epochs=27,clip_range=0.2`` trains EduPPO with the
settings of ``hyperparams/eduppo.yml`` and each change of them, of one setting or of several, and writes the mean returns of
the final policies to ``refine-LunarLander-v3.csv`` beside this file. What is in that file already is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
import yaml

from sb3_ppo_edu.bench.learning import LANDER
from sb3_ppo_edu.bench.runs import Run, execute

FIRST_SEED, SEEDS = 2000, 32
EPISODES = 50
TARGET = 200.0


def train(env_id: str, steps: int, change: str, seed: int) -> float:
    """
    Train once.

    :param env_id: environment id
    :param steps: decisions
    :param change: such as "ent_coef=0.018"
    :param seed: of the run
    :return: mean return of the final policy, deterministic
    """
    parts = [part.partition("=") for part in change.split(",")]
    overrides = json.dumps({name: yaml.safe_load(value) for name, _, value in parts})
    run = Run("eduppo", env_id, seed, steps, "own", change, overrides, evaluations=1, eval_episodes=1, final_episodes=EPISODES)
    return execute(run).row.final_mean


def main() -> None:
    """Train with each change that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, choices=[task.env for task in LANDER])
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds of each, from {FIRST_SEED} on")
    parser.add_argument("changes", nargs="*", metavar="NAME=VALUE", help="changes")
    given = parser.parse_args()
    th.set_num_threads(1)
    (steps,) = (task.steps for task in LANDER if task.env == given.env)
    table = Path(__file__).with_name(f"refine-{given.env}.csv")
    done = [row["change"] for row in csv.DictReader(table.open(encoding="utf-8"))] if table.exists() else []
    for change in given.changes:
        if change in done:
            continue
        finals = np.array([train(given.env, steps, change, FIRST_SEED + number) for number in range(given.seeds)])
        row = {
            "change": change,
            "seeds": len(finals),
            "mean": round(float(finals.mean()), 1),
            "std": round(float(finals.std(ddof=1)), 1),
            "reached": int((finals >= TARGET).sum()),
            "finals": " ".join(f"{final:.0f}" for final in finals),
        }
        new = not table.exists()
        with table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
