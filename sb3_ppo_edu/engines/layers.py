"""The layers of the fused engine: activations and towers of linear layers as forward/backward pairs on raw tensors.

The README beside this file derives each pair. Tensors live in buffers that are allocated once per batch size and reused, and
no autograd graph is built. Torch's own kernels do the arithmetic: its batched matrix product adds the bias on the way, and
its ``*_backward`` kernels multiply by an activation's derivative in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_ppo_edu.engines.flat import Array

aten = th.ops.aten

KEPT_BATCH_SIZES = 4
"""Buffers are kept for this many batch sizes: rollout, minibatch, truncated minibatch, and one to spare."""


FEW_ROWS = 16
"""Up to this many rows, as in rollouts, numpy's products are the faster ones (measured with 64 columns)."""


class Activation(NamedTuple):
    """
    An elementwise function f and the product with its derivative.

    :param forward: ``forward(z, out)`` writes f(z) into an array; ``out`` is ``z`` itself if ``in_place``
    :param backward: ``backward(grad, saved)`` multiplies ``grad`` by f'(z) in place, which turns dL/dh into dL/dz
    :param in_place: f' is known from h = f(z) alone: ``saved`` is h, and z need not be kept; otherwise ``saved`` is z
    """

    forward: Callable[[Array, Array], Any]
    backward: Callable[[th.Tensor, th.Tensor], Any]
    in_place: bool


def make_activation(module: nn.Module) -> Activation | None:
    """
    Find the forward/backward pair of an activation module.

    - Tanh: 1 - h²; ReLU: 1 where h > 0; both from h alone
    - ELU: 1 or αeᶻ; LeakyReLU: 1 or the slope; SiLU: σ(z)(1 + z(1 - σ(z))); GELU: Φ(z) + zφ(z)

    :param module: activation module
    :return: the pair, or None if there is none
    """
    tensor = th.from_numpy
    if type(module) is nn.Tanh:
        return Activation(
            lambda z, out: np.tanh(z, out=out), lambda grad, h: aten.tanh_backward.grad_input(grad, h, grad_input=grad), True
        )
    if type(module) is nn.ReLU:
        return Activation(
            lambda z, out: np.maximum(z, 0.0, out=out),
            lambda grad, h: aten.threshold_backward.grad_input(grad, h, 0.0, grad_input=grad),
            True,
        )
    if type(module) is nn.ELU:
        alpha = module.alpha
        return Activation(
            lambda z, out: aten.elu.out(tensor(z), alpha, out=tensor(out)),
            lambda grad, z: aten.elu_backward.grad_input(grad, alpha, 1.0, 1.0, False, z, grad_input=grad),
            False,
        )
    if type(module) is nn.LeakyReLU:
        slope = module.negative_slope
        return Activation(
            lambda z, out: aten.leaky_relu.out(tensor(z), slope, out=tensor(out)),
            lambda grad, z: aten.leaky_relu_backward.grad_input(grad, z, slope, False, grad_input=grad),
            False,
        )
    if type(module) is nn.SiLU:
        return Activation(
            lambda z, out: aten.silu.out(tensor(z), out=tensor(out)),
            lambda grad, z: aten.silu_backward.grad_input(grad, z, grad_input=grad),
            False,
        )
    if type(module) is nn.GELU:
        form = module.approximate
        return Activation(
            lambda z, out: aten.gelu.out(tensor(z), approximate=form, out=tensor(out)),
            lambda grad, z: aten.gelu_backward.grad_input(grad, z, approximate=form, grad_input=grad),
            False,
        )
    return None


@dataclass
class LinearStack:
    """
    Views of the parameters and gradients of one linear layer in T towers at once.

    :param weight: W, shape ``(T, out, in)``
    :param bias: b, shape ``(T, 1, out)``
    :param weight_grad: where dL/dW is written, shape of ``weight``
    :param bias_grad: where dL/db is written, shape of ``bias``
    """

    weight: th.Tensor
    bias: th.Tensor
    weight_grad: th.Tensor
    bias_grad: th.Tensor

    def __post_init__(self) -> None:
        """Keep the transposed view, and arrays over the same memory."""
        self.weight_t = self.weight.transpose(1, 2)
        self.weight_t_array: Array = self.weight_t.numpy()
        self.bias_array: Array = self.bias.numpy()


