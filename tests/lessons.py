"""The lessons of this checkout, a small lesson with one exercise, and submissions: what the tests of the course start from."""

from __future__ import annotations

from pathlib import Path

import nbformat

from sb3_ppo_edu.course.building import Lesson, read_lesson, read_lessons

PROJECT = Path(__file__).resolve().parent.parent

NOTEBOOKS = PROJECT / "notebooks"

LESSONS = {lesson.name: lesson for lesson in read_lessons(NOTEBOOKS)}

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
GOOD = {
    "clip_fraction": "def clip_fraction(ratio, clip_range):\n    return ((ratio - 1).abs() > clip_range).float().mean()",
    "approx_kl": (
        "import torch\ndef approx_kl(log_probs, old_log_probs):\n    d = log_probs - old_log_probs\n"
        "    return (torch.exp(d) - 1 - d).mean()"
    ),
}
"""Right answers to two exercises."""


def write_lesson(folder: Path) -> Lesson:
    """Write the source of a lesson with one exercise, and read it."""
    path = folder / "01_small.py"
    path.write_text(SOURCE, encoding="utf-8")
    return read_lesson(path)


def write_submission(path: Path, *cells: str) -> None:
    """Write cells as a notebook."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, path)
