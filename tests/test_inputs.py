"""Inputs of the exercises: none lies where two right answers differ, and none lets a number be left out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.course.exercises import check
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.comparing import alike
from sb3_ppo_edu.course.exercises.exercise import Exercise
from sb3_ppo_edu.course.exercises.inputs import away_from, moved, varied, window
from sb3_ppo_edu.course.exercises.observing import Case, observe_once
from sb3_ppo_edu.course.exercises.variants import variants
from tests.right_answers import STYLES, Answer, advice_by_quantiles

NUMBERS = [
    (name, argument)
    for name, exercise in EXERCISES.items()
    for argument, value in exercise.cases()[0].arguments.items()
    if isinstance(value, int | float)
    if argument != "next_value"  # a value of the critic, which is an array in other inputs
]


def bounded(ratio: Any, advantages: Any, clip_range: float, *, at: bool) -> Any:
    """The advantage times the ratio or its bound, whichever holds the policy back; `at` says what is done on a bound."""
    beyond = (ratio >= 1 + clip_range) if at else (ratio > 1 + clip_range)
    before = (ratio <= 1 - clip_range) if at else (ratio < 1 - clip_range)
    held = ((advantages >= 0) & beyond) | ((advantages < 0) & before)
    bound = th.where(advantages >= 0, 1 + clip_range, 1 - clip_range)
    return th.where(held, bound, ratio) * advantages


def spinning_up(ratio: Any, advantages: Any, clip_range: float) -> Any:
    """PPO-clip as it is written with a bound g(ε, A)."""
    bound = th.where(advantages >= 0, (1 + clip_range) * advantages, (1 - clip_range) * advantages)
    return th.min(ratio * advantages, bound)


def by_minimum_and_clip(ratio: Any, advantages: Any, clip_range: float) -> Any:
    """The paper's."""
    return th.minimum(ratio * advantages, ratio.clip(1 - clip_range, 1 + clip_range) * advantages)


OBJECTIVES: list[Answer] = [
    spinning_up,
    by_minimum_and_clip,
    lambda r, a, e: bounded(r, a, e, at=True),
    lambda r, a, e: bounded(r, a, e, at=False),
    lambda r, a, e: r * a - th.relu(r * a - r.clip(1 - e, 1 + e) * a),
]

FORMS: list[tuple[str, Answer]] = [
    *STYLES,
    *(("clipped_objective", form) for form in OBJECTIVES),
    *(
        ("compute_policy_loss", lambda new, old, a, e, form=form: -form((new - old).exp(), a, e).mean())
        for form in OBJECTIVES
    ),
    ("surrogate_gradient", lambda r, a, e: np.where(np.where(a >= 0, r >= 1 + e, r <= 1 - e), 0.0, -r * a / len(r))),
    ("surrogate_gradient", lambda r, a, e: np.where(r * a < r.clip(1 - e, 1 + e) * a, -r * a, np.where(
        abs(r - 1) <= e, -r * a, 0)) / len(r)),
    ("clip_fraction", lambda r, e: (abs(r - 1) >= e).float().mean()),
    ("clip_fraction", lambda r, e: ((r <= 1 - e) | (r >= 1 + e)).double().mean()),
    ("clip_fraction", lambda r, e: (r != r.clip(1 - e, 1 + e)).float().mean()),
    ("clipped_value_loss", lambda v, o, r, e: th.where(
        (v - r).abs() >= (o + (v - o).clip(-e, e) - r).abs(), v - r, o + (v - o).clip(-e, e) - r).square().mean()),
    ("clipped_value_loss", lambda v, o, r, e: th.where(
        (v - r).abs() > (v.clip(o - e, o + e) - r).abs(), v - r, v.clip(o - e, o + e) - r).pow(2).mean()),
]  # fmt: skip
"""Right answers that do something else, or have another derivative, exactly on a threshold or at a kink."""


KINKED = ("clipped_objective", "compute_policy_loss", "surrogate_gradient", "clip_fraction", "clipped_value_loss")


def assert_accepted(forms: list[tuple[str, Answer]], seeds: range) -> None:
    """Compare every form with what is right on many inputs."""
    for name, seed in itertools.product(sorted({name for name, _ in forms}), seeds):
        cases = EXERCISES[name].cases(seed)
        expected = [observe_once(EXERCISES[name].solution, case) for case in cases]
        for answer in (answer for form, answer in forms if form == name):
            for case, right in zip(cases, expected, strict=True):
                assert alike(observe_once(answer, case), right), f"{name}, {case.name}, seed {seed}"


