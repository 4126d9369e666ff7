"""What the speed experiment measures: trainings, implementations of PPO, and a grid of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import nn


class Aims(NamedTuple):
    """
    What a training is to reach; None where nothing is asked.

    :param dummy: times as fast as SB3's PPO, both in ``DummyVecEnv``
    :param in_process: times as fast as SB3's PPO in ``DummyVecEnv``, in the vector environment that EduPPO's users have
    :param share: the floor's share of the time there, ≤ 1
    """

    dummy: float | None = None
    in_process: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Case:
    """
    A training.

    :param title: what it is called in tables
    :param env_id: Gymnasium id
    :param n_envs: environments stepped together
    :param rollouts: rollouts to train for: a few, so that SB3 takes seconds
    :param arguments: arguments of PPO that differ from SB3's defaults
    :param aims: what it is to reach
    :param normalize: whether observations and rewards are normalised, by SB3's ``VecNormalize`` and EduPPO's
    :param as_users_run_it: SB3's environments keep the render mode that its ``make_vec_env`` sets, EduPPO's have none; else
        nobody's have one
    :param native: EduPPO's environments are those that Gymnasium has in a vectorised form, but for ``DummyVecEnv``
    :param parts: observations come as a dictionary of two parts
    :param masks: with action masks, in which all is legal: MaskableEduPPO against sb3-contrib's MaskablePPO
    :param memory: the policy has LSTMs: RecurrentEduPPO against sb3-contrib's RecurrentPPO
    :param standard: one of the four trainings that all implementations take part in
    """

    title: str
    env_id: str
    n_envs: int
    rollouts: int
    arguments: dict[str, Any] = field(default_factory=dict)
    aims: Aims = field(default_factory=Aims)
    normalize: bool = False
    as_users_run_it: bool = False
    native: bool = False
    parts: bool = False
    masks: bool = False
    memory: bool = False
    standard: bool = False

    @property
    def n_steps(self) -> int:
        """Steps of each environment in a rollout."""
        return int(self.arguments.get("n_steps", 2048))

    @property
    def steps(self) -> int:
        """Environment steps of the training."""
        return self.rollouts * self.n_steps * self.n_envs

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return f"{'MultiInput' if self.parts else 'Mlp'}{'Lstm' if self.memory else ''}Policy"


_CARTPOLE = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": "lin_0.001",
    "clip_range": "lin_0.2",
}
_PENDULUM = {
    "n_steps": 1024,
    "gae_lambda": 0.95,
    "gamma": 0.9,
    "n_epochs": 10,
    "ent_coef": 0.0,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
}
_LUNAR_LANDER = {"n_steps": 1024, "batch_size": 64, "gae_lambda": 0.98, "gamma": 0.999, "n_epochs": 4, "ent_coef": 0.01}

# The zoo's settings are those of rl_zoo3 2.9.2, hyperparams/ppo.yml, but for the number of steps.
CASES = {
    "cartpole-defaults": Case("CartPole-v1, SB3's defaults", "CartPole-v1", 1, 3, aims=Aims(15, 20, 0.55), standard=True),
    "cartpole-zoo": Case(
        "CartPole-v1, the zoo's settings", "CartPole-v1", 8, 40, _CARTPOLE, Aims(7, 7.5, 0.65), standard=True
    ),
    "pendulum-zoo": Case(
        "Pendulum-v1, the zoo's settings without gSDE", "Pendulum-v1", 4, 2, _PENDULUM, Aims(11, 12, 0.7), standard=True
    ),
    "lunarlander-zoo": Case(
        "LunarLander-v3, the zoo's settings", "LunarLander-v3", 16, 2, _LUNAR_LANDER, Aims(4.1, 4.3, 0.9), standard=True
    ),
    "lunarlander-users": Case(
        "LunarLander-v3, the zoo's settings, as users run it",
        "LunarLander-v3",
        16,
        2,
        _LUNAR_LANDER,
        Aims(5.2),
        as_users_run_it=True,
    ),
    "lunarlander-normalized": Case(
        "LunarLander-v3, the zoo's settings and VecNormalize",
        "LunarLander-v3",
        16,
        2,
        _LUNAR_LANDER,
        Aims(3.9),
        normalize=True,
    ),
    "lunarlander-continuous-zoo": Case(
        "LunarLanderContinuous-v3, the zoo's settings", "LunarLanderContinuous-v3", 16, 2, _LUNAR_LANDER
    ),
    "acrobot-zoo": Case(
        "Acrobot-v1, the zoo's settings",
        "Acrobot-v1",
        16,
        4,
        {"n_steps": 256, "gae_lambda": 0.94, "gamma": 0.99, "n_epochs": 4, "ent_coef": 0.0},
        Aims(3.8),
        normalize=True,
    ),
    "cartpole-small": Case(
        "CartPole-v1, SB3's defaults but one layer of 16 and minibatches of 32",
        "CartPole-v1",
        1,
        2,
        {"batch_size": 32, "policy_kwargs": {"net_arch": [16]}},
        Aims(12),
    ),
    "cartpole-large": Case(
        "CartPole-v1, SB3's defaults but two layers of 512 and minibatches of 1,024",
        "CartPole-v1",
        1,
        3,
        {"batch_size": 1024, "policy_kwargs": {"net_arch": [512, 512]}},
        Aims(1.35),
    ),
    "cartpole-64": Case(
        "64 CartPole-v1 in Gymnasium's vectorised form, SB3's in DummyVecEnv",
        "CartPole-v1",
        64,
        8,
        {**_CARTPOLE, "n_epochs": 10},
        Aims(None, 12),
        native=True,
    ),
    "cartpole-dict": Case(
        "CartPole-v1, the zoo's settings, observations in a dictionary", "CartPole-v1", 8, 40, _CARTPOLE, parts=True
    ),
    "cartpole-masks": Case(
        "CartPole-v1 with masks, sb3-contrib's defaults and its MaskablePPO", "CartPole-v1", 1, 3, aims=Aims(10), masks=True
    ),
    "cartpole-masks-8": Case(
        "8 CartPole-v1 with masks, against sb3-contrib's MaskablePPO",
        "CartPole-v1",
        8,
        8,
        {"n_steps": 128, "batch_size": 128},
        Aims(6),
        masks=True,
    ),
    "cartpole-memory-128": Case(
        "8 CartPole-v1, LSTMs of 128 units, against sb3-contrib's RecurrentPPO",
        "CartPole-v1",
        8,
        6,
        {"n_steps": 128, "batch_size": 128, "policy_kwargs": {"lstm_hidden_size": 128}},
        Aims(10),
        memory=True,
    ),
    "cartpole-memory-256": Case(
        "8 CartPole-v1, LSTMs of 256 units, against sb3-contrib's RecurrentPPO",
        "CartPole-v1",
        8,
        4,
        {"n_steps": 128, "batch_size": 128, "policy_kwargs": {"lstm_hidden_size": 256}},
        Aims(8),
        memory=True,
    ),
    "pendulum-gsde": Case(
        "Pendulum-v1, the zoo's settings", "Pendulum-v1", 4, 2, {**_PENDULUM, "use_sde": True, "sde_sample_freq": 4}
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
    "humanoid-zoo": Case(
        "Humanoid-v5, the zoo's settings for Humanoid-v4",
        "Humanoid-v5",
        1,
        8,
        {
            "n_steps": 512,
            "batch_size": 256,
            "gamma": 0.95,
            "learning_rate": 3.56987e-05,
            "ent_coef": 0.00238306,
            "clip_range": 0.3,
            "n_epochs": 5,
            "gae_lambda": 0.9,
            "max_grad_norm": 2,
            "vf_coef": 0.431892,
            "policy_kwargs": {
                "log_std_init": -2,
                "ortho_init": False,
                "activation_fn": nn.ReLU,
                "net_arch": {"pi": [256, 256], "vf": [256, 256]},
            },
        },
        normalize=True,
    ),
}
STANDARD_CASES = tuple(name for name, case in CASES.items() if case.standard)

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
    :param cases: keys of the trainings in which it takes part unless it is asked for by name
    :param backend: who steps the environments instead: a name of :data:`~sb3_ppo_edu.envs.backends.ONE_BY_ONE`
    """

    title: str
    engine: str | None = None
    in_process: bool = False
    cases: tuple[str, ...] = STANDARD_CASES
    backend: str | None = None


