"""The command line: ``sb3-edu train``, ``evaluate``, ``enjoy`` and others. It parses, calls and prints."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from sb3_ppo_edu.cli.refusals import BAD_INPUT, DONE, FAILED, INTERRUPTED, RefusedError
from sb3_ppo_edu.cli.streams import DISK, describe_disk, standard_streams
from sb3_ppo_edu.serialization.extras import MissingExtraError
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
    except (RefusedError, MissingExtraError) as error:
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


COMMANDS = {
    "train": "train, evaluate against random actions, and leave everything in a run folder",
    "evaluate": "evaluate a saved run against random actions",
    "enjoy": "watch a saved run",
    "export": "write a saved run's policy into an ONNX file",
    "push": "copy a saved run to the Hugging Face Hub, with a model card",
    "resume": "go on with a run that was interrupted, exactly",
    "reproduce": "do a run again, and compare bit by bit",
    "doctor": "say what is wrong with a training",
    "tune": "find settings for an environment, one at a time and with reasons",
    "bench": "measure: speed, learning, parity, sensitivity, scale",
    "course": "build, verify and grade the lessons",
    "zoo": "RL Baselines3 Zoo with EduPPO in it: sb3-edu zoo train …",
}
"""Each command, and what it does. ``cli.NAME`` has a function ``add_NAME``; it is imported where its command is given."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    Parse a command line.

    :param argv: its words
    :return: the arguments, with the words as ``argv`` and the function to call as ``command``
    :raises SystemExit: for ``--help``, ``--version`` and flags that do not parse
    """
    parser = build_parser(argv)
    if not argv:
        parser.print_help()
        raise SystemExit(DONE)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        arguments.parser.error(describe_unknown(arguments.parser, unknown))
    arguments.argv, arguments.parse = list(argv), parse
    return arguments


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags are not abbreviated, whose texts keep their lines, and whose errors fit on a screen."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the error and where there is help, rather than all forty flags, and exit."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {printable(message)}\n(see {self.prog} --help)\n")


def build_parser(argv: Sequence[str]) -> Parser:
    """
    Build the parser of a command line.

    :param argv: its words; only the flags of the command that is among them are known
    :return: the parser; what it parses has the function to call as ``command``
    """
    parser = Parser(
        prog="sb3-edu",
        description="Train PPO on a Gymnasium environment, evaluate what it learned, and watch it.",
        epilog="sb3-edu COMMAND --help explains a command. Start with: sb3-edu train --env CartPole-v1",
    )
    parser.add_argument("--version", action="version", version=f"sb3_ppo_edu {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = next((index for index, word in enumerate(argv) if not word.startswith("-")), None)
    for name, text in COMMANDS.items():
        if given is not None and name == argv[given]:
            getattr(import_module(f"sb3_ppo_edu.cli.{name}"), f"add_{name}")(commands, argv[given + 1 :])
        else:
            commands.add_parser(name, help=text)
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
