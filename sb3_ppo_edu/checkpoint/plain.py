"""
Plain data as bytes, without pickle's dangers.

Plain are None, bool, int, float, str, bytes, numpy arrays and scalars of numbers, tensors, and lists, tuples, deques and
dictionaries of these. They are written as one line of JSON, then a zero byte, then the contents of all arrays one after the
other. In the JSON a list is a list, an object ``{tag: …}`` is anything else that JSON lacks, and an array is its kind, its
shape, where its contents begin and, where it is not C's, the order of its axes in memory. Reading builds nothing but plain
data.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_edu.serialization.constructors import is_method

TAKEN_AS_IT_IS = frozenset((type(None), bool, int, float, str))
"""Types that JSON has, and that come back from it as they were: Python writes floats so that they read the same."""

TENSORS = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(th.float16, th.bfloat16, th.float32, th.float64),
        *(th.bool, th.uint8, th.int8, th.int16, th.int32, th.int64),
    )
}


class NotPlainError(TypeError):
    """Something is not plain data; the message says what and where."""


class _Contents:
    """Collects the contents of arrays, and knows where each begins."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> int:
        """Add one; give its place."""
        place = self.size
        self.parts.append(part)
        self.size += len(part)
        return place


def _encode(value: Any, where: str, contents: _Contents) -> Any:
    """Turn plain data into what JSON has, and the contents of arrays."""
    kind = type(value)
    if kind in TAKEN_AS_IT_IS:
        return value
    if kind is list:
        return _encode_all(value, where, contents)
    if isinstance(value, dict):
        if all(type(key) is str for key in value):
            return {"dict": {key: _encode(one, f"{where}[{key!r}]", contents) for key, one in value.items()}}
        pairs = ((_encode(key, f"{where}'s key", contents), one) for key, one in value.items())
        return {"map": [[key, _encode(one, f"{where}[{key!r}]", contents)] for key, one in pairs]}
    if kind is np.ndarray and value.dtype.kind in "biuf":
        order = _order(value)
        described = [value.dtype.str, value.shape, contents.add(value.transpose(order).tobytes())]
        return {"array": described if order == sorted(order) else [*described, order]}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"scalar": [value.dtype.str, contents.add(value.tobytes())]}
    if isinstance(value, th.Tensor) and value.dtype in TENSORS.values():
        flat = value.detach().cpu().contiguous().reshape(-1).view(th.uint8).numpy()
        return {"tensor": [str(value.dtype).removeprefix("torch."), value.shape, contents.add(flat.tobytes())]}
    if kind is tuple:
        return {"tuple": _encode_all(value, where, contents)}
    if kind is deque:
        return {"deque": [_encode_all(value, where, contents), value.maxlen]}
    if kind is bytes:
        return {"bytes": [contents.add(value), len(value)]}
    raise NotPlainError(f"{where}: found {kind.__module__}.{kind.__qualname__}, expected plain data (numbers, text, arrays)")


def _encode_all(values: Any, where: str, contents: _Contents) -> list[Any]:
    """Encode what a list, tuple or deque holds."""
    # An episode's rewards are thousands of floats, and looking at each takes most of the time of a checkpoint.
    if TAKEN_AS_IT_IS.issuperset(map(type, values)):
        return list(values)
    return [_encode(one, f"{where}[{index}]", contents) for index, one in enumerate(values)]


def _order(array: np.ndarray) -> list[int]:
    """Sort an array's axes by how far apart their elements lie in memory, the farthest first."""
    # Images that SB3 has transposed keep the layout of those it was given, and a convolution's bits depend on it.
    return sorted(range(array.ndim), key=lambda axis: (-abs(array.strides[axis]), -array.shape[axis]))


def check_plain(value: Any, where: str = "value") -> None:
    """
    Make sure that something is plain data.

    :param value: anything
    :param where: its name in the error; what lies inside is named by its place, as in ``where[3]['key']``
    :raises NotPlainError: if it is not
    """
    _encode(value, where, _Contents())


def pack(value: Any) -> bytes:
    """
    Write plain data as bytes, in the format that this module describes.

    :param value: plain data; tensors may lie on any device
    :return: a line of JSON, a zero byte, and the contents of all arrays
    :raises NotPlainError: if it holds anything else
    """
    contents = _Contents()
    tree = json.dumps(_encode(value, "value", contents), separators=(",", ":"))
    return b"\0".join((tree.encode("ascii"), b"".join(contents.parts)))


