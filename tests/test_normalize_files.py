"""``VecNormalize`` is copied, pickled and saved as SB3's, and stands wherever normalisation is asked for."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from gymnasium import spaces
from stable_baselines3.common import vec_env
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import sync_envs_normalization

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.serialization.statistics import load_statistics
from sb3_ppo_edu.vec_env import InProcessVecEnv, VecNormalize
from tests.streams import PARTS, Stream, bits, box, contents, play, used

SB3 = vec_env.VecNormalize


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_of_sb3s_class(protocol: int) -> None:
    """Pickle in C and in Python, and cloudpickle: SB3's class with all that it keeps, and no word of this package."""
    env = used(VecNormalize)
    file = io.BytesIO()
    pickle._Pickler(file, protocol).dump(env)
    for pickled in (pickle.dumps(env, protocol), file.getvalue(), cloudpickle.dumps(env, protocol)):
        assert b"sb3_ppo_edu" not in pickled
        found = pickle.loads(pickled)
        assert type(found) is SB3
        found.set_venv(env.venv)
        assert contents(found) == contents(env) == contents(used(SB3))


@pytest.mark.parametrize("space", [PARTS, box((4,))], ids=["dictionary", "box"])
def test_files_are_sb3s_to_the_byte(tmp_path: Path, space: spaces.Space) -> None:
    """``save`` writes what SB3's class writes after the same steps."""
    for name, kind in (("ours", VecNormalize), ("theirs", SB3)):
        used(kind, space).save(str(tmp_path / name))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


WITHOUT_THIS_PACKAGE = """
import pickle, sys
sys.modules["sb3_ppo_edu"] = None
try:
    import sb3_ppo_edu
    raise SystemExit("it can be imported")
except ImportError:
    pass
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
for path in sys.argv[1:]:
    env = VecNormalize.load(path, make_vec_env("Pendulum-v1", 2))
    assert type(env) is VecNormalize, type(env)
    print(env.obs_rms.mean.tobytes().hex(), env.ret_rms.var, env.gamma)
    env.reset()
    env.step([env.action_space.sample()] * 2)
"""


def test_files_are_read_where_this_package_is_not(tmp_path: Path) -> None:
    """A process that cannot import it loads, resets and steps what ``save``, pickle and cloudpickle have written."""
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=1), gamma=0.9)
    play(env)
    paths = [tmp_path / name for name in ("saved", "pickled", "cloudpickled")]
    env.save(str(paths[0]))
    paths[1].write_bytes(pickle.dumps(env))
    paths[2].write_bytes(cloudpickle.dumps(env))
    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, *map(str, paths)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stderr
    moments: Any = env.obs_rms
    assert found.stdout.splitlines() == [f"{moments.mean.tobytes().hex()} {env.ret_rms.var} 0.9"] * 3


@pytest.mark.parametrize("kind", [SB3, VecNormalize])
def test_files_of_either_are_loaded_by_either(kind: Any, tmp_path: Path) -> None:
    """``load`` gives the class that it is called on, and what goes on from there has the same bits."""
    env = used(kind)
    path = str(tmp_path / "vecnormalize.pkl")
    env.save(path)
    loaded = [other.load(path, Stream(2, 3, PARTS)) for other in (SB3, VecNormalize)]
    assert [type(one) for one in loaded] == [SB3, VecNormalize]
    assert contents(loaded[0]) == contents(loaded[1]) == contents(env)
    assert play(loaded[1]) == play(loaded[0])
    with pytest.raises(ValueError, match="Trying to set venv of already initialized"):
        loaded[1].set_venv(Stream(2, 3, PARTS))
    with pytest.raises(AssertionError):
        VecNormalize.load(path, Stream(2, 3, box((4,))))


class Derived(SB3):
    """Somebody's own normalisation."""


class DerivedFromOurs(VecNormalize):
    """Somebody's own, on top of ours."""


@pytest.mark.parametrize("kind", [Derived, DerivedFromOurs])
def test_derived_classes_stay_what_they_are(kind: Any, tmp_path: Path) -> None:
    """A file, a pickle, a copy of a derived class is of that class, which no ``load`` changes; its numbers are SB3's."""
    env = used(kind)
    env.save(str(tmp_path / "file"))
    assert type(VecNormalize.load(str(tmp_path / "file"), env.venv)) is kind
    assert {type(one) for one in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env), copy.copy(env))} == {kind}
    assert VecNormalize.of(env) is env
    assert contents(env) == contents(used(SB3))


def test_copies_have_nothing_in_common() -> None:
    """Of this class, without environments as SB3's; a deep copy goes its own way, a shallow one shares the moments."""
    env = used(VecNormalize)
    deep, shallow = copy.deepcopy(env), copy.copy(env)
    assert type(deep) is type(shallow) is VecNormalize
    assert deep.venv is shallow.venv is None
    assert shallow.obs_rms is env.obs_rms
    before = contents(deep)
    play(env)
    assert contents(deep) == before != contents(env)
    twice = copy.deepcopy([env, env])
    assert twice[0] is twice[1]


