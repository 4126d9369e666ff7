"""Files from strangers: what models save is read, what is damaged is named, and what a pickle wants to run is never run."""

from __future__ import annotations

import base64
import contextlib
import copyreg
import functools
import io
import json
import operator
import os
import pickle
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_edu import EduPPO, Reinforce
from sb3_ppo_edu.serialization.untrusted import (
    DamagedFileError,
    UntrustedFileError,
    load_statistics,
    read_archive,
    read_pickle,
)
from tests.environments import RandomWalk

TIME_LIMIT = 2.0
"""Seconds within which a bad file is refused."""

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 1}
NETWORK = {"net_arch": [8]}
FALLING: dict[str, Any] = {"learning_rate": "lin_0.001"}


def make_walk(observation: str = "box", action: str = "box") -> DummyVecEnv:
    """One environment of the given spaces."""
    return DummyVecEnv([lambda: RandomWalk(observation, action)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Content of the file of a model that has trained."""
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    model = EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, **FALLING, **SMALL)
    model.learn(16)
    model.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Content of the file of a ``VecNormalize`` that has seen a few steps."""
    path = tmp_path_factory.mktemp("statistics") / "vecnormalize.pkl"
    env = VecNormalize(make_walk())
    env.reset()
    env.action_space.seed(0)
    for _ in range(5):
        env.step(np.array([env.action_space.sample()]))
    env.save(str(path))
    return path.read_bytes()


def members_of(content: bytes) -> dict[str, bytes]:
    """Read an archive's members with the standard library alone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Write an archive with the given members, in this order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def replacing(content: bytes, name: str, new: bytes | None) -> bytes:
    """Replace, add or (with None) take away a member."""
    members = {**members_of(content), name: new}
    return archive_of([(key, value) for key, value in members.items() if value is not None])


def with_attribute(content: bytes, name: str, value: Any) -> bytes:
    """Replace an attribute in the JSON of a model's file."""
    data = json.loads(members_of(content)["data"])
    return replacing(content, "data", json.dumps({**data, name: value}).encode())


def serialized(pickled: bytes) -> dict[str, str]:
    """Pickle in the form in which Stable-Baselines3 puts one into its JSON."""
    return {":type:": "<class 'object'>", ":serialized:": base64.b64encode(pickled).decode()}


# -- what is saved loads -------------------------------------------------------------------------------------------------


def assert_same(one: Any, other: Any) -> None:
    """Compare two models: parameters, optimizer, and every saved attribute that can be compared by its text."""
    for ours, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    assert repr(one.policy.optimizer.state_dict()) == repr(other.policy.optimizer.state_dict())
    skipped = {"policy", "env", "_engines", "_session", "objective", "rollout_buffer", "start_time", "_logger"}
    assert set(vars(one)) == set(vars(other))
    for name in set(vars(one)) - skipped:
        assert repr(vars(one)[name]) == repr(vars(other)[name]), name


MODELS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, **SMALL),
    "tanh": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, action_distribution="tanh_gaussian", **SMALL),
    "beta": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, action_distribution="beta", **SMALL),
    "beta-dict": lambda: EduPPO(
        "MultiInputPolicy", make_walk("dict"), policy_kwargs=NETWORK, action_distribution="beta", **SMALL
    ),
    "gsde": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, use_sde=True, **SMALL),
    "schedules": lambda: EduPPO(
        "MlpPolicy",
        make_walk(),
        policy_kwargs=NETWORK,
        clip_range_vf=0.3,
        **FALLING,
        **{"clip_range": "lin_0.2", "ent_coef": "lin_0.01", "vf_coef": "lin_0.5"},  # type: ignore[arg-type]
        **SMALL,
    ),
    "kwargs": lambda: EduPPO(
        "MlpPolicy",
        make_walk(),
        policy_kwargs={
            "net_arch": {"pi": [8], "vf": [4, 4]},
            "activation_fn": th.nn.ReLU,
            "optimizer_class": RMSpropTFLike,
            "optimizer_kwargs": {"eps": 1e-5},
        },
        log_std_bounds=(-2.0, 1.0),
        **SMALL,
    ),
    "discrete": lambda: EduPPO("MlpPolicy", make_walk("discrete", "discrete"), policy_kwargs=NETWORK, **SMALL),
    "multidiscrete": lambda: EduPPO("MlpPolicy", make_walk("box", "multidiscrete"), policy_kwargs=NETWORK, **SMALL),
    "multibinary": lambda: EduPPO("MlpPolicy", make_walk("box", "multibinary"), policy_kwargs=NETWORK, **SMALL),
    "normalized": lambda: EduPPO("MlpPolicy", VecNormalize(make_walk()), policy_kwargs=NETWORK, **SMALL),
    "reinforce": lambda: Reinforce("MlpPolicy", make_walk(), policy_kwargs=NETWORK, n_steps=16, device="cpu", seed=1),
    "sb3-cartpole": lambda: PPO("MlpPolicy", "CartPole-v1", **SMALL),
    "sb3-box": lambda: PPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, clip_range_vf=0.2, **SMALL),
    "sb3-lander": lambda: PPO("MlpPolicy", gym.make("LunarLander-v3", continuous=True), **SMALL),
    "sb3-dict": lambda: PPO("MultiInputPolicy", make_walk("dict", "discrete"), **SMALL),
    "sb3-image": lambda: PPO("CnnPolicy", make_walk("image", "discrete"), **SMALL),
}


