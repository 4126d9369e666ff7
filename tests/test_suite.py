"""The laboratory's suites: what is run, what is kept, and what survives being killed."""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_ppo_edu.cli.experiments import run_with_bar
from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.lab.algorithms import ALGORITHMS, build, check_actions, load_settings
from sb3_ppo_edu.lab.rows import read_rows
from sb3_ppo_edu.lab.runs import CurveRow, Result, Run, RunRow, execute, with_overrides
from sb3_ppo_edu.lab.suite import (
    CURVES_FILE,
    FAILURES_FILE,
    RUNS_FILE,
    Done,
    FailureRow,
    in_processes,
    is_of,
    on_ray,
    run_suite,
)
from sb3_ppo_edu.serialization.extras import need

TINY = json.dumps({"n_steps": 16, "batch_size": 16, "n_epochs": 1, "n_envs": 2})
"""Settings under which a run takes a fraction of a second."""


def tiny(algorithm: str = "eduppo", seed: int = 0, **changes: Any) -> Run:
    """A run of 64 steps of CartPole."""
    run = Run(algorithm, "CartPole-v1", seed, 64, overrides=TINY, evaluations=2, eval_episodes=2, final_episodes=3)
    return replace(run, **changes)


def here(runs: Sequence[Run]) -> Iterator[Done]:
    """A backend that runs in this process, one after the other; Reinforce fails."""
    for run in runs:
        if run.algorithm == "reinforce":
            yield Done(run, None, "it has failed")
        else:
            yield Done(run, execute(run), "")


def nobody(runs: Sequence[Run]) -> Iterator[Done]:
    """A backend that must have nothing to do."""
    assert not runs
    yield from ()


def without_clocks(rows: list[RunRow]) -> list[RunRow]:
    """Rows but for what differs between two equal runs."""
    return [replace(row, train_seconds=0.0, train_cpu_seconds=0.0, cpu_seconds=0.0) for row in rows]


# -- one run -------------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_came_to() -> None:
    """The final evaluation is over the episodes asked for; the curve has its evaluations; steps are whole rollouts."""
    result = execute(tiny())
    assert (result.row.algorithm, result.row.env, result.row.seed, result.row.steps) == ("eduppo", "CartPole-v1", 0, 64)
    assert result.row.final_episodes == 3
    assert 8.0 <= result.row.final_min <= result.row.final_mean <= 500.0
    assert result.timesteps == [32, 64]
    assert np.shape(result.results) == np.shape(result.ep_lengths) == (2, 2)
    # CartPole pays 1 for each step.
    assert np.array_equal(result.results, result.ep_lengths)
    rows = result.curve()
    assert [row.step for row in rows] == [32, 64]
    assert rows[0].mean == round(float(np.mean(result.results[0])), 2)


def test_the_same_run_twice_gives_the_same_bits_and_another_seed_others() -> None:
    """All but the clocks is a function of the run."""
    once, again, other = (execute(run) for run in (tiny(), tiny(), tiny(seed=1)))
    assert without_clocks([once.row]) == without_clocks([again.row])
    assert once.results == again.results
    assert once.row.fingerprint != other.row.fingerprint


def test_autograd_and_sb3_end_with_the_same_bits() -> None:
    """The laboratory builds SB3's PPO and EduPPO's autograd engine on equal terms: one fingerprint."""
    ours, theirs = (execute(tiny(name)).row for name in ("eduppo-autograd", "ppo"))
    assert ours.fingerprint == theirs.fingerprint
    assert ours.final_mean == theirs.final_mean


def test_a_result_survives_its_text() -> None:
    """JSON and back is the same result; other text is refused."""
    result = execute(tiny("random"))
    assert result.row.steps == 0
    assert Result.from_json(result.to_json()) == result
    for text in ("{}", "[]", '{"row": {"algorithm": 1}}', "nonsense"):
        with pytest.raises(ValueError, match=r"no result of a run|Expecting value"):
            Result.from_json(text)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"random"}))
