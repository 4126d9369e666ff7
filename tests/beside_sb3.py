"""SB3's PPO and ours side by side: the same seeds, environments and changes to the policy, and how far apart they end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_edu import EduPPO
from tests.environments import RandomWalk
from tests.policy_changes import Change, Undo

SB3 = "SB3"
N_STEPS = 16
BOX, DISCRETE = "Pendulum-v1", "CartPole-v1"
ENVIRONMENTS = (DISCRETE, BOX, "multidiscrete", "multibinary")
SMALL: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 8, "n_epochs": 1, "seed": 1, "device": "cpu"}
"""Settings of a small training, with a step size at which a step that is not taken shows."""
PER_PROBABILITY = 1e-6
"""An action that hangs on less probability than this may differ between two computations that are both right."""


@functools.cache
def is_accepted(engine: str) -> bool:
    """Tell whether the constructor knows an engine's name."""
    try:
        make: Any = EduPPO
        make("MlpPolicy", DISCRETE, engine=engine, device="cpu", _init_setup_model=False)
    except ValueError as error:
        if not str(error).startswith(f"engine={engine!r}: expected one of"):
            raise
        return False
    return True


def engine_parameters(*names: str) -> list[Any]:
    """Names of engines as pytest's parameters; one that the constructor does not know yet is skipped."""
    return [
        pytest.param(
            name, marks=pytest.mark.skipif(not is_accepted(name), reason=f"the constructor does not know engine={name!r} yet")
        )
        for name in names
    ]


def make_env(name: str) -> gym.Env[Any, Any]:
    """One of Gymnasium's environments, or a random walk with that kind of action."""
    return RandomWalk(action=name) if name in ("multidiscrete", "multibinary") else gym.make(name)


def make(kind: str, env: str | gym.Env[Any, Any] = DISCRETE, **arguments: Any) -> Any:
    """
    A small model.

    :param kind: ``SB3``, or the engine of ours
    :param env: name of an environment, or an environment
    :param arguments: of both constructors, in place of the small ones
    """
    given = {**SMALL, "learning_rate": 1e-3, "ent_coef": 0.01, "policy_kwargs": {"net_arch": [8, 8]}, **arguments}
    made = make_env(env) if isinstance(env, str) else env
    if kind == SB3:
        return PPO("MlpPolicy", made, **given)
    engine: Any = kind
    return EduPPO("MlpPolicy", made, engine=engine, **given)


@dataclass(frozen=True)
class Step:
    """
    One change at one moment of a training.

    :param when: "before" or "between" two calls of ``learn``, or the number of the step after which a callback makes it
    :param change: the change
    """

    when: str | int
    change: Change


@dataclass
class Outcome:
    """
    A model after its training, and what else must be the same.

    :param model: the model
    :param random: the next numbers of torch's and numpy's generators
    :param predictions: actions for some fixed observations
    :param calls: what hooks and patches wrote down
    """

    model: Any
    random: tuple[float, float] = (0.0, 0.0)
    predictions: np.ndarray = field(default_factory=lambda: np.empty(0))
    calls: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: Any) -> Outcome:
        """Take down what there is to compare."""
        observations = np.random.default_rng(0).normal(size=(7, *model.observation_space.shape)).astype(np.float32)
        random = th.rand(()).item(), float(np.random.random())
        predictions = model.predict(observations, deterministic=True)[0]
        return cls(model, random, predictions, list(getattr(model, "calls", [])))


class AtSteps(BaseCallback):
    """A user's callback that changes the policy at some steps."""

    def __init__(self, actions: dict[int, Callable[[Any], None]]) -> None:
        super().__init__()
        self.actions = actions

    def _on_step(self) -> bool:
        if self.n_calls in self.actions:
            self.actions[self.n_calls](self.model)
        return True


def as_function(actions: dict[int, Callable[[Any], None]]) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    """The same as a plain function, as SB3 takes them too."""
    calls = 0

    def at_steps(local: dict[str, Any], _: dict[str, Any]) -> bool:
        nonlocal calls
        calls += 1
        if calls in actions:
            actions[calls](local["self"])
        return True

    return at_steps


