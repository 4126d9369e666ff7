r"""
KL control: what keeps the divergence between the policy that collected a rollout and the updated one near a target.

Two ways, each off unless it is asked for:

- :class:`KLAdaptiveLearningRate`, a learning rate that follows: ``EduPPO(learning_rate="kl_0.01")``;
- :class:`KLPenaltyObjective`, a penalty whose weight follows: ``EduPPO(objective=KLPenaltyObjective(d_targ=0.01))``.

Either is an object that changes while a model learns. Each model copies what it is given, so that two of them can be given
the same one; ``model.learning_rate.rate`` and ``model.objective.beta`` are where its own have come to.

What is measured and what is differentiated are two things. Both follow the exact divergence of the distributions' parameters
(:func:`kl_divergence`), averaged over the rollout's states. The penalty differentiates an estimate of it from the actions that
were taken, as engines that derive gradients by hand know nothing else of the policy.

The target may have a warm-up: ``"warmup_0.1_kl_0.01"`` for the rate and ``d_targ="warmup_0.1_0.01"`` for the penalty let it
rise from 0 for the first tenth of the training, so that the first updates, whose advantages come from a value function that
knows nothing yet, are small. Any other schedule will do too, see :mod:`~sb3_ppo_edu.functional.schedules`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch as th
from torch.distributions import Categorical, Distribution

from sb3_ppo_edu.functional import losses, schedules
from sb3_ppo_edu.functional.losses import KlEstimator
from sb3_ppo_edu.functional.objectives import Evaluation, Objective, Transitions, UpdateSettings
from sb3_ppo_edu.functional.values import as_float, shown

BETA_BOUNDS = (1e-4, 1e4)
"""Range of an adaptive β: beyond it nothing changes but how many updates it takes to come back."""


def kl_divergence(old: Sequence[Distribution], new: Sequence[Distribution]) -> th.Tensor:
    r"""
    The divergence of two policies in each state, from the parameters of their distributions.

    .. math:: KL(\pi_{old}\,\|\,\pi_\theta) =
        \sum_i \mathbb{E}_{a_i\sim\pi_{old,i}} \log\frac{\pi_{old,i}(a_i)}{\pi_{\theta,i}(a_i)}

    The components of an action are independent, so that their divergences add up. Where actions are squashed, the Jacobian is
    in both densities and cancels: the divergence is that of the distributions before.

    :param old: torch's distributions of the components: one with a shape ``(batch, …)``, or several
    :param new: the same kinds and shapes
    :return: shape ``(batch,)``, in nats, ≥ 0 but for rounding
    :raises NotImplementedError: if there is no formula for a pair
    """
    parts = [_divergence(one, other) for one, other in zip(old, new, strict=True)]
    return th.stack([part.reshape(len(part), -1).sum(dim=1) for part in parts]).sum(dim=0)


def _divergence(old: Distribution, new: Distribution) -> th.Tensor:
    """Torch's own formulas, but for classes: there torch calls it infinite where a probability is too small for a float."""
    if isinstance(old, Categorical) and isinstance(new, Categorical):
        return th.where(old.probs > 0, old.probs * (old.logits - new.logits), 0.0).sum(-1)
    return th.distributions.kl_divergence(old, new)


def target_at(target: float | str, progress_remaining: float) -> float:
    """
    Evaluate a KL target.

    :param target: a number in nats, or a schedule's text
    :param progress_remaining: 1 at the start of the training, 0 at its end
    :return: the target in nats
    """
    return schedules.TextSchedule(target)(progress_remaining) if isinstance(target, str) else target


def check_target(name: str, target: float | str) -> float | str:
    """Check a KL target, and give it as Python's own number or text."""
    expected = "expected a finite number > 0, or a schedule such as 'warmup_0.1_0.01' that is not 0 throughout"
    if not isinstance(target, str):
        if not 0 < as_float(target) < math.inf:
            raise ValueError(f"{name}={shown(target)}: {expected}")
        return as_float(target)
    try:
        values = schedules.read(schedules.TextSchedule(target).text).values
    except ValueError as error:
        raise ValueError(f"{name}={shown(target)}: {expected}{error}") from None
    if min(values) < 0 or max(values) == 0:
        raise ValueError(f"{name}={shown(target)}: {expected}")
    return target


