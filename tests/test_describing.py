"""What no change to the right formula explains is described by what is seen: which entries, which inputs, which part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.judging import judge
from sb3_ppo_edu.course.exercises.observing import Observation
from tests.right_answers import Answer


def last_step_goes_on(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float) -> Any:
    """TD errors that take what follows the last step for given, though an episode may end with it."""
    dones = dones.copy()
    dones[-1] = 0
    return EXERCISES["td_errors"].solution(rewards, values, dones, next_value, gamma)


def each_logit_alone(logits: Any, actions: Any, upstream: Any) -> Any:
    """A sigmoid for each action, where they compete."""
    return (np.eye(logits.shape[1])[actions] - 1 / (1 + np.exp(-logits))) * upstream[:, None]


def interpolated(decisions: Any, scores: Any, budget: int, action_repeat: int) -> float:
    """Between two evaluations."""
    return float(np.interp(budget, decisions * action_repeat, scores))


def narrow_one_hot(logits: Any, actions: Any, upstream: Any) -> Any:
    """As many columns as the largest action has."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return (np.eye(actions.max() + 1)[actions] - e / e.sum(1, keepdims=True)) * upstream[:, None]


def constant_once(actions: Any, mean: Any, log_std: Any) -> Any:
    """The normaliser of one dimension, whatever their number."""
    return -(((actions - mean) / log_std.exp()) ** 2 / 2 + log_std).sum(-1) - 0.5 * math.log(2 * math.pi)


def sigmoid_slope(raw: Any, mean: Any, log_std: Any) -> Any:
    """The slope of another squashing function."""
    slope = raw.sigmoid() * (1 - raw.sigmoid())
    return th.distributions.Normal(mean, log_std.exp()).log_prob(raw).sum(-1) - slope.log().sum(-1)


def spread_of_all_rows(logits: Any, actions: Any, upstream: Any) -> Any:
    """Subtracts the largest logit of all states: a state with small ones has 0/0."""
    e = np.exp(logits - logits.max())
    return (np.eye(logits.shape[1])[actions] - e / e.sum(1, keepdims=True)) * upstream[:, None]


SEEN: list[tuple[str, str, str, Answer]] = [
    ("td_errors", "special-case", "wrong only for “an episode ends with the last step”", last_step_goes_on),
    ("normalize_advantages", "special-case", "wrong only for “a single advantage”", lambda a:
        (a - a.mean()) / (a.std() + 1e-8) if a.numel() > 1 else 0 * a),
    ("bootstrap_time_limits", "entries", "wrong only where `terminated` is 1 and `truncated` is 0", lambda r, te, tr, v, g:
        r + g * v * (tr - te)),
    ("logits_gradient", "influence", "`logits` has no effect where it should have one", each_logit_alone),
    ("logits_gradient", "raises", "raises ValueError for some inputs", narrow_one_hot),
    ("logits_gradient", "not-finite", "some results are NaN", spread_of_all_rows),
    ("weight_gradient", "places", "in the wrong places", lambda x, g: (x.T @ g).reshape(g.shape[1], x.shape[1])),
    ("gaussian_log_prob", "number", "once for all dimensions", constant_once),
    ("total_loss", "part", "the part with `policy_loss` is not right", lambda p, v, h, c, d: (1 - c - d) * p + c * v - d * h),
    ("squashed_log_prob", "part", "the gradient is right, the numbers are not", sigmoid_slope),
    ("score_within_budget", "range", "some results are none of `scores`", interpolated),
    ("approx_kl", "range", "some results are negative", lambda new, old: (
        (new - old).exp() - 1 - th.log1p((new - old).exp())).mean()),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("index", range(len(SEEN)))
def test_what_is_seen_is_said(index: int) -> None:
    """Each description is true of the answer, and points at where it goes wrong."""
    name, family, words, answer = SEEN[index]
    verdict = check(name, answer)
    assert verdict.status == "wrong"
    assert verdict.mistakes == (family,), str(verdict)
    assert words in verdict.headline


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("clip_fraction", lambda r, e: (abs(r - 1) > e).mean(), "`.float()` makes 1 and 0 of them"),
        ("surrogate_gradient", lambda r, a, e: -(r > 1) * a, "Yes and no are no numbers to numpy"),
        ("masked_log_prob", lambda x, m, a: x.masked_fill_(~m, -1e8).log_softmax(-1)[range(len(a)), a], "changed in place"),
    ],
)
def test_exceptions_are_translated(name: str, answer: Answer, words: str) -> None:
    """An exception that everybody meets is said in words of what to do."""
    verdict = check(name, answer)
    assert verdict.status == "crashed"
    assert verdict.mistakes == ("raises",)
    assert words in verdict.paragraphs[0]


def test_a_state_that_is_changed_in_place_is_called_that() -> None:
    """The gradient that can't be computed afterwards is its consequence."""

    def emptied(inputs: Any, starts: Any, state: Any, w_in: Any, w_rec: Any) -> Any:
        states = []
        for x, start in zip(inputs, starts, strict=True):
            state[start.bool()] = 0.0
            state = th.tanh(x @ w_in.T + state @ w_rec.T)
            states.append(state)
        return th.stack(states)

    assert check("recurrent_states", emptied).mistakes == ("inputs-changed",)


def test_observations_from_elsewhere_that_do_not_fit_are_no_trouble() -> None:
    """Too few numbers for the shape, or no gradient: wrong, without an exception."""
    exercise = EXERCISES["squashed_log_prob"]
    cases = exercise.cases()
    for values in ([], [0.5]):
        observations = [Observation(case.name, "Tensor", (len(case.arguments["mean"]),), values) for case in cases]
        assert judge(exercise, observations).status == "wrong"
