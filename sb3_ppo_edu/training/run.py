"""
One run: its settings, its folder, training, saving, loading and evaluation.

A run lives in one folder, which is created for it and never reused. :class:`RunSettings` says what to train,
:func:`start_run` refuses what cannot be trained before anything happens, :func:`learn` trains, :func:`save_model` keeps the
result, :func:`open_run` finds it again and :func:`evaluate_run` measures it. Nothing here draws or prints.

Evaluation follows two rules. Returns are the environment's own, undiscounted and unnormalised. And episode ``k`` starts from
seed ``first_seed + k``, so two policies, or one policy with another number of parallel environments, are judged on the very
same starting states.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.distributed.data_parallel import DataParallel, Group
from sb3_ppo_edu.envs.backends import AS_A_WHOLE
from sb3_ppo_edu.envs.factory import (
    EnvironmentSettings,
    check_harmless,
    make_evaluation_env,
    make_training_env,
    named_with_kwargs,
    with_backend,
)
from sb3_ppo_edu.serialization.names import import_named
from sb3_ppo_edu.vec_env.guard import ON_FAULT
from sb3_ppo_edu.version import __version__

MODEL_FILE = "model.zip"
NORMALIZATION_FILE = "vecnormalize.pkl"
SETTINGS_FILE = "settings.yml"
EVALUATION_FILE = "evaluation.json"
EVALUATIONS_FILE = "evaluations.npz"
PROGRESS_FILE = "progress.csv"
CHECKPOINT_FOLDER = "checkpoints"
MONITOR_FOLDER = "monitor"

EVALUATION_SEED = 10_000
"""Seed of the first evaluation episode. The same for every run, so that runs are comparable, and far from the seeds of the
training environments, which count up from the run's own seed."""

EVALUATIONS_PER_RUN = 10
"""Points on the learning curve when no evaluation frequency is given."""

