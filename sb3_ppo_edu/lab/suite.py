"""Many runs: which of them are missing in a folder, who runs them, and the tables of all that are done.

A folder holds, for each run that is done, ``<run's name>/result.json`` and ``evaluations.npz``; ``runs.csv`` and
``curves.csv`` are made from those, in an order that does not depend on who finished first. Whoever is killed at any moment
leaves complete files only, and the next call runs what is missing and repeats nothing. Rows whose result file is gone, as
in a clone of this repository, count as done too.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sb3_ppo_edu.lab.algorithms import RANDOM
from sb3_ppo_edu.lab.processes import ONE_THREAD, ProcessError, call_in_process
from sb3_ppo_edu.lab.rows import read_rows, write_rows
from sb3_ppo_edu.lab.runs import CurveRow, Result, Run, RunRow, check, execute
from sb3_ppo_edu.serialization.extras import need
from sb3_ppo_edu.serialization.writing import write_atomically

RESULT_FILE = "result.json"
LAST_ROLLOUT = 4_096
"""Steps that completing the last rollout may add to few; to many it adds a tenth at most."""
RUNS_FILE, CURVES_FILE, FAILURES_FILE = "runs.csv", "curves.csv", "failures.csv"


@dataclass(frozen=True)
class FailureRow:
    """
    A run that failed: a row of ``failures.csv``.

    :param run: name of the run
    :param error: the end of what it complained about
    """

    run: str
    error: str


@dataclass(frozen=True)
class Done:
    """
    A run that has ended.

    :param run: the run
    :param result: what it left, or None if it failed
    :param error: why it failed, or empty
    """

    run: Run
    result: Result | None
    error: str


Backend = Callable[[Sequence[Run]], Iterator[Done]]


def check_names(runs: Sequence[Run]) -> None:
    """
    Refuse runs that would share a folder.

    :param runs: all runs
    :raises ValueError: naming the first name that is there twice
    """
    names = Counter(run.name for run in runs)
    for name, count in names.items():
        if count > 1:
            raise ValueError(f"run {name!r}: found {count} runs of this name, expected one; give variants names")


def read_result(folder: Path, run: Run) -> Result | None:
    """
    Read what a run left.

    :param folder: the suite's folder
    :param run: the run
    :return: the result, or None if there is none
    :raises ValueError: if the file is of a run with other settings
    """
    path = folder / run.name / RESULT_FILE
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.get("run") != asdict(run):
        found = {key: value for key, value in (record.get("run") or {}).items() if value != asdict(run).get(key)}
        raise ValueError(f"{path}: it is of another run ({found}), expected {run}; move it away, or name another folder")
    try:
        return Result.from_json(json.dumps(record.get("result")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; another version has made it: move it away, or name another folder") from error


def keep_result(folder: Path, run: Run, result: Result) -> None:
    """
    Keep what a run left.

    :param folder: the suite's folder
    :param run: the run
    :param result: what it left
    """
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    result.save_evaluations(place)
    text = json.dumps({"run": asdict(run), "result": asdict(result)})
    # Last: with this file the run counts as done.
    write_atomically(place / RESULT_FILE, lambda path: path.write_text(text, encoding="utf-8"))


Rows = tuple[RunRow, list[CurveRow]]
"""What the tables hold of a run."""


def read_tables(folder: Path, runs: Sequence[Run]) -> dict[Run, Rows]:
    """
    Find the runs that the tables have rows of.

    :param folder: the suite's folder
    :param runs: all runs
    :return: their rows; none of a run whose settings or evaluation were others
    """
    curves: dict[tuple[object, ...], list[CurveRow]] = {}
    for point in read_rows(folder / CURVES_FILE, CurveRow):
        curves.setdefault(identity(point), []).append(point)
    rows = {identity(row): row for row in read_rows(folder / RUNS_FILE, RunRow)}
    found = {}
    for run in runs:
        row = rows.get(identity(run))
        if row is not None and is_of(row, run):
            found[run] = (row, curves.get(identity(run), []))
    return found


def kept_rows(folder: Path, runs: Sequence[Run]) -> dict[Run, Rows]:
    """
    Find the runs that are done: those that the tables have rows of, and those that have left their own results.

    :param folder: the suite's folder
    :param runs: all runs
    :return: their rows
    """
    rows = read_tables(folder, runs)
    for run in runs:
        result = read_result(folder, run)
        if result is not None:
            rows[run] = result.row, result.curve()
    return rows


def is_of(row: RunRow, run: Run) -> bool:
    """
    Tell whether a row is what a run would give, and not one with other settings, or a shorter or longer one.

    :param row: a row of the same identity
    :param run: the run
    :return: True if it is
    """
    same = (row.overrides, row.final_episodes) == (run.overrides, run.final_episodes)
    return same and (row.algorithm == RANDOM or run.steps <= row.steps <= 1.1 * run.steps + LAST_ROLLOUT)


def identity(one: Run | RunRow | CurveRow) -> tuple[object, ...]:
    """
    Say which run something belongs to.

    :param one: a run, or a row
    :return: what tells it from the other runs of a suite
    """
    return one.algorithm, one.env, one.settings, one.variant, one.seed


def write_tables(folder: Path, runs: Sequence[Run], rows: Mapping[Run, Rows], failures: Mapping[Run, str]) -> None:
    """
    Write the tables, in the order of the runs.

    :param folder: the suite's folder
    :param runs: all runs
    :param rows: of those that are done
    :param failures: of those that failed, why
    """
    done = [rows[run] for run in runs if run in rows]
    write_rows(folder / RUNS_FILE, [row for row, _ in done], RunRow)
    write_rows(folder / CURVES_FILE, [point for _, curve in done for point in curve], CurveRow)
    write_rows(folder / FAILURES_FILE, [FailureRow(run.name, failures[run]) for run in runs if run in failures], FailureRow)


def run_suite(
    folder: Path,
    runs: Sequence[Run],
    backend: Backend,
    report: Callable[[Done, int, int], None] = lambda *_: None,
    among: Sequence[Run] | None = None,
) -> list[RunRow]:
    """
    Run what is missing, and keep each result as it comes.

    :param folder: the suite's folder, made if need be
    :param runs: what to run
    :param backend: who runs them: :func:`in_processes` or :func:`on_ray`
    :param report: called after each run with it, the number that are done, and the number of all
    :param among: all runs that the tables are about, if these are more; rows that others of them have already stay
    :return: the rows of all runs that are done, in order; what failed is in ``failures.csv`` and tried again next time
    :raises ValueError: if a run cannot be, before anything is started
    """
    everything = runs if among is None else among
    for run in runs:
        check(run)
    check_names(everything)
    folder.mkdir(parents=True, exist_ok=True)
    rows = kept_rows(folder, everything)
    failures: dict[Run, str] = {}
    for done in backend([run for run in runs if run not in rows]):
        if done.result is None:
            failures[done.run] = done.error
        else:
            keep_result(folder, done.run, done.result)
            rows[done.run] = done.result.row, done.result.curve()
        write_tables(folder, everything, rows, failures)
        report(done, sum(run in rows for run in runs) + len(failures), len(runs))
    write_tables(folder, everything, rows, failures)
    return [rows[run][0] for run in runs if run in rows]


def in_processes(workers: int) -> Backend:
    """
    Run in processes on this machine, each with one thread.

    :param workers: processes at a time
    :return: the backend
    :raises ValueError: if there are none
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: expected a positive integer")

    def backend(runs: Sequence[Run]) -> Iterator[Done]:
        running: set[subprocess.Popen[str]] = set()
        pool = ThreadPoolExecutor(workers)
        futures = [pool.submit(run_in_child, run, running) for run in runs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # Reached early by Ctrl-C, or by an error of whoever takes the results.
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in futures):
                for process in list(running):
                    process.kill()
                time.sleep(0.02)

    return backend


