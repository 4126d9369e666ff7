"""What is left of an interrupted training once its checkpoint is loaded: the steps to do, and what ``learn`` sets up anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_edu.checkpoint.files import going_on_from
from sb3_ppo_edu.checkpoint.snapshot import restore

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO


class Resumption:
    """
    What is left to restore once ``learn`` is called.

    :param state: of the training
    :param environments: how each environment was restored
    :param path: of the checkpoint, for messages
    """

    def __init__(self, state: dict[str, Any], environments: list[str], path: Path) -> None:
        self.state, self.environments, self.path = state, environments, path

    def steps_left(self, model: EduPPO, total_timesteps: int, reset_num_timesteps: bool) -> int:
        """
        Check that ``learn`` is asked for what was interrupted, and say what is left of it.

        :return: steps left, which may be less than none in the last rollout
        :raises ValueError: if it is another number of steps
        """
        goal: int = self.state["model"]["_total_timesteps"]
        begin = self.state["model"]["_num_timesteps_at_start"]
        expected = goal if reset_num_timesteps else goal - begin
        if total_timesteps != expected:
            raise ValueError(
                f"total_timesteps={total_timesteps}: expected {expected}, as in the interrupted learn, which this one "
                "completes (schedules depend on it); to train longer, resume with total_timesteps="
                f"{total_timesteps}, or call learn again after it with reset_num_timesteps=False"
            )
        return goal - model.num_timesteps

    def restore(self, model: EduPPO, callback: BaseCallback) -> None:
        """
        Restore what ``learn`` has set up anew.

        :raises CheckpointError: if the callbacks are others, or the state does not fit together
        """
        with going_on_from(self.path):
            restore(model, callback, self.state, self.environments)
