"""The course of one ``learn``: its plain case, and a session of one's own that a callback brings."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EveryNTimesteps
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.session import Session, next_session
from tests.rollouts import N_STEPS, largest_difference, make_model, parameters_of


class Noting(Session):
    """Notes what it is called for, and in which order."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def steps_to_do(self, model: OnPolicyAlgorithm, total_timesteps: int, reset_num_timesteps: bool) -> tuple[int, bool]:
        """Note it."""
        self.events.append("steps_to_do")
        return super().steps_to_do(model, total_timesteps, reset_num_timesteps)

    def begin(self, model: OnPolicyAlgorithm, callback: BaseCallback) -> None:
        """Note it."""
        self.events.append("begin")

    def begin_rollout(self, *arguments: Any) -> int:
        """Note it."""
        self.events.append("begin_rollout")
        return super().begin_rollout(*arguments)

    def before_step(self) -> None:
        """Note it."""
        self.events.append("before_step")

    def on_step(self, callback: BaseCallback) -> bool:
        """Note it."""
        self.events.append("on_step")
        return super().on_step(callback)

    def after_step(self) -> None:
        """Note it, with the steps that are done."""
        super().after_step()
        self.events.append(f"after_step {self.rollout_steps}")

    def end(self) -> None:
        """Note it."""
        self.events.append("end")


class Brings(BaseCallback):
    """A callback with a session of its own."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make
        self.given: list[Session] = []

    def make_session(self, before: Session) -> Session:
        """Make it."""
        self.given.append(before)
        made: Session = self.make()
        return made

    def _on_step(self) -> bool:
        return True


def test_a_callback_brings_a_session_of_its_own() -> None:
    """
    ``learn`` asks it at each place, in order, wherever the callback is: before and after each step, around each rollout.

    It trains as it would without, to the bit, and the model has a plain session again afterwards.
    """
    events: list[str] = []
    model = make_model(n_steps=2, batch_size=2, engine="autograd")
    model.learn(4, callback=[EveryNTimesteps(10, Brings(lambda: Noting(events)))])
    rollout = ["begin_rollout", *(e for step in (1, 2) for e in ("before_step", "on_step", f"after_step {step}"))]
    assert events == ["steps_to_do", "begin", *rollout, *rollout, "end"]
    assert type(model.session) is Session and model.session.iteration == 0
    plain = make_model(n_steps=2, batch_size=2, engine="autograd").learn(4)
    assert largest_difference(parameters_of(model), parameters_of(plain)) == 0.0


def test_a_session_may_change_what_is_done() -> None:
    """It says how many steps are to be done, and may end them: what it returns is what counts."""

    class Shorter(Session):
        """Half as long."""

        def steps_to_do(self, model: OnPolicyAlgorithm, total_timesteps: int, reset_num_timesteps: bool) -> tuple[int, bool]:
            """Halve it."""
            return total_timesteps // 2, reset_num_timesteps

    model = make_model()
    model.learn(4 * N_STEPS, callback=Brings(Shorter))
    assert model.num_timesteps == 2 * N_STEPS

    class Stops(Session):
        """Stops at the 7th step."""

        def on_step(self, callback: BaseCallback) -> bool:
            """Ask the callback, and stop."""
            return callback.on_step() and self.rollout_steps < 6

    model = make_model()
    model.learn(4 * N_STEPS, callback=Brings(Stops))
    assert model.num_timesteps == 7


@pytest.mark.parametrize("where", ["before_step", "on_step", "after_step"])
def test_a_session_that_fails_ends_the_training(where: str) -> None:
    """An exception of a session ends ``learn`` at that step; ``end`` is called all the same, and what follows is plain."""
    events: list[str] = []

    class Fails(Noting):
        """Raises at the third step."""

    def fail(self: Fails, *arguments: Any) -> Any:
        if self.rollout_steps == 2:
            raise RuntimeError("enough")
        return getattr(Noting, where)(self, *arguments)

    setattr(Fails, where, fail)
    model = make_model()
    with pytest.raises(RuntimeError, match="enough"):
        model.learn(N_STEPS, callback=Brings(lambda: Fails(events)))
    assert events[-1] == "end" and events.count("end") == 1
    assert model.num_timesteps == (2 if where == "before_step" else 3)
    assert type(model.session) is Session
    model.learn(N_STEPS)
    assert model.num_timesteps == N_STEPS


# -- which session -------------------------------------------------------------------------------------------------------


def test_next_session() -> None:
    """A callback's own comes first and gets the one before; else a prepared one goes on; else there is a fresh plain one."""
    plain, prepared = Session(), Noting([])
    fresh = next_session(plain, None)
    assert type(fresh) is Session and fresh is not plain
    assert next_session(prepared, None) is prepared
    own = Noting([])
    brings = Brings(lambda: own)
    assert next_session(prepared, brings) is own
    assert next_session(prepared, CallbackList([EveryNTimesteps(10, brings)])) is own
    assert next_session(prepared, [brings]) is own
    assert brings.given == [prepared] * 3
    assert type(next_session(plain, lambda local_variables, global_variables: True)) is Session


