"""How the doctor's cost is measured: nothing is counted twice, the clock's own time is left out, nothing is written."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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


def test_blocks_are_of_each_kind(cost: ModuleType, tmp_path: Path) -> None:
    """Two blocks of each kind are timed; afterwards the doctor has seen its own blocks only, and has left its report."""
    model = cost.make_model("CartPole-v1", 1, {"n_steps": 16, "batch_size": 16, "n_epochs": 1}, str(tmp_path))
    seconds = cost.compare_blocks(model, 2)
    assert {kind: len(numbers) for kind, numbers in seconds.items()} == dict.fromkeys(cost.KINDS, 2)
    assert all((numbers > 0).all() for numbers in seconds.values())
    # Three blocks, the first to warm up, of three kinds.
    assert model.num_timesteps == 3 * 3 * cost.BLOCK * 16
    shares = cost.measure_inside(model, 1)
    assert set(shares) == {"recorded", "watched"}
    assert all(0 < share < 1 for share in shares.values())
