"""Building: notebooks are what their sources make, for students without solutions, and they install the package."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from sb3_ppo_edu.course import building
from sb3_ppo_edu.course.building import (
    SOLUTIONS,
    STUDENT,
    Lesson,
    SourceError,
    build,
    built_files,
    make_notebook,
    read_lesson,
    read_lessons,
    solution_lines,
    strip_solution,
)
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.verifying import stale
from tests.lessons import LESSONS, NOTEBOOKS, SOURCE, write_lesson


@pytest.fixture
def lesson(tmp_path: Path) -> Lesson:
    """A lesson with one exercise."""
    return write_lesson(tmp_path)


def test_generated_files_are_current() -> None:
    """What lies in notebooks/ is, to the byte, what its sources make; two builds are equal."""
    assert list(stale(NOTEBOOKS)) == []
    assert built_files(NOTEBOOKS) == built_files(NOTEBOOKS)


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_code_fits_a_page(name: str) -> None:
    """No line of code is longer than what a notebook shows without scrolling sideways, some 115 characters."""
    for kind in (STUDENT, SOLUTIONS):
        cells = [cell for cell in make_notebook(LESSONS[name], kind).cells if cell.cell_type == "code"]
        assert [line for cell in cells for line in cell.source.splitlines() if len(line) > 115] == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_cells_are_what_nbgrader_expects(name: str) -> None:
    """Exercises are solutions to write, checks are locked tests with points; names are unique and nothing else is marked."""
    for kind in (STUDENT, SOLUTIONS):
        notebook = make_notebook(LESSONS[name], kind)
        marked = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
        names = [entry.grade_id for entry in marked]
        assert len(set(names)) == len(names) == 2 * len(LESSONS[name].exercises)
        for entry in marked:
            assert entry.schema_version == 3
            assert entry.grade is not entry.solution
            assert entry.locked is entry.grade
            assert ("points" in entry) is entry.grade
            if entry.grade:
                assert entry.points == EXERCISES[entry.grade_id.removeprefix("check-")].points
        assert all(cell.get("outputs", []) == [] for cell in notebook.cells)
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_student_gets_a_stub_in_the_solutions_place(lesson: Lesson) -> None:
    """Signature, docstring and hint stay; the lines between the marks, and the marks, are gone."""
    cell = next(cell for cell in lesson.cells if "exercise" in cell.metadata)
    expected = (
        'def clip_fraction(ratio, clip_range):\n    """Docstring."""\n'
        '    raise NotImplementedError("TODO: count on both sides")'
    )
    assert strip_solution(cell.source, "count on both sides") == expected
    long = "count " * 12 + "on both sides"
    assert strip_solution(cell.source, long).endswith(f'    raise NotImplementedError(\n        "TODO: {long}"\n    )')
    assert solution_lines(cell.source) == ["outside = (ratio - 1.0).abs() > clip_range", "return outside.float().mean()"]


def test_address_makes_badge_and_install_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With an address, students get a badge that leads to what they have, and a cell that installs from there where need be.

    Instructors' notebooks have no badge: what nbgrader hands out is made from them, and must not lead to the solutions.
    """
    monkeypatch.setattr(building, "REPOSITORY", "somebody/ppo")
    assert building.without_address() == ""
    title, install = make_notebook(LESSONS["02_advantages"], STUDENT).cells[:2]
    colab = "https://colab.research.google.com/github"
    assert f"]({colab}/somebody/ppo/blob/main/notebooks/student/02_advantages.ipynb)" in title.source
    asked: list[tuple[str, ...]] = []
    shell = {"get_ipython": lambda: SimpleNamespace(run_line_magic=lambda *words: asked.append(words))}
    code = TransformerManager().transform_cell(install.source)
    exec(code, shell)  # nothing to do where the package is
    assert asked == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(code, shell)
    assert asked == [("pip", "install -q git+https://github.com/somebody/ppo")]
    assert "colab" not in make_notebook(LESSONS["02_advantages"], SOLUTIONS).cells[0].source


def test_without_address_there_is_no_broken_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address there is no badge, and an install cell that is needed says what is missing."""
    monkeypatch.setattr(building, "REPOSITORY", "")
    assert "REPOSITORY in sb3_ppo_edu/course/building.py is not set" in building.without_address()
    title, install = make_notebook(LESSONS["02_advantages"], STUDENT).cells[:2]
    assert "colab" not in title.source
    exec(install.source, {})  # nothing to do where the package is
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="ask whoever gave you this lesson"):
        exec(install.source, {})


def test_stale_and_orphaned_files_are_found(tmp_path: Path) -> None:
    """A changed source, a missing notebook and one without a source are findings; building mends them all."""
    folder = tmp_path / "notebooks"
    (folder / "sources").mkdir(parents=True)
    (folder / "sources" / "01_small.py").write_text(SOURCE, encoding="utf-8")
    assert len(list(stale(folder))) == 2
    build(folder)
    assert list(stale(folder)) == []
    (folder / STUDENT / "02_gone.ipynb").write_text("{}", encoding="utf-8")
    (folder / "sources" / "01_small.py").write_text(SOURCE + "# more", encoding="utf-8")
    assert {Path(finding.where).name for finding in stale(folder)} == {"01_small.ipynb", "02_gone.ipynb"}
    build(folder)
    assert list(stale(folder)) == []
    assert not (folder / STUDENT / "02_gone.ipynb").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('exercise="clip_fraction"', 'exercise="nonsense"', "exercise 'nonsense', expected one of"),
        (' todo="count on both sides"', "", 'without todo="HINT"'),
        ("    ### END SOLUTION\n", "", "expected one ### BEGIN SOLUTION and one ### END"),
        (' exercise="clip_fraction" todo="count on both sides"', "", "in a cell that is no exercise"),
        ('check="clip_fraction"', 'check="approx_kl"', "check of 'approx_kl' before its exercise"),
    ],
)
def test_wrong_sources_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A source that is wrong is refused with file, cell and what was expected."""
    path = tmp_path / "01_small.py"
    path.write_text(SOURCE.replace(old, new), encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        read_lesson(path)
    with pytest.raises(SourceError, match="no sources found"):
        read_lessons(tmp_path)
