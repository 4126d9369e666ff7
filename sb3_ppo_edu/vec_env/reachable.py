"""The environments of Gymnasium's vector environments: called one by one, and named where one of them fails."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3.common.env_util import is_wrapped

from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError, explain, wrong_observation, wrong_reward
from sb3_ppo_edu.vec_env.workers import (
    ADVICE,
    SHUTDOWN_SECONDS,
    STARTUP_SECONDS,
    WorkerError,
    describe_end,
    describe_failure,
    set_socket_timeout,
)

FAILURE = "sb3_ppo_edu.failure"
"""Key of an info that says what an environment in another process has done in place of a step."""


class Reachable(gym.Wrapper):
    """
    Answers for one of the environments of a ``SyncVectorEnv`` or ``AsyncVectorEnv``.

    The latter passes every call to all of them, and a worker that is asked for what it does not have ends, and all others with
    it; so ``reach`` never raises, but answers with the error.

    :param env: the environment
    :param index: its index
    :param owner: number of the process that asks for steps; None for this one. In another one an exception becomes an info
        with the key :data:`FAILURE`, since Gymnasium would print its traceback and lose its index
    """

    def __init__(self, env: gym.Env, index: int, owner: int | None = None) -> None:
        super().__init__(env)
        self._index, self._elsewhere = index, owner is not None and owner != os.getpid()
        if self._elsewhere:
            # Ctrl-C goes to all processes of a terminal. What it means is for the parent to say.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and look at its observation."""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
            self._check(wrong_observation(observation, self.observation_space))
        except (Exception, SystemExit) as error:
            return self._failed(error)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment, and look at its observation and reward."""
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._check(wrong_observation(observation, self.observation_space) or wrong_reward(reward))
        except (Exception, SystemExit) as error:
            observation, info = self._failed(error)
            return observation, 0.0, False, False, info
        return observation, reward, terminated, truncated, info

    def _check(self, what: str) -> None:
        """Raise what is wrong, if there is anything. The step is for the vector environment to name."""
        if what:
            raise EnvironmentFaultError(self._index, 0, what)

    def _failed(self, error: BaseException) -> tuple[Any, dict[str, Any]]:
        """Tell the process that asks what was raised, or raise it there."""
        if self._elsewhere:
            return self.observation_space.sample(), {FAILURE: describe_failure(error)}
        if what := explain(error):
            raise EnvironmentFaultError(self._index, 0, what) from error
        raise error

    def reach(self, indices: Sequence[int], verb: str, *args: Any, **kwargs: Any) -> tuple[Any, Exception | None]:
        """
        Do something, if this environment is meant.

        :param indices: of those that are meant
        :param verb: "get", "has", "set", "call" or "is_wrapped"
        :param args: of the verb
        :param kwargs: of the method to call
        :return: the result, and the error if there was one
        """
        if self._index not in indices:
            return None, None
        try:
            return getattr(self, f"_{verb}")(*args, **kwargs), None
        except Exception as error:
            return None, error

    def _get(self, name: str) -> Any:
        return self.env.get_wrapper_attr(name)

    def _has(self, name: str) -> bool:
        return self.env.has_wrapper_attr(name)

    def _set(self, name: str, value: Any) -> None:
        self.env.set_wrapper_attr(name, value)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.env.get_wrapper_attr(name)(*args, **kwargs)

    def _is_wrapped(self, wrapper_class: type[gym.Wrapper]) -> bool:
        return is_wrapped(self.env, wrapper_class)


class BoundedAsyncVectorEnv(AsyncVectorEnv):
    """
    Gymnasium's ``AsyncVectorEnv``, which waits forever for a process that hangs while it builds its environment.

    :param env_fns: functions that each make one environment
    :param timeout: seconds that a process has for an answer, and a minute more for its first
    :param settings: of ``AsyncVectorEnv``
    :raises WorkerError: naming the process that hangs or has died
    """

    def __init__(self, env_fns: Any, timeout: float, **settings: Any) -> None:
        self.timeout = timeout
        super().__init__(env_fns, **settings)

    def _check_spaces(self) -> None:
        """Hear of each process that it has its environment."""
        limit_messages(self, self.timeout + STARTUP_SECONDS)
        with naming_failures(self, self.timeout + STARTUP_SECONDS, 0):
            super()._check_spaces()


def limit_messages(vector_env: AsyncVectorEnv, seconds: float) -> None:
    """
    Limit how long a message may take that has begun.

    :param vector_env: the vector environment
    :param seconds: see :func:`~sb3_ppo_edu.vec_env.workers.set_socket_timeout`
    """
    for pipe in vector_env.parent_pipes:
        set_socket_timeout(pipe, seconds)


@contextlib.contextmanager
def naming_failures(vector_env: AsyncVectorEnv, timeout: float, step: int) -> Iterator[None]:
    """
    Ask the processes of an ``AsyncVectorEnv`` for something; if one gives no answer, end all and name it.

    :param vector_env: the vector environment
    :param timeout: seconds that an answer may take
    :param step: of the training
    :raises WorkerError: if a process hangs, has died, or its environment has raised
    """
    try:
        yield
    except Exception as error:
        pipes, processes = vector_env.parent_pipes, vector_env.processes
        index, reason = next((index for index, pipe in enumerate(pipes) if pipe is None), None), ""
        if index is not None:  # as Gymnasium leaves the pipe of one that has raised
            reason = f"raised {type(error).__name__}: {error}"
        elif isinstance(error, (multiprocessing.TimeoutError, BlockingIOError)):
            index = next((index for index, pipe in enumerate(pipes) if not pipe.poll(0)), 0)
            reason = f"gave no answer within {timeout:g} seconds"
        elif isinstance(error, (EOFError, OSError)):
            wait([process.sentinel for process in processes], SHUTDOWN_SECONDS)
            index = next((index for index, process in enumerate(processes) if not process.is_alive()), 0)
            reason = describe_end(processes[index].exitcode)
        else:
            raise
        raise_failure(vector_env, index, step, reason, error)


def raise_failure(vector_env: AsyncVectorEnv, index: int, step: int, reason: str, error: Exception | None = None) -> NoReturn:
    """
    End all processes, and name the one that has failed.

    :param vector_env: the vector environment
    :param index: of the environment
    :param step: of the training
    :param reason: what its process has done
    :param error: as it was found out
    :raises WorkerError: always
    """
    end_processes(vector_env, 0.0)
    message = (
        f"environment {index}, step {step} of its training: its process {reason}; {ADVICE}. A larger timeout waits longer"
    )
    raise WorkerError(message, index, reason) from error


def end_processes(vector_env: AsyncVectorEnv, seconds: float) -> None:
    """
    Close the environments of an ``AsyncVectorEnv``, whose own ``close`` waits forever for one that hangs.

    :param vector_env: the vector environment
    :param seconds: after which its processes are killed
    """
    if vector_env.closed:
        return
    pipes = [pipe for pipe in vector_env.parent_pipes if pipe is not None]
    for pipe in pipes:
        with contextlib.suppress(OSError):
            set_socket_timeout(pipe, SHUTDOWN_SECONDS)
            pipe.send(("close", None))
    deadline = time.monotonic() + seconds
    for process in vector_env.processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
    for pipe in pipes:
        pipe.close()
    vector_env.closed = True


def failure_in(infos: Mapping[str, Any]) -> tuple[int, str] | None:
    """
    Find what :class:`Reachable` has told of an exception in another process.

    :param infos: as Gymnasium batches them
    :return: index and description; None if there is none
    """
    if FAILURE not in infos:
        return None
    index = int(np.flatnonzero(infos[f"_{FAILURE}"])[0])
    return index, str(infos[FAILURE][index])
