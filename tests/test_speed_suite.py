"""The speed laboratory's suite: which measurements there are, in what order, and in processes of their own."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sb3_ppo_edu.lab.processes import ProcessError
from sb3_ppo_edu.lab.rows import append_rows
from sb3_ppo_edu.lab.speed import further, grid, rows, suite
from sb3_ppo_edu.lab.speed.cases import CASES, PEERS, QUICK_CASES, Grid
from sb3_ppo_edu.lab.speed.rows import Conditions, EndToEndRow, FurtherRow, GridRow, SplitRow, Tables, read_tables
from sb3_ppo_edu.lab.speed.suite import Job, make_plan, open_folder, plan_jobs, run_jobs
from tests.speed_rows import fake_child, training


def test_algorithms_take_turns() -> None:
    """In every repetition of a case all algorithms run directly after each other, and each is first once in three."""
    plan = make_plan(["pendulum-zoo", "cartpole-zoo"], ["sb3", "autograd", "fused"], 3, quick=False, grid=True)
    jobs = plan_jobs(plan)
    trainings = [job for job in jobs if job.kind == "end to end"]
    blocks = [trainings[start : start + 3] for start in range(0, len(trainings), 3)]
    assert [[job.algorithm for job in block] for block in blocks[::2]] == [
        ["sb3", "autograd", "fused"],
        ["autograd", "fused", "sb3"],
        ["fused", "sb3", "autograd"],
    ]
    assert [(block[0].case, block[0].repetition) for block in blocks] == [
        (case, repetition) for repetition in range(3) for case in ("pendulum-zoo", "cartpole-zoo")
    ]
    assert all(len({(job.case, job.repetition) for job in block}) == 1 for block in blocks)
    assert len([job for job in jobs if job.kind == "split"]) == 3 * 2 * 3
    assert len([job for job in jobs if job.kind == "grid"]) == 6 * 3
    assert len([job for job in jobs if job.kind == "updates"]) == 3 * 3
    assert len(set(jobs)) == len(jobs)


def test_plan_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    All cases, and of each the algorithms that can be had, SB3's PPO in any; what is left out is named, with the reason.

    Five repetitions, three where nothing is aimed at; quick: two cases and two repetitions.
    """
    monkeypatch.setattr(suite, "why_missing", lambda name: "it is on strike" if name in (*PEERS, "fused-two-cores") else None)
    monkeypatch.setattr(suite, "why_not", lambda case, algorithm: "no time" if case.parts and algorithm.engine else None)
    full, quick = (make_plan(None, None, None, quick=quick, grid=True) for quick in (False, True))
    assert full.cases == tuple(CASES)
    assert quick.cases == QUICK_CASES
    assert (full.repetitions, full.without_aims, quick.repetitions) == (5, 3, 2)
    assert full.algorithms("cartpole-zoo") == ["sb3", "autograd", "numpy", "fused-dummy", "fused"]
    assert full.algorithms("acrobot-zoo") == ["sb3", "fused-dummy", "fused"]
    assert full.algorithms("cartpole-dict") == ["sb3"]
    assert {"sbx: it is on strike", "cartpole-dict, fused: no time"} <= set(full.left_out)
    assert make_plan(None, ["fused", "fused"], 1, quick=True, grid=True).algorithms("cartpole-zoo") == ["sb3", "fused"]
    trainings = [job for job in plan_jobs(full) if job.kind == "end to end" and job.algorithm == "fused"]
    counts = {case: sum(job.case == case for job in trainings) for case in ("cartpole-zoo", "humanoid-zoo")}
    assert counts == {"cartpole-zoo": 5, "humanoid-zoo": 3}
    monkeypatch.setattr(suite, "why_missing", lambda name: None)
    assert make_plan(None, None, None, quick=False, grid=True).algorithms("cartpole-zoo")[-1] == "cleanrl"
    bare = {job.kind for job in plan_jobs(make_plan(None, None, None, quick=True, grid=False, further=False))}
    assert bare == {"end to end", "split"}


@pytest.mark.parametrize(
    ("cases", "algorithms", "complaint"),
    [
        (["cartpol-zoo"], None, "case 'cartpol-zoo': expected one of cartpole-defaults, .*; did you mean 'cartpole-zoo'?"),
        (None, ["fusd"], "algorithm 'fusd': expected one of sb3, .*; did you mean 'fused'?"),
        (None, ["sbx"], "algorithm 'sbx': SBX is not installed; .*\\[peers\\]"),
    ],
)
def test_unknown_names_are_refused(
    cases: list[str] | None, algorithms: list[str] | None, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt name is refused with the nearest one, and SBX with the extra that brings it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=complaint):
        make_plan(cases, algorithms, 1, quick=False, grid=False)


