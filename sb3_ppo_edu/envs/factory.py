"""
From settings in the zoo's form to vectorised environments, for training and for judging what was learned.

The order of wrappers is the zoo's: ``Monitor``, wrappers of the single environment, wrappers of the vectorised one,
normalisation, frame stacking, image transposition. ``Monitor`` comes first, so that the returns it reports are the
environment's own. ``FiniteGuard`` comes right before normalisation, whose moments one infinite value would spoil.
"""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecTransposeImage,
)

from sb3_ppo_edu.algorithms.checks import check_integer, refuse
from sb3_ppo_edu.envs import registration
from sb3_ppo_edu.envs.backends import AS_A_WHOLE, AUTO, BACKENDS, ONE_BY_ONE, WORKER_TIMEOUT, choose
from sb3_ppo_edu.envs.wrappers import ActionRepeat
from sb3_ppo_edu.serialization.names import check_environment_id, check_named, import_named
from sb3_ppo_edu.serialization.statistics import load_statistics
from sb3_ppo_edu.vec_env.curiosity import switched_off
from sb3_ppo_edu.vec_env.guard import FiniteGuard
from sb3_ppo_edu.vec_env.normalize import VecNormalize
from sb3_ppo_edu.vec_env.workers import check_timeout

MOST_FRAMES = 1000
"""Observations that can be stacked."""


