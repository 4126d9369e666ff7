"""The bounded policies inside SB3's own PPO, at the bounds of all sorts of action spaces, saved, copied and refused."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_ppo_edu.policies.bounded import (
    BetaCnnPolicy,
    BetaMixin,
    BetaMultiInputPolicy,
    BetaPolicy,
    BoundedActionMixin,
    TanhGaussianCnnPolicy,
    TanhGaussianMixin,
    TanhGaussianMultiInputPolicy,
    TanhGaussianPolicy,
    resolve_policy,
)

VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS: dict[type[BoundedActionMixin], spaces.Space] = {
    TanhGaussianPolicy: VECTOR,
    TanhGaussianCnnPolicy: IMAGE,
    TanhGaussianMultiInputPolicy: spaces.Dict({"vector": VECTOR, "image": IMAGE}),
    BetaPolicy: VECTOR,
    BetaCnnPolicy: IMAGE,
    BetaMultiInputPolicy: spaces.Dict({"vector": VECTOR, "image": IMAGE}),
}
ALL_POLICIES = pytest.mark.parametrize("policy_class", list(OBSERVATIONS), ids=lambda c: c.__name__)
BOTH_POLICIES = pytest.mark.parametrize("policy_class", [TanhGaussianPolicy, BetaPolicy], ids=lambda c: c.__name__)

# Bounds other than +-1, different in every dimension, one of them far from zero
LOW = np.array([[-2.0, 0.0, -1e-3], [100.0, -7.0, -1.0]], dtype=np.float32)
HIGH = np.array([[2.0, 10.0, 1e-3], [101.0, -3.0, 1e6]], dtype=np.float32)
MATRIX_ACTIONS = spaces.Box(LOW, HIGH)


class RandomEnv(gym.Env):
    """Random observations, a reward for small actions, episodes of five steps; an action outside the space is an error."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space = observation_space
        self.action_space = action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.dtype == self.action_space.dtype
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), -float(np.abs(action).mean()), False, self.steps >= 5, {}


def make_policy(policy_class: type[ActorCriticPolicy], action_space: spaces.Space, **kwargs: Any) -> ActorCriticPolicy:
    """A policy by itself, for the observations that suit it."""
    observation_space = OBSERVATIONS.get(policy_class, VECTOR)  # type: ignore[arg-type]
    return policy_class(observation_space, action_space, lambda _: 1e-3, net_arch=[8], **kwargs)


def action_head(policy: ActorCriticPolicy) -> nn.Linear:
    """The linear layer before the distribution."""
    assert isinstance(policy.action_net, nn.Linear)
    return policy.action_net


def observe(model: PPO) -> Any:
    """First observations of the model's environments."""
    assert model.env is not None
    return model.env.reset()


def make_model(policy_class: type[BoundedActionMixin], action_space: spaces.Space = MATRIX_ACTIONS, **kwargs: Any) -> PPO:
    """SB3's own PPO with one of our policies on two small environments."""
    env = DummyVecEnv([lambda: RandomEnv(OBSERVATIONS.get(policy_class, VECTOR), action_space)] * 2)
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "seed": 0, "device": "cpu", "ent_coef": 0.01, **kwargs}
    policy_kwargs = {"net_arch": [8], **settings.pop("policy_kwargs", {})}
    if policy_class not in (TanhGaussianPolicy, BetaPolicy):
        extractor = "cnn_output_dim" if "MultiInput" in policy_class.__name__ else "features_dim"
        policy_kwargs.setdefault("features_extractor_kwargs", {extractor: 8})
    return PPO(policy_class, env, policy_kwargs=policy_kwargs, **settings)


# ---- under SB3's PPO


@ALL_POLICIES
def test_trains_under_sb3_ppo(policy_class: type[BoundedActionMixin]) -> None:
    """Two rollouts with updates: every action lies in the space (the environment checks), every parameter stays finite."""
    model = make_model(policy_class)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(32)
    assert model.num_timesteps == 32
    for name, parameter in model.policy.state_dict().items():
        assert th.isfinite(parameter).all(), name
    assert not th.equal(before["action_net.weight"], action_head(model.policy).weight)
    assert hasattr(model.policy, "log_std") == issubclass(policy_class, TanhGaussianMixin)
    # Raw actions are stored: on such a scale no dimension fits the bounds of another
    assert np.abs(model.rollout_buffer.actions).max() < 40.0


