"""
What to train, on what, for how long: the settings of a run, and ``settings.yml``, where they are kept with its surroundings.

:class:`RunSettings` is checked when it is made. :func:`settings_from_hyperparameters` makes one of the zoo's flat settings,
:func:`share_of` shares one out among processes, :func:`write_settings` and :func:`read_settings` keep it in the run's folder.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device

from sb3_ppo_edu.algorithms.checks import check_integer, refuse
from sb3_ppo_edu.checkpoint import Resumable
from sb3_ppo_edu.envs.backends import AS_A_WHOLE, ONE_BY_ONE, WORKER_TIMEOUT
from sb3_ppo_edu.envs.factory import EnvironmentSettings, check_harmless, named_with_kwargs, with_wrappers
from sb3_ppo_edu.envs.wrappers import MasksFromInfo
from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError, reason
from sb3_ppo_edu.serialization.names import check_engine_kwargs, check_named, import_named
from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.serialization.yaml_files import read_yaml
from sb3_ppo_edu.training.algorithms import DEFAULT, algorithm_named, arguments_of, takes_masks
from sb3_ppo_edu.vec_env.guard import ON_FAULT
from sb3_ppo_edu.version import __version__

EVALUATIONS_PER_RUN = 10
"""Points on the learning curve when no evaluation frequency is given."""

MINIMA = {"steps": 1, "n_envs": 1, "processes": 1, "seed": 0, "verbose": 0, "eval_freq": 1, "checkpoint_freq": 1}
"""The least that each whole number among the settings may be."""

MAXIMA = {"steps": 2**63 - 1, "n_envs": 2**16, "processes": 2**16}
"""The most that some of them may be: nobody trains with more environments or processes, which take any memory."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class RunSettings:
    """
    What to train, on what, for how long.

    :param environment: how to build the environment
    :param policy: policy name or class, as the algorithm takes it
    :param algorithm: arguments for the algorithm besides policy, environment, seed, device and verbosity
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
    :param algo: which algorithm, see :data:`sb3_ppo_edu.training.algorithms.ALGORITHMS`
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
    algo: str = DEFAULT

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if takes_masks(self.algo) and self.environment.backend in AS_A_WHOLE:
            raise ValueError(
                f"vec_env={self.environment.backend!r}: it steps all environments as one, and {self.algo} is evaluated with "
                f"the masks of single ones; expected one of {', '.join(ONE_BY_ONE)}"
            )
        if self.on_fault not in (*ON_FAULT, "off"):
            raise ValueError(f"on_fault={self.on_fault!r}: expected one of {', '.join(ON_FAULT)}, off")
        for name, minimum in MINIMA.items():
            value = getattr(self, name)
            if value is not None or name not in ("eval_freq", "checkpoint_freq"):
                check_integer(name, value, minimum, maximum=MAXIMA.get(name, sys.maxsize))
        if not isinstance(self.algorithm, Mapping):
            raise refuse("algorithm", self.algorithm, "a mapping from the algorithm's arguments to their values")
        named_with_kwargs(self.callback)
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
    algo: str = DEFAULT,
) -> RunSettings:
    """
    Sort the zoo's flat settings into what concerns the environment, the run and the algorithm.

    :param env_id: Gymnasium id
    :param hyperparameters: the algorithm's arguments together with the keys that the zoo consumes, checked and prepared by
        :func:`sb3_ppo_edu.training.hyperparameters.load_hyperparameters`.
    :param steps: steps to train for; ``None`` takes ``n_timesteps``
    :param eval_freq: steps between evaluations, see :class:`RunSettings`
    :param checkpoint_freq: steps between checkpoints, or ``None``
    :param on_fault: what to do about values that are not finite, see :class:`RunSettings`
    :param algo: which algorithm, see :class:`RunSettings`
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
    ours: list[type] = [MasksFromInfo] if takes_masks(algo) else []
    # What steps all environments as one can't be restored to the step: resumed, it begins new episodes, and says so.
    if checkpoint_freq is not None:
        ours.append(Resumable)
    if ours and backend not in AS_A_WHOLE:
        wrapper = with_wrappers(wrapper, ours)
    environment = EnvironmentSettings(
        id=env_id,
        kwargs=dict(rest.pop("env_kwargs", None) or {}),
        wrapper=wrapper,
        vec_wrapper=rest.pop("vec_env_wrapper", None),
        frame_stack=rest.pop("frame_stack", None),
        monitor_kwargs=dict(rest.pop("monitor_kwargs", None) or {}),
        normalize=rest.pop("normalize", False) or None,
        backend=backend,
        worker_timeout=rest.pop("worker_timeout", WORKER_TIMEOUT),
    )
    return RunSettings(
        environment=environment,
        policy=rest.pop("policy", next(iter(algorithm_named(algo).policy_aliases))),
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
        algo=algo,
    )


