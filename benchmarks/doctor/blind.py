"""
The doctor on faults that were thought of without it: train each, let it read the log, and put what it names beside what it is.

    python benchmarks/doctor/blind.py --shard 0/2 & python benchmarks/doctor/blind.py --shard 1/2
    python benchmarks/doctor/blind.py --report

Faults and healthy trainings are those of ``blind_faults.py``, whose author has not seen the doctor's symptoms or limits; no
limit is chosen by looking at these. Each is trained with a plain CSV logger, :class:`TrainingDoctor` beside it and an
evaluation now and then, and diagnosed from ``progress.csv`` alone: no model and no settings lie beside it. A wrapper goes
around the environment's monitor, as ``make_vec_env(wrapper_class=…)`` has it, in training and in evaluation; of the family
*evaluation* in training only. A row is written at once, what is interrupted goes on where it stopped, and each shard
has a file of its own.

How the rows are judged, written down before any of them was there. The judge is not who wrote the doctor. For each row the
judge reads ``what`` beside the texts of the first three findings, and writes into ``blind-judged.csv`` the columns ``name``,
``first`` and ``three``: 1 where the first finding, or one of the first three, is right, else 0.

1. A finding is right if its title or its evidence names what was planted, as a whole or in part: the setting with the
   direction in which it is wrong, the thing in the environment that was changed and how, or the step of the algorithm that was
   broken. Of alternatives in a title it counts if what was planted is one of them and the evidence does not speak for another.
2. A consequence is not right, however true: a return that does not rise, a value function that does not learn, a large KL.
3. Another cause with the same remedy is not right.
4. If building or training refuses the fault with a message that names it, this counts as the first finding.
5. A fault that did no harm and was not named is missed all the same.
6. A healthy training is a false alarm if its verdict is "ill", whatever was named.
7. Where two people would disagree it is not right.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.findings import Finding
from sb3_ppo_edu.doctor.record import RecordError, read_record
from sb3_ppo_edu.doctor.symptoms import BY_NAME, RETURN
from sb3_ppo_edu.lab.statistics.aggregates import wilson
from sb3_ppo_edu.vec_env import InProcessVecEnv

HERE = Path(__file__).resolve().parent

BASES: Mapping[str, dict[str, Any]] = {
    "CartPole-v1": {"n_envs": 4, "n_steps": 256, "batch_size": 64, "n_epochs": 10, "learning_rate": 5e-4, "gamma": 0.99},
    "Pendulum-v1": {"n_envs": 4, "n_steps": 512, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.9},
    "Acrobot-v1": {"n_envs": 8, "n_steps": 256, "batch_size": 64, "n_epochs": 5, "learning_rate": 7e-4, "gamma": 0.99},
    "MountainCarContinuous-v0": {
        "n_envs": 8, "n_steps": 256, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4, "gamma": 0.99,
        "use_sde": True, "sde_sample_freq": 16, "policy_kwargs": {"log_std_init": -1.0},
    },
}  # fmt: skip
"""What a fault changes: settings that learn their task."""

EVALUATIONS, EPISODES = 8, 3

LONGEST = 2000
"""Steps after which an evaluation's episode is cut off, whatever a fault has done to its end."""

PLACES = ("first", "second", "third")

COLUMNS = (
    "name", "family", "base", "kind", "what", "verdict", *PLACES, *(f"{place}_text" for place in PLACES),
    "return_at_first", "return_at_last", "seconds", "broken",
)  # fmt: skip


class EndsAtLast(gym.Wrapper):
    """
    End each episode of an evaluation, and say what its monitor has seen of it.

    :param env: the environment with whatever is around its monitor
    :param monitor: its monitor
    """

    def __init__(self, env: gym.Env, monitor: Monitor) -> None:
        super().__init__(env)
        self.monitor, self.steps = monitor, 0

    def reset(self, **arguments: Any) -> Any:
        """Begin to count."""
        self.steps = 0
        return self.env.reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and cut off what does not end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        truncated = truncated or self.steps >= LONGEST
        if (terminated or truncated) and "episode" not in info:
            info["episode"] = {"r": sum(self.monitor.rewards), "l": self.steps, "t": 0.0}
        return observation, reward, terminated, truncated, info


def make_envs(fault: Any, n_envs: int, seed: int, evaluation: bool = False) -> InProcessVecEnv:
    """
    Build the environments of a fault.

    :param fault: as ``blind_faults.py`` has them
    :param n_envs: how many
    :param seed: of the first one
    :param evaluation: whether they are to be evaluated on
    """

    def make() -> gym.Env:
        """Build one of them."""
        monitor = Monitor(gym.make(fault.base))
        monitor.action_space.seed(seed)
        wrapped = fault.wrapper is not None and not (evaluation and fault.family == "evaluation")
        env = fault.wrapper(monitor) if wrapped else monitor
        return EndsAtLast(env, monitor) if evaluation else env

    env = InProcessVecEnv([make] * n_envs)
    env.seed(seed)
    return env


