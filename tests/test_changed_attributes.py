"""Arguments are attributes, which users set between two trainings: ``learn`` checks them as the constructor does."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO, MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO, Reinforce
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.algorithms.checks import adaptive_rate
from sb3_ppo_edu.functional.kl import KLAdaptiveLearningRate
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk
from tests.rollouts import N_STEPS, largest_difference, make_env, make_model, parameters_of

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n_epochs": 0}, "n_epochs=0: expected an integer ≥ 1"),
    ({"n_epochs": 1.5}, "n_epochs=1.5: expected an integer"),
    ({"gamma": 2}, "gamma=2: expected a finite number ≥ 0 and ≤ 1"),
    ({"gae_lambda": math.nan}, "gae_lambda=nan: expected a finite number"),
    ({"clip_range": "x"}, "clip_range='x': expected a number, a schedule"),
    ({"clip_range": None}, "clip_range=None: expected a finite number > 0"),
    ({"clip_range": lambda _: -0.1}, "clip_range(1.0)=-0.1: expected a finite number > 0"),
    ({"clip_range_vf": 0.0}, "clip_range_vf=0.0: expected a finite number > 0"),
    ({"target_kl": -1}, "target_kl=-1: expected a finite number > 0: None switches the limit off"),
    ({"batch_size": 1}, "batch_size=1: expected an integer ≥ 2"),
    ({"ent_coef": "much"}, "ent_coef='much': expected a number"),
    ({"vf_coef": -0.5}, "vf_coef=-0.5: expected a finite number ≥ 0"),
    ({"max_grad_norm": 0}, "max_grad_norm=0: expected a finite number > 0"),
    ({"sde_sample_freq": "often"}, "sde_sample_freq='often': expected an integer"),
    ({"vf_clip_mode": "foo"}, "vf_clip_mode='foo': expected one of 'sb3', 'max'"),
    ({"vf_clip_mode": "max"}, "vf_clip_mode='max': expected with a clip_range_vf"),
    ({"kl_estimator": "k2"}, "kl_estimator='k2': expected one of"),
    ({"normalize_advantage": "yes"}, "normalize_advantage='yes': expected True or False"),
    ({"micro_batch_size": 5}, "micro_batch_size=5: expected a divisor of batch_size=32"),
    ({"dual_clip": 1.0}, "dual_clip=1.0: expected a finite number > 1"),
    ({"engine": "turbo"}, "engine='turbo': expected one of"),
    ({"engine_kwargs": ["bf16"]}, "engine_kwargs=['bf16']: expected None or a dict"),
    ({"objective": 3}, "objective=3: expected None, an objective"),
    ({"n_steps": 16}, "n_steps=16: expected 32, which the model was built with: save it and load it with another"),
    ({"use_sde": True}, "use_sde=True: expected False, which the model was built with: construct a new one"),
    ({"action_distribution": "beta"}, "action_distribution='beta': expected gaussian, which the model was built with"),
    ({"lr_schedule": 1e-2}, "lr_schedule=0.01: expected a function of the remaining progress"),
    ({"lr_schedule": None}, "lr_schedule=None: expected a function of the remaining progress"),
    ({"env": 3}, "env=3: expected a vector environment of SB3's: call set_env(env), found a int without num_envs"),
    ({"env": gym.make("CartPole-v1")}, "env=<TimeLimit<"),
    ({"policy": "MlpPolicy"}, "policy='MlpPolicy': expected an ActorCriticPolicy: construct the model with policy="),
    ({"policy": None}, "policy=None: expected an ActorCriticPolicy"),
    ({"rollout_buffer": None}, "rollout_buffer=None: expected a rollout buffer"),
    ({"rollout_buffer": 3}, "rollout_buffer=3: expected a rollout buffer"),
    ({"device": "cuda:x"}, "device='cuda:x': expected a device of torch's, such as 'cpu'"),
    ({"device": None}, "device=None: expected a device of torch's, such as 'cpu'"),
    ({"verbose": "loud"}, "verbose='loud': expected 0, 1 or 2"),
    ({"verbose": None, "tensorboard_log": "folder"}, "verbose=None: expected 0, 1 or 2"),
    ({"log_std_bounds": (1, -1)}, "log_std_bounds=(1, -1): expected a pair (low, high) with low < high"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda value: "+".join(value) if isinstance(value, dict) else "")
def test_learn_refuses_what_the_constructor_refuses(changes: dict[str, Any], message: str) -> None:
    """By name and before a step; with the attributes as they were the model trains."""
    model = make_model()
    before, weights = {name: getattr(model, name) for name in changes}, parameters_of(model)
    for name, value in changes.items():
        setattr(model, name, value)
    with pytest.raises(ArgumentError) as error:
        model.learn(N_STEPS)
    assert str(error.value).startswith(message)
    for name, value in before.items():
        setattr(model, name, value)
    assert model.num_timesteps == 0 and largest_difference(weights, parameters_of(model)) == 0
    assert model.learn(N_STEPS).num_timesteps == N_STEPS


@pytest.mark.parametrize("total_timesteps", ["a", None, math.nan])
def test_learn_takes_a_number(total_timesteps: Any) -> None:
    """Of steps; whole ones may be floats."""
    with pytest.raises(ArgumentError, match=f"total_timesteps={total_timesteps!r}: expected a number of environment steps"):
        make_model().learn(total_timesteps)
    assert make_model().learn(np.float32(N_STEPS)).num_timesteps == N_STEPS


def test_an_update_has_epochs() -> None:
    """Also where a callback has taken them away in the middle of a rollout."""
    model = make_model()
    with pytest.raises(ArgumentError, match="n_epochs=0: expected an integer ≥ 1"):
        model.learn(N_STEPS, callback=lambda *_: vars(model).__setitem__("n_epochs", 0) is None)  # type: ignore[func-returns-value]


@pytest.mark.parametrize("algorithm", [MaskableEduPPO, RecurrentEduPPO, MaskableRecurrentEduPPO])
def test_buffers_store_what_the_policy_takes(algorithm: Any) -> None:
    """A buffer without a place for masks or states is refused; a memory's is not to be exchanged."""
    env = DummyVecEnv([MaskedWalk if "Maskable" in algorithm.__name__ else RandomWalk])
    model = algorithm(next(iter(algorithm.policy_aliases)), env, n_steps=N_STEPS, batch_size=N_STEPS)
    advice = "construct the model with" if algorithm is MaskableEduPPO else "that the model was built with"
    for wrong in (RolloutBuffer(N_STEPS, model.observation_space, model.action_space, "cpu"), None):
        model.rollout_buffer = wrong
        with pytest.raises(ArgumentError, match=f"rollout_buffer=.*: expected .*rollout buffer.*{advice}.*without .*"):
            model.learn(N_STEPS)


