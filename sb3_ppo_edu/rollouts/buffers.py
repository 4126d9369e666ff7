"""SB3's rollout buffer, filled and finished at less cost.

``RolloutBuffer.add`` copies every array two or three times, and ``compute_returns_and_advantage`` takes ten small array
operations per step. Both count once a fast engine has made the rest cheap. The functions here write the same bits into SB3's
own buffer; a buffer of any other class, which may do anything, is left to its own methods.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from sb3_ppo_edu.functional.advantages import generalized_advantage_estimate, n_step_returns
from sb3_ppo_edu.policies.further_inputs import sb3_contribs

OWN_FUNCTIONS = tuple(
    (owner.__dict__, name, owner.__dict__[name])
    for owner in (RolloutBuffer, DictRolloutBuffer, BaseBuffer)
    for name in ("add", "get", "_get_samples", "compute_returns_and_advantage", "reset", "swap_and_flatten")
    if name in owner.__dict__
)
OWN_ADD = RolloutBuffer.add
OWN_ATTRIBUTES = {name for _, name, _ in OWN_FUNCTIONS}


def known_kinds() -> tuple[type[RolloutBuffer], ...]:
    """SB3's two rollout buffers, and sb3-contrib's with masks where they have been imported: their order is known."""
    masked = sb3_contribs("maskable.buffers", "MaskableRolloutBuffer", "MaskableDictRolloutBuffer")
    return (RolloutBuffer, DictRolloutBuffer, *masked)


def is_sb3s_own(rollout_buffer: RolloutBuffer) -> bool:
    """
    Tell whether a buffer is one of SB3's two, or of sb3-contrib's two with masks, in class and methods.

    :param rollout_buffer: rollout buffer
    :return: False for a subclass, and where a method of the instance or of the class has been replaced
    """
    kind = type(rollout_buffer)
    if kind not in known_kinds() or not OWN_ATTRIBUTES.isdisjoint(rollout_buffer.__dict__):
        return False
    if kind not in (RolloutBuffer, DictRolloutBuffer):
        written_in = sys.modules[kind.__module__].__file__
        functions = [function for name, function in vars(kind).items() if name in OWN_ATTRIBUTES]
        if not all(isinstance(one, FunctionType) and one.__code__.co_filename == written_in for one in functions):
            return False
    return all(functions[name] is function for functions, name, function in OWN_FUNCTIONS)


def add_transition(
    rollout_buffer: RolloutBuffer,
    observations: Any,
    actions: NDArray[Any],
    rewards: NDArray[Any],
    episode_starts: NDArray[Any],
    values: th.Tensor,
    log_probs: th.Tensor,
    **columns: Any,
) -> None:
    """
    Append one step of every environment.

    :param rollout_buffer: the buffer, not full
    :param observations: shape ``(n_envs, *obs_shape)``, or a dict of such
    :param actions: shape ``(n_envs, *action_shape)``, as sampled
    :param rewards: shape ``(n_envs,)``
    :param episode_starts: whether each observation begins an episode, shape ``(n_envs,)``
    :param values: shape ``(n_envs, 1)``
    :param log_probs: shape ``(n_envs,)``
    :param columns: what an engine wants stored beside; the buffer's ``add`` has to know them
    """
    # Only ``add`` counts here, and this is asked at every step.
    own = type(rollout_buffer) is RolloutBuffer and RolloutBuffer.add is OWN_ADD and "add" not in rollout_buffer.__dict__
    if columns or not own:
        if isinstance(rollout_buffer.action_space, spaces.Discrete):
            actions = actions.reshape(-1, 1)
        rollout_buffer.add(observations, actions, rewards, episode_starts, values, log_probs, **columns)
        return
    step = rollout_buffer.pos
    store_observations(rollout_buffer, step, observations)
    rollout_buffer.actions[step] = actions.reshape(rollout_buffer.actions.shape[1:])
    rollout_buffer.rewards[step] = rewards
    rollout_buffer.episode_starts[step] = episode_starts
    rollout_buffer.values[step] = values.cpu().numpy().ravel()
    rollout_buffer.log_probs[step] = log_probs.cpu().numpy()
    rollout_buffer.pos = step + 1
    rollout_buffer.full = rollout_buffer.pos == rollout_buffer.buffer_size


def store_observations(rollout_buffer: RolloutBuffer, step: int, observations: Any) -> None:
    """
    Write one step's observations into a buffer's row, cast to its types.

    :param rollout_buffer: the buffer
    :param step: the row
    :param observations: shape ``(n_envs, *obs_shape)``, or a dict of such
    """
    stored: Any = rollout_buffer.observations
    if not isinstance(stored, dict):
        stored, observations = {None: stored}, {None: observations}
    for key, column in stored.items():
        column[step] = observations[key].reshape(column.shape[1:])


def compute_returns_and_advantage(
    rollout_buffer: RolloutBuffer,
    last_values: th.Tensor,
    dones: NDArray[np.bool_],
    vf_lambda: float | None = None,
    vf_n_steps: int | None = None,
) -> None:
    """
    Compute advantages by GAE, and the targets of the value function.

    :param rollout_buffer: the full buffer
    :param last_values: values of the observations after the last step, shape ``(n_envs, 1)``
    :param dones: whether each environment's last step ended its episode, shape ``(n_envs,)``
    :param vf_lambda: λ of the TD(λ) targets; None for that of the advantages: ``returns = advantages + values``
    :param vf_n_steps: n of n-step targets in place of them, or None
    """
    # SB3's arithmetic follows the type of the last values; ours is written for its usual one.
    ours = is_sb3s_own(rollout_buffer) and last_values.dtype == th.float32
    if not ours:
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        if vf_lambda is None and vf_n_steps is None:
            return
    rollout = _rollout(rollout_buffer, rollout_buffer.values, last_values, dones)
    if ours:
        rollout_buffer.advantages = _advantages(rollout_buffer, rollout)
    rollout_buffer.returns = _targets(rollout_buffer, rollout, rollout_buffer.advantages, vf_lambda, vf_n_steps)


def recompute_returns_and_advantage(
    rollout_buffer: RolloutBuffer,
    values: NDArray[np.float32],
    last_values: th.Tensor,
    dones: NDArray[np.bool_],
    vf_lambda: float | None = None,
    vf_n_steps: int | None = None,
) -> None:
    """
    Compute advantages and targets once more, with other values. Those that the buffer stores stay what they were.

    Rewards stay as well, and with them what was added where a time limit ended an episode.

    :param rollout_buffer: SB3's own buffer, full, in the order in which an epoch has put it: one environment after the other
    :param values: of its observations, in the same order, shape ``(n_envs * n_steps,)``
    :param last_values: values of the observations after the last step, shape ``(n_envs, 1)``
    :param dones: whether each environment's last step ended its episode, shape ``(n_envs,)``
    :param vf_lambda: as in :func:`compute_returns_and_advantage`
    :param vf_n_steps: as there
    """
    by_step = np.ascontiguousarray(values.reshape(rollout_buffer.n_envs, rollout_buffer.buffer_size).T)
    rollout = _rollout(rollout_buffer, by_step, last_values, dones)
    advantages = _advantages(rollout_buffer, rollout)
    targets = _targets(rollout_buffer, rollout, advantages, vf_lambda, vf_n_steps)
    rollout_buffer.advantages, rollout_buffer.returns = map(rollout_buffer.swap_and_flatten, (advantages, targets))


Rollout = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Rewards, values, ends of episodes and last values, as :mod:`~sb3_ppo_edu.functional.advantages` takes them."""


