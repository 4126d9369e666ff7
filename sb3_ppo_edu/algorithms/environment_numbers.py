"""What a rollout tells of its environment: what observations say, what actions do, what is rewarded, how episodes end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

Floats = NDArray[np.float64]

MOST_PARTS = 64
"""Observations with more parts are images or the like, of which no part by itself says anything."""

SAMPLE = 512
"""Transitions that regressions are made of: enough to see what a part in fifty of the variance comes from."""

ROUNDING = 1e-3
"""Share of a change's variance that is as good as explained."""

Bootstrap = tuple[int, int, float]
"""``num_timesteps`` at the end of an episode, its environment, and the value that was added to its last reward."""

MOST_WAITING = 2**16
"""Transitions of which starts and rewards are kept until somebody asks for their sums."""

FEWEST = 32
"""Transitions without which nothing is said."""


def in_order(buffer: RolloutBuffer, array: NDArray[Any]) -> NDArray[Any]:
    """
    Give a column of a rollout buffer in the order in which it was collected.

    SB3's buffers, once they have handed out minibatches, have some columns flattened, one environment after the other.

    :param buffer: full buffer
    :param array: one of its columns
    :return: shape ``(n_steps, n_envs, parts)``
    """
    n_steps, n_envs = buffer.buffer_size, buffer.n_envs
    if len(array) == n_steps and n_envs > 1:
        by_step: NDArray[Any] = array.reshape(n_steps, n_envs, -1)
    else:
        by_step = array.reshape(n_envs, n_steps, -1).swapaxes(0, 1)
    return by_step


def is_sampled(index: int) -> bool:
    """
    Say whether a rollout's environment is looked at: it stays what it is, so now and then will do, and often at first.

    :param index: how many could have been before, from 0
    """
    return index & (index - 1) == 0 or index % 16 == 0


class UnfinishedEpisodes:
    """
    The episodes that the latest rollout has left unfinished, summed up when that is asked for: which is seldom.

    :param left: what :meth:`sums` gave before the first rollout that is added, or None
    """

    def __init__(self, left: Floats | None = None) -> None:
        self._left = left
        self._rollouts: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def add(self, buffer: RolloutBuffer) -> None:
        """
        Take in a rollout.

        :param buffer: full buffer
        """
        columns = buffer.episode_starts, buffer.rewards
        starts, rewards = (in_order(buffer, column)[..., 0].copy(order="K") for column in columns)
        self._rollouts.append((starts, rewards))
        if len(self._rollouts) * starts.size > MOST_WAITING:
            self.sums()

    def sums(self) -> Floats | None:
        """
        Give what is left.

        :return: steps and sums of rewards so far of each environment's episode, shape ``(2, n_envs)``, NaN where they are not
            known; None before the first rollout
        """
        needed, begun = len(self._rollouts), np.zeros(1, bool)
        while needed and not begun.all():  # no further back than the oldest of the episodes
            needed -= 1
            begun = begun | self._rollouts[needed][0].any(0)
        for starts, rewards in self._rollouts[needed:]:
            self._left = unfinished_episodes(starts, rewards, self._left)
        self._rollouts = []
        return self._left


def unfinished_episodes(starts: NDArray[Any], rewards: NDArray[Any], before: Floats | None) -> Floats:
    """
    Sum up the episodes that a rollout leaves unfinished.

    :param starts: whether a step began an episode, shape ``(n_steps, n_envs)``
    :param rewards: shape ``(n_steps, n_envs)``
    :param before: what the rollout before has left, or None
    :return: their steps and the sums of their rewards so far, shape ``(2, n_envs)``, NaN where they are not known
    """
    begun, n_steps = starts.any(0), len(starts)
    last = np.where(begun, n_steps - 1 - starts[::-1].argmax(0), 0)
    left = np.empty((2, len(last)))
    left[0], left[1] = n_steps - last, (rewards * (np.arange(n_steps)[:, None] >= last)).sum(0, dtype=np.float64)
    if not begun.all():
        left[:, ~begun] += np.nan if before is None else before[:, ~begun]
    return left


