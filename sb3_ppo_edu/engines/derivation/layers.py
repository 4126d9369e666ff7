"""The networks: linear layers and activations, each as a forward pass and its backward pass.

A backward pass takes the gradient of the loss with respect to what the forward pass returned, adds the gradients of the
layer's own parameters to their ``.grad``, and returns the gradient with respect to what the forward pass was given. The README
beside this file derives each of them (sections 1 and 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch as th
from torch import nn

from sb3_ppo_edu.functional.objectives import Array

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715
"""Of z³ in the approximation of GELU by tanh: equation 2 of Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415."""


class Layer(Protocol):
    """One step of a network. ``backward`` belongs to the last ``forward``."""

    def forward(self, h: Array) -> Array:
        """Outputs ``(batch, out)`` for inputs ``(batch, in)``."""
        ...

    def backward(self, gradient: Array) -> Array:
        """∂L/∂inputs ``(batch, in)`` from ∂L/∂outputs ``(batch, out)``."""
        ...


def add_gradient(parameter: th.Tensor, gradient: Array) -> None:
    """Add to a parameter's ``.grad``, as autograd does: nothing where it is frozen, a new tensor where there is none yet."""
    if not parameter.requires_grad:
        return
    found = th.from_numpy(gradient).to(parameter.dtype)
    parameter.grad = found if parameter.grad is None else parameter.grad.add_(found)


class Linear:
    r"""
    The affine map :math:`z = hW^\top + b`.

    Backward :math:`\bar W = \bar z^\top h`, :math:`\bar b = \sum_i \bar z_i` and :math:`\bar h = \bar z W`.

    :param module: gives W of shape ``(out, in)`` and b of shape ``(out,)``, whose memory is shared
    """

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        self.weight: Array = module.weight.detach().numpy()
        self.bias: Array = module.bias.detach().numpy()

    def forward(self, h: Array) -> Array:
        """See :meth:`Layer.forward`."""
        self.h = h
        z: Array = h @ self.weight.T + self.bias
        return z

    def backward(self, gradient: Array) -> Array:
        """See :meth:`Layer.backward`."""
        add_gradient(self.module.weight, gradient.T @ self.h)
        add_gradient(self.module.bias, gradient.sum(axis=0))
        below: Array = gradient @ self.weight
        return below


class LayerNorm:
    r"""
    LayerNorm, for each row alone: :math:`y = \gamma n + \beta` with :math:`n = (z - \mu)/\sigma`.

    There :math:`\mu = \frac1m \sum_u z_u` and :math:`\sigma^2 = \frac1m \sum_u (z_u - \mu)^2 + \epsilon` (Ba et al. 2016,
    equations 3 and 4, https://arxiv.org/abs/1607.06450). Backward :math:`\bar\gamma = \sum_i \bar y_i n_i`,
    :math:`\bar\beta = \sum_i \bar y_i`, and with :math:`\bar n = \gamma \bar y`
    :math:`\bar z = (\bar n - \frac1m \sum_u \bar n_u - n \frac1m \sum_u \bar n_u n_u)/\sigma`.

    :param module: gives γ and β of shape ``(out,)``, whose memory is shared, and ε
    """

    def __init__(self, module: nn.LayerNorm) -> None:
        self.module = module
        self.scale: Array = module.weight.detach().numpy()
        self.shift: Array = module.bias.detach().numpy()

    def forward(self, z: Array) -> Array:
        """See :meth:`Layer.forward`."""
        centred = z - z.mean(axis=1, keepdims=True)
        self.sigma = np.sqrt((centred**2).mean(axis=1, keepdims=True) + z.dtype.type(self.module.eps))
        self.n = centred / self.sigma
        y: Array = self.n * self.scale + self.shift
        return y

    def backward(self, gradient: Array) -> Array:
        """See :meth:`Layer.backward`."""
        add_gradient(self.module.weight, (gradient * self.n).sum(axis=0))
        add_gradient(self.module.bias, gradient.sum(axis=0))
        slope = gradient * self.scale
        along = (slope * self.n).mean(axis=1, keepdims=True)
        below: Array = (slope - slope.mean(axis=1, keepdims=True) - self.n * along) / self.sigma
        return below


