"""Each symptom is found where it is, not found in good health, and not examined where its columns are missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.symptoms import BY_NAME, SYMPTOMS
from tests.doctor_records import FLAT, ROWS, TIME, gaussian, healthy, make_record, names

LONG_ROLLOUTS: dict[str, Any] = {
    "time/total_timesteps": 8192 * np.arange(1, ROWS + 1),
    **{
        f"train/{name}": np.array([0.01] * 3 + [None] * (ROWS - 3), dtype=object)
        for name in ("approx_kl", "clip_fraction", "policy_gradient_loss", "clip_range")
    },
}
DIFFERENT = {"train/monitor_difference": 2.0}

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
    "observations-constant": ({"train/observation_constant": 1.0}, {}),
    "observations-without-information": (
        {"train/observation_predicted_max": 0.0, "train/observation_predicted_min": 0.0},
        {},
    ),
    "observations-stale": ({"train/observation_repeated": 0.8}, {}),
    "observations-coarse": ({"train/observation_distinct": 0.02}, {}),
    "observations-outside": ({"train/observation_outside": 1.0}, {}),
    "action-without-effect": ({"train/action_effect": 0.0}, {}),
    "action-late": ({"train/action_effect": 0.01, "train/action_effect_late": 0.9}, {}),
    "episodes-never-end": ({"train/episodes_ended": 0.0, "train/episodes_truncated": 0.0}, {}),
    "episodes-cut-short": ({"train/episode_length_max": 20.0}, {}),
    "ends-changed": ({"train/monitor_lengths_equal": 0.1, "train/monitor_length_ratio": 2.5}, {}),
    "resets-alike": ({"train/starts_distinct": 0.1}, {}),
    "reward-sign": ({f"train/monitor_{name}": -1.0 for name in ("ratio", "slope", "correlation")} | DIFFERENT, {}),
    "reward-noise": ({"train/monitor_correlation": 0.1} | DIFFERENT, {}),
    "reward-altered": ({"train/monitor_ratio": 100.0, "train/monitor_slope": 100.0} | DIFFERENT, {}),
    "reward-sparse": ({"train/reward_zero": 0.999, **FLAT}, {}),
    "parameters-not-trained": ({}, {"trained": 0.5}),
    "update-backwards": ({"doctor/improvement": -0.4}, {}),
    "update-without-gain": ({"doctor/improvement": 0.005, **FLAT}, {}),
    "sampling-wrong": ({"train/surprise": 2.0}, {}),
    "optimizer-unusual": ({}, {"weight_decay": 5.0}),
    "network-too-small": ({}, {"layer_width": 1}),
    "too-few-updates": ({"train/n_updates": np.arange(ROWS)}, {"n_epochs": 1, "batch_size": 1024}),
    "too-few-rollouts": (LONG_ROLLOUTS, {}),
    "ends-unreported": ({"rollout/ep_len_mean": math.nan, "rollout/ep_rew_mean": math.nan}, {}),
    "batch-too-small": ({}, {"batch_size": 2}),
    "lambda-too-low": ({}, {"gae_lambda": 0.0}),
    "value-weight-too-large": ({"train/vf_coef": 100.0}, {}),
    "rate-ends-early": ({"train/learning_rate": np.where(TIME > 0.3, 1e-9, 3e-4)}, {}),
    "starts-certain": ({"train/surprise": 0.05, "train/entropy_loss": -0.05}, {}),
    "throughput-lost": (
        {"time/time_elapsed": np.cumsum(np.where(TIME < 0.5, 1.0, 9.0)), "eval/mean_reward": math.nan},
        {},
    ),
}


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
        assert 0 < piece.begin <= piece.end <= 40 * (8192 if name == "too-few-rollouts" else 1024)


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


KEYS = [*(key for key in healthy() if key != "time/total_timesteps"), "train/clip_range_vf"]


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


def test_evidence_begins_with_what_is_beyond_its_range() -> None:
    """At a healthy KL of 0.04 it is the rate of 0.02 that tells; where entropy has not fallen, the sign of its weight."""
    for columns, key in (
        ({"train/approx_kl": 0.04, "train/learning_rate": 0.02}, "train/learning_rate"),
        ({"train/approx_kl": 0.3, "train/clip_fraction": 0.6, "train/learning_rate": 0.02}, "train/approx_kl"),
        ({"train/ent_coef": -0.5}, "train/ent_coef"),
    ):
        assert diagnose(make_record(columns)).findings[0].evidence[0].key == key


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
