"""Each symptom is found where it is, not found in good health, and not examined where its columns are missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.doctor.diagnose import compare, diagnose, rank
from sb3_ppo_edu.doctor.findings import Change, Evidence, Finding, beyond, find
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms import BY_NAME, SYMPTOMS
from sb3_ppo_edu.doctor.symptoms.metrics import epochs_per_update, rollout_size
from tests.doctor_records import ROWS, gaussian, healthy, make_record

TIME = np.linspace(0.0, 1.0, ROWS)
FLAT = {"rollout/ep_rew_mean": 21.0 + 0.3 * np.sin(9 * TIME), "rollout/ep_len_mean": 21.0 + 0.3 * np.sin(9 * TIME)}

ILL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nan-coming": ({"train/value_loss": np.where(TIME > 0.8, math.nan, 20.0)}, {}),
    "learning-rate-too-high": ({"train/approx_kl": 0.3, "train/clip_fraction": 0.6, "train/learning_rate": 0.02}, {}),
    "learning-rate-too-low": (
        {"train/approx_kl": 1e-5, "train/clip_fraction": 0.0, "train/learning_rate": 1e-6, "train/kl_first_epoch": 1e-6},
        {"learning_rate": 1e-6},
    ),
    "clip-range-too-tight": ({"train/clip_range": 0.01, "train/clip_fraction": 0.6, "train/approx_kl": 1e-3}, {}),
    "clip-range-too-loose": ({"train/clip_range": 2.0, "train/clip_fraction": 0.0, "train/approx_kl": 0.2}, {}),
    "too-many-epochs": (
        {"train/n_updates": 60 * np.arange(ROWS), "train/approx_kl": 0.1, "train/clip_fraction": 0.4},
        {"n_epochs": 60},
    ),
    "kl-stop-every-time": ({"train/early_stop_epoch": 0.0}, {"target_kl": 0.02}),
    "target-kl-too-small": ({"train/early_stop_epoch": 0.0, "train/approx_kl": 3e-5}, {"target_kl": 1e-5}),
    "ratio-not-one": ({"train/ratio_first": 1.2}, {}),
    "entropy-collapse": ({"train/entropy_loss": -0.69 * np.exp(-30 * TIME), **FLAT}, {}),
    "entropy-bonus-too-large": ({"train/entropy_loss": -0.693, "train/ent_coef": 0.5, **FLAT}, {}),
    "std-explodes": (gaussian() | {"train/std": 1.0 + 8.0 * TIME}, {}),
    "std-starts-wide": (gaussian() | {"train/std": 8.0, "train/action_saturation": 0.8}, {}),
    "actions-saturated": (gaussian() | {"train/action_saturation": 0.95}, {}),
    "value-not-trained": ({"train/vf_coef": 0.0, "train/explained_variance": -0.1}, {}),
    "value-not-learning": ({"train/explained_variance": -0.4, **FLAT}, {}),
    "value-overfits": ({"train/explained_variance": -0.2, "train/value_loss": 10.0, "train/return_std": 15.0}, {}),
    "value-dominates": ({"train/grad_norm": 5e3, "train/grad_norm_policy": 0.01, "train/grad_norm_value": 5e3}, {}),
    "value-clip-too-tight": ({"train/clip_range_vf": 0.01, "train/explained_variance": 0.05}, {}),
    "advantages-not-normalized": ({"train/policy_gradient_loss": -30.0}, {"normalize_advantage": False}),
    "reward-scale-too-large": ({"train/return_std": 2e4, "train/value_loss": 4e8}, {}),
    "reward-scale-too-small": ({"train/return_std": 1e-3, "train/value_loss": 1e-6}, {}),
    "observations-not-normalized": ({"train/observation_scale_max": 900.0, "train/observation_scale_min": 1e-3}, {}),
    "max-grad-norm-too-small": ({"train/approx_kl": 1e-6, "train/clip_fraction": 0.0}, {"max_grad_norm": 1e-7}),
    "gradients-always-clipped": ({"train/grad_norm": 5e3}, {}),
    "rollout-too-short": ({"time/total_timesteps": 32 * np.arange(1, ROWS + 1)}, {}),
    "gamma-too-low": ({}, {"gamma": 0.4}),
    "gamma-too-high": ({}, {"gamma": 1.0}),
    "limit-as-terminal": ({"rollout/ep_len_mean": 200.0, "train/episodes_truncated": 0.0}, {}),
    "terminal-as-limit": ({"train/episodes_truncated": 10.0}, {}),
    "advantages-wrong": ({"doctor/gae_error": 0.6}, {}),
    "reward-never-seen": ({"rollout/ep_rew_mean": -200.0, "rollout/ep_len_mean": 200.0}, {}),
    "does-nothing": ({"rollout/ep_rew_mean": -40.0 * np.exp(-12 * TIME), "rollout/ep_len_mean": 999.0}, {}),
    "poor-evaluation": ({"eval/mean_reward": 20.0}, {}),
    "forgetting": ({"rollout/ep_rew_mean": 20.0 + 400.0 * np.sin(np.pi * TIME)}, {}),
    "no-progress": (FLAT, {}),
    "throughput-lost": (
        {"time/time_elapsed": np.cumsum(np.where(TIME < 0.5, 1.0, 9.0)), "eval/mean_reward": math.nan},
        {},
    ),
}


KEYS = [*(key for key in healthy() if key != "time/total_timesteps"), "train/clip_range_vf"]


def names(record: Record) -> list[str]:
    """Findings of a record, in order."""
    return [finding.name for finding in diagnose(record).findings]


def test_every_symptom_has_a_case() -> None:
    """The table below and the doctor's have the same names, and each name is there once."""
    assert sorted(ILL) == sorted(BY_NAME)
    assert len(BY_NAME) == len(SYMPTOMS)