class Activation:
    r"""
    :math:`h = f(z)` for each number alone; backward :math:`\bar z = \bar h f'(z)`.

    :param module: activation module, one of ``FUNCTIONS``
    """

    def __init__(self, module: nn.Module) -> None:
        self.function, self.derivative = FUNCTIONS[type(module)](module)

    def forward(self, z: Array) -> Array:
        """See :meth:`Layer.forward`."""
        self.z, self.h = z, self.function(z)
        return self.h

    def backward(self, gradient: Array) -> Array:
        """See :meth:`Layer.backward`."""
        below: Array = gradient * self.derivative(self.z, self.h).astype(gradient.dtype)
        return below


class Network:
    """
    Layers one after the other.

    :param modules: linear layers, LayerNorms and activations
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        kinds: dict[type[nn.Module], Callable[[Any], Layer]] = {nn.Linear: Linear, nn.LayerNorm: LayerNorm}
        self.layers = [kinds.get(type(module), Activation)(module) for module in modules]

    def forward(self, x: Array) -> Array:
        """See :meth:`Layer.forward`."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, gradient: Array) -> Array:
        """See :meth:`Layer.backward`."""
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        return gradient


def softplus(z: Array) -> Array:
    """log(1 + eᶻ), without overflow."""
    return np.logaddexp(0, z)


def sigmoid(z: Array) -> Array:
    """1/(1 + e⁻ᶻ), without overflow."""
    return np.exp(-softplus(-z))


def normal_cdf(z: Array) -> Array:
    """Φ(z), the distribution function of the standard normal, which numpy does not have."""
    found: Array = th.special.ndtr(th.from_numpy(z)).numpy()
    return found


def normal_density(z: Array) -> Array:
    """φ(z) = Φ'(z)."""
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(z: Array) -> Array:
    """The tanh that stands in for 2Φ(z) - 1 in ``GELU(approximate="tanh")``."""
    return np.tanh(SQRT_2_OVER_PI * (z + GELU_CUBIC * z**3))


def gelu_tanh_derivative(z: Array) -> Array:
    """Derivative of z(1 + tanh(…))/2 by the product rule; that of tanh is 1 - tanh²."""
    t = gelu_tanh(z)
    return (1 + t) / 2 + z / 2 * (1 - t**2) * SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * z**2)


Functions = tuple[Callable[[Array], Array], Callable[[Array, Array], Any]]

FUNCTIONS: dict[type[nn.Module], Callable[[Any], Functions]] = {
    nn.Tanh: lambda module: (np.tanh, lambda z, h: 1 - h**2),
    nn.ReLU: lambda module: (lambda z: np.maximum(z, 0), lambda z, h: z > 0),
    nn.ELU: lambda module: (
        lambda z: np.where(z > 0, z, module.alpha * np.expm1(z)),
        lambda z, h: np.where(z > 0, 1, module.alpha * np.exp(z)),
    ),
    nn.LeakyReLU: lambda module: (
        lambda z: np.where(z > 0, z, module.negative_slope * z),
        lambda z, h: np.where(z > 0, 1, module.negative_slope),
    ),
    nn.SiLU: lambda module: (lambda z: z * sigmoid(z), lambda z, h: sigmoid(z) * (1 + z * sigmoid(-z))),
    nn.GELU: lambda module: (
        (lambda z: z * normal_cdf(z), lambda z, h: normal_cdf(z) + z * normal_density(z))
        if module.approximate == "none"
        else (lambda z: z / 2 * (1 + gelu_tanh(z)), lambda z, h: gelu_tanh_derivative(z))
    ),
}
"""For each activation module: f(z) and f'(z), where f' may make use of h = f(z)."""
