"""
Plain data as bytes, without pickle's dangers.

Plain are None, bool, int, float, str, bytes, numpy arrays and scalars of numbers, tensors, and lists, tuples, deques and
dictionaries of these. ``torch.save`` writes them, and ``torch.load(weights_only=True)`` reads them and builds nothing else.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Container
from typing import Any

import numpy as np
import torch as th

ARRAY, SCALAR, TUPLE, DEQUE, MAP = "array", "scalar", "tuple", "deque", "map"
"""Tags of what torch's reader does not know, as the first of a pair."""


class NotPlainError(TypeError):
    """Something is not plain data; the message says what and where."""


def encode(value: Any, where: str = "value") -> Any:
    """
    Turn plain data into what torch writes.

    :param value: plain data
    :param where: what it is, for the error
    :return: None, bool, int, float, str, bytes, tensors, and lists and dictionaries of these; arrays are copied
    :raises NotPlainError: if it holds anything else
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str, bytes):
        return value
    if kind is np.ndarray and value.dtype.kind in "biuf":
        return [ARRAY, th.from_numpy(np.array(value, order="C", ndmin=1)), list(value.shape)]
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return [SCALAR, th.from_numpy(np.array([value]))]
    if isinstance(value, th.Tensor):
        return value.detach().clone()
    if kind is list:
        return ["list", [encode(one, f"{where}[{index}]") for index, one in enumerate(value)]]
    if kind is tuple:
        return [TUPLE, [encode(one, f"{where}[{index}]") for index, one in enumerate(value)]]
    if kind is deque:
        return [DEQUE, [encode(one, f"{where}[{index}]") for index, one in enumerate(value)], value.maxlen]
    if isinstance(value, dict):
        return [MAP, [[encode(key, f"{where}'s key"), encode(one, f"{where}[{key!r}]")] for key, one in value.items()]]
    raise NotPlainError(f"{where}: found {kind.__module__}.{kind.__qualname__}, expected plain data (numbers, text, arrays)")


def decode(tree: Any) -> Any:
    """
    Turn back what :func:`encode` has given.

    :param tree: as torch has read it
    :return: the plain data
    :raises ValueError: if it is anything else
    """
    if not isinstance(tree, list):
        return tree
    try:
        return _DECODERS[tree[0]](*tree[1:])
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"found {str(tree)[:80]}, expected encoded plain data ({error})") from error


_DECODERS: dict[str, Any] = {
    ARRAY: lambda tensor, shape: tensor.numpy().reshape(shape),
    SCALAR: lambda tensor: tensor.numpy()[0],
    "list": lambda items: [decode(one) for one in items],
    TUPLE: lambda items: tuple(decode(one) for one in items),
    DEQUE: lambda items, maxlen: deque((decode(one) for one in items), maxlen),
    MAP: lambda items: {decode(key): decode(one) for key, one in items},
}


def pack(value: Any) -> bytes:
    """
    Write plain data.

    :param value: plain data
    :return: bytes
    :raises NotPlainError: if it holds anything else
    """
    file = io.BytesIO()
    th.save(encode(value), file)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """
    Read what :func:`pack` has written; nothing but plain data is ever built.

    :param data: bytes
    :return: plain data
    :raises ValueError: if they are anything else
    """
    try:
        tree = th.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parser comes upon
        raise ValueError(f"found no plain data written by this package ({type(error).__name__}: {error})") from error
    return decode(tree)


def plain_attributes(thing: Any, skip: Container[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """
    Take an object's attributes that are plain data.

    :param thing: the object
    :param skip: names to leave out
    :return: copies of the plain ones by name, and the names of the others
    """
    plain, others = {}, []
    for name, value in vars(thing).items():
        if name in skip:
            continue
        try:
            plain[name] = decode(encode(value, name))
        except NotPlainError:
            others.append(name)
    return plain, others
