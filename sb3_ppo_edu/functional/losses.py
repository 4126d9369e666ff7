"""The losses of PPO as pure functions of tensors.

Every function takes tensors of shape ``(batch,)``, one entry per transition of a minibatch. A loss gives one number per
transition; :func:`average` makes one number of them. None has state, logs, or moves a parameter.

Sources:

- PPO: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347
- Dual clip: Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning",
  https://arxiv.org/abs/1912.09729
- KL estimators: Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html

The operations and their order are those of Stable-Baselines3's ``PPO.train``: floating-point arithmetic is not
associative, so another order would be another algorithm to the bit.
"""

from __future__ import annotations

from typing import Literal

import torch as th
from torch.nn import functional as F

VfClipMode = Literal["sb3", "max"]
KlEstimator = Literal["k3", "k1"]

ADVANTAGE_EPS = 1e-8
"""Added to the standard deviation of the advantages, as in SB3: constant advantages become 0 instead of 0/0."""


def _check_same_shape(function: str, **tensors: th.Tensor) -> None:
    """
    Refuse tensors that would be broadcast against each other: a loss of shape ``(batch, batch)`` trains, but wrongly.

    :param function: name of the calling function, for the error
    :param tensors: named tensors that must have one shape
    :raises ValueError: if the shapes differ
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{function}: expected tensors of one shape (batch,), found {shapes}: flatten them first")


def average(losses: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    r"""
    The loss of a minibatch: the mean of its transitions' losses, :math:`\frac1n\sum_t \ell_t`.

    With weights, :math:`\sum_t w_t \ell_t / \sum_t w_t`: zeros leave out the padding of sequences of unequal length.

    :param losses: shape ``(batch,)``
    :param weights: shape ``(batch,)``, ≥ 0 and not all 0, or None for equal ones
    :return: scalar
    :raises ValueError: if the shapes differ
    """
    if weights is None:
        return losses.mean()
    _check_same_shape("average", losses=losses, weights=weights)
    return (weights * losses).sum() / weights.sum()


def normalize_advantages(advantages: th.Tensor, moments: tuple[float, float] | None = None) -> th.Tensor:
    r"""
    Standardise advantages: :math:`\hat A \leftarrow (\hat A - \mathrm{mean}) / (\mathrm{std} + 10^{-8})`.

    The standard deviation has the n-1 denominator (torch's default, as in SB3). A single advantage has none: it is
    returned as it is, as in SB3.

    :param advantages: shape ``(batch,)``, any scale
    :param moments: (mean, std) to use instead of those of ``advantages``, for instance of the whole rollout
    :return: shape ``(batch,)``
    """
    if moments is not None:
        mean, std = moments
        return (advantages - mean) / (std + ADVANTAGE_EPS)
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + ADVANTAGE_EPS)


def policy_advantages(
    advantages: th.Tensor,
    normalize: bool = True,
    moments: tuple[float, float] | None = None,
    bound: float | None = None,
) -> th.Tensor:
    """
    Advantages as the policy loss uses them: standardised, then clipped.

    :param advantages: shape ``(batch,)``, any scale
    :param normalize: standardise them, see :func:`normalize_advantages`
    :param moments: (mean, std) to standardise with instead of their own
    :param bound: largest absolute value, > 0, or None
    :return: shape ``(batch,)``
    """
    if normalize:
        advantages = normalize_advantages(advantages, moments)
    return advantages if bound is None else advantages.clamp(-bound, bound)


def clipped_surrogate_loss(
    ratio: th.Tensor, advantages: th.Tensor, clip_range: float, dual_clip: float | None = None
) -> th.Tensor:
    r"""
    Policy loss of PPO, the negative of what equation 7 of the PPO paper averages.

    .. math:: -\min\left(r_t \hat A_t,\ \mathrm{clip}(r_t, 1-\epsilon, 1+\epsilon) \hat A_t\right)

    With ``dual_clip`` = c > 1 the objective of transitions with :math:`\hat A_t < 0` is bounded below by
    :math:`c \hat A_t` (equation 5 of Ye et al. 2020): a ratio far above 1 no longer has an unbounded influence.

    :param ratio: :math:`r_t = \pi_\theta(a_t|s_t)/\pi_{\theta_{old}}(a_t|s_t)`, shape ``(batch,)``, > 0
    :param advantages: :math:`\hat A_t`, shape ``(batch,)``, constants
    :param clip_range: :math:`\epsilon` > 0
    :param dual_clip: c > 1, or None for PPO's own objective
    :return: shape ``(batch,)``
    :raises ValueError: if the shapes differ
    """
    _check_same_shape("clipped_surrogate_loss", ratio=ratio, advantages=advantages)
    unclipped = advantages * ratio
    clipped = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    objective = th.min(unclipped, clipped)
    if dual_clip is not None:
        objective = th.where(advantages < 0, th.max(objective, dual_clip * advantages), objective)
    return -objective


def value_loss(
    values: th.Tensor,
    returns: th.Tensor,
    old_values: th.Tensor,
    clip_range_vf: float | None = None,
    mode: VfClipMode = "sb3",
    reduction: Literal["none", "mean"] = "none",
) -> th.Tensor:
    r"""
    Squared error of the value function, optionally clipped around the values of the rollout.

    With :math:`V^{clip}_t = V_{old,t} + \mathrm{clip}(V_t - V_{old,t}, -\epsilon_v, \epsilon_v)`:

    - no ``clip_range_vf``: :math:`(V_t - R_t)^2`
    - ``mode="sb3"``: :math:`(V^{clip}_t - R_t)^2`, which has no gradient once :math:`V_t` left the clip range,
      also where it moved away from the return
    - ``mode="max"``: :math:`\max((V_t - R_t)^2, (V^{clip}_t - R_t)^2)`, the pessimistic form of the lecture
      and of OpenAI's baselines (there with a factor 1/2, here as in SB3 without)

    :param values: :math:`V_t` of the current network, shape ``(batch,)``
    :param returns: :math:`R_t`, the TD(λ) targets, shape ``(batch,)``, constants
    :param old_values: :math:`V_{old,t}` stored in the rollout, shape ``(batch,)``, constants
    :param clip_range_vf: :math:`\epsilon_v` in units of the return, or None. At 0, where a schedule may end, only a value that
        is the rollout's to the last bit has a gradient, in SB3 as here; which are, hangs on how an engine rounds (torch may
        round a row in a rollout's matrix and in a minibatch's differently), so that engines differ by a step: end above 0
    :param mode: "sb3" or "max"
    :param reduction: "none", or "mean" for torch's own mean of squared errors. The gradient of the latter is rounded as in
        SB3; that of ``average(value_loss(…))`` differs in the last bit where neither batch size nor ``vf_coef`` is a power of
        2
    :return: shape ``(batch,)``; scalar with "mean"
    :raises ValueError: if the shapes differ
    """
    _check_same_shape("value_loss", values=values, returns=returns, old_values=old_values)
    if clip_range_vf is None:
        return F.mse_loss(returns, values, reduction=reduction)
    clipped_values = old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)
    if mode == "sb3":
        return F.mse_loss(returns, clipped_values, reduction=reduction)
    squared_errors = th.max((values - returns) ** 2, (clipped_values - returns) ** 2)
    return squared_errors.mean() if reduction == "mean" else squared_errors


def entropy_loss(entropy: th.Tensor | None, log_prob: th.Tensor) -> th.Tensor:
    r"""
    Negative entropy, :math:`-\mathcal H(\pi_\theta(\cdot|s_t))`.

    :param entropy: entropy of the policy in each state, shape ``(batch,)``, or None where the distribution has no formula.
        Then SB3's estimate :math:`\log\pi_\theta(a_t|s_t)` stands in. Its value is right on average at
        :math:`\theta = \theta_{old}`, but its expected gradient there is zero, so that the bonus does nothing.
    :param log_prob: :math:`\log\pi_\theta(a_t|s_t)`, shape ``(batch,)``
    :return: shape ``(batch,)``
    """
    return log_prob if entropy is None else -entropy


def kl_estimates(log_ratio: th.Tensor, estimator: KlEstimator = "k3") -> th.Tensor:
    r"""
    Estimate :math:`KL(\pi_{old}\,\|\,\pi_\theta)` from each action, drawn from :math:`\pi_{old}`.

    - "k3": :math:`(r - 1) - \log r`, never negative (SB3's)
    - "k1": :math:`-\log r`, unbiased, possibly negative, and of larger variance where r is near 1 (the activity's)

    :param log_ratio: :math:`\log r_t = \log\pi_\theta(a_t|s_t) - \log\pi_{old}(a_t|s_t)`, shape ``(batch,)``
    :param estimator: "k3" or "k1"
    :return: shape ``(batch,)``, in nats
    """
    if estimator == "k1":
        return -log_ratio
    return (th.exp(log_ratio) - 1) - log_ratio


def approx_kl(log_ratio: th.Tensor, estimator: KlEstimator = "k3") -> th.Tensor:
    """
    Average the estimates of a minibatch, see :func:`kl_estimates`.

    :param log_ratio: shape ``(batch,)``
    :param estimator: "k3" or "k1"
    :return: scalar, in nats
    """
    return th.mean(kl_estimates(log_ratio, estimator))


def clip_fraction(ratio: th.Tensor, clip_range: float) -> th.Tensor:
    r"""
    Fraction of transitions with :math:`|r_t - 1| > \epsilon`.

    :param ratio: shape ``(batch,)``
    :param clip_range: :math:`\epsilon`
    :return: scalar in [0, 1]
    """
    return th.mean((th.abs(ratio - 1) > clip_range).float())
