"""Workers that die, raise or hang are found in time, and nothing of them is left."""

from __future__ import annotations

import gc
import os
import signal
import struct
import time
import warnings
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.checkpoint.environments import capture_vec_env, restore_vec_env
from sb3_ppo_edu.checkpoint.files import latest_good
from sb3_ppo_edu.checkpoint.plain import pack, unpack
from sb3_ppo_edu.vec_env.workers import WatchedSubprocVecEnv, WorkerError, describe_end

EPISODE = 4
TIMEOUT = 1.0
SEED = 11


def half_a_message() -> None:
    """Announce an answer of a thousand bytes, send one, and stop."""
    for pipe in gc.get_objects():
        if isinstance(pipe, Connection) and not pipe.closed:
            os.write(pipe.fileno(), struct.pack("!i", 1000) + b"x")
    time.sleep(600)


def divide() -> None:
    """Raise what environments raise."""
    raise ZeroDivisionError("no wind")


TROUBLES: dict[str, Any] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "gone": lambda: os._exit(3),
    "raised": divide,
    "hung": lambda: time.sleep(600),
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "half": half_a_message,
}
SAID = {
    "killed": r"was killed by SIGKILL \(what the system does when memory runs out\)",
    "gone": "ended with exit code 3",
    "raised": r"raised ZeroDivisionError: no wind \(.*test_workers.py, line \d+, in divide\)",
    "hung": "gave no answer within 1 seconds",
    "stopped": "gave no answer within 1 seconds",
    "half": "gave no answer within 1 seconds",
}


class Weather(gym.Env[Any, Any]):
    """
    Random observations, episodes of four steps; in one of its steps it comes to grief, once.

    :param trouble: key of ``TROUBLES``, or None
    :param at: step of the environment's life
    :param once: a file that remembers that it has happened; None for as often as it can
    :param size: numbers in an observation
    """

    def __init__(self, trouble: str | None = None, at: int = 6, once: Path | None = None, size: int = 2) -> None:
        self.trouble, self.at, self.once = trouble, at, once
        self.observation_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.life = 0
        self.color = "grey"

    def _observe(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, self.observation_space.shape).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {"seed": seed}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.life += 1
        if self.trouble is not None and self.life == self.at and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            TROUBLES[self.trouble]()
        return self._observe(), float(action), self.steps == EPISODE, False, {}

    def paint(self, color: str) -> str:
        """Change something."""
        self.color = color
        return color


def watched(env_fns: Any, **given: Any) -> WatchedSubprocVecEnv:
    """Workers that are started quickly."""
    return WatchedSubprocVecEnv(env_fns, **{"start_method": "fork", "timeout": TIMEOUT, **given})


@pytest.fixture
def made() -> Iterator[list[WatchedSubprocVecEnv]]:
    """Environments of a test; all of them are closed at its end, and no process is left."""
    envs: list[WatchedSubprocVecEnv] = []
    yield envs
    for env in envs:
        env.close()
        assert leftover(env) == []


def leftover(env: WatchedSubprocVecEnv) -> list[int]:
    """Find workers that are still there, as zombies too."""
    return [process.pid for process in env.processes if is_there(process.pid)]


