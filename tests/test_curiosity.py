"""Random network distillation: the bonus, what it is divided by, what the predictor learns, by numbers worked out by hand."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.vec_env.curiosity import Curiosity, switched_off
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.environments import OBSERVATION_SPACES, RandomWalk
from tests.streams import Stream


class Script(gym.Env[NDArray[np.float32], Any]):
    """
    Show given numbers one after the other, each with the reward 10, and end the episode at the last.

    :param shown: the numbers that the steps lead to; a reset shows 77
    """

    def __init__(self, shown: list[float]) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.shown = shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.array([77.0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        shown = np.array([self.shown[self.steps - 1]], np.float32)
        return shown, 10.0, self.steps == len(self.shown), False, {}


def set_weights(network: th.nn.Sequential, *weights_and_biases: float) -> None:
    """Set a network's numbers, one weight and one bias for each layer."""
    with th.no_grad():
        for parameter, number in zip(network.parameters(), weights_and_biases, strict=True):
            parameter.fill_(number)


def by_hand(shown: list[float], **arguments: Any) -> Curiosity:
    """
    One environment, networks of one unit, and moments that no observation moves any more.

    f(x) = relu(3x) + 0.5, the predictor says 1, and x = (s' − 1) / 2, σ = 2.
    """
    env = Curiosity(InProcessVecEnv([lambda: Script(shown)]), width=1, **arguments)
    set_weights(env.target, 3.0, 0.0, 1.0, 0.5)
    set_weights(env.predictor, *(0.0,) * 7, 1.0)
    vars(env.observation_moments).update(mean=np.array([1.0]), var=np.array([4.0]), count=1e30)
    vars(env.return_moments).update(mean=np.array(0.0), var=np.array(4.0), count=1e30)
    env.reset()
    return env


def rewards_of(env: Any, steps: int) -> list[float]:
    """The rewards of environment 0 over some steps."""
    return [float(env.step(np.zeros(env.num_envs, np.int64))[1][0]) for _ in range(steps)]


def test_the_bonus_is_the_predictors_error_over_the_deviation() -> None:
    """
    c·i/σ with c = 0.4 and σ = 2 on s' = 3, −3, 101 and 5: x = 1, −2, 5 (50, clipped) and 2.

    f = 3.5, 0.5, 15.5 and 6.5, the predictor says 1, so that i = 6.25, 0.25, 210.25 and 30.25. The last s' ends the episode,
    whose step shows the next one's first observation, 77: that does not count. The first step gives no bonus.
    """
    env = by_hand([9.0, 3.0, -3.0, 101.0, 5.0], coef=0.4, n_steps=1, learning_rate=0.0, gamma=0.5)
    found = rewards_of(env, 5)
    assert found == pytest.approx([10.0, 11.25, 10.05, 52.05, 16.05], rel=1e-6)


def test_the_intrinsic_return_goes_on_where_an_episode_ends() -> None:
    """R ← R/2 + i over s' = 3, 101 (the end) and 3 again: 6.25, 213.375, 112.9375."""
    env = by_hand([3.0, 101.0], gamma=0.5)
    returns = [rewards_of(env, 1) and env.intrinsic_returns[0] for _ in range(3)]
    assert returns == pytest.approx([6.25, 213.375, 112.9375], rel=1e-6)


def test_a_step_of_the_predictor() -> None:
    """
    With hidden units that are off only the last bias has a gradient: Adam's first step moves it by the learning rate, to f.

    The loss is the mean of i = 6.25 and 210.25 as they were before the step. The target stays, for ever.
    """
    env = by_hand([3.0, 101.0, 3.0], n_steps=2, proportion=1.0, learning_rate=0.01)
    rewards_of(env, 2)
    assert [one.item() for one in env.predictor.parameters()] == pytest.approx([0.0] * 7 + [1.01], rel=1e-5)
    assert [one.item() for one in env.target.parameters()] == [3.0, 0.0, 1.0, 0.5]
    expected = {"bonus": 0.0, "prediction_error": 108.25, "loss": 108.25}
    assert env.curiosity_log == pytest.approx(expected, rel=1e-6)
    # Then i = (3.5 − 1.01)² = 6.2001 on s' = 3, over σ = 2.
    assert rewards_of(env, 1) == pytest.approx([10.0 + 6.2001 / 2], rel=1e-6)