REFERENCE = "sb3"
ALGORITHMS = {
    REFERENCE: Algorithm("SB3's PPO", cases=tuple(CASES)),
    "autograd": Algorithm(
        "EduPPO, autograd", "autograd", in_process=True, cases=(*STANDARD_CASES, "cartpole-dict", "pendulum-gsde")
    ),
    "numpy": Algorithm("EduPPO, numpy", "numpy", in_process=True),
    "fused-dummy": Algorithm("EduPPO, kernels, in SB3's DummyVecEnv", "fused", cases=tuple(CASES)),
    "fused": Algorithm("EduPPO, kernels", "fused", in_process=True, cases=tuple(CASES)),
    "fused-two-cores": Algorithm(
        "EduPPO, kernels, a second core",
        "fused",
        cases=("lunarlander-zoo", "bipedalwalker-zoo"),
        backend="workers",
    ),
    "sbx": Algorithm("SBX's PPO (JAX)"),
    "sbx-warm": Algorithm("SBX's PPO (JAX), compiled before"),
    "cleanrl": Algorithm("CleanRL's PPO"),
}
PEERS = ("sbx", "sbx-warm", "cleanrl")
"""Other implementations than SB3's, which have to be there: see :func:`~sb3_ppo_edu.lab.speed.peers.why_missing`."""


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
