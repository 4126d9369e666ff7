"""The lecture's sensitivity study: which settings are varied, and the runs it is made of.

Two designs. *One at a time*: each factor goes through its levels while the others stay at SB3's defaults. *Jointly*: a
scrambled Sobol sequence fills the box of the ranges that the lecture names, so that what a factor does in company of the
others is seen too; each of its points is one run with a seed of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sb3_ppo_edu.lab.algorithms import RANDOM
from sb3_ppo_edu.lab.learning import OURS, Task
from sb3_ppo_edu.lab.runs import Run, with_overrides
from sb3_ppo_edu.serialization.extras import need


class Factor(NamedTuple):
    """
    A setting that is varied.

    :param name: its name: an argument of ``EduPPO``, or "rollout", the transitions of a rollout
    :param title: what it is called in tables and plots
    :param levels: values tried one at a time, in order
    :param default: SB3's
    :param low: lower end of the range that the joint design fills, and the ranking is over
    :param high: its upper end
    :param scale: how the joint design spreads over the range: "linear", "log", "power" (powers of two), "whole" (log, rounded)
    """

    name: str
    title: str
    levels: tuple[float, ...]
    default: float
    low: float
    high: float
    scale: str

    @property
    def within(self) -> tuple[float, ...]:
        """Levels inside the range."""
        return tuple(level for level in self.levels if self.low <= level <= self.high)


LECTURE_ORDER = ("learning_rate", "clip_range", "rollout")
"""The lecture's ranking, most sensitive first. What it calls batch size is ``num_envs × num_steps``: the rollout."""

FACTORS = (
    Factor("learning_rate", "learning rate", (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1), 3e-4, 1e-5, 1e-3, "log"),
    Factor("clip_range", "clip range", (0.05, 0.1, 0.2, 0.3, 0.4), 0.2, 0.1, 0.3, "linear"),
    Factor("rollout", "rollout (the lecture's batch size)", (512, 1024, 2048, 4096, 8192), 2048, 512, 8192, "power"),
    Factor("batch_size", "minibatch", (32, 64, 128, 256, 512), 64, 32, 512, "power"),
    Factor("n_epochs", "epochs", (1, 3, 10, 20, 30), 10, 3, 30, "whole"),
    Factor("ent_coef", "entropy coefficient", (0.0, 0.001, 0.01, 0.03, 0.1), 0.0, 0.0, 0.03, "linear"),
    Factor("gae_lambda", "λ of GAE", (0.0, 0.8, 0.9, 0.95, 0.98, 1.0), 0.95, 0.8, 1.0, "linear"),
    Factor("n_envs", "environments (same rollout)", (1, 4, 8, 16), 1, 1, 16, "power"),
)
"""The first three ranges are the lecture's; it names none for the others."""

TASKS = (Task("CartPole-v1", 50_000, 450.0, 50.0), Task("LunarLander-v3", 100_000, 200.0, 50.0))
QUICK_TASKS = (Task("CartPole-v1", 8_192, 450.0, 50.0),)

COLLAPSE = 0.1
"""The learning rate of the lecture's demonstration of a policy that collapses."""

JOINT = "joint"
"""How the variants of the joint design begin."""


def settings_of(point: Mapping[str, float]) -> dict[str, Any]:
    """
    Turn values of factors into settings.

    :param point: value by factor; those that are missing have SB3's defaults
    :return: overrides of the defaults; a rollout is spread over the environments
    """
    full = {factor.name: factor.default for factor in FACTORS} | dict(point)
    n_envs = int(full.pop("n_envs"))
    rollout = int(full.pop("rollout"))
    whole = {name: int(full.pop(name)) for name in ("batch_size", "n_epochs")}
    return {**full, **whole, "n_envs": n_envs, "n_steps": rollout // n_envs}


def point_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """
    Turn settings into values of factors: the inverse of :func:`settings_of`.

    :param settings: overrides
    :return: value by factor
    """
    values = dict(settings) | {"rollout": settings["n_steps"] * settings["n_envs"]}
    return {factor.name: float(values[factor.name]) for factor in FACTORS}


def variant_of(factor: Factor, level: float) -> str:
    """
    Name a run of the design that varies one factor at a time.

    :param factor: the factor
    :param level: its value
    :return: the name, empty for the defaults, which all factors share
    """
    return "" if level == factor.default else f"{factor.name}={level:g}"


def joint_points(count: int) -> list[dict[str, float]]:
    """
    Fill the box of the ranges evenly; the same points at every call.

    :param count: number of points, best a power of two
    :return: value by factor
    """
    sample = need("scipy.stats.qmc", "lab", "the sensitivity study").Sobol(len(FACTORS), rng=0).random(count)
    return [
        {factor.name: at_quantile(factor, float(share)) for factor, share in zip(FACTORS, row, strict=True)} for row in sample
    ]


def at_quantile(factor: Factor, share: float) -> float:
    """
    Find the value at a share of a factor's range.

    :param factor: the factor
    :param share: in [0, 1)
    :return: the value
    """
    low, high = factor.low, factor.high
    if factor.scale == "linear":
        return round(low + share * (high - low), 4)
    if factor.scale == "power":
        first, last = round(math.log2(low)), round(math.log2(high))
        return float(2 ** (first + int(share * (last - first + 1))))
    value = low * (high / low) ** share
    return float(round(value)) if factor.scale == "whole" else float(f"{value:.3g}")


def sensitivity_runs(tasks: Sequence[Task], seeds: Sequence[int], joint: int) -> list[Run]:
    """
    List the study's runs, the cheap answers first: one factor at a time, then all together.

    :param tasks: environments
    :param seeds: of the runs with one factor varied
    :param joint: number of points of the joint design
    :return: the runs
    """
    found = []
    for task in tasks:
        plain = [plain_run(OURS, task, seed) for seed in seeds]
        found.append(plain_run(RANDOM, task, 0))
        variants = {
            variant_of(factor, level): settings_of({factor.name: level}) for factor in FACTORS for level in factor.levels
        }
        found += [with_overrides(run, name, settings) for name, settings in variants.items() for run in plain]
    for index, point in enumerate(joint_points(joint)):
        for task in tasks:
            found.append(with_overrides(plain_run(OURS, task, index), JOINT, settings_of(point)))
    return found


def plain_run(algorithm: str, task: Task, seed: int) -> Run:
    """
    Name a run of the study before its settings are varied.

    :param algorithm: key of the algorithm
    :param task: the environment
    :param seed: of the run
    :return: the run, which spends little on evaluations
    """
    return Run(algorithm, task.env, seed, task.steps, settings="defaults", evaluations=5, eval_episodes=5, final_episodes=30)


def settings_in(overrides: str) -> dict[str, float]:
    """
    Read the factors' values of a run.

    :param overrides: as the run and its row have them
    :return: value by factor
    """
    return point_of(json.loads(overrides))
