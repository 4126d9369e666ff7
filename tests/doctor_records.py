"""Records made by hand, for the doctor's tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.record import Record, record_of_rows

ROWS = 40
SIZE = 1024

TIME = np.linspace(0.0, 1.0, ROWS)
FLAT = {"rollout/ep_rew_mean": 21.0 + 0.3 * np.sin(9 * TIME), "rollout/ep_len_mean": 21.0 + 0.3 * np.sin(9 * TIME)}
"""A return that does not rise."""

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "n_steps": 256,
    "n_envs": 4,
    "n_epochs": 10,
    "gamma": 0.99,
    "max_grad_norm": 0.5,
    "target_kl": None,
    "normalize_advantage": True,
    "env": "Somewhere-v0",
    "batch_size": 64,
    "gae_lambda": 0.95,
    "trained": 1.0,
    "layer_width": 64,
    "adaptive": True,
    "optimizer_eps": 1e-5,
    "weight_decay": 0.0,
    "n_actions": 2,
    "time_limit": 500,
}


def healthy() -> dict[str, Any]:
    """Columns of a training in good health: numbers stand for a constant, arrays for each row."""
    time = np.linspace(0.0, 1.0, ROWS)
    return {
        "time/total_timesteps": SIZE * np.arange(1, ROWS + 1),
        "time/iterations": np.arange(1, ROWS + 1),
        "time/time_elapsed": 2.0 * np.arange(1, ROWS + 1),
        "time/fps": 512.0,
        "rollout/ep_rew_mean": 20.0 + 400.0 * time,
        "rollout/ep_len_mean": 20.0 + 400.0 * time,
        "eval/mean_reward": 25.0 + 420.0 * time,
        "train/approx_kl": 0.01,
        "train/clip_fraction": 0.12,
        "train/clip_range": 0.2,
        "train/learning_rate": 3e-4,
        "train/n_updates": 10 * np.arange(ROWS),
        "train/entropy_loss": -0.69 + 0.25 * time,
        "train/policy_gradient_loss": -0.01,
        "train/value_loss": 20.0,
        "train/loss": 10.0,
        "train/explained_variance": np.minimum(0.05 + 1.5 * time, 0.9),
        "train/early_stop_epoch": 10.0,
        "train/kl_first_epoch": 0.006,
        "train/ratio_first": 1.0,
        "train/ratio_max": 1.5,
        "train/ent_coef": 0.005,
        "train/vf_coef": 0.5,
        "train/grad_norm": 2.0,
        "train/grad_norm_policy": 0.5,
        "train/grad_norm_value": 1.9,
        "train/advantage_std": 5.0,
        "train/return_std": 15.0,
        "train/observation_scale_max": 1.2,
        "train/observation_scale_min": 0.05,
        "train/episodes_ended": 10.0,
        "train/episodes_truncated": 2.0,
        "train/observation_constant": 0.0,
        "train/observation_predicted_max": 0.99,
        "train/observation_predicted_min": 0.8,
        "train/observation_repeated": 0.0,
        "train/observation_distinct": 1.0,
        "train/observation_clipped": 0.01,
        "train/observation_outside": 0.0,
        "train/action_effect": 0.9,
        "train/action_effect_late": 0.05,
        "train/starts_distinct": 1.0,
        "train/episode_length_max": 30.0 + 400.0 * time,
        "train/monitor_lengths_equal": 1.0,
        "train/monitor_length_ratio": 1.0,
        "train/monitor_difference": 1e-8,
        "train/monitor_ratio": 1.0,
        "train/monitor_slope": 1.0,
        "train/monitor_offset": 0.0,
        "train/monitor_correlation": 1.0,
        "train/reward_zero": 0.0,
        "doctor/improvement": 0.4,
        "doctor/gae_error": 1e-6,
    }


def gaussian() -> dict[str, Any]:
    """What a training with a Gaussian policy has in place of a categorical one's entropy."""
    time = np.linspace(0.0, 1.0, ROWS)
    return {
        "train/std": 1.0 - 0.5 * time,
        "train/entropy_loss": -1.42 + 0.7 * time,
        "train/action_saturation": 0.1,
    }


def make_record(
    columns: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    rows: int = ROWS,
) -> Record:
    """
    Build a record: a healthy one with some columns and settings changed, others taken away, or cut short.

    :param columns: in place of the healthy ones; None is not logged
    :param settings: in place of the healthy ones
    :param without: columns and settings to leave out, exact names
    :param rows: how many of them
    :return: the record
    """
    table = {
        key: np.broadcast_to(value, (ROWS,)) for key, value in (healthy() | (columns or {})).items() if key not in without
    }
    listed = [{key: float(values[row]) for key, values in table.items() if values[row] is not None} for row in range(rows)]
    kept = {name: value for name, value in (SETTINGS | (settings or {})).items() if name not in without}
    return record_of_rows(listed, "by hand", kept)


def names(record: Record) -> list[str]:
    """Findings of a record, in order."""
    return [finding.name for finding in diagnose(record).findings]
