"""The shortcuts around SB3's rollout buffer write and read the same bits as the buffer's own methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import make_proba_distribution

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.rollouts import buffers
from sb3_ppo_edu.rollouts.buffers import (
    add_transition,
    compute_returns_and_advantage,
    possible_actions,
    recompute_returns_and_advantage,
    shuffled_minibatches,
)
from tests.environments import RandomWalk
from tests.update_by_hand import n_step_sum

STEPS = 13
OBSERVATIONS: dict[str, spaces.Space] = {
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "box64": spaces.Box(-1, 1, (2, 2), np.float64),
    "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
    "discrete": spaces.Discrete(5),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
}
ACTIONS: dict[str, spaces.Space] = {
    "box": spaces.Box(-1, 1, (2, 2), np.float32),
    "box64": spaces.Box(-1, 1, (2,), np.float64),
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(4),
}


class OwnBuffer(RolloutBuffer):
    """A buffer of one's own, whose methods must be called."""

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)
        self.rewards[self.pos - 1] *= 2.0


def filled_buffers(observation: str, action: str, n_envs: int, kind: type[RolloutBuffer] = RolloutBuffer) -> list[Any]:
    """Two buffers with the same random transitions: one filled by its own method, one by ours."""
    buffers = []
    for ours in (False, True):
        generator = np.random.default_rng(0)
        observation_space, action_space = OBSERVATIONS[observation], ACTIONS[action]
        buffer = kind(STEPS, observation_space, action_space, "cpu", gae_lambda=0.9, gamma=0.8, n_envs=n_envs)
        observation_space.seed(0)
        action_space.seed(0)
        for _ in range(STEPS):
            observations = np.stack([observation_space.sample() for _ in range(n_envs)])
            actions = np.stack([action_space.sample() for _ in range(n_envs)])
            rewards, starts = generator.normal(size=n_envs), generator.random(n_envs) < 0.3
            values, log_probs = th.as_tensor(generator.normal(size=(2, n_envs)), dtype=th.float32)
            if ours:
                add_transition(buffer, observations, actions, rewards, starts, values[:, None], log_probs)
            else:
                actions = actions.reshape(-1, 1) if action == "discrete" else actions
                buffer.add(observations, actions, rewards, starts, values[:, None], log_probs)
        last_values = th.as_tensor(generator.normal(size=(n_envs, 1)), dtype=th.float32)
        dones = generator.random(n_envs) < 0.5
        if ours:
            compute_returns_and_advantage(buffer, last_values, dones)
        else:
            buffer.compute_returns_and_advantage(last_values, dones)
        buffers.append(buffer)
    return buffers


def assert_same_buffers(theirs: RolloutBuffer, ours: RolloutBuffer) -> None:
    """Every array has the same type, shape and bits."""
    assert (ours.pos, ours.full) == (theirs.pos, theirs.full) == (STEPS, True)
    for name, array in vars(theirs).items():
        if isinstance(array, np.ndarray):
            assert getattr(ours, name).dtype == array.dtype, name
            np.testing.assert_array_equal(getattr(ours, name), array, err_msg=name)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("block", [1, 14, buffers.BLOCK, "one observation's bytes"])
