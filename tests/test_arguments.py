"""PPO's arguments: defaults, plain values, what is refused by itself and together, and what ``load`` and old files give."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import (
    CHECKS,
    OLD_NAMES,
    SCHEDULES,
    PPOArguments,
    check_changes,
    check_rollout_size,
    with_old_names,
)
from sb3_ppo_edu.algorithms.checks import ArgumentError
from sb3_ppo_edu.training.hyperparameters import RUN_ARGUMENTS

NUMBERS = (*SCHEDULES, "gamma", "gae_lambda", "max_grad_norm", "target_kl", "clip_advantage")
INTEGERS = ("n_steps", "batch_size", "n_epochs", "sde_sample_freq", "stats_window_size", "seed")
FLAGS = ("normalize_advantage", "use_sde", "recompute_advantages")

LEGAL: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(NUMBERS, st.floats(0.01, 1.0)),
    **dict.fromkeys(INTEGERS, st.integers(2, 100)),
    "recompute_advantages": st.booleans(),
    "engine": st.sampled_from(["auto", "autograd", "numpy", "fused"]),
    "engine_kwargs": st.fixed_dictionaries({}, optional=dict.fromkeys(OLD_NAMES, st.booleans())),
    "dual_clip": st.none() | st.floats(1.5, 5.0),
    "kl_estimator": st.sampled_from(["k3", "k1"]),
    "vf_lambda": st.none() | st.floats(0.0, 1.0),
}
"""Arguments that are legal whatever the others are, and values of theirs."""

CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "gamma": st.sampled_from([0.9, 2.0, np.float32(0.5), "a"]),
    "batch_size": st.sampled_from([1, 2, 24, 0, 1.5, np.int64(32)]),
    "micro_batch_size": st.sampled_from([None, 1, 2, 5]),
    "normalize_advantage": st.booleans(),
    "advantage_normalization": st.sampled_from(["minibatch", "batch"]),
    "target_kl": st.sampled_from([None, 0.01, -1.0]),
    "kl_check": st.sampled_from(["minibatch", "epoch", "step"]),
    "kl_stop_factor": st.sampled_from([1.5, 2.0]),
    "clip_range_vf": st.sampled_from([None, 0.2, "lin_0.1", 0.0]),
    "vf_lambda": st.sampled_from([None, 0.9, 1.5]),
    "vf_n_steps": st.sampled_from([None, 5, 0]),
    "vf_clip_mode": st.sampled_from(["sb3", "max", "maximum"]),
    "log_std_bounds": st.sampled_from([None, [-2, 0.5], (1.0, -1.0)]),
    "engine_kwargs": st.sampled_from([None, {"bf16": True}, {"bf16": 1}, 3]),
    "engine": st.sampled_from(["numpy", "torch"]),
    "objective": st.sampled_from([None, "package.module.Class", "nodots", 3]),
}
"""Arguments and values, legal and not, alone and together."""


def error_of(function: Any, *args: Any, **kwargs: Any) -> str:
    """
    Call a function and keep what it complains about.

    :return: the message of its ``ArgumentError``, or "" if there was none
    """
    try:
        function(*args, **kwargs)
    except ArgumentError as error:
        return str(error)
    return ""


def of(**values: Any) -> PPOArguments:
    """
    Construct the arguments.

    :param values: by name, of whatever type
    :return: the arguments, checked
    """
    return PPOArguments(**values)


# -- the list ----------------------------------------------------------------------------------------------------------------


def test_every_argument_has_its_check() -> None:
    """The table of checks and the fields are the same names in the same order."""
    assert tuple(CHECKS) == tuple(one.name for one in fields(PPOArguments))


def test_names_and_defaults_are_the_constructors() -> None:
    """What both have, has one default; the rest of the constructor's arguments is passed on without a look at it."""
    parameters = inspect.signature(EduPPO.__init__).parameters
    shared = [name for name in parameters if name in CHECKS]
    assert len(shared) >= len(CHECKS) - 2
    assert {name: parameters[name].default for name in shared} == {name: getattr(PPOArguments, name) for name in shared}
    unchecked = ("policy", "policy_kwargs", "rollout_buffer_class", "rollout_buffer_kwargs")
    assert set(parameters) - set(CHECKS) <= {"self", *unchecked, *RUN_ARGUMENTS, *OLD_NAMES}