class OwnBuffer(RolloutBuffer):
    """A rollout buffer of a user's own, whose order is not known."""


def test_learn_refuses_what_does_not_fit_policy_or_buffer() -> None:
    """Bounds of a log_std that there is not, and advantages that can't be estimated anew."""
    discrete = make_model(action="discrete")
    discrete.log_std_bounds = (-1.0, 1.0)
    with pytest.raises(ArgumentError, match="expected a policy with a log_std"):
        discrete.learn(N_STEPS)
    other = make_model()
    other.env = make_env(n_envs=2)
    with pytest.raises(ArgumentError, match=r"^n_envs=2: expected 1, which the model was built with"):
        other.learn(N_STEPS)
    own = make_model(rollout_buffer_class=OwnBuffer)
    own.recompute_advantages = True
    with pytest.raises(ArgumentError, match="recompute_advantages=True with rollout_buffer_class=OwnBuffer"):
        own.learn(N_STEPS)


def settings(model: EduPPO) -> tuple[float, ...]:
    """What the model's next update would be done with."""
    now = model.update_settings()
    return now.clip_range, now.clip_range_vf or 0.0, now.ent_coef, now.vf_coef, now.max_grad_norm


LEGITIMATE: list[tuple[str, Any, Any]] = [
    ("n_epochs", 3, 3),
    ("n_epochs", np.int64(3), 3),
    ("gamma", np.float32(0.5), 0.5),
    ("target_kl", 0.02, 0.02),
    ("batch_size", 16, 16),
    ("log_std_bounds", [-2, 2], (-2.0, 2.0)),
    ("engine", "autograd", "autograd"),
    ("engine_kwargs", None, {}),
]


