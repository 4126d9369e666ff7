"""Engines with backward passes of their own compute with masks what sb3-contrib's policies compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sb3_contrib.common.maskable import distributions
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer, MaskableRolloutBufferSamples
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_edu import MaskableEduPPO
from sb3_ppo_edu.engines import AutogradEngine, PolicyInputs, UpdateSettings, as_array, make_engine
from sb3_ppo_edu.engines.autograd import TensorMinibatch
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from sb3_ppo_edu.engines.fused.masked import MaskedEngine
from sb3_ppo_edu.envs.tic_tac_toe import TicTacToe
from sb3_ppo_edu.functional.objectives import PPOObjective
from sb3_ppo_edu.vec_env.action_masks import choices_of
from tests.masked_environments import MaskedWalk, ToldMasks
from tests.recorded_kernels import record_act, record_gradients
from tests.test_fused import DEFAULTS, gradients_of, update_settings

SPACES: dict[str, spaces.Space[Any]] = {
    "categorical": spaces.Discrete(5),
    "multicategorical": spaces.MultiDiscrete([2, 4, 1, 3]),
    "bernoulli": spaces.MultiBinary(3),
}
ENGINES: list[type[NumpyEngine] | type[MaskedEngine]] = [NumpyEngine, MaskedEngine]
widths = st.lists(st.integers(1, 9), max_size=2)


def make_policy(head: str, seed: int = 0, double: bool = False, **kwargs: Any) -> Any:
    """A policy with parameters large enough for all nonlinearities to matter."""
    th.manual_seed(seed)
    box = spaces.Box(-10, 10, (4,), np.float32)
    policy: Any = MaskableActorCriticPolicy(box, SPACES[head], lambda _: 1e-3, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5 * th.randn_like(parameter))
    if double:
        policy.double()
        policy.extract_features = lambda obs, extractor=None: obs.double().flatten(1)  # SB3 casts to float32 there
    return policy


def make_masks(head: str, batch: int, generator: np.random.Generator, share: float) -> NDArray[np.bool_]:
    """Masks of which about a share is legal; 0 leaves a single class of each choice."""
    parts = []
    for size in choices_of(SPACES[head]):
        part = generator.random((batch, size)) < share
        part[np.arange(batch), generator.integers(size, size=batch)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def make_minibatch(policy: Any, head: str, batch: int, seed: int, share: float = 0.5) -> MaskableRolloutBufferSamples:
    """Transitions with legal actions, whose ratios and values lie on both sides of every clip."""
    generator = np.random.default_rng(seed)
    tensor = lambda array: th.as_tensor(array, dtype=next(policy.parameters()).dtype)  # noqa: E731
    # Numbers of float32, to which the numpy engine's features are cast as SB3 does it.
    observations = tensor(generator.normal(size=(batch, 4)).astype(np.float32))
    masks = make_masks(head, batch, generator, share)
    with th.no_grad():
        actions, values, log_prob = policy(observations, action_masks=masks)
    return MaskableRolloutBufferSamples(
        observations,
        tensor(actions.reshape(batch, -1)),
        values.flatten() + tensor(generator.normal(size=batch)) * 0.5,
        log_prob + tensor(generator.normal(size=batch)) * 0.3,
        tensor(generator.normal(size=batch)),
        values.flatten() + tensor(generator.normal(size=batch)),
        tensor(masks),
    )


def minibatch_for(engine: Any, samples: MaskableRolloutBufferSamples) -> Any:
    """The transitions in the engine's form."""
    return engine.minibatch_of(*samples) if isinstance(engine, MaskedEngine) else TensorMinibatch(samples)  # type: ignore[arg-type]


class Shifted(PPOObjective):
    """An objective of one's own, for which the kernels ask Python."""

    def policy_loss(self, *arguments: Any) -> Any:
        """Add what depends on the log-probability."""
        return super().policy_loss(*arguments) + 0.1 * arguments[0].log_prob


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    head=st.sampled_from(sorted(SPACES)),
    net_arch=st.builds(dict, pi=widths, vf=widths),
    batch=st.integers(2, 17),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
    update=update_settings,
    own=st.booleans(),
)
def test_gradients_are_autograds(
    head: str, net_arch: Any, batch: int, share: float, seed: int, update: UpdateSettings, own: bool
) -> None:
    """In float64 every gradient tensor and statistic agrees with autograd's to 1e-10, a single legal class included."""
    if own:
        update = UpdateSettings(**{**vars(update), "objective": Shifted()})
    policy = make_policy(head, seed, double=True, net_arch=net_arch)
    samples = make_minibatch(policy, head, batch, seed, share)
    expected_statistics = AutogradEngine(policy).gradients(TensorMinibatch(samples), update)  # type: ignore[arg-type]
    expected = gradients_of(policy)
    for kind in ENGINES:
        engine = kind(policy)
        statistics = engine.gradients(minibatch_for(engine, samples), update)
        for name, gradient in gradients_of(policy).items():
            scale = max(expected[name].abs().max().item(), 1e-6)
            assert (gradient - expected[name]).abs().max().item() <= 1e-10 * scale, (kind, name)
        np.testing.assert_allclose(as_array(statistics.ratios), as_array(expected_statistics.ratios), rtol=1e-10, atol=1e-12)
        for name in ("policy_loss", "value_loss", "entropy_loss", "loss"):
            value = getattr(expected_statistics, name)
            assert getattr(statistics, name) == pytest.approx(value, rel=1e-10, abs=1e-10), (kind, name)


