"""Measurements of whole trainings, each in the process that calls: their time and memory, where it goes, and their floor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import util
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from stable_baselines3.common.vec_env import VecNormalize as SB3sVecNormalize

import sb3_ppo_edu.algorithms.ppo
from sb3_ppo_edu.algorithms.arguments import parse_schedule
from sb3_ppo_edu.algorithms.maskable import MaskableEduPPO
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.algorithms.recurrent import RecurrentEduPPO
from sb3_ppo_edu.engines import FusedEngine
from sb3_ppo_edu.envs.backends import ONE_BY_ONE, gymnasium_native
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, PEERS, STANDARD_CASES, Algorithm, Case
from sb3_ppo_edu.lab.speed.floor import prepare_products
from sb3_ppo_edu.lab.speed.peers import listen_to_compiler, make_sbx, run_cleanrl
from sb3_ppo_edu.lab.speed.summary import WITHOUT_STOPWATCHES
from sb3_ppo_edu.lab.speed.watches import Stopwatch, memory_mib, read_clocks, replaced
from sb3_ppo_edu.vec_env import InProcessVecEnv, VecNormalize


class InParts(gym.ObservationWrapper):
    """
    Observations in two parts, a dictionary.

    :param env: an environment whose observations are vectors
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self._half = space.shape[0] // 2
        halves = {"first": slice(self._half), "second": slice(self._half, None)}
        self.observation_space = spaces.Dict(
            {key: spaces.Box(space.low[part], space.high[part], dtype=np.float32) for key, part in halves.items()}
        )

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """
        Cut an observation in two.

        :param observation: a vector
        :return: its halves
        """
        return {"first": observation[: self._half], "second": observation[self._half :]}


class AllLegal(gym.Wrapper):
    """
    Masks that forbid nothing.

    :param env: an environment with discrete actions
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, spaces.Discrete)
        self._masks = np.ones(env.action_space.n, bool)

    def action_masks(self) -> np.ndarray:
        """
        Tell which actions are legal.

        :return: one True for each
        """
        return self._masks


def make_env(case: Case, algorithm: Algorithm, seed: int) -> VecEnv:
    """
    Build the training environments.

    :param case: the training
    :param algorithm: who trains
    :param seed: seed of the first environment
    :return: the environments, just reset by nobody
    """
    keeps_render_mode = case.as_users_run_it and algorithm.engine is None
    env: VecEnv
    if case.native and algorithm.in_process:
        env = VecMonitor(gymnasium_native(case.env_id, case.n_envs, seed, {}))
    else:
        kind: Any = InProcessVecEnv if algorithm.in_process else DummyVecEnv
        env = make_vec_env(
            case.env_id,
            case.n_envs,
            seed=seed,
            env_kwargs=None if keeps_render_mode else {"render_mode": None},
            wrapper_class=InParts if case.parts else AllLegal if case.masks else None,
            vec_env_cls=kind if algorithm.backend is None else ONE_BY_ONE[algorithm.backend],  # type: ignore[arg-type]
        )
    normalized = SB3sVecNormalize if algorithm.engine is None else VecNormalize
    return normalized(env, gamma=case.arguments["gamma"]) if case.normalize else env


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
        ours: Any = MaskableEduPPO if case.masks else RecurrentEduPPO if case.memory else EduPPO
        return ours(case.policy, env, engine=algorithm.engine, **arguments)
    theirs: Any = MaskablePPO if case.masks else RecurrentPPO if case.memory else PPO
    made = theirs if algorithm is ALGORITHMS["sb3"] else make_sbx
    return made(case.policy, env, **arguments)


def why_not(case: Case, algorithm: Algorithm) -> str | None:
    """
    Find out what keeps an algorithm from a training.

    :param case: the training
    :param algorithm: who trains
    :return: what is missing, or why it can't; None if nothing does
    """
    if case.env_id.startswith("Humanoid") and util.find_spec("mujoco") is None:
        return "MuJoCo is not installed; its extra brings it: pip install 'sb3-ppo-edu[mujoco]'"
    if algorithm in (ALGORITHMS[name] for name in PEERS) and not case.standard:
        return f"it takes part in {', '.join(STANDARD_CASES)}"
    if algorithm.engine is not None and (case.parts or case.arguments.get("use_sde")):
        reason: str = make_model(case, algorithm, 0).engine_reason
        return reason if reason.startswith("none") else None
    return None


def measure_end_to_end(case: Case, algorithm: Algorithm, seed: int) -> list[dict[str, Any]]:
    """
    Train once, without warm-up, unless the algorithm is one that has compiled before.

    :param case: the training
    :param algorithm: who trains
    :param seed: of the training
    :return: one row for ``end_to_end.csv``, without its names and conditions
    """
    compilations: list[float] = []
    steps = case.steps
    if algorithm is ALGORITHMS["cleanrl"]:
        start, end = run_cleanrl(case, seed)
    else:
        model = make_model(case, algorithm, seed)
        if algorithm is ALGORITHMS["sbx-warm"]:
            model.learn(case.n_steps * case.n_envs)
        if algorithm in (ALGORITHMS["sbx"], ALGORITHMS["sbx-warm"]):
            listen_to_compiler(compilations)
        start = read_clocks()
        model.learn(steps)
        end, steps = read_clocks(), model.num_timesteps
        model.env.close()
    row = {
        "steps": steps,
        "wall_seconds": round(end.wall - start.wall, 4),
        "cpu_seconds": round(end.cpu - start.cpu, 4),
        "compile_seconds": round(math.fsum(compilations), 4),
        "memory_before_mib": round(start.memory_mib, 1),
        "memory_peak_mib": round(memory_mib(peak=True), 1),
    }
    return [row]


Place = tuple[Any, str, Callable[[Stopwatch], Callable[[Any], Any]]]
"""An object or module, the name of its function, and which of a stopwatch's methods to put around it."""


