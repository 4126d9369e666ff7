"""What the algorithm knows of callbacks: who is inside whom, who reads, and who may change the policy."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common import callbacks as sb3
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EvalCallback, EveryNTimesteps

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.callbacks import (
    callbacks_of,
    is_harmless,
    may_change_policy,
    reads_every_step,
    tell_training_failed,
)
from sb3_ppo_edu.checkpoint import ExactCheckpoint
from tests.rollouts import N_STEPS, make_env, make_model


class Own(BaseCallback):
    """One of the user's, which may do anything."""

    def _on_step(self) -> bool:
        return True


class Watching(Own):
    """One that says that it only looks on."""

    changes_policy = False


class OwnEval(EvalCallback):
    """A subclass of one of SB3's, which may do anything."""


HARMLESS: dict[str, Any] = {
    "checkpoint": lambda: sb3.CheckpointCallback(10, "."),
    "eval": lambda: EvalCallback(make_env()),
    "every": lambda: EveryNTimesteps(10, sb3.CheckpointCallback(10, ".")),
    "log": lambda: sb3.LogEveryNTimesteps(10),
    "episodes": lambda: sb3.StopTrainingOnMaxEpisodes(10),
    "reward": lambda: EvalCallback(make_env(), callback_on_new_best=sb3.StopTrainingOnRewardThreshold(1.0)),
    "improvement": lambda: EvalCallback(make_env(), callback_after_eval=sb3.StopTrainingOnNoModelImprovement(10)),
    "list": lambda: CallbackList([sb3.CheckpointCallback(10, "."), CallbackList([EvalCallback(make_env())])]),
    "nobody": lambda: CallbackList([]),
    "exact checkpoint": lambda: ExactCheckpoint(10, "."),
    "one that says so": Watching,
    "none": lambda: sb3.ConvertCallback(None),
    "progress bar": lambda: sb3.ProgressBarCallback.__new__(sb3.ProgressBarCallback),  # which needs a package to be built
}
MAY_CHANGE: dict[str, Any] = {
    "own": Own,
    "function": lambda: sb3.ConvertCallback(lambda local_variables, global_variables: True),
    "subclass of SB3's": lambda: OwnEval(make_env()),
    "own in a list": lambda: CallbackList([sb3.StopTrainingOnMaxEpisodes(10), Own()]),
    "own in an event": lambda: EveryNTimesteps(10, Own()),
    "own after an evaluation": lambda: EvalCallback(make_env(), callback_after_eval=Own()),
    "own on a new best": lambda: EvalCallback(make_env(), callback_on_new_best=Own()),
    "own in a list in an event": lambda: EveryNTimesteps(10, CallbackList([Watching(), Own()])),
    "own in one that looks on": lambda: with_attribute(Watching(), "inner", Own()),
}


def with_attribute(callback: BaseCallback, name: str, value: Any) -> BaseCallback:
    """Put something into a callback."""
    setattr(callback, name, value)
    return callback


@pytest.mark.parametrize("name", HARMLESS)
def test_who_leaves_the_policy_alone(name: str) -> None:
    """SB3's own callbacks, by their exact types, and those that say so: the policy need not be looked at after each step."""
    assert not may_change_policy(HARMLESS[name]())


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_who_may_change_the_policy(name: str) -> None:
    """One of the user's own, wherever it is inside, also in one that is harmless itself; a subclass of SB3's is one."""
    assert may_change_policy(MAY_CHANGE[name]())


@pytest.mark.parametrize("method", ["_on_step", "on_step"])
@pytest.mark.parametrize("kind", [lambda: sb3.StopTrainingOnMaxEpisodes(10), Watching])
def test_a_patched_callback_is_no_longer_harmless(kind: Any, method: str) -> None:
    """A method that was replaced on the instance may do anything, whatever the class is or says."""
    callback = kind()
    assert is_harmless(callback)
    setattr(callback, method, lambda: True)
    assert not is_harmless(callback) and may_change_policy(callback)
    assert may_change_policy(CallbackList([callback]))