def run_in_child(run: Run, running: set[subprocess.Popen[str]]) -> Done:
    """
    Run in a fresh process with one thread.

    :param run: the run
    :param running: processes that are alive, for whoever has to end them
    :return: the run with its result or its error
    """
    try:
        text = call_in_process(run_to_json, asdict(run), running=running)
    except ProcessError as error:
        return Done(run, None, str(error))
    return Done(run, Result.from_json(text), "")


def run_to_json(**settings: Any) -> str:
    """
    Run in the process that calls.

    :param settings: of the run, by name
    :return: its result as JSON
    """
    return execute(Run(**settings)).to_json()


def on_ray(address: str | None = None) -> Backend:
    """
    Run on a Ray cluster, one processor for each run.

    :param address: of the cluster, such as "auto" or "ray://host:10001"; None starts one on this machine
    :return: the backend
    :raises ImportError: if Ray is not installed, naming the extra
    """
    ray = need("ray", "ray", "--backend ray")

    def backend(runs: Sequence[Run]) -> Iterator[Done]:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        task = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ONE_THREAD})(run_to_json)
        waiting = {task.remote(**asdict(run)): run for run in runs}
        while waiting:
            (reference,), _ = ray.wait(list(waiting), num_returns=1)
            run = waiting.pop(reference)
            try:
                yield Done(run, Result.from_json(ray.get(reference)), "")
            except Exception as error:  # whatever the run or the cluster raised is the run's failure
                yield Done(run, None, "\n".join(str(error).splitlines()[-5:]))

    return backend
