"""A policy's fingerprint changes with whatever decides which operations a training consists of, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from torch import nn
from torch.optim import optimizer as torch_optimizer

from sb3_ppo_edu.engines.fingerprint import fingerprint, has_memory
from tests.test_fused import make_policy


def test_a_policy_that_only_learns_keeps_its_fingerprint() -> None:
    """Values of parameters, moments and the step size change all the time."""
    policy = make_policy("gaussian")
    before = fingerprint(policy)
    for parameter in policy.parameters():
        parameter.grad = th.ones_like(parameter)
    policy.optimizer.param_groups[0]["lr"] = 0.5
    policy.optimizer.step()
    assert fingerprint(policy).matches(before)


@pytest.mark.parametrize("sides", [("pre",), ("post",), ("pre", "post")], ids="-".join)
def test_hooks_on_either_side_of_every_step_are_seen(sides: tuple[str, ...]) -> None:
    """Hooks before and after the steps of all optimizers count together: none makes up for another."""
    policy = make_policy("gaussian")
    before = fingerprint(policy)
    hooks = [getattr(torch_optimizer, f"register_optimizer_step_{side}_hook")(lambda *_: None) for side in sides]
    try:
        assert not fingerprint(policy).matches(before)
    finally:
        for hook in hooks:
            hook.remove()
    assert fingerprint(policy).matches(before)


def test_numbers_kept_on_modules_of_modules_are_no_options() -> None:
    """Whoever counts something on the policy or its towers while they train changes nothing that these compute."""
    policy = make_policy("categorical")
    counting: list[Any] = [module for module in policy.modules() if [*module.children()]]
    for module in counting:
        module.seen = 0
    before = fingerprint(policy)
    for module in counting:
        module.seen += 1
    assert fingerprint(policy).matches(before)


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_of_each_kind_is_seen_alone(kind: str) -> None:
    """One on one module is enough, whichever side of its passes it is called on; without it all is as it was."""
    policy = make_policy("gaussian")
    before = fingerprint(policy)
    hook = getattr(policy.action_net, f"register_{kind}")(lambda *_: None)
    assert not fingerprint(policy).matches(before)
    hook.remove()
    assert fingerprint(policy).matches(before)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 3)], ids=str)
def test_a_tensor_has_memory_where_there_are_numbers_to_keep(shape: tuple[int, ...]) -> None:
    """One without numbers needs none; of others the storage has to reach to the last one."""
    parameter = nn.Parameter(th.zeros(shape))
    assert has_memory(parameter)
    parameter.untyped_storage().resize_(0)
    assert has_memory(parameter) is (parameter.numel() == 0)


@pytest.mark.parametrize(("size", "expected"), [(24, True), (20, False)])
def test_a_part_of_a_tensor_has_memory_as_far_as_it_reaches(size: int, expected: bool) -> None:
    """The fifth and the sixth of some numbers, of four bytes each, need 24 bytes, and not those of the numbers behind them."""
    part = th.zeros(8)[4:6]
    part.untyped_storage().resize_(size)
    assert has_memory(part) is expected
