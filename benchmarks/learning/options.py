"""What options come to that are off by default: each where it should help and where it should not, five seeds each.

``python benchmarks/learning/options.py`` trains ``EduPPO`` with and without each option, all else the same, for about 50,000
steps of CartPole and 98,304 of Pendulum, with the settings of ``hyperparams/eduppo.yml`` but for what a task says. This is
what was expected before anything had run:

- ``shared_net_arch=[64]`` instead of a first layer of 64 units for each network. Helps on CartPole whose four numbers are
  hidden among 60 of noise: both networks have to find the same four. Not on Pendulum, whose returns are in the hundreds: in
  shared layers the value function's gradient drowns the policy's.
- ``layer_norm=True``. Helps on CartPole in a unit a hundred times smaller, whose numbers are so large that tanh is flat. Not
  on CartPole as it is.
- ``critic_keys=["state"]``. Helps on Pendulum where the actor's numbers are noisy and the critic has them exactly as well. Not
  where the actor has them exactly, too.
- ``vf_lambda=1.0``. Helps on CartPole where only falling is told, with -1, and ``gae_lambda=0.8``: targets see the fall at
  once. Harms where rewards are noisy, with as small a ``gae_lambda``.
- ``vf_n_steps=5``. Helps where rewards are noisy and ``gae_lambda=0.98``: targets of few rewards have little noise. Harms
  where only falling is told: the fall gets to earlier states in steps of five.
- ``KLPenaltyObjective``, in place of clipping and beside it. Beside it, helps on CartPole with a constant learning rate ten
  times as high: clipping only takes a gradient away, the penalty pulls back. Not with the rate that the settings have; in
  place of clipping it is no better there, as in the PPO paper.
- ``learning_rate="warmup_0.1_…"``. Helps with the rate ten times as high, whose first updates know no value function. Not with
  the settings' own.

What decides is the mean return of all training episodes, which says how soon something is learned (the final policy of
CartPole is often at 500 either way); that of the final policy on 100 deterministic episodes stands beside it. Both are in the
environment's own reward, which noise and "only falling is told" do not change. No setting was tuned for this. The seeds are 0
to 4. One row for each run is kept in ``options.csv`` beside this file (what is there is not trained again); ``options.md``
says what they come to. ``--report-only`` trains nothing; ``--seeds``, ``--steps`` and ``--rows`` are for a quick look, not for
that file.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.rows import append_rows, read_rows
from sb3_ppo_edu.lab.speed.rows import conditions
from sb3_ppo_edu.lab.statistics.comparisons import equivalence
from sb3_ppo_edu.training.evaluation import evaluate
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters

ROWS = Path(__file__).with_suffix(".csv")
SEEDS = range(5)
EPISODES = 100
EVALUATION_SEED = 1_000_000
ALL = 1_000_000
"""Training episodes that are kept, which is all of them."""
PLAIN = "without"


@dataclass(frozen=True)
class Row:
    """
    What one run came to.

    :param task: key of :data:`TASKS`
    :param option: key of :data:`OPTIONS`, or "without"
    :param seed: of the run
    :param steps: environment steps
    :param training_mean: mean return of all training episodes, in the environment's own reward
    :param mean: mean return of the final policy, with its most likely actions
    :param std: standard deviation over the episodes
    :param seconds: wall-clock time of training and play; no measurement, since the machine may have had other things to do
    """

    task: str
    option: str
    seed: int
    steps: int
    training_mean: float
    mean: float
    std: float
    seconds: float


class ChangedObservation(gym.ObservationWrapper):
    """
    Put noise around the observation, into it or beside it, or change its unit.

    :param env: the environment
    :param unit: what the numbers are multiplied by
    :param beside: how many numbers of noise, with deviation 1, come before it
    :param noise: deviation of what is added to each number, as a share of its bound
    :param exact: whether the observation is a Dict that has the exact numbers as "state" beside the others, "obs"
    :param told: whether those are there; without them the Dict has "obs" alone
    """

    def __init__(
        self, env: gym.Env, unit: float = 1.0, beside: int = 0, noise: float = 0.0, exact: bool = False, told: bool = True
    ) -> None:
        super().__init__(env)
        self.unit, self.beside, self.exact, self.told = unit, beside, exact, told
        space: Any = env.observation_space
        self.deviation = noise * space.high if noise else np.zeros(space.shape)
        free = spaces.Box(-np.inf, np.inf, (beside + space.shape[0],), np.float32)
        self.observation_space = spaces.Dict({"obs": free, **({"state": space} if told else {})}) if exact else free

    def observation(self, observation: Any) -> Any:
        """Change one; the noise comes from the environment's own generator, so that its seed fixes it."""
        draw = self.env.unwrapped.np_random.normal
        changed = observation * self.unit + (draw(size=observation.shape) * self.deviation if self.deviation.any() else 0.0)
        if self.beside:
            changed = np.concatenate([draw(size=self.beside), changed])
        found = changed.astype(np.float32)
        return {"obs": found, **({"state": observation} if self.told else {})} if self.exact else found


