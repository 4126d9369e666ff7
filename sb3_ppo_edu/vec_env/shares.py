"""
Several environments in one process, and how the process that asks for steps and those that make them wait for each other.

A message through a pipe takes longer than a step of a small environment, and so does waking a process that sleeps. So nothing
is sent that has not to be: actions, observations, rewards and ends lie in shared memory, and whoever waits for the other
looks at a counter there for a moment before it goes to sleep.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnvObs
from stable_baselines3.common.vec_env.util import obs_space_info

from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from sb3_ppo_edu.vec_env.workers import NoAnswerError, Worker, describe_failure

NAP_SECONDS = 1e-4
"""The shortest sleep between two looks."""
STORES_IN_ORDER = platform.machine().lower() in ("x86_64", "amd64")
"""Whether a processor that sees a counter change sees what was written before it, without being told to."""

DISPLACED_SECONDS = 2e-4
"""A gap between two looks that tells of another process on this processor, from which looking only takes time."""
SLEPT_INSTEAD = 200
"""Turns that are not looked for after that."""

SENT, BY_PIPE, ASLEEP, PROGRESS = range(4)
"""What each side of a line writes: how many messages, whether the last is in the pipe, whether it may be asleep; and how many
environments of the present step are done."""
YIELD = getattr(os, "sched_yield", lambda: None)
"""Lets another process run that waits for this processor."""
STEP = ("step_with", (None,))
"""The message that is meant where there is none."""
CELLS = 8
"""Numbers for each side: a cache line."""


class Line:
    """
    One end of a pipe, with counters in shared memory that make most messages unnecessary.

    The two sides speak in turn. ``None`` stands for "look into the shared memory", and goes through the pipe only if the other
    side may be asleep.

    :param connection: this end of the pipe
    :param cells: ``2 * CELLS`` numbers in shared memory
    :param side: 0 for who speaks first, 1 for who answers
    :param spin: seconds to look before sleeping; 0 sleeps at once
    """

    def __init__(self, connection: Connection, cells: memoryview, side: int, spin: float) -> None:
        self.connection, self.spin = connection, spin if STORES_IN_ORDER else 0.0
        self._mine, self._theirs = cells[side * CELLS :][:CELLS], cells[(1 - side) * CELLS :][:CELLS]
        self._heard, self._ahead, self._sleep_through = 0, 1 - side, 0

    def send(self, message: Any) -> None:
        """Give the other side its turn."""
        by_pipe = message is not None or self.spin == 0 or bool(self._theirs[ASLEEP])
        if by_pipe:
            self.connection.send(message)
        self._mine[BY_PIPE] = by_pipe
        self._mine[SENT] = self._heard + self._ahead

    def wait(self, seconds: float, *others: Any) -> list[Any]:
        """
        Wait for this side's turn.

        :param seconds: at most
        :param others: what else ends the waiting, as ``multiprocessing.connection.wait`` takes it
        :return: what has ended it: the connection, some of the others, or nothing
        """
        start = now = time.monotonic()
        self._sleep_through = max(self._sleep_through - 1, 0)
        until = start if self._sleep_through else start + self.spin
        ready: list[Any] = []
        while self._theirs[SENT] <= self._heard and not ready and now - start < seconds:
            before, now = now, time.monotonic()
            if now < until:
                YIELD()
                if now - before > DISPLACED_SECONDS:
                    until, self._sleep_through = now, SLEPT_INSTEAD
            else:
                self._mine[ASLEEP] = True
                # What came without the pipe at this moment is found after the nap.
                nap = max((now - start) / 10, NAP_SECONDS)
                ready = wait([self.connection, *others], max(min(nap, start + seconds - now), 0.0))
        self._mine[ASLEEP] = False
        return [self.connection] if self._theirs[SENT] > self._heard else ready

    def recv(self) -> Any:
        """Take the message of the other side, whose turn is over."""
        # One that came through the pipe may be there before the counter says so.
        by_pipe = self.spin == 0 or self._theirs[SENT] <= self._heard or self._theirs[BY_PIPE]
        message = self.connection.recv() if by_pipe else None
        self._heard += 1
        return message


class Share(InProcessVecEnv):
    """
    Some of the environments, in the process that steps them.

    :param env_fns: functions that each make one environment
    """

    stores_directly = False

    def use(self, place: Place) -> None:
        """
        Keep numbers in shared memory from now on.

        :param place: of this share
        """
        self.rows = rows_of(place.shared, place.first, place.first + self.num_envs)
        self.numbers = place.numbers()[CELLS:]
        self.buf_rews, self.buf_dones = self.rows["rewards"], self.rows["dones"]
        self.buf_obs.update({key: self.rows["observations", key] for key in self.keys})

    def step_with(self, actions: Any) -> list[tuple[int, dict[str, Any], dict[str, Any] | None]] | None:
        """
        Step every environment, and reset those whose episode ended.

        :param actions: None for those in shared memory
        :return: index, info and, after a reset, its info, of those environments that have anything to tell; None if none has
        """
        # An environment may keep its action, and in shared memory it is overwritten.
        self.calls += 1
        self.actions = self.rows["actions"].copy() if actions is None else actions
        self.numbers[PROGRESS] = 0
        *_, infos = self.step_wait()
        told = [
            (index, info, self.reset_infos[index] if self.buf_dones[index] else None)
            for index, info in enumerate(infos)
            if len(info) > 1 or info["TimeLimit.truncated"]
        ]
        return told or None

    def reset_with(self, seeds: list[int | None], options: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Reset every environment.

        :param seeds: for each, or None
        :param options: for each
        :return: what each tells
        """
        self._seeds, self._options = seeds, options
        self.numbers[PROGRESS] = 0
        self.reset()
        return self.reset_infos

    def each(self, function: Callable[..., Any], indices: list[int], arguments: tuple[Any, ...]) -> Any:
        """
        Call a function with some of the environments.

        :param function: takes an environment first
        :param indices: of the environments
        :param arguments: its others
        :return: what it gives for each, or the exception that it raises
        """
        try:
            return [function(self.envs[index], *arguments) for index in indices]
        except Exception as error:
            return error

    def _save_obs(self, env_idx: int, obs: VecEnvObs) -> None:
        """Store an environment's observation, the last thing to do in its step."""
        super()._save_obs(env_idx, obs)
        self.numbers[PROGRESS] = env_idx + 1

    def _obs_from_buf(self) -> VecEnvObs:
        """Copy nothing: observations are read where they are shared."""
        return {}


