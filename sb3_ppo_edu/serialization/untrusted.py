"""
Reading files from strangers: Stable-Baselines3's ``model.zip`` and ``vecnormalize.pkl``, without running what is in them.

Both hold pickles, and a pickle is a program: it may call any function that Python can import. This module reads them with a
machine that knows only the instructions, the types and the ways of making them that saved models need.
A type on its list falls into one of three groups:

- *named*: a class that may be mentioned (``policy_class``, ``activation_fn``) and is never called,
- *filled*: a class whose instances are made empty and get their attributes from the file (spaces, schedules),
- *made*: numpy's arrays, numbers and random generators, and a few containers, made by functions that check what they get.

Everything else is refused with an :class:`UntrustedFileError` that names it. What is on the list runs no code of the file's. A
file may still ask for a large network, which costs memory and time.
"""

from __future__ import annotations

import base64
import binascii
import collections
import io
import json
import math
import operator
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import buffers, policies, torch_layers, utils
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_edu.functional import objectives as own_objectives
from sb3_ppo_edu.policies import bounded as own_policies


class DamagedFileError(ValueError):
    """A file is not what it should be: cut off, changed, of another kind or version. The message says what and where."""


class UntrustedFileError(ValueError):
    """A file wants something that is not known to be harmless. The message names it and says how to load it knowingly."""


# --------------------------------------------------------------------------------------------------------------------------
# The list
# --------------------------------------------------------------------------------------------------------------------------

_NAMED: tuple[type, ...] = (
    policies.ActorCriticPolicy,
    policies.ActorCriticCnnPolicy,
    policies.MultiInputActorCriticPolicy,
    own_policies.TanhGaussianPolicy,
    own_policies.TanhGaussianCnnPolicy,
    own_policies.TanhGaussianMultiInputPolicy,
    own_policies.BetaPolicy,
    own_policies.BetaCnnPolicy,
    own_policies.BetaMultiInputPolicy,
    torch_layers.FlattenExtractor,
    torch_layers.NatureCNN,
    torch_layers.CombinedExtractor,
    buffers.RolloutBuffer,
    buffers.DictRolloutBuffer,
    th.nn.CELU,
    th.nn.ELU,
    th.nn.GELU,
    th.nn.Hardsigmoid,
    th.nn.Hardswish,
    th.nn.Hardtanh,
    th.nn.Identity,
    th.nn.LeakyReLU,
    th.nn.Mish,
    th.nn.PReLU,
    th.nn.ReLU,
    th.nn.ReLU6,
    th.nn.SELU,
    th.nn.SiLU,
    th.nn.Sigmoid,
    th.nn.Softplus,
    th.nn.Softsign,
    th.nn.Tanh,
    th.optim.Adadelta,
    th.optim.Adagrad,
    th.optim.Adam,
    th.optim.AdamW,
    th.optim.Adamax,
    th.optim.NAdam,
    th.optim.RAdam,
    th.optim.RMSprop,
    th.optim.SGD,
    RMSpropTFLike,
    np.bool_,
    *(np.dtype(code).type for code in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")),
    # Arguments of the functions that make their instances.
    np.ndarray,
    np.random.PCG64,
    np.random.SeedSequence,
)

_FILLED: tuple[type, ...] = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiDiscrete,
    spaces.MultiBinary,
    spaces.Dict,
    spaces.Tuple,
    utils.ConstantSchedule,
    utils.FloatSchedule,
    utils.LinearSchedule,
)

_FILLED_IN_STATISTICS: tuple[type, ...] = (VecNormalize, RunningMeanStd)


def _require(condition: bool) -> None:
    """Refuse arguments that no library's own pickles have; :func:`read_pickle` says where."""
    if not condition:
        raise ValueError("arguments that no saved model has")


def _is_shape(shape: Any) -> bool:
    """Tell whether something is the shape of an array."""
    return type(shape) is tuple and len(shape) <= 32 and all(type(size) is int and size >= 0 for size in shape)