def test_moments_are_of_all_that_was_reached() -> None:
    """μ and v are of the observations of all steps, σ of the intrinsic returns: what numpy finds in their list."""
    env = Curiosity(make_vec_env("Pendulum-v1", 3, seed=1), n_steps=8, gamma=0.9)
    env.reset()
    env.action_space.seed(0)
    seen: list[Any] = []
    returns = []
    for _ in range(50):
        seen.append(env.step(np.stack([env.action_space.sample() for _ in range(3)]))[0])
        returns.append(env.intrinsic_returns)
    flat = np.concatenate(seen)
    # RunningMeanStd begins with 1e-4 values.
    np.testing.assert_allclose(env.observation_moments.mean, flat.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(env.observation_moments.var, flat.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(env.return_moments.var, np.var(returns), rtol=1e-4)


@pytest.mark.parametrize("proportion", [0.0, 0.25, 1.0])
def test_the_predictor_learns_from_a_share(proportion: float) -> None:
    """Of 4,000 observations about that share is kept, and after ``n_steps`` steps all are dropped."""
    env = Curiosity(Stream(0, 40, spaces.Box(-1.0, 1.0, (2,))), n_steps=101, proportion=proportion)
    env.reset()
    rewards_of(env, 100)
    assert len(np.concatenate(env.kept)) == pytest.approx(4000 * proportion, abs=120 * (0 < proportion < 1))
    rewards_of(env, 1)
    assert env.kept == []
    assert (env.n_updates, env.curiosity_log["loss"] > 0) == (1, proportion > 0)


def test_what_was_seen_often_is_less_new() -> None:
    """After thousands of observations around 0 the error there has fallen by a factor of ten, and is larger far away."""
    env = Curiosity(Stream(0, 32, spaces.Box(-np.inf, np.inf, (4,)), scale=0.5), n_steps=16, proportion=1.0)
    env.reset()
    near = np.random.default_rng(1).normal(size=(500, 4))
    rewards_of(env, 16)
    before = float(env.prediction_errors(near).mean())
    rewards_of(env, 640)
    after, far = (float(env.prediction_errors(points).mean()) for points in (near, near + 8.0))
    assert after < before / 10
    assert far > 3 * after


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        ("discrete", [[0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]]),
        # A dictionary's parts are in the order of their names: the choice, one of four, and the vector.
        ("dict", [[0, 1, 0, 0, 0.5, -0.5, 0.25], [0, 0, 0, 1, 0, 0, 1]]),
        ("box", [[1, 2, 3, 4, 5], [0, 0, 0, 0, 7]]),
    ],
)
def test_observations_of_every_kind_are_flattened(observation: str, expected: list[list[float]]) -> None:
    """Choices become one 1 among zeros, and parts stand side by side; what is not finite becomes 0."""
    given: Any = {
        "discrete": np.array([4, 0]),
        "dict": {"choice": np.array([1, 3]), "vector": np.array([[0.5, -0.5, 0.25], [np.nan, np.inf, 1]], np.float32)},
        "box": np.array([[1, 2, 3, 4, 5], [-np.inf, 0, np.nan, 0, 7]], np.float32),
    }[observation]
    env = Curiosity(Stream(0, 2, OBSERVATION_SPACES[observation]))
    shown: list[Any] = []
    env.observation_moments.update = shown.append  # type: ignore[method-assign, assignment]
    env.venv.step_wait = lambda: (given, np.zeros(2, np.float32), np.zeros(2, np.bool_), [{}, {}])  # type: ignore[method-assign]
    env.reset()
    env.step(np.zeros(2))
    assert shown[0].tolist() == expected


