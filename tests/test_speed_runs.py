"""The speed laboratory's trainings: what is measured of them is what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms import ppo
from sb3_ppo_edu.lab.speed import runs, watches
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES
from sb3_ppo_edu.rollouts.lean import collect_lean
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.speed_measurements import TINY, Clock
from tests.speed_measurements import clock as clock


@pytest.mark.parametrize(
    ("case", "algorithm", "vec_env", "render_mode"),
    [
        ("lunarlander-zoo", "sb3", DummyVecEnv, None),
        ("lunarlander-users", "sb3", DummyVecEnv, "rgb_array"),
        ("lunarlander-users", "sbx", DummyVecEnv, "rgb_array"),
        ("lunarlander-users", "autograd", InProcessVecEnv, None),
        ("lunarlander-zoo", "fused", InProcessVecEnv, None),
        ("lunarlander-users", "fused-dummy", DummyVecEnv, None),
    ],
)
def test_environments_are_those_of_the_users(case: str, algorithm: str, vec_env: type, render_mode: str | None) -> None:
    """Only where it is said so do SB3's environments keep a render mode; only EduPPO's stand in our vector environment."""
    env = runs.make_env(CASES[case], ALGORITHMS[algorithm], 0)
    assert type(env) is vec_env
    assert env.num_envs == 16
    assert env.get_attr("render_mode") == [render_mode] * 16
    env.close()


def test_models_have_the_settings_of_their_case() -> None:
    """SB3's PPO and EduPPO get the case's arguments, a schedule "lin_x" as a line from x to 0, and its normalisation."""
    case = replace(CASES["bipedalwalker-zoo"], env_id="Pendulum-v1", n_envs=1)
    line = replace(case, arguments={**case.arguments, "learning_rate": "lin_0.5", "n_steps": 64})
    for name, kind in (("sb3", PPO), ("fused", EduPPO)):
        model = runs.make_model(line, ALGORITHMS[name], 7)
        assert type(model) is kind
        assert (model.n_steps, model.batch_size, model.n_epochs, model.gamma, model.seed) == (64, 64, 10, 0.999, 7)
        assert cast(Schedule, model.clip_range)(1.0) == 0.18
        assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
        assert isinstance(model.env, VecNormalize)
        assert model.env.gamma == 0.999
    assert model.engine == "fused"


@pytest.mark.parametrize(("units", "minibatches"), [(128, 6 * 80), (256, 4 * 80)])
def test_memory_is_compared_with_sb3_contribs(units: int, minibatches: int) -> None:
    """8 environments, n_steps 128, batch 128 and sb3-contrib's other defaults, for RecurrentPPO and RecurrentEduPPO alike."""
    case = CASES[f"cartpole-memory-{units}"]
    for name, kind in (("sb3", RecurrentPPO), ("fused", RecurrentEduPPO)):
        model: Any = runs.make_model(case, ALGORITHMS[name], 0)
        assert (model.n_envs, model.n_steps, model.batch_size, model.n_epochs) == (8, 128, 128, 10)
        assert (model.policy.lstm_actor.hidden_size, model.policy.lstm_critic.hidden_size) == (units, units)
        assert case.steps // model.batch_size * model.n_epochs == minibatches
        assert type(model) is kind
    assert model.engine == "fused"


@pytest.mark.parametrize("algorithm", ["sb3", "fused"])
def test_parts_of_a_training_with_memory(algorithm: str) -> None:
    """Acting, environment, updates and advantages are found in sb3-contrib's RecurrentPPO and in ours."""
    case = replace(TINY, memory=True, arguments={**TINY.arguments, "policy_kwargs": {"lstm_hidden_size": 8}})
    rows = runs.measure_split(case, ALGORITHMS[algorithm], 0)
    spent = {row["part"]: row["seconds"] for row in rows if row.get("algorithm") != "floor"}
    assert all(spent[part] > 0 for part in ("environment", "acting", "advantages", "update"))
    assert {row["part"] for row in rows if row.get("algorithm") == "floor"} == (
        {"environment", "bare environment", "acting", "update"} if algorithm == "fused" else set()
    )


@pytest.mark.parametrize("algorithm", ["sb3", "autograd", "fused", "fused-dummy"])
def test_end_to_end_measures_the_whole_training(algorithm: str) -> None:
    """A training makes the case's steps; its time is that of ``learn``, its memory grows from before to the peak."""
    start = time.perf_counter()
    (row,) = runs.measure_end_to_end(TINY, ALGORITHMS[algorithm], 0)
    elapsed = time.perf_counter() - start
    assert row["steps"] == TINY.steps
    assert 0 < row["wall_seconds"] < elapsed
    assert row["cpu_seconds"] > 0
    assert 10 < row["memory_before_mib"] <= row["memory_peak_mib"]
    assert row["compile_seconds"] == 0


def test_peak_of_memory_is_remembered() -> None:
    """Memory that was taken and given back shows in the peak, and not in the present."""
    present = watches.memory_mib(peak=False)
    taken = np.ones(2**26)  # 512 MiB
    with_it = watches.memory_mib(peak=False)
    del taken
    assert with_it - present == pytest.approx(512, abs=32)
    assert watches.memory_mib(peak=True) >= present + 480
    assert watches.memory_mib(peak=False) == pytest.approx(present, abs=32)


