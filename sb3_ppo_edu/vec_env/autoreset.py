"""When Gymnasium's vector environments reset those whose episode has ended, and how that is made SB3's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

ResetRows = Callable[[np.ndarray], tuple[VecEnvObs, dict[str, Any]]]
"""Resets the environments of some indices, and gives their first observations in that order, and the infos of all."""


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
    if mode == AutoresetMode.DISABLED or (
        mode == AutoresetMode.NEXT_STEP and isinstance(inner, SyncVectorEnv | AsyncVectorEnv)
    ):
        return partial(_reset_by_mask, vector_env)
    if mode == AutoresetMode.NEXT_STEP and isinstance(inner, CartPoleVectorEnv) and vector_env is inner:
        return partial(_reset_cartpoles, cast(CartPoleVectorEnv, inner))
    name = type(inner).__name__
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"{name}: found autoreset_mode {mode!r} in its metadata, expected one of {', '.join(AutoresetMode.__members__)}"
        )
    raise ValueError(
        f"{name}: found autoreset mode NEXT_STEP, which puts a step that is none between two episodes, expected SAME_STEP or "
        "DISABLED: build it with autoreset_mode=AutoresetMode.SAME_STEP if it takes that"
    )


def _reset_by_mask(vector_env: VectorEnv, indices: np.ndarray) -> tuple[VecEnvObs, dict[str, Any]]:
    """Reset some environments as Gymnasium provides for it."""
    mask = np.zeros(vector_env.num_envs, dtype=np.bool_)
    mask[indices] = True
    try:
        observations, infos = vector_env.reset(options={"reset_mask": mask})
    except Exception as error:
        chain = " in ".join(type(one).__name__ for one in wrappers_of(vector_env))
        raise ValueError(
            f"{chain}: resetting the environments {indices.tolist()} by options['reset_mask'] failed ({error}); expected "
            "wrappers that pass it on, or autoreset_mode=AutoresetMode.SAME_STEP"
        ) from error
    return rows(observations, indices), infos


def _reset_cartpoles(env: CartPoleVectorEnv, indices: np.ndarray) -> tuple[VecEnvObs, dict[str, Any]]:
    """Reset some of Gymnasium's CartPoles, as they do themselves at the beginning of their next step."""
    assert env.state is not None
    env.state[:, indices] = env.np_random.uniform(low=env.low, high=env.high, size=(4, len(indices)))
    env.steps[indices] = 0
    env.prev_done[indices] = False
    return env.state.T[indices].astype(np.float32), {}
