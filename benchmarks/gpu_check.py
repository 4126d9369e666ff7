"""Does all of it work on a GPU? A check for a machine with a CUDA device; it needs no network and at most four minutes.

::

    python benchmarks/gpu_check.py
    python benchmarks/gpu_check.py --device cpu --quick

- **One update** of CartPole, Pendulum (tanh-squashed) and a CNN, from the same parameters and the same rollout on the device
  and on the CPU: how far the two ends are apart, as a share of the way from the start. Both round differently, so it is not 0.
- **SB3's bits**: ``EduPPO`` with ``engine="autograd"`` beside SB3's ``PPO`` on the device, with the same seed.
- **Save, load, exact resume** on the device, and load on the CPU what was saved there.
- **Data-parallel** training of one process, with nccl on a CUDA device and with gloo on the CPU, beside training alone.
- **Seconds per minibatch** beside SB3's.

It ends with 1 if a check fails; without a CUDA device it says that it was skipped, and ends with 0.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import torch.distributed as dist
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.distributed import DataParallel, join, leave

NEAR = 1e-4
"""
Largest distance between two ends of an update, as a share of the way from its start, that is put down to rounding.

Gradients with noise of 1e-6 in every number end 1e-6 apart; a clip range of 0.18 instead of 0.2 ends 5e-3 to 4e-2 apart.
"""
SLOWER = 0.87
"""Smallest ratio of SB3's time to ours that is not called slower: 1 / 1.15."""
COLUMNS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")


class MovingSquare(gym.Env[np.ndarray, np.int64]):
    """An image with a bright square, which the actions move to either side; the reward is its distance to the left edge."""

    observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the square anywhere."""
        super().reset(seed=seed)
        self.column, self.left = int(self.np_random.integers(32)), 20
        return self._image(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move it by a column; an episode has twenty steps."""
        self.column = min(max(self.column + 2 * int(action) - 1, 0), 32)
        self.left -= 1
        return self._image(), self.column / 32, False, self.left == 0, {}

    def _image(self) -> np.ndarray:
        """Draw it."""
        image = np.zeros((36, 36, 1), np.uint8)
        image[16:20, self.column : self.column + 4] = 255
        return image


@dataclass(frozen=True)
class Case:
    """
    What is trained.

    :param name: for the table
    :param policy: SB3's name of the policy
    :param env: id or class of the environment
    :param arguments: more of the algorithm's
    """

    name: str
    policy: str
    env: str | type[gym.Env[Any, Any]]
    arguments: dict[str, Any]

    def environments(self, n_envs: int = 4) -> VecEnv:
        """Make environments that can be resumed."""
        return make_vec_env(self.env, n_envs, seed=1, wrapper_class=Resumable)

    def build(self, kind: type[Any], device: str, **arguments: Any) -> Any:
        """Build a model; ``EduPPO`` with the engine that has SB3's bits."""
        given = {
            "n_steps": 64,
            "batch_size": 64,
            "n_epochs": 4,
            "learning_rate": 2e-3,
            "seed": 1,
            "device": device,
            **self.arguments,
            **arguments,
        }
        if issubclass(kind, EduPPO):
            given["engine"] = "autograd"
        return kind(self.policy, given.pop("env", None) or self.environments(), **given)


CARTPOLE = Case("CartPole", "MlpPolicy", "CartPole-v1", {})
PENDULUM = Case("Pendulum, tanh", "MlpPolicy", "Pendulum-v1", {"action_distribution": "tanh_gaussian", "ent_coef": 0.01})
CNN = Case("CNN", "CnnPolicy", MovingSquare, {"ent_coef": 0.01})
CASES = (CARTPOLE, PENDULUM, CNN)


@dataclass(frozen=True)
class Finding:
    """
    What a check found.

    :param found: in words and numbers
    :param expected: what would have been right
    :param passed: whether it was
    """

    found: str
    expected: str
    passed: bool


