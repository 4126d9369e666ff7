"""The compiled kernels: what they compute, to which bits, and what they refuse to touch."""

from __future__ import annotations

import copy
import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sb3_ppo_edu.engines import FusedEngine, NonFiniteUpdateError, PolicyInputs, UpdateSettings, as_array, make_engine
from sb3_ppo_edu.engines.autograd import AutogradEngine, TensorMinibatch
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from sb3_ppo_edu.engines.fused import engine as fused_engine
from sb3_ppo_edu.engines.fused.engine import why_not_fused
from sb3_ppo_edu.engines.fused.library import load_library
from sb3_ppo_edu.engines.fused.minibatches import pick_rows
from sb3_ppo_edu.functional.objectives import Objective
from tests.recorded_kernels import record_act, record_apply, record_gradients, record_value, tensors_of
from tests.test_fused import (
    ACTIVATIONS,
    DEFAULTS,
    HEADS,
    OPTIMIZERS,
    compare_states,
    gradients_of,
    make_minibatch,
    make_policy,
    update_settings,
)

CPU_FLAGS = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
both_levels = pytest.mark.skipif("avx512vl" not in CPU_FLAGS, reason="the processor has no AVX-512")


class AtLevel:
    """The library with another instruction set than the one that was chosen."""

    def __init__(self, level: str) -> None:
        self.level, self._functions = level, ctypes.CDLL(str(load_library().path))

    def function(self, verb: str, dtype: str) -> Any:
        """A kernel of that level."""
        return self._functions[f"sb3edu_{verb}_{dtype}_{self.level}"]


def state_of(policy: Any) -> list[np.ndarray]:
    """Copies of all numbers of a policy and its optimizer, gradients included."""
    tensors = [tensor for p in policy.parameters() for tensor in (p.detach(), p.grad)]
    states = [value for p in policy.parameters() for value in policy.optimizer.state[p].values()]
    return [tensor.numpy().copy() for tensor in (*tensors, *states) if isinstance(tensor, th.Tensor)]


def trained(policy: Any, minibatches: list[Any], update: UpdateSettings = DEFAULTS) -> list[np.ndarray]:
    """Everything that some acts and steps with the kernels leave: outputs, ratios, parameters, gradients, moments."""
    engine, left = FusedEngine(policy), []
    th.manual_seed(5)
    for samples in minibatches:
        for rows in (1, 3, 37):
            left += [tensor.numpy() for tensor in engine.act(PolicyInputs(samples.observations[:rows].clone()))]
        left.append(as_array(engine.gradients(engine.minibatch_of(*samples[:6]), update).ratios))
        engine.apply(update)
    return left + state_of(policy)


def some_minibatches(policy: Any) -> list[Any]:
    """Three, of 37 transitions."""
    return [make_minibatch(policy, 37, seed) for seed in range(3)]