@pytest.mark.parametrize("name", MODELS)
def test_saved_model_loads_untrusted(name: str, tmp_path: Path) -> None:
    """A model of ours, or a standard one of SB3's, is the same when read with the list as when its pickles are run."""
    model = MODELS[name]()
    model.learn(16)
    model.save(tmp_path / "model")
    algorithm = Reinforce if name == "reinforce" else EduPPO
    untrusted = algorithm.load(tmp_path / "model", device="cpu", trusted=False)
    assert_same(algorithm.load(tmp_path / "model", device="cpu"), untrusted)
    assert untrusted.num_timesteps == model.num_timesteps
    observation = model.observation_space.sample()
    ours, _ = untrusted.predict(observation, deterministic=True)
    theirs, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(ours, theirs)


def test_training_goes_on_from_an_untrusted_file(saved: bytes) -> None:
    """Training after either way of loading moves the parameters by the same bits."""
    models = [EduPPO.load(io.BytesIO(saved), env=make_walk(), device="cpu", trusted=trusted) for trusted in (True, False)]
    for model in models:
        model.set_random_seed(5)
        model.learn(32, reset_num_timesteps=False)
    assert_same(*models)


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
    return isinstance(value, frozenset) or (isinstance(value, (list, tuple)) and any(map(_has_set, value)))


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


def test_user_function_is_refused_and_replaceable(tmp_path: Path) -> None:
    """A schedule that is a user's function is refused with its attribute's name; custom_objects takes its place."""
    model = EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, clip_range=lambda progress: 0.2 * progress, **SMALL)
    model.save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match=r"'clip_range'.*cloudpickle.*trusted=True.*--trust.*custom_objects"):
        EduPPO.load(tmp_path / "model", device="cpu", trusted=False)
    assert clip_range_of(EduPPO.load(tmp_path / "model", device="cpu")) == 0.1
    replaced = EduPPO.load(tmp_path / "model", device="cpu", trusted=False, custom_objects={"clip_range": 0.3})
    assert clip_range_of(replaced) == 0.3


def clip_range_of(model: EduPPO) -> float:
    """Clip range in the middle of training."""
    assert callable(model.clip_range)
    return float(model.clip_range(0.5))


class OwnPolicy(ActorCriticPolicy):
    """A user's policy: importing its module runs the user's code."""


def test_user_class_is_refused_by_name(tmp_path: Path) -> None:
    """A class outside the list is refused under its own name."""
    EduPPO(OwnPolicy, make_walk(), policy_kwargs=NETWORK, **SMALL).save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match=r"'policy_class'.*tests\.test_untrusted\.OwnPolicy"):
        EduPPO.load(tmp_path / "model", device="cpu", trusted=False)


# -- hostile pickles -----------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call, as an attacker would write it."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        """What to call at unpickling."""
        return self.reduced


