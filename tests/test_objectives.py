"""Objectives: two forms of one loss that agree, and losses of one's own, each a small class, that train through ``EduPPO``."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import assume, given
from hypothesis import strategies as st

from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.engines import EngineName, UpdateSettings
from sb3_ppo_edu.functional.objectives import (
    Derivatives,
    Evaluation,
    Losses,
    Objective,
    PPOObjective,
    Transitions,
    derivatives_of,
    evaluation,
)
from tests.rollouts import N_STEPS, collect, largest_difference, make_model, parameters_of, transitions
from tests.rollouts import update_settings as make_settings

# -- objectives of one's own ---------------------------------------------------------------------------------------------


class KLPenalty(Objective):
    """The objective of section 4 of the PPO paper: no clipping, but a penalty on the divergence (k3) from the old policy."""

    def __init__(self, beta: float = 0.5) -> None:
        self.beta = beta

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Unclipped surrogate and penalty."""
        return -now.ratio * data.advantages + self.beta * ((now.ratio - 1) - now.log_ratio)


class TruncatedImportance(Objective):
    """The policy gradient of transitions that are weighted with their ratio, at most c, as in IMPALA."""

    def __init__(self, c: float = 1.0) -> None:
        self.c = c

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """The policy gradient's loss."""
        return -now.log_prob * data.advantages

    def weights(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Ratios, as constants."""
        return now.ratio.detach().clamp(max=self.c)


Parts = tuple[th.Tensor, th.Tensor, th.Tensor]


def kl_penalty_by_hand(log_prob: th.Tensor, old: th.Tensor, advantages: th.Tensor, errors: th.Tensor, h: th.Tensor) -> Parts:
    """Mean of -r·Â + β·(r - 1 - log r), and plain means of the squared errors and the negative entropy; β = 0.3."""
    r = (log_prob - old).exp()
    return (-r * advantages + 0.3 * (r - 1 - r.log())).mean(), errors.square().mean(), -h.mean()


def importance_by_hand(log_prob: th.Tensor, old: th.Tensor, advantages: th.Tensor, errors: th.Tensor, h: th.Tensor) -> Parts:
    """Sums of w·l over the sum of w, for every loss, with w = min(r, 1.05) constant."""
    w = th.minimum((log_prob - old).exp(), th.tensor(1.05)).detach()
    return tuple(sum(w * each) / sum(w) for each in (-log_prob * advantages, errors.square(), -h))  # type: ignore[return-value]


OWN: dict[str, tuple[Objective, Any]] = {
    "kl-penalty": (KLPenalty(beta=0.3), kl_penalty_by_hand),
    "importance": (TruncatedImportance(c=1.05), importance_by_hand),
}


@pytest.mark.parametrize("objective", [KLPenalty, TruncatedImportance])
def test_an_objective_of_ones_own_is_short(objective: type[Objective]) -> None:
    """A new loss is a class of at most forty lines, comments and all."""
    assert len(inspect.getsource(objective).splitlines()) <= 40


@pytest.mark.parametrize("case", OWN)
@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_gradients_are_those_of_the_loss_written_out(engine: EngineName, case: str, action: str) -> None:
    """Where the policy has moved, every ``.grad`` is the derivative of the loss as it stands in this file, part by part."""
    objective, by_hand = OWN[case]
    model = make_model(action=action, engine=engine, objective=objective)
    collect(model)
    data = {name: value.flatten() for name, value in transitions(model).items() if name not in ("observations", "actions")}
    observations, actions = transitions(model)["observations"], transitions(model)["actions"]
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    actions = actions.long().flatten() if action == "discrete" else actions
    values, log_prob, entropy = model.policy.evaluate_actions(observations, actions)
    assert entropy is not None
    advantages = (data["advantages"] - data["advantages"].mean()) / data["advantages"].std()
    policy, value, of_entropy = by_hand(log_prob, data["log_probs"], advantages, values.flatten() - data["returns"], entropy)
    total = policy + 0.25 * value + 0.1 * of_entropy
    expected = th.autograd.grad(total, list(model.policy.parameters()))

    attached = model.attach_engine()
    (minibatch,) = attached.minibatches(model.rollout_buffer, N_STEPS)
    statistics = attached.gradients(minibatch, make_settings(objective=objective, vf_coef=0.25, ent_coef=0.1))
    assert attached.name == engine
    assert statistics.policy_loss == pytest.approx(float(policy.detach()), rel=1e-4, abs=1e-5)
    assert statistics.value_loss == pytest.approx(float(value.detach()), rel=1e-4)
    assert statistics.entropy_loss == pytest.approx(float(of_entropy.detach()), rel=1e-4)
    assert statistics.loss == pytest.approx(float(total.detach()), rel=1e-4, abs=1e-5)
    for (name, parameter), gradient in zip(model.policy.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert th.allclose(parameter.grad, gradient, atol=1e-5, rtol=1e-4), name


@pytest.mark.parametrize("case", OWN)
def test_an_objective_of_ones_own_trains(case: str) -> None:
    """
    All engines learn the same with it, and not what PPO's objective learns.

    ``engine="auto"`` takes the fused one, and says that it asks Python for the objective.
    """
    learned = {}
    for engine in ("autograd", "numpy", "auto"):
        model = make_model(engine=engine, objective=OWN[case][0], learning_rate=0.1, batch_size=8, n_epochs=4)
        model.learn(2 * N_STEPS)
        learned[engine] = parameters_of(model)
    plain = parameters_of(make_model(learning_rate=0.1, batch_size=8, n_epochs=4).learn(2 * N_STEPS))
    assert largest_difference(learned["autograd"], learned["numpy"]) < 1e-4
    assert largest_difference(learned["autograd"], learned["auto"]) < 1e-4
    assert largest_difference(learned["autograd"], plain) > 1e-3
    assert type(OWN[case][0]).__name__ in model.engine_reason
    assert model.engine_reason.startswith("fused")


class EntropyInThePolicyLoss(Objective):
    """An entropy bonus of its own, beside ``ent_coef``."""

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Half the entropy of each transition."""
        assert now.entropy is not None
        return super().policy_loss(now, data, settings) - 0.5 * now.entropy


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
def test_the_entropy_has_a_gradient_wherever_an_objective_uses_it(engine: EngineName) -> None:
    """A bonus of 0.5 in the policy's loss, without ``ent_coef``, is PPO's with ``ent_coef=0.5``: the same parameters."""
    updated = []
    for arguments in ({"objective": EntropyInThePolicyLoss}, {"ent_coef": 0.5}):
        model = make_model(engine=engine, **arguments)
        collect(model)
        model.train()
        updated.append(parameters_of(model))
    assert largest_difference(*updated) < 1e-6
    plain = make_model(engine=engine)
    collect(plain)
    plain.train()
    assert largest_difference(updated[0], parameters_of(plain)) > 1e-5


# -- the ways to name one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_as", [KLPenalty(), KLPenalty, "tests.test_objectives.KLPenalty"])
def test_instance_class_and_dotted_path_are_the_same(given_as: Any) -> None:
    """``objective=`` takes an instance, a class or its path, as a settings file has it, and learns the same."""
    model = make_model(engine="autograd", objective=given_as, learning_rate=0.1, n_epochs=2)
    assert type(model.objective) is KLPenalty and model.objective.beta == 0.5
    learned = parameters_of(model.learn(N_STEPS))
    expected = make_model(engine="autograd", objective=KLPenalty(0.5), learning_rate=0.1, n_epochs=2).learn(N_STEPS)
    assert largest_difference(learned, parameters_of(expected)) == 0.0


def test_it_may_be_changed_between_updates() -> None:
    """A new ``model.objective`` counts from the next update on, and the engine is chosen anew for it."""
    model = make_model(learning_rate=0.1, n_epochs=2)
    assert type(model.objective) is PPOObjective
    model.learn(N_STEPS)
    assert "objective" not in model.engine_reason
    model.objective = KLPenalty(beta=1e3)
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert "KLPenalty" in model.engine_reason
    model.objective = PPOObjective()
    model.learn(N_STEPS, reset_num_timesteps=False)
    assert "objective" not in model.engine_reason


# -- the two forms -------------------------------------------------------------------------------------------------------


class DoubledValueLoss(PPOObjective):
    """Replaces one loss of PPO's."""

    def value_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Twice the loss."""
        return 2 * super().value_loss(now, data, settings)


class WithFormula(PPOObjective):
    """Replaces the derivatives."""

    def gradients(self, *arguments: Any) -> tuple[Losses, Derivatives]:
        """No loss at all."""
        zeros = np.zeros_like(arguments[0])
        return Losses(0.0, 0.0, 0.0, 0.0), Derivatives(zeros, zeros, None)


class OfFormula(WithFormula):
    """Replaces a loss of a class that has a formula of its own, which is then no longer right."""

    def policy_loss(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Minus the ratio."""
        return -now.ratio


def test_derivatives_without_a_loss_are_refused() -> None:
    """Autograd would not see them: named with both forms, of a class and an instance; with a loss they pass."""
    patched: Any = PPOObjective()
    patched.gradients = WithFormula().gradients
    for objective in (WithFormula, WithFormula(), patched):
        with pytest.raises(
            ArgumentError, match=r"found the derivatives \(gradients\) replaced and no loss, expected both forms"
        ):
            make_model(objective=objective)
    model = make_model(objective=DoubledValueLoss)
    model.objective = WithFormula()
    with pytest.raises(ArgumentError, match="both forms"):
        model.learn(N_STEPS)
    assert type(make_model(objective=OfFormula).objective) is OfFormula


def rollout(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Transitions]:
    """Log-probabilities, values and entropies now, and what a rollout stored, on both sides of every clip, in float64."""
    generator = np.random.default_rng(seed)
    old_log_prob, advantages, old_values, returns = (th.from_numpy(generator.normal(size=size)) for _ in range(4))
    log_prob = old_log_prob.numpy() + generator.normal(size=size) * 0.5
    values, entropy = old_values.numpy() + generator.normal(size=size), generator.uniform(0, 2, size=size)
    return log_prob, values, entropy, Transitions(old_log_prob, old_values, advantages, returns)


def is_away_from_kinks(log_prob: np.ndarray, values: np.ndarray, data: Transitions, settings: UpdateSettings) -> bool:
    """Tell whether no transition lies where the loss has two slopes."""
    ratio = np.exp(log_prob - data.old_log_prob.numpy())
    change = values - data.old_values.numpy()
    errors, limit = np.abs(values - data.returns.numpy()), settings.clip_range_vf or np.inf
    clipped = np.abs(data.old_values.numpy() + np.clip(change, -limit, limit) - data.returns.numpy())
    distances = [np.abs(ratio - 1 - settings.clip_range), np.abs(ratio - 1 + settings.clip_range)]
    distances += [np.abs(np.abs(change) - limit), np.abs(ratio - (settings.dual_clip or np.inf))]
    distances += [np.where(np.abs(change) > limit, np.abs(errors - clipped), 1.0)]
    return bool(min(distance.min() for distance in distances) > 1e-6)


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 9),
    clip_range=st.floats(0.05, 0.5),
    clip_range_vf=st.none() | st.floats(0.05, 1.0),
    mode=st.sampled_from(["sb3", "max"]),
    dual_clip=st.none() | st.floats(1.05, 3.0),
    ent_coef=st.sampled_from([0.0, 0.01, 1.0, -0.5]),
    vf_coef=st.sampled_from([0.0, 0.5, 2.0]),
    weighted=st.booleans(),
    has_entropy=st.booleans(),
)
def test_the_two_forms_of_ppos_objective_agree(
    seed: int, size: int, weighted: bool, has_entropy: bool, **arguments: Any
) -> None:
    """The formulas give autograd's losses and derivatives through the first form, to 1e-12, in every branch."""
    settings = make_settings(vf_clip_mode=arguments.pop("mode"), **arguments)
    log_prob, values, entropy, data = rollout(seed, size)
    if weighted:
        data = data._replace(weights=th.from_numpy(np.random.default_rng(seed).uniform(0.1, 2.0, size=size)))
    of_entropy = entropy if has_entropy else None
    assume(is_away_from_kinks(log_prob, values, data, settings))
    found, derivatives = PPOObjective().gradients(log_prob, values, of_entropy, data, settings)
    expected, by_autograd = Objective.gradients(PPOObjective(), log_prob, values, of_entropy, data, settings)
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(derivatives.log_prob, by_autograd.log_prob, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(derivatives.values, by_autograd.values, rtol=1e-12, atol=1e-14)
    # None stands for 0 everywhere.
    ours, theirs = (np.zeros(size) if one.entropy is None else one.entropy for one in (derivatives, by_autograd))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    assert all(isinstance(part, float) for part in found)


@pytest.mark.parametrize("mode", ["sb3", "max"])
@pytest.mark.parametrize("clip_range", [0.0, -0.01])
@pytest.mark.parametrize("clip_range_vf", [0.0, -0.01, None])
@given(seed=st.integers(0, 10**6), size=st.integers(1, 9))
def test_the_formulas_have_torchs_slope_where_there_are_two(
    mode: Any, clip_range: float, clip_range_vf: float | None, seed: int, size: int
) -> None:
    """A clip range of 0, or below where a line is followed beyond its end: as torch at ratio 1 and unchanged values too."""
    settings = make_settings(vf_clip_mode=mode, clip_range=clip_range, clip_range_vf=clip_range_vf)
    log_prob, values, entropy, data = rollout(seed, size)
    unchanged = np.random.default_rng(seed).random(size) < 0.5
    log_prob = np.where(unchanged, data.old_log_prob.numpy(), log_prob)
    values = np.where(unchanged, data.old_values.numpy(), values)
    _, by_autograd = Objective.gradients(PPOObjective(), log_prob, values, entropy, data, settings)
    _, derivatives = PPOObjective().gradients(log_prob, values, entropy, data, settings)
    np.testing.assert_allclose(derivatives.log_prob, by_autograd.log_prob, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(derivatives.values, by_autograd.values, rtol=1e-12, atol=1e-14)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 9), case=st.sampled_from(sorted(OWN)))
