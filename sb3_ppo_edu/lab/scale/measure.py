"""What the scaling experiment measures: steps of environments by backend, training by processes, updates by size."""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.envs.backends import AS_A_WHOLE, BACKENDS, PROCESSES, steps_per_second
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_training_env
from sb3_ppo_edu.lab.rows import append_rows, machine, read_rows
from sb3_ppo_edu.training.settings import versions
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

# The values stand in recorded rows: an all-reduce has been called a meeting there since the first of them.
STEPPING, TRAINING, UPDATE, ALL_REDUCE, EPISODES = "stepping", "training", "update", "meeting", "episodes"
"""What a row is about."""
FILE = "scale.csv"

STEPPED = ("CartPole-v1", "LunarLander-v3", "BipedalWalker-v3", "HalfCheetah-v5")
TRAINED = ("CartPole-v1", "LunarLander-v3", "BipedalWalker-v3", "Humanoid-v5")
NUMBERS = (1, 2, 4, 8, 16)
MOST_PROCESSES = 8
"""Environments beyond which none gets a process of its own here."""
SIZES = (8, 16, 32, 64, 128, 256, 512)
"""Transitions of a minibatch whose update is timed."""
BYTES = (1_000, 100_000, 10_000_000)
"""Sizes of what is reduced when the all-reduce of two processes is timed."""

PLAYED = {"CartPole-v1": 4_000}
"""Episodes with random actions, where they are short; else 400."""

ENVS, N_STEPS, BATCH, EPOCHS = 16, 128, 512, 10
"""Settings of the trainings, of all processes together."""
ROLLOUTS = 6
"""Rollouts of a training that are timed, after one that is not."""


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """
    One measurement.

    :param kind: "stepping" (environment steps a second), "training" (the same, with processes in ``number``), "update"
        (microseconds of one, with transitions in ``number``), "meeting" (microseconds of an average over two processes, with
        bytes in ``number``), "episodes" (mean return of random actions; ``number`` episodes)
    :param env: environment, or nothing
    :param backend: who stepped it, or nothing
    :param number: environments, processes, transitions, bytes or episodes
    :param repetition: index
    :param value: what was measured
    :param spread: standard deviation within the measurement, where it has one
    :param length: of "episodes", their mean length
    :param machine: processor and system in words
    :param versions: of the libraries
    """

    kind: str
    env: str
    backend: str
    number: int
    repetition: int
    value: float
    spread: float
    length: float
    machine: str
    versions: str


@dataclass(frozen=True)
class Job:
    """
    Something to measure.

    :param kind: see :class:`ScaleRow`
    :param env: environment, or nothing
    :param backend: who steps it, or nothing
    :param number: see :class:`ScaleRow`
    :param repetition: index
    """

    kind: str
    env: str
    backend: str
    number: int
    repetition: int

    def __str__(self) -> str:
        """Name it in a progress bar."""
        return " ".join(filter(None, (self.kind, self.env, self.backend, str(self.number))))


def plan(repetitions: int, quick: bool = False) -> list[Job]:
    """
    List what is to be measured; repetitions are the outermost loop, so that noise of the machine meets all alike.

    :param repetitions: of each measurement
    :param quick: fewer environments and numbers
    :return: the measurements
    """
    numbers, stepped, trained = ((2, 4), STEPPED[:1], TRAINED[:1]) if quick else (NUMBERS, STEPPED, TRAINED)
    jobs = []
    for repetition in range(repetitions):
        for env in stepped:
            for number in numbers:
                jobs += [Job(STEPPING, env, backend, number, repetition) for backend in able(env, number)]
        # In turn, the first one first every other time.
        both = (1, 2) if repetition % 2 else (2, 1)
        jobs += [Job(TRAINING, env, "", processes, repetition) for env in trained for processes in both]
        jobs += [Job(UPDATE, "", "", size, repetition) for size in SIZES]
        jobs += [Job(ALL_REDUCE, "", "", size, repetition) for size in BYTES]
    for env in stepped:
        for backend in ("dummy", *(one for one in AS_A_WHOLE if one in able(env, 8))):
            jobs.append(Job(EPISODES, env, backend, 40 if quick else PLAYED.get(env, 400), 0))
    return jobs


def able(env: str, number: int) -> list[str]:
    """
    List the backends that can step an environment here.

    :param env: its id
    :param number: how many environments
    :return: names of backends
    """
    found = []
    for backend in BACKENDS:
        if backend in PROCESSES and number > MOST_PROCESSES:
            continue
        if backend in AS_A_WHOLE:
            try:
                make_training_env(env, 1, backend=backend).close()
            except ValueError:
                continue
        found.append(backend)
    return found


