"""The layers of the fused engine: activations and towers of linear layers as forward/backward pairs on numpy arrays.

The README beside this file derives each pair. Arrays live in buffers that are allocated once per batch size and reused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.floating[Any]]

KEPT_BATCH_SIZES = 4
"""Buffers are kept for this many batch sizes: rollout, minibatch, truncated minibatch, and one to spare."""


class Activation(Protocol):
    """An elementwise function and its derivative."""

    def forward(self, z: Array, h: Array) -> None:
        """
        Write h = f(z).

        :param z: pre-activations, any shape
        :param h: output, the same shape, never the same memory
        """
        ...

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """
        Multiply ``grad`` by f'(z) in place, which turns dL/dh into dL/dz.

        :param z: pre-activations
        :param h: f(z)
        :param grad: dL/dh, changed in place
        :param scratch: memory of the same shape to write to
        """
        ...


class Tanh:
    """tanh z, with derivative 1 - h²."""

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        np.tanh(z, out=h)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        np.multiply(h, h, out=scratch)
        np.multiply(scratch, grad, out=scratch)
        np.subtract(grad, scratch, out=grad)


class ReLU:
    """max(z, 0), with derivative 1 where z > 0 and else 0."""

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        np.maximum(z, 0, out=h)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        np.sign(h, out=scratch)  # h ≥ 0, so this is the 0/1 of the derivative
        np.multiply(grad, scratch, out=grad)


@dataclass
class LeakyReLU:
    """
    z where z > 0, else slope·z; derivative 1 or slope.

    :param slope: ``negative_slope`` of the module
    """

    slope: float

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        np.multiply(z, self.slope, out=h)
        np.copyto(h, z, where=z > 0)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        np.multiply(grad, self.slope, out=grad, where=z <= 0)


@dataclass
class ELU:
    """
    z where z > 0, else α(eᶻ - 1); derivative 1 or h + α.

    :param alpha: ``alpha`` of the module
    """

    alpha: float

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        np.minimum(z, 0, out=h)
        np.expm1(h, out=h)
        if self.alpha != 1.0:
            np.multiply(h, self.alpha, out=h)
        np.copyto(h, z, where=z > 0)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        np.add(h, self.alpha, out=scratch)
        np.copyto(scratch, 1.0, where=z > 0)
        np.multiply(grad, scratch, out=grad)


class SiLU:
    """z·σ(z), with derivative σ(z) + h(1 - σ(z))."""

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        sigmoid(z, out=h)
        np.multiply(z, h, out=h)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        sigmoid(z, out=scratch)
        # σ + h(1 - σ) = h + σ(1 - h)
        np.multiply(scratch, 1.0 - h, out=scratch)
        np.add(scratch, h, out=scratch)
        np.multiply(grad, scratch, out=grad)


class GELU:
    """z·Φ(z) with the normal distribution function Φ; derivative Φ(z) + z·φ(z)."""

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        normal_cdf(z, out=h)
        np.multiply(z, h, out=h)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        density = np.exp(-0.5 * z * z) * (2.0 * np.pi) ** -0.5
        normal_cdf(z, out=scratch)
        np.add(scratch, z * density, out=scratch)
        np.multiply(grad, scratch, out=grad)


class TanhGELU:
    """The approximation z/2·(1 + tanh t) with t = √(2/π)(z + 0.044715 z³), torch's ``GELU(approximate="tanh")``."""

    scale = (2.0 / np.pi) ** 0.5
    cubic = 0.044715

    def forward(self, z: Array, h: Array) -> None:
        """See :meth:`Activation.forward`."""
        np.tanh(self.scale * (z + self.cubic * z**3), out=h)
        np.add(h, 1.0, out=h)
        np.multiply(h, 0.5 * z, out=h)

    def backward(self, z: Array, h: Array, grad: Array, scratch: Array) -> None:
        """See :meth:`Activation.backward`."""
        t = np.tanh(self.scale * (z + self.cubic * z**3))
        slope = self.scale * (1.0 + 3.0 * self.cubic * z**2)
        np.multiply(0.5 * z * slope, 1.0 - t * t, out=scratch)
        np.add(scratch, 0.5 * (1.0 + t), out=scratch)
        np.multiply(grad, scratch, out=grad)


def sigmoid(z: Array, out: Array | None = None) -> Array:
    """
    Logistic function 1/(1 + e⁻ᶻ) as (1 + tanh(z/2))/2, which can't overflow.

    :param z: any shape
    :param out: memory for the result
    :return: the same shape, in (0, 1)
    """
    out = np.multiply(z, 0.5, out=out)
    np.tanh(out, out=out)
    np.add(out, 1.0, out=out)
    return np.multiply(out, 0.5, out=out)


def normal_cdf(z: Array, out: Array) -> Array:
    """
    Distribution function of the standard normal, by torch's erf (numpy has none).

    :param z: any shape
    :param out: memory for the result, the same shape
    :return: ``out``
    """
    th.special.ndtr(th.from_numpy(z), out=th.from_numpy(out))
    return out


