"""Runs so short that a test can train one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.run import Run, close_run, learn, save_model, start_run
from sb3_ppo_edu.training.settings import RunSettings

TINY = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}


def settings_for(env_id: str = "CartPole-v1", **changes: Any) -> RunSettings:
    """
    Give the settings of a very short run.

    :param env_id: environment
    :param changes: other settings
    :return: the settings
    """
    values: dict[str, Any] = {"environment": EnvironmentSettings(env_id), "algorithm": TINY, "steps": 128, "n_envs": 2}
    return RunSettings(**{**values, **changes})


def train_and_save(folder: Path) -> Run:
    """
    Train and save a run that normalises, with seed 3 and a name in its command that a shell must quote.

    :param folder: of the run
    :return: the run, closed
    """
    environment = EnvironmentSettings("CartPole-v1", normalize={"norm_obs": True, "norm_reward": True, "gamma": 0.9})
    settings = settings_for(environment=environment, seed=3, algorithm={**TINY, "gamma": 0.9})
    run = start_run(settings, folder, ["sb3-edu", "train", "--name", "a b"])
    learn(run)
    save_model(run)
    close_run(run)
    return run
