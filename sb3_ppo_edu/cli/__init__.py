"""The command line: ``sb3-edu train``, ``evaluate``, ``enjoy`` and ``bench``. It parses, calls and prints."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.checkpoint.files import CheckpointError, latest_good
from sb3_ppo_edu.cli.bench import add_bench
from sb3_ppo_edu.cli.course import add_course
from sb3_ppo_edu.cli.doctor import add_doctor
from sb3_ppo_edu.cli.refusals import BAD_INPUT, DONE, FAILED, INTERRUPTED, RefusedError, positive, refusing_bad_input
from sb3_ppo_edu.cli.resume import add_again
from sb3_ppo_edu.cli.torchrun import begin, together
from sb3_ppo_edu.cli.tune import add_tune
from sb3_ppo_edu.distributed.data_parallel import Group, LostProcessError
from sb3_ppo_edu.doctor.callback import PAGE_FILE
from sb3_ppo_edu.engines import NonFiniteUpdateError
from sb3_ppo_edu.envs.backends import AUTO, BACKENDS
from sb3_ppo_edu.envs.factory import action_repeat
from sb3_ppo_edu.training.hyperparameters import RUN_ARGUMENTS, load_hyperparameters, parse_expression
from sb3_ppo_edu.training.run import (
    CHECKPOINT_FOLDER,
    EVALUATION_FILE,
    EVALUATION_SEED,
    EVALUATIONS_FILE,
    EVALUATIONS_PER_RUN,
    MODEL_FILE,
    MONITOR_FOLDER,
    NORMALIZATION_FILE,
    PROGRESS_FILE,
    SETTINGS_FILE,
    Evaluation,
    Run,
    RunSettings,
    SavedRun,
    close_run,
    default_name,
    evaluate,
    evaluate_random,
    evaluate_run,
    learn,
    open_run,
    save_model,
    settings_from_hyperparameters,
    start_run,
    write_evaluation,
)
from sb3_ppo_edu.vec_env.guard import ON_FAULT, NonFiniteStepError
from sb3_ppo_edu.vec_env.workers import WorkerError
from sb3_ppo_edu.version import __version__

DOCTOR = "sb3_ppo_edu.doctor.callback.TrainingDoctor"
LEARNING_CURVE_FILE = "learning_curve.png"
REPLAY_FILE = "replay.gif"

WHAT_FILES_HOLD = {
    MODEL_FILE: "the trained model: EduPPO.load() reads it",
    NORMALIZATION_FILE: "statistics that normalise its observations",
    SETTINGS_FILE: "everything the run was made from",
    EVALUATION_FILE: "the final evaluation, episode by episode",
    LEARNING_CURVE_FILE: "how it learned",
    REPLAY_FILE: "one episode, the one with the median return",
    PROGRESS_FILE: "every logged number (TensorBoard events beside it)",
    EVALUATIONS_FILE: "evaluations during training",
    MONITOR_FOLDER: "every training episode",
    PAGE_FILE: "what the doctor found (doctor.json for programs)",
    CHECKPOINT_FOLDER: "where sb3-edu resume goes on",
}

TRAIN_EXAMPLES = """\
Settings come from three places, each going over the one before it: EduPPO's defaults, the environment's block in the YAML
file, and the flags given here.

examples:
  sb3-edu train --env CartPole-v1
  sb3-edu train --env LunarLanderContinuous-v3 --steps 100000 --seed 1 --name lander
  sb3-edu train --env Pendulum-v1 --action-distribution tanh_gaussian --learning-rate lin_1e-3
  sb3-edu train --env CartPole-v1 --policy-kwargs "dict(net_arch=[32, 32], activation_fn=nn.ReLU)" --no-normalize
  sb3-edu train --env Acrobot-v1 --config my_settings.yml

exit codes: 0 done, 1 a step or the update failed (the model is saved), 2 bad input, 130 interrupted or
143 ended by SIGTERM (the model is saved)
"""


# --------------------------------------------------------------------------------------------------------------------------
# The arguments
# --------------------------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors fit on a screen."""

    def error(self, message: str) -> NoReturn:
        """
        Print the error and where there is help, rather than all forty flags, and exit.

        :param message: what is wrong
        """
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n(see {self.prog} --help)\n")


