"""
Grade a folder of submissions.

Every submission runs in processes of its own (see :mod:`sb3_ppo_edu.course.worker`): only the functions that were asked for,
with limits of time, memory and output, without network, and where Linux helps without access to anything but Python and an
empty folder. macOS limits no memory; Windows has none of this, and grading refuses to begin there. What comes out is numbers;
they are judged here, with inputs that the student has not seen. Submissions are read before the first one runs, and results
are written after the last one has ended.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sb3_ppo_edu.course import slicing
from sb3_ppo_edu.course.building import PROJECT_KEY, Lesson
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.judging import judge
from sb3_ppo_edu.course.exercises.observing import Observation, case_to_json
from sb3_ppo_edu.course.exercises.verdict import Verdict
from sb3_ppo_edu.serialization.writing import make_folder, write_atomically

HIDDEN_SEED = 1
"""Seed of the graders' inputs if none is given. Students' checks have another one."""
MOST_BYTES = 20 << 20
"""Size of a submission that is still read."""
CSV_NAME = "grades.csv"
FEEDBACK_FOLDER = "feedback"
NAMESPACES = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
WORKER = Path(__file__).with_name("worker.py")

WORDS = {
    "missing": "the function is not there",
    "undefined": "the function cannot be defined",
    "too long": "it takes too long",
    "killed": "it ended without a result: out of memory, or it ended its own process",
    "not run": "it was not reached before the submission's time was up",
    "unreadable": "the file is no notebook",
}


@dataclass(frozen=True)
class Limits:
    """
    What a submission may use.

    :param wall_seconds: for each exercise
    :param cpu_seconds: of processor time for each exercise
    :param memory: bytes for each exercise, beyond Python and torch themselves
    :param output: bytes that an exercise may print
    :param start_seconds: for starting Python and torch
    """

    wall_seconds: float = 20.0
    cpu_seconds: int = 15
    memory: int = 1 << 30
    output: int = 1 << 20
    start_seconds: float = 120.0


@dataclass(frozen=True)
class Grade:
    """
    What came of one submission.

    :param name: of its file, without ending
    :param lesson: name of the lesson
    :param status: "graded", or what kept it from being graded
    :param verdicts: for each exercise of the lesson
    :param points: for each exercise of the lesson
    :param printed: what the exercises printed
    """

    name: str
    lesson: str
    status: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)
    printed: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Sum of the points."""
        return sum(self.points.values())


def grade_folder(
    folder: Path, lessons: Sequence[Lesson], output: Path, seed: int = HIDDEN_SEED, limits: Limits | None = None
) -> list[Grade]:
    """
    Grade all notebooks of a folder, and write CSV and feedback.

    :param folder: of the submissions
    :param lessons: that they may belong to
    :param output: where results go
    :param seed: of the inputs
    :param limits: of each submission
    :return: one grade for each submission, by name
    :raises ValueError: if the folder holds no notebook, or the system can't limit what a submission may use
    """
    if not hasattr(os, "fork") or find_spec("resource") is None:
        raise ValueError(
            f"grading runs strangers' code within limits that {sys.platform} does not have (fork, setrlimit); "
            "expected Linux, which confines it best, or macOS: grade in a virtual machine or a container"
        )
    paths = sorted(path for path in folder.glob("*.ipynb") if path.is_file())
    if not paths:
        raise ValueError(f"{folder}: no submissions found, expected files such as name.ipynb")
    submissions = {path.stem: (read_cells(path), said_lesson(path, lessons)) for path in paths}
    isolation = network_isolation()
    grades = [
        grade(name, cells, lessons if said is None else [said], seed, limits or Limits(), isolation)
        for name, (cells, said) in submissions.items()
    ]
    write_results(grades, output, isolation, seed)
    return grades


def read_cells(path: Path) -> list[str] | None:
    """
    Read the code cells of a notebook that nobody vouches for.

    :return: their sources, or None if it is no notebook
    """
    try:
        sources = _sources(_read(path), "code")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return sources if all(isinstance(source, str) for source in sources) else None


