"""Work done in a process of its own: a function's name and arguments as JSON go in, what it returns comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

WORKER = "sb3_ppo_edu.lab.worker"
"""The module that the process runs."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment variables that libraries read when they are imported."""


class ProcessError(RuntimeError):
    """A process has failed; the message is its exit code and the end of what it complained about."""


def call_in_process(
    function: Callable[..., str],
    arguments: Mapping[str, Any],
    environment: Mapping[str, str] = ONE_THREAD,
    running: set[subprocess.Popen[str]] | None = None,
) -> str:
    """
    Call a function in a fresh process with one thread.

    :param function: of a module, which the process imports; it gives text of one line
    :param arguments: by name, as JSON can hold them
    :param environment: variables that are added to those of this process
    :param running: processes that are alive, for whoever has to end them
    :return: what the function gave
    :raises ProcessError: if the process fails
    """
    running = set() if running is None else running
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends its children itself
        )
        running.add(process)
        assert process.stdin is not None and process.stdout is not None
        try:
            # Left early, by Ctrl-C, it closes the input, and the child ends.
            with process:
                # Not communicate(): it would close the input, by which the child knows that we live.
                process.stdin.write(json.dumps([f"{function.__module__}:{function.__name__}", arguments]) + "\n")
                process.stdin.flush()
                lines = process.stdout.read().splitlines()
                code = process.wait()
        except BrokenPipeError:
            lines, code = [], process.wait()
        finally:
            running.discard(process)
        complaints.seek(0)
        tail = "\n".join(complaints.read().splitlines()[-5:])
    if code != 0 or not lines:
        raise ProcessError(f"exit code {code}: {tail}")
    return lines[-1]
