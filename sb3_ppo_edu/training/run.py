"""
One run: created in a folder of its own, trained, saved.

:func:`start_run` refuses what cannot be trained before anything happens, :func:`learn` trains, :func:`save_model` keeps the
result; :func:`~sb3_ppo_edu.training.saved_run.open_run` finds it again. Nothing here draws or prints.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint
from sb3_ppo_edu.distributed.data_parallel import DataParallel
from sb3_ppo_edu.distributed.process_group import ProcessGroup
from sb3_ppo_edu.envs.factory import (
    make_evaluation_env,
    make_training_env,
    named_with_kwargs,
    with_backend,
)
from sb3_ppo_edu.serialization.archive import SMALL_ARCHIVE
from sb3_ppo_edu.serialization.names import import_named
from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.training.algorithms import ALGORITHMS, takes_masks
from sb3_ppo_edu.training.evaluation import (
    EVALUATION_SEED,
    MAX_EVALUATION_ENVS,
    Evaluation,
    MaskedEvalCallback,
    RandomPolicy,
    environments_for,
    evaluate,
)
from sb3_ppo_edu.training.folder import (
    CHECKPOINT_FOLDER,
    EVALUATION_FILE,
    EVALUATIONS_FILE,
    MODEL_FILE,
    MONITOR_FOLDER,
    NORMALIZATION_FILE,
    PROGRESS_FILE,
    SETTINGS_FILE,
    default_name,
    new_folder,
)
from sb3_ppo_edu.training.lock import RunLock
from sb3_ppo_edu.training.saved_run import (
    SavedRun,
    evaluate_random,
    evaluate_run,
    open_run,
)
from sb3_ppo_edu.training.settings import (
    EVALUATIONS_PER_RUN,
    RunSettings,
    all_arguments,
    as_settings_say,
    described,
    git_revision,
    read_settings,
    settings_from_hyperparameters,
    share_of,
    versions,
    write_settings,
)
from sb3_ppo_edu.vec_env.action_masks import check_masks

__all__ = [
    "CHECKPOINT_FOLDER",
    "EVALUATIONS_FILE",
    "EVALUATIONS_PER_RUN",
    "EVALUATION_FILE",
    "EVALUATION_SEED",
    "MAX_EVALUATION_ENVS",
    "MODEL_FILE",
    "MONITOR_FOLDER",
    "NORMALIZATION_FILE",
    "PROGRESS_FILE",
    "SETTINGS_FILE",
    "Evaluation",
    "RandomPolicy",
    "Run",
    "RunSettings",
    "SavedRun",
    "all_arguments",
    "close_run",
    "default_name",
    "evaluate",
    "evaluate_random",
    "evaluate_run",
    "git_revision",
    "learn",
    "make_callbacks",
    "open_run",
    "read_settings",
    "save_model",
    "settings_from_hyperparameters",
    "share_of",
    "start_run",
    "versions",
    "write_atomically",
    "write_evaluation",
]
"""With what lay here in the first edition; within the package it is imported from where it lies now."""


@dataclass(frozen=True)
class Run:
    """
    A run that is ready to train.

    :param folder: its folder, created for it
    :param settings: what it was made from
    :param model: the algorithm with its training environment
    :param callbacks: evaluation during training, and the callbacks the settings name
    :param lock: keeps other processes out of the folder
    :param shown: the folder as the user wrote it, for messages; environments may change the working directory
    """

    folder: Path
    settings: RunSettings
    model: EduPPO
    callbacks: list[BaseCallback]
    lock: RunLock
    shown: Path


def start_run(
    settings: RunSettings,
    folder: Path,
    command: Sequence[str] = (),
    *,
    is_rank_zero: bool = True,
    source: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Run:
    """
    Create the folder, environments and model of a run, and record its settings.

    If anything is wrong with the settings, the folder is removed again: it is ours and empty.

    :param folder: where; must not exist, unless a training that was killed while starting has left it
    :param is_rank_zero: False for a process that trains together with others and leaves log and evaluations to rank 0
    :param source: the file that settings are from, for errors
    :param flags: what the command line gives beside it, by flag
    :raises ValueError: if the folder exists or cannot be created, or an argument is refused
    """
    # Settled first, so that the record names it: whoever resumes the run needs the same.
    with as_settings_say(source, flags):
        if takes_masks(settings.algo):
            check_masks(make_evaluation_env(settings.environment))
        environment = with_backend(settings.environment, settings.n_envs, settings.seed, verbose=1)
    settings = replace(settings, environment=environment)
    shown, folder = folder, folder.absolute()
    with new_folder(folder) as lock:
        env: VecEnv | None = None
        try:
            with as_settings_say(source, flags):
                env = make_training_env(
                    settings.environment, settings.n_envs, settings.seed, folder / MONITOR_FOLDER, on_fault=settings.on_fault
                )
                model = _build_model(settings, env)
                callbacks = make_callbacks(settings, folder, described(settings), is_rank_zero=is_rank_zero)
            outputs = ["csv", "tensorboard"] + (["stdout"] if settings.verbose else [])
            model.set_logger(configure(str(folder), outputs if is_rank_zero else []))
            write_settings(folder / SETTINGS_FILE, settings, command)
        except BaseException:
            if env is not None:
                env.close()
            raise
    return Run(folder, settings, model, callbacks, lock, shown)


def make_callbacks(
    settings: RunSettings, folder: Path, description: dict[str, Any], *, is_rank_zero: bool = True
) -> list[BaseCallback]:
    """
    Build the callbacks of a run.

    :param description: of the settings, which checkpoints keep: :func:`sb3_ppo_edu.training.settings.described`
    :param is_rank_zero: see :func:`start_run`
    :return: evaluation during training, checkpoints if there are to be any, and the callbacks the settings name
    """
    callbacks: list[BaseCallback] = [_evaluation_callback(settings, folder)] if is_rank_zero else []
    if settings.checkpoint_freq is not None:
        callbacks.append(
            ExactCheckpoint(settings.checkpoint_freq, folder / CHECKPOINT_FOLDER, save_at_start=True, settings=description)
        )
    named = named_with_kwargs(settings.callback) if is_rank_zero else []
    return callbacks + [import_named(name)(**kwargs) for name, kwargs in named]


def _build_model(settings: RunSettings, env: VecEnv) -> EduPPO:
    """Construct the algorithm; what its constructor refuses is a ``ValueError``."""
    try:
        return ALGORITHMS[settings.algo](
            settings.policy,
            env,
            seed=settings.seed,
            device=settings.device,
            verbose=settings.verbose,
            **settings.algorithm,
        )
    except (TypeError, AssertionError, ArithmeticError, RuntimeError, MemoryError) as error:
        # SB3 asserts its conditions on values, an unknown name in policy_kwargs surfaces as a TypeError, and networks that are
        # too large for the memory as torch's RuntimeError.
        raise ValueError(f"{ALGORITHMS[settings.algo].__name__} refuses these settings: {error}") from error


def _evaluation_callback(settings: RunSettings, folder: Path, episodes: int = 10) -> EvalCallback:
    """Evaluate now and then during training, into the file that the zoo's plots read."""
    eval_freq = settings.eval_freq or max(settings.steps // EVALUATIONS_PER_RUN, 1)
    n_envs = environments_for(episodes)
    # Other episodes than those of the final evaluation, which should be news to everyone.
    env = make_evaluation_env(settings.environment, n_envs, 2 * EVALUATION_SEED, on_fault=settings.on_fault)
    kind = MaskedEvalCallback if takes_masks(settings.algo) else EvalCallback
    return kind(
        env,
        n_eval_episodes=episodes,
        # SB3 counts calls, and each call is a step in every environment.
        eval_freq=max(eval_freq // settings.n_envs, 1),
        log_path=str(folder),
        verbose=0,
    )


def learn(run: Run, callbacks: Sequence[BaseCallback] = (), group: ProcessGroup | None = None) -> None:
    """
    Train for as many steps as the settings say.

    :param callbacks: further callbacks, called before the run's own
    :param group: the processes to train together with, or ``None``
    """
    both = [*callbacks, *run.callbacks]
    with warnings.catch_warnings():
        # Evaluation needs no other processes than this one, wherever training takes its steps.
        warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
        run.model.learn(run.settings.steps, callback=both if group is None else DataParallel(group, both))


def save_model(run: Run) -> None:
    """
    Save the model and, where observations or rewards are normalised, the statistics it needs.

    :param run: whose folder may have a model already
    :raises ValueError: if that one is trained for more steps, as after going on from an earlier checkpoint; it stays
    """
    there = trained_steps(run.folder / MODEL_FILE)
    if there > run.model.num_timesteps:
        raise ValueError(
            f"{run.shown / MODEL_FILE}: found a model of {there:,} steps, which stays; "
            f"this one has {run.model.num_timesteps:,}"
        )
    write_atomically(run.folder / MODEL_FILE, lambda path: run.model.save(path))
    statistics = run.model.get_vec_normalize_env()
    if statistics is not None:
        write_atomically(run.folder / NORMALIZATION_FILE, lambda path: statistics.save(str(path)))


def trained_steps(path: Path) -> int:
    """
    Read for how many steps a saved model was trained.

    :param path: of the model
    :return: its ``num_timesteps``; 0 if there is none that can be read
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("data").file_size > SMALL_ARCHIVE:
                return 0
            return int(json.loads(archive.read("data"))["num_timesteps"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, zipfile.BadZipFile):
        return 0


def close_run(run: Run) -> None:
    """Close log files and environments, and let other processes into the folder."""
    run.lock.release()
    run.model.logger.close()
    if run.model.env is not None:
        run.model.env.close()
    for callback in run.callbacks:
        if isinstance(callback, EvalCallback):
            callback.eval_env.close()


def write_evaluation(run: Run, trained: Evaluation, random: Evaluation) -> None:
    """
    Record the final evaluation beside the model.

    :param trained: episodes of the trained policy, deterministic
    :param random: episodes of random actions from the same starting states
    """
    record = {
        "environment": run.settings.environment.id,
        "trained_steps": run.model.num_timesteps,
        "deterministic": True,
        "trained": trained.summary(),
        "random": random.summary(),
    }
    # One line for each list rather than for each number.
    text = re.sub(r"\[[^\]]*\]", lambda match: " ".join(match[0].split()), json.dumps(record, indent=1))
    write_atomically(run.folder / EVALUATION_FILE, lambda path: path.write_text(text, encoding="utf-8"))
