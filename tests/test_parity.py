"""EduPPO with SB3's arguments and the autograd engine is SB3's PPO to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_edu import EduPPO
from tests.environments import RandomWalk
from tests.rollouts import Recorder

N_STEPS = 32
ROLLOUTS = 4


class TinyExtractor(BaseFeaturesExtractor):
    """A small convolution, so that image policies run quickly."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=16)
        channels = observation_space.shape[0]
        convolution = th.nn.Conv2d(channels, 4, 8, stride=8)
        self.net = th.nn.Sequential(convolution, th.nn.ReLU(), th.nn.Flatten(), th.nn.Linear(64, 16))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features of an image."""
        out: th.Tensor = self.net(observations)
        return out


class CustomPolicy(ActorCriticPolicy):
    """A custom policy class with dropout, which draws random numbers while training."""

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.mlp_extractor.policy_net.append(th.nn.Dropout(0.2))


class CustomBuffer(RolloutBuffer):
    """A rollout buffer of one's own that scales advantages."""

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Scale the advantages."""
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages *= 0.5


@dataclass
class Case:
    """One combination to compare."""

    policy: str | type[ActorCriticPolicy] = "MlpPolicy"
    env: dict[str, Any] = field(default_factory=dict)
    n_envs: int = 1
    normalize: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)
    small_net: bool = True


def small(**kwargs: Any) -> dict[str, Any]:
    """Policy arguments with a small network."""
    return {"net_arch": [16, 16], **kwargs}


IMAGE = {"features_extractor_class": TinyExtractor, "net_arch": []}
CASES: dict[str, Case] = {
    "defaults": Case(),
    **{f"action-{a}": Case(env={"action": a}) for a in ("discrete", "multidiscrete", "multibinary")},
    **{f"action-{a}-4envs": Case(env={"action": a}, n_envs=4) for a in ("box", "discrete", "multidiscrete", "multibinary")},
    "observation-discrete": Case(env={"observation": "discrete", "action": "discrete"}),
    "observation-discrete-4envs": Case(env={"observation": "discrete"}, n_envs=4),
    **{
        f"observation-dict-{a}": Case("MultiInputPolicy", env={"observation": "dict", "action": a})
        for a in ("box", "discrete", "multidiscrete", "multibinary")
    },
    "observation-dict-4envs": Case("MultiInputPolicy", env={"observation": "dict"}, n_envs=4),
    "observation-image-discrete": Case("CnnPolicy", env={"observation": "image", "action": "discrete"}, small_net=False),
    "observation-image-box": Case(
        "CnnPolicy", env={"observation": "image"}, n_envs=4, arguments={"policy_kwargs": IMAGE}, small_net=False
    ),
    "gsde": Case(arguments={"use_sde": True}),
    "gsde-4envs-resampled": Case(n_envs=4, arguments={"use_sde": True, "sde_sample_freq": 4}),
    "gsde-squashed": Case(arguments={"use_sde": True, "policy_kwargs": small(squash_output=True)}),
    "value-clip": Case(arguments={"clip_range_vf": 0.1}),
    "value-clip-4envs-discrete": Case(env={"action": "discrete"}, n_envs=4, arguments={"clip_range_vf": 0.2}),
    "kl-stop": Case(arguments={"target_kl": 0.005, "learning_rate": 1e-2}),
    "kl-stop-4envs-discrete": Case(
        env={"action": "discrete"}, n_envs=4, arguments={"target_kl": 0.003, "learning_rate": 1e-2}
    ),
    "raw-advantages": Case(arguments={"normalize_advantage": False}),
    "raw-advantages-batch-of-1": Case(arguments={"normalize_advantage": False, "batch_size": 1, "n_epochs": 1}),
    "entropy": Case(arguments={"ent_coef": 0.02}),
    "entropy-multibinary": Case(env={"action": "multibinary"}, arguments={"ent_coef": 0.02}),
    "entropy-gsde-squashed": Case(arguments={"use_sde": True, "ent_coef": 0.02, "policy_kwargs": small(squash_output=True)}),
    "schedules": Case(
        arguments={
            "learning_rate": LinearSchedule(1e-3, 0.0, 1.0),
            "clip_range": LinearSchedule(0.3, 0.05, 1.0),
            "clip_range_vf": LinearSchedule(0.4, 0.1, 0.5),
        }
    ),
    "truncated-minibatch": Case(n_envs=3, arguments={"batch_size": 20}),
    "truncated-minibatch-of-1": Case(n_envs=3, arguments={"batch_size": 19, "n_steps": 32}),
    "time-limits": Case(env={"end_probability": 0.0, "time_limit": 5}, n_envs=4),
    "time-limits-dict": Case("MultiInputPolicy", env={"observation": "dict", "time_limit": 5}, n_envs=2),
    "no-time-limits": Case(env={"time_limit": 10**6}, n_envs=2),
    "vecnormalize": Case(normalize=True),
    "vecnormalize-4envs": Case(env={"action": "discrete"}, n_envs=4, normalize=True, arguments={"clip_range_vf": 0.2}),
    "separate-nets": Case(arguments={"policy_kwargs": {"net_arch": {"pi": [8, 8], "vf": [16]}}}),
    "no-hidden-layers": Case(arguments={"policy_kwargs": {"net_arch": []}}),
    "shared-extractor-net": Case(
        "CnnPolicy",
        env={"observation": "image", "action": "discrete"},
        arguments={"policy_kwargs": {**IMAGE, "net_arch": [8]}},
        small_net=False,
    ),
    "separate-extractors": Case(
        "CnnPolicy",
        env={"observation": "image"},
        arguments={"policy_kwargs": {**IMAGE, "share_features_extractor": False}},
        small_net=False,
    ),
    "relu-no-ortho": Case(arguments={"policy_kwargs": small(activation_fn=th.nn.ReLU, ortho_init=False)}),
    "log-std-init": Case(arguments={"policy_kwargs": small(log_std_init=-1.0)}),
    "adam-default-eps": Case(arguments={"policy_kwargs": small(optimizer_kwargs={"eps": 1e-8, "betas": (0.8, 0.99)})}),
    "adamw": Case(arguments={"policy_kwargs": small(optimizer_class=th.optim.AdamW, optimizer_kwargs={"weight_decay": 0.1})}),
    "sgd": Case(arguments={"policy_kwargs": small(optimizer_class=th.optim.SGD, optimizer_kwargs={"momentum": 0.9})}),
    "rmsprop": Case(arguments={"policy_kwargs": small(optimizer_class=th.optim.RMSprop)}),
    "rmsprop-tf": Case(
        n_envs=4, arguments={"policy_kwargs": small(optimizer_class=RMSpropTFLike, optimizer_kwargs={"eps": 1e-5})}
    ),
    "custom-policy": Case(CustomPolicy),
    "custom-buffer": Case(n_envs=2, arguments={"rollout_buffer_class": CustomBuffer}),
    "dict-buffer-named": Case(
        "MultiInputPolicy", env={"observation": "dict"}, arguments={"rollout_buffer_class": DictRolloutBuffer}
    ),
    "gamma-lambda-coefficients": Case(
        n_envs=2, arguments={"gamma": 0.9, "gae_lambda": 0.5, "vf_coef": 1, "max_grad_norm": 0.05, "clip_range": 0.05}
    ),
}
MUST_STOP_EARLY = {"kl-stop", "kl-stop-4envs-discrete"}


def make_env(case: Case, seed: int) -> VecEnv:
    """The case's environments."""
    env: VecEnv = make_vec_env(lambda: RandomWalk(**case.env), n_envs=case.n_envs, seed=seed)
    return VecNormalize(env, gamma=0.95) if case.normalize else env


