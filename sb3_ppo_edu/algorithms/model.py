"""The model around the algorithm: what Stable-Baselines3's class contract asks for, and the engine that it has."""

from __future__ import annotations

import copy
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import NoneType
from typing import Any, ClassVar, TypeVar, cast

import gymnasium as gym
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.arguments import (
    CHECKS,
    NETWORKS,
    OLD_NAMES,
    SCHEDULES,
    ActionDistribution,
    AdvantageNormalization,
    ArgumentError,
    KlCheck,
    PPOArguments,
    check_changes,
    check_names,
    check_rollout_size,
    with_old_names,
)
from sb3_ppo_edu.algorithms.attributes import check_attributes, check_discrete, check_has_environments, check_parts
from sb3_ppo_edu.algorithms.checks import (
    adaptive_rate,
    check_number,
    evaluate_schedule,
    is_saved_whole,
    not_finite,
    parse_schedule,
    refuse,
)
from sb3_ppo_edu.algorithms.engine_choice import EngineChoice, EngineRequest
from sb3_ppo_edu.algorithms.saved_objective import resolve_objective, restore_objective
from sb3_ppo_edu.algorithms.saving import SavingModel
from sb3_ppo_edu.algorithms.services import service
from sb3_ppo_edu.algorithms.session import Session
from sb3_ppo_edu.algorithms.update_record import UpdateRecord
from sb3_ppo_edu.engines import Engine, EngineFactory, EngineName, NonFiniteUpdateError, project_log_std
from sb3_ppo_edu.engines.factory import named_engine
from sb3_ppo_edu.functional.kl import KLPenaltyObjective
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.policies.bounded import (
    STOCK_POLICIES,
    BetaPolicy,
    TanhGaussianPolicy,
    check_bounded_action_space,
    resolve_policy,
)
from sb3_ppo_edu.policies.further_inputs import algorithm_for, further_inputs
from sb3_ppo_edu.policies.net_arch import base_of, resolve_net_arch
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.vec_env.faults import fault_behind
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

SelfPPOModel = TypeVar("SelfPPOModel", bound="PPOModel")

OF_THE_FIRST_EDITION = ("engine_reason", "_engine_choice", *OLD_NAMES)
"""Attributes in files of version 0.1 that are no attributes any more."""

OF_SB3 = (
    *("learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"),
    *("use_sde", "sde_sample_freq", "stats_window_size", "seed"),
)
"""Arguments that SB3's own class takes and keeps."""


