r"""
Data-parallel training: several processes, each with its own environments, and one policy.

``torchrun --nproc-per-node 2 -m sb3_ppo_edu train --env …`` starts the processes, on one machine or several; what is here lets
them train together. The settings are those of the whole: environments and minibatches are shared out, so that N processes do
what one would do with the same settings, only that each draws random numbers of its own.

- **Gradients** are averaged between an engine's ``gradients`` and ``apply``: :math:`\nabla L = \frac1N\sum_r \nabla L_r`, each
  the mean over an equal part of the minibatch. Every process then takes the same step from the same parameters, to the bit.
- **The KL estimate** that decides the stop, and all else that is logged of an update, is averaged with them: so every process
  takes the same number of steps.
- **Advantages** are standardised with the moments of the whole minibatch.
- **VecNormalize's moments** are those of all environments at the end of every rollout. Within a rollout each process goes on
  from there with its own observations, as meeting at every step would cost more than the step.
- **Episode statistics** are of all episodes; steps are counted over all environments.

The first process writes logs and evaluations. Each writes the checkpoints of its own environments. The processes of a machine
share out its processors, see :func:`keep_apart`.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
import torch.distributed as dist

# Before any process group: its functions keep the group of the moment they are defined in, and with it gloo's threads. Torch
# loads it by itself when it builds an optimizer; threads that outlive the interpreter abort the process now and then.
import torch.distributed.nn.functional
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from sb3_ppo_edu.algorithms.update_record import NUMBERS
from sb3_ppo_edu.engines import Engine, EngineWrapper, MinibatchStatistics, NonFiniteUpdateError, UpdateSettings, as_array
from sb3_ppo_edu.functional.objectives import Array

ARRIVAL_SECONDS = 120.0
"""How long the processes wait for each other at the start."""
MEETING_SECONDS = 1800.0
"""How long they wait for each other later: the others wait while the first one evaluates."""


class LostProcessError(RuntimeError):
    """Another process did not arrive, died or hangs; the message says which, as far as that can be known."""


# -- the processes -------------------------------------------------------------------------------------------------------


class Group:
    """
    The processes of a training, as one of them sees them.

    :param store: what all can write into and read from
    :param rank: number of this process, from 0
    :param size: how many there are
    :param timeout: seconds that a process is waited for
    :param where: host and number of each process
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float, where: Sequence[str] = ()) -> None:
        self.store, self.rank, self.size, self.timeout, self.where = store, rank, size, timeout, where
        self._place = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes what there is one of."""
        return self.rank == 0

    def passed(self) -> None:
        """Note that this process has come to the next meeting, for messages about those that have not."""
        self._place += 1
        try:
            self.store.set(f"place/{self.rank}", str(self._place))
        except RuntimeError as error:
            raise self._lost(error) from error

    def sum(self, tensor: th.Tensor) -> th.Tensor:
        """
        Add up a tensor over all processes.

        :param tensor: changed in place, to the same bits everywhere
        :return: the tensor
        :raises LostProcessError: if a process is gone
        """
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise self._lost(error) from error
        return tensor

    def gather(self, thing: Any) -> list[Any]:
        """
        Give every process what each of them has.

        :param thing: anything that can be pickled
        :return: of every process, in order
        :raises LostProcessError: if a process is gone
        """
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, thing)
        except RuntimeError as error:
            raise self._lost(error) from error
        return found

    def copy_from_first(self, tensors: Sequence[th.Tensor]) -> None:
        """
        Make tensors everywhere what they are in the first process.

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
        gone = [rank for rank in others if self._has_ended(rank)]
        if gone:
            what = f"{named(gone)} ended"
        elif behind := [rank for rank in others if self._place_of(rank) < self._place]:
            what = f"{named(behind)} did not come to meeting {self._place} within {self.timeout:.0f} s"
        else:
            what = f"one of the others ({named(others)}) is out of reach"
        return LostProcessError(
            f"rank {self.rank} of {self.size}: {what} ({str(error).splitlines()[0]}). Training ends here; with checkpoints, "
            "'resume' goes on from the last that all processes have, and so does torchrun --max-restarts"
        )

    def _place_of(self, rank: int) -> float:
        """Read how far another process has come, if what keeps that is still there."""
        try:
            return int(self.store.get(f"place/{rank}")) if self.store.check([f"place/{rank}"]) else 0
        except RuntimeError:
            return math.inf

    def _has_ended(self, rank: int) -> bool:
        """Tell whether a process of this machine has ended."""
        host, _, number = self.where[rank].rpartition(" ")
        if host != socket.gethostname():
            return False
        try:
            state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            return Path("/proc/self").exists()
        return state.rpartition(")")[2].split()[0] in "ZX"


