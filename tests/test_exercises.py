"""Exercises: what is right is the package's own, right answers pass in any style, and mistakes can be told apart."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from sb3_contrib.common.recurrent.buffers import create_sequencers
from stable_baselines3.common.utils import explained_variance

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.mistakes import MISTAKES
from sb3_ppo_edu.course.exercises.observing import observe
from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate, monte_carlo_returns
from sb3_ppo_edu.functional.distributions import TanhGaussianDistribution
from sb3_ppo_edu.lab.statistics import aggregates, comparisons
from tests.right_answers import STYLES, Answer


def library_actor_critic(log_probs: th.Tensor, values: th.Tensor, returns: th.Tensor, vf_coef: float) -> th.Tensor:
    """PPO's own value loss, and the policy gradient that the surrogate has where the ratio is 1."""
    advantages = (returns - values.flatten()).detach()
    value = losses.average(losses.value_loss(values.flatten(), returns, returns))
    return -(log_probs * advantages).mean() + vf_coef * value


def library_squashed(raw: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """The distribution that ``action_distribution="tanh_gaussian"`` uses."""
    return TanhGaussianDistribution(mean.shape[-1]).proba_distribution(mean, log_std).log_prob(raw)


def library_gae(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float, lam: float) -> Any:
    """The package's, whose last values are an array."""
    return generalized_advantage_estimate(rewards, values, dones, np.asarray(next_value), gamma, lam)


def library_td(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float) -> Any:
    """λ = 0."""
    return library_gae(rewards, values, dones, next_value, gamma, 0.0)


def library_normalize(advantages: th.Tensor) -> th.Tensor:
    """The package's takes the flat batch."""
    return losses.normalize_advantages(advantages.flatten()).reshape(advantages.shape)


def by_autograd(function: Answer, at: Any, upstream: Any) -> Any:
    """Let torch differentiate."""
    point = th.tensor(at, dtype=th.float64, requires_grad=True)
    (function(point) * th.as_tensor(upstream)).sum().backward()
    assert point.grad is not None
    return point.grad.numpy()


def library_surrogate_gradient(ratio: Any, advantages: Any, clip_range: float) -> Any:
    """Differentiate the package's loss with respect to the logarithm of the ratio."""
    weights = th.as_tensor(advantages)
    each = 1.0 / len(ratio)  # of the mean
    return by_autograd(lambda x: losses.clipped_surrogate_loss(x.exp(), weights, clip_range), np.log(ratio), each)


def library_logits_gradient(logits: Any, actions: Any, upstream: Any) -> Any:
    """Differentiate torch's categorical distribution."""
    return by_autograd(lambda x: th.distributions.Categorical(logits=x).log_prob(th.as_tensor(actions)), logits, upstream)


def library_weight_gradient(inputs: Any, upstream: Any) -> Any:
    """Differentiate torch's linear layer at weights of 0."""
    at = np.zeros((upstream.shape[1], inputs.shape[1]))
    return by_autograd(lambda w: th.nn.functional.linear(th.as_tensor(inputs), w), at, upstream)


def library_masked(logits: th.Tensor, mask: th.Tensor) -> MaskableCategorical:
    """The distribution of sb3-contrib's MaskablePPO."""
    return MaskableCategorical(logits=logits, masks=mask)


def library_lengths(episode_starts: Any) -> Any:
    """Let sb3-contrib's RecurrentPPO cut a rollout of one environment whose numbers are all 1, and pad it with 0."""
    _, pad, _ = create_sequencers(episode_starts, np.zeros_like(episode_starts), th.device("cpu"))
    return pad(np.ones(len(episode_starts))).sum(1)


def library_rnn(inputs: th.Tensor, starts: th.Tensor, state: th.Tensor, w_in: th.Tensor, w_rec: th.Tensor) -> th.Tensor:
    """The recurrent layer of torch without biases, one step at a time so that the state can be emptied between two."""
    states = []
    for x, start in zip(inputs, starts, strict=True):
        state = th.rnn_tanh_cell(x, state.masked_fill(start.bool()[:, None], 0.0), w_in, w_rec)
        states.append(state)
    return th.stack(states)


LIBRARY: dict[str, Answer] = {
    "explained_variance": explained_variance,
    "interquartile_mean": lambda s: aggregates.interquartile_mean(s[:, None]),
    "probability_of_improvement": lambda a, b: comparisons.probability_of_improvement(a[:, None], b[:, None]),
    "surrogate_gradient": library_surrogate_gradient,
    "logits_gradient": library_logits_gradient,
    "tanh_gradient": lambda y, g: by_autograd(th.tanh, np.arctanh(np.minimum(y, 1 - 1e-15)), g),
    "weight_gradient": library_weight_gradient,
    "discounted_returns": lambda r, gamma: monte_carlo_returns(r, np.zeros_like(r), np.zeros(()), gamma),
    "actor_critic_loss": library_actor_critic,
    "td_errors": library_td,
    "compute_gae": library_gae,
    "normalize_advantages": library_normalize,
    "clipped_objective": lambda r, a, e: -losses.clipped_surrogate_loss(r, a, e),
    "compute_policy_loss": lambda new, old, a, e: losses.average(losses.clipped_surrogate_loss(th.exp(new - old), a, e)),
    "clipped_value_loss": lambda v, old, r, e: losses.average(losses.value_loss(v, r, old, e, mode="max")),
    "approx_kl": lambda new, old: losses.approx_kl(new - old),
    "clip_fraction": losses.clip_fraction,
    "categorical_entropy": lambda x: -losses.average(losses.entropy_loss(th.distributions.Categorical(logits=x).entropy(), x)),
    "compute_entropy_bonus": lambda s: th.distributions.Normal(0.0, s.exp()).entropy().sum(-1).mean(),
    "gaussian_log_prob": lambda a, m, s: th.distributions.Normal(m, s.exp()).log_prob(a).sum(-1),
    "squashed_log_prob": library_squashed,
    "recurrent_states": library_rnn,
    "sequence_lengths": library_lengths,
    "masked_log_prob": lambda x, m, a: library_masked(x, m).log_prob(a),
    "masked_entropy": lambda x, m: library_masked(x, m).entropy(),
}


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_what_is_right_is_the_packages_own(name: str) -> None:
    """Where floor 1 or torch has the function, it passes, on the visible inputs and on others."""
    for seed in (0, 1, 2):
        verdict = check(name, LIBRARY[name], seed)
        assert verdict.passed, str(verdict)


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_mistakes_can_be_told_apart(name: str) -> None:
    """On the visible inputs no two single mistakes of an exercise give the same numbers, and none gives the right ones."""
    exercise = EXERCISES[name]
    cases = exercise.cases()
    found = {"": observe(exercise.solution, cases)}
    found |= {mistake: observe(exercise.with_faults(mistake), cases) for mistake in exercise.mistakes}
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        assert any(
            a.error != b.error
            or a.shape != b.shape
            or not np.allclose(a.values, b.values, 1e-3, 1e-4, equal_nan=True)
            or any(not np.allclose(a.gradients[key], b.gradients[key], 1e-3, 1e-4, equal_nan=True) for key in a.gradients)
            for a, b in zip(first, second, strict=True)
        ), f"{one or 'right'} and {other} look the same"


def test_every_mistake_has_an_exercise_and_words() -> None:
    """The catalogue holds what the exercises know, each with a title and an idea that ends in a full stop or a bracket."""
    assert {name for exercise in EXERCISES.values() for name in exercise.mistakes} == set(MISTAKES)
    for mistake in MISTAKES.values():
        assert len(mistake.title) < 70
        assert re.search(r"[.)]$", mistake.idea), mistake.name


def test_every_exercise_has_three_styles() -> None:
    """Beside the solution that students will see, each exercise has three other right answers here."""
    styles = Counter([*LIBRARY, *(name for name, _ in STYLES)])
    assert {name: styles[name] for name in EXERCISES if styles[name] < 3} == {}


@pytest.mark.parametrize("index", range(len(STYLES)))
def test_right_answers_pass_in_any_style(index: int) -> None:
    """Loops, matrices, numpy, einsum, lists, other names: what is right is right, on other inputs too."""
    name, answer = STYLES[index]
    for seed in (0, 11):
        verdict = check(name, answer, seed)
        assert verdict.passed, str(verdict)
        assert verdict.share == 1.0
