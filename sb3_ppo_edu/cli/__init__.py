"""The command line: ``sb3-edu train``, ``evaluate``, ``enjoy`` and others. It parses, calls and prints."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from sb3_ppo_edu.cli.refusals import BAD_INPUT, DONE, FAILED, INTERRUPTED, RefusedError
from sb3_ppo_edu.cli.streams import DISK, describe_disk, standard_streams
from sb3_ppo_edu.serialization.extras import MissingExtraError
from sb3_ppo_edu.serialization.text import did_you_mean, printable
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
        try:
            try:
                return _run_command(argv)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in DISK:
                raise
            print(f"sb3-edu: error: {describe_disk(error)}", file=sys.stderr)
            return FAILED


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
    arguments: argparse.Namespace
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unknown argument {unknown[0]!r}")
    arguments.argv, arguments.parse = list(argv), parse
    return arguments


ELSEWHERE = {
    **dict.fromkeys(("--n-timesteps", "--total-timesteps", "--timesteps", "--total-steps", "-n"), "--steps"),
    **{"--lr": "--learning-rate", "--environment": "--env", "-e": "--env", "-a": "--algo", "--num-envs": "--n-envs"},
    **{"-V": "--version", "version": "--version", "help": "--help"},
}
"""What others call it, and what it would be taken for by its spelling."""
LEAST = 4
"""Characters that a flag has to have for the beginning of one to be taken for it."""


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no flag cut short, keeps the lines of texts, and says in errors what was meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse a flag that there is not, before one that is missing, which it may have been meant for."""
        words: list[str] = list(args)
        if self._subparsers is not None:  # the rest is the command's
            words = words[: next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))]
        flags = [word.partition("=")[0] for word in words if re.match("--?[A-Za-z]", word) and "-" in self.prefix_chars]
        known = self._option_string_actions
        unknown = [flag for flag in flags if flag not in known]
        if unknown and {"-h", "--help", "--help-all"}.isdisjoint(known.keys() & {*flags}):
            self.error(f"unknown argument {unknown[0]!r}{self._meant(unknown[0], [*known])}")
        return super().parse_known_args(args, namespace)

    def _meant(self, flag: str, known: Sequence[str]) -> str:
        """Say which flag may have been meant by one that there is not."""
        longer = sorted((one for one in known if one.startswith(flag) and len(flag) > LEAST), key=len)
        for meant in (ELSEWHERE.get(flag), *longer):
            if meant in known:
                return f" (did you mean {meant!r}?)"
        behind = f"; flags stand behind a command, as in sb3-edu train {flag} …"
        return did_you_mean(flag, known) or (behind if self._subparsers is not None else "")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of an argument's choices, and name the nearest."""
        if action.choices is not None and value not in action.choices:
            choices = [str(one) for one in action.choices]
            near = f" (did you mean {ELSEWHERE[value]!r}?)" if value in ELSEWHERE else did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"found {str(value)!r}{near}, expected one of {', '.join(choices)}")

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