@dataclass(frozen=True)
class EnvironmentSettings:
    """
    How an environment is built: what the zoo's YAML says about it.

    :param id: Gymnasium id, such as ``"LunarLander-v3"``
    :param kwargs: arguments for ``gymnasium.make``
    :param wrapper: wrapper(s) around each single environment, in the zoo's form: a dotted name, ``{name: kwargs}``, or a list
    :param vec_wrapper: the same for wrappers around the vectorised environment
    :param frame_stack: number of observations stacked, or ``None``
    :param monitor_kwargs: arguments for SB3's ``Monitor``
    :param normalize: arguments for SB3's ``VecNormalize``, or ``None`` for no normalisation
    :param backend: who steps the training environments, one of :data:`sb3_ppo_edu.envs.backends.BACKENDS`, or "auto" to
        measure a moment and take the fastest of those that give the same episodes
    :param worker_timeout: seconds that a process of the backend has for an answer before it counts as hanging
    :raises ValueError: for another backend, or one that can't do what the others ask for, and for values of another type
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrapper: Any = None
    vec_wrapper: Any = None
    frame_stack: int | None = None
    monitor_kwargs: dict[str, Any] = field(default_factory=dict)
    normalize: dict[str, Any] | None = None
    backend: str = "dummy"
    worker_timeout: float = WORKER_TIMEOUT

    def __post_init__(self) -> None:
        """Refuse what no backend can do."""
        check_timeout(self.worker_timeout, "worker_timeout")
        if not isinstance(self.id, str):
            raise refuse("id", self.id, "the id of an environment, such as 'CartPole-v1'")
        for name in ("kwargs", "monitor_kwargs", "normalize"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) and not (name == "normalize" and value is None):
                raise refuse(name, value, "a mapping from names of arguments to their values")
        for wrappers in (self.wrapper, self.vec_wrapper):
            named_with_kwargs(wrappers)
        if self.frame_stack is not None:
            check_integer("frame_stack", self.frame_stack, 1, maximum=MOST_FRAMES)
        if self.backend not in (*BACKENDS, AUTO):
            raise ValueError(f"vec_env={self.backend!r}: expected one of {', '.join((*BACKENDS, AUTO))}")
        if self.backend in AS_A_WHOLE:
            for name, value in (("env_wrapper", self.wrapper), ("monitor_kwargs", self.monitor_kwargs)):
                if value:
                    raise ValueError(
                        f"vec_env={self.backend!r}: it steps all environments as one, and {name}={value!r} is for single "
                        f"ones; expected one of {', '.join(ONE_BY_ONE)}"
                    )


class EpisodeSeeds(gym.Wrapper):
    """
    Start every episode from its own seed: ``first``, ``first + stride``, and so on.

    The seed is reported as ``info["episode_seed"]`` when the episode ends.

    :param first: seed of the first episode
    :param stride: distance between seeds; the number of environments that share the episodes among them
    """

    def __init__(self, env: gym.Env, first: int, stride: int = 1) -> None:
        super().__init__(env)
        self._next_seed, self._stride = first, stride
        self._seed = first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin the next episode, with the next seed.

        :param seed: not used: this wrapper knows which seed is due
        """
        self._seed = self._next_seed
        self._next_seed += self._stride
        return self.env.reset(seed=self._seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; at the end of the episode its seed is in the info."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info["episode_seed"] = self._seed
        return observation, reward, terminated, truncated, info


def make_training_env(
    settings: EnvironmentSettings | str,
    n_envs: int = 1,
    seed: int = 0,
    monitor_folder: Path | None = None,
    *,
    backend: str | None = None,
    append: bool = False,
    on_fault: str = "off",
    verbose: int = 0,
) -> VecEnv:
    """
    Build the vectorised environment to train on.

    No render mode is set: some environments simulate what they would draw (LunarLander its exhaust) and run at a third of
    the speed.

    :param settings: how to build the environment, or just its id
    :param n_envs: environments stepped together
    :param seed: seed of the first environment; the others count up from it
    :param monitor_folder: where each environment writes its episodes (SB3's monitor files), or ``None``
    :param backend: who steps the environments, in place of what the settings say
    :param append: whether to go on with the monitor files that are there
    :param on_fault: "raise" or "warn" of what is not finite, see ``FiniteGuard``; "off" looks at nothing
    :param verbose: 1 says what "auto" has chosen, and why
    :raises ValueError: if the environment does not take these arguments
    """
    if isinstance(settings, str):
        settings = EnvironmentSettings(settings)
    if backend is not None:
        settings = replace(settings, backend=backend)
    settings = with_backend(settings, n_envs, seed, verbose)
    if append and settings.backend not in AS_A_WHOLE:
        settings = replace(settings, monitor_kwargs={**settings.monitor_kwargs, "override_existing": False})
    if settings.backend in AS_A_WHOLE:
        # Where there are no single environments, episodes are counted around all of them. VecMonitor can't append to a file.
        path = None if monitor_folder is None else str(monitor_folder / str(len(list(monitor_folder.glob("*.monitor.csv")))))
        env: VecEnv = VecMonitor(AS_A_WHOLE[settings.backend](settings.id, n_envs, seed, settings.kwargs), path)
    else:
        env = _make_vec_env(settings, n_envs, seed, monitor_folder=monitor_folder, vec_env_cls=ONE_BY_ONE[settings.backend])
    return _wrap_vec_env(env, settings, lambda inner, arguments: VecNormalize(inner, **arguments), on_fault)


def with_backend(settings: EnvironmentSettings, n_envs: int, seed: int = 0, verbose: int = 0) -> EnvironmentSettings:
    """
    Settle who steps the training environments, where the settings leave it open.

    :param settings: how to build the environment; with the backend "auto", it is measured
    :param n_envs: environments stepped together
    :param seed: of the first
    :param verbose: 1 says what was chosen, and why
    :return: the settings with a backend of their own
    """
    if settings.backend != AUTO:
        return settings
    choice = choose(lambda name: _make_vec_env(settings, n_envs, seed, vec_env_cls=ONE_BY_ONE[name]), n_envs)
    if verbose >= 1:
        print(f"vec_env: {choice.backend} ({choice.reason})")
    return replace(settings, backend=choice.backend)


def make_evaluation_env(
    settings: EnvironmentSettings,
    n_envs: int = 1,
    first_seed: int = 0,
    *,
    statistics: Path | None = None,
    render_mode: str | None = None,
    trusted: bool = True,
    on_fault: str = "off",
    max_episode_steps: int | None = None,
) -> VecEnv:
    """
    Build an environment to judge or show a policy on: same observations as in training, true rewards, one seed per episode.

    :param settings: how to build the environment
    :param n_envs: environments stepped together
    :param first_seed: seed of the first episode; the others count up from it
    :param statistics: saved ``VecNormalize`` statistics. If ``None`` and the settings ask for normalisation, the statistics
        start empty and are expected from elsewhere (``EvalCallback`` copies them from the training environment).
    :param render_mode: Gymnasium's render mode, or ``None``
    :param trusted: whether the file of statistics may run code
    :param on_fault: as in training; ``EvalCallback`` wants both environments wrapped alike
    :param max_episode_steps: steps after which an episode is cut off; ``None`` leaves that to the environment
    :return: the environment. Its statistics are not updated, its rewards are not normalised, and it is not curious.
    :raises ValueError: if the environment does not take these arguments, or the statistics are refused
    """

    def normalize(env: VecEnv, arguments: dict[str, Any]) -> VecEnv:
        loaded = None if statistics is None else load_statistics(statistics, env, trusted=trusted)
        normalized = VecNormalize(env, **arguments) if loaded is None else loaded
        normalized.training = False
        normalized.norm_reward = False
        return normalized

    # evaluate_policy gives the last environments one episode more when the episodes do not divide evenly. Numbered from the
    # back, the seeds played are exactly first_seed, …, first_seed + episodes - 1, whatever n_envs is.
    offsets = itertools.count(n_envs - 1, -1)
    if settings.kwargs.get("render_mode") == "human":  # a window is for whoever asks for it here
        settings = replace(settings, kwargs={**settings.kwargs, "render_mode": None})
    env = _make_vec_env(
        settings,
        n_envs,
        first_seed,
        seed_episodes=lambda single: EpisodeSeeds(single, first_seed + next(offsets), n_envs),
        render_mode=render_mode,
        max_episode_steps=max_episode_steps,
    )
    if settings.backend in AS_A_WHOLE:
        # Only so that it has the layers of the training environment, without which EvalCallback takes over no moments.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The environment is already wrapped with a `Monitor`")
            env = VecMonitor(env)
    return switched_off(_wrap_vec_env(env, settings, normalize, on_fault))


def _make_vec_env(
    settings: EnvironmentSettings,
    n_envs: int,
    seed: int,
    *,
    monitor_folder: Path | None = None,
    seed_episodes: Callable[[gym.Env], gym.Env] | None = None,
    render_mode: str | None = None,
    vec_env_cls: Any = ONE_BY_ONE["dummy"],
    max_episode_steps: int | None = None,
) -> VecEnv:
    """Build the environments with their monitors and single-environment wrappers."""
    wrap = import_wrappers(settings.wrapper)

    def wrap_single(env: gym.Env) -> gym.Env:
        wrapped: gym.Env = wrap(env if seed_episodes is None else seed_episodes(env))
        return wrapped

    def make(**kwargs: Any) -> gym.Env:
        env = registration.make(settings.id, **kwargs)
        return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)

    env_kwargs = dict(settings.kwargs) if render_mode is None else {**settings.kwargs, "render_mode": render_mode}
    # Monitor wants tuples, YAML has lists.
    monitor_kwargs = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.monitor_kwargs.items()
    }
    try:
        return make_vec_env(
            # Given an id rather than a callable, make_vec_env would switch rendering on.
            make,
            n_envs=n_envs,
            seed=seed,
            monitor_dir=None if monitor_folder is None else str(monitor_folder),
            wrapper_class=wrap_single,
            env_kwargs=env_kwargs,
            vec_env_cls=vec_env_cls,
            vec_env_kwargs={"timeout": settings.worker_timeout},
            monitor_kwargs=monitor_kwargs,
        )
    except TypeError as error:
        given = f"env_kwargs={env_kwargs}, monitor_kwargs={monitor_kwargs}"
        raise ValueError(f"{settings.id} cannot be built with {given}: {error}") from error


