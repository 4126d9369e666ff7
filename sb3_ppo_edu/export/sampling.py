"""Sampling from noise that is given: the stochastic action as a function of standard normal numbers.

A graph that drew by itself could not be repeated, and some runtimes draw nothing at all. So whoever acts draws, and for every
distribution the same: independent standard normal numbers, ``noise_size`` of them for an observation.

- Gaussians: mean + std · z.
- Categories: E = (z₁² + z₂²) / 2 is exponentially distributed, and of exponential times with rates p_k the first is k with
  probability p_k: argmax of log p_k - log E_k.
- Beta: x = g₁ / (g₁ + g₂) for two gamma-distributed numbers, which are drawn by rejection (Marsaglia and Tsang 2000, "A simple
  method for generating gamma variables", section 2). A concentration of at least 1 accepts 95 of 100 candidates, so that all
  eight are refused once in 10¹⁰; the last stands then.
- gSDE: the exploration matrix is std · z, so that noise that is held for some steps explores as ``sde_sample_freq`` does.
"""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common import distributions as sb3
from torch.distributions import Categorical

from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution

CANDIDATES = 8
"""Numbers among which a gamma-distributed one is found."""

SMALLEST = 1e-30
"""Of exponential times, so that noise of zeros gives the likeliest category."""

GAUSSIAN = (sb3.DiagGaussianDistribution, TanhGaussianDistribution)


def categoricals(distribution: Any) -> list[Categorical]:
    """
    List the independent choices that a distribution is made of.

    :param distribution: SB3's or sb3-contrib's, with parameters
    :return: torch's distributions; none if it is not made of choices
    """
    found = getattr(distribution, "distributions", None) or getattr(distribution, "distribution", None)
    parts = found if isinstance(found, list) else [found]
    choices = [part for part in parts if isinstance(part, Categorical)]
    return choices if len(choices) == len(parts) else []


def noise_size(distribution: Any) -> int | None:
    """
    Count the standard normal numbers that an action takes.

    :param distribution: with parameters
    :return: the count; None for a distribution that is not known here
    """
    kind = type(distribution)
    if parts := categoricals(distribution):
        return 2 * sum(part.logits.shape[-1] for part in parts)
    if kind is sb3.BernoulliDistribution:
        return 4 * int(distribution.distribution.logits.shape[-1])
    if kind is sb3.StateDependentNoiseDistribution:
        return int(distribution.latent_sde_dim) * int(distribution.action_dim)
    if kind is BetaDistribution:
        return 2 * int(distribution.action_dim) * CANDIDATES * 3
    return int(distribution.action_dim) if kind in GAUSSIAN else None


def sample(distribution: Any, noise: th.Tensor, log_std: th.Tensor | None) -> th.Tensor:
    """
    Make the action that a distribution's ``sample`` would, of given noise.

    :param distribution: for which :func:`noise_size` knows the size
    :param noise: standard normal numbers, shape ``(n, noise_size)``
    :param log_std: of a policy with gSDE
    :return: raw actions, as ``sample`` gives them but for shape, ``(n, …)``
    """
    if parts := categoricals(distribution):
        sizes = [2 * part.logits.shape[-1] for part in parts]
        drawn = [first_of(part.logits, z) for part, z in zip(parts, noise.split(sizes, dim=1), strict=True)]
        return th.stack(drawn, dim=1)
    if isinstance(distribution, sb3.BernoulliDistribution) and not isinstance(distribution, BetaDistribution):
        logits = distribution.distribution.logits
        both = th.stack([th.zeros_like(logits), logits], dim=-1)
        return first_of(both, noise.reshape(*logits.shape, 4)).to(logits.dtype)
    if isinstance(distribution, sb3.StateDependentNoiseDistribution):
        assert log_std is not None
        latent = distribution._latent_sde
        matrices = distribution.get_std(log_std) * noise.reshape(-1, latent.shape[1], distribution.action_dim)
        actions: th.Tensor = distribution.distribution.mean + (latent.unsqueeze(1) @ matrices).squeeze(1)
        return actions if distribution.bijector is None else distribution.bijector.forward(actions)
    if isinstance(distribution, BetaDistribution):
        concentration = distribution.concentration.to(noise.dtype)
        log_alpha, log_beta = log_gamma(concentration, noise).chunk(2, dim=-1)
        return log_alpha - log_beta
    gaussian: th.Tensor = distribution.distribution.mean + distribution.distribution.stddev * noise
    return gaussian


def first_of(log_rates: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Find which of several exponential times is the first.

    :param log_rates: logarithms of the rates, up to a constant, shape ``(…, k)``
    :param noise: standard normal numbers, shape ``(…, 2k)``
    :return: index of the first, shape ``(…)``, int64
    """
    one, other = noise.chunk(2, dim=-1)
    times = ((one.square() + other.square()) / 2.0).clamp(min=SMALLEST)
    return (log_rates - times.log()).argmax(dim=-1)


def log_gamma(concentration: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Make logarithms of gamma-distributed numbers.

    :param concentration: at least 1, shape ``(n, k)``
    :param noise: standard normal numbers, shape ``(n, k * CANDIDATES * 3)``
    :return: shape ``(n, k)``
    """
    x, one, other = noise.reshape(*concentration.shape, CANDIDATES, 3).unbind(-1)
    d = (concentration - 1.0 / 3.0).unsqueeze(-1)
    v = (1.0 + x / (9.0 * d).sqrt()).pow(3)
    log_v = v.clamp(min=SMALLEST).log()
    exponential = (one.square() + other.square()) / 2.0  # minus the logarithm of a uniform number
    accepted = (v > 0.0) & (-exponential < 0.5 * x.square() + d - d * v + d * log_v)
    last = th.arange(CANDIDATES, device=x.device) == CANDIDATES - 1
    chosen = (accepted | last).to(x.dtype).argmax(dim=-1, keepdim=True)
    return (d.log() + log_v).gather(-1, chosen).squeeze(-1)
