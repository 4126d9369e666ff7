"""Rules of the kernels that numbers drawn at random hardly ever meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_ppo_edu.engines import FusedEngine, PolicyInputs
from sb3_ppo_edu.engines.fused.engine import FORWARD, FORWARD_AND_BACKWARD, ROW_BY_ROW
from tests.test_fused import DEFAULTS, HEADS, make_minibatch, make_policy


@pytest.mark.parametrize(("noise", "action"), [(0.5, 0.0), (np.nextafter(np.float32(0.5), 0), 1.0)])
def test_an_action_is_one_where_the_noise_is_below_its_probability(
    noise: float, action: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of uniform numbers in [0, 1) a share of p is below p, and p itself is not one of them."""
    policy = make_policy("bernoulli")
    nn.init.zeros_(policy.action_net.weight)
    nn.init.zeros_(policy.action_net.bias)
    monkeypatch.setattr(th.Tensor, "uniform_", lambda tensor: tensor.fill_(float(noise)))
    actions, _, _ = FusedEngine(policy).act(PolicyInputs(th.randn(4, 5)))
    assert (actions == action).all()


def test_the_largest_ratio_is_of_the_transitions() -> None:
    """Where all transitions have become half as likely, the largest ratio is 1/2: what fills up the vectors does not count."""
    policy = make_policy("gaussian")
    samples = make_minibatch(policy, 5, 0)
    with th.no_grad():
        _, log_prob, _ = policy.evaluate_actions(samples.observations, samples.actions)
    engine = FusedEngine(policy)
    halved = samples._replace(old_log_prob=log_prob + np.log(2.0))
    statistics = engine.gradients(engine.minibatch_of(*halved[:6]), DEFAULTS)
    assert statistics.ratio_max == pytest.approx(0.5, rel=1e-5)
    assert statistics.clip_fraction == 1.0


@pytest.mark.parametrize("head", HEADS)
def test_without_advantages_the_actor_learns_nothing(head: str) -> None:
    """Its gradients are zeros, and not small numbers: what fills up the vectors does not count."""
    policy = make_policy(head, net_arch=[8])
    samples, engine = make_minibatch(policy, 5, 0), FusedEngine(policy)
    equal = samples._replace(advantages=th.zeros(5))
    engine.gradients(engine.minibatch_of(*equal[:6]), DEFAULTS)
    for name, parameter in policy.named_parameters():
        assert bool((parameter.grad == 0).all()) != name.startswith(("mlp_extractor.value_net", "value_net")), name


@pytest.mark.parametrize(("alpha", "beta"), [(2, 3), (12, 12), (30, 5)])
def test_entropies_of_beta_to_the_last_digits(alpha: int, beta: int) -> None:
    """Of whole concentrations: log Gamma(n) = log (n - 1)! and psi(n) = 1 + 1/2 + ... + 1/(n - 1), less what cancels out."""
    policy = make_policy("beta", double=True)
    nn.init.zeros_(policy.action_net.weight)
    with th.no_grad():
        policy.action_net.bias.copy_(th.tensor([alpha, alpha, beta, beta]).double().sub(1).expm1().log())
    engine = FusedEngine(policy)
    statistics = engine.gradients(engine.minibatch_of(*make_minibatch(policy, 5, 0)[:6]), DEFAULTS)

    def term(n: int, weight: int) -> float:
        return math.log(math.factorial(n - 1)) - weight * math.fsum(1 / k for k in range(1, n))

    # Of actions between -1 and 1, which is where log 2 comes from.
    expected = term(alpha, alpha - 1) + term(beta, beta - 1) - term(alpha + beta, alpha + beta - 2) + math.log(2)
    assert statistics.entropy_loss == pytest.approx(-2 * expected, rel=0, abs=2e-13)


@pytest.mark.parametrize("kind", [ROW_BY_ROW, FORWARD, FORWARD_AND_BACKWARD])
def test_products_that_are_measured_are_computed(kind: int) -> None:
    """Of a backward pass they leave something else in the gradient of every weight; acting has none."""
    policy = make_policy("gaussian", net_arch=[8])
    engine, samples = FusedEngine(policy), make_minibatch(policy, 9, 0)
    engine.gradients(engine.minibatch_of(*samples[:6]), DEFAULTS)
    weights = [parameter.grad for parameter in policy.parameters() if parameter.ndim == 2]
    for gradient in weights:
        gradient.fill_(7.0)
    engine.multiply(9, kind)
    assert [bool((gradient == 7.0).any()) for gradient in weights] == [kind != FORWARD_AND_BACKWARD] * len(weights)
