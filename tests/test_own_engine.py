"""An engine from outside: a class that the package does not know, with a column of its own in the rollout buffer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import MinibatchStatistics, PolicyInputs, UpdateSettings
from sb3_ppo_edu.serialization.errors import UntrustedFileError
from tests.rollouts import N_STEPS, collect, largest_difference, make_env, make_model, parameters_of


class OwnSamples(NamedTuple):
    """What :class:`OwnEngine` learns from."""

    samples: Any

    @property
    def size(self) -> int:
        """Number of transitions."""
        return len(self.samples.returns)

    @property
    def advantages(self) -> th.Tensor:
        """As the buffer has them."""
        advantages: th.Tensor = self.samples.advantages
        return advantages


class OwnEngine:
    """An engine that shares nothing with the package's: plain torch, no clipping, one more column in the buffer."""

    name = "own"

    def __init__(self, policy: ActorCriticPolicy, *, scale: float = 1.0) -> None:
        self.policy, self.scale = policy, scale
        self.attached = self.detached = 0

    def attach(self) -> None:
        """Count."""
        self.attached += 1

    def detach(self) -> None:
        """Count."""
        self.detached += 1

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Ask the policy."""
        with th.no_grad():
            found: tuple[th.Tensor, th.Tensor, th.Tensor] = self.policy(inputs.observations)
        return found

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """Ask the policy."""
        with th.no_grad():
            return self.policy.predict_values(inputs.observations)

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """The sum of what was seen."""
        assert isinstance(inputs.observations, th.Tensor)
        return {"seen": inputs.observations.sum(dim=1).numpy()}

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[OwnSamples]:
        """Ask the buffer."""
        return map(OwnSamples, rollout_buffer.get(batch_size))

    def gradients(self, minibatch: OwnSamples, settings: UpdateSettings) -> MinibatchStatistics:
        """Differentiate the mean of -r·Â, times a scale of one's own."""
        samples = minibatch.samples
        _, log_prob, _ = self.policy.evaluate_actions(samples.observations, samples.actions)
        ratio = (log_prob - samples.old_log_prob).exp()
        loss = -self.scale * (ratio * samples.advantages).mean()
        self.policy.optimizer.zero_grad()
        loss.backward()
        number = loss.item()
        largest = ratio.max().item()
        return MinibatchStatistics(number, 0.0, 0.0, number, np.float32(0.0), 0.0, largest, ratio.detach())

    def apply(self, settings: UpdateSettings) -> float:
        """Take torch's step."""
        self.policy.optimizer.step()
        return 1.0


class SeeingBuffer(RolloutBuffer):
    """Stores one column more."""

    def reset(self) -> None:
        """Make room for it."""
        super().reset()
        self.seen = np.zeros((self.buffer_size, self.n_envs), np.float32)

    def add(self, *args: Any, seen: np.ndarray | None = None, **kwargs: Any) -> None:
        """Store it."""
        assert seen is not None
        self.seen[self.pos] = seen
        super().add(*args, **kwargs)


def own_engine(policy: ActorCriticPolicy, **options: Any) -> OwnEngine:
    """Make one, by a function."""
    return OwnEngine(policy, **options)


@pytest.mark.parametrize("given_as", [OwnEngine, own_engine, lambda policy, scale: OwnEngine(policy, scale=scale)])
def test_an_engine_from_outside_trains(given_as: Any) -> None:
    """
    Given as class or function it gets policy and options, acts, stores a column more, and takes the steps.

    Nothing of the package has to know it. After one update of two epochs the parameters are those of the loss written out.
    """
    model = make_model(
        n_envs=2,
        engine=given_as,
        engine_kwargs={"scale": 0.5},
        learning_rate=0.1,
        n_epochs=2,
        rollout_buffer_class=SeeingBuffer,
    )
    assert model.engine_reason == f"own: it was given as {given_as.__name__}."
    collect(model)
    buffer: Any = model.rollout_buffer
    np.testing.assert_allclose(buffer.seen, buffer.observations.sum(axis=2), rtol=1e-5)
    assert np.abs(buffer.seen).max() > 0
    policy = copy.deepcopy(model.policy)
    samples = next(copy.deepcopy(model.rollout_buffer).get())
    for _ in range(2):
        _, log_prob, _ = policy.evaluate_actions(samples.observations, samples.actions)
        loss = -0.5 * ((log_prob - samples.old_log_prob).exp() * samples.advantages).mean()
        gradients = th.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
        with th.no_grad():
            for parameter, gradient in zip(policy.parameters(), gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(0.1 * gradient)
    model.train()
    assert largest_difference(parameters_of(model), {name: p.detach() for name, p in policy.named_parameters()}) < 1e-5
    engine = model.attach_engine()
    assert isinstance(engine, OwnEngine)
    assert engine.detached == 1 and engine.attached == 3, "attached before rollout, update and this look; let go after it"
    assert model.logger.name_to_value["train/loss"] < 0.0


def test_an_engine_from_outside_is_saved_by_nobody(tmp_path: Any) -> None:
    """The class goes into the file as any argument does, the engine itself does not, and the loaded model has its own."""
    model = make_model(engine=OwnEngine, rollout_buffer_class=SeeingBuffer)
    model.learn(N_STEPS)
    model.save(tmp_path / "model")
    loaded = EduPPO.load(tmp_path / "model", env=make_env(), device="cpu")
    assert loaded.engine is OwnEngine
    loaded.learn(N_STEPS)
    assert isinstance(loaded.attach_engine(), OwnEngine)
    assert loaded.attach_engine() is not model.attach_engine()
    with pytest.raises(UntrustedFileError, match=r"attribute 'engine': found tests\.test_own_engine\.OwnEngine"):
        EduPPO.load(tmp_path / "model", device="cpu", trusted=False)


def test_a_column_that_the_buffer_does_not_know_is_an_error() -> None:
    """SB3's own buffer has no such column: it says so instead of dropping it."""
    with pytest.raises(TypeError, match="seen"):
        collect(make_model(engine=OwnEngine))


def test_a_function_that_gives_no_engine_is_an_error() -> None:
    """It is named with what it gave, where training begins."""
    with pytest.raises(TypeError, match=r"^engine=<lambda>: it gave 3 for the policy, expected an engine"):
        make_model(engine=lambda policy: 3).learn(N_STEPS)