@pytest.mark.parametrize("name", list(ILL))
def test_symptom_is_found(name: str) -> None:
    """A record that shows the fault has the finding, with evidence that has numbers and steps."""
    columns, settings = ILL[name]
    finding = next(finding for finding in diagnose(make_record(columns, settings)).findings if finding.name == name)
    assert 0.5 <= finding.confidence <= 1.0
    assert 0.0 <= finding.severity <= 1.0
    for piece in finding.evidence:
        assert any(sign.isdigit() for sign in piece.text) or "NaN" in piece.text
        assert 0 < piece.begin <= piece.end <= 40 * 1024


CONSEQUENCES = ("value-overfits", "kl-stop-every-time", "no-progress", "value-not-learning")


@pytest.mark.parametrize("name", [name for name in ILL if name not in CONSEQUENCES])
def test_symptom_is_named_first(name: str) -> None:
    """Where nothing else is planted, the fault is named before its consequences."""
    columns, settings = ILL[name]
    assert names(make_record(columns, settings))[0] == name


@pytest.mark.parametrize("actions", ["discrete", "gaussian"])
@pytest.mark.parametrize("rows", [8, 16, ROWS])
def test_healthy_run_is_healthy(actions: str, rows: int) -> None:
    """A training that rises with usual numbers has no finding, also where it is cut short."""
    diagnosis = diagnose(make_record(gaussian() if actions == "gaussian" else {}, rows=rows))
    assert diagnosis.findings == ()
    assert diagnosis.verdict == "healthy"


@pytest.mark.parametrize("name", [symptom.name for symptom in SYMPTOMS])
def test_missing_columns_are_not_examined(name: str) -> None:
    """Without any one of what it needs, a symptom is not examined, and says which one is missing: no verdict on it."""
    columns, settings = ILL[name]
    for need in BY_NAME[name].needs:
        without = tuple(one.removeprefix("settings/") for one in need.split("|"))
        diagnosis = diagnose(make_record(columns, settings, without=without))
        if name not in diagnosis.not_examined:
            pytest.fail(f"{name} was examined without {need}")
        assert name not in [finding.name for finding in diagnosis.findings]
        reason = diagnosis.not_examined[name]
        assert need.split("|")[0] in reason or "updates" in reason


def test_few_updates_are_not_judged() -> None:
    """Three updates say nothing of the learning rate; the verdict is that there is none."""
    columns, settings = ILL["learning-rate-too-high"]
    diagnosis = diagnose(make_record(columns, settings, rows=3))
    assert diagnosis.verdict == "unknown"
    assert "3 updates" in diagnosis.summary
    assert diagnosis.findings == ()


