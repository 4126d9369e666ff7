"""The command line: ``sb3-edu train``, ``evaluate``, ``enjoy`` and others. It parses, calls and prints."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sb3_ppo_edu.cli.bench import add_bench
from sb3_ppo_edu.cli.course import add_course
from sb3_ppo_edu.cli.doctor import add_doctor
from sb3_ppo_edu.cli.enjoy import add_enjoy
from sb3_ppo_edu.cli.evaluate import add_evaluate
from sb3_ppo_edu.cli.export import add_export
from sb3_ppo_edu.cli.refusals import BAD_INPUT, FAILED, INTERRUPTED, RefusedError
from sb3_ppo_edu.cli.reproduce import add_reproduce
from sb3_ppo_edu.cli.resume import add_resume
from sb3_ppo_edu.cli.streams import DISK, describe_disk, standard_streams
from sb3_ppo_edu.cli.train import add_train
from sb3_ppo_edu.cli.tune import add_tune
from sb3_ppo_edu.serialization.text import printable
from sb3_ppo_edu.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param argv: the arguments; ``None`` for those of the process
    :return: exit code: 0 done, 1 a step or the update failed, 2 bad input, 130 interrupted,
        143 ended by SIGTERM
    :raises SystemExit: for ``--help``, ``--version`` and flags that do not parse
    """
    with standard_streams():
        return _run_command(argv)


def _run_command(argv: Sequence[str] | None) -> int:
    """Run a command, and print in a sentence what ends it."""
    # What pygame prints when it is imported.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    arguments = parse(sys.argv[1:] if argv is None else argv)
    try:
        return int(arguments.command(arguments))
    except RefusedError as error:
        print(f"{arguments.parser.prog}: error: {printable(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(f"{arguments.parser.prog}: error: {describe_disk(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"\n{arguments.parser.prog}: interrupted; what was written before is complete", file=sys.stderr)
        return INTERRUPTED


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    Parse a command line.

    :param argv: its words
    :return: the arguments, with the words as ``argv`` and the function to call as ``command``
    :raises SystemExit: for ``--help``, ``--version`` and flags that do not parse
    """
    arguments, unknown = build_parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(describe_unknown(arguments.parser, unknown))
    arguments.argv = list(argv)
    return arguments


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags are not abbreviated, whose texts keep their lines, and whose errors fit on a screen."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the error and where there is help, rather than all forty flags, and exit."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {printable(message)}\n(see {self.prog} --help)\n")


def build_parser() -> Parser:
    """
    Build the parser of the command line.

    :return: the parser; what it parses has the function to call as ``command``
    """
    parser = Parser(
        prog="sb3-edu",
        description="Train PPO on a Gymnasium environment, evaluate what it learned, and watch it.",
    )
    parser.add_argument("--version", action="version", version=f"sb3_ppo_edu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_evaluate(commands)
    add_enjoy(commands)
    add_export(commands)
    add_resume(commands)
    add_reproduce(commands, parse)
    add_bench(commands)
    add_tune(commands)
    add_doctor(commands)
    add_course(commands)
    return parser


ELSEWHERE = {"--n-timesteps": "--steps", "--total-timesteps": "--steps", "--timesteps": "--steps", "-n": "--steps"}
"""What others call it, and what it would be taken for by its spelling."""


def describe_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """Say which argument the parser does not know, and which flag may have been meant."""
    flags = [option for action in parser._actions for option in action.option_strings]
    given = unknown[0].split("=")[0]
    meant = ELSEWHERE.get(given, "")
    near = [meant] if meant in flags else difflib.get_close_matches(given, flags, n=1)
    return f"unknown argument {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
