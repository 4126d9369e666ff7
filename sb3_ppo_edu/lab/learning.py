"""The learning experiments: the runs they are made of, and what counts as reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sb3_ppo_edu.lab.algorithms import ALGORITHMS, RANDOM
from sb3_ppo_edu.lab.runs import Run

OURS, REFERENCE_ENGINE, THEIRS = "eduppo", "eduppo-autograd", "ppo"
"""What is compared, run by run with the same seed: EduPPO, its engine that has SB3's bits, and SB3's PPO."""


class Task(NamedTuple):
    """
    An environment to learn.

    :param env: Gymnasium id
    :param steps: steps as SB3 counts them
    :param target: mean return of the final policy that counts as reached
    :param margin: difference of mean returns that does not matter
    :param settings: whose settings EduPPO and SB3's PPO have: "own", "shared" or "zoo"
    :param times: so many times the suite's number of seeds
    """

    env: str
    steps: int
    target: float
    margin: float
    settings: str = "own"
    times: int = 1


LECTURE = (
    Task("CartPole-v1", 100_000, 450.0, 50.0),
    Task("Pendulum-v1", 200_000, -200.0, 20.0),
    Task("LunarLander-v3", 166_656, 200.0, 20.0, "shared"),
    Task("BipedalWalker-v3", 2_000_000, 300.0, 30.0),
    Task("HalfCheetah-v5", 2_000_000, 2000.0, 200.0),
)
"""The lecture's benchmark: its environments in their present versions, its numbers of steps and its targets. The margin is a
tenth of the target, or rather of 500 on CartPole. On LunarLander an action is held for three steps: 166,656 decisions are half
a million steps. The zoo's settings, made for a million, fall short of the target there in two of five seeds."""

LANDER = (
    Task("LunarLander-v3", 12_288, 200.0, 20.0),
    Task("LunarLanderContinuous-v3", 12_288, 200.0, 20.0),
)
"""The activity's claim: to land after 50,000 steps of the environment, which are these numbers of decisions."""

FIRST_LANDER_SEED = 4000
"""Their seeds begin here, which was written down before the first of them was run. ``benchmarks/lunarlander`` has chosen the
settings on others."""

PEERS = (
    Task("CartPole-v1", 50_000, 450.0, 50.0, "zoo"),
    Task("Pendulum-v1", 50_000, -200.0, 20.0, "zoo"),
    Task("LunarLander-v3", 100_000, 200.0, 20.0, "zoo"),
)
"""The lecture's comparison with other algorithms, with budgets that those can be run with."""

PARITY = (
    Task("CartPole-v1", 99_840, 450.0, 50.0),
    Task("Pendulum-v1", 98_304, -200.0, 20.0),
    Task("LunarLander-v3", 16_640, 200.0, 50.0, "shared", times=4),
)
"""The comparison of both engines with SB3's PPO. LunarLander's margin is wider than elsewhere, and its seeds are more: after
these few steps single runs differ by that much."""

QUICK = (Task("CartPole-v1", 51_200, 450.0, 50.0), Task("Pendulum-v1", 20_480, -200.0, 200.0))
"""Small enough for a first look. After so few steps runs differ much from seed to seed, hence the wide margins."""


def lecture_runs(seeds: Sequence[int]) -> list[Run]:
    """
    List EduPPO, SB3's PPO and random actions on the lecture's environments.

    :param seeds: of the runs
    :return: the runs
    """
    return [
        Run(algorithm, task.env, seed, task.steps, settings=task.settings)
        for task in LECTURE
        for seed in seeds
        for algorithm in (OURS, THEIRS, RANDOM)
    ]


def lander_runs(seeds: Sequence[int]) -> list[Run]:
    """
    List EduPPO's short trainings on LunarLander, beside random actions, which are held as long.

    :param seeds: counted from :data:`FIRST_LANDER_SEED`
    :return: the runs; random actions have five seeds at most
    """
    return [
        Run(algorithm, task.env, FIRST_LANDER_SEED + seed, task.steps, settings="own", evaluations=10)
        for algorithm, chosen in ((OURS, seeds), (RANDOM, seeds[:5]))
        for task in LANDER
        for seed in chosen
    ]


def peer_runs(seeds: Sequence[int]) -> list[Run]:
    """
    List every algorithm on every environment that it can act in, with the zoo's settings.

    :param seeds: of the runs
    :return: the runs
    """
    actions = {"CartPole-v1": "Discrete", "Pendulum-v1": "Box", "LunarLander-v3": "Discrete"}
    return [
        Run(algorithm, task.env, seed, task.steps)
        for task in PEERS
        for seed in seeds
        for algorithm, known in ALGORITHMS.items()
        if actions[task.env] in known.actions and algorithm != "eduppo-autograd"
    ]


def parity_runs(tasks: Sequence[Task]) -> Callable[[Sequence[int]], list[Run]]:
    """
    Compare both engines of EduPPO with SB3's PPO.

    :param tasks: environments
    :return: a function from seeds to runs
    """

    def runs(seeds: Sequence[int]) -> list[Run]:
        return [
            Run(algorithm, task.env, seed, task.steps, settings=task.settings, evaluations=5, final_episodes=50)
            for task in tasks
            for seed in range(len(seeds) * task.times)
            for algorithm in (OURS, REFERENCE_ENGINE, THEIRS)
        ]

    return runs