def test_stopwatch_adds_up(clock: Clock) -> None:
    """A stopwatch counts the time within calls, those that raise included, and passes arguments and results on."""
    watch = watches.Stopwatch()

    def work(seconds: float, *, result: float) -> float:
        clock.advance(seconds)
        return 1 / result

    timed = watch.around(work)
    assert timed(2.0, result=4.0) == 0.25
    clock.advance(100.0)
    assert timed(3.0, result=2.0) == 0.5
    with pytest.raises(ZeroDivisionError):
        timed(0.5, result=0.0)
    assert watch.seconds == 5.5


def test_wrapped_functions_are_put_back() -> None:
    """After a measurement, however it ended, an object has its class's method again, and a module its own function."""
    model = runs.make_model(TINY, ALGORITHMS["sb3"], 0)
    name = "compute_returns_and_advantage"
    before, method = vars(ppo)[name], model.train
    with (
        pytest.raises(ZeroDivisionError),
        watches.replaced(ppo, name, lambda function: None),
        watches.replaced(model, "train", lambda function: function),
        watches.replaced(model, "train", lambda function: 1 / 0),
    ):
        pass
    assert vars(ppo)[name] is before
    assert model.train == method
    assert "train" not in vars(model)


@pytest.mark.parametrize("algorithm", ["sb3", "autograd", "fused"])
def test_split_finds_every_part(algorithm: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each part is measured where it happens: what only one part takes is in its row, and in no other.

    The kernels are measured in the lean loop, which their users have, and once more without stopwatches.
    """
    takes = {"environment": 2.0, "acting": 3.0, "advantages": 100.0, "update": 200.0}
    places_of_parts = runs.places_of_parts

    def slowed(model: Any) -> dict[str, runs.Place]:
        places = places_of_parts(model)
        for part, (holder, name, _) in places.items():
            wrap = delayed_result if name == "acting_in" else delayed
            monkeypatch.setattr(holder, name, wrap(getattr(holder, name), takes[part]))
        return places

    def delayed_result(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        return lambda *args: delayed(function(*args), seconds)

    def delayed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            clock.advance(seconds)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(runs, "places_of_parts", slowed)
    lean: list[int] = []

    def noted(*args: Any) -> bool:
        lean.append(1)
        return collect_lean(*args)

    monkeypatch.setattr(ppo, "collect_lean", noted)
    monkeypatch.setattr(runs, "measure_floor", lambda *_: {})
    spent = {row["part"]: row["seconds"] for row in runs.measure_split(TINY, ALGORITHMS[algorithm], 0)}
    # two trainings of the kernels, two rollouts each
    assert len(lean) == (4 if algorithm == "fused" else 0)
    assert spent.pop("without stopwatches", 0.0) == 0.0
    # two rollouts of 32 steps
    assert spent == {"environment": 64 * 2.0, "acting": 64 * 3.0, "advantages": 2 * 100.0, "update": 2 * 200.0, "rest": 0.0}


def test_floor_steps_what_the_training_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh environments, seeded alike and given the recorded actions, end where the training's environments ended."""
    ends: list[Any] = []
    other, model = (runs.make_model(TINY, ALGORITHMS["fused"], 5) for _ in range(2))
    models = iter([other, model])  # one trains without stopwatches
    monkeypatch.setattr(runs, "make_model", lambda *_: next(models))
    time_environments = runs.time_environments

    def watched(env: VecEnv, seed: int, actions: list[np.ndarray]) -> float:
        step = env.step

        def kept(action: np.ndarray) -> Any:
            answer = step(action)
            ends.append(answer[0])
            return answer

        monkeypatch.setattr(env, "step", kept)
        assert len(actions) == 64
        return time_environments(env, seed, actions)

    monkeypatch.setattr(runs, "time_environments", watched)
    found = runs.measure_split(TINY, ALGORITHMS["fused"], 5)
    np.testing.assert_array_equal(ends[-1], model._last_obs)
    parts = {row["part"]: row["seconds"] for row in found if row.get("algorithm") == "floor"}
    assert set(parts) == {"environment", "bare environment", "acting", "update"}
    assert all(seconds > 0 for seconds in parts.values())


def test_bare_environments_reset_themselves() -> None:
    """Without the vector environment, an episode that ends is followed by a reset, and every action is taken."""
    env = runs.make_env(TINY, ALGORITHMS["fused"], 0)
    taken: list[int] = []
    (first, _) = env.envs  # type: ignore[attr-defined]
    step = first.step

    def remembering(action: Any) -> Any:
        taken.append(int(action))
        return step(action)

    first.step = remembering
    actions = [np.array([1, 0])] * 50  # always to one side: episodes of about ten steps
    taken_seconds = runs.time_bare_environments(env, 0, actions)
    assert taken_seconds is not None and taken_seconds > 0
    assert taken == [1] * 50
    assert len(first.get_episode_lengths()) >= 3


def test_updates_of_the_floor_are_as_many_as_the_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts x epochs x minibatches, the truncated last minibatch of an epoch with its own size."""
    case = replace(TINY, arguments={**TINY.arguments, "n_steps": 20})  # 40 transitions: 32 and 8
    model = runs.make_model(replace(case, arguments={**case.arguments, "batch_size": 20}), ALGORITHMS["fused"], 0)
    model.batch_size = 32
    passes: list[tuple[int, int]] = []

    def counted(_: Any, size: int, times: int, *, backward: bool) -> float:
        assert backward
        passes.append((size, times))
        return 1.0

    monkeypatch.setattr(runs, "time_passes", counted)
    assert runs.time_updates(model, case) == 2.0
    assert passes == [(32, 2 * 3), (8, 2 * 3)]
