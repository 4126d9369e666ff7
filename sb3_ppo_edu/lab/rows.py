"""Rows of measurements as dataclasses, and the CSV files that keep them."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from sb3_ppo_edu.serialization.writing import open_through_no_link, write_atomically

Row = TypeVar("Row")

_TYPES = {"int": int, "float": float, "str": str}


def columns(kind: type) -> list[str]:
    """
    Name the columns of a CSV file: first what a class of rows adds, then what it has from the class it extends.

    :param kind: class of the rows, a dataclass
    :return: names of the columns
    """
    names = [one.name for one in fields(kind)]
    given = {one.name for base in kind.__bases__ if is_dataclass(base) for one in fields(base)}
    return [name for name in names if name not in given] + [name for name in names if name in given]


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """
    Read the rows of a CSV file.

    :param path: the file; need not exist
    :param kind: class of the rows, a dataclass of int, float and str
    :return: the rows; none if there is no file
    :raises ValueError: if the file has other columns
    """
    if not path.is_file():
        return []
    names = columns(kind)
    # The keys are classes of rows, which are dataclasses; their common type does not say so.
    types = {one.name: _TYPES[str(one.type)] for one in fields(kind)}  # type: ignore[arg-type]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(
                f"{path}: found the columns {reader.fieldnames}, expected {names}; another program or version has made it: "
                "move it away, or name another folder"
            )
        return [kind(**{name: types[name](line[name]) for name in names}) for line in reader]


def write_rows(path: Path, rows: Sequence[Any], kind: type) -> None:
    """
    Write a CSV file in place of the one that is there; it is complete at any moment.

    :param path: the file
    :param rows: rows of one class, or none
    :param kind: their class
    """
    text = _lines(rows, kind, header=True)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def append_rows(path: Path, rows: Sequence[Any]) -> None:
    """
    Append rows to a CSV file in one write, so that an interruption leaves all of them or none.

    :param path: the file; made with its header if need be
    :param rows: at least one row, all of one class
    """
    text = _lines(rows, type(rows[0]), header=not path.exists())
    with open(path, "a", newline="", encoding="utf-8", opener=open_through_no_link) as file:
        file.write(text)


def _lines(rows: Sequence[Any], kind: type, header: bool) -> str:
    """Write rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(kind), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def machine() -> str:
    """
    Describe this machine without its name.

    :return: such as "Intel Xeon, 2 cores, Linux x86_64"
    """
    name = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.split(":", 1)[1] for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")
        ]
        name = " ".join(models[0].split()) if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
