"""
Checkpoints as files: complete or not there, checked when read, and never the last good one lost.

A checkpoint is a zip file of uncompressed members and a manifest, which names the format and the SHA-256 of every member. It
is written beside its place, flushed to the disk and then renamed, so that its name never stands for half a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from stable_baselines3 import __version__ as sb3_version

from sb3_ppo_edu.serialization.archive import read_archive
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.version import __version__

FORMAT, VERSION = "sb3_ppo_edu checkpoint", 2
MANIFEST = "manifest.json"
STATE, MODEL = "state.bin", "model.zip"
"""Members: the training's state, and what the model was built from."""
PATTERN = re.compile(r"checkpoint-(\d{12})\.zip")
PARTIAL = ".partial-"
"""Beginning of the name under which a checkpoint is written; one that stays was interrupted."""
EARLIER = "use an earlier one"


class CheckpointError(RuntimeError):
    """A checkpoint can't be written, read or used; the message says which, why, and what to do."""


class UnfitStateError(CheckpointError):
    """A checkpoint is whole, and the state in it is none that a training can go on from."""


@contextlib.contextmanager
def going_on_from(path: Path) -> Iterator[None]:
    """
    Name the checkpoint whose state does not fit together: what it holds is put back piece by piece.

    :param path: of the checkpoint
    :raises UnfitStateError: in place of what the pieces raise
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if str(path) in str(error):
            raise
        said = (
            error
            if isinstance(error, ValueError | CheckpointError)
            else f"no training can go on from it ({error!r}): {EARLIER}"
        )
        raise UnfitStateError(f"{path}: {said}") from error


class Found(NamedTuple):
    """
    The newest good checkpoint of a folder.

    :param path: its file
    :param members: its contents by name
    :param skipped: what is wrong with newer ones, one message each
    """

    path: Path
    members: dict[str, bytes]
    skipped: list[str]


def save(folder: Path, step: int, members: Mapping[str, bytes], keep: int) -> Path:
    """
    Write a checkpoint, then delete the oldest beyond ``keep``.

    Checkpoints of later steps stay: the run that resumed from an earlier one has not come to them yet, and writes them again
    when it does. One training at a time may use a folder.

    :param folder: where, made if need be
    :param step: environment steps so far (``num_timesteps``), below 10¹², part of the name
    :param keep: how many checkpoints stay, this one included, ≥ 1
    :raises OSError: if it can't be written; what was there is untouched
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "libraries": {"sb3_ppo_edu": __version__, "stable_baselines3": sb3_version, "torch": str(th.__version__)},
        "members": {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in members.items()},
    }
    path = folder / f"checkpoint-{step:012d}.zip"
    for left_over in folder.glob(f"{PARTIAL}checkpoint-*.zip"):
        left_over.unlink(missing_ok=True)
    temporary = folder / f"{PARTIAL}{path.name}"
    try:
        # "x": made new, through no link that lies there under this name.
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(MANIFEST, json.dumps(manifest))
                for name, data in members.items():
                    archive.writestr(name, data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(folder)
    earlier = [old for old in all_in(folder) if old.name < path.name]
    for old in earlier[keep - 1 :]:
        # The checkpoint is written; one that cannot be deleted now is tried again after the next.
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def _flush_folder(folder: Path) -> None:
    """Make a rename last beyond a power failure, where the system can: Windows and some network drives can't."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def all_in(folder: Path) -> list[Path]:
    """
    List the checkpoints of a folder.

    :return: files, the newest first
    """
    return sorted((path for path in folder.glob("checkpoint-*.zip") if PATTERN.fullmatch(path.name)), reverse=True)


def read(path: Path) -> dict[str, bytes]:
    """
    Read a checkpoint, and check everything about it.

    :raises CheckpointError: if it is damaged, not a checkpoint, or of another version
    """
    try:
        members = read_archive(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; expected a checkpoint, or a folder of them") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a file: {EARLIER}") from error
    except DamagedFileError as error:
        raise CheckpointError(f"{error}, or {EARLIER}") from error
    listed = _listed_members(path, members.pop(MANIFEST, b""))
    if listed.keys() != members.keys():
        raise CheckpointError(f"{path}: found the members {sorted(members)}, expected {sorted(listed)}: {EARLIER}")
    for name, data in members.items():
        if listed[name] != {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}:
            raise CheckpointError(f"{path}: found {name} damaged, expected what its checksum in {MANIFEST} says: {EARLIER}")
    return members


def _listed_members(path: Path, text: bytes) -> dict[str, Any]:
    """Read what a manifest says about the members, if it is one of this format and version."""
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: found no {MANIFEST} that can be read; expected a checkpoint of this package: {EARLIER}"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not isinstance(manifest.get("members"), dict):
        raise CheckpointError(f"{path}: found another {MANIFEST}, expected one of {FORMAT!r}: {EARLIER}")
    if manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: found format version {manifest.get('version')!r} (written by {manifest.get('libraries')}), "
            f"expected {VERSION}: use the version of sb3_ppo_edu that wrote it"
        )
    return dict(manifest["members"])


def latest_good(place: Path) -> Found:
    """
    Find the newest checkpoint that is whole.

    :param place: a folder of checkpoints, or the file of one
    :return: the checkpoint, and what is wrong with newer ones
    :raises CheckpointError: if there is none, saying what is wrong with each
    """
    if not place.is_dir():
        return Found(place, read(place), [])
    skipped: list[str] = []
    for path in all_in(place):
        try:
            return Found(path, read(path), skipped)
        except CheckpointError as error:
            skipped.append(str(error))
    if not skipped:
        raise CheckpointError(f"{place}: found no checkpoint in it, expected checkpoint-….zip")
    raise CheckpointError("\n".join([f"{place}: none of its checkpoints is whole:", *skipped]))
