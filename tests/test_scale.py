"""The scaling experiment: what is measured, what is done already, and what the projection computes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.lab.page import save_page, to_markdown
from sb3_ppo_edu.lab.rows import append_rows, read_rows
from sb3_ppo_edu.lab.scale import measure as measuring
from sb3_ppo_edu.lab.scale.measure import (
    BATCH,
    ENVS,
    EPOCHS,
    MEASURES,
    N_STEPS,
    SIZES,
    Job,
    ScaleRow,
    able,
    measure,
    missing,
    plan,
    train_here,
)
from sb3_ppo_edu.lab.scale.report import (
    BANDWIDTH,
    LATENCY,
    all_reduce_seconds,
    interpolated,
    lead,
    medians,
    paired,
    parameters,
    project,
    read_page,
)


def row(kind: str, env: str = "", backend: str = "", number: int = 1, value: float = 1.0, **rest: Any) -> ScaleRow:
    """One row."""
    given = {"repetition": 0, "spread": 0.0, "length": 0.0, "machine": "a machine", "versions": "1", **rest}
    return ScaleRow(kind=kind, env=env, backend=backend, number=number, value=value, **given)


def made_up() -> list[ScaleRow]:
    """Rows with round numbers: 10,000 steps a second in one process, 18,000 in two; updates of 1 µs a transition."""
    rows = [
        row("stepping", "CartPole-v1", backend, count, rate)
        for backend, rate in (("dummy", 1e5), ("envpool", 3e5))
        for count in (4, 8)
    ]
    rows += [
        row("training", "CartPole-v1", number=1, value=10_000.0),
        row("training", "CartPole-v1", number=2, value=18_000.0),
    ]
    rows += [row("update", number=size, value=float(size)) for size in SIZES]
    rows += [row("meeting", number=size, value=100.0 + size / 1000) for size in (1_000, 100_000, 10_000_000)]
    rows += [row("episodes", "CartPole-v1", "dummy", 400, 20.0, spread=10.0, length=20.0)]
    rows += [row("episodes", "CartPole-v1", "envpool", 400, 22.0, spread=10.0, length=22.0)]
    return rows


def test_the_projection_by_hand() -> None:
    """Collecting is what the measured training takes beyond its updates; shared out, both shrink, and meetings come."""
    rows = [one for one in made_up() if (one.kind, one.number) != ("training", 2)]
    steps, minibatches = ENVS * N_STEPS, ENVS * N_STEPS // BATCH * EPOCHS
    collecting = steps / 10_000 - minibatches * 512e-6
    assert project(rows, "CartPole-v1", 1, weak=False) == pytest.approx(10_000)
    all_reduce = (100 + 4 * 9155 / 1000) * 1e-6
    two = collecting / 2 + minibatches * (256e-6 + all_reduce)
    assert project(rows, "CartPole-v1", 2, weak=False) == pytest.approx(steps / two)
    grown = collecting + minibatches * (512e-6 + all_reduce)
    assert project(rows, "CartPole-v1", 2, weak=True) == pytest.approx(2 * steps / grown)
    gains = [project(rows, "CartPole-v1", count, weak=True) for count in (1, 2, 4, 8, 16, 32, 64)]
    assert gains == sorted(gains) and gains[-1] < 64 * gains[0]


def test_the_projection_begins_with_what_was_measured() -> None:
    """What two processes took beyond the model comes again with each doubling; less than the model has they do not take."""
    rows = made_up()
    model = [one for one in rows if (one.kind, one.number) != ("training", 2)]
    steps = ENVS * N_STEPS
    assert project(rows, "CartPole-v1", 2, weak=False) == pytest.approx(18_000)
    missing = steps / 18_000 - steps / project(model, "CartPole-v1", 2, weak=False)
    expected = steps / project(model, "CartPole-v1", 8, weak=False) + 3 * missing
    assert project(rows, "CartPole-v1", 8, weak=False) == pytest.approx(steps / expected)
    assert project(rows, "CartPole-v1", 1, weak=False) == pytest.approx(10_000)
    lucky = [*model, row("training", "CartPole-v1", number=2, value=1e9)]
    assert project(lucky, "CartPole-v1", 2, weak=False) == project(model, "CartPole-v1", 2, weak=False)


def test_parameters_by_hand() -> None:
    """Two towers of 64 x 64 on four observations, two logits and a value."""
    assert parameters("CartPole-v1") == 2 * (4 * 64 + 64 + 64 * 64 + 64) + (64 * 2 + 2) + (64 + 1) == 9155


def test_meetings_by_hand() -> None:
    """Alone: nothing. On one machine: as measured, a level for each doubling. Between machines: latency and the wire."""
    assert all_reduce_seconds(1, 1e6, 1e-4) == 0.0
    assert all_reduce_seconds(2, 1e6, 1e-4) == pytest.approx(1e-4)
    assert all_reduce_seconds(8, 1e6, 1e-4) == pytest.approx(3e-4)
    expected = 3e-4 + 2 * 3 * LATENCY + 2 * 7 / 8 * 1e6 / BANDWIDTH
    assert all_reduce_seconds(64, 1e6, 1e-4) == pytest.approx(expected)


def test_between_measured_points() -> None:
    """On straight lines between the points, in proportion beyond, and never below the lowest."""
    points = {10: 2.0, 20: 4.0, 40: 5.0}
    assert [interpolated(points, at) for at in (1, 10, 15, 30, 40, 80)] == [2.0, 2.0, 3.0, 4.5, 5.0, 10.0]


def test_medians_and_pairs() -> None:
    """The median over repetitions; ratios of two processes to one within a repetition."""
    rows = [
        row("training", "CartPole-v1", number=1, value=value, repetition=index)
        for index, value in enumerate((10.0, 20.0, 90.0))
    ]
    rows += [
        row("training", "CartPole-v1", number=2, value=30.0, repetition=1),
        row("training", "CartPole-v1", number=2, value=9.0, repetition=9),
    ]
    assert medians(rows, "training")["CartPole-v1", "", 1] == 20.0
    assert paired(rows, "CartPole-v1") == [1.5]


def test_report_says_what_pays(tmp_path: Path) -> None:
    """The page names ratio and fastest backend, marks other dynamics, and has a picture."""
    append_rows(tmp_path / "scale.csv", made_up())
    written = save_page(read_page(tmp_path, "sb3-edu bench scale"), tmp_path, "scale")
    text = (tmp_path / "scale.md").read_text()
    assert "CartPole-v1 1.80.** At least 1.6, and so worth a core: CartPole-v1." in text
    assert (
        "**CartPole-v1**, 8 environments: `envpool` is 3.0 times as fast as `dummy`; of those that give SB3's episodes `dummy`"
        in text
    )
    # 2.0 apart, with a 95 % interval of 1.96 * sqrt(2 * 100 / 400).
    assert f"| 2.0 ± {1.96 * math.sqrt(0.5):.1f} | **no** |" in text
    assert {path.name for path in written} >= {"scale.md", "scale.html", "stepping.png"}
    assert "At least 1.6" in lead(made_up())[0]
    slow = [one for one in made_up() if not (one.kind == "training" and one.number == 2)]
    assert "None reaches 1.6" in lead([*slow, row("training", "CartPole-v1", number=2, value=9_000.0)])[0]
    with pytest.raises(ValueError, match=r"scale.csv: found no rows, expected those of `sb3-edu bench scale`"):
        read_page(tmp_path / "empty", "sb3-edu bench scale")


def test_what_is_done_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is kept as it comes: interrupted after two measurements, the next call does the others only."""
    done: list[Job] = []

    def count(job: Job) -> tuple[float, float, float]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job)
        return 1.0, 2.0, 3.0

    monkeypatch.setattr(measuring, "MEASURES", dict.fromkeys(MEASURES, count))
    jobs = [Job("update", "", "", size, 0) for size in SIZES]
    with pytest.raises(KeyboardInterrupt):
        list(measure(tmp_path, missing(tmp_path, jobs)))
    assert missing(tmp_path, jobs) == jobs[2:]
    done.clear()
    monkeypatch.setattr(measuring, "MEASURES", dict.fromkeys(MEASURES, lambda job: (4.0, 5.0, 6.0)))
    assert list(measure(tmp_path, missing(tmp_path, jobs))) == jobs[2:]
    rows = read_rows(tmp_path / "scale.csv", ScaleRow)
    assert [one.number for one in rows] == list(SIZES)
    assert (rows[0].value, rows[0].spread, rows[0].length, rows[-1].value) == (1.0, 2.0, 3.0, 4.0)