def test_same_bits_as_the_buffers_own_methods(
    block: int | str, observation: str, action: str, n_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Adding, GAE and shuffling leave the same arrays and give the same minibatches, from the same permutation.

    Whether the rollout is put in order minibatch by minibatch, two at a time, or at once, makes no difference.
    """
    monkeypatch.setattr(buffers, "BLOCK_BYTES" if isinstance(block, str) else "BLOCK", 1 if isinstance(block, str) else block)
    theirs, ours = filled_buffers(observation, action, n_envs)
    assert_same_buffers(theirs, ours)
    for _ in range(2):  # the first epoch flattens the arrays, the second finds them flat
        np.random.seed(3)
        expected = list(theirs.get(7))
        next_number = np.random.random()
        np.random.seed(3)
        found = list(shuffled_minibatches(ours, 7))
        assert np.random.random() == next_number
        assert len(found) == len(expected)
        for minibatch, expected_minibatch in zip(found, expected, strict=True):
            for ours_part, their_part in zip(minibatch, expected_minibatch, strict=True):
                assert ours_part.dtype == their_part.dtype
                assert th.equal(ours_part, their_part)


def test_minibatches_do_not_share_memory_with_the_buffer() -> None:
    """A minibatch that is changed leaves the rollout as it was."""
    _, ours = filled_buffers("box", "box", 2)
    before = ours.advantages.copy()
    for minibatch in shuffled_minibatches(ours, 7):
        minibatch.advantages.zero_()
    np.testing.assert_array_equal(np.sort(ours.advantages, axis=None), np.sort(before, axis=None))


def test_a_buffer_of_ones_own_keeps_its_methods() -> None:
    """A subclass may do anything in its methods: they are called."""
    theirs, ours = filled_buffers("box", "discrete", 2, OwnBuffer)
    assert_same_buffers(theirs, ours)
    plain, _ = filled_buffers("box", "discrete", 2)
    np.testing.assert_array_equal(ours.rewards, 2.0 * plain.rewards)


def test_a_method_put_on_sb3s_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces ``RolloutBuffer.add`` has every transition of every buffer."""
    plain, _ = filled_buffers("box", "discrete", 2)
    original = RolloutBuffer.add

    def add(buffer: RolloutBuffer, *args: Any, **kwargs: Any) -> None:
        original(buffer, *args, **kwargs)
        buffer.rewards[buffer.pos - 1] *= 2.0

    monkeypatch.setattr(RolloutBuffer, "add", add)
    for buffer in filled_buffers("box", "discrete", 2):
        np.testing.assert_array_equal(buffer.rewards, 2.0 * plain.rewards)


def test_dict_buffers_keep_their_methods() -> None:
    """SB3's buffer of dict observations is filled, and read as tensors, through its own methods."""
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32)})
    buffer = DictRolloutBuffer(2, space, spaces.Discrete(2), "cpu", n_envs=1)
    for step in range(2):
        observation = {"a": np.full((1, 2), step, np.float32)}
        add_transition(buffer, observation, np.array([1]), np.ones(1), np.zeros(1), th.zeros(1, 1), th.zeros(1))
    compute_returns_and_advantage(buffer, th.zeros(1, 1), np.array([False]))
    minibatch: Any = next(shuffled_minibatches(buffer, 2))
    assert sorted(minibatch.observations["a"][:, 0].tolist()) == [0.0, 1.0]
    # The buffer's own defaults are gamma 0.99 and lambda 1: returns of 1 and 1 + 0.99.
    assert sorted(minibatch.returns.tolist()) == pytest.approx([1.0, 1.99])


@pytest.mark.parametrize("n_envs", [1, 3])
def test_advantages_of_other_values_are_those_of_a_rollout_that_had_them(n_envs: int) -> None:
    """
    Computed once more after an epoch, they are those of SB3's buffer filled with the other values, to the bit.

    The values that the buffer stores stay: value clipping is around those that the actions were taken with.
    """
    theirs, ours = filled_buffers("box", "box", n_envs)
    generator = np.random.default_rng(1)
    theirs.values[:] = generator.normal(size=theirs.values.shape)
    values = theirs.swap_and_flatten(theirs.values)[:, 0]
    last_values = th.as_tensor(generator.normal(size=(n_envs, 1)), dtype=th.float32)
    dones = generator.random(n_envs) < 0.5
    theirs.compute_returns_and_advantage(last_values, dones)
    for _ in shuffled_minibatches(ours, 5):
        pass
    old_values, old_returns = ours.values.copy(), ours.returns.copy()
    recompute_returns_and_advantage(ours, values, last_values, dones)
    np.testing.assert_array_equal(ours.advantages, theirs.swap_and_flatten(theirs.advantages))
    np.testing.assert_array_equal(ours.returns, theirs.swap_and_flatten(theirs.returns))
    np.testing.assert_array_equal(ours.values, old_values)
    assert np.abs(ours.returns - old_returns).max() > 0.1


@pytest.mark.parametrize("number", [0.0, 1.0, 2.0, 3.0, -1.0, 0.5, -0.5, 1e18, np.nan])
@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_actions_are_possible_where_torch_says_so(action: str, number: float) -> None:
    """What torch's validated distributions refuse is refused, and SB3 takes the integer part of a Discrete action."""
    space: Any = ACTIONS[action]
    size = RolloutBuffer(1, OBSERVATIONS["box"], space).action_dim
    actions = np.zeros((2, size), np.float32)
    actions[1, -1] = number
    distribution: Any = make_proba_distribution(space)
    distribution.proba_distribution(th.zeros(2, {"discrete": 3, "multidiscrete": 5, "multibinary": 4}[action]))
    given = th.from_numpy(actions).long().flatten() if action == "discrete" else th.from_numpy(actions)
    try:
        distribution.log_prob(given)
    except ValueError:
        with pytest.raises(ValueError, match=rf"rollout_buffer.actions: found .+ at \(1, {size - 1}\)"):
            possible_actions(space, actions)
    else:
        found = possible_actions(space, actions)
        np.testing.assert_array_equal(found, given.numpy().reshape(found.shape))