def test_it_takes_the_place_of_sb3s() -> None:
    """``of`` goes on where SB3's stands; what is no VecNormalize, or is one already, is given back."""
    theirs, other = used(SB3), used(SB3)
    env = VecNormalize.of(theirs)
    assert type(env) is VecNormalize
    assert env.class_attributes["step_wait"] is VecNormalize.step_wait
    assert play(env) == play(other)
    assert VecNormalize.of(env) is env
    assert VecNormalize.of(env.venv) is env.venv


def test_what_is_kept_is_no_attribute() -> None:
    """Its attributes are those of SB3's, so that no wrapper, checkpoint or pickle sees more of it."""
    assert list(vars(used(VecNormalize))) == list(vars(used(SB3)))


# -- where it is used ----------------------------------------------------------------------------------------------------

PENDULUM = EnvironmentSettings("Pendulum-v1", normalize={"gamma": 0.9})


def test_training_and_evaluation_use_it(tmp_path: Path) -> None:
    """What the settings' ``normalize`` builds, and what is loaded to judge it by, from trusted files and others."""
    env = make_training_env(PENDULUM, 2)
    assert type(env) is VecNormalize
    play(env)
    path = tmp_path / "vecnormalize.pkl"
    env.save(str(path))
    made = [
        make_evaluation_env(PENDULUM, 2, statistics=one, trusted=trusted) for one in (None, path) for trusted in (True, False)
    ]
    made += [load_statistics(path, make_vec_env("Pendulum-v1", 2), trusted=trusted) for trusted in (True, False)]
    assert {type(one) for one in made} == {VecNormalize}
    assert [bits(one.obs_rms) == bits(env.obs_rms) for one in made] == [False, False, True, True, True, True]  # type: ignore[attr-defined]


def test_sb3s_callbacks_know_it(tmp_path: Path) -> None:
    """EvalCallback takes over its moments, CheckpointCallback saves them, the model finds it."""
    env, judged = make_training_env(PENDULUM, 2), make_evaluation_env(PENDULUM, 2)
    model = EduPPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=0)
    assert model.get_vec_normalize_env() is env
    checkpoints = CheckpointCallback(16, str(tmp_path), save_vecnormalize=True)
    model.learn(64, callback=[checkpoints, EvalCallback(judged, n_eval_episodes=1, eval_freq=32, verbose=0)])
    (saved, *_) = sorted(tmp_path.glob("*vecnormalize*"))
    assert type(SB3.load(str(saved), make_vec_env("Pendulum-v1", 2))) is SB3
    sync_envs_normalization(env, judged)
    assert bits(judged.obs_rms) == bits(env.obs_rms)  # type: ignore[attr-defined]


def train(env: vec_env.VecEnv, folder: Path | None = None) -> EduPPO:
    """Train for two rollouts, with a checkpoint in the second."""
    model = EduPPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu", seed=0)
    return model.learn(128, callback=None if folder is None else ExactCheckpoint(100, folder))


def weights(model: EduPPO) -> bytes:
    """All parameters, and the moments."""
    env = model.get_vec_normalize_env()
    assert env is not None
    return b"".join(tensor.numpy().tobytes() for tensor in model.policy.state_dict().values()) + repr(contents(env)).encode()


def test_checkpoints_of_either_are_resumed_with_either(tmp_path: Path) -> None:
    """Begun with SB3's or with this one and resumed with SB3's, with this one or from functions: one training, to the bit."""

    def make(kind: Any) -> vec_env.VecEnv:
        return kind(make_vec_env("Pendulum-v1", 2, seed=1, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable))  # type: ignore[no-any-return]

    expected = weights(train(make(SB3)))
    for name, kind in (("theirs", SB3), ("ours", VecNormalize)):
        assert weights(train(make(kind), tmp_path / name)) == expected
        functions = [lambda env=env: env for env in make(SB3).unwrapped.envs]  # type: ignore[attr-defined]
        for environments in (make(SB3), make(VecNormalize), functions):
            model = EduPPO.resume(tmp_path / name, environments, device="cpu")
            assert type(model.env) is (SB3 if type(environments) is SB3 else VecNormalize)
            assert weights(model.learn(128, callback=ExactCheckpoint(100, tmp_path / name / "again"))) == expected


def test_the_zoo_uses_it(tmp_path: Path) -> None:
    """The zoo's manager normalises with it for EduPPO: training, evaluation, saved moments. For PPO it does with SB3's."""
    from sb3_ppo_edu import zoo

    kinds = []
    saved = tmp_path / "Pendulum-v1"
    saved.mkdir()
    used(VecNormalize, make_vec_env("Pendulum-v1").observation_space).save(str(saved / "vecnormalize.pkl"))
    for algorithm in ("eduppo", "ppo"):
        for agent in ("", str(tmp_path / "agent.zip")):
            manager = zoo._experiment_manager().__new__(zoo._experiment_manager())
            vars(manager).update(algo=algorithm, trained_agent=agent, env_name="Pendulum-v1", normalize=True)
            vars(manager).update(normalize_kwargs={"gamma": 0.9}, verbose=0)
            for judging in (False, True):
                env: Any = manager._maybe_normalize(make_vec_env("Pendulum-v1"), judging)
                kinds.append(type(env))
                assert (env.gamma, env.training, env.norm_reward) == (0.9, not judging, not judging)
    assert kinds == [VecNormalize] * 4 + [SB3] * 4
