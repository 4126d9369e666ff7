"""Exercises that answer back: right answers pass in any style, wrong ones are told what they miss.

The wrong answers here are written the way students write them, and not with the code that the checks are made from.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from IPython.core.formatters import DisplayFormatter
from scipy import signal, special, stats  # type: ignore[import-untyped]
from stable_baselines3.common.utils import explained_variance

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.judging import judge
from sb3_ppo_edu.course.exercises.mistakes import MISTAKES
from sb3_ppo_edu.course.exercises.observing import Observation, case_from_json, case_to_json, observe
from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate, monte_carlo_returns
from sb3_ppo_edu.functional.distributions import TanhGaussianDistribution
from sb3_ppo_edu.lab.statistics import aggregates, comparisons

Answer = Callable[..., Any]

# --------------------------------------------------------------------------------------------------------------------------
# What is right is the package's own
# --------------------------------------------------------------------------------------------------------------------------


def library_actor_critic(log_probs: th.Tensor, values: th.Tensor, returns: th.Tensor, vf_coef: float) -> th.Tensor:
    """PPO's own value loss, and the policy gradient that the surrogate has where the ratio is 1."""
    advantages = (returns - values.flatten()).detach()
    value = losses.average(losses.value_loss(values.flatten(), returns, returns))
    return -(log_probs * advantages).mean() + vf_coef * value


def library_squashed(raw: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """The distribution that ``action_distribution="tanh_gaussian"`` uses."""
    return TanhGaussianDistribution(mean.shape[-1]).proba_distribution(mean, log_std).log_prob(raw)


def library_gae(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float, lam: float) -> Any:
    """Floor 1's, whose last values are an array."""
    return generalized_advantage_estimate(rewards, values, dones, np.asarray(next_value), gamma, lam)


def library_td(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float) -> Any:
    """λ = 0."""
    return library_gae(rewards, values, dones, next_value, gamma, 0.0)


def library_normalize(advantages: th.Tensor) -> th.Tensor:
    """Floor 1's takes the flat batch."""
    return losses.normalize_advantages(advantages.flatten()).reshape(advantages.shape)


def by_autograd(function: Answer, at: Any, upstream: Any) -> Any:
    """Let torch differentiate."""
    point = th.tensor(at, dtype=th.float64, requires_grad=True)
    (function(point) * th.as_tensor(upstream)).sum().backward()
    assert point.grad is not None
    return point.grad.numpy()


def library_surrogate_gradient(ratio: Any, advantages: Any, clip_range: float) -> Any:
    """Differentiate floor 1's loss with respect to the logarithm of the ratio."""
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


# --------------------------------------------------------------------------------------------------------------------------
# Right answers in other styles
# --------------------------------------------------------------------------------------------------------------------------


def gae_forward_sum(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float = 0.99, lam: float = 0.95) -> Any:
    """The definition: a sum over the future, cut where an episode ends. A list of numbers is returned."""
    n = len(rewards)
    following = [*list(values[1:]), next_value]
    delta = [rewards[t] + gamma * following[t] * (1 - dones[t]) - values[t] for t in range(n)]
    advantages = []
    for t in range(n):
        total, weight = 0.0, 1.0
        for k in range(t, n):
            total = total + weight * delta[k]
            weight = weight * gamma * lam * (1 - dones[k])
        advantages.append(total)
    return advantages


def gae_matrix(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float, lam: float) -> Any:
    """Solve (I − γλ·shift·mask) Â = δ, one environment after the other, in torch and float64."""
    shape = rewards.shape
    r, v, d = (th.as_tensor(x, dtype=th.float64).reshape(len(rewards), -1) for x in (rewards, values, dones))
    last = th.as_tensor(next_value, dtype=th.float64).reshape(1, -1)
    delta = r + gamma * th.cat([v[1:], last]) * (1 - d) - v
    columns = []
    for j in range(r.shape[1]):
        system = th.eye(len(r), dtype=th.float64)
        for t in range(len(r) - 1):
            system[t, t + 1] = -gamma * lam * (1 - d[t, j])
        columns.append(th.linalg.solve(system, delta[:, j]))
    return th.stack(columns, dim=1).reshape(shape)


def gae_lecture_mended(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float, lam: float) -> Any:
    """The lecture's listing with the mask of the step itself."""
    advantages: list[Any] = []
    gae: Any = 0
    for t in reversed(range(len(rewards))):
        next_value_t = next_value if t == len(rewards) - 1 else values[t + 1]
        next_non_terminal = 1.0 - dones[t]
        delta = rewards[t] + gamma * next_value_t * next_non_terminal - values[t]
        gae = delta + gamma * lam * next_non_terminal * gae
        advantages.insert(0, gae)
    return advantages


def policy_loss_by_cases(log_probs: Any, old_log_probs: Any, advantages: Any, clip_epsilon: float = 0.2) -> Any:
    """The lecture's case analysis, one transition at a time."""
    total = th.zeros(())
    for i in range(len(advantages)):
        r = th.exp(log_probs[i] - old_log_probs[i])
        good = advantages[i] > 0
        if (good and r > 1 + clip_epsilon) or (not good and r < 1 - clip_epsilon):
            r = th.tensor(1 + clip_epsilon if good else 1 - clip_epsilon)
        total = total - r * advantages[i]
    return total / len(advantages)


def policy_loss_relu(log_probs: Any, old_log_probs: Any, advantages: Any, clip_epsilon: float = 0.2) -> Any:
    """min(a, b) = a − relu(a − b), and einsum for the mean."""
    r = (log_probs - old_log_probs).exp()
    a, b = r * advantages, r.clip(1 - clip_epsilon, 1 + clip_epsilon) * advantages
    return th.einsum("i->", -(a - th.relu(a - b))) / a.numel()


def policy_loss_spinning_up(logp: Any, logp_old: Any, adv: Any, clip_ratio: float = 0.2) -> Any:
    """With the bound g(ε, A), as in Spinning Up's derivation, and other names for the arguments."""
    bound = th.where(adv >= 0, (1 + clip_ratio) * adv, (1 - clip_ratio) * adv)
    return th.minimum(th.exp(logp - logp_old) * adv, bound).mean().neg()


def normalize_numpy(advantages: Any) -> Any:
    """In numpy, with its own way to say n − 1."""
    a = advantages.numpy().astype(np.float64)
    return a if a.size < 2 else (a - a.mean()) / (np.std(a, ddof=1) + 1e-8)


def normalize_loop(advantages: Any) -> Any:
    """By hand."""
    flat = advantages.flatten().tolist()
    if len(flat) == 1:
        return advantages
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / (len(flat) - 1))
    return th.tensor([(x - mean) / (std + 1e-8) for x in flat]).view_as(advantages)


