"""The algorithms that the laboratory compares, and how each is built from its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.arguments import parse_schedule
from sb3_ppo_edu.envs.factory import action_repeat
from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate
from sb3_ppo_edu.serialization.names import import_named
from sb3_ppo_edu.training.hyperparameters import bundled_file, check_environment, load_hyperparameters, load_zoo_settings

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
"""Arguments that the zoo's settings give as ``lin_x``."""

NOISES = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}


@dataclass(frozen=True)
class Algorithm:
    """
    An algorithm of the laboratory.

    :param title: what it is called in tables and plots
    :param path: dotted name of its class; empty for the random policy
    :param settings: whose settings it takes: a file of the zoo
    :param actions: classes of action spaces that it can act in
    :param arguments: arguments beside those of the settings
    :param own: whether it also takes this package's settings (:data:`FILES`)
    """

    title: str
    path: str
    settings: str = ""
    actions: tuple[str, ...] = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
    arguments: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False


RANDOM = "random"
ALGORITHMS = {
    "eduppo": Algorithm("EduPPO", "sb3_ppo_edu.EduPPO", "ppo", arguments={"engine": "auto"}, own=True),
    "eduppo-autograd": Algorithm("EduPPO, autograd", "sb3_ppo_edu.EduPPO", "ppo", arguments={"engine": "autograd"}, own=True),
    "ppo": Algorithm("SB3's PPO", "stable_baselines3.PPO", "ppo", own=True),
    "reinforce": Algorithm("Reinforce", "sb3_ppo_edu.Reinforce", arguments={"baseline": True}),
    "a2c": Algorithm("A2C", "stable_baselines3.A2C", "a2c"),
    "trpo": Algorithm("TRPO", "sb3_contrib.TRPO", "trpo"),
    "dqn": Algorithm("DQN", "stable_baselines3.DQN", "dqn", actions=("Discrete",)),
    "sac": Algorithm("SAC", "stable_baselines3.SAC", "sac", actions=("Box",)),
    "td3": Algorithm("TD3", "stable_baselines3.TD3", "td3", actions=("Box",)),
    RANDOM: Algorithm("random actions", "", own=True),
}

FILES = {
    "own": "eduppo.yml",
    "shared": "shared.yml",
    **{name: f"{name}.yml" for name in ("lander-none", "lander-repeat", "lander-both")},
}
"""This package's settings: EduPPO's; those that SB3's PPO can have as well where EduPPO's go beyond it; and those that
searches of equal effort have found for LunarLander without wrappers, with ``ActionRepeat``, with ``LanderSymmetry`` too."""

SETTINGS = {
    "own": "this package's settings",
    "shared": "this package's settings for both",
    "lander-none": "plain environment",
    "lander-repeat": "ActionRepeat",
    "lander-both": "ActionRepeat and LanderSymmetry",
    "zoo": "the zoo's settings",
    "defaults": "defaults",
}
"""What tells two lines of one algorithm from each other."""


def load_settings(algorithm: str, settings: str, env_id: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """
    Find the settings of an algorithm for an environment.

    :param algorithm: key of :data:`ALGORITHMS`
    :param settings: "zoo" for the zoo's, a key of :data:`FILES` for this package's, "defaults" for the algorithm's own
    :param env_id: Gymnasium id
    :param overrides: settings that replace those
    :return: arguments of the algorithm, and the zoo's keys for environments
    :raises ValueError: if there are none, or the algorithm is unknown
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r}: expected one of {', '.join(ALGORITHMS)}")
    known = ALGORITHMS[algorithm]
    if settings in FILES:
        if not known.own:
            raise ValueError(f"settings {settings!r} with algorithm {algorithm!r}: they are for PPO; use 'zoo'")
        return load_hyperparameters(env_id, bundled_file(FILES[settings]), overrides)
    if settings == "zoo" and known.settings:
        try:
            return load_zoo_settings(known.settings, env_id, overrides)
        except ValueError as error:
            raise ValueError(f"algorithm {algorithm!r}, settings 'zoo': {error}") from error
    if settings in ("zoo", "defaults"):
        return {"policy": "MlpPolicy", "normalize": False, **overrides}
    raise ValueError(f"settings {settings!r}: expected 'zoo', 'defaults', {', '.join(map(repr, FILES))}")


@cache
def held(algorithm: str, settings: str, env_id: str, overrides: str = "{}") -> int:
    """
    Count the environment steps that a decision is held for.

    :param algorithm: as :func:`load_settings` has it, like the next two
    :param settings: whose settings
    :param env_id: Gymnasium id
    :param overrides: settings that replace those, as JSON
    :return: the number, 1 without a wrapper that repeats actions
    """
    return action_repeat(load_settings(algorithm, settings, env_id, json.loads(overrides)).get("env_wrapper"))


def check_actions(algorithm: str, env_id: str) -> None:
    """
    Refuse an environment whose actions an algorithm cannot choose.

    :param algorithm: key of :data:`ALGORITHMS`
    :param env_id: Gymnasium id
    :raises ValueError: naming both
    """
    check_environment(env_id)
    env = gym.make(env_id)
    kind = type(env.action_space).__name__
    env.close()
    if kind not in ALGORITHMS[algorithm].actions:
        raise ValueError(
            f"algorithm {algorithm!r} on {env_id}: found actions of {env.action_space}, "
            f"expected {' or '.join(ALGORITHMS[algorithm].actions)}"
        )


def build(algorithm: str, env: VecEnv, policy: Any, arguments: Mapping[str, Any], seed: int) -> BaseAlgorithm:
    """
    Build an algorithm.

    :param algorithm: key of :data:`ALGORITHMS`, not the random policy
    :param env: its training environments
    :param policy: policy name or class
    :param arguments: its settings without those for environments
    :param seed: of weights, actions and environments
    :return: the model, on the CPU
    :raises ValueError: for a wrong schedule, and for a rate that follows the KL in an algorithm that measures none
    """
    known = ALGORITHMS[algorithm]
    prepared = {**known.arguments, **arguments}
    for key in SCHEDULES:
        if isinstance(prepared.get(key), str):
            prepared[key] = parse_schedule(key, prepared[key])
    if isinstance(prepared.get("learning_rate"), KLAdaptiveLearningRate) and "sb3_ppo_edu." not in known.path:
        raise ValueError(f"algorithm {algorithm!r}: learning_rate={arguments['learning_rate']!r}: only ours follow the KL")
    if isinstance(prepared.get("train_freq"), list):
        prepared["train_freq"] = tuple(prepared["train_freq"])
    if prepared.get("noise_type") is not None:
        assert isinstance(env.action_space, gym.spaces.Box)
        zeros = np.zeros(env.action_space.shape)
        prepared["action_noise"] = NOISES[prepared["noise_type"].strip()](zeros, prepared["noise_std"] + zeros)
    for key in ("noise_type", "noise_std"):
        prepared.pop(key, None)
    model: BaseAlgorithm = import_named(known.path)(policy, env, seed=seed, device="cpu", **prepared)
    return model
