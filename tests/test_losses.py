"""The losses, against numbers worked by hand at every branch point, and the laws they obey."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from hypothesis import assume, given
from hypothesis import strategies as st

from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.losses import (
    VfClipMode,
    approx_kl,
    average,
    clip_fraction,
    clipped_surrogate_loss,
    entropy_loss,
    normalize_advantages,
    policy_advantages,
    value_loss,
)


def doubles(*numbers: float, requires_grad: bool = False) -> th.Tensor:
    """A vector in float64, so that the numbers worked by hand hold to 1e-12."""
    return th.tensor(numbers, dtype=th.float64, requires_grad=requires_grad)


def close(found: th.Tensor, expected: float | list[float], tolerance: float = 1e-12) -> bool:
    """Equal up to float64 rounding."""
    return th.allclose(found.detach(), th.tensor(expected, dtype=found.dtype), rtol=tolerance, atol=tolerance)


def vectors(low: float, high: float, size: int = 6) -> st.SearchStrategy[list[float]]:
    """Vectors of one size with entries in [low, high]."""
    return st.lists(st.floats(low, high, allow_subnormal=False), min_size=size, max_size=size)


RATIOS = vectors(0.01, 10.0)
ADVANTAGES = vectors(-5.0, 5.0)
VALUES = vectors(-10.0, 10.0)
MODES: tuple[VfClipMode, ...] = ("sb3", "max")


# -- the mean of a minibatch ---------------------------------------------------------------------------------------------


def test_average_by_hand() -> None:
    """Without weights the mean of the transitions: (1 + 2 + 6) / 3 = 3, each with the derivative 1/3."""
    numbers = doubles(1.0, 2.0, 6.0, requires_grad=True)
    found = average(numbers)
    found.backward()
    assert numbers.grad is not None
    assert found.shape == () and close(found, 3.0)
    assert close(numbers.grad, [1.0 / 3.0] * 3)


def test_average_with_weights_by_hand() -> None:
    """Weights (1, 0, 3): (1·1 + 0·2 + 3·6) / (1 + 0 + 3) = 4.75; the derivatives are w_t / Σw = (1/4, 0, 3/4)."""
    numbers = doubles(1.0, 2.0, 6.0, requires_grad=True)
    found = average(numbers, doubles(1.0, 0.0, 3.0))
    found.backward()
    assert numbers.grad is not None
    assert found.shape == () and close(found, 4.75)
    assert close(numbers.grad, [0.25, 0.0, 0.75])


@given(VALUES, vectors(0.01, 10.0), st.floats(0.01, 100.0))
def test_only_the_proportions_of_weights_count(numbers: list[float], weights: list[float], scale: float) -> None:
    """Weights that are scaled change nothing, equal ones are none, and a weight of 0 leaves the transition out."""
    tensor, of_each = doubles(*numbers), doubles(*weights)
    assert close(average(tensor, of_each), float(average(tensor, scale * of_each)), 1e-9)
    assert close(average(tensor, doubles(*[scale] * len(numbers))), float(average(tensor)), 1e-9)
    assert close(average(doubles(*numbers, 1e9), doubles(*weights, 0.0)), float(average(tensor, of_each)), 1e-9)


# -- advantage normalisation ---------------------------------------------------------------------------------------------


def test_normalize_advantages_by_hand() -> None:
    """(2, 4, 6) has mean 4 and, with the n-1 denominator, std sqrt((4 + 0 + 4) / 2) = 2: it becomes (-1, 0, 1)."""
    assert close(normalize_advantages(doubles(2.0, 4.0, 6.0)), [-1.0, 0.0, 1.0], 1e-8)


def test_normalize_advantages_keeps_sb3s_epsilon() -> None:
    """The 1e-8 is added to the standard deviation: (-1e-8, 1e-8) has std sqrt(2) 1e-8 and becomes ±1 / (sqrt(2) + 1)."""
    expected = 1.0 / (math.sqrt(2.0) + 1.0)
    assert close(normalize_advantages(doubles(-1e-8, 1e-8)), [-expected, expected], 1e-9)


def test_constant_advantages_become_zero() -> None:
    """A std of 0 gives 0 / (0 + 1e-8) = 0 everywhere, not NaN."""
    assert close(normalize_advantages(doubles(3.0, 3.0, 3.0, 3.0)), [0.0, 0.0, 0.0, 0.0])


def test_a_single_advantage_stays() -> None:
    """One number has no standard deviation: it is returned as it is, as SB3 does for a last minibatch of one."""
    assert close(normalize_advantages(doubles(7.0)), [7.0])
    assert normalize_advantages(doubles()).shape == (0,)


def test_normalize_advantages_with_given_moments() -> None:
    """With moments (3, 2) the vector's own play no part: (5, -1) becomes (1, -2), and a single 7 becomes 2."""
    assert close(normalize_advantages(doubles(5.0, -1.0), (3.0, 2.0)), [1.0, -2.0], 1e-8)
    assert close(normalize_advantages(doubles(7.0), (3.0, 2.0)), [2.0], 1e-8)