def normalize_guarded(advantages: Any) -> Any:
    """With a guard in place of the epsilon."""
    if advantages.numel() == 1:
        return advantages.clone()
    centred = advantages - advantages.mean()
    std = advantages.std()
    return centred / std if std > 1e-6 else centred


def entropy_numpy_constant(log_std: Any) -> Any:
    """½·log(2πe·σ²) as the activity writes it."""
    return (0.5 * th.log(2 * math.pi * math.e * th.exp(log_std) ** 2)).sum(-1).mean()


def entropy_loop(log_std: Any) -> Any:
    """State by state and dimension by dimension."""
    rows = log_std if log_std.dim() == 2 else log_std[None]
    total = 0
    for row in rows:
        for x in row:
            total = total + x + 0.5 + 0.5 * math.log(2 * math.pi)
    return total / len(rows)


def entropy_distribution(log_std: Any) -> Any:
    """Ask torch."""
    normal = th.distributions.MultivariateNormal(th.zeros_like(log_std), th.diag_embed(th.exp(2 * log_std)))
    return normal.entropy().mean()


def logits_gradient_loop(logits: Any, actions: Any, upstream: Any) -> Any:
    """Entry by entry, with the probability of each action."""
    gradient = np.zeros_like(logits)
    for t, action in enumerate(actions):
        for b in range(logits.shape[1]):
            probability = 1 / np.exp(logits[t] - logits[t, b]).sum()
            gradient[t, b] = upstream[t] * ((b == action) - probability)
    return gradient


def advice_from_sorted(approx_kl: Any, clip_fraction: Any) -> int:
    """Medians by sorting lists: the middle one, since the number of updates is odd."""
    middle = len(approx_kl) // 2
    kl, clipped = sorted(approx_kl)[middle], sorted(clip_fraction.tolist())[middle]
    if kl > 0.05:
        return -1
    if kl < 0.003:
        return 0 if clipped >= 0.05 else 1
    return 0


def advice_by_votes(approx_kl: Any, clip_fraction: Any) -> float:
    """More than half of the updates say it."""
    far, near, free = (np.mean(x) > 0.5 for x in (approx_kl > 0.05, approx_kl < 0.003, clip_fraction < 0.05))
    return float(near and free) - float(far)


def first_difference_by_bytes(first: Any, second: Any) -> int:
    """Row by row, as bytes; there is one NaN only."""
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        if one.tobytes() != other.tobytes():
            return number
    return -1


def first_difference_argmax(first: Any, second: Any) -> Any:
    """With argmax, and a row after the last that always differs."""
    differs = [not np.array_equal(one, other, equal_nan=True) for one, other in zip(first, second, strict=True)]
    row = np.argmax([*differs, True])
    return -1 if row == len(differs) else row


def score_loop(decisions: Any, scores: Any, budget: int, action_repeat: int = 1) -> Any:
    """Go on until the budget is overdrawn."""
    reached = None
    for made, score in zip(decisions, scores, strict=True):
        if made * action_repeat > budget:
            break
        reached = score
    return reached


