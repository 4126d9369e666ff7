"""Symptoms of exploration: entropy, its bonus, and how wide a Gaussian begins."""

from __future__ import annotations

import numpy as np

from tests.doctor_records import TIME, gaussian, make_record, names


def test_solved_task_with_low_entropy_is_healthy() -> None:
    """A policy that has risen and stays at its peak may be certain."""
    rising = {"rollout/ep_rew_mean": np.minimum(20 + 2000 * TIME, 500.0), "train/entropy_loss": -0.69 * np.exp(-30 * TIME)}
    assert "entropy-collapse" not in names(make_record(rising))


def test_sign_of_the_entropy_bonus_is_a_fault_at_once() -> None:
    """A coefficient of -0.5 is named before entropy has fallen; one of 0.005 with the same entropy is healthy."""
    assert names(make_record({"train/ent_coef": -0.5})) == ["entropy-collapse"]
    assert names(make_record({"train/ent_coef": 0.005})) == []


def test_wide_start_and_small_gradient_limit_are_found_without_eduppos_columns() -> None:
    """Of SB3's PPO, which logs neither saturation nor gradient norm, a deviation of 8 and a limit of 1e-7 are told too."""
    wide = make_record(gaussian() | {"train/std": 8.0}, without=("train/action_saturation",))
    assert names(wide)[0] == "std-starts-wide"
    small = {"train/approx_kl": 1e-6, "train/clip_fraction": 0.0}
    assert names(make_record(small, {"max_grad_norm": 1e-7}, without=("train/grad_norm",)))[0] == "max-grad-norm-too-small"
