"""The activity's rubric: levels by functions and score, and a score read from outputs that nobody vouches for."""

from __future__ import annotations

from typing import Any

import pytest

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.lesson import table
from sb3_ppo_edu.course.rubric import ACTIVITY, REQUIRED, level, reported_score
from tests.lessons import LESSONS

RIGHT = {name: EXERCISES[name].points for name in REQUIRED}


@pytest.mark.parametrize(
    ("score", "reached"),
    [(None, ""), (149.9, ""), (150.0, "minimum"), (199.9, "minimum"), (200.0, "target"), (250.0, "bonus"), (float("nan"), "")],
)
def test_level_is_the_scores(score: float | None, reached: str) -> None:
    """With the required functions right: 150 points are the minimum, 200 the target, 250 the bonus."""
    assert level(RIGHT, score) == reached
    assert all(level({**RIGHT, name: 0}, score) == "" for name in REQUIRED)


def test_score_is_read_from_the_activitys_table() -> None:
    """The score is what the row of the student's own training says, as the lesson's own function shows tables."""
    source = "\n".join(cell.source for cell in LESSONS[ACTIVITY].cells if cell.cell_type == "code")
    assert '"your PPO", np.mean(my_play.returns)' in source
    shown = table(
        ["", "points", "±"], [["the package's PPO", 270.0, 1.0], ["your PPO", 1_234.56, 20.0], ["random", -180.0, 3.0]]
    )
    for text in (shown._repr_markdown_(), repr(shown), [shown._repr_markdown_()]):
        outputs = [{"data": {"text/plain": "no table"}}, {"data": {"text/markdown": text}}]
        assert reported_score({"cells": [{"cell_type": "markdown"}, {"outputs": outputs}]}) == 1235.0


@pytest.mark.parametrize(
    "notebook",
    [None, [], {}, {"cells": 3}, {"cells": [3]}, {"cells": [{"outputs": [{"data": 3}]}]}, {"cells": [{"outputs": 3}]}],
)
def test_junk_has_no_score(notebook: Any) -> None:
    """What is no notebook, or one with other things in its places, shows none."""
    assert reported_score(notebook) is None
