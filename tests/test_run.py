"""Runs: what is in a run's folder is what was trained, everyone is judged on the same episodes, nothing is overwritten."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env
from sb3_ppo_edu.training.run import (
    Evaluation,
    RandomPolicy,
    Run,
    RunSettings,
    all_arguments,
    close_run,
    default_name,
    evaluate,
    evaluate_random,
    evaluate_run,
    git_revision,
    learn,
    open_run,
    plain,
    save_model,
    settings_from_hyperparameters,
    start_run,
    versions,
    write_atomically,
    write_evaluation,
)

TINY = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}


class ShortOrLong(gym.Env[Any, Any]):
    """One step from an odd seed, twenty from an even one; a reward of 1 for each step."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Choose the length."""
        super().reset(seed=seed)
        self.left = 1 if seed is None or seed % 2 else 20
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count down."""
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


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
gym.register("ShortOrLong-v0", f"{__name__}:ShortOrLong")


def settings_for(env_id: str = "CartPole-v1", **changes: Any) -> RunSettings:
    """
    Give the settings of a very short run.

    :param env_id: environment
    :param changes: other settings
    :return: the settings
    """
    values: dict[str, Any] = {"environment": EnvironmentSettings(env_id), "algorithm": TINY, "steps": 128, "n_envs": 2}
    return RunSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train and save a run with everything that has to survive in its folder."""
    environment = EnvironmentSettings("CartPole-v1", normalize={"norm_obs": True, "norm_reward": True, "gamma": 0.9})
    settings = settings_for(environment=environment, seed=3, algorithm={**TINY, "gamma": 0.9})
    run = start_run(settings, tmp_path_factory.mktemp("runs") / "deep" / "run", ["sb3-edu", "train", "--name", "a b"])
    learn(run)
    save_model(run)
    close_run(run)
    return run


# -- settings ----------------------------------------------------------------------------------------------------------


def test_flat_settings_are_sorted() -> None:
    """What the zoo consumes goes to environment and run, the rest to the algorithm."""
    flat = {
        "policy": "MlpPolicy",
        "n_envs": 4,
        "n_timesteps": 500,
        "normalize": {"norm_reward": False},
        "env_kwargs": {"gravity": 5.0},
        "frame_stack": 2,
        "env_wrapper": "a.B",
        "vec_env_wrapper": "c.D",
        "callback": "e.F",
        "monitor_kwargs": {"info_keywords": ("x",)},
        "gamma": 0.9,
        "learning_rate": "lin_0.01",
    }
    settings = settings_from_hyperparameters("CartPole-v1", flat, seed=5, eval_freq=50, device="cpu", verbose=1)
    environment = EnvironmentSettings(
        "CartPole-v1", {"gravity": 5.0}, "a.B", "c.D", 2, {"info_keywords": ("x",)}, {"norm_reward": False}
    )
    algorithm = {"gamma": 0.9, "learning_rate": "lin_0.01"}
    assert settings == RunSettings(environment, "MlpPolicy", algorithm, 500, 5, 4, "e.F", 50, "cpu", 1)


def test_steps_go_before_the_files() -> None:
    """Steps that are given count; without any, in the call or the file, nothing says when to stop."""
    assert settings_from_hyperparameters("CartPole-v1", {"n_timesteps": 500}, steps=7).steps == 7
    with pytest.raises(ValueError, match=r"n_timesteps: .*CartPole-v1.* give --steps"):
        settings_from_hyperparameters("CartPole-v1", {})


def test_no_normalisation_is_none() -> None:
    """``False``, as the YAML reader gives it, means none."""
    assert settings_from_hyperparameters("CartPole-v1", {"normalize": False}, steps=1).environment.normalize is None


def test_rollout_buffer_by_name() -> None:
    """A rollout buffer class may be named."""
    name = "stable_baselines3.common.buffers.RolloutBuffer"
    settings = settings_from_hyperparameters("CartPole-v1", {"rollout_buffer_class": name}, steps=1)
    assert settings.algorithm["rollout_buffer_class"].__name__ == "RolloutBuffer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps=0: expected a positive integer"),
        ({"n_envs": 0}, "n_envs=0: expected"),
        ({"eval_freq": -1}, "eval_freq=-1: expected"),
        ({"seed": -1}, "seed=-1: expected"),
        ({"seed": 2**32}, "seed=4294967296: expected"),
        ({"device": "cudaa"}, "device='cudaa': expected"),
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    """Settings that cannot be trained with say which, what was found and what is expected."""
    with pytest.raises(ValueError) as caught:
        settings_for(**changes)
    assert message in str(caught.value)


# -- the folder --------------------------------------------------------------------------------------------------------


