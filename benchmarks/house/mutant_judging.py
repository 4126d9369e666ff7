"""
Lets the tests judge mutants, in scratch copies of a checkout.

Every test file runs once as the checkout is, which says how long each of its tests takes, which of them fail anyway, and
which lines each of them reaches. A mutant then meets the tests that reach its statement, nearest test files first, quick
tests first, until one fails. If none does, the nearest files run as a whole, in processes of their own: what a test keeps for
others they reach without coming by, and a fork has memory that a new process has not.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from mutant_drawing import Mutant, is_kernel
from mutant_kernels import FUSED, Kernels
from mutant_sessions import PACKAGE, Session, fresh_session, session

FAR = re.compile(
    "adapters|backends|bombs|building|checkpoint|cli|course|damaged|distributed|doctor|envs|evaluation|exercises|faults"
    "|first_edition|folder|formatting|gpu|grading|hyperparameters|import_time|interrupts|inventory|judging|kernels_page|layout"
    "|lesson|mistakes|mutants|names_in|normalize|nothing_lost|observing|old_imports|packaging|plots|reading_path|reinforce"
    "|report|resume|run|sanitizers|saved|scale|sensitivity|settings|slicing|speed|statistics|suite|text_from|tuning|unpickler"
    "|untrusted|verdict|verifying|workers|wrappers|writing|zoo"
)
"""Beginnings of the names of tests of other rooms: a mutant meets one of these only where it is its module's nearest."""


# -- which tests are near ------------------------------------------------------------------------------------------------