def is_there(pid: int) -> bool:
    """Tell whether there is a process, perhaps a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def trio(made: list[WatchedSubprocVecEnv], trouble: str | None = None, **given: Any) -> WatchedSubprocVecEnv:
    """Three environments of which number 1 comes to grief at step 6, seeded and reset."""
    fault = {name: given.pop(name) for name in ("at", "once", "size") if name in given}
    others = {"size": fault["size"]} if "size" in fault else {}
    env = watched([partial(Weather, **others), partial(Weather, trouble, **fault), partial(Weather, **others)], **given)
    made.append(env)
    env.seed(SEED)
    env.reset()
    return env


def step(env: Any) -> Any:
    """Step all with the action 1."""
    return env.step(np.ones(env.num_envs, dtype=np.int64))


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_failed_worker_ends_the_training_in_time(made: list[WatchedSubprocVecEnv], trouble: str) -> None:
    """The error says which, when and how; it comes at once for the dead and within the timeout for the hung; all are gone."""
    env = trio(made, trouble)
    for _ in range(5):
        step(env)
    start = time.monotonic()
    with pytest.raises(
        WorkerError, match=rf"environment 1, step 6 of its training: its process {SAID[trouble]}; .*resume"
    ) as e:
        step(env)
    taken = time.monotonic() - start
    # Half a message has the time of an answer twice: until it begins and until it ends.
    # A loaded machine has two seconds more.
    assert taken < {"hung": 1, "stopped": 1, "half": 2}.get(trouble, 0) + 2
    assert e.value.index == 1
    assert env.closed
    assert leftover(env) == []
    env.close()


@pytest.mark.parametrize("trouble", ["killed", "raised", "hung"])
def test_a_restarted_worker_cuts_its_episode(made: list[WatchedSubprocVecEnv], tmp_path: Path, trouble: str) -> None:
    """
    The failed step is the last of its episode, without reward, marked as cut, with the last observation seen.

    The next episode is that of the seed drawn from the first seed, the index and the number of restarts. The others step on as
    if nothing had been.
    """
    env = trio(made, trouble, once=tmp_path / "once", on_worker_failure="restart")
    plain = DummyVecEnv([Weather, Weather, Weather])
    plain.seed(SEED)
    plain.reset()
    old = env.processes[1].pid
    for _ in range(5):
        last, _, _, _ = step(env)
        step(plain)
    with pytest.warns(UserWarning, match=rf"environment 1, step 6 .*{SAID[trouble]}; a new one takes its place"):
        observations, rewards, dones, infos = step(env)
    expected, *_ = step(plain)
    np.testing.assert_array_equal(rewards, [1.0, 0.0, 1.0])
    np.testing.assert_array_equal(dones, [False, True, False])
    assert infos[1].keys() == {"TimeLimit.truncated", "worker_restarted", "terminal_observation"}
    assert infos[1]["TimeLimit.truncated"] is True
    assert not infos[0]["TimeLimit.truncated"]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], last[1])
    np.testing.assert_array_equal(observations[[0, 2]], expected[[0, 2]])
    assert env.restarts == [0, 1, 0]
    assert not is_there(old)

    single = Weather()
    seed = int(np.random.SeedSequence([SEED, 1, 1]).generate_state(1)[0])
    first, _ = single.reset(seed=seed)
    np.testing.assert_array_equal(observations[1], first)
    assert env.reset_infos[1] == {"seed": seed}
    for _ in range(EPISODE):
        observations, _, dones, infos = step(env)
        second, *_ = single.step(1)
        expected, _, others, _ = step(plain)
        np.testing.assert_array_equal(observations[[0, 2]], expected[[0, 2]])
        np.testing.assert_array_equal(dones[[0, 2]], others[[0, 2]])
    assert dones[1]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], second)


ASKED: dict[str, Any] = {
    "get_attr": lambda env: env.get_attr("life") == [1, 0, 1],
    "env_method": lambda env: env.env_method("paint", "red") == ["red"] * 3,
    "set_attr": lambda env: env.set_attr("color", "blue") is None,
    "has_attr": lambda env: env.has_attr("life"),
    "env_is_wrapped": lambda env: env.env_is_wrapped(Resumable) == [False] * 3,
}


@pytest.mark.parametrize(
    ("what", "how"),
    [
        *((what, signal.SIGKILL) for what in (*ASKED, "reset", "close")),
        *((what, signal.SIGSTOP) for what in ("env_method", "reset", "close")),
    ],
)
def test_whatever_a_dead_worker_is_asked_comes_back(made: list[WatchedSubprocVecEnv], what: str, how: int) -> None:
    """Between two steps a worker is killed or stopped: every call ends with an answer or an error, and in time."""
    env = trio(made)
    step(env)
    os.kill(env.processes[1].pid, how)
    start = time.monotonic()
    if what == "close":
        env.close()
    else:
        with pytest.raises(
            WorkerError, match=r"environment 1, step 1 of its training: its process (was killed|gave no answer)"
        ):
            env.reset() if what == "reset" else ASKED[what](env)
    assert time.monotonic() - start < 2 * TIMEOUT + 2
    assert leftover(env) == []


@pytest.mark.parametrize("what", ASKED)
def test_a_worker_restarted_between_steps_cuts_at_the_next(made: list[WatchedSubprocVecEnv], what: str) -> None:
    """The question is answered by the new worker, and the step that follows ends the old episode."""
    env = trio(made, on_worker_failure="restart")
    last, *_ = step(env)
    os.kill(env.processes[1].pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="environment 1, step 1"):
        assert ASKED[what](env)
    observations, rewards, dones, infos = step(env)
    assert (rewards[1], dones.tolist()) == (0.0, [False, True, False])
    np.testing.assert_array_equal(infos[1]["terminal_observation"], last[1])
    assert env.get_attr("life") == [2, 0, 2]
    single = Weather()
    first, _ = single.reset(seed=int(np.random.SeedSequence([SEED, 1, 1]).generate_state(1)[0]))
    np.testing.assert_array_equal(observations[1], first)


def test_a_reset_needs_no_cut(made: list[WatchedSubprocVecEnv]) -> None:
    """A worker found dead by a reset, or cut and then reset, begins an episode like any other."""
    env = trio(made, on_worker_failure="restart")
    for ask in (lambda: env.reset(), lambda: env.get_attr("life")):
        os.kill(env.processes[1].pid, signal.SIGKILL)
        with pytest.warns(UserWarning, match="environment 1"):
            ask()
        env.reset()
        _, rewards, dones, infos = step(env)
        assert (rewards.tolist(), dones.tolist()) == ([1.0] * 3, [False] * 3)
        assert "worker_restarted" not in infos[1]
    assert env.restarts == [0, 2, 0]


def test_an_environment_that_always_fails_is_given_up(made: list[WatchedSubprocVecEnv]) -> None:
    """A worker that fails at its first step is restarted once; one that makes steps is, each time."""
    env = trio(made, "raised", at=1, on_worker_failure="restart")
    with pytest.warns(UserWarning, match="takes its place"):
        step(env)
    with pytest.raises(WorkerError, match=r"step 2 .*raised ZeroDivisionError.*the environment itself is broken"):
        step(env)
    env = trio(made, "gone", at=2, on_worker_failure="restart")
    with pytest.warns(UserWarning, match="takes its place"):
        dones = [bool(step(env)[2][1]) for _ in range(6)]
    assert dones == [False, True] * 3
    assert env.restarts == [0, 3, 0]


def test_two_at_once(made: list[WatchedSubprocVecEnv]) -> None:
    """Workers that die or stop at the same time are all replaced."""
    env = trio(made, on_worker_failure="restart")
    os.kill(env.processes[0].pid, signal.SIGKILL)
    os.kill(env.processes[2].pid, signal.SIGSTOP)
    with pytest.warns(UserWarning) as said:
        _, _, dones, _ = step(env)
    assert dones.tolist() == [True, False, True]
    assert len(said) == 2


def test_an_environment_that_cannot_be_built(made: list[WatchedSubprocVecEnv]) -> None:
    """The constructor's exception is passed on."""

    def broken() -> gym.Env:
        raise FileNotFoundError("no map")

    for env_fns in ([broken, Weather], [Weather, broken]):
        with pytest.raises(WorkerError, match="its process raised FileNotFoundError: no map"):
            watched(env_fns)