def test_the_plan() -> None:
    """Processes for each environment up to eight only; one and two processes take turns in being first."""
    jobs = plan(2)
    assert len(set(jobs)) == len(jobs)
    assert not [job for job in jobs if job.kind == "stepping" and job.backend == "subproc" and job.number > 8]
    training = [(job.repetition, job.number) for job in jobs if job.kind == "training" and job.env == "BipedalWalker-v3"]
    assert training == [(0, 2), (0, 1), (1, 1), (1, 2)]
    assert "gymnasium-native" in able("CartPole-v1", 16) and "gymnasium-native" not in able("LunarLander-v3", 16)
    assert len(plan(1, quick=True)) < len(plan(1))


@pytest.mark.parametrize(
    "job",
    [
        Job("stepping", "CartPole-v1", "gymnasium-native", 2, 0),
        Job("update", "", "", 8, 0),
        Job("episodes", "CartPole-v1", "gymnasium-native", 40, 0),
    ],
)
def test_measurements(job: Job) -> None:
    """What each measures is of the size that everyone knows: steps a second, microseconds, a random CartPole's return."""
    value, spread, length = MEASURES[job.kind](job)
    if job.kind == "stepping":
        assert 1e3 < value < 1e7
    elif job.kind == "update":
        assert 10 < value < 1e5
    else:
        assert 12 < value == pytest.approx(length, abs=0.01) and value < 35 and 5 < spread < 30


