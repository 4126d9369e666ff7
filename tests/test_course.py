"""The course: what is built is current and gives nothing away, lessons run, and no submission harms its grader."""

from __future__ import annotations

import csv
import json
import os
import socket
import statistics
import threading
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from packaging.requirements import Requirement

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.course import building, slicing
from sb3_ppo_edu.course.building import (
    SOLUTIONS,
    STUDENT,
    Lesson,
    SourceError,
    build,
    built_files,
    locked_pins,
    make_notebook,
    read_lesson,
    read_lessons,
    solution_lines,
    strip_solution,
)
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.grading import (
    Grade,
    Limits,
    find_lesson,
    grade,
    grade_folder,
    network_isolation,
    read_cells,
    write_results,
)
from sb3_ppo_edu.course.lesson import table
from sb3_ppo_edu.course.verifying import fails_elsewhere, invalid, leaks, run_notebook, solution_fails, stale

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOKS = PROJECT / "notebooks"
LESSONS = {lesson.name: lesson for lesson in read_lessons(NOTEBOOKS)}
PINS = locked_pins(PROJECT)

SOURCE = '''\
# %% [markdown]
# # A lesson

# %%
import torch

# %% [markdown]
# Count the ratios that are clipped.

# %% exercise="clip_fraction" todo="count on both sides"
def clip_fraction(ratio, clip_range):
    """Docstring."""
    ### BEGIN SOLUTION
    outside = (ratio - 1.0).abs() > clip_range
    return outside.float().mean()
    ### END SOLUTION

# %% check="clip_fraction"
from sb3_ppo_edu.course.exercises import check
check("clip_fraction", clip_fraction)

# %%
print(clip_fraction(torch.ones(3), 0.2))
'''


@pytest.fixture
def lesson(tmp_path: Path) -> Lesson:
    """A lesson with one exercise."""
    path = tmp_path / "01_small.py"
    path.write_text(SOURCE, encoding="utf-8")
    return read_lesson(path)


# --------------------------------------------------------------------------------------------------------------------------
# Building
# --------------------------------------------------------------------------------------------------------------------------


def test_generated_files_are_current() -> None:
    """What lies in notebooks/ is, to the byte, what its sources make; two builds are equal."""
    assert list(stale(NOTEBOOKS)) == []
    assert built_files(NOTEBOOKS) == built_files(NOTEBOOKS)


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_notebooks_are_valid_and_give_nothing_away(name: str) -> None:
    """Both notebooks hold to nbformat's schema, each exercise has one check, and students see no line of a solution."""
    assert [str(finding) for finding in (*invalid(LESSONS[name], PINS), *leaks(LESSONS[name], PINS))] == []


def test_quoted_scores_are_the_benchmarks() -> None:
    """The scores of LunarLander that lesson 08 quotes are those in the benchmark's rows, seed by seed."""
    with (PROJECT / "benchmarks" / "lecture" / "zoo-LunarLander-v3.csv").open(encoding="utf-8", newline="") as file:
        runs = list(csv.DictReader(file))
    source = (NOTEBOOKS / "sources" / "08_honest_benchmarks.py").read_text(encoding="utf-8")
    for constant, algorithm in (("EDUPPO", "eduppo"), ("SB3", "ppo")):
        scores = {int(row["seed"]): float(row["final_mean"]) for row in runs if row["algorithm"] == algorithm}
        assert f"{constant} = np.array({[scores[seed] for seed in range(5)]})" in source


def test_other_quoted_results_are_the_benchmarks() -> None:
    """What lesson 08 and the errata say of this package's settings on LunarLander is what the rows come to."""
    with (PROJECT / "benchmarks" / "lecture" / "runs.csv").open(encoding="utf-8", newline="") as file:
        runs = [row for row in csv.DictReader(file) if row["env"] == "LunarLander-v3"]
    quoted = [(NOTEBOOKS / path).read_text(encoding="utf-8") for path in ("sources/08_honest_benchmarks.py", "errata.md")]
    for algorithm in ("eduppo", "ppo"):
        scores = [float(row["final_mean"]) for row in runs if row["algorithm"] == algorithm]
        assert len(scores) == 5
        assert min(scores) > 200.0
        assert all(f"{statistics.mean(scores):.0f} ± {statistics.stdev(scores):.0f}" in text for text in quoted)


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_code_fits_a_page(name: str) -> None:
    """No line of code is longer than what a notebook shows without scrolling sideways, some 115 characters."""
    for kind in (STUDENT, SOLUTIONS):
        cells = [cell for cell in make_notebook(LESSONS[name], kind, PINS).cells if cell.cell_type == "code"]
        assert [line for cell in cells for line in cell.source.splitlines() if len(line) > 115] == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_cells_are_what_nbgrader_expects(name: str) -> None:
    """Exercises are solutions to write, checks are locked tests with points; names are unique and nothing else is marked."""
    for kind in (STUDENT, SOLUTIONS):
        notebook = make_notebook(LESSONS[name], kind, PINS)
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


