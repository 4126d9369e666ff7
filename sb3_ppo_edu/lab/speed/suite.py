"""Which measurements are made in which order, each in a fresh process, and what is left of them after an interruption."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
    STANDARD_CASES,
    quick_version,
    rotated,
)
from sb3_ppo_edu.lab.speed.further import measure_further
from sb3_ppo_edu.lab.speed.grid import measure_grid
from sb3_ppo_edu.lab.speed.peers import versions_of, why_missing
from sb3_ppo_edu.lab.speed.rows import (
    END_TO_END_FILE,
    FURTHER_FILE,
    GRID_FILE,
    SPLIT_FILE,
    Conditions,
    EndToEndRow,
    FurtherRow,
    GridRow,
    SplitRow,
    Tables,
    check_same_conditions,
    conditions,
    read_tables,
)
from sb3_ppo_edu.lab.speed.runs import measure_end_to_end, measure_split, why_not

ENVIRONMENT = {
    **ONE_THREAD,
    # JAX has thread pools of its own; NPROC is where XLA looks for their size.
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
}
"""Environment variables that libraries read when they are imported."""

FEW_REPETITIONS = 3
"""Of everything but the trainings whose ratios are the result."""

SPLIT_OF = (REFERENCE, "autograd", "numpy", "fused-dummy", "fused")
"""Who is measured with stopwatches inside."""

UPDATES_CASE, UPDATES_OF = "cartpole-zoo", (REFERENCE, "autograd", "numpy", "fused", "sbx")
"""Where, and of whom, first and later updates are timed."""

CALLBACKS_CASE = "cartpole-defaults"
"""Where callbacks are timed."""

FILES: dict[str, tuple[str, type[Conditions]]] = {
    "end to end": (END_TO_END_FILE, EndToEndRow),
    "split": (SPLIT_FILE, SplitRow),
    "grid": (GRID_FILE, GridRow),
    "import": (FURTHER_FILE, FurtherRow),
    "updates": (FURTHER_FILE, FurtherRow),
    "callbacks": (FURTHER_FILE, FurtherRow),
}
"""File and class of the rows of each kind of job."""


@dataclass(frozen=True)
class Job:
    """
    One measurement in a process of its own.

    :param kind: key of :data:`FILES`
    :param size: "full" or "quick"
    :param case: key of :data:`CASES`; none for the grid and imports
    :param algorithm: key of :data:`ALGORITHMS`; none for the grid and imports
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
        return ", ".join([*filter(None, (self.kind, self.case, self.algorithm)), f"repetition {self.repetition}"])


@dataclass(frozen=True)
class Plan:
    """
    What to measure.

    :param pairs: trainings, as a key of :data:`CASES` and one of :data:`ALGORITHMS`
    :param repetitions: trainings of each algorithm in each case, ≥ 1
    :param without_aims: the same for cases that are only reported
    :param quick: shorten everything; the numbers are no result
    :param grid: measure single updates over the grid too
    :param further: measure imports, first updates and callbacks too
    :param left_out: what is not measured, and why
    """

    pairs: tuple[tuple[str, str], ...]
    repetitions: int
    without_aims: int
    quick: bool = False
    grid: bool = True
    further: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """Name of the size, as rows have it."""
        return "quick" if self.quick else "full"

    @property
    def cases(self) -> tuple[str, ...]:
        """Keys of :data:`CASES`."""
        return tuple(dict.fromkeys(case for case, _ in self.pairs))

    def algorithms(self, case: str) -> list[str]:
        """Who trains in a case."""
        return [algorithm for one, algorithm in self.pairs if one == case]


