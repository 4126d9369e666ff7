"""The learning experiments: the runs they are made of, and what counts as reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from sb3_ppo_edu.lab.algorithms import RANDOM, held, load_settings
from sb3_ppo_edu.lab.published import best_published
from sb3_ppo_edu.lab.runs import Run

OURS, REFERENCE_ENGINE, THEIRS = "eduppo", "eduppo-autograd", "ppo"
"""What is compared, run by run with the same seed: EduPPO, its engine that has SB3's bits, and SB3's PPO."""


class Entry(NamedTuple):
    """
    Who takes part in a task.

    :param algorithm: key of :data:`sb3_ppo_edu.lab.algorithms.ALGORITHMS`
    :param settings: whose settings it has
    :param seeds: how many of the suite's seeds it has; None for all
    :param steps: environment steps, if other than the task's
    """

    algorithm: str
    settings: str = "own"
    seeds: int | None = None
    steps: int | None = None


class Task(NamedTuple):
    """
    An environment to learn.

    :param env: Gymnasium id
    :param steps: environment steps, which a run does not exceed where its settings say how long a rollout is
    :param target: mean return of the final policy that counts as reached
    :param margin: difference of mean returns that does not matter; None for one standard deviation of SB3's runs (of the
        autograd engine's, where that is compared): what another seed makes
    :param entries: who takes part
    """

    env: str
    steps: int
    target: float
    margin: float | None
    entries: tuple[Entry, ...] = ()


def entries(settings: str, *algorithms: str, seeds: int | None = None) -> tuple[Entry, ...]:
    """
    Let several algorithms take part with the same settings.

    :param settings: whose
    :param algorithms: their keys
    :param seeds: how many seeds at most
    :return: entries
    """
    return tuple(Entry(algorithm, settings, seeds) for algorithm in algorithms)


OWN, SHARED = (entries(settings, OURS, THEIRS, RANDOM) for settings in ("own", "shared"))

LECTURE = (
    Task("CartPole-v1", 100_000, 450.0, 50.0, OWN),
    Task("Pendulum-v1", 200_000, -200.0, 20.0, OWN),
    Task("LunarLander-v3", 500_000, 200.0, 20.0, SHARED),
    Task("BipedalWalker-v3", 2_000_000, 300.0, 30.0, OWN),
    Task("HalfCheetah-v5", 2_000_000, 2000.0, 200.0, SHARED),
)
"""The lecture's benchmark: its environments in their present versions, its numbers of steps and its targets. The margin is a
tenth of the target, or rather of 500 on CartPole. The zoo's settings for LunarLander, made for a million steps, fall short of
the target in two of five seeds."""

LANDER_WRAPPERS = ("none", "repeat", "both")
"""LunarLander's variants: the plain environment, with ``ActionRepeat``, and with ``LanderSymmetry`` as well. The settings of
each are in a file of their own, ``lander-none.yml`` and so on, which ``benchmarks/lunarlander/search.py`` writes."""

LANDER = tuple(
    Task(
        env,
        50_000,
        200.0,
        20.0,
        (
            Entry(OURS, "own"),
            *(Entry(OURS, f"lander-{wrappers}") for wrappers in LANDER_WRAPPERS),
            Entry(RANDOM, "lander-none", seeds=5),
        ),
    )
    for env in ("LunarLander-v3", "LunarLanderContinuous-v3")
)
"""The activity's claim, to land after 50,000 steps of the environment, with each trick and without: the settings that ship,
and those that a search of equal effort has found for each variant."""

FIRST_LANDER_SEED = 5000
"""Their seeds begin here, which was written down before the first of them was run. ``benchmarks/lunarlander`` has chosen the
settings on others, and an earlier edition of the page has used up 4000 to 4019."""

MUJOCO = tuple(
    Task(env, 1_000_000, best_published(env), None, (Entry(OURS, "own"), Entry(THEIRS, "zoo", seeds=3), Entry(RANDOM, "own")))
    for env in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
)
"""The targets are the best of the published figures, of older versions of the environments."""

MINATAR = tuple(
    Task(f"MinAtar/{game}-v1", 1_000_000, target, None, OWN)
    for game, target in (("Breakout", 5.0), ("SpaceInvaders", 28.0), ("Asterix", 5.0))
)
"""Images: three games of 10 × 10 pixels, a channel for each kind of thing. The targets are some ten times what random actions
come to."""

ATARI = (
    Task("ale_py:BreakoutNoFrameskip-v4", 1_600_000, 5.0, None, (Entry(OURS, "own", seeds=1), Entry(RANDOM, "own", seeds=1))),
)
"""A sign of life of the ``atari`` settings, which are made for forty million of the game's own steps: it starts, and learns
something."""

ON_POLICY = entries("zoo", OURS, THEIRS, "reinforce", "trpo")

PEERS = (
    Task(
        "CartPole-v1",
        100_000,
        450.0,
        50.0,
        (*ON_POLICY, Entry("a2c", "zoo", steps=500_000), Entry("dqn", "zoo", steps=50_000), Entry(RANDOM, "zoo")),
    ),
    Task(
        "Pendulum-v1",
        100_000,
        -200.0,
        20.0,
        (
            *ON_POLICY,
            Entry("a2c", "zoo", steps=1_000_000),
            *(Entry(name, "zoo", steps=20_000) for name in ("sac", "td3")),
            Entry(OURS, "own"),
            Entry(RANDOM, "zoo"),
        ),
    ),
    Task(
        "LunarLander-v3",
        500_000,
        200.0,
        20.0,
        (*ON_POLICY, *entries("zoo", "a2c", "dqn"), Entry(OURS, "own", steps=50_000), Entry(RANDOM, "zoo")),
    ),
    Task(
        "LunarLanderContinuous-v3",
        500_000,
        200.0,
        20.0,
        (
            *entries("zoo", OURS, THEIRS),
            Entry("sac", "zoo", seeds=3),
            Entry("td3", "zoo", seeds=3, steps=300_000),
            Entry(OURS, "own", steps=50_000),
            Entry(RANDOM, "zoo"),
        ),
    ),
)
"""The lecture's comparison with other algorithms: each with the zoo's settings for it, for as many steps as these are made
for, but on LunarLander, where most of them have half a million; and EduPPO with this package's settings."""

