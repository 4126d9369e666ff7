"""Search settings under which EduPPO lands on the moon after 50,000 environment steps, with wrappers and without.

``python benchmarks/lunarlander/search.py --env LunarLander-v3 --wrappers repeat --runs 320`` tries settings (Optuna's TPE),
each on eight seeds of its own from 100,000 on, which no report uses, and appends every trial to
``search-LunarLander-v3-repeat.csv`` beside this file. ``--wrappers`` says what is around the environment: ``none``,
``repeat`` (``ActionRepeat``) or ``both`` (``LanderSymmetry`` too). All of them search the same space from the same starting
points, but for how long an action is held, and end after the same number of trainings, so that none is searched more carefully
than another. A trial goes on to its next seeds only if it is among the better ones so far. Several of these processes may run
at once, and a later one goes on where the earlier ones stopped: they share a study in ``runs/search/``.

``--write`` trains nothing: it writes ``hyperparams/lander-none.yml``, ``lander-repeat.yml`` and ``lander-both.yml`` from the
tables. The settings of each are those of the trial with the highest score among those that ran on all eight seeds; where
nothing was searched yet, the first starting point's.

The other ``search-….csv`` are of earlier versions of this search, which led to the settings in ``hyperparams/eduppo.yml`` and
``shared.yml``: ``search-LunarLander-v3.csv`` with both wrappers, on seeds from 30,000 on; ``search-without-….csv`` and the one
of LunarLanderContinuous-v3 without ``recompute_advantages``, the former without the mirror too, on the seeds 1000 to 1007 for
all trials.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from pathlib import Path
from typing import Any

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import torch as th
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sb3_ppo_edu.engines.base import NonFiniteUpdateError
from sb3_ppo_edu.lab.runs import Run, execute
from sb3_ppo_edu.training.hyperparameters import bundled_file

STEPS = 50_000
FIRST_SEED, SEEDS = 100_000, 8
RUNS = 320
"""Trainings of a search."""
EVALUATION_EPISODES = 30
N_ENVS = 8
LOWEST, HIGHEST = 100.0, 230.0
"""Returns count within these bounds: what a run has beyond them does not make up for another that fails."""
PRUNING = {1: 0.1, 2: 0.3, 4: 0.5, 6: 0.6}
"""After so many seeds a trial ends if it is below this quantile of those that have come as far."""

TITLES = {
    "none": "LunarLander without wrappers",
    "repeat": "LunarLander with ActionRepeat",
    "both": "LunarLander with ActionRepeat and LanderSymmetry",
}
WRAPPERS = tuple(TITLES)
REPEAT, MIRROR = (f"sb3_ppo_edu.envs.wrappers.{name}" for name in ("ActionRepeat", "LanderSymmetry"))
ENVS = ("LunarLander-v3", "LunarLanderContinuous-v3")

BEGIN: dict[str, Any] = {
    "action_repeat": 4,
    "rollout": 512,
    "batch_size": 64,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "schedule": "linear",
    "clip_range": 0.2,
    "one_minus_gamma": 0.01,
    "one_minus_lambda": 0.05,
    "ent_coef": 0.01,
    "ent_schedule": "constant",
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "width": 64,
    "activation": "tanh",
    "advantage_normalization": "minibatch",
    "recompute_advantages": False,
    "log_std_init": 0.0,
    "action_distribution": "gaussian",
}
"""What nobody has searched: SB3's defaults with smaller rollouts. Every search begins with them."""
FURTHER: tuple[dict[str, Any], ...] = (
    {"rollout": 256, "batch_size": 32, "n_epochs": 26, "ent_coef": 0.035, "recompute_advantages": True, "log_std_init": -0.5},
    {"rollout": 1024, "n_epochs": 8, "learning_rate": 6e-4, "one_minus_gamma": 0.005, "one_minus_lambda": 0.02},
    {"rollout": 1024, "n_epochs": 19, "learning_rate": 6e-4, "batch_size": 128, "clip_range": 0.4, "width": 128},
)
"""And goes on with these changes of them: the first is in the middle of what an earlier search with both wrappers has found,
the others are near what an earlier one without any has."""


