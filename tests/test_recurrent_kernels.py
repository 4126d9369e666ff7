"""The kernels of LSTM and GRU: gradients, steps, states and bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_ppo_edu.engines import PolicyInputs, as_array
from sb3_ppo_edu.engines.fused import engine as fused_engine
from sb3_ppo_edu.engines.fused.recurrent import RecurrentFusedEngine, order_of_steps
from sb3_ppo_edu.rollouts.buffers import IncompleteRolloutError
from tests.recorded_kernels import record_act, record_gradients
from tests.sequences import (
    CELLS,
    HEADS,
    MEMORIES,
    filled_buffer,
    losses_by_hand,
    make_dict_policy,
    make_image_policy,
    make_recurrent_policy,
    make_sequences,
    random_states,
)
from tests.test_fused import ACTIVATIONS, gradients_of
from tests.test_fused_updates import shrinking
from tests.test_kernels import AtLevel, assert_same_bits, both_levels, misplace, state_of, update_settings_with

widths = st.lists(st.integers(1, 20), max_size=2)
some_settings = st.builds(
    update_settings_with,
    clip_range=st.floats(0.05, 0.5),
    clip_range_vf=st.none() | st.floats(0.05, 1.0),
    ent_coef=st.sampled_from([0.0, 0.01, -0.5]),
    normalize_advantage=st.booleans(),
)


def agree(policy: Any, samples: Any, update: Any, tolerance: float) -> None:
    """Compare loss, ratios and every gradient tensor with autograd's, by the largest number of each."""
    loss, ratios = losses_by_hand(policy, samples, update)
    policy.zero_grad()
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}
    engine = RecurrentFusedEngine(policy)
    minibatch = engine.minibatch_of(samples)
    statistics = engine.gradients(minibatch, update)
    record_gradients(engine, minibatch, update, statistics.ratios)
    assert statistics.loss == pytest.approx(loss.item(), rel=tolerance, abs=tolerance)
    found = np.sort(as_array(statistics.ratios))
    np.testing.assert_allclose(found, np.sort(ratios.numpy()), rtol=10 * tolerance, atol=tolerance)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in gradients_of(policy).items():
        scale = max(expected[name].abs().max().item(), 1e-6 if tolerance < 1e-8 else largest)
        assert (gradient - expected[name]).abs().max().item() <= tolerance * scale, name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cell=st.sampled_from(sorted(CELLS)),
    memory=st.sampled_from(sorted(MEMORIES)),
    head=st.sampled_from(sorted(HEADS)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    net_arch=st.fixed_dictionaries({"pi": widths, "vf": widths}),
    features=st.integers(1, 20),
    units=st.integers(1, 40),
    layers=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) > 1),
    reset_rate=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 10**6),
    update=some_settings,
)
def test_gradients_are_autograds(
    cell: str,
    memory: str,
    head: str,
    activation: str,
    net_arch: dict[str, list[int]],
    features: int,
    units: int,
    layers: int,
    lengths: list[int],
    reset_rate: float,
    seed: int,
    update: Any,
) -> None:
    """In float64 to 1e-10: whatever cell, layers, sizes, lengths of sequences, their first states, episodes within them."""
    kwargs = {"net_arch": net_arch, "activation_fn": ACTIVATIONS[activation]}
    policy = make_recurrent_policy(cell, memory, head, features, units, layers, seed, double=True, **kwargs)
    agree(policy, make_sequences(policy, lengths, seed, reset_rate), update, 1e-10)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cell=st.sampled_from(sorted(CELLS)),
    memory=st.sampled_from(sorted(MEMORIES)),
    units=st.sampled_from([1, 15, 16, 17, 64, 100]),
    layers=st.integers(1, 2),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) > 1),
    seed=st.integers(0, 10**6),
)
def test_float32_agrees_with_float32(cell: str, memory: str, units: int, layers: int, lengths: list[int], seed: int) -> None:
    """In float32 each gradient is torch's to 1e-5 of the largest gradient, whole vectors and parts of them."""
    policy = make_recurrent_policy(cell, memory, "gaussian", 7, units, layers, seed, net_arch=[])
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(0.3)
    agree(policy, make_sequences(policy, lengths, seed), update_settings_with(ent_coef=0.01), 1e-5)


