"""Observations that nothing can be predicted from are refused by every model, with what was found and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu import EduPPO, MaskableEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.checks import ArgumentError
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk

SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu"}
VECTOR, CHOICE = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
KEYS = "expected 'choice', 'vector'"

WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ({}, f"no 'choice' in an empty dict, {KEYS}"),
    "a key is missing": ({"choice": CHOICE}, f"no 'vector' in a dict with the keys 'choice', {KEYS}"),
    "one too many": (
        {"vector": VECTOR, "choice": CHOICE, "vectors": 0},
        f"the key 'vectors' (did you mean 'vector'?), {KEYS}",
    ),
    "another shape": (
        {"vector": VECTOR[:, :2], "choice": CHOICE},
        "shape (2, 2) for 'vector', expected (3,), or (n, 3) of n env",
    ),
    "another number": ({"vector": VECTOR, "choice": CHOICE[:1]}, "2 of 'vector', 1 of 'choice', expected as many of each"),
    "an array": (VECTOR, "an array of shape (2, 3), expected a dict with the keys 'choice', 'vector'"),
    "None": (None, "None, expected a dict with the keys 'choice', 'vector'"),
}


@pytest.fixture(scope="module", params=["plain", "masks", "memory"])
def model(request: pytest.FixtureRequest) -> EduPPO:
    """A model of each kind, whose observations have two keys."""
    if request.param == "memory":
        return RecurrentEduPPO("MultiInputLstmPolicy", RandomWalk("dict", "discrete"), **SMALL)
    if request.param == "masks":
        return MaskableEduPPO("MultiInputPolicy", MaskedWalk("dict", "discrete"), **SMALL)
    return EduPPO("MultiInputPolicy", RandomWalk("dict", "discrete"), **SMALL)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_dict_is_refused_by_its_fault(model: EduPPO, case: str) -> None:
    """Keys, shapes and numbers, also where a mask or a state is given with it, and its observations are counted first."""
    observation, message = WRONG[case]
    further: list[dict[str, Any]] = [{}]
    if isinstance(model, MaskableEduPPO):
        further.append({"action_masks": np.ones((2, 3), bool)})
    elif isinstance(model, RecurrentEduPPO):
        further.append({"episode_start": np.ones(2, bool)})
    for given in further:
        with pytest.raises(ArgumentError) as error:
            model.predict(observation, **given)
        assert str(error.value).startswith(f"observation: found {message}")


def test_what_reset_gives_outside_vector_environments_is_refused(model: EduPPO) -> None:
    """With SB3's words where it has some, and where it has none with ours."""
    given: Any = ({"vector": VECTOR, "choice": CHOICE}, {})
    with pytest.raises(ValueError, match=r"mixing Gym API|found a tuple, expected the observation alone"):
        model.predict(given)


def test_what_sb3_takes_is_taken_and_what_it_says_is_said(model: EduPPO) -> None:
    """Lists, one environment or several; and an error that is not the observation's stays as it is."""
    lists: Any = {"vector": VECTOR.tolist(), "choice": [0, 1]}
    one: Any = {"vector": VECTOR[0], "choice": 1}
    assert (model.predict(lists)[0].shape, model.predict(one)[0].shape) == ((2,), ())
    assert model.policy.training is False
    policy, model.policy = model.policy, None  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="NoneType"):
        model.predict({"vector": VECTOR, "choice": CHOICE})
    model.policy = policy


def test_an_array_is_refused_by_sb3_and_a_dict_for_it_by_us() -> None:
    """Where observations are arrays SB3 says what shape it expects."""
    model = EduPPO("MlpPolicy", RandomWalk(), **SMALL)
    with pytest.raises(ValueError, match=r"Unexpected observation shape \(2, 2\)"):
        model.predict(np.zeros((2, 2), np.float32))
    with pytest.raises(ArgumentError, match="observation: found a dict with the keys 'vector', expected an array for Box"):
        model.predict({"vector": VECTOR})


@pytest.mark.parametrize("kind", [EduPPO, MaskableEduPPO])
def test_what_is_for_the_critic_alone_may_be_left_out(kind: Any) -> None:
    """The action is that of the whole observation; the error of a wrong one says what need not be there."""
    model = kind("MultiInputPolicy", MaskedWalk("dict", "discrete"), critic_keys=["vector"], **SMALL)
    for choice, vector in ((CHOICE, VECTOR), (1, VECTOR[0])):
        whole, alone = ({"choice": choice, "vector": vector}, {"choice": choice})
        found = [model.predict(one, deterministic=True)[0] for one in (whole, alone)]
        np.testing.assert_array_equal(*found)
    for wrong in ({}, {"vector": VECTOR}):
        with pytest.raises(ArgumentError, match=r"found no 'choice' in .*, expected 'choice', 'vector' \(may be left out\)"):
            model.predict(wrong)