@pytest.mark.parametrize(("name", "value", "expected"), LEGITIMATE)
def test_what_users_set_is_taken(name: str, value: Any, expected: Any) -> None:
    """A legal value is taken, as the plain value that the constructor would make of it."""
    model = make_model()
    setattr(model, name, value)
    model.learn(N_STEPS)
    found = getattr(model, name)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "value", [0.1, np.float32(0.1), "lin_0.1", lambda _: 0.1, FloatSchedule(0.1), LinearSchedule(0.1, 0, 1)]
)
def test_schedules_are_set_in_all_their_forms(value: Any) -> None:
    """The clip range as number, line, function or SB3's schedule: half-way it is 0.1, or half of it where it is a line."""
    model = make_model()
    model.clip_range = value
    model.learn(N_STEPS)
    model._current_progress_remaining = 0.5
    assert settings(model)[0] == pytest.approx(0.05 if isinstance(value, (str, LinearSchedule)) else 0.1)


@pytest.mark.parametrize("name", ["learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef"])
@pytest.mark.parametrize("when", ["between trainings", "in a training"])
def test_a_text_that_is_set_later_is_read_as_the_constructor_reads_it(name: str, when: str) -> None:
    """A line from 0.1 to 0 is 0.05 half-way, also where a callback has set it; what is no schedule is refused by name."""

    def half_way(model: Any) -> float:
        """Train half of two rollouts, and give the value that its update had."""
        seen: list[float] = []

        def watch(local_variables: Any, _: Any) -> bool:
            """Set the text in the first rollout; in the second look at what the first update had."""
            if when == "in a training" and model.num_timesteps == 1:
                setattr(model, name, "lin_0.1")
            seen.append(model.policy.optimizer.param_groups[0]["lr"] if name == "learning_rate" else 0.0)
            return True

        model.learn(2 * N_STEPS, callback=watch)
        model._current_progress_remaining = 0.5
        return seen[-1] if name == "learning_rate" else getattr(model.update_settings(), name)

    model = make_model()
    if when == "between trainings":
        setattr(model, name, "lin_0.1")
    assert half_way(model) == pytest.approx(0.05)
    setattr(model, name, "line_0.1")
    with pytest.raises(ArgumentError, match=f"^{name}='line_0.1': expected a number, a schedule.*did you mean 'lin_0.1'"):
        model.learn(N_STEPS)


RATES: list[Any] = [0.125, np.float32(0.125), 1, "kl_1000_0.125_0.1_1", lambda _: 0.125, FloatSchedule(0.125)]
RATES += [KLAdaptiveLearningRate(1000, 0.125, high=1.0)]


def in_optimizer(model: Any) -> float:
    """The rate of the last update."""
    return float(model.policy.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("before", [3e-4, "kl_1000"])
@pytest.mark.parametrize("value", RATES, ids=lambda value: type(value).__name__)
def test_a_learning_rate_of_every_kind_that_is_set_later_takes_effect(value: Any, before: Any) -> None:
    """Between trainings and in one, with nothing left of the one before: only what follows the KL measures it."""
    expected, follows = float(value) if value == 1 else 0.125, isinstance(value, (str, KLAdaptiveLearningRate))
    for when in ("between", "within"):
        model: Any = make_model(learning_rate=before)
        model.learn(N_STEPS)
        if when == "between":
            model.learning_rate = value
            model.learn(N_STEPS)
        else:
            model.learn(N_STEPS, callback=lambda *_, model=model: model.__dict__.update(learning_rate=value) is None)
        assert in_optimizer(model) == expected
        assert (adaptive_rate(model.lr_schedule) is not None) == follows
        assert model.learning_rate is not value or not follows, "what follows the KL is copied"
        assert model.learn(N_STEPS).lr_schedule(0.5) == pytest.approx(0.125 * 1.5**2 if follows else expected)


def test_a_schedule_that_is_set_has_precedence_over_the_rate() -> None:
    """SB3's idioms: set beside the rate it holds, and goes on until a rate is set after it; or made anew."""
    model: Any = make_model()
    model.learning_rate, model.lr_schedule = np.float32(0.5), lambda _: 0.125
    assert [in_optimizer(model.learn(N_STEPS)) for _ in range(2)] == [0.125] * 2
    model.learning_rate = 0.25
    assert [in_optimizer(model.learn(N_STEPS)) for _ in range(2)] == [0.25] * 2
    for value, expected in ((0.5, 0.5), ("cos_0.25_0.25", 0.25)):
        model.learning_rate = value
        model._setup_lr_schedule()
        assert in_optimizer(model.learn(N_STEPS)) == expected


def test_a_rate_that_is_set_goes_with_files_and_copies(tmp_path: Path) -> None:
    """Set before the model is saved, loaded, copied or pickled, it takes effect there; what ``load`` is given comes before."""
    model: Any = make_model()
    model.learning_rate = 0.125
    model.save(tmp_path / "model")
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), EduPPO.load(tmp_path / "model", make_env())]
    loaded: Any = EduPPO.load(tmp_path / "model", make_env(), learning_rate=0.5)
    assert in_optimizer(loaded.learn(N_STEPS)) == 0.5
    copies += [pickle.loads(pickle.dumps(one)) for one in copies]
    for one in copies:
        one.set_env(make_env())
        assert in_optimizer(one.learn(N_STEPS)) == 0.125
        schedule = one.lr_schedule
        assert one.learn(N_STEPS).lr_schedule is schedule, "read once"