@pytest.mark.parametrize("key", ["train/approx_kl", "train/clip_fraction", "train/explained_variance", "rollout/ep_rew_mean"])
def test_nothing_is_called_healthy_without_its_main_metrics(key: str) -> None:
    """Without KL, clip fraction, explained variance or return there is no verdict, and the summary says which is missing."""
    diagnosis = diagnose(make_record(without=(key,)))
    assert diagnosis.findings == ()
    assert diagnosis.verdict == "unknown"
    assert f"not recorded: {key}" in diagnosis.summary


def test_nan_is_found_at_once() -> None:
    """NaN needs no history, and the step at which it came is named."""
    record = make_record({"train/loss": math.nan}, rows=2)
    (finding,) = diagnose(record).findings
    assert finding.name == "nan-coming"
    assert finding.evidence[0].begin == 1024


def test_nonsense_is_no_defect_of_the_doctor() -> None:
    """Records with columns of zeros, of -1, huge, not finite, random or nearly empty are diagnosed without an error."""
    random = np.random.default_rng(0)
    odd = (0.0, -1.0, 1e30, math.nan, math.inf, np.where(TIME < 0.9, math.nan, 1.0), random.normal(size=ROWS))
    for _ in range(300):
        columns = gaussian() if random.random() < 0.5 else {}
        columns |= {key: odd[int(random.integers(len(odd)))] for key in KEYS if random.random() < 0.3}
        settings = {"target_kl": 0.01} if random.random() < 0.5 else {}
        diagnosis = diagnose(make_record(columns, settings, rows=int(random.integers(1, ROWS + 1))))
        assert diagnosis.verdict in ("ill", "healthy", "unknown")
        for finding in diagnosis.findings:
            assert 0.5 <= finding.confidence <= 1.0


def test_explained_variance_of_nan_is_no_fault() -> None:
    """Returns that are all equal have no variance to explain: NaN there is good health."""
    assert (
        names(make_record({"train/explained_variance": math.nan, "train/return_std": 1e-9}, without=("train/return_std",)))
        == []
    )


def test_solved_task_with_low_entropy_is_healthy() -> None:
    """A policy that has risen and stays at its peak may be certain."""
    rising = {"rollout/ep_rew_mean": np.minimum(20 + 2000 * TIME, 500.0), "train/entropy_loss": -0.69 * np.exp(-30 * TIME)}
    assert "entropy-collapse" not in names(make_record(rising))


@pytest.mark.parametrize(("kl", "clip", "found"), [(0.06, 0.35, True), (0.045, 0.35, False), (0.06, 0.25, False)])
def test_lectures_limits_of_kl_and_clip_fraction(kl: float, clip: float, found: bool) -> None:
    """At a usual rate, both must be beyond the lecture's limits, 0.05 nats and 0.3, before the rate is called too high."""
    record = make_record({"train/approx_kl": kl, "train/clip_fraction": clip})
    assert ("learning-rate-too-high" in names(record)) is found


LARGE = {"train/return_std": 2e4, "train/value_loss": 4e8}

HIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "learning-rate-too-high": ({"train/learning_rate": 0.02}, {}),
    "learning-rate-too-low": ({"train/learning_rate": 1e-6}, {}),
    "clip-range-too-tight": ({"train/clip_range": 0.01}, {}),
    "clip-range-too-loose": ({"train/clip_range": 2.0}, {}),
    "too-many-epochs": ({}, {"n_epochs": 60}),
    "target-kl-too-small": ({}, {"target_kl": 1e-5}),
    "entropy-bonus-too-large": ({"train/ent_coef": 1.0}, {}),
    "advantages-not-normalized": ({}, {"normalize_advantage": False}),
}
"""A setting far from the usual, while KL, clip fraction, entropy and losses are healthy."""


@pytest.mark.parametrize("name", list(HIDDEN))
def test_unusual_setting_is_named_where_another_fault_hides_what_it_does(name: str) -> None:
    """
    Beside rewards that are a thousand times too large, healthy metrics acquit no setting.

    It is named second, by less than two thirds of confidence, says beside what, and is not called a consequence.
    """
    columns, settings = HIDDEN[name]
    first, second = diagnose(make_record(columns | LARGE, settings)).findings[:2]
    assert (first.name, second.name) == ("reward-scale-too-large", name)
    assert 0.5 <= second.confidence <= 0.65
    assert second.explained_by is None
    assert "beside: rewards are too large (100%)" in second.evidence[-1].text


