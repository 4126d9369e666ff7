"""``Reinforce``: the policy gradient that PPO grew from, as the smallest honest difference from ``EduPPO``."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium.vector import VectorEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_ppo_edu.algorithms.arguments import ActionDistribution, check_flag, check_integer
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.engines import Engine, EngineName
from sb3_ppo_edu.functional.advantages import monte_carlo_returns

SelfReinforce = TypeVar("SelfReinforce", bound="Reinforce")


class Reinforce(EduPPO):
    r"""
    REINFORCE, with or without a learned baseline: one gradient step per rollout, on all its transitions.

    .. math:: \nabla_\theta J \approx \frac1n \sum_t \Psi_t \nabla_\theta \log \pi_\theta(a_t|s_t), \qquad
        \Psi_t = G_t \ \text{or} \ G_t - V(s_t), \qquad G_t = \sum_{k \ge 0} \gamma^k r_{t+k}

    It is EduPPO with one epoch, one minibatch and λ = 1: at the first step the ratio is 1, inside the clip range, and the
    gradient of the clipped surrogate is the one above. Clipping starts to matter with the second step on the same data.

    - ``baseline=False``: :math:`\Psi_t = G_t` from rewards alone; no critic is trained or asked. A time limit ends an episode
      like any other end. The return of an episode that is unfinished when the rollout ends is not known, so its steps weigh
      0; long episodes lose more steps by that: choose ``n_steps`` several episodes long.
    - ``baseline=True``: :math:`\Psi_t = G_t - V(s_t)`; the critic is trained on :math:`G_t` and continues, as in EduPPO, the
      returns of episodes that a time limit or the rollout's end cuts off.

    As everybody does, it leaves out the factor :math:`\gamma^t` that the textbook's gradient of the discounted return has.

    Papers: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
    https://doi.org/10.1007/BF00992696; Sutton and Barto 2018, "Reinforcement Learning", chapter 13.3 (without) and 13.4 (with
    a baseline), http://incompleteideas.net/book/the-book.html

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or an ``ActorCriticPolicy`` class
    :param env: the environment to learn from, or its registered id
    :param learning_rate: step size of the optimizer; schedule, as in EduPPO. Larger by default than there, where a rollout
        gives hundreds of steps and not one
    :param n_steps: steps per environment and rollout, ≥ 2, so that one gradient averages ``n_steps * n_envs`` transitions
    :param gamma: discount factor in [0, 1]
    :param normalize_advantage: standardise the weights; without a baseline that subtracts the mean return as a constant one
    :param ent_coef: weight of the entropy bonus; schedule
    :param vf_coef: weight of the value loss, ≥ 0; schedule; None for 0.5 with a baseline and 0 without
    :param max_grad_norm: gradients are scaled down to this global L2 norm, > 0
    :param stats_window_size: episodes over which ``rollout/`` statistics are averaged
    :param tensorboard_log: folder of TensorBoard events, or None
    :param policy_kwargs: further arguments of the policy
    :param verbose: 0 no output, 1 information, 2 debugging
    :param seed: seed of all random generators, or None
    :param device: "auto", "cpu", "cuda", …
    :param _init_setup_model: build the networks at once
    :param baseline: subtract a learned value of the state from the return
    :param engine: "auto", "autograd" or "fused", as in EduPPO
    :param action_distribution: for Box actions, "gaussian", "tanh_gaussian" or "beta", as in EduPPO
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | VectorEnv | str,
        learning_rate: float | str | Schedule = 1e-2,
        n_steps: int = 2048,
        gamma: float = 0.99,
        normalize_advantage: bool = False,
        ent_coef: float | str | Schedule = 0.0,
        vf_coef: float | str | Schedule | None = None,
        max_grad_norm: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        baseline: bool = False,
        engine: EngineName = "auto",
        action_distribution: ActionDistribution = "gaussian",
    ) -> None:
        baseline = check_flag("baseline", baseline)
        n_steps = check_integer("n_steps", n_steps, 2, "one rollout is one estimate of the gradient")
        if vf_coef is not None and not baseline:
            raise ValueError(f"vf_coef={vf_coef!r}: expected with baseline=True, found baseline=False, which trains no critic")
        self.baseline = baseline
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=n_steps,
            n_epochs=1,
            gamma=gamma,
            gae_lambda=1.0,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef if vf_coef is not None else 0.5 * baseline,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            engine=engine,
            action_distribution=action_distribution,
        )

    def _take_over_attributes(self) -> None:
        """Make one minibatch of a rollout, whose size is known now that the environments are."""
        super()._take_over_attributes()
        self.batch_size = self.n_steps * self.n_envs

    def _bootstrap_time_limits(
        self, engine: Engine, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """
        Continue the return beyond a time limit if there is a critic to ask.

        :param engine: gives the value
        :param rewards: shape ``(n_envs,)``, changed in place
        :param dones: shape ``(n_envs,)``
        :param infos: one per environment
        """
        if self.baseline:
            super()._bootstrap_time_limits(engine, rewards, dones, infos)

    def train(self) -> None:
        """
        Take one step along the policy gradient.

        :raises NonFiniteUpdateError: if a loss or gradient is NaN or infinite; the parameters keep their values
        """
        if not self.baseline:
            self._weigh_by_returns()
        super().train()

    def _weigh_by_returns(self) -> None:
        """Put the returns in the place of the buffer's advantages, where they are known."""
        buffer = self.rollout_buffer
        dones = np.concatenate([buffer.episode_starts[1:], np.asarray(self._last_episode_starts, np.float32)[None]])
        returns = monte_carlo_returns(buffer.rewards, dones, np.zeros(buffer.n_envs, np.float32), self.gamma)
        finished = np.flip(np.logical_or.accumulate(np.flip(dones.astype(bool), axis=0), axis=0), axis=0)
        if not finished.any():
            warnings.warn(
                f"no episode ended within the rollout of n_steps={self.n_steps}: no return is known, so nothing is learned "
                "from it. Use an n_steps several episodes long, or baseline=True.",
                stacklevel=3,
            )
        # Standardising subtracts the mean, so the mean is what ends as weight 0.
        unknown = returns[finished].mean() if self.normalize_advantage and finished.any() else 0.0
        buffer.returns = returns
        buffer.advantages = np.where(finished, returns, unknown).astype(np.float32)
        self.logger.record("train/known_returns", finished.mean())

    def learn(
        self: SelfReinforce,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "Reinforce",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfReinforce:
        """See :meth:`sb3_ppo_edu.algorithms.ppo.EduPPO.learn`."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
