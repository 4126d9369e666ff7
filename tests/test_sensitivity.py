"""The sensitivity study: its design, how settings are ranked, and its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.lab import page as pages
from sb3_ppo_edu.lab import report
from sb3_ppo_edu.lab.experiments import SUITES
from sb3_ppo_edu.lab.importance import (
    effects_of,
    forest_shares,
    lecture_order_holds,
    levels_of,
    reaches,
    scores_of,
)
from sb3_ppo_edu.lab.runs import CurveRow, RunRow
from sb3_ppo_edu.lab.sensitivity import (
    FACTORS,
    JOINT,
    LECTURE_ORDER,
    QUICK_TASKS,
    joint_points,
    point_of,
    sensitivity_runs,
    settings_of,
    variant_of,
)
from sb3_ppo_edu.lab.sensitivity_report import verdict

TASK = QUICK_TASKS[0]
BY_NAME = {factor.name: factor for factor in FACTORS}


def row(variant: str, seed: int, final: float, overrides: dict[str, float] | None = None, algorithm: str = "eduppo") -> RunRow:
    """A row of the study."""
    text = json.dumps(overrides or {})
    return RunRow(
        algorithm,
        TASK.env,
        "defaults",
        variant,
        seed,
        100,
        final,
        1.0,
        0.0,
        30,
        "",
        1.0,
        1.0,
        1.0,
        1,
        text,
        "a machine",
        "v 1",
    )


RANDOM_ROW = row("", 0, 50.0, algorithm="random")


def rows_of(response: dict[str, dict[float, list[float]]], default: list[float]) -> list[RunRow]:
    """Rows with these final returns by factor and level."""
    found = [RANDOM_ROW, *(row("", seed, final) for seed, final in enumerate(default))]
    for name, levels in response.items():
        for value, finals in levels.items():
            found += [row(variant_of(BY_NAME[name], value), seed, final) for seed, final in enumerate(finals)]
    return found


# -- the design ----------------------------------------------------------------------------------------------------------


def test_defaults_are_sb3s() -> None:
    """The point around which one factor at a time is varied is what EduPPO, and SB3's PPO, take by default."""
    model = EduPPO("MlpPolicy", "CartPole-v1", device="cpu")
    settings = settings_of({})
    clip = model.clip_range
    assert callable(clip)
    assert settings == {
        "learning_rate": model.learning_rate,
        "clip_range": clip(1.0),
        "n_steps": model.n_steps,
        "batch_size": model.batch_size,
        "n_epochs": model.n_epochs,
        "ent_coef": model.ent_coef,
        "gae_lambda": model.gae_lambda,
        "n_envs": model.n_envs,
    }
    for factor in FACTORS:
        assert factor.default in factor.levels
        assert list(factor.levels) == sorted(set(factor.levels))
        assert len(factor.within) > 1


def test_settings_and_points_are_each_others_inverse() -> None:
    """A rollout is spread over the environments without loss."""
    for point in joint_points(32):
        assert point_of(settings_of(point)) == pytest.approx(point)
    assert settings_of({"rollout": 8192, "n_envs": 16})["n_steps"] == 512


def test_one_at_a_time_changes_one_setting() -> None:
    """Each variant differs from the defaults in one factor, each level has every seed, and the defaults are run once."""
    runs = [run for run in sensitivity_runs([TASK], range(2), 0) if run.algorithm != "random"]
    defaults = settings_of({})
    variants = {run.variant: json.loads(run.overrides) for run in runs}
    assert variants.pop("") == defaults
    for settings in variants.values():
        assert len([name for name in FACTORS if point_of(settings)[name.name] != point_of(defaults)[name.name]]) == 1
    assert len(variants) == sum(len(factor.levels) - 1 for factor in FACTORS)
    assert len(runs) == 2 * (len(variants) + 1)


def test_joint_design_fills_the_box_evenly() -> None:
    """64 points of a Sobol sequence: inside the ranges, half of them in each half, the same at every call."""
    points = joint_points(64)
    assert points == joint_points(64)
    for factor in FACTORS:
        values = np.array([point[factor.name] for point in points])
        assert (values >= factor.low).all() and (values <= factor.high).all()
        if factor.scale in ("linear", "log"):
            middle = (factor.low + factor.high) / 2 if factor.scale == "linear" else np.sqrt(factor.low * factor.high)
            assert 30 <= (values < middle).sum() <= 34
        if factor.scale == "power":
            assert {float(np.log2(value)) % 1 for value in values} == {0.0}
            assert set(values) == {2.0**power for power in range(int(np.log2(factor.low)), int(np.log2(factor.high)) + 1)}


