"""What is wrong with an observation that nothing could be predicted from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.utils import is_vectorized_observation

from sb3_ppo_edu.algorithms.checks import ArgumentError
from sb3_ppo_edu.serialization.text import did_you_mean


@contextmanager
def explaining(observation: Any, space: spaces.Space[Any], optional: Sequence[str] = ()) -> Iterator[None]:
    """
    Look at an observation where something has failed with it: nothing that SB3 takes is refused, and nothing costs time.

    :param observation: as ``predict`` was given it
    :param space: of the observations
    :param optional: keys that it need not have
    :raises ArgumentError: if something has failed and the observation is wrong, saying which part of it
    """
    try:
        yield
    except Exception as error:
        said = isinstance(observation, tuple) and isinstance(error, ValueError)  # by SB3 itself
        found = None if said else _fault(observation, space, optional)
        if found is None:
            raise
        raise ArgumentError(f"observation: found {found}") from error


def _fault(observation: Any, space: spaces.Space[Any], optional: Sequence[str]) -> str | None:
    """Say what was found and what was expected; None where SB3 says it as well."""
    if isinstance(observation, tuple):
        return "a tuple, expected the observation alone: outside vector environments reset gives (observation, info)"
    if not isinstance(space, spaces.Dict):
        return f"{_kind(observation)}, expected an array for {space}" if isinstance(observation, Mapping) else None
    keys = ", ".join(f"{key!r}{' (may be left out)' * (key in optional)}" for key in space.spaces)
    if not isinstance(observation, Mapping):
        return f"{_kind(observation)}, expected a dict with the keys {keys}"
    for key in observation:
        if key not in space.spaces:
            return f"the key {key!r}{did_you_mean(str(key), space.spaces)}, expected {keys}"
    for key in space.spaces:
        if key not in observation and key not in optional:
            return f"no {key!r} in {_kind(observation)}, expected {keys}"
    return _fault_of_shapes(observation, space)


def _fault_of_shapes(observation: Mapping[str, Any], space: spaces.Dict) -> str | None:
    """The same, of a dict that has the right keys."""
    counts: dict[str, int] = {}
    for key, value in observation.items():
        part, array = space[key], np.asarray(value)
        try:
            counts[key] = len(array) if is_vectorized_observation(maybe_transpose(array, part), part) else 1
        except ValueError:
            one = tuple(part.shape or ())
            return f"shape {array.shape} for {key!r}, expected {one}, or {('n', *one)} of n environments".replace("'n'", "n")
    if len({*counts.values()}) > 1:
        return f"{', '.join(f'{count} of {key!r}' for key, count in counts.items())}, expected as many of each"
    return None


def _kind(observation: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(observation, Mapping):
        return f"a dict with the keys {', '.join(map(repr, observation))}" if observation else "an empty dict"
    return f"an array of shape {observation.shape}" if isinstance(observation, np.ndarray) else repr(observation)[:50]