@pytest.mark.parametrize("sign", [{}, {"train/grad_norm": 5e3}, FLAT])
@pytest.mark.parametrize("name", list(HIDDEN))
def test_unusual_setting_with_healthy_metrics_is_healthy(name: str, sign: dict[str, Any]) -> None:
    """Where nothing is wrong the metrics decide, and where there is a sign only (a return that does not rise), too."""
    columns, settings = HIDDEN[name]
    assert name not in names(make_record(columns | sign, settings))


def test_all_unusual_settings_have_a_case() -> None:
    """The table above has every symptom that can be told by a setting alone."""
    assert sorted(HIDDEN) == sorted(symptom.name for symptom in SYMPTOMS if symptom.unusual is not None)


@pytest.mark.parametrize(("rate", "explained"), [(1e-6, None), (3e-4, "reward-scale-too-large")])
def test_unusual_setting_is_nobodys_consequence(rate: float, explained: str | None) -> None:
    """Small steps beside huge rewards are their consequence at a usual rate, and a fault of its own at a rate of 1e-6."""
    small = {"train/approx_kl": 1e-5, "train/clip_fraction": 0.0, "train/learning_rate": rate}
    findings = {finding.name: finding for finding in diagnose(make_record(small | LARGE)).findings}
    assert findings["learning-rate-too-low"].explained_by == explained


def test_epochs_are_counted_where_their_number_is_not_known() -> None:
    """Without settings, 60 more epochs in each row are 60 epochs."""
    record = make_record({"train/n_updates": 60 * np.arange(ROWS)} | LARGE, without=("n_epochs",))
    assert "too-many-epochs" in names(record)


EVALUATIONS = {
    "stale": (np.linspace(30.0, 20.0, 10), True),
    "follows": (np.linspace(-900.0, 200.0, 10), False),
    "scatters": (np.array([20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 500.0, -300.0, 120.0, 20.0]), False),
    "nearly as good": (np.array([20.0] * 6 + [250.0] * 4), False),
    "four of them": (np.array([math.nan] * 6 + [20.0, 20.0, 21.0, 20.0]), True),
    "three of them": (np.array([math.nan] * 7 + [20.0, 21.0, 20.0]), False),
}


@pytest.mark.parametrize("kind", list(EVALUATIONS))
def test_poor_evaluation_is_behind_does_not_follow_and_is_certain(kind: str) -> None:
    """
    Training goes from 38 to 402 (tenths of the record), ten evaluations come with every fourth row.

    * from 30 to 20: behind by more than the whole rise of 364, and ill;
    * from -900 to 200, the last four at 17: as far behind, but they rise by more than training does, as of a young policy;
    * four last ones of 500, -300, 120 and 20: mean 85, standard error 165, so 402 is only 1.9 standard errors away;
    * 250 in the end: behind by 0.42 of the rise, less than 0.55;
    * four evaluations can be told from training, three cannot: of three, all are late ones.
    """
    evaluations, found = EVALUATIONS[kind]
    column = np.full(ROWS, math.nan)
    column[3::4] = evaluations
    assert ("poor-evaluation" in names(make_record({"eval/mean_reward": column}))) is found


def test_collapse_in_one_update_is_the_learning_rate() -> None:
    """A policy that was thrown into a corner has no KL and no entropy afterwards; a rate of 0.1 is the cause of it."""
    thrown = {
        "train/approx_kl": np.where(TIME == 0, 2.0, 1e-6),
        "train/clip_fraction": np.where(TIME == 0, 0.8, 0.0),
        "train/entropy_loss": np.where(TIME == 0, -0.6, -1e-3),
        "train/learning_rate": 0.1,
        **FLAT,
    }
    record = make_record(thrown)
    assert names(record)[0] == "learning-rate-too-high"
    assert "learning-rate-too-low" not in names(record)


def test_corner_after_one_update_is_the_clip_range() -> None:
    """A KL of 0.5 nats in the first update and none after it: the clip range of 1.3 is named, consequences behind it."""
    columns = {
        "train/clip_range": 1.3,
        "train/approx_kl": np.where(TIME == 0, 0.5, 1e-6),
        "train/clip_fraction": np.where(TIME == 0, 0.02, 0.0),
        "train/learning_rate": 8e-4,
        "train/entropy_loss": np.where(TIME < 0.1, -0.5, -1e-4),
        "rollout/ep_rew_mean": -500.0,
        "rollout/ep_len_mean": 500.0,
        "train/episodes_truncated": 10.0,
    }
    diagnosis = diagnose(make_record(columns))
    assert diagnosis.findings[0].name == "clip-range-too-loose"
    assert all(finding.explained_by is not None for finding in diagnosis.findings[1:])


