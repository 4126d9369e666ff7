"""Would the tests notice? Seeded mutants of the mathematics and of the machine.

A mutant is the package with one operator, comparison, constant or sign changed. ``draw`` draws them from the files below,
by a written seed; ``run`` makes each in a scratch copy of a checkout, runs the tests, nearest first, and writes which failed::

    python benchmarks/house/mutants.py draw --out mutants.csv
    python benchmarks/house/mutants.py run mutants.csv --out before.csv --until 30
    python benchmarks/house/mutants.py run before.csv --only killed --tree OTHER_CHECKOUT --out after.csv

A mutant is known by its text, not by its file: it is looked for in the whole package, white space aside, so that the same list
serves after files have moved. A text that stands nowhere any more is reported as ``not found``; where it stands in several
places, each is a row.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = "sb3_ppo_edu"
SEED = 16

FILES = {
    "losses.py": (),
    "advantages.py": (),
    "distributions.py": (),
    "buffers.py": (),
    "policies.py": (),
    "engines/heads.py": (),
    "engines/layers.py": (),
    "engines/base.py": (),
    "engines/autograd.py": ("gradients", "_advantages"),
    "guard.py": (),
    "arguments.py": (),
}
"""Files that mutants are drawn from, each with the functions to draw from, where not from all."""

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.Pow: "*",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.And: "or",
    ast.Or: "and",
}
"""What each operator becomes."""

NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
"""What each function becomes."""

SPEED_ONLY = re.compile(
    r"FEW_|NUMPY_|fits_numpy|KEPT_BATCH|BLOCK|maxsize|stacklevel|_in_numpy|MAX_OBSERVATION_PARTS|_rows|_ones\b"
)
"""Lines that decide how fast something is and not what it is: their mutants are no defects."""

HARMLESS_ARGUMENTS = {"strict", "stacklevel", "copy", "validate_args", "maxsize", "retain_graph"}
"""Keyword arguments whose change no result shows."""

NEAR = (
    *("losses", "advantages", "distributions", "buffers", "policies", "guard"),
    *("engines", "fused", "ppo", "probes", "parity", "metrics"),
)
"""Tests of the mathematics, the machine and the algorithm by a word in their names: a mutant that the nearest tests let pass
meets these too."""


@dataclass(frozen=True)
class Mutant:
    """
    One change.

    :param number: its place in the list, from 1
    :param file: where it was drawn
    :param kind: operator, comparison, constant, sign or function
    :param before: a line or a few, which stand once in the package
    :param after: the same with the change
    """

    number: int
    file: str
    kind: str
    before: str
    after: str

    @cached_property
    def change(self) -> tuple[str, str, str]:
        """What stands before the change, what is replaced, and by what."""
        # By tokens: "<" that becomes "<=" is one that is replaced, wherever white space stands.
        before, after = (re.findall(r"\w+|\s+|[^\w\s]+", text) for text in (self.before, self.after))
        start = in_common(before, after)
        end = in_common(before[start:][::-1], after[start:][::-1])
        old, new = before[start : len(before) - end], after[start : len(after) - end]
        return "".join(before[:start]), "".join(old), "".join(new)


def in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Count the tokens with which both begin."""
    differ = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(one), len(other)))


@dataclass(frozen=True)
class Row:
    """
    What became of a mutant.

    :param place: file that it was made in
    :param outcome: killed, survived or not found
    :param by: the first test that failed
    :param seconds: how long the tests ran
    """

    number: int
    file: str
    kind: str
    before: str
    after: str
    place: str
    outcome: str
    by: str
    seconds: float


# -- drawing -------------------------------------------------------------------------------------------------------------


class Text:
    """
    A source file, with positions of the syntax tree as indices into its text.

    :param source: the text
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def index(self, line: int, column: int) -> int:
        """Turn a line from 1 and a column in bytes into an index."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Give the start and the end of an expression."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.index(node.lineno, node.col_offset), self.index(node.end_lineno, node.end_col_offset)


