"""
Returns and advantages with faults, and inputs that tell them apart.

The lecture is lecture 10 of Reinforcement Learning, Sogang University, autumn 2025 (notebooks/errata.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_ppo_edu.course.exercises.inputs import moved, varied
from sb3_ppo_edu.course.exercises.observing import Case
from sb3_ppo_edu.functional.losses import ADVANTAGE_EPS

FloatArray = npt.NDArray[np.floating]
Faults = frozenset[str]
Rng = np.random.Generator


def discounted_returns(faults: Faults, rewards: FloatArray, gamma: float) -> FloatArray:
    """
    Compute the returns of one episode.

    :param rewards: shape ``(n_steps,)``
    :param gamma: discount factor
    :return: shape ``(n_steps,)``
    """
    if "discounted-from-start" in faults:
        rewards = rewards * gamma ** np.arange(len(rewards))
    gamma = 1.0 if {"no-discount", "discounted-from-start"} & faults else gamma
    forwards = "past-not-future" in faults
    returns, tail = np.zeros_like(rewards), 0.0
    for t in range(len(rewards)) if forwards else reversed(range(len(rewards))):
        if "own-reward-left-out" in faults:
            returns[t] = gamma * tail
            tail = rewards[t] + gamma * tail
        elif "own-reward-discounted" in faults:
            returns[t] = tail = gamma * (rewards[t] + tail)
        else:
            returns[t] = tail = rewards[t] + gamma * tail
    if "whole-return-everywhere" in faults:
        returns = np.full_like(returns, returns[0])
    if "reversed-in-time" in faults:
        returns = returns[::-1]
    return -returns if "sign-flipped" in faults else returns


def return_cases(rng: Rng) -> list[Case]:
    """Make episodes."""
    return [
        Case("three rewards of 1, γ = 0.9", {"rewards": np.ones(3), "gamma": 0.9}),
        Case("one step", {"rewards": np.array([2.0]), "gamma": 0.9}),
        Case("a punishment after each reward", {"rewards": np.array([1.0, -2.0, 3.0, -4.0]), "gamma": 0.9}),
        Case("a reward at the end only", {"rewards": np.array([0.0, 0.0, 0.0, 5.0]), "gamma": 0.5}),
        several := Case("eight random rewards", {"rewards": rng.normal(size=8).round(2), "gamma": 0.95}),
        varied(several, gamma=0.6),
        moved(several, "rewards", 4),
        Case("γ = 0", {"rewards": rng.normal(size=5).round(2), "gamma": 0.0}),
    ]


def _not_done(faults: Faults, dones: FloatArray) -> FloatArray:
    """Mask what lies beyond each step."""
    if "bootstrap-on-termination" in faults:
        return np.ones_like(dones)
    if "mask-off-by-one" in faults:
        dones = np.concatenate([dones[1:], dones[-1:]])
    return dones if "mask-inverted" in faults else 1.0 - dones


def td_errors(
    faults: Faults, rewards: FloatArray, values: FloatArray, dones: FloatArray, next_value: Any, gamma: float
) -> FloatArray:
    """
    Compute the TD errors of a rollout.

    :param rewards: shape ``(n_steps, ...)``
    :param values: values of the states acted in, the same shape
    :param dones: 1 where the episode ended with the step, the same shape
    :param next_value: value of the observation after the last step, shape ``(...)``
    :param gamma: discount factor
    :return: shape of ``rewards``
    """
    next_value = np.asarray(next_value) * (0.0 if "last-value-ignored" in faults else 1.0)
    next_values = np.concatenate([values[1:], next_value[None]])
    if "current-value-for-next" in faults:
        next_values = values
    not_done = np.ones_like(dones) if "mask-missing-in-td-error" in faults else _not_done(faults, dones)
    gamma = 1.0 if "no-gamma-on-next-value" in faults else gamma
    target = rewards + gamma * next_values * not_done
    if "value-masked-too" in faults:
        return rewards + (gamma * next_values - values) * not_done
    if "no-baseline" in faults:
        return target
    return values - target if "sign-of-td-error" in faults else target - values


def compute_gae(
    faults: Faults,
    rewards: FloatArray,
    values: FloatArray,
    dones: FloatArray,
    next_value: Any,
    gamma: float,
    lam: float,
) -> FloatArray:
    """
    Compute generalized advantage estimates.

    :param rewards: shape ``(n_steps, ...)``
    :param values: values of the states acted in, the same shape
    :param dones: 1 where the episode ended with the step, the same shape
    :param next_value: value of the observation after the last step, shape ``(...)``
    :param gamma: discount factor
    :param lam: λ
    :return: shape of ``rewards``
    """
    deltas = td_errors(faults, rewards, values, dones, next_value, gamma)
    not_done = np.ones_like(dones) if "mask-missing-in-recursion" in faults else _not_done(faults, dones)
    if "mask-of-all-environments" in faults:
        not_done = np.broadcast_to(not_done.min(axis=tuple(range(1, dones.ndim)), keepdims=True), dones.shape)
    decay = (1.0 if "gamma-missing-in-recursion" in faults else gamma) * (1.0 if "lambda-missing" in faults else lam)
    advantages, advantage = np.zeros_like(deltas), np.zeros_like(deltas[0])
    if "recursion-from-last-value" in faults:
        advantage = np.asarray(next_value)
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + decay * not_done[t] * advantage
        advantages[t] = advantage
    if "returns-not-advantages" in faults:
        advantages = advantages + values
    if "reversed-in-time" in faults:
        advantages = advantages[::-1]
    return -advantages if "sign-flipped" in faults else advantages


def rollout_cases(*, with_lambda: bool) -> Callable[[Rng], list[Case]]:
    """
    Choose how to make rollouts.

    :param with_lambda: whether λ is an argument
    :return: a function that makes the cases
    """

    def make(rng: Rng) -> list[Case]:
        def case(
            name: str, rewards: Any, values: Any, dones: Any, next_value: Any, gamma: float = 0.9, lam: float = 0.8
        ) -> Case:
            arguments = {
                "rewards": np.array(rewards, dtype=float),
                "values": np.array(values, dtype=float),
                "dones": np.array(dones, dtype=float),
                "next_value": np.array(next_value, dtype=float) if np.ndim(next_value) else float(next_value),
                "gamma": gamma,
            }
            # Lesson 04 asks for several environments side by side only.
            beyond = ("04",) if np.ndim(rewards) == 1 else ()
            return Case(name, {**arguments, "lam": lam} if with_lambda else arguments, (), beyond)

        def random(*shape: int) -> Any:
            return rng.normal(size=shape).round(2)

        return [
            case("the lecture's toy example", [1, 1, 1], [0.5, 0.5, 0.5], [0, 0, 1], 0.0, lam=0.9),
            case("no episode ends", random(5), random(5), np.zeros(5), 1.7),
            ending := case("an episode ends in the middle", random(6), random(6), [0, 0, 1, 0, 0, 0], -1.3),
            varied(ending, gamma=0.5),
            *([varied(ending, lam=0.3)] if with_lambda else []),
            case("an episode ends with the last step", random(4), random(4), [0, 0, 0, 1], 2.5),
            case("episodes end in two steps in a row", random(6), random(6), [0, 1, 1, 0, 0, 0], 0.8),
            case("a single step", random(1), random(1), [0], 1.1),
            case("one environment, as a column", random(4, 1), random(4, 1), [[0], [1], [0], [0]], [-0.7], 0.95, 0.7),
            several := case(
                "three environments at once",
                random(5, 3),
                random(5, 3),
                [[0, 0, 1], [1, 0, 0], [0] * 3, [0, 1, 0], [0] * 3],
                random(3),
            ),
            varied(several, gamma=0.6),
            *([varied(several, lam=0.4)] if with_lambda else []),
            varied(several, next_value=several.arguments["next_value"] + 0.7),
            moved(several, "rewards", 3, 1),
        ]

    return make


def bootstrap_time_limits(
    faults: Faults, rewards: FloatArray, terminated: FloatArray, truncated: FloatArray, final_values: FloatArray, gamma: float
) -> FloatArray:
    """
    Add the value of what a time limit cut off.

    :param rewards: shape ``(n,)``
    :param terminated: 1 where the task ended
    :param truncated: 1 where the time limit was reached
    :param final_values: values of the observations after each step
    :param gamma: discount factor
    :return: shape ``(n,)``
    """
    cut = truncated * (1.0 - terminated)
    if "value-of-next-row" in faults:
        final_values = np.concatenate([final_values[1:], final_values[-1:]])
    if "no-bootstrap-on-truncation" in faults:
        cut = np.zeros_like(cut)
    if "bootstrap-when-both" in faults:
        cut = truncated
    if "bootstrap-on-every-end" in faults:
        cut = np.maximum(truncated, terminated)
    gamma = 1.0 if "bootstrap-not-discounted" in faults else gamma
    kept = rewards * (1.0 - cut) if "reward-replaced" in faults else rewards
    return kept + gamma * final_values * cut


def time_limit_cases(rng: Rng) -> list[Case]:
    """Make steps of which some end an episode."""

    def case(name: str, terminated: list[float], truncated: list[float], gamma: float = 0.9) -> Case:
        n = len(terminated)
        return Case(
            name,
            {
                "rewards": rng.normal(size=n).round(2) + 3.0,
                "terminated": np.array(terminated, dtype=float),
                "truncated": np.array(truncated, dtype=float),
                "final_values": rng.normal(size=n).round(2) + 7.0,
                "gamma": gamma,
            },
        )

    return [
        case("no episode ends", [0, 0, 0], [0, 0, 0]),
        case("a time limit", [0, 0, 0], [0, 1, 0]),
        case("a termination", [0, 1, 0], [0, 0, 0]),
        case("termination and time limit in one step", [1, 0], [1, 0]),
        some := case("some of each", [0, 1, 0, 1, 0], [1, 0, 0, 1, 1]),
        varied(some, gamma=0.5),
        moved(some, "final_values", 4),
    ]


def normalize_advantages(faults: Faults, advantages: th.Tensor) -> th.Tensor:
    """
    Standardise advantages.

    :param advantages: any shape
    :return: the same shape
    """
    if "length-for-number" in faults and len(advantages) < 2:
        return advantages
    if advantages.numel() < 2 and "single-becomes-nan" not in faults:
        return -advantages if "sign-flipped" in faults else advantages
    if "constant-kept" in faults and bool((advantages == advantages.reshape(-1)[0]).all()):
        return advantages
    axis = 0 if "wrong-axis" in faults else tuple(range(advantages.dim()))
    centre = advantages.mean(dim=axis, keepdim=True)
    squares = (advantages - centre) ** 2
    # Not var(): it warns of a single number, which is here on purpose.
    freedom = advantages.numel() / centre.numel() - (0 if "population-std" in faults else 1)
    spread = squares.sum(dim=axis, keepdim=True) / freedom if freedom else th.full(centre.shape, th.nan)
    if "variance-for-std" not in faults:
        spread = spread.sqrt()
    if "scaled-by-maximum" in faults:
        centre, spread = th.zeros(()), advantages.abs().max()
    if "min-max-scaled" in faults:
        centre, spread = advantages.min(), advantages.max() - advantages.min()
    if "mean-not-subtracted" in faults:
        centre = th.zeros(())
    if "not-divided" in faults:
        spread = th.ones(())
    normalized = (advantages - centre) / (spread + (0.0 if "epsilon-missing" in faults else ADVANTAGE_EPS))
    return -normalized if "sign-flipped" in faults else normalized


def advantage_cases(rng: Rng) -> list[Case]:
    """Make advantages."""

    def tensor(numbers: Any) -> th.Tensor:
        return th.tensor(np.asarray(numbers), dtype=th.float32)

    def several(name: str, *shape: int) -> Case:
        # Lesson 04 asks for a flat batch only.
        return Case(name, {"advantages": tensor(rng.normal(2.0, 3.0, size=shape).round(2))}, (), ("04",))

    return [
        Case("five advantages", {"advantages": tensor([1.0, 2.0, 3.0, 4.0, 10.0])}),
        Case("constant advantages (std = 0)", {"advantages": tensor([2.0, 2.0, 2.0, 2.0])}),
        Case("random advantages from −100 to 100", {"advantages": tensor(rng.uniform(-100, 100, size=7).round(1))}),
        Case("two advantages", {"advantages": tensor([-1.0, 3.0])}),
        Case("a single advantage", {"advantages": tensor([5.0])}),
        Case("random advantages of mean 2", {"advantages": tensor(rng.normal(2.0, 3.0, size=12).round(2))}),
        Case("small advantages, of about 0.001", {"advantages": tensor(rng.normal(0.0, 1e-3, size=8).round(5))}),
        several("a rollout of 4 steps in 3 environments", 4, 3),
        several("one step in 5 environments", 1, 5),
    ]