Shared = dict[Any, tuple[Any, tuple[int, ...], Any]]
"""Arrays in shared memory by name: memory, shape and dtype."""


def share_arrays(context: Any, observation_space: spaces.Space, action_space: spaces.Space, n_envs: int) -> Shared:
    """
    Allocate what environments and algorithm give each other in a step.

    :param context: how processes are started
    :param observation_space: of one environment
    :param action_space: of one environment
    :param n_envs: how many there are
    :return: arrays for all of them. Their memory has no name that could be left behind
    :raises ValueError: if an observation can't be in shared memory
    """
    keys, shapes, dtypes = obs_space_info(observation_space)
    wanted: dict[Any, tuple[Any, Any]] = {("observations", key): (shapes[key], np.dtype(dtypes[key])) for key in keys}
    wanted["rewards"], wanted["dones"] = ((), np.dtype(np.float32)), ((), np.dtype(bool))
    wanted["actions"] = (action_space.shape or (), np.dtype(action_space.dtype))
    shared = {}
    for name, (shape, dtype) in wanted.items():
        if dtype.hasobject:
            raise ValueError(f"{name}: found Python objects, expected numbers, which shared memory can hold; take 'dummy'")
        size = n_envs * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        shared[name] = (context.RawArray("b", max(size, 1)), (n_envs, *shape), dtype)
    return shared


def rows_of(shared: Shared, start: int, stop: int) -> dict[Any, np.ndarray]:
    """Give some environments' part of the shared arrays."""
    return {name: np.ndarray(shape, dtype, memory)[start:stop] for name, (memory, shape, dtype) in shared.items()}


class Place(NamedTuple):
    """
    Where a share stands among the others.

    :param first: index of its first environment
    :param shared: arrays of all environments
    :param cells: of its line
    :param cpu: the processor to stay on, or None
    :param spin: see :class:`Line`
    """

    first: int
    shared: Shared
    cells: Any
    cpu: int | None
    spin: float

    def numbers(self) -> memoryview:
        """Give the line's cells as numbers."""
        return memoryview(self.cells).cast("B").cast("q")


def serve_share(place: Place, connection: Connection, parents: Connection, env_fns: CloudpickleWrapper) -> None:
    """
    Answer for some environments, in a worker.

    :param place: of the share
    :param connection: to the parent
    :param parents: the parent's end of it, which the worker closes
    :param env_fns: functions that each make one environment
    """
    parents.close()
    if place.cpu is not None:
        with contextlib.suppress(OSError):  # some sandboxes refuse
            os.sched_setaffinity(0, {place.cpu})
    line = Line(connection, place.numbers(), 1, place.spin)
    share = Share(env_fns.var)
    share.use(place)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has gone
        while True:
            line.wait(float("inf"))
            name, arguments = line.recv() or STEP
            if name == "close":
                break
            answer = getattr(share, name)(*arguments)
            try:
                line.send(answer)
            except (AttributeError, TypeError, pickle.PicklingError) as error:  # it can't be sent
                if name != "each":
                    raise
                line.send(error)
    share.close()


class ShareWorker(Worker):
    """
    A process with several environments.

    :param env_fns: functions that each make one environment
    :param context: how processes are started
    :param timeout: seconds for an answer
    :param place: of the share
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]], context: Any, timeout: float, place: Place) -> None:
        super().__init__(env_fns, context, timeout, partial(serve_share, place))
        self._line = Line(self.connection, place.numbers(), 0, place.spin)
        self._owes = False

    def send(self, message: Any) -> None:
        """Ask for something, see ``Worker``; None for a step with the actions in shared memory."""
        if self._owes:  # Ctrl-C came before the last answer
            with contextlib.suppress(NoAnswerError):
                self.answer()
        self._owes = True
        super().send(message)

    def answer(self) -> Any:
        """Wait for the answer, see ``Worker``."""
        found = super().answer()
        self._owes = False
        return found

    def _tell(self, message: Any) -> None:
        """Pass a message to the process."""
        self._line.send(message)

    def _listen(self, seconds: float) -> list[Any]:
        """Wait until the process has something to say or has ended."""
        return self._line.wait(seconds, self.process.sentinel)

    def _hear(self) -> Any:
        """Take what it has said."""
        return self._line.recv()


class OwnShare:
    """
    The share of this process, which is asked like the others.

    :param share: the environments
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self._message: Any = None

    def send(self, message: Any) -> None:
        """Ask for something, see ``ShareWorker``; it is done when the answer is wanted."""
        self._message = message

    def answer(self) -> Any:
        """
        Do what was asked.

        :return: the answer
        :raises NoAnswerError: if an environment raises
        """
        name, arguments = self._message or STEP
        try:
            return getattr(self.share, name)(*arguments)
        except (Exception, SystemExit) as error:
            raise NoAnswerError(describe_failure(error)) from error


def call_method(env: gym.Env, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call an environment's method, or its wrappers'."""
    return env.get_wrapper_attr(name)(*arguments, **named)
