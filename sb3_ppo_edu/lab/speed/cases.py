"""What the speed experiment measures: trainings, implementations of PPO, and a grid of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Case:
    """
    A training.

    :param title: what it is called in tables
    :param env_id: Gymnasium id
    :param n_envs: environments stepped together
    :param rollouts: rollouts to train for: a few, so that SB3 takes seconds
    :param arguments: arguments of PPO that differ from SB3's defaults
    :param normalize: whether observations and rewards are normalised by SB3's ``VecNormalize``
    :param as_users_run_it: SB3's environments keep the render mode that its ``make_vec_env`` sets, EduPPO's have none; else
        nobody's have one
    """

    title: str
    env_id: str
    n_envs: int
    rollouts: int
    arguments: dict[str, Any] = field(default_factory=dict)
    normalize: bool = False
    as_users_run_it: bool = False

    @property
    def n_steps(self) -> int:
        """Steps of each environment in a rollout."""
        return int(self.arguments.get("n_steps", 2048))

    @property
    def steps(self) -> int:
        """Environment steps of the training."""
        return self.rollouts * self.n_steps * self.n_envs


_LUNAR_LANDER = {"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01}

# The zoo's settings are those of rl_zoo3 2.9.2, hyperparams/ppo.yml, but for the number of steps; Pendulum's are without gSDE.
CASES = {
    "cartpole-defaults": Case("CartPole-v1, SB3's defaults", "CartPole-v1", 1, 3),
    "cartpole-zoo": Case(
        "CartPole-v1, the zoo's settings",
        "CartPole-v1",
        8,
        40,
        {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": "lin_0.001",
            "clip_range": "lin_0.2",
        },
    ),
    "pendulum-zoo": Case(
        "Pendulum-v1, the zoo's settings without gSDE",
        "Pendulum-v1",
        4,
        2,
        {
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
        },
    ),
    "lunarlander-zoo": Case("LunarLander-v3, the zoo's settings", "LunarLander-v3", 16, 2, _LUNAR_LANDER),
    "lunarlander-users": Case(
        "LunarLander-v3, the zoo's settings, as users run it", "LunarLander-v3", 16, 2, _LUNAR_LANDER, as_users_run_it=True
    ),
    "lunarlander-continuous-zoo": Case(
        "LunarLanderContinuous-v3, the zoo's settings", "LunarLanderContinuous-v3", 16, 2, _LUNAR_LANDER
    ),
    "bipedalwalker-zoo": Case(
        "BipedalWalker-v3, the zoo's settings",
        "BipedalWalker-v3",
        32,
        1,
        {
            "n_steps": 2048,
            "batch_size": 64,
            "gae_lambda": 0.95,
            "gamma": 0.999,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 3e-4,
            "clip_range": 0.18,
        },
        normalize=True,
    ),
}

QUICK_CASES = ("cartpole-zoo", "pendulum-zoo")
QUICK_TRANSITIONS = 2048


def quick_version(case: Case) -> Case:
    """
    Shorten a training to about :data:`QUICK_TRANSITIONS` transitions.

    :param case: the training
    :return: one that takes about a second; its numbers are no result
    """
    n_steps = min(case.n_steps, QUICK_TRANSITIONS // case.n_envs)
    rollouts = max(QUICK_TRANSITIONS // (n_steps * case.n_envs), 1)
    return replace(case, rollouts=rollouts, arguments={**case.arguments, "n_steps": n_steps})


@dataclass(frozen=True)
class Algorithm:
    """
    An implementation of PPO.

    :param title: what it is called in tables
    :param engine: EduPPO's engine; None for other implementations
    :param in_process: the environments are in our ``InProcessVecEnv``, as EduPPO's users have them; else in ``DummyVecEnv``
    """

    title: str
    engine: str | None = None
    in_process: bool = False


REFERENCE = "sb3"
ALGORITHMS = {
    REFERENCE: Algorithm("SB3's PPO"),
    "autograd": Algorithm("EduPPO, autograd", "autograd", in_process=True),
    "fused": Algorithm("EduPPO, fused", "fused", in_process=True),
    "fused-dummy": Algorithm("EduPPO, fused, in SB3's DummyVecEnv", "fused"),
    "sbx": Algorithm("SBX's PPO (JAX)"),
}


class Grid(NamedTuple):
    """
    Sizes at which single updates and single steps of acting are measured.

    :param widths: units of each hidden layer
    :param depths: hidden layers of each tower
    :param batch_sizes: rows of a minibatch
    :param n_envs: environments that are acted in at once
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    n_envs: tuple[int, ...]


FULL_GRID = Grid((32, 64, 128, 256, 512, 1024), (1, 2, 3), (32, 64, 256, 1024, 4096, 8192), (1, 4, 16, 64))
QUICK_GRID = Grid((64, 256), (2,), (64, 1024), (1, 16))


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """
    Begin a round with another name each time, so that no place in the order is one name's own.

    :param names: what takes turns
    :param turn: index of the round
    :return: the names, the first ``turn`` of them (modulo their number) behind the others
    """
    start = turn % len(names)
    return [*names[start:], *names[:start]]