@given(ADVANTAGES)
def test_normalized_advantages_have_mean_0_and_std_1(numbers: list[float]) -> None:
    """What comes out has mean 0 and standard deviation 1."""
    advantages = doubles(*numbers)
    assume(float(advantages.std()) > 1e-2)
    normalized = normalize_advantages(advantages)
    assert abs(float(normalized.mean())) < 1e-9
    assert float(normalized.std()) == pytest.approx(1.0, abs=1e-5)


@given(ADVANTAGES, st.floats(0.1, 100.0), st.floats(-100.0, 100.0))
def test_normalization_forgets_scale_and_offset(numbers: list[float], scale: float, offset: float) -> None:
    """a·Â + b normalises to the same numbers as Â for a > 0, and to their negatives for -a."""
    advantages = doubles(*numbers)
    assume(float(advantages.std()) > 1e-2)
    expected = normalize_advantages(advantages)
    assert th.allclose(normalize_advantages(scale * advantages + offset), expected, atol=1e-4)
    assert th.allclose(normalize_advantages(-scale * advantages + offset), -expected, atol=1e-4)


def test_policy_advantages_are_standardised_and_then_bounded() -> None:
    """
    (2, 4, 6) becomes (-1, 0, 1), and with the bound 0.5 (-0.5, 0, 0.5): a bound before would give (0, 0, 0).

    Not normalised they are bounded as they are: (-3, 0.25) becomes (-0.5, 0.25). Without a bound nothing is cut off.
    """
    assert close(policy_advantages(doubles(2.0, 4.0, 6.0)), [-1.0, 0.0, 1.0], 1e-8)
    assert close(policy_advantages(doubles(2.0, 4.0, 6.0), bound=0.5), [-0.5, 0.0, 0.5], 1e-8)
    assert close(policy_advantages(doubles(-3.0, 0.25), normalize=False, bound=0.5), [-0.5, 0.25])
    assert close(policy_advantages(doubles(-3.0, 0.25), normalize=False), [-3.0, 0.25])


def test_policy_advantages_with_given_moments() -> None:
    """With moments (3, 2), (5, -1) becomes (1, -2), bounded (1, -1.5); where nothing is normalised they play no part."""
    assert close(policy_advantages(doubles(5.0, -1.0), moments=(3.0, 2.0)), [1.0, -2.0], 1e-8)
    assert close(policy_advantages(doubles(5.0, -1.0), moments=(3.0, 2.0), bound=1.5), [1.0, -1.5], 1e-8)
    assert close(policy_advantages(doubles(5.0, -1.0), normalize=False, moments=(3.0, 2.0)), [5.0, -1.0])


# -- the clipped surrogate -----------------------------------------------------------------------------------------------

