"""Plain data comes back to the bit, and nothing else is ever built."""

from __future__ import annotations

import io
import os
import pickle
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sb3_ppo_edu.checkpoint.plain import NotPlainError, pack, unpack


def test_plain_data_comes_back_as_it_was() -> None:
    """Types, shapes, dtypes, orders, lengths of deques, numbers beyond 64 bits, NaN and infinities."""
    value = {
        "a": [1, 2.5, "text", None, True, b"bytes", 2**127, float("inf")],
        ("t", 1): deque([np.float32(0.1), np.int64(3)], maxlen=4),
        "arrays": [np.arange(6, dtype=dtype).reshape(2, 3) for dtype in ("f4", "f8", "i1", "i8", "u4", "u8")],
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3.0),
        "flags": np.array([True, False]),
        "tensor": th.arange(3),
        "nested": ({"x": (1, (2,))},),
    }
    found = unpack(pack(value))
    assert list(found) == list(value)
    assert found["a"] == value["a"]
    assert found["t", 1] == value["t", 1] and found["t", 1].maxlen == 4
    assert [type(one) for one in found["t", 1]] == [np.float32, np.int64]
    for one, other in zip(found["arrays"], value["arrays"], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found["empty"].shape == (0, 3) and found["scalar"].shape == () and found["flags"].dtype == bool
    assert found["tensor"].tolist() == [0, 1, 2] and found["nested"] == value["nested"]


@pytest.mark.parametrize("value", [object(), [lambda: 0], {"x": {1, 2}}, np.array([object()]), np.array(["text"])])
def test_anything_else_is_refused_with_its_place(value: Any) -> None:
    """The message says what was found and where."""
    with pytest.raises(NotPlainError, match=r"value.*: found .*expected plain data"):
        pack(value)


def test_pickles_are_not_run() -> None:
    """Bytes that would run a program when unpickled are refused."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("echo no",)

    file = io.BytesIO()
    th.save([Evil()], file)
    for data in (file.getvalue(), pickle.dumps(Evil())):
        with pytest.raises(ValueError, match="found no plain data"):
            unpack(data)


plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text()
    | st.binary()
    | arrays(st.sampled_from(["<f4", ">f8", "|b1", "<i2", "|u1", "<f2"]), array_shapes(min_dims=0, min_side=0))
    | st.floats(width=32).map(np.float32)
    | st.lists(st.floats(width=16)).map(lambda values: th.tensor(values, dtype=th.bfloat16)),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.tuples(st.lists(inner), st.none() | st.integers(0, 9)).map(lambda both: deque(*both))
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers() | st.tuples(st.text(), st.booleans()), inner)
    ),
    max_leaves=12,
)


def form(value: Any) -> Any:
    """Give type, bits and order of plain data in a form that is equal only where all are."""
    if isinstance(value, th.Tensor):
        return "tensor", value.dtype, tuple(value.shape), value.reshape(-1).view(th.uint8).tolist()
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return "dict", [(form(key), form(one)) for key, one in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value), getattr(value, "maxlen", None), [form(one) for one in value]
    return type(value), repr(value)


@given(plain)
def test_any_plain_data_comes_back_to_the_bit(value: Any) -> None:
    """What is read has the types, bits and order of what was written, not a number of NaN apart, which JSON has one of."""
    assert form(unpack(pack(value))) == form(value)


@given(plain, st.data())
def test_damaged_bytes_are_refused_or_are_other_plain_data(value: Any, data: st.DataObject) -> None:
    """No damage leads to another error than ValueError, or to anything that is not plain data."""
    good = bytearray(pack(value))
    place = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.booleans())
    bad = good[:place] if cut else good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]
    try:
        found = unpack(bytes(bad))
    except ValueError as error:
        assert "found no plain data" in str(error)
    else:
        pack(found)
