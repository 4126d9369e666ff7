"""
What an untrusted pickle may call, and how it may give state to what was made: functions that check what they get.

They stand in the place of numpy's and Python's own functions, which would take a pickle's word for sizes and types.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np


def require(condition: bool) -> None:
    """
    Refuse arguments that no library's own pickles have; ``read_pickle`` says where they stand.

    :param condition: what holds for theirs
    :raises ValueError: if it does not hold
    """
    if not condition:
        raise ValueError("arguments that no saved model has")


def _is_shape(shape: Any) -> bool:
    """Tell whether something is the shape of an array."""
    return type(shape) is tuple and len(shape) <= 32 and all(type(size) is int and size >= 0 for size in shape)


def _make_dtype(name: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """Make the type of plain numbers. A copy, because its byte order may be set next."""
    require(type(name) is str and re.fullmatch(r"[biufc][0-9]{1,2}", name) is not None)
    made: np.dtype = np.dtype(name, copy=True)
    return made


def _make_array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """Make an array from its bytes, as numpy saves it with pickle's protocol 5."""
    require(type(content) in (bytes, bytearray) and isinstance(dtype, np.dtype) and _is_shape(shape) and order in ("C", "F"))
    array: np.ndarray = np.frombuffer(content, dtype=dtype).reshape(shape, order=order)
    return array


def _make_empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Make the array that gets its content next, as numpy saves it with pickle's protocol 4."""
    require(kind is np.ndarray and shape == (0,))
    return np.empty(0, dtype=np.int8)


def _make_number(dtype: Any, content: Any) -> Any:
    """Make one of numpy's numbers."""
    require(isinstance(dtype, np.dtype) and type(content) is bytes and len(content) == dtype.itemsize)
    return np.frombuffer(content, dtype=dtype)[0]


class OldGenerator:
    """What stands for numpy's old random generator, which spaces of ``gym`` held: it keeps nothing."""


def _make_bit_generator(kind: Any = "PCG64") -> np.random.PCG64 | OldGenerator:
    """Make the bit generator that gets its state next."""
    if kind is np.random.MT19937 or kind == "MT19937":
        return OldGenerator()
    require(kind is np.random.PCG64 or kind == "PCG64")
    return np.random.PCG64(0)


def _make_generator(bits: Any = "PCG64", _: Any = None) -> np.random.Generator:
    """Make a random generator from its bit generator (numpy 2) or the name of one (numpy 1)."""
    made = bits if type(bits) is np.random.PCG64 else _make_bit_generator(bits)
    require(type(made) is np.random.PCG64)
    return np.random.Generator(cast(np.random.PCG64, made))


def _make_old_generator(kind: Any = "MT19937", _: Any = None) -> OldGenerator:
    """Make what stands for ``RandomState``, from its bit generator (numpy 1.24 on) or the name of it."""
    require(isinstance(kind, OldGenerator) or kind == "MT19937")
    return OldGenerator()


def _make_seed_sequence(kind: Any, checksum: Any, state: Any) -> np.random.SeedSequence:
    """Make the seed sequence that gets its state next."""
    require(kind is np.random.SeedSequence and state is None)
    return np.random.SeedSequence(0)


def _make_deque(items: Any = (), maxlen: Any = None) -> collections.deque:
    """Make a double-ended queue, such as ``ep_info_buffer``."""
    require(type(items) in (tuple, list) and (maxlen is None or type(maxlen) is int))
    return collections.deque(items, maxlen)


def _make_ordered_dict() -> collections.OrderedDict:
    """Make the dictionary that gets its items next."""
    return collections.OrderedDict()


def _make_bytes(text: Any, encoding: Any) -> bytes:
    """Make bytes, as pickle's protocol 2 saves them."""
    require(type(text) is str and encoding == "latin1")
    return bytes(text, "latin1")


def _make_path(*parts: Any) -> Path:
    """Make a path, such as ``tensorboard_log``."""
    require(all(type(part) is str for part in parts))
    return Path(*parts)


@dataclass(frozen=True)
class Constructor:
    """
    Stands for a function or class on the list that may be called with checked arguments.

    Not callable itself, so that one that is left lying about in the result can do nothing.

    :param make: what is called instead
    """

    make: Callable[..., Any]


CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "numpy dtype": _make_dtype,
    "numpy._core.numeric _frombuffer": _make_array,
    "numpy.core.numeric _frombuffer": _make_array,
    "numpy._core.multiarray _reconstruct": _make_empty_array,
    "numpy.core.multiarray _reconstruct": _make_empty_array,
    "numpy._core.multiarray scalar": _make_number,
    "numpy.core.multiarray scalar": _make_number,
    "numpy.random._pickle __bit_generator_ctor": _make_bit_generator,
    "numpy.random._pickle __randomstate_ctor": _make_old_generator,
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
"""What a pickle may call, module and qualified name separated by a space -> what is called instead."""


def set_dtype(dtype: Any, state: Any) -> None:
    """
    Set the byte order; whatever else a state may say is for structured types.

    :param dtype: a copy that nothing else uses
    :param state: as ``numpy.dtype.__reduce__`` gives it
    :raises ValueError: if it sets anything else
    """
    require(type(state) is tuple and len(state) == 8 and state[1] in ("<", ">", "|", "="))
    require((state[0], *state[2:]) == (3, None, None, None, -1, -1, 0))
    dtype.__setstate__(state)


def _set_array(array: np.ndarray, state: Any) -> None:
    """Fill an empty array with as many bytes as its shape and type need."""
    require(type(state) is tuple and len(state) == 5 and array.size == 0)
    version, shape, dtype, fortran, content = state
    require(version == 1 and _is_shape(shape) and isinstance(dtype, np.dtype) and type(fortran) is bool)
    require(type(content) is bytes and len(content) == math.prod(shape) * dtype.itemsize)
    array.__setstate__(state)


def _set_pcg64(bits: Any, state: Any) -> None:
    """Set the state of a bit generator: numpy 2 adds the seed sequence that it came from."""
    if type(state) is tuple:
        require(len(state) == 2 and type(state[0]) is dict and type(state[1]) is np.random.SeedSequence)
        bits.__setstate__(state)
    else:
        bits.state = state


def _set_generator(generator: np.random.Generator, state: Any) -> None:
    """Set the state of a generator's bit generator, as numpy 1 saves it."""
    require(type(state) is dict)
    generator.bit_generator.state = state


def _set_seed_sequence(sequence: np.random.SeedSequence, state: Any) -> None:
    """Derive a seed sequence again from what it was made of, in place; its pool follows."""
    require(type(state) is tuple and len(state) == 5)
    entropy, n_children, _, pool_size, spawn_key = state
    require(type(entropy) is int and entropy.bit_length() <= 4096)
    require(type(n_children) is int and type(pool_size) is int and pool_size <= 64)
    require(type(spawn_key) is tuple and len(spawn_key) <= 64 and all(type(key) is int for key in spawn_key))
    sequence.__init__(  # type: ignore[misc]
        entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=n_children
    )


def set_attributes(instance: Any, state: Any) -> None:
    """
    Give an instance its attributes, none of which may take the place of a method.

    :param instance: of a class that may be filled
    :param state: attributes by name
    :raises ValueError: if it is anything else, or has the name of a method
    """
    require(type(state) is dict and all(type(key) is str for key in state))
    require(not any(is_method(type(instance), key) for key in state))
    state = {key: None if isinstance(value, OldGenerator) else value for key, value in state.items()}
    if hasattr(type(instance), "__setstate__"):
        instance.__setstate__(state)
    else:
        instance.__dict__.update(state)


def is_method(cls: type, name: str) -> bool:
    """
    Tell whether an attribute of this name would take the place of a part of the class.

    :param cls: the class
    :param name: of an attribute
    :return: whether it is a method's name, or one of Python's own
    """
    return name.startswith("__") or callable(getattr(cls, name, None))


SETTERS: dict[type, Callable[[Any, Any], None]] = {
    np.ndarray: _set_array,
    np.random.PCG64: _set_pcg64,
    np.random.Generator: _set_generator,
    np.random.SeedSequence: _set_seed_sequence,
    OldGenerator: lambda made, state: None,
}
"""How a type that is made, not filled, gets its state."""