def test_training_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process alone: steps a second from the second rollout on."""
    monkeypatch.setattr(measuring, "N_STEPS", 32)
    monkeypatch.setattr(measuring, "ROLLOUTS", 1)
    monkeypatch.setattr(measuring, "EPOCHS", 1)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert 100 < train_here("CartPole-v1", 0) < 1e6


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--report-only`` measures nothing, and writes the page from the rows there are; without rows it is refused."""
    assert main(["bench", "scale", "--report-only", "--folder", str(tmp_path)]) == 2
    assert "found no rows" in capsys.readouterr().err
    append_rows(tmp_path / "scale.csv", made_up())
    assert main(["bench", "scale", "--report-only", "--folder", str(tmp_path)]) == 0
    assert str(tmp_path / "scale.md") in capsys.readouterr().out


def test_published_page_is_of_its_rows(tmp_path: Path) -> None:
    """What is published is what its rows make, and the guide says the same."""
    published = Path(__file__).parents[1] / "benchmarks" / "scale"
    (tmp_path / "scale.csv").write_bytes((published / "scale.csv").read_bytes())
    text = (published / "scale.md").read_text(encoding="utf-8")
    assert text == to_markdown(read_page(tmp_path, "sb3-edu bench scale"))
    rates = medians(read_rows(published / "scale.csv", ScaleRow), "training")
    gains = {env: rates[env, "", 2] / rates[env, "", 1] for env, _, number in rates if number == 2}
    assert max(gains.values()) >= 1.6
    page = published.parents[1] / "docs" / "guides" / "several_processes.md"
    guide = " ".join(page.read_text(encoding="utf-8").split())
    pattern = r"Humanoid-v5 ([\d.]+) .* BipedalWalker-v3 ([\d.]+), LunarLander-v3 ([\d.]+) and CartPole-v1 ([\d.]+)"
    said = re.search(pattern, guide)
    assert said is not None
    for words, env in zip(said.groups(), ("Humanoid-v5", "BipedalWalker-v3", "LunarLander-v3", "CartPole-v1"), strict=True):
        assert float(words) == round(gains[env], len(words.split(".")[1])), env
