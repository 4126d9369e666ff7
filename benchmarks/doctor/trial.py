"""
The doctor's blind trial: train planted cases, diagnose them from what they leave, and count how often the doctor is right.

    python benchmarks/doctor/trial.py --split trial --cases 3

Each case is trained here, its ``progress.csv`` and model are read as those of any run, and a row is written at once:
what is interrupted goes on where it stopped. ``--keep`` leaves the logs, so that ``--again`` can diagnose them anew without
training.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import stable_baselines3
import torch as th
from plant import ENVS, FAULTS, SPARSE_ENVS, SPLITS, Case, EndsAs, MixedObservations, ScaledReward, plant
from scores import confusion, summarize
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.doctor.callback import TrainingDoctor
from sb3_ppo_edu.doctor.diagnose import Diagnosis, diagnose
from sb3_ppo_edu.doctor.record import Record, read_record
from sb3_ppo_edu.doctor.symptoms import BY_NAME, RETURN
from sb3_ppo_edu.vec_env import InProcessVecEnv
from sb3_ppo_edu.version import __version__

HERE = Path(__file__).resolve().parent

ALGORITHMS: Mapping[str, type[EduPPO] | type[PPO]] = {"eduppo": EduPPO, "sb3": PPO}

OF_THE_ENVIRONMENT = (
    "n_envs", "normalize", "reward_factor", "observation_factors", "ends_as", "evaluation_factor", "evaluation_offset",
)  # fmt: skip
"""Settings that are no arguments of the algorithm."""

HEALTHY = 5
"""Cases of no fault for each one of a fault: false alarms are to be rare, and so need more."""

KEPT = re.compile(r"(?:eduppo|sb3)-[a-z0-9]+-(.+-v\d+)-(.+)-(\d+)")
"""Name of a folder that is kept: algorithm, split, environment, fault, number."""

SB3_KEYS = frozenset(
    f"train/{name}"
    for name in (
        "approx_kl", "clip_fraction", "clip_range", "clip_range_vf", "entropy_loss", "explained_variance", "learning_rate",
        "loss", "n_updates", "policy_gradient_loss", "value_loss", "std",
    )
)  # fmt: skip
"""What SB3's PPO logs of an update."""

COLUMNS = (
    "case", "split", "algorithm", "env", "fault", "number", "verdict", "first", "second", "third", "confidence",
    "final_return", "seconds", "changed", "remedied_return", "bare_verdict", "bare_first", "bare_second", "bare_third",
)  # fmt: skip
"""Of a row; what begins with "bare" is what the doctor says of the log alone, without the settings beside it."""

# --------------------------------------------------------------------------------------------------------------------------
# One case
# --------------------------------------------------------------------------------------------------------------------------


def wrap(env: gym.Env, settings: Mapping[str, Any]) -> gym.Env:
    """
    Put the wrappers of a case around an environment.

    :param env: the environment with its monitor
    """
    if "reward_factor" in settings:
        env = ScaledReward(env, settings["reward_factor"])
    if "observation_factors" in settings:
        env = MixedObservations(env, settings["observation_factors"], settings.get("observation_offset", 0.0))
    if "ends_as" in settings:
        env = EndsAs(env, settings["ends_as"])
    return env


def make_env(case: Case, n_envs: int | None = None, factor: float = 1.0, offset: float = 0.0) -> VecEnv:
    """
    Build the environments of a case.

    :param n_envs: how many, None for as many as it trains on
    :param factor: of all observations
    :param offset: added to all observations after that
    """
    settings = case.settings
    if factor != 1.0:
        factors = settings.get("observation_factors", (1.0,) * 8)
        scaled = tuple(factor * one for one in factors)
        settings = {**settings, "observation_factors": scaled, "observation_offset": offset}
    env: VecEnv = make_vec_env(
        case.env,
        n_envs or settings["n_envs"],
        seed=case.seed,
        wrapper_class=partial(wrap, settings=settings),
        env_kwargs={"render_mode": None},
        vec_env_cls=InProcessVecEnv,
    )
    return VecNormalize(env, gamma=case.settings.get("gamma", 0.99)) if case.settings.get("normalize") else env


