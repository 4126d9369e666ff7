"""Would the tests notice? Mutants of the mathematics, the rollouts and the engines, drawn by a seed and judged by the tests.

``make mutants`` draws them, lets the tests judge each, and writes a row for each and a page. It can be stopped at any time:
the next call goes on where it was. ``--again`` judges once more those that survived, with the tests as they are then::

    make mutants
    make mutants ARGS="--number 40 --jobs 1"
    make mutants ARGS=--again

A mutant that changes nothing that a test could notice is named in equivalent_mutants.csv, with the reason.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType

from mutant_drawing import KERNEL_SHARE, ROOMS, Mutant, draw
from mutant_judging import Court, Verdict, hash_of, work
from mutant_sessions import PACKAGE, preload

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEED = 18
NUMBER = 200
EQUIVALENT = HERE / "equivalent_mutants.csv"
SORTS = ("killed", "survived", "equivalent", "not compiled", "not found")


@dataclass(frozen=True)
class Row:
    """A mutant and what became of it; see :class:`Mutant` and :class:`Verdict`."""

    number: int
    file: str
    kind: str
    first: int
    last: int
    before: str
    after: str
    outcome: str
    by: str
    tests: int
    seconds: float

    @property
    def mutant(self) -> Mutant:
        """The mutant."""
        return Mutant(*(getattr(self, name) for name in Mutant.__dataclass_fields__))


def read_rows(path: Path) -> list[Row]:
    """Read what :func:`write_rows` has written; nothing where there is no file."""
    if not path.exists():
        return []
    numbers = {"number": int, "first": int, "last": int, "tests": int, "seconds": float}
    with path.open(encoding="utf-8", newline="") as file:
        found = csv.DictReader(file)
        return [Row(**{name: numbers.get(name, str)(value) for name, value in row.items()}) for row in found]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows in the mutants' order, in one step."""
    beside = path.with_suffix(".new")
    with beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.number))
    os.replace(beside, path)


def reasons(path: Path = EQUIVALENT) -> dict[tuple[str, str, str], str]:
    """
    Read which mutants change nothing that a test could notice.

    :param path: file with the columns file, before, after and reason
    :return: the reason, by file and text
    """
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["file"], row["before"], row["after"]): row["reason"] for row in csv.DictReader(file)}


# -- the page ------------------------------------------------------------------------------------------------------------


def sort_of(row: Row, equivalent: dict[tuple[str, str, str], str]) -> str:
    """Say what a row counts as: a mutant that a test kills is not equivalent, whoever says so."""
    known = (row.file, row.before, row.after) in equivalent
    return "equivalent" if known and row.outcome == "survived" else row.outcome


def rate(sorts: Sequence[str]) -> str:
    """Give the share that was killed of those that could be, in percent."""
    killed, survived = sorts.count("killed"), sorts.count("survived")
    return f"{100 * killed / (killed + survived):.1f} %" if killed + survived else "-"


def table(title: str, groups: dict[str, list[str]]) -> list[str]:
    """Write a table with a line for each group and one for all."""
    lines = [f"| {title} | drawn | equivalent | not compiled | killed | survived | killed of the others |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    everything = [sort for group in groups.values() for sort in group]
    for name, sorts in [*sorted(groups.items()), ("all", everything)]:
        counts = [len(sorts), *(sorts.count(sort) for sort in ("equivalent", "not compiled", "killed", "survived"))]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {rate(sorts)} |")
    return lines


def code(text: str) -> str:
    """Write code into a table's cell."""
    return f"`` {text} ``".replace("|", "\\|")


def page(rows: Sequence[Row], equivalent: dict[tuple[str, str, str], str], seed: int, jobs: int) -> str:
    """
    Write the page.

    :param rows: one for each mutant
    :param equivalent: what :func:`reasons` reads
    :param seed: of the draw
    :param jobs: processes
    :return: Markdown
    """
    by_room: dict[str, list[str]] = {}
    by_kind: dict[str, list[str]] = {}
    for row in rows:
        by_room.setdefault(row.mutant.room, []).append(sort_of(row, equivalent))
        by_kind.setdefault(row.kind, []).append(sort_of(row, equivalent))
    hours = sum(row.seconds for row in rows) / 3600
    of_sort = {sort: [row for row in rows if sort_of(row, equivalent) == sort] for sort in SORTS}
    lines = [
        "# Would the tests notice?",
        "",
        f"{len(rows)} mutants of {', '.join(f'`{room}/`' for room in ROOMS)}, drawn with seed {seed}, 1 in {KERNEL_SHARE} of",
        "the kernels in C: each is the package with one operator, comparison, constant, sign, condition, function or call",
        "changed. A mutant is killed by a test that fails, a process that dies, or time that runs out.",
        "",
        *table("room", by_room),
        "",
        *table("what is changed", by_kind),
        "",
        "Not compiled are mutants of the kernels that the compiler refuses.",
        "",
        "## Survived",
        "",
        *([f"- {row.file}, line {row.first}: {code(row.mutant.change)}" for row in of_sort["survived"]] or ["None."]),
        "",
        "## Equivalent",
        "",
        "These survive, and no test could notice them, for the reason given:",
        "",
        "| file | change | reason |",
        "| --- | --- | --- |",
    ]
    for row in of_sort["equivalent"]:
        lines.append(
            f"| {row.file}, line {row.first} | {code(row.mutant.change)} | {equivalent[row.file, row.before, row.after]} |"
        )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "stable_baselines3", "numpy", "pytest"))
    lines += [
        "",
        f"Made by `make mutants` (`--number {len(rows)} --seed {seed}`): {hours:.1f} hours of sessions, {jobs} side by side,"
        f" on {platform.machine()}, {os.cpu_count()} cores, {platform.system()}; python {platform.python_version()},"
        f" {packages}. A row for each mutant is in mutants_rooms.csv, with the test that kills it.",
        "",
    ]
    return "\n".join(lines)