CLIP = 0.25  # a power of two: 1 ± 0.25 are exact, so that "exactly at the boundary" means it


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # Â = 2 > 0. Objective min(2 r, 2 clip(r, .75, 1.25)); d loss / d r = -2 up to r = 1.25, 0 beyond.
        pytest.param(0.5, 2.0, -1.0, -2.0, id="positive-below"),
        pytest.param(0.75, 2.0, -1.5, -2.0, id="positive-lower-boundary"),
        pytest.param(1.0, 2.0, -2.0, -2.0, id="positive-at-1"),
        pytest.param(1.125, 2.0, -2.25, -2.0, id="positive-inside"),
        pytest.param(1.25, 2.0, -2.5, -2.0, id="positive-upper-boundary"),
        pytest.param(1.5, 2.0, -2.5, 0.0, id="positive-above"),
        # Â = -2 < 0. Objective min(-2 r, -2 clip(r, .75, 1.25)); d loss / d r = 2 from r = 0.75 on, 0 below.
        pytest.param(0.5, -2.0, 1.5, 0.0, id="negative-below"),
        pytest.param(0.75, -2.0, 1.5, 2.0, id="negative-lower-boundary"),
        pytest.param(0.875, -2.0, 1.75, 2.0, id="negative-inside"),
        pytest.param(1.0, -2.0, 2.0, 2.0, id="negative-at-1"),
        pytest.param(1.25, -2.0, 2.5, 2.0, id="negative-upper-boundary"),
        pytest.param(4.0, -2.0, 8.0, 2.0, id="negative-above-is-unbounded"),
        pytest.param(0.5, 0.0, 0.0, 0.0, id="zero-below"),
        pytest.param(1.5, 0.0, 0.0, 0.0, id="zero-above"),
    ],
)
def test_clipped_surrogate_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """Value and gradient of one transition in each branch: clipping stops only what would move further out for gain."""
    ratios = doubles(ratio, requires_grad=True)
    found = clipped_surrogate_loss(ratios, doubles(advantage), CLIP)
    found.backward()
    assert ratios.grad is not None
    assert close(found, loss)
    assert close(ratios.grad, [gradient])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        # c = 3, Â = -2: the objective is at least 3·(-2) = -6, reached where r = 3.
        pytest.param(2.0, -2.0, 4.0, 2.0, id="inactive-below-c"),
        pytest.param(4.0, -2.0, 6.0, 0.0, id="active-above-c"),
        pytest.param(100.0, -2.0, 6.0, 0.0, id="active-far-above-c"),
        pytest.param(0.5, -2.0, 1.5, 0.0, id="inactive-where-clipped"),
        pytest.param(4.0, 2.0, -2.5, 0.0, id="positive-advantages-are-not-concerned"),
        pytest.param(0.5, 2.0, -1.0, -2.0, id="positive-below-is-not-concerned"),
        pytest.param(4.0, 0.0, 0.0, 0.0, id="zero-advantage"),
    ],
)
def test_dual_clip_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """The dual clip bounds the loss of a bad action that became likelier, and touches nothing else."""
    ratios = doubles(ratio, requires_grad=True)
    found = clipped_surrogate_loss(ratios, doubles(advantage), CLIP, dual_clip=3.0)
    found.backward()
    assert ratios.grad is not None
    assert close(found, loss)
    assert close(ratios.grad, [gradient])


def test_dual_clip_at_its_boundary() -> None:
    """At r = c both branches meet in -c·|Â|, and the gradient is one of the subgradients between 0 and |Â|."""
    ratios = doubles(3.0, requires_grad=True)
    found = clipped_surrogate_loss(ratios, doubles(-2.0), CLIP, dual_clip=3.0)
    found.backward()
    assert ratios.grad is not None
    assert close(found, 6.0)
    assert 0.0 <= float(ratios.grad) <= 2.0


def test_activitys_verification_numbers() -> None:
    """
    The activity's check: log-probabilities (0, .1, -.1), old ones 0, advantages (1, 1, -1), ε = 0.2.

    Ratios (1, 1.105171, 0.904837) are all inside the clip range: -(1 + 1.105171 - 0.904837) / 3 = -0.400111.
    """
    log_prob, old_log_prob = doubles(0.0, 0.1, -0.1), doubles(0.0, 0.0, 0.0)
    loss = average(clipped_surrogate_loss(th.exp(log_prob - old_log_prob), doubles(1.0, 1.0, -1.0), 0.2))
    assert float(loss) == pytest.approx(-0.400111, abs=1e-6)


