"""The laboratory's statistics, against scipy, other people's numbers, and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats  # type: ignore[import-untyped]

from sb3_ppo_edu.lab.statistics import aggregates, comparisons, curves

FINITE = st.floats(-1e3, 1e3, allow_subnormal=False)


def matrices(runs: tuple[int, int] = (1, 8), tasks: tuple[int, int] = (1, 4)) -> st.SearchStrategy[np.ndarray]:
    """Score matrices of random shapes."""
    shapes = st.tuples(st.integers(*runs), st.integers(*tasks))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=FINITE))


# -- aggregates ----------------------------------------------------------------------------------------------------------


@given(matrices())
def test_interquartile_mean_is_scipys_trimmed_mean(scores: np.ndarray) -> None:
    """The IQM is the mean without the lowest and the highest quarter, runs of all tasks together."""
    expected = stats.trim_mean(scores, 0.25, axis=None)
    assert aggregates.interquartile_mean(scores) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_aggregates_by_hand() -> None:
    """
    Two tasks, four runs: (0, 1, 2, 9) and (1, 1, 1, 1).

    Mean 16/8 = 2. Task means 3 and 1, their median 2. Sorted 0 1 1 1 1 1 2 9: the middle four are 1. Short of 1: the run
    with 0, by 1, hence 1/8.
    """
    scores = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [9.0, 1.0]])
    assert aggregates.mean(scores) == 2.0
    assert aggregates.median(scores) == 2.0
    assert aggregates.interquartile_mean(scores) == 1.0
    assert aggregates.optimality_gap(scores) == 0.125


@given(matrices())
def test_aggregates_do_not_know_the_order_of_runs(scores: np.ndarray) -> None:
    """Runs are interchangeable within a task."""
    shuffled = np.random.default_rng(0).permuted(scores, axis=0)
    for statistic in (aggregates.mean, aggregates.median, aggregates.interquartile_mean, aggregates.optimality_gap):
        assert statistic(shuffled) == pytest.approx(statistic(scores), rel=1e-9, abs=1e-9)


@given(matrices())
def test_a_statistic_of_many_matrices_is_that_of_each(scores: np.ndarray) -> None:
    """Leading axes are kept: that is what makes a bootstrap one call."""
    stack = np.stack([scores, scores + 1.0])
    for statistic in (aggregates.mean, aggregates.median, aggregates.interquartile_mean, aggregates.optimality_gap):
        assert statistic(stack).tolist() == pytest.approx([float(statistic(scores)), float(statistic(scores + 1.0))])


def test_normalize_puts_random_at_0_and_the_target_at_1() -> None:
    """CartPole: 20 of a random policy, 500 solved. Pendulum: −1200 and −200. Half the way is 0.5."""
    found = aggregates.normalize([[20.0, -200.0], [260.0, -700.0]], low=[20.0, -1200.0], high=[500.0, -200.0])
    assert found.tolist() == [[0.0, 1.0], [0.5, 0.5]]
    with pytest.raises(ValueError, match=r"high=\[1.0\]: expected numbers above low=\[1.0\]"):
        aggregates.normalize([[1.0]], low=[1.0], high=[1.0])


@pytest.mark.parametrize("scores", [[], [[]], [[[1.0]]], [math.nan, 1.0], [math.inf]])
def test_scores_that_are_none_are_refused(scores: list) -> None:
    """Empty matrices, three axes, NaN and infinity are no scores."""
    with pytest.raises(ValueError, match=r"scores: found"):
        aggregates.bootstrap(scores, aggregates.mean)


@pytest.mark.parametrize(("hits", "cases"), [(0, 5), (1, 3), (95, 100), (7, 7)])
def test_intervals_of_shares_are_wilsons(hits: int, cases: int) -> None:
    """The ends are those of scipy."""
    expected = stats.binomtest(hits, cases).proportion_ci(method="wilson")
    found = aggregates.wilson(hits, cases)
    assert found.value == hits / cases
    assert list(found[1:]) == pytest.approx([expected.low, expected.high], abs=1e-6)


# -- bootstrap -----------------------------------------------------------------------------------------------------------


def test_bootstrap_of_two_runs_is_worked_out() -> None:
    """Two runs, 0 and 1: resampled means are 0, ½, 1 with probability ¼, ½, ¼; 80% leaves out nothing but rare ends."""
    found = aggregates.bootstrap([0.0, 1.0], aggregates.mean, confidence=0.80)
    assert found == (0.5, 0.0, 1.0)
    found = aggregates.bootstrap([0.0, 1.0], aggregates.mean, confidence=0.40)
    assert found == (0.5, 0.5, 0.5)


def test_bootstrap_is_stratified() -> None:
    """Tasks keep their runs: with constant scores in each task nothing can vary, however different the tasks are."""
    assert aggregates.bootstrap([[0.0, 100.0]] * 5, aggregates.mean) == (50.0, 50.0, 50.0)


def test_bootstrap_has_a_seed() -> None:
    """The same seed gives the same interval, another one another."""
    scores = np.random.default_rng(1).normal(size=(7, 3))
    once, again, other = (aggregates.bootstrap(scores, aggregates.mean, seed=seed, resamples=500) for seed in (0, 0, 1))
    assert once == again
    assert once.value == other.value
    assert once[1:] != other[1:]


def test_bootstrap_interval_agrees_with_scipys() -> None:
    """scipy.stats.bootstrap with the percentile method, on its own random numbers, to the Monte Carlo error."""
    sample = np.random.default_rng(2).normal(size=30)
    found = aggregates.bootstrap(sample, aggregates.mean, resamples=20_000)
    theirs = stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert found[1:] == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 samples of 30 normals, a 90% interval holds the true mean in 80% to 96% (percentile intervals are narrow)."""
    generator = np.random.default_rng(4)
    intervals = [
        aggregates.bootstrap(generator.normal(size=30), aggregates.mean, confidence=0.9, resamples=400, seed=seed)
        for seed in range(200)
    ]
    assert 0.80 <= np.mean([found.low <= 0.0 <= found.high for found in intervals]) <= 0.96


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_share(confidence: float) -> None:
    """95 is not 95%."""
    with pytest.raises(ValueError, match="confidence="):
        aggregates.bootstrap([1.0, 2.0], aggregates.mean, confidence=confidence)