def build_parser() -> Parser:
    """
    Build the parser of the command line.

    :return: the parser; what it parses has the function to call as ``command``
    """
    parser = Parser(
        prog="sb3-edu",
        description="Train PPO on a Gymnasium environment, evaluate what it learned, and watch it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sb3_ppo_edu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_enjoy(commands)
    add_again(commands, train_and_finish)
    add_bench(commands)
    add_tune(commands)
    add_doctor(commands)
    add_course(commands)
    return parser


def _add_train(commands: Any) -> None:
    """Add ``sb3-edu train``."""
    parser = commands.add_parser(
        "train",
        usage="%(prog)s --env ID [--steps N] [--seed N] [--name NAME] [and what is listed below]",
        help="train, evaluate against random actions, and leave everything in a run folder",
        description="Train EduPPO, evaluate it against random actions, and leave everything in a new folder runs/NAME.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=train, parser=parser)
    run = parser.add_argument_group("the run")
    run.add_argument("--env", required=True, metavar="ID", help="Gymnasium id; MODULE:ID imports the module that registers it")
    run.add_argument("--steps", type=positive, metavar="N", help="environment steps to train for (default: the YAML's)")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of weights, actions and environments (default: 0)")
    run.add_argument("--folder", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept (default: runs)")
    run.add_argument("--name", help="the run's folder in there; must be new (default: ENV-SEED-TIME)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    run.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="torch threads (default: 1, fastest for small networks)"
    )
    run.add_argument(
        "--checkpoint-freq", type=positive, metavar="N", help="steps between checkpoints, for sb3-edu resume (default: none)"
    )
    run.add_argument(
        "--on-fault",
        choices=(*ON_FAULT, "off"),
        default="raise",
        help="NaN and infinities in actions, observations and rewards: stop there, or put 0 in their place (default: raise)",
    )
    run.add_argument(
        "--doctor", action="store_true", help="watch the training, warn of what is wrong with it, and leave doctor.html"
    )
    run.add_argument("--verbose", type=int, choices=(0, 1, 2), default=0, help="1 prints SB3's log tables, 2 debugging too")
    settings = parser.add_argument_group("the environments and their settings")
    settings.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="YAML in the form of RL Baselines3 Zoo (default: the one that comes with us)",
    )
    settings.add_argument("--n-envs", type=positive, metavar="N", help="environments stepped together")
    settings.add_argument(
        "--vec-env",
        choices=(*BACKENDS, AUTO),
        help="who steps them: one by one in this process (dummy, gymnasium-sync), each in its own (subproc, gymnasium-async), "
        "all at once (gymnasium-native, envpool), or the fastest that gives the same episodes (auto); default: dummy",
    )
    settings.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="observations and rewards normalised by running statistics"
    )
    settings.add_argument(
        "--env-kwargs", type=yaml_value, metavar="MAP", help='such as "{gravity: -5.0}" or "dict(gravity=-5.0)"'
    )
    evaluation = parser.add_argument_group("the evaluation")
    evaluation.add_argument(
        "--eval-episodes", type=positive, default=100, metavar="N", help="episodes of the final evaluation (default: 100)"
    )
    evaluation.add_argument(
        "--eval-freq", type=positive, metavar="N", help=f"steps between evaluations (default: {EVALUATIONS_PER_RUN} in a run)"
    )
    evaluation.add_argument("--no-replay", dest="replay", action="store_false", help=f"make no {REPLAY_FILE}")
    _add_algorithm_arguments(parser)


def _add_algorithm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each constructor argument of EduPPO, with the help that its docstring gives."""
    shared = parser.add_argument_group(
        "PPO, as in Stable-Baselines3", "The YAML's settings go before the defaults named here."
    )
    added = parser.add_argument_group("what EduPPO adds", "The same holds here.")
    texts = documented_parameters(EduPPO)
    for name, parameter in inspect.signature(EduPPO).parameters.items():
        if name in RUN_ARGUMENTS:
            continue
        default = "" if parameter.default is inspect.Parameter.empty else f" (default: {parameter.default})"
        group = added if parameter.kind is inspect.Parameter.KEYWORD_ONLY else shared
        group.add_argument(
            flag_of(name),
            dest=f"algorithm.{name}",
            type=yaml_value,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=(texts[name] + default).replace("%", "%%"),
        )


def _add_evaluate(commands: Any) -> None:
    """Add ``sb3-edu evaluate``."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a saved run against random actions",
        description="Evaluate a saved run, and random actions from the same starting states.",
        epilog="example:\n  sb3-edu evaluate runs/lander --episodes 500 --seed 7",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=evaluate_saved, parser=parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    parser.add_argument("--episodes", type=positive, default=100, metavar="N", help="number of episodes (default: 100)")
    _add_acting(parser)


def _add_enjoy(commands: Any) -> None:
    """Add ``sb3-edu enjoy``."""
    parser = commands.add_parser(
        "enjoy",
        help="watch a saved run",
        description="Watch a saved run in a window, or film one episode.",
        epilog="examples:\n  sb3-edu enjoy runs/lander\n  sb3-edu enjoy runs/lander --gif landing.gif --seed 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=enjoy, parser=parser)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--gif", type=Path, metavar="FILE", help="film one episode into a new file instead of opening a window")
    what.add_argument("--episodes", type=positive, default=3, metavar="N", help="episodes in the window (default: 3)")
    _add_acting(parser)


def _add_acting(parser: argparse.ArgumentParser) -> None:
    """Add what evaluating and watching have in common."""
    parser.add_argument(
        "--seed", type=int, default=EVALUATION_SEED, metavar="N", help="seed of the first episode (default: %(default)s)"
    )
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the most likely ones")
    parser.add_argument(
        "--trust", action="store_true", help="let the run's files run code: for your own, with functions or classes of yours"
    )


def flag_of(name: str) -> str:
    """
    Spell an argument's name as a flag.

    :param name: such as ``learning_rate``
    :return: such as ``--learning-rate``
    """
    return "--" + name.replace("_", "-")


def documented_parameters(documented: type) -> dict[str, str]:
    """
    Read what a class's docstring says of its parameters.

    :param documented: a class with ``:param name: text`` in its docstring
    :return: for each name the text in one line, without markup
    """
    sections = re.split(r"\n\s*:(?=param|return|raises)", inspect.cleandoc(documented.__doc__ or ""))
    found = (re.match(r"param (\w+):\s*(.*)", section, re.DOTALL) for section in sections)
    texts = {match[1]: " ".join(match[2].split()) for match in found if match}
    return {name: re.sub(r"(?::\w+:)?`{1,2}([^`]*)`{1,2}", r"\1", text) for name, text in texts.items()}


def yaml_value(text: str) -> Any:
    """
    Read a value as the YAML file would have it, and numbers such as ``3e-4``, which YAML takes for text.

    :param text: what was given
    :return: a number, boolean, ``None``, list, mapping or text
    """
    if text == "None":
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# --------------------------------------------------------------------------------------------------------------------------
# sb3-edu train
# --------------------------------------------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace) -> int:
    """
    Train, save, evaluate, draw, and say where everything is.

    :param arguments: of the command line
    :return: exit code
    """
    th.set_num_threads(arguments.threads)
    command = ["sb3-edu", *arguments.argv]
    with refusing_bad_input():
        settings = read_settings(arguments)
        folder = run_folder(arguments)
    with together() as group:
        arguments.group = group
        with refusing_bad_input():
            if group is None:
                run = start_run(settings, folder, command)
            else:
                run = begin(settings, folder, command, group, arguments.device)
        print_start(console_of(arguments), run)
        return train_and_finish(run, arguments)


def console_of(arguments: argparse.Namespace) -> Console:
    """
    Give where to print: of several processes that train together, one prints.

    :param arguments: of the command line
    :return: the console
    """
    group: Group | None = arguments.group
    return Console(highlight=False, quiet=group is not None and not group.leads)


def train_and_finish(run: Run, arguments: argparse.Namespace) -> int:
    """
    Train what is left of a run, evaluate it and print what there is.

    :param run: the run
    :param arguments: of the command line
    :return: exit code
    """
    console = console_of(arguments)
    try:
        exit_code = train_until_stopped(run, console, arguments.group)
    finally:
        close_run(run)
    if exit_code == DONE and not console.quiet:
        finish(run, arguments, console)
    return exit_code


def read_settings(arguments: argparse.Namespace) -> RunSettings:
    """
    Put together the YAML's settings and the flags.

    :param arguments: of the command line
    :return: the settings of the run
    :raises ValueError: if a setting is wrong
    """
    given = vars(arguments)
    overrides = {name.removeprefix("algorithm."): value for name, value in given.items() if name.startswith("algorithm.")}
    overrides.update(
        {name: given[name] for name in ("n_envs", "vec_env", "normalize", "env_kwargs") if given[name] is not None}
    )
    for name, value in overrides.items():
        if name.endswith("_kwargs") and isinstance(value, str):
            overrides[name] = parse_expression(value, flag_of(name))
    hyperparameters = load_hyperparameters(arguments.env, arguments.config, overrides)
    if arguments.doctor:
        # By its name, as a YAML would ask for it: so it is in the run's record, and there again when the run is resumed.
        others = hyperparameters.get("callback")
        hyperparameters["callback"] = [*(others if isinstance(others, list) else [others] if others else []), DOCTOR]
    return settings_from_hyperparameters(
        arguments.env,
        hyperparameters,
        steps=arguments.steps,
        seed=arguments.seed,
        eval_freq=arguments.eval_freq,
        device=arguments.device,
        verbose=arguments.verbose,
        checkpoint_freq=arguments.checkpoint_freq,
        on_fault=arguments.on_fault,
    )


def run_folder(arguments: argparse.Namespace) -> Path:
    """
    Choose the run's folder.

    :param arguments: of the command line
    :return: the folder, which need not exist
    :raises ValueError: if the name is none
    """
    if arguments.name is None:
        return Path(arguments.folder, default_name(arguments.env, arguments.seed, datetime.now()))
    if Path(arguments.name).name != arguments.name:
        raise ValueError(f"--name {arguments.name!r}: expected the name of a folder, not a path; --folder says where it goes")
    return Path(arguments.folder, arguments.name)


def train_until_stopped(run: Run, console: Console, group: Group | None = None) -> int:
    """
    Train to the end or until Ctrl-C or SIGTERM, and save the model in each case.

    :param run: the run
    :param console: where to print
    :param group: the processes to train together with, or ``None``
    :return: exit code
    """
    stop = StopOnRequest()
    progress = [] if console.quiet else [Progress(run.settings.steps)]
    exit_code = DONE
    try:
        with stopping_on_signals(stop):
            learn(run, [stop, *progress], group)
    except KeyboardInterrupt:
        stop.requested = True
    except SystemExit as ended:
        if ended.code != 128 + signal.SIGTERM:
            raise
        stop.requested, stop.signal = True, signal.SIGTERM  # as an exact checkpoint ends the training
    except (NonFiniteStepError, NonFiniteUpdateError, LostProcessError, WorkerError) as error:
        # A signal to all processes, as clusters send it, ends those that this one waits for.
        if not stop.requested:
            print(f"sb3-edu train: error: {error}", file=sys.stderr)
            exit_code = FAILED
    finally:
        for bar in progress:
            bar.close()
        if not console.quiet:
            save_model(run)
    if stop.requested:
        exit_code = 128 + stop.signal
    if exit_code != DONE:
        steps = f"{run.model.num_timesteps:,} of {run.settings.steps:,} steps"
        console.print(f"Stopped after {steps}. The model is saved in [bold]{run.folder}[/bold].", soft_wrap=True)
        checkpoint = last_checkpoint(run)
        if checkpoint is not None:
            if exit_code == FAILED:
                print(f"The last good checkpoint is {checkpoint}.", file=sys.stderr)
            console.print(f"To go on: {typed('sb3-edu')} resume {quoted(run.folder)}", soft_wrap=True)
        console.print(f"To see what it can do: {typed('sb3-edu')} evaluate {quoted(run.folder)}", soft_wrap=True)
    return exit_code


def last_checkpoint(run: Run) -> Path | None:
    """
    Find the checkpoint that a run would go on from.

    :param run: the run
    :return: its file, or ``None`` if there is no whole one
    """
    try:
        return latest_good(run.folder / CHECKPOINT_FOLDER).path
    except CheckpointError:
        return None


class StopOnRequest(BaseCallback):
    """Ends training at the next step once :attr:`requested` is set, so that no update is cut in half; :attr:`signal` asked."""

    changes_policy = False

    def __init__(self) -> None:
        super().__init__()
        self.requested = False
        self.signal = signal.SIGINT

    def _on_step(self) -> bool:
        """Go on unless asked to stop."""
        return not self.requested


@contextmanager
def stopping_on_signals(stop: StopOnRequest) -> Iterator[None]:
    """
    Let the first Ctrl-C or SIGTERM, which is how a cluster asks, end training at the next step, and the second at once.

    :param stop: the callback to ask
    """

    def handle(number: int, _: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested, stop.signal = True, signal.Signals(number)
        again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        # Not print(): it may be interrupted print() that this signal interrupted.
        os.write(2, f"\nStopping at the next step; {again} again stops at once.\n".encode())

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress(BaseCallback):
    """
    A progress bar with the mean return of the latest episodes.

    :param total: steps of the run
    """

    changes_policy = False

    def __init__(self, total: int) -> None:
        super().__init__()
        # A log file needs no ten lines a second.
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._total = total
        # Asked here, because tqdm shows nothing at all on a terminal that does not know its own size.
        columns, lines = shutil.get_terminal_size()
        self._bar = tqdm(
            total=total,
            desc="training",
            unit=" steps",
            unit_scale=True,
            mininterval=interval,
            ncols=min(columns, 100),
            nrows=lines,
        )

    def _on_step(self) -> bool:
        """Count; the last rollout goes a little beyond the total."""
        self._bar.update(min(self.num_timesteps, self._total) - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        """Show what the latest episodes returned."""
        episodes = self.model.ep_info_buffer
        if episodes:
            self._bar.set_postfix_str(f"return {np.mean([episode['r'] for episode in episodes]):.1f}", refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def finish(run: Run, arguments: argparse.Namespace, console: Console) -> None:
    """
    Evaluate the saved model, draw, and print what there is.

    :param run: the run, trained and saved
    :param arguments: of the command line
    :param console: where to print
    """
    # Imported here, because drawing takes a second to load, and bad input shall not wait for it.
    from sb3_ppo_edu.lab import plots, replay

    console.print(f"Evaluating {arguments.eval_episodes} episodes, and as many of random actions.")
    saved = open_run(run.folder)
    trained = evaluate_run(saved, arguments.eval_episodes)
    random = evaluate_random(saved, arguments.eval_episodes)
    write_evaluation(run, trained, random)
    repeats = action_repeat(run.settings.environment.wrapper)
    curve = plots.read_learning_curve(run.folder, f"{arguments.env}, seed {arguments.seed}", repeats)
    plots.save_figure(plots.draw_learning_curve(curve), run.folder / LEARNING_CURVE_FILE)
    if arguments.replay:
        draw_into_memory()
        try:
            replay.save_gif(replay.film_run(saved, trained.median_seed()), run.folder / REPLAY_FILE)
        except replay.CannotRenderError as error:
            console.print(f"No {REPLAY_FILE}: {arguments.env} cannot draw itself here ({error}).", markup=False)
    print_files(console, run.folder)
    print_evaluation(console, trained, random)
    print_next(console, run.folder)


# --------------------------------------------------------------------------------------------------------------------------
# sb3-edu evaluate, sb3-edu enjoy
# --------------------------------------------------------------------------------------------------------------------------


def evaluate_saved(arguments: argparse.Namespace) -> int:
    """
    Evaluate a saved run and random actions.

    :param arguments: of the command line
    :return: exit code
    """
    console = Console(highlight=False)
    with refusing_bad_input():
        saved = open_run(arguments.run, trusted=arguments.trust)
        trained = evaluate_run(saved, arguments.episodes, arguments.seed, deterministic=not arguments.stochastic)
        random = evaluate_random(saved, arguments.episodes, arguments.seed)
    print_evaluation(console, trained, random)
    return DONE


def enjoy(arguments: argparse.Namespace) -> int:
    """
    Show a saved run in a window, or film it.

    :param arguments: of the command line
    :return: exit code
    """
    console = Console(highlight=False)
    with refusing_bad_input():
        saved = open_run(arguments.run, trusted=arguments.trust)
        if arguments.gif is None:
            watch(saved, arguments, console)
        else:
            film(saved, arguments, console)
    return DONE


def watch(saved: SavedRun, arguments: argparse.Namespace, console: Console) -> None:
    """
    Play episodes in a window.

    :param saved: the run
    :param arguments: of the command line
    :param console: where to print
    :raises ValueError: if no window can be opened
    """
    remedy = f"--gif FILE films an episode without one, as did `sb3-edu train` into {arguments.run / REPLAY_FILE}"
    if not has_display():
        raise ValueError(f"no window: neither DISPLAY nor WAYLAND_DISPLAY is set, so there is no display; {remedy}")
    model = saved.load_model()
    try:
        env = saved.make_env(first_seed=arguments.seed, render_mode="human")
        episodes = evaluate(model, env, arguments.episodes, deterministic=not arguments.stochastic)
    # pygame's errors are RuntimeErrors, gymnasium's for a missing library its own.
    except (RuntimeError, ImportError, OSError, gym.error.Error) as error:
        raise ValueError(f"no window for {saved.environment.id} ({error}); {remedy}") from error
    env.close()
    for seed, episode_return, length in zip(episodes.seeds, episodes.returns, episodes.lengths, strict=True):
        console.print(f"seed {seed}: return {episode_return:.1f} in {length} steps")


def film(saved: SavedRun, arguments: argparse.Namespace, console: Console) -> None:
    """
    Film one episode.

    :param saved: the run
    :param arguments: of the command line
    :param console: where to print
    :raises ValueError: if the file exists, or the environment cannot draw itself
    """
    from sb3_ppo_edu.lab import replay

    draw_into_memory()
    if arguments.gif.exists():
        raise ValueError(f"--gif {arguments.gif}: it exists, and nothing that exists is overwritten; expected a new file")
    try:
        episode = replay.film_run(saved, arguments.seed, deterministic=not arguments.stochastic)
    except replay.CannotRenderError as error:
        raise ValueError(f"--gif {arguments.gif}: {saved.environment.id} cannot draw itself here ({error})") from error
    replay.save_gif(episode, arguments.gif)
    console.print(f"{arguments.gif}: seed {arguments.seed}, return {episode.episode_return:.1f}", soft_wrap=True)


def has_display() -> bool:
    """
    Find out whether windows can be opened.

    :return: whether there is a display; other systems than Linux always have one
    """
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def draw_into_memory() -> None:
    """
    Let pygame and MuJoCo draw without a window.

    Not before training: where EGL is missing, ``import mujoco`` itself would fail with this setting, and nobody could train.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if not has_display():
        os.environ.setdefault("MUJOCO_GL", "egl")


# --------------------------------------------------------------------------------------------------------------------------
# Printing
# --------------------------------------------------------------------------------------------------------------------------


def print_start(console: Console, run: Run) -> None:
    """
    Print what is about to be trained.

    :param console: where to print
    :param run: the run
    """
    settings = run.settings
    environments = "1 environment" if settings.n_envs == 1 else f"{settings.n_envs} environments"
    if settings.processes > 1:
        environments += f" in each of {settings.processes} processes"
    repeats = action_repeat(settings.environment.wrapper)
    held = f" of {repeats} environment steps each, {repeats * settings.steps:,} in all" if repeats > 1 else ""
    console.print(
        f"[bold]{settings.environment.id}[/bold]: {settings.steps:,} steps{held}, seed {settings.seed}, {environments}, "
        f"{'normalised' if settings.environment.normalize else 'not normalised'}, "
        f"{th.get_num_threads()} torch thread(s), into [bold]{run.folder}[/bold]",
        soft_wrap=True,
    )
    console.print(f"engine: {run.model.engine_reason}", soft_wrap=True, markup=False)


def print_files(console: Console, folder: Path) -> None:
    """
    Print what the run has left.

    :param console: where to print
    :param folder: the run's folder
    """
    table = Table(title=str(folder), title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2))
    for name, what in WHAT_FILES_HOLD.items():
        if (folder / name).exists():
            table.add_row(name, what)
    console.print()
    console.print(table)


def print_evaluation(console: Console, trained: Evaluation, random: Evaluation) -> None:
    """
    Print what the trained policy and random actions earned.

    :param console: where to print
    :param trained: episodes of the trained policy
    :param random: episodes of random actions
    """
    table = Table("", title="Return of an episode", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    for heading in ("mean ± std", "median", "lowest", "highest", "episodes"):
        table.add_column(heading, justify="right")
    for who, episodes in (("trained", trained), ("random actions", random)):
        summary = episodes.summary()
        numbers = (f"{summary[name]:.1f}" for name in ("median", "min", "max"))
        table.add_row(who, f"[bold]{summary['mean']:.1f}[/bold] ± {summary['std']:.1f}", *numbers, str(summary["n"]))
    console.print()
    console.print(table)


def print_next(console: Console, folder: Path) -> None:
    """
    Print what to type next.

    :param console: where to print
    :param folder: the run's folder
    """
    console.print("\n[bold]What to type next[/bold]")
    for command, what in (
        (f"{typed('sb3-edu')} enjoy {quoted(folder)}", "watch it"),
        (f"{typed('sb3-edu')} evaluate {quoted(folder)} --episodes 500", "judge it on more episodes"),
        (f"{typed('tensorboard')} --logdir {quoted(folder.parent)}", "see every number it logged"),
    ):
        console.print(f"  {command}  [dim]# {what}[/dim]", soft_wrap=True)


def typed(program: str) -> str:
    """
    Spell a program of this Python so that a shell finds it.

    :param program: its name
    :return: the name if it is on the path, else the path from here
    """
    if shutil.which(program):
        return program
    beside_python = Path(sys.executable).parent / program
    relative = os.path.relpath(beside_python)
    return shlex.quote(relative if len(relative) < len(str(beside_python)) else str(beside_python))


def quoted(path: Path) -> str:
    """
    Spell a path for a shell.

    :param path: the path
    :return: in quotes where it needs them
    """
    return shlex.quote(str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param argv: the arguments; ``None`` for those of the process
    :return: exit code: 0 done, 1 a step or the update failed, 2 bad input, 130 interrupted,
        143 ended by SIGTERM
    :raises SystemExit: for ``--help``, ``--version`` and flags that do not parse
    """
    # What pygame prints when it is imported.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments, unknown = build_parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(describe_unknown(arguments.parser, unknown))
    arguments.argv = argv
    try:
        return int(arguments.command(arguments))
    except RefusedError as error:
        print(f"{arguments.parser.prog}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f"\n{arguments.parser.prog}: interrupted; what was written before is complete", file=sys.stderr)
        return INTERRUPTED


ELSEWHERE = {"--n-timesteps": "--steps", "--total-timesteps": "--steps", "--timesteps": "--steps", "-n": "--steps"}
"""What others call it, and what it would be taken for by its spelling."""


def describe_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """
    Say which flag is unknown and which it may have been meant to be.

    :param parser: of the command
    :param unknown: what the parser did not know
    :return: the message
    """
    flags = [option for action in parser._actions for option in action.option_strings]
    given = unknown[0].split("=")[0]
    meant = ELSEWHERE.get(given, "")
    near = [meant] if meant in flags else difflib.get_close_matches(given, flags, n=1)
    return f"unknown argument {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