def module_name(path: Path, root: Path) -> str:
    """Name a file's module."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path) -> dict[str, set[str]]:
    """
    Read which module imports which.

    :param root: of a checkout
    :return: modules of package and tests, with the modules of both that each names in an import or, for those that are looked
        up when they are asked for, in a string
    """
    files = {module_name(path, root): path for folder in (PACKAGE, "tests") for path in (root / folder).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                named |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.add(node.value.partition(":")[0])
        graph[name] = {module for module in named if module in files and module != name}
    return graph


def tests_by_distance(root: Path, graph: dict[str, set[str]], module: str) -> list[tuple[int, str]]:
    """
    Order the test files by how directly they import a module.

    :param root: of a checkout
    :param graph: what :func:`imports` says of it
    :param module: dotted name
    :return: number of imports between, 0 for a test of its name or its folder's, and test file; of the tests of other rooms
        only those that import the module themselves; those that don't import it at all are left out
    """
    distance, importers = {module: 0}, [module]
    while importers:
        importers = [name for name, named in graph.items() if name not in distance and named & set(importers)]
        distance |= dict.fromkeys(importers, max(distance.values()) + 1)
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        name, steps = path.stem.removeprefix("test_"), distance.get(module_name(path, root))
        if name in module.split(".")[2:]:
            found.append((0, path.relative_to(root).as_posix()))
        elif steps is not None and (steps == 1 or not FAR.match(name)):
            found.append((steps, path.relative_to(root).as_posix()))
    return sorted(found)


# -- judging -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """
    What became of a mutant.

    :param outcome: killed, survived, not compiled or not found
    :param by: the test that failed, or what ended the process
    :param tests: how many tests the mutant met
    :param seconds: how long it took
    """

    outcome: str
    by: str
    tests: int
    seconds: float


def copied(tree: Path, folder: Path) -> Path:
    """Copy a checkout without what need not be copied."""
    unneeded = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.html", ".*_cache", "runs", "build", "*.egg-info")
    return Path(shutil.copytree(tree, folder, ignore=unneeded, symlinks=True))


def hash_of(root: Path, sources: Iterable[Path]) -> str:
    """Give a short hash of sources below a folder."""
    digest = hashlib.sha256()
    for path in sorted(sources):
        if path.suffix in (".py", ".c", ".h"):
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class Court:
    """
    Two scratch copies of a checkout, one to make mutants in, one at a time, and one that stays as it is.

    :param tree: a checkout; it is copied and not changed
    :param folder: an empty one
    :param surveys: where what the tests reach is kept, for other courts and later runs
    :param budget: seconds of tests that a mutant meets at most, in processor time that they take without a mutant
    :param reach: imports between a mutant and the tests that it meets at most
    """

    def __init__(self, tree: Path, folder: Path, surveys: Path, budget: float, reach: int) -> None:
        self.folder, self.budget, self.reach = folder, budget, reach
        self.root, self.unchanged = copied(tree, folder / "m"), copied(tree, folder / "u")
        self.surveys = surveys
        self.graph = imports(self.root)
        self.survey: Callable[[str], Session] = cache(self._survey)

    @cached_property
    def shared(self) -> list[Path]:
        """What every test file depends on: the package, and the tests' helpers."""
        tests = (path for path in (self.unchanged / "tests").rglob("*.py") if not path.name.startswith("test_"))
        return [*(self.unchanged / PACKAGE).rglob("*.*"), *tests]

    @cached_property
    def kernels(self) -> Kernels:
        """What builds the kernels of the copy that mutants are made in."""
        sources = self.unchanged / FUSED / "csrc"
        return Kernels(self.root, self.folder, self.surveys / f"objects-{hash_of(sources, sources.iterdir())}")

    def _survey(self, file: str) -> Session:
        """Run a test file without a mutant, once whoever asks."""
        kept = self.surveys / f"{Path(file).stem}-{hash_of(self.unchanged, [*self.shared, self.unchanged / file])}.json"
        with kept.with_suffix(".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                found = session(self.unchanged, self.folder, file, 600, trace=True)
                kept.write_text(json.dumps(asdict(found)), encoding="utf-8")
                if found.failed:
                    print(f"{file}: fail without a mutant and are left out: {' '.join(found.failed)}", flush=True)
        return Session(**json.loads(kept.read_text(encoding="utf-8")))

    @cached_property
    def cases(self) -> Path:
        """Calls of the kernels, written down by their tests, which the sanitizers repeat."""
        kept = self.surveys / f"cases-{hash_of(self.unchanged, self.shared)}"
        with kept.with_suffix(".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                if sanitize(self.unchanged):
                    raise RuntimeError("make sanitize: it finds faults without a mutant")
                written = self.unchanged / "build" / "cases"
                written.mkdir(parents=True, exist_ok=True)  # without gcc there are none
                shutil.move(written, kept)
        return kept

    def reaching(self, mutant: Mutant, file: str) -> list[str]:
        """List the tests of a file that reach a mutant's statement and pass without it, quick ones first."""
        survey, place, lines = self.survey(file), mutant.file, range(mutant.first, mutant.last + 1)
        if is_kernel(mutant.file):
            place, lines = self.calls_of_kernels
        reached = survey.lines.get(place, {})
        tests = {test for line in lines for test in reached.get(str(line), [])}
        passing = [test for test in survey.seconds if test not in survey.failed and ("" in tests or test in tests)]
        return sorted(passing, key=lambda test: survey.seconds[test])

    @cached_property
    def calls_of_kernels(self) -> tuple[str, range]:
        """Where whoever calls a kernel comes by."""
        tree = ast.parse((self.root / FUSED / "library.py").read_text(encoding="utf-8"))
        [function] = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "function")
        return "engines/fused/library.py", range(function.body[0].lineno, (function.end_lineno or 0) + 1)

    @contextmanager
    def made(self, mutant: Mutant) -> Iterator[str | None]:
        """Make a mutant; while it is entered it is there. Gives why it could not be made, or None."""
        path = self.root / PACKAGE / mutant.file
        source = path.read_text(encoding="utf-8")
        mutated = mutant.made(source)
        if mutated is None:
            yield "not found"
            return
        kernel = is_kernel(mutant.file) and self.kernels
        try:
            write(path, mutated)
            yield "not compiled" if kernel and kernel.rebuild(path) else None
        finally:
            write(path, source)
            if kernel:
                kernel.restore()

    def judge(self, mutant: Mutant) -> Verdict:
        """
        Let the tests judge a mutant.

        :param mutant: the mutant
        :return: what became of it
        """
        begin, met = time.monotonic(), set[str]()

        def verdict(outcome: str, by: str = "") -> Verdict:
            return Verdict(outcome, by, len(met), round(time.monotonic() - begin, 1))

        with self.made(mutant) as obstacle:
            if obstacle:
                return verdict(obstacle)
            for wanted, slowest in self.sessions(mutant):
                met |= set(wanted)
                found = session(self.root, self.folder, wanted, int(20 + 3 * slowest), trace=False)
                if found.failed:
                    return verdict("killed", found.failed[0])
            for file in self.nearest(mutant):
                survey = self.survey(file)
                met |= set(survey.seconds) - set(survey.failed)
                cpu = int(60 + 3 * sum(survey.seconds.values()))
                if by := fresh_session(self.root, self.folder, file, cpu, survey.failed):
                    return verdict("killed", by)
            if is_kernel(mutant.file) and sanitize(self.root, self.cases):
                return verdict("killed", "make sanitize")
        return verdict("survived")

    def near(self, mutant: Mutant) -> list[tuple[int, str]]:
        """List the test files that a mutant may meet, with their distances."""
        source = f"{FUSED}/engine.py" if is_kernel(mutant.file) else f"{PACKAGE}/{mutant.file}"
        found = tests_by_distance(self.unchanged, self.graph, module_name(Path(source), Path()))
        return [one for one in found if one[0] <= self.reach]

    def nearest(self, mutant: Mutant) -> list[str]:
        """List the nearest test files, as many as the budget allows, and one at least: they run as a whole."""
        near, left, found = self.near(mutant), self.budget, list[str]()
        for steps, file in near:
            left -= sum(self.survey(file).seconds.values())
            if steps == near[0][0] and (left > 0 or not found):
                found.append(file)
        return found

    def sessions(self, mutant: Mutant) -> Iterator[tuple[list[str], float]]:
        """
        Choose the tests that reach a mutant, as many as its budget allows.

        :param mutant: the mutant
        :return: tests of one file, and how many seconds the slowest takes without it
        """
        left = self.budget
        for _, file in self.near(mutant):
            survey, wanted, slowest = self.survey(file), list[str](), 0.0
            for test in self.reaching(mutant, file):
                if survey.seconds[test] <= left:
                    wanted.append(test)
                    left, slowest = left - survey.seconds[test], survey.seconds[test]
            if wanted:
                yield wanted, slowest
            if left <= 0:
                return


def sanitize(root: Path, cases: Path | None = None) -> int:
    """Run the kernels of a scratch copy under the sanitizers, on cases or on those that it writes; 0 if all is well."""
    command = [sys.executable, "benchmarks/sanitize/sanitize.py", *(["--cases", str(cases)] if cases else [])]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False).returncode


def write(path: Path, source: str) -> None:
    """Write a source, and forget its byte code, which another text of the same length and second would pass for."""
    path.write_text(source, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def work(court: Callable[[], Court], mutants: Sequence[Mutant], turn: Any, rows: Any) -> None:
    """
    Judge mutants until none is left, in a process of its own.

    :param court: makes this process's court
    :param mutants: all mutants
    :param turn: number of the next one, shared with other processes
    :param rows: a connection that numbers and verdicts are sent through
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    own = court()
    while True:
        with turn.get_lock():
            place, turn.value = turn.value, turn.value + 1
        if place >= len(mutants):
            return
        rows.send((place, own.judge(mutants[place])))
