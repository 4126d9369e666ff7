"""
Time an instructor's evening: a hundred submissions of lesson 03, as a class hands them in, graded with all there is.

Each submission is the lesson's notebook; of its five functions a share is right, in one of two ways of writing it, and the
others make one of the mistakes that students make or are not written. Time on the clock is the machine's at that hour, so the
page gives processor seconds beside it, and how busy the machine was.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from pathlib import Path

import nbformat

from sb3_ppo_edu.course.building import SOLUTIONS, make_notebook, read_lessons
from sb3_ppo_edu.course.grading import grade_folder
from sb3_ppo_edu.envs.backends import processors

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
LESSON = "03_clipped_objective"
RIGHT_SHARE = 0.6

ANSWERS = {
    "probability_ratio": (
        "def probability_ratio(log_probs, old_log_probs):\n    return torch.exp(log_probs - old_log_probs.detach())",
        "def probability_ratio(new, old):\n    difference = new - old.detach()\n    return difference.exp()",
        "def probability_ratio(log_probs, old_log_probs):\n    return log_probs / old_log_probs",
        "def probability_ratio(log_probs, old_log_probs):\n    raise NotImplementedError('TODO')",
    ),
    "clipped_objective": (
        "def clipped_objective(ratio, advantages, clip_range=0.2):\n"
        "    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)\n"
        "    return torch.min(ratio * advantages, clipped * advantages)",
        "def clipped_objective(r, a, eps=0.2):\n    bound = torch.where(a > 0, (1 + eps) * a, (1 - eps) * a)\n"
        "    return torch.minimum(r * a, bound)",
        "def clipped_objective(ratio, advantages, clip_range=0.2):\n"
        "    return ratio.clamp(1 - clip_range, 1 + clip_range) * advantages",
        "def clipped_objective(ratio, advantages, clip_range=0.2):\n    return torch.max(ratio * advantages, advantages) ** 3",
    ),
    "clip_fraction": (
        "def clip_fraction(ratio, clip_range=0.2):\n    return ((ratio - 1).abs() > clip_range).float().mean()",
        "def clip_fraction(r, eps=0.2):\n    return np.mean([(float(x) > 1 + eps) or (float(x) < 1 - eps) for x in r])",
        "def clip_fraction(ratio, clip_range=0.2):\n    return (ratio > 1 + clip_range).float().mean()",
        "def clip_fraction(ratio, clip_range=0.2):\n    return float(len(ratio)) * clip_range + float(ratio.sum())",
    ),
    "approx_kl": (
        "def approx_kl(log_probs, old_log_probs):\n    d = log_probs - old_log_probs\n"
        "    return (torch.exp(d) - 1 - d).mean()",
        "def approx_kl(new, old):\n    r = (new - old).exp()\n    return torch.mean(r - 1 - torch.log(r))",
        "def approx_kl(log_probs, old_log_probs):\n    return (old_log_probs - log_probs).mean()",
        "def approx_kl(log_probs, old_log_probs):\n    while True:\n        pass",
    ),
    "clipped_value_loss": (
        "def clipped_value_loss(values, old_values, returns, clip_range_vf=0.2):\n"
        "    near = old_values + (values - old_values).clamp(-clip_range_vf, clip_range_vf)\n"
        "    return torch.max((values - returns) ** 2, (near - returns) ** 2).mean()",
        "def clipped_value_loss(v, old, g, eps=0.2):\n    near = torch.clamp(v, old - eps, old + eps)\n"
        "    return torch.maximum((v - g).pow(2), (near - g).pow(2)).mean()",
        "def clipped_value_loss(values, old_values, returns, clip_range_vf=0.2):\n    return ((values - returns) ** 2).mean()",
        "def clipped_value_loss(values, old_values, returns, clip_range_vf=0.2):\n"
        "    return (values * returns + 0.3 * old_values).sum()",
    ),
}
"""Two right ways, a mistake that has a name, and what has none, is not written or does not end."""
ENDLESS_SHARE = 0.01
"""Loops that never end take all of their time, and are as rare as in a class."""


def write_class(folder: Path, count: int, seed: int) -> None:
    """
    Write a class's submissions.

    :param folder: where
    :param count: how many
    :param seed: of who writes what
    """
    draw = random.Random(seed)
    lesson = next(one for one in read_lessons(NOTEBOOKS) if one.name == LESSON)
    template = nbformat.writes(make_notebook(lesson, SOLUTIONS))
    for number in range(count):
        notebook = nbformat.reads(template, as_version=4)
        for cell in notebook.cells:
            name = next((one for one in ANSWERS if f"def {one}(" in cell.source and cell.metadata.get("nbgrader")), None)
            if name is not None:
                first, second, named, other = ANSWERS[name]
                wrong = other if draw.random() < (ENDLESS_SHARE if "while True" in other else 0.3) else named
                cell.source = draw.choice((first, second)) if draw.random() < RIGHT_SHARE else wrong
        nbformat.write(notebook, folder / f"student{number:03}.ipynb")


def processor_seconds() -> float:
    """Add up the processor time of this process and of those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Write the class, grade it, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--count", type=int, default=100, metavar="N", help="submissions (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=processors(), metavar="N", help="at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of who writes what (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "grading.md", metavar="FILE", help="the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "class")
        folder.mkdir()
        write_class(folder, arguments.count, arguments.seed)
        busy, began, used = os.getloadavg()[0], time.perf_counter(), processor_seconds()
        alike = grade_folder(folder, read_lessons(NOTEBOOKS), Path(place, "out"), jobs=arguments.jobs, progress=print)
        seconds, used, busy_after = time.perf_counter() - began, processor_seconds() - used, os.getloadavg()[0]
    text = f"""\
# An instructor's evening

{arguments.count} submissions of lesson 03, {RIGHT_SHARE:.0%} of whose functions are right, graded by {arguments.jobs} workers
on {processors()} cores, each of the {5 * arguments.count} functions in a process of its own.

| | |
|---|---:|
| processor seconds, all processes | {used:.0f} |
| the same for one submission | {used / arguments.count:.2f} |
| seconds on the clock | {seconds:.0f} |
| processes that wanted a core, before and after (load) | {busy:.1f}, {busy_after:.1f} |
| pairs of submissions that are pointed out as alike | {len(alike)} |

Made by `python benchmarks/course/grading.py --count {arguments.count} --jobs {arguments.jobs} --seed {arguments.seed}`.
"""
    arguments.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