def test_harmless_are_exactly_sb3s_own() -> None:
    """Every callback that SB3 has is known: a new one of a later version would be looked after, and shows up here."""
    found = {kind for kind in vars(sb3).values() if isinstance(kind, type) and issubclass(kind, BaseCallback)}
    abstract = {BaseCallback, sb3.EventCallback}
    made = {type(make()) for make in HARMLESS.values()} | {sb3.StopTrainingOnRewardThreshold}
    assert found - abstract <= made | {sb3.StopTrainingOnNoModelImprovement}


def test_the_policy_is_looked_at_only_where_it_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks for each rollout and update; with a callback of one's own one more for each of the 32 steps."""
    looks: list[int] = []
    attach_engine = EduPPO.attach_engine

    def counted(model: EduPPO, *arguments: Any, **named: Any) -> Any:
        looks.append(1)
        return attach_engine(model, *arguments, **named)

    monkeypatch.setattr(EduPPO, "attach_engine", counted)
    for callback, expected in ((None, 4), (Watching(), 4), (Own(), 4 + 2 * N_STEPS)):
        looks.clear()
        make_model().learn(2 * N_STEPS, callback=callback)
        assert len(looks) == expected


# -- inside --------------------------------------------------------------------------------------------------------------


def test_callbacks_are_listed_from_the_outermost_inwards() -> None:
    """A callback, those in its attributes and lists, in the order in which they were put together, each after its owner."""
    one, two, three = Own(), Own(), Own()
    event = EveryNTimesteps(10, two)
    whole = CallbackList([one, event, three])
    assert list(callbacks_of(whole)) == [whole, one, event, two, three]


def test_what_belongs_to_the_training_is_not_inside() -> None:
    """Parent, model and local variables, which ``learn`` puts into a callback, are not of it: no circle, no strangers."""
    inner = Own()
    event = EveryNTimesteps(10, inner)
    whole = CallbackList([event])
    whole.init_callback(make_model())
    whole.update_locals({"callback": Own()})
    inner.parent = event
    assert list(callbacks_of(whole)) == [whole, event, inner]


@pytest.mark.parametrize("given", [None, lambda local_variables, global_variables: True, []])
def test_nobody_is_inside_of_what_learn_may_be_given(given: Any) -> None:
    """``learn`` takes None, a function or a list: there are no callbacks in them until SB3 has wrapped them."""
    assert list(callbacks_of(given)) == []


def test_a_list_is_looked_into() -> None:
    """A plain list of callbacks, as ``learn`` is given it."""
    one, two = Own(), Own()
    assert list(callbacks_of([one, [two]])) == [one, two]


def test_callbacks_may_know_each_other() -> None:
    """Two that hold each other train as in SB3, and each is listed once."""
    one, two = Own(), Own()
    with_attribute(one, "other", two)
    with_attribute(two, "other", one)
    whole = CallbackList([one, two])
    assert list(callbacks_of(whole)) == [whole, one, two]
    assert make_model().learn(N_STEPS, callback=[one, two]).num_timesteps == N_STEPS


# -- reading -------------------------------------------------------------------------------------------------------------


class Blind(Own):
    """One that never looks at local variables."""

    reads_every_step = False


def test_who_reads_every_step() -> None:
    """All but none at all, SB3's own that don't and those that say so; a list reads if one in it does."""
    assert reads_every_step(Own())
    assert reads_every_step(sb3.ConvertCallback(lambda local_variables, global_variables: True))
    assert not reads_every_step(sb3.ConvertCallback(None))
    assert not reads_every_step(Blind())
    assert not reads_every_step(CallbackList([Blind(), CallbackList([Blind()])]))
    assert reads_every_step(CallbackList([Blind(), Own()]))
    assert reads_every_step(EveryNTimesteps(10, Own())), "what is inside of others may be read by them"
    assert not reads_every_step(EveryNTimesteps(10, Blind())), "SB3's own look at no step themselves"


