"""Curiosity: a bonus for reaching what is new, by random network distillation (https://arxiv.org/abs/1810.12894)."""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn

from sb3_ppo_edu.functional.values import as_float, shown

CLIP_OBS = 5.0
"""Bound of normalised observations (the paper's section 2.4)."""

EPSILON = 1e-8
"""Added to variances, as in SB3's ``VecNormalize``."""

LARGEST_GAMMA, MOST_STEPS, WIDEST = 0.9999, 1_000_000, 1000
"""Largest ``gamma``, whose return has to stay finite, and largest ``n_steps`` and ``width``, which take memory."""

CHECKS: dict[str, tuple[Any, ...]] = {
    "coef": (float, 0.0),
    "gamma": (float, 0.0, LARGEST_GAMMA),
    "n_steps": (int, 1, MOST_STEPS),
    "proportion": (float, 0.0, 1.0),
    "batch_size": (int, 1, sys.maxsize),
    "learning_rate": (float, 0.0),
    "width": (int, 1, WIDEST),
    "network_seed": (int, 0, 2**32),
}
"""The arguments that are numbers: kind, smallest and largest."""


class Curiosity(VecEnvWrapper):
    r"""
    Random network distillation: add a bonus to the rewards of steps to observations that have seldom been seen.

    A predictor :math:`\hat f` learns what a random network f, which never changes, makes of observations. Where it is still
    wrong, it has not been often. The reward r of a step to the observation s' becomes

    .. math:: r + c \, \frac{i}{\sigma}, \qquad
        i = \frac1d \lVert \hat f(x) - f(x) \rVert^2, \qquad
        x = \mathrm{clip}\left(\frac{s' - \mu}{\sqrt{v}}, -5, 5\right)

    with c = ``coef``, d the outputs of a network, μ and v the running mean and variance of observations, and σ the running
    standard deviation of the intrinsic return :math:`R \leftarrow \gamma R + i`, which goes on where episodes end. At an
    episode's end, s' is the observation that it ended with. In the first ``n_steps`` steps, in which μ, v and σ settle, there
    is no bonus; the paper has an agent act at random instead. After each ``n_steps`` steps the predictor goes once through a
    part of their observations, with Adam on the mean of i.

    The paper gives the bonus a value function of its own, for which episodes never end. Here one value function learns the sum
    of both rewards, so that every algorithm and every engine can be curious. The price: the bonus of what comes after an
    episode's end does not count, and both rewards have the algorithm's discount factor.

    It belongs inside ``VecNormalize``, where ``vec_env_wrapper`` of the zoo's settings puts it; where that normalises rewards,
    it normalises the sum. ``Monitor``, and so ``rollout/ep_rew_mean``, has the environment's own returns. EduPPO logs
    :attr:`curiosity_log` under ``curiosity/``. Checkpoints, copies and pickles keep what was learned; a model's file does not,
    nor do copies of a ``VecNormalize`` around it, which leave out what is inside. A copied model's ``learn`` says how to give
    it environments. Processes that train together have a predictor each.

    Source: Burda et al. 2018, https://arxiv.org/abs/1810.12894, sections 2.2 to 2.4.

    :param venv: the environments; observations of several parts, and images, are flattened
    :param coef: weight c of the bonus, ≥ 0
    :param gamma: discount factor γ of the intrinsic return, in [0, 0.9999]
    :param n_steps: steps of each environment between two updates of the predictor, such as the algorithm's ``n_steps``
    :param proportion: share of the observations that the predictor learns from, in [0, 1]
    :param batch_size: observations in each of its minibatches
    :param learning_rate: of its Adam, ≥ 0
    :param width: units of each layer, and outputs d, of both networks
    :param network_seed: of both networks and of the choice of observations, ≥ 0
    :param active: False for environments to evaluate on: rewards stay as they are, and nothing is learned
    :raises ValueError: for a wrong argument, naming it, what was found and what was expected

    :ivar curiosity_log: of the last ``n_steps`` steps the mean ``bonus`` as it was added, the mean ``prediction_error`` i, and
        the predictor's mean ``loss``; empty before
    """

    not_resumed = ("coef", "gamma", "n_steps", "proportion", "batch_size", "learning_rate", "width", "network_seed", "active")
    """The arguments: the resumed training's own wrapper has them."""

    def __init__(
        self,
        venv: VecEnv,
        coef: float = 1.0,
        gamma: float = 0.99,
        n_steps: int = 128,
        proportion: float = 0.25,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        width: int = 64,
        network_seed: int = 0,
        active: bool = True,
    ) -> None:
        super().__init__(_vector_environment(venv))
        self.coef, self.gamma, self.n_steps, self.proportion = coef, gamma, n_steps, proportion
        self.batch_size, self.learning_rate, self.width, self.network_seed = batch_size, learning_rate, width, network_seed
        self.active = active

        size = spaces.flatdim(self.observation_space)
        with th.random.fork_rng(devices=[]):
            th.default_generator.manual_seed(self.network_seed)
            # Two layers more than f has, as in the paper: so f is among what it can learn.
            self.target = _network(size, self.width, n_hidden=1).requires_grad_(False)
            self.predictor = _network(size, self.width, n_hidden=3)
        self.optimizer = th.optim.Adam(self.predictor.parameters(), lr=self.learning_rate)
        # Not by VecNormalize's names: SB3 refuses to look for an attribute that two wrappers have.
        self.observation_moments, self.return_moments = RunningMeanStd(shape=(size,)), RunningMeanStd(shape=())
        self.intrinsic_returns = np.zeros(self.num_envs)
        self.curiosity_log: dict[str, float] = {}
        self.n_updates = 0
        self._begin_rollout()

    def __setattr__(self, name: str, value: Any) -> None:
        """Check an argument, given or set later."""
        if name in CHECKS:
            value = _checked(name, value, *CHECKS[name])
        elif name == "active" and not isinstance(value, bool):
            raise ValueError(f"Curiosity: active={shown(value)}: expected True or False")
        super().__setattr__(name, value)

    def reset(self) -> VecEnvObs:
        """
        Reset all environments.

        :return: their first observations
        """
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for the step, and add the bonus.

        :return: observations, rewards with the bonus, dones and infos
        """
        observations, rewards, dones, infos = self.venv.step_wait()
        if not self.active:
            return observations, rewards, dones, infos
        reached = self._flattened(observations)
        for index in np.flatnonzero(dones).tolist():
            if "terminal_observation" in infos[index]:
                reached[index] = _finite(spaces.flatten(self.observation_space, infos[index]["terminal_observation"]))
        self.observation_moments.update(reached)
        with th.no_grad():
            errors = self.prediction_errors(reached).numpy().astype(np.float64)
        self.intrinsic_returns = self.gamma * self.intrinsic_returns + errors
        self.return_moments.update(self.intrinsic_returns)
        bonus = self.coef * errors / math.sqrt(self.return_moments.var + EPSILON) if self.n_updates else np.zeros_like(errors)
        self._learn_from(reached, errors, bonus)
        return observations, (rewards + bonus).astype(rewards.dtype), dones, infos

    def prediction_errors(self, flat: NDArray[np.float64]) -> th.Tensor:
        """
        Say how wrong the predictor is about observations.

        :param flat: flattened observations, shape ``(batch, size)``
        :return: i of each, shape ``(batch,)``
        """
        moments = self.observation_moments
        normalized = ((flat - moments.mean) / np.sqrt(moments.var + EPSILON)).clip(-CLIP_OBS, CLIP_OBS)
        inputs = th.from_numpy(normalized.astype(np.float32))
        errors: th.Tensor = (self.predictor(inputs) - self.target(inputs)).square().mean(dim=1)
        return errors

    def set_venv(self, venv: VecEnv) -> None:
        """
        Give environments to a copy or to what a pickle held, which have none.

        :param venv: as many as there were, with the same observations
        :raises ValueError: if they are others, or none
        """
        _vector_environment(venv)
        found, expected = (venv.num_envs, venv.observation_space), (self.num_envs, self.observation_space)
        if found != expected:
            raise ValueError(
                f"set_venv: found {found[0]} environments with {found[1]}, expected {expected[0]} with {expected[1]}"
            )
        super().__init__(venv)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the environments out, as ``VecNormalize`` does."""
        return {name: value for name, value in vars(self).items() if name not in ("venv", "class_attributes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Wait for :meth:`set_venv`."""
        vars(self).update(state, venv=None, class_attributes=dict(inspect.getmembers(type(self))))

    def _begin_rollout(self) -> None:
        """Choose what the predictor will learn from, by numbers that follow from two others: no generator has to be kept."""
        draws = np.random.default_rng((self.network_seed, self.n_updates)).random((self.n_steps, self.num_envs))
        self.chosen = draws < self.proportion
        self.kept: list[NDArray[np.float64]] = []
        self.bonuses, self.errors = 0.0, 0.0

    def _learn_from(self, reached: NDArray[np.float64], errors: NDArray[np.float64], bonus: NDArray[np.float64]) -> None:
        """Keep a part of the observations; after enough steps train the predictor on them."""
        self.kept.append(reached[self.chosen[len(self.kept)]])
        n_steps = len(self.chosen)  # another number that is set since counts from the next update on
        self.bonuses += float(bonus.mean()) / n_steps
        self.errors += float(errors.mean()) / n_steps
        if len(self.kept) < n_steps:
            return
        flat = np.random.default_rng((self.network_seed, self.n_updates, 1)).permutation(np.concatenate(self.kept))
        losses = [self._train(flat[start : start + self.batch_size]) for start in range(0, len(flat), self.batch_size)]
        self.curiosity_log = {
            "bonus": self.bonuses,
            "prediction_error": self.errors,
            "loss": float(np.mean(losses)) if losses else 0.0,
        }
        self.n_updates += 1
        self._begin_rollout()

    def _train(self, flat: NDArray[np.float64]) -> float:
        """Take one step of Adam on a minibatch; give the loss before it."""
        with th.enable_grad():
            loss = self.prediction_errors(flat).mean()
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        return loss.item()

    def _flattened(self, observations: Any) -> NDArray[np.float64]:
        """Put the observations of all environments into new rows of numbers."""
        space = self.observation_space
        if isinstance(space, spaces.Box):
            return _finite(observations.reshape(self.num_envs, -1))
        return _finite([spaces.flatten(space, _of_one(observations, index)) for index in range(self.num_envs)])


def switched_off(env: VecEnv) -> VecEnv:
    """
    Let environments to evaluate on give their own rewards.

    :param env: any; a :class:`Curiosity` in it is switched off
    :return: the same
    """
    curiosity = unwrap_vec_wrapper(env, Curiosity)
    if curiosity is not None:
        curiosity.active = False
    return env


def _network(size: int, width: int, n_hidden: int) -> nn.Sequential:
    """Build layers of linear maps with ReLU between them, and torch's own first weights."""
    layers: list[nn.Module] = []
    for inputs in [size] + [width] * (n_hidden - 1):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, width))


