"""The doctor beside a training: what it collects, what it says and when, what it leaves, and that it changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.doctor.diagnose import Diagnosis
from sb3_ppo_edu.doctor.record import read_record
from sb3_ppo_edu.training.algorithms import ALGORITHMS
from tests.masked_environments import MaskedWalk

SIZE = 64


def make(algorithm: type[Any], folder: Path | None = None, **arguments: Any) -> Any:
    """Build a small model on CartPole, which logs into a folder or nowhere."""
    base: dict[str, Any] = {"n_steps": SIZE, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    model = algorithm("MlpPolicy", arguments.pop("env", "CartPole-v1"), **(base | arguments))
    model.set_logger(Logger(None, []) if folder is None else configure(str(folder), ["csv"]))
    return model


@pytest.mark.parametrize(
    ("algo", "policy", "named"),
    [
        ("maskableeduppo", "MlpPolicy", "MlpPolicy"),
        ("recurrenteduppo", "MlpLstmPolicy", "RecurrentActorCriticPolicy"),
        ("maskablerecurrenteduppo", "MlpLstmPolicy", "MaskedMlpLstmPolicy"),
    ],
)
def test_trainings_with_masks_and_memory_are_watched(algo: str, policy: str, named: str, tmp_path: Path) -> None:
    """
    Their advantages are found right in each rollout's order, their rows have what EduPPO's have, and a report is left.

    An LSTM is not taken for a small network, which would be too slow at its speed.
    """
    doctor = TrainingDoctor(tmp_path, page=None, every=1, verbose=0)
    env = DummyVecEnv([lambda: Monitor(MaskedWalk(strict=False))] * 2)
    model = ALGORITHMS[algo](policy, env, n_steps=16, batch_size=16, n_epochs=2, seed=0, device="cpu")
    model.learn(3 * 32, callback=doctor)
    columns = doctor.record().columns
    assert np.nanmax(columns["doctor/gae_error"]) < 1e-5
    assert len(columns["train/entropy_loss"]) == 3
    assert np.nanmax(columns["train/grad_norm_policy"]) > 0
    assert np.nanmax(columns["train/episodes_ended"]) > 0
    assert doctor.settings["policy"] == named
    assert json.loads((tmp_path / "doctor.json").read_text())


class Breaking(BaseCallback):
    """Raises an exception at a step."""

    def __init__(self, error: BaseException, at: int) -> None:
        super().__init__()
        self.error, self.at = error, at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            raise self.error
        return True


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
        make(algorithm, env=Monitor(Bounded())).learn(5 * SIZE, callback=doctor)
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
        # Of updates as short as these EduPPO measures the first of four.
        assert (len(ours), len(theirs)) == (5 if key == "train/advantage_std" else 2, 5)
        # Both train from the same seed; the engines agree to rounding.
        np.testing.assert_allclose(ours, theirs if len(ours) == 5 else theirs[::4], rtol=1e-2, atol=1e-3)
    assert records[PPO].values("train/episodes_truncated").tolist() == [16] * 5


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


def test_looks_become_rarer() -> None:
    """Looks are after 1 update, then as far apart as the record is long, ten times 1 at most, or a tenth of the record."""
    doctor = TrainingDoctor(page=None, every=1, verbose=0)
    looked: list[int] = []
    doctor._look = lambda: looked.append(len(doctor.record().steps))  # type: ignore[method-assign]
    make(EduPPO, n_steps=2, batch_size=2, n_epochs=1).learn(2 * 150, callback=doctor)
    assert looked == [1, 2, 4, 8, *range(16, 117, 10), 127, 139]


def test_latest_episodes_are_averaged() -> None:
    """Episodes come one by one, and many, and begin anew: rewards and lengths are those of the latest, in their order."""
    doctor, episodes = TrainingDoctor(page=None, verbose=0), deque[dict[str, Any]](maxlen=5)
    for count, new in enumerate((1, 0, 2, 4, 5, 0, 9, 1, 1)):
        if count == 6:
            episodes = deque(maxlen=3)
        episodes.extend({"r": 10.0 * count + index, "l": index} for index in range(new))
        doctor._take_episodes(episodes)
        assert doctor._episodes.tolist() == [[episode[key] for episode in episodes] for key in "rl"]


@pytest.mark.parametrize(("beside", "collected"), [([], False), (["reads"], True)])
def test_local_variables_are_collected_only_for_those_who_read_them(beside: list[str], collected: bool) -> None:
    """The doctor alone does without the local variables of each step; any other callback beside it gets them."""
    seen: list[bool] = []

    class Watching(TrainingDoctor):
        def _on_step(self) -> bool:
            seen.append("clipped_actions" in self.locals)
            return super()._on_step()

    callbacks = [Watching(page=None, verbose=0), *(Breaking(OSError(), -1) for _ in beside)]
    make(EduPPO).learn(SIZE, callback=callbacks)
    assert seen == [collected] * SIZE


def test_second_training_begins_a_new_record() -> None:
    """A training that goes on adds to the record; one that begins anew begins a new one."""
    doctor = TrainingDoctor(page=None, verbose=0)
    model = make(EduPPO)
    model.learn(2 * SIZE, callback=doctor)
    model.learn(SIZE, callback=doctor, reset_num_timesteps=False)
    assert doctor.record().steps.tolist() == [64, 128, 192]
    model.learn(SIZE, callback=doctor)
    assert doctor.record().steps.tolist() == [64]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
@pytest.mark.parametrize("algorithm", [EduPPO, PPO])
def test_report_of_a_training_that_broke_off(algorithm: type[Any], error: BaseException, tmp_path: Path) -> None:
    """
    An exception or Ctrl-C in the 10th rollout: the report of nine updates is there, names the reason, and the error goes on.

    EduPPO tells the doctor itself, SB3's PPO does not know of it: there a ``with`` block does.
    """
    before = signal.getsignal(signal.SIGTERM)
    doctor = TrainingDoctor(tmp_path, verbose=0)
    block = doctor if algorithm is PPO else nullcontext()
    with pytest.raises(type(error)), block:
        make(algorithm).learn(20 * SIZE, callback=CallbackList([doctor, Breaking(error, 9 * SIZE + 5)]))
    report = json.loads((tmp_path / "doctor.json").read_text(encoding="utf-8"))
    assert (tmp_path / "doctor.html").is_file()
    assert report["updates"] == 9
    assert report["steps"] == 9 * SIZE
    assert "Training was broken off after 581 steps by " + type(error).__name__ in report["notes"][0]
    assert str(error) in report["notes"][0]
    # Nothing of the training is left in the process.
    assert signal.getsignal(signal.SIGTERM) is before


def test_training_that_became_nan_is_named(tmp_path: Path) -> None:
    """EduPPO stops before a NaN enters its parameters, which its log so never shows; the report does all the same."""

    class Poisoned(Bounded):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            observation, _, ended, cut, info = super().step(action)
            return observation, float("nan"), ended, cut, info

    with pytest.raises(ValueError, match="finite"):
        make(EduPPO, env=Monitor(Poisoned())).learn(SIZE, callback=TrainingDoctor(tmp_path, page=None, verbose=0))
    report = json.loads((tmp_path / "doctor.json").read_text(encoding="utf-8"))
    assert [finding["name"] for finding in report["findings"]] == ["nan-coming"]


def test_failing_report_does_not_hide_the_error(tmp_path: Path) -> None:
    """Where the report cannot be written either, the error that ended the training is the one that is raised."""

    def failing(diagnosis: Diagnosis, folder: Path) -> None:
        raise RuntimeError("no ink")

    callbacks = CallbackList([TrainingDoctor(tmp_path, page=failing, verbose=0), Breaking(OSError("the disk is full"), 5)])
    with pytest.raises(OSError, match="disk is full"), pytest.warns(UserWarning, match="no ink"):
        make(EduPPO).learn(SIZE, callback=callbacks)


SCRIPT = """
import os, signal, sys, time
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from sb3_ppo_edu.doctor.callback import TrainingDoctor

