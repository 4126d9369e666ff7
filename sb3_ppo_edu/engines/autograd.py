"""The reference engine: the policy's own modules, differentiated by torch's autograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples

from sb3_ppo_edu import losses
from sb3_ppo_edu.buffers import shuffled_minibatches
from sb3_ppo_edu.engines.base import (
    MinibatchStatistics,
    NonFiniteUpdateError,
    UpdateSettings,
    check_finite,
    check_finite_norm,
    project_log_std,
)
from sb3_ppo_edu.engines.flat import FlatOptimizer, FlatParameters, why_not_flat


class PlainStepper:
    """
    Clips and steps as SB3 does, for any policy, optimizer and device.

    :param policy: actor-critic policy with its optimizer
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.optimizer = policy.optimizer

    def attach(self) -> None:
        """Nothing is shared."""

    def zero_grad(self) -> None:
        """Forget the last gradients."""
        self.optimizer.zero_grad()

    def clip(self, max_grad_norm: float) -> float:
        """
        Scale the gradients down to a global norm.

        :param max_grad_norm: the largest norm
        :return: the norm before
        """
        return th.nn.utils.clip_grad_norm_(self.policy.parameters(), max_grad_norm).item()

    def step(self) -> None:
        """Take the optimizer's step."""
        self.optimizer.step()


class FlatStepper:
    """
    Clips and steps to the same bits on flat tensors, see :mod:`sb3_ppo_edu.engines.flat`.

    Torch's optimizers loop over the parameters, a dozen calls for each; an MLP policy has a dozen small ones.

    :param policy: actor-critic policy with its optimizer
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.optimizer = policy.optimizer
        self._flat = FlatParameters(list(policy.parameters()))
        self._flat_optimizer = FlatOptimizer(policy.optimizer, self._flat)
        self.attach()

    def attach(self) -> None:
        """Take over parameters, gradients and optimizer state that others have touched."""
        self._flat.attach()
        self._flat.attach_gradients()
        self._flat_optimizer.attach()

    def zero_grad(self) -> None:
        """Forget the last gradients."""
        self._flat.gradients.tensor.zero_()

    def clip(self, max_grad_norm: float) -> float:
        """
        Scale the gradients down to a global norm, as ``torch.nn.utils.clip_grad_norm_`` computes it.

        :param max_grad_norm: the largest norm
        :return: the norm before
        """
        # The norm of the parameters' norms: that of the flat tensor would be rounded differently.
        norm = th.nn.utils.get_total_norm(self._flat.gradients.views)
        self._flat.gradients.tensor.mul_(th.clamp(max_grad_norm / (norm + 1e-6), max=1.0))
        return norm.item()

    def step(self) -> None:
        """Take the optimizer's step."""
        self._flat_optimizer.step()


FLAT_LIMIT = 2**18
"""Parameters up to which one flat tensor pays: a larger one falls out of the cache between two elementwise operations, while
its parts, one after another, do not (measured: 1.15 times as fast as SB3 at 140,000 parameters, 0.8 times at 550,000)."""

FULLY_TRAINED_MODULES = (FlattenExtractor, NatureCNN, CombinedExtractor, MlpExtractor)
"""Modules of SB3 whose every parameter has a gradient in every minibatch. Torch skips a parameter without one; a flat tensor
can't."""


def make_stepper(policy: ActorCriticPolicy) -> PlainStepper | FlatStepper:
    """
    Choose how to clip and step.

    :param policy: actor-critic policy with its optimizer
    :return: on flat tensors for policies that are SB3's or ours in all parts and not too large, else as SB3 does
    """
    if sum(parameter.numel() for parameter in policy.parameters()) > FLAT_LIMIT:
        return PlainStepper(policy)
    parts = (policy.pi_features_extractor, policy.vf_features_extractor, policy.mlp_extractor)
    own = type(policy).__module__ in (ActorCriticPolicy.__module__, "sb3_ppo_edu.policies")
    if own and all(type(part) in FULLY_TRAINED_MODULES for part in parts) and why_not_flat(policy) is None:
        return FlatStepper(policy)
    return PlainStepper(policy)


def as_float(module: th.nn.Module, inputs: Any, output: th.Tensor) -> th.Tensor:
    """
    Leave bfloat16 behind the last layer: a logarithm with eight bits would spoil every ratio.

    :param module: the layer
    :param inputs: of the layer
    :param output: of the layer
    :return: the output, in float32 if it was in bfloat16
    """
    return output.float() if output.dtype == th.bfloat16 else output


