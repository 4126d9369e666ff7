"""The bounded distributions against scipy, finite differences and their own samples."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats  # type: ignore[import-untyped]
from stable_baselines3.common.distributions import (
    DiagGaussianDistribution,
    SquashedDiagGaussianDistribution,
    TanhBijector,
)
from stable_baselines3.common.distributions import kl_divergence as sb3_kl_divergence

from sb3_ppo_edu.functional import distributions
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution, log_tanh_derivative

Pair = tuple[list[float], list[float]]

means = st.floats(-5.0, 5.0)
stds = st.floats(0.01, 3.0)
concentrations = st.floats(1.001, 300.0)


def tanh_gaussian(mean: list[float], std: list[float], dtype: th.dtype = th.float64) -> TanhGaussianDistribution:
    """A batch of one, with one entry per action dimension."""
    dist = TanhGaussianDistribution(len(mean))
    return dist.proba_distribution(th.tensor([mean], dtype=dtype), th.tensor(std, dtype=dtype).log())


def beta_head(alpha: list[float], beta: list[float]) -> np.ndarray:
    """Outputs of the linear head that make these concentrations: the inverse of 1 + softplus."""
    excess = np.array(alpha + beta) - 1.0
    outputs: np.ndarray = excess + np.log(-np.expm1(-excess))
    return outputs


def beta_dist(alpha: list[float], beta: list[float], dtype: th.dtype = th.float64) -> BetaDistribution:
    """A batch of one, with one entry per action dimension."""
    return BetaDistribution(len(alpha)).proba_distribution(th.tensor(beta_head(alpha, beta)[None], dtype=dtype))


def log_p(dist: TanhGaussianDistribution | BetaDistribution, raw: float) -> float:
    """Log-density of a one-dimensional distribution at one raw action."""
    return dist.log_prob(th.tensor([[raw]], dtype=th.float64)).item()


def tanh_log_density(raw: float, mean: float, std: float) -> float:
    """Log p(y) at y = tanh(raw), independently: Gaussian over dy/du = 1 / cosh(u)^2."""
    log_cosh = np.logaddexp(raw, -raw) - math.log(2.0)
    return float(stats.norm.logpdf(raw, mean, std) + 2.0 * log_cosh)


def integral_over_raw(function: Callable[[float], float], mean: float, std: float) -> float:
    """Adaptive quadrature of function(u) * N(u; mean, std) over twelve standard deviations, cut at the kinks."""
    cuts = sorted({mean - 12 * std, *(c for c in (0.0, mean) if abs(c - mean) < 12 * std), mean + 12 * std})
    pieces = [
        integrate.quad(lambda u: function(u) * stats.norm.pdf(u, mean, std), a, b, epsabs=1e-12, epsrel=1e-12, limit=200)
        for a, b in itertools.pairwise(cuts)
    ]
    return float(sum(value for value, _ in pieces))


# ---- log-derivative of tanh


@given(st.floats(-300.0, 300.0))
def test_log_tanh_derivative_is_minus_two_log_cosh(raw: float) -> None:
    """log(1 - tanh^2 u) = -2 log cosh u."""
    expected = -2.0 * (np.logaddexp(raw, -raw) - math.log(2.0))
    assert log_tanh_derivative(th.tensor(raw, dtype=th.float64)).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.floats(-40.0, 40.0, width=32))
def test_log_tanh_derivative_in_float32_has_value_and_gradient(raw: float) -> None:
    """In float32 the value is right to rounding, and its gradient is -2 tanh u, also where 1 - tanh^2 rounds to 0."""
    raw_action = th.tensor(raw, requires_grad=True)
    value = log_tanh_derivative(raw_action)
    value.backward()
    assert value.item() == pytest.approx(-2.0 * (np.logaddexp(raw, -raw) - math.log(2.0)), rel=3e-7, abs=3e-7)
    assert raw_action.grad is not None
    assert raw_action.grad.item() == pytest.approx(-2.0 * math.tanh(raw), abs=5e-7)


# ---- log-probability


@given(means, stds, st.floats(-4.0, 4.0))
def test_tanh_log_prob_is_the_change_of_variables(mean: float, std: float, z: float) -> None:
    """p(y) = N(artanh y) / (1 - y^2), the density of the normalised action."""
    raw = mean + z * std
    assert log_p(tanh_gaussian([mean], [std]), raw) == pytest.approx(tanh_log_density(raw, mean, std), rel=1e-10, abs=1e-10)


@given(concentrations, concentrations, st.floats(-1.0 + 1e-9, 1.0 - 1e-9))
def test_beta_log_prob_is_scipys(alpha: float, beta: float, normalised: float) -> None:
    """Log p(y) is the log-density of a Beta stretched to (-1, 1), at y = tanh(u / 2)."""
    raw = 2.0 * math.atanh(normalised)
    expected = stats.beta.logpdf(normalised, alpha, beta, loc=-1.0, scale=2.0)
    assert log_p(beta_dist([alpha], [beta]), raw) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.05), (0.4, 0.3), (0.0, 1.0), (-2.0, 1.0), (1.0, 3.0)])
def test_tanh_log_prob_integrates_to_one(mean: float, std: float) -> None:
    """The integral of p(y) over y in (-1, 1) is 1. Substituting y = tanh(v), dy = dv / cosh(v)^2, spares the poles."""
    dist = tanh_gaussian([mean], [std])
    lowest, highest = mean - 10 * std, mean + 10 * std
    total, _ = integrate.quad(
        lambda v: math.exp(log_p(dist, v)) / math.cosh(v) ** 2, lowest, highest, points=[mean], epsabs=1e-9, limit=200
    )
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("std", [0.1, 0.5, 0.7])
def test_tanh_log_prob_integrates_to_one_over_normalised_actions(std: float) -> None:
    """The same without a substitution, for standard deviations whose density has no pole."""
    dist = tanh_gaussian([0.3], [std])
    total, _ = integrate.quad(
        lambda y: math.exp(log_p(dist, math.atanh(y))), -1 + 1e-14, 1 - 1e-14, points=[math.tanh(0.3)], limit=400
    )
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0 + 1e-9, 1.0 + 1e-9), (1.7, 1.7), (1.2, 30.0), (150.0, 90.0)])
def test_beta_log_prob_integrates_to_one(alpha: float, beta: float) -> None:
    """The integral of p(y) over y in (-1, 1) is 1."""
    dist = beta_dist([alpha], [beta])
    peak = (alpha - beta) / (alpha + beta)
    total, _ = integrate.quad(
        lambda y: math.exp(log_p(dist, 2.0 * math.atanh(y))), -1 + 1e-15, 1 - 1e-15, points=[peak], epsabs=1e-9, limit=400
    )
    assert total == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "parameters", "other_parameters"),
    [
        (tanh_gaussian, ([0.2, -1.0], [0.5, 2.0]), ([0.0, 0.5], [1.0, 1.5])),
        (beta_dist, ([2.0, 5.0], [3.0, 1.5]), ([1.5, 1.2], [1.3, 1.5])),
    ],
)
def test_dimensions_are_independent(make: Callable[..., Any], parameters: Pair, other_parameters: Pair) -> None:
    """Log-probability, entropy and divergence of several dimensions are sums over them, one number per batch row."""
    raw = th.tensor([[0.3, -2.0]], dtype=th.float64)
    joint, other = make(*parameters), make(*other_parameters)
    parts = [make([first], [second]) for first, second in zip(*parameters, strict=True)]
    other_parts = [make([first], [second]) for first, second in zip(*other_parameters, strict=True)]
    th.testing.assert_close(joint.log_prob(raw), sum(part.log_prob(raw[:, [i]]) for i, part in enumerate(parts)))
    th.testing.assert_close(joint.entropy(), sum(part.entropy() for part in parts))
    divergence = sum(part.kl_divergence(q) for part, q in zip(parts, other_parts, strict=True))
    th.testing.assert_close(joint.kl_divergence(other), divergence)
    assert joint.log_prob(raw).shape == joint.entropy().shape == joint.kl_divergence(other).shape == (1,)


@settings(max_examples=50)
@given(st.floats(-40.0, 40.0, width=32), st.floats(-40.0, 40.0, width=32), st.floats(-5.0, 2.0, width=32))
def test_tanh_gaussian_is_finite_in_float32(raw: float, mean: float, log_std: float) -> None:
    """For raw actions and means within 40, log-probability, entropy and all their gradients are finite in float32."""
    mean_actions = th.tensor([[mean]], requires_grad=True)
    log_std_parameter = th.tensor([log_std], requires_grad=True)
    raw_actions = th.tensor([[raw]], requires_grad=True)
    dist = TanhGaussianDistribution(1).proba_distribution(mean_actions, log_std_parameter)
    log_prob, entropy = dist.log_prob(raw_actions), dist.entropy()
    assert log_prob.dtype == entropy.dtype == th.float32
    (log_prob + entropy).sum().backward()
    for tensor in (log_prob, entropy, mean_actions.grad, log_std_parameter.grad, raw_actions.grad):
        assert tensor is not None
        assert th.isfinite(tensor).all()


@settings(max_examples=50)
@given(st.floats(-40.0, 40.0, width=32), st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
def test_beta_is_finite_in_float32(raw: float, alpha_output: float, beta_output: float) -> None:
    """For raw actions within 40 and network outputs within 10^4 all values, samples and gradients are finite in float32."""
    head = th.tensor([[alpha_output, beta_output]], requires_grad=True)
    raw_actions = th.tensor([[raw]], requires_grad=True)
    dist = BetaDistribution(1).proba_distribution(head)
    log_prob, entropy, sample, mode = dist.log_prob(raw_actions), dist.entropy(), dist.sample(), dist.mode()
    assert log_prob.dtype == entropy.dtype == sample.dtype == mode.dtype == th.float32
    (log_prob + entropy).sum().backward()
    for tensor in (log_prob, entropy, sample, mode, head.grad, raw_actions.grad):
        assert tensor is not None
        assert th.isfinite(tensor).all()


@pytest.mark.parametrize("concentration", [2.0, 200.0, 5000.0])
def test_beta_log_prob_of_a_float32_head_is_exact_to_float32(concentration: float) -> None:
    """A float32 network gets the log-probability of its parameters to 1e-6, where float32 log-gammas miss by 1e-4 and more."""
    head = th.tensor(beta_head([concentration], [0.7 * concentration])[None], dtype=th.float32)
    raw = th.tensor([[0.4]], dtype=th.float32)
    alpha, beta = 1.0 + np.logaddexp(0.0, head.double().numpy()[0])
    expected = stats.beta.logpdf(special.expit(float(raw.item())), alpha, beta) - math.log(2.0)
    value = BetaDistribution(1).proba_distribution(head).log_prob(raw)
    assert value.dtype == th.float32
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


# ---- entropy


@settings(max_examples=60)
@given(means, stds)
def test_tanh_entropy_agrees_with_adaptive_quadrature(mean: float, std: float) -> None:
    """H(y) = -E[log p(y)], to 1e-6 for standard deviations up to 3."""
    expected = -integral_over_raw(lambda u: tanh_log_density(u, mean, std), mean, std)
    assert tanh_gaussian([mean], [std]).entropy().item() == pytest.approx(expected, abs=1e-6)


@given(concentrations, concentrations)
def test_beta_entropy_is_scipys(alpha: float, beta: float) -> None:
    """H(y) is the entropy of a Beta stretched to (-1, 1)."""
    expected = float(stats.beta.entropy(alpha, beta)) + math.log(2.0)
    assert beta_dist([alpha], [beta]).entropy().item() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    "dist",
    [
        tanh_gaussian([0.0], [0.1]),
        tanh_gaussian([0.8], [1.0]),
        tanh_gaussian([-2.0], [3.0]),
        beta_dist([1.7], [1.7]),
        beta_dist([1.1], [8.0]),
        beta_dist([60.0], [40.0]),
    ],
)
def test_entropy_agrees_with_a_million_samples(dist: TanhGaussianDistribution | BetaDistribution) -> None:
    """The mean of -log p over 10^6 samples is within four of its standard errors of the entropy."""
    th.manual_seed(0)
    n_samples = 1_000_000
    many: TanhGaussianDistribution | BetaDistribution
    if isinstance(dist, TanhGaussianDistribution):
        mean, std = dist.distribution.mean, dist.distribution.stddev
        many = TanhGaussianDistribution(1).proba_distribution(mean.expand(n_samples, 1), std.log().squeeze(0))
    else:
        head = th.log(th.expm1(dist.concentration - 1.0))
        many = BetaDistribution(1).proba_distribution(head.expand(n_samples, 2))
    surprises = -many.log_prob(many.sample())
    standard_error = surprises.std().item() / math.sqrt(n_samples)
    assert abs(surprises.mean().item() - dist.entropy().item()) < 4.0 * standard_error


@given(st.floats(-30.0, 30.0), st.floats(0.001, 20.0))
def test_tanh_entropy_never_exceeds_the_uniforms(mean: float, std: float) -> None:
    """No density on (-1, 1) has more entropy than log 2, and mirroring it changes nothing. Holds beyond std 3 too."""
    entropy = tanh_gaussian([mean], [std]).entropy().item()
    assert entropy <= math.log(2.0)
    assert tanh_gaussian([-mean], [std]).entropy().item() == pytest.approx(entropy, abs=1e-9)


def test_beta_entropy_of_the_uniform_distribution_is_log_two() -> None:
    """A head at minus infinity gives alpha = beta = 1, the uniform distribution: density 1/2, entropy log 2, mean 0."""
    dist = BetaDistribution(1).proba_distribution(th.tensor([[-1000.0, -1000.0]]))
    assert dist.entropy().item() == pytest.approx(math.log(2.0), abs=1e-7)
    for raw in (-7.0, 0.0, 3.0):
        assert dist.log_prob(th.tensor([[raw]])).item() == pytest.approx(math.log(0.5), abs=1e-7)
    assert dist.mode().item() == 0.0


# ---- gradients


@settings(max_examples=25)
@given(st.lists(st.tuples(means, st.floats(0.1, 3.0), st.floats(-3.0, 3.0)), min_size=1, max_size=3))
def test_tanh_gradients_agree_with_finite_differences(dimensions: list[tuple[float, float, float]]) -> None:
    """Gradients of log-probability and entropy in mean, log-std and raw action, in float64."""
    mean = th.tensor([[m for m, _, _ in dimensions]], dtype=th.float64, requires_grad=True)
    log_std = th.tensor([math.log(s) for _, s, _ in dimensions], dtype=th.float64, requires_grad=True)
    raw = th.tensor([[m + z * s for m, s, z in dimensions]], dtype=th.float64, requires_grad=True)

    def log_prob(mean: th.Tensor, log_std: th.Tensor, raw: th.Tensor) -> th.Tensor:
        return TanhGaussianDistribution(len(dimensions)).proba_distribution(mean, log_std).log_prob(raw)

    def entropy(mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
        return TanhGaussianDistribution(len(dimensions)).proba_distribution(mean, log_std).entropy()

    assert th.autograd.gradcheck(log_prob, (mean, log_std, raw))
    assert th.autograd.gradcheck(entropy, (mean, log_std))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(-6, 12), st.floats(-6, 12), st.floats(-8, 8)), min_size=1, max_size=3))
def test_beta_gradients_agree_with_finite_differences(dimensions: list[tuple[float, float, float]]) -> None:
    """Gradients of log-probability and entropy in the head's outputs and the raw action, in float64."""
    n_dims = len(dimensions)
    outputs = [[a for a, _, _ in dimensions] + [b for _, b, _ in dimensions]]
    head = th.tensor(outputs, dtype=th.float64, requires_grad=True)
    raw = th.tensor([[u for _, _, u in dimensions]], dtype=th.float64, requires_grad=True)
    assert th.autograd.gradcheck(lambda h, u: BetaDistribution(n_dims).proba_distribution(h).log_prob(u), (head, raw))
    assert th.autograd.gradcheck(lambda h: BetaDistribution(n_dims).proba_distribution(h).entropy(), (head,))


