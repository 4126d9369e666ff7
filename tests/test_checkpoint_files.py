"""Checkpoint files: complete or not there, checked when read, the newest good one found, and never the last good one lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_ppo_edu.checkpoint.files import CheckpointError, latest_good, read, save

MEMBERS = {"state.bin": bytes(range(256)) * 8, "model.zip": b"weights" * 99, "empty.txt": b""}
TIME_LIMIT = 2.0
"""Seconds within which a bad file is refused."""


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files included."""
    return sorted(os.listdir(folder))


def step_name(step: int) -> str:
    """Name of the checkpoint of a step."""
    return f"checkpoint-{step:012d}.zip"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Content of a good checkpoint."""
    return save(tmp_path_factory.mktemp("good"), 7, MEMBERS, keep=1).read_bytes()


# -- writing -------------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}\.[a-z]{1,3}", fullmatch=True), st.binary(), max_size=4),
    st.integers(0, 10**12 - 1),
)
def test_what_is_saved_is_read(tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], step: int) -> None:
    """Any members come back as they were, from the file and from its folder."""
    folder = tmp_path_factory.mktemp("folder") / "new" / "folder"
    path = save(folder, step, members, keep=1)
    assert read(path) == members
    assert latest_good(folder) == (path, members, [])
    assert latest_good(path) == (path, members, [])
    assert names(folder) == [step_name(step)]


def test_file_is_a_plain_archive_with_checksums(tmp_path: Path) -> None:
    """Anyone can open a checkpoint: its manifest says format, step, writer, and size and SHA-256 of every member."""
    path = save(tmp_path, 12, MEMBERS, keep=3)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        assert {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"} == MEMBERS
    assert (manifest["format"], manifest["version"], manifest["step"]) == ("sb3_ppo_edu checkpoint", 2, 12)
    assert set(manifest["libraries"]) == {"sb3_ppo_edu", "stable_baselines3", "torch"}
    assert manifest["members"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in MEMBERS.items()
    }


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_stay(tmp_path: Path, keep: int) -> None:
    """After each save the newest ``keep`` are there, and other files are left alone."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-best.zip").write_text("mine")
    for step in range(0, 80, 10):
        save(tmp_path, step, MEMBERS, keep)
        last = [step_name(one) for one in range(0, step + 1, 10)][-keep:]
        assert names(tmp_path) == sorted([*last, "notes.txt", "checkpoint-best.zip"])


def test_damaged_newer_file_does_not_push_out_the_good_one(tmp_path: Path) -> None:
    """A run that resumed before a damaged checkpoint keeps what it saves on its way there, even with ``keep=1``."""
    save(tmp_path, 10, MEMBERS, keep=2)
    damaged = tmp_path / step_name(30)
    damaged.write_bytes(b"half a file")
    save(tmp_path, 20, MEMBERS, keep=1)
    assert names(tmp_path) == [step_name(20), step_name(30)]
    assert latest_good(tmp_path).path == tmp_path / step_name(20)
    save(tmp_path, 30, MEMBERS, keep=1)
    assert latest_good(tmp_path) == (damaged, MEMBERS, [])
    assert names(tmp_path) == [step_name(30)]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    """A resumed run writes the same step again, and the later content counts."""
    save(tmp_path, 10, MEMBERS, keep=2)
    save(tmp_path, 10, {"state.bin": b"new"}, keep=2)
    assert read(tmp_path / step_name(10)) == {"state.bin": b"new"}


# -- what goes wrong while writing ---------------------------------------------------------------------------------------

KILLED_WRITER = """
import os, sys
from pathlib import Path
from sb3_ppo_edu.checkpoint import files
os.fsync = lambda descriptor: os._exit(9)
files.save(Path(sys.argv[1]), 20, {"state.bin": b"x" * 100_000}, keep=1)
"""

FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from sb3_ppo_edu.checkpoint import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    files.save(Path(sys.argv[1]), 20, {"state.bin": b"x" * 100_000}, keep=1)
except OSError as error:
    print("OSError", error.errno)
