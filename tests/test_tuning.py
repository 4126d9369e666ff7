"""Tuning in the lecture's order: what is tried, what is decided, and what is recommended."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.lab import page as pages
from sb3_ppo_edu.lab.runs import Run, RunRow, check, execute
from sb3_ppo_edu.lab.suite import Done
from sb3_ppo_edu.lab.tuning import DEFAULTS, FRESH, STAGES, Candidate, Stage, Tuning, choose, summarise_candidates
from sb3_ppo_edu.lab.tuning_report import recommend, save_block
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters

STEPS = 8_192


def stages(*names: str) -> list[Stage]:
    """Some of the stages."""
    return [stage for stage in STAGES if stage.name in names]


def row(run: Run, final: float) -> RunRow:
    """A row of a run that ended with this mean return."""
    return RunRow(
        run.algorithm, run.env, run.settings, run.variant, run.seed, run.steps, final, 1.0, 0.0, 30, "", 1.0, 1.0, 1.0, 1,
        run.overrides, "a machine", "v 1",
    )  # fmt: skip


def tuned(tuning: Tuning, response: Callable[[Mapping[str, Any]], float | None], asked: list[Run] | None = None) -> Tuning:
    """Go through the stages with runs that end as a function of their settings says, a little apart from seed to seed."""
    procedure = tuning.procedure()
    runs = next(procedure)
    try:
        while True:
            if asked is not None:
                asked += runs
            finals = {run: response({**tuning.start, **json.loads(run.overrides)}) for run in runs}
            runs = procedure.send({run: None if (end := finals[run]) is None else row(run, end + run.seed) for run in runs})
    except StopIteration:
        return tuning


def test_defaults_are_eduppos() -> None:
    """Where the settings name nothing, tuning begins with EduPPO's own defaults."""
    parameters = inspect.signature(EduPPO).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    assert {stage.name for stage in STAGES} == set(DEFAULTS)
    assert [stage.name for stage in STAGES][:3] == ["learning_rate", "clip_range", "n_steps"]


def test_a_value_replaces_another_only_beyond_the_noise() -> None:
    """Means 10 apart with standard errors 6 and 8: √(36 + 64) = 10 is not exceeded; by 10.1 it is."""
    here = Candidate(1.0, 100.0, 6.0, 0)
    assert choose([here, Candidate(2.0, 110.0, 8.0, 0)], 1.0) == 1.0
    assert choose([here, Candidate(2.0, 110.1, 8.0, 0)], 1.0) == 2.0
    assert choose([Candidate(0.5, 99.0, 0.0, 0), here], 1.0) == 1.0


def test_a_failed_run_counts_as_the_worst() -> None:
    """Means over the seeds with the worst of the stage in place of what failed; standard errors are s/√n."""
    good, bad = summarise_candidates({2.0: [None, 4.0], 1.0: [10.0, 12.0]})
    assert (good.value, good.mean, good.failures) == (1.0, 11.0, 0)
    assert good.error == pytest.approx(1.0)
    assert (bad.value, bad.mean, bad.failures) == (2.0, 4.0, 1)


def test_the_best_learning_rate_is_found_beyond_the_first_neighbours() -> None:
    """With its best at 2.7e-3, three thirds above the start, the stage goes on past its edge; the others keep their values."""
    asked: list[Run] = []
    tuning = tuned(
        Tuning("CartPole-v1", STEPS, stages=stages("learning_rate", "n_epochs")),
        lambda settings: 500.0 - 1e5 * abs(settings["learning_rate"] - 2.7e-3),
        asked,
    )
    assert tuning.changed == {"learning_rate": 2.7e-3}
    assert [decision.chosen for decision in tuning.decisions] == [2.7e-3, 10]
    for run in {run.overrides: run for run in asked}.values():
        check(run)
    # One setting at a time: the epochs are tried at the learning rate that was chosen.
    assert {json.loads(run.overrides).get("learning_rate") for run in asked if "n_epochs" in run.overrides} == {2.7e-3}


def test_noise_changes_nothing() -> None:
    """If nothing matters, everything stays."""
    tuning = tuned(Tuning("CartPole-v1", STEPS), lambda _: 100.0)
    assert tuning.changed == {}
    assert [decision.stage for decision in tuning.decisions] == list(STAGES)


def test_what_cannot_be_trained_is_not_tried() -> None:
    """No minibatch larger than the rollout, no rollout larger than the run, λ below 1, at least one epoch."""
    asked: list[Run] = []
    tuned(
        Tuning("CartPole-v1", 2_048, stages=stages("n_steps", "batch_size", "gae_lambda", "n_epochs")),
        lambda settings: -settings["n_steps"] - 1e3 * settings["n_epochs"] + settings["gae_lambda"],
        asked,
    )
    values = [json.loads(run.overrides) for run in asked]
    steps = {one.get("n_steps", 2048) for one in values}
    assert max(steps) == 2048 and min(steps) == 256
    assert all(one.get("batch_size", 64) <= one.get("n_steps", 2048) for one in values)
    assert all(0 < one.get("gae_lambda", 0.95) < 1 for one in values)
    assert min(one.get("n_epochs", 10) for one in values) == 1


