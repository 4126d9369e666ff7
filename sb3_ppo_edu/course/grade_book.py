"""
What a run of grading leaves behind: ``grades.csv``, a feedback file for each submission, the seed, and who is like whom.

The CSV is there after each grade, completely, and a later run goes on from what it says; columns that an instructor has added
stay.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.verdict import Verdict
from sb3_ppo_edu.course.likeness import Likeness
from sb3_ppo_edu.serialization.writing import make_folder, write_atomically

CSV_NAME, SEED_NAME, LIKENESS_NAME = "grades.csv", "grading-seed.txt", "alike.csv"
FEEDBACK_FOLDER = "feedback"
FIRST, MIDDLE, LAST = ("submission", "lesson"), ("total", "possible", "status"), ("score", "level", "digest")
LONGEST_NAME = 200
"""Bytes of a submission's name up to which its feedback is called like it."""
SHARE = " right"
"""Behind an exercise's name: title of the column with the share of the inputs on which the function is right."""


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
    :param score: of the trained agent, where the lesson trains one and the outputs show it
    :param level: that the activity has reached, or empty
    :param digest: of the file
    """

    name: str
    lesson: str
    status: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)
    printed: Mapping[str, str] = field(default_factory=dict)
    score: float | None = None
    level: str = ""
    digest: str = ""

    @property
    def total(self) -> int:
        """Sum of the points."""
        return sum(self.points.values())

    @property
    def possible(self) -> int:
        """Sum of the points of all exercises."""
        return sum(EXERCISES[name].points for name in self.points)


class GradeBook:
    """
    The results of a run, on disk.

    :param output: folder
    :param seed: of the inputs; by default that of the run that goes on, else a random one
    :param resume: go on with the run whose results are there
    :raises ValueError: if there are results and the run does not go on, or it has another seed
    """

    def __init__(self, output: Path, seed: int | None = None, resume: bool = False) -> None:
        self.output = output
        path, seed_path = output / CSV_NAME, output / SEED_NAME
        self.rows: dict[str, dict[str, str]] = {}
        if os.path.lexists(path):
            if not resume or path.is_symlink():
                raise ValueError(
                    f"{path}: there are grades already. If they are an earlier run's, --resume goes on with it (files that "
                    "have not changed keep their grades); otherwise name another folder with --output"
                )
            self.rows = _read_rows(path)
            earlier = _read_seed(seed_path)
            if seed not in (None, earlier):
                raise ValueError(f"{seed_path}: the run that is to go on has another seed than {seed}; leave --seed out")
            self.seed = earlier
        else:
            self.seed = secrets.randbits(64) if seed is None else seed
        make_folder(output)
        make_folder(output / FEEDBACK_FOLDER)
        write_atomically(seed_path, self._write_seed)

    def _write_seed(self, path: Path) -> None:
        """Write the seed for nobody else to read: with it answers can be worked out beforehand."""
        path.chmod(0o600)
        path.write_text(f"{self.seed}\n", encoding="ascii")

    def has(self, name: str, digest: str) -> bool:
        """
        Tell whether a file has been graded and is still the same.

        :param name: of the submission
        :param digest: of its file
        """
        return self.rows.get(_cell(name), {}).get("digest") == digest

    def add(self, one: Grade) -> str:
        """
        Write a grade, its feedback first.

        :param one: the grade
        :return: what to tell the instructor
        """
        _write(self.output / FEEDBACK_FOLDER / _feedback_name(one.name), to_markdown(one))
        before = self.rows.get(_cell(one.name))
        added = {} if before is None else {key: text for key, text in before.items() if not _ours(key)}
        self.rows[_cell(one.name)] = {
            "submission": _cell(one.name),
            "lesson": one.lesson,
            **{name: str(points) for name, points in one.points.items()},
            **{"total": str(one.total), "possible": str(one.possible), "status": one.status},
            **{f"{name}{SHARE}": f"{verdict.share:.2f}" for name, verdict in one.verdicts.items()},
            **{"score": "" if one.score is None else f"{one.score:g}", "level": one.level, "digest": one.digest},
            **added,
        }
        self._write_csv()
        again = "" if before is None else f" (graded again, the file has changed: {before.get('total')} before)"
        return f"{_printable(one.name)}: {one.total} of {one.possible} points, {one.status}{again}"

    def _write_csv(self) -> None:
        """Write all rows, with the columns that any of them needs."""
        there = dict.fromkeys(key for row in self.rows.values() for key in row)
        exercises = [name for name in EXERCISES if name in there]
        shares = [f"{name}{SHARE}" for name in exercises]
        columns = [*FIRST, *exercises, *MIDDLE, *shares, *LAST, *(key for key in there if not _ours(key))]
        _write_table(self.output / CSV_NAME, columns, [self.rows[name] for name in sorted(self.rows)])

    def note(self, likenesses: Sequence[Likeness]) -> None:
        """
        Write down which submissions are alike, for the instructor only.

        :param likenesses: pairs
        """
        rows = [
            {"one": _cell(a), "other": _cell(b), "exercises": " ".join(names), "share": f"{share:.2f}"}
            for a, b, names, share in likenesses
        ]
        _write_table(self.output / LIKENESS_NAME, ["one", "other", "exercises", "share"], rows)


def _ours(column: str) -> bool:
    """Tell whether a column of the CSV is one that we write."""
    return column in (*FIRST, *MIDDLE, *LAST) or column.removesuffix(SHARE) in EXERCISES


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    """
    Read an earlier run's grades.

    :raises ValueError: if that is no CSV of ours
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if not {*FIRST, "digest"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: expected the columns {', '.join(FIRST)} and digest, as an earlier run has written them")
        return {row["submission"]: {key: text for key, text in row.items() if key is not None} for row in reader}


def _read_seed(path: Path) -> int:
    """
    Read an earlier run's seed.

    :raises ValueError: if it is not there
    """
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected the seed of the run that is to go on ({error})") from error


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write a CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    """Write a text file completely or not at all; what cannot be written as UTF-8 is replaced."""
    write_atomically(path, lambda partial: partial.write_bytes(text.encode("utf-8", "replace")))


def _cell(name: str) -> str:
    """Keep a file's name from being a formula where a spreadsheet opens the CSV; no two names become one."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "'")) else _printable(name)


def _feedback_name(name: str) -> str:
    """Name the feedback's file; a name as long as a file's may be has no place for an ending."""
    encoded = os.fsencode(name)
    return f"{name if len(encoded) <= LONGEST_NAME else hashlib.sha256(encoded).hexdigest()[:32]}.md"


def _printable(name: str) -> str:
    """Keep a file's name from moving a terminal's cursor."""
    return name if name.isprintable() else ascii(name)


def to_markdown(one: Grade) -> str:
    """
    Write the feedback on one submission. It says nothing of the seed: whoever knows it can work the answers out beforehand.

    :param one: its grade
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
    if one.score is not None:
        reached = f"reaches the level “{one.level}”" if one.level else "reaches no level with the functions that are right"
        parts.append(f"The notebook's outputs show {one.score:g} points for the trained lander, which {reached}.")
    parts.append(
        "Only the functions that were asked for were run, each in a process of its own, on inputs that no student has seen; "
        "training and plotting cells were not."
    )
    text = "\n\n".join(parts) + "\n"
    # A terminal would obey what stands between control characters.
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
