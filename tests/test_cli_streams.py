"""Standard output that nobody reads, or that is closed, and a disk that is full: no traceback, and no training lost."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_edu.cli import main, training
from sb3_ppo_edu.cli.streams import standard_streams
from sb3_ppo_edu.serialization.writing import write_atomically

SMALL = "--env CartPole-v1 --steps 128 --n-steps 64 --batch-size 64 --n-epochs 1 --eval-freq 999 --eval-episodes 1 --no-replay"


def full(*_: Any, **__: Any) -> None:
    """Find no space left on the disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_closed_streams_take_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python has as None, since it was closed when it began (2>&-), can be written to inside."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    with standard_streams():
        print("to nobody", file=sys.stderr)
        print("to nobody", flush=True)
        assert main(["train", "--env", "NoSuchEnvironment-v0"]) == 2
    assert sys.stderr is None and sys.stdout is None


def test_a_reader_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a pipe's reader has gone (| head) what is written goes nowhere, in the descriptor too; before that it arrives."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with standard_streams():
            print("read", flush=True)
            assert os.read(reader, 99) == b"read\n"
            os.close(reader)
            print("not read", flush=True)
            print("nor this", flush=True)
            assert os.write(writer, b"nor this") == 8


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_on_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that was not written is no success."""
    with open("/dev/full", "w") as disk:
        monkeypatch.setattr(sys, "stdout", disk)
        with pytest.raises(OSError, match="No space left"), standard_streams():
            print("a table")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), disk.fileno())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_help_on_a_full_disk_is_an_error(
    buffered: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help that nobody gets is no success, whether Python writes at once, which argparse passes over, or at the end."""
    with open("/dev/full", "wb", buffering=-1 if buffered else 0) as raw:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=not buffered))
        assert main(["--help"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err.startswith("sb3-edu: error: /dev/full: No space left on device; expected a disk that")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_errors_on_a_full_disk_keep_their_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even an error can be written, the exit code still says what it was."""
    with open("/dev/full", "w", buffering=1) as disk:
        monkeypatch.setattr(sys, "stderr", disk)
        assert main(["evaluate", "no-such-run"]) == 2
        monkeypatch.undo()


@pytest.mark.parametrize("where", ["step", "checkpoint", "model"])
def test_a_full_disk_ends_the_training_in_a_sentence(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and a sentence with the file or run; the model is kept if it is only a log that could not be written."""
    if where == "step":
        monkeypatch.setattr("stable_baselines3.common.logger.CSVOutputFormat.write", full)
    elif where == "checkpoint":
        monkeypatch.setattr("sb3_ppo_edu.checkpoint.callback.files.save", full)
    else:
        monkeypatch.setattr(training, "save_model", lambda run: write_atomically(run.folder / "model.zip", full))
    assert main(["train", *SMALL.split(), "--checkpoint-freq", "64", "--folder", str(tmp_path), "--name", "r"]) == 1
    out, err = capsys.readouterr()
    said = {
        "step": f"error: run {tmp_path}/r: No space left on device",
        "checkpoint": f"error: {tmp_path}/r/checkpoints: the checkpoint at step 0 could not be written ([Errno 28] ",
        "model": f"error: the model is not saved: {tmp_path}/r/model.zip: No space left on device",
    }
    assert said[where] in err and "Traceback" not in err
    assert (tmp_path / "r/model.zip").is_file() == (where != "model") == ("The model is saved" in " ".join(out.split()))


def test_a_full_disk_at_the_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the run stays, and the sentence names its folder."""
    monkeypatch.setattr("sb3_ppo_edu.training.run.configure", full)
    assert main(["train", *SMALL.split(), "--folder", str(tmp_path), "--name", "r"]) == 2
    assert f"No space left on device: '{tmp_path}/r'" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
