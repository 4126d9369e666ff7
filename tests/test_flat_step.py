"""The optimizer's step on one flat tensor is taken only where it has the bits of SB3's steps, whatever the policy is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from torch import nn

from tests.beside_sb3 import DISCRETE, SB3, Step, assert_same_bits, train
from tests.policy_changes import Change


def new_optimizer(model: Any, kind: Any = th.optim.Adam) -> None:
    """Give the policy an optimizer of all the parameters that it has now."""
    model.policy.optimizer = kind(model.policy.parameters(), lr=1e-2)


class ClampingLinear(nn.Linear):
    """A layer that keeps its own weights small whenever it is trained."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Clamp, then compute."""
        if self.training:
            with th.no_grad():
                self.weight.clamp_(-0.05, 0.05)
        return super().forward(x)


class ScalingLinear(nn.Linear):
    """A layer that scales its output by what its last gradient was."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Read the gradient, then compute."""
        factor = 1.0 if self.weight.grad is None else 1.0 + self.weight.grad.abs().max().item()
        return factor * super().forward(x)


class Experts(nn.Module):
    """Two layers that take turns in training: the other one has no gradient then."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.turn = nn.ModuleList(nn.Linear(8, 2) for _ in range(2)), 0

    def forward(self, x: th.Tensor) -> Any:
        """Compute with the one whose turn it is."""
        self.turn = 1 - self.turn if self.training else self.turn
        return self.experts[self.turn](x)


def with_head(make_head: Callable[[], nn.Module]) -> Callable[[Any], None]:
    """A change that puts another head on the policy."""

    def change(model: Any) -> None:
        th.manual_seed(3)
        model.policy.action_net = make_head()
        new_optimizer(model)

    return change


def unused_layer(model: Any) -> None:
    """Add a layer that nobody calls, and whose parameters never have a gradient."""
    model.policy.unused = nn.Linear(2, 2)
    new_optimizer(model)


MODULES: dict[str, Callable[[Any], None]] = {
    "clamps its weights": with_head(lambda: ClampingLinear(8, 2)),
    "reads its gradient": with_head(lambda: ScalingLinear(8, 2)),
    "leaves gradients out": with_head(Experts),
    "a layer is unused": unused_layer,
}


def assert_sb3s_bits(change: Callable[[Any], None], when: str = "before", **arguments: Any) -> None:
    """Two rollouts, with four steps in the update of each, end with SB3's bits."""
    plan = [Step(when, Change("change", change))]
    theirs, ours = (train(kind, DISCRETE, plan, n_epochs=2, **arguments) for kind in (SB3, "autograd"))
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_do_more_than_compute(name: str) -> None:
    """A policy with a module of the user's own gets the optimizer's own steps."""
    assert_sb3s_bits(MODULES[name])
