"""The command line as tests call it: short trainings, environments of their own, and help in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ppo_edu.cli import main

TINY = [
    "--n-steps",
    "32",
    "--batch-size",
    "32",
    "--n-epochs",
    "2",
    "--policy-kwargs",
    "dict(net_arch=[8], activation_fn=nn.ReLU)",
]
"""Flags of a training that takes a moment."""


class Blind(gym.Env[Any, Any]):
    """Three steps, a reward of 1 for each, and nothing to see."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count."""
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, {}


class Spiky(Blind):
    """The same, but the hundredth step of its life shows an infinity."""

    def __init__(self) -> None:
        self.life = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count, and look out for the spike."""
        self.life += 1
        _, *rest = super().step(action)
        return np.full(1, np.inf if self.life == 100 else 0.0, np.float32), *rest  # type: ignore[return-value]

    def get_state(self) -> list[int]:
        """Say how old it is."""
        return [self.steps, self.life]

    def set_state(self, state: list[int]) -> None:
        """Be as old."""
        self.steps, self.life = state


def process_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave torch's threads and the variables for drawing as they were: the command sets them."""
    for name in ("MUJOCO_GL", "PYGAME_HIDE_SUPPORT_PROMPT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


def train(folder: Path, *arguments: str, env: str = "CartPole-v1", steps: int = 256) -> int:
    """
    Run a short ``sb3-edu train`` into ``folder/run``.

    :param folder: where
    :param arguments: further arguments
    :param env: environment
    :param steps: steps
    :return: exit code
    """
    where = ["--folder", str(folder), "--name", "run", "--eval-episodes", "5"]
    return main(["train", "--env", env, "--steps", str(steps), *where, *TINY, *arguments])


def train_with_everything(folder: Path) -> tuple[Path, str]:
    """
    Run ``python -m sb3_ppo_edu train`` into ``folder/run``, with everything on.

    :param folder: where
    :return: the run's folder, and what was printed
    """
    command = [sys.executable, "-m", "sb3_ppo_edu", "train", "--env", "CartPole-v1", "--steps", "256", "--seed", "4"]
    command += ["--folder", str(folder), "--name", "run", "--eval-episodes", "5", "--n-envs", "2", "--normalize"]
    done = subprocess.run([*command, *TINY], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "256/256" in done.stderr.replace(" ", "") or "100%" in done.stderr
    return folder / "run", done.stdout


def help_of(command: str, capsys: pytest.CaptureFixture[str], flag: str = "--help") -> str:
    """
    Get what ``--help`` prints, in one line.

    :param command: the command
    :param capsys: pytest's capture
    :param flag: the flag that asks for it
    :return: the help
    """
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), flag])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


gym.register("Blind-v0", f"{__name__}:Blind")
gym.register("Spiky-v0", f"{__name__}:Spiky")