def places_of_parts(model: Any) -> dict[str, Place]:
    """
    Find the functions in which the parts of a training happen.

    :param model: one of our algorithms, or one of SB3's, sb3-contrib's or SBX's
    :return: for each part where it happens
    """
    calls = Stopwatch.around.__get__
    acting: Place = (model.policy, "forward" if isinstance(model, PPO | MaskablePPO | RecurrentPPO) else "predict_all", calls)
    advantages: Place = (model.rollout_buffer, "compute_returns_and_advantage", calls)
    if isinstance(model, EduPPO):
        engine = model.attach_engine()
        advantages = (sb3_ppo_edu.algorithms.ppo, "compute_returns_and_advantage", calls)
        acting = (engine, "act", calls)
        if isinstance(engine, FusedEngine) and engine.acting_in(model.rollout_buffer) is not None:
            # The lean loop asks for a function that acts, and would not be taken with another `act`.
            acting = (engine, "acting_in", Stopwatch.around_what_it_gives.__get__)
    return {
        "environment": (model.env, "step", calls),
        "update": (model, "train", calls),
        "acting": acting,
        "advantages": advantages,
    }


def measure_split(case: Case, algorithm: Algorithm, seed: int) -> list[dict[str, Any]]:
    """
    Train once with stopwatches around the parts; for the kernels also train without, and measure the floor of this training.

    :param case: the training
    :param algorithm: who trains
    :param seed: of the training
    :return: rows for ``split.csv``, without names and conditions but for the floor's ``algorithm``
    """
    with_floor = algorithm is ALGORITHMS["fused"]
    rows: list[dict[str, Any]] = []
    if with_floor:
        rows.append({"part": WITHOUT_STOPWATCHES, "seconds": time_training(make_model(case, algorithm, seed), case)})
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
        for part, (holder, name, method) in parts.items():
            stack.enter_context(replaced(holder, name, method(watches[part])))
        if with_floor:
            stack.enter_context(replaced(model.env, "step", recording))
        total = time_training(model, case)
    seconds = {part: watch.seconds for part, watch in watches.items()}
    seconds["rest"] = total - sum(seconds.values())
    rows += [{"part": part, "seconds": spent} for part, spent in seconds.items()]
    if with_floor:
        floor = measure_floor(case, algorithm, seed, model, actions)
        rows += [{"algorithm": "floor", "part": part, "seconds": spent} for part, spent in floor.items()]
    return [{**row, "seconds": round(row["seconds"], 5)} for row in rows]


def time_training(model: Any, case: Case, **arguments: Any) -> float:
    """
    Train.

    :param model: the model
    :param case: the training
    :param arguments: further arguments of ``learn``
    :return: seconds of ``learn``
    """
    start = time.perf_counter()
    model.learn(case.steps, **arguments)
    return time.perf_counter() - start


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
    bare = time_bare_environments(make_env(case, algorithm, seed), seed, actions)
    return {
        "environment": time_environments(make_env(case, algorithm, seed), seed, actions),
        **({} if bare is None else {"bare environment": bare}),
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


def time_bare_environments(env: VecEnv, seed: int, actions: Sequence[np.ndarray]) -> float | None:
    """
    Step environments with given actions, without the vector environment around them.

    :param env: fresh environments, normalised or not
    :param seed: seed of the first environment
    :param actions: one array for each step
    :return: seconds; None where there are no single environments
    """
    env.seed(seed)
    env.reset()
    inner = env.unwrapped
    if not isinstance(inner, DummyVecEnv):
        return None
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
