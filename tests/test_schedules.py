"""Schedules as text: the equation of each, what is refused, and that they reach every scheduled argument."""

from __future__ import annotations

import copy
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.utils import LinearSchedule

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import SCHEDULES
from sb3_ppo_edu.algorithms.checks import ArgumentError, parse_schedule
from sb3_ppo_edu.doctor.findings import Change
from sb3_ppo_edu.doctor.record import record_of_rows
from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate
from sb3_ppo_edu.functional.schedules import TextSchedule, beginning_at, read
from tests.rollouts import N_STEPS, make_env, make_model, record

BY_HAND: dict[str, dict[float, float]] = {
    "lin_0.8": {0: 0.8, 0.25: 0.6, 0.5: 0.4, 1: 0.0, 1.5: 0.0},
    "lin_0.8_0.4": {0: 0.8, 0.25: 0.7, 0.5: 0.6, 1: 0.4, 1.5: 0.4},
    "cos_0.8": {0: 0.8, 0.25: 0.4 + 0.4 * math.sqrt(0.5), 0.5: 0.4, 2 / 3: 0.2, 1: 0.0, 1.5: 0.0},
    "cos_0.8_0.4": {0: 0.8, 0.5: 0.6, 2 / 3: 0.5, 1: 0.4},
    "exp_0.8_0.2": {0: 0.8, 0.5: 0.4, 0.25: 0.8 / math.sqrt(2), 1: 0.2, 1.5: 0.2},
    "piecewise_3_0.5_2_0.8_1": {0: 3, 0.49: 3, 0.5: 2, 0.79: 2, 0.8: 1, 1: 1, 1.5: 1},
    "warmup_0.2_0.8": {0: 0.0, 0.1: 0.4, 0.2: 0.8, 0.7: 0.8, 1: 0.8},
    "warmup_0_0.8": {0: 0.8, 0.5: 0.8, 1: 0.8},
    "warmup_0_lin_0.8": {0: 0.8, 0.5: 0.4, 1: 0.0},
    "warmup_0.2_lin_0.8": {0: 0.0, 0.05: 0.2, 0.2: 0.8, 0.6: 0.4, 1: 0.0},
    "warmup_0.5_exp_0.8_0.2": {0.25: 0.4, 0.5: 0.8, 0.75: 0.4, 1: 0.2},
    "warmup_0.5_piecewise_3_0.5_2": {0.25: 1.5, 0.5: 3, 0.74: 3, 0.75: 2, 1: 2},
}
"""Text -> share of the training that is done -> value."""


@pytest.mark.parametrize("text", BY_HAND)
def test_values_are_those_of_the_equations(text: str) -> None:
    """Each kind, with a warm-up and without, at its start and end, in between, and beyond the end, as worked out by hand."""
    schedule: Any = parse_schedule("learning_rate", text)
    for done, value in BY_HAND[text].items():
        assert schedule(1 - done) == pytest.approx(value, abs=1e-12), done
    assert TextSchedule(text)(0.25) == pytest.approx(schedule(0.25), rel=1e-15)


def test_lines_are_sb3s_own() -> None:
    """A line is SB3's class, with the bits that the zoo trains with: who loads the file need not have this package."""
    for text, end in (("lin_3e-4", 0.0), ("lin_3e-4_1e-5", 1e-5)):
        schedule = parse_schedule("learning_rate", text)
        assert type(schedule) is LinearSchedule and vars(schedule) == vars(LinearSchedule(3e-4, end, 1.0))


@given(st.sampled_from([one for one in BY_HAND if not one.startswith("warmup")]), st.floats(0.01, 0.99), st.floats(0, 1))
def test_a_warmup_puts_the_other_schedule_behind_it(text: str, warmup: float, x: float) -> None:
    """What is left of the training after the warm-up has the whole schedule; before, a line leads to its first value."""
    schedule, inner = TextSchedule(f"warmup_{warmup!r}_{text}"), TextSchedule(text)
    if not text.startswith("piecewise"):  # rounding may be on the other side of a jump
        assert schedule(1 - (warmup + x * (1 - warmup))) == pytest.approx(inner(1 - x), abs=1e-9)
    assert schedule(1 - x * warmup) == pytest.approx(x * inner(1.0), abs=1e-9)


