"""What networks in bfloat16 change: ratios, KL and returns beside float32.

``python benchmarks/scale/bf16.py`` trains CartPole-v1 and Pendulum-v1 with the autograd engine in both precisions, three seeds
each, and writes ``bf16.md``: the ratio of the first minibatch of an update, which is 1 where old and new log-probabilities are
computed alike, how far the first update's parameters are apart, final returns, and the time of an update.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

# Read when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.envs.factory import make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters
from sb3_ppo_edu.training.settings import settings_from_hyperparameters, versions

ENVS, SEEDS, STEPS = ("CartPole-v1", "Pendulum-v1"), (0, 1, 2), 50_000


class Watch(BaseCallback):
    """Keeps the first ratio of every update, the parameters after the first one, and the time of updates."""

    def __init__(self) -> None:
        super().__init__()
        self.ratios: list[float] = []
        self.after_first: th.Tensor | None = None

    def _on_rollout_start(self) -> None:
        ratio = self.logger.name_to_value.get("train/ratio_first")
        if ratio is not None:
            self.ratios.append(float(ratio))
            if self.after_first is None:
                self.after_first = th.nn.utils.parameters_to_vector(self.model.policy.parameters()).detach().clone()

    def _on_step(self) -> bool:
        return True


def train(env_id: str, seed: int, bf16: bool) -> tuple[Watch, float, float]:
    """Train once; give what was watched, the mean return of the final policy, and the seconds."""
    settings = settings_from_hyperparameters(env_id, load_hyperparameters(env_id), steps=STEPS, seed=seed)
    env = make_training_env(settings.environment, settings.n_envs, seed, backend="dummy")
    arguments: dict[str, Any] = {**settings.algorithm, "engine": "autograd", "engine_kwargs": {"bf16": bf16}}
    model, watch = EduPPO(settings.policy, env, seed=seed, device="cpu", **arguments), Watch()
    begin = time.perf_counter()
    model.learn(STEPS, callback=watch)
    seconds = time.perf_counter() - begin
    judged = make_evaluation_env(settings.environment, 1, 10_000)
    mean, _ = evaluate_policy(model, judged, n_eval_episodes=20)
    return watch, float(mean), seconds  # type: ignore[arg-type]


def main() -> None:
    """Train, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the page goes")
    given = parser.parse_args()
    th.set_num_threads(1)
    lines = [
        "# Networks in bfloat16",
        "",
        f"Autograd engine, {STEPS:,} steps, seeds {', '.join(map(str, SEEDS))}, the settings of `hyperparams/eduppo.yml`.",
        "",
        "The ratio is the largest of an update's first minibatch, where it would be 1 if it were computed as when acting; the",
        "median over updates. Parameters: the largest difference after one update.",
        "",
        "| environment | ratio, float32 | bfloat16 | parameters apart | returns, float32 | bfloat16 | times as long |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for env_id in ENVS:
        runs = {bf16: [train(env_id, seed, bf16) for seed in SEEDS] for bf16 in (False, True)}
        first = {
            bf16: statistics.median(ratio for watch, _, _ in found for ratio in watch.ratios) for bf16, found in runs.items()
        }
        apart = max(
            float((one[0].after_first - other[0].after_first).abs().max())
            for one, other in zip(*runs.values(), strict=True)
            if one[0].after_first is not None and other[0].after_first is not None
        )
        returns = {bf16: ", ".join(f"{mean:.0f}" for _, mean, _ in found) for bf16, found in runs.items()}
        times = {bf16: statistics.median(seconds for _, _, seconds in found) for bf16, found in runs.items()}
        lines.append(
            f"| {env_id} | {first[False]:.6f} | {first[True]:.4f} | {apart:.4f} | {returns[False]} | {returns[True]} | "
            f"{times[True] / times[False]:.2f} |"
        )
    listed = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = "\n".join([*lines, "", f"Made by `python benchmarks/scale/bf16.py` on {machine()}; {listed}.", ""])
    (given.folder / "bf16.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
