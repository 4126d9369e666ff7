"""Runs: what is in a run's folder is what was trained, and nothing is overwritten."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.run import Run, close_run, learn, start_run, write_evaluation
from sb3_ppo_edu.training.saved_run import evaluate_random, evaluate_run, open_run
from tests.small_runs import settings_for, train_and_save


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train and save a run with everything that has to survive in its folder."""
    return train_and_save(tmp_path_factory.mktemp("runs") / "deep" / "run")


# -- the folder ---------------------------------------------------------------------------------------------------------


def test_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    """A folder that exists, even an empty one or a dangling link, is no place for a run."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.zip").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "empty", "link"):
        with pytest.raises(ValueError, match=rf"run folder .*{name}: it exists.*choose another --name"):
            start_run(settings_for(), tmp_path / name)
    assert (tmp_path / "full" / "model.zip").read_text() == "precious"
    assert list((tmp_path / "empty").iterdir()) == []


def test_impossible_folder_is_refused(tmp_path: Path) -> None:
    """A place where no folder can be made is named, with the system's reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run folder .*file/run: it cannot be created \(Not a directory\)"):
        start_run(settings_for(), tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": {"gamma": 2.0}}, "gamma=2.0: expected"),
        ({"algorithm": {"policy_kwargs": {"nett_arch": [8]}}}, "EduPPO refuses these settings: .*nett_arch"),
        ({"environment": EnvironmentSettings("CartPole-v1", kwargs={"gravty": 1})}, "gravty"),
        ({"callback": "no.Such"}, "'no.Such': expected"),
    ],
)
def test_refused_settings_leave_no_folder(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """When anything is refused, the folder that was made for the run is gone again."""
    with pytest.raises(ValueError, match=message):
        start_run(settings_for(**changes), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# -- training -----------------------------------------------------------------------------------------------------------


def test_same_seed_same_model(tmp_path: Path) -> None:
    """Two runs from the same settings end with the same bits; another seed does not."""
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = start_run(settings_for(seed=seed), tmp_path / name)
        learn(run)
        close_run(run)
        weights.append(run.model.policy.state_dict()["action_net.weight"])
    assert th.equal(weights[0], weights[1])
    assert not th.equal(weights[0], weights[2])


def test_logs_of_training(trained: Run) -> None:
    """progress.csv, TensorBoard events and evaluations.npz have what the zoo's plots look for, on every scheduled step."""
    rows = (trained.folder / "progress.csv").read_text().splitlines()
    assert {"train/approx_kl", "rollout/ep_rew_mean", "eval/mean_reward"} <= set(rows[0].split(","))
    assert len(list(trained.folder.glob("events.out.tfevents.*"))) == 1
    with np.load(trained.folder / "evaluations.npz") as evaluations:
        # A tenth of 128 steps is 12, which 2 environments make in 6 calls.
        np.testing.assert_array_equal(evaluations["timesteps"], np.arange(12, 129, 12))
        assert evaluations["results"].shape == evaluations["ep_lengths"].shape == (10, 10)
        # CartPole pays 1 a step, unnormalised.
        np.testing.assert_array_equal(evaluations["results"], evaluations["ep_lengths"])


def test_evaluation_frequency_counts_steps(tmp_path: Path) -> None:
    """An evaluation every 64 steps means every 32 calls with two environments."""
    run = start_run(settings_for(eval_freq=64), tmp_path / "run")
    learn(run)
    close_run(run)
    with np.load(run.folder / "evaluations.npz") as evaluations:
        np.testing.assert_array_equal(evaluations["timesteps"], [64, 128])


def test_callbacks_by_name(tmp_path: Path) -> None:
    """A callback that the settings name is built with its arguments."""
    name = "stable_baselines3.common.callbacks.CheckpointCallback"
    settings = settings_for(callback={name: {"save_freq": 7, "save_path": str(tmp_path)}})
    run = start_run(settings, tmp_path / "run")
    close_run(run)
    (callback,) = [callback for callback in run.callbacks if isinstance(callback, CheckpointCallback)]
    assert callback.save_freq == 7


# -- the record ---------------------------------------------------------------------------------------------------------


def test_settings_file_says_everything(trained: Run) -> None:
    """The file has the command as a shell takes it, all arguments with the defaults, seed, threads and versions."""
    record = yaml.safe_load((trained.folder / "settings.yml").read_text())
    assert record["command"] == "sb3-edu train --name 'a b'"
    assert (record["seed"], record["steps"], record["n_envs"], record["policy"]) == (3, 128, 2, "MlpPolicy")
    assert record["environment"]["id"] == "CartPole-v1"
    # Given, default of SB3's PPO, default of an extra.
    assert (record["algorithm"]["n_steps"], record["algorithm"]["clip_range"], record["algorithm"]["engine"]) == (
        32,
        0.2,
        "auto",
    )
    assert record["algorithm"]["policy_kwargs"] == {"net_arch": [8]}
    assert record["threads"]["torch"] == th.get_num_threads()
    for name, version in record["versions"].items():
        if name not in ("python", "sb3_ppo_edu"):
            assert version.split("+")[0] == metadata.version(name).split("+")[0]


def test_evaluation_file(trained: Run) -> None:
    """The file has both policies' episodes, one line for each list."""
    saved = open_run(trained.folder)
    policy, random = evaluate_run(saved, 3), evaluate_random(saved, 3)
    write_evaluation(trained, policy, random)
    text = (trained.folder / "evaluation.json").read_text()
    record = json.loads(text)
    assert record["trained"] == policy.summary()
    assert record["random"] == random.summary()
    assert (record["environment"], record["trained_steps"], record["deterministic"]) == ("CartPole-v1", 128, True)
    assert len(text.splitlines()) < 35
