"""
From one text source per lesson to two notebooks: what students get, and the same with the solutions.

A source is a Python file in jupytext's percent format. A cell that begins with ``# %% exercise="NAME" todo="HINT"`` holds a
function whose body stands between ``### BEGIN SOLUTION`` and ``### END SOLUTION``; ``# %% check="NAME"`` is the cell that
checks it. Everything else is in both notebooks. What is built depends on the sources alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# It comes without types, and there are none elsewhere.
import jupytext  # type: ignore[import-untyped]
import nbformat

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.serialization.writing import write_atomically

REPOSITORY = ""
"""
Where the project lives on GitHub, as owner/name: badges and install cells are made from it. Empty as long as there is no
public address; notebooks then have no badge, and :func:`without_address` is what to tell whoever hands them out.
"""

SOURCES, STUDENT, SOLUTIONS = "sources", "student", "solutions"
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
NOTEBOOK_FORMAT = (4, 5)
PROJECT_KEY = "sb3_ppo_edu"
"""In a notebook's metadata: which lesson it is."""
CELL_WIDTH = 100
"""Characters in a line of code that every front end shows without scrolling sideways; notebooks/ruff.toml has it too."""
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"

INSTALL = """\
from importlib.util import find_spec
if not find_spec("sb3_ppo_edu"):
    {remedy}"""
FROM_ADDRESS = "%pip install -q git+https://github.com/{repository}"
NO_ADDRESS = 'raise ModuleNotFoundError("no sb3_ppo_edu: ask whoever gave you this lesson for it")'
INSTALL_TAG = "install"
"""Tag of the cell that installs the package where it is missing, which is no part of a lesson."""


class SourceError(ValueError):
    """A lesson's source is not what it has to be; the message says which, where and what was expected."""


@dataclass(frozen=True)
class Lesson:
    """
    A lesson's source.

    :param name: file name without ending, such as ``02_advantages``
    :param cells: its cells, as jupytext reads them
    """

    name: str
    cells: list[Any]

    @property
    def exercises(self) -> list[str]:
        """Names of its exercises, in their order."""
        return [cell.metadata["exercise"] for cell in self.cells if "exercise" in cell.metadata]

    @property
    def title(self) -> str:
        """Its first line, a heading."""
        return str(self.cells[0].source).partition("\n")[0]


def read_lessons(folder: Path) -> list[Lesson]:
    """
    Read and check all sources.

    :param folder: of the notebooks
    :return: the lessons, by name
    :raises SourceError: if there is none, or one of them is wrong
    """
    paths = sorted((folder / SOURCES).glob("*.py"))
    if not paths:
        raise SourceError(f"{folder / SOURCES}: no sources found, expected files such as 02_advantages.py")
    return [read_lesson(path) for path in paths]


def read_lesson(path: Path) -> Lesson:
    """
    Read and check one source.

    :raises SourceError: if a cell is wrong
    """
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    lesson = Lesson(path.stem, list(notebook.cells))
    seen: set[str] = set()
    for number, cell in enumerate(lesson.cells):
        where = f"{path.name}, cell {number}"
        exercise, checked = cell.metadata.get("exercise"), cell.metadata.get("check")
        for name in filter(None, (exercise, checked)):
            if name not in EXERCISES:
                raise SourceError(f"{where}: exercise {name!r}, expected one of {', '.join(EXERCISES)}")
        if exercise:
            seen.add(exercise)
            if "todo" not in cell.metadata:
                raise SourceError(f'{where}: exercise {exercise!r} without todo="HINT"')
            if cell.source.count(BEGIN) != 1 or cell.source.count(END) != 1:
                raise SourceError(f"{where}: expected one {BEGIN} and one {END}")
        elif BEGIN in cell.source:
            raise SourceError(f'{where}: {BEGIN} in a cell that is no exercise="NAME"')
        if checked and checked not in seen:
            raise SourceError(f"{where}: check of {checked!r} before its exercise")
    return lesson


def built_files(folder: Path) -> dict[Path, str]:
    """
    Build all notebooks in memory.

    :param folder: of the notebooks
    :return: text of each file
    :raises SourceError: if a source is wrong
    """
    files = {}
    for lesson in read_lessons(folder):
        for kind in (STUDENT, SOLUTIONS):
            files[folder / kind / f"{lesson.name}.ipynb"] = to_text(make_notebook(lesson, kind))
    return files


def without_address() -> str:
    """
    Say what is missing as long as the project's address is not set.

    :return: a sentence; empty if the address is set
    """
    if REPOSITORY:
        return ""
    return (
        "REPOSITORY in sb3_ppo_edu/course/building.py is not set: the notebooks have no Colab badge, and their install cell "
        "cannot install the package. Set it to owner/name, then run `sb3-edu course build`"
    )


