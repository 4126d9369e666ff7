"""
Gymnasium's vector environments, and EnvPool's, as SB3's ``VecEnv``.

SB3 wants an environment whose episode has ended to be reset in the same step: the observation is the new episode's first, and
``info["terminal_observation"]`` the old one's last. Vector environments differ in when they reset
(https://farama.org/Vector-Autoreset-Mode), and each way is brought to that one here:

- ``SAME_STEP`` is SB3's way already; its ``final_obs`` and ``final_info`` are moved to where SB3 expects them.
- ``DISABLED`` leaves resetting to the caller: those that have ended are reset at once, with ``options["reset_mask"]``.
- ``NEXT_STEP`` spends a step on the reset, ignoring the action and paying nothing, which would put a transition that never
  happened into every episode's beginning. Where the environments that have ended can be reset by themselves before that, as
  Gymnasium's own vector environments and EnvPool can, they are; where not, the environment is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ppo_edu.vec_env.action_masks import METHOD
from sb3_ppo_edu.vec_env.autoreset import ResetRows, put_rows, reset_rows_of, rows, wrappers_of
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError
from sb3_ppo_edu.vec_env.infos import drop_unfinished, infos_of, split_same_step
from sb3_ppo_edu.vec_env.reachable import Reachable, end_processes, failure_in, limit_messages, naming_failures, raise_failure
from sb3_ppo_edu.vec_env.workers import check_timeout

# -- one adapter for all -------------------------------------------------------------------------------------------------


class VectorAdapter(VecEnv):
    """
    A vector environment of Gymnasium's kind as SB3's ``VecEnv``.

    Episode statistics are not its business: wrap single environments in ``Monitor``, or this in ``VecMonitor``.

    :param vector_env: with ``reset``, ``step``, ``num_envs``, ``single_observation_space`` and ``single_action_space``
    :param reset_rows: resets some environments by themselves; None where each resets itself in its last step
    """

    def __init__(self, vector_env: Any, reset_rows: ResetRows | None) -> None:
        self.vector_env, self._reset_rows = vector_env, reset_rows
        self._actions: np.ndarray | None = None
        self._steps = 0
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def reset(self) -> VecEnvObs:
        """
        Reset all environments, with the seeds and options that were set before.

        :return: first observations
        :raises ValueError: if the environments were given different options: a vector environment takes one for all
        """
        if any(one != self._options[0] for one in self._options):
            raise ValueError(
                f"options={self._options}: {self._name()} takes the same for all of its environments; expected one dict"
            )
        observations, infos = self._reset_all(self._seeds[0], deepcopy(self._options[0]) or None)
        self.reset_infos = self._infos(infos, "reset")
        self._reset_seeds()
        self._reset_options()
        kept: VecEnvObs = self._kept(observations, self.observation_space, "reset")
        return kept

    def _reset_all(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Reset every environment; the first has the seed, and the others count up from it, as ``VecEnv.seed`` has it."""
        found: tuple[Any, dict[str, Any]] = self.vector_env.reset(seed=seed, options=options)
        return found

    def step_async(self, actions: np.ndarray) -> None:
        """
        Take in the actions of the next step.

        :param actions: one row for each environment
        """
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """
        Step every environment, and reset those whose episode ended.

        :return: observations, rewards, dones and infos, as ``DummyVecEnv`` gives them
        """
        observations, rewards, terminated, truncated, batched = self._step()
        self._steps += 1
        when = f"step {self._steps}"
        observations = self._kept(observations, self.observation_space, when)
        for what, found in (("rewards", rewards), ("terminated", terminated), ("truncated", truncated)):
            if np.shape(found) != (self.num_envs,):
                raise ValueError(
                    f"{self._name()}, {when}: found {what} of shape {np.shape(found)}, expected ({self.num_envs},), one "
                    "number for each environment"
                )
        dones = np.logical_or(terminated, truncated)
        ended = [int(index) for index in np.flatnonzero(dones)]
        infos = self._infos(batched, when)
        drop_unfinished(batched, infos, dones)
        terminal: dict[int, Any] = {}
        for index in ended:
            if self._reset_rows is None:
                terminal[index], infos[index], self.reset_infos[index] = split_same_step(infos[index])
            else:
                terminal[index] = rows(observations, index)
        if ended and self._reset_rows is not None:
            first, of_reset = self._reset_rows(np.array(ended))
            put_rows(observations, np.array(ended), first)
            told = self._infos(of_reset, f"reset after {when}")
            for index in ended:
                self.reset_infos[index] = told[index]
        for index, info in enumerate(infos):
            info["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
            if index in terminal:
                if terminal[index] is None:
                    raise ValueError(
                        f"{self._name()}: environment {index} has ended its episode in step {self._steps} and was reset in it "
                        "(SAME_STEP), found no final_obs in its infos, expected the episode's last observation there"
                    )
                info["terminal_observation"] = terminal[index]
        return observations, np.array(rewards, dtype=np.float32), dones, infos

    def _kept(self, observations: Any, space: gym.Space, when: str) -> Any:
        """Copy observations, since the environments may write the next ones into the same memory, and check their shapes."""
        if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple) and isinstance(observations, dict | tuple):
            keys: Any = space.spaces if isinstance(space, gym.spaces.Dict) else range(len(space.spaces))
            parts = {key: self._kept(observations[key], space[key], f"{when}, part {key!r}") for key in keys}
            return parts if isinstance(observations, dict) else tuple(parts.values())
        expected = (self.num_envs, *(space.shape or ()))
        if not isinstance(observations, np.ndarray) or observations.shape != expected:
            kind = f"shape {observations.shape}" if isinstance(observations, np.ndarray) else type(observations).__module__
            kind = kind if isinstance(observations, np.ndarray) else f"{kind}.{type(observations).__name__}"
            raise ValueError(
                f"{self._name()}, {when}: found observations of {kind}, expected a numpy array of shape {expected}, a row for "
                "each environment; wrappers that make tensors (NumpyToTorch, JaxToTorch, ArrayConversion) are to be left away"
            )
        return observations.copy()

    def _infos(self, batched: Any, when: str) -> list[dict[str, Any]]:
        """Give each environment its own information, and check that there is some."""
        if isinstance(batched, Mapping) or (isinstance(batched, Sequence) and len(batched) == self.num_envs):
            return infos_of(batched, self.num_envs)
        raise ValueError(
            f"{self._name()}, {when}: found infos {batched!r:.99}, expected one dict for all environments, or a list of "
            f"{self.num_envs}"
        )

    def _step(self) -> tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment with the actions that were taken in."""
        found: tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]] = self.vector_env.step(self._actions)
        return found

    def close(self) -> None:
        """Close the environments."""
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        Render every environment.

        :return: a picture for each
        """
        frames = self.vector_env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    # A vector environment written as one has no single environments: what it has, all of them have.

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute.

        :param attr_name: its name
        :param indices: of the environments, all by default
        :return: its value for each
        """
        return [getattr(self.vector_env, attr_name)] * len(self._selected(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of single environments, where there are any.

        :param attr_name: its name
        :param value: its value
        :param indices: of the environments
        """
        raise NotImplementedError(self._no_single("set_attr", attr_name))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        Call a method of single environments, where there are any; masks may come from all at once, a row for each.

        :param method_name: its name
        :param method_args: its arguments
        :param indices: of the environments
        :param method_kwargs: its named arguments
        :return: what it gives for each
        """
        if method_name == METHOD and hasattr(self.vector_env, METHOD):
            masks = self.vector_env.action_masks()
            if len(masks) != self.num_envs:
                raise ValueError(f"{self._name()}.{METHOD}(): found {len(masks)} rows, expected {self.num_envs}, one for each")
            return [masks[index] for index in self._selected(indices)]
        raise NotImplementedError(self._no_single("env_method", method_name))

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Tell whether single environments are in a wrapper.

        :param wrapper_class: the wrapper
        :param indices: of the environments, all by default
        :return: for each whether it is
        """
        return [False] * len(self._selected(indices))

    def _selected(self, indices: VecEnvIndices) -> list[int]:
        """List the indices that are meant."""
        return list(self._get_indices(indices))

    def _name(self) -> str:
        """Name what is adapted, for messages."""
        return type(self.vector_env).__name__

    def _no_single(self, verb: str, name: str) -> str:
        """Say why a call can't be made."""
        return f"{verb}({name!r}): {self._name()} steps all environments as one, so that there is none to call by itself"


