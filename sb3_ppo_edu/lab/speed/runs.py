"""Measurements of whole trainings, each in the process that calls: their time and memory, where it goes, and their floor."""

from __future__ import annotations

import importlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import sb3_ppo_edu.algorithms.ppo
from sb3_ppo_edu.algorithms.arguments import parse_schedule
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, Algorithm, Case
from sb3_ppo_edu.lab.speed.floor import prepare_products
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

COMPILING = "/jax/core/compile/"
"""Beginning of the names under which JAX reports what its compiler takes."""


def make_env(case: Case, algorithm: Algorithm, seed: int) -> VecEnv:
    """
    Build the training environments.

    :param case: the training
    :param algorithm: who trains
    :param seed: seed of the first environment
    :return: the environments, just reset by nobody
    """
    keeps_render_mode = case.as_users_run_it and algorithm.engine is None
    env: VecEnv = make_vec_env(
        case.env_id,
        case.n_envs,
        seed=seed,
        env_kwargs=None if keeps_render_mode else {"render_mode": None},
        vec_env_cls=InProcessVecEnv if algorithm.in_process else DummyVecEnv,
    )
    return VecNormalize(env, gamma=case.arguments["gamma"]) if case.normalize else env


def make_model(case: Case, algorithm: Algorithm, seed: int) -> Any:
    """
    Build the model that trains.

    :param case: the training
    :param algorithm: who trains
    :param seed: seed of weights, actions and environments
    :return: the model, with its environments
    """
    env = make_env(case, algorithm, seed)
    arguments: dict[str, Any] = {**case.arguments, "seed": seed, "device": "cpu"}
    for name in ("learning_rate", "clip_range"):
        if name in arguments:
            arguments[name] = parse_schedule(name, arguments[name])
    if algorithm.engine is not None:
        # A name from a table, whose type does not say that it is an engine's.
        return EduPPO("MlpPolicy", env, engine=algorithm.engine, **arguments)  # type: ignore[arg-type]
    if algorithm is ALGORITHMS["sbx"]:
        return importlib.import_module("sbx").PPO("MlpPolicy", env, **arguments)
    return PPO("MlpPolicy", env, **arguments)


def memory_mib(*, peak: bool) -> float:
    """
    Find out how much memory this process has.

    :param peak: the largest so far instead of the present
    :return: resident memory in MiB; where the system doesn't tell the present one, the largest so far
    """
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux it begins with what the parent had when it started this process.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return float(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
    in_bytes = sys.platform == "darwin"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if in_bytes else 1024)