def make_plan(
    cases: Sequence[str] | None,
    algorithms: Sequence[str] | None,
    repetitions: int | None,
    *,
    quick: bool,
    grid: bool,
    further: bool = True,
) -> Plan:
    """
    Complete and check what to measure.

    :param cases: keys of :data:`CASES`; None for all, or the quick ones
    :param algorithms: keys of :data:`ALGORITHMS`; None for those of each case that can be had here. SB3's PPO is measured in
        any case.
    :param repetitions: trainings of each; None for five, three of those that have no aims, or two where it shall be quick
    :param quick: shorten everything
    :param grid: measure single updates over the grid too
    :param further: measure imports, first updates and callbacks too
    :return: the plan
    :raises ValueError: if a name is unknown, or an algorithm is asked for that can't be had here
    """
    # Without repetitions: a name given twice would be measured twice.
    chosen = list(dict.fromkeys(cases if cases is not None else QUICK_CASES if quick else CASES))
    asked = list(dict.fromkeys([REFERENCE, *(ALGORITHMS if algorithms is None else algorithms)]))
    for what, names, known in (("case", chosen, CASES), ("algorithm", asked, ALGORITHMS)):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{what} {name!r}: expected one of {', '.join(known)}{hint}")
    pairs, left_out = [], []
    for name in asked:
        missing = why_missing(name)
        if missing and algorithms is not None:
            raise ValueError(f"algorithm {name!r}: {missing}")
        if missing:
            left_out.append(f"{name}: {missing}")
            continue
        for case in chosen:
            if algorithms is None and case not in ALGORITHMS[name].cases:
                continue
            if (reason := why_not(CASES[case], ALGORITHMS[name])) is None:
                pairs.append((case, name))
            else:
                left_out.append(f"{case}, {name}: {reason}")
    without_aims = repetitions or (2 if quick else FEW_REPETITIONS)
    return Plan(tuple(pairs), repetitions or (2 if quick else 5), without_aims, quick, grid, further, tuple(left_out))


def plan_jobs(plan: Plan) -> list[Job]:
    """
    Put the measurements in order: the algorithms in turn, so that a machine that slows down slows all of them.

    :param plan: what to measure
    :return: the measurements
    """
    jobs = []
    few = min(plan.repetitions, 1 if plan.quick else FEW_REPETITIONS)
    for kind, repetitions in (("end to end", plan.repetitions), ("split", few)):
        for repetition in range(repetitions):
            for case in plan.cases:
                if repetition >= plan.without_aims and not any(CASES[case].aims):
                    continue
                names = [name for name in plan.algorithms(case) if kind == "end to end" or has_split(case, name)]
                jobs += [
                    Job(kind, plan.size, case, name, repetition) for name in (rotated(names, repetition) if names else ())
                ]
    if plan.further:
        for repetition in range(few):
            jobs.append(Job("import", plan.size, repetition=repetition))
            timed = [("updates", UPDATES_CASE, name) for name in UPDATES_OF] + [("callbacks", CALLBACKS_CASE, "fused")]
            jobs += [Job(kind, plan.size, case, name, repetition) for kind, case, name in timed if (case, name) in plan.pairs]
    if plan.grid:
        grid = QUICK_GRID if plan.quick else FULL_GRID
        jobs += [Job("grid", plan.size, width=width, depth=depth) for depth in grid.depths for width in grid.widths]
    return jobs


def has_split(case: str, algorithm: str) -> bool:
    """
    Tell whether it is measured where the time of a training goes: for the kernels always, for others in the standard cases.

    :param case: key of :data:`CASES`
    :param algorithm: key of :data:`ALGORITHMS`
    """
    return algorithm == "fused" or (case in STANDARD_CASES and algorithm in SPLIT_OF)


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
        *(Job(row.kind, row.size, row.case, row.algorithm, row.repetition) for row in tables.further),
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
    for name, rows in tables.by_file().items():
        check_same_conditions(folder / name, rows, now)
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
    names = {"case": job.case, "algorithm": job.algorithm, "repetition": job.repetition}
    case = CASES.get(job.case)
    if case is not None and job.size == "quick":
        case = quick_version(case)
    algorithm = ALGORITHMS.get(job.algorithm)
    if job.kind == "grid":
        found = measure_grid(QUICK_GRID if job.size == "quick" else FULL_GRID, job.width, job.depth)
    elif FILES[job.kind][1] is FurtherRow:
        measured = measure_further(job.kind, case, algorithm, job.repetition)
        found = [{"kind": job.kind, **names, **row} for row in measured]
    else:
        assert case is not None and algorithm is not None, f"{job}: no such training"
        take = measure_end_to_end if job.kind == "end to end" else measure_split
        found = [{**names, **row} for row in take(case, algorithm, job.repetition)]
    here = conditions(job.size, th.get_num_threads())
    here = replace(here, versions=here.versions + (versions_of(job.algorithm) if job.algorithm else ""))
    return [FILES[job.kind][1](**row, **asdict(here)) for row in found]


def rows_as_json(**job: Any) -> str:
    """
    Measure in this process.

    :param job: the measurement, by the names of :class:`Job`
    :return: its rows as JSON
    """
    return json.dumps([asdict(row) for row in measure(Job(**job))])
