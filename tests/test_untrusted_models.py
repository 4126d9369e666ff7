"""Untrusted files of models: what models save is read, and what is in the place of a part of it is never run."""

from __future__ import annotations

import copyreg
import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu import EduPPO, Reinforce
from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError
from sb3_ppo_edu.serialization.statistics import load_statistics
from tests.hostile_pickles import EXTENSION_CODE, HOSTILE
from tests.model_files import FALLING, NETWORK, SMALL, TIME_LIMIT, make_walk, saved_model, serialized, with_attribute


@pytest.fixture(scope="module")
def saved() -> bytes:
    """Content of the file of a model that has trained."""
    return saved_model()


def assert_same(one: Any, other: Any) -> None:
    """Compare two models: parameters, optimizer, and every saved attribute that can be compared by its text."""
    for ours, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    assert repr(one.policy.optimizer.state_dict()) == repr(other.policy.optimizer.state_dict())
    skipped = {"policy", "env", "_engines", "_session", "objective", "rollout_buffer", "start_time", "_logger"}
    skipped |= {"_saved_statistics", "_own"}  # objects: tests/test_saved_statistics.py compares what the former do
    assert set(vars(one)) == set(vars(other))
    for name in set(vars(one)) - skipped:
        assert repr(vars(one)[name]) == repr(vars(other)[name]), name


MODELS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, **SMALL),
    "tanh": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, action_distribution="tanh_gaussian", **SMALL),
    "beta": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, action_distribution="beta", **SMALL),
    "beta-dict": lambda: EduPPO(
        "MultiInputPolicy", make_walk("dict"), policy_kwargs=NETWORK, action_distribution="beta", **SMALL
    ),
    "gsde": lambda: EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, use_sde=True, **SMALL),
    "schedules": lambda: EduPPO(
        "MlpPolicy",
        make_walk(),
        policy_kwargs=NETWORK,
        clip_range_vf=0.3,
        **FALLING,
        **{"clip_range": "lin_0.2", "ent_coef": "lin_0.01", "vf_coef": "lin_0.5"},  # type: ignore[arg-type]
        **SMALL,
    ),
    "kwargs": lambda: EduPPO(
        "MlpPolicy",
        make_walk(),
        policy_kwargs={
            "net_arch": {"pi": [8], "vf": [4, 4]},
            "activation_fn": th.nn.ReLU,
            "optimizer_class": RMSpropTFLike,
            "optimizer_kwargs": {"eps": 1e-5},
        },
        log_std_bounds=(-2.0, 1.0),
        **SMALL,
    ),
    "discrete": lambda: EduPPO("MlpPolicy", make_walk("discrete", "discrete"), policy_kwargs=NETWORK, **SMALL),
    "multidiscrete": lambda: EduPPO("MlpPolicy", make_walk("box", "multidiscrete"), policy_kwargs=NETWORK, **SMALL),
    "multibinary": lambda: EduPPO("MlpPolicy", make_walk("box", "multibinary"), policy_kwargs=NETWORK, **SMALL),
    "normalized": lambda: EduPPO("MlpPolicy", VecNormalize(make_walk()), policy_kwargs=NETWORK, **SMALL),
    "reinforce": lambda: Reinforce("MlpPolicy", make_walk(), policy_kwargs=NETWORK, n_steps=16, device="cpu", seed=1),
    "sb3-cartpole": lambda: PPO("MlpPolicy", "CartPole-v1", **SMALL),
    "sb3-box": lambda: PPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, clip_range_vf=0.2, **SMALL),
    "sb3-lander": lambda: PPO("MlpPolicy", gym.make("LunarLander-v3", continuous=True), **SMALL),
    "sb3-dict": lambda: PPO("MultiInputPolicy", make_walk("dict", "discrete"), **SMALL),
    "sb3-image": lambda: PPO("CnnPolicy", make_walk("image", "discrete"), **SMALL),
}


@pytest.mark.parametrize("name", MODELS)
def test_saved_model_loads_untrusted(name: str, tmp_path: Path) -> None:
    """A model of ours, or a standard one of SB3's, is the same when read with the list as when its pickles are run."""
    model = MODELS[name]()
    model.learn(16)
    model.save(tmp_path / "model")
    algorithm = Reinforce if name == "reinforce" else EduPPO
    untrusted = algorithm.load(tmp_path / "model", device="cpu", trusted=False)
    assert_same(algorithm.load(tmp_path / "model", device="cpu"), untrusted)
    assert untrusted.num_timesteps == model.num_timesteps
    observation = model.observation_space.sample()
    ours, _ = untrusted.predict(observation, deterministic=True)
    theirs, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(ours, theirs)


def test_training_goes_on_from_an_untrusted_file(saved: bytes) -> None:
    """Training after either way of loading moves the parameters by the same bits."""
    models = [EduPPO.load(io.BytesIO(saved), env=make_walk(), device="cpu", trusted=trusted) for trusted in (True, False)]
    for model in models:
        model.set_random_seed(5)
        model.learn(32, reset_num_timesteps=False)
    assert_same(*models)


def test_user_function_is_refused_and_replaceable(tmp_path: Path) -> None:
    """A schedule that is a user's function is refused with its attribute's name; custom_objects takes its place."""
    model = EduPPO("MlpPolicy", make_walk(), policy_kwargs=NETWORK, clip_range=lambda progress: 0.2 * progress, **SMALL)
    model.save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match=r"'clip_range'.*cloudpickle.*trusted=True.*--trust.*custom_objects"):
        EduPPO.load(tmp_path / "model", device="cpu", trusted=False)
    assert clip_range_of(EduPPO.load(tmp_path / "model", device="cpu")) == 0.1
    replaced = EduPPO.load(tmp_path / "model", device="cpu", trusted=False, custom_objects={"clip_range": 0.3})
    assert clip_range_of(replaced) == 0.3


