"""Advantages and returns, against numbers worked by hand, SB3's rollout buffer, and each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate, monte_carlo_returns, n_step_returns

Floats = NDArray[np.floating[Any]]


def array(*numbers: float) -> Floats:
    """A vector in float64."""
    return np.array(numbers, dtype=np.float64)


ZERO = np.array(0.0)


@dataclass
class Rollout:
    """A rollout of several environments whose episodes end anywhere."""

    rewards: Floats
    values: Floats
    dones: NDArray[np.bool_]
    last_values: Floats

    def arrays(self) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
        """The arguments in the functions' order."""
        return self.rewards, self.values, self.dones, self.last_values


@st.composite
def rollouts(draw: st.DrawFn, dtype: type[np.floating[Any]] = np.float64) -> Rollout:
    """Random rollouts of 1 to 12 steps and 1 to 3 environments, from no end to an end at every step."""
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 3)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Rollout(
        rewards=generator.normal(scale=3.0, size=shape).astype(dtype),
        values=generator.normal(scale=5.0, size=shape).astype(dtype),
        dones=generator.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])),
        last_values=generator.normal(scale=5.0, size=shape[1]).astype(dtype),
    )


FACTORS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


# -- by hand -------------------------------------------------------------------------------------------------------------


def test_the_lectures_toy_example() -> None:
    """
    Three steps with γ = λ = 0.9, rewards 1, values 0.5, and V(s₃) = 0.

    δ = (1 + 0.45 - 0.5, 1 + 0.45 - 0.5, 1 + 0 - 0.5) = (0.95, 0.95, 0.5), and with γλ = 0.81 backwards
    Â₂ = 0.5, Â₁ = 0.95 + 0.81·0.5 = 1.355, Â₀ = 0.95 + 0.81·1.355 = 2.04755.
    """
    rewards, values = array(1, 1, 1), array(0.5, 0.5, 0.5)
    deltas = generalized_advantage_estimate(rewards, values, np.zeros(3), ZERO, gamma=0.9, gae_lambda=0.0)
    advantages = generalized_advantage_estimate(rewards, values, np.zeros(3), ZERO, gamma=0.9, gae_lambda=0.9)
    np.testing.assert_allclose(deltas, [0.95, 0.95, 0.5], rtol=1e-12)
    np.testing.assert_allclose(advantages, [2.04755, 1.355, 0.5], rtol=1e-12)


def test_an_ended_episode_does_not_ask_for_the_next_value() -> None:
    """The toy example with its end marked by ``dones`` gives the same numbers, whatever the value after it."""
    rewards, values, dones = array(1, 1, 1), array(0.5, 0.5, 0.5), np.array([False, False, True])
    advantages = generalized_advantage_estimate(rewards, values, dones, np.array(123.0), gamma=0.9, gae_lambda=0.9)
    np.testing.assert_allclose(advantages, [2.04755, 1.355, 0.5], rtol=1e-12)


def test_the_lectures_off_by_one_mask_is_another_number() -> None:
    """
    An episode ends with step 1 of three: γ = λ = 0.9, rewards 1, values 0.5, V(s₃) = 2.

    With the mask 1 - d_t: Â₂ = 1 + 1.8 - 0.5 = 2.3; Â₁ = 1 - 0.5 = 0.5, nothing of the next episode;
    Â₀ = 0.95 + 0.81·0.5 = 1.355.
    The lecture's listing masks with dones[t + 1] (and dones[t] at the last step): Â₁ = 0.95 + 0.81·2.3 = 2.813 takes in the
    next episode, and Â₀ = 1 - 0.5 = 0.5 is cut a step early.
    """
    rewards, values, last_value = array(1, 1, 1), array(0.5, 0.5, 0.5), np.array(2.0)
    dones = np.array([0.0, 1.0, 0.0])
    ours = generalized_advantage_estimate(rewards, values, dones, last_value, gamma=0.9, gae_lambda=0.9)
    np.testing.assert_allclose(ours, [1.355, 0.5, 2.3], rtol=1e-12)
    lecture = generalized_advantage_estimate(rewards, values, dones[[1, 2, 2]], last_value, gamma=0.9, gae_lambda=0.9)
    np.testing.assert_allclose(lecture, [0.5, 2.813, 2.3], rtol=1e-12)


