"""The seam between algorithm and engine: what each verb gives, what it leaves alone, and what stops it."""

from __future__ import annotations

import copy
import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import (
    Engine,
    EngineName,
    MinibatchStatistics,
    NonFiniteUpdateError,
    make_engine,
    project_log_std,
    with_moments,
)
from sb3_ppo_edu.engines.autograd import FlatStepper, PlainStepper, make_stepper
from sb3_ppo_edu.engines.base import check_finite, check_finite_norm
from tests.environments import ACTION_SPACES
from tests.rollouts import (
    N_STEPS,
    collect,
    largest_difference,
    make_model,
    parameters_of,
    record,
    transitions,
    update_settings,
)

ENGINES: tuple[EngineName, ...] = ("autograd", "fused")
both_engines = pytest.mark.parametrize("name", ENGINES)


def engine_with_rollout(name: EngineName, **arguments: Any) -> tuple[EduPPO, Engine]:
    """A model with a full rollout buffer, and the engine that is to learn from it."""
    model = make_model(**{"engine": name, **arguments})
    collect(model)
    return model, model._current_engine()


def whole_rollout(model: EduPPO, engine: Engine) -> Any:
    """The rollout as one minibatch in the engine's form."""
    (minibatch,) = engine.minibatches(model.rollout_buffer, model.n_steps * model.n_envs)
    return minibatch


def surrogate_by_hand(model: EduPPO, data: dict[str, Any], **weights: float) -> th.Tensor:
    """PPO's loss at the model's parameters, written out: ratio inside the clip range, advantages normalised, no clipping."""
    actions = data["actions"].long().flatten() if isinstance(model.action_space, spaces.Discrete) else data["actions"]
    values, log_prob, entropy = model.policy.evaluate_actions(data["observations"], actions)
    assert entropy is not None
    advantages = data["advantages"].flatten()
    advantages = (advantages - advantages.mean()) / advantages.std()
    ratio = th.exp(log_prob - data["log_probs"].flatten())
    squared_errors = (values.flatten() - data["returns"].flatten()) ** 2
    loss: th.Tensor = -(ratio * advantages).mean() + weights["vf_coef"] * squared_errors.mean()
    return loss - weights["ent_coef"] * entropy.mean()


# -- act and value -------------------------------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("action", ACTION_SPACES)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_act_gives_what_the_rollout_buffer_stores(name: EngineName, action: str, n_envs: int) -> None:
    """Actions (n_envs, *shape), values (n_envs, 1) and log-probabilities (n_envs,), those of the policy for these actions."""
    model = make_model(action=action, n_envs=n_envs, engine=name)
    engine = model._current_engine()
    observations = th.randn(n_envs, 5)
    actions, values, log_probs = engine.act(observations)
    assert actions.shape == (n_envs, *(model.action_space.shape or ()))
    assert values.shape == (n_envs, 1)
    assert log_probs.shape == (n_envs,)
    assert not any(tensor.requires_grad for tensor in (actions, values, log_probs))
    expected_values, expected_log_probs, _ = model.policy.evaluate_actions(observations, actions)
    assert th.allclose(values, expected_values, atol=1e-5)
    assert th.allclose(log_probs, expected_log_probs, atol=1e-5)


@both_engines
def test_value_is_the_value_that_act_reports(name: EngineName) -> None:
    """Bootstrapping asks the same critic, without drawing a random number."""
    engine = make_model(engine=name)._current_engine()
    observations = th.randn(7, 5)
    _, values, _ = engine.act(observations)
    before = th.get_rng_state()
    found = engine.value(observations)
    assert found.shape == (7, 1)
    assert not found.requires_grad
    assert th.allclose(found, values, atol=1e-6)
    assert th.equal(th.get_rng_state(), before)


# -- minibatches ---------------------------------------------------------------------------------------------------------


@both_engines
def test_an_epoch_holds_every_transition_once(name: EngineName) -> None:
    """Minibatches are full but for the last, follow numpy's permutation of the rollout, and each epoch draws a new one."""
    model, engine = engine_with_rollout(name, n_envs=2)
    expected = transitions(model)["log_probs"].flatten().numpy()
    np.random.seed(11)
    permutations = [np.random.permutation(2 * N_STEPS) for _ in range(2)]
    np.random.seed(11)
    for permutation in permutations:
        columns = [np.asarray(minibatch.old_log_prob) for minibatch in engine.minibatches(model.rollout_buffer, 24)]
        assert [len(column) for column in columns] == [24, 24, 16]
        np.testing.assert_array_equal(np.concatenate(columns), expected[permutation])
    assert not np.array_equal(permutations[0], permutations[1])