def assert_same_bits(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Array by array, bit by bit."""
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        bits, expected = (np.frombuffer(array.tobytes(), np.uint8) for array in (ours, theirs))
        np.testing.assert_array_equal(bits, expected)


widths = st.lists(st.integers(1, 40), max_size=3)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    head=st.sampled_from(sorted(HEADS)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    actor=widths,
    critic=widths,
    features=st.integers(1, 40),
    batch=st.integers(2, 70),
    seed=st.integers(0, 10**6),
    update=update_settings,
)
def test_float32_agrees_with_the_derivation(
    head: str,
    activation: str,
    actor: list[int],
    critic: list[int],
    features: int,
    batch: int,
    seed: int,
    update: UpdateSettings,
) -> None:
    """
    In float32 each gradient tensor is the numpy engine's to 1e-5 of the largest gradient, and the losses to 1e-5.

    A ratio has the relative error that the difference of two log-probabilities has absolutely, so that large ones cost digits.
    """
    policy = make_policy(head, features, seed, net_arch={"pi": actor, "vf": critic}, activation_fn=ACTIVATIONS[activation])
    samples = make_minibatch(policy, batch, seed)
    expected_statistics = NumpyEngine(policy).gradients(TensorMinibatch(samples), update)
    expected = gradients_of(policy)
    engine = FusedEngine(policy)
    minibatch = engine.minibatch_of(*samples[:6])
    statistics = engine.gradients(minibatch, update)
    record_gradients(engine, minibatch, update, statistics.ratios)
    record_value(engine, samples.observations, engine.value(PolicyInputs(samples.observations)))
    tolerance = 1e-5 * max(1.0, samples.old_log_prob.abs().max().item() / 10)
    scale = max(*(gradient.abs().max().item() for gradient in expected.values()), 1e-3)
    for name, gradient in gradients_of(policy).items():
        assert (gradient - expected[name]).abs().max().item() <= tolerance * scale, name
    np.testing.assert_allclose(as_array(statistics.ratios), as_array(expected_statistics.ratios), rtol=tolerance)
    for name in ("policy_loss", "value_loss", "entropy_loss", "loss", "approx_kl", "ratio_max"):
        found, theirs = getattr(statistics, name), float(getattr(expected_statistics, name))
        assert found == pytest.approx(theirs, rel=2 * tolerance, abs=tolerance), name


@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_large_products_are_blocked_without_a_change(head: str) -> None:
    """Beyond one block of k, one tile and one page a row, gradients are autograd's to 1e-10 as they are below."""
    arch = {"pi": [530, 20], "vf": [130, 60]}
    policy = make_policy(head, 140, double=True, net_arch=arch)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(0.2)
    samples = make_minibatch(policy, 520, 0)
    AutogradEngine(policy).gradients(TensorMinibatch(samples), DEFAULTS)
    expected = gradients_of(policy)
    engine = FusedEngine(policy)
    engine.gradients(engine.minibatch_of(*samples[:6]), DEFAULTS)
    for name, gradient in gradients_of(policy).items():
        th.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10 * expected[name].abs().max().item())


# -- the same bits -------------------------------------------------------------------------------------------------------


@both_levels
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_avx2_and_avx512_give_the_same_bits(head: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor's registers hold: actions, values, ratios, parameters, gradients and moments."""
    update = update_settings_with(ent_coef=0.01, clip_range_vf=0.2)
    left = []
    for level in ("v3", "v4"):
        monkeypatch.setattr(fused_engine, "load_library", lambda level=level: AtLevel(level))
        policy = make_policy(head, 20, net_arch=[33, 70], activation_fn=ACTIVATIONS[activation])
        left.append(trained(policy, some_minibatches(policy), update))
    assert_same_bits(*left)


@both_levels
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_avx2_and_avx512_take_the_same_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every optimizer."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    left = []
    for level in ("v3", "v4"):
        monkeypatch.setattr(fused_engine, "load_library", lambda level=level: AtLevel(level))
        policy = make_policy(optimizer_class=optimizer_class, optimizer_kwargs=dict(kwargs), net_arch=[21])
        left.append(trained(policy, some_minibatches(policy)))
    assert_same_bits(*left)


def update_settings_with(**changes: Any) -> UpdateSettings:
    """SB3's defaults with changes."""
    return UpdateSettings(**{**vars(DEFAULTS), **changes})


def misplace(policy: Any, by: int) -> None:
    """Move every parameter to an address that is no multiple of a vector, a cache line or even of 16 bytes."""
    for parameter in policy.parameters():
        memory = th.empty(parameter.numel() + 32)
        start = (-memory.data_ptr() // 4) % 16 + by
        place = memory[start : start + parameter.numel()].view(parameter.shape)
        assert place.data_ptr() % 64 == 4 * by
        parameter.data = place.copy_(parameter.data)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("by", [1, 5])
def test_alignment_changes_no_bit(head: str, by: int) -> None:
    """Parameters and rollouts may lie anywhere."""
    left = []
    for misplaced in (False, True):
        policy = make_policy(head, 20, net_arch=[33, 18])
        minibatches = some_minibatches(policy)  # before: torch's bits depend on alignment
        if misplaced:
            misplace(policy, by)
        left.append(trained(policy, minibatches))
    assert_same_bits(*left)


def test_models_in_threads_give_the_bits_of_models_alone() -> None:
    """Four threads, each with its own policy, change nothing of each other: kernels have no state of their own."""
    policies = [make_policy("gaussian", 20, seed, net_arch=[33, 18]) for seed in range(4)]
    samples = [make_minibatch(policy, 50, seed) for seed, policy in enumerate(policies)]

    def updates(policy: Any, minibatch: Any) -> list[np.ndarray]:
        engine = FusedEngine(policy)
        for _ in range(200):
            engine.gradients(engine.minibatch_of(*minibatch[:6]), DEFAULTS)
            engine.apply(DEFAULTS)
        return state_of(policy)

    alone = [updates(copy.deepcopy(policy), minibatch) for policy, minibatch in zip(policies, samples, strict=True)]
    together: dict[int, list[np.ndarray]] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, updates(policies[i], samples[i]))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, expected in enumerate(alone):
        assert_same_bits(together[i], expected)


def test_torchs_threads_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels compute in the calling thread; how many torch has is the user's business, in an update too."""
    monkeypatch.setattr(th, "set_num_threads", lambda n: pytest.fail("the number of threads was set"))
    policy = make_policy("gaussian", 20, net_arch=[300])
    trained(policy, some_minibatches(policy))


@pytest.mark.parametrize("head", sorted(set(HEADS) - {"beta"}))
@pytest.mark.parametrize("rows", [1, 4, 5, 37])
def test_acting_in_float64_is_the_policys(head: str, rows: int) -> None:
    """Actions, values and log-probabilities for the same random numbers, to 1e-10, row by row as well as side by side."""
    policy = make_policy(head, 20, double=True, net_arch=[33, 18])
    engine, observations = FusedEngine(policy), th.randn(rows, 20, dtype=th.float64)
    th.manual_seed(4)
    outputs = engine.act(PolicyInputs(observations))
    th.manual_seed(4)
    expected = AutogradEngine(policy).act(PolicyInputs(observations))
    noise = np.concatenate([part.numpy().ravel() for part in engine._memory[rows].noise])
    record_act(engine, observations, noise, outputs)
    for ours, theirs in zip(outputs, expected, strict=True):
        th.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [37, 510, 512])
