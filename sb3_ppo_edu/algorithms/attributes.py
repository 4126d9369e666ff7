"""Checks of a model's attributes, which users set between two trainings, before ``learn`` goes on with them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_ppo_edu.algorithms.arguments import CHECKS, NETWORKS, PPOArguments
from sb3_ppo_edu.algorithms.checks import ArgumentError, adaptive_rate, parse_schedule, refuse
from sb3_ppo_edu.algorithms.saved_objective import resolve_objective
from sb3_ppo_edu.policies.bounded import resolve_policy
from sb3_ppo_edu.rollouts.buffers import known_kinds

LOAD_ANEW, CONSTRUCT_ANEW = "save it and load it with another", "construct a new one"

HELD = {
    "env": ("a vector environment of SB3's: call set_env(env)", ("num_envs", "reset", "step")),
    "policy": ("an ActorCriticPolicy: construct the model with policy=…", ("evaluate_actions", "set_training_mode")),
    "rollout_buffer": ("a rollout buffer: construct the model with rollout_buffer_class=…", ("buffer_size", "n_envs", "get")),
}
"""What a model holds, what it has to be, and attributes that tell it from something else."""

STORED = {"action_masks": "action_masks", "lstm_states": "hidden_states_pi"}
"""Attributes of sb3-contrib's rollout buffers that store what a policy takes beside observations."""
BUILT_WITH = "the rollout buffer that the model was built with: its rollouts and the policy's memory belong together"


def check_discrete(space: gym.Space, kind: str) -> None:
    """
    Check that discrete spaces count from 0, as SB3 does whatever they say, and that those of observations have one row.

    :param space: of observations or actions
    :param kind: which of the two
    :raises ArgumentError: if one counts from another number, or is a matrix
    """
    if isinstance(space, gym.spaces.Dict):
        for part in space.spaces.values():
            check_discrete(part, kind)
    elif isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete) and np.any(space.start):
        inside, way = ("TransformAction", "+") if kind == "action" else ("TransformObservation", "-")
        raise ArgumentError(
            f"{kind}_space={space}: expected a start of 0, since SB3 ignores another one: declare it without start, and wrap "
            f"the environment in gymnasium.wrappers.{inside}(env, lambda value: value {way} {space.start}, "
            "<space without start>)"
        )
    elif kind == "observation" and isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim > 1:
        raise ArgumentError(
            f"{kind}_space={' '.join(str(space).split())}: expected a MultiDiscrete of one row, as SB3's features extractors: "
            "wrap the environment in gymnasium.wrappers.FlattenObservation, which makes them one-hot"
        )


def check_attributes(model: Any) -> None:
    """
    Check the arguments as the constructor does, and whether they fit what the model was built with.

    :param model: an ``EduPPO``, whose attributes become plain Python values
    :raises ArgumentError: for the first wrong one, naming it, what was found and what was expected
    """
    if model.env is None:
        raise ArgumentError("learn: found env=None, expected an environment: call set_env(env), or load(path, env=env)")
    check_has_environments(model.env, "learn")
    _check_what_sb3_holds(model)
    arguments = PPOArguments.of(vars(model))
    for name in CHECKS.keys() & vars(model).keys():
        setattr(model, name, getattr(arguments, name))
    if rate := adaptive_rate(model.lr_schedule):
        parse_schedule("learning_rate", rate)
    model.objective = resolve_objective(model.objective)
    policy, buffer = model.policy, model.rollout_buffer
    own_distribution = resolve_policy(type(policy), "gaussian")[1] if isinstance(policy, ActorCriticPolicy) else None
    for name, found, expected, remedy in (
        ("n_steps", model.n_steps, buffer.buffer_size, LOAD_ANEW),
        ("n_envs", model.env.num_envs, buffer.n_envs, LOAD_ANEW),
        # A policy with gSDE whose noise is never drawn anew trains, as in SB3.
        ("use_sde", model.use_sde, model.use_sde and getattr(policy, "use_sde", True), CONSTRUCT_ANEW),
        ("action_distribution", model.action_distribution, own_distribution or model.action_distribution, CONSTRUCT_ANEW),
        *(
            (name, getattr(model, name), model.policy_kwargs.get(name, getattr(PPOArguments, name)), CONSTRUCT_ANEW)
            for name in NETWORKS
        ),
    ):
        if found != expected:
            raise refuse(name, found, f"{expected}, which the model was built with: {remedy}")
    check_parts(model)


def check_has_environments(env: Any, where: str) -> None:
    """
    Check that there are environments inside a wrapper.

    :param env: vector environment
    :param where: what needs them
    :raises ArgumentError: if a copy or a pickle has left them out
    """
    while isinstance(env, VecEnvWrapper):
        if env.venv is None:
            raise ArgumentError(
                f"{where}: found a {type(env).__name__} without environments, as copies and pickles have it; expected some: "
                "model.env.set_venv(venv), then model.set_env(model.env), keeps what it has learned; "
                "model.set_env(env) does not"
            )
        env = env.venv


def _check_what_sb3_holds(model: Any) -> None:
    """Check the attributes that are no arguments, or that SB3 checks in its constructor only."""
    for name, (expected, has) in HELD.items():
        held = getattr(model, name)
        if name == "rollout_buffer":
            has = (*has, *(STORED[one] for one in model.further_inputs if one in STORED))
            expected = BUILT_WITH if "lstm_states" in model.further_inputs else expected
        missing = [one for one in has if not hasattr(held, one)]
        if missing or isinstance(held, gym.vector.VectorEnv):
            without = f", found a {type(held).__name__} without {', '.join(missing)}" if missing else ""
            raise refuse(name, held, f"{expected}{without}")
    if not callable(model.lr_schedule):
        raise refuse("lr_schedule", model.lr_schedule, "a function of the remaining progress, such as lambda _: 3e-4")
    # Without a TensorBoard, None is enough for SB3.
    if not isinstance(model.verbose, (int, float, np.number)) and (model.verbose, model.tensorboard_log) != (None, None):
        raise refuse("verbose", model.verbose, "0, 1 or 2")
    try:
        model.device = get_device(model.device)
    except (RuntimeError, TypeError) as error:
        raise refuse("device", model.device, f"a device of torch's, such as 'cpu' ({str(error).splitlines()[0]})") from error


def check_parts(model: Any) -> None:
    """
    Check the arguments that have to fit the policy or the rollout buffer.

    :param model: an ``EduPPO`` with both
    :raises ArgumentError: for the first that does not
    """
    if model.recompute_advantages and type(model.rollout_buffer) not in known_kinds():
        raise ArgumentError(
            f"recompute_advantages=True with rollout_buffer_class={type(model.rollout_buffer).__name__}: expected SB3's "
            "RolloutBuffer or DictRolloutBuffer, or with masks sb3-contrib's, whose order is known; use one of them"
        )
    kind, own_targets = type(model.rollout_buffer), (model.vf_lambda, model.vf_n_steps) != (None, None)
    if own_targets and getattr(kind, "compute_returns_and_advantage", None) is not RolloutBuffer.compute_returns_and_advantage:
        raise ArgumentError(
            f"vf_lambda={model.vf_lambda}, vf_n_steps={model.vf_n_steps} with rollout_buffer_class={kind.__name__}, which "
            "computes targets of its own: expected SB3's compute_returns_and_advantage; leave both out, or use another buffer"
        )
    if model.log_std_bounds is not None and not hasattr(model.policy, "log_std"):
        raise ArgumentError(
            f"log_std_bounds={model.log_std_bounds}: expected a policy with a log_std, found actions in {model.action_space}"
        )