class SameRollout(BaseCallback):
    """
    Keeps the rollout of one model and puts it in the place of another's, with the same stream of permutations behind it.

    :param rollout: columns of the buffer to put in, or None to keep them
    """

    def __init__(self, rollout: dict[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.rollout = rollout

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        if self.rollout is None:
            self.rollout = {name: getattr(buffer, name).copy() for name in COLUMNS}
        for name, column in self.rollout.items():
            setattr(buffer, name, column.copy())
        np.random.seed(1)

    def _on_step(self) -> bool:
        return True


def parameters(model: Any) -> th.Tensor:
    """Take a model's parameters, in float64 on the CPU."""
    return th.cat([parameter.detach().reshape(-1).cpu().double() for parameter in model.policy.parameters()])


def logged(model: Any) -> dict[str, float]:
    """Take what the last update logged, without what SB3 does not log."""
    names = ("approx_kl", "clip_fraction", "loss", "value_loss", "entropy_loss", "policy_gradient_loss")
    return {name: float(model.logger.name_to_value[f"train/{name}"]) for name in names}


def apart(one: Any, other: Any, start: th.Tensor) -> float:
    """Say how far two models have come apart, as a share of the way that the first has gone from the start."""
    end = parameters(one)
    return float((parameters(other) - end).norm() / (end - start).norm())


# -- the checks ----------------------------------------------------------------------------------------------------------


def one_update(case: Case, device: str) -> Finding:
    """Make the same update on the CPU and on the device."""
    first, second = case.build(EduPPO, "cpu"), case.build(EduPPO, device)
    second.policy.load_state_dict(first.policy.state_dict())
    start, callback = parameters(first), SameRollout()
    first.learn(256, callback=callback)
    second.learn(256, callback=SameRollout(callback.rollout))
    places = {parameter.device.type for parameter in second.policy.parameters()}
    distance = apart(first, second, start)
    logs = logged(first)
    differences = {name: abs(value - logs[name]) / max(1.0, abs(logs[name])) for name, value in logged(second).items()}
    worst = max(differences, key=differences.__getitem__)
    found = f"{distance:.1e} of the way apart on {', '.join(places)}; {worst} by {differences[worst]:.1e}"
    passed = max(distance, differences[worst]) < NEAR and places == {th.device(device).type}
    return Finding(found, f"below {NEAR}", passed)


def sb3s_bits(case: Case, device: str) -> Finding:
    """Train beside SB3's PPO on the device."""
    models = [case.build(kind, device) for kind in (PPO, EduPPO)]
    for model in models:
        th.manual_seed(1)
        np.random.seed(1)
        model.learn(512)
    theirs, ours = (parameters(model) for model in models)
    difference = float((theirs - ours).abs().max())
    same = bool(th.equal(theirs, ours)) and logged(models[0]) == logged(models[1])
    return Finding(f"parameters differ by {difference:.1e}, logs {'do not' if same else 'may'}", "the same bits", same)


def save_and_load(case: Case, device: str, folder: Path) -> Finding:
    """Save on the device, load there and on the CPU, predict, and train on."""
    model = case.build(EduPPO, device)
    model.learn(256)
    model.save(folder / "model.zip")
    observations = model.env.reset()
    there = EduPPO.load(folder / "model.zip", env=model.env, device=device)
    here = EduPPO.load(folder / "model.zip", device="cpu")
    actions, again, elsewhere = (one.predict(observations, deterministic=True)[0] for one in (model, there, here))
    far = float(np.abs(actions.astype(float) - elsewhere).max())
    same = bool(th.equal(parameters(model), parameters(there))) and np.array_equal(actions, again)
    there.learn(256, reset_num_timesteps=False)
    trained = bool(th.isfinite(parameters(there)).all()) and not th.equal(parameters(model), parameters(there))
    found = f"loaded {'the same' if same else 'something else'}; on the CPU actions differ by {far:.1e}; trained on: {trained}"
    return Finding(found, "the same; below 1e-4; True", same and far < 1e-4 and trained)


def exact_resume(case: Case, device: str, folder: Path) -> Finding:
    """Go on from a checkpoint in the middle of a rollout, beside the training that made it."""
    steps, freq = 768, 300
    model = case.build(EduPPO, device)
    model.learn(steps, callback=ExactCheckpoint(freq, folder / "checkpoints", keep=9))
    checkpoints = sorted((folder / "checkpoints").glob("*.zip"))
    th.rand(7, device=device)  # the random streams have gone on since
    resumed = EduPPO.resume(checkpoints[0], case.environments(), device=device)
    begun = resumed.num_timesteps
    resumed.learn(steps, callback=ExactCheckpoint(freq, folder / "checkpoints", keep=9))
    difference = float((parameters(model) - parameters(resumed)).abs().max())
    same = begun < steps == resumed.num_timesteps and difference == 0.0 and logged(model) == logged(resumed)
    return Finding(f"from step {begun} to {resumed.num_timesteps}: parameters differ by {difference:.1e}", "0", same)


def data_parallel(case: Case, device: str) -> Finding:
    """Train in a group of one process, beside training alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = dict(os.environ)
    alone, grouped = case.build(EduPPO, device), case.build(EduPPO, device)
    start, callback = parameters(alone), SameRollout()
    alone.learn(256, callback=callback)
    os.environ.update(variables)
    try:
        group = join()
        try:
            # What a tensor on this device goes through.
            backends = dict(part.split(":") for part in dist.get_backend_config().split(",") if ":" in part)
            backend = backends.get(th.device(device).type, dist.get_backend())
            grouped.learn(256, callback=DataParallel(group, [SameRollout(callback.rollout)]))
        finally:
            leave()
    finally:
        os.environ.clear()
        os.environ.update(before)
    distance = apart(alone, grouped, start)
    expected = "nccl" if th.device(device).type == "cuda" else "gloo"
    return Finding(
        f"{backend}; {distance:.1e} of the way apart", f"{expected}; below {NEAR}", distance < NEAR and backend == expected
    )


def seconds_per_minibatch(rows: int, device: str, repeats: int, judged: bool) -> Finding:
    """Time updates of SB3's and ours in turn, on a rollout of at least four minibatches."""
    transitions = max(4 * rows, 1024) if rows < 10_000 else rows
    n_envs = 16
    settings: dict[str, Any] = {"n_steps": transitions // n_envs, "batch_size": rows, "n_epochs": 4, "learning_rate": 1e-6}
    models = [CARTPOLE.build(kind, device, env=CARTPOLE.environments(n_envs), **settings) for kind in (PPO, EduPPO)]
    for model in models:
        model.learn(transitions)
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for model, found in zip(models, times, strict=True):
            synchronize(device)
            begin = time.perf_counter()
            model.train()
            synchronize(device)
            found.append((time.perf_counter() - begin) / (4 * transitions // rows))
    theirs, ours = (statistics.median(found) for found in times)
    ratio = statistics.median(one / other for one, other in zip(*times, strict=True))
    text = f"{1e3 * ours:.2f} ms, SB3 {1e3 * theirs:.2f} ms: {ratio:.2f} times as fast"
    return Finding(text, f"at least {SLOWER}" if judged else "not judged", not judged or ratio >= SLOWER)


def synchronize(device: str) -> None:
    """Wait until the device has done what it was asked to do."""
    if th.device(device).type == "cuda":
        th.cuda.synchronize(device)


def checks(device: str, quick: bool, folder: Path) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """
    List the checks.

    :param device: to check
    :param quick: only what must be tried of the script itself
    :param folder: for files
    :return: names and what to call
    """
    for case in CASES:
        yield f"one update, {case.name}", lambda case=case: one_update(case, device)  # type: ignore[misc]
    for case in (CARTPOLE, CNN):
        yield f"SB3's bits, {case.name}", lambda case=case: sb3s_bits(case, device)  # type: ignore[misc]
    for case in (PENDULUM,) if quick else CASES:
        for name, check in (("save and load", save_and_load), ("exact resume", exact_resume)):
            (own := folder / f"{name} {case.env}").mkdir()
            yield f"{name}, {case.name}", lambda check=check, case=case, own=own: check(case, device, own)  # type: ignore[misc]
    yield "data-parallel, CartPole", lambda: data_parallel(CARTPOLE, device)
    for rows in (64,) if quick else (64, 1_024, 16_384):
        name = f"seconds per minibatch, {rows:,} rows"
        yield name, lambda rows=rows: seconds_per_minibatch(rows, device, 3 if quick else 15, not quick)  # type: ignore[misc]


def why_skipped(device: str) -> str | None:
    """Say why there is nothing to check, if so."""
    if th.device(device).type != "cuda" or th.cuda.is_available():
        return None
    if th.version.cuda is None:
        return f"torch {th.__version__} is built without CUDA: on a machine with a GPU, install a build with it"
    return f"torch {th.__version__} is built for CUDA {th.version.cuda}, but finds no device: see nvidia-smi"


def main() -> int:
    """
    Check, and print a table.

    :return: 0 if all is well or there is no device, else 1
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="what to check; cpu tries the script itself (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer cases, and times are not judged")
    given = parser.parse_args()
    reason = why_skipped(given.device)
    if reason is not None:
        print(f"gpu_check: skipped: {reason}. `--device cpu` tries the script without one.")
        return 0
    warnings.filterwarnings("ignore", "You are trying to run PPO on the GPU")
    # What else would round the comparisons: convolutions in TF32, or by whichever algorithm is the fastest today.
    th.backends.cudnn.allow_tf32 = False
    th.backends.cudnn.deterministic = True
    what = th.cuda.get_device_name(given.device) if th.device(given.device).type == "cuda" else given.device
    print(f"gpu_check on {what}, torch {th.__version__}, {th.get_num_threads()} threads\n")
    print(f"{'check':36s} {'verdict':8s} {'s':>5s}  found (expected)")
    failed, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name, check in checks(given.device, given.quick, Path(folder)):
            begin = time.monotonic()
            try:
                finding = check()
            except Exception as error:  # the other checks still have something to say
                traceback.print_exc()
                finding = Finding(
                    f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", "no error", False
                )
            verdict = "passed" if finding.passed else "FAILED"
            seconds = time.monotonic() - begin
            print(f"{name:36s} {verdict:8s} {seconds:5.1f}  {finding.found} ({finding.expected})", flush=True)
            failed += [name] * (not finding.passed)
    print(f"\n{time.monotonic() - start:.0f} s; " + (f"{len(failed)} failed: {'; '.join(failed)}" if failed else "all passed"))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
