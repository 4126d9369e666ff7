"""An interrupt, wherever it comes, leaves an optimizer's state of one kind and torch's validation as it was."""

from __future__ import annotations

import copy
import itertools
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest
import torch as th
from torch.distributions import Distribution

from sb3_ppo_edu.engines.autograd import AutogradEngine
from sb3_ppo_edu.engines.flat import FlatBuffer, FlatOptimizer
from sb3_ppo_edu.engines.flat_step import FlatStep
from sb3_ppo_edu.engines.validation import WithoutValidation
from tests.beside_sb3 import DISCRETE, assert_same_values, make

OPTIMIZERS: list[Callable[[Any], th.optim.Optimizer]] = [
    lambda parameters: th.optim.Adam(parameters, lr=0.01),
    lambda parameters: th.optim.SGD(parameters, lr=0.01, momentum=0.9),
]


@contextmanager
def interrupted_at(line: int, functions: set[CodeType]) -> Iterator[list[int]]:
    """Raise ``KeyboardInterrupt`` at the n-th line that is run of some functions; gives a list with the lines until then."""
    seen: list[int] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code not in functions:
            return None
        # Python looks for interrupts after a call, and not between the end of a context and the release of its lock.
        if event == "line" and "with cls._lock" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            seen.append(frame.f_lineno)
            if len(seen) > line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def after_two_steps(make_optimizer: Callable[[Any], th.optim.Optimizer]) -> tuple[Any, AutogradEngine]:
    """A model in the middle of an update: two steps, of which the second was taken on the flat tensor."""
    model = make("autograd", DISCRETE, policy_kwargs={"net_arch": []})
    model.policy.optimizer = make_optimizer(model.policy.parameters())
    _, callback = model._setup_learn(model.n_steps)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    engine = model.attach_engine()
    for minibatch in engine.minibatches(model.rollout_buffer, 8):
        engine.gradients(minibatch, model.update_settings())
        engine.apply(model.update_settings())
    assert engine._flat_step is not None
    return model, engine


def numbers_of(model: Any) -> dict[str, Any]:
    """Parameters, gradients and the optimizer's state."""
    policy = model.policy
    found = {"policy": policy.state_dict(), "optimizer": policy.optimizer.state_dict()["state"]}
    return copy.deepcopy({**found, "gradients": [parameter.grad for parameter in policy.parameters()]})


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS, ids=["Adam", "SGD"])
def test_an_interrupt_while_state_is_given_back(make_optimizer: Any) -> None:
    """At whichever line it comes, the policy's optimizer has all of its state afterwards, and the engine keeps nothing."""
    functions = {
        function.__code__ for function in (AutogradEngine._store, FlatStep.store, FlatOptimizer.store, FlatBuffer.store)
    }
    model, engine = after_two_steps(make_optimizer)
    stale = numbers_of(model)
    engine.detach()
    expected = numbers_of(model)
    with pytest.raises(AssertionError):
        assert_same_values(stale["optimizer"], expected["optimizer"], "optimizer")
    for line in itertools.count():
        model, engine = after_two_steps(make_optimizer)
        with interrupted_at(line, functions) as seen:
            try:
                engine.detach()
            except KeyboardInterrupt:
                pass
            else:
                break
        assert_same_values(numbers_of(model), expected, f"interrupted in line {seen[-1]}: model")
        assert engine._flat_step is None
    assert line > 20, "it was interrupted that often"


@pytest.fixture(autouse=True)
def _validating() -> Iterator[None]:
    """Begin with torch's default, and end with what there was."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    WithoutValidation._inside.clear()
    Distribution.set_default_validate_args(before)


def test_an_interrupt_on_the_way_in_and_out() -> None:
    """At whichever line it comes, validation is restored when the engine gives back what it has."""
    engine = make("autograd", DISCRETE).attach_engine()
    functions = {
        *(WithoutValidation.__enter__.__code__, WithoutValidation.__exit__.__code__),
        vars(WithoutValidation)["leave"].__func__.__code__,
    }
    for line in itertools.count():
        with interrupted_at(line, functions):
            try:
                with WithoutValidation():
                    pass
            except KeyboardInterrupt:
                pass
            else:
                break
        engine.detach()
        assert Distribution._validate_args and not WithoutValidation._inside
        assert not WithoutValidation._lock.locked()
    assert line > 8, "it was interrupted that often"
    assert Distribution._validate_args


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_validates() -> None:
    """A process that is forked while a thread is inside, or holds the lock, has no such thread."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with WithoutValidation():
            WithoutValidation._lock.acquire()
            entered.set()
            leave.wait(10)
            WithoutValidation._lock.release()

    other = threading.Thread(target=stay)
    other.start()
    entered.wait(10)
    child = os.fork()
    if child == 0:
        restored = Distribution._validate_args
        free = WithoutValidation._lock.acquire(blocking=False)
        os._exit(0 if restored and free else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    other.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert Distribution._validate_args