@pytest.mark.parametrize("head", SPACES)
def test_float32_agrees_with_the_derivation(head: str) -> None:
    """In float32 the kernels' gradients are the numpy engine's to 1e-5, for minibatches of some sizes."""
    policy = make_policy(head, net_arch=[16, 16])
    for batch in (2, 9, 33, 64):
        samples = make_minibatch(policy, head, batch, batch)
        NumpyEngine(policy).gradients(TensorMinibatch(samples), DEFAULTS)  # type: ignore[arg-type]
        expected = gradients_of(policy)
        engine = MaskedEngine(policy)
        minibatch = engine.minibatch_of(*samples)
        statistics = engine.gradients(minibatch, DEFAULTS)
        record_gradients(engine, minibatch, DEFAULTS, statistics.ratios)
        scale = max(gradient.abs().max().item() for gradient in expected.values())
        for name, gradient in gradients_of(policy).items():
            assert (gradient - expected[name]).abs().max().item() <= 1e-5 * scale, name


@pytest.mark.parametrize("n_envs", [1, 4, 5, 40])
@pytest.mark.parametrize("head", SPACES)
def test_acts_as_the_policy(head: str, n_envs: int) -> None:
    """Legal actions, values and log-probabilities are the policy's own, and the random stream ends in the same place."""
    policy, generator = make_policy(head, net_arch=[8, 8]), np.random.default_rng(1)
    places = np.cumsum([0, *choices_of(SPACES[head])[:-1]])
    for share in (0.0, 0.3, 0.7, None):
        observations = th.as_tensor(generator.normal(size=(n_envs, 4)), dtype=th.float32)
        masks = None if share is None else make_masks(head, n_envs, generator, share)
        inputs = PolicyInputs(observations, None if masks is None else th.from_numpy(masks))
        found = []
        for engine in (AutogradEngine(policy), NumpyEngine(policy), MaskedEngine(policy)):
            th.manual_seed(7)
            actions, values, log_probs = engine.act(inputs)
            found.append((actions.reshape(n_envs, -1).long(), values, log_probs, th.rand(1)))
        for ours in found[1:]:
            assert th.equal(ours[0], found[0][0])
            for one, other in zip(ours[1:], found[0][1:], strict=True):
                th.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        if masks is not None:
            assert np.take_along_axis(masks, found[0][0].numpy() + places, axis=1).all()
    th.manual_seed(7)
    noise = th.cat([th.empty(n_envs, size).exponential_().flatten() for size in choices_of(SPACES[head])])
    numbers = make_masks(head, n_envs, generator, 0.5)
    th.manual_seed(7)
    engine = MaskedEngine(policy)
    outputs = engine.act(PolicyInputs(observations, th.from_numpy(numbers)))
    record_act(engine, observations, noise.numpy(), outputs, numbers.astype(np.float32))


def test_masks_of_another_shape_never_reach_the_kernels() -> None:
    """Too few rows or columns would be read beyond their end."""
    engine = MaskedEngine(make_policy("categorical"))
    for shape in ((2, 5), (3, 4)):
        with pytest.raises(ValueError, match=r"action_masks: found shape \(.*\), expected \(3, 5\)"):
            engine.act(PolicyInputs(th.zeros(3, 4), th.ones(shape, dtype=th.bool)))


def train(engine: Any, kind: Any = MaskedWalk, action: str = "discrete", **arguments: Any) -> MaskableEduPPO:
    """One rollout and its update."""
    env = make_vec_env(lambda: kind(action=action), 2, seed=2)
    model = MaskableEduPPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=16,
        n_epochs=2,
        ent_coef=0.01,
        seed=1,
        device="cpu",
        engine=engine,
        **arguments,
    )
    return model.learn(64)


@pytest.mark.parametrize("action", ["discrete", "multidiscrete", "multibinary"])
def test_auto_trains_as_the_reference(action: str) -> None:
    """Kernels and derivation end an update where autograd does, to float rounding, on the same actions."""
    reference = train("autograd", action=action)
    for engine in ("auto", "numpy"):
        model = train(engine, action=action)
        assert model.engine_reason.startswith("fused" if engine == "auto" else "numpy")
        np.testing.assert_array_equal(model.rollout_buffer.actions, reference.rollout_buffer.actions)
        for ours, theirs in zip(model.policy.parameters(), reference.policy.parameters(), strict=True):
            th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


