"""``sb3-edu resume`` and ``sb3-edu reproduce``: go on with a run, and do one again."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th
from rich.console import Console
from rich.table import Table

from sb3_ppo_edu.cli.refusals import DONE, FAILED, RefusedError, refusing_bad_input
from sb3_ppo_edu.cli.torchrun import resume_together, together
from sb3_ppo_edu.distributed.data_parallel import Group
from sb3_ppo_edu.training.resume import Likeness, compare_runs, resume_run
from sb3_ppo_edu.training.run import SETTINGS_FILE, Run, read_settings
from sb3_ppo_edu.vec_env.guard import ON_FAULT

REPRODUCE_DESCRIPTION = """\
Run the command of a run again, into a new folder, and compare the two bit by bit: parameters, optimizer, logs, evaluations.
What could explain a difference, versions, threads, machine, code, is compared too.

exit codes: 0 the same bits, 1 something differs, 2 bad input, 130 interrupted
"""


def add_again(commands: Any, finish: Callable[[Run, argparse.Namespace], int]) -> None:
    """
    Add ``sb3-edu resume`` and ``sb3-edu reproduce``.

    :param commands: to add to
    :param finish: trains a run to its end, and evaluates it
    """
    resume = commands.add_parser(
        "resume",
        help="go on with a run that was interrupted, exactly",
        description="Go on with a run that was made with --checkpoint-freq, from its newest whole checkpoint: it ends with "
        "the same bits as if it had never been interrupted.",
        allow_abbrev=False,
    )
    resume.set_defaults(command=lambda arguments: resume_interrupted(arguments, finish), parser=resume)
    resume.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    resume.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    resume.add_argument("--eval-episodes", type=int, default=100, metavar="N", help="episodes of the final evaluation")
    resume.add_argument("--no-replay", dest="replay", action="store_false", help="make no film")
    resume.add_argument(
        "--trust", action="store_true", help="unpickle whatever the checkpoint's settings hold (policies of your own)"
    )
    resume.add_argument(
        "--on-fault", choices=ON_FAULT, help="from here on, what to do about NaN and infinities (default: as the run was made)"
    )
    reproduce = commands.add_parser(
        "reproduce",
        help="do a run again, and compare bit by bit",
        description=REPRODUCE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    reproduce.set_defaults(command=reproduce_run, parser=reproduce)
    reproduce.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    reproduce.add_argument("--name", help="folder of the new run, beside the old one (default: RUN-again)")


def resume_interrupted(arguments: argparse.Namespace, finish: Callable[[Run, argparse.Namespace], int]) -> int:
    """
    Go on with an interrupted run.

    :param arguments: of the command line
    :param finish: trains a run to its end, and evaluates it
    :return: exit code
    """
    with together() as arguments.group:
        return resume_here(arguments, finish)


def resume_here(arguments: argparse.Namespace, finish: Callable[[Run, argparse.Namespace], int]) -> int:
    """
    Go on with this process's part of an interrupted run.

    :param arguments: of the command line, with the processes that train together in ``group``
    :param finish: trains a run to its end, and evaluates it
    :return: exit code
    """
    group: Group | None = arguments.group
    console = Console(highlight=False, quiet=group is not None and not group.leads)
    with refusing_bad_input():
        record = read_settings(arguments.run / SETTINGS_FILE)
        th.set_num_threads(record["threads"]["torch"])
        how: dict[str, Any] = {"trusted": arguments.trust, "on_fault": arguments.on_fault}
        if group is not None:
            run = resume_together(arguments.run, group, arguments.device, **how)
        elif record.get("processes", 1) > 1:
            raise ValueError(
                f"run {arguments.run}: found one process, expected the {record['processes']} that it was made by: "
                f"torchrun --nproc-per-node {record['processes']} -m sb3_ppo_edu resume {arguments.run}"
            )
        else:
            run = resume_run(arguments.run, arguments.device, **how)
    arguments.env, arguments.seed = run.settings.environment.id, run.settings.seed
    done, total = run.model.num_timesteps, run.settings.steps
    console.print(f"[bold]{arguments.env}[/bold]: going on at step {done:,} of {total:,}", soft_wrap=True)
    for index, way in enumerate(run.model.resumed_envs):
        if way not in ("replayed", "set by itself"):
            console.print(f"environment {index} {way}; from here on the run is another one", soft_wrap=True, markup=False)
    return finish(run, arguments)


def reproduce_run(arguments: argparse.Namespace) -> int:
    """
    Do a run again and compare.

    :param arguments: of the command line
    :return: exit code
    """
    # Imported here: the command line imports this module.
    from sb3_ppo_edu.cli import main

    console = Console(highlight=False)
    folder: Path = arguments.run
    with refusing_bad_input():
        record = read_settings(folder / SETTINGS_FILE)
        command = shlex.split(record.get("command", ""))
        if record.get("processes", 1) > 1:
            raise ValueError(f"run {folder}: {record['processes']} processes made it, and one alone can't do it again")
    if command[:2] != ["sb3-edu", "train"]:
        raise RefusedError(f"run {folder}: found the command {shlex.join(command)!r}, expected sb3-edu train …")
    name = arguments.name or f"{folder.name}-again"
    code = main([*without(command[1:], "--name", "--folder"), "--folder", str(folder.parent), "--name", name, "--no-replay"])
    if code != DONE:
        return code
    found = compare_runs(folder, folder.parent / name)
    print_likeness(console, found, folder, folder.parent / name)
    return DONE if all(one.equal is not False for one in found[4:]) else FAILED


def without(words: list[str], *flags: str) -> list[str]:
    """
    Leave flags with a value out of a command line.

    :param words: of the command line
    :param flags: to leave out
    :return: the others
    """
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif not word.startswith(tuple(f"{flag}=" for flag in flags)):
            kept.append(word)
    return kept


def print_likeness(console: Console, found: list[Likeness], first: Path, second: Path) -> None:
    """
    Print how two runs compare.

    :param console: where to print
    :param found: the comparisons
    :param first: folder of the first run
    :param second: folder of the second
    """
    table = Table(title=f"{first} and {second}", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    for heading in ("", "", "difference"):
        table.add_column(heading)
    words = {True: "the same", False: "[bold]differs[/bold]", None: "–"}
    for one in found:
        table.add_row(one.what, words[one.equal], one.detail)
    console.print()
    console.print(table)
