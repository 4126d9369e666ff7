"""KL control's equations: the exact divergence, what the rate and the penalty's weight do, and the penalty's derivatives."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Beta, Categorical, Gumbel, Laplace, Normal

from sb3_ppo_edu.functional.kl import BETA_BOUNDS, KLAdaptiveLearningRate, KLPenaltyObjective, kl_divergence
from sb3_ppo_edu.functional.losses import KlEstimator
from sb3_ppo_edu.functional.objectives import Objective, Transitions, evaluation, losses_of
from tests.rollouts import update_settings as make_settings

GENERATOR = np.random.default_rng(5)


def numbers(*shape: int) -> th.Tensor:
    """Random numbers in float64."""
    return th.from_numpy(GENERATOR.normal(size=shape))


# -- the divergence ------------------------------------------------------------------------------------------------------


def test_the_divergence_of_gaussians_is_that_of_the_formula() -> None:
    """Component by component log(s'/s) + (s² + (m - m')²) / 2s'² - 1/2, added up over the action's components."""
    (m, n), (s, t) = numbers(2, 7, 3), numbers(2, 7, 3).exp()
    by_hand = (t / s).log() + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5
    found = kl_divergence([Normal(m, s)], [Normal(n, t)])
    assert found.shape == (7,)
    th.testing.assert_close(found, by_hand.sum(1), rtol=1e-12, atol=1e-12)


def test_the_divergence_of_choices_is_the_sum_over_all_of_them() -> None:
    """Σ p log(p/p'), for one choice, for several side by side, and for switches; a choice that neither takes adds nothing."""
    old, new = [numbers(7, size) for size in (4, 2)], [numbers(7, size) for size in (4, 2)]
    by_hand = sum(
        (one.softmax(1) * (one.log_softmax(1) - other.log_softmax(1))).sum(1) for one, other in zip(old, new, strict=True)
    )
    found = kl_divergence([Categorical(logits=one) for one in old], [Categorical(logits=one) for one in new])
    th.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-12)
    masked = [th.cat([one[0], th.full((7, 1), -1e8, dtype=th.float64)], 1) for one in (old, new)]
    alone = kl_divergence([Categorical(logits=old[0])], [Categorical(logits=new[0])])
    th.testing.assert_close(kl_divergence([Categorical(logits=masked[0])], [Categorical(logits=masked[1])]), alone)
    far = [Categorical(logits=th.tensor([[0.0, 0.0]])), Categorical(logits=th.tensor([[0.0, -200.0]]))]
    assert kl_divergence(far[:1], far[1:]).item() == pytest.approx(100 - math.log(2))
    p, q = numbers(7, 3).sigmoid(), numbers(7, 3).sigmoid()
    switches = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    th.testing.assert_close(kl_divergence([Bernoulli(p)], [Bernoulli(q)]), switches, rtol=1e-9, atol=1e-9)


def test_the_divergence_of_betas_is_the_integral() -> None:
    """∫ p log(p/p') over (0, 1) by the midpoint rule."""
    x = (th.arange(20_000, dtype=th.float64) + 0.5) / 20_000
    old, new = Beta(th.tensor(2.5).double(), th.tensor(3.0).double()), Beta(th.tensor(4.0).double(), th.tensor(2.0).double())
    p, q = old.log_prob(x), new.log_prob(x)
    found = kl_divergence([old.expand(th.Size([1, 1]))], [new.expand(th.Size([1, 1]))])
    assert found.item() == pytest.approx(float((p.exp() * (p - q)).mean()), abs=1e-6)


def test_a_pair_without_a_formula_is_refused() -> None:
    """So that whoever asks can estimate instead."""
    zero, one = th.zeros(3, 1), th.ones(3, 1)
    with pytest.raises(NotImplementedError):
        kl_divergence([Gumbel(zero, one)], [Laplace(zero, one)])


# -- what follows it -----------------------------------------------------------------------------------------------------


def test_the_rate_follows_as_worked_out_by_hand() -> None:
    """Divided by 1.5 above twice the target, multiplied below half of it, left alone in between and at both ends."""
    rate = KLAdaptiveLearningRate(0.01, 1e-3)
    for kl, expected in (
        (0.0201, 1e-3 / 1.5),
        (0.02, 1e-3 / 1.5),
        (0.005, 1e-3 / 1.5),
        (0.0049, 1e-3),
        (0.0, 1.5e-3),
        (math.inf, 1e-3),
        (math.nan, 1e-3),
    ):
        rate.adapt(kl, 0.5)
        assert rate(0.5) == rate.rate == pytest.approx(expected, rel=1e-12), kl


