"""sb3-contrib's rollout buffers for sequences, cut into minibatches at less cost than by ``get`` and with the same draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.rollouts.buffers import check_full

STATES = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
COLUMNS = ("actions", "values", "log_probs", "advantages", "returns", *STATES, "episode_starts")
METHODS = ("get", "_get_samples", "swap_and_flatten")
OWN_FUNCTIONS = tuple(
    (owner, name, getattr(owner, name)) for owner in (RecurrentRolloutBuffer, RecurrentDictRolloutBuffer) for name in METHODS
)


class RotatedRollout(NamedTuple):
    """
    A rollout in the order of an epoch: one environment after the other, beginning anywhere and ending before it.

    :param rows: indices of the buffer's transitions, shape ``(transitions,)``
    :param begins: whether a sequence begins with a transition: an episode, or an environment's rollout; in the same order
    """

    rows: NDArray[np.int64]
    begins: NDArray[np.bool_]


def has_plain_sequences(rollout_buffer: RolloutBuffer) -> bool:
    """
    Tell whether :func:`rotate` may be called instead of a buffer's own ``get``.

    :param rollout_buffer: rollout buffer
    :return: True for one of sb3-contrib's two on the CPU, none of whose methods has been replaced
    """
    if type(rollout_buffer) not in (RecurrentRolloutBuffer, RecurrentDictRolloutBuffer):
        return False
    own = all(getattr(owner, name) is function for owner, name, function in OWN_FUNCTIONS)
    return own and vars(rollout_buffer).keys().isdisjoint(METHODS) and rollout_buffer.device.type == "cpu"


def rotate(rollout_buffer: Any) -> RotatedRollout:
    """
    Draw the transition that one epoch begins with as ``RecurrentRolloutBuffer.get`` does, and flatten the columns as it does.

    :param rollout_buffer: full rollout buffer, for which :func:`has_plain_sequences` holds
    :return: the order of the epoch
    """
    check_full(rollout_buffer)
    n = rollout_buffer.buffer_size * rollout_buffer.n_envs
    if not rollout_buffer.generator_ready:
        flatten = rollout_buffer.swap_and_flatten
        for name in STATES:  # (n_steps, n_layers, n_envs, n_units): the environments come second
            setattr(rollout_buffer, name, getattr(rollout_buffer, name).swapaxes(1, 2))
        if isinstance(rollout_buffer.observations, dict):
            rollout_buffer.observations.update({key: flatten(part) for key, part in rollout_buffer.observations.items()})
        else:
            rollout_buffer.observations = flatten(rollout_buffer.observations)
        for name in COLUMNS:
            setattr(rollout_buffer, name, flatten(getattr(rollout_buffer, name)))
        rollout_buffer.generator_ready = True
    rows = np.roll(np.arange(n), -np.random.randint(n))
    begins = rollout_buffer.episode_starts.ravel() != 0
    begins[:: rollout_buffer.buffer_size] = True
    return RotatedRollout(rows, begins[rows])
