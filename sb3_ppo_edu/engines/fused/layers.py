"""The layers of the fused engine: activations and towers of linear layers as forward/backward pairs on raw tensors.

The README in ../derivation derives each pair. Tensors live in buffers that are allocated once per batch size and reused, and
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

from sb3_ppo_edu.engines.fused.products import NUMPY_PRODUCT, NUMPY_SUMS, fits_numpy
from sb3_ppo_edu.functional.objectives import Array

aten = th.ops.aten

KEPT_BATCH_SIZES = 4
"""Buffers are kept for this many batch sizes: rollout, minibatch, truncated minibatch, and one to spare."""


FEW_ROWS = 64
"""Up to this many rows, as in rollouts, numpy computes a layer's outputs faster (measured with 64 columns)."""


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
        self.weight_array: Array = self.weight.numpy()
        self.weight_t_array: Array = self.weight_t.numpy()
        self.bias_array: Array = self.bias.numpy()
        self.weight_grad_array: Array = self.weight_grad.numpy()
        self.bias_grad_array: Array = self.bias_grad.numpy()


class OutputLayer:
    """
    An output layer, whose few outputs make numpy's products the fastest.

    :param weight: W, shape ``(out, in)``
    :param bias: b, shape ``(out,)``
    :param weight_grad: where dL/dW is written
    :param bias_grad: where dL/db is written
    """

    def __init__(self, weight: th.Tensor, bias: th.Tensor, weight_grad: th.Tensor, bias_grad: th.Tensor) -> None:
        self._weight, self._weight_t, self._weight_grad = weight, weight.t(), weight_grad
        self._weight_array: Array = weight.numpy()
        self._weight_t_array: Array = self._weight_t.numpy()
        self._bias_array: Array = bias.numpy()
        self._weight_grad_array: Array = weight_grad.numpy()
        self._bias_grad_array: Array = bias_grad.numpy()
        self._ones: Array = np.ones(0, self._bias_array.dtype)

    def forward(self, latent: Array) -> Array:
        """
        Compute h Wᵀ + b.

        :param latent: h, shape ``(batch, in)``
        :return: shape ``(batch, out)``, freshly allocated
        """
        out: Array
        if fits_numpy(len(latent), *self._weight_t_array.shape):
            out = np.dot(latent, self._weight_t_array)
        elif self._sums_in_numpy(latent):
            out = np.einsum("bi,ki->bk", latent, self._weight_array)
        else:
            out = th.mm(th.from_numpy(latent), self._weight_t).numpy()
        out += self._bias_array
        return out

    def backward(self, latent: Array, grad: Array, latent_grad: Array | None) -> None:
        """
        Write dL/dW = gᵀh, dL/db = Σg, and dL/dh = gW.

        :param latent: h of the forward pass
        :param grad: g = dL/d outputs, shape ``(batch, out)``
        :param latent_grad: where dL/dh is written, or None if nobody needs it
        """
        batch, n_outputs = grad.shape
        if fits_numpy(n_outputs, batch, latent.shape[1]):
            np.dot(grad.T, latent, out=self._weight_grad_array)
        elif self._sums_in_numpy(latent):
            np.einsum("bk,bi->ki", grad, latent, out=self._weight_grad_array)
        else:
            th.mm(th.from_numpy(grad).t(), th.from_numpy(latent), out=self._weight_grad)
        if fits_numpy(1, batch, n_outputs):
            np.dot(self._ones_for(batch), grad, out=self._bias_grad_array)
        else:
            np.add.reduce(grad, axis=0, out=self._bias_grad_array)
        if latent_grad is None:
            return
        if latent.size * n_outputs <= NUMPY_PRODUCT // 4:
            np.dot(grad, self._weight_array, out=latent_grad)
        else:
            th.mm(th.from_numpy(grad), self._weight, out=th.from_numpy(latent_grad))

    def _sums_in_numpy(self, latent: Array) -> bool:
        """
        Tell whether ``np.einsum``, which calls no OpenBLAS, computes the products of a single output.

        :param latent: h of the forward pass
        :return: True if it can and is the fastest way
        """
        return len(self._weight_array) == 1 and latent.size <= NUMPY_SUMS

    def _ones_for(self, rows: int) -> Array:
        """
        Give ones, made once: to multiply with them sums columns faster than ``np.add.reduce``.

        :param rows: how many
        :return: shape ``(rows,)``
        """
        if len(self._ones) < rows:
            self._ones = np.ones(rows, self._ones.dtype)
        return self._ones[:rows]