def _rollout(
    rollout_buffer: RolloutBuffer, values: NDArray[np.float32], last_values: th.Tensor, dones: NDArray[np.bool_]
) -> Rollout:
    """Put together what advantages and targets are computed from; values have the shape ``(n_steps, n_envs)``."""
    # SB3 stores whether a step *begins* an episode: one step later than whether the step before ended one.
    ends = np.concatenate([rollout_buffer.episode_starts[1:], dones[None].astype(np.float32)])
    return rollout_buffer.rewards, values, ends, last_values.cpu().numpy().flatten().astype(np.float32, copy=False)


def _advantages(rollout_buffer: RolloutBuffer, rollout: Rollout) -> NDArray[np.float32]:
    """Estimate the advantages of a rollout with the buffer's discounts, shape ``(n_steps, n_envs)``."""
    return generalized_advantage_estimate(*rollout, rollout_buffer.gamma, rollout_buffer.gae_lambda)


def _targets(
    rollout_buffer: RolloutBuffer,
    rollout: Rollout,
    advantages: NDArray[np.float32],
    vf_lambda: float | None,
    vf_n_steps: int | None,
) -> NDArray[np.float32]:
    """Compute what the value function is to learn, shape ``(n_steps, n_envs)``."""
    if vf_n_steps is not None:
        return n_step_returns(*rollout, vf_n_steps, rollout_buffer.gamma)
    if vf_lambda is not None:
        advantages = generalized_advantage_estimate(*rollout, rollout_buffer.gamma, vf_lambda)
    return advantages + rollout[1]


