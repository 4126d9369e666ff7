"""
The lecture's tuning order as a procedure: start with defaults, then change one setting at a time.

The learning rate comes first, then the clip range and the rollout, then what is left for fine-tuning. Each stage trains the
present settings and the neighbours of one of them, on the same seeds. A neighbour replaces the present value only if it is
better by more than the noise; where the best value is the last one tried, the stage goes further in that direction. At the
end the tuned settings and those of the start are compared on seeds that no stage has used: what was chosen for being good
on some seeds looks better on those than it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_ppo_edu.algorithms.arguments import CHECKS, ArgumentError
from sb3_ppo_edu.functional.schedules import beginning_at, read
from sb3_ppo_edu.lab.algorithms import check_actions, load_settings
from sb3_ppo_edu.lab.learning import OURS
from sb3_ppo_edu.lab.runs import Run, RunRow, with_overrides
from sb3_ppo_edu.lab.statistics.aggregates import Interval
from sb3_ppo_edu.lab.statistics.comparisons import paired_difference

FRESH = 1000
"""Seeds from here on are kept for the comparison at the end."""

FURTHER = 2
"""How often a stage may go beyond the values it began with."""


class Stage(NamedTuple):
    """
    A setting to tune.

    :param name: argument of EduPPO
    :param title: what it is called
    :param neighbours: from the present value to those that are tried beside it
    :param why: what too much and too little of it do
    """

    name: str
    title: str
    neighbours: Callable[[float], tuple[float, ...]]
    why: str


def times(factor: float) -> Callable[[float], tuple[float, ...]]:
    """
    Try a value divided and multiplied by a factor.

    :param factor: > 1
    :return: from a value to its neighbours
    """
    return lambda value: (value / factor, value * factor)


def whole_times(factor: int) -> Callable[[float], tuple[float, ...]]:
    """
    Try a count divided and multiplied by a factor, and no count below one.

    :param factor: > 1
    :return: from a count to its neighbours
    """
    return lambda value: tuple(sorted({max(int(value) // factor, 1), int(value) * factor} - {int(value)}))


def entropy_neighbours(value: float) -> tuple[float, ...]:
    """
    Try an entropy coefficient on either side; 0 has the lecture's 0.01 beside it.

    :param value: the coefficient
    :return: its neighbours
    """
    return (0.01,) if value == 0.0 else (0.0, value / 3, value * 3)


def lambda_neighbours(value: float) -> tuple[float, ...]:
    """
    Try 1 − λ halved and doubled.

    :param value: λ
    :return: its neighbours inside (0, 1)
    """
    rest = max(1.0 - value, 0.01)
    return tuple(one for one in (1.0 - 2.0 * rest, 1.0 - rest / 2.0) if 0.0 < one < 1.0)


STAGES = (
    Stage("learning_rate", "learning rate", times(3.0), "too high is unstable, too low is slow"),
    Stage("clip_range", "clip range", times(1.5), "too low is slow, too high is unstable"),
    Stage("n_steps", "rollout (steps of each environment)", whole_times(2), "longer is steadier, shorter reacts sooner"),
    Stage("ent_coef", "entropy coefficient", entropy_neighbours, "more keeps exploring, less settles earlier"),
    Stage("n_epochs", "epochs", whole_times(2), "more uses the data better, and moves the policy further from it"),
    Stage("batch_size", "minibatch", whole_times(2), "smaller means more and noisier steps"),
    Stage("gae_lambda", "λ of GAE", lambda_neighbours, "higher is less biased, lower is less noisy"),
    Stage("vf_coef", "value coefficient", times(2.0), "weighs the critic against the actor"),
)
"""The lecture's order: learning rate, clip range, rollout, then fine-tuning."""


class Candidate(NamedTuple):
    """
    A value that was tried.

    :param value: of the setting
    :param mean: mean final return over the seeds
    :param error: its standard error
    :param failures: seeds that ended in an error, which count as the worst return of the stage
    """

    value: float
    mean: float
    error: float
    failures: int


