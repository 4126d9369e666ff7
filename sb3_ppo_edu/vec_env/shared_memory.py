"""Environments shared out among this process and workers, with several in each and their numbers in memory that all share."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_ppo_edu.vec_env.shares import (
    CELLS,
    PROGRESS,
    OwnShare,
    Place,
    Share,
    ShareWorker,
    call_method,
    rows_of,
    share_arrays,
)
from sb3_ppo_edu.vec_env.workers import ADVICE, SHUTDOWN_SECONDS, NoAnswerError, WorkerError, check_timeout, context_of, shut

SPIN_SECONDS = 2e-3
"""How long to look before sleeping: longer than it takes to choose actions, much shorter than an update."""


class SharedMemoryVecEnv(VecEnv):
    """
    Environments shared out evenly among this process and workers, which step theirs at the same time.

    Episodes are ``DummyVecEnv``'s to the bit. A worker that dies, or whose environment raises, is found at once, and one that
    hangs within ``timeout``: all workers are closed, and :class:`WorkerError` names environment and step. Over its own share,
    which has the first environments, this process can't watch that it hangs or dies; ``WatchedSubprocVecEnv`` keeps all in
    processes of their own. What ``env_method`` and its like raise is passed on. Ctrl-C does not reach the workers.

    Workers stay on one processor each (Linux); this process goes where the system puts it. Where there are fewer processors
    than processes nobody is held to one, and who waits sleeps.

    :param env_fns: functions that each make one environment
    :param n_workers: processes beside this one; by default one for each further processor, and at most one for each further
        environment. 0 steps everything here
    :param start_method: of processes, see ``SubprocVecEnv``
    :param timeout: seconds that a worker has for an answer, a step of its whole share, > 0; at first it has a minute more
    :param pin: whether workers stay on one processor each
    :param spin: seconds that who waits keeps looking before it sleeps
    :raises ValueError: for arguments out of range
    :raises WorkerError: by every method
    """

    not_resumed = ("n_workers", "start_method", "timeout", "pin", "spin")
    """Attributes that are what the resumed training's own environment says."""

    def __init__(
        self,
        env_fns: list[Callable[[], gym.Env]],
        n_workers: int | None = None,
        start_method: str | None = None,
        timeout: float = 60.0,
        pin: bool = True,
        spin: float = SPIN_SECONDS,
    ) -> None:
        check_timeout(timeout)
        n_envs = len(env_fns)
        cpus: list[Any] = (
            sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * (os.cpu_count() or 1)
        )
        n_processes = 1 + (min(len(cpus), n_envs) - 1 if n_workers is None else n_workers)
        if not 1 <= n_processes <= n_envs:
            raise ValueError(f"n_workers={n_workers}: expected 0 to {n_envs - 1}, one environment fewer than there are")
        self.n_workers, self.start_method, self.timeout, self.pin, self.spin = n_workers, start_method, timeout, pin, spin
        self.closed = False
        self.calls = 0
        context = context_of(start_method)
        bounds = [n_envs * process // n_processes for process in range(n_processes + 1)]
        self._parts = [range(start, stop) for start, stop in pairwise(bounds)]
        own = Share(env_fns[: bounds[1]])
        memory = share_arrays(context, own.observation_space, own.action_space, n_envs)
        self.shared = rows_of(memory, 0, n_envs)
        if n_processes > len(cpus):
            spin, pin = 0.0, False
        self._places = [
            Place(part.start, memory, context.RawArray("q", 2 * CELLS), cpus[process] if pin else None, spin)
            for process, part in enumerate(self._parts)
        ]
        for part, place in zip(self._parts, self._places, strict=True):
            place.numbers()[CELLS + PROGRESS] = len(part)
        own.use(self._places[0])
        self._own = OwnShare(own)
        self._workers: list[ShareWorker] = []
        try:
            for part, place in zip(self._parts[1:], self._places[1:], strict=True):
                self._workers.append(ShareWorker(env_fns[part.start : part.stop], context, timeout, place))
            self._shares: list[OwnShare | ShareWorker] = [self._own, *self._workers]
            super().__init__(n_envs, own.observation_space, own.action_space)
        except BaseException:
            self._shut(SHUTDOWN_SECONDS)
            raise
        self.metadata = own.metadata

    @property
    def processes(self) -> list[Any]:
        """The workers' processes."""
        return [worker.process for worker in self._workers]

    def reset(self) -> VecEnvObs:
        """
        Reset every environment.

        :return: first observations
        """
        for share, part in zip(self._shares, self._parts, strict=True):
            share.send(("reset_with", (self._seeds[part.start : part.stop], self._options[part.start : part.stop])))
        self.reset_infos = [info for index in range(len(self._shares)) for info in self._answer_of(index)]
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        """
        Begin a step in the workers.

        :param actions: one for each environment
        """
        self.calls += 1
        own = self.shared["actions"]
        # Others, such as the float32 that SB3 gives for MultiBinary, reach the environments as they are.
        same = isinstance(actions, np.ndarray) and (actions.dtype, actions.shape) == (own.dtype, own.shape)
        if same:
            own[:] = actions
        for share, part in zip(self._shares, self._parts, strict=True):
            share.send(None if same else ("step_with", (actions[part.start : part.stop],)))

    def step_wait(self) -> VecEnvStepReturn:
        """
        Step this process's share, and wait for the others.

        :return: observations, rewards, dones and infos, as ``DummyVecEnv`` gives them
        """
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        for number, part in enumerate(self._parts):
            for index, info, reset_info in self._answer_of(number) or ():
                infos[part.start + index] = info
                if reset_info is not None:
                    self.reset_infos[part.start + index] = reset_info
        return self._observations(), self.shared["rewards"].copy(), self.shared["dones"].copy(), infos

    def _observations(self) -> VecEnvObs:
        """Copy the observations."""
        copies = {key: self.shared["observations", key].copy() for key in self._own.share.keys}
        observations: VecEnvObs = dict_to_obs(self.observation_space, copies)
        return observations

    def _answer_of(self, number: int) -> Any:
        """Wait for the answer of a share; close all if there is none."""
        try:
            return self._shares[number].answer()
        except NoAnswerError as failure:
            part, done = self._parts[number], self._places[number].numbers()[CELLS + PROGRESS]
            if number > 0:
                self._workers[number - 1].kill()
            self._shut(min(self.timeout, SHUTDOWN_SECONDS))
            known = done < len(part)
            index = part.start + done if known else part.start
            what = f"environment {index}" if known or len(part) == 1 else f"one of environments {index} to {part.stop - 1}"
            message = (
                f"{what}, step {self.calls} of its training: its process {failure}; {ADVICE}. A larger timeout waits longer"
            )
            raise WorkerError(message, index, str(failure)) from failure

    def _each(self, function: Callable[..., Any], indices: VecEnvIndices, *arguments: Any) -> list[Any]:
        """Call a function with some of the environments, each in its process, and raise what one of them raises."""
        wanted = np.arange(self.num_envs)[list(self._get_indices(indices))].tolist()
        local = [[index - part.start for index in wanted if index in part] for part in self._parts]
        asked = [number for number, own in enumerate(local) if own]
        for number in asked:
            self._shares[number].send(("each", (function, local[number], arguments)))
        answers = {number: self._answer_of(number) for number in asked}
        for answer in answers.values():
            if isinstance(answer, Exception):
                raise answer
        found = {number: iter(answer) for number, answer in answers.items()}
        return [next(found[number]) for index in wanted for number in asked if index in self._parts[number]]

    def has_attr(self, attr_name: str) -> bool:
        """See ``VecEnv.has_attr``."""
        return all(self._each(operator.methodcaller("has_wrapper_attr", attr_name), None))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See ``VecEnv.get_attr``."""
        return self._each(operator.methodcaller("get_wrapper_attr", attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See ``VecEnv.set_attr``."""
        self._each(setattr, indices, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See ``VecEnv.env_method``."""
        return self._each(call_method, indices, method_name, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """See ``VecEnv.env_is_wrapped``."""
        return self._each(is_wrapped, indices, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Render every environment.

        :return: a picture for each, None where the render mode gives none
        """
        if self.render_mode == "rgb_array":
            return self._each(operator.methodcaller("render"), None)
        warnings.warn(f"render_mode={self.render_mode!r}: expected 'rgb_array', which gives images", stacklevel=2)
        return [None] * self.num_envs

    def close(self) -> None:
        """Close the environments and end the processes; one that does not end within ``timeout`` is killed."""
        if not self.closed:
            self._shut(self.timeout)

    def _shut(self, seconds: float) -> None:
        """Close the environments and end the processes, by force after some seconds."""
        self.closed = True
        shut(self._workers, seconds)
        self._own.share.close()
