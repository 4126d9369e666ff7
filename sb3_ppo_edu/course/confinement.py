"""
A sandbox for untrusted code: what a process may still do once it runs a submission. Little, and less where Linux helps.

Knows only the standard library: the process that runs submissions loads it by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# Linux's numbers, the same on all its architectures (include/uapi/linux/landlock.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS = 38
_READ = 0b1101  # execute, read a file, list a folder
_WRITE_FILE = 0b10
_FILE_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_RIGHTS = 16
_TCP = 0b11  # bind, connect: from version 4 on
_SCOPES = 0b11  # abstract sockets, signals: from version 6 on


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``."""

    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def limit_resources(cpu_seconds: int, memory: int, file_size: int) -> None:
    """
    Limit what this process and its children may use. There is no way back.

    :param cpu_seconds: of processor time, from now on
    :param memory: bytes beyond what is in use now, where the system limits it (Linux)
    :param file_size: bytes that any file may have, standard output included
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit that it would keep
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _address_space() -> int:
    """Measure how much address space is in use; libraries reserve far more of it than memory."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 << 30


def refuse_sockets() -> None:
    """Refuse sockets inside this Python: a courtesy where Linux's namespaces are not to be had."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError("submissions are graded without network")

    # A class is replaced by a function, which mypy refuses: nothing of a submission is to open a connection.
    socket.socket = refuse  # type: ignore[assignment,misc]
    socket.create_connection = refuse
    socket.getaddrinfo = refuse


def confine_files(writable: str, readable: Sequence[str]) -> bool:
    """
    Let this process and its children write in one folder only, and read only there and where Python lives (Landlock).

    :param writable: the folder
    :param readable: further folders to read; those that do not exist are passed over
    :return: whether this Linux can do that
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    everything = (1 << _FILE_RIGHTS_BY_VERSION.get(version, _FILE_RIGHTS)) - 1
    rules = _Ruleset(everything, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    allowed = [(path, _READ) for path in readable] + [("/dev/null", _WRITE_FILE | 0b100), (writable, everything)]
    for path, rights in allowed:
        if not os.path.exists(path):
            continue
        if not os.path.isdir(path):
            rights &= 0b110 | 1 << 14 & everything
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _PathBeneath(rights, parent)
        failed = libc.syscall(_ADD_RULE, ruleset, ctypes.c_uint32(1), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(parent)
        if failed:
            return False
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    confined = bool(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0)
    os.close(ruleset)
    return confined