# -- what is made of the rows --------------------------------------------------------------------------------------------


def test_scores_run_from_random_actions_to_the_target() -> None:
    """Random actions get 50 and the target is 450: 250 is a half, 450 one, 10 counts as random."""
    assert scores_of([RANDOM_ROW], TASK, [50.0, 250.0, 450.0, 10.0]).tolist() == [0.0, 0.5, 1.0, 0.0]
    with pytest.raises(ValueError, match="found no row of random actions"):
        scores_of([], TASK, [1.0])


def test_reach_by_hand() -> None:
    """Means 450, 250 and 50 are scores 1, ½ and 0: a reach of 1. Levels beyond the range don't count."""
    rows = rows_of({"learning_rate": {1e-5: [50.0, 50.0], 1e-3: [250.0, 250.0], 0.1: [-9.0, -9.0]}}, [450.0, 450.0])
    assert reaches(rows, TASK)["learning_rate"] == pytest.approx(1.0)
    levels = levels_of(rows, TASK, BY_NAME["learning_rate"])
    assert [(level.value, level.score.value) for level in levels] == [(1e-5, 0.0), (3e-4, 1.0), (1e-3, 0.5), (0.1, 0.0)]
    assert "clip_range" not in reaches(rows, TASK)


def test_lectures_order_is_found_where_it_is_planted() -> None:
    """Large, middle and small effects in the lecture's order are sure; reversed they are surely not its order."""
    strong, middle, weak = [50.0, 60.0, 55.0], [200.0, 210.0, 205.0], [400.0, 410.0, 405.0]
    default = [450.0, 455.0, 445.0]
    lows = {name: BY_NAME[name].within[0] for name in LECTURE_ORDER}
    planted = {name: {lows[name]: finals} for name, finals in zip(LECTURE_ORDER, (strong, middle, weak), strict=True)}
    turned = {name: {lows[name]: finals} for name, finals in zip(LECTURE_ORDER, (weak, middle, strong), strict=True)}
    assert lecture_order_holds(rows_of(planted, default), TASK) == 1.0
    assert lecture_order_holds(rows_of(turned, default), TASK) == 0.0
    assert lecture_order_holds(rows_of({}, default), TASK) is None
    effects = effects_of(rows_of(planted, default), TASK)
    assert [effect.factor.name for effect in effects] == list(LECTURE_ORDER)
    assert all(effect.reach.low <= effect.reach.value <= effect.reach.high for effect in effects)


def test_no_difference_has_no_small_p() -> None:
    """Equal levels give p = 1; levels far apart a small one."""
    equal = effects_of(rows_of({"n_epochs": {3: [400.0, 400.0]}}, [400.0, 400.0]), TASK)
    assert [effect.chance for effect in equal] == [1.0]
    apart = effects_of(rows_of({"n_epochs": {3: [100.0 + i for i in range(6)]}}, [400.0 + i for i in range(6)]), TASK)
    assert apart[0].chance is not None and apart[0].chance < 0.01


def test_fanova_finds_the_setting_that_matters() -> None:
    """A response that is linear in λ and a quarter of it in the clip range: shares of about 16/17 and 1/17 of the variance."""
    points = joint_points(64)

    def share(name: str, point: dict[str, float]) -> float:
        factor = BY_NAME[name]
        return (point[name] - factor.low) / (factor.high - factor.low)

    scores = np.array([share("gae_lambda", point) + 0.25 * share("clip_range", point) for point in points])
    found = forest_shares(points, scores, seed=0, trees=16)
    assert found["gae_lambda"] > 0.75
    assert max(value for name, value in found.items() if name != "gae_lambda") < 0.15


