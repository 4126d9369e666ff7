"""What is logged of an update: SB3's keys and what it leaves out, each against an independent computation."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.utils import explained_variance

from sb3_ppo_edu.engines import EngineName
from tests.rollouts import N_STEPS, collect, make_model, record, transitions
from tests.scripted_engine import scripted_update
from tests.update_by_hand import BATCH_SIZE, LEARNING_RATE, N_EPOCHS


def test_log_of_an_update() -> None:
    """
    Means over all six minibatches, the last loss, largest KL and ratio, mean norm, and moments of the raw advantages.

    Scripted: policy losses 1…6, value losses 10…15, entropy losses -1…-6, losses 100…105, clip fractions 0…5/8, norms 2…12.
    """
    model, _, row = scripted_update((0.5, 0.75, 0.25, 0.25, 0.0, 0.5), clip_range=0.1, clip_range_vf=0.3)
    assert row["train/policy_gradient_loss"] == 3.5
    assert row["train/value_loss"] == 12.5
    assert row["train/entropy_loss"] == -3.5
    assert row["train/loss"] == 105.0
    assert row["train/clip_fraction"] == pytest.approx(0.3125)
    assert row["train/approx_kl"] == pytest.approx(0.25)
    assert row["train/kl_max"] == pytest.approx(0.75)
    assert row["train/ratio_max"] == 1.75
    assert row["train/grad_norm"] == pytest.approx(7.0)
    assert row["train/clip_range"] == 0.1
    assert row["train/clip_range_vf"] == 0.3
    assert row["train/n_updates"] == 3
    assert row["train/learning_rate"] == 3e-4
    assert row["train/std"] == pytest.approx(1.0)
    buffer = model.rollout_buffer
    advantages = buffer.advantages.flatten().astype(np.float64)
    assert row["train/advantage_mean"] == pytest.approx(advantages.mean(), abs=1e-5)
    assert row["train/advantage_std"] == pytest.approx(math.sqrt(((advantages - advantages.mean()) ** 2).mean()), rel=1e-4)
    expected = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
    assert row["train/explained_variance"] == pytest.approx(expected, rel=1e-5)


def test_log_without_a_step_has_no_gradient_norm() -> None:
    """If the KL rule stops the update before its first step there is no norm to log, and no mean of nothing."""
    model, engine, row = scripted_update((0.5,) * 6, target_kl=0.1)
    assert engine.calls == ["gradients"]
    assert "train/grad_norm" not in row
    assert row["train/early_stop_epoch"] == 0
    assert model._n_updates == 1


def test_std_is_logged_where_there_is_one() -> None:
    """Gaussian policies log their standard deviation; categorical and Beta policies have no log_std."""
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"action": "discrete"}, False),
        ({"action_distribution": "beta"}, False),
    ]
    for arguments, present in cases:
        model = make_model(**arguments)
        recorder = record(model)
        model.learn(N_STEPS)
        model.logger.dump()
        assert ("train/std" in recorder.rows[-1]) is present


def test_what_is_logged_is_of_the_values_that_acted() -> None:
    """With ``recompute_advantages`` the explained variance and the advantages' moments are still those of the rollout."""
    model = make_model(n_envs=2, learning_rate=0.1, batch_size=BATCH_SIZE, n_epochs=N_EPOCHS, recompute_advantages=True)
    recorder = record(model)
    collect(model)
    data = {name: value.numpy().flatten() for name, value in transitions(model).items() if name != "observations"}
    model.train()
    model.logger.dump()
    (row,) = recorder.rows
    assert row["train/explained_variance"] == pytest.approx(explained_variance(data["values"], data["returns"]), rel=1e-5)
    assert row["train/advantage_mean"] == pytest.approx(data["advantages"].mean(), abs=1e-6)
    assert row["train/advantage_std"] == pytest.approx(data["advantages"].std(), rel=1e-5)


@pytest.mark.parametrize(("estimator", "sign"), [("k1", 1.0), ("k3", 0.0)])
@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_kl_estimator_decides_what_is_logged(estimator: str, sign: float, engine: EngineName) -> None:
    """The logged estimate is the mean of -log r (k1), or of r - 1 - log r (k3), over the last epoch's minibatches."""
    model = make_model(n_epochs=2, learning_rate=LEARNING_RATE, kl_estimator=estimator, engine=engine)
    recorder = record(model)
    collect(model)
    data = transitions(model)
    twin = copy.deepcopy(model.policy)
    model.n_epochs = 1
    model.train()
    # The second update begins with the parameters that the first one left, on the same rollout.
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(data["observations"], data["actions"])
        _, old_log_prob, _ = twin.evaluate_actions(data["observations"], data["actions"])
    log_ratio = log_prob - old_log_prob
    expected = {"k1": (-log_ratio).mean(), "k3": (log_ratio.exp() - 1 - log_ratio).mean()}[estimator]
    model.train()
    model.logger.dump()
    assert recorder.rows[-1]["train/approx_kl"] == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert abs(float((log_ratio.exp() - 1).mean())) > 1e-3, "both estimators should differ here"


@pytest.mark.parametrize("kl_check", ["minibatch", "epoch"])
def test_a_stop_says_so_where_output_is_wanted(capsys: pytest.CaptureFixture[str], kl_check: str) -> None:
    """With verbose=1 SB3's sentence is printed with the epoch; with verbose=0 nothing is."""
    kls = (0.1, 0.1, 0.5, 0.5, 9.0, 9.0)
    scripted_update(kls, target_kl=0.2, kl_check=kl_check, verbose=1)
    assert "Early stopping at step 1 due to reaching max kl: 0.50" in capsys.readouterr().out
    scripted_update(kls, target_kl=0.2, kl_check=kl_check, verbose=0)
    assert capsys.readouterr().out == ""
