"""What ``sb3-edu train`` does: train, save, evaluate, draw, and say where everything is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch as th
from rich.console import Console
from rich.markup import escape

from sb3_ppo_edu.checkpoint.callback import SIGNALS
from sb3_ppo_edu.checkpoint.files import CheckpointError, UnfitStateError, latest_good
from sb3_ppo_edu.cli.callbacks import Progress, StopOnRequest, stopping_on_signals, undisturbed
from sb3_ppo_edu.cli.display import draw_into_memory
from sb3_ppo_edu.cli.flags import flag_of
from sb3_ppo_edu.cli.printing import (
    LEARNING_CURVE_FILE,
    REPLAY_FILE,
    console_for,
    print_evaluation,
    print_files,
    print_next,
    print_start,
    quoted,
    trust_of,
    typed,
)
from sb3_ppo_edu.cli.refusals import BAD_INPUT, DONE, FAILED, RefusedError, refusing_bad_input
from sb3_ppo_edu.cli.streams import DISK, describe_disk
from sb3_ppo_edu.cli.torchrun import process_group, start_or_resume_rank
from sb3_ppo_edu.distributed.process_group import LostProcessError, ProcessGroup
from sb3_ppo_edu.engines import NonFiniteUpdateError
from sb3_ppo_edu.envs.factory import action_repeat
from sb3_ppo_edu.serialization.errors import reason
from sb3_ppo_edu.serialization.names import check_environment_id, only_known_code
from sb3_ppo_edu.serialization.text import printable, sentence
from sb3_ppo_edu.training.folder import CHECKPOINT_FOLDER, default_name
from sb3_ppo_edu.training.hyperparameters import check_names_of, load_hyperparameters, parse_expression
from sb3_ppo_edu.training.run import Run, close_run, learn, save_model, start_run, write_evaluation
from sb3_ppo_edu.training.saved_run import evaluate_random, evaluate_run, open_run
from sb3_ppo_edu.training.settings import RunSettings, as_settings_say, settings_from_hyperparameters, who_says
from sb3_ppo_edu.training.tracking import service_package
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError
from sb3_ppo_edu.vec_env.guard import NonFiniteStepError
from sb3_ppo_edu.vec_env.workers import WorkerError

ENVIRONMENT_FLAGS = ("n_envs", "vec_env", "worker_timeout", "normalize", "env_kwargs")
"""Flags that go over settings of the same name in the YAML file."""
RUN_FLAGS = ("steps", "seed", "eval_freq", "device", "verbose", "checkpoint_freq", "on_fault")
"""Flags of what no YAML file has, but for the steps under another name."""
DOCTOR = "sb3_ppo_edu.doctor.callback.TrainingDoctor"
TRACK = "sb3_ppo_edu.training.tracking.Track"


FAILURES = (
    NonFiniteStepError,
    NonFiniteUpdateError,
    LostProcessError,
    WorkerError,
    EnvironmentFaultError,
    CheckpointError,
)
"""What ends a training with a sentence, and exit code 1."""


def train_new_run(arguments: argparse.Namespace) -> int:
    """Train, save, evaluate, draw, and say where everything is; return the exit code."""
    command = ["sb3-edu", *arguments.argv]
    th.set_num_threads(arguments.threads)
    with refusing_bad_input():
        settings = read_settings(arguments)
        folder = run_folder(arguments)
    with process_group() as group:
        arguments.group = group
        with refusing_bad_input():
            if group is None:
                run = start_run(settings, folder, command, source=arguments.config, flags=flags_given(arguments))
            else:
                run = start_or_resume_rank(settings, folder, command, group, arguments.device)
        try:
            with refusing_bad_input(), as_settings_say(arguments.config, flags_given(arguments)):
                print_start(console_for(group), run)  # the engine is chosen here
        except RefusedError:
            close_run(run)
            raise
        return train_and_finish(run, arguments, None if arguments.trust else arguments.config, flags_given(arguments))


def overrides_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Collect the flags that go over settings of the same name.

    :raises ValueError: if one can't be read
    """
    given = vars(arguments)
    overrides = {name.removeprefix("algorithm."): value for name, value in given.items() if name.startswith("algorithm.")}
    overrides.update({name: given[name] for name in ENVIRONMENT_FLAGS if given[name] is not None})
    for name, value in overrides.items():
        if name.endswith("_kwargs") and isinstance(value, str):
            overrides[name] = parse_expression(value, flag_of(name))
    return overrides


