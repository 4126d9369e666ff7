"""The blind trial's cases: repeatable, split without overlap, ill where they claim to be; and how its rows are counted."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from tests.doctor_records import ROWS, gaussian, make_record

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "doctor"


@pytest.fixture(scope="module")
def trial() -> Iterator[ModuleType]:
    """The script ``trial.py``, loaded as it loads itself: with its folder on the path."""
    sys.path.insert(0, str(FOLDER))
    try:
        specification = importlib.util.spec_from_file_location("doctor_trial", FOLDER / "trial.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))


def test_cases_are_repeatable_and_splits_differ(trial: ModuleType) -> None:
    """The same name gives the same case, and no two splits share a seed."""
    listed = {split: list(trial.cases_of(split, 2, list(trial.FAULTS), False)) for split in trial.SPLITS}
    assert listed["trial"] == list(trial.cases_of("trial", 2, list(trial.FAULTS), False))
    seeds = {split: {case.seed for case in cases} for split, cases in listed.items()}
    assert len(set.union(*seeds.values())) == sum(len(own) for own in seeds.values())
    assert len(seeds["trial"]) == len(listed["trial"])
    assert len({case.env for case in listed["trial"]}) >= 4


def test_every_fault_names_symptoms_that_exist(trial: ModuleType) -> None:
    """What a fault is known as stands in the doctor's table."""
    for name, fault in trial.FAULTS.items():
        assert set(fault.symptoms) <= set(trial.BY_NAME)
        assert bool(fault.symptoms) is (name != "none")


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("learning_rate", 1e-4, 1e-4),
        ("normalize_advantage", "true", True),
        ("clip_range_vf", "null", None),
        ("log_std_bounds", "[-3, 0.5]", (-3.0, 0.5)),
        ("policy_kwargs", "dict(log_std_init=-0.5)", {"net_arch": [8], "log_std_init": -0.5}),
    ],
)
def test_advice_can_be_followed(trial: ModuleType, setting: str, value: Any, expected: Any) -> None:
    """An advice as it stands in a command becomes the algorithm's argument; all other settings stay as they were."""
    settings = {"learning_rate": 0.1, "clip_range_vf": 0.2, "policy_kwargs": {"net_arch": [8], "log_std_init": 2.0}}
    case = replace(trial.plant("train", "Pendulum-v1", "none", 0), settings=settings)
    assert case.changed(setting, value).settings == settings | {setting: expected}
    assert case.changed("steps", 320_000) == replace(case, steps=320_000)


