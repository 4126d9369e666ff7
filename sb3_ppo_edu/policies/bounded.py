"""Actor-critic policies for bounded actions, for vectors, images and dictionaries of observations.

Two mixins put a distribution of :mod:`~sb3_ppo_edu.functional.distributions` into any SB3 ``ActorCriticPolicy``; six classes
apply them to SB3's three. They train under SB3's own PPO and A2C too. A policy of your own becomes bounded by::

    class MyBoundedPolicy(TanhGaussianMixin, MyPolicy):
        pass
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import Schedule

from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution
from sb3_ppo_edu.functional.values import shown


def check_bounded_action_space(action_space: spaces.Space, action_distribution: str) -> None:
    """Refuse an action space that a bounded distribution cannot serve.

    :param action_space: the policy's action space
    :param action_distribution: name for the error message
    :raises ValueError: if it is not a ``Box`` of float32 or float64 with finite bounds and low < high everywhere
    """
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"action_distribution={action_distribution!r} needs continuous actions, found action_space={action_space}: "
            "expected a Box. Use action_distribution='gaussian' (the default), which leaves other action spaces to SB3"
        )
    if action_space.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"action_distribution={action_distribution!r}: action_space.dtype={action_space.dtype}, expected float32 or "
            "float64. The rollout buffer would round the raw actions to that type; wrap the environment "
            "(gymnasium.wrappers.TransformAction) so that its actions are float32"
        )
    for name in ("low", "high"):
        bound = getattr(action_space, name)
        for index in np.argwhere(~np.isfinite(bound)):
            position = ", ".join(map(str, index))
            raise ValueError(
                f"action_distribution={action_distribution!r} needs finite bounds, found "
                f"action_space.{name}[{position}]={bound[tuple(index)]}. Use action_distribution='gaussian', or wrap the "
                "environment (gymnasium.wrappers.RescaleAction and ClipAction) so that its actions have finite bounds"
            )
    for index in np.argwhere(action_space.low >= action_space.high):
        position = ", ".join(map(str, index))
        low, high = action_space.low[tuple(index)], action_space.high[tuple(index)]
        raise ValueError(
            f"action_distribution={action_distribution!r} needs low < high in every dimension, found "
            f"action_space.low[{position}]={low} and action_space.high[{position}]={high}. Remove that dimension in a wrapper"
        )


class BoundedActionMixin(ActorCriticPolicy):
    """What the two mixins share: raw actions inside, actions within the bounds outside.

    ``forward``, ``evaluate_actions`` and ``_predict`` speak raw actions, which the rollout buffer stores.
    ``unscale_action`` maps them to the environment's bounds; SB3's ``collect_rollouts`` and ``predict`` call it because
    ``squash_output`` is true.
    """

    action_distribution: ClassVar[str]
    distribution_class: ClassVar[type[TanhGaussianDistribution] | type[BetaDistribution]]

    def __init__(self, *args: Any, **kwargs: Any):
        # SB3 would stop at an assertion that recommends gSDE
        if kwargs.get("squash_output"):
            raise ValueError(
                f"policy_kwargs['squash_output']=True: {type(self).__name__} squashes its actions already "
                f"(action_distribution={self.action_distribution!r}), and SB3's squash_output is for gSDE. Leave it out"
            )
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        """Swap the distribution in before SB3 builds the networks for it.

        :param lr_schedule: Learning rate schedule
        :raises ValueError: if the action space is not a bounded ``Box``, or with gSDE
        """
        if self.use_sde:
            raise ValueError(
                f"use_sde=True with action_distribution={self.action_distribution!r}: gSDE brings its own distribution. "
                "Use use_sde=False, or action_distribution='gaussian'"
            )
        check_bounded_action_space(self.action_space, self.action_distribution)
        assert isinstance(self.action_space, spaces.Box)  # just checked; for mypy
        # In float64, and as midpoint and half width, which do not overflow as high - low can
        self._low = self.action_space.low.astype(np.float64)
        self._high = self.action_space.high.astype(np.float64)
        self._midpoint = 0.5 * self._low + 0.5 * self._high
        self._half_width = 0.5 * self._high - 0.5 * self._low
        self.action_dist = self._make_distribution()
        super()._build(lr_schedule)

    def _make_distribution(self) -> TanhGaussianDistribution | BetaDistribution:
        """Create the action distribution, as yet without parameters."""
        return self.distribution_class(get_action_dim(self.action_space))

    @property
    def squash_output(self) -> bool:
        """Always true: asks SB3 to pass raw actions through ``unscale_action`` instead of clipping them."""
        return True

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Map raw actions to the environment's: low + (y + 1) / 2 * (high - low) with y = tanh(squash_slope * u).

        :param scaled_action: raw actions u, shape ``(..., *action_space.shape)``; the name is SB3's
        :return: actions within [low, high], same shape, with the action space's dtype
        """
        normalised = np.tanh(self.distribution_class.squash_slope * np.asarray(scaled_action, dtype=np.float64))
        actions = self._midpoint + self._half_width * normalised
        # The last rounding, to the dtype of the bounds, is monotone and cannot leave them again
        bounded: np.ndarray = np.minimum(np.maximum(actions, self._low), self._high).astype(self.action_space.dtype)
        return bounded

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Map the environment's actions to raw ones: the inverse of ``unscale_action``.

        An action on a bound (or beyond) would be infinite as a raw one: the normalised action is clamped to the nearest
        number to 1 that the action space's dtype has.

        :param action: actions, shape ``(..., *action_space.shape)``
        :return: raw actions u, finite, same shape, float32
        """
        normalised = (np.asarray(action, dtype=np.float64) - self._midpoint) / self._half_width
        largest = 1.0 - float(np.finfo(str(self.action_space.dtype)).epsneg)
        raw: np.ndarray = np.arctanh(np.clip(normalised, -largest, largest)) / self.distribution_class.squash_slope
        return raw.astype(np.float32)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """What ``save`` keeps to build the policy anew.

        SB3 2.9 forgets ``share_features_extractor``: a policy with two extractors comes back with one, and predicts
        something else.
        """
        return {**super()._get_constructor_parameters(), "share_features_extractor": self.share_features_extractor}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the parameters of the last distribution out of copies and pickles.

        They belong to a graph of autograd, which cannot be deep-copied: a stock policy fails there after training.
        """
        state = self.__dict__.copy()
        state["action_dist"] = self._make_distribution()
        return state