def train(
    kind: str, env: str, plan: Sequence[Step] = (), *, function: bool = False, callback: Any = None, **arguments: Any
) -> Outcome:
    """
    Two rollouts and updates, with changes at the moments of a plan.

    With a change between, ``learn`` is called twice for one rollout each, else once for two.

    :param kind: ``SB3``, or the engine of ours
    :param env: name of the environment
    :param plan: the changes, in order
    :param function: whether the callback that makes changes is a plain function
    :param callback: another callback of the user's, for ``learn``
    :param arguments: of the constructor
    """
    model = make(kind, env, **arguments)
    with ExitStack() as undo:

        def apply(steps: Sequence[Step], model: Any) -> None:
            for step in steps:
                back: Undo = step.change.apply(model)
                if back is not None:
                    undo.callback(back)

        during: dict[int, Callable[[Any], None]] = {}
        for when in sorted({step.when for step in plan if isinstance(step.when, int)}):
            during[when] = functools.partial(apply, [step for step in plan if step.when == when])
        callbacks: list[Any] = [] if callback is None else [callback]
        if during:
            callbacks.append(as_function(during) if function else AtSteps(during))
        given = None if not callbacks else callbacks[0] if len(callbacks) == 1 else callbacks
        apply([step for step in plan if step.when == "before"], model)
        between = [step for step in plan if step.when == "between"]
        if between:
            model.learn(model.n_steps, callback=given)
            apply(between, model)
            model.learn(model.n_steps, callback=given, reset_num_timesteps=False)
        else:
            model.learn(2 * model.n_steps, callback=given)
        return Outcome.of(model)


@dataclass
class Rollout:
    """
    A rollout of SB3's, and what SB3's update made of it.

    :param theirs: SB3's outcome
    :param columns: of the rollout buffer, before the update
    :param streams: states of torch's and numpy's generators, before the update
    :param numbers: parameters and buffers of the policy, before the update
    """

    theirs: Outcome
    columns: dict[str, np.ndarray]
    streams: tuple[th.Tensor, Any]
    numbers: dict[str, th.Tensor]


@contextmanager
def changed_after_an_update(kind: str, env: str, changes: Sequence[Change], **arguments: Any) -> Iterator[Any]:
    """A model that has learned for one rollout and was changed then; what reaches beyond it is taken back."""
    with ExitStack() as undo:
        model = make(kind, env, **arguments).learn(arguments.get("n_steps", N_STEPS))
        for change in changes:
            back = change.apply(model)
            if back is not None:
                undo.callback(back)
        yield model


def collect_and_update(env: str, changes: Sequence[Change], **arguments: Any) -> Rollout:
    """Let SB3 learn for one rollout, be changed, collect another one, and update the policy on it."""
    with changed_after_an_update(SB3, env, changes, **arguments) as model:
        _, callback = model._setup_learn(10**6, reset_num_timesteps=False)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        columns = {name: one.copy() for name, one in vars(model.rollout_buffer).items() if isinstance(one, np.ndarray)}
        streams = th.get_rng_state(), np.random.get_state()
        numbers = {name: number.clone() for name, number in model.policy.state_dict().items()}
        model.train()
        return Rollout(Outcome.of(model), columns, streams, numbers)


def update_on(rollout: Rollout, kind: str, env: str, changes: Sequence[Change], **arguments: Any) -> Outcome:
    """Learn for one rollout, be changed, and update the policy on the rollout that SB3 has collected after that."""
    with changed_after_an_update(kind, env, changes, **arguments) as model:
        model._setup_learn(10**6, reset_num_timesteps=False)
        model.rollout_buffer.reset()
        vars(model.rollout_buffer).update({name: column.copy() for name, column in rollout.columns.items()})
        model.rollout_buffer.pos, model.rollout_buffer.full = model.n_steps, True
        # One update is compared: what the one before has rounded otherwise, a spectral norm may make a hundred times larger.
        for name, number in model.policy.state_dict().items():
            number.copy_(rollout.numbers[name])
        th.set_rng_state(rollout.streams[0])
        np.random.set_state(rollout.streams[1])
        model.train()
        # Ours has acted less often: the calls of hooks while acting are no part of the comparison.
        return replace(Outcome.of(model), calls=rollout.theirs.calls)


