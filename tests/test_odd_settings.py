"""
A file of settings with anything in it is taken, or refused with exit code 2 in one sentence that names the file.

``benchmarks/durability/fuzz.py`` measures time and memory of the same commands, in processes of their own.
"""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.training.run import Run, close_run
from tests.command_line import Blind, process_restored

DURABILITY = Path(__file__).parents[1] / "benchmarks" / "durability"
FILES = 25
"""For each command."""

_restored = pytest.fixture(autouse=True)(process_restored)


@pytest.fixture(scope="module")
def odd_settings() -> Any:
    """The benchmark's files."""
    sys.path.insert(0, str(DURABILITY))
    try:
        return import_module("odd_settings")
    finally:
        sys.path.remove(str(DURABILITY))


@pytest.fixture(scope="module")
def folder(odd_settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings in the zoo's form, and a run that was trained with them."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "zoo.yml").write_text(yaml.safe_dump(odd_settings.ZOO))
    words = ["--config", str(folder / "zoo.yml"), "--folder", str(folder), "--name", "r", "--checkpoint-freq", "64"]
    assert main(["train", *WORDS["train"], *words, "--eval-episodes", "1", "--eval-freq", "64", "--no-replay"]) == 0
    return folder


def end_at_once(run: Run, arguments: Any, source: Path, flags: Any = None) -> int:
    """Stand where a run that could be started is trained."""
    close_run(run)
    return 0


WORDS = {
    "evaluate": ["--episodes", "1", "--max-episode-steps", "20"],
    "resume": ["--steps", "64"],
    "reproduce": [],
    "train": ["--env", "CartPole-v1", "--steps", "64"],
}


@pytest.mark.parametrize("command", WORDS)
def test_each_file_is_taken_or_refused(
    command: str, folder: Path, odd_settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other exception gets out; a refusal is one line of at most 3,000 characters."""
    path = folder / "zoo.yml" if command == "train" else folder / "r" / "settings.yml"
    before = path.read_bytes()
    words = [command, *WORDS[command]]
    words += ["--config", str(path), "--folder", str(folder), "--name", "new"] if command == "train" else [str(path.parent)]
    for module in ("training", "resume"):
        monkeypatch.setattr(f"sb3_ppo_edu.cli.{module}.train_and_finish", end_at_once)
    monkeypatch.setattr("sb3_ppo_edu.cli.reproduce.compare_runs", lambda *folders: [])
    outcomes = []
    for content in [before, *odd_settings.draw_files(FILES, 1, yaml.safe_load(before))]:
        path.write_bytes(content)
        try:
            code = main(words)
        finally:
            path.write_bytes(before)
            for made in ("new", "r-again"):
                shutil.rmtree(folder / made, ignore_errors=True)
        said = capsys.readouterr().err
        outcomes.append(code)
        assert code in (0, 2), content
        if code == 2:
            assert len(said.splitlines()) == 1 and path.name in said and len(said) < 3000, content
    assert outcomes[0] == 0 and outcomes.count(2) > FILES // 4


CALLBACKS = "stable_baselines3.common.callbacks"


@pytest.mark.parametrize(
    ("block", "found"),
    [
        ({"n_envs": 10**6}, "n_envs=1000000: expected an integer ≥ 1 and ≤ 65536"),
        ({"frame_stack": 10**6}, "frame_stack=1000000: expected an integer ≥ 1 and ≤ 1000"),
        ({"n_timesteps": 10**400}, "a number of 401 characters"),
        ({"policy_kwargs": "dict(net_arch=[10000000000000])"}, "EduPPO refuses these settings"),
        ({"engine_kwargs": {"x": 1}}, "engine_kwargs={'x': 1}: found 'x'"),
        ({"policy_kwargs": "-" * 5000 + "1"}, "policy_kwargs: cannot read"),
        ({"callback": {f"{CALLBACKS}.StopTrainingOnMaxEpisodes": {"max_episodes": "x"}}}, "'<' not supported"),
        ({"callback": f"{CALLBACKS}.StopTrainingOnMaxEpisodes"}, "missing 1 required positional argument"),
        ({"env_wrapper": {"gymnasium.wrappers.TransformReward": {"func": "x"}}}, "'str' object is not callable"),
    ],
)
def test_what_fails_names_the_file(
    block: dict[str, Any], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before training and within: exit code 2, and one sentence with the file that is no traceback."""
    (tmp_path / "zoo.yml").write_text(yaml.safe_dump({"CartPole-v1": {"n_timesteps": 64, "n_steps": 64, **block}}))
    words = ["--env", "CartPole-v1", "--config", str(tmp_path / "zoo.yml"), "--folder", str(tmp_path), "--name", "new"]
    assert main(["train", *words]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sb3-edu train: error: ")]
    assert len(said) == 1 and f"{tmp_path}/zoo.yml" in said[0] and found in said[0]


def test_what_fails_after_training_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No episode ends within eight steps of CartPole, so that only the final evaluation asks for what is not there."""
    block = {"n_timesteps": 8, "n_steps": 8, "batch_size": 8, "monitor_kwargs": {"info_keywords": ["nowhere"]}}
    (tmp_path / "zoo.yml").write_text(yaml.safe_dump({"CartPole-v1": block}))
    words = ["--env", "CartPole-v1", "--config", str(tmp_path / "zoo.yml"), "--folder", str(tmp_path), "--name", "new"]
    assert main(["train", *words, "--eval-freq", "1000", "--eval-episodes", "1", "--no-replay"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sb3-edu train: error: ") and f"{tmp_path}/zoo.yml" in said and "nowhere" in said
    assert (tmp_path / "new" / "model.zip").is_file()


@pytest.mark.parametrize("trust", [[], ["--trust"]])
def test_what_fails_in_code_of_ones_own_shows_where(trust: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of the user's that fails has its traceback, whatever the file says."""
    (tmp_path / "zoo.yml").write_text("Blind-v0: {n_timesteps: 64, n_steps: 64}\n")
    monkeypatch.setattr(Blind, "step", lambda self, action: 1 / 0)
    words = ["--env", "Blind-v0", "--config", str(tmp_path / "zoo.yml"), "--folder", str(tmp_path), "--name", "new"]
    with pytest.raises(ZeroDivisionError):
        main(["train", *words, *trust])
