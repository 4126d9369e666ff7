"""Observing: what an answer did goes to another process as JSON, and what comes back is not believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.judging import judge
from sb3_ppo_edu.course.exercises.observing import Observation, case_from_json, case_to_json, observe
from tests.right_answers import policy_loss_relu


def test_observations_survive_json() -> None:
    """Cases and observations go through JSON unchanged, so that another process can do the observing."""
    exercise = EXERCISES["compute_policy_loss"]
    sent = json.loads(json.dumps([case_to_json(case) for case in exercise.cases()]))
    observed = observe(policy_loss_relu, [case_from_json(case) for case in sent])
    received = [Observation.from_json(one) for one in json.loads(json.dumps([one.to_json() for one in observed]))]
    assert received == observed
    assert judge(exercise, received).passed


@pytest.mark.parametrize("found", [None, [], {}, {"case": 1}, "text", {"case": "a", "kind": 1, "shape": "x", "values": None}])
def test_what_is_no_observation_is_refused(found: Any) -> None:
    """Whatever another process sends in place of an observation is a ValueError."""
    with pytest.raises(ValueError):
        Observation.from_json(found)


def test_observing_needs_no_package() -> None:
    """The module that runs answers imports nothing of the package: a grader can run it where the package is not."""
    from sb3_ppo_edu.course.exercises import observing

    with open(observing.__file__, encoding="utf-8") as file:
        assert "sb3_ppo_edu" not in file.read()