def entropy_gradient(mean: float, std: float) -> tuple[float, float]:
    """dH/dmean = E[-2 tanh u] and dH/dlog_std = 1 + E[-2 tanh(u) (u - mean)], by adaptive quadrature."""
    by_mean = integral_over_raw(lambda u: -2.0 * math.tanh(u), mean, std)
    by_log_std = 1.0 + integral_over_raw(lambda u: -2.0 * math.tanh(u) * (u - mean), mean, std)
    return by_mean, by_log_std


@pytest.mark.parametrize(("mean", "std"), [(1.0, 0.5), (-0.5, 1.0), (2.0, 3.0)])
def test_entropy_fallback_has_no_gradient_where_ours_has_the_true_one(mean: float, std: float) -> None:
    """At the parameters that sampled the actions, the gradient of SB3's mean(-log p) has expectation zero; ours is exact.

    It is minus the score, whose expectation is zero and whose standard deviation is 1 / std (mean) and sqrt(2) (log-std).
    """
    th.manual_seed(0)
    n_samples = 400_000
    mean_parameter = th.tensor([[mean]], dtype=th.float64, requires_grad=True)
    log_std = th.tensor([math.log(std)], dtype=th.float64, requires_grad=True)
    dist = TanhGaussianDistribution(1).proba_distribution(mean_parameter.expand(n_samples, 1), log_std)
    stored_actions = dist.sample().detach()

    fallback = th.autograd.grad(-dist.log_prob(stored_actions).mean(), (mean_parameter, log_std))
    assert abs(fallback[0].item()) < 4.0 / std / math.sqrt(n_samples)
    assert abs(fallback[1].item()) < 4.0 * math.sqrt(2.0 / n_samples)

    entropy = TanhGaussianDistribution(1).proba_distribution(mean_parameter, log_std).entropy()
    exact = th.autograd.grad(entropy.sum(), (mean_parameter, log_std))
    expected = entropy_gradient(mean, std)
    assert exact[0].item() == pytest.approx(expected[0], abs=5e-6)
    assert exact[1].item() == pytest.approx(expected[1], abs=5e-6)
    # What the fallback gives is nothing beside the truth
    assert abs(expected[0]) > 50.0 * abs(fallback[0].item())
    assert abs(expected[1]) > 20.0 * abs(fallback[1].item())


