"""The restricted unpickler: plain values and arrays are read as saved, and what a pickle wants to run is never run."""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu import policies
from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError
from sb3_ppo_edu.serialization.unpickler import read_pickle
from tests.hostile_pickles import EXTENSION_CODE, HOSTILE, Call, stack_global
from tests.model_files import saved_statistics


@pytest.fixture(scope="module")
def statistics() -> bytes:
    """Content of the file of a ``VecNormalize`` that has seen a few steps."""
    return saved_statistics()


def test_random_generator_goes_on() -> None:
    """A generator read from a pickle draws and spawns the numbers that the original does next."""
    generator = np.random.default_rng([3, 4][0])
    generator.random(7)
    generator.spawn(2)
    for protocol in (4, 5):
        read = read_pickle(pickle.dumps(generator, protocol), "test")
        expected = pickle.loads(pickle.dumps(generator, protocol))
        np.testing.assert_array_equal(read.random(5), expected.random(5))
        ours, theirs = read.spawn(1)[0], expected.spawn(1)[0]
        np.testing.assert_array_equal(ours.random(5), theirs.random(5))


@pytest.mark.parametrize("maker", ["__bit_generator_ctor", "__generator_ctor"])
def test_random_generator_of_numpy_1_goes_on(maker: str) -> None:
    """Numpy 1 saves a bit generator's name and its state as a dictionary: what is read draws the original's next numbers."""
    bits = np.random.PCG64(5)
    bits.random_raw(7)
    read = read_pickle(
        pickle.dumps(Call(getattr(importlib.import_module("numpy.random._pickle"), maker), "PCG64", state=bits.state)), "test"
    )
    assert getattr(read, "bit_generator", read).random_raw(3).tolist() == bits.random_raw(3).tolist()


@pytest.mark.parametrize("path", ["runs/a", "/tmp", ""])
def test_paths_survive(path: str) -> None:
    """A path is a path again, of the system that reads it."""
    assert read_pickle(pickle.dumps(Path(path)), "test") == Path(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["?", "|i1", "<u2", ">i4", "<f4", ">f8", "<c16"])
def test_arrays_survive(protocol: int, order: str, dtype: str) -> None:
    """An array and a number are what the standard unpickler makes of them, whatever the pickle's protocol."""
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)  # type: ignore[call-overload]
    read = read_pickle(pickle.dumps(array, protocol), "test")
    assert read.dtype == pickle.loads(pickle.dumps(array, protocol)).dtype
    assert read.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(read_pickle(pickle.dumps(array[0, 1], protocol), "test"), array[0, 1])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.frozensets(st.integers() | st.text())
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_values_survive(value: Any, protocol: int) -> None:
    """Any nesting of plain values and containers is what the standard unpickler makes of it."""
    assume(protocol >= 4 or not _has_set(value))
    assert read_pickle(pickle.dumps(value, protocol), "test") == value


def _has_set(value: Any) -> bool:
    """Tell whether there is a set in a value; before protocol 4 a set is a call."""
    if isinstance(value, dict):
        return any(map(_has_set, value.values()))
    return isinstance(value, (set, frozenset)) or (isinstance(value, (list, tuple)) and any(map(_has_set, value)))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("os.system", "posix.system"),
        ("eval", "builtins.eval"),
        ("dotted name", "stable_baselines3.common.utils.os.system"),
        ("EXT1", "EXT1"),
        ("persistent id", "PERSID"),
        ("GLOBAL", "posix.system"),
        ("call of a class on the list", "ActorCriticPolicy"),
        ("BUILD on a class", "ActorCriticPolicy"),
    ],
)
def test_refusal_names_the_type(name: str, found: str) -> None:
    """The message names what was refused, where, and the way to load it knowingly."""
    with pytest.raises(UntrustedFileError) as refusal:
        read_pickle(HOSTILE[name]("canary"), "somewhere")
    for part in ("somewhere", found, "trusted=True", "--trust"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_pickle_is_refused_by_the_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine itself refuses each hostile pickle, whatever would have become of its result."""
    monkeypatch.setitem(copyreg._extension_cache, EXTENSION_CODE, os.system)  # type: ignore[attr-defined]
    with pytest.raises((UntrustedFileError, DamagedFileError)):
        read_pickle(HOSTILE[name]("canary"), "somewhere")


def test_large_index_takes_no_memory() -> None:
    """The memo holds what is put there, not a table up to the largest index."""
    assert read_pickle(b"\x80\x05K\x07r\xff\xff\xff\xff.", "somewhere") == 7


def test_name_that_commands_a_terminal_is_spelt_out() -> None:
    """A name with escape sequences is printed as text."""
    with pytest.raises(UntrustedFileError) as refusal:
        read_pickle(b"\x80\x04" + stack_global("evil\x1b[2J", "name") + b".", "somewhere")
    assert "\x1b" not in str(refusal.value)
    assert "evil" in str(refusal.value)


@given(st.binary(max_size=60))
def test_noise_is_refused_or_plain(noise: bytes) -> None:
    """Whatever the bytes, the machine ends with one of its two errors or a value."""
    with contextlib.suppress(UntrustedFileError, DamagedFileError):
        read_pickle(b"\x80\x04" + noise, "noise")


@given(data=st.data())
def test_changed_statistics_never_escape(statistics: bytes, data: st.DataObject) -> None:
    """A file of statistics with any bytes changed is refused or read, never anything else."""
    changed = bytearray(statistics)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UntrustedFileError, DamagedFileError):
        read_pickle(bytes(changed), "changed", filled=(VecNormalize,))


@pytest.mark.parametrize(
    "name",
    [
        "BetaPolicy",
        "BetaCnnPolicy",
        "BetaMultiInputPolicy",
        "TanhGaussianPolicy",
        "TanhGaussianCnnPolicy",
        "TanhGaussianMultiInputPolicy",
    ],
)
def test_policy_is_read_by_its_old_and_its_new_path(name: str) -> None:
    """A policy of ours is read by the module that files of the first edition name, and by the one that it lies in."""
    policy = getattr(policies, name)
    for module in ("sb3_ppo_edu.policies", policy.__module__):
        assert read_pickle(b"\x80\x04" + stack_global(module, name) + b".", "test") is policy
