"""
What a process may no longer ask Linux for: other processes, sockets, and other files' rights. There is no way back (seccomp).

Knows only the standard library: the process that runs submissions loads it by its path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# include/uapi/linux/audit.h
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
REFUSED: dict[str, tuple[int, int | None]] = {
    # who starts, hears of, stops, slows or looks into other processes
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "perf_event_open": (298, 241),
    # a network, and a ring of requests that passes by this list
    "socket": (41, 198), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # what outlives the process, or is shared with others
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219),
    # rights, owners and times of files, which Landlock leaves alone
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # another view of the machine, and its inside
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fspick": (433, 433),
    "mount_setattr": (442, 442), "bpf": (321, 280), "userfaultfd": (323, 282),
}  # fmt: skip
"""Name of a system call -> its number on x86_64 and on aarch64 (include/uapi/asm-generic/unistd.h)."""
_CLONE, _CLONE3, _CLONE_THREAD = (56, 220), 435, 0x10000
_KILL, _TGKILL, _PRLIMIT = (62, 129), (234, 131), (302, 261)
_FCNTL, _IOCTL = (72, 25), (16, 29)
_PRCTL, _DEATH_SIGNAL = (157, 167), 1
_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a file that sends signals to somebody
_TERMINAL = (0x5412, 0x8901, 0x8902)  # TIOCSTI, FIOSETOWN, SIOCSPGRP
_UNKNOWN = 452
"""Numbers from here on are younger than this list, and than most libraries, which do without."""

# include/uapi/linux/bpf_common.h: load a word, jump if equal, if at least, if a bit is set, return
_LOAD, _EQUAL, _AT_LEAST, _BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def confine_calls() -> bool:
    """
    Refuse this process other processes, sockets, and what else a function of numbers has no use for. Threads it may have.

    :return: whether this system can do that
    """
    if not sys.platform.startswith("linux") or platform.machine() not in _ARCHITECTURES or struct.calcsize("P") != 8:
        return False
    column, architecture = _ARCHITECTURES[platform.machine()]
    program = b"".join(struct.pack("=HBBI", *line) for line in _lines(column, architecture, os.getpid()))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    filled = _Program(len(program) // 8, program)
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(filled), 0, 0) == 0)


def _lines(column: int, architecture: int, own: int) -> list[tuple[int, int, int, int]]:
    """List the filter's instructions: operation, lines to skip if true, lines to skip if not, constant."""
    refuse, lacking = (_RETURN, 0, 0, _ERROR | errno.EPERM), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)
    allow, number = (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _NUMBER)
    lines = [
        # Another architecture's calls have other numbers.
        *((_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL_PROCESS), number),
        *((_AT_LEAST, 0, 1, _UNKNOWN), lacking, (_EQUAL, 0, 1, _CLONE3), lacking),
    ]
    for numbers in REFUSED.values():
        if numbers[column] is not None:
            lines += [(_EQUAL, 0, 1, numbers[column] or 0), refuse]
    # A new thread is allowed, a new process is not.
    lines += [(_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_BIT, 0, 1, _CLONE_THREAD), allow, refuse]
    for numbers, argument, values, wanted in (
        (_KILL, 0, (own,), True),
        (_TGKILL, 0, (own,), True),
        (_PRLIMIT, 0, (0, own), True),
        (_FCNTL, 1, _OWNERS, False),
        (_IOCTL, 1, _TERMINAL, False),
        (_PRCTL, 0, (_DEATH_SIGNAL,), False),
    ):
        met, otherwise = (allow, refuse) if wanted else (refuse, allow)
        lines += [(_EQUAL, 0, 2 + 2 * len(values), numbers[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * argument)]
        lines += [line for value in values for line in ((_EQUAL, 0, 1, value), met)]
        lines += [otherwise]
    return [*lines, allow]
