"""Which policies the backward passes derived by hand serve, and the reason that is given for each that they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, SquashedDiagGaussianDistribution, make_proba_distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_ppo_edu.engines.support import number_of_outputs, why_not_derived
from sb3_ppo_edu.functional.distributions import BetaDistribution, TanhGaussianDistribution

BOX = spaces.Box(-1, 1, (3,))
ACTIONS = spaces.Box(-1, 1, (2,))


def make_policy(
    kind: type[ActorCriticPolicy] = ActorCriticPolicy, observations: Any = BOX, actions: Any = ACTIONS, **arguments: Any
) -> Any:
    """Build a small policy with two layers a tower."""
    return kind(observations, actions, lambda _: 1e-3, net_arch=[4, 4], **arguments)


class OwnPolicy(ActorCriticPolicy):
    """A policy that somebody wrote."""


class OwnLinear(nn.Linear):
    """A layer that somebody wrote."""


def numpy_elu() -> nn.Module:
    """Make an activation of which an option is no number of Python's."""
    activation = nn.ELU()
    activation.alpha = np.float64(1.0)
    return activation


def put(where: str, module: Callable[[], Any]) -> Callable[[Any], None]:
    """Replace a part of a policy, named by attributes and indices between dots."""

    def change(policy: Any) -> None:
        *path, last = where.split(".")
        for name in path:
            policy = policy[int(name)] if name.isdigit() else getattr(policy, name)
        if last.isdigit():
            policy[int(last)] = module()
        else:
            setattr(policy, last, module())

    return change


def share(policy: Any) -> None:
    """Let both towers have one layer."""
    policy.mlp_extractor.value_net[0] = policy.mlp_extractor.policy_net[0]


def freeze(policy: Any) -> None:
    """Freeze everything."""
    policy.requires_grad_(False)


ACTOR = "mlp_extractor.policy_net"
NOT_LINEAR = "the actor's network is not made of linear layers with one supported activation"
REASONS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], str | None]] = {
    "as it comes": (make_policy, lambda policy: None, None),
    "without log_std": (lambda: make_policy(actions=spaces.Discrete(2)), lambda policy: None, None),
    "own policy": (lambda: make_policy(OwnPolicy), lambda policy: None, "the policy is a OwnPolicy"),
    "gSDE": (lambda: make_policy(use_sde=True), lambda policy: None, None),
    "network": (make_policy, put("mlp_extractor", nn.Identity), "the network is a Identity"),
    "tower": (make_policy, put(ACTOR, nn.Identity), NOT_LINEAR),
    "odd tower": (make_policy, put(ACTOR, lambda: nn.Sequential(nn.Linear(3, 4))), NOT_LINEAR),
    "own layer": (make_policy, put(f"{ACTOR}.0", lambda: OwnLinear(3, 4)), NOT_LINEAR),
    "no bias": (make_policy, put(f"{ACTOR}.0", lambda: nn.Linear(3, 4, bias=False)), NOT_LINEAR),
    "activation": (make_policy, put(f"{ACTOR}.1", nn.Softplus), NOT_LINEAR),
    "two activations": (make_policy, put(f"{ACTOR}.1", nn.ReLU), NOT_LINEAR),
    "option of numpy's": (lambda: make_policy(activation_fn=nn.ELU), put(f"{ACTOR}.1", numpy_elu), NOT_LINEAR),
    "critic": (make_policy, put("mlp_extractor.value_net.1", nn.ReLU), NOT_LINEAR.replace("actor", "critic")),
    "head": (make_policy, put("value_net", nn.Identity), "the critic's last layer is a Identity"),
    "misfit": (make_policy, put(f"{ACTOR}.2", lambda: nn.Linear(5, 4)), "the actor's layers do not fit together"),
    "distribution": (
        make_policy,
        put("action_dist", lambda: SquashedDiagGaussianDistribution(2)),
        "the action distribution is SquashedDiagGaussianDistribution",
    ),
    "sizes": (
        make_policy,
        put("action_net", lambda: nn.Linear(4, 3)),
        "the networks do not have the sizes of observations and actions",
    ),
    "log_std": (
        make_policy,
        put("log_std", lambda: nn.Parameter(th.zeros(3))),
        "policy.log_std is not a parameter of shape (2,)",
    ),
    "shared layer": (make_policy, share, "layers share parameters"),
    "another parameter": (
        make_policy,
        put("temperature", lambda: nn.Parameter(th.ones(1))),
        "policy.temperature is a parameter beside those of the layers",
    ),
    "another device": (
        make_policy,
        put("action_net.bias", lambda: nn.Parameter(th.zeros(2, device="meta"))),
        "the policy is not on the CPU",
    ),
    "half precision": (make_policy, lambda policy: policy.half(), "the parameters are not all float32"),
    "frozen": (make_policy, freeze, "all parameters are frozen"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_served_is_named(case: str) -> None:
    """SB3's policy is served as it comes; each change to a part is the reason that is given, by the part's name."""
    make, change, reason = REASONS[case]
    policy = make()
    change(policy)
    found = why_not_derived(policy)
    assert found is None if reason is None else (found or "").startswith(reason)


SPACES: list[tuple[Distribution, int]] = [
    (make_proba_distribution(spaces.Discrete(5)), 5),
    (make_proba_distribution(spaces.MultiDiscrete([2, 3])), 5),
    (make_proba_distribution(spaces.MultiBinary(4)), 4),
    (make_proba_distribution(ACTIONS), 2),
    (TanhGaussianDistribution(2), 2),
    (BetaDistribution(2), 4),
]


@pytest.mark.parametrize(("distribution", "outputs"), SPACES)
def test_outputs_are_what_a_distribution_takes(distribution: Any, outputs: int) -> None:
    """One logit a choice or bit, one mean an action, two shapes an action of Beta."""
    assert number_of_outputs(distribution) == outputs
