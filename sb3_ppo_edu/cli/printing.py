"""What the commands print: the start of a run, its files, its evaluation, and what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch as th
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.distributed.process_group import ProcessGroup
from sb3_ppo_edu.doctor.callback import PAGE_FILE
from sb3_ppo_edu.envs.factory import action_repeat
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.training.evaluation import MAX_EPISODE_STEPS, Evaluation
from sb3_ppo_edu.training.folder import (
    CHECKPOINT_FOLDER,
    EVALUATION_FILE,
    EVALUATIONS_FILE,
    MODEL_FILE,
    MONITOR_FOLDER,
    NORMALIZATION_FILE,
    PROGRESS_FILE,
    SETTINGS_FILE,
)
from sb3_ppo_edu.training.run import Run
from sb3_ppo_edu.training.settings import check_names

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


def console_for(group: ProcessGroup | None) -> Console:
    """
    Make the console to print on, which is quiet on all ranks but 0.

    :param group: the processes that train together, or ``None`` for this one alone
    """
    return TextConsole(highlight=False, quiet=group is not None and group.rank != 0)


def print_start(console: Console, run: Run) -> None:
    """Print what is about to be trained."""
    settings = run.settings
    environments = "1 environment" if settings.n_envs == 1 else f"{settings.n_envs} environments"
    if settings.processes > 1:
        environments += f" in each of {settings.processes} processes"
    repeats = action_repeat(settings.environment.wrapper)
    held = f" of {repeats} environment steps each, {repeats * settings.steps:,} in all" if repeats > 1 else ""
    console.print(
        f"[bold]{escape(settings.environment.id)}[/bold]: {settings.steps:,} steps{held}, seed {settings.seed}, "
        f"{environments}, {'normalised' if settings.environment.normalize else 'not normalised'}, "
        f"{th.get_num_threads()} torch thread(s), into [bold]{escape(str(run.shown))}[/bold]",
        soft_wrap=True,
    )
    console.print(f"engine: {run.model.engine_reason}", soft_wrap=True, markup=False)


def print_files(console: Console, run: Run) -> None:
    """Print what the run has left in its folder."""
    table = Table(title=str(run.shown), title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2))
    for name, what in WHAT_FILES_HOLD.items():
        if (run.folder / name).exists():
            table.add_row(name, what)
    console.print()
    console.print(table)


def print_evaluation(
    console: Console, trained: Evaluation, random: Evaluation, max_episode_steps: int = MAX_EPISODE_STEPS
) -> None:
    """
    Print the returns of the trained policy and of random actions.

    :param max_episode_steps: steps after which episodes were cut off
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
    cut_off = [length for length in (*trained.lengths, *random.lengths) if length >= max_episode_steps]
    if cut_off:
        console.print(f"{len(cut_off)} of these episodes did not end in {max_episode_steps:,} steps, and were cut off there.")


def print_next(console: Console, run: Run) -> None:
    """Print what to type next about a run."""
    folder, trust = run.shown, trust_of(run)
    console.print("\n[bold]What to type next[/bold]")
    for command, what in (
        (f"{typed('sb3-edu')} enjoy {quoted(folder)}{trust}", "watch it"),
        (f"{typed('sb3-edu')} evaluate {quoted(folder)} --episodes 500{trust}", "judge it on more episodes"),
        (f"{typed('tensorboard')} --logdir {quoted(folder.parent)}", "see every number it logged"),
    ):
        console.print(f"  {command}  [dim]# {what}[/dim]", soft_wrap=True)


def trust_of(run: Run) -> str:
    """
    Say what has to be typed to read a run again that names what its reader can't know to be harmless.

    :param run: of this user
    :return: the flag with a space before it, or nothing
    """
    try:
        check_names(run.settings, "settings")
    except UntrustedFileError:
        return " --trust"
    return ""


def typed(program: str) -> str:
    """
    Spell a program of this Python so that a shell finds it.

    :param program: its name
    :return: the name if it is on the path, else the path from here
    """
    if shutil.which(program):
        return program
    beside_python = Path(sys.executable).parent / program
    try:
        relative = Path(os.path.relpath(beside_python))
    except ValueError:  # on another drive
        relative = beside_python
    return quoted(min(relative, beside_python, key=lambda path: len(str(path))))


def quoted(path: Path) -> str:
    """Spell a path for a shell, in quotes where it needs them."""
    return subprocess.list2cmdline([str(path)]) if sys.platform == "win32" else shlex.quote(str(path))
