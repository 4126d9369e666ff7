"""The settings of a training as numbers for its log, so that who reads the log knows what it was made with."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_edu.algorithms.arguments import PPOArguments

OPTIMIZER = {"eps": "optimizer_eps", "weight_decay": "weight_decay", "momentum": "momentum"}
"""Options of torch's optimizers, and their keys in the log."""


def logged_settings(model: OnPolicyAlgorithm) -> dict[str, float]:
    """
    Take down the settings of a training, the environment's time limit, and what its networks and its optimizer are made of.

    :param model: EduPPO, or SB3's PPO
    :return: numbers by name, True and False as 1 and 0; ``n_actions`` of discrete actions, ``action_parts`` of others,
        ``layer_width`` of the narrowest hidden layer, ``trained`` the share of the parameters that the optimizer moves,
        ``adaptive`` whether its steps do not grow with the gradient, ``buffer_gamma`` and ``buffer_gae_lambda`` as the rollout
        buffer has them
    """
    arguments = {one.name: getattr(model, one.name, None) for one in fields(PPOArguments)}
    policy, buffer, space = model.policy, model.rollout_buffer, model.action_space
    parameters, groups = list(policy.parameters()), policy.optimizer.param_groups
    moved = {id(parameter) for group in groups for parameter in group["params"] if parameter.requires_grad}
    size = sum(parameter.numel() for parameter in parameters)
    normalize = model.get_vec_normalize_env()
    numbers: dict[str, Any] = {
        **arguments,
        "n_envs": model.n_envs,
        "buffer_gamma": buffer.gamma,
        "buffer_gae_lambda": buffer.gae_lambda,
        "normalize": normalize is not None,
        "normalize_observations": normalize is not None and normalize.norm_obs,
        "normalize_rewards": normalize is not None and normalize.norm_reward,
        "time_limit": time_limit(model),
        "trained": sum(one.numel() for one in parameters if id(one) in moved) / max(size, 1),
        "layer_width": min(hidden_widths(policy), default=None),
        "adaptive": isinstance(policy.optimizer, th.optim.Adam | th.optim.AdamW | th.optim.RMSprop | th.optim.Adagrad),
        **{key: groups[0].get(name) for name, key in OPTIMIZER.items()},
    }
    if "betas" in groups[0]:
        numbers["momentum"], numbers["momentum_of_squares"] = groups[0]["betas"]
    if isinstance(space, spaces.Discrete):
        numbers["n_actions"] = int(space.n)
    elif isinstance(space, spaces.Box):
        numbers["action_parts"] = math.prod(space.shape)
    return {name: float(value) for name, value in numbers.items() if isinstance(value, bool | int | float)}


def hidden_widths(policy: th.nn.Module) -> list[int]:
    """
    Give the widths of a policy's hidden layers.

    :param policy: SB3's, or one with a ``mlp_extractor`` like theirs
    """
    layers = getattr(policy, "mlp_extractor", th.nn.Module()).modules()
    return [layer.out_features for layer in layers if isinstance(layer, th.nn.Linear)]


def time_limit(model: OnPolicyAlgorithm) -> int | None:
    """
    Find the limit of steps that the environments are registered with.

    :return: steps, or None where it is not known
    """
    try:
        spec = model.env.get_attr("spec", 0)[0] if model.env is not None else None
        limit = getattr(spec, "max_episode_steps", None)
    except (AttributeError, NotImplementedError, LookupError, TypeError):
        return None  # somebody's own vector environment need not answer
    return limit if isinstance(limit, int) else None
