"""A training's log in Weights & Biases or MLflow: with stand-ins for both, and offline with each where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.training.tracking import PROJECT, Track

SIZES = "--steps 96 --n-steps 32 --n-envs 1 --batch-size 32 --n-epochs 1"
WORDS = f"train --env CartPole-v1 {SIZES} --eval-freq 1000 --eval-episodes 1 --no-replay"


class Service:
    """Takes down what it is told, as both packages and as their runs."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended = 0
        self.info = SimpleNamespace(run_id="7")

    def init(self, **about: Any) -> Service:
        """Begin a run of Weights & Biases."""
        self.begun.append(about)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Take a row, as Weights & Biases does."""
        self.rows.append((step, numbers))

    def finish(self) -> None:
        """End the run."""
        self.ended += 1

    end_run = finish

    def set_experiment(self, name: str) -> None:
        """Choose MLflow's experiment."""
        self.begun.append({"project": name})

    def start_run(self, run_name: str) -> Service:
        """Begin a run of MLflow."""
        self.begun[-1]["name"] = run_name
        return self

    def log_params(self, settings: dict[str, Any]) -> None:
        """Take the settings, as MLflow does."""
        self.begun[-1]["config"] = settings

    def log_metrics(self, numbers: dict[str, float], step: int, run_id: str) -> None:
        """Take a row, as MLflow does."""
        assert run_id == "7"
        self.log(numbers, step)


@pytest.mark.parametrize("to", ["wandb", "mlflow"])
def test_every_row_of_the_log_is_sent(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dump of SB3's logger, with its step and numbers; settings before, the end after; the run's record says so."""
    service = Service()
    monkeypatch.setitem(sys.modules, to, service)
    assert main([*WORDS.split(), "--track", to, "--folder", str(tmp_path), "--name", "r"]) == 0
    (begun,) = service.begun
    assert (begun["project"], begun["name"]) == (PROJECT, "r")
    assert begun["config"]["n_steps"] == 32 and begun["config"]["target_kl"] is None
    assert [step for step, _ in service.rows] == [32, 64, 96]
    assert {"rollout/ep_rew_mean", "time/iterations"} <= set(service.rows[0][1])
    assert "train/loss" in service.rows[-1][1]
    assert service.ended == 1
    record = yaml.safe_load((tmp_path / "r" / "settings.yml").read_text())
    assert {"sb3_ppo_edu.training.tracking.Track": {"to": to}} in record["callback"]


def test_what_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"tracking in wandb needs its package: pip install 'sb3-ppo-edu\[wandb\]'"):
        Track("wandb")
    with pytest.raises(ValueError, match="to='tensorbord': expected one of wandb, mlflow"):
        Track("tensorbord")


def test_a_command_without_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence with the remedy, exit code 2, and no folder."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main([*WORDS.split(), "--track", "mlflow", "--folder", str(tmp_path), "--name", "r"]) == 2
    assert "--track mlflow: tracking in mlflow needs its package: pip install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_fails_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning, and the run is trained, saved and evaluated as without it; the service is not asked again."""
    service = Service()
    service.log = lambda numbers, step: 1 / 0  # type: ignore[method-assign, assignment]
    monkeypatch.setitem(sys.modules, "wandb", service)
    with pytest.warns(UserWarning, match="tracking failed and ends here, the training goes on: ZeroDivisionError"):
        assert main([*WORDS.split(), "--track", "wandb", "--folder", str(tmp_path), "--name", "r"]) == 0
    assert (tmp_path / "r" / "evaluation.json").exists() and service.ended == 0


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself, which writes the run into ``wandb/``; without it (extra 'wandb') there is nothing to try."""
    pytest.importorskip("wandb", reason="wandb is not installed (extra 'wandb')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([*WORDS.split(), "--track", "wandb", "--name", "r"]) == 0
    assert list(tmp_path.glob("wandb/offline-run-*/run-r.wandb"))


def test_mlflow_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself, into a folder; without it (extra 'mlflow') there is nothing to try."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed (extra 'mlflow')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its small package has no database
    assert main([*WORDS.split(), "--track", "mlflow", "--name", "r"]) == 0
    (run,) = mlflow.search_runs(experiment_names=[PROJECT], output_format="list")
    assert run.info.run_name == "r" and run.data.params["n_steps"] == "32"
    assert "train/loss" in run.data.metrics
