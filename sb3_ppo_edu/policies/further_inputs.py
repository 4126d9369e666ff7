"""What policies act on beside observations: action masks, or the hidden states of recurrent layers."""

from __future__ import annotations

import sys
from typing import Any

from stable_baselines3.common.policies import BasePolicy

OF_SB3_CONTRIB = {
    ("maskable.policies", "MaskableActorCriticPolicy"): ("action_masks",),
    ("recurrent.policies", "RecurrentActorCriticPolicy"): ("lstm_states", "episode_starts"),
}
"""Module and class of a policy, and the names of further arguments of its ``evaluate_actions``."""


def sb3_contribs(module: str, *names: str) -> tuple[Any, ...]:
    """
    Give some of sb3-contrib's classes without importing them.

    :param module: below ``sb3_contrib.common``
    :param names: of the classes
    :return: the classes; none where the module has not been imported, so that nothing can be of them
    """
    found = sys.modules.get(f"sb3_contrib.common.{module}")
    return () if found is None else tuple(getattr(found, name) for name in names)


def algorithm_for(policy: type[BasePolicy]) -> str:
    """
    Name who gives a policy all that it takes.

    :param policy: actor-critic policy that takes more than observations
    :return: name of the algorithm
    """
    inputs = further_inputs(policy)
    return f"{'Maskable' * ('action_masks' in inputs)}{'Recurrent' * ('lstm_states' in inputs)}EduPPO"


def further_inputs(policy: BasePolicy | type[BasePolicy]) -> tuple[str, ...]:
    """
    Name what a policy's ``evaluate_actions`` takes beside observations and actions.

    A class of one's own may say it itself, in an attribute ``further_inputs``.

    :param policy: actor-critic policy, or its class
    :return: names of arguments, which columns of the rollout buffer's samples have too
    """
    kind = policy if isinstance(policy, type) else type(policy)
    own: tuple[str, ...] | None = getattr(kind, "further_inputs", None)
    if own is not None:
        return own
    for (module, name), inputs in OF_SB3_CONTRIB.items():
        if issubclass(kind, sb3_contribs(module, name)):
            return inputs
    return ()