def test_performance_profile_counts_runs_above_a_threshold() -> None:
    """Scores 0, 1, 2, 3: all above −1, three above 0 (0 itself is not), none above 3; the band encloses the profile."""
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    thresholds = [-1.0, 0.0, 1.5, 3.0]
    profile = aggregates.performance_profile(scores, thresholds)
    assert profile.tolist() == [1.0, 0.75, 0.5, 0.0]
    low, high = aggregates.profile_band(scores, thresholds)
    assert np.all((low <= profile) & (profile <= high))


# -- comparisons ---------------------------------------------------------------------------------------------------------


@given(matrices(tasks=(1, 1)), matrices(tasks=(1, 1)))
def test_probability_of_improvement_is_mann_whitneys_u(first: np.ndarray, second: np.ndarray) -> None:
    """P(X > Y) = U / (n m), ties counted half; and P(X > Y) + P(Y > X) = 1."""
    expected = stats.mannwhitneyu(first[:, 0], second[:, 0]).statistic / (len(first) * len(second))
    found = comparisons.probability_of_improvement(first, second)
    assert found == pytest.approx(expected)
    assert found + comparisons.probability_of_improvement(second, first) == pytest.approx(1.0)


def test_probability_of_improvement_averages_tasks() -> None:
    """Always better in one task, never in the other: a draw. The interval has the same seed rules as every bootstrap."""
    first, second = [[2.0, 0.0], [3.0, 0.0]], [[1.0, 5.0], [1.0, 5.0]]
    assert comparisons.improvement_interval(first, second) == (0.5, 0.5, 0.5)
    random = np.random.default_rng(5).normal(size=(2, 9))
    once, again, other = (comparisons.improvement_interval(*random, seed=seed, resamples=100) for seed in (0, 0, 1))
    assert once == again != other
    assert once.low <= once.value <= once.high