@pytest.mark.parametrize(("rate", "first"), [(1e-6, "learning-rate-too-low"), (3e-4, "reward-never-seen")])
def test_small_steps_without_a_reward(rate: float, first: str) -> None:
    """No reward and no steps: at a rate of 1e-6 it is the rate, at a usual one there is nothing to move towards."""
    columns = {
        "train/approx_kl": 1e-5,
        "train/clip_fraction": 0.0,
        "train/learning_rate": rate,
        "rollout/ep_rew_mean": -200.0,
        "rollout/ep_len_mean": 200.0,
        "train/episodes_truncated": 10.0,
    }
    assert names(make_record(columns))[0] == first


def test_wide_start_and_small_gradient_limit_are_found_without_eduppos_columns() -> None:
    """Of SB3's PPO, which logs neither saturation nor gradient norm, a deviation of 8 and a limit of 1e-7 are told too."""
    wide = make_record(gaussian() | {"train/std": 8.0}, without=("train/action_saturation",))
    assert names(wide)[0] == "std-starts-wide"
    small = {"train/approx_kl": 1e-6, "train/clip_fraction": 0.0}
    assert names(make_record(small, {"max_grad_norm": 1e-7}, without=("train/grad_norm",)))[0] == "max-grad-norm-too-small"


def test_sign_of_the_entropy_bonus_is_a_fault_at_once() -> None:
    """A coefficient of -0.5 is named before entropy has fallen; one of 0.005 with the same entropy is healthy."""
    assert names(make_record({"train/ent_coef": -0.5})) == ["entropy-collapse"]
    assert names(make_record({"train/ent_coef": 0.005})) == []


def test_kl_limit_is_found_in_a_policy_that_has_stopped_moving() -> None:
    """Every update stops in its first epoch until half of the training, and none after that, since nothing moves any more."""
    columns = {"train/early_stop_epoch": np.where(TIME < 0.5, 0.0, 10.0), "train/approx_kl": 3e-5}
    assert "target-kl-too-small" in names(make_record(columns, {"target_kl": 1e-5}))
    assert "target-kl-too-small" not in names(make_record(columns, {"target_kl": 0.02}))


def test_slower_with_evaluations_is_no_finding() -> None:
    """Nine times slower in the second half, as with evaluations that become long: nothing is said of the training."""
    columns = {"time/time_elapsed": np.cumsum(np.where(TIME < 0.5, 1.0, 9.0))}
    assert names(make_record(columns)) == []


def test_rounding_in_narrow_gaussians_is_no_other_policy() -> None:
    """With a standard deviation of 1e-5 log-probabilities are rounding: a ratio of 3 there says nothing, at 0.5 it does."""
    for std, found in ((1e-5, False), (0.5, True)):
        columns = gaussian() | {"train/std": std, "train/ratio_first": 3.0}
        assert ("ratio-not-one" in names(make_record(columns))) is found


@pytest.mark.parametrize(("epochs", "first", "found"), [(60, 3e-4, True), (60, 6e-3, False), (15, 3e-4, False)])
def test_kl_that_rises_from_nothing_is_too_many_epochs(epochs: int, first: float, found: bool) -> None:
    """
    A KL of 0.012 at the end is healthy, but not if 60 epochs brought it there from 3e-4: 40 times.

    Twice is no rise, and 15 epochs are usual ones.
    """
    columns = {"train/n_updates": epochs * np.arange(ROWS), "train/approx_kl": 0.012, "train/kl_first_epoch": first}
    assert ("too-many-epochs" in names(make_record(columns, {"n_epochs": epochs}))) is found


@pytest.mark.parametrize(("explained", "found"), [(-0.02, True), (0.8, False)])
def test_return_on_its_way_to_nothing(explained: float, found: bool) -> None:
    """Returns from -50 to -25 in episodes that all reach the limit: less is done, unless the value function sees progress."""
    columns = {
        "rollout/ep_rew_mean": -50.0 + 25.0 * TIME,
        "rollout/ep_len_mean": 999.0,
        "train/explained_variance": explained,
        "train/episodes_truncated": 10.0,
    }
    assert ("does-nothing" in names(make_record(columns))) is found


