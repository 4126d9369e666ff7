"""The process group of a training: rendezvous, collective operations, and which process is missing when one fails."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch as th
import torch.distributed as dist

# Before any process group: its functions keep the group of the moment they are defined in, and with it gloo's threads. Torch
# loads it by itself when it builds an optimizer; threads that outlive the interpreter abort the process now and then.
import torch.distributed.nn.functional
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from sb3_ppo_edu.distributed.affinity import available_cpus, schedule_gloo_as_batch, set_own_affinity

RENDEZVOUS_SECONDS = 120.0
"""How long the processes wait for each other at the start."""
TIMEOUT_SECONDS = 1800.0
"""How long a collective operation may take: the other processes wait while rank 0 evaluates."""


class LostProcessError(RuntimeError):
    """Another process did not arrive, died or hangs; the message says which, as far as that can be known."""


class ProcessGroup:
    """
    The processes of a training, as one of them sees them.

    :param store: torch's key-value store, which all processes read and write
    :param rank: number of this process, from 0
    :param size: number of processes
    :param timeout: seconds that a collective operation may take
    :param addresses: "host pid" of each process, in the order of their ranks
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float, addresses: Sequence[str] = ()) -> None:
        self.store, self.rank, self.size, self.timeout, self.addresses = store, rank, size, timeout, addresses
        self._progress = 0

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes logs, evaluations and what else there is one of."""
        return self.rank == 0

    def record_progress(self) -> None:
        """Count a synchronization point that this process has reached, so that a message can name those that are behind."""
        self._progress += 1
        try:
            self.store.set(f"progress/{self.rank}", str(self._progress))
        except RuntimeError as error:
            raise self._lost(error) from error

    def all_reduce(self, tensor: th.Tensor) -> th.Tensor:
        """
        Sum a tensor over all processes.

        :param tensor: changed in place, to the same bits in every process
        :return: the tensor
        :raises LostProcessError: if a process is gone
        """
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise self._lost(error) from error
        return tensor

    def all_gather(self, value: Any) -> list[Any]:
        """
        Give every process the value of each process.

        :param value: anything that can be pickled
        :return: the values in the order of the ranks
        :raises LostProcessError: if a process is gone
        """
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:
            raise self._lost(error) from error
        return found

    def broadcast(self, tensors: Sequence[th.Tensor]) -> None:
        """
        Copy tensors from rank 0 to every process.

        :param tensors: changed in place
        :raises LostProcessError: if a process is gone
        """
        for tensor in tensors:
            try:
                dist.broadcast(tensor, src=0)
            except RuntimeError as error:
                raise self._lost(error) from error

    def _lost(self, error: Exception) -> LostProcessError:
        """Find out which process is missing: one of this machine that has ended, or those that are behind."""
        time.sleep(0.5)  # a process that is being killed is still there for a moment
        others = [rank for rank in range(self.size) if rank != self.rank]
        ended = [rank for rank in others if self._has_ended(rank)]
        if ended:
            what = f"{format_ranks(ended)} ended"
        elif behind := [rank for rank in others if self._progress_of(rank) < self._progress]:
            what = f"{format_ranks(behind)} did not reach synchronization point {self._progress} within {self.timeout:.0f} s"
        else:
            what = f"one of the others ({format_ranks(others)}) is out of reach"
        return LostProcessError(
            f"rank {self.rank} of {self.size}: {what} ({str(error).splitlines()[0]}). Training ends here; with checkpoints, "
            "'resume' goes on from the last that all processes have, and so does torchrun --max-restarts"
        )

    def _progress_of(self, rank: int) -> float:
        """Read how many synchronization points another process has reached; infinity if the store is gone."""
        try:
            return int(self.store.get(f"progress/{rank}")) if self.store.check([f"progress/{rank}"]) else 0
        except RuntimeError:
            return math.inf

    def _has_ended(self, rank: int) -> bool:
        """Tell whether a process of this machine has ended."""
        host, _, number = self.addresses[rank].rpartition(" ")
        if host != socket.gethostname():
            return False
        try:
            state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            return Path("/proc/self").exists()
        return state.rpartition(")")[2].split()[0] in "ZX"


Group = ProcessGroup
"""The first edition's name."""


def format_ranks(ranks: Sequence[int]) -> str:
    """
    Name processes in a message.

    :param ranks: of the processes
    :return: such as "rank 1" or "ranks 1, 2"
    """
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def launched() -> bool:
    """Tell whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def restarts() -> int:
    """
    Count how often torchrun has started the processes anew.

    :return: 0 at first
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join(rendezvous_timeout: float = RENDEZVOUS_SECONDS, timeout: float = TIMEOUT_SECONDS) -> ProcessGroup:
    """
    Initialize the process group that torchrun's environment variables describe.

    :param rendezvous_timeout: seconds to wait for all processes to arrive
    :param timeout: seconds that each later collective operation may take
    :return: the process group
    :raises LostProcessError: naming those that did not arrive in time
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    where = f"{host}:{port}"
    # torchrun's own agent hosts the store, if there is one; so it outlives every process.
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    limit = timedelta(seconds=rendezvous_timeout)
    libuv = sys.platform != "win32"  # torch for Windows is built without
    try:
        store: Any = TCPStore(host, port, size, hosts_store, limit, wait_for_workers=False, use_libuv=libuv)
    except (dist.DistError, RuntimeError) as error:
        raise LostProcessError(
            f"rank {rank} of {size}: found nobody at {where} within {rendezvous_timeout:.0f} s, "
            f"where rank 0 should be ({error})"
        ) from error
    store = PrefixStore(f"sb3_ppo_edu/{restarts()}", store)
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
    store.set(f"cpus/{rank}", f"{socket.gethostname()} {available_cpus()}")
    end = time.monotonic() + rendezvous_timeout
    while missing := [other for other in range(size) if not store.check([f"process/{other}"])]:
        if time.monotonic() > end:
            raise LostProcessError(
                f"rank {rank} of {size}: {format_ranks(missing)} did not arrive at {where} within {rendezvous_timeout:.0f} s; "
                "expected torchrun with the same --nnodes and --nproc-per-node on every machine"
            )
        time.sleep(0.05)
    # Tensors on the CPU go by gloo in either case.
    backend = "cpu:gloo,cuda:nccl" if th.cuda.is_available() else "gloo"
    limit = timedelta(seconds=timeout)
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=limit)
    schedule_gloo_as_batch()
    addresses = [store.get(f"process/{other}").decode() for other in range(size)]
    set_own_affinity([store.get(f"cpus/{other}").decode() for other in range(size)], rank)
    return ProcessGroup(store, rank, size, timeout, addresses)


def leave() -> None:
    """Destroy the process group."""
    dist.destroy_process_group()