def test_the_two_forms_of_an_objective_of_ones_own_agree(seed: int, size: int, case: str) -> None:
    """What it has not written, the derivatives, follow from what it has: as by differences of the first form."""
    objective, settings = OWN[case][0], make_settings(ent_coef=0.1)
    log_prob, values, entropy, data = rollout(seed, size)
    found, derivatives = objective.gradients(log_prob, values, entropy, data, settings)

    fixed = objective.weights(evaluation_of(log_prob, values, entropy, data), data, settings)

    class WithFixedWeights(type(objective)):  # type: ignore[misc]
        """Differences must not see that weights depend on the ratio: to the derivative they are constants."""

        def weights(self, *_: Any) -> th.Tensor | None:
            """As they were."""
            return fixed

    def total(log_prob: np.ndarray, values: np.ndarray, entropy: np.ndarray) -> float:
        """The first form."""
        objective_now: Any = WithFixedWeights(*vars(objective).values())
        return float(objective_now(evaluation_of(log_prob, values, entropy, data), data, settings).total)

    assert found.total == pytest.approx(total(log_prob, values, entropy), rel=1e-12)
    h = 1e-6
    for position, slope in enumerate(derivatives):
        for t in range(size):
            step = [np.zeros(size) for _ in range(3)]
            step[position][t] = h
            up = total(*(x + dx for x, dx in zip((log_prob, values, entropy), step, strict=True)))
            down = total(*(x - dx for x, dx in zip((log_prob, values, entropy), step, strict=True)))
            assert slope is not None
            assert slope[t] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-7)