def test_monte_carlo_returns_by_hand() -> None:
    """
    Rewards (1, 2, 3, 4) with γ = 0.5, an end after step 1, and 8 to bootstrap from.

    G₃ = 4 + 0.5·8 = 8, G₂ = 3 + 0.5·8 = 7, G₁ = 2, G₀ = 1 + 0.5·2 = 2.
    """
    dones = np.array([False, True, False, False])
    returns = monte_carlo_returns(array(1, 2, 3, 4), dones, np.array(8.0), gamma=0.5)
    np.testing.assert_allclose(returns, [2.0, 2.0, 7.0, 8.0], rtol=1e-12)


def test_n_step_returns_by_hand() -> None:
    """
    Rewards (1, 2, 3, 4), values (10, 20, 30, 40), V(s₄) = 50, γ = 0.5, an end after step 2.

    n = 1: 1 + 10 = 11, 2 + 15 = 17, 3, 4 + 25 = 29. n = 2: 1 + 1 + 30/4 = 9.5, 2 + 1.5 = 3.5, 3, and 29, as the rollout ends
    there. n = 3: 1 + 1 + 3/4 = 2.75, 3.5, 3, 29.
    """
    arguments = (array(1, 2, 3, 4), array(10, 20, 30, 40), np.array([0, 0, 1, 0]), np.array(50.0))
    np.testing.assert_allclose(n_step_returns(*arguments, n=1, gamma=0.5), [11.0, 17.0, 3.0, 29.0], rtol=1e-12)
    np.testing.assert_allclose(n_step_returns(*arguments, n=2, gamma=0.5), [9.5, 3.5, 3.0, 29.0], rtol=1e-12)
    np.testing.assert_allclose(n_step_returns(*arguments, n=3, gamma=0.5), [2.75, 3.5, 3.0, 29.0], rtol=1e-12)


def test_default_discounts_are_sb3s() -> None:
    """γ = 0.99 and λ = 0.95: two steps of reward 1, values 0: Â₁ = 1, Â₀ = 1 + 0.99·0.95 = 1.9405."""
    advantages = generalized_advantage_estimate(array(1, 1), array(0, 0), np.zeros(2), ZERO)
    np.testing.assert_allclose(advantages, [1.9405, 1.0], rtol=1e-12)
    np.testing.assert_allclose(monte_carlo_returns(array(1, 1), np.zeros(2), ZERO), [1.99, 1.0], rtol=1e-12)
    np.testing.assert_allclose(n_step_returns(array(1, 1), array(0, 0), np.zeros(2), ZERO, n=2), [1.99, 1.0], rtol=1e-12)


# -- laws ----------------------------------------------------------------------------------------------------------------


