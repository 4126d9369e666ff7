"""EduPPO's training: each extra against an update by hand, the KL rule, callbacks, and every kind of space."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_ppo_edu.engines import EngineName
from tests.environments import ACTION_SPACES, OBSERVATION_SPACES
from tests.rollouts import (
    N_STEPS,
    POLICY_OF_OBSERVATION,
    collect,
    largest_difference,
    make_model,
    parameters_of,
    record,
)
from tests.scripted_engine import scripted_update
from tests.update_by_hand import BATCH_SIZE, LEARNING_RATE, N_EPOCHS, update_by_hand

# -- one update, worked out independently --------------------------------------------------------------------------------

EXTRAS: dict[str, dict[str, Any]] = {
    "dual_clip": {"dual_clip": 1.05},
    "vf_clip_mode-max": {"clip_range_vf": 0.2, "vf_clip_mode": "max"},
    "advantage_normalization-batch": {"advantage_normalization": "batch"},
    "clip_advantage": {"clip_advantage": 0.5},
    "clip_advantage-batch": {"clip_advantage": 0.5, "advantage_normalization": "batch"},
    "ent_coef": {"ent_coef": 0.3},
    "vf_coef": {"vf_coef": 0.05},
    "log_std_bounds": {"log_std_bounds": (-0.02, 0.02)},
    "recompute_advantages": {"recompute_advantages": True},
    "recompute_advantages-batch": {"recompute_advantages": True, "advantage_normalization": "batch"},
    "vf_lambda": {"vf_lambda": 0.3},
    "vf_lambda-recompute": {"vf_lambda": 0.3, "recompute_advantages": True},
    "vf_n_steps-recompute": {"vf_n_steps": 3, "recompute_advantages": True},
    "all": {
        "dual_clip": 1.2,
        "clip_range_vf": 0.2,
        "vf_clip_mode": "max",
        "clip_advantage": 1.0,
        "advantage_normalization": "batch",
        "ent_coef": 0.02,
        "log_std_bounds": (-1.0, 0.1),
        "recompute_advantages": True,
        "vf_n_steps": 4,
    },
}


@pytest.mark.parametrize("extra", ["none", *EXTRAS])
@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_each_extra_does_what_its_docstring_says(extra: str, engine: EngineName) -> None:
    """
    After one update of 4 epochs of 4 minibatches the parameters are those of the loss written out transition by transition.

    The same update without the extra ends elsewhere, so the agreement means something.
    """
    arguments = EXTRAS.get(extra, {})
    model = make_model(
        n_envs=2,
        engine=engine,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        n_epochs=N_EPOCHS,
        max_grad_norm=1e9,
        **arguments,
    )
    collect(model)
    np.random.seed(5)
    expected = update_by_hand(model, **arguments)
    if extra != "none":
        # SB3's own value clipping is the base of the pessimistic one.
        base = {key: value for key, value in arguments.items() if key == "clip_range_vf" and extra != "all"}
        np.random.seed(5)
        assert largest_difference(update_by_hand(model, **base), expected) > 1e-3
    np.random.seed(5)
    model.train()
    assert largest_difference(parameters_of(model), expected) < 2e-5


def test_coefficients_may_be_schedules() -> None:
    """``ent_coef`` and ``vf_coef`` as functions or "lin_x" are evaluated at the remaining progress of each update."""
    for schedule in (LinearSchedule(0.4, 0.0, 1.0), "lin_0.4", lambda progress: 0.4 * progress):
        arguments: dict[str, Any] = {"ent_coef": schedule, "vf_coef": schedule}
        model = make_model(
            learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, n_epochs=N_EPOCHS, max_grad_norm=1e9, **arguments
        )
        collect(model)
        model._update_current_progress_remaining(num_timesteps=25, total_timesteps=100)
        np.random.seed(5)
        expected = update_by_hand(model, ent_coef=0.3, vf_coef=0.3)
        np.random.seed(5)
        model.train()
        assert largest_difference(parameters_of(model), expected) < 2e-5


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_infinite_max_grad_norm_switches_clipping_off(engine: str) -> None:
    """As in SB3, ``max_grad_norm=inf`` trains like a bound that is never reached."""
    models = [make_model(engine=engine, max_grad_norm=bound).learn(64) for bound in (math.inf, 1e9)]
    for name, value in models[0].policy.state_dict().items():
        assert th.equal(value, models[1].policy.state_dict()[name])


# -- schedules -----------------------------------------------------------------------------------------------------------


def test_other_schedules_may_be_strings() -> None:
    """The zoo's "lin_x" also stands for the learning rate and both clip ranges, and is logged as it falls."""
    model = make_model(learning_rate="lin_1e-3", clip_range="lin_0.4", clip_range_vf="lin_0.8")
    recorder = record(model)
    model.learn(4 * N_STEPS)
    model.logger.dump()
    rows = [row for row in recorder.rows if "train/clip_range" in row]
    # Progress is counted before each update: 3/4, 1/2, 1/4, 0 remain.
    for key, start in (("train/learning_rate", 1e-3), ("train/clip_range", 0.4), ("train/clip_range_vf", 0.8)):
        np.testing.assert_allclose([row[key] for row in rows], [0.75 * start, 0.5 * start, 0.25 * start, 0.0], atol=1e-12)


