"""
Whatever an environment does that no training can go on from ends it with one sentence, which names environment and step.

So it is in every backend: for an environment that calls ``sys.exit``, whose process dies or hangs, that raises, or that gives
an observation of another shape, kind or type than its space says. Numpy fills a row of four from one number; nothing here may.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import Resumable
from sb3_ppo_edu.checkpoint.environments import capture_vec_env
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.backends import ONE_BY_ONE
from sb3_ppo_edu.envs.factory import EnvironmentSettings
from sb3_ppo_edu.training.saved_run import open_run
from sb3_ppo_edu.training.settings import read_settings, settings_from_record
from sb3_ppo_edu.vec_env import InProcessVecEnv
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError, wrong_observation, wrong_reward
from sb3_ppo_edu.vec_env.workers import WorkerError

BOX = spaces.Box(-1.0, 1.0, (4,), np.float32)
STEP = 3


class Faulty(gym.Env):
    """Four zeros at each step, and a fault of one environment in step three."""

    observation_space, action_space = BOX, spaces.Discrete(2)

    def __init__(self, fault: str = "", at: str = "step") -> None:
        self.fault, self.at, self.steps = fault, at, 0
        self._do("constructor")

    def _do(self, at: str) -> Any:
        """Do what is to be done there, and give an observation."""
        if self.at == at:
            if self.fault == "exit":
                sys.exit(0)
            if self.fault == "die":
                os._exit(5)
            if self.fault == "hang":
                time.sleep(1000)
            if self.fault == "raise":
                raise KeyError("the motor")
            if self.fault == "shape":
                return np.ones(1, dtype=np.float32)
        return np.zeros(4, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._do("reset"), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation = self._do("step") if self.steps == STEP else np.zeros(4, dtype=np.float32)
        return observation, 1.0, False, False, {}


def vector(backend: str, fault: str, at: str = "step", timeout: float = 60.0) -> Any:
    """Two environments, of which the second has the fault."""
    env_fns = [partial(Faulty), partial(Faulty, fault, at)]
    return ONE_BY_ONE[backend](env_fns, timeout=timeout)


def play(env: Any) -> None:
    """Reset and step, until the fault."""
    try:
        env.reset()
        for _ in range(STEP):
            env.step(np.zeros(2, dtype=np.int64))
    finally:
        env.close()


@pytest.mark.parametrize("fault", ["exit", "shape"])
@pytest.mark.parametrize("backend", list(ONE_BY_ONE))
def test_backends_name_environment_and_step(backend: str, fault: str) -> None:
    """sys.exit, and an observation of shape (1,) in place of (4,), end a step in every backend, by name."""
    what = {"exit": r"called sys\.exit\(0\)", "shape": r"observation: found shape \(1,\), expected shape \(4,\)"}[fault]
    with pytest.raises((EnvironmentFaultError, WorkerError), match=rf"^environment 1, step {STEP} of its training: .*{what}"):
        play(vector(backend, fault))


@pytest.mark.parametrize("at", ["constructor", "reset"])
@pytest.mark.parametrize("backend", ["dummy", "gymnasium-sync"])
def test_sys_exit_before_the_first_step(backend: str, at: str) -> None:
    """An environment that calls sys.exit in its constructor or its reset is named as one that does in a step."""
    with pytest.raises((EnvironmentFaultError, WorkerError), match=r"^environment 1, step 0 .*called sys\.exit\(0\)"):
        play(vector(backend, "exit", at))


@pytest.mark.parametrize(
    ("fault", "at", "expected"),
    [
        ("die", "step", rf"environment 1, step {STEP} .*ended with exit code 5"),
        ("hang", "step", rf"environment 1, step {STEP} .*gave no answer within 2 seconds"),
        ("raise", "step", rf"environment 1, step {STEP} .*raised KeyError: 'the motor'"),
        ("die", "constructor", r"environment 1, step 0 .*ended with exit code 5"),
    ],
)
def test_asynchronous_failures_are_named_in_bounded_time(fault: str, at: str, expected: str) -> None:
    """What subproc and workers say of a process that dies, hangs or raises, gymnasium-async says too, and ends all of them."""
    with pytest.raises(WorkerError, match=f"^{expected}"):
        env = vector("gymnasium-async", fault, at, timeout=2.0 if fault == "hang" else 60.0)
        start = time.monotonic()
        play(env)
    if at == "step":
        assert time.monotonic() - start < 20 and not any(process.is_alive() for process in env.vector_env.processes)


def test_asynchronous_environments_are_captured() -> None:
    """A checkpoint asks whether an environment can be captured without having the answer, a method, sent."""
    env = make_vec_env(Faulty, 2, vec_env_cls=ONE_BY_ONE["gymnasium-async"], wrapper_class=Resumable)  # type: ignore[arg-type]
    try:
        env.reset()
        assert env.has_attr("capture_state") and not env.has_attr("nothing_of_this_name")
        assert [one["wrappers"][0][0] for one in capture_vec_env(env)["envs"]] == ["Resumable", "Resumable"]
    finally:
        env.close()


# -- in this process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (BOX, np.float32(1), r"found shape \(\), expected shape \(4,\)"),
        (BOX, np.zeros(5), r"found shape \(5,\)"),
        (BOX, np.zeros((4, 1)), r"found shape \(4, 1\)"),
        (BOX, np.array(["a"] * 4), "found ndarray of dtype <U1"),
        (BOX, np.zeros(4, complex), "dtype complex128"),
        (BOX, None, "found NoneType of dtype object"),
        (BOX, [1.0, [2.0, 3.0]], "found list"),
        (spaces.Dict(a=BOX), np.zeros(4), "found ndarray, expected a dict with 'a'"),
        (spaces.Dict(a=BOX), {"b": np.zeros(4)}, r"observation\['a'\]: found none"),
        (spaces.Dict(a=BOX), {"a": np.zeros(1)}, r"observation\['a'\]: found shape \(1,\)"),
        (spaces.Discrete(3), np.zeros(2), r"found shape \(2,\), expected shape \(\)"),
    ],
)
def test_wrong_observations(space: spaces.Space, observation: Any, expected: str) -> None:
    """What is no observation of the space is described, with part, found and expected."""
    assert re.search(expected, wrong_observation(observation, space))


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (BOX, np.zeros(4)),
        (BOX, [0, 0, 0, 0]),
        (BOX, np.zeros((1, 4))),
        (BOX, np.full(4, 7.0)),
        (spaces.Box(0, 1, (1,)), 0.5),
        (spaces.Box(0, 255, (2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.float32)),
        (spaces.Discrete(3), 2),
        (spaces.Discrete(3), np.array([2])),
        (spaces.Dict(a=BOX), {"a": np.zeros(4), "more": "left away"}),
    ],
)
def test_what_sb3_trains_with_is_let_through(space: spaces.Space, observation: Any) -> None:
    """Numbers of another dtype, lists, and axes of length 1 in front lose nothing when they are stored."""
    assert wrong_observation(observation, space) == ""


def test_in_process_steps_equal_those_of_sb3() -> None:
    """Looking changes nothing: observations, rewards, ends and infos are DummyVecEnv's, seeds and options included."""

    def run(kind: Any) -> Any:
        env = make_vec_env("CartPole-v1", 3, seed=4, vec_env_cls=kind)
        env.set_options({"low": -0.02, "high": 0.02})
        found = [env.reset(), *(env.step(np.ones(3, dtype=np.int64))[:3] for _ in range(30)), env.reset()]
        return found, env.reset_infos

    for one, other in zip(*(run(kind)[0] for kind in (InProcessVecEnv, DummyVecEnv)), strict=True):
        np.testing.assert_equal(one, other)