def clip_range_of(model: EduPPO) -> float:
    """Clip range in the middle of training."""
    assert callable(model.clip_range)
    return float(model.clip_range(0.5))


class OwnPolicy(ActorCriticPolicy):
    """A user's policy: importing its module runs the user's code."""


def test_user_class_is_refused_by_name(tmp_path: Path) -> None:
    """A class outside the list is refused under its own name."""
    EduPPO(OwnPolicy, make_walk(), policy_kwargs=NETWORK, **SMALL).save(tmp_path / "model")
    with pytest.raises(UntrustedFileError, match=r"'policy_class'.*tests\.test_untrusted_models\.OwnPolicy"):
        EduPPO.load(tmp_path / "model", device="cpu", trusted=False)


def test_a_pickle_among_the_weights_is_refused_in_a_sentence(saved: bytes, tmp_path: Path) -> None:
    """Torch refuses it in twenty lines that advise to read the file without the check."""
    tensors = io.BytesIO()
    th.save({"weight": os.system}, tensors)
    with zipfile.ZipFile(io.BytesIO(saved)) as archive, zipfile.ZipFile(tmp_path / "model.zip", "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, tensors.getvalue() if name == "policy.pth" else archive.read(name))
    with pytest.raises(DamagedFileError, match=r"model\.zip: found more than tensors among its weights") as refused:
        EduPPO.load(tmp_path / "model.zip", device="cpu", trusted=False)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_runs_nothing(name: str, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile pickle in a model's file, or as a file of statistics, is refused at once, and its canary is not created."""
    canary = tmp_path / "canary"
    # An extension that is registered and cached never reaches find_class of the standard unpickler.
    monkeypatch.setitem(copyreg._extension_cache, EXTENSION_CODE, os.system)  # type: ignore[attr-defined]
    monkeypatch.setitem(copyreg._inverted_registry, EXTENSION_CODE, ("posix", "system"))  # type: ignore[attr-defined]
    pickled = HOSTILE[name](str(canary))
    model = tmp_path / "model.zip"
    model.write_bytes(with_attribute(saved, "clip_range", serialized(pickled)))
    statistics = tmp_path / "vecnormalize.pkl"
    statistics.write_bytes(pickled)
    before = dict(vars(ActorCriticPolicy))
    started = time.perf_counter()
    with pytest.raises((UntrustedFileError, DamagedFileError), match=r"model\.zip"):
        EduPPO.load(model, device="cpu", trusted=False)
    with pytest.raises((UntrustedFileError, DamagedFileError), match=r"vecnormalize\.pkl"):
        load_statistics(statistics, make_walk(), trusted=False)
    assert time.perf_counter() - started < TIME_LIMIT
    assert not canary.exists()
    assert dict(vars(ActorCriticPolicy)) == before


@pytest.mark.parametrize("name", ["os.mkdir", "open", "exec", "nested pickle"])
def test_the_canary_sings(name: str, saved: bytes, tmp_path: Path) -> None:
    """The same file does create the canary when it is trusted: the test above would notice."""
    canary = tmp_path / "canary"
    model = tmp_path / "model.zip"
    model.write_bytes(with_attribute(saved, "unused", serialized(HOSTILE[name](str(canary)))))
    EduPPO.load(model, device="cpu")
    assert canary.exists()


@pytest.mark.parametrize(
    "name", ["predict", "learn", "_setup_model", "set_parameters", "policy", "env", "__dict__", "_engine"]
)
def test_attribute_that_replaces_a_part_is_refused(name: str, saved: bytes) -> None:
    """An attribute under the name of a method, or of what is never saved, is refused."""
    with pytest.raises(UntrustedFileError, match=name):
        EduPPO.load(io.BytesIO(with_attribute(saved, name, 1)), device="cpu", trusted=False)


@pytest.mark.parametrize("attributes", [None, [], {"policy_loss": 1}, {"__class__": 1}])
def test_objective_that_replaces_its_parts_is_refused(attributes: object, saved: bytes) -> None:
    """An objective of ours with attributes that are no mapping, or that have a method's name, is refused."""
    objective = {"path": "sb3_ppo_edu.functional.objectives.PPOObjective", "attributes": attributes}
    with pytest.raises(UntrustedFileError, match="an objective with attributes that replace a part of it"):
        EduPPO.load(io.BytesIO(with_attribute(saved, "saved_objective", objective)), device="cpu", trusted=False)


def test_no_file_says_where_to_write(tmp_path: Path) -> None:
    """Without trust, the folder of TensorBoard's logs is the reader's to choose; with it, it is the file's, as in SB3."""
    model = EduPPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, tensorboard_log=str(tmp_path / "theirs"))
    model.save(tmp_path / "model")
    loaded = EduPPO.load(tmp_path / "model", model.get_env(), trusted=False)
    assert loaded.tensorboard_log is None
    loaded.learn(8)
    assert not (tmp_path / "theirs").exists()
    given = EduPPO.load(tmp_path / "model", trusted=False, tensorboard_log=str(tmp_path / "own"))
    assert given.tensorboard_log == str(tmp_path / "own")
    assert EduPPO.load(tmp_path / "model").tensorboard_log == str(tmp_path / "theirs")
