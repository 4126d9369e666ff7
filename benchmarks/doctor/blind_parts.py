"""Odd environments for the planted faults: each name here is a wrapper, or a function that returns one.

All chance comes from the environment's own random generator, so a seeded run can be repeated.
"""

# ruff: noqa: B010 - a plain setattr shows that a method is replaced on purpose
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit, TransformAction, TransformObservation, TransformReward
from stable_baselines3.common.monitor import Monitor

Wrap = Callable[[gym.Env], gym.Env]
Outcome = tuple[Any, float, bool, bool, dict[str, Any]]

# The settings each fault departs from, and the number of parallel copies they were thought out for.
SOUND: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"n_steps": 64, "batch_size": 128, "n_epochs": 10, "learning_rate": 1e-3},
    "Pendulum-v1": {"n_steps": 256, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.9},
    "Acrobot-v1": {"n_steps": 256, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3, "gae_lambda": 0.94},
    "MountainCarContinuous-v0": {
        "n_steps": 64, "batch_size": 256, "n_epochs": 10, "learning_rate": 3e-4, "gamma": 0.999, "gae_lambda": 0.9,
        "max_grad_norm": 5.0, "vf_coef": 0.19, "use_sde": True, "sde_sample_freq": 64,
    },
}  # fmt: skip
COPIES: dict[str, int] = {"CartPole-v1": 8, "Pendulum-v1": 4, "Acrobot-v1": 8, "MountainCarContinuous-v0": 4}


# --- environments: one-line changes -----------------------------------------------------------------------------------


def observe(change: Callable[[np.ndarray], Any], size: int | None = None) -> Wrap:
    """Replace each observation by ``change(observation)``, of ``size`` numbers where that differs."""

    def wrap(env: gym.Env) -> gym.Env:
        space = env.observation_space if size is None else Box(-np.inf, np.inf, (size,), np.float32)
        return TransformObservation(env, lambda seen: np.asarray(change(seen), dtype=np.float32), space)

    return wrap


def observe_with_chance(change: Callable[[np.ndarray, np.random.Generator], Any], size: int | None = None) -> Wrap:
    """Like ``observe``, with the environment's random generator at hand."""
    return lambda env: observe(lambda seen: change(seen, env.np_random), size)(env)


def as_bytes(env: gym.Env) -> gym.Env:
    """Declare and return the observation as unsigned bytes, so negative numbers wrap round."""
    space = Box(0, 255, env.observation_space.shape, np.uint8)
    return TransformObservation(env, lambda seen: seen.astype(np.int64).astype(np.uint8), space)


def act(change: Callable[[Any], Any]) -> Wrap:
    """Send ``change(action)`` to the environment in place of the action."""
    return lambda env: TransformAction(env, change, env.action_space)


def act_with_chance(change: Callable[[Any, np.random.Generator], Any]) -> Wrap:
    """Like ``act``, with the environment's random generator at hand."""
    return lambda env: act(lambda action: change(action, env.np_random))(env)


def action_bounds(low: float, high: float) -> Wrap:
    """Declare other action bounds than the environment's."""
    return lambda env: TransformAction(env, lambda action: action, Box(low, high, env.action_space.shape, np.float32))


def unit_actions(env: gym.Env) -> gym.Env:
    """The sound rescaling: the agent acts in -1 to 1 and Pendulum gets -2 to 2."""
    return TransformAction(env, lambda action: 2.0 * action, Box(-1.0, 1.0, env.action_space.shape, np.float32))


def pay(change: Callable[[float], float]) -> Wrap:
    """Pay ``change(reward)``."""
    return lambda env: TransformReward(env, lambda reward: change(float(reward)))


def pay_with_chance(change: Callable[[float, np.random.Generator], float]) -> Wrap:
    """Like ``pay``, with the environment's random generator at hand."""
    return lambda env: TransformReward(env, lambda reward: change(float(reward), env.np_random))


def physics(**values: float) -> Wrap:
    """Set attributes of the simulator, such as its time step."""

    def wrap(env: gym.Env) -> gym.Env:
        for name, value in values.items():
            assert hasattr(env.unwrapped, name), name
            setattr(env.unwrapped, name, value)
        return env

    return wrap


