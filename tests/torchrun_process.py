"""One process of a training of several; ``tests/test_distributed.py`` starts it with torchrun's environment variables."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.distributed import DataParallel, ProcessGroup, join, leave
from sb3_ppo_edu.distributed.affinity import available_cpus, thread_names
from sb3_ppo_edu.distributed.normalization import running_moments
from sb3_ppo_edu.envs.registration import make
from sb3_ppo_edu.training.algorithms import ALGORITHMS, DEFAULT, takes_masks
from sb3_ppo_edu.vec_env.in_process import InProcessVecEnv

SEED, ENVS, STEPS, UPDATES = 3, 4, 16, 10
"""Of the whole: environments, steps of a rollout, updates."""


def build(env_id: str, n_envs: int, first: int, normalize: bool = False, algo: str = DEFAULT, **arguments: Any) -> EduPPO:
    """Build a model on environments of the seeds from ``SEED + first`` on; action noise has the same stream everywhere."""
    env: Any = make_vec_env(partial(make, env_id), n_envs, vec_env_cls=InProcessVecEnv)
    algorithm = ALGORITHMS[algo]
    model = algorithm(
        next(iter(algorithm.policy_aliases)),
        VecNormalize(env) if normalize else env,
        **{"n_steps": STEPS, "n_epochs": 2, "batch_size": STEPS * n_envs, "seed": SEED, "device": "cpu", **arguments},
    )
    assert model.env is not None
    model.env.seed(SEED + first)
    return model


def same_environment(algo: str = DEFAULT, **_: Any) -> str:
    """Choose an environment for :func:`same_rollouts`: with masks where the algorithm takes some."""
    return "TicTacToe-v0" if takes_masks(algo) else "Pendulum-v1"


def unbroken(patch: Any) -> None:
    """Have rollouts of sequences begin with the first environment, instead of in the middle of one, which cuts it in two."""
    patch.setattr(np.random, "randint", lambda *_: 0)


class OwnNoise(BaseCallback):
    """Draws from the stream of action noise what the other processes' environments would draw in one process."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def _draw(self, n_envs: int) -> None:
        """A Gaussian draws a normal number for each environment, a Categorical one exponential number for each class."""
        classes = getattr(self.model.action_space, "n", None)
        th.randn(n_envs) if classes is None else th.empty(n_envs * int(classes)).exponential_()

    def _on_rollout_start(self) -> None:
        self._draw(self.before)

    def _on_step(self) -> bool:
        last = self.n_calls % STEPS == 0
        self._draw(self.after + (0 if last else self.before))
        return True


class Fingerprints(BaseCallback):
    """Keeps the parameters at the beginning of every rollout, as hexadecimal digits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def _on_rollout_start(self) -> None:
        self.found.append(parameters(self.model).tobytes().hex())

    def _on_step(self) -> bool:
        return True


def parameters(model: Any) -> np.ndarray:
    """Take a model's parameters."""
    values: np.ndarray = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach().numpy().copy()
    return values


def same_rollouts(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """Train with the environments divided into shards and the noise of one process that has them all."""
    own = ENVS // group.size
    model = build(same_environment(**given), own, group.rank * own, **given)
    noise, prints = OwnNoise(group.rank * own, ENVS - (group.rank + 1) * own), Fingerprints()
    with pytest.MonkeyPatch.context() as patch:
        unbroken(patch)
        model.learn(ENVS * STEPS * UPDATES, callback=DataParallel(group, [noise, prints]))
    return {"parameters": parameters(model).tolist(), "prints": prints.found, "steps": model.num_timesteps}


def own_rollouts(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """Train with noise, seeds and shuffling of one's own, with normalisation, minibatches and a limit of the KL."""
    prints = Fingerprints()
    model = build(
        "Pendulum-v1", 2, 2 * group.rank, normalize=True, **{"batch_size": 8, "target_kl": 0.01, "n_epochs": 5, **given}
    )
    model.set_random_seed(SEED + 2 * group.rank)
    model.learn(ENVS * STEPS * 20, callback=DataParallel(group, [prints]))
    env: Any = model.env
    return {
        "prints": prints.found,
        "moments": {name: [float(np.sum(one.mean)), float(one.count)] for name, one in running_moments(env).items()},
        "episodes": [float(info["r"]) for info in model.ep_info_buffer or ()],
        "steps": model.num_timesteps,
        "n_updates": model._n_updates,
        "adaptive": [model.lr_schedule(0.0), getattr(model.objective, "beta", 0.0), model.logger.name_to_value["train/kl"]],
    }


def not_finite(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """Let one process meet a NaN, in what the settings say."""
    model = build("Pendulum-v1", 2, 2 * group.rank, n_epochs=1)

    class Spoil(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            if group.rank == 1 and self.num_timesteps > 100:
                getattr(model.rollout_buffer, given["where"])[:] = np.nan

    try:
        model.learn(10_000, callback=DataParallel(group, [Spoil()]))
    except ValueError as error:
        return {"error": str(error), "steps": model.num_timesteps}
    return {}


def stopped(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """Let a callback of one process ask to stop."""

    class Enough(BaseCallback):
        def _on_step(self) -> bool:
            return group.rank == 0 or self.num_timesteps < 100

    model = build("Pendulum-v1", 2, 2 * group.rank)
    model.learn(10_000, callback=DataParallel(group, [Enough()]))
    return {"steps": model.num_timesteps, "parameters": parameters(model).tobytes().hex()}


def hangs(group: ProcessGroup, given: dict[str, Any]) -> dict[str, Any]:
    """Let one process stop answering."""

    class Hang(BaseCallback):
        def _on_step(self) -> bool:
            if group.rank == 1 and self.num_timesteps > 100:
                time.sleep(60)
            return True

    build("Pendulum-v1", 2, 2 * group.rank).learn(10_000, callback=DataParallel(group, [Hang()]))
    return {}


def main() -> None:
    """Join with the second argument's times, do the jobs of the first, and write what came of each into the third."""
    jobs, folder = json.loads(sys.argv[1]), Path(sys.argv[3])
    th.set_num_threads(1)
    group = join(**json.loads(sys.argv[2]))
    found = [globals()[name](group, given) for name, given in jobs]
    process: dict[str, Any] = {
        "policies": {name: os.sched_getscheduler(number) for number, name in thread_names().items()},
        "cpus": available_cpus(),
    }
    leave()
    process["threads that stay"] = [name for name in thread_names().values() if "gloo" in name]
    (folder / f"{group.rank}.json").write_text(json.dumps({"found": found, "process": process}), encoding="utf-8")


if __name__ == "__main__":
    main()
