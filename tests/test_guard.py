"""Nothing that is not finite passes the guard, and it says where it was found."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.checkpoint.environments import capture_vec_env, restore_vec_env, vec_layers
from sb3_ppo_edu.checkpoint.files import latest_good
from sb3_ppo_edu.checkpoint.plain import pack, unpack
from sb3_ppo_edu.vec_env.guard import FiniteGuard, NonFiniteStepError
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

EPISODE = 5


class Faulty(gym.Env[Any, Any]):
    """
    Episodes of five steps; at one step of its life something is not finite.

    :param part: "observation" (its number 1), "reward", or None
    :param at: step of the environment's life; -1 for its first reset
    :param value: what is found there
    :param kind: of observation: "box", "dict" or "tuple"
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, part: str | None = None, at: int = 7, value: float = np.nan, kind: str = "box") -> None:
        self.part, self.at, self.value, self.kind = part, at, value, kind
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = {
            "box": vector,
            "dict": spaces.Dict({"choice": spaces.Discrete(4), "vector": vector}),
            "tuple": spaces.Tuple((spaces.Discrete(4), vector)),
        }[kind]
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.life = 0

    def _observe(self, faulty: bool) -> Any:
        vector = np.array([1.0, self.value if faulty else 2.0, 3.0], np.float32)
        return {"box": vector, "dict": {"choice": 1, "vector": vector}, "tuple": (1, vector)}[self.kind]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(self.part == "observation" and self.at == -1 and self.life == 0), {}

    def get_state(self) -> list[int]:
        return [self.steps, self.life]

    def set_state(self, state: list[int]) -> None:
        self.steps, self.life = state

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.life += 1
        assert np.isfinite(action).all()
        now = self.life == self.at
        reward = self.value if now and self.part == "reward" else 0.25
        return self._observe(now and self.part == "observation"), reward, False, self.steps == EPISODE, {}


def guarded(on_fault: str = "raise", base: Any = InProcessVecEnv, **fault: Any) -> FiniteGuard:
    """Three environments, of which number 1 has a fault."""
    kind = fault.get("kind", "box")
    return FiniteGuard(base([partial(Faulty, kind=kind), partial(Faulty, **fault), partial(Faulty, kind=kind)]), on_fault)


def play(env: VecEnv, steps: int) -> list[Any]:
    """Reset and step with actions of 0.5."""
    env.reset()
    return [env.step(np.full((env.num_envs, 2), 0.5, np.float32)) for _ in range(steps)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        # Step 7 of a life in episodes of 5 is step 2 of the second; 3 environments have made 21 steps by then.
        ({"part": "observation"}, r"environment 1, step 2 of its episode, 21 of all .*: observation\[1\]: found"),
        ({"part": "reward"}, "environment 1, step 2 of its episode, 21 of all .*: reward: found"),
        ({"part": "observation", "kind": "dict"}, r"step 2 of its episode, 21 of all .*: observation\['vector'\]\[1\]: found"),
        ({"part": "observation", "kind": "tuple"}, r"environment 1, step 2 of its episode, .*: observation\[1\]\[1\]: found"),
        # The fifth step ends the episode, and the vector's observation is the next one's first.
        ({"part": "reward", "at": 5}, "environment 1, step 5 of its episode, 15 of all .*: reward: found"),
        (
            {"part": "observation", "at": 5},
            r"step 5 of its episode, 15 of all .*: observation at the episode's end\[1\]: found",
        ),
        (
            {"part": "observation", "at": 5, "kind": "dict"},
            r"step 5 of its .*: observation\['vector'\] at the episode's end\[1\]: found",
        ),
        ({"part": "observation", "at": -1}, r"environment 1, step 0 of its episode, 0 of all .*: observation\[1\]: found"),
    ],
    ids=["observation", "reward", "dict", "tuple", "last reward", "last observation", "last of a dict", "first"],
)
def test_what_is_not_finite_stops_at_its_step(fault: dict[str, Any], said: str, value: float) -> None:
    """The error comes at the very step, and names environment, step, component, what was found and what to do."""
    at = fault.get("at", 7)
    env = guarded(value=value, **fault)
    play_up_to = max(at - 1, 0)
    if at > 0:
        assert len(play(guarded(value=value, **fault), play_up_to)) == play_up_to
    with pytest.raises(NonFiniteStepError, match=rf"{said} {value}, expected finite numbers: .*on_fault='warn'"):
        play(env, max(at, 0))


