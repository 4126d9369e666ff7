"""From a checkpoint to a model that goes on."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor

from sb3_ppo_edu.algorithms.attributes import check_attributes
from sb3_ppo_edu.algorithms.saving import StatisticsWarning
from sb3_ppo_edu.checkpoint import files
from sb3_ppo_edu.checkpoint.confinement import confined
from sb3_ppo_edu.checkpoint.environments import Resumable, restore_vec_env
from sb3_ppo_edu.checkpoint.files import MODEL, STATE, CheckpointError
from sb3_ppo_edu.checkpoint.logs import reopen_logger
from sb3_ppo_edu.checkpoint.plain import unpack
from sb3_ppo_edu.checkpoint.resumption import Resumption
from sb3_ppo_edu.checkpoint.session import CheckpointSession
from sb3_ppo_edu.checkpoint.snapshot import arithmetic_of, restore_attributes
from sb3_ppo_edu.serialization.names import check_engine_kwargs
from sb3_ppo_edu.vec_env.curiosity import Curiosity
from sb3_ppo_edu.vec_env.guard import FiniteGuard
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from sb3_ppo_edu.vec_env.normalize import VecNormalize
from sb3_ppo_edu.vec_env.shared_memory import SharedMemoryVecEnv
from sb3_ppo_edu.vec_env.workers import WatchedSubprocVecEnv

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO

Model = TypeVar("Model", bound="EduPPO")


def _build_as(kind: Any, inner: VecEnv | Sequence[Callable[[], gym.Env]], attributes: dict[str, Any], *_: Any) -> VecEnv:
    """Build a vector environment with the arguments that the other had."""
    built: VecEnv = kind(inner, **{name: attributes[name] for name in kind.not_resumed})
    return built


BASES: dict[str, Any] = {
    "InProcessVecEnv": lambda env_fns, attributes: InProcessVecEnv(env_fns),
    "DummyVecEnv": lambda env_fns, attributes: DummyVecEnv(env_fns),
    "SubprocVecEnv": lambda env_fns, attributes: SubprocVecEnv(env_fns),
    "WatchedSubprocVecEnv": partial(_build_as, WatchedSubprocVecEnv),
    "SharedMemoryVecEnv": partial(_build_as, SharedMemoryVecEnv),
}
LAYERS: dict[str, Any] = {
    "Curiosity": partial(_build_as, Curiosity),
    "FiniteGuard": partial(_build_as, FiniteGuard),
    "VecNormalize": lambda env, attributes, parts: VecNormalize(env),
    "VecFrameStack": lambda env, attributes, parts: VecFrameStack(env, parts["stacked_obs/"]["n_stack"]),
    "VecMonitor": lambda env, attributes, parts: VecMonitor(env),
    # SB3 adds it by itself where it is needed.
    "VecTransposeImage": lambda env, attributes, parts: env,
}
"""Layers that can be built anew from what the checkpoint knows of them."""


def resume(
    cls: type[Model],
    path: str | Path,
    env: VecEnv | Sequence[Callable[[], gym.Env]],
    device: Any,
    trusted: bool = True,
    log_folder: str | Path | None = None,
    total_timesteps: int | None = None,
) -> Model:
    """
    Load a checkpoint, see :meth:`sb3_ppo_edu.EduPPO.resume`.

    :param path: a checkpoint, or a folder of them
    :param env: the vector environment, or functions that each make one environment
    :param trusted: whether what the constructor was given may be of any type, and the state may say where to write
    :param log_folder: where the log files are, if not where they were
    :param total_timesteps: steps that the interrupted ``learn`` shall do in all, if not those it was asked for
    """
    check_environments(env)
    found = files.latest_good(Path(path))
    for reason in found.skipped:
        warnings.warn(f"{reason}; going on from {found.path.name}", stacklevel=3)
    if set(found.members) != {STATE, MODEL}:
        raise CheckpointError(f"{found.path}: found {sorted(found.members)}, expected {STATE} and {MODEL}")
    state = read_state(found)
    if not trusted:
        state = confined(state, cls, str(found.path))
    with files.going_on_from(found.path):
        vec_env = env if isinstance(env, VecEnv) else build(env, state["env"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StatisticsWarning)  # the environments get theirs next
            model = cls.load(io.BytesIO(found.members[MODEL]), env=vec_env, device=device, force_reset=False, trusted=trusted)
        assert model.env is not None
        environments = restore_vec_env(model.env, state["env"])
        if total_timesteps is not None:
            set_goal(state["model"], total_timesteps)
        restore_attributes(model, state)
        if not trusted:
            check_attributes(model)
        # learn restores them again, but whoever asks before, or saves where learn fails, has the trained policy already.
        model.set_parameters(state["parameters"], exact_match=True)
    if not trusted:
        check_engine_kwargs(model.engine_kwargs, str(found.path))
    before = state["logger"]["folder"]
    if not trusted and log_folder is None and before is not None:
        warnings.warn(f"{found.path}: it says where its logs are; without log_folder= they do not go on", stacklevel=3)
        state["logger"]["folder"] = None
    if log_folder is not None and before is not None:
        state["callbacks"] = moved(state["callbacks"], before, str(log_folder))
        state["env"] = moved(state["env"], before, str(log_folder))
        state["logger"]["folder"] = str(log_folder)
    logger = reopen_logger(state["logger"])
    if logger is not None:
        model.set_logger(logger)
    model.resumed_envs = environments
    now = arithmetic_of(model)
    before = state.get("arithmetic", now if now == "autograd" else "an engine of version 0.1")
    if before != now:
        model.resumed_engine = (
            f"the checkpoint is of {before}, and {now} goes on: from here on its bits are others, by rounding"
        )
    model.session = CheckpointSession(resumption=Resumption(state, environments, found.path))
    return model


def read_state(found: files.Found) -> dict[str, Any]:
    """
    Read a training's state from its checkpoint.

    :param found: the checkpoint
    :raises CheckpointError: if it has none
    """
    try:
        state = unpack(found.members[STATE])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{found.path}: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{found.path}: found no state of a training ({type(state).__name__}): {files.EARLIER}")
    if not isinstance(state.get("settings"), dict | None):
        raise CheckpointError(f"{found.path}: found settings={str(state['settings'])[:50]!r} in it, expected a mapping")
    return state


def check_environments(env: Any) -> None:
    """
    Check that ``resume`` is given a vector environment or functions.

    :param env: as it is given
    :raises ValueError: if it is neither, such as a single environment
    """
    if isinstance(env, VecEnv) or (isinstance(env, Sequence) and env and all(callable(one) for one in env)):
        return
    kind = f"a {type(env).__name__}" if not isinstance(env, str) else repr(env)
    raise ValueError(
        f"resume: found {kind} for env, expected a function for each environment, as in "
        "[lambda: gymnasium.make('CartPole-v1')] * 4, or the VecEnv as it was built for the interrupted training"
    )


def set_goal(attributes: dict[str, Any], total_timesteps: int) -> None:
    """
    Let an interrupted ``learn`` go on to another number of steps than it was asked for.

    :param attributes: of the model, changed in place
    :param total_timesteps: of the whole ``learn``
    :raises CheckpointError: if as many are done already
    """
    begin, done = attributes["_num_timesteps_at_start"], attributes["num_timesteps"]
    goal = begin + total_timesteps
    if goal != attributes["_total_timesteps"] and goal <= done:
        raise CheckpointError(f"total_timesteps={total_timesteps}: expected more than the {done - begin} steps already done")
    attributes["_total_timesteps"] = goal


def moved(value: Any, before: str, now: str) -> Any:
    """
    Let paths into a run's folder lead into the folder where it is now, whoever keeps them.

    :param value: plain data
    :param before: the folder, as it was written
    :param now: where it is
    :return: the same with other paths; what leads elsewhere stays
    """
    if isinstance(value, str):
        inside = value == before or value.startswith((f"{before}/", f"{before}\\"))
        return now + value[len(before) :] if inside else value
    if isinstance(value, dict):
        return {key: moved(one, before, now) for key, one in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(moved(one, before, now) for one in value)
    return value


def build(env_fns: Sequence[Callable[[], gym.Env]], state: dict[str, Any]) -> VecEnv:
    """
    Build a vector environment with the layers that a checkpoint was made with.

    :param env_fns: functions that each make one environment; they are wrapped in ``Resumable`` if they were
    :param state: as :func:`sb3_ppo_edu.checkpoint.environments.capture_vec_env` gave it
    :return: the vector environment, not yet in that state
    :raises CheckpointError: if a layer is none of SB3's usual ones
    """
    *layers, (base, given, _) = state["layers"]
    for name in (base, *(layer[0] for layer in layers)):
        if name not in BASES and name not in LAYERS:
            raise CheckpointError(
                f"found {name} around the environments, which can't be built from functions: give the VecEnv"
            )
    first = state["envs"][0]
    recorded = first is not None and bool(first["wrappers"]) and first["wrappers"][0][0] == Resumable.__name__
    env: VecEnv = BASES[base]([resumable(one) for one in env_fns] if recorded else list(env_fns), given)
    for name, attributes, parts in reversed(layers):
        env = LAYERS[name](env, attributes, parts)
    return env


def resumable(make: Callable[[], gym.Env]) -> Callable[[], gym.Env]:
    """Wrap what a function makes in ``Resumable``, unless it is already."""

    def wrapped() -> gym.Env:
        env = make()
        return env if isinstance(env, Resumable) else Resumable(env)

    return wrapped