@pytest.mark.filterwarnings("ignore:overflow")
def test_no_right_form_is_refused() -> None:
    """`>` or `>=`, min, clip, where, relu or a bound: whatever the seed of the inputs, what is right is accepted."""
    assert_accepted(FORMS, range(1, 3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow")
def test_no_right_form_is_refused_with_a_thousand_seeds() -> None:
    """The same for 1,000 seeds where there is a kink or a threshold, and for 100 everywhere."""
    assert_accepted([form for form in FORMS if form[0] in KINKED], range(1000))
    assert_accepted(FORMS, range(100))


def kinks(name: str, a: dict[str, Any]) -> Any:
    """How far each number of an input is from where its exercise has a kink or a threshold."""
    if name == "clipped_value_loss":
        change = a["values"] - a["old_values"]
        clipped = change.clip(-a["clip_range_vf"], a["clip_range_vf"])
        tie = (change + clipped) / 2 - (a["returns"] - a["old_values"])
        return th.cat([change.abs() - a["clip_range_vf"], tie])
    ratio = a["ratio"] if "ratio" in a else (a["log_probs"] - a["old_log_probs"]).exp()
    return abs(ratio - 1) - a.get("clip_range", a.get("clip_epsilon"))


@pytest.mark.parametrize("name", KINKED)
def test_no_number_lies_near_a_kink(name: str) -> None:
    """For 100 seeds no number comes nearer to a bound of the window, a tie or a threshold than a hundredth."""
    nearest = min(float(abs(kinks(name, case.arguments)).min()) for seed in range(100) for case in EXERCISES[name].cases(seed))
    assert nearest > 0.0099


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_each_number_has_a_pair_of_inputs_of_its_own(name: str, argument: str) -> None:
    """Two inputs differ in this number alone and have different answers: hard-coding it, whatever the value, shows."""
    exercise = EXERCISES[name]
    for seed in range(20):
        assert any(
            differs_only(one, other, argument)
            and not np.allclose(
                observe_once(exercise.solution, one).values,
                observe_once(exercise.solution, other).values,
                rtol=1e-3,
                atol=1e-4,
            )
            for one, other in itertools.combinations(exercise.cases(seed), 2)
        )


def differs_only(one: Case, other: Case, argument: str) -> bool:
    """Whether two inputs are the same but for one argument."""
    return one.arguments[argument] != other.arguments[argument] and all(
        np.array_equal(np.asarray(value), np.asarray(other.arguments[name]))
        for name, value in one.arguments.items()
        if name != argument
    )


def by_a_loop(rewards: Any, gamma: float, kept: Answer) -> list[float]:
    """Discounted returns, with something done to what is carried back."""
    returns = [0.0]
    for reward in rewards[::-1]:
        returns.insert(0, reward + gamma * kept(returns[0]))
    return returns[:-1]


HARD_CODED: list[tuple[str, Answer]] = [
    ("compute_policy_loss", lambda n, o, a, e: -by_minimum_and_clip((n - o).exp(), a, 0.2).mean()),
    ("clip_fraction", lambda r, e: (r.log().abs() > e).float().mean()),
    ("first_difference", lambda a, b: next(iter(np.flatnonzero((np.nan_to_num(a) != np.nan_to_num(b)).any(1))), -1)),
    ("logits_gradient", lambda x, a, g: (np.eye(x.shape[1])[a] - np.exp(x) / np.exp(x).sum(1, keepdims=True)) * g[:, None]),
    ("probability_of_improvement", lambda a, b: np.sum((a[:, None] > b) + (a[:, None] == b) / 2) / len(a) ** 2),
    ("discounted_returns", lambda r, g: EXERCISES["discounted_returns"].solution(r, 0.9)),
    ("bootstrap_time_limits", lambda r, te, tr, v, g: r + 0.9 * v * tr * (1 - te)),
    ("discounted_returns", lambda r, g: by_a_loop(r, g, lambda later: max(later, 0.0))),
    ("logits_gradient", lambda x, a, g: (np.eye(max(a) + 1)[a] - np.exp(x - np.logaddexp.reduce(x, 1)[:, None])) * g[:, None]),
    ("normalize_advantages", lambda a: a if a.numel() < 2 else (a - a.mean()) / (a.var() + 1e-8).sqrt()),
    (
        "learning_rate_advice",
        lambda k, c: advice_by_quantiles(k, c) if len(k) % 2 else advice_by_quantiles(np.sort(k)[len(k) // 2 :][:1], c),
    ),
    ("learning_rate_advice", lambda k, c: -1 if np.median(k) > 0.1 else int(np.median(k) < 0.001 and np.median(c) < 0.1)),
]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("index", range(len(HARD_CODED)))
def test_what_the_grader_rejects_the_notebook_rejects(index: int) -> None:
    """Constants of the usual value, another window, lengths taken for equal and naive softmax fail on the visible inputs."""
    assert check(*HARD_CODED[index]).status == "wrong"


def accepted(exercise: Exercise, answer: Answer, seed: int) -> bool:
    """Whether an answer is right on all inputs of a seed."""
    return all(alike(observe_once(answer, case), observe_once(exercise.solution, case)) for case in exercise.cases(seed))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_no_small_change_passes_in_the_notebook_alone(name: str) -> None:
    """Whatever mistake and whatever small change to what is right other seeds reject, the visible inputs reject as well."""
    exercise = EXERCISES[name]
    answers = {mistake: exercise.with_faults(mistake) for mistake in exercise.mistakes}
    answers |= {f"{number} {one.title}": one.answer for number, one in enumerate(variants(name))}
    passing = [title for title, answer in answers.items() if accepted(exercise, answer, 0)]
    assert [title for title in passing if not all(accepted(exercise, answers[title], seed) for seed in (1, 2, 3))] == []


def test_numbers_are_drawn_on_all_sides_of_the_kinks() -> None:
    """One number in each interval between kinks before a second in any; none within the margin; the bounds are kept."""
    drawn = away_from([0.0, 1.0], np.random.default_rng(3), -1.0, 2.0, 9, margin=0.1)
    assert drawn.shape == (9,)
    assert [int(np.floor(number)) for number in drawn] == [-1, 0, 1] * 3
    assert np.min(np.abs(drawn[:, None] - [0.0, 1.0])) >= 0.1
    assert window(0.2, 0.1) == pytest.approx([0.8, 0.9, 1.1, 1.2])


def test_varied_changes_one_number_and_says_which() -> None:
    """The other arguments are the same objects, the old case is as it was."""
    case = Case("six", {"rewards": np.arange(6.0), "gamma": 0.9}, ("rewards",))
    other = varied(case, gamma=0.5)
    assert other.name == "the same as “six”, γ = 0.5"
    assert other.arguments == {"rewards": case.arguments["rewards"], "gamma": 0.5}
    assert case.arguments["gamma"] == 0.9
    assert other.differentiable == ("rewards",)
    assert varied(case, rewards=np.zeros(6)).name == "the same as “six”, other `rewards`"


def test_moved_changes_one_entry_of_one_array() -> None:
    """By as much as it is told, in an array and in a tensor; the old one stays as it is."""
    case = Case("six", {"rewards": np.zeros((2, 3)), "values": th.zeros(2)})
    other = moved(case, "rewards", 1, 2)
    assert other.arguments["rewards"].tolist() == [[0, 0, 0], [0, 0, 0.7]]
    assert other.arguments["values"] is case.arguments["values"]
    assert moved(case, "values", 0, by=-2.0).arguments["values"].tolist() == [-2, 0]
    assert not case.arguments["rewards"].any()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("normalize_advantages", lambda a: a if len(a) == 1 else (a - sum(a) / len(a)) / (a.std() + 1e-8)),
        ("compute_gae", lambda r, v, d, n, g, lam: by_environment(r, v, d, n, g, lam)),
    ],
)
def test_a_lesson_is_judged_by_its_own_text(name: str, answer: Answer) -> None:
    """Lesson 04 asks for a flat batch, and for several environments: what does no more is right there and wrong elsewhere."""
    assert check(name, answer, lesson="04").passed
    assert check(name, answer, 3, "04_ppo_from_scratch").passed
    assert not check(name, answer).passed
    assert check(name, EXERCISES[name].solution, lesson="04").passed


def by_environment(rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float, lam: float) -> Any:
    """GAE, one column after the other."""
    columns = [
        EXERCISES["compute_gae"].solution(rewards[:, e], values[:, e], dones[:, e], next_value[e], gamma, lam)
        for e in range(rewards.shape[1])
    ]
    return np.stack(columns, axis=1)
