"""``RecurrentEduPPO``: PPO for policies with a memory, as sb3-contrib's ``RecurrentPPO``."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.algorithms.arguments import KL_STOP_FACTOR, AdvantageNormalization, ArgumentError, KlCheck
from sb3_ppo_edu.algorithms.checks import check_choice, check_integer, refuse
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.engines import Engine, EngineFactory, EngineName, PolicyInputs
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode
from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.policies.recurrent import (
    GRU_POLICIES,
    LSTM_POLICIES,
    PoliciesOfCells,
    RecurrentCell,
    cell_of,
    check_memory,
    resolve_recurrent_policy,
)
from sb3_ppo_edu.vec_env.action_masks import are_flags

SelfRecurrentEduPPO = TypeVar("SelfRecurrentEduPPO", bound="RecurrentEduPPO")


class RecurrentEduPPO(EduPPO):
    r"""
    PPO for environments whose observations do not say all that counts: the policy remembers what it has seen.

    Actor and critic have hidden states :math:`h_t = f(o_t, h_{t-1})`, zero where an episode begins, and act and judge on
    :math:`h_t` instead of :math:`o_t`. An update goes through sequences of consecutive steps, each from the state that the
    rollout stored where it begins (LSTM: https://doi.org/10.1162/neco.1997.9.8.1735; what stored states cost:
    https://openreview.net/forum?id=r1lyTjAqYX). With the arguments of sb3-contrib's ``RecurrentPPO`` and
    ``engine="autograd"``, training ends with the same bits as there, and files go both ways. One case is left out: with
    ``squash_output=True`` (gSDE) the environment is given actions in its own units, as by SB3's PPO and by ``predict``;
    ``RecurrentPPO`` trains on actions from -1 to 1 there, which is the same only for spaces with these bounds.

    A model acts by ``action, state = model.predict(observation, state, episode_start)``, with None for the first state.

    What is not named here is as in :class:`~sb3_ppo_edu.algorithms.ppo.EduPPO`, of which ``recompute_advantages`` and
    ``action_distribution`` are left out.

    :param policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy" or a ``RecurrentActorCriticPolicy`` class
    :param n_steps: steps per environment and rollout, the most that a sequence is long
    :param batch_size: transitions per minibatch, consecutive ones, cut into sequences where an episode or another environment
        begins; None for the whole rollout
    :param policy_kwargs: further arguments of the policy, among them ``lstm_hidden_size`` (units, 256), ``n_lstm_layers`` (1),
        ``shared_lstm`` (False: the critic doesn't take the actor's), ``enable_critic_lstm`` (True: it has its own),
        ``lstm_kwargs``
    :param engine: "auto" takes the kernels, and where they do not serve the policy the reference engine with one call of the
        LSTM for a minibatch; "autograd" has sb3-contrib's bits
    :param engine_kwargs: options of the autograd engine: ``whole_sequences=True`` for that one call, ``channels_last=True``
    :param recurrent_cell: "lstm", or "gru" with one state and three quarters of the weights
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected; for a policy without a memory
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {**LSTM_POLICIES}
    policies_of_cells: ClassVar[PoliciesOfCells] = {"lstm": LSTM_POLICIES, "gru": GRU_POLICIES}
    buffer_classes: ClassVar[tuple[type[Any], type[Any]]] = (RecurrentRolloutBuffer, RecurrentDictRolloutBuffer)
    """For one array of observations, and for a dictionary of them."""
    further_inputs: ClassVar[tuple[str, ...]] = ("lstm_states", "episode_starts")
    recurrent_cell: RecurrentCell = "lstm"
    _states: tuple[tuple[th.Tensor, ...], ...]  # plain tuples, as checkpoints keep them
    _next_states: Any = None

    def __init__(
        self,
        policy: str | type[RecurrentActorCriticPolicy],
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
        use_sde: bool = False,
        sde_sample_freq: int = -1,
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
        log_std_bounds: tuple[float, float] | None = None,
        micro_batch_size: int | None = None,
        recurrent_cell: RecurrentCell = "lstm",
    ) -> None:
        check_choice("recurrent_cell", recurrent_cell, ("lstm", "gru"))
        policy_class, self.recurrent_cell = resolve_recurrent_policy(policy, recurrent_cell, self.policies_of_cells)
        own = ("self", "__class__", "policy", "policy_class", "recurrent_cell", "batch_size")
        given = {name: value for name, value in locals().items() if name not in (*own, "own")}
        super().__init__(policy_class, batch_size=n_steps if batch_size is None else batch_size, **given)
        if batch_size is None:
            self.batch_size = self.n_steps * self.n_envs

    def learn(
        self: SelfRecurrentEduPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "RecurrentEduPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRecurrentEduPPO:
        """See :meth:`sb3_ppo_edu.algorithms.ppo.EduPPO.learn`."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar=progress_bar
        )

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions.

        :param observation: of one environment or of several
        :param state: hidden and cell states that the previous step gave, each of shape ``(n_layers, n_envs, n_units)``; None
            where all episodes begin
        :param episode_start: whether each observation begins an episode, shape ``(n_envs,)``; None for none that does
        :param deterministic: the likeliest action instead of a random one
        :return: the actions, and the states behind this step
        :raises ValueError: for states or episode starts that are not those of so many observations
        """
        self._check_memory(observation, state, episode_start)
        return super().predict(observation, state, episode_start, deterministic)

    def _check_memory(self, observation: Any, state: Any, episode_start: Any) -> None:
        """Check states and episode starts that somebody has given with observations."""
        if state is None and episode_start is None:
            return
        n_envs = self.count_observations(observation)
        if state is not None:
            shape = self._shape_of_states(n_envs)
            found = [tuple(np.shape(part)) for part in state] if isinstance(state, tuple | list | np.ndarray) else state
            if found != [shape, shape]:
                expected = f"two arrays of shape {shape}, (n_layers, n_envs, n_units), which predict gave for the step before"
                raise ArgumentError(f"state: found {found}, expected {expected}; None where all episodes begin")
        starts = np.asarray(np.zeros(n_envs) if episode_start is None else episode_start)
        if starts.size != n_envs or not are_flags(starts):
            raise refuse("episode_start", starts.tolist(), f"True or False for each of {n_envs} observations")

    # -- the states --------------------------------------------------------------------------------------------------------

    @property
    def _last_lstm_states(self) -> RNNStates:
        """Hidden and cell states before the next step, of actor and critic, each of shape ``(n_layers, n_envs, n_units)``."""
        return RNNStates(*(tuple(state.to(self.device) for state in states) for states in self._states))

    @_last_lstm_states.setter
    def _last_lstm_states(self, states: RNNStates) -> None:
        """Go on from other states."""
        shape = self._shape_of_states(self.n_envs)
        try:
            found = [[tuple(state.shape) for state in pair] for pair in states]
        except (AttributeError, TypeError):
            raise refuse("_last_lstm_states", states, f"RNNStates of two pairs of tensors of shape {shape}") from None
        if found != [[shape, shape]] * 2:
            expected = f"of actor and critic two each of {shape}, (n_layers, n_envs, n_units)"
            raise ArgumentError(f"_last_lstm_states: found tensors of shapes {found}, expected {expected}")
        self._states = tuple(map(tuple, states))

    def _shape_of_states(self, n_envs: int) -> tuple[int, int, int]:
        """Number of layers, of environments and of units."""
        lstm: Any = self.policy.lstm_actor
        return lstm.num_layers, n_envs, lstm.hidden_size

    def _starts(self, episode_starts: Any) -> th.Tensor:
        """Episode starts as the policy takes them."""
        return th.tensor(episode_starts, dtype=th.float32, device=self.device)

    def acting_inputs(self, env: VecEnv, observations: PyTorchObs) -> PolicyInputs:
        """See :meth:`sb3_ppo_edu.algorithms.acting.ActingModel.acting_inputs`."""
        starts = self._starts(self._last_episode_starts)
        inputs = super().acting_inputs(env, observations)
        return inputs._replace(hidden_states=self._last_lstm_states, episode_starts=starts)

    def value_inputs(self, observations: PyTorchObs, env_index: int | None = None) -> PolicyInputs:
        """See :meth:`sb3_ppo_edu.algorithms.acting.ActingModel.value_inputs`."""
        if env_index is None:
            states, starts = self._last_lstm_states.vf, self._last_episode_starts
        else:  # the episode goes on beyond its time limit, from the states behind its last step
            states = tuple(state[:, env_index : env_index + 1].contiguous() for state in self._next_states.vf)
            starts = np.zeros(1, dtype=bool)
        return PolicyInputs(observations, hidden_states=states, episode_starts=self._starts(starts))

    def act(self, engine: Engine[Any], inputs: PolicyInputs) -> tuple[np.ndarray, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.algorithms.acting.ActingModel.act`; the states behind the step are kept."""
        found = super().act(engine, inputs)
        self._next_states = cast(Any, engine).hidden_states
        return found

    def step_locals(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.algorithms.acting.ActingModel.step_locals`; states are those behind the step."""
        own = {"lstm_states": self._next_states, "episode_starts": inputs.episode_starts}
        return {**super().step_locals(inputs), **own}

    def end_step(self, new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """See :meth:`sb3_ppo_edu.algorithms.acting.ActingModel.end_step`."""
        super().end_step(new_obs, dones, infos)
        self._states = tuple(map(tuple, self._next_states))

    # -- building and saving -----------------------------------------------------------------------------------------------

    def _take_over_attributes(self) -> None:
        """Make a number of sb3-contrib's ``batch_size=None`` in a file."""
        if self.batch_size is None:
            self.batch_size = self.n_steps * self.n_envs
        super()._take_over_attributes()

    def _build_policy_and_buffer(self) -> None:
        """Build the policy, states of zeros, and one of sb3-contrib's rollout buffers, which stores states too."""
        given: Any = self.policy_class
        policy_class, cell = resolve_recurrent_policy(given, self.recurrent_cell, self.policies_of_cells)
        if not cell == self.recurrent_cell == cell_of(given):
            raise refuse("recurrent_cell", self.recurrent_cell, f"that of the policy {given.__name__}")
        self.policy_class = policy_class  # of a file without masks the one that takes some
        self.rollout_buffer_class = None  # a file names one that another takes the place of
        for name in ("lstm_hidden_size", "n_lstm_layers"):
            check_integer(f"policy_kwargs: {name}", self.policy_kwargs.get(name, 1), 1)
        try:
            check_memory(self.policy_kwargs)
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        try:
            super()._build_policy_and_buffer()
        except TypeError as error:
            if "input_size" not in str(error):
                raise
            raise ArgumentError(
                f"observation_space={self.observation_space}: found MultiDiscrete, whose number of features torch's "
                f"{self.recurrent_cell.upper()} does not take from SB3, expected Box, Discrete or MultiBinary: wrap the "
                "environment in gymnasium.wrappers.FlattenObservation, which makes them one-hot, for 'MlpLstmPolicy'"
            ) from error
        in_parts = isinstance(self.observation_space, spaces.Dict)
        if in_parts and isinstance(self.policy.features_extractor, FlattenExtractor):
            raise refuse("policy", type(self.policy).__name__, "'MultiInputLstmPolicy' for observations in a Dict")
        state = th.zeros(self._shape_of_states(self.n_envs), device=self.device)
        self._states = ((state, state), (state, state))
        self.rollout_buffer = self.buffer_classes[in_parts](
            self.n_steps,
            self.observation_space,
            self.action_space,
            (self.n_steps, *state.shape),
            self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
        )

    def _excluded_save_params(self) -> list[str]:
        """Attributes that are built anew and not saved; sb3-contrib leaves the states out too."""
        return [*super()._excluded_save_params(), "_states", "_next_states"]
