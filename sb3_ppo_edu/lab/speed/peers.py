"""
Other implementations of PPO than SB3's, as their users run them.

SBX is a package. CleanRL is a script, run from a checkout of https://github.com/vwxyzjn/cleanrl, whose folder the environment
variable ``CLEANRL`` names; it needs the package ``tyro``.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata, util
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from sb3_ppo_edu.envs.backends import ONE_BY_ONE
from sb3_ppo_edu.functional.schedules import read
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, Case
from sb3_ppo_edu.lab.speed.watches import Reading, read_clocks, replaced

COMPILING = "/jax/core/compile/"
"""Beginning of the names under which JAX reports what its compiler takes."""

CLEANRL = "CLEANRL"
"""Environment variable with the folder of CleanRL's checkout."""


def why_missing(algorithm: str) -> str | None:
    """
    Find out what keeps an algorithm from being measured here.

    :param algorithm: key of ``ALGORITHMS``
    :return: what is missing, and where it comes from; None if nothing is
    """
    if algorithm in ("sbx", "sbx-warm") and util.find_spec("sbx") is None:
        return "SBX is not installed; its extra brings it: pip install 'sb3-ppo-edu[peers]'"
    if algorithm == "cleanrl":
        if not script("ppo").is_file():
            return f"there is no {script('ppo')}; let the variable {CLEANRL} name a checkout of CleanRL"
        if util.find_spec("tyro") is None:
            return "CleanRL's scripts need tyro: pip install tyro"
    backend = ALGORITHMS[algorithm].backend
    if backend is not None and backend not in ONE_BY_ONE:
        return f"there is no backend {backend!r}"
    if backend is not None and (os.cpu_count() or 1) < 2:
        return "this machine has one core"
    return None


def versions_of(algorithm: str) -> str:
    """
    Name the versions that an algorithm depends on beside ours.

    :param algorithm: key of ``ALGORITHMS``
    :return: such as ", jax 1.0"; empty if there are none
    """
    if algorithm in ("sbx", "sbx-warm"):
        return "".join(f", {name} {metadata.version(name)}" for name in ("sbx-rl", "jax"))
    if algorithm == "cleanrl":
        return f", CleanRL's ppo.py {hashlib.sha256(script('ppo').read_bytes()).hexdigest()[:12]}"
    return ""


# -- SBX -----------------------------------------------------------------------------------------------------------------


def make_sbx(*args: Any, **kwargs: Any) -> Any:
    """
    Build SBX's PPO.

    :param args: as SB3's PPO has them
    :param kwargs: the same
    :return: the model
    """
    return importlib.import_module("sbx").PPO(*args, **kwargs)


def listen_to_compiler(seconds: list[float]) -> None:
    """
    Have JAX report what its compiler takes.

    :param seconds: where each duration is appended
    """

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.startswith(COMPILING):
            seconds.append(duration)

    importlib.import_module("jax.monitoring").register_event_duration_secs_listener(listen)


# -- CleanRL -------------------------------------------------------------------------------------------------------------


def script(name: str) -> Path:
    """
    Find one of CleanRL's scripts.

    :param name: "ppo" or "ppo_continuous_action"
    :return: its path, whether or not it is there
    """
    return Path(os.environ.get(CLEANRL, "cleanrl"), "cleanrl", f"{name}.py").resolve()


def run_cleanrl(case: Case, seed: int) -> tuple[Reading, Reading]:
    """
    Run CleanRL's script for a training's actions.

    :param case: the training; its value loss is not clipped, as SB3's, its clip range is constant
    :param seed: of the training
    :return: the clocks at the first reset and when the environments are closed, between which the script trains
    """
    env = gym.make(case.env_id)
    path = script("ppo" if isinstance(env.action_space, spaces.Discrete) else "ppo_continuous_action")
    env.close()
    readings: list[Reading] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            readings.append(read_clocks())
            return function(*args, **kwargs)

        return noted

    def of_same_space(wrapper: Any) -> Callable[..., Any]:
        """CleanRL was written for a Gymnasium whose wrapper did not ask for the space of what it gives."""
        return lambda env, function: wrapper(env, function, env.observation_space)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.callback(os.chdir, os.getcwd())
        os.chdir(folder)  # it writes its logs where it is
        stack.enter_context(replaced(sys, "argv", lambda _: [str(path), *cleanrl_flags(case, seed)]))
        stack.enter_context(replaced(gym.wrappers, "TransformObservation", of_same_space))
        for name in ("reset", "close"):
            stack.enter_context(replaced(gym.vector.SyncVectorEnv, name, noting))
        runpy.run_path(str(path), run_name="__main__")
    return readings[0], readings[-1]


def cleanrl_flags(case: Case, seed: int) -> list[str]:
    """
    Give a training's settings in the words of CleanRL's scripts.

    :param case: the training
    :param seed: of the training
    :return: flags
    :raises ValueError: for a learning rate that is neither constant nor a line to 0, which these scripts don't have
    """
    given = {"batch_size": 64, "learning_rate": 3e-4, "clip_range": 0.2, "n_epochs": 10, "ent_coef": 0.0, **case.arguments}
    starts = {
        name: read(given[name]).start if isinstance(given[name], str) else given[name]
        for name in ("learning_rate", "clip_range")
    }
    rate = given["learning_rate"]
    if isinstance(rate, str) and (read(rate)[:2] != (0.0, "lin") or any(read(rate).numbers[1:])):
        raise ValueError(f"learning_rate={rate!r}: expected a number, or a line to 0 such as 'lin_0.001', as CleanRL has them")
    flags = {
        "env-id": case.env_id,
        "seed": seed,
        "total-timesteps": case.steps,
        "num-envs": case.n_envs,
        "num-steps": case.n_steps,
        "num-minibatches": case.n_steps * case.n_envs // given["batch_size"],
        "update-epochs": given["n_epochs"],
        "learning-rate": starts["learning_rate"],
        "clip-coef": starts["clip_range"],
        "gamma": given.get("gamma", 0.99),
        "gae-lambda": given.get("gae_lambda", 0.95),
        "ent-coef": given["ent_coef"],
    }
    anneal = "--anneal-lr" if isinstance(rate, str) else "--no-anneal-lr"
    return [*(f"--{name}={value}" for name, value in flags.items()), anneal, "--no-clip-vloss", "--no-cuda"]