# -- gradients -----------------------------------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_gradients_are_those_of_the_loss_and_move_nothing(name: EngineName, action: str) -> None:
    """After ``gradients`` every ``.grad`` is the derivative of the loss written out here; parameters and optimizer rest."""
    model, engine = engine_with_rollout(name, action=action, policy_kwargs={"optimizer_class": th.optim.Adam})
    data = transitions(model)
    loss = surrogate_by_hand(model, data, vf_coef=0.25, ent_coef=0.1)
    expected = dict(
        zip(
            parameters_of(model),
            th.autograd.grad(loss, list(model.policy.parameters())),
            strict=True,
        )
    )
    before, optimizer_before = parameters_of(model), copy.deepcopy(model.policy.optimizer.state_dict())
    statistics = engine.gradients(whole_rollout(model, engine), update_settings(vf_coef=0.25, ent_coef=0.1))
    assert largest_difference(parameters_of(model), before) == 0.0
    assert model.policy.optimizer.state_dict().keys() == optimizer_before.keys()
    for parameter in model.policy.parameters():
        state = model.policy.optimizer.state.get(parameter, {})
        assert not any(float(th.as_tensor(value).abs().max()) for value in state.values())
    assert statistics.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    found = {parameter_name: parameter.grad for parameter_name, parameter in model.policy.named_parameters()}
    for parameter_name, gradient in expected.items():
        grad = found[parameter_name]
        assert grad is not None
        assert th.allclose(grad, gradient, atol=1e-5, rtol=1e-4), parameter_name


@both_engines
def test_statistics_of_a_minibatch(name: EngineName) -> None:
    """At the rollout's own parameters: loss is the weighted sum of its parts, no divergence, nothing clipped, ratio 1."""
    model, engine = engine_with_rollout(name)
    statistics = engine.gradients(whole_rollout(model, engine), update_settings(ent_coef=0.1, vf_coef=0.25))
    parts = statistics.policy_loss + 0.1 * statistics.entropy_loss + 0.25 * statistics.value_loss
    assert statistics.loss == pytest.approx(parts, abs=1e-5)
    # The Gaussian's entropy has a closed form: log_std is 0, so -2 (log(2 pi e) / 2).
    assert statistics.entropy_loss == pytest.approx(-math.log(2 * math.pi * math.e), abs=1e-5)
    assert statistics.policy_loss == pytest.approx(0.0, abs=1e-5)
    assert abs(float(statistics.approx_kl)) < 1e-6
    assert statistics.clip_fraction == 0.0
    assert statistics.ratio_max == pytest.approx(1.0, abs=1e-5)


@both_engines
def test_a_second_call_starts_from_no_gradient(name: EngineName) -> None:
    """Each ``gradients`` replaces what the one before left: two calls on one minibatch leave the gradient of one."""
    model, engine = engine_with_rollout(name)
    minibatch = whole_rollout(model, engine)
    gradients = []
    for _ in range(2):
        engine.gradients(minibatch, update_settings())
        gradients.append([p.grad.clone() for p in model.policy.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.policy.parameters()))
    assert all(th.equal(one, two) for one, two in zip(*gradients, strict=True))


# -- apply ---------------------------------------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("max_grad_norm", [0.01, 1e6])
def test_apply_clips_and_steps(name: EngineName, max_grad_norm: float) -> None:
    """SGD moves every parameter by -lr·g·min(1, max_norm / |g|); ``apply`` returns |g| over all parameters, unclipped."""
    model, engine = engine_with_rollout(name, learning_rate=0.5)
    engine.gradients(whole_rollout(model, engine), update_settings(max_grad_norm=max_grad_norm))
    before = parameters_of(model)
    gradients = {key: p.grad.clone() for key, p in model.policy.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients.values()))
    assert norm > 0.01
    assert engine.apply() == pytest.approx(norm, rel=1e-5)
    scale = min(1.0, max_grad_norm / norm)
    expected = {key: before[key] - 0.5 * scale * gradients[key] for key in before}
    assert largest_difference(parameters_of(model), expected) < 1e-6
    assert largest_difference(parameters_of(model), before) > 1e-3