MAX_EVALUATION_ENVS = 10
"""Environments stepped together in an evaluation: one forward pass serves them all."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


# --------------------------------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSettings:
    """
    What to train, on what, for how long.

    :param environment: how to build the environment
    :param policy: policy name or class, as EduPPO takes it
    :param algorithm: arguments for EduPPO besides policy, environment, seed, device and verbosity
    :param steps: environment steps to train for, over all environments together
    :param seed: seed of weights, action noise, shuffling and training environments
    :param n_envs: training environments stepped together
    :param callback: callback(s) in the zoo's form: a dotted name, ``{name: kwargs}``, or a list
    :param eval_freq: steps between evaluations during training; ``None`` for :data:`EVALUATIONS_PER_RUN` over the run
    :param device: where the networks live
    :param verbose: SB3's verbosity: 0, 1 or 2
    :param checkpoint_freq: steps between checkpoints, from which the run can be resumed exactly; ``None`` for no checkpoints
    :param on_fault: "raise" or "warn" of NaN and infinities in actions, observations and rewards; "off" looks at nothing
    :param processes: how many processes train together, of which each has ``n_envs`` environments and ``batch_size``
        transitions of each minibatch
    """

    environment: EnvironmentSettings
    policy: Any = "MlpPolicy"
    algorithm: dict[str, Any] = field(default_factory=dict)
    steps: int = 1_000_000
    seed: int = 0
    n_envs: int = 1
    callback: Any = None
    eval_freq: int | None = None
    device: str = "auto"
    verbose: int = 0
    checkpoint_freq: int | None = None
    on_fault: str = "raise"
    processes: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if self.on_fault not in (*ON_FAULT, "off"):
            raise ValueError(f"on_fault={self.on_fault!r}: expected one of {', '.join(ON_FAULT)}, off")
        for name in ("steps", "n_envs", "eval_freq", "checkpoint_freq"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected a positive integer")
        if not 0 <= self.seed <= 2**32 - self.n_envs:
            raise ValueError(f"seed={self.seed}: expected an integer from 0 to 2^32 - n_envs (numpy's range of seeds)")
        try:
            get_device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device={self.device!r}: expected 'auto', 'cpu', 'cuda', 'cuda:1', …") from error


def settings_from_hyperparameters(
    env_id: str,
    hyperparameters: Mapping[str, Any],
    *,
    steps: int | None = None,
    seed: int = 0,
    eval_freq: int | None = None,
    device: str = "auto",
    verbose: int = 0,
    checkpoint_freq: int | None = None,
    on_fault: str = "raise",
) -> RunSettings:
    """
    Sort the zoo's flat settings into what concerns the environment, the run and the algorithm.

    :param env_id: Gymnasium id
    :param hyperparameters: EduPPO's arguments together with the keys that the zoo consumes, checked and prepared by
        :func:`sb3_ppo_edu.training.hyperparameters.load_hyperparameters`.
    :param steps: steps to train for; ``None`` takes ``n_timesteps``
    :param seed: the run's seed
    :param eval_freq: steps between evaluations, see :class:`RunSettings`
    :param device: where the networks live
    :param verbose: SB3's verbosity
    :param checkpoint_freq: steps between checkpoints, or ``None``
    :param on_fault: what to do about values that are not finite, see :class:`RunSettings`
    :return: the settings of the run
    :raises ValueError: if nothing says how long to train, or a number is out of range
    """
    rest = dict(hyperparameters)
    n_timesteps = rest.pop("n_timesteps", None)
    if steps is None:
        if n_timesteps is None:
            raise ValueError(f"n_timesteps: the settings of {env_id} do not say how long to train; give --steps")
        steps = n_timesteps
    if isinstance(rest.get("rollout_buffer_class"), str):
        rest["rollout_buffer_class"] = import_named(rest["rollout_buffer_class"])
    wrapper, backend = rest.pop("env_wrapper", None), rest.pop("vec_env", None) or EnvironmentSettings.backend
    # What steps all environments as one can't be restored to the step: resumed, it begins new episodes, and says so.
    if checkpoint_freq is not None and backend not in AS_A_WHOLE:
        wrappers = wrapper if isinstance(wrapper, list) else [] if wrapper is None else [wrapper]
        wrapper = [*wrappers, f"{Resumable.__module__}.{Resumable.__qualname__}"]
    environment = EnvironmentSettings(
        id=env_id,
        kwargs=dict(rest.pop("env_kwargs", None) or {}),
        wrapper=wrapper,
        vec_wrapper=rest.pop("vec_env_wrapper", None),
        frame_stack=rest.pop("frame_stack", None),
        monitor_kwargs=dict(rest.pop("monitor_kwargs", None) or {}),
        normalize=rest.pop("normalize", False) or None,
        backend=backend,
    )
    return RunSettings(
        environment=environment,
        policy=rest.pop("policy", "MlpPolicy"),
        n_envs=rest.pop("n_envs", 1),
        callback=rest.pop("callback", None),
        algorithm=rest,
        steps=steps,
        seed=seed,
        eval_freq=eval_freq,
        device=device,
        verbose=verbose,
        checkpoint_freq=checkpoint_freq,
        on_fault=on_fault,
    )


# --------------------------------------------------------------------------------------------------------------------------
# A run: create, train, save
# --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """
    A run that is ready to train.

    :param folder: its folder, created for it
    :param settings: what it was made from
    :param model: the algorithm with its training environment
    :param callbacks: evaluation during training, and the callbacks the settings name
    """

    folder: Path
    settings: RunSettings
    model: EduPPO
    callbacks: list[BaseCallback]


def share_of(settings: RunSettings, rank: int, processes: int) -> RunSettings:
    """
    Share a run out among processes that train together: environments, minibatches, seeds.

    :param settings: of the whole
    :param rank: number of the process, from 0
    :param processes: how many there are
    :return: settings of that process; steps are counted over all
    :raises ValueError: if environments or minibatches can't be shared out evenly
    """
    batch_size = settings.algorithm.get("batch_size", inspect.signature(EduPPO).parameters["batch_size"].default)
    for name, value in (("n_envs", settings.n_envs), ("batch_size", batch_size)):
        if value % processes:
            raise ValueError(f"{name}={value}: expected a multiple of the {processes} processes, which share it out evenly")
    n_envs = settings.n_envs // processes
    eval_freq = settings.eval_freq or max(settings.steps // EVALUATIONS_PER_RUN, 1)
    return replace(
        settings,
        n_envs=n_envs,
        seed=settings.seed + rank * n_envs,
        algorithm={**settings.algorithm, "batch_size": batch_size // processes},
        eval_freq=max(eval_freq // processes, 1),
        processes=processes,
    )


def default_name(env_id: str, seed: int, now: datetime) -> str:
    """
    Name a run after what it trains and when.

    :param env_id: Gymnasium id; characters that mean something in a path are replaced
    :param seed: the run's seed
    :param now: time of day, part of the name
    :return: ``<env>-<seed>-<timestamp>``
    """
    return f"{env_id.replace('/', '-').replace(':', '-')}-{seed}-{now:%Y%m%d-%H%M%S}"


def start_run(settings: RunSettings, folder: Path, command: Sequence[str] = (), *, leads: bool = True) -> Run:
    """
    Create the folder, environments and model of a run, and record its settings.

    If anything is wrong with the settings, the folder is removed again: it is ours and empty.

    :param settings: what to train
    :param folder: where; must not exist
    :param command: the command line, for the record
    :param leads: False for a process that trains together with others and leaves log and evaluations to one of them
    :return: the run
    :raises ValueError: if the folder exists or cannot be created, or an argument is refused
    """
    # Settled first, so that the record names it: whoever resumes the run needs the same.
    environment = with_backend(settings.environment, settings.n_envs, settings.seed, verbose=1)
    settings = replace(settings, environment=environment)
    with _new_folder(folder):
        env = make_training_env(
            settings.environment, settings.n_envs, settings.seed, folder / MONITOR_FOLDER, on_fault=settings.on_fault
        )
        try:
            model = _build_model(settings, env)
            callbacks = make_callbacks(settings, folder, leads=leads)
            outputs = ["csv", "tensorboard"] + (["stdout"] if settings.verbose else [])
            model.set_logger(configure(str(folder), outputs if leads else []))
            _write_settings(folder / SETTINGS_FILE, settings, command)
        except BaseException:
            env.close()
            raise
    return Run(folder, settings, model, callbacks)


def make_callbacks(settings: RunSettings, folder: Path, *, leads: bool = True) -> list[BaseCallback]:
    """
    Build the callbacks of a run.

    :param settings: of the run
    :param folder: of the run
    :param leads: see :func:`start_run`
    :return: evaluation during training, checkpoints if there are to be any, and the callbacks the settings name
    """
    callbacks: list[BaseCallback] = [_evaluation_callback(settings, folder)] if leads else []
    if settings.checkpoint_freq is not None:
        callbacks.append(ExactCheckpoint(settings.checkpoint_freq, folder / CHECKPOINT_FOLDER))
    named = named_with_kwargs(settings.callback) if leads else []
    return callbacks + [import_named(name)(**kwargs) for name, kwargs in named]


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Create a folder that must not exist, and take it away again if the block fails."""
    if folder.exists() or folder.is_symlink():
        raise ValueError(
            f"run folder {folder}: it exists, and nothing that exists is overwritten; "
            "expected a new folder: choose another --name or --folder"
        )
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"run folder {folder}: it cannot be created ({error.strerror}); "
            "expected a place where this user may write: choose another --folder"
        ) from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        raise


