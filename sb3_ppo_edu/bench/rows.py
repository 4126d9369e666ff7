"""Rows of measurements as dataclasses, and the CSV files that keep them."""

from __future__ import annotations

import csv
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from sb3_ppo_edu.runs import write_atomically

Row = TypeVar("Row")

_TYPES = {"int": int, "float": float, "str": str}


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
    columns: Any = fields(kind)  # type: ignore[arg-type]
    names = [one.name for one in columns]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise ValueError(
                f"{path}: found the columns {reader.fieldnames}, expected {names}; another program or version has made it: "
                "move it away, or name another folder"
            )
        return [kind(**{one.name: _TYPES[str(one.type)](line[one.name]) for one in columns}) for line in reader]


def write_rows(path: Path, rows: Sequence[Any], kind: type) -> None:
    """
    Write a CSV file in place of the one that is there; it is complete at any moment.

    :param path: the file
    :param rows: rows of one class, or none
    :param kind: their class
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [one.name for one in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8"))


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