def train(fault: Any, folder: Path, seed: int) -> str:
    """
    Train with a fault, and leave the log.

    :param folder: where it goes
    :param seed: of the training
    :return: what ended the training before its time, or nothing
    """
    settings = {**BASES[fault.base], **fault.settings}
    n_envs = settings.pop("n_envs")
    evaluation = EvalCallback(
        make_envs(fault, EPISODES, seed + 1000, evaluation=True),
        n_eval_episodes=EPISODES,
        eval_freq=max(fault.steps // EVALUATIONS // n_envs, 1),
        deterministic=False,  # as it trains: so what differs is what it is evaluated on
        verbose=0,
        warn=False,
    )
    try:
        model = EduPPO("MlpPolicy", make_envs(fault, n_envs, seed), seed=seed, device="cpu", **settings)
        if fault.model_hook is not None:
            fault.model_hook(model)
        model.set_logger(configure(str(folder), ["csv"]))
        model.learn(fault.steps, callback=[TrainingDoctor(page=None, verbose=0), evaluation])
        model.logger.close()
    except Exception as error:  # a training that breaks down leaves what it had logged until then
        return f"{type(error).__name__}: {error}"[:500]
    return ""


def told(finding: Finding) -> str:
    """Write a finding as the judge reads it: what is wrong, and what it rests on."""
    return f"{BY_NAME[finding.name].title}: {'; '.join(f'{one.key}: {one.text}' for one in finding.evidence)}"


def run_fault(fault: Any, kind: str, keep: Path | None, seed: int) -> dict[str, Any]:
    """
    Train with a fault and diagnose it from its log.

    :param kind: "fault" or "healthy"
    :param keep: where logs are kept, or None
    :param seed: of the training
    :return: a row
    """
    began = time.perf_counter()
    row: dict[str, Any] = {"name": fault.name, "family": fault.family, "base": fault.base, "kind": kind, "what": fault.what}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep / fault.name
        row["broken"] = train(fault, folder, seed)
        try:
            diagnosis = diagnose(read_record(folder / "progress.csv"))
        except RecordError as error:
            return row | {"verdict": "no record", "first_text": row["broken"] or str(error)}
    for place, finding in zip(PLACES, diagnosis.findings, strict=False):
        row |= {place: finding.name, f"{place}_text": told(finding)}
    returns = diagnosis.record.values(RETURN)
    if len(returns):
        row |= {"return_at_first": f"{returns[0]:.1f}", "return_at_last": f"{returns[-1]:.1f}"}
    return row | {"verdict": diagnosis.verdict, "seconds": f"{time.perf_counter() - began:.0f}"}


def read_rows(folder: Path, pattern: str) -> list[dict[str, str]]:
    """Read the rows of all shards."""
    rows: list[dict[str, str]] = []
    for path in sorted(folder.glob(pattern)):
        with path.open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return rows


def report(rows: Sequence[Mapping[str, str]], judged: Mapping[str, Mapping[str, str]]) -> str:
    """
    Write the shares, and every fault with what was named.

    :param rows: of all faults
    :param judged: what the judge said of each, by name
    :return: Markdown
    """
    faults, healthy = ([row for row in rows if row["kind"] == kind] for kind in ("fault", "healthy"))
    known = [row for row in faults if row["name"] in judged]
    lines = [
        "# Faults that were thought of without the doctor",
        "",
        f"{len(faults)} faults and {len(healthy)} healthy trainings, of `blind_faults.py`; in brackets 95 % intervals "
        "(Wilson). How they are judged stands in `blind.py`.",
        "",
        "| | cases | share | |",
        "|---|---:|---:|---|",
    ]
    families = [("all faults", known)]
    families += [(name, [row for row in known if row["family"] == name]) for name in sorted({row["family"] for row in known})]
    for name, group in families:
        for place, words in {"first": "named first", "three": "among the first three"}.items():
            lines.append(share(f"{name}: {words}", [judged[row["name"]][place] == "1" for row in group]))
    lines.append(share("healthy and declared ill", [row["verdict"] == "ill" for row in healthy]))
    lines += ["", "| planted | on | named first | second | third | right | among three |", "|---|---|---|---|---|---:|---:|"]
    for row in faults:
        verdict = judged.get(row["name"], {})
        names = [row[place] or "nothing" if place == "first" else row[place] for place in PLACES]
        cells = [row["what"], row["base"], *names, verdict.get("first", ""), verdict.get("three", "")]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "| healthy training | on | verdict | named |", "|---|---|---|---|"]
    lines += [f"| {row['what']} | {row['base']} | {row['verdict']} | {row['first']} |" for row in healthy]
    return "\n".join(lines) + "\n"


def share(what: str, hits: Sequence[bool]) -> str:
    """Write one line of the table."""
    if not hits:
        return f"| {what} | – | – | |"
    part, low, high = wilson(sum(hits), len(hits))
    return f"| {what} | {sum(hits)} of {len(hits)} | {part:.0%} | [{low:.0%}, {high:.0%}] |"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what has no row yet, or write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--faults", default="blind_faults", metavar="MODULE", help="with FAULTS and HEALTHY")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every Nth case from the Ith on (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of every training (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the logs here")
    parser.add_argument("--folder", type=Path, default=HERE, metavar="DIR", help="where rows and report are")
    parser.add_argument("--report", action="store_true", help="train nothing, and write blind.md")
    arguments = parser.parse_args(argv)
    if arguments.report:
        judged = {row["name"]: row for row in read_rows(arguments.folder, "blind-judged.csv")}
        rows = read_rows(arguments.folder, "blind-[0-9]*.csv")
        (arguments.folder / "blind.md").write_text(report(rows, judged), encoding="utf-8")
        return
    sys.path.insert(0, str(HERE))
    module = importlib.import_module(arguments.faults)
    place, count = map(int, arguments.shard.split("/"))
    cases = [*((one, "fault") for one in module.FAULTS), *((one, "healthy") for one in module.HEALTHY)]
    th.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / f"blind-{place}-of-{count}.csv"
    done = {row["name"] for row in read_rows(arguments.folder, "blind-[0-9]*.csv")}
    for fault, kind in cases[place::count]:
        if fault.name in done or (arguments.only and fault.name not in arguments.only):
            continue
        row = run_fault(fault, kind, arguments.keep, arguments.seed)
        new = not path.is_file()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(f"{fault.name}: {row['verdict']} {row.get('first', '')} {row.get('seconds', '')}", flush=True)


if __name__ == "__main__":
    main()
