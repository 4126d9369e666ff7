"""The doctor beside a training: what it collects, what it says and when, what it leaves, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.monitor import Monitor

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.doctor.diagnose import Diagnosis
from sb3_ppo_edu.doctor.record import read_record

SIZE = 64


def make(algorithm: type[Any], folder: Path | None = None, **arguments: Any) -> Any:
    """Build a small model on CartPole, which logs into a folder or nowhere."""
    base: dict[str, Any] = {"n_steps": SIZE, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    model = algorithm("MlpPolicy", arguments.pop("env", "CartPole-v1"), **(base | arguments))
    model.set_logger(Logger(None, []) if folder is None else configure(str(folder), ["csv"]))
    return model


class Bounded(gym.Env):
    """Episodes of 4 steps that a time limit cuts off, actions in [-1, 1]."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(2, 0.5, np.float32), 1.0, False, self.steps == 4, {}


@pytest.mark.parametrize("algorithm", [EduPPO, PPO])
def test_training_is_the_same_with_the_doctor(algorithm: type[Any]) -> None:
    """Parameters after five rollouts are the same bits with and without the doctor."""
    after = []
    for callback in (None, TrainingDoctor(page=None, every=1, verbose=0)):
        model = make(algorithm)
        model.learn(5 * SIZE, callback=callback)
        after.append([parameter.clone() for parameter in model.policy.parameters()])
    assert all(th.equal(a, b) for a, b in zip(*after, strict=True))


@pytest.mark.parametrize("algorithm", [EduPPO, PPO])
def test_every_update_is_collected(algorithm: type[Any], tmp_path: Path) -> None:
    """Five rollouts are five rows, each with its update, the last one's too; its numbers are those of the log."""
    doctor = TrainingDoctor(page=None, verbose=0)
    model = make(algorithm, tmp_path)
    model.learn(5 * SIZE, callback=doctor, log_interval=1)
    model.logger.close()
    record, logged = doctor.record(), read_record(tmp_path)
    assert record.steps.tolist() == [64, 128, 192, 256, 320]
    assert record.updates == 5
    # The log has an update in the row after its rollout.
    for key in ("train/approx_kl", "train/explained_variance", "train/value_loss"):
        np.testing.assert_allclose(record.columns[key][:4], logged.columns[key][1:], rtol=1e-6)
    np.testing.assert_allclose(record.columns["rollout/ep_rew_mean"], logged.columns["rollout/ep_rew_mean"], rtol=1e-6)
    assert record.settings["gamma"] == 0.99
    assert record.settings["env"] == "CartPole-v1"
    assert record.settings["normalize"] is False


def test_sb3s_ppo_gets_what_eduppo_logs_itself() -> None:
    """On a Box task with time limits both algorithms' records have the same keys of the rollout, and equal counts."""
    records = {}
    for algorithm in (EduPPO, PPO):
        doctor = TrainingDoctor(page=None, verbose=0)
        make(algorithm, env=Monitor(Bounded())).learn(3 * SIZE, callback=doctor)
        records[algorithm] = doctor.record()
    for key in (
        "train/return_std",
        "train/observation_scale_max",
        "train/action_saturation",
        "train/advantage_std",
        "train/episodes_ended",
        "train/episodes_truncated",
    ):
        ours, theirs = records[EduPPO].values(key), records[PPO].values(key)
        assert len(ours) == len(theirs) == 3
        # Both train from the same seed; the engines agree to rounding.
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)
    assert records[PPO].values("train/episodes_truncated").tolist() == [16, 16, 16]


def test_advantages_are_worked_out_again() -> None:
    """SB3's advantages are GAE's; a buffer whose mask is off by one is found."""
    doctor = TrainingDoctor(page=None, verbose=0)
    make(PPO).learn(SIZE, callback=doctor)
    assert doctor.record().values("doctor/gae_error").max() < 1e-4

    class OffByOne(RolloutBuffer):
        """A buffer that masks with whether a step begins an episode, not whether it ends one."""

        def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
            starts = self.episode_starts.copy()
            self.episode_starts = np.concatenate([starts[:1], starts[:-1]])
            super().compute_returns_and_advantage(last_values, dones)
            self.episode_starts = starts

    wrong = TrainingDoctor(page=None, verbose=0)
    make(PPO, rollout_buffer_class=OffByOne).learn(10 * SIZE, callback=wrong)
    assert wrong.diagnosis is not None
    assert "advantages-wrong" in [finding.name for finding in wrong.diagnosis.findings]


def test_finding_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate of 0.1 is named in words, once, and only after it has lasted; verbose=0 prints nothing."""
    for verbose in (1, 0):
        doctor = TrainingDoctor(page=None, every=4, verbose=verbose)
        make(EduPPO, learning_rate=0.1, n_epochs=10, n_steps=256).learn(20 * 256, callback=doctor)
        printed = capsys.readouterr().out
        assert doctor.warned
        assert printed.count("doctor, step") == (len(doctor.warned) if verbose else 0)
    assert "learning-rate-too-high" in doctor.warned


def test_report_and_page_are_written(tmp_path: Path) -> None:
    """At the end there are ``doctor.json`` and, by the writer that was given, a page; the default page is a whole one."""
    pages: list[tuple[Diagnosis, Path]] = []
    doctor = TrainingDoctor(tmp_path / "a", page=lambda diagnosis, folder: pages.append((diagnosis, folder)), verbose=0)
    make(EduPPO).learn(12 * SIZE, callback=doctor)
    report = json.loads((tmp_path / "a" / "doctor.json").read_text(encoding="utf-8"))
    assert pages == [(doctor.diagnosis, tmp_path / "a")]
    assert doctor.diagnosis is not None
    assert report["verdict"] == doctor.diagnosis.verdict
    assert report["updates"] == 12
    assert [finding["name"] for finding in report["findings"]] == [finding.name for finding in doctor.diagnosis.findings]
    make(EduPPO, tmp_path / "b").learn(12 * SIZE, callback=TrainingDoctor(verbose=0))
    assert (tmp_path / "b" / "doctor.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_evaluations_beside_it_are_taken_in() -> None:
    """The mean return of an ``EvalCallback`` in the same list is in the record."""
    doctor = TrainingDoctor(page=None, verbose=0)
    evaluation = EvalCallback(Monitor(gym.make("CartPole-v1")), n_eval_episodes=1, eval_freq=SIZE // 2, verbose=0, warn=False)
    make(PPO).learn(3 * SIZE, callback=CallbackList([evaluation, doctor]))
    assert doctor.record().values("eval/mean_reward")[-1] == evaluation.last_mean_reward


@pytest.mark.parametrize(("arguments", "words"), [({"every": 0}, "every=0"), ({"sure": 1.5}, "sure=1.5")])
def test_wrong_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    """Numbers out of range are named."""
    with pytest.raises(ValueError, match=words):
        TrainingDoctor(**arguments)


def test_other_algorithms_are_refused() -> None:
    """A2C has no ratios to look at."""
    with pytest.raises(ValueError, match="A2C: expected EduPPO"):
        A2C("MlpPolicy", "CartPole-v1", device="cpu").learn(5, callback=TrainingDoctor(page=None))