def test_sb3s_defaults() -> None:
    """Each argument that SB3's PPO has too has SB3's default."""
    theirs = inspect.signature(PPO.__init__).parameters
    shared = [name for name in CHECKS if name in theirs]
    assert len(shared) == 17
    for name in shared:
        assert getattr(PPOArguments(), name) == theirs[name].default, name


def test_arguments_are_taken_out_of_a_mapping() -> None:
    """Names that are no arguments stay behind, and what is missing has its default."""
    assert PPOArguments.of({"self": object(), "policy": "MlpPolicy", "gamma": 1}) == PPOArguments(gamma=1.0)


# -- plain values ------------------------------------------------------------------------------------------------------------


@given(st.sampled_from(NUMBERS), st.floats(0.01, 0.99), st.sampled_from([np.float16, np.float32, np.float64, th.tensor]))
def test_numbers_of_numpy_and_torch_are_taken_as_floats(name: str, number: float, kind: Any) -> None:
    """The arguments are those of ``float(x)``, and hold it."""
    value = kind(number)
    arguments = of(**{name: value})
    assert arguments == of(**{name: float(value)})
    assert type(getattr(arguments, name)) is float


@given(st.sampled_from(INTEGERS), st.integers(2, 100), st.sampled_from([np.int8, np.int64, np.array, th.tensor]))
def test_integers_of_numpy_and_torch_are_taken_as_ints(name: str, number: int, kind: Any) -> None:
    """The arguments are those of the integer, and hold it."""
    arguments = of(**{name: kind(number)})
    assert arguments == of(**{name: number})
    assert type(getattr(arguments, name)) is int


@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_numpy_are_taken_as_bools(name: str) -> None:
    """The False of numpy is False itself."""
    assert getattr(of(**{name: np.bool_(False)}), name) is False


@given(st.fixed_dictionaries({}, optional=LEGAL))
def test_checked_arguments_pass_as_they_are(values: dict[str, Any]) -> None:
    """To check what was checked changes nothing."""
    once = of(**values)
    assert PPOArguments(**vars(once)) == once


def test_schedules_are_read() -> None:
    """Each of the five takes a function, which it keeps, and a line."""
    function = ConstantSchedule(0.3)
    for name in SCHEDULES:
        assert getattr(of(**{name: function}), name) is function
        assert isinstance(getattr(of(**{name: "lin_0.1"}), name), LinearSchedule)


def test_infinity_switches_the_gradient_clipping_off() -> None:
    """``max_grad_norm`` may be infinite, of any type; other numbers may not."""
    for value in (math.inf, np.float32(math.inf), th.tensor(math.inf)):
        assert of(max_grad_norm=value).max_grad_norm == math.inf
    with pytest.raises(ArgumentError, match="max_grad_norm=array"):
        of(max_grad_norm=np.array([1.0, math.inf]))


# -- refusals ----------------------------------------------------------------------------------------------------------------


