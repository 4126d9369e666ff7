"""Engines around engines: they forward all that they do not change, and parts add up to the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.distributed.averaging import AveragingEngine
from sb3_ppo_edu.engines import (
    AccumulatingEngine,
    AutogradEngine,
    Engine,
    EngineName,
    EngineWrapper,
    MinibatchStatistics,
    PolicyInputs,
    UpdateSettings,
    as_array,
    make_engine,
    mean_statistics,
    with_moments,
)
from sb3_ppo_edu.engines.wrappers import MinibatchInParts
from sb3_ppo_edu.functional.objectives import Evaluation, Objective, Transitions
from tests.rollouts import N_STEPS, collect, largest_difference, make_model, parameters_of, record, update_settings

ENGINES: tuple[EngineName, ...] = ("autograd", "numpy", "fused")
every_engine = pytest.mark.parametrize("name", ENGINES)

VERBS = [name for name in vars(Engine) if callable(getattr(Engine, name)) and not name.startswith("_")]
PROPERTIES = [name for name, value in vars(Engine).items() if isinstance(value, property)]


# -- forwarding ----------------------------------------------------------------------------------------------------------


class Spy:
    """Stands in for an engine: it notes what it is asked, and gives an answer of its own to each question."""

    name, policy = "spy", object()

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.answers = {verb: object() for verb in VERBS}

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            self.asked.append((verb, arguments))
            return self.answers[verb]

        return ask


ARGUMENTS: dict[str, int] = {"act": 1, "value": 1, "columns": 1, "minibatches": 2, "gradients": 2, "apply": 1}
"""How many arguments each verb takes; those that are not listed take none."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrapper_forwards_every_verb(verb: str) -> None:
    """Each verb reaches the engine inside with the same arguments, and its answer comes back; attributes are its own."""
    spy: Any = Spy()
    wrapper: Any = EngineWrapper(spy)
    arguments = tuple(object() for _ in range(ARGUMENTS.get(verb, 0)))
    answer = getattr(wrapper, verb)(*arguments)
    assert spy.asked == [(verb, arguments)]
    if verb not in ("attach", "detach"):  # which have no answer
        assert answer is spy.answers[verb]
    for name in PROPERTIES:
        assert getattr(wrapper, name) is getattr(spy, name)


def test_the_seam_is_what_the_design_says() -> None:
    """Eight verbs and two attributes, and no more, so that an engine of one's own is soon written."""
    assert sorted(VERBS) == ["act", "apply", "attach", "columns", "detach", "gradients", "minibatches", "value"]
    assert sorted(PROPERTIES) == ["name", "policy"]


@pytest.mark.parametrize(
    ("wrapper", "writes"),
    [(AccumulatingEngine, {"minibatches", "gradients"}), (AveragingEngine, {"minibatches", "gradients"})],
)
def test_wrappers_write_only_what_they_change(wrapper: type[EngineWrapper[Any]], writes: set[str]) -> None:
    """Accumulation and the averaging over processes have no method by hand that only forwards."""
    assert issubclass(wrapper, EngineWrapper)
    assert {*vars(wrapper)} & {*VERBS, *PROPERTIES} == writes


class HalfSteps(EngineWrapper[Any]):
    """Writes one method: it halves the gradients between ``gradients`` and ``apply``."""

    def gradients(self, minibatch: Any, settings: UpdateSettings) -> MinibatchStatistics:
        """Halve them."""
        statistics = super().gradients(minibatch, settings)
        for parameter in self.policy.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(0.5)
        return statistics


@every_engine
def test_a_wrapper_of_one_method_trains(name: EngineName) -> None:
    """
    Around any engine it steps in between gradients and step, where every ``.grad`` holds the gradient.

    With SGD and no clipping half the gradients are half the learning rate.
    """

    def half(policy: Any) -> Engine[Any]:
        return HalfSteps(make_engine(name, policy)[0])

    found = []
    for engine, learning_rate in ((half, 0.25), (name, 0.125)):
        model = make_model(engine=engine, learning_rate=learning_rate, batch_size=8, n_epochs=2, max_grad_norm=1e9)
        model.learn(2 * N_STEPS)
        found.append(parameters_of(model))
    assert model.attach_engine().name == name
    assert largest_difference(*found) < 1e-6


