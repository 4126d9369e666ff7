"""
A sandbox for untrusted code: what a process may still do once it runs a submission. Little, and less where Linux helps.

Knows only the standard library: the process that runs submissions loads it by its path.
"""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

HIDDEN = ("sb3_ppo_edu", "stable_baselines3", "sb3_contrib", "rl_zoo3", "__editable__")
"""How the names of what is installed begin that has PPO ready made: answers are graded without it."""

OPEN_FILES = 64
"""That a submission may have at a time."""

# Linux's numbers, the same on all its architectures (include/uapi/linux/landlock.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_LIST = 0b1000
_READ = 0b0101 | _LIST  # execute, read a file, list a folder
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
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def _address_space() -> int:
    """Measure how much address space is in use; libraries reserve far more of it than memory."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 << 30


def refuse_sockets() -> None:
    """Refuse sockets inside this Python: a courtesy where Linux does not help."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError("submissions are graded without network")

    # A class is replaced by a function, which mypy refuses: nothing of a submission is to open a connection.
    socket.socket = refuse  # type: ignore[assignment,misc]
    socket.create_connection = refuse
    socket.getaddrinfo = refuse


def drop_capabilities() -> None:
    """Give up what root may do beyond others, such as raising its own limits. It still owns root's files."""
    if sys.platform.startswith("linux"):
        version_and_self = (ctypes.c_uint32 * 2)(0x20080522, 0)
        ctypes.CDLL(None).capset(version_and_self, (ctypes.c_uint32 * 6)())


def end_with_parent() -> None:
    """Have this process killed as soon as the one that started it has ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def readable_places(package: Path) -> Iterator[tuple[str, int]]:
    """
    List what a submission may read: Python, libraries, and what is installed but for the package and what it is built on.

    Nothing of other processes in /proc, which show their command lines there.

    :param package: folder of the package, wherever it is installed
    :return: paths with Landlock's rights below them; those that do not exist are passed over
    """
    installed = {Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")}
    standard = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    libraries = {
        Path(path) for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", f"{sys.base_prefix}/lib")
    }
    for place in sorted(installed | standard | libraries):
        yield str(place), _LIST
        # Below the folders of libraries there may be other Pythons, with who knows what.
        unseen = HIDDEN if place in installed else ("site-packages", "dist-packages") if place in standard else ("python",)
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            inside = package.is_relative_to(entry.resolve())
            if not inside and entry.suffix != ".pth" and not entry.name.lower().startswith(unseen):
                yield str(entry), _READ
    for name in ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom", "/dev/zero"):
        yield name, _READ
    for name in ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"):
        yield name, _READ
    yield "/dev/null", _READ | _WRITE_FILE


def file_rules(places: Iterable[tuple[str, int]]) -> int | None:
    """
    Prepare a process for reading nothing but some places, and writing nothing (Landlock).

    :param places: paths with the rights below them
    :return: for :func:`confine_files`, or None where this system cannot do that
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return None
    everything = (1 << _FILE_RIGHTS_BY_VERSION.get(version, _FILE_RIGHTS)) - 1
    rules = _Ruleset(everything, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return None
    for path, rights in places:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = _PathBeneath(rights if os.path.isdir(path) else rights & ~_LIST, parent)
        failed = libc.syscall(_ADD_RULE, ruleset, ctypes.c_uint32(1), ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(parent)
        if failed:
            return None
    return int(ruleset)


def confine_files(rules: int) -> bool:
    """
    Let this process see no more files than the rules allow, and none of the processes outside of it.

    :param rules: from :func:`file_rules`; closed
    :return: whether that was possible
    """
    libc = ctypes.CDLL(None, use_errno=True)
    confined = not libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) and not libc.syscall(_RESTRICT_SELF, rules, ctypes.c_uint32(0))
    os.close(rules)
    return confined


def holes(secret: Path) -> list[str]:
    """
    Try in a confined process what a submission must not do.

    :param secret: a file that it must not read
    :return: what it can do, in words
    """
    attempts: dict[str, Callable[[], object]] = {
        "read the reference solutions, and other files of yours": secret.read_bytes,
        "write files": lambda: Path("written").touch(),
        "see the command lines of other processes": lambda: os.listdir("/proc"),
        "reach the network": _socket.socket,
        "start processes, and signal others": _start_process,
    }
    return [what for what, attempt in attempts.items() if _succeeds(attempt)]


def _succeeds(attempt: Callable[[], object]) -> bool:
    """Tell whether something is possible here."""
    try:
        attempt()
    except OSError:
        return False
    return True


def _start_process() -> None:
    """Start a process that ends at once."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
