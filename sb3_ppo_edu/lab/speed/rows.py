"""The rows of the speed experiment, and the conditions they were measured under."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from sb3_ppo_edu.lab.rows import machine, read_rows
from sb3_ppo_edu.lab.speed.cases import CASES, FULL_GRID, QUICK_GRID
from sb3_ppo_edu.training.settings import versions

MEASURED_ROOMS = (
    "algorithms",
    "rollouts",
    "engines",
    "functional",
    "policies",
    "vec_env",
)
"""The code that is measured. Rows of other code are not mixed with its rows."""

END_TO_END_FILE, SPLIT_FILE, GRID_FILE, FURTHER_FILE = "end_to_end.csv", "split.csv", "grid.csv", "further.csv"


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """
    What a measurement depends on beside its settings.

    :param size: "full" or "quick"
    :param threads: torch threads
    :param machine: processor and system in words
    :param versions: of the libraries
    :param code: fingerprint of :data:`MEASURED_ROOMS` and :data:`CASES`
    """

    size: str
    threads: int
    machine: str
    versions: str
    code: str


@dataclass(frozen=True, kw_only=True)
class EndToEndRow(Conditions):
    """
    What one training took, from the call of ``learn`` to its return.

    :param case: key of :data:`CASES`
    :param algorithm: key of :data:`ALGORITHMS`
    :param repetition: index, the seed too
    :param steps: environment steps
    :param wall_seconds: wall-clock time
    :param cpu_seconds: processor time of the process, all threads together
    :param compile_seconds: of the wall-clock time, what a just-in-time compiler took
    :param memory_before_mib: resident memory before ``learn``
    :param memory_peak_mib: largest resident memory of the process
    """

    case: str
    algorithm: str
    repetition: int
    steps: int
    wall_seconds: float
    cpu_seconds: float
    compile_seconds: float
    memory_before_mib: float
    memory_peak_mib: float


@dataclass(frozen=True, kw_only=True)
class SplitRow(Conditions):
    """
    What one part of a training took, measured with stopwatches inside it.

    :param case: key of :data:`CASES`
    :param algorithm: key of :data:`ALGORITHMS`, or "floor" for what the fused run's work takes at least
    :param repetition: index, the seed too
    :param part: "environment", "acting", "advantages", "update" or "rest", and "without stopwatches" for the kernels' whole
        training without any; of the floor "environment", "acting", "update", and
        "bare environment" for the environments stepped without a vector environment around them
    :param seconds: wall-clock time
    """

    case: str
    algorithm: str
    repetition: int
    part: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class GridRow(Conditions):
    """
    What one update, or one step of acting, takes.

    :param kind: "update" or "acting"
    :param engine: "sb3", "autograd", "fused", "fused-v3" for the kernels without AVX-512, or "floor" for the bare matrix
        products
    :param width: units of each hidden layer
    :param depth: hidden layers of each tower
    :param rows: batch size or number of environments
    :param repeats: measurements
    :param microseconds: their median
    :param lowest: their minimum
    :param highest: their maximum
    """

    kind: str
    engine: str
    width: int
    depth: int
    rows: int
    repeats: int
    microseconds: float
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class FurtherRow(Conditions):
    """
    What else takes time.

    :param kind: "import", "updates" or "callbacks", see :mod:`~sb3_ppo_edu.lab.speed.further`
    :param case: key of :data:`CASES`; none for imports
    :param algorithm: key of :data:`ALGORITHMS`; none for imports
    :param repetition: index, the seed too
    :param part: what was measured
    :param seconds: wall-clock time
    """

    kind: str
    case: str
    algorithm: str
    repetition: int
    part: str
    seconds: float


def fingerprint() -> str:
    """
    Tell versions of the measured code apart.

    :return: twelve hexadecimal digits
    """
    package = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256(repr((CASES, FULL_GRID, QUICK_GRID)).encode())
    for room in MEASURED_ROOMS:
        place = package / room
        for path in sorted(path for ending in ("*.py", "*.c", "*.h") for path in place.rglob(ending)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def conditions(size: str, threads: int = 1) -> Conditions:
    """
    Find out what measurements made now depend on.

    :param size: "full" or "quick"
    :param threads: torch threads
    :return: the conditions
    """
    return Conditions(
        size=size,
        threads=threads,
        machine=machine(),
        versions=", ".join(f"{name} {number}" for name, number in versions().items()),
        code=fingerprint(),
    )


def check_same_conditions(path: Path, rows: Iterable[Conditions], expected: Conditions) -> None:
    """
    Refuse to add to rows that were measured under other conditions.

    :param path: the file they are in
    :param rows: the rows that are there
    :param expected: the conditions of now
    :raises ValueError: naming the condition
    """
    for row in rows:
        for one in fields(Conditions):
            found, now = getattr(row, one.name), getattr(expected, one.name)
            # A row of SBX or CleanRL names their versions behind ours.
            if found != now and not (one.name == "versions" and found.startswith(f"{now}, ")):
                raise ValueError(
                    f"{path}: its rows have {one.name} {found!r}, expected {now!r}, and rows of both do not compare; move the "
                    "files of this folder away, or name another folder"
                )


class Tables(NamedTuple):
    """
    The rows of a folder.

    :param end_to_end: of the trainings
    :param split: of their parts
    :param grid: of single updates
    :param further: of what else takes time
    """

    end_to_end: list[EndToEndRow]
    split: list[SplitRow]
    grid: list[GridRow]
    further: list[FurtherRow]

    def by_file(self) -> dict[str, Sequence[Conditions]]:
        """
        Name the files.

        :return: the rows of each
        """
        files: dict[str, Sequence[Conditions]] = {END_TO_END_FILE: self.end_to_end, SPLIT_FILE: self.split}
        return {**files, GRID_FILE: self.grid, FURTHER_FILE: self.further}


def read_tables(folder: Path) -> Tables:
    """
    Read all rows of a folder.

    :param folder: where the CSV files are
    :return: the rows; none of those whose file is not there
    :raises ValueError: if a file has other columns
    """
    return Tables(
        read_rows(folder / END_TO_END_FILE, EndToEndRow),
        read_rows(folder / SPLIT_FILE, SplitRow),
        read_rows(folder / GRID_FILE, GridRow),
        read_rows(folder / FURTHER_FILE, FurtherRow),
    )
