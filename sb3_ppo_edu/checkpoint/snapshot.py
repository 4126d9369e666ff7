"""
All that decides a training's future, taken from it and put back.

The state is taken between two steps of the environments, anywhere in a rollout. It is plain data (see
:mod:`sb3_ppo_edu.checkpoint.plain`); only the model's constructor arguments, which may be classes and functions, are kept in
SB3's own format beside it.
"""

from __future__ import annotations

import io
import random
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.callbacks import OUTSIDE, callbacks_of
from sb3_ppo_edu.algorithms.checks import adaptive_rate, check_number
from sb3_ppo_edu.algorithms.environment_numbers import UnfinishedEpisodes
from sb3_ppo_edu.algorithms.saved_objective import describe_objective, restore_objective
from sb3_ppo_edu.checkpoint.environments import RESET, capture_vec_env, restore_vec_env
from sb3_ppo_edu.checkpoint.files import CheckpointError
from sb3_ppo_edu.checkpoint.logs import capture_logger, restore_waiting
from sb3_ppo_edu.checkpoint.plain import plain_attributes, restore_plain

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO

MODEL_SKIP = frozenset(
    (
        "start_time",
        "device",
        "verbose",
        "tensorboard_log",
        "_custom_logger",
        "resumed_envs",
        "resumed_engine",
        "_session",
        "_engines",
        "_learning",
        "_read_rate",
        "_saved_statistics",
        "objective",
    )
)
"""Attributes of a model that belong to the process, or have a place of their own."""

OF_THE_FIRST_EDITION = frozenset(("engine_reason", "_engine_choice", "_truncated_episodes", "compile", "bf16"))
"""Attributes in checkpoints of version 0.1 that are no attributes any more."""

INSIDE = ("callback", "callback_on_new_best")
"""Attributes of SB3's callbacks for others inside of them, which may be None."""

NOISE = ("exploration_mat", "exploration_matrices")
"""What gSDE draws once for many steps."""


# -- the training --------------------------------------------------------------------------------------------------------


def capture(model: EduPPO, callback: BaseCallback | None) -> dict[str, Any]:
    """
    Take the state of a training between two steps.

    :param model: in the middle of ``learn``
    :param callback: the outermost callback, or None
    :return: plain data, not copied: write it before training goes on
    """
    assert model.env is not None
    attributes, _ = plain_attributes(model, MODEL_SKIP)
    session = model.session
    return {
        "model": attributes,
        "iteration": session.iteration,
        "rollout_steps": session.rollout_steps,
        "bootstraps": session.bootstraps,
        "unfinished": session.unfinished.sums(),
        "objective": describe_objective(model.objective),
        "learning_rate": getattr(adaptive_rate(model.lr_schedule), "rate", None),
        "elapsed": time.time_ns() - model.start_time,
        "parameters": model.get_parameters(),
        "noise": {name: vars(model.policy.action_dist).get(name) for name in NOISE},
        "rollout": capture_rollout(model.rollout_buffer, session.rollout_steps),
        "env": capture_vec_env(model.env),
        "callbacks": [capture_callback(one) for one in callbacks_of(callback)],
        "logger": capture_logger(model.logger),
        "random": capture_random(),
        "arithmetic": arithmetic_of(model),
    }


def arithmetic_of(model: EduPPO) -> str:
    """
    Say who computes a model's training, as far as its bits depend on it.

    :param model: the model
    :return: the engine's name, and for kernels the instruction set; v3 and v4 have the same bits
    """
    name, _, reason = model.engine_reason.partition(":")
    found = re.search(r"kernels for (\w+)", reason)
    return name if found is None else f"{name}, {found[1].replace('v4', 'v3')}"


def constructor(model: EduPPO) -> bytes:
    """
    Keep what the model was built from.

    :return: SB3's zip file
    """
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def restore(model: EduPPO, callback: BaseCallback, state: dict[str, Any], environments: list[str]) -> None:
    """
    Put a training's state into a model whose environments have theirs already.

    :param model: built from the constructor's file, with ``learn`` set up
    :param callback: the outermost callback
    :param state: as :func:`capture` gave it
    :param environments: how each environment was restored
    """
    restore_attributes(model, state)
    session = model.session
    session.iteration, session.rollout_steps = state["iteration"], state["rollout_steps"]
    # Before, only their number was kept; in version 0.1 with the model.
    counted = state.get("truncated_episodes", state["model"].get("_truncated_episodes", 0))
    session.bootstraps = [*map(tuple, state.get("bootstraps", [(0, 0, 0.0)] * counted))]
    session.unfinished = UnfinishedEpisodes(state.get("unfinished"))
    model.start_time = time.time_ns() - state["elapsed"]
    model.set_parameters(state["parameters"], exact_match=True)
    for name, value in state["noise"].items():
        if value is not None:
            setattr(model.policy.action_dist, name, value)
    restore_rollout(model.rollout_buffer, state["rollout"])
    restore_callbacks(callback, state["callbacks"])
    restore_waiting(model.logger, state["logger"])
    restart_episodes(model, environments)
    # Last: whatever was done above may have drawn random numbers.
    restore_random(state["random"])


