"""
Wrong answers are told which idea they miss. They are written as students write them, and not with the code of the checks.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (notebooks/errata.md).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.mistakes import MISTAKES
from sb3_ppo_edu.course.exercises.mistakes.families import IDEAS
from tests.right_answers import Answer, advice_by_quantiles


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


def remember(
    inputs: Any, starts: Any, h: Any, w_in: Any, w_rec: Any, *, late: bool = False, never: bool = False,
    all_of_them: bool = False, detach: bool = False, fresh: bool = False, forget_input: bool = False,
) -> Any:  # fmt: skip
    """A student's memory with one thing changed at a time."""
    states = []
    for t, x in enumerate(inputs):
        if fresh and t == 0:
            h = th.zeros_like(h)
        keep = 1 - starts[t].unsqueeze(1)
        if all_of_them and starts[t].any():
            keep = keep * 0
        if forget_input:
            x = x * keep
        h = th.tanh(x @ w_in.t() + (h if never or late else h * keep) @ w_rec.t())
        states.append(h)
        h = (h * keep if late else h).detach() if detach else h * keep if late else h
    return th.stack(states)


def lengths_as_after_dones(starts: Any) -> list[int]:
    """A student who takes a start for an end."""
    lengths, length = [], 0
    for start in starts:
        length += 1
        if start:
            lengths.append(length)
            length = 0
    return [*lengths, length]