def test_entropy_has_a_gradient_after_a_first_use_in_inference_mode() -> None:
    """The cached quadrature does not keep a trace of the mode in which it was made."""
    distributions.standard_normal_quadrature.cache_clear()
    with th.inference_mode():
        tanh_gaussian([0.5], [1.0], th.float32).entropy()
    mean = th.tensor([[0.5]], requires_grad=True)
    TanhGaussianDistribution(1).proba_distribution(mean, th.zeros(1)).entropy().sum().backward()
    assert mean.grad is not None
    assert mean.grad.item() == pytest.approx(entropy_gradient(0.5, 1.0)[0], abs=1e-5)


# ---- samples and deterministic actions


def test_tanh_gaussian_draws_the_gaussians_noise() -> None:
    """It samples the raw action that SB3's Gaussian samples from the same seed, and leaves the same random stream."""
    mean, log_std = th.randn(7, 3), th.randn(3)
    draws = []
    for dist in (DiagGaussianDistribution(3), TanhGaussianDistribution(3)):
        th.manual_seed(1)
        draws.append((dist.proba_distribution(mean, log_std).sample(), th.rand(1)))
    assert th.equal(draws[0][0], draws[1][0])
    assert th.equal(draws[0][1], draws[1][1])


@pytest.mark.parametrize(("alpha", "beta"), [(1.0001, 1.0001), (1.7, 1.7), (1.2, 30.0), (150.0, 90.0), (1e6, 1.01)])
def test_beta_samples_follow_the_distribution(alpha: float, beta: float) -> None:
    """The logits of Beta samples pass a Kolmogorov-Smirnov test, also where x rounds to 1 in float32."""
    th.manual_seed(0)
    head = th.tensor(beta_head([alpha], [beta]), dtype=th.float32).expand(20_000, 2)
    raw = BetaDistribution(1).proba_distribution(head).sample().double().numpy().ravel()

    def cumulative(u: np.ndarray) -> np.ndarray:
        # 1 - x = sigma(-u) ~ Beta(beta, alpha) keeps the digits where x is near 1
        probability: np.ndarray = special.betaincc(beta, alpha, special.expit(-u))
        return probability

    assert stats.kstest(raw, cumulative).pvalue > 1e-3
    if alpha == 1e6:
        assert (special.expit(raw.astype(np.float32)) == 1.0).mean() > 0.01


