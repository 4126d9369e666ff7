"""The fused engine: the same act and update as the autograd engine, by hand-derived passes over flat arrays.

For MLP policies on a CPU nearly all of PPO's time under autograd goes into operator and graph overhead: a minibatch of 64
through two towers of 64 x 64 is about 0.1 ms of arithmetic. Here a minibatch is some seventy numpy calls into memory that
is allocated once. The README in ../derivation derives every backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ppo_edu.engines.base import MinibatchStatistics, PolicyInputs, check_finite, check_finite_norm
from sb3_ppo_edu.engines.flat import FlatParameters, make_fast_optimizer, why_not_flat
from sb3_ppo_edu.engines.fused.heads import make_head
from sb3_ppo_edu.engines.fused.layers import LinearStack, OutputLayer, TowerStack, make_activation
from sb3_ppo_edu.engines.fused.products import ONE_THREAD_PRODUCT, ONE_THREAD_STEP, OneThread, dot
from sb3_ppo_edu.engines.support import Tower, read_tower, why_not_derived
from sb3_ppo_edu.functional.losses import ADVANTAGE_EPS
from sb3_ppo_edu.functional.objectives import Array, Objective, PPOObjective, UpdateSettings
from sb3_ppo_edu.rollouts.buffers import is_plain, shuffle_rollout

CLIP_EPS = 1e-6
"""Added to the gradient norm before dividing by it, as in ``torch.nn.utils.clip_grad_norm_``."""


class FusedMinibatch(NamedTuple):
    """
    Transitions as the passes want them, all with ``batch`` rows.

    :param observations: flattened observations, a tensor of shape ``(batch, features)``
    :param actions: as the rollout buffer stores them, shape ``(batch, action_dim)``
    :param old_values: shape ``(batch,)``
    :param old_log_prob: shape ``(batch,)``
    :param advantages: shape ``(batch,)``
    :param returns: shape ``(batch,)``
    """

    observations: th.Tensor
    actions: NDArray[Any]
    old_values: Array
    old_log_prob: Array
    advantages: Array
    returns: Array

    @property
    def size(self) -> int:
        """Number of transitions."""
        return len(self.returns)


def why_not_fused(policy: ActorCriticPolicy, settings_objective: Objective) -> str | None:
    """
    Find the first thing that the fused engine does not support.

    :param policy: actor-critic policy with its optimizer
    :param settings_objective: what is to be minimised
    :return: what it is, as the end of a sentence, or None if all is supported
    """
    if type(settings_objective) is not PPOObjective or vars(settings_objective):
        changed = " with attributes of its own" if type(settings_objective) is PPOObjective else ""
        return f"the objective is {type(settings_objective).__name__}{changed}"
    return why_not_derived(policy) or why_not_flat(policy)


class FusedEngine:
    """
    Acts and updates by hand-derived forward and backward passes.

    It supports what :func:`why_not_fused` does not refuse. Results agree with the autograd engine to float rounding, random
    numbers are drawn from the same streams in the same order.

    :param policy: actor-critic policy with its optimizer
    """

    name = "fused"

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        actor, critic = read_tower(policy.mlp_extractor.policy_net), read_tower(policy.mlp_extractor.value_net)
        assert actor is not None and critic is not None, why_not_derived(policy)
        alike = actor.shape() == critic.shape() and repr(actor.activations) == repr(critic.activations)
        self._side_by_side = len(actor.linears) > 0 and alike
        self.flat = FlatParameters(self._memory_order(actor, critic))
        if self._side_by_side:
            stack = self._make_stack([actor, critic])
            self._actor_stack = self._critic_stack = stack
        else:
            self._actor_stack, self._critic_stack = self._make_stack([actor]), self._make_stack([critic])
        self._action_layer = self._make_output_layer(policy.action_net)
        self._value_layer = self._make_output_layer(policy.value_net)
        has_log_std = hasattr(policy, "log_std")
        log_std, log_std_grad = self.flat.view([policy.log_std]) if has_log_std else (None, None)
        self._log_std = log_std
        head = make_head(
            policy.action_dist,
            None if log_std is None else log_std[0].numpy(),
            None if log_std_grad is None else log_std_grad[0].numpy(),
        )
        assert head is not None, f"no head for {type(policy.action_dist).__name__}"
        self.head = head
        self.optimizer = make_fast_optimizer(policy.optimizer, self.flat)
        self._flat_gradients: Array = self.flat.gradients.tensor.numpy()
        self._dtype = self.flat.values.tensor.dtype
        space = policy.observation_space
        self._plain_box = isinstance(space, spaces.Box) and not (policy.normalize_images and is_image_space(space))
        self._action_shape = policy.action_space.shape or ()
        self._largest_weight = max(parameter.numel() for parameter in policy.parameters())
        self._updating = False
        self.attach()

    # -- construction ----------------------------------------------------------------------------------------------------

    def _memory_order(self, actor: Tower, critic: Tower) -> list[nn.Parameter]:
        """
        Order the parameters so that layers computed side by side are neighbours.

        :param actor: the actor's tower
        :param critic: the critic's tower
        :return: all parameters of the policy
        """
        layers: list[list[Any]]
        if self._side_by_side:
            layers = [list(pair) for pair in zip(actor.linears, critic.linears, strict=True)]
        else:
            layers = [[linear] for linear in (*actor.linears, *critic.linears)]
        layers += [[self.policy.action_net], [self.policy.value_net]]
        ordered: list[nn.Parameter] = []
        for group in layers:
            ordered += [linear.weight for linear in group]
            ordered += [linear.bias for linear in group]
        known = {id(parameter) for parameter in ordered}
        return ordered + [parameter for parameter in self.policy.parameters() if id(parameter) not in known]

    def _make_layer(self, linears: list[Any]) -> LinearStack:
        """
        View the memory of linear layers of one shape.

        :param linears: neighbours in the flat buffer
        :return: the layer
        """
        weight, weight_grad = self.flat.view([linear.weight for linear in linears])
        bias, bias_grad = self.flat.view([linear.bias for linear in linears])
        return LinearStack(weight, bias[:, None, :], weight_grad, bias_grad[:, None, :])

    def _make_output_layer(self, linear: Any) -> OutputLayer:
        """
        View the memory of an output layer.

        :param linear: the policy's action net or value net
        :return: the layer
        """
        weight, weight_grad = self.flat.view([linear.weight])
        bias, bias_grad = self.flat.view([linear.bias])
        return OutputLayer(*(tensor[0] for tensor in (weight, bias, weight_grad, bias_grad)))

    def _make_stack(self, towers: list[Tower]) -> TowerStack | None:
        """
        Build the stack of towers of one shape.

        :param towers: one tower, or two of equal shape
        :return: the stack, or None where there are no hidden layers
        """
        if not towers[0].linears:
            return None
        activation = make_activation(towers[0].activations[0])
        assert activation is not None
        layers = [self._make_layer(list(linears)) for linears in zip(*(tower.linears for tower in towers), strict=True)]
        return TowerStack(layers, activation)

    # -- acting ----------------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.attach`."""
        self.detach()
        self.flat.load()

    def detach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.detach`."""
        if self._updating:
            # First: what is interrupted here must not be stored again later, over what has come since.
            self._updating = False
            self.flat.store()
            self.optimizer.store()

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        x = self._features(inputs.observations)
        with OneThread(self._is_small(x.shape[0])):
            outputs, values = self._forward(x)
            actions, log_prob = self.head.sample(outputs)
        return (
            th.from_numpy(actions.reshape((x.shape[0], *self._action_shape))),
            th.from_numpy(values),
            th.from_numpy(log_prob),
        )

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.columns`."""
        return {}

    def _is_small(self, rows: int) -> bool:
        """
        Tell whether threads would only wait for each other in a pass.

        :param rows: rows of the pass
        :return: True if one thread is enough
        """
        return rows * self._largest_weight <= ONE_THREAD_PRODUCT

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        _, values = self._forward(self._features(inputs.observations))
        return th.from_numpy(values)

    def _features(self, observations: PyTorchObs) -> th.Tensor:
        """
        Preprocess and flatten observations as the policy does.

        :param observations: batch of observations
        :return: shape ``(batch, features)``, in the parameters' type
        """
        assert isinstance(observations, th.Tensor)
        features: Any = observations
        if not self._plain_box:
            with th.no_grad():
                policy = self.policy
                features = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
        if features.ndim != 2:
            features = features.flatten(1)
        flat: th.Tensor = features if features.dtype == self._dtype else features.to(self._dtype)
        return flat

    def _forward(self, x: th.Tensor) -> tuple[Array, Array]:
        """
        Outputs of the action net and values.

        :param x: features, shape ``(batch, features)``
        :return: ``(batch, n_outputs)`` and ``(batch, 1)``, freshly allocated
        """
        if self._side_by_side:
            assert self._actor_stack is not None
            self._latent_pi, self._latent_vf = self._actor_stack.forward(x)
        else:
            self._latent_pi = x.numpy() if self._actor_stack is None else self._actor_stack.forward(x)[0]
            self._latent_vf = x.numpy() if self._critic_stack is None else self._critic_stack.forward(x)[0]
        return self._action_layer.forward(self._latent_pi), self._value_layer.forward(self._latent_vf)

    # -- updating --------------------------------------------------------------------------------------------------------

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[FusedMinibatch]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`."""
        if not is_plain(rollout_buffer):
            own_minibatches = rollout_buffer.get(batch_size)
            while True:
                # A buffer of the user's own may look at the policy, or change it, between two minibatches.
                self.attach()
                if (samples := next(own_minibatches, None)) is None:
                    return
                self.attach()
                columns = (samples.actions, samples.old_values, samples.old_log_prob, samples.advantages, samples.returns)
                yield FusedMinibatch(self._features(samples.observations), *(column.numpy() for column in columns))
        for block in shuffle_rollout(rollout_buffer, batch_size):
            features = self._features(th.from_numpy(block.observations)).numpy()
            for start in range(0, len(features), batch_size):
                rows = slice(start, start + batch_size)
                yield FusedMinibatch(th.from_numpy(features[rows]), *(column[rows] for column in block[1:]))

    def gradients(self, minibatch: FusedMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        if not self._updating:
            self.flat.lend_gradients()
            self.optimizer.load()
            self._updating = True
        with OneThread(self._is_small(minibatch.size)):
            return self._gradients(minibatch, settings)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what is not finite ends in an error of our own
    def _gradients(self, minibatch: FusedMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """
        Do the work of :meth:`gradients`: forward, losses, backward.

        :param minibatch: transitions of the rollout
        :param settings: settings of this update
        :return: statistics of the minibatch
        """
        x, batch = minibatch.observations, len(minibatch.returns)
        outputs, values = self._forward(x)
        values = values[:, 0]
        log_prob, entropy = self.head.evaluate(outputs, minibatch.actions)
        advantages = self._advantages(minibatch.advantages, settings)

        log_ratio = log_prob - minibatch.old_log_prob
        ratio = np.exp(log_ratio)
        policy_loss, ratio_grad, n_clipped = surrogate(ratio, advantages, settings)
        value_loss, value_grad = value_error(values, minibatch, settings)
        statistics = MinibatchStatistics(
            policy_loss=policy_loss,
            value_loss=value_loss,
            entropy_loss=-entropy,
            loss=policy_loss - settings.ent_coef * entropy + settings.vf_coef * value_loss,
            approx_kl=kl_estimate(log_ratio, ratio, settings),
            clip_fraction=n_clipped / batch,
            ratio_max=float(np.maximum.reduce(ratio)),
            ratios=ratio,
        )
        check_finite(statistics)

        # d ratio / d log_prob = ratio; the loss has the entropy with weight -ent_coef.
        ratio_grad *= ratio
        value_grad *= settings.vf_coef
        output_grad = self.head.backward(ratio_grad, -settings.ent_coef)
        self._backward(x, output_grad, value_grad[:, None])
        return statistics

    @staticmethod
    def _advantages(advantages: Array, settings: UpdateSettings) -> Array:
        """
        Advantages as the policy loss uses them, see :func:`sb3_ppo_edu.functional.losses.normalize_advantages`.

        :param advantages: shape ``(batch,)``
        :param settings: settings of this update
        :return: shape ``(batch,)``
        """
        if settings.normalize_advantage and settings.advantage_moments is not None:
            mean, std = settings.advantage_moments
            advantages = (advantages - mean) / (std + ADVANTAGE_EPS)
        elif settings.normalize_advantage and len(advantages) > 1:
            advantages = advantages - np.add.reduce(advantages) / len(advantages)
            advantages /= math.sqrt(dot(advantages, advantages) / (len(advantages) - 1)) + ADVANTAGE_EPS
        if settings.clip_advantage is not None:
            advantages = np.clip(advantages, -settings.clip_advantage, settings.clip_advantage)
        return advantages

    def _backward(self, x: th.Tensor, output_grad: Array, value_grad: Array) -> None:
        """
        Write the gradients of all layers.

        :param x: features, shape ``(batch, features)``
        :param output_grad: dL/d outputs of the action net, shape ``(batch, n_outputs)``
        :param value_grad: dL/d values, shape ``(batch, 1)``
        """
        actor, critic = self._actor_stack, self._critic_stack
        latent_pi_grad = None if actor is None else actor.buffers(x.shape[0]).output_grads[0]
        latent_vf_grad = None if critic is None else critic.buffers(x.shape[0]).output_grads[-1]
        self._action_layer.backward(self._latent_pi, output_grad, latent_pi_grad)
        self._value_layer.backward(self._latent_vf, value_grad, latent_vf_grad)
        if actor is not None:
            actor.backward(x)
        if critic is not None and critic is not actor:
            critic.backward(x)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def apply(self, settings: UpdateSettings) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        gradients = self._flat_gradients
        grad_norm = math.sqrt(dot(gradients, gradients))
        check_finite_norm(grad_norm)
        if grad_norm + CLIP_EPS > settings.max_grad_norm:
            gradients *= settings.max_grad_norm / (grad_norm + CLIP_EPS)
        with OneThread(len(gradients) <= ONE_THREAD_STEP):
            self.optimizer.step()
        if settings.log_std_bounds is not None and self._log_std is not None:
            self._log_std.clamp_(*settings.log_std_bounds)
        return grad_norm


def surrogate(ratio: Array, advantages: Array, settings: UpdateSettings) -> tuple[float, Array, int]:
    r"""
    Clipped surrogate loss and its derivative, see :func:`sb3_ppo_edu.functional.losses.clipped_surrogate_loss`.

    Where the minimum takes the unclipped term, :math:`\partial L/\partial r_t = -\hat A_t/n`; elsewhere it is 0.

    :param ratio: shape ``(batch,)``
    :param advantages: shape ``(batch,)``
    :param settings: settings of this update
    :return: the loss, dL/d ratio of shape ``(batch,)``, and the number of ratios outside the clip range
    """
    batch = len(ratio)
    clipped_ratio = np.minimum(np.maximum(ratio, 1.0 - settings.clip_range), 1.0 + settings.clip_range)
    n_clipped = int(np.count_nonzero(clipped_ratio != ratio))
    unclipped = advantages * ratio
    if n_clipped == 0 and settings.dual_clip is None:
        return -float(np.add.reduce(unclipped)) / batch, advantages * (-1.0 / batch), 0
    clipped = advantages * clipped_ratio
    active = unclipped <= clipped
    objective = np.minimum(unclipped, clipped)
    if settings.dual_clip is not None:
        floor = settings.dual_clip * advantages
        bounded = (advantages < 0) & (objective < floor)
        objective = np.where(bounded, floor, objective)
        active &= ~bounded
    grad = advantages * active
    grad *= -1.0 / batch
    return -float(np.add.reduce(objective)) / batch, grad, n_clipped


def value_error(values: Array, minibatch: FusedMinibatch, settings: UpdateSettings) -> tuple[float, Array]:
    """
    Value loss and its derivative, see :func:`sb3_ppo_edu.functional.losses.value_loss`.

    :param values: of the current network, shape ``(batch,)``
    :param minibatch: gives returns and old values
    :param settings: settings of this update
    :return: the loss, and dL/d values of shape ``(batch,)``
    """
    error = values - minibatch.returns
    batch = len(values)
    limit = settings.clip_range_vf
    if limit is None:
        loss = dot(error, error) / batch
        error *= 2.0 / batch
        return loss, error
    change = values - minibatch.old_values
    inside = np.abs(change) <= limit
    clipped_error = minibatch.old_values + np.minimum(np.maximum(change, -limit), limit) - minibatch.returns
    if settings.vf_clip_mode == "sb3":
        return dot(clipped_error, clipped_error) / batch, (2.0 / batch) * clipped_error * inside
    squares, clipped_squares = error * error, clipped_error * clipped_error
    active = inside | (squares > clipped_squares)
    return float(np.add.reduce(np.maximum(squares, clipped_squares))) / batch, (2.0 / batch) * error * active


def kl_estimate(log_ratio: Array, ratio: Array, settings: UpdateSettings) -> np.float32:
    """
    Estimate KL(old || new), see :func:`sb3_ppo_edu.functional.losses.approx_kl`.

    :param log_ratio: shape ``(batch,)``
    :param ratio: its exponential
    :param settings: settings of this update
    :return: the estimate in nats
    """
    terms = -log_ratio if settings.kl_estimator == "k1" else (ratio - 1.0) - log_ratio
    kl: np.float32 = np.float32(float(np.add.reduce(terms)) / len(ratio))
    return kl
