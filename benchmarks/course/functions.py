"""
Try a folder of students' functions on the visible check and on the grader's, and count what is accepted, rejected and named.

Each file of the folder holds one function as JSON: ``{"lesson": "03", "exercise": "clip_fraction", "code": "def …",
"right": false, "mistake": "counts one side only"}``. The function runs as in a submission, after the lesson's own cells, in a
process of its own with a limit of time. Beside the counts each verdict is written as CSV next to the mistake in words, since
whether a name is the right one only a reader can tell.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch as th

from sb3_ppo_edu.course import slicing, worker
from sb3_ppo_edu.course.building import SOLUTIONS, make_notebook, read_lessons
from sb3_ppo_edu.course.exercises import observing
from sb3_ppo_edu.course.exercises.comparing import alike
from sb3_ppo_edu.course.exercises.exercise import VISIBLE_SEED
from sb3_ppo_edu.course.exercises.judging import find_exercise, judge
from sb3_ppo_edu.course.exercises.variants import variants

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
COLUMNS = ("file", "exercise", "right", "mistake", "visible", "hidden", "names", "headline", "text", "seconds")


@cache
def lesson_cells(number: str) -> list[str]:
    """
    Make the code cells of a lesson, with its solutions: what a function may use of the lesson.

    :param number: such as ``"03"``, or the beginning of another lesson's name
    """
    lesson = next(lesson for lesson in read_lessons(NOTEBOOKS) if lesson.name.startswith(number))
    return [cell.source for cell in make_notebook(lesson, SOLUTIONS).cells if cell.cell_type == "code"]


def observed(entry: dict[str, Any], seed: int) -> tuple[str, list[observing.Observation]]:
    """
    Run a function as the grader's worker does.

    :param entry: one file
    :param seed: of the inputs
    :return: status and observations
    """
    exercise = find_exercise(entry["exercise"])
    cases = [observing.case_to_json(case) for case in exercise.cases(seed, entry["lesson"])]
    statements = slicing.statements([*lesson_cells(str(entry["lesson"])), entry["code"]])
    found = worker.answer_one({"name": exercise.name, "cases": cases}, statements, slicing, observing)
    return found["status"], [observing.Observation.from_json(one) for one in found.get("observations", [])]


def judged(entry: dict[str, Any], seeds: list[int], sending: Any) -> None:
    """
    Judge a function on several seeds, in a child.

    :param entry: one file
    :param seeds: of the inputs, the visible one first
    :param sending: where the verdicts go
    """
    th.set_num_threads(1)
    # Whatever a student's function prints or warns of is none of the counts.
    warnings.simplefilter("ignore")
    sys.stdout = io.StringIO()
    for seed in seeds:
        status, observations = observed(entry, seed)
        began = time.perf_counter()
        if status != "observed":
            sending.send((status, status, (), "", 0.0))
            continue
        exercise = find_exercise(entry["exercise"])
        if seed != VISIBLE_SEED:  # whether it has its points; what it is called has been asked before
            right = [observing.observe_once(exercise.solution, case) for case in exercise.cases(seed, entry["lesson"])]
            clean = all(one.repeatable and not one.changed for one in observations)
            passed = clean and all(alike(one, other) for one, other in zip(observations, right, strict=True))
            sending.send(("right" if passed else "wrong", "", (), "", 0.0))
            continue
        verdict = judge(exercise, observations, seed, entry["lesson"])
        sending.send(
            (verdict.status, verdict.headline, verdict.mistakes, " ".join(verdict.paragraphs), time.perf_counter() - began)
        )


def try_one(entry: dict[str, Any], seeds: list[int], limit: float) -> list[tuple[str, str, tuple[str, ...], str, float]]:
    """
    Judge a function in a process of its own.

    :param entry: one file
    :param seeds: of the inputs
    :param limit: seconds for each seed
    :return: for each seed status, headline, names, text and seconds of judging
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=judged, args=(entry, seeds, sending), daemon=True)
    child.start()
    sending.close()
    verdicts = []
    for _ in seeds:
        try:
            verdicts.append(receiving.recv() if receiving.poll(limit) else ("too long", "too long", (), "", limit))
        except EOFError:
            verdicts.append(("killed", "killed", (), "", 0.0))
    child.kill()
    child.join()
    return verdicts


def main() -> None:
    """Try all functions, write a row for each, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the functions, one JSON file each")
    parser.add_argument("--output", type=Path, help="CSV with a row for each function")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 20], help="of the grader (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds for each function and seed (default: %(default)s)")
    options = parser.parse_args()
    rows, counts = [], Counter[str]()
    for path in sorted(options.folder.glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        variants(entry["exercise"])  # once for all children
        verdicts = try_one(entry, [VISIBLE_SEED, *options.seeds], options.limit)
        visible, *hidden = (verdict[0] for verdict in verdicts)
        _, headline, names, text, seconds = verdicts[0] if visible != "right" else verdicts[1]
        kind = "right" if entry["right"] else "wrong"
        counts[kind] += 1
        counts[f"{kind}, accepted in the notebook"] += visible == "right"
        counts[f"{kind}, accepted by the grader"] += set(hidden) == {"right"}
        counts[f"{kind}, accepted in the notebook but not by the grader"] += visible == "right" and set(hidden) != {"right"}
        counts[f"{kind}, mistake named"] += bool(names)
        asked = (path.stem, entry["exercise"], entry["right"], entry["mistake"])
        print(f"{path.stem} {visible}: {headline}", file=sys.stderr, flush=True)
        rows.append((*asked, visible, " ".join(hidden), " ".join(names), headline, text, f"{seconds:.2f}"))
    for what, count in sorted(counts.items()):
        print(f"{count:5} {what}")
    if options.output:
        with options.output.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