@pytest.mark.parametrize(("reward", "first"), [(-1e-4, "reward-scale-too-small"), (0.0, "reward-never-seen")])
def test_small_rewards_are_told_from_none(reward: float, first: str) -> None:
    """The same return in every row and returns that deviate by 0.001: too small where steps cost 1e-4, not seen where 0."""
    columns = {
        "rollout/ep_rew_mean": -500.0,
        "rollout/ep_len_mean": 500.0,
        "train/return_std": 1e-3,
        "train/reward_mean": reward,
        "train/reward_std": 0.0,
        "train/episodes_truncated": 10.0,
    }
    assert names(make_record(columns))[0] == first


def test_large_returns_that_do_not_vary_are_not_small() -> None:
    """Returns of 50 ± 0.01, as of a policy that has solved its task: no rewards are too small."""
    columns = {"train/return_std": 0.01, "train/return_mean": 50.0}
    assert "reward-scale-too-small" not in names(make_record(columns))
    assert "reward-scale-too-small" in names(make_record({"train/return_std": 0.01, "train/return_mean": 0.02}))


def test_nan_before_the_first_update_is_found() -> None:
    """A training that broke down in its first rollout has no update, and is ill all the same."""
    diagnosis = diagnose(Record("x", np.empty(0), {}, not_finite={"train/loss": 12}))
    assert [finding.name for finding in diagnosis.findings] == ["nan-coming"]
    assert diagnosis.verdict == "ill"


def test_falling_schedules_are_healthy() -> None:
    """A learning rate and a clip range that fall to 0 make small steps at the end: no fault."""
    falling = {
        "train/learning_rate": 3e-4 * (1 - TIME),
        "train/clip_range": np.maximum(0.2 * (1 - TIME), 1e-4),
        "train/approx_kl": 0.012 * (1 - TIME) + 1e-6,
        "train/clip_fraction": 0.12,
    }
    assert names(make_record(falling)) == []


@pytest.mark.parametrize(
    ("value", "limit", "extreme", "expected"),
    [(1.0, 1.0, 100.0, 0.0), (10.0, 1.0, 100.0, 0.5), (1e9, 1.0, 100.0, 1.0), (0.1, 1.0, 100.0, -0.5), (0.1, 1.0, 0.01, 0.5)],
)
def test_distance_is_logarithmic(value: float, limit: float, extreme: float, expected: float) -> None:
    """From limit to extreme is one; half of it in powers of ten is a half; the other side of the limit is negative."""
    assert beyond(value, limit, extreme) == pytest.approx(expected)


def test_distance_of_odd_numbers() -> None:
    """Zero lies below every limit; NaN is beyond none."""
    assert beyond(0.0, 1.0, 0.1) == 1.0
    assert beyond(0.0, 1.0, 10.0) == -1.0
    assert beyond(math.nan, 1.0, 10.0) < 0


def test_confidence_runs_from_a_half_to_the_most() -> None:
    """At the limit 0.5, at the extreme what the evidence can give at most; within the range there is no finding."""
    for position, expected in ((0.0, 0.5), (0.5, 0.65), (1.0, 0.8)):
        finding = find("x", position, most=0.8)
        assert finding is not None
        assert finding.confidence == pytest.approx(expected)
    assert find("x", -0.01) is None


def test_causes_come_before_consequences() -> None:
    """A surer consequence stands behind the cause that explains it, and says which one that is."""
    piece = Evidence("train/approx_kl", "1", 1, 2)
    found = [Finding("no-progress", 1, 0.9, (piece,)), Finding("learning-rate-too-low", 1, 0.6, (piece,))]
    ranked = rank(found)
    assert [finding.name for finding in ranked] == ["learning-rate-too-low", "no-progress"]
    assert ranked[1].explained_by == "learning-rate-too-low"


def test_table_explains_without_circles() -> None:
    """Every name in ``explains`` is a symptom, none explains itself, and no two explain each other."""
    for symptom in SYMPTOMS:
        for name in symptom.explains:
            assert name in BY_NAME
            assert name != symptom.name
            assert symptom.name not in BY_NAME[name].explains


