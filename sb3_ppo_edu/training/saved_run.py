"""A run that was saved: found in its folder, its model loaded, and evaluated on its environment."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.algorithms.saving import StatisticsWarning
from sb3_ppo_edu.envs.factory import EnvironmentSettings, check_harmless, make_evaluation_env
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.training.algorithms import DEFAULT, algorithm_named
from sb3_ppo_edu.training.evaluation import (
    EVALUATION_SEED,
    MAX_EPISODE_STEPS,
    Evaluation,
    RandomPolicy,
    environments_for,
    evaluate,
)
from sb3_ppo_edu.training.folder import MODEL_FILE, NORMALIZATION_FILE, SETTINGS_FILE, runs_beside
from sb3_ppo_edu.training.settings import as_settings_say, read_settings


@dataclass(frozen=True)
class SavedRun:
    """
    A run found in its folder.

    :param folder: its folder
    :param environment: how to build its environment
    :param seed: its seed
    :param statistics: its ``VecNormalize`` statistics, or ``None``
    :param trusted: whether its files may run code
    :param max_episode_steps: steps after which an episode of an evaluation is cut off
    :param algo: which algorithm it is of
    """

    folder: Path
    environment: EnvironmentSettings
    seed: int
    statistics: Path | None
    trusted: bool = True
    max_episode_steps: int = MAX_EPISODE_STEPS
    algo: str = DEFAULT

    def load_model(self, device: str = "auto") -> EduPPO:
        """
        Load the trained model.

        :param device: where the networks shall live
        :return: the model, without an environment
        :raises ValueError: if its weights are not finite, or the run is not trusted, and its model is damaged or wants to run
            code
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticsWarning)  # make_env has them
            model = algorithm_named(self.algo).load(self.folder / MODEL_FILE, device=device, trusted=self.trusted)
        for name, weights in model.policy.named_parameters():
            if not bool(th.isfinite(weights).all()):
                raise DamagedFileError(
                    f"model {self.folder / MODEL_FILE}: found NaN or infinity in {name}, expected finite weights: "
                    "such a policy can't act, take an earlier model"
                )
        return model

    def make_env(self, n_envs: int = 1, first_seed: int = EVALUATION_SEED, render_mode: str | None = None) -> VecEnv:
        """
        Build an environment that looks to the model as in training, with true rewards.

        :param n_envs: environments stepped together
        :param first_seed: seed of the first episode
        :param render_mode: Gymnasium's render mode, or ``None``
        :return: the environment
        :raises ValueError: if the run is not trusted, and its statistics are damaged or want to run code
        """
        with as_settings_say(self.folder / SETTINGS_FILE):
            return make_evaluation_env(
                self.environment,
                n_envs,
                first_seed,
                statistics=self.statistics,
                render_mode=render_mode,
                trusted=self.trusted,
                max_episode_steps=self.max_episode_steps,
            )


def open_run(folder: Path, *, trusted: bool = True, max_episode_steps: int = MAX_EPISODE_STEPS) -> SavedRun:
    """
    Find a saved run.

    :param folder: the run's folder
    :param trusted: whether its files may run code: pickles in its model and its statistics, and what its settings name
    :param max_episode_steps: see :class:`SavedRun`
    :return: the run
    :raises ValueError: if the folder is no run's, something it needs is missing, or the run is not trusted and its settings
        name anything but well-known wrappers
    """
    if not folder.is_dir():
        raise ValueError(
            f"run {folder}: there is no such folder; expected one that `sb3-edu train` has made{runs_beside(folder)}"
        )
    missing = [name for name in (SETTINGS_FILE, MODEL_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"run {folder}: {' and '.join(missing)} missing; expected both {SETTINGS_FILE} and {MODEL_FILE}, "
            "as `sb3-edu train` leaves them when it ends or is interrupted"
        )
    settings = read_settings(folder / SETTINGS_FILE)
    environment = EnvironmentSettings(**settings["environment"])
    if not trusted:
        check_harmless(environment, str(folder / SETTINGS_FILE))
    statistics = folder / NORMALIZATION_FILE if environment.normalize is not None else None
    if statistics is not None and not statistics.is_file():
        raise ValueError(
            f"run {folder}: {NORMALIZATION_FILE} missing; the model was trained on normalised observations "
            "and cannot act without their statistics"
        )
    algo = settings.get("algo", DEFAULT)
    return SavedRun(folder, environment, settings["seed"], statistics, trusted, max_episode_steps, algo)


def evaluate_run(run: SavedRun, episodes: int, first_seed: int = EVALUATION_SEED, *, deterministic: bool = True) -> Evaluation:
    """
    Evaluate the model that a run has saved.

    :param run: the run
    :param episodes: number of episodes
    :param first_seed: seed of the first episode; it also seeds sampled actions
    :param deterministic: whether to take the most likely actions or to sample them
    :return: the episodes
    :raises ValueError: if there are none to play
    """
    env = run.make_env(environments_for(episodes), first_seed)
    model = run.load_model()
    if not deterministic:
        model.set_random_seed(first_seed)
    try:
        return evaluate(model, env, episodes, deterministic=deterministic)
    finally:
        env.close()


def evaluate_random(run: SavedRun, episodes: int, first_seed: int = EVALUATION_SEED) -> Evaluation:
    """
    Play random actions from the same starting states as :func:`evaluate_run`.

    :param run: the run whose environment to play on
    :param episodes: number of episodes
    :param first_seed: seed of the first episode and of the actions
    :return: the episodes
    :raises ValueError: if there are none to play
    """
    n_envs = environments_for(episodes)
    env = run.make_env(n_envs, first_seed)
    try:
        return evaluate(RandomPolicy(env.action_space, n_envs, first_seed), env, episodes)
    finally:
        env.close()
