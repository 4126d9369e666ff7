"""A training whose state is saved between its steps, or that goes on from where a saved one was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_edu.algorithms.session import Session
from sb3_ppo_edu.checkpoint.resumption import Resumption

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO


class SafePoint(Protocol):
    """Who wants to know when a training stands between two steps, where all of its state can be taken."""

    def reached(self) -> None:
        """Hear that training stands between two steps; an exception ends it."""

    def failed(self) -> None:
        """Hear the same just before an exception of a callback ends the training."""

    def released(self) -> None:
        """Hear that training has ended, however it did."""


class CheckpointSession(Session):
    """
    A session that can be left and taken up again at any step.

    :param safe_point: is told between the steps, or None
    :param resumption: what is left to restore of an interrupted training, or None for a new one
    """

    def __init__(self, safe_point: SafePoint | None = None, resumption: Resumption | None = None) -> None:
        super().__init__()
        self.safe_point, self.resumption = safe_point, resumption
        self._failure: Exception | None = None

    def steps_to_do(self, model: OnPolicyAlgorithm, total_timesteps: int, reset_num_timesteps: bool) -> tuple[int, bool]:
        """See :meth:`sb3_ppo_edu.algorithms.session.Session.steps_to_do`: what is left of an interrupted training."""
        if self.resumption is None:
            return total_timesteps, reset_num_timesteps
        return self.resumption.steps_left(cast("EduPPO", model), total_timesteps, reset_num_timesteps), False

    def begin(self, model: OnPolicyAlgorithm, callback: BaseCallback) -> None:
        """Restore what ``learn`` has set up anew."""
        if self.resumption is not None:
            self.resumption.restore(cast("EduPPO", model), callback)
            self.resumption = None
            self.in_rollout = self.rollout_steps > 0

    def before_step(self) -> None:
        """Tell the safe point."""
        if self.safe_point is not None:
            self.safe_point.reached()

    def on_step(self, callback: BaseCallback) -> bool:
        """Call the callback; its exception is kept until the step is complete, so that a checkpoint can be made before."""
        if self.safe_point is None:
            return callback.on_step()
        try:
            return callback.on_step()
        except Exception as error:
            self._failure = error
            return True

    def after_step(self) -> None:
        """End the training with an exception of a callback, now that the step is complete."""
        super().after_step()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            if self.safe_point is not None:
                self.safe_point.failed()
            raise failure

    def end(self) -> None:
        """Tell the safe point."""
        if self.safe_point is not None:
            self.safe_point.released()
