"""The engine whose backward passes are written down. The README beside this file derives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.base import (
    MinibatchStatistics,
    PolicyInputs,
    check_finite,
    check_finite_norm,
    project_log_std,
    statistics_of,
    stops,
)
from sb3_ppo_edu.engines.derivation.distributions import action_distribution, forbid
from sb3_ppo_edu.engines.derivation.layers import Linear, Network
from sb3_ppo_edu.engines.features import features_of
from sb3_ppo_edu.engines.support import first_features, shared_net
from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.objectives import Array, Transitions, UpdateSettings, derivatives_of
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.rollouts.buffers import possible_actions, shuffled_minibatches

quietly = np.errstate(over="ignore", divide="ignore", invalid="ignore")
"""Numbers that are not finite end in an error of ours, not in numpy's warnings."""


class NumpyEngine:
    """
    Acts and updates by forward and backward passes in numpy, on the parameters' own memory, in their own precision.

    It serves what :func:`sb3_ppo_edu.engines.support.why_not_derived` does not refuse, with any objective and any optimizer.
    Gradients agree with autograd's to rounding; random numbers are SB3's, in SB3's order.

    :param policy: actor-critic policy with its optimizer
    """

    name = "numpy"

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self._further = further_inputs(policy)
        self.attach()

    def attach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.attach`: look up modules and memory anew."""
        network = self.policy.mlp_extractor
        self.shared = Network(shared_net(self.policy).children())
        self.actor = Network([*network.policy_net, self.policy.action_net])
        self.critic = Network([*network.value_net, self.policy.value_net])
        head = self.actor.layers[-1]
        assert isinstance(head, Linear)
        self.distribution = action_distribution(self.policy, head)
        self.actor_inputs = first_features(self.policy)

    def detach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.detach`: the policy has everything already."""

    @quietly
    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        x = self._features(inputs.observations)
        outputs, values = forbid(self.actor.forward(x[:, : self.actor_inputs]), inputs.action_masks), self.critic.forward(x)
        actions = self.distribution.sample(outputs)
        log_prob, _ = self.distribution.evaluate(outputs, actions)
        shape = (len(x), *(self.policy.action_space.shape or ()))
        return th.from_numpy(actions).reshape(shape), th.from_numpy(values), th.from_numpy(log_prob)

    @quietly
    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        return th.from_numpy(self.critic.forward(self._features(inputs.observations)))

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.columns`."""
        return inputs.columns()

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[TensorMinibatch]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`."""
        return map(TensorMinibatch, shuffled_minibatches(rollout_buffer, batch_size))

    @quietly
    def gradients(self, minibatch: TensorMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        samples = minibatch.samples
        x = self._features(samples.observations)
        actions = possible_actions(self.policy.action_space, samples.actions.numpy())
        masks = minibatch.further(self._further).get("action_masks")
        outputs, values = forbid(self.actor.forward(x[:, : self.actor_inputs]), masks), self.critic.forward(x)[:, 0]
        log_prob, entropy = self.distribution.evaluate(outputs, actions)
        advantages = losses.policy_advantages(
            samples.advantages, settings.normalize_advantage, settings.advantage_moments, settings.clip_advantage
        )
        data = Transitions(samples.old_log_prob, samples.old_values, advantages, samples.returns)
        found, derivatives = derivatives_of(settings.objective, log_prob, values, entropy, data, settings)

        statistics = statistics_of(found, th.from_numpy(log_prob), samples.old_log_prob, settings)
        check_finite(statistics)
        if stops(statistics, settings):
            return statistics
        self.policy.optimizer.zero_grad()
        of_actor = self.actor.backward(self.distribution.backward(derivatives.log_prob, derivatives.entropy))
        of_critic = self.critic.backward(derivatives.values[:, None])
        if self.shared.layers:
            self.shared.backward(of_actor + of_critic)
        return statistics

    def apply(self, settings: UpdateSettings) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), settings.max_grad_norm).item()
        check_finite_norm(grad_norm)
        self.policy.optimizer.step()
        project_log_std(self.policy, settings.log_std_bounds)
        return grad_norm

    def _features(self, observations: PyTorchObs) -> Array:
        """The matrix that actor and critic take, in the parameters' precision: the features, behind the layers they share."""
        x: Array = features_of(self.policy, observations).to(self.policy.value_net.weight.dtype).numpy()
        return self.shared.forward(x)
