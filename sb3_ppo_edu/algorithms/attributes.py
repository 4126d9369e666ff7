"""Checks of a model's attributes, which users set between two trainings, before ``learn`` goes on with them."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_ppo_edu.algorithms.arguments import CHECKS, PPOArguments
from sb3_ppo_edu.algorithms.checks import ArgumentError, refuse
from sb3_ppo_edu.algorithms.saved_objective import resolve_objective


def check_attributes(model: Any) -> None:
    """
    Check the arguments as the constructor does, and whether they fit what the model was built with.

    :param model: an ``EduPPO``, whose attributes become plain Python values
    :raises ArgumentError: for the first wrong one, naming it, what was found and what was expected
    """
    if model.env is None:
        raise ArgumentError("learn: found env=None, expected an environment: call set_env(env), or load(path, env=env)")
    arguments = PPOArguments.of(vars(model))
    for name in CHECKS.keys() & vars(model).keys():
        setattr(model, name, getattr(arguments, name))
    model.objective = resolve_objective(model.objective)
    buffer, built_with_sde = model.rollout_buffer, getattr(model.policy, "use_sde", model.use_sde)
    for name, found, expected in (
        ("n_steps", model.n_steps, buffer.buffer_size),
        ("n_envs", model.env.num_envs, buffer.n_envs),
        ("use_sde", model.use_sde, built_with_sde),
    ):
        if found != expected:
            remedy = "construct a new one" if name == "use_sde" else "save it and load it with another"
            raise refuse(name, found, f"{expected}, which the model was built with: {remedy}")
    check_parts(model)


def check_parts(model: Any) -> None:
    """
    Check the arguments that have to fit the policy or the rollout buffer.

    :param model: an ``EduPPO`` with both
    :raises ArgumentError: for the first that does not
    """
    if model.recompute_advantages and type(model.rollout_buffer) not in (RolloutBuffer, DictRolloutBuffer):
        raise ArgumentError(
            f"recompute_advantages=True with rollout_buffer_class={type(model.rollout_buffer).__name__}: expected SB3's "
            "RolloutBuffer or DictRolloutBuffer, whose order is known; use one of the two"
        )
    if model.log_std_bounds is not None and not hasattr(model.policy, "log_std"):
        raise ArgumentError(
            f"log_std_bounds={model.log_std_bounds}: expected a policy with a log_std, found actions in {model.action_space}"
        )
