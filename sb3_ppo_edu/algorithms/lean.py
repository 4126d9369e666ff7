"""Whether a rollout needs no more than the lean loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.acting import ActingModel
from sb3_ppo_edu.algorithms.callbacks import may_change_policy, reads_every_step
from sb3_ppo_edu.algorithms.checks import NOT_STEPPED, not_finite
from sb3_ppo_edu.algorithms.model import PPOModel
from sb3_ppo_edu.algorithms.session import Session
from sb3_ppo_edu.engines import Engine, NonFiniteUpdateError
from sb3_ppo_edu.rollouts.lean import serves_lean_loop

PER_STEP = ("act", "within_bounds")
"""Methods of the model that the ordinary loop calls at each step, and somebody may have replaced."""


Keep = Callable[[Any, NDArray[Any], list[dict[str, Any]]], None]
"""What is called with three things that a step has given."""


def lean_steps(
    model: PPOModel,
    env: VecEnv,
    engine: Engine[Any],
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
    bootstrap: Callable[..., None],
) -> tuple[Callable[[int], NDArray[Any]], Keep, Keep] | None:
    """
    Give what the lean loop calls at each step, where a rollout needs no more than that.

    :param model: an ``EduPPO``
    :param env: the training environments
    :param engine: its engine
    :param callback: the outermost callback
    :param rollout_buffer: the rollout buffer, emptied
    :param n_rollout_steps: steps that are wanted
    :param bootstrap: adds what a time limit has cut off: given the engine, rewards, dones and infos
    :return: a function that, for the index of a step, acts there and gives what the environments take, ``bootstrap``
        without the engine, and the model's ``end_step``; None where the ordinary loop is needed: another engine or buffer, a
        callback that reads each step or may change the policy, a session that steps in, or a subclass with methods of its own
    """
    from sb3_ppo_edu.engines.fused.engine import FusedEngine  # here, since most who import EduPPO's class do not train
    from sb3_ppo_edu.engines.fused.masked import MaskedEngine

    if (
        not isinstance(engine, FusedEngine)
        or type(engine) not in (FusedEngine, MaskedEngine)
        or "act" in vars(engine)
        or type(model.session) is not Session
        or model.session.n_processes != 1
        or reads_every_step(callback)
        or may_change_policy(callback)
        or n_rollout_steps != rollout_buffer.buffer_size
        or not serves_lean_loop(rollout_buffer)
        or any(getattr(type(model), name) is not getattr(PPOModel, name) or name in vars(model) for name in PER_STEP)
        or owner_of(model, "acting_inputs") is not owner_of(model, "store_inputs")
        or (act_in := engine.acting_in(rollout_buffer)) is None
    ):
        return None
    act, within_bounds, store_inputs = act_in, model.within_bounds, model.store_inputs
    given_more = owner_of(model, "store_inputs") is not ActingModel

    def acted(step: int) -> NDArray[Any]:
        """Act, and stop before what is not finite reaches an environment."""
        if given_more:
            store_inputs(env, rollout_buffer, step)
        try:
            actions: NDArray[Any] = within_bounds(act(step))
            return actions
        except NonFiniteUpdateError as error:
            raise not_finite(f"{error} after {model.num_timesteps} steps", NOT_STEPPED) from error

    return acted, partial(bootstrap, engine), model.end_step


def owner_of(model: PPOModel, name: str) -> Any:
    """Give the class that a model has a method of, or the model itself where it carries the method."""
    return model if name in vars(model) else next(kind for kind in type(model).__mro__ if name in vars(kind))
