"""Mistakes without an entry in the catalogue are named by their family: small changes to what is right, and detours."""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.comparing import alike
from sb3_ppo_edu.course.exercises.faultless import functions_of
from sb3_ppo_edu.course.exercises.mistakes.families import IDEAS
from sb3_ppo_edu.course.exercises.observing import observe_once
from sb3_ppo_edu.course.exercises.transforming import after, before
from sb3_ppo_edu.course.exercises.variants import variants
from tests.right_answers import STYLES, Answer


def lambda_twice(r: Any, v: Any, d: Any, n: Any, gamma: float, lam: float) -> Any:
    """λ weighs the value of the next state in the TD error, too."""
    deltas = r + gamma * lam * np.append(v[1:], np.asarray(n)[None], 0) * (1 - d) - v
    advantages = deltas.copy()
    for t in reversed(range(len(r) - 1)):
        advantages[t] += gamma * lam * (1 - d[t]) * advantages[t + 1]
    return advantages


FAMILIES: list[tuple[str, str, str, Answer]] = [
    ("total_loss", "without-effect", "`vf_coef`, `ent_coef` have no effect", lambda p, v, h, c, d: p + 0.5 * v - 0.01 * h),
    ("clipped_objective", "without-effect", "`clip_range` has no effect", lambda r, a, e: th.min(r * a, r.clip(0.8, 1.2) * a)),
    ("discounted_returns", "without-effect", "`gamma` has no effect", lambda r, g: EXERCISES["discounted_returns"].solution(
        r, 0.99)),
    ("approx_kl", "sign", "sign", lambda new, old: ((new - old).exp() - 1 + (new - old)).mean()),
    ("approx_kl", "term", "term is missing", lambda new, old: ((new - old).exp() - (new - old)).mean()),
    ("total_loss", "term", "`entropy`", lambda p, v, h, c, d: p + c * v),
    ("total_loss", "factor", "`ent_coef`", lambda p, v, h, c, d: p + c * v - h),
    ("normalize_advantages", "brackets", "Brackets are missing", lambda a:
        a if a.numel() < 2 else a - a.mean() / (a.std() + 1e-8)),
    ("compute_policy_loss", "order", "mean is taken before", lambda n, o, a, e: -th.min(
        ((n - o).exp() * a).mean(), ((n - o).exp().clip(1 - e, 1 + e) * a).mean())),
    ("clipped_value_loss", "order", "mean is taken before", lambda v, o, r, e: th.max(
        ((v - r) ** 2).mean(), ((o + (v - o).clip(-e, e) - r) ** 2).mean())),
    ("squashed_log_prob", "function", "`tanh` of `raw_actions`", lambda u, m, s: (
        th.distributions.Normal(m, s.exp()).log_prob(u.tanh())
        - 2 * (math.log(2) - u - th.nn.functional.softplus(-2 * u))).sum(-1)),
    ("reinforce_loss", "normalised", "`returns` is normalised", lambda lp, g: -(lp * (g - g.mean()) / (g.std() + 1e-8)).mean()
        if len(g) > 1 else -lp.mean() * math.nan),
    ("categorical_entropy", "number", "the scale is wrong", lambda x:
        th.distributions.Categorical(logits=x).entropy().mean() / math.log(2)),
    ("weight_gradient", "function", "absolute value", lambda x, g: abs(g.T @ x)),
    ("tanh_gradient", "number", "number of `outputs`", lambda y, g: (1 - y * y) * g / len(y)),
    ("td_errors", "step", "shifted one step later", lambda r, v, d, n, g: np.append(
        0 * r[:1], EXERCISES["td_errors"].solution(r, v, d, n, g)[:-1], 0)),
    ("compute_gae", "order", "first entry in every place", lambda *a: (lambda x: 0 * x + x[:1])(
        EXERCISES["compute_gae"].solution(*a))),
    ("explained_variance", "bound", "clipped to 0", lambda v, g:
        max(0.0, 1 - np.var(g - v) / np.var(g)) if np.ptp(g) else np.nan),
    ("learning_rate_advice", "condition", "exchanged", lambda k, c: -1 if np.median(k) > 0.05 else int(
        np.median(k) < 0.003 or np.median(c) < 0.05)),
    ("gaussian_log_prob", "argument", "`mean`", lambda a, m, s:
        th.distributions.Normal(m, s.exp()).log_prob(m).sum(-1) + 0 * a[:, 0]),
    ("clipped_objective", "gradient", "detached", lambda r, a, e: th.min(r * a, r.clip(1 - e, 1 + e).detach() * a)),
    ("learning_rate_advice", "comparison", "threshold is too low: the one on `approx_kl`", lambda k, c:
        -1 if np.median(k) > 0.03 else int(np.median(k) < 0.003 and np.median(c) < 0.05)),
    ("actor_critic_loss", "power", "Huber", lambda lp, v, g, c: -(lp * (g - v[:, 0]).detach()).mean()
        + c * th.nn.functional.smooth_l1_loss(v[:, 0], g)),
    ("td_errors", "argument", "last of `values` stands where `next_value`", lambda r, v, d, n, g:
        EXERCISES["td_errors"].solution(r, v, d, v[-1], g)),
    ("compute_gae", "factor", "`lam` is a factor too many, beside `gamma`", lambda r, v, d, n, g, lam: lambda_twice(
        r, v, d, n, g, lam)),
    ("weight_gradient", "reduction", "Only the last of the batch counts", lambda x, g: np.outer(g[-1], x[-1])),
    ("weight_gradient", "normalised", "reduced by its mean over the first axis", lambda x, g: g.T @ (x - x.mean(0))),
    ("approx_kl", "reduction", "averaged too early", lambda new, old: (new - old).mean().exp() - 1 - (new - old).mean()),
    ("explained_variance", "number", "n and n − 1 are exchanged", lambda v, g:
        1 - np.var(g - v) / np.var(g, ddof=1) if np.ptp(g) else np.nan),
    ("interquartile_mean", "bound", "rounded to the nearest", lambda s: np.sort(s)[round(len(s) / 4) : len(s) - round(
        len(s) / 4)].mean()),
    ("compute_entropy_bonus", "other-quantity", "This is `categorical_entropy`", lambda s: -(s.softmax(-1) * s.log_softmax(
        -1)).sum(-1).mean()),
    ("masked_log_prob", "shape", "the shape is not right", lambda x, m, a: x.masked_fill(~m, -1e8).log_softmax(-1)[:, a]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("index", range(len(FAMILIES)))
def test_families_are_named(index: int) -> None:
    """Each wrong answer is named by its family, in words of the exercise, and told what to think about."""
    name, family, words, answer = FAMILIES[index]
    verdict = check(name, answer)
    assert verdict.status == "wrong"
    assert verdict.mistakes == (family,), str(verdict)
    assert words in verdict.headline
    assert words.startswith("the s") or IDEAS[family] in verdict.paragraphs


def test_nothing_is_named_that_nothing_explains() -> None:
    """Numbers from nowhere get no name."""
    for answer in (lambda lp, g: (lp.sin() * g.cos()).mean(), lambda lp, g: th.tensor(0.37) + 0 * lp.sum()):
        assert check("reinforce_loss", answer).mistakes == ()


def test_hardly_anything_wrong_is_explained_by_hardly_anything() -> None:
    """Where one number is wrong, or only NaN is, many changes explain it: none is named."""
    for answer in (lambda a: a - a.mean() if a.numel() < 2 else (a - a.mean()) / (a.std() + 1e-8),):
        assert check("normalize_advantages", answer).mistakes == ("special-case",)
    other_nan = EXERCISES["first_difference"].with_faults("nan-never-equal")
    assert check("first_difference", other_nan).mistakes == ("nan-never-equal",)
    one_sided = check("first_difference", lambda a, b: next(iter(np.flatnonzero((abs(a - b) > 0).any(1))), -1))
    assert one_sided.mistakes == ("special-case",)
    assert "NaN in the first run" in one_sided.headline


def test_a_mistake_is_named_although_the_answer_raises_for_some_inputs() -> None:
    """A zip that is strict fails where numbers of runs differ; the mistake is the pairing, and the error is told as well."""
    verdict = check("probability_of_improvement", lambda a, b: np.mean((a > b) + (a == b) / 2))
    assert verdict.mistakes == ("pair-by-pair",)
    assert "raises ValueError" in verdict.paragraphs[-1]


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_what_is_changed_is_what_is_right(name: str) -> None:
    """Without faults the source has none left, and its functions are many small steps away from it, all with an idea."""
    _, functions = functions_of(name)
    text = "\n".join(ast.unparse(function) for function in functions)
    assert " in faults" not in text
    assert "& faults" not in text
    found = variants(name)
    assert {one.family for one in found} <= set(IDEAS)
    assert len(found) >= 3


@pytest.mark.parametrize("name", ["approx_kl", "td_errors"])
def test_changes_are_undone(name: str) -> None:
    """What was changed for one variant is as it was for the next: most variants differ from what is right, each on its own."""
    exercise = EXERCISES[name]
    case = exercise.cases()[-1]
    right = observe_once(exercise.solution, case)
    with np.errstate(all="ignore"):
        same = [alike(observe_once(one.answer, case), right) for one in variants(name)]
    assert sum(same) < len(same) / 4


def test_no_right_answer_is_a_detour() -> None:
    """What is done before or after changes the result, but for what cannot: a mean of one number, the sign of a square."""
    arguments: dict[str, Any] = EXERCISES["gaussian_log_prob"].cases()[-1].arguments
    right = EXERCISES["gaussian_log_prob"].solution(*arguments.values())
    changes = [*before(arguments), *after(False)]
    same = 0
    for _, _, change in changes:
        try:
            found = change(EXERCISES["gaussian_log_prob"].solution)(*arguments.values())
        except (TypeError, ValueError, RuntimeError, IndexError):
            continue
        same += found.shape == right.shape and bool(th.allclose(th.as_tensor(found), right))
    assert same <= 12
    assert len(changes) > 100


def test_styles_are_not_changed_by_being_looked_at() -> None:
    """Naming never changes the inputs: the same answer is judged the same twice."""
    name, answer = STYLES[0]
    wrong = lambda *given: answer(*given)[::-1]  # noqa: E731
    assert str(check(name, wrong)) == str(check(name, wrong))