@dataclass(frozen=True)
class Decision:
    """
    What one stage came to.

    :param stage: the setting
    :param present: its value before
    :param chosen: its value after
    :param candidates: all that was tried, in ascending order
    """

    stage: Stage
    present: float
    chosen: float
    candidates: list[Candidate]


class Tuning:
    """
    A procedure that asks for runs and decides.

    :param env: Gymnasium id
    :param steps: environment steps of each run
    :param seeds: how many seeds each value is tried with, ≥ 2
    :param settings: where to begin: "defaults", "own" or "zoo"
    :param stages: what to tune, in order
    :raises ValueError: if there are no such settings, or one of them is no number to begin with
    """

    def __init__(
        self, env: str, steps: int, seeds: int = 3, settings: str = "defaults", stages: Sequence[Stage] = STAGES
    ) -> None:
        if seeds < 2:
            raise ValueError(f"seeds={seeds}: expected at least 2; with one seed, luck and a better setting look the same")
        self.env, self.steps, self.seeds, self.settings, self.stages = env, steps, seeds, settings, stages
        check_actions(OURS, env)
        self.given = load_settings(OURS, settings, env, {})
        self.start = {name: number_in(name, self.given.get(name, default)) for name, default in DEFAULTS.items()}
        self.changed: dict[str, float] = {}
        """Settings that differ from those of the start, so far."""
        self.decisions: list[Decision] = []
        rollout = self.start["n_steps"] * self.given.get("n_envs", 1)
        if steps < rollout:
            raise ValueError(f"steps={steps}: expected at least one rollout of {rollout:g} steps")

    @property
    def present(self) -> dict[str, float]:
        """The settings as they are now."""
        return {**self.start, **self.changed}

    def runs_of(self, overrides: Mapping[str, float], seeds: Sequence[int]) -> list[Run]:
        """
        List the runs of some settings.

        :param overrides: what differs from the start
        :param seeds: of the runs
        :return: one run for each seed
        """
        variant = ",".join(f"{name}={value:g}" for name, value in sorted(overrides.items()))
        plain = [
            Run(OURS, self.env, seed, self.steps, settings=self.settings, evaluations=5, final_episodes=30) for seed in seeds
        ]
        return [with_overrides(run, variant, self.written(overrides)) for run in plain] if overrides else plain

    def written(self, values: Mapping[str, float]) -> dict[str, Any]:
        """
        Write values as the settings do: a schedule there stays one, and begins with the value.

        :param values: by name of the setting
        :return: the same, as the zoo writes them
        """
        texts = {name: given for name, given in self.given.items() if isinstance(given, str)}
        return {name: beginning_at(texts[name], value) if name in texts else value for name, value in values.items()}

    def with_value(self, stage: Stage, value: float) -> dict[str, float]:
        """
        Change one setting of the present ones.

        :param stage: the setting
        :param value: its value
        :return: what differs from the start
        """
        changed = {**self.changed, stage.name: value}
        return {name: one for name, one in changed.items() if one != self.start[name]}

    def procedure(self) -> Generator[list[Run], Mapping[Run, RunRow | None], None]:
        """
        Go through the stages.

        :return: a generator that gives the runs needed next, and is sent the rows of those, None where a run failed
        """
        for stage in self.stages:
            present = self.present[stage.name]
            tried: dict[float, list[float | None]] = {}
            queue = [present, *self.possible(stage, present)]
            for _ in range(1 + FURTHER):
                asked = {value: self.runs_of(self.with_value(stage, value), range(self.seeds)) for value in queue}
                rows = yield [run for runs in asked.values() for run in runs]
                for value, runs in asked.items():
                    tried[value] = [None if (row := rows[run]) is None else row.final_mean for run in runs]
                candidates = summarise_candidates(tried)
                best = max(candidates, key=lambda one: one.mean).value
                at_the_edge = best in (candidates[0].value, candidates[-1].value)
                queue = [one for one in self.possible(stage, best) if one not in tried] if at_the_edge else []
                if not queue:
                    break
            self.decisions.append(Decision(stage, present, choose(candidates, present), candidates))
            self.changed = self.with_value(stage, self.decisions[-1].chosen)

    def possible(self, stage: Stage, value: float) -> list[float]:
        """
        List the neighbours that EduPPO can train with.

        :param stage: the setting
        :param value: its value
        :return: its neighbours; no minibatch larger than the rollout, and no rollout larger than the run
        """
        found = []
        for neighbour in stage.neighbours(value):
            one = neighbour if isinstance(neighbour, int) else float(f"{neighbour:.3g}")
            trial = {**self.present, stage.name: one}
            if 2 <= trial["batch_size"] <= trial["n_steps"] * self.given.get("n_envs", 1) <= self.steps:
                with contextlib.suppress(ArgumentError):  # such as a rate that follows the KL, beyond its bounds
                    CHECKS[stage.name](stage.name, self.written({stage.name: one})[stage.name])
                    found.append(one)
        return found

    def block(self) -> dict[str, Any]:
        """
        Write the tuned settings as a block of the zoo's form, of plain values.

        :return: settings of the environment
        """
        found = {**self.given, "n_timesteps": self.steps, **self.written(self.changed)}
        if isinstance(found.get("normalize"), dict):
            found["normalize"].pop("gamma", None)  # it is the algorithm's, which whoever reads this puts there
        return {name: value for name, value in found.items() if name != "normalize" or value is not False}


