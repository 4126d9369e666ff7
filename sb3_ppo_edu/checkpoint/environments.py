"""
The state of environments: taken while training goes on, and put into new ones so that they go on alike.

An environment's future is decided by more than its attributes tell: physics engines keep state that Python can't see.
:class:`Resumable` therefore remembers how the present episode came about, the random state before its reset and the actions
since, and an environment is restored by living through them again. Where an environment offers ``get_state`` and
``set_state`` those are used instead. What wrappers around it remember, such as ``Monitor``'s counters, is plain data and is
copied. After a replay the last observation must be the very same; if it is not, the environment is reported and starts a new
episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_ppo_edu.checkpoint.plain import NotPlainError, check_plain, plain_attributes, restore_plain

REPLAYED, OFFERED, RESET = "replayed", "set by itself", "started a new episode"
"""How an environment was restored."""


class Resumable(gym.Wrapper):
    """
    Remember how the present episode came about, so that another environment can be brought to the same point.

    Put it around each environment, such as by ``make_vec_env(…, wrapper_class=Resumable)``. It does not change what the
    environment does, with one exception: an environment that keeps its Box2D world from episode to episode (BipedalWalker,
    CarRacing) gets a new one before each reset. The old one carries traces of all former episodes, the order of its bodies
    and of its broad phase, which nothing can read out and which change the rounding of the physics.

    :param env: the environment
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._offers_state = all(callable(getattr(env.unwrapped, name, None)) for name in ("get_state", "set_state"))
        self._random_before: Any = None
        self._arguments: tuple[int | None, dict[str, Any] | None] = (None, None)
        self._actions: list[Any] = []
        self._form: Any = None
        self._observation: Any = None
        self._world_survives = False

    @property
    def offers_state(self) -> bool:
        """Whether the environment has ``get_state`` and ``set_state``, which go before a replay."""
        return self._offers_state

    @property
    def last_observation(self) -> Any:
        """What the environment has shown last, ``None`` before the first reset."""
        return self._observation

    @last_observation.setter
    def last_observation(self, observation: Any) -> None:
        self._observation = observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Begin an episode, and a record of it.

        :param seed: of the environment, or None to go on with its random state
        :param options: of the environment, or None
        """
        bare = self.env.unwrapped
        world = getattr(bare, "world", None)
        if self._world_survives:
            world = renew_world(bare)
        # A seed decides everything by itself; without one, the random state does.
        self._random_before = bare.np_random.bit_generator.state if seed is None else None
        self._arguments = (seed, options)
        self._actions = []
        observation, info = self.env.reset(seed=seed, options=options)
        self._world_survives = world is not None and is_box2d_world(world) and getattr(bare, "world", None) is world
        self._observation = observation
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and add the action to the record."""
        if type(action) is np.ndarray:
            # An array may be changed by its owner; its bytes are copied in a fifth of the time of the array.
            self._form = action
            self._actions.append(action.tobytes())
        else:
            self._actions.append(action)
        found = self.env.step(action)
        self._observation = found[0]
        return found

    def capture_state(self) -> dict[str, Any]:
        """
        Take the state of the environment and of all wrappers inside this one.

        :return: plain data, for :meth:`restore_state`
        """
        return capture_single(self)

    def restore_state(self, state: dict[str, Any], replay: bool = True) -> str:
        """
        Bring the environment to a state.

        :param state: as :meth:`capture_state` gave it, perhaps in another process
        :param replay: see :func:`restore_single`
        :return: how: "replayed", "set by itself" or "started a new episode", with the reason
        """
        return restore_single(self, state, replay)

    def record(self) -> dict[str, Any]:
        """Give the record of the present episode."""
        return {
            "random_before": self._random_before,
            "arguments": list(self._arguments),
            "actions": self._stacked_actions(),
            "observation": self._observation,
        }

    def _stacked_actions(self) -> Any:
        """Give the actions as one array, which is written in no time, unless they are of another kind."""
        if not self._actions:
            return []
        if isinstance(self._actions[0], bytes):
            flat = np.frombuffer(b"".join(self._actions), dtype=self._form.dtype)
            return flat.reshape(-1, *self._form.shape)
        stacked = np.array(self._actions)
        return stacked if stacked.dtype.kind in "biuf" else list(self._actions)

    def replay(self, record: dict[str, Any]) -> None:
        """
        Live through an episode again.

        :param record: as :meth:`record` gave it
        """
        if record["random_before"] is not None:
            self.env.unwrapped.np_random.bit_generator.state = record["random_before"]
        seed, options = record["arguments"]
        self.reset(seed=seed, options=options)
        actions = record["actions"]
        discrete = isinstance(actions, np.ndarray) and actions.ndim == 1
        ended = False
        for action in actions:
            if ended:  # it went another way, which is found out by comparing observations
                return
            *_, terminated, truncated, _ = self.step(action if not discrete else actions.dtype.type(action))
            ended = terminated or truncated