def _wrap_vec_env(
    env: VecEnv, settings: EnvironmentSettings, normalize: Callable[[VecEnv, dict[str, Any]], VecEnv], on_fault: str
) -> VecEnv:
    """Add the vectorised wrappers, in the zoo's order."""
    try:
        env = import_wrappers(settings.vec_wrapper)(env)
    except ValueError:
        env.close()
        raise
    if on_fault != "off":
        env = FiniteGuard(env, on_fault)
    if settings.normalize is not None:
        try:
            env = normalize(env, settings.normalize)
        except (AssertionError, TypeError, ValueError) as error:
            what = f"normalize={settings.normalize}: {settings.id} cannot be normalised so"
            raise ValueError(f"{what} ({error}); False switches it off") from error
    if settings.frame_stack is not None:
        env = VecFrameStack(env, settings.frame_stack)
    # SB3 adds this to a training environment by itself; evaluation environments have to look the same.
    return VecTransposeImage(env) if _has_channels_last(env.observation_space) else env


def _has_channels_last(space: spaces.Space) -> bool:
    """Whether an observation contains images in height × width × channels order."""
    if isinstance(space, spaces.Dict):
        return any(_has_channels_last(part) for part in space.spaces.values())
    return isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space)


def check_harmless(settings: EnvironmentSettings, where: str) -> None:
    """
    Check that building an environment imports, calls and writes nothing but what is known to be harmless.

    :param settings: how to build the environment, as someone else wrote it
    :param where: the file, for the message
    :raises UntrustedFileError: if a module is to be imported, or anything else than a well-known wrapper to be called
    """
    check_environment_id(settings.id, where)
    for name, kwargs in [*named_with_kwargs(settings.wrapper), *named_with_kwargs(settings.vec_wrapper)]:
        check_named(name, (gym.Wrapper, VecEnvWrapper), where, "wrapper", kwargs)


