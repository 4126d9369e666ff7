"""Masks reach the policy from every kind of environment, and wrong ones are errors that say where."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_ppo_edu import MaskableEduPPO, MaskableRecurrentEduPPO
from sb3_ppo_edu.algorithms.callbacks import may_change_policy, reads_every_step
from sb3_ppo_edu.envs.backends import reachable
from sb3_ppo_edu.training.evaluation import with_masks
from sb3_ppo_edu.vec_env.action_masks import as_masks, choices_of
from sb3_ppo_edu.vec_env.adapters import EnvProcesses
from sb3_ppo_edu.vec_env.faults import EnvironmentFaultError
from sb3_ppo_edu.vec_env.guard import FiniteGuard
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from sb3_ppo_edu.vec_env.reachable import BoundedAsyncVectorEnv
from sb3_ppo_edu.vec_env.shared_memory import SharedMemoryVecEnv
from sb3_ppo_edu.vec_env.workers import WatchedSubprocVecEnv
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk, ToldMasks

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu", "seed": 1}
NETWORK: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}}


@given(st.data())
def test_masks_are_put_together(data: st.DataObject) -> None:
    """One row an environment, True where an entry is not 0, whatever type and shape the masks have."""
    choices = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    n_envs = data.draw(st.integers(1, 3))
    expected = np.array([[data.draw(st.booleans()) for _ in range(sum(choices))] for _ in range(n_envs)])
    kind = data.draw(st.sampled_from([bool, np.int8, np.float32]))
    given_masks = [row.astype(kind) if data.draw(st.booleans()) else row.tolist() for row in expected]
    ends = np.cumsum(choices)
    forbidding = [
        (index, choice)
        for index, row in enumerate(expected)
        for choice, (size, end) in enumerate(zip(choices, ends, strict=True))
        if not row[end - size : end].any()
    ]
    if not forbidding:
        np.testing.assert_array_equal(as_masks(given_masks, choices, 1), expected)
        return
    index, choice = forbidding[0]
    with pytest.raises(EnvironmentFaultError, match="forbidden, expected at least one that is legal") as error:
        as_masks(given_masks, choices, 7)
    assert (error.value.index, error.value.step) == (index, 7)
    assert len(choices) == 1 or f"of choice {choice} forbidden" in error.value.what


@pytest.mark.parametrize(
    ("space", "choices"),
    [(spaces.Discrete(3), [3]), (spaces.MultiDiscrete([2, 4]), [2, 4]), (spaces.MultiBinary(2), [2, 2])],
)
def test_choices(space: Any, choices: list[int]) -> None:
    """A mask has an entry for each class of each choice; a binary choice has two classes."""
    assert choices_of(space) == choices


PROCESSES: dict[str, Any] = {"start_method": "fork"}
VEC_ENVS: dict[str, Callable[[list[Any]], Any]] = {
    "dummy": DummyVecEnv,
    "in-process": InProcessVecEnv,
    "subproc": lambda made: SubprocVecEnv(made, **PROCESSES),
    "watched": lambda made: WatchedSubprocVecEnv(made, **PROCESSES),
    "shared-memory": lambda made: SharedMemoryVecEnv(made, n_workers=1, **PROCESSES),
    "wrapped": lambda made: FiniteGuard(VecNormalize(VecFrameStack(VecMonitor(DummyVecEnv(made)), 2))),
    "gymnasium": lambda made: SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP),
    "gymnasium-next-step": SyncVectorEnv,
    "gymnasium-async": lambda made: gymnasium_processes(made),
}


def gymnasium_processes(made: list[Any]) -> VecEnv:
    """Build what ``--vec-env gymnasium-async`` does, with processes that start at once."""
    mode = AutoresetMode.SAME_STEP
    env = BoundedAsyncVectorEnv(reachable(made, os.getpid()), 60.0, autoreset_mode=mode, context="fork")
    return EnvProcesses(env, None, reachable=True)


def columns_of(model: MaskableEduPPO) -> tuple[Any, Any]:
    """Masks and actions of the rollout."""
    buffer: Any = model.rollout_buffer
    return buffer.action_masks, buffer.actions.astype(int)


@pytest.mark.parametrize("kind", [MaskedWalk, ToldMasks], ids=["method", "info"])
@pytest.mark.parametrize("name", VEC_ENVS)
def test_masks_come_from_every_vector_environment(name: str, kind: Any) -> None:
    """
    The environments end at an illegal action: so every one was legal, those after an episode's end among them.

    There only the info of the reset has the mask that counts; with masks in infos the first actions differ from others.
    """
    env = VEC_ENVS[name]([lambda: gym.wrappers.TimeLimit(kind(action="multidiscrete"), 7)] * 3)
    try:
        model = MaskableEduPPO("MlpPolicy", env, **SMALL, **NETWORK)
        model.learn(2 * 16 * 3)
        model.learn(16 * 3, reset_num_timesteps=False)
        masks, actions = columns_of(model)
        places = np.add(actions.reshape(-1, 2), [0, 2])
        assert np.take_along_axis(masks.reshape(-1, 5), places, axis=1).all()
        assert not masks.all()
    finally:
        assert model.env is not None
        model.env.close()


def test_processes_that_cannot_be_asked() -> None:
    """Gymnasium's ``AsyncVectorEnv`` as it is passes on the masks of infos; its environments' method is refused at once."""
    made = [lambda: gym.wrappers.TimeLimit(ToldMasks(), 7)] * 2
    model = MaskableEduPPO("MlpPolicy", AsyncVectorEnv(made, context="fork"), **SMALL, **NETWORK)
    try:
        assert model.learn(64).num_timesteps == 64
    finally:
        model.env.close()  # type: ignore[union-attr]
    model = MaskableEduPPO("MlpPolicy", AsyncVectorEnv([MaskedWalk] * 2, context="fork"), **SMALL, **NETWORK)
    try:
        with pytest.raises(
            ValueError, match=r"env: found no action_mask in .*AsyncVectorEnv.*expected environments wrapped in"
        ):
            model.learn(64)
    finally:
        model.env.close()  # type: ignore[union-attr]
    assert model.num_timesteps == 0


class Batched(VectorEnv[Any, Any, Any]):
    """
    Environments that are stepped as one: each has one legal action, and others in every second step.

    :param told: whether masks are in infos, in place of the method
    :param left_out: rows that the method leaves out
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 (Gymnasium declares it so)
    single_observation_space, single_action_space = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(4)
    num_envs = 3

    def __init__(self, told: bool, left_out: int = 0) -> None:
        self.told, self.steps = told, np.zeros(3, int)
        if not told:
            self.action_masks = lambda: self.masks()[left_out:]

    def masks(self) -> np.ndarray:
        """Which actions are legal."""
        masks: np.ndarray = np.arange(4) == ((self.steps + np.arange(3)) % 4)[:, None]
        masks[self.steps % 2 == 1, 3] = True
        return masks

    def found(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Observations and infos."""
        infos = {"action_mask": self.masks(), "_action_mask": np.ones(3, bool)} if self.told else {}
        return np.zeros((3, 2), np.float32), infos

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        self.steps[(options or {}).get("reset_mask", np.ones(3, bool))] = 0
        return self.found()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take legal actions; episodes have 5, 6 and 7 steps."""
        assert self.masks()[np.arange(3), actions].all()
        self.steps += 1
        observations, infos = self.found()
        return observations, np.ones(3), self.steps >= np.arange(5, 8), np.zeros(3, bool), infos


@pytest.mark.parametrize("told", [False, True], ids=["method", "info"])
def test_masks_of_environments_that_are_stepped_as_one(told: bool) -> None:
    """Their method and their infos have a row for each environment, in training and in evaluation; fewer rows are refused."""
    model = MaskableEduPPO("MlpPolicy", Batched(told), **SMALL, **NETWORK)
    model.learn(2 * 48)
    masks, actions = columns_of(model)
    assert np.take_along_axis(masks.reshape(-1, 4), actions.reshape(-1, 1), axis=1).all()
    if not told:
        rewards, _ = evaluate_policy(with_masks(model, model.env), model.env, 6, return_episode_rewards=True)  # type: ignore[arg-type]
        assert sorted(rewards) == [5, 5, 6, 6, 7, 7]  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"Batched.action_masks\(\): found 2 rows, expected 3"):
            MaskableEduPPO("MlpPolicy", Batched(told, left_out=1), **SMALL, **NETWORK).learn(48)