def test_beta_head_gives_alphas_first() -> None:
    """Outputs (a1, a2, b1, b2) make alpha_i = 1 + softplus(a_i) and beta_i = 1 + softplus(b_i)."""
    dist = BetaDistribution(2).proba_distribution(th.tensor([[0.0, 1.0, 2.0, 3.0]]))
    expected = [1.0 + math.log1p(math.exp(x)) for x in (0.0, 1.0, 2.0, 3.0)]
    np.testing.assert_allclose(dist.concentration.numpy()[0], expected, rtol=1e-6)
    head = BetaDistribution(2).proba_distribution_net(5)
    assert head(th.zeros(1, 5)).shape == (1, 4)


@given(concentrations, concentrations)
def test_beta_deterministic_action_is_the_mean(alpha: float, beta: float) -> None:
    """tanh(mode() / 2) is the mean of y: 2 alpha / (alpha + beta) - 1."""
    raw = beta_dist([alpha], [beta]).get_actions(deterministic=True).item()
    assert math.tanh(raw / 2.0) == pytest.approx(2.0 * alpha / (alpha + beta) - 1.0, abs=1e-9)


def test_tanh_deterministic_action_is_the_median() -> None:
    """Half of the samples lie on each side of the deterministic action."""
    th.manual_seed(0)
    dist = TanhGaussianDistribution(1).proba_distribution(th.full((100_000, 1), 0.7), th.zeros(1))
    median = dist.get_actions(deterministic=True)
    assert median.unique().item() == pytest.approx(0.7)
    # standard error of the share: 0.5 / sqrt(1e5) = 0.0016
    assert (dist.sample() < median).float().mean().item() == pytest.approx(0.5, abs=0.0064)


