"""Vector environments of Gymnasium's kind, whoever wrote them: what they keep, what they tell, and what can't be adapted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import vector
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.vec_env.adapters import EnvList, adapt
from sb3_ppo_edu.vec_env.infos import infos_of

SMALL: dict[str, Any] = {"n_steps": 6, "batch_size": 12, "n_epochs": 1, "device": "cpu"}


class Counter(gym.Env[Any, Any]):
    """The observation is the number of steps since the reset; an episode has three, and succeeds."""

    observation_space: spaces.Space[Any] = spaces.Box(0, 99, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 3, parts: bool = False) -> None:
        self.length, self.parts, self.t = length, parts, 0
        if parts:
            self.observation_space = spaces.Dict({"count": spaces.Box(0, 99, (1,), np.float32)})

    def _seen(self) -> Any:
        observation = np.full(1, self.t, np.float32)
        return {"count": observation} if self.parts else observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self._seen(), {"fresh": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        ended = self.t == self.length
        return self._seen(), float(self.t), ended, False, {"t": self.t, **({"is_success": True} if ended else {})}


class Collect(BaseCallback):
    """Keep what each step of training told."""

    def _on_training_start(self) -> None:
        self.infos: list[list[dict[str, Any]]] = []
        self.stored: list[float] = []

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        observations: Any = self.locals["rollout_buffer"].observations
        self.stored = (observations["count"] if isinstance(observations, dict) else observations)[:, 0, 0].tolist()


class Told(VectorEnv[Any, Any, Any]):
    """Two environments that end every second step, and tell what the test says."""

    single_observation_space, single_action_space, num_envs = spaces.Box(-1, 1, (3,)), spaces.Discrete(2), 2

    def __init__(self, told: Callable[[bool], Any], mode: AutoresetMode = AutoresetMode.SAME_STEP) -> None:
        self.metadata, self.told, self.t = {"autoreset_mode": mode}, told, 0
        self.observations: Any = np.zeros((2, 3), np.float32)
        self.rewards, self.truncated = np.ones(2), np.zeros(2, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        self.t += 1
        ended = self.t % 2 == 0
        return self.observations, self.rewards, np.full(2, ended), self.truncated, self.told(ended)


def test_what_is_stored_stays_where_the_environment_reuses_its_array() -> None:
    """SyncVectorEnv(copy=False), in processes too, returns the same array each time; the buffer has 0, 1, 2, 0, 1, 2."""
    for make in (
        lambda: SyncVectorEnv([Counter] * 2, copy=False),
        lambda: SyncVectorEnv([Counter] * 2, copy=False, autoreset_mode=AutoresetMode.SAME_STEP),
        lambda: SyncVectorEnv([lambda: Counter(parts=True)] * 2, copy=False, autoreset_mode=AutoresetMode.DISABLED),
        lambda: AsyncVectorEnv([Counter] * 2, copy=False),
    ):
        env = adapt(make())
        parts = isinstance(env.observation_space, spaces.Dict)
        model = EduPPO("MultiInputPolicy" if parts else "MlpPolicy", env, **SMALL)
        seen = Collect()
        model.learn(12, callback=seen)
        assert seen.stored == [0, 1, 2, 0, 1, 2]
        env.close()


def test_infos_that_the_environment_reuses_stay() -> None:
    """An array in the infos that is written over in the next step still shows this step's."""
    reused = np.zeros((2, 2))

    def told(ended: bool) -> dict[str, Any]:
        reused[:] += 1
        return {"position": reused, "final_obs": np.zeros((2, 3))}

    env = adapt(Told(told))
    env.reset()
    first = env.step(np.zeros(2, int))[3][0]["position"]
    env.step(np.zeros(2, int))
    assert first.tolist() == [1, 1]


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_statistics_of_the_wrapper_reach_the_log(mode: AutoresetMode) -> None:
    """Gymnasium's RecordEpisodeStatistics counts each episode of 1 + 2 + 3 = 6; ep_info_buffer and successes have them."""
    recorder = vector.RecordEpisodeStatistics(SyncVectorEnv([Counter] * 2, autoreset_mode=mode))
    model = EduPPO("MlpPolicy", adapt(recorder), **SMALL)
    model.learn(24)
    assert model.ep_info_buffer is not None and model.ep_success_buffer is not None
    assert len(model.ep_info_buffer) == recorder.episode_count == 8
    assert all((info["r"], info["l"]) == (6.0, 3) for info in model.ep_info_buffer)
    assert list(model.ep_success_buffer) == [True] * 8