def evaluation_of(log_prob: np.ndarray, values: np.ndarray, entropy: np.ndarray, data: Transitions) -> Evaluation:
    """What the policy says, as tensors."""
    tensors = [th.from_numpy(array) for array in (log_prob, values, entropy)]
    return evaluation(tensors[0], data.old_log_prob, tensors[1], tensors[2])


def test_derivatives_by_hand() -> None:
    """
    Ratios (1, 1.5, 1.5), advantages (2, 2, -2), ε = 0.25: the slopes in log π are (-1·2, 0, 1.5·2) / 3.

    Values 3, 0, 1 with returns 1 and c_v = 0.5: (2, -1, 0) / 3. Entropy with c_e = 0.3: -0.1 each.
    """
    zeros = th.zeros(3, dtype=th.float64)
    data = Transitions(zeros, zeros, th.tensor([2.0, 2.0, -2.0]).double(), th.ones(3).double())
    log_prob = np.log(np.array([1.0, 1.5, 1.5]))
    settings = make_settings(clip_range=0.25, vf_coef=0.5, ent_coef=0.3)
    found, derivatives = PPOObjective().gradients(log_prob, np.array([3.0, 0.0, 1.0]), np.full(3, 0.7), data, settings)
    np.testing.assert_allclose(derivatives.log_prob, [-2 / 3, 0.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(derivatives.values, [2 / 3, -1 / 3, 0.0], atol=1e-12)
    assert derivatives.entropy is not None
    np.testing.assert_allclose(derivatives.entropy, [-0.1] * 3, atol=1e-12)
    # Policy -(2 + 1.25·2 - 1.5·2) / 3, value (4 + 1 + 0) / 3, entropy -0.7.
    assert found == pytest.approx((-0.5, 5 / 3, -0.7, -0.5 + 0.5 * 5 / 3 - 0.21, 1.0))


def test_without_an_entropy_the_log_probability_has_its_share() -> None:
    """SB3's stand-in for the entropy is log π itself: at ratio 1 the slope is (-Â + c_e) / n, and there is no other."""
    zeros = th.zeros(2, dtype=th.float64)
    data = Transitions(zeros, zeros, th.tensor([1.0, -3.0]).double(), zeros)
    _, derivatives = PPOObjective().gradients(np.zeros(2), np.zeros(2), None, data, make_settings(ent_coef=0.5))
    np.testing.assert_allclose(derivatives.log_prob, [(-1 + 0.5) / 2, (3 + 0.5) / 2])
    assert derivatives.entropy is None


def test_weights_leave_out_the_padding() -> None:
    """Transitions of weight 0 change no loss and have no derivative: the others have what they have without them."""
    log_prob, values, entropy, data = rollout(3, 8)
    settings = make_settings(ent_coef=0.1, clip_range_vf=0.3)
    padded = data._replace(weights=th.tensor([1.0] * 5 + [0.0] * 3).double())
    old_log_prob, old_values, advantages, returns = (column[:5] for column in data[:4])
    short = Transitions(old_log_prob, old_values, advantages, returns)
    for objective in (PPOObjective(), KLPenalty()):
        found, derivatives = objective.gradients(log_prob, values, entropy, padded, settings)
        expected, of_short = objective.gradients(log_prob[:5], values[:5], entropy[:5], short, settings)
        assert found[:4] == pytest.approx(expected[:4], rel=1e-12)
        assert found.weight == pytest.approx(5 / 8)
        for ours, theirs in zip(derivatives, of_short, strict=True):
            assert ours is not None and theirs is not None
            np.testing.assert_allclose(ours, [*theirs, 0.0, 0.0, 0.0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weights", [[1.0, -0.5, 2.0], [0.0, 0.0, 0.0]], ids=["negative", "all 0"])
def test_weights_that_no_mean_can_have_are_refused(weights: list[float]) -> None:
    """A mean with a negative weight is none, and one of nothing is 0/0."""
    log_prob, values, entropy, data = rollout(4, 3)
    data = data._replace(weights=th.tensor(weights).double())
    with pytest.raises(ValueError, match=r"PPOObjective.weights gave .*, expected numbers ≥ 0, not all 0"):
        PPOObjective().gradients(log_prob, values, entropy, data, make_settings())


class Given(PPOObjective):
    """An objective whose derivatives are what a test says."""

    def __init__(self, derivatives: Derivatives) -> None:
        self.derivatives = derivatives

    def gradients(self, *arguments: Any) -> tuple[Losses, Derivatives]:
        """PPO's losses with other derivatives."""
        return Losses(0.0, 0.0, 0.0, 0.0, 1.0), self.derivatives


@pytest.mark.parametrize("name", Derivatives._fields)
@pytest.mark.parametrize("wrong", [None, np.zeros((3, 1)), np.zeros(())], ids=["none", "a column", "a number"])
def test_derivatives_that_would_be_broadcast_are_refused(name: str, wrong: Any) -> None:
    """One number for each transition, by name; only of the entropy there may be none."""
    log_prob, values, entropy, data = rollout(4, 3)
    derivatives = Derivatives(np.ones(3), np.ones(3), np.ones(3))._replace(**{name: wrong})
    given = (Given(derivatives), log_prob, values, entropy, data, make_settings())
    if wrong is None and name == "entropy":
        assert derivatives_of(*given)[1].entropy is None
        return
    with pytest.raises(ValueError, match=rf"Given.gradients gave {name} of shape .*, expected shape \(3,\)"):
        derivatives_of(*given)


def test_a_subclass_that_replaces_a_loss_gets_autograds_derivatives() -> None:
    """The formulas are PPO's: a subclass with another loss has its slopes, unless it says its own, which hold for it alone."""
    log_prob, values, entropy, data = rollout(1, 6)
    settings = make_settings(ent_coef=0.1)
    found, derivatives = DoubledValueLoss().gradients(log_prob, values, entropy, data, settings)
    expected, of_ppo = PPOObjective().gradients(log_prob, values, entropy, data, settings)
    assert found.value == pytest.approx(2 * expected.value) and found.policy == pytest.approx(expected.policy)
    np.testing.assert_allclose(derivatives.values, 2 * of_ppo.values, rtol=1e-12)
    np.testing.assert_allclose(derivatives.log_prob, of_ppo.log_prob, rtol=1e-12, atol=1e-15)
    assert WithFormula().gradients(log_prob, values, entropy, data, settings)[0].total == 0.0
    ratio = np.exp(log_prob - data.old_log_prob.numpy())
    _, of_formula = OfFormula().gradients(log_prob, values, entropy, data, settings)
    np.testing.assert_allclose(of_formula.log_prob, -ratio / 6, rtol=1e-12)


def test_the_total_is_the_weighted_sum() -> None:
    """c_e and c_v weigh the parts, which are reported without their weights."""
    log_prob, values, entropy, data = rollout(2, 5)
    found = PPOObjective()(evaluation_of(log_prob, values, entropy, data), data, make_settings(ent_coef=0.3, vf_coef=0.7))
    assert found.total == pytest.approx(found.policy + 0.3 * found.entropy + 0.7 * found.value)
    assert all(part.shape == () for part in found[:4])
    assert found.weight == 1.0
    assert float(found.entropy) == pytest.approx(-entropy.mean())
    assert math.isfinite(float(found.total))
