"""Which measurements are made in which order, each in a fresh process, and what is left of them after an interruption."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch as th

from sb3_ppo_edu.lab.processes import ONE_THREAD, ProcessError, call_in_process
from sb3_ppo_edu.lab.rows import append_rows
from sb3_ppo_edu.lab.speed.cases import (
    ALGORITHMS,
    CASES,
    FULL_GRID,
    QUICK_CASES,
    QUICK_GRID,
    REFERENCE,
    quick_version,
    rotated,
)
from sb3_ppo_edu.lab.speed.grid import measure_grid
from sb3_ppo_edu.lab.speed.rows import (
    END_TO_END_FILE,
    GRID_FILE,
    SPLIT_FILE,
    Conditions,
    EndToEndRow,
    GridRow,
    SplitRow,
    Tables,
    check_same_conditions,
    conditions,
    read_tables,
)
from sb3_ppo_edu.lab.speed.runs import measure_end_to_end, measure_split

ENVIRONMENT = {
    **ONE_THREAD,
    # JAX has thread pools of its own; NPROC is where XLA looks for their size.
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}
"""Environment variables that libraries read when they are imported."""

SPLIT_REPETITIONS = 3
"""Trainings with stopwatches inside; the split needs fewer than the ratios, which are the result."""

FILES: dict[str, tuple[str, type[Conditions]]] = {
    "end to end": (END_TO_END_FILE, EndToEndRow),
    "split": (SPLIT_FILE, SplitRow),
    "grid": (GRID_FILE, GridRow),
}
"""File and class of the rows of each kind of job."""


@dataclass(frozen=True)
class Job:
    """
    One measurement in a process of its own.

    :param kind: "end to end", "split" or "grid"
    :param size: "full" or "quick"
    :param case: key of :data:`CASES`; none for the grid
    :param algorithm: key of :data:`ALGORITHMS`; none for the grid
    :param repetition: index, the seed too
    :param width: units of each hidden layer, for the grid
    :param depth: hidden layers of each tower, for the grid
    """

    kind: str
    size: str
    case: str = ""
    algorithm: str = ""
    repetition: int = 0
    width: int = 0
    depth: int = 0

    def __str__(self) -> str:
        """Describe it in a few words."""
        if self.kind == "grid":
            return f"grid, {self.depth} layers of {self.width}"
        return f"{self.kind}, {self.case}, {self.algorithm}, repetition {self.repetition}"


@dataclass(frozen=True)
class Plan:
    """
    What to measure.

    :param cases: keys of :data:`CASES`
    :param algorithms: keys of :data:`ALGORITHMS`
    :param repetitions: trainings of each algorithm in each case, ≥ 1
    :param quick: shorten everything; the numbers are no result
    :param grid: measure single updates over the grid too
    """

    cases: tuple[str, ...]
    algorithms: tuple[str, ...]
    repetitions: int
    quick: bool = False
    grid: bool = True

    @property
    def size(self) -> str:
        """Name of the size, as rows have it."""
        return "quick" if self.quick else "full"


def has_peers() -> bool:
    """
    Find out whether SBX is installed.

    :return: whether it can be imported
    """
    return util.find_spec("sbx") is not None


def make_plan(
    cases: Sequence[str] | None, algorithms: Sequence[str] | None, repetitions: int | None, *, quick: bool, grid: bool
) -> Plan:
    """
    Complete and check what to measure.

    :param cases: keys of :data:`CASES`; None for all, or the quick ones
    :param algorithms: keys of :data:`ALGORITHMS`; None for all that are installed. SB3's PPO is measured in any case.
    :param repetitions: trainings of each; None for five, or two where it shall be quick
    :param quick: shorten everything
    :param grid: measure single updates over the grid too
    :return: the plan
    :raises ValueError: if a name is unknown, or SBX is asked for and not installed
    """
    chosen = list(cases if cases is not None else QUICK_CASES if quick else CASES)
    if algorithms is None:
        algorithms = [name for name in ALGORITHMS if name != "sbx" or has_peers()]
    if REFERENCE not in algorithms:
        algorithms = [REFERENCE, *algorithms]
    for what, names, known in (("case", chosen, CASES), ("algorithm", algorithms, ALGORITHMS)):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{what} {name!r}: expected one of {', '.join(known)}{hint}")
    if "sbx" in algorithms and not has_peers():
        raise ValueError("algorithm 'sbx': SBX is not installed; its extra brings it: pip install 'sb3-ppo-edu[peers]'")
    if repetitions is None:
        repetitions = 2 if quick else 5
    # Without the repetitions that dict.fromkeys drops, a name given twice would be measured twice.
    return Plan(tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(algorithms)), repetitions, quick, grid)


def plan_jobs(plan: Plan) -> list[Job]:
    """
    Put the measurements in order: the algorithms in turn, so that a machine that slows down slows all of them.

    :param plan: what to measure
    :return: the measurements
    """
    jobs = []
    split_repetitions = min(plan.repetitions, 1 if plan.quick else SPLIT_REPETITIONS)
    for kind, repetitions in (("end to end", plan.repetitions), ("split", split_repetitions)):
        for repetition in range(repetitions):
            for case in plan.cases:
                for algorithm in rotated(plan.algorithms, repetition):
                    jobs.append(Job(kind, plan.size, case, algorithm, repetition))
    if plan.grid:
        grid = QUICK_GRID if plan.quick else FULL_GRID
        jobs += [Job("grid", plan.size, width=width, depth=depth) for depth in grid.depths for width in grid.widths]
    return jobs


def jobs_done(tables: Tables) -> set[Job]:
    """
    Find out what has been measured.

    :param tables: the rows of a folder
    :return: the measurements
    """
    return {
        *(Job("end to end", row.size, row.case, row.algorithm, row.repetition) for row in tables.end_to_end),
        *(Job("split", row.size, row.case, row.algorithm, row.repetition) for row in tables.split),
        *(Job("grid", row.size, width=row.width, depth=row.depth) for row in tables.grid),
    }


def open_folder(folder: Path, plan: Plan) -> list[Job]:
    """
    Make the folder, and find out what is left to measure.

    :param folder: where the CSV files are or shall be
    :param plan: what to measure
    :return: the measurements that the folder does not have, in order
    :raises ValueError: if the folder has rows of other code, another machine, …
    :raises OSError: if the folder cannot be made
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables, now = read_tables(folder), conditions(plan.size)
    check_same_conditions(folder / END_TO_END_FILE, tables.end_to_end, now)
    check_same_conditions(folder / SPLIT_FILE, tables.split, now)
    check_same_conditions(folder / GRID_FILE, tables.grid, now)
    done = jobs_done(tables)
    return [job for job in plan_jobs(plan) if job not in done]


