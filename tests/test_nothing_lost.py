"""What a run's folder holds survives resuming that fails, moves, copies, edits, signals and a second process."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.monitor import Monitor

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.training.compare import compare_runs
from sb3_ppo_edu.training.run import trained_steps

SMALL = ["--env", "CartPole-v1", "--eval-episodes", "1", "--no-replay", "--n-steps", "32"]
SMALL += ["--batch-size", "64", "--n-envs", "2", "--n-epochs", "2", "--checkpoint-freq", "200"]
SMALL += ["--learning-rate", "1e-3", "--clip-range", "0.2"]  # the YAML has schedules
RESUME = ["--eval-episodes", "1", "--no-replay"]


def train(folder: Path, name: str, steps: int, *more: str) -> Path:
    """Train a small run to its end."""
    assert main(["train", *SMALL, "--steps", str(steps), "--folder", str(folder), "--name", name, *more]) == 0
    return folder / name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 640 steps."""
    return train(tmp_path_factory.mktemp("runs"), "a", 640)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(run: Path, change: Callable[[dict], object]) -> None:
    """Edit a run's settings."""
    record = yaml.safe_load((run / "settings.yml").read_text())
    change(record)
    (run / "settings.yml").write_text(yaml.safe_dump(record))


def digest(folder: Path) -> dict[str, str]:
    """Give every file of a folder with its contents' digest, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("how", ["flag", "edited"])
def test_training_longer_gives_the_run_that_was_longer_from_the_start(finished: Path, run: Path, how: str) -> None:
    """640 steps and 320 more are the parameters of 960, where no schedule depends on the number."""
    longer = finished.parent / "longer"
    if not longer.exists():
        train(finished.parent, "longer", 960, "--eval-freq", "64")
    if how == "edited":
        edit(run, lambda record: record.update(steps=960))
    assert main(["resume", str(run), *RESUME, *(["--steps", "960"] if how == "flag" else [])]) == 0
    assert trained_steps(run / "model.zip") == 960
    assert yaml.safe_load((run / "settings.yml").read_text())["steps"] == 960
    found = {one.what: one.equal for one in compare_runs(longer, run)}
    assert found["model.zip: policy.pth"] is True
    assert main(["resume", str(run), *RESUME]) == 0, "and again, with nothing left to do"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda record: record.update(steps=300), "total_timesteps=300"),
        (lambda record: record["algorithm"].update(learning_rate=2e-3), "learning_rate: 0.002 (the checkpoint has 0.001)"),
        (lambda record: record.update(seed=5), "seed: 5 (the checkpoint has 0)"),
        (lambda record: record["environment"].update(kwargs={"render_mode": "ansi"}), "environment.kwargs"),
        (lambda record: record.update(eval_freq=7), "eval_freq: 7"),
    ],
)
def test_edits_that_can_not_be_taken_are_named(
    run: Path, change: Callable[[dict], object], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the setting with both values, and no byte of the folder changed."""
    edit(run, change)
    before = digest(run)
    assert main(["resume", str(run), *RESUME]) == 2
    assert named in " ".join(capsys.readouterr().err.split())
    assert digest(run) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("monitor/0.monitor.csv", "#{}\nx,y\n"),
        ("monitor/0.monitor.csv", "#{}\nr,l,t\n1e999,1,1\n"),
    ],
)
def test_damaged_logs_cost_the_curve_alone(run: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is trained and evaluated to its end, whatever its earlier logs hold."""
    (run / "learning_curve.png").unlink()
    (run / name).write_text(content)
    assert main(["resume", str(run), *RESUME, "--steps", "704"]) == 0
    assert trained_steps(run / "model.zip") >= 704
    assert "No learning_curve.png: the run's logs can't be read" in " ".join(capsys.readouterr().out.split())
    assert not (run / "learning_curve.png").exists()


def test_a_resume_that_fails_leaves_the_trained_model(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong before the first step, model.zip stays; the policy that was loaded is the trained one already."""
    before = (run / "model.zip").read_bytes()

    def fail(self: EduPPO, *args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(EduPPO, "learn", fail)
    with pytest.raises(OSError, match="no space"):
        main(["resume", str(run), *RESUME, "--steps", "960"])
    assert (run / "model.zip").read_bytes() == before
    trained = EduPPO.load(run / "model.zip").policy.state_dict()
    resumed = EduPPO.resume(run / "checkpoints", [lambda: Monitor(gym.make("CartPole-v1"))] * 2)
    assert all((value == trained[name]).all() for name, value in resumed.policy.state_dict().items())


def test_a_model_of_more_steps_stays(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on from an earlier checkpoint and stopping early does not replace the model of 640 steps."""
    for path in sorted((run / "checkpoints").glob("*.zip"))[1:]:
        path.unlink()
    before = (run / "model.zip").read_bytes()

    def stop(self: EduPPO) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EduPPO, "train", stop)
    assert main(["resume", str(run), *RESUME]) == 130
    assert (run / "model.zip").read_bytes() == before
    assert "found a model of 640 steps, which stays" in capsys.readouterr().err


def test_a_copy_goes_on_with_its_own_files(finished: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed from another working directory, a copy of a run writes nothing into the original, moved or not."""
    before = digest(finished)
    monkeypatch.chdir(tmp_path)
    assert main(["resume", "run", *RESUME, "--steps", "960"]) == 0
    assert digest(finished) == before
    assert trained_steps(run / "model.zip") == 960
    assert digest(run)["evaluations.npz"] != before["evaluations.npz"]


def test_paths_of_the_users_callbacks_move_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that keeps a path into the run writes there, wherever the run is now."""
    lines = [
        "from pathlib import Path",
        "from stable_baselines3.common.callbacks import BaseCallback",
        "class Note(BaseCallback):",
        "    def _on_training_start(self):",
        "        self.place = getattr(self, 'place', self.logger.dir + '/note.txt')",
        "    def _on_step(self):",
        "        return bool(Path(self.place).write_text(str(self.num_timesteps)))",
    ]
    (tmp_path / "noting.py").write_text("\n".join(lines))
    (tmp_path / "settings.yml").write_text("CartPole-v1: {callback: noting.Note, n_timesteps: 64}\n")
    monkeypatch.syspath_prepend(tmp_path)
    train(tmp_path, "first", 320, "--config", str(tmp_path / "settings.yml"), "--trust")
    (tmp_path / "first").rename(tmp_path / "second")
    assert main(["resume", str(tmp_path / "second"), *RESUME, "--steps", "640", "--trust"]) == 0
    assert (tmp_path / "second" / "note.txt").read_text() == "640" and not (tmp_path / "first").exists()


def started(folder: Path, *more: str, steps: int = 100_000) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a long training in a process of its own, and wait for its first steps."""
    words = [*SMALL, "--steps", str(steps), "--folder", str(folder), "--name", "b", *more]
    # A terminal's processes hear SIGHUP, those that nohup has started do not.
    listening = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    command = [sys.executable, "-m", "sb3_ppo_edu", "train", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=listening)
    deadline = time.monotonic() + 60
    while not list((folder / "b" / "checkpoints").glob("checkpoint-*[1-9]*.zip")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process, folder / "b"


@pytest.mark.parametrize(("number", "times"), [(signal.SIGHUP, 1), (signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_every_signal_that_asks_leaves_a_model(tmp_path: Path, number: signal.Signals, times: int) -> None:
    """SIGHUP and SIGTERM save and say how they ended; Ctrl-C three times in a row still leaves a model."""
    process, folder = started(tmp_path)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.02)
    # A shell calls both 130: the last Ctrl-C may come after all is done.
    assert process.wait(60) in (128 + number, *([-number] if times > 1 else []))
    assert trained_steps(folder / "model.zip") > 0


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second resume exits with 2 and names the first."""
    process, folder = started(tmp_path)
    assert main(["resume", str(folder), *RESUME]) == 2
    assert f"found process {process.pid} on host {os.uname().nodename}" in " ".join(capsys.readouterr().err.split())
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def test_a_killed_start_recovers(tmp_path: Path) -> None:
    """Killed before its first step, a run is started anew by the same command; killed after it, it is resumed."""
    words = ["train", *SMALL, "--steps", "320", "--folder", str(tmp_path), "--name", "b"]
    process = subprocess.Popen([sys.executable, "-m", "sb3_ppo_edu", *words], stderr=subprocess.DEVNULL)
    while not (tmp_path / "b").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    code = main(words)
    if code != 0:  # it has had time for its first checkpoint
        assert code == 2 and main(["resume", str(tmp_path / "b"), *RESUME]) == 0
    assert trained_steps(tmp_path / "b" / "model.zip") == 320


def test_an_environment_that_changes_the_working_directory_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are resolved once, at the start."""
    lines = [
        "import os",
        "import gymnasium as gym",
        "from gymnasium.envs.classic_control import CartPoleEnv",
        "class Wanderer(CartPoleEnv):",
        "    def reset(self, **kwargs):",
        "        os.chdir('/')",
        "        return super().reset(**kwargs)",
        "gym.register('Wanderer-v0', 'wandering:Wanderer', max_episode_steps=50)",
    ]
    (tmp_path / "wandering.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["train", *SMALL, "--steps", "320", "--name", "b", "--env", "wandering:Wanderer-v0"]
    assert main(words) == 0
    monkeypatch.chdir(tmp_path)
    left = {"model.zip", "evaluation.json", "evaluations.npz", "learning_curve.png"}
    assert left <= set(os.listdir(tmp_path / "runs" / "b"))