# ---- ratio


def test_ratio_is_exactly_one_where_tanh_saturates() -> None:
    """exp(log p(u) - log p(u)) = 1 for raw actions whose tanh is 1 in float32; an inverse tanh is wrong by a factor of 1000.

    SB3's own squashed Gaussian evaluates a stored action through ``TanhBijector.inverse``.
    """
    th.manual_seed(0)
    mean, log_std = th.full((64, 1), 12.0), th.zeros(1)
    ours = TanhGaussianDistribution(1).proba_distribution(mean, log_std)
    raw = ours.sample()
    old_log_prob = ours.log_prob(raw)
    assert (th.tanh(raw) == 1.0).all()
    assert th.equal(th.exp(ours.log_prob(raw) - old_log_prob), th.ones(64))

    inverted = TanhBijector.inverse(th.tanh(raw))
    assert (raw - inverted).abs().min() > 1.0
    assert (ours.log_prob(inverted) - old_log_prob).abs().min() > 1.0

    squashed = SquashedDiagGaussianDistribution(1).proba_distribution(mean, log_std)
    actions, sampled_log_prob = squashed.log_prob_from_params(mean, log_std)
    ratio = th.exp(squashed.log_prob(actions) - sampled_log_prob)
    assert ratio.median() < 1e-2


