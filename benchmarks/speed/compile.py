"""Measure whether ``compile=True`` pays: one minibatch of the autograd engine with and without it, the two in turn.

``python benchmarks/speed/compile.py`` writes ``compile.md`` beside this file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

# Read when numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.lab.speed.rows import conditions

WIDTHS = (64, 256, 512, 1024)
BATCH_SIZE, N_STEPS, REPEATS = 512, 2048, 5


def make_model(width: int, *, compiled: bool) -> EduPPO:
    """
    Build a model with a full rollout buffer.

    :param width: units of the two hidden layers of each tower
    :param compiled: whether its updates are compiled
    :return: the model
    """
    env = make_vec_env("LunarLander-v3", seed=0, env_kwargs={"render_mode": None})
    model = EduPPO(
        "MlpPolicy",
        env,
        n_steps=N_STEPS,
        batch_size=BATCH_SIZE,
        n_epochs=1,
        policy_kwargs={"net_arch": [width, width]},
        seed=0,
        device="cpu",
        engine="autograd",
        engine_kwargs={"compile": compiled},
    )
    _, callback = model._setup_learn(N_STEPS)
    model.collect_rollouts(env, callback, model.rollout_buffer, N_STEPS)
    return model


def seconds_of_update(model: EduPPO) -> float:
    """
    Time one update.

    :param model: the model
    :return: seconds
    """
    start = time.perf_counter()
    model.train()
    return time.perf_counter() - start


def main() -> None:
    """Measure all widths and write the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = []
    for width in WIDTHS:
        models = [make_model(width, compiled=compiled) for compiled in (False, True)]
        for model in models:
            model.train()  # the first update compiles
        times = [[seconds_of_update(model) for model in models] for _ in range(REPEATS)]
        plain, compiled = (statistics.median(column) * 1e3 * BATCH_SIZE / N_STEPS for column in zip(*times, strict=True))
        lines.append(f"| {width} | {plain:.2f} ms | {compiled:.2f} ms | {plain / compiled:.2f} |")
    now = conditions("full")
    text = f"""# Does `compile=True` pay on a CPU?

One minibatch of {BATCH_SIZE} of LunarLander-v3 in the autograd engine, two hidden layers in each tower, medians of
{REPEATS} updates of {N_STEPS // BATCH_SIZE} minibatches, plain and compiled in turn. Compiling is not counted.

| width | plain | compiled | ratio |
|---|---|---|---|
{chr(10).join(lines)}

Made by `python benchmarks/speed/compile.py` with one thread on {now.machine}; {now.versions}.
"""
    Path(__file__).with_name("compile.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
