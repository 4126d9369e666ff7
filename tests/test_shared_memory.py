"""Environments shared out among processes are SB3's DummyVecEnv to the bit, faults are named, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.checkpoint.files import latest_good
from sb3_ppo_edu.vec_env.shared_memory import SharedMemoryVecEnv
from sb3_ppo_edu.vec_env.shares import ASLEEP, CELLS, STORES_IN_ORDER, Line
from sb3_ppo_edu.vec_env.workers import WorkerError
from tests.stepping import N_ENVS, assert_same_episodes, make, same
from tests.test_workers import SAID, TIMEOUT, TROUBLES, Weather, is_there

TROUBLES = {**TROUBLES, "shape": lambda: np.zeros(3), "words": lambda: "fog"}
SAID = {
    **SAID,
    "shape": r"can't go on: observation: found shape \(3,\), expected shape \(2,\)",
    "words": "can't go on: observation: found str",
}
fork = partial(SharedMemoryVecEnv, start_method="fork", timeout=TIMEOUT)


class Gale(Weather):
    """Weather whose trouble may be what it shows; it keeps what it is given, and draws."""

    def __init__(self, trouble: str | None = None, at: int = 6) -> None:
        super().__init__(None, at)
        self.grief, self.render_mode = trouble, "rgb_array"
        self.action_space: Any = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.taken: list[Any] = []
        self.lock = threading.Lock()  # which no process can give another

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        observation, _, *rest = super().step(0)
        if self.grief is not None and self.life == self.at:
            observation = TROUBLES[self.grief]()
        return observation, 1.0, *rest

    def render(self) -> Any:
        """Draw how long it has lived."""
        return np.full((2, 2, 3), self.life, np.uint8)


def gales(made: list[Any], trouble: str | None = None, where: int = 3, kind: Any = fork, **given: Any) -> Any:
    """Four environments, two of them in a worker; one comes to grief at step 6."""
    env = kind([partial(Gale, trouble if index == where else None) for index in range(4)], **given)
    made.append(env)
    env.seed(3)
    env.reset()
    return env


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """Environments of a test; all are closed at its end, and no process is left."""
    envs: list[Any] = []
    yield envs
    for env in envs:
        env.close()
        assert not any(is_there(process.pid) for process in getattr(env, "processes", []))


ACTIONS = np.linspace(-1.0, 1.0, 4, dtype=np.float32)[:, None]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(
    ("observation", "action"), [("box", "discrete"), ("dict", "box"), ("image", "multidiscrete"), ("discrete", "multibinary")]
)
def test_same_episodes_as_in_dummy_vec_env(made: list[Any], observation: str, action: str, workers: int) -> None:
    """Observations, rewards, ends, terminal observations, time limits and infos are DummyVecEnv's, step by step."""
    made.append(make(partial(fork, n_workers=workers), observation, action))
    reference = make(DummyVecEnv, observation, action)
    assert len(made[0].processes) == workers
    assert_same_episodes(made[0], reference)
    found, expected = (env.step(np.stack([env.action_space.sample()] * N_ENVS))[1] for env in (made[0], reference))
    assert found.dtype == expected.dtype == np.float32


def test_rewards_have_the_same_bits(made: list[Any]) -> None:
    """Without infos nothing goes through the pipe, and the numbers are the same; earlier ones do not change."""
    env, plain = gales(made, n_workers=1), gales([], kind=DummyVecEnv)
    steps = [[each.step(ACTIONS * number) for number in range(9)] for each in (env, plain)]
    np.testing.assert_equal(steps[0], steps[1])


def test_single_environments_can_be_reached(made: list[Any]) -> None:
    """Attributes, methods and wrappers of some environments in any order, and errors that leave the others alive."""
    made.append(make(partial(fork, n_workers=2)))
    env = made[0]
    env.reset()
    env.step(np.zeros((N_ENVS, 2), np.float32))
    assert env.get_attr("time_limit") == [8] * N_ENVS and env.get_attr("time_limit", 1) == [8]
    env.set_attr("time_limit", 4, indices=[0, 2])
    assert env.get_attr("time_limit") == [4, 8, 4] and env.get_attr("time_limit", [1, 0, 1, -1]) == [8, 4, 8, 4]
    assert env.env_method("plus", 10, indices=[1]) == [11] and env.env_method("plus", number=1) == [2, 2, 2]
    assert env.env_is_wrapped(Monitor) == [True] * N_ENVS and env.env_is_wrapped(Resumable, [2]) == [False]
    assert env.has_attr("plus") and not env.has_attr("nothing")
    with pytest.raises(LookupError, match="as asked"):
        env.env_method("fail", indices=[0, 1])
    assert env.env_method("plus", 0) == [1, 1, 1], "the others are gone"
    locked = gales(made, n_workers=1)
    assert locked.has_attr("lock")
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock'"):
        locked.get_attr("lock")
    assert locked.get_attr("life") == [0] * 4, "the others are gone"