@both_engines
def test_apply_without_gradients_is_refused(name: EngineName) -> None:
    """There is nothing to apply before the first ``gradients``."""
    engine = make_model(engine=name)._current_engine()
    with pytest.raises(RuntimeError, match="gradients"):
        engine.apply()


# -- numbers that are not finite -----------------------------------------------------------------------------------------


def test_check_finite_names_every_part() -> None:
    """The error lists the losses that are not finite and no other; finite ones pass."""
    finite = MinibatchStatistics(1.0, 2.0, 3.0, 4.0, np.float32(0.0), 0.0, 1.0)
    check_finite(finite)
    with pytest.raises(NonFiniteUpdateError) as error:
        check_finite(finite._replace(value_loss=math.inf, loss=math.inf))
    assert str(error.value) == "value_loss=inf, loss=inf"
    with pytest.raises(NonFiniteUpdateError, match="policy_loss=nan, loss=nan"):
        check_finite(finite._replace(policy_loss=math.nan, loss=math.nan))


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_check_finite_norm(norm: float) -> None:
    """A gradient norm that is NaN or infinite is refused with its name; a finite one passes."""
    check_finite_norm(3.0)
    with pytest.raises(NonFiniteUpdateError, match=f"grad_norm={norm}"):
        check_finite_norm(norm)


def test_non_finite_update_error_is_a_value_error() -> None:
    """The zoo's optimisation prunes a trial on ``ValueError``."""
    assert issubclass(NonFiniteUpdateError, ValueError)


BAD_NUMBERS = [
    ("advantages", np.nan, "policy_loss=nan"),
    ("advantages", np.inf, "policy_loss=nan"),
    ("returns", np.nan, "value_loss=nan"),
    ("returns", np.inf, "value_loss=inf"),
    ("log_probs", np.nan, "policy_loss=nan"),
    ("observations", np.nan, ""),
]


@pytest.mark.parametrize(
    ("name", "column", "value", "named"),
    [pytest.param(name, *bad) for name in ENGINES for bad in BAD_NUMBERS],
)
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_one_bad_number_stops_the_update_before_any_parameter_moves(
    name: EngineName, action: str, column: str, value: float, named: str
) -> None:
    """A NaN or infinity in one of 32 transitions: the error names the loss and the place, the parameters keep their bits."""
    model, _ = engine_with_rollout(name, action=action, n_epochs=2)
    getattr(model.rollout_buffer, column)[5] = value
    before = parameters_of(model)
    with pytest.raises(NonFiniteUpdateError) as error:
        model.train()
    assert named in str(error.value)
    for part in ("update 0", "epoch 0", "minibatch 0", f"{N_STEPS} steps", "expected finite numbers", "Likely causes"):
        assert part in str(error.value)
    after = parameters_of(model)
    assert all(th.equal(after[key], before[key]) for key in before)


@both_engines
def test_the_place_of_a_bad_number_is_named(name: EngineName) -> None:
    """The bad transition is in one of 8 minibatches of the first epoch: the index is that of the shuffled order."""
    model, _ = engine_with_rollout(name, batch_size=4, n_epochs=2)
    model.rollout_buffer.advantages[5] = np.nan
    np.random.seed(11)
    minibatch = int(np.flatnonzero(np.random.permutation(N_STEPS) == 5)[0]) // 4
    np.random.seed(11)
    with pytest.raises(NonFiniteUpdateError, match=rf"epoch 0, minibatch {minibatch},"):
        model.train()
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


@pytest.mark.parametrize("name", ["autograd", "fused"])
def test_a_huge_learning_rate_is_stopped_with_finite_parameters(name: EngineName) -> None:
    """A step of 1e30 makes the next loss overflow: the update stops there and no parameter is NaN or infinite."""
    model = make_model(engine=name, learning_rate=1e30, batch_size=8, n_epochs=4)
    collect(model)
    before = parameters_of(model)
    with pytest.raises(NonFiniteUpdateError, match=r"epoch \d+, minibatch \d+.*a learning rate that is too high"):
        model.train()
    after = parameters_of(model)
    assert largest_difference(after, before) > 1.0
    assert all(bool(th.isfinite(parameter).all()) for parameter in after.values())


