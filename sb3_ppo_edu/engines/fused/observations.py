"""Observations as a rollout buffer stores them: ``csrc/features.c`` makes of them what the networks take."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ppo_edu.engines.features import parts_of
from sb3_ppo_edu.engines.fused.description import array_address, members

TYPES: dict[Any, int] = {
    np.dtype(kind): number
    for number, kind in enumerate((np.float32, np.float64, np.int8, np.uint8, np.int16, np.int32, np.int64))
}
TYPES[np.dtype(np.bool_)] = TYPES[np.dtype(np.uint8)]
"""The numbers by which the kernels know the types that they read."""

Stored = NDArray[Any] | Mapping[Any, NDArray[Any]]
"""The observations of a rollout buffer: an array, or one for each part."""


class PartStruct(ctypes.Structure):
    """A part of the observations."""

    _fields_ = members("type width", "", "classes data")


class PartsStruct(ctypes.Structure):
    """All parts, in the order of the features."""

    _fields_ = members("count", "", "parts")


class Part(NamedTuple):
    """
    What the kernels have to know of a part.

    :param key: in the dictionary of observations; None where they are one array
    :param width: numbers of an observation, as they are stored
    :param classes: of each number, where it is to become one-hot
    """

    key: Any
    width: int
    classes: NDArray[np.int64] | None


def kernel_parts(policy: ActorCriticPolicy) -> list[Part] | None:
    """
    List the parts of a policy's observations for the kernels.

    :param policy: actor-critic policy that :func:`~sb3_ppo_edu.engines.features.why_not_features` does not refuse
    :return: the parts, in the order of the features; None where one is an image to be scaled
    """
    found = []
    for key, space in parts_of(policy).items():
        classes = None
        if isinstance(space, spaces.Discrete):
            classes = np.array([space.n], np.int64)
        elif isinstance(space, spaces.MultiDiscrete):
            classes = np.array(space.nvec, np.int64).ravel()
        if policy.normalize_images and is_image_space(space):
            return None
        width = int(np.prod(space.shape or ())) if classes is None else len(classes)
        found.append(Part(key, width, classes))
    return found


class StoredParts:
    """
    Where the parts of a rollout's observations lie. They are kept alive here.

    ``may_be_written`` tells whether what an environment gives, whatever its type, may still be stored there: that leaves the
    features what they are, and the kernels see it.

    :param parts: the parts
    :param observations: the rollout buffer's
    :param rows: number of transitions
    :raises ValueError: if an array has another size
    """

    def __init__(self, parts: list[Part], observations: Stored, rows: int) -> None:
        self.arrays: list[NDArray[Any]] = []
        self.may_be_written = True
        self.table = (PartStruct * len(parts))()
        for part, entry in zip(parts, self.table, strict=True):
            given = observations[part.key] if isinstance(observations, Mapping) else observations
            if given.size != rows * part.width:
                name = "" if part.key is None else f"[{part.key!r}]"
                raise ValueError(f"observations{name}: found shape {given.shape}, expected {rows} rows of {part.width}")
            array = np.require(given, None if given.dtype in TYPES else np.float32, ["C", "A"])
            self.may_be_written &= array is given and (part.classes is not None or array.dtype.kind == "f")
            self.arrays.append(array)
            entry.type, entry.width, entry.data = TYPES[array.dtype], part.width, array_address(array)
            entry.classes = None if part.classes is None else array_address(part.classes)
        self.parts = parts
        self.struct = PartsStruct(len(parts), ctypes.addressof(self.table))
        self.address = ctypes.addressof(self.struct)


def parts_at(observations: Any, step: int) -> Any:
    """One step's observations of a rollout buffer, as tensors."""
    if isinstance(observations, dict):
        return {key: th.from_numpy(part[step]) for key, part in observations.items()}
    return th.from_numpy(observations[step])
