"""Small files that ask for much: refused in a moment, in little memory, before anything is built."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.serialization.models import check_model
from sb3_ppo_edu.serialization.sizes import check_sizes
from sb3_ppo_edu.serialization.yaml_files import LARGEST_YAML, MOST_NODES, read_yaml
from sb3_ppo_edu.training.run import close_run, save_model, start_run
from tests.small_runs import settings_for

LEVELS = "".join(f"l{i}: &l{i} [{','.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 11))
BOMBS = {
    "aliases of aliases": ("l0: &l0 [x,x,x,x,x,x,x,x,x]\n" + LEVELS, r"aliases that stand for [\d,]+ values"),
    "an alias of itself": ("a: &a [1, *a]", "an alias of what it stands in"),
    "depth": ("[" * 50_000, "too deep"),
    "depth by lines": ("- " * 20_000, "too deep"),
    "size": ("- 1\n" * 40_000, f"more than {LARGEST_YAML:,} bytes"),
    "digits": ("a: " + "9" * 10_000, "a number of 10,000 characters"),
    "hexadecimal digits": ("a: 0x" + "f" * 10_000, "a number of 10,002 characters"),
    "minutes of minutes": ("a: 1" + ":59" * 5_000, "a number of 15,001 characters"),
    "no text": ("\udcff", "not readable as YAML"),
    "values": (f"[{'1,' * 20_000}]", "more than 10,000 values"),
    "a key twice": ("a: {b: 1, c: 2, 'b': 3}", "the key 'b' twice"),
    "half a character": ('a: "\\ud800"', "surrogates not allowed"),
    "no constant": ("a: !!bool maybe", "not readable as YAML: 'maybe'"),
    "no number": ("a: !!int ''", "not readable as YAML"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_is_bounded(name: str, tmp_path: Path) -> None:
    """What a file stands for is counted before it is built; the refusal names the file."""
    text, message = BOMBS[name]
    path = tmp_path / "settings.yml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    begin = time.monotonic()
    with pytest.raises(ValueError, match=rf"settings\.yml: .*{message}"):
        read_yaml(path)
    assert time.monotonic() - begin < 5


def test_honest_yaml_is_read(tmp_path: Path) -> None:
    """Anchors and merged mappings, as the zoo's files have them, and as many values as are allowed."""
    path = tmp_path / "settings.yml"
    path.write_text("a: &a {x: 1, y: [2, !!float 1e6]}\nb: {<<: *a, z: null}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": [2, 1e6]}, "b": {"x": 1, "y": [2, 1e6], "z": None}}
    path.write_text("")
    assert read_yaml(path) is None
    path.write_text(f"[{'1,' * (MOST_NODES - 1)}]")
    assert len(read_yaml(path)) == MOST_NODES - 1


@pytest.fixture(scope="module")
def saved() -> Any:
    """Read the attributes of a small model, and the size of its weights."""
    file = io.BytesIO()
    EduPPO("MlpPolicy", gym.make("CartPole-v1"), n_steps=8, batch_size=8, device="cpu").save(file)
    file.seek(0)
    return check_model(file, EduPPO).attributes


def box(*shape: int) -> spaces.Box:
    """Make a space whose shape is not that of its bounds, as only a file can have it."""
    space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    space._shape = shape
    return space


@pytest.mark.parametrize(
    "asked",
    [
        {"policy_kwargs": {"net_arch": [10_000_000]}},
        {"policy_kwargs": {"net_arch": {"pi": [64], "vf": [3_000, 3_000]}}},
        {"policy_kwargs": {"net_arch": [1] * 2_000}},
        {"observation_space": spaces.Discrete(10_000_000)},
        {"observation_space": box(10_000, 10_000)},
        {"observation_space": spaces.Dict({"a": spaces.Discrete(4), "b": box(10_000_000)})},
        {"action_space": spaces.Discrete(10_000_000)},
        {"action_space": spaces.MultiDiscrete([1_000_000] * 3)},
        {"n_steps": 10**9},
        {"n_envs": 10**9},
        {"n_steps": "many"},
    ],
)
def test_models_are_not_larger_than_their_files(asked: dict[str, Any], saved: dict[str, Any]) -> None:
    """Weights by spaces and widths, layers and the rollout are counted against a megabyte of weights."""
    check_sizes(saved, 1_000_000, "file")
    with pytest.raises(DamagedFileError, match="file: "):
        check_sizes({**saved, **asked}, 1_000_000, "file")


def test_weights_are_counted_by_hand(saved: dict[str, Any]) -> None:
    """CartPole has 4 inputs and 2 actions: 4·64 + 64·64 + 64·2 for the policy, 4·64 + 64·64 + 64·1 for the value."""
    weights = (4 * 64 + 64 * 64 + 64 * 2) + (4 * 64 + 64 * 64 + 64)
    check_sizes(saved, 4 * weights, "file")
    with pytest.raises(DamagedFileError, match=f"{4 * weights:,} bytes, with {4 * weights - 1:,}"):
        check_sizes(saved, 4 * weights - 1, "file")


class Endless(gym.Env[Any, Any]):
    """An episode that never ends."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start it."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go on."""
        return np.zeros(1, np.float32), 1.0, False, False, {}


gym.register("Endless-v0", f"{__name__}:Endless")
gym.register("EndsAfter50-v0", f"{__name__}:Endless", max_episode_steps=50)


@pytest.mark.parametrize(("env_id", "limit", "length"), [("Endless-v0", 70, 70), ("EndsAfter50-v0", 70, 50)])
def test_an_endless_episode_is_cut_off_and_said(
    env_id: str, limit: int, length: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step pays 1: the return is the limit, and a line says so; an environment's own limit stays."""
    settings = settings_for(env_id)
    run = start_run(settings, tmp_path / "run")
    save_model(run)
    close_run(run)
    record = yaml.safe_load((run.folder / "settings.yml").read_text())
    assert record["environment"]["id"] == env_id
    assert main(["evaluate", str(run.folder), "--episodes", "3", "--max-episode-steps", str(limit)]) == 0
    said = capsys.readouterr().out
    assert f"{length:.1f} ± 0.0" in said
    assert (f"6 of these episodes did not end in {limit} steps" in said) == (length == limit)
