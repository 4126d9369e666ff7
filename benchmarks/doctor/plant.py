"""
Plant faults: trainings of known fault, on several environments, with random other settings.

A case is named by split, environment, fault and number, and everything random in it follows from that name: the same name
gives the same case. Splits share no case, since the split is part of the name: thresholds are chosen on ``train`` and judged
on the others, each of which judges one state of the doctor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import FlattenExtractor

SPLITS = ("train", "trial", "trial2")

Settings = dict[str, Any]
Draw = Callable[[np.random.Generator, str, Settings], Settings]


@dataclass(frozen=True)
class Case:
    """
    A training to be diagnosed.

    :param split: one of :data:`SPLITS`
    :param env: Gymnasium id
    :param fault: name of the planted fault, two joined by "+", or "none"
    :param number: distinguishes cases of the same fault
    :param seed: of the training
    :param steps: environment steps to train for
    :param settings: arguments of the algorithm, ``n_envs``, ``normalize`` and what the wrappers below take
    """

    split: str
    env: str
    fault: str
    number: int
    seed: int
    steps: int
    settings: Settings = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The case's name, which fits a file."""
        return f"{self.split}-{self.env}-{self.fault}-{self.number}"

    def changed(self, setting: str, value: Any) -> Case:
        """Follow an advice."""
        if setting == "steps":
            return replace(self, steps=int(value))
        if setting == "policy_kwargs":
            value = {**self.settings.get("policy_kwargs", {}), "log_std_init": -0.5}
        elif setting == "log_std_bounds":
            value = (-3.0, 0.5)
        else:
            value = {"true": True, "null": None}.get(value, value)
        return replace(self, settings={**self.settings, setting: value})


class ScaledReward(gym.RewardWrapper):
    """Multiply rewards, below the monitor: what is logged as return is the environment's own."""

    def __init__(self, env: gym.Env, factor: float) -> None:
        super().__init__(env)
        self.factor = factor

    def reward(self, reward: Any) -> float:
        """Give the scaled reward."""
        return float(reward) * self.factor


