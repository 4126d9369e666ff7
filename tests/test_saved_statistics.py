"""VecNormalize's statistics in a model's file: kept beside the policy, told of where missing, given back in a call."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_edu import EduPPO, MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.saving import STATISTICS, StatisticsWarning
from sb3_ppo_edu.serialization.errors import DamagedFileError, UntrustedFileError
from sb3_ppo_edu.serialization.statistics import same_statistics
from sb3_ppo_edu.vec_env import VecNormalize as OurVecNormalize
from tests.hostile_pickles import stack_global
from tests.masked_environments import MaskedWalk
from tests.model_files import NETWORK, SMALL, members_of, replacing

ALGORITHMS: dict[str, tuple[type[EduPPO], str, Any]] = {
    "EduPPO": (EduPPO, "MlpPolicy", PPO),
    "MaskableEduPPO": (MaskableEduPPO, "MlpPolicy", MaskablePPO),
    "RecurrentEduPPO": (RecurrentEduPPO, "MlpLstmPolicy", RecurrentPPO),
    "MaskableRecurrentEduPPO": (MaskableRecurrentEduPPO, "MlpLstmPolicy", None),
}


def walk(observation: str = "box") -> DummyVecEnv:
    """Make an environment that every algorithm takes."""
    return DummyVecEnv([lambda: MaskedWalk(observation, strict=False)])


def trained(name: str = "EduPPO", env: Any = None) -> EduPPO:
    """Train a moment in a normalised environment."""
    algorithm, policy, _ = ALGORITHMS[name]
    env = VecNormalize(walk(), clip_obs=3.0, gamma=0.9) if env is None else env
    return algorithm(policy, env, policy_kwargs=NETWORK, **SMALL).learn(16)


def saved(model: EduPPO) -> bytes:
    """Save a model; give the file's content."""
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def load(content: bytes, algorithm: type[EduPPO] = EduPPO, env: Any = None, **arguments: Any) -> tuple[EduPPO, list[str]]:
    """Load a model; give it and what it has warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = algorithm.load(io.BytesIO(content), env, device="cpu", **arguments)
    assert all(one.category is StatisticsWarning and one.filename == __file__ for one in caught)
    return model, [str(one.message) for one in caught]


OBSERVATIONS = 3.0 * np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_statistics_come_back(name: str, trusted: bool) -> None:
    """One call gives environments that normalise as those of the training did; one line has said that they are missing."""
    algorithm, _, theirs = ALGORITHMS[name]
    model = trained(name)
    env = model.get_vec_normalize_env()
    content = saved(model)
    assert env is not None
    if theirs is not None:
        theirs.load(io.BytesIO(content), device="cpu")
    loaded, (warning,) = load(content, algorithm, trusted=trusted)
    assert "found no VecNormalize around env" in warning
    assert "\n" not in warning
    back = loaded.normalized(walk())
    assert type(back) is OurVecNormalize
    assert (back.training, back.norm_reward, back.clip_obs, back.gamma) == (False, False, 3.0, 0.9)
    np.testing.assert_array_equal(back.normalize_obs(OBSERVATIONS), env.normalize_obs(OBSERVATIONS))
    to_train = loaded.normalized(walk(), training=True)
    assert (to_train.training, to_train.norm_reward, to_train.ret_rms.var) == (True, True, env.ret_rms.var)
    loaded.set_env(to_train)
    loaded.learn(16)
    counts: list[Any] = [vars(one.obs_rms)["count"] for one in (to_train, env, back)]
    assert counts[0] > counts[1] == counts[2]


def test_only_what_is_missing_is_told() -> None:
    """Nothing is said with the same statistics around env, or none in the file; with others, or none around env, it is."""
    model = trained()
    content = saved(model)
    assert load(content, env=model.get_vec_normalize_env())[1] == []
    assert load(saved(trained(env=walk())))[1] == []
    assert load(saved(trained(env=VecNormalize(walk(), norm_obs=False))))[1] == []
    (plain,) = load(content, env=walk())[1]
    assert "found no VecNormalize around env" in plain
    (fresh,) = load(content, env=VecNormalize(walk()))[1]
    assert "found a VecNormalize with other statistics around env" in fresh


def test_file_is_sb3s_with_one_member_more(tmp_path: Path) -> None:
    """Without VecNormalize a file has SB3's members; with it, one more, which SB3's VecNormalize reads."""
    theirs = io.BytesIO()
    PPO("MlpPolicy", walk(), policy_kwargs=NETWORK, **SMALL).save(theirs)
    assert members_of(saved(trained(env=walk()))).keys() == members_of(theirs.getvalue()).keys()
    model = trained()
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extract(STATISTICS, tmp_path)
        assert {*archive.namelist()} == {*members_of(theirs.getvalue()), STATISTICS}
    read = VecNormalize.load(str(tmp_path / STATISTICS), walk())
    env = model.get_vec_normalize_env()
    assert env is not None
    np.testing.assert_array_equal(read.normalize_obs(OBSERVATIONS), env.normalize_obs(OBSERVATIONS))
    with (tmp_path / "only written").open("wb") as file:
        model.save(file)
    assert members_of((tmp_path / "only written").read_bytes()).keys() == members_of(saved(model)).keys()


def test_statistics_stay_with_the_model() -> None:
    """Saved again, copied and pickled without environments, a model keeps them; trained on without, it has none any more."""
    content = saved(trained())
    loaded, _ = load(content)
    for model in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        before, after = (pickle.loads(members_of(one)[STATISTICS]) for one in (content, saved(model)))
        assert same_statistics(before, after)
        assert before.ret_rms.var == after.ret_rms.var
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert same_statistics(before, copied.normalized(walk()))
    loaded.set_env(walk())
    assert STATISTICS in members_of(saved(loaded))
    loaded.learn(16)
    assert STATISTICS not in members_of(saved(loaded))


def test_dict_observations() -> None:
    """Of a Dict the parts that were normalised are, and the others stay."""
    env = VecNormalize(walk("dict"), norm_obs_keys=["vector"])
    model = EduPPO("MultiInputPolicy", env, policy_kwargs=NETWORK, **SMALL).learn(16)
    loaded, (warning,) = load(saved(model), trusted=False)
    assert "normalised" in warning
    observation = {"vector": OBSERVATIONS[:, :3], "choice": np.arange(20) % 4}
    expected: Any = env.normalize_obs(observation)
    found: Any = loaded.normalized(walk("dict")).normalize_obs(observation)
    for key in observation:
        np.testing.assert_array_equal(found[key], expected[key])


class Halved(VecNormalize):
    """Normalises in a way of its own."""


def test_derived_class_keeps_its_statistics_to_itself() -> None:
    """What normalises in a way of its own is not taken for SB3's."""
    assert STATISTICS not in members_of(saved(trained(env=Halved(walk()))))


