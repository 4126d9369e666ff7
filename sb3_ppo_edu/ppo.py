"""``EduPPO``: proximal policy optimization, written from scratch on Stable-Baselines3's rollout buffers and callbacks."""

from __future__ import annotations

import io
import math
import pathlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol, TypeVar, cast

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.arguments import check_choice, check_flag, check_integer, check_number, check_range, parse_schedule
from sb3_ppo_edu.buffers import (
    QUANTILES,
    add_transition,
    compute_returns_and_advantage,
    recompute_returns_and_advantage,
    rollout_statistics,
    share_at_bounds,
)
from sb3_ppo_edu.engines import (
    AccumulatingEngine,
    Engine,
    EngineName,
    MinibatchStatistics,
    NonFiniteUpdateError,
    UpdateSettings,
    gradient_shares,
    make_engine,
    project_log_std,
)
from sb3_ppo_edu.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.policies import BetaPolicy, TanhGaussianPolicy, check_bounded_action_space, resolve_policy
from sb3_ppo_edu.trust import check_model, describing_failure
from sb3_ppo_edu.vec_env import InProcessVecEnv

if TYPE_CHECKING:
    from sb3_ppo_edu.checkpoint.resume import Resumption

SelfEduPPO = TypeVar("SelfEduPPO", bound="EduPPO")

KlCheck = Literal["minibatch", "epoch"]
AdvantageNormalization = Literal["minibatch", "batch"]
ActionDistribution = Literal["gaussian", "tanh_gaussian", "beta"]

KL_STOP_FACTOR = 1.5
"""The slack that OpenAI Spinning Up's PPO gives ``target_kl`` before it stops, and SB3 after it."""

SCHEDULES: dict[str, dict[str, Any]] = {
    "learning_rate": {},
    "clip_range": {"open_low": True},
    "clip_range_vf": {"open_low": True},
    "ent_coef": {"low": -np.inf},
    "vf_coef": {},
}
"""Arguments that may be schedules, and the range of their values, as :func:`~sb3_ppo_edu.arguments.parse_schedule` has it."""

SHORT_UPDATE, SAMPLED_UPDATES = 100, 4
"""Of updates with fewer minibatches than the first number, one of as many as the second is measured for the doctor."""


def _schedule(name: str, value: Any) -> float | Schedule:
    """
    Check one of :data:`SCHEDULES`, and read it if it is a string.

    :param name: of the argument
    :param value: a number, a function or a string
    :return: the number or function
    :raises ValueError: if it is neither, or out of its range
    """
    return parse_schedule(name, value, **SCHEDULES[name])


@dataclass
class UpdateRecord:
    """
    What happened in one update, from the first minibatch to the last.

    :param minibatches: statistics of every minibatch, the one at which the KL rule stopped included
    :param epoch_kls: KL estimates of the current epoch
    :param epoch_starts: index of each epoch's first minibatch
    :param grad_norms: global gradient norm before clipping, of every step taken
    :param stopped_in: index of the epoch in which the KL rule stopped the update, or None
    :param collected: the rollout's first advantages and returns, where they have been estimated anew
    """

    minibatches: list[MinibatchStatistics] = field(default_factory=list)
    epoch_kls: list[np.float32] = field(default_factory=list)
    epoch_starts: list[int] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    stopped_in: int | None = None
    collected: tuple[np.ndarray, np.ndarray] | None = None

    def begin_epoch(self) -> None:
        """Begin an epoch."""
        self.epoch_kls = []
        self.epoch_starts.append(len(self.minibatches))

    def add(self, statistics: MinibatchStatistics) -> None:
        """
        Take in one minibatch.

        :param statistics: what the engine reported
        """
        self.minibatches.append(statistics)
        self.epoch_kls.append(statistics.approx_kl)

    def mean(self, name: str) -> np.float64:
        """
        Mean of one statistic over all minibatches.

        :param name: name of the statistic
        :return: its mean
        """
        mean: np.float64 = np.mean([getattr(statistics, name) for statistics in self.minibatches])
        return mean

    def by_epoch(self) -> dict[str, float]:
        """
        Sum up the first and the last epoch: KL and clip fraction rise in between where the data is used too often.

        :return: log keys and values
        """
        first = self.minibatches[: self.epoch_starts[1] if len(self.epoch_starts) > 1 else None]
        last = self.minibatches[self.epoch_starts[-1] :]
        return {
            "kl_first_epoch": sum(float(statistics.approx_kl) for statistics in first) / len(first),
            "clip_fraction_first_epoch": sum(statistics.clip_fraction for statistics in first) / len(first),
            "clip_fraction_last_epoch": sum(statistics.clip_fraction for statistics in last) / len(last),
            "ratio_first": float(self.minibatches[0].ratio_max),
        }


class SafePoint(Protocol):
    """Who wants to know when a training stands between two steps, where all of its state can be taken."""

    def reached(self) -> None:
        """Hear that training stands between two steps; an exception ends it."""

    def failed(self) -> None:
        """Hear the same just before an exception of a callback ends the training."""

    def released(self) -> None:
        """Hear that training has ended, however it did."""


