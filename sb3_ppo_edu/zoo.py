"""RL Baselines3 Zoo with ``EduPPO`` in it: ``python -m sb3_ppo_edu.zoo train --env CartPole-v1``.

The zoo has no entry point for algorithms of other packages, so this module registers ``EduPPO`` under the key ``eduppo``,
its kin with masks and memory likewise, and then calls the zoo's own command. It adds ``--algo eduppo`` and, for
training, ``--conf-file`` with the settings of this package, where the user gave none, and passes everything else through.
rl_zoo3 patches gymnasium when it is imported, which is why it is imported in functions only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sb3_ppo_edu.algorithms.arguments import CHECKS, SCHEDULES, ArgumentError
from sb3_ppo_edu.algorithms.saving import StatisticsWarning
from sb3_ppo_edu.envs.backends import ONE_BY_ONE
from sb3_ppo_edu.envs.factory import with_wrappers
from sb3_ppo_edu.envs.wrappers import MasksFromInfo
from sb3_ppo_edu.serialization.errors import reason
from sb3_ppo_edu.serialization.names import only_known_code
from sb3_ppo_edu.serialization.text import did_you_mean
from sb3_ppo_edu.training.algorithms import ALGORITHMS, DEFAULT, takes_masks
from sb3_ppo_edu.training.evaluation import EvaluatesWithMasks, MaskedEvalCallback, with_masks
from sb3_ppo_edu.training.hyperparameters import bundled_file, check_keys, prepare_engine_kwargs
from sb3_ppo_edu.vec_env.action_masks import check_masks
from sb3_ppo_edu.vec_env.curiosity import switched_off
from sb3_ppo_edu.vec_env.normalize import VecNormalize

if TYPE_CHECKING:
    from rl_zoo3.exp_manager import ExperimentManager
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

#: The zoo's name for ``EduPPO``.
KEY = DEFAULT

#: Whose search each algorithm has in the zoo.
_SEARCHED_AS = {
    "eduppo": "ppo",
    "maskableeduppo": "ppo",
    "recurrenteduppo": "ppo_lstm",
    "maskablerecurrenteduppo": "ppo_lstm",
}


@dataclass(frozen=True)
class Verb:
    """A command of the zoo.

    :param summary: what it does, in a few words
    :param module: the zoo's module
    :param function: the function that reads ``sys.argv`` and does it; ``None`` if the module is a script
    :param algo_option: its option for the algorithm, if it has one
    :param packages: what it imports beyond the zoo's declared dependencies
    """

    summary: str
    module: str
    function: str | None = None
    algo_option: str | None = None
    packages: tuple[str, ...] = ()


VERBS = {
    "train": Verb("train an agent, continue one (-i), or search hyperparameters (-optimize)", "train", "train", "--algo"),
    "enjoy": Verb("watch a trained agent", "enjoy", "enjoy", "--algo", ("requests",)),
    "record_video": Verb("record a trained agent", "record_video", None, "--algo"),
    "record_training": Verb("record every checkpoint of a training", "record_training", None, "--algo"),
    "plot_train": Verb("plot training rewards", "plots.plot_train", "plot_train", "--algo", ("pandas", "seaborn")),
    "all_plots": Verb("gather and plot evaluations", "plots.all_plots", "all_plots", "--algos", ("pandas", "seaborn")),
    "plot_from_file": Verb(
        "plot what all_plots gathered", "plots.plot_from_file", "plot_from_file", None, ("pandas", "seaborn")
    ),
    "benchmark": Verb("evaluate all trained agents", "benchmark", None, None, ("pandas", "requests")),
    "load_from_hub": Verb("download a trained agent", "load_from_hub", None, "--algo", ("requests",)),
    "push_to_hub": Verb("upload a trained agent", "push_to_hub", None, "--algo"),
}

#: Commands that the zoo starts as processes of their own, and the verb that each of them is.
_SHELLED_OUT = {("python", "-m", "rl_zoo3.record_video"): "record_video", ("python", "enjoy.py"): "enjoy"}

_EXAMPLES = f"""examples:
  python -m sb3_ppo_edu.zoo train --env CartPole-v1 --eval-freq 10000
  python -m sb3_ppo_edu.zoo train --env Pendulum-v1 -params action_distribution:"'tanh_gaussian'"
  python -m sb3_ppo_edu.zoo train --env CartPole-v1 -i logs/{KEY}/CartPole-v1_1/CartPole-v1.zip -n 50000
  python -m sb3_ppo_edu.zoo train --env CartPole-v1 -optimize --n-trials 100 --storage logs/study.log --study-name cartpole
  python -m sb3_ppo_edu.zoo enjoy --env CartPole-v1 -f logs
  python -m sb3_ppo_edu.zoo record_video --env CartPole-v1 -f logs -n 500