@dataclass
class OutputLayer:
    """
    Views of the parameters and gradients of an output layer, whose few outputs make numpy's products the fastest.

    :param weight: W, shape ``(out, in)``
    :param bias: b, shape ``(out,)``
    :param weight_grad: where dL/dW is written
    :param bias_grad: where dL/db is written
    """

    weight: Array
    bias: Array
    weight_grad: Array
    bias_grad: Array

    def forward(self, latent: Array) -> Array:
        """
        Compute h Wᵀ + b.

        :param latent: h, shape ``(batch, in)``
        :return: shape ``(batch, out)``, freshly allocated
        """
        out: Array = np.dot(latent, self.weight.T)
        out += self.bias
        return out

    def backward(self, latent: Array, grad: Array, latent_grad: Array | None) -> None:
        """
        Write dL/dW = gᵀh, dL/db = Σg, and dL/dh = gW.

        :param latent: h of the forward pass
        :param grad: g = dL/d outputs, shape ``(batch, out)``
        :param latent_grad: where dL/dh is written, or None if nobody needs it
        """
        np.dot(grad.T, latent, out=self.weight_grad)
        np.add.reduce(grad, axis=0, out=self.bias_grad)
        if latent_grad is not None:
            np.dot(grad, self.weight, out=latent_grad)


class TowerBuffers(NamedTuple):
    """
    Memory of one pass through a tower stack at one batch size.

    :param z: pre-activations of each layer, each ``(T, batch, width)``; the same memory as ``h`` where the activation allows
    :param h: activations of each layer
    :param grad: gradients with respect to the activations of each layer
    :param grad_t: their transposed views, each ``(T, width, batch)``
    :param ones: rows of ones, shape ``(T, 1, batch)``, whose product with a matrix sums its rows
    :param z_arrays: arrays over the memory of ``z``
    :param h_arrays: arrays over the memory of ``h``
    :param output_grad: the last of ``grad`` as an array
    :param steps: for each layer Wᵀ, b, z and h as arrays
    """

    z: list[th.Tensor]
    h: list[th.Tensor]
    grad: list[th.Tensor]
    grad_t: list[th.Tensor]
    ones: th.Tensor
    z_arrays: list[Array]
    h_arrays: list[Array]
    output_grad: Array
    steps: list[tuple[Array, Array, Array, Array]]


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
        self.n_towers = len(self.layers[0].weight)
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
            h, grad = self._allocate(batch), self._allocate(batch)
            z = h if self.activation.in_place else self._allocate(batch)
            ones = th.ones((self.n_towers, 1, batch), dtype=h[0].dtype)
            found = self._buffers[batch] = TowerBuffers(
                z,
                h,
                grad,
                [tensor.transpose(1, 2) for tensor in grad],
                ones,
                [tensor.numpy() for tensor in z],
                [tensor.numpy() for tensor in h],
                grad[-1].numpy(),
                [
                    (layer.weight_t_array, layer.bias_array, z_layer.numpy(), h_layer.numpy())
                    for layer, z_layer, h_layer in zip(self.layers, z, h, strict=True)
                ],
            )
        return found

    def _allocate(self, batch: int) -> list[th.Tensor]:
        """
        One tensor per layer.

        :param batch: number of rows
        :return: tensors ``(T, batch, width)``
        """
        return [layer.weight.new_empty((self.n_towers, batch, layer.weight.shape[1])) for layer in self.layers]

    def forward(self, x: th.Tensor) -> Array:
        """
        Compute hₗ = f(hₗ₋₁ Wₗᵀ + bₗ) layer by layer.

        :param x: input of all towers, shape ``(batch, in)``
        :return: output of each tower, shape ``(T, batch, width)``, valid until the next call with this batch size
        """
        buffers = self.buffers(x.shape[0])
        if x.shape[0] <= FEW_ROWS:
            rows: Array = x.numpy()
            activate = self.activation.forward
            for weight_t, bias, z, h in buffers.steps:
                np.matmul(rows, weight_t, out=z)
                np.add(z, bias, out=z)
                activate(z, h)
                rows = h
        else:
            below = x.expand(self.n_towers, *x.shape)
            for index, layer in enumerate(self.layers):
                th.baddbmm(layer.bias, below, layer.weight_t, out=buffers.z[index])
                self.activation.forward(buffers.z_arrays[index], buffers.h_arrays[index])
                below = buffers.h[index]
        return buffers.h_arrays[-1]

    def backward(self, x: th.Tensor) -> None:
        """
        Write the gradients of all parameters, from dL/dh of the last layer in ``buffers(batch).output_grad``.

        dL/dz = dL/dh · f'(z), then dL/dW = (dL/dz)ᵀ h, dL/db = Σ dL/dz, dL/dh of the layer below = dL/dz · W.

        :param x: the input of the forward pass, shape ``(batch, in)``
        """
        buffers = self.buffers(x.shape[0])
        saved = buffers.h if self.activation.in_place else buffers.z
        for index in range(len(self.layers) - 1, -1, -1):
            layer, grad = self.layers[index], buffers.grad[index]
            self.activation.backward(grad, saved[index])
            below = buffers.h[index - 1] if index > 0 else x.expand(self.n_towers, *x.shape)
            th.bmm(buffers.grad_t[index], below, out=layer.weight_grad)
            th.bmm(buffers.ones, grad, out=layer.bias_grad)
            if index > 0:
                th.bmm(grad, layer.weight, out=buffers.grad[index - 1])
