"""The optimizer's step on one flat tensor is taken only where it has the bits of SB3's steps, whatever the policy is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_ppo_edu.engines.base import gradient_shares
from sb3_ppo_edu.engines.factory import UnsupportedPolicyError
from sb3_ppo_edu.engines.fingerprint import fingerprint, overlap
from sb3_ppo_edu.engines.flat_step import may_step_flat
from tests.beside_sb3 import DISCRETE, SB3, Step, assert_close, assert_same_bits, make, train
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


@pytest.mark.parametrize(("width", "expected"), [(64, True), (512, False)])
def test_networks_of_sb3s_size_are_stepped_flat(width: int, expected: bool) -> None:
    """Two layers of 64 units are; of those of 512 each tensor is stepped by itself, which is faster then."""
    policy = make("autograd", DISCRETE, policy_kwargs={"net_arch": [width, width]}).policy
    for parameter in policy.parameters():
        parameter.grad = th.zeros_like(parameter)
    assert may_step_flat(policy) is expected


def shared_row(model: Any) -> None:
    """Let the critic's last layer be a row of the actor's: their memory overlaps, and begins at different addresses."""
    model.policy.value_net.weight.data = model.policy.action_net.weight.data[1:2]


def transposed(model: Any) -> None:
    """Keep all weights column by column."""
    for module in model.policy.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()


@pytest.mark.parametrize(("change", "reason"), [(shared_row, "layers share"), (transposed, "contiguous")])
def test_memory_that_is_not_each_parameters_own(change: Callable[[Any], None], reason: str) -> None:
    """Parameters that overlap, or do not lie row by row, are stepped by the optimizer itself."""
    assert_sb3s_bits(change)
    default = train("auto", DISCRETE, [Step("before", Change("change", change))], n_epochs=2)
    assert default.model.engine_reason.startswith("autograd: ") and reason in default.model.engine_reason


def test_strides_that_change_in_place_are_seen() -> None:
    """A square weight that is transposed where it lies is another weight."""
    model = make("auto", DISCRETE)
    before = fingerprint(model.policy)
    assert before.matches(fingerprint(model.policy))
    weight = model.policy.mlp_extractor.policy_net[2].weight
    weight.data = weight.data.t()
    assert not before.matches(fingerprint(model.policy))


@pytest.mark.parametrize("expected", [True, False])
def test_overlap_is_of_bytes(expected: bool) -> None:
    """Rows of one tensor overlap where they share a row, and not where they lie side by side."""
    whole = th.zeros(4, 5)
    assert overlap([whole[:2], whole[1 if expected else 2 :]]) is expected
    assert overlap([whole[2:].t(), whole[: 3 if expected else 2]]) is expected


def with_state(name: str, make_value: Callable[[th.Tensor], Any]) -> Callable[[Any], None]:
    """A change that puts an entry into the optimizer's state of each parameter."""

    def change(model: Any) -> None:
        for parameter, state in model.policy.optimizer.state.items():
            state[name] = make_value(parameter)

    return change


STATES: dict[str, tuple[str, Callable[[th.Tensor], Any]]] = {
    "number": ("note", lambda parameter: 0.99),
    "text": ("note", lambda parameter: "mine"),
    "other shape": ("note", lambda parameter: th.ones(3)),
    "other type": ("note", lambda parameter: th.zeros_like(parameter, dtype=th.float64)),
    "like the parameter": ("note", lambda parameter: th.ones_like(parameter)),
    "moments in float64": ("exp_avg_sq", lambda parameter: th.ones_like(parameter, dtype=th.float64)),
    "moments in columns": (
        "exp_avg_sq",
        lambda parameter: th.ones_like(parameter.mT.contiguous()).mT if parameter.ndim > 1 else th.ones_like(parameter),
    ),
    "step with a dimension": ("step", lambda parameter: th.ones(1)),
    "step of whole numbers": ("step", lambda parameter: th.tensor(7)),
}