def test_surrogate_is_a_mean() -> None:
    """
    One number for each transition, and the loss of the minibatch is their mean.

    Three transitions, each in another branch: -(1.25·2, -1.5, 1) with r = (1.5, 1.5, 1), Â = (2, -1, 1), on average -2/3.
    """
    each = clipped_surrogate_loss(doubles(1.5, 1.5, 1.0), doubles(2.0, -1.0, 1.0), CLIP)
    assert close(each, [-2.5, 1.5, -1.0])
    assert close(average(each), -2.0 / 3.0)


def test_surrogate_at_ratio_1_is_the_policy_gradient() -> None:
    """At r = exp(log π - log π_old) = 1 the gradient in log π is -Â/n, that of -log π·Â."""
    log_prob = doubles(-0.3, -1.2, -2.0, -0.1, requires_grad=True)
    advantages = doubles(1.0, -2.0, 0.0, 4.0)
    average(clipped_surrogate_loss(th.exp(log_prob - log_prob.detach()), advantages, 0.2)).backward()
    assert log_prob.grad is not None
    assert close(log_prob.grad, [-0.25, 0.5, 0.0, -1.0])


@given(RATIOS, ADVANTAGES, st.floats(0.01, 0.9))
def test_clipping_is_pessimistic(ratios: list[float], advantages: list[float], clip_range: float) -> None:
    """In each transition the clipped objective never exceeds the unclipped one, nor the one that is always clipped."""
    ratio, advantage = doubles(*ratios), doubles(*advantages)
    loss = clipped_surrogate_loss(ratio, advantage, clip_range)
    assert bool((loss >= -(ratio * advantage) - 1e-12).all())
    assert bool((loss >= -(ratio.clamp(1 - clip_range, 1 + clip_range) * advantage) - 1e-12).all())


@given(RATIOS, ADVANTAGES, st.floats(0.01, 0.9), st.floats(1.01, 5.0))
def test_dual_clip_only_lowers_the_loss(ratios: list[float], advantages: list[float], clip_range: float, c: float) -> None:
    """The dual clip bounds the objective from below by c·Â, and with c → ∞ nothing of it is left."""
    ratio, advantage = doubles(*ratios), doubles(*advantages)
    plain = clipped_surrogate_loss(ratio, advantage, clip_range)
    assert bool((clipped_surrogate_loss(ratio, advantage, clip_range, c) <= plain).all())
    assert th.equal(clipped_surrogate_loss(ratio, advantage, clip_range, 1e6), plain)
    for r, a in zip(ratio, advantage, strict=True):
        if a < 0:
            assert float(clipped_surrogate_loss(r[None], a[None], clip_range, c)) <= -c * float(a) + 1e-12


@given(RATIOS, ADVANTAGES)
def test_a_wide_clip_range_does_not_clip(ratios: list[float], advantages: list[float]) -> None:
    """With ε beyond every ratio the objective is r·Â."""
    ratio, advantage = doubles(*ratios), doubles(*advantages)
    assert close(clipped_surrogate_loss(ratio, advantage, 100.0), (-(ratio * advantage)).tolist())


def test_surrogate_gradient_agrees_with_finite_differences() -> None:
    """Autograd through the shipped function agrees with finite differences away from the kinks."""
    ratio = doubles(0.3, 0.9, 1.1, 1.6, 2.9, 5.0, requires_grad=True)
    advantage = doubles(-1.0, 0.5, -0.7, 2.0, -1.5, -0.2)
    assert th.autograd.gradcheck(lambda r: clipped_surrogate_loss(r, advantage, 0.2), (ratio,))
    assert th.autograd.gradcheck(lambda r: clipped_surrogate_loss(r, advantage, 0.2, 2.0), (ratio,))


# -- the value loss ------------------------------------------------------------------------------------------------------


def test_plain_value_loss_by_hand() -> None:
    """Squared errors (1 - 2)² = 1 and (3 - 0)² = 9, on average 5, with gradient 2 (V - R) / 2 = (-1, 3)."""
    values = doubles(1.0, 3.0, requires_grad=True)
    found = value_loss(values, doubles(2.0, 0.0), doubles(9.0, 9.0))
    assert close(found, [1.0, 9.0])
    average(found).backward()
    assert values.grad is not None
    assert close(average(found), 5.0)
    assert close(values.grad, [-1.0, 3.0])