@ALL_POLICIES
def test_ratio_of_the_first_minibatch_is_one(policy_class: type[BoundedActionMixin]) -> None:
    """Before the first step of the optimizer, exp(new - old log-probability) is 1 to 1e-5, in minibatches of another size."""
    model = make_model(policy_class)
    _, callback = model._setup_learn(16)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)  # type: ignore[arg-type]
    for batch_size in (3, 16):
        for batch in model.rollout_buffer.get(batch_size):
            _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
            th.testing.assert_close(th.exp(log_prob - batch.old_log_prob), th.ones_like(log_prob), atol=1e-5, rtol=0)


@BOTH_POLICIES
def test_ratio_is_one_at_the_bounds(policy_class: type[BoundedActionMixin]) -> None:
    """The same for a policy whose actions the bounds have swallowed in float32, where the action alone could not tell u."""
    model = make_model(policy_class, spaces.Box(-1.0, 1.0, (2,)))
    with th.no_grad():
        if policy_class is TanhGaussianPolicy:
            action_head(model.policy).bias.fill_(12.0)
        else:
            action_head(model.policy).bias.copy_(th.tensor([1e9, 1e9, -30.0, -30.0]))
    _, callback = model._setup_learn(16)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)  # type: ignore[arg-type]
    assert (model.policy.unscale_action(model.rollout_buffer.actions) == 1.0).all()
    for batch in model.rollout_buffer.get(3):
        _, log_prob, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
        th.testing.assert_close(th.exp(log_prob - batch.old_log_prob), th.ones_like(log_prob), atol=1e-5, rtol=0)


@BOTH_POLICIES
def test_trains_under_trpo(policy_class: type[BoundedActionMixin]) -> None:
    """sb3-contrib's TRPO needs a divergence with second derivatives, and gets it."""
    model = TRPO(policy_class, RandomEnv(VECTOR, MATRIX_ACTIONS), n_steps=16, batch_size=16, seed=0, device="cpu")
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(32)
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
    assert not th.equal(before["action_net.bias"], action_head(model.policy).bias)


# ---- bounds


@pytest.mark.parametrize(("policy_class", "raw"), [(TanhGaussianPolicy, math.log(3.0) / 2.0), (BetaPolicy, math.log(3.0))])
def test_unscale_action_by_hand(policy_class: type[BoundedActionMixin], raw: float) -> None:
    """tanh(log(3) / 2) = 1/2, so the raw action lies three quarters of the way from low to high; 0 lies in the middle."""
    policy = make_policy(policy_class, MATRIX_ACTIONS)
    at_zero, three_quarters = policy.unscale_action(np.stack([np.zeros((2, 3)), np.full((2, 3), raw)]).astype(np.float32))
    np.testing.assert_allclose(at_zero, [[0.0, 5.0, 0.0], [100.5, -5.0, 499999.5]], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(three_quarters, [[1.0, 7.5, 5e-4], [100.75, -4.0, 749999.75]], rtol=1e-6)


@st.composite
def bounded_spaces(draw: st.DrawFn) -> spaces.Box:
    """Boxes of one dimension, from a few ulps wide to the whole range of the type."""
    dtype: Any = draw(st.sampled_from([np.float32, np.float64]))
    bounds = st.floats(allow_nan=False, allow_infinity=False, width=32 if dtype is np.float32 else 64)
    low, high = sorted(draw(st.lists(bounds, min_size=2, max_size=2, unique=True)))
    assume(high / 2.0 - low / 2.0 > 1e-300)  # denormal widths have no middle
    return spaces.Box(np.array([low], dtype), np.array([high], dtype), dtype=dtype)


@settings(max_examples=40)
@given(bounded_spaces(), st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=6))
def test_actions_never_leave_the_bounds(action_space: spaces.Box, raw: list[float]) -> None:
    """Whatever the bounds and the raw action (infinity included), the action is in the space, and no lower for a higher u.

    Back from the bounds, the raw action is finite.
    """
    raw_actions = np.array(sorted(raw), dtype=np.float32)[:, None]
    for policy_class in (TanhGaussianPolicy, BetaPolicy):
        policy = make_policy(policy_class, action_space)
        actions = policy.unscale_action(raw_actions)
        assert actions.dtype == action_space.dtype
        assert all(action_space.contains(action) for action in actions)
        assert (np.diff(actions[:, 0]) >= 0.0).all()
        assert np.isfinite(policy.scale_action(actions)).all()