def test_leak_is_found(lesson: Lesson) -> None:
    """A solution's line that also stands in the text is found."""
    lesson.cells.append(nbformat.v4.new_markdown_cell("Hint: `outside = (ratio - 1.0).abs() > clip_range`"))
    (finding,) = leaks(lesson, PINS)
    assert "outside =" in str(finding)


def test_install_cell_pins_what_the_lock_pins() -> None:
    """The first code cell pins torch and SB3 as the lock does, and nothing that the package does not need itself."""
    pinned = json.loads(json.dumps(PINS))
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert set(pinned) <= set(lock)
    names = {pin.split("==")[0] for pin in pinned}
    assert {"torch", "stable-baselines3", "gymnasium", "matplotlib"} <= names
    of_lander = [Requirement(line) for line in metadata.requires("gymnasium") or () if 'extra == "box2d"' in line]
    assert {one.name.lower() for one in of_lander} <= names
    assert not names & {"ruff", "pytest", "ray", "jupyterlab"}
    notebook = make_notebook(next(iter(LESSONS.values())), STUDENT, PINS)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert all(json.dumps(pin) in first.source for pin in pinned)


def test_address_makes_badge_and_install_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With an address, students get a badge that leads to what they have, and a cell that installs from there.

    Instructors' notebooks have no badge: what nbgrader hands out is made from them, and must not lead to the solutions.
    """
    monkeypatch.setattr(building, "REPOSITORY", "somebody/ppo")
    assert building.without_address() == ""
    title, install = make_notebook(LESSONS["02_advantages"], STUDENT, PINS).cells[:2]
    colab = "https://colab.research.google.com/github"
    assert f"]({colab}/somebody/ppo/blob/main/notebooks/student/02_advantages.ipynb)" in title.source
    assert 'REPOSITORY = "somebody/ppo"' in install.source
    assert "colab" not in make_notebook(LESSONS["02_advantages"], SOLUTIONS, PINS).cells[0].source


def test_without_address_there_is_no_broken_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address there is no badge, and an install cell that is needed says what is missing and where to put it."""
    monkeypatch.setattr(building, "REPOSITORY", "")
    assert "REPOSITORY in sb3_ppo_edu/course/building.py is not set" in building.without_address()
    title, install = make_notebook(LESSONS["02_advantages"], STUDENT, PINS).cells[:2]
    assert "colab" not in title.source
    exec(install.source, {})  # nothing to do where the package is
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="owner/name, and put it after REPOSITORY"):
        exec(install.source, {})