def assert_same_values(ours: Any, theirs: Any, where: str) -> None:
    """Compare nested states bit by bit; a NaN equals a NaN."""
    if isinstance(theirs, th.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert th.equal(ours.isnan(), theirs.isnan()), where
        assert th.equal(ours.nan_to_num(), theirs.nan_to_num()), f"{where}: {(ours - theirs).abs().max():.1e} apart"
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_same_values(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_values(one, other, f"{where}[{index}]")
    else:
        assert ours == theirs, where


def assert_same_bits(ours: Outcome, theirs: Outcome) -> None:
    """Parameters, buffers, optimizer, predictions, random streams and calls of the user's hooks are the same."""
    assert_same_values(ours.model.policy.state_dict(), theirs.model.policy.state_dict(), "policy")
    mine, other = (one.model.policy.optimizer.state_dict() for one in (ours, theirs))
    assert_same_values(mine["state"], other["state"], "optimizer.state")
    assert_same_values(mine["param_groups"], other["param_groups"], "optimizer.param_groups")
    np.testing.assert_array_equal(ours.predictions, theirs.predictions)
    assert ours.random == theirs.random
    assert ours.calls == theirs.calls


def distance(ours: Outcome, theirs: Outcome) -> float:
    """The largest difference of two numbers of the policies, relative to the larger of 1 and SB3's number."""
    one, other = ours.model.policy.state_dict(), theirs.model.policy.state_dict()
    assert one.keys() == other.keys()
    apart = [((one[name] - other[name]).abs() / other[name].abs().clamp(min=1)).max().item() for name in one]
    return float(np.max(apart))  # NaN if one is


def assert_close(ours: Outcome, theirs: Outcome, tolerance: float) -> None:
    """Parameters and buffers agree to a tolerance; steps, random streams and the hooks' calls are the same."""
    found = distance(ours, theirs)
    assert found <= tolerance, f"{found:.1e} apart; {getattr(ours.model, 'engine_reason', '')}"
    for mine, other in zip(*(optimizer_steps(one.model.policy) for one in (ours, theirs)), strict=True):
        assert mine == other, "the optimizers count other steps, or have other states"
    assert ours.random == theirs.random
    assert ours.calls == theirs.calls


def optimizer_steps(policy: Any) -> list[tuple[list[str], float | None]]:
    """Of each parameter of the optimizer: the names of its states, and its count of steps."""
    optimizer = policy.optimizer
    states = [optimizer.state.get(parameter, {}) for group in optimizer.param_groups for parameter in group["params"]]
    return [(sorted(state), None if "step" not in state else float(state["step"])) for state in states]


@dataclass
class Margins:
    """
    How many of the sampled actions hang on so little probability that rounding may decide.

    :param close: how many
    """

    close: int = 0


@contextmanager
def watching_margins() -> Iterator[Margins]:
    """
    Count discrete actions that would be others if a probability were larger or smaller by ``PER_PROBABILITY``.

    Each is drawn again with the same random numbers; the stream then goes on where it would have.
    """
    margins = Margins()
    categorical, bernoulli = th.distributions.Categorical.sample, th.distributions.Bernoulli.sample

    def watch(probabilities: th.Tensor, draw: Callable[[th.Tensor], th.Tensor], sample: Callable[[], th.Tensor]) -> th.Tensor:
        before = th.get_rng_state()
        actions = sample()
        after = th.get_rng_state()
        with th.no_grad():
            for index in range(probabilities.shape[-1]):
                for by in (-PER_PROBABILITY, PER_PROBABILITY):
                    moved = probabilities.detach().clone()
                    moved[..., index] = (moved[..., index] + by).clamp(0, 1)
                    th.set_rng_state(before)
                    margins.close += not th.equal(draw(moved).flatten(), actions.detach().flatten())
        th.set_rng_state(after)
        return actions

    def sample_categorical(self: Any, sample_shape: Any = th.Size()) -> th.Tensor:  # noqa: B008 (torch's own default)
        one = functools.partial(th.multinomial, num_samples=1, replacement=True)
        return watch(self.probs.reshape(-1, self._num_events), one, lambda: categorical(self, sample_shape))

    def sample_bernoulli(self: Any, sample_shape: Any = th.Size()) -> th.Tensor:  # noqa: B008
        return watch(self.probs, th.bernoulli, lambda: bernoulli(self, sample_shape))

    with (
        mock.patch.object(th.distributions.Categorical, "sample", sample_categorical),
        mock.patch.object(th.distributions.Bernoulli, "sample", sample_bernoulli),
    ):
        yield margins
