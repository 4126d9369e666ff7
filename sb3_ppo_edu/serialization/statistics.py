"""Statistics of ``VecNormalize`` from someone else: a ``vecnormalize.pkl`` is a pickle, read by the restricted unpickler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from stable_baselines3.common import vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.serialization.allowlist import FILLED_IN_STATISTICS
from sb3_ppo_edu.serialization.archive import read_file
from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, reason
from sb3_ppo_edu.serialization.unpickler import class_name, read_pickle
from sb3_ppo_edu.vec_env.normalize import VecNormalize

_REQUIRED_STATISTICS = frozenset(
    {
        "obs_rms",
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
    if trusted:
        try:
            loaded = VecNormalize.load(str(path), venv)
        except OSError:
            raise
        except Exception as error:
            raise DamagedFileError(f"{where}: it can't be read ({reason(error)}): {ANOTHER_COPY}") from error
        check_moments(loaded, where)
        return loaded
    statistics = read_pickle(read_file(Path(path), where), where, filled=FILLED_IN_STATISTICS)
    found = set(vars(statistics)) if type(statistics) is vec_env.VecNormalize else set()
    if not found >= _REQUIRED_STATISTICS:
        raise DamagedFileError(
            f"{where}: found {class_name(statistics)} without {', '.join(sorted(_REQUIRED_STATISTICS - found))}; "
            f"expected what VecNormalize.save() writes: {ANOTHER_COPY}"
        )
    normalized = VecNormalize.of(statistics)
    try:
        normalized.set_venv(venv)
    except (AssertionError, ValueError, AttributeError, TypeError) as error:
        raise DamagedFileError(
            f"{where}: it does not fit the environment ({reason(error)}); expected the one that it was saved with"
        ) from error
    assert isinstance(normalized, VecNormalize)
    check_moments(normalized, where)
    return normalized


def check_moments(normalized: vec_env.VecNormalize, where: str) -> None:
    """
    Check that means are finite, variances finite and not negative, counts positive, and shapes the observations'.

    :param normalized: as it was read
    :param where: file, for the message
    :raises DamagedFileError: naming the moments that are not so
    """
    space, rms = normalized.observation_space, getattr(normalized, "obs_rms", None)
    spaces = getattr(space, "spaces", {"": space})
    moments = rms if isinstance(rms, dict) else {"": rms} if normalized.norm_obs else {}
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