def test_table_is_complete() -> None:
    """Every symptom has words, a source, and bands of metrics; every change is an argument of the command line."""
    known = {*EduPPO.__init__.__annotations__, "normalize", "steps", "threads", "policy_kwargs"}
    for symptom in SYMPTOMS:
        for text in (symptom.title, symptom.healthy, symptom.source, symptom.meaning, symptom.remedy, symptom.not_when):
            assert text.strip()
        assert symptom.bands
        assert {change.setting for change in symptom.changes} <= known


def test_change_of_a_known_value() -> None:
    """A third of 3e-3 is 1e-3, but at most 3e-4; a schedule stays one; without a known value the given one is taken."""
    change = Change("learning_rate", 1e-4, factor=1 / 3, high=3e-4)
    assert change.new_value(make_record({"train/learning_rate": 3e-4})) == pytest.approx(1e-4)
    assert change.new_value(make_record({"train/learning_rate": 3e-2})) == pytest.approx(3e-4)
    schedule = make_record({"train/learning_rate": 3e-4}, {"learning_rate": "lin_3e-4"})
    assert change.new_value(schedule) == "lin_0.0001"
    assert change.new_value(make_record(without=("train/learning_rate", "learning_rate"))) == 1e-4
    assert change.flag(make_record({"train/learning_rate": 3e-4})) == "--learning-rate 0.0001"
    assert Change("normalize", True).flag(make_record()) == "--normalize"
    assert Change("log_std_bounds", "[-3, 0.5]").flag(make_record()) == "--log-std-bounds '[-3, 0.5]'"


def test_counts_come_from_the_record() -> None:
    """Epochs are counted from ``n_updates`` and rollouts from ``iterations``, also in a run that went on with a model."""
    shifted = {"time/total_timesteps": 500_000 + 1024 * np.arange(1, ROWS + 1)}
    record = make_record(shifted, without=("n_epochs", "n_steps"))
    assert epochs_per_update(record) == 10
    assert rollout_size(record) == 1024


def test_comparison_names_luck_and_differences() -> None:
    """Equal settings and returns of 420 and 60: luck. Other settings: they are named. Equal returns: they agree."""
    good, bad = make_record(), make_record({"rollout/ep_rew_mean": 20.0 + 40.0 * TIME})
    lucky = compare([good, bad])
    assert lucky.disagree
    assert "luck" in lucky.summary
    other = compare([good, make_record({"rollout/ep_rew_mean": 20.0 + 40.0 * TIME}, {"gamma": 0.5})])
    assert not other.disagree
    assert other.differences == {"gamma": (0.99, 0.5)}
    assert "agree" in compare([good, make_record(settings={"seed": 7})]).summary
    assert "agree" in compare([good, make_record(without=("gamma",))]).summary
    assert "cannot be compared" in compare([good, make_record(without=("rollout/ep_rew_mean",))]).summary
    with pytest.raises(ValueError, match=r"expected two"):
        compare([good])


def test_comparison_calls_nothing_luck_whose_settings_it_does_not_know() -> None:
    """Returns of 420 and 60, and a discount that is known of one run only, or no settings at all: no luck, no difference."""
    good, poor = make_record(), {"rollout/ep_rew_mean": 20.0 + 40.0 * TIME}
    for pair in (
        [good, make_record(poor, without=("gamma",))],
        [replace(good, settings={}), replace(make_record(poor), settings={})],
    ):
        comparison = compare(pair)
        assert not comparison.disagree
        assert comparison.differences == {}
        assert "cannot be told whether that is luck" in comparison.summary
    both = compare([good, make_record(poor, {"n_steps": 128}, without=("gamma", "target_kl"))])
    assert both.differences == {"n_steps": (256, 128)}
    assert "differ in n_steps. 2 other settings are not known" in both.summary


def test_evidence_begins_with_what_is_beyond_its_range() -> None:
    """At a healthy KL of 0.04 it is the rate of 0.02 that tells; where entropy has not fallen, the sign of its weight."""
    for columns, key in (
        ({"train/approx_kl": 0.04, "train/learning_rate": 0.02}, "train/learning_rate"),
        ({"train/approx_kl": 0.3, "train/clip_fraction": 0.6, "train/learning_rate": 0.02}, "train/approx_kl"),
        ({"train/ent_coef": -0.5}, "train/ent_coef"),
    ):
        assert diagnose(make_record(columns)).findings[0].evidence[0].key == key
