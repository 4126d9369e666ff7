"""``EduPPO``: proximal policy optimization, written from scratch on Stable-Baselines3's rollout buffers and callbacks."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.arguments import (
    CHECKS,
    KL_STOP_FACTOR,
    ActionDistribution,
    AdvantageNormalization,
    KlCheck,
    PPOArguments,
)
from sb3_ppo_edu.algorithms.callbacks import may_change_policy, reads_every_step, tell_training_failed
from sb3_ppo_edu.algorithms.checks import adaptive_rate
from sb3_ppo_edu.algorithms.diagnostics import log_update
from sb3_ppo_edu.algorithms.kl_control import KLControl
from sb3_ppo_edu.algorithms.lean import lean_steps
from sb3_ppo_edu.algorithms.model import PPOModel
from sb3_ppo_edu.algorithms.session import Session, next_session
from sb3_ppo_edu.algorithms.update_record import UpdateRecord
from sb3_ppo_edu.engines import Engine, EngineFactory, EngineName, PolicyInputs, UpdateSettings
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.rollouts.buffers import (
    add_transition,
    compute_returns_and_advantage,
    recompute_returns_and_advantage,
    rows_as_tensors,
)
from sb3_ppo_edu.rollouts.lean import collect_lean

SelfEduPPO = TypeVar("SelfEduPPO", bound="EduPPO")


class EduPPO(PPOModel):
    r"""
    Proximal policy optimization with clipped surrogate objective.

    Each iteration collects ``n_steps`` transitions from every environment, estimates advantages with GAE, and minimises over
    ``n_epochs`` epochs of shuffled minibatches

    .. math:: L = L^{policy} + c_e L^{entropy} + c_v L^{value}

    The losses stand in :mod:`~sb3_ppo_edu.functional.losses`, what they add up to in
    :mod:`~sb3_ppo_edu.functional.objectives`, the advantages in :mod:`~sb3_ppo_edu.functional.advantages`. With only the
    arguments that ``stable_baselines3.PPO`` also has and ``engine="autograd"``, training ends with the same bits as SB3's.

    Papers: PPO https://arxiv.org/abs/1707.06347, GAE https://arxiv.org/abs/1506.02438

    A schedule may be a number, a function of the remaining progress (1 at the start, 0 at the end), or a string such as
    "lin_3e-4", a line from 3e-4 to 0; :mod:`~sb3_ppo_edu.functional.schedules` has the table of them.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or an ``ActorCriticPolicy`` class
    :param env: the environment to learn from, or its registered id
    :param learning_rate: step size of the optimizer, ≥ 0; schedule, or "kl_0.01" for one that follows the KL divergence of the
        updates, see :mod:`sb3_ppo_edu.functional.kl`
    :param n_steps: steps per environment and rollout, so that a rollout holds ``n_steps * n_envs`` transitions
    :param batch_size: transitions per minibatch, ≥ 2 where advantages are normalised per minibatch
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
    :param use_sde: generalized state-dependent exploration instead of independent action noise
    :param sde_sample_freq: steps between new gSDE noise matrices, -1 for one per rollout
    :param rollout_buffer_class: rollout buffer, by default SB3's for the observation space
    :param rollout_buffer_kwargs: its further arguments
    :param target_kl: stop the update when the KL estimate exceeds ``kl_stop_factor * target_kl`` nats; None for no limit
    :param stats_window_size: episodes over which ``rollout/`` statistics are averaged, ≥ 1
    :param tensorboard_log: folder of TensorBoard events, or None
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: seed of all random generators, ≥ 0, or None
    :param device: "auto", "cpu", "cuda", …
    :param _init_setup_model: build the networks at once
    :param engine: "autograd" (the readable reference, SB3's bits), "numpy" (each gradient derived by hand), "fused" (fast),
        "auto" (the fastest that supports the policy; ``model.engine_reason`` says which it is and why), or a class or function
        that makes an engine
    :param engine_kwargs: options of the autograd engine. ``compile=True`` has ``torch.compile`` compile the policy for its
        updates, which takes seconds and a C++ compiler; ``bf16=True`` computes the networks in bfloat16, see
        ``benchmarks/scale/bf16.md``; ``channels_last=True`` lays out images for updates on a CPU, see
        ``benchmarks/speed/images.md``. None has SB3's bits
    :param objective: what is minimised: an :class:`~sb3_ppo_edu.functional.objectives.Objective`, its class, the class's
        dotted path, or ``{path: {argument: value}}``; None for PPO's own
    :param vf_clip_mode: value clipping as SB3 does it ("sb3") or with the pessimistic maximum of the lecture ("max"), see
        :func:`sb3_ppo_edu.functional.losses.value_loss`
    :param dual_clip: lower bound c·Â of the objective for negative advantages, c > 1 (https://arxiv.org/abs/1912.09729,
        equation 5), or None
    :param kl_estimator: "k3" (SB3) or "k1" (the activity), see :func:`sb3_ppo_edu.functional.losses.approx_kl`
    :param kl_check: compare each minibatch's estimate with the limit before its step, as SB3 ("minibatch"), or the mean over
        an epoch after it ("epoch", as the lecture); needs ``target_kl``
    :param kl_stop_factor: slack of ``target_kl``, > 0 (1.5 in Spinning Up and SB3); needs ``target_kl``
    :param advantage_normalization: with the moments of each "minibatch" (SB3) or of the whole rollout ("batch", the lecture)
    :param clip_advantage: bound of the absolute advantages after normalisation, > 0, or None
    :param recompute_advantages: estimate advantages and returns anew before each epoch but the first, with the value function
        as it is by then (recommended by Andrychowicz et al. 2020, https://arxiv.org/abs/2006.05990, section 3.5), so that
        later epochs don't learn what the first has made out of date. Needs one of SB3's own rollout buffers
    :param vf_lambda: λ of the value function's TD(λ) targets in [0, 1]; None for ``gae_lambda``, as SB3
    :param vf_n_steps: the value function learns n-step returns of so many rewards, ≥ 1, instead; None for TD(λ)
    :param action_distribution: for Box actions, "gaussian" (clipped at the bounds, SB3), "tanh_gaussian" or "beta" (both
        within the bounds), see :mod:`sb3_ppo_edu.functional.distributions`
    :param log_std_bounds: (low, high) that the log standard deviation of a Gaussian is projected to after each step, or None
    :param micro_batch_size: compute each minibatch in parts of this size and add up their gradients, for minibatches that
        memory can't hold at once; divides ``batch_size``. The result is that of one large minibatch, to within rounding
    :param shared_net_arch: units of layers below those of ``net_arch`` that actor and critic share, such as [64], or None
    :param layer_norm: normalise what each hidden layer gives before its activation (https://arxiv.org/abs/1607.06450)
    :param critic_keys: keys of a Dict of observations that only the critic is given; see :mod:`sb3_ppo_edu.policies.net_arch`
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | VectorEnv | str,
        learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | str | Schedule = 0.2,
        clip_range_vf: float | str | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
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
        action_distribution: ActionDistribution = "gaussian",
        log_std_bounds: tuple[float, float] | None = None,
        micro_batch_size: int | None = None,
        shared_net_arch: list[int] | None = None,
        layer_norm: bool = False,
        critic_keys: list[str] | None = None,
    ) -> None:
        super().__init__(
            policy,
            env,
            PPOArguments.of(locals()),
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    # -- the algorithm ---------------------------------------------------------------------------------------------------

    def learn(
        self: SelfEduPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "EduPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfEduPPO:
        """
        Train: alternate rollouts and updates until ``total_timesteps`` environment steps are done.

        :param total_timesteps: environment steps, summed over all environments; the last rollout is completed
        :param callback: callback or list of callbacks
        :param log_interval: rollouts between log outputs
        :param tb_log_name: name of the run in TensorBoard
        :param reset_num_timesteps: start counting at 0; False continues the previous ``learn``
        :param progress_bar: show progress (needs tqdm and rich)
        :return: the trained model
        :raises RuntimeError: if the model is in a ``learn`` already
        :raises ValueError: if an attribute has been set to what the constructor refuses
        """
        with self._only_learn():
            session = self.session = next_session(self.session, callback)
            total_timesteps, reset_num_timesteps = session.steps_to_do(self, total_timesteps, reset_num_timesteps)
            total_timesteps, callback = self._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
            try:
                callback.on_training_start(locals() | {"iteration": session.iteration}, globals())
                session.begin(self, callback)
                assert self.env is not None
                while self.num_timesteps < total_timesteps or session.in_rollout:
                    if not self.collect_rollouts(self.env, callback, self.rollout_buffer, n_rollout_steps=self.n_steps):
                        break
                    session.iteration += 1
                    self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                    if log_interval is not None and session.iteration % log_interval == 0:
                        self.dump_logs(session.iteration)
                    self.train()
                callback.on_training_end()
            except BaseException as error:
                tell_training_failed(callback, error)
                raise
            finally:
                session.end()
                self.session = Session()
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Act with the current policy and fill the rollout buffer, then compute advantages and returns.

        Local variables carry SB3's names: callbacks read them through ``callback.locals``.

        :param env: the training environments
        :param callback: called at every step, and at the rollout's start and end
        :param rollout_buffer: buffer to fill
        :param n_rollout_steps: steps per environment
        :return: False if the callback ended training
        """
        self.policy.set_training_mode(False)
        n_steps = (session := self.session).begin_rollout(self, env, callback, rollout_buffer)
        engine, watched, policy_may_change = self.attach_engine(), reads_every_step(callback), may_change_policy(callback)
        lean = lean_steps(self, env, engine, callback, rollout_buffer, n_rollout_steps, self._bootstrap_time_limits)
        if lean is not None and not collect_lean(self, env, callback, rollout_buffer, *lean):
            return False

        while n_steps < n_rollout_steps and lean is None:
            session.before_step()
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            inputs = self.acting_inputs(env, obs_tensor := self._last_obs_as_tensor())
            actions, values, log_probs = self.act(engine, inputs)
            clipped_actions = self.within_bounds(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)

            self.num_timesteps += env.num_envs * session.n_processes
            if watched:
                callback.update_locals({**locals(), **self.step_locals(inputs)})
            if not session.on_step(callback):
                return False
            if policy_may_change:
                engine = self.attach_engine()
            self._update_info_buffer(infos, dones)
            n_steps += 1
            self._bootstrap_time_limits(engine, rewards, dones, infos)
            last_obs, starts, columns = self._last_obs, cast(Any, self._last_episode_starts), engine.columns(inputs)
            add_transition(rollout_buffer, last_obs, actions, rewards, starts, values, log_probs, **columns)
            self.end_step(new_obs, dones, infos)
            session.after_step()

        session.end_rollout()
        values, dones = engine.value(self.value_inputs(self._last_obs_as_tensor())), cast(Any, self._last_episode_starts)
        compute_returns_and_advantage(rollout_buffer, values, dones, self.vf_lambda, self.vf_n_steps)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """
        Update the policy from the rollout buffer: epochs of shuffled minibatches, each with a KL check and one step.

        :raises NonFiniteUpdateError: if a loss or gradient is NaN or infinite; the parameters keep their last finite values
        :raises ArgumentError: if a schedule gives what is no finite number ≥ 0; no parameter has moved then
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        settings, record = self.update_settings(), UpdateRecord()

        with self._engine_in_update(record) as engine:
            control = KLControl(self, self._current_progress_remaining)
            for epoch in range(CHECKS["n_epochs"]("n_epochs", self.n_epochs)):
                if epoch > 0 and self.recompute_advantages:
                    settings = self._recompute_advantages(engine, record)
                record.begin_epoch()
                for minibatch in engine.minibatches(self.rollout_buffer, self.batch_size):
                    statistics = engine.gradients(minibatch, settings)
                    record.add(statistics)
                    if self.kl_check == "minibatch" and self._kl_exceeds_target(statistics.approx_kl):
                        record.stopped_in = epoch
                        break
                    record.grad_norms.append(engine.apply(settings))

                self._n_updates += 1
                if self.kl_check == "epoch" and self._kl_exceeds_target(np.mean(record.epoch_kls)):
                    record.stopped_in = epoch
                if record.stopped_in is not None:
                    break
            control.follow(record)

        if record.collected is not None:
            # What is logged, such as the explained variance, is of the values that the actions were taken with.
            self.rollout_buffer.advantages, self.rollout_buffer.returns = record.collected
        log_update(self, record, settings)

    # -- its steps -------------------------------------------------------------------------------------------------------

    def _bootstrap_time_limits(
        self, engine: Engine[Any], rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        r"""
        Add :math:`\gamma V(s_{terminal})` where a time limit, not the task, ended the episode.

        The task would have gone on from there; see https://github.com/DLR-RM/stable-baselines3/issues/633. The episode still
        ends with that step: the mask of the advantages cuts there, and the value of the last observation counts once, here.
        """
        for index, info in enumerate(infos):
            if dones[index] and info.get("TimeLimit.truncated", False) and info.get("terminal_observation") is not None:
                terminal_obs = self.policy.obs_to_tensor(info["terminal_observation"])[0]
                bootstrap = self.gamma * engine.value(self.value_inputs(terminal_obs, index))[0]
                rewards[index] += bootstrap
                self.session.bootstraps.append((self.num_timesteps, index, float(bootstrap)))

    def _kl_exceeds_target(self, kl: np.floating[Any]) -> bool:
        """Decide whether the policy has moved far enough for this rollout, by an estimate of KL(old || new) in nats."""
        limit = self._kl_limit()
        return limit is not None and bool(kl > limit)

    def _kl_limit(self) -> float | None:
        """The KL estimate in nats beyond which an update ends, or None; a rate that follows the KL brings one of its own."""
        if self.target_kl is not None:
            return float(self.kl_stop_factor * self.target_kl)
        rate = adaptive_rate(self.lr_schedule)
        return None if rate is None else rate.limit(self._current_progress_remaining)

    def _recompute_advantages(self, engine: Engine[Any], record: UpdateRecord) -> UpdateSettings:
        """Estimate advantages and returns with the value function as it is now; give the next epoch's settings."""
        buffer = self.rollout_buffer
        if record.collected is None:
            record.collected = (buffer.advantages, buffer.returns)
        self.policy.set_training_mode(False)
        values = np.empty(buffer.buffer_size * buffer.n_envs, dtype=np.float32)
        size = self.micro_batch_size or self.batch_size
        for start in range(0, len(values), size):
            rows = slice(start, start + size)
            inputs = PolicyInputs(rows_as_tensors(buffer.observations, rows, self.device))
            values[rows] = engine.value(inputs).cpu().numpy()[:, 0]
        last_values, dones = engine.value(self.value_inputs(self._last_obs_as_tensor())), cast(Any, self._last_episode_starts)
        recompute_returns_and_advantage(buffer, values, last_values, dones, self.vf_lambda, self.vf_n_steps)
        self.policy.set_training_mode(True)
        return self.update_settings()

    def update_settings(self) -> UpdateSettings:
        """
        Evaluate the schedules, and the advantages' moments where the whole rollout is normalised at once.

        :raises ArgumentError: if a schedule gives what is no finite number ≥ 0
        """
        advantages, moments = self.rollout_buffer.advantages, None
        if self.normalize_advantage and self.advantage_normalization == "batch":
            moments = (float(advantages.mean()), float(advantages.std(ddof=1)))
        return UpdateSettings(
            clip_range=self._now("clip_range", self.clip_range),
            clip_range_vf=None if self.clip_range_vf is None else self._now("clip_range_vf", self.clip_range_vf),
            ent_coef=self._now("ent_coef", self.ent_coef),
            vf_coef=self._now("vf_coef", self.vf_coef),
            max_grad_norm=CHECKS["max_grad_norm"]("max_grad_norm", self.max_grad_norm),
            normalize_advantage=self.normalize_advantage,
            advantage_moments=moments,
            clip_advantage=self.clip_advantage,
            dual_clip=self.dual_clip,
            vf_clip_mode=self.vf_clip_mode,
            kl_estimator=self.kl_estimator,
            log_std_bounds=self.log_std_bounds,
            objective=self.objective,
            kl_limit=self._kl_limit() if self.kl_check == "minibatch" else None,
        )