# -- running -------------------------------------------------------------------------------------------------------------


def judged(
    tree: Path, court: Callable[[Path], Court], mutants: Sequence[Mutant], jobs: int, done: dict[int, Row], rows: Path
) -> None:
    """
    Let processes judge mutants, and write the rows as they come.

    :param tree: the checkout
    :param court: makes a court in a folder
    :param mutants: those to judge
    :param jobs: processes
    :param done: rows by number; new ones are added
    :param rows: file that all rows are written to, whenever there is a new one
    """
    preload(tree)
    context = multiprocessing.get_context("fork")
    turn, begin, count = context.Value("i", 0), time.monotonic(), 0
    # Short names, since a socket's path must not be long.
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        processes, connections = [], list[Connection]()
        try:
            for job in range(jobs):
                receiving, sending = context.Pipe(duplex=False)
                place = Path(folder, str(job))
                place.mkdir()
                processes.append(context.Process(target=work, args=(partial(court, place), mutants, turn, sending)))
                processes[-1].start()
                sending.close()
                connections.append(receiving)
            while connections:
                for connection in wait(connections):
                    assert isinstance(connection, Connection)
                    try:
                        place_in_list, verdict = connection.recv()
                    except EOFError:
                        connections.remove(connection)
                        continue
                    count += 1
                    mutant = mutants[place_in_list]
                    done[mutant.number] = Row(**asdict(mutant), **asdict(verdict))
                    write_rows(rows, list(done.values()))
                    left = (time.monotonic() - begin) / count * (len(mutants) - count) / 60
                    report(mutant, verdict, f"{count}/{len(mutants)}, about {left:.0f} min left")
        finally:
            for process in processes:
                while process.is_alive():  # an exception in what Python does around a fork is lost
                    process.terminate()
                    process.join(2)
    if any(process.exitcode not in (0, -signal.SIGTERM) for process in processes) and count < len(mutants):
        raise SystemExit(f"{len(mutants) - count} mutants were not judged: a process ended early (see above)")


def report(mutant: Mutant, verdict: Verdict, progress: str) -> None:
    """Print a line."""
    what = f"{mutant.number:3d} {verdict.outcome:9s} {verdict.seconds:6.1f} s, {verdict.tests:3d} tests"
    print(f"[{progress}] {what}  {mutant.file}:{mutant.first} {mutant.change}  {verdict.by}", flush=True)


def stop(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """
    Draw, judge and write.

    :return: 1 if fewer than 95 % of the mutants that are not equivalent were killed, 130 if it was stopped, else 0
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="of the draw (default: %(default)s)")
    parser.add_argument("--number", type=int, default=NUMBER, help="mutants (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests for a mutant (default: %(default)s)")
    parser.add_argument("--reach", type=int, default=9, help="imports from a mutant to its tests (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="judge those that survived and are not equivalent once more")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for rows and page (default: %(default)s)")
    given = parser.parse_args()
    tree, build = given.tree.resolve(), given.tree.resolve() / "build" / "mutants"
    build.mkdir(parents=True, exist_ok=True)
    mutants = draw(tree / PACKAGE, given.seed, given.number)
    # Of these sources with this seed; more mutants of the same draw are the same ones and more.
    sources = (path for room in ROOMS for path in (tree / PACKAGE / room).rglob("*.*"))
    rows = build / f"rows-{given.seed}-{hash_of(tree, sources)}.csv"
    done = {row.number: row for row in read_rows(rows)}
    equivalent = reasons()
    again = {number for number, row in done.items() if given.again and sort_of(row, equivalent) == "survived"}
    todo = [mutant for mutant in mutants if mutant.number not in done or mutant.number in again]
    signal.signal(signal.SIGTERM, stop)
    try:
        if todo:
            court = partial(Court, tree, surveys=build, budget=given.budget, reach=given.reach)
            judged(tree, court, todo, given.jobs, done, rows)
    except KeyboardInterrupt:
        print(f"stopped; {len(done)} are judged, and the next call goes on", file=sys.stderr)
        return 130
    finished = [done[mutant.number] for mutant in mutants]
    write_rows(given.out / "mutants_rooms.csv", finished)
    (given.out / "mutants_rooms.md").write_text(page(finished, equivalent, given.seed, given.jobs), encoding="utf-8")
    sorts = [sort_of(row, equivalent) for row in finished]
    print(f"{rate(sorts)} of the mutants that are not equivalent were killed: {given.out / 'mutants_rooms.md'}")
    return int(sorts.count("killed") < 0.95 * (sorts.count("killed") + sorts.count("survived")))


if __name__ == "__main__":
    sys.exit(main())