def suggest(trial: optuna.Trial, env_id: str, wrappers: str) -> dict[str, Any]:
    """
    Choose settings.

    :param trial: Optuna's trial
    :param env_id: environment id
    :param wrappers: one of :data:`WRAPPERS`
    :return: settings in the terms of this search
    """
    found: dict[str, Any] = {
        "wrappers": wrappers,
        "action_repeat": 1 if wrappers == "none" else trial.suggest_categorical("action_repeat", [2, 3, 4, 5]),
        "rollout": trial.suggest_categorical("rollout", [128, 256, 512, 1024, 2048]),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64, 128]),
        "n_epochs": trial.suggest_int("n_epochs", 4, 36),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 2e-3, log=True),
        "schedule": trial.suggest_categorical("schedule", ["constant", "linear"]),
        "clip_range": trial.suggest_float("clip_range", 0.1, 0.4),
        "gamma": 1.0 - trial.suggest_float("one_minus_gamma", 1e-3, 4e-2, log=True),
        "gae_lambda": 1.0 - trial.suggest_float("one_minus_lambda", 5e-3, 0.15, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-3, 0.06, log=True),
        "ent_schedule": trial.suggest_categorical("ent_schedule", ["constant", "linear"]),
        "vf_coef": trial.suggest_float("vf_coef", 0.2, 1.0, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 3.0, log=True),
        "width": trial.suggest_categorical("width", [64, 128]),
        "activation": trial.suggest_categorical("activation", ["tanh", "relu"]),
        "advantage_normalization": trial.suggest_categorical("advantage_normalization", ["minibatch", "batch"]),
        "recompute_advantages": trial.suggest_categorical("recompute_advantages", [False, True]),
    }
    if env_id == "LunarLanderContinuous-v3":
        found["log_std_init"] = trial.suggest_float("log_std_init", -1.0, 0.3)
        found["action_distribution"] = trial.suggest_categorical("action_distribution", ["gaussian", "tanh_gaussian"])
    return found


def hyperparameters_of(settings: dict[str, Any]) -> dict[str, Any]:
    """
    Write settings as ``hyperparams/`` has them.

    :param settings: as :func:`suggest` gives them, or a row of the table
    :return: settings by name
    """
    repeat, rollout, wrappers = int(settings["action_repeat"]), int(settings["rollout"]), settings["wrappers"]
    repeating = {REPEAT: {"repeat": repeat}}
    choices: dict[str, list[Any]] = {"none": [], "repeat": [repeating], "both": [repeating, MIRROR]}
    width, activation = int(settings["width"]), {"tanh": "Tanh", "relu": "ReLU"}[settings["activation"]]
    policy = f"net_arch=[{width}, {width}], activation_fn=nn.{activation}"
    if settings.get("log_std_init"):
        policy += f", log_std_init={float(settings['log_std_init']):g}"
    return {
        "policy": "MlpPolicy",
        "n_timesteps": STEPS // repeat // rollout * rollout,
        "env_wrapper": choices[wrappers],
        "normalize": True,
        "n_envs": N_ENVS,
        "n_steps": rollout // N_ENVS,
        "batch_size": int(settings["batch_size"]),
        "n_epochs": int(settings["n_epochs"]),
        "learning_rate": scheduled(settings["learning_rate"], settings["schedule"]),
        **{name: float(settings[name]) for name in ("clip_range", "gamma", "gae_lambda")},
        "ent_coef": scheduled(settings["ent_coef"], settings["ent_schedule"]),
        **{name: float(settings[name]) for name in ("vf_coef", "max_grad_norm")},
        "advantage_normalization": settings["advantage_normalization"],
        "recompute_advantages": str(settings["recompute_advantages"]) == "True",
        **({"action_distribution": settings["action_distribution"]} if settings.get("action_distribution") else {}),
        "policy_kwargs": f"dict({policy})",
    }


def scheduled(value: Any, schedule: str) -> float | str:
    """
    Write a number that may fall.

    :param value: where it begins
    :param schedule: "constant" or "linear"
    :return: the number, or such as "lin_0.1"
    """
    return f"lin_{float(value):g}" if schedule == "linear" else float(value)


def final_return(env_id: str, settings: dict[str, Any], seed: int) -> float:
    """
    Train once and judge the final policy, as a suite does.

    :param env_id: environment id
    :param settings: as :func:`suggest` gives them
    :param seed: seed of the run
    :return: mean return; the lowest that counts where a loss was not finite
    """
    chosen = hyperparameters_of(settings)
    file, text = f"lander-{settings['wrappers']}", json.dumps(chosen)
    run = Run("eduppo", env_id, seed, chosen["n_timesteps"], file, "", text, 1, 1, EVALUATION_EPISODES)
    try:
        return execute(run).row.final_mean
    except NonFiniteUpdateError:
        return LOWEST


def is_behind(study: optuna.Study, number: int, runs: int, mean: float) -> bool:
    """
    Tell whether a trial is not among the better ones after as many runs.

    :param study: all trials
    :param number: number of this one
    :param runs: its runs so far
    :param mean: their mean
    :return: True if there are enough others to tell, and it is not
    """
    others = [
        other.intermediate_values[runs]
        for other in study.trials
        if other.number != number and runs in other.intermediate_values
    ]
    return len(others) >= 5 and runs in PRUNING and mean < float(np.quantile(others, PRUNING[runs]))


def table_of(env_id: str, wrappers: str) -> Path:
    """
    Say where the trials of a search are kept.

    :param env_id: environment id
    :param wrappers: one of :data:`WRAPPERS`
    """
    return Path(__file__).with_name(f"search-{env_id}-{wrappers}.csv")