"""


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)


def test_writer_killed_before_the_rename(tmp_path: Path) -> None:
    """A process that dies in the middle of writing leaves no checkpoint of that name; the next save clears up after it."""
    before = save(tmp_path, 10, MEMBERS, keep=1)
    assert run_python(KILLED_WRITER, tmp_path).returncode == 9
    assert len(names(tmp_path)) == 2
    assert latest_good(tmp_path) == (before, MEMBERS, [])
    save(tmp_path, 30, MEMBERS, keep=1)
    assert names(tmp_path) == [step_name(30)]


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes is POSIX's")
def test_write_that_the_system_cuts_off(tmp_path: Path) -> None:
    """A real write error in the middle of the file is an OSError; nothing of the new file stays, the earlier one does."""
    before = save(tmp_path, 10, MEMBERS, keep=1)
    assert run_python(FULL_DISK, tmp_path).stdout.split() == ["OSError", str(errno.EFBIG)]
    assert names(tmp_path) == [before.name]
    assert read(before) == MEMBERS


@pytest.mark.parametrize(
    ("module", "function", "number"),
    [
        ("os", "fsync", errno.ENOSPC),
        ("os", "fsync", errno.EIO),
        ("os", "replace", errno.EACCES),
        ("zipfile.ZipFile", "writestr", errno.ENOSPC),
    ],
)
def test_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, function: str, number: int
) -> None:
    """Whichever step of writing fails, its error comes out, the earlier checkpoints are intact and nothing half-done stays."""
    before = [save(tmp_path, step, MEMBERS, keep=5) for step in (10, 20)]

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{function}", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            save(tmp_path, 30, MEMBERS, keep=1)
    assert names(tmp_path) == [path.name for path in before]
    assert latest_good(tmp_path) == (before[-1], MEMBERS, [])


def test_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    """Training goes on when someone has removed the folder of its checkpoints."""
    folder = tmp_path / "checkpoints"
    save(folder, 10, MEMBERS, keep=1).unlink()
    folder.rmdir()
    assert read(save(folder, 20, MEMBERS, keep=1)) == MEMBERS


def test_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    """A file where the folder should be is an OSError that names it, and stays."""
    place = tmp_path / "checkpoints"
    place.write_text("mine")
    with pytest.raises(OSError, match="checkpoints"):
        save(place, 10, MEMBERS, keep=1)
    assert place.read_text() == "mine"


@pytest.mark.parametrize("function", ["fsync", "open"])
def test_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Where a folder cannot be flushed, as on Windows and some network drives, the checkpoint is written all the same."""
    original = getattr(os, function)

    def fail_for_folders(target: Any, *arguments: Any) -> Any:
        if isinstance(target, int) and not os.path.isdir(f"/proc/self/fd/{target}"):
            return original(target, *arguments)
        if not isinstance(target, int) and not Path(target).is_dir():
            return original(target, *arguments)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, function, fail_for_folders)
    assert read(save(tmp_path, 10, MEMBERS, keep=1)) == MEMBERS


def test_old_file_that_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old checkpoint that cannot be deleted does not turn a good save into a failure."""
    save(tmp_path, 10, MEMBERS, keep=1)
    original = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == step_name(10):
            raise PermissionError(errno.EACCES, "denied")
        original(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert latest_good(tmp_path / save(tmp_path, 20, MEMBERS, keep=1).name).members == MEMBERS


# -- what goes wrong while reading ---------------------------------------------------------------------------------------


def parts_of(content: bytes) -> dict[str, bytes]:
    """Read an archive's members with the standard library alone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(parts: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Write an archive with the given members, in this order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in parts:
            archive.writestr(name, content)
    return file.getvalue()


def with_part(content: bytes, name: str, new: bytes | None) -> bytes:
    """Replace, add or (with None) take away a member."""
    parts = {**parts_of(content), name: new}
    return archive_of([(key, value) for key, value in parts.items() if value is not None])


def with_manifest(content: bytes, **entries: Any) -> bytes:
    """Replace entries of the manifest."""
    manifest = json.loads(parts_of(content)["manifest.json"])
    return with_part(content, "manifest.json", json.dumps({**manifest, **entries}).encode())


def flipped(content: bytes, position: int) -> bytes:
    """Flip all bits of one byte."""
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