class LayerBuffers(NamedTuple):
    """
    Memory of one layer in one pass through a tower stack at one batch size.

    :param layer: the layer's parameters
    :param z: pre-activations, shape ``(T, batch, width)``; the same memory as ``h`` where the activation allows
    :param h: activations
    :param grad: gradients with respect to the activations
    :param grad_t: its transposed view, shape ``(T, width, batch)``
    :param z_array: array over the memory of ``z``
    :param h_array: array over the memory of ``h``
    :param grad_array: array over the memory of ``grad``
    :param grad_t_array: array over the memory of ``grad_t``
    :param forward_in_numpy: numpy computes the outputs
    :param backward_in_numpy: numpy computes the gradients of the weights and of the layer below
    :param bias_grad_in_numpy: numpy computes the gradients of the biases
    """

    layer: LinearStack
    z: th.Tensor
    h: th.Tensor
    grad: th.Tensor
    grad_t: th.Tensor
    z_array: Array
    h_array: Array
    grad_array: Array
    grad_t_array: Array
    forward_in_numpy: bool
    backward_in_numpy: bool
    bias_grad_in_numpy: bool


class TowerBuffers(NamedTuple):
    """
    Memory of one pass through a tower stack at one batch size.

    :param layers: that of each layer
    :param ones: rows of ones, shape ``(T, 1, batch)``, whose product with a matrix sums its rows
    :param ones_array: array over the same memory
    :param output_grads: for each tower where the gradient with respect to its output is expected, ``(batch, width)``
    """

    layers: list[LayerBuffers]
    ones: th.Tensor
    ones_array: Array
    output_grads: list[Array]


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
            layers = [self._allocate(layer, batch) for layer in self.layers]
            ones = self.layers[0].weight.new_ones((self.n_towers, 1, batch))
            found = self._buffers[batch] = TowerBuffers(layers, ones, ones.numpy(), list(layers[-1].grad.numpy()))
        return found

    def _allocate(self, layer: LinearStack, batch: int) -> LayerBuffers:
        """
        Allocate the memory of one layer, and choose who multiplies.

        :param layer: the layer
        :param batch: number of rows
        :return: its memory
        """
        _, width, inputs = layer.weight.shape
        shape = (self.n_towers, batch, width)
        h, grad = layer.weight.new_empty(shape), layer.weight.new_empty(shape)
        z = h if self.activation.in_place else layer.weight.new_empty(shape)
        grad_t = grad.transpose(1, 2)
        return LayerBuffers(
            layer,
            z,
            h,
            grad,
            grad_t,
            z.numpy(),
            h.numpy(),
            grad.numpy(),
            grad_t.numpy(),
            batch <= FEW_ROWS and fits_numpy(batch, inputs, width),
            fits_numpy(width, batch, inputs),
            fits_numpy(1, batch, width),
        )

    def forward(self, x: th.Tensor) -> Array:
        """
        Compute hₗ = f(hₗ₋₁ Wₗᵀ + bₗ) layer by layer.

        :param x: input of all towers, shape ``(batch, in)``
        :return: output of each tower, shape ``(T, batch, width)``, valid until the next call with this batch size
        """
        layers = self.buffers(x.shape[0]).layers
        activate = self.activation.forward
        below, below_array = x, x.numpy()
        for memory in layers:
            layer = memory.layer
            if memory.forward_in_numpy:
                np.matmul(below_array, layer.weight_t_array, out=memory.z_array)
                np.add(memory.z_array, layer.bias_array, out=memory.z_array)
            else:
                below = below if below is not x else x.expand(self.n_towers, *x.shape)
                th.baddbmm(layer.bias, below, layer.weight_t, out=memory.z)
            activate(memory.z_array, memory.h_array)
            below, below_array = memory.h, memory.h_array
        return below_array

    def backward(self, x: th.Tensor) -> None:
        """
        Write the gradients of all parameters, from dL/dh of the last layer in ``output_grads``.

        dL/dz = dL/dh · f'(z), then dL/dW = (dL/dz)ᵀ h, dL/db = Σ dL/dz, dL/dh of the layer below = dL/dz · W.

        :param x: the input of the forward pass, shape ``(batch, in)``
        """
        layers, ones, ones_array, _ = self.buffers(x.shape[0])
        for index in range(len(layers) - 1, -1, -1):
            memory = layers[index]
            layer, grad = memory.layer, memory.grad
            self.activation.backward(grad, memory.h if self.activation.in_place else memory.z)
            if memory.backward_in_numpy:
                below_array = layers[index - 1].h_array if index > 0 else x.numpy()
                np.matmul(memory.grad_t_array, below_array, out=layer.weight_grad_array)
            else:
                below = layers[index - 1].h if index > 0 else x.expand(self.n_towers, *x.shape)
                th.bmm(memory.grad_t, below, out=layer.weight_grad)
            if memory.bias_grad_in_numpy:
                np.matmul(ones_array, memory.grad_array, out=layer.bias_grad_array)
            else:
                th.bmm(ones, grad, out=layer.bias_grad)
            if index > 0 and memory.backward_in_numpy:
                np.matmul(memory.grad_array, layer.weight_array, out=layers[index - 1].grad_array)
            elif index > 0:
                th.bmm(grad, layer.weight, out=layers[index - 1].grad)