def test_advice_to_use_one_thread_is_not_followed(trial: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case is trained with one thread already: where time was lost, there is nothing to try, and the row says so."""
    record = make_record(
        {"time/time_elapsed": np.cumsum(np.where(np.arange(ROWS) < 20, 1.0, 9.0)), "eval/mean_reward": np.nan}
    )
    diagnosis = trial.diagnose(record)
    assert diagnosis.findings[0].name == "throughput-lost"
    monkeypatch.setattr(trial, "diagnosed", lambda *arguments: diagnosis)
    assert "changed" not in trial.run_case(trial.plant("train", "CartPole-v1", "none", 0), "eduppo", None, True)


@pytest.mark.parametrize(
    ("fault", "setting", "low", "high"),
    [("lr-high", "learning_rate", 1e-2, 4e-2), ("lr-low", "learning_rate", 5e-7, 5e-6), ("gamma-low", "gamma", 0.2, 0.6)],
)
def test_faults_are_planted(trial: ModuleType, fault: str, setting: str, low: float, high: float) -> None:
    """The one setting lies in the fault's range, and out of it without the fault; pairs have both."""
    for number in range(5):
        assert low <= trial.plant("train", "Acrobot-v1", fault, number).settings[setting] <= high
        assert not low <= trial.plant("train", "Acrobot-v1", "none", number).settings[setting] <= high
    pair = trial.plant("train", "Acrobot-v1", f"{fault}+value-untrained", 0).settings
    assert low <= pair[setting] <= high
    assert pair["vf_coef"] < 0.01


def test_unknown_faults_are_refused(trial: ModuleType) -> None:
    """A name that is no fault, or one that is none there, is named with what there is."""
    for arguments, words in (
        (("test", "CartPole-v1", "none", 0), "split='test'"),
        (("train", "CartPole-v1", "gout", 0), "fault='gout'"),
        (("train", "CartPole-v1", "std-wide", 0), "Pendulum-v1"),
    ):
        with pytest.raises(ValueError, match=words):
            trial.plant(*arguments)


def test_wrappers_leave_the_monitored_return_alone(trial: ModuleType) -> None:
    """Rewards of 1 scaled by 1000 reach the algorithm as 1000, while the episode's own return counts ones."""
    case = trial.plant("train", "CartPole-v1", "reward-large", 0)
    env = trial.make_env(case)
    env.reset()
    done, total, reward = False, 0.0, np.zeros(1)
    while not done:
        _, reward, dones, infos = env.step([0] * env.num_envs)
        total, done = total + 1, bool(dones[0])
    assert float(reward[0]) == pytest.approx(case.settings["reward_factor"])
    assert infos[0]["episode"]["r"] == pytest.approx(total)


def test_rows_are_counted(trial: ModuleType) -> None:
    """One fault named first, one third, one missed, one healthy run declared ill of two."""

    def row(fault: str, *named: str) -> dict[str, str]:
        first, second, third = [*named, "", "", ""][:3]
        verdict = "ill" if first else "healthy"
        bare = {"bare_first": "", "bare_second": first, "bare_third": "", "bare_verdict": "healthy"}
        case = {
            "fault": fault,
            "env": "CartPole-v1",
            "number": "0",
            "final_return": "1.0",
            "changed": "",
            "remedied_return": "",
        }
        return {**case, "first": first, "second": second, "third": third, "verdict": verdict, **bare}

    rows = [
        row("lr-high", "learning-rate-too-high"),
        row("lr-low", "no-progress", "forgetting", "learning-rate-too-low"),
        row("gamma-low"),
        row("none"),
        row("none", "no-progress"),
    ]
    rows[0] |= {"changed": "learning_rate=1e-4", "remedied_return": "7.0"}
    rows[1] |= {"changed": "steps=5", "remedied_return": "0.5"}
    all_of_them, bare = trial.summarize(rows).split("The same logs without")
    assert "| planted fault named first | 1 of 3 | 33% |" in all_of_them
    assert "| planted fault among the first three; of two, both | 2 of 3 | 67% |" in all_of_them
    assert "| healthy run declared ill | 1 of 2 | 50% |" in all_of_them
    assert "| first advice raised the final return | 1 of 2 | 50% |" in all_of_them
    # The discount stands in the settings only: two faults are left, of which one is among the first three.
    assert "| planted fault named first | 0 of 2 | 0% |" in bare
    assert "| planted fault among the first three; of two, both | 1 of 2 | 50% |" in bare
    assert "| lr-low | 1 | 0 | CartPole-v1 steps=5: 1 → 0 |" in bare
    assert "| gamma-low | CartPole-v1 | 0 | nothing |" in bare
    table = trial.confusion(rows)
    assert table[0] == ["planted", "learning-rate-too-high", "no-progress", "nothing"]
    assert table[-1] == ["none", "0", "1", "1"]
    both = row("lr-high+lr-low", "learning-rate-too-low", "learning-rate-too-high")
    is_right = importlib.import_module("scores").is_right
    assert is_right(both, 1)
    assert is_right(both, 3)
    assert not is_right(row("lr-high+lr-low", "learning-rate-too-low"), 3)


@pytest.mark.parametrize(("kind", "limited"), [("terminal", False), ("limit", True)])
def test_ends_are_renamed(trial: ModuleType, kind: str, limited: bool) -> None:
    """CartPole falls after some ten steps of one action: the algorithm is told of a time limit, or not, as planted."""
    case = replace(trial.plant("train", "CartPole-v1", "none", 0), seed=1)
    env = trial.make_env(replace(case, settings={**case.settings, "ends_as": kind}))
    env.reset()
    for _ in range(20):
        _, _, dones, infos = env.step([0] * env.num_envs)
        if dones[0]:
            assert infos[0]["TimeLimit.truncated"] is limited
            return
    pytest.fail("no episode has ended")


def test_evaluation_sees_shifted_observations(trial: ModuleType) -> None:
    """Stale statistics: the evaluation sees what training sees on another scale and shifted; without them it is the same."""
    case = trial.plant("train", "CartPole-v1", "stale-statistics", 0)
    factor, offset = case.settings["evaluation_factor"], case.settings["evaluation_offset"]
    plain, stale = trial.make_env(case, 1), trial.make_env(case, 1, factor, offset)
    np.testing.assert_allclose(stale.reset(), factor * plain.reset() + offset, rtol=1e-5)
    assert trial.plant("train", "CartPole-v1", "none", 1).settings["evaluation_factor"] == 1.0


def test_rounds_hold_every_fault(trial: ModuleType) -> None:
    """The first round has each fault on each of its environments once, and five times as many without; the second is new."""
    one, two = (list(trial.cases_of("train", rounds, list(trial.FAULTS), False)) for rounds in (1, 2))
    assert two[: len(one)] == one
    assert len(two) == 2 * len({case.name for case in two[len(one) :]})
    for fault, planted in trial.FAULTS.items():
        assert sum(case.fault == fault for case in one) == len(planted.envs) * (5 if fault == "none" else 1)


def test_trial_goes_on_where_it_stopped(trial: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases whose rows are there are not trained again; the report is of all of them."""
    trained: list[str] = []
    whole = trial.plant

    def short(*arguments: object) -> object:
        case = whole(*arguments)
        shortened: object = replace(case, steps=4 * case.settings["n_steps"] * case.settings["n_envs"])
        return shortened

    monkeypatch.setattr(trial, "plant", short)
    original = trial.train

    def counted(case: Any, *rest: object) -> None:
        trained.append(case.name)
        original(case, *rest)

    monkeypatch.setattr(trial, "train", counted)
    command = ["--split", "train", "--cases", "1", "--spread", "--folder", str(tmp_path), "--faults"]
    trial.main([*command, "grad-norm", "--keep", str(tmp_path / "logs")])
    trial.main([*command, "grad-norm", "target-kl", "--keep", str(tmp_path / "logs")])
    assert len(trained) == 2
    # Once its time is over it begins nothing, and reports what there is.
    (tmp_path / "train-eduppo.md").unlink()
    trial.main([*command, "grad-norm", "target-kl", "gamma-low", "--minutes", "0"])
    assert len(trained) == 2
    assert len(trial.read_rows(tmp_path / "train-eduppo.csv")) == 2
    assert (tmp_path / "train-eduppo.md").read_text(encoding="utf-8").startswith("# The doctor's trial")
    assert (tmp_path / "train-eduppo-confusion.csv").is_file()
    # Without training, the logs that were kept give the same rows, but for the time it took.
    before = trial.read_rows(tmp_path / "train-eduppo.csv")
    again = ["--split", "train", "--again", "--keep", str(tmp_path / "logs"), "--folder"]
    trial.main([*again, str(tmp_path / "again")])
    after = trial.read_rows(tmp_path / "again" / "train-eduppo.csv")
    assert len(trained) == 2
    key = itemgetter("case")
    assert sorted(after, key=key) == sorted(({**row, "seconds": ""} for row in before), key=key)
    trial.main([*again, str(tmp_path / "again"), "--as-sb3"])
    assert len(trial.read_rows(tmp_path / "again" / "train-sb3-keys.csv")) == 2


def test_as_sb3_leaves_what_its_ppo_logs(trial: ModuleType) -> None:
    """The columns that are left are those that SB3's PPO logs on a Box task, and none of EduPPO's own."""
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, n_epochs=1, clip_range_vf=0.2, device="cpu")
    model.set_logger(Logger(None, []))
    model.learn(16)
    logged = {key for key in model.logger.name_to_value if key.startswith("train/")}
    left = trial.as_sb3_logs(make_record(gaussian() | dict.fromkeys(logged, 1.0))).columns
    assert {key for key in left if key.startswith("train/")} == logged == trial.SB3_KEYS
    assert "rollout/ep_rew_mean" in left
    assert "train/return_std" not in left


@pytest.mark.parametrize("words", [["--again"], ["--as-sb3"]])
def test_flags_that_need_others_are_refused(trial: ModuleType, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to diagnose again without a folder of logs; SB3's columns are those of such logs."""
    with pytest.raises(SystemExit):
        trial.main(words)
    assert "expected --again with --keep DIR" in capsys.readouterr().err
