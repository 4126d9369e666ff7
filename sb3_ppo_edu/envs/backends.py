"""
Who steps the environments: in this process or in others, one by one or all at once.

Some backends step Gymnasium's own environments one by one, and so give the same episodes for the same seeds, whichever it is:
"dummy" and "gymnasium-sync" in this process, "workers" in this one and one for each further processor, "subproc" and
"gymnasium-async" in a process for each environment. The choice among them is one of speed only, and "auto" measures and
chooses. The others are written as a whole and have random numbers,
and sometimes physics, of their own, so that they are only taken by name: "gymnasium-native" (Gymnasium's vectorised CartPole)
and "envpool".
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu.vec_env.action_masks import METHOD, ask_masks, choices_of, legal_actions
from sb3_ppo_edu.vec_env.adapters import EnvList, EnvPoolAdapter, EnvProcesses, adapt
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError, explain
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from sb3_ppo_edu.vec_env.reachable import BoundedAsyncVectorEnv, Reachable
from sb3_ppo_edu.vec_env.shared_memory import SharedMemoryVecEnv
from sb3_ppo_edu.vec_env.workers import WatchedSubprocVecEnv, check_timeout, usual_start_method

EnvFns = list[Callable[[], gym.Env]]

AUTO = "auto"
WORKER_TIMEOUT = 60.0
"""Seconds that a worker has for an answer before it counts as hanging, if nobody says otherwise."""


def in_process(env_fns: EnvFns, timeout: float = WORKER_TIMEOUT) -> VecEnv:
    """Step environments in this process, where nobody can wait for them for a limited time."""
    return InProcessVecEnv(env_fns)


def gymnasium_sync(env_fns: EnvFns, timeout: float = WORKER_TIMEOUT) -> VecEnv:
    """Step environments in this process by Gymnasium's ``SyncVectorEnv``."""
    return EnvList(SyncVectorEnv(reachable(env_fns, None), autoreset_mode=AutoresetMode.SAME_STEP), None)


def gymnasium_async(env_fns: EnvFns, timeout: float = WORKER_TIMEOUT) -> VecEnv:
    """Step each environment in a process of its own by Gymnasium's ``AsyncVectorEnv``."""
    check_timeout(timeout)
    # A forked process would inherit this one's threads' locks without the threads.
    context, mode = usual_start_method(), AutoresetMode.SAME_STEP
    vector_env = BoundedAsyncVectorEnv(reachable(env_fns, os.getpid()), timeout, autoreset_mode=mode, context=context)
    return EnvProcesses(vector_env, None, reachable=True, timeout=timeout)


def reachable(env_fns: EnvFns, owner: int | None) -> EnvFns:
    """
    Wrap what functions make in ``Reachable``.

    :param env_fns: functions that each make one environment
    :param owner: see there
    """
    return [partial(_make_reachable, env_fn, index, owner) for index, env_fn in enumerate(env_fns)]


def _make_reachable(env_fn: Callable[[], gym.Env], index: int, owner: int | None) -> gym.Env:
    """Make an environment that can be reached by its index."""
    try:
        return Reachable(env_fn(), index, owner)
    except SystemExit as error:
        raise EnvironmentFaultError(index, 0, explain(error)) from error


ONE_BY_ONE: dict[str, Callable[..., VecEnv]] = {
    "dummy": in_process,
    "gymnasium-sync": gymnasium_sync,
    "workers": lambda env_fns, timeout=WORKER_TIMEOUT: SharedMemoryVecEnv(env_fns, timeout=timeout),
    "subproc": lambda env_fns, timeout=WORKER_TIMEOUT: WatchedSubprocVecEnv(env_fns, timeout=timeout),
    "gymnasium-async": gymnasium_async,
}
"""Backends that step Gymnasium's own environments, built from functions that each make one, and a timeout."""

PROCESSES = ("subproc", "gymnasium-async")
"""Those of them that step each environment in a process of its own."""


def gymnasium_native(env_id: str, n_envs: int, seed: int, kwargs: Mapping[str, Any]) -> VecEnv:
    """
    Build an environment that Gymnasium has in a vectorised form.

    :param env_id: Gymnasium id
    :param n_envs: how many
    :param seed: of all together: they share one generator
    :param kwargs: further arguments of the environment
    :raises ValueError: if there is no vectorised form, or it can't be adapted
    """
    spec = gym.spec(env_id)
    if spec.vector_entry_point is None:
        raise ValueError(f"{env_id}: Gymnasium has no vectorised form of it; expected another backend than 'gymnasium-native'")
    env = adapt(gym.make_vec(env_id, n_envs, vectorization_mode="vector_entry_point", **kwargs))
    env.seed(seed)
    return env


