"""The zoo's commands with masks: what evaluates, searches, plays and films agents takes legal actions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml

from sb3_ppo_edu import zoo
from sb3_ppo_edu.envs.tic_tac_toe import TicTacToe
from tests.masked_environments import MaskedWalk, ToldMasks
from tests.test_zoo import TRIALS, train
from tests.test_zoo import _gymnasium_as_it_was as _gymnasium_as_it_was

SMALL = {
    "n_timesteps": 64,
    "n_envs": 2,
    "n_steps": 16,
    "batch_size": 16,
    "n_epochs": 1,
    "env_wrapper": "tests.test_zoo_masks.Same",
}
ALGORITHMS = {"maskableeduppo": "MlpPolicy", "maskablerecurrenteduppo": "MlpLstmPolicy"}
ENVIRONMENTS = {"StrictMethod-v0": MaskedWalk, "StrictInfo-v0": ToldMasks, "TicTacToe-v0": TicTacToe}
for name, kind in ENVIRONMENTS.items():
    if name not in gym.registry:
        gym.register(name, f"{kind.__module__}:{kind.__name__}")


class Same(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper of the user's own, which does nothing."""


def settings(folder: Path, algo: str) -> str:
    """Write the settings of a short training."""
    path = folder / f"{algo}.yml"
    path.write_text(yaml.safe_dump({key: {"policy": ALGORITHMS[algo], **SMALL} for key in ENVIRONMENTS}))
    return str(path)


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("env", ["StrictMethod-v0", "StrictInfo-v0"])
def test_agents_are_trained_evaluated_and_enjoyed(
    algo: str, env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks by the method, and in infos: an illegal action would end the command with an error."""
    pytest.importorskip("requests", reason="the zoo's enjoy imports requests")
    arguments = ["--algo", algo, "--eval-freq", "32", "--eval-episodes", "5"]
    assert train(settings(tmp_path, algo), tmp_path, *arguments, env=env) == 0
    assert len(np.load(next(tmp_path.rglob("evaluations.npz")))["results"]) == 2
    played = ["--algo", algo, "--env", env, "-f", str(tmp_path), "-n", "80", "--no-render", "--device", "cpu", "--stochastic"]
    assert zoo.main(["enjoy", *played]) == 0
    assert "Mean reward: " in capsys.readouterr().out


def test_environments_without_masks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, one line that says what is missing, and no folder."""
    assert zoo.main(["train", "--algo", "maskableeduppo", "--env", "CartPole-v1", "-f", str(tmp_path)]) == 2
    assert "env=CartPole-v1: found neither a method action_masks() nor an action_mask" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_search_evaluates_legal_actions(tmp_path: Path) -> None:
    """The zoo prunes a trial that an error ends, as the environment's at an illegal action: none is."""
    pytest.importorskip("pandas", reason="the zoo's report of a search needs pandas")
    import optuna

    storage = str(tmp_path / "study.log")
    backend = optuna.storages.journal.JournalFileBackend(storage)  # type: ignore[attr-defined]
    journal = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=journal, study_name="s", direction="maximize")
    study.enqueue_trial(TRIALS[0])
    search = ["-optimize", "-n", "64", "--n-trials", "1", "--n-evaluations", "2", "--eval-episodes", "5"]
    named = ["--storage", storage, "--study-name", "s", "--no-optim-plots", "--algo", "maskableeduppo"]
    assert train(settings(tmp_path, "maskableeduppo"), tmp_path, *search, *named, env="StrictInfo-v0") == 0
    (trial,) = optuna.load_study(study_name="s", storage=journal).trials
    assert trial.state is optuna.trial.TrialState.COMPLETE
    assert len(trial.intermediate_values) == 2


def test_films_show_legal_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A game that is lost by an illegal move is filmed, and none is made."""
    pytest.importorskip("imageio.v3")
    algo = "maskableeduppo"
    assert train(settings(tmp_path, algo), tmp_path, "--algo", algo, env="TicTacToe-v0") == 0
    step, illegal = TicTacToe.step, []

    def watched(env: TicTacToe, action: Any) -> Any:
        found = step(env, action)
        illegal.append("illegal_move" in found[-1])
        return found

    monkeypatch.setattr(TicTacToe, "step", watched)
    arguments = ["--algo", algo, "--env", "TicTacToe-v0", "-f", str(tmp_path), "-n", "40", "--stochastic"]
    assert zoo.main(["record_video", *arguments]) == 0
    assert len(illegal) == 40
    assert not any(illegal)
