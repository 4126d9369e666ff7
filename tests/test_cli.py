"""The command line: what it leaves, what it refuses, and how it stops."""

from __future__ import annotations

import errno
import inspect
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import (
    Progress,
    StopOnRequest,
    build_parser,
    documented_parameters,
    draw_into_memory,
    flag_of,
    main,
    stopping_on_signals,
    typed,
    yaml_value,
)
from sb3_ppo_edu.cli.refusals import positive
from sb3_ppo_edu.training.hyperparameters import RUN_ARGUMENTS

TINY = [
    "--n-steps",
    "32",
    "--batch-size",
    "32",
    "--n-epochs",
    "2",
    "--policy-kwargs",
    "dict(net_arch=[8], activation_fn=nn.ReLU)",
]
"""Flags of a training that takes a moment."""


class Blind(gym.Env[Any, Any]):
    """Three steps, a reward of 1 for each, and nothing to see."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count."""
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, {}


class Spiky(Blind):
    """The same, but the hundredth step of its life shows an infinity."""

    def __init__(self) -> None:
        self.life = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count, and look out for the spike."""
        self.life += 1
        _, *rest = super().step(action)
        return np.full(1, np.inf if self.life == 100 else 0.0, np.float32), *rest  # type: ignore[return-value]

    def get_state(self) -> list[int]:
        """Say how old it is."""
        return [self.steps, self.life]

    def set_state(self, state: list[int]) -> None:
        """Be as old."""
        self.steps, self.life = state


gym.register("Blind-v0", f"{__name__}:Blind")
gym.register("Spiky-v0", f"{__name__}:Spiky")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Leave torch's threads and the variables for drawing as they were: the command sets them."""
    for name in ("MUJOCO_GL", "PYGAME_HIDE_SUPPORT_PROMPT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


def train(folder: Path, *arguments: str, env: str = "CartPole-v1", steps: int = 256) -> int:
    """
    Run a short ``sb3-edu train`` into ``folder/run``.

    :param folder: where
    :param arguments: further arguments
    :param env: environment
    :param steps: steps
    :return: exit code
    """
    where = ["--folder", str(folder), "--name", "run", "--eval-episodes", "5"]
    return main(["train", "--env", env, "--steps", str(steps), *where, *TINY, *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train once with everything on, and keep the folder and what was printed."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "sb3_ppo_edu", "train", "--env", "CartPole-v1", "--steps", "256", "--seed", "4"]
    command += ["--folder", str(folder), "--name", "run", "--eval-episodes", "5", "--n-envs", "2", "--normalize"]
    done = subprocess.run([*command, *TINY], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert "256/256" in done.stderr.replace(" ", "") or "100%" in done.stderr
    return folder / "run", done.stdout


# -- what a training leaves --------------------------------------------------------------------------------------------------


def test_training_leaves_everything(trained: tuple[Path, str]) -> None:
    """The folder has each promised file, and no other."""
    names = {path.name for path in trained[0].iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert names == {
        "model.zip",
        "vecnormalize.pkl",
        "settings.yml",
        "evaluation.json",
        "evaluations.npz",
        "progress.csv",
        "learning_curve.png",
        "replay.gif",
        "monitor",
    }


def test_artefacts_open(trained: tuple[Path, str]) -> None:
    """Each file can be opened by what it is meant for, and agrees with the others."""
    folder, _ = trained
    model = EduPPO.load(folder / "model.zip")
    assert model.policy_kwargs["activation_fn"] is th.nn.ReLU
    settings = yaml.safe_load((folder / "settings.yml").read_text())
    assert (settings["seed"], settings["steps"], settings["n_envs"], settings["threads"]["torch"]) == (4, 256, 2, 1)
    assert settings["algorithm"]["policy_kwargs"] == {"net_arch": [8], "activation_fn": "torch.nn.modules.activation.ReLU"}
    assert settings["command"].startswith("sb3-edu train --env CartPole-v1")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["trained_steps"] == model.num_timesteps == 256
    for who in ("trained", "random"):
        episodes = evaluation[who]
        assert episodes["seeds"] == list(range(10_000, 10_005))
        # CartPole pays 1 a step: these are true returns, not normalised ones.
        assert episodes["returns"] == episodes["lengths"]
        assert episodes["mean"] == pytest.approx(np.mean(episodes["returns"]))
    events = EventAccumulator(str(folder)).Reload()
    assert {"rollout/ep_rew_mean", "train/loss", "eval/mean_reward"} <= set(events.Tags()["scalars"])
    assert "train/approx_kl" in (folder / "progress.csv").read_text().splitlines()[0]
    with np.load(folder / "evaluations.npz") as evaluations:
        assert len(evaluations["timesteps"]) == 10
    with Image.open(folder / "learning_curve.png") as image:
        assert image.width >= 1000
    lengths, returns = evaluation["trained"]["lengths"], evaluation["trained"]["returns"]
    with Image.open(folder / "replay.gif") as image:
        durations = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            durations.append(image.info["duration"])
    # The episode with the median return, at CartPole's fifty steps a second.
    assert sum(durations) == 20 * lengths[returns.index(sorted(returns)[2])]
    assert (folder / "replay.gif").stat().st_size < 2_000_000


def test_training_prints_what_to_know(trained: tuple[Path, str]) -> None:
    """The end of the output says where everything is, how trained and random compare, and what to type next."""
    folder, printed = trained
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for name in ("model.zip", "vecnormalize.pkl", "settings.yml", "evaluation.json", "learning_curve.png", "replay.gif"):
        assert name in printed
    for who in ("trained", "random"):
        assert f"{evaluation[who]['mean']:.1f} ± {evaluation[who]['std']:.1f}" in printed
    for what in (f"enjoy {folder}", f"evaluate {folder}", f"--logdir {folder.parent}", "engine: ", "seed 4, 2 environments"):
        assert what in printed


def test_blind_environment_trains_without_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be drawn, the run says so and has everything else."""
    assert train(tmp_path, env="Blind-v0") == 0
    assert "No replay.gif: Blind-v0 cannot draw itself here" in capsys.readouterr().out.replace("\n", " ")
    assert not (tmp_path / "run" / "replay.gif").exists()
    assert (tmp_path / "run" / "learning_curve.png").exists()


def test_no_replay_when_not_wanted(tmp_path: Path) -> None:
    """--no-replay leaves it out, --no-normalize the statistics."""
    assert train(tmp_path, "--no-replay", "--no-normalize") == 0
    assert not (tmp_path / "run" / "replay.gif").exists()
    assert not (tmp_path / "run" / "vecnormalize.pkl").exists()


def test_settings_come_from_file_and_flags(tmp_path: Path) -> None:
    """The file goes over the defaults and the flags go over the file, also where 3e-4 is not a number to YAML."""
    config = tmp_path / "settings.yml"
    config.write_text("CartPole-v1: {n_timesteps: 99, n_envs: 3, gamma: 0.5, learning_rate: 0.1, target_kl: 0.2}")
    flags = [
        "--threads",
        "2",
        "--config",
        str(config),
        "--learning-rate",
        "3e-4",
        "--target-kl",
        "null",
        "--engine",
        "autograd",
        "--no-replay",
    ]
    assert train(tmp_path, *flags) == 0
    record = yaml.safe_load((tmp_path / "run" / "settings.yml").read_text())
    algorithm = record["algorithm"]
    assert (record["n_envs"], record["steps"], algorithm["gamma"], algorithm["learning_rate"]) == (3, 256, 0.5, 3e-4)
    assert (algorithm["target_kl"], algorithm["engine"], record["threads"]["torch"]) == (None, "autograd", 2)


def test_environment_arguments(tmp_path: Path) -> None:
    """--env-kwargs reaches the environment, in the zoo's form too."""
    assert train(tmp_path, "--no-replay", "--env-kwargs", "dict(sutton_barto_reward=True)") == 0
    # With Sutton and Barto's reward CartPole pays nothing but -1 at the fall.
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert record["random"]["returns"] == [-1.0] * 5


def test_failed_update_saves_the_last_finite_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When numbers overflow, exit code 1, one error, and a model whose parameters are finite."""
    assert train(tmp_path, "--learning-rate", "1e30", "--engine", "autograd", "--max-grad-norm", "1e30") == 1
    captured = capsys.readouterr()
    assert "sb3-edu train: error: " in captured.err
    assert "The model is saved in" in captured.out
    parameters = EduPPO.load(tmp_path / "run" / "model.zip").policy.state_dict()
    assert all(bool(th.isfinite(value).all()) for value in parameters.values())


def test_a_fault_ends_training_and_names_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    An infinity at step 100 ends training there with exit code 1, and says so in two lines that name the checkpoint of step 80.

    Resumed, the run comes to the same step and ends in the same way; told to warn from there on, it goes on to its end.
    """
    arguments = ["--n-envs", "1", "--normalize", "--checkpoint-freq", "40", "--no-replay"]
    assert train(tmp_path, *arguments, env="Spiky-v0") == 1
    run = tmp_path / "run"
    captured = capsys.readouterr()
    fault = "sb3-edu train: error: environment 0, step 1 of its episode, 100 of all environments together: observation[0]: "
    assert f"{fault}found inf, expected finite numbers" in captured.err
    assert f"The last good checkpoint is {run / 'checkpoints' / 'checkpoint-000000000080.zip'}." in captured.err
    assert "Traceback" not in captured.err
    assert "resume" in captured.out
    assert yaml.safe_load((run / "settings.yml").read_text())["on_fault"] == "raise"

    resume = ["resume", str(run), "--no-replay", "--eval-episodes", "5"]
    assert main(resume) == 1
    assert fault in capsys.readouterr().err
    with pytest.warns(UserWarning, match="100 of all environments together: .* 0 is put in its place"):
        assert main([*resume, "--on-fault", "warn"]) == 0
    statistics = EduPPO.load(run / "model.zip").policy.state_dict().values()
    assert all(bool(th.isfinite(value).all()) for value in statistics)


def test_runs_without_a_guard_are_resumed_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run made with "off", or before there was a guard, has no such layer, and gets none."""
    assert train(tmp_path, "--on-fault", "off", "--checkpoint-freq", "100", "--no-replay") == 0
    path = tmp_path / "run" / "settings.yml"
    settings = yaml.safe_load(path.read_text())
    assert settings.pop("on_fault") == "off"
    path.write_text(yaml.safe_dump(settings))
    resume = ["resume", str(tmp_path / "run"), "--no-replay", "--eval-episodes", "5"]
    assert main(resume) == 0
    capsys.readouterr()
    assert main([*resume, "--on-fault", "warn"]) == 2
    assert "on_fault='warn': found a run that was made with 'off'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_progress_shows_on_a_terminal_without_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pseudo-terminals of CI and containers say that they have no rows and columns; the bar shows there too."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress(1000)
        progress.num_timesteps = 1024
        progress._on_step()
        progress.close()
        terminal.flush()
        shown = os.read(master, 10_000).decode()
    os.close(master)
    # The last rollout goes beyond the total, the bar does not.
    assert "training: 100%" in shown
    assert "1.00k/1.00k" in shown


# -- evaluate and enjoy ------------------------------------------------------------------------------------------------------


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


def test_enjoy_films_an_episode(trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--gif makes a film of the seed's episode."""
    assert main(["enjoy", str(trained[0]), "--gif", str(tmp_path / "film.gif"), "--seed", "10001"]) == 0
    returned = json.loads((trained[0] / "evaluation.json").read_text())["trained"]["returns"][1]
    assert f"seed 10001, return {returned:.1f}" in capsys.readouterr().out
    with Image.open(tmp_path / "film.gif") as image:
        assert image.format == "GIF"


def test_enjoy_opens_a_window(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a display (pygame's dummy here) the episodes are played in a window and their returns printed."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(["enjoy", str(trained[0]), "--episodes", "1"]) == 0
    returned = json.loads((trained[0] / "evaluation.json").read_text())["trained"]["returns"][0]
    assert f"seed 10000: return {returned:.1f}" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
def test_enjoy_without_display_names_the_way_out(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a display there is no window, but a film."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["enjoy", str(trained[0])]) == 2
    assert "no window: neither DISPLAY nor WAYLAND_DISPLAY is set" in (error := capsys.readouterr().err)
    assert "--gif FILE" in error


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
def test_drawing_needs_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a display pygame and MuJoCo are told to draw into memory; what the user has set stays; a display is used."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    draw_into_memory()
    assert (os.environ["SDL_VIDEODRIVER"], os.environ["MUJOCO_GL"]) == ("dummy", "egl")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    draw_into_memory()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    draw_into_memory()
    assert "MUJOCO_GL" not in os.environ


# -- bad input ---------------------------------------------------------------------------------------------------------------


BAD_INPUT = {
    "unknown environment": (["--env", "CartPole-v1x"], ["'CartPole-v1x'", "did you mean 'CartPole-v1'?"]),
    "retired environment": (["--env", "LunarLander-v2"], ["'LunarLander-v2'", "did you mean 'LunarLander-v3'?"]),
    "misspelt value": (["--engine", "fussed"], ["engine='fussed'", "'auto', 'autograd', 'numpy', 'fused'"]),
    "value of the wrong type": (["--n-steps", "many"], ["n_steps='many'", "expected an integer"]),
    "value out of range": (["--gamma", "1.5"], ["gamma=1.5", "expected a finite number"]),
    "batch too small": (["--batch-size", "1"], ["batch_size=1", "expected an integer ≥ 2"]),
    "impossible combination": (["--kl-check", "epoch"], ["kl_check='epoch'", "target_kl"]),
    "unknown policy": (["--policy", "MlpPolcy"], ["policy='MlpPolcy'", "MlpPolicy"]),
    "unknown policy argument": (["--policy-kwargs", "dict(nett_arch=[8])"], ["nett_arch"]),
    "unreadable policy arguments": (
        ["--policy-kwargs", "dict(net_arch=[8"],
        ["--policy-kwargs: cannot read 'dict(net_arch=[8'"],
    ),
    "unknown environment argument": (["--env-kwargs", "{gravty: 1}"], ["CartPole-v1", "gravty"]),
    "unknown buffer": (["--rollout-buffer-class", "a.B"], ["'a.B'", "expected the dotted name"]),
    "unknown device": (["--device", "cudaa"], ["device='cudaa'", "'cpu', 'cuda'"]),
    "negative seed": (["--seed", "-1"], ["seed=-1", "expected an integer from 0"]),
    "no steps": (["--steps", "0"], ["--steps: found '0', expected a positive whole number"]),
    "negative steps": (["--steps", "-5"], ["--steps: found '-5', expected a positive whole number"]),
    "steps that are no number": (["--steps", "many"], ["--steps: found 'many', expected a positive whole number"]),
    "no environments": (["--n-envs", "0"], ["--n-envs: found '0', expected"]),
    "no episodes": (["--eval-episodes", "0"], ["--eval-episodes: found '0', expected"]),
    "misspelt flag": (["--learning-rat", "1e-3"], ["unknown argument '--learning-rat'", "did you mean '--learning-rate'?"]),
    "flag of the zoo": (["--n-timesteps", "1000"], ["unknown argument '--n-timesteps'", "did you mean '--steps'?"]),
    "misspelt flag with value": (["--gama=1"], ["unknown argument '--gama=1'", "did you mean '--gamma'?"]),
    "name that is a path": (["--name", "a/b"], ["--name 'a/b'", "--folder"]),
    "run that exists": (["--name", "precious"], ["precious: it exists", "choose another --name"]),
    "folder in a file": (["--folder", "file"], ["cannot be created (Not a directory)", "choose another --folder"]),
    "missing file": (["--config", "none.yml"], ["none.yml: no such file"]),
    "file that is no mapping": (["--config", "list.yml"], ["list.yml: expected a mapping", "found list"]),
    "file that is no YAML": (["--config", "broken.yml"], ["broken.yml: not readable as YAML"]),
    "misspelt hyperparameter": (["--config", "typo.yml"], ["typo.yml", "'n_stpes'", "'n_steps'"]),
}
"""What is wrong -> arguments, and what the error has to say."""


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_training(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one error on stderr that says what, where, found and expected, and not a file more than before."""
    arguments, expected = BAD_INPUT[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "list.yml").write_text("- 1\n")
    (tmp_path / "broken.yml").write_text("a: [1\n")
    (tmp_path / "typo.yml").write_text("CartPole-v1: {n_timesteps: 100, n_stpes: 32}\n")
    (tmp_path / "runs" / "precious").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    env = [] if "--env" in arguments else ["--env", "CartPole-v1"]
    try:
        exit_code = main(["train", *env, *arguments])
    except SystemExit as stopped:
        exit_code = int(stopped.code or 0)
    captured = capsys.readouterr()
    assert exit_code == 2
    assert captured.err.startswith("sb3-edu train: error: ")
    assert "Traceback" not in captured.err
    for part in expected:
        assert part in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_unwritable_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this user may not write, the error says so."""
    if os.geteuid() == 0:  # root may write anywhere: let the system's refusal be played

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        tmp_path.chmod(0o500)
    assert train(tmp_path) == 2
    assert "cannot be created (Permission denied)" in capsys.readouterr().err


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


def test_run_of_a_blind_environment_cannot_be_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command enjoy --gif says why there is no film, and leaves no file."""
    assert train(tmp_path, "--no-replay", env="Blind-v0") == 0
    assert main(["enjoy", str(tmp_path / "run"), "--gif", str(tmp_path / "film.gif")]) == 2
    assert "Blind-v0 cannot draw itself here" in capsys.readouterr().err
    assert not (tmp_path / "film.gif").exists()


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "exit_code", "flags"),
    [
        (signal.SIGINT, 130, []),
        (signal.SIGTERM, 143, []),
        (signal.SIGTERM, 143, ["--checkpoint-freq", "100000000"]),
        (signal.SIGTERM, 143, ["--vec-env", "subproc", "--n-envs", "1"]),
    ],
)
def test_interrupted_training_is_saved(number: int, exit_code: int, flags: list[str], tmp_path: Path) -> None:
    """
    Ctrl-C and SIGTERM end training with a shell's exit codes, say where the model is, and the model goes on to act.

    The signal goes to the whole process group, as from a terminal or a cluster.
    """
    command = [sys.executable, "-m", "sb3_ppo_edu", "train", "--env", "CartPole-v1", "--steps", "100000000"]
    command += ["--folder", str(tmp_path), "--name", "run", "--eval-freq", "100000000", *TINY, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    progress = tmp_path / "run" / "progress.csv"
    give_up = time.monotonic() + 120
    while not (progress.exists() and progress.read_text().count("\n") > 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < give_up, "training did not start"
        time.sleep(0.05)
    os.killpg(process.pid, number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert "Traceback" not in errors
    assert ("Stopping at the next step" in errors) == ("--checkpoint-freq" not in flags)
    assert f"The model is saved in {tmp_path / 'run'}" in printed
    assert ("To go on:" in printed) == ("--checkpoint-freq" in flags)
    assert {"model.zip", "settings.yml"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    """The first signal lets the step end, the second raises at once, and afterwards the handler is the one before."""
    before = signal.getsignal(number)
    stop = StopOnRequest()
    with stopping_on_signals(stop):
        assert stop._on_step()
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal == number
        assert not stop._on_step()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_interrupt_after_training_keeps_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C during the final evaluation: exit code 130, and the model is there."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_ppo_edu.cli.evaluate_run", interrupt)
    assert train(tmp_path) == 130
    assert "interrupted" in capsys.readouterr().err
    EduPPO.load(tmp_path / "run" / "model.zip")


# -- help and parsing --------------------------------------------------------------------------------------------------------


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """
    Get what ``--help`` prints, in one line.

    :param command: the command
    :param capsys: pytest's capture
    :return: the help
    """
    with pytest.raises(SystemExit) as stopped:
        main([*([command] if command else []), "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("command", "mentioned"),
    [
        ("", ["train", "evaluate", "enjoy", "--version"]),
        (
            "train",
            [
                *(
                    "--env",
                    "--steps",
                    "--seed",
                    "--n-envs",
                    "--normalize",
                    "--no-normalize",
                    "--env-kwargs",
                    "--config",
                    "--folder",
                ),
                *("--checkpoint-freq", "--on-fault"),
                *("--name", "--eval-episodes", "--eval-freq", "--no-replay", "--verbose", "--device", "--threads"),
                *(
                    "examples:",
                    "exit codes:",
                    "PPO, as in Stable-Baselines3",
                    "what EduPPO adds",
                    "sb3-edu train --env CartPole-v1",
                ),
            ],
        ),
        ("evaluate", ["RUN", "--episodes", "--seed", "--stochastic", "--trust", "example:"]),
        ("enjoy", ["RUN", "--gif", "--episodes", "--seed", "--stochastic", "--trust", "examples:"]),
    ],
)
def test_help_mentions_each_flag(command: str, mentioned: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains each of its flags, in groups, with examples."""
    text = help_of(command, capsys)
    for word in mentioned:
        assert word in text


def test_help_explains_each_argument_of_the_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    """Each constructor argument has a flag with the docstring's words and its default."""
    text = help_of("train", capsys)
    for name, parameter in inspect.signature(EduPPO).parameters.items():
        if name not in RUN_ARGUMENTS:
            assert flag_of(name) in text
            if parameter.default not in (None, inspect.Parameter.empty):
                assert f"(default: {parameter.default})" in text
    assert "--gae-lambda VALUE λ of GAE in [0, 1] (default: 0.95)" in text


def test_docstring_is_read() -> None:
    """Parameters over several lines become one, without markup; other fields end them."""

    class Documented:
        """
        Something.

        :param first: one ``thing``
            and :func:`package.another`, see
            :mod:`package.module`
        :param second: short
        :raises ValueError: never
        """

    assert documented_parameters(Documented) == {
        "first": "one thing and package.another, see package.module",
        "second": "short",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("0.1", 0.1),
        ("7", 7),
        ("true", True),
        ("null", None),
        ("None", None),
        ("lin_3e-4", "lin_3e-4"),
        ("[-20, 2]", [-20, 2]),
        ("{a: 1}", {"a": 1}),
        ("dict(a=[1", "dict(a=[1"),
        ("[1", "[1"),
    ],
)
def test_values_are_read_as_yaml(text: str, value: Any) -> None:
    """What a YAML file would mean, with scientific numbers; text stays text, also where it is not YAML."""
    assert yaml_value(text) == value
    assert type(yaml_value(text)) is type(value)


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("1e5", 100_000), ("50_000", 50_000)])
def test_whole_numbers(text: str, value: int) -> None:
    """Whole numbers, also as people write large ones."""
    assert positive(text) == value


def test_no_abbreviations(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag cut short is unknown rather than a guess."""
    with pytest.raises(SystemExit):
        main(["train", "--env", "CartPole-v1", "--learning", "1"])
    assert "unknown argument '--learning'" in capsys.readouterr().err


def test_commands_are_spelt_as_a_shell_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on the path by its name; else the one beside this Python, from here if that is shorter."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "some-program"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert typed("some-program") == "bin/some-program"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert typed("some-program") == "some-program"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's version."""
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("sb3_ppo_edu ")