def _make_dtype(name: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """Make the type of plain numbers. A copy, because its byte order may be set next."""
    _require(type(name) is str and re.fullmatch(r"[biufc][0-9]{1,2}", name) is not None)
    made: np.dtype = np.dtype(name, copy=True)
    return made


def _make_array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Make an array from its bytes, as numpy saves it with pickle's protocol 5."""
    _require(type(content) in (bytes, bytearray) and isinstance(dtype, np.dtype) and _is_shape(shape) and order in ("C", "F"))
    array: np.ndarray = np.frombuffer(content, dtype=dtype).reshape(shape, order=order)
    return array


def _make_empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Make the array that gets its content next, as numpy saves it with pickle's protocol 4."""
    _require(kind is np.ndarray and shape == (0,))
    return np.empty(0, dtype=np.int8)


def _make_number(dtype: Any, content: Any) -> Any:
    """Make one of numpy's numbers."""
    _require(isinstance(dtype, np.dtype) and type(content) is bytes and len(content) == dtype.itemsize)
    return np.frombuffer(content, dtype=dtype)[0]


def _make_pcg64(kind: Any = "PCG64") -> np.random.PCG64:
    """Make the bit generator that gets its state next."""
    _require(kind is np.random.PCG64 or kind == "PCG64")
    return np.random.PCG64(0)


def _make_generator(bits: Any = "PCG64", _: Any = None) -> np.random.Generator:
    """Make a random generator from its bit generator (numpy 2) or the name of one (numpy 1)."""
    return np.random.Generator(bits if type(bits) is np.random.PCG64 else _make_pcg64(bits))


def _make_seed_sequence(kind: Any, checksum: Any, state: Any) -> np.random.SeedSequence:
    """Make the seed sequence that gets its state next."""
    _require(kind is np.random.SeedSequence and state is None)
    return np.random.SeedSequence(0)


def _make_deque(items: Any = (), maxlen: Any = None) -> collections.deque:
    """Make a double-ended queue, such as ``ep_info_buffer``."""
    _require(type(items) in (tuple, list) and (maxlen is None or type(maxlen) is int))
    return collections.deque(items, maxlen)


def _make_ordered_dict() -> collections.OrderedDict:
    """Make the dictionary that gets its items next."""
    return collections.OrderedDict()


def _make_bytes(text: Any, encoding: Any) -> bytes:
    """Make bytes, as pickle's protocol 2 saves them."""
    _require(type(text) is str and encoding == "latin1")
    return bytes(text, "latin1")


def _make_path(*parts: Any) -> Path:
    """Make a path, such as ``tensorboard_log``."""
    _require(all(type(part) is str for part in parts))
    return Path(*parts)


@dataclass(frozen=True)
class _Maker:
    """
    Stands for a function or class on the list that may be called with checked arguments.

    Not callable itself, so that one that is left lying about in the result can do nothing.

    :param make: what is called instead
    """

    make: Callable[..., Any]


_MADE: dict[str, Callable[..., Any]] = {
    "numpy dtype": _make_dtype,
    "numpy._core.numeric _frombuffer": _make_array,
    "numpy.core.numeric _frombuffer": _make_array,
    "numpy._core.multiarray _reconstruct": _make_empty_array,
    "numpy.core.multiarray _reconstruct": _make_empty_array,
    "numpy._core.multiarray scalar": _make_number,
    "numpy.core.multiarray scalar": _make_number,
    "numpy.random._pickle __bit_generator_ctor": _make_pcg64,
    "numpy.random._pickle __generator_ctor": _make_generator,
    "numpy.random.bit_generator __pyx_unpickle_SeedSequence": _make_seed_sequence,
    "collections deque": _make_deque,
    "collections OrderedDict": _make_ordered_dict,
    "_codecs encode": _make_bytes,
    "pathlib PosixPath": _make_path,
    "pathlib WindowsPath": _make_path,
    "pathlib._local PosixPath": _make_path,
    "pathlib._local WindowsPath": _make_path,
}


def _by_name(classes: Collection[type]) -> dict[str, Any]:
    """Key classes by the two strings that a pickle calls them by, separated by a space."""
    return {f"{cls.__module__} {cls.__qualname__}": cls for cls in classes}


_ON_THE_LIST: dict[str, Any] = {
    **_by_name(_NAMED),
    # Files of the first edition name our policies by the module that they were in.
    **{f"sb3_ppo_edu.policies {cls.__qualname__}": cls for cls in _NAMED if cls.__module__ == own_policies.__name__},
    **_by_name(_FILLED),
    **{name: _Maker(make) for name, make in _MADE.items()},
}


# --------------------------------------------------------------------------------------------------------------------------
# Giving state to what was made empty
# --------------------------------------------------------------------------------------------------------------------------


def _set_dtype(dtype: Any, state: Any) -> None:
    """Set the byte order; whatever else a state may say is for structured types."""
    _require(type(state) is tuple and len(state) == 8 and state[1] in ("<", ">", "|", "="))
    _require((state[0], *state[2:]) == (3, None, None, None, -1, -1, 0))
    dtype.__setstate__(state)


def _set_array(array: np.ndarray, state: Any) -> None:
    """Fill an empty array with as many bytes as its shape and type need."""
    _require(type(state) is tuple and len(state) == 5 and array.size == 0)
    version, shape, dtype, fortran, content = state
    _require(version == 1 and _is_shape(shape) and isinstance(dtype, np.dtype) and type(fortran) is bool)
    _require(type(content) is bytes and len(content) == math.prod(shape) * dtype.itemsize)
    array.__setstate__(state)


def _set_pcg64(bits: Any, state: Any) -> None:
    """Set the state of a bit generator: numpy 2 adds the seed sequence that it came from."""
    if type(state) is tuple:
        _require(len(state) == 2 and type(state[0]) is dict and type(state[1]) is np.random.SeedSequence)
        bits.__setstate__(state)
    else:
        bits.state = state


def _set_generator(generator: np.random.Generator, state: Any) -> None:
    """Set the state of a generator's bit generator, as numpy 1 saves it."""
    _require(type(state) is dict)
    generator.bit_generator.state = state


def _set_seed_sequence(sequence: np.random.SeedSequence, state: Any) -> None:
    """Derive a seed sequence again from what it was made of, in place; its pool follows."""
    _require(type(state) is tuple and len(state) == 5)
    entropy, n_children, _, pool_size, spawn_key = state
    _require(type(entropy) is int and entropy.bit_length() <= 4096)
    _require(type(n_children) is int and type(pool_size) is int and pool_size <= 64)
    _require(type(spawn_key) is tuple and len(spawn_key) <= 64 and all(type(key) is int for key in spawn_key))
    sequence.__init__(  # type: ignore[misc]
        entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=n_children
    )


def _set_attributes(instance: Any, state: Any) -> None:
    """Give an instance its attributes, none of which may take the place of a method."""
    _require(type(state) is dict and all(type(key) is str for key in state))
    _require(not any(_is_method(type(instance), key) for key in state))
    if hasattr(type(instance), "__setstate__"):
        instance.__setstate__(state)
    else:
        instance.__dict__.update(state)


def _is_method(cls: type, name: str) -> bool:
    """Tell whether a name is a method's, or one of Python's own."""
    return name.startswith("__") or callable(getattr(cls, name, None))


_SETTERS: dict[type, Callable[[Any, Any], None]] = {
    np.ndarray: _set_array,
    np.random.PCG64: _set_pcg64,
    np.random.Generator: _set_generator,
    np.random.SeedSequence: _set_seed_sequence,
}


# --------------------------------------------------------------------------------------------------------------------------
# The machine
# --------------------------------------------------------------------------------------------------------------------------

_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_LITERALS = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG4",
        "BINFLOAT",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "SHORT_BINBYTES",
        "BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    }
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING_TO_DO = frozenset({"PROTO", "FRAME"})
_SCALARS = (str, int, float, bool, bytes, type(None))


class _Machine:
    """
    Pickle's stack machine, with those instructions only that saved models need.

    The standard unpickler with a guarded ``find_class`` is not enough: it calls whatever lies on its stack, sets attributes
    of whatever lies there, classes included, and takes extension codes from a process-wide cache that no guard sees.

    :param where: what is read, for messages
    :param filled: classes that may be filled besides those on the list
    :param remedy: what to do about a refusal
    """

    def __init__(self, where: str, filled: tuple[type, ...], remedy: str) -> None:
        self._where = where
        self._remedy = remedy
        self._names = {**_ON_THE_LIST, **_by_name(filled)}
        self._filled = (*_FILLED, *filled)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """
        Execute a pickle.

        :param content: the pickle
        :return: what it describes
        :raises UntrustedFileError: for an instruction or a type that is not on the list
        """
        argument: Any
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _CONTAINERS:
                self._stack.append(_CONTAINERS[name]())
            elif name in _TUPLES:
                self._stack[-_TUPLES[name] :] = [tuple(self._stack[-_TUPLES[name] :])]
            elif name in ("GLOBAL", "INST"):
                self._stack.append(self._look_up(argument))
                _require(name == "GLOBAL")
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name == "STOP":
                return self._stack.pop()
            elif name not in _NOTHING_TO_DO:
                step = getattr(self, f"_do_{name.lower()}", None)
                if step is None:
                    raise self._refusal(f"the instruction {name} of pickle")
                step()
        raise EOFError

    def _refusal(self, what: str) -> UntrustedFileError:
        """Say what is refused and what can be done about it."""
        return UntrustedFileError(
            f"{self._where}: found {what}, which may run any program; expected only types that are known to be harmless: "
            f"{self._remedy}"
        )

    def _look_up(self, name: str) -> Any:
        """Find what is on the list under two strings separated by a space."""
        if name not in self._names:
            inside = " (a function or class saved with its code)" if name.startswith("cloudpickle") else ""
            # Whoever wrote the file chose the name, which may be long or command a terminal.
            shown = name.replace(" ", ".")[:200]
            raise self._refusal((shown if shown.isprintable() else repr(shown)) + inside)
        return self._names[name]

    def _pop_to_mark(self) -> list[Any]:
        """Take what was pushed since the last mark."""
        stack = self._stack
        mark = next(index for index in reversed(range(len(stack))) if stack[index] is _MARK)
        items = stack[mark + 1 :]
        del stack[mark:]
        return items

    def _do_mark(self) -> None:
        self._stack.append(_MARK)

    def _do_memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_tuple(self) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _do_frozenset(self) -> None:
        items = self._pop_to_mark()
        _require(all(type(item) in _SCALARS for item in items))
        self._stack.append(frozenset(items))

    def _do_stack_global(self) -> None:
        name = self._stack.pop()
        module = self._stack.pop()
        _require(type(name) is str and type(module) is str)
        self._stack.append(self._look_up(f"{module} {name}"))

    def _do_append(self) -> None:
        self._extend([self._stack.pop()])

    def _do_appends(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        _require(type(target) in (list, collections.deque))
        target.extend(items)

    def _do_additems(self) -> None:
        items = self._pop_to_mark()
        target = self._stack[-1]
        _require(type(target) is set and all(type(item) in _SCALARS for item in items))
        target.update(items)

    def _do_setitem(self) -> None:
        value = self._stack.pop()
        self._update([self._stack.pop(), value])

    def _do_setitems(self) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        _require(type(target) in (dict, collections.OrderedDict) and len(items) % 2 == 0)
        # The hash of nested tuples takes exponential time.
        _require(all(type(key) in _SCALARS for key in items[::2]))
        target.update(zip(items[::2], items[1::2], strict=True))

    def _do_newobj(self) -> None:
        arguments = self._stack.pop()
        cls = self._stack.pop()
        if not any(cls is filled for filled in self._filled):
            raise self._refusal(f"an instance of {_describe(cls)}")
        _require(arguments == ())
        self._stack.append(cls.__new__(cls))

    def _do_reduce(self) -> None:
        arguments = self._stack.pop()
        maker = self._stack.pop()
        if type(maker) is not _Maker:
            raise self._refusal(f"a call of {_describe(maker)}")
        _require(type(arguments) is tuple)
        self._stack.append(maker.make(*arguments))

    def _do_build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, np.dtype):
            _set_dtype(target, state)
        elif type(target) in _SETTERS:
            _SETTERS[type(target)](target, state)
        elif type(target) in self._filled:
            _set_attributes(target, state)
        else:
            raise self._refusal(f"a change of {_describe(target)}")


def _describe(value: Any) -> str:
    """Name a class, or the class of anything else."""
    cls = value if isinstance(value, type) else type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def read_pickle(content: bytes, where: str, *, filled: tuple[type, ...] = (), remedy: str = "") -> Any:
    """
    Read a pickle without running anything of it.

    :param content: the pickle
    :param where: what is read, for messages: the file, and the place in it
    :param filled: classes whose instances may be in it besides those on the list
    :param remedy: what to do about a refusal; by default the way to read it knowingly
    :return: what the pickle describes
    :raises UntrustedFileError: if it wants anything that is not on the list
    :raises DamagedFileError: if it is broken
    """
    try:
        return _Machine(where, filled, remedy or _knowingly()).run(content)
    except UntrustedFileError:
        raise
    # Whatever a broken pickle makes of the machine and of numpy, it means the same.
    except Exception as error:
        raise DamagedFileError(
            f"{where}: found a broken pickle ({_reason(error)}); expected one as Stable-Baselines3 writes it: "
            "take another copy of the file"
        ) from error


def _reason(error: BaseException) -> str:
    """Say what an exception says, or its name where it says nothing."""
    return str(error) or type(error).__name__


def _knowingly(attribute: str | None = None) -> str:
    """Say how to load what is refused."""
    replaced = "" if attribute is None else f", or replace it with custom_objects={{{attribute!r}: ...}}"
    return f"if you trust whoever made the file, load it with trusted=True (on the command line --trust){replaced}"


# --------------------------------------------------------------------------------------------------------------------------
# Archives
# --------------------------------------------------------------------------------------------------------------------------

MAX_GROWTH = 20
"""A compressed archive may grow to this many times its size; weights hardly compress at all."""

SMALL_ARCHIVE = 2**26
"""Bytes that any archive may grow to."""


def read_archive(content: bytes, where: str, *, compressed: bool = False) -> dict[str, bytes]:
    """
    Read every member of a zip archive, with its checksum.

    :param content: the archive
    :param where: what is read, for messages
    :param compressed: whether members may be compressed; no archive grows beyond :data:`MAX_GROWTH` times its size
        or :data:`SMALL_ARCHIVE` bytes
    :return: content by name
    :raises DamagedFileError: if it is no archive, is damaged, or has members that a saved model never has
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_members(archive.infolist(), len(content), where, compressed=compressed)
            return {member.filename: archive.read(member) for member in archive.infolist()}
    except DamagedFileError:
        raise
    except zipfile.BadZipFile as error:
        what = f"{len(content):,} bytes that are not an intact zip archive ({error})"
        raise DamagedFileError(f"{where}: found {what}; expected a saved model or checkpoint: {_ANOTHER_COPY}") from error
    # zipfile does not wrap what it meets in a damaged directory.
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, zlib.error) as error:
        raise DamagedFileError(
            f"{where}: found a damaged archive ({_reason(error)}); expected a saved model or checkpoint: {_ANOTHER_COPY}"
        ) from error


_ANOTHER_COPY = "take another copy of the file"


def check_members(members: list[zipfile.ZipInfo], n_bytes: int, where: str, *, compressed: bool = False) -> None:
    """
    Check what an archive says about its members, before any is read.

    :param members: what its directory says
    :param n_bytes: size of the archive
    :param where: what is read, for messages
    :param compressed: whether members may be compressed
    :raises DamagedFileError: for a name that is used twice or leads out of a folder, encryption, unknown compression, or
        sizes beyond what such a file can hold
    """
    start = min((member.header_offset for member in members), default=0)
    if start > 0:
        # A file that is cut off behind an archive within it looks like that one.
        raise _bad_member(where, f"{start:,} bytes before the first member", "none")
    names = [member.filename for member in members]
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise _bad_member(where, f"two members named {twice[0]!r}", "each name once")
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if compressed else (zipfile.ZIP_STORED,)
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or re.search(r"[\\:]|/$", member.filename) or not path.parts:
            raise _bad_member(where, f"the name {member.filename!r}", "names of files within the archive")
        if member.flag_bits & 1:
            raise _bad_member(where, f"{member.filename!r} encrypted", "members without encryption")
        if member.compress_type not in methods:
            expected = "stored or deflated members" if compressed else "stored members"
            raise _bad_member(where, f"{member.filename!r} compressed by method {member.compress_type}", expected)
    total = sum(member.file_size for member in members)
    limit = max(MAX_GROWTH * n_bytes, SMALL_ARCHIVE) if compressed else n_bytes
    if total > limit:
        raise _bad_member(where, f"members of {total:,} bytes in {n_bytes:,}", f"at most {limit:,}")


def _bad_member(where: str, found: str, expected: str) -> DamagedFileError:
    """Say what is wrong with an archive's directory."""
    return DamagedFileError(f"{where}: found {found}; expected {expected}: do not use this file")


# --------------------------------------------------------------------------------------------------------------------------
# Models
# --------------------------------------------------------------------------------------------------------------------------

_REQUIRED_MEMBERS = ("data", "policy.pth", "policy.optimizer.pth")
_TENSOR_MEMBERS = (*_REQUIRED_MEMBERS[1:], "pytorch_variables.pth")

_REQUIRED_ATTRIBUTES = frozenset(
    {
        "policy_class",
        "policy_kwargs",
        "observation_space",
        "action_space",
        "learning_rate",
        "n_steps",
        "batch_size",
        "n_epochs",
        "gamma",
        "gae_lambda",
        "clip_range",
        "clip_range_vf",
        "ent_coef",
        "vf_coef",
        "max_grad_norm",
        "n_envs",
        "use_sde",
        "num_timesteps",
        "seed",
        "verbose",
    }
)
"""What every PPO's file has, and no other algorithm's."""

_NOT_SAVED = frozenset(
    {
        "policy",
        "device",
        "env",
        "rollout_buffer",
        "replay_buffer",
        "logger",
        "_vec_normalize_env",
        "_episode_storage",
        "_logger",
        "_custom_logger",
        "_engine",
        "_engines",
        "_session",
        "session",
        "objective",
        "changes_to_check",
    }
)
"""What no file of Stable-Baselines3 has, because it is built anew."""

_SERIALIZED = ":serialized:"


@dataclass(frozen=True)
class CheckedModel:
    """
    A model's file that is safe to give to ``load``.

    :param file: its content
    :param attributes: every attribute in it; given as ``custom_objects``, nothing is left to unpickle
    """

    file: io.BytesIO
    attributes: dict[str, Any]


def check_model(path: Any, algorithm: type, custom_objects: Mapping[str, Any] | None = None) -> CheckedModel:
    """
    Read a model's file without running anything of it.

    :param path: the file, or its name with or without ``.zip``, as Stable-Baselines3 takes it
    :param algorithm: class that it is to become
    :param custom_objects: attributes that replace what the file has, which is then not looked at
    :return: the model, checked
    :raises FileNotFoundError: if there is no such file
    :raises DamagedFileError: if it is damaged or no PPO's
    :raises UntrustedFileError: if it wants anything that is not on the list
    """
    where = f"model {path}" if isinstance(path, (str, Path)) else "model"
    content = _read_file(path, where)
    members = read_archive(content, where, compressed=True)
    missing = [name for name in _REQUIRED_MEMBERS if name not in members]
    if missing:
        raise DamagedFileError(
            f"{where}: found no {' and no '.join(missing)} in it; expected a model as EduPPO or Stable-Baselines3's PPO saves "
            f"it: {_ANOTHER_COPY}"
        )
    for name in members:
        if name.endswith(".pth"):
            _check_tensors(members[name], name, where)
    attributes = _read_attributes(members["data"], where, algorithm, custom_objects or {})
    _check_widths(attributes["policy_kwargs"], len(members["policy.pth"]), where)
    return CheckedModel(io.BytesIO(content), attributes)


def _read_file(path: Any, where: str) -> bytes:
    """Read a file as Stable-Baselines3 finds it, so that what is checked is what is loaded."""
    try:
        file = open_path(path, "r", suffix="zip")
        try:
            return bytes(file.read())
        finally:
            if isinstance(path, (str, Path)):
                file.close()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: there is no such file; expected one that model.save() has written") from error
    except OSError as error:
        raise DamagedFileError(f"{where}: it cannot be read ({error.strerror}); expected a file: {_ANOTHER_COPY}") from error


def _check_tensors(content: bytes, name: str, where: str) -> None:
    """Check that a member is an archive of torch's present format, none of which is compressed."""
    if name not in _TENSOR_MEMBERS:
        raise _bad_member(where, f"the member {name!r}", f"tensors in {', '.join(_TENSOR_MEMBERS)}")
    read_archive(content, f"{where}, {name}")


def _check_widths(policy_kwargs: Any, n_bytes: int, where: str) -> None:
    """
    Check that the layers asked for are not larger than the weights that are there, before memory and time go into them.

    :param policy_kwargs: of the model
    :param n_bytes: size of its weights
    :param where: what is read, for messages
    :raises DamagedFileError: if they are larger
    """
    net_arch = policy_kwargs.get("net_arch") if isinstance(policy_kwargs, dict) else None
    for layers in net_arch.values() if isinstance(net_arch, dict) else [net_arch]:
        widths = [width for width in layers if isinstance(width, int)] if isinstance(layers, list) else []
        n_weights = sum(widths) + sum(map(operator.mul, widths, widths[1:]))
        if 4 * n_weights > n_bytes:
            raise DamagedFileError(
                f"{where}: found net_arch={net_arch} with {n_bytes:,} bytes of weights; expected {4 * n_weights:,} or more "
                f"for it: {_ANOTHER_COPY}"
            )


def _read_attributes(text: bytes, where: str, algorithm: type, custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """Read the attributes of a model from their JSON and the pickles in it."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{where}, data: found broken JSON ({_reason(error)}); expected a model's attributes: {_ANOTHER_COPY}"
        ) from error
    missing = sorted(_REQUIRED_ATTRIBUTES - record.keys())
    if missing:
        raise DamagedFileError(
            f"{where}, data: found no {', '.join(missing)}; expected a model of EduPPO or Stable-Baselines3's PPO: "
            "load it with the algorithm that has saved it"
        )
    odd = sorted(key for key in record if _is_method(algorithm, key) or key in _NOT_SAVED)
    if odd:
        raise UntrustedFileError(
            f"{where}, data: found an attribute {odd[0]!r}, which would replace a part of {algorithm.__name__}; expected only "
            f"attributes that model.save() writes: {_knowingly()}"
        )
    _check_objective(record.get("saved_objective"), where)
    return {key: _read_attribute(key, value, where) for key, value in record.items() if key not in custom_objects} | {
        **custom_objects
    }


def _check_objective(description: Any, where: str) -> None:
    """Check that an objective that a file names is one of ours, and its attributes are numbers and text."""
    if description is None:
        return
    path = description.get("path") if isinstance(description, dict) else None
    module, _, name = str(path).rpartition(".")
    found = getattr(own_objectives, name, None) if module == own_objectives.__name__ else None
    if not (isinstance(found, type) and issubclass(found, own_objectives.Objective)):
        raise UntrustedFileError(
            f"{where}, data: found the objective {path!r}, which would be imported; expected one of "
            f"{own_objectives.__name__}: {_knowingly()}"
        )
    attributes = description.get("attributes")
    if not isinstance(attributes, dict) or any(_is_method(found, key) for key in attributes):
        raise UntrustedFileError(
            f"{where}, data: found an objective with attributes that replace a part of it: {_knowingly()}"
        )


def _read_attribute(key: str, value: Any, where: str) -> Any:
    """Read one attribute, plain or pickled."""
    if not isinstance(value, dict) or _SERIALIZED not in value:
        return value
    where = f"{where}, attribute {key!r}"
    try:
        content = base64.b64decode(value[_SERIALIZED], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DamagedFileError(
            f"{where}: found broken base64 ({_reason(error)}); expected a pickle: {_ANOTHER_COPY}"
        ) from error
    return read_pickle(content, where, remedy=_knowingly(key))


@contextmanager
def describing_failure(path: Any) -> Iterator[None]:
    """
    Say which file it was whose content does not make a model: types and sizes are checked only by building it.

    :param path: the file
    :raises DamagedFileError: with the reason
    """
    try:
        yield
    except Exception as error:
        where = f"model {path}" if isinstance(path, (str, Path)) else "model"
        raise DamagedFileError(
            f"{where}: no model can be built from it ({_reason(error)}); expected one as EduPPO or Stable-Baselines3's PPO "
            f"saves it, and an environment with the same spaces: {_ANOTHER_COPY}"
        ) from error


# --------------------------------------------------------------------------------------------------------------------------
# Statistics of VecNormalize
# --------------------------------------------------------------------------------------------------------------------------

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


def load_statistics(path: str | Path, venv: VecEnv, *, trusted: bool = True) -> VecNormalize:
    """
    Load the statistics that ``VecNormalize.save`` has written.

    :param path: the file, usually ``vecnormalize.pkl``
    :param venv: the environment to wrap
    :param trusted: whether to run whatever the file says, as ``VecNormalize.load`` does
    :return: the wrapped environment
    :raises FileNotFoundError: if there is no such file
    :raises DamagedFileError: if it is damaged or does not fit the environment
    :raises UntrustedFileError: if it wants anything that is not on the list, and ``trusted`` is false
    """
    if trusted:
        return VecNormalize.load(str(path), venv)
    where = f"statistics {path}"
    statistics = read_pickle(_read_file(Path(path), where), where, filled=_FILLED_IN_STATISTICS)
    found = set(vars(statistics)) if type(statistics) is VecNormalize else set()
    if not found >= _REQUIRED_STATISTICS:
        raise DamagedFileError(
            f"{where}: found {_describe(statistics)} without {', '.join(sorted(_REQUIRED_STATISTICS - found))}; "
            f"expected what VecNormalize.save() writes: {_ANOTHER_COPY}"
        )
    try:
        statistics.set_venv(venv)
    except (AssertionError, ValueError, AttributeError, TypeError) as error:
        raise DamagedFileError(
            f"{where}: it does not fit the environment ({_reason(error)}); expected the one that it was saved with"
        ) from error
    assert isinstance(statistics, VecNormalize)
    return statistics
