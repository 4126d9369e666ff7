"""
A run's ``settings.yml`` with anything in it is read, or refused in one sentence that names it; no other exception gets out.

The structure of a record that is right is changed at random: values of another type, keys that are missing, extreme numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.saved_run import open_run
from sb3_ppo_edu.training.settings import RunSettings, read_settings, settings_from_record, write_settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with all that is looked at before the model is read."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    folder.mkdir()
    (folder / "model.zip").touch()
    environment = EnvironmentSettings("CartPole-v1", {"sutton_barto_reward": True}, ["a.B", {"c.D": {"e": 1}}], frame_stack=2)
    made = RunSettings(environment, callback={"f.G": {"h": 2}}, checkpoint_freq=100)
    write_settings(folder / "settings.yml", made, ["sb3-edu", "train"])
    return folder


@pytest.fixture(scope="module")
def record(run: Path) -> dict[str, Any]:
    """Its settings."""
    return read_settings(run / "settings.yml")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the ways to all values in a structure."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([10**400, -1, 0, 2**64, "1e5"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(SCALARS, inner, max_size=2), max_leaves=4
)
DROPPED = object()


def outcome(run: Path) -> str:
    """Read settings as evaluate and resume do; give the refusal, or nothing."""
    try:
        settings_from_record(read_settings(run / "settings.yml"), "cpu")
        open_run(run)
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_settings_are_read_or_refused(run: Path, record: dict[str, Any], data: st.DataObject) -> None:
    """One to three changes end in settings, or in one sentence with the file's name."""
    changed = copy.deepcopy(record)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(list(places(changed)) or [("environment",)]))
        inner = changed
        for key in way:
            inner = inner[key]
        value = data.draw(st.just(DROPPED) | VALUES)
        if value is not DROPPED:
            inner[last] = value
        else:
            del inner[last]
    (run / "settings.yml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    said = outcome(run)
    assert not said or str(run) in said
    assert len(said.splitlines()) <= 1


WRONG: dict[str, tuple[Any, str]] = {
    "n_envs": ("two", "n_envs='two': expected an integer"),
    "steps": (None, "steps=None: expected an integer"),
    "environment": (["CartPole-v1"], "list"),
    "threads": ({"torch": 2**31}, "threads=2147483648: expected an integer ≥ 1 and ≤ 1024"),
    "algorithm": (7, "algorithm=7: expected a mapping"),
    "callback": (5, "5: expected a dotted name"),
    "seed": (2.5, "seed=2.5: expected an integer"),
    "verbose": ("loud", "verbose='loud': expected an integer"),
}


@pytest.mark.parametrize("command", ["evaluate", "resume"])
@pytest.mark.parametrize("name", WRONG)
def test_commands_refuse_wrong_types(
    command: str, name: str, run: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A value of another type costs no traceback: exit code 2, one sentence, the file and the setting in it."""
    value, expected = WRONG[name]
    (run / "settings.yml").write_text(yaml.safe_dump({**record, name: value}), encoding="utf-8")
    assert main([command, str(run)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sb3-edu {command}: error: {run}/settings.yml: ") and len(said.splitlines()) == 1
    assert expected in said


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[", b"text", b"a: b: c", b"[" * 3000, b"- 1\n- 2\n", b"!!python/object:os.system x"]
)
def test_no_settings_at_all(content: bytes, run: Path) -> None:
    """What is no YAML, or no mapping, is said to be none, in one line."""
    (run / "settings.yml").write_bytes(content)
    said = outcome(run)
    assert said.startswith(f"{run}/settings.yml: expected the settings of a run") and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"kwargs": {"no_such": 1}},
        {"kwargs": {1: 2}},
        {"normalize": {"no_such": 1}},
        {"wrapper": {"gymnasium.wrappers.TimeLimit": {"no_such": 1}}},
        {"vec_wrapper": {"stable_baselines3.common.vec_env.VecFrameStack": {"no_such": 1}}},
        {"vec_wrapper": "no_such_module.Wrapper"},
        {"id": "NoSuchEnvironment-v0"},
    ],
)
def test_what_cannot_be_built_names_the_file(environment: dict[str, Any], run: Path, record: dict[str, Any]) -> None:
    """Settings of the right types that say nothing buildable are refused by the file's name when it is tried."""
    (run / "vecnormalize.pkl").touch()
    right = {**record["environment"], "kwargs": {}, "wrapper": None, "frame_stack": None}
    changed = {**record, "environment": {**right, **environment}}
    (run / "settings.yml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{run}"):
        open_run(run).make_env()