def test_the_rate_stays_within_its_bounds() -> None:
    """However often it is told the same."""
    for kl, bound in ((1.0, 1e-5), (0.0, 1e-2)):
        rate = KLAdaptiveLearningRate.of("kl_0.01_1e-3")
        for _ in range(30):
            rate.adapt(kl, 0.0)
        assert rate.rate == bound
    narrow = KLAdaptiveLearningRate.of("kl_0.01_1e-3_9e-4_1.1e-3")
    narrow.adapt(1.0, 0.0)
    assert narrow.rate == 9e-4


def test_the_target_may_warm_up() -> None:
    """At half of the warm-up it is half as large: 0.009 is beyond twice 0.004, and not yet beyond twice 0.005."""
    rate = KLAdaptiveLearningRate.of("warmup_0.2_kl_0.01_1e-3")
    assert (rate.target, rate.rate) == ("warmup_0.2_0.01", 1e-3)
    for done, expected in ((0.08, 1e-3 / 1.5), (0.1, 1e-3 / 1.5), (0.5, 1e-3 / 1.5)):
        rate.adapt(0.009, 1 - done)
        assert rate.rate == pytest.approx(expected), done
    penalty = KLPenaltyObjective(d_targ="warmup_0.2_0.01")
    penalty.adapt(0.009, 1 - 0.1)
    penalty.adapt(0.009, 1 - 0.5)
    assert penalty.beta == 2.0


def test_beta_follows_as_in_the_paper() -> None:
    """Doubled above 1.5 times the target, halved below its 1.5th, within bounds; without a target it stays."""
    penalty = KLPenaltyObjective(d_targ=0.03, beta=1.0)
    for kl, expected in ((0.0451, 2.0), (0.0449, 2.0), (0.0201, 2.0), (0.0199, 1.0), (math.inf, 2.0), (math.nan, 2.0)):
        penalty.adapt(kl, 0.5)
        assert penalty.beta == expected, kl
    for kl, bound in ((1.0, BETA_BOUNDS[1]), (0.0, BETA_BOUNDS[0])):
        for _ in range(40):
            penalty.adapt(kl, 0.5)
        assert penalty.beta == bound
    fixed = KLPenaltyObjective(d_targ=None, beta=0.3)
    fixed.adapt(1.0, 0.5)
    assert fixed.beta == 0.3


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (KLAdaptiveLearningRate, {"target": 0.0}, "target=0.0: expected a finite number > 0"),
        (KLAdaptiveLearningRate, {"target": "fast"}, "target='fast': expected a finite number > 0, or a schedule"),
        (KLAdaptiveLearningRate, {"target": "kl_0.01"}, "target='kl_0.01'"),
        (KLAdaptiveLearningRate, {"rate": 1.0}, "^rate=1: expected one from low=1e-05"),
        (KLAdaptiveLearningRate, {"low": 0.0}, "expected one from low=0, > 0"),
        (KLAdaptiveLearningRate, {"high": math.inf}, "to high=inf"),
        (KLPenaltyObjective, {"d_targ": -1}, "d_targ=-1: expected a finite number > 0"),
        (KLPenaltyObjective, {"d_targ": "lin_-1"}, "d_targ='lin_-1'"),
        (KLPenaltyObjective, {"beta": math.nan}, "beta=nan: expected a finite number > 0"),
        (KLPenaltyObjective, {"beta": 0}, "beta=0: .* 0 can't be doubled"),
        (KLPenaltyObjective, {"beta": 1e9}, "beta=1e\\+09: expected a number from 0.0001 to 10000"),
        (KLPenaltyObjective, {"beta": "high"}, "beta='high': expected a finite number > 0"),
        (KLPenaltyObjective, {"beta": True}, "beta=True: expected a finite number > 0"),
        (KLPenaltyObjective, {"d_targ": True}, "d_targ=True: expected a finite number > 0"),
        (KLPenaltyObjective, {"clip": "no"}, "clip='no': expected True or False"),
        (KLPenaltyObjective, {"estimator": "k2"}, "estimator='k2': expected one of 'k3', 'k1'"),
    ],
)
def test_wrong_arguments_are_refused(kind: Any, wrong: dict[str, Any], message: str) -> None:
    """By name, with what was found and what was expected."""
    with pytest.raises(ValueError, match=message):
        kind(**wrong)