def make_model(algorithm: type[BaseAlgorithm], case: Case, seed: int = 3) -> tuple[Any, Recorder]:
    """A model of the case that records what it logs."""
    arguments: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 3, "seed": seed, "device": "cpu"}
    arguments |= case.arguments
    if case.small_net:
        arguments.setdefault("policy_kwargs", small())
    if algorithm is EduPPO:
        arguments["engine"] = "autograd"
    constructor: Callable[..., Any] = algorithm
    model = constructor(case.policy, make_env(case, seed), **arguments)
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    return model, recorder


def assert_same_values(ours: Any, theirs: Any, where: str) -> None:
    """Compare nested states bit by bit."""
    if isinstance(theirs, th.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert th.equal(ours, theirs), where
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


def assert_same_models(ours: Any, theirs: Any) -> None:
    """Parameters, optimizer state, episode statistics and random streams are the same bits."""
    assert_same_values(ours.policy.state_dict(), theirs.policy.state_dict(), "policy")
    assert_same_values(ours.policy.optimizer.state_dict(), theirs.policy.optimizer.state_dict(), "optimizer")
    for key in ("r", "l"):
        assert [info[key] for info in ours.ep_info_buffer] == [info[key] for info in theirs.ep_info_buffer], key


def random_numbers() -> tuple[float, float]:
    """The next numbers of torch's and numpy's global generators."""
    return th.rand(()).item(), float(np.random.random())


def assert_same_logs(ours: Recorder, theirs: Recorder) -> None:
    """Every key that SB3 logs has the same value here, time apart."""
    assert len(ours.rows) == len(theirs.rows) > 0
    for row, their_row in zip(ours.rows, theirs.rows, strict=True):
        shared = {key for key in their_row if key not in ("time/fps", "time/time_elapsed")}
        assert shared <= row.keys()
        for key in shared:
            np.testing.assert_equal(row[key], their_row[key], err_msg=key)
            assert type(row[key]) is type(their_row[key]), key


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*truncated mini-batch")
def test_same_bits_as_sb3(name: str) -> None:
    """After four rollouts and updates nothing tells the two apart: weights, optimizer, logs, episodes, random streams."""
    case = CASES[name]
    total = ROLLOUTS * N_STEPS * case.n_envs
    results = []
    for algorithm in (PPO, EduPPO):
        model, recorder = make_model(algorithm, case)
        before = {key: value.clone() for key, value in model.policy.state_dict().items()}
        model.learn(total)
        model.logger.dump(model.num_timesteps)
        assert any(not th.equal(value, before[key]) for key, value in model.policy.state_dict().items())
        results.append((model, recorder, random_numbers()))
    (theirs, their_log, their_random), (ours, our_log, our_random) = results
    assert_same_models(ours, theirs)
    assert_same_logs(our_log, their_log)
    assert our_random == their_random
    if case.normalize:
        np.testing.assert_equal(ours.env.obs_rms.mean, theirs.env.obs_rms.mean)
        np.testing.assert_equal(ours.env.ret_rms.var, theirs.env.ret_rms.var)
    if name in MUST_STOP_EARLY:
        stops = [row["train/early_stop_epoch"] for row in our_log.rows if "train/early_stop_epoch" in row]
        assert any(stop < ours.n_epochs for stop in stops), "the case should reach its target_kl"


def test_at_least_forty_cases() -> None:
    """The promise of forty combinations is kept by the list itself."""
    assert len(CASES) >= 40


class Peeker(BaseCallback):
    """Looks at the locals that SB3 gives to callbacks, and stops after some steps."""

    def __init__(self, stop_after: int) -> None:
        super().__init__()
        self.stop_after = stop_after
        self.names: set[str] = set()

    def _on_step(self) -> bool:
        self.names |= set(self.locals)
        return self.n_calls < self.stop_after


@pytest.mark.parametrize("name", ["defaults", "gsde", "time-limits"])
def test_callbacks_see_sb3s_locals(name: str) -> None:
    """Every local variable that a callback finds under SB3's PPO is there under EduPPO, and a callback can stop training."""
    seen = []
    for algorithm in (PPO, EduPPO):
        model, _ = make_model(algorithm, CASES[name])
        peeker = Peeker(stop_after=N_STEPS + 3)
        model.learn(10 * N_STEPS, callback=peeker)
        seen.append(peeker.names)
        assert model.num_timesteps == (N_STEPS + 3) * CASES[name].n_envs
    theirs, ours = seen
    # Names of SB3's own loop over ended episodes, which are not of the documented contract.
    assert theirs - ours <= {"idx", "done", "terminal_obs", "terminal_value", "iteration", "log_interval", "continue_training"}


@pytest.mark.parametrize("name", ["defaults", "observation-dict-4envs", "schedules", "vecnormalize-4envs", "adamw"])
def test_sb3_model_continues_to_the_bit(name: str, tmp_path: Path) -> None:
    """A model saved by SB3's PPO loads into EduPPO and goes on as it would have gone on in SB3."""
    case = CASES[name]
    total = 2 * N_STEPS * case.n_envs
    model, _ = make_model(PPO, case)
    model.learn(total)
    model.save(tmp_path / "model.zip")
    continued = []
    for algorithm in (PPO, EduPPO):
        other = algorithm.load(tmp_path / "model.zip", env=make_env(case, seed=8), device="cpu")
        if isinstance(other, EduPPO):
            other.engine = "autograd"
        other.set_random_seed(5)
        other.learn(total, reset_num_timesteps=False)
        continued.append(other)
    theirs, ours = continued
    assert isinstance(ours, EduPPO)
    assert_same_models(ours, theirs)


def test_sb3_loads_our_model(tmp_path: Path) -> None:
    """A model saved by EduPPO with SB3's arguments loads into SB3's PPO and predicts the same."""
    model, _ = make_model(EduPPO, CASES["defaults"])
    model.learn(N_STEPS)
    model.save(tmp_path / "model.zip")
    theirs = PPO.load(tmp_path / "model.zip", device="cpu")
    observations = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0], theirs.predict(observations, deterministic=True)[0]
    )


def test_signature_is_sb3s_and_extras_are_keyword_only() -> None:
    """Every parameter of SB3's PPO has the same place and default here; all further ones are keyword-only with a default."""
    import inspect

    theirs = inspect.signature(PPO.__init__).parameters
    ours = inspect.signature(EduPPO.__init__).parameters
    names = list(theirs)
    assert list(ours)[: len(names)] == names
    for name in names:
        assert ours[name].default == theirs[name].default, name
        assert ours[name].kind == theirs[name].kind, name
    for name in list(ours)[len(names) :]:
        assert ours[name].kind is inspect.Parameter.KEYWORD_ONLY, name
        assert ours[name].default is not inspect.Parameter.empty, name
    assert not issubclass(EduPPO, PPO)
