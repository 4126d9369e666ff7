"""Zip archives that others made: the directory is checked before any member is read, each member against its checksum."""

from __future__ import annotations

import collections
import io
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from stable_baselines3.common.save_util import open_path

from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, reason

MAX_GROWTH = 20
"""A compressed archive may grow to this many times its size; weights hardly compress at all."""

SMALL_ARCHIVE = 2**26
"""Bytes that any archive may grow to."""


def read_archive(content: bytes, where: str, *, compressed: bool = False) -> dict[str, bytes]:
    """
    Read every member of a zip archive, with its checksum.

    :param content: the archive
    :param where: what is read, for messages
    :param compressed: whether members may be compressed; no archive grows beyond :data:`MAX_GROWTH` times its size
        or :data:`SMALL_ARCHIVE` bytes
    :return: content by name
    :raises DamagedFileError: if it is no archive, is damaged, or has members that a saved model never has
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_members(archive.infolist(), len(content), where, compressed=compressed)
            return {member.filename: archive.read(member) for member in archive.infolist()}
    except DamagedFileError:
        raise
    except zipfile.BadZipFile as error:
        what = f"{len(content):,} bytes that are not an intact zip archive ({error})"
        raise DamagedFileError(f"{where}: found {what}; expected a saved model or checkpoint: {ANOTHER_COPY}") from error
    # zipfile does not wrap what it meets in a damaged directory.
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, zlib.error) as error:
        raise DamagedFileError(
            f"{where}: found a damaged archive ({reason(error)}); expected a saved model or checkpoint: {ANOTHER_COPY}"
        ) from error


def check_members(members: list[zipfile.ZipInfo], n_bytes: int, where: str, *, compressed: bool = False) -> None:
    """
    Check what an archive says about its members, before any is read.

    :param members: what its directory says
    :param n_bytes: size of the archive
    :param where: what is read, for messages
    :param compressed: whether members may be compressed
    :raises DamagedFileError: for a name that is used twice or leads out of a folder, encryption, unknown compression, or
        sizes beyond what such a file can hold
    """
    start = min((member.header_offset for member in members), default=0)
    if start > 0:
        # A file that is cut off behind an archive within it looks like that one.
        raise bad_member(where, f"{start:,} bytes before the first member", "none")
    names = [member.filename for member in members]
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise bad_member(where, f"two members named {twice[0]!r}", "each name once")
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if compressed else (zipfile.ZIP_STORED,)
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or re.search(r"[\\:]|/$", member.filename) or not path.parts:
            raise bad_member(where, f"the name {member.filename!r}", "names of files within the archive")
        if member.flag_bits & 1:
            raise bad_member(where, f"{member.filename!r} encrypted", "members without encryption")
        if member.compress_type not in methods:
            expected = "stored or deflated members" if compressed else "stored members"
            raise bad_member(where, f"{member.filename!r} compressed by method {member.compress_type}", expected)
    total = sum(member.file_size for member in members)
    limit = max(MAX_GROWTH * n_bytes, SMALL_ARCHIVE) if compressed else n_bytes
    if total > limit:
        raise bad_member(where, f"members of {total:,} bytes in {n_bytes:,}", f"at most {limit:,}")


def bad_member(where: str, found: str, expected: str) -> DamagedFileError:
    """
    Say what is wrong with an archive's directory.

    :param where: what is read
    :param found: what stands there
    :param expected: what should
    :return: the error, to be raised
    """
    return DamagedFileError(f"{where}: found {found}; expected {expected}: do not use this file")


def read_file(path: Any, where: str) -> bytes:
    """
    Read a file as Stable-Baselines3 finds it, so that what is checked is what is loaded.

    :param path: the file, or its name with or without ``.zip``, or an open one
    :param where: what is read, for messages
    :return: its content
    :raises FileNotFoundError: if there is no such file
    :raises DamagedFileError: if it cannot be read
    """
    try:
        file = open_path(path, "r", suffix="zip")
        try:
            return bytes(file.read())
        finally:
            if isinstance(path, (str, Path)):
                file.close()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: there is no such file; expected one that model.save() has written") from error
    except OSError as error:
        raise DamagedFileError(f"{where}: it cannot be read ({error.strerror}); expected a file: {ANOTHER_COPY}") from error
