"""Backends that step all environments as one: Gymnasium's vectorised CartPole, and EnvPool."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.envs.backends import AS_A_WHOLE
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.vec_env.adapters import VectorAdapter
from tests.stepping import same

POOLED = ["CartPole-v1", "Pendulum-v1", "LunarLander-v3"]


def test_native_cartpole_is_cartpole() -> None:
    """Every step of Gymnasium's vectorised CartPole is its single CartPole's, and episodes begin anew in the step they end."""
    env = make_training_env("CartPole-v1", 4, 3, backend="gymnasium-native")
    native: CartPoleVectorEnv = env.unwrapped.vector_env  # type: ignore[attr-defined]
    single = CartPoleEnv()
    single.reset(seed=0)
    rng, length = np.random.default_rng(0), np.zeros(4, int)
    lengths: list[int] = []
    first = env.reset()
    assert isinstance(first, np.ndarray) and np.abs(first).max() <= 0.05
    for _ in range(300):
        assert native.state is not None
        states, actions = native.state.T.copy(), rng.integers(0, 2, 4)
        observations, rewards, dones, infos = env.step(actions)
        assert isinstance(observations, np.ndarray)
        length += 1
        for index in range(4):
            single.state, single.steps_beyond_terminated = tuple(states[index]), None
            expected, reward, terminated, *_ = single.step(int(actions[index]))
            assert rewards[index] == reward and dones[index] == terminated
            shown = infos[index]["terminal_observation"] if dones[index] else observations[index]
            np.testing.assert_allclose(shown, expected, rtol=1e-6)
            if dones[index]:
                assert np.abs(observations[index]).max() <= 0.05
                assert infos[index]["episode"]["l"] == infos[index]["episode"]["r"] == length[index]
                lengths.append(length[index])
                length[index] = 0
    assert len(lengths) > 20
    env.close()


def test_native_cartpole_ends_at_its_time_limit() -> None:
    """After 500 steps an episode is cut: a time limit, with the observation to bootstrap from."""
    env = make_training_env("CartPole-v1", 2, backend="gymnasium-native")
    native = env.unwrapped.vector_env  # type: ignore[attr-defined]
    env.reset()
    native.steps[:] = 499
    _, _, dones, infos = env.step(np.array([0, 1]))
    assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
    assert [info["terminal_observation"].shape for info in infos] == [(4,), (4,)]
    env.close()


@pytest.mark.parametrize("env_id", POOLED)
def test_envpool_has_sb3s_form(env_id: str) -> None:
    """Shapes, types, ends, terminal observations and statistics of a pool are as SB3 expects them; rewards add up."""
    pytest.importorskip("envpool")
    env, single = make_training_env(env_id, 4, 3, backend="envpool"), gym.make(env_id)
    assert env.observation_space.shape == single.observation_space.shape and type(env.action_space) is type(
        single.action_space
    )
    observations = env.reset()
    rng, returns, ends = np.random.default_rng(1), np.zeros(4), 0
    for _ in range(450):
        actions = (
            rng.integers(0, env.action_space.n, 4)
            if isinstance(env.action_space, spaces.Discrete)
            else rng.uniform(-1, 1, (4, *(env.action_space.shape or ()))).astype(np.float32)
        )
        before = observations
        observations, rewards, dones, infos = env.step(actions)
        assert isinstance(observations, np.ndarray) and observations.dtype == np.float32 and rewards.dtype == np.float32
        assert dones.dtype == bool and observations is not before
        returns += rewards
        for index in np.flatnonzero(dones):
            ends += 1
            assert infos[index]["terminal_observation"].shape == env.observation_space.shape
            assert infos[index]["episode"]["r"] == pytest.approx(returns[index], rel=1e-4)
            if env_id == "Pendulum-v1":  # it ends by its time limit only
                assert infos[index]["TimeLimit.truncated"] and infos[index]["episode"]["l"] == 200
            returns[index] = 0
    assert ends >= 8
    env.close()


def test_envpool_seeds() -> None:
    """A pool is seeded when it is made: another seed makes another one, the same seed the same episodes."""
    pytest.importorskip("envpool")
    env = make_training_env("CartPole-v1", 3, 7, backend="envpool")
    first = env.reset()
    env.seed(8)
    second = env.reset()
    env.seed(7)
    assert same(env.reset(), first) and not same(first, second)
    env.close()


@pytest.mark.parametrize("backend", list(AS_A_WHOLE))
def test_training_and_judging_with_backends_that_step_all_at_once(backend: str) -> None:
    """EduPPO trains on them with normalisation, and evaluation takes over the moments and ends episodes as ever."""
    if backend == "envpool":
        pytest.importorskip("envpool")
    settings = EnvironmentSettings("CartPole-v1", normalize={"gamma": 0.9}, backend=backend)
    env = make_training_env(settings, 4, 1)
    model = EduPPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=1, device="cpu").learn(600)
    assert len(model.ep_info_buffer or ()) > 10
    judged = make_evaluation_env(settings, 2)
    from stable_baselines3.common.vec_env import sync_envs_normalization

    sync_envs_normalization(env, judged)
    mean, _ = evaluate_policy(model, judged, n_eval_episodes=4)
    assert 5 < float(mean) <= 500  # type: ignore[arg-type]
    env.close()


def test_what_steps_all_at_once_has_no_single_environments() -> None:
    """Calls to single environments, options for them, and wrappers around them are refused with the reason."""
    env = make_training_env("CartPole-v1", 2, backend="gymnasium-native")
    inner = env.unwrapped
    assert isinstance(inner, VectorAdapter) and inner.env_is_wrapped(Monitor) == [False, False]
    for call in (lambda: env.env_method("render"), lambda: env.set_attr("gravity", 1.0)):
        with pytest.raises(NotImplementedError, match="CartPoleVectorEnv steps all environments as one"):
            call()
    env.close()
    with pytest.raises(ValueError, match=r"vec_env='envpool'.*env_wrapper='a.B'.*single ones; expected one of dummy"):
        EnvironmentSettings("CartPole-v1", wrapper="a.B", backend="envpool")
    with pytest.raises(ValueError, match="vec_env='fast': expected one of dummy"):
        EnvironmentSettings("CartPole-v1", backend="fast")
    with pytest.raises(ValueError, match="Acrobot-v1: Gymnasium has no vectorised form"):
        make_training_env("Acrobot-v1", 2, backend="gymnasium-native")


def test_envpool_names_what_it_does_not_have() -> None:
    """An id that EnvPool lacks is refused before anything is built."""
    pytest.importorskip("envpool")
    with pytest.raises(ValueError, match=r"CartPole-v9: EnvPool .* does not have it"):
        make_training_env("CartPole-v9", 2, backend="envpool")


def test_monitor_files_of_all_at_once_are_not_overwritten(tmp_path: Path) -> None:
    """A second part of a training writes a file of its own."""
    for _ in range(2):
        make_training_env("CartPole-v1", 2, monitor_folder=tmp_path, backend="gymnasium-native").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.monitor.csv", "1.monitor.csv"]
