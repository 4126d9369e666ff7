"""Log-probabilities and entropies with faults, and inputs that tell them apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from torch.nn import functional as F

from sb3_ppo_edu.course.exercises.inputs import moved
from sb3_ppo_edu.course.exercises.observing import Case
from sb3_ppo_edu.functional.distributions import log_tanh_derivative

Faults = frozenset[str]
Rng = np.random.Generator

LOG_2_PI = math.log(2.0 * math.pi)


def _tensor(numbers: Any) -> th.Tensor:
    """Make a tensor as a network would give it."""
    return th.tensor(np.asarray(numbers), dtype=th.float32)


def _over_actions(faults: Faults, numbers: th.Tensor) -> th.Tensor:
    """Add up over the action dimensions, or fail to."""
    if "actions-not-summed" in faults:
        return numbers
    if "summed-over-batch" in faults:
        return numbers.sum(dim=0)
    return numbers.mean(dim=-1) if "actions-averaged" in faults else numbers.sum(dim=-1)


def gaussian_entropy(faults: Faults, log_std: th.Tensor) -> th.Tensor:
    """
    Compute the entropy of a diagonal Gaussian, averaged over the batch if there is one.

    :param log_std: shape ``(action_dim,)`` or ``(batch, action_dim)``
    :return: scalar
    """
    if "no-gradient" in faults:
        log_std = log_std.detach()
    log_variance = 2.0 * log_std
    if "std-for-log-std" in faults:
        log_variance = (log_std**2).log()
    if "std-not-squared" in faults:
        log_variance = log_variance / 2.0
    constant = LOG_2_PI + (0.0 if "e-missing" in faults else 1.0)
    if "constant-missing" in faults:
        constant = 0.0
    entropy = (1.0 if "half-missing" in faults else 0.5) * (constant + log_variance)
    if "actions-not-summed" in faults:
        return -entropy if "entropy-sign" in faults else entropy
    entropy = entropy.mean(dim=-1) if "actions-averaged" in faults else entropy.sum(dim=-1)
    entropy = entropy.sum() if "summed-over-batch" in faults else entropy.mean()
    return -entropy if "entropy-sign" in faults else entropy


def log_std_cases(rng: Rng) -> list[Case]:
    """Make log standard deviations."""

    def case(name: str, log_std: Any) -> Case:
        return Case(name, {"log_std": _tensor(log_std)}, ("log_std",))

    return [
        case("one dimension, σ = 0.5", [math.log(0.5)]),
        case("two dimensions", [-0.5, -1.0]),
        case("three random dimensions", rng.uniform(-2.0, 1.0, size=3).round(2)),
        case("a narrow Gaussian, whose entropy is negative", [-3.0, -2.5]),
        case("a batch of four states with two dimensions", rng.uniform(-2.0, -0.1, size=(4, 2)).round(2)),
    ]


def categorical_entropy(faults: Faults, logits: th.Tensor) -> th.Tensor:
    """
    Compute the mean entropy of categorical distributions.

    :param logits: shape ``(batch, n_actions)``
    :return: scalar
    """
    log_probs = F.log_softmax(logits, dim=0 if "softmax-over-batch" in faults else -1)
    if "logits-not-normalised" in faults:
        log_probs = logits
    if "sigmoid-for-softmax" in faults:
        log_probs = F.logsigmoid(logits)
    probs = log_probs.exp()
    if "mean-policy" in faults:
        probs = probs.mean(dim=0, keepdim=True)
        log_probs = probs.clamp(min=1e-38).log()
    if "zero-log-zero" in faults:
        log_probs = probs.log()
    entropy = -(probs * log_probs).mean(dim=-1) if "actions-mean-for-sum" in faults else -(probs * log_probs).sum(dim=-1)
    entropy = entropy.sum() if "summed-over-batch" in faults else entropy.mean()
    return -entropy if "entropy-sign" in faults else entropy


def logit_cases(rng: Rng) -> list[Case]:
    """Make logits."""

    def case(name: str, logits: Any) -> Case:
        return Case(name, {"logits": _tensor(logits)}, ("logits",))

    return [
        case("equal logits: log 4", [[1.0, 1.0, 1.0, 1.0]]),
        case("three states, four actions", rng.normal(size=(3, 4)).round(2)),
        case("two states, three actions", rng.normal(size=(2, 3)).round(2)),
        case("a policy that is sure", [[1000.0, 0.0, -1000.0], [0.0, 0.5, 1.0]]),
    ]


def gaussian_log_prob(faults: Faults, actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    Compute the log-probability of actions under a diagonal Gaussian.

    :param actions: shape ``(batch, action_dim)``
    :param mean: shape ``(batch, action_dim)``
    :param log_std: shape ``(action_dim,)``
    :return: shape ``(batch,)``
    """
    std = log_std if "std-for-log-std" in faults else log_std.exp()
    log_scale = std.log() if "std-for-log-std" in faults else log_std
    distance = (actions - mean) ** 2 / (std if "variance-forgotten" in faults else std**2)
    log_prob = -0.5 * distance
    if "normaliser-missing" not in faults:
        log_prob = log_prob - 0.5 * LOG_2_PI
        if "log-std-normaliser-missing" not in faults:
            log_prob = log_prob - log_scale
    log_prob = _over_actions(faults, log_prob)
    return -log_prob if "log-prob-sign" in faults else log_prob


