"""Going on with runs and doing them again, from the command line."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.cli.reproduce import without_flags
from sb3_ppo_edu.training.compare import compare_runs

SMALL = ["--env", "CartPole-v1", "--steps", "1500", "--eval-episodes", "3", "--no-replay", "--n-steps", "32"]
SMALL += ["--batch-size", "64", "--n-envs", "2", "--n-epochs", "2", "--checkpoint-freq", "200"]


def train(folder: Path, name: str) -> Path:
    """Train a small run to its end."""
    assert main(["train", *SMALL, "--folder", str(folder), "--name", name]) == 0
    return folder / name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupts."""
    return train(tmp_path_factory.mktemp("runs"), "a")


def monitors(folder: Path) -> list[list[list[str]]]:
    """Episodes of the monitor files, without their clocks."""
    found = []
    for path in sorted((folder / "monitor").glob("*.csv")):
        with path.open(newline="") as file:
            found.append([line[:2] for line in csv.reader(file)][1:])
    return found


# What SIGINT leaves is what SIGTERM does; the command's exit codes for both are tested with ``train``.
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_run_is_resumed_exactly(undisturbed: Path, tmp_path: Path, number: int) -> None:
    """
    Killed, stopped by Ctrl-C or terminated while training, the run goes on to the same bits, monitor files included.

    The run may end before the signal comes; then resuming finds nothing left to do and ends with the same bits too.
    """
    command = [sys.executable, "-m", "sb3_ppo_edu", "train", *SMALL, "--folder", str(tmp_path), "--name", "b"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "b" / "checkpoints").glob("checkpoint-*.zip")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    code = process.wait(60)
    assert code in {signal.SIGKILL: (-9, 0), signal.SIGINT: (130, 0), signal.SIGTERM: (143, 0)}[signal.Signals(number)]
    assert main(["resume", str(tmp_path / "b"), "--eval-episodes", "3", "--no-replay"]) == 0
    found = compare_runs(undisturbed, tmp_path / "b")
    assert [one.what for one in found if one.equal is not True] == []
    assert monitors(undisturbed) == monitors(tmp_path / "b")


def test_a_moved_run_is_resumed(undisturbed: Path, tmp_path: Path) -> None:
    """Log files are found in the run's folder, wherever that is now."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(undisturbed, moved)
    assert main(["resume", str(moved), "--eval-episodes", "3", "--no-replay"]) == 0
    assert all(one.equal for one in compare_runs(undisturbed, moved))


def test_a_run_is_reproduced(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command gives the same bits, and the table says so; a changed settings file is found out."""
    assert main(["reproduce", str(undisturbed)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the same") >= 9 and "differs" not in printed
    record = undisturbed.parent / "a-again" / "settings.yml"
    settings = yaml.safe_load(record.read_text())
    settings["algorithm"]["gamma"] = 0.5
    settings["versions"]["torch"] = "0.1"
    record.write_text(yaml.safe_dump(settings))
    found = {one.what: one for one in compare_runs(undisturbed, undisturbed.parent / "a-again")}
    assert found["settings"].equal is False and found["settings"].detail == "algorithm"
    assert found["versions"].equal is False and "0.1" in found["versions"].detail
    assert found["model.zip: policy.pth"].equal is True


def test_what_differs_is_named(undisturbed: Path, tmp_path: Path) -> None:
    """Another seed gives other parameters, logs and evaluations."""
    assert main(["train", *SMALL, "--folder", str(tmp_path), "--name", "c", "--seed", "1"]) == 0
    found = {one.what: one.equal for one in compare_runs(undisturbed, tmp_path / "c")}
    assert found["settings"] is False and found["model.zip: policy.pth"] is False and found["progress.csv"] is False
    (tmp_path / "c" / "evaluations.npz").unlink()
    again = {one.what: one for one in compare_runs(undisturbed, tmp_path / "c")}
    assert again["evaluations.npz"].equal is None and again["evaluations.npz"].detail == "not in both"


@pytest.mark.parametrize("command", ["resume", "reproduce"])
def test_what_is_no_run_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is none, or has no record, is named; exit code 2."""
    assert main([command, str(tmp_path / "nothing")]) == 2
    assert "no such file; expected the record of a run" in capsys.readouterr().err


def test_a_run_without_checkpoints_is_refused(undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says that there are none."""
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed, copy)
    shutil.rmtree(copy / "checkpoints")
    assert main(["resume", str(copy)]) == 2
    assert "cannot be resumed" in capsys.readouterr().err


def test_fewer_steps_than_are_done_are_refused(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the flag that asks for them."""
    assert main(["resume", str(undisturbed), "--steps", "16"]) == 2
    assert "error: --steps 16: run " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("rm -rf /", "found the command 'rm -rf /', expected sb3-edu train"),
        ("sb3-edu train 'a", "which no shell reads"),
        (
            "sb3-edu train --env CartPole-v1 --seed x",
            "argument --seed: found 'x', expected a whole number from 0 to 4294967295",
        ),
        ("sb3-edu train --env CartPole-v1 --sneed 1", "unknown argument '--sneed' (did you mean '--seed'?)"),
        ("sb3-edu train --help", "it trains nothing"),
        ("sb3-edu train --env CartPole-v1 --threads 1e9", "argument --threads: found '1e9', expected at most 1024"),
        ("sb3-edu train --env CartPole-v1 --steps 64 --n-steps 0", "n_steps=0"),
    ],
)
def test_commands_that_can_not_be_run_again(
    command: str, found: str, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record's file is named, and what is wrong with its command, in one sentence."""
    record = yaml.safe_load((undisturbed / "settings.yml").read_text())
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "settings.yml").write_text(yaml.safe_dump({**record, "command": command}))
    assert main(["reproduce", str(tmp_path / "r")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"sb3-edu reproduce: error: {tmp_path}/r/settings.yml: ") and printed.out == ""
    assert found in printed.err and len(printed.err.splitlines()) == 1
    assert not (tmp_path / "r-again").exists()


def test_a_run_is_reproduced_from_within(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new run is beside the old one where that is the working directory, too."""
    shutil.copytree(undisturbed, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    assert main(["reproduce", "."]) == 0
    assert (tmp_path / "here-again" / "model.zip").is_file()


def test_flags_are_left_out() -> None:
    """With their values, in both ways of writing them."""
    assert without_flags(["train", "--name", "a", "--env", "b", "--folder=c"], "--name", "--folder") == ["train", "--env", "b"]
