"""Untrusted statistics of ``VecNormalize``: what is saved is read, what is damaged or does not fit is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError
from sb3_ppo_edu.serialization.statistics import load_statistics
from tests.hostile_pickles import stack_global
from tests.model_files import make_walk, saved_statistics


@pytest.fixture(scope="module")
def statistics() -> bytes:
    """Content of the file of a ``VecNormalize`` that has seen a few steps."""
    return saved_statistics()


@pytest.mark.parametrize("name", ["box", "dict"])
def test_statistics_load_untrusted(name: str, tmp_path: Path) -> None:
    """Statistics read with the list normalise an observation as the original does, and go on counting from there."""
    env = VecNormalize(make_walk(name), clip_obs=3.0, norm_obs_keys=["vector"] if name == "dict" else None)
    env.reset()
    for _ in range(9):
        env.step(np.array([env.action_space.sample()]))
    env.save(str(tmp_path / "vecnormalize.pkl"))
    read = load_statistics(tmp_path / "vecnormalize.pkl", make_walk(name), trusted=False)
    trusted = load_statistics(tmp_path / "vecnormalize.pkl", make_walk(name))
    observation = env.get_original_obs()
    for loaded in (read, trusted):
        assert repr(loaded.normalize_obs(observation)) == repr(env.normalize_obs(observation))
        assert loaded.ret_rms.var == env.ret_rms.var
        assert loaded.clip_obs == 3.0
    read.seed(3)
    read.reset()
    read.step(np.array([env.action_space.sample()]))


STATISTICS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda good: b"", "broken pickle"),
    "half": (lambda good: good[: len(good) // 2], "broken pickle"),
    "text": (lambda good: b"running mean", "vecnormalize.pkl"),
    "dictionary": (lambda good: pickle.dumps({"obs_rms": 1}), "dict without"),
    "no attributes": (
        lambda good: b"\x80\x04" + stack_global("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize") + b")\x81.",
        "VecNormalize without action_space",
    ),
    "object array": (lambda good: pickle.dumps(np.array([None])), "vecnormalize.pkl"),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_damaged_statistics_are_named(name: str, statistics: bytes, tmp_path: Path) -> None:
    """A damaged file of statistics ends in an error that names it and what is wrong with it."""
    damage, message = STATISTICS[name]
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(damage(statistics))
    with pytest.raises((DamagedFileError, UntrustedFileError), match=message) as error:
        load_statistics(path, make_walk(), trusted=False)
    assert str(path) in str(error.value)


def test_statistics_of_another_environment_are_refused(statistics: bytes, tmp_path: Path) -> None:
    """Statistics of observations of another shape do not fit, and the file is named."""
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(statistics)
    with pytest.raises(DamagedFileError, match=r"vecnormalize.pkl.*does not fit"):
        load_statistics(path, make_walk("image"), trusted=False)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("moments", "part", "value", "expected"),
    [
        ("obs_rms", "mean", np.nan, "obs_rms.mean: found shape .* from nan"),
        ("obs_rms", "var", -1.0, "obs_rms.var: .* from -1 .*of at least 0"),
        ("obs_rms", "var", np.inf, "obs_rms.var: .* to inf"),
        ("obs_rms", "mean", np.zeros(9), r"obs_rms.mean: found shape \(9,\)"),
        ("obs_rms", "count", -5.0, "obs_rms.count"),
        ("ret_rms", "var", np.nan, "ret_rms.var"),
        ("ret_rms", "mean", np.zeros(3), r"ret_rms.mean: found shape \(3,\).*in shape \(\)"),
    ],
)
def test_impossible_moments_are_refused(
    moments: str, part: str, value: object, expected: str, trusted: bool, statistics: bytes, tmp_path: Path
) -> None:
    """NaN, infinity, a negative variance or count and another shape are refused when they are read, by file and name."""
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(statistics)
    damaged = VecNormalize.load(str(path), make_walk())
    before = getattr(getattr(damaged, moments), part)
    setattr(getattr(damaged, moments), part, value if isinstance(value, np.ndarray) else np.full_like(before, value))
    damaged.save(str(path))
    with pytest.raises(DamagedFileError, match=expected) as error:
        load_statistics(path, make_walk(), trusted=trusted)
    assert str(path) in str(error.value)


def test_trusted_statistics_that_are_no_pickle_are_named(tmp_path: Path) -> None:
    """A file that is trusted and cut off is named, as one that is not trusted."""
    path = tmp_path / "vecnormalize.pkl"
    path.touch()
    with pytest.raises(DamagedFileError, match=r"vecnormalize.pkl: it can't be read \(Ran out of input\)"):
        load_statistics(path, make_walk())


@pytest.mark.parametrize("trusted", [False, True])
def test_moments_that_are_no_numbers_are_refused(trusted: bool, statistics: bytes, tmp_path: Path) -> None:
    """Text where numbers belong is refused when it is read, by file and name."""
    path = tmp_path / "vecnormalize.pkl"
    path.write_bytes(statistics)
    damaged = VecNormalize.load(str(path), make_walk())
    vars(damaged.obs_rms)["mean"] = "many"
    damaged.save(str(path))
    with pytest.raises(DamagedFileError, match=r"vecnormalize.pkl: obs_rms.mean: found no numbers"):
        load_statistics(path, make_walk(), trusted=trusted)


@pytest.mark.parametrize("trusted", [False, True])
def test_absent_statistics_are_an_absent_file(trusted: bool, tmp_path: Path) -> None:
    """A file that is not there is Python's own error, with its name."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pkl"):
        load_statistics(tmp_path / "nowhere.pkl", make_walk(), trusted=trusted)
