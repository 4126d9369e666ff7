"""
Grade a folder of submissions.

Every function that was asked for runs in a process of its own (see :mod:`sb3_ppo_edu.course.sandbox`), several submissions at
a time. What comes out is numbers; they are judged here, after they have come, with inputs that the student has not seen. A
submission is parsed in such a process too. Each grade is written as soon as it is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sb3_ppo_edu.course.building import PROJECT_KEY, Lesson
from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.judging import judge
from sb3_ppo_edu.course.exercises.observing import Observation, case_to_json
from sb3_ppo_edu.course.exercises.verdict import Verdict
from sb3_ppo_edu.course.grade_book import Grade, GradeBook
from sb3_ppo_edu.course.likeness import Form, Known, Likeness, find_likenesses
from sb3_ppo_edu.course.rubric import ACTIVITY, level, reported_score
from sb3_ppo_edu.course.sandbox import Limits, Sandbox, Sandboxes
from sb3_ppo_edu.serialization.writing import open_through_no_link

MOST_BYTES = 20 << 20
"""Size of a submission that is still read."""

WORDS = {
    "missing": "the function is not there",
    "undefined": "the function cannot be defined",
    "too long": "it takes too long",
    "killed": "it ended without a result: out of memory, or it ended its own process",
    "unreadable": "the file is no notebook",
    "link": "a link to a file, or something else that is no file itself",
    "nothing": "none of the functions asked for is there",
}

_JUDGING = threading.Lock()
"""Judging silences warnings, and those are the whole process's."""


@dataclass(frozen=True)
class Submission:
    """
    A file that somebody has handed in.

    :param name: of the file, without ending
    :param digest: of its bytes
    :param status: "unreadable" if it is no notebook, "link" if it is no file, or empty
    :param cells: sources of its code cells
    :param lesson: that it says it is, or None
    :param score: of the trained agent, as its outputs show it, or None
    """

    name: str
    digest: str
    status: str = ""
    cells: Sequence[str] = ()
    lesson: Lesson | None = None
    score: float | None = None


class Grading:
    """
    Grades submissions.

    :param lessons: that they may belong to
    :param seed: of the inputs
    :param sandbox: to run them in
    """

    def __init__(self, lessons: Sequence[Lesson], seed: int, sandbox: Sandbox) -> None:
        self.lessons = lessons
        self.seed = seed
        self.sandbox = sandbox

    def forms_of(self, submission: Submission) -> dict[str, Any]:
        """
        Parse a submission, without running anything of it.

        :return: for each function of any lesson that it defines, the forms of what that needs
        """
        names = sorted({name for lesson in self.lessons for name in lesson.exercises})
        answer = self.sandbox.ask({"do": "read", "cells": submission.cells, "names": names})
        found = answer.get("forms")
        return found if isinstance(found, dict) else {}

    def grade(self, submission: Submission, found: Collection[str]) -> Grade:
        """
        Run the functions of a submission, and judge what comes back.

        :param found: names of the functions that it defines
        """
        if submission.status:
            return Grade(submission.name, "", WORDS[submission.status], digest=submission.digest)
        lesson = submission.lesson or find_lesson(found, self.lessons)
        if lesson is None:
            return Grade(submission.name, "", WORDS["nothing"], digest=submission.digest)
        verdicts: dict[str, Verdict] = {}
        printed: dict[str, str] = {}
        for exercise in lesson.exercises:
            outcome = self.run(exercise, submission.cells, lesson.name)
            verdicts[exercise] = verdict_on(exercise, outcome, self.seed, lesson.name)
            printed[exercise] = str(outcome["printed"])
        points = {name: EXERCISES[name].points if verdict.passed else 0 for name, verdict in verdicts.items()}
        score = submission.score if lesson.name == ACTIVITY else None
        return Grade(
            submission.name, lesson.name, "graded", verdicts, points, printed, score, level(points, score), submission.digest
        )

    def run(self, exercise: str, cells: Sequence[str], lesson: str) -> dict[str, Any]:
        """
        Run one function on its inputs.

        :param exercise: its name
        :param cells: sources of the submission's code cells
        :param lesson: whose exercise it is
        :return: what came of it; nothing in it is to be believed
        """
        cases = [case_to_json(case) for case in EXERCISES[exercise].cases(self.seed, lesson)]
        return self.sandbox.ask({"do": "run", "name": exercise, "cells": cells, "cases": cases})