class MixedObservations(gym.ObservationWrapper):
    """Multiply each part of the observation by a factor of its own, and add the same to all."""

    def __init__(self, env: gym.Env, factors: tuple[float, ...], offset: float = 0.0) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.factors, self.offset = np.array(factors[: space.shape[0]], np.float32), np.float32(offset)
        self.observation_space = gym.spaces.Box(space.low * self.factors, space.high * self.factors, dtype=np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """Give the scaled observation."""
        scaled: np.ndarray = np.asarray(observation, np.float32) * self.factors + self.offset
        return scaled


class EndsAs(gym.Wrapper):
    """Report every end of an episode as one kind of end, above the monitor."""

    def __init__(self, env: gym.Env, kind: str) -> None:
        super().__init__(env)
        self.kind = kind

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Give the step with the end renamed."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        ended = terminated or truncated
        return observation, reward, ended and self.kind == "terminal", ended and self.kind == "limit", info


class Dropout(FlattenExtractor):
    """Observations of which training leaves some out, so that it sees another policy than acted."""

    def __init__(self, observation_space: gym.Space, share: float) -> None:
        super().__init__(observation_space)
        self.dropout = th.nn.Dropout(share)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Give what is left."""
        left: th.Tensor = self.dropout(super().forward(observations))
        return left


class MaskOffByOne(RolloutBuffer):
    """A buffer that masks with whether a step begins an episode, where it should be whether it ends one."""

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Work out advantages with the wrong mask."""
        starts = self.episode_starts
        self.episode_starts = np.concatenate([starts[:1], starts[:-1]])
        super().compute_returns_and_advantage(last_values, dones)
        self.episode_starts = starts


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    """
    Draw a number whose logarithm is uniform.

    :return: with two digits
    """
    return float(f"{np.exp(random.uniform(np.log(low), np.log(high))):.2g}")


def pick(random: np.random.Generator, *choices: Any) -> Any:
    """Draw one of several values."""
    return choices[int(random.integers(len(choices)))]


# -- settings that learn -------------------------------------------------------------------------------------------------


def draw_healthy(random: np.random.Generator, env: str) -> Settings:
    """
    Draw settings around those that are known to learn a task.

    :param env: Gymnasium id
    """
    common: Settings = {
        "clip_range": pick(random, 0.15, 0.2, 0.25),
        "gae_lambda": pick(random, 0.92, 0.95, 0.98),
        "policy_kwargs": {"net_arch": pick(random, [32, 32], [64, 64])},
    }
    own: dict[str, Settings] = {
        "CartPole-v1": {
            "n_envs": pick(random, 4, 8),
            "n_steps": pick(random, 128, 256),
            "batch_size": pick(random, 64, 128),
            "n_epochs": pick(random, 5, 10),
            "learning_rate": log_uniform(random, 3e-4, 1e-3),
            "gamma": pick(random, 0.98, 0.99),
            "ent_coef": pick(random, 0.0, 0.005),
        },
        "Pendulum-v1": {
            "n_envs": 4,
            "n_steps": pick(random, 256, 512),
            "batch_size": pick(random, 64, 128),
            "n_epochs": 10,
            "learning_rate": log_uniform(random, 6e-4, 1e-3),
            "gamma": pick(random, 0.9, 0.95),
            "ent_coef": 0.0,
        },
        "Acrobot-v1": {
            "n_envs": pick(random, 8, 16),
            "n_steps": pick(random, 128, 256),
            "batch_size": pick(random, 64, 128),
            "n_epochs": pick(random, 5, 8),
            "learning_rate": log_uniform(random, 3e-4, 1e-3),
            "gamma": 0.99,
            "ent_coef": pick(random, 0.0, 0.01),
        },
        "LunarLander-v3": {
            "n_envs": 8,
            "n_steps": pick(random, 128, 256),
            "batch_size": pick(random, 64, 128),
            "n_epochs": pick(random, 5, 10),
            "learning_rate": log_uniform(random, 3e-4, 7e-4),
            "gamma": pick(random, 0.99, 0.995),
            "ent_coef": pick(random, 0.005, 0.01),
        },
        "LunarLanderContinuous-v3": {
            "n_envs": 8,
            "n_steps": 128,
            "batch_size": pick(random, 64, 128),
            "n_epochs": pick(random, 5, 8),
            "learning_rate": log_uniform(random, 3e-4, 7e-4),
            "gamma": pick(random, 0.99, 0.995),
            "ent_coef": pick(random, 0.0, 0.005),
        },
        "MountainCar-v0": {"n_envs": 8, "n_steps": 128, "n_epochs": 4, "batch_size": 128, "learning_rate": 3e-4},
        "MountainCarContinuous-v0": {"n_envs": 8, "n_steps": 256, "n_epochs": 10, "batch_size": 128, "learning_rate": 1e-3},
    }
    return {**common, **own[env]}


ENVS: Mapping[str, int] = {
    "CartPole-v1": 60_000,
    "Pendulum-v1": 80_000,
    "Acrobot-v1": 80_000,
    "LunarLander-v3": 100_000,
    "LunarLanderContinuous-v3": 80_000,
}
"""Environments of the trial, and how long each is trained: long enough for healthy settings to learn."""

SPARSE_ENVS: Mapping[str, int] = {"MountainCar-v0": 40_000, "MountainCarContinuous-v0": 100_000}
"""Where a reward is hardly ever seen."""

# -- faults --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """
    A fault that can be planted.

    :param draw: changes healthy settings into ill ones
    :param symptoms: names under which the doctor knows it
    :param envs: where it is one
    """

    draw: Draw
    symptoms: tuple[str, ...]
    envs: tuple[str, ...] = tuple(ENVS)


def setting(name: str, low: float, high: float) -> Draw:
    """
    Make a fault out of one setting.

    :param low: least value, drawn by its logarithm
    :param high: largest value
    """
    return lambda random, env, settings: {**settings, name: log_uniform(random, low, high)}


def small_rewards(random: np.random.Generator, env: str, settings: Settings) -> Settings:
    """Scale rewards so that returns are a thousandth of what the value network starts with."""
    usual = {"CartPole-v1": 20.0, "Pendulum-v1": 40.0, "Acrobot-v1": 20.0}.get(env, 60.0)
    return {**settings, "reward_factor": log_uniform(random, 0.002, 0.02) / usual}


def mixed_observations(random: np.random.Generator, env: str, settings: Settings) -> Settings:
    """Scale the parts of the observation by factors from a thousandth to a thousand."""
    exponents = np.linspace(-3, 3, 8)
    factors = 10.0 ** np.concatenate([[3.0, -3.0], random.permutation(exponents)[:6]])
    return {**settings, "observation_factors": tuple(float(factor) for factor in factors), "normalize": False}


FAULTS: Mapping[str, Fault] = {
    "none": Fault(lambda random, env, settings: settings, ()),
    "lr-high": Fault(setting("learning_rate", 1e-2, 4e-2), ("learning-rate-too-high",)),
    "lr-low": Fault(setting("learning_rate", 5e-7, 5e-6), ("learning-rate-too-low",)),
    "clip-tight": Fault(setting("clip_range", 2e-3, 2e-2), ("clip-range-too-tight",)),
    "clip-loose": Fault(
        lambda random, env, settings: {
            **settings,
            "clip_range": log_uniform(random, 1.0, 3.0),
            "learning_rate": log_uniform(random, 7e-4, 1e-3),
            "n_epochs": 15,
        },
        ("clip-range-too-loose",),
    ),
    "entropy-bonus": Fault(setting("ent_coef", 0.3, 2.0), ("entropy-bonus-too-large",)),
    "entropy-collapse": Fault(
        lambda random, env, settings: {**settings, "ent_coef": -log_uniform(random, 0.5, 2.0)}, ("entropy-collapse",)
    ),
    "value-untrained": Fault(
        lambda random, env, settings: {**settings, "vf_coef": pick(random, 0.0, 1e-6)}, ("value-not-trained",)
    ),
    "observations": Fault(mixed_observations, ("observations-not-normalized",)),
    "reward-large": Fault(setting("reward_factor", 1e3, 1e4), ("reward-scale-too-large",)),
    "reward-small": Fault(small_rewards, ("reward-scale-too-small",)),
    "rollout-short": Fault(
        lambda random, env, settings: {**settings, "n_envs": 1, "n_steps": pick(random, 16, 24, 32), "batch_size": 8},
        ("rollout-too-short",),
    ),
    "epochs": Fault(
        lambda random, env, settings: {
            **settings,
            "n_epochs": pick(random, 50, 80),
            "batch_size": 64,
            "learning_rate": log_uniform(random, 7e-4, 1e-3),
        },
        ("too-many-epochs",),
    ),
    "gamma-low": Fault(setting("gamma", 0.2, 0.6), ("gamma-too-low",)),
    "gamma-high": Fault(
        lambda random, env, settings: {**settings, "gamma": pick(random, 0.99995, 1.0)}, ("gamma-too-high",)
    ),
    "target-kl": Fault(setting("target_kl", 1e-6, 1e-4), ("target-kl-too-small",)),
    "grad-norm": Fault(setting("max_grad_norm", 1e-8, 1e-7), ("max-grad-norm-too-small",)),
    "std-wide": Fault(
        lambda random, env, settings: {
            **settings,
            "policy_kwargs": {**settings["policy_kwargs"], "log_std_init": float(np.round(random.uniform(1.8, 2.6), 2))},
        },
        ("std-starts-wide", "actions-saturated"),
        ("Pendulum-v1", "LunarLanderContinuous-v3"),
    ),
    "limit-as-terminal": Fault(
        lambda random, env, settings: {**settings, "ends_as": "terminal"}, ("limit-as-terminal",), ("Pendulum-v1",)
    ),
    "terminal-as-limit": Fault(
        lambda random, env, settings: {**settings, "ends_as": "limit"},
        ("terminal-as-limit",),
        ("CartPole-v1", "Acrobot-v1", "LunarLander-v3", "LunarLanderContinuous-v3"),
    ),
    "advantages-raw": Fault(
        lambda random, env, settings: {**settings, "normalize_advantage": False},
        ("advantages-not-normalized",),
        ("Pendulum-v1", "LunarLander-v3", "LunarLanderContinuous-v3"),
    ),
    "value-clip": Fault(setting("clip_range_vf", 0.01, 0.1), ("value-clip-too-tight",)),
    "mask-off-by-one": Fault(
        lambda random, env, settings: {**settings, "rollout_buffer_class": MaskOffByOne},
        ("advantages-wrong",),
        ("CartPole-v1", "Acrobot-v1", "LunarLander-v3"),
    ),
    "dropout": Fault(
        lambda random, env, settings: {
            **settings,
            "policy_kwargs": {
                **settings["policy_kwargs"],
                "features_extractor_class": Dropout,
                "features_extractor_kwargs": {"share": pick(random, 0.1, 0.2, 0.3)},
            },
        },
        ("ratio-not-one",),
        ("CartPole-v1", "Pendulum-v1"),
    ),
    "stale-statistics": Fault(
        lambda random, env, settings: {
            **settings,
            "evaluation_factor": pick(random, log_uniform(random, 0.05, 0.3), log_uniform(random, 3, 20)),
            "evaluation_offset": pick(random, -1, 1) * log_uniform(random, 0.5, 3),
        },
        ("poor-evaluation",),
    ),
    "sparse": Fault(
        lambda random, env, settings: settings, ("reward-never-seen", "does-nothing"), tuple(SPARSE_ENVS)
    ),
}  # fmt: skip


def random_of(name: str) -> np.random.Generator:
    """Give the source of all that is random in a case."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def plant(split: str, env: str, fault: str, number: int) -> Case:
    """
    Make a case.

    :param split: one of :data:`SPLITS`
    :param env: Gymnasium id
    :param fault: name of a fault, or two joined by "+"
    :param number: distinguishes cases of the same fault
    :raises ValueError: for a name that is not known, or a fault that is none in this environment
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
    for one in fault.split("+"):
        if one not in FAULTS:
            raise ValueError(f"fault={one!r}: expected one of {', '.join(FAULTS)}")
        if env not in FAULTS[one].envs:
            raise ValueError(f"fault={one!r} on {env}: it is one on {', '.join(FAULTS[one].envs)}")
    random = random_of(f"{split}/{env}/{fault}/{number}")
    settings = draw_healthy(random, env)
    if fault == "none" and number % 2:
        # Evaluated on what it is trained on: as many again could be taken for a training with stale statistics.
        settings = {**settings, "evaluation_factor": 1.0}
    for one in fault.split("+"):
        settings = FAULTS[one].draw(random, env, settings)
    steps = {**ENVS, **SPARSE_ENVS}[env]
    return Case(split, env, fault, number, int(random.integers(2**31)), steps, settings)