def with_overlap(content: bytes) -> bytes:
    """Let the directory say that two members share their bytes, which is how a small archive becomes a large one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("state.bin", bytes(10_000))
        for index in range(100):
            shared = zipfile.ZipInfo(f"copy{index}.pt")
            first = archive.filelist[0]
            shared.CRC, shared.file_size, shared.compress_size = first.CRC, first.file_size, first.compress_size
            shared.header_offset = first.header_offset
            archive.filelist.append(shared)
        archive._didModify = True  # type: ignore[attr-defined]
    return file.getvalue()


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda good: b"", "0 bytes"),
    "not a zip": (lambda good: b"hello" * 100, "not an intact zip"),
    "half": (lambda good: good[: len(good) // 2], "not an intact zip"),
    "without its last byte": (lambda good: good[:-1], "not an intact zip|damaged"),
    "zeros, as after a power failure": (lambda good: bytes(len(good)), "not an intact zip"),
    "half zeros": (lambda good: good[:900] + bytes(len(good) - 900), "not an intact zip"),
    "member flipped": (lambda good: flipped(good, good.index(b"weights") + 3), "CRC"),
    "bytes before it": (lambda good: b"#!/bin/sh\n" + good, "10 bytes before"),
    "empty zip": (lambda good: archive_of([]), "manifest.json"),
    "another zip": (lambda good: archive_of([("data", b"{}")]), "manifest.json"),
    "no manifest": (lambda good: with_part(good, "manifest.json", None), "manifest.json"),
    "manifest broken": (lambda good: with_part(good, "manifest.json", b'{"format": '), "manifest.json"),
    "manifest no text": (lambda good: with_part(good, "manifest.json", b"\xff\xfe\x00"), "manifest.json"),
    "manifest a list": (lambda good: with_part(good, "manifest.json", b"[]"), "another manifest.json"),
    "manifest nested deeply": (lambda good: with_part(good, "manifest.json", b"[" * 100_000), "manifest.json"),
    "another format": (lambda good: with_manifest(good, format="recipe"), "another manifest.json"),
    "no list of members": (lambda good: with_manifest(good, members=3), "another manifest.json"),
    "version from the future": (lambda good: with_manifest(good, version=3), "format version 3 .*stable_baselines3"),
    "no version": (lambda good: with_manifest(good, version=None), "format version None"),
    "member missing": (lambda good: with_part(good, "state.bin", None), "found the members .*expected .*state.bin"),
    "member too many": (lambda good: with_part(good, "extra.pt", b"x"), "found the members .*extra.pt"),
    "member exchanged": (lambda good: with_part(good, "state.bin", MEMBERS["model.zip"]), "state.bin damaged"),
    "checksum no checksum": (lambda good: with_manifest(good, members=dict.fromkeys(MEMBERS, 5)), "damaged"),
    "path traversal": (lambda good: with_part(good, "../evil.py", b"x"), r"the name '\.\./evil\.py'"),
    "absolute path": (lambda good: with_part(good, "/evil.py", b"x"), "the name '/evil"),
    "zip bomb": (
        lambda good: archive_of([*parts_of(good).items(), ("bomb.pt", bytes(2**27))], zipfile.ZIP_DEFLATED),
        "compressed by method 8",
    ),
    "zip bomb of shared bytes": (with_overlap, "members of 1,010,000 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_is_named_and_the_one_before_is_used(name: str, good: bytes, tmp_path: Path) -> None:
    """A damaged newest checkpoint is named with what is wrong, within the time limit, and the one before it is used."""
    damage, message = DAMAGED[name]
    before = save(tmp_path, 10, MEMBERS, keep=1)
    damaged = tmp_path / step_name(20)
    damaged.write_bytes(damage(good))
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=message) as error:
        read(damaged)
    found = latest_good(tmp_path)
    assert time.perf_counter() - started < TIME_LIMIT
    assert str(damaged) in str(error.value)
    assert "expected" in str(error.value)
    assert found == (before, MEMBERS, [str(error.value)])


def test_duplicate_member_is_refused(good: bytes, tmp_path: Path) -> None:
    """Two members of one name are refused."""
    path = tmp_path / step_name(1)
    with pytest.warns(UserWarning, match="Duplicate"):
        path.write_bytes(archive_of([*parts_of(good).items(), ("state.bin", b"x")]))
    with pytest.raises(CheckpointError, match=r"two members named 'state\.bin'"):
        read(path)


def test_nothing_good_is_said_with_every_reason(tmp_path: Path) -> None:
    """Where no checkpoint is good, the message names each with what is wrong; an empty folder and no folder are told apart."""
    with pytest.raises(CheckpointError, match="found no checkpoint in it"):
        latest_good(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        latest_good(tmp_path / "absent")
    for step in (1, 2):
        (tmp_path / step_name(step)).write_bytes(b"half")
    with pytest.raises(CheckpointError) as error:
        latest_good(tmp_path)
    assert step_name(1) in str(error.value)
    assert step_name(2) in str(error.value)


def test_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A folder under the name of a checkpoint is passed over."""
    before = save(tmp_path, 10, MEMBERS, keep=1)
    (tmp_path / step_name(20)).mkdir()
    found = latest_good(tmp_path)
    assert found.path == before
    assert "cannot be read (Is a directory)" in found.skipped[0]


@given(data=st.data())
def test_truncated_file_is_refused(good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Wherever a checkpoint is cut off, it is refused."""
    path = tmp_path_factory.mktemp("cut") / "cut.zip"
    path.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(CheckpointError, match=r"cut\.zip"):
        read(path)


@given(data=st.data())
def test_changed_file_is_refused_or_the_same(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whichever bytes are changed, the checkpoint is refused or its members are what they were."""
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("changed") / "changed.zip"
    path.write_bytes(changed)
    with contextlib.suppress(CheckpointError):
        assert read(path) == MEMBERS
