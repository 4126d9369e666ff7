"""Judging: what has no name is described by what can be seen, and nbgrader gets what it needs."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.judging import judge
from sb3_ppo_edu.course.exercises.observing import observe
from sb3_ppo_edu.functional import losses
from tests.right_answers import Answer, policy_loss_relu

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
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, 0.3), "wrong", "has no effect"),
        ("compute_policy_loss", lambda lp, o, a, e: policy_loss_relu(lp, o, a, e) - lp.sum() + lp.sum().detach(), "wrong",
         "the gradient is not"),
        ("categorical_entropy", lambda x: th.special.entr(x.softmax(-1)).sum(-1).mean(), "wrong", "NaN"),
        ("discounted_returns", lambda r, g: np.sin(r + g), "wrong", "`rewards` has no effect where it should have one"),
        ("reinforce_loss", lambda lp, g: (lp.sin() * g.cos()).mean(), "wrong", "numbers are not right"),
        ("clip_fraction", lambda r, e: -losses.clip_fraction(r, e), "wrong", "negated"),
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


def test_missing_observations_are_no_pass() -> None:
    """An answer that was seen on fewer inputs than there are has not passed."""
    exercise = EXERCISES["clip_fraction"]
    observed = observe(losses.clip_fraction, exercise.cases())
    assert not judge(exercise, observed[:-1]).passed
    assert not judge(exercise, []).passed
