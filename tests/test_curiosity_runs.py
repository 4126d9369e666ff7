"""Curiosity wherever environments are built: settings, command line, zoo, evaluation, exact resume, strangers' files."""

from __future__ import annotations

import contextlib
import copy
import csv
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_wrapper

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.checkpoint import ExactCheckpoint, Resumable
from sb3_ppo_edu.checkpoint.environments import capture_vec_env, restore_vec_env
from sb3_ppo_edu.checkpoint.plain import pack, unpack
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs.factory import EnvironmentSettings, make_evaluation_env, make_training_env
from sb3_ppo_edu.vec_env.curiosity import Curiosity
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv
from tests.command_line import process_restored

_restored = pytest.fixture(autouse=True)(process_restored)

NAME = "sb3_ppo_edu.vec_env.Curiosity"
SETTINGS = f"""
CartPole-v1:
  policy: MlpPolicy
  n_timesteps: 256
  n_envs: 2
  n_steps: 32
  batch_size: 32
  n_epochs: 1
  normalize: true
  policy_kwargs: "dict(net_arch=[8])"
  vec_env_wrapper:
    - {NAME}: {{coef: 0.5, n_steps: 32, width: 8}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """A file of settings with curiosity."""
    path = tmp_path / "curious.yml"
    path.write_text(SETTINGS)
    return str(path)


def curiosity_of(env: VecEnv | None) -> Curiosity:
    """The wrapper among the layers of an environment."""
    assert env is not None
    found = unwrap_vec_wrapper(env, Curiosity)
    assert isinstance(found, Curiosity)
    return found


def contents(model: EduPPO) -> list[bytes]:
    """All numbers of a policy and of its curiosity."""
    curious = curiosity_of(model.env)
    networks = [model.policy, curious.target, curious.predictor]
    moments = [curious.observation_moments.mean, curious.observation_moments.var, curious.return_moments.var]
    arrays = [one.numpy() for network in networks for one in network.state_dict().values()]
    optimizer = curious.optimizer.state_dict()["state"]
    arrays += [one.numpy() for state in optimizer.values() for one in state.values()]
    return [np.asarray(one).tobytes() for one in [*arrays, *moments, curious.intrinsic_returns, *curious.kept, curious.chosen]]


class Interrupt(BaseCallback):
    """Ends a training in the middle of a rollout, at the moment that a test sets."""

    at = 10**9

    def _on_step(self) -> bool:
        if self.num_timesteps >= Interrupt.at:
            raise KeyboardInterrupt
        return True


def callbacks(folder: Path) -> list[BaseCallback]:
    """Checkpoints each 50 steps, in the middle of the predictor's rollouts of 2 × 20, and what may end the training."""
    return [ExactCheckpoint(50, folder, handle_signals=False), Interrupt()]


def trained(folder: Path, wrap: Any = VecNormalize) -> EduPPO:
    """A training of 300 steps with checkpoints."""
    base = make_vec_env("CartPole-v1", 2, seed=1, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable)
    env = wrap(Curiosity(base, n_steps=20, proportion=0.5, width=16))
    model = EduPPO("MlpPolicy", env, n_steps=30, batch_size=30, n_epochs=2, seed=3, device="cpu")
    with contextlib.suppress(KeyboardInterrupt):
        model.learn(300, callback=callbacks(folder))
    return model


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("given", ["functions", "environments"])
def test_exact_resume(tmp_path: Path, given: str, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within a rollout and resumed, policy and curiosity end with the bits of an undisturbed training."""
    expected = contents(trained(tmp_path / "whole"))
    monkeypatch.setattr(Interrupt, "at", 170)
    stopped = trained(tmp_path / "part")
    monkeypatch.undo()
    assert contents(stopped) != expected
    assert stopped.env is not None
    fresh: Any = [lambda env=env: env for env in stopped.env.unwrapped.envs]  # type: ignore[attr-defined]
    if given == "environments":
        fresh = VecNormalize(Curiosity(InProcessVecEnv(fresh), n_steps=20, proportion=0.5, width=16))
    model = EduPPO.resume(tmp_path / "part", fresh, device="cpu", trusted=trusted)
    assert (model.num_timesteps, model.resumed_envs) == (150, ["replayed"] * 2)
    assert contents(model.learn(300, callback=callbacks(tmp_path / "part"))) == expected


def test_arguments_are_the_resumed_trainings_own(tmp_path: Path) -> None:
    """What was learned is restored; weight, rates and sizes are the new wrapper's, whatever the file says."""
    state = unpack(pack(capture_vec_env(curiosity_of(trained(tmp_path, wrap=lambda env: env).env))))
    base = make_vec_env("CartPole-v1", 2, vec_env_cls=InProcessVecEnv, wrapper_class=Resumable)
    other = Curiosity(base, coef=7.0, n_steps=20, learning_rate=0.5, width=16, active=False)
    restore_vec_env(other, state, replay=False)
    assert (other.coef, other.active, other.optimizer.param_groups[0]["lr"], other.n_updates) == (7.0, False, 0.5, 7)
    wider = Curiosity(base, n_steps=20, width=17)
    with pytest.raises(ValueError, match=r"(?s)Curiosity: its target: .*size mismatch"):
        restore_vec_env(wider, state, replay=False)


def test_evaluation_is_not_curious(tmp_path: Path) -> None:
    """Built for evaluation, rewards are the environment's own and nothing is learned; SB3's EvalCallback copies moments."""
    environment = EnvironmentSettings("CartPole-v1", vec_wrapper={NAME: {"n_steps": 8}}, normalize={"norm_reward": False})
    env, judge = make_training_env(environment, 2), make_evaluation_env(environment, 2)
    model = EduPPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128, callback=EvalCallback(judge, eval_freq=32, n_eval_episodes=2, log_path=str(tmp_path), verbose=0))
    assert (curiosity_of(env).n_updates, curiosity_of(judge).n_updates) == (8, 0)
    assert np.any(model.rollout_buffer.rewards > 1.0)
    judge.reset()
    assert {float(judge.step(np.zeros(2, np.int64))[1][0]) for _ in range(60)} == {1.0}
    found = np.load(tmp_path / "evaluations.npz")
    assert found["results"].tolist() == found["ep_lengths"].tolist()