def test_linear_settings_stay_linear() -> None:
    """CartPole's own settings let the learning rate fall from 1e-3; neighbours fall too, and so does what is recommended."""
    asked: list[Run] = []
    tuning = tuned(
        Tuning("CartPole-v1", STEPS, settings="own", stages=stages("learning_rate")),
        lambda settings: 100.0 if settings["learning_rate"] == "lin_0.003" else 0.0,
        asked,
    )
    assert tuning.start["learning_rate"] == 1e-3
    assert {json.loads(run.overrides)["learning_rate"] for run in asked if run.overrides != "{}"} >= {"lin_0.003"}
    assert tuning.block()["learning_rate"] == "lin_0.003"
    assert tuning.block()["n_envs"] == 8


@pytest.mark.parametrize(
    ("text", "start", "tried"),
    [
        ("cos_6e-3_1e-5", 6e-3, {"cos_0.002_1e-5", "cos_0.018_1e-5"}),
        ("warmup_0.1_6e-3", 6e-3, {"warmup_0.1_0.002", "warmup_0.1_0.018"}),
        ("kl_0.01_6e-3", 6e-3, {"kl_0.01_0.002"}),  # and not beyond the highest rate, 0.01
        ("kl_0.01", 3e-4, {"kl_0.01_0.0001", "kl_0.01_0.0009"}),
    ],
)
def test_any_schedule_stays_one(monkeypatch: pytest.MonkeyPatch, text: str, start: float, tried: set[str]) -> None:
    """It is known by the number that it begins with, and its neighbours are schedules that begin with theirs."""
    monkeypatch.setattr("sb3_ppo_edu.lab.tuning.load_settings", lambda *_: {"learning_rate": text})
    tuning = Tuning("CartPole-v1", STEPS, stages=stages("learning_rate"))
    assert tuning.start["learning_rate"] == start
    asked = next(tuning.procedure())
    assert {json.loads(run.overrides)["learning_rate"] for run in asked if run.overrides != "{}"} == tried


def test_what_is_no_number_to_begin_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was probably meant."""
    monkeypatch.setattr("sb3_ppo_edu.lab.tuning.load_settings", lambda *_: {"learning_rate": "linear_0.1"})
    with pytest.raises(ValueError, match=r"learning_rate='linear_0.1': expected a number.*did you mean 'lin_0.1'"):
        Tuning("CartPole-v1", STEPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPole-v1", STEPS, 1), "seeds=1: expected at least 2"),
        (("CartPole-v1", 100, 3), "steps=100: expected at least one rollout of 2048 steps"),
        (("CartPole-v9", STEPS, 3), "CartPole-v9"),
    ],
)
def test_tuning_that_cannot_be_is_refused(arguments: tuple[str, int, int], message: str) -> None:
    """Before anything is run."""
    with pytest.raises(ValueError, match=message):
        Tuning(*arguments)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([100.0, 110.0, 90.0], [200.0, 205.0, 195.0], "**Use the tuned settings.**"),
        ([200.0, 205.0, 195.0], [100.0, 110.0, 90.0], "**Keep the settings you began with**: tuning has followed luck"),
        ([100.0, 200.0, 300.0], [310.0, 190.0, 110.0], "**Not shown to be better.**"),
    ],
)
def test_fresh_seeds_decide(before: list[float], after: list[float], words: str) -> None:
    """The recommendation follows the interval of the differences on fresh seeds, not what tuning has seen."""
    tuning = tuned(
        Tuning("CartPole-v1", STEPS, stages=stages("learning_rate")), lambda settings: 1e5 * settings["learning_rate"]
    )
    text = pages.to_markdown(recommend(tuning, before, after, "a command"))
    assert words in text
    assert "0.0081" in text and "before and chosen" not in text


def test_what_is_recommended_can_be_trained_with(tmp_path: Path) -> None:
    """The YAML is read back as the settings that were found, beside those of the start."""
    tuning = tuned(
        Tuning("LunarLanderContinuous-v3", 50_000, settings="own", stages=stages("ent_coef")),
        lambda settings: -1e3 * settings["ent_coef"],
    )
    path = save_block(tuning, tmp_path)
    read = load_hyperparameters("LunarLanderContinuous-v3", path)
    expected = {**load_hyperparameters("LunarLanderContinuous-v3"), "ent_coef": 0.0, "n_timesteps": 50_000}
    assert read == expected
    assert list(yaml.safe_load(path.read_text())) == ["LunarLanderContinuous-v3"]


def here(runs: Sequence[Run]) -> Iterator[Done]:
    """A backend in this process, run after run, with few episodes: processes and judges are tests/test_suite.py's."""
    for run in runs:
        result = execute(replace(run, evaluations=1, eval_episodes=1, final_episodes=2))
        yield Done(run, replace(result, row=replace(result.row, final_episodes=run.final_episodes)), "")


def test_the_command_tunes_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small tuning leaves rows, a recommendation and a picture; a second call trains nothing."""
    monkeypatch.setattr("sb3_ppo_edu.cli.tune.in_processes", lambda workers: here)
    command = [
        "tune",
        "--env",
        "CartPole-v1",
        "--steps",
        "256",
        "--seeds",
        "2",
        "--settings",
        "own",
        "--folder",
        str(tmp_path),
    ]
    command += ["--folder", str(tmp_path), "--only", "clip_range", "--workers", "2"]
    assert main(command) == 0
    assert "fresh seeds" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"runs.csv", "curves.csv", "recommendation.md", "recommendation.html", "tuning.png"}
    text = (tmp_path / "recommendation.md").read_text()
    assert f"`{' '.join(['sb3-edu', *command[:9]])} --only clip_range`" in text
    rows = (tmp_path / "runs.csv").read_text()
    assert str(FRESH) in rows
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == results
    assert (tmp_path / "runs.csv").read_text() == rows