@pytest.mark.parametrize("base", [InProcessVecEnv, DummyVecEnv])
def test_an_action_stops_before_any_environment_moves(base: Any) -> None:
    """A NaN in an action reaches no environment; whole numbers can't be NaN."""
    env = guarded(base=base)
    env.reset()
    actions = np.zeros((3, 2), np.float32)
    env.step(actions)
    actions[2, 1] = np.nan
    with pytest.raises(NonFiniteStepError, match=r"environment 2, step 2 of its episode, 6 of all .*: action\[1\]: found nan"):
        env.step(actions)
    assert env.get_attr("life") == [1, 1, 1]
    cart = FiniteGuard(make_vec_env("CartPole-v1", 2, vec_env_cls=base))
    cart.reset()
    cart.step(np.array([0, 1]))


@pytest.mark.parametrize("kind", ["box", "dict", "tuple"])
@pytest.mark.parametrize("at", [5, 7])
def test_warned_of_and_replaced_by_zero(kind: str, at: int) -> None:
    """Told to warn, the guard puts 0 where the value was, and nothing else changes."""
    env = guarded("warn", part="observation", at=at, kind=kind, value=np.inf)
    with pytest.warns(UserWarning, match=r"environment 1, .*: found inf.*0 is put in its place"):
        steps = play(env, at)
    observations, rewards, dones, infos = steps[-1]
    found = observations if at == 7 else infos[1]["terminal_observation"]
    vector = {"box": lambda: found, "dict": lambda: found["vector"], "tuple": lambda: found[1]}[kind]()
    expected = [1.0, 0.0, 3.0]
    np.testing.assert_array_equal(vector[1] if at == 7 else vector, expected)
    if at == 7:
        np.testing.assert_array_equal(vector[0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(rewards, [0.25] * 3)
    np.testing.assert_array_equal(dones, [at == EPISODE] * 3)


def test_warned_of_once_for_each_environment_and_kind() -> None:
    """An action and then a reward of environment 0 and an action of environment 2: three warnings however often they come."""
    env = FiniteGuard(InProcessVecEnv([partial(Faulty, "reward", 3), Faulty, Faulty]), "warn")
    env.reset()
    bad = np.zeros((3, 2), np.float32)
    bad[0, 0] = np.nan
    worse = np.full((3, 2), -np.inf, np.float32)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for actions in (bad, bad, bad, worse, worse):
            _, rewards, _, _ = env.step(actions)
            assert np.isfinite(rewards).all()
    said = [str(one.message).split(":")[0].split(",")[0] + str(one.message).split(":")[1] for one in seen]
    assert said == [
        "environment 0 action[0]",
        "environment 0 reward",
        "environment 1 action[0]",
        "environment 2 action[0]",
    ]


def test_finite_values_pass_untouched() -> None:
    """Observations are the very arrays that the environments gave, as large as float32 can have them."""
    env = guarded(part="observation", value=3e38)
    bare = InProcessVecEnv([Faulty, partial(Faulty, "observation", value=3e38), Faulty])
    for guard, plain in zip(play(env, 12), play(bare, 12), strict=True):
        for one, other in zip(guard[:3], plain[:3], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_reset_begins_an_episode() -> None:
    """After two steps and a reset, the life's seventh step is the fifth since."""
    env = guarded(part="reward")
    play(env, 2)
    with pytest.raises(NonFiniteStepError, match="environment 1, step 5 of its episode, 21 of all"):
        play(env, 5)


def test_only_two_words_are_known() -> None:
    """The error names the words."""
    with pytest.raises(ValueError, match="on_fault='stop': expected one of raise, warn"):
        guarded("stop")


def test_a_checkpoint_keeps_the_guard() -> None:
    """Steps, beginnings of episodes and what was warned of are restored; ``on_fault`` is what the new guard says."""
    env = guarded("warn", part="reward", at=3)
    with pytest.warns(UserWarning, match="reward"):
        play(env, 7)
    state = unpack(pack(capture_vec_env(env)))
    other = guarded("raise")
    restore_vec_env(other, state, replay=False)
    assert (other.calls, other.began.tolist(), other.warned) == (7, [5, 5, 5], ["1 reward"])
    assert other.on_fault == "raise"


def faulty_training(folder: Path, on_fault: str, at: int) -> tuple[EduPPO, list[Any]]:
    """A model whose second environment has a fault, normalised, with checkpoints every 20 steps."""
    fns: list[Any] = [lambda: Resumable(Faulty()), lambda: Resumable(Faulty("observation", at))]
    env = VecNormalize(FiniteGuard(InProcessVecEnv(fns), on_fault))
    callbacks: list[Any] = [ExactCheckpoint(20, folder, handle_signals=False)]
    return EduPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=1, device="cpu"), callbacks


def test_the_last_good_checkpoint_survives_a_fault(tmp_path: Path) -> None:
    """
    A NaN at step 37 of environment 1 stops the training there; the checkpoint of step 60 (30 of each) has seen none.

    Resumed with the environment mended, by functions that build the layers anew, training ends as one that never had a fault.
    Resumed with "warn", it goes on through the fault.
    """
    model, callbacks = faulty_training(tmp_path / "a", "raise", 37)
    with pytest.raises(NonFiniteStepError, match="environment 1, step 2 of its episode, 74 of all"):
        model.learn(96, callback=callbacks)
    good = latest_good(tmp_path / "a")
    assert (good.path.name, good.skipped) == ("checkpoint-000000000060.zip", [])
    assert model.num_timesteps == 72

    mended = EduPPO.resume(tmp_path / "a", [Faulty, Faulty], device="cpu")
    assert mended.num_timesteps == 60
    assert [type(layer).__name__ for layer in vec_layers(mended.get_env())] == [  # type: ignore[arg-type]
        "VecNormalize",
        "FiniteGuard",
        "InProcessVecEnv",
    ]
    mended.learn(96, callback=[ExactCheckpoint(20, tmp_path / "b", handle_signals=False)])
    undisturbed, callbacks = faulty_training(tmp_path / "c", "raise", 10_000)
    undisturbed.learn(96, callback=callbacks)
    for one, other in zip(mended.policy.parameters(), undisturbed.policy.parameters(), strict=True):
        assert one.detach().numpy().tobytes() == other.detach().numpy().tobytes()

    warned, callbacks = faulty_training(tmp_path / "a", "warn", 37)
    env = warned.get_env()
    assert env is not None
    resumed = EduPPO.resume(tmp_path / "a", env, device="cpu")
    with pytest.warns(UserWarning, match="environment 1, step 2 of its episode, 74 of all"):
        resumed.learn(96, callback=callbacks)
    assert resumed.num_timesteps == 96


def test_evaluation_environments_are_guarded_alike(tmp_path: Path) -> None:
    """SB3's EvalCallback copies the moments through the guard, and does not complain."""
    env = VecNormalize(FiniteGuard(InProcessVecEnv([lambda: Monitor(Faulty())])))
    judge = VecNormalize(FiniteGuard(InProcessVecEnv([lambda: Monitor(Faulty())])), training=False, norm_reward=False)
    model = EduPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=1, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(32, callback=EvalCallback(judge, eval_freq=16, n_eval_episodes=1, verbose=0))
    moments: list[Any] = [judge.obs_rms, env.obs_rms]
    np.testing.assert_array_equal(moments[0].mean, moments[1].mean)