class IncompleteRolloutError(ValueError, AssertionError):
    """An update is asked for before the rollout is complete. SB3 asserts that it is."""


BLOCK, BLOCK_BYTES = 2**13, 2**23
"""Transitions, and bytes of observations, that are put in order at once: enough to save calls, too few to hold a long rollout
twice in memory."""


class ShuffledRollout(NamedTuple):
    """
    Transitions in the order of one epoch; a minibatch is a slice of every column.

    :param observations: shape ``(transitions, *obs_shape)``
    :param actions: shape ``(transitions, action_dim)``, float32
    :param values: shape ``(transitions,)``, as are the columns below
    :param log_probs: log-probabilities of the actions when they were taken
    :param advantages: not normalised
    :param returns: targets of the value function
    """

    observations: NDArray[Any]
    actions: NDArray[np.float32]
    values: NDArray[np.float32]
    log_probs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    returns: NDArray[np.float32]


def is_plain(rollout_buffer: RolloutBuffer) -> bool:
    """
    Tell whether the functions here may shuffle a buffer.

    :param rollout_buffer: rollout buffer
    :return: False for a buffer whose own ``get`` must be called
    """
    return is_sb3s_own(rollout_buffer) and rollout_buffer.device.type == "cpu"


def check_full(rollout_buffer: RolloutBuffer) -> None:
    """
    Check that there is a whole rollout to learn from.

    :param rollout_buffer: rollout buffer
    :raises IncompleteRolloutError: if steps are missing
    """
    if not rollout_buffer.full:
        raise IncompleteRolloutError(
            f"rollout_buffer: found {rollout_buffer.pos} of its {rollout_buffer.buffer_size} steps, expected all: an update "
            "needs a whole rollout (n_steps must be what the model was built with, and learn is not called within learn)"
        )


def draw_permutation(rollout_buffer: RolloutBuffer) -> NDArray[np.int64]:
    """
    Draw the permutation of one epoch that ``RolloutBuffer.get`` draws, and flatten the buffer's columns as it does.

    :param rollout_buffer: full rollout buffer, for which :func:`is_plain` holds
    :return: indices of all transitions
    """
    check_full(rollout_buffer)
    permutation = np.random.permutation(rollout_buffer.buffer_size * rollout_buffer.n_envs)
    if not rollout_buffer.generator_ready:
        observations: Any = rollout_buffer.observations
        if isinstance(observations, dict):
            observations.update({key: rollout_buffer.swap_and_flatten(part) for key, part in observations.items()})
        else:
            rollout_buffer.observations = rollout_buffer.swap_and_flatten(observations)
        masks = ["action_masks"] if hasattr(rollout_buffer, "action_masks") else []
        for name in ("actions", "values", "log_probs", "advantages", "returns", *masks):
            setattr(rollout_buffer, name, rollout_buffer.swap_and_flatten(getattr(rollout_buffer, name)))
        rollout_buffer.generator_ready = True
    return permutation