class ChangedReward(gym.Wrapper):
    """
    Put noise into the reward, or tell nothing but the fall.

    :param env: the environment
    :param noise: deviation of what is added to each reward
    :param fall_only: reward -1 where the episode terminates, else 0
    """

    def __init__(self, env: gym.Env, noise: float = 0.0, fall_only: bool = False) -> None:
        super().__init__(env)
        self.noise, self.fall_only = noise, fall_only

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, with the changed reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = -float(terminated) if self.fall_only else reward
        noise = self.noise * self.env.unwrapped.np_random.normal() if self.noise else 0.0
        return observation, float(reward) + noise, terminated, truncated, info


@dataclass(frozen=True)
class Task:
    """
    Something to learn.

    :param env: environment id
    :param options: of :data:`OPTIONS` that are tried, each with what was expected: 1 helps, 0 makes no difference, -1 harms
    :param settings: of the algorithm that differ from the environment's
    :param observation: arguments of :class:`ChangedObservation`
    :param reward: arguments of :class:`ChangedReward`
    """

    env: str
    options: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)
    observation: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=dict)


SHARED, NORM, CRITIC, LAMBDA, N_STEPS = "shared layers", "LayerNorm", "critic's state", "vf_lambda=1", "vf_n_steps=5"
PENALTY, BOTH, WARMUP = "KL penalty for clipping", "KL penalty and clipping", "warm-up"
OPTIONS: dict[str, dict[str, Any]] = {
    SHARED: {"shared_net_arch": [64], "policy_kwargs": {"net_arch": [64]}},
    NORM: {"layer_norm": True},
    CRITIC: {"critic_keys": ["state"]},
    LAMBDA: {"vf_lambda": 1.0},
    N_STEPS: {"vf_n_steps": 5},
    PENALTY: {"objective": {"sb3_ppo_edu.functional.kl.KLPenaltyObjective": {"d_targ": 0.01}}},
    BOTH: {"objective": {"sb3_ppo_edu.functional.kl.KLPenaltyObjective": {"d_targ": 0.01, "clip": True}}},
    WARMUP: {},
}
"""Arguments of each; a warm-up goes before the task's own learning rate."""

CART, PENDULUM = "CartPole-v1", "Pendulum-v1"
STEPS = {CART: 49_920, PENDULUM: 98_304}
FALL, NOISE = {"fall_only": True}, {"noise": 5.0}
HIGH = {"learning_rate": 0.01}
EXACT = {"exact": True}
NOISY = {**EXACT, "noise": 0.2}
DICT = {"policy": "MultiInputPolicy"}

TASKS = {
    "CartPole": Task(CART, {NORM: 0, PENALTY: 0, BOTH: 0, WARMUP: 0}),
    "CartPole, rate 0.01": Task(CART, {PENALTY: 0, BOTH: 1, WARMUP: 1}, HIGH),
    "CartPole among noise": Task(CART, {SHARED: 1}, observation={"beside": 60}),
    "CartPole, numbers × 100": Task(CART, {NORM: 1}, observation={"unit": 100.0}),
    "CartPole, only falls, λ = 0.8": Task(CART, {LAMBDA: 1}, {"gae_lambda": 0.8}, reward=FALL),
    "CartPole, only falls, λ = 0.98": Task(CART, {N_STEPS: -1}, {"gae_lambda": 0.98}, reward=FALL),
    "CartPole, noisy rewards, λ = 0.8": Task(CART, {LAMBDA: -1}, {"gae_lambda": 0.8}, reward=NOISE),
    "CartPole, noisy rewards, λ = 0.98": Task(CART, {N_STEPS: 1}, {"gae_lambda": 0.98}, reward=NOISE),
    "Pendulum": Task(PENDULUM, {SHARED: -1}),
    "Pendulum, noisy for the actor": Task(PENDULUM, {CRITIC: 1}, DICT, NOISY),
    "Pendulum, exact for both": Task(PENDULUM, {CRITIC: 0}, DICT, EXACT),
}
WORDS = {1: "helps", 0: "no difference", -1: "harms"}


def warmed_up(rate: float | str) -> str:
    """Put a warm-up over the first tenth of the training before a rate."""
    return f"warmup_0.1_{rate}"


def run_one(name: str, option: str, seed: int, steps: int | None = None) -> Row:
    """
    Train once and judge the final policy.

    :param name: key of :data:`TASKS`
    :param option: key of :data:`OPTIONS`, or "without"
    :param seed: of the run
    :param steps: of the training; None for :data:`STEPS`
    """
    task, start = TASKS[name], time.perf_counter()
    arguments = {**load_hyperparameters(task.env), **task.settings, **OPTIONS.get(option, {})}
    arguments.pop("n_timesteps")
    n_envs = arguments.pop("n_envs")
    if arguments.pop("normalize") or arguments.pop("env_wrapper", None):
        raise ValueError(f"{task.env}: found normalize or env_wrapper in its settings, expected none")
    if option == WARMUP:
        arguments["learning_rate"] = warmed_up(arguments["learning_rate"])
    here = Path(__file__).stem
    told = {} if option == CRITIC or not task.observation.get("exact") else {"told": False}
    wrapper = [
        {f"{here}.{kind.__name__}": given}
        for kind, given in ((ChangedObservation, {**task.observation, **told}), (ChangedReward, task.reward))
        if given
    ]
    settings = EnvironmentSettings(task.env, wrapper=wrapper or None)
    env = make_training_env(settings, n_envs, seed=100 * seed)
    model = EduPPO(env=env, seed=seed, device="cpu", stats_window_size=ALL, **arguments)
    model.learn(STEPS[task.env] if steps is None else steps)
    returns = evaluate(model, make_evaluation_env(settings, 10, EVALUATION_SEED), EPISODES).returns
    learned = [float(episode["r"]) for episode in model.ep_info_buffer or ()]
    training_mean, mean, std = (round(float(one), 3) for one in (np.mean(learned), np.mean(returns), np.std(returns)))
    seconds = round(time.perf_counter() - start, 1)
    return Row(name, option, seed, model.num_timesteps, training_mean, mean, std, seconds)