def read_trials(env_id: str, wrappers: str) -> list[dict[str, Any]]:
    """
    Read the trials of a search.

    :param env_id: environment id
    :param wrappers: one of :data:`WRAPPERS`
    :return: rows of the table; none if nothing was searched
    """
    table = table_of(env_id, wrappers)
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def best(env_id: str, wrappers: str) -> dict[str, Any]:
    """
    Choose the settings of a variant: those of the best trial on all seeds.

    :param env_id: environment id
    :param wrappers: one of :data:`WRAPPERS`
    :return: its row; without trials the starting point's settings
    """
    trials = [trial for trial in read_trials(env_id, wrappers) if int(trial["runs"]) == SEEDS]
    if trials:
        return max(trials, key=lambda trial: float(trial["score"]))
    gammas = {"gamma": 1.0 - BEGIN["one_minus_gamma"], "gae_lambda": 1.0 - BEGIN["one_minus_lambda"]}
    found = {**BEGIN, **gammas, "wrappers": wrappers}
    if wrappers == "none":
        found["action_repeat"] = 1
    if env_id == "LunarLander-v3":
        found |= {"log_std_init": 0.0, "action_distribution": ""}
    return found


def settings_file(wrappers: str) -> str:
    """
    Write the settings of a variant for both environments.

    :param wrappers: one of :data:`WRAPPERS`
    :return: YAML
    """
    text = f"# {TITLES[wrappers]}, for at most 50,000 of its steps.\n# Made by benchmarks/lunarlander/search.py --write\n"
    for env_id in ENVS:
        trial = best(env_id, wrappers)
        source = "the starting point: nothing is searched yet"
        if "trial" in trial:
            runs = sum(int(row["runs"]) for row in read_trials(env_id, wrappers))
            source = f"trial {trial['trial']} of {table_of(env_id, wrappers).name}, the best after {runs} trainings"
        block = yaml.safe_dump({env_id: hyperparameters_of(trial)}, sort_keys=False, width=1000)
        text += f"\n# From {source}\n{block}"
    return text


def main() -> None:
    """Search until there are enough runs, or write the settings that were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=ENVS, default=ENVS[0])
    parser.add_argument("--wrappers", choices=WRAPPERS, default="both")
    parser.add_argument("--runs", type=int, default=RUNS, help="begin no trial when so many trainings are done (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs", "search"), help="where the study is kept")
    parser.add_argument("--write", action="store_true", help="search nothing; write hyperparams/lander-….yml")
    given = parser.parse_args()
    if given.write:
        for wrappers in WRAPPERS:
            Path(bundled_file().parent, f"lander-{wrappers}.yml").write_text(settings_file(wrappers), encoding="utf-8")
        return
    search(given.env, given.wrappers, given.runs, given.folder)


def search(env_id: str, wrappers: str, runs: int, folder: Path) -> None:
    """
    Search until there are enough runs.

    :param env_id: environment id
    :param wrappers: one of :data:`WRAPPERS`
    :param runs: trainings after which no trial begins
    :param folder: where the study is kept
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{env_id}-{wrappers}"
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(folder / f"{name}.journal"))),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=8, constant_liar=True),
    )
    if not study.trials:
        for changes in ({}, *FURTHER):
            study.enqueue_trial({**BEGIN, **changes})
    table = table_of(env_id, wrappers)

    def objective(trial: optuna.Trial) -> float:
        settings = suggest(trial, env_id, wrappers)
        if settings["batch_size"] * 2 > settings["rollout"]:
            raise optuna.TrialPruned
        finals: list[float] = []
        start = time.perf_counter()
        score = LOWEST
        for seed in range(FIRST_SEED + trial.number * SEEDS, FIRST_SEED + (trial.number + 1) * SEEDS):
            finals.append(final_return(env_id, settings, seed))
            score = float(np.clip(finals, LOWEST, HIGHEST).mean())
            trial.report(score, len(finals))
            if len(finals) < SEEDS and is_behind(study, trial.number, len(finals), score):
                break
        row = {
            "trial": trial.number,
            "score": round(score, 1),
            "runs": len(finals),
            "finals": " ".join(f"{value:.0f}" for value in finals),
            "seconds": round(time.perf_counter() - start, 1),
            **{name: f"{value:.4g}" if isinstance(value, float) else value for name, value in settings.items()},
        }
        append_row(table, row)
        print(row, flush=True)
        if len(finals) < SEEDS:
            raise optuna.TrialPruned
        return score

    def stop_when_done(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        if sum(int(trial["runs"]) for trial in read_trials(env_id, wrappers)) >= runs:
            study.stop()

    th.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sum(int(trial["runs"]) for trial in read_trials(env_id, wrappers)) < runs:
        study.optimize(objective, callbacks=[stop_when_done])


def append_row(table: Path, row: dict[str, Any]) -> None:
    """
    Append a trial to a table.

    :param table: its file, made if need be
    :param row: the trial
    """
    new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