def test_unscale_action_does_not_overflow() -> None:
    """Bounds whose difference exceeds the largest float64 still have a middle and a quarter."""
    policy = make_policy(TanhGaussianPolicy, spaces.Box(-1.6e308, 1.6e308, (2,), np.float64))
    raw = np.array([0.0, -math.log(3.0) / 2.0])
    np.testing.assert_allclose(policy.unscale_action(raw), [0.0, -0.8e308], rtol=1e-6)


@BOTH_POLICIES
def test_scale_action_inverts_unscale_action(policy_class: type[BoundedActionMixin]) -> None:
    """scale(unscale(u)) = u within float32, for the batch shapes that SB3 uses; from the bounds on the result is clamped."""
    policy = make_policy(policy_class, spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64))
    raw = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.testing.assert_allclose(policy.scale_action(policy.unscale_action(raw)), raw, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(policy.scale_action(policy.unscale_action(raw[0])), raw[0], rtol=1e-6, atol=1e-6)
    on_the_bounds = policy.scale_action(np.array([[-2.0, 10.0]]))
    beyond = policy.scale_action(np.array([[-99.0, 99.0]]))
    assert np.isfinite(on_the_bounds).all()
    np.testing.assert_array_equal(on_the_bounds, beyond)
    np.testing.assert_allclose(policy.unscale_action(beyond), [[-2.0, 10.0]], rtol=1e-15)


@BOTH_POLICIES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_returns_actions_of_the_space(policy_class: type[BoundedActionMixin], dtype: Any) -> None:
    """Sampled and deterministic predictions, of one observation and of a batch, lie in the space; shape and type fit."""
    action_space = spaces.Box(LOW.astype(dtype), HIGH.astype(dtype), dtype=dtype)
    policy = make_policy(policy_class, action_space)
    with th.no_grad():
        action_head(policy).weight.normal_(std=1e9)  # presses some actions against the bounds
    observations = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    for deterministic in (False, True):
        actions, _ = policy.predict(observations, deterministic=deterministic)
        assert actions.shape == (500, 2, 3)
        assert actions.dtype == dtype
        assert all(action_space.contains(action) for action in actions)
        assert np.isclose(actions, LOW).any()
        assert np.isclose(actions, HIGH).any()
        action, _ = policy.predict(observations[0], deterministic=deterministic)
        assert action.shape == (2, 3)
    np.testing.assert_allclose(action, actions[0], rtol=1e-5)


def test_deterministic_actions_by_hand() -> None:
    """The tanh of the Gaussian's mean, and the mean of the Beta, stretched to the bounds [0, 10]."""
    action_space = spaces.Box(0.0, 10.0, (1,))
    tanh_policy, beta_policy = make_policy(TanhGaussianPolicy, action_space), make_policy(BetaPolicy, action_space)
    with th.no_grad():
        for policy in (tanh_policy, beta_policy):
            action_head(policy).weight.zero_()
        action_head(tanh_policy).bias.fill_(math.log(3.0) / 2.0)
        # softplus(log(e - 1)) = 1 and softplus(log(e^5 - 1)) = 5: alpha = 2, beta = 6, mean 1/4
        action_head(beta_policy).bias.copy_(th.tensor([math.log(math.e - 1.0), math.log(math.e**5 - 1.0)]))
    observation = np.zeros(3, dtype=np.float32)
    assert tanh_policy.predict(observation, deterministic=True)[0][0] == pytest.approx(7.5)
    assert beta_policy.predict(observation, deterministic=True)[0][0] == pytest.approx(2.5)


# ---- saving and copying


@ALL_POLICIES
def test_model_survives_save_and_load(policy_class: type[BoundedActionMixin], tmp_path: Path) -> None:
    """A saved model comes back with its policy class, its weights and its predictions, and goes on learning."""
    model = make_model(policy_class).learn(16)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=model.env, device="cpu")
    assert type(loaded.policy) is policy_class
    for name, parameter in model.policy.state_dict().items():
        assert th.equal(parameter, loaded.policy.state_dict()[name]), name
    observation = observe(model)
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    loaded.learn(16)


