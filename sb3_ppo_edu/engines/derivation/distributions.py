"""The action distributions: sampling, log-probability, entropy, and their gradients by hand (README, section 5).

Sampling draws from torch's global generator what SB3's distributions draw, in the same order. Where a network's output is not
finite, an action may be anything, but its log-probability is not finite either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common import distributions as sb3
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_edu.engines.derivation.layers import Linear, add_gradient, sigmoid, softplus
from sb3_ppo_edu.engines.support import classes_of
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution, standard_normal_quadrature
from sb3_ppo_edu.functional.objectives import Array

LOG_2 = math.log(2)
LOG_SQRT_2PI = math.log(2 * math.pi) / 2


class ActionDistribution(Protocol):
    """What the outputs of the action net mean. ``backward`` belongs to the last ``evaluate``."""

    def sample(self, outputs: Array) -> NDArray[Any]:
        """Draw an action for each row of the action net's outputs ``(batch, n_outputs)``, as the buffer stores them."""
        ...

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array | None]:
        """
        Log-probabilities and entropies.

        :param outputs: of the action net, shape ``(batch, n_outputs)``
        :param actions: as ``sample`` gives them, shape ``(batch, action_dim)``
        :return: log-probabilities and entropies in nats, each of shape ``(batch,)``; None where the entropy has no formula
        """
        ...

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """
        Gradient with respect to the outputs; that of the distribution's own parameter is added to its ``.grad``.

        :param log_prob_gradient: ∂L/∂log-probability, shape ``(batch,)``
        :param entropy_gradient: ∂L/∂entropy, shape ``(batch,)``, or None where it is 0
        :return: ∂L/∂outputs, shape ``(batch, n_outputs)``
        """
        ...


class Categorical:
    r"""
    One choice among K, from logits z: :math:`\log\pi(a) = z_a - \log\sum_k e^{z_k}`.

    .. math:: \frac{\partial\log\pi(a)}{\partial z_k} = [k=a] - p_k, \qquad
        \frac{\partial\mathcal H}{\partial z_k} = -p_k(\log p_k + \mathcal H)
    """

    def sample(self, outputs: Array) -> NDArray[Any]:
        """See :meth:`ActionDistribution.sample`."""
        # torch.multinomial's race: of times q/p with q ~ Exp(1) the one of class k is the shortest with probability p_k.
        race: Array = th.empty(outputs.shape, dtype=th.from_numpy(outputs).dtype).exponential_().numpy()
        winners: NDArray[np.intp] = (np.exp(log_softmax(outputs)) / race).argmax(axis=1)
        return winners[:, None]

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array]:
        """See :meth:`ActionDistribution.evaluate`."""
        self.log_p = log_softmax(outputs)
        self.p = np.exp(self.log_p)
        self.chosen = np.arange(outputs.shape[1]) == actions
        self.entropy = -np.sum(self.p * self.log_p, axis=1)
        return self.log_p[self.chosen], self.entropy

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        gradient: Array = log_prob_gradient[:, None] * (self.chosen - self.p)
        if entropy_gradient is not None:
            gradient -= entropy_gradient[:, None] * self.p * (self.log_p + self.entropy[:, None])
        return gradient


