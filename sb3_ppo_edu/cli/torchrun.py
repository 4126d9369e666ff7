"""Runs of several processes: one folder for all, and what each needs to go on in a folder within it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sb3_ppo_edu.checkpoint import CheckpointError
from sb3_ppo_edu.checkpoint.files import all_in, read
from sb3_ppo_edu.cli.refusals import RefusedError
from sb3_ppo_edu.distributed.data_parallel import Group, LostProcessError, join, launched, leave, restarts
from sb3_ppo_edu.training.resume import resume_run
from sb3_ppo_edu.training.run import CHECKPOINT_FOLDER, SETTINGS_FILE, Run, RunSettings, read_settings, share_of, start_run


@contextmanager
def together() -> Iterator[Group | None]:
    """
    Train together with the processes that torchrun has started, if it has.

    :return: the processes, or ``None`` for this one alone
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


class NothingInCommonError(ValueError):
    """The processes of a run have no whole checkpoint of the same step."""


def begin(settings: RunSettings, folder: Path, command: Sequence[str], group: Group, device: str) -> Run:
    """
    Start a run, or go on with it where torchrun has started the processes anew.

    :param settings: of the whole
    :param folder: of the run
    :param command: the command line, for the record
    :param group: the processes
    :param device: where the networks live
    :return: this process's part
    :raises ValueError: as :func:`sb3_ppo_edu.training.run.start_run`
    """
    if not restarts() or not any(group.gather((folder / SETTINGS_FILE).is_file())):
        return start_together(settings, folder, command, group)
    try:
        return resume_together(folder, group, device)
    except NothingInCommonError:
        # What is there stays: it is the user's.
        return start_together(settings, folder.with_name(f"{folder.name}-restart-{restarts()}"), command, group)


def folder_of(folder: Path, rank: int) -> Path:
    """
    Name the folder of a process.

    :param folder: of the run
    :param rank: number of the process
    :return: the run's own for the first, and one within it for each other
    """
    return folder if rank == 0 else folder / f"rank-{rank}"


def start_together(settings: RunSettings, folder: Path, command: Sequence[str], group: Group) -> Run:
    """
    Start this process's part of a run.

    :param settings: of the whole
    :param folder: of the run; where the first process says, if they differ
    :param command: the command line, for the record
    :param group: the processes
    :return: this process's part
    :raises ValueError: as :func:`sb3_ppo_edu.training.run.start_run`; the first process's errors everywhere
    """
    folder = group.gather(folder)[0]
    own = share_of(settings, group.rank, group.size)
    run, error = None, ""
    for leads in (True, False):  # its folder is the others' parent
        if leads == group.leads and not error:
            try:
                run = start_run(own, folder_of(folder, group.rank), command, leads=leads)
            except ValueError as problem:
                error = str(problem)
        error = next((one for one in group.gather(error) if one), "")
    if error or run is None:
        raise ValueError(error)
    return run


def resume_together(folder: Path, group: Group, device: str, *, trusted: bool = False, on_fault: str | None = None) -> Run:
    """
    Go on with this process's part of a run, from the newest checkpoint that all processes have whole.

    :param folder: of the run
    :param group: the processes
    :param device: where the networks live
    :param trusted: see :func:`sb3_ppo_edu.training.resume.resume_run`
    :param on_fault: see there
    :return: this process's part
    :raises NothingInCommonError: if the processes have no checkpoint in common
    :raises ValueError: if the run was made by another number of processes
    """
    own = folder_of(folder, group.rank)
    made_by = read_settings(folder / SETTINGS_FILE).get("processes", 1)
    if made_by != group.size:
        raise ValueError(f"run {folder}: found {group.size} processes, expected the {made_by} that it was made by")
    common = set.intersection(*group.gather(whole_in(own / CHECKPOINT_FOLDER)))
    if not common:
        raise NothingInCommonError(f"run {folder}: its processes have no whole checkpoint of the same step: start it anew")
    checkpoint = own / CHECKPOINT_FOLDER / max(common)
    return resume_run(own, device, trusted=trusted, on_fault=on_fault, checkpoint=checkpoint, leads=group.leads)


def whole_in(folder: Path) -> set[str]:
    """
    Name the checkpoints of a folder that can be read.

    :param folder: the folder
    :return: names of their files
    """
    found = set()
    for path in all_in(folder):
        try:
            read(path)
        except CheckpointError:
            continue
        found.add(path.name)
    return found