DEFAULTS: dict[str, float] = {
    "learning_rate": 3e-4,
    "clip_range": 0.2,
    "n_steps": 2048,
    "ent_coef": 0.0,
    "n_epochs": 10,
    "batch_size": 64,
    "gae_lambda": 0.95,
    "vf_coef": 0.5,
}
"""EduPPO's, which are SB3's."""


def number_in(name: str, value: Any) -> float:
    """
    Read the number of a setting.

    :param name: of the setting
    :param value: a number, or a schedule's text
    :return: the number, or the one that the schedule begins with
    :raises ValueError: if it is anything else
    """
    expected = f"{name}={value!r}: expected a number, or a schedule such as 'lin_0.001', to begin tuning with"
    try:
        number = read(value).start if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{expected}{error}") from None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(expected)
    return number


def summarise_candidates(tried: Mapping[float, Sequence[float | None]]) -> list[Candidate]:
    """
    Sum up what was tried.

    :param tried: final returns by value, None for a run that failed
    :return: one for each value, in ascending order; a failed run counts as the worst return of all
    """
    done = [one for own in tried.values() for one in own if one is not None]
    worst = min(done, default=0.0)
    found = []
    for value, own in sorted(tried.items()):
        returns = np.array([worst if one is None else one for one in own])
        error = float(returns.std(ddof=1) / math.sqrt(len(returns))) if len(returns) > 1 else 0.0
        found.append(Candidate(value, float(returns.mean()), error, sum(one is None for one in own)))
    return found


def choose(candidates: Sequence[Candidate], present: float) -> float:
    r"""
    Choose a value: the best one, but the present one unless that is better by more than the noise.

    Better means by more than the standard error of the difference of two means,
    :math:`\sqrt{s_1^2 + s_2^2}`. A weaker rule would follow the luck of a few seeds; a stronger one would never move.

    :param candidates: what was tried, the present value among it
    :param present: the present value
    :return: the value to go on with
    """
    here = next(one for one in candidates if one.value == present)
    best = max(candidates, key=lambda one: one.mean)
    return best.value if best.mean - here.mean > math.hypot(best.error, here.error) else present


def judge_tuning(before: Sequence[float], after: Sequence[float]) -> Interval:
    """
    Compare the start with the end on fresh seeds.

    :param before: final returns of the settings at the start
    :param after: final returns of the tuned settings, with the same seeds
    :return: mean difference, after minus before, with its 95% interval
    """
    return paired_difference(after, before)
