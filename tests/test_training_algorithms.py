"""Runs of any of the algorithms: by name in settings and on the command line, each with its own arguments and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sb3_ppo_edu import EduPPO, MaskableEduPPO, RecurrentEduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.algorithms import ALGORITHMS, algorithm_named
from sb3_ppo_edu.training.folder import SETTINGS_FILE
from sb3_ppo_edu.training.hyperparameters import bundled_file, legal_keys, load_hyperparameters, read_blocks
from sb3_ppo_edu.training.run import close_run, learn, save_model, start_run
from sb3_ppo_edu.training.saved_run import evaluate_run, open_run
from sb3_ppo_edu.training.settings import all_arguments, settings_from_hyperparameters, share_of
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import RandomWalk
from tests.small_runs import settings_for

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"lstm_hidden_size": 4}}


def test_names_are_the_classes_in_lower_case() -> None:
    """The zoo derives folders and files from them; another name is refused with those that there are."""
    assert {name: cls.__name__.lower() for name, cls in ALGORITHMS.items()} == {name: name for name in ALGORITHMS}
    assert algorithm_named("maskableeduppo") is MaskableEduPPO
    with pytest.raises(ValueError, match=r"algo='ppo': expected one of eduppo, maskableeduppo, recurrenteduppo"):
        settings_for(algo="ppo")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_bundled_settings_are_read(name: str) -> None:
    """Each algorithm has a file, with defaults at least, and only names that it knows."""
    for block in read_blocks(bundled_file(f"{name}.yml")).values():
        assert set(block) <= set(legal_keys(name))
    settings = settings_from_hyperparameters("CartPole-v1", load_hyperparameters("CartPole-v1", algo=name), algo=name)
    assert settings.policy in ALGORITHMS[name].policy_aliases


def test_names_are_those_of_the_algorithm(tmp_path: Path) -> None:
    """What one algorithm takes, another may not know."""
    assert "recurrent_cell" in legal_keys("recurrenteduppo")
    assert "recurrent_cell" not in legal_keys()
    assert "use_sde" not in legal_keys("maskableeduppo")
    file = tmp_path / "settings.yml"
    file.write_text("default: {recurrent_cell: gru}")
    assert load_hyperparameters("CartPole-v1", file, algo="recurrenteduppo")["recurrent_cell"] == "gru"
    with pytest.raises(ValueError, match=r"unknown hyperparameter 'recurrent_cell'"):
        load_hyperparameters("CartPole-v1", file)
    assert all_arguments({}, "recurrenteduppo")["n_steps"] == 128
    shared = settings_for(algo="recurrenteduppo", algorithm={}, n_envs=2)
    assert share_of(shared, 0, 2).algorithm["batch_size"] == 64


def test_recurrent_run_is_found_again(tmp_path: Path) -> None:
    """A run of RecurrentEduPPO is recorded as one, and loaded and evaluated as one, nothing of it trusted."""
    settings = settings_for(
        algo="recurrenteduppo", policy="MlpLstmPolicy", algorithm={**SMALL, "recurrent_cell": "gru"}, steps=64
    )
    run = start_run(settings, tmp_path / "run")
    assert type(run.model) is RecurrentEduPPO
    learn(run)
    save_model(run)
    close_run(run)
    record = yaml.safe_load((tmp_path / "run" / SETTINGS_FILE).read_text())
    assert (record["algo"], record["algorithm"]["recurrent_cell"]) == ("recurrenteduppo", "gru")
    saved = open_run(tmp_path / "run", trusted=False)
    assert type(saved.load_model()) is RecurrentEduPPO
    assert len(evaluate_run(saved, 2).returns) == 2


@pytest.mark.parametrize(("algo", "env"), [("recurrenteduppo", "CartPole-v1"), ("maskablerecurrenteduppo", "TicTacToe-v0")])
def test_command_line_trains_and_resumes(algo: str, env: str, tmp_path: Path) -> None:
    """``sb3-edu train --algo`` makes a run that ``sb3-edu resume`` goes on with."""
    flags = ["--n-steps", "16", "--batch-size", "32", "--n-epochs", "1", "--policy-kwargs", "dict(lstm_hidden_size=4)"]
    where = ["--folder", str(tmp_path), "--name", "r", "--steps", "64", "--checkpoint-freq", "32"]
    less = ["--n-envs", "2", "--no-normalize", "--eval-episodes", "2", "--no-replay"]
    assert main(["train", "--algo", algo, "--env", env, *where, *flags, *less]) == 0
    assert main(["resume", str(tmp_path / "r"), "--steps", "96", "--trust"]) == 0
    assert open_run(tmp_path / "r").load_model().num_timesteps == 96


def test_settings_of_older_runs_are_of_eduppo(tmp_path: Path) -> None:
    """A record without a name is one of EduPPO."""
    run = start_run(settings_for(environment=EnvironmentSettings("CartPole-v1"), steps=32), tmp_path / "run")
    save_model(run)
    close_run(run)
    path = tmp_path / "run" / SETTINGS_FILE
    path.write_text(yaml.safe_dump({name: one for name, one in yaml.safe_load(path.read_text()).items() if name != "algo"}))
    assert type(open_run(tmp_path / "run").load_model()) is EduPPO


def test_ends_of_episodes_are_counted_once() -> None:
    """sb3-contrib's buffers flatten the starts of episodes; those that begin the rollout are no ends of it."""
    env = InProcessVecEnv([lambda: RandomWalk(action="discrete")] * 3)
    model = RecurrentEduPPO("MlpLstmPolicy", env, device="cpu", seed=0, **{**SMALL, "batch_size": 48}).learn(48)
    starts = model.rollout_buffer.episode_starts.reshape(3, 16)
    assert starts[:, 0].all()
    expected = starts[:, 1:].sum() + np.asarray(model._last_episode_starts).sum()
    assert model.logger.name_to_value["train/episodes_ended"] == expected > 0
