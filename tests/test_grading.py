"""Grading: right answers have their points, whatever is around them, and no submission harms its grader or another."""

from __future__ import annotations

import csv
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from sb3_ppo_edu.course.building import (
    SOLUTIONS,
    STUDENT,
    Lesson,
    make_notebook,
)
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.grading import (
    WORDS,
    Grade,
    Limits,
    find_lesson,
    grade,
    grade_folder,
    network_isolation,
    read_cells,
    said_lesson,
    write_results,
)
from tests.lessons import GOOD, LESSONS, PINS, write_submission

POINTS = {name: EXERCISES[name].points for name in GOOD}

LIMITS = Limits(wall_seconds=6.0, cpu_seconds=4, memory=300 << 20, output=100_000)

SHORTER = replace(LIMITS, wall_seconds=3.0, cpu_seconds=1)
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


def test_solutions_have_all_points() -> None:
    """Graded as one submission, the solutions of all lessons have all points."""
    everything = Lesson("everything", [cell for lesson in LESSONS.values() for cell in lesson.cells])
    assert set(everything.exercises) == set(EXERCISES)
    assert graded_as(SOLUTIONS, everything, [everything]) == {name: exercise.points for name, exercise in EXERCISES.items()}


def test_stubs_have_no_points() -> None:
    """Graded as a submission, what is handed out has none; that each stub is "not written yet" is tested above."""
    assert set(graded_as(STUDENT, LESSONS["03_clipped_objective"], list(LESSONS.values())).values()) == {0}


def graded_as(kind: str, lesson: Lesson, lessons: list[Lesson]) -> Mapping[str, int]:
    """Grade a lesson's own notebook, which is found among lessons."""
    cells = [cell.source for cell in make_notebook(lesson, kind, PINS).cells if cell.cell_type == "code"]
    one = grade("somebody", cells, lessons, 7, LIMITS, network_isolation())
    assert one.lesson == lesson.name
    return one.points


BAD = {
    "td_errors": "return 1 / 0",
    "compute_gae": "while True: pass",
    "discounted_returns": "import time; time.sleep(1000)",
    "clip_fraction": (
        "for _ in range(10**6): print('x' * 1000, flush=True)\n    return ((given[0] - 1).abs() > given[1]).float().mean()"
    ),
    "approx_kl": ("hoard = bytearray(10**9)\n    d = given[0] - given[1]\n    return (d.exp() - 1 - d).mean()"),
    "tanh_gradient": "import os; os._exit(0)",
    "total_loss": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "weight_gradient": "return object()",
    "logits_gradient": "import torch; return torch.zeros(10**7)",
    "categorical_entropy": "return FOREVER\ndef forever():\n    while True: pass\nFOREVER = forever()",
    "gaussian_log_prob": "raise SystemExit(0)",
}
"""
Answers that crash, loop, sleep, print megabytes, eat memory, end their process, kill it, return nonsense or too much, loop
while they are defined, and raise what is no Exception. Those that print and eat give the right result afterwards.
"""


def test_bad_answer_costs_its_own_points_only() -> None:
    """Whatever answers of a submission do, they and one that is not there have no points; the last, a right one, has its."""
    names = [*BAD, "explained_variance", "probability_ratio"]
    bad = Lesson("bad", [nbformat.v4.new_code_cell("", metadata={"exercise": name}) for name in names])
    cells = [f"def {name}(*given):\n    {body}" for name, body in BAD.items()]
    right = "def probability_ratio(log_probs, old_log_probs):\n    return (log_probs - old_log_probs.detach()).exp()"
    one = grade("somebody", [*cells, right], [bad], 7, SHORTER, network_isolation())
    assert one.points == {**dict.fromkeys(names, 0), "probability_ratio": EXERCISES["probability_ratio"].points}
    assert [name for name, verdict in one.verdicts.items() if verdict.passed] == ["probability_ratio"]
    headlines = {name: one.verdicts[name].headline for name in names}
    too_long = {name for name, headline in headlines.items() if headline == WORDS["too long"]}
    assert too_long == {"compute_gae", "discounted_returns", "categorical_entropy"}


TAMPERING = {
    "redefines check": "def check(name, answer, seed=0):\n    return 'passed'\n",
    "patches the package": (
        "import sb3_ppo_edu.course.exercises.judging as j\nj.judge = lambda *a: j.Verdict('x', 'right', 'right')\n"
        "import sb3_ppo_edu.course.exercises\nsb3_ppo_edu.course.exercises.check = None\n"
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


def test_file_says_which_lesson_it_is(tmp_path: Path) -> None:
    """Two of the activity's five functions, which lesson 04 has as well, are graded as the activity by metadata or title."""
    lessons, activity = list(LESSONS.values()), LESSONS["activity_lunarlander"]
    path = tmp_path / "ada.ipynb"
    cells = [f"def {name}(*a):\n    pass" for name in ("normalize_advantages", "compute_policy_loss")]
    assert find_lesson(cells, lessons) == LESSONS["04_ppo_from_scratch"]
    write_submission(path, *cells)
    assert said_lesson(path, lessons) is None
    notebook = make_notebook(activity, STUDENT, PINS)
    nbformat.write(notebook, path)
    assert said_lesson(path, lessons) == activity
    notebook.metadata = {}
    nbformat.write(notebook, path)
    assert said_lesson(path, lessons) == activity
    graded_ones = grade_folder(tmp_path, lessons, tmp_path, seed=5, limits=LIMITS)
    assert [one.lesson for one in graded_ones] == [activity.name]


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