def flags_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Collect what the command line gives beside the file, by flag, for errors."""
    given = {**{name: vars(arguments)[name] for name in RUN_FLAGS}, **overrides_of(arguments)}
    return {flag_of(name): value for name, value in given.items() if value is not None}


def read_settings(arguments: argparse.Namespace) -> RunSettings:
    """
    Put together the YAML's settings and the flags.

    :raises ValueError: if a setting is wrong
    """
    overrides = overrides_of(arguments)
    if arguments.from_record and not arguments.trust:
        check_environment_id(arguments.env, "--env")
        check_names_of(overrides, "the command in the run's record")
    hyperparameters = load_hyperparameters(
        arguments.env, arguments.config, overrides, trusted=arguments.trust, algo=arguments.algo, flag_of=flag_of
    )
    # By their names, as a YAML would ask for them: so they are in the run's record, and there again when the run is resumed.
    added: list[Any] = [DOCTOR] if arguments.doctor else []
    if arguments.track is not None:
        try:
            service_package(arguments.track)
        except ImportError as error:
            raise RefusedError(f"--track {arguments.track}: {error}") from error
        added.append({TRACK: {"to": arguments.track}})
    if added:
        others = hyperparameters.get("callback")
        hyperparameters["callback"] = [*(others if isinstance(others, list) else [others] if others else []), *added]
    with as_settings_say(arguments.config, flags_given(arguments)):
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
            algo=arguments.algo,
        )


def run_folder(arguments: argparse.Namespace) -> Path:
    """
    Choose the run's folder, which need not exist.

    :raises ValueError: if the name is none
    """
    if arguments.name is None:
        return Path(arguments.folder, default_name(arguments.env, arguments.seed, datetime.now()))
    if not arguments.name or Path(arguments.name).name != arguments.name:
        raise ValueError(f"--name {arguments.name!r}: expected the name of a folder, not a path; --folder says where it goes")
    return Path(arguments.folder, arguments.name)


def train_and_finish(
    run: Run, arguments: argparse.Namespace, source: Path | None, flags: Mapping[str, Any] | None = None
) -> int:
    """
    Train what is left of a run, evaluate it and print what there is; return the exit code.

    :param run: closed at the end
    :param arguments: of the command line, with the processes that train together, or ``None``, in ``group``
    :param source: see :func:`train_until_stopped`
    :param flags: likewise
    """
    console = console_for(arguments.group)
    try:
        exit_code = train_until_stopped(run, console, arguments.group, source, flags or {})
    finally:
        close_run(run)
    if exit_code == DONE and not console.quiet:
        try:
            finish(run, arguments, console)
        except Exception as error:
            if source is None or not only_known_code(error) or isinstance(error, OSError):
                raise
            raise RefusedError(what_fails(source, error, flags or {})) from error
    return exit_code


def train_until_stopped(
    run: Run, console: Console, group: ProcessGroup | None, source: Path | None, flags: Mapping[str, Any]
) -> int:
    """
    Train to the end or until Ctrl-C or SIGTERM, and save the model in each case; return the exit code.

    :param run: left open
    :param console: a quiet one, as of all ranks but 0, shows no progress and saves no model
    :param group: the processes to train together with, or ``None``
    :param source: the file that the settings are from, if it is a stranger's
    :param flags: what the command line gives beside it, by flag
    """
    stop = StopOnRequest(run.lock.note_training)
    progress = [] if console.quiet else [Progress(run.settings.steps)]
    exit_code, failure = DONE, ""
    kept: list[bool] = []
    try:
        with stopping_on_signals(stop):
            learn(run, [stop, *progress], group)
    except KeyboardInterrupt:
        stop.requested = True
    except SystemExit as ended:
        asked = [one for one in SIGNALS if ended.code == 128 + one]
        if not asked:
            raise
        stop.requested, stop.signal = True, asked[0]  # as an exact checkpoint ends the training
    except FAILURES as error:
        # A signal to all processes, as clusters send it, ends those that this one waits for.
        if not stop.requested:
            failure, exit_code = str(error), BAD_INPUT if isinstance(error, UnfitStateError) else FAILED
    except OSError as error:
        if error.errno not in DISK:
            raise
        failure, exit_code = f"run {run.shown}: {describe_disk(error)}", FAILED
    except Exception as error:
        if source is None or not only_known_code(error):
            raise
        failure, exit_code = what_fails(source, error, flags), BAD_INPUT
    finally:
        for bar in progress:
            bar.close()
        if failure:
            print(f"sb3-edu train: error: {printable(failure)}", file=sys.stderr)
        # Where learn has failed before its first step, the model is not what it will be: what is there stays.
        if not console.quiet and (stop.began or sys.exc_info()[0] is None):
            undisturbed(lambda: kept.append(keep_model(run)))
    if stop.requested:
        exit_code = 128 + stop.signal
    if not all(kept):
        exit_code = FAILED
    if exit_code != DONE:
        steps = f"{run.model.num_timesteps:,} of {run.settings.steps:,} steps"
        saved = f" The model is saved in [bold]{escape(str(run.shown))}[/bold]." if all(kept) else ""
        console.print(f"Stopped after {steps}.{saved}", soft_wrap=True)
        checkpoint = last_checkpoint(run)
        if checkpoint is not None:
            if exit_code == FAILED:
                print(f"The last good checkpoint is {checkpoint}.", file=sys.stderr)
            console.print(f"To go on: {typed('sb3-edu')} resume {quoted(run.shown)}{trust_of(run)}", soft_wrap=True)
        if all(kept):
            evaluate = f"{typed('sb3-edu')} evaluate {quoted(run.shown)}{trust_of(run)}"
            console.print(f"To see what it can do: {evaluate}", soft_wrap=True)
    return exit_code


def what_fails(source: Path, error: Exception, flags: Mapping[str, Any]) -> str:
    """Name the file or the flag that has told well-known code what it can't do."""
    said = reason(error)
    return sentence(said if str(source) in said else who_says(source, error, flags))