def test_a_prepared_session_is_taken_once() -> None:
    """What ``resume`` puts into the model is the next ``learn``'s, and no other's."""
    events: list[str] = []
    model = make_model()
    model.session = Noting(events)
    model.learn(N_STEPS)
    assert events[0] == "steps_to_do" and events[-1] == "end"
    events.clear()
    model.learn(N_STEPS)
    assert events == []


# -- the plain session ---------------------------------------------------------------------------------------------------


class Reading(BaseCallback):
    """Reads where training stands."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def _on_step(self) -> bool:
        session = self.model.session  # type: ignore[attr-defined]
        self.seen.append((session.iteration, session.rollout_steps))
        return True


def test_where_training_stands() -> None:
    """At a callback's call the step in hand is not yet stored: rollouts and steps that are done count from 0."""
    reading = Reading()
    make_model(n_steps=3, batch_size=3).learn(6, callback=reading)
    assert reading.seen == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_a_fresh_session() -> None:
    """Nothing is done, one process steps environments, nothing is around the engine."""
    session = make_model().session
    assert (session.iteration, session.rollout_steps, session.truncated_episodes, session.n_processes) == (0, 0, 0, 1)
    assert session.in_rollout is False and session.around_engine is None


def test_steps_of_all_processes_count() -> None:
    """With four processes each step of this one's two environments stands for eight."""

    class OfFour(BaseCallback):
        """One of four."""

        def _on_training_start(self) -> None:
            self.model.session.n_processes = 4  # type: ignore[attr-defined]

        def _on_step(self) -> bool:
            return True

    model = make_model(n_envs=2)
    model.learn(8 * N_STEPS, callback=OfFour())
    assert model.num_timesteps == 8 * N_STEPS
    assert model._n_updates == 1


def test_time_limits_are_counted_for_each_rollout() -> None:
    """Episodes of 5 steps by a limit: 6 of them end in 32 steps, 6 more in the next 32, and 7 in the third."""
    counted: list[int] = []

    class Counting(BaseCallback):
        """Reads the count when a rollout is full."""

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            counted.append(self.model.session.truncated_episodes)  # type: ignore[attr-defined]

    model = make_model(env={"end_probability": 0.0, "time_limit": 5})
    model.learn(3 * N_STEPS, callback=Counting())
    assert counted == [6, 6, 7]