def envpool(env_id: str, n_envs: int, seed: int, kwargs: Mapping[str, Any]) -> VecEnv:
    """
    Build an EnvPool.

    :param env_id: its id there
    :param n_envs: how many
    :param seed: of the first; the others count up from it
    :param kwargs: further arguments of the environment
    :raises ValueError: if EnvPool is not installed or does not have the environment
    """
    if find_spec("envpool") is None:
        raise ValueError("backend 'envpool' needs EnvPool: pip install 'sb3-ppo-edu[envpool]'")
    import envpool as library

    if env_id not in library.list_all_envs():
        raise ValueError(f"{env_id}: EnvPool {library.__version__} does not have it; expected another backend than 'envpool'")
    # Threads beyond the processors only take them from each other.
    threads = min(n_envs, processors())

    def make(first: int) -> Any:
        return library.make(
            env_id, env_type="gymnasium", num_envs=n_envs, num_threads=threads, seed=first % 2**31, **dict(kwargs)
        )

    return EnvPoolAdapter(make, seed)


AS_A_WHOLE: dict[str, Callable[[str, int, int, Mapping[str, Any]], VecEnv]] = {
    "gymnasium-native": gymnasium_native,
    "envpool": envpool,
}
"""Backends that step all environments together, built by id."""

BACKENDS = (*ONE_BY_ONE, *AS_A_WHOLE)


# -- choosing ------------------------------------------------------------------------------------------------------------

MEASURED_SECONDS = 0.3
"""How long each candidate is measured."""
WORTH_IT = 1.1
"""How much faster than "dummy" a backend must be to be chosen: noise is not a reason."""
PASSING_SECONDS = {"workers": (20e-6, 1e-6), **dict.fromkeys(PROCESSES, (40e-6, 15e-6))}
"""What passing a step to processes and back takes at the very least, and what each environment adds. Where even free
environments could not make up for it, the processes are not started for a measurement."""


class Choice(NamedTuple):
    """
    Which backend, and why.

    :param backend: its name
    :param reason: in one sentence
    :param rates: environment steps a second of all that were measured
    """

    backend: str
    reason: str
    rates: dict[str, float]


def steps_per_second(env: VecEnv, seconds: float = MEASURED_SECONDS) -> float:
    """
    Measure how fast environments are stepped with random actions, and asked for masks where they have some.

    :param seconds: how long to measure
    :return: steps of single environments a second, from the median of the vector's steps
    """
    space = env.action_space
    masked = not isinstance(space, spaces.Box) and env.has_attr(METHOD)
    space.seed(0)
    actions = np.array([space.sample() for _ in range(env.num_envs)])
    env.reset()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(durations) < 20:
        start = time.perf_counter()
        if masked:
            masks = ask_masks(env)
            asked = time.perf_counter() - start
            actions = legal_actions(masks, choices_of(space), space.np_random.choice).reshape(actions.shape)
            start = time.perf_counter() - asked
        env.step(actions)
        durations.append(time.perf_counter() - start)
    # The first steps load and allocate.
    return env.num_envs / statistics.median(durations[len(durations) // 10 :])


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(build: Callable[[str], VecEnv], n_envs: int, candidates: Sequence[str] = tuple(ONE_BY_ONE)) -> Choice:
    """
    Measure the backends that give the same episodes, and choose the fastest.

    :param build: builds the environments, given a backend
    :param n_envs: how many environments it builds
    :param candidates: backends, the one to beat first
    """
    first, *others = candidates
    rates = {first: _rate(build, first)}
    step = n_envs / rates[first]
    best = {
        name: step / min(n_envs, processors()) + fixed + n_envs * for_each
        for name, (fixed, for_each) in PASSING_SECONDS.items()
    }
    hopeless = [name for name in others if best.get(name, 0.0) * WORTH_IT > step]
    for name in others:
        if name not in hopeless:
            rates[name] = _rate(build, name)
    fastest = max(rates, key=lambda name: rates[name])
    chosen = fastest if rates[fastest] > WORTH_IT * rates[first] else first
    measured = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    reason = f"{measured} environment steps a second"
    if hopeless:
        reason += f"; a step of all {n_envs} takes {step * 1e6:.0f} µs, too little for {', '.join(hopeless)} to pay"
    elif chosen == first and fastest != first:
        reason += f"; less than {WORTH_IT - 1:.0%} apart"
    return Choice(chosen, reason, rates)


def _rate(build: Callable[[str], VecEnv], name: str) -> float:
    """Build, measure and close."""
    env = build(name)
    try:
        return steps_per_second(env)
    finally:
        env.close()
