"""The speed laboratory: what it measures is what it says, and its report agrees with its rows."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch as th
import yaml
from matplotlib.figure import Figure
from scipy import stats  # type: ignore[import-untyped]
from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms import ppo
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.lab.rows import append_rows, machine
from sb3_ppo_edu.lab.speed import child, floor, grid, plots, report, rows, runs, suite
from sb3_ppo_edu.lab.speed import summary as numbers
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, QUICK_CASES, Case, Grid, quick_version, rotated
from sb3_ppo_edu.lab.speed.rows import Conditions, EndToEndRow, GridRow, SplitRow, Tables, read_tables
from sb3_ppo_edu.lab.speed.suite import Job, MeasurementError, make_plan, open_folder, plan_jobs, run_jobs
from sb3_ppo_edu.lab.statistics.aggregates import Interval, median_interval
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

PUBLISHED = Path(__file__).resolve().parent.parent / "benchmarks" / "speed"
TINY = Case("CartPole-v1, tiny", "CartPole-v1", 2, 2, {"n_steps": 32, "batch_size": 32, "n_epochs": 3})
HERE = Conditions(size="full", threads=1, machine="an abacus, 2 cores", versions="sb3_ppo_edu 0, numpy 0", code="0123456789ab")
OKABE_ITO = {"#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#666666"}


def training(case: str, algorithm: str, repetition: int, wall: float, **other: float) -> EndToEndRow:
    """
    Make up a row.

    :param case: key of the case
    :param algorithm: key of the algorithm
    :param repetition: index
    :param wall: seconds of wall clock
    :param other: other columns
    :return: the row
    """
    made_up: dict[str, Any] = {"cpu_seconds": 2 * wall, "compile_seconds": 0.0}
    made_up.update(memory_before_mib=300.0, memory_peak_mib=320.0, steps=1000, wall_seconds=wall)
    return EndToEndRow(case=case, algorithm=algorithm, repetition=repetition, **{**made_up, **other, **asdict(HERE)})


def split(case: str, algorithm: str, repetition: int, **seconds: float) -> list[SplitRow]:
    """
    Make up the rows of a training's parts.

    :param case: key of the case
    :param algorithm: key of the algorithm, or "floor"
    :param repetition: index
    :param seconds: of each part, with underscores for spaces
    :return: the rows
    """
    names = {"case": case, "algorithm": algorithm, "repetition": repetition}
    return [
        SplitRow(part=part.replace("_", " "), seconds=spent, **names, **asdict(HERE))  # type: ignore[arg-type]
        for part, spent in seconds.items()
    ]


def point(kind: str, engine: str, width: int, size: int, microseconds: float, depth: int = 2) -> GridRow:
    """
    Make up a point of the grid.

    :param kind: "update" or "acting"
    :param engine: name of the engine
    :param width: units
    :param size: batch size or number of environments
    :param microseconds: the median
    :param depth: layers
    :return: the row
    """
    measured = {"repeats": 3, "microseconds": microseconds, "lowest": 0.9 * microseconds, "highest": 2 * microseconds}
    return GridRow(kind=kind, engine=engine, width=width, depth=depth, rows=size, **measured, **asdict(HERE))  # type: ignore[arg-type]


class Clock:
    """A clock that stands still but for what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """
        Let time pass.

        :param seconds: how much
        """
        self.now += seconds

    def perf_counter(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Measure by a clock of the test's own: what other programs do at the time is no matter."""
    own = Clock()
    for room in (runs, grid, floor):
        monkeypatch.setattr(room, "time", own)
    return own


@pytest.fixture
def tables() -> Tables:
    """Rows of two cases, with ratios to be worked out by hand."""
    end_to_end = [
        *(training("cartpole-zoo", "sb3", index, wall) for index, wall in enumerate((8.0, 10.0, 12.0))),
        # ratios 4, 2, 3: median 3, from 2 to 4
        *(training("cartpole-zoo", "fused", index, wall) for index, wall in enumerate((2.0, 5.0, 4.0))),
        training("pendulum-zoo", "sb3", 0, 6.0),
        training("pendulum-zoo", "autograd", 0, 4.0, memory_peak_mib=330.4),
        training("pendulum-zoo", "sbx", 0, 8.0, compile_seconds=5.5),
    ]
    parts = [
        *split("cartpole-zoo", "sb3", 0, environment=2.0, acting=1.0, advantages=0.5, update=6.0, rest=0.5),
        *split("cartpole-zoo", "fused", 0, environment=1.0, acting=0.5, advantages=0.25, update=2.0, rest=0.25),
        # 4 over 0.8 + 0.2 + 0.6: 2.5 times; the bare environment has no part in it
        *split("cartpole-zoo", "floor", 0, environment=0.8, acting=0.2, update=0.6, bare_environment=0.7),
    ]
    costs = {"sb3": 2000.0, "autograd": 1600.0, "fused": 250.0, "floor": 40.0}
    points = [
        point(kind, engine, width, size, cost * width * size / 4096)
        for kind, sizes in (("update", (64, 1024)), ("acting", (1, 16)))
        for width in (64, 256)
        for size in sizes
        for engine, cost in costs.items()
        if (kind, engine, width, size) != ("update", "fused", 256, 1024)
    ]
    # SB3 takes 2000 * 64 = 128,000 there: a ratio of 0.8
    return Tables(end_to_end, parts, [*points, point("update", "fused", 256, 1024, 160_000.0)])


def save(tables: Tables, folder: Path) -> None:
    """
    Write rows as the suite does.

    :param tables: the rows
    :param folder: where
    """
    files: list[tuple[str, Sequence[Conditions]]] = [
        (rows.END_TO_END_FILE, tables.end_to_end),
        (rows.SPLIT_FILE, tables.split),
        (rows.GRID_FILE, tables.grid),
    ]
    for name, found in files:
        for row in found:
            append_rows(folder / name, [row])


# -- intervals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [9, 15, 25])
def test_interval_has_the_exact_order_statistics(n: int) -> None:
    """
    For an odd n the bootstrap median is the k-th smallest value or less if at least (n + 1) / 2 of n draws are among the k.

    That is a binomial probability, so the percentiles are known without resampling.
    """
    values = np.random.default_rng(3).permutation(np.arange(n) ** 2.0)
    at_most = stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    low, high = (np.sort(values)[np.searchsorted(at_most, tail)] for tail in (0.025, 0.975))
    assert median_interval(values.tolist()) == (low, high)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_interval_of_few_values_is_their_range(n: int) -> None:
    """Up to five values, more than 2.5% of the bootstrap medians are the smallest value, and as many the largest."""
    values = [3.0, 1.0, 7.0, 5.0, 11.0][:n]
    assert median_interval(values) == (min(values), max(values))


def test_interval_uses_its_seed() -> None:
    """The same seed gives the same interval; with few resamples another seed gives another one."""
    values = np.random.default_rng(0).standard_normal(40).tolist()
    assert median_interval(values, resamples=20) == median_interval(values, resamples=20)
    assert median_interval(values, resamples=20) != median_interval(values, resamples=20, seed=1)


def test_interval_of_nothing_is_refused() -> None:
    """Without values there is no interval."""
    with pytest.raises(ValueError, match=r"values: found shape \(0,\)"):
        median_interval([])


# -- cases ---------------------------------------------------------------------------------------------------------------


def test_zoo_cases_are_the_zoos() -> None:
    """Every setting of the zoo's cases is that of rl_zoo3's own file, but for the number of steps and Pendulum's gSDE."""
    spec = importlib.util.find_spec("rl_zoo3")
    assert spec is not None
    assert spec.submodule_search_locations
    (folder,) = spec.submodule_search_locations
    theirs = yaml.safe_load((Path(folder) / "hyperparams" / "ppo.yml").read_text(encoding="utf-8"))
    compared = [case for name, case in CASES.items() if name != "cartpole-defaults"]
    for case in compared:
        wanted = {key: value for key, value in theirs[case.env_id].items() if key not in ("policy", "n_timesteps")}
        if case.env_id == "Pendulum-v1":
            assert wanted.pop("use_sde") and wanted.pop("sde_sample_freq")
        ours = {**case.arguments, "n_envs": case.n_envs, **({"normalize": True} if case.normalize else {})}
        assert ours == wanted, case.title
    assert len(compared) == 6
    assert CASES["cartpole-defaults"].arguments == {}


def test_case_trains_whole_rollouts() -> None:
    """A training's steps are rollouts x n_steps x n_envs; SB3's default rollout has 2048 steps."""
    assert CASES["cartpole-defaults"].steps == 3 * 2048
    assert TINY.steps == 2 * 32 * 2


@pytest.mark.parametrize("name", CASES)
def test_quick_cases_are_small(name: str) -> None:
    """A quick case has about two thousand transitions and all other settings of the full one."""
    case, quick = CASES[name], quick_version(CASES[name])
    assert quick.steps == 2048
    assert {**quick.arguments, "n_steps": case.n_steps} == {"n_steps": case.n_steps, **case.arguments}
    assert (quick.env_id, quick.n_envs, quick.normalize) == (case.env_id, case.n_envs, case.normalize)


@pytest.mark.parametrize(
    ("case", "algorithm", "vec_env", "render_mode"),
    [
        ("lunarlander-zoo", "sb3", DummyVecEnv, None),
        ("lunarlander-users", "sb3", DummyVecEnv, "rgb_array"),
        ("lunarlander-users", "sbx", DummyVecEnv, "rgb_array"),
        ("lunarlander-users", "autograd", InProcessVecEnv, None),
        ("lunarlander-zoo", "fused", InProcessVecEnv, None),
        ("lunarlander-users", "fused-dummy", DummyVecEnv, None),
    ],
)
def test_environments_are_those_of_the_users(case: str, algorithm: str, vec_env: type, render_mode: str | None) -> None:
    """Only where it is said so do SB3's environments keep a render mode; only EduPPO's stand in our vector environment."""
    env = runs.make_env(CASES[case], ALGORITHMS[algorithm], 0)
    assert type(env) is vec_env
    assert env.num_envs == 16
    assert env.get_attr("render_mode") == [render_mode] * 16
    env.close()


def test_models_have_the_settings_of_their_case() -> None:
    """SB3's PPO and EduPPO get the case's arguments, a schedule "lin_x" as a line from x to 0, and its normalisation."""
    case = replace(CASES["bipedalwalker-zoo"], env_id="Pendulum-v1", n_envs=1)
    line = replace(case, arguments={**case.arguments, "learning_rate": "lin_0.5", "n_steps": 64})
    for name, kind in (("sb3", PPO), ("fused", EduPPO)):
        model = runs.make_model(line, ALGORITHMS[name], 7)
        assert type(model) is kind
        assert (model.n_steps, model.batch_size, model.n_epochs, model.gamma, model.seed) == (64, 64, 10, 0.999, 7)
        assert cast(Schedule, model.clip_range)(1.0) == 0.18
        assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == [0.5, 0.25, 0.0]
        assert isinstance(model.env, VecNormalize)
        assert model.env.gamma == 0.999
    assert model.engine == "fused"


# -- the order of measurements -------------------------------------------------------------------------------------------


def test_rotation() -> None:
    """Each round begins with the next name, and after as many rounds as names with the first again."""
    assert [rotated("abc", turn) for turn in range(4)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


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
    assert len(set(jobs)) == len(jobs)


def test_plan_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cases and installed algorithms, five repetitions; quick: two cases, two repetitions; SB3's PPO always takes part."""
    monkeypatch.setattr(suite, "has_peers", lambda: False)
    full, quick = (make_plan(None, None, None, quick=quick, grid=True) for quick in (False, True))
    assert full.cases == tuple(CASES)
    assert quick.cases == QUICK_CASES
    assert (full.repetitions, quick.repetitions) == (5, 2)
    assert full.algorithms == ("sb3", "autograd", "fused", "fused-dummy")
    assert make_plan(None, ["fused", "fused"], 1, quick=True, grid=True).algorithms == ("sb3", "fused")
    monkeypatch.setattr(suite, "has_peers", lambda: True)
    assert make_plan(None, None, None, quick=False, grid=True).algorithms[-1] == "sbx"
    assert not [job for job in plan_jobs(make_plan(None, None, None, quick=True, grid=False)) if job.kind == "grid"]


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
    monkeypatch.setattr(suite, "has_peers", lambda: False)
    with pytest.raises(ValueError, match=complaint):
        make_plan(cases, algorithms, 1, quick=False, grid=False)


def fake_child(job: Job) -> list[Conditions]:
    """
    Answer at once, as a process of the suite would.

    :param job: the measurement
    :return: made-up rows
    """
    here = asdict(rows.conditions(job.size))
    if job.kind == "end to end":
        found: list[Any] = [training(job.case, job.algorithm, job.repetition, 1.0)]
    elif job.kind == "split":
        parts = dict.fromkeys(numbers.PARTS, 1.0)
        found = split(job.case, job.algorithm, job.repetition, **parts)
    else:
        engines = ("sb3", "autograd", "fused", "floor")
        kinds = ("update", "acting")
        found = [point(kind, engine, job.width, 64, 1.0, job.depth) for kind in kinds for engine in engines]
    return [replace(row, **here) for row in found]


def test_rows_are_kept_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before a failure or an interruption is in the files, and is not measured again."""
    plan = make_plan(["cartpole-zoo"], ["fused"], 2, quick=True, grid=True)
    jobs = open_folder(tmp_path / "new" / "folder", plan)
    assert jobs == plan_jobs(plan)
    folder, asked = tmp_path / "new" / "folder", []

    def failing(job: Job) -> list[Conditions]:
        asked.append(job)
        if len(asked) == 6:
            raise MeasurementError("the sixth")
        return fake_child(job)

    monkeypatch.setattr(suite, "run_in_child", failing)
    with pytest.raises(MeasurementError, match="the sixth"):
        run_jobs(folder, jobs, lambda job: None)
    assert open_folder(folder, plan) == jobs[5:]
    assert len(read_tables(folder).end_to_end) == 4
    begun: list[Job] = []
    run_jobs(folder, jobs[5:], begun.append)
    assert begun == jobs[5:]
    assert asked == [*jobs[:6], *jobs[5:]]
    assert open_folder(folder, plan) == []
    further = make_plan(["cartpole-zoo"], ["fused"], 3, quick=True, grid=True)
    assert {job.repetition for job in open_folder(folder, further)} == {2}


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


# -- rows ----------------------------------------------------------------------------------------------------------------


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
    assert read_tables(tmp_path) == Tables([], [], [])


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


# -- measurements --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sb3", "autograd", "fused", "fused-dummy"])
def test_end_to_end_measures_the_whole_training(algorithm: str) -> None:
    """A training makes the case's steps; its time is that of ``learn``, its memory grows from before to the peak."""
    start = time.perf_counter()
    (row,) = runs.measure_end_to_end(TINY, ALGORITHMS[algorithm], 0)
    elapsed = time.perf_counter() - start
    assert row["steps"] == TINY.steps
    assert 0 < row["wall_seconds"] < elapsed
    assert row["cpu_seconds"] > 0
    assert 10 < row["memory_before_mib"] <= row["memory_peak_mib"]
    assert row["compile_seconds"] == 0


def test_peak_of_memory_is_remembered() -> None:
    """Memory that was taken and given back shows in the peak, and not in the present."""
    present = runs.memory_mib(peak=False)
    taken = np.ones(2**26)  # 512 MiB
    with_it = runs.memory_mib(peak=False)
    del taken
    assert with_it - present == pytest.approx(512, abs=32)
    assert runs.memory_mib(peak=True) >= present + 480
    assert runs.memory_mib(peak=False) == pytest.approx(present, abs=32)


def test_stopwatch_adds_up(clock: Clock) -> None:
    """A stopwatch counts the time within calls, those that raise included, and passes arguments and results on."""
    watch = runs.Stopwatch()

    def work(seconds: float, *, result: float) -> float:
        clock.advance(seconds)
        return 1 / result

    timed = watch.around(work)
    assert timed(2.0, result=4.0) == 0.25
    clock.advance(100.0)
    assert timed(3.0, result=2.0) == 0.5
    with pytest.raises(ZeroDivisionError):
        timed(0.5, result=0.0)
    assert watch.seconds == 5.5


def test_wrapped_functions_are_put_back() -> None:
    """After a measurement, however it ended, an object has its class's method again, and a module its own function."""
    model = runs.make_model(TINY, ALGORITHMS["sb3"], 0)
    name = "compute_returns_and_advantage"
    before, method = vars(ppo)[name], model.train
    with (
        pytest.raises(ZeroDivisionError),
        runs.replaced(ppo, name, lambda function: None),
        runs.replaced(model, "train", lambda function: function),
        runs.replaced(model, "train", lambda function: 1 / 0),
    ):
        pass
    assert vars(ppo)[name] is before
    assert model.train == method
    assert "train" not in vars(model)


@pytest.mark.parametrize("algorithm", ["sb3", "autograd", "fused"])
def test_split_finds_every_part(algorithm: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is measured where it happens: what only one part takes is in its row, and in no other."""
    takes = {"environment": 2.0, "acting": 3.0, "advantages": 100.0, "update": 200.0}
    places_of_parts = runs.places_of_parts

    def slowed(model: Any) -> dict[str, tuple[Any, str]]:
        places = places_of_parts(model)
        for part, (holder, name) in places.items():
            monkeypatch.setattr(holder, name, delayed(getattr(holder, name), takes[part]))
        return places

    def delayed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            clock.advance(seconds)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(runs, "places_of_parts", slowed)
    monkeypatch.setattr(runs, "measure_floor", lambda *_: {})
    spent = {row["part"]: row["seconds"] for row in runs.measure_split(TINY, ALGORITHMS[algorithm], 0)}
    # two rollouts of 32 steps
    assert spent == {"environment": 64 * 2.0, "acting": 64 * 3.0, "advantages": 2 * 100.0, "update": 2 * 200.0, "rest": 0.0}


def test_floor_steps_what_the_training_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh environments, seeded alike and given the recorded actions, end where the training's environments ended."""
    ends: list[Any] = []
    model = runs.make_model(TINY, ALGORITHMS["fused"], 5)
    monkeypatch.setattr(runs, "make_model", lambda *_: model)
    time_environments = runs.time_environments

    def watched(env: VecEnv, seed: int, actions: list[np.ndarray]) -> float:
        step = env.step

        def kept(action: np.ndarray) -> Any:
            answer = step(action)
            ends.append(answer[0])
            return answer

        monkeypatch.setattr(env, "step", kept)
        assert len(actions) == 64
        return time_environments(env, seed, actions)

    monkeypatch.setattr(runs, "time_environments", watched)
    found = runs.measure_split(TINY, ALGORITHMS["fused"], 5)
    np.testing.assert_array_equal(ends[-1], model._last_obs)
    parts = {row["part"]: row["seconds"] for row in found if row.get("algorithm") == "floor"}
    assert set(parts) == {"environment", "bare environment", "acting", "update"}
    assert all(seconds > 0 for seconds in parts.values())


def test_bare_environments_reset_themselves() -> None:
    """Without the vector environment, an episode that ends is followed by a reset, and every action is taken."""
    env = runs.make_env(TINY, ALGORITHMS["fused"], 0)
    taken: list[int] = []
    (first, _) = env.envs  # type: ignore[attr-defined]
    step = first.step

    def remembering(action: Any) -> Any:
        taken.append(int(action))
        return step(action)

    first.step = remembering
    actions = [np.array([1, 0])] * 50  # always to one side: episodes of about ten steps
    assert runs.time_bare_environments(env, 0, actions) > 0
    assert taken == [1] * 50
    assert len(first.get_episode_lengths()) >= 3


def test_products_of_a_pass() -> None:
    """A network 4 - 16 - 8 - (2, 1) has these products, forward one a layer, backward two, none for the observations."""
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [16, 8]}, n_steps=32, batch_size=32, device="cpu")
    forward = [
        floor.Product(2, 32, 4, 16, "right"),
        floor.Product(2, 32, 16, 8, "right"),
        floor.Product(1, 32, 8, 2, "right"),
        floor.Product(1, 32, 8, 1, "right"),
    ]
    assert floor.network_products(model.policy, 32, backward=False) == forward
    backward = [
        floor.Product(2, 16, 32, 4, "left"),
        floor.Product(2, 8, 32, 16, "left"),
        floor.Product(2, 32, 8, 16, "neither"),
        floor.Product(1, 2, 32, 8, "left"),
        floor.Product(1, 32, 2, 8, "neither"),
        floor.Product(1, 1, 32, 8, "left"),
        floor.Product(1, 32, 1, 8, "neither"),
    ]
    assert sorted(floor.network_products(model.policy, 32, backward=True)) == sorted([*forward, *backward])


def test_products_of_unequal_towers() -> None:
    """Towers of unequal shape are multiplied one by one: 4 - 8 - 2 and 4 - 16 - 16 - 1."""
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": {"pi": [8], "vf": [16, 16]}}, device="cpu")
    shapes = [
        (product.towers, product.inner, product.columns) for product in floor.network_products(model.policy, 1, backward=False)
    ]
    assert shapes == [(1, 4, 8), (1, 8, 2), (1, 4, 16), (1, 16, 16), (1, 16, 1)]


@pytest.mark.parametrize("transposed", ["left", "right", "neither"])
def test_ways_to_multiply_compute_the_product(transposed: str) -> None:
    """Each way multiplies float32 factors of the given shapes, the right one of them transposed in memory."""
    left, right, out = floor.make_factors(floor.Product(2, 7, 5, 3, transposed))
    assert (left.shape, right.shape, out.shape) == ((2, 7, 5), (2, 5, 3), (2, 7, 3))
    assert left.dtype == right.dtype == out.dtype == np.float32
    assert [not array[0].flags.c_contiguous for array in (left, right)] == [transposed == "left", transposed == "right"]
    ways = floor.ways_to_multiply(left, right, out)
    assert len(ways) == 4
    for way in ways:
        out[:] = np.nan
        way()
        np.testing.assert_allclose(out, np.einsum("tij,tjk->tik", left, right), rtol=1e-5, atol=1e-6)


def test_the_fastest_way_is_chosen(clock: Clock) -> None:
    """Of several ways, the one whose best try is the shortest, even if its first try was the longest."""
    first = iter([9.0])
    ways: list[Callable[[], object]] = [
        lambda: clock.advance(0.004),
        lambda: clock.advance(next(first, 0.001)),
        lambda: clock.advance(0.002),
    ]
    assert floor.fastest(ways) is ways[1]


def test_updates_of_the_floor_are_as_many_as_the_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts x epochs x minibatches, the truncated last minibatch of an epoch with its own size."""
    case = replace(TINY, arguments={**TINY.arguments, "n_steps": 20})  # 40 transitions: 32 and 8
    model = runs.make_model(replace(case, arguments={**case.arguments, "batch_size": 20}), ALGORITHMS["fused"], 0)
    model.batch_size = 32
    passes: list[tuple[int, int]] = []

    def counted(_: Any, size: int, times: int, *, backward: bool) -> float:
        assert backward
        passes.append((size, times))
        return 1.0

    monkeypatch.setattr(runs, "time_passes", counted)
    assert runs.time_updates(model, case) == 2.0
    assert passes == [(32, 2 * 3), (8, 2 * 3)]


@pytest.mark.parametrize("engine", grid.ENGINES)
def test_grid_updates_are_updates(engine: str) -> None:
    """K updates are k steps of the optimizer on the one minibatch, whose first ratio is 1: the policy is its author."""
    model = grid.make_model(engine, 16, 2, 32)
    assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net[::2]] == [16, 16]
    grid.update(model, 3)
    state = model.policy.optimizer.state[next(iter(model.policy.parameters()))]
    assert state["step"] == 3
    assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert model.logger.name_to_value["train/clip_fraction"] == 0
    actions, values, log_probs = grid.acting(model)(th.zeros(4, 8))
    assert (actions.shape, values.shape, log_probs.shape) == ((4,), (4, 1), (4,))
    assert not values.requires_grad


def test_grid_has_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch size and number of environments is measured for SB3, both engines and the floor."""
    monkeypatch.setattr(grid, "TIMED_SECONDS", 0.0)
    found = grid.measure_grid(Grid((), (), (32, 64), (1, 2)), 16, 1)
    keys = {(row["kind"], row["engine"], row["rows"]) for row in found}
    sizes = [*(("update", rows) for rows in (32, 64)), *(("acting", rows) for rows in (1, 2))]
    engines = ("sb3", "autograd", "fused", "floor")
    assert keys == {(kind, engine, rows) for kind, rows in sizes for engine in engines}
    assert len(found) == len(keys)
    assert all(row["lowest"] <= row["microseconds"] <= row["highest"] for row in found)
    assert all((row["width"], row["depth"]) == (16, 1) for row in found)


def test_times_are_those_of_one_call(clock: Clock) -> None:
    """A work is repeated until it can be measured and reported once; the names take turns; slow points get few repeats."""
    order: list[str] = []

    def work(name: str, seconds: float) -> Callable[[int], None]:
        def repeated(times: int) -> None:
            order.append(name)
            clock.advance(times * seconds)

        return repeated

    found = grid.time_alternating({"a": work("a", 0.002), "b": work("b", 0.1)})
    assert found == {"a": [pytest.approx(0.002)] * grid.MOST_REPEATS, "b": [pytest.approx(0.1)] * grid.MOST_REPEATS}
    assert order[4:8] == ["a", "b", "b", "a"]
    slow = grid.time_alternating({"a": work("a", 3.0), "b": work("b", 1.0)})
    assert slow == {"a": [pytest.approx(3.0)] * grid.FEWEST_REPEATS, "b": [pytest.approx(1.0)] * grid.FEWEST_REPEATS}


def test_child_measures_with_one_thread() -> None:
    """A process of its own answers with complete rows, measured with one thread under the conditions of here."""
    (row,) = suite.run_in_child(Job("end to end", "quick", "cartpole-zoo", "fused", 1))
    assert isinstance(row, EndToEndRow)
    assert (row.case, row.algorithm, row.repetition, row.steps) == ("cartpole-zoo", "fused", 1, 2048)
    assert row.wall_seconds > 0
    rows.check_same_conditions(Path(), [row], rows.conditions("quick"))


def test_child_that_fails_is_quoted() -> None:
    """A process that fails says which measurement it was and what it complained about."""
    with pytest.raises(MeasurementError, match=r"(?s)nowhere, fused, repetition 0: .*exit code 1:.*KeyError: 'nowhere'"):
        suite.run_in_child(Job("end to end", "quick", "nowhere", "fused", 0))


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        (Job("split", "quick", "cartpole-zoo", "fused", 0), SplitRow),
        (Job("grid", "quick", width=8, depth=1), GridRow),
    ],
)
def test_each_kind_of_job_gives_its_rows(job: Job, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split gives the run's parts and the floor's, the grid one row for each engine and point."""
    monkeypatch.setattr(child, "QUICK_GRID", Grid((), (), (32,), (1,)))
    monkeypatch.setattr(grid, "TIMED_SECONDS", 0.0)
    found = child.measure(job)
    assert {type(row) for row in found} == {kind}
    if kind is SplitRow:
        assert {row.algorithm for row in found if isinstance(row, SplitRow)} == {"fused", "floor"}
    done = suite.jobs_done(Tables([], found, []) if kind is SplitRow else Tables([], [], found))  # type: ignore[arg-type]
    assert job in done


# -- numbers -------------------------------------------------------------------------------------------------------------


def test_ratios_are_paired(tables: Tables) -> None:
    """SB3's seconds over the other's of the same repetition, worked by hand; twice the seconds make the same ratio."""
    assert numbers.speedups(tables.end_to_end, "cartpole-zoo", "fused") == [4.0, 2.0, 3.0]
    assert numbers.speedups(tables.end_to_end, "cartpole-zoo", "fused", "cpu_seconds") == [4.0, 2.0, 3.0]
    assert numbers.speedups(tables.end_to_end[1:], "cartpole-zoo", "fused") == [2.0, 3.0]
    assert numbers.speedups(tables.end_to_end, "pendulum-zoo", "autograd") == [1.5]
    assert numbers.speedups(tables.end_to_end, "pendulum-zoo", "fused") == []
    assert numbers.estimate([4.0, 2.0, 3.0]) == Interval(3.0, 2.0, 4.0)
    assert numbers.estimate([]) is None


def test_floor_is_the_sum_of_its_parts(tables: Tables) -> None:
    """(1 + 0.5 + 0.25 + 2 + 0.25) / (0.8 + 0.2 + 0.6) = 2.5; a repetition without a floor has no ratio."""
    assert numbers.times_floor(tables.split, "cartpole-zoo") == [pytest.approx(2.5)]
    more = [*tables.split, *split("cartpole-zoo", "fused", 1, environment=1.0)]
    assert numbers.times_floor(more, "cartpole-zoo") == [pytest.approx(2.5)]


def test_parts_are_medians(tables: Tables) -> None:
    """A part's seconds are the median over the repetitions."""
    more = [row for index, seconds in ((1, 9.0), (2, 3.0)) for row in split("cartpole-zoo", "sb3", index, environment=seconds)]
    more += tables.split
    assert numbers.parts_of(more, "cartpole-zoo", "sb3")["environment"] == 3.0


def test_grid_ratios(tables: Tables) -> None:
    """2000 over 250 at every point but the one made slower than SB3."""
    found = numbers.grid_speedups(tables.grid, "update", "fused")
    assert found == {(64, 2, 64): 8.0, (64, 2, 1024): 8.0, (256, 2, 64): 8.0, (256, 2, 1024): pytest.approx(0.8)}


# -- report and pictures -------------------------------------------------------------------------------------------------


def test_report_agrees_with_its_rows(tables: Tables, tmp_path: Path) -> None:
    """The report that is written is the one that the files' rows make, and it has the numbers worked by hand."""
    save(tables, tmp_path)
    written = report.write_report(tmp_path)
    assert [path.name for path in written] == ["speed.md", "end_to_end.png", "split.png", "scaling.png"]
    assert all(path.stat().st_size > 1000 for path in written)
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert text == report.report_text(read_tables(tmp_path))
    for line in (
        "| CartPole-v1, the zoo's settings | 10.00 s | – | 3.00 (2.00 to 4.00) | – |",
        "| CartPole-v1, the zoo's settings | 20.00 s | – | 3.00 (2.00 to 4.00) | – |",
        "| Pendulum-v1, the zoo's settings without gSDE | 6.00 s | 1.50 (1.50 to 1.50) | – | 0.75 (0.75 to 0.75) |",
        "| Pendulum-v1, the zoo's settings without gSDE | 8.00 s | 5.50 s | 6.00 s |",
        "| Pendulum-v1, the zoo's settings without gSDE | 320 (300) | 330 (300) | – | 320 (300) |",
        "| CartPole-v1, the zoo's settings | EduPPO, fused | 1.000 | 0.500 | 0.250 | 2.000 | 0.250 | 4.000 |",
        "| CartPole-v1, the zoo's settings | 4.000 | 0.800 | 0.200 | 0.600 | 1.600 | 2.50 (2.50 to 2.50) | 0.700 |",
        "| 2 × 256 | 8.00 | 0.80 |",
        "| 2 × 64 | 2,000 / 1,600 / 250 / 40 | 32,000 / 25,600 / 4,000 / 640 |",
    ):
        assert line in text.splitlines()
    flowing = " ".join(text.split())
    assert (
        "The least is 0.80 (2 × 256, batch size 1,024). The fused engine is slower than SB3's PPO at 1 of 4 points." in flowing
    )
    assert "The least is 8.00 (2 × 64, n_envs 1). The fused engine is slower than SB3's PPO at 0 of 4 points." in flowing
    assert (
        "Made by `sb3-edu bench speed` on an abacus, 2 cores, with 1 thread in each process; sb3_ppo_edu 0, numpy 0."
        in flowing
    )
    assert "no result" not in flowing


def test_report_follows_its_rows(tables: Tables) -> None:
    """Another row makes another report; quick rows are called so; what was not measured is not mentioned."""
    text = report.report_text(tables)
    changed = [replace(tables.end_to_end[0], wall_seconds=20.0), *tables.end_to_end[1:]]
    assert report.report_text(tables._replace(end_to_end=changed)) != text
    quick = [replace(row, size="quick") for row in tables.end_to_end]
    shortened = report.report_text(Tables(quick, [], []))
    assert "`sb3-edu bench speed --quick`" in shortened
    assert "They are no result." in shortened
    assert "floor" not in shortened
    assert "scaling.png" not in shortened
    assert "[split.csv]" not in shortened


def test_report_of_an_interrupted_run(tables: Tables) -> None:
    """From whatever rows there are a report is made: without SB3's, without the floor's, of the grid alone."""
    without = [row for row in tables.end_to_end if row.algorithm != "sb3"]
    parts = [row for row in tables.split if row.algorithm == "fused"]
    partial = Tables(without, parts, [])
    assert "| CartPole-v1, the zoo's settings | – |" in report.report_text(partial)
    plots.draw_end_to_end(without)
    plots.draw_split(parts)
    assert "A single update" in report.report_text(Tables([], [], tables.grid))


def test_report_without_rows_is_refused(tmp_path: Path) -> None:
    """There is no report of nothing; the error names the files and the command that makes them."""
    with pytest.raises(ValueError, match=r"no rows, expected some in end_to_end.csv, .*measure first: sb3-edu bench"):
        report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_published_report_agrees_with_its_rows() -> None:
    """The published report is what its rows make, and no quick run."""
    tables = read_tables(PUBLISHED)
    assert (PUBLISHED / "speed.md").read_text(encoding="utf-8") == report.report_text(tables)
    assert {row.size for found in tables for row in found} == {"full"}
    assert all((PUBLISHED / name).is_file() for name in ("end_to_end.png", "split.png", "scaling.png"))


def bars(figure: Figure) -> list[tuple[float, float]]:
    """
    List the bars of a figure.

    :param figure: the figure
    :return: left end and width of each that has a width, from top to bottom and left to right
    """
    found = [patch for patch in figure.axes[0].patches if patch.get_width()]  # type: ignore[attr-defined]
    found.sort(key=lambda patch: (patch.get_y(), patch.get_x()))  # type: ignore[attr-defined]
    return [(float(patch.get_x()), float(patch.get_width())) for patch in found]  # type: ignore[attr-defined]


def test_picture_of_trainings_shows_the_ratios(tables: Tables) -> None:
    """Bars are as long as the ratios, each with its number; the cases are named; the colours are told apart by all."""
    figure = plots.draw_end_to_end(tables.end_to_end)
    assert bars(figure) == [(0.0, 3.0), (0.0, 1.5), (0.0, 0.75)]
    texts = [text.get_text().strip() for text in figure.axes[0].texts]
    assert {"3.00", "1.50", "0.75"} <= set(texts)
    assert {CASES["cartpole-zoo"].title, CASES["pendulum-zoo"].title} <= set(texts)
    assert set(plots.ALGORITHM_COLOURS.values()) | set(plots.PART_COLOURS.values()) <= OKABE_ITO
    assert set(plots.ALGORITHM_COLOURS) == {*ALGORITHMS, "floor"}
    assert len(set(plots.ALGORITHM_COLOURS.values())) == len(plots.ALGORITHM_COLOURS)


def test_picture_of_parts_shows_shares(tables: Tables) -> None:
    """SB3's parts add up to 1, the others' to their share of SB3's ten seconds, the floor's without the bare environment."""
    found = bars(plots.draw_split(tables.split))
    widths = [0.2, 0.1, 0.05, 0.6, 0.05, 0.1, 0.05, 0.025, 0.2, 0.025, 0.08, 0.02, 0.06]
    np.testing.assert_allclose([width for _, width in found], widths)
    np.testing.assert_allclose([left for left, _ in found[10:]], [0.0, 0.08, 0.1], atol=1e-12)


def test_picture_of_scaling_shows_the_grid(tables: Tables) -> None:
    """Each panel has a line for each engine and the floor through the rows' points, on logarithmic axes."""
    figure = plots.draw_scaling(tables.grid)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 3 * 2
    assert all((axes.get_xscale(), axes.get_yscale(), len(axes.lines)) == ("log", "log", 4) for axes in panels)
    assert panels[0].get_title(loc="left") == "one update, 2 layers of 64"
    np.testing.assert_array_equal(panels[0].lines[2].get_xydata(), [[64, 250], [1024, 4000]])
    assert panels[3].get_title(loc="left") == "one update, batches of 1,024"
    np.testing.assert_array_equal(panels[3].lines[2].get_xydata(), [[64, 4000], [256, 160_000]])
    assert panels[5].get_title(loc="left") == "one step of acting, 2 layers of 256"
    labels = {text.get_text() for text in panels[5].texts}
    assert labels == {"SB3's PPO", "EduPPO, autograd", "EduPPO, fused", "bare matrix products"}


# -- the command line ----------------------------------------------------------------------------------------------------


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
    names = ["end_to_end.csv", "end_to_end.png", "grid.csv", "scaling.png", "speed.md", "split.csv", "split.png"]
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == names
    assert str(tmp_path / "made" / "speed.md") in capsys.readouterr().out
    # two cases: two repetitions and one split of two algorithms; two networks of the grid
    assert len(asked) == 2 * 2 * 2 + 2 * 2 + 2
    assert main(command) == 0
    assert main([*command, "--no-grid", "--repetitions", "3"]) == 0
    assert len(asked) == 14 + 2 * 2


def test_report_only_measures_nothing(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--report-only`` writes the report from the rows there are, whatever they were measured with."""
    monkeypatch.setattr(suite, "run_in_child", lambda job: pytest.fail("measured"))
    save(tables, tmp_path)
    assert main(["bench", "speed", "--report-only", "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") == report.report_text(tables)


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
        raise MeasurementError(f"{job}: on strike")

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


def test_the_readmes_speeds_are_the_published_ones() -> None:
    """Each line of the README's table has the medians of the published rows, to one digit."""
    trainings = read_tables(PUBLISHED).end_to_end
    readme = (PUBLISHED.parent.parent / "README.md").read_text(encoding="utf-8")
    for key, case in CASES.items():
        medians = [np.median(numbers.speedups(trainings, key, algorithm)) for algorithm in ("autograd", "fused")]
        title = case.title.replace("as users run it", "as SB3's users run it (with a render mode that nobody sees)")
        assert f"| {title} | {medians[0]:.1f} | {medians[1]:.1f} |" in readme, key
