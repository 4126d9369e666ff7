r"""
What an update minimises: the losses of a minibatch and the one number they add up to.

.. math:: L = L^{policy} + c_e L^{entropy} + c_v L^{value}, \qquad L^{entropy} = -\mathcal H

An :class:`Objective` says what each transition contributes; it is given what the policy says now (:class:`Evaluation`), what
the rollout stored (:class:`Transitions`) and the settings of the update. It has two forms. Engines that differentiate by
autograd take its value, ``objective(now, data, settings)``. Engines whose backward passes are derived by hand take
``objective.gradients(…)``: the derivatives with respect to log-probability, value and entropy of each transition, from where
they go on by themselves. The second form follows from the first, so that an objective of your own is one method. A term is
added to the policy's loss, whose weight is 1 (that of the value function is ``vf_coef``, that of the entropy ``ent_coef``,
which is 0 unless it is set)::

    class KLPenalty(Objective):
        def __init__(self, beta=0.1):
            self.beta = beta

        def policy_loss(self, now, data, settings):
            return super().policy_loss(now, data, settings) + self.beta * ((now.ratio - 1) - now.log_ratio)

    EduPPO("MlpPolicy", env, objective=KLPenalty(beta=0.05))

What a term may use is in :class:`Evaluation` and :class:`Transitions`. It is logged within ``train/policy_gradient_loss`` and
``train/loss``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.losses import KlEstimator, VfClipMode

Array = NDArray[np.floating[Any]]


class Evaluation(NamedTuple):
    r"""
    What the policy says now of the observations and actions of a minibatch.

    :param log_prob: :math:`\log\pi_\theta(a_t|s_t)`, shape ``(batch,)``
    :param log_ratio: :math:`\log r_t = \log\pi_\theta(a_t|s_t) - \log\pi_{old}(a_t|s_t)`, shape ``(batch,)``
    :param ratio: :math:`r_t`, shape ``(batch,)``
    :param values: :math:`V(s_t)`, shape ``(batch,)``
    :param entropy: in nats, shape ``(batch,)``, or None where the distribution has no formula
    """

    log_prob: th.Tensor
    log_ratio: th.Tensor
    ratio: th.Tensor
    values: th.Tensor
    entropy: th.Tensor | None


class Transitions(NamedTuple):
    """
    What the rollout stored of a minibatch: constants. All of shape ``(batch,)``.

    :param old_log_prob: log-probabilities of the actions when they were taken
    :param old_values: values when the actions were taken
    :param advantages: as the policy loss uses them: normalised and clipped where the settings say so
    :param returns: targets of the value function
    :param weights: of the transitions in every mean, ≥ 0, such as 0 for padding; None for equal ones
    :param in_sequences: they are steps of sequences, whose squared errors sb3-contrib averages one by one
    """

    old_log_prob: th.Tensor
    old_values: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    weights: th.Tensor | None = None
    in_sequences: bool = False


class Losses(NamedTuple):
    """
    The losses of a minibatch, each a scalar: tensors in the first form of an objective, numbers in the second.

    :param policy: policy loss
    :param value: value loss, not weighted
    :param entropy: entropy loss, not weighted
    :param total: the weighted sum that is minimised
    :param weight: mean weight of the transitions, 1 where they have none: how much the minibatch counts beside others
    """

    policy: Any
    value: Any
    entropy: Any
    total: Any
    weight: Any = 1.0


class Derivatives(NamedTuple):
    r"""
    Derivatives of the loss with respect to what the networks give, transition by transition. All of shape ``(batch,)``.

    :param log_prob: :math:`\partial L/\partial\log\pi_\theta(a_t|s_t)`
    :param values: :math:`\partial L/\partial V(s_t)`
    :param entropy: :math:`\partial L/\partial\mathcal H_t`, or None where it is 0 everywhere
    """

    log_prob: Array
    values: Array
    entropy: Array | None


def evaluation(log_prob: th.Tensor, old_log_prob: th.Tensor, values: th.Tensor, entropy: th.Tensor | None) -> Evaluation:
    """
    Put together what the policy says, with the probability ratio.

    :param log_prob: shape ``(batch,)``
    :param old_log_prob: the same shape
    :param values: the same shape
    :param entropy: the same shape, or None
    :return: the evaluation
    """
    log_ratio = log_prob - old_log_prob
    return Evaluation(log_prob, log_ratio, th.exp(log_ratio), values, entropy)


class Objective:
    """
    PPO's losses, each to be replaced in a subclass. Whatever is not replaced stays PPO's.

    Derive an objective of your own from this class. Each method gives one number per transition, as a tensor of shape
    ``(batch,)``, and ``__call__`` averages them; only ``value_loss`` here gives the mean itself where there are no weights.
    """

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """The clipped surrogate, see :func:`sb3_ppo_edu.functional.losses.clipped_surrogate_loss`."""
        return losses.clipped_surrogate_loss(now.ratio, data.advantages, settings.clip_range, settings.dual_clip)

    def value_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """The value function's squared error, clipped or not, see :func:`sb3_ppo_edu.functional.losses.value_loss`."""
        # Without weights the mean is torch's own, a scalar: only that has the bits of SB3's gradient; sb3-contrib's with a
        # memory are those of a mean of squares.
        averaged = self.weights(now, data, settings) is None and not data.in_sequences
        return losses.value_loss(
            now.values,
            data.returns,
            data.old_values,
            settings.clip_range_vf,
            settings.vf_clip_mode,
            reduction="mean" if averaged else "none",
        )

    def entropy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """The negative entropy, see :func:`sb3_ppo_edu.functional.losses.entropy_loss`."""
        return losses.entropy_loss(now.entropy, now.log_prob)

    def weights(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor | None:
        """Weights of the transitions in the means of all losses, constants of shape ``(batch,)``; None for equal ones."""
        return data.weights

    def __call__(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> Losses:
        """
        The losses of a minibatch: the one place where those of transitions are averaged.

        :param now: what the policy says now
        :param data: what the rollout stored
        :param settings: of this update
        :return: scalar tensors; ``total`` is to be differentiated
        """
        weights = self.weights(now, data, settings)
        if weights is not None:
            weights = self._checked("weights", now, weights).detach()
            if not bool((weights >= 0).all() & (weights > 0).any()):
                raise ValueError(f"objective: {type(self).__name__}.weights gave {weights}, expected numbers ≥ 0, not all 0")
        policy = losses.average(self._checked("policy_loss", now, self.policy_loss(now, data, settings)), weights)
        value = self._checked("value_loss", now, self.value_loss(now, data, settings), scalar=True)
        value = value if value.ndim == 0 else losses.average(value, weights)
        entropy = self.entropy_loss(now, data, settings)
        if type(self).entropy_loss is not Objective.entropy_loss:  # a policy's own entropy may have any shape, as in SB3
            entropy = self._checked("entropy_loss", now, entropy)
        entropy = losses.average(entropy, weights)
        # The order of SB3's sum.
        total = policy + settings.ent_coef * entropy + settings.vf_coef * value
        return Losses(policy, value, entropy, total, 1.0 if weights is None else weights.mean())

    def _checked(self, method: str, now: Evaluation, loss: Any, scalar: bool = False) -> th.Tensor:
        """Refuse a loss that is no tensor, or would be broadcast: it trains, but wrongly."""
        shape = tuple(now.log_prob.shape)
        if isinstance(loss, th.Tensor) and (loss.shape == now.log_prob.shape or (scalar and loss.ndim == 0)):
            return loss
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, th.Tensor) else type(loss).__name__
        raise ValueError(f"objective: {type(self).__name__}.{method} gave {found}, expected a tensor of shape {shape}")

    def gradients(
        self, log_prob: Array, values: Array, entropy: Array | None, data: Transitions, settings: UpdateSettings
    ) -> tuple[Losses, Derivatives]:
        """
        Losses and their derivatives with respect to what the networks give, for backward passes that are derived by hand.

        Here by autograd through the first form; a class that knows the formula may say it.

        :param log_prob: log-probabilities of the actions, shape ``(batch,)``
        :param values: the same shape
        :param entropy: the same shape, or None
        :param data: what the rollout stored
        :param settings: of this update
        :return: the losses as numbers, and the derivatives
        """
        leaves = [
            None if array is None else th.from_numpy(np.ascontiguousarray(array)).requires_grad_()
            for array in (log_prob, values, entropy)
        ]
        log_prob_leaf, values_leaf, entropy_leaf = leaves
        assert log_prob_leaf is not None and values_leaf is not None
        with th.enable_grad():
            found = losses_of(self, evaluation(log_prob_leaf, data.old_log_prob, values_leaf, entropy_leaf), data, settings)
            found.total.backward()
        slopes = [None if leaf is None or leaf.grad is None else leaf.grad.numpy() for leaf in leaves]
        zeros = np.zeros_like(log_prob)
        return Losses(*(float(part.detach()) if isinstance(part, th.Tensor) else part for part in found)), Derivatives(
            zeros if slopes[0] is None else slopes[0], zeros if slopes[1] is None else slopes[1], slopes[2]
        )


def losses_of(objective: Objective, now: Evaluation, data: Transitions, settings: UpdateSettings) -> Losses:
    """
    Ask an objective for the losses of a minibatch, and refuse what autograd can't differentiate.

    :param objective: what is minimised
    :param now: what the policy says now
    :param data: what the rollout stored
    :param settings: of this update
    :return: the losses
    :raises ValueError: if they are no :class:`Losses` of scalar tensors
    """
    found: object = objective(now, data, settings)
    if not isinstance(found, Losses) or not all(isinstance(part, th.Tensor) and part.numel() == 1 for part in found[:4]):
        raise ValueError(f"objective: {type(objective).__name__}.__call__ gave {found!r}, expected Losses of scalar tensors")
    return found


def derivatives_of(
    objective: Objective, log_prob: Array, values: Array, entropy: Array | None, data: Transitions, settings: UpdateSettings
) -> tuple[Losses, Derivatives]:
    """
    Ask an objective for its second form, and refuse derivatives that would be broadcast.

    :param objective: what is minimised
    :param log_prob: log-probabilities of the actions, shape ``(batch,)``
    :param values: the same shape
    :param entropy: the same shape, or None
    :param data: what the rollout stored
    :param settings: of this update
    :return: the losses as numbers, and the derivatives
    :raises ValueError: if it gives something else
    """
    given: object = objective.gradients(log_prob, values, entropy, data, settings)
    method = f"objective: {type(objective).__name__}.gradients gave"
    if not isinstance(given, tuple) or [*map(type, given)] != [Losses, Derivatives]:
        raise ValueError(f"{method} {given!r}, expected a pair of Losses and Derivatives")
    found, derivatives = given
    for name, one in derivatives._asdict().items():
        if not (np.shape(one) == log_prob.shape or (one is None and name == "entropy")):
            raise ValueError(f"{method} {name} of shape {np.shape(one)}, expected shape {log_prob.shape}")
    return found, derivatives


class PPOObjective(Objective):
    r"""
    The objective of PPO, with its derivatives as formulas.

    With :math:`r_t` the ratio, :math:`\hat A_t` the advantage and n the size of the minibatch:

    - :math:`\partial L/\partial\log\pi_t = -r_t \hat A_t/n` where the minimum takes the unclipped term, else 0
    - :math:`\partial L/\partial V_t = 2 c_v (V_t - R_t)/n`; with value clipping 0 where the clipped error counts and
      :math:`V_t` is outside the clip range
    - :math:`\partial L/\partial\mathcal H_t = -c_e/n`

    A subclass that replaces a loss gets its derivatives from autograd, unless it defines ``gradients`` too.
    """

    def __init_subclass__(cls) -> None:
        """Leave the formulas to the losses that they belong to."""
        if "gradients" not in vars(cls):
            cls.gradients = Objective.gradients  # type: ignore[method-assign]

    def gradients(
        self, log_prob: Array, values: Array, entropy: Array | None, data: Transitions, settings: UpdateSettings
    ) -> tuple[Losses, Derivatives]:
        """See :meth:`Objective.gradients`."""
        if entropy is None or data.weights is not None or vars(self):
            return super().gradients(log_prob, values, entropy, data, settings)
        n = len(log_prob)
        advantages, returns, old_values = data.advantages.numpy(), data.returns.numpy(), data.old_values.numpy()

        ratio = np.exp(log_prob - data.old_log_prob.numpy())
        unclipped = ratio * advantages
        clipped = np.clip(ratio, 1 - settings.clip_range, 1 + settings.clip_range) * advantages
        objective, counts = np.minimum(unclipped, clipped), unclipped <= clipped
        if settings.dual_clip is not None:
            bounded = (advantages < 0) & (objective < settings.dual_clip * advantages)
            objective, counts = np.where(bounded, settings.dual_clip * advantages, objective), counts & ~bounded
        log_prob_gradient = np.where(counts, -unclipped / n, 0)

        errors = values - returns
        if settings.clip_range_vf is not None:
            change = values - old_values
            inside = np.abs(change) <= settings.clip_range_vf
            clipped_errors = old_values + np.clip(change, -settings.clip_range_vf, settings.clip_range_vf) - returns
            unclipped_counts = inside | (np.abs(errors) > np.abs(clipped_errors)) if settings.vf_clip_mode == "max" else inside
            errors = np.where(unclipped_counts, errors, clipped_errors)
            value_gradient = np.where(unclipped_counts, 2 * settings.vf_coef * errors / n, 0)
        else:
            value_gradient = 2 * settings.vf_coef * errors / n

        policy, value, mean_entropy = -float(objective.mean()), float((errors**2).mean()), float(entropy.mean())
        total = policy - settings.ent_coef * mean_entropy + settings.vf_coef * value
        entropy_gradient = np.full_like(entropy, -settings.ent_coef / n) if settings.ent_coef != 0.0 else None
        dtype = log_prob.dtype
        return Losses(policy, value, -mean_entropy, total), Derivatives(
            log_prob_gradient.astype(dtype), value_gradient.astype(dtype), entropy_gradient
        )


def is_ppos(objective: Objective) -> bool:
    """
    Tell whether an objective is PPO's as it stands here, so that code with the same formulas may take its place.

    :param objective: what is minimised
    :return: False for a subclass, and where the instance has attributes of its own
    """
    return type(objective) is PPOObjective and not vars(objective)


@dataclass(frozen=True)
class UpdateSettings:
    """
    What one update (all epochs over one rollout) needs to know; schedules are already evaluated.

    :param clip_range: ε of the clipped surrogate
    :param clip_range_vf: ε of the value clipping in units of the return, or None
    :param ent_coef: weight of the entropy loss
    :param vf_coef: weight of the value loss
    :param max_grad_norm: gradients are scaled down to this global L2 norm
    :param normalize_advantage: standardise the advantages of each minibatch
    :param advantage_moments: (mean, std) to use instead of each minibatch's own
    :param clip_advantage: bound of the advantages' absolute value after normalisation, or None
    :param dual_clip: c of the dual clip, or None
    :param vf_clip_mode: "sb3" or "max"
    :param kl_estimator: "k3" or "k1"
    :param log_std_bounds: range the policy's log standard deviation is projected to after each step, or None
    :param objective: what is minimised
    :param kl_limit: KL estimate beyond which an update ends before the minibatch's backward pass, or None
    """

    clip_range: float
    clip_range_vf: float | None
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    normalize_advantage: bool
    advantage_moments: tuple[float, float] | None
    clip_advantage: float | None
    dual_clip: float | None
    vf_clip_mode: VfClipMode
    kl_estimator: KlEstimator
    log_std_bounds: tuple[float, float] | None
    objective: Objective = field(default_factory=PPOObjective)
    kl_limit: float | None = None