def test_paired_difference_uses_the_pairs() -> None:
    """Runs that differ by 1 in every seed differ by exactly 1, however much the seeds differ among themselves."""
    first = np.array([1.0, 100.0, -50.0, 7.0])
    assert comparisons.paired_difference(first, first - 1.0) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"found shapes \(4,\) and \(3,\)"):
        comparisons.paired_difference(first, first[1:])


@given(
    arrays(np.float64, st.integers(2, 12), elements=FINITE),
    arrays(np.float64, st.integers(2, 12), elements=FINITE),
    st.floats(0.1, 1e3),
)
def test_equivalence_is_two_one_sided_welch_tests(first: np.ndarray, second: np.ndarray, margin: float) -> None:
    """Both of scipy's one-sided tests, against −margin and +margin; the larger p-value decides, as does the 90% interval."""
    assume(first.std() + second.std() > 1e-3)
    found = comparisons.equivalence(first, second, margin=margin)
    above = stats.ttest_ind(first + margin, second, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(first - margin, second, equal_var=False, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below), rel=1e-6, abs=1e-9)
    low, high = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.equivalent == (-margin < found.low and found.high < margin) or abs(found.p_value - 0.05) < 1e-9


@given(arrays(np.float64, (2, 7), elements=FINITE), st.floats(0.1, 1e3))
def test_equivalence_of_pairs_is_scipys_paired_test(samples: np.ndarray, margin: float) -> None:
    """With pairs, both one-sided t-tests of the differences."""
    assume((samples[0] - samples[1]).std() > 1e-3)
    found = comparisons.equivalence(*samples, margin=margin, pairs=True)
    above = stats.ttest_rel(samples[0] + margin, samples[1], alternative="greater").pvalue
    below = stats.ttest_rel(samples[0] - margin, samples[1], alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below), rel=1e-6, abs=1e-9)


@settings(max_examples=25)
@given(arrays(np.float64, (2, 6), elements=FINITE), st.floats(0.1, 1e3))
def test_equivalence_is_symmetric(samples: np.ndarray, margin: float) -> None:
    """Which algorithm is named first does not matter."""
    one, other = (comparisons.equivalence(*pair, margin=margin) for pair in (samples, samples[::-1]))
    assert one.p_value == pytest.approx(other.p_value, abs=1e-12)
    assert one.difference == -other.difference


@pytest.mark.parametrize("margin", [0.2, 0.5, 0.8])
def test_power_is_the_share_of_equal_samples_that_pass(margin: float) -> None:
    """Of 4,000 times 20 pairs whose differences have a mean of 0 and a spread of 1, so many pass."""
    differences = np.random.default_rng(5).normal(size=(4_000, 20))
    means, errors = differences.mean(axis=1), differences.std(axis=1, ddof=1) / math.sqrt(20)
    passed = np.abs(means) + stats.t.ppf(0.95, 19) * errors < margin
    assert comparisons.power(1 / math.sqrt(20), 19.0, margin=margin) == pytest.approx(passed.mean(), abs=0.03)


def test_equivalence_says_its_power() -> None:
    """With the error and the degrees of freedom of the test itself; 1 where nothing spreads."""
    one, other = np.arange(6.0), np.array([0.5, 0.5, 2.5, 2.5, 4.5, 4.5])
    error = float((one - other).std(ddof=1)) / math.sqrt(6)
    assert comparisons.equivalence(one, other, margin=1.0, pairs=True).power == comparisons.power(error, 5.0, margin=1.0)
    assert comparisons.equivalence([1.0, 1.0], [1.0, 1.0], margin=1.0).power == 1.0


def test_equivalence_without_spread_is_decided_by_the_difference() -> None:
    """All runs of both reach CartPole's 500: equivalent. All 500 against all 400: not within 50."""
    assert comparisons.equivalence([500.0] * 5, [500.0] * 5, margin=50.0).equivalent
    assert not comparisons.equivalence([500.0] * 5, [400.0] * 5, margin=50.0).equivalent