def text(value: str) -> bytes:
    """Push a string."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    """Push what a module has under a name."""
    return text(module) + text(name) + b"\x93"


EXTENSION_CODE = 200

HOSTILE: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda canary: pickle.dumps(Call(os.system, f"touch {canary}")),
    "os.mkdir": lambda canary: pickle.dumps(Call(os.mkdir, canary)),
    "eval": lambda canary: pickle.dumps(Call(eval, f"open({canary!r}, 'w')")),
    "exec": lambda canary: pickle.dumps(Call(exec, f"open({canary!r}, 'w')")),
    "open": lambda canary: pickle.dumps(Call(open, canary, "w")),
    "subprocess": lambda canary: pickle.dumps(Call(subprocess.check_call, ["touch", canary])),
    "getattr": lambda canary: (
        b"\x80\x04" + stack_global("builtins", "getattr") + stack_global("collections", "deque") + text("__init__") + b"\x86R."
    ),
    "attrgetter": lambda canary: pickle.dumps(Call(operator.attrgetter("__class__.__base__.__subclasses__"), canary)),
    "methodcaller": lambda canary: pickle.dumps(Call(operator.methodcaller("touch"), Path(canary))),
    "partial": lambda canary: pickle.dumps(Call(functools.partial(os.mkdir, canary))),
    "cloudpickle function": lambda canary: cloudpickle.dumps(Call(lambda: open(canary, "w").close())),
    "numpy.loadtxt": lambda canary: pickle.dumps(Call(np.savetxt, canary, [1.0])),
    "numpy.ctypeslib": lambda canary: (
        b"\x80\x04" + stack_global("numpy.ctypeslib", "load_library") + b"(" + text(canary) + b"tR."
    ),
    "numpy.save by module attribute": lambda canary: (
        b"\x80\x04" + stack_global("numpy.lib._npyio_impl", "save") + text(canary) + b"]\x86R."
    ),
    "torch.load": lambda canary: b"\x80\x04" + stack_global("torch.serialization", "load") + text(canary) + b"\x85R.",
    "torch storage": lambda canary: b"\x80\x05" + stack_global("torch.storage", "_load_from_bytes") + b"C\x04evil" + b"\x85R.",
    "dotted name": lambda canary: (
        b"\x80\x04" + stack_global("stable_baselines3.common.utils", "os.system") + text(f"touch {canary}") + b"\x85R."
    ),
    "dotted name split elsewhere": lambda canary: (
        b"\x80\x04" + stack_global("gymnasium.spaces", "box.np.savetxt") + text(canary) + b"]\x86R."
    ),
    "GLOBAL": lambda canary: b"cposix\nsystem\n(" + text(f"touch {canary}") + b"tR.",
    "INST": lambda canary: b"(S'touch " + canary.encode() + b"'\niposix\nsystem\n.",
    "INST without strings of protocol 0": lambda canary: b"(" + text(f"touch {canary}") + b"iposix\nsystem\n.",
    "OBJ": lambda canary: b"(" + stack_global("posix", "system") + text(f"touch {canary}") + b"o.",
    "OBJ of a class on the list": lambda canary: b"(" + stack_global("torch.nn.modules.activation", "ReLU") + b"o.",
    "EXT1": lambda canary: b"\x80\x02\x82" + bytes([EXTENSION_CODE]) + text(f"touch {canary}") + b"\x85R.",
    "persistent id": lambda canary: b"Pevil\n" + text(f"touch {canary}") + b"\x85R.",
    "binary persistent id": lambda canary: text("evil") + b"Q.",
    "out-of-band buffer": lambda canary: b"\x80\x05\x97.",
    "memo": lambda canary: (
        b"\x80\x04" + stack_global("posix", "system") + b"\x940" + text(f"touch {canary}") + b"\x85h\x00\x8c\x00R."
    ),
    "memo with the name put together": lambda canary: (
        b"\x80\x04"
        + text("posix")
        + b"\x94"
        + text("system")
        + b"\x94"
        + b"h\x00h\x01\x93"
        + text(f"touch {canary}")
        + b"\x85R."
    ),
    "call of a class on the list": lambda canary: (
        b"\x80\x04" + stack_global("stable_baselines3.common.policies", "ActorCriticPolicy") + b")R."
    ),
    "NEWOBJ of a class on the list": lambda canary: (
        b"\x80\x04" + stack_global("torch.nn.modules.activation", "ReLU") + b")\x81."
    ),
    "NEWOBJ_EX": lambda canary: b"\x80\x04" + stack_global("gymnasium.spaces.box", "Box") + b")}\x92.",
    "BUILD on a class": lambda canary: (
        b"\x80\x04"
        + stack_global("stable_baselines3.common.policies", "ActorCriticPolicy")
        + b"N}"
        + text("forward")
        + text("evil")
        + b"s\x86b."
    ),
    "BUILD on a dictionary": lambda canary: b"\x80\x04}}" + text("update") + text("evil") + b"sb.",
    "BUILD that replaces __setstate__": lambda canary: (
        b"\x80\x04"
        + stack_global("gymnasium.spaces.tuple", "Tuple")
        + b")\x81}"
        + text("__setstate__")
        + stack_global("posix", "system")
        + b"sb"
        + text(f"touch {canary}")
        + b"b."
    ),
    "BUILD that replaces a method": lambda canary: (
        b"\x80\x04"
        + stack_global("gymnasium.spaces.tuple", "Tuple")
        + b")\x81}"
        + text("sample")
        + stack_global("torch.nn.modules.activation", "ReLU")
        + b"sb."
    ),
    "BUILD that replaces the class": lambda canary: (
        b"\x80\x04"
        + stack_global("gymnasium.spaces.tuple", "Tuple")
        + b")\x81}"
        + text("__class__")
        + stack_global("torch.nn.modules.activation", "ReLU")
        + b"sb."
    ),
    "_reconstructor": lambda canary: pickle.dumps(Call(copyreg._reconstructor, Call, object, None)),  # type: ignore[attr-defined]
    "importlib": lambda canary: b"\x80\x04" + stack_global("importlib", "import_module") + text("antigravity") + b"\x85R.",
    "nested pickle": lambda canary: pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.mkdir, canary)))),
    "pandas": lambda canary: b"\x80\x04" + stack_global("pandas", "read_pickle") + text(canary) + b"\x85R.",
    "VecNormalize in a model": lambda canary: (
        b"\x80\x04" + stack_global("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize") + b")\x81."
    ),
    "object array": lambda canary: pickle.dumps(np.array([Call(os.mkdir, canary)], dtype=object)),
    "structured dtype": lambda canary: pickle.dumps(np.zeros(2, dtype=[("a", "f4")])),
    "huge array": lambda canary: (
        b"\x80\x04"
        + stack_global("numpy._core.multiarray", "_reconstruct")
        + stack_global("numpy", "ndarray")
        + b"J\xff\xff\xff\x7f\x85C\x01b\x87R."
    ),
    "array with too few bytes": lambda canary: (
        b"\x80\x05"
        + stack_global("numpy._core.multiarray", "_reconstruct")
        + stack_global("numpy", "ndarray")
        + b"K\x00\x85C\x01b\x87R(K\x01J\xff\xff\xff\x7f\x85"
        + stack_global("numpy", "dtype")
        + text("f8")
        + b"\x89\x88\x87R\x89C\x08ABCDEFGHtb."
    ),
    "huge bytearray": lambda canary: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "huge bytes": lambda canary: b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "nested tuples as a key": lambda canary: b"\x80\x04N\x94}h\x00h\x00\x86" + _doubled(60) + b"Ns.",
    "no end": lambda canary: b"\x80\x04]",
    "empty": lambda canary: b"",
    "noise": lambda canary: bytes(range(255, 0, -1)),
}


def _doubled(times: int) -> bytes:
    """Pair the top of the stack with itself, again and again: its hash takes 2^times steps."""
    return b"".join(b"\x94h" + bytes([index + 1]) + b"\x86" for index in range(times))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_runs_nothing(name: str, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile pickle in a model's file, or as a file of statistics, is refused at once, and its canary is not created."""
    canary = tmp_path / "canary"
    # An extension that is registered and cached never reaches find_class of the standard unpickler.
    monkeypatch.setitem(copyreg._extension_cache, EXTENSION_CODE, os.system)  # type: ignore[attr-defined]
    monkeypatch.setitem(copyreg._inverted_registry, EXTENSION_CODE, ("posix", "system"))  # type: ignore[attr-defined]
    pickled = HOSTILE[name](str(canary))
    model = tmp_path / "model.zip"
    model.write_bytes(with_attribute(saved, "clip_range", serialized(pickled)))
    statistics = tmp_path / "vecnormalize.pkl"
    statistics.write_bytes(pickled)
    before = dict(vars(ActorCriticPolicy))
    started = time.perf_counter()
    with pytest.raises((UntrustedFileError, DamagedFileError), match=r"model\.zip"):
        EduPPO.load(model, device="cpu", trusted=False)
    with pytest.raises((UntrustedFileError, DamagedFileError), match=r"vecnormalize\.pkl"):
        load_statistics(statistics, make_walk(), trusted=False)
    assert time.perf_counter() - started < TIME_LIMIT
    assert not canary.exists()
    assert dict(vars(ActorCriticPolicy)) == before


