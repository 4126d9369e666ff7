"""Symptoms of the policy's steps: learning rate, clip range, epochs, limit of the KL, first ratio."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_ppo_edu.doctor.diagnose import diagnose
from tests.doctor_records import FLAT, ROWS, TIME, gaussian, make_record, names


@pytest.mark.parametrize(("kl", "clip", "found"), [(0.06, 0.35, True), (0.045, 0.35, False), (0.06, 0.25, False)])
def test_lectures_limits_of_kl_and_clip_fraction(kl: float, clip: float, found: bool) -> None:
    """At a usual rate, both must be beyond the lecture's limits, 0.05 nats and 0.3, before the rate is called too high."""
    record = make_record({"train/approx_kl": kl, "train/clip_fraction": clip})
    assert ("learning-rate-too-high" in names(record)) is found


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


def test_kl_limit_is_found_in_a_policy_that_has_stopped_moving() -> None:
    """Every update stops in its first epoch until half of the training, and none after that, since nothing moves any more."""
    columns = {"train/early_stop_epoch": np.where(TIME < 0.5, 0.0, 10.0), "train/approx_kl": 3e-5}
    assert "target-kl-too-small" in names(make_record(columns, {"target_kl": 1e-5}))
    assert "target-kl-too-small" not in names(make_record(columns, {"target_kl": 0.02}))


@pytest.mark.parametrize(("epochs", "first", "found"), [(60, 3e-4, True), (60, 6e-3, False), (15, 3e-4, False)])
def test_kl_that_rises_from_nothing_is_too_many_epochs(epochs: int, first: float, found: bool) -> None:
    """
    A KL of 0.012 at the end is healthy, but not if 60 epochs brought it there from 3e-4: 40 times.

    Twice is no rise, and 15 epochs are usual ones.
    """
    columns = {"train/n_updates": epochs * np.arange(ROWS), "train/approx_kl": 0.012, "train/kl_first_epoch": first}
    assert ("too-many-epochs" in names(make_record(columns))) is found  # without settings, whose 60 would be named by itself


def test_rounding_in_narrow_gaussians_is_no_other_policy() -> None:
    """With a standard deviation of 1e-5 log-probabilities are rounding: a ratio of 3 there says nothing, at 0.5 it does."""
    for std, found in ((1e-5, False), (0.5, True)):
        columns = gaussian() | {"train/std": std, "train/ratio_first": 3.0}
        assert ("ratio-not-one" in names(make_record(columns))) is found


def test_falling_schedules_are_healthy() -> None:
    """A learning rate and a clip range that fall to 0 make small steps at the end: no fault."""
    falling = {
        "train/learning_rate": 3e-4 * (1 - TIME),
        "train/clip_range": np.maximum(0.2 * (1 - TIME), 1e-4),
        "train/approx_kl": 0.012 * (1 - TIME) + 1e-6,
        "train/clip_fraction": 0.12,
    }
    assert names(make_record(falling)) == []
