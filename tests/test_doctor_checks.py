"""What is worked out again beside a training: advantages, and whether updates make good actions likelier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.doctor.checks import gae_error, sample_of, surrogate_gain
from sb3_ppo_edu.doctor.record import read_record
from tests.rollouts import collect, make_model
from tests.test_doctor_callback import make


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_gain_of_an_update(action: str) -> None:
    """
    One step up the gradient of a log-probability times its advantage makes good actions likelier, one down less likely.

    Nothing can be said where the policy is as it was. The policy's mode is as before, and no random number is drawn.
    """
    model = make_model(action=action, n_envs=2)
    collect(model)
    sample = sample_of(model.rollout_buffer)
    assert sample is not None
    observations, actions, log_probs, advantages = sample
    assert len(observations) == len(advantages) == 64
    policy = model.policy
    policy.set_training_mode(True)
    drawn = th.get_rng_state()
    assert surrogate_gain(policy, *sample) is None
    assert th.allclose(policy.evaluate_actions(observations, actions)[1].detach(), log_probs, atol=1e-5)
    centred = advantages - advantages.mean()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for sign in (1.0, -1.0):
        policy.load_state_dict(before)
        policy.zero_grad()
        (policy.evaluate_actions(observations, actions)[1] * centred).mean().backward()
        with th.no_grad():
            for parameter in policy.parameters():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=sign * 0.01)
        gain = surrogate_gain(policy, *sample)
        assert gain is not None
        assert sign * gain > 0.05
    assert policy.training
    assert th.equal(th.get_rng_state(), drawn)


def test_error_of_advantages() -> None:
    """None to rounding where they are GAE's; the size of what was added, in standard deviations, where they are not."""
    model = make_model()
    collect(model)
    buffer, ends = model.rollout_buffer, model._last_episode_starts
    observations = model._last_obs
    assert isinstance(observations, np.ndarray)
    values = model.policy.predict_values(th.as_tensor(observations))
    error = gae_error(buffer, values, ends)
    assert error is not None
    assert error < 1e-5
    deviation = float(buffer.advantages.std())
    buffer.advantages[3] += 2 * deviation
    assert gae_error(buffer, values, ends) == pytest.approx(2.0, rel=1e-3)
    assert gae_error(buffer, None, ends) is None


@pytest.mark.parametrize("algorithm", [EduPPO, PPO])
def test_a_plain_log_tells_the_settings(algorithm: type[Any], tmp_path: Path) -> None:
    """progress.csv alone, with no model beside it, has the discount, True and False, what is off, and what was checked."""
    model = make(algorithm, tmp_path, gamma=0.7, normalize_advantage=False)
    model.learn(3 * 64, callback=TrainingDoctor(tmp_path / "report", page=None, verbose=0))
    model.logger.close()
    record = read_record(tmp_path / "progress.csv")
    assert record.number("gamma") == record.number("buffer_gamma") == 0.7
    assert record.setting("normalize_advantage") is False
    assert record.setting("adaptive") is True
    assert record.settings["target_kl"] is None
    assert (record.number("time_limit"), record.number("n_actions")) == (500, 2)
    assert not any("No settings" in note for note in record.notes)
    assert record.has("doctor/improvement")
    assert np.nanmax(record.columns["train/monitor_difference"]) < 1e-6
    assert record.has("train/action_effect")
