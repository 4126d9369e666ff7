"""Exit codes, help, and the refusal of bad input, that all commands share."""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_ppo_edu.serialization.text import sentence

DONE, FAILED, BAD_INPUT = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a program that Ctrl-C ended, as shells have it."""


class RefusedError(Exception):
    """The user asked for something that cannot be done; the message says what, where, and what to do instead."""


@contextmanager
def refusing_bad_input() -> Iterator[None]:
    """
    Turn what libraries raise on bad values into a refusal. Only for the time before training: later it would hide defects.

    :raises RefusedError: with the message of the error
    """
    try:
        yield
    except Exception as error:
        import gymnasium as gym  # here: who only wants to read help shall not wait for it

        if not isinstance(error, (ValueError, AssertionError, OSError, gym.error.Error)):
            raise
        raise RefusedError(sentence(str(error))) from error


def refuse_file(flag: str, path: Path) -> None:
    """
    Refuse to write where something is, or no folder, or one in which no file can be made.

    :param flag: that names the file
    :param path: of the file
    :raises ValueError: naming both
    """
    if path.exists() or path.is_symlink():
        raise ValueError(f"{flag} {path}: it exists, and nothing that exists is overwritten; expected a new file")
    if not path.parent.is_dir():
        raise ValueError(f"{flag} {path}: there is no folder {path.parent}; expected a file in a folder that is there")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        told = error.strerror or error
        raise ValueError(f"{flag} {path}: no file can be made there ({told}); expected one in a folder of yours") from error


def print_help(arguments: argparse.Namespace) -> int:
    """Print what a command is for and what there is to choose from; return the exit code."""
    arguments.parser.print_help()
    return DONE