def test_other_attributes_are_left_alone() -> None:
    """SB3's schedule of the learning rate rules, and an algorithm's own attributes stay."""
    model = make_model()
    model.lr_schedule = lambda _: 0.125
    model.learn(N_STEPS)
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.125
    reinforce = Reinforce("MlpPolicy", make_env(n_envs=2), n_steps=N_STEPS, device="cpu")
    assert reinforce.learn(2 * N_STEPS).batch_size == 2 * N_STEPS


ACCEPTED: list[tuple[str, Any, dict[str, Any]]] = [
    ("device", "cpu", {}),
    ("verbose", None, {"target_kl": 1e-7}),
    ("verbose", True, {}),
    ("use_sde", False, {"use_sde": True}),
]


@pytest.mark.parametrize("engine", ["autograd", "auto"])
@pytest.mark.parametrize(("name", "value", "arguments"), ACCEPTED)
def test_what_sb3_trains_with_is_accepted(name: str, value: Any, arguments: dict[str, Any], engine: str) -> None:
    """Set later, where SB3's constructor would not have it either; autograd ends with SB3's bits."""
    ends = []
    kinds: list[tuple[Any, dict[str, Any]]] = [(PPO, {}), (EduPPO, {"engine": engine})]
    for kind, ours in kinds:
        model = kind("MlpPolicy", "Pendulum-v1", n_steps=32, batch_size=32, seed=3, device="cpu", **arguments, **ours)
        setattr(model, name, value)
        if kind is PPO and name == "verbose":
            model.verbose = 0  # with None, SB3 fails where it says that the KL limit has ended an update
        ends.append(parameters_of(model.learn(64)))
    assert largest_difference(*ends) <= (0 if engine == "autograd" else 1e-4)


# -- schedules that go wrong later -------------------------------------------------------------------------------------------

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "ent_coef", "vf_coef")
NO_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, None, "0.1.2", [0.1], 1j]


def later(value: Any) -> Any:
    """A schedule that is 0.1 in the first half of a training, and the value in the second."""
    return lambda progress: 0.1 if progress > 0.5 else value