'VERB --help' prints the zoo's own help. --algo {KEY} and --conf-file (the settings that come with this package) are added
unless given; everything else goes to the zoo as it is. Trained agents lie in logs/, where -f finds them."""


class ZooError(ValueError):
    """The zoo cannot be called as asked; the message says why and what helps."""


def register() -> None:
    """Make our algorithms known to the zoo under their keys: as algorithms, to its search and to its study loader.

    For scripts that call the zoo's functions themselves: call it before theirs. Importing this module does not.
    """
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    for key, algorithm in ALGORITHMS.items():
        ALGOS[key] = algorithm
        # The search replaces policy_kwargs; what ours add are arguments of the algorithm, and so stay.
        HYPERPARAMS_SAMPLER[key] = HYPERPARAMS_SAMPLER[_SEARCHED_AS[key]]
        HYPERPARAMS_CONVERTER[key] = HYPERPARAMS_CONVERTER[_SEARCHED_AS[key]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the zoo.

    :param arguments: the verb and its arguments; those of the command line by default
    :return: the exit status: 0, also of help, or 2 if the command cannot be run as asked
    """
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if verb in ("", "-h", "--help"):
        print(_help())
        return 0
    try:
        if verb not in VERBS:
            raise ZooError(f"unknown verb {verb!r}{did_you_mean(verb, VERBS)}; expected one of {', '.join(VERBS)}")
        for package in VERBS[verb].packages:
            _require(package, f"the zoo's {verb}", "sb3-ppo-edu[plots]" if package == "seaborn" else package)
        register()
        _run(VERBS[verb], [f"python -m sb3_ppo_edu.zoo {verb}", *_with_defaults(verb, rest)])
    except (ZooError, ArgumentError) as error:
        print(f"sb3_ppo_edu.zoo: {error}", file=sys.stderr)
        return 2
    return 0


def _help() -> str:
    """Return the help text."""
    verbs = "\n".join(f"  {name:16}{verb.summary}" for name, verb in VERBS.items())
    usage = "usage: python -m sb3_ppo_edu.zoo VERB [arguments of the verb]"
    return f"{usage}\n\nRL Baselines3 Zoo with EduPPO in it.\n\nverbs:\n{verbs}\n\n{_EXAMPLES}"


def _with_defaults(verb: str, arguments: Sequence[str]) -> list[str]:
    """Put ``--algo eduppo``, and for training of ours ``--conf-file``, before arguments that do not say otherwise."""
    option = VERBS[verb].algo_option
    if option is None:
        return list(arguments)
    # Any number of values, so that a wrong call is left for the zoo's own parser to explain.
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-a", option, dest="algo", nargs="*")
    parser.add_argument("-conf", "--conf-file", nargs="*")
    given, _ = parser.parse_known_args(arguments)
    defaults = [] if given.algo else [option, KEY]
    key = KEY if given.algo is None else " ".join(given.algo)
    if verb == "train" and given.conf_file is None and key in ALGORITHMS:
        defaults += ["--conf-file", str(bundled_file(f"{key}.yml"))]
    return [*defaults, *arguments]


def _require(package: str, purpose: str, remedy: str) -> None:
    """Refuse to go on without a package that the zoo imports and does not declare."""
    if importlib.util.find_spec(package) is None:
        raise ZooError(f"{purpose} needs the package {package}, which is not installed: pip install '{remedy}'")


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn a wrong value into a refusal of the command, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise ZooError(str(error)) from error


@contextlib.contextmanager
def _whole_or_nothing(folder: Path, written_last: Path, env_id: str) -> Iterator[None]:
    """
    Refuse settings with which environments or model can't be built, and leave nothing of the folder for them.

    An error out of code of the user's own stays as it is, unless it is one of those by which values are refused.
    """
    from rl_zoo3 import exp_manager

    new, made = [one for one in (folder, *folder.parents) if not one.exists()], list[Any]()
    make: Any = vars(exp_manager)["make_vec_env"]

    def make_vec_env(*args: Any, **kwargs: Any) -> VecEnv:
        made.append(make(*args, **kwargs))
        env: VecEnv = made[-1]
        return env

    try:
        with _replaced(exp_manager, "make_vec_env", make_vec_env):
            yield
    except BaseException as error:
        for env in made:
            env.close()
        if folder in new and not written_last.exists():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another training has begun beside it
                for parent in new[1:]:
                    parent.rmdir()
        refused = isinstance(error, ValueError | AssertionError) or (isinstance(error, Exception) and only_known_code(error))
        if isinstance(error, ZooError) or not refused:
            raise
        what = "" if isinstance(error, ValueError | AssertionError) else f"{type(error).__name__}: "
        raise ZooError(f"settings of {env_id}: {what}{reason(error)}") from error