def comparisons() -> Iterator[tuple[str, str, int]]:
    """Option, task and what was expected, an option's helpful task first."""
    for option in OPTIONS:
        found = [(name, task.options[option]) for name, task in TASKS.items() if option in task.options]
        yield from ((option, name, expected) for name, expected in sorted(found, key=lambda one: -one[1]))


def report(rows: list[Row]) -> str:
    """
    Compare and describe.

    :param rows: all rows
    :return: Markdown
    """
    lines, of_seeds = [], []
    for option, name, expected in comparisons():
        with_it, without = (
            sorted((row for row in rows if (row.task, row.option) == (name, kind)), key=lambda row: row.seed)
            for kind in (option, PLAIN)
        )
        if min(len(with_it), len(without)) < 2:
            lines.append(f"| {option} | {name} | {WORDS[expected]} | | | | not trained yet |")
            continue
        cells = []
        for what in ("training_mean", "mean"):
            one, other = (np.array([getattr(row, what) for row in found]) for found in (with_it, without))
            # The margin decides nothing here: only the difference and its interval are shown.
            effect = equivalence(one, other, margin=1.0)
            cells.append(
                f"{other.mean():.1f} → {one.mean():.1f}: {effect.difference:+.1f} [{effect.low:.1f}, {effect.high:.1f}]"
            )
            if what == "training_mean":
                seen = int(effect.low > 0) - int(effect.high < 0)
        seeds = f"{len(with_it)}, {len(without)}"
        lines.append(f"| {option} | {name} | {WORDS[expected]} | {seeds} | {' | '.join(cells)} | {WORDS[seen]} |")
        for kind, found in ((PLAIN, without), (option, with_it)):
            values = (f"{row.training_mean:.4g} / {row.mean:.4g}" for row in found)
            of_seeds.append(f"| {name} | {kind} | {', '.join(values)} |")
    settings = []
    for name, task in TASKS.items():
        changes = [f"`{one}`" for one in (task.settings, task.observation, task.reward) if one]
        settings.append(f"- {name}: {task.env}, {', '.join(changes) or 'as it is'}")
    options = "\n".join(
        f"- {name}: `{given or 'warmup_0.1_ before the learning rate of the task'}`" for name, given in OPTIONS.items()
    )
    now = conditions("full")
    return f"""# What options come to, where they should help and where they should not

Mean return without → with the option, over seeds, and the difference with its 90% interval (Welch). What decides is the mean
of all training episodes, which says how soon something is learned: "helps" and "harms" where its interval leaves 0 out. What
was expected stands, with the reasons, in [options.py](options.py), and was written before anything had run. With five seeds an
effect that is not seen may still be there: the interval says how large it could be. Of {len(lines)} comparisons one or two
leave 0 out by chance. Rows: [options.csv](options.csv).

| option | task | expected | seeds with, without | all training episodes | final policy, {EPISODES} episodes | seen |
|---|---|---|---|---|---|---|
{chr(10).join(lines)}

Seed by seed, all training episodes / final policy:

| task | option | mean returns |
|---|---|---|
{chr(10).join(dict.fromkeys(of_seeds))}

Options:

{options}

Tasks; all other settings are those of `hyperparams/eduppo.yml`, with {STEPS[CART]:,} steps of CartPole and
{STEPS[PENDULUM]:,} of Pendulum:

{chr(10).join(settings)}

Made by `python benchmarks/learning/options.py` with one thread on {now.machine}; {now.versions}.
"""


def main() -> None:
    """Train what is missing, and write the report after each task of a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    parser.add_argument("--steps", type=int, help="of each training, for a quick look")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where rows are kept")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    given = parser.parse_args()
    th.set_num_threads(1)
    rows, page = read_rows(given.rows, Row), given.rows.with_suffix(".md")
    for seed in () if given.report_only else given.seeds:
        for name, task in TASKS.items():
            for option in (PLAIN, *task.options):
                if any((row.task, row.option, row.seed) == (name, option, seed) for row in rows):
                    continue
                rows.append(run_one(name, option, seed, given.steps))
                append_rows(given.rows, rows[-1:])
                print(rows[-1], flush=True)
            page.write_text(report(rows), encoding="utf-8")
    page.write_text(report(rows), encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    main()