def test_a_transition_does_not_depend_on_its_neighbours(head: str, size: int) -> None:
    """The ratio of each transition has the bits that it has in a minibatch of 20, also where rows are longer than needed."""
    policy = make_policy(head, 20, net_arch=[33, 18])
    samples = make_minibatch(policy, size, 0)
    engine = FusedEngine(policy)
    whole, part = (
        as_array(engine.gradients(engine.minibatch_of(*(column[:n].clone() for column in samples[:6])), DEFAULTS).ratios)
        for n in (size, 20)
    )
    np.testing.assert_array_equal(whole[:20], part)


def test_a_smaller_minibatch_after_a_larger_one_finds_nothing_of_it() -> None:
    """Scratch memory is used again: what a large minibatch with infinities left changes no later gradient."""
    policy = make_policy("categorical", 20, net_arch=[33, 18])
    samples = make_minibatch(policy, 13, 0)
    expected = []
    for spoilt in (False, True):
        engine = FusedEngine(policy)
        if spoilt:
            large = make_minibatch(policy, 600, 1)
            large.observations[:] = float("inf")
            with pytest.raises(NonFiniteUpdateError):
                engine.gradients(engine.minibatch_of(*large[:6]), DEFAULTS)
        engine.gradients(engine.minibatch_of(*samples[:6]), DEFAULTS)
        expected.append([gradient.numpy() for gradient in gradients_of(policy).values()])
    assert_same_bits(*expected)


# -- elementary functions ------------------------------------------------------------------------------------------------


def activations_by_kernels(module: type[nn.Module], numbers: np.ndarray, rows: int, **options: Any) -> np.ndarray:
    """An activation of some numbers as a critic computes it, whose layers pass on one number; so many at once."""
    policy = make_policy(features=1, net_arch=[1], activation_fn=module)
    critic: Any = policy.mlp_extractor.value_net
    for name, value in options.items():
        setattr(critic[1], name, value)
    with th.no_grad():
        for layer in (critic[0], policy.value_net):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    engine = FusedEngine(policy)
    parts = th.from_numpy(numbers.astype(np.float32))[:, None].split(rows)
    return np.concatenate([engine.value(PolicyInputs(part.contiguous())).numpy()[:, 0] for part in parts])


