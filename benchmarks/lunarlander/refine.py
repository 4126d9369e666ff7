"""Compare changes of LunarLander's settings on seeds that neither the search nor a report uses.

``python benchmarks/lunarlander/refine.py --env LunarLander-v3 n_steps=16 n_epochs=27,clip_range=0.2`` trains EduPPO with the
settings of ``hyperparams/eduppo.yml`` and each change of them, of one setting or of several, and writes the mean returns of
the final policies to ``refine-LunarLander-v3.csv`` beside this file. ``--trials 7 12`` has those of the search instead, with
``--wrappers none`` those of that one, and ``--settings shared`` begins with ``hyperparams/shared.yml``. What is in the file
already is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch as th
import yaml
from search import ENVS, WRAPPERS, hyperparameters_of

from sb3_ppo_edu.lab.algorithms import FILES
from sb3_ppo_edu.lab.runs import Run, execute
from sb3_ppo_edu.training.hyperparameters import bundled_file, load_hyperparameters

FIRST_SEED, SEEDS = 2000, 64
EPISODES = 50
TARGET = 200.0


def changes_of(change: str) -> dict[str, Any]:
    """
    Read a change.

    :param change: such as "ent_coef=0.018"
    :return: settings by name
    """
    parts = [part.partition("=") for part in change.split(",")]
    return {name: yaml.safe_load(value) for name, _, value in parts}


def train(env_id: str, steps: int, settings: str, change: str, overrides: dict[str, Any], seed: int) -> float:
    """
    Train once.

    :param env_id: environment id
    :param steps: decisions
    :param settings: what is changed: "own" or "shared"
    :param change: name of the change
    :param overrides: the change
    :param seed: of the run
    :return: mean return of the final policy, deterministic
    """
    text = json.dumps(overrides, sort_keys=True)
    run = Run("eduppo", env_id, seed, steps, settings, change, text, evaluations=1, eval_episodes=1, final_episodes=EPISODES)
    return execute(run).row.final_mean


def read(path: Path) -> list[dict[str, str]]:
    """
    Read a table.

    :param path: of a CSV file
    :return: its rows; none if there is no file
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Train with each change that the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, choices=ENVS)
    parser.add_argument("--settings", default="own", choices=list(FILES), help="what is changed (default: own)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many seeds of each (default: {SEEDS})")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help=f"the first of them (default: {FIRST_SEED})")
    parser.add_argument("--wrappers", choices=WRAPPERS, help="the search that the trials are of (default: an earlier one)")
    parser.add_argument("--trials", type=int, nargs="+", default=[], metavar="N", help="trials of the search")
    parser.add_argument("changes", nargs="*", metavar="NAME=VALUE", help="changes")
    given = parser.parse_args()
    th.set_num_threads(1)
    folder = Path(__file__).parent
    own = load_hyperparameters(given.env, bundled_file(FILES[given.settings]))
    asked = {change: changes_of(change) for change in given.changes}
    which = f"-{given.wrappers}" if given.wrappers else ""
    trials = {int(row["trial"]): row for row in read(folder / f"search-{given.env}{which}.csv")}
    for number in given.trials:
        asked[f"trial {number}{which}"] = hyperparameters_of({"wrappers": "both", **trials[number]})
    table = folder / f"refine-{'' if given.settings == 'own' else given.settings + '-'}{given.env}.csv"
    for change, overrides in asked.items():
        if (change, str(given.first)) in [(row["change"], row["first"]) for row in read(table)]:
            continue
        steps = overrides.pop("n_timesteps", own["n_timesteps"])
        seeds = range(given.first, given.first + given.seeds)
        finals = np.array([train(given.env, steps, given.settings, change, overrides, seed) for seed in seeds])
        row = {
            "change": change,
            "first": given.first,
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