def test_options_seeds_and_pictures(made: list[Any]) -> None:
    """Options reach every environment once, the same seed gives the same episode again, and every environment draws."""
    made.append(make(partial(fork, n_workers=1)))
    env = made[0]
    env.seed(3)
    env.set_options([{"a": index} for index in range(N_ENVS)])
    first = env.reset()
    assert [info["options"] for info in env.reset_infos] == [str({"a": index}) for index in range(N_ENVS)]
    env.seed(3)
    assert same(env.reset(), first) and env.reset_infos[0]["options"] == "{}"
    assert not same(env.reset(), first)
    with pytest.warns(UserWarning, match="render_mode=None: expected 'rgb_array'"):
        assert env.get_images() == [None] * N_ENVS
    drawing = gales(made, n_workers=3)
    drawing.step(ACTIONS)
    assert [int(image.max()) for image in drawing.get_images()] == [1] * 4 and drawing.render().shape == (4, 4, 3)


def test_actions_reach_the_environments_as_they_are(made: list[Any]) -> None:
    """What an environment keeps of its actions stays, and numbers of another type than the space's are not rounded to it."""
    env = gales(made, n_workers=1)
    third = np.full((4, 1), 1 / 3)
    for actions in (ACTIONS, -ACTIONS, third):
        env.step(actions)
    for index, (first, second, last) in enumerate(env.get_attr("taken")):
        assert first == ACTIONS[index] and second == -ACTIONS[index] and last == 1 / 3
        assert (first.dtype, last.dtype) == (np.float32, np.float64)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_fault_ends_the_training_in_time(made: list[Any], trouble: str) -> None:
    """The error says which environment, when and how, though its process has several; all processes are gone."""
    env = gales(made, trouble, n_workers=1)
    for _ in range(5):
        env.step(ACTIONS)
    start = time.monotonic()
    with pytest.raises(
        WorkerError, match=rf"^environment 3, step 6 of its training: its process {SAID[trouble]}.*; .*resume from the last"
    ) as error:
        env.step(ACTIONS)
    # Half a message has the time of an answer twice; a loaded machine has two seconds more.
    assert time.monotonic() - start < {"hung": 1, "stopped": 1, "half": 2}.get(trouble, 0) + 2
    assert error.value.index == 3 and env.closed
    assert not any(is_there(process.pid) for process in env.processes)