def environment_numbers(
    model: OnPolicyAlgorithm,
    last_ends: NDArray[Any] | None,
    bootstraps: Sequence[Bootstrap],
    n_processes: int = 1,
    unfinished: Floats | None = None,
) -> dict[str, float]:
    """
    Sum up what a rollout tells of its environment.

    :param model: EduPPO, or SB3's PPO, with a full rollout buffer
    :param last_ends: whether its last step ended an episode, shape ``(n_envs,)``, or None where that is not known
    :param bootstraps: what the ends of episodes at time limits added to the rewards, NaN where it is not known
    :param n_processes: how many processes step environments for this training
    :param unfinished: what the rollout before has left, see :class:`UnfinishedEpisodes`, or None
    :return: log keys, without ``train/``, and values; what cannot be told is left out
    """
    buffer = model.rollout_buffer
    starts = in_order(buffer, buffer.episode_starts)[..., 0] > 0
    rewards = in_order(buffer, buffer.rewards)[..., 0].astype(np.float64)
    ends = np.concatenate([starts[1:], np.zeros_like(starts[:1]) if last_ends is None else np.asarray(last_ends, bool)[None]])
    numbers = {
        "surprise": -float(buffer.log_probs.mean()),
        "reward_zero": float((rewards == 0).mean()),
    }
    for timestep, env, value in bootstraps:
        step = len(starts) - 1 - (model.num_timesteps - timestep) // (buffer.n_envs * n_processes)
        if timestep > 0 and step >= 0:
            rewards[step, env] -= value
    numbers |= episode_numbers(list(model.ep_info_buffer or ()), starts, ends, rewards, unfinished)
    space = buffer.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and 0 < space.shape[0] <= MOST_PARTS:
        observations = in_order(buffer, buffer.observations)
        numbers |= observation_numbers(observations, starts, space)
        numbers |= action_numbers(observations, encoded_actions(buffer), np.nan_to_num(rewards), starts)
    return numbers


# -- episodes and their rewards ------------------------------------------------------------------------------------------


def episode_numbers(
    reported: list[dict[str, Any]],
    starts: NDArray[Any],
    ends: NDArray[Any],
    rewards: Floats,
    unfinished: Floats | None = None,
) -> dict[str, float]:
    """
    Set the episodes that end in a rollout against what the monitor says of them.

    Only those are compared that are known from their first step to their last.

    :param reported: the monitor's latest episodes, in the order in which they ended
    :param starts: whether a step began an episode, shape ``(n_steps, n_envs)``
    :param ends: whether it ended one
    :param rewards: what the policy is trained on, without the bootstrapped values of time limits
    :param unfinished: what the rollout before has left, shape ``(2, n_envs)``, or None
    """
    own: list[tuple[float, float] | None] = []
    for step, env in np.argwhere(ends).tolist():
        begun = np.flatnonzero(starts[: step + 1, env])
        first = int(begun[-1]) if len(begun) else 0
        length, total = float(step + 1 - first), float(rewards[first : step + 1, env].sum())
        if not len(begun):
            before = (np.nan, np.nan) if unfinished is None else unfinished[:, env]
            length, total = length + before[0], total + before[1]
        own.append((length, total) if np.isfinite(length) else None)
    lengths = [one[0] for one in own if one is not None]
    numbers = {"episode_length_max": float(max(lengths))} if lengths else {}
    pairs = [(*one, info["r"], info["l"]) for one, info in zip(own[::-1], reported[::-1], strict=False) if one is not None]
    if pairs:
        length, total, told, told_length = np.array(pairs, np.float64).T
        numbers["monitor_length_ratio"] = float(told_length.sum() / length.sum())
        numbers["monitor_lengths_equal"] = float((length == told_length).mean())
        known = np.isfinite(total)
        if known.any():
            numbers |= against_monitor(total[known], told[known], length[known])
    return numbers