def test_every_algorithm_finds_its_settings(algorithm: str) -> None:
    """Each has settings where it can act, and is refused by name where it cannot."""
    env = "CartPole-v1" if "Discrete" in ALGORITHMS[algorithm].actions else "Pendulum-v1"
    assert load_settings(algorithm, "zoo", env, {})["policy"] == "MlpPolicy"
    if ALGORITHMS[algorithm].actions == ("Box",):
        with pytest.raises(ValueError, match=f"'{algorithm}' on CartPole-v1: found actions of Discrete.*expected Box"):
            check_actions(algorithm, "CartPole-v1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ppq"}, "algorithm 'ppq': expected one of"),
        ({"env": "CartPole-v9"}, "CartPole-v9"),
        ({"settings": "mine"}, "settings 'mine': expected 'zoo', 'defaults', 'own', 'shared'"),
        ({"algorithm": "a2c", "settings": "own"}, "settings 'own' with algorithm 'a2c'"),
        ({"steps": 0}, "steps=0: expected a positive integer"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """One bad run among good ones: nothing is run, nothing is written."""
    with pytest.raises(ValueError, match=message):
        run_suite(tmp_path / "suite", [tiny(), tiny(seed=1, **changes)], nobody)
    assert not (tmp_path / "suite").exists()


# -- suites --------------------------------------------------------------------------------------------------------------


def test_only_ours_have_a_rate_that_follows_the_kl() -> None:
    """In SB3's PPO it would stay what it begins with, without a word."""
    env = make_training_env("CartPole-v1")
    assert build("eduppo", env, "MlpPolicy", {"learning_rate": "kl_0.01"}, 0).lr_schedule(1.0) == 3e-4
    with pytest.raises(ValueError, match=r"algorithm 'ppo': learning_rate='kl_0.01': only ours follow the KL"):
        build("ppo", env, "MlpPolicy", {"learning_rate": "kl_0.01"}, 0)


def test_a_suite_keeps_what_comes_and_repeats_nothing(tmp_path: Path) -> None:
    """Rows in the order of the runs, evaluations where the zoo looks for them, and nothing left to do the second time."""
    runs = [tiny(seed=1), tiny("ppo"), tiny("random")]
    rows = run_suite(tmp_path, runs, here)
    assert read_rows(tmp_path / RUNS_FILE, RunRow) == rows
    assert [row.algorithm for row in read_rows(tmp_path / RUNS_FILE, RunRow)] == ["eduppo", "ppo", "random"]
    assert len(read_rows(tmp_path / CURVES_FILE, CurveRow)) == 4
    evaluations = np.load(tmp_path / "zoo" / "eduppo" / "CartPole-v1_2" / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [32, 64]
    assert evaluations["results"].shape == evaluations["ep_lengths"].shape == (2, 2)
    assert run_suite(tmp_path, runs, nobody) == rows


def test_tables_are_enough_to_go_on(tmp_path: Path) -> None:
    """With the rows alone, as a clone has them, nothing is run again; a run whose settings have changed is."""
    runs = [tiny(), tiny("random")]
    rows = run_suite(tmp_path, runs, here)
    curves = (tmp_path / CURVES_FILE).read_text()
    shutil.rmtree(tmp_path / "zoo")
    assert run_suite(tmp_path, runs, nobody) == rows
    assert (tmp_path / CURVES_FILE).read_text() == curves
    asked: list[Run] = []

    def note(left: Sequence[Run]) -> Iterator[Done]:
        asked.extend(left)
        yield from ()

    others = [replace(runs[0], steps=128), replace(runs[1], final_episodes=4)]
    run_suite(tmp_path, others, note)
    assert asked == others


@pytest.mark.parametrize(("steps", "done"), [(49_999, False), (50_000, True), (50_176, True), (100_000, False)])
def test_a_row_of_a_shorter_or_much_longer_run_does_not_count(steps: int, done: bool) -> None:
    """Of 50,000 steps: completing the last rollout makes a few more; twice as many are another run."""
    row = replace(execute(tiny("random")).row, algorithm="sac", steps=steps)
    assert is_of(row, replace(tiny("sac"), steps=50_000)) == done


def test_a_part_of_a_suite_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    """Running some of the runs again leaves the rows of the rest in the tables, in the order of all."""
    everything = [tiny(), tiny("ppo"), tiny("random")]
    run_suite(tmp_path, everything[1:], here)
    run_suite(tmp_path, everything[:1], here, among=everything)
    assert [row.algorithm for row in read_rows(tmp_path / RUNS_FILE, RunRow)] == ["eduppo", "ppo", "random"]


def test_a_failure_is_reported_and_tried_again(tmp_path: Path) -> None:
    """The others go on; the failure has a row; it goes when the run succeeds."""
    runs = [tiny("reinforce", overrides='{"n_steps": 16}'), tiny("random")]
    seen: list[tuple[str, int, int]] = []
    rows = run_suite(tmp_path, runs, here, lambda done, count, total: seen.append((done.error, count, total)))
    assert seen == [("it has failed", 1, 2), ("", 2, 2)]
    assert [row.algorithm for row in rows] == ["random"]
    assert read_rows(tmp_path / FAILURES_FILE, FailureRow) == [FailureRow(runs[0].name, "it has failed")]
    tried: list[Run] = []

    def better(left: Sequence[Run]) -> Iterator[Done]:
        tried.extend(left)
        for run in left:
            yield Done(run, execute(run), "")

    assert len(run_suite(tmp_path, runs, better)) == 2
    assert tried == [runs[0]]
    assert read_rows(tmp_path / FAILURES_FILE, FailureRow) == []


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    """Other settings need another name, or one run would overwrite the other."""
    changed = with_overrides(tiny(), "", {"gamma": 0.9})
    with pytest.raises(ValueError, match=r"zoo/eduppo/CartPole-v1_1.*found 2 runs of this name"):
        run_suite(tmp_path, [tiny(), changed], nobody)
    named = with_overrides(tiny(), "gamma=0.9", {"gamma": 0.9})
    assert named.name == "zoo-gamma=0.9/eduppo/CartPole-v1_1"
    assert json.loads(named.overrides) == {**json.loads(TINY), "gamma": 0.9}


def test_a_result_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    """A row that lacks what today's rows have: the message names the file and what to do with it."""
    run_suite(tmp_path, [tiny("random")], here)
    (path,) = tmp_path.rglob("result.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["result"]["row"]["train_cpu_seconds"]
    path.write_text(json.dumps(record), encoding="utf-8")
    for table in tmp_path.glob("*.csv"):
        table.unlink()
    with pytest.raises(ValueError, match=r"result\.json: .*train_cpu_seconds.*another version has made it: move it away"):
        run_suite(tmp_path, [tiny("random")], here)


def test_a_result_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    """A folder made with other settings is refused by name instead of being mixed in."""
    run_suite(tmp_path, [tiny("random")], here)
    with pytest.raises(ValueError, match=r"result.json: it is of another run .*'final_episodes': 3.*name another folder"):
        run_suite(tmp_path, [tiny("random", final_episodes=4)], nobody)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    """A run that breaks in its own process is a failure with the end of its error."""
    run = tiny(overrides='{"n_steps": -1}')
    assert run_suite(tmp_path, [run], in_processes(1)) == []
    (failure,) = read_rows(tmp_path / FAILURES_FILE, FailureRow)
    assert "n_steps=-1" in failure.error


def test_no_workers_are_refused() -> None:
    """Zero processes would wait forever."""
    with pytest.raises(ValueError, match="workers=0"):
        in_processes(0)


SUITE = """
import sys
from pathlib import Path
from typing import Any
from tests.test_suite import killed_runs
from sb3_ppo_edu.lab.suite import in_processes, run_suite
if __name__ == "__main__":
    run_suite(Path(sys.argv[1]), killed_runs(), in_processes(2))
"""


def test_the_bar_begins_with_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of before count from the start, and not as if they had just been done."""
    runs = [tiny("random", seed) for seed in range(3)]
    assert run_with_bar(tmp_path, runs[:2], here, runs) == []
    capsys.readouterr()
    assert run_with_bar(tmp_path, runs, here, runs) == []
    shown = capsys.readouterr().err
    assert "0/3" not in shown and "1/3" not in shown and "2/3 runs" in shown and "3/3 runs" in shown


def killed_runs() -> list[Run]:
    """What the killed suite runs."""
    return [tiny(seed=0), tiny(seed=1), tiny("ppo")]


def children_of(pid: int) -> list[int]:
    """Processes started by a process, on Linux."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for child processes in /proc")
def test_a_suite_killed_at_any_moment_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """
    Killed by SIGKILL and started again, the suite ends with the rows of one that was left alone.

    The killed parent's children end by themselves.
    """
    random = np.random.default_rng()
    command = [sys.executable, "-c", SUITE, str(tmp_path / "killed")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env)
    time.sleep(random.uniform(3.0, 8.0))
    orphans = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30.0
    while any(Path(f"/proc/{orphan}").exists() for orphan in orphans):
        assert time.monotonic() < deadline, "a child outlived its parent"
        time.sleep(0.05)
    subprocess.run(command, env=env, check=True)
    run_suite(tmp_path / "alone", killed_runs(), here)
    killed, alone = (read_rows(tmp_path / name / RUNS_FILE, RunRow) for name in ("killed", "alone"))
    assert without_clocks(killed) == without_clocks([replace(row, threads=1) for row in alone])
    assert (tmp_path / "killed" / CURVES_FILE).read_text() == (tmp_path / "alone" / CURVES_FILE).read_text()


def test_other_peoples_csv_is_refused(tmp_path: Path) -> None:
    """A file with other columns is named, and left as it is."""
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(["a", "b"])
    with pytest.raises(ValueError, match=r"runs.csv: found the columns \['a', 'b'\]"):
        read_rows(path, RunRow)


def test_a_missing_library_names_its_extra() -> None:
    """Whoever asks for Ray without having it is told what to install."""
    with pytest.raises(ImportError, match=r"--backend ray needs nosuch.*pip install 'sb3-ppo-edu\[ray\]'"):
        need("nosuch.module", "ray", "--backend ray")


@pytest.mark.slow  # half a minute, most of it Ray's own start
def test_ray_runs_the_same_suite_on_several_nodes(tmp_path: Path) -> None:
    """
    On a Ray cluster of two nodes on this machine: the rows of runs in this process, and a failure is a row too.

    Needs Ray, which is in an extra of its own: ``pip install 'sb3-ppo-edu[ray]'``.
    """
    pytest.importorskip("ray", reason="Ray is not installed (extra 'ray')")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        runs = [tiny(), tiny("ppo"), tiny(seed=9, overrides='{"n_steps": -1}')]
        rows = run_suite(tmp_path / "ray", runs, on_ray(cluster.address))
        assert without_clocks(rows) == without_clocks([replace(execute(run).row, threads=1) for run in runs[:-1]])
        (failure,) = read_rows(tmp_path / "ray" / FAILURES_FILE, FailureRow)
        assert "n_steps=-1" in failure.error
    finally:
        importlib.import_module("ray").shutdown()
        cluster.shutdown()
