"""Statistics of ``VecNormalize`` from someone else: a ``vecnormalize.pkl`` is a pickle, read by the restricted unpickler."""

from __future__ import annotations

from pathlib import Path

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
    if trusted:
        return VecNormalize.load(str(path), venv)
    where = f"statistics {path}"
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
    return normalized
