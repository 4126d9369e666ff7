"""The speed laboratory's report agrees with its rows, and the guide with the published ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sb3_ppo_edu.lab.page import save_page, to_markdown
from sb3_ppo_edu.lab.speed import plots, report
from sb3_ppo_edu.lab.speed import summary as numbers
from sb3_ppo_edu.lab.speed.cases import CASES, PEERS, STANDARD_CASES
from sb3_ppo_edu.lab.speed.rows import Tables, read_tables
from tests.speed_rows import PUBLISHED, save
from tests.speed_rows import tables as tables

TITLES = {CASES[key].title: key for key in STANDARD_CASES}


def text_of(tables: Tables) -> str:
    """The report as Markdown."""
    return to_markdown(report.make_page(tables))


def test_report_agrees_with_its_rows(tables: Tables, tmp_path: Path) -> None:
    """The report that is written is the one that the files' rows make, and it has the numbers worked by hand."""
    save(tables, tmp_path)
    written = save_page(report.read_page(tmp_path), tmp_path, "speed")
    assert [path.name for path in written] == ["speed.md", "speed.html", "glance.png", "split.png", "scaling.png"]
    assert all(path.stat().st_size > 1000 for path in written)
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert text == text_of(read_tables(tmp_path))
    for line in (
        "| CartPole-v1, the zoo's settings | 10.00 s | – | 3.00 [2.00, 4.00] |",
        "| CartPole-v1, the zoo's settings | 20.00 s | – | 3.00 [2.00, 4.00] | – |",
        "| CartPole-v1, the zoo's settings | – | – | ≥ 7.5 | **3.00** | ≥ 65% | **50%** |",
        "| Pendulum-v1, the zoo's settings without gSDE | 6.00 s | 1.50 [1.50, 1.50] | – |",
        "| Pendulum-v1, the zoo's settings without gSDE | 6.00 s | 0.75 [0.75, 0.75] |",
        "| Pendulum-v1, the zoo's settings without gSDE | 320 (300) | 330 (300) | – | 320 (300) |",
        "| CartPole-v1, the zoo's settings | EduPPO, kernels | 1.000 | 0.500 | 0.250 | 2.000 | 0.250 | 4.000 |",
        "| CartPole-v1, the zoo's settings | 3.200 | 0.800 | 0.200 | 0.600 | 1.600 | 50% | 0.700 |",
        "| `import sb3_ppo_edu` | 0.04 s |",
        "| EduPPO, kernels | 4.0 | 4.0 | 1.0 |",
        "| 2 × 256 | 8.00 | 0.80 |",
        "| 2 × 64 | 2,000 / 1,600 / 250 / 40 | 32,000 / 25,600 / 4,000 / 640 |",
    ):
        assert line in text.splitlines()
    flowing = " ".join(text.split())
    for sentence in (
        "The least is 0.80 (2 × 256, batch size 1,024). The kernels are slower than SB3's PPO at 1 of 4 points.",
        "The autograd engine is faster than the kernels at 1 of 4: 2 × 256, batch size 1,024.",
        "The least is 8.00 (2 × 64, n_envs 1). The kernels are slower than SB3's PPO at 0 of 4 points.",
        "The autograd engine is faster than the kernels at 0 of 4.",
        "5.5 to 5.5 s by JAX's own report",
        "the training itself keeps 90% of its speed",
    ):
        assert sentence in flowing
    assert (
        "Made by `sb3-edu bench speed` on an abacus, 2 cores, with 1 thread in each process; sb3_ppo_edu 0, numpy 0."
        in flowing
    )
    assert "no result" not in flowing


def test_report_follows_its_rows(tables: Tables) -> None:
    """Another row makes another report; quick rows are called so; what was not measured is not mentioned."""
    text = text_of(tables)
    changed = [replace(tables.end_to_end[0], wall_seconds=20.0), *tables.end_to_end[1:]]
    assert text_of(tables._replace(end_to_end=changed)) != text
    quick = [replace(row, size="quick") for row in tables.end_to_end]
    shortened = text_of(Tables(quick, [], [], []))
    assert "`sb3-edu bench speed --quick`" in shortened
    assert "They are no result." in shortened
    assert "## The floor" not in shortened
    assert "scaling.png" not in shortened
    assert "[split.csv]" not in shortened


def test_report_of_an_interrupted_run(tables: Tables) -> None:
    """From whatever rows there are a report is made: without SB3's, without the floor's, of the grid alone."""
    without = [row for row in tables.end_to_end if row.algorithm != "sb3"]
    parts = [row for row in tables.split if row.algorithm == "fused"]
    partial = Tables(without, parts, [], [])
    assert "| CartPole-v1, the zoo's settings | – |" in text_of(partial)
    plots.draw_glance(without, parts)
    plots.draw_split(parts)
    assert "A single update" in text_of(Tables([], [], tables.grid, []))


def test_report_without_rows_is_refused(tmp_path: Path) -> None:
    """There is no report of nothing; the error names the files and the command that makes them."""
    with pytest.raises(ValueError, match=r"no rows, expected some in end_to_end.csv, .*measure first: sb3-edu bench"):
        report.read_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_published_report_agrees_with_its_rows() -> None:
    """The published report is what its rows make, and no quick run."""
    tables = read_tables(PUBLISHED)
    assert (PUBLISHED / "speed.md").read_text(encoding="utf-8") == text_of(tables)
    assert {row.size for found in tables for row in found} == {"full"}
    pictures = [section.picture.name for section in report.make_page(tables).sections if section.picture is not None]
    assert "glance.png" in pictures
    assert all((PUBLISHED / name).is_file() for name in pictures)


def test_the_guides_speeds_are_the_published_ones() -> None:
    """The guide's table has the medians of the published rows of the standard trainings, to one digit."""
    trainings = read_tables(PUBLISHED).end_to_end
    guide = (PUBLISHED.parent.parent / "docs" / "guides" / "engines.md").read_text(encoding="utf-8")
    for key in STANDARD_CASES:
        case = CASES[key]
        columns = ("autograd", "fused-dummy", "fused")
        medians = [f"{np.median(numbers.speedups(trainings, key, algorithm)):.1f}" for algorithm in columns]
        assert f"| {case.title} | {' | '.join(medians)} |" in guide, key


def test_the_readmes_speeds_are_the_published_ones() -> None:
    """README's two trainings, with those of other implementations: SBX's with its compilation and, in brackets, without."""
    trainings = read_tables(PUBLISHED).end_to_end
    readme = (PUBLISHED.parent.parent / "README.md").read_text(encoding="utf-8")
    lines = [line for line in readme.splitlines() if line.startswith("| ") and line.partition(" | ")[0][2:] in TITLES]
    for line in lines:
        key = TITLES[line.partition(" | ")[0][2:]]
        ours, sbx, warm, cleanrl = (
            float(np.median(numbers.speedups(trainings, key, algorithm))) for algorithm in ("fused", *PEERS)
        )
        assert line == f"| {CASES[key].title} | {ours:.1f} | 1 | | {sbx:.2f} ({warm:.2f}) | {cleanrl:.2f} |"
    assert len(lines) == 2
