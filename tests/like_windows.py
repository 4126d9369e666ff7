"""
Windows, as far as Linux can play it: :func:`become` takes from this process what Python has not there.

What Windows lacks goes (functions of ``os`` and ``signal``, modules, signals), files that are open are neither renamed nor
deleted, nor are folders with one in them, folders cannot be opened, and ``msvcrt`` locks files. Libraries of others are
imported before: theirs for Windows are other ones.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = (
    *("gymnasium", "matplotlib.pyplot", "PIL.Image", "rich.progress", "sb3_contrib", "stable_baselines3", "tqdm", "yaml"),
    *("torch.distributed.nn.functional", "torch.utils.tensorboard", "torch._dynamo"),
)
MISSING_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
KEPT_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIGKILL"}
"""SIGKILL and ``waitpid`` are for ``subprocess``, which is Linux's."""
MISSING_IN_OS = """
    chown chroot confstr ctermid fchdir fchmod fchown fork forkpty fstatvfs getegid geteuid getgid getgroups getloadavg getpgid
    getpgrp getpriority getresgid getresuid getsid getuid initgroups killpg lchown lockf mkfifo mknod nice openpty pathconf
    pidfd_open pipe2 posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv register_at_fork
    sched_yield sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity sched_setparam sched_setscheduler
    sendfile setegid seteuid setgid setgroups setpgid setpriority setsid setuid statvfs sync sysconf tcgetpgrp tcsetpgrp
    ttyname uname wait wait3 wait4 waitid writev
    O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC SCHED_BATCH
""".split()  # noqa: SIM905


def opened() -> set[Path]:
    """List the files that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(Path(os.readlink(link)))
        except OSError:
            continue  # the one of the list itself
    return found


def refusing_open_files(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what renames or deletes: it refuses files that are open, and folders with one in them."""

    def checked(*paths: Any, **more: Any) -> Any:
        absolute = [Path(os.fsdecode(path)).resolve().absolute() for path in paths]
        for file in opened():
            if any(file == path or path in file.parents for path in absolute):
                raise PermissionError(13, "The process cannot access the file because it is being used", str(paths[0]))
        return function(*paths, **more)

    return checked


def refusing_folders(function: Callable[..., int]) -> Callable[..., int]:
    """Wrap ``os.open``: it refuses folders."""

    def checked(path: Any, *more: Any, **named: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return function(path, *more, **named)

    return checked


def locks() -> ModuleType:
    """Make the module that locks files there."""
    import fcntl

    made: Any = ModuleType("msvcrt")
    made.LK_NBLCK = 2
    made.locking = lambda file, mode, size: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    found: ModuleType = made
    return found


def become() -> None:
    """Make this process one of Windows. There is no way back."""
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.modules["msvcrt"] = locks()
    for name in MISSING_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in MISSING_IN_OS:
        if hasattr(os, name):
            delattr(os, name)
    for name in dir(signal):
        if name.startswith("SIG") and not name.startswith("SIG_") and name not in KEPT_SIGNALS:
            delattr(signal, name)
    del socket.AF_UNIX
    for name in ("rename", "replace", "unlink", "remove"):
        setattr(os, name, refusing_open_files(getattr(os, name)))
    os.open = refusing_folders(os.open)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    sys.platform = "win32"
