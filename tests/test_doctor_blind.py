"""Faults that were thought of without the doctor: two toys are trained, resumed, shared out, told and counted."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "doctor"


class Blind(gym.ObservationWrapper):
    """All observations are 0."""

    def observation(self, observation: Any) -> Any:
        """Give none."""
        return np.zeros_like(observation)


def refuse(model: Any) -> None:
    """Raise an error, as a fault that cannot be built does."""
    raise ValueError("no such thing")


def toy(name: str, **values: Any) -> SimpleNamespace:
    """Make a fault as ``blind_faults.py`` has them."""
    defaults = {"family": "environment", "what": name, "base": "CartPole-v1", "wrapper": None, "model_hook": None}
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 1}
    return SimpleNamespace(**{"name": name, "settings": settings, "steps": 1024, **defaults, **values})


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script ``blind.py``, with toys in place of the faults."""
    specification = importlib.util.spec_from_file_location("doctor_blind", FOLDER / "blind.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    toys = ModuleType("toy_faults")
    toys.FAULTS = [toy("zeros", wrapper=Blind), toy("refused", model_hook=refuse)]  # type: ignore[attr-defined]
    toys.HEALTHY = [toy("fine")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_faults", toys)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return module


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """Read the rows of all shards, by name."""
    rows = [row for path in folder.glob("blind-[0-9]*.csv") for row in csv.DictReader(path.open(encoding="utf-8"))]
    return {row["name"]: row for row in rows}


def test_toys_are_trained_and_told(blind: ModuleType, tmp_path: Path) -> None:
    """A plain log tells of the constant observations; what cannot be built is told by its error; each is trained once."""
    arguments = ["--faults", "toy_faults", "--folder", str(tmp_path)]
    blind.main([*arguments, "--shard", "0/2"])
    assert set(rows_of(tmp_path)) == {"zeros", "fine"}
    blind.main([*arguments, "--shard", "1/2"])
    blind.main([*arguments])
    rows = rows_of(tmp_path)
    assert len(rows) == 3
    assert not (tmp_path / "blind-0-of-1.csv").exists()
    assert rows["zeros"]["first"] == "observations-constant"
    assert "100%" in rows["zeros"]["first_text"]
    assert rows["refused"]["verdict"] == "no record"
    assert "no such thing" in rows["refused"]["first_text"]
    assert rows["fine"]["kind"] == "healthy"
    (tmp_path / "blind-judged.csv").write_text("name,first,three\nzeros,1,1\nrefused,0,1\n")
    blind.main([*arguments, "--report"])
    page = (tmp_path / "blind.md").read_text()
    assert "| all faults: named first | 1 of 2 | 50% |" in page
    assert "| all faults: among the first three | 2 of 2 | 100% |" in page


def test_an_evaluation_ends(blind: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode that a fault never lets end is cut off, and its return is what the monitor has seen: 1 a step."""

    class Endless(gym.Wrapper):
        """Begins anew instead of telling an end."""

        def step(self, action: Any) -> Any:
            """Step, and tell no end."""
            observation, reward, terminated, truncated, _ = self.env.step(action)
            if terminated or truncated:
                observation, _ = self.env.reset()
            return observation, 5 * float(reward), False, False, {}

    monkeypatch.setattr(blind, "LONGEST", 9)
    env = blind.make_envs(toy("endless", wrapper=Endless), 1, 0, evaluation=True)
    env.reset()
    for step in range(9):
        _, rewards, dones, infos = env.step(np.array([step % 2]))
    assert dones[0]
    assert rewards[0] == 5
    assert infos[0]["episode"]["r"] == infos[0]["episode"]["l"] == 9


@pytest.mark.parametrize(("family", "wrapped"), [("environment", True), ("evaluation", False)])
def test_what_is_evaluated_on(blind: ModuleType, family: str, wrapped: bool) -> None:
    """Evaluation has the fault's wrapper, unless the fault is one of evaluation: then training alone has it."""
    fault = toy("zeros", wrapper=Blind, family=family)
    assert not blind.make_envs(fault, 1, 0).reset().any()
    assert bool(blind.make_envs(fault, 1, 0, evaluation=True).reset().any()) is not wrapped