def _check_rule(rule: KLAdaptiveLearningRate | KLPenaltyObjective) -> None:
    """Check by how much a rule follows, and how far from its target."""
    for name in ("FACTOR", "SLACK"):
        if not 1 <= as_float(getattr(rule, name)) < math.inf:
            raise ValueError(f"{name}={shown(getattr(rule, name))}: expected a finite number ≥ 1")


@dataclass
class KLAdaptiveLearningRate:
    r"""
    A learning rate that follows the measured divergence: a schedule whose value depends on what the updates have done.

    After each update, with d the divergence from the policy that collected the rollout,

    .. math:: \alpha \leftarrow \begin{cases} \max(\alpha / 1.5, \alpha_{low}) & d > 2 d_{targ} \\
        \min(1.5 \alpha, \alpha_{high}) & d < d_{targ} / 2 \\ \alpha & \text{otherwise} \end{cases}

    A rate that is far too high would ruin the policy before anything is measured. So an update ends where a minibatch's
    estimate exceeds :math:`4 d_{targ}`, unless ``target_kl`` says where, and the rate is lowered after it.

    Source: the rule of rsl_rl and skrl, which apply it within an update, after each of its few minibatches or epochs. Here an
    update may have hundreds, whose divergence always begins at 0: what counts is what it has come to. Target as in Rudin et
    al. 2022, "Learning to Walk in Minutes Using Massively Parallel Deep Reinforcement Learning", https://arxiv.org/abs/2109.11978.

    :param target: :math:`d_{targ}` in nats, > 0, or a schedule's text such as "warmup_0.1_0.01"
    :param rate: the rate to begin with, and then the present one, within the bounds
    :param low: the lowest rate, > 0
    :param high: the highest rate
    :raises ValueError: for a wrong number
    """

    target: float | str = 0.01
    rate: float = schedules.KL_START
    low: float = 1e-5
    high: float = 1e-2

    FACTOR, SLACK = 1.5, 2.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        self.check()

    def check(self) -> None:
        """
        Check the numbers, which may have been set, or come from a file: a model does when it is given the rate and begins.

        :raises ValueError: for the first wrong one
        """
        self.target = check_target("target", self.target)
        for name in ("low", "high", "rate"):
            number = as_float(getattr(self, name))
            if math.isnan(number):
                raise ValueError(f"{name}={shown(getattr(self, name))}: expected a finite number > 0")
            setattr(self, name, number)
        if not 0 < self.low <= self.rate <= self.high < math.inf:
            raise ValueError(f"rate={self.rate:g}: expected one from low={self.low:g}, > 0, to high={self.high:g}")
        _check_rule(self)

    @classmethod
    def of(cls, text: str) -> KLAdaptiveLearningRate:
        """
        Read the text "kl_TARGET", "kl_TARGET_START" or "kl_TARGET_START_LOW_HIGH", with a warm-up of the target before it.

        :param text: such as "kl_0.01" or "warmup_0.1_kl_0.01_1e-3"
        :return: the learning rate
        :raises ValueError: if it is none
        """
        warmup, _, (target, *others) = schedules.read(text)
        if len(others) == 3 and others[1] > others[2]:
            raise ValueError(f" (the lowest rate {others[1]:g} is above the highest, {others[2]:g}: kl_TARGET_START_LOW_HIGH)")
        try:
            return cls(f"warmup_{warmup!r}_{target!r}" if warmup else target, *others)
        except ValueError as error:
            raise ValueError(f" ({error}: kl_TARGET_START_LOW_HIGH gives other bounds)") from None

    def __call__(self, progress_remaining: float) -> float:
        """The present rate, as schedules give it."""
        return self.rate

    def limit(self, progress_remaining: float) -> float:
        """The estimate of a minibatch beyond which the update ends, in nats."""
        return self.SLACK**2 * target_at(self.target, progress_remaining)

    def adapt(self, kl: float, progress_remaining: float) -> None:
        """
        Follow a measurement.

        :param kl: the divergence of the update, in nats
        :param progress_remaining: 1 at the start of the training, 0 at its end
        """
        target = target_at(self.target, progress_remaining)
        if kl > self.SLACK * target:
            self.rate = max(self.rate / self.FACTOR, self.low)
        elif kl < target / self.SLACK:
            self.rate = min(self.rate * self.FACTOR, self.high)


