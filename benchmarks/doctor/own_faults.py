"""
Faults of environment, settings and algorithm by which the doctor's newer limits were chosen, and healthy trainings.

``python benchmarks/doctor/blind.py --faults own_faults`` trains them. They are known to whoever wrote the symptoms: how
many are named says nothing of how often the doctor is right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

Step = tuple[Any, Any, bool, bool, dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """
    A training with a known fault, or a healthy one.

    :param family: "settings", "environment", "algorithm", "data", "reward" or "evaluation"
    :param what: the planted cause in one sentence
    :param base: Gymnasium id
    :param settings: arguments of EduPPO that replace the base's
    :param wrapper: around each environment and its monitor
    :param model_hook: changes the built model before it learns
    """

    name: str
    family: str
    what: str
    base: str
    settings: dict[str, Any] = field(default_factory=dict)
    wrapper: Callable[[gym.Env], gym.Env] | None = None
    model_hook: Callable[[Any], None] | None = None
    steps: int = 30_000


class Changed(gym.Wrapper):
    """
    An environment of which one thing is changed.

    :param change: "constant", "noise", "part", "frozen", "late-observation", "ignored", "late-action", "endless",
        "same-start", "cut-short", or one of the reward: "sign", "reward-noise", "scale", "offset", "clipped", "at-the-end",
        "reward-constant"
    :param amount: of it
    """

    def __init__(self, env: gym.Env, change: str, amount: float = 0.0) -> None:
        super().__init__(env)
        self.change, self.amount, self.random = change, amount, np.random.default_rng(0)
        self.seen: deque[Any] = deque(maxlen=2)
        self.before: Any = None
        self.steps, self.total = 0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=0 if self.change == "same-start" else seed, options=options)
        self.steps, self.total, self.before = 0, 0.0, None
        self.seen.clear()
        return self.see(observation), info

    def see(self, observation: Any) -> Any:
        """Change an observation."""
        self.seen.append(observation)
        if self.change == "constant":
            return np.zeros_like(observation)
        if self.change == "noise":
            return self.random.normal(size=observation.shape).astype(np.float32)
        if self.change == "part":
            observation = observation.copy()
            observation[-1] = 0.5
        if self.change == "late-observation":
            return self.seen[0]
        if self.change == "frozen":
            if self.steps % 5 == 0:
                self.held = observation
            return self.held
        return observation

    def step(self, action: Any) -> Step:
        """Step with the change."""
        taken = action
        if self.change == "ignored":
            taken = self.env.action_space.sample()
        elif self.change == "late-action":
            taken, self.before = (action if self.before is None else self.before), action
        observation, reward, terminated, truncated, info = self.env.step(taken)
        self.steps += 1
        self.total += float(reward)
        if self.change == "endless" and (terminated or truncated):
            observation, terminated, truncated = self.env.reset()[0], False, False
        if self.change == "cut-short" and self.steps >= self.amount:
            truncated = True
        reward = self.rewarded(float(reward), terminated or truncated)
        return self.see(observation), reward, terminated, truncated, info

    def rewarded(self, reward: float, ended: bool) -> float:
        """Change a reward."""
        if self.change == "at-the-end":
            return self.total if ended else 0.0
        changes = {
            "sign": -reward,
            "reward-noise": reward + self.amount * float(self.random.normal()),
            "scale": reward * self.amount,
            "offset": reward + self.amount,
            "clipped": float(np.sign(reward)),
            "reward-constant": 1.0,
        }
        return changes.get(self.change, reward)


def changed(change: str, amount: float = 0.0) -> Callable[[gym.Env], gym.Env]:
    """Give a wrapper."""
    return partial(Changed, change=change, amount=amount)


def freeze_actor(model: Any) -> None:
    """Take the actor out of training."""
    for name, parameter in model.policy.named_parameters():
        if "value" not in name and "vf" not in name:
            parameter.requires_grad_(False)


def with_sgd(model: Any) -> None:
    """Replace Adam."""
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=model.policy.optimizer.param_groups[0]["lr"])


def wrong_sign(model: Any) -> None:
    """Turn the advantages around after they were estimated."""
    get = model.rollout_buffer.get

    def turned(batch_size: int | None = None) -> Any:
        """Give minibatches of turned advantages."""
        model.rollout_buffer.advantages = -model.rollout_buffer.advantages
        return get(batch_size)

    model.rollout_buffer.get = turned


CARTPOLE, PENDULUM, ACROBOT, MOUNTAIN = "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"

FAULTS = [
    *(
        Fault(f"{change}-{base}", "environment", f"{change} {amount or ''}".strip(), base, {}, changed(change, amount))
        for base, change, amount in (
            (CARTPOLE, "constant", 0.0), (PENDULUM, "noise", 0.0), (CARTPOLE, "part", 0.0), (PENDULUM, "frozen", 0.0),
            (CARTPOLE, "late-observation", 0.0), (PENDULUM, "ignored", 0.0), (CARTPOLE, "ignored", 0.0),
            (PENDULUM, "late-action", 0.0), (ACROBOT, "endless", 0.0), (PENDULUM, "endless", 0.0),
            (CARTPOLE, "same-start", 0.0), (PENDULUM, "cut-short", 20.0), (ACROBOT, "cut-short", 60.0),
        )
    ),
    *(
        Fault(f"{change}-{base}", "reward", f"{change} {amount or ''}".strip(), base, {}, changed(change, amount))
        for base, change, amount in (
            (CARTPOLE, "sign", 0.0), (PENDULUM, "sign", 0.0), (CARTPOLE, "reward-noise", 5.0),
            (PENDULUM, "reward-noise", 30.0), (PENDULUM, "scale", 1e-3), (CARTPOLE, "scale", 1e3),
            (PENDULUM, "offset", 20.0), (CARTPOLE, "offset", -1.0),
            (PENDULUM, "clipped", 0.0), (PENDULUM, "at-the-end", 0.0), (ACROBOT, "reward-constant", 0.0),
        )
    ),
    *(
        Fault(f"{name}-{base}", "settings", f"{name}", base, settings)
        for base, name, settings in (
            (CARTPOLE, "ent-1", {"ent_coef": 1.0}), (PENDULUM, "ent-1", {"ent_coef": 1.0}),
            (ACROBOT, "ent-1", {"ent_coef": 1.0}), (CARTPOLE, "gamma-0.1", {"gamma": 0.1}),
            (PENDULUM, "gamma-1", {"gamma": 1.0}), (ACROBOT, "gamma-1", {"gamma": 1.0}),
            (CARTPOLE, "lambda-0", {"gae_lambda": 0.0}), (CARTPOLE, "width-1", {"policy_kwargs": {"net_arch": [1]}}),
            (PENDULUM, "std-narrow", {"policy_kwargs": {"log_std_init": -4.0}}),
            (CARTPOLE, "one-step", {"n_epochs": 1, "batch_size": 1024}), (PENDULUM, "vf-100", {"vf_coef": 100.0}),
            (CARTPOLE, "weight-decay",
             {"policy_kwargs": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 10.0}}}),
            (CARTPOLE, "adam-eps", {"policy_kwargs": {"optimizer_kwargs": {"eps": 1.0}}}),
        )
    ),
    Fault("frozen-actor", "algorithm", "the actor is not trained", CARTPOLE, model_hook=freeze_actor),
    Fault("sgd", "algorithm", "SGD in place of Adam", CARTPOLE, model_hook=with_sgd),
    Fault("wrong-sign", "algorithm", "advantages with the wrong sign", CARTPOLE, {"n_epochs": 5}, model_hook=wrong_sign),
]  # fmt: skip

HEALTHY = [
    Fault(f"healthy-{name}-{base}", "settings", f"{name}", base, settings)
    for base, name, settings in (
        (CARTPOLE, "base", {}), (PENDULUM, "base", {}), (ACROBOT, "base", {}), (MOUNTAIN, "base", {}),
        (CARTPOLE, "zoo", {"n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
                           "learning_rate": "lin_0.001", "clip_range": "lin_0.2"}),
        (CARTPOLE, "one-environment", {"n_envs": 1, "n_steps": 2048}),
        (CARTPOLE, "small-net", {"policy_kwargs": {"net_arch": [16]}}),
        (CARTPOLE, "relu-wide", {"policy_kwargs": {"net_arch": [256, 256], "activation_fn": th.nn.ReLU}}),
        (PENDULUM, "lambda-1", {"gae_lambda": 1.0}), (PENDULUM, "gamma-0.98-lambda-0.8", {"gamma": 0.98, "gae_lambda": 0.8}),
        (ACROBOT, "ent-0.01", {"ent_coef": 0.01}),
        (ACROBOT, "whole-batch", {"batch_size": 2048, "n_epochs": 20, "learning_rate": 2e-3}),
        (PENDULUM, "beta", {"action_distribution": "beta"}), (CARTPOLE, "target-kl", {"target_kl": 0.02}),
        (PENDULUM, "narrow-0.5", {"policy_kwargs": {"log_std_init": -0.7}}),
        (CARTPOLE, "clip-0.3-vf-1", {"clip_range": 0.3, "vf_coef": 1.0}),
        (CARTPOLE, "gamma-0.9", {"gamma": 0.9}), (CARTPOLE, "no-clipping-of-gradients", {"max_grad_norm": 100.0}),
    )
] + [
    Fault("healthy-scaled-reward-Pendulum-v1", "reward", "rewards times 0.1", PENDULUM, {}, changed("scale", 0.1)),
]  # fmt: skip
