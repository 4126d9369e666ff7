"""The numpy engine computes what the autograd engine computes: gradients, updates, samples; and so do an objective's forms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor

from sb3_ppo_edu.engines.autograd import AutogradEngine, TensorMinibatch
from sb3_ppo_edu.engines.base import NonFiniteUpdateError, PolicyInputs
from sb3_ppo_edu.engines.derivation.distributions import log_softmax
from sb3_ppo_edu.engines.derivation.engine import NumpyEngine
from sb3_ppo_edu.engines.derivation.layers import Activation
from sb3_ppo_edu.engines.support import why_not_derived
from sb3_ppo_edu.functional.objectives import Objective, PPOObjective, Transitions, UpdateSettings
from sb3_ppo_edu.policies.bounded import BetaPolicy, TanhGaussianPolicy
from tests.environments import RandomWalk

ACTIVATIONS: dict[str, Any] = {
    "tanh": th.nn.Tanh,
    "relu": th.nn.ReLU,
    "elu": lambda: th.nn.ELU(alpha=0.7),
    "leaky_relu": lambda: th.nn.LeakyReLU(0.2),
    "gelu": th.nn.GELU,
    "gelu_tanh": lambda: th.nn.GELU(approximate="tanh"),
    "silu": th.nn.SiLU,
}
GSDE: dict[str, Any] = {"use_sde": True, "log_std_init": -2.5}
HEADS: dict[str, tuple[Callable[..., ActorCriticPolicy], spaces.Space]] = {
    "categorical": (ActorCriticPolicy, spaces.Discrete(4)),
    "multicategorical": (ActorCriticPolicy, spaces.MultiDiscrete([2, 4, 3])),
    "bernoulli": (ActorCriticPolicy, spaces.MultiBinary(3)),
    "gaussian": (ActorCriticPolicy, spaces.Box(-1.0, 1.0, (2,), np.float32)),
    "tanh_gaussian": (TanhGaussianPolicy, spaces.Box(-2.0, 1.0, (3,), np.float32)),
    "beta": (BetaPolicy, spaces.Box(-2.0, 1.0, (2,), np.float32)),
    "gsde": (partial(ActorCriticPolicy, **GSDE), spaces.Box(-1.0, 1.0, (3,), np.float32)),
    "gsde_squashed": (partial(ActorCriticPolicy, squash_output=True, **GSDE), spaces.Box(-2.0, 1.0, (2,), np.float32)),
}


class KLPenalty(Objective):
    """The probability ratio without a clip, and a penalty on k3's estimate of the KL divergence."""

    def policy_loss(self, now: Any, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        loss: th.Tensor = -now.ratio * data.advantages + 0.7 * ((now.ratio - 1) - now.log_ratio)
        return loss


class ImportanceWeighted(PPOObjective):
    """PPO's losses with unequal weights of the transitions."""

    def weights(self, now: Any, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        return 0.1 + (data.returns - data.old_values).abs()


OBJECTIVES = [PPOObjective(), KLPenalty(), ImportanceWeighted()]

DEFAULTS = UpdateSettings(
    clip_range=0.2,
    clip_range_vf=None,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
    normalize_advantage=True,
    advantage_moments=None,
    clip_advantage=None,
    dual_clip=None,
    vf_clip_mode="sb3",
    kl_estimator="k3",
    log_std_bounds=None,
)
EVERYTHING = UpdateSettings(
    **{
        **vars(DEFAULTS),
        "clip_range_vf": 0.3,
        "ent_coef": 0.05,
        "clip_advantage": 1.5,
        "dual_clip": 1.3,
        "vf_clip_mode": "max",
    }
)
update_settings = st.builds(
    UpdateSettings,
    clip_range=st.floats(0.05, 0.5),
    clip_range_vf=st.none() | st.floats(0.05, 1.0),
    ent_coef=st.sampled_from([0.0, 0.01, 1.0, -0.5]),
    vf_coef=st.sampled_from([0.0, 0.5, 2.0]),
    max_grad_norm=st.just(0.5),
    normalize_advantage=st.booleans(),
    advantage_moments=st.none() | st.tuples(st.floats(-1, 1), st.floats(0.5, 2)),
    clip_advantage=st.none() | st.floats(0.1, 2),
    dual_clip=st.none() | st.floats(1.05, 3.0),
    vf_clip_mode=st.sampled_from(["sb3", "max"]),
    kl_estimator=st.sampled_from(["k3", "k1"]),
    log_std_bounds=st.none(),
    objective=st.sampled_from(OBJECTIVES),
)
towers = st.lists(st.integers(1, 9), max_size=3)


class Double(th.nn.Module):
    """Casts to float64."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.double()


def make_policy(head: str = "gaussian", features: int = 5, seed: int = 0, double: bool = False, **kwargs: Any) -> Any:
    """A policy of the head, with parameters large enough for all nonlinearities to matter."""
    policy_class, action_space = HEADS[head]
    th.manual_seed(seed)
    space = spaces.Box(-10, 10, (features,), np.float32)
    policy: Any = policy_class(space, action_space, lambda _: 1e-3, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    if double:
        policy.double()
        # SB3 casts observations to float32 on their way into the network, also those of a policy in float64.
        policy.features_extractor.flatten = th.nn.Sequential(th.nn.Flatten(), Double())
    if policy.use_sde:
        policy.reset_noise(5)
    return policy


def make_minibatch(policy: Any, batch: int, seed: int = 0) -> TensorMinibatch:
    """Transitions whose ratios and values lie on both sides of every clip."""
    generator = np.random.default_rng(seed)
    normal = lambda *shape: th.as_tensor(generator.normal(size=shape)).to(policy.value_net.weight.dtype)  # noqa: E731
    observations = normal(batch, *policy.observation_space.shape).float()
    th.manual_seed(seed)
    with th.no_grad():
        # One column a number, as the rollout buffer has them.
        actions = policy(observations)[0].reshape(batch, -1).to(policy.value_net.weight.dtype)
        values, log_prob, _ = evaluate_actions(policy, observations, actions)
    return TensorMinibatch(
        RolloutBufferSamples(
            observations,
            actions,
            values + normal(batch) * 0.5,
            log_prob + normal(batch) * 0.3,
            normal(batch),
            values + normal(batch),
        )
    )


def evaluate_actions(policy: Any, observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Values, log-probabilities and entropies as SB3's policy gives them, for actions as the buffer has them."""
    index = actions.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else actions
    values, log_prob, entropy = policy.evaluate_actions(observations, index)
    return values.flatten(), log_prob, entropy


def gradients_of(policy: Any) -> dict[str, th.Tensor]:
    """Copies of the gradients that there are."""
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters() if parameter.grad is not None}


def assert_same_gradients(policy: Any, minibatch: TensorMinibatch, update: UpdateSettings, tolerance: float) -> None:
    """Every gradient tensor, relative to its largest number, and every statistic agree with the autograd engine's."""
    expected_statistics = AutogradEngine(policy).gradients(minibatch, update)
    expected = gradients_of(policy)
    policy.zero_grad()
    statistics = NumpyEngine(policy).gradients(minibatch, update)
    found = gradients_of(policy)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].dtype == gradient.dtype
        scale = max(gradient.abs().max().item(), 1e-6)
        assert (found[name] - gradient).abs().max().item() <= tolerance * scale, name
    for field, value in expected_statistics._asdict().items():
        # These two are float32 in SB3 whatever the policy is.
        allowed = max(tolerance, 1e-6 if field in ("approx_kl", "clip_fraction") else 0.0)
        np.testing.assert_allclose(getattr(statistics, field), value, rtol=allowed, atol=allowed, err_msg=field)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    head=st.sampled_from(sorted(HEADS)),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    actor=towers,
    critic=towers,
    features=st.integers(1, 6),
    batch=st.integers(1, 17),
    seed=st.integers(0, 10**6),
    update=update_settings,
)
@example("beta", "gelu_tanh", [9, 1, 4], [], 3, 17, 1, EVERYTHING)
@example("tanh_gaussian", "elu", [], [5], 3, 17, 1, EVERYTHING)
def test_gradients_are_autograds(
    head: str,
    activation: str,
    actor: list[int],
    critic: list[int],
    features: int,
    batch: int,
    seed: int,
    update: UpdateSettings,
) -> None:
    """In float64 every gradient tensor and every statistic agrees with autograd's to 1e-10 relative."""
    net_arch = {"pi": actor, "vf": critic}
    policy = make_policy(head, features, seed, double=True, net_arch=net_arch, activation_fn=ACTIVATIONS[activation])
    assert_same_gradients(policy, make_minibatch(policy, batch, seed), update, 1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("head", HEADS)
def test_gradients_in_single_precision(head: str, activation: str) -> None:
    """In float32, the precision of a training, they agree to 1e-5 of each tensor's largest number."""
    policy = make_policy(head, net_arch=[32, 32], activation_fn=ACTIVATIONS[activation])
    assert_same_gradients(policy, make_minibatch(policy, 64), EVERYTHING, 1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_every_row_is_sb3s(head: str) -> None:
    """Log-probability and entropy of each single transition are those of SB3's distribution."""
    policy = make_policy(head, double=True)
    samples = make_minibatch(policy, 9).samples
    _, log_prob, entropy = evaluate_actions(policy, samples.observations, samples.actions)
    engine = NumpyEngine(policy)
    outputs = engine.actor.forward(samples.observations.double().numpy())
    ours = engine.distribution.evaluate(outputs, samples.actions.numpy())
    for array, tensor in zip(ours, (log_prob, entropy), strict=True):
        if array is None:
            assert tensor is None
        else:
            np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=1e-12)


def test_log_softmax_of_large_logits() -> None:
    """Only differences count, however large the logits are."""
    found = log_softmax(np.array([[1000.0, 1000.0, 0.0], [-1000.0, -1000.0, -1000.0]]))
    expected = -np.log([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]) - [[0, 0, 1000], [0, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name: str, dtype: th.dtype) -> None:
    """Value and derivative are torch's from -50 to 50, in the precision of the input, without overflow."""
    z = th.cat([th.linspace(-50, 50, 401, dtype=dtype), th.linspace(-3, 3, 301, dtype=dtype)]).requires_grad_()
    module = ACTIVATIONS[name]()
    expected = module(z)
    expected.sum().backward()
    assert z.grad is not None
    ours = Activation(module)
    tolerance = 1e-13 if dtype == th.float64 else 1e-5
    with np.errstate(over="ignore"):  # of the branch that np.where does not take
        value, slope = ours.forward(z.detach().numpy()), ours.backward(np.ones_like(z.detach().numpy()))
    th.testing.assert_close(th.from_numpy(value), expected.detach(), rtol=tolerance, atol=tolerance)
    th.testing.assert_close(th.from_numpy(slope), z.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n_envs", [1, 5, 40])
@pytest.mark.parametrize("head", HEADS)
def test_samples_are_sb3s(head: str, n_envs: int, double: bool) -> None:
    """From one state of the generator come the policy's own actions, values and log-probabilities; it ends in one state."""
    policy = make_policy(head, double=double, net_arch=[8, 8])
    tolerance = 1e-10 if double else 2e-5
    generator = np.random.default_rng(1)
    for step in range(20):
        inputs = PolicyInputs(th.as_tensor(generator.normal(size=(n_envs, 5)), dtype=th.float32))
        results = []
        for engine in (AutogradEngine(policy), NumpyEngine(policy)):
            th.manual_seed(step)
            results.append((*engine.act(inputs), th.rand(1), engine.value(inputs)))
        for theirs, ours in zip(*results, strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
            th.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        assert th.equal(results[0][3], results[1][3])


@pytest.mark.parametrize(
    "frozen",
    [("mlp_extractor",), ("log_std",), ("action_net.bias", "value_net.weight"), ("mlp_extractor.value_net.2.weight",)],
)
def test_frozen_parameters_get_no_gradient(frozen: tuple[str, ...]) -> None:
    """Where ``requires_grad`` is off, ``.grad`` stays None, and all others are autograd's."""
    policy = make_policy("tanh_gaussian", double=True)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    assert_same_gradients(policy, make_minibatch(policy, 9), EVERYTHING, 1e-10)
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name


def test_gradients_outside_the_optimizer_add_up() -> None:
    """An optimizer clears the gradients of its own parameters only; the others' grow with each minibatch, as in SB3."""
    results = []
    for engine_class in (AutogradEngine, NumpyEngine):
        policy = make_policy(double=True)
        policy.optimizer = th.optim.Adam(policy.value_net.parameters())
        engine: Any = engine_class(policy)
        for seed in range(3):
            engine.gradients(make_minibatch(policy, 9, seed), DEFAULTS)
        results.append(gradients_of(policy))
    for name, expected in results[0].items():
        th.testing.assert_close(results[1][name], expected, rtol=1e-10, atol=1e-14)


# Enough numbers for every case to occur, and none within 1e-6 of a kink, where autograd's choice is as good as ours.
@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 40), update=update_settings)
def test_two_forms_of_the_objective_agree(seed: int, batch: int, update: UpdateSettings) -> None:
    """In float64 PPO's formulas give the losses and derivatives that autograd finds by way of the losses, to 1e-12."""
    generator = np.random.default_rng(seed)
    log_prob, values, entropy, old_log_prob, advantages, returns = generator.normal(size=(6, batch))
    old_log_prob, old_values = log_prob + 0.4 * old_log_prob, values + generator.normal(size=batch)
    ratio, limit = np.exp(log_prob - old_log_prob), update.clip_range_vf or 0.0
    distances = [ratio - 1 - update.clip_range, ratio - 1 + update.clip_range, ratio - (update.dual_clip or 0.0)]
    clipped_values = old_values + np.clip(values - old_values, -limit, limit)
    outside = np.abs(values - old_values) > limit
    squares = (values - returns) ** 2 - (clipped_values - returns) ** 2
    distances += [np.abs(values - old_values) - limit, np.where(outside, squares, 1), advantages]
    assume(min(np.abs(distance).min() for distance in distances) > 1e-6)

    stored = [th.from_numpy(column) for column in (old_log_prob, old_values, advantages, returns)]
    data = Transitions(stored[0], stored[1], stored[2], stored[3])
    losses, derivatives = PPOObjective().gradients(log_prob, values, entropy, data, update)
    expected_losses, expected = Objective.gradients(PPOObjective(), log_prob, values, entropy, data, update)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12, atol=1e-14)
    for name in ("log_prob", "values"):
        np.testing.assert_allclose(getattr(derivatives, name), getattr(expected, name), rtol=1e-12, atol=1e-16, err_msg=name)
    ours = np.zeros(batch) if derivatives.entropy is None else derivatives.entropy
    assert expected.entropy is not None
    np.testing.assert_allclose(ours, expected.entropy, rtol=1e-12)


def make_ppo(observation: str, action: str, **kwargs: Any) -> PPO:
    """SB3's PPO with a full rollout buffer."""
    env = make_vec_env(lambda: RandomWalk(observation, action), n_envs=2, seed=3)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=24, n_epochs=3, seed=1, device="cpu", **kwargs)
    _, callback = model._setup_learn(64)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