def test_masks_of_resets_are_stored() -> None:
    """With masks in infos, a step that begins an episode has the mask of that reset: all actions but the first."""
    model = MaskableEduPPO("MlpPolicy", DummyVecEnv([ToldMasks] * 3), **SMALL, **NETWORK)
    _, callback = model._setup_learn(48)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)  # type: ignore[arg-type]
    starts, (masks, _) = model.rollout_buffer.episode_starts.astype(bool), columns_of(model)
    assert starts[1:].any()
    np.testing.assert_array_equal(masks[starts], [[0, 1, 1]] * starts.sum())
    assert not (masks[~starts] == [0, 1, 1]).all()


@pytest.mark.parametrize("restart", ["learn", "resume"])
def test_masks_of_episodes_that_are_over_are_forgotten(restart: str) -> None:
    """Where all environments were reset, by another ``learn`` or as a resumed training may, the masks are those of resets."""
    model = MaskableEduPPO("MlpPolicy", DummyVecEnv([lambda: ToldMasks(end_probability=0.0)] * 3), **SMALL, **NETWORK)
    model.learn(48)
    env: Any = model.env
    assert np.any(model.masks_of(env) != np.array([0, 1, 1]))
    if restart == "learn":
        model._setup_learn(48)
    else:
        model.begin_episodes(env.reset())
    np.testing.assert_array_equal(model.masks_of(env), [[0, 1, 1]] * 3)