def test_the_command_line_trains_and_resumes_without_trust(settings: str, tmp_path: Path) -> None:
    """By its name in a file: trained, logged under ``curiosity/``, its checkpoint resumed and its run evaluated untrusted."""
    given = ["--config", settings, "--folder", str(tmp_path), "--name", "run", "--no-replay", "--eval-episodes", "2"]
    assert main(["train", "--env", "CartPole-v1", *given, "--checkpoint-freq", "100"]) == 0
    with (tmp_path / "run" / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logged = {
        name: [float(row[f"curiosity/{name}"] or "nan") for row in rows] for name in ("bonus", "prediction_error", "loss")
    }
    first, *bonuses = [one for one in logged["bonus"] if one == one]
    assert (first, len(bonuses)) == (0.0, 2)
    assert min(bonuses) > 0
    assert min(np.nanmin(logged[name]) for name in ("prediction_error", "loss")) > 0
    assert main(["resume", str(tmp_path / "run"), "--steps", "320", "--eval-episodes", "2", "--no-replay"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{n_steps: none}", "Curiosity: n_steps='none': expected an integer"),
        ("{coeff: 1.0}", f"{NAME}: .*unexpected keyword argument 'coeff'"),
    ],
)
def test_wrong_settings_are_refused(
    given: str, said: str, settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One error that names the argument, exit code 2, and no run's folder."""
    Path(settings).write_text(SETTINGS.replace("{coef: 0.5, n_steps: 32, width: 8}", given))
    assert main(["train", "--env", "CartPole-v1", "--config", settings, "--folder", str(tmp_path), "--name", "run"]) == 2
    captured = capsys.readouterr().err
    assert re.search(said, " ".join(captured.split())), captured
    assert not (tmp_path / "run").exists()


def test_the_zoo_trains_with_it_and_judges_without(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its evaluations and what ``enjoy`` prints are the environment's own returns, whole numbers for CartPole."""
    pytest.importorskip("requests", reason="the zoo's enjoy imports requests")
    from sb3_ppo_edu import zoo

    given = ["--env", "CartPole-v1", "-f", str(tmp_path), "--device", "cpu"]
    evaluations = ["--eval-freq", "128", "--eval-episodes", "2", "--seed", "3", "--num-threads", "1"]
    assert zoo.main(["train", *given, *evaluations, "--conf-file", settings]) == 0
    found = np.load(next(tmp_path.rglob("evaluations.npz")))
    assert found["results"].tolist() == found["ep_lengths"].tolist()
    capsys.readouterr()
    assert zoo.main(["enjoy", *given, "-n", "400", "--no-render"]) == 0
    returns = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("Episode Reward:")]
    assert len(returns) > 2
    assert all(one.endswith(".00") for one in returns)


WRAPPED: dict[str, Any] = {
    "curious": lambda env: Curiosity(env, n_steps=8),
    "normalised": VecNormalize,
    "both": lambda env: VecNormalize(Curiosity(env, n_steps=8)),
}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
@pytest.mark.parametrize("case", WRAPPED)
def test_a_copied_model_says_how_to_give_it_environments(case: str, copied: Any) -> None:
    """Without them ``learn`` is refused, with the calls after which it goes on; the copy's predictor has what was learned."""
    wrap = WRAPPED[case]
    trained = EduPPO("MlpPolicy", wrap(make_vec_env("CartPole-v1", 2)), n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    model: Any = copied(trained.learn(32))
    assert len(model.predict(np.zeros(model.observation_space.shape, np.float32))) == 2
    with pytest.raises(ArgumentError, match="without environments, as copies and pickles have it; expected some: ") as refused:
        model.learn(16, reset_num_timesteps=False)
    assert "model.env.set_venv(venv), then model.set_env(model.env), keeps" in str(refused.value)
    model.env.set_venv(make_vec_env("CartPole-v1", 2))
    model.set_env(model.env)
    assert model.learn(16, reset_num_timesteps=False).num_timesteps == 48
    if case == "curious":
        assert curiosity_of(model.env).n_updates > curiosity_of(trained.env).n_updates > 0
    model.set_env(wrap(make_vec_env("CartPole-v1", 2)))
    model.learn(16)


def test_a_copied_training_environment_has_its_own_optimizer(tmp_path: Path) -> None:
    """Going on with the original moves no number of the copy."""
    model = trained(tmp_path, wrap=lambda env: env)
    copied = copy.deepcopy(curiosity_of(model.env))
    before = [one.clone() for one in copied.predictor.parameters()]
    model.learn(100)
    assert all(th.equal(one, other) for one, other in zip(before, copied.predictor.parameters(), strict=True))
