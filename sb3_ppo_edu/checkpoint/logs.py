"""
A logger's position: its files go on where they stood at the checkpoint, without gap and without duplicate.

What was written after the checkpoint is cut off, because the resumed run writes it again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    Logger,
    TensorBoardOutputFormat,
)

from sb3_ppo_edu.checkpoint.files import CheckpointError
from sb3_ppo_edu.checkpoint.plain import NotPlainError, check_plain
from sb3_ppo_edu.serialization.writing import open_through_no_link, write_atomically

EVENTS = "events.out.tfevents.*"
LOG_FILES = {"csv": "*.csv", "json": "*.json", "log": "*.txt", "tensorboard": EVENTS}
"""What the files of each kind of output are called."""


def capture_logger(logger: Logger) -> dict[str, Any]:
    """Take a logger's position: what waits to be written, and how long its files are."""
    return {
        "folder": logger.dir,
        "outputs": [capture_output(output) for output in logger.output_formats],
        "values": {name: value for name, value in logger.name_to_value.items() if is_plain(value)},
        "counts": dict(logger.name_to_count),
        "excluded": dict(logger.name_to_excluded),
    }


def restore_waiting(logger: Logger, state: dict[str, Any]) -> None:
    """
    Put back what waits to be written; SB3 writes nothing at all where one of its three dictionaries lacks a name.

    :param state: as :func:`capture_logger` gave it, which leaves out the values of pictures and films only
    """
    waiting = [name for name in state["values"] if isinstance(state["excluded"].get(name), tuple)]
    for own, saved in (
        (logger.name_to_value, "values"),
        (logger.name_to_excluded, "excluded"),
        (logger.name_to_count, "counts"),
    ):
        own.update({name: state[saved][name] for name in waiting if name in state[saved]})


def is_plain(value: Any) -> bool:
    """Tell whether a logged value can be kept; pictures and films can't."""
    try:
        check_plain(value)
    except NotPlainError:
        return False
    return True


def capture_output(output: Any) -> dict[str, Any]:
    """Take the position of one output."""
    if isinstance(output, TensorBoardOutputFormat):
        output.writer.flush()
        folder = Path(output.writer.log_dir)
        return {"kind": "tensorboard", "files": {path.name: path.stat().st_size for path in folder.glob(EVENTS)}}
    if isinstance(output, CSVOutputFormat):
        output.file.flush()
        with open(output.file.name, encoding="utf-8") as file:
            lines = sum(1 for _ in file)
        return {"kind": "csv", "files": {Path(output.file.name).name: lines}, "keys": list(output.keys)}
    if isinstance(output, JSONOutputFormat) or (isinstance(output, HumanOutputFormat) and output.own_file):
        output.file.flush()
        path = Path(output.file.name)
        return {"kind": "json" if isinstance(output, JSONOutputFormat) else "log", "files": {path.name: path.stat().st_size}}
    return {"kind": "stdout" if isinstance(output, HumanOutputFormat) else "other", "files": {}}


def reopen_logger(state: dict[str, Any]) -> Logger | None:
    """
    Open a logger's files where it stood.

    :param state: as :func:`capture_logger` gave it
    :return: the logger, or None if it wrote no files
    :raises CheckpointError: if a file is gone or shorter than it was
    """
    if state["folder"] is None or not any(entry["files"] for entry in state["outputs"]):
        return None
    outputs = [reopen_output(entry, Path(state["folder"])) for entry in state["outputs"] if entry["kind"] != "other"]
    return Logger(folder=state["folder"], output_formats=outputs)


def reopen_output(entry: dict[str, Any], folder: Path) -> Any:
    """
    Open one output where it stood.

    :param entry: as :func:`capture_output` gave it
    :raises CheckpointError: if a file is gone or shorter than it was
    """
    if entry["kind"] == "stdout":
        return HumanOutputFormat(sys.stdout)
    if entry["kind"] == "tensorboard":
        for name, size in entry["files"].items():
            cut(folder / name, size)
        for path in folder.glob(EVENTS):
            if path.name not in entry["files"]:
                # TensorBoard does not read it under this name, and nothing is lost.
                path.rename(path.with_name(path.name.replace("tfevents", "discarded")))
        return TensorBoardOutputFormat(str(folder))
    ((name, length),) = entry["files"].items()
    path = folder / name
    # SB3's constructors open with "w", which would empty the file: they get one that is thrown away.
    if entry["kind"] == "csv":
        output: Any = CSVOutputFormat(os.devnull)
        cut_csv(path, length, entry["keys"])
        output.keys = list(entry["keys"])
    else:
        output = JSONOutputFormat(os.devnull) if entry["kind"] == "json" else HumanOutputFormat(os.devnull)
        cut(path, length)
    output.file.close()
    # SB3's output closes it. Not "a": a new column makes SB3 go back to the beginning and write everything again.
    output.file = open(path, "r+", encoding="utf-8", opener=open_through_no_link)  # noqa: SIM115
    output.file.seek(0, os.SEEK_END)
    return output


def cut(path: Path, size: int) -> None:
    """
    Cut a file to the size it had.

    :param size: in bytes
    :raises CheckpointError: if it is gone or shorter
    """
    found = path.stat().st_size if path.is_file() else -1
    if found < size:
        raise CheckpointError(f"{path}: found {max(found, 0)} bytes, expected at least the {size} it had at the checkpoint")
    if found > size:
        with open(path, "r+b", opener=open_through_no_link) as file:
            file.truncate(size)


def cut_csv(path: Path, lines: int, keys: list[str]) -> None:
    """
    Cut a CSV file to the lines it had, and to the columns: SB3 adds a column to all lines when it logs a new value.

    :param lines: number of lines with the heading
    :raises CheckpointError: if it is gone, shorter or something else
    """
    try:
        found = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: found no text ({error.reason}), expected the log as SB3 writes it") from error
    if len(found) < lines:
        raise CheckpointError(f"{path}: found {len(found)} lines, expected at least the {lines} it had at the checkpoint")
    if not lines:
        write_atomically(path, lambda temporary: None)
        return
    if found[0].split(",")[: len(keys)] != keys:
        raise CheckpointError(f"{path}: found the columns {found[0][:200]!r}, expected {', '.join(keys)} first")
    added = len(found[0].split(",")) - len(keys)
    kept = [",".join(keys), *(line[: len(line) - added] for line in found[1:lines])]
    text = "".join(line + "\n" for line in kept)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