@pytest.mark.parametrize("loaded", ["same", "older"])
def test_install_cell_asks_for_a_restart_where_it_takes_one(loaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    First the pins are installed, then the package alone, from its address. A session with an older numpy is not gone on with.

    As in Colab, whose session has loaded a numpy of its own before the first cell runs.
    """
    monkeypatch.setattr(building, "REPOSITORY", "somebody/ppo")
    install = make_notebook(LESSONS["02_advantages"], STUDENT, PINS).cells[1]
    commands: list[list[str]] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    if loaded == "older":
        monkeypatch.setattr("numpy.__version__", "1.26.4")
        with pytest.raises(RuntimeError, match="Restart session"):
            exec(install.source, {})
    else:
        exec(install.source, {})
    assert [command[4:] for command in commands] == [
        ["--quiet", *PINS],
        ["--quiet", "--no-deps", "git+https://github.com/somebody/ppo"],
    ]


def test_stale_and_orphaned_files_are_found(tmp_path: Path) -> None:
    """A changed source, a missing notebook and one without a source are findings; building mends them all."""
    folder = tmp_path / "notebooks"
    (folder / "sources").mkdir(parents=True)
    (folder / "sources" / "01_small.py").write_text(SOURCE, encoding="utf-8")
    for name in ("requirements.lock", "setup.cfg"):
        (tmp_path / name).write_text((PROJECT / name).read_text(encoding="utf-8"), encoding="utf-8")
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


# --------------------------------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_solution_runs_without_error_or_warning(name: str) -> None:
    """In its short mode the solution notebook runs to its end, with a tick under every exercise."""
    assert [str(finding) for finding in solution_fails(LESSONS[name], PINS)] == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_student_notebook_stops_at_its_first_todo(name: str) -> None:
    """What is handed out runs until its first TODO, and stops there with a sentence that says what to do."""
    assert [str(finding) for finding in fails_elsewhere(LESSONS[name], PINS)] == []


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_stubs_fail_and_solutions_pass(name: str) -> None:
    """Each exercise as handed out is "not written yet" to its check; with the solution it is right."""
    from sb3_ppo_edu.course.exercises import check

    for kind, status in ((STUDENT, "todo"), (SOLUTIONS, "right")):
        cells = [cell.source for cell in make_notebook(LESSONS[name], kind, PINS).cells if cell.cell_type == "code"]
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
    (finding,) = solution_fails(wrong, PINS)
    assert "check-clip_fraction: expected ✓" in str(finding)

    warning = Lesson("warning", [lesson.cells[0], nbformat.v4.new_code_cell("import warnings\nwarnings.warn('late')")])
    (finding,) = solution_fails(warning, PINS)
    assert "UserWarning: late" in str(finding)

    early = Lesson("early", [lesson.cells[0], nbformat.v4.new_code_cell("1 / 0"), *lesson.cells[1:]])
    (finding,) = fails_elsewhere(early, PINS)
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
    (finding,) = solution_fails(deadly, PINS)
    assert finding.where == "solutions/deadly, cell 7"
    assert "Kernel died: 'import os'" in str(finding)


def test_table_sets_numbers_right() -> None:
    """A column of numbers stands right; one of words stands left, also where one begins with a digit. Four digits stay."""
    made = table(
        ["what", "how much", "note"], [["10 more", 1234.567, ""], ["2 less", -1.5e-7, "page 1"], ["nothing", np.nan, ""]]
    )
    lines = made._repr_markdown_().splitlines()
    assert lines[1] == "| --- | ---: | --- |"
    assert lines[2:] == ["| 10 more | 1,235 |  |", "| 2 less | -1.5e-07 | page 1 |", "| nothing | nan |  |"]
    assert repr(made).splitlines()[1].split() == ["10", "more", "1,235"]


# --------------------------------------------------------------------------------------------------------------------------
# Grading
# --------------------------------------------------------------------------------------------------------------------------

SMALL = Lesson("small", [])
GOOD = {
    "clip_fraction": "def clip_fraction(ratio, clip_range):\n    return ((ratio - 1).abs() > clip_range).float().mean()",
    "approx_kl": (
        "import torch\ndef approx_kl(log_probs, old_log_probs):\n    d = log_probs - old_log_probs\n"
        "    return (torch.exp(d) - 1 - d).mean()"
    ),
}
POINTS = {name: EXERCISES[name].points for name in GOOD}
LIMITS = Limits(wall_seconds=6.0, cpu_seconds=4, memory=300 << 20, output=100_000)
SHORTER = replace(LIMITS, wall_seconds=3.0, cpu_seconds=2)
"""For answers that use up whatever they get."""


@pytest.fixture(scope="module")
def small() -> Lesson:
    """A lesson with two exercises."""
    cells = [nbformat.v4.new_code_cell("", metadata={"exercise": name}) for name in GOOD]
    return Lesson("small", cells)


def graded(small: Lesson, *cells: str, limits: Limits = LIMITS) -> Grade:
    """Grade code cells as a submission, on inputs that are not the visible ones."""
    return grade("somebody", list(cells), [small], 7, limits, network_isolation())


def test_good_submission_has_all_points(small: Lesson) -> None:
    """Right answers have all points, whatever is around them: cells that crash, loop or are no Python are not run."""
    around = ["%matplotlib inline\nimport nonsense_that_is_not_there", "while True:\n    pass", "1 / 0", "def broken(:", "!ls"]
    helper = "WINDOW = 1.0\ndef outside(ratio, eps):\n    return (ratio - WINDOW).abs() > eps"
    uses_it = "def clip_fraction(ratio, clip_range):\n    return outside(ratio, clip_range).float().mean()"
    one = graded(small, *around, helper, uses_it, GOOD["approx_kl"])
    assert one.points == POINTS
    assert one.status == "graded"


@pytest.mark.parametrize("name", sorted(name for name, lesson in LESSONS.items() if lesson.exercises))
def test_solutions_have_all_points(name: str) -> None:
    """Graded as a submission, a lesson's solutions have all points."""
    assert graded_as(SOLUTIONS, name) == {exercise: EXERCISES[exercise].points for exercise in LESSONS[name].exercises}


def test_stubs_have_no_points() -> None:
    """Graded as a submission, what is handed out has none; that each stub is "not written yet" is tested above."""
    assert set(graded_as(STUDENT, "03_clipped_objective").values()) == {0}


def graded_as(kind: str, name: str) -> Mapping[str, int]:
    """Grade a lesson's own notebook."""
    cells = [cell.source for cell in make_notebook(LESSONS[name], kind, PINS).cells if cell.cell_type == "code"]
    one = grade(name, cells, list(LESSONS.values()), 7, LIMITS, network_isolation())
    assert one.lesson == name
    return one.points


BAD = {
    "crashes": "def clip_fraction(ratio, clip_range):\n    return 1 / 0",
    "loops": "def clip_fraction(ratio, clip_range):\n    while True:\n        pass",
    "sleeps": "import time\ndef clip_fraction(ratio, clip_range):\n    time.sleep(1000)",
    "prints megabytes": (
        "def clip_fraction(ratio, clip_range):\n    for _ in range(10**6):\n        print('x' * 1000, flush=True)\n"
        "    return ((ratio - 1).abs() > clip_range).float().mean()"
    ),
    "eats memory": (
        "def clip_fraction(ratio, clip_range):\n    hoard = [bytearray(10**8) for _ in range(50)]\n"
        "    return ((ratio - 1).abs() > clip_range).float().mean()"
    ),
    "ends the process": "import os\ndef clip_fraction(ratio, clip_range):\n    os._exit(0)",
    "kills": "import os, signal\ndef clip_fraction(ratio, clip_range):\n    os.kill(os.getpid(), signal.SIGKILL)",
    "returns nonsense": "def clip_fraction(ratio, clip_range):\n    return object()",
    "returns too much": "import torch\ndef clip_fraction(ratio, clip_range):\n    return torch.zeros(10**7)",
    "loops while it is defined": "def forever():\n    while True: pass\nX = forever()\ndef clip_fraction(r, c):\n    return X",
    "raises BaseException": "def clip_fraction(ratio, clip_range):\n    raise SystemExit(0)",
    "is not there": "",
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_bad_answer_costs_its_own_points_only(small: Lesson, what: str) -> None:
    """An answer that crashes, loops, prints, hoards or dies has no points; the other answer of the same submission has its."""
    one = graded(small, BAD[what], GOOD["approx_kl"], limits=SHORTER)
    assert one.points == {"clip_fraction": 0, "approx_kl": POINTS["approx_kl"]}
    assert not one.verdicts["clip_fraction"].passed


TAMPERING = {
    "redefines check": "def check(name, answer, seed=0):\n    return 'passed'\n",
    "patches the package": (
        "import sb3_ppo_edu.course.exercises.judging as j\nj.judge = lambda *a: j.Verdict('x', 'right', 'right')\n"
        "import sb3_ppo_edu.course.exercises\nsb3_ppo_edu.teaching.check = None\n"
    ),
    "uses the package": "from sb3_ppo_edu.functional.losses import clip_fraction\n",
    "patches torch": (
        "import torch, numpy\ntorch.Tensor.mean = lambda *a, **k: torch.tensor(0.4)\nnumpy.allclose = lambda *a, **k: True\n"
    ),
    "forges results": (
        "import os, json\ndef clip_fraction(ratio, clip_range):\n    for fd in range(3, 64):\n        try:\n"
        "            os.write(fd, json.dumps({'exercise': 'clip_fraction', 'status': 'observed', 'points': 99}).encode())\n"
        "        except OSError:\n            pass\n    return 0.0\n"
    ),
    "equals everything": (
        "class Same(float):\n    def __eq__(self, other): return True\n    def __hash__(self): return 0\n"
        "def clip_fraction(ratio, clip_range):\n    return Same(0.5)\n"
    ),
}


@pytest.mark.parametrize("what", sorted(TAMPERING))
def test_tampering_gains_nothing(small: Lesson, what: str) -> None:
    """Points come from numbers that are compared in another process: nothing that a submission redefines can reach it."""
    wrong = "" if "clip_fraction" in TAMPERING[what] else "def clip_fraction(ratio, clip_range):\n    return 0.123"
    one = graded(small, TAMPERING[what], wrong, GOOD["approx_kl"])
    assert one.points == {"clip_fraction": 0, "approx_kl": POINTS["approx_kl"]}


def test_answers_learnt_by_heart_have_no_points(small: Lesson) -> None:
    """Results of the visible inputs, returned in their order, do not pass on hidden ones."""
    by_heart = "RESULTS = iter([0.0, 0.6, 0.4] * 10)\ndef clip_fraction(ratio, clip_range):\n    return next(RESULTS)"
    assert graded(small, by_heart, GOOD["approx_kl"]).points["clip_fraction"] == 0


def test_no_network(small: Lesson) -> None:
    """An answer that connects to a server on this machine does not reach it, and so has no points."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    reached: list[bool] = []

    def listen() -> None:
        while not stop.is_set():
            try:
                server.accept()[0].close()
                reached.append(True)
            except TimeoutError:
                continue

    stop = threading.Event()
    listener = threading.Thread(target=listen)
    listener.start()
    port = server.getsockname()[1]
    calls = (
        "import socket\ndef clip_fraction(ratio, clip_range):\n"
        f"    socket.create_connection(('127.0.0.1', {port}), 2).close()\n"
        "    return ((ratio - 1).abs() > clip_range).float().mean()"
    )
    try:
        one = graded(small, calls, GOOD["approx_kl"])
    finally:
        stop.set()
        listener.join()
        server.close()
    assert reached == []
    assert one.points == {"clip_fraction": 0, "approx_kl": POINTS["approx_kl"]}


@pytest.mark.skipif(not os.path.exists("/sys/kernel/security/landlock") and os.uname().release < "5.13", reason="no Landlock")
def test_files_of_others_are_out_of_reach(small: Lesson, tmp_path: Path) -> None:
    """Neither reading nor writing outside of its own empty folder: a secret stays secret, and a file is not overwritten."""
    secret = tmp_path / "solutions.txt"
    secret.write_text("0.123", encoding="utf-8")
    curious = (
        f"import pathlib\ndef clip_fraction(ratio, clip_range):\n    place = pathlib.Path({str(secret)!r})\n"
        "    try:\n        place.write_text('mine')\n    except OSError:\n        pass\n    place.read_text()\n"
        "    return ((ratio - 1).abs() > clip_range).float().mean()"
    )
    one = graded(small, curious, GOOD["approx_kl"])
    assert secret.read_text(encoding="utf-8") == "0.123"
    assert one.points["clip_fraction"] == 0
    assert "PermissionError" in str(one.verdicts["clip_fraction"])


def write_submission(path: Path, *cells: str) -> None:
    """Write cells as a notebook."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, path)


def test_folder_is_graded_into_csv_and_feedback(tmp_path: Path, small: Lesson) -> None:
    """One line and one feedback file for each submission, junk and bombs included; the mistake is named in the feedback."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_submission(folder / "ada.ipynb", *GOOD.values())
    one_sided = "def clip_fraction(ratio, clip_range):\n    return (ratio > 1 + clip_range).float().mean()"
    write_submission(folder / "=bob.ipynb", one_sided, GOOD["approx_kl"])
    (folder / "junk.ipynb").write_bytes(b"\xff\xfe{")
    (folder / "list.ipynb").write_text("[1, 2]", encoding="utf-8")
    write_submission(folder / "nothing.ipynb", "print('hello')")
    grades = {one.name: one for one in grade_folder(folder, [small], output, seed=5, limits=LIMITS)}
    assert {name: one.total for name, one in grades.items()} == {"ada": 3, "=bob": 2, "junk": 0, "list": 0, "nothing": 0}
    with (output / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    assert rows["ada"] == {
        "submission": "ada", "lesson": "small", "approx_kl": "2", "clip_fraction": "1", "total": "3", "possible": "3",
        "status": "graded",
    }  # fmt: skip
    # A spreadsheet would take a leading equals sign for a formula.
    assert rows["'=bob"]["total"] == "2"
    assert rows["junk"]["status"] == "the file is no notebook"
    feedback = (output / "feedback" / "=bob.md").read_text(encoding="utf-8")
    assert "2 of 3 points" in feedback
    assert "Only ratios that are too large are counted" in feedback
    assert "seed 5" in feedback
    assert "namespace" in feedback or "sockets refused" in feedback
    assert len(list((output / "feedback").iterdir())) == 5


def test_empty_folder_is_refused(tmp_path: Path, small: Lesson) -> None:
    """A folder without notebooks is an error that says what was expected."""
    with pytest.raises(ValueError, match=r"no submissions found, expected files such as name\.ipynb"):
        grade_folder(tmp_path, [small], tmp_path)


def test_lesson_is_found_by_its_functions() -> None:
    """A submission belongs to the lesson of whose functions it defines the largest share."""
    for lesson in (one for one in LESSONS.values() if one.exercises):
        cells = [f"def {name}(*a):\n    pass" for name in lesson.exercises]
        assert find_lesson(cells, list(LESSONS.values())) == lesson
    assert find_lesson(["x = 1"], list(LESSONS.values())) is None


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the limit is refused unread."""
    path = tmp_path / "large.ipynb"
    write_submission(path, "x = 1")
    assert read_cells(path) == ["x = 1"]
    monkeypatch.setattr("sb3_ppo_edu.course.grading.MOST_BYTES", 10)
    assert read_cells(path) is None


def test_write_results_needs_no_submission_to_be_readable(tmp_path: Path) -> None:
    """Grades without verdicts make a CSV without exercises."""
    write_results([Grade("x", "", "the file is no notebook")], tmp_path, "namespace", 1)
    assert (tmp_path / "grades.csv").read_text(encoding="utf-8").splitlines()[1] == "x,,0,0,the file is no notebook"


def test_slice_holds_what_a_function_needs_and_no_more() -> None:
    """Helpers of helpers, constants and imports come along; training, printing and other functions stay behind."""
    cells = ["import math\nimport os", "A = 1", "def helper():\n    return math.pi * A", "print('training')", "B = train()"]
    module = slicing.slice_for("wanted", slicing.statements([*cells, "def wanted():\n    return helper()"]))
    assert module is not None
    names = [sorted(slicing.names_defined(statement)) for statement in module.body]
    assert names == [["annotations"], ["math"], ["A"], ["helper"], ["wanted"]]
    assert slicing.slice_for("missing", slicing.statements(cells)) is None

    # Its own variables are not those of the notebook that happen to have the same names.
    local = "def wanted(A):\n    B = [math for math in A]\n    return B, os"
    module = slicing.slice_for("wanted", slicing.statements([*cells, local]))
    assert module is not None
    assert [sorted(slicing.names_defined(statement)) for statement in module.body] == [["annotations"], ["os"], ["wanted"]]


# --------------------------------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------------------------------


def test_command_builds_checks_and_grades(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``build``, ``check`` and ``grade`` do what they say, with the exit codes 0, 1 and 2."""
    folder = tmp_path / "notebooks"
    (folder / "sources").mkdir(parents=True)
    (folder / "sources" / "01_small.py").write_text(SOURCE, encoding="utf-8")
    for name in ("requirements.lock", "setup.cfg"):
        (tmp_path / name).write_text((PROJECT / name).read_text(encoding="utf-8"), encoding="utf-8")
    where = ["--notebooks", str(folder)]
    assert main(["course", "check", "--no-execute", *where]) == 1
    assert "run `sb3-edu course build`" in capsys.readouterr().out
    for verb, said in (("build", "01_small.ipynb"), ("check", "Ready to be handed out")):
        assert main(["course", verb, *(["--no-execute"] if verb == "check" else []), *where]) == 0
        printed = capsys.readouterr().out
        assert said in printed
        assert ("REPOSITORY in" in printed) is (building.REPOSITORY == "")

    submissions = tmp_path / "submissions"
    submissions.mkdir()
    assert main(["course", "grade", str(submissions), *where]) == 2
    write_submission(submissions / "ada.ipynb", GOOD["clip_fraction"])
    assert main(["course", "grade", str(submissions), "--output", str(tmp_path / "out"), *where]) == 0
    assert "ada: 1 points, graded" in capsys.readouterr().out
    assert (tmp_path / "out" / "feedback" / "ada.md").exists()