def unpack(data: bytes) -> Any:
    """
    Read what :func:`pack` has written; nothing but plain data is ever built.

    :param data: bytes, which may be anyone's
    :return: plain data; arrays and tensors share no memory with ``data``, tensors lie on the CPU
    :raises ValueError: if they are anything else
    """
    text, zero, contents = data.partition(b"\0")
    if not zero:
        raise ValueError("found no plain data written by this package (the byte between text and arrays is missing)")
    try:
        return _decode(json.loads(text), memoryview(contents))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError, RuntimeError) as error:
        raise ValueError(f"found no plain data written by this package ({type(error).__name__}: {error})") from error


def _decode(tree: Any, contents: memoryview) -> Any:
    """Turn back what :func:`_encode` has given."""
    if isinstance(tree, list):
        return [_decode(one, contents) for one in tree]
    if not isinstance(tree, dict):
        return tree
    ((tag, given),) = tree.items()
    return _DECODERS[tag](given, contents)


def _array(contents: memoryview, kind: str, shape: list[int], place: int, order: list[int] | None = None) -> np.ndarray:
    """Build an array, with its axes in memory in that order."""
    dtype = np.dtype(kind)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype}")
    part = _part(contents, place, math.prod(shape) * dtype.itemsize)
    order = list(range(len(shape))) if order is None else order
    if sorted(order) != list(range(len(shape))):
        raise ValueError(f"axes {order} of {len(shape)}")
    laid_out = np.frombuffer(part, dtype).reshape([shape[axis] for axis in order]).copy()
    found: np.ndarray = laid_out.transpose(np.argsort(order))
    return found


def _tensor(contents: memoryview, kind: str, shape: list[int], place: int) -> th.Tensor:
    """Build a tensor."""
    dtype = TENSORS[kind]
    raw = _array(contents, "|u1", [math.prod(shape) * dtype.itemsize], place)
    tensor = th.empty(shape, dtype=dtype)
    tensor.reshape(-1).view(th.uint8).copy_(th.from_numpy(raw))
    return tensor


def _part(contents: memoryview, place: int, size: int) -> memoryview:
    """Give a part of the contents."""
    if not 0 <= place <= place + size <= len(contents):
        raise ValueError(f"bytes {place} to {place + size} of {len(contents)}")
    return contents[place : place + size]


_DECODERS: dict[str, Any] = {
    "array": lambda given, contents: _array(contents, *given),
    "scalar": lambda given, contents: _array(contents, given[0], [], given[1])[()],
    "tensor": lambda given, contents: _tensor(contents, *given),
    "tuple": lambda given, contents: tuple(_decode(one, contents) for one in given),
    "deque": lambda given, contents: deque((_decode(one, contents) for one in given[0]), given[1]),
    "dict": lambda given, contents: {key: _decode(one, contents) for key, one in given.items()},
    "map": lambda given, contents: {_decode(key, contents): _decode(one, contents) for key, one in given},
    "bytes": lambda given, contents: bytes(_part(contents, *given)),
}


def plain_attributes(instance: Any, skip: Container[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """
    Take an object's attributes that are plain data.

    :param instance: the object
    :param skip: names to leave out
    :return: the plain ones by name, not copied, and the names of the others
    """
    plain, others = {}, []
    for name, value in vars(instance).items():
        if name in skip:
            continue
        try:
            check_plain(value, name)
        except NotPlainError:
            others.append(name)
        else:
            plain[name] = value
    return plain, others


def restore_plain(instance: Any, attributes: Mapping[str, Any], skip: Container[str] = ()) -> None:
    """
    Put attributes back that :func:`plain_attributes` has taken.

    What it never takes stays as it is, whatever a stranger's file says: methods, and what holds an object, such as an
    environment in its wrapper.

    :param instance: the object, or one that was built as it was
    :param attributes: by name
    :param skip: names to leave out
    """
    _, objects = plain_attributes(instance, skip)
    kept = (name for name in attributes if name not in skip and name not in objects and not is_method(type(instance), name))
    vars(instance).update({name: attributes[name] for name in kept})
