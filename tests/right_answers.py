"""
Right answers to the exercises, written in the styles in which students write them.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (notebooks/errata.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from scipy import signal, special, stats  # type: ignore[import-untyped]

Answer = Callable[..., Any]


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
    """Medians by sorting lists: the middle one, or the mean of the two in the middle."""
    one, other = (len(approx_kl) - 1) // 2, len(approx_kl) // 2
    kl, clipped = ((sorted(x)[one] + sorted(x)[other]) / 2 for x in (approx_kl, clip_fraction.tolist()))
    if kl > 0.05:
        return -1
    if kl < 0.003:
        return 0 if clipped >= 0.05 else 1
    return 0


def advice_by_quantiles(approx_kl: Any, clip_fraction: Any) -> float:
    """The middle of each reading says it."""
    kl, clipped = np.percentile(approx_kl, 50), np.quantile(clip_fraction, 0.5)
    far, near, free = kl > 0.05, kl < 0.003, clipped < 0.05
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


def recurrent_states_by_environment(inputs: Any, episode_starts: Any, state: Any, w_in: Any, w_rec: Any) -> Any:
    """One environment after the other, with an `if`."""
    columns = []
    for env in range(inputs.shape[1]):
        h, column = state[env], []
        for t in range(len(inputs)):
            if episode_starts[t, env] == 1:
                h = th.zeros(len(w_rec))
            h = th.tanh(w_in @ inputs[t, env] + w_rec @ h)
            column.append(h)
        columns.append(th.stack(column))
    return th.stack(columns, dim=1)


def recurrent_states_in_pieces(inputs: Any, episode_starts: Any, state: Any, w_in: Any, w_rec: Any) -> Any:
    """In float64, step by step, all environments at once, with the two products as one."""
    weights, h, states = th.cat([w_in, w_rec], dim=1).double(), state.double(), []
    for t in range(inputs.shape[0]):
        h = th.where(episode_starts[t].reshape(-1, 1) > 0, th.zeros_like(h), h)
        h = th.einsum("ei,ui->eu", th.hstack([inputs[t].double(), h]), weights).tanh()
        states.append(h)
    return th.stack(states)


def sequence_lengths_loop(episode_starts: Any) -> list[int]:
    """Count, and close a sequence where the next one starts."""
    lengths, length = [], 0
    for start in episode_starts:
        if start and length > 0:
            lengths.append(length)
            length = 0
        length += 1
    return [*lengths, length]


def token_rewards_loop(new: Any, ref: Any, scores: Any, beta: float) -> Any:
    """Message by message and token by token."""
    rewards = [[-beta * (float(p) - float(q)) for p, q in zip(a, b, strict=True)] for a, b in zip(new, ref, strict=True)]
    rewards[-1] = [reward + float(score) for reward, score in zip(rewards[-1], scores, strict=True)]
    return rewards


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
    ("learning_rate_advice", advice_by_quantiles),
    ("learning_rate_advice", lambda k, c: np.select(
        [np.median(k) > 0.05, np.median(k) < 0.003 and np.quantile(c, 0.5) < 0.05], [-1, 1], 0)),
    ("first_difference", first_difference_by_bytes),
    ("first_difference", first_difference_argmax),
    ("first_difference", lambda a, b: min((i for i, j in np.argwhere((a != b) & ~np.isnan([a, b]).all(0))), default=-1)),
    ("score_within_budget", score_loop),
    ("score_within_budget", lambda d, s, b, k: s[np.searchsorted(d * k, b, side="right") - 1]),
    ("score_within_budget", lambda d, s, b, k: th.as_tensor(s)[th.as_tensor(d) <= b // k].tolist()[-1]),
    ("recurrent_states", recurrent_states_by_environment),
    ("recurrent_states", recurrent_states_in_pieces),
    ("sequence_lengths", sequence_lengths_loop),
    ("sequence_lengths", lambda s: np.unique(np.cumsum(s), return_counts=True)[1]),
    ("sequence_lengths", lambda s: [len(part) for part in np.split(s, np.flatnonzero(s)) if len(part)]),
    ("padded_mean", lambda x, n: th.cat([row[:k] for row, k in zip(x, n, strict=True)]).mean()),
    ("padded_mean", lambda x, n: sum(x[i, t] for i in range(len(n)) for t in range(n[i])) / n.sum()),
    ("padded_mean", lambda x, n: x[th.arange(x.shape[1]).expand_as(x) < n.view(-1, 1)].mean()),
    ("masked_log_prob", lambda x, m, a: th.distributions.Categorical(logits=x.where(m, -th.inf)).log_prob(a)),
    ("masked_log_prob", lambda x, m, a: x[range(len(a)), a] - th.log((x.exp() * m).sum(1))),
    ("masked_log_prob", lambda x, m, a: th.log((x.softmax(1) * m / (x.softmax(1) * m).sum(1, keepdim=True))[
        th.arange(len(a)), a])),
    ("masked_log_prob", lambda x, m, a: th.stack([row[k].log_softmax(0)[int(k[:i].sum())] for row, k, i in zip(
        x, m, a, strict=True)])),
    ("masked_entropy", lambda x, m: th.distributions.Categorical(logits=x.masked_fill(~m, -1e9)).entropy()),
    ("masked_entropy", lambda x, m: th.stack([th.special.entr(row[k].softmax(0)).sum() for row, k in zip(x, m, strict=True)])),
    ("masked_entropy", lambda x, m: th.logsumexp(x - 1e9 * ~m, 1) - ((x - 1e9 * ~m).softmax(1) * x).sum(1)),
    ("bradley_terry_loss", lambda c, r: th.nn.functional.softplus(r - c).mean()),
    ("bradley_terry_loss", lambda c, r: -(c - th.logaddexp(c, r)).sum() / len(c)),
    ("bradley_terry_loss", lambda c, r: th.nn.functional.binary_cross_entropy_with_logits(c - r, th.ones_like(c))),
    ("bradley_terry_loss", lambda c, r: -th.stack([c, r], 1).log_softmax(1)[:, 0].mean()),
    ("token_rewards_with_kl", token_rewards_loop),
    ("token_rewards_with_kl", lambda new, ref, s, b: b * (ref - new) + th.eye(len(new))[-1][:, None] * s),
    ("token_rewards_with_kl", lambda new, ref, s, b: np.concatenate([-b * (new - ref)[:-1], (s - b * (new - ref)[-1])[None]])),
    ("group_advantages", lambda s: th.stack([(row - row.mean()) / (row.std() + 1e-8) for row in s])),
    ("group_advantages", lambda s: ((s.T - s.mean(1)) / (s.var(1).sqrt() + 1e-8)).T),
    ("group_advantages", lambda s: [(x - np.mean(x)) / (np.std(x, ddof=1) + 1e-8) for x in s.numpy()]),
]  # fmt: skip