def changed(part: str, value: Any, of: str = "obs_rms") -> Callable[[bytes], bytes]:
    """Make a function that changes moments or settings in a file of statistics."""

    def change(content: bytes) -> bytes:
        normalization = pickle.loads(content)
        setattr(normalization.obs_rms if of == "obs_rms" else normalization, part, value)
        vars(normalization).update(venv=None, class_attributes={}, returns=None)
        return pickle.dumps(normalization)

    return change


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changed("mean", np.full(5, np.nan)), r"vecnormalize.pkl: obs_rms.mean: found shape \(5,\) from nan"),
        (changed("var", np.full(5, -1.0)), r"vecnormalize.pkl: obs_rms.var: .* from -1"),
        (changed("clip_obs", np.nan, of="settings"), "clip_obs=nan: expected a number"),
        (changed("clip_obs", -3.0, of="settings"), "clip_obs=-3.0: expected a number from 0 to inf"),
        (changed("epsilon", -1.0, of="settings"), "epsilon=-1.0: expected a number from 0 to inf"),
        (changed("gamma", 2.0, of="settings"), "gamma=2.0: expected a number from 0 to 1"),
        (changed("norm_obs", "x", of="settings"), "norm_obs='x': expected True or False"),
        (changed("var", np.ones(4)), r"vecnormalize.pkl: obs_rms.var: found shape \(4,\)"),
        (lambda content: content[:-9], "vecnormalize.pkl: "),
        (lambda content: pickle.dumps({"obs_rms": 1}), "vecnormalize.pkl: found builtins.dict without"),
    ],
)
def test_impossible_statistics_are_refused(change: Callable[[bytes], bytes], expected: str, trusted: bool) -> None:
    """Statistics that are none are refused when the model is loaded, by file and name, whether it is trusted or not."""
    content = saved(trained())
    damaged = replacing(content, STATISTICS, change(members_of(content)[STATISTICS]))
    with pytest.raises(DamagedFileError, match=expected):
        load(damaged, trusted=trusted)


def test_hostile_statistics_are_refused() -> None:
    """Without trust no pickle runs that stands in the place of statistics, and none that grows is unpacked."""
    content = saved(trained())
    hostile = replacing(content, STATISTICS, b"\x80\x04" + stack_global("posix", "system") + b".")
    with pytest.raises(UntrustedFileError, match=r"vecnormalize.pkl: found posix.system"):
        load(hostile, trusted=False)
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**27))
    with pytest.raises(DamagedFileError, match="members of"):
        load(file.getvalue(), trusted=False)


def test_normalized_refuses() -> None:
    """A model without statistics, environments that are normalised already, and others than it was trained in are refused."""
    model = trained()
    with pytest.raises(ValueError, match="found no statistics of VecNormalize in this model"):
        trained(env=walk()).normalized(walk())
    with pytest.raises(ValueError, match="found a VecNormalize around the environments, expected none"):
        model.normalized(VecNormalize(walk()))
    with pytest.raises(DamagedFileError, match="it does not fit the environment"):
        model.normalized(walk("image"))
    for wrong in (None, 5, lambda: MaskedWalk(strict=False)):
        with pytest.raises(ValueError, match=r"env=.*: expected an environment, or a vector of them"):
            model.normalized(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"training='no'.* expected True or False"):
        model.normalized(walk(), training="no")  # type: ignore[arg-type]
    assert model.normalized(MaskedWalk(strict=False)).num_envs == 1


def test_normalized_takes_an_id_as_the_constructor_does() -> None:
    """The one environment of that id is made; statistics are the model's."""
    model = EduPPO("MlpPolicy", VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")])), policy_kwargs=NETWORK, **SMALL)
    env = model.learn(16).normalized("Pendulum-v1")
    assert env.num_envs == 1 and same_statistics(env, cast("Any", model.get_vec_normalize_env()))
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `Pendulum`"):
        model.normalized("Pendulm-v1")