class PPOModel(SavingModel):
    """
    Attributes, engine and checks of :class:`~sb3_ppo_edu.algorithms.ppo.EduPPO`, which adds the algorithm.

    :param policy: a name or class, see there
    :param env: the environment to learn from, or its registered id
    :param arguments: checked
    :param others: further arguments of SB3's class, which it keeps as they are
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**STOCK_POLICIES}
    further_inputs: ClassVar[tuple[str, ...]] = ()
    """What policies are given beside observations, see :func:`~sb3_ppo_edu.policies.further_inputs.further_inputs`."""
    resumed_envs: list[str] | tuple[str, ...] = ()
    resumed_engine: str = ""
    """How ``resume`` has restored each environment."""
    _session: Session | None = None
    _engines: EngineChoice | None = None
    _learning: object
    _own: tuple[object, object] = (None, None)
    """The objective and the learning rate that follow the KL in this model alone."""
    _read_rate: tuple[object, object] = (None, None)
    """The learning rate that the schedule was last made of, and that schedule."""

    batch_size: int
    n_epochs: int
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    normalize_advantage: bool
    target_kl: float | None
    engine: EngineName | EngineFactory
    engine_kwargs: dict[str, Any]
    objective: Objective
    vf_clip_mode: VfClipMode
    dual_clip: float | None
    kl_estimator: KlEstimator
    kl_check: KlCheck
    kl_stop_factor: float
    advantage_normalization: AdvantageNormalization
    clip_advantage: float | None
    recompute_advantages: bool
    vf_lambda: float | None
    vf_n_steps: int | None
    action_distribution: ActionDistribution
    log_std_bounds: tuple[float, float] | None
    micro_batch_size: int | None
    shared_net_arch: list[int] | None
    layer_norm: bool
    critic_keys: list[str] | None

    def __new__(cls: type[SelfPPOModel], *args: Any, **kwargs: Any) -> SelfPPOModel:
        """Look at the names of the arguments."""
        check_names(cls, kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | VectorEnv | str,
        arguments: PPOArguments,
        *,
        _init_setup_model: bool = True,
        **others: Any,
    ) -> None:
        for name in ("policy_kwargs", "rollout_buffer_kwargs"):
            if not isinstance(others.get(name), (Mapping, NoneType)):
                raise refuse(name, others[name], "None or a dict of arguments by name")
        if env is None and _init_setup_model:
            raise ArgumentError("env=None: expected an environment or its id: without one there are no spaces to build for")
        policy, distribution = resolve_policy(policy, arguments.action_distribution)
        arguments.action_distribution = cast(ActionDistribution, distribution)
        if networks := arguments.networks(others.get("policy_kwargs")):
            kind: Any = self.policy_aliases[policy] if isinstance(policy, str) else policy
            policy = cast(type[ActorCriticPolicy], resolve_net_arch(kind, networks))
            # There SB3 looks for what a saved policy was built with.
            others["policy_kwargs"] = {**(others.get("policy_kwargs") or {}), **networks}
        if isinstance(policy, type) and (needed := sorted({*further_inputs(policy)} - {*self.further_inputs})):
            given = " and ".join(("observations", *self.further_inputs))
            expected = f"one that takes {given}, found {needed[0]} too: use {algorithm_for(policy)}"
            raise refuse("policy", policy.__name__, expected)
        for name in CHECKS:
            if name not in OF_SB3:
                setattr(self, name, getattr(arguments, name))
        self.objective = resolve_objective(arguments.objective)
        try:
            super().__init__(
                policy,
                cast(GymEnv, env),  # _wrap_env adapts a vector of Gymnasium's
                **{name: getattr(arguments, name) for name in OF_SB3},
                **others,
                _init_setup_model=False,
                supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            )
        except AssertionError:
            # SB3 asserts that the bounds of a Box are finite, without saying which one is not.
            if self.action_distribution != "gaussian" and isinstance(getattr(self, "action_space", None), spaces.Box):
                check_bounded_action_space(self.action_space, self.action_distribution)
            raise
        if self.env is not None:
            check_discrete(self.observation_space, "observation")
            check_discrete(self.action_space, "action")
            check_rollout_size(self.n_steps, self.env.num_envs, self.batch_size, self.normalize_advantage)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        """Build policy, buffer and schedules. ``load`` calls it again after restoring the attributes."""
        self._take_over_attributes()
        if self.seed is not None:
            check_has_environments(self.env, f"seed={self.seed}")
        self._build_policy_and_buffer()
        super()._setup_lr_schedule()
        check_parts(self)
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)
        project_log_std(self.policy, self.log_std_bounds)
        self._read_rate = self.learning_rate, self.lr_schedule
        self._take_copies()

    def _build_policy_and_buffer(self) -> None:
        """Build both from the attributes, after seeding, as SB3 does."""
        try:
            super()._setup_model()
        except (MemoryError, RuntimeError) as error:
            said = str(error).strip().splitlines() or [""]
            if isinstance(error, MemoryError):
                asked: dict[str, Any] = {"n_steps": self.n_steps, "n_envs": self.n_envs}
            elif any(word in said[0] for word in ("memory", "overflow")):
                own = {name: value for name, value in self.policy_kwargs.items() if name not in NETWORKS}
                asked = {"shared_net_arch": self.shared_net_arch, "policy_kwargs": own}
            else:
                raise
            named = ", ".join(f"{name}={shown(value)}" for name, value in asked.items() if value)
            raise ArgumentError(
                f"{named or 'policy'}: found no memory for so much ({said[0]}); expected what memory can hold"
            ) from error

    def _setup_lr_schedule(self) -> None:
        """Check what the schedule says when the policy is built: its optimizer begins with that."""
        if isinstance(self.learning_rate, str):  # who sets a text, and then calls this as with SB3
            self.learning_rate = CHECKS["learning_rate"]("learning_rate", self.learning_rate)
        super()._setup_lr_schedule()
        self.lr_schedule = partial(evaluate_schedule, "learning_rate", self.lr_schedule, low=0.0)

    def _take_over_attributes(self) -> None:
        """Bring what ``load`` has put here from a file, and what it was given in place of it, into today's form."""
        attributes = vars(self)
        changes = attributes.pop("changes_to_check", {})
        saved_objective = attributes.pop("saved_objective", None)
        self.engine_kwargs = with_old_names(attributes).get("engine_kwargs") or {}
        for name in OF_THE_FIRST_EDITION:
            attributes.pop(name, None)
        changes = check_changes(attributes, changes)
        if changes.get("objective") is not None:
            changes["objective"] = resolve_objective(changes["objective"])
        elif saved_objective is not None:
            self.objective = restore_objective(saved_objective)
        attributes.update(changes)
        if self.env is not None and self.env.num_envs != self.n_envs:
            raise refuse("n_envs", self.n_envs, f"{self.env.num_envs}, as the given env has: leave n_envs out")
        if changes:
            check_rollout_size(self.n_steps, self.n_envs, self.batch_size, self.normalize_advantage)
        for name in SCHEDULES:
            # The constructor has read its own. Functions are let through: the zoo's enjoy puts one that is 0 in place of the
            # clip range, which it does not need.
            value = getattr(self, name)
            if isinstance(value, (str, int, float)):
                setattr(self, name, CHECKS[name](name, value))
            elif is_saved_whole(value) and name not in changes:
                try:
                    parse_schedule(name, value, -math.inf)
                except ArgumentError as error:
                    raise DamagedFileError(f"attribute {error}") from error

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        """Recommend the CPU for MLP policies, ours included: SB3 knows them by the name of their class."""
        kind = base_of(self.policy_class)
        if kind in (TanhGaussianPolicy, BetaPolicy) or kind.__name__ == mlp_class_name:
            mlp_class_name = self.policy_class.__name__
        super()._maybe_recommend_cpu(mlp_class_name)

    @staticmethod
    def _wrap_env(env: GymEnv | VectorEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """
        Make a vector environment of what was given, and let SB3 do the rest.

        :param env: environment or vector environment, SB3's or Gymnasium's
        :param verbose: whether to say what is wrapped
        :param monitor_wrapper: whether to wrap a single environment in SB3's ``Monitor``, a vector of them in ``VecMonitor``
        :return: the vector environment to train in
        :raises ValueError: if it is no environment
        """
        if not hasattr(env, "step"):
            raise refuse("env", env, "an environment, or a vector of them (gymnasium.make gives the one of an id)")
        if isinstance(env, gym.Env):
            if monitor_wrapper and not is_wrapped(env, Monitor):
                if verbose >= 1:
                    print("Wrapping the env with a `Monitor` wrapper")
                env = Monitor(env)
            single = env
            env = InProcessVecEnv([lambda: single])
        elif isinstance(env, VectorEnv):
            from sb3_ppo_edu.vec_env.adapters import adapt_for_training  # with Gymnasium's own environments: on demand

            env = adapt_for_training(env, monitor_wrapper)
        return OnPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    # -- the engine and the session --------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """Where the ``learn`` in progress stands; a fresh one between two of them."""
        if self._session is None:
            self._session = Session()
        return self._session

    @session.setter
    def session(self, session: Session) -> None:
        """Begin another session."""
        self._session = session

    @contextmanager
    def _only_learn(self) -> Iterator[None]:
        """
        Check the attributes, and keep every other ``learn`` of this model out, of a callback or of another thread.

        :raises RuntimeError: if this is the other one
        :raises EnvironmentFaultError: if an environment has called ``sys.exit``
        """
        token = object()
        try:
            # One operation of the dict, so that of two threads one is the first.
            if vars(self).setdefault("_learning", token) is not token:
                raise RuntimeError(
                    "learn: found this model in a learn already, expected one at a time: wait until it has returned, or train "
                    "a copy (copy.deepcopy(model))"
                )
            self._read_learning_rate()
            check_attributes(self)
            self._take_copies()
            self._saved_statistics = None  # from here on what is around the environments counts
            yield
        except SystemExit as error:
            fault = fault_behind(error, self.num_timesteps // self.n_envs + 1)
            if fault is not None:
                raise fault from error
            raise
        finally:
            if vars(self).get("_learning") is token:
                del self._learning

    def _now(self, name: str, value: float | str | Schedule) -> float:
        """
        Evaluate a number, schedule or its text at the current progress, and check it before a parameter moves by it.

        :param name: name of the argument
        :param value: the number, schedule or text
        :raises ArgumentError: if it is no finite number; if it is negative where it must not be
        """
        progress = self._current_progress_remaining
        # The last rollout may go beyond the end. A line that falls to 0 is negative there, and SB3 trains with it.
        low = -math.inf if name == "ent_coef" or progress < 0 else 0.0
        try:
            if isinstance(value, str):
                value = cast(float | Schedule, CHECKS[name](name, value))
            return evaluate_schedule(name, value, progress, low) if callable(value) else check_number(name, value, low)
        except ArgumentError as error:
            raise ArgumentError(f"{error} (after {self.num_timesteps} steps; the policy is as it was)") from error

    def _take_copies(self) -> None:
        """Copy what follows the KL, unless it is a copy already: an object given to two models would follow both."""
        if isinstance(self.objective, KLPenaltyObjective) and self.objective is not self._own[0]:
            self.objective = copy.deepcopy(self.objective)
        rate = adaptive_rate(self.lr_schedule)
        if rate is not None and rate is not self._own[1]:
            self._read_rate = copy.deepcopy((self.learning_rate, self.lr_schedule))
            self.learning_rate, self.lr_schedule = cast(tuple[Any, Any], self._read_rate)
        self._own = (self.objective, adaptive_rate(self.lr_schedule))

    def _read_learning_rate(self) -> None:
        """Have a learning rate that was set since take effect, of every kind; a schedule that was set since has precedence."""
        before, schedule = self._read_rate
        now = self.learning_rate
        # A pickle's numbers are other objects.
        if now is not before and not (isinstance(now, float) and isinstance(before, float) and now == before):
            self.learning_rate = CHECKS["learning_rate"]("learning_rate", now)
            if self.lr_schedule is schedule:
                super()._setup_lr_schedule()
            self._take_copies()
        self._read_rate = self.learning_rate, self.lr_schedule

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """Check the learning rate that SB3 gives the optimizer: the schedule is asked as often as there."""
        self._read_learning_rate()
        every = optimizers if isinstance(optimizers, list) else [optimizers]
        groups = [group for optimizer in every for group in optimizer.param_groups]
        before, update = [group["lr"] for group in groups], super()._update_learning_rate
        try:
            self._now("learning_rate", lambda _: update(optimizers) or groups[0]["lr"])
        except ArgumentError:
            for group, rate in zip(groups, before, strict=True):
                group["lr"] = rate
            raise

    @property
    def engine_reason(self) -> str:
        """Which engine acts and updates, and why, in one sentence that begins with its name."""
        return (self._engines or EngineChoice()).explain(self.policy, self._engine_request())

    def _engine_request(self) -> EngineRequest:
        """What is asked for, which may have been changed since the last rollout."""
        around = self.session.around_engine
        if not isinstance(self.objective, Objective):  # set anew, in one of the constructor's other forms
            self.objective = resolve_objective(self.objective)
        engine, options = named_engine(self.engine), self.engine_kwargs or {}
        return EngineRequest(engine, options, self.micro_batch_size, self.objective, around)

    def attach_engine(self, *, in_update: bool = False) -> Engine[Any]:
        """
        Give the engine for the policy as it is now, chosen anew if the policy, its optimizer or what is asked for has changed.

        :param in_update: an update begins, for which the optimizer's state counts too
        :return: the engine
        :raises UnsupportedPolicyError: if one is asked for by name that can't serve the policy
        """
        if self._engines is None:
            self._engines = EngineChoice()
        return self._engines.current(self.policy, self._engine_request(), self.verbose, in_update=in_update)

    @contextmanager
    def _engine_in_update(self, record: UpdateRecord) -> Iterator[Engine[Any]]:
        """
        Give the engine for an update, and let go of the policy however it ends.

        :param record: how far the update has come, for errors
        """
        engine = self.attach_engine(in_update=True)
        try:
            yield engine
        except NonFiniteUpdateError as error:
            where = f"update {self._n_updates}, epoch {len(record.epoch_starts) - 1}, minibatch {len(record.epoch_kls)}, "
            raise not_finite(
                f"{error} in {where}after {self.num_timesteps} steps", "The parameters are those before this step."
            ) from error
        finally:
            engine.detach()

    @classmethod
    def resume(
        cls: type[SelfPPOModel],
        path: str | pathlib.Path,
        env: VecEnv | Sequence[Callable[[], gym.Env]],
        device: th.device | str = "auto",
        trusted: bool = True,
        log_folder: str | pathlib.Path | None = None,
        total_timesteps: int | None = None,
    ) -> SelfPPOModel:
        """
        Load a checkpoint of :class:`~sb3_ppo_edu.checkpoint.ExactCheckpoint`, to go on as if nothing had happened.

        The next ``learn``, with the same arguments and callbacks as the one that was interrupted, completes it: it ends with
        the same parameters, logs and evaluations. Environments are brought to where they were; ``model.resumed_envs`` says
        how each was, and ``model.resumed_engine`` whether another engine or instruction set goes on, and so other bits.

        :param path: a checkpoint, or a folder of them, of which the newest whole one is taken
        :param env: the vector environment, built as for the interrupted training, or functions that each make one environment
        :param device: where the networks live
        :param trusted: as for :meth:`load`: whether the constructor's arguments may be of any type
        :param log_folder: where the log files are now, if they were moved; paths that callbacks keep into it are, too
        :param total_timesteps: steps that the ``learn`` shall do in all, if not those it was asked for: schedules follow
        :return: the model
        :raises CheckpointError: if there is no whole checkpoint, it is of other environments, or has as many steps already
        """
        resumed: SelfPPOModel = service("resume")(cls, path, env, device, trusted, log_folder, total_timesteps)
        return resumed