def test_healthy_workers_do_what_the_others_do(made: list[WatchedSubprocVecEnv]) -> None:
    """Observations, rewards, ends and infos are those of DummyVecEnv; no warning; Ctrl-C is not for them."""
    env, plain = trio(made), DummyVecEnv([Weather] * 3)
    plain.seed(SEED)
    plain.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(2 * EPISODE + 1):
            if index == 3:
                os.kill(env.processes[0].pid, signal.SIGINT)
            for one, other in zip(step(env)[:3], step(plain)[:3], strict=True):
                np.testing.assert_array_equal(one, other)


def test_closing_waits_for_large_answers(made: list[WatchedSubprocVecEnv]) -> None:
    """An answer larger than a pipe, not fetched, keeps no worker from ending by itself."""
    env = trio(made, size=1_000_000, timeout=20.0)
    env.step_async(np.ones(3, dtype=np.int64))
    env.close()
    assert [process.exitcode for process in env.processes] == [0, 0, 0]


def test_the_usual_way_of_starting(made: list[WatchedSubprocVecEnv], tmp_path: Path) -> None:
    """A process that imports everything first has more time than the timeout for its first answer."""
    env = trio(made, "killed", at=2, once=tmp_path / "once", on_worker_failure="restart", start_method=None)
    step(env)
    with pytest.warns(UserWarning, match="environment 1, step 2 .*was killed by SIGKILL"):
        assert step(env)[2].tolist() == [False, True, False]
    step(env)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout": 0.0}, "timeout=0.0: expected a positive number of seconds"),
        ({"timeout": float("inf")}, "timeout=inf: expected a positive number"),
        ({"on_worker_failure": "ignore"}, "on_worker_failure='ignore': expected one of raise, restart"),
    ],
    ids=["no time", "forever", "word"],
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    """They are refused before a process is started."""
    with pytest.raises(ValueError, match=message):
        watched([Weather], **given)


