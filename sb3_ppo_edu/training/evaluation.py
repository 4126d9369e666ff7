"""
Evaluation: what a policy earns, episode by episode.

Two rules. Returns are the environment's own, undiscounted and unnormalised. And episode ``k`` starts from seed
``first_seed + k``, so two policies, or one policy with another number of parallel environments, are judged on the very same
starting states.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.vec_env.action_masks import METHOD, ask_masks, choices_of, legal_actions

EVALUATION_SEED = 10_000
"""Seed of the first evaluation episode. The same for every run, so that runs are comparable, and far from the seeds of the
training environments, which count up from the run's own seed."""

MAX_EPISODE_STEPS = 100_000
"""Steps after which the evaluation of a saved run cuts an episode off that its environment does not end."""

MAX_EVALUATION_ENVS = 10
"""Environments stepped together in an evaluation: one forward pass serves them all."""


def environments_for(episodes: int) -> int:
    """
    Choose how many environments play the episodes.

    :return: from 1 to :data:`MAX_EVALUATION_ENVS`
    :raises ValueError: if there are none to play
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: expected a positive integer")
    return min(episodes, MAX_EVALUATION_ENVS)


class RandomPolicy:
    """
    Uniformly random actions: what any learning is measured against.

    :param action_space: space of a single environment's actions; it is copied
    :param n_envs: number of actions wanted at a time
    :param seed: seed of the actions
    """

    def __init__(self, action_space: spaces.Space, n_envs: int, seed: int) -> None:
        self._space = copy.deepcopy(action_space)
        self._space.seed(seed)
        self._n_envs = n_envs

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Sample an action for each environment.

        :param observation: not looked at
        :param state: passed through
        :param episode_start: not looked at
        :param deterministic: not possible here
        :param action_masks: which actions are legal, shape ``(n_envs, n_choices)``; None for all
        :return: actions, shape ``(n_envs, *action_shape)``, and the state
        """
        if action_masks is None:
            return np.stack([self._space.sample() for _ in range(self._n_envs)]), state
        drawn = legal_actions(list(action_masks), choices_of(self._space), self._space.np_random.choice)
        return drawn.reshape(self._n_envs, *(self._space.shape or ())), state


class WithMasks:
    """
    A model that acts with the masks that environments tell, and is in all else what it was.

    :param policy: whose ``predict`` takes ``action_masks``
    :param env: whose environments have a method ``action_masks``
    """

    def __init__(self, policy: Any, env: VecEnv) -> None:
        self._policy, self._env = policy, env

    def __getattr__(self, name: str) -> Any:
        """Hand on what is not defined here; what copying asks a class for is not the model's."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._policy, name)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose legal actions.

        :param observation: of each environment
        :param state: handed on
        :param episode_start: handed on
        :param deterministic: the likeliest actions instead of sampled ones
        :return: actions, shape ``(n_envs, *action_shape)``, and the state
        """
        masks = np.stack(ask_masks(self._env))
        found: tuple[np.ndarray, tuple[np.ndarray, ...] | None] = self._policy.predict(
            observation, state, episode_start, deterministic, action_masks=masks
        )
        return found


def with_masks(policy: PolicyPredictor, env: VecEnv) -> PolicyPredictor:
    """
    Have a policy that takes masks act with those that its environments tell, if they do.

    :param policy: any
    :param env: where it is to act
    :return: the policy, or one that asks for masks first
    """
    takes_masks = "action_masks" in inspect.signature(policy.predict).parameters
    return WithMasks(policy, env) if takes_masks and env.has_attr(METHOD) else policy


class EvaluatesWithMasks(BaseCallback):
    """Makes a callback that evaluates do so with masks, where the model takes some and its ``eval_env`` tells them."""

    reads_every_step = changes_policy = False
    eval_env: VecEnv

    def init_callback(self, model: BaseAlgorithm) -> None:
        """
        Have the model evaluated on legal actions.

        :param model: which is trained
        """
        super().init_callback(model)
        self.model = cast(BaseAlgorithm, with_masks(model, self.eval_env))


class MaskedEvalCallback(EvaluatesWithMasks, EvalCallback):
    """
    SB3's ``EvalCallback`` for policies with masks, with and without a memory.

    sb3-contrib's ``MaskableEvalCallback`` does the same for those without; a memory it empties before every step.
    """


@dataclass(frozen=True)
class Evaluation:
    """
    What a policy earned, episode by episode.

    :param seeds: seed of each episode, ascending
    :param returns: undiscounted return of each episode
    :param lengths: steps of each episode
    """

    seeds: list[int]
    returns: list[float]
    lengths: list[int]

    def summary(self) -> dict[str, Any]:
        """
        Summarise, with the episodes themselves.

        :return: ``n``, ``mean``, ``std`` (of the episodes, not of the mean), ``median``, ``min``, ``max``, and the lists
        """
        returns = np.asarray(self.returns)
        return {
            "n": len(self.returns),
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "median": float(np.median(returns)),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "seeds": self.seeds,
            "returns": self.returns,
            "lengths": self.lengths,
        }

    def median_seed(self) -> int:
        """
        Find the episode that shows the policy as it is.

        :return: seed of the episode with the (lower) median return
        """
        order = np.argsort(self.returns, kind="stable")
        return self.seeds[int(order[(len(order) - 1) // 2])]


def evaluate(policy: PolicyPredictor, env: VecEnv, episodes: int, *, deterministic: bool = True) -> Evaluation:
    """
    Play episodes and note what each earned.

    Every environment plays a fixed share of the episodes, so that short ones are not over-represented.

    :param policy: whose actions to play
    :param env: from :func:`make_evaluation_env`, not yet used
    :param episodes: number of episodes, at least 1
    :param deterministic: whether to take the policy's most likely actions or to sample them
    :return: the episodes, in the order of their seeds
    """
    played: dict[int, tuple[float, int]] = {}

    def note(local_variables: dict[str, Any], _: dict[str, Any]) -> None:
        info = local_variables["info"]
        # Under Atari's episodic lives an episode of the wrapper ends before the game does.
        if "episode" in info:
            played[info["episode_seed"]] = (float(info["episode"]["r"]), int(info["episode"]["l"]))

    evaluate_policy(with_masks(policy, env), env, episodes, deterministic, callback=note, return_episode_rewards=True)
    seeds = sorted(played)
    return Evaluation(seeds, [played[seed][0] for seed in seeds], [played[seed][1] for seed in seeds])