def share_of(settings: RunSettings, rank: int, processes: int) -> RunSettings:
    """
    Share a run out among processes that train together: environments, minibatches, seeds.

    :param rank: number of the process, from 0
    :param processes: how many there are
    :return: settings of that process; steps are counted over all
    :raises ValueError: if environments or minibatches can't be shared out evenly
    """
    batch_size = settings.algorithm.get("batch_size", arguments_of(settings.algo)["batch_size"].default)
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


# -- settings.yml --------------------------------------------------------------------------------------------------------


def write_settings(path: Path, settings: RunSettings, command: Sequence[str]) -> None:
    """Write everything that a run was made from: settings with their defaults, versions, machine, threads, git revision."""
    record = {
        "command": shlex.join(command),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **described(settings),
        "versions": versions(),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "threads": {"torch": th.get_num_threads(), **{name: os.environ.get(name) for name in _THREAD_VARIABLES}},
        "git": git_revision(Path(__file__).parent),
    }
    write_record(path, record)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """
    Write the record of a run.

    :param path: ``settings.yml``
    :param record: what it says
    """
    text = yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def described(settings: RunSettings) -> dict[str, Any]:
    """
    Describe settings as ``settings.yml`` has them, with the defaults of what was not given.

    :param settings: of a run
    :return: mappings, lists, numbers, strings and ``None``
    """
    return {**as_yaml(asdict(settings)), "algorithm": as_yaml(all_arguments(settings.algorithm, settings.algo))}


TAKEN_WHEN_EDITED = ("steps", "checkpoint_freq")
"""Settings that may be edited in ``settings.yml`` before a run is resumed."""


def check_not_edited(record: Mapping[str, Any], before: Mapping[str, Any] | None, path: Path) -> None:
    """
    Compare a run's record with the settings that its checkpoint was made with.

    :param record: as ``settings.yml`` has it now
    :param before: the settings in the checkpoint; ``None`` in those of version 0.1, which keep none
    :param path: of the record, for the error
    :raises ValueError: naming the settings that were edited, and can't be while a run goes on
    """
    edited = []
    for name, value in (before or {}).items():
        # Runs made before there was a guard do not name it.
        now = record.get(name, "off" if name == "on_fault" else None)
        if name in TAKEN_WHEN_EDITED or now == value:
            continue
        if isinstance(value, dict) and isinstance(now, dict):
            keys = [key for key in {**value, **now} if value.get(key) != now.get(key)]
            edited += [f"{name}.{key}: {now.get(key)!r} (the checkpoint has {value.get(key)!r})" for key in keys]
        else:
            edited.append(f"{name}: {now!r} (the checkpoint has {value!r})")
    if edited:
        raise ValueError(
            f"{path}: found edited settings, expected those of the checkpoint but for {' and '.join(TAKEN_WHEN_EDITED)}: "
            f"{'; '.join(edited)}; put them back, or start a new run with sb3-edu train"
        )


def all_arguments(given: Mapping[str, Any], algo: str = DEFAULT) -> dict[str, Any]:
    """
    Complete the given arguments of an algorithm with its defaults.

    :return: every argument but those that :class:`RunSettings` holds itself, in the constructor's order
    """
    held = {"policy", "env", "seed", "device", "verbose", "_init_setup_model"}
    return {name: given.get(name, one.default) for name, one in arguments_of(algo).items() if name not in held}


