"""
What the tests of the speed laboratory measure, a very short training, and with what, a clock that they set themselves.

The fixture is imported as ``clock as clock``, so that ruff does not take it for an unused name.
"""

from __future__ import annotations

import pytest

from sb3_ppo_edu.lab.speed import floor, grid, runs, watches
from sb3_ppo_edu.lab.speed.cases import Case

TINY = Case("CartPole-v1, tiny", "CartPole-v1", 2, 2, {"n_steps": 32, "batch_size": 32, "n_epochs": 3})


class Clock:
    """A clock that stands still but for what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """
        Let time pass.

        :param seconds: how much
        """
        self.now += seconds

    def perf_counter(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Measure by a clock of the test's own: what other programs do at the time is no matter."""
    own = Clock()
    for room in (runs, grid, floor, watches):
        monkeypatch.setattr(room, "time", own)
    return own