@ALL_POLICIES
@pytest.mark.parametrize("share_features_extractor", [True, False])
def test_policy_survives_save_and_load(
    policy_class: type[BoundedActionMixin], share_features_extractor: bool, tmp_path: Path
) -> None:
    """A policy saved by itself predicts the same actions and values when loaded, with two feature extractors as well.

    (SB3 2.9 forgets that there were two.)
    """
    model = make_model(policy_class, policy_kwargs={"share_features_extractor": share_features_extractor}).learn(16)
    model.policy.save(str(tmp_path / "policy"))
    loaded = policy_class.load(str(tmp_path / "policy"), device="cpu")
    assert loaded.share_features_extractor == share_features_extractor
    observation = observe(model)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.policy.predict(observation, deterministic=True)[0]
    )
    tensor, _ = model.policy.obs_to_tensor(observation)
    assert th.equal(loaded.predict_values(tensor), model.policy.predict_values(tensor))


@ALL_POLICIES
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_policy_can_be_copied_and_pickled_after_training(policy_class: type[BoundedActionMixin], duplicate: Any) -> None:
    """A copy predicts the same, where a stock policy refuses to be deep-copied with a distribution hanging on its graph."""
    model = make_model(policy_class).learn(16)
    twin = duplicate(model.policy)
    observation = observe(model)
    expected, _ = model.policy.predict(observation, deterministic=True)
    np.testing.assert_array_equal(twin.predict(observation, deterministic=True)[0], expected)
    assert twin.action_dist is not model.policy.action_dist


# ---- policies of one's own


class DeepCritic(ActorCriticPolicy):
    """A custom policy: its own constructor, its own critic."""

    def __init__(self, *args: Any, critic_width: int = 5, **kwargs: Any):
        self.critic_width = critic_width
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.extra_critic = nn.Linear(self.mlp_extractor.latent_dim_vf, self.critic_width)


class BoundedDeepCritic(TanhGaussianMixin, DeepCritic):
    """The custom policy with tanh-squashed actions."""


class BetaDeepCritic(BetaMixin, DeepCritic):
    """The custom policy with Beta actions."""


@pytest.mark.parametrize("policy_class", [BoundedDeepCritic, BetaDeepCritic])
def test_mixin_bounds_a_custom_policy(policy_class: type[BoundedActionMixin]) -> None:
    """One line makes a custom policy a bounded one; its own arguments and layers stay."""
    model = PPO(
        policy_class,
        RandomEnv(VECTOR, MATRIX_ACTIONS),
        n_steps=8,
        batch_size=4,
        policy_kwargs={"critic_width": 7},
        device="cpu",
    ).learn(8)
    assert isinstance(model.policy, DeepCritic)
    assert model.policy.extra_critic.out_features == 7
    assert isinstance(model.policy.action_dist, policy_class.distribution_class)


# ---- which class for which distribution


@pytest.mark.parametrize(
    ("policy", "action_distribution", "expected"),
    [
        ("MlpPolicy", "gaussian", ("MlpPolicy", "gaussian")),
        ("CnnPolicy", "gaussian", ("CnnPolicy", "gaussian")),
        (ActorCriticPolicy, "gaussian", (ActorCriticPolicy, "gaussian")),
        (DeepCritic, "gaussian", (DeepCritic, "gaussian")),
        ("MlpPolicy", "tanh_gaussian", (TanhGaussianPolicy, "tanh_gaussian")),
        ("CnnPolicy", "tanh_gaussian", (TanhGaussianCnnPolicy, "tanh_gaussian")),
        ("MultiInputPolicy", "tanh_gaussian", (TanhGaussianMultiInputPolicy, "tanh_gaussian")),
        ("MlpPolicy", "beta", (BetaPolicy, "beta")),
        ("CnnPolicy", "beta", (BetaCnnPolicy, "beta")),
        ("MultiInputPolicy", "beta", (BetaMultiInputPolicy, "beta")),
        (ActorCriticPolicy, "beta", (BetaPolicy, "beta")),
        (ActorCriticCnnPolicy, "beta", (BetaCnnPolicy, "beta")),
        (MultiInputActorCriticPolicy, "tanh_gaussian", (TanhGaussianMultiInputPolicy, "tanh_gaussian")),
        (BetaPolicy, "beta", (BetaPolicy, "beta")),
        (BetaPolicy, "gaussian", (BetaPolicy, "beta")),
        (BoundedDeepCritic, "gaussian", (BoundedDeepCritic, "tanh_gaussian")),
        (BoundedDeepCritic, "tanh_gaussian", (BoundedDeepCritic, "tanh_gaussian")),
    ],
)
def test_resolve_policy(policy: Any, action_distribution: str, expected: tuple[Any, str]) -> None:
    """Gaussian leaves the policy alone; the others map SB3's names and classes to ours; a mixin keeps its own."""
    assert resolve_policy(policy, action_distribution) == expected


