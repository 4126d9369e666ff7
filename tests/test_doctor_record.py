"""Reading records: of EduPPO and of SB3's PPO, from CSV and TensorBoard, whole and cut short, and refusing what is none."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.doctor.diagnose import diagnose
from sb3_ppo_edu.doctor.record import RecordError, read_record, record_of_rows

SIZE = 64


def train(
    algorithm: type[Any], folder: Path, rollouts: int = 4, formats: tuple[str, ...] = ("csv", "tensorboard")
) -> BaseAlgorithm:
    """Train some rollouts of 64 steps and leave the log in a folder."""
    arguments: dict[str, Any] = {} if algorithm is A2C else {"batch_size": 32, "n_epochs": 2}
    model: BaseAlgorithm = algorithm("MlpPolicy", "CartPole-v1", n_steps=SIZE, seed=0, device="cpu", **arguments)
    model.set_logger(configure(str(folder), list(formats)))
    model.learn(rollouts * SIZE, log_interval=1)
    model.logger.close()
    return model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of one run of each algorithm, ``eduppo`` and ``sb3``, with both kinds of log."""
    folder = tmp_path_factory.mktemp("runs")
    train(EduPPO, folder / "eduppo")
    train(PPO, folder / "sb3").save(folder / "sb3" / "model.zip")
    return folder


@pytest.mark.parametrize("name", ["eduppo", "sb3"])
def test_csv_and_events_tell_the_same(runs: Path, name: str) -> None:
    """Four rollouts are rows at 64, 128, 192, 256; the three updates before them have the same numbers in both logs."""
    from_csv = read_record(runs / name / "progress.csv")
    (events,) = (runs / name).glob("events.out.tfevents.*")
    from_events = read_record(events)
    for record in (from_csv, from_events):
        assert record.steps.tolist() == [64, 128, 192, 256]
        assert record.updates == 3
        assert record.has("train/return_std") is (name == "eduppo")
    for key in ("train/approx_kl", "train/clip_fraction", "rollout/ep_rew_mean"):
        np.testing.assert_allclose(from_csv.columns[key], from_events.columns[key], rtol=1e-4)
    assert math.isnan(from_csv.columns["train/approx_kl"][0])


def test_folder_prefers_the_csv(runs: Path) -> None:
    """Of a folder with both, the CSV is read, which has ``n_updates`` too."""
    assert read_record(runs / "eduppo").has("train/n_updates")


def test_settings_of_a_saved_model_are_read_without_running_it(runs: Path) -> None:
    """SB3's zip holds plain numbers beside its pickles; only those are taken."""
    record = read_record(runs / "sb3")
    assert record.number("gamma") == 0.99
    assert record.number("n_epochs") == 2
    assert record.number("max_grad_norm") == 0.5
    assert record.setting("normalize_advantage") is True
    assert "clip_range" not in record.settings


def test_settings_of_our_runs_are_read(runs: Path, tmp_path: Path) -> None:
    """``settings.yml`` is flattened: arguments, the environment's id, threads; schedules begin at their number."""
    (tmp_path / "progress.csv").write_bytes((runs / "eduppo" / "progress.csv").read_bytes())
    written = {
        "command": "sb3-edu train --env CartPole-v1",
        "environment": {"id": "CartPole-v1", "normalize": None},
        "algorithm": {"learning_rate": "lin_3e-4", "gamma": 0.98},
        "n_envs": 8,
        "threads": {"torch": 2},
    }
    (tmp_path / "settings.yml").write_text(yaml.safe_dump(written))
    (tmp_path / "evaluation.json").write_text('{"random": {"mean": 22.5, "std": 3.0}}')
    record = read_record(tmp_path)
    assert record.number("learning_rate") == pytest.approx(3e-4)
    assert (record.number("gamma"), record.number("n_envs"), record.number("torch_threads")) == (0.98, 8, 2)
    assert record.setting("env") == "CartPole-v1"
    assert record.number("random_return") == 22.5


def test_settings_that_cannot_be_read_are_left_out(runs: Path, tmp_path: Path) -> None:
    """A broken or malicious ``settings.yml`` costs its settings and not the record's own, and nothing of it is run."""
    (tmp_path / "progress.csv").write_bytes((runs / "eduppo" / "progress.csv").read_bytes())
    own = read_record(tmp_path).settings
    assert (own["n_envs"], own["normalize_advantage"]) == (1, True)
    trap = tmp_path / "sprung"
    (tmp_path / "settings.yml").write_text(
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{trap}]]"
    )
    record = read_record(tmp_path)
    assert not trap.exists()
    assert record.settings == own
    assert "left out" in record.notes[0]
    with (tmp_path / "evaluation.json").open("wb") as evaluation:
        evaluation.truncate(2**40)
    assert "left out" in read_record(tmp_path).notes[0]
    (tmp_path / "settings.yml").unlink()
    (tmp_path / "model.zip").write_bytes(pickle.dumps("no zip"))
    assert read_record(tmp_path).settings == own


def test_cut_line_is_left_out(runs: Path, tmp_path: Path) -> None:
    """A line without its end may lack digits: it is left out, and the record says so."""
    text = (runs / "eduppo" / "progress.csv").read_text()
    (tmp_path / "progress.csv").write_text(text.rstrip("\n")[:-1])
    record = read_record(tmp_path)
    assert record.steps.tolist() == [64, 128, 192]
    assert "cut off" in record.notes[0]


