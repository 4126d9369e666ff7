"""``sb3-edu reproduce``: do a run again, and compare the two bit by bit."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_ppo_edu.cli.display import TextConsole
from sb3_ppo_edu.cli.refusals import DONE, FAILED, RefusedError, refusing_bad_input
from sb3_ppo_edu.training.compare import Comparison, compare_runs
from sb3_ppo_edu.training.folder import SETTINGS_FILE
from sb3_ppo_edu.training.settings import read_settings

REPRODUCE_DESCRIPTION = """\
Run the command of a run again, into a new folder, and compare the two bit by bit: parameters, optimizer, logs, evaluations.
What could explain a difference, versions, threads, machine, code, is compared too.

exit codes: 0 the same bits, 1 something differs, 2 bad input, 130 interrupted
"""


def add_reproduce(commands: Any, _: Sequence[str]) -> None:
    """Add ``sb3-edu reproduce``."""
    reproduce = commands.add_parser(
        "reproduce",
        description=REPRODUCE_DESCRIPTION,
    )
    reproduce.set_defaults(command=reproduce_run, parser=reproduce)
    reproduce.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as runs/lander")
    reproduce.add_argument(
        "--trust", action="store_true", help="let the run's command name what it likes, which may run any program"
    )
    reproduce.add_argument("--name", help="folder of the new run, beside the old one (default: RUN-again)")


def reproduce_run(arguments: argparse.Namespace) -> int:
    """Do a run again and compare; return the exit code."""
    console = TextConsole(highlight=False)
    folder: Path = arguments.run
    path = folder / SETTINGS_FILE
    with refusing_bad_input():
        record = read_settings(path)
        if record.get("processes", 1) > 1:
            raise ValueError(f"{path}: {record['processes']} processes made the run, and one alone can't do it again")
        if longer := record.get("resumed"):
            raise ValueError(f"{path}: {longer[-1]!r} has made the run longer, and its first command can't do it again")
        found = record.get("command", "")
        try:
            command = shlex.split(found)
        except ValueError as error:
            raise ValueError(f"{path}: found the command {found!r}, which no shell reads ({error})") from error
        if command[:2] != ["sb3-edu", "train"]:
            raise ValueError(f"{path}: found the command {found!r}, expected sb3-edu train …")
    place = folder if folder.name not in ("", "..") else Path(os.path.abspath(folder))
    name = arguments.name or f"{place.name}-again"
    words = [word for word in without_flags(command[1:], "--name", "--folder") if word not in ("--trust", "--from-record")]
    trust = ["--trust"] if arguments.trust else []
    words += [*trust, "--from-record", "--folder", str(place.parent), f"--name={name}", "--no-replay"]
    try:
        again = parse_recorded(words, arguments.parse)
        code = int(again.command(again))
    except RefusedError as error:
        raise RefusedError(f"{path}: its command can't be run again: {error}") from error
    if code != DONE:
        return code
    compared = compare_runs(folder, place.parent / name)
    print_comparison(console, compared, folder, place.parent / name)
    return DONE if all(one.equal is not False for one in compared[4:]) else FAILED


def parse_recorded(words: list[str], parse: Callable[[Sequence[str]], argparse.Namespace]) -> argparse.Namespace:
    """Parse the command of a record, which may be a stranger's; what is wrong with it is refused in one sentence."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as complaints:
        try:
            return parse(words)
        except SystemExit as ended:
            said = complaints.getvalue().partition("error: ")[2].splitlines()
            raise RefusedError(said[0] if said else "it trains nothing") from ended


def without_flags(words: list[str], *flags: str) -> list[str]:
    """Leave flags, each with its value, out of the words of a command line."""
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


def print_comparison(console: Console, found: list[Comparison], first: Path, second: Path) -> None:
    """Print how the runs of two folders compare."""
    table = Table(title=f"{first} and {second}", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    for heading in ("", "", "difference"):
        table.add_column(heading)
    words = {True: "the same", False: "[bold]differs[/bold]", None: "–"}
    for one in found:
        table.add_row(one.what, words[one.equal], escape(one.detail))
    console.print()
    console.print(table)
