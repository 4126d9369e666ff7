"""
Data-parallel training: several processes, each with its own environments, and one policy.

``torchrun --nproc-per-node 2 -m sb3_ppo_edu train --env …`` starts the processes, on one machine or several; what is here lets
them train one policy. The settings are those of the whole: environments and minibatches are divided into shards, so that N
processes do what one would do with the same settings, only that each draws random numbers of its own.

- **Gradients** are averaged over processes, see :mod:`sb3_ppo_edu.distributed.averaging`.
- **The KL estimate** that decides the stop, and all else that is logged of an update, is averaged with them: so every process
  takes the same number of steps. So is the divergence that an adaptive learning rate or penalty follows.
- **Advantages** are standardised with the moments of the whole minibatch.
- **VecNormalize's moments** are those of all environments at the end of every rollout, see
  :mod:`sb3_ppo_edu.distributed.normalization`. Within a rollout each process goes on from there with its own observations, as
  an all-reduce at every step would cost more than the step.
- **Episode statistics** are of all episodes; steps are counted over all environments.

Rank 0 writes logs and evaluations. Each process writes the checkpoints of its own environments. The processes of a machine
divide its processors among them, see :func:`sb3_ppo_edu.distributed.affinity.set_own_affinity`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_ppo_edu.distributed.averaging import AveragingEngine
from sb3_ppo_edu.distributed.normalization import increment_between, increment_of_reset, merge_increments, running_moments
from sb3_ppo_edu.distributed.process_group import ProcessGroup


class DataParallel(CallbackList):
    """
    Trains in several processes: give it to ``learn`` in each, around the callbacks that there are.

    If a callback of one process asks to stop, all stop after that rollout.

    :param group: the process group
    :param callbacks: of this process
    """

    not_resumed = ("group",)
    changes_policy = False
    """Beyond its first parameters, which it broadcasts before anything is acted on."""

    def __init__(self, group: ProcessGroup, callbacks: Sequence[BaseCallback] = ()) -> None:
        super().__init__(list(callbacks))
        self.group = group
        self._stop_requested = self._stop = False
        self._before: dict[str, dict[str, Any]] = {}
        self._episodes: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        """Begin with rank 0's parameters, and average from here on."""
        model: Any = self.model
        model.session.n_processes = self.group.size
        model.session.around_engine = lambda engine: AveragingEngine(engine, self.group)
        model.session.mean_over_processes = self._mean
        tensors = [*model.policy.parameters(), *model.policy.buffers()]
        self.group.broadcast([tensor.data for tensor in tensors])
        if self.num_timesteps == 0:
            self._merge_first_observations()
        super()._on_training_start()

    def _merge_first_observations(self) -> None:
        """Merge the moments after each process has reset its own environments, which has added to them."""
        env = unwrap_vec_normalize(self.training_env)
        increments = {} if env is None else increment_of_reset(env)
        moments = self._running_moments()
        by_rank = self.group.all_gather((increments, {name: vars(own) for name, own in moments.items()}))
        _, first = by_rank[0]
        for name, own in moments.items():
            merge_increments(own, first[name], [added[name] for added, _ in by_rank[1:]])

    def _mean(self, number: float) -> float:
        """Average a number, to the same bits in every process."""
        return float(self.group.all_reduce(th.tensor([number], dtype=th.float64))) / self.group.size

    def _on_rollout_start(self) -> None:
        """Remember the moments that all processes have in common."""
        self._before = {name: deepcopy(vars(moments)) for name, moments in self._running_moments().items()}
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        """Keep the episodes that end; a callback's request to stop reaches the other processes after the rollout."""
        self._episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self._stop_requested |= not super()._on_step()
        return not self._stop

    def _on_rollout_end(self) -> None:
        """Gather moments, episodes and requests to stop."""
        super()._on_rollout_end()
        self.group.record_progress()
        moments = self._running_moments()
        increments = {name: increment_between(self._before[name], own) for name, own in moments.items()}
        by_rank = self.group.all_gather((increments, self._episodes, self._stop_requested))
        for name, own in moments.items():
            merge_increments(own, self._before[name], [added[name] for added, _, _ in by_rank])
        episodes = self.model.ep_info_buffer
        assert isinstance(episodes, deque)
        # This process's own are among the last; all of this rollout's take their place, in the order of the ranks.
        for _ in range(min(len(self._episodes), len(episodes))):
            episodes.pop()
        for _, ended, _ in by_rank:
            episodes.extend(ended)
        self._stop = any(requested for _, _, requested in by_rank)
        self._episodes = []

    def _running_moments(self) -> dict[str, RunningMeanStd]:
        """Find the training's own moments."""
        return running_moments(unwrap_vec_normalize(self.training_env))
