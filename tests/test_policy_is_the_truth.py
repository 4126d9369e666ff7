"""Whatever is done to the policy, before, between or during ``learn``: the training is SB3's, or says why it can't be."""

from __future__ import annotations

import functools
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
import torch as th
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
)

from tests import hook_changes, optimizer_changes, policy_changes
from tests.beside_sb3 import (
    BOX,
    DISCRETE,
    ENVIRONMENTS,
    N_STEPS,
    SB3,
    Outcome,
    Step,
    assert_close,
    assert_same_bits,
    collect_and_update,
    engine_parameters,
    is_accepted,
    make,
    make_env,
    train,
    update_on,
    watching_margins,
)
from tests.policy_changes import Change

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*truncated mini-batch",
    "ignore:Detected call of `lr_scheduler.step",
    "ignore:The .grad attribute",
    "ignore:Full backward",
)

CATALOGUE: dict[str, Change] = {**policy_changes.CHANGES, **optimizer_changes.CHANGES, **hook_changes.CHANGES}
MOMENTS: tuple[str | int, ...] = ("before", "between", N_STEPS + N_STEPS // 2)
SAME_ROLLOUT, TWO_ROLLOUTS = 1e-5, 1e-4
"""How far from SB3 parameters may be after one update on the same rollout, and after two rollouts with the same draws."""
SAMPLES = int(os.environ.get("POLICY_EXAMPLES", "40"))
SEED = os.environ.get("POLICY_SEED")
ENGINES = [name for name in ("auto", "fused", "numpy") if is_accepted(name)]


def environment_of(change: Change) -> str:
    """An environment on which the change can be made."""
    return BOX if change.box else DISCRETE


@functools.cache
def reference(name: str, when: str | int, env: str | None = None) -> Outcome:
    """SB3's training with a change."""
    change = CATALOGUE[name]
    return train(SB3, env or environment_of(change), [Step(when, change)])


def assert_reason(model: Any, change: Change) -> None:
    """The engine in use is told with a reason; one that computes by hand goes on where only numbers have changed."""
    name, _, why = model.engine_reason.partition(":")
    assert name in ("autograd", "fused", "numpy"), model.engine_reason
    assert why.strip(), "no reason is given"
    if change.served:
        assert name != "autograd", model.engine_reason
    elif name == "autograd":
        assert re.search(change.about, why, re.IGNORECASE), f"{why!r} does not say what has changed: {change.name}"


def trained_or_refused(engine: str, run: Callable[[], Outcome]) -> Outcome | None:
    """Train; None if an engine that was asked for by name says in ``learn`` why it can't."""
    try:
        return run()
    except ValueError as error:
        if engine not in ("fused", "numpy") or not str(error).startswith(f"engine='{engine}': "):
            raise
        return None


# -- the comparison itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_comparison_sees_what_it_should(name: str) -> None:
    """SB3 with a change equals SB3 with the same change to the bit, and differs from SB3 without it, if it is one."""
    change = CATALOGUE[name]
    theirs = reference(name, "between")
    assert_same_bits(train(SB3, environment_of(change), [Step("between", change)]), theirs)
    if not change.neutral:
        with pytest.raises(AssertionError):
            assert_same_bits(reference("nothing", "between", environment_of(change)), theirs)


def test_the_comparison_on_one_rollout_is_fair() -> None:
    """SB3 updated on a copy of SB3's rollout ends with SB3's bits."""
    changes = [CATALOGUE["new_head"]]
    rollout = collect_and_update(DISCRETE, changes)
    assert_same_bits(update_on(rollout, SB3, DISCRETE, changes), rollout.theirs)


def test_margins_are_watched_without_a_trace() -> None:
    """To watch how close an action was changes no random stream; of a hundred actions none hangs on a millionth."""
    for env in ("multibinary", "multidiscrete", DISCRETE):
        plain = train(SB3, env)
        with watching_margins() as margins:
            watched = train(SB3, env)
        assert_same_bits(watched, plain)
        assert margins.close == 0
    with watching_margins() as margins:
        th.manual_seed(0)
        exactly = th.rand(1)  # what the Bernoulli compares its probability with
        th.manual_seed(0)
        th.distributions.Bernoulli(probs=exactly).sample()
    assert margins.close > 0


# -- the catalogue -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_autograd_has_sb3s_bits(name: str, when: str | int) -> None:
    """Two rollouts and updates with a change in them: parameters, optimizer, random streams and calls of hooks are SB3's."""
    change = CATALOGUE[name]
    ours = train("autograd", environment_of(change), [Step(when, change)])
    assert_same_bits(ours, reference(name, when))
    assert ours.model.engine_reason.startswith("autograd")


@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("name", CATALOGUE)
def test_the_default_engine_agrees_or_falls_back(name: str, when: str | int) -> None:
    """The same with the default engine agrees to rounding; where it falls back, the reason names what was changed."""
    change = CATALOGUE[name]
    ours = train("auto", environment_of(change), [Step(when, change)])
    assert_close(ours, reference(name, when), TWO_ROLLOUTS)
    assert_reason(ours.model, change)


@pytest.mark.parametrize("name", CATALOGUE)
def test_one_update_of_the_default_engine(name: str) -> None:
    """One update on SB3's own rollout, after a change, agrees to a hundred-thousandth."""
    change = CATALOGUE[name]
    rollout = collect_and_update(environment_of(change), [change])
    ours = update_on(rollout, "auto", environment_of(change), [change])
    assert_close(ours, rollout.theirs, SAME_ROLLOUT)
    assert_reason(ours.model, change)


@pytest.mark.parametrize("engine", engine_parameters("fused", "numpy"))
@pytest.mark.parametrize("name", CATALOGUE)
def test_an_engine_asked_for_by_name_agrees_or_refuses(name: str, engine: str) -> None:
    """An engine asked for by name trains as SB3 does, or ``learn`` raises with the reason; it is never another one."""
    change = CATALOGUE[name]
    ours = trained_or_refused(engine, lambda: train(engine, environment_of(change), [Step("between", change)]))
    if ours is None:
        assert not change.served, "there is nothing to refuse"
    else:
        assert ours.model.engine_reason.startswith(engine)
        assert_close(ours, reference(name, "between"), TWO_ROLLOUTS)


@pytest.mark.parametrize("engine", engine_parameters("fused", "numpy"))
def test_a_refusal_moves_nothing(engine: str) -> None:
    """Where an engine can't be had, neither parameters nor environment move; after the cause is taken away it trains."""
    model = make(engine, DISCRETE)
    handle = model.policy.action_net.register_forward_hook(lambda module, inputs, output: 2 * output)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=rf"^engine='{engine}': .*hook"):
        model.learn(N_STEPS)
    assert model.num_timesteps == 0
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
    handle.remove()
    model.learn(N_STEPS)
    assert model.engine_reason.startswith(engine)


