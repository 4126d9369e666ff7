"""Settings of a run: impossible ones are refused, and ``settings.yml`` says everything that a result depends on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.settings import (
    RunSettings,
    all_arguments,
    as_yaml,
    git_revision,
    settings_from_hyperparameters,
    versions,
)
from tests.small_runs import settings_for


def test_flat_settings_are_sorted() -> None:
    """What the zoo consumes goes to environment and run, the rest to the algorithm."""
    flat = {
        "policy": "MlpPolicy",
        "n_envs": 4,
        "n_timesteps": 500,
        "normalize": {"norm_reward": False},
        "env_kwargs": {"gravity": 5.0},
        "frame_stack": 2,
        "env_wrapper": "a.B",
        "vec_env_wrapper": "c.D",
        "callback": "e.F",
        "monitor_kwargs": {"info_keywords": ("x",)},
        "gamma": 0.9,
        "learning_rate": "lin_0.01",
    }
    settings = settings_from_hyperparameters("CartPole-v1", flat, seed=5, eval_freq=50, device="cpu", verbose=1)
    environment = EnvironmentSettings(
        "CartPole-v1", {"gravity": 5.0}, "a.B", "c.D", 2, {"info_keywords": ("x",)}, {"norm_reward": False}
    )
    algorithm = {"gamma": 0.9, "learning_rate": "lin_0.01"}
    assert settings == RunSettings(environment, "MlpPolicy", algorithm, 500, 5, 4, "e.F", 50, "cpu", 1)


def test_steps_go_before_the_files() -> None:
    """Steps that are given count; without any, in the call or the file, nothing says when to stop."""
    assert settings_from_hyperparameters("CartPole-v1", {"n_timesteps": 500}, steps=7).steps == 7
    with pytest.raises(ValueError, match=r"n_timesteps: .*CartPole-v1.* give --steps"):
        settings_from_hyperparameters("CartPole-v1", {})


def test_no_normalisation_is_none() -> None:
    """``False``, as the YAML reader gives it, means none."""
    assert settings_from_hyperparameters("CartPole-v1", {"normalize": False}, steps=1).environment.normalize is None


def test_rollout_buffer_by_name() -> None:
    """A rollout buffer class may be named."""
    name = "stable_baselines3.common.buffers.RolloutBuffer"
    settings = settings_from_hyperparameters("CartPole-v1", {"rollout_buffer_class": name}, steps=1)
    assert settings.algorithm["rollout_buffer_class"].__name__ == "RolloutBuffer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0: expected an integer ≥ 1"),
        ({"n_envs": 0}, "n_envs=0: expected"),
        ({"eval_freq": -1}, "eval_freq=-1: expected"),
        ({"seed": -1}, "seed=-1: expected"),
        ({"seed": 2**32}, "seed=4294967296: expected"),
        ({"device": "cudaa"}, "device='cudaa': expected"),
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    """Settings that cannot be trained with say which, what was found and what is expected."""
    with pytest.raises(ValueError) as caught:
        settings_for(**changes)
    assert message in str(caught.value)


# -- settings.yml -------------------------------------------------------------------------------------------------------


def test_all_arguments_are_the_constructors() -> None:
    """Every argument that a run does not hold itself is there, given or default."""
    arguments = all_arguments({"gamma": 0.5})
    assert arguments["gamma"] == 0.5
    assert arguments["dual_clip"] is None
    assert not {"self", "policy", "env", "seed", "device", "verbose", "_init_setup_model"} & set(arguments)


def test_plain_values() -> None:
    """What YAML cannot say becomes what it can: tuples lists, classes names, numpy numbers numbers, the rest text."""
    value = {"a": (1, np.float64(2.5)), 3: th.nn.ReLU, "path": Path("x"), "none": None, "flag": True}
    expected = {
        "a": [1, 2.5],
        "3": "torch.nn.modules.activation.ReLU",
        "path": "x",
        "none": None,
        "flag": True,
    }
    assert as_yaml(value) == expected


def test_versions_name_the_libraries() -> None:
    """All that numbers depend on is listed."""
    assert set(versions()) == {"sb3_ppo_edu", "python", "torch", "stable_baselines3", "gymnasium", "numpy"}


def test_git_revision(tmp_path: Path) -> None:
    """The commit of a tracked folder, marked when the folder has changed; nothing for an untracked one."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_revision(tmp_path) is None
    git("init")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "file.py").write_text("1")
    assert git_revision(tmp_path / "code") is None
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert git_revision(tmp_path / "code") == head
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "file.py").write_text("2")
    assert git_revision(tmp_path / "code") == head
    assert git_revision(tmp_path / "installed") is None
    (tmp_path / "code" / "file.py").write_text("2")
    assert git_revision(tmp_path / "code") == head + "-dirty"
