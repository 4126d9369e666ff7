"""What users change where the catalogue does not look: options, memory, buffers, losses, attributes of the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from torch import nn

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import FusedEngine
from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.objectives import Evaluation, Objective, PPOObjective, Transitions, UpdateSettings

SETTINGS: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "seed": 3, "device": "cpu"}
NETWORK = {"net_arch": [8], "activation_fn": nn.LeakyReLU}


def parameters(model: Any) -> th.Tensor:
    """All parameters in one vector."""
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def trained(algorithm: Any, change: Callable[[Any], Any], **arguments: Any) -> Any:
    """Learn for a rollout, change something, and learn for two more."""
    model = algorithm("MlpPolicy", "CartPole-v1", policy_kwargs=NETWORK, **SETTINGS, **arguments)
    model.learn(32)
    change(model)
    return model.learn(64, reset_num_timesteps=False)


def other_slope(model: Any) -> None:
    """Change an option of every activation."""
    for module in model.policy.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.5


def tied_through_data(model: Any) -> None:
    """Let two parameters have one memory."""
    towers = model.policy.mlp_extractor
    towers.value_net[0].weight.data = towers.policy_net[0].weight.data


def one_step_count(model: Any) -> None:
    """Let all parameters have one step count."""
    shared = th.tensor(0.0)
    for state in model.policy.optimizer.state.values():
        state["step"] = shared


def smaller_rewards(model: Any) -> None:
    """Patch a method of the rollout buffer."""
    add = model.rollout_buffer.add
    model.rollout_buffer.add = lambda obs, action, reward, *rest: add(obs, action, 0.1 * reward, *rest)


class Watching(RolloutBuffer):
    """Asks the policy for values, and changes it, between two minibatches."""

    def get(self, batch_size: int | None = None) -> Any:
        """Advantages of the critic as it is by now; the first bias grows."""
        for samples in super().get(batch_size):
            with th.no_grad():
                values = self.policy.predict_values(samples.observations).flatten()  # type: ignore[attr-defined]
                self.policy.action_net.bias.data[0] += 0.01  # type: ignore[attr-defined]
            yield samples._replace(advantages=samples.returns - values)


def watching(model: Any) -> None:
    """Give the buffer the policy."""
    model.rollout_buffer.policy = model.policy


CHANGES: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "options of activations": (other_slope, {}),
    "memory of two parameters": (tied_through_data, {}),
    "one step count": (one_step_count, {}),
    "a method of the buffer": (smaller_rewards, {}),
}


@pytest.mark.parametrize("engine", ["autograd", "auto"])
@pytest.mark.parametrize("name", CHANGES)
def test_changed_elsewhere(name: str, engine: Any) -> None:
    """Autograd has the bits of SB3's PPO, the default engine its parameters to rounding."""
    change, arguments = CHANGES[name]
    ours = parameters(trained(EduPPO, change, engine=engine, **arguments))
    theirs = parameters(trained(PPO, change, **arguments))
    assert th.equal(ours, theirs) if engine == "autograd" else th.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("engine", ["autograd", "auto"])
def test_a_buffer_that_knows_the_policy(engine: Any) -> None:
    """Between two minibatches it sees the policy as it is, and what it changes counts."""

    def built(algorithm: Any, **arguments: Any) -> Any:
        model = algorithm(
            "MlpPolicy", "CartPole-v1", rollout_buffer_class=Watching, policy_kwargs=NETWORK, **SETTINGS, **arguments
        )
        watching(model)
        return model.learn(64)

    ours, theirs = parameters(built(EduPPO, engine=engine)), parameters(built(PPO))
    assert th.equal(ours, theirs) if engine == "autograd" else th.allclose(ours, theirs, atol=1e-6)


def without_a_policy_loss(monkeypatch: pytest.MonkeyPatch, where: str) -> Any:
    """Patch the policy's loss to 0; give the objective to use."""

    def nothing(*arguments: Any, **named: Any) -> th.Tensor:
        ratio: th.Tensor = arguments[-3].ratio if where != "losses" else arguments[0]
        return ratio * 0.0

    objective = PPOObjective()
    if where == "instance":
        objective.policy_loss = nothing  # type: ignore[method-assign]
    elif where == "class":
        monkeypatch.setattr(Objective, "policy_loss", nothing)
    else:
        monkeypatch.setattr(losses, "clipped_surrogate_loss", nothing)
    return objective


@pytest.mark.parametrize("where", ["instance", "class", "losses"])
def test_patched_losses_count(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Without a policy loss the actor's last layer stays what it was, whichever engine takes it."""
    objective = without_a_policy_loss(monkeypatch, where)
    model = EduPPO("MlpPolicy", "CartPole-v1", objective=objective, policy_kwargs=NETWORK, **SETTINGS)
    before = model.policy.action_net.weight.detach().clone()  # type: ignore[operator]
    model.learn(64)
    assert th.equal(model.policy.action_net.weight, before)  # type: ignore[arg-type]
    assert model.engine_reason.startswith("autograd: ") == (where != "instance")


def test_half_a_rollout_is_refused() -> None:
    """As in SB3, which asserts that the buffer is full."""
    model = EduPPO("MlpPolicy", "CartPole-v1", policy_kwargs=NETWORK, **SETTINGS).learn(32)
    _, callback = model._setup_learn(16)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=16)
    with pytest.raises(AssertionError, match=r"found 16 of its 32 steps, expected all"):
        model.train()


