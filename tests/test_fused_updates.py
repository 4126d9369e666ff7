"""What the kernels' engine keeps from one epoch or update to the next is found again only where it still holds."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import AutogradEngine, FusedEngine, PolicyInputs
from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from sb3_ppo_edu.functional.kl import KLPenaltyObjective
from sb3_ppo_edu.functional.objectives import PPOObjective
from tests.test_fused import DEFAULTS, gradients_of, make_minibatch, make_policy
from tests.test_kernels import assert_same_bits, state_of


def test_an_epoch_takes_arrays_that_have_been_replaced_and_keeps_none() -> None:
    """
    The rollout is put in form once, and again where something of it is new: advantages set anew are those of the next epoch.

    Once the update has ended nothing keeps the rollout alive.
    """
    model = EduPPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, device="cpu", engine="fused").learn(16)
    buffer, engine = model.rollout_buffer, FusedEngine(model.policy)
    epochs = [next(engine.minibatches(buffer, 16)) for _ in range(2)]
    assert epochs[0].columns is epochs[1].columns
    first = np.sort(epochs[0].advantages)
    del epochs
    buffer.advantages = buffer.advantages + 1
    np.testing.assert_array_equal(np.sort(next(engine.minibatches(buffer, 16)).advantages), first + 1)
    engine.detach()
    advantages = weakref.ref(buffer.advantages)
    buffer.reset()
    assert advantages() is None


@pytest.mark.parametrize("change", ["other tensors", "other gradients", "amsgrad"])
def test_an_update_steps_with_the_state_that_there_is_then(change: str) -> None:
    """What lies elsewhere since the last update is found before the next: the steps are those of an engine that is new."""
    found = []
    for renew in (False, True):
        policy = make_policy("gaussian")
        samples, engine = make_minibatch(policy, 37, 0), FusedEngine(policy)
        for _ in range(3):
            engine.attach()
            engine.gradients(engine.minibatch_of(*samples[:6]), DEFAULTS)
            engine.apply(DEFAULTS)
        if change == "other tensors":
            policy.optimizer.load_state_dict(copy.deepcopy(policy.optimizer.state_dict()))
        elif change == "other gradients":
            policy.optimizer.zero_grad()
        else:
            policy.optimizer.param_groups[0]["amsgrad"] = True
            for state in policy.optimizer.state.values():
                state["max_exp_avg_sq"] = state["exp_avg_sq"] * 2
        engine = FusedEngine(policy) if renew else engine
        engine.attach()
        engine.gradients(engine.minibatch_of(*samples[:6]), DEFAULTS)
        engine.apply(DEFAULTS)
        found.append(state_of(policy))
    assert_same_bits(*found)


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_a_gradient_that_somebody_keeps_stays_as_it_is(engine: Any) -> None:
    """Torch makes a new ``.grad`` in each update: who logs the old ones, or views of them, finds what they were."""
    model = EduPPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=8, device="cpu", engine=engine).learn(16)
    gradients: list[Any] = [parameter.grad for parameter in model.policy.parameters()]
    views, values = [one.detach().flatten() for one in gradients], [one.clone() for one in gradients]
    model.learn(32)
    for kept, view, value, parameter in zip(gradients, views, values, model.policy.parameters(), strict=True):
        assert kept.equal(value) and view.equal(value.flatten())
        assert parameter.grad is not kept


def test_at_a_value_clip_of_zero_values_count_that_have_not_moved() -> None:
    """Those that are the rollout's to the bit have their whole gradient, as in torch, and one that is a bit away has none."""
    policy = make_policy("gaussian")
    engine, samples = FusedEngine(policy), make_minibatch(policy, 37, 0)
    values = engine.value(PolicyInputs(samples.observations)).flatten()
    moved = th.arange(37) % 3 == 0
    old_values = th.where(moved, th.nextafter(values, values + 1), values)
    without_error = th.where(moved, values, samples.returns)  # where nothing is to be learned there is no gradient either
    found = []
    for clip_range_vf, returns in ((0.0, samples.returns), (None, without_error)):
        minibatch = engine.minibatch_of(*samples._replace(old_values=old_values, returns=returns)[:6])
        engine.gradients(minibatch, replace(DEFAULTS, clip_range_vf=clip_range_vf))
        found.append([gradient.numpy() for gradient in gradients_of(policy).values()])
    assert_same_bits(*found)


@pytest.mark.parametrize("kind", [AutogradEngine, NumpyEngine, FusedEngine])
@pytest.mark.parametrize("objective", [PPOObjective(), KLPenaltyObjective()], ids=["PPO's", "own"])
def test_a_minibatch_beyond_the_kl_limit_has_no_gradient(kind: Any, objective: Any) -> None:
    """Gradients stay those of the last step, as in SB3; at the limit itself there are new ones."""
    policy = make_policy("gaussian")
    engine, update = kind(policy), replace(DEFAULTS, objective=objective)
    first, second = (make_minibatch(policy, 16, seed) for seed in range(2))
    take = (lambda samples: engine.minibatch_of(*samples[:6])) if kind is FusedEngine else TensorMinibatch
    engine.gradients(take(first), update)
    before = gradients_of(policy)
    kl = float(engine.gradients(take(second), replace(update, kl_limit=0.0)).approx_kl)
    assert kl > 0 and all(gradient.equal(before[name]) for name, gradient in gradients_of(policy).items())
    assert engine.gradients(take(second), replace(update, kl_limit=kl)).approx_kl == kl
    assert not any(gradient.equal(before[name]) for name, gradient in gradients_of(policy).items())


def shrinking(policy: Any, get: Callable[[int], Iterator[Any]], elsewhere: bool) -> Callable[[int], Iterator[Any]]:
    """A buffer's ``get`` that makes the policy's numbers smaller before each minibatch, where they lie or in other memory."""

    def shrink(batch_size: int) -> Iterator[Any]:
        for samples in get(batch_size):
            for parameter in policy.parameters():
                smaller = 0.9 * parameter.data
                parameter.data = smaller if elsewhere else parameter.data.copy_(smaller)
            yield samples

    return shrink


def test_a_buffer_may_give_the_policy_other_memory() -> None:
    """Between two minibatches of its own: gradients are those of the parameters as they are then, wherever they lie."""
    left: list[list[np.ndarray]] = []
    for elsewhere in (False, True):
        model = EduPPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=8, seed=3, device="cpu", engine="fused").learn(16)
        engine, buffer = FusedEngine(model.policy), cast("Any", model.rollout_buffer)
        buffer.get = shrinking(model.policy, buffer.get, elsewhere)
        left.append([])
        for minibatch in engine.minibatches(buffer, 8):
            engine.gradients(minibatch, DEFAULTS)
            left[-1] += [gradient.numpy() for gradient in gradients_of(model.policy).values()]
    assert_same_bits(*left)