def restore_attributes(model: EduPPO, state: dict[str, Any]) -> None:
    """
    Put a model's attributes back.

    :param state: as :func:`capture` gave it, or version 0.1
    """
    vars(model).update({name: value for name, value in state["model"].items() if name not in OF_THE_FIRST_EDITION})
    if state.get("objective") is not None:
        model.objective = restore_objective(state["objective"])
    rate = adaptive_rate(model.lr_schedule)
    if rate is not None and state.get("learning_rate") is not None:
        rate.rate = check_number("learning_rate", state["learning_rate"], rate.low, rate.high)


def restart_episodes(model: EduPPO, environments: list[str]) -> None:
    """
    Begin new episodes where environments could not be restored.

    An episode can't be begun in one environment of a vector alone, so that then all of them begin one.

    :param environments: how each was restored
    """
    if any(how.startswith(RESET) for how in environments):
        assert model.env is not None
        model.begin_episodes(model.env.reset())


def capture_rollout(buffer: Any, steps: int) -> dict[str, Any]:
    """
    Take the part of a rollout that is done.

    :param steps: steps that are done, per environment
    """
    arrays = {}
    for name, value in vars(buffer).items():
        for key, array in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(array, np.ndarray) and array.shape[:1] == (buffer.buffer_size,):
                arrays[name if key is None else f"{name}/{key}"] = array[:steps]
    return {"steps": steps, "arrays": arrays}


def restore_rollout(buffer: Any, state: dict[str, Any]) -> None:
    """
    Put the part of a rollout that was done back.

    :param state: as :func:`capture_rollout` gave it
    """
    buffer.reset()
    buffer.pos = state["steps"]
    buffer.full = state["steps"] == buffer.buffer_size
    if not state["steps"]:
        return  # After an update of a single environment's rollout the arrays are flattened, and look like the buffer's.
    for name, array in state["arrays"].items():
        attribute, _, key = name.partition("/")
        target = getattr(buffer, attribute)
        (target[key] if key else target)[: state["steps"]] = array


# -- random states -------------------------------------------------------------------------------------------------------


def capture_random() -> dict[str, Any]:
    """Take the states of Python's, numpy's and torch's generators."""
    version, numbers, gauss = random.getstate()
    found: dict[str, Any] = {
        "python": [version, np.array(numbers, dtype=np.uint64), gauss],
        "numpy": np.random.get_state(legacy=False),
        "torch": th.get_rng_state(),
    }
    if th.cuda.is_available() and th.cuda.is_initialized():
        found["cuda"] = th.cuda.get_rng_state_all()
    return found


def restore_random(state: dict[str, Any]) -> None:
    """
    Set the states of Python's, numpy's and torch's generators.

    :param state: as :func:`capture_random` gave it
    """
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(int(one) for one in numbers), gauss))
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    if "cuda" in state and th.cuda.is_available():
        th.cuda.set_rng_state_all(state["cuda"])


# -- callbacks -----------------------------------------------------------------------------------------------------------


def capture_callback(callback: BaseCallback) -> dict[str, Any]:
    """Take a callback's state: its attributes that are plain data, and its own environments (``EvalCallback``)."""
    plain, _ = plain_attributes(callback, not_its_own(callback))
    envs = {name: capture_vec_env(value) for name, value in vars(callback).items() if is_own_env(name, value)}
    return {"class": type(callback).__name__, "attributes": plain, "envs": envs}


def not_its_own(callback: BaseCallback) -> frozenset[str]:
    """Name the attributes of a callback that belong to the training, or are what the resumed one's callback says."""
    return OUTSIDE.union(INSIDE, getattr(callback, "not_resumed", ()))


def is_own_env(name: str, value: Any) -> bool:
    """Tell whether an attribute of a callback is an environment of its own."""
    return name not in OUTSIDE and isinstance(value, VecEnv)


def restore_callbacks(callback: BaseCallback, states: list[dict[str, Any]]) -> None:
    """
    Put the callbacks' states back.

    :param states: as :func:`capture_callback` gave them, in order
    :raises CheckpointError: if the callbacks are others
    """
    own = list(callbacks_of(callback))
    names, expected = [type(one).__name__ for one in own], [state["class"] for state in states]
    if names != expected:
        raise CheckpointError(f"callbacks: found {names}, expected those of the interrupted run in the same order: {expected}")
    for one, state in zip(own, states, strict=True):
        restore_plain(one, state["attributes"], not_its_own(one))
        for name, env in state["envs"].items():
            restore_vec_env(vars(one)[name], env, replay=False)