# -- in parts ------------------------------------------------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize("micro_batch_size", [1, 4, 32])
@pytest.mark.parametrize(
    "arguments",
    [
        {"ent_coef": 0.01, "clip_range_vf": 0.2},
        {"action": "discrete", "advantage_normalization": "batch", "recompute_advantages": True},
        {"action": "discrete", "normalize_advantage": False, "target_kl": 0.01},
        {"n_epochs": 3, "policy_kwargs": {"optimizer_class": th.optim.Adam}},
        {"n_steps": 30, "learning_rate": 0.1},  # 90 transitions: one of 64, and one of 26, whose last part is short
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


class Emphasis(Objective):
    """Weighs transitions by what they returned: parts of a minibatch have weights of very different sums."""

    def weights(self, now: Evaluation, data: Transitions, settings: UpdateSettings) -> th.Tensor:
        """Above 0."""
        return data.returns.exp()


@pytest.mark.parametrize("name", ["autograd", "numpy"])
def test_weighted_parts_add_up_to_the_whole(name: EngineName) -> None:
    """With an objective that weighs its transitions, a part counts by its sum of weights, not by its size."""
    found = []
    for micro_batch_size in (None, 4):
        model = make_model(engine=name, objective=Emphasis(), micro_batch_size=micro_batch_size, learning_rate=0.1, n_epochs=2)
        model.learn(N_STEPS)
        found.append(parameters_of(model))
    assert largest_difference(*found) < 1e-6


def test_parts_see_the_moments_of_the_whole() -> None:
    """Advantages are standardised by the minibatch's mean and deviation (n - 1), computed here by numpy."""
    model = make_model(engine="autograd", n_envs=2, micro_batch_size=8)
    collect(model)
    (minibatch,) = model.attach_engine().minibatches(model.rollout_buffer, 2 * N_STEPS)
    assert isinstance(minibatch, MinibatchInParts)
    assert ([part.size for part in minibatch.parts], minibatch.size) == ([8] * 8, 2 * N_STEPS)
    advantages = np.concatenate([part.advantages.numpy() for part in minibatch.parts]).astype(np.float64)
    np.testing.assert_array_equal(minibatch.advantages, advantages.astype(np.float32))
    settings = with_moments(update_settings(), minibatch)
    assert settings.advantage_moments == pytest.approx((advantages.mean(), advantages.std(ddof=1)), rel=1e-12)
    given = update_settings(advantage_moments=(1.0, 2.0))
    assert with_moments(given, minibatch) is given, "moments that are given stay"
    single = MinibatchInParts([minibatch.parts[0].samples._replace(advantages=th.ones(1))])
    assert with_moments(update_settings(), single).normalize_advantage is False, "one advantage has no deviation"
    pair = MinibatchInParts([minibatch.parts[0].samples._replace(advantages=th.tensor([1.0, 3.0]))])
    assert with_moments(update_settings(), pair).advantage_moments == pytest.approx((2.0, 2.0**0.5)), "two have one"


def test_parts_must_divide_the_minibatch() -> None:
    """A part that does not divide the minibatch would make other minibatches."""
    with pytest.raises(ValueError, match="micro_batch_size=48: expected a divisor of batch_size=64"):
        make_model(batch_size=64, micro_batch_size=48)


@every_engine
def test_ratios_of_all_parts_are_reported(name: EngineName) -> None:
    """The statistics of a minibatch in parts have every transition's ratio, in the order of the parts."""
    ratios = []
    for micro_batch_size in (None, 8):
        model = make_model(engine=name, micro_batch_size=micro_batch_size)
        collect(model)
        with th.no_grad():
            model.policy.action_net.bias.add_(0.3)  # type: ignore[operator]
        np.random.seed(5)
        engine = model.attach_engine()
        (minibatch,) = engine.minibatches(model.rollout_buffer, N_STEPS)
        statistics = engine.gradients(minibatch, update_settings())
        ratios.append(as_array(statistics.ratios))
        assert statistics.ratio_max == pytest.approx(float(ratios[-1].max()), rel=1e-6)
    np.testing.assert_allclose(ratios[1], ratios[0], rtol=1e-5)
    assert float(np.ptp(ratios[0])) > 0.1


def test_mean_statistics_by_hand() -> None:
    """Parts of 1 and 3 transitions: (1·2 + 3·6) / 4 = 5 for each number, the larger ratio of the two, all ratios."""
    parts = [
        MinibatchStatistics(2.0, 2.0, 2.0, 2.0, np.float32(2.0), 2.0, 9.0, 1.0, np.array([9.0])),
        MinibatchStatistics(6.0, 6.0, 6.0, 6.0, np.float32(6.0), 6.0, 3.0, 1.0, th.tensor([1.0, 2.0, 3.0])),
    ]
    found = mean_statistics(parts, [1, 3])
    assert [float(number) for number in found[:6]] == [5.0] * 6
    assert isinstance(found.approx_kl, np.float32)
    assert found.ratio_max == 9.0
    assert as_array(found.ratios).tolist() == [9.0, 1.0, 2.0, 3.0]


# -- around the engine of a model ----------------------------------------------------------------------------------------


class Counting(EngineWrapper[Any]):
    """Counts the minibatches that it hands on."""

    handed_on = 0

    def minibatches(self, rollout_buffer: Any, batch_size: int) -> Iterator[Any]:
        """Count them."""
        for minibatch in super().minibatches(rollout_buffer, batch_size):
            type(self).handed_on += 1
            yield minibatch


def test_what_a_session_puts_around_is_outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    """``session.around_engine`` gets the engine with its parts already inside: whole minibatches pass through it."""
    monkeypatch.setattr(Counting, "handed_on", 0)
    model: EduPPO = make_model(n_epochs=3, batch_size=16, micro_batch_size=4)
    model.session.around_engine = Counting
    engine = model.attach_engine()
    assert isinstance(engine, Counting) and isinstance(engine.engine, AccumulatingEngine)
    assert engine.name == "fused" and engine.policy is model.policy
    collect(model)
    model.train()
    assert Counting.handed_on == 3 * N_STEPS // 16


def test_wrappers_may_be_nested() -> None:
    """A wrapper around a wrapper acts, values and attaches as the engine inside of both."""
    model = make_model()
    inner = AutogradEngine(model.policy)
    outer: EngineWrapper[Any] = EngineWrapper(AccumulatingEngine(inner, 4))
    outer.attach()
    inputs = PolicyInputs(th.randn(3, 5))
    assert th.equal(outer.value(inputs), inner.value(inputs))
    th.manual_seed(0)
    found = outer.act(inputs)
    th.manual_seed(0)
    assert all(th.equal(one, other) for one, other in zip(found, inner.act(inputs), strict=True))
    assert outer.columns(inputs) == {}
