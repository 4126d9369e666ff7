"""Exit codes, and the refusal of bad input, that all commands share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

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
