"""The models that the first edition saved, and what is done with each: by ``make.py`` then, by the tests now."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv

from tests.first_edition.environments import OBSERVATION_SPACES, Draws, draw

HERE = Path(__file__).parent
N_ENVS, N_STEPS = 2, 16
ROLLOUT = N_ENVS * N_STEPS
N_OBSERVATIONS = 6


@dataclass(frozen=True)
class SavedModel:
    """
    A model of the first edition.

    :param policy: as EduPPO's argument
    :param observation: key of ``OBSERVATION_SPACES``
    :param action: key of ``ACTION_SPACES``
    :param algorithm: name of the class, in ``sb3_ppo_edu``
    :param arguments: of its constructor, besides :data:`SMALL`
    """

    policy: str = "MlpPolicy"
    observation: str = "box"
    action: str = "box"
    algorithm: str = "EduPPO"
    arguments: dict[str, Any] = field(default_factory=dict)

    def make_env(self) -> VecEnv:
        """Build the environments that it was trained in."""
        return make_vec_env(lambda: Draws(self.observation, self.action), N_ENVS)


SMALL: dict[str, Any] = {"n_steps": N_STEPS, "learning_rate": 0.01, "seed": 3, "device": "cpu"}
PPO_SMALL: dict[str, Any] = {"batch_size": 16, "n_epochs": 2}
POLICIES: dict[str, tuple[str, str]] = {
    "mlp": ("MlpPolicy", "box"),
    # On its default extractor a CnnPolicy has 72,000 weights, so that here it has one without.
    "cnn": ("CnnPolicy", "image"),
    "multi_input": ("MultiInputPolicy", "dict"),
}
OPTIONS: dict[str, Any] = {
    "bf16": True,
    "micro_batch_size": 8,
    "learning_rate": "lin_3e-4",
    "ent_coef": "lin_0.01",
    "policy_kwargs": {"optimizer_class": th.optim.RMSprop},
}


def _saved_models() -> dict[str, SavedModel]:
    """Name every model: each policy class with the autograd engine, the MLPs with the fused one, and options."""
    models = {}
    for distribution in ("gaussian", "tanh_gaussian", "beta"):
        for kind, (policy, observation) in POLICIES.items():
            for engine in ("autograd", "fused" if kind == "mlp" else "", "auto" if distribution == "gaussian" else ""):
                arguments: dict[str, Any] = {"engine": engine}
                if distribution != "gaussian":
                    arguments["action_distribution"] = distribution
                if kind == "cnn":
                    arguments["policy_kwargs"] = {"features_extractor_class": FlattenExtractor}
                if engine:
                    models[f"{distribution}-{kind}-{engine}"] = SavedModel(policy, observation, arguments=arguments)
    return models | {
        "categorical-mlp-fused": SavedModel(action="discrete", arguments={"engine": "fused"}),
        "gsde-mlp-autograd": SavedModel(arguments={"engine": "autograd", "use_sde": True}),
        "options": SavedModel(arguments=OPTIONS),
        "compiled": SavedModel(arguments={"compile": True}),
        "reinforce": SavedModel(algorithm="Reinforce", arguments={"baseline": True, "engine": "autograd"}),
    }


SAVED_MODELS = _saved_models()


def constructor_arguments(saved: SavedModel) -> dict[str, Any]:
    """Everything that a model was built with besides policy and environment."""
    arguments = SMALL | (PPO_SMALL if saved.algorithm == "EduPPO" else {}) | saved.arguments
    return arguments | {"policy_kwargs": {"net_arch": [8], **saved.arguments.get("policy_kwargs", {})}}


def draw_observations(observation: str) -> Any:
    """Draw observations to predict on, a batch of arrays or a dictionary of such."""
    random = np.random.Generator(np.random.PCG64(5))
    drawn = [draw(OBSERVATION_SPACES[observation], random) for _ in range(N_OBSERVATIONS)]
    if isinstance(drawn[0], dict):
        return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
    return np.stack(drawn)


def predict(model: BaseAlgorithm, observations: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give a model's deterministic actions ``(batch, *action_shape)`` and its values ``(batch, 1)``."""
    actions, _ = model.predict(observations, deterministic=True)
    policy = model.policy
    assert isinstance(policy, ActorCriticPolicy)
    with th.no_grad():
        values = policy.predict_values(policy.obs_to_tensor(observations)[0])
    return actions, values.numpy()


def parameters_of(model: BaseAlgorithm) -> np.ndarray:
    """Join all parameters of a policy into one vector."""
    return np.concatenate([value.numpy(force=True).ravel() for value in model.policy.state_dict().values()])


def train_on(model: BaseAlgorithm) -> np.ndarray:
    """Train a loaded model for two more rollouts from a fixed seed, and give the parameters that it ends with."""
    model.set_random_seed(11)
    model.learn(2 * ROLLOUT)
    return parameters_of(model)


def arithmetic() -> dict[str, str]:
    """Say what the last bits of a number depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("vendor_id", "model name", "CPU part"))]
    return {
        "torch": str(th.__version__),
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "instructions": th.backends.cpu.get_cpu_capability(),
        "processor": ", ".join(dict.fromkeys(names)) or platform.processor() or platform.machine(),
    }