class Writing(BaseCallback):
    """Writes an action that there is not into each rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        model.rollout_buffer.actions[3] = -1


@pytest.mark.parametrize("kind", [RolloutBuffer, OwnBuffer])
@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_an_action_that_there_is_not_ends_training(action: str, engine: Any, kind: type[RolloutBuffer]) -> None:
    """Somebody has put it into the rollout: as in SB3 no step is taken with it, whichever engine computes."""
    env = RandomWalk(action=action)
    model = EduPPO("MlpPolicy", env, n_steps=8, batch_size=8, engine=engine, rollout_buffer_class=kind, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with pytest.raises(ValueError, match=r"rollout_buffer\.actions: found -1|Expected value argument"):
        model.learn(8, callback=Writing())
    assert all(map(th.equal, before, model.policy.parameters()))


@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.integers(1, 11),
    st.integers(0, 2**32 - 1),
)
def test_targets_of_the_value_function_are_their_sums(
    n_steps: int, n_envs: int, ends: float, gamma: float, n: int, seed: int
) -> None:
    """
    With λ = 1 the Monte Carlo return, with λ = 0 the one-step TD target, with n the sum of n rewards and a value.

    Each is added up directly; the advantages stay GAE's. Estimated anew in an epoch's order they are the same.
    """
    generator = np.random.default_rng(seed)
    last_values = th.as_tensor(generator.normal(size=(n_envs, 1)), dtype=th.float32)
    dones, space = generator.random(n_envs) < ends, spaces.Box(-1, 1, (1,))
    columns = generator.normal(size=(2, n_steps, n_envs)).astype(np.float32)
    starts = (generator.random((n_steps, n_envs)) < ends).astype(np.float32)
    advantages = []
    for changes, length in (({"vf_lambda": 1.0}, n_steps), ({"vf_lambda": 0.0}, 1), ({"vf_n_steps": n}, n)):
        buffer = RolloutBuffer(n_steps, space, space, "cpu", gae_lambda=0.9, gamma=gamma, n_envs=n_envs)
        (buffer.rewards, buffer.values), buffer.episode_starts, buffer.full = columns.copy(), starts, True
        compute_returns_and_advantage(buffer, last_values, dones, **changes)
        beyond = last_values.numpy()[:, 0]
        expected = [
            n_step_sum(columns[0, t:, i], [*columns[1, t + 1 :, i], beyond[i]], [*starts[t + 1 :, i], dones[i]], length, gamma)
            for i in range(n_envs)
            for t in range(n_steps)
        ]
        np.testing.assert_allclose(buffer.returns.T.ravel(), expected, rtol=1e-5, atol=1e-5)
        advantages.append(buffer.advantages)
        for _ in shuffled_minibatches(buffer, n_steps):
            pass
        recompute_returns_and_advantage(buffer, buffer.values[:, 0], last_values, dones, **changes)
        np.testing.assert_allclose(buffer.returns[:, 0], expected, rtol=1e-5, atol=1e-5)
    for others in advantages:
        np.testing.assert_array_equal(others, advantages[0])


def test_targets_of_the_lectures_toy_example() -> None:
    """
    Rewards 1, values 0.5, γ = λ = 0.9 and V(s₃) = 0: Â = (2.04755, 1.355, 0.5) whatever the value function learns.

    λ = 0: 1 + 0.45 = 1.45 twice, and 1. λ = 0.5, from behind: 1; 1.45 + 0.45·0.5 = 1.675; 1.45 + 0.45·1.175 = 1.97875.
    n = 2: 1 + 0.9 + 0.81·0.5 = 2.305; 1 + 0.9 = 1.9, and 1.
    """
    expected: list[tuple[dict[str, Any], list[float]]] = [
        ({"vf_lambda": 0.0}, [1.45, 1.45, 1.0]),
        ({"vf_lambda": 0.5}, [1.97875, 1.675, 1.0]),
        ({"vf_n_steps": 2}, [2.305, 1.9, 1.0]),
        ({"vf_lambda": 0.9}, [2.54755, 1.855, 1.0]),
        ({}, [2.54755, 1.855, 1.0]),
    ]
    for changes, targets in expected:
        for dtype in (th.float32, th.float64):  # with the latter SB3's own method estimates the advantages
            buffer = RolloutBuffer(3, OBSERVATIONS["box"], ACTIONS["box"], "cpu", gae_lambda=0.9, gamma=0.9)
            buffer.rewards[:], buffer.values[:] = 1.0, 0.5
            compute_returns_and_advantage(buffer, th.zeros((1, 1), dtype=dtype), np.zeros(1, np.bool_), **changes)
            np.testing.assert_allclose(buffer.returns[:, 0], targets, rtol=1e-6)
            np.testing.assert_allclose(buffer.advantages[:, 0], [2.04755, 1.355, 0.5], rtol=1e-6)


class OwnReturns(RolloutBuffer):
    """A buffer with targets of its own."""

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        self.returns[:] = 7.0


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_a_buffers_own_targets_stay_its_own(dtype: th.dtype) -> None:
    """A buffer that computes advantages and targets itself does so, whatever the values' type."""
    buffer = OwnReturns(2, OBSERVATIONS["box"], ACTIONS["box"], "cpu")
    compute_returns_and_advantage(buffer, th.ones((1, 1), dtype=dtype), np.zeros(1, np.bool_))
    assert (buffer.returns == 7.0).all() and (buffer.advantages == 0.0).all()