def _of_one(observations: Any, index: int) -> Any:
    """Take one environment's observation out of those of all."""
    if isinstance(observations, dict):
        return {key: part[index] for key, part in observations.items()}
    return tuple(part[index] for part in observations) if isinstance(observations, tuple) else observations[index]


def _finite(values: Any) -> NDArray[np.float64]:
    """Copy numbers, with 0 for what is not finite: ``FiniteGuard``, outside of this, tells of those; moments must not."""
    found = np.array(values, dtype=np.float64)
    found[~np.isfinite(found)] = 0.0
    return found


def _checked(name: str, value: Any, kind: type[int] | type[float], low: float, high: float = math.inf) -> float:
    """Refuse an argument that is no number between two."""
    number = as_float(value)
    if not low <= number <= high or math.isinf(number) or (kind is int and not isinstance(value, int | np.integer)):
        word = "an integer" if kind is int else "a finite number"
        upper = f" and ≤ {high:g}" if high < math.inf else ""
        raise ValueError(f"Curiosity: {name}={shown(value)}: expected {word} ≥ {low:g}{upper}")
    return kind(value)


def _vector_environment(venv: Any) -> VecEnv:
    """Refuse what is no vector environment."""
    if not isinstance(venv, VecEnv):
        raise ValueError(f"Curiosity: found {shown(venv)}, expected a vector environment, such as make_vec_env gives")
    return venv
