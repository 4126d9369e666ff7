"""A run's folder: the names of its files; it is made for one run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sb3_ppo_edu.training.lock import LOCK_FILE, RunLock, killed_while_starting

MODEL_FILE = "model.zip"
"""The model as SB3 saves it."""
NORMALIZATION_FILE = "vecnormalize.pkl"
"""VecNormalize's statistics."""
SETTINGS_FILE = "settings.yml"
"""What was trained, and with what."""
EVALUATION_FILE = "evaluation.json"
"""Returns of the final evaluation, and of random actions."""
EVALUATIONS_FILE = "evaluations.npz"
"""The evaluations on the way, as SB3's EvalCallback writes them."""
PROGRESS_FILE = "progress.csv"
"""SB3's log."""
CHECKPOINT_FOLDER = "checkpoints"
"""Checkpoints to resume from."""
MONITOR_FOLDER = "monitor"
"""SB3's monitor files, one for each environment."""


def default_name(env_id: str, seed: int, now: datetime) -> str:
    """
    Name a run after what it trains and when.

    :param env_id: Gymnasium id; characters that mean something in a path are replaced
    :param now: time of day, part of the name
    :return: ``<env>-<seed>-<timestamp>``
    """
    return f"{env_id.replace('/', '-').replace(':', '-')}-{seed}-{now:%Y%m%d-%H%M%S}"


@contextmanager
def new_folder(folder: Path) -> Iterator[RunLock]:
    """
    Create a run's folder, and take it away again, with all that was put into it, if the block fails.

    What a training has left that was killed before its first step makes room for the new one.

    :return: the folder's lock, which is released if the block fails
    :raises ValueError: if it exists or cannot be created
    """
    if killed_while_starting(folder):
        lock = RunLock(folder, starting=True)
        for left in folder.iterdir():
            if left.name != LOCK_FILE:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    elif folder.exists() or folder.is_symlink():
        raise ValueError(
            f"run folder {folder}: it exists, and nothing that exists is overwritten; "
            "expected a new folder: choose another --name or --folder"
        )
    else:
        lock = _locked_folder(folder)
    try:
        yield lock
    except BaseException as error:
        if sys.platform == "win32":
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)
        else:
            # Its name is free at once, whatever interrupts what follows.
            folder.rename(_hidden(folder))
            shutil.rmtree(_hidden(folder))
            lock.release()
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say which file
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise


def _hidden(folder: Path) -> Path:
    """Name a folder beside it that nobody takes for a run."""
    return folder.with_name(f".starting-{folder.name}-{os.getpid()}")


def _locked_folder(folder: Path) -> RunLock:
    """Make a folder that nobody ever sees without its lock, so that whoever is killed leaves none that looks like a user's."""
    # Windows renames no folder with an open file in it: there it has its name a moment before its lock.
    hidden = folder if sys.platform == "win32" else _hidden(folder)
    if hidden != folder:
        shutil.rmtree(hidden, ignore_errors=True)  # of an earlier process with our number
    try:
        hidden.mkdir(parents=True)
        lock = RunLock(hidden, starting=True)
        if hidden != folder:
            hidden.rename(folder)
    except OSError as error:
        if hidden != folder:
            shutil.rmtree(hidden, ignore_errors=True)
        raise ValueError(
            f"run folder {folder}: it cannot be created ({error.strerror}); "
            "expected a place where this user may write: choose another --folder"
        ) from error
    lock.folder = folder
    return lock


def runs_beside(folder: Path) -> str:
    """
    Name the runs that do exist in the place where one was looked for.

    :param folder: that was looked for
    :return: the end of an error message, empty if there are none
    """
    if not folder.parent.is_dir():
        return ""
    runs = sorted(path for path in folder.parent.iterdir() if (path / SETTINGS_FILE).is_file())
    return f"; {folder.parent} has " + ", ".join(path.name for path in runs[-5:]) if runs else ""