@pytest.mark.parametrize("name", ["os.mkdir", "open", "exec", "nested pickle"])
def test_the_canary_sings(name: str, saved: bytes, tmp_path: Path) -> None:
    """The same file does create the canary when it is trusted: the test above would notice."""
    canary = tmp_path / "canary"
    model = tmp_path / "model.zip"
    model.write_bytes(with_attribute(saved, "unused", serialized(HOSTILE[name](str(canary)))))
    EduPPO.load(model, device="cpu")
    assert canary.exists()


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
    "name", ["predict", "learn", "_setup_model", "set_parameters", "policy", "env", "__dict__", "_engine"]
)
def test_attribute_that_replaces_a_part_is_refused(name: str, saved: bytes) -> None:
    """An attribute under the name of a method, or of what is never saved, is refused."""
    with pytest.raises(UntrustedFileError, match=name):
        EduPPO.load(io.BytesIO(with_attribute(saved, name, 1)), device="cpu", trusted=False)


# -- damaged files -------------------------------------------------------------------------------------------------------


def other_algorithm(algorithm: type[Any]) -> bytes:
    """Save a model of another algorithm."""
    file = io.BytesIO()
    algorithm("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs=NETWORK).save(file)
    return file.getvalue()


def encrypted(content: bytes) -> bytes:
    """Mark every member as encrypted, in the directory and before the member."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = 0
        while (start := changed.find(signature, start)) >= 0:
            changed[start + offset] |= 1
            start += 4
    return bytes(changed)


def flipped(content: bytes, position: int) -> bytes:
    """Flip all bits of one byte."""
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


def pickled_space(space: spaces.Space) -> dict[str, str]:
    """A space as SB3 saves it."""
    return serialized(cloudpickle.dumps(space))


def tensors(value: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    th.save(value, file, **options)
    return file.getvalue()


def with_inner_bomb(content: bytes) -> bytes:
    """Compress the weights inside their member: a little file that becomes large."""
    inner = members_of(members_of(content)["policy.pth"])
    inner["archive/data/0"] = bytes(2**24)
    return replacing(content, "policy.pth", archive_of(list(inner.items()), zipfile.ZIP_DEFLATED))


def serialized_part(content: bytes, attribute: str, change: Callable[[str], Any]) -> bytes:
    """Change the base64 of one attribute."""
    value = json.loads(members_of(content)["data"])[attribute]
    return with_attribute(content, attribute, {**value, ":serialized:": change(value[":serialized:"])})


def member_start(content: bytes, name: str) -> int:
    """Find the first byte of a stored member's content."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        header = archive.getinfo(name).header_offset
    lengths = struct.unpack("<HH", content[header + 26 : header + 30])
    return header + 30 + int(sum(lengths))


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda good: b"", "0 bytes"),
    "not a zip": (lambda good: b"hello" * 100, "not an intact zip"),
    "pickle": (lambda good: pickle.dumps({"policy": 1}), "not an intact zip"),
    "a tenth": (lambda good: good[: len(good) // 10], "not an intact zip"),
    # The weights are a zip of their own: where a file is cut behind them, that one's directory is found.
    "half": (lambda good: good[: len(good) // 2], "not an intact zip|before the first member"),
    "without its last byte": (lambda good: good[:-1], "not an intact zip|damaged"),
    "only the directory": (lambda good: good[-500:], "not an intact zip|damaged"),
    "begins with noise": (lambda good: bytes(1000) + good[1000:], "not an intact zip|damaged"),
    "weights flipped": (lambda good: flipped(good, member_start(good, "policy.pth") + 700), "CRC"),
    "JSON flipped": (lambda good: flipped(good, member_start(good, "data") + 9), "CRC"),
    "bytes before it": (lambda good: b"#!/bin/sh\n" + good, "10 bytes before"),
    "zeros": (lambda good: bytes(len(good)), "not an intact zip"),
    "empty zip": (lambda good: archive_of([]), "found no data"),
    "no data": (lambda good: replacing(good, "data", None), "found no data"),
    "no weights": (lambda good: replacing(good, "policy.pth", None), "found no policy.pth"),
    "no optimizer": (lambda good: replacing(good, "policy.optimizer.pth", None), "found no policy.optimizer.pth"),
    "path traversal": (lambda good: replacing(good, "../evil", b"x"), r"the name '\.\./evil'"),
    "absolute path": (lambda good: replacing(good, "/etc/evil", b"x"), "the name '/etc/evil'"),
    "backslashes": (lambda good: replacing(good, "..\\evil", b"x"), "the name"),
    "drive": (lambda good: replacing(good, "C:evil", b"x"), "the name"),
    "folder": (lambda good: replacing(good, "folder/", b""), "the name"),
    "encrypted": (encrypted, "encrypted; expected members without"),
    "bzip2": (lambda good: archive_of(list(members_of(good).items()), zipfile.ZIP_BZIP2), "compressed by method"),
    "zip bomb": (
        lambda good: archive_of([*members_of(good).items(), ("bomb", bytes(2**27))], zipfile.ZIP_DEFLATED),
        "members of",
    ),
    "zip bomb inside the weights": (with_inner_bomb, "policy.pth"),
    "unknown tensors": (lambda good: replacing(good, "policy.features.pth", tensors({})), "policy.features.pth"),
    "weights no archive": (lambda good: replacing(good, "policy.pth", b"\x80\x02}q\x00."), "policy.pth"),
    "weights in the old format": (
        lambda good: replacing(good, "policy.pth", tensors({}, _use_new_zipfile_serialization=False)),
        "policy.pth",
    ),
    "weights empty": (lambda good: replacing(good, "policy.pth", tensors({})), "Missing key"),
    "weights no dictionary": (lambda good: replacing(good, "policy.pth", tensors([1, 2])), "no model can be built"),
    "weights with code": (lambda good: replacing(good, "policy.pth", tensors(Call(os.getcwd))), "no model can be built"),
    "weights of another shape": (
        lambda good: replacing(good, "policy.pth", tensors({"log_std": th.zeros(7)})),
        "no model can be built",
    ),
    "optimizer of another network": (
        lambda good: replacing(good, "policy.optimizer.pth", tensors({"state": {}, "param_groups": []})),
        "no model can be built",
    ),
    "JSON broken": (lambda good: replacing(good, "data", b'{"policy_class": '), "broken JSON"),
    "JSON a list": (lambda good: replacing(good, "data", b"[1, 2]"), "broken JSON"),
    "JSON no text": (lambda good: replacing(good, "data", b"\xff\xfe\xfa\x00"), "broken JSON"),
    "JSON nested deeply": (lambda good: replacing(good, "data", b"[" * 100_000), "broken JSON"),
    "JSON empty": (lambda good: replacing(good, "data", b"{}"), "found no"),
    "base64 broken": (lambda good: serialized_part(good, "lr_schedule", lambda code: code[:-3]), "'lr_schedule'.*base64"),
    "base64 no text": (lambda good: serialized_part(good, "lr_schedule", lambda code: 7), "'lr_schedule'.*base64"),
    "pickle cut off": (lambda good: serialized_part(good, "action_space", lambda code: code[:400]), "'action_space'.*pickle"),
    "A2C": (lambda good: other_algorithm(A2C), "found no batch_size"),
    "DQN": (lambda good: other_algorithm(DQN), "found no clip_range"),
    "other action space": (
        lambda good: with_attribute(good, "action_space", pickled_space(spaces.Discrete(4))),
        "no model can be built",
    ),
    "other observation space": (
        lambda good: with_attribute(good, "observation_space", pickled_space(spaces.Box(-1, 1, (99,)))),
        "no model can be built",
    ),
    "space no space": (lambda good: with_attribute(good, "observation_space", 5), "no model can be built"),
    "policy no class": (lambda good: with_attribute(good, "policy_class", "os.system"), "no model can be built"),
    "policy another class": (
        lambda good: with_attribute(good, "policy_class", serialized(cloudpickle.dumps(th.nn.ReLU))),
        "no model can be built",
    ),
    "steps no number": (lambda good: with_attribute(good, "n_steps", "many"), "no model can be built"),
    "network too large": (lambda good: with_attribute(good, "policy_kwargs", {"net_arch": [30_000] * 3}), "net_arch"),
    "policy_kwargs no dictionary": (lambda good: with_attribute(good, "policy_kwargs", [1]), "no model can be built"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_named(name: str, saved: bytes, tmp_path: Path) -> None:
    """A damaged file ends within the time limit in an error that names it and what is wrong with it."""
    damage, message = DAMAGED[name]
    path = tmp_path / "model.zip"
    path.write_bytes(damage(saved))
    started = time.perf_counter()
    with pytest.raises(DamagedFileError, match=message) as error:
        EduPPO.load(path, device="cpu", trusted=False)
    assert time.perf_counter() - started < TIME_LIMIT
    assert str(path) in str(error.value)
    assert "expected" in str(error.value)


def test_duplicate_member_is_refused(saved: bytes, tmp_path: Path) -> None:
    """Two members of one name are refused, since one might be checked and the other loaded."""
    path = tmp_path / "model.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        path.write_bytes(archive_of([*members_of(saved).items(), ("data", b"{}")]))
    with pytest.raises(DamagedFileError, match="two members named 'data'"):
        EduPPO.load(path, device="cpu", trusted=False)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    """A file that is not there, and a folder in its place, are named."""
    with pytest.raises(FileNotFoundError, match=r"absent.*no such file"):
        EduPPO.load(tmp_path / "absent", device="cpu", trusted=False)
    with pytest.raises(DamagedFileError, match=r"cannot be read \(Is a directory\)"):
        EduPPO.load(tmp_path, device="cpu", trusted=False)
    with pytest.raises(FileNotFoundError, match=r"absent.pkl.*no such file"):
        load_statistics(tmp_path / "absent.pkl", make_walk(), trusted=False)


def test_environment_with_other_spaces_is_refused(saved: bytes) -> None:
    """An environment whose spaces are not the model's is refused, with both named by SB3."""
    with pytest.raises(DamagedFileError, match="Observation spaces do not match"):
        EduPPO.load(io.BytesIO(saved), env=make_walk("discrete"), device="cpu", trusted=False)


def test_compressed_archive_is_read(saved: bytes) -> None:
    """A model's file that was packed again with compression is still read."""
    packed = archive_of(list(members_of(saved).items()), zipfile.ZIP_DEFLATED)
    assert EduPPO.load(io.BytesIO(packed), device="cpu", trusted=False).num_timesteps == 16


@given(data=st.data())
def test_truncated_archive_is_damaged(saved: bytes, data: st.DataObject) -> None:
    """Wherever a file is cut off, it is named as damaged."""
    with pytest.raises(DamagedFileError, match="cut"):
        read_archive(saved[: data.draw(st.integers(0, len(saved) - 1))], "cut")


@given(data=st.data())
def test_flipped_archive_is_damaged_or_the_same(saved: bytes, data: st.DataObject) -> None:
    """Wherever a bit is flipped, the members are refused or what they were, except for their names and dates."""
    position = data.draw(st.integers(0, len(saved) - 1))
    changed = bytearray(saved)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        members = read_archive(bytes(changed), "flipped")
    except DamagedFileError:
        return
    assert list(members.values()) == list(members_of(saved).values())


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