def run_jobs(folder: Path, jobs: Sequence[Job]) -> Iterator[Job]:
    """
    Measure, and append the rows as they come.

    :param folder: where the CSV files are
    :param jobs: the measurements
    :return: each measurement, before it begins
    :raises ProcessError: if a process fails; the rows before it are kept
    """
    for job in jobs:
        yield job
        append_rows(folder / FILES[job.kind][0], run_in_child(job))


def run_in_child(job: Job) -> list[Conditions]:
    """
    Measure in a fresh process with one thread.

    :param job: the measurement
    :return: its rows
    :raises ProcessError: if the process fails, with the measurement and the end of what it complained about
    """
    try:
        found = json.loads(call_in_process(rows_as_json, asdict(job), ENVIRONMENT))
    except ProcessError as error:
        raise ProcessError(f"{job}: the process has failed, {error}") from error
    return [FILES[job.kind][1](**row) for row in found]


def measure(job: Job) -> list[Conditions]:
    """
    Measure in this process.

    :param job: the measurement
    :return: its rows
    """
    found: list[dict[str, Any]]
    if job.kind == "grid":
        found = measure_grid(QUICK_GRID if job.size == "quick" else FULL_GRID, job.width, job.depth)
    else:
        case = quick_version(CASES[job.case]) if job.size == "quick" else CASES[job.case]
        take = measure_end_to_end if job.kind == "end to end" else measure_split
        names = {"case": job.case, "algorithm": job.algorithm, "repetition": job.repetition}
        found = [{**names, **row} for row in take(case, ALGORITHMS[job.algorithm], job.repetition)]
    here = conditions(job.size, th.get_num_threads())
    if job.algorithm == "sbx":
        peers = ", ".join(f"{name} {metadata.version(name)}" for name in ("sbx-rl", "jax"))
        here = replace(here, versions=f"{here.versions}, {peers}")
    return [FILES[job.kind][1](**row, **asdict(here)) for row in found]


def rows_as_json(**job: Any) -> str:
    """
    Measure in this process.

    :param job: the measurement, by the names of :class:`Job`
    :return: its rows as JSON
    """
    return json.dumps([asdict(row) for row in measure(Job(**job))])