def end(how):
    if how == "exception":
        raise OSError("the disk is full")
    if how == "exit":
        sys.exit(3)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)

class At(BaseCallback):
    def _on_step(self):
        if self.n_calls == 300:
            end(how)
        return True

for how in ("exception", "exit", "SIGTERM"):
    # Forked, since to import all this takes longer than the three trainings.
    child = os.fork()
    if child == 0:
        model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
        model.learn(10 ** 9, callback=[TrainingDoctor(f"{sys.argv[1]}/{how}", verbose=0), At()])
        print("came to its end")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_report_of_a_process_that_ends(tmp_path: Path) -> None:
    """A script with SB3's PPO that raises, exits or gets SIGTERM ends as it would have, and leaves report and page."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.stdout.split() == ["1", "3", str(-signal.SIGTERM.value)], done.stdout + done.stderr
    for how, words in (
        ("exception", "broken off after 300 steps by OSError: the disk is full"),
        ("exit", "broken off after 300 steps"),
        ("SIGTERM", "ended by SIGTERM"),
    ):
        report = json.loads((tmp_path / how / "doctor.json").read_text(encoding="utf-8"))
        assert words in " ".join(report["notes"])
        assert report["updates"] == 4
        assert (tmp_path / how / "doctor.html").is_file()


def test_training_of_a_run_folder_is_told_with_its_command(tmp_path: Path) -> None:
    """``sb3-edu train --doctor``: report and page lie in the run's folder, and the advice repeats the run's own command."""
    flags = ["--steps", "5120", "--n-envs", "1", "--n-steps", "256", "--batch-size", "64", "--learning-rate", "0.1"]
    words = ["train", "--env", "CartPole-v1", *flags, "--folder", str(tmp_path), "--name", "ill", "--eval-episodes", "2"]
    assert main([*words, "--no-replay", "--doctor"]) == 0
    report = json.loads((tmp_path / "ill" / "doctor.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "ill"
    assert report["findings"][0]["command"].startswith("sb3-edu train --env CartPole-v1 --steps 5120")
    assert (tmp_path / "ill" / "doctor.html").is_file()
    # The same findings as from the log that lies beside it, whose last update is missing.
    assert report["updates"] == 20


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


@pytest.mark.filterwarnings("ignore:sb3_ppo_edu.bench has moved:DeprecationWarning")
@pytest.mark.parametrize("page", ["sb3_ppo_edu.bench.doctor_page.write_page", "sb3_ppo_edu.lab.doctor_page.write_page"])
def test_page_by_its_dotted_name_is_written(tmp_path: Path, page: str) -> None:
    """Settings and checkpoints of the first edition name who draws the page by a dotted name: it is drawn as by default."""
    make(EduPPO).learn(SIZE, callback=TrainingDoctor(tmp_path, page=page, verbose=0))
    assert (tmp_path / "doctor.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("page", ["doctor_pages", "sb3_ppo_edu.lab.doctor_page.paint"])
def test_page_that_nobody_draws_is_named(tmp_path: Path, page: str) -> None:
    """A name that is neither a service nor leads anywhere is in the error."""
    with pytest.raises(ValueError, match=f"{page}': expected the dotted name"):
        make(EduPPO).learn(SIZE, callback=TrainingDoctor(tmp_path, page=page, verbose=0))


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
