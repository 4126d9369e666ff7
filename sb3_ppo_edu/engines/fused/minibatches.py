"""Minibatches for the kernels: a rollout, and which of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter, is_
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.engines.fused.description import RolloutStruct, array_address
from sb3_ppo_edu.engines.fused.observations import Part, StoredParts
from sb3_ppo_edu.functional.objectives import Array
from sb3_ppo_edu.rollouts.buffers import draw_permutation, possible_actions

columns_of = attrgetter("observations", "actions", "values", "log_probs", "advantages", "returns")
"""The rollout buffer's arrays, in the order of :class:`Columns`."""


class Columns(NamedTuple):
    """
    Transitions of a rollout, one row each, all in one floating type and contiguous.

    :param observations: shape ``(transitions, features)``, or the parts that the kernels make such a matrix of
    :param actions: as the rollout buffer stores them, shape ``(transitions, action_size)``
    :param old_values: shape ``(transitions,)``, as are the columns below
    :param old_log_prob: log-probabilities of the actions when they were taken
    :param advantages: not normalised
    :param returns: targets of the value function
    :param masks: 0 where a class is illegal, shape ``(transitions, outputs)``, or None where there are none
    """

    observations: Array | StoredParts
    actions: Array
    old_values: Array
    old_log_prob: Array
    advantages: Array
    returns: Array
    masks: Array | None = None


class FusedMinibatch:
    """
    Some rows of a rollout; the kernels gather them.

    :param columns: all transitions
    :param rows: indices of those of the minibatch, contiguous
    :param struct: where the columns lie
    :param address: where ``rows`` lies
    """

    __slots__ = ("address", "columns", "rows", "size", "struct")

    def __init__(self, columns: Columns, rows: NDArray[np.int64], struct: RolloutStruct, address: int) -> None:
        self.columns, self.rows, self.struct, self.address = columns, rows, struct, address
        self.size = len(rows)

    @property
    def advantages(self) -> Array:
        """As the rollout buffer has them, not normalised, shape ``(size,)``."""
        return self.columns.advantages[self.rows]

    @property
    def old_log_prob(self) -> Array:
        """Log-probabilities of the actions when they were taken, shape ``(size,)``."""
        return self.columns.old_log_prob[self.rows]


def as_columns(
    observations: Any,
    *columns: Any,
    features_dim: int,
    action_size: int,
    dtype: Any,
    action_space: Any = None,
    n_masks: int = 0,
) -> Columns:
    """
    Put a rollout in the form that the kernels read.

    :param observations: as the network takes them, any shape that begins with the number of transitions; or stored parts
    :param columns: actions, old values, old log-probabilities, advantages and returns, and with masks these
    :param features_dim: numbers of an observation
    :param action_size: numbers of an action
    :param dtype: of the parameters
    :param action_space: of the actions
    :param n_masks: numbers of a mask, 0 where there are none
    :return: the columns, which share memory with what is in the right form already
    :raises ValueError: if their sizes do not fit, or an action is none of the space's
    """
    columns = (possible_actions(action_space, columns[0]), *columns[1:])
    in_parts = isinstance(observations, StoredParts)
    n, given = len(columns[0]), columns if in_parts else (observations, *columns)
    made = [np.ascontiguousarray(column, dtype).reshape(n, -1) for column in given]
    masks = [n_masks] if n_masks else []
    widths, expected = [column.shape[1] for column in made], [features_dim, action_size, 1, 1, 1, 1, *masks][in_parts:]
    if widths != expected:
        raise ValueError(f"rollout: found columns of {widths} numbers a transition, expected {expected}: {Columns._fields}")
    found, actions, *others = (observations, *made) if in_parts else made
    return Columns(found, actions, *(column[:, 0] for column in others[:4]), *others[4:])


def struct_of(columns: Columns) -> RolloutStruct:
    """Where columns lie, as the kernels are told."""
    struct = RolloutStruct(0, *map(array_address, columns[1:6]))
    struct.masks = None if columns.masks is None else array_address(columns.masks)
    if isinstance(columns.observations, StoredParts):
        struct.parts = columns.observations.address
    else:
        struct.observations = array_address(columns.observations)
    return struct


def pick_rows(columns: Columns, struct: RolloutStruct, order: NDArray[np.int64], batch_size: int) -> Iterator[FusedMinibatch]:
    """
    Cut an order of the transitions into minibatches.

    :param columns: all transitions
    :param struct: where they lie
    :param order: indices of the transitions
    :param batch_size: transitions per minibatch; the last one may have fewer
    :return: the minibatches
    """
    order = np.ascontiguousarray(order, np.int64)
    # As numbers without a sign negative ones are the largest: one look instead of two.
    if len(order) and order.view(np.uint64).max() >= len(columns.returns):
        found = f"indices from {order.min()} to {order.max()}"
        raise ValueError(f"rows: found {found}, expected 0 to {len(columns.returns) - 1}")
    start, size = array_address(order), order.itemsize
    for first in range(0, len(order), batch_size):
        yield FusedMinibatch(columns, order[first : first + batch_size], struct, start + first * size)


class Epochs:
    """The epochs of an update: the rollout is put in form for the first, and anew where arrays of it have been replaced."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The update has ended: keep no rollout alive."""
        self._arrays: list[Any] = []
        self._columns: tuple[Columns, RolloutStruct] | None = None

    def shuffled(
        self, rollout_buffer: RolloutBuffer, batch_size: int, parts: list[Part] | None, **form: Any
    ) -> Iterator[FusedMinibatch]:
        """
        Shuffle a rollout for one epoch.

        :param rollout_buffer: full rollout buffer, for which :func:`~sb3_ppo_edu.rollouts.buffers.is_plain` holds
        :param batch_size: transitions per minibatch; the last one may have fewer
        :param parts: of the observations; None where these are features already
        :param form: of :func:`as_columns`
        :return: minibatches
        """
        order = draw_permutation(rollout_buffer)
        observations, *others = columns_of(rollout_buffer)
        if form.get("n_masks"):
            others.append(rollout_buffer.action_masks)  # type: ignore[attr-defined]
        in_parts = observations.values() if isinstance(observations, dict) else (observations,)
        arrays = [parts, *in_parts, *others]
        same = len(arrays) == len(self._arrays) and all(map(is_, arrays, self._arrays))
        if self._columns is None or not same:
            if parts is not None:
                observations = StoredParts(parts, observations, len(order))
            columns = as_columns(observations, *others, **form)
            self._arrays, self._columns = arrays, (columns, struct_of(columns))
        return pick_rows(*self._columns, order, batch_size)