def arguments(name: str, value: Any) -> dict[str, Any]:
    """The argument of that name."""
    return {name: value}


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_goes_wrong_ends_training_before_a_step(name: str, engine: Any) -> None:
    """With the argument's name, progress and steps; the policy is as the last good update left it."""
    for value in [*NO_NUMBERS, *([] if name == "ent_coef" else [-0.1])]:
        model = make_model(engine=engine, **arguments(name, later(value)))
        with pytest.raises(ArgumentError) as error:
            model.learn(4 * N_STEPS)
        assert str(error.value).startswith(f"{name}(0.5)"), value
        assert "expected a " in str(error.value) and f"after {2 * N_STEPS} steps" in str(error.value), value
        good = make_model(engine=engine, **arguments(name, 0.1)).learn(N_STEPS)
        assert largest_difference(parameters_of(model), parameters_of(good)) == 0, value


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("schedule", [lambda: 3, lambda a, b: 3, lambda _: "fast", lambda _: None])
def test_a_schedule_that_is_none_is_refused_by_its_argument(name: str, schedule: Any) -> None:
    """A wrong signature, and text or nothing in place of a number, are named where the model is constructed."""
    with pytest.raises(ArgumentError, match=rf"^{name}\(1\.0\).*: expected a|^{name}\(1\.0\): found TypeError: .*expected a"):
        make_model(**arguments(name, schedule))


def test_a_number_that_a_callback_sets_is_checked_too() -> None:
    """A callback that anneals the entropy coefficient into NaN gets its name, before a step."""
    model = make_model()
    weights = parameters_of(model)

    def anneal(local_variables: Any, global_variables: Any) -> bool:
        """Set it to NaN."""
        model.ent_coef = math.nan
        return True

    with pytest.raises(ArgumentError, match=rf"^ent_coef=nan: expected a finite number \(after {N_STEPS} steps"):
        model.learn(N_STEPS, callback=anneal)
    assert largest_difference(weights, parameters_of(model)) == 0


def test_a_line_is_followed_beyond_the_end() -> None:
    """The last rollout may go beyond the end, where a falling line is negative: that is SB3's training, to the bit."""
    ends = []
    for algorithm in (PPO, EduPPO):
        engine: dict[str, Any] = {"engine": "autograd"} if algorithm is EduPPO else {}
        line: dict[str, Any] = {
            name: lambda progress: 0.1 * progress for name in ("learning_rate", "clip_range", "clip_range_vf")
        }
        model = algorithm("MlpPolicy", make_env(), n_steps=N_STEPS, batch_size=N_STEPS, seed=3, device="cpu", **line, **engine)
        model.learn(2 * N_STEPS - 1)
        assert model._current_progress_remaining < 0
        ends.append({name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()})
    assert largest_difference(*ends) == 0


@pytest.mark.parametrize("name", ["clip_range", "clip_range_vf"])
def test_a_line_may_end_at_0(name: str) -> None:
    """The string "lin_0.2" is exactly 0 where rollouts divide the training: the last update is done with it."""
    model = make_model(**arguments(name, "lin_0.2"))
    model.learn(2 * N_STEPS)
    assert model.logger.name_to_value[f"train/{name}"] == 0.0
    assert getattr(model.update_settings(), name) == 0.0


class Counting:
    """A schedule that remembers when it was asked."""

    def __init__(self, number: float) -> None:
        self.number, self.asked = number, list[float]()

    def __call__(self, progress: float) -> float:
        """Remember."""
        self.asked.append(progress)
        return self.number


def counting_function(schedule: Counting) -> Any:
    """The same as a function, which no copy can keep from counting."""
    return lambda progress: schedule(progress)


@pytest.mark.parametrize("engine", ["autograd", "auto"])
@pytest.mark.parametrize("form", [lambda schedule: schedule, counting_function])
def test_schedules_are_asked_as_often_as_sb3_asks_them(form: Any, engine: str) -> None:
    """One that counts its calls, or draws, gives SB3's numbers: in the constructor, at the start and in updates."""
    asked = []
    kinds: list[tuple[Any, dict[str, Any]]] = [(PPO, {}), (EduPPO, {"engine": engine})]
    for kind, arguments in kinds:
        counting = {name: Counting(0.1) for name in ("learning_rate", "clip_range", "clip_range_vf")}
        schedules = {name: form(schedule) for name, schedule in counting.items()}
        model = kind("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", **schedules, **arguments)
        model.learn(128).learn(64)
        asked.append({name: schedule.asked for name, schedule in counting.items()})
    assert asked[0] == asked[1]


def test_the_learning_rate_that_a_policy_is_built_with_is_checked() -> None:
    """SB3 asks the schedule there, so that one that remembers its calls is refused by name too."""
    for number in (None, math.nan, -1.0):
        with pytest.raises(ArgumentError, match=r"^learning_rate\(1\).*expected a"):
            make_model(learning_rate=Counting(number))  # type: ignore[arg-type]


