"""``sb3-edu enjoy``: a window where there is a display, and films everywhere."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.cli.display import draw_into_memory
from tests.command_line import process_restored, train, train_with_everything

_restored = pytest.fixture(autouse=True)(process_restored)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run with everything on, and what was printed."""
    return train_with_everything(tmp_path_factory.mktemp("runs"))


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


def test_run_of_a_blind_environment_cannot_be_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command enjoy --gif says why there is no film, and leaves no file."""
    assert train(tmp_path, "--no-replay", env="Blind-v0") == 0
    assert main(["enjoy", str(tmp_path / "run"), "--gif", str(tmp_path / "film.gif")]) == 2
    assert "Blind-v0 cannot draw itself here" in capsys.readouterr().err
    assert not (tmp_path / "film.gif").exists()