class KLPenaltyObjective(Objective):
    r"""
    The surrogate with a penalty on the divergence instead of clipping, section 4 of the PPO paper.

    .. math:: L^{policy}_t = -r_t \hat A_t + \beta\, \widehat{KL}_t, \qquad
        \beta \leftarrow \begin{cases} 2\beta & d > 1.5\, d_{targ} \\ \beta / 2 & d < d_{targ} / 1.5 \end{cases}

    The second rule follows after each update, with d the exact divergence. The estimate in the first, k1 :math:`-\log r` or k3
    :math:`(r - 1) - \log r`, has the gradient of the divergence on average over actions of the old policy, since the
    expectation of :math:`\nabla r` is 0 there; k3's varies less while r is near 1.

    Paper: https://arxiv.org/abs/1707.06347. It is an objective as any of your own, so that the compiled kernels ask Python.

    :param d_targ: target of the divergence in nats, > 0, or a schedule's text such as "warmup_0.1_0.01"; None for a fixed β
    :param beta: β at the start, and then the present one, > 0; an adaptive one stays within :data:`BETA_BOUNDS`
    :param estimator: what is differentiated, "k3" or "k1"
    :param clip: clip the surrogate as well, with ``clip_range`` and ``dual_clip``; both are without effect otherwise
    :raises ValueError: for a wrong argument
    """

    FACTOR, SLACK = 2.0, 1.5

    def __init__(
        self, d_targ: float | str | None = 0.01, beta: float = 1.0, estimator: KlEstimator = "k3", clip: bool = False
    ) -> None:
        self.d_targ, self.beta, self.estimator, self.clip = d_targ, beta, estimator, clip
        self.check()

    def check(self) -> None:
        """
        Check the arguments, which may have been set, or come from a file: a model does when it is given one and begins.

        :raises ValueError: for the first wrong one
        """
        for name in ("d_targ", "beta", "estimator", "clip"):
            if name not in vars(self):
                raise ValueError(f"{name}: found none, expected it among the objective's attributes")
        self.d_targ = None if self.d_targ is None else check_target("d_targ", self.d_targ)
        beta, choices = as_float(self.beta), get_args(KlEstimator)
        if not 0 <= beta < math.inf or (beta == 0 and self.d_targ is not None):
            raise ValueError(
                f"beta={shown(self.beta)}: expected a finite number > 0, or 0 with d_targ=None: 0 can't be doubled"
            )
        if self.d_targ is not None and not BETA_BOUNDS[0] <= beta <= BETA_BOUNDS[1]:
            least, most = BETA_BOUNDS
            raise ValueError(f"beta={beta:g}: expected a number from {least:g} to {most:g}, within which it follows the KL")
        self.beta = beta
        if not isinstance(self.clip, bool):
            raise ValueError(f"clip={shown(self.clip)}: expected True or False")
        if not isinstance(self.estimator, str) or self.estimator not in choices:
            raise ValueError(f"estimator={shown(self.estimator)}: expected one of {', '.join(map(repr, choices))}")
        _check_rule(self)

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Surrogate and penalty."""
        surrogate = super().policy_loss(now, data, settings) if self.clip else -now.ratio * data.advantages
        return surrogate + self.beta * losses.kl_estimates(now.log_ratio, self.estimator)

    def adapt(self, kl: float, progress_remaining: float) -> None:
        """
        Follow a measurement.

        :param kl: the divergence of the update, in nats
        :param progress_remaining: 1 at the start of the training, 0 at its end
        """
        if self.d_targ is None:
            return
        target = target_at(self.d_targ, progress_remaining)
        if kl > self.SLACK * target:
            self.beta = min(self.beta * self.FACTOR, BETA_BOUNDS[1])
        elif kl < target / self.SLACK:
            self.beta = max(self.beta / self.FACTOR, BETA_BOUNDS[0])