def is_box2d_world(thing: Any) -> bool:
    """Tell whether something is a Box2D world, without importing Box2D."""
    return type(thing).__name__ == "b2World"


def renew_world(env: Any) -> Any:
    """Give an environment a new Box2D world in place of the one it keeps."""
    env._destroy()
    old = env.world
    env.world = type(old)(gravity=old.gravity)
    if old.contactListener is not None:
        env.world.contactListener = old.contactListener
    return env.world


# -- one environment -----------------------------------------------------------------------------------------------------


def layers_of(env: gym.Env) -> Iterator[gym.Env]:
    """List an environment's wrappers from the outside in, without the environment itself."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


OWN = ("env", "_offers_state", "_random_before", "_arguments", "_actions", "_form", "_observation", "_world_survives")
"""Attributes of wrappers that are not copied: what they wrap, and the record, which is kept by itself."""


SAME_STATE = {"PatchedTimeLimit": "TimeLimit"}
"""Wrappers with the state of others: importing rl_zoo3 puts its own class in the place of Gymnasium's."""


def capture_single(env: gym.Env) -> dict[str, Any]:
    """
    Take the state of an environment in its wrappers.

    :return: plain data, for :func:`restore_single`
    """
    bare, wrappers, recorder = env.unwrapped, [], None
    for layer in layers_of(env):
        plain, _ = plain_attributes(layer, OWN)
        wrappers.append([type(layer).__name__, plain])
        if isinstance(layer, Resumable):
            recorder = layer
    random = bare.np_random.bit_generator.state
    state: dict[str, Any] = {"wrappers": wrappers, "random": random, "record": None, "offered": None}
    # Before its first reset an environment has no state yet: an evaluation's may not have had one.
    if recorder is not None and recorder.offers_state and recorder.last_observation is not None:
        # offers_state says that it has both methods, which gymnasium's type does not know.
        state["offered"] = bare.get_state()  # type: ignore[attr-defined]
        check_plain(state["offered"], f"{bare}.get_state()")
        state["record"] = {"observation": recorder.last_observation}
    elif recorder is not None:
        state["record"] = recorder.record()
    return state


def restore_single(env: gym.Env, state: dict[str, Any], replay: bool = True) -> str:
    """
    Bring an environment to a state.

    :param env: one that was built as the other was
    :param state: as :func:`capture_single` gave it
    :param replay: False for an environment that is reset before it is used: what decides its next episodes is enough
    :return: how it was restored: one of the three words, with the reason if it is the last
    """
    bare, layers = env.unwrapped, list(layers_of(env))
    names, expected = [type(layer).__name__ for layer in layers], [name for name, _ in state["wrappers"]]
    if [SAME_STATE.get(name, name) for name in names] != [SAME_STATE.get(name, name) for name in expected]:
        raise ValueError(f"{bare}: found the wrappers {names}, expected those it was saved with, {expected}")
    recorder = next((layer for layer in layers if isinstance(layer, Resumable)), None)
    how = RESET
    if not replay:
        how = f"{RESET}: it was about to"
    elif state["offered"] is not None and recorder is not None:
        env.reset()
        # What was offered came from get_state, whose environments have both methods; gymnasium's type knows neither.
        bare.set_state(state["offered"])  # type: ignore[attr-defined]
        recorder.last_observation = state["record"]["observation"]
        how = OFFERED
    elif state["record"] is None or recorder is None:
        how = f"{RESET}: it is not wrapped in Resumable"
    elif state["record"]["observation"] is not None:
        recorder.replay(state["record"])
        same = equal(recorder.last_observation, state["record"]["observation"])
        same = same and bare.np_random.bit_generator.state == state["random"]
        how = REPLAYED if same else f"{RESET}: its replay went another way"
    bare.np_random.bit_generator.state = state["random"]
    for layer, (_, attributes) in zip(layers, state["wrappers"], strict=True):
        restore_plain(layer, attributes, OWN)
    return how


def equal(one: Any, other: Any) -> bool:
    """
    Compare two observations bit by bit.

    :param one: array, number, or dictionary or tuple of those
    :return: True if they are equal; NaN equals NaN
    """
    try:
        return bool(repr_bytes(one) == repr_bytes(other))
    except NotPlainError:
        return False