class Own:
    """An engine or an objective of somebody's own."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "torch"}, "engine='torch': expected one of 'auto', 'autograd', 'numpy', 'fused', or a class or function"),
        ({"engine": None}, "engine=None: expected one of 'auto'"),
        ({"engine_kwargs": [1]}, r"engine_kwargs=\[1\]: expected None or a dict of the engine's options"),
        ({"engine_kwargs": {1: True}}, "engine_kwargs={1: True}: expected None or a dict"),
        ({"engine_kwargs": {"bf16": 1}}, "engine_kwargs: bf16=1: expected True or False"),
        ({"engine_kwargs": {"bf16": True}, "use_sde": True}, "bf16=True with use_sde=True: gSDE's noise"),
        *(({"objective": value}, "objective=.*: expected None, an objective, its class") for value in (3, "x", "a.", "a.b-c")),
        ({"objective": np.float32(1)}, "objective=.*expected"),
        ({"batch_size": 1}, r"batch_size=1: expected an integer ≥ 2 \(advantages are normalised per minibatch\)"),
        ({"batch_size": 0, "normalize_advantage": False}, "batch_size=0: expected an integer ≥ 1"),
        ({"micro_batch_size": 48}, "micro_batch_size=48: expected a divisor of batch_size=64"),
        (
            {"kl_check": "epoch"},
            "kl_check='epoch': expected with a target_kl, found target_kl=None: set target_kl, such as 0.02",
        ),
        ({"kl_stop_factor": 2}, "kl_stop_factor=2.0: expected with a target_kl, found target_kl=None: set target_kl"),
        ({"vf_clip_mode": "max"}, "vf_clip_mode='max': expected with a clip_range_vf, found clip_range_vf=None: set it"),
        ({"normalize_advantage": False, "advantage_normalization": "batch"}, "advantage_normalization='batch' with norm"),
        ({"use_sde": True, "action_distribution": "beta"}, "action_distribution='beta' with use_sde=True: gSDE has"),
        ({"log_std_bounds": (-1, 1), "use_sde": True}, r"log_std_bounds=\(-1.0, 1.0\) with use_sde=True: expected a Gauss"),
        ({"seed": -1}, "seed=-1: expected an integer ≥ 0"),
        ({"clip_range": lambda _: 0.0}, r"clip_range\(1.0\)=0.0: expected a finite number > 0: a schedule maps"),
    ],
)
def test_wrong_arguments_are_refused(values: dict[str, Any], message: str) -> None:
    """By name, with what was found and what was expected; together, with what contradicts it."""
    with pytest.raises(ArgumentError, match=f"^{message}"):
        of(**values)


TINY = 5e-324
"""The smallest float above 0."""


@pytest.mark.parametrize(
    ("names", "legal", "wrong"),
    [
        (("n_steps", "n_epochs", "stats_window_size", "micro_batch_size"), (1,), (0, -1)),
        (("batch_size",), (2,), (1, 0)),
        (("sde_sample_freq",), (-1, 0), (-2,)),
        (("seed",), (0, None), (-1,)),
        (("gamma", "gae_lambda"), (0.0, 1.0), (-TINY, math.nextafter(1.0, 2.0))),
        (("vf_lambda",), (0.0, 1.0, None), (-TINY, math.nextafter(1.0, 2.0))),
        (("vf_n_steps",), (1, None), (0, 1.5)),
        (("learning_rate", "vf_coef"), (0.0, 1e300, "lin_0"), (-TINY, math.inf, math.nan, "lin_-1", None)),
        (("ent_coef",), (-1e300, 1e300, "lin_-1"), (-math.inf, math.nan, None)),
        (("clip_range",), (TINY, 1e300), (0.0, math.inf, "lin_0", None)),
        (("clip_range_vf",), (TINY, 1e300, None), (0.0, math.inf, "lin_0")),
        (("target_kl", "clip_advantage"), (TINY, 1e300, None), (0.0, math.inf, math.nan)),
        (("max_grad_norm",), (TINY, math.inf), (0.0, -math.inf, math.nan, None)),
        (("dual_clip",), (math.nextafter(1.0, 2.0), None), (1.0, math.inf)),
        (("log_std_bounds",), ((-1.0, 1.0), None), ((1.0, 1.0), (0.0,), (0.0, math.inf))),
    ],
)
def test_ranges_end_where_they_should(names: tuple[str, ...], legal: tuple[Any, ...], wrong: tuple[Any, ...]) -> None:
    """The last legal value at each end passes, and its neighbour is refused."""
    for name in names:
        for value in legal:
            of(**{name: value})
        for value in wrong:
            with pytest.raises(ArgumentError, match=f"^{name}="):
                of(**{name: value})
    of(target_kl=0.1, kl_stop_factor=TINY)
    with pytest.raises(ArgumentError, match=r"^kl_stop_factor=0\.0: expected a finite number > 0"):
        of(target_kl=0.1, kl_stop_factor=0.0)


@pytest.mark.parametrize("name", CHECKS)
def test_every_argument_refuses_what_it_cannot_be(name: str) -> None:
    """A list of nothing is none of the arguments, and the error begins with the argument's name."""
    with pytest.raises(ArgumentError, match=rf"^{name}="):
        of(**{name: [object()]})