@both_levels
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("memory", MEMORIES)
def test_avx2_and_avx512_give_the_same_bits(cell: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and states of steps, ratios, gradients, parameters and moments; also where parameters lie at odd addresses."""
    left = []
    for level, by in (("v3", 0), ("v4", 0), ("v4", 5)):
        monkeypatch.setattr(fused_engine, "load_library", lambda level=level: AtLevel(level))
        policy = make_recurrent_policy(cell, memory, "categorical", 20, 70, 2, net_arch=[33])
        samples = make_sequences(policy, [1, 13, 4, 7, 7, 30, 2])
        if by:
            misplace(policy, by)
        left.append(trained(policy, samples))
    assert_same_bits(left[0], left[1])
    assert_same_bits(left[1], left[2])


def trained(policy: Any, samples: Any) -> list[np.ndarray]:
    """Everything that some acts and a step with the kernels leave."""
    engine, update, left = RecurrentFusedEngine(policy), update_settings_with(ent_coef=0.01), []
    th.manual_seed(5)
    for rows in (1, 3, 7):
        inputs = some_inputs(policy, rows)
        left += [tensor.numpy() for tensor in engine.act(inputs)]
        left += [state.numpy() for states in engine.hidden_states for state in states]
        left.append(engine.value(inputs._replace(hidden_states=inputs.hidden_states[1])).numpy())
    left.append(as_array(engine.gradients(engine.minibatch_of(samples), update).ratios))
    engine.apply(update)
    return left + state_of(policy)


def some_inputs(policy: Any, n: int, seed: int = 0) -> Any:
    """Observations of n environments, their states, and which of them begin an episode."""
    generator = np.random.default_rng(seed)
    dtype = policy.value_net.weight.dtype
    observations = th.as_tensor(generator.normal(size=(n, policy.observation_space.shape[0])), dtype=dtype)
    starts = th.as_tensor(generator.random(n) < 0.3, dtype=th.float32)
    return PolicyInputs(observations, hidden_states=random_states(policy, n, generator), episode_starts=starts)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("n", [1, 5, 16, 17])
def test_a_step_is_the_policys(cell: str, memory: str, head: str, n: int) -> None:
    """In float64 to 1e-10, for the same random numbers: actions, values, log-probabilities and the states behind the step."""
    policy = make_recurrent_policy(cell, memory, head, 7, 20, 2, double=True, net_arch=[9])
    inputs = some_inputs(policy, n)
    if policy.use_sde:
        policy.reset_noise(n)
    th.manual_seed(4)
    with th.no_grad():
        *expected, states = policy(inputs.observations, inputs.hidden_states, inputs.episode_starts.double())
    engine = RecurrentFusedEngine(policy)
    th.manual_seed(4)
    outputs = engine.act(inputs)
    noise = np.concatenate([part.numpy().ravel() for part in engine._memory[n].noise])
    record_act(engine, inputs.observations, noise, outputs)
    for ours, theirs in zip(outputs, expected, strict=True):
        th.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(engine.hidden_states, states, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    # A shared LSTM has one state, whatever is said of the critic's.
    found = engine.value(inputs._replace(hidden_states=inputs.hidden_states[0 if memory == "shared" else 1]))
    th.testing.assert_close(found, expected[1], rtol=1e-10, atol=1e-10)


def test_order_of_steps() -> None:
    """Sequences a0 a1 | b0 b1 b2 | c0 become b0 a0 c0, b1 a1, b2: the longest first, step by step."""
    order = order_of_steps(np.array([True, False, True, False, False, True]))
    assert order.rows.tolist() == [2, 0, 5, 3, 1, 4]
    assert order.counts.tolist() == [3, 2, 1]


@pytest.mark.parametrize("cell", CELLS)
def test_a_stored_state_counts_for_nothing_where_an_episode_begins(cell: str) -> None:
    """Another state before the start of an episode changes no bit; another one before any other sequence does."""
    policy = make_recurrent_policy(cell)
    samples = make_sequences(policy, [4, 3], reset_rate=0.0)
    samples.episode_starts[0] = 1.0
    engine, update = RecurrentFusedEngine(policy), update_settings_with()
    gradients = []
    for sequence in (None, 0, 1):
        for states in samples.lstm_states:
            for state in states:
                if sequence is not None:
                    state[:, sequence] += 1.0
        engine.gradients(engine.minibatch_of(samples), update)
        gradients.append([gradient.numpy() for gradient in gradients_of(policy).values()])
    assert_same_bits(gradients[0], gradients[1])
    assert not np.array_equal(gradients[1][0], gradients[2][0])


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    """The ratios of a sequence alone have the bits that they have beside six others."""
    policy = make_recurrent_policy("lstm", "separate", "categorical", 20, 70, 2)
    samples = make_sequences(policy, [30, 13, 25, 7, 7, 30, 2])
    engine, update = RecurrentFusedEngine(policy), update_settings_with(normalize_advantage=False)
    together = as_array(engine.gradients(engine.minibatch_of(samples), update).ratios)
    kind: Any = type(samples)
    alone_samples = kind(
        *(column[:30] for column in samples[:6]),
        type(samples.lstm_states)(*(tuple(state[:, :1] for state in states) for states in samples.lstm_states)),
        samples.episode_starts[:30],
        samples.mask[:30],
    )
    alone = as_array(engine.gradients(engine.minibatch_of(alone_samples), update).ratios)
    # The first of the two longest is the first of every time step.
    counts = engine.minibatch_of(samples).counts
    np.testing.assert_array_equal(alone, together[np.cumsum(counts) - counts])


@pytest.mark.parametrize("observations", ["box", "dict", "image"])
def test_minibatches_are_those_of_the_buffer(observations: str) -> None:
    """Cut by the engine, or by the buffer's own ``get``: the same draw, sequences and states, and so gradients to the bit."""
    makers: dict[str, Any] = {"dict": make_dict_policy, "image": make_image_policy}
    policy = makers.get(observations, lambda: make_recurrent_policy("lstm", "separate", "gaussian", 3, 6, 2))()
    buffer = filled_buffer(policy, n_steps=12, n_envs=3)
    engine, update = RecurrentFusedEngine(policy), update_settings_with()
    left: list[list[np.ndarray]] = []
    for own in (False, True):
        np.random.seed(3)
        if own:  # an attribute of the instance: whatever it does, it has to be called
            buffer.get = type(buffer).get.__get__(buffer)
        left.append([])
        for minibatch in [*engine.minibatches(buffer, 16), *engine.minibatches(buffer, 16)]:
            statistics = engine.gradients(minibatch, update)
            left[-1] += [as_array(minibatch.advantages), as_array(statistics.ratios)]
            left[-1] += [gradient.numpy() for gradient in gradients_of(policy).values()]
        left[-1].append(np.array(np.random.randint(10**6)))
    assert_same_bits(*left)


def test_a_buffer_may_give_the_policy_other_memory() -> None:
    """Between two minibatches of its own: gradients are those of the parameters as they are then, wherever they lie."""
    left: list[list[np.ndarray]] = []
    for elsewhere in (False, True):
        policy = make_recurrent_policy("lstm", "separate", "gaussian", 3, 6, 2)
        buffer = filled_buffer(policy, n_steps=12, n_envs=3)
        buffer.get = shrinking(policy, buffer.get, elsewhere)
        np.random.seed(3)
        engine, update = RecurrentFusedEngine(policy), update_settings_with()
        left.append([])
        for minibatch in engine.minibatches(buffer, 16):
            engine.gradients(minibatch, update)
            left[-1] += [gradient.numpy() for gradient in gradients_of(policy).values()]
    assert_same_bits(*left)


def test_a_rollout_of_which_steps_are_missing_is_refused() -> None:
    """As sb3-contrib's buffer does, which asserts that it is full."""
    policy = make_recurrent_policy("lstm", "separate", "gaussian", 3, 6, 2)
    buffer = filled_buffer(policy, n_steps=12, n_envs=3)
    buffer.reset()
    with pytest.raises(IncompleteRolloutError, match="found 0 of its 12 steps"):
        next(RecurrentFusedEngine(policy).minibatches(buffer, 16))
