"""How the doctor's cost is measured: nothing is counted twice, the clock's own time is left out, nothing is written."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu.rollouts.lean import collect_lean

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "doctor" / "cost.py"


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script ``cost.py``."""
    specification = importlib.util.spec_from_file_location("doctor_cost", PATH)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "doctor_cost", module)  # where dataclasses look for their types
    specification.loader.exec_module(module)
    return module


class Work:
    """Two methods, of which one calls the other."""

    def inner(self) -> str:
        """Take 20 ms of processor time."""
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return "done"

    def outer(self) -> str:
        """Take what the other one takes."""
        return self.inner()


def test_time_inside_is_counted_once(cost: ModuleType) -> None:
    """Of two measured methods, one inside of the other, the 20 ms are those of the outer one; results are handed on."""
    meter, work = cost.Meter(), Work()
    meter.measure(work, "outer", "outer")
    meter.measure(work, "inner", "inner")
    assert work.outer() == "done"
    assert set(meter.seconds) == {"outer"}
    assert meter.seconds["outer"] == pytest.approx(0.02, abs=0.005)
    work.inner()
    assert meter.seconds["inner"] == pytest.approx(0.02, abs=0.005)


def test_clocks_own_time_is_taken_off(cost: ModuleType) -> None:
    """What an empty method seems to take is under a tenth of a millisecond, and is taken off every call after that."""
    meter, work = cost.Meter(), Work()
    meter.calibrate(1000)
    assert 0 < meter.own < 1e-4
    assert not meter.seconds
    meter.own = 0.015
    meter.measure(work, "inner", "inner")
    work.inner()
    assert meter.seconds["inner"] == pytest.approx(0.005, abs=0.005)


def test_interval_holds_the_median(cost: ModuleType) -> None:
    """Of equal shares it is a point; of 1 % to 9 % the median is 5 %, within its interval."""
    assert cost.interval(np.full(5, 0.012)) == "1.2 % (1.2 % to 1.2 %)"
    assert cost.interval(np.linspace(0.01, 0.09, 9)).startswith("5.0 % (")


@pytest.fixture
def model(cost: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model whose blocks are of 8 iterations: its updates are short, of which every fourth is measured."""
    monkeypatch.setattr(cost, "MEASURED", 2)
    return cost.make_model("CartPole-v1", 1, {"n_steps": 16, "batch_size": 16, "n_epochs": 1}, str(tmp_path))


def counted(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """Have a function add to a list, too, whenever it is called."""

    def counting(*given: Any) -> Any:
        calls.append(given)
        return function(*given)

    return counting


def test_blocks_are_of_each_kind(cost: ModuleType, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of each kind are timed; the doctor sees one kind of three, and numbers are recorded in two."""
    recorded: list[Any] = []
    watched: list[Any] = []
    for owner, name, calls in (
        (cost.diagnostics, "doctor_numbers", recorded),
        (cost.TrainingDoctor, "on_rollout_start", watched),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name), calls))
    records = [getattr(owner, name) for owner, name in cost.RECORDED]
    seconds = cost.compare_blocks(model, 2)
    assert {kind: len(numbers) for kind, numbers in seconds.items()} == dict.fromkeys(cost.KINDS, 2)
    assert all((numbers > 0).all() for numbers in seconds.values())
    # Three blocks, the first to warm up, of three kinds and 8 iterations.
    assert model.num_timesteps == 3 * 3 * 8 * 16
    assert (len(watched), len(recorded)) == (3 * 8, 2 * 3 * 8 / 4)
    assert [getattr(owner, name) for owner, name in cost.RECORDED] == records


def test_measured_training_is_as_fast_as_any(cost: ModuleType, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is measured a rollout has the lean loop, as with the doctor that is not measured; nothing is left behind."""
    lean: list[Any] = []
    records = [getattr(owner, name) for owner, name in cost.RECORDED]
    monkeypatch.setattr("sb3_ppo_edu.algorithms.ppo.collect_lean", counted(collect_lean, lean))
    shares = cost.measure_inside(model, 1)
    assert set(shares) == {"recorded", "watched"}
    assert all(0 < share < 1 for share in shares.values())
    assert len(lean) == 8
    assert [getattr(owner, name) for owner, name in cost.RECORDED] == records
