"""The process that measures: ``python -m sb3_ppo_edu.lab.speed.child JOB``, started by ``suite``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import torch as th

from sb3_ppo_edu.lab.speed import grid, runs
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, FULL_GRID, QUICK_GRID, quick_version
from sb3_ppo_edu.lab.speed.rows import Conditions, conditions
from sb3_ppo_edu.lab.speed.suite import FILES, Job


def measure(job: Job) -> list[Conditions]:
    """
    Measure in this process.

    :param job: the measurement
    :return: its rows
    """
    found: list[dict[str, Any]]
    if job.kind == "grid":
        found = grid.measure_grid(QUICK_GRID if job.size == "quick" else FULL_GRID, job.width, job.depth)
    else:
        case = quick_version(CASES[job.case]) if job.size == "quick" else CASES[job.case]
        take = runs.measure_end_to_end if job.kind == "end to end" else runs.measure_split
        names = {"case": job.case, "algorithm": job.algorithm, "repetition": job.repetition}
        found = [{**names, **row} for row in take(case, ALGORITHMS[job.algorithm], job.repetition)]
    here = conditions(job.size, th.get_num_threads())
    if job.algorithm == "sbx":
        peers = ", ".join(f"{name} {metadata.version(name)}" for name in ("sbx-rl", "jax"))
        here = replace(here, versions=f"{here.versions}, {peers}")
    return [FILES[job.kind][1](**row, **asdict(here)) for row in found]


def main() -> None:
    """Measure what the argument says, with one thread, and print the rows as JSON in the last line."""
    th.set_num_threads(1)
    print(json.dumps([asdict(row) for row in measure(Job(**json.loads(sys.argv[1])))]))


if __name__ == "__main__":
    main()
