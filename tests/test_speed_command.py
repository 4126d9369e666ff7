"""The command ``sb3-edu bench speed`` measures, reports, and refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.lab.page import to_markdown
from sb3_ppo_edu.lab.processes import ProcessError
from sb3_ppo_edu.lab.speed import report, suite
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES
from sb3_ppo_edu.lab.speed.rows import Conditions, Tables
from sb3_ppo_edu.lab.speed.suite import Job
from tests.speed_rows import fake_child, save
from tests.speed_rows import tables as tables


def test_command_measures_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``sb3-edu bench speed`` fills the folder, says what it wrote, and a second call measures nothing."""
    asked: list[Job] = []

    def remembering(job: Job) -> list[Conditions]:
        asked.append(job)
        return fake_child(job)

    monkeypatch.setattr(suite, "run_in_child", remembering)
    command = ["bench", "speed", "--quick", "--algorithms", "autograd", "--folder", str(tmp_path / "made")]
    assert main(command) == 0
    names = [f"{name}.csv" for name in ("end_to_end", "further", "grid", "split")]
    names += [f"{name}.png" for name in ("glance", "scaling", "split")]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted([*names, "speed.html", "speed.md"])
    assert str(tmp_path / "made" / "speed.md") in capsys.readouterr().out
    # two cases: two repetitions and one split of two algorithms; two networks of the grid; imports; updates of two algorithms
    assert len(asked) == 2 * 2 * 2 + 2 * 2 + 2 + 1 + 2
    assert main(command) == 0
    assert main([*command, "--no-grid", "--repetitions", "3"]) == 0
    assert len(asked) == 17 + 2 * 2


def test_report_only_measures_nothing(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--report-only`` writes the report from the rows there are, whatever they were measured with."""
    monkeypatch.setattr(suite, "run_in_child", lambda job: pytest.fail("measured"))
    save(tables, tmp_path)
    assert main(["bench", "speed", "--report-only", "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") == to_markdown(report.make_page(tables))


def test_command_refuses_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input ends with 2 before anything is made, a measurement that fails with 1 and what it complained about."""
    folder = tmp_path / "new"
    assert main(["bench", "speed", "--cases", "cartpole", "--folder", str(folder)]) == 2
    assert "case 'cartpole': expected one of" in capsys.readouterr().err
    assert main(["bench", "speed", "--report-only", "--folder", str(folder)]) == 2
    assert not folder.exists()

    def failing(job: Job) -> list[Conditions]:
        raise ProcessError(f"{job}: on strike")

    monkeypatch.setattr(suite, "run_in_child", failing)
    assert main(["bench", "speed", "--quick", "--folder", str(folder)]) == 1
    assert re.search(r"error: end to end, cartpole-zoo, sb3, repetition 0: on strike", capsys.readouterr().err)


def test_unwritable_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is a file is refused before measuring."""
    (tmp_path / "file").touch()
    assert main(["bench", "speed", "--quick", "--folder", str(tmp_path / "file")]) == 2
    assert "file" in capsys.readouterr().err


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """The help lists every case, every algorithm and what comes by default."""
    with pytest.raises(SystemExit) as done:
        main(["bench", "speed", "--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in (*CASES, *ALGORITHMS, "--repetitions", "--report-only", "--no-grid", "benchmarks/speed", "runs/speed-quick"):
        assert name in text.replace("- ", "-")