@pytest.mark.parametrize(
    ("value", "target", "sb3", "sb3_gradient", "largest", "largest_gradient"),
    [
        # V_old = 1 and ε = 0.25: V_clip lies in [0.75, 1.25].
        # Inside: V_clip = V, both forms are the plain loss; (1.125 - 2)² = 0.765625, gradient 2·(-0.875).
        pytest.param(1.125, 2.0, 0.765625, -1.75, 0.765625, -1.75, id="inside"),
        # At the boundary V_clip = V too, and clamp lets the gradient pass: (1.25 - 2)² = 0.5625, 2·(-0.75).
        pytest.param(1.25, 2.0, 0.5625, -1.5, 0.5625, -1.5, id="upper-boundary"),
        pytest.param(0.75, 0.0, 0.5625, 1.5, 0.5625, 1.5, id="lower-boundary"),
        # Above, towards R = 2: (1.25 - 2)² = 0.5625 beats (1.5 - 2)² = 0.25, no gradient in either form.
        pytest.param(1.5, 2.0, 0.5625, 0.0, 0.5625, 0.0, id="above-towards-the-return"),
        # Above, away from R = 0: SB3 sees 1.25² = 1.5625 and no gradient; the maximum is 1.5² = 2.25, gradient 3.
        pytest.param(1.5, 0.0, 1.5625, 0.0, 2.25, 3.0, id="above-away-from-the-return"),
        # Above, beyond R = 1.3125: 0.0625² = 0.00390625 for SB3; the maximum is 0.1875² = 0.03515625, gradient 0.375.
        pytest.param(1.5, 1.3125, 0.00390625, 0.0, 0.03515625, 0.375, id="above-overshoots-the-return"),
        # Below, towards R = 0: 0.75² = 0.5625 beats 0.5² = 0.25.
        pytest.param(0.5, 0.0, 0.5625, 0.0, 0.5625, 0.0, id="below-towards-the-return"),
        # Below, away from R = 2: SB3 1.25² = 1.5625; maximum 1.5² = 2.25, gradient -3.
        pytest.param(0.5, 2.0, 1.5625, 0.0, 2.25, -3.0, id="below-away-from-the-return"),
    ],
)
def test_clipped_value_loss_by_hand(
    value: float, target: float, sb3: float, sb3_gradient: float, largest: float, largest_gradient: float
) -> None:
    """Value and gradient of both forms on either side of the clip range, towards the return and away from it."""
    expectations: dict[VfClipMode, tuple[float, float]] = {"sb3": (sb3, sb3_gradient), "max": (largest, largest_gradient)}
    for mode, (expected, gradient) in expectations.items():
        values = doubles(value, requires_grad=True)
        found = value_loss(values, doubles(target), doubles(1.0), 0.25, mode)
        found.backward()
        assert values.grad is not None
        assert close(found, expected), mode
        assert close(values.grad, [gradient]), mode


def test_clipped_value_loss_is_a_mean_over_transitions() -> None:
    """The maximum is taken per transition, before the mean: (2.25 + 0.5625) / 2, not the larger of two means."""
    found = value_loss(doubles(1.5, 1.5), doubles(0.0, 2.0), doubles(1.0, 1.0), 0.25, "max")
    assert close(found, [2.25, 0.5625])
    assert close(average(found), 1.40625)
    assert close(average(value_loss(doubles(1.5, 1.5), doubles(0.0, 2.0), doubles(1.0, 1.0), 0.25)), 1.0625)


@given(VALUES, VALUES, VALUES, st.none() | st.floats(0.01, 2.0), st.sampled_from(MODES))
def test_torchs_own_mean_is_the_average(
    values: list[float], returns: list[float], old_values: list[float], clip_range_vf: float | None, mode: VfClipMode
) -> None:
    """``reduction="mean"`` has the value of ``average`` and its gradient, but for the last bits, and one number."""
    gradients, found = [], []
    for reduction in ("mean", "none"):
        v = doubles(*values, requires_grad=True)
        loss = value_loss(v, doubles(*returns), doubles(*old_values), clip_range_vf, mode, reduction)
        loss = average(loss) if reduction == "none" else loss
        assert loss.shape == ()
        loss.backward()
        assert v.grad is not None
        found.append(float(loss.detach()))
        gradients.append(v.grad)
    assert found[0] == pytest.approx(found[1], rel=1e-12, abs=1e-12)
    assert close(gradients[0], gradients[1].tolist())