def test_attributes_set_wrongly_are_refused_in_learn() -> None:
    """An engine that is misspelt, an option that there is not, parts that do not divide a minibatch: each is named."""
    for name, value, words in (
        ("engine", "autogard", "engine='autogard'"),
        ("engine_kwargs", {"bf61": True}, "'bf61'"),
        ("micro_batch_size", 12, "micro_batch_size=12: expected a divisor of batch_size=16"),
    ):
        model = EduPPO("MlpPolicy", "CartPole-v1", policy_kwargs=NETWORK, **SETTINGS).learn(32)
        setattr(model, name, value)
        with pytest.raises(ValueError, match=words):
            model.learn(32)


class WrongShape(Objective):
    """Every transition against every other."""

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Shape (batch, batch)."""
        return -now.ratio[:, None] * data.advantages


def test_a_loss_that_would_be_broadcast_is_refused() -> None:
    """It trains, but wrongly."""
    model = EduPPO("MlpPolicy", "CartPole-v1", objective=WrongShape, policy_kwargs=NETWORK, **SETTINGS)
    with pytest.raises(ValueError, match=r"WrongShape.policy_loss gave shape \(16, 16\), expected a tensor of shape \(16,\)"):
        model.learn(32)


class WrongEntropy(Objective):
    """One number for all."""

    def entropy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> Any:
        """Shape ()."""
        return now.log_prob.mean()


class NoWeights(Objective):
    """Nothing counts."""

    def weights(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> Any:
        """Zeros."""
        return th.zeros_like(data.advantages)


class OnlyTotal(Objective):
    """The sum without its parts."""

    def __call__(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> Any:
        """No Losses."""
        return super().__call__(now, data, settings).total


class NotAveraged(Objective):
    """A loss of each transition."""

    def __call__(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> Any:
        """No scalar."""
        return super().__call__(now, data, settings)._replace(total=now.ratio)


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (WrongEntropy, r"WrongEntropy.entropy_loss gave shape \(\), expected a tensor of shape \(16,\)"),
        (NoWeights, r"NoWeights.weights gave tensor\(.*expected numbers ≥ 0, not all 0"),
    ],
)
def test_all_that_an_objective_gives_is_checked(objective: type[Objective], words: str, engine: Any) -> None:
    """By the class and the method that gave it, whichever engine asks."""
    model = EduPPO("MlpPolicy", "CartPole-v1", objective=objective, engine=engine, policy_kwargs=NETWORK, **SETTINGS)
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)):
        model.learn(32)


@pytest.mark.parametrize("objective", [OnlyTotal, NotAveraged])
def test_what_is_no_losses_is_refused(objective: type[Objective]) -> None:
    """Nothing could be logged, or nothing differentiated."""
    model = EduPPO("MlpPolicy", "CartPole-v1", objective=objective, policy_kwargs=NETWORK, **SETTINGS)
    with pytest.raises(ValueError, match=rf"(?s){objective.__name__}.__call__ gave .*, expected Losses of scalar tensors"):
        model.learn(32)


class OneSlope(Objective):
    """The derivative of one transition for all."""

    def __init__(self, found: Any = None) -> None:
        self.found = found

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """PPO's own."""
        return super().policy_loss(now, data, settings)

    def gradients(self, *given: Any) -> Any:
        """One number, or what was given."""
        found, slopes = super().gradients(*given)
        return self.found or (found, slopes._replace(values=slopes.values[:1]))


@pytest.mark.parametrize("engine", ["numpy", "fused"])
def test_derivatives_that_would_be_broadcast_are_refused(engine: Any) -> None:
    """They train, but wrongly; and so is what are no derivatives."""
    for objective, words in (
        (OneSlope(), r"OneSlope.gradients gave values of shape \(1,\), expected shape \(16,\)"),
        (OneSlope("none"), r"OneSlope.gradients gave 'none', expected a pair of Losses and Derivatives"),
    ):
        model = EduPPO("MlpPolicy", "CartPole-v1", objective=objective, engine=engine, policy_kwargs=NETWORK, **SETTINGS)
        with pytest.raises(ValueError, match=words):
            model.learn(32)


def test_an_action_that_unscaling_makes_infinite_reaches_no_environment() -> None:
    """Bounds so wide that their distance is more than a float can hold."""

    class Wide(gym.Env[Any, Any]):
        """Counts its steps."""

        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Box(-3e38, 3e38, (1,))
        steps = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            """Begin."""
            return np.zeros(2, np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            """Count."""
            self.steps += 1
            return np.zeros(2, np.float32), 0.0, False, False, {}

    env = Wide()
    model = EduPPO("MlpPolicy", env, use_sde=True, policy_kwargs={"squash_output": True, **NETWORK}, **SETTINGS)
    with pytest.raises(ValueError, match="No environment was stepped"):
        model.learn(32)
    assert env.steps == 0


def test_an_engine_of_ours_given_as_a_class_looks_at_the_policy() -> None:
    """``engine=FusedEngine`` is ``engine="fused"``: it refuses frozen layers, which it would train."""
    model = EduPPO("MlpPolicy", "CartPole-v1", engine=FusedEngine, policy_kwargs=NETWORK, **SETTINGS).learn(32)
    model.policy.mlp_extractor.policy_net.requires_grad_(False)
    with pytest.raises(ValueError, match="some parameters are frozen"):
        model.learn(32)
