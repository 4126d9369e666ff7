"""The speed laboratory's waiting times: of imports, first updates, and trainings with callbacks."""

from __future__ import annotations

from typing import Any

import pytest

from sb3_ppo_edu.lab.speed import further
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS
from tests.speed_measurements import TINY, Clock
from tests.speed_measurements import clock as clock


def test_import_counts_the_statement_alone() -> None:
    """A statement that sleeps a twentieth of a second takes that, and not what the interpreter's start takes."""
    assert 0.05 <= further.import_seconds("time.sleep(0.05)") < 1


def test_first_update_is_told_from_the_others(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of updates that take 5, 1, 3 and 2 seconds the first takes 5, the others 2 in the median."""

    class Model:
        def train(self) -> None:
            """Take time."""
            clock.advance(seconds.pop(0))

        def learn(self, steps: int) -> None:
            """Update four times."""
            for _ in range(4):
                clock.advance(100.0)
                self.train()

    seconds = [5.0, 1.0, 3.0, 2.0]
    monkeypatch.setattr(further, "make_model", lambda *_: Model())
    found = further.measure_updates(TINY, ALGORITHMS["fused"], 0)
    assert found == {further.FIRST_UPDATE: 5.0, further.LATER_UPDATES: 2.0}


@pytest.mark.parametrize(("seed", "first"), [(0, further.ALONE), (1, further.WITH_CALLBACKS)])
def test_both_trainings_are_first_in_turn(seed: int, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without callbacks the same number of rollouts is trained, and another one begins each time."""
    asked: list[tuple[str, int]] = []

    def noted(name: str) -> Any:
        def train(case: Any, *_: Any) -> dict[str, float]:
            asked.append((name, case.rollouts))
            return {name: 1.0}

        return train

    monkeypatch.setattr(further, "alone", noted(further.ALONE))
    monkeypatch.setattr(further, "with_callbacks", noted(further.WITH_CALLBACKS))
    further.measure_callbacks(TINY, ALGORITHMS["fused"], seed)
    assert asked[0] == (first, further.ROLLOUTS_WITH_CALLBACKS)
    assert {name for name, _ in asked} == {further.ALONE, further.WITH_CALLBACKS}