@pytest.mark.parametrize("make", [lambda: KLAdaptiveLearningRate("warmup_0.1_0.01", 1e-3), KLPenaltyObjective])
def test_copies_and_pickles_go_on_alike_and_apart(make: Any) -> None:
    """A copy has the state, and from there on one of its own."""
    first = make()
    first.adapt(1.0, 0.5)
    for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert vars(twin) == vars(first)
        twin.adapt(1.0, 0.5)
        assert vars(twin) != vars(first)
        other = copy.deepcopy(first)
        other.adapt(1.0, 0.5)
        assert vars(twin) == vars(other)


# -- what is differentiated ----------------------------------------------------------------------------------------------


def slope_by_hand(r: th.Tensor, a: th.Tensor, beta: float, estimator: str, clip: bool) -> th.Tensor:
    """∂/∂log π of -r·Â, 0 where the clip counts, plus β·(r - 1) for k3 or -β for k1; over the size of the minibatch."""
    counts = ~(((r > 1.2) & (a > 0)) | ((r < 0.8) & (a < 0))) if clip else th.ones_like(r, dtype=th.bool)
    return (-r * a * counts + beta * (r - 1 if estimator == "k3" else -th.ones_like(r))) / len(r)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("estimator", ["k3", "k1"])
def test_both_forms_are_the_formula(estimator: KlEstimator, clip: bool) -> None:
    """Value and derivatives in float64 to 1e-10, in the form for autograd and in the form for derived backward passes."""
    log_prob, old, advantages, returns, values, entropy = numbers(6, 50)
    objective = KLPenaltyObjective(beta=0.7, estimator=estimator, clip=clip)
    data = Transitions(old, values, advantages, returns)
    settings = make_settings(ent_coef=0.1, vf_coef=0.25)
    r = (log_prob - old).exp()
    expected = slope_by_hand(r, advantages, 0.7, estimator, clip)
    surrogate = th.minimum(r * advantages, r.clamp(0.8, 1.2) * advantages) if clip else r * advantages
    penalty = (r - 1 - r.log()) if estimator == "k3" else -r.log()
    policy = float((-surrogate + 0.7 * penalty).mean())

    leaf = log_prob.clone().requires_grad_()
    found = losses_of(objective, evaluation(leaf, old, values, entropy), data, settings)
    found.total.backward()
    assert leaf.grad is not None
    assert found.policy.item() == pytest.approx(policy, abs=1e-10)
    th.testing.assert_close(leaf.grad, expected, rtol=0, atol=1e-10)
    second, slopes = objective.gradients(log_prob.numpy(), values.numpy(), entropy.numpy(), data, settings)
    assert second.policy == pytest.approx(policy, abs=1e-10)
    np.testing.assert_allclose(slopes.log_prob, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(slopes.values, 0.5 * (values - returns) / 50, rtol=0, atol=1e-10)


@given(st.integers(2, 6), st.integers(0, 2**31))
def test_both_estimates_have_the_gradient_of_the_divergence(n: int, seed: int) -> None:
    """Summed over all actions with the old policy's probabilities, each one's derivative is that of Σ p log(p/p')."""
    generator = th.Generator().manual_seed(seed)
    old = th.randn(n, generator=generator, dtype=th.float64).log_softmax(0)
    logits = th.randn(n, generator=generator, dtype=th.float64).requires_grad_()
    (expected,) = th.autograd.grad((old.exp() * (old - logits.log_softmax(0))).sum(), logits)
    zeros = th.zeros(n, dtype=th.float64)
    estimators: tuple[KlEstimator, ...] = ("k1", "k3")
    for estimator in estimators:
        now = evaluation(logits.log_softmax(0), old, zeros, None)
        penalty = KLPenaltyObjective(beta=1.0, estimator=estimator)
        loss = penalty.policy_loss(now, Transitions(old, zeros, zeros, zeros), make_settings())
        (found,) = th.autograd.grad((old.exp() * loss).sum(), logits)
        th.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_without_a_penalty_and_with_the_clip_it_is_ppos_loss() -> None:
    """β = 0 with ``clip=True`` is PPO's policy loss to the bit."""
    log_prob, old, advantages, returns, values, entropy = numbers(6, 50)
    now, data = evaluation(log_prob, old, values, entropy), Transitions(old, values, advantages, returns)
    settings = make_settings(dual_clip=2.0)
    plain = Objective().policy_loss(now, data, settings)
    assert th.equal(KLPenaltyObjective(d_targ=None, beta=0.0, clip=True).policy_loss(now, data, settings), plain)