def test_engines_and_objectives_of_ones_own_pass() -> None:
    """A class or function makes an engine; an objective is an instance, a class or a path; options of an own engine pass."""
    assert PPOArguments(engine=Own, engine_kwargs={"size": 3}).engine_kwargs == {"size": 3}
    assert PPOArguments(engine=error_of).engine is error_of
    for objective in (None, Own, Own(), "package.module.Class"):
        assert PPOArguments(objective=objective).objective is objective


def test_rollouts_are_large_enough_and_divided() -> None:
    """One transition has no standard deviation; a remainder is announced with its size; what divides passes silently."""
    with pytest.raises(
        ArgumentError, match=r"^n_steps=1 with n_envs=1: expected a rollout of at least 2 transitions .* raise n_"
    ):
        check_rollout_size(n_steps=1, n_envs=1, batch_size=64, normalize_advantage=True)
    check_rollout_size(n_steps=1, n_envs=1, batch_size=1, normalize_advantage=False)
    check_rollout_size(n_steps=16, n_envs=4, batch_size=32, normalize_advantage=True)
    with pytest.warns(
        UserWarning, match=r"^batch_size=63 does not .* = 64 trans.*there will be a truncated mini-batch of size 1 "
    ):
        check_rollout_size(n_steps=64, n_envs=1, batch_size=63, normalize_advantage=True)


# -- old names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"gamma": 0.9}, {"gamma": 0.9}),
        ({"bf16": True, "policy": "MlpPolicy"}, {"policy": "MlpPolicy", "engine_kwargs": {"bf16": True}}),
        ({"bf16": False, "compile": False}, {}),
        ({"bf16": np.bool_(True), "compile": True}, {"engine_kwargs": {"bf16": True, "compile": True}}),
        ({"compile": True, "engine_kwargs": {"bf16": True}}, {"engine_kwargs": {"bf16": True, "compile": True}}),
        ({"compile": True, "engine_kwargs": {"compile": True}}, {"engine_kwargs": {"compile": True}}),
        ({"compile": True, "engine_kwargs": None}, {"engine_kwargs": {"compile": True}}),
    ],
)
def test_old_names_are_read(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """What is on becomes an option of the engine, what is off goes, the rest stays; what was given is not changed."""
    before = dict(found)
    assert with_old_names(found) == expected
    assert with_old_names(expected) == expected
    assert found == before


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"bf16": 1}, "bf16=1: expected True or False"),
        (
            {"bf16": True, "engine_kwargs": {"bf16": False}},
            "bf16=True with engine_kwargs={'bf16': False}: expected one of the",
        ),
        (
            {"bf16": False, "engine_kwargs": {"bf16": True}},
            "bf16=False with engine_kwargs={'bf16': True}: expected one of the",
        ),
        ({"bf16": True, "engine_kwargs": 3}, "engine_kwargs=3: expected None or a dict"),
    ],
)
def test_old_names_that_contradict_are_refused(found: dict[str, Any], message: str) -> None:
    """An old name and the option must say the same."""
    with pytest.raises(ArgumentError, match=f"^{message}"):
        with_old_names(found)


# -- load --------------------------------------------------------------------------------------------------------------------