def test_a_schedule_is_its_text() -> None:
    """It is copied, pickled and compared as such, and can't be changed."""
    schedule = TextSchedule("warmup_0.1_cos_0.5")
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule and twin(0.3) == schedule(0.3) and vars(twin) == {"text": schedule.text}
    with pytest.raises(AttributeError):
        schedule.text = "cos_1"  # type: ignore[misc]


WRONG = {
    "linear_3e-4": "did you mean 'lin_3e-4'?",
    "cosine_3e-4_1e-5": "did you mean 'cos_3e-4_1e-5'?",
    "Exp_3e-4_1e-5": "did you mean 'exp_3e-4_1e-5'?",
    "exponential_3e-4_1e-5": "did you mean 'exp_3e-4_1e-5'?",
    "peicewise_1_0.5_0.1": "did you mean 'piecewise_1_0.5_0.1'?",
    "warmup_0.1_cosin_3e-4": "did you mean 'warmup_0.1_cos_3e-4'?",
    "warm_0.1_cos_3e-4": "did you mean 'warmup_0.1_cos_3e-4'?",
    "exp_3e-4": "exp_START_END",
    "exp_3e-4_0": "exp_START_END",
    "lin_1_2_3": "lin_START or lin_START_END",
    "cos_nan": "cos_START",
    "cos_inf": "cos_START",
    "piecewise_1": "piecewise_VALUE_SHARE_VALUE",
    "piecewise_1_0.5": "piecewise_VALUE_SHARE_VALUE",
    "piecewise_1_0.5_2_0.4_1": "shares that rise",
    "piecewise_1_1_2": "shares that rise",
    "warmup_-0.1_1e-3": "warmup_SHARE_",
    "warmup_nan_1e-3": "warmup_SHARE_",
    "warmup_1_1e-3": "warmup_SHARE_",
    "warmup_0.1": "warmup_SHARE_",
    "warmup_0.1_warmup_0.1_1": "warmup_SHARE_",
    "kl_0": "kl_TARGET",
    "kl_0.01_1e-3_1e-5": "kl_TARGET",
    "kl_0.01_1e-3_1e-2_1e-5": "the lowest rate 0.01 is above the highest, 1e-05: kl_TARGET_START_LOW_HIGH",
    "warmup_0.1_kl": "kl_TARGET, kl_TARGET_START",
    "warmup_0.1_lin": "lin_START or",
    "kl_0.01_1": "rate=1: expected one from low=1e-05, > 0, to high=0.01: kl_TARGET_START_LOW_HIGH gives other bounds",
    "3e-4": "a constant is a number, not text: 0.0003",
    "constant_3e-4": "a constant is a number, not text: 0.0003",
    "_1": "begins with lin_, cos_, exp_, piecewise_, warmup_, kl_",
    "fast": "begins with lin_",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_text_is_refused_with_the_nearest_right_one(text: str) -> None:
    """With the argument's name, what was found, and either the text that was meant or how one of that kind is written."""
    with pytest.raises(ArgumentError) as error:
        EduPPO("MlpPolicy", make_env(), learning_rate=text)
    assert str(error.value).startswith(f"learning_rate={text!r}: expected a number, a schedule, or a string such as ")
    assert WRONG[text] in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("learning_rate", "cos_-1"),
        ("learning_rate", "cos_1_-1"),
        ("clip_range", "cos_0_1"),
        ("clip_range_vf", "warmup_0.1_0"),
        ("vf_coef", "piecewise_1_0.5_-1"),
    ],
)
def test_numbers_are_in_the_arguments_range(name: str, text: str) -> None:
    """Every value of a schedule is legal for its argument; a clip range begins above 0."""
    arguments: dict[str, Any] = {name: text}
    with pytest.raises(ArgumentError, match=f"{name}='{text}': expected .* with a number [>≥] 0"):
        EduPPO("MlpPolicy", make_env(), **arguments)


