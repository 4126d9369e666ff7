"""Files of Stable-Baselines3 1.x, with gym's spaces and functions for schedules, are read without gym or their code."""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.serialization.models import OldScheduleWarning
from sb3_ppo_edu.serialization.spaces import check_space
from tests.environments import RandomWalk

SPACES = ("box.Box", "discrete.Discrete", "multi_discrete.MultiDiscrete", "dict.Dict")


def old_file(path: Path, model: PPO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a model as version 1.2.0 would have: gym's names, old random generators in spaces, functions for schedules."""
    model.observation_space._np_random = model.action_space._np_random = np.random.RandomState(1)  # type: ignore[assignment]
    vars(model).update(learning_rate=lambda _: 1e-3, lr_schedule=lambda _: 1e-3, clip_range=lambda _: 0.3)
    file = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "gym", sys.modules["gymnasium"])
        for name in ("spaces", *(f"spaces.{one.partition('.')[0]}" for one in SPACES), "spaces.space"):
            patched.setitem(sys.modules, f"gym.{name}", sys.modules[f"gymnasium.{name}"])
        for one in SPACES:
            module, _, name = one.partition(".")
            patched.setattr(getattr(spaces, name), "__module__", f"gym.spaces.{module}")
        model.save(file)
    with zipfile.ZipFile(file) as read, zipfile.ZipFile(path, "w") as written:
        for name in read.namelist():
            written.writestr(name, b"1.2.0" if name == "_stable_baselines3_version" else read.read(name))


@pytest.fixture(params=["box", "dict"])
def saved(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, PPO]:
    """An old file, and the model that is in it."""
    policy, env = (
        ("MlpPolicy", "CartPole-v1") if request.param == "box" else ("MultiInputPolicy", RandomWalk("dict", "discrete"))
    )
    model = PPO(policy, env, n_steps=16, batch_size=16, device="cpu")
    model.learn(16)
    old_file(tmp_path / "old.zip", model, monkeypatch)
    return tmp_path / "old.zip", model


def test_an_old_file_acts_as_it_did(saved: tuple[Path, PPO]) -> None:
    """With ``trusted=False`` it is read without gym; the policy gives the same actions, and spaces have new generators."""
    path, model = saved
    assert "gym" not in sys.modules
    with pytest.warns(OldScheduleWarning, match=r"took learning_rate=0.0003, clip_range=0.2; to train on, give those it had"):
        loaded = EduPPO.load(path, trusted=False, device="cpu")
    assert loaded.observation_space == model.observation_space
    assert loaded.action_space.sample() is not None
    observation = loaded.observation_space.sample()
    expected = model.predict(observation, deterministic=True)[0]
    assert np.array_equal(loaded.predict(observation, deterministic=True)[0], expected)


def test_an_old_file_trains_on_with_what_it_is_given(saved: tuple[Path, PPO]) -> None:
    """Learning rate and clip range that ``load`` is given are taken, and nothing is left to warn of."""
    path, model = saved
    given: dict[str, Any] = {"learning_rate": 1e-4, "clip_range": 0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("error", OldScheduleWarning)
        loaded = EduPPO.load(path, env=model.get_env(), trusted=False, device="cpu", **given)
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32 and loaded.lr_schedule(1.0) == 1e-4


def test_a_missing_gym_is_one_sentence(saved: tuple[Path, PPO]) -> None:
    """With ``trusted=True``, as SB3 reads it, Python's own message names neither the file nor a way; ours does."""
    with pytest.raises(
        ValueError, match=r"old.zip: found spaces of gym.*EduPPO.load\(…, trusted=False\) reads them without it"
    ):
        EduPPO.load(saved[0])


def damaged(space: Any, **attributes: Any) -> Any:
    """Give a space attributes that its constructor would have refused."""
    vars(space).update(attributes)
    return space


ZEROS = np.zeros(4, np.float32)
WRONG_SPACES = {
    "low above high in a Box": lambda: damaged(spaces.Box(-1, 1, (4,)), low=ZEROS + 2),
    "NaN in high of a Box": lambda: damaged(spaces.Box(-1, 1, (4,)), high=ZEROS + np.nan),
    "high that is no array of the shape \\(4,\\) in a Box": lambda: damaged(
        spaces.Box(-1, 1, (4,)), high=np.ones(3, np.float32)
    ),
    "low that is no array": lambda: damaged(spaces.Box(-1, 1, (4,)), low=-1.0),
    "low that is no array of the shape \\(2, 2\\)": lambda: damaged(spaces.Box(-1, 1, (4,)), _shape=(2, 2)),
    "the shape \\(-4,\\)": lambda: damaged(spaces.Box(-1, 1, (4,)), _shape=(-4,)),
    "the dtype None": lambda: damaged(spaces.Box(-1, 1, (4,)), dtype=None),
    "high of dtype float64 in a Box of float32": lambda: damaged(spaces.Box(-1, 1, (4,)), high=np.ones(4)),
    "n=0 from": lambda: damaged(spaces.Discrete(2), n=0),
    "n=2.5 from": lambda: damaged(spaces.Discrete(2), n=2.5),
    "n=.* from None": lambda: damaged(spaces.Discrete(2), start=None),
    "nvec=": lambda: damaged(spaces.MultiDiscrete([2, 2]), nvec=np.array([2, -2])),
    "in its part 'a' low above high": lambda: spaces.Dict(a=damaged(spaces.Box(-1, 1, (4,)), low=ZEROS + 2)),
}
"""What is said, and the space that it is said of."""


@pytest.mark.parametrize("said", WRONG_SPACES)
def test_spaces_that_nobody_can_have_made_are_refused(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds, shapes and counts of a stranger's spaces are those of a space, else one sentence names the attribute."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    space = WRONG_SPACES[said]()
    name = "action_space" if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else "observation_space"
    setattr(model, name, space)
    old_file(tmp_path / "old.zip", model, monkeypatch)
    said = f"old.zip, attribute '{name}': found {said}"
    with pytest.warns(OldScheduleWarning), pytest.raises(DamagedFileError, match=said):
        EduPPO.load(tmp_path / "old.zip", trusted=False, device="cpu")


def test_a_space_that_was_never_filled_is_refused() -> None:
    """A pickle may make a space and leave it empty."""
    with pytest.raises(DamagedFileError, match="found a space without what it needs"):
        check_space(spaces.Box.__new__(spaces.Box), "file")


def test_an_environment_that_does_not_fit_is_the_environments_fault(saved: tuple[Path, PPO]) -> None:
    """Other spaces, and what is no environment, are said as such; the file is not called damaged."""
    path, model = saved
    with pytest.raises(ArgumentError, match=r"Observation spaces do not match.*custom_objects=\{'observation_space'"):
        EduPPO.load(path, env=RandomWalk("box", "discrete"), trusted=False)
    with pytest.raises(ArgumentError, match="env='CartPole-v1': expected an environment"):
        EduPPO.load(path, env="CartPole-v1", trusted=False)  # type: ignore[arg-type]
    env = model.get_env()
    assert env is not None
    given = {"observation_space": env.observation_space}
    assert EduPPO.load(path, env=env, trusted=False, custom_objects=given).observation_space == env.observation_space