@given(st.fixed_dictionaries({}, optional=LEGAL), st.fixed_dictionaries({}, optional=CHANGES))
def test_load_refuses_what_the_constructor_refuses(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Changed arguments are checked together with the saved ones: the same message, or the same arguments."""
    saved = vars(of(**values))
    message = error_of(PPOArguments, **{**saved, **changes})
    assert error_of(check_changes, saved, changes) == message
    if not message:
        found = check_changes(saved, changes)
        assert set(found) == set(changes)
        constructed = vars(of(**{**saved, **changes}))
        assert found == {
            name: found[name] if isinstance(found[name], LinearSchedule) else constructed[name] for name in changes
        }


@pytest.mark.parametrize(("name", "meant"), [("n_step", "n_steps"), ("Gamma", "gamma"), ("learning_rte", "learning_rate")])
def test_load_refuses_unknown_names_with_the_nearest(name: str, meant: str) -> None:
    """A misspelt argument is named with the one that was meant."""
    with pytest.raises(
        ArgumentError, match=rf"^{name}=128: no argument has this name \(did you mean '{meant}'\?\); expected one"
    ):
        check_changes({}, {name: 128})


def test_load_takes_what_sb3s_load_is_given() -> None:
    """Attributes beside the arguments pass as they are, whether the file has them or not, and so does what the file has."""
    attributes = {"verbose": 1, "tensorboard_log": "logs", "policy_kwargs": {}, "n_envs": 2, "_last_obs": None, "seed": 7}
    assert check_changes({}, attributes) == attributes
    assert check_changes({"_n_updates": 3}, {"_n_updates": 0}) == {"_n_updates": 0}


def test_load_lets_functions_through() -> None:
    """The zoo's enjoy puts a function that is 0 in place of the clip range, which the constructor would refuse."""

    def nothing(_: float) -> float:
        return 0.0

    for saved in ({}, {"clip_range": nothing}):
        assert check_changes(saved, {"clip_range": nothing, "gamma": 1}) == {"clip_range": nothing, "gamma": 1.0}
    with pytest.raises(ArgumentError, match=r"^clip_range=0\.0"):
        check_changes({}, {"clip_range": 0.0})


def test_load_changes_the_statistics_window() -> None:
    """SB3 keeps it under a private name, which is the one that counts."""
    for name in ("stats_window_size", "_stats_window_size"):
        assert check_changes({"_stats_window_size": 100}, {name: np.int64(5)}) == {"_stats_window_size": 5}
        with pytest.raises(ArgumentError, match=r"^stats_window_size=0: expected an integer ≥ 1"):
            check_changes({}, {name: 0})


@pytest.mark.parametrize(("name", "value"), [("use_sde", True), ("action_distribution", "beta")])
def test_load_keeps_what_the_policy_was_built_with(name: str, value: Any) -> None:
    """The saved policy has its exploration and distribution; to give the saved ones is no change."""
    with pytest.raises(ArgumentError, match=f"^{name}={value!r}: expected .*, which the saved policy was built with"):
        check_changes({}, {name: value})
    assert check_changes({name: value}, {name: value}) == {name: value}


@pytest.mark.parametrize(
    "saved", [{"compile": True, "bf16": False}, {"compile": True, "engine_kwargs": {}}, {"engine_kwargs": {"compile": True}}]
)
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"bf16": True}, {"compile": True, "bf16": True}),
        ({"compile": False}, {}),
        ({"engine_kwargs": {"bf16": True}}, {"bf16": True}),
    ],
)
def test_load_knows_the_old_names(saved: dict[str, Any], changes: dict[str, Any], options: dict[str, Any]) -> None:
    """An old name changes its option and no other; the loaded attributes of either edition's file say the same."""
    found = check_changes(saved, changes)
    assert found["engine_kwargs"] == options
    assert with_old_names({**saved, **found}) == {"engine_kwargs": options}


def test_load_reads_sb3s_models() -> None:
    """The attributes of SB3's PPO pass, also one that it takes and we don't, unless it is changed to such."""
    theirs = vars(PPO("MlpPolicy", "CartPole-v1", n_steps=64, clip_range_vf=0.2, gamma=2.0, device="cpu"))
    assert check_changes(theirs, {}) == {}
    assert check_changes(theirs, {"vf_clip_mode": "max", "n_steps": 32}) == {"vf_clip_mode": "max", "n_steps": 32}
    with pytest.raises(ArgumentError, match=r"^gamma=2\.0"):
        check_changes(theirs, {"gamma": 2.0})
