"""Torch's distributions are not validated where every part of a policy is known, and are everywhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch.distributions import Categorical, Distribution

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines.validation import WithoutValidation, needs_no_validation


@pytest.fixture(autouse=True)
def _validating() -> Iterator[None]:
    """Begin with torch's default, which ``torch.compile`` switches off for the rest of a process."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(before)


def validates() -> bool:
    """Ask torch whether it refuses a probability that is not one."""
    try:
        Categorical(logits=th.tensor([float("nan"), 0.0]))
    except ValueError:
        return True
    return False


def test_validation_is_off_inside_and_back_afterwards() -> None:
    """Inside, nothing is refused; afterwards everything is, also where the inside ended in an error."""
    with pytest.raises(ZeroDivisionError), WithoutValidation():
        assert not validates()
        raise ZeroDivisionError
    assert validates()


@pytest.mark.parametrize("before", [True, False])
def test_what_the_user_has_chosen_is_restored(before: bool) -> None:
    """Whoever has switched validation off for the whole program finds it off."""
    Distribution.set_default_validate_args(before)
    with WithoutValidation():
        assert not validates()
    assert validates() is before


@contextmanager
def another_thread_inside() -> Iterator[None]:
    """Another thread is inside for as long."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with WithoutValidation():
            entered.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    other.start()
    entered.wait(10)
    try:
        yield
    finally:
        leave.set()
        other.join()


def test_the_last_of_several_threads_restores() -> None:
    """Two threads whose times inside overlap leave validation as it was before the first."""
    with another_thread_inside():
        with WithoutValidation():
            assert not validates()
        assert not validates()
    assert validates()


def test_giving_back_leaves_other_threads_inside() -> None:
    """A thread that gives back what it has does not take another one out of the context."""
    with another_thread_inside():
        WithoutValidation.leave()
        assert not validates()
    assert validates()


@pytest.mark.parametrize("inside", [True, False])
def test_a_forked_process_validates(inside: bool) -> None:
    """What a forked process does first: threads that were inside are not there, and validation is as it was before."""
    with another_thread_inside() if inside else nullcontext():
        WithoutValidation.forget_threads()
        assert validates()
        with WithoutValidation():
            assert not validates()
        assert validates()


class OwnExtractor(FlattenExtractor):
    """An extractor that somebody wrote."""


CHANGES: dict[str, tuple[dict[str, Any], Callable[[EduPPO], object]]] = {
    "as it comes": ({}, lambda model: None),
    "own extractor": ({"policy_kwargs": {"features_extractor_class": OwnExtractor}}, lambda model: None),
    "a hook": ({}, lambda model: model.policy.action_net.register_forward_hook(lambda *_: None)),
    "a patched method": ({}, lambda model: setattr(model.policy, "forward", model.policy.forward)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_known_parts_are_not_validated(change: str) -> None:
    """An extractor, hook or method of somebody's may rely on the refusal."""
    arguments, apply = CHANGES[change]
    model = EduPPO("MlpPolicy", "CartPole-v1", device="cpu", engine="autograd", **arguments)
    apply(model)
    assert needs_no_validation(model.policy) is (change == "as it comes")


def test_beta_is_validated() -> None:
    """Torch may never come back from drawing from a Beta whose parameters are NaN."""
    model = EduPPO("MlpPolicy", "Pendulum-v1", device="cpu", engine="autograd", action_distribution="beta")
    assert not needs_no_validation(model.policy)


class Recorder(gym.Env[Any, Any]):
    """Counts its steps; episodes of ten steps."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space, self.steps = spaces.Box(-1, 1, (3,)), action_space, 0

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        """Begin."""
        super().reset(seed=seed)
        return self.np_random.random(3, dtype=np.float32), {}

    def step(self, action: object) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Count."""
        self.steps += 1
        return self.np_random.random(3, dtype=np.float32), 1.0, False, self.steps % 10 == 0, {}


BOX = spaces.Box(-1, 1, (2,))
DRAWN: list[tuple[spaces.Space[Any], Any]] = [
    (spaces.Discrete(3), "gaussian"),
    (spaces.MultiDiscrete([2, 3]), "gaussian"),
    (spaces.MultiBinary(2), "gaussian"),
    *((BOX, name) for name in ("gaussian", "tanh_gaussian", "beta")),
]


@pytest.mark.parametrize(("space", "distribution"), DRAWN, ids=str)
def test_nan_stops_before_the_environment_without_validation(space: spaces.Space[Any], distribution: Any) -> None:
    """Weights that turn NaN in the middle of a rollout end it with no further step, whatever is drawn."""
    env = Recorder(space)
    model = EduPPO("MlpPolicy", env, n_steps=64, device="cpu", engine="autograd", seed=0, action_distribution=distribution)

    def spoil(local: dict[str, object], _: object) -> bool:
        if model.num_timesteps == 40:
            weight = next(model.policy.action_net.parameters())
            weight.data.fill_(float("nan"))
        return True

    with pytest.raises(ValueError, match="finite"):
        model.learn(128, callback=spoil)
    assert env.steps == 40
    assert validates()


def test_gradients_left_behind_are_sb3s() -> None:
    """After an update the parameters' gradients are the clipped ones of its last minibatch, SB3's bits."""
    left = []
    kinds: list[tuple[Any, dict[str, Any]]] = [(PPO, {}), (EduPPO, {"engine": "autograd"})]
    for kind, arguments in kinds:
        model = kind("MlpPolicy", "CartPole-v1", n_steps=128, device="cpu", seed=3, max_grad_norm=0.1, **arguments)
        model.learn(256)
        left.append([parameter.grad for parameter in model.policy.parameters()])
    assert all(th.equal(theirs, ours) for theirs, ours in zip(*left, strict=True))