def test_rows_are_kept_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before a failure or an interruption is in the files, and is not measured again."""
    plan = make_plan(["cartpole-zoo"], ["fused"], 2, quick=True, grid=True)
    jobs = open_folder(tmp_path / "new" / "folder", plan)
    assert jobs == plan_jobs(plan)
    folder, asked = tmp_path / "new" / "folder", []

    def failing(job: Job) -> list[Conditions]:
        asked.append(job)
        if len(asked) == 6:
            raise ProcessError("the sixth")
        return fake_child(job)

    monkeypatch.setattr(suite, "run_in_child", failing)
    with pytest.raises(ProcessError, match="the sixth"):
        list(run_jobs(folder, jobs))
    assert open_folder(folder, plan) == jobs[5:]
    assert len(read_tables(folder).end_to_end) == 4
    assert list(run_jobs(folder, jobs[5:])) == jobs[5:]
    assert asked == [*jobs[:6], *jobs[5:]]
    assert open_folder(folder, plan) == []
    more = make_plan(["cartpole-zoo"], ["fused"], 3, quick=True, grid=True)
    assert {job.repetition for job in open_folder(folder, more)} == {2}


@pytest.mark.parametrize("name", ["size", "threads", "machine", "versions", "code"])
def test_rows_of_other_conditions_are_not_mixed(name: str, tmp_path: Path) -> None:
    """Rows of another size, machine, version or code are refused by name, with the remedy; the file is left as it is."""
    plan = make_plan(["cartpole-zoo"], ["fused"], 1, quick=False, grid=False)
    now = asdict(rows.conditions("full"))
    other = replace(training("cartpole-zoo", "sb3", 0, 1.0), **{**now, name: 2 if name == "threads" else "other"})
    append_rows(tmp_path / rows.END_TO_END_FILE, [other])
    before = (tmp_path / rows.END_TO_END_FILE).read_bytes()
    with pytest.raises(ValueError, match=f"its rows have {name} .*move the files"):
        open_folder(tmp_path, plan)
    assert (tmp_path / rows.END_TO_END_FILE).read_bytes() == before


def test_child_measures_with_one_thread() -> None:
    """A process of its own answers with complete rows, measured with one thread under the conditions of here."""
    (row,) = suite.run_in_child(Job("end to end", "quick", "cartpole-zoo", "fused", 1))
    assert isinstance(row, EndToEndRow)
    assert (row.case, row.algorithm, row.repetition, row.steps) == ("cartpole-zoo", "fused", 1, 2048)
    assert row.wall_seconds > 0
    rows.check_same_conditions(Path(), [row], rows.conditions("quick"))


def test_child_that_fails_is_quoted() -> None:
    """A process that fails says which measurement it was and what it complained about."""
    with pytest.raises(ProcessError, match=r"(?s)nowhere, fused, repetition 0: .*exit code 1:.*no such training"):
        suite.run_in_child(Job("end to end", "quick", "nowhere", "fused", 0))


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        (Job("split", "quick", "cartpole-zoo", "fused", 0), SplitRow),
        (Job("grid", "quick", width=8, depth=1), GridRow),
        (Job("updates", "quick", "cartpole-zoo", "fused", 0), FurtherRow),
        (Job("callbacks", "quick", "cartpole-zoo", "fused", 1), FurtherRow),
    ],
)
def test_each_kind_of_job_gives_its_rows(job: Job, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split gives the run's parts and the floor's, the grid one row for each engine and point, the others what they say."""
    monkeypatch.setattr(suite, "QUICK_GRID", Grid((), (), (32,), (1,)))
    monkeypatch.setattr(grid, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(further, "ROLLOUTS_WITH_CALLBACKS", 2)
    monkeypatch.setattr(further, "CALLBACKS_EVERY", 64)
    found = suite.measure(job)
    assert {type(row) for row in found} == {kind}
    if kind is SplitRow:
        assert {row.algorithm for row in found if isinstance(row, SplitRow)} == {"fused", "floor"}
    seconds = {row.part: row.seconds for row in found if isinstance(row, FurtherRow)}
    if job.kind == "callbacks":
        # one evaluation and one checkpoint: there is work of their own, and the training is what is left
        assert 0 < seconds[further.THEIR_WORK] < seconds[further.WITH_CALLBACKS]
        assert seconds[further.ALONE] > 0
    place = {SplitRow: 1, GridRow: 2, FurtherRow: 3}[kind]
    done = suite.jobs_done(Tables(*(found if index == place else [] for index in range(4))))  # type: ignore[arg-type]
    assert job in done
