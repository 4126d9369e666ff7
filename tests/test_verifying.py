"""Verifying: lessons give nothing away, run, and stop where a student has something to write; what does not is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from sb3_ppo_edu.course import slicing
from sb3_ppo_edu.course.building import (
    SOLUTIONS,
    STUDENT,
    Lesson,
    make_notebook,
)
from sb3_ppo_edu.course.verifying import fails_elsewhere, invalid, leaks, run_notebook, solution_fails
from tests.lessons import LESSONS, write_lesson


@pytest.fixture
def lesson(tmp_path: Path) -> Lesson:
    """A lesson with one exercise."""
    return write_lesson(tmp_path)


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_notebooks_are_valid_and_give_nothing_away(name: str) -> None:
    """Both notebooks hold to nbformat's schema, each exercise has one check, and students see no line of a solution."""
    assert [str(finding) for finding in (*invalid(LESSONS[name]), *leaks(LESSONS[name]))] == []


@pytest.mark.parametrize(
    "text",
    [
        "Hint: `outside = (ratio - 1.0).abs() > clip_range`",
        "Hint: outside=(ratio-1.0).abs() > `clip_range`",
        "Hint:\n\n```python\n  far_off = (r - 1).abs() > eps\n```",
        "> outside = \\\n> (ratio - 1.0).abs() > clip_range\n\nor `(r - 1).abs() > eps`",
        "    outside = (x - 1).abs() > y",
    ],
)
def test_leak_is_found(lesson: Lesson, text: str) -> None:
    """A solution that also stands in the text is found, spaced as it likes, in a block or a line, by other names too."""
    lesson.cells.append(nbformat.v4.new_markdown_cell(text))
    (finding,) = leaks(lesson)
    assert "clip_fraction" in str(finding)


@pytest.mark.parametrize("text", [r"$|r_t - 1| > \epsilon$", "`(ratio - 1.0)`", "`a = a - b`", "Count those outside."])
def test_what_gives_nothing_away_is_none(lesson: Lesson, text: str) -> None:
    """Mathematics, a part of a line, and words are no leak."""
    lesson.cells.append(nbformat.v4.new_markdown_cell(text))
    assert list(leaks(lesson)) == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_solution_runs_without_error_or_warning(name: str) -> None:
    """In its short mode the solution notebook runs to its end, with a tick under every exercise."""
    assert [str(finding) for finding in solution_fails(LESSONS[name])] == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_student_notebook_differs_in_exercises_only(name: str) -> None:
    """What is handed out is the solution notebook, which runs, but for its exercises and a sentence on what it is."""
    student, solution = (make_notebook(LESSONS[name], kind).cells for kind in (STUDENT, SOLUTIONS))
    assert len(student) == len(solution)
    differing = [mine.source for mine, theirs in zip(student, solution, strict=True) if mine.source != theirs.source]
    code = [source for source in differing if source.startswith("def ")]
    assert len(code) == len(LESSONS[name].exercises) and len(differing) <= len(code) + 1


SHORTEST = "03_clipped_objective"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != SHORTEST else ()) for name in sorted(LESSONS)]
)
def test_student_notebook_stops_at_its_first_todo(name: str) -> None:
    """What is handed out runs until its first TODO, and stops there with a sentence that says what to do."""
    assert [str(finding) for finding in fails_elsewhere(LESSONS[name])] == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_stubs_fail_and_solutions_pass(name: str) -> None:
    """Each exercise as handed out is "not written yet" to its check; with the solution it is right."""
    from sb3_ppo_edu.course.exercises import check

    for kind, status in ((STUDENT, "todo"), (SOLUTIONS, "right")):
        cells = [cell.source for cell in make_notebook(LESSONS[name], kind).cells if cell.cell_type == "code"]
        found = slicing.statements(cells)
        for exercise in LESSONS[name].exercises:
            module = slicing.slice_for(exercise, found)
            assert module is not None
            namespace: dict[str, Any] = {}
            exec(compile(module, name, "exec"), namespace)
            assert check(exercise, namespace[exercise], seed=3).status == status


def test_broken_lessons_are_found(lesson: Lesson) -> None:
    """A student's notebook that fails elsewhere, a solution that is wrong, one that warns and one that raises are findings."""
    wrong = Lesson("wrong", [nbformat.from_dict(cell) for cell in lesson.cells])
    for cell in wrong.cells:
        cell.source = cell.source.replace(".abs() > clip_range", " > clip_range")
    (finding,) = solution_fails(wrong)
    assert "check-clip_fraction: expected ✓" in str(finding)

    warning = Lesson("warning", [lesson.cells[0], nbformat.v4.new_code_cell("import warnings\nwarnings.warn('late')")])
    (finding,) = solution_fails(warning)
    assert "UserWarning: late" in str(finding)

    early = Lesson("early", [lesson.cells[0], nbformat.v4.new_code_cell("1 / 0"), *lesson.cells[1:]])
    (finding,) = fails_elsewhere(early)
    assert "ZeroDivisionError" in str(finding)


def test_run_notebook_runs_short_and_elsewhere() -> None:
    """A lesson under test knows that it is to be short, and what it writes does not stay."""
    cell = nbformat.v4.new_code_cell(
        "import os\nopen('left.txt', 'w').close()\nprint(os.environ['SB3_EDU_SHORT'], os.getcwd())"
    )
    execution = run_notebook(nbformat.v4.new_notebook(cells=[cell]))
    short, folder = execution.notebook.cells[-1].outputs[0].text.split()
    assert short == "1"
    assert not Path(folder).exists()


def test_cell_that_hangs_is_named() -> None:
    """A cell that takes too long, or a notebook whose cells together do, ends; it is said which cell it was, and its limit."""
    text, slow = nbformat.v4.new_markdown_cell("Text."), [nbformat.v4.new_code_cell("import time\ntime.sleep(1.5)")]
    hanging = nbformat.v4.new_code_cell("# The slow part\ntime.sleep(1000)")
    execution = run_notebook(nbformat.v4.new_notebook(cells=[text, *slow, hanging]), cell_seconds=4.0)
    assert (execution.error, execution.cell) == ("CellTimeoutError", 2)
    assert "4 s a cell" in execution.message
    assert "'# The slow part'" in execution.message

    slow += [nbformat.v4.new_code_cell("time.sleep(1.5)") for _ in range(3)]
    execution = run_notebook(nbformat.v4.new_notebook(cells=slow), notebook_seconds=4.0)
    assert execution.error == "CellTimeoutError"
    assert execution.cell > 0
    assert "4 s a notebook" in execution.message


def test_kernel_that_dies_is_a_finding(lesson: Lesson) -> None:
    """A lesson that takes its kernel down is a finding with file and cell, and no exception."""
    deadly = Lesson("deadly", [*lesson.cells, nbformat.v4.new_code_cell("import os\nos._exit(1)")])
    (finding,) = solution_fails(deadly)
    assert finding.where == "solutions/deadly, cell 7"
    assert "Kernel died: 'import os'" in str(finding)
