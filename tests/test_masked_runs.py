"""Runs with masks: trained, evaluated beside random legal actions, filmed and resumed from the command line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import MaskableEduPPO, MaskableRecurrentEduPPO
from sb3_ppo_edu.algorithms.callbacks import may_change_policy, reads_every_step
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.wrappers import MasksFromInfo
from sb3_ppo_edu.training.evaluation import MaskedEvalCallback, RandomPolicy, evaluate, with_masks
from sb3_ppo_edu.training.run import close_run, learn, save_model, start_run
from sb3_ppo_edu.training.saved_run import evaluate_random, evaluate_run, open_run
from tests.command_line import process_restored, train
from tests.masked_environments import MaskedWalk, ToldMasks
from tests.small_runs import settings_for

for one in (MaskedWalk, ToldMasks):
    gym.register(f"{one.__name__}-v0", f"{one.__module__}:{one.__name__}", kwargs={"action": "multidiscrete"})
restored = pytest.fixture(autouse=True)(process_restored)


def test_a_run_with_masks(tmp_path: Path) -> None:
    """
    Training, evaluations during it and after it, and random actions: none is illegal, or the environment would end the run.

    The masks are in infos. A resumed run goes on with them.
    """
    arguments = ["--algo", "maskableeduppo", "--n-envs", "2", "--checkpoint-freq", "96", "--no-replay"]
    assert train(tmp_path, *arguments, env="ToldMasks-v0") == 0
    run = open_run(tmp_path / "run")
    assert type(run.load_model("cpu")) is MaskableEduPPO
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert record["trained"]["n"] == record["random"]["n"] == 5
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "3", "--stochastic"]) == 0
    assert main(["resume", str(tmp_path / "run"), "--steps", "384", "--no-replay"]) == 0
    assert run.load_model("cpu").num_timesteps == 384


def test_a_run_with_the_method(tmp_path: Path) -> None:
    """The same with sb3-contrib's method."""
    run = start_run(settings_for("MaskedWalk-v0", algo="maskableeduppo", eval_freq=64), tmp_path / "run")
    learn(run)
    save_model(run)
    close_run(run)
    saved = open_run(tmp_path / "run")
    assert isinstance(run.callbacks[0], MaskedEvalCallback)
    assert len(evaluate_run(saved, 3).returns) == len(evaluate_random(saved, 3).returns) == 3


class Recalled(gym.Env[Any, Any]):
    """The legal action changes from step to step, and the reward is the number of the action, one of three that are legal."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(9)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Go on for ten steps, with the same observation at each but the first."""
        assert self.action_masks()[action]
        self.steps += 1
        return np.zeros(2, np.float32), float(action), self.steps == 10, False, {}

    def action_masks(self) -> np.ndarray:
        """Three of nine."""
        masks: np.ndarray = np.arange(9) // 3 == self.steps % 3
        return masks


@pytest.mark.parametrize("algorithm", [MaskableEduPPO, MaskableRecurrentEduPPO])
def test_evaluations_have_masks_and_memory(algorithm: Any) -> None:
    """
    What a callback says of a policy is what its episodes earn when played step by step, with masks and the states behind.

    The policy has only its memory to tell the steps of an episode apart. Without one sb3-contrib's callback says the same.
    """
    memory = algorithm is MaskableRecurrentEduPPO
    policy, sizes = ("MlpLstmPolicy", {"lstm_hidden_size": 8}) if memory else ("MlpPolicy", {})
    network = {"net_arch": [8], "ortho_init": False, **sizes}
    model = algorithm(policy, Recalled(), n_steps=16, batch_size=16, policy_kwargs=network, seed=4, device="cpu")
    model.set_logger(configure(None, []))
    expected = []
    for seed in (5, 6):
        env = Recalled()
        observation, _ = env.reset(seed=seed)
        state, earned, start, done = None, 0.0, np.ones(1, bool), False
        while not done:
            actions, state = model.predict(observation[None], state, start, True, action_masks=env.action_masks()[None])
            observation, reward, done, *_ = env.step(int(actions[0]))
            earned, start = earned + reward, np.zeros(1, bool)
        expected.append(earned)
    found: list[float] = []
    for kind in (MaskedEvalCallback,) if memory else (MaskedEvalCallback, MaskableEvalCallback):
        evaluation_env = DummyVecEnv([Recalled] * 2)
        evaluation_env.seed(5)
        callback = kind(evaluation_env, n_eval_episodes=2, eval_freq=1, verbose=0, warn=False)
        assert not may_change_policy(callback) and not reads_every_step(callback)
        callback.init_callback(model)
        callback.on_step()
        found.append(callback.last_mean_reward)
    assert set(found) == {np.mean(expected)}
    if memory:
        with pytest.warns(UserWarning, match="MaskableEvalCallback: sb3-contrib's empties the memory"):
            model.learn(1, callback=[MaskableEvalCallback(evaluation_env, eval_freq=0, warn=False)])
    proxy: Any = with_masks(model, evaluation_env)
    assert copy.deepcopy(proxy).num_timesteps == model.num_timesteps


