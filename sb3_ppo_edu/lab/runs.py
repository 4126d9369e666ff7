"""One run of the laboratory: (algorithm, environment, settings, seed) in, rows out.

:func:`execute` is a function of the run alone. It may be called in any process on any machine, gives plain data, and leaves
no files behind: who calls it keeps the result.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.algorithms import RANDOM, build, check_actions, load_settings
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.evaluation import EVALUATION_SEED, MAX_EVALUATION_ENVS, Evaluation, RandomPolicy, evaluate
from sb3_ppo_edu.training.folder import EVALUATIONS_FILE
from sb3_ppo_edu.training.settings import settings_from_hyperparameters, versions


@dataclass(frozen=True)
class Run:
    """
    What to run. Two equal runs give equal rows, wall clock aside.

    :param algorithm: key of :data:`sb3_ppo_edu.lab.algorithms.ALGORITHMS`
    :param env: Gymnasium id
    :param seed: of weights, actions and environments
    :param steps: of training as SB3 counts them, which are decisions where a wrapper holds actions
    :param settings: "zoo", "defaults", or a key of :data:`sb3_ppo_edu.lab.algorithms.FILES`
    :param variant: name of the overrides, empty if there are none
    :param overrides: settings that replace those, as JSON with sorted keys
    :param evaluations: evaluations during training, evenly spaced
    :param eval_episodes: episodes of each
    :param final_episodes: episodes of the evaluation of the final policy
    """

    algorithm: str
    env: str
    seed: int
    steps: int
    settings: str = "zoo"
    variant: str = ""
    overrides: str = "{}"
    evaluations: int = 20
    eval_episodes: int = 10
    final_episodes: int = 100

    @property
    def name(self) -> str:
        """Name that no other run of a suite has, and path of its folder."""
        variant = "".join(letter if letter.isalnum() or letter in "=-.,+" else "_" for letter in self.variant)
        env = self.env.replace("/", "-").replace(":", "-")
        # The zoo's plots look for <algorithm>/<environment>_<number>, counted from 1.
        return f"{self.settings}{f'-{variant}' if variant else ''}/{self.algorithm}/{env}_{self.seed + 1}"


def with_overrides(run: Run, variant: str, overrides: Mapping[str, Any]) -> Run:
    """
    Give the same run with other settings.

    :param run: the run
    :param variant: what the settings are called
    :param overrides: settings that replace the run's
    :return: the run
    """
    merged = {**json.loads(run.overrides), **overrides}
    changed: Run = type(run)(**{**asdict(run), "variant": variant, "overrides": json.dumps(merged, sort_keys=True)})
    return changed


@dataclass(frozen=True)
class RunRow:
    """
    What one run came to: a row of ``runs.csv``.

    :param algorithm: of the run, as the next five
    :param env: Gymnasium id
    :param settings: whose settings
    :param variant: name of the overrides
    :param seed: of the run
    :param steps: steps that were trained, as the run counts them
    :param final_mean: mean return of the final policy, deterministic
    :param final_std: standard deviation over its episodes
    :param final_min: the worst of them
    :param final_episodes: their number
    :param fingerprint: of the final parameters' bits
    :param train_seconds: wall clock of training without the evaluations
    :param train_cpu_seconds: processor time of the same; nan in published rows from before it was measured
    :param cpu_seconds: processor time of the process, training and evaluations
    :param threads: torch threads
    :param overrides: settings that replaced others, as JSON
    :param machine: processor and system in words
    :param versions: of the libraries
    """

    algorithm: str
    env: str
    settings: str
    variant: str
    seed: int
    steps: int
    final_mean: float
    final_std: float
    final_min: float
    final_episodes: int
    fingerprint: str
    train_seconds: float
    train_cpu_seconds: float
    cpu_seconds: float
    threads: int
    overrides: str
    machine: str
    versions: str


@dataclass(frozen=True)
class CurveRow:
    """
    One evaluation during training: a row of ``curves.csv``.

    :param algorithm: of the run, as the next four
    :param env: Gymnasium id
    :param settings: whose settings
    :param variant: name of the overrides
    :param seed: of the run
    :param step: steps so far, as the run counts them
    :param mean: mean return
    :param std: standard deviation over the episodes
    :param episodes: their number
    """

    algorithm: str
    env: str
    settings: str
    variant: str
    seed: int
    step: int
    mean: float
    std: float
    episodes: int


@dataclass(frozen=True)
class Result:
    """
    All that a run leaves.

    :param row: its row of ``runs.csv``
    :param timesteps: environment steps of each evaluation, shape ``(n,)``
    :param results: returns, shape ``(n, eval_episodes)``
    :param ep_lengths: lengths, the same shape
    """

    row: RunRow
    timesteps: list[int] = field(default_factory=list)
    results: list[list[float]] = field(default_factory=list)
    ep_lengths: list[list[int]] = field(default_factory=list)

    def to_json(self) -> str:
        """
        Write it as text.

        :return: JSON
        """
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Result:
        """
        Read what :meth:`to_json` has written.

        :param text: JSON
        :return: the result
        :raises ValueError: if it is anything else
        """
        try:
            record = json.loads(text)
            return Result(RunRow(**record.pop("row")), **record)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no result of a run: {error}") from error

    def curve(self) -> list[CurveRow]:
        """
        Give its rows of ``curves.csv``.

        :return: one for each evaluation
        """
        row = self.row
        return [
            CurveRow(
                row.algorithm,
                row.env,
                row.settings,
                row.variant,
                row.seed,
                step,
                round(float(np.mean(returns)), 2),
                round(float(np.std(returns)), 2),
                len(returns),
            )
            for step, returns in zip(self.timesteps, self.results, strict=True)
        ]

    def save_evaluations(self, folder: Path) -> None:
        """
        Write ``evaluations.npz`` as ``EvalCallback`` does, where the zoo's plots look for it.

        :param folder: the run's folder
        """
        arrays = {
            "timesteps": np.array(self.timesteps),
            "results": np.array(self.results),
            "ep_lengths": np.array(self.ep_lengths),
        }
        # numpy's type takes the last of its own keywords, a bool, for the type of all arrays.
        np.savez(folder / EVALUATIONS_FILE, **arrays)  # type: ignore[arg-type]


class Clocks(NamedTuple):
    """
    Two readings, in seconds.

    :param wall: wall clock
    :param cpu: processor time of the process
    """

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clocks:
        """Read both."""
        return cls(time.perf_counter(), time.process_time())

    def plus(self, other: Clocks) -> Clocks:
        """Add both."""
        return Clocks(self.wall + other.wall, self.cpu + other.cpu)

    def minus(self, other: Clocks) -> Clocks:
        """Subtract both."""
        return Clocks(self.wall - other.wall, self.cpu - other.cpu)


class TimedEvalCallback(EvalCallback):
    """SB3's ``EvalCallback``, which also adds up how long it takes."""

    changes_policy = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spent = Clocks(0.0, 0.0)

    def _on_step(self) -> bool:
        start = Clocks.now()
        going_on = super()._on_step()
        self.spent = self.spent.plus(Clocks.now().minus(start))
        return going_on


