"""Exact resume: a training that was interrupted ends as if it had not been."""

from __future__ import annotations

import csv
import importlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import CheckpointError, ExactCheckpoint, Resumable
from sb3_ppo_edu.checkpoint.files import all_in, save
from sb3_ppo_edu.checkpoint.plain import pack
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import RandomWalk

CLOCKS = ("time/fps", "time/time_elapsed")
STEPS = 400
FOLLOWING_THE_KL: dict[str, Any] = {
    "learning_rate": "warmup_0.3_kl_0.001_1e-3",
    "objective": {"sb3_ppo_edu.functional.kl.KLPenaltyObjective": {"d_targ": 0.001}},
}
DURABILITY = Path(__file__).parents[1] / "benchmarks" / "durability"


class Interrupt(BaseCallback):
    """Ends the process's training at a step, as a kill would: by an exception that nobody expects."""

    at = 0

    def _on_step(self) -> bool:
        if self.num_timesteps >= Interrupt.at > 0:
            raise KeyboardInterrupt
        return True


@pytest.fixture(autouse=True)
def _no_interrupt() -> Any:
    """No test inherits another's moment."""
    Interrupt.at = 0
    yield
    Interrupt.at = 0


def envs(env_id: Any = "CartPole-v1", *, normalize: bool = False, kind: type[Any] = InProcessVecEnv, seed: int = 3) -> VecEnv:
    """Two environments."""
    env = make_vec_env(env_id, 2, seed=seed, vec_env_cls=kind, wrapper_class=Resumable)
    return VecNormalize(env) if normalize else env


def callbacks(folder: Path, env: VecEnv, save_freq: int = 60) -> list[BaseCallback]:
    """What a careful user has: checkpoints, evaluations, and something that ends the training."""
    evaluation = EvalCallback(env, eval_freq=45, n_eval_episodes=2, log_path=str(folder), verbose=0)
    return [ExactCheckpoint(save_freq, folder / "checkpoints", handle_signals=False), evaluation, Interrupt()]


def state_of(model: EduPPO, folder: Path) -> dict[str, Any]:
    """Everything that must not depend on an interruption."""
    with (folder / "progress.csv").open(newline="") as file:
        rows = [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]
    with np.load(folder / "evaluations.npz") as arrays:
        evaluations = {name: arrays[name].tobytes() for name in arrays.files}
    return {
        "parameters": [tensor.numpy().tobytes() for tensor in model.policy.state_dict().values()],
        "optimizer": pack(model.policy.optimizer.state_dict()),
        "steps": model.num_timesteps,
        "progress": rows,
        "evaluations": evaluations,
        "episodes": [(episode["r"], episode["l"]) for episode in model.ep_info_buffer or ()],
        "random": (random.random(), np.random.random(), th.rand(1).item()),
    }


def train(folder: Path, make: Any, arguments: dict[str, Any], moments: tuple[int, ...] = ()) -> dict[str, Any]:
    """Train to the end, interrupted at some moments and resumed each time with nothing but the files."""
    evaluation = make(seed=50)
    model = EduPPO(env=make(), n_steps=48, batch_size=32, n_epochs=2, seed=1, device="cpu", **arguments)
    model.set_logger(configure(str(folder), ["csv"]))
    for moment in (*moments, 0):
        Interrupt.at = moment
        try:
            model.learn(STEPS, callback=callbacks(folder, evaluation))
        except KeyboardInterrupt:
            model.logger.close()
            random.seed(), np.random.seed(), th.seed()  # what was in memory is gone
            evaluation = make(seed=51)
            model = EduPPO.resume(folder / "checkpoints", make(), device="cpu")
            assert set(model.resumed_envs) == {"replayed"}
    return state_of(model, folder)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda **given: envs(**given), {"policy": "MlpPolicy", "engine": "fused"}),
        (lambda **given: envs(**given), {"policy": "MlpPolicy", "engine": "autograd", "learning_rate": "lin_1e-3"}),
        (
            lambda **given: envs("LunarLanderContinuous-v3", normalize=True, **given),
            {
                "policy": "MlpPolicy",
                "action_distribution": "tanh_gaussian",
                "recompute_advantages": True,
                "vf_n_steps": 3,
                "shared_net_arch": [16],
            },
        ),
        (lambda **given: envs("Pendulum-v1", normalize=True, **given), {"policy": "MlpPolicy", "action_distribution": "beta"}),
        (lambda **given: envs("Pendulum-v1", **given), {"policy": "MlpPolicy", "use_sde": True, "sde_sample_freq": 7}),
        (lambda **given: VecFrameStack(envs("Pendulum-v1", kind=DummyVecEnv, **given), 2), {"policy": "MlpPolicy"}),
        (
            lambda **given: envs(partial(RandomWalk, "dict"), **given),
            {"policy": "MultiInputPolicy", "engine": "fused", "critic_keys": ["choice"], "layer_norm": True},
        ),
        (lambda **given: envs(**given), {"policy": "MlpPolicy", **FOLLOWING_THE_KL}),
    ],
    ids=["fused", "autograd", "tanh", "beta", "gSDE", "frames", "dictionary", "kl"],
)
def test_interrupted_trainings_end_as_undisturbed_ones(tmp_path: Path, make: Any, arguments: dict[str, Any]) -> None:
    """
    Three interruptions: early in a rollout, late in one, and beyond the last update's start; each resumed from files only.

    Parameters, optimizer, log, evaluations, episode statistics and the next random numbers of all three generators are the
    undisturbed training's.
    """
    undisturbed = train(tmp_path / "a", make, arguments)
    assert train(tmp_path / "b", make, arguments, (70, 250, 395)) == undisturbed