def missing(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """
    List what has no row yet.

    :param folder: where the rows are
    :param jobs: all measurements
    :return: those to do
    """
    done = {Job(row.kind, row.env, row.backend, row.number, row.repetition) for row in read_rows(folder / FILE, ScaleRow)}
    return [job for job in jobs if job not in done]


def measure(folder: Path, jobs: Sequence[Job]) -> Iterator[Job]:
    """
    Measure, and keep each row as it comes.

    :param folder: where the rows go
    :param jobs: what to measure
    :return: each measurement, before it begins
    """
    folder.mkdir(parents=True, exist_ok=True)
    here, with_versions = machine(), ", ".join(f"{name} {number}" for name, number in versions().items())
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        for job in jobs:
            yield job
            value, spread, length = MEASURES[job.kind](job)
            row = ScaleRow(**vars(job), value=value, spread=spread, length=length, machine=here, versions=with_versions)
            append_rows(folder / FILE, [row])
    finally:
        th.set_num_threads(before)


# -- the measurements ----------------------------------------------------------------------------------------------------


def stepping(job: Job) -> tuple[float, float, float]:
    """
    Time steps with random actions.

    :param job: environment, backend and number of environments
    :return: environment steps a second
    """
    env = make_training_env(EnvironmentSettings(job.env), job.number, seed=job.repetition, backend=job.backend)
    try:
        return round(steps_per_second(env, 0.5), 1), 0.0, 0.0
    finally:
        env.close()


def training(job: Job) -> tuple[float, float, float]:
    """
    Time trainings with the same settings in one or two processes.

    :param job: environment and number of processes
    :return: environment steps a second, of all processes together, from the second rollout on
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(job.number)}
    words = [sys.executable, "-m", __name__, job.env, str(job.repetition)]
    started = [
        subprocess.Popen(
            words,
            env={**os.environ, "OMP_NUM_THREADS": "1", **place, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(job.number)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{job}: a process failed (see above)")
    return round(float(outputs[0].split()[-1]), 1), 0.0, 0.0


def train_here(env_id: str, seed: int) -> float:
    """
    Train as one of the processes that the environment variables tell of.

    :param env_id: environment
    :param seed: of the training
    :return: environment steps a second, of all processes together
    """
    from sb3_ppo_edu.distributed import DataParallel, join, launched, leave

    th.set_num_threads(1)
    group = join() if launched() else None
    rank, size = (group.rank, group.size) if group is not None else (0, 1)
    own = ENVS // size
    env = make_vec_env(env_id, own, seed=seed + rank * own, env_kwargs={"render_mode": None}, vec_env_cls=InProcessVecEnv)
    model = EduPPO(
        "MlpPolicy", env, n_steps=N_STEPS, batch_size=BATCH // size, n_epochs=EPOCHS, seed=seed + rank * own, device="cpu"
    )
    times: list[float] = []
    train = model.train

    def timed() -> None:
        train()
        times.append(time.perf_counter())

    # On this model only: when its updates end is all that is asked.
    model.train = timed  # type: ignore[method-assign]
    model.learn(ENVS * N_STEPS * (ROLLOUTS + 1), callback=None if group is None else DataParallel(group))
    if group is not None:
        leave()
    return ENVS * N_STEPS * ROLLOUTS / (times[-1] - times[0])


def update(job: Job) -> tuple[float, float, float]:
    """
    Time one step of the fused engine with a network of two layers of 64.

    :param job: number of transitions
    :return: microseconds: gradients and the optimizer's step
    """
    env = make_vec_env("BipedalWalker-v3", 4, vec_env_cls=InProcessVecEnv, env_kwargs={"render_mode": None})
    model = EduPPO("MlpPolicy", env, n_steps=128, batch_size=512, n_epochs=1, seed=0, device="cpu", engine="fused")
    model.learn(512)
    engine, settings = model.attach_engine(), model.update_settings()
    minibatch = next(iter(engine.minibatches(model.rollout_buffer, job.number)))
    durations = []
    for _ in range(300):
        start = time.perf_counter()
        engine.gradients(minibatch, settings)
        engine.apply(settings)
        durations.append(time.perf_counter() - start)
    env.close()
    return round(statistics.median(durations) * 1e6, 1), 0.0, 0.0


def all_reduce(job: Job) -> tuple[float, float, float]:
    """
    Time an all-reduce of two processes on this machine.

    :param job: number of bytes
    :return: microseconds
    """
    import torch.multiprocessing as multiprocessing

    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = [context.Process(target=time_all_reduce, args=(rank, port, job.number, queue)) for rank in range(2)]
    for process in started:
        process.start()
    value = float(queue.get())
    for process in started:
        process.join()
    return round(value, 1), 0.0, 0.0


def time_all_reduce(rank: int, port: int, size: int, queue: Any) -> None:
    """
    Be one of the two processes whose all-reduce is timed.

    :param rank: which
    :param port: where
    :param size: bytes to reduce
    :param queue: where the first puts the microseconds
    """
    from sb3_ppo_edu.distributed import join, leave

    th.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group = join()
    tensor = th.zeros(size // 4)
    durations = []
    for _ in range(200 if size < 10**6 else 20):
        start = time.perf_counter()
        group.all_reduce(tensor)
        durations.append(time.perf_counter() - start)
    if group.is_rank_zero:
        queue.put(statistics.median(durations) * 1e6)
    leave()


def episodes(job: Job) -> tuple[float, float, float]:
    """
    Play random actions.

    :param job: environment, backend, and number of episodes
    :return: mean return, its standard deviation, and mean length
    """
    env = make_training_env(EnvironmentSettings(job.env), 8, seed=random.Random(job.env).randrange(10**6), backend=job.backend)
    env.action_space.seed(0)
    returns: list[float] = []
    lengths: list[float] = []
    env.reset()
    # As many of each environment: the first ones to end would be the short ones.
    left = np.full(8, job.number // 8)
    while left.any():
        _, _, _, infos = env.step(np.array([env.action_space.sample() for _ in range(8)]))
        for index, info in enumerate(infos):
            if "episode" in info and left[index] > 0:
                left[index] -= 1
                returns.append(float(info["episode"]["r"]))
                lengths.append(float(info["episode"]["l"]))
    env.close()
    return round(statistics.fmean(returns), 3), round(statistics.stdev(returns), 3), round(statistics.fmean(lengths), 2)


MEASURES: dict[str, Callable[[Job], tuple[float, float, float]]] = {
    STEPPING: stepping,
    TRAINING: training,
    UPDATE: update,
    ALL_REDUCE: all_reduce,
    EPISODES: episodes,
}


if __name__ == "__main__":
    print(train_here(sys.argv[1], int(sys.argv[2])))
