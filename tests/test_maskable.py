"""MaskableEduPPO with sb3-contrib's arguments and the autograd engine is sb3-contrib's MaskablePPO to the bit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_edu import MaskableEduPPO
from tests.beside_sb3 import assert_same_values
from tests.masked_environments import MaskedWalk
from tests.rollouts import Recorder, TinyExtractor

N_STEPS, ROLLOUTS = 32, 3


class OneUnit(MaskableActorCriticPolicy):
    """A policy of one's own with dropout, which draws random numbers while training."""

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.mlp_extractor.policy_net.append(th.nn.Dropout(0.2))


class HalfAdvantages(MaskableRolloutBuffer):
    """A rollout buffer of one's own that scales advantages."""

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Scale the advantages."""
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages *= 0.5


@dataclass
class Case:
    """One combination to compare."""

    policy: str | type[MaskableActorCriticPolicy] = "MlpPolicy"
    env: dict[str, Any] = field(default_factory=dict)
    n_envs: int = 1
    normalize: bool = False
    masker: bool = False
    masks: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)


def small(**policy: Any) -> dict[str, Any]:
    """Arguments with a small network."""
    return {"policy_kwargs": {"net_arch": [16, 16], **policy}}


IMAGE = {"policy_kwargs": {"features_extractor_class": TinyExtractor, "net_arch": [8]}}
APART = {"policy_kwargs": {**IMAGE["policy_kwargs"], "share_features_extractor": False}}
KINDS = ("discrete", "multidiscrete", "multibinary")
CASES: dict[str, Case] = {
    **{kind: Case(env={"action": kind}) for kind in KINDS},
    **{f"{kind}-4envs": Case(env={"action": kind}, n_envs=4, arguments={"ent_coef": 0.02}) for kind in KINDS},
    **{f"dict-{kind}": Case("MultiInputPolicy", env={"observation": "dict", "action": kind}, n_envs=2) for kind in KINDS},
    "observation-discrete": Case(env={"observation": "discrete"}, n_envs=2),
    "image": Case("CnnPolicy", env={"observation": "image"}, arguments=IMAGE),
    "image-multidiscrete-4envs": Case(
        "CnnPolicy", env={"observation": "image", "action": "multidiscrete"}, n_envs=4, arguments=APART
    ),
    "value-clip": Case(n_envs=4, arguments={"clip_range_vf": 0.1}),
    "kl-stop": Case(n_envs=4, arguments={"target_kl": 0.003, "learning_rate": 1e-2}),
    "raw-advantages": Case(arguments={"normalize_advantage": False}),
    "raw-advantages-batch-of-1": Case(arguments={"normalize_advantage": False, "batch_size": 1, "n_epochs": 1}),
    "whole-rollout": Case(n_envs=2, arguments={"batch_size": None}),
    "truncated-minibatch": Case(n_envs=3, arguments={"batch_size": 20}),
    "schedules": Case(
        arguments={
            "learning_rate": LinearSchedule(1e-3, 0.0, 1.0),
            "clip_range": LinearSchedule(0.3, 0.05, 1.0),
            "clip_range_vf": LinearSchedule(0.4, 0.1, 0.5),
        }
    ),
    "time-limits": Case(env={"end_probability": 0.0, "time_limit": 5}, n_envs=4),
    "vecnormalize": Case(n_envs=4, normalize=True),
    "separate-nets": Case(arguments=small(net_arch={"pi": [8, 8], "vf": [16]})),
    "no-hidden-layers": Case(env={"action": "multidiscrete"}, arguments=small(net_arch=[])),
    "relu-sgd": Case(arguments=small(activation_fn=th.nn.ReLU, optimizer_class=th.optim.SGD)),
    "own-policy": Case(OneUnit),
    "own-buffer": Case(n_envs=2, arguments={"rollout_buffer_class": HalfAdvantages}),
    "action-masker": Case(masker=True),
    "without-masks": Case(env={"strict": False}, masks=False, n_envs=2),
}


def make_env(case: Case, seed: int) -> VecEnv:
    """The case's environments."""

    def make() -> Any:
        env = MaskedWalk(**case.env)
        return ActionMasker(env, lambda inside: inside.unwrapped.masks) if case.masker else env  # type: ignore[attr-defined]

    env: VecEnv = make_vec_env(make, n_envs=case.n_envs, seed=seed)
    return VecNormalize(env, gamma=0.95) if case.normalize else env


def make_model(algorithm: Any, case: Case, seed: int = 3, **ours: Any) -> tuple[Any, Recorder]:
    """A model of the case that records what it logs."""
    arguments = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 3, "seed": seed, "device": "cpu", **small()}
    arguments |= case.arguments
    if algorithm is MaskableEduPPO:
        arguments |= {"engine": "autograd", **ours}
    model = algorithm(case.policy, make_env(case, seed), **arguments)
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    return model, recorder


@dataclass
class Trained:
    """A model after its training, and what else must be the same."""

    model: Any
    rows: list[dict[str, Any]]
    random: tuple[float, float]


def train(algorithm: Any, case: Case) -> Trained:
    """Three rollouts and updates."""
    model, recorder = make_model(algorithm, case)
    model.learn(ROLLOUTS * N_STEPS * case.n_envs, use_masking=case.masks)
    model.logger.dump(model.num_timesteps)
    return Trained(model, recorder.rows, (th.rand(()).item(), float(np.random.random())))