def test_beta_ratio_is_exactly_one_where_the_bound_is_reached() -> None:
    """The same for a Beta pressed against its bound."""
    th.manual_seed(0)
    dist = BetaDistribution(1).proba_distribution(th.tensor([[1e6, -20.0]]).expand(256, 2))
    raw = dist.sample()
    assert (th.tanh(raw / 2.0) == 1.0).any()
    assert th.equal(th.exp(dist.log_prob(raw) - dist.log_prob(raw.clone())), th.ones(256))


# ---- divergence


@settings(max_examples=30)
@given(st.floats(-2, 2), st.floats(0.2, 2), st.floats(-2, 2), st.floats(0.2, 2))
def test_tanh_divergence_agrees_with_quadrature(mean_p: float, std_p: float, mean_q: float, std_q: float) -> None:
    """KL(p || q) = E_p[log p(y) - log q(y)] over normalised actions, and SB3's function gives the same."""
    p, q = tanh_gaussian([mean_p], [std_p]), tanh_gaussian([mean_q], [std_q])
    expected = integral_over_raw(lambda u: log_p(p, u) - log_p(q, u), mean_p, std_p)
    assert p.kl_divergence(q).item() == pytest.approx(expected, abs=1e-6)
    assert sb3_kl_divergence(p, q).sum().item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30)
@given(*[st.floats(1.05, 20.0)] * 4)
def test_beta_divergence_agrees_with_quadrature(alpha_p: float, beta_p: float, alpha_q: float, beta_q: float) -> None:
    """KL(p || q) = E_p[log p(y) - log q(y)] over normalised actions, and SB3's function gives the same."""
    p, q = beta_dist([alpha_p], [beta_p]), beta_dist([alpha_q], [beta_q])

    def integrand(x: float) -> float:
        raw = math.log(x) - math.log1p(-x)
        return float(stats.beta.pdf(x, alpha_p, beta_p)) * (log_p(p, raw) - log_p(q, raw))

    expected, _ = integrate.quad(integrand, 1e-12, 1 - 1e-12, epsabs=1e-9, limit=200)
    assert p.kl_divergence(q).item() == pytest.approx(expected, abs=1e-5)
    assert sb3_kl_divergence(p, q).sum().item() == pytest.approx(expected, abs=1e-5)


def test_divergence_from_itself_is_zero() -> None:
    """KL(p || p) = 0, for a copy as well."""
    gaussian, beta = tanh_gaussian([0.3, 1.0], [0.5, 2.0]), beta_dist([2.0, 5.0], [3.0, 1.5])
    assert gaussian.kl_divergence(copy.deepcopy(gaussian)).item() == pytest.approx(0.0, abs=1e-12)
    assert beta.kl_divergence(copy.deepcopy(beta)).item() == pytest.approx(0.0, abs=1e-12)