def test_fanova_weighs_decades_evenly() -> None:
    """
    A setting that is drawn by powers counts by powers.

    Below a learning rate of 1e-4, half of the design, nothing is learned; above it λ decides. The learning rate explains 1/4
    of a variance of 1/4 + 1/24, which is 6/7; if its range were weighed evenly, with 1e-4 a tenth of it, about a half.
    """
    points = joint_points(256)
    factor = BY_NAME["gae_lambda"]
    share = np.array([(point["gae_lambda"] - factor.low) / (factor.high - factor.low) for point in points])
    above = np.array([point["learning_rate"] > 1e-4 for point in points])
    found = forest_shares(points, np.where(above, 0.5 + share, 0.0), seed=0, trees=16)
    assert found["learning_rate"] == pytest.approx(6 / 7, abs=0.05)


def test_fanova_weighs_powers_of_two_evenly() -> None:
    """A minibatch, drawn from powers of two, and λ that each give the score the same variance have equal shares."""
    points = joint_points(256)
    parts = [np.array([point["gae_lambda"] for point in points]), np.log2([point["batch_size"] for point in points])]
    found = forest_shares(points, sum((part - part.mean()) / part.std() for part in parts), seed=0, trees=16)
    assert found["batch_size"] == pytest.approx(found["gae_lambda"], abs=0.05)


# -- the report ----------------------------------------------------------------------------------------------------------


def study() -> tuple[list[RunRow], list[CurveRow]]:
    """Rows of a whole small study, with learning rates that matter most."""
    random = np.random.default_rng(0)
    rows, points = [], []
    for run in SUITES["sensitivity-quick"].runs(range(2)):
        rate = point_of(json.loads(run.overrides))["learning_rate"] if run.overrides != "{}" else 3e-4
        final = 50.0 if run.algorithm == "random" else max(450.0 - 200.0 * abs(np.log10(rate / 3e-4)), 9.0) + random.normal()
        own = row(run.variant, run.seed, final, algorithm=run.algorithm)
        rows.append(replace(own, overrides=run.overrides, steps=run.steps))
        points += [
            CurveRow(run.algorithm, run.env, run.settings, run.variant, run.seed, step, final, 0.0, 5) for step in (1, 2)
        ]
    return rows, points


def test_report_of_a_study_that_has_just_begun() -> None:
    """What has no rows yet is not spoken of."""
    begun = [RANDOM_ROW, row(variant_of(BY_NAME["learning_rate"], 1e-5), 0, 100.0)]
    for rows in ([RANDOM_ROW], begun):
        text = pages.to_markdown(report.make_page(rows, [], "sensitivity-quick"))
        assert not [word for word in ("collapse", "Sobol", "forests") if word in text]
    assert "1e-05" in text


def test_report_of_the_study() -> None:
    """The learning rate stands first, the lecture gets its verdict, every value has a line, and there are the pictures."""
    rows, points = study()
    page = report.make_page(rows, points, "sensitivity-quick")
    text = pages.to_markdown(page)
    ranking = page.sections[0].table
    assert ranking is not None and ranking.rows[0][1] == "learning rate"
    assert "only the first **makes a difference**" in page.lead[0]
    assert len(page.lead) == 1, "nothing is missing, so nothing is said about it"
    assert {name for name in ("CartPole-v1.png", "learning-rate.png", "collapse.png") if f"({name})" in text} == {
        "CartPole-v1.png",
        "learning-rate.png",
        "collapse.png",
    }
    for factor in FACTORS:
        for level in factor.levels:
            assert f"| {factor.title} | {level:g}" in text
    assert len([one for one in rows if one.variant == JOINT]) == 16
    assert "(16 runs" in text


@pytest.mark.parametrize(
    ("reaches", "holds", "words"),
    [
        ([0.7, 0.0, 0.0], 0.0, "makes a difference"),
        ([0.7, 0.5, 0.2], 0.97, "**holds** here (probability 97%)"),
        ([0.7, 0.5, 0.2], 0.03, "**does not hold** here (probability 3%)"),
        ([0.7, 0.5, 0.2], 0.4, "**not settled** (probability 40%)"),
    ],
)
def test_verdicts(reaches: list[float], holds: float, words: str) -> None:
    """No verdict is given that the seeds don't give."""
    assert words in verdict(reaches, holds)


def test_report_says_what_is_missing(tmp_path: Path) -> None:
    """Half of a study is reported as half of it."""
    rows, points = study()
    page = report.make_page(rows[:30], points, "sensitivity-quick")
    assert f"there are 30 of {len(rows)} runs" in page.lead[-1]
    assert pages.save_page(page, tmp_path, "sensitivity-quick")
