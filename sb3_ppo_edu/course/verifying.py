"""
What has to hold before notebooks are handed out.

Generated files are current and valid, no line of a solution is in a student's notebook, a student's notebook runs until its
first TODO and stops there with a sentence that says what to do, and a solution notebook runs to its end, without an error or a
warning from our code, and with a tick under every exercise.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from sb3_ppo_edu.course.building import (
    BEGIN,
    END,
    SOLUTIONS,
    STUDENT,
    Lesson,
    built_files,
    make_notebook,
    orphans,
    read_lessons,
    solution_lines,
)
from sb3_ppo_edu.course.forms import forms

SHORT_VARIABLE = "SB3_EDU_SHORT"
"""Environment variable that makes lessons train for a moment only."""
CELL_SECONDS = 120.0
NOTEBOOK_SECONDS = 240.0
"""In its short mode a lesson takes some ten seconds; a machine that has other things to do may take several times that."""
OUTPUT_SECONDS = 30
"""How long to wait for the outputs of a cell that has ended; nbclient's own 4 seconds lose them where the machine is busy."""
LEAST_TELLING, LEAST_TOKENS = 15, 12
"""Characters of a line, and tokens of a formula, from which on they give something of a solution away."""
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
"""In Markdown."""

WATCH = """\
import warnings
# A warning on behalf of the lesson or the package is a defect of ours.
warnings.filterwarnings("error", module="__main__")
warnings.filterwarnings("error", module="sb3_ppo_edu")"""


@dataclass(frozen=True)
class Finding:
    """
    Something that must not be handed out.

    :param where: file, and cell if it is in one
    :param what: what is wrong, and what was expected
    """

    where: str
    what: str

    def __str__(self) -> str:
        """Write in one line."""
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Execution:
    """
    What came of running a notebook.

    :param notebook: with outputs
    :param error: name of the exception that stopped it, such as ``CellTimeoutError``, or empty
    :param message: the exception's message
    :param cell: number of the cell that raised it or was running, or -1
    """

    notebook: Any
    error: str = ""
    message: str = ""
    cell: int = -1


