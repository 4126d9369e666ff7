"""What environments do that no training can go on from, said in one sentence with environment and step."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from traceback import walk_tb
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

LEFT = "expected an environment that raises an exception where it can't go on: sys.exit would end the training without a word"
"""What to do about an environment that ends the program."""
OLD_INTERFACE = (
    "return observation, info from reset and observation, reward, terminated, truncated, info from step (Gymnasium)"
)
"""What to do about an environment for the gym of before 0.26."""


class EnvironmentFaultError(ValueError):
    """
    An environment has ended the program, or given what is none of its observations.

    It is a ``ValueError``, as numpy's is that says so of some of these observations.

    :param index: of the environment
    :param step: of its training; 0 for its constructor and first reset
    :param what: it has done, and what was expected
    """

    def __init__(self, index: int, step: int, what: str) -> None:
        super().__init__(f"environment {index}, step {step} of its training: {what}")
        self.index, self.step, self.what = index, step, what

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how it is made in another process."""
        return type(self), (self.index, self.step, self.what)


def explain(error: BaseException) -> str:
    """
    Say in a sentence what an environment has done wrong, where the exception alone does not.

    :param error: raised by a constructor, ``reset`` or ``step``
    :return: the sentence; empty for an exception that speaks for itself
    """
    if isinstance(error, SystemExit):
        handlers = codes_of_signal_handlers()
        if any(frame.f_code in handlers for frame, _ in walk_tb(error.__traceback__)):
            return ""  # it is the program that ends itself, while the environment was at work
        return f"it called sys.exit({'' if error.code is None else repr(error.code)}), {LEFT}"
    text = str(error)
    if isinstance(error, ValueError) and "values to unpack (expected 5" in text:
        return f"step gave another number of values than five ({text}): {OLD_INTERFACE}"
    if isinstance(error, ValueError) and "values to unpack (expected 2" in text:
        return f"reset gave something else than two values ({text}): {OLD_INTERFACE}"
    if isinstance(error, TypeError) and "reset() got an unexpected keyword argument" in text:
        return f"{text}: define reset(self, *, seed=None, options=None) and {OLD_INTERFACE}"
    if isinstance(error, TypeError | ValueError):
        *_, (frame, _) = walk_tb(error.__traceback__)
        if isinstance(frame.f_locals.get("self"), Monitor) and "reward" in frame.f_locals:
            return wrong_reward(frame.f_locals["reward"])
    return ""


def codes_of_signal_handlers() -> set[Any]:
    """Give the code of the functions that signals call."""
    handlers = map(signal.getsignal, signal.valid_signals())
    return {getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers}


def fault_behind(error: SystemExit, step: int) -> EnvironmentFaultError | None:
    """
    Look whether an environment has ended the program, in whichever vector environment it is.

    :param error: as it has come out of a training
    :param step: of the training
    :return: the fault, with the environment's index where the vector environment is SB3's; None if somebody else has ended it
    """
    places = [frame.f_locals for frame, _ in walk_tb(error.__traceback__)]
    inside = [one for one in places if isinstance(one.get("self"), VecEnv) and not isinstance(one["self"], VecEnvWrapper)]
    what = explain(error) if inside else ""
    return EnvironmentFaultError(inside[-1].get("env_idx", 0), step, what) if what else None


def wrong_observation(observation: Any, space: spaces.Space, part: str = "") -> str:
    """
    Compare an observation with its space. Values are not looked at, and what numpy converts is let through.

    numpy would fill a row of four from one number, and so a wrong observation would be trained on.

    :param observation: of one environment
    :param space: of its observations
    :param part: which part of the observation, as in ``['camera']``
    :return: what was found and expected; empty if it fits
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        whole: Any = Mapping if isinstance(space, spaces.Dict) else tuple | list
        keys: Any = space.spaces if isinstance(space, spaces.Dict) else range(len(space.spaces))
        if not isinstance(observation, whole):
            kind = f"a dict with {', '.join(map(repr, keys))}" if whole is Mapping else f"a tuple of {len(keys)}"
            return f"observation{part}: found {type(observation).__name__}, expected {kind}, as its observation_space says"
        for key in keys:
            if key not in (observation if whole is Mapping else range(len(observation))):
                return f"observation{part}[{key!r}]: found none, expected {space[key]}, as its observation_space says"
            if told := wrong_observation(observation[key], space[key], f"{part}[{key!r}]"):
                return told
        return ""
    if space.shape is None:
        return ""
    expected = f"expected shape {space.shape} and numbers, as its observation_space says"
    try:
        found = np.asarray(observation)
    except Exception as error:
        return f"observation{part}: found {type(observation).__name__} ({error}), {expected}"
    if found.dtype.kind not in "biuf":
        return f"observation{part}: found {type(observation).__name__} of dtype {found.dtype}, {expected}"
    if found.shape != space.shape:
        more = found.ndim - len(space.shape)
        single = found.size == 1 == np.prod(space.shape)
        if not single and (more < 0 or found.shape != (1,) * more + space.shape):
            return f"observation{part}: found shape {found.shape}, {expected}"
    return ""


def wrong_reward(reward: Any) -> str:
    """
    Check that a reward is one number.

    :param reward: of one environment
    :return: what was found and expected; empty if it is
    """
    if type(reward) is float:
        return ""
    found = np.asarray(reward)
    if found.ndim == 0 and found.dtype.kind in "biuf":
        return ""
    kind = f"shape {found.shape}" if found.ndim else type(reward).__name__
    return f"reward: found {kind}, expected a number: return float(reward) from step"