@given(rollouts(np.float32), FACTORS, FACTORS)
def test_same_bits_as_sb3s_rollout_buffer(rollout: Rollout, gamma: float, gae_lambda: float) -> None:
    """Advantages and TD(λ) targets are those of SB3's buffer to the bit, which keeps dones a step later."""
    n_steps, n_envs = rollout.rewards.shape
    space = spaces.Box(-1.0, 1.0, (1,))
    buffer = RolloutBuffer(n_steps, space, space, "cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=n_envs)
    buffer.rewards[:], buffer.values[:] = rollout.rewards, rollout.values
    buffer.episode_starts[1:] = rollout.dones[:-1]
    buffer.compute_returns_and_advantage(th.as_tensor(rollout.last_values), rollout.dones[-1])
    advantages = generalized_advantage_estimate(*rollout.arrays(), gamma=gamma, gae_lambda=gae_lambda)
    assert advantages.dtype == np.float32
    np.testing.assert_array_equal(advantages, buffer.advantages)
    np.testing.assert_array_equal(advantages + rollout.values, buffer.returns)


@given(rollouts(), FACTORS)
def test_lambda_0_is_the_td_error(rollout: Rollout, gamma: float) -> None:
    """λ = 0: δ_t = r_t + γ V(s_{t+1}) - V(s_t), without V(s_{t+1}) where the episode ended."""
    rewards, values, dones, last_values = rollout.arrays()
    next_values = np.where(dones, 0.0, np.vstack([values[1:], last_values[None]]))
    found = generalized_advantage_estimate(*rollout.arrays(), gamma=gamma, gae_lambda=0.0)
    np.testing.assert_allclose(found, rewards + gamma * next_values - values, rtol=1e-9, atol=1e-9)


@given(rollouts(), FACTORS)
def test_lambda_1_is_the_return_minus_the_value(rollout: Rollout, gamma: float) -> None:
    """λ = 1: the discounted sum of the episode's rewards, bootstrapped at the rollout's end, minus V(s_t)."""
    rewards, values, dones, last_values = rollout.arrays()
    expected = np.zeros_like(rewards)
    for env in range(rewards.shape[1]):
        for t in range(len(rewards)):
            ends = [k for k in range(t, len(rewards)) if dones[k, env]]
            last = ends[0] if ends else len(rewards) - 1
            total = sum(gamma ** (k - t) * rewards[k, env] for k in range(t, last + 1))
            expected[t, env] = total + (0.0 if ends else gamma ** (last + 1 - t) * last_values[env])
    np.testing.assert_allclose(monte_carlo_returns(rewards, dones, last_values, gamma), expected, rtol=1e-9, atol=1e-9)
    found = generalized_advantage_estimate(*rollout.arrays(), gamma=gamma, gae_lambda=1.0)
    np.testing.assert_allclose(found, expected - values, rtol=1e-9, atol=1e-9)


@given(rollouts(), FACTORS, FACTORS)
def test_gae_is_the_weighted_mean_of_n_step_advantages(rollout: Rollout, gamma: float, gae_lambda: float) -> None:
    """Σ_n (1-λ) λ^(n-1) (G⁽ⁿ⁾ - V), where all n from the rollout's length N on share the rest of the weight, λ^(N-1)."""
    length = len(rollout.rewards)
    weights = [(1 - gae_lambda) * gae_lambda ** (n - 1) for n in range(1, length)] + [gae_lambda ** (length - 1)]
    assert sum(weights) == pytest.approx(1.0)
    returns = [n_step_returns(*rollout.arrays(), n=n, gamma=gamma) for n in range(1, length + 1)]
    mixture = sum(weight * n_step for weight, n_step in zip(weights, returns, strict=True)) - rollout.values
    found = generalized_advantage_estimate(*rollout.arrays(), gamma=gamma, gae_lambda=gae_lambda)
    np.testing.assert_allclose(found, mixture, rtol=1e-9, atol=1e-9)


@given(rollouts(), FACTORS)
def test_n_step_limits(rollout: Rollout, gamma: float) -> None:
    """One step is the TD target, and as many steps as the rollout has (or more) the Monte Carlo return."""
    td_errors = generalized_advantage_estimate(*rollout.arrays(), gamma=gamma, gae_lambda=0.0)
    np.testing.assert_allclose(
        n_step_returns(*rollout.arrays(), n=1, gamma=gamma), td_errors + rollout.values, rtol=1e-9, atol=1e-9
    )
    monte_carlo = monte_carlo_returns(rollout.rewards, rollout.dones, rollout.last_values, gamma)
    for n in (len(rollout.rewards), len(rollout.rewards) + 5):
        np.testing.assert_allclose(n_step_returns(*rollout.arrays(), n=n, gamma=gamma), monte_carlo, rtol=1e-9, atol=1e-9)


@given(rollouts(), FACTORS, st.integers(0, 11))
def test_nothing_leaks_over_an_episodes_end(rollout: Rollout, gae_lambda: float, end: int) -> None:
    """What comes after a done, rewards, values and the bootstrap, changes nothing up to it."""
    end = min(end, len(rollout.rewards) - 1)
    rollout.dones[end] = True
    other = Rollout(rollout.rewards.copy(), rollout.values.copy(), rollout.dones, rollout.last_values + 7.0)
    other.rewards[end + 1 :] += 100.0
    other.values[end + 1 :] -= 50.0
    for one, two in (
        [generalized_advantage_estimate(*r.arrays(), gae_lambda=gae_lambda) for r in (rollout, other)],
        [n_step_returns(*r.arrays(), n=3) for r in (rollout, other)],
        [monte_carlo_returns(r.rewards, r.dones, r.last_values) for r in (rollout, other)],
    ):
        np.testing.assert_array_equal(one[: end + 1], two[: end + 1])


@given(rollouts(), FACTORS)
def test_environments_do_not_mix(rollout: Rollout, gae_lambda: float) -> None:
    """Each column is what it would be alone, also as a vector without a second axis."""
    together = generalized_advantage_estimate(*rollout.arrays(), gae_lambda=gae_lambda)
    for env in range(rollout.rewards.shape[1]):
        alone = generalized_advantage_estimate(
            rollout.rewards[:, env],
            rollout.values[:, env],
            rollout.dones[:, env],
            rollout.last_values[env],
            gae_lambda=gae_lambda,
        )
        np.testing.assert_array_equal(together[:, env], alone)


@given(rollouts())
def test_arguments_are_left_alone(rollout: Rollout) -> None:
    """No argument is changed in place."""
    before = [argument.copy() for argument in rollout.arrays()]
    generalized_advantage_estimate(*rollout.arrays())
    n_step_returns(*rollout.arrays(), n=2)
    monte_carlo_returns(rollout.rewards, rollout.dones, rollout.last_values)
    for argument, copy in zip(rollout.arrays(), before, strict=True):
        np.testing.assert_array_equal(argument, copy)


# -- errors --------------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "rewards": np.ones((4, 2)),
    "values": np.ones((4, 2)),
    "dones": np.zeros((4, 2)),
    "last_values": np.ones(2),
}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("rewards", np.ones((3, 2)), "rewards (3, 2)"),
        ("rewards", np.ones(()), "rewards ()"),
        ("values", np.ones((5, 2)), "values (5, 2)"),
        ("dones", np.zeros(4), "dones (4,)"),
        ("last_values", np.ones((2, 1)), "last_values (2, 1)"),
        ("last_values", np.ones(()), "last_values ()"),
    ],
)
def test_shapes_that_do_not_belong_together(name: str, value: Any, found: str) -> None:
    """Shapes that numpy would broadcast, or that are simply wrong, are named with what was expected."""
    arguments = GOOD | {name: value}
    calls: list[Callable[[], Floats]] = [
        lambda: generalized_advantage_estimate(**arguments),
        lambda: n_step_returns(**arguments, n=2),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="expected") as error:
            call()
        assert found in str(error.value)
        assert "(n_steps, n_envs)" in str(error.value)