# -- failures ------------------------------------------------------------------------------------------------------------


class Told(Own):
    """Wants to know when training fails."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def on_training_failed(self, error: BaseException) -> None:
        """Keep it."""
        self.errors.append(error)


def test_failures_are_told_to_those_that_want_to_know() -> None:
    """Each callback with ``on_training_failed`` hears of the exception, inside of others too; the others are not asked."""
    told, inner, error = Told(), Told(), ValueError("no")
    tell_training_failed(CallbackList([Own(), told, EveryNTimesteps(10, inner)]), error)
    assert told.errors == inner.errors == [error]


class FailsToo(Told):
    """Fails when it is told, with an exception of its own or the one that it is told of."""

    def __init__(self, raises: Any) -> None:
        super().__init__()
        self.raises = raises

    def on_training_failed(self, error: BaseException) -> None:
        """Keep it, and raise."""
        super().on_training_failed(error)
        self.raises(error)


def raise_own(error: BaseException) -> None:
    """Raise an exception of one's own."""
    raise OSError("the disk is full")


def raise_from(error: BaseException) -> None:
    """Raise one that names the first as its cause."""
    raise OSError("the disk is full") from error


def raise_same(error: BaseException) -> None:
    """Raise what it was told of."""
    raise error


@pytest.mark.parametrize("raises", [raise_own, raise_from, raise_same])
def test_a_callback_that_fails_on_failure_hides_nothing(raises: Any) -> None:
    """The training's exception is the one that is raised, every callback is told, and the traceback shows all."""

    def fail(local_variables: Any, global_variables: Any) -> bool:
        """End the training with an exception that has a cause."""
        raise KeyError("first") from ZeroDivisionError("cause")

    told = [FailsToo(raises), FailsToo(raises), Told()]
    with pytest.raises(KeyError, match="first") as raised:
        make_model().learn(N_STEPS, callback=[*told, ConvertCallback(fail)])
    assert [one.errors for one in told] == [[raised.value]] * 3
    shown = "".join(traceback.format_exception(raised.value))
    assert shown.rstrip().endswith("KeyError: 'first'") and "ZeroDivisionError: cause" in shown
    assert ("OSError: the disk is full" in shown) == (raises is not raise_same)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_learn_tells_of_its_end_and_raises(kind: type[BaseException]) -> None:
    """An exception, Ctrl-C too, is told once and leaves ``learn`` as it was; training that ends well tells of none."""
    told = Told()

    class Fails(Own):
        """Raises at the 5th step."""

        def _on_step(self) -> bool:
            if self.n_calls == 5:
                raise kind("enough")
            return True

    make_model().learn(N_STEPS, callback=told)
    assert told.errors == []
    with pytest.raises(kind, match="enough") as raised:
        make_model().learn(N_STEPS, callback=[told, Fails()])
    assert told.errors == [raised.value]


def test_an_evaluation_does_not_cost_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EvalCallback and CheckpointCallback in their usual places are harmless once ``learn`` has set them up, too."""
    seen: list[bool] = []

    class Spying(EduPPO):
        """Looks at the callback that a rollout gets."""

        def collect_rollouts(self, env: Any, callback: Any, *others: Any, **named: Any) -> bool:
            seen.append(may_change_policy(callback))
            return super().collect_rollouts(env, callback, *others, **named)

    evaluation = EvalCallback(
        make_env(),
        eval_freq=16,
        n_eval_episodes=1,
        callback_on_new_best=sb3.StopTrainingOnRewardThreshold(1e9),
        warn=False,
        verbose=0,
    )
    model = make_model()
    model.__class__ = Spying
    model.learn(2 * N_STEPS, callback=[evaluation, sb3.CheckpointCallback(16, str(tmp_path))])
    assert seen == [False, False]