def gaussian_cases(rng: Rng) -> list[Case]:
    """Make actions and Gaussians."""

    def case(name: str, actions: Any, mean: Any, log_std: Any) -> Case:
        arguments = {"actions": _tensor(actions), "mean": _tensor(mean), "log_std": _tensor(log_std)}
        return Case(name, arguments, ("mean", "log_std"))

    return [
        case("the mean itself, σ = 1", [[0.3, -0.2]], [[0.3, -0.2]], [0.0, 0.0]),
        case("one dimension", [[1.0], [0.0], [-0.5]], [[0.0], [0.0], [0.0]], [0.4]),
        several := case("five actions of two dimensions", rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), [-0.5, 0.3]),
        moved(several, "actions", 2, 1),
        case("three actions of three dimensions", rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), rng.uniform(0.1, 0.9, 3)),
    ]


def squashed_log_prob(faults: Faults, raw_actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    Compute the log-probability of y = tanh(u) from the raw action u.

    :param raw_actions: u, shape ``(batch, action_dim)``
    :param mean: of u, shape ``(batch, action_dim)``
    :param log_std: of u, shape ``(action_dim,)``
    :return: shape ``(batch,)``
    """
    log_prob = gaussian_log_prob(frozenset(), raw_actions, mean, log_std)
    if "jacobian-missing" in faults:
        return log_prob
    at = th.tanh(raw_actions) if "jacobian-twice-squashed" in faults else raw_actions
    if "jacobian-not-squared" in faults:
        log_derivative = th.log(1.0 - th.tanh(at))
    elif "jacobian-epsilon" in faults:
        log_derivative = th.log(1.0 - th.tanh(at) ** 2 + 1e-6)
    elif "jacobian-saturates" in faults:
        log_derivative = th.log(1.0 - th.tanh(at) ** 2)
    else:
        log_derivative = log_tanh_derivative(at)
    total = log_derivative.mean(dim=-1) if "jacobian-averaged" in faults else log_derivative.sum(dim=-1)
    return log_prob + total if "jacobian-sign" in faults else log_prob - total


def squashed_cases(rng: Rng) -> list[Case]:
    """Make raw actions, some of them where tanh has saturated."""

    def case(name: str, raw_actions: Any, mean: Any, log_std: Any) -> Case:
        arguments = {"raw_actions": _tensor(raw_actions), "mean": _tensor(mean), "log_std": _tensor(log_std)}
        return Case(name, arguments, ("mean", "log_std"))

    return [
        case("u = 0: tanh has slope 1", [[0.0, 0.0]], [[0.3, -0.2]], [0.0, 0.0]),
        case("one dimension", [[1.0], [-0.5]], [[0.0], [0.0]], [0.0]),
        several := case("five actions of two dimensions", rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), [-0.5, 0.3]),
        moved(several, "raw_actions", 2, 1),
        case("far out, where tanh u rounds to 1", [[12.0, -10.0]], [[9.0, -9.0]], [0.5, 0.5]),
    ]
