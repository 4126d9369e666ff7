"""What a vector environment tells beside observations and rewards, as the list of dictionaries that SB3 expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

STATISTICS = ("episode", "is_success")
"""What SB3 reads of an episode that has ended, and what a wrapper of the whole vector environment writes beside the reset's
information, where the environment has been reset in the same step."""


def infos_of(batched: Mapping[str, Any] | Sequence[Mapping[str, Any]], n_envs: int) -> list[dict[str, Any]]:
    """
    Give each environment its own information.

    Gymnasium keeps one array for each key, and beside it, under ``_key``, a mask of those environments that have it. Other
    vector environments write no masks, or a list of dictionaries. Arrays are copied: an environment may use them again.

    :param batched: information of all environments, one dictionary or one for each
    :param n_envs: number of environments
    :return: one dictionary for each environment
    """
    if isinstance(batched, Mapping):
        return [info_of(batched, index, n_envs) for index in range(n_envs)]
    return [deepcopy(dict(info)) for info in batched]


def info_of(infos: Mapping[str, Any], index: int, n_envs: int) -> dict[str, Any]:
    """
    Take one environment's information from that of all.

    A value of ``n_envs`` parts has one for each environment; any other is the same for all of them.

    :param infos: of a vector environment
    :param index: of the environment
    :param n_envs: number of environments
    :return: its own information
    """
    own: dict[str, Any] = {}
    for key, values in infos.items():
        mask: Any = infos.get(f"_{key}")
        if _is_mask(key, infos, n_envs) or (_is_flags(mask, n_envs) and not mask[index]):
            continue
        if isinstance(values, Mapping):
            value: Any = info_of(values, index, n_envs)
            if not value and values:
                continue
        else:
            value = values[index] if _is_batched(values, n_envs) else values
        own[key] = value.item() if isinstance(value, np.generic) else deepcopy(value)
    return own


def _is_mask(key: Any, infos: Mapping[str, Any], n_envs: int) -> bool:
    """Tell whether a key is the mask of another one."""
    return isinstance(key, str) and key.startswith("_") and key[1:] in infos and _is_flags(infos[key], n_envs)


def _is_flags(values: Any, n_envs: int) -> bool:
    """Tell whether these are a true or false for each environment."""
    return isinstance(values, np.ndarray) and values.dtype == bool and values.shape == (n_envs,)


def _is_batched(values: Any, n_envs: int) -> bool:
    """Tell whether these are a value for each environment."""
    if isinstance(values, np.ndarray):
        return values.ndim > 0 and len(values) == n_envs
    return isinstance(values, list | tuple) and len(values) == n_envs


def drop_unfinished(batched: Any, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
    """
    Drop the statistics of episodes that go on, where no mask tells which have ended: SB3 takes all it sees.

    :param batched: as the vector environment gave it
    :param infos: of each environment, changed in place
    :param dones: whether its episode has ended, shape ``(n_envs,)``
    """
    if isinstance(batched, Mapping) and "episode" in batched and not _is_flags(batched.get("_episode"), len(infos)):
        for info, done in zip(infos, dones, strict=True):
            if not done:
                info.pop("episode", None)


def split_same_step(info: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """
    Take apart what an environment tells that was reset in the step that ended its episode.

    :param info: its own, with ``final_obs`` (``final_observation`` before Gymnasium 1.0) and, where the last step told
        anything, ``final_info``; what else there is belongs to the reset
    :return: last observation, or None if there is none, information of the last step, and of the reset
    """
    reset = dict(info)
    last = [reset.pop(key, None) for key in ("final_obs", "final_observation")]
    final = reset.pop("final_info", None)
    # Without a final_info nobody can tell what is whose.
    step = dict(reset) if final is None else dict(final)
    for key in STATISTICS:
        if key in reset and final is not None:
            step.setdefault(key, reset[key])
        reset.pop(key, None)
    return next((found for found in last if found is not None), None), step, reset