def test_an_interrupted_rollout_goes_on() -> None:
    """With ``in_rollout`` the rollout is not emptied, and goes on at the step that is next, without a start being told."""
    model = make_model()
    started: list[int] = []

    class Starts(BaseCallback):
        """Counts the starts, and stops at a step."""

        def __init__(self, stop_at: int) -> None:
            super().__init__()
            self.stop_at = stop_at

        def _on_rollout_start(self) -> None:
            started.append(self.num_timesteps)

        def _on_step(self) -> bool:
            return self.n_calls != self.stop_at

    model.learn(N_STEPS, callback=Starts(11))
    assert model.num_timesteps == 11 and started == [0]
    buffer = model.rollout_buffer
    kept = buffer.observations[:10].copy()
    assert buffer.pos == 10

    class GoesOn(Session):
        """As after a restart."""

        def begin(self, model: OnPolicyAlgorithm, callback: BaseCallback) -> None:
            """Ten steps are done."""
            self.in_rollout, self.rollout_steps = True, 10

    model.learn(N_STEPS - 10, callback=[Starts(100), Brings(GoesOn)], reset_num_timesteps=False)
    assert buffer.full and started == [0]
    np.testing.assert_array_equal(buffer.swap_and_flatten(kept), buffer.observations[:10])


def test_a_session_is_not_saved(tmp_path: Any) -> None:
    """Where a training stands is no part of a model: a file and a copy have a session of their own."""
    model = make_model()
    model.learn(N_STEPS)
    model.session.iteration = 7
    model.save(tmp_path / "model")
    loaded = EduPPO.load(tmp_path / "model", device="cpu")
    assert loaded.session.iteration == 0 and loaded.session is not model.session


# -- one at a time -----------------------------------------------------------------------------------------------------------


def state_of(model: EduPPO) -> tuple[Any, ...]:
    """What a ``learn`` changes before its first step."""
    return model.num_timesteps, model._total_timesteps, model.session, model.ep_info_buffer, model._last_obs


def test_learn_within_learn_is_refused() -> None:
    """A callback that calls ``learn`` gets an error before anything is touched; its training goes on, and so does the next."""
    model, found = make_model(), []

    def again(local_variables: Any, global_variables: Any) -> bool:
        """Try to train in the middle of a training."""
        before = state_of(model)
        with pytest.raises(RuntimeError, match=r"^learn: found this model in a learn already"):
            model.learn(10**6, callback=Brings(lambda: pytest.fail("a session was made")))
        found.append(state_of(model) == before)
        return True

    model.learn(N_STEPS, callback=again)
    assert found == [True] * N_STEPS
    assert model.learn(N_STEPS).num_timesteps == N_STEPS


def test_learn_in_a_second_thread_is_refused() -> None:
    """Of two threads that train one model one gets an error, and the other trains as it would alone."""
    alone, model = make_model().learn(2 * N_STEPS), make_model()
    errors: list[BaseException] = []

    def second() -> None:
        """Train in the second thread."""
        try:
            model.learn(N_STEPS)
        except RuntimeError as error:
            errors.append(error)

    def start_second(local_variables: Any, global_variables: Any) -> bool:
        """Let the second thread try between two steps of the first."""
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return True

    model.learn(2 * N_STEPS, callback=start_second)
    assert len(errors) == 2 * N_STEPS
    assert largest_difference(parameters_of(model), parameters_of(alone)) == 0


def test_a_failed_learn_leaves_the_model_free() -> None:
    """After an exception of a callback the model trains again, and so does a copy that was made within ``learn``."""
    model, copies = make_model(), []

    def copy_and_fail(local_variables: Any, global_variables: Any) -> bool:
        """Keep a copy, and fail."""
        copies.append(copy.deepcopy(model))
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        model.learn(N_STEPS, callback=copy_and_fail)
    for one in (model, *copies):
        assert one.learn(N_STEPS).num_timesteps == N_STEPS


def test_a_file_saved_within_learn_trains(tmp_path: Any) -> None:
    """That the model was in a ``learn`` when it was saved is not in the file."""
    model = make_model()

    def save(local_variables: Any, global_variables: Any) -> bool:
        """Save the model in the middle of a training."""
        model.save(tmp_path / "model.zip")
        return True

    model.learn(N_STEPS, callback=save)
    for trusted in (True, False):
        loaded = EduPPO.load(tmp_path / "model.zip", make_model().env, trusted=trusted)
        assert loaded.learn(N_STEPS).num_timesteps == N_STEPS