def test_processes_are_resumed(tmp_path: Path) -> None:
    """Environments in processes of their own are brought back there."""
    made: list[VecEnv] = []

    def make(**given: Any) -> VecEnv:
        made.append(envs("Pendulum-v1", kind=SubprocVecEnv, **given))
        return made[-1]

    try:
        undisturbed = train(tmp_path / "a", make, {"policy": "MlpPolicy"})
        assert train(tmp_path / "b", make, {"policy": "MlpPolicy"}, (130,)) == undisturbed
    finally:
        for env in made:
            env.close()


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    """With and without the callback, the parameters have the same bits."""
    models = []
    for index in range(2):
        model = EduPPO("MlpPolicy", envs(), n_steps=48, batch_size=32, seed=1, device="cpu")
        model.learn(STEPS, callback=[ExactCheckpoint(50, tmp_path)] if index else None)
        models.append(b"".join(tensor.numpy().tobytes() for tensor in model.policy.state_dict().values()))
    assert models[0] == models[1]
    assert len(all_in(tmp_path)) == 3


def test_environments_may_be_given_as_functions(tmp_path: Path) -> None:
    """The layers are built as they were: base, normalisation, stacked frames; what was not wrapped in Resumable is."""
    env = VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable)), 2)
    model = EduPPO("MlpPolicy", env, n_steps=48, batch_size=32, seed=1, device="cpu")
    model.learn(96, callback=ExactCheckpoint(50, tmp_path))
    resumed = EduPPO.resume(tmp_path, [lambda: Monitor(gym.make("Pendulum-v1"))] * 2, device="cpu")
    assert type(resumed.env).__name__ == "VecFrameStack"
    assert list(resumed.resumed_envs) == ["replayed", "replayed"]
    resumed.learn(96, callback=ExactCheckpoint(50, tmp_path))
    assert resumed.num_timesteps == 96
    resumed.learn(96, reset_num_timesteps=False)
    assert resumed.num_timesteps == 192


def interrupted(folder: Path, at: int = 100, **given: Any) -> EduPPO:
    """A training that was interrupted."""
    model = EduPPO("MlpPolicy", envs(**given), n_steps=48, batch_size=32, n_epochs=1, seed=1, device="cpu")
    Interrupt.at = at
    with pytest.raises(KeyboardInterrupt):
        model.learn(STEPS, callback=[ExactCheckpoint(60, folder, handle_signals=False), Interrupt()])
    Interrupt.at = 0
    return model


def test_another_goal_or_other_callbacks_are_refused(tmp_path: Path) -> None:
    """What completes a training must be asked for as it was begun."""
    interrupted(tmp_path)
    model = EduPPO.resume(tmp_path, envs(), device="cpu")
    with pytest.raises(ValueError, match="total_timesteps=500: expected 400, as in the interrupted learn"):
        model.learn(500)
    model = EduPPO.resume(tmp_path, envs(), device="cpu")
    with pytest.raises(CheckpointError, match=r"found \['ConvertCallback'\].*expected.*\['CallbackList', 'ExactCheckpoint', "):
        model.learn(STEPS)