def test_value_clipping_is_off_by_default() -> None:
    """Without ``clip_range_vf`` no mode and no old value changes the plain loss."""
    assert close(value_loss(doubles(1.5), doubles(0.0), doubles(1.0), None, "max"), 2.25)


@given(VALUES, VALUES, VALUES, st.floats(0.01, 2.0))
def test_maximum_is_at_least_both_of_its_parts(
    values: list[float], returns: list[float], old_values: list[float], clip_range_vf: float
) -> None:
    """The pessimistic loss is never below SB3's clipped loss nor below the plain one, and a wide range clips nothing."""
    v, r, old = doubles(*values), doubles(*returns), doubles(*old_values)
    pessimistic = value_loss(v, r, old, clip_range_vf, "max")
    assert bool((pessimistic >= value_loss(v, r, old, clip_range_vf, "sb3") - 1e-9).all())
    assert bool((pessimistic >= value_loss(v, r, old) - 1e-9).all())
    for mode in MODES:
        assert close(value_loss(v, r, old, 1000.0, mode), value_loss(v, r, old).tolist(), 1e-9)


# -- entropy, KL, clip fraction ------------------------------------------------------------------------------------------


def test_entropy_loss_by_hand() -> None:
    """The negative entropies; the log-probabilities play no part: -(0.5, 1.5), on average -1."""
    assert close(entropy_loss(doubles(0.5, 1.5), doubles(-9.0, -9.0)), [-0.5, -1.5])
    assert close(average(entropy_loss(doubles(0.5, 1.5), doubles(-9.0, -9.0))), -1.0)


def test_entropy_loss_without_formula_by_hand() -> None:
    """Without an entropy, SB3's estimate: the log-probabilities, on average (-1 - 3) / 2 = -2."""
    assert close(entropy_loss(None, doubles(-1.0, -3.0)), [-1.0, -3.0])
    assert close(average(entropy_loss(None, doubles(-1.0, -3.0))), -2.0)


def test_the_stand_in_for_the_entropy_has_no_gradient() -> None:
    """
    Where each action occurs as often as the policy says, the stand-in has the entropy's value but no gradient.

    For π = (1/4, 3/4) and the batch (0, 1, 1, 1) its gradient in the logits is 0, while the entropy's own is not:
    it is -π_i (log π_i + H) with H = 0.562335, so for i = 0: -(log 0.25 + 0.562335) / 4 = 0.205990. The loss has the
    opposite sign.
    """
    logits = doubles(0.0, math.log(3.0), requires_grad=True)
    log_pi = th.log_softmax(logits, dim=0)
    stand_in = average(entropy_loss(None, log_pi[th.tensor([0, 1, 1, 1])]))
    exact = average(entropy_loss(-(log_pi.exp() * log_pi).sum()[None], log_pi))
    assert float(stand_in.detach()) == pytest.approx(-0.562335, abs=1e-6)
    assert float(exact.detach()) == pytest.approx(-0.562335, abs=1e-6)
    (stand_in_gradient,) = th.autograd.grad(stand_in, logits, retain_graph=True)
    (exact_gradient,) = th.autograd.grad(exact, logits)
    assert close(stand_in_gradient, [0.0, 0.0])
    assert close(exact_gradient, [-0.205990, 0.205990], 1e-6)