def measure_end_to_end(case: Case, algorithm: Algorithm, seed: int) -> list[dict[str, Any]]:
    """
    Train once, without warm-up.

    :param case: the training
    :param algorithm: who trains
    :param seed: of the training
    :return: one row for ``end_to_end.csv``, without its names and conditions
    """
    model = make_model(case, algorithm, seed)
    compilations: list[float] = []
    if algorithm is ALGORITHMS["sbx"]:
        listen_to_compiler(compilations)
    before = memory_mib(peak=False)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(case.steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    row = {
        "steps": model.num_timesteps,
        "wall_seconds": round(wall, 4),
        "cpu_seconds": round(cpu, 4),
        "compile_seconds": round(math.fsum(compilations), 4),
        "memory_before_mib": round(before, 1),
        "memory_peak_mib": round(memory_mib(peak=True), 1),
    }
    return [row]


def listen_to_compiler(seconds: list[float]) -> None:
    """
    Have JAX report what its compiler takes.

    :param seconds: where each duration is appended
    """

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith(COMPILING):
            seconds.append(duration)

    importlib.import_module("jax.monitoring").register_event_duration_secs_listener(listen)


class Stopwatch:
    """Adds up the time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        Time each call of a function.

        :param function: the function
        :return: a function that does the same
        """

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


@contextmanager
def replaced(holder: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """
    Wrap an attribute for a while.

    :param holder: an object or module
    :param name: name of its attribute
    :param wrap: gives the wrapped attribute
    """
    own = name in vars(holder)
    before = getattr(holder, name)
    setattr(holder, name, wrap(before))
    try:
        yield
    finally:
        if own:
            setattr(holder, name, before)
        else:
            delattr(holder, name)


def places_of_parts(model: Any) -> dict[str, tuple[Any, str]]:
    """
    Find the functions in which the parts of a training happen.

    :param model: EduPPO, or SB3's or SBX's PPO
    :return: for each part the object or module and the name of its function
    """
    parts = {"environment": (model.env, "step"), "update": (model, "train")}
    if isinstance(model, EduPPO):
        acting = (model.attach_engine(), "act")
        advantages = (sb3_ppo_edu.algorithms.ppo, "compute_returns_and_advantage")
    else:
        acting = (model.policy, "forward" if isinstance(model, PPO) else "predict_all")
        advantages = (model.rollout_buffer, "compute_returns_and_advantage")
    return {**parts, "acting": acting, "advantages": advantages}


def measure_split(case: Case, algorithm: Algorithm, seed: int) -> list[dict[str, Any]]:
    """
    Train once with stopwatches around the parts; for the fused engine also measure the floor of this very training.

    :param case: the training
    :param algorithm: who trains
    :param seed: of the training
    :return: rows for ``split.csv``, without names and conditions but for the floor's ``algorithm``
    """
    model = make_model(case, algorithm, seed)
    parts = places_of_parts(model)
    watches = {part: Stopwatch() for part in parts}
    actions: list[np.ndarray] = []

    def recording(step: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        def recorded(taken: np.ndarray) -> Any:
            actions.append(taken.copy())
            return step(taken)

        return recorded

    with ExitStack() as stack:
        for part, (holder, name) in parts.items():
            stack.enter_context(replaced(holder, name, watches[part].around))
        stack.enter_context(replaced(model.env, "step", recording))
        start = time.perf_counter()
        model.learn(case.steps)
        total = time.perf_counter() - start
    seconds = {part: watch.seconds for part, watch in watches.items()}
    seconds["rest"] = total - sum(seconds.values())
    rows: list[dict[str, Any]] = [{"part": part, "seconds": round(spent, 5)} for part, spent in seconds.items()]
    if algorithm is ALGORITHMS["fused"]:
        floor = measure_floor(case, algorithm, seed, model, actions)
        rows += [{"algorithm": "floor", "part": part, "seconds": round(spent, 5)} for part, spent in floor.items()]
    return rows


def measure_floor(
    case: Case, algorithm: Algorithm, seed: int, model: OnPolicyAlgorithm, actions: Sequence[np.ndarray]
) -> dict[str, float]:
    """
    Measure what the work of a training takes at least.

    :param case: the training
    :param algorithm: who trained
    :param seed: of the training
    :param model: the trained model
    :param actions: what its environments were given, one array for each step
    :return: seconds of each part
    """
    return {
        "environment": time_environments(make_env(case, algorithm, seed), seed, actions),
        "bare environment": time_bare_environments(make_env(case, algorithm, seed), seed, actions),
        "acting": time_passes(model, case.n_envs, len(actions), backward=False),
        "update": time_updates(model, case),
    }


def time_environments(env: VecEnv, seed: int, actions: Sequence[np.ndarray]) -> float:
    """
    Step environments with given actions and do nothing else.

    :param env: fresh environments
    :param seed: seed of the first environment
    :param actions: one array for each step
    :return: seconds
    """
    env.seed(seed)
    env.reset()
    start = time.perf_counter()
    for taken in actions:
        env.step(taken)
    return time.perf_counter() - start


def time_bare_environments(env: VecEnv, seed: int, actions: Sequence[np.ndarray]) -> float:
    """
    Step environments with given actions, without the vector environment around them.

    :param env: fresh environments in a ``DummyVecEnv``, normalised or not
    :param seed: seed of the first environment
    :param actions: one array for each step
    :return: seconds
    """
    env.seed(seed)
    env.reset()
    inner = env.unwrapped
    assert isinstance(inner, DummyVecEnv)
    singles = inner.envs
    start = time.perf_counter()
    for taken in actions:
        for single, action in zip(singles, taken, strict=True):
            _, _, terminated, truncated, _ = single.step(action)
            if terminated or truncated:
                single.reset()
    return time.perf_counter() - start


def time_updates(model: Any, case: Case) -> float:
    """
    Compute the matrix products of all updates of a training.

    :param model: the trained model
    :param case: the training
    :return: seconds
    """
    full, remainder = divmod(case.n_steps * case.n_envs, model.batch_size)
    epochs = model.n_epochs * case.rollouts
    seconds = time_passes(model, model.batch_size, full * epochs, backward=True)
    return seconds + (time_passes(model, remainder, epochs, backward=True) if remainder else 0.0)


def time_passes(model: OnPolicyAlgorithm, rows: int, times: int, *, backward: bool) -> float:
    """
    Compute the matrix products of passes through the policy.

    :param model: the model
    :param rows: rows of the batch
    :param times: number of passes
    :param backward: with those of the backward pass
    :return: seconds
    """
    compute = prepare_products(model.policy, rows, backward=backward)
    start = time.perf_counter()
    for _ in range(times):
        compute()
    return time.perf_counter() - start