def chain(*wraps: Wrap) -> Wrap:
    """Apply several wrappers, the first one innermost."""

    def wrap(env: gym.Env) -> gym.Env:
        for one in wraps:
            env = one(env)
        return env

    return wrap


def outcome(change: Callable[[Outcome, np.random.Generator], Outcome]) -> Wrap:
    """Replace the whole result of each step."""

    class Changed(gym.Wrapper):
        def step(self, action: Any) -> Any:
            return change(super().step(action), self.np_random)  # type: ignore[arg-type]

    return Changed


def time_limit(steps: int) -> Wrap:
    """Cut each episode after so many steps."""
    return lambda env: TimeLimit(env, steps)


def failure_goes_on(env: gym.Env) -> gym.Env:
    """The simulator itself never reports an end; what comes after the failure pays nothing."""
    step = env.unwrapped.step

    def changed(action: Any) -> Any:
        seen, reward, _, truncated, info = step(action)
        return seen, reward, False, truncated, info

    setattr(env.unwrapped, "step", changed)
    return env


# --- environments: with a memory --------------------------------------------------------------------------------------


def late_observations(delay: int) -> Wrap:
    """Show what was true ``delay`` steps ago."""

    class Late(gym.Wrapper):
        def reset(self, **options: Any) -> Any:
            seen, info = super().reset(**options)
            self.line = deque([seen] * (delay + 1), maxlen=delay + 1)
            return seen, info

        def step(self, action: Any) -> Any:
            seen, *rest = super().step(action)
            self.line.append(seen)
            return self.line[0], *rest

    return Late


def slow_sensor(every: int) -> Wrap:
    """Refresh the observation only once in ``every`` steps."""

    class Slow(gym.Wrapper):
        def reset(self, **options: Any) -> Any:
            self.age, (self.held, info) = 0, super().reset(**options)
            return self.held, info

        def step(self, action: Any) -> Any:
            seen, *rest = super().step(action)
            self.age += 1
            self.held = seen if self.age % every == 0 else self.held
            return self.held, *rest

    return Slow


def late_actions(delay: int, start: Any) -> Wrap:
    """Carry out each action ``delay`` steps after it was chosen; ``start`` fills the first steps."""

    class Late(gym.Wrapper):
        def reset(self, **options: Any) -> Any:
            self.line = deque([start] * delay)
            return super().reset(**options)

        def step(self, action: Any) -> Any:
            self.line.append(action)
            return super().step(self.line.popleft())

    return Late


def hold_action(steps: int, lost: float = 0.0) -> Wrap:
    """Repeat each action for ``steps`` steps of the simulator; with chance ``lost`` the previous action stays."""

    class Hold(gym.Wrapper):
        last: Any = None

        def step(self, action: Any) -> Any:
            if self.last is None or self.np_random.random() >= lost:
                self.last = action
            total = 0.0
            for _ in range(steps):
                seen, reward, terminated, truncated, info = super().step(self.last)
                total += float(reward)
                if terminated or truncated:
                    break
            return seen, total, terminated, truncated, info

    return Hold


class ShuffledEachEpisode(gym.Wrapper):
    """The components of the observation change places at every reset."""

    def reset(self, **options: Any) -> Any:
        seen, info = super().reset(**options)
        self.order = self.np_random.permutation(len(seen))
        return seen[self.order], info

    def step(self, action: Any) -> Any:
        seen, *rest = super().step(action)
        return seen[self.order], *rest


class OldObservationAtReset(gym.Wrapper):
    """Reset returns the last observation of the episode before."""

    last: Any = None

    def reset(self, **options: Any) -> Any:
        seen, info = super().reset(**options)
        return seen if self.last is None else self.last, info

    def step(self, action: Any) -> Any:
        self.last, *rest = super().step(action)
        return self.last, *rest