def test_an_empty_rollout_is_refused() -> None:
    """No steps, no advantages: n_steps ≥ 1."""
    empty = np.zeros((0, 2))
    with pytest.raises(ValueError, match="n_steps ≥ 1"):
        generalized_advantage_estimate(empty, empty, empty, np.zeros(2))


@pytest.mark.parametrize("n", [0, -1])
def test_n_below_1_is_refused(n: int) -> None:
    """A return sums at least one reward."""
    with pytest.raises(ValueError, match=rf"n={n}: expected an integer ≥ 1"):
        n_step_returns(**GOOD, n=n)


def test_whole_number_rewards_are_refused() -> None:
    """Integer rewards would cut the fractions off, (2.04755, 1.355, 0.5) to (2, 1, 0): the error names type and remedy."""
    rewards: Any = np.array([1, 1, 1], dtype=np.int64)
    calls: tuple[Callable[[], Floats], ...] = (
        lambda: generalized_advantage_estimate(rewards, np.full(3, 0.5), np.zeros(3), ZERO),
        lambda: n_step_returns(rewards, np.full(3, 0.5), np.zeros(3), ZERO, n=1),
        lambda: monte_carlo_returns(rewards, np.zeros(3), ZERO),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"rewards of type int64: expected .*float.*astype"):
            call()


@pytest.mark.parametrize("estimate", [generalized_advantage_estimate, monte_carlo_returns, n_step_returns])
def test_discounts_are_sb3s_unless_they_are_given(estimate: Callable[..., Any]) -> None:
    """γ and λ have the defaults of SB3's PPO wherever they have any."""
    theirs = inspect.signature(PPO).parameters
    ours = {name: one for name, one in inspect.signature(estimate).parameters.items() if name in ("gamma", "gae_lambda")}
    assert "gamma" in ours
    for name, parameter in ours.items():
        assert parameter.default == theirs[name].default, name
