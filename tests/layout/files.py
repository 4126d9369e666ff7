"""Files: how long they are, what they are called, and where they lie."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from tests.layout.source import FORWARDING_LINES, read

FILE_LINES = 500
NO_IDEA = {"common", "helper", "helpers", "misc", "part", "parts", "util", "utils"}
NUMBERED = re.compile(r"[a-z]*\d+")
NAMES_WITH_DIGITS = {"sb3", "k1", "k3", "float64", "float32", "bf16"}


def long_files(root: Path, generated: Collection[str] = ()) -> list[str]:
    """
    List the files with too many lines.

    :param root: folder to look in
    :param generated: files below it that nobody writes
    :return: one line for each
    """
    lengths = {source.path.as_posix(): len(source.text.splitlines()) for source in read(root)}
    return [
        f"{root.name}/{path}: {length} lines, expected at most {FILE_LINES}"
        for path, length in lengths.items()
        if length > FILE_LINES and path not in generated
    ]


def names_without_idea(root: Path) -> list[str]:
    """
    List files and folders whose name says nothing about what is in them.

    :param root: folder to look in
    :return: one line for each
    """
    found = set()
    for source in read(root):
        for name in (*source.path.parts[:-1], source.path.stem):
            for word in name.split("_"):
                if word in NO_IDEA or (NUMBERED.fullmatch(word) and word not in NAMES_WITH_DIGITS):
                    found.add(f"{root.name}/{source.path}: {word!r} is not an idea")
    return sorted(found)


TOP_FILES = {"README.md", "__init__.py", "__main__.py", "py.typed", "version.py", "zoo.py"}


def strangers_at_the_top(root: Path) -> list[str]:
    """
    List what doesn't belong directly below the package.

    :param root: the package's folder
    :return: one line for each
    """
    forwarding = {source.path.as_posix() for source in read(root) if source.is_forwarding}
    files = sorted(path.name for path in root.iterdir() if path.is_file())
    return [
        f"{name}: expected in a room, or a forwarding module of at most {FORWARDING_LINES} lines"
        for name in files
        if name not in TOP_FILES | forwarding
    ]