def episodes_of(env: VecEnv, steps: int) -> list[tuple[int, float, int]]:
    """Step, and give number of the environment, return and length of each episode that has ended."""
    env.reset()
    infos = [env.step(np.full(env.num_envs, step % 2))[3] for step in range(steps)]
    told = [(index, info["episode"]) for told in infos for index, info in enumerate(told) if "episode" in info]
    env.close()
    return [(index, float(episode["r"]), int(episode["l"])) for index, episode in told]


def recorded(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """In Gymnasium's wrapper that counts episodes."""
    return vector.RecordEpisodeStatistics(env)


def recorded_inside(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """With wrappers around the one that counts."""
    return vector.DictInfoToList(vector.ClipReward(recorded(env), -99, 99))


def recorded_outside(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """With a wrapper, and one that counts too, between the environments and the one that is looked at."""
    return vector.RecordEpisodeStatistics(vector.ClipReward(vector.RecordEpisodeStatistics(env, stats_key="x"), -99, 99))


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("wrapped", [recorded, recorded_inside, recorded_outside])
def test_the_wrapper_counts_on_where_another_environment_ends(wrapped: Any, kind: Any, mode: AutoresetMode) -> None:
    """Environments whose episodes differ in length: returns and lengths are those of Monitor in DummyVecEnv."""
    makers = [partial(Counter, length) for length in (2, 5, 7)]
    expected = episodes_of(DummyVecEnv([lambda make=make: Monitor(make()) for make in makers]), 20)  # type: ignore[misc]
    assert len(expected) == 16 and {length for *_, length in expected} == {2, 5, 7}
    assert episodes_of(adapt(wrapped(kind(makers, autoreset_mode=mode))), 20) == expected


@pytest.mark.parametrize("wrapped", [recorded, recorded_inside, recorded_outside])
def test_cartpoles_that_are_stepped_as_one_in_wrappers(wrapped: Any) -> None:
    """Each step pays 1, none is spent on a reset: length and return of an episode are the steps since the one before."""
    ends = [0] * 4
    env = adapt(wrapped(gym.make_vec("CartPole-v1", 4)))
    observations: Any = env.reset()
    ended_apart = False
    for step in range(1, 120):
        assert np.abs(observations[[end == step - 1 for end in ends]]).max(initial=0) <= 0.05, "an episode's first"
        observations, rewards, dones, infos = env.step(np.full(4, step % 2))
        assert rewards.tolist() == [1] * 4
        ended_apart |= 0 < dones.sum() < 4
        for index in np.flatnonzero(dones):
            episode = infos[index]["episode"]
            assert (episode["r"], episode["l"]) == (step - ends[index],) * 2
            assert np.abs(infos[index]["terminal_observation"]).max() > 0.2
            ends[index] = step
    assert ended_apart and min(ends) > 0


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_infos_are_those_of_sb3(mode: AutoresetMode) -> None:
    """Each step's own infos reach callbacks, the last one's too, and the reset's go to reset_infos."""
    env = adapt(SyncVectorEnv([Counter] * 2, autoreset_mode=mode))
    seen = Collect()
    EduPPO("MlpPolicy", env, **SMALL).learn(12, callback=seen)
    assert [infos[1]["t"] for infos in seen.infos] == [1, 2, 3, 1, 2, 3]
    last = seen.infos[2][1]
    assert last["is_success"] and last["terminal_observation"].tolist() == [3] and not last["TimeLimit.truncated"]
    assert "fresh" not in last and env.reset_infos == [{"fresh": True}] * 2


def by_mask(ended: bool) -> dict[str, Any]:
    """As Gymnasium's wrapper of a vector environment writes it."""
    flags = np.full(2, ended)
    return {"episode": {"r": np.array([3.0, 4.0]), "l": np.array([2, 2])}, "_episode": flags, "is_success": flags}


def without_masks(ended: bool) -> dict[str, Any]:
    """As home-made environments write it: numbers for all, whoever has ended."""
    return {"episode": {"r": [3.0, 4.0], "l": [2, 2]}, "is_success": np.full(2, ended)}


def final_as_objects(ended: bool) -> dict[str, Any]:
    """As Gymnasium before 1.0 writes it."""
    final = [{"episode": {"r": r, "l": 2}, "is_success": True} for r in (3.0, 4.0)]
    return {"final_info": np.array(final, dtype=object), "_final_info": np.full(2, True)} if ended else {}


def final_as_dictionary(ended: bool) -> dict[str, Any]:
    """As Gymnasium from 1.0 on writes it."""
    all_of_them = np.full(2, True)
    inner = {**by_mask(True), "_is_success": all_of_them}
    return {"final_info": inner, "_final_info": all_of_them, "fresh": np.array([1, 1])} if ended else {}


def as_list(ended: bool) -> list[dict[str, Any]]:
    """As DictInfoToList writes it."""
    return [{"episode": {"r": r, "l": 2}, "is_success": True} if ended else {} for r in (3.0, 4.0)]


@pytest.mark.parametrize("told", [by_mask, without_masks, final_as_objects, final_as_dictionary, as_list])
@pytest.mark.parametrize("old_name", [False, True])
def test_statistics_in_every_form(told: Callable[[bool], Any], old_name: bool) -> None:
    """Two environments, three episodes each, of returns 3 and 4: all six are known, once, with their success."""

    def with_last(ended: bool) -> Any:
        infos, last = told(ended), np.full((2, 3), 0.5, np.float32)
        key = "final_observation" if old_name else "final_obs"
        if isinstance(infos, list):
            return [{**info, key: last[index]} for index, info in enumerate(infos)] if ended else infos
        return {**infos, key: last} if ended else infos

    seen = Collect()
    model = EduPPO("MlpPolicy", adapt(Told(with_last)), **SMALL)
    model.learn(12, callback=seen)
    assert model.ep_info_buffer is not None and model.ep_success_buffer is not None
    assert [info["r"] for info in model.ep_info_buffer] == [3.0, 4.0] * 3
    assert list(model.ep_success_buffer) == [True] * 6
    assert seen.infos[1][0]["terminal_observation"].tolist() == [0.5] * 3
    assert "episode" not in seen.infos[0][0]


def test_one_environments_own_infos() -> None:
    """Without a mask, a value of n_envs parts has one for each, any other is everybody's, and a dictionary is looked into."""
    batched = {"b": [5, 6], "c": {"d": np.array([[1.0], [2.0]]), "e": "x"}, "_f": 3, "g": np.array(7.0)}
    assert infos_of(batched, 2) == [
        {"b": 5, "c": {"d": np.array([1.0]), "e": "x"}, "_f": 3, "g": 7.0},
        {"b": 6, "c": {"d": np.array([2.0]), "e": "x"}, "_f": 3, "g": 7.0},
    ]


def four(**settings: Any) -> VectorEnv[Any, Any, Any]:
    """Four of Gymnasium's CartPoles."""
    return gym.make_vec("CartPole-v1", 4, vectorization_mode="sync", **settings)


def test_the_model_adapts_by_itself() -> None:
    """A vector environment of Gymnasium's is given to the constructor and to set_env as it is, and episodes are counted."""
    model = EduPPO("MlpPolicy", four(), n_steps=32, batch_size=32, device="cpu")
    assert isinstance(model.env, VecMonitor) and isinstance(model.env.venv, EnvList)
    model.learn(128)
    assert model.ep_info_buffer
    counting = vector.RecordEpisodeStatistics(four())
    model.set_env(counting)  # type: ignore[arg-type]
    assert isinstance(model.env, EnvList), "counted already"
    seen = len(model.ep_info_buffer)
    model.learn(256, reset_num_timesteps=False)
    assert len(model.ep_info_buffer) - seen == counting.episode_count > 0


def test_lists_of_infos_are_taken() -> None:
    """DictInfoToList changes the form of the infos only."""
    expected, found = Collect(), Collect()
    for env, seen in ((four(), expected), (vector.DictInfoToList(four()), found)):
        EduPPO("MlpPolicy", adapt(env), n_steps=32, batch_size=32, seed=1, device="cpu").learn(128, callback=seen)
    assert str(found.infos) == str(expected.infos)


class NoPartialReset(VectorWrapper[Any, Any, Any, Any, Any]):
    """A wrapper that resets all or nothing."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if options:
            raise TypeError("no options here")
        return self.env.reset(seed=seed)


def refusals() -> Iterator[tuple[Callable[[], Any], list[str]]]:
    """Calls that can't work, and what their messages have to say."""

    def train(env: Any) -> None:
        EduPPO("MlpPolicy", adapt(env), n_steps=64, batch_size=64, device="cpu").learn(512)

    tensors, ragged = Told(lambda ended: {}), Told(lambda ended: {"final_obs": np.zeros((2, 3))})
    tensors.observations = th.zeros(2, 3)

    def shrinking(ended: bool) -> dict[str, Any]:
        ragged.observations = np.zeros((2, 2), np.float32)
        return {"final_obs": np.zeros((2, 3))}

    ragged.told = shrinking
    rewards, flags, nothing = (Told(lambda ended: {"final_obs": np.zeros((2, 3))}) for _ in range(3))
    rewards.rewards, flags.truncated, nothing.told = np.ones((2, 1)), np.zeros(1, bool), lambda ended: None
    yield lambda: adapt(gym.make("CartPole-v1")), ["found TimeLimit", "make_vec_env"]  # type: ignore[arg-type]
    yield lambda: train(vector.NormalizeObservation(four())), ["NormalizeObservation", "VecNormalize(adapt("]
    yield lambda: train(Told(lambda ended: {})), ["Told", "environment 0", "step 2", "final_obs"]
    yield lambda: train(NoPartialReset(four())), ["NoPartialReset in SyncVectorEnv", "no options here", "SAME_STEP"]
    yield lambda: train(tensors), ["reset", "torch.Tensor", "(2, 3)", "NumpyToTorch"]
    yield lambda: train(ragged), ["step 2", "shape (2, 2)", "expected a numpy array of shape (2, 3)"]
    yield lambda: train(rewards), ["Told, step 1: found rewards of shape (2, 1), expected (2,)"]
    yield lambda: train(flags), ["Told, step 1: found truncated of shape (1,), expected (2,)"]
    yield lambda: train(nothing), ["Told, step 1: found infos None, expected one dict"]


@pytest.mark.parametrize("case", range(9))
def test_refusals_lead_on(case: int) -> None:
    """What can't be adapted says what was found, where, and what to write instead."""
    call, said = list(refusals())[case]
    with pytest.raises(ValueError) as refusal:
        call()
    assert all(words in str(refusal.value) for words in said), refusal.value


def test_normalised_as_the_refusal_says() -> None:
    """What stands instead of NormalizeObservation trains."""
    EduPPO("MlpPolicy", VecNormalize(adapt(four()), norm_reward=False), n_steps=32, batch_size=32, device="cpu").learn(128)
