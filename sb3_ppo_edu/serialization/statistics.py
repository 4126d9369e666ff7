"""Statistics of ``VecNormalize`` from someone else: a ``vecnormalize.pkl`` is a pickle, read by the restricted unpickler."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common import vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.functional.values import as_float, shown
from sb3_ppo_edu.serialization.allowlist import FILLED_IN_STATISTICS
from sb3_ppo_edu.serialization.archive import read_file
from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, reason
from sb3_ppo_edu.serialization.spaces import check_space
from sb3_ppo_edu.serialization.unpickler import class_name, read_pickle
from sb3_ppo_edu.vec_env.normalize import VecNormalize

_REQUIRED = frozenset(
    {
        "ret_rms",
        "norm_obs",
        "norm_reward",
        "clip_obs",
        "clip_reward",
        "epsilon",
        "gamma",
        "training",
        "observation_space",
        "action_space",
    }
)

_OF_ONE_STEP = ("old_obs", "old_reward")
"""Attributes that the next step replaces; images among them are large."""


def load_statistics(path: str | Path, venv: VecEnv, *, trusted: bool = True) -> vec_env.VecNormalize:
    """
    Load the statistics that ``VecNormalize.save`` has written.

    :param path: the file, usually ``vecnormalize.pkl``
    :param venv: the environment to wrap
    :param trusted: whether to run whatever the file says, as ``VecNormalize.load`` does
    :return: the wrapped environment, normalised by :class:`sb3_ppo_edu.vec_env.VecNormalize`
    :raises FileNotFoundError: if there is no such file
    :raises DamagedFileError: if it is damaged or does not fit the environment
    :raises UntrustedFileError: if it wants anything that is not on the list, and ``trusted`` is false
    """
    where = f"statistics {path}"
    return attach(read_statistics(read_file(Path(path), where), where, trusted=trusted), venv, where)


def read_statistics(content: bytes, where: str, *, trusted: bool = True) -> vec_env.VecNormalize:
    """
    Read what ``VecNormalize.save`` has written, and check it.

    :param content: of the file
    :param where: file, for messages
    :param trusted: whether to run whatever it says
    :return: the normalisation, without environments
    :raises DamagedFileError: if it is damaged
    :raises UntrustedFileError: if it wants anything that is not on the list, and ``trusted`` is false
    """
    if trusted:
        try:
            statistics = pickle.loads(content)
        except Exception as error:
            raise DamagedFileError(f"{where}: it can't be read ({reason(error)}): {ANOTHER_COPY}") from error
    else:
        statistics = read_pickle(content, where, filled=FILLED_IN_STATISTICS)
    known = type(statistics) is vec_env.VecNormalize or (trusted and isinstance(statistics, vec_env.VecNormalize))
    found = vars(statistics).keys() if known else set()
    missing = sorted((_REQUIRED | ({"obs_rms"} if not known or vars(statistics).get("norm_obs") else set())) - found)
    if missing:
        raise DamagedFileError(
            f"{where}: found {class_name(statistics)} without {', '.join(missing)}; "
            f"expected what VecNormalize.save() writes: {ANOTHER_COPY}"
        )
    for name in () if trusted else ("observation_space", "action_space"):
        check_space(vars(statistics)[name], f"{where}, attribute {name!r}")
    normalization: vec_env.VecNormalize = VecNormalize.of(statistics)
    check_moments(normalization, where)
    return normalization


def attach(normalization: vec_env.VecNormalize, venv: VecEnv, where: str) -> vec_env.VecNormalize:
    """
    Put a normalisation that has no environments around some.

    :param normalization: as it was read or copied
    :param venv: the environments to wrap
    :param where: what it is of, for messages
    :return: the normalisation, changed in place
    :raises DamagedFileError: if it does not fit the environments
    """
    try:
        normalization.set_venv(venv)
    except (AssertionError, ValueError, AttributeError, TypeError) as error:
        raise DamagedFileError(
            f"{where}: it does not fit the environment ({reason(error)}); expected the one that it was saved with"
        ) from error
    return normalization


def pickled_statistics(normalization: vec_env.VecNormalize | None) -> bytes | None:
    """
    Write what ``VecNormalize.save`` writes, without the latest observations.

    :param normalization: with environments or without; None for none
    :return: the content of a file; None for none, and for classes derived from SB3's, which may normalise in another way
    """
    if type(normalization) not in (vec_env.VecNormalize, VecNormalize):
        return None
    kept = {name: value for name, value in vars(normalization).items() if name not in _OF_ONE_STEP}
    plain = vec_env.VecNormalize.__new__(vec_env.VecNormalize)
    # The last three are what SB3 leaves out, and finds in whatever it pickles.
    vars(plain).update(kept, old_reward=np.array([]), venv=None, class_attributes={}, returns=None)
    return pickle.dumps(plain)


def same_statistics(one: vec_env.VecNormalize, other: vec_env.VecNormalize) -> bool:
    """
    Tell whether two normalisations make the same of an observation.

    :param one: with environments or without
    :param other: likewise
    :return: whether both have the same moments and bounds
    """
    return all(np.array_equal(here, there) for here, there in zip(_numbers(one), _numbers(other), strict=False))


def _numbers(normalization: vec_env.VecNormalize) -> list[Any]:
    """List what normalises observations; their names first, so that two lists of other parts differ."""
    rms = normalization.obs_rms if normalization.norm_obs else {}
    moments: dict[str, Any] = rms if isinstance(rms, dict) else {"": rms}
    named = sorted(moments.items())
    numbers = [part for _, one in named for part in (one.mean, one.var)]
    return [[name for name, _ in named], normalization.clip_obs, normalization.epsilon, *numbers]


def check_moments(normalized: vec_env.VecNormalize, where: str) -> None:
    """
    Check that means are finite, variances finite and not negative, counts positive, shapes the observations', bounds numbers.

    :param normalized: as it was read
    :param where: file, for the message
    :raises DamagedFileError: naming the moments that are not so
    """
    space, rms = normalized.observation_space, vars(normalized).get("obs_rms")
    spaces = getattr(space, "spaces", {"": space})
    moments = rms if isinstance(rms, dict) else {"": rms} if normalized.norm_obs else {}
    for name, high in (("clip_obs", np.inf), ("clip_reward", np.inf), ("epsilon", np.inf), ("gamma", 1.0)):
        if not 0 <= as_float(value := getattr(normalized, name)) <= high:
            raise DamagedFileError(f"{where}: {name}={shown(value)}: expected a number from 0 to {high:g}: {ANOTHER_COPY}")
    for name in ("norm_obs", "norm_reward", "training"):
        if not isinstance(value := getattr(normalized, name), bool | np.bool_):
            raise DamagedFileError(f"{where}: {name}={shown(value)}: expected True or False: {ANOTHER_COPY}")
    if unknown := [key for key in moments if key not in spaces]:
        raise DamagedFileError(f"{where}: obs_rms[{unknown[0]!r}]: expected parts of {space}: {ANOTHER_COPY}")
    named = [(f"obs_rms{f'[{key!r}]' if key else ''}", one, spaces[key].shape) for key, one in moments.items()]
    for name, one, shape in [*named, ("ret_rms", normalized.ret_rms, ())]:
        for part, low in (("mean", -np.inf), ("var", 0.0), ("count", 0.0)):
            expected = shape if part != "count" else ()
            try:
                values = np.asarray(getattr(one, part), dtype=np.float64)
            except (AttributeError, TypeError, ValueError) as error:
                raise DamagedFileError(
                    f"{where}: {name}.{part}: found no numbers ({reason(error)}): {ANOTHER_COPY}"
                ) from error
            if values.shape != expected or not np.isfinite(values).all() or (values < low).any():
                at_least = "" if part == "mean" else " of at least 0"
                raise DamagedFileError(
                    f"{where}: {name}.{part}: found shape {values.shape} from {values.min(initial=np.inf):g} to "
                    f"{values.max(initial=-np.inf):g}, expected finite numbers{at_least} in shape {expected}: {ANOTHER_COPY}"
                )