def keep_model(run: Run) -> bool:
    """Save the model, unless the one that is there is trained for more steps; False where the disk does not take it."""
    try:
        save_model(run)
    except ValueError as error:
        print(printable(str(error)), file=sys.stderr)
    except OSError as error:
        print(f"sb3-edu train: error: the model is not saved: {describe_disk(error)}", file=sys.stderr)
        return False
    return True


def last_checkpoint(run: Run) -> Path | None:
    """Find the file of the checkpoint that a run would go on from; ``None`` if there is no whole one."""
    try:
        return latest_good(run.folder / CHECKPOINT_FOLDER).path
    except CheckpointError:
        return None


def finish(run: Run, arguments: argparse.Namespace, console: Console) -> None:
    """Evaluate the saved model of a trained run, draw, and print what there is."""
    # Imported here, because drawing takes a second to load, and bad input shall not wait for it.
    from sb3_ppo_edu.lab import plots, replay

    console.print(f"Evaluating {arguments.eval_episodes} episodes, and as many of random actions.")
    saved = open_run(run.folder)
    trained = evaluate_run(saved, arguments.eval_episodes)
    random = evaluate_random(saved, arguments.eval_episodes)
    write_evaluation(run, trained, random)
    repeats = action_repeat(run.settings.environment.wrapper)
    try:
        curve = plots.read_learning_curve(run.folder, f"{arguments.env}, seed {arguments.seed}", repeats)
        figure = plots.draw_learning_curve(curve)
    except (
        Exception
    ) as error:  # numpy's and csv's: what a resumed run's files held before may be damaged, and training is done
        console.print(f"No {LEARNING_CURVE_FILE}: the run's logs can't be read ({error!r}).", markup=False, soft_wrap=True)
    else:
        plots.save_figure(figure, run.folder / LEARNING_CURVE_FILE)
    if arguments.replay:
        draw_into_memory()
        try:
            replay.save_gif(replay.film_run(saved, trained.median_seed()), run.folder / REPLAY_FILE)
        except replay.CannotRenderError as error:
            console.print(f"No {REPLAY_FILE}: {arguments.env} cannot draw itself here ({error}).", markup=False)
    print_files(console, run)
    print_evaluation(console, trained, random)
    print_next(console, run)
