"""The activity's levels: minimum, target and bonus, by the functions that are right and by the score of the trained lander."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ACTIVITY = "activity_lunarlander"
REQUIRED = ("normalize_advantages", "compute_policy_loss", "compute_entropy_bonus")
"""Functions without which there is no level."""
LEVELS = {"bonus": 250.0, "target": 200.0, "minimum": 150.0}
"""Level -> mean return from which on it is reached, where the required functions are right; 200 counts as solved."""
SCORE = re.compile(r"your PPO\s*\|?\s*([-+]?[0-9][0-9,]*\.?[0-9]*)")


def reported_score(notebook: Any) -> float | None:
    """
    Read from a notebook's outputs what the trained agent scored. It is the student's word: the training is not run again.

    :param notebook: parsed JSON that nobody vouches for
    :return: mean return in the last table that has a row for it, or None
    """
    found = None
    try:
        for cell in notebook["cells"]:
            for output in cell.get("outputs", ()):
                for text in output.get("data", {}).values():
                    for score in SCORE.findall("".join(text) if isinstance(text, list) else str(text)):
                        found = float(score.replace(",", ""))
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    return found


def level(points: Mapping[str, int], score: float | None) -> str:
    """
    Say which level an activity has reached.

    :param points: for each function
    :param score: of the trained agent, or None if the notebook shows none
    :return: "bonus", "target", "minimum", or empty
    """
    if score is None or not all(points.get(name) for name in REQUIRED):
        return ""
    return next((name for name, least in LEVELS.items() if score >= least), "")