def as_yaml(value: Any) -> Any:
    """
    Reduce a setting to what YAML and JSON can say.

    :return: mappings, lists, numbers, strings and ``None``; a class or function becomes its dotted name
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): as_yaml(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_yaml(item) for item in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def versions() -> dict[str, str]:
    """Report the versions that a result depends on."""
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

    :return: the commit, with ``-dirty`` where the folder differs from it; ``None`` if git does not track the folder
    """

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # A package installed into some other project's checkout is not that project's code.
        if not git("ls-files", "."):
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def read_settings(path: Path) -> dict[str, Any]:
    """
    Read a run's record, refusing what :func:`write_settings` did not write.

    :raises ValueError: if it is no record of a run
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the record of a run that `sb3-edu train` has made")
    what = f"{path}: expected the settings of a run as `sb3-edu train` writes them"
    try:
        record = read_yaml(path)
    except OSError as error:
        raise ValueError(f"{path}: it can't be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{what}; {str(error).removeprefix(f'{path}: ')}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{what}, found {type(record).__name__}")
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise ValueError(f"{what}, found none of {', '.join(missing)}")
    try:
        if not isinstance(record["algorithm"], dict):
            raise refuse("algorithm", record["algorithm"], "a mapping from the algorithm's arguments to their values")
        if not isinstance(record.get("command", ""), str):
            raise refuse("command", record["command"], "the line that made the run")
        resumed = record.get("resumed", [])
        if not isinstance(resumed, list) or not all(isinstance(one, str) for one in resumed):
            raise refuse("resumed", resumed, "a list of the lines that made the run longer")
        check_integer("threads", dict(record["threads"])["torch"], 1, maximum=MOST_THREADS)
        settings_from_record(record, "cpu")
    except KeyError as error:
        raise ValueError(f"{what}, found no {error.args[0]}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: {error}") from error
    return record


MOST_THREADS = 1024
"""Threads of torch; an operating system that can't start as many ends the process."""


REQUIRED = ("environment", "algorithm", "steps", "seed", "n_envs", "threads")
"""What each version of ``settings.yml`` has and a command needs."""


def who_says(path: Path, error: BaseException, flags: Mapping[str, Any]) -> str:
    """
    Put before an error where the value is from that it is about.

    :param path: of the settings
    :param error: which names an argument, or what stands in one
    :param flags: what the command line gives beside the file, by flag
    :return: the message: of the flags that it names, else of the file
    """
    said = reason(error)
    if said.startswith("--"):
        return said
    # By the argument itself, not by one of the same name in a wrapper: "Curiosity: n_steps=0".
    named = [flag for flag in flags if re.search(rf"(^|with |, |settings: ){flag[2:].replace('-', '_')}[=:(]", said)]
    named = named or [
        flag for flag, given in flags.items() if isinstance(given, Mapping) and any(f"'{key}'" in said for key in given)
    ]
    return f"{', '.join(named)}: {said}" if named else f"{path}: what it says fails: {said}"


@contextmanager
def as_settings_say(path: Path | None, flags: Mapping[str, Any] | None = None) -> Iterator[None]:
    """
    Name the file from which something is built that can't be, or fails, or the flag.

    :param path: of the settings; ``None`` if they are from no file
    :param flags: see :func:`who_says`
    :raises ValueError: in place of what libraries raise on arguments of a wrong kind, or that ask for too much memory
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if path is None or str(path) in str(error) or isinstance(error, DamagedFileError | UntrustedFileError):
            raise
        raise ValueError(who_says(path, error, flags or {})) from error


def check_names(settings: RunSettings, where: str) -> None:
    """
    Check that a run whose settings someone else wrote imports, calls and writes nothing but what is known to be harmless.

    :param settings: of the run
    :param where: the file, for the message
    :raises UntrustedFileError: naming what is not
    """
    check_harmless(settings.environment, where)
    for name, kwargs in named_with_kwargs(settings.callback):
        check_named(name, (BaseCallback,), where, "callback", kwargs)
    check_engine_kwargs(settings.algorithm.get("engine_kwargs"), where)


def settings_from_record(record: dict[str, Any], device: str) -> RunSettings:
    """
    Read the settings of a run from its record.

    :param record: as ``settings.yml`` has it
    :return: the settings; what the policy and the algorithm are made of is in the checkpoint
    """
    names = {one.name for one in fields(RunSettings)} - {"environment", "algorithm", "policy", "device"}
    # Runs made before there was a guard have none.
    given = {"on_fault": "off", **{name: record[name] for name in names if name in record}}
    return RunSettings(EnvironmentSettings(**record["environment"]), device=device, **given)