@pytest.mark.parametrize("observation", list(OBSERVATION_SPACES))
def test_every_space_trains(observation: str) -> None:
    """SB3's PPO trains with it as EduPPO does, on every kind of observation, also where episodes end."""
    for algorithm in (EduPPO, PPO):
        env = Curiosity(DummyVecEnv([lambda: RandomWalk(observation, "discrete")] * 2), n_steps=8)
        policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(observation, "MlpPolicy")
        algorithm(policy, env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu").learn(32)
        assert env.n_updates == 2


@pytest.mark.parametrize("algorithm", [EduPPO, PPO])
def test_without_weight_nothing_changes(algorithm: Any) -> None:
    """With c = 0, or switched off, training has the bits that it has without: no generator of others is drawn from."""

    def train(wrap: Any) -> bytes:
        env = make_vec_env("CartPole-v1", 2, seed=1)
        model = algorithm("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=2, seed=3, device="cpu")
        model.set_env(wrap(env))
        model.learn(128)
        return b"".join(one.detach().numpy().tobytes() for one in model.policy.parameters())

    expected = train(lambda env: env)
    assert train(lambda env: Curiosity(env, coef=0.0, n_steps=16)) == expected
    assert train(lambda env: switched_off(VecMonitor(Curiosity(env, n_steps=16)))) == expected
    assert train(lambda env: Curiosity(env, n_steps=16)) != expected


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_alike(copied: Any) -> None:
    """In the middle of a rollout: given environments of its own, the copy gives the rewards that the original gives."""
    env = Curiosity(Stream(3, 4, spaces.Box(-1.0, 1.0, (3,))), n_steps=8)
    env.reset()
    rewards_of(env, 21)
    other = copied(env)
    assert other.venv is None
    other.set_venv(copy.deepcopy(env.venv))
    assert rewards_of(other, 40) == rewards_of(env, 40)
    assert other.optimizer.param_groups[0]["params"][0] is next(other.predictor.parameters())
    with pytest.raises(ValueError, match=r"set_venv: found 5 environments with .*, expected 4 with"):
        other.set_venv(Stream(3, 5, env.observation_space))


def test_statistics_of_other_wrappers_are_found() -> None:
    """SB3 refuses to look for an attribute that two wrappers have; VecNormalize's are found around and through this one."""
    env: Any = VecFrameStack(VecNormalize(Curiosity(make_vec_env("CartPole-v1", 2))), 2)
    assert env.obs_rms.mean.shape == (4,)
    assert (env.training, env.ret_rms.count, env.returns.shape, env.curiosity_log) == (True, 1e-4, (2,), {})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"coef": -1.0}, "coef=-1.0: expected a finite number ≥ 0$"),
        ({"coef": float("inf")}, "coef=inf: expected a finite number ≥ 0$"),
        ({"coef": "1e-3"}, "coef='1e-3': expected a finite number ≥ 0$"),
        ({"gamma": 1.0}, "gamma=1.0: expected a finite number ≥ 0 and ≤ 0.9999"),
        ({"n_steps": 0}, r"n_steps=0: expected an integer ≥ 1 and ≤ 1e\+06"),
        ({"n_steps": 128.0}, "n_steps=128.0: expected an integer"),
        ({"n_steps": True}, "n_steps=True: expected an integer"),
        ({"proportion": 1.5}, "proportion=1.5: expected a finite number ≥ 0 and ≤ 1"),
        ({"batch_size": 0}, "batch_size=0: expected an integer ≥ 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: expected a finite number ≥ 0"),
        ({"width": 10**9}, "width=1000000000: expected an integer ≥ 1 and ≤ 1000"),
        ({"network_seed": -1}, "network_seed=-1: expected an integer ≥ 0"),
        ({"active": "no"}, "active='no': expected True or False"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], expected: str) -> None:
    """By name, with what was found and expected."""
    with pytest.raises(ValueError, match=f"^Curiosity: {expected}"):
        Curiosity(make_vec_env("CartPole-v1", 2), **arguments)


@pytest.mark.parametrize("given", ["CartPole-v1", gym.make("CartPole-v1"), None])
def test_a_single_environment_is_refused(given: Any) -> None:
    """With what was found and what makes one of several."""
    with pytest.raises(ValueError, match=r"^Curiosity: found .*, expected a vector environment, such as make_vec_env gives"):
        Curiosity(given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("coef", "x"), ("coef", -5), ("coef", 10**400), ("gamma", None), ("n_steps", 0), ("n_steps", 10**400)),
        *(("proportion", float("nan")), ("batch_size", -1), ("active", 1)),
    ],
)
def test_arguments_that_are_set_later_are_checked(name: str, value: Any) -> None:
    """There and then, by the constructor's own check; what was set before stays."""
    env = Curiosity(make_vec_env("CartPole-v1", 2))
    before = getattr(env, name)
    with pytest.raises(ValueError, match=f"^Curiosity: {name}="):
        setattr(env, name, value)
    assert getattr(env, name) == before


@pytest.mark.parametrize("n_steps", [2, 16])
def test_another_number_of_steps_counts_from_the_next_update_on(n_steps: int) -> None:
    """The observations that are chosen already are learned from."""
    env = Curiosity(Stream(3, 4, spaces.Box(-1.0, 1.0, (3,))), n_steps=8)
    env.reset()
    rewards_of(env, 5)
    env.n_steps = n_steps
    rewards_of(env, 3)
    assert env.n_updates == 1
    rewards_of(env, 16)
    assert env.n_updates == 1 + 16 // n_steps


@pytest.mark.parametrize("around", [lambda env: env, VecMonitor], ids=["itself", "inside"])
@pytest.mark.parametrize("seed", [None, 0])
def test_a_copy_without_environments_is_refused(around: Any, seed: int | None) -> None:
    """With how to give it some: where the model seeds them, or else where it learns."""
    env = copy.deepcopy(Curiosity(make_vec_env("CartPole-v1", 2)))
    with pytest.raises(ValueError, match=r"found a Curiosity without environments, .*set_venv\(venv\)"):
        EduPPO("MlpPolicy", around(env), n_steps=16, batch_size=16, seed=seed, device="cpu").learn(32)
    with pytest.raises(ValueError, match=r"^Curiosity: found None, expected a vector environment"):
        env.set_venv(None)  # type: ignore[arg-type]