def test_old_interface_is_named() -> None:
    """Environments for the gym of before 0.26 are told what to give, through Monitor too."""

    class OldStep(Faulty):
        def step(self, action: Any) -> Any:
            return np.zeros(4, dtype=np.float32), 1.0, False, {}

    class OldReset(Faulty):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(4, dtype=np.float32)

    class OldSeed(Faulty):
        def reset(self) -> Any:  # type: ignore[override]
            return np.zeros(4, dtype=np.float32)

    for kind, expected in ((OldStep, "step gave another"), (OldReset, "reset gave something"), (OldSeed, "define reset")):
        with pytest.raises(
            EnvironmentFaultError, match=rf"environment 0, step [01] .*{expected}.*info from step \(Gymnasium\)"
        ):
            play(InProcessVecEnv([lambda kind=kind: Monitor(kind())]))  # type: ignore[misc]


@pytest.mark.parametrize("at", ["constructor", "reset", "step"])
@pytest.mark.parametrize("backend", ["dummy", "gymnasium-sync"])
def test_exceptions_in_this_process_pass(backend: str, at: str) -> None:
    """What an environment raises in this process arrives as it is, with its traceback."""
    with pytest.raises(KeyError, match="the motor"):
        play(vector(backend, "raise", at))


@pytest.mark.parametrize(
    ("wrap", "reward", "expected"),
    [
        (Monitor, np.ones(2), r"shape \(2,\)"),
        (Monitor, None, "NoneType"),
        (Monitor, "one", "str"),
        (lambda env: env, [1.0, 2.0], r"shape \(2,\)"),
        (lambda env: env, "one", "str"),
    ],
)
def test_rewards_that_are_no_number_are_named(wrap: Any, reward: Any, expected: str) -> None:
    """A reward that is none is named with what was found and what to write, in Monitor or not."""

    class Paying(Faulty):
        def step(self, action: Any) -> Any:
            return np.zeros(4, dtype=np.float32), reward, False, False, {}

    with pytest.raises(
        EnvironmentFaultError, match=rf"environment 0, step 1 .*reward: found {expected}.*return float\(reward\)"
    ):
        play(InProcessVecEnv([lambda: wrap(Paying())]))


