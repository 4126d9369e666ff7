"""Two runs compared bit by bit: what was trained and logged, and the surroundings that could explain a difference."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ppo_edu.training.folder import EVALUATION_FILE, EVALUATIONS_FILE, MODEL_FILE, PROGRESS_FILE, SETTINGS_FILE
from sb3_ppo_edu.training.settings import read_settings

CLOCKS = ("time/fps", "time/time_elapsed")
"""Columns of ``progress.csv`` that no two runs share."""


class Comparison(NamedTuple):
    """
    How one thing compares between two runs.

    :param what: the thing
    :param equal: whether it is the same, or None if one of the runs does not have it
    :param detail: where it differs
    """

    what: str
    equal: bool | None
    detail: str = ""


def compare_runs(first: Path, second: Path) -> list[Comparison]:
    """
    Compare two runs bit by bit.

    :return: one line for each thing that can differ, surroundings first
    """
    records = [read_settings(folder / SETTINGS_FILE) for folder in (first, second)]
    return [
        *(compare_records(name, *records) for name in ("versions", "machine", "threads", "git")),
        compare_settings(*records),
        *(
            compare_files(what, first, second)
            for what in (f"{MODEL_FILE}: policy.pth", f"{MODEL_FILE}: policy.optimizer.pth", PROGRESS_FILE, EVALUATIONS_FILE)
        ),
        compare_files(EVALUATION_FILE, first, second),
    ]


def compare_records(name: str, first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare one entry of two records."""
    one, other = first.get(name), second.get(name)
    if isinstance(one, dict) and isinstance(other, dict):
        different = [
            f"{key}: {one.get(key)} and {other.get(key)}" for key in {**one, **other} if one.get(key) != other.get(key)
        ]
        return Comparison(name, not different, "; ".join(different))
    return Comparison(name, one == other, "" if one == other else f"{one} and {other}")


def compare_settings(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare what two runs were made from."""
    names = [name for name in first if name not in ("command", "started", "versions", "machine", "threads", "git")]
    different = [name for name in names if first[name] != second.get(name)]
    return Comparison("settings", not different, ", ".join(different))


def compare_files(what: str, first: Path, second: Path) -> Comparison:
    """
    Compare a file of two runs, clocks aside.

    :param what: name of the file, perhaps with a member
    """
    name, _, member = what.partition(": ")
    if not all((folder / name).is_file() for folder in (first, second)):
        return Comparison(what, None, "not in both")
    one, other = (contents(folder / name, member) for folder in (first, second))
    return Comparison(what, one == other)


def contents(path: Path, member: str) -> Any:
    """
    Read what of a file must be the same in the same run.

    :param member: of a model's file, or empty
    """
    if path.name == PROGRESS_FILE:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]
    if path.name == EVALUATIONS_FILE:
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.name == EVALUATION_FILE:
        return json.loads(path.read_text(encoding="utf-8"))
    with zipfile.ZipFile(path) as archive:
        return bits_of(th.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True))


def bits_of(value: Any) -> Any:
    """
    Replace tensors by their bits.

    :param value: tensors in dictionaries and lists
    :return: the same with bytes in their place
    """
    if isinstance(value, th.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: bits_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [bits_of(one) for one in value]
    return value
