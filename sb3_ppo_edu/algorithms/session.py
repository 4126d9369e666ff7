"""The course of one ``learn``: where it stands, and what happens between its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.callbacks import callbacks_of
from sb3_ppo_edu.algorithms.checks import refuse
from sb3_ppo_edu.algorithms.environment_numbers import UnfinishedEpisodes
from sb3_ppo_edu.engines import Engine
from sb3_ppo_edu.functional.values import unwrapped


class Session:
    """
    One call of ``learn``: the plain case, in which nothing happens between the steps.

    A callback that wants to step in, such as one that saves checkpoints from which a training goes on exactly, brings a
    subclass: ``learn`` calls its ``make_session(session)`` with the session before.

    :ivar iteration: rollouts that are done
    :ivar rollout_steps: steps of the rollout in progress that are done, per environment
    :ivar in_rollout: whether the next rollout goes on with one that was interrupted
    :ivar bootstraps: for each episode of the rollout that a time limit ended ``num_timesteps``, the environment, and the value
        that was added to its last reward
    :ivar unfinished: the episodes that the last rollout has left
    :ivar n_processes: how many processes step environments for this training, this one included
    :ivar around_engine: puts what averages over processes around the engine; None for nothing
    :ivar mean_over_processes: averages a number over the processes of this training
    """

    def __init__(self) -> None:
        self.iteration = self.rollout_steps = 0
        self.bootstraps: list[tuple[int, int, float]] = []
        self.unfinished = UnfinishedEpisodes()
        self.in_rollout = False
        self.n_processes = 1
        self.around_engine: Callable[[Engine[Any]], Engine[Any]] | None = None
        self.mean_over_processes: Callable[[float], float] = float

    @property
    def truncated_episodes(self) -> int:
        """Episodes of the rollout that a time limit ended."""
        return len(self.bootstraps)

    def steps_to_do(self, model: OnPolicyAlgorithm, total_timesteps: int, reset_num_timesteps: bool) -> tuple[int, bool]:
        """
        Say how much is to be learned.

        :param model: the model
        :param total_timesteps: as ``learn`` is given it
        :param reset_num_timesteps: as ``learn`` is given it
        :return: both, as SB3's ``_setup_learn`` is to be given them
        :raises ArgumentError: if the first is no number
        """
        steps = unwrapped(total_timesteps)
        if not isinstance(steps, int | float) or (isinstance(steps, float) and math.isnan(steps)):
            raise refuse("total_timesteps", total_timesteps, "a number of environment steps")
        return total_timesteps, reset_num_timesteps

    def begin(self, model: OnPolicyAlgorithm, callback: BaseCallback) -> None:
        """Called when ``learn`` is set up and callbacks know that training starts."""

    def begin_rollout(
        self, model: OnPolicyAlgorithm, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer
    ) -> int:
        """
        Begin a rollout, or go on with one that was interrupted.

        :param model: the model
        :param env: the training environments
        :param callback: told of the start
        :param rollout_buffer: emptied for a new rollout
        :return: steps that are done already
        """
        if self.in_rollout:
            self.in_rollout = False
            return self.rollout_steps
        rollout_buffer.reset()
        self.rollout_steps, self.bootstraps = 0, []
        if model.use_sde:
            model.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        return 0

    def before_step(self) -> None:
        """Called between two steps, where all of a training's state can be taken; an exception ends the training."""

    def on_step(self, callback: BaseCallback) -> bool:
        """
        Call the callback after a step of the environments.

        :param callback: the callback
        :return: whether to go on
        """
        return callback.on_step()

    def after_step(self) -> None:
        """Called when a step is stored."""
        self.rollout_steps += 1

    def end_rollout(self) -> None:
        """Called when all steps of a rollout are stored."""
        self.rollout_steps = 0

    def end(self) -> None:
        """Called when training has ended, however it did."""


def next_session(session: Session, callback: Any) -> Session:
    """
    Give the session of a ``learn`` that is about to begin.

    :param session: the one before, or one that has been prepared to go on with an interrupted training
    :param callback: as ``learn`` is given it
    :return: a callback's own, the prepared one, or a plain one
    """
    for one in callbacks_of(callback):
        if hasattr(one, "make_session"):
            made: Session = one.make_session(session)
            return made
    return Session() if type(session) is Session else session