BOTH_ENGINES = OURS, REFERENCE_ENGINE

PARITY = (
    Task("CartPole-v1", 100_000, 450.0, 50.0, entries("own", *BOTH_ENGINES, THEIRS, seeds=5)),
    Task("Pendulum-v1", 100_000, -200.0, 20.0, (*entries("own", *BOTH_ENGINES, seeds=64), Entry(THEIRS, "own", seeds=5))),
    Task("LunarLander-v3", 50_000, 200.0, 20.0, (*entries("shared", *BOTH_ENGINES), Entry(THEIRS, "shared", seeds=5))),
    Task(
        "HalfCheetah-v5",
        200_000,
        2000.0,
        None,
        (*entries("shared", *BOTH_ENGINES, seeds=20), Entry(THEIRS, "shared", seeds=2)),
    ),
)
"""Both engines with the same seeds, as many as it takes to tell whether they learn equally well, and SB3's PPO with the first
of these seeds, whose bits the autograd engine ends with. The margins were chosen before the runs: a tenth of what counts as
solved, and on HalfCheetah-v5, of whose spread after 200,000 steps nothing was known, one standard deviation over the seeds."""

FIRST_PARITY_SEED = 7000
"""Its seeds begin here. An earlier edition of the page has used up 0 to 19."""

QUICK = (
    Task("CartPole-v1", 51_200, 450.0, 50.0, entries("own", OURS, REFERENCE_ENGINE, THEIRS)),
    Task("Pendulum-v1", 20_480, -200.0, 200.0, entries("own", OURS, REFERENCE_ENGINE, THEIRS)),
)
"""Small enough for a first look. After so few steps runs differ much from seed to seed, hence the wide margins."""


def runs_of(tasks: Sequence[Task], first_seed: int = 0, **evaluated: Any) -> Callable[[Sequence[int]], list[Run]]:
    """
    List the runs of tasks: all entries with one seed, then with the next.

    :param tasks: the tasks
    :param first_seed: seeds are counted from it
    :param evaluated: how often and how long the runs are evaluated, as :class:`Run` has it
    :return: a function from seeds to runs
    """

    def runs(seeds: Sequence[int]) -> list[Run]:
        return [
            Run(
                entry.algorithm,
                task.env,
                first_seed + seed,
                decisions(entry, task.env, task.steps),
                entry.settings,
                **evaluated,
            )
            for task in tasks
            for seed in seeds
            for entry in task.entries
            if entry.seeds is None or seed < entry.seeds
        ]

    return runs


@cache
def decisions(entry: Entry, env: str, steps: int) -> int:
    """
    Count the decisions that an algorithm has: whole rollouts of them, within a number of environment steps.

    :param entry: who takes part
    :param env: Gymnasium id
    :param steps: environment steps, which the entry's own number replaces
    :return: steps as SB3 counts them
    """
    found = load_settings(entry.algorithm, entry.settings, env, {})
    number = (entry.steps or steps) // held(entry.algorithm, entry.settings, env)
    rollout = int(found.get("n_steps", 1)) * int(found.get("n_envs", 1))
    return number // rollout * rollout or number