TRAINING_STATE = (
    "safe_point",
    "resumed_envs",
    "_resumption",
    "_iteration",
    "_rollout_steps",
    "_mid_rollout",
    "_truncated_episodes",
    "n_processes",
    "_around_engine",
)
"""Attributes that belong to a training in progress and not to the model."""


def reads_every_step(callback: BaseCallback) -> bool:
    """
    Tell whether a callback may look at the local variables of every step: to collect them costs 1 to 2 % on small tasks.

    :param callback: the outermost callback
    :return: False for none at all, and for those that say ``reads_every_step = False``
    """
    if type(callback) is ConvertCallback:
        # Without a callback SB3 puts an empty one in its place, whose local variables nobody can see.
        return callback.callback is not None
    if type(callback) is CallbackList:
        return any(map(reads_every_step, callback.callbacks))
    return bool(getattr(callback, "reads_every_step", True))


def tell_of_failure(callback: BaseCallback, error: BaseException) -> None:
    """
    Tell callbacks that want to know it that training ends with an exception: those with ``on_training_failed``.

    :param callback: the outermost callback
    :param error: the exception
    """
    # Imported here: how callbacks lie inside of each other is known where they are saved.
    from sb3_ppo_edu.checkpoint.snapshot import callbacks_of

    for one in callbacks_of(callback):
        if hasattr(one, "on_training_failed"):
            one.on_training_failed(error)


