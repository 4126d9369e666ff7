"""One process at a time trains in a run's folder: an operating system's lock, which a process that has died does not hold."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

LOCK_FILE = ".lock"
"""What is written in it tells people who holds the lock; the lock itself is the system's."""


class RunLock:
    """
    A run's folder in which this process trains, and no other until :meth:`release` or the end of the process.

    :param folder: of the run, which exists
    :param take_over: whether a lock is taken that a process on another host has left: this host can't see whether it lives
    :param starting: whether nothing is there yet that would be missed, until :meth:`note_training`
    :raises ValueError: if another process has it; nothing is changed then
    """

    def __init__(self, folder: Path, take_over: bool = False, starting: bool = False) -> None:
        self.folder = folder
        try:
            file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise ValueError(
                f"run folder {folder}: its {LOCK_FILE} can't be opened ({error.strerror}); expected a folder to write into"
            ) from error
        # The lock of a file that its holder has removed since it was opened keeps nobody out.
        free = _lock(file) and _is_at(file, folder / LOCK_FILE)
        holder = _holder(folder)
        if free and starting and holder.get("trained", False) is not False:
            os.close(file)
            raise ValueError(f"run folder {folder}: another process has begun to train in it; choose another --name")
        elsewhere = holder.get("host", socket.gethostname()) != socket.gethostname()
        if not free or (elsewhere and not take_over):
            os.close(file)
            raise ValueError(
                f"run folder {folder}: found process {holder.get('process')} on host {holder.get('host')} training in it "
                f"since {holder.get('since')}; expected nobody: "
                + ("wait until it has ended, or stop it" if not free else "if it has ended, add --take-over")
            )
        self._file: int | None = file
        self._write(trained=not starting)

    def note_training(self) -> None:
        """Write down that the first step is done, so that the folder is missed from here on."""
        self._write(trained=True)

    def _write(self, trained: bool) -> None:
        """Write who holds the lock."""
        if self._file is None:
            return
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": since, "trained": trained}
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, json.dumps(holder).encode())

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._file is not None:
            with suppress(OSError):  # Windows removes no open file; one that is left and not held keeps nobody out
                (self.folder / LOCK_FILE).unlink()
            os.close(self._file)
            self._file = None


def killed_while_starting(folder: Path) -> bool:
    """
    Tell whether a folder was left by a training that was killed before its first step, so that nothing in it is missed.

    :param folder: that exists
    :return: whether it has the lock of such a training, which nobody holds any more
    """
    if folder.is_symlink() or not folder.is_dir() or _holder(folder).get("trained") is not False:
        return False
    try:
        file = os.open(folder / LOCK_FILE, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    free = _lock(file)
    os.close(file)
    return free


def _holder(folder: Path) -> dict[str, Any]:
    """Read who has written into the lock's file; nobody, where it can't be read."""
    path = folder / LOCK_FILE
    try:
        found = json.loads(path.read_bytes()[:4096]) if path.is_file() and not path.is_symlink() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_at(file: int, path: Path) -> bool:
    """Tell whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _lock(file: int) -> bool:
    """Take the system's lock on a file; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # Beyond what is written, which others want to read.
            os.lseek(file, 1 << 20, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