OPTIONS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "tanh": (nn.Tanh, {}),
    "relu": (nn.ReLU, {}),
    "elu": (nn.ELU, {"alpha": 0.7}),
    "leaky_relu": (nn.LeakyReLU, {"negative_slope": 0.2}),
    "gelu": (nn.GELU, {}),
    "gelu_tanh": (nn.GELU, {"approximate": "tanh"}),
    "silu": (nn.SiLU, {}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rows", [1, 10_000])
def test_activations_to_the_last_digits(name: str, rows: int) -> None:
    """Over all magnitudes within 1e-6 of the result (or of the number, where the result is a small difference)."""
    module, options = OPTIONS[name]
    magnitudes = np.logspace(-30, 1.5, 400)
    numbers = np.concatenate([-magnitudes, [0.0], magnitudes]).astype(np.float32)
    expected_module = module()
    for option, value in options.items():
        setattr(expected_module, option, value)
    expected = expected_module(th.from_numpy(numbers.astype(np.float64))).numpy()
    found = activations_by_kernels(module, numbers, rows, **options)
    tolerance = 1e-6 * np.abs(expected) + (3e-7 * np.minimum(np.abs(numbers), 4) if name.startswith("gelu") else 0) + 1e-37
    assert (np.abs(found - expected) <= tolerance).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_nan_stays_nan_and_infinity_has_its_limit(name: str) -> None:
    """NaN in, NaN out, for each number alone; +∞ goes where torch's activation sends it."""
    module, options = OPTIONS[name]
    numbers = np.array([1.0, np.nan, 2.0, np.inf] * 5, np.float32)
    found = activations_by_kernels(module, numbers, 20, **options)
    assert np.isnan(found[1::4]).all()
    assert np.isfinite(found[0::4]).all() and np.isfinite(found[2::4]).all()
    np.testing.assert_allclose(found[3::4], module()(th.tensor(np.inf)).item(), rtol=1e-6)


# -- what belongs to the policy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [None, 2], ids=["all", "two"])
def test_gradients_of_others_are_stepped_with(replaced: int | None) -> None:
    """Whoever puts tensors of his own into ``.grad`` between ``gradients`` and ``apply`` has them honoured, as in torch."""
    policies = [make_policy("gaussian", net_arch=[8]) for _ in range(2)]
    samples = make_minibatch(policies[0], 9, 0)
    fused, reference = FusedEngine(policies[0]), AutogradEngine(policies[1])
    for _ in range(3):
        fused.gradients(fused.minibatch_of(*samples[:6]), DEFAULTS)
        reference.gradients(TensorMinibatch(samples), DEFAULTS)
        for policy in policies:
            for parameter in [*policy.parameters()][:replaced]:
                parameter.grad = parameter.grad * 2 if parameter.ndim > 1 else None
        assert fused.apply(DEFAULTS) == pytest.approx(reference.apply(DEFAULTS), rel=1e-5)
    compare_states(policies[0], policies[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_refused_leaves_the_optimizer_as_it_was(name: str) -> None:
    """An infinite gradient before the first step: parameters rest, and the optimizer has no state, as before."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    policy = make_policy(net_arch=[4], optimizer_class=optimizer_class, optimizer_kwargs=dict(kwargs))
    engine, samples = FusedEngine(policy), make_minibatch(policy, 9, 0)
    engine.gradients(engine.minibatch_of(*samples[:6]), DEFAULTS)
    policy.action_net.weight.grad[0, 0] = float("inf")
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NonFiniteUpdateError, match="grad_norm=inf"):
        engine.apply(DEFAULTS)
    assert policy.optimizer.state_dict()["state"] == {}
    assert all(th.equal(value, before[key]) for key, value in policy.state_dict().items())


def test_an_engine_keeps_no_copy() -> None:
    """What is written to parameters and moments in between counts without ``attach``, as their memory is the kernels'."""
    policy = make_policy("gaussian", net_arch=[8])
    engine, observations = FusedEngine(policy), th.randn(3, 5)
    with th.no_grad():
        policy.value_net.bias.add_(7.0)
    th.testing.assert_close(engine.value(PolicyInputs(observations)), policy.predict_values(observations))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_later_steps_are_torchs_too(name: str, double: bool) -> None:
    """From a state that the optimizer itself has left, one step with the kernels is one of its own."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    made: dict[str, Any] = {
        "optimizer_class": optimizer_class,
        "optimizer_kwargs": dict(kwargs),
        "net_arch": [21],
        "double": double,
    }
    policies = [make_policy(**made) for _ in range(2)]
    samples = make_minibatch(policies[0], 9, 0)
    for policy in policies:
        for _ in range(2):
            reference = AutogradEngine(policy)
            reference.gradients(TensorMinibatch(samples), DEFAULTS)
            reference.apply(DEFAULTS)
    fused = FusedEngine(policies[0])
    fused.gradients(fused.minibatch_of(*samples[:6]), DEFAULTS)
    reference.gradients(TensorMinibatch(samples), DEFAULTS)
    fused.optimizer.point()
    before = tensors_of(fused)
    assert fused.apply(DEFAULTS) == pytest.approx(reference.apply(DEFAULTS), rel=1e-5)
    record_apply(fused, before, DEFAULTS.max_grad_norm)
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-6}
    compare_states(policies[0], policies[1], **tolerance)


# -- what is refused -----------------------------------------------------------------------------------------------------


def test_parameters_that_are_not_contiguous_are_refused_by_name() -> None:
    """Kernels read rows one after the other: "auto" takes another engine for a transposed weight, and says which it was."""
    policy = make_policy("gaussian", net_arch=[8, 8])
    weight = policy.mlp_extractor.policy_net[2].weight
    weight.data = weight.data.t()
    assert why_not_fused(policy) == "policy.mlp_extractor.policy_net.2.weight is not contiguous"
    engine, reason = make_engine("auto", policy)
    assert engine.name == "autograd" and "is not contiguous" in reason


def test_observations_and_minibatches_of_another_size_are_refused() -> None:
    """No kernel reads beyond an array: the error names what was found and what was expected."""
    policy = make_policy("gaussian", features=5)
    engine = FusedEngine(policy)
    with pytest.raises(ValueError, match=r"observations: found shape \(2, 4\), expected \(2, …\) with 5 numbers each"):
        engine.act(PolicyInputs(th.zeros(2, 4)))
    samples = make_minibatch(policy, 6, 0)
    with pytest.raises(ValueError, match=r"rollout: found columns of \[5, 1, 1, 1, 1, 1\] numbers"):
        engine.minibatch_of(samples.observations, samples.actions[:, :1], *samples[2:6])
    six = engine.minibatch_of(*samples[:6])
    for order, found in (([0, 6], "0 to 6"), ([-1, 5], "-1 to 5")):
        with pytest.raises(ValueError, match=f"rows: found indices from {found}, expected 0 to 5"):
            next(pick_rows(six.columns, six.struct, np.array(order), 2))
    [last] = pick_rows(six.columns, six.struct, np.array([5]), 2)
    np.testing.assert_array_equal(last.old_log_prob, samples.old_log_prob[5:])


def test_observations_of_another_type_or_layout_are_converted() -> None:
    """float64, or every second column of an array: the values are those of the same numbers."""
    policy = make_policy("gaussian", features=5)
    engine, observations = FusedEngine(policy), th.randn(3, 10)[:, ::2]
    expected = engine.value(PolicyInputs(observations.contiguous()))
    assert th.equal(engine.value(PolicyInputs(observations)), expected)
    assert th.equal(engine.value(PolicyInputs(observations.double())), expected)


class HalfThePolicyLoss(Objective):
    """An objective that only Python knows."""

    def policy_loss(self, *arguments: Any) -> th.Tensor:
        """Half of PPO's."""
        return super().policy_loss(*arguments) / 2


@pytest.mark.parametrize("head", HEADS)
def test_an_objective_in_python_goes_through_the_same_kernels(head: str) -> None:
    """Derivatives of an objective of one's own are propagated as autograd does, to 1e-10 in float64."""
    update = update_settings_with(objective=HalfThePolicyLoss(), ent_coef=0.1)
    policy = make_policy(head, double=True, net_arch=[9, 6])
    samples = make_minibatch(policy, 21, 0)
    expected_statistics = AutogradEngine(policy).gradients(TensorMinibatch(samples), update)
    expected = gradients_of(policy)
    engine = FusedEngine(policy)
    statistics = engine.gradients(engine.minibatch_of(*samples[:6]), update)
    assert statistics.loss == pytest.approx(expected_statistics.loss, rel=1e-10)
    for name, gradient in gradients_of(policy).items():
        th.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10 * expected[name].abs().max().item())
