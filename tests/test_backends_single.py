"""Backends that step single environments show training what SB3's DummyVecEnv shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.envs.backends import ONE_BY_ONE
from sb3_ppo_edu.vec_env.adapters import EnvProcesses, adapt
from sb3_ppo_edu.vec_env.infos import info_of
from sb3_ppo_edu.vec_env.reachable import Reachable
from tests.stepping import N_ENVS, Noted, assert_same_episodes, make, noted, same

SPACES = [("box", "discrete"), ("dict", "box"), ("image", "multidiscrete"), ("discrete", "multibinary")]


@pytest.mark.parametrize(
    ("backend", "observation", "action"),
    [("gymnasium-sync", *pair) for pair in SPACES]
    + [("gymnasium-async", *SPACES[0]), ("gymnasium-async", *SPACES[1]), ("subproc", *SPACES[1]), ("workers", *SPACES[1])],
)
def test_same_episodes_as_in_dummy_vec_env(backend: str, observation: str, action: str) -> None:
    """Observations, rewards, ends, terminal observations, time limits and infos are DummyVecEnv's, step by step."""
    env, reference = make(ONE_BY_ONE[backend], observation, action), make(DummyVecEnv, observation, action)
    try:
        assert_same_episodes(env, reference)
    finally:
        env.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_every_autoreset_mode(kind: type[VectorEnv], mode: AutoresetMode) -> None:
    """In each mode of Gymnasium's vector environments no step is lost and none is made up."""

    def build(env_fns: list[Callable[[], gym.Env]]) -> VecEnv:
        return adapt(kind(env_fns, autoreset_mode=mode))  # type: ignore[call-arg]

    env, reference = make(build, "dict", "discrete"), make(DummyVecEnv, "dict", "discrete")
    try:
        assert_same_episodes(env, reference)
    finally:
        env.close()


class NextStepOnly(VectorEnv):
    """Somebody's vectorised environment that resets in the step after."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    num_envs = 2
    single_observation_space = observation_space = spaces.Box(-1, 1, (2,))
    single_action_space = action_space = spaces.Discrete(2)
    render_mode = None


def test_what_can_not_be_adapted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up step between episodes would be learned from; an unknown mode may be anything."""
    with pytest.raises(ValueError, match=r"NextStepOnly: found autoreset mode NEXT_STEP.*expected SAME_STEP or DISABLED"):
        adapt(NextStepOnly())
    monkeypatch.setattr(NextStepOnly, "metadata", {})
    found = r'autoreset_mode None in its metadata, expected .*: write metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}'
    with pytest.raises(ValueError, match=f"NextStepOnly: found {found}"):
        adapt(NextStepOnly())


@pytest.mark.parametrize("backend", ["gymnasium-sync", "gymnasium-async"])
def test_single_environments_can_be_reached(backend: str) -> None:
    """Attributes, methods and wrappers of some environments or all, and errors that leave the others alive."""
    env = make(ONE_BY_ONE[backend])
    try:
        env.reset()
        env.step(np.zeros((N_ENVS, 2), np.float32))
        assert env.get_attr("time_limit") == [8] * N_ENVS and env.get_attr("time_limit", 1) == [8]
        env.set_attr("time_limit", 4, indices=[0, 2])
        assert env.get_attr("time_limit") == [4, 8, 4]
        assert env.env_method("plus", 10, indices=[1]) == [11] and env.env_method("plus", number=1) == [2, 2, 2]
        assert env.env_is_wrapped(Monitor) == [True] * N_ENVS and env.env_is_wrapped(TimeLimit, [0]) == [False]
        assert env.has_attr("plus") and not env.has_attr("nothing")
        with pytest.raises(AttributeError, match="nothing"):
            env.get_attr("nothing")
        with pytest.raises(LookupError, match="as asked"):
            env.env_method("fail", indices=[1])
        assert env.env_method("plus", 0) == [1, 1, 1], "the others are gone"
    finally:
        env.close()