def train(case: Case, algorithm: str, folder: Path) -> None:
    """
    Train a case, and leave log and model as any training does.

    :param algorithm: "eduppo" or "sb3"
    """
    arguments = {name: value for name, value in case.settings.items() if name not in OF_THE_ENVIRONMENT}
    size = arguments["n_steps"] * case.settings["n_envs"]
    arguments["batch_size"] = min(arguments["batch_size"], size)
    model = ALGORITHMS[algorithm]("MlpPolicy", make_env(case), seed=case.seed, device="cpu", **arguments)
    model.set_logger(configure(str(folder), ["csv"]))
    # EduPPO is watched as `sb3-edu train --doctor` does; SB3's PPO is left as people have it.
    callbacks: list[BaseCallback] = [TrainingDoctor(page=None, verbose=0)] if algorithm == "eduppo" else []
    if "evaluation_factor" in case.settings:
        callbacks.append(make_evaluation(case))
    # A training that breaks down leaves what it had logged until then, as it would on anyone's desk.
    with suppress(ValueError):
        model.learn(case.steps, callback=callbacks)
    model.logger.close()
    model.save(folder / "model.zip")


def make_evaluation(case: Case) -> EvalCallback:
    """
    Evaluate a case as it is trained, or on observations that are scaled and shifted, as stale statistics of them do.

    :return: the callback; ten evaluations of five episodes
    """
    env = make_env(case, 5, case.settings["evaluation_factor"], case.settings.get("evaluation_offset", 0.0))
    return EvalCallback(env, eval_freq=max(case.steps // 10 // case.settings["n_envs"], 1), verbose=0, warn=False)


def final_return(record: Record) -> float:
    """
    Give the return at the end of a training.

    :return: mean of the last tenth of its returns, NaN if there are none
    """
    values = record.values(RETURN, 0.9)
    return float(values.mean()) if len(values) else float("nan")


def row_of(case: Case, algorithm: str, diagnosis: Diagnosis) -> dict[str, Any]:
    """Sum up what the doctor said of a case."""
    bare = diagnose(replace(diagnosis.record, settings={}))
    names, bare_names = ([finding.name for finding in one.findings[:3]] + [""] * 3 for one in (diagnosis, bare))
    return {
        "case": case.name,
        "split": case.split,
        "algorithm": algorithm,
        "env": case.env,
        "fault": case.fault,
        "number": case.number,
        "verdict": diagnosis.verdict,
        "first": names[0],
        "second": names[1],
        "third": names[2],
        "confidence": diagnosis.findings[0].confidence if diagnosis.findings else "",
        "final_return": f"{final_return(diagnosis.record):.2f}",
        "bare_verdict": bare.verdict,
        "bare_first": bare_names[0],
        "bare_second": bare_names[1],
        "bare_third": bare_names[2],
    }


def run_case(case: Case, algorithm: str, keep: Path | None, remedy: bool) -> dict[str, Any]:
    """
    Train and diagnose a case, and if asked, follow the first advice and train again.

    :param algorithm: "eduppo" or "sb3"
    :param keep: where logs are kept, or None
    """
    began = time.perf_counter()
    diagnosis = diagnosed(case, algorithm, keep)
    row = row_of(case, algorithm, diagnosis) | {"seconds": f"{time.perf_counter() - began:.1f}"}
    changes = BY_NAME[diagnosis.findings[0].name].changes if remedy and diagnosis.findings else ()
    # Cases are trained with one thread each: that advice is followed already.
    if changes and changes[0].setting != "threads":
        change = changes[0]
        value = change.new_value(diagnosis.record)
        after = diagnosed(case.changed(change.setting, value), algorithm, None)
        row |= {"changed": f"{change.setting}={value}", "remedied_return": f"{final_return(after.record):.2f}"}
    return row


def diagnosed(case: Case, algorithm: str, keep: Path | None) -> Diagnosis:
    """
    Train a case and diagnose it from its files.

    :param algorithm: "eduppo" or "sb3"
    :param keep: where logs are kept, or None
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep / f"{algorithm}-{case.name}"
        train(case, algorithm, folder)
        return diagnose(read_record(folder))


# --------------------------------------------------------------------------------------------------------------------------
# All cases
# --------------------------------------------------------------------------------------------------------------------------


def cases_of(split: str, count: int, faults: Sequence[str], spread: bool) -> Iterator[Case]:
    """
    List the cases of a trial.

    :param split: one of :data:`SPLITS`
    :param count: rounds, each with one case of each fault and environment, and with several of no fault
    :param faults: names of faults
    :param spread: one environment for each case, in turn, instead of every environment
    :return: the cases, round by round: what is cut short has as many of each fault
    """
    for number in range(count):
        for place, fault in enumerate(faults):
            envs = [env for env in (*ENVS, *SPARSE_ENVS) if all(env in FAULTS[one].envs for one in fault.split("+"))]
            chosen = [envs[(place + number) % len(envs)]] if spread and fault != "none" else envs
            repeats = HEALTHY if fault == "none" and not spread else 1
            yield from (plant(split, env, fault, repeats * number + again) for again in range(repeats) for env in chosen)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows that are there."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, and a header to a new file."""
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def train_cases(arguments: argparse.Namespace, path: Path) -> None:
    """
    Train and diagnose what has no row yet.

    :param path: the CSV file, to which a row is added at once
    """
    done = {row["case"] for row in read_rows(path)}
    end = time.monotonic() + 60 * arguments.minutes
    for place, case in enumerate(cases_of(arguments.split, arguments.cases, arguments.faults, arguments.spread)):
        if case.name in done:
            continue
        if time.monotonic() >= end:
            break
        kept = None if arguments.keep is None else arguments.keep / f"{arguments.algorithm}-{case.name}"
        if kept is not None and kept.exists():
            shutil.rmtree(kept)
        remedy = arguments.remedy is not None and place % arguments.remedy == 0 and case.fault != "none"
        row = run_case(case, arguments.algorithm, arguments.keep, remedy)
        append_row(path, row)
        print(f"{case.name}: {row['first'] or 'nothing'} {row['confidence']} {row['seconds']}", flush=True)


def diagnose_kept(arguments: argparse.Namespace, path: Path) -> None:
    """
    Diagnose anew the logs that were kept.

    :param path: the CSV file, which is written anew
    """
    path.unlink(missing_ok=True)
    for folder in sorted(arguments.keep.glob(f"{arguments.algorithm}-{arguments.split}-*")):
        env, fault, number = KEPT.fullmatch(folder.name).groups()  # type: ignore[union-attr]
        record = read_record(folder)
        diagnosis = diagnose(as_sb3_logs(record) if arguments.as_sb3 else record)
        append_row(path, row_of(plant(arguments.split, env, fault, int(number)), arguments.algorithm, diagnosis))


def as_sb3_logs(record: Record) -> Record:
    """
    Leave of a record what SB3's PPO logs itself: EduPPO's numbers under those names are the same.

    :param record: of EduPPO
    :return: with the other columns left out
    """
    columns = {
        key: column
        for key, column in record.columns.items()
        if key in SB3_KEYS or key.startswith(("rollout/", "time/", "eval/"))
    }
    return replace(record, columns=columns, not_finite={key: at for key, at in record.not_finite.items() if key in columns})


def main(argv: Sequence[str] | None = None) -> None:
    """Run or repeat the trial."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0].strip())
    parser.add_argument("--split", choices=SPLITS, default="trial", help="which cases (default: trial)")
    parser.add_argument("--algorithm", choices=tuple(ALGORITHMS), default="eduppo", help="what is trained (default: eduppo)")
    parser.add_argument("--cases", type=int, default=3, metavar="N", help="cases of each fault and environment (default: 3)")
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), metavar="FAULT", help="default: all; pairs as a+b")
    parser.add_argument("--spread", action="store_true", help="one environment for each fault, in turn")
    parser.add_argument(
        "--remedy", type=int, nargs="?", const=1, metavar="N", help="follow the first advice in every Nth case and train again"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="begin no case after this time")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the logs here")
    parser.add_argument("--again", action="store_true", help="train nothing, and diagnose anew all that --keep has kept")
    parser.add_argument("--as-sb3", action="store_true", help="with --again: look only at what SB3's PPO logs itself")
    parser.add_argument("--folder", type=Path, default=HERE, metavar="DIR", help="where rows and report are written")
    arguments = parser.parse_args(argv)
    if (arguments.again and arguments.keep is None) or (arguments.as_sb3 and not arguments.again):
        parser.error("expected --again with --keep DIR, and --as-sb3 with --again")
    th.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stem = f"{arguments.split}-{'sb3-keys' if arguments.as_sb3 else arguments.algorithm}"
    path = arguments.folder / f"{stem}.csv"
    (diagnose_kept if arguments.again else train_cases)(arguments, path)
    rows = read_rows(path)
    made = f"\nMade by `python benchmarks/doctor/trial.py --split {arguments.split} --algorithm {arguments.algorithm}`"
    versions = f"sb3_ppo_edu {__version__}, stable_baselines3 {stable_baselines3.__version__}, torch {th.__version__}"
    text = f"{summarize(rows)}{made}, see README.md for the rest of the command; {versions}.\n"
    (arguments.folder / f"{stem}.md").write_text(text, encoding="utf-8")
    with (arguments.folder / f"{stem}-confusion.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(confusion(rows))


if __name__ == "__main__":
    main()