def import_wrappers(names: Any) -> Callable[[Any], Any]:
    """
    Turn wrappers in the zoo's form into one function.

    :param names: ``None``, a dotted name, ``{name: kwargs}``, or a list of those, innermost first
    :return: a function that wraps an environment in all of them
    :raises ValueError: if a wrapper cannot be found
    """
    wrappers = [(name, partial(import_named(name), **kwargs)) for name, kwargs in named_with_kwargs(names)]

    def wrap(env: Any) -> Any:
        for name, wrapper in wrappers:
            try:
                env = wrapper(env)
            except TypeError as error:
                raise ValueError(f"{name}: {error}") from error
        return env

    return wrap


def with_wrappers(names: Any, kinds: Sequence[type]) -> list[Any]:
    """
    Add wrappers of ours to those of some settings, unless they are there.

    :param names: as in :func:`import_wrappers`
    :param kinds: what to add around them, innermost first
    :return: all of them, in the zoo's form
    """
    given = names if isinstance(names, list) else [] if names is None else [names]
    ours = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
    return [*given, *(name for name in ours if name not in given)]


def named_with_kwargs(names: Any) -> list[tuple[str, dict[str, Any]]]:
    """
    Read the zoo's form for things with arguments.

    :param names: ``None``, a dotted name, ``{name: kwargs}``, or a list of those
    :return: names with their arguments
    :raises ValueError: if it is anything else
    """
    pairs: list[tuple[str, dict[str, Any]]] = []
    for entry in names if isinstance(names, list) else [] if names is None else [names]:
        if isinstance(entry, str):
            pairs.append((entry, {}))
        elif isinstance(entry, Mapping) and len(entry) == 1:
            name, kwargs = next(iter(entry.items()))
            if not isinstance(kwargs, Mapping | NoneType):
                raise ValueError(f"{entry!r}: found {kwargs!r}, expected the arguments of {name}: {{argument: value}}")
            pairs.append((str(name), dict(kwargs or {})))
        else:
            raise ValueError(f"{entry!r}: expected a dotted name, or one with its arguments: {{name: {{argument: value}}}}")
    return pairs


def action_repeat(wrapper: Any) -> int:
    """
    Count the environment steps that a decision is held for.

    :param wrapper: wrappers in the zoo's form
    :return: product of the repeats of every ``ActionRepeat`` and SB3's ``AtariWrapper`` among them; 1 without
    """
    repeats = 1
    for name, kwargs in named_with_kwargs(wrapper):
        if name == f"{ActionRepeat.__module__}.{ActionRepeat.__qualname__}":
            repeats *= int(kwargs.get("repeat", ActionRepeat.REPEAT))
        elif name == f"{AtariWrapper.__module__}.{AtariWrapper.__qualname__}":
            repeats *= int(kwargs.get("frame_skip", inspect.signature(AtariWrapper).parameters["frame_skip"].default))
    return repeats
