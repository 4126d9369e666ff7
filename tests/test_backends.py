"""Whoever steps the environments, training sees what SB3's DummyVecEnv shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.envs import backends
from sb3_ppo_edu.envs.backends import AS_A_WHOLE, BACKENDS, ONE_BY_ONE, choose, steps_per_second
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.training.resume import resume_run
from sb3_ppo_edu.training.run import close_run, learn, save_model, start_run
from sb3_ppo_edu.training.saved_run import open_run
from sb3_ppo_edu.training.settings import settings_from_hyperparameters
from sb3_ppo_edu.vec_env.adapters import EnvProcesses, Reachable, VectorAdapter, adapt, info_of
from sb3_ppo_edu.zoo import _vec_env_class
from tests.environments import RandomWalk

N_ENVS = 3
POOLED = ["CartPole-v1", "Pendulum-v1", "LunarLander-v3"]


class Noted(RandomWalk):
    """A random walk that says something else in its info at every step, and at a reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, _ = super().reset(seed=seed, options=options)
        return observation, {"began": float(self.np_random.random()), "options": str(options or {})}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step; of what is said, one key is in some steps only, and one is a dictionary."""
        observation, reward, terminated, truncated, _ = super().step(action)
        info: dict[str, Any] = {"steps": self.steps, "deep": {"half": self.steps / 2, "word": f"step {self.steps}"}}
        if self.steps % 2:
            info["odd"] = np.full(2, self.steps)
        return observation, reward, terminated, truncated, info

    def plus(self, number: int) -> int:
        """Add something to the steps."""
        return self.steps + number

    def fail(self) -> None:
        """Raise an error."""
        raise LookupError("as asked")


def noted(observation: str, action: str) -> gym.Env:
    """Make one."""
    return Noted(observation, action, end_probability=0.1, time_limit=8)


def make(vec_env_cls: Any, observation: str = "box", action: str = "box", seed: int = 5, **kwargs: Any) -> VecEnv:
    """Build a vector environment of them as SB3 does."""
    return make_vec_env(partial(noted, observation, action), N_ENVS, seed=seed, vec_env_cls=vec_env_cls, **kwargs)


def same(one: Any, other: Any) -> bool:
    """Compare observations, infos and what is in them; the time of day apart."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one if key != "t")
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other))
    return bool(one == other)


def assert_alike(env: VecEnv, reference: VecEnv, steps: int = 60) -> None:
    """Drive two vector environments with the same actions, and compare everything in every step."""
    env.action_space.seed(1)
    assert env.observation_space == reference.observation_space and env.action_space == reference.action_space
    assert same(env.reset(), reference.reset())
    assert [sorted(info.items()) for info in env.reset_infos] == [sorted(info.items()) for info in reference.reset_infos]
    ends = 0
    for step in range(steps):
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        found, expected = env.step(actions), reference.step(actions)
        assert same(found[0], expected[0]), step
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
        assert same(found[2], expected[2]), step
        for info, other in zip(found[3], expected[3], strict=True):
            assert {key: same(info.get(key), other[key]) for key in other if key != "episode"} == dict.fromkeys(
                other.keys() - {"episode"}, True
            )
            assert info.keys() == other.keys()
            if "episode" in other:
                ends += 1
                assert [info["episode"][key] for key in "rl"] == [other["episode"][key] for key in "rl"]
        for index in np.flatnonzero(found[2]):
            assert same(env.reset_infos[index], reference.reset_infos[index])
    assert ends >= env.num_envs, "no episode ended: nothing was shown"


# -- one by one ----------------------------------------------------------------------------------------------------------


SPACES = [("box", "discrete"), ("dict", "box"), ("image", "multidiscrete"), ("discrete", "multibinary")]


@pytest.mark.parametrize(
    ("backend", "observation", "action"),
    [("gymnasium-sync", *pair) for pair in SPACES]
    + [("gymnasium-async", *SPACES[0]), ("gymnasium-async", *SPACES[1]), ("subproc", *SPACES[1])],
)
def test_same_episodes_as_in_dummy_vec_env(backend: str, observation: str, action: str) -> None:
    """Observations, rewards, ends, terminal observations, time limits and infos are DummyVecEnv's, step by step."""
    env, reference = make(ONE_BY_ONE[backend], observation, action), make(DummyVecEnv, observation, action)
    try:
        assert_alike(env, reference)
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
        assert_alike(env, reference)
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
    with pytest.raises(ValueError, match="NextStepOnly: found autoreset_mode None in its metadata, expected one of NEXT_STEP"):
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
    """A value is an environment's where the mask beside it says so; what has no mask is nobody's."""
    infos = {
        "a": np.array([1.0, 2.0]),
        "_a": np.array([True, False]),
        "b": {"c": np.array([3, 4]), "_c": np.array([True, True])},
        "_b": np.array([False, True]),
        "loose": 5,
    }
    assert info_of(infos, 0) == {"a": 1.0} and info_of(infos, 1) == {"b": {"c": 4}}
    assert type(info_of(infos, 0)["a"]) is float


# -- all at once ---------------------------------------------------------------------------------------------------------


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


# -- choosing ------------------------------------------------------------------------------------------------------------


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
        ((1000.0, 1300.0, 900.0, 1000.0), "gymnasium-sync", "dummy 1,000, gymnasium-sync 1,300"),
        ((1000.0, 1050.0, 900.0, 1000.0), "dummy", "less than 10% apart"),
        ((1000.0, 900.0, 3000.0, 2000.0), "subproc", "subproc 3,000"),
        ((200_000.0, 100_000.0, 1e9, 1e9), "dummy", "a step of all 8 takes 40 µs, too little for processes to pay"),
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
    assert ("subproc" in choice.rates) == ("processes" not in choice.reason)


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


def test_every_backend_is_in_one_table() -> None:
    """The names that settings may give are those that something is built for."""
    assert set(BACKENDS) == {"dummy", "subproc", "gymnasium-sync", "gymnasium-async", "gymnasium-native", "envpool"}


# -- settings ------------------------------------------------------------------------------------------------------------


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