@pytest.mark.parametrize("make", [ConstantSchedule, LinearSchedule])
def test_schedules_of_sb3_are_taken(make: Callable[..., Any]) -> None:
    """SB3's schedule objects go wherever a number goes."""
    schedule = make(0.1) if make is ConstantSchedule else make(0.1, 0.1, 1.0)
    arguments: dict[str, Any] = dict.fromkeys(
        ("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"), schedule
    )
    model = make_model(**arguments)
    collect(model)
    settings = model.update_settings()
    assert (settings.clip_range, settings.clip_range_vf, settings.ent_coef, settings.vf_coef) == (0.1,) * 4


# -- the KL rule, with an engine that says what it is told to ------------------------------------------------------------


def test_without_a_target_every_step_is_taken() -> None:
    """No ``target_kl``: 3 epochs of 2 steps, each ``apply`` behind its ``gradients``; ``early_stop_epoch`` is n_epochs."""
    model, engine, row = scripted_update((9.0,) * 6)
    assert engine.calls == ["gradients", "apply"] * 6
    assert model._n_updates == 3
    assert row["train/early_stop_epoch"] == 3


def test_kl_check_per_minibatch_stops_before_the_step() -> None:
    """
    SB3's rule: the limit is 1.5 · 0.2 = 0.3; the third estimate, 0.4, ends the update before its step, in epoch 1.

    An estimate between target and limit (0.25) does not stop. The logged KL is the mean of the last epoch, as in SB3.
    """
    model, engine, row = scripted_update((0.1, 0.25, 0.4, 9.0, 9.0, 9.0), target_kl=0.2)
    assert engine.calls == ["gradients", "apply", "gradients", "apply", "gradients"]
    assert model._n_updates == 2
    assert row["train/early_stop_epoch"] == 1
    assert row["train/approx_kl"] == pytest.approx(0.4)
    assert row["train/kl_max"] == pytest.approx(0.4)


def test_kl_check_per_epoch_looks_at_the_mean_after_the_epoch() -> None:
    """
    The lecture's rule: epoch 0 has the mean (0.1 + 0.4) / 2 = 0.25 ≤ 0.3 and goes on though one estimate is above.

    Epoch 1 has (0.3 + 0.4) / 2 = 0.35: all its steps are taken, then the update ends.
    """
    model, engine, row = scripted_update((0.1, 0.4, 0.3, 0.4, 9.0, 9.0), target_kl=0.2, kl_check="epoch")
    assert engine.calls == ["gradients", "apply"] * 4
    assert model._n_updates == 2
    assert row["train/early_stop_epoch"] == 1
    assert row["train/approx_kl"] == pytest.approx(0.35)
    assert row["train/kl_max"] == pytest.approx(0.4)


@pytest.mark.parametrize(("factor", "steps"), [(1.0, 0), (2.0, 1), (4.0, 2), (8.0, 6)])
def test_kl_stop_factor_scales_the_limit(factor: float, steps: int) -> None:
    """The limit is factor · 0.25, and an estimate equal to it does not stop: 0.5 is legal at 2, 1.0 at 4, 2.0 at 8."""
    kls = (0.5, 1.0, 2.0, 2.0, 2.0, 2.0)
    _, engine, _ = scripted_update(kls, target_kl=0.25, kl_stop_factor=factor)
    assert engine.calls.count("apply") == steps


# -- callbacks, files, seed ----------------------------------------------------------------------------------------------