def test_faults_elsewhere_are_named(made: list[Any]) -> None:
    """This process's own share is named like the others, with its exception; a process that is found dead, with all it has."""
    env = gales(made, "raised", where=1, n_workers=1)
    for _ in range(5):
        env.step(ACTIONS)
    with pytest.raises(WorkerError, match=r"environment 1, step 6 .* raised ZeroDivisionError: no wind") as error:
        env.step(ACTIONS)
    assert error.value.__cause__ and isinstance(error.value.__cause__.__cause__, ZeroDivisionError)
    env = gales(made, n_workers=1)
    env.step(ACTIONS)
    os.kill(env.processes[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"one of environments 2 to 3, step 1 .* was killed by SIGKILL"):
        env.get_attr("life")

    def broken() -> gym.Env:
        raise FileNotFoundError("no map")

    with pytest.raises(WorkerError, match=r"environment 1, step 0 .* raised FileNotFoundError: no map"):
        fork([Gale, broken], n_workers=1)


def test_a_step_that_nobody_waited_for(made: list[Any]) -> None:
    """After Ctrl-C in a step its answer is still to come, and is not taken for the next one's."""
    env, plain = gales(made, n_workers=1), gales([], kind=DummyVecEnv)
    env.step_async(ACTIONS)
    for each in (env, plain):
        each.seed(8)
    np.testing.assert_array_equal(env.reset(), plain.reset())
    np.testing.assert_equal(env.step(ACTIONS), plain.step(ACTIONS))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no processor affinity")
def test_processors(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers stay on a processor each, this process is left alone; where there are too few, nobody is held and all sleep."""
    able = os.sched_getaffinity(0)
    if len(able) > 1:
        env = gales(made, n_workers=1)
        assert os.sched_getaffinity(env.processes[0].pid) == {sorted(able)[1]}
        free = gales(made, n_workers=1, pin=False)
        assert os.sched_getaffinity(free.processes[0].pid) == able
    assert os.sched_getaffinity(0) == able
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {min(able)})
    assert gales(made).processes == []
    crowded, plain = gales(made, n_workers=3), gales([], kind=DummyVecEnv)
    monkeypatch.undo()
    assert all(os.sched_getaffinity(process.pid) == able for process in crowded.processes)
    for _ in range(5):
        np.testing.assert_equal(crowded.step(ACTIONS), plain.step(ACTIONS))


@pytest.mark.skipif(not STORES_IN_ORDER, reason="this processor's messages all go through the pipe")
def test_a_message_goes_through_the_pipe_only_to_a_sleeper() -> None:
    """``None`` costs nothing while the other side looks; what is a message, or meant for a sleeper, is in the pipe."""
    ends, cells = Pipe(), memoryview(bytearray(16 * CELLS)).cast("q")
    asking, answering = (Line(ends[side], cells, side, 0.05) for side in (0, 1))
    for message, asleep, in_pipe in ((None, False, False), ("word", False, True), (None, True, True)):
        if asleep:
            assert answering.wait(0.1) == []
            cells[CELLS + ASLEEP] = True  # it is, all the time, in a process of its own
        asking.send(message)
        assert ends[1].poll() == in_pipe
        assert answering.wait(1.0) == [ends[1]] and answering.recv() == message
        cells[CELLS + ASLEEP] = False
        answering.send("yes")
        assert asking.wait(1.0) == [ends[0]] and asking.recv() == "yes"
    ends[0].close()
    assert answering.wait(5.0) == [ends[1]], "that the other has gone"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout": 0.0}, "timeout=0.0: expected a positive number of seconds"),
        ({"n_workers": 4}, "n_workers=4: expected 0 to 3"),
        ({"n_workers": -1}, "n_workers=-1: expected 0 to 3"),
    ],
)
def test_bad_arguments(given: dict[str, Any], message: str) -> None:
    """They are refused before a process is started."""
    with pytest.raises(ValueError, match=message):
        fork([Gale] * 4, **given)


def test_a_training_goes_on_from_before_the_failure(made: list[Any], tmp_path: Path) -> None:
    """A worker is killed in its 13th step; resumed from the checkpoint before, the undisturbed training's bits come out."""

    def train(folder: Path, fns: Any) -> EduPPO:
        made.append(fork(fns, n_workers=1, spin=1e-3))
        model = EduPPO("MlpPolicy", made[-1], n_steps=16, batch_size=16, n_epochs=1, seed=1, device="cpu")
        return model.learn(128, callback=ExactCheckpoint(40, folder, handle_signals=False))

    healthy: Any = [lambda: Resumable(Weather())] * 4
    undisturbed = train(tmp_path / "a", healthy)
    with pytest.raises(WorkerError, match="environment 3, step 13"):
        train(tmp_path / "b", [*healthy[:3], lambda: Resumable(Weather("killed", 13))])
    assert latest_good(tmp_path / "b").path.name == "checkpoint-000000000040.zip"
    resumed = EduPPO.resume(tmp_path / "b", healthy, device="cpu")
    env: Any = resumed.get_env()
    made.append(env)
    assert type(env) is SharedMemoryVecEnv and list(resumed.resumed_envs) == ["replayed"] * 4
    assert (env.start_method, env.timeout, env.n_workers, env.spin, env.calls) == ("fork", TIMEOUT, 1, 1e-3, 10)
    resumed.learn(128, callback=ExactCheckpoint(40, tmp_path / "b", handle_signals=False))
    for one, other in zip(undisturbed.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()


def step_for_ever(pids: Any) -> None:
    """Train nobody, and say which processes do."""
    # A shell's background jobs ignore it, and so would whoever they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    env = fork([Gale] * 4, n_workers=2)
    env.reset()
    env.step(ACTIONS)
    pids.send([process.pid for process in env.processes])
    while True:
        env.step(ACTIONS)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(how: int) -> None:
    """However it ends, in the middle of a step."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    # multiprocessing lets no daemon have children.
    parent = context.Process(target=step_for_ever, args=(theirs,), daemon=False)
    parent.start()
    pids = ours.recv()
    time.sleep(0.1)
    os.kill(parent.pid or 0, how)
    parent.join(10)
    end = time.monotonic() + 10
    while any(is_there(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    code = parent.exitcode
    parent.kill()
    assert code is not None and not any(is_there(pid) for pid in pids)


SPAWNED = """
import gymnasium
from sb3_ppo_edu.vec_env.shared_memory import SharedMemoryVecEnv
if __name__ == "__main__":
    env = SharedMemoryVecEnv([lambda: gymnasium.make("CartPole-v1")] * 3, n_workers=1, start_method="spawn")
    env.seed(1)
    print(float(env.reset()[2, 0]), flush=True)
    input()
"""


def shared_names() -> set[str]:
    """What has a name in shared memory, but for the semaphores that joblib makes in tests beside this one."""
    return {name for name in os.listdir("/dev/shm") if "loky" not in name}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="the system shows no shared memory")
def test_spawned_workers_leave_nothing(tmp_path: Path) -> None:
    """Workers that are started anew give the same numbers; ended by SIGTERM, no memory is left and nobody complains."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    before = shared_names()
    process = subprocess.Popen([sys.executable, script], stdin=-1, stdout=-1, stderr=-1, text=True)
    expected = float(gym.make("CartPole-v1").reset(seed=3)[0][0])
    assert process.stdout is not None and float(process.stdout.readline()) == expected
    process.terminate()
    # Its output ends when the last of its processes has.
    assert process.communicate(timeout=20) == ("", "") and process.returncode == -signal.SIGTERM
    assert shared_names() <= before