class EnvList(VectorAdapter):
    """
    Gymnasium's ``SyncVectorEnv``, whose single environments can be reached.

    :param vector_env: the vector environment
    :param reset_rows: see :class:`VectorAdapter`
    """

    @property
    def envs(self) -> list[gym.Env]:
        """The single environments, without what names their faults."""
        return [env.env if type(env) is Reachable else env for env in self.vector_env.unwrapped.envs]

    def _reset_all(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """See :meth:`VectorAdapter._reset_all`."""
        with self._naming_step(0):
            return super()._reset_all(seed, options)

    def _step(self) -> tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment."""
        with self._naming_step(1):
            return super()._step()

    @contextmanager
    def _naming_step(self, more: int) -> Iterator[None]:
        """Add the step to what :class:`Reachable` tells of an environment."""
        try:
            yield
        except EnvironmentFaultError as fault:
            raise EnvironmentFaultError(fault.index, self._steps + more, fault.what) from fault.__cause__

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See :meth:`VectorAdapter.get_attr`."""
        return [self.envs[index].get_wrapper_attr(attr_name) for index in self._selected(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See :meth:`VectorAdapter.set_attr`."""
        for index in self._selected(indices):
            self.envs[index].set_wrapper_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See :meth:`VectorAdapter.env_method`."""
        methods = self.get_attr(method_name, indices)
        return [method(*method_args, **method_kwargs) for method in methods]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """See :meth:`VectorAdapter.env_is_wrapped`."""
        return [is_wrapped(self.envs[index], wrapper_class) for index in self._selected(indices)]


class EnvProcesses(VectorAdapter):
    """
    Gymnasium's ``AsyncVectorEnv``, which steps each environment in a process of its own.

    A process that hangs, dies, or whose environment raises ends all others, and is named.

    :param vector_env: the vector environment; single environments can be reached if each is wrapped in :class:`Reachable`
    :param reset_rows: see :class:`VectorAdapter`
    :param reachable: whether they are
    :param timeout: seconds that a process has for an answer, > 0
    :raises ValueError: for arguments out of range
    :raises WorkerError: by every method
    """

    not_resumed = ("timeout",)
    """Attributes that are what the resumed training's own environment says."""

    def __init__(
        self, vector_env: AsyncVectorEnv, reset_rows: ResetRows | None, reachable: bool = False, timeout: float = 60.0
    ) -> None:
        check_timeout(timeout)
        self._reachable, self.timeout = reachable, timeout
        limit_messages(vector_env, timeout)
        super().__init__(vector_env, reset_rows)

    def _reset_all(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """See :meth:`VectorAdapter._reset_all`."""
        with self._naming_failures():
            self.vector_env.reset_async(seed=seed, options=options)
            found: tuple[Any, dict[str, Any]] = self._told(self.vector_env.reset_wait(self.timeout))
        return found

    def step_async(self, actions: np.ndarray) -> None:
        """
        Send the actions to the processes, which step while the caller goes on.

        :param actions: one row for each environment
        """
        with self._naming_failures(1):
            self.vector_env.step_async(actions)

    def _step(self) -> tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        """Wait for the step that has begun."""
        found: tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]
        with self._naming_failures(1):
            found = self._told(self.vector_env.step_wait(self.timeout), 1)
        return found

    def _naming_failures(self, more: int = 0) -> Any:
        """See :func:`naming_failures`."""
        return naming_failures(self.vector_env, self.timeout, self._steps + more)

    def _told(self, found: Any, more: int = 0) -> Any:
        """Raise what an environment has raised, if one has."""
        failure = failure_in(found[-1])
        if failure is not None:
            raise_failure(self.vector_env, failure[0], self._steps + more, failure[1])
        return found

    def close(self) -> None:
        """Close the environments and end their processes; one that does not end within ``timeout`` is killed."""
        end_processes(self.vector_env, self.timeout)

    def has_attr(self, attr_name: str) -> bool:
        """
        Tell whether all environments have an attribute, which need not be what a process can send.

        :param attr_name: its name
        """
        return all(self._reach(None, "has", attr_name)) if self._reachable else bool(super().has_attr(attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See :meth:`VectorAdapter.get_attr`."""
        if not self._reachable and attr_name == "render_mode":
            return [self.vector_env.render_mode] * len(self._selected(indices))
        return self._reach(indices, "get", attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See :meth:`VectorAdapter.set_attr`."""
        self._reach(indices, "set", attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See :meth:`VectorAdapter.env_method`."""
        return self._reach(indices, "call", method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """See :meth:`VectorAdapter.env_is_wrapped`."""
        return self._reach(indices, "is_wrapped", wrapper_class) if self._reachable else super().env_is_wrapped(wrapper_class)

    def _reach(self, indices: VecEnvIndices, verb: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Ask the environments that are meant, and raise what one of them has raised."""
        if not self._reachable:
            raise NotImplementedError(
                f"{verb}{args}: this AsyncVectorEnv passes calls to all of its environments and loses those that have no such "
                "attribute; expected environments wrapped in sb3_ppo_edu.vec_env.reachable.Reachable"
            )
        selected = self._selected(indices)
        with self._naming_failures():
            self.vector_env.call_async("reach", selected, verb, *args, **kwargs)
            answers = self.vector_env.call_wait(self.timeout)
        for _, error in answers:
            if error is not None:
                raise error
        return [answers[index][0] for index in selected]


# -- choosing ------------------------------------------------------------------------------------------------------------


def adapt(vector_env: VectorEnv) -> VectorAdapter:
    """
    Make SB3's ``VecEnv`` of one of Gymnasium's vector environments.

    :param vector_env: the vector environment
    :return: the same for SB3
    :raises ValueError: if it is none, does not say when it resets, spends a step on it that can't be avoided, or has a wrapper
        that can't reset some of its environments by themselves
    """
    if not isinstance(vector_env, VectorEnv):
        raise ValueError(
            f"adapt: found {type(vector_env).__name__}, expected a gymnasium.vector.VectorEnv; a single environment is given "
            "to the algorithm as it is, several are made by make_vec_env"
        )
    reset_rows = reset_rows_of(vector_env)
    wrapper = next((one for one in wrappers_of(vector_env) if isinstance(one, NormalizeObservation)), None)
    if wrapper is not None:
        raise ValueError(
            f"{type(wrapper).__name__}: it can't reset some of its environments by themselves, as SB3 does at an episode's "
            "end; leave it away and write VecNormalize(adapt(...), norm_reward=False) instead"
        )
    inner = vector_env.unwrapped
    if isinstance(inner, SyncVectorEnv):
        return EnvList(vector_env, reset_rows)
    if isinstance(inner, AsyncVectorEnv) and vector_env is inner:
        return EnvProcesses(vector_env, reset_rows)
    return VectorAdapter(vector_env, reset_rows)


def adapt_for_training(vector_env: VectorEnv, monitor: bool = True) -> VecEnv:
    """
    Make what an algorithm trains in of one of Gymnasium's vector environments, which SB3 would not take.

    :param vector_env: the vector environment
    :param monitor: whether to count returns and lengths of episodes (``VecMonitor``) where nothing in it does
    :return: the same for SB3
    :raises ValueError: see :func:`adapt`
    """
    env = adapt(vector_env)
    counts = any(isinstance(one, RecordEpisodeStatistics) for one in wrappers_of(vector_env))
    return VecMonitor(env) if monitor and not counts and not all(env.env_is_wrapped(Monitor)) else env


# -- EnvPool -------------------------------------------------------------------------------------------------------------


class EnvPoolAdapter(VectorAdapter):
    """
    An EnvPool, which steps environments written in C++ in threads.

    Its environments are its own: they follow the same rules as Gymnasium's, with other random numbers, and for some physics
    engines other versions.

    :param make: makes the pool, given its seed
    :param seed: of the first environment; the others count up from it
    """

    def __init__(self, make: Callable[[int], Any], seed: int = 0) -> None:
        self._make, self._seed = make, seed
        super().__init__(make(seed), self._reset_some)

    def _reset_all(self, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """Reset every environment; a pool is seeded only when it is made."""
        if options:
            raise ValueError(f"options={options}: EnvPool takes none")
        if seed is not None and seed != self._seed:
            self.vector_env.close()
            self._seed = seed
            self.vector_env = self._make(self._seed)
        return self.vector_env.reset()[0], {}

    def _step(self) -> tuple[Any, Any, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment; its infos are about the pool."""
        observations, rewards, terminated, truncated, _ = self.vector_env.step(self._actions)
        return observations, rewards, terminated, truncated, {}

    def _reset_some(self, indices: np.ndarray) -> tuple[VecEnvObs, dict[str, Any]]:
        """Reset some environments."""
        return self.vector_env.reset(indices.astype(np.int32))[0], {}
