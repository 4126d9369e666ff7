"""Search settings under which EduPPO lands on the moon after 50,000 environment steps.

``python benchmarks/lunarlander/search.py --env LunarLander-v3 --minutes 60`` tries settings (Optuna's TPE), each on eight
seeds of its own from 30,000 on, which no report uses, and appends every trial to ``search-LunarLander-v3.csv`` beside this
file. A trial goes on to its next seeds only if it is among the better ones so far. Several of these processes may run at
once, and a later one goes on where the earlier ones stopped: they share a study in ``runs/search/``.

The files ``search-without-…`` and the one of LunarLanderContinuous-v3 are of earlier versions of this search: without the
mirror, and without ``recompute_advantages``. They had the seeds 1000 to 1007 for all trials.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path
from typing import Any

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.envs.wrappers import ActionRepeat, LanderSymmetry
from sb3_ppo_edu.vec_env import InProcessVecEnv

STEPS = 50_000
FIRST_SEED, SEEDS = 30_000, 8
EVALUATION_EPISODES = 30
EVALUATION_SEED = 500_000
N_ENVS = 8
LOWEST, HIGHEST = 100.0, 230.0
"""Returns count within these bounds: what a run has beyond them does not make up for another that fails."""
PRUNING = {1: 0.1, 2: 0.3, 4: 0.5, 6: 0.6}
"""After so many seeds a trial ends if it is below this quantile of those that have come as far."""

BEGIN: dict[str, Any] = {
    "action_repeat": 4,
    "rollout": 256,
    "batch_size": 32,
    "n_epochs": 26,
    "learning_rate": 3e-4,
    "schedule": "linear",
    "clip_range": 0.29,
    "one_minus_gamma": 0.017,
    "one_minus_lambda": 0.093,
    "ent_coef": 0.035,
    "ent_schedule": "constant",
    "vf_coef": 0.65,
    "max_grad_norm": 0.8,
    "width": 64,
    "activation": "tanh",
    "advantage_normalization": "minibatch",
    "recompute_advantages": True,
    "log_std_init": -0.5,
    "action_distribution": "gaussian",
}
"""In the middle of what a first try with ``recompute_advantages`` found good; the search begins with them."""
VARIED = (
    "action_repeat",
    "rollout",
    "n_epochs",
    "learning_rate",
    "clip_range",
    "one_minus_gamma",
    "one_minus_lambda",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
)
FOUND = (
    (4, 256, 24, 2.94e-4, 0.279, 0.0168, 0.0941, 0.035, 0.572, 0.88),
    (4, 256, 27, 3.27e-4, 0.291, 0.0215, 0.084, 0.0485, 0.748, 0.8),
    (4, 256, 26, 4.68e-4, 0.266, 0.0089, 0.0807, 0.029, 0.642, 0.659),
    (4, 256, 26, 2.59e-4, 0.323, 0.012, 0.1011, 0.0467, 0.747, 1.66),
    (3, 384, 23, 4.01e-4, 0.156, 0.0178, 0.1164, 0.021, 0.894, 1.19),
    (3, 384, 32, 2.88e-4, 0.211, 0.0215, 0.1005, 0.0378, 0.593, 1.22),
    (3, 512, 36, 3.5e-4, 0.3, 0.0187, 0.0679, 0.037, 0.758, 0.739),
)
"""What else that first try found good; the search goes on with it, and with all but the recomputing."""


def suggest(trial: optuna.Trial, env_id: str) -> dict[str, Any]:
    """
    Choose settings.

    :param trial: Optuna's trial
    :param env_id: environment id
    :return: settings in the terms of this search
    """
    found: dict[str, Any] = {
        "action_repeat": trial.suggest_categorical("action_repeat", [3, 4, 5]),
        "rollout": trial.suggest_categorical("rollout", [128, 256, 384, 512]),
        "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
        "n_epochs": trial.suggest_int("n_epochs", 8, 36),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True),
        "schedule": trial.suggest_categorical("schedule", ["constant", "linear"]),
        "clip_range": trial.suggest_float("clip_range", 0.1, 0.4),
        "gamma": 1.0 - trial.suggest_float("one_minus_gamma", 5e-3, 4e-2, log=True),
        "gae_lambda": 1.0 - trial.suggest_float("one_minus_lambda", 1e-2, 0.15, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 3e-3, 0.06, log=True),
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


def make_envs(env_id: str, n_envs: int, seed: int, settings: dict[str, Any]) -> VecEnv:
    """
    Build environments.

    :param env_id: environment id
    :param n_envs: how many
    :param seed: of the first
    :param settings: as :func:`suggest` gives them
    :return: the environments
    """
    return make_vec_env(
        env_id,
        n_envs,
        seed=seed,
        env_kwargs={"render_mode": None},
        vec_env_cls=InProcessVecEnv,
        wrapper_class=lambda env: LanderSymmetry(ActionRepeat(env, settings["action_repeat"])),
    )


def train(env_id: str, settings: dict[str, Any], seed: int) -> tuple[EduPPO, VecNormalize]:
    """
    Train once.

    :param env_id: environment id
    :param settings: as :func:`suggest` gives them
    :param seed: seed of the run
    :return: the model and its environments
    """
    rate, entropy = settings["learning_rate"], settings["ent_coef"]
    normalized = VecNormalize(make_envs(env_id, N_ENVS, seed, settings), gamma=settings["gamma"])
    policy_kwargs: dict[str, Any] = {
        "net_arch": [settings["width"]] * 2,
        "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU}[settings["activation"]],
    }
    distribution = settings.get("action_distribution", "gaussian")
    if distribution != "beta" and "log_std_init" in settings:
        policy_kwargs["log_std_init"] = settings["log_std_init"]
    # The types of both arguments are SB3's, which knows no schedules in words.
    model = EduPPO(
        "MlpPolicy",
        normalized,
        n_steps=settings["rollout"] // N_ENVS,
        batch_size=settings["batch_size"],
        n_epochs=settings["n_epochs"],
        learning_rate=f"lin_{rate}" if settings["schedule"] == "linear" else rate,
        clip_range=settings["clip_range"],
        gamma=settings["gamma"],
        gae_lambda=settings["gae_lambda"],
        ent_coef=f"lin_{entropy}" if settings["ent_schedule"] == "linear" else entropy,
        vf_coef=settings["vf_coef"],
        max_grad_norm=settings["max_grad_norm"],
        policy_kwargs=policy_kwargs,
        advantage_normalization=settings["advantage_normalization"],
        recompute_advantages=settings["recompute_advantages"],
        action_distribution=distribution,
        seed=seed,
        device="cpu",
    )
    # What counts are the environment's own steps.
    rollouts = STEPS // settings["action_repeat"] // settings["rollout"]
    model.learn(rollouts * settings["rollout"])
    return model, normalized


def judge(
    env_id: str, settings: dict[str, Any], model: EduPPO, normalized: VecNormalize, episodes: int = EVALUATION_EPISODES
) -> np.ndarray:
    """
    Evaluate the final policy, deterministically, on environments of its own.

    :param env_id: environment id
    :param settings: as :func:`suggest` gives them
    :param model: the trained model
    :param normalized: its environments, for the moments of the observations
    :param episodes: number of episodes
    :return: their returns
    """
    frozen = VecNormalize(make_envs(env_id, 10, EVALUATION_SEED, settings), training=False, norm_reward=False)
    frozen.obs_rms = normalized.obs_rms
    returns, _ = evaluate_policy(model, frozen, n_eval_episodes=episodes, return_episode_rewards=True)
    return np.array(returns)


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


def main() -> None:
    """Search until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True, choices=["LunarLander-v3", "LunarLanderContinuous-v3"])
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no trial after this time")
    parser.add_argument("--folder", type=Path, default=Path("runs", "search"), help="where the study is kept")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(given.folder / f"{given.env}.journal")))
    study = optuna.create_study(
        study_name=given.env,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=8, constant_liar=True),
    )
    if not study.trials:
        found: list[dict[str, Any]] = [dict(zip(VARIED, values, strict=True)) for values in FOUND]
        for changes in [{}, *found, {"recompute_advantages": False}]:
            study.enqueue_trial({**BEGIN, **changes})
    table = Path(__file__).with_name(f"search-{given.env}.csv")

    def objective(trial: optuna.Trial) -> float:
        settings = suggest(trial, given.env)
        if settings["batch_size"] * 2 > settings["rollout"]:
            raise optuna.TrialPruned
        finals: list[float] = []
        start = time.perf_counter()
        try:
            for seed in range(FIRST_SEED + trial.number * SEEDS, FIRST_SEED + (trial.number + 1) * SEEDS):
                try:
                    returns = judge(given.env, settings, *train(given.env, settings, seed))
                    finals.append(float(returns.mean()))
                except ValueError:
                    finals.append(LOWEST)
                score = float(np.clip(finals, LOWEST, HIGHEST).mean())
                trial.report(score, len(finals))
                if len(finals) < SEEDS and is_behind(study, trial.number, len(finals), score):
                    raise optuna.TrialPruned
        finally:
            row = {
                "trial": trial.number,
                "score": round(float(np.clip(finals or [LOWEST], LOWEST, HIGHEST).mean()), 1),
                "runs": len(finals),
                "finals": " ".join(f"{value:.0f}" for value in finals),
                "seconds": round(time.perf_counter() - start, 1),
                **{name: f"{value:.4g}" if isinstance(value, float) else value for name, value in settings.items()},
            }
            new = not table.exists()
            with table.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(row, flush=True)
        return score

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study.optimize(objective, timeout=60.0 * given.minutes)


if __name__ == "__main__":
    main()
