"""An objective in a file: the path of its class, and attributes that come back the same."""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.checkpoint import ExactCheckpoint
from sb3_ppo_edu.functional.objectives import PPOObjective
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from tests.rollouts import N_STEPS, largest_difference, make_env, make_model, parameters_of
from tests.test_objectives import KLPenalty, TruncatedImportance


def saved_data(path: Path) -> dict[str, Any]:
    """The JSON of a model's file."""
    with zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read("data"))
        return found


def test_saved_as_path_and_attributes(tmp_path: Path) -> None:
    """The file names the class and its numbers, and pickles nothing of it; loaded, the objective is the same."""
    path = tmp_path / "model.zip"
    model = make_model(objective=KLPenalty(beta=0.3)).learn(N_STEPS)
    model.save(path)
    data = saved_data(path)
    assert data["saved_objective"] == {"path": "tests.test_objectives.KLPenalty", "attributes": {"beta": 0.3}}
    assert "objective" not in data
    assert "saved_objective" not in vars(model)
    loaded = EduPPO.load(path, env=model.env, device="cpu")
    assert type(loaded.objective) is KLPenalty and loaded.objective.beta == 0.3
    assert "saved_objective" not in vars(loaded)
    for one in (model, loaded):
        one.set_random_seed(1)
        one.learn(N_STEPS)
    assert largest_difference(parameters_of(model), parameters_of(loaded)) < 1e-6
    replaced = EduPPO.load(path, objective=TruncatedImportance(c=2.0), device="cpu")
    assert type(replaced.objective) is TruncatedImportance and replaced.objective.c == 2.0


def test_a_checkpoint_has_it_too(tmp_path: Path) -> None:
    """A training that is resumed goes on with the objective that it was interrupted with."""
    model = make_model(objective=KLPenalty(beta=0.3))
    model.learn(2 * N_STEPS, callback=ExactCheckpoint(N_STEPS, tmp_path))
    resumed = EduPPO.resume(tmp_path, make_env())
    assert type(resumed.objective) is KLPenalty and resumed.objective.beta == 0.3


def test_untrusted_files_may_not_name_a_foreign_objective(tmp_path: Path) -> None:
    """With ``trusted=False`` it is refused by its path, before anything is imported; PPO's own needs no entry and loads."""
    path = tmp_path / "model.zip"
    make_model(objective=KLPenalty).save(path)
    with pytest.raises(UntrustedFileError, match=r"the objective 'tests\.test_objectives\.KLPenalty'"):
        EduPPO.load(path, device="cpu", trusted=False)
    make_model().save(path)
    assert "saved_objective" not in saved_data(path)
    assert type(EduPPO.load(path, device="cpu", trusted=False).objective) is PPOObjective
    assert type(PPO.load(path, device="cpu")) is PPO


class Slotted(KLPenalty):
    """Keeps a number in a slot."""

    __slots__ = ("target",)

    def __init__(self, target: float = 0.5) -> None:
        super().__init__()
        self.target = target


KEPT: list[Any] = [3, 0.1, math.inf, True, None, "text", [1, [2.5, None]], {"a": {"b": [1]}}]


@pytest.mark.parametrize("value", KEPT, ids=repr)
def test_what_is_saved_comes_back_the_same(value: Any, tmp_path: Path) -> None:
    """Python's own numbers and text, lists and dicts of them, and slots: equal and of the same type."""
    objective: Any = Slotted(target=2.0)
    objective.extra = value
    make_model(objective=objective).save(tmp_path / "model.zip")
    loaded: Any = EduPPO.load(tmp_path / "model.zip", device="cpu").objective
    assert isinstance(loaded, Slotted)
    assert (loaded.target, loaded.beta) == (2.0, objective.beta)
    assert (vars(loaded)["extra"], type(vars(loaded)["extra"])) == (value, type(value))


LOST = {
    "beta is a Tensor": th.ones(3),
    "beta is a tuple": (0.1, 0.2),
    "beta is a float32": np.float32(0.1),
    "beta is a float64": np.float64(0.1),
    "beta has the key 1": {1: 0.1},
    "beta['a'][1] is a set": {"a": [1, {2}]},
    "beta is a function": lambda: 0,
}


@pytest.mark.parametrize("said", LOST)
def test_what_can_not_be_saved_is_named(said: str, tmp_path: Path) -> None:
    """An attribute that would be lost, or come back as another type, is refused by ``save`` with path and name."""
    objective: Any = KLPenalty()
    objective.beta = LOST[said]
    path = re.escape("objective=tests.test_objectives.KLPenalty: its attributes can't be saved: " + said)
    with pytest.raises(ArgumentError, match=f"^{path}: expected Python's own numbers"):
        make_model(objective=objective).save(tmp_path / "model.zip")
