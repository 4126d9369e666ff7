"""A run's folder: its name, and files that are there completely or not at all."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.training.folder import default_name, new_folder


def test_name_of_a_run() -> None:
    """Environment, seed and time, and nothing that means something in a path."""
    assert default_name("ale_py:ALE/Pong-v5", 3, datetime(2024, 1, 2, 3, 4, 5)) == "ale_py-ALE-Pong-v5-3-20240102-030405"


def test_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    """If writing fails half-way, the old file is as it was and nothing is left beside it; else the new one stands alone."""
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("hal")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    os.link(path, tmp_path / "also_old.txt")
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    # A second name for the old file still has it: the new one took its place and was not written over it.
    assert (tmp_path / "also_old.txt").read_text() == "old"


def test_a_second_interrupt_while_a_folder_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a run that was interrupted while it started is free, even if its removal is interrupted."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "run"):
        raise KeyboardInterrupt
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    with new_folder(tmp_path / "run"):
        pass