class Faulty(MaskedWalk):
    """Gives a wrong mask in the third step of the second environment."""

    def __init__(self, wrong: Any = None, **others: Any) -> None:
        super().__init__(end_probability=0.0, time_limit=100, **others)
        self.wrong = wrong

    def action_masks(self) -> Any:
        """Which actions are legal."""
        return self.wrong if self.wrong is not None and self.steps == 2 else self.masks


@pytest.mark.parametrize(
    ("action", "wrong", "words"),
    [
        ("discrete", [0, 0, 0], r"action_masks\(\): found all 3 actions forbidden"),
        ("discrete", [1, 0], r"action_masks\(\): found 2 entries, expected 3, one for each class of 3 actions"),
        ("discrete", [0.0, -np.inf, 0.0], r"found \[0.0, -inf, 0.0\], expected True or 1 for what is legal"),
        ("discrete", [1.0, np.nan, 1.0], r"found \[1.0, nan, 1.0\], expected True or 1"),
        ("discrete", [1, -1, 1], r"found \[1, -1, 1\], expected True or 1"),
        (
            "discrete",
            np.array([True, False, True], object),
            r"found \[True, False, True\] of dtype object, expected True or 1",
        ),
        ("discrete", ["True", "False", "True"], r"found \['True', 'False', 'True'\], expected True or 1"),
        ("discrete", [[1], [1, 0], 1], r"action_masks\(\): found no array .*expected 3 entries, one for each class"),
        ("discrete", th.ones(3, requires_grad=True), r"action_masks\(\): found no array .*requires grad"),
        ("multidiscrete", [0, 0, 1, 1, 1], "found all 2 actions of choice 0 forbidden"),
        ("multidiscrete", [1, 1, 1], "found 3 entries, expected 5, one for each class of 2 choices among 2, 3"),
        ("multibinary", [1, 1, 1, 1, 0, 0], "found all 2 actions of choice 2 forbidden"),
    ],
)
def test_a_wrong_mask_names_environment_and_step(action: str, wrong: Any, words: str) -> None:
    """A mask that forbids everything, has another size, or is not of 0 and 1, ends training before an action on it."""
    env = DummyVecEnv([lambda: Faulty(action=action), lambda: Faulty(wrong, action=action)])
    model = MaskableEduPPO("MlpPolicy", env, **SMALL, **NETWORK)
    with pytest.raises(EnvironmentFaultError, match=f"environment 1, step 3 of its training: .*{words}"):
        model.learn(32)


