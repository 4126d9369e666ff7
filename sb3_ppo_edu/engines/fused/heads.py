"""The distributions of the fused engine: sampling, log-probability, entropy, and their gradients by hand.

Each head turns the outputs of the action net, an array ``(batch, n_outputs)``, into actions and log-probabilities, and maps
the gradients with respect to log-probability and entropy back to those outputs. Sampling draws from torch's global generator
exactly what SB3's distributions draw, in the same order.
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch.nn import functional as F

from sb3_ppo_edu.engines.fused.products import dot
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution, standard_normal_quadrature
from sb3_ppo_edu.functional.objectives import Array

FEW_OUTPUTS = 8
"""Up to this many logits, of all environments together, a categorical is sampled in plain Python (measured)."""

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class Head(Protocol):
    """One action distribution."""

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """
        Draw one action per row.

        :param outputs: outputs of the action net, shape ``(batch, n_outputs)``
        :return: actions as the rollout buffer stores them, and their log-probabilities ``(batch,)``; both freshly allocated
        """
        ...

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """
        Log-probabilities and mean entropy, keeping what ``backward`` needs.

        :param outputs: shape ``(batch, n_outputs)``
        :param actions: actions as the rollout buffer stores them, shape ``(batch, action_dim)``
        :return: log-probabilities ``(batch,)`` and the mean entropy in nats
        """
        ...

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """
        Gradient of L with respect to the outputs; writes those of the head's own parameters.

        :param log_prob_grad: dL/d log-probability of each row, shape ``(batch,)``
        :param entropy_weight: dL/d mean entropy
        :return: dL/d outputs, shape ``(batch, n_outputs)``
        """
        ...


class CategoricalHead:
    r"""
    One choice among K: :math:`\log\pi = z - \log\sum_k e^{z_k}`.

    :math:`\partial\log\pi_a/\partial z = \mathbb 1_a - p`, and :math:`\partial H/\partial z_k = -p_k(\log p_k + H)`.

    :param start: index of the first of its actions' columns in the buffer
    """

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self._rows: dict[int, NDArray[np.intp]] = {}
        self._race_tensor = th.empty(0)
        self._race_array: Array = self._race_tensor.numpy()

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """See :meth:`Head.sample`."""
        # torch.multinomial draws one exponential per class and takes the largest p/q: the exponential race.
        race = self._race(outputs.shape)
        if outputs.size <= FEW_OUTPUTS:
            return self._sample_few(outputs, race)
        log_p, p = log_softmax(outputs)
        actions = (p / race.T).argmax(axis=0)
        return actions, log_p[actions, self._row_numbers(len(outputs))]

    @staticmethod
    def _sample_few(outputs: Array, race: Array) -> tuple[NDArray[Any], Array]:
        """
        Do the same in plain Python, which for a handful of numbers is quicker than calls for arrays.

        :param outputs: logits, shape ``(batch, K)``
        :param race: exponentials of the same shape
        :return: actions and log-probabilities, each of shape ``(batch,)``
        """
        actions, log_prob = [], []
        for logits, exponentials in zip(outputs.tolist(), race.tolist(), strict=True):
            top = max(logits)
            weights = [math.exp(logit - top) for logit in logits]
            # An exponential that is 0 in float32 wins, as it does in torch; Python would refuse the division.
            speeds = [weight / (exponential or 1e-45) for weight, exponential in zip(weights, exponentials, strict=True)]
            action = speeds.index(max(speeds))
            actions.append(action)
            log_prob.append(logits[action] - top - math.log(sum(weights)))
        return np.array(actions), np.array(log_prob, outputs.dtype)

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """See :meth:`Head.evaluate`."""
        batch = len(outputs)
        self.log_p, self.p = log_softmax(outputs)
        # Where each row's action lies in the flattened arrays.
        self.index = actions[:, self.start].astype(np.intp)
        self.index *= batch
        self.index += self._row_numbers(batch)
        return self.log_p.ravel()[self.index], -dot(self.p.ravel(), self.log_p.ravel()) / batch

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """See :meth:`Head.backward`."""
        if entropy_weight == 0.0:
            grad = self.p * -log_prob_grad
        else:
            grad = np.einsum("kb,kb->b", self.p, self.log_p) - self.log_p
            grad *= entropy_weight / len(log_prob_grad)
            grad -= log_prob_grad
            grad *= self.p
        grad.ravel()[self.index] += log_prob_grad
        output_grad: Array = grad.T
        return output_grad

    def _race(self, shape: tuple[int, ...]) -> Array:
        """
        Draw exponentials, into memory that is reused while the number of environments stays.

        :param shape: shape of the logits
        :return: float32 array of that shape
        """
        if self._race_array.shape != shape:
            self._race_tensor = th.empty(shape, dtype=th.float32)
            self._race_array = self._race_tensor.numpy()
        self._race_tensor.exponential_()
        return self._race_array

    def _row_numbers(self, batch: int) -> NDArray[np.intp]:
        """
        0, 1, …, batch - 1, made once per batch size.

        :param batch: number of rows
        :return: shape ``(batch,)``
        """
        found = self._rows.get(batch)
        if found is None:
            found = self._rows[batch] = np.arange(batch)
        return found


class MultiCategoricalHead:
    """
    Several independent choices: log-probabilities and entropies add.

    :param sizes: number of classes of each choice
    """

    def __init__(self, sizes: list[int]) -> None:
        self.slices = [slice(start, end) for start, end in pairwise([0, *accumulate(sizes)])]
        self.parts = [CategoricalHead(column) for column in range(len(sizes))]

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """See :meth:`Head.sample`."""
        drawn = [part.sample(outputs[:, columns]) for part, columns in zip(self.parts, self.slices, strict=True)]
        return np.stack([actions for actions, _ in drawn], axis=1), sum_arrays([log_prob for _, log_prob in drawn])

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """See :meth:`Head.evaluate`."""
        found = [part.evaluate(outputs[:, columns], actions) for part, columns in zip(self.parts, self.slices, strict=True)]
        return sum_arrays([log_prob for log_prob, _ in found]), sum(entropy for _, entropy in found)

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """See :meth:`Head.backward`."""
        return np.concatenate([part.backward(log_prob_grad, entropy_weight) for part in self.parts], axis=1)


class BernoulliHead:
    r"""
    Independent yes/no choices with logits z: :math:`\log\pi = \sum a z - \mathrm{softplus}(z)`.

    :math:`\partial\log\pi/\partial z = a - p`, and :math:`\partial H/\partial z = -z\,p(1-p)`.
    """

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """See :meth:`Head.sample`."""
        # What is not finite shows in the log-probability; torch would refuse the probability with an internal error.
        actions = th.bernoulli(th.from_numpy(np.nan_to_num(sigmoid(outputs)))).numpy()
        return actions, np.add.reduce(actions * outputs - softplus(outputs), axis=1)

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """See :meth:`Head.evaluate`."""
        self.z, self.actions, self.p = outputs, actions, sigmoid(outputs)
        log_normaliser = softplus(outputs)
        entropy = np.add.reduce(log_normaliser - outputs * self.p, axis=None) / len(outputs)
        return np.add.reduce(actions * outputs - log_normaliser, axis=1), float(entropy)

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """See :meth:`Head.backward`."""
        grad = (self.actions - self.p) * log_prob_grad[:, None]
        if entropy_weight != 0.0:
            grad -= (entropy_weight / len(grad)) * self.z * self.p * (1.0 - self.p)
        return grad


class GaussianHead:
    r"""
    Independent normals with a mean from the net and a free log standard deviation.

    With :math:`y = (a-\mu)/\sigma`:

    .. math::
        \log\pi = -\tfrac12\sum y^2 - \sum\log\sigma - \tfrac D2\log 2\pi, \qquad
        \frac{\partial\log\pi}{\partial\mu} = \frac y\sigma, \qquad \frac{\partial\log\pi}{\partial\log\sigma} = y^2 - 1

    and :math:`\partial H/\partial\log\sigma = 1`.

    :param log_std: log σ, shape ``(action_dim,)``
    :param log_std_grad: where its gradient is written
    """

    def __init__(self, log_std: Array, log_std_grad: Array) -> None:
        self.log_std = log_std
        self.log_std_grad = log_std_grad

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """See :meth:`Head.sample`."""
        noise: Array = th.empty(outputs.shape, dtype=th.float32).normal_().numpy()
        actions = outputs + noise * np.exp(self.log_std)
        y = (actions - outputs) * np.exp(-self.log_std)
        return actions, self._log_density(y)

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """See :meth:`Head.evaluate`."""
        self.inverse_std = np.exp(-self.log_std)
        self.y = (actions - outputs) * self.inverse_std
        entropy = float(np.add.reduce(self.log_std)) + len(self.log_std) * (0.5 + LOG_SQRT_2PI)
        return self._log_density(self.y), entropy

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """See :meth:`Head.backward`."""
        weighted = self.y * log_prob_grad[:, None]
        np.einsum("bd,bd->d", weighted, self.y, out=self.log_std_grad)
        self.log_std_grad += entropy_weight - np.add.reduce(log_prob_grad)
        weighted *= self.inverse_std
        return weighted

    def _log_density(self, y: Array) -> Array:
        """
        Log-density of the raw action.

        :param y: standardised actions, shape ``(batch, action_dim)``
        :return: shape ``(batch,)``
        """
        constant = float(np.add.reduce(self.log_std)) + len(self.log_std) * LOG_SQRT_2PI
        log_density: Array = np.einsum("bd,bd->b", y, y)
        log_density *= -0.5
        log_density -= constant
        return log_density


class TanhGaussianHead(GaussianHead):
    r"""
    A normal squashed by tanh, on raw actions u: the Gaussian's log-density minus :math:`\sum\log(1-\tanh^2u)`.

    The Jacobian does not depend on the parameters, so the log-probability has the Gaussian's gradient. The entropy is
    :math:`H_{Gauss} + \sum_d \mathbb E[\log(1-\tanh^2 u_d)]` by the quadrature of
    :class:`sb3_ppo_edu.functional.distributions.TanhGaussianDistribution`. With nodes :math:`u_k=\mu+\sigma x_k` its
    derivatives are
    :math:`\sum_k w_k(-2\tanh u_k)` with respect to :math:`\mu`, and :math:`\sum_k w_k(-2\tanh u_k)\sigma x_k` with respect to
    :math:`\log\sigma`.
    """

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """See :meth:`Head.sample`."""
        actions, log_prob = super().sample(outputs)
        return actions, log_prob - np.add.reduce(log_tanh_derivative(actions), axis=1)

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """See :meth:`Head.evaluate`."""
        log_prob, entropy = super().evaluate(outputs, actions)
        dtype = th.from_numpy(outputs).dtype
        nodes, weights = (tensor.numpy() for tensor in standard_normal_quadrature(dtype, th.device("cpu")))
        self.nodes, self.weights = nodes, weights
        self.raw = outputs[:, :, None] + np.exp(self.log_std)[:, None] * nodes
        entropy += float(np.add.reduce(log_tanh_derivative(self.raw) @ weights, axis=None)) / len(outputs)
        return log_prob - np.add.reduce(log_tanh_derivative(actions), axis=1), entropy

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """See :meth:`Head.backward`."""
        grad = super().backward(log_prob_grad, entropy_weight)
        if entropy_weight != 0.0:
            slope = np.tanh(self.raw) * (-2.0 * entropy_weight / len(grad))
            grad += slope @ self.weights
            self.log_std_grad += np.add.reduce(slope @ (self.weights * self.nodes), axis=0) * np.exp(self.log_std)
        return grad


class BetaHead:
    r"""
    Independent Betas on raw actions u, see :class:`sb3_ppo_edu.functional.distributions.BetaDistribution`.

    With :math:`\alpha = 1 + \mathrm{softplus}(z)`, hence :math:`d\alpha/dz = \sigma(z)`, and the same for :math:`\beta`:

    .. math::
        \frac{\partial\log\pi}{\partial\alpha} = \log\sigma(u) - \psi(\alpha) + \psi(\alpha+\beta), \qquad
        \frac{\partial H}{\partial\alpha} = -(\alpha-1)\psi'(\alpha) + (\alpha+\beta-2)\psi'(\alpha+\beta)

    with the digamma function :math:`\psi`; for :math:`\beta` with :math:`\log\sigma(-u)`. Computed in float64, as there.
    """

    def sample(self, outputs: Array) -> tuple[NDArray[Any], Array]:
        """See :meth:`Head.sample`."""
        concentration = 1.0 + F.softplus(th.from_numpy(outputs).double())
        gammas = th._standard_gamma(concentration).clamp_(min=th.finfo(th.float64).tiny)
        first, second = gammas.log().chunk(2, dim=1)
        actions: Array = (first - second).numpy().astype(outputs.dtype)
        log_prob, _ = self._log_prob(concentration, th.from_numpy(actions).double())
        return actions, log_prob.numpy().astype(outputs.dtype)

    def evaluate(self, outputs: Array, actions: Array) -> tuple[Array, float]:
        """See :meth:`Head.evaluate`."""
        self.z = th.from_numpy(outputs).double()
        self.concentration = 1.0 + F.softplus(self.z)
        log_prob, self.log_sigmoids = self._log_prob(self.concentration, th.from_numpy(actions).double())
        alpha, beta = self.concentration.chunk(2, dim=1)
        self.total = alpha + beta
        self.psi, self.psi_total = th.digamma(self.concentration), th.digamma(self.total)
        entropy = self._log_normaliser(alpha, beta) + (self.total - 2.0) * self.psi_total
        entropy_sum = entropy.sum() - th.sum((self.concentration - 1.0) * self.psi)
        return log_prob.numpy().astype(outputs.dtype), float(entropy_sum) / len(outputs)

    def backward(self, log_prob_grad: Array, entropy_weight: float) -> Array:
        """See :meth:`Head.backward`."""
        both = (1, 2)  # what belongs to alpha + beta goes to either
        grad = (self.log_sigmoids - self.psi + self.psi_total.repeat(both)) * th.from_numpy(log_prob_grad)[:, None]
        if entropy_weight != 0.0:
            trigamma, trigamma_total = th.polygamma(1, self.concentration), th.polygamma(1, self.total)
            entropy_grad = ((self.total - 2.0) * trigamma_total).repeat(both) - (self.concentration - 1.0) * trigamma
            grad += entropy_grad * (entropy_weight / len(log_prob_grad))
        grad *= th.sigmoid(self.z)
        output_grad: Array = grad.numpy().astype(log_prob_grad.dtype)
        return output_grad

    def _log_prob(self, concentration: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Log-density of the normalised actions.

        :param concentration: all alphas, then all betas, shape ``(batch, 2 * action_dim)``
        :param actions: raw actions u, shape ``(batch, action_dim)``
        :return: log-densities ``(batch,)``, and log σ(u) beside log σ(-u), shape of ``concentration``
        """
        alpha, beta = concentration.chunk(2, dim=1)
        log_sigmoids = F.logsigmoid(th.cat([actions, -actions], dim=1))
        log_prob = th.sum((concentration - 1.0) * log_sigmoids, 1) - self._log_normaliser(alpha, beta).sum(1)
        return log_prob, log_sigmoids

    @staticmethod
    def _log_normaliser(alpha: th.Tensor, beta: th.Tensor) -> th.Tensor:
        """
        Logarithm of 2 B(α, β); the 2 is the length of the interval (-1, 1).

        :param alpha: shape ``(batch, action_dim)``
        :param beta: the same shape
        :return: the same shape
        """
        return th.lgamma(alpha) + th.lgamma(beta) - th.lgamma(alpha + beta) + math.log(2.0)