def against_monitor(total: Floats, told: Floats, length: Floats) -> dict[str, float]:
    """
    Compare what episodes were rewarded with, as the policy saw it, with the returns that a monitor reports.

    :param total: sum of the rewards that the policy is trained on, shape ``(episodes,)``
    :param told: the monitor's return of each
    :param length: steps of each
    :return: the largest difference over the size of the returns, the slope and the correlation between both where they vary,
        and the difference per step
    """
    size = max(float(np.abs(told).mean()), 1e-9)
    numbers = {
        "monitor_difference": float(np.abs(total - told).max()) / size,
        "monitor_ratio": float(total.sum() / told.sum()) if abs(told.sum()) > 1e-9 else np.nan,
        "monitor_offset": float((total - told).sum() / length.sum()),
    }
    if len(told) > 3 and float(np.ptp(told)) > 1e-6 * size:
        from_mean, told_from_mean = total - total.mean(), told - told.mean()
        spread = float(np.sqrt((from_mean**2).sum() * (told_from_mean**2).sum()))
        numbers |= {
            "monitor_slope": float((from_mean * told_from_mean).sum() / (told_from_mean**2).sum()),
            "monitor_correlation": float((from_mean * told_from_mean).sum() / spread) if spread > 1e-9 * size else 0.0,
        }
    return {key: value for key, value in numbers.items() if np.isfinite(value)}


# -- observations and actions --------------------------------------------------------------------------------------------


