"""What the commands have in common: exit codes, refusals, and kinds of arguments."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium as gym

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
    except (ValueError, AssertionError, OSError, gym.error.Error) as error:
        raise RefusedError(str(error)) from error


def positive(text: str) -> int:
    """
    Read a positive whole number; ``1e5`` and ``50_000`` will do.

    :param text: what was given
    :return: the number
    :raises argparse.ArgumentTypeError: if it is anything else
    """
    try:
        value = float(text)
        if value < 1 or not value.is_integer():
            raise ValueError
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive whole number") from None
    return int(value)
