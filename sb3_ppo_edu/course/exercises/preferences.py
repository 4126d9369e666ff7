"""Learning from preferences: a reward model, rewards of tokens and advantages in groups, with faults and inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from torch.nn import functional as F

from sb3_ppo_edu.course.exercises.exercise import Exercise
from sb3_ppo_edu.course.exercises.inputs import moved, varied
from sb3_ppo_edu.course.exercises.observing import Case

Faults = frozenset[str]
Rng = np.random.Generator

GROUP_EPS = 1e-8
"""Added to the standard deviation of a group, so that a group of equal scores has advantages of 0."""


def _tensor(numbers: Any) -> th.Tensor:
    """Make a tensor as a network would give it."""
    return th.tensor(np.asarray(numbers), dtype=th.float32)


def bradley_terry_loss(faults: Faults, chosen: th.Tensor, rejected: th.Tensor) -> th.Tensor:
    """
    Compute the loss of a reward model from pairs.

    :param chosen: rewards of the messages that people preferred, shape ``(pairs,)``
    :param rejected: rewards of the others, shape ``(pairs,)``
    :return: scalar
    """
    if "no-gradient" in faults:
        chosen, rejected = chosen.detach(), rejected.detach()
    margin = chosen if "rejected-left-out" in faults else chosen - rejected
    if "preference-upside-down" in faults:
        margin = -margin
    if "hinge-for-logistic" in faults:
        losses = th.relu(1.0 - margin)
    elif "probability-without-log" in faults:
        losses = -th.sigmoid(margin)
    elif "sigmoid-rounds-to-zero" in faults:
        losses = -th.log(th.sigmoid(margin))
    else:
        losses = -F.logsigmoid(margin)
    if "not-reduced" in faults:
        return losses
    return losses.sum() if "summed-not-averaged" in faults else losses.mean()


def pair_cases(rng: Rng) -> list[Case]:
    """Make pairs of rewards; in one of them the sigmoid of the difference is no number of float32 any more."""

    def case(name: str, chosen: Any, rejected: Any) -> Case:
        return Case(name, {"chosen": _tensor(chosen), "rejected": _tensor(rejected)}, ("chosen", "rejected"))

    return [
        case("two equal rewards: log 2", [1.5], [1.5]),
        case("one pair as people saw it, one the other way", [2.0, -1.0], [0.5, 1.0]),
        case("the wrong one by 120", [-60.0, 1.5], [60.0, 0.0]),
        case("six random pairs", rng.normal(size=6).round(2), rng.normal(size=6).round(2)),
    ]


def token_rewards_with_kl(
    faults: Faults, log_probs: th.Tensor, ref_log_probs: th.Tensor, scores: th.Tensor, beta: float
) -> th.Tensor:
    """
    Compute the reward of each token: the price of having left the reference, and at the end the message's score.

    :param log_probs: of the tokens under the policy that wrote them, shape ``(n_tokens, n_messages)``
    :param ref_log_probs: of the same tokens under the reference, the same shape
    :param scores: of the reward model, shape ``(n_messages,)``
    :param beta: price of a nat
    :return: shape ``(n_tokens, n_messages)``
    """
    cost = log_probs - ref_log_probs
    if "probabilities-not-logs" in faults:
        cost = log_probs.exp() - ref_log_probs.exp()
    if "k3-for-log-ratio" in faults:
        cost = th.exp(ref_log_probs - log_probs) - 1 - (ref_log_probs - log_probs)
    if "leaving-rewarded" in faults:
        cost = -cost
    if "price-paid-at-the-end" in faults:
        cost = th.cat([th.zeros_like(cost[:-1]), cost.sum(0)[None]])
    if "beta-left-out" not in faults:
        cost = beta * cost
    earned = th.zeros_like(cost)
    if "score-at-every-token" in faults:
        earned = earned + scores
    elif "score-shared-out" in faults:
        earned = earned + scores / len(earned)
    elif "score-at-the-first-token" in faults:
        earned[0] = scores
    else:
        earned[-1] = scores
    if "last-token-for-free" in faults:
        cost = th.cat([cost[:-1], th.zeros_like(cost[-1:])])
    return earned - cost


def message_cases(rng: Rng) -> list[Case]:
    """Make messages, one as the reference would write it and others not."""

    def case(name: str, log_probs: Any, ref_log_probs: Any, scores: Any, beta: float = 0.5) -> Case:
        arguments = {
            "log_probs": _tensor(log_probs),
            "ref_log_probs": _tensor(ref_log_probs),
            "scores": _tensor(scores),
            "beta": beta,
        }
        return Case(name, arguments)

    def at_random(*shape: int) -> np.ndarray:
        drawn: np.ndarray = -rng.uniform(0.1, 3.0, size=shape).round(2)
        return drawn

    return [
        case("three tokens, one message", [[-0.5], [-1.0], [-0.2]], [[-1.0], [-2.0], [-1.2]], [2.0]),
        case("the policy is the reference", [[-0.5], [-1.0]], [[-0.5], [-1.0]], [-3.0]),
        several := case("four random messages of five tokens", at_random(5, 4), at_random(5, 4), rng.normal(size=4).round(2)),
        varied(several, beta=0.125),
        moved(several, "log_probs", 2, 1),
    ]


def group_advantages(faults: Faults, scores: th.Tensor) -> th.Tensor:
    """
    Compare each message with the others that answer the same prompt.

    :param scores: shape ``(n_prompts, group_size)``
    :return: the same shape
    """
    centre, spread = scores.mean(dim=1, keepdim=True), scores.std(dim=1, keepdim=True)
    if "population-std" in faults:
        spread = scores.std(dim=1, keepdim=True, correction=0)
    if "groups-crossed" in faults:
        centre, spread = scores.mean(dim=0, keepdim=True), scores.std(dim=0, keepdim=True)
    if "group-ignored" in faults:
        centre, spread = scores.mean(), scores.std()
    if "spread-of-all" in faults:
        spread = scores.std()
    if "compared-with-the-best" in faults:
        centre = scores.amax(dim=1, keepdim=True)
    if "mean-not-subtracted" in faults:
        centre = th.zeros(())
    if "variance-for-std" in faults:
        spread = spread**2
    if "not-divided" in faults:
        spread = th.ones(())
    return (scores - centre) / (spread + (0.0 if "epsilon-missing" in faults else GROUP_EPS))


def group_cases(rng: Rng) -> list[Case]:
    """Make scores in groups: an easy prompt and a hard one, a group of equal scores, random ones."""

    def case(name: str, scores: Any) -> Case:
        return Case(name, {"scores": _tensor(scores)})

    return [
        case("an easy prompt and a hard one", [[9.0, 10.0, 11.0, 14.0], [-1.0, 0.0, 1.0, 0.0]]),
        case("the same score four times", [[2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]]),
        case("two messages each", [[1.0, 3.0], [0.5, 0.0], [-2.0, 5.0]]),
        several := case("three random groups of five", (rng.normal(size=(3, 5)) + rng.normal(0.0, 3.0, size=(3, 1))).round(2)),
        moved(several, "scores", 1, 2),
    ]


PREFERENCES = (
    Exercise(
        "bradley_terry_loss",
        "one number to minimise",
        bradley_terry_loss,
        (
            "preference-upside-down",
            "rejected-left-out",
            "hinge-for-logistic",
            "probability-without-log",
            "sigmoid-rounds-to-zero",
            "summed-not-averaged",
            "not-reduced",
            "no-gradient",
        ),
        pair_cases,
        points=2,
    ),
    Exercise(
        "token_rewards_with_kl",
        "the rewards of all tokens, of shape (n_tokens, n_messages)",
        token_rewards_with_kl,
        (
            "leaving-rewarded",
            "beta-left-out",
            "score-at-every-token",
            "score-shared-out",
            "score-at-the-first-token",
            "price-paid-at-the-end",
            "last-token-for-free",
            "k3-for-log-ratio",
            "probabilities-not-logs",
        ),
        message_cases,
        points=3,
    ),
    Exercise(
        "group_advantages",
        "the advantages, one per message, of the shape of the scores",
        group_advantages,
        (
            "group-ignored",
            "groups-crossed",
            "spread-of-all",
            "compared-with-the-best",
            "mean-not-subtracted",
            "not-divided",
            "variance-for-std",
            "population-std",
            "epsilon-missing",
        ),
        group_cases,
        points=2,
    ),
)
"""The exercises of lesson 11."""