def possible_actions(space: spaces.Space[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """
    Refuse actions that there are not, as torch's distributions do where they are validated.

    :param space: of the actions
    :param actions: as a rollout buffer stores them, any shape that ends with the numbers of an action
    :return: the actions; of Discrete ones that somebody has stored as fractions the integer part, which SB3 takes
    :raises ValueError: if one is none of the space's
    """
    if isinstance(space, spaces.Discrete):
        number_of: Any = space.n
        if actions.dtype.kind == "f":
            actions = np.trunc(actions)
    elif isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        number_of = space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else 2
    else:
        return actions
    possible = (actions >= 0) & (actions < number_of)
    if actions.dtype.kind == "f":
        possible &= actions == np.trunc(actions)
    if not possible.all():
        wrong = np.argwhere(~possible)[0]
        raise ValueError(
            f"rollout_buffer.actions: found {actions[tuple(wrong)]} at {tuple(map(int, wrong))}, expected those of {space}: "
            "somebody has written there"
        )
    return actions


def shuffle_rollout(rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[ShuffledRollout]:
    """
    Shuffle the rollout for one epoch, with the permutation that ``RolloutBuffer.get`` draws.

    Blocks of whole minibatches are put in order at once, instead of picking the rows of each minibatch.

    :param rollout_buffer: full rollout buffer of one array of observations, for which :func:`is_plain` holds
    :param batch_size: transitions per minibatch; the last one may have fewer
    :return: the blocks of one epoch
    """
    permutation = draw_permutation(rollout_buffer)
    scalars = [getattr(rollout_buffer, name)[:, 0] for name in ("values", "log_probs", "advantages", "returns")]
    block = min(BLOCK, BLOCK_BYTES // max(rollout_buffer.observations[0].nbytes, 1))
    block = max(block // batch_size, 1) * batch_size
    for start in range(0, len(permutation), block):
        rows = permutation[start : start + block]
        actions = rollout_buffer.actions[rows].astype(np.float32, copy=False)
        yield ShuffledRollout(rollout_buffer.observations[rows], actions, *(column[rows] for column in scalars))


def shuffled_minibatches(rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[RolloutBufferSamples]:
    """
    Give what ``RolloutBuffer.get`` gives, to the same bits.

    :param rollout_buffer: full rollout buffer
    :param batch_size: transitions per minibatch; the last one may have fewer
    :return: the minibatches of one epoch
    """
    if not is_plain(rollout_buffer) or type(rollout_buffer) is not RolloutBuffer:
        yield from rollout_buffer.get(batch_size)
        return
    for block in shuffle_rollout(rollout_buffer, batch_size):
        columns = [th.from_numpy(column) for column in block]
        for parts in zip(*(column.split(batch_size) for column in columns), strict=True):
            # A copy begins at an aligned address, a slice anywhere: the bits of a matrix product may depend on it.
            yield RolloutBufferSamples(parts[0].clone(), *parts[1:])


def rows_as_tensors(
    observations: NDArray[Any] | dict[str, NDArray[Any]], rows: Any, device: th.device
) -> th.Tensor | dict[str, th.Tensor]:
    """
    Take some of a rollout's observations.

    :param observations: of the rollout buffer
    :param rows: which: a slice, indices, or an array of indices for each of the first axes
    :param device: where they are needed
    :return: tensors with memory of their own: the bits of a matrix product may depend on where an array begins
    """
    if isinstance(observations, dict):
        return {name: th.from_numpy(part[rows]).clone().to(device) for name, part in observations.items()}
    return th.from_numpy(observations[rows]).clone().to(device)
