"""What a policy with a memory needs, with faults, and inputs that tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_ppo_edu.course.exercises.inputs import moved
from sb3_ppo_edu.course.exercises.observing import Case

IntArray = npt.NDArray[np.integer]
Faults = frozenset[str]
Rng = np.random.Generator


def _tensor(numbers: Any) -> th.Tensor:
    """Make a tensor as a rollout buffer would give it."""
    return th.tensor(np.asarray(numbers), dtype=th.float32)


def recurrent_states(
    faults: Faults, inputs: th.Tensor, episode_starts: th.Tensor, state: th.Tensor, w_in: th.Tensor, w_rec: th.Tensor
) -> th.Tensor:
    """
    Carry a memory through a rollout: h_t = tanh(W_in x_t + W_rec (1 − start_t) h_{t−1}).

    :param inputs: x_t, shape ``(n_steps, n_envs, n_inputs)``
    :param episode_starts: 1 where step t is the first of an episode, shape ``(n_steps, n_envs)``
    :param state: h before the first step, shape ``(n_envs, n_units)``
    :param w_in: W_in, shape ``(n_units, n_inputs)``
    :param w_rec: W_rec, shape ``(n_units, n_units)``
    :return: h_t, shape ``(n_steps, n_envs, n_units)``
    """
    starts = episode_starts.float()
    if "reset-one-step-late" in faults:
        starts = th.cat([th.zeros_like(starts[:1]), starts[:-1]])
    if "every-environment-reset" in faults:
        starts = starts.amax(dim=1, keepdim=True).expand_as(starts)
    kept = starts if "reset-inverted" in faults else 1.0 - starts
    if "state-never-reset" in faults:
        kept = th.ones_like(starts)
    before = th.zeros_like(state) if "first-state-ignored" in faults else state
    states = []
    for x, keep in zip(inputs, kept[..., None], strict=True):
        fed = x @ w_in.T * (keep if "input-reset-too" in faults else 1.0)
        summed = fed + keep * before @ (w_rec if "w-rec-transposed" in faults else w_rec.T)
        after = summed if "tanh-left-out" in faults else th.tanh(summed)
        if "old-state-added" in faults:
            after = after + keep * before
        states.append(after)
        if "state-not-carried" not in faults:
            before = after.detach() if "state-detached" in faults else after
    return th.stack(states)


def rollouts_with_memory(rng: Rng) -> list[Case]:
    """Make rollouts in which episodes begin, or do not, and weights."""

    def case(name: str, episode_starts: Any, n_inputs: int = 2, n_units: int = 3) -> Case:
        starts = _tensor(episode_starts)
        n_steps, n_envs = starts.shape
        arguments = {
            "inputs": _tensor(rng.normal(size=(n_steps, n_envs, n_inputs)).round(2)),
            "episode_starts": starts,
            "state": _tensor(rng.uniform(-0.9, 0.9, size=(n_envs, n_units)).round(2)),
            "w_in": _tensor(rng.normal(0.0, 0.6, size=(n_units, n_inputs)).round(2)),
            "w_rec": _tensor(rng.normal(0.0, 0.6, size=(n_units, n_units)).round(2)),
        }
        return Case(name, arguments, ("w_in", "w_rec"))

    return [
        case("one number to remember, one episode from its start on", [[1], [0], [0]], 1, 1),
        case("the rollout begins in mid-episode", [[0], [0], [0]]),
        case("an episode begins in the middle", [[0], [0], [1], [0]]),
        two := case("two environments, in one of which an episode begins", [[0, 0], [0, 1], [0, 0], [0, 0]]),
        moved(two, "inputs", 2, 1, 0),
        case("episodes of one step", [[1], [1], [1]]),
        case("three environments", rng.integers(0, 2, size=(6, 3)), 4, 2),
    ]


def sequence_lengths(faults: Faults, episode_starts: IntArray) -> IntArray:
    """
    Cut a rollout of one environment where episodes begin, and measure the pieces.

    :param episode_starts: 1 where a step is the first of an episode, shape ``(n_steps,)``
    :return: steps of each sequence in their order, shape ``(n_sequences,)``
    """
    first = np.flatnonzero(episode_starts)
    if "cut-after-start" in faults:
        first = first + 1
    begins_in_mid_episode = len(first) == 0 or first[0] != 0
    if ("first-sequence-lost" not in faults and begins_in_mid_episode) or "empty-sequence-first" in faults:
        first = np.concatenate([[0], first])
    if "positions-not-lengths" in faults:
        return first
    return np.diff(first if "last-sequence-lost" in faults else [*first, len(episode_starts)])


def start_cases(rng: Rng) -> list[Case]:
    """Make the starts of episodes in a rollout."""

    def case(name: str, episode_starts: Any) -> Case:
        return Case(name, {"episode_starts": np.array(episode_starts)})

    return [
        case("two episodes, the first from its start on", [1, 0, 0, 1, 0]),
        case("the rollout begins in mid-episode", [0, 0, 1, 0, 0, 0]),
        case("no episode begins", [0, 0, 0, 0]),
        case("episodes of one step", [0, 1, 1, 1]),
        case("random", np.concatenate([[0], rng.integers(0, 2, size=11)])),
        case("random, from a start on", np.concatenate([[1, 0], rng.integers(0, 2, size=8), [0]])),
    ]


def padded_mean(faults: Faults, losses: th.Tensor, lengths: th.Tensor) -> th.Tensor:
    """
    Average over the steps that were taken, not over the padding behind them.

    :param losses: of each step, shape ``(n_sequences, longest)``; behind the end of a sequence they mean nothing
    :param lengths: steps of each sequence, shape ``(n_sequences,)``
    :return: scalar
    """
    too_many = int("one-step-of-padding" in faults) - int("last-step-lost" in faults)
    real = th.arange(losses.shape[1]) < lengths[:, None] + too_many
    if "padding-counted" in faults:
        return losses.mean()
    if "mean-of-means" in faults:
        return (th.where(real, losses, 0.0).sum(dim=1) / real.sum(dim=1)).mean()
    total = (losses * real).sum() if "padding-multiplied" in faults else th.where(real, losses, 0.0).sum()
    if "summed-not-averaged" in faults:
        return total
    return total / (losses.numel() if "divided-by-all" in faults else real.sum())


def padded_cases(rng: Rng) -> list[Case]:
    """Make losses of sequences that are padded to the longest."""

    def case(name: str, lengths: list[int], losses: Any = None) -> Case:
        made = rng.normal(1.0, 1.0, size=(len(lengths), max(lengths))).round(2) if losses is None else losses
        return Case(name, {"losses": _tensor(made), "lengths": th.tensor(lengths)}, ("losses",))

    return [
        case("3 steps and 2, and 9 in the padding", [3, 2], [[1.0, 2.0, 3.0], [4.0, 6.0, 9.0]]),
        case("sequences of equal length", [3, 3]),
        case("NaN and infinity in the padding", [3, 1], [[1.0, 2.0, 4.0], [5.0, np.nan, np.inf]]),
        case("a long one and short ones", [7, 2, 3]),
        case("random", [int(rng.integers(2, 6)), 6, int(rng.integers(2, 6)), 4]),
    ]
