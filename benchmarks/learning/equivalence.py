"""Do both engines learn equally well? Ten seeds each on CartPole-v1 and LunarLander-v3, and two one-sided tests.

``python benchmarks/learning/equivalence.py`` trains with the zoo's settings, judges each final policy on 100 deterministic
episodes, keeps one row for each run in ``equivalence.csv`` beside this file (what is there is not trained again), and writes
``equivalence.md``. ``--report-only`` trains nothing.

The margin is 10% of the return that counts as solved: 50 of CartPole's 500, 20 of LunarLander's 200. Engines are equivalent
where the 90% interval of the difference of their means lies within it (Schuirmann's two one-sided tests at 5%, Welch's
degrees of freedom).
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

# Read when numpy is imported: on small matrices several threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ppo_edu.lab.rows import append_rows, read_rows
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES
from sb3_ppo_edu.lab.speed.rows import conditions
from sb3_ppo_edu.lab.speed.runs import make_env, make_model
from sb3_ppo_edu.lab.statistics.comparisons import equivalence

ROWS = Path(__file__).with_suffix(".csv")
SEEDS = range(10)
EPISODES = 100
EVALUATION_SEED = 1_000_000
ENGINES = ("autograd", "fused")


@dataclass(frozen=True)
class Experiment:
    """
    An environment to learn.

    :param case: its settings, a key of the speed experiment's cases
    :param steps: environment steps
    :param margin: difference of the mean return that does not matter
    """

    case: str
    steps: int
    margin: float


EXPERIMENTS = {
    "CartPole-v1": Experiment("cartpole-zoo", 99_840, 50.0),
    "LunarLander-v3": Experiment("lunarlander-zoo", 1_015_808, 20.0),
}


@dataclass(frozen=True)
class Row:
    """
    What one run came to.

    :param env: environment id
    :param engine: "autograd" or "fused"
    :param seed: of the run
    :param steps: environment steps
    :param mean: mean return of the final policy
    :param std: standard deviation over its episodes
    :param seconds: wall-clock time of the training
    """

    env: str
    engine: str
    seed: int
    steps: int
    mean: float
    std: float
    seconds: float


def run_one(env_id: str, engine: str, seed: int) -> Row:
    """
    Train once and judge the final policy.

    :param env_id: key of :data:`EXPERIMENTS`
    :param engine: EduPPO's engine
    :param seed: of the run
    :return: the row
    """
    experiment = EXPERIMENTS[env_id]
    case, algorithm = CASES[experiment.case], ALGORITHMS[engine]
    model = make_model(case, algorithm, seed)
    start = time.perf_counter()
    model.learn(experiment.steps)
    seconds = time.perf_counter() - start
    env = make_env(case, algorithm, EVALUATION_SEED)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=EPISODES, return_episode_rewards=True)
    mean, std = round(float(np.mean(returns)), 2), round(float(np.std(returns)), 2)
    return Row(env_id, engine, seed, model.num_timesteps, mean, std, round(seconds, 1))


def report(rows: list[Row]) -> str:
    """
    Test and describe.

    :param rows: all rows
    :return: Markdown
    """
    lines = []
    for env_id, experiment in EXPERIMENTS.items():
        means = [np.array([row.mean for row in rows if (row.env, row.engine) == (env_id, engine)]) for engine in ENGINES]
        if min(len(found) for found in means) < 2:
            continue
        test = equivalence(means[1], means[0], margin=experiment.margin)
        verdict = "equivalent" if test.equivalent else "not shown"
        cells = [f"{found.mean():.1f} ± {found.std(ddof=1):.1f} ({len(found)} seeds)" for found in means]
        difference = f"{test.difference:.1f} [{test.low:.1f}, {test.high:.1f}]"
        steps = max(row.steps for row in rows if row.env == env_id)
        lines.append(f"| {env_id} | {steps:,} | {' | '.join(cells)} | {difference} | ±{experiment.margin:g} | {verdict} |")
    now = conditions("full")
    return f"""# Both engines learn equally well

Return of the final policy, deterministic, over {EPISODES} episodes: mean ± standard deviation over the seeds. The
difference is fused minus autograd with its 90% interval; two one-sided tests at 5% call the engines equivalent where it
lies within the margin.
SB3's PPO ends with the autograd engine's bits. Rows: [equivalence.csv](equivalence.csv).

| environment | steps | autograd | fused | difference | margin | verdict |
|---|---:|---|---|---|---|---|
{chr(10).join(lines)}

Made by `python benchmarks/learning/equivalence.py` with one thread on {now.machine}; {now.versions}.
"""


def main() -> None:
    """Train what is missing, and write the report after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    given = parser.parse_args()
    rows = read_rows(ROWS, Row)
    if not given.report_only:
        for env_id in given.envs:
            for seed in SEEDS:
                for engine in ENGINES:
                    if all((row.env, row.engine, row.seed) != (env_id, engine, seed) for row in rows):
                        rows.append(run_one(env_id, engine, seed))
                        append_rows(ROWS, rows[-1:])
                        print(rows[-1], flush=True)
    ROWS.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    main()