def test_other_environments_are_refused(tmp_path: Path) -> None:
    """Another environment, or another number of them, is named before anything is trained."""
    interrupted(tmp_path)
    with pytest.raises(CheckpointError, match="Observation spaces do not match"):
        EduPPO.resume(tmp_path, envs("Acrobot-v1"), device="cpu")
    with pytest.raises(CheckpointError, match="found 1 environments"):
        EduPPO.resume(tmp_path, make_vec_env("CartPole-v1", 1, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The newest is cut in half: it is named, and the one before it is used."""
    interrupted(tmp_path, 200)
    newest, before, *_ = all_in(tmp_path)
    newest.write_bytes(newest.read_bytes()[:2000])
    with pytest.warns(UserWarning, match=f"{newest.name}: .*going on from {before.name}"):
        model = EduPPO.resume(tmp_path, envs(), device="cpu")
    assert model.num_timesteps == int(before.name[11:-4])


def test_a_callbacks_exception_leaves_a_checkpoint_at_its_step(tmp_path: Path) -> None:
    """A defect in a callback at step 154 ends the training there; the resumed one, without it, ends as undisturbed."""

    class Defect(BaseCallback):
        broken = True

        def _on_step(self) -> bool:
            if Defect.broken and self.num_timesteps == 154:
                raise ZeroDivisionError("a user's defect")
            return True

    def run(folder: Path) -> list[bytes]:
        model = EduPPO("MlpPolicy", envs(), n_steps=48, batch_size=32, seed=1, device="cpu")
        try:
            model.learn(STEPS, callback=[ExactCheckpoint(1000, folder), Defect()])
        except ZeroDivisionError:
            (path,) = all_in(folder)
            assert path.name == "checkpoint-000000000154.zip"
            Defect.broken = False
            model = EduPPO.resume(folder, envs(), device="cpu")
            model.learn(STEPS, callback=[ExactCheckpoint(1000, folder), Defect()])
        return [tensor.numpy().tobytes() for tensor in model.policy.state_dict().values()]

    first = run(tmp_path / "a")
    assert run(tmp_path / "b") == first


SIGNALLED = """
import sys
from stable_baselines3.common.env_util import make_vec_env
from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
model = EduPPO("MlpPolicy", make_vec_env("CartPole-v1", 2, wrapper_class=Resumable), n_steps=64, seed=0, device="cpu")
from stable_baselines3.common.callbacks import BaseCallback
class Ready(BaseCallback):
    def _on_step(self):
        if self.n_calls == 10:
            print("ready", flush=True)
        return True
model.learn(10_000_000, callback=[ExactCheckpoint(100_000_000, sys.argv[1]), Ready()])
"""


def test_a_signal_leaves_a_checkpoint_and_the_usual_exit_code(tmp_path: Path) -> None:
    """SIGTERM ends a program with 143; the checkpoint can be resumed from."""
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    (path,) = all_in(tmp_path)
    env = make_vec_env("CartPole-v1", 2, wrapper_class=Resumable)
    assert EduPPO.resume(path, env, device="cpu").num_timesteps == int(path.name[11:-4]) > 0


class Signalled(BaseCallback):
    """Sends its own process a signal at the tenth step, once or twice."""

    def __init__(self, number: int, times: int) -> None:
        super().__init__()
        self.number, self.times = number, times

    def _on_step(self) -> bool:
        for _ in range(self.times if self.n_calls == 10 else 0):
            signal.raise_signal(self.number)
        return True


@pytest.mark.parametrize(("number", "ending"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("times", [1, 2])
def test_signals_leave_a_checkpoint_and_the_usual_exit_code(
    tmp_path: Path, number: int, ending: type[BaseException], times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signal ends training once its step is done, with a checkpoint that is named; a second one ends it at once, without."""
    model = EduPPO("MlpPolicy", envs(), n_steps=48, batch_size=32, n_epochs=1, seed=1, device="cpu")
    with pytest.raises(ending) as ended:
        model.learn(STEPS, callback=[ExactCheckpoint(1000, tmp_path, verbose=1), Signalled(number, times)])
    assert ending is KeyboardInterrupt or ended.value.args == (143,)
    found = [tmp_path / "checkpoint-000000000020.zip"] if times == 1 else []
    assert all_in(tmp_path) == found
    assert capsys.readouterr().out == "".join(f"Checkpoint: {path}\n" for path in found)


def test_two_checkpoint_callbacks_are_refused(tmp_path: Path) -> None:
    """Training can stop between two steps for one of them only."""
    model = EduPPO("MlpPolicy", envs(), n_steps=48, batch_size=32, device="cpu")
    with pytest.raises(ValueError, match="found another one in the same training"):
        model.learn(STEPS, callback=[ExactCheckpoint(50, tmp_path / name) for name in ("a", "b")])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"state.bin": b""}, r"found \['state.bin'\], expected state.bin and model.zip"),
        ({"state.bin": b"nonsense", "model.zip": b""}, "found no plain data written by this package"),
    ],
)
def test_what_no_checkpoint_holds_is_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    """An intact file without a state, or with one that cannot be read, is named."""
    path = save(tmp_path, 7, members, 1)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}: .*({message})"):
        EduPPO.resume(tmp_path, envs(), device="cpu")