def log_softmax(z: Array) -> tuple[Array, Array]:
    """
    Logarithm of the softmax, and the softmax.

    Both have one row for each class: with few classes, sums over rows cost a fraction of sums within them.

    :param z: logits, shape ``(batch, K)``
    :return: log-probabilities and probabilities, each of shape ``(K, batch)``
    """
    log_p: Array = z.T.copy()
    log_p -= np.maximum.reduce(log_p, axis=0)
    p: Array = np.exp(log_p)
    total = np.add.reduce(p, axis=0)
    p /= total
    log_p -= np.log(total)
    return log_p, p


def sigmoid(z: Array) -> Array:
    """
    Logistic function 1/(1 + e⁻ᶻ).

    :param z: any shape
    :return: the same shape, in (0, 1)
    """
    result: Array = th.sigmoid(th.from_numpy(z)).numpy()
    return result


def softplus(z: Array) -> Array:
    """
    log(1 + eᶻ) without overflow.

    :param z: any shape
    :return: the same shape
    """
    result: Array = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    return result


def log_tanh_derivative(u: Array) -> Array:
    """
    log(1 - tanh² u) = 2(log 2 - |u| - log(1 + e^(-2|u|))), finite for all finite u.

    :param u: raw actions, any shape
    :return: the same shape
    """
    size = np.abs(u)
    log_derivative: Array = 2.0 * (math.log(2.0) - size - np.log1p(np.exp(-2.0 * size)))
    return log_derivative


def sum_arrays(arrays: list[Array]) -> Array:
    """
    Sum arrays of one shape.

    :param arrays: at least one array
    :return: their sum
    """
    total: Array = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def make_head(distribution: Distribution, log_std: Array | None, log_std_grad: Array | None) -> Head | None:
    """
    Find the head of an SB3 distribution.

    :param distribution: the policy's ``action_dist``
    :param log_std: flat view of the policy's ``log_std`` where it has one
    :param log_std_grad: flat view of its gradient
    :return: the head, or None if there is none
    """
    kind = type(distribution)
    if kind is CategoricalDistribution:
        return CategoricalHead()
    if kind is MultiCategoricalDistribution:
        return MultiCategoricalHead([int(size) for size in distribution.action_dims])  # type: ignore[attr-defined]
    if kind is BernoulliDistribution:
        return BernoulliHead()
    if kind is BetaDistribution:
        return BetaHead()
    if log_std is not None and log_std_grad is not None:
        if kind is DiagGaussianDistribution:
            return GaussianHead(log_std, log_std_grad)
        if kind is TanhGaussianDistribution:
            return TanhGaussianHead(log_std, log_std_grad)
    return None