def test_name_of_a_run() -> None:
    """Environment, seed and time, and nothing that means something in a path."""
    assert default_name("ale_py:ALE/Pong-v5", 3, datetime(2024, 1, 2, 3, 4, 5)) == "ale_py-ALE-Pong-v5-3-20240102-030405"


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


def test_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    """If writing fails half-way, the old file is as it was and nothing is left beside it; else the new one stands alone."""
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("hal")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    os.link(path, tmp_path / "also_old.txt")
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    # A second name for the old file still has it: the new one took its place and was not written over it.
    assert (tmp_path / "also_old.txt").read_text() == "old"


# -- training ----------------------------------------------------------------------------------------------------------


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


# -- the record --------------------------------------------------------------------------------------------------------


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


def test_run_is_found_as_it_was(trained: Run) -> None:
    """Environment and seed come back from the folder."""
    saved = open_run(trained.folder)
    assert saved.environment == trained.settings.environment
    assert saved.seed == 3
    assert saved.statistics == trained.folder / "vecnormalize.pkl"


def test_all_arguments_are_the_constructors() -> None:
    """Every argument that a run does not hold itself is there, given or default."""
    arguments = all_arguments({"gamma": 0.5})
    assert arguments["gamma"] == 0.5
    assert arguments["dual_clip"] is None
    assert not {"self", "policy", "env", "seed", "device", "verbose", "_init_setup_model"} & set(arguments)


def test_plain_values() -> None:
    """What YAML cannot say becomes what it can: tuples lists, classes names, numpy numbers numbers, the rest text."""
    value = {"a": (1, np.float64(2.5)), 3: th.nn.ReLU, "path": Path("x"), "none": None, "flag": True}
    expected = {
        "a": [1, 2.5],
        "3": "torch.nn.modules.activation.ReLU",
        "path": "x",
        "none": None,
        "flag": True,
    }
    assert plain(value) == expected


def test_versions_name_the_libraries() -> None:
    """All that numbers depend on is listed."""
    assert set(versions()) == {"sb3_ppo_edu", "python", "torch", "stable_baselines3", "gymnasium", "numpy"}


def test_git_revision(tmp_path: Path) -> None:
    """The commit of a tracked folder, marked when the folder has changed; nothing for an untracked one."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_revision(tmp_path) is None
    git("init")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "file.py").write_text("1")
    assert git_revision(tmp_path / "code") is None
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert git_revision(tmp_path / "code") == head
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "file.py").write_text("2")
    assert git_revision(tmp_path / "code") == head
    assert git_revision(tmp_path / "installed") is None
    (tmp_path / "code" / "file.py").write_text("2")
    assert git_revision(tmp_path / "code") == head + "-dirty"


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


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3, 4])
def test_short_episodes_count_no_more_than_long_ones(n_envs: int) -> None:
    """Ten seeds are played once each, five odd and five even, however many environments share them and in seed order."""
    env = make_evaluation_env(EnvironmentSettings("ShortOrLong-v0"), n_envs, first_seed=100)
    evaluation = evaluate(RandomPolicy(env.action_space, n_envs, 0), env, 10)
    assert evaluation == Evaluation(list(range(100, 110)), [20.0, 1.0] * 5, [20, 1] * 5)


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


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.Box(-2.0, 3.0, (2,)), spaces.MultiDiscrete([2, 3])])
def test_random_actions_come_from_their_seed(space: spaces.Space) -> None:
    """Random actions lie in the space, repeat with their seed, and leave the environment's own space alone."""
    space.seed(1)
    expected_next = space.sample()
    space.seed(1)
    actions = [RandomPolicy(space, 4, seed).predict(np.zeros((4, 1)))[0] for seed in (7, 7, 8)]
    assert len(actions[0]) == 4
    assert all(space.contains(action) for action in actions[0])
    np.testing.assert_array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
    np.testing.assert_array_equal(space.sample(), expected_next)


def test_summary_by_hand() -> None:
    """Returns 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3, median 2."""
    summary = Evaluation([5, 6, 7], [6.0, 1.0, 2.0], [3, 3, 3]).summary()
    assert summary["mean"] == 3.0
    assert summary["std"] == pytest.approx((14 / 3) ** 0.5)
    assert (summary["n"], summary["median"], summary["min"], summary["max"]) == (3, 2.0, 1.0, 6.0)
    assert (summary["seeds"], summary["returns"], summary["lengths"]) == ([5, 6, 7], [6.0, 1.0, 2.0], [3, 3, 3])


def test_median_seed_by_hand() -> None:
    """The episode in the middle; of two, the lower."""
    assert Evaluation([5, 6, 7], [6.0, 1.0, 2.0], [1, 1, 1]).median_seed() == 7
    assert Evaluation([5, 6, 7, 8], [6.0, 1.0, 2.0, 3.0], [1, 1, 1, 1]).median_seed() == 7
    assert Evaluation([5], [6.0], [1]).median_seed() == 5


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