class EduPPO(OnPolicyAlgorithm):
    r"""
    Proximal policy optimization with clipped surrogate objective.

    Each iteration collects ``n_steps`` transitions from every environment, estimates advantages with GAE, and minimises over
    ``n_epochs`` epochs of shuffled minibatches

    .. math:: L = L^{policy} + c_v L^{value} + c_e L^{entropy}

    The parts stand in :mod:`sb3_ppo_edu.losses`, the advantages in :mod:`sb3_ppo_edu.advantages`. With only the arguments that
    ``stable_baselines3.PPO`` also has and ``engine="autograd"``, training ends with the same bits as SB3's.

    Papers: PPO https://arxiv.org/abs/1707.06347, GAE https://arxiv.org/abs/1506.02438

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or an ``ActorCriticPolicy`` class
    :param env: the environment to learn from, or its registered id
    :param learning_rate: step size of the optimizer; like every value called a schedule here it may be a number, a function of
        the remaining progress (1 at the start, 0 at the end), or a string such as "lin_3e-4", a line from 3e-4 to 0
    :param n_steps: steps per environment and rollout, so that a rollout holds ``n_steps * n_envs`` transitions
    :param batch_size: transitions per minibatch, ≥ 2 where advantages are normalised per minibatch
    :param n_epochs: passes over each rollout
    :param gamma: discount factor in [0, 1]
    :param gae_lambda: λ of GAE in [0, 1]
    :param clip_range: ε of the clipped surrogate, > 0; schedule
    :param clip_range_vf: ε of the value clipping in units of the return, > 0; schedule, or None for no clipping
    :param normalize_advantage: standardise the advantages
    :param ent_coef: weight of the entropy bonus; schedule
    :param vf_coef: weight of the value loss, ≥ 0; schedule
    :param max_grad_norm: gradients are scaled down to this global L2 norm, > 0
    :param use_sde: generalized state-dependent exploration instead of independent action noise
    :param sde_sample_freq: steps between new gSDE noise matrices, -1 for one per rollout
    :param rollout_buffer_class: rollout buffer, by default SB3's for the observation space
    :param rollout_buffer_kwargs: its further arguments
    :param target_kl: stop the update when the KL estimate exceeds ``kl_stop_factor * target_kl`` nats; None for no limit
    :param stats_window_size: episodes over which ``rollout/`` statistics are averaged
    :param tensorboard_log: folder of TensorBoard events, or None
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: seed of all random generators, or None
    :param device: "auto", "cpu", "cuda", …
    :param _init_setup_model: build the networks at once
    :param engine: "autograd" (the readable reference, SB3's bits), "fused" (hand-derived and fast), or "auto": fused where it
        is supported; ``model.engine_reason`` says which one it is and why
    :param vf_clip_mode: value clipping as SB3 does it ("sb3") or with the pessimistic maximum of the lecture ("max"), see
        :func:`sb3_ppo_edu.losses.value_loss`
    :param dual_clip: lower bound c·Â of the objective for negative advantages, c > 1 (https://arxiv.org/abs/1912.09729,
        equation 5), or None
    :param kl_estimator: "k3" (SB3) or "k1" (the lecture), see :func:`sb3_ppo_edu.losses.approx_kl`
    :param kl_check: compare each minibatch's estimate with the limit before its step, as SB3 ("minibatch"), or the mean over
        an epoch after it ("epoch", as the lecture); needs ``target_kl``
    :param kl_stop_factor: slack of ``target_kl``, > 0 (1.5 in Spinning Up and SB3); needs ``target_kl``
    :param advantage_normalization: with the moments of each "minibatch" (SB3) or of the whole rollout ("batch", the lecture)
    :param clip_advantage: bound of the absolute advantages after normalisation, > 0, or None
    :param recompute_advantages: estimate advantages and returns anew before each epoch but the first, with the value function
        as it is by then (recommended by Andrychowicz et al. 2020, https://arxiv.org/abs/2006.05990, section 3.5), so that
        later epochs don't learn what the first has made out of date. Needs one of SB3's own rollout buffers
    :param action_distribution: for Box actions, "gaussian" (clipped at the bounds, SB3), "tanh_gaussian" or "beta" (both
        within the bounds), see :mod:`sb3_ppo_edu.distributions`
    :param log_std_bounds: (low, high) that the log standard deviation of a Gaussian is projected to after each step, or None
    :param compile: have ``torch.compile`` compile the policy for the autograd engine's updates, which takes seconds before the
        first one and needs a C++ compiler; results then agree with SB3's to within rounding only
    :param micro_batch_size: compute each minibatch in parts of this size and add up their gradients, for minibatches that
        memory can't hold at once; divides ``batch_size``. The result is that of one large minibatch, to within rounding
    :param bf16: compute the networks in bfloat16 with the autograd engine, on processors that are faster so; results then are
        not SB3's, see ``benchmarks/scale/bf16.md``
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected
    """

    safe_point: SafePoint | None = None
    """Who is told between the steps of the training in progress; :class:`~sb3_ppo_edu.checkpoint.ExactCheckpoint` sets it."""
    resumed_envs: Sequence[str] = ()
    """How :meth:`resume` has restored each environment."""
    _resumption: Resumption | None = None
    _iteration = 0
    _rollout_steps = 0
    _mid_rollout = False
    _truncated_episodes = 0
    n_processes = 1
    """How many processes step environments for this training."""
    _around_engine: Callable[[Engine], Engine] | None = None

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.5,
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
        engine: EngineName = "auto",
        vf_clip_mode: VfClipMode = "sb3",
        dual_clip: float | None = None,
        kl_estimator: KlEstimator = "k3",
        kl_check: KlCheck = "minibatch",
        kl_stop_factor: float = KL_STOP_FACTOR,
        advantage_normalization: AdvantageNormalization = "minibatch",
        clip_advantage: float | None = None,
        recompute_advantages: bool = False,
        action_distribution: ActionDistribution = "gaussian",
        log_std_bounds: tuple[float, float] | None = None,
        compile: bool = False,
        micro_batch_size: int | None = None,
        bf16: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.n_steps = n_steps
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.clip_range = _schedule("clip_range", clip_range)
        self.clip_range_vf = None if clip_range_vf is None else _schedule("clip_range_vf", clip_range_vf)
        self.normalize_advantage = normalize_advantage
        self.max_grad_norm = max_grad_norm
        self.target_kl = target_kl
        self.engine = engine
        self.vf_clip_mode: VfClipMode = vf_clip_mode
        self.dual_clip = dual_clip
        self.kl_estimator: KlEstimator = kl_estimator
        self.kl_check = kl_check
        self.kl_stop_factor = kl_stop_factor
        self.advantage_normalization = advantage_normalization
        self.clip_advantage = clip_advantage
        self.recompute_advantages = recompute_advantages
        self.log_std_bounds = log_std_bounds
        self.compile = compile
        self.micro_batch_size = micro_batch_size
        self.bf16 = bf16
        self._engine: Engine | None = None
        self._engine_choice: EngineName | None = None
        self.engine_reason = ""
        self._check_arguments(action_distribution, use_sde)
        check_integer("stats_window_size", stats_window_size, 1)
        check_integer("sde_sample_freq", sde_sample_freq, -1)
        if seed is not None:
            check_integer("seed", seed, 0)
        policy, self.action_distribution = resolve_policy(policy, action_distribution)
        try:
            super().__init__(
                policy,
                env,
                learning_rate=_schedule("learning_rate", learning_rate),
                n_steps=n_steps,
                gamma=gamma,
                gae_lambda=gae_lambda,
                ent_coef=cast(float, _schedule("ent_coef", ent_coef)),
                vf_coef=cast(float, _schedule("vf_coef", vf_coef)),
                max_grad_norm=max_grad_norm,
                use_sde=use_sde,
                sde_sample_freq=sde_sample_freq,
                rollout_buffer_class=rollout_buffer_class,
                rollout_buffer_kwargs=rollout_buffer_kwargs,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                policy_kwargs=policy_kwargs,
                verbose=verbose,
                seed=seed,
                device=device,
                _init_setup_model=False,
                supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            )
        except AssertionError:
            # SB3 asserts that the bounds of a Box are finite, without saying which one is not.
            if self.action_distribution != "gaussian" and isinstance(getattr(self, "action_space", None), spaces.Box):
                check_bounded_action_space(self.action_space, self.action_distribution)
            raise
        if self.env is not None:
            self._check_rollout_size(self.env.num_envs)
        if _init_setup_model:
            self._setup_model()

    # -- arguments -------------------------------------------------------------------------------------------------------

    def _check_arguments(self, action_distribution: str, use_sde: bool) -> None:
        """
        Refuse arguments that are wrong by themselves or together, before anything is built.

        :param action_distribution: the argument of that name
        :param use_sde: the argument of that name
        :raises ValueError: for the first wrong argument
        """
        check_flag("normalize_advantage", self.normalize_advantage)
        check_flag("use_sde", use_sde)
        check_flag("recompute_advantages", self.recompute_advantages)
        check_flag("compile", self.compile)
        check_flag("bf16", self.bf16)
        check_choice("engine", self.engine, ("auto", "autograd", "fused"))
        check_choice("vf_clip_mode", self.vf_clip_mode, ("sb3", "max"))
        check_choice("kl_estimator", self.kl_estimator, ("k3", "k1"))
        check_choice("kl_check", self.kl_check, ("minibatch", "epoch"))
        check_choice("advantage_normalization", self.advantage_normalization, ("minibatch", "batch"))
        check_choice("action_distribution", action_distribution, ("gaussian", "tanh_gaussian", "beta"))
        if self.normalize_advantage and self.advantage_normalization == "minibatch":
            check_integer("batch_size", self.batch_size, 2, "advantages are normalised per minibatch")
        check_integer("batch_size", self.batch_size, 1)
        if self.micro_batch_size is not None:
            check_integer("micro_batch_size", self.micro_batch_size, 1)
            if self.batch_size % self.micro_batch_size:
                raise ValueError(
                    f"micro_batch_size={self.micro_batch_size}: expected a divisor of batch_size={self.batch_size}"
                )
        check_integer("n_steps", self.n_steps, 1)
        check_integer("n_epochs", self.n_epochs, 1)
        check_number("gamma", self.gamma, 0.0, 1.0)
        check_number("gae_lambda", self.gae_lambda, 0.0, 1.0)
        if self.max_grad_norm != math.inf:  # the usual way to switch clipping off
            check_number("max_grad_norm", self.max_grad_norm, 0.0, open_low=True)
        check_number("kl_stop_factor", self.kl_stop_factor, 0.0, open_low=True)
        if self.target_kl is not None:
            check_number("target_kl", self.target_kl, 0.0, open_low=True, remedy="None switches the limit off")
        if self.dual_clip is not None:
            check_number("dual_clip", self.dual_clip, 1.0, open_low=True, remedy="None switches the dual clip off")
        if self.clip_advantage is not None:
            check_number("clip_advantage", self.clip_advantage, 0.0, open_low=True, remedy="None switches the bound off")
        if self.log_std_bounds is not None:
            check_range("log_std_bounds", self.log_std_bounds)
        self._check_combinations(action_distribution, use_sde)

    def _check_combinations(self, action_distribution: str, use_sde: bool) -> None:
        """
        Refuse an option that would have no effect beside the others, or contradicts them.

        :param action_distribution: the argument of that name
        :param use_sde: the argument of that name
        :raises ValueError: for the first such option
        """
        if self.target_kl is None and self.kl_check != "minibatch":
            raise ValueError(
                f"kl_check={self.kl_check!r}: expected with a target_kl, found target_kl=None: set target_kl, such as 0.02"
            )
        if self.target_kl is None and self.kl_stop_factor != KL_STOP_FACTOR:
            raise ValueError(
                f"kl_stop_factor={self.kl_stop_factor}: expected with a target_kl, found target_kl=None: set target_kl"
            )
        if self.clip_range_vf is None and self.vf_clip_mode != "sb3":
            raise ValueError(
                f"vf_clip_mode={self.vf_clip_mode!r}: expected with a clip_range_vf, found clip_range_vf=None: set it"
            )
        if not self.normalize_advantage and self.advantage_normalization != "minibatch":
            raise ValueError(
                f"advantage_normalization={self.advantage_normalization!r} with normalize_advantage=False: "
                "expected normalize_advantage=True"
            )
        if use_sde and action_distribution != "gaussian":
            raise ValueError(
                f"action_distribution={action_distribution!r} with use_sde=True: gSDE has a distribution of its own; "
                "use one of the two"
            )
        if use_sde and self.bf16:
            raise ValueError(
                "bf16=True with use_sde=True: gSDE's noise comes from the last hidden layer, which is in bfloat16"
            )
        if self.log_std_bounds is not None and (use_sde or action_distribution == "beta"):
            found = "use_sde=True" if use_sde else "action_distribution='beta'"
            raise ValueError(f"log_std_bounds={self.log_std_bounds} with {found}: expected a Gaussian with a free log_std")

    def _check_rollout_size(self, n_envs: int) -> None:
        """
        Check that rollouts divide into usable minibatches.

        :param n_envs: number of environments
        :raises ValueError: if a rollout is too small to normalise its advantages
        """
        rollout_size = self.n_steps * n_envs
        if self.normalize_advantage and rollout_size < 2:
            raise ValueError(
                f"n_steps={self.n_steps} with n_envs={n_envs}: expected a rollout of at least 2 transitions "
                "(the standard deviation of a single advantage is undefined): raise n_steps"
            )
        remainder = rollout_size % self.batch_size
        if remainder > 0:
            warnings.warn(
                f"batch_size={self.batch_size} does not divide the rollout of n_steps * n_envs = {rollout_size} transitions "
                f"(n_steps={self.n_steps} and n_envs={n_envs}): every epoch ends with a truncated mini-batch of {remainder}. "
                "Its gradient is noisier than the others'; a batch_size that is a factor of the rollout avoids it.",
                stacklevel=3,
            )

    def _setup_model(self) -> None:
        """Build policy, buffer, schedules and engine. ``load`` calls it again after restoring the attributes."""
        for name in SCHEDULES:
            # What load was given in place of the saved schedule; the constructor has read its own. Functions are let through:
            # the zoo's enjoy puts one that is 0 in place of the clip range, which it does not need.
            if isinstance(getattr(self, name), (str, int, float)):
                setattr(self, name, _schedule(name, getattr(self, name)))
        super()._setup_model()
        if self.recompute_advantages and type(self.rollout_buffer) not in (RolloutBuffer, DictRolloutBuffer):
            raise ValueError(
                f"recompute_advantages=True with rollout_buffer_class={type(self.rollout_buffer).__name__}: expected SB3's "
                "RolloutBuffer or DictRolloutBuffer, whose order is known; use one of the two"
            )
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)
        if self.log_std_bounds is not None and not hasattr(self.policy, "log_std"):
            raise ValueError(
                f"log_std_bounds={self.log_std_bounds}: expected a policy with a log_std, found actions in {self.action_space}"
            )
        project_log_std(self.policy, self.log_std_bounds)
        self._engine = None
        self._current_engine()

    def _current_engine(self) -> Engine:
        """
        Give the engine for the policy as it is now, so that ``model.engine`` may be changed between rollouts.

        :return: the engine
        :raises ValueError: if the fused engine is asked for where it can't be
        """
        if self._engine is None or self._engine.policy is not self.policy or self._engine_choice != self.engine:
            self._engine, self.engine_reason = self._build_engine()
            self._engine_choice = self.engine
        self._engine.attach()
        return self._engine

    def _build_engine(self) -> tuple[Engine, str]:
        """
        Build the engine, and put what steps in between around it.

        :return: the engine, and one sentence that says why it is this one
        """
        engine, reason = make_engine(self.engine, self.policy, compile=self.compile, bf16=self.bf16)
        if self.micro_batch_size is not None:
            engine = AccumulatingEngine(engine, self.micro_batch_size)
        return (engine if self._around_engine is None else self._around_engine(engine)), reason

    def average_over(self, n_processes: int, around_engine: Callable[[Engine], Engine] | None) -> None:
        """
        Train together with other processes, or by itself again; :class:`sb3_ppo_edu.distributed.DataParallel` calls it.

        :param n_processes: how many processes step environments for this training, this one included
        :param around_engine: puts what averages over them around the engine; None for nothing
        """
        self.n_processes, self._around_engine = n_processes, around_engine
        self._engine = None

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """
        Make a vector environment of what was given, and let SB3 do the rest.

        :param env: environment or vector environment
        :param verbose: whether to say what is wrapped
        :param monitor_wrapper: whether to wrap a single environment in SB3's ``Monitor``
        :return: the vector environment to train in
        """
        if isinstance(env, gym.Env):
            if monitor_wrapper and not is_wrapped(env, Monitor):
                if verbose >= 1:
                    print("Wrapping the env with a `Monitor` wrapper")
                env = Monitor(env)
            single = env
            env = InProcessVecEnv([lambda: single])
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        """
        Recommend the CPU for MLP policies, ours included.

        :param mlp_class_name: name of the MLP policy's class
        """
        if self.policy_class in (TanhGaussianPolicy, BetaPolicy):
            mlp_class_name = self.policy_class.__name__
        super()._maybe_recommend_cpu(mlp_class_name)

    # -- loading ---------------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls: type[SelfEduPPO],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = True,
        **kwargs: Any,
    ) -> SelfEduPPO:
        """
        Load a model that this class or SB3's PPO has saved.

        :param path: the file, with or without ``.zip``, or a file object
        :param env: environment to go on training in, with the same spaces; None is enough to predict
        :param device: where the networks shall live
        :param custom_objects: attributes that replace the file's, which are then not looked at
        :param print_system_info: print the versions that saved it and those that load it
        :param force_reset: reset ``env`` before training goes on
        :param trusted: run whatever the file's pickles say, as SB3 does. With False, for a file that someone else made, only
            types that are known to be harmless are read (see :mod:`sb3_ppo_edu.trust`)
        :param kwargs: further attributes to change; schedules may be strings such as "lin_3e-4"
        :return: the model
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: with ``trusted=False``, if the file is damaged, is no PPO's, or wants a type that is not on the
            list; the message names file, place and type
        """
        if trusted:
            return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        checked = check_model(path, cls, custom_objects)
        with describing_failure(path):
            return super().load(checked.file, env, device, checked.attributes, print_system_info, force_reset, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        """
        Attributes that are built anew and not saved.

        :return: their names
        """
        return [*super()._excluded_save_params(), "_engine", *TRAINING_STATE]

    # -- collecting ------------------------------------------------------------------------------------------------------

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
        assert self._last_obs is not None, "No previous observation was provided"
        self.policy.set_training_mode(False)
        engine = self._current_engine()
        n_steps = self._begin_rollout(env, callback, rollout_buffer)

        watched = reads_every_step(callback)
        while n_steps < n_rollout_steps:
            self._rollout_steps = n_steps
            if self.safe_point is not None:
                self.safe_point.reached()
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)

            obs_tensor = self._as_tensor(self._last_obs)
            action_tensor, values, log_probs = engine.act(obs_tensor)
            actions = action_tensor.cpu().numpy()
            clipped_actions = self._within_bounds(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)

            self.num_timesteps += env.num_envs * self.n_processes
            if watched:
                callback.update_locals(locals())
            going_on, failure = self._call_back(callback)
            if not going_on:
                return False

            self._update_info_buffer(infos, dones)
            n_steps += 1
            self._bootstrap_time_limits(engine, rewards, dones, infos)
            starts = cast(np.ndarray, self._last_episode_starts)
            add_transition(rollout_buffer, self._last_obs, actions, rewards, starts, values, log_probs)
            self._last_obs = cast(Any, new_obs)
            self._last_episode_starts = dones
            if failure is not None:
                self._end_with(failure, n_steps)

        self._rollout_steps = 0
        dones = cast(np.ndarray, self._last_episode_starts)
        values = engine.value(self._as_tensor(cast(Any, self._last_obs)))
        compute_returns_and_advantage(rollout_buffer, values, dones)

        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _begin_rollout(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> int:
        """
        Begin a rollout, or go on with one that was interrupted.

        :param env: the training environments
        :param callback: told of the start
        :param rollout_buffer: emptied for a new rollout
        :return: steps that are done already
        """
        if self._mid_rollout:
            self._mid_rollout = False
            return self._rollout_steps
        rollout_buffer.reset()
        self._truncated_episodes = 0
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        return 0

    def _call_back(self, callback: BaseCallback) -> tuple[bool, Exception | None]:
        """
        Call the callback, and keep its exception where someone wants to make a checkpoint before it ends the training.

        :param callback: the callback
        :return: whether to go on, and the exception
        """
        if self.safe_point is None:
            return callback.on_step(), None
        try:
            return callback.on_step(), None
        except Exception as error:
            return True, error

    def _end_with(self, failure: Exception, n_steps: int) -> NoReturn:
        """
        End the training with an exception of a callback, now that the step is complete.

        :param failure: the exception
        :param n_steps: steps of the rollout that are done
        """
        self._rollout_steps = n_steps
        if self.safe_point is not None:
            self.safe_point.failed()
        raise failure

    def _as_tensor(self, observations: np.ndarray | dict[str, np.ndarray]) -> PyTorchObs:
        """
        Turn observations into tensors on the model's device.

        :param observations: from the environments
        :return: tensors; on the CPU they share the observations' memory
        """
        if self.device.type == "cpu" and isinstance(observations, np.ndarray):
            return th.from_numpy(observations)
        tensors: PyTorchObs = obs_as_tensor(observations, self.device)
        return tensors

    def _within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """
        Turn sampled actions into what the environment takes.

        :param actions: as sampled, and as the rollout buffer stores them
        :return: Box actions within their bounds, squashed or clipped; other actions as they are
        """
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        clipped: np.ndarray = np.clip(actions, self.action_space.low, self.action_space.high)
        return clipped

    def _bootstrap_time_limits(
        self, engine: Engine, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        r"""
        Add :math:`\gamma V(s_{terminal})` where a time limit, not the task, ended the episode.

        The task would have gone on from there; see https://github.com/DLR-RM/stable-baselines3/issues/633.

        :param engine: gives the value
        :param rewards: shape ``(n_envs,)``, changed in place
        :param dones: shape ``(n_envs,)``
        :param infos: one per environment
        """
        for index, info in enumerate(infos):
            if dones[index] and info.get("TimeLimit.truncated", False) and info.get("terminal_observation") is not None:
                self._truncated_episodes += 1
                terminal_obs = self.policy.obs_to_tensor(info["terminal_observation"])[0]
                rewards[index] += self.gamma * engine.value(terminal_obs)[0]

    # -- learning --------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """
        Update the policy from the rollout buffer: epochs of shuffled minibatches, each with a KL check and one step.

        :raises NonFiniteUpdateError: if a loss or gradient is NaN or infinite; the parameters keep their last finite values
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        engine, settings, record = self._current_engine(), self._update_settings(), UpdateRecord()

        for epoch in range(self.n_epochs):
            if epoch > 0 and self.recompute_advantages:
                settings = self._recompute_advantages(engine, record)
            record.begin_epoch()
            for minibatch in engine.minibatches(self.rollout_buffer, self.batch_size):
                try:
                    statistics = engine.gradients(minibatch, settings)
                    record.add(statistics)
                    if self.kl_check == "minibatch" and self._kl_exceeds_target(statistics.approx_kl):
                        record.stopped_in = epoch
                        break
                    record.grad_norms.append(engine.apply())
                except NonFiniteUpdateError as error:
                    raise self._non_finite_update(error, epoch, len(record.epoch_kls)) from error

            self._n_updates += 1
            if self.kl_check == "epoch" and self._kl_exceeds_target(np.mean(record.epoch_kls)):
                record.stopped_in = epoch
            if record.stopped_in is not None:
                break

        if record.collected is not None:
            # What is logged, such as the explained variance, is of the values that the actions were taken with.
            self.rollout_buffer.advantages, self.rollout_buffer.returns = record.collected
        self._log_update(record, settings)

    def _recompute_advantages(self, engine: Engine, record: UpdateRecord) -> UpdateSettings:
        """
        Estimate the rollout's advantages and returns with the value function as it is now.

        :param engine: gives the values
        :param record: keeps the first estimates
        :return: settings of the next epoch: the moments of all advantages are others
        """
        buffer = self.rollout_buffer
        if record.collected is None:
            record.collected = (buffer.advantages, buffer.returns)
        self.policy.set_training_mode(False)
        values = np.empty(buffer.buffer_size * buffer.n_envs, dtype=np.float32)
        size = self.micro_batch_size or self.batch_size
        for start in range(0, len(values), size):
            rows = slice(start, start + size)
            values[rows] = engine.value(self._rows(buffer.observations, rows)).cpu().numpy()[:, 0]
        last_values = engine.value(self._as_tensor(cast(Any, self._last_obs)))
        recompute_returns_and_advantage(buffer, values, last_values, cast(np.ndarray, self._last_episode_starts))
        self.policy.set_training_mode(True)
        return self._update_settings()

    def _rows(self, observations: np.ndarray | dict[str, np.ndarray], rows: slice) -> PyTorchObs:
        """
        Take some of a rollout's observations.

        :param observations: of the rollout buffer
        :param rows: which
        :return: tensors with memory of their own: the bits of a matrix product may depend on where an array begins
        """
        if isinstance(observations, dict):
            return {name: th.from_numpy(part[rows]).clone().to(self.device) for name, part in observations.items()}
        return th.from_numpy(observations[rows]).clone().to(self.device)

    def _update_settings(self) -> UpdateSettings:
        """
        Evaluate the schedules, and the advantages' moments where the whole rollout is normalised at once.

        :return: settings of this update
        """
        moments = None
        if self.normalize_advantage and self.advantage_normalization == "batch":
            advantages = self.rollout_buffer.advantages
            moments = (float(advantages.mean()), float(advantages.std(ddof=1)))
        return UpdateSettings(
            clip_range=self._now(self.clip_range),
            clip_range_vf=None if self.clip_range_vf is None else self._now(self.clip_range_vf),
            ent_coef=self._now(self.ent_coef),
            vf_coef=self._now(self.vf_coef),
            max_grad_norm=self.max_grad_norm,
            normalize_advantage=self.normalize_advantage,
            advantage_moments=moments,
            clip_advantage=self.clip_advantage,
            dual_clip=self.dual_clip,
            vf_clip_mode=self.vf_clip_mode,
            kl_estimator=self.kl_estimator,
            log_std_bounds=self.log_std_bounds,
        )

    def _now(self, value: float | Schedule) -> float:
        """
        Evaluate a number or schedule at the current progress.

        :param value: number or function of the remaining progress
        :return: its value now
        """
        return float(value(self._current_progress_remaining) if callable(value) else value)

    def _kl_exceeds_target(self, kl: np.floating[Any]) -> bool:
        """
        Decide whether the policy has moved far enough for this rollout.

        :param kl: estimate of KL(old || new) in nats
        :return: True if the update should stop
        """
        return self.target_kl is not None and bool(kl > self.kl_stop_factor * self.target_kl)

    def _non_finite_update(self, error: NonFiniteUpdateError, epoch: int, minibatch: int) -> NonFiniteUpdateError:
        """
        Say where in the update a number ceased to be finite, and what the likely causes are.

        :param error: the engine's finding
        :param epoch: index of the epoch
        :param minibatch: index of the minibatch within the epoch
        :return: the error to raise
        """
        return NonFiniteUpdateError(
            f"{error} in update {self._n_updates}, epoch {epoch}, minibatch {minibatch}, after {self.num_timesteps} steps: "
            "expected finite numbers. The parameters are those before this step. Likely causes: NaN, infinite or huge "
            "observations or rewards (wrap the environment in sb3_ppo_edu.guard.FiniteGuard, normalise with VecNormalize), a "
            "learning rate that is too high, or a log_std that ran away (log_std_bounds)."
        )

    def _log_update(self, record: UpdateRecord, settings: UpdateSettings) -> None:
        """
        Log the update under SB3's keys, and what SB3 leaves out beside them.

        :param record: what happened
        :param settings: settings of this update
        """
        if record.stopped_in is not None and self.verbose >= 1:
            kl = record.epoch_kls[-1] if self.kl_check == "minibatch" else np.mean(record.epoch_kls)
            print(f"Early stopping at step {record.stopped_in} due to reaching max kl: {kl:.2f}")
        buffer = self.rollout_buffer
        self.logger.record("train/entropy_loss", record.mean("entropy_loss"))
        self.logger.record("train/policy_gradient_loss", record.mean("policy_loss"))
        self.logger.record("train/value_loss", record.mean("value_loss"))
        self.logger.record("train/approx_kl", np.mean(record.epoch_kls))
        self.logger.record("train/clip_fraction", record.mean("clip_fraction"))
        self.logger.record("train/loss", record.minibatches[-1].loss)
        self.logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", settings.clip_range)
        if settings.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", settings.clip_range_vf)

        self.logger.record("train/kl_max", max(statistics.approx_kl for statistics in record.minibatches))
        self.logger.record("train/early_stop_epoch", self.n_epochs if record.stopped_in is None else record.stopped_in)
        self.logger.record("train/ratio_max", max(statistics.ratio_max for statistics in record.minibatches))
        if record.grad_norms:
            self.logger.record("train/grad_norm", np.mean(record.grad_norms))
        self.logger.record("train/advantage_mean", buffer.advantages.mean())
        self.logger.record("train/advantage_std", buffer.advantages.std())
        # What sb3-edu doctor reads; too much for SB3's table on the console. Of short updates a sample: there it would count.
        if len(record.minibatches) >= SHORT_UPDATE or self._iteration % SAMPLED_UPDATES == min(self._iteration, 1):
            for name, value in self._for_the_doctor(record, settings).items():
                self.logger.record(f"train/{name}", value, exclude="stdout")

    def _for_the_doctor(self, record: UpdateRecord, settings: UpdateSettings) -> dict[str, float]:
        """
        Gather what tells a training's faults apart.

        :param record: what happened in this update
        :param settings: settings of this update
        :return: log keys, without ``train/``, and values
        """
        numbers = {"ent_coef": settings.ent_coef, "vf_coef": settings.vf_coef, **record.by_epoch()}
        if record.grad_norms:
            grad_norm = sum(record.grad_norms) / len(record.grad_norms)
            numbers |= {f"grad_norm_{part}": share * grad_norm for part, share in gradient_shares(self.policy).items()}
        ratios = np.sort(self._engine.last_ratios()) if self._engine is not None else np.empty(0)
        if len(ratios):
            numbers |= {f"ratio_{name}": float(ratios[int(q * (len(ratios) - 1))]) for name, q in QUANTILES.items()}
        numbers |= rollout_statistics(self.rollout_buffer)
        if isinstance(self.action_space, spaces.Box):
            actions = self._within_bounds(self.rollout_buffer.actions.reshape(-1, *self.action_space.shape))
            numbers["action_saturation"] = share_at_bounds(actions, self.action_space)
        ended = self.rollout_buffer.episode_starts[1:].sum()
        if self._last_episode_starts is not None:  # an update without a rollout before it has none
            ended += self._last_episode_starts.sum()
        numbers |= {"episodes_ended": float(ended), "episodes_truncated": float(self._truncated_episodes)}
        return numbers

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
        """
        resumption, self._resumption = self._resumption, None
        if resumption is not None:
            total_timesteps, reset_num_timesteps = resumption.left(self, total_timesteps, reset_num_timesteps), False
        else:
            self._iteration = self._rollout_steps = 0
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        try:
            callback.on_training_start(locals(), globals())
            if resumption is not None:
                resumption.restore(self, callback)
                self._mid_rollout = self._rollout_steps > 0
            assert self.env is not None
            while self.num_timesteps < total_timesteps or self._mid_rollout:
                if not self.collect_rollouts(self.env, callback, self.rollout_buffer, n_rollout_steps=self.n_steps):
                    break
                self._iteration += 1
                self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
                if log_interval is not None and self._iteration % log_interval == 0:
                    self.dump_logs(self._iteration)
                self.train()
            callback.on_training_end()
        except BaseException as error:
            tell_of_failure(callback, error)
            raise
        finally:
            self._mid_rollout = False
            if self.n_processes > 1:
                self.average_over(1, None)
            if self.safe_point is not None:
                self.safe_point.released()
                self.safe_point = None
        return self

    @classmethod
    def resume(
        cls: type[SelfEduPPO],
        path: str | pathlib.Path,
        env: VecEnv | Sequence[Callable[[], gym.Env]],
        device: th.device | str = "auto",
        trusted: bool = True,
        log_folder: str | pathlib.Path | None = None,
    ) -> SelfEduPPO:
        """
        Load a checkpoint of :class:`~sb3_ppo_edu.checkpoint.ExactCheckpoint`, to go on as if nothing had happened.

        The next ``learn``, with the same arguments and callbacks as the one that was interrupted, completes it: it ends with
        the same parameters, logs and evaluations. Environments are brought to where they were; ``model.resumed_envs`` says
        how each was.

        :param path: a checkpoint, or a folder of them, of which the newest whole one is taken
        :param env: the vector environment, built as for the interrupted training, or functions that each make one environment
        :param device: where the networks live
        :param trusted: as for :meth:`load`: whether the constructor's arguments may be of any type
        :param log_folder: where the log files are now, if they were moved
        :return: the model
        :raises CheckpointError: if there is no whole checkpoint, or it is of other environments
        """
        # Imported here: checkpoint restores models by their public attributes, and is no part of the algorithm.
        from sb3_ppo_edu.checkpoint.resume import resume

        logs = None if log_folder is None else pathlib.Path(log_folder)
        return resume(cls, pathlib.Path(path), env, device, trusted, logs)
