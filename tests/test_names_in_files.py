"""The one gate for names in files: what a stranger's file names is known to be harmless, or refused before it is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from sb3_ppo_edu.serialization.names import check_engine_kwargs, check_named
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters
from sb3_ppo_edu.training.run import close_run, save_model, start_run
from sb3_ppo_edu.training.settings import RunSettings, check_names
from tests.small_runs import settings_for

MONITOR = "stable_baselines3.common.monitor.Monitor"
FOREIGN: list[dict[str, Any]] = [
    {"callback": "subprocess.Popen"},
    {"callback": [{"subprocess.run": {"args": ["true"]}}]},
    {"callback": {"sb3_ppo_edu.doctor.callback.TrainingDoctor": {"page": "os.system"}}},
    {"callback": {"sb3_ppo_edu.doctor.callback.TrainingDoctor": {"folder": "/tmp"}}},
    {"callback": {"stable_baselines3.common.callbacks.CheckpointCallback": {"save_freq": 1, "save_path": "/tmp"}}},
    {"env_wrapper": "antigravity.fly"},
    {"env_wrapper": "stable_baselines3.common.monitor.ResultsWriter"},
    {"env_wrapper": {MONITOR: {"filename": "elsewhere"}}},
    {"env_wrapper": {"gymnasium.wrappers.RecordVideo": {"video_folder": "elsewhere"}}},
    {"vec_env_wrapper": {"stable_baselines3.common.vec_env.VecMonitor": {"filename": "elsewhere"}}},
    {"vec_env_wrapper": "stable_baselines3.common.vec_env.VecVideoRecorder"},
    {"vec_env_wrapper": {"sb3_ppo_edu.vec_env.curiosity.Curiosity": {"width": 10**9}}},
    {"env_wrapper": {"gymnasium.wrappers.FrameStackObservation": {"stack_size": 10**9}}},
    {"env_wrapper": {"gymnasium.wrappers.ResizeObservation": {"shape": [84, 1e30]}}},
]
"""Settings in the zoo's form, each of which would run a program, import a module, write where it says, or take any memory."""
HARMLESS: list[dict[str, Any]] = [
    {"callback": "sb3_ppo_edu.doctor.callback.TrainingDoctor"},
    {"callback": [{"stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes": {"max_episodes": 3}}]},
    {"env_wrapper": "stable_baselines3.common.atari_wrappers.AtariWrapper"},
    {"env_wrapper": ["sb3_ppo_edu.envs.wrappers.ActionRepeat", {MONITOR: {"allow_early_resets": True}}]},
    {"vec_env_wrapper": {"stable_baselines3.common.vec_env.VecFrameStack": {"n_stack": 4}}},
    {"vec_env_wrapper": {"sb3_ppo_edu.vec_env.curiosity.Curiosity": {"coef": 0.5, "n_steps": 32}}},
]


def as_settings(block: dict[str, Any]) -> RunSettings:
    """Bring settings in the zoo's form into that of a run."""
    environment = EnvironmentSettings(
        "CartPole-v1", wrapper=block.get("env_wrapper"), vec_wrapper=block.get("vec_env_wrapper")
    )
    return settings_for(environment=environment, callback=block.get("callback"))


@pytest.mark.parametrize("block", FOREIGN)
def test_what_is_foreign_is_refused(block: dict[str, Any], tmp_path: Path) -> None:
    """As settings of a run and as a file of settings alike, with the file, the name and the way to trust it."""
    file = tmp_path / "settings.yml"
    file.write_text(yaml.safe_dump({"CartPole-v1": {"n_timesteps": 64, **block}}))
    with pytest.raises(UntrustedFileError, match=r"settings\.yml.*found .*--trust"):
        check_names(as_settings(block), "settings.yml")
    with pytest.raises(UntrustedFileError, match=r"settings\.yml, block 'CartPole-v1': found .*--trust"):
        load_hyperparameters("CartPole-v1", file, trusted=False)
    assert load_hyperparameters("CartPole-v1", file)["n_timesteps"] == 64


@pytest.mark.parametrize("block", HARMLESS)
def test_what_is_harmless_passes(block: dict[str, Any], tmp_path: Path) -> None:
    """Wrappers and callbacks of known packages need no trust."""
    file = tmp_path / "settings.yml"
    file.write_text(yaml.safe_dump({"CartPole-v1": block}))
    check_names(as_settings(block), "settings.yml")
    assert load_hyperparameters("CartPole-v1", file, trusted=False).items() >= block.items()


