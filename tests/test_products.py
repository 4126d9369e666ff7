"""Threads: the fused engine wakes none for small work, and leaves everybody else's as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_edu.engines import make_engine
from sb3_ppo_edu.engines.base import NonFiniteUpdateError
from sb3_ppo_edu.engines.fused.engine import FusedEngine
from sb3_ppo_edu.engines.fused.products import NUMPY_DOT, NUMPY_PRODUCT, NUMPY_VECTOR, ONE_THREAD_PRODUCT, dot, fits_numpy
from tests.rollouts import collect, make_model, update_settings


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch with two threads, whatever it has outside."""
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


@given(st.integers(1, 20_001))
def test_dot_is_the_sum_of_products_on_either_side_of_its_limit(size: int) -> None:
    """Whoever computes it, the dot product is the sum of products."""
    first, second = np.random.default_rng(size).standard_normal((2, size))
    assert dot(first, second) == pytest.approx(sum((first * second).tolist()), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((64, 64, 64), True),
        ((64, 64, 65), False),
        ((1, 96, 96), True),
        ((1, 96, 97), False),
        ((144, 64, 1), True),
        ((145, 64, 1), False),
    ],
)
def test_products_fit_up_to_the_sizes_at_which_openblas_begins_to_share_them(shape: tuple[int, int, int], fits: bool) -> None:
    """262,144 multiply-adds of two matrices, 9,216 elements of a matrix and a vector: OpenBLAS's own limits."""
    assert fits_numpy(*shape) is fits


def watch_products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Record every product that numpy is asked for: function, multiply-adds of one of the stack, and their limit."""
    seen: list[tuple[str, int, int]] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, second: Any, **arguments: Any) -> Any:
            if first.ndim == second.ndim == 1:
                seen.append((name, len(first), NUMPY_DOT))
            else:
                rows, inner = first.shape[-2:] if first.ndim > 1 else (1, len(first))
                columns = second.shape[-1] if second.ndim > 1 else 1
                limit = NUMPY_VECTOR if 1 in (rows, columns) else NUMPY_PRODUCT
                seen.append((name, rows * inner * columns, limit))
            return function(first, second, **arguments)

        return call

    for name in ("dot", "matmul", "vdot"):
        monkeypatch.setattr(np, name, watched(name, getattr(np, name)))
    return seen


@pytest.mark.parametrize("width", [8, 64, 256])
@pytest.mark.parametrize("batch_size", [8, 64, 256, 1024])
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_no_product_of_numpys_is_large_enough_for_threads(
    action: str, batch_size: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every size, numpy is asked only for what OpenBLAS computes in the calling thread."""
    model = make_model(
        action=action, n_steps=1024, batch_size=batch_size, engine="fused", policy_kwargs={"net_arch": [width] * 2}
    )
    seen = watch_products(monkeypatch)
    collect(model)
    model.train()
    assert seen, "the watch saw no product at all"
    assert [product for product in seen if product[1] > product[2]] == []


@pytest.mark.parametrize(("width", "threads"), [(8, 1), (512, 2)])
def test_small_work_is_done_in_one_thread_and_the_number_restored(
    two_threads: None, monkeypatch: pytest.MonkeyPatch, width: int, threads: int
) -> None:
    """Inside a pass torch has one thread if its products are small, else the user's; afterwards the user's."""
    model = make_model(engine="fused", policy_kwargs={"net_arch": [width] * 2})
    assert (model.n_steps * width * width > ONE_THREAD_PRODUCT) == (threads == 2)
    inside: list[int] = []
    forward = FusedEngine._forward

    def watched(engine: FusedEngine, x: th.Tensor) -> Any:
        if len(x) > 1:
            inside.append(th.get_num_threads())
        return forward(engine, x)

    monkeypatch.setattr(FusedEngine, "_forward", watched)
    collect(model)
    model.train()
    assert inside == [threads]
    assert th.get_num_threads() == 2


def test_threads_are_restored_after_an_error(two_threads: None) -> None:
    """A pass that ends in an error leaves the number of threads as it was."""
    model = make_model(engine="fused")
    collect(model)
    model.rollout_buffer.advantages[:] = np.nan
    engine, _ = make_engine("fused", model.policy)
    (minibatch,) = engine.minibatches(model.rollout_buffer, model.n_steps)
    with pytest.raises(NonFiniteUpdateError):
        engine.gradients(minibatch, update_settings())
    assert th.get_num_threads() == 2