@both_engines
def test_an_infinite_gradient_of_a_finite_loss_is_stopped(name: EngineName) -> None:
    """The second line of defence: gradients that are infinite where the loss was not stop ``apply`` before the step."""
    model, engine = engine_with_rollout(name)
    engine.gradients(whole_rollout(model, engine), update_settings())
    action_net: Any = model.policy.action_net
    action_net.weight.grad[0, 0] = math.inf
    before = parameters_of(model)
    with pytest.raises(NonFiniteUpdateError, match="grad_norm=inf"):
        engine.apply()
    assert all(th.equal(value, before[key]) for key, value in parameters_of(model).items())


# -- projection of log_std -----------------------------------------------------------------------------------------------


def test_projection_moves_to_the_nearest_bound() -> None:
    """(-3, 0, 2) projected to [-1, 0.5] is (-1, 0, 0.5); without bounds nothing moves."""
    policy = make_model().policy
    policy.log_std = th.nn.Parameter(th.tensor([-3.0, 0.0, 2.0]))
    project_log_std(policy, None)
    assert policy.log_std.tolist() == [-3.0, 0.0, 2.0]
    project_log_std(policy, (-1.0, 0.5))
    assert policy.log_std.tolist() == [-1.0, 0.0, 0.5]
    assert policy.log_std.requires_grad


@both_engines
def test_apply_projects_after_the_step_and_the_bound_can_be_left_again(name: EngineName) -> None:
    """An entropy bonus pushes log_std up, as far as the bound; with the opposite sign it comes back, as gradients pass."""
    model, engine = engine_with_rollout(name, learning_rate=1.0, log_std_bounds=(-1.0, 0.25))
    minibatch = whole_rollout(model, engine)
    up = update_settings(ent_coef=10.0, log_std_bounds=(-1.0, 0.25), vf_coef=0.0)
    for _ in range(3):
        engine.gradients(minibatch, up)
        engine.apply()
    assert model.policy.log_std.tolist() == [0.25, 0.25]
    engine.gradients(minibatch, update_settings(ent_coef=-10.0, log_std_bounds=(-1.0, 0.25), vf_coef=0.0))
    engine.apply()
    assert all(-1.0 <= value < 0.25 for value in model.policy.log_std.tolist())


# -- the choice of an engine ---------------------------------------------------------------------------------------------


def test_make_engine_gives_the_reference_on_request() -> None:
    """Asking for autograd gives it, on the policy given, with one sentence that says so."""
    policy = make_model().policy
    engine, reason = make_engine("autograd", policy)
    assert engine.name == "autograd"
    assert engine.policy is policy
    assert reason.startswith("autograd: ")
    assert reason.endswith(".")


def test_fused_where_it_cannot_be_says_why() -> None:
    """An image policy with ``engine="fused"`` is refused with the reason and what to use; "auto" takes autograd for it."""
    with pytest.raises(ValueError, match=r"engine='fused': .+: use engine='auto' or 'autograd'"):
        make_model("image", "discrete", engine="fused")
    model = make_model("image", "discrete", engine="auto")
    assert model.engine_reason.startswith("autograd: ")
    assert len(model.engine_reason) > len("autograd: .")


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
def test_a_compiled_policy_learns_the_same() -> None:
    """With ``compile=True`` the autograd engine takes the steps it takes without, to rounding."""
    learned = []
    for compiled in (False, True):
        model = make_model(action="discrete", compile=compiled, engine="autograd", n_epochs=2)
        learned.append(parameters_of(model.learn(2 * N_STEPS)))
    assert largest_difference(*learned) < 1e-6


@pytest.mark.parametrize(("width", "kind"), [(64, FlatStepper), (512, PlainStepper)])
def test_large_networks_are_stepped_part_by_part(width: int, kind: type) -> None:
    """Two towers of 512 x 512 do not pay on one flat tensor; 64 x 64 do."""
    policy = make_model(policy_kwargs={"net_arch": [width, width]}).policy
    assert type(make_stepper(policy)) is kind


def test_what_is_compiled_is_the_autograd_engines() -> None:
    """``compile=True`` turns "auto" to autograd, which says so, and cannot be had with "fused"."""
    model = make_model(compile=True)
    assert model.engine_reason.startswith("autograd: compile=True")
    with pytest.raises(ValueError, match=r"engine='fused': compile=True .+: use engine='auto' or 'autograd'"):
        make_model(compile=True, engine="fused")


