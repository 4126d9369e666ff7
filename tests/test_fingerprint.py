"""A policy's fingerprint changes with whatever decides which operations a training consists of, and with nothing else."""

from __future__ import annotations

import pytest
import torch as th
from torch.optim import optimizer as torch_optimizer

from sb3_ppo_edu.engines.fingerprint import fingerprint
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
