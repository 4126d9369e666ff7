"""Runs of several processes that torchrun starts: rank 0 owns the run's folder, each other rank a folder within it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_ppo_edu.checkpoint import CheckpointError
from sb3_ppo_edu.checkpoint.files import all_in, read
from sb3_ppo_edu.cli.refusals import RefusedError
from sb3_ppo_edu.distributed.process_group import LostProcessError, ProcessGroup, join, launched, leave, restarts
from sb3_ppo_edu.training.folder import CHECKPOINT_FOLDER, SETTINGS_FILE
from sb3_ppo_edu.training.resume import resume_run
from sb3_ppo_edu.training.run import Run, start_run
from sb3_ppo_edu.training.settings import RunSettings, read_settings, share_of


@contextmanager
def process_group() -> Iterator[ProcessGroup | None]:
    """
    Join the process group of the processes that torchrun has started, if it has, and leave it at the end.

    :return: the group, or ``None`` for this process alone
    :raises RefusedError: if they do not all arrive
    """
    if not launched():
        yield None
        return
    try:
        group = join()
    except LostProcessError as error:
        raise RefusedError(str(error)) from error
    try:
        yield group
    finally:
        leave()


class NoCommonCheckpointError(ValueError):
    """The processes of a run have no whole checkpoint of the same step."""


def start_or_resume_rank(settings: RunSettings, folder: Path, command: Sequence[str], group: ProcessGroup, device: str) -> Run:
    """
    Start this rank's part of a run, or go on with it where torchrun has started the processes anew.

    :param settings: of the whole run
    :param folder: of the run
    :param command: the command line, for the record
    :param group: the process group
    :param device: where the networks live
    :return: this rank's part
    :raises ValueError: as :func:`sb3_ppo_edu.training.run.start_run`
    """
    if not restarts() or not any(group.all_gather((folder / SETTINGS_FILE).is_file())):
        return start_rank(settings, folder, command, group)
    try:
        # Nobody else has made it: torchrun starts the same command again.
        return resume_rank(folder, group, device, trusted=True)
    except NoCommonCheckpointError:
        # What is there stays: it is the user's.
        return start_rank(settings, folder.with_name(f"{folder.name}-restart-{restarts()}"), command, group)


def rank_folder(folder: Path, rank: int) -> Path:
    """Name the folder of a rank: the run's own for rank 0, and one within it for each other."""
    return folder if rank == 0 else folder / f"rank-{rank}"


def start_rank(settings: RunSettings, folder: Path, command: Sequence[str], group: ProcessGroup) -> Run:
    """
    Start this rank's part of a run.

    :param settings: of the whole run
    :param folder: of the run; that of rank 0, if they differ
    :param command: the command line, for the record
    :param group: the process group
    :return: this rank's part
    :raises ValueError: as :func:`sb3_ppo_edu.training.run.start_run`; an error of one rank is raised on all
    """
    folder = group.all_gather(folder)[0]
    own = share_of(settings, group.rank, group.size)
    run, error = None, ""
    is_rank_zero = group.rank == 0
    for turn in (True, False):  # the folder of rank 0 is the others' parent
        if turn == is_rank_zero and not error:
            try:
                run = start_run(own, rank_folder(folder, group.rank), command, is_rank_zero=is_rank_zero)
            except ValueError as problem:
                error = str(problem)
        error = next((one for one in group.all_gather(error) if one), "")
    if error or run is None:
        raise ValueError(error)
    return run


def resume_rank(folder: Path, group: ProcessGroup, device: str, **how: Any) -> Run:
    """
    Go on with this rank's part of a run, from the newest checkpoint that all ranks have whole.

    :param folder: of the run
    :param group: the process group
    :param device: where the networks live
    :param how: see :func:`sb3_ppo_edu.training.resume.resume_run`
    :return: this rank's part
    :raises NoCommonCheckpointError: if the processes have no checkpoint in common
    :raises ValueError: if the run was made by another number of processes
    """
    own = rank_folder(folder, group.rank)
    made_by = read_settings(folder / SETTINGS_FILE).get("processes", 1)
    if made_by != group.size:
        raise ValueError(f"run {folder}: found {group.size} processes, expected the {made_by} that it was made by")
    common = set.intersection(*group.all_gather(readable_checkpoints(own / CHECKPOINT_FOLDER)))
    if not common:
        raise NoCommonCheckpointError(f"run {folder}: its processes have no whole checkpoint of the same step: start it anew")
    checkpoint = own / CHECKPOINT_FOLDER / max(common)
    return resume_run(own, device, checkpoint=checkpoint, is_rank_zero=group.rank == 0, **how)


def readable_checkpoints(folder: Path) -> set[str]:
    """Name the files of a folder's checkpoints that can be read."""
    found = set()
    for path in all_in(folder):
        try:
            read(path)
        except CheckpointError:
            continue
        found.add(path.name)
    return found