def entropy_of(logits: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """−Σ p·log p of logits, over a mask if there is one."""
    products = logits.softmax(-1) * logits.log_softmax(-1)
    return -(products if mask is None else th.where(mask, products, 0.0)).sum(-1)


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
    ("compute_gae", ("without-effect",), lambda *a: gae_loop(*a, decay=a[4], ignore_last=True)),
    ("td_errors", ("no-baseline",), lambda r, v, d, n, g: r + g * np.concatenate([v[1:], np.asarray(n)[None]]) * (1 - d)),
    ("td_errors", ("sign-of-td-error",), lambda r, v, d, n, g: v - r - g * np.append(v[1:], [n], 0) * (1 - d)),
    ("td_errors", ("current-value-for-next",), lambda r, v, d, n, g: r + g * v * (1 - d) - v),
    ("td_errors", ("no-gamma-on-next-value",), lambda r, v, d, n, g: r + np.append(v[1:], [n], 0) * (1 - d) - v),
    ("discounted_returns", ("whole-return-everywhere",), lambda r, g: [sum(g**k * x for k, x in enumerate(r))] * len(r)),
    ("discounted_returns", ("no-discount",), lambda r, g: np.cumsum(r[::-1])[::-1]),
    ("bootstrap_time_limits", ("bootstrap-on-every-end",), lambda r, te, tr, v, g: r + g * v * np.logical_or(te, tr)),
    ("bootstrap_time_limits", ("bootstrap-when-both",), lambda r, te, tr, v, g: r + g * v * tr),
    ("bootstrap_time_limits", ("no-bootstrap-on-truncation",), lambda r, te, tr, v, g: r),
    ("normalize_advantages", ("epsilon-missing",), lambda a: a if a.numel() < 2 else (a - a.mean()) / a.std()),
    ("normalize_advantages", ("population-std",), lambda a: (
        (a - a.mean()) / (a.std(correction=0) + 1e-8) if a.numel() > 1 else a)),
    ("normalize_advantages", ("single-becomes-nan",), lambda a: (a - a.mean()) / (a.flatten().std() + 1e-8)),
    ("normalize_advantages", ("variance-for-std",), lambda a: a if a.numel() < 2 else (a - a.mean()) / (a.var() + 1e-8)),
    ("normalize_advantages", ("wrong-axis",), lambda a: a if a.numel() < 2 else (a - a.mean(0)) / (a.std(0) + 1e-8)),
    ("normalize_advantages", ("mean-not-subtracted",), lambda a: a if a.numel() < 2 else a / (a.std() + 1e-8)),
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
    ("clip_fraction", ("log-ratio-compared",), lambda r, e: (r.log().abs() > e).float().mean()),
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
    ("probability_of_improvement", ("means-compared", "ties-lost"), lambda a, b: 1.0 if sum(a) / len(a) > sum(b) / len(b)
        else 0.0),
    ("probability_of_improvement", ("other-way-round",), lambda a, b: np.mean([(y > x) + (x == y) / 2 for x in a for y in b])),
    ("explained_variance", ("unexplained-share",), lambda v, g: np.nan if g.std() == 0 else (np.std(g - v) / np.std(g)) ** 2),
    ("explained_variance", ("error-squared-for-variance",), lambda v, g: np.nan if len(set(g)) == 1 else 1 - sum(
        (g - v) ** 2) / sum((g - g.mean()) ** 2)),
    ("explained_variance", ("std-ratio",), lambda v, g: 1 - np.std(v - g) / np.std(g) if np.ptp(g) else np.nan),
    ("explained_variance", ("explained-of-nothing",), lambda v, g: 1 - np.var(v - g) / np.var(g)),
    ("explained_variance", ("variance-of-predictions",), lambda v, g: 1 - np.var(v - g) / np.var(v) if np.ptp(g) else np.nan),
    ("explained_variance", ("spread-of-predictions",), lambda v, g: np.var(v) / np.var(g) if np.ptp(g) else np.nan),
    ("learning_rate_advice", ("knob-wrong-way",), lambda k, c: -advice_by_quantiles(k, c)),
    ("learning_rate_advice", ("silenced-taken-for-slow",), lambda k, c: int(np.median(k) < 0.003) - int(np.median(k) > 0.05)),
    ("learning_rate_advice", ("mean-for-median",), lambda k, c: -1 if sum(k) / len(k) > 0.05 else 1 if (
        sum(k) / len(k) < 0.003 and sum(c) / len(c) < 0.05) else 0),
    ("learning_rate_advice", ("peak-for-trend",), lambda k, c: -1 if any(k > 0.05) else int(all(k < 0.003) and all(c < 0.05))),
    ("learning_rate_advice", ("last-update-only",), lambda k, c: advice_by_quantiles(k[-1:], c[-1:])),
    ("learning_rate_advice", ("clip-fraction-alone",), lambda k, c: int(np.median(c) < 0.05) - int(np.median(c) > 0.3)),
    ("first_difference", ("tolerance-for-bits",), lambda a, b: next((i for i in range(len(a)) if not np.allclose(
        a[i], b[i], equal_nan=True)), -1)),
    ("first_difference", ("nan-never-equal",), lambda a, b: next((i for i in range(len(a)) if (a[i] != b[i]).any()), -1)),
    ("first_difference", ("zero-for-never",), lambda a, b: np.argmax([x.tobytes() != y.tobytes() for x, y in zip(
        a, b, strict=True)])),
    ("first_difference", ("sums-compared",), lambda a, b: next((i for i in range(len(a)) if (sum(a[i]) != sum(b[i])
        and not np.isnan(sum(a[i] + b[i]))) or np.isnan(a[i]).any() != np.isnan(b[i]).any()), -1)),
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
    ("score_within_budget", ("without-effect",), lambda d, s, b, k: s[d <= b].max()),
    ("weight_gradient", ("weights-transposed",), lambda x, g: np.einsum("bi,bo->io", x, g)),
    ("weight_gradient", ("averaged-again",), lambda x, g: (g[:, :, None] * x[:, None, :]).mean(0)),
    ("squashed_log_prob", ("jacobian-missing",), lambda u, m, s: th.distributions.Normal(m, s.exp()).log_prob(u).sum(-1)),
    ("squashed_log_prob", ("jacobian-sign",), lambda u, m, s: (th.distributions.Normal(m, s.exp()).log_prob(u)
        + 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))).sum(-1)),
    ("squashed_log_prob", ("jacobian-saturates",), lambda u, m, s: (th.distributions.Normal(m, s.exp()).log_prob(u)
        - th.log(1 - th.tanh(u).square())).sum(-1)),
    ("squashed_log_prob", ("jacobian-epsilon",), lambda u, m, s: (th.distributions.Normal(m, s.exp()).log_prob(u)
        - th.log(1 - th.tanh(u).pow(2) + 1e-6)).sum(-1)),
    ("recurrent_states", ("state-never-reset",), lambda *a: remember(*a, never=True)),
    ("recurrent_states", ("reset-one-step-late",), lambda *a: remember(*a, late=True)),
    ("recurrent_states", ("every-environment-reset",), lambda *a: remember(*a, all_of_them=True)),
    ("recurrent_states", ("state-detached",), lambda *a: remember(*a, detach=True)),
    ("recurrent_states", ("first-state-ignored",), lambda *a: remember(*a, fresh=True)),
    ("recurrent_states", ("input-reset-too",), lambda *a: remember(*a, forget_input=True)),
    ("recurrent_states", ("first-state-ignored", "state-never-reset"), lambda *a: remember(*a, fresh=True, never=True)),
    ("sequence_lengths", ("cut-after-start",), lengths_as_after_dones),
    ("sequence_lengths", ("empty-sequence-first",), lambda s: np.diff([0, *np.flatnonzero(s), len(s)])),
    ("sequence_lengths", ("first-sequence-lost",), lambda s: np.diff(np.append(np.where(s)[0], len(s)))),
    ("sequence_lengths", ("first-sequence-lost", "last-sequence-lost"), lambda s: np.diff(np.flatnonzero(s))),
    ("padded_mean", ("padding-counted",), lambda x, n: x.mean()),
    ("padded_mean", ("mean-of-means",), lambda x, n: sum(x[i, :k].mean() for i, k in enumerate(n)) / len(n)),
    ("padded_mean", ("divided-by-all",), lambda x, n: x.where(th.arange(x.shape[1]) < n[:, None], th.zeros(())).mean()),
    ("padded_mean", ("one-step-of-padding",), lambda x, n: x[th.arange(x.shape[1]) <= n[:, None]].mean()),
    ("masked_log_prob", ("not-renormalised",), lambda x, m, a: x.log_softmax(-1).gather(1, a[:, None])[:, 0]),
    ("masked_log_prob", ("logits-zeroed",), lambda x, m, a: th.distributions.Categorical(logits=x * m).log_prob(a)),
    ("masked_log_prob", ("mask-read-backwards",), lambda x, m, a: x.masked_fill(m, -1e8).log_softmax(-1)[range(len(a)), a]),
    ("masked_log_prob", ("softmax-twice",), lambda x, m, a: (x.softmax(-1) * m).log_softmax(-1)[range(len(a)), a]),
    ("masked_entropy", ("mask-left-out",), lambda x, m: entropy_of(x)),
    ("masked_entropy", ("not-renormalised",), lambda x, m: entropy_of(x, m)),
    ("masked_entropy", ("infinity-times-zero",), lambda x, m: entropy_of(x.masked_fill(~m, -th.inf))),
    ("masked_entropy", ("where-hides-nan",), lambda x, m: entropy_of(x.masked_fill(~m, -th.inf), m)),
    ("masked_entropy", ("entropy-sign",), lambda x, m: -entropy_of(x.masked_fill(~m, -1e8))),
    ("bradley_terry_loss", ("preference-upside-down",), lambda c, r: th.nn.functional.softplus(c - r).mean()),
    ("bradley_terry_loss", ("sigmoid-rounds-to-zero",), lambda c, r: -((c - r).sigmoid().log()).mean()),
    ("bradley_terry_loss", ("hinge-for-logistic",), lambda c, r: (1 - c + r).clamp(min=0).mean()),
    ("bradley_terry_loss", ("rejected-left-out",), lambda c, r: th.nn.functional.softplus(-c).mean()),
    ("token_rewards_with_kl", ("score-at-every-token",), lambda p, q, s, b: s - b * (p - q)),
    ("token_rewards_with_kl", ("leaving-rewarded",), lambda p, q, s, b: b * (p - q) + th.eye(len(p))[-1][:, None] * s),
    ("token_rewards_with_kl", ("price-paid-at-the-end",), lambda p, q, s, b: th.eye(len(p))[-1][:, None] * (
        s - b * (p - q).sum(0))),
    ("token_rewards_with_kl", ("last-token-for-free",), lambda p, q, s, b: th.cat([-b * (p - q)[:-1], s[None]])),
    ("group_advantages", ("group-ignored",), lambda s: (s - s.mean()) / (s.std() + 1e-8)),
    ("group_advantages", ("groups-crossed",), lambda s: (s - s.mean(0)) / (s.std(0) + 1e-8)),
    ("group_advantages", ("not-divided",), lambda s: s - s.mean(1, keepdim=True)),
    ("group_advantages", ("population-std",), lambda s: (s - s.mean(1)[:, None]) / (s.std(1, unbiased=False)[:, None] + 1e-8)),
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
        assert all(
            {**IDEAS, **{one.name: one.idea for one in MISTAKES.values()}}[name] in verdict.paragraphs for name in mistakes
        )
        assert verdict.share < 1.0


def test_planted_mistakes_are_many() -> None:
    """More than thirty different mistakes are recognised by name."""
    assert len({mistakes for _, mistakes, _ in PLANTED}) > 45
