"""``sb3-edu evaluate``: the same numbers again, and whose files may run code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from tests.command_line import process_restored, train_with_everything

_restored = pytest.fixture(autouse=True)(process_restored)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run with everything on, and what was printed."""
    return train_with_everything(tmp_path_factory.mktemp("runs"))


def test_evaluate_repeats_the_final_evaluation(trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The same episodes give the same numbers as at the end of training; other seeds give others."""
    folder, _ = trained
    record = json.loads((folder / "evaluation.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["evaluate", str(folder), "--episodes", "5"]) == 0
    printed = capsys.readouterr().out
    for who in ("trained", "random"):
        assert f"{record[who]['mean']:.1f} ± {record[who]['std']:.1f}" in printed
    for who, other in (("random", ["--seed", "3"]), ("trained", ["--stochastic"])):
        assert main(["evaluate", str(folder), "--episodes", "5", *other]) == 0
        assert f"{record[who]['mean']:.1f} ± {record[who]['std']:.1f}" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "nowhere"], "run nowhere: there is no such folder"),
        (["enjoy", "nowhere"], "run nowhere: there is no such folder"),
        (["evaluate", "."], "settings.yml and model.zip missing"),
        (["enjoy", "run", "--gif", "taken.gif"], "--gif taken.gif: it exists"),
        (["enjoy", "run", "--gif", "nowhere/film.gif"], "nowhere"),
        (["evaluate", "torn"], "model.zip"),
        (["evaluate", "hostile"], "found posix.mkdir"),
        (["enjoy", "hostile", "--gif", "film.gif"], "found posix.mkdir"),
        (["evaluate", "hostile statistics"], "found posix.mkdir"),
        (["enjoy", "hostile statistics", "--gif", "film.gif"], "found posix.mkdir"),
        (["evaluate", "hostile settings"], "found wrapper 'os.mkdir'"),
    ],
)
def test_bad_runs_are_refused(
    arguments: list[str],
    expected: str,
    trained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that is missing, incomplete, spoilt or hostile, and a file that is in the way, are named; exit code 2."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "torn"):
        shutil.copytree(trained[0], tmp_path / name)
    make_hostile_runs(trained[0], tmp_path)
    (tmp_path / "torn" / "model.zip").write_bytes(b"PK")
    (tmp_path / "taken.gif").write_text("precious")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"sb3-edu {arguments[0]}: error: ")
    assert expected in captured.err
    assert (tmp_path / "taken.gif").read_text() == "precious"
    assert not (tmp_path / "film.gif").exists()
    assert not (tmp_path / "canary").exists()


class MakesCanary:
    """Makes the folder ``canary`` when it is unpickled by someone who trusts it."""

    def __reduce__(self) -> Any:
        """What to call."""
        return os.mkdir, ("canary",)


def make_hostile_runs(good: Path, folder: Path) -> None:
    """
    Write three runs that make the folder ``canary`` when they are trusted.

    :param good: a run to start from
    :param folder: where
    """
    for name in ("hostile", "hostile statistics", "hostile settings"):
        shutil.copytree(good, folder / name)
    model = EduPPO.load(good / "model.zip")
    model.note = MakesCanary()  # type: ignore[attr-defined]
    model.save(folder / "hostile" / "model.zip")
    (folder / "hostile statistics" / "vecnormalize.pkl").write_bytes(pickle.dumps(MakesCanary()))
    settings = folder / "hostile settings" / "settings.yml"
    record = yaml.safe_load(settings.read_text())
    record["environment"]["wrapper"] = {"os.mkdir": {"path": "canary"}}
    settings.write_text(yaml.safe_dump(record))


def test_trusted_run_may_run_code(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --trust the same hostile model does run its code, and is evaluated."""
    monkeypatch.chdir(tmp_path)
    make_hostile_runs(trained[0], tmp_path)
    assert main(["evaluate", "hostile", "--episodes", "2", "--trust"]) == 0
    assert (tmp_path / "canary").is_dir()


def test_run_with_a_wrapper_of_ones_own_needs_trust(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class of the user's in the settings is refused with the flag that allows it, and works with that flag."""
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    record = yaml.safe_load((run / "settings.yml").read_text())
    record["environment"]["wrapper"] = f"{__name__}.OwnWrapper"
    (run / "settings.yml").write_text(yaml.safe_dump(record))
    assert main(["evaluate", str(run), "--episodes", "2"]) == 2
    error = capsys.readouterr().err
    assert f"found wrapper '{__name__}.OwnWrapper'" in error
    assert "--trust" in error
    assert main(["evaluate", str(run), "--episodes", "2", "--trust"]) == 0


class OwnWrapper(gym.Wrapper):
    """A user's wrapper."""