@pytest.mark.parametrize(("first", "margin", "message"), [([1.0, 2.0], 0.0, "margin=0.0"), ([1.0], 1.0, "found 1 and 2 runs")])
def test_equivalence_refuses_what_it_cannot_test(first: list[float], margin: float, message: str) -> None:
    """A margin of nothing, and a single run."""
    with pytest.raises(ValueError, match=message):
        comparisons.equivalence(first, [1.0, 2.0], margin=margin)


# -- curves --------------------------------------------------------------------------------------------------------------

STEPS = [10, 20, 30, 40]


def test_steps_to_threshold_is_the_first_time_or_the_first_lasting_time() -> None:
    """Reached at 20 by luck, and for two evaluations in a row at 30; never for three."""
    returns = [0.0, 5.0, 1.0, 6.0]
    assert curves.steps_to_threshold(STEPS, returns, 5.0) == 20
    assert curves.steps_to_threshold(STEPS, [0.0, 5.0, 1.0, 1.0], 5.0, lasting=2) is None
    assert curves.steps_to_threshold(STEPS, [5.0, 1.0, 5.0, 6.0], 5.0, lasting=2) == 30
    assert curves.steps_to_threshold(STEPS, returns, 7.0) is None


def test_coefficient_of_variation_by_hand() -> None:
    """1 and 3: mean 2, standard deviation √2 (n − 1), hence √2/2; the sign of the mean does not matter."""
    assert curves.coefficient_of_variation([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)
    assert curves.coefficient_of_variation([-1.0, -3.0]) == pytest.approx(math.sqrt(2) / 2)
    assert curves.coefficient_of_variation([0.0, 0.0]) == 0.0
    assert curves.coefficient_of_variation([-1.0, 1.0]) == math.inf


def test_early_improvement_counts_steps_upwards() -> None:
    """Of the first half (10, 20) one step, upwards; of all three steps two; a plateau is not worse."""
    returns = [0.0, 1.0, 0.0, 3.0]
    assert curves.early_improvement(STEPS, returns, share=0.5) == 1.0
    assert curves.early_improvement(STEPS, returns, share=1.0) == pytest.approx(2 / 3)
    assert curves.early_improvement(STEPS, [1.0] * 4, share=1.0) == 1.0


@given(arrays(np.float64, 4, elements=FINITE))
def test_forgetting_is_best_minus_final(returns: np.ndarray) -> None:
    """Never negative, and 0 where the last evaluation is the best."""
    assert curves.forgetting(STEPS, returns) == max(returns) - returns[-1] >= 0.0
    assert curves.forgetting(STEPS, np.sort(returns)) == 0.0


def test_same_bits_needs_all_to_agree() -> None:
    """One other fingerprint is enough; one alone says nothing."""
    assert curves.same_bits(["a", "a", "a"])
    assert not any(curves.same_bits(list(order)) for order in set(itertools.permutations(["a", "a", "b"])))
    with pytest.raises(ValueError, match="expected at least two runs"):
        curves.same_bits(["a"])


@pytest.mark.parametrize(("steps", "returns"), [([], []), ([1, 2], [1.0]), ([2, 1], [0.0, 0.0]), ([1, 1], [0.0, 0.0])])
def test_what_is_no_curve_is_refused(steps: list[int], returns: list[float]) -> None:
    """Empty, of unequal length, or going back in time."""
    with pytest.raises(ValueError, match="expected"):
        curves.forgetting(steps, returns)


def test_tiny_variances_are_no_division_by_zero() -> None:
    """Variances whose squares vanish in floating point have the degrees of freedom of the same samples on a larger scale."""
    samples = np.array([1.0, 2.0, 4.0]), np.array([0.0, 3.0, 1.0, 7.0])
    tiny = tuple(sample * 1e-120 for sample in samples)
    _, error, freedom = comparisons.welch_error(*samples)
    _, tiny_error, tiny_freedom = comparisons.welch_error(*tiny)
    assert tiny_freedom == pytest.approx(freedom)
    assert tiny_error == pytest.approx(error * 1e-120)
