"""``sb3-edu train``: what it leaves, what it refuses, and how it stops."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from tests.command_line import TINY, process_restored, train, train_with_everything

_restored = pytest.fixture(autouse=True)(process_restored)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run with everything on, and what was printed."""
    return train_with_everything(tmp_path_factory.mktemp("runs"))


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


def test_schedules_and_objectives_are_typed(tmp_path: Path) -> None:
    """Text for every scheduled argument, and an objective with its arguments: both are in the record and in the model."""
    penalty = "sb3_ppo_edu.functional.kl.KLPenaltyObjective"
    typed = {"learning_rate": "kl_1000_0.001", "clip_range": "cos_0.4_0.2", "ent_coef": "warmup_0.1_exp_0.1_0.01"}
    flags = [word for name, text in typed.items() for word in (f"--{name.replace('_', '-')}", text)]
    assert train(tmp_path, *flags, "--objective", f"{{{penalty}: {{d_targ: 1000.0}}}}", "--no-replay") == 0
    settings = yaml.safe_load((tmp_path / "run" / "settings.yml").read_text())["algorithm"]
    assert {name: settings[name] for name in typed} == typed and settings["objective"] == {penalty: {"d_targ": 1000.0}}
    model: Any = EduPPO.load(tmp_path / "run" / "model.zip", trusted=False)
    assert model.learning_rate.rate > 0.001 and model.objective.beta < 1.0


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
    "negative seed": (["--seed", "-1"], ["--seed: found '-1'", "expected a whole number from 0 to 4294967295"]),
    "no steps": (["--steps", "0"], ["--steps: found '0', expected a positive whole number"]),
    "negative steps": (["--steps", "-5"], ["--steps: found '-5', expected a positive whole number"]),
    "steps that are no number": (["--steps", "many"], ["--steps: found 'many', expected a positive whole number"]),
    "no environments": (["--n-envs", "0"], ["--n-envs: found '0', expected"]),
    "no episodes": (["--eval-episodes", "0"], ["--eval-episodes: found '0', expected"]),
    "misspelt flag": (["--learning-rat", "1e-3"], ["unknown argument '--learning-rat'", "did you mean '--learning-rate'?"]),
    "flag of the zoo": (["--n-timesteps", "1000"], ["unknown argument '--n-timesteps'", "did you mean '--steps'?"]),
    "misspelt flag with value": (["--gama=1"], ["unknown argument '--gama'", "did you mean '--gamma'?"]),
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
    ("number", "exit_code", "flags"),
    [
        (signal.SIGINT, 130, []),
        # Each signal and each flag by itself is above or below.
        pytest.param(signal.SIGTERM, 143, [], marks=pytest.mark.slow),
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


def test_interrupt_after_training_keeps_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C during the final evaluation: exit code 130, and the model is there."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_ppo_edu.cli.training.evaluate_run", interrupt)
    assert train(tmp_path) == 130
    assert "interrupted" in capsys.readouterr().err
    EduPPO.load(tmp_path / "run" / "model.zip")