def repr_bytes(value: Any) -> Any:
    """
    Make an observation comparable.

    :param value: array, number, or dictionary or tuple of those
    :return: the same with bytes in place of arrays
    """
    if isinstance(value, dict):
        return {key: repr_bytes(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [repr_bytes(one) for one in value]
    return np.asarray(value).tobytes()


# -- vector environments -------------------------------------------------------------------------------------------------


VEC_SKIP = ("venv", "envs", "actions", "shared", "waiting", "remotes", "work_remotes", "processes", "closed")
"""Attributes of vector environments that belong to the process, or are given when it is built."""


def vec_layers(env: VecEnv) -> Iterator[VecEnv]:
    """List a vector environment's layers from the outside in, the innermost included."""
    while isinstance(env, VecEnvWrapper):
        yield env
        env = env.venv
    yield env


def capture_vec_env(env: VecEnv) -> dict[str, Any]:
    """
    Take the state of a vector environment.

    :param env: the vector environment with all its layers
    :return: plain data, for :func:`restore_vec_env`
    """
    # First, because a worker that is found dead may be replaced, of which its vector environment keeps count.
    envs = capture_each(env.unwrapped)
    layers = []
    for layer in vec_layers(env):
        plain, _ = plain_attributes(layer, VEC_SKIP)
        parts = {name: capture_part(part) for name, part in parts_of(layer).items()}
        layers.append([type(layer).__name__, plain, parts])
    return {"layers": layers, "envs": envs}


def parts_of(layer: VecEnv) -> dict[str, Any]:
    """
    Find what a layer keeps in objects of their own: ``VecNormalize`` its moments, ``Curiosity`` its networks.

    :return: the objects by attribute; a dictionary of them has a name for each key
    """
    found = {}
    for name, value in vars(layer).items():
        for key, part in (value if isinstance(value, dict) else {"": value}).items():
            if isinstance(part, RunningMeanStd | StackedObservations | th.nn.Module | th.optim.Optimizer):
                found[f"{name}/{key}"] = part
    return found


def capture_part(part: Any) -> dict[str, Any]:
    """Take the state of one of :func:`parts_of`; an optimizer's settings, such as its learning rate, are the layer's."""
    if isinstance(part, th.nn.Module):
        return dict(part.state_dict())
    return {"state": part.state_dict()["state"]} if isinstance(part, th.optim.Optimizer) else plain_attributes(part)[0]


def restore_part(part: Any, state: dict[str, Any]) -> None:
    """Put the state of one of :func:`parts_of` back."""
    if isinstance(part, th.nn.Module):
        part.load_state_dict(state)
    elif isinstance(part, th.optim.Optimizer):
        part.load_state_dict({**part.state_dict(), **state})
    else:
        restore_plain(part, state)


def envs_of(base: VecEnv) -> list[gym.Env] | None:
    """Give a vector environment's environments, if they are in this process and within reach."""
    found = getattr(base, "envs", None)
    return found if isinstance(found, list) else None


def capture_each(base: VecEnv) -> list[dict[str, Any] | None]:
    """
    Take the state of each environment.

    :return: a state for each, None where it can't be reached
    """
    envs = envs_of(base)
    if envs is not None:
        return [capture_single(env) for env in envs]
    # Asked for what it does not have, a worker would end.
    if base.has_attr("capture_state"):
        return list(base.env_method("capture_state"))
    return [None] * base.num_envs


def restore_vec_env(env: VecEnv, state: dict[str, Any], replay: bool = True) -> list[str]:
    """
    Bring a vector environment to a state.

    :param env: one that was built as the other was
    :param state: as :func:`capture_vec_env` gave it
    :param replay: see :func:`restore_single`
    :return: for each environment how it was restored
    :raises ValueError: if it was built in another way
    """
    layers = list(vec_layers(env))
    names, expected = [type(layer).__name__ for layer in layers], [name for name, *_ in state["layers"]]
    if names != expected or env.num_envs != len(state["envs"]):
        raise ValueError(
            f"found {env.num_envs} environments in {names}, expected what the checkpoint was made with: "
            f"{len(state['envs'])} in {expected}"
        )
    found = restore_each(layers[-1], state["envs"], replay)
    for layer, (_, attributes, parts) in zip(layers, state["layers"], strict=True):
        restore_plain(layer, attributes, (*VEC_SKIP, *getattr(type(layer), "not_resumed", ())))
        for name, part in parts_of(layer).items():
            try:
                restore_part(part, parts[name])
            except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{type(layer).__name__}: its {name.strip('/')}: {error}") from error
    return found


def restore_each(base: VecEnv, states: list[dict[str, Any] | None], replay: bool) -> list[str]:
    """
    Bring each environment to its state.

    :param replay: see :func:`restore_single`
    """
    envs = envs_of(base)
    if envs is not None:
        return [
            f"{RESET}: it was not saved" if state is None else restore_single(env, state, replay)
            for env, state in zip(envs, states, strict=True)
        ]
    if isinstance(base, SubprocVecEnv) and None not in states:
        # All workers replay at the same time.
        for remote, state in zip(base.remotes, states, strict=True):
            remote.send(("env_method", ("restore_state", (state, replay), {})))
        return [str(remote.recv()) for remote in base.remotes]
    if None not in states:
        return [base.env_method("restore_state", state, replay, indices=index)[0] for index, state in enumerate(states)]
    return [f"{RESET}: it is out of reach in {type(base).__name__} without Resumable"] * base.num_envs