class TanhGaussianMixin(BoundedActionMixin):
    """Gives an actor-critic policy tanh-squashed Gaussian actions (``action_distribution="tanh_gaussian"``)."""

    action_distribution = "tanh_gaussian"
    distribution_class = TanhGaussianDistribution


class BetaMixin(BoundedActionMixin):
    """Gives an actor-critic policy Beta-distributed actions (``action_distribution="beta"``); it has no ``log_std``."""

    action_distribution = "beta"
    distribution_class = BetaDistribution


class TanhGaussianPolicy(TanhGaussianMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` with tanh-squashed Gaussian actions; arguments as there."""


class TanhGaussianCnnPolicy(TanhGaussianMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` with tanh-squashed Gaussian actions; arguments as there."""


class TanhGaussianMultiInputPolicy(TanhGaussianMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` with tanh-squashed Gaussian actions; arguments as there."""


class BetaPolicy(BetaMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` with Beta-distributed actions; arguments as there."""


class BetaCnnPolicy(BetaMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` with Beta-distributed actions; arguments as there."""


class BetaMultiInputPolicy(BetaMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` with Beta-distributed actions; arguments as there."""


STOCK_POLICIES: dict[str, type[ActorCriticPolicy]] = {
    "MlpPolicy": ActorCriticPolicy,
    "CnnPolicy": ActorCriticCnnPolicy,
    "MultiInputPolicy": MultiInputActorCriticPolicy,
}
"""SB3's policies by their short names."""

BOUNDED_POLICIES: dict[str, dict[str, type[BoundedActionMixin]]] = {
    "tanh_gaussian": {
        "MlpPolicy": TanhGaussianPolicy,
        "CnnPolicy": TanhGaussianCnnPolicy,
        "MultiInputPolicy": TanhGaussianMultiInputPolicy,
    },
    "beta": {
        "MlpPolicy": BetaPolicy,
        "CnnPolicy": BetaCnnPolicy,
        "MultiInputPolicy": BetaMultiInputPolicy,
    },
}
"""Those with bounded actions, by distribution and the same names."""

ACTION_DISTRIBUTIONS = ("gaussian", *BOUNDED_POLICIES)
"""What ``action_distribution=`` takes."""


def resolve_policy(
    policy: str | type[ActorCriticPolicy], action_distribution: str
) -> tuple[str | type[ActorCriticPolicy], str]:
    """Find the policy class for an action distribution.

    ``"gaussian"`` means "as SB3 does" and returns the policy unchanged. A class with one of our mixins carries its own
    distribution, so it also answers to the default ``"gaussian"``.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class
    :param action_distribution: ``"gaussian"``, ``"tanh_gaussian"`` or ``"beta"``
    :return: the policy (alias or class) to build, and the name of the distribution that it has
    :raises ValueError: for an unknown name, for a mixin that contradicts ``action_distribution``, and for a custom class
        without the mixin that ``action_distribution`` needs
    """
    if action_distribution not in ACTION_DISTRIBUTIONS:
        raise ValueError(f"action_distribution={action_distribution!r}: expected one of {', '.join(ACTION_DISTRIBUTIONS)}")
    if isinstance(policy, str):
        if policy not in STOCK_POLICIES:
            raise ValueError(f"policy={shown(policy)}: expected one of {', '.join(STOCK_POLICIES)}, or a policy class")
        return (policy if action_distribution == "gaussian" else BOUNDED_POLICIES[action_distribution][policy]), (
            action_distribution
        )
    if not isinstance(policy, type) or not issubclass(policy, BasePolicy):
        raise ValueError(f"policy={shown(policy)}: expected one of {', '.join(STOCK_POLICIES)}, or a policy class")
    if issubclass(policy, BoundedActionMixin):
        return policy, _own_distribution(policy, action_distribution)
    if action_distribution == "gaussian":
        return policy, action_distribution
    for alias, stock_policy in STOCK_POLICIES.items():
        if policy is stock_policy:
            return BOUNDED_POLICIES[action_distribution][alias], action_distribution
    mixin = "TanhGaussianMixin" if action_distribution == "tanh_gaussian" else "BetaMixin"
    raise ValueError(
        f"action_distribution={action_distribution!r} with the custom policy {policy.__name__}, which is built for another "
        f"one. Derive it from the mixin: class MyPolicy({mixin}, {policy.__name__}), from sb3_ppo_edu.policies.bounded"
    )


def _own_distribution(policy: type[BoundedActionMixin], action_distribution: str) -> str:
    """Name of the distribution that a class with a mixin carries, checked against what was asked for.

    :param policy: a class with one of our mixins
    :param action_distribution: what was asked for; ``"gaussian"`` is the default and asks for nothing
    :return: the class's own distribution
    :raises ValueError: if another distribution was asked for
    """
    if action_distribution not in ("gaussian", policy.action_distribution):
        raise ValueError(
            f"action_distribution={action_distribution!r} with policy {policy.__name__}, which is "
            f"{policy.action_distribution!r}: expected the same, or leave action_distribution out"
        )
    return policy.action_distribution
