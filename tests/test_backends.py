"""Choosing a backend: by measurement, by settings, and again when a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from gymnasium import spaces

from sb3_ppo_edu.envs import backends
from sb3_ppo_edu.envs.backends import BACKENDS, ONE_BY_ONE, choose, steps_per_second
from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.training.resume import resume_run
from sb3_ppo_edu.training.run import close_run, learn, save_model, start_run
from sb3_ppo_edu.training.saved_run import open_run
from sb3_ppo_edu.training.settings import settings_from_hyperparameters
from sb3_ppo_edu.vec_env.adapters import VectorAdapter
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from sb3_ppo_edu.zoo import _vec_env_class
from tests.masked_environments import MaskedWalk


def made_up(rates: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that backends have these speeds; note which are built."""
    built: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            built.append(name)
            self.rate = rates[name]

        def close(self) -> None:
            built.append(f"{built.pop()} and closed")

    monkeypatch.setattr(backends, "steps_per_second", lambda env: env.rate)
    monkeypatch.setattr(backends, "processors", lambda: 4)
    monkeypatch.setattr(backends, "_FAKE", Fake, raising=False)
    return built


@pytest.mark.parametrize(
    ("rates", "expected", "reason"),
    [
        ((1000.0, 1300.0, 1100.0, 900.0, 1000.0), "gymnasium-sync", "dummy 1,000, gymnasium-sync 1,300"),
        ((1000.0, 1050.0, 900.0, 900.0, 1000.0), "dummy", "less than 10% apart"),
        ((1000.0, 900.0, 2500.0, 3000.0, 2000.0), "subproc", "subproc 3,000"),
        (
            (100_000.0, 50_000.0, 150_000.0, 1e9, 1e9),
            "workers",
            "all 8 takes 80 µs, too little for subproc, gymnasium-async to",
        ),
        (
            (200_000.0, 100_000.0, 1e9, 1e9, 1e9),
            "dummy",
            "takes 40 µs, too little for workers, subproc, gymnasium-async to pay",
        ),
    ],
)
def test_the_fastest_is_chosen_and_the_reason_given(
    monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...], expected: str, reason: str
) -> None:
    """Noise is no reason to leave "dummy", and processes that can't pay are not even started."""
    named = dict(zip(ONE_BY_ONE, rates, strict=True))
    built = made_up(named, monkeypatch)
    choice = choose(backends._FAKE, 8)  # type: ignore[attr-defined]
    assert choice.backend == expected and reason in choice.reason
    assert built == [f"{name} and closed" for name in choice.rates]
    assert ("subproc" in choice.rates) == ("too little" not in choice.reason)


def test_auto_says_what_it_chose(capsys: pytest.CaptureFixture[str]) -> None:
    """A light environment stays in this process; the choice and its reason are printed."""
    env = make_training_env("CartPole-v1", 2, backend="auto", verbose=1)
    assert capsys.readouterr().out.startswith(("vec_env: dummy (dummy ", "vec_env: gymnasium-sync ("))
    env.close()


def test_rates_count_single_steps() -> None:
    """Four environments that take a millisecond together make four thousand steps a second at most."""

    class Slow(VectorAdapter):
        def __init__(self) -> None:
            self.num_envs, self.action_space = 4, spaces.Discrete(2)

        def reset(self) -> Any:
            return None

        def step(self, actions: Any) -> Any:
            import time

            time.sleep(1e-3)

    assert 400 < steps_per_second(Slow(), seconds=0.05) < 4000


@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_rates_are_those_of_legal_actions(action: str) -> None:
    """Environments that fail at an illegal action are measured too."""
    assert steps_per_second(InProcessVecEnv([lambda: MaskedWalk(action=action)] * 3), seconds=0.02) > 0


def test_every_backend_is_in_one_table() -> None:
    """The names that settings may give are those that something is built for."""
    assert set(BACKENDS) == {"dummy", "workers", "subproc", "gymnasium-sync", "gymnasium-async", "gymnasium-native", "envpool"}


def test_a_backend_is_pinned_by_settings_and_kept_in_the_record(tmp_path: Path) -> None:
    """``vec_env`` in the YAML reaches the run; "auto" is settled before the record is written, and resuming finds it there."""
    given = {"vec_env": "auto", "n_timesteps": 64, "n_envs": 2, "n_steps": 16, "batch_size": 16}
    settings = settings_from_hyperparameters("CartPole-v1", given, device="cpu", checkpoint_freq=32)
    assert settings.environment.backend == "auto"
    run = start_run(settings, tmp_path / "run")
    assert run.settings.environment.backend in ("dummy", "gymnasium-sync")
    record = yaml.safe_load((tmp_path / "run" / "settings.yml").read_text())
    assert record["environment"]["backend"] == run.settings.environment.backend
    learn(run)
    save_model(run)
    close_run(run)
    assert open_run(tmp_path / "run").environment.backend == run.settings.environment.backend


def test_run_with_processes_resumes_exactly(tmp_path: Path) -> None:
    """``sb3-edu resume`` builds the same backend anew, and ends with the same parameters."""
    folders = [tmp_path / name for name in ("whole", "cut")]
    given = {
        "vec_env": "gymnasium-sync",
        "n_timesteps": 256,
        "n_envs": 2,
        "n_steps": 32,
        "batch_size": 32,
        "normalize": {"gamma": 0.99},
    }
    for folder in folders:
        run = start_run(settings_from_hyperparameters("CartPole-v1", given, device="cpu", checkpoint_freq=64), folder)
        learn(run)
        expected = run.model.policy.state_dict()
        close_run(run)
    for path in sorted((folders[1] / "checkpoints").glob("*.zip"))[1:]:
        path.unlink()
    resumed = resume_run(folders[1])
    learn(resumed)
    close_run(resumed)
    found = resumed.model.policy.state_dict()
    assert all(bool((found[name] == value).all()) for name, value in expected.items())
    assert (folders[0] / "monitor" / "0.monitor.csv").read_text().count("\n") == (
        folders[1] / "monitor" / "0.monitor.csv"
    ).read_text().count("\n")


def test_the_zoo_takes_the_backends_that_step_one_by_one() -> None:
    """The zoo builds its environments by functions; what steps them all at once is refused there by name."""
    assert _vec_env_class("gymnasium-sync") is ONE_BY_ONE["gymnasium-sync"]
    with pytest.raises(ValueError, match=r"vec_env: 'envpool'.*expected one of dummy, .*sb3-edu train takes the others"):
        _vec_env_class("envpool")


def test_a_run_that_steps_all_at_once_resumes_with_new_episodes(tmp_path: Path) -> None:
    """Its environments can't be restored: the run goes on with new episodes, says so, and writes them to a new file."""
    given = {"vec_env": "gymnasium-native", "n_timesteps": 512, "n_envs": 2, "n_steps": 32, "batch_size": 32}
    run = start_run(settings_from_hyperparameters("CartPole-v1", given, device="cpu", checkpoint_freq=64), tmp_path / "run")
    learn(run)
    close_run(run)
    (tmp_path / "run" / "checkpoints" / "checkpoint-000000000512.zip").unlink()
    resumed = resume_run(tmp_path / "run")
    assert resumed.model.num_timesteps == 448
    assert all(how.startswith("started a new episode: it is out of reach") for how in resumed.model.resumed_envs)
    learn(resumed)
    close_run(resumed)
    assert resumed.model.num_timesteps == 512
    assert len(list((tmp_path / "run" / "monitor").glob("*.monitor.csv"))) == 2