def test_a_fall_back_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """With ``verbose=1`` the console says why the engine was changed, once a change; without, it says nothing."""
    for verbose in (0, 1):
        model = make("auto", DISCRETE, verbose=verbose).learn(N_STEPS)
        model.policy.action_net.register_forward_hook(lambda module, inputs, output: 2 * output)
        capsys.readouterr()
        model.learn(3 * N_STEPS)
        assert model.engine_reason.startswith("autograd")
        assert capsys.readouterr().out.count(model.engine_reason.rstrip(".")) == verbose


def test_the_fast_engine_comes_back() -> None:
    """An engine that fell back does so for as long as the cause is there."""
    model = make("auto", DISCRETE)
    handle = model.policy.action_net.register_forward_hook(lambda module, inputs, output: 2 * output)
    model.learn(N_STEPS)
    assert model.engine_reason.startswith("autograd")
    handle.remove()
    model.learn(N_STEPS)
    assert not model.engine_reason.startswith("autograd")


# -- callbacks -----------------------------------------------------------------------------------------------------------


class EveryStep(BaseCallback):
    """A user's callback that calls a function of model and step at one of the events."""

    def __init__(self, change: Callable[[Any, int], None], event: str = "step") -> None:
        super().__init__()
        self.change, self.event = change, event

    def _tell(self, event: str) -> None:
        if event == self.event:
            self.change(self.model, self.n_calls)

    def _on_training_start(self) -> None:
        self._tell("training_start")

    def _on_rollout_start(self) -> None:
        self._tell("rollout_start")

    def _on_step(self) -> bool:
        self._tell("step")
        return True

    def _on_rollout_end(self) -> None:
        self._tell("rollout_end")