STYLES: list[tuple[str, Answer]] = [
    ("compute_gae", gae_forward_sum),
    ("compute_gae", gae_matrix),
    ("compute_gae", gae_lecture_mended),
    ("compute_policy_loss", policy_loss_by_cases),
    ("compute_policy_loss", policy_loss_relu),
    ("compute_policy_loss", policy_loss_spinning_up),
    ("normalize_advantages", normalize_numpy),
    ("normalize_advantages", normalize_loop),
    ("normalize_advantages", normalize_guarded),
    ("compute_entropy_bonus", entropy_numpy_constant),
    ("compute_entropy_bonus", entropy_loop),
    ("compute_entropy_bonus", entropy_distribution),
    ("categorical_entropy", lambda x: th.distributions.Categorical(logits=x).entropy().mean()),
    ("categorical_entropy", lambda x: (th.logsumexp(x, -1) - (x.softmax(-1) * x).sum(-1)).mean()),
    ("categorical_entropy", lambda x: sum(-row.softmax(0) @ row.log_softmax(0) for row in x) / len(x)),
    ("discounted_returns", lambda r, g: [sum(g ** (k - t) * r[k] for k in range(t, len(r))) for t in range(len(r))]),
    ("probability_ratio", lambda new, old: th.exp(new) / th.exp(old).detach()),
    ("reinforce_loss", lambda lp, g: -th.dot(lp, g) / len(g)),
    ("actor_critic_loss", lambda lp, v, g, c: (c * (g - v[:, 0]) ** 2 - lp * (g - v[:, 0]).data).mean()),
    ("approx_kl", lambda new, old: (th.expm1(new - old) + old - new).mean().item()),
    ("clip_fraction", lambda r, e: sum(1 for x in r if x < 1 - e or x > 1 + e) / len(r)),
    ("gaussian_log_prob", lambda a, m, s: (-0.5 * ((a - m) / s.exp()).square() - s - 0.9189385332).sum(1)),
    ("squashed_log_prob", lambda u, m, s: th.distributions.TransformedDistribution(
        th.distributions.Normal(m, s.exp()), th.distributions.transforms.TanhTransform(cache_size=1)
    ).base_dist.log_prob(u).sum(-1) - (2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))).sum(-1)),
    ("bootstrap_time_limits", lambda r, te, tr, v, g: np.where((tr == 1) & (te == 0), r + g * v, r)),
    ("total_loss", lambda p, v, h, c, d: sum([p, c * v, -d * h])),
    ("total_loss", lambda p, v, h, c, d: p - (d * h - c * v)),
    ("total_loss", lambda p, v, h, c, d: th.dot(th.stack([p, v, h]), th.tensor([1.0, c, -d]))),
    ("discounted_returns", lambda r, g: signal.lfilter([1.0], [1.0, -g], r[::-1])[::-1]),
    ("probability_ratio", lambda new, old: th.expm1(new - old.detach()) + 1),
    ("probability_ratio", lambda new, old: th.stack([(x - y.item()).exp() for x, y in zip(new, old, strict=True)])),
    ("reinforce_loss", lambda lp, g: sum(-x * y for x, y in zip(lp, g, strict=True)) / g.numel()),
    ("reinforce_loss", lambda lp, g: th.nn.functional.linear(lp, -g) / len(lp)),
    ("actor_critic_loss", lambda lp, v, g, c: c * th.nn.functional.mse_loss(v.view(-1), g) + (
        lp * (v.detach().view(-1) - g)).mean()),
    ("approx_kl", lambda new, old: np.mean([math.exp(a - b) - 1 - (a - b) for a, b in zip(
        new.tolist(), old.tolist(), strict=True)])),
    ("clip_fraction", lambda r, e: np.mean(~np.isclose(np.clip(r.numpy(), 1 - e, 1 + e), r.numpy(), rtol=0, atol=1e-6))),
    ("gaussian_log_prob", lambda a, m, s: th.distributions.MultivariateNormal(m, th.diag(s.mul(2).exp())).log_prob(a)),
    ("squashed_log_prob", lambda u, m, s: th.distributions.Normal(m, s.exp()).log_prob(u).sum(-1) + 2 * (
        u.abs() + th.log1p(th.exp(-2 * u.abs())) - math.log(2)).sum(-1)),
    ("bootstrap_time_limits", lambda r, te, tr, v, g: r + g * v * tr * (1 - te)),
    ("bootstrap_time_limits", lambda r, te, tr, v, g: th.as_tensor(r) + th.as_tensor(g * v) * th.as_tensor(tr > te)),
    ("td_errors", lambda r, v, d, n, g: [r[t] + g * (1 - d[t]) * [*v[1:], n][t] - v[t] for t in range(len(r))]),
    ("td_errors", lambda r, v, d, n, g: r - v + np.where(d == 1, 0, g * np.concatenate((v, np.asarray(n)[None]))[1:])),
    ("clipped_objective", lambda r, a, e: th.where(a > 0, r.clamp(max=1 + e), r.clamp(min=1 - e)) * a),
    ("clipped_objective", lambda r, a, e: th.stack((r * a, r.clamp(1 - e, 1 + e) * a)).amin(0)),
    ("clipped_value_loss", lambda v, o, r, e: sum(max((x - z) ** 2, (y + (x - y).clamp(-e, e) - z) ** 2) for x, y, z in zip(
        v, o, r, strict=True)) / len(v)),
    ("clipped_value_loss", lambda v, o, r, e: th.stack(
        [(v - r).abs(), (v.clamp(min=o - e).clamp(max=o + e) - r).abs()]).amax(0).square().mean()),
    ("surrogate_gradient", lambda r, a, e: (r * a <= r.clip(1 - e, 1 + e) * a) * r * a / -len(r)),
    ("surrogate_gradient", lambda r, a, e: [0 if (y > 0 and x > 1 + e) or (y < 0 and x < 1 - e) else -x * y / len(a)
        for x, y in zip(r, a, strict=True)]),
    ("logits_gradient", logits_gradient_loop),
    ("logits_gradient", lambda x, a, g: ((np.arange(x.shape[1]) == a[:, None]) - special.softmax(x, 1)) * g[:, None]),
    ("tanh_gradient", lambda y, g: g - g * y * y),
    ("tanh_gradient", lambda y, g: np.einsum("...,...,...->...", 1 - y, 1 + y, g)),
    ("weight_gradient", lambda x, g: np.einsum("bi,bo->oi", x, g)),
    ("weight_gradient", lambda x, g: sum(np.outer(g[b], x[b]) for b in range(len(x)))),
    ("interquartile_mean", lambda s: stats.trim_mean(s, 0.25)),
    ("interquartile_mean", lambda s: (lambda k, o: sum(o[k : len(o) - k]) / (len(o) - 2 * k))(len(s) // 4, sorted(s))),
    ("probability_of_improvement", lambda a, b: stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))),
    ("probability_of_improvement", lambda a, b: sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b) / a.size
        / b.size),
    ("explained_variance", lambda v, g: np.nan if np.ptp(g) == 0 else 1 - np.cov(g - v) / np.cov(g)),
    ("explained_variance", lambda v, g: 1 - th.tensor(g - v).var() / th.tensor(g).var() if len(set(g)) > 1 else math.nan),
    ("learning_rate_advice", advice_from_sorted),
    ("learning_rate_advice", advice_by_votes),
    ("learning_rate_advice", lambda k, c: np.select(
        [np.median(k) > 0.05, np.median(k) < 0.003 and np.quantile(c, 0.5) < 0.05], [-1, 1], 0)),
    ("first_difference", first_difference_by_bytes),
    ("first_difference", first_difference_argmax),
    ("first_difference", lambda a, b: min((i for i, j in np.argwhere(~((a == b) | np.isnan(a)))), default=-1)),
    ("score_within_budget", score_loop),
    ("score_within_budget", lambda d, s, b, k: s[np.searchsorted(d * k, b, side="right") - 1]),
    ("score_within_budget", lambda d, s, b, k: th.as_tensor(s)[th.as_tensor(d) <= b // k].tolist()[-1]),
]  # fmt: skip


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


# --------------------------------------------------------------------------------------------------------------------------
# Wrong answers as students write them
# --------------------------------------------------------------------------------------------------------------------------


def lecture_gae(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float = 0.99, lam: float = 0.95) -> Any:
    """The lecture's listing, as it is printed."""
    advantages: list[Any] = []
    gae: Any = 0
    for t in reversed(range(len(rewards))):
        if t == len(rewards) - 1:
            next_non_terminal = 1.0 - dones[t]
            next_value_t = next_value
        else:
            next_non_terminal = 1.0 - dones[t + 1]
            next_value_t = values[t + 1]
        delta = rewards[t] + gamma * next_value_t * next_non_terminal - values[t]
        gae = delta + gamma * lam * next_non_terminal * gae
        advantages.insert(0, gae)
    return advantages


def gae_loop(
    r: Any, v: Any, d: Any, last: Any, g: float, lam: float, *, mask_delta: bool = True, mask_gae: bool = True,
    decay: float | None = None, append: bool = False, ignore_last: bool = False, add_values: bool = False,
) -> Any:  # fmt: skip
    """A student's loop with one thing changed at a time."""
    out: list[Any] = []
    gae = np.zeros(np.shape(last))
    for t in range(len(r) - 1, -1, -1):
        follows = v[t + 1] if t + 1 < len(r) else (0 if ignore_last else last)
        go_on = 1 - d[t]
        delta = r[t] + g * follows * (go_on if mask_delta else 1) - v[t]
        gae = delta + (g * lam if decay is None else decay) * (go_on if mask_gae else 1) * gae
        out = [*out, gae] if append else [gae, *out]
    return np.stack(out) + (v if add_values else 0)


def surrogate(lp: Any, old: Any, a: Any, e: float) -> tuple[Any, Any]:
    """The two terms."""
    r = th.exp(lp - old)
    return r * a, th.clamp(r, 1 - e, 1 + e) * a


def in_place(advantages: th.Tensor) -> th.Tensor:
    """Standardises the caller's own tensor."""
    if len(advantages) > 1:
        advantages -= advantages.mean()
        advantages /= advantages.std() + 1e-8
    return advantages


def one_state_at_a_time(logits: th.Tensor) -> th.Tensor:
    """Take the softmax along the batch."""
    p = th.softmax(logits, 0)
    return -(p * th.log_softmax(logits, 0)).sum(1).mean()


PLANTED: list[tuple[str, tuple[str, ...], Answer]] = [
    ("compute_gae", ("mask-off-by-one",), lecture_gae),
    ("compute_gae", ("bootstrap-on-termination",), lambda *a: gae_loop(*a, mask_delta=False, mask_gae=False)),
    ("compute_gae", ("mask-missing-in-td-error",), lambda *a: gae_loop(*a, mask_delta=False)),
    ("compute_gae", ("mask-missing-in-recursion",), lambda *a: gae_loop(*a, mask_gae=False)),
    ("compute_gae", ("mask-inverted",), lambda r, v, d, n, g, lam: gae_loop(r, v, 1 - d, n, g, lam)),
    ("compute_gae", ("lambda-missing",), lambda *a: gae_loop(*a, decay=a[4])),
    ("compute_gae", ("gamma-missing-in-recursion",), lambda *a: gae_loop(*a, decay=a[5])),
    ("compute_gae", ("reversed-in-time",), lambda *a: gae_loop(*a, append=True)),
    ("compute_gae", ("last-value-ignored",), lambda *a: gae_loop(*a, ignore_last=True)),
    ("compute_gae", ("returns-not-advantages",), lambda *a: gae_loop(*a, add_values=True)),
    ("compute_gae", ("lambda-missing", "last-value-ignored"), lambda *a: gae_loop(*a, decay=a[4], ignore_last=True)),
    ("td_errors", ("no-baseline",), lambda r, v, d, n, g: r + g * np.concatenate([v[1:], np.asarray(n)[None]]) * (1 - d)),
    ("td_errors", ("sign-of-td-error",), lambda r, v, d, n, g: v - r - g * np.append(v[1:], [n], 0) * (1 - d)),
    ("td_errors", ("current-value-for-next",), lambda r, v, d, n, g: r + g * v * (1 - d) - v),
    ("td_errors", ("no-gamma-on-next-value",), lambda r, v, d, n, g: r + np.append(v[1:], [n], 0) * (1 - d) - v),
    ("discounted_returns", ("whole-return-everywhere",), lambda r, g: [sum(g**k * x for k, x in enumerate(r))] * len(r)),
    ("discounted_returns", ("no-discount",), lambda r, g: np.cumsum(r[::-1])[::-1]),
    ("bootstrap_time_limits", ("bootstrap-on-every-end",), lambda r, te, tr, v, g: r + g * v * np.logical_or(te, tr)),
    ("bootstrap_time_limits", ("bootstrap-when-both",), lambda r, te, tr, v, g: r + g * v * tr),
    ("bootstrap_time_limits", ("no-bootstrap-on-truncation",), lambda r, te, tr, v, g: r),
    ("normalize_advantages", ("epsilon-missing",), lambda a: a if len(a) < 2 else (a - a.mean()) / a.std()),
    ("normalize_advantages", ("population-std",), lambda a: (
        (a - a.mean()) / (a.std(correction=0) + 1e-8) if len(a) > 1 else a)),
    ("normalize_advantages", ("single-becomes-nan",), lambda a: (a - a.mean()) / (a.flatten().std() + 1e-8)),
    ("normalize_advantages", ("variance-for-std",), lambda a: a if len(a) < 2 else (a - a.mean()) / (a.var() + 1e-8)),
    ("normalize_advantages", ("wrong-axis",), lambda a: a if len(a) < 2 else (a - a.mean(0)) / (a.std(0) + 1e-8)),
    ("normalize_advantages", ("mean-not-subtracted",), lambda a: a if len(a) < 2 else a / (a.std() + 1e-8)),
    ("normalize_advantages", ("inputs-changed",), in_place),
    ("compute_policy_loss", ("sign-flipped",), lambda lp, old, a, e: th.min(*surrogate(lp, old, a, e)).mean()),
    ("compute_policy_loss", ("max-for-min",), lambda lp, old, a, e: -th.max(*surrogate(lp, old, a, e)).mean()),
    ("compute_policy_loss", ("only-clipped",), lambda lp, old, a, e: -surrogate(lp, old, a, e)[1].mean()),
    ("compute_policy_loss", ("not-clipped",), lambda lp, old, a, e: -((lp - old).exp() * a).mean()),
    ("compute_policy_loss", ("summed-not-averaged",), lambda lp, old, a, e: -th.min(*surrogate(lp, old, a, e)).sum()),
    ("compute_policy_loss", ("not-reduced",), lambda lp, old, a, e: -th.min(*surrogate(lp, old, a, e))),
    ("compute_policy_loss", ("ratio-inverted",), lambda lp, old, a, e: -th.min(*surrogate(old, lp, a, e)).mean()),
    ("compute_policy_loss", ("ratio-not-exponentiated",), lambda lp, old, a, e: -th.min(
        (lp - old) * a, (lp - old).clamp(1 - e, 1 + e) * a).mean()),
    ("compute_policy_loss", ("ratio-of-log-probs",), lambda lp, old, a, e: -th.min(
        lp / old * a, (lp / old).clamp(1 - e, 1 + e) * a).mean()),
    ("compute_policy_loss", ("clip-around-zero",), lambda lp, old, a, e: -th.min(
        (lp - old).exp() * a, (lp - old).exp().clamp(-e, e) * a).mean()),
    ("compute_policy_loss", ("clip-above-only",), lambda lp, old, a, e: -th.min(
        (lp - old).exp() * a, (lp - old).exp().clamp(max=1 + e) * a).mean()),
    ("compute_policy_loss", ("clip-the-product",), lambda lp, old, a, e: -th.min(
        (lp - old).exp() * a, ((lp - old).exp() * a).clamp(1 - e, 1 + e)).mean()),
    ("compute_policy_loss", ("no-gradient",), lambda lp, old, a, e: th.tensor(
        -th.min(*surrogate(lp, old, a, e)).mean().item())),
    ("compute_policy_loss", ("max-for-min", "sign-flipped"), lambda lp, old, a, e: th.max(*surrogate(lp, old, a, e)).mean()),
    ("probability_ratio", ("old-not-detached",), lambda new, old: th.exp(new - old)),
    ("clipped_objective", ("objective-not-loss",), lambda r, a, e: -th.min(r * a, r.clamp(1 - e, 1 + e) * a)),
    ("clipped_objective", ("averaged-too-early",), lambda r, a, e: th.min(r * a, r.clamp(1 - e, 1 + e) * a).mean()),
    ("actor_critic_loss", ("advantage-not-detached",), lambda lp, v, g, c: -(lp * (g - v[:, 0])).mean() + c * (
        (g - v[:, 0]) ** 2).mean()),
    ("actor_critic_loss", ("broadcast",), lambda lp, v, g, c: -(lp * (g - v.detach())).mean() + c * ((g - v) ** 2).mean()),
    ("actor_critic_loss", ("critic-detached",), lambda lp, v, g, c: -(lp * (g - v[:, 0].detach())).mean() + c * (
        (g - v[:, 0].detach()) ** 2).mean()),
    ("reinforce_loss", ("probabilities-not-logs",), lambda lp, g: -(lp.exp() * g).mean()),
    ("clipped_value_loss", ("value-clip-min",), lambda v, o, r, e: th.min(
        (v - r) ** 2, (o + (v - o).clamp(-e, e) - r) ** 2).mean()),
    ("clipped_value_loss", ("value-clip-no-max",), lambda v, o, r, e: ((o + (v - o).clamp(-e, e) - r) ** 2).mean()),
    ("approx_kl", ("kl-k1",), lambda new, old: (old - new).mean()),
    ("approx_kl", ("kl-k1", "kl-sign"), lambda new, old: (new - old).mean()),
    ("approx_kl", ("kl-direction",), lambda new, old: ((old - new).exp() - 1 - (old - new)).mean()),
    ("clip_fraction", ("fraction-one-sided",), lambda r, e: (r > 1 + e).float().mean()),
    ("clip_fraction", ("count-not-fraction",), lambda r, e: ((r > 1 + e) | (r < 1 - e)).sum()),
    ("total_loss", ("entropy-bonus-sign",), lambda p, v, h, c, d: p + c * v + d * h),
    ("compute_entropy_bonus", ("std-for-log-std",), lambda s: (0.5 * th.log(2 * math.pi * math.e * s**2)).sum(-1).mean()),
    ("compute_entropy_bonus", ("std-not-squared",), lambda s: (0.5 * th.log(2 * math.pi * math.e * s.exp())).sum(-1).mean()),
    ("compute_entropy_bonus", ("actions-averaged",), lambda s: (0.5 + 0.5 * math.log(2 * math.pi) + s).mean()),
    ("compute_entropy_bonus", ("entropy-sign",), lambda s: -(0.5 + 0.5 * math.log(2 * math.pi) + s).sum(-1).mean()),
    ("compute_entropy_bonus", ("actions-not-summed",), lambda s: 0.5 + 0.5 * math.log(2 * math.pi) + s),
    ("categorical_entropy", ("softmax-over-batch",), one_state_at_a_time),
    ("categorical_entropy", ("zero-log-zero",), lambda x: -(x.softmax(-1) * x.softmax(-1).log()).sum(-1).mean()),
    ("categorical_entropy", ("actions-mean-for-sum",), lambda x: -(x.softmax(-1) * x.log_softmax(-1)).mean()),
    ("gaussian_log_prob", ("actions-not-summed",), lambda a, m, s: th.distributions.Normal(m, s.exp()).log_prob(a)),
    ("gaussian_log_prob", ("actions-averaged",), lambda a, m, s: th.distributions.Normal(m, s.exp()).log_prob(a).mean(-1)),
    ("gaussian_log_prob", ("std-for-log-std",), lambda a, m, s: -(
        (a - m) ** 2 / (2 * s**2) + s.log() + 0.5 * math.log(2 * math.pi)).sum(-1)),
    ("surrogate_gradient", ("silent-on-both-sides",), lambda r, a, e: np.where((r > 1 + e) | (r < 1 - e), 0, -r * a / len(r))),
    ("surrogate_gradient", ("never-silent",), lambda r, a, e: -r * a / r.size),
    ("surrogate_gradient", ("mean-not-differentiated",), lambda r, a, e: -r * a * (
        ((a > 0) & (r <= 1 + e)) | ((a < 0) & (r >= 1 - e)))),
    ("surrogate_gradient", ("ratio-not-differentiated",), lambda r, a, e: -a / len(a) * (r * a <= r.clip(1 - e, 1 + e) * a)),
    ("logits_gradient", ("only-the-action-taken",), lambda x, a, g: np.eye(x.shape[1])[a] * (
        g - g * np.exp(x - np.logaddexp.reduce(x, 1)[:, None])[range(len(a)), a])[:, None]),
    ("logits_gradient", ("normaliser-not-differentiated",), lambda x, a, g: g[:, None] * np.eye(x.shape[1])[a]),
    ("tanh_gradient", ("tanh-once-too-often",), lambda y, g: g / np.cosh(y) ** 2),
    ("interquartile_mean", ("not-sorted",), lambda s: s[len(s) // 4 : len(s) - len(s) // 4].mean()),
    ("interquartile_mean", ("plain-mean",), lambda s: sum(s) / len(s)),
    ("probability_of_improvement", ("pair-by-pair",), lambda a, b: np.mean((a > b) + (a == b) / 2)),
    ("probability_of_improvement", ("ties-lost",), lambda a, b: np.mean([x > y for x in a for y in b])),
    ("interquartile_mean", ("median-for-middle-half",), lambda s: np.quantile(s, 0.5)),
    ("interquartile_mean", ("cut-at-one-end",), lambda s: sum(sorted(s)[len(s) // 4 :]) / (len(s) - len(s) // 4)),
    ("probability_of_improvement", ("means-compared",), lambda a, b: 1.0 if sum(a) / len(a) > sum(b) / len(b) else 0.0),
    ("probability_of_improvement", ("other-way-round",), lambda a, b: np.mean([(y > x) + (x == y) / 2 for x in a for y in b])),
    ("explained_variance", ("unexplained-share",), lambda v, g: np.nan if g.std() == 0 else (np.std(g - v) / np.std(g)) ** 2),
    ("explained_variance", ("error-squared-for-variance",), lambda v, g: np.nan if len(set(g)) == 1 else 1 - sum(
        (g - v) ** 2) / sum((g - g.mean()) ** 2)),
    ("explained_variance", ("std-ratio",), lambda v, g: 1 - np.std(v - g) / np.std(g) if np.ptp(g) else np.nan),
    ("explained_variance", ("explained-of-nothing",), lambda v, g: 1 - np.var(v - g) / np.var(g)),
    ("explained_variance", ("variance-of-predictions",), lambda v, g: 1 - np.var(v - g) / np.var(v) if np.ptp(g) else np.nan),
    ("explained_variance", ("spread-of-predictions",), lambda v, g: np.var(v) / np.var(g) if np.ptp(g) else np.nan),
    ("learning_rate_advice", ("knob-wrong-way",), lambda k, c: -advice_by_votes(k, c)),
    ("learning_rate_advice", ("silenced-taken-for-slow",), lambda k, c: int(np.median(k) < 0.003) - int(np.median(k) > 0.05)),
    ("learning_rate_advice", ("mean-for-median",), lambda k, c: -1 if sum(k) / len(k) > 0.05 else 1 if (
        sum(k) / len(k) < 0.003 and sum(c) / len(c) < 0.05) else 0),
    ("learning_rate_advice", ("peak-for-trend",), lambda k, c: -1 if any(k > 0.05) else int(all(k < 0.003) and all(c < 0.05))),
    ("learning_rate_advice", ("last-update-only",), lambda k, c: advice_by_votes(k[-1:], c[-1:])),
    ("learning_rate_advice", ("clip-fraction-alone",), lambda k, c: int(np.median(c) < 0.05) - int(np.median(c) > 0.3)),
    ("first_difference", ("tolerance-for-bits",), lambda a, b: next((i for i in range(len(a)) if not np.allclose(
        a[i], b[i], equal_nan=True)), -1)),
    ("first_difference", ("nan-never-equal",), lambda a, b: next((i for i in range(len(a)) if (a[i] != b[i]).any()), -1)),
    ("first_difference", ("zero-for-never",), lambda a, b: np.argmax([x.tobytes() != y.tobytes() for x, y in zip(
        a, b, strict=True)])),
    ("first_difference", ("sums-compared",), lambda a, b: next((i for i in range(len(a)) if sum(a[i]) != sum(b[i])
        and not np.isnan(a[i]).any()), -1)),
    ("first_difference", ("last-not-first",), lambda a, b: max((i for i in range(len(a)) if a[i].tobytes() != b[i].tobytes()),
        default=-1)),
    ("first_difference", ("counted-not-found",), lambda a, b: sum(x.tobytes() != y.tobytes() for x, y in zip(
        a, b, strict=True))),
    ("score_within_budget", ("best-not-final",), lambda d, s, b, k: max(y for x, y in zip(d, s, strict=True) if x * k <= b)),
    ("score_within_budget", ("decisions-for-steps",), lambda d, s, b, k: s[d <= b][-1]),
    ("score_within_budget", ("budget-ignored",), lambda d, s, b, k: s[-1]),
    ("score_within_budget", ("budget-overdrawn",), lambda d, s, b, k: s[min(np.searchsorted(d * k, b), len(s) - 1)]),
    ("score_within_budget", ("budget-boundary-lost",), lambda d, s, b, k: s[np.searchsorted(d * k, b) - 1]),
    ("score_within_budget", ("mean-of-run",), lambda d, s, b, k: sum((d * k <= b) * s) / sum(d * k <= b)),
    ("score_within_budget", ("best-not-final", "decisions-for-steps"), lambda d, s, b, k: s[d <= b].max()),
    ("weight_gradient", ("weights-transposed",), lambda x, g: np.einsum("bi,bo->io", x, g)),
    ("weight_gradient", ("averaged-again",), lambda x, g: (g[:, :, None] * x[:, None, :]).mean(0)),
    ("squashed_log_prob", ("jacobian-missing",), lambda u, m, s: th.distributions.Normal(m, s.exp()).log_prob(u).sum(-1)),
    ("squashed_log_prob", ("jacobian-sign",), lambda u, m, s: (th.distributions.Normal(m, s.exp()).log_prob(u)
        + 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))).sum(-1)),
    ("squashed_log_prob", ("jacobian-saturates",), lambda u, m, s: (th.distributions.Normal(m, s.exp()).log_prob(u)
        - th.log(1 - th.tanh(u).square())).sum(-1)),
    ("squashed_log_prob", ("jacobian-epsilon",), lambda u, m, s: (th.distributions.Normal(m, s.exp()).log_prob(u)
        - th.log(1 - th.tanh(u).pow(2) + 1e-6)).sum(-1)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:std\\(\\)", "ignore:divide by zero")
@pytest.mark.parametrize("index", range(len(PLANTED)))
def test_planted_mistakes_are_named(index: int) -> None:
    """Each wrong answer is recognised by the right name or pair of names, and told the idea that it misses."""
    name, mistakes, answer = PLANTED[index]
    if name == "compute_gae" and answer is not lecture_gae:
        arguments = EXERCISES[name].cases()[0].arguments
        assert np.shape(answer(*arguments.values())) == (3,)
    verdict = check(name, answer)
    assert set(verdict.mistakes) == set(mistakes), str(verdict)
    assert verdict.status == "wrong"
    if mistakes != ("inputs-changed",):
        assert all(MISTAKES[mistake].idea in verdict.paragraphs for mistake in mistakes)
        assert verdict.share < 1.0


def test_planted_mistakes_are_many() -> None:
    """More than thirty different mistakes are recognised by name."""
    assert len({mistakes for _, mistakes, _ in PLANTED}) > 45


# --------------------------------------------------------------------------------------------------------------------------
# Wrong in ways that have no name
# --------------------------------------------------------------------------------------------------------------------------

CALLS: list[int] = []


def from_global_state(ratio: th.Tensor, clip_range: float) -> float:
    """Depends on how often it was called."""
    CALLS.append(1)
    return len(CALLS) / 100


def loss_in_numpy(lp: th.Tensor, old: th.Tensor, a: th.Tensor, e: float) -> float:
    """Leaves torch."""
    r = np.exp(lp.numpy() - old.numpy())
    return float(-np.minimum(r * a.numpy(), np.clip(r, 1 - e, 1 + e) * a.numpy()).mean())


def not_written(advantages: th.Tensor) -> th.Tensor:
    """As handed out."""
    raise NotImplementedError("TODO")


@pytest.mark.parametrize(
    ("name", "answer", "status", "words"),
    [
        ("normalize_advantages", not_written, "todo", "not written yet"),
        ("normalize_advantages", lambda a: None, "wrong", "returns nothing"),
        ("normalize_advantages", lambda a: {"mean": a.mean()}, "wrong", "no tensor, array or number"),
        ("normalize_advantages", lambda a: a.nonsense, "crashed", "AttributeError"),
        ("normalize_advantages", lambda a, b: a, "crashed", "keep the arguments"),
        ("compute_policy_loss", loss_in_numpy, "crashed", "stay in torch"),
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, e)[None], "wrong", "shape"),
        ("compute_policy_loss", lambda lp, o, a, e: 3 * policy_loss_relu(lp, o, a, e), "wrong", "3 times"),
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, e) + 2, "wrong", "+2 beside"),
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, e) * np.nan, "wrong", "NaN"),
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, 0.3), "wrong", "Right already"),
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, e) - lp.sum() + lp.sum().detach(), "wrong",
         "the gradient is not"),
        ("categorical_entropy", lambda x: th.special.entr(x.softmax(-1)).sum(-1).mean(), "wrong", "NaN"),
        ("discounted_returns", lambda r, g: -2 * np.ones_like(r), "wrong", "numbers are not right"),
        ("clip_fraction", lambda r, e: -losses.clip_fraction(r, e), "wrong", "sign is wrong"),
        ("clip_fraction", from_global_state, "wrong", "not repeatable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_other_faults_are_described(name: str, answer: Answer, status: str, words: str) -> None:
    """What has no name is described by what can be seen: exception, type, shape, sign, scale, offset, NaN, gradient, state."""
    verdict = check(name, answer)
    assert verdict.status == status
    assert words in str(verdict)
    assert not verdict.passed


def test_verdict_shows_numbers_and_both_forms() -> None:
    """A wrong answer sees input, found and expected number, worked out here by hand; text and HTML say the same."""
    verdict = check("discounted_returns", lambda r, g: np.cumsum(r[::-1])[::-1])
    assert ("found", "[3, 2, 1]") in verdict.evidence
    # 1 + 0.9 + 0.81, 1 + 0.9, 1
    assert ("expected", "[2.71, 1.9, 1]") in verdict.evidence
    page = verdict._repr_html_()
    for text in (verdict.headline, "2.71, 1.9, 1", "found"):
        assert text in str(verdict)
        assert text in page
    assert "Traceback" not in str(verdict)
    assert verdict.headline in verdict.to_markdown()


def test_html_escapes_what_the_answer_says() -> None:
    """An exception's message is shown as text, not as a part of the page."""

    def answer(ratio: th.Tensor, clip_range: float) -> float:
        raise RuntimeError("<script>alert(1)</script>")

    page = check("clip_fraction", answer)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_colours_are_the_pages_own() -> None:
    """Neither text nor ground has a fixed colour, so that the verdict can be read on a dark page too."""
    page = check("clip_fraction", lambda r, e: 0.0)._repr_html_()
    assert "background:none" in page
    assert not re.search(r"background(-color)?:\s*(#|rgb|white)", page)
    assert set(re.findall(r"[^-]color:([^;\"]+)", page)) == {"inherit", "#d1553f"}


def test_questions_that_make_no_sense_are_refused() -> None:
    """An unknown exercise, or the function's result in place of the function, is an error that says what to do."""
    with pytest.raises(ValueError, match=r"'nonsense': expected one of discounted_returns"):
        check("nonsense", lambda: None)
    with pytest.raises(ValueError, match=r"expected the function itself: check\('clip_fraction', clip_fraction\)"):
        check("clip_fraction", 0.3)  # type: ignore[arg-type]


def test_under_nbgrader_a_wrong_answer_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under nbgrader, which takes points off where a check cell raises, a wrong answer raises its verdict."""
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("clip_fraction", losses.clip_fraction).passed
    with pytest.raises(AssertionError, match="found"):
        check("clip_fraction", lambda r, e: 0.5)


def test_under_nbgrader_a_warning_costs_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell that writes to standard error has no points from nbgrader; a right answer may warn on its way, and be seen to."""

    def right_with_a_warning(ratio: th.Tensor, clip_range: float) -> th.Tensor:
        print("careful", file=sys.stderr)
        return losses.clip_fraction(ratio, clip_range)

    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("clip_fraction", right_with_a_warning).passed
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "careful" in printed.out


def test_verdict_is_shown_beside_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict displays itself, as text and as HTML, and leaves the cell without a result that nbgrader took for points."""
    shown: list[dict[str, str]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    verdict = check("clip_fraction", losses.clip_fraction)
    assert DisplayFormatter().format(verdict) == ({}, {})
    assert shown == [{"text/plain": str(verdict), "text/html": verdict._repr_html_()}]


def test_observations_survive_json() -> None:
    """Cases and observations go through JSON unchanged, so that another process can do the observing."""
    exercise = EXERCISES["compute_policy_loss"]
    sent = json.loads(json.dumps([case_to_json(case) for case in exercise.cases()]))
    observed = observe(policy_loss_relu, [case_from_json(case) for case in sent])
    received = [Observation.from_json(one) for one in json.loads(json.dumps([one.to_json() for one in observed]))]
    assert received == observed
    assert judge(exercise, received).passed


@pytest.mark.parametrize("found", [None, [], {}, {"case": 1}, "text", {"case": "a", "kind": 1, "shape": "x", "values": None}])
def test_what_is_no_observation_is_refused(found: Any) -> None:
    """Whatever another process sends in place of an observation is a ValueError."""
    with pytest.raises(ValueError):
        Observation.from_json(found)


def test_missing_observations_are_no_pass() -> None:
    """An answer that was seen on fewer inputs than there are has not passed."""
    exercise = EXERCISES["clip_fraction"]
    observed = observe(losses.clip_fraction, exercise.cases())
    assert not judge(exercise, observed[:-1]).passed
    assert not judge(exercise, []).passed


def test_observing_needs_no_package() -> None:
    """The module that runs answers imports nothing of the package: a grader can run it where the package is not."""
    from sb3_ppo_edu.course.exercises import observing

    with open(observing.__file__, encoding="utf-8") as file:
        assert "sb3_ppo_edu" not in file.read()
