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

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import (
    Engine,
    EngineName,
    MinibatchStatistics,
    NonFiniteUpdateError,
    PolicyInputs,
    UnsupportedPolicyError,
    as_array,
    project_log_std,
)
from sb3_ppo_edu.engines.base import check_finite, check_finite_norm, check_finite_output
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

ENGINES: tuple[EngineName, ...] = ("autograd", "numpy", "fused")
every_engine = pytest.mark.parametrize("name", ENGINES)


def engine_with_rollout(name: EngineName, **arguments: Any) -> tuple[EduPPO, Engine[Any]]:
    """A model with a full rollout buffer, and the engine that is to learn from it."""
    model = make_model(**{"engine": name, **arguments})
    collect(model)
    return model, model.attach_engine()


def whole_rollout(model: EduPPO, engine: Engine[Any]) -> Any:
    """The rollout as one minibatch in the engine's form."""
    (minibatch,) = engine.minibatches(model.rollout_buffer, model.n_steps * model.n_envs)
    return minibatch


def column_of(minibatch: Any, name: str) -> Any:
    """A column of a minibatch in any engine's form, whose advantages all have under one name."""
    holder = minibatch if name == "advantages" else getattr(minibatch, "samples", minibatch)
    return as_array(getattr(holder, name))


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


@every_engine
@pytest.mark.parametrize("action", ACTION_SPACES)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_act_gives_what_the_rollout_buffer_stores(name: EngineName, action: str, n_envs: int) -> None:
    """Actions (n_envs, *shape), values (n_envs, 1) and log-probabilities (n_envs,), those of the policy for these actions."""
    model = make_model(action=action, n_envs=n_envs, engine=name)
    engine = model.attach_engine()
    observations = th.randn(n_envs, 5)
    actions, values, log_probs = engine.act(PolicyInputs(observations))
    assert actions.shape == (n_envs, *(model.action_space.shape or ()))
    assert values.shape == (n_envs, 1)
    assert log_probs.shape == (n_envs,)
    assert not any(tensor.requires_grad for tensor in (actions, values, log_probs))
    expected_values, expected_log_probs, _ = model.policy.evaluate_actions(observations, actions)
    assert th.allclose(values, expected_values, atol=1e-5)
    assert th.allclose(log_probs, expected_log_probs, atol=1e-5)


@every_engine
def test_value_is_the_value_that_act_reports(name: EngineName) -> None:
    """Bootstrapping asks the same critic, without drawing a random number."""
    engine = make_model(engine=name).attach_engine()
    observations = th.randn(7, 5)
    _, values, _ = engine.act(PolicyInputs(observations))
    before = th.get_rng_state()
    found = engine.value(PolicyInputs(observations))
    assert found.shape == (7, 1)
    assert not found.requires_grad
    assert th.allclose(found, values, atol=1e-6)
    assert th.equal(th.get_rng_state(), before)


# -- minibatches ---------------------------------------------------------------------------------------------------------


@every_engine
def test_an_epoch_holds_every_transition_once(name: EngineName) -> None:
    """Minibatches are full but for the last, follow numpy's permutation of the rollout, and each epoch draws a new one."""
    model, engine = engine_with_rollout(name, n_envs=2)
    data = transitions(model)
    expected = {"old_log_prob": data["log_probs"].flatten().numpy(), "advantages": data["advantages"].flatten().numpy()}
    np.random.seed(11)
    permutations = [np.random.permutation(2 * N_STEPS) for _ in range(2)]
    np.random.seed(11)
    for permutation in permutations:
        minibatches = list(engine.minibatches(model.rollout_buffer, 24))
        assert [minibatch.size for minibatch in minibatches] == [24, 24, 16]
        for column, values in expected.items():
            found = np.concatenate([column_of(minibatch, column) for minibatch in minibatches])
            np.testing.assert_array_equal(found, values[permutation])
    assert not np.array_equal(permutations[0], permutations[1])


# -- gradients -----------------------------------------------------------------------------------------------------------


@every_engine
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


@every_engine
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
    np.testing.assert_allclose(as_array(statistics.ratios), np.ones(N_STEPS), atol=1e-5)


@every_engine
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


@every_engine
@pytest.mark.parametrize("max_grad_norm", [0.01, 1e6])
def test_apply_clips_and_steps(name: EngineName, max_grad_norm: float) -> None:
    """SGD moves every parameter by -lr·g·min(1, max_norm / |g|); ``apply`` returns |g| over all parameters, unclipped."""
    model, engine = engine_with_rollout(name, learning_rate=0.5)
    settings = update_settings(max_grad_norm=max_grad_norm)
    engine.gradients(whole_rollout(model, engine), settings)
    before = parameters_of(model)
    gradients = {key: p.grad.clone() for key, p in model.policy.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients.values()))
    assert norm > 0.01
    assert engine.apply(settings) == pytest.approx(norm, rel=1e-5)
    engine.detach()
    scale = min(1.0, max_grad_norm / norm)
    expected = {key: before[key] - 0.5 * scale * gradients[key] for key in before}
    assert largest_difference(parameters_of(model), expected) < 1e-6
    assert largest_difference(parameters_of(model), before) > 1e-3