def _build_model(settings: RunSettings, env: VecEnv) -> EduPPO:
    """Construct the algorithm; what its constructor refuses is a ``ValueError``."""
    try:
        return EduPPO(
            settings.policy,
            env,
            seed=settings.seed,
            device=settings.device,
            verbose=settings.verbose,
            **settings.algorithm,
        )
    except (TypeError, AssertionError) as error:
        # SB3 asserts its conditions on values, and an unknown name in policy_kwargs surfaces as a TypeError.
        raise ValueError(f"EduPPO refuses these settings: {error}") from error


def _evaluation_callback(settings: RunSettings, folder: Path, episodes: int = 10) -> EvalCallback:
    """Evaluate now and then during training, into the file that the zoo's plots read."""
    eval_freq = settings.eval_freq or max(settings.steps // EVALUATIONS_PER_RUN, 1)
    n_envs = _share_out(episodes)
    # Other episodes than those of the final evaluation, which should be news to everyone.
    env = make_evaluation_env(settings.environment, n_envs, 2 * EVALUATION_SEED, on_fault=settings.on_fault)
    return EvalCallback(
        env,
        n_eval_episodes=episodes,
        # SB3 counts calls, and each call is a step in every environment.
        eval_freq=max(eval_freq // settings.n_envs, 1),
        log_path=str(folder),
        verbose=0,
    )


def learn(run: Run, callbacks: Sequence[BaseCallback] = (), group: Group | None = None) -> None:
    """
    Train for as many steps as the settings say.

    :param run: the run
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

    :param run: the run
    """
    write_atomically(run.folder / MODEL_FILE, lambda path: run.model.save(path))
    statistics = run.model.get_vec_normalize_env()
    if statistics is not None:
        write_atomically(run.folder / NORMALIZATION_FILE, lambda path: statistics.save(str(path)))


def close_run(run: Run) -> None:
    """
    Close log files and environments.

    :param run: the run
    """
    run.model.logger.close()
    if run.model.env is not None:
        run.model.env.close()
    for callback in run.callbacks:
        if isinstance(callback, EvalCallback):
            callback.eval_env.close()


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """
    Write a file so that it is there completely or not at all.

    :param path: the file
    :param write: called with a temporary path in the same folder and with the same suffix
    """
    partial_path = path.with_name(f".partial-{path.name}")
    try:
        write(partial_path)
        os.replace(partial_path, path)
    finally:
        partial_path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------------------
# The record of a run
# --------------------------------------------------------------------------------------------------------------------------


def _write_settings(path: Path, settings: RunSettings, command: Sequence[str]) -> None:
    """Write everything that a run was made from, readable for people and for :func:`open_run`."""
    record = {
        "command": shlex.join(command),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **plain(asdict(settings)),
        "algorithm": plain(all_arguments(settings.algorithm)),
        "versions": versions(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "threads": {"torch": th.get_num_threads(), **{name: os.environ.get(name) for name in _THREAD_VARIABLES}},
        "git": git_revision(Path(__file__).parent),
    }
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def all_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Complete the given arguments of EduPPO with its defaults.

    :param given: the arguments that were given
    :return: every argument but those that :class:`RunSettings` holds itself, in the constructor's order
    """
    held = {"self", "policy", "env", "seed", "device", "verbose", "_init_setup_model"}
    parameters = inspect.signature(EduPPO.__init__).parameters
    return {name: given.get(name, parameter.default) for name, parameter in parameters.items() if name not in held}


def plain(value: Any) -> Any:
    """
    Reduce a setting to what YAML and JSON can say.

    :param value: any setting
    :return: mappings, lists, numbers, strings and ``None``; a class or function becomes its dotted name
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def versions() -> dict[str, str]:
    """
    Report the versions that a result depends on.

    :return: version by name
    """
    return {
        "sb3_ppo_edu": __version__,
        "python": platform.python_version(),
        "torch": str(th.__version__),
        "stable_baselines3": stable_baselines3.__version__,
        "gymnasium": gym.__version__,
        "numpy": np.__version__,
    }


def git_revision(folder: Path) -> str | None:
    """
    Find the git revision of the code in a folder.

    :param folder: a folder
    :return: the commit, with ``-dirty`` where the folder differs from it; ``None`` if git does not track the folder
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # A package installed into some other project's checkout is not that project's code.
        if not git("ls-files", "."):
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


# --------------------------------------------------------------------------------------------------------------------------
# A run that was saved
# --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedRun:
    """
    A run found in its folder.

    :param folder: its folder
    :param environment: how to build its environment
    :param seed: its seed
    :param statistics: its ``VecNormalize`` statistics, or ``None``
    :param trusted: whether its files may run code
    """

    folder: Path
    environment: EnvironmentSettings
    seed: int
    statistics: Path | None
    trusted: bool = True

    def load_model(self, device: str = "auto") -> EduPPO:
        """
        Load the trained model.

        :param device: where the networks shall live
        :return: the model, without an environment
        :raises ValueError: if the run is not trusted, and its model is damaged or wants to run code
        """
        return EduPPO.load(self.folder / MODEL_FILE, device=device, trusted=self.trusted)

    def make_env(self, n_envs: int = 1, first_seed: int = EVALUATION_SEED, render_mode: str | None = None) -> VecEnv:
        """
        Build an environment that looks to the model as in training, with true rewards.

        :param n_envs: environments stepped together
        :param first_seed: seed of the first episode
        :param render_mode: Gymnasium's render mode, or ``None``
        :return: the environment
        :raises ValueError: if the run is not trusted, and its statistics are damaged or want to run code
        """
        return make_evaluation_env(
            self.environment,
            n_envs,
            first_seed,
            statistics=self.statistics,
            render_mode=render_mode,
            trusted=self.trusted,
        )


def open_run(folder: Path, *, trusted: bool = True) -> SavedRun:
    """
    Find a saved run.

    :param folder: the run's folder
    :param trusted: whether its files may run code: pickles in its model and its statistics, and what its settings name
    :return: the run
    :raises ValueError: if the folder is no run's, something it needs is missing, or the run is not trusted and its settings
        name anything but well-known wrappers
    """
    if not folder.is_dir():
        raise ValueError(
            f"run {folder}: there is no such folder; expected one that `sb3-edu train` has made{_runs_beside(folder)}"
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
    return SavedRun(folder, environment, settings["seed"], statistics, trusted)


def read_settings(path: Path) -> dict[str, Any]:
    """
    Read a run's record, refusing what :func:`_write_settings` did not write.

    :param path: the file
    :return: the record
    :raises ValueError: if it is no record of a run
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the record of a run that `sb3-edu train` has made")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        EnvironmentSettings(**settings["environment"])
        int(settings["seed"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the settings of a run as `sb3-edu train` writes them ({error!r})") from error
    return dict(settings)


def _runs_beside(folder: Path) -> str:
    """Name the runs that do exist in the place where one was looked for."""
    if not folder.parent.is_dir():
        return ""
    runs = sorted(path for path in folder.parent.iterdir() if (path / SETTINGS_FILE).is_file())
    return f"; {folder.parent} has " + ", ".join(path.name for path in runs[-5:]) if runs else ""


# --------------------------------------------------------------------------------------------------------------------------
# Evaluation
# --------------------------------------------------------------------------------------------------------------------------


class RandomPolicy:
    """
    Uniformly random actions: what any learning is measured against.

    :param action_space: space of a single environment's actions; it is copied
    :param n_envs: number of actions wanted at a time
    :param seed: seed of the actions
    """

    def __init__(self, action_space: spaces.Space, n_envs: int, seed: int) -> None:
        self._space = copy.deepcopy(action_space)
        self._space.seed(seed)
        self._n_envs = n_envs

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Sample an action for each environment.

        :param observation: not looked at
        :param state: passed through
        :param episode_start: not looked at
        :param deterministic: not possible here
        :return: actions, shape ``(n_envs, *action_shape)``, and the state
        """
        return np.stack([self._space.sample() for _ in range(self._n_envs)]), state


@dataclass(frozen=True)
class Evaluation:
    """
    What a policy earned, episode by episode.

    :param seeds: seed of each episode, ascending
    :param returns: undiscounted return of each episode
    :param lengths: steps of each episode
    """

    seeds: list[int]
    returns: list[float]
    lengths: list[int]

    def summary(self) -> dict[str, Any]:
        """
        Summarise, with the episodes themselves.

        :return: ``n``, ``mean``, ``std`` (of the episodes, not of the mean), ``median``, ``min``, ``max``, and the lists
        """
        returns = np.asarray(self.returns)
        return {
            "n": len(self.returns),
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "median": float(np.median(returns)),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "seeds": self.seeds,
            "returns": self.returns,
            "lengths": self.lengths,
        }

    def median_seed(self) -> int:
        """
        Find the episode that shows the policy as it is.

        :return: seed of the episode with the (lower) median return
        """
        order = np.argsort(self.returns, kind="stable")
        return self.seeds[int(order[(len(order) - 1) // 2])]


def evaluate(policy: PolicyPredictor, env: VecEnv, episodes: int, *, deterministic: bool = True) -> Evaluation:
    """
    Play episodes and note what each earned.

    Every environment plays a fixed share of the episodes, so that short ones are not over-represented.

    :param policy: whose actions to play
    :param env: from :func:`make_evaluation_env`, not yet used
    :param episodes: number of episodes, at least 1
    :param deterministic: whether to take the policy's most likely actions or to sample them
    :return: the episodes, in the order of their seeds
    """
    played: dict[int, tuple[float, int]] = {}

    def note(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
        info = local_variables["info"]
        # Under Atari's episodic lives an episode of the wrapper ends before the game does.
        if "episode" in info:
            played[info["episode_seed"]] = (float(info["episode"]["r"]), int(info["episode"]["l"]))

    evaluate_policy(policy, env, episodes, deterministic, callback=note, return_episode_rewards=True)
    seeds = sorted(played)
    return Evaluation(seeds, [played[seed][0] for seed in seeds], [played[seed][1] for seed in seeds])


def _share_out(episodes: int) -> int:
    """Choose how many environments play the episodes."""
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: expected a positive integer")
    return min(episodes, MAX_EVALUATION_ENVS)


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
    env = run.make_env(_share_out(episodes), first_seed)
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
    n_envs = _share_out(episodes)
    env = run.make_env(n_envs, first_seed)
    try:
        return evaluate(RandomPolicy(env.action_space, n_envs, first_seed), env, episodes)
    finally:
        env.close()


def write_evaluation(run: Run, trained: Evaluation, random: Evaluation) -> None:
    """
    Record the final evaluation beside the model.

    :param run: the run
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
