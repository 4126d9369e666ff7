"""The verdict on a record, causes before consequences, and several runs beside each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sb3_ppo_edu.doctor.diagnose import compare, diagnose, rank
from sb3_ppo_edu.doctor.findings import Evidence, Finding
from tests.doctor_records import TIME, make_record


@pytest.mark.parametrize("key", ["train/approx_kl", "train/clip_fraction", "train/explained_variance", "rollout/ep_rew_mean"])
def test_nothing_is_called_healthy_without_its_main_metrics(key: str) -> None:
    """Without KL, clip fraction, explained variance or return there is no verdict, and the summary says which is missing."""
    diagnosis = diagnose(make_record(without=(key,)))
    assert diagnosis.findings == ()
    assert diagnosis.verdict == "unknown"
    assert f"not recorded: {key}" in diagnosis.summary


def test_causes_come_before_consequences() -> None:
    """A surer consequence stands behind the cause that explains it, and says which one that is."""
    piece = Evidence("train/approx_kl", "1", 1, 2)
    found = [Finding("no-progress", 1, 0.9, (piece,)), Finding("learning-rate-too-low", 1, 0.6, (piece,))]
    ranked = rank(found)
    assert [finding.name for finding in ranked] == ["learning-rate-too-low", "no-progress"]
    assert ranked[1].explained_by == "learning-rate-too-low"


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