def test_a_wrong_learning_rate_leaves_every_group_as_it_was() -> None:
    """An optimizer may have several groups of parameters."""
    model = make_model(learning_rate=later(math.nan))
    optimizer = model.policy.optimizer
    first = optimizer.param_groups[0]
    optimizer.add_param_group({"params": [first["params"].pop()], "lr": 0.1})
    with pytest.raises(ArgumentError, match=r"^learning_rate\(0\.5\)=nan"):
        model.learn(4 * N_STEPS)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_the_kl_limit_leaves_gradients_and_hooks_as_sb3_does() -> None:
    """The minibatch at which the limit ends an update has no backward pass: hooks are not called for it."""
    found = []
    kinds: list[tuple[Any, dict[str, Any]]] = [(PPO, {}), (EduPPO, {"engine": "autograd"})]
    for kind, arguments in kinds:
        model = kind("MlpPolicy", "CartPole-v1", n_steps=128, device="cpu", seed=1, target_kl=0.002, **arguments)
        calls = list[int]()
        model.policy.action_net.bias.register_hook(lambda gradient, calls=calls: calls.append(1))
        model.learn(256)
        found.append((len(calls), [parameter.grad for parameter in model.policy.parameters()]))
    (their_calls, theirs), (our_calls, ours) = found
    assert their_calls == our_calls
    assert all(th.equal(one, other) for one, other in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("engine", ["autograd", "numpy", "fused"])
@pytest.mark.parametrize("number", [float("nan"), -1.0, "x"])
def test_a_gradient_norm_set_by_a_callback_is_checked(engine: Any, number: Any) -> None:
    """What no gradient can be scaled to ends training before a parameter moves, by its name."""
    model = EduPPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", engine=engine)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]

    def spoil(local: dict[str, Any], _: dict[str, Any]) -> bool:
        model.max_grad_norm = number
        return True

    with pytest.raises(ValueError, match="max_grad_norm="):
        model.learn(64, callback=spoil)
    assert all(th.equal(one, other) for one, other in zip(before, model.policy.parameters(), strict=True))


def test_iteration_is_there_when_training_starts() -> None:
    """Callbacks find it among the local variables, as in SB3's PPO."""
    seen = []

    class Look(BaseCallback):
        """Looks when training starts."""

        def _on_training_start(self) -> None:
            """Look."""
            seen.append(self.locals["iteration"])

        def _on_step(self) -> bool:
            """Go on."""
            return True

    for kind in (PPO, EduPPO):
        kind("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu").learn(64, callback=Look())
    assert seen == [0, 0]


@pytest.mark.parametrize(
    ("observation", "action", "expected"),
    [
        (None, gym.spaces.Discrete(3, start=5), r"action_space=Discrete\(3, start=5\).*TransformAction.*value \+ 5"),
        (None, gym.spaces.MultiDiscrete([2, 3], start=[0, 2]), r"action_space=.*expected a start of 0.*TransformAction"),
        (
            gym.spaces.Discrete(3, start=-1),
            None,
            r"observation_space=Discrete\(3, start=-1\).*TransformObservation.*value - -1",
        ),
        (gym.spaces.Dict(a=gym.spaces.Discrete(3, start=1)), None, "observation_space=.*TransformObservation"),
        (
            gym.spaces.MultiDiscrete(np.array([[2, 3], [2, 2]])),
            None,
            r"observation_space=MultiDiscrete\(\[\[2 3\].*one row.*FlattenObs",
        ),
    ],
)
def test_discrete_spaces_that_sb3_does_not_know_are_refused(observation: Any, action: Any, expected: str) -> None:
    """SB3 counts from 0, whatever a space's start says, and has no features of a matrix; who builds a model is told."""

    class Counting(gym.Env):
        observation_space = observation or gym.spaces.Box(-1.0, 1.0, (2,))
        action_space = action or gym.spaces.Discrete(2)

    policy = "MultiInputPolicy" if isinstance(observation, gym.spaces.Dict) else "MlpPolicy"
    with pytest.raises(ArgumentError, match=expected):
        EduPPO(policy, Counting(), device="cpu")