def grade_folder(
    folder: Path,
    lessons: Sequence[Lesson],
    output: Path,
    seed: int | None = None,
    *,
    limits: Limits | None = None,
    jobs: int = 1,
    resume: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Likeness]:
    """
    Grade all notebooks of a folder, and write CSV and feedback as grades come.

    :param folder: of the submissions
    :param lessons: that they may belong to
    :param output: where results go
    :param seed: of the inputs; by default a random one, which is kept in ``output``
    :param limits: of each function
    :param jobs: submissions at a time
    :param resume: go on with an earlier run: files that it has graded and that have not changed keep their grades
    :param progress: told what cannot be confined here, and each grade
    :return: submissions that are so alike that somebody should look at them
    :raises ValueError: if the folder holds no notebook, or the output has grades already, or the system can't limit what
        a submission may use
    """
    if not hasattr(os, "fork") or find_spec("resource") is None:
        raise ValueError(
            f"grading runs strangers' code within limits that {sys.platform} does not have (fork, setrlimit); "
            "expected Linux, which confines it best, or macOS: grade in a virtual machine or a container"
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".ipynb")
    if not paths:
        raise ValueError(f"{folder}: no submissions found, expected files such as name.ipynb")
    book = GradeBook(output, seed, resume)
    own: dict[str, dict[str, dict[str, Form]]] = {lesson.name: {} for lesson in lessons}
    known = {lesson.name: Known(lesson) for lesson in lessons}
    with Sandboxes(min(jobs, len(paths)), limits) as sandboxes, ThreadPoolExecutor(jobs) as pool:
        for hole in sandboxes.holes:
            progress(f"Warning: on this system a submission can {hole}.")

        def one(path: Path) -> tuple[Submission, dict[str, Any], Grade | None]:
            submission = read_submission(path, lessons)
            with sandboxes.one() as sandbox:
                grading = Grading(lessons, book.seed, sandbox)
                found = grading.forms_of(submission)
                done = book.has(submission.name, submission.digest)
                return submission, found, None if done else grading.grade(submission, found)

        futures = [pool.submit(one, path) for path in paths]
        try:
            for count, future in enumerate(as_completed(futures), 1):
                submission, found, grade = future.result()
                lesson = submission.lesson or find_lesson(found, lessons)
                if lesson is not None:
                    mine = {name: known[lesson.name].own(found[name]) for name in lesson.exercises if name in found}
                    own[lesson.name][submission.name] = mine
                if grade is not None:
                    progress(f"[{count}/{len(paths)}] {book.add(grade)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            sandboxes.close()
            raise
    likenesses = [pair for submissions in own.values() for pair in find_likenesses(submissions)]
    book.note(likenesses)
    return likenesses


def read_submission(path: Path, lessons: Sequence[Lesson]) -> Submission:
    """
    Read a notebook that nobody vouches for.

    Which lesson it is its metadata say, and where a front end has dropped them, the lesson's title.

    :param path: of the submission
    :param lessons: that it may belong to
    """
    name = path.name.removesuffix(".ipynb")
    if not stat.S_ISREG(path.lstat().st_mode):
        return Submission(name, "none", "link")
    try:
        with open(path, "rb", opener=open_through_no_link) as file:
            text = file.read(MOST_BYTES + 1)
    except OSError:
        return Submission(name, "none", "unreadable")
    digest = hashlib.sha256(text).hexdigest()[:32]
    if len(text) > MOST_BYTES:
        return Submission(name, digest, "unreadable")
    try:
        notebook = json.loads(text)
        cells = _sources(notebook, "code")
        lines = {line.strip() for source in _sources(notebook, "markdown") for line in source.splitlines()}
        said = notebook.get("metadata", {}).get(PROJECT_KEY, {}).get("lesson")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Submission(name, digest, "unreadable")
    lesson = next((one for one in lessons if one.name == said), None) or next(
        (one for one in lessons if one.title and one.title in lines), None
    )
    return Submission(name, digest, "", cells, lesson, reported_score(notebook))


def _sources(notebook: Any, kind: str) -> list[str]:
    """
    List the sources of a notebook's cells of one kind.

    :raises TypeError: if one is no text
    """
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == kind]
    return ["".join(source if isinstance(source, list) else [source]) for source in cells]


def find_lesson(found: Collection[str], lessons: Sequence[Lesson]) -> Lesson | None:
    """
    Find out which lesson a submission belongs to, by the functions that it defines.

    :param found: their names
    :param lessons: to choose from
    :return: the lesson, or None if it defines nothing that was asked for
    """

    def overlap(lesson: Lesson) -> float:
        return len(set(found).intersection(lesson.exercises)) / max(len(lesson.exercises), 1)

    best = max(lessons, key=overlap)
    return best if overlap(best) > 0 else None


def verdict_on(exercise: str, outcome: Mapping[str, Any], seed: int, lesson: str) -> Verdict:
    """
    Judge what came back from a submission; nothing in it is believed, and nothing in it stops the grader.

    :param exercise: its name
    :param outcome: what came back
    :param seed: of the inputs
    :param lesson: that the answer was written for
    """
    status = outcome.get("status")
    if status == "observed":
        try:
            observations = [Observation.from_json(found) for found in outcome["observations"]]
            if any(one.shape is not None and math.prod(one.shape) != len(one.values) for one in observations):
                raise ValueError("shape and values do not fit")
            with _JUDGING:
                return judge(EXERCISES[exercise], observations, seed, lesson)
        except Exception:
            status = "killed"
    message = str(outcome.get("message", ""))[:500]
    evidence = (("message", message),) if message else ()
    return Verdict(exercise, "crashed", WORDS.get(str(status), WORDS["killed"]), evidence=evidence)