class OwnCheckpoint(CheckpointCallback):
    """A subclass of one of SB3's callbacks."""

    def _on_step(self) -> bool:
        shrink(self.model, self.n_calls)
        return True


def shrink(model: Any, step: int) -> None:
    """Make the weights smaller, as a moving average with zeros would."""
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(0.99)


def shrink_at_eight(model: Any, step: int) -> None:
    """Do so once, in mid-rollout."""
    if step == N_STEPS // 2:
        shrink(model, step)


def freeze_for_a_while(model: Any, step: int) -> None:
    """Freeze the head in the first rollout's middle, and unfreeze it in the second's."""
    model.policy.action_net.requires_grad_(not N_STEPS // 2 <= step < N_STEPS + N_STEPS // 2)


def new_head_at_eight(model: Any, step: int) -> None:
    """Give the policy a new head in mid-rollout."""
    if step == N_STEPS // 2:
        policy_changes.new_head(model)


def moving_average() -> EveryStep:
    """Replace the weights by a moving average of them, new memory at each step."""
    kept: dict[str, th.Tensor] = {}

    def average(model: Any, step: int) -> None:
        for name, parameter in model.policy.named_parameters():
            kept[name] = 0.9 * kept.get(name, parameter.detach()) + 0.1 * parameter.detach()
            parameter.data = kept[name].clone()

    return EveryStep(average)


def plain_function(local: dict[str, Any], _: dict[str, Any]) -> bool:
    """A callback that is no class."""
    shrink(local["self"], 0)
    return True


def patched_sb3_callback() -> BaseCallback:
    """One of SB3's callbacks with a method patched on the instance."""
    callback: Any = EveryNTimesteps(10**6, CallbackList([]))
    callback._on_step = lambda: plain_function({"self": callback.model}, {})
    return callback  # type: ignore[no-any-return]


CALLBACKS: dict[str, Callable[[], Any]] = {
    "every step": lambda: EveryStep(shrink),
    "in mid-rollout": lambda: EveryStep(shrink_at_eight),
    "moving average": moving_average,
    "freezes and unfreezes": lambda: EveryStep(freeze_for_a_while),
    "new head in mid-rollout": lambda: EveryStep(new_head_at_eight),
    "training start": lambda: EveryStep(shrink, "training_start"),
    "rollout start": lambda: EveryStep(shrink, "rollout_start"),
    "rollout end": lambda: EveryStep(shrink, "rollout_end"),
    "frozen at rollout end": lambda: EveryStep(lambda model, _: model.policy.action_net.requires_grad_(False), "rollout_end"),
    "plain function": lambda: plain_function,
    "list": lambda: [ConvertCallback(plain_function), EveryStep(shrink_at_eight)],
    "list in a list": lambda: CallbackList([CallbackList([EveryStep(shrink)])]),
    "child of EveryNTimesteps": lambda: EveryNTimesteps(5, EveryStep(shrink)),
    "child of EvalCallback": lambda: EvalCallback(
        make_env(DISCRETE), callback_after_eval=EveryStep(shrink), eval_freq=5, n_eval_episodes=1, verbose=0
    ),
    "subclass of SB3's": lambda: OwnCheckpoint(10**6, "nowhere"),
    "patched instance of SB3's": patched_sb3_callback,
}


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped", "ignore:Training and eval env are not")
def test_a_callback_changes_the_policy(name: str) -> None:
    """A user's callback of any kind changes the policy, and the next action is the changed policy's."""
    theirs = train(SB3, DISCRETE, callback=CALLBACKS[name]())
    with pytest.raises(AssertionError):
        assert_same_bits(train(SB3, DISCRETE), theirs)
    assert_same_bits(train("autograd", DISCRETE, callback=CALLBACKS[name]()), theirs)
    assert_close(train("auto", DISCRETE, callback=CALLBACKS[name]()), theirs, TWO_ROLLOUTS)


# -- the property --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """
    A small training with changes.

    :param env: name of the environment
    :param plan: moments and names of changes, in order
    :param engine: what is compared beside autograd
    :param function: whether the callback is a plain function
    :param arguments: of the constructors
    """

    env: str
    plan: tuple[tuple[str | int, str], ...]
    engine: str
    function: bool
    arguments: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        """The plan with the changes themselves."""
        return [Step(when, CATALOGUE[name]) for when, name in self.plan]


@st.composite
def examples(draw: st.DrawFn, engines: Sequence[str]) -> Example:
    """Draw an environment, small networks and settings, and one to three changes that can be made there."""
    env = draw(st.sampled_from(ENVIRONMENTS))
    n_steps = draw(st.sampled_from([16, 32]))
    names = [name for name, change in CATALOGUE.items() if env == BOX or not change.box]
    moment = st.one_of(st.sampled_from(["before", "between"]), st.integers(1, 2 * n_steps))
    one = st.lists(st.tuples(moment, st.sampled_from(names)), min_size=1, max_size=1)
    together = [name for name in names if not CATALOGUE[name].alone]
    several = st.lists(st.tuples(moment, st.sampled_from(together)), min_size=2, max_size=3)
    arguments = {
        "n_steps": n_steps,
        "batch_size": draw(st.sampled_from([8, 12, 16])),
        "n_epochs": draw(st.sampled_from([1, 2])),
        "seed": draw(st.integers(0, 2**16)),
        "policy_kwargs": {
            "net_arch": draw(st.sampled_from([[8], [8, 8], {"pi": [8], "vf": [6, 6]}])),
            "activation_fn": draw(st.sampled_from([th.nn.Tanh, th.nn.ReLU])),
        },
    }
    plan = tuple(draw(st.one_of(one, several)))
    return Example(env, plan, draw(st.sampled_from(engines)), draw(st.booleans()), arguments)


def compare(example: Example, exact: str, counts: Counter[str]) -> None:
    """Train an example with SB3 and with ours; reject it where SB3 itself fails or may act otherwise by rounding."""
    plan, arguments = example.steps(), example.arguments
    ordered = [step.change for step in plan]

    def run(kind: str) -> Outcome:
        return train(kind, example.env, plan, function=example.function, **arguments)

    try:
        with watching_margins() as margins:
            theirs = run(SB3)
        rollout = collect_and_update(example.env, ordered, **arguments)
    except Exception as error:  # whatever SB3 does not take, such as a graph that torch can't copy
        counts[f"not for SB3 ({type(error).__name__})"] += 1
        hypothesis.reject()
    if margins.close:
        counts["hangs on less than 1e-6 of probability"] += 1
        hypothesis.reject()

    assert_same_bits(run(exact), theirs)
    ours = trained_or_refused(example.engine, lambda: run(example.engine))
    if ours is not None:
        assert_close(ours, theirs, TWO_ROLLOUTS)
        if example.engine != SB3:
            assert re.match(r"(autograd|fused|numpy): \S", ours.model.engine_reason)
    other = trained_or_refused(example.engine, lambda: update_on(rollout, example.engine, example.env, ordered, **arguments))
    if other is not None:
        assert_close(other, rollout.theirs, SAME_ROLLOUT)
    counts["refused with a reason" if ours is None else "compared"] += 1


def search(n_examples: int, seed: int, exact: str, engines: Sequence[str], phases: tuple[Phase, ...]) -> None:
    """Compare as many examples, and print the seed and what became of those that were drawn."""
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n_examples,
        derandomize=False,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(examples(engines))
    def holds(example: Example) -> None:
        compare(example, exact, counts)

    try:
        holds()
    finally:
        print(f"POLICY_SEED={seed}: {', '.join(f'{number} {what}' for what, number in counts.most_common())}")
    assert counts["compared"] + counts["refused with a reason"] >= n_examples


def test_any_changes_at_any_time() -> None:
    """Whatever is done, whenever it is: autograd has SB3's bits, other engines agree or refuse (the seed: ``POLICY_SEED``)."""
    search(SAMPLES, int(SEED or 16), "autograd", ENGINES, (Phase.generate,))


@pytest.mark.slow
def test_any_changes_at_any_time_500_times() -> None:
    """The same with 500 examples and a seed that is drawn and printed."""
    search(500, int(SEED or random.SystemRandom().randrange(2**31)), "autograd", ENGINES, (Phase.generate, Phase.shrink))


def test_the_search_is_fair() -> None:
    """SB3 in the place of all engines passes."""
    search(4, int(SEED or 16), SB3, [SB3], (Phase.generate,))
