"""Faults of the environment that are told from what looks like them: what is meant to be so, passes by, or begins late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu.doctor.diagnose import diagnose
from tests.doctor_records import TIME, make_record, names

RESTING = {"train/observation_constant": np.where(TIME > 0.5, 0.25, 0.0)}
SCALED = {"train/monitor_difference": 0.9, "train/monitor_ratio": 0.1, "train/monitor_slope": 0.1}


@pytest.mark.parametrize(
    ("columns", "settings"),
    [
        (RESTING, {}),  # parts that rest for a while, such as the contacts of one that flies
        ({"train/monitor_lengths_equal": 0.0, "train/monitor_length_ratio": 4.0}, {}),  # actions held for four steps
        (SCALED, {}),  # rewards times 0.1
        (SCALED | {"train/monitor_ratio": 1e-3, "train/monitor_slope": 1e-3}, {"normalize_rewards": True}),
        ({"train/observation_outside": 1.0}, {"normalize_observations": True}),
        ({"train/action_effect": np.where(TIME > 0.3, 0.02, 0.5)}, {"use_sde": True}),  # it hardly varies actions
        ({"train/action_effect": np.where(TIME > 0.5, 0.02, 0.9)}, {}),  # a policy that has become certain
        ({"train/episode_length_max": 500.0}, {}),  # the limit is reached, and told
        ({"train/reward_zero": 0.999}, {}),  # won or lost at the end, and learned
    ],
)
def test_what_is_meant_to_be_so_is_healthy(columns: dict[str, Any], settings: dict[str, Any]) -> None:
    """None of these has a finding."""
    assert names(make_record(columns, settings)) == []


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"train/observation_constant": np.where(TIME > 0.5, 1.0, 0.0)}, "observations-constant"),  # lost in mid-training
        ({"train/observation_constant": 0.25}, "observations-constant"),  # one part of four
        ({"train/observation_predicted_min": 0.0}, "observations-without-information"),  # one part is noise
        ({"train/observation_clipped": 0.7}, "observations-coarse"),
        ({"train/action_effect": 0.2}, "action-without-effect"),  # most actions are replaced
        ({"train/monitor_lengths_equal": 0.0, "train/monitor_length_ratio": 12.0}, "ends-changed"),
        ({"train/episode_length_max": 500.0, "train/episodes_truncated": 0.0}, "limit-as-terminal"),
        ({"train/monitor_difference": 1.0, "train/monitor_ratio": np.where(TIME > 0.5, 0.2, 1.0)}, "reward-altered"),
        ({"train/monitor_difference": 3.0, "train/monitor_ratio": -2.0, "train/monitor_slope": 1.0}, "reward-altered"),
        ({"train/monitor_difference": 2.0, "train/monitor_ratio": -1.0} | dict.fromkeys(
            ("train/monitor_slope", "train/monitor_correlation"), None), "reward-sign"),
    ],
)  # fmt: skip
def test_milder_and_later_faults_are_found(columns: dict[str, Any], name: str) -> None:
    """Each is named first."""
    assert names(make_record(columns))[0] == name


def test_discount_of_the_buffer_is_the_models() -> None:
    """A buffer that discounts by 0.5, where the model's gamma is 0.99, is named with both numbers."""
    finding = diagnose(make_record({}, {"buffer_gamma": 0.5})).findings[0]
    assert finding.name == "advantages-wrong"
    assert "0.5" in finding.evidence[0].text
    assert "0.99" in finding.evidence[0].text


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"optimizer_eps": 1.0}, "optimizer-unusual"),
        ({"adaptive": False}, "optimizer-unusual"),
        ({"momentum": 0.9999}, "optimizer-unusual"),
    ],
)
def test_optimizers(settings: dict[str, Any], name: str) -> None:
    """An epsilon of 1, plain SGD at Adam's rate, and a momentum of ten thousand steps."""
    assert names(make_record({}, settings)) == [name]
