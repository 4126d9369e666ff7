"""Settings judged by themselves: only beside another fault, which hides what they do; and counts of the record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.symptoms import SYMPTOMS
from sb3_ppo_edu.doctor.symptoms.metrics import epochs_per_update, rollout_size
from tests.doctor_records import FLAT, ROWS, make_record, names

LARGE = {"train/return_std": 2e4, "train/value_loss": 4e8}


HIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "learning-rate-too-high": ({"train/learning_rate": 0.01}, {}),
    "learning-rate-too-low": ({"train/learning_rate": 3e-6}, {}),
    "clip-range-too-tight": ({"train/clip_range": 0.02}, {}),
    "clip-range-too-loose": ({"train/clip_range": 1.0}, {}),
    "too-many-epochs": ({}, {"n_epochs": 45}),
    "target-kl-too-small": ({}, {"target_kl": 1e-3}),
    "entropy-bonus-too-large": ({"train/ent_coef": 0.2}, {}),
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


@pytest.mark.parametrize(
    ("name", "columns", "settings"),
    [
        ("learning-rate-too-high", {"train/learning_rate": 0.05}, {}),
        ("learning-rate-too-low", {"train/learning_rate": 1e-7}, {}),
        ("clip-range-too-loose", {"train/clip_range": 5.0}, {}),
        ("clip-range-too-tight", {"train/clip_range": 1e-3}, {}),
        ("too-many-epochs", {"train/n_updates": 100 * np.arange(ROWS)}, {"n_epochs": 100}),
        ("entropy-bonus-too-large", {"train/ent_coef": 1.0}, {}),
    ],
)
def test_setting_beyond_all_use_is_named(name: str, columns: dict[str, Any], settings: dict[str, Any]) -> None:
    """Whatever the metrics say, a setting that nobody uses is named."""
    assert names(make_record(columns, settings))[0] == name


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


def test_counts_come_from_the_record() -> None:
    """Epochs are counted from ``n_updates`` and rollouts from ``iterations``, also in a run that went on with a model."""
    shifted = {"time/total_timesteps": 500_000 + 1024 * np.arange(1, ROWS + 1)}
    record = make_record(shifted, without=("n_epochs", "n_steps"))
    assert epochs_per_update(record) == 10
    assert rollout_size(record) == 1024