class ResetKeepsState(gym.Wrapper):
    """Reset restarts the clock but leaves the simulator where it was."""

    def reset(self, **options: Any) -> Any:
        before = getattr(self.unwrapped, "state", None)
        seen, info = super().reset(**options)
        if before is None:
            return seen, info
        self.unwrapped.state = before  # type: ignore[attr-defined]
        return np.array(before, dtype=np.float32), info


class SameStart(gym.Wrapper):
    """Every reset uses the same seed."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=7, options=options)


class ControlsSwapEachEpisode(gym.Wrapper):
    """In a random half of the episodes left and right are swapped, and nothing shows it."""

    def reset(self, **options: Any) -> Any:
        seen, info = super().reset(**options)
        self.swapped = bool(self.np_random.random() < 0.5)
        return seen, info

    def step(self, action: Any) -> Any:
        return super().step(1 - action if self.swapped else action)


def rules_change(after: int) -> Wrap:
    """Left and right are swapped for good after so many steps of one copy."""

    class Changing(gym.Wrapper):
        age = 0

        def step(self, action: Any) -> Any:
            self.age += 1
            return super().step(1 - action if self.age > after else action)

    return Changing


def crossed_copies() -> Wrap:
    """All copies write their observation into one shared place before any reads it back: each sees another's."""
    shared: dict[str, Any] = {"seen": None}

    class Crossed(gym.Wrapper):
        def step(self, action: Any) -> Any:
            seen, *rest = super().step(action)
            other, shared["seen"] = shared["seen"], seen
            return seen if other is None else other, *rest

    return Crossed


class RewardAtTheEnd(gym.Wrapper):
    """The whole return is paid on the last step."""

    def reset(self, **options: Any) -> Any:
        self.total = 0.0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        seen, reward, terminated, truncated, info = super().step(action)
        self.total += float(reward)
        return seen, self.total if terminated or truncated else 0.0, terminated, truncated, info


def late_reward(delay: int) -> Wrap:
    """Pay each reward ``delay`` steps late; what is left over falls into the next episode."""

    class Late(gym.Wrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.line = deque([0.0] * delay)

        def step(self, action: Any) -> Any:
            seen, reward, *rest = super().step(action)
            self.line.append(float(reward))
            return seen, self.line.popleft(), *rest

    return Late


class RewardOfFirstState(gym.Wrapper):
    """The reward of the first step is paid again for the rest of the episode."""

    def reset(self, **options: Any) -> Any:
        self.first: float | None = None
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        seen, reward, *rest = super().step(action)
        self.first = float(reward) if self.first is None else self.first
        return seen, self.first, *rest


class RewardMinusMean(gym.Wrapper):
    """A home-made normaliser that also subtracts the running mean, in a task whose point is to stay alive."""

    count, mean = 0, 0.0

    def step(self, action: Any) -> Any:
        seen, reward, *rest = super().step(action)
        self.count += 1
        self.mean += (float(reward) - self.mean) / self.count
        return seen, float(reward) - self.mean, *rest


def pay_for(price: Callable[[Any, Any, float], float]) -> Wrap:
    """Pay ``price(observation, action, reward)``."""

    class Priced(gym.Wrapper):
        def step(self, action: Any) -> Any:
            seen, reward, *rest = super().step(action)
            return seen, float(price(seen, action, float(reward))), *rest

    return Priced


def misreport(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Wrap:
    """Put another report in place of the monitor's at each episode's end; ``None`` drops it. Keep it outermost."""

    class Misreport(gym.Wrapper):
        def step(self, action: Any) -> Any:
            seen, reward, terminated, truncated, info = super().step(action)
            report = change(info.pop("episode")) if "episode" in info else None
            return seen, reward, terminated, truncated, info if report is None else {**info, "episode": report}

    return lambda env: Misreport(Monitor(env))


class NeverEndingSum(gym.Wrapper):
    """Each reported return also holds all the returns before it. Keep it outermost."""

    total = 0.0

    def step(self, action: Any) -> Any:
        seen, reward, terminated, truncated, info = super().step(action)
        if "episode" in info:
            self.total += float(info["episode"]["r"])
            info["episode"] = {**info["episode"], "r": self.total}
        return seen, reward, terminated, truncated, info