class OwnBuffer(RolloutBuffer):
    """A buffer whose own ``get`` must be asked."""


@pytest.mark.parametrize(
    ("observation", "action", "kwargs"),
    [
        ("box", "box", {"ent_coef": 0.01, "clip_range_vf": 0.2}),
        ("discrete", "discrete", {"policy_kwargs": {"optimizer_class": th.optim.Adagrad}}),
        ("image", "multidiscrete", {"policy_kwargs": {"share_features_extractor": False}}),
        ("box", "multibinary", {"policy_kwargs": {"optimizer_class": th.optim.SGD, "activation_fn": th.nn.ELU}}),
        ("box", "box", {"rollout_buffer_class": OwnBuffer}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_updates_are_sb3s(observation: str, action: str, kwargs: dict[str, Any]) -> None:
    """Three epochs of minibatches, the last one short, move the parameters as SB3's ``PPO.train`` does, with any optimizer."""
    model = make_ppo(observation, action, **kwargs)
    policy, buffer = copy.deepcopy(model.policy), copy.deepcopy(model.rollout_buffer)
    assert isinstance(policy, ActorCriticPolicy) and why_not_derived(policy) is None
    update = UpdateSettings(
        **{**vars(DEFAULTS), "ent_coef": model.ent_coef, "clip_range_vf": kwargs.get("clip_range_vf")},
    )
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    np.random.seed(5)
    model.train()
    np.random.seed(5)
    engine = NumpyEngine(policy)
    for _ in range(3):
        for minibatch in engine.minibatches(buffer, 24):
            assert minibatch.size == len(minibatch.advantages)
            engine.gradients(minibatch, update)
            engine.apply(update)
    for name, expected in model.policy.state_dict().items():
        assert not th.equal(expected, before[name]), name
        th.testing.assert_close(policy.state_dict()[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_observations_are_preprocessed() -> None:
    """One-hot and image observations reach the networks as SB3's policy prepares them."""
    for observation in ("discrete", "image"):
        policy: Any = make_ppo(observation, "box").policy
        space = policy.observation_space
        space.seed(0)
        observations = obs_as_tensor(np.stack([space.sample() for _ in range(4)]), th.device("cpu"))
        th.testing.assert_close(NumpyEngine(policy).value(PolicyInputs(observations)), policy.predict_values(observations))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("head", HEADS)
def test_outputs_that_are_not_finite_are_seen(head: str, value: float) -> None:
    """Acting then gives log-probabilities that are not finite; an update stops at the loss or the norm and moves nothing."""
    policy = make_policy(head)
    minibatch = make_minibatch(policy, 4)
    with th.no_grad():
        policy.action_net.bias.fill_(value)
    engine = NumpyEngine(policy)
    actions, values, log_prob = engine.act(PolicyInputs(minibatch.samples.observations))
    assert not th.isfinite(log_prob).any()
    assert th.isfinite(values).all() and actions.shape == (4, *policy.action_space.shape)
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NonFiniteUpdateError, match="policy_loss=nan" if np.isnan(value) else "=nan"):
        engine.gradients(minibatch, DEFAULTS)
        engine.apply(DEFAULTS)
    for name, parameter in policy.state_dict().items():
        th.testing.assert_close(parameter, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    """``apply`` refuses the norm before the optimizer's step."""
    policy = make_policy()
    engine = NumpyEngine(policy)
    engine.gradients(make_minibatch(policy, 4), DEFAULTS)
    policy.value_net.bias.grad.fill_(float("nan"))
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NonFiniteUpdateError, match="grad_norm=nan"):
        engine.apply(DEFAULTS)
    for name, value in policy.state_dict().items():
        assert th.equal(value, before[name])


def test_norm_and_projection() -> None:
    """``apply`` returns the norm before clipping, and moves ``log_std`` into its bounds after the step."""
    policy = make_policy(optimizer_class=th.optim.SGD)
    engine = NumpyEngine(policy)
    engine.gradients(make_minibatch(policy, 9), DEFAULTS)
    gradients = gradients_of(policy)
    norm = float(th.cat([gradient.flatten() for gradient in gradients.values()]).norm())
    assert norm > DEFAULTS.max_grad_norm
    before = policy.value_net.weight.detach().clone()
    assert engine.apply(UpdateSettings(**{**vars(DEFAULTS), "log_std_bounds": (-9.0, -5.0)})) == pytest.approx(norm, rel=1e-5)
    expected = before - 1e-3 * gradients["value_net.weight"] * DEFAULTS.max_grad_norm / norm
    th.testing.assert_close(policy.value_net.weight.detach(), expected, rtol=1e-6, atol=1e-7)
    assert policy.log_std.tolist() == [-5.0, -5.0]


def test_attach_looks_at_the_policy_again() -> None:
    """Parameters keep their own memory; memory and modules that someone replaced are found by ``attach``."""
    policy = make_policy(double=True)
    places = [parameter.data_ptr() for parameter in policy.parameters()]
    engine = NumpyEngine(policy)
    minibatch = make_minibatch(policy, 6)
    engine.gradients(minibatch, DEFAULTS)
    assert [parameter.data_ptr() for parameter in policy.parameters()] == places
    assert len({parameter.grad.untyped_storage().data_ptr() for parameter in policy.parameters()}) == len(places)
    for parameter in policy.parameters():
        parameter.data = parameter.data + 0.1
    policy.value_net = th.nn.Linear(policy.value_net.in_features, 1).double()
    policy.log_std = th.nn.Parameter(th.tensor([-1.0, 0.5], dtype=th.float64))
    engine.attach()
    inputs = PolicyInputs(minibatch.samples.observations)
    th.testing.assert_close(engine.value(inputs), policy.predict_values(inputs.observations).detach())
    th.manual_seed(1)
    theirs = policy(inputs.observations)[0]
    th.manual_seed(1)
    th.testing.assert_close(engine.act(inputs)[0], theirs.detach())