def check(run: Run) -> None:
    """
    Refuse a run that cannot be, before anything is started.

    :param run: the run
    :raises ValueError: naming what is wrong
    """
    load_settings(run.algorithm, run.settings, run.env, json.loads(run.overrides))
    check_actions(run.algorithm, run.env)
    for name in ("steps", "evaluations", "eval_episodes", "final_episodes"):
        if getattr(run, name) < 1:
            raise ValueError(f"{name}={getattr(run, name)}: expected a positive integer")


def execute(run: Run) -> Result:
    """
    Train, judge, and measure.

    :param run: what to run
    :return: all that it leaves
    :raises ValueError: if the run cannot be
    """
    check(run)
    hyperparameters = load_settings(run.algorithm, run.settings, run.env, json.loads(run.overrides))
    settings = settings_from_hyperparameters(run.env, hyperparameters, steps=run.steps, seed=run.seed, device="cpu")
    cpu = time.process_time()
    if run.algorithm == RANDOM:
        return result_of(run, 0, judge_random(run, settings.environment), hashlib.sha256(), Clocks(0.0, 0.0), cpu, {})
    env = make_training_env(settings.environment, settings.n_envs, run.seed)
    model = build(run.algorithm, env, settings.policy, settings.algorithm, run.seed)
    with tempfile.TemporaryDirectory() as folder:
        frequency = max(run.steps // run.evaluations // settings.n_envs, 1)
        judge_env = make_evaluation_env(settings.environment, envs_for(run.eval_episodes), 2 * EVALUATION_SEED)
        callback = TimedEvalCallback(
            judge_env, n_eval_episodes=run.eval_episodes, eval_freq=frequency, log_path=folder, verbose=0
        )
        start = Clocks.now()
        model.learn(run.steps, callback=callback)
        training = Clocks.now().minus(start).minus(callback.spent)
        judge_env.close()
        file = Path(folder, EVALUATIONS_FILE)
        record = {name: array.tolist() for name, array in np.load(file).items()} if file.is_file() else {}
    final = judge(model, env, settings.environment, run.final_episodes)
    env.close()
    return result_of(run, model.num_timesteps, final, fingerprint(model), training, cpu, record)


def envs_for(episodes: int) -> int:
    """
    Choose how many environments play an evaluation's episodes.

    :param episodes: number of episodes
    :return: number of environments
    """
    return min(episodes, MAX_EVALUATION_ENVS)


def judge(model: BaseAlgorithm, trained_on: VecEnv, environment: EnvironmentSettings, episodes: int) -> Evaluation:
    """
    Evaluate a policy, deterministically, on episodes that training has not seen.

    :param model: the trained model
    :param trained_on: its environments, for the moments of normalised observations
    :param environment: how to build others like them
    :param episodes: number of episodes
    :return: the episodes
    """
    env = make_evaluation_env(environment, envs_for(episodes), EVALUATION_SEED)
    sync_envs_normalization(trained_on, env)
    try:
        return evaluate(model, env, episodes)
    finally:
        env.close()


def judge_random(run: Run, environment: EnvironmentSettings) -> Evaluation:
    """
    Evaluate random actions on the same episodes.

    :param run: the run; its seed is that of the actions
    :param environment: how to build the environments
    :return: the episodes
    """
    n_envs = envs_for(run.final_episodes)
    env = make_evaluation_env(environment, n_envs, EVALUATION_SEED)
    try:
        return evaluate(RandomPolicy(env.action_space, n_envs, run.seed), env, run.final_episodes)
    finally:
        env.close()


def fingerprint(model: BaseAlgorithm) -> Any:
    """
    Digest the bits of all parameters.

    :param model: the model
    :return: a hash object
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest


def result_of(
    run: Run, steps: int, final: Evaluation, digest: Any, training: Clocks, cpu: float, record: dict[str, Any]
) -> Result:
    """
    Put a result together.

    :param run: what was run
    :param steps: environment steps that were trained
    :param final: evaluation of the final policy
    :param digest: of its parameters
    :param training: what training took
    :param cpu: processor time at the start
    :param record: evaluations during training, as ``EvalCallback`` keeps them
    :return: the result
    """
    returns = np.array(final.returns)
    row = RunRow(
        run.algorithm,
        run.env,
        run.settings,
        run.variant,
        run.seed,
        steps,
        round(float(returns.mean()), 2),
        round(float(returns.std()), 2),
        round(float(returns.min()), 2),
        len(returns),
        digest.hexdigest()[:16],
        round(training.wall, 2),
        round(training.cpu, 2),
        round(time.process_time() - cpu, 2),
        th.get_num_threads(),
        run.overrides,
        machine(),
        ", ".join(f"{name} {number}" for name, number in versions().items()),
    )
    return Result(row, **record)
