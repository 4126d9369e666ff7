"""``MaskableRecurrentEduPPO``: masks and memory at once."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_ppo_edu.algorithms.arguments import KL_STOP_FACTOR, AdvantageNormalization, KlCheck
from sb3_ppo_edu.algorithms.callbacks import callbacks_of, evaluates_with_masks
from sb3_ppo_edu.algorithms.checks import check_choice
from sb3_ppo_edu.algorithms.maskable import MaskableEduPPO
from sb3_ppo_edu.algorithms.recurrent import RecurrentEduPPO
from sb3_ppo_edu.engines import EngineFactory, EngineName
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.policies.masked_recurrent import MASKED_POLICIES
from sb3_ppo_edu.policies.recurrent import PoliciesOfCells, RecurrentCell, resolve_recurrent_policy
from sb3_ppo_edu.rollouts.masked_sequences import MaskedSequencesBuffer, MaskedSequencesDictBuffer

SelfMaskableRecurrentEduPPO = TypeVar("SelfMaskableRecurrentEduPPO", bound="MaskableRecurrentEduPPO")


class MaskableRecurrentEduPPO(RecurrentEduPPO, MaskableEduPPO):
    r"""
    PPO for environments whose observations do not say all that counts, and in which not every action is legal.

    It is :class:`~sb3_ppo_edu.algorithms.recurrent.RecurrentEduPPO` whose policy is told masks as
    :class:`~sb3_ppo_edu.algorithms.maskable.MaskableEduPPO`'s is. sb3-contrib has no such algorithm. Arguments are those of
    ``RecurrentEduPPO`` without gSDE; ``learn(use_masking=...)`` and ``predict(..., action_masks=...)`` are there too.

    Evaluate it with ``sb3_ppo_edu.training.evaluation.MaskedEvalCallback``: sb3-contrib's ``MaskableEvalCallback`` empties the
    memory before every step.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy", or a class with
        :class:`~sb3_ppo_edu.policies.masked_recurrent.MaskedMixin`
    :param recurrent_cell: "lstm" or "gru"
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected; for actions without choices
    """

    policies_of_cells: ClassVar[PoliciesOfCells] = MASKED_POLICIES
    buffer_classes: ClassVar[tuple[type[Any], type[Any]]] = (MaskedSequencesBuffer, MaskedSequencesDictBuffer)
    further_inputs: ClassVar[tuple[str, ...]] = ("lstm_states", "episode_starts", "action_masks")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | VectorEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 128,
        batch_size: int | None = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        engine: EngineName | EngineFactory = "auto",
        engine_kwargs: dict[str, Any] | None = None,
        objective: Objective | type[Objective] | str | None = None,
        vf_clip_mode: VfClipMode = "sb3",
        dual_clip: float | None = None,
        kl_estimator: KlEstimator = "k3",
        kl_check: KlCheck = "minibatch",
        kl_stop_factor: float = KL_STOP_FACTOR,
        advantage_normalization: AdvantageNormalization = "minibatch",
        clip_advantage: float | None = None,
        vf_lambda: float | None = None,
        vf_n_steps: int | None = None,
        micro_batch_size: int | None = None,
        recurrent_cell: RecurrentCell = "lstm",
    ) -> None:
        check_choice("recurrent_cell", recurrent_cell, ("lstm", "gru"))
        policy_class: Any
        policy_class, self.recurrent_cell = resolve_recurrent_policy(policy, recurrent_cell, self.policies_of_cells)
        own = ("self", "__class__", "policy", "policy_class", "recurrent_cell")
        given = {name: value for name, value in locals().items() if name not in (*own, "own")}
        MaskableEduPPO.__init__(self, policy_class, **given)  # RecurrentEduPPO's own would ask for gSDE

    def learn(  # type: ignore[override]  # use_masking stands where MaskableEduPPO has it
        self: SelfMaskableRecurrentEduPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MaskableRecurrentEduPPO",
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaskableRecurrentEduPPO:
        """See :meth:`sb3_ppo_edu.algorithms.maskable.MaskableEduPPO.learn`."""
        return MaskableEduPPO.learn(
            self, total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, use_masking, progress_bar
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Choose actions: states as :class:`RecurrentEduPPO`'s are, masks as :class:`MaskableEduPPO`'s."""
        self._check_memory(observation, state, episode_start)
        return MaskableEduPPO.predict(self, observation, state, episode_start, deterministic, action_masks)

    def _setup_learn(self, *arguments: Any, **named: Any) -> tuple[int, BaseCallback]:
        """Warn of a callback that evaluates another policy than the one that is trained."""
        steps, callback = super()._setup_learn(*arguments, **named)
        if any(map(evaluates_with_masks, callbacks_of(callback))):
            warnings.warn(
                "MaskableEvalCallback: sb3-contrib's empties the memory before every step of an evaluation, expected "
                "sb3_ppo_edu.training.evaluation.MaskedEvalCallback, which hands it on",
                stacklevel=2,
            )
        return steps, callback
