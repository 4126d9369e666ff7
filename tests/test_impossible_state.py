"""What no constructor takes is refused where it is set on an object later, and in a stranger's file."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.checks import ArgumentError
from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate, KLPenaltyObjective
from sb3_ppo_edu.functional.schedules import TextSchedule
from sb3_ppo_edu.serialization.errors import DamagedFileError
from tests.model_files import NETWORK, SMALL, make_walk, saved_model, serialized, with_attribute

PENALTY: dict[str, Any] = {"d_targ": 0.01, "beta": 1.0, "estimator": "k3", "clip": False}
RATE: dict[str, Any] = {"target": 0.01, "rate": 3e-4, "low": 1e-5, "high": 1e-2}

WRONG_PENALTY: list[tuple[str, Any]] = [
    *(("d_targ", value) for value in (-1, math.nan, "q", "lin_0_0", "warmup_0.1_0", "lin_0", 10**400, [1])),
    *(("beta", value) for value in (-1, math.nan, "x", None, 10**400)),
    *(("estimator", value) for value in ("k9", None, ["k3"])),
    *(("clip", value) for value in ("no", 0)),
    *(("FACTOR", value) for value in (0.5, "x")),
]
WRONG_RATE: list[tuple[str, Any]] = [
    *(("target", value) for value in (-1, math.nan, "q", "lin_0_0", None, 10**400)),
    *((name, value) for name in ("rate", "low", "high") for value in (math.nan, "x", None, 10**400)),
    ("SLACK", math.nan),
]


def filled(kind: Any, **attributes: Any) -> Any:
    """An instance as a file makes it: empty, and then filled."""
    made = kind.__new__(kind)
    vars(made).update(attributes)
    return made


def in_file(name: str, schedule: Any) -> bytes:
    """A model's file with a schedule in it."""
    return with_attribute(saved_model(), name, serialized(cloudpickle.dumps(schedule)))


@pytest.fixture(scope="module")
def model() -> EduPPO:
    """A model with both kinds of KL control, which has trained."""
    kinds: dict[str, Any] = {"learning_rate": KLAdaptiveLearningRate(), "objective": KLPenaltyObjective()}
    return EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, **kinds, **SMALL).learn(16)


@pytest.mark.parametrize(("name", "value"), WRONG_PENALTY, ids=lambda value: str(value)[:9])
def test_a_penalty_is_checked_where_training_begins(model: EduPPO, name: str, value: Any) -> None:
    """What was set since the last training is refused by name before a step is taken; the model trains on without it."""
    model.objective = KLPenaltyObjective()
    setattr(model.objective, name, value)
    steps = model.num_timesteps
    with pytest.raises(ArgumentError, match=f"^objective=KLPenaltyObjective: {name}="):
        model.learn(16)
    assert model.num_timesteps == steps
    with pytest.raises(ArgumentError, match=f"^objective=KLPenaltyObjective: {name}="):
        EduPPO("MlpPolicy", make_walk(), objective=model.objective, policy_kwargs=NETWORK, **SMALL)


@pytest.mark.parametrize(("name", "value"), WRONG_RATE, ids=lambda value: str(value)[:9])
def test_a_rate_is_checked_where_training_begins(name: str, value: Any) -> None:
    """The same for the learning rate that follows the KL, wherever the model has it."""
    rate: Any = KLAdaptiveLearningRate()
    model = EduPPO("MlpPolicy", make_walk(), learning_rate=rate, policy_kwargs=NETWORK, **SMALL)
    setattr(model.learning_rate, name, value)
    with pytest.raises(ArgumentError, match=f"^learning_rate: {name}="):
        model.learn(16)
    setattr(rate, name, value)
    with pytest.raises(ArgumentError, match=f"^learning_rate: {name}="):
        EduPPO("MlpPolicy", make_walk(), learning_rate=rate, policy_kwargs=NETWORK, **SMALL)


@pytest.mark.parametrize("target", ["lin_0.01", "lin_0_0.01", "warmup_0.1_0.01", "piecewise_0_0.5_0.01"])
def test_a_target_may_be_0_somewhere(target: str) -> None:
    """At an end, not throughout."""
    assert KLPenaltyObjective(target).d_targ == KLAdaptiveLearningRate(target).target == target


