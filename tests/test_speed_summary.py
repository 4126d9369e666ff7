"""The speed laboratory's numbers: medians with their intervals, and ratios worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from sb3_ppo_edu.lab.speed import summary as numbers
from sb3_ppo_edu.lab.speed.rows import Tables
from sb3_ppo_edu.lab.statistics.aggregates import Interval, bootstrap
from tests.speed_rows import split
from tests.speed_rows import tables as tables


@pytest.mark.parametrize("n", [9, 15, 25])
def test_interval_has_the_exact_order_statistics(n: int) -> None:
    """
    For an odd n the bootstrap median is the k-th smallest value or less if at least (n + 1) / 2 of n draws are among the k.

    That is a binomial probability, so the percentiles are known without resampling.
    """
    values = np.random.default_rng(3).permutation(np.arange(n) ** 2.0)
    at_most = stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    low, high = (np.sort(values)[np.searchsorted(at_most, tail)] for tail in (0.025, 0.975))
    assert numbers.estimate(values.tolist()) == (np.median(values), low, high)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_interval_of_few_values_is_their_range(n: int) -> None:
    """Up to five values, more than 2.5% of the bootstrap medians are the smallest value, and as many the largest."""
    values = [3.0, 1.0, 7.0, 5.0, 11.0][:n]
    assert numbers.estimate(values) == (np.median(values), min(values), max(values))


def test_interval_uses_its_seed() -> None:
    """The same seed gives the same interval; with few resamples another seed gives another one."""
    values = np.random.default_rng(0).standard_normal(40).tolist()
    one, same, other = (bootstrap(values, numbers.median, resamples=20, seed=seed) for seed in (0, 0, 1))
    assert one == same != other


def test_interval_of_nothing_is_refused() -> None:
    """Without values there is no interval."""
    with pytest.raises(ValueError, match=r"scores: found shape \(0, 1\)"):
        bootstrap([], numbers.median)


def test_ratios_are_paired(tables: Tables) -> None:
    """SB3's seconds over the other's of the same repetition, worked by hand; twice the seconds make the same ratio."""
    assert numbers.speedups(tables.end_to_end, "cartpole-zoo", "fused") == [4.0, 2.0, 3.0]
    assert numbers.speedups(tables.end_to_end, "cartpole-zoo", "fused", "cpu_seconds") == [4.0, 2.0, 3.0]
    assert numbers.speedups(tables.end_to_end[1:], "cartpole-zoo", "fused") == [2.0, 3.0]
    assert numbers.speedups(tables.end_to_end, "pendulum-zoo", "autograd") == [1.5]
    assert numbers.speedups(tables.end_to_end, "pendulum-zoo", "fused") == []
    assert numbers.estimate([4.0, 2.0, 3.0]) == Interval(3.0, 2.0, 4.0)
    assert numbers.estimate([]) is None


def test_floor_is_the_sum_of_its_parts(tables: Tables) -> None:
    """
    (0.8 + 0.2 + 0.6) / 3.2 = 0.5 of the training without stopwatches; a repetition without a floor has no share.

    Where there was none without, of its parts: 1 + 0.5 + 0.25 + 2 + 0.25 = 4.
    """
    assert numbers.shares_of_floor(tables.split, "cartpole-zoo") == [pytest.approx(0.5)]
    more = [*tables.split, *split("cartpole-zoo", "fused", 1, environment=1.0)]
    assert numbers.shares_of_floor(more, "cartpole-zoo") == [pytest.approx(0.5)]
    parts = [row for row in tables.split if row.part != numbers.WITHOUT_STOPWATCHES]
    assert numbers.shares_of_floor(parts, "cartpole-zoo") == [pytest.approx(0.4)]
    assert numbers.floor_seconds(tables.split, "cartpole-zoo") == pytest.approx(1.6)
    assert numbers.floor_seconds(tables.split, "pendulum-zoo") is None


def test_parts_are_medians(tables: Tables) -> None:
    """A part's seconds are the median over the repetitions."""
    more = [row for index, seconds in ((1, 9.0), (2, 3.0)) for row in split("cartpole-zoo", "sb3", index, environment=seconds)]
    more += tables.split
    assert numbers.parts_of(more, "cartpole-zoo", "sb3")["environment"] == 3.0


def test_grid_ratios(tables: Tables) -> None:
    """2000 over 250 at every point but the one made slower than SB3."""
    found = numbers.grid_speedups(tables.grid, "update", "fused")
    assert found == {(64, 2, 64): 8.0, (64, 2, 1024): 8.0, (256, 2, 64): 8.0, (256, 2, 1024): pytest.approx(0.8)}