def _run(verb: Verb, argv: list[str]) -> None:
    """Call the zoo's command with its ``sys.argv``, our experiment manager, and our children in place of its own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(sys, "argv", argv))
        stack.enter_context(_replaced(subprocess, "call", _calling_this_module(subprocess.call)))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", StatisticsWarning)  # the zoo has them in a file of its own
        if verb.module == "record_training":
            stack.enter_context(_ffmpeg())
        try:
            if verb.function is None:
                stack.enter_context(_with_masks(importlib.import_module("rl_zoo3.utils")))
                runpy.run_module(f"rl_zoo3.{verb.module}", run_name="__main__")
                return
            module = importlib.import_module(f"rl_zoo3.{verb.module}")
            stack.enter_context(_with_masks(module))
        except ImportError as error:
            raise ZooError(f"rl_zoo3 {version('rl_zoo3')} and the packages installed here do not fit: {error}") from error
        if verb.module == "train":
            stack.enter_context(_replaced(module, "ExperimentManager", _experiment_manager()))
        if verb.module == "enjoy":
            make = module.create_test_env
            stack.enter_context(
                _replaced(module, "create_test_env", lambda *given, **more: switched_off(make(*given, **more)))
            )
        getattr(module, verb.function)()


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for as long as the context lasts."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _calling_this_module(call: Callable[..., int]) -> Callable[..., int]:
    """Wrap ``subprocess.call``: the verbs that the zoo starts as processes of their own would not know our algorithms."""

    def call_here(command: Sequence[str], *args: Any, **kwargs: Any) -> int:
        for zoo_command, verb in _SHELLED_OUT.items():
            if tuple(command[: len(zoo_command)]) == zoo_command:
                command = [sys.executable, "-m", "sb3_ppo_edu.zoo", verb, *command[len(zoo_command) :]]
        return call(command, *args, **kwargs)

    return call_here


@contextlib.contextmanager
def _with_masks(module: Any) -> Iterator[None]:
    """Have a module of the zoo evaluate and play agents with the masks that environments tell, where they take some."""
    from rl_zoo3 import exp_manager
    from rl_zoo3.callbacks import TrialEvalCallback

    class MaskedTrialEvalCallback(EvaluatesWithMasks, TrialEvalCallback):
        """The zoo's evaluation of a trial."""

    made: list[VecEnv] = []
    create: Any = getattr(module, "create_test_env", None)

    def create_test_env(*args: Any, **kwargs: Any) -> VecEnv:
        made.append(create(*args, **kwargs))
        return made[-1]

    def playing(algorithm: Any) -> Any:
        """Give what loads an agent for the environment that was made last."""
        return SimpleNamespace(load=lambda *args, **kwargs: with_masks(algorithm.load(*args, **kwargs), made[-1]))

    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(exp_manager, "EvalCallback", MaskedEvalCallback))
        stack.enter_context(_replaced(exp_manager, "TrialEvalCallback", MaskedTrialEvalCallback))
        if hasattr(module, "create_test_env"):
            stack.enter_context(_replaced(module, "create_test_env", create_test_env))
            stack.enter_context(_replaced(module, "ALGOS", {key: playing(one) for key, one in module.ALGOS.items()}))
        yield


@contextlib.contextmanager
def _ffmpeg() -> Iterator[None]:
    """Put the ffmpeg that imageio brings on the PATH where the system has none; the zoo calls it by name."""
    if shutil.which("ffmpeg"):
        yield
        return
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ZooError("record_training needs the program ffmpeg: install it, or pip install imageio-ffmpeg, which brings one")
    executable = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    path = os.environ.get("PATH", os.defpath)
    with tempfile.TemporaryDirectory() as folder:
        if sys.platform == "win32":  # which lets only administrators make links
            shutil.copy(executable, Path(folder, "ffmpeg.exe"))
        else:
            Path(folder, "ffmpeg").symlink_to(executable)
        os.environ["PATH"] = folder + os.pathsep + path
        try:
            yield
        finally:
            os.environ["PATH"] = path


