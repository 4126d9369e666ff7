"""The speed laboratory's floor: the matrix products that no training can do without, multiplied in the fastest way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from sb3_ppo_edu.lab.speed import floor
from tests.speed_measurements import Clock
from tests.speed_measurements import clock as clock


def test_products_of_a_pass() -> None:
    """A network 4 - 16 - 8 - (2, 1) has these products, forward one a layer, backward two, none for the observations."""
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [16, 8]}, n_steps=32, batch_size=32, device="cpu")
    forward = [
        floor.Product(2, 32, 4, 16, "right"),
        floor.Product(2, 32, 16, 8, "right"),
        floor.Product(1, 32, 8, 2, "right"),
        floor.Product(1, 32, 8, 1, "right"),
    ]
    assert floor.network_products(model.policy, 32, backward=False) == forward
    backward = [
        floor.Product(2, 16, 32, 4, "left"),
        floor.Product(2, 8, 32, 16, "left"),
        floor.Product(2, 32, 8, 16, "neither"),
        floor.Product(1, 2, 32, 8, "left"),
        floor.Product(1, 32, 2, 8, "neither"),
        floor.Product(1, 1, 32, 8, "left"),
        floor.Product(1, 32, 1, 8, "neither"),
    ]
    assert sorted(floor.network_products(model.policy, 32, backward=True)) == sorted([*forward, *backward])


def test_products_of_unequal_towers() -> None:
    """Towers of unequal shape are multiplied one by one: 4 - 8 - 2 and 4 - 16 - 16 - 1."""
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": {"pi": [8], "vf": [16, 16]}}, device="cpu")
    shapes = [
        (product.towers, product.inner, product.columns) for product in floor.network_products(model.policy, 1, backward=False)
    ]
    assert shapes == [(1, 4, 8), (1, 8, 2), (1, 4, 16), (1, 16, 16), (1, 16, 1)]


def test_products_of_a_memory() -> None:
    """
    An LSTM of 3 units has 12 gates, each of the 4 observations and of the 3 units; networks stand on the units.

    Observations need no gradient, units do.
    """
    kwargs = {"lstm_hidden_size": 3, "net_arch": [8]}
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    of_one_tower = [floor.Product(1, 5, 4, 12, "right"), floor.Product(1, 5, 3, 12, "right")]
    dense = [floor.Product(2, 5, 3, 8, "right"), floor.Product(1, 5, 8, 2, "right"), floor.Product(1, 5, 8, 1, "right")]
    forward = [*of_one_tower, *of_one_tower, *dense]
    assert floor.network_products(model.policy, 5, backward=False) == forward
    weights = [floor.Product(one.towers, one.columns, 5, one.inner, "left") for one in forward]
    below = [floor.Product(one.towers, 5, one.columns, one.inner, "neither") for one in forward if one.inner != 4]
    assert sorted(floor.network_products(model.policy, 5, backward=True)) == sorted([*forward, *weights, *below])


@pytest.mark.parametrize("transposed", ["left", "right", "neither"])
def test_ways_to_multiply_compute_the_product(transposed: str) -> None:
    """Each way multiplies float32 factors of the given shapes, the right one of them transposed in memory."""
    left, right, out = floor.make_factors(floor.Product(2, 7, 5, 3, transposed))
    assert (left.shape, right.shape, out.shape) == ((2, 7, 5), (2, 5, 3), (2, 7, 3))
    assert left.dtype == right.dtype == out.dtype == np.float32
    assert [not array[0].flags.c_contiguous for array in (left, right)] == [transposed == "left", transposed == "right"]
    ways = floor.ways_to_multiply(left, right, out)
    assert len(ways) == 4
    for way in ways:
        out[:] = np.nan
        way()
        np.testing.assert_allclose(out, np.einsum("tij,tjk->tik", left, right), rtol=1e-5, atol=1e-6)


def test_the_fastest_way_is_chosen(clock: Clock) -> None:
    """Of several ways, the one whose best try is the shortest, even if its first try was the longest."""
    first = iter([9.0])
    ways: list[Callable[[], object]] = [
        lambda: clock.advance(0.004),
        lambda: clock.advance(next(first, 0.001)),
        lambda: clock.advance(0.002),
    ]
    assert floor.fastest(ways) is ways[1]


def test_own_products_are_the_networks() -> None:
    """
    The kernels' floor computes the products of both towers: backward it writes every weight's gradient, and no bias's.

    Forward, whole or row by row, it writes none; parameters stay as they are.
    """
    policy = PPO("MlpPolicy", "CartPole-v1", device="cpu").policy
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    for rows, backward in ((8, False), (3, False), (64, True)):
        ways = floor.own_ways(policy, rows, backward=backward)
        assert len(ways) == (1 if backward else 2)
        for parameter in policy.parameters():
            parameter.grad = None
        for way in ways:
            way()
        for parameter in policy.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(np.nan)
        for way in ways:
            way()
        for name, parameter in policy.named_parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.isnan().all()) is not (backward and name.endswith("weight")), name
    assert all(bool((now == then).all()) for now, then in zip(policy.parameters(), before, strict=True))
