"""
The grader's end of the sandbox: starts :mod:`sb3_ppo_edu.course.worker`, hands it requests, and waits, but not for ever.

Whatever comes back was written by a process that runs a stranger's code: it is read as JSON of a limited size, and each field
that is used is checked by whoever uses it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
MOST_BYTES = 4 << 20
"""Of an answer to one request."""
TAIL = 2000
"""Characters of what a submission printed that are kept."""
CLOSING_SECONDS = 30.0
"""For ending a process that is to be killed."""


@dataclass(frozen=True)
class Limits:
    """
    What a submission may use.

    :param wall_seconds: for each exercise
    :param cpu_seconds: of processor time for each exercise
    :param memory: bytes for each exercise, beyond Python and torch themselves
    :param output: bytes that an exercise may print
    :param start_seconds: for starting Python and torch
    """

    wall_seconds: float = 15.0
    cpu_seconds: int = 10
    memory: int = 1 << 30
    output: int = 1 << 20
    start_seconds: float = 120.0


class Sandbox:
    """
    One worker. Requests come one after the other; for more at a time there are more of these.

    :param limits: of each request
    :raises RuntimeError: if the worker does not start
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._home = tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True)
        self._closed = False
        self.holes: list[str] = []
        self._start()

    def __enter__(self) -> Sandbox:
        """Use it in a ``with`` statement."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close it."""
        self.close()

    def _start(self) -> None:
        """Start the worker, and let it find out what cannot be confined here."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        home = self._home.name
        # Nothing of the grader's own environment, and no argument that says anything: both can be read in /proc.
        environment = {
            **{"HOME": home, "TMPDIR": home, "MPLCONFIGDIR": home, "MPLBACKEND": "Agg", "PATH": os.defpath, "LANG": "C.UTF-8"},
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(WORKER)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=home,
                env=environment,
                start_new_session=True,
            )
        try:
            found = self._ask({"do": "probe"}, self.limits.start_seconds).get("holes")
        except (ConnectionError, TimeoutError):
            found = None
        if not isinstance(found, list):
            self.close()
            raise RuntimeError(f"{sys.executable} -I {WORKER}: the process that runs submissions did not start")
        self.holes = [str(hole) for hole in found]

    def close(self) -> None:
        """End the worker, and what it has started."""
        self._closed = True
        self._stop()
        self._home.cleanup()

    def _stop(self) -> None:
        """End the worker."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # it kills its child then, and ends
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSING_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._control.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """
        Have one request answered by a process of its own.

        :param request: see :class:`sb3_ppo_edu.course.worker.Worker`
        :return: what came of it; "status" is "too long" or "killed" if nothing did, and "printed" the end of what it printed
        :raises OSError: if this was closed meanwhile
        """
        for _ in range(2):
            try:
                return self._ask(request, self.limits.wall_seconds)
            except (ConnectionError, TimeoutError):
                # The worker was killed: somebody has run out of memory. It may have been another one.
                if self._closed:
                    raise
                self._stop()
                self._start()
        return {"status": "killed", "printed": ""}

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """
        Hand over a request and take its answer.

        :raises ConnectionError: if the worker has ended
        """
        limits = {"cpu_seconds": self.limits.cpu_seconds, "memory": self.limits.memory, "file_size": self.limits.output}
        reading, writing = os.pipe()
        try:
            with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as printed:
                asked.write(json.dumps({**request, "limits": limits}).encode())
                asked.seek(0)
                try:
                    socket.send_fds(self._control, [b"?"], [asked.fileno(), writing, printed.fileno()])
                finally:
                    os.close(writing)
                text = _read(reading, time.monotonic() + seconds)
                ended = self._end()
                size = printed.seek(0, os.SEEK_END)
                printed.seek(max(size - TAIL, 0))
                tail = printed.read(TAIL).decode(errors="replace")
        finally:
            os.close(reading)
        result: Any = {"status": "too long"}
        if text is not None and not (os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGXCPU):
            try:
                result = json.loads(text)
            except (ValueError, RecursionError):
                result = None
        return {**(result if isinstance(result, dict) else {"status": "killed"}), "printed": tail}

    def _end(self) -> int:
        """Have the child killed; return how it had ended."""
        self._control.settimeout(CLOSING_SECONDS)
        self._control.sendall(b".")
        ended = b""
        while len(ended) < 4:
            part = self._control.recv(4 - len(ended))
            if not part:
                raise ConnectionError(f"{WORKER.name} has ended")
            ended += part
        self._control.settimeout(None)
        return int.from_bytes(ended, "little")


class Sandboxes:
    """
    Several workers, of which the first is there at once and the others when they are needed.

    :param most: at a time
    :param limits: of each request
    """

    def __init__(self, most: int, limits: Limits | None = None) -> None:
        self._limits = limits
        self._all = [Sandbox(limits)]
        self.holes = self._all[0].holes
        self._free: SimpleQueue[Sandbox | None] = SimpleQueue()
        for free in (self._all[0], *[None] * (most - 1)):
            self._free.put(free)

    def __enter__(self) -> Sandboxes:
        """Use them in a ``with`` statement."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close them."""
        self.close()

    @contextlib.contextmanager
    def one(self) -> Iterator[Sandbox]:
        """Lend one."""
        lent = self._free.get()
        try:
            if lent is None:
                lent = Sandbox(self._limits)
                self._all.append(lent)
            yield lent
        finally:
            self._free.put(lent)

    def close(self) -> None:
        """Close all."""
        for sandbox in self._all:
            sandbox.close()


def _read(descriptor: int, until: float) -> bytes | None:
    """Read all that a child writes, but not for ever and not without end; None if its time was up."""
    parts, size = [], 0
    while size <= MOST_BYTES:
        ready, _, _ = select.select([descriptor], [], [], max(until - time.monotonic(), 0.0))
        if not ready:
            return None
        part = os.read(descriptor, 1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
