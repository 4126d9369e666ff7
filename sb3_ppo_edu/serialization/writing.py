"""
Writing into folders that may be a stranger's: a file is there completely or not at all, and no symbolic link is followed.

A folder that somebody else has made may hold links to files of its reader's, under the names that we write to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.serialization.names import HOW_TO_TRUST

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""Flag of ``os.open``; Windows has none, and lets only administrators make links."""


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """
    Write a file so that it is there completely or not at all; a link in its place is replaced, not followed.

    :param write: called with a temporary path in the same folder and with the same suffix, of a new and empty file
    """
    partial_path = path.with_name(f".partial-{path.name}")
    partial_path.unlink(missing_ok=True)
    try:
        # O_EXCL: made new, through no link.
        os.close(os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666))
        write(partial_path)
        os.replace(partial_path, path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say which file
    finally:
        partial_path.unlink(missing_ok=True)


def open_through_no_link(path: str | Path, flags: int) -> int:
    """
    Open a file unless it is a symbolic link, as ``opener`` of Python's ``open``.

    :param path: of the file
    :param flags: of ``os.open``
    :return: the descriptor
    :raises OSError: if it is a link
    """
    return os.open(path, flags | NO_FOLLOW, 0o666)


def make_folder(folder: Path) -> None:
    """
    Make a folder in one that may be a stranger's, if it is not there.

    :param folder: the folder
    :raises UntrustedFileError: if a symbolic link is in its place
    """
    if folder.is_symlink():
        raise _link(folder)
    folder.mkdir(parents=True, exist_ok=True)


def refuse_links(folder: Path) -> None:
    """
    Check, before libraries open files in a folder by themselves, that nothing in it leads out of it, or is read without end.

    :param folder: which may be a link itself: it is the user who has named it
    :raises UntrustedFileError: naming the first symbolic link, pipe, socket or device in it
    """
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in sorted(folders + files)):
            if path.is_symlink():
                raise _link(path, f", or {HOW_TO_TRUST}")
            if not path.is_file() and not path.is_dir():
                raise UntrustedFileError(f"{path}: found a pipe, socket or device, expected a file or folder: take it away")


def _link(path: Path, otherwise: str = "") -> UntrustedFileError:
    """Refuse a symbolic link."""
    return UntrustedFileError(
        f"{path}: found a symbolic link, through which another place would be written; expected a file or folder: "
        f"take it away{otherwise}"
    )