def test_short_line_is_left_out(runs: Path, tmp_path: Path) -> None:
    """A line with fewer cells than the header can't be assigned to it."""
    header, *lines = (runs / "eduppo" / "progress.csv").read_text().splitlines()
    (tmp_path / "progress.csv").write_text("\n".join([header, *lines[:3], "1,2,3"]) + "\n")
    record = read_record(tmp_path)
    assert record.steps.tolist() == [64, 128, 192]
    assert "1 of 4 lines" in record.notes[0]


def test_nan_in_the_file_is_remembered_and_missing_is_not(tmp_path: Path) -> None:
    """The word nan is a number that went wrong; an empty cell is a number that was not logged."""
    (tmp_path / "progress.csv").write_text(
        "time/total_timesteps,train/approx_kl,train/loss\n10,0.1,\n20,0.2,nan\n30,0.1,inf\n"
    )
    record = read_record(tmp_path)
    assert record.not_finite == {"train/loss": 20}
    assert diagnose(record).findings[0].name == "nan-coming"


def test_rows_are_put_in_order_and_joined() -> None:
    """Rows of equal steps are one row, steps ascend, text and None are no numbers, rows without steps are left out."""
    record = record_of_rows(
        [
            {"time/total_timesteps": 20, "a": 2.0},
            {"time/total_timesteps": 10, "a": 1.0, "b": "text", "c": None},
            {"time/total_timesteps": 10, "d": 4.0},
            {"a": 9.0},
        ],
        "by hand",
    )
    assert record.steps.tolist() == [10, 20]
    assert record.columns["a"].tolist() == [1.0, 2.0]
    assert record.columns["d"][0] == 4.0
    assert "b" not in record.columns
    assert "c" not in record.columns
    assert record.values("a", 0.5).tolist() == [2.0]


def write(name: str, text: str | bytes) -> Callable[[Path], Path]:
    """Make a writer of one file, which gives the file."""

    def writer(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return writer


def folder_of_runs(folder: Path) -> Path:
    """Make a folder with a run in it, which is not a run itself."""
    (folder / "first").mkdir()
    (folder / "first" / "progress.csv").write_text("")
    return folder


REFUSED: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "nothing there": (lambda folder: folder / "gone", ("there is nothing", "expected a run's folder")),
    "empty folder": (lambda folder: folder, ("neither progress.csv", "expected the folder of one run")),
    "folder of runs": (folder_of_runs, ("has the runs first",)),
    "empty file": (write("progress.csv", ""), ("empty", "expected a header")),
    "blank file": (write("progress.csv", "\n\n"), ("empty",)),
    "only a header": (write("progress.csv", "time/total_timesteps,train/approx_kl\n"), ("no whole row",)),
    "someone else's": (write("progress.csv", "name,age\nAda,36\n"), ("not a training log", "name", "expected columns")),
    "pictures": (write("progress.csv", b"\x89PNG\r\n\x1a\n\x00\x00"), ("not text",)),
    "zero bytes": (write("progress.csv", "a,b\n\0,1\n"), ("zero bytes",)),
    "one rollout": (write("progress.csv", "time/total_timesteps,rollout/ep_rew_mean\n64,20\n"), ("no update is in it",)),
    "SAC": (write("progress.csv", "time/total_timesteps,train/actor_loss\n64,20\n"), ("SAC", "expected one of a PPO")),
    "no steps": (write("progress.csv", "train/approx_kl\n0.1\n"), ("no row has time/total_timesteps",)),
    "semicolons": (write("progress.csv", "time/total_timesteps;train/approx_kl\n64;0.1\n"), ("';'", "expected commas")),
    "shares in per cent": (
        write("progress.csv", "time/total_timesteps,train/clip_fraction\n64,0.1\n128,30\n"),
        ("train/clip_fraction is 30 at step 128", "expected 0 to 1"),
    ),
    "more than all of the variance": (
        write("progress.csv", "time/total_timesteps,train/approx_kl,train/explained_variance\n64,0.1,1.2\n"),
        ("train/explained_variance is 1.2", "expected -inf to 1"),
    ),
    "no events": (write("events.out.tfevents.1", b"garbage"), ("no scalars",)),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_no_record_is_refused(tmp_path: Path, case: str) -> None:
    """The error names the file, what was found, and what was expected; there is no verdict."""
    make, words = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(RecordError) as raised:
        read_record(path)
    for word in (str(path if case != "folder of runs" else tmp_path), *words):
        assert word in str(raised.value)


def test_numbers_at_the_ends_of_what_is_possible_are_read(tmp_path: Path) -> None:
    """Everything clipped, everything explained (rounded up), no loss and no rate, or not a number: all of it can be."""
    keys = ("clip_fraction", "explained_variance", "value_loss", "std", "learning_rate")
    header = ",".join(["time/total_timesteps", *(f"train/{key}" for key in keys)])
    (tmp_path / "progress.csv").write_text(
        f"{header}\n64,1.0,1.0000001,0.0,0.0,0.0\n128,nan,-inf,inf,nan,\n", encoding="utf-8"
    )
    assert read_record(tmp_path).updates == 1


def test_other_algorithms_are_refused(tmp_path: Path) -> None:
    """A real log of A2C is named as such."""
    train(A2C, tmp_path, rollouts=2, formats=("csv",))
    with pytest.raises(RecordError, match="the log of A2C"):
        read_record(tmp_path)


def test_log_that_stops_after_two_rollouts_has_no_verdict(tmp_path: Path) -> None:
    """One update in the log: the answer is that it is too little."""
    train(EduPPO, tmp_path, rollouts=2, formats=("csv",))
    diagnosis = diagnose(read_record(tmp_path))
    assert diagnosis.verdict == "unknown"
    assert "1 updates" in diagnosis.summary or "1 update" in diagnosis.summary