def assert_same(ours: Any, theirs: Any) -> None:
    """Parameters, optimizer and episodes are the same bits."""
    assert_same_values(ours.policy.state_dict(), theirs.policy.state_dict(), "policy")
    assert_same_values(ours.policy.optimizer.state_dict(), theirs.policy.optimizer.state_dict(), "optimizer")
    for key in ("r", "l"):
        assert [info[key] for info in ours.ep_info_buffer] == [info[key] for info in theirs.ep_info_buffer], key


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_same_bits_as_sb3_contrib(name: str) -> None:
    """After three rollouts and updates nothing tells the two apart: weights, optimizer, logs, episodes, random streams."""
    case = CASES[name]
    theirs, ours = (train(algorithm, case) for algorithm in (MaskablePPO, MaskableEduPPO))
    assert_same(ours.model, theirs.model)
    assert ours.random == theirs.random
    assert len(ours.rows) == len(theirs.rows) > 0
    for row, their_row in zip(ours.rows, theirs.rows, strict=True):
        for key in their_row.keys() - {"time/fps", "time/time_elapsed"}:
            np.testing.assert_equal(row[key], their_row[key], err_msg=key)
            assert type(row[key]) is type(their_row[key]), key
    np.testing.assert_array_equal(ours.model.rollout_buffer.action_masks, theirs.model.rollout_buffer.action_masks)
    if name == "kl-stop":
        assert any(row.get("train/early_stop_epoch", 3) < 3 for row in ours.rows), "the case should reach its target_kl"


def test_at_least_twenty_cases() -> None:
    """The promise of twenty combinations is kept by the list itself."""
    assert len(CASES) >= 20


def test_signature_is_sb3_contribs() -> None:
    """Constructor, learn and predict have every parameter in the same place with the same default; more are keyword-only."""
    for name in ("__init__", "learn", "predict"):
        theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (MaskablePPO, MaskableEduPPO))
        assert list(ours)[: len(theirs)] == list(theirs)
        for parameter in theirs.values():
            if parameter.name != "tb_log_name":
                assert ours[parameter.name].default == parameter.default, parameter
        for parameter in list(ours.values())[len(theirs) :]:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter
    assert MaskableEduPPO.policy_aliases == MaskablePPO.policy_aliases


OF_A_STEP = (
    *("obs_tensor", "actions", "values", "log_probs", "new_obs", "rewards", "dones", "n_steps"),
    *("action_masks", "lstm_states", "episode_starts"),
)


def plain(value: Any) -> Any:
    """Copy a value of a step, tensors within tuples too, with its type."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    kept = value.numpy() if isinstance(value, th.Tensor) else value
    return type(value).__name__, kept.copy() if isinstance(kept, np.ndarray) else kept


class Peeker(BaseCallback):
    """Looks at the local variables that callbacks are given, and ends training after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.names, self.found = steps, set[str](), list[dict[str, Any]]()

    def _on_step(self) -> bool:
        self.names |= set(self.locals)
        self.found.append({name: plain(self.locals.get(name)) for name in OF_A_STEP})
        return self.n_calls < self.steps


def test_callbacks_see_sb3_contribs_locals() -> None:
    """What a callback finds under MaskablePPO is there under MaskableEduPPO, the masks among it."""
    seen, found = [], []
    for algorithm in (MaskablePPO, MaskableEduPPO):
        model, _ = make_model(algorithm, CASES["discrete"])
        peeker = Peeker(N_STEPS + 3)
        model.learn(10 * N_STEPS, callback=peeker)
        assert model.num_timesteps == N_STEPS + 3
        seen.append(peeker.names)
        found.append(peeker.found)
    np.testing.assert_equal(found[1], found[0])
    assert found[1][0]["action_masks"][0] == "ndarray"
    inside = {"idx", "done", "terminal_obs", "terminal_value", "iteration", "log_interval", "continue_training", "use_masking"}
    assert seen[0] - seen[1] <= inside


@pytest.mark.parametrize("name", ["discrete", "dict-multidiscrete", "schedules", "vecnormalize"])
@pytest.mark.parametrize("saved_by", [MaskablePPO, MaskableEduPPO], ids=["theirs", "ours"])
def test_files_go_both_ways(name: str, saved_by: Callable[..., Any], tmp_path: Path) -> None:
    """A model that either class has saved goes on in both to the same bits, and predicts the same."""
    case = CASES[name]
    model, _ = make_model(saved_by, case)
    model.learn(N_STEPS * case.n_envs)
    model.save(tmp_path / "model.zip")
    found: list[Any] = []
    for algorithm in (MaskablePPO, MaskableEduPPO):
        # A schedule that MaskablePPO does not know goes to it as a number.
        plain = {"ent_coef": 0.0, "vf_coef": 0.5} if algorithm is MaskablePPO else {"engine": "autograd"}
        other = algorithm.load(tmp_path / "model.zip", env=make_env(case, 8), device="cpu", **plain)
        other.set_random_seed(5)
        other.learn(N_STEPS * case.n_envs, reset_num_timesteps=False)
        found.append(other)
    assert_same(found[1], found[0])
    observation = found[0].env.reset()
    masks = np.array(found[0].env.env_method("action_masks"))
    actions = [one.predict(observation, deterministic=True, action_masks=masks)[0] for one in found]
    np.testing.assert_array_equal(*actions)
