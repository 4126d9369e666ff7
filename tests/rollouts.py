"""Small models, their rollouts, and their logs: what the tests of engines and algorithms start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import UpdateSettings
from tests.environments import RandomWalk

N_STEPS = 32
POLICY_OF_OBSERVATION = {
    "box": "MlpPolicy",
    "discrete": "MlpPolicy",
    "image": "CnnPolicy",
    "dict": "MultiInputPolicy",
}


class Recorder(KVWriter):
    """Keeps every logged row."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Keep one row."""
        self.rows.append(dict(key_values))

    def close(self) -> None:
        """Nothing to close."""


class TinyExtractor(BaseFeaturesExtractor):
    """One small convolution, so that image policies run quickly."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=64)
        self.net = th.nn.Sequential(th.nn.Conv2d(observation_space.shape[0], 4, 8, stride=8), th.nn.ReLU(), th.nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Features of an image."""
        out: th.Tensor = self.net(observations)
        return out


def make_env(observation: str = "box", action: str = "box", n_envs: int = 1, seed: int = 3, **env: Any) -> VecEnv:
    """Random walks with the given spaces."""
    return make_vec_env(lambda: RandomWalk(observation, action, **env), n_envs=n_envs, seed=seed)


def make_model(
    observation: str = "box", action: str = "box", n_envs: int = 1, env: dict[str, Any] | None = None, **arguments: Any
) -> EduPPO:
    """A small model on random walks; SGD where nothing else is asked for, since its steps are worked out by hand."""
    policy_kwargs: dict[str, Any] = {"net_arch": [8], "optimizer_class": th.optim.SGD} | arguments.pop("policy_kwargs", {})
    if observation == "image":
        policy_kwargs.setdefault("features_extractor_class", TinyExtractor)
    defaults: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": N_STEPS * n_envs, "n_epochs": 1, "seed": 3, "device": "cpu"}
    return EduPPO(
        POLICY_OF_OBSERVATION[observation],
        make_env(observation, action, n_envs, **(env or {})),
        policy_kwargs=policy_kwargs,
        **(defaults | arguments),
    )


def record(model: EduPPO) -> Recorder:
    """Let the model log into a recorder."""
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    return recorder


def collect(model: EduPPO) -> None:
    """Fill the model's rollout buffer, without an update."""
    assert model.env is not None
    _, callback = model._setup_learn(10**6, reset_num_timesteps=model.num_timesteps == 0)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def parameters_of(model: EduPPO) -> dict[str, th.Tensor]:
    """Copies of the policy's parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}


def largest_difference(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> float:
    """The largest absolute difference of two sets of parameters."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def transitions(model: EduPPO) -> dict[str, Any]:
    """The rollout as flat tensors, environment by environment, as copies that shuffling does not touch."""
    buffer = model.rollout_buffer
    assert not buffer.generator_ready, "the buffer is already flattened"

    def flat(array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array.swapaxes(0, 1).reshape(-1, *array.shape[2:]).copy())

    names = ("actions", "values", "log_probs", "advantages", "returns", "rewards")
    data: dict[str, Any] = {name: flat(getattr(buffer, name)).float() for name in names}
    if isinstance(buffer, DictRolloutBuffer):
        return data | {"observations": {key: flat(array) for key, array in buffer.observations.items()}}
    return data | {"observations": flat(buffer.observations)}


def update_settings(**changes: Any) -> UpdateSettings:
    """SB3's default settings of an update, with changes."""
    defaults: dict[str, Any] = {
        "clip_range": 0.2,
        "clip_range_vf": None,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "normalize_advantage": True,
        "advantage_moments": None,
        "clip_advantage": None,
        "dual_clip": None,
        "vf_clip_mode": "sb3",
        "kl_estimator": "k3",
        "log_std_bounds": None,
    }
    return UpdateSettings(**(defaults | changes))
