"""What a release needs is found where it is, and named where it is missing."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_ppo_edu.version import __version__

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script."""
    monkeypatch.syspath_prepend(PROJECT / "benchmarks" / "house")
    return importlib.import_module("release")


def test_versions_agree(release: Any) -> None:
    """The version that users cite is the package's, and the script reads it without importing the package."""
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert release.version() == __version__ == citation["version"]


def test_what_is_missing_is_named(release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version in a file, an unfinished changelog, no address, uncommitted changes: one sentence for each."""
    (tmp_path / "sb3_ppo_edu").mkdir()
    (tmp_path / "sb3_ppo_edu" / "version.py").write_text('__version__ = "7.8"\n')
    (tmp_path / "CITATION.cff").write_text("version: 7.7\n")
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    (tmp_path / "setup.cfg").write_text("[publish]\nrepository =\n")
    for words in (["init", "-q"], ["add", "setup.cfg"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(release, "PROJECT", tmp_path)
    missing = release.what_is_missing()
    assert [line.split(":")[0] for line in missing] == ["CITATION.cff", "CHANGELOG.md", "setup.cfg", "git"]
    (tmp_path / "CITATION.cff").write_text("version: 7.8\n")
    (tmp_path / "CHANGELOG.md").write_text("## [7.8] - 2026-01-01\n")
    (tmp_path / "setup.cfg").write_text("[publish]\nrepository = https://example.org/x\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["add", "."], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert release.what_is_missing() == []


def test_the_first_lines_of_the_readme_are_tried(release: Any) -> None:
    """They import, train and save."""
    lines = release.five_lines()
    assert "import EduPPO" in lines and ".learn(" in lines and ".save(" in lines


def test_what_was_tried_is_written_down(release: Any, tmp_path: Path) -> None:
    """A line a file with its size; seconds for those that were installed."""
    files = [tmp_path / "a.tar.gz", tmp_path / "b.whl"]
    for file in files:
        file.write_bytes(bytes(2048))
    lines = release.page(files, {files[0]: (61.2, 4.4)}).splitlines()
    assert lines[0] == f"# Release {__version__}"
    assert lines[-2:] == [
        "| `a.tar.gz` | 2 | 61 s, then the README's lines: 4 s |",
        "| `b.whl` | 2 | not installed here |",
    ]


def test_addresses_come_from_one_setting(tmp_path: Path) -> None:
    """With the repository filled in, the metadata names source, issues, changelog and documentation; without it none."""
    text = (PROJECT / "setup.cfg").read_text(encoding="utf-8")
    for address in ("", "https://example.org/ppo"):
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
        (tmp_path / "setup.cfg").write_text(text.replace("repository =", f"repository = {address}"), encoding="utf-8")
        for name in ("sb3_ppo_edu", "hyperparams"):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(PROJECT / name)
        words = ["setup.py", "egg_info", "--egg-base", "."]
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        metadata = (tmp_path / "sb3_ppo_edu.egg-info" / "PKG-INFO").read_text(encoding="utf-8")
        found = {line for line in metadata.splitlines() if line.startswith("Project-URL: ")}
        assert len(found) == (4 if address else 0)
        assert all(line.split(", ")[1].startswith(address) for line in found)


@pytest.mark.parametrize("path", sorted((PROJECT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml(path: Path) -> None:
    """They can be read, and commands and files that a workflow names exist."""
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    for word in text.split():
        if word.startswith(("tests/", "benchmarks/", ".ci/")) or word.startswith("../benchmarks/"):
            assert (PROJECT / word.removeprefix("../")).exists(), word


def test_upgrade_notes_name_what_moved() -> None:
    """The table has each module of the package that forwards to another, with its new place, and nothing else."""
    call = r'forward\(__name__, "([\w.]+)"'
    files = [path for path in (PROJECT / "sb3_ppo_edu").rglob("*.py") if len(path.read_text(encoding="utf-8")) < 500]
    moved = {
        ".".join(path.relative_to(PROJECT).with_suffix("").parts): new
        for path in files
        for new in re.findall(call, path.read_text(encoding="utf-8"))
    }
    notes = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Upgrade notes")[2].partition("\n### ")[0]
    assert dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", notes, re.MULTILINE)) == moved
    assert len(moved) > 10
