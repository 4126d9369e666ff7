"""What the command line prints can be typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sb3_ppo_edu.cli.printing import typed


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
