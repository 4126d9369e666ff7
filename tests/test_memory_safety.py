"""No kernel reads or writes memory that is not there any more, or is of another shape, whoever takes it away."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines.fused.engine import FusedEngine
from sb3_ppo_edu.engines.fused.observations import Part, StoredParts
from tests.test_adapters import Counter


class Classes(Counter):
    """The same with one of many classes as observation, of which the kernels make features."""

    observation_space = spaces.Discrete(300)

    def _seen(self) -> Any:
        return self.t


class Doing(BaseCallback):
    """Does something to the model at each rollout's start."""

    def __init__(self, do: Callable[[Any], None]) -> None:
        super().__init__()
        self.do = do

    def _on_rollout_start(self) -> None:
        self.do(self.model)

    def _on_step(self) -> bool:
        return True


def model_of(env: gym.Env[Any, Any], engine: Any = "fused") -> EduPPO:
    """A small model."""
    return EduPPO("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=2, seed=0, device="cpu", engine=engine)


def test_what_a_step_writes_is_alive() -> None:
    """The array of features that acting fills lives as long as whoever acts: in a loop of many rollouts nothing is freed."""
    model = model_of(Classes())
    act: Any = FusedEngine(model.policy).acting_in(model.rollout_buffer)
    gc.collect()
    held = [cell.cell_contents for cell in act.__closure__]
    parts = next(one for one in held if hasattr(one, "arrays"))
    features = parts.arrays[-1]
    assert features.shape == (1, 1, 300)
    alive = weakref.ref(features)
    del features, held, parts
    gc.collect()
    assert alive() is not None
    del act
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("classes", [0, 3, 300])
def test_features_end_with_their_row(classes: int) -> None:
    """Of a choice of more classes than a row has numbers, or of none, nothing is written, behind the row least of all."""
    engine = FusedEngine(model_of(Classes()).policy)
    stored = StoredParts([Part(None, 1, np.array([classes], np.int64))], np.array([2]), 1)
    found = np.full(4, 7.0, np.float32)
    engine._kernels.features(stored.address, 0, 1, found.ctypes.data, 2)
    assert found.tolist() == [0.0, 0.0, 7.0, 7.0]


def test_gradients_with_other_memory_are_noticed() -> None:
    """A gradient whose data were replaced, by the same shape or another, ends with the parameters of the one that was not."""
    ends = []
    for size in (None, 0, 1):

        def replace(model: Any, size: int | None = size) -> None:
            for parameter in model.policy.parameters() if size is not None else ():
                if parameter.grad is not None:
                    parameter.grad.data = th.zeros_like(parameter.grad) if size == 0 else th.zeros(1)

        model = model_of(Counter()).learn(48, callback=Doing(replace))
        ends.append(th.cat([one.flatten() for one in model.policy.state_dict().values()]))
    assert ends[0].equal(ends[1]) and ends[0].equal(ends[2])


def test_parameters_of_another_shape_are_autograds() -> None:
    """A weight that is not (out_features, in_features) is refused by name, and auto leaves it to torch, which says so."""

    def shrink(model: Any) -> None:
        model.policy.value_net.weight.data = th.zeros(1, 1)

    with pytest.raises(ValueError, match="parameters of other shapes"):
        model_of(Counter()).learn(32, callback=Doing(shrink))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model_of(Counter(), "auto").learn(32, callback=Doing(shrink))


@pytest.mark.parametrize("engine", ["auto", "fused"])
def test_parameters_without_memory_are_autograds(engine: str) -> None:
    """A weight whose storage is taken away, as by who offloads parameters, is named; it is torch that says what that means."""
    model = model_of(Counter(), engine).learn(16)
    head: Any = model.policy.action_net
    head.weight.untyped_storage().resize_(0)
    assert "policy.action_net.weight has no memory" in model.engine_reason
    with pytest.raises(RuntimeError if engine == "auto" else ValueError, match="storage"):
        model.learn(16)


@pytest.mark.parametrize("name", ["values", "actions", "log_probs", "observations"])
def test_a_buffer_whose_arrays_an_environment_replaces_is_refused(name: str) -> None:
    """In the middle of a rollout; what stood there is nobody's any more."""

    class Replacing(Counter):
        buffer: Any = None

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            if self.t == 1 and self.buffer is not None:
                setattr(self.buffer, name, np.array(getattr(self.buffer, name)))
            return super().step(action)

    env = Replacing()
    model = model_of(env)
    env.buffer = model.rollout_buffer
    with pytest.raises(RuntimeError, match="rollout_buffer: found other arrays in step 2"):
        model.learn(16)