@pytest.mark.parametrize("name", [one for one in SCHEDULES if one != "learning_rate"])
@pytest.mark.parametrize("value", ["kl_0.01", KLAdaptiveLearningRate()], ids=["text", "object"])
def test_only_the_learning_rate_follows_the_kl(name: str, value: Any) -> None:
    """Elsewhere both forms are refused."""
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ArgumentError, match=re.escape(f"{name}={value!r}: ") + ".*: only the learning rate follows the KL"):
        EduPPO("MlpPolicy", make_env(), **arguments)


def test_every_scheduled_argument_takes_every_text(tmp_path: Path) -> None:
    """
    Each is evaluated at each update's progress, here 0.5 and 0; saved and loaded, also untrusted, it goes on.

    SB3's PPO loads the file and goes on with the schedules that it has.
    """
    texts: dict[str, Any] = {
        "learning_rate": "cos_0.004_0.002",
        "clip_range": "exp_0.4_0.1",
        "clip_range_vf": "piecewise_0.3_0.4_0.2",
        "ent_coef": "warmup_0.75_-0.02",
        "vf_coef": "warmup_0.5_lin_0.5_0.25",
    }
    assert set(texts) == set(SCHEDULES)
    model = make_model(**texts)
    rows = record(model)
    model.learn(2 * N_STEPS)
    logged = [{key: row.get(f"train/{key}") for key in SCHEDULES} for row in rows.rows[1:]]
    model.logger.record("time/nothing", 0)
    model.logger.dump(0)
    last = {key: rows.rows[-1].get(f"train/{key}") for key in SCHEDULES}
    assert [row["learning_rate"] for row in (*logged, last)] == pytest.approx([0.003, 0.002])
    assert [row["clip_range"] for row in (*logged, last)] == pytest.approx([0.2, 0.1])
    assert [row["clip_range_vf"] for row in (*logged, last)] == pytest.approx([0.2, 0.2])
    assert logged[0]["ent_coef"] == pytest.approx(-0.02 * 2 / 3) and logged[0]["vf_coef"] == pytest.approx(0.5)
    model.save(tmp_path / "model")
    for trusted in (True, False):
        loaded = EduPPO.load(tmp_path / "model", make_env(), device="cpu", trusted=trusted)
        assert [getattr(loaded, name) for name in ("learning_rate", "ent_coef", "vf_coef")] == [
            TextSchedule(texts[name]) for name in ("learning_rate", "ent_coef", "vf_coef")
        ]
        assert loaded.lr_schedule(0.5) == pytest.approx(0.003)
        loaded.learn(N_STEPS)
    theirs = PPO.load(tmp_path / "model", make_env(), device="cpu")
    assert (theirs.lr_schedule(0.5), theirs.clip_range(0.5)) == pytest.approx((0.003, 0.2))  # type: ignore[operator]


def test_the_doctor_reads_them() -> None:
    """What a schedule begins with is its number, and a change of it leaves the schedule one."""
    change = Change("learning_rate", 1e-4, factor=0.5)
    for text, start, changed in (
        ("cos_4e-4_1e-5", 4e-4, "cos_0.0002_1e-5"),
        ("warmup_0.1_4e-4", 4e-4, "warmup_0.1_0.0002"),
        ("warmup_0.1_lin_4e-4", 4e-4, "warmup_0.1_lin_0.0002"),
        ("kl_0.01_4e-4", 4e-4, 2e-4),
        ("kl_0.01", 3e-4, 1.5e-4),
    ):
        asked = record_of_rows([], "a run", {"learning_rate": text})
        assert asked.number("learning_rate") == start
        assert change.new_value(asked) == changed
    assert beginning_at("piecewise_1_0.5_2", 3.0) == "piecewise_3_0.5_2"
    assert read("warmup_0.1_kl_0.01_1e-3").start == 1e-3