@pytest.mark.parametrize(
    "block", [{"policy": "os.PathLike"}, {"rollout_buffer_class": "queue.Queue"}, {"objective": "antigravity.Objective"}]
)
def test_algorithms_are_refused_too(block: dict[str, Any], tmp_path: Path) -> None:
    """A policy, a buffer and an objective are names as well; the flags of the command line are the user's own."""
    file = tmp_path / "settings.yml"
    file.write_text(yaml.safe_dump({"CartPole-v1": block}))
    with pytest.raises(UntrustedFileError, match=next(iter(block.values()))):
        load_hyperparameters("CartPole-v1", file, trusted=False)


def test_what_is_not_there_is_refused_with_its_file() -> None:
    """A name below a known module that has no such class is a mistake in a file, too."""
    with pytest.raises(
        ValueError, match=r"^settings\.yml: wrapper 'gymnasium\.wrappers\.os\.system': expected the dotted name"
    ):
        check_named("gymnasium.wrappers.os.system", (gym.Wrapper,), "settings.yml", "wrapper")


@pytest.mark.parametrize("kwargs", [{"compile": True}, "dict(compile=True)"])
def test_a_compiler_is_refused(kwargs: Any, tmp_path: Path) -> None:
    """torch.compile runs a compiler and keeps what it made outside of the run; options of the engine itself pass."""
    file = tmp_path / "settings.yml"
    file.write_text(yaml.safe_dump({"CartPole-v1": {"n_timesteps": 64, "engine_kwargs": kwargs}}))
    with pytest.raises(UntrustedFileError, match=r"settings\.yml, block 'CartPole-v1': found engine_kwargs=.*--trust"):
        load_hyperparameters("CartPole-v1", file, trusted=False)
    assert load_hyperparameters("CartPole-v1", file)["engine_kwargs"] == {"compile": True}
    with pytest.raises(UntrustedFileError):
        check_names(settings_for(algorithm={"engine_kwargs": {"compile": True}}), "settings.yml")
    for harmless in (None, {}, {"compile": False}, {"bf16": True}):
        check_engine_kwargs(harmless, "settings.yml")


@pytest.mark.parametrize("name", ["sb3_ppo_edu.vec_env._x.Y", "sb3_ppo_edu.__main__.main", "gymnasium.Wrapper.os.system", ""])
def test_nothing_is_imported_that_is_not_known(name: str) -> None:
    """Private modules, programs, and what only begins like a known package."""
    with pytest.raises(UntrustedFileError):
        check_named(name, (BaseCallback, gym.Wrapper, VecEnvWrapper), "file", "name")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run that has not been trained."""
    made = start_run(settings_for(), tmp_path / "run", ["sb3-edu", "train", "--env", "CartPole-v1"])
    save_model(made)
    close_run(made)
    return made.folder


@pytest.mark.parametrize("command", ["evaluate", "enjoy", "resume", "reproduce"])
@pytest.mark.parametrize("trust", [False, True])
def test_commands_import_no_module_before_a_colon(
    command: str, trust: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads a run imports ``module:id`` if it is told to trust, and refuses it otherwise."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strangers.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w').close()\nraise ImportError('enough')")
    settings = yaml.safe_load((run / "settings.yml").read_text())
    settings["environment"]["id"] = "strangers:CartPole-v1"
    settings["command"] = "sb3-edu train --trust --env strangers:CartPole-v1"
    (run / "settings.yml").write_text(yaml.safe_dump(settings))
    how = ["--gif", str(tmp_path / "film.gif")] if command == "enjoy" else []
    monkeypatch.setenv("DISPLAY", ":0")
    try:
        code = main([command, str(run), *how, *(["--trust"] if trust else [])])
    except ImportError:
        code = 1
    said = capsys.readouterr().err
    if trust:
        # resume finds no checkpoint before it comes to the environment.
        assert (tmp_path / "it_ran").exists() or "no such file; expected a checkpoint" in said
    else:
        assert code == 2
        assert "imports a module" in said
        assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    ("policy", "said"),
    [("\x1b[2J", r"policy='\x1b[2J': expected one of"), ("x" * 50_000, "policy='xxx")],
    ids=["escape", "long"],
)
def test_values_that_are_refused_are_said_with_their_file(
    policy: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence, whatever the value: as text, not longer than a screen, and with the file that it may be from."""
    file = tmp_path / "own.yml"
    file.write_text(yaml.safe_dump({"CartPole-v1": {"n_timesteps": 64, "policy": policy}}))
    assert main(["train", "--env", "CartPole-v1", "--config", str(file), "--folder", str(tmp_path), "--name", "x"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(file) in error
    assert len(error) < 5000
    assert not (tmp_path / "x").exists()