@pytest.mark.parametrize(("name", "value"), [*WRONG_PENALTY, ("beta", ...)], ids=lambda value: str(value)[:9])
def test_a_files_penalty_is_checked(name: str, value: Any, tmp_path: Path) -> None:
    """Wrong or missing, it is refused with the file's and the attribute's name, trusted or not."""
    attributes = {**PENALTY, name: value}
    if value is ...:
        del attributes[name]
    path = "sb3_ppo_edu.functional.kl.KLPenaltyObjective"
    file = tmp_path / "model.zip"
    file.write_bytes(with_attribute(saved_model(), "saved_objective", {"path": path, "attributes": attributes}))
    with pytest.raises(DamagedFileError, match=f"^model {file}: .*attribute objective=KLPenaltyObjective: {name}[=:]"):
        EduPPO.load(file, device="cpu", trusted=False, n_epochs=2)
    with pytest.raises(DamagedFileError, match=f"attribute objective=KLPenaltyObjective: {name}[=:]"):
        EduPPO.load(file, device="cpu")


@pytest.mark.parametrize(("name", "value"), WRONG_RATE, ids=lambda value: str(value)[:9])
def test_a_files_rate_is_checked(name: str, value: Any) -> None:
    """The same for the rate."""
    content = in_file("learning_rate", filled(KLAdaptiveLearningRate, **{**RATE, name: value}))
    with pytest.raises(DamagedFileError, match=f"attribute learning_rate: {name}="):
        EduPPO.load(io.BytesIO(content), device="cpu", trusted=False)


def in_itself() -> Any:
    """A schedule that is its own content."""
    made = FloatSchedule(0.2)
    made.value_schedule = made
    return made


SCHEDULES = {
    "kl": filled(TextSchedule, text="kl_0.01"),
    "number": filled(TextSchedule, text=0.2),
    "no text": filled(TextSchedule),
    "unknown": FloatSchedule(filled(TextSchedule, text="fast_1")),
    "rate": KLAdaptiveLearningRate(),
    "end": LinearSchedule(0.2, 0.0, 0.0),
    "no start": filled(LinearSchedule, end=0.0, end_fraction=1.0),
    "text": filled(ConstantSchedule, val="x"),
    "huge": filled(ConstantSchedule, val=10**400),
    "empty": filled(FloatSchedule),
    "no schedule": filled(FloatSchedule, value_schedule=5),
    "itself": in_itself(),
}


@pytest.mark.parametrize("name", ["clip_range", "ent_coef"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_files_schedule_is_checked(name: str, kind: str) -> None:
    """One that can't be asked is refused by its argument, whichever that is."""
    with pytest.raises(DamagedFileError, match=f"attribute {name}[=(:.]"):
        EduPPO.load(io.BytesIO(in_file(name, SCHEDULES[kind])), device="cpu", trusted=False)


def test_piecewise_schedules_have_an_end() -> None:
    """A text is read at every call: a thousand values are enough."""
    pieces = "_".join(f"{share / 1000}_{share}" for share in range(1, 1000))
    assert TextSchedule(f"piecewise_0_{pieces}")(0.5) == 500
    with pytest.raises(ArgumentError, match=r"learning_rate='piecewise_0_.* …: .*and 1,000 values at most") as error:
        EduPPO("MlpPolicy", make_walk(), learning_rate=f"piecewise_0_{pieces}_0.9995_1", **SMALL)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared_net_arch": [2**40]}, r"^shared_net_arch=\[1099511627776\]: found no memory for so much \("),
        ({"shared_net_arch": [2**62]}, r"^shared_net_arch=\[4611686018427387904\]: found no memory for so much \("),
        ({"policy_kwargs": {"net_arch": [2**40]}}, r"^policy_kwargs=\{'net_arch': \[1099511627776\]\}: found no memory"),
        ({"n_steps": 2**45}, r"^n_steps=35184372088832, n_envs=1: found no memory for so much \("),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_no_memory_holds_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    """In the place of what numpy and torch say, which name no argument."""
    with pytest.raises(ArgumentError, match=message):
        EduPPO("MlpPolicy", make_walk(), **{**SMALL, **arguments})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_steps", "16", "n_steps='16': expected an integer ≥ 1"),
        ("n_steps", -3, "n_steps=-3: expected an integer ≥ 1"),
        ("n_envs", True, "n_envs=True: expected an integer ≥ 1"),
        ("policy_kwargs", 5, "policy_kwargs=5: expected a dict"),
    ],
)
def test_a_files_numbers_are_named(name: str, value: Any, expected: str) -> None:
    """Those that say how large the model is, by attribute."""
    with pytest.raises(DamagedFileError, match=expected):
        EduPPO.load(io.BytesIO(with_attribute(saved_model(), name, value)), device="cpu", trusted=False)
