"""The speed laboratory's rows: what is read is what was written, and rows of other conditions are not mixed."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.lab.speed import rows
from sb3_ppo_edu.lab.speed.rows import Tables, read_tables
from tests.speed_measurements import TINY
from tests.speed_rows import save, training
from tests.speed_rows import tables as tables


def test_rows_of_sbx_name_more_versions(tmp_path: Path) -> None:
    """SBX's rows have the versions of its own libraries behind ours, which is no other condition."""
    now = rows.conditions("full")
    row = replace(training("cartpole-zoo", "sbx", 0, 1.0), **{**asdict(now), "versions": f"{now.versions}, jax 1"})
    rows.check_same_conditions(tmp_path, [row], now)
    with pytest.raises(ValueError, match="versions"):
        rows.check_same_conditions(tmp_path, [replace(row, versions=f"{now.versions}1")], now)


def test_fingerprint_follows_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint is stable, and another when a case or the measured rooms are others; every room exists."""
    before = rows.fingerprint()
    assert rows.fingerprint() == before
    assert re.fullmatch("[0-9a-f]{12}", before)
    with monkeypatch.context() as changed:
        changed.setattr(rows, "CASES", {"tiny": TINY})
        assert rows.fingerprint() != before
    monkeypatch.setattr(rows, "MEASURED_ROOMS", rows.MEASURED_ROOMS[:-1])
    assert rows.fingerprint() != before


def test_rows_survive_the_file(tables: Tables, tmp_path: Path) -> None:
    """What is read is what was written, values and types, the header once; columns begin with what was measured."""
    save(tables, tmp_path)
    assert read_tables(tmp_path) == tables
    lines = (tmp_path / rows.END_TO_END_FILE).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(tables.end_to_end)
    assert lines[0].startswith("case,algorithm,repetition,steps,wall_seconds,cpu_seconds,")
    assert lines[0].endswith(",size,threads,machine,versions,code")


def test_no_files_are_no_rows(tmp_path: Path) -> None:
    """A folder without files has no rows."""
    assert read_tables(tmp_path) == Tables([], [], [], [])


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    """A file of the same name with other columns is another program's: neither read nor added to."""
    (tmp_path / rows.SPLIT_FILE).write_text("case,seconds\na,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"split.csv: found the columns \['case', 'seconds'\], expected \['case', 'algo"):
        read_tables(tmp_path)


def test_machine_has_no_name() -> None:
    """The machine is described by processor, cores and system, never by its name."""
    import platform

    assert re.fullmatch(r".+, \d+ cores, \w+ \w+", machine())
    assert platform.node() not in machine()
