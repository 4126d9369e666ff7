"""When Gymnasium's vector environments reset those whose episode has ended, and how that is made SB3's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

ResetRows = Callable[[np.ndarray], tuple[VecEnvObs, dict[str, Any]]]
"""Resets the environments of some indices, and gives their first observations in that order, and the infos of all."""
OVERWRITTEN: dict[type[VectorEnv], tuple[str, ...]] = {
    CartPoleVectorEnv: ("state", "steps", "prev_done"),
    RecordEpisodeStatistics: ("episode_start_times", "episode_returns", "episode_lengths", "prev_dones"),
}
"""Arrays, the environments last, that a reset of some overwrites for all. Gymnasium's CartPoles know no ``reset_mask``, and
its wrapper misses it, because what is inside has taken it out of the same dictionary before the wrapper looks for it."""


def rows(observations: Any, indices: Any) -> Any:
    """
    Take some environments' part of batched observations.

    :param observations: array, or dictionary or tuple of arrays, with the environments first
    :param indices: one index, an array of them, or ``slice(None)`` for all
    :return: copies of their parts
    """
    if isinstance(observations, dict):
        return {key: rows(part, indices) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(rows(part, indices) for part in observations)
    return np.array(observations[indices])


def put_rows(observations: Any, indices: np.ndarray, new: Any) -> None:
    """
    Replace some environments' part of batched observations.

    :param observations: array, or dictionary or tuple of arrays, changed in place
    :param indices: of the environments
    :param new: their new parts, in the same form
    """
    if isinstance(observations, dict):
        for key, part in observations.items():
            put_rows(part, indices, new[key])
    elif isinstance(observations, tuple):
        for part, new_part in zip(observations, new, strict=True):
            put_rows(part, indices, new_part)
    else:
        observations[indices] = new


def wrappers_of(vector_env: VectorEnv) -> Iterator[VectorEnv]:
    """
    Go through the wrappers of a vector environment.

    :param vector_env: the vector environment
    :return: its wrappers from the outermost, and the environment in them
    """
    while isinstance(vector_env, VectorWrapper):
        yield vector_env
        vector_env = vector_env.env
    yield vector_env


def reset_rows_of(vector_env: VectorEnv) -> ResetRows | None:
    """
    Find out how environments that have ended are reset by themselves.

    :param vector_env: the vector environment
    :return: what resets them, None if they do it in their last step
    :raises ValueError: if it does not say when it resets, or spends a step on it that can't be avoided
    """
    mode = vector_env.metadata.get("autoreset_mode")
    if mode == AutoresetMode.SAME_STEP:
        return None
    inner: Any = vector_env.unwrapped
    known = isinstance(inner, SyncVectorEnv | AsyncVectorEnv | CartPoleVectorEnv)
    if mode == AutoresetMode.DISABLED or (mode == AutoresetMode.NEXT_STEP and known):
        return partial(_reset_by_mask, vector_env)
    name = type(inner).__name__
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"{name}: found autoreset_mode {mode!r} in its metadata, expected one of {', '.join(AutoresetMode.__members__)}: "
            'write metadata = {"autoreset_mode": AutoresetMode.SAME_STEP} in its class if it resets in an episode\'s last step'
        )
    raise ValueError(
        f"{name}: found autoreset mode NEXT_STEP, which puts a step that is none between two episodes, expected SAME_STEP or "
        "DISABLED: build it with autoreset_mode=AutoresetMode.SAME_STEP if it takes that"
    )


def _reset_by_mask(vector_env: VectorEnv, indices: np.ndarray) -> tuple[VecEnvObs, dict[str, Any]]:
    """Reset some environments as Gymnasium provides for it."""
    mask = np.zeros(vector_env.num_envs, dtype=np.bool_)
    mask[indices] = True
    options: dict[str, Any] = {"reset_mask": mask}
    if isinstance(vector_env.unwrapped, CartPoleVectorEnv):
        options.update(low=vector_env.unwrapped.low, high=vector_env.unwrapped.high)  # of the first reset, else forgotten
    chain: list[Any] = list(wrappers_of(vector_env))
    kinds = [(one, names) for one in chain for kind, names in OVERWRITTEN.items() if isinstance(one, kind)]
    before = [(one, name, np.array(getattr(one, name))) for one, names in kinds for name in names]
    try:
        observations, infos = vector_env.reset(options=options)
    except Exception as error:
        name = " in ".join(type(one).__name__ for one in chain)
        raise ValueError(
            f"{name}: resetting the environments {indices.tolist()} by options['reset_mask'] failed ({error}); expected "
            "wrappers that pass it on, or autoreset_mode=AutoresetMode.SAME_STEP"
        ) from error
    for one, name, values in before:
        setattr(one, name, np.where(mask, getattr(one, name), values))
    return rows(observations, indices), infos