@pytest.mark.parametrize(
    ("policy", "action_distribution", "message"),
    [
        ("MlpPolicy", "tanh", r"action_distribution='tanh': expected one of gaussian, tanh_gaussian, beta"),
        ("LstmPolicy", "gaussian", r"policy='LstmPolicy': expected one of MlpPolicy, CnnPolicy, MultiInputPolicy"),
        ("LstmPolicy", "beta", r"policy='LstmPolicy': expected one of MlpPolicy, CnnPolicy, MultiInputPolicy"),
        (None, "gaussian", r"policy=None: expected one of MlpPolicy"),
        (BetaPolicy, "tanh_gaussian", r"'tanh_gaussian' with policy BetaPolicy, which is 'beta'"),
        (DeepCritic, "tanh_gaussian", r"class MyPolicy\(TanhGaussianMixin, DeepCritic\)"),
        (DeepCritic, "beta", r"class MyPolicy\(BetaMixin, DeepCritic\)"),
    ],
)
def test_resolve_policy_refuses(policy: Any, action_distribution: str, message: str) -> None:
    """Unknown names, contradictions and custom classes without the mixin are errors that name the remedy."""
    with pytest.raises(ValueError, match=message):
        resolve_policy(policy, action_distribution)


# ---- what cannot be


@BOTH_POLICIES
@pytest.mark.parametrize(
    ("action_space", "message"),
    [
        (spaces.Discrete(3), r"continuous actions, found action_space=Discrete\(3\).*gaussian"),
        (spaces.Box(-1.0, np.array([1.0, np.inf], np.float32)), r"finite bounds, found action_space.high\[1\]=inf.*Rescale"),
        (spaces.Box(-np.inf, np.inf, (2, 2)), r"action_space.low\[0, 0\]=-inf"),
        (
            spaces.Box(np.array([0.0, 2.0], np.float32), np.array([1.0, 2.0], np.float32)),
            r"low < high in every dimension, found action_space.low\[1\]=2.0 and action_space.high\[1\]=2.0",
        ),
        (spaces.Box(0, 255, (2,), np.uint8), r"action_space.dtype=uint8, expected float32 or float64"),
        (spaces.Box(-1, 1, (2,), np.float16), r"action_space.dtype=float16, expected float32 or float64"),
    ],
)
def test_unsuitable_action_space_is_refused(
    policy_class: type[BoundedActionMixin], action_space: spaces.Space, message: str
) -> None:
    """Spaces that are not bounded boxes of floats are refused, with the place, what was found and a way out."""
    with pytest.raises(ValueError, match=message) as error:
        make_policy(policy_class, action_space)
    assert repr(policy_class.action_distribution) in str(error.value)


@BOTH_POLICIES
def test_gsde_and_squash_output_are_refused(policy_class: type[BoundedActionMixin]) -> None:
    """Both gSDE and SB3's squash_output bring a distribution of their own, so with ours they are errors."""
    with pytest.raises(ValueError, match=r"use_sde=True with action_distribution='(tanh_gaussian|beta)'.*use_sde=False"):
        make_model(policy_class, use_sde=True)
    with pytest.raises(ValueError, match=r"squash_output.*squashes its actions already"):
        make_model(policy_class, policy_kwargs={"squash_output": True})
    with pytest.raises(ValueError, match=r"squash_output"):
        make_model(policy_class, use_sde=True, policy_kwargs={"squash_output": True})
