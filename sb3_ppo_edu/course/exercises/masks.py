"""Policies that must not take every action, with faults, and inputs that tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from torch.nn import functional as F

from sb3_ppo_edu.course.exercises.inputs import moved
from sb3_ppo_edu.course.exercises.observing import Case

Faults = frozenset[str]
Rng = np.random.Generator

FORBIDDEN = -1e8
"""In the place of a logit: its probability is 0, and unlike -inf it stays a number when 0 is multiplied with it."""


def _masked_log_probs(faults: Faults, logits: th.Tensor, mask: th.Tensor, forbidden: float = FORBIDDEN) -> th.Tensor:
    """Compute the log-probabilities of all actions; `forbidden` is the logit of those that must not be taken."""
    if "mask-read-backwards" in faults:
        mask = ~mask
    if "logits-zeroed" in faults:
        logits = logits * mask
    elif "softmax-twice" in faults:
        logits = logits.softmax(dim=-1) * mask
    elif "not-renormalised" not in faults:
        logits = logits.masked_fill(~mask, forbidden)
    return F.log_softmax(logits, dim=0 if "softmax-over-batch" in faults else -1)


def masked_log_prob(faults: Faults, logits: th.Tensor, mask: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    Compute log-probabilities of actions where only those of a mask may be taken.

    :param logits: shape ``(batch, n_actions)``
    :param mask: True where an action may be taken, the same shape
    :param actions: the actions taken, shape ``(batch,)``
    :return: shape ``(batch,)``
    """
    if "no-gradient" in faults:
        logits = logits.detach()
    log_probs = _masked_log_probs(faults, logits, mask).gather(1, actions[:, None]).squeeze(1)
    if "probabilities-not-logs" in faults:
        log_probs = log_probs.exp()
    return log_probs.mean() if "averaged-too-early" in faults else log_probs


def masked_entropy(faults: Faults, logits: th.Tensor, mask: th.Tensor) -> th.Tensor:
    """
    Compute the entropy over the actions of a mask.

    :param logits: shape ``(batch, n_actions)``
    :param mask: True where an action may be taken, the same shape
    :return: shape ``(batch,)``
    """
    infinite = faults & {"infinity-times-zero", "where-hides-nan"}
    log_probs = _masked_log_probs(faults, logits, mask, -th.inf if infinite else FORBIDDEN)
    if "mask-left-out" in faults:
        log_probs = F.log_softmax(logits, dim=-1)
    products = log_probs.exp() * log_probs
    if "not-renormalised" in faults or "where-hides-nan" in faults:
        products = th.where(mask, products, 0.0)
    entropy = -(products.mean(dim=-1) if "actions-mean-for-sum" in faults else products.sum(dim=-1))
    if "gini-for-entropy" in faults:
        entropy = 1.0 - (log_probs.exp() ** 2).sum(dim=-1)
    if "share-of-possible" in faults:
        entropy = entropy / mask.sum(dim=-1).float().log()
    if "averaged-too-early" in faults:
        entropy = entropy.mean()
    return -entropy if "entropy-sign" in faults else entropy


def _positions(rng: Rng) -> list[tuple[str, th.Tensor, th.Tensor, th.Tensor]]:
    """Make names, logits, masks and legal actions."""

    def position(name: str, mask: Any, logits: Any = None) -> tuple[str, th.Tensor, th.Tensor, th.Tensor]:
        legal = th.tensor(np.asarray(mask), dtype=th.bool)
        made = rng.normal(0.5, 1.0, size=legal.shape).round(2) if logits is None else logits
        actions = [int(rng.choice(np.flatnonzero(row))) for row in legal.numpy()]
        return name, th.tensor(np.asarray(made), dtype=th.float32), legal, th.tensor(actions)

    several = rng.integers(0, 2, size=(4, 5))
    several[:, :3] |= [[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    several[0, 3] = 0
    return [
        position("three of four, equal logits", [[1, 1, 0, 1]], [[2.0, 2.0, 2.0, 2.0]]),
        position("nothing is forbidden", [[1, 1, 1], [1, 1, 1]]),
        position("one choice is left", [[0, 1, 0], [1, 1, 0]]),
        position("the favourite is forbidden", [[0, 1, 1], [1, 1, 0]], [[6.0, 0.5, 1.0], [1.0, 2.0, 5.0]]),
        position("the legal actions have low logits", [[1, 0, 1], [0, 1, 1]], [[-60.0, 5.0, -61.0], [3.0, -40.0, -40.5]]),
        position("four random states, five actions", several),
    ]


def masked_action_cases(rng: Rng) -> list[Case]:
    """Make states in which an action was taken."""
    cases = [
        Case(name, {"logits": logits, "mask": mask, "actions": actions}, ("logits",))
        for name, logits, mask, actions in _positions(rng)
    ]
    return [*cases, moved(cases[-1], "logits", 0, 0)]


def masked_state_cases(rng: Rng) -> list[Case]:
    """Make states."""
    cases = [Case(name, {"logits": logits, "mask": mask}, ("logits",)) for name, logits, mask, _ in _positions(rng)]
    return [*cases, moved(cases[-1], "logits", 0, 0)]
