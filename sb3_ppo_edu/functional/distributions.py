"""Distributions over bounded actions: the tanh-squashed Gaussian and the Beta.

Both live on the normalised action y in (-1, 1), which the policy stretches to the bounds of the action space, and
both are evaluated at the *raw* action u, an unbounded number with

    y = tanh(squash_slope * u)        squash_slope = 1 for the tanh Gaussian, 1/2 for the Beta.

What is sampled, stored in the rollout buffer and passed to ``log_prob`` is u. Probabilities are densities of y all the
same: ``log_prob(u)`` is log p(y(u)), Jacobian included. The probability ratio of PPO so needs no inverse tanh, which
cannot work: in float32 tanh(u) is exactly 1 from u = 9.1 on, and nothing brings u back.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar, TypeVar

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    DiagGaussianDistribution,
    sum_independent_dims,
)
from torch import nn
from torch.distributions import Beta, Gamma, kl_divergence
from torch.nn import functional as F

SelfBetaDistribution = TypeVar("SelfBetaDistribution", bound="BetaDistribution")

LOG_2 = math.log(2.0)

# The trapezoidal rule converges geometrically for a function that is analytic in a strip, as log(1 - tanh^2) is up to
# +-i pi/2, and faster than Gauss-Hermite, whose nodes crowd where nothing happens. Measured against adaptive quadrature,
# worst of 41 means in [-6, 6]: 5e-10 for std <= 1, 1e-9 at std 2, 4e-8 at 3, 2e-5 at 5, 1e-3 at 8.
# Cutting off at 6.5 standard deviations leaves out 8e-11 of the mass.
QUADRATURE_NODES = 65
QUADRATURE_LIMIT = 6.5


@lru_cache(maxsize=16)
def standard_normal_quadrature(dtype: th.dtype, device: th.device) -> tuple[th.Tensor, th.Tensor]:
    """Nodes z_k and weights w_k with E[f(z)] = sum_k w_k f(z_k) for z ~ N(0, 1): the trapezoidal rule.

    :param dtype: Floating type of the two tensors
    :param device: Device of the two tensors
    :return: nodes and weights, each of shape ``(QUADRATURE_NODES,)``; the weights sum to one
    """
    # The cached tensors must be fit for autograd, also if the first call comes from within th.inference_mode()
    with th.inference_mode(False):
        nodes = th.linspace(-QUADRATURE_LIMIT, QUADRATURE_LIMIT, QUADRATURE_NODES, dtype=th.float64)
        weights = th.exp(-0.5 * nodes**2)
        weights /= weights.sum()
        return nodes.to(device=device, dtype=dtype), weights.to(device=device, dtype=dtype)


def log_tanh_derivative(raw_actions: th.Tensor) -> th.Tensor:
    r"""Logarithm of the derivative of tanh, without cancellation.

    .. math:: \log(1 - \tanh^2 u) = 2 (\log 2 - u + \log \sigma(2u)) = 2 (\log 2 - u - \mathrm{softplus}(-2u))

    Appendix C of "Soft Actor-Critic" (https://arxiv.org/abs/1801.01290) has the left side, which is -inf in float32 from
    \|u\| = 9.1 on; the right side, and its gradient -2 tanh(u), are finite for every finite u.

    :param raw_actions: u, any shape
    :return: log(1 - tanh(u)^2), same shape, in (-inf, 0]
    """
    return 2.0 * (LOG_2 - raw_actions + F.logsigmoid(2.0 * raw_actions))


class TanhGaussianDistribution(DiagGaussianDistribution):
    r"""Gaussian squashed by tanh: y = tanh(u), u ~ N(mean, std), one independent pair per action dimension.

    Unlike SB3's ``SquashedDiagGaussianDistribution`` it samples, stores and evaluates u (see the module's docstring), uses
    the exact log-derivative instead of log(1 - y^2 + 1e-6), and knows its entropy. Sampling draws from torch's random
    stream what the plain Gaussian draws.

    :param action_dim: Number of action dimensions
    """

    squash_slope: ClassVar[float] = 1.0

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        r"""Log-density of the normalised action y = tanh(u).

        .. math:: \log p(y) = \log \mathcal{N}(u; \mu, \sigma) - \sum_i \log(1 - \tanh^2 u_i)

        :param actions: raw actions u, shape ``(batch, action_dim)``
        :return: log p(y), shape ``(batch,)``
        """
        return super().log_prob(actions) - sum_independent_dims(log_tanh_derivative(actions))

    def entropy(self) -> th.Tensor:
        r"""Differential entropy of the normalised action y in nats, differentiable in mean and log-std, without noise.

        .. math:: H(y) = H(u) + \sum_i \mathbb{E}[\log(1 - \tanh^2 u_i)]

        There is no closed form, but each expectation is a smooth one-dimensional integral: a fixed quadrature gives it
        to 1e-7 for std up to 3 (in float64; float32 rounds at about 1e-6). SB3's way out, the mean of -log p over stored
        actions, has the right value and, at the parameters that sampled the actions, a gradient of expectation zero.

        :return: entropy, shape ``(batch,)``; at most action_dim * log 2, the entropy of the uniform distribution
        """
        mean, std = self.distribution.mean, self.distribution.stddev
        nodes, weights = standard_normal_quadrature(mean.dtype, mean.device)
        raw_actions = mean.unsqueeze(-1) + std.unsqueeze(-1) * nodes
        expected_log_derivative = log_tanh_derivative(raw_actions) @ weights
        return sum_independent_dims(self.distribution.entropy() + expected_log_derivative)

    def mode(self) -> th.Tensor:
        """Raw deterministic action: the mean of u, hence the median of y.

        The density of y has no useful mode: for std > 1/sqrt(2) it can have two, near the bounds.

        :return: raw actions, shape ``(batch, action_dim)``
        """
        return super().mode()

    def kl_divergence(self, other: TanhGaussianDistribution) -> th.Tensor:
        """KL(self || other) over normalised actions, in nats.

        The Jacobian of tanh is in both densities and cancels: it is the closed form of the two Gaussians.

        :param other: the second distribution, of the same shape
        :return: divergence, shape ``(batch,)``
        """
        return sum_independent_dims(kl_divergence(self.distribution, other.distribution))


# SB3's ActorCriticPolicy looks at the type of the distribution to decide whether it takes one linear head or a head and a
# log_std, and there is no hook to say so. Of its one-head distributions the Bernoulli asks for the least; being one of
# them spares us a copy of SB3's ``_build``. Nothing of the Bernoulli itself is left.
class BetaDistribution(BernoulliDistribution):
    r"""Beta distribution: y = 2x - 1, x ~ Beta(alpha, beta), one independent pair per action dimension.

    .. math:: \alpha = 1 + \mathrm{softplus}(a), \qquad \beta = 1 + \mathrm{softplus}(b)

    for the 2 * action_dim outputs (a, b) of one linear head, all a first. Both are at least 1, so the density has one peak
    (Chou, Maturana and Scherer 2017, "Improving Stochastic Policy Gradients in Continuous Control with Deep Reinforcement
    Learning using the Beta Distribution", ICML).

    The raw action is the logit u = log x - log(1 - x), so that y = tanh(u / 2): x itself would round to 1 in float32.

    :param action_dim: Number of action dimensions
    """

    distribution: Beta  # type: ignore[assignment]
    squash_slope: ClassVar[float] = 0.5
    precision = th.float64
    """Of the concentrations; runtimes of exported policies have no softplus in float64."""

    def __init__(self, action_dim: int):
        super().__init__(action_dim)
        self.action_dim = action_dim
        self.dtype = th.float32
        self.concentration: th.Tensor

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """Create the linear head whose outputs are the pre-softplus concentrations.

        :param latent_dim: Dimension of the last layer of the policy network (before the action layer)
        :return: a linear layer with ``2 * action_dim`` outputs: those of all alphas, then those of all betas
        """
        return nn.Linear(latent_dim, 2 * self.action_dim)

    def proba_distribution(self: SelfBetaDistribution, action_logits: th.Tensor) -> SelfBetaDistribution:
        """Set the parameters.

        :param action_logits: outputs of the linear head, shape ``(batch, 2 * action_dim)``; the name is SB3's
        :return: self
        """
        self.dtype = action_logits.dtype
        # log B(alpha, beta) is a difference of log-gammas: in float32 that of a concentration of 200 is off by 3e-5 and
        # the probability ratio with it. Apple's GPUs have no float64 and put up with it.
        wide = action_logits.dtype if action_logits.device.type == "mps" else self.precision
        self.concentration = 1.0 + F.softplus(action_logits.to(wide))
        alpha, beta = self.concentration.chunk(2, dim=-1)
        self.distribution = Beta(alpha, beta, validate_args=False)
        return self

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        r"""Log-density of the normalised action y = tanh(u / 2).

        .. math:: \log p(y) = \sum_i (\alpha_i - 1) \log \sigma(u_i) + (\beta_i - 1) \log \sigma(-u_i)
                  - \log B(\alpha_i, \beta_i) - \log 2

        where x = sigma(u), 1 - x = sigma(-u), and the log 2 is the stretch from x in (0, 1) to y in (-1, 1).

        :param actions: raw actions u, shape ``(batch, action_dim)``
        :return: log p(y), shape ``(batch,)``
        """
        alpha, beta = self.concentration.chunk(2, dim=-1)
        raw_actions = actions.to(self.concentration.dtype)
        log_normaliser = th.lgamma(alpha) + th.lgamma(beta) - th.lgamma(alpha + beta) + LOG_2
        log_x, log_1_minus_x = F.logsigmoid(raw_actions), F.logsigmoid(-raw_actions)
        log_prob = (alpha - 1.0) * log_x + (beta - 1.0) * log_1_minus_x - log_normaliser
        return sum_independent_dims(log_prob).to(self.dtype)

    def entropy(self) -> th.Tensor:
        """Differential entropy of the normalised action y in nats: the Beta's closed form plus log 2 per dimension.

        :return: entropy, shape ``(batch,)``; at most action_dim * log 2, reached at alpha = beta = 1 (uniform)
        """
        return sum_independent_dims(self.distribution.entropy() + LOG_2).to(self.dtype)

    def sample(self) -> th.Tensor:
        """Draw raw actions: u = log g1 - log g2 with g1 ~ Gamma(alpha), g2 ~ Gamma(beta), as x = g1 / (g1 + g2).

        The alphas' gammas are drawn before the betas', in one call. Gradients pass (implicit reparametrisation).

        :return: raw actions, shape ``(batch, action_dim)``
        """
        gammas = Gamma(self.concentration, th.ones_like(self.concentration), validate_args=False).rsample()
        log_gamma_alpha, log_gamma_beta = gammas.log().chunk(2, dim=-1)
        return (log_gamma_alpha - log_gamma_beta).to(self.dtype)

    def mode(self) -> th.Tensor:
        """Raw deterministic action: the logit of the mean alpha / (alpha + beta), that is log alpha - log beta.

        Not the mode (alpha - 1) / (alpha + beta - 2), which is 0/0 for the uniform distribution.

        :return: raw actions, shape ``(batch, action_dim)``
        """
        log_alpha, log_beta = self.concentration.log().chunk(2, dim=-1)
        return (log_alpha - log_beta).to(self.dtype)

    def kl_divergence(self, other: BetaDistribution) -> th.Tensor:
        """KL(self || other) over normalised actions, in nats: the closed form of the two Betas.

        :param other: the second distribution, of the same shape
        :return: divergence, shape ``(batch,)``
        """
        return sum_independent_dims(kl_divergence(self.distribution, other.distribution)).to(self.dtype)