def statements(node: ast.AST, within: Sequence[str], inside: bool) -> Iterator[ast.AST]:
    """
    Walk over what a mutant may change.

    :param node: where to begin
    :param within: names of functions to stay in, or none for everywhere
    :param inside: whether ``node`` is in one of them
    :return: expressions; annotations, messages of errors and the like are left out
    """
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)):
        return
    inside = inside or (isinstance(node, ast.FunctionDef) and node.name in within)
    if inside:
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            harmless = isinstance(child, ast.keyword) and child.arg in HARMLESS_ARGUMENTS
            if isinstance(child, ast.AST) and not harmless:
                yield from statements(child, within, inside)


def changes(text: Text, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
    """
    List what one mutant may change at a node.

    :param text: its file
    :param node: a node of the syntax tree
    :return: kind, start and end of what is replaced, and by what
    """
    operands: list[ast.expr] = []
    operators: list[ast.AST] = []
    if isinstance(node, ast.BinOp):
        operands, operators = [node.left, node.right], [node.op]
    elif isinstance(node, ast.Compare):
        operands, operators = [node.left, *node.comparators], list(node.ops)
    elif isinstance(node, ast.BoolOp):
        operands, operators = node.values, [node.op] * (len(node.values) - 1)
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        start = text.span(node.target)[1]
        operator = re.match(r"\s*(\S+)=", text.source[start:])
        assert operator is not None
        yield "operator", start + operator.start(1), start + operator.end(1), OPERATORS[type(node.op)]
    for (left, right), operation in zip(pairwise(operands), operators, strict=True):
        if type(operation) not in OPERATORS:
            continue
        start, end = text.span(left)[1], text.span(right)[0]
        # Between two operands stand the operator and their parentheses.
        operator = re.search(r"[^\s()#]+(\s+(not|in))?", text.source[start:end])
        assert operator is not None
        kind = "comparison" if isinstance(node, ast.Compare) else "operator"
        yield kind, start + operator.start(), start + operator.end(), OPERATORS[type(operation)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign", text.span(node)[0], text.span(node.operand)[0], ""
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) or value == 0 else 2 * value
        yield "constant", *text.span(node), repr(changed)
    if isinstance(node, ast.Call):
        function = node.func
        name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
        if name in NAMES:
            end = text.span(function)[1]
            yield "function", end - len(name), end, NAMES[name]


def squeezed(source: str) -> str:
    """Leave out white space."""
    return "".join(source.split())


def draw(package: Path, seed: int, number: int) -> list[Mutant]:
    """
    Draw mutants, the files in turn.

    :param package: folder of the package
    :param seed: of the draw
    :param number: how many
    :return: the mutants, each with a text that stands once in the package
    """
    everything = "\n".join(squeezed(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py")))
    drawn: list[list[Mutant]] = []
    for file, within in FILES.items():
        text = Text((package / file).read_text(encoding="utf-8"))
        found: list[Mutant] = []
        for node in statements(ast.parse(text.source), within, inside=not within):
            for kind, start, end, new in changes(text, node):
                mutant = widened(text, start, end, new, everything, Mutant(0, file, kind, "", ""))
                if mutant is not None and not SPEED_ONLY.search(mutant.before):
                    found.append(mutant)
        random.Random(f"{seed} {file}").shuffle(found)
        drawn.append(found)
    mutants: list[Mutant] = []
    for turn in range(number):
        mutants += [of_file[turn] for of_file in drawn if turn < len(of_file)]
    return [replace(mutant, number=place) for place, mutant in enumerate(mutants[:number], start=1)]


def widened(text: Text, start: int, end: int, new: str, everything: str, mutant: Mutant) -> Mutant | None:
    """Take whole lines around a change, as many as it needs to stand once in the package; None if five are too few."""
    first = next(line for line, begin in enumerate(text.starts) if text.starts[line + 1] > start)
    last = next(line for line, begin in enumerate(text.starts) if text.starts[line + 1] >= end)
    while last - first < 5:
        begin, finish = text.starts[first], text.starts[last + 1]
        before = text.source[begin:finish]
        if everything.count(squeezed(before)) == 1:
            after = text.source[begin:start] + new + text.source[end:finish]
            return replace(mutant, before=before.strip("\n"), after=after.strip("\n"))
        if (last - first) % 2 or first == 0:
            last = min(last + 1, len(text.lines) - 1)
        else:
            first -= 1
    return None


# -- making --------------------------------------------------------------------------------------------------------------


def places(mutant: Mutant, package: Path) -> list[tuple[Path, str]]:
    """
    Find where a mutant can be made.

    :param mutant: the mutant
    :param package: folder of the package
    :return: each file that has its text, and that file's text with the change
    """
    head, old, new = mutant.change
    wanted, skipped, replaced = squeezed(mutant.before), len(squeezed(head)), len(squeezed(old))
    found = []
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        kept = [index for index, character in enumerate(source) if not character.isspace()]
        begin = "".join(source[index] for index in kept).find(wanted)
        if begin < 0:
            continue
        start = kept[begin + skipped]
        end = kept[begin + skipped + replaced - 1] + 1 if replaced else start
        found.append((path, source[:start] + new + source[end:]))
    return found


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


def tests_by_distance(root: Path, module: str) -> list[tuple[int, Path]]:
    """
    Order the test files by how directly they import a module.

    :param root: of a checkout
    :param module: dotted name
    :return: number of imports between, 0 for a test of the same name, and test file; those that don't import it are left out
    """
    graph, distance = imports(root), {module: 0}
    importers = [module]
    while importers:
        importers = [name for name, named in graph.items() if name not in distance and named & set(importers)]
        distance |= dict.fromkeys(importers, max(distance.values()) + 1)
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        if path.stem.removeprefix("test_") == module.rpartition(".")[2]:
            found.append((0, path))
        elif (steps := distance.get(module_name(path, root))) is not None:
            found.append((steps, path))
    return sorted(found, key=lambda one: one[0])


def stages(root: Path, module: str) -> tuple[list[Path], list[Path]]:
    """
    Choose the tests that a mutant meets.

    :param root: of a checkout
    :param module: the module that it is in
    :return: the nearest test files, and a wider set
    """
    ordered = tests_by_distance(root, module)
    closest = max(min((steps for steps, _ in ordered), default=0), 1)
    nearest = [path for steps, path in ordered if steps <= closest]
    wider = [path for _, path in ordered if path not in nearest and any(word in path.stem for word in NEAR)]
    return nearest, wider


# -- running -------------------------------------------------------------------------------------------------------------


def pytest(root: Path, files: Sequence[Path], limit: float, *options: str) -> tuple[int | None, list[str]]:
    """
    Run tests.

    :param root: of a checkout
    :param files: test files
    :param limit: seconds
    :param options: more of pytest's options
    :return: pytest's exit code, or None if the time was up; and the tests that failed
    """
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["--timeout", "120", *options, *(str(path.relative_to(root)) for path in files)]
    # Without byte code: a mutant of the same length, made in the same second, would not be noticed by the import system.
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return None, []
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, flags=re.MULTILINE)
    return process.returncode, failed or output.splitlines()[-1:] * (process.returncode not in (0, 5))


def judge(root: Path, place: Path, without: Sequence[str], limit: float) -> tuple[str, str]:
    """
    Let the tests judge a mutant that has been made.

    :param root: of the scratch copy
    :param place: the mutated file
    :param without: tests that fail anyway
    :param limit: seconds
    :return: outcome, and the test that failed
    """
    end = time.monotonic() + limit
    ignored = [option for test in without for option in ("--deselect", test)]
    for files in stages(root, module_name(place, root)):
        if not files or end - time.monotonic() < 1:
            continue
        code, failed = pytest(root, files, end - time.monotonic(), "-x", *ignored)
        if code not in (0, 5, None):
            return "killed", failed[0] if failed else f"pytest exits with {code}"
    return "survived", "" if time.monotonic() < end else f"in {limit:.0f} s"


def copied(tree: Path, folder: Path) -> Path:
    """Copy a checkout without what need not be copied."""
    unneeded = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", "*.png", "*.html", ".*_cache", "runs", "build", "*.egg-info"
    )
    return Path(shutil.copytree(tree, folder / "scratch", ignore=unneeded, symlinks=True))


def failing(root: Path, mutants: Sequence[Mutant], limit: float) -> list[str]:
    """Find the tests that fail in the scratch copy as it is."""
    modules = {path for mutant in mutants for path, _ in places(mutant, root / PACKAGE)}
    files = sorted({path for place in modules for stage in stages(root, module_name(place, root)) for path in stage})
    code, failed = pytest(root, files, limit)
    if code not in (0, 1):
        raise SystemExit(f"the tests of the unchanged copy: pytest exits with {code} within {limit:.0f} s, expected 0 or 1")
    return failed


def run(tree: Path, mutants: Sequence[Mutant], out: Path, limit: float, until: int) -> int:
    """
    Make the mutants one by one and write what becomes of them.

    :param tree: a checkout; it is copied and not changed
    :param mutants: in the order in which they are made
    :param out: CSV file that the rows are written into as they come
    :param limit: seconds for each mutant
    :param until: stop when so many are killed
    :return: how many were killed
    """
    killed = 0
    with tempfile.TemporaryDirectory() as folder, out.open("w", encoding="utf-8", newline="") as file:
        root = copied(tree, Path(folder))
        without = failing(root, mutants, 6 * limit)
        print(f"{len(without)} tests fail without a mutant and are left out: {' '.join(without)}", flush=True)
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        for mutant in mutants:
            if killed >= until:
                break
            rows = [Row(**asdict(mutant), place="", outcome="not found", by="", seconds=0.0)]
            if made := places(mutant, root / PACKAGE):
                rows = []
            for path, mutated in made:
                source, begin = path.read_text(encoding="utf-8"), time.monotonic()
                path.write_text(mutated, encoding="utf-8")
                try:
                    outcome, by = judge(root, path, without, limit)
                finally:
                    path.write_text(source, encoding="utf-8")
                place, seconds = str(path.relative_to(root / PACKAGE)), round(time.monotonic() - begin, 1)
                rows.append(Row(**asdict(mutant), place=place, outcome=outcome, by=by, seconds=seconds))
            killed += all(row.outcome == "killed" for row in rows)
            for row in rows:
                writer.writerow(asdict(row))
                head, old, new = mutant.change
                line = f"{head.splitlines()[-1].strip() if head else ''}[{old.strip()} → {new.strip()}]"
                print(f"{row.number:3d} {row.outcome:9s} {row.seconds:6.1f} s  {row.place or row.file}: {line}  {row.by}")
            file.flush()
            sys.stdout.flush()
    return killed


def read(path: Path, only: str | None) -> list[Mutant]:
    """Read a list of mutants, or the rows of a run; of the latter those with an outcome, each mutant once."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if only is None or row["outcome"] == only]
    found = {
        row["number"]: Mutant(int(row["number"]), *(row[name] for name in ("file", "kind", "before", "after"))) for row in rows
    }
    return list(found.values())


def main() -> int:
    """
    Draw or run.

    :return: 1 if of the mutants that were killed in the rows given to ``run`` one is not killed any more, else 0
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    drawing = verbs.add_parser("draw", help="draw a list of mutants")
    drawing.add_argument("--seed", type=int, default=SEED, help="of the draw (default: %(default)s)")
    drawing.add_argument("--number", type=int, default=88, help="how many (default: %(default)s)")
    running = verbs.add_parser("run", help="let the tests judge them")
    running.add_argument("list", type=Path, help="what draw, or another run, has written")
    running.add_argument("--only", help="of a run's rows those with this outcome, such as killed")
    running.add_argument("--limit", type=float, default=400.0, help="seconds for each mutant (default: %(default)s)")
    running.add_argument("--until", type=int, default=10**6, help="stop when so many are killed (default: never)")
    for verb in (drawing, running):
        verb.add_argument("--tree", type=Path, default=ROOT, help="the checkout (default: this one)")
        verb.add_argument("--out", type=Path, required=True, help="CSV file to write")
    given = parser.parse_args()
    if given.verb == "draw":
        with given.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(Mutant.__dataclass_fields__), lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(mutant) for mutant in draw(given.tree / PACKAGE, given.seed, given.number))
        return 0
    mutants = read(given.list, given.only)
    killed = run(given.tree.resolve(), mutants, given.out, given.limit, given.until)
    print(f"{killed} of {len(mutants)} mutants killed")
    return int(given.only == "killed" and killed < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