@every_engine
def test_settings_of_apply_are_those_it_is_given(name: EngineName) -> None:
    """Nothing is remembered of ``gradients``: the bound of the norm that counts is the one that ``apply`` is called with."""
    model, engine = engine_with_rollout(name, learning_rate=1.0)
    engine.gradients(whole_rollout(model, engine), update_settings(max_grad_norm=1e6))
    before = parameters_of(model)
    engine.apply(update_settings(max_grad_norm=0.001))
    engine.detach()
    after = parameters_of(model)
    step = math.sqrt(sum(float(((after[key] - before[key]).double() ** 2).sum()) for key in before))
    # Torch divides by the norm + 1e-6, and subtracting in float32 costs some digits.
    assert step == pytest.approx(0.001, rel=1e-2)


@every_engine
def test_apply_without_gradients_moves_nothing(name: EngineName) -> None:
    """As in torch, a step before the first ``gradients`` has the norm 0 and moves no parameter."""
    model = make_model(engine=name)
    before, engine = parameters_of(model), model.attach_engine()
    assert engine.apply(update_settings()) == 0.0
    engine.detach()
    assert largest_difference(parameters_of(model), before) == 0.0


@every_engine
@pytest.mark.parametrize("optimizer", [th.optim.SGD, th.optim.Adam])
def test_parameters_gradients_and_moments_keep_memory_of_their_own(name: EngineName, optimizer: Any) -> None:
    """
    After ``learn`` every tensor that torch knows of lies where it lay, is as large as it says, and shares with no other.

    So a model is copied, pickled and saved as one of SB3's is, whatever engine has trained it.
    """
    model = make_model(engine=name, n_epochs=2, batch_size=16, policy_kwargs={"optimizer_class": optimizer})
    before = {key: (id(p), p.data_ptr()) for key, p in model.policy.named_parameters()}
    model.learn(2 * N_STEPS)
    assert {key: (id(p), p.data_ptr()) for key, p in model.policy.named_parameters()} == before
    tensors = [tensor for p in model.policy.parameters() for tensor in (p, p.grad) if tensor is not None]
    assert len(tensors) == 2 * len(before), "every parameter should have a gradient"
    state = model.policy.optimizer.state
    tensors += [value for p in model.policy.parameters() for value in state[p].values() if isinstance(value, th.Tensor)]
    assert len(tensors) == (5 if optimizer is th.optim.Adam else 2) * len(before)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("optimizer", [th.optim.SGD, th.optim.Adam])
def test_what_an_update_moves_reaches_the_policy_at_detach(optimizer: Any) -> None:
    """
    After each ``detach`` a fused engine leaves what autograd leaves: parameters, ``.grad`` as clipped, optimizer state.

    What is changed in between is taken over at the next ``attach``.
    """
    models, networks = [], {"net_arch": [8, 8], "optimizer_class": optimizer}
    for name in ("autograd", "fused"):
        model = make_model(engine=name, learning_rate=0.01, policy_kwargs=networks)
        collect(model)
        models.append(model)
    for _ in range(3):
        for model in models:
            engine = model.attach_engine()
            engine.gradients(whole_rollout(model, engine), update_settings())
            engine.apply(update_settings())
            engine.detach()
        (ours, theirs) = ({key: p.grad for key, p in model.policy.named_parameters()} for model in models)
        assert all(th.allclose(ours[key], theirs[key], atol=1e-5) for key in ours)  # type: ignore[arg-type]
        assert largest_difference(*map(parameters_of, models)) < 1e-5
        states = [model.policy.optimizer.state_dict()["state"] for model in models]
        for index, state in states[0].items():
            assert all(
                th.allclose(value, states[1][index][key], atol=1e-5) for key, value in state.items() if value is not None
            )
        with th.no_grad():
            for model in models:
                model.policy.value_net.bias.add_(0.5)
                for p in model.policy.parameters():
                    for value in model.policy.optimizer.state[p].values():
                        if isinstance(value, th.Tensor) and value.numel() > 1:
                            value.mul_(0.5)


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


@pytest.mark.parametrize("name", ["actions", "values", "log_probs"])
def test_check_finite_output_names_each_part(name: str) -> None:
    """One number of several is enough, and only the output that it is in is named; finite ones pass."""
    outputs = {"actions": np.ones((2, 1)), "values": np.ones((2, 1)), "log_probs": np.ones(2)}
    check_finite_output(**outputs)
    outputs[name].flat[1] = math.nan
    with pytest.raises(NonFiniteUpdateError) as error:
        check_finite_output(**outputs)
    assert str(error.value) == f"policy output: {name}={outputs[name].tolist()}"


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


@every_engine
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


@every_engine
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