# -- the ratio -----------------------------------------------------------------------------------------------------------

RATIO_CASES: dict[str, dict[str, Any]] = {
    "categorical": {"action": "discrete"},
    "multicategorical": {"action": "multidiscrete"},
    "bernoulli": {"action": "multibinary"},
    "gaussian": {},
    "gaussian-dict": {"observation": "dict"},
    "categorical-image": {"observation": "image", "action": "discrete"},
    "gsde": {"use_sde": True},
    "gsde-squashed": {"use_sde": True, "policy_kwargs": {"squash_output": True}},
    "tanh_gaussian": {"action_distribution": "tanh_gaussian"},
    "tanh_gaussian-dict": {"action_distribution": "tanh_gaussian", "observation": "dict"},
    "tanh_gaussian-image": {"action_distribution": "tanh_gaussian", "observation": "image"},
    "beta": {"action_distribution": "beta"},
    "beta-dict": {"action_distribution": "beta", "observation": "dict"},
}


def first_ratios(model: EduPPO) -> th.Tensor:
    """The ratios of a fresh rollout under the parameters that made it, evaluated as one batch."""
    data = transitions(model)
    actions = data["actions"].long().flatten() if isinstance(model.action_space, spaces.Discrete) else data["actions"]
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(data["observations"], actions)
    return th.exp(log_prob - data["log_probs"].flatten())


@pytest.mark.parametrize("case", RATIO_CASES)
@pytest.mark.parametrize("name", ["autograd", "auto"])
def test_the_first_ratios_are_1(case: str, name: EngineName) -> None:
    """Before the first step every ratio is 1, to the rounding of a matrix product of another batch size."""
    model = make_model(**{"n_envs": 2, "engine": name, **RATIO_CASES[case]})
    collect(model)
    assert float((first_ratios(model) - 1.0).abs().max()) < 1e-5
    statistics = model._current_engine().gradients(whole_rollout(model, model._current_engine()), update_settings())
    assert statistics.ratio_max == pytest.approx(1.0, abs=1e-5)
    assert statistics.clip_fraction == 0.0
    assert abs(float(statistics.approx_kl)) < 1e-5


def saturated(action_distribution: str, name: EngineName) -> EduPPO:
    """A model all of whose actions are so far out that tanh rounds to 1 in float32."""
    model = make_model(action_distribution=action_distribution, engine=name)
    action_net: Any = model.policy.action_net
    # For the Beta alpha = 1 + softplus(1e9) and beta = 1 + softplus(-20): x is 1 to some 1e-9.
    outputs = [1e9, 1e9, -20.0, -20.0] if action_distribution == "beta" else [14.0, 14.0]
    with th.no_grad():
        action_net.bias.copy_(th.tensor(outputs))
    collect(model)
    return model


@pytest.mark.parametrize("name", ["autograd", "auto"])
@pytest.mark.parametrize(("action_distribution", "slope"), [("tanh_gaussian", 1.0), ("beta", 0.5)])
def test_the_first_ratios_are_1_where_the_squashing_has_saturated(
    action_distribution: str, slope: float, name: EngineName
) -> None:
    """The raw action is stored, so a squashed action that rounds to its bound does no harm."""
    model = saturated(action_distribution, name)
    assert bool((th.tanh(slope * transitions(model)["actions"]) == 1.0).all())
    assert float((first_ratios(model) - 1.0).abs().max()) < 1e-5


def test_an_inverse_tanh_misses_the_ratio_by_orders_of_magnitude() -> None:
    """SB3's squashed Gaussian, given only tanh(u), recovers at most |u| = 8.3: its ratios are far from 1 at mean 14."""
    distribution = SquashedDiagGaussianDistribution(1)
    distribution.proba_distribution(th.full((32, 1), 14.0), th.zeros(1))
    raw_actions = distribution.distribution.sample()
    squashed = th.tanh(raw_actions)
    assert bool((squashed == 1.0).all())
    old_log_prob = distribution.log_prob(squashed, raw_actions)
    log_ratio = distribution.log_prob(squashed) - old_log_prob
    assert float(log_ratio.abs().min()) > math.log(100.0)