def build(folder: Path) -> list[Path]:
    """
    Write all notebooks, and remove those whose source is gone.

    :param folder: of the notebooks
    :return: the files that were written
    :raises SourceError: if a source is wrong
    """
    files = built_files(folder)
    for path in orphans(folder, files):
        path.unlink()
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return list(files)


def orphans(folder: Path, files: dict[Path, str]) -> list[Path]:
    """
    List notebooks that no source makes.

    :param folder: of the notebooks
    :param files: what the sources make
    :return: the others
    """
    return [path for kind in (STUDENT, SOLUTIONS) for path in sorted((folder / kind).glob("*.ipynb")) if path not in files]


def make_notebook(lesson: Lesson, kind: str) -> Any:
    """
    Make one notebook.

    :param lesson: the source
    :param kind: for students, or with solutions
    """
    cells = []
    for number, cell in enumerate(_with_install_cell(lesson, kind)):
        source = strip_solution(cell.source, cell.metadata["todo"]) if _to_do(cell, kind) else cell.source
        made = nbformat.v4.new_code_cell(source) if cell.cell_type == "code" else nbformat.v4.new_markdown_cell(source)
        made.id = hashlib.sha256(f"{lesson.name} {number}".encode()).hexdigest()[:8]
        made.metadata = nbformat.from_dict(_metadata(cell.metadata))
        cells.append(made)
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.nbformat, notebook.nbformat_minor = NOTEBOOK_FORMAT
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            PROJECT_KEY: {"lesson": lesson.name},
        }
    )
    return notebook


def _to_do(cell: Any, kind: str) -> bool:
    """Whether the solution in a cell is left for the student."""
    return kind == STUDENT and "exercise" in cell.metadata


def _with_install_cell(lesson: Lesson, kind: str) -> Iterator[Any]:
    """Put the student's badge and the install cell behind the title, which is the first cell."""
    first, *rest = lesson.cells
    address = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{STUDENT}/{lesson.name}.ipynb"
    # None in the solutions: what nbgrader releases is made from these, and must not lead back to them.
    badge = f"\n\n[![Open in Colab]({BADGE})]({address})" if REPOSITORY and kind == STUDENT else ""
    yield nbformat.v4.new_markdown_cell(first.source + badge)
    remedy = FROM_ADDRESS.format(repository=REPOSITORY) if REPOSITORY else NO_ADDRESS
    yield nbformat.v4.new_code_cell(INSTALL.format(remedy=remedy), metadata={"tags": [INSTALL_TAG]})
    yield from rest


def strip_solution(source: str, todo: str) -> str:
    """
    Put a stub where the solution was.

    :param source: of the cell
    :param todo: what there is to do, in one line
    :return: the student's version
    """
    pattern = re.compile(rf"^(?P<indent>[ ]*){BEGIN}.*?{END}[ ]*$", re.DOTALL | re.MULTILINE)
    return pattern.sub(lambda found: _stub(found["indent"], todo), source)


def _stub(indent: str, todo: str) -> str:
    """Write what stands in a solution's place, in one line if that is as wide as a cell's lines may be."""
    hint = json.dumps(f"TODO: {todo}", ensure_ascii=False)
    line = f"{indent}raise NotImplementedError({hint})"
    return line if len(line) <= CELL_WIDTH else f"{indent}raise NotImplementedError(\n{indent}    {hint}\n{indent})"


def solution_lines(source: str) -> list[str]:
    """
    List the lines between the marks of an exercise.

    :param source: of the cell
    :return: lines of code, without indentation
    """
    inside = source.split(BEGIN)[1].split(END)[0]
    return [line.strip() for line in inside.splitlines() if line.strip() and not line.strip().startswith("#")]


def _metadata(found: dict[str, Any]) -> dict[str, Any]:
    """Make nbgrader's metadata of an exercise's or a check's cell."""
    kept: dict[str, Any] = {key: found[key] for key in ("tags", "cellView", "jupyter") if key in found}
    if "exercise" in found:
        grading = {"grade": False, "grade_id": found["exercise"], "locked": False, "solution": True}
    elif "check" in found:
        points = EXERCISES[found["check"]].points
        grading = {"grade": True, "grade_id": f"check-{found['check']}", "locked": True, "points": points, "solution": False}
    else:
        return kept
    return {**kept, "nbgrader": {**grading, "schema_version": 3, "task": False}}


def to_text(notebook: Any) -> str:
    """
    Write a notebook in the one way that leaves no difference between two builds.

    :return: its text
    """
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