def verify(folder: Path, *, execute: bool = True, progress: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """
    Look at everything.

    :param folder: of the notebooks
    :param execute: run the notebooks too, which takes a minute or two
    :param progress: told what is looked at
    :return: what is wrong; empty if nothing is
    :raises SourceError: if a source is wrong
    """
    findings = list(stale(folder))
    for lesson in read_lessons(folder):
        progress(lesson.name)
        findings += invalid(lesson)
        findings += leaks(lesson)
        if execute:
            findings += fails_elsewhere(lesson)
            findings += solution_fails(lesson)
    return findings


def stale(folder: Path) -> Iterator[Finding]:
    """
    Find generated files that are not what the sources make.

    :param folder: of the notebooks
    :return: one finding for each
    :raises SourceError: if a source is wrong
    """
    files = built_files(folder)
    for path, text in files.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield Finding(str(path), "not what its source makes: run `sb3-edu course build`")
    for path in orphans(folder, files):
        yield Finding(str(path), "no source makes it: run `sb3-edu course build`")


def invalid(lesson: Lesson) -> Iterator[Finding]:
    """
    Find notebooks that are against nbformat's schema, or without a check for an exercise.

    :return: one finding for each
    """
    checks = [cell.metadata["check"] for cell in lesson.cells if "check" in cell.metadata]
    for name in lesson.exercises:
        if checks.count(name) != 1:
            yield Finding(lesson.name, f"exercise {name!r} has {checks.count(name)} check cells, expected one")
    for kind in (STUDENT, SOLUTIONS):
        try:
            nbformat.validate(make_notebook(lesson, kind))
        except nbformat.ValidationError as error:
            yield Finding(f"{kind}/{lesson.name}", f"invalid: {error}")


def leaks(lesson: Lesson) -> Iterator[Finding]:
    """
    Find solutions in the student's notebook: a line in any cell, however spaced, or a formula in the text by whatever names.

    :return: one finding for each line, or formula
    """
    handed_out = make_notebook(lesson, STUDENT)
    text = _without_spaces("".join(cell.source for cell in handed_out.cells))
    quoted = dict(_quoted([cell.source for cell in handed_out.cells if cell.cell_type == "markdown"]))
    for cell in lesson.cells:
        if "exercise" not in cell.metadata:
            continue
        where, name = f"{STUDENT}/{lesson.name}", cell.metadata["exercise"]
        lines = [line for line in solution_lines(cell.source) if len(line) >= LEAST_TELLING]
        found = [line for line in lines if _without_spaces(line) in text]
        yield from (Finding(where, f"holds a line of {name}: {line}") for line in found)
        if not found:
            for form in set(_formulas(textwrap.dedent(cell.source.split(BEGIN)[1].split(END)[0]))) & quoted.keys():
                yield Finding(where, f"quotes a formula of {name}: {quoted[form]}")


def _without_spaces(text: str) -> str:
    """Leave out what sets code apart in a text, and how it is spaced."""
    return re.sub(r"[\s`]", "", text)


def _quoted(texts: Iterable[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """List the formulas in Markdown, by their forms: in blocks of code, in a line of text, and in a line of its own."""
    for text in texts:
        for code in [*map("".join, CODE.findall(text)), *(line.lstrip("#>-* ") for line in text.splitlines())]:
            yield from ((form, code.strip()) for form in _formulas(textwrap.dedent(code)))


def _formulas(code: str) -> Iterator[tuple[str, ...]]:
    """List the forms of what is computed in a piece of code, but for what is so short that it tells nothing."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        value = getattr(node, "value", None)
        if isinstance(node, ast.stmt) and isinstance(value, ast.expr):
            (form,) = forms([ast.Expr(value)])
            if len(form) >= LEAST_TOKENS:
                yield tuple(form)


def run_notebook(
    notebook: Any, *, cell_seconds: float = CELL_SECONDS, notebook_seconds: float = NOTEBOOK_SECONDS
) -> Execution:
    """
    Run a notebook in its short mode, in an empty folder, until its end, its first error, or the end of its time.

    :param notebook: to run; it is changed
    :param cell_seconds: that each cell may take
    :param notebook_seconds: that all cells together may take
    :return: what came of it
    """
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WATCH))
    environment = {**os.environ, SHORT_VARIABLE: "1", "MPLBACKEND": "agg"}
    began: list[float] = []
    running = -1

    def started(cell: Any, cell_index: int) -> None:
        nonlocal running
        running = cell_index - 1  # without WATCH
        began.append(time.monotonic())

    def seconds_left(cell: Any) -> float:
        left = notebook_seconds - (time.monotonic() - began[0])
        return max(min(cell_seconds, left), 0.1)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook,
            timeout_func=seconds_left,
            iopub_timeout=OUTPUT_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            coalesce_streams=True,
            on_cell_execute=started,
        )
        try:
            # The kernel complains there that TCP is not encrypted.
            client.execute(env=environment, stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            return Execution(notebook, error.ename, error.evalue, running)
        except CellTimeoutError as error:
            limits = f"not done within its limits of {cell_seconds:g} s a cell and {notebook_seconds:g} s a notebook"
            return Execution(notebook, type(error).__name__, f"{limits}: {_first_line(notebook, running)}", running)
        except RuntimeError as error:  # the kernel died, or did not start
            return Execution(notebook, type(error).__name__, f"{error}: {_first_line(notebook, running)}", running)
    return Execution(notebook)


def _first_line(notebook: Any, cell: int) -> str:
    """Quote the first line of a cell, by which it is found again."""
    return repr(notebook.cells[cell + 1].source.partition("\n")[0])


def fails_elsewhere(lesson: Lesson) -> Iterator[Finding]:
    """
    Run the student's notebook, which has to stop at a TODO and nowhere else.

    :return: one finding if it does not
    """
    if not lesson.exercises:
        return
    execution = run_notebook(make_notebook(lesson, STUDENT))
    if execution.error != "NotImplementedError" or not execution.message.startswith("TODO: "):
        found = f"{execution.error}: {execution.message}" if execution.error else "no error at all"
        yield Finding(f"{STUDENT}/{lesson.name}, cell {execution.cell}", f"found {found}, expected to stop at a TODO")


def solution_fails(lesson: Lesson) -> Iterator[Finding]:
    """
    Run the solution notebook.

    :return: a finding for an error, and for every exercise without a tick
    """
    execution = run_notebook(make_notebook(lesson, SOLUTIONS))
    where = f"{SOLUTIONS}/{lesson.name}"
    if execution.error:
        yield Finding(f"{where}, cell {execution.cell}", f"{execution.error}: {execution.message}")
        return
    for cell in execution.notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            text = "".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
            if not text.startswith("✓"):
                yield Finding(where, f"{cell.metadata.nbgrader.grade_id}: expected ✓, found {text or 'nothing'}")