# -- in parts ------------------------------------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("micro_batch_size", [1, 4, 32])
@pytest.mark.parametrize(
    "arguments",
    [
        {"ent_coef": 0.01, "clip_range_vf": 0.2},
        {"action": "discrete", "advantage_normalization": "batch", "recompute_advantages": True},
        {"action": "discrete", "normalize_advantage": False, "target_kl": 0.01},
        {"n_epochs": 3, "policy_kwargs": {"optimizer_class": th.optim.Adam}},
    ],
)
def test_parts_add_up_to_the_whole(name: EngineName, micro_batch_size: int, arguments: dict[str, Any]) -> None:
    """``micro_batch_size`` changes neither parameters nor what is logged, beyond rounding; the last minibatch may be short."""
    found = []
    for size in (None, micro_batch_size):
        # 96 transitions: one minibatch of 64, and one of 32.
        model = make_model(n_envs=3, **{"engine": name, "batch_size": 64, "micro_batch_size": size, **arguments})
        logged = record(model)
        model.learn(2 * N_STEPS * 3)
        found.append((parameters_of(model), logged.rows[-1]))
    (whole, log), (parts, log_of_parts) = found
    assert largest_difference(whole, parts) < 1e-6
    for key in ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "ratio_max", "grad_norm"):
        assert log_of_parts[f"train/{key}"] == pytest.approx(log[f"train/{key}"], rel=1e-4, abs=1e-6), key


def test_parts_see_the_moments_of_the_whole() -> None:
    """Advantages are standardised by the minibatch's mean and deviation (n - 1), computed here by numpy."""
    model, engine = engine_with_rollout("autograd", n_envs=2, micro_batch_size=8)
    (minibatch,) = engine.minibatches(model.rollout_buffer, 2 * N_STEPS)
    assert [len(part.advantages) for part in minibatch] == [8] * 8
    advantages = np.concatenate([part.advantages.numpy() for part in minibatch]).astype(np.float64)
    settings = with_moments(update_settings(), [part.advantages for part in minibatch])
    assert settings.advantage_moments == pytest.approx((advantages.mean(), advantages.std(ddof=1)), rel=1e-12)
    assert with_moments(update_settings(), [np.ones(1)]).normalize_advantage is False, "one advantage has no deviation"


def test_parts_must_divide_the_minibatch() -> None:
    """A part that does not divide the minibatch would make other minibatches."""
    with pytest.raises(ValueError, match="micro_batch_size=48: expected a divisor of batch_size=64"):
        make_model(batch_size=64, micro_batch_size=48)


@pytest.mark.parametrize("action", ["box", "discrete", "multidiscrete", "multibinary"])
def test_bfloat16(action: str) -> None:
    """Networks in bfloat16: losses and stored values stay float32, and the first ratio is 1 to some per cent."""
    model = make_model(action=action, n_envs=4, bf16=True, n_epochs=2, batch_size=32, policy_kwargs={"net_arch": [32, 32]})
    assert model.engine_reason == "autograd: bf16=True is for the autograd engine."
    logged = record(model)
    model.learn(2 * N_STEPS * 4)
    row = logged.rows[-1]
    assert model.rollout_buffer.log_probs.dtype == model.rollout_buffer.values.dtype == np.float32
    assert row["train/ratio_first"] == pytest.approx(1.0, abs=0.05)
    reference = make_model(
        action=action, n_envs=4, engine="autograd", n_epochs=2, batch_size=32, policy_kwargs={"net_arch": [32, 32]}
    )
    before = parameters_of(reference)
    reference.learn(2 * N_STEPS * 4)
    moved = largest_difference(before, parameters_of(reference))
    assert 0 < largest_difference(parameters_of(model), parameters_of(reference)) < moved


def test_bfloat16_is_computed_in_bfloat16() -> None:
    """The hidden layers work in bfloat16, and what the distribution sees is float32."""
    model = make_model(bf16=True)
    seen: list[th.dtype] = []
    model.policy.mlp_extractor.policy_net.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    model.policy.action_net.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    collect(model)
    assert set(seen[0::2]) == {th.bfloat16} and set(seen[1::2]) == {th.float32}


def test_bfloat16_where_it_can_not_be() -> None:
    """The fused engine computes in the parameters' type, and gSDE draws from the last hidden layer."""
    with pytest.raises(ValueError, match=r"engine='fused': bf16=True is for the autograd engine"):
        make_model(bf16=True, engine="fused")
    with pytest.raises(ValueError, match="bf16=True with use_sde=True: gSDE"):
        make_model(bf16=True, use_sde=True)