@pytest.mark.parametrize(
    ("log_ratio", "k1", "k3"),
    [
        # log r = 0.2: k1 = -0.2 (a negative "divergence"), k3 = e^0.2 - 1 - 0.2 = 0.0214028.
        pytest.param((0.2,), -0.2, 0.0214028, id="likelier"),
        # log r = -0.2: k1 = 0.2, k3 = e^-0.2 - 1 + 0.2 = 0.0187308.
        pytest.param((-0.2,), 0.2, 0.0187308, id="less-likely"),
        pytest.param((0.2, -0.2), 0.0, 0.0200668, id="mean-of-both"),
        pytest.param((0.0, 0.0), 0.0, 0.0, id="same-policy"),
    ],
)
def test_kl_estimators_by_hand(log_ratio: tuple[float, ...], k1: float, k3: float) -> None:
    """k1 = mean(-log r) and k3 = mean(r - 1 - log r), the default."""
    assert float(approx_kl(doubles(*log_ratio), "k1")) == pytest.approx(k1, abs=1e-7)
    assert float(approx_kl(doubles(*log_ratio), "k3")) == pytest.approx(k3, abs=1e-7)
    assert th.equal(approx_kl(doubles(*log_ratio)), approx_kl(doubles(*log_ratio), "k3"))


def test_kl_estimators_are_unbiased() -> None:
    """
    Over a batch that holds each action as often as the old policy says, both estimators are the divergence itself.

    KL((1/4, 3/4) || (1/2, 1/2)) = 1/4 log(1/2) + 3/4 log(3/2) = 0.130812.
    """
    log_ratio = doubles(math.log(2.0), *3 * [math.log(2.0 / 3.0)])
    assert float(approx_kl(log_ratio, "k1")) == pytest.approx(0.130812, abs=1e-6)
    assert float(approx_kl(log_ratio, "k3")) == pytest.approx(0.130812, abs=1e-6)


@given(vectors(-5.0, 5.0))
def test_k3_is_never_negative(log_ratios: list[float]) -> None:
    """For every r, r - 1 ≥ log r, up to rounding, and above 0 for a ratio visibly other than 1."""
    kl = float(approx_kl(doubles(*log_ratios), "k3"))
    assert kl >= -1e-15
    if max(abs(x) for x in log_ratios) > 1e-3:
        assert kl > 0.0


def test_clip_fraction_by_hand() -> None:
    """Of the ratios (0.5, 0.75, 1, 1.25, 1.5, 2) three lie outside 1 ± 0.25; the boundaries count as inside."""
    assert float(clip_fraction(doubles(0.5, 0.75, 1.0, 1.25, 1.5, 2.0), 0.25)) == 0.5
    assert float(clip_fraction(doubles(1.0, 1.0), 0.2)) == 0.0
    assert float(clip_fraction(doubles(0.1, 9.0), 0.2)) == 1.0


# -- shapes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("clipped_surrogate_loss", lambda column, row: clipped_surrogate_loss(column, row, 0.2)),
        ("clipped_surrogate_loss", lambda column, row: clipped_surrogate_loss(row, column, 0.2, 2.0)),
        ("value_loss", lambda column, row: value_loss(column, row, row)),
        ("value_loss", lambda column, row: value_loss(row, column, row, 0.2)),
        ("value_loss", lambda column, row: value_loss(row, row, column, 0.2, "max")),
        ("average", lambda column, row: average(column, row)),
    ],
)
def test_broadcasting_is_refused(name: str, call: Callable[..., Any]) -> None:
    """(4, 1) beside (4,) would become (4, 4) and train, wrongly: the error names the function, both shapes, the remedy."""
    with pytest.raises(ValueError, match=name) as error:
        call(th.ones(4, 1), th.ones(4))
    for part in ("expected tensors of one shape (batch,)", "(4, 1)", "(4,)", "flatten"):
        assert part in str(error.value)


def test_losses_leave_their_arguments_alone() -> None:
    """Pure functions: no argument is changed in place."""
    arguments = [th.linspace(0.2, 2.0, 5, dtype=th.float64) for _ in range(3)]
    before = [tensor.clone() for tensor in arguments]
    losses.average(arguments[0], arguments[1])
    losses.normalize_advantages(arguments[0])
    losses.policy_advantages(arguments[0], bound=0.5)
    losses.clipped_surrogate_loss(arguments[0], arguments[1], 0.2, 1.5)
    losses.value_loss(arguments[0], arguments[1], arguments[2], clip_range_vf=0.1, mode="max")
    losses.entropy_loss(arguments[0], arguments[1])
    losses.approx_kl(arguments[0])
    losses.clip_fraction(arguments[0], 0.2)
    assert all(th.equal(tensor, copy) for tensor, copy in zip(arguments, before, strict=True))