def _vec_env_class(backend: str) -> Any:
    """Return what builds a vector environment from the zoo's functions, in place of its own ``--vec-env``."""
    if backend not in ONE_BY_ONE:
        raise ValueError(
            f"vec_env: {backend!r}: the zoo makes its environments one by one; expected one of {', '.join(ONE_BY_ONE)} "
            "(sb3-edu train takes the others too)"
        )
    return ONE_BY_ONE[backend]


def _experiment_manager() -> type[ExperimentManager]:
    """Return the zoo's experiment manager, with what ours need of it; other algorithms it serves as ever."""
    from rl_zoo3.exp_manager import ExperimentManager

    class EduExperimentManager(ExperimentManager):
        """The zoo's experiment manager, which checks names and leaves schedules to our algorithms."""

        def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
            """Refuse a search whose report could not be written, which would come to light only at its end."""
            if self.optimize_hyperparameters:
                _require("pandas", "the report of a hyperparameter search", "pandas")
            if self.algo not in ALGORITHMS:
                return super().setup_experiment()
            with _whole_or_nothing(Path(self.save_path), Path(self.params_path, "config.yml"), self.env_name.gym_id):
                return super().setup_experiment()

        def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
            """Read the settings, with trial 0 of a study too, and refuse a name that is neither ours nor the zoo's."""
            if self.storage and self.study_name and self.trial_id == 0:
                # The zoo takes 0 for "no trial". Its order is kept: file, then trial, then command line.
                trial = self.load_trial(self.storage, self.study_name, self.trial_id)
                self.custom_hyperparams = {**trial, **(self.custom_hyperparams or {})}
            hyperparams, saved = super().read_hyperparameters()
            if self.algo in ALGORITHMS:
                with _refusing():
                    check_keys(hyperparams, f"{self.config}, settings of {self.env_name.gym_id}", self.algo)
                for settings in (hyperparams, saved) if takes_masks(self.algo) else ():
                    settings["env_wrapper"] = with_wrappers(settings.get("env_wrapper"), [MasksFromInfo])
            return hyperparams, saved

        def _preprocess_hyperparams(
            self, hyperparams: dict[str, Any]
        ) -> tuple[dict[str, Any], Callable | None, list[BaseCallback], Callable | None]:
            """Read schedules and the engine's options as ours do: ``null`` where legal, and no zoo class in the model."""
            if self.algo not in ALGORITHMS:
                return super()._preprocess_hyperparams(hyperparams)
            # The zoo takes any "name_number" for a line, in three of the arguments, and refuses other text.
            given = {name: hyperparams.pop(name) for name in SCHEDULES if name in hyperparams}
            backend, timeout = hyperparams.pop("vec_env", None), hyperparams.pop("worker_timeout", None)
            if backend is not None:
                with _refusing():
                    self.vec_env_class = _vec_env_class(backend)
                    self.vec_env_kwargs = {} if timeout is None else {"timeout": timeout}
            with _refusing():
                schedules = {name: CHECKS[name](name, value) for name, value in given.items()}
                for name, value in hyperparams.items():
                    if name in CHECKS and not (isinstance(value, str) and name.endswith("_kwargs")):  # which the zoo evaluates
                        CHECKS[name](name, value)
                hyperparams = prepare_engine_kwargs(hyperparams, self.config)
            ready, env_wrapper, callbacks, vec_env_wrapper = super()._preprocess_hyperparams(hyperparams)
            return {**ready, **schedules}, env_wrapper, callbacks, vec_env_wrapper

        def create_log_folder(self) -> None:
            """Refuse environments without masks for an algorithm that takes some, before anything is written."""
            if self.algo in ALGORITHMS and takes_masks(self.algo):
                with _refusing():
                    check_masks(self.create_envs(1, no_log=True))
            super().create_log_folder()

        def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
            """Normalise as the zoo does, and to the same bits, in half of the time; evaluate without curiosity."""
            normalized = super()._maybe_normalize(switched_off(env) if eval_env else env, eval_env)
            return VecNormalize.of(normalized) if self.algo in ALGORITHMS else normalized

    return EduExperimentManager


if __name__ == "__main__":
    # Under its own name, by which errors are known to have come through it.
    sys.exit(importlib.import_module("sb3_ppo_edu.zoo").main())