class Forgetful(ToldMasks):
    """Tells no mask in the infos of its steps."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        *found, info = super().step(action)
        return *found, {key: value for key, value in info.items() if key != "action_mask"}


def test_a_missing_mask_names_environment_and_step() -> None:
    """An info without a mask, where those of resets have one, is an error."""
    model = MaskableEduPPO("MlpPolicy", DummyVecEnv([lambda: Forgetful(end_probability=0.0)]), **SMALL, **NETWORK)
    with pytest.raises(EnvironmentFaultError, match=r"environment 0, step 2 .*info\['action_mask'\]: found none, expected 3"):
        model.learn(32)


class Odd(DummyVecEnv):
    """Gives for all environments what one call gives."""

    def __init__(self, answer: Callable[[], list[Any]]) -> None:
        super().__init__([MaskedWalk, MaskedWalk])
        self.answer = answer

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **named: Any) -> list[Any]:
        """Ask nobody."""
        return self.answer()


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (lambda: Odd(lambda: [np.ones(3, bool)]), "action_masks: found 1 masks of 2 environments, expected one for each"),
        (lambda: Odd(lambda: [None, None]), r"environment 0, step 1 .*action_masks\(\): found none, expected 3"),
        (lambda: Odd(lambda: np.ones(3)()), "action_masks: found 'numpy.ndarray' .* expected a method that gives the mask"),  # type: ignore[operator]
        (
            lambda: DummyVecEnv([MaskedWalk, ToldMasks, RandomWalk]),
            r"method action_masks\(\) in the environments \[0\] and an action_mask .* of \[1\], expected one of them in all 3",
        ),
    ],
)
def test_environments_that_do_not_all_tell_are_refused(env: Callable[[], VecEnv], words: str) -> None:
    """Each environment gives a mask, all in the same way."""
    with pytest.raises(ValueError, match=words):
        MaskableEduPPO("MlpPolicy", env(), **SMALL, **NETWORK).learn(32)


def test_environments_without_masks_are_refused() -> None:
    """Who tells no masks is refused, with what to do; without masking it trains."""
    model = MaskableEduPPO("MlpPolicy", "CartPole-v1", **SMALL, **NETWORK)
    with pytest.raises(ValueError, match=r"env: found neither a method action_masks\(\) nor .*ActionMasker, or learn"):
        model.learn(16)
    assert model.learn(16, use_masking=False).num_timesteps == 16


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_box_actions_are_refused(env_id: str) -> None:
    """There is nothing to forbid among continuous actions."""
    with pytest.raises(ValueError, match=r"action_space=Box.*expected Discrete, or MultiDiscrete or MultiBinary"):
        MaskableEduPPO("MlpPolicy", env_id, **SMALL)


def test_other_arguments_are_refused() -> None:
    """A policy without masks, and a flag that is none."""
    with pytest.raises(ValueError, match=r"policy=.*ActorCriticPolicy.*expected a class derived from sb3-contrib's"):
        MaskableEduPPO(ActorCriticPolicy, DummyVecEnv([MaskedWalk]), **SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use_masking='yes': expected True or False"):
        MaskableEduPPO("MlpPolicy", DummyVecEnv([MaskedWalk]), **SMALL).learn(16, use_masking="yes")  # type: ignore[arg-type]


def test_buffers_without_masks_are_refused() -> None:
    """A rollout buffer that has no place for masks is refused when the model is built."""
    with pytest.raises(ValueError, match=r"rollout_buffer_class='RolloutBuffer': expected a class derived from .*Maskable"):
        MaskableEduPPO("MlpPolicy", DummyVecEnv([MaskedWalk]), **SMALL, rollout_buffer_class=RolloutBuffer)


@pytest.mark.parametrize("algorithm", [MaskableEduPPO, MaskableRecurrentEduPPO])
def test_predictions_with_wrong_masks_are_refused(algorithm: Any) -> None:
    """For each observation as many entries as there are classes, all 0 or 1, and not all 0."""
    model = algorithm(next(iter(algorithm.policy_aliases)), DummyVecEnv([MaskedWalk]), **SMALL)
    size = r"expected 3 entries for each observation, one for each class of 3 actions, of 2 observations"
    for masks, words in (
        (np.ones((2, 2), bool), rf"action_masks='shape \(2, 2\)': {size}"),
        (np.ones((3, 2), bool), rf"action_masks='shape \(3, 2\)': {size}"),
        (np.ones(3, bool), rf"action_masks='shape \(3,\)': {size}"),
        ("111", rf"action_masks='shape \(\)': {size}"),
        ([[1, 0], [1]], "action_masks: found no array"),
        ([[0, 1, 0], [0, 0, 0]], "observation 1: action_masks: found all 3 actions forbidden"),
        ([[0, 1, 0], [0, np.nan, 0]], r"observation 1: action_masks: found \[0.0, nan, 0.0\], expected True or 1"),
    ):
        with pytest.raises(ValueError, match=words):
            model.predict(np.zeros((2, 5), np.float32), action_masks=masks)
    assert model.predict(np.zeros(5, np.float32), deterministic=True, action_masks=[0, 1, 0])[0] == 1


def test_sb3_contribs_callback_evaluates_with_masks() -> None:
    """The callback is known to leave policy and steps alone, and its evaluations take legal actions only."""
    env: VecEnv = DummyVecEnv([MaskedWalk])
    assert is_masking_supported(env)
    assert get_action_masks(env).shape == (1, 3)
    callback = MaskableEvalCallback(env, warn=False, eval_freq=8, n_eval_episodes=2, verbose=0)
    assert not may_change_policy(callback)
    assert not reads_every_step(callback)
    MaskableEduPPO("MlpPolicy", DummyVecEnv([MaskedWalk]), **SMALL, **NETWORK).learn(32, callback=callback)
    assert np.isfinite(callback.last_mean_reward)


def test_predictions_keep_to_masks() -> None:
    """Of 200 sampled and deterministic actions none is forbidden."""
    model = MaskableEduPPO("MlpPolicy", DummyVecEnv([lambda: MaskedWalk(action="multidiscrete")]), **SMALL, **NETWORK)
    observations = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    mask = [True, False, False, True, True]
    for deterministic in (False, True):
        actions, state = model.predict(observations, deterministic=deterministic, action_masks=np.tile(mask, (100, 1)))
        assert state is None
        assert (actions[:, 0] == 0).all()
        assert set(actions[:, 1]) <= {1, 2}