class MultiCategorical:
    """
    Several independent choices, whose log-probabilities and entropies add.

    :param sizes: number of classes of each
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.choices = [Categorical() for _ in sizes]
        self.ends = list(accumulate(sizes))[:-1]

    def sample(self, outputs: Array) -> NDArray[Any]:
        """See :meth:`ActionDistribution.sample`."""
        logits = np.split(outputs, self.ends, axis=1)
        return np.hstack([choice.sample(z) for choice, z in zip(self.choices, logits, strict=True)])

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array]:
        """See :meth:`ActionDistribution.evaluate`."""
        columns = zip(self.choices, np.split(outputs, self.ends, axis=1), actions.T[:, :, None], strict=True)
        found = np.array([choice.evaluate(z, column) for choice, z, column in columns])
        log_prob, entropy = found.sum(axis=0)
        return log_prob, entropy

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        return np.hstack([choice.backward(log_prob_gradient, entropy_gradient) for choice in self.choices])


class Bernoulli:
    r"""
    Independent choices between 0 and 1, from logits z, :math:`p=\sigma(z)`: :math:`\log\pi(a) = \sum a z - \log(1+e^z)`.

    :math:`\partial\log\pi(a)/\partial z = a - p` and :math:`\partial\mathcal H/\partial z = -z\,p(1-p)`.
    """

    def sample(self, outputs: Array) -> NDArray[Any]:
        """See :meth:`ActionDistribution.sample`."""
        p = th.from_numpy(sigmoid(outputs))
        return (th.rand(p.shape, dtype=p.dtype) < p).to(p.dtype).numpy()

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array]:
        """See :meth:`ActionDistribution.evaluate`."""
        self.z, self.actions, self.p = outputs, actions, sigmoid(outputs)
        log_prob = np.sum(actions * outputs - softplus(outputs), axis=1)
        return log_prob, np.sum(softplus(outputs) - self.p * outputs, axis=1)

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        gradient: Array = log_prob_gradient[:, None] * (self.actions - self.p)
        if entropy_gradient is not None:
            gradient -= entropy_gradient[:, None] * self.z * self.p * (1 - self.p)
        return gradient


class Gaussian:
    r"""
    Independent normals: the means :math:`\mu` come from the network, :math:`s=\log\sigma` is a parameter.

    With :math:`y = (a-\mu)/\sigma`:

    .. math:: \log\pi(a) = -\sum \tfrac12 y^2 + s + \tfrac12\log 2\pi, \qquad
        \frac{\partial\log\pi}{\partial\mu} = \frac y\sigma, \qquad \frac{\partial\log\pi}{\partial s} = y^2 - 1, \qquad
        \frac{\partial\mathcal H}{\partial s} = 1

    :param log_std: s, shape ``(action_dim,)``
    """

    def __init__(self, log_std: nn.Parameter) -> None:
        self.parameter = log_std
        self.log_std: Array = log_std.detach().numpy()

    def sample(self, outputs: Array) -> NDArray[Any]:
        """See :meth:`ActionDistribution.sample`."""
        noise: Array = th.randn(outputs.shape, dtype=self.parameter.dtype).numpy()
        return outputs + np.exp(self.log_std) * noise

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array]:
        """See :meth:`ActionDistribution.evaluate`."""
        self.mean, self.std = outputs, np.exp(self.log_std)
        self.y = (actions - outputs) / self.std
        log_prob = -np.sum(self.y**2 / 2 + self.log_std + LOG_SQRT_2PI, axis=1)
        return log_prob, np.sum(np.zeros_like(outputs) + self.log_std + LOG_SQRT_2PI + 0.5, axis=1)

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        log_std_gradient = log_prob_gradient @ (self.y**2 - 1)
        if entropy_gradient is not None:
            log_std_gradient += entropy_gradient.sum()
        add_gradient(self.parameter, log_std_gradient)
        return log_prob_gradient[:, None] * self.y / self.std


class TanhGaussian(Gaussian):
    r"""
    A normal u squashed by tanh, see :class:`sb3_ppo_edu.functional.distributions.TanhGaussianDistribution`.

    The log-probability is the normal's minus :math:`\sum\log(1-\tanh^2u)`, in which there is no parameter. The entropy is the
    normal's plus :math:`\sum\mathbb E[\log(1-\tanh^2u)]`, by a quadrature with weights :math:`w_k` and nodes
    :math:`u_k = \mu+\sigma x_k`. Its derivatives: :math:`\sum_k w_k(-2\tanh u_k)` with respect to :math:`\mu`, and
    :math:`1 + \sum_k w_k(-2\tanh u_k)\,\sigma x_k` with respect to :math:`\log\sigma`.
    """

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array]:
        """See :meth:`ActionDistribution.evaluate`."""
        log_prob, entropy = super().evaluate(outputs, actions)
        quadrature = standard_normal_quadrature(self.parameter.dtype, th.device("cpu"))
        self.nodes, self.weights = (tensor.numpy() for tensor in quadrature)
        self.u = outputs[:, :, None] + self.std[:, None] * self.nodes
        return (
            log_prob - np.sum(log_tanh_derivative(actions), axis=1),
            entropy + np.sum(log_tanh_derivative(self.u) @ self.weights, axis=1),
        )

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        gradient = super().backward(log_prob_gradient, entropy_gradient)
        if entropy_gradient is not None:
            slopes = entropy_gradient[:, None, None] * -2 * np.tanh(self.u)
            gradient += slopes @ self.weights
            add_gradient(self.parameter, np.sum(slopes @ (self.weights * self.nodes), axis=0) * self.std)
        return gradient


class Beta:
    r"""
    Independent Betas, on raw actions u, see :class:`sb3_ppo_edu.functional.distributions.BetaDistribution`.

    :math:`u = \log x - \log(1-x)` where :math:`x\sim\mathrm{Beta}(\alpha,\beta)` and :math:`\alpha = 1 + \log(1+e^z)`, hence
    :math:`d\alpha/dz = \sigma(z)`. With the digamma function :math:`\psi`:

    .. math:: \frac{\partial\log\pi}{\partial\alpha} = \log\sigma(u) - \psi(\alpha) + \psi(\alpha+\beta), \qquad
        \frac{\partial\mathcal H}{\partial\alpha} = -(\alpha-1)\psi'(\alpha) + (\alpha+\beta-2)\psi'(\alpha+\beta)

    and for :math:`\beta` the same with :math:`\log\sigma(-u)`. In float64: log B is a small difference of large numbers.
    """

    def sample(self, outputs: Array) -> NDArray[Any]:
        """See :meth:`ActionDistribution.sample`."""
        concentration = th.from_numpy(1 + softplus(outputs.astype(np.float64)))
        gammas = th.distributions.Gamma(concentration, th.ones_like(concentration), validate_args=False).sample()
        log_alphas, log_betas = np.split(gammas.log().numpy(), 2, axis=1)
        u: Array = (log_alphas - log_betas).astype(outputs.dtype)
        return u

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array]:
        """See :meth:`ActionDistribution.evaluate`."""
        self.z, u = outputs.astype(np.float64), actions.astype(np.float64)
        # Both have the columns of the alphas, then those of the betas; the sums have each column twice.
        self.concentrations = 1 + softplus(self.z)
        self.sums = np.tile(sum(np.split(self.concentrations, 2, axis=1)), 2)
        self.log_x = -softplus(np.hstack([-u, u]))
        # What belongs to alpha + beta is counted in both halves.
        log_normaliser = special(th.lgamma, self.concentrations) - special(th.lgamma, self.sums) / 2 + LOG_2 / 2
        log_prob = np.sum((self.concentrations - 1) * self.log_x - log_normaliser, axis=1)
        entropy = np.sum(
            log_normaliser
            - (self.concentrations - 1) * special(th.digamma, self.concentrations)
            + (self.sums - 2) / 2 * special(th.digamma, self.sums),
            axis=1,
        )
        return log_prob.astype(outputs.dtype), entropy.astype(outputs.dtype)

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        slopes = self.log_x - special(th.digamma, self.concentrations) + special(th.digamma, self.sums)
        gradient = log_prob_gradient[:, None] * slopes
        if entropy_gradient is not None:
            gradient += entropy_gradient[:, None] * (
                (self.sums - 2) * special(trigamma, self.sums)
                - (self.concentrations - 1) * special(trigamma, self.concentrations)
            )
        found: Array = (gradient * sigmoid(self.z)).astype(log_prob_gradient.dtype)
        return found


class StateDependentNoise:
    r"""
    gSDE (https://arxiv.org/abs/2005.05719): an action :math:`a = \mu + hM`, where h is the input of the action net.

    The exploration matrix M, with :math:`M_{kd}\sim\mathcal N(0, \sigma_{kd}^2)`, stays the same for some steps: SB3's
    ``reset_noise`` draws it. So a is normal with the variances :math:`v_d = \sum_k h_k^2\sigma_{kd}^2`, and with
    :math:`y = (a-\mu)/\sqrt{v+\epsilon}`

    .. math:: \frac{\partial\log\pi}{\partial\mu} = \frac y{\sqrt{v+\epsilon}}, \qquad
        \frac{\partial\log\pi}{\partial v} = \frac{y^2-1}{2(v+\epsilon)}, \qquad
        \frac{\partial\mathcal H}{\partial v} = \frac1{2(v+\epsilon)}, \qquad
        \frac{\partial v_d}{\partial\sigma_{kd}} = 2h_k^2\sigma_{kd}

    By way of v nothing goes back to h. With ``squash_output`` the action is :math:`\tanh(\mu + hM)`, and its entropy has no
    formula.

    :param policy: has ``log_std`` of shape ``(n_latent, action_dim)``, or ``(n_latent, 1)`` without ``full_std``
    :param head: the action net, whose last input is h
    """

    def __init__(self, policy: ActorCriticPolicy, head: Linear) -> None:
        self.parameter, self.head = policy.log_std, head
        self.options: Any = policy.action_dist
        self.log_std: Array = policy.log_std.detach().numpy()

    def sample(self, outputs: Array) -> NDArray[Any]:
        """See :meth:`ActionDistribution.sample`; nothing is drawn here."""
        matrices, n = self.options.exploration_matrices, len(outputs)
        if n == 1 or n != len(matrices):  # SB3's rule: one for each environment, else one for all
            matrices = self.options.exploration_mat
        actions: Array = outputs + (self.head.h[:, None] @ matrices.detach().numpy())[:, 0]
        if not self.options.bijector:
            return actions
        # To the last bit: near 1 the log-probability hangs on it, since SB3 takes atanh of what is stored.
        squashed: Array = np.tanh(actions.astype(np.float64)).astype(actions.dtype)
        return squashed

    def evaluate(self, outputs: Array, actions: NDArray[Any]) -> tuple[Array, Array | None]:
        """See :meth:`ActionDistribution.evaluate`."""
        correction, squashed = np.zeros_like(actions), self.options.bijector is not None
        if squashed:
            limit = 1 - np.finfo(actions.dtype).eps
            actions = np.clip(actions, -limit, limit)
            correction = np.log(1 - actions**2 + self.options.bijector.epsilon)
            actions = np.arctanh(actions)
        self.std, self.std_slope = self.deviations()
        self.squares = self.head.h**2
        std = np.broadcast_to(self.std, (len(self.std), outputs.shape[1]))
        self.sigma = np.sqrt(self.squares @ std**2 + self.options.epsilon)
        self.y = (actions - outputs) / self.sigma
        log_prob = -np.sum(self.y**2 / 2 + np.log(self.sigma) + LOG_SQRT_2PI + correction, axis=1)
        return log_prob, None if squashed else np.sum(np.log(self.sigma) + LOG_SQRT_2PI + 0.5, axis=1)

    def backward(self, log_prob_gradient: Array, entropy_gradient: Array | None) -> Array:
        """See :meth:`ActionDistribution.backward`."""
        variance_gradient = log_prob_gradient[:, None] * (self.y**2 - 1) / (2 * self.sigma**2)
        if entropy_gradient is not None:
            variance_gradient += entropy_gradient[:, None] / (2 * self.sigma**2)
        std_gradient = 2 * self.std * (self.squares.T @ variance_gradient)
        if not self.options.full_std:
            std_gradient = std_gradient.sum(axis=1, keepdims=True)
        add_gradient(self.parameter, std_gradient * self.std_slope)
        gradient: Array = log_prob_gradient[:, None] * self.y / self.sigma
        return gradient

    def deviations(self) -> tuple[Array, Array]:
        """
        Standard deviations of the weights and their derivatives with respect to ``log_std``.

        :return: exp(s) twice, or with ``use_expln`` log(1 + s + ε) + 1 and 1/(1 + s + ε) where s > 0; of ``log_std``'s shape
        """
        std = np.exp(self.log_std)
        if not self.options.use_expln:
            return std, std
        safe = np.maximum(self.log_std, 0) + self.options.epsilon
        above = self.log_std > 0
        return np.where(above, np.log1p(safe) + 1, std), np.where(above, 1 / (1 + safe), std)


FORBIDDEN = -1e8
"""A logit so low that its class has probability 0, as sb3-contrib's."""


def forbid(outputs: Array, masks: th.Tensor | None) -> Array:
    """Replace the logits of illegal classes: their probabilities p and so their slopes are 0."""
    return outputs if masks is None else np.where(masks.numpy() != 0, outputs, FORBIDDEN).astype(outputs.dtype, copy=False)


def log_softmax(z: Array) -> Array:
    """Logarithms of the probabilities, shape of the logits ``(batch, K)``; the largest is taken off against overflow."""
    z = z - z.max(axis=1, keepdims=True)
    log_p: Array = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return log_p


def log_tanh_derivative(u: Array) -> Array:
    """log(1 - tanh² u) = 2(log 2 - u - log(1 + e⁻²ᵘ)), finite for every finite u."""
    return 2 * (LOG_2 - u - softplus(-2 * u))


def special(function: Callable[[th.Tensor], th.Tensor], x: Array) -> Array:
    """Torch's function for one that numpy does not have."""
    found: Array = function(th.from_numpy(x)).numpy()
    return found


def trigamma(x: th.Tensor) -> th.Tensor:
    """ψ', the derivative of the digamma function."""
    return th.polygamma(1, x)


def action_distribution(policy: ActorCriticPolicy, head: Linear) -> ActionDistribution:
    """The distribution of a policy that :func:`sb3_ppo_edu.engines.support.why_not_derived` does not refuse, and its head."""
    distribution = policy.action_dist
    if isinstance(distribution, sb3.StateDependentNoiseDistribution):
        return StateDependentNoise(policy, head)
    if classes := classes_of(distribution):
        return Categorical() if len(classes) == 1 else MultiCategorical(classes)
    if isinstance(distribution, BetaDistribution):
        return Beta()
    if isinstance(distribution, sb3.BernoulliDistribution):
        return Bernoulli()
    return (TanhGaussian if isinstance(distribution, TanhGaussianDistribution) else Gaussian)(policy.log_std)