@every_engine
def test_an_infinite_gradient_of_a_finite_loss_is_stopped(name: EngineName) -> None:
    """The second line of defence: gradients that are infinite where the loss was not stop ``apply`` before the step."""
    model, engine = engine_with_rollout(name)
    engine.gradients(whole_rollout(model, engine), update_settings())
    action_net: Any = model.policy.action_net
    action_net.weight.grad[0, 0] = math.inf
    before = parameters_of(model)
    with pytest.raises(NonFiniteUpdateError, match="grad_norm=inf"):
        engine.apply(update_settings())
    engine.detach()
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


@every_engine
def test_apply_projects_after_the_step_and_the_bound_can_be_left_again(name: EngineName) -> None:
    """An entropy bonus pushes log_std up, as far as the bound; with the opposite sign it comes back, as gradients pass."""
    model, engine = engine_with_rollout(name, learning_rate=1.0, log_std_bounds=(-1.0, 0.25))
    minibatch = whole_rollout(model, engine)
    up = update_settings(ent_coef=10.0, log_std_bounds=(-1.0, 0.25), vf_coef=0.0)
    for _ in range(3):
        engine.gradients(minibatch, up)
        engine.apply(up)
    engine.detach()
    assert model.policy.log_std.tolist() == [0.25, 0.25]
    down = update_settings(ent_coef=-10.0, log_std_bounds=(-1.0, 0.25), vf_coef=0.0)
    engine.gradients(minibatch, down)
    engine.apply(down)
    engine.detach()
    assert all(-1.0 <= value < 0.25 for value in model.policy.log_std.tolist())


# -- options of the autograd engine -------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler itself
def test_a_compiled_policy_learns_the_same() -> None:
    """With ``compile=True`` the autograd engine takes the steps it takes without, to rounding."""
    learned = []
    for compiled in (False, True):
        model = make_model(action="discrete", engine="autograd", engine_kwargs={"compile": compiled}, n_epochs=2)
        learned.append(parameters_of(model.learn(2 * N_STEPS)))
    assert largest_difference(*learned) < 1e-6


@pytest.mark.parametrize("action", ["box", "discrete", "multidiscrete", "multibinary"])
def test_bfloat16(action: str) -> None:
    """Networks in bfloat16: losses and stored values stay float32, and the first ratio is 1 to some per cent."""
    arguments: dict[str, Any] = {"n_envs": 4, "n_epochs": 2, "batch_size": 32, "policy_kwargs": {"net_arch": [32, 32]}}
    model = make_model(action=action, engine_kwargs={"bf16": True}, **arguments)
    assert model.engine_reason.startswith("autograd: bf16=True is for the autograd engine.")
    logged = record(model)
    model.learn(2 * N_STEPS * 4)
    row = logged.rows[-1]
    assert model.rollout_buffer.log_probs.dtype == model.rollout_buffer.values.dtype == np.float32
    assert row["train/ratio_first"] == pytest.approx(1.0, abs=0.05)
    reference = make_model(action=action, engine="autograd", **arguments)
    before = parameters_of(reference)
    reference.learn(2 * N_STEPS * 4)
    moved = largest_difference(before, parameters_of(reference))
    assert 0 < largest_difference(parameters_of(model), parameters_of(reference)) < moved


def test_bfloat16_is_computed_in_bfloat16() -> None:
    """The hidden layers work in bfloat16; what the distribution sees is float32, and the policy has no hook afterwards."""
    model = make_model(engine_kwargs={"bf16": True})
    seen: list[th.dtype] = []
    seen_by_distribution: list[th.dtype] = []
    distribution: Any = model.policy.action_dist
    proba_distribution = distribution.proba_distribution

    def watched(means: th.Tensor, log_std: th.Tensor) -> Any:
        seen_by_distribution.append(means.dtype)
        return proba_distribution(means, log_std)

    distribution.proba_distribution = watched
    model.policy.mlp_extractor.policy_net.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    model.learn(N_STEPS)
    assert len(seen) == N_STEPS + 1 and set(seen) == {th.bfloat16}
    assert len(seen_by_distribution) == N_STEPS + 1 and set(seen_by_distribution) == {th.float32}
    assert {p.dtype for p in model.policy.parameters()} == {th.float32}
    heads: Any = (model.policy.action_net, model.policy.value_net)
    assert not any(head._forward_hooks for head in heads)


def test_bfloat16_where_it_can_not_be() -> None:
    """The other engines compute in the parameters' type, and gSDE draws from the last hidden layer."""
    for name in ("fused", "numpy"):
        model = make_model(engine_kwargs={"bf16": True}, engine=name)
        with pytest.raises(UnsupportedPolicyError, match=f"engine='{name}': bf16=True is for the autograd engine"):
            model.learn(N_STEPS)
    with pytest.raises(ValueError, match="bf16=True with use_sde=True: gSDE"):
        make_model(engine_kwargs={"bf16": True}, use_sde=True)
