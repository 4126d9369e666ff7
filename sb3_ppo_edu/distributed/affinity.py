"""Processor affinity and thread scheduling: the processes of one machine must not take each other's processors (Linux)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def thread_names() -> dict[int, str]:
    """
    List this process's threads, where the system tells (Linux).

    :return: name by thread id
    """
    found = {}
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # it may just have ended
            found[int(task.name)] = (task / "comm").read_text(encoding="utf-8").strip()
    return found


def schedule_gloo_as_batch() -> None:
    """
    Keep gloo's network thread from interrupting the threads that it works for.

    It takes what arrives; where another thread holds the connection's lock, it asks again and again instead of sleeping. Woken
    while the holder is at work on the same core, it takes the core from it and spins until its time slice is over, for
    milliseconds at every collective operation. Under ``SCHED_BATCH`` a thread that wakes up waits for its turn.
    """
    for number, name in thread_names().items():
        if name.startswith("gloo"):
            with suppress(OSError):  # some sandboxes refuse; then collective operations are only slower
                os.sched_setscheduler(number, os.SCHED_BATCH, os.sched_param(0))


def available_cpus() -> list[int]:
    """
    List the processors that this process may use, where the system tells (Linux).

    :return: their numbers, in ascending order
    """
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def set_own_affinity(affinities: Sequence[str], rank: int) -> None:
    """
    Pin this process, with all its threads, to its share of the machine's processors.

    Processes that wake each other all the time are drawn onto one processor by the system, while another stays idle.

    :param affinities: host and processors of each process
    :param rank: of this process
    """
    own = share_of_cpus(affinities, rank, available_cpus())
    for number in thread_names():
        with suppress(OSError):
            os.sched_setaffinity(number, own)


def share_of_cpus(affinities: Sequence[str], rank: int, available: Sequence[int]) -> Sequence[int]:
    """
    Divide a machine's processors among its processes.

    :param affinities: host and processors of each process
    :param rank: of the process whose share is wanted
    :param available: the processors that it may use
    :return: those that it should use: all where there are fewer processors than processes, or where they have been divided
        before (``taskset``, torchrun's ``--numa-binding``)
    """
    sharing = [other for other, affinity in enumerate(affinities) if affinity == affinities[rank]]
    if len(sharing) > len(available):
        return available
    place, size = sharing.index(rank), len(sharing)
    return available[len(available) * place // size : len(available) * (place + 1) // size]
