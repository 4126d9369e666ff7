"""Environments in processes of their own that may die or hang without taking the training along unnoticed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.subproc_vec_env import _worker

from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError, explain, wrong_observation, wrong_reward

ON_WORKER_FAILURE = ("raise", "restart")
STARTUP_SECONDS = 60.0
"""Seconds that a process has for its first answer beyond those it has for any: it imports and builds first."""
SHUTDOWN_SECONDS = 5.0
"""Seconds that the other workers have to close their environments when one has failed."""
ADVICE = "expected an answer; the other workers are closed. Checkpoints that were made are whole: resume from the last"
"""What stands in the error when a worker has failed."""


class WorkerError(RuntimeError):
    """
    The process of an environment died or gave no answer.

    :param message: what happened, and what to do
    :param index: of the environment
    :param reason: how the process ended
    """

    def __init__(self, message: str, index: int, reason: str) -> None:
        super().__init__(message)
        self.index, self.reason = index, reason


class WorkerException(NamedTuple):
    """
    What a worker sends in place of an answer when its environment raises.

    :param text: what it has done, such as "raised ValueError: …"
    """

    text: str


class NoAnswerError(Exception):
    """A worker gave no answer; the message says why, such as "was killed by SIGKILL"."""


Serve = Callable[[Connection, Connection, CloudpickleWrapper], None]
"""What a worker does: it makes its environment, and answers what it is asked until it is told to close."""


def run_worker(connection: Connection, parents: Connection, env_fn: CloudpickleWrapper, serve: Serve) -> None:
    """
    Run a worker, and tell the parent what its environment raises.

    :param connection: to the parent
    :param parents: the parent's end of it, which the worker closes
    :param env_fn: makes the environment
    :param serve: SB3's worker, or one like it
    """
    # Ctrl-C goes to all processes of a terminal. What it means is for the parent to say, who may want a last checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(connection, parents, env_fn)
    except (Exception, SystemExit) as error:
        with contextlib.suppress(OSError):  # the parent has gone
            connection.send(WorkerException(describe_failure(error)))


def describe_failure(error: BaseException) -> str:
    """
    Say what an environment has done: what it raised, and where.

    :param error: as it was caught
    """
    what = error.what if isinstance(error, EnvironmentFaultError) else explain(error)
    if what:
        return f"can't go on: {what}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno}, in {place.name})"


class Worker:
    """
    A process with an environment.

    :param env_fn: makes the environment
    :param context: how processes are started
    :param timeout: seconds for an answer
    :param serve: what the process does, SB3's worker by default
    """

    def __init__(self, env_fn: Any, context: Any, timeout: float, serve: Serve = _worker) -> None:
        self._env_fn, self._context, self._timeout, self._serve = env_fn, context, timeout, serve
        self.start()

    def start(self) -> None:
        """Start a process."""
        # A worker that dies closes its end, which is seen at once if nobody else has it. So it is made and given away here,
        # between two workers: one that is forked has copies of all that its parent has then.
        self.connection, theirs = self._context.Pipe()
        arguments = (theirs, self.connection, CloudpickleWrapper(self._env_fn), self._serve)
        self.process = self._context.Process(target=run_worker, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        set_socket_timeout(self.connection, self._timeout)
        self._starting = STARTUP_SECONDS
        self._stuck = False

    def send(self, message: Any) -> None:
        """
        Ask for something. That the process can't be reached is found when its answer is awaited.

        :param message: command and argument, as the worker takes them
        """
        self._deadline = time.monotonic() + self._timeout + self._starting
        try:
            self._tell(message)
        except BlockingIOError:
            self._stuck = True
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self) -> Any:
        """
        Wait for the process's own answer.

        :return: the answer
        :raises NoAnswerError: if there is none
        """
        try:
            ready = self._listen(max(0.0, self._deadline - time.monotonic()))
            if not ready or self._stuck:
                raise BlockingIOError
            if self.connection not in ready:
                raise EOFError
            found = self._hear()
        except BlockingIOError:
            raise NoAnswerError(f"gave no answer within {self._timeout + self._starting:g} seconds") from None
        except (EOFError, OSError):
            self.process.join(SHUTDOWN_SECONDS)
            raise NoAnswerError(describe_end(self.process.exitcode)) from None
        if isinstance(found, WorkerException):
            raise NoAnswerError(found.text)
        self._starting = 0.0
        return found

    def _tell(self, message: Any) -> None:
        """Pass a message to the process."""
        self.connection.send(message)

    def _listen(self, seconds: float) -> list[Any]:
        """Wait until the process has something to say or has ended, and list which of the two."""
        return wait([self.connection, self.process.sentinel], seconds)

    def _hear(self) -> Any:
        """Take the message that has come."""
        return self.connection.recv()

    def join(self, deadline: float) -> None:
        """
        Wait for the process to end, and kill it if it does not.

        :param deadline: on the monotonic clock
        """
        with contextlib.suppress(EOFError, OSError):
            # It may have an answer to give first, one too large for the pipe.
            while self.connection in wait([self.connection, self.process.sentinel], max(0.0, deadline - time.monotonic())):
                self.connection.recv()
        self.process.join(max(0.0, deadline - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End the process at once, if it has not ended."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def set_socket_timeout(connection: Connection, seconds: float) -> None:
    """
    Limit how long a message may take that has begun: a process may be stopped in the middle of one.

    :param connection: a pipe; where pipes are no sockets (Windows) nothing is done
    :param seconds: after which ``BlockingIOError`` is raised
    """
    if sys.platform != "win32":
        whole = int(seconds)
        moment = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), 1))
        with socket.socket(fileno=os.dup(connection.fileno())) as pipe:
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, moment)
            pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, moment)


def describe_end(exitcode: int | None) -> str:
    """
    Say how a process ended.

    :param exitcode: as ``multiprocessing`` has it: negative for a signal, None if it is still there
    :return: such as "was killed by SIGKILL"
    """
    if exitcode is None:
        return "closed its connection"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:  # a real-time signal
        name = f"signal {-exitcode}"
    return f"was killed by {name}" + (" (what the system does when memory runs out)" if name == "SIGKILL" else "")


def shut(workers: Sequence[Worker], seconds: float) -> None:
    """
    Have workers close their environments, and end their processes.

    :param workers: alive or dead
    :param seconds: after which it is done by force
    """
    for worker in workers:
        with contextlib.suppress(OSError):  # it is dead, or was killed
            worker.connection.send(("close", None))
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(deadline)


def check_timeout(timeout: float, name: str = "timeout") -> None:
    """
    Check how long workers may take.

    :param timeout: in seconds, at most a billion: an operating system counts no further
    :param name: of the argument
    :raises ValueError: if it is not positive, or endless
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, np.number)) or not 0 < timeout <= 1e9:
        raise ValueError(f"{name}={shown(timeout)}: expected a positive number of seconds")


