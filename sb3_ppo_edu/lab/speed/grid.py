"""
Measurements of single updates and of single steps of acting, over sizes of the network and of the batch.

The update is SB3's own ``train()`` and ours, on a rollout buffer of synthetic data that is exactly one minibatch: an epoch is
then an update. Acting is one call of the policy, or of the engine, on synthetic observations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.engines import PolicyInputs
from sb3_ppo_edu.engines.fused.library import VARIABLE, load_library
from sb3_ppo_edu.lab.speed.cases import Grid, rotated
from sb3_ppo_edu.lab.speed.floor import prepare_products

ENGINES = ("sb3", "autograd", "fused", "fused-v3")
"""SB3's PPO, and engines; the last are the kernels without AVX-512, where the processor has it."""

TIMED_SECONDS = 0.02
"""A measurement repeats the call until it takes at least about this long."""

FEWEST_REPEATS, MOST_REPEATS = 2, 9

POINT_SECONDS = 2.0
"""Time for a point of the grid; it gets as many repeats as fit, within the bounds above."""

STEP_SIZE = 1e-8
"""Learning rate. So small that thousands of updates leave the network, and so the work of the next update, as they are."""


class Spaces(gym.Env[np.ndarray, np.int64]):
    """LunarLander's spaces; nobody steps it."""

    observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = spaces.Discrete(4)


def make_model(engine: str, width: int, depth: int, batch_size: int) -> Any:
    """
    Build a model whose rollout buffer holds one minibatch of synthetic data.

    :param engine: of :data:`ENGINES`
    :param width: units of each hidden layer
    :param depth: hidden layers of each tower
    :param batch_size: rows of the minibatch
    :return: the model, ready for ``train()``
    """
    arguments: dict[str, Any] = {
        "n_steps": batch_size,
        "batch_size": batch_size,
        "learning_rate": STEP_SIZE,
        "policy_kwargs": {"net_arch": [width] * depth},
        "seed": 0,
        "device": "cpu",
    }
    env = DummyVecEnv([Spaces])
    model: Any = PPO("MlpPolicy", env, **arguments)
    name, _, level = engine.partition("-")
    if engine != "sb3":
        # A name from a table, whose type does not say that it is an engine's.
        model = EduPPO("MlpPolicy", env, engine=name, **arguments)  # type: ignore[arg-type]
    model.set_logger(configure(None, []))
    fill(model)
    if isinstance(model, EduPPO):
        with kernels_at(level):  # last, since an engine is chosen anew when somebody has used the policy's distribution
            model.attach_engine()
    return model


@contextmanager
def kernels_at(level: str) -> Iterator[None]:
    """
    Have engines that are built in the meantime take the kernels for an instruction set.

    :param level: such as "v3"; empty for those that are asked for anyway
    """
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = level or before
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


def engines_here() -> list[str]:
    """List those of :data:`ENGINES` that differ on this processor."""
    return list(ENGINES) if load_library().level == "v4" else [name for name in ENGINES if name != "fused-v3"]


def fill(model: Any) -> None:
    """
    Fill the rollout buffer with synthetic data of which the policy might have been the author.

    :param model: the model
    """
    buffer, generator = model.rollout_buffer, np.random.default_rng(0)
    buffer.reset()
    shape = (buffer.buffer_size, 1)
    observations = generator.standard_normal((*shape, 8), dtype=np.float32)
    actions = generator.integers(4, size=shape)
    with th.no_grad():
        values, log_probs, _ = model.policy.evaluate_actions(th.from_numpy(observations[:, 0]), th.from_numpy(actions[:, 0]))
    buffer.observations[:] = observations
    buffer.actions[:, 0] = actions
    buffer.values[:] = values.numpy()
    buffer.log_probs[:, 0] = log_probs.numpy()
    buffer.advantages = generator.standard_normal(shape, dtype=np.float32)
    buffer.returns = buffer.advantages + buffer.values
    buffer.pos, buffer.full = buffer.buffer_size, True


def update(model: Any, times: int) -> None:
    """
    Update a model.

    :param model: the model, its buffer filled
    :param times: number of updates
    """
    model.n_epochs = times
    model.train()


def acting(model: Any) -> Callable[[th.Tensor], Any]:
    """
    Find what a model calls to act.

    :param model: the model
    :return: a function of observations
    """
    if isinstance(model, EduPPO):
        engine = model.attach_engine()
        return lambda observations: engine.act(PolicyInputs(observations))
    model.policy.set_training_mode(False)
    forward: Callable[[th.Tensor], Any] = th.no_grad()(model.policy.forward)
    return forward


def repeatedly(function: Callable[[], Any], times: int) -> None:
    """
    Call a function.

    :param function: the function
    :param times: number of calls
    """
    for _ in range(times):
        function()


def time_alternating(works: dict[str, Callable[[int], None]]) -> dict[str, list[float]]:
    """
    Time different ways to do the same, in turn, so that a machine that slows down slows all of them.

    :param works: for each name a function that does the work a number of times
    :return: for each name the seconds that the work took once, in each repeat
    """
    times, spent = {}, 0.0
    for name, work in works.items():
        work(1)  # first calls allocate
        start = time.perf_counter()
        work(1)
        once = time.perf_counter() - start
        times[name] = max(round(TIMED_SECONDS / once), 1)
        spent += times[name] * once
    repeats = int(np.clip(POINT_SECONDS / spent, FEWEST_REPEATS, MOST_REPEATS))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name in rotated(list(works), repeat):
            start = time.perf_counter()
            works[name](times[name])
            seconds[name].append((time.perf_counter() - start) / times[name])
    return seconds


def measure_grid(grid: Grid, width: int, depth: int) -> list[dict[str, Any]]:
    """
    Measure all points of the grid that have one network.

    :param grid: the batch sizes and numbers of environments
    :param width: units of each hidden layer
    :param depth: hidden layers of each tower
    :return: rows for ``grid.csv``, without conditions
    """
    rows = []
    for batch_size in grid.batch_sizes:
        models = {engine: make_model(engine, width, depth, batch_size) for engine in engines_here()}
        works: dict[str, Callable[[int], None]] = {engine: partial(update, model) for engine, model in models.items()}
        works["floor"] = partial(repeatedly, prepare_products(models["sb3"].policy, batch_size, backward=True))
        rows += summarize("update", width, depth, batch_size, time_alternating(works))
    models = {engine: make_model(engine, width, depth, 2) for engine in engines_here()}
    for n_envs in grid.n_envs:
        observations = th.from_numpy(np.random.default_rng(0).standard_normal((n_envs, 8), dtype=np.float32))
        works = {engine: partial(repeatedly, partial(acting(model), observations)) for engine, model in models.items()}
        works["floor"] = partial(repeatedly, prepare_products(models["sb3"].policy, n_envs, backward=False))
        rows += summarize("acting", width, depth, n_envs, time_alternating(works))
    return rows


def summarize(kind: str, width: int, depth: int, rows: int, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """
    Turn the repeats of a point into rows.

    :param kind: "update" or "acting"
    :param width: units of each hidden layer
    :param depth: hidden layers of each tower
    :param rows: batch size or number of environments
    :param seconds: repeats for each engine
    :return: one row for each engine
    """
    return [
        {
            "kind": kind,
            "engine": engine,
            "width": width,
            "depth": depth,
            "rows": rows,
            "repeats": len(repeats),
            "microseconds": round(1e6 * float(np.median(repeats)), 2),
            "lowest": round(1e6 * min(repeats), 2),
            "highest": round(1e6 * max(repeats), 2),
        }
        for engine, repeats in seconds.items()
    ]