class AutogradEngine:
    """
    Acts and updates through ``policy.forward`` and ``policy.evaluate_actions``, for any policy on any device.

    With SB3's arguments only, every operation and its order are those of SB3's ``PPO``, so results agree to the bit.

    :param policy: actor-critic policy with its optimizer
    :param compile: compile ``policy.evaluate_actions`` and its gradient with ``torch.compile``; results then agree to within
        rounding only
    :param bf16: compute the networks in bfloat16 (``torch.autocast``), when acting too, so that old and new log-probabilities
        are of one kind; parameters, losses and the optimizer stay in float32
    """

    name = "autograd"

    def __init__(self, policy: ActorCriticPolicy, *, compile: bool = False, bf16: bool = False) -> None:
        self.policy, self.bf16 = policy, bf16
        if bf16:
            for layer in (policy.action_net, policy.value_net):
                layer.register_forward_hook(as_float)
        self._compiled = th.compile(policy.evaluate_actions) if compile else None
        self._discrete = isinstance(policy.action_space, spaces.Discrete)
        self._settings: UpdateSettings | None = None
        self._ratios = th.empty(0)
        self._stepper: PlainStepper | FlatStepper = make_stepper(policy)

    def act(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        with th.no_grad(), self._precision():
            actions, values, log_probs = self.policy(observations)
        return actions, values, log_probs

    def _precision(self) -> AbstractContextManager[Any]:
        """
        Choose the precision of the networks.

        :return: a context for calls of the policy
        """
        return th.autocast(self.policy.device.type, th.bfloat16) if self.bf16 else nullcontext()

    def value(self, observations: PyTorchObs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        with th.no_grad(), self._precision():
            return self.policy.predict_values(observations)

    def attach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.attach`."""
        if self._stepper.optimizer is not self.policy.optimizer:
            self._stepper = make_stepper(self.policy)
        self._stepper.attach()

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[RolloutBufferSamples]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`."""
        return shuffled_minibatches(rollout_buffer, batch_size)

    def gradients(self, minibatch: RolloutBufferSamples, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        # The buffer stores floats; a Categorical wants the index of the action.
        actions = minibatch.actions.long().flatten() if self._discrete else minibatch.actions
        values, log_prob, entropy = self._evaluate(minibatch.observations, actions)
        advantages = self._advantages(minibatch.advantages, settings)

        log_ratio = log_prob - minibatch.old_log_prob
        ratio = th.exp(log_ratio)
        policy_loss = losses.clipped_surrogate_loss(ratio, advantages, settings.clip_range, settings.dual_clip)
        value_loss = losses.value_loss(
            values.flatten(), minibatch.returns, minibatch.old_values, settings.clip_range_vf, settings.vf_clip_mode
        )
        # Without a weight the entropy is only logged: its graph would add zeros to the gradients.
        entropy_loss = losses.entropy_loss(entropy, log_prob)
        if settings.ent_coef == 0.0:
            entropy_loss = entropy_loss.detach()
        loss = policy_loss + settings.ent_coef * entropy_loss + settings.vf_coef * value_loss

        with th.no_grad():
            statistics = MinibatchStatistics(
                policy_loss=policy_loss.item(),
                value_loss=value_loss.item(),
                entropy_loss=entropy_loss.item(),
                loss=loss.item(),
                approx_kl=np.float32(losses.approx_kl(log_ratio, settings.kl_estimator).item()),
                clip_fraction=losses.clip_fraction(ratio, settings.clip_range).item(),
                ratio_max=ratio.max().item(),
            )
        check_finite(statistics)
        self._stepper.zero_grad()
        loss.backward()
        self._settings, self._ratios = settings, ratio.detach()
        return statistics

    def last_ratios(self) -> np.ndarray:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.last_ratios`."""
        ratios: np.ndarray = self._ratios.cpu().numpy()
        return ratios

    def apply(self) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        if self._settings is None:
            raise RuntimeError("apply() needs the gradients of a preceding gradients() call")
        grad_norm = self._stepper.clip(self._settings.max_grad_norm)
        check_finite_norm(grad_norm)
        self._stepper.step()
        project_log_std(self.policy, self._settings.log_std_bounds)
        return grad_norm

    def _evaluate(self, observations: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        Values, log-probabilities and entropies under the current parameters.

        :param observations: shape ``(batch, ...)`` (or a dict of such)
        :param actions: actions as stored in the buffer
        :return: values ``(batch, 1)``, log-probabilities ``(batch,)``, entropies ``(batch,)`` or None
        :raises NonFiniteUpdateError: where torch's distributions refuse parameters that are not finite
        """
        try:
            with self._precision():
                return (self._compiled or self.policy.evaluate_actions)(observations, actions)
        except ValueError as error:
            # torch.distributions validates its parameters: NaN logits or means end here, before there is a loss.
            if "Expected parameter" not in str(error):
                raise
            raise NonFiniteUpdateError(f"policy output: {str(error).splitlines()[0]}") from error

    @staticmethod
    def _advantages(advantages: th.Tensor, settings: UpdateSettings) -> th.Tensor:
        """
        Advantages as the policy loss uses them.

        :param advantages: raw advantages, shape ``(batch,)``
        :param settings: settings of this update
        :return: shape ``(batch,)``
        """
        if settings.normalize_advantage:
            advantages = losses.normalize_advantages(advantages, settings.advantage_moments)
        if settings.clip_advantage is not None:
            advantages = advantages.clamp(-settings.clip_advantage, settings.clip_advantage)
        return advantages
