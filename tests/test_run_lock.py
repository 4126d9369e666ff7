"""One process trains in a run's folder at a time; what was killed while starting makes room."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ppo_edu.training.folder import new_folder
from sb3_ppo_edu.training.lock import LOCK_FILE, RunLock, killed_while_starting

HOLD = "import sys, time; from pathlib import Path; from sb3_ppo_edu.training.lock import RunLock\n"
HOLD += "lock = RunLock(Path(sys.argv[1]), starting=len(sys.argv) > 2); print('held', flush=True); time.sleep(60)"


def holding(folder: Path, *starting: str) -> subprocess.Popen[str]:
    """Start a process that holds the lock of a folder, and wait until it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *starting], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    """It names process and host, and changes no byte; the lock of a process that was killed is free."""
    process = holding(tmp_path)
    before = (tmp_path / LOCK_FILE).read_bytes()
    with pytest.raises(ValueError, match=rf"process {process.pid} on host {socket.gethostname()} .* since 20"):
        RunLock(tmp_path, take_over=True)
    assert (tmp_path / LOCK_FILE).read_bytes() == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    RunLock(tmp_path).release()


def test_a_lock_from_another_host_is_taken_over_by_name_only(tmp_path: Path) -> None:
    """Whether a process there lives can't be seen from here."""
    (tmp_path / LOCK_FILE).write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "today", "trained": True}))
    with pytest.raises(ValueError, match=r"process 1 on host elsewhere .* --take-over"):
        RunLock(tmp_path)
    RunLock(tmp_path, take_over=True).release()
    RunLock(tmp_path).release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A lock file that leads elsewhere is refused, and what it leads to stays."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    os.symlink(victim, run / LOCK_FILE)
    with pytest.raises(ValueError, match="can't be opened"):
        RunLock(run)
    assert victim.read_text() == "mine"


def test_what_was_killed_while_starting_makes_room(tmp_path: Path) -> None:
    """One whose start was killed does; one that is starting, one with a step, an empty one and any other do not."""
    for name in ("empty", "killed", "live", "trained", "others"):
        (tmp_path / name).mkdir()
    for name in ("killed", "live"):
        process = holding(tmp_path / name, "starting")
        (tmp_path / name / "settings.yml").write_text("")
        if name == "killed":
            process.kill()
            process.wait()
    lock = RunLock(tmp_path / "trained", starting=True)
    lock.note_training()
    (tmp_path / "others" / "thesis.tex").write_text("")
    found = [name for name in ("empty", "killed", "live", "trained", "others") if killed_while_starting(tmp_path / name)]
    assert found == ["killed"]
    process.kill()
    process.wait()
    lock.release()
    with new_folder(tmp_path / "killed"):
        assert [path.name for path in (tmp_path / "killed").iterdir()] == [LOCK_FILE]
    for name in ("trained", "others", "empty"):
        with pytest.raises(ValueError, match="nothing that exists is overwritten"), new_folder(tmp_path / name):
            pass