def named(ranks: Sequence[int]) -> str:
    """
    Name processes.

    :param ranks: their numbers
    :return: such as "rank 1" or "ranks 1, 2"
    """
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def launched() -> bool:
    """
    Tell whether torchrun has started this process as one of several.

    :return: True if it has
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def restarts() -> int:
    """
    Count how often torchrun has started the processes anew.

    :return: 0 at first
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join(arrival: float = ARRIVAL_SECONDS, meeting: float = MEETING_SECONDS) -> Group:
    """
    Meet the other processes, where torchrun's environment variables say.

    :param arrival: seconds to wait for all to arrive
    :param meeting: seconds to wait for each other later
    :return: the processes
    :raises LostProcessError: naming those that did not arrive in time
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    where = f"{host}:{port}"
    # torchrun's own agent keeps the store, if there is one; so it outlives every process.
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store: Any = TCPStore(host, port, size, keeps, timedelta(seconds=arrival), wait_for_workers=False)
    except (dist.DistError, RuntimeError) as error:
        raise LostProcessError(
            f"rank {rank} of {size}: found nobody at {where} within {arrival:.0f} s, where rank 0 should be ({error})"
        ) from error
    store = PrefixStore(f"sb3_ppo_edu/{restarts()}", store)
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
    store.set(f"cpus/{rank}", f"{socket.gethostname()} {cpus()}")
    end = time.monotonic() + arrival
    while missing := [other for other in range(size) if not store.check([f"process/{other}"])]:
        if time.monotonic() > end:
            raise LostProcessError(
                f"rank {rank} of {size}: {named(missing)} did not arrive at {where} within {arrival:.0f} s; "
                "expected torchrun with the same --nnodes and --nproc-per-node on every machine"
            )
        time.sleep(0.05)
    # What lies on the CPU goes by gloo in either case.
    backend = "cpu:gloo,cuda:nccl" if th.cuda.is_available() else "gloo"
    limit = timedelta(seconds=meeting)
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=limit)
    let_gloo_wait()
    where_all_are = [store.get(f"process/{other}").decode() for other in range(size)]
    keep_apart([store.get(f"cpus/{other}").decode() for other in range(size)], rank)
    return Group(store, rank, size, meeting, where_all_are)


def leave() -> None:
    """Part from the other processes."""
    dist.destroy_process_group()


def threads() -> dict[int, str]:
    """
    List this process's threads, where the system tells (Linux).

    :return: name by number
    """
    found = {}
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # it may just have ended
            found[int(task.name)] = (task / "comm").read_text().strip()
    return found


def let_gloo_wait() -> None:
    """
    Keep gloo's network thread from interrupting those that it works for.

    It takes what arrives; where another thread holds the connection's lock, it asks again and again instead of sleeping. Woken
    while the holder is at work on the same core, it takes the core from it and turns in circles until its time slice is over,
    for milliseconds at a meeting. Under ``SCHED_BATCH`` a thread that wakes up waits for its turn.
    """
    for number, name in threads().items():
        if name.startswith("gloo"):
            with suppress(OSError):  # some sandboxes refuse; then meetings are only slower
                os.sched_setscheduler(number, os.SCHED_BATCH, os.sched_param(0))


def cpus() -> list[int]:
    """
    List the processors that this process may use, where the system tells (Linux).

    :return: their numbers
    """
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def keep_apart(whose: Sequence[str], rank: int) -> None:
    """
    Give each process of a machine processors of its own.

    Processes that wake each other all the time are drawn onto one processor by the system, while another stays idle.

    :param whose: host and processors of each process
    :param rank: which this one is
    """
    own = own_cpus(whose, rank, cpus())
    for number in threads():
        with suppress(OSError):
            os.sched_setaffinity(number, own)


def own_cpus(whose: Sequence[str], rank: int, able: Sequence[int]) -> Sequence[int]:
    """
    Share out processors.

    :param whose: host and processors of each process
    :param rank: which process
    :param able: the processors that it may use
    :return: those that it should use: all where there are fewer processors than processes, or where they have been shared out
        before (``taskset``, torchrun's ``--numa-binding``)
    """
    alike = [other for other, one in enumerate(whose) if one == whose[rank]]
    if len(alike) > len(able):
        return able
    place, size = alike.index(rank), len(alike)
    return able[len(able) * place // size : len(able) * (place + 1) // size]


# -- the update ----------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """
    Number of values, mean and sum of squared deviations, which can be put together.

    :param number: how many values
    :param mean: their mean
    :param squares: sum of their squared deviations from it
    """

    number: float
    mean: float
    squares: float

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """
        Take the moments of numbers.

        :param values: the numbers
        :return: their moments
        """
        values = values.astype(np.float64)
        mean = values.mean()
        return cls(float(values.size), float(mean), float(((values - mean) ** 2).sum()))

    @staticmethod
    def together(parts: Sequence[Moments]) -> Moments:
        """
        Put the moments of parts together (Chan, Golub and LeVeque's formula).

        :param parts: moments of each
        :return: moments of all
        """
        number = sum(part.number for part in parts)
        mean = sum(part.number * part.mean for part in parts) / number
        return Moments(number, mean, sum(part.squares + part.number * (part.mean - mean) ** 2 for part in parts))

    @property
    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation, with the n - 1 denominator."""
        return self.mean, (self.squares / (self.number - 1)) ** 0.5


class SharedMinibatch(NamedTuple):
    """
    This process's part of a minibatch.

    :param part: in the form of the engine that computes it
    :param moments: mean and standard deviation of the advantages of the whole minibatch
    """

    part: Any
    moments: tuple[float, float]

    @property
    def size(self) -> int:
        """Number of transitions of this part."""
        size: int = self.part.size
        return size

    @property
    def advantages(self) -> th.Tensor | Array:
        """Advantages of this part."""
        advantages: th.Tensor | Array = self.part.advantages
        return advantages


class AveragingEngine(EngineWrapper[Any]):
    """
    Averages another engine's gradients and statistics over all processes.

    :param engine: computes the gradients of this process's part of each minibatch
    :param group: the processes
    """

    def __init__(self, engine: Engine[Any], group: Group) -> None:
        super().__init__(engine)
        self.group = group
        self._of_rollout = (0.0, 1.0)

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[SharedMinibatch]:
        """
        Shuffle the rollout for one epoch, see :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`.

        :param rollout_buffer: full rollout buffer of this process
        :param batch_size: transitions of this process's part of a minibatch
        :return: parts, each with the moments of the advantages of the whole minibatch
        """
        parts = list(self.engine.minibatches(rollout_buffer, batch_size))
        self.group.passed()
        # All moments of an epoch at once: meeting takes longer than computing.
        own = [Moments.of(as_array(part.advantages)) for part in parts]
        table = th.zeros(self.group.size, len(own), 3, dtype=th.float64)
        table[self.group.rank] = th.tensor(own, dtype=th.float64)
        everyones = self.group.sum(table).tolist()
        bad = [rank for rank, of_rank in enumerate(everyones) if not np.isfinite(of_rank).all()]
        if bad:  # found here: in the moments of all it would be everyone's
            raise NonFiniteUpdateError(f"{named(bad)}: advantages that are not finite")
        whole = [Moments.together([Moments(*rank[index]) for rank in everyones]) for index in range(len(own))]
        self._of_rollout = Moments.together(whole).mean_and_std
        for part, moments in zip(parts, whole, strict=True):
            yield SharedMinibatch(part, moments.mean_and_std)

    def gradients(self, minibatch: SharedMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        if settings.normalize_advantage:
            one_for_all = settings.advantage_moments is not None
            settings = replace(settings, advantage_moments=self._of_rollout if one_for_all else minibatch.moments)
        failure = ""
        try:
            statistics = self.engine.gradients(minibatch.part, settings)
        except NonFiniteUpdateError as error:
            # The others wait for this process's gradient: they have to learn of it too.
            failure, statistics = str(error), MinibatchStatistics(*[np.float32(np.nan)] * len(NUMBERS))
        return self._average(statistics, failure)

    def _average(self, statistics: MinibatchStatistics, failure: str) -> MinibatchStatistics:
        """Average gradients and statistics, in one go; the largest ratio is that of all, the ratios are this process's."""
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        # Every process sends as many numbers, also one whose gradients could not be computed.
        gradients = [th.zeros_like(one) if one.grad is None else one.grad for one in trained]
        ratios = [0.0] * self.group.size
        ratios[self.group.rank] = float(statistics.ratio_max)
        own = [*(float(value) for value in statistics[: len(NUMBERS)]), *ratios]
        numbers = th.tensor(own, dtype=gradients[0].dtype, device=gradients[0].device)
        flat = self.group.sum(th.cat([numbers, *(gradient.reshape(-1) for gradient in gradients)]))
        found, flat = flat[: len(numbers)].tolist(), flat[len(numbers) :].div_(self.group.size)
        mean = {name: value / self.group.size for name, value in zip(NUMBERS, found, strict=False)}
        ratios = found[len(mean) :]
        if not all(map(math.isfinite, mean.values())):
            bad = [rank for rank, ratio in enumerate(ratios) if not math.isfinite(ratio)]
            raise NonFiniteUpdateError(f"{named(bad) if bad else 'their sum'}: {failure or 'not finite there'}")
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
        return statistics._replace(**{**mean, "approx_kl": np.float32(mean["approx_kl"]), "ratio_max": max(ratios)})


# -- the rollout ---------------------------------------------------------------------------------------------------------


def moments_of(env: VecNormalize | None) -> dict[str, RunningMeanStd]:
    """
    Find the running moments that a training normalises with.

    :param env: its normalisation, or None
    :return: the moments by name
    """
    if env is None:
        return {}
    found = {"return": env.ret_rms}
    if env.norm_obs:
        observations = env.obs_rms if isinstance(env.obs_rms, dict) else {"observation": env.obs_rms}
        found.update({f"observation {key}": moments for key, moments in observations.items()})
    return found


def first_moments(env: VecNormalize) -> dict[str, tuple[Any, Any, int]]:
    """
    Find what a reset has added to running moments: the first observations, and returns of zero.

    :param env: the normalisation, just reset
    :return: mean, variance and count by name
    """
    found: dict[str, tuple[Any, Any, int]] = {}
    for name in moments_of(env):
        kind, _, key = name.partition(" ")
        if kind == "return":
            values = np.zeros(env.num_envs if env.norm_reward else 0)
        else:
            old = env.old_obs
            values = old[key] if isinstance(old, dict) else old
        found[name] = (values.mean(axis=0), values.var(axis=0), len(values)) if len(values) else (0.0, 0.0, 0)
    return found


def added(before: dict[str, Any], after: RunningMeanStd) -> tuple[Any, Any, float]:
    """
    Find the moments of what was added to running moments: the reverse of ``update_from_moments``.

    :param before: mean, var and count before
    :param after: the moments after
    :return: mean, variance and count of what came between
    """
    count = after.count - before["count"]
    if count <= 0:
        return before["mean"], np.zeros_like(before["var"]), 0.0
    mean = before["mean"] + (after.mean - before["mean"]) * after.count / count
    delta = mean - before["mean"]
    squares = after.var * after.count - before["var"] * before["count"] - delta**2 * before["count"] * count / after.count
    return mean, np.maximum(squares / count, 0.0), count


class DataParallel(CallbackList):
    """
    Trains in several processes: give it to ``learn`` in each, around the callbacks that there are.

    If a callback of one process asks to stop, all stop after that rollout.

    :param group: the processes
    :param callbacks: of this process
    """

    not_resumed = ("group",)
    changes_policy = False
    """Beyond its first parameters, which it shares before anything is acted on."""

    def __init__(self, group: Group, callbacks: Sequence[BaseCallback] = ()) -> None:
        super().__init__(list(callbacks))
        self.group = group
        self._asked = self._stop = False
        self._before: dict[str, dict[str, Any]] = {}
        self._episodes: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        """Begin with the first process's parameters, and average from here on."""
        model: Any = self.model
        model.session.n_processes = self.group.size
        model.session.around_engine = lambda engine: AveragingEngine(engine, self.group)
        tensors = [*model.policy.parameters(), *model.policy.buffers()]
        self.group.copy_from_first([tensor.data for tensor in tensors])
        if self.num_timesteps == 0:
            self._share_first_observations()
        super()._on_training_start()

    def _share_first_observations(self) -> None:
        """Bring the moments together after each process has reset its own environments, which has added to them."""
        env = unwrap_vec_normalize(self.training_env)
        own = {} if env is None else first_moments(env)
        everyones = self.group.gather((own, {name: vars(moments) for name, moments in self._moments().items()}))
        for name, moments in self._moments().items():
            vars(moments).update(deepcopy(everyones[0][1][name]))
            for others, _ in everyones[1:]:
                mean, variance, count = others[name]
                if count:
                    moments.update_from_moments(mean, variance, count)

    def _on_rollout_start(self) -> None:
        """Remember the moments that all have in common."""
        self._before = {name: deepcopy(vars(moments)) for name, moments in self._moments().items()}
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        """Note the episodes that end; that a callback asks to stop is told the others when all meet."""
        self._episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self._asked |= not super()._on_step()
        return not self._stop

    def _on_rollout_end(self) -> None:
        """Share moments, episodes and the wish to stop."""
        super()._on_rollout_end()
        self.group.passed()
        own = {name: added(self._before[name], after) for name, after in self._moments().items()}
        everyones = self.group.gather((own, self._episodes, self._asked))
        for name, moments in self._moments().items():
            vars(moments).update(deepcopy(self._before[name]))
            for others, _, _ in everyones:
                mean, variance, count = others[name]
                if count:
                    moments.update_from_moments(mean, variance, count)
        episodes = self.model.ep_info_buffer
        assert isinstance(episodes, deque)
        # Its own are among the last; all of this rollout's take their place, in the order of the processes.
        for _ in range(min(len(self._episodes), len(episodes))):
            episodes.pop()
        for _, others, _ in everyones:
            episodes.extend(others)
        self._stop = any(asked for _, _, asked in everyones)
        self._episodes = []

    def _moments(self) -> dict[str, RunningMeanStd]:
        """Find the training's own moments."""
        return moments_of(unwrap_vec_normalize(self.training_env))