def test_a_reward_in_an_array_is_refused_in_processes() -> None:
    """Rewards of shape (1,), which SB3 stacks to a matrix and adds to a row, are refused."""
    assert "reward: found shape (1,), expected a number: return float(reward)" in wrong_reward(np.ones(1))
    assert [wrong_reward(one) for one in (1, 1.0, True, np.float32(1), np.array(1.0))] == [""] * 5


@pytest.mark.parametrize("kind", [InProcessVecEnv, DummyVecEnv])
def test_learn_raises_what_an_environment_ends_with(kind: Any) -> None:
    """Training ends in an exception, not with the program, in SB3's own vector environment too."""
    env = kind([Faulty, partial(Faulty, "exit")])
    with pytest.raises(EnvironmentFaultError, match=r"environment 1, step 3 .*called sys\.exit"):
        EduPPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(8)


def test_a_signal_handler_may_end_the_program() -> None:
    """SystemExit of a handler that runs while an environment steps is none of the environment's."""

    class Signalled(Faulty):
        def step(self, action: Any) -> Any:
            signal.raise_signal(signal.SIGUSR1)
            return super().step(action)

    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit, match="3"):
            EduPPO("MlpPolicy", Signalled(), n_steps=8, batch_size=8, device="cpu").learn(8)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_command_saves_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """sb3-edu train ends with 1 and one sentence, and the run is there, with its timeout in its settings."""
    (tmp_path / "leaver.py").write_text(
        "import sys\nimport gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n\n"
        "class Leaver(CartPoleEnv):\n    steps = 0\n\n    def step(self, action):\n        Leaver.steps += 1\n"
        "        if Leaver.steps == 50:\n            sys.exit(0)\n        return super().step(action)\n\n"
        "gym.register('Leaver-v0', entry_point='leaver:Leaver', max_episode_steps=100)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = "--steps 400 --n-steps 64 --batch-size 32 --eval-freq 400 --worker-timeout 5 --name r"
    assert main(["train", "--env", "leaver:Leaver-v0", *flags.split()]) == 1
    assert "error: environment 0, step 50 of its training: it called sys.exit(0)" in capsys.readouterr().err
    assert open_run(tmp_path / "runs/r").load_model("cpu").num_timesteps == 49
    record = read_settings(tmp_path / "runs/r/settings.yml")
    assert settings_from_record(record, "cpu").environment.worker_timeout == 5.0


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), "a minute", None, True])
def test_worker_timeout_is_checked(timeout: Any) -> None:
    """A timeout is a positive number of seconds."""
    with pytest.raises(ValueError, match=r"worker_timeout=.*expected a positive number of seconds"):
        EnvironmentSettings("CartPole-v1", worker_timeout=timeout)