@pytest.mark.parametrize("name", STATES)
def test_entries_in_the_optimizers_state(name: str) -> None:
    """What somebody has put into the optimizer's state stays there, and the steps are SB3's."""
    change = Change("change", with_state(*STATES[name]))
    outcomes: list[Any] = []
    for kind in (SB3, "autograd", "auto"):
        try:
            outcomes.append(train(kind, DISCRETE, [Step("between", change)], n_epochs=2))
        except RuntimeError as error:  # torch's own
            outcomes.append(str(error))
    theirs, ours, default = outcomes
    if isinstance(theirs, str):
        assert ours == default == theirs
        return
    assert_same_bits(ours, theirs)
    assert_close(default, theirs, 1e-4)
    served = name == "like the parameter"
    assert default.model.engine_reason.startswith("fused" if served else "autograd: the optimizer's state has")


def test_zero_grad_patched_on_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's ``zero_grad`` that somebody has replaced is called: gradients add up."""
    model = make("auto", DISCRETE)
    before = fingerprint(model.policy)
    monkeypatch.setattr(th.optim.Adam, "zero_grad", lambda optimizer, set_to_none=True: None)
    assert not before.matches(fingerprint(model.policy))
    theirs, ours, default = (train(kind, DISCRETE, n_epochs=2) for kind in (SB3, "autograd", "auto"))
    assert_same_bits(ours, theirs)
    assert_close(default, theirs, 1e-4)
    assert default.model.engine_reason == "autograd: Adam.zero_grad has been replaced."


def test_calls_patched_on_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's ``__call__`` that somebody has given its class is called."""
    model = make("auto", DISCRETE)
    before = fingerprint(model.policy)
    monkeypatch.setattr(nn.Tanh, "__call__", lambda module, x: th.relu(x))
    assert not before.matches(fingerprint(model.policy))
    theirs, default = (train(kind, DISCRETE) for kind in (SB3, "auto"))
    assert_close(default, theirs, 1e-4)
    assert default.model.engine_reason == "autograd: Tanh.__call__ has been replaced."


@pytest.mark.parametrize(
    ("before", "after", "served"),
    [
        (0, 1, True),
        (0.0, True, True),
        (0.1, 1, True),
        (0.1, np.float32(0.1), False),
        (np.float64(0.1), np.float32(0.5), False),
    ],
)
def test_options_of_an_activation(before: Any, after: Any, served: bool) -> None:
    """A slope counts as it is, given as a number of any kind, and a change of it is seen."""

    def change(model: Any) -> None:
        for module in model.policy.modules():
            if isinstance(module, nn.LeakyReLU):
                module.negative_slope = after

    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [8, 8], "activation_fn": lambda: nn.LeakyReLU(before)}}
    plan = [Step("between", Change("change", change))]
    theirs, default = (train(kind, DISCRETE, plan, **options) for kind in (SB3, "auto"))
    assert_close(default, theirs, 1e-4)
    assert default.model.engine_reason.startswith("fused" if served else "autograd")


@pytest.mark.parametrize("engine", ["auto", "numpy", "fused"])
def test_policies_in_float64_are_for_autograd(engine: Any) -> None:
    """SB3 itself can't train one, as it casts observations to float32: none is trained where it would not be."""

    def double(model: Any) -> None:
        model.policy.double()

    with pytest.raises((RuntimeError, UnsupportedPolicyError)) as caught:
        train(engine, DISCRETE, [Step("before", Change("double", double))])
    if engine == "auto":
        assert not isinstance(caught.value, UnsupportedPolicyError)
    else:
        assert "is float64, and only float32 is supported" in str(caught.value)


def test_shares_of_gradients_in_half_precision() -> None:
    """The shares of policy and value are computed from gradients in bfloat16 and float16 too, and do not overflow."""
    for dtype in (th.bfloat16, th.float16):
        policy = make("autograd", DISCRETE).policy.to(dtype)
        for parameter in policy.parameters():
            parameter.grad = th.zeros_like(parameter)
        policy.action_net.bias.grad.fill_(300.0)  # two numbers: 2 * 300² is more than float16 has
        policy.value_net.bias.grad.fill_(400.0)
        total = (2 * 300.0**2 + 400.0**2) ** 0.5
        shares = gradient_shares(policy)
        assert shares == pytest.approx({"policy": 300.0 * 2**0.5 / total, "value": 400.0 / total}, rel=1e-2)
