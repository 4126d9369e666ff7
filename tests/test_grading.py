"""Grading: right answers have their points, whatever is around them, and no submission harms its grader or another."""

from __future__ import annotations

import csv
import os
import socket
import threading
from collections.abc import Iterator, Mapping
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
from sb3_ppo_edu.course.grade_book import Grade, GradeBook
from sb3_ppo_edu.course.grading import WORDS, Grading, Submission, find_lesson, grade_folder, read_submission
from sb3_ppo_edu.course.sandbox import Limits, Sandbox
from tests.lessons import GOOD, LESSONS, write_submission

POINTS = {name: EXERCISES[name].points for name in GOOD}

LIMITS = Limits(wall_seconds=6.0, cpu_seconds=4, memory=300 << 20, output=100_000)

SHORTER = replace(LIMITS, wall_seconds=8.0, cpu_seconds=1)
"""For answers that use up whatever they get."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A worker for all tests of this file: what a submission does to it would be seen by those that follow."""
    with Sandbox(LIMITS) as one:
        yield one


@pytest.fixture
def shared(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whole folders graded by the same worker: starting one takes a second or two."""
    monkeypatch.setattr("sb3_ppo_edu.course.sandbox.Sandbox", lambda _: sandbox)
    monkeypatch.setattr(sandbox, "close", lambda: None)


@pytest.fixture(scope="module")
def small() -> Lesson:
    """A lesson with two exercises."""
    cells = [nbformat.v4.new_code_cell("", metadata={"exercise": name}) for name in GOOD]
    return Lesson("small", cells)


def graded(sandbox: Sandbox, lesson: Lesson | list[Lesson], *cells: str) -> Grade:
    """Grade code cells as a submission, on inputs that are not the visible ones."""
    grading = Grading(lesson if isinstance(lesson, list) else [lesson], 7, sandbox)
    submission = Submission("somebody", "", "", cells)
    return grading.grade(submission, grading.forms_of(submission))


def test_good_submission_has_all_points(sandbox: Sandbox, small: Lesson) -> None:
    """Right answers have all points, whatever is around them: cells that crash, loop or are no Python are not run."""
    around = ["%matplotlib inline\nimport nonsense_that_is_not_there", "while True:\n    pass", "1 / 0", "def broken(:", "!ls"]
    helper = "WINDOW = 1.0\ndef outside(ratio, eps):\n    return (ratio - WINDOW).abs() > eps"
    uses_it = "def clip_fraction(ratio, clip_range):\n    return outside(ratio, clip_range).float().mean()"
    one = graded(sandbox, small, *around, helper, uses_it, GOOD["approx_kl"])
    assert one.points == POINTS
    assert one.status == "graded"


def test_solutions_have_all_points(sandbox: Sandbox) -> None:
    """Graded as one submission, the solutions of all lessons have all points."""
    everything = Lesson("everything", [cell for lesson in LESSONS.values() for cell in lesson.cells])
    assert set(everything.exercises) == set(EXERCISES)
    assert graded_as(sandbox, SOLUTIONS, everything, [everything]) == {
        name: exercise.points for name, exercise in EXERCISES.items()
    }


def test_stubs_have_no_points(sandbox: Sandbox) -> None:
    """Graded as a submission, what is handed out has none; that each stub is "not written yet" is tested above."""
    assert set(graded_as(sandbox, STUDENT, LESSONS["03_clipped_objective"], list(LESSONS.values())).values()) == {0}


def graded_as(sandbox: Sandbox, kind: str, lesson: Lesson, lessons: list[Lesson]) -> Mapping[str, int]:
    """Grade a lesson's own notebook, which is found among lessons."""
    cells = [cell.source for cell in make_notebook(lesson, kind).cells if cell.cell_type == "code"]
    one = graded(sandbox, lessons, *cells)
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
    with Sandbox(SHORTER) as shorter:
        one = graded(shorter, bad, *cells, right)
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
def test_tampering_gains_nothing(sandbox: Sandbox, small: Lesson, what: str) -> None:
    """Points come from numbers that are compared in another process: nothing that a submission redefines can reach it."""
    wrong = "" if "clip_fraction" in TAMPERING[what] else "def clip_fraction(ratio, clip_range):\n    return 0.123"
    one = graded(sandbox, small, TAMPERING[what], wrong, GOOD["approx_kl"])
    assert one.points == {"clip_fraction": 0, "approx_kl": POINTS["approx_kl"]}


def test_answers_learnt_by_heart_have_no_points(sandbox: Sandbox, small: Lesson) -> None:
    """Results of the visible inputs, returned in their order, do not pass on hidden ones."""
    by_heart = "RESULTS = iter([0.0, 0.6, 0.4] * 10)\ndef clip_fraction(ratio, clip_range):\n    return next(RESULTS)"
    assert graded(sandbox, small, by_heart, GOOD["approx_kl"]).points["clip_fraction"] == 0


def test_no_network(sandbox: Sandbox, small: Lesson) -> None:
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
        one = graded(sandbox, small, calls, GOOD["approx_kl"])
    finally:
        stop.set()
        listener.join()
        server.close()
    assert reached == []
    assert one.points == {"clip_fraction": 0, "approx_kl": POINTS["approx_kl"]}


@pytest.mark.skipif(not os.path.exists("/sys/kernel/security/landlock") and os.uname().release < "5.13", reason="no Landlock")
def test_files_of_others_are_out_of_reach(sandbox: Sandbox, small: Lesson, tmp_path: Path) -> None:
    """Neither reading nor writing outside of its own empty folder: a secret stays secret, and a file is not overwritten."""
    secret = tmp_path / "solutions.txt"
    secret.write_text("0.123", encoding="utf-8")
    curious = (
        f"import pathlib\ndef clip_fraction(ratio, clip_range):\n    place = pathlib.Path({str(secret)!r})\n"
        "    try:\n        place.write_text('mine')\n    except OSError:\n        pass\n    place.read_text()\n"
        "    return ((ratio - 1).abs() > clip_range).float().mean()"
    )
    one = graded(sandbox, small, curious, GOOD["approx_kl"])
    assert secret.read_text(encoding="utf-8") == "0.123"
    assert one.points["clip_fraction"] == 0
    assert "PermissionError" in str(one.verdicts["clip_fraction"])


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    """Read the CSV."""
    with (output / "grades.csv").open(encoding="utf-8", newline="") as file:
        return {row["submission"]: row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("shared")
def test_folder_is_graded_into_csv_and_feedback(tmp_path: Path, small: Lesson) -> None:
    """One line and one feedback file for each submission, junk and bombs included; the mistake is named in the feedback."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_submission(folder / "ada.ipynb", *GOOD.values())
    one_sided = "def clip_fraction(ratio, clip_range):\n    return (ratio > 1 + clip_range).float().mean()"
    write_submission(folder / "=bob.ipynb", one_sided, GOOD["approx_kl"])
    (folder / "junk.ipynb").write_bytes(b"\xff\xfe{")
    (folder / "list.ipynb").write_text("[1, 2]", encoding="utf-8")
    (folder / "deep.ipynb").write_text("[" * 100_000, encoding="utf-8")
    write_submission(folder / "nothing.ipynb", "print('hello')")
    write_submission(folder / "ADA.IPYNB", "print('hello')")
    write_submission(folder / ("x" * 249 + ".ipynb"), "print('hello')")
    (folder / "link.ipynb").symlink_to(folder / "ada.ipynb")
    (folder / "link2.ipynb").symlink_to(folder / "link2.ipynb")
    (folder / "folder.ipynb").mkdir()
    os.mkfifo(folder / "pipe.ipynb")
    write_submission(folder / "a\n,b.ipynb", "print('hello')")
    told: list[str] = []
    grade_folder(folder, [small], output, seed=52_341, limits=LIMITS, progress=told.append)
    rows = rows_of(output)
    assert {name: row["total"] for name, row in rows.items() if row["total"] != "0"} == {"ada": "3", "'=bob": "2"}
    nothing = {"'a\\n,b'", "ADA.IPYNB", "deep", "folder", "junk", "link", "link2", "list", "nothing", "pipe", "x" * 249}
    assert {name for name, row in rows.items() if row["total"] == "0"} == nothing
    assert len(rows["ada"].pop("digest")) == 32
    assert rows["ada"] == {
        "submission": "ada", "lesson": "small", "approx_kl": "2", "clip_fraction": "1", "total": "3", "possible": "3",
        "status": "graded", "approx_kl right": "1.00", "clip_fraction right": "1.00", "score": "", "level": "",
    }  # fmt: skip
    # A spreadsheet would take a leading equals sign for a formula. Half of the inputs it has right.
    assert 0.0 < float(rows["'=bob"]["clip_fraction right"]) < 1.0
    assert rows["junk"]["status"] == "the file is no notebook"
    assert "ada: 3 of 3 points, graded" in {line.partition("] ")[2] for line in told}
    feedback = (output / "feedback" / "=bob.md").read_text(encoding="utf-8")
    assert "2 of 3 points" in feedback
    assert "Only ratios that are too large are counted" in feedback
    assert len(list((output / "feedback").iterdir())) == 13
    assert not any(
        "52341" in path.read_text(encoding="utf-8") for path in [*(output / "feedback").iterdir(), output / "grades.csv"]
    )


def test_seed_is_random_and_kept_for_nobody_else(tmp_path: Path) -> None:
    """Two runs have different seeds; each is kept beside the grades, readable by its owner only, for a run that goes on."""
    seeds = {GradeBook(tmp_path / name).seed for name in ("a", "b")}
    assert len(seeds) == 2 and max(seeds) > 2**40
    path = tmp_path / "a" / "grading-seed.txt"
    assert int(path.read_text(encoding="ascii")) in seeds
    assert path.stat().st_mode & 0o77 == 0


@pytest.mark.usefixtures("shared")
def test_run_goes_on_where_it_stopped(tmp_path: Path, small: Lesson) -> None:
    """Without ``resume`` nothing is overwritten; with it only what is new or has changed is graded, on the same inputs."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("ada", "bob"):
        write_submission(folder / f"{name}.ipynb", *GOOD.values())
    grade_folder(folder, [small], output, limits=LIMITS)
    with pytest.raises(ValueError, match=r"there are grades already\. If they are an earlier run"):
        grade_folder(folder, [small], output, limits=LIMITS)
    table = (output / "grades.csv").read_text(encoding="utf-8").replace("digest\n", "digest,remark\n")
    table = table.replace("ada,small,2,1,3", "ada,small,2,1,99")  # an instructor's own hand
    (output / "grades.csv").write_text("\n".join(f"{line},late" if i else line for i, line in enumerate(table.splitlines())))
    write_submission(folder / "bob.ipynb", GOOD["approx_kl"])
    write_submission(folder / "eve.ipynb", GOOD["approx_kl"])
    seed = (output / "grading-seed.txt").read_text(encoding="ascii")
    told: list[str] = []
    grade_folder(folder, [small], output, limits=LIMITS, resume=True, progress=told.append)
    rows = rows_of(output)
    assert {name: (row["total"], row["remark"]) for name, row in rows.items()} == {
        "ada": ("99", "late"), "bob": ("2", "late"), "eve": ("2", ""),
    }  # fmt: skip
    assert sorted(line.split("] ")[1] for line in told) == [
        "bob: 2 of 3 points, graded (graded again, the file has changed: 3 before)",
        "eve: 2 of 3 points, graded",
    ]
    assert (output / "grading-seed.txt").read_text(encoding="ascii") == seed
    with pytest.raises(ValueError, match="has another seed than 5"):
        GradeBook(output, seed=5, resume=True)


def test_interrupted_run_has_lost_nothing(tmp_path: Path, small: Lesson) -> None:
    """Stopped by Ctrl-C after one grade, this one is there with its feedback, and no process is left."""
    for name in ("ada", "bob", "eve"):
        write_submission(tmp_path / f"{name}.ipynb", *GOOD.values())

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade_folder(tmp_path, [small], tmp_path / "out", limits=LIMITS, progress=stop)
    (name,) = rows_of(tmp_path / "out")
    assert (tmp_path / "out" / "feedback" / f"{name}.md").exists()
    told: list[str] = []
    grade_folder(tmp_path, [small], tmp_path / "out", limits=LIMITS, jobs=2, resume=True, progress=told.append)
    assert len(told) == 2
    assert {row["total"] for row in rows_of(tmp_path / "out").values()} == {"3"}


def test_empty_folder_is_refused(tmp_path: Path, small: Lesson) -> None:
    """A folder without notebooks is an error that says what was expected."""
    with pytest.raises(ValueError, match=r"no submissions found, expected files such as name\.ipynb"):
        grade_folder(tmp_path, [small], tmp_path)


def test_lesson_is_found_by_its_functions() -> None:
    """A submission belongs to the lesson of whose functions it defines the largest share."""
    for lesson in (one for one in LESSONS.values() if one.exercises):
        assert find_lesson(lesson.exercises, list(LESSONS.values())) == lesson
    assert find_lesson(["x"], list(LESSONS.values())) is None


@pytest.mark.usefixtures("shared")
def test_file_says_which_lesson_it_is(tmp_path: Path) -> None:
    """Two of the activity's five functions, which lesson 04 has as well, are graded as the activity by metadata or title."""
    lessons, activity = list(LESSONS.values()), LESSONS["activity_lunarlander"]
    path = tmp_path / "ada.ipynb"
    names = ("normalize_advantages", "compute_policy_loss")
    assert find_lesson(names, lessons) == LESSONS["04_ppo_from_scratch"]
    write_submission(path, *(f"def {name}(*a):\n    pass" for name in names))
    assert read_submission(path, lessons).lesson is None
    notebook = make_notebook(activity, STUDENT)
    nbformat.write(notebook, path)
    assert read_submission(path, lessons).lesson == activity
    notebook.metadata = {}
    nbformat.write(notebook, path)
    assert read_submission(path, lessons).lesson == activity
    grade_folder(tmp_path, lessons, tmp_path, limits=LIMITS)
    assert rows_of(tmp_path)["ada"]["lesson"] == activity.name


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the limit is refused unread."""
    path = tmp_path / "large.ipynb"
    write_submission(path, "x = 1")
    assert read_submission(path, []).cells == ["x = 1"] and not read_submission(path, []).status
    monkeypatch.setattr("sb3_ppo_edu.course.grading.MOST_BYTES", 10)
    assert read_submission(path, []).status == "unreadable"


def test_book_needs_no_submission_to_be_readable(tmp_path: Path) -> None:
    """Grades without verdicts make a CSV without exercises."""
    GradeBook(tmp_path).add(Grade("x", "", "the file is no notebook"))
    assert (tmp_path / "grades.csv").read_text(encoding="utf-8").splitlines()[1] == "x,,0,0,the file is no notebook,,,"
