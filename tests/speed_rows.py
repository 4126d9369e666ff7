"""
Made-up rows of the speed laboratory, with ratios to be worked out by hand, and the folder of the published ones.

The fixture is imported as ``tables as tables``, so that ruff does not take it for an unused name.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_edu.lab.rows import append_rows
from sb3_ppo_edu.lab.speed import rows
from sb3_ppo_edu.lab.speed import summary as numbers
from sb3_ppo_edu.lab.speed.further import ALONE, FIRST_UPDATE, LATER_UPDATES, THEIR_WORK, WITH_CALLBACKS
from sb3_ppo_edu.lab.speed.rows import Conditions, EndToEndRow, FurtherRow, GridRow, SplitRow, Tables
from sb3_ppo_edu.lab.speed.suite import Job

PUBLISHED = Path(__file__).resolve().parent.parent / "benchmarks" / "speed"
HERE = Conditions(size="full", threads=1, machine="an abacus, 2 cores", versions="sb3_ppo_edu 0, numpy 0", code="0123456789ab")


def training(case: str, algorithm: str, repetition: int, wall: float, **other: float) -> EndToEndRow:
    """
    Make up a row.

    :param case: key of the case
    :param algorithm: key of the algorithm
    :param repetition: index
    :param wall: seconds of wall clock
    :param other: other columns
    :return: the row
    """
    made_up: dict[str, Any] = {"cpu_seconds": 2 * wall, "compile_seconds": 0.0}
    made_up.update(memory_before_mib=300.0, memory_peak_mib=320.0, steps=1000, wall_seconds=wall)
    return EndToEndRow(case=case, algorithm=algorithm, repetition=repetition, **{**made_up, **other, **asdict(HERE)})


def split(case: str, algorithm: str, repetition: int, **seconds: float) -> list[SplitRow]:
    """
    Make up the rows of a training's parts.

    :param case: key of the case
    :param algorithm: key of the algorithm, or "floor"
    :param repetition: index
    :param seconds: of each part, with underscores for spaces
    :return: the rows
    """
    names = {"case": case, "algorithm": algorithm, "repetition": repetition}
    return [
        SplitRow(part=part.replace("_", " "), seconds=spent, **names, **asdict(HERE))  # type: ignore[arg-type]
        for part, spent in seconds.items()
    ]


def point(kind: str, engine: str, width: int, size: int, microseconds: float, depth: int = 2) -> GridRow:
    """
    Make up a point of the grid.

    :param kind: "update" or "acting"
    :param engine: name of the engine
    :param width: units
    :param size: batch size or number of environments
    :param microseconds: the median
    :param depth: layers
    :return: the row
    """
    measured = {"repeats": 3, "microseconds": microseconds, "lowest": 0.9 * microseconds, "highest": 2 * microseconds}
    return GridRow(kind=kind, engine=engine, width=width, depth=depth, rows=size, **measured, **asdict(HERE))  # type: ignore[arg-type]


def further(kind: str, case: str, algorithm: str, part: str, seconds: float) -> FurtherRow:
    """
    Make up a row of what else takes time.

    :param kind: "import", "updates" or "callbacks"
    :param case: key of the case
    :param algorithm: key of the algorithm
    :param part: what was measured
    :param seconds: of wall clock
    :return: the row
    """
    return FurtherRow(kind=kind, case=case, algorithm=algorithm, repetition=0, part=part, seconds=seconds, **asdict(HERE))


@pytest.fixture
def tables() -> Tables:
    """Rows of two cases, with ratios to be worked out by hand."""
    end_to_end = [
        *(training("cartpole-zoo", "sb3", index, wall) for index, wall in enumerate((8.0, 10.0, 12.0))),
        # ratios 4, 2, 3: median 3, from 2 to 4
        *(training("cartpole-zoo", "fused", index, wall) for index, wall in enumerate((2.0, 5.0, 4.0))),
        training("pendulum-zoo", "sb3", 0, 6.0),
        training("pendulum-zoo", "autograd", 0, 4.0, memory_peak_mib=330.4),
        training("pendulum-zoo", "sbx", 0, 8.0, compile_seconds=5.5),
    ]
    parts = [
        *split("cartpole-zoo", "sb3", 0, environment=2.0, acting=1.0, advantages=0.5, update=6.0, rest=0.5),
        *split("cartpole-zoo", "fused", 0, environment=1.0, acting=0.5, advantages=0.25, update=2.0, rest=0.25),
        *split("cartpole-zoo", "fused", 0, without_stopwatches=3.2),
        # 0.8 + 0.2 + 0.6 over 3.2: half of it; the bare environment has no part in it
        *split("cartpole-zoo", "floor", 0, environment=0.8, acting=0.2, update=0.6, bare_environment=0.7),
    ]
    costs = {"sb3": 2000.0, "autograd": 1600.0, "fused": 250.0, "floor": 40.0}
    points = [
        point(kind, engine, width, size, cost * width * size / 4096)
        for kind, sizes in (("update", (64, 1024)), ("acting", (1, 16)))
        for width in (64, 256)
        for size in sizes
        for engine, cost in costs.items()
        if (kind, engine, width, size) != ("update", "fused", 256, 1024)
    ]
    # SB3 takes 2000 * 64 = 128,000 there: a ratio of 0.8
    waits = [
        *(further("import", "", "", name, seconds) for name, seconds in (("stable_baselines3", 2.0), ("sb3_ppo_edu", 0.04))),
        *(further("updates", "cartpole-zoo", "fused", part, 0.004) for part in (FIRST_UPDATE, LATER_UPDATES)),
        # 1.8 of the 2.8 - 0.8 seconds: nine tenths of the speed
        further("callbacks", "cartpole-defaults", "fused", ALONE, 1.8),
        further("callbacks", "cartpole-defaults", "fused", WITH_CALLBACKS, 2.8),
        further("callbacks", "cartpole-defaults", "fused", THEIR_WORK, 0.8),
    ]
    return Tables(end_to_end, parts, [*points, point("update", "fused", 256, 1024, 160_000.0)], waits)


def save(tables: Tables, folder: Path) -> None:
    """
    Write rows as the suite does.

    :param tables: the rows
    :param folder: where
    """
    for name, found in tables.by_file().items():
        for row in found:
            append_rows(folder / name, [row])


def fake_child(job: Job) -> list[Conditions]:
    """
    Answer at once, as a process of the suite would.

    :param job: the measurement
    :return: made-up rows
    """
    here = asdict(rows.conditions(job.size))
    if job.kind == "end to end":
        found: list[Any] = [training(job.case, job.algorithm, job.repetition, 1.0)]
    elif job.kind == "split":
        parts = dict.fromkeys(numbers.PARTS, 1.0)
        found = split(job.case, job.algorithm, job.repetition, **parts)
    elif job.kind != "grid":
        found = [replace(further(job.kind, job.case, job.algorithm, "a part", 1.0), repetition=job.repetition)]
    else:
        engines = ("sb3", "autograd", "fused", "floor")
        kinds = ("update", "acting")
        found = [point(kind, engine, job.width, 64, 1.0, job.depth) for kind in kinds for engine in engines]
    return [replace(row, **here) for row in found]