@pytest.mark.parametrize("backend", ["gymnasium-native", "envpool"])
def test_backends_without_single_environments_are_refused(backend: str, tmp_path: Path) -> None:
    """What steps all environments as one has no masks of single ones to evaluate with: nothing is trained or left behind."""
    assert train(tmp_path, "--algo", "maskableeduppo", "--vec-env", backend, env="CartPole-v1") == 2
    assert not list(tmp_path.iterdir())


def test_environments_without_masks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is written: which environment, what was not found, and what to do."""
    assert train(tmp_path, "--algo", "maskableeduppo", env="CartPole-v1") == 2
    assert "error: env=CartPole-v1: found neither a method action_masks() nor an action_mask in its" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("space", "mask", "legal"),
    [
        (spaces.Discrete(4), [0, 1, 0, 1], {1, 3}),
        (spaces.MultiDiscrete([2, 3]), [1, 0, 0, 1, 1], {(0, 1), (0, 2)}),
        (spaces.MultiBinary(2), [0, 1, 1, 1], {(1, 0), (1, 1)}),
    ],
)
def test_random_actions_are_legal(space: Any, mask: list[int], legal: set[Any]) -> None:
    """Of 100 random actions each is legal, and each legal one is among them; the seed decides."""
    observation, masks = np.zeros((100, 1)), np.tile(mask, (100, 1))
    drawn = [RandomPolicy(space, 100, 3).predict(observation, action_masks=masks)[0] for _ in range(2)]
    assert {tuple(one.tolist()) if one.ndim else int(one) for one in drawn[0]} == legal
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_masks_from_infos_by_a_method() -> None:
    """The wrapper tells what the last info told; an environment's own method goes before; without either it is an error."""
    told = MasksFromInfo(ToldMasks())
    with pytest.raises(ValueError, match=r"found neither a method action_masks\(\) nor an action_mask in its last info"):
        told.action_masks()
    _, info = told.reset(seed=1)
    np.testing.assert_array_equal(told.action_masks(), info["action_mask"])
    *_, info = told.step(1)
    np.testing.assert_array_equal(told.action_masks(), info["action_mask"])
    own = MasksFromInfo(MaskedWalk())
    own.reset(seed=1)
    assert own.action_masks() is own.unwrapped.masks  # type: ignore[attr-defined]


def test_models_without_masks_are_evaluated_as_ever() -> None:
    """A policy that takes no masks is not asked with them, and one that does is where there are none."""
    env = DummyVecEnv([lambda: Monitor(Seeded(gym.make("CartPole-v1")))])
    model = MaskableEduPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    assert len(evaluate(model, env, 2).returns) == 2


class Seeded(gym.Wrapper):
    """Names the seed of each episode, as environments to evaluate on do."""

    episodes = 0

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Count."""
        self.episodes += 1
        return self.env.reset(**arguments)

    def step(self, action: Any) -> Any:
        """Say which it is."""
        *found, info = self.env.step(action)
        return *found, {**info, "episode_seed": self.episodes}