class Counter(BaseCallback):
    """Counts what it is told, and keeps the rollout's last values."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def _on_training_start(self) -> None:
        self.events.append("training_start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout_start")

    def _on_step(self) -> bool:
        self.events.append("step")
        return True

    def _on_rollout_end(self) -> None:
        self.events.append("rollout_end")
        assert self.locals["rollout_buffer"].full
        assert self.locals["values"].shape == (1, 1)

    def _on_training_end(self) -> None:
        self.events.append("training_end")


def test_callbacks_are_called_in_sb3s_order() -> None:
    """A list of callbacks: each is told of start, rollouts, every step and the end; nested ones fire at their steps."""
    counter, other, inner = Counter(), Counter(), Counter()
    make_model().learn(2 * N_STEPS, callback=[counter, other, EveryNTimesteps(10, inner)])
    rollout = ["rollout_start", *["step"] * N_STEPS, "rollout_end"]
    assert counter.events == ["training_start", *rollout, *rollout, "training_end"]
    assert other.events == counter.events
    assert inner.events.count("step") == 2 * N_STEPS // 10


class Reader(BaseCallback):
    """Looks through the rollout when it is complete, which lays the buffer's arrays out flat."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps > N_STEPS:
            assert len(list(self.model.rollout_buffer.get())) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_a_callback_may_read_the_rollout(engine: EngineName) -> None:
    """``rollout_buffer.get()`` in a callback costs a permutation, but the update is that of an engine that was not watched."""
    results = []
    for reader in (None, Reader()):
        model = make_model(engine=engine, learning_rate=LEARNING_RATE)
        model.learn(3 * N_STEPS, callback=reader)
        results.append(parameters_of(model))
    assert largest_difference(*results) < 1e-5


def test_a_callback_can_stop_a_rollout() -> None:
    """A callback that returns False ends training in mid-rollout: no update, no further step."""
    model = make_model()
    before = parameters_of(model)
    model.learn(10 * N_STEPS, callback=lambda local_variables, _: local_variables["self"].num_timesteps < 7)
    assert model.num_timesteps == 7
    assert largest_difference(parameters_of(model), before) == 0.0


def test_no_tensorboard_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``tensorboard_log`` nothing is written anywhere; with it the run's folder has the algorithm's name."""
    monkeypatch.chdir(tmp_path)
    make_model().learn(N_STEPS)
    assert list(tmp_path.iterdir()) == []
    make_model(tensorboard_log=str(tmp_path / "tensorboard")).learn(2 * N_STEPS)
    (run,) = (tmp_path / "tensorboard").iterdir()
    assert run.name == "EduPPO_1"
    assert [path.name.startswith("events.out") for path in run.iterdir()] == [True]


def test_the_seed_fixes_the_result() -> None:
    """The same seed gives the same parameters to the bit, another seed gives others."""
    results = []
    for seed in (1, 1, 2):
        model = make_model(seed=seed)
        model.learn(2 * N_STEPS)
        results.append(parameters_of(model))
    assert largest_difference(results[0], results[1]) == 0.0
    assert largest_difference(results[0], results[2]) > 0.0


# -- every kind of space with the extras switched on ---------------------------------------------------------------------

SWITCHED_ON: dict[str, Any] = {
    "vf_clip_mode": "max",
    "clip_range_vf": "lin_0.2",
    "dual_clip": 2.0,
    "target_kl": 0.05,
    "kl_estimator": "k1",
    "kl_check": "epoch",
    "kl_stop_factor": 2.0,
    "advantage_normalization": "batch",
    "clip_advantage": 3.0,
    "recompute_advantages": True,
    "vf_lambda": 0.9,
    "ent_coef": "lin_0.01",
    "vf_coef": "lin_0.5",
}
SPACES = [(observation, action, "gaussian") for observation in OBSERVATION_SPACES for action in ACTION_SPACES] + [
    (observation, "box", distribution) for observation in POLICY_OF_OBSERVATION for distribution in ("tanh_gaussian", "beta")
]


@pytest.mark.parametrize(("observation", "action", "distribution"), SPACES)
def test_every_kind_of_space_trains_with_the_extras_on(observation: str, action: str, distribution: str) -> None:
    """Two rollouts of two environments each: parameters move and stay finite, actions and log keys are there."""
    arguments: dict[str, Any] = SWITCHED_ON | {"action_distribution": distribution, "learning_rate": 0.01}
    if action == "box" and distribution != "beta":
        arguments["log_std_bounds"] = (-3.0, 0.5)
    model = make_model(observation, action, n_envs=2, batch_size=16, n_epochs=2, **arguments)
    recorder = record(model)
    before = parameters_of(model)
    model.learn(4 * N_STEPS)
    model.logger.dump()
    after = parameters_of(model)
    assert largest_difference(after, before) > 0.0
    assert all(bool(th.isfinite(value).all()) for value in after.values())
    for key in ("kl_max", "early_stop_epoch", "ratio_max", "grad_norm", "advantage_mean", "advantage_std"):
        assert math.isfinite(recorder.rows[-1][f"train/{key}"])