def observation_numbers(observations: NDArray[Any], starts: NDArray[Any], space: spaces.Box) -> dict[str, float]:
    """
    Say whether observations vary, and whether episodes begin in various places.

    :param observations: shape ``(n_steps, n_envs, parts)``
    :param starts: whether a step began an episode, shape ``(n_steps, n_envs)``
    :param space: theirs
    :return: share of the parts that never change; share of the steps after which all parts are as before; the most distinct
        values of any part, over how many there are; share of those that are the least or the largest of their part; share of
        the parts that leave the space; share of the first observations of episodes that are distinct
    """
    flat = observations.reshape(-1, observations.shape[-1])
    sample = np.sort(flat[:: -(-len(flat) // SAMPLE)], axis=0)
    low, high = flat.min(0), flat.max(0)
    slack = 1e-4 * (1 + np.abs(np.nan_to_num(np.array([space.low, space.high]), posinf=0, neginf=0)))
    same = (observations[1:] == observations[:-1]).all(-1)[~starts[1:]]
    numbers = {
        "observation_constant": float((low == high).mean()),
        "observation_distinct": float(((sample[1:] != sample[:-1]).sum(0).max() + 1) / len(sample)),
        "observation_clipped": float(((sample == low) | (sample == high))[:, low < high].mean())
        if (low < high).any()
        else 0.0,
        "observation_outside": float(((low < space.low - slack[0]) | (high > space.high + slack[1])).mean()),
    }
    if len(same):
        numbers["observation_repeated"] = float(same.mean())
    first = observations[starts]
    if len(first) > 1:
        numbers["starts_distinct"] = len(set(map(bytes, first))) / len(first)
    return numbers


def encoded_actions(buffer: RolloutBuffer) -> NDArray[Any]:
    """
    Give actions as numbers, a column for each but the last one where they are discrete.

    :return: shape ``(n_steps, n_envs, columns)``
    """
    actions = in_order(buffer, buffer.actions)
    if isinstance(buffer.action_space, spaces.Discrete):
        actions = actions - buffer.action_space.start == np.arange(buffer.action_space.n - 1)
    elif isinstance(buffer.action_space, spaces.Box):
        # What is beyond the bounds the environment never sees.
        actions = np.clip(actions, buffer.action_space.low.ravel(), buffer.action_space.high.ravel())
    return actions


def action_numbers(
    observations: NDArray[Any], actions: NDArray[Any], rewards: Floats, starts: NDArray[Any]
) -> dict[str, float]:
    r"""
    Say how well the next observation can be told from the present one, and how much better with the action.

    Ordinary least squares on transitions within episodes; what is explained are the changes of the observation's parts, and
    the reward. The effect of an action is the share of what is left unexplained without it that it explains,
    :math:`1 - \frac{RSS_1 / (n - k_1)}{RSS_0 / (n - k_0)}`: about 0 for an action without effect, however many parts there
    are. Where nearly nothing is left unexplained without it, that is rounding.

    :param observations: shape ``(n_steps, n_envs, parts)``
    :param actions: as :func:`encoded_actions` gives them
    :param rewards: shape ``(n_steps, n_envs)``
    :param starts: whether a step began an episode, shape ``(n_steps, n_envs)``
    :return: the largest effect of the action, and of the one before it; the largest and the smallest share of a part's
        variance that is predicted
    """
    within = np.flatnonzero((~starts[1:-1] & ~starts[2:]).ravel())  # a step before, and one after
    if len(within) < FEWEST or actions.shape[-1] > MOST_PARTS:
        return {}
    within = within[:: -(-len(within) // SAMPLE)]
    step, env = np.divmod(within, starts.shape[1])
    before, now, after = (observations[step + ahead, env].astype(np.float64) for ahead in (0, 1, 2))
    earlier, action = (actions[step + ahead, env].astype(np.float64) for ahead in (0, 1))
    now, action, earlier = standardized(now), standardized(action), standardized(earlier)
    if now.shape[1] == 0 or action.shape[1] == 0 or earlier.shape[1] == 0:
        return {}
    rewarded = standardized(rewards[step + 1, env][:, None])
    products = (now[:, :, None] * action[:, None]).reshape(len(now), -1)
    blocks = {
        "state": np.concatenate([np.ones((len(now), 1)), now, standardized(before)], axis=1),
        "action": np.concatenate([action, products], axis=1) if products.shape[1] <= MOST_PARTS else action,
        "earlier": earlier,
        "change": np.concatenate([standardized(after - observations[step + 1, env]), rewarded], axis=1),
        "next": standardized(after),
    }
    columns = np.concatenate(list(blocks.values()), axis=1)
    ends = np.cumsum([block.shape[1] for block in blocks.values()])
    at = {name: np.arange(end - block.shape[1], end) for (name, block), end in zip(blocks.items(), ends, strict=True)}
    gram = columns.T @ columns

    def left(targets: str, *inputs: str) -> Floats:
        """Share of the variance of targets that inputs leave unexplained."""
        return unexplained(gram, np.concatenate([at[name] for name in inputs]), at[targets])

    whole = left("change", "state", "action", "earlier")
    effects = {
        "action_effect": left("change", "state", "earlier"),
        "action_effect_late": left("change", "state", "action"),
    }
    numbers = {name: float(((gone - whole) / (gone + ROUNDING)).max(initial=0.0)) for name, gone in effects.items()}
    if len(at["next"]):
        predicted = 1 - left("next", "state", "action", "earlier")
        numbers |= {"observation_predicted_max": float(predicted.max()), "observation_predicted_min": float(predicted.min())}
    return numbers


def standardized(columns: NDArray[Any]) -> Floats:
    """
    Bring columns to mean 0 and standard deviation 1, without those that do not vary.

    :param columns: shape ``(n, parts)``
    """
    columns = columns - columns.mean(0)
    deviation = np.sqrt((columns**2).mean(0))
    varies = deviation > 1e-9
    scaled: Floats = columns[:, varies] / deviation[varies]
    return scaled


def unexplained(gram: Floats, inputs: NDArray[Any], targets: NDArray[Any]) -> Floats:
    """
    Give what a least-squares fit leaves, with what a fit to noise would explain taken off.

    :param gram: products of all columns with each other; the columns have mean 0 and standard deviation 1, but for the first,
        which is all ones
    :param inputs: indices of the columns to explain by, the first among them
    :param targets: indices of the columns to be explained
    :return: estimated share of the variance of each that is left, shape ``(targets,)``
    """
    among, n = gram[np.ix_(inputs, inputs)], gram[0, 0]
    among[np.diag_indices_from(among)] += 1e-9 * n  # columns may depend on each other, as sine and cosine do
    products = gram[np.ix_(inputs, targets)]
    explained = (products * np.linalg.solve(among, products)).sum(0) / n
    left: Floats = (1 - explained) * n / max(n - len(inputs), 1.0)
    return left