def usual_start_method() -> str:
    """Name how SB3 starts processes: by "forkserver" where there is one, else (Windows) by "spawn"."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def context_of(start_method: str | None) -> Any:
    """
    Choose how processes are started.

    :param start_method: None for SB3's default
    """
    return multiprocessing.get_context(usual_start_method() if start_method is None else start_method)


class WorkerConnection:
    """
    Stands where ``SubprocVecEnv`` has the pipe to a worker, and passes what goes through it to the watch.

    :param env: owner of the worker
    :param index: of the worker
    """

    def __init__(self, env: WatchedSubprocVecEnv, index: int) -> None:
        self.env, self.index = env, index

    def send(self, message: tuple[str, Any]) -> None:
        """Pass a command and its argument to the worker."""
        self.env.send_to(self.index, message)

    def recv(self) -> Any:
        """Wait for the worker's answer."""
        return self.env.answer_of(self.index)


class WatchedSubprocVecEnv(SubprocVecEnv):
    """
    SB3's ``SubprocVecEnv``, which waits forever for a worker that hangs and ends in a bare ``EOFError`` when one dies.

    A worker that dies, or whose environment raises, is found at once; one that hangs within ``timeout``, whatever it was asked
    for. What then happens is said by ``on_worker_failure``. Ctrl-C does not reach the workers.

    A restarted worker has a new environment, reset with a seed that depends on the seed of the whole, on its index and on the
    number of its restarts only. Its episode is marked as cut: the step gives ``done``, a reward of 0, and an info with
    ``TimeLimit.truncated``, ``worker_restarted`` (the reason) and the last observation seen as ``terminal_observation``, from
    which the value of the rest is estimated. What ``set_attr`` or a method had changed in the old environment is lost, and a
    ``Monitor`` begins its file anew unless it is told not to. A worker that fails again before it has made a step is not
    restarted once more.

    :param env_fns: functions that each make one environment
    :param start_method: of processes, see ``SubprocVecEnv``
    :param timeout: seconds that a worker has for an answer, > 0; a process that has just started has a minute more
    :param on_worker_failure: "raise" closes all workers and ends with :class:`WorkerError`, "restart" warns, replaces the
        worker by a new one and goes on; the others are not disturbed
    :raises ValueError: for arguments out of range
    :raises WorkerError: by every method, under "raise"
    """

    not_resumed = ("timeout", "on_worker_failure", "start_method")
    """Attributes that are what the resumed training's own environment says."""

    def __init__(
        self,
        env_fns: list[Callable[[], gym.Env]],
        start_method: str | None = None,
        timeout: float = 60.0,
        on_worker_failure: str = "raise",
    ) -> None:
        check_timeout(timeout)
        if on_worker_failure not in ON_WORKER_FAILURE:
            raise ValueError(f"on_worker_failure={on_worker_failure!r}: expected one of {', '.join(ON_WORKER_FAILURE)}")
        self.timeout, self.on_worker_failure, self.start_method = timeout, on_worker_failure, start_method
        self.waiting = self.closed = False
        self.num_envs = len(env_fns)
        # Plain data, which a checkpoint keeps.
        self.calls = 0
        self.first_seed = 0
        self.restarts = [0] * self.num_envs
        self.unproven = [False] * self.num_envs
        self.last_observations: list[Any] = [None] * self.num_envs
        self.cut: dict[int, tuple[str, Any, Any, dict[str, Any]]] = {}
        self._asked: list[tuple[str, Any]] = [("", None)] * self.num_envs
        context = context_of(start_method)
        self._workers = [Worker(env_fn, context, timeout) for env_fn in env_fns]
        self.remotes: Any = tuple(WorkerConnection(self, index) for index in range(self.num_envs))
        self.remotes[0].send(("get_spaces", None))
        VecEnv.__init__(self, self.num_envs, *self.remotes[0].recv())

    @property
    def processes(self) -> list[Any]:  # type: ignore[override]
        """The workers' processes."""
        return [worker.process for worker in self._workers]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        Seed the environments' next reset, and those of workers that are restarted.

        :param seed: of the first environment; the others count up from it. None for any
        :return: the seed of each
        """
        seeds = super().seed(seed)
        self.first_seed = int(seeds[0] or 0)
        return seeds

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step, with one action for each environment."""
        self.calls += 1
        super().step_async(actions)

    def send_to(self, index: int, message: tuple[str, Any]) -> None:
        """
        Ask a worker for something.

        :param index: of the worker
        :param message: command and argument
        """
        self._asked[index] = message
        if message[0] == "reset":
            self.cut.pop(index, None)
        if message[0] != "step" or index not in self.cut:
            self._workers[index].send(message)

    def answer_of(self, index: int) -> Any:
        """
        Wait for a worker's answer; replace the worker if it gives none and that is wanted.

        :param index: of the worker
        :return: the answer
        :raises WorkerError: if there is none
        """
        command, _ = self._asked[index]
        if command == "step" and index in self.cut:
            return self._end_cut_episode(index)
        try:
            found = self._workers[index].answer()
        except NoAnswerError as failure:
            self._replace(index, str(failure))
            return self.answer_of(index)
        if command in ("step", "reset"):
            self._check(index, command, found)
            self.last_observations[index] = found[0]
        if command == "step":
            self.unproven[index] = False
        return found

    def _check(self, index: int, command: str, found: Any) -> None:
        """Look whether an environment has given an observation of its space and a reward that is a number."""
        what = wrong_observation(found[0], self.observation_space)
        if command == "step" and not what:
            last = found[3].get("terminal_observation")
            what = wrong_reward(found[1]) or (wrong_observation(last, self.observation_space) if found[2] else "")
        if what:
            self._shut(min(self.timeout, SHUTDOWN_SECONDS))
            raise EnvironmentFaultError(index, self.calls, what)

    def _end_cut_episode(self, index: int) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        """Answer a step in place of a worker that has failed: its episode is cut, the next one has begun."""
        reason, last, observation, reset_info = self.cut.pop(index)
        self.last_observations[index] = observation
        info = {"TimeLimit.truncated": True, "worker_restarted": reason, "terminal_observation": last}
        return observation, 0.0, True, info, reset_info

    def _replace(self, index: int, reason: str) -> None:
        """Put a new worker in a failed one's place and repeat the request to it, or raise ``WorkerError``."""
        self._workers[index].kill()
        what = f"environment {index}, step {self.calls} of its training: its process {reason}"
        if self.on_worker_failure == "raise" or self.unproven[index]:
            self._shut(min(self.timeout, SHUTDOWN_SECONDS))
            raise WorkerError(f"{what}; {self._remedy(index)}", index, reason)
        warnings.warn(f"{what}; a new one takes its place, and its episode is cut", stacklevel=2)
        self.restarts[index] += 1
        self.unproven[index] = True
        self._workers[index].start()
        command, argument = message = self._asked[index]
        seed = int(np.random.SeedSequence([self.first_seed, index, self.restarts[index]]).generate_state(1)[0])
        if command == "reset":
            message = (command, (seed, argument[1]))
        elif self.last_observations[index] is not None:
            last = self.last_observations[index]
            self.send_to(index, ("reset", (seed, {})))
            self.cut[index] = (reason, last, *self.answer_of(index))
        self.send_to(index, message)

    def _remedy(self, index: int) -> str:
        """Say what to do about a worker that has failed."""
        if self.unproven[index]:
            return f"{ADVICE}. It had just been restarted and made no step: the environment itself is broken"
        return f"{ADVICE}. on_worker_failure='restart' replaces such a worker; a larger timeout waits longer for it"

    def close(self) -> None:
        """Close the environments and end their processes; one that does not end within ``timeout`` is killed."""
        if not self.closed:
            self._shut(self.timeout)

    def _shut(self, seconds: float) -> None:
        """Close the environments and end their processes, by force after some seconds."""
        self.closed = True
        shut(self._workers, seconds)
