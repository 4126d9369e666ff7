"""
The least that PPO's arithmetic can take: the bare matrix products of the networks, into memory that is allocated beforehand.

They are computed by numpy, torch and the kernels' own products, and the fastest counts. No engine that computes the same
gradients with these gets below it; activations, losses, the optimizer's step and all bookkeeping come on top.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_edu.engines.fused.engine import FORWARD, FORWARD_AND_BACKWARD, ROW_BY_ROW, FusedEngine, why_not_fused

CALIBRATION_SECONDS = 0.01
"""Time for which each way to compute a product is tried."""


class Product(NamedTuple):
    """
    Matrix products of one shape, (rows, inner) times (inner, columns).

    :param towers: how many of them, 2 where actor and critic have layers of equal shape
    :param rows: of the left factor
    :param inner: columns of the left factor, rows of the right one
    :param columns: of the right factor
    :param transposed: which factor lies transposed in memory: "left", "right" or "neither"
    """

    towers: int
    rows: int
    inner: int
    columns: int
    transposed: str


def layer_shapes(policy: ActorCriticPolicy) -> list[tuple[tuple[int, int], int, bool]]:
    """
    List the linear layers of an MLP policy; those of an LSTM or GRU take its inputs, and its state.

    :param policy: actor-critic policy
    :return: for each (inputs, outputs), how many there are side by side, and whether it is a first layer
    """
    cells = [module for module in policy.children() if isinstance(module, nn.RNNBase)]
    weights = [(name, weight) for cell in cells for name, weight in cell.named_parameters() if name.startswith("weight")]
    recurrent = [((weight.shape[1], weight.shape[0]), 1, name == "weight_ih_l0") for name, weight in weights]
    return [*recurrent, *((shape, towers, first and not cells) for shape, towers, first in dense_shapes(policy))]


def dense_shapes(policy: ActorCriticPolicy) -> list[tuple[tuple[int, int], int, bool]]:
    """List the layers of the networks behind the features as :func:`layer_shapes` does."""
    network = policy.mlp_extractor
    actor, critic = (
        [(layer.in_features, layer.out_features) for layer in (*tower, output) if isinstance(layer, nn.Linear)]
        for tower, output in ((network.policy_net, policy.action_net), (network.value_net, policy.value_net))
    )
    if len(actor) != len(critic):
        return [(shape, 1, index == 0) for tower in (actor, critic) for index, shape in enumerate(tower)]
    shapes = []
    for index, (left, right) in enumerate(zip(actor, critic, strict=True)):
        shapes += [(left, 2, index == 0)] if left == right else [(left, 1, index == 0), (right, 1, index == 0)]
    return shapes


def network_products(policy: ActorCriticPolicy, rows: int, *, backward: bool) -> list[Product]:
    """
    List the matrix products of one pass through an MLP policy.

    Forward a layer takes one product, ``h Wᵀ``; backward two, ``gᵀ h`` for its weights and ``g W`` for the layer below, of
    which the first layer has none.

    :param policy: actor-critic policy
    :param rows: rows of the batch
    :param backward: with those of the backward pass
    :return: the products
    """
    products = []
    for (inputs, outputs), towers, first in layer_shapes(policy):
        products.append(Product(towers, rows, inputs, outputs, "right"))
        if backward:
            products.append(Product(towers, outputs, rows, inputs, "left"))
        if backward and not first:
            products.append(Product(towers, rows, outputs, inputs, "neither"))
    return products


def make_factors(product: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Allocate the factors of a product, and memory for the result.

    :param product: the product
    :return: arrays of shape ``(towers, rows, inner)``, ``(towers, inner, columns)`` and ``(towers, rows, columns)``
    """
    generator = np.random.default_rng(0)

    def factor(rows: int, columns: int, transposed: bool) -> np.ndarray:
        shape = (product.towers, columns, rows) if transposed else (product.towers, rows, columns)
        array = generator.standard_normal(shape, dtype=np.float32)
        return array.transpose(0, 2, 1) if transposed else array

    left = factor(product.rows, product.inner, product.transposed == "left")
    right = factor(product.inner, product.columns, product.transposed == "right")
    return left, right, np.empty((product.towers, product.rows, product.columns), np.float32)


def ways_to_multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> list[Callable[[], object]]:
    """
    List the ways to compute a product: numpy's and torch's, batched and one by one.

    :param left: left factors
    :param right: right factors
    :param out: where the result goes
    :return: functions that compute it
    """
    tensors = [th.from_numpy(array) for array in (left, right, out)]
    arrays_each = list(zip(left, right, out, strict=True))
    tensors_each = list(zip(*tensors, strict=True))

    def numpy_each() -> None:
        for a, b, c in arrays_each:
            np.dot(a, b, out=c)

    def torch_each() -> None:
        for a, b, c in tensors_each:
            th.mm(a, b, out=c)

    return [
        lambda: np.matmul(left, right, out=out),
        lambda: th.bmm(tensors[0], tensors[1], out=tensors[2]),
        numpy_each,
        torch_each,
    ]


def fastest(ways: Sequence[Callable[[], object]], seconds: float = CALIBRATION_SECONDS) -> Callable[[], object]:
    """
    Choose the way that was the fastest in its best try.

    :param ways: functions that do the same
    :param seconds: time for which each is tried, at least three times
    :return: one of them
    """

    def best(way: Callable[[], object]) -> float:
        tries: list[float] = []
        until = time.perf_counter() + seconds
        while len(tries) < 3 or time.perf_counter() < until:
            start = time.perf_counter()
            way()
            tries.append(time.perf_counter() - start)
        return min(tries)

    return min(ways, key=best)


def prepare_products(policy: ActorCriticPolicy, rows: int, *, backward: bool) -> Callable[[], object]:
    """
    Build a function that computes all products of one pass, in the fastest way.

    :param policy: actor-critic policy
    :param rows: rows of the batch
    :param backward: with those of the backward pass
    :return: the function
    """
    products = network_products(policy, rows, backward=backward)
    ways = [fastest(ways_to_multiply(*make_factors(product))) for product in products]

    def by_libraries() -> None:
        for way in ways:
            way()

    return fastest([by_libraries, *own_ways(policy, rows, backward=backward)])


def own_ways(policy: ActorCriticPolicy, rows: int, *, backward: bool) -> list[Callable[[], None]]:
    """
    List the ways in which the kernels compute all products of one pass.

    :param policy: actor-critic policy; those of the backward pass overwrite its gradients
    :param rows: rows of the batch
    :param backward: with those of the backward pass
    :return: functions that compute them; none where the kernels can't serve the policy
    """
    if why_not_fused(policy) is not None:
        return []
    engine = FusedEngine(policy)
    return [partial(engine.multiply, rows, kind) for kind in ([FORWARD_AND_BACKWARD] if backward else [ROW_BY_ROW, FORWARD])]
