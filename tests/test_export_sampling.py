"""Actions made of given noise have the distribution that they are drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import stats  # type: ignore[import-untyped]
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)

from sb3_ppo_edu.export.sampling import noise_size, sample
from sb3_ppo_edu.functional.distributions import BetaDistribution

N = 40_000


def noise_for(distribution: Any, n: int = N) -> th.Tensor:
    """Draw noise from a generator of its own."""
    size = noise_size(distribution)
    assert size is not None
    return th.randn((n, size), generator=th.Generator().manual_seed(0))


def rows(values: list[float], n: int = N) -> th.Tensor:
    """Repeat parameters."""
    return th.tensor(values).expand(n, -1)


def test_category_is_drawn_with_its_probability() -> None:
    """Over 40,000 draws each category is as frequent as softmax says, and one that is impossible never comes."""
    logits = [0.5, -1.0, 1.5, -1e8, 0.0]
    distribution = CategoricalDistribution(5).proba_distribution(rows(logits))
    counts = np.bincount(sample(distribution, noise_for(distribution), None).flatten().numpy(), minlength=5)
    weights = np.exp([0.5, -1.0, 1.5, 0.0])
    expected = N * weights / (np.exp([0.5, -1.0, 1.5]).sum() + 1.0)
    assert counts[3] == 0
    assert stats.chisquare(counts[[0, 1, 2, 4]], expected).pvalue > 0.01


def test_choices_are_independent() -> None:
    """The parts of a MultiDiscrete action, and of a MultiBinary one, have their own probabilities and no correlation."""
    pair = MultiCategoricalDistribution([2, 3]).proba_distribution(rows([0.0, 1.0, 0.0, 0.0, 2.0]))
    found = sample(pair, noise_for(pair), None)
    assert found.shape == (N, 2)
    assert abs(found[:, 0].float().mean().item() - 1 / (1 + np.exp(-1.0))) < 0.01
    assert abs((found[:, 1] == 2).float().mean().item() - np.exp(2) / (2 + np.exp(2))) < 0.01
    bits = BernoulliDistribution(2).proba_distribution(rows([-1.0, 2.0]))
    drawn = sample(bits, noise_for(bits), None)
    assert drawn.dtype == th.float32
    np.testing.assert_allclose(drawn.mean(0).numpy(), 1 / (1 + np.exp([1.0, -2.0])), atol=0.01)
    for both in (found.float(), drawn):
        assert abs(np.corrcoef(both.numpy().T)[0, 1]) < 0.02


@pytest.mark.parametrize("outputs", [(-20.0, -20.0), (0.5, 2.0), (30.0, 4.0)])
def test_beta_is_drawn_from_its_distribution(outputs: tuple[float, float]) -> None:
    """Of the drawn raw actions u, x = σ(u) follows Beta(α, β) by the Kolmogorov-Smirnov test, from uniform to narrow."""
    distribution = BetaDistribution(1).proba_distribution(rows([*outputs]))
    drawn = th.sigmoid(sample(distribution, noise_for(distribution), None).double()).flatten().numpy()
    alpha, beta = 1.0 + np.logaddexp(0.0, outputs)
    assert stats.kstest(drawn, stats.beta(alpha, beta).cdf).pvalue > 0.01


def test_gaussian_takes_the_noise_as_it_is() -> None:
    """A Gaussian's action is mean + std · noise."""
    distribution = DiagGaussianDistribution(2).proba_distribution(rows([1.0, -2.0], 3), th.tensor([0.0, np.log(2.0)]).float())
    noise = th.tensor([[0.0, 1.0], [2.0, -1.0], [-1.0, 0.5]])
    np.testing.assert_allclose(sample(distribution, noise, None), [[1.0, 0.0], [3.0, -4.0], [0.0, -1.0]], rtol=1e-6)


def test_gsde_takes_the_noise_as_its_exploration_matrix() -> None:
    """With the matrix std · noise SB3's own ``sample`` gives the same action."""
    distribution = StateDependentNoiseDistribution(2, squash_output=True)
    _, log_std = distribution.proba_distribution_net(3)
    latent = th.randn((1, 3), generator=th.Generator().manual_seed(1))
    distribution = distribution.proba_distribution(th.tensor([[0.3, -0.2]]), log_std, latent)
    noise = noise_for(distribution, 1)
    distribution.exploration_mat = distribution.get_std(log_std) * noise.reshape(3, 2)
    th.testing.assert_close(sample(distribution, noise, log_std), distribution.sample())


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_zeros_give_the_likeliest(space: Any) -> None:
    """Noise of zeros gives a discrete distribution's mode."""
    logits = th.randn((100, 5 if isinstance(space, spaces.MultiDiscrete) else 4 if isinstance(space, spaces.Discrete) else 3))
    made: dict[type, Any] = {
        spaces.Discrete: lambda: CategoricalDistribution(4),
        spaces.MultiDiscrete: lambda: MultiCategoricalDistribution([2, 3]),
        spaces.MultiBinary: lambda: BernoulliDistribution(3),
    }
    distribution = made[type(space)]().proba_distribution(logits)
    mode = distribution.mode()
    size = noise_size(distribution)
    assert size is not None
    assert th.equal(sample(distribution, th.zeros(100, size), None).reshape(mode.shape), mode)


def test_unknown_distribution_has_no_size() -> None:
    """Of a distribution of one's own nothing is known."""

    class Own(DiagGaussianDistribution):
        """A Gaussian that may be anything."""

    distribution: Distribution = Own(2)
    assert noise_size(distribution) is None