PATCHES: dict[str, tuple[Any, str]] = {
    "policy": (MaskableActorCriticPolicy, "evaluate_actions"),
    "mask": (distributions.MaskableCategorical, "apply_masking"),
    "distribution": (distributions.MaskableCategoricalDistribution, "log_prob"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_patched_policy_has_autograd(name: str) -> None:
    """What somebody has put in place of a function of sb3-contrib's is called."""
    owner, method = PATCHES[name]
    original: Callable[..., Any] = getattr(owner, method)

    def patched(*arguments: Any, **named: Any) -> Any:
        return original(*arguments, **named)

    policy = make_policy("categorical")
    assert make_engine("auto", policy)[0].name == "fused"
    with mock.patch.object(owner, method, patched):
        engine, reason = make_engine("auto", policy)
        assert engine.name == "autograd"
        assert f"{owner.__name__}.{method} has been replaced" in reason
    model = train("auto")
    with mock.patch.object(owner, method, patched):
        model.learn(64, reset_num_timesteps=False)
        assert model.engine_reason.startswith("autograd")


@pytest.mark.parametrize("kind", [MaskedWalk, ToldMasks])
@pytest.mark.parametrize("action", ["discrete", "multidiscrete"])
def test_lean_loop_has_the_ordinary_ones_bits(kind: Any, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rollouts of the lean loop, with masks in the buffer's own rows, end as those of the ordinary loop."""
    lean = train("fused", kind, action)
    lean.learn(64, reset_num_timesteps=False)
    monkeypatch.setattr("sb3_ppo_edu.algorithms.ppo.lean_steps", lambda *_: None)
    ordinary = train("fused", kind, action)
    ordinary.learn(64, reset_num_timesteps=False)
    buffers: list[Any] = [lean.rollout_buffer, ordinary.rollout_buffer]
    np.testing.assert_array_equal(buffers[0].action_masks, buffers[1].action_masks)
    for ours, theirs in zip(lean.policy.parameters(), ordinary.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)


class Curious(MaskableEduPPO):
    """Looks at what the policy acts on."""

    looked = 0

    def acting_inputs(self, *arguments: Any) -> PolicyInputs:
        """Count."""
        self.looked += 1
        return super().acting_inputs(*arguments)


@pytest.mark.parametrize(("algorithm", "lean"), [(MaskableEduPPO, True), (Curious, False)])
def test_lean_loop_is_taken_where_nobody_does_more(algorithm: type[MaskableEduPPO], lean: bool) -> None:
    """The class itself has the lean loop, a subclass that puts inputs together itself the ordinary one."""
    model = algorithm("MlpPolicy", make_vec_env(MaskedWalk, 1, seed=2), n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    with mock.patch.object(MaskableEduPPO, "store_inputs", autospec=True, side_effect=MaskableEduPPO.store_inputs) as stored:
        model.learn(32)
    assert stored.call_count == (32 if lean else 0)
    assert getattr(model, "looked", 0) == (0 if lean else 32)


def test_the_lean_loop_needs_masks_that_the_kernels_can_read() -> None:
    """Of another type, or not row by row, they are left to the ordinary loop."""
    model = train("fused")
    engine, buffer = MaskedEngine(model.policy), model.rollout_buffer
    assert isinstance(buffer, MaskableRolloutBuffer)
    buffer.reset()
    masks = buffer.action_masks
    assert engine.acting_in(buffer) is not None
    for others in (masks.astype(np.float64), np.asfortranarray(masks)):
        buffer.action_masks = others
        assert engine.acting_in(buffer) is None


def test_own_buffers_keep_their_methods() -> None:
    """A patched method of sb3-contrib's buffer is called by the fast engine, too."""
    calls = []
    original = MaskableRolloutBuffer.get

    def get(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        return original(self, *arguments)

    with mock.patch.object(MaskableRolloutBuffer, "get", get):
        model = train("fused")
    assert len(calls) == 2
    for ours, theirs in zip(model.policy.parameters(), train("fused").policy.parameters(), strict=True):
        assert th.equal(ours, theirs)


def test_advantages_are_recomputed_with_masks() -> None:
    """The order of sb3-contrib's buffer is SB3's, so that advantages can be estimated anew."""
    models = [train(engine, recompute_advantages=True) for engine in ("fused", "autograd")]
    for ours, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_masks_with_parts_of_minibatches() -> None:
    """A minibatch computed in parts moves the parameters as a whole one does, to rounding."""
    models = [train("fused", action="multidiscrete", micro_batch_size=size) for size in (None, 4)]
    for ours, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_board_game_is_learned(seed: int) -> None:
    """
    Noughts and crosses against random moves, from a mean return of about 0.1 to at least 0.7 in 100,000 steps.

    In 10,000 steps of play no move is illegal.
    """
    env = make_vec_env(TicTacToe, 8, seed=seed)
    model = MaskableEduPPO("MlpPolicy", env, n_steps=256, batch_size=256, gamma=1.0, ent_coef=0.01, seed=seed, device="cpu")
    model.learn(100_000)
    env.seed(seed + 100)
    observations, returns = env.reset(), []
    for _ in range(10_000 // 8):
        masks = np.array(env.env_method("action_masks"))
        actions, _ = model.predict(observations, deterministic=True, action_masks=masks)  # type: ignore[arg-type]
        observations, rewards, dones, infos = env.step(actions)
        assert not any("illegal_move" in info for info in infos)
        returns += rewards[dones].tolist()
    assert np.mean(returns) >= 0.7
