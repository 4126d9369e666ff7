"""Going on with a run that was interrupted, and doing one again to compare."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.checkpoint.files import STATE, CheckpointError, latest_good
from sb3_ppo_edu.checkpoint.plain import unpack
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_training_env
from sb3_ppo_edu.training.run import (
    CHECKPOINT_FOLDER,
    EVALUATION_FILE,
    EVALUATIONS_FILE,
    MODEL_FILE,
    MONITOR_FOLDER,
    PROGRESS_FILE,
    SETTINGS_FILE,
    Run,
    RunSettings,
    make_callbacks,
    read_settings,
)

CLOCKS = ("time/fps", "time/time_elapsed")
"""Columns of ``progress.csv`` that no two runs share."""


# --------------------------------------------------------------------------------------------------------------------------
# Going on
# --------------------------------------------------------------------------------------------------------------------------


def resume_run(
    folder: Path,
    device: str = "auto",
    *,
    trusted: bool = False,
    on_fault: str | None = None,
    checkpoint: Path | None = None,
    leads: bool = True,
) -> Run:
    """
    Open an interrupted run where its newest whole checkpoint stands.

    :param folder: the run's folder
    :param device: where the networks live
    :param trusted: whether what the policy was built from may be of any type
    :param on_fault: "raise" or "warn" from here on, see :class:`RunSettings`; ``None`` for what the run has
    :param checkpoint: the one to go on from; ``None`` for the newest whole one
    :param leads: see :func:`sb3_ppo_edu.training.run.start_run`
    :return: the run, ready to learn what is left of it
    :raises ValueError: if the folder is no run's, or has no checkpoint, or the run was made without looking for faults
    """
    record = read_settings(folder / SETTINGS_FILE)
    settings = settings_from_record(record, device)
    if on_fault is not None:
        if settings.on_fault == "off":
            raise ValueError(
                f"on_fault={on_fault!r}: found a run that was made with 'off' ({folder}), expected one made with 'raise' or "
                "'warn': a resumed run has the layers that it was made with"
            )
        settings = replace(settings, on_fault=on_fault)
    place = checkpoint or folder / CHECKPOINT_FOLDER
    try:
        state = unpack(latest_good(place).members[STATE])
        for index, env in enumerate(state["env"]["envs"]):
            if env is None:  # it is one of a whole that can't be restored, and its episodes go to a new file
                continue
            cut_monitor(folder / MONITOR_FOLDER / f"{index}.monitor.csv", dict(env["wrappers"])["Monitor"]["episode_returns"])
        env = make_training_env(
            settings.environment,
            settings.n_envs,
            settings.seed,
            folder / MONITOR_FOLDER,
            append=True,
            on_fault=settings.on_fault,
        )
        model = EduPPO.resume(place, env, device=settings.device, trusted=trusted, log_folder=folder)
    except (CheckpointError, KeyError) as error:
        raise ValueError(f"run {folder}: it cannot be resumed: {error}") from error
    return Run(folder, settings, model, make_callbacks(settings, folder, leads=leads))


def settings_from_record(record: dict[str, Any], device: str) -> RunSettings:
    """
    Read the settings of a run from its record.

    :param record: as ``settings.yml`` has it
    :param device: where the networks live
    :return: the settings; what the policy and the algorithm are made of is in the checkpoint
    """
    names = {one.name for one in fields(RunSettings)} - {"environment", "algorithm", "policy", "device"}
    # Runs made before there was a guard have none.
    given = {"on_fault": "off", **{name: record[name] for name in names if name in record}}
    return RunSettings(EnvironmentSettings(**record["environment"]), device=device, **given)


def cut_monitor(path: Path, episodes: Sequence[float]) -> None:
    """
    Cut a monitor file to the episodes that had ended at the checkpoint.

    :param path: the file
    :param episodes: their returns
    """
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            kept = list(islice(file, 2 + len(episodes)))
        path.write_text("".join(kept), encoding="utf-8", newline="")


# --------------------------------------------------------------------------------------------------------------------------
# Doing it again
# --------------------------------------------------------------------------------------------------------------------------


class Likeness(NamedTuple):
    """
    How one thing compares between two runs.

    :param what: the thing
    :param equal: whether it is the same, or None if one of the runs does not have it
    :param detail: where it differs
    """

    what: str
    equal: bool | None
    detail: str = ""


def compare_runs(first: Path, second: Path) -> list[Likeness]:
    """
    Compare two runs bit by bit.

    :param first: folder of a run
    :param second: folder of another
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


def compare_records(name: str, first: dict[str, Any], second: dict[str, Any]) -> Likeness:
    """
    Compare one entry of two records.

    :param name: of the entry
    :param first: record of a run
    :param second: record of another
    :return: the comparison
    """
    one, other = first.get(name), second.get(name)
    if isinstance(one, dict) and isinstance(other, dict):
        different = [
            f"{key}: {one.get(key)} and {other.get(key)}" for key in {**one, **other} if one.get(key) != other.get(key)
        ]
        return Likeness(name, not different, "; ".join(different))
    return Likeness(name, one == other, "" if one == other else f"{one} and {other}")


def compare_settings(first: dict[str, Any], second: dict[str, Any]) -> Likeness:
    """
    Compare what two runs were made from.

    :param first: record of a run
    :param second: record of another
    :return: the comparison
    """
    names = [name for name in first if name not in ("command", "started", "versions", "machine", "threads", "git")]
    different = [name for name in names if first[name] != second.get(name)]
    return Likeness("settings", not different, ", ".join(different))


def compare_files(what: str, first: Path, second: Path) -> Likeness:
    """
    Compare a file of two runs, clocks aside.

    :param what: name of the file, perhaps with a member
    :param first: folder of a run
    :param second: folder of another
    :return: the comparison
    """
    name, _, member = what.partition(": ")
    if not all((folder / name).is_file() for folder in (first, second)):
        return Likeness(what, None, "not in both")
    one, other = (contents(folder / name, member) for folder in (first, second))
    return Likeness(what, one == other)


def contents(path: Path, member: str) -> Any:
    """
    Read what of a file must be the same in the same run.

    :param path: the file
    :param member: of a model's file, or empty
    :return: something to compare
    """
    if path.name == PROGRESS_FILE:
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]
    if path.name == EVALUATIONS_FILE:
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if path.name == EVALUATION_FILE:
        return json.loads(path.read_text(encoding="utf-8"))
    import io
    import zipfile

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
