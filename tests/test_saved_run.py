"""A saved run is found as it was, or refused by name, and evaluated on the same episodes as everyone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.training.run import Run, close_run, save_model, start_run
from sb3_ppo_edu.training.saved_run import evaluate_random, evaluate_run, open_run
from tests.small_runs import settings_for, train_and_save


class PaysActions(gym.Env[Any, Any]):
    """Ten steps, each of which pays the action; every episode is the same."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(7)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Pay the action."""
        self.steps += 1
        return np.zeros(1, np.float32), float(action), self.steps == 10, False, {}


gym.register("PaysActions-v0", f"{__name__}:PaysActions")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train and save a run with everything that has to survive in its folder."""
    return train_and_save(tmp_path_factory.mktemp("runs") / "deep" / "run")


def test_saved_model_is_the_trained_model(trained: Run) -> None:
    """Every parameter comes back from the folder with the same bits, and nothing half-written lies beside it."""
    loaded = open_run(trained.folder).load_model()
    expected = trained.model.policy.state_dict()
    assert all(th.equal(value, expected[name]) for name, value in loaded.policy.state_dict().items())
    assert loaded.num_timesteps == trained.model.num_timesteps == 128
    assert not list(trained.folder.glob(".*"))


def test_saved_statistics_are_the_training_statistics(trained: Run) -> None:
    """A run's environment normalises observations as training did at its end."""
    env: Any = open_run(trained.folder).make_env()
    training: Any = trained.model.get_vec_normalize_env()
    assert isinstance(env, VecNormalize)
    loaded_statistics: Any = env.obs_rms
    np.testing.assert_array_equal(loaded_statistics.mean, training.obs_rms.mean)
    assert not env.training
    assert not env.norm_reward


def test_run_is_found_as_it_was(trained: Run) -> None:
    """Environment and seed come back from the folder."""
    saved = open_run(trained.folder)
    assert saved.environment == trained.settings.environment
    assert saved.seed == 3
    assert saved.statistics == trained.folder / "vecnormalize.pkl"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no such folder"),
        (lambda folder: (folder / "model.zip").unlink(), "model.zip missing"),
        (lambda folder: (folder / "settings.yml").unlink(), "settings.yml missing"),
        (lambda folder: (folder / "vecnormalize.pkl").unlink(), "vecnormalize.pkl missing"),
        (lambda folder: (folder / "settings.yml").write_text("[1"), "expected the settings of a run"),
        (lambda folder: (folder / "settings.yml").write_text("- 1"), "expected the settings of a run"),
        (lambda folder: (folder / "settings.yml").write_text("seed: 1"), "expected the settings of a run"),
        (lambda folder: (folder / "settings.yml").write_text("{seed: 1, environment: {idd: x}}"), "expected the settings"),
    ],
)
def test_incomplete_run_is_refused(trained: Run, tmp_path: Path, spoil: Any, message: str) -> None:
    """What is missing or spoilt in a run's folder is named."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    spoil(folder)
    with pytest.raises(ValueError) as caught:
        open_run(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)


def test_missing_run_names_those_there_are(trained: Run) -> None:
    """A misspelt run is answered with the runs in the same place."""
    with pytest.raises(ValueError, match=rf"{trained.folder.parent} has run$"):
        open_run(trained.folder.parent / "rum")


def test_trained_and_random_play_the_same_episodes(trained: Run) -> None:
    """Both are judged on the same seeds, with the environment's own rewards, and the same each time."""
    saved = open_run(trained.folder)
    policy, random = evaluate_run(saved, 7), evaluate_random(saved, 7)
    assert policy.seeds == random.seeds == list(range(10_000, 10_007))
    # CartPole pays 1 a step; normalised rewards would not add up to the length.
    assert policy.returns == policy.lengths
    assert random.returns == random.lengths
    assert evaluate_run(saved, 7) == policy
    assert evaluate_random(saved, 7) == random
    assert evaluate_random(saved, 7, 0).returns != random.returns


def test_stochastic_evaluation_is_reproducible(tmp_path: Path) -> None:
    """Sampled actions come from the evaluation's seed, whatever was drawn before, and are not the most likely ones."""
    run = start_run(settings_for("PaysActions-v0"), tmp_path / "run")
    save_model(run)
    close_run(run)
    saved = open_run(run.folder)
    first = evaluate_run(saved, 4, deterministic=False).returns
    th.rand(3)
    assert evaluate_run(saved, 4, deterministic=False).returns == first
    assert evaluate_run(saved, 4, 0, deterministic=False).returns != first
    assert len(set(evaluate_run(saved, 4).returns)) == 1 < len(set(first))


def test_no_episodes_are_refused(trained: Run) -> None:
    """Zero episodes have no mean."""
    with pytest.raises(ValueError, match=r"episodes=0: expected a positive integer"):
        evaluate_run(open_run(trained.folder), 0)


@pytest.mark.parametrize("command", ["evaluate", "enjoy", "export"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    command: str, value: float, trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's file is named, not the settings, and nothing is written."""
    folder = shutil.copytree(trained.folder, tmp_path / "run")
    model = open_run(folder).load_model()
    policy: Any = model.policy
    th.nn.init.constant_(policy.action_net.weight, value)
    model.save(folder / "model.zip")
    before = sorted(folder.rglob("*"))
    assert main([command, str(folder), *(["--gif", str(folder / "film.gif")] if command == "enjoy" else [])]) == 2
    said = capsys.readouterr().err
    assert f"model {folder}/model.zip: found NaN or infinity in action_net.weight, expected finite weights" in said
    assert sorted(folder.rglob("*")) == before