def test_a_layer_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    """Functions make environments, not layers of a user's own around them."""

    class OwnLayer(VecFrameStack):
        """A user's layer."""

    model = EduPPO("MlpPolicy", OwnLayer(envs(), 2), n_steps=48, batch_size=32, device="cpu")
    model.learn(48, callback=ExactCheckpoint(50, tmp_path))
    with pytest.raises(CheckpointError, match="found OwnLayer around the environments, which can't be built from functions"):
        EduPPO.resume(tmp_path, [lambda: gym.make("CartPole-v1")] * 2, device="cpu")


def test_signal_handlers_are_given_back(tmp_path: Path) -> None:
    """After learning, Ctrl-C is what it was before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    EduPPO("MlpPolicy", envs(), n_steps=48, batch_size=32, device="cpu").learn(96, callback=ExactCheckpoint(50, tmp_path))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_finished_training_of_one_environment_goes_on(tmp_path: Path) -> None:
    """Trained for 96 steps and then to 192, it ends with the bits of 192 in one; the buffer of one is flattened in between."""
    one = partial(make_vec_env, "CartPole-v1", seed=3, wrapper_class=Resumable)
    settings: dict[str, Any] = {"n_steps": 48, "batch_size": 16, "seed": 3, "device": "cpu"}
    straight = EduPPO("MlpPolicy", one(), **settings).learn(192)
    EduPPO("MlpPolicy", one(), **settings).learn(96, callback=ExactCheckpoint(96, tmp_path))
    longer = EduPPO.resume(tmp_path, one(), device="cpu", total_timesteps=192)
    longer.learn(192, callback=ExactCheckpoint(96, tmp_path))
    assert longer.num_timesteps == 192
    assert all(map(th.equal, longer.policy.parameters(), straight.policy.parameters()))


def test_a_full_disk_ends_the_training_or_not_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With "raise" the error names folder and step; with "warn" training goes on; the good checkpoint before stays."""
    interrupted(tmp_path)
    (good,) = all_in(tmp_path)
    content = good.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    model = EduPPO.resume(tmp_path, envs(), device="cpu")
    with pytest.raises(CheckpointError, match=r"at step \d+ could not be written.*No space left.*those before stay"):
        model.learn(STEPS, callback=[ExactCheckpoint(60, tmp_path, handle_signals=False), Interrupt()])
    model = EduPPO.resume(tmp_path, envs(), device="cpu")
    with pytest.warns(UserWarning, match="No space left"):
        model.learn(STEPS, callback=[ExactCheckpoint(60, tmp_path, on_save_error="warn", handle_signals=False), Interrupt()])
    assert model.num_timesteps >= STEPS
    assert all_in(tmp_path) == [good] and good.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_freq": 0}, "save_freq=0: expected a positive integer"),
        ({"save_freq": 1, "keep": 0}, "keep=0: expected a positive integer"),
        ({"save_freq": 1, "on_save_error": "cry"}, "on_save_error='cry': expected one of raise, warn"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """Before anything is trained."""
    with pytest.raises(ValueError, match=message):
        ExactCheckpoint(folder=tmp_path, **arguments)


def test_only_eduppo_can_stop_between_steps(tmp_path: Path) -> None:
    """SB3's PPO is refused by name."""
    with pytest.raises(TypeError, match="found PPO, expected EduPPO"):
        PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").learn(8, callback=ExactCheckpoint(5, tmp_path))


def test_logs_go_on_without_gap_or_duplicate(tmp_path: Path) -> None:
    """
    CSV, JSON, text and TensorBoard: each step is written once, in order, though the first training had written more.

    Columns that came after the checkpoint are taken back too.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    def run(folder: Path, at: int) -> EduPPO:
        model = EduPPO("MlpPolicy", envs(), n_steps=48, batch_size=32, n_epochs=1, seed=1, device="cpu")
        model.set_logger(configure(str(folder), ["csv", "json", "log", "tensorboard"]))
        Interrupt.at = at
        try:
            model.learn(STEPS, callback=CallbackList([ExactCheckpoint(90, folder / "c", handle_signals=False), Interrupt()]))
        except KeyboardInterrupt:
            model.logger.close()
            Interrupt.at = 0
            # TensorBoard names its files by the second, and then by a counter, of which 10 sorts before 9.
            time.sleep(1.0)
            model = EduPPO.resume(folder / "c", envs(), device="cpu")
            model.learn(STEPS, callback=CallbackList([ExactCheckpoint(90, folder / "c", handle_signals=False), Interrupt()]))
        model.logger.close()
        return model

    run(tmp_path / "a", 0)
    for moment in (150, 310):
        run(tmp_path / str(moment), moment)
        tables = []
        for folder in (tmp_path / "a", tmp_path / str(moment)):
            with (folder / "progress.csv").open(newline="") as file:
                tables.append([{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)])
        assert tables[0] == tables[1]
        lines = [(tmp_path / name / "progress.json").read_text().count("\n") for name in ("a", str(moment))]
        assert lines[0] == lines[1] == len(tables[0])
        steps = []
        for name in ("a", str(moment)):
            events = EventAccumulator(str(tmp_path / name)).Reload()
            steps.append([(event.step, event.value) for event in events.Scalars("rollout/ep_rew_mean")])
        assert steps[0] == steps[1]


# -- killed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cases", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_killed_at_random_moments(cases: int, tmp_path: Path) -> None:
    """
    SIGKILL at a random moment, once in each of the cases that ``benchmarks/durability/kill.py`` kills a hundred times.

    In a process of its own, because the trainings are forked. Of the seven cases two, drawn anew each time, are tried here.
    """
    command = [sys.executable, str(DURABILITY / "kill.py"), "--cases", str(cases), "--kills", str(cases), "--steps", "600"]
    command += ["--folder", str(tmp_path), "--seed", str(random.randrange(10**6))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr[-2000:]}"
    assert done.stdout.count("'parameters': True") == cases


def test_the_published_kills_are_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says what its rows say: a hundred kills, all with the same bits."""
    monkeypatch.syspath_prepend(DURABILITY)
    kill = importlib.import_module("kill")
    with (DURABILITY / "kill.csv").open(newline="") as file:
        rows = [
            {key: cell == "True" if cell in ("True", "False") else cell for key, cell in row.items()}
            for row in csv.DictReader(file)
        ]
    text = (DURABILITY / "kill.md").read_text(encoding="utf-8")
    assert all(line in text for line in kill.lines_of(rows))
    assert len(rows) >= 100 and all(row["parameters"] for row in rows)


def test_members_are_what_they_say(tmp_path: Path) -> None:
    """A checkpoint is a zip file of the state, the model's constructor and a manifest."""
    interrupted(tmp_path)
    with zipfile.ZipFile(all_in(tmp_path)[0]) as archive:
        assert set(archive.namelist()) == {"manifest.json", "state.bin", "model.zip"}


@pytest.mark.parametrize("env", ["CartPole-v1", lambda: gym.make("CartPole-v1"), [], [1], None])
def test_resume_says_what_it_goes_on_in(env: Any) -> None:
    """Whatever is neither a vector environment nor functions is refused before a file is read."""
    with pytest.raises(ValueError, match=r"^resume: found .* for env, expected a function for each environment"):
        EduPPO.resume("no/such/folder", env)


def test_resume_in_a_single_environment_says_what_to_write() -> None:
    """As the constructor takes a single environment, it is what people try."""
    with pytest.raises(ValueError, match=r"found a TimeLimit for env.*\[lambda: gymnasium.make\('CartPole-v1'\)\] \* 4"):
        EduPPO.resume("no/such/folder", gym.make("CartPole-v1"))  # type: ignore[arg-type]