def test_foreign_processes_are_not_asked_for_what_may_end_them() -> None:
    """An AsyncVectorEnv that was built elsewhere loses workers that are asked for what they lack: nothing is asked."""
    vector_env = AsyncVectorEnv([partial(noted, "box", "box")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env = adapt(vector_env)
    try:
        assert isinstance(env, EnvProcesses) and env.get_attr("render_mode") == [None, None]
        assert env.env_is_wrapped(Monitor) == [False, False]
        with pytest.raises(NotImplementedError, match=r"plus.*expected environments wrapped in .*Reachable"):
            env.env_method("plus", 1)
    finally:
        env.close()


@pytest.mark.parametrize("backend", ["gymnasium-sync", "gymnasium-async"])
def test_options_and_seeds(backend: str) -> None:
    """Options reach every environment once; the same seed gives the same episode again, another another."""
    env = make(ONE_BY_ONE[backend])
    try:
        env.seed(3)
        env.set_options({"a": 1})
        first = env.reset()
        assert [info["options"] for info in env.reset_infos] == ["{'a': 1}"] * N_ENVS
        env.seed(3)
        assert same(env.reset(), first) and env.reset_infos[0]["options"] == "{}"
        assert not same(env.reset(), first)
        env.set_options([{"a": 1}, {}, {}])
        with pytest.raises(ValueError, match=r"options=.*expected one dict"):
            env.reset()
    finally:
        env.close()


@pytest.mark.parametrize("backend", ["gymnasium-sync", "gymnasium-async"])
def test_training_has_the_same_bits(backend: str) -> None:
    """EduPPO learns the same from either, with VecNormalize and frame stacking around it."""

    def train(vec_env_cls: Any) -> tuple[Any, list[float]]:
        env: VecEnv = VecFrameStack(VecNormalize(make(vec_env_cls)), 2)
        model = EduPPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=4, device="cpu").learn(200)
        env.close()
        return model.policy.state_dict(), [info["r"] for info in model.ep_info_buffer or ()]

    (found, returns), (expected, others) = train(ONE_BY_ONE[backend]), train(DummyVecEnv)
    assert returns == others and len(returns) > 5
    assert all(bool((found[name] == expected[name]).all()) for name in expected)


@pytest.mark.parametrize("backend", ["gymnasium-sync", "gymnasium-async"])
def test_checkpoints_restore_their_environments(backend: str, tmp_path: Path) -> None:
    """With Resumable, a resumed training ends with the same bits in these backends too."""
    arguments: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 2, "device": "cpu"}

    def envs() -> VecEnv:
        return make(ONE_BY_ONE[backend], wrapper_class=Resumable)

    env = envs()
    model = EduPPO("MlpPolicy", env, **arguments).learn(300, callback=ExactCheckpoint(100, tmp_path, keep=9))
    env.close()
    env = envs()
    early = sorted(tmp_path.glob("checkpoint-*.zip"))[1]
    resumed = EduPPO.resume(early, env, device="cpu")
    assert resumed.resumed_envs == ["replayed"] * N_ENVS
    resumed.learn(300, callback=ExactCheckpoint(100, tmp_path / "b"))
    env.close()
    expected = model.policy.state_dict()
    assert all(bool((value == expected[name]).all()) for name, value in resumed.policy.state_dict().items())


def test_single_environments_pass_sb3s_check() -> None:
    """What the workers step is an environment as SB3's checker wants it."""
    check_env(Reachable(Monitor(Noted("box", "box")), 0), warn=False)


def test_info_of_one_environment() -> None:
    """A value is an environment's where the mask beside it says so; what has no mask is everybody's."""
    infos = {
        "a": np.array([1.0, 2.0]),
        "_a": np.array([True, False]),
        "b": {"c": np.array([3, 4]), "_c": np.array([True, True])},
        "_b": np.array([False, True]),
        "loose": 5,
    }
    assert info_of(infos, 0, 2) == {"a": 1.0, "loose": 5} and info_of(infos, 1, 2) == {"b": {"c": 4}, "loose": 5}
    assert type(info_of(infos, 0, 2)["a"]) is float
