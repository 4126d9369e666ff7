"""``MaskableEduPPO``: PPO for environments in which not every action is legal at every moment."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.ppo_mask.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.arguments import KL_STOP_FACTOR, AdvantageNormalization, ArgumentError, KlCheck
from sb3_ppo_edu.algorithms.checks import check_flag, refuse
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.engines import EngineFactory, EngineName, PolicyInputs
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.policies import masked_net_arch  # noqa: F401  # which the policies' arguments find by what it registers
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.vec_env.action_masks import (
    INFO,
    METHOD,
    MaskSource,
    as_masks,
    ask_masks,
    choices_of,
    mask_source,
    no_masks,
    of_classes,
    told_masks,
)
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError

SelfMaskableEduPPO = TypeVar("SelfMaskableEduPPO", bound="MaskableEduPPO")


class MaskableEduPPO(EduPPO):
    r"""
    PPO with action masks: sb3-contrib's ``MaskablePPO``, to the bit with its arguments and ``engine="autograd"``.

    Before each action the environments say which actions are legal. The policy's logits of the others are set to -10⁸, so that
    they have probability 0, no gradient and no part in the entropy; updates use the masks that the rollout has stored:

    .. math:: \pi(a|s) = \frac{m_a e^{z_a}}{\sum_k m_k e^{z_k}}, \qquad m_k \in \{0, 1\}

    An environment tells it by a method ``action_masks()`` (sb3-contrib's ``ActionMasker`` adds one), which any wrapper and
    vector environment hands on, or by ``info["action_mask"]`` of ``reset`` and every ``step``. Infos are told once: as SB3's
    observations, their masks are out of date after somebody else has stepped the environments, a callback or another model;
    where that happens, use the method, which is asked before each action.

    Paper: https://arxiv.org/abs/2006.14171

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a class derived from sb3-contrib's
        ``MaskableActorCriticPolicy``, which these three are
    :param env: the environment to learn from, or its registered id; its actions are Discrete, MultiDiscrete or MultiBinary
    :param learning_rate: step size of the optimizer, ≥ 0; schedule
    :param n_steps: steps per environment and rollout
    :param batch_size: transitions per minibatch; None for a whole rollout
    :param n_epochs: passes over each rollout, ≥ 1
    :param gamma: discount factor in [0, 1]
    :param gae_lambda: λ of GAE in [0, 1]
    :param clip_range: ε of the clipped surrogate, > 0; schedule
    :param clip_range_vf: ε of the value clipping in units of the return, > 0; schedule (which ends above 0 where engines shall
        agree, see :func:`~sb3_ppo_edu.functional.losses.value_loss`), or None for no clipping
    :param normalize_advantage: standardise the advantages
    :param ent_coef: weight of the entropy bonus; schedule
    :param vf_coef: weight of the value loss, ≥ 0; schedule
    :param max_grad_norm: gradients are scaled down to this global L2 norm, > 0; infinity switches it off
    :param rollout_buffer_class: rollout buffer, by default sb3-contrib's for the observation space
    :param rollout_buffer_kwargs: its further arguments
    :param target_kl: stop the update when the KL estimate exceeds ``kl_stop_factor * target_kl`` nats; None for no limit
    :param stats_window_size: episodes over which ``rollout/`` statistics are averaged, ≥ 1
    :param tensorboard_log: folder of TensorBoard events, or None
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: seed of all random generators, ≥ 0, or None
    :param device: "auto", "cpu", "cuda", …
    :param _init_setup_model: build the networks at once
    :param engine: as in :class:`~sb3_ppo_edu.algorithms.ppo.EduPPO`, as are all arguments below
    :param engine_kwargs: options of the autograd engine
    :param objective: what is minimised
    :param vf_clip_mode: how values are clipped, "sb3" or "max"
    :param dual_clip: lower bound c·Â of the objective for negative advantages, c > 1, or None
    :param kl_estimator: "k3" or "k1"
    :param kl_check: compare the estimate of each "minibatch" with the limit, or its mean over an "epoch"
    :param kl_stop_factor: slack of ``target_kl``, > 0
    :param advantage_normalization: with the moments of each "minibatch" or of the whole rollout ("batch")
    :param clip_advantage: bound of the absolute advantages after normalisation, > 0, or None
    :param recompute_advantages: estimate advantages anew before each epoch but the first
    :param vf_lambda: λ of the value function's TD(λ) targets in [0, 1]; None for ``gae_lambda``, as SB3
    :param vf_n_steps: the value function learns n-step returns of so many rewards, ≥ 1, instead; None for TD(λ)
    :param micro_batch_size: compute each minibatch in parts of this size
    :param shared_net_arch: units of layers below those of ``net_arch`` that actor and critic share, such as [64], or None
    :param layer_norm: normalise what each hidden layer gives before its activation (https://arxiv.org/abs/1607.06450)
    :param critic_keys: keys of a Dict of observations that only the critic is given; see :mod:`sb3_ppo_edu.policies.net_arch`
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    further_inputs: ClassVar[tuple[str, ...]] = ("action_masks",)
    use_masking = True
    """Whether the ``learn`` in progress, or the last one, uses masks."""
    _mask_source: MaskSource | None = None
    _told_masks: np.ndarray | None = None

    def __init__(
        self,
        policy: str | type[MaskableActorCriticPolicy],
        env: GymEnv | VectorEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int | None = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
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
        recompute_advantages: bool = False,
        vf_lambda: float | None = None,
        vf_n_steps: int | None = None,
        micro_batch_size: int | None = None,
        shared_net_arch: list[int] | None = None,
        layer_norm: bool = False,
        critic_keys: list[str] | None = None,
    ) -> None:
        if isinstance(policy, type) and "action_masks" not in further_inputs(policy):
            base = "sb3-contrib's MaskableActorCriticPolicy"
            if "lstm_states" in self.further_inputs:
                base = "sb3_ppo_edu.policies.masked_recurrent.MaskedMixin and sb3-contrib's RecurrentActorCriticPolicy"
            raise refuse("policy", policy, f"a class derived from {base}, which takes masks")
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**{**given, "batch_size": n_steps if batch_size is None else batch_size})
        if batch_size is None:
            self.batch_size = self.n_steps * self.n_envs

    # -- the model -------------------------------------------------------------------------------------------------------

    def _take_over_attributes(self) -> None:
        """Make a number of sb3-contrib's ``batch_size=None`` in a file."""
        if self.batch_size is None:
            self.batch_size = self.n_steps * self.n_envs
        super()._take_over_attributes()

    def _build_policy_and_buffer(self) -> None:
        """Build both from the attributes, as sb3-contrib does: its policies know no gSDE."""
        try:
            choices_of(self.action_space)
        except ValueError as error:
            raise ArgumentError(str(error)) from None
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        policy_class: Any = self.policy_class
        self.policy = policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        self.policy = self.policy.to(self.device)
        in_parts = isinstance(self.observation_space, spaces.Dict)
        plain: type[Any] = MaskableDictRolloutBuffer if in_parts else MaskableRolloutBuffer
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = plain
        if not issubclass(self.rollout_buffer_class, plain):
            name = self.rollout_buffer_class.__name__
            raise refuse(
                "rollout_buffer_class", name, f"a class derived from sb3-contrib's {plain.__name__}, which stores masks"
            )
        self.rollout_buffer = self.rollout_buffer_class(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            **self.rollout_buffer_kwargs,
        )
        self._maybe_recommend_cpu("MaskableActorCriticPolicy")

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions.

        :param observation: of one environment or of several
        :param state: handed on as it is
        :param episode_start: not used
        :param deterministic: the likeliest legal action instead of a random one
        :param action_masks: which actions are legal, shape ``(n_envs, n_choices)`` or ``(n_choices,)``; None for all
        :return: the actions, and ``state``
        :raises ValueError: for masks of another size or with other entries than 0 and 1, and for one that forbids everything
        """
        if action_masks is not None:
            self._check_masks(action_masks, self.count_observations(observation))
        policy = cast(MaskableActorCriticPolicy, self.policy)
        with self.explaining(observation):
            return policy.predict(observation, state, episode_start, deterministic, action_masks=action_masks)

    def _check_masks(self, masks: Any, n_observations: int) -> None:
        """Check masks that somebody has given for observations."""
        choices = choices_of(self.action_space)
        try:
            given = np.asarray(masks)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ArgumentError(f"action_masks: found no array ({error}), expected an array of bool") from error
        alone = n_observations == 1 or given.shape[:1] == (n_observations,)
        if not alone or given.size != n_observations * sum(choices):
            expected = f"{sum(choices)} entries for each observation, {of_classes(choices)}, of {n_observations} observations"
            raise refuse("action_masks", f"shape {given.shape}", expected)
        try:
            as_masks(list(given.reshape(n_observations, -1)), choices, 0, "action_masks")
        except EnvironmentFaultError as error:
            raise ArgumentError(f"observation {error.index}: {error.what}") from None

    # -- the algorithm ---------------------------------------------------------------------------------------------------

    def learn(  # type: ignore[override]  # sb3-contrib has use_masking before progress_bar
        self: SelfMaskableEduPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "MaskableEduPPO",
        reset_num_timesteps: bool = True,
        use_masking: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaskableEduPPO:
        """
        Train, see :meth:`sb3_ppo_edu.algorithms.ppo.EduPPO.learn`.

        :param total_timesteps: environment steps, summed over all environments; the last rollout is completed
        :param callback: callback or list of callbacks
        :param log_interval: rollouts between log outputs
        :param tb_log_name: name of the run in TensorBoard
        :param reset_num_timesteps: start counting at 0; False continues the previous ``learn``
        :param use_masking: False lets the policy try illegal actions
        :param progress_bar: show progress (needs tqdm and rich)
        :return: the trained model
        :raises ValueError: if the environments tell no masks
        """
        self.use_masking = check_flag("use_masking", use_masking)
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool | None = None,
    ) -> bool:
        """
        Fill the rollout buffer, see :meth:`sb3_ppo_edu.algorithms.ppo.EduPPO.collect_rollouts`.

        :param env: the training environments
        :param callback: called at every step, and at the rollout's start and end
        :param rollout_buffer: buffer to fill
        :param n_rollout_steps: steps per environment
        :param use_masking: whether to use masks; None for what ``learn`` was told
        :return: False if the callback ended training
        :raises ValueError: if the environments tell no masks
        """
        wanted = self.use_masking if use_masking is None else use_masking
        # An environment that was brought back to the middle of an episode has not told the mask of its next action again.
        told: MaskSource | None = None if self._told_masks is None else "info"
        self._mask_source = (mask_source(env) or told) if wanted else None
        if wanted and self._mask_source is None:
            raise ArgumentError(no_masks(env))
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def acting_inputs(self, env: VecEnv, observations: PyTorchObs) -> PolicyInputs:
        """
        Put together what the policy acts on: observations and masks.

        :param env: the training environments
        :param observations: their latest, on the model's device
        :return: what the engine's ``act`` takes
        :raises EnvironmentFaultError: if a mask has the wrong size or forbids everything
        """
        return PolicyInputs(observations, None if (masks := self.masks_of(env)) is None else th.from_numpy(masks))

    def step_locals(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.algorithms.acting.ActingModel.step_locals`."""
        masks = inputs.action_masks
        return {**super().step_locals(inputs), "action_masks": None if masks is None else masks.numpy()}

    def store_inputs(self, env: VecEnv, rollout_buffer: RolloutBuffer, step: int) -> None:
        """
        Write the masks of a step into the rollout buffer.

        :param env: the training environments
        :param rollout_buffer: sb3-contrib's own
        :param step: its row
        :raises EnvironmentFaultError: if a mask has the wrong size or forbids everything
        """
        if (masks := self.masks_of(env)) is not None:
            cast(MaskableRolloutBuffer, rollout_buffer).action_masks[step] = masks

    def masks_of(self, env: VecEnv) -> np.ndarray | None:
        """
        Find out which actions are legal now.

        :param env: the training environments
        :return: shape ``(n_envs, n_choices)``, bool; None where masks are not used
        :raises EnvironmentFaultError: if a mask has the wrong size or forbids everything
        """
        if self._mask_source is None:
            return None
        if self._mask_source == "method":
            return self._checked(ask_masks(env))
        if self._told_masks is None:
            self._told_masks = self._checked(told_masks(env))
        return self._told_masks

    def _checked(self, given: list[Any]) -> np.ndarray:
        """Check what environments have given as masks of the next step."""
        where = f"info[{INFO!r}]" if self._mask_source == "info" else f"{METHOD}()"
        return as_masks(given, choices_of(self.action_space), self.num_timesteps // self.n_envs + 1, where)

    def end_step(self, new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        Go on from a step that is stored, and keep the masks that its infos tell.

        :param new_obs: observations that the environments gave
        :param dones: whether each begins an episode, shape ``(n_envs,)``
        :param infos: one for each environment
        """
        super().end_step(new_obs, dones, infos)
        if self._mask_source == "info":
            assert self.env is not None
            self._told_masks = self._checked(told_masks(self.env, dones, infos))

    def begin_episodes(self, new_obs: Any) -> None:
        """
        Go on from environments that have all been reset.

        :param new_obs: their first observations
        """
        super().begin_episodes(new_obs)
        self._told_masks = None

    def _setup_learn(self, *arguments: Any, **named: Any) -> tuple[int, BaseCallback]:
        """Forget the masks of episodes that are over."""
        before = self._last_obs
        found = super()._setup_learn(*arguments, **named)
        if self._last_obs is not before:
            self._told_masks = None
        return found