def said_lesson(path: Path, lessons: Sequence[Lesson]) -> Lesson | None:
    """
    Read from a notebook which lesson it is: its metadata say it, and where a front end has dropped them, the lesson's title.

    :param path: of the submission
    :param lessons: that it may belong to
    :return: the lesson, or None if it does not say
    """
    try:
        notebook = _read(path)
        said = notebook["metadata"].get(PROJECT_KEY, {}).get("lesson")
        lines = {line.strip() for source in _sources(notebook, "markdown") for line in source.splitlines()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return next((one for one in lessons if one.name == said), None) or next(
        (one for one in lessons if one.title and one.title in lines), None
    )


def _read(path: Path) -> Any:
    """
    Parse a file that nobody vouches for.

    :raises ValueError: if it is too large, or no JSON
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: more than {MOST_BYTES} bytes")
    return json.loads(path.read_text(encoding="utf-8"))


def _sources(notebook: Any, kind: str) -> list[Any]:
    """List the sources of a notebook's cells of one kind."""
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == kind]
    return ["".join(source) if isinstance(source, list) else source for source in cells]


def find_lesson(cells: Sequence[str], lessons: Sequence[Lesson]) -> Lesson | None:
    """
    Find out which lesson a submission belongs to, by the functions that it defines.

    :param cells: sources of its code cells
    :param lessons: to choose from
    :return: the lesson, or None if it defines nothing that was asked for
    """
    defined = {name for statement in slicing.statements(cells) for name in slicing.names_defined(statement)}

    def overlap(lesson: Lesson) -> float:
        return len(defined.intersection(lesson.exercises)) / max(len(lesson.exercises), 1)

    best = max(lessons, key=overlap)
    return best if overlap(best) > 0 else None


def grade(name: str, cells: list[str] | None, lessons: Sequence[Lesson], seed: int, limits: Limits, isolation: str) -> Grade:
    """
    Grade one submission.

    :param name: of its file
    :param cells: sources of its code cells, or None if it could not be read
    :param lessons: that it may belong to
    :param seed: of the inputs
    :param limits: what it may use
    :param isolation: from :func:`network_isolation`
    """
    if cells is None:
        return Grade(name, "", WORDS["unreadable"])
    lesson = find_lesson(cells, lessons)
    if lesson is None:
        return Grade(name, "", "none of the functions asked for is there")
    outcomes = run(cells, lesson, seed, limits, isolation)
    verdicts = {exercise: _verdict(exercise, outcomes.get(exercise, {}), seed, lesson.name) for exercise in lesson.exercises}
    points = {exercise: EXERCISES[exercise].points if verdict.passed else 0 for exercise, verdict in verdicts.items()}
    printed = {exercise: str(outcome.get("printed", ""))[-2000:] for exercise, outcome in outcomes.items()}
    return Grade(name, lesson.name, "graded", verdicts, points, printed)


def _verdict(exercise: str, outcome: Mapping[str, Any], seed: int, lesson: str) -> Verdict:
    """Judge what came back from a submission; nothing in it is believed."""
    status = outcome.get("status", "not run")
    if status == "observed":
        try:
            observations = [Observation.from_json(found) for found in outcome["observations"]]
            return judge(EXERCISES[exercise], observations, seed, lesson)
        except (ValueError, TypeError, KeyError):
            status = "killed"
    message = str(outcome.get("message", ""))[:500]
    evidence = (("message", message),) if message else ()
    return Verdict(exercise, "crashed", WORDS.get(str(status), WORDS["killed"]), evidence=evidence)