def make_activation(module: nn.Module) -> Activation | None:
    """
    Find the forward/backward pair of a torch activation.

    :param module: activation module
    :return: the pair, or None if there is none
    """
    simple: dict[type[nn.Module], Callable[[Any], Activation]] = {
        nn.Tanh: lambda _: Tanh(),
        nn.ReLU: lambda _: ReLU(),
        nn.ELU: lambda m: ELU(m.alpha),
        nn.LeakyReLU: lambda m: LeakyReLU(m.negative_slope),
        nn.SiLU: lambda _: SiLU(),
        nn.GELU: lambda m: TanhGELU() if m.approximate == "tanh" else GELU(),
    }
    make = simple.get(type(module))
    return None if make is None else make(module)


@dataclass
class LinearStack:
    """
    Views of the parameters and gradients of one linear layer in T towers at once.

    :param weight: W, shape ``(T, out, in)``
    :param bias: b, shape ``(T, 1, out)``
    :param weight_grad: where dL/dW is written, shape of ``weight``
    :param bias_grad: where dL/db is written, shape of ``bias``
    """

    weight: Array
    bias: Array
    weight_grad: Array
    bias_grad: Array

    def __post_init__(self) -> None:
        """Keep the transposed view."""
        self.weight_t = self.weight.transpose(0, 2, 1)


@dataclass
class TowerBuffers:
    """
    Memory of one pass through a tower stack at one batch size.

    :param z: pre-activations of each layer, each ``(T, batch, width)``
    :param h: activations of each layer
    :param grad: gradients with respect to the activations of each layer
    :param scratch: free memory for each layer
    :param ones: a row of ones, shape ``(1, batch)``, whose product with a matrix sums its rows
    """

    z: list[Array]
    h: list[Array]
    grad: list[Array]
    scratch: list[Array]
    ones: Array


class TowerStack:
    """
    T towers of linear layers and activations with equal shapes, computed side by side.

    With SB3's default architecture the actor's and the critic's tower have equal shapes: one call then does the work of both.

    :param layers: the linear layers from input to output, at least one
    :param activation: the activation behind each
    """

    def __init__(self, layers: Sequence[LinearStack], activation: Activation) -> None:
        self.layers = list(layers)
        self.activation = activation
        self._buffers: dict[int, TowerBuffers] = {}

    def buffers(self, batch: int) -> TowerBuffers:
        """
        Memory for a batch size.

        :param batch: number of rows
        :return: its buffers, the same ones at every call
        """
        found = self._buffers.get(batch)
        if found is None:
            if len(self._buffers) >= KEPT_BATCH_SIZES:
                self._buffers.clear()
            found = self._buffers[batch] = TowerBuffers(
                self._allocate(batch),
                self._allocate(batch),
                self._allocate(batch),
                self._allocate(batch),
                np.ones((1, batch), self.layers[0].weight.dtype),
            )
        return found

    def _allocate(self, batch: int) -> list[Array]:
        """
        One array per layer.

        :param batch: number of rows
        :return: arrays ``(T, batch, width)``
        """
        return [np.empty((len(layer.weight), batch, layer.weight.shape[1]), layer.weight.dtype) for layer in self.layers]

    def forward(self, x: Array) -> Array:
        """
        Compute hₗ = f(hₗ₋₁ Wₗᵀ + bₗ) layer by layer.

        :param x: input of all towers, shape ``(batch, in)``
        :return: output of each tower, shape ``(T, batch, width)``, valid until the next call with this batch size
        """
        buffers = self.buffers(len(x))
        h = x
        for layer, z, out in zip(self.layers, buffers.z, buffers.h, strict=True):
            np.matmul(h, layer.weight_t, out=z)
            np.add(z, layer.bias, out=z)
            self.activation.forward(z, out)
            h = out
        return h

    def backward(self, x: Array) -> None:
        """
        Write the gradients of all parameters, from dL/dh of the last layer in ``buffers(batch).grad[-1]``.

        dL/dz = dL/dh · f'(z), then dL/dW = (dL/dz)ᵀ h, dL/db = Σ dL/dz, dL/dh of the layer below = dL/dz · W.

        :param x: the input of the forward pass, shape ``(batch, in)``
        """
        buffers = self.buffers(len(x))
        for index in range(len(self.layers) - 1, -1, -1):
            layer, grad = self.layers[index], buffers.grad[index]
            self.activation.backward(buffers.z[index], buffers.h[index], grad, buffers.scratch[index])
            below = buffers.h[index - 1] if index > 0 else x
            np.matmul(grad.transpose(0, 2, 1), below, out=layer.weight_grad)
            np.matmul(buffers.ones, grad, out=layer.bias_grad)
            if index > 0:
                np.matmul(grad, layer.weight, out=buffers.grad[index - 1])