@pytest.mark.parametrize(
    ("exitcode", "said"),
    [(0, "ended with exit code 0"), (-11, "was killed by SIGSEGV"), (-40, "was killed by signal 40"), (None, "closed its")],
)
def test_ends_are_described(exitcode: int | None, said: str) -> None:
    """Exit codes and signals have names."""
    assert describe_end(exitcode).startswith(said)


def test_a_checkpoint_keeps_restarts(made: list[WatchedSubprocVecEnv]) -> None:
    """What was counted and seen goes on, a cut that the next step will tell of too; what to do is the new one's to say."""
    fns: Any = [partial(lambda: Resumable(Weather()))] * 2
    envs = [watched(fns, on_worker_failure="restart"), watched(fns, timeout=2.0)]
    made += envs
    env, other = envs
    env.seed(SEED)
    env.reset()
    step(env)
    os.kill(env.processes[0].pid, signal.SIGKILL)
    with pytest.warns(UserWarning, match="environment 0"):
        state = unpack(pack(capture_vec_env(env)))
    assert restore_vec_env(other, state) == ["replayed", "replayed"]
    assert (other.restarts, other.calls, other.first_seed) == ([1, 0], 1, SEED)
    assert (other.timeout, other.on_worker_failure) == (2.0, "raise")
    for _ in range(EPISODE + 1):
        for one, same in zip(step(env)[:3], step(other)[:3], strict=True):
            np.testing.assert_array_equal(one, same)


def test_a_training_goes_on_from_before_the_failure(made: list[WatchedSubprocVecEnv], tmp_path: Path) -> None:
    """
    A worker is killed in its 25th step; the checkpoint of step 40 (20 of each) is whole.

    Resumed from it by functions, the workers are what they were said to be, and training ends with the undisturbed one's bits.
    """

    def train(folder: Path, fns: Any) -> EduPPO:
        made.append(watched(fns, timeout=1.5))
        model = EduPPO("MlpPolicy", made[-1], n_steps=16, batch_size=16, n_epochs=1, seed=1, device="cpu")
        return model.learn(64, callback=ExactCheckpoint(20, folder, handle_signals=False))

    healthy: Any = [lambda: Resumable(Weather())] * 2
    undisturbed = train(tmp_path / "a", healthy)
    with pytest.raises(WorkerError, match="environment 1, step 25"):
        train(tmp_path / "b", [healthy[0], lambda: Resumable(Weather("killed", 25))])
    assert latest_good(tmp_path / "b").path.name == "checkpoint-000000000040.zip"

    resumed = EduPPO.resume(tmp_path / "b", healthy, device="cpu")
    env: Any = resumed.get_env()
    made.append(env)
    assert type(env) is WatchedSubprocVecEnv
    assert (env.start_method, env.timeout, env.on_worker_failure) == ("fork", 1.5, "raise")
    assert (resumed.num_timesteps, list(resumed.resumed_envs)) == (40, ["replayed", "replayed"])
    resumed.learn(64, callback=ExactCheckpoint(20, tmp_path / "b", handle_signals=False))
    for one, other in zip(undisturbed.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
