"""The speed laboratory's grid: single updates and steps of acting, each timed by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch as th

from sb3_ppo_edu.lab.speed import grid
from sb3_ppo_edu.lab.speed.cases import Grid
from tests.speed_measurements import Clock
from tests.speed_measurements import clock as clock


@pytest.mark.parametrize("engine", grid.engines_here())
def test_grid_updates_are_updates(engine: str) -> None:
    """
    K updates are k steps of the optimizer on the one minibatch, whose first ratio is 1: the policy is its author.

    The engine is the one that is named, at the instruction set that is named, and stays it.
    """
    model = grid.make_model(engine, 16, 2, 32)
    assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net[::2]] == [16, 16]
    grid.update(model, 3)
    state = model.policy.optimizer.state[next(iter(model.policy.parameters()))]
    assert state["step"] == 3
    assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert model.logger.name_to_value["train/clip_fraction"] == 0
    actions, values, log_probs = grid.acting(model)(th.zeros(4, 8))
    assert (actions.shape, values.shape, log_probs.shape) == ((4,), (4, 1), (4,))
    assert not values.requires_grad
    if engine != "sb3":
        name, _, level = engine.partition("-")
        made = model.attach_engine()
        assert made.name == name
        assert not level or made.instruction_set == level


def test_grid_has_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch size and number of environments is measured for SB3, both engines and the floor."""
    monkeypatch.setattr(grid, "TIMED_SECONDS", 0.0)
    found = grid.measure_grid(Grid((), (), (32, 64), (1, 2)), 16, 1)
    keys = {(row["kind"], row["engine"], row["rows"]) for row in found}
    sizes = [*(("update", rows) for rows in (32, 64)), *(("acting", rows) for rows in (1, 2))]
    engines = (*grid.engines_here(), "floor")
    assert keys == {(kind, engine, rows) for kind, rows in sizes for engine in engines}
    assert len(found) == len(keys)
    assert all(row["lowest"] <= row["microseconds"] <= row["highest"] for row in found)
    assert all((row["width"], row["depth"]) == (16, 1) for row in found)


def test_times_are_those_of_one_call(clock: Clock) -> None:
    """A work is repeated until it can be measured and reported once; the names take turns; slow points get few repeats."""
    order: list[str] = []

    def work(name: str, seconds: float) -> Callable[[int], None]:
        def repeated(times: int) -> None:
            order.append(name)
            clock.advance(times * seconds)

        return repeated

    found = grid.time_alternating({"a": work("a", 0.002), "b": work("b", 0.1)})
    assert found == {"a": [pytest.approx(0.002)] * grid.MOST_REPEATS, "b": [pytest.approx(0.1)] * grid.MOST_REPEATS}
    assert order[4:8] == ["a", "b", "b", "a"]
    slow = grid.time_alternating({"a": work("a", 3.0), "b": work("b", 1.0)})
    assert slow == {"a": [pytest.approx(3.0)] * grid.FEWEST_REPEATS, "b": [pytest.approx(1.0)] * grid.FEWEST_REPEATS}