def run(cells: list[str], lesson: Lesson, seed: int, limits: Limits, isolation: str) -> dict[str, dict[str, Any]]:
    """
    Run the functions of a submission, each on its inputs, in processes of their own.

    :param cells: sources of the code cells
    :param lesson: whose functions they are
    :param seed: of the inputs
    :param limits: what each may use
    :param isolation: from :func:`network_isolation`
    :return: for each function what came of it
    """
    setup = {
        "cells": cells,
        "tasks": [
            {"name": name, "cases": [case_to_json(case) for case in EXERCISES[name].cases(seed, lesson.name)]}
            for name in lesson.exercises
        ],
        "network_namespace": isolation == "namespace",
        "wall_seconds": limits.wall_seconds,
        "cpu_seconds": limits.cpu_seconds,
        "memory": limits.memory,
        "output": limits.output,
    }
    prefix = NAMESPACES if isolation == "namespace" else ()
    with tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True) as home:
        environment = {
            "HOME": home,
            "TMPDIR": home,
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
        }
        process = subprocess.Popen(
            [*prefix, sys.executable, "-I", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=environment,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        seconds = limits.start_seconds + (limits.wall_seconds + 5.0) * len(lesson.exercises)
        try:
            text, _ = process.communicate(json.dumps(setup), timeout=seconds)
        except subprocess.TimeoutExpired as expired:
            text = _text(expired.stdout)
        finally:
            _kill(process)
    return _outcomes(text)


def _text(found: str | bytes | None) -> str:
    """Decode what had come before the time was up."""
    return found.decode(errors="replace") if isinstance(found, bytes) else found or ""


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        process.wait()


def _outcomes(text: str) -> dict[str, dict[str, Any]]:
    """Read the worker's lines; what is none of them is left out."""
    found: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            outcome = json.loads(line)
        except ValueError:
            continue
        if isinstance(outcome, dict) and isinstance(outcome.get("exercise"), str):
            found.setdefault(outcome["exercise"], outcome)
    return found


def network_isolation() -> str:
    """
    Find out how submissions can be kept from the network here.

    :return: "namespace" where Linux gives them a network of their own with nothing in it, else "refused sockets"
    """
    if shutil.which(NAMESPACES[0]) is None:
        return "refused sockets"
    try:
        probe = subprocess.run([*NAMESPACES, "true"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "refused sockets"
    return "namespace" if probe.returncode == 0 else "refused sockets"


def write_results(grades: Sequence[Grade], output: Path, isolation: str, seed: int) -> None:
    """
    Write the CSV and one feedback file per submission.

    :param output: folder
    :param isolation: how submissions were kept from the network
    :param seed: of the inputs
    """
    make_folder(output / FEEDBACK_FOLDER)
    exercises = [name for name in EXERCISES if any(name in one.points for one in grades)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["submission", "lesson", *exercises, "total", "possible", "status"])
    for one in grades:
        possible = sum(EXERCISES[name].points for name in one.points)
        row = [_cell(one.name), one.lesson, *(one.points.get(name, "") for name in exercises)]
        table.writerow([*row, one.total, possible, one.status])
    write_atomically(output / CSV_NAME, lambda path: path.write_text(text.getvalue(), encoding="utf-8"))
    for one in grades:
        feedback = to_markdown(one, isolation, seed)
        place = output / FEEDBACK_FOLDER / f"{one.name}.md"
        # mypy infers no type for a lambda's default, which binds this turn's feedback.
        write_atomically(place, lambda path, feedback=feedback: path.write_text(feedback, encoding="utf-8"))  # type: ignore[misc]


def _cell(name: str) -> str:
    """Keep a file's name from being a formula where a spreadsheet opens the CSV."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def to_markdown(one: Grade, isolation: str, seed: int) -> str:
    """
    Write the feedback on one submission.

    :param one: its grade
    :param isolation: how submissions were kept from the network
    :param seed: of the inputs
    :return: Markdown
    """
    parts = [f"# {one.name}"]
    if not one.points:
        parts.append(f"No points: {one.status}.")
    else:
        possible = sum(EXERCISES[name].points for name in one.points)
        parts.append(f"{one.lesson}: **{one.total} of {possible} points**")
        parts.append(
            "\n".join(
                [
                    "| exercise | points | of | |",
                    "|---|---:|---:|---|",
                    *(
                        f"| `{name}` | {points} | {EXERCISES[name].points} | {one.verdicts[name].headline} |"
                        for name, points in one.points.items()
                    ),
                ]
            )
        )
    for name, verdict in one.verdicts.items():
        if not verdict.passed:
            parts.append(verdict.to_markdown())
            if one.printed.get(name):
                parts.append(
                    "What it printed last:\n\n" + "\n".join(f"    {line}" for line in one.printed[name].splitlines()[-15:])
                )
    network = "in a network namespace of their own" if isolation == "namespace" else "with sockets refused inside Python"
    parts.append(
        f"Only the functions that were asked for were run, {network}, on inputs made from seed {seed}; "
        "training and plotting cells were not."
    )
    return "\n\n".join(parts) + "\n"
