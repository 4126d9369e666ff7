"""What the cells of lessons have in common."""

from __future__ import annotations

import numpy as np

from sb3_ppo_edu.course.lesson import table


def test_table_sets_numbers_right() -> None:
    """A column of numbers stands right; one of words stands left, also where one begins with a digit. Four digits stay."""
    made = table(
        ["what", "how much", "note"], [["10 more", 1234.567, ""], ["2 less", -1.5e-7, "page 1"], ["nothing", np.nan, ""]]
    )
    lines = made._repr_markdown_().splitlines()
    assert lines[1] == "| --- | ---: | --- |"
    assert lines[2:] == ["| 10 more | 1,235 |  |", "| 2 less | -1.5e-07 | page 1 |", "| nothing | nan |  |"]
    assert repr(made).splitlines()[1].split() == ["10", "more", "1,235"]
