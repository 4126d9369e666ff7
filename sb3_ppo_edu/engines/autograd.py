"""The reference engine: the policy's own modules, differentiated by torch's autograd."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples

from sb3_ppo_edu import losses
from sb3_ppo_edu.engines.base import (
    MinibatchStatistics,
    NonFiniteUpdateError,
    UpdateSettings,
    check_finite,
    check_finite_norm,
    project_log_std,
)


class AutogradEngine:
    """
    Acts and updates through ``policy.forward`` and ``policy.evaluate_actions``, for any policy on any device.

    With SB3's arguments only, every operation and its order are those of SB3's ``PPO``, so results agree to the bit.

    :param policy: actor-critic policy with its optimizer
    """

    name = "autograd"

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self._discrete = isinstance(policy.action_space, spaces.Discrete)
        self._settings: UpdateSettings | None = None

    def act(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        with th.no_grad():
            actions, values, log_probs = self.policy(observations)
        return actions, values, log_probs

    def value(self, observations: PyTorchObs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        with th.no_grad():
            return self.policy.predict_values(observations)

    def attach(self) -> None:
        """Nothing to do: the policy's modules are used as they are."""

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[RolloutBufferSamples]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`."""
        return iter(rollout_buffer.get(batch_size))

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
        entropy_loss = losses.entropy_loss(entropy, log_prob)
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
        self.policy.optimizer.zero_grad()
        loss.backward()
        self._settings = settings
        return statistics

    def apply(self) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        assert self._settings is not None, "apply() needs the gradients of a preceding gradients() call"
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self._settings.max_grad_norm).item()
        check_finite_norm(grad_norm)
        self.policy.optimizer.step()
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
            return self.policy.evaluate_actions(observations, actions)
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
