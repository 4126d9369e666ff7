"""The lecture's table beside what was measured, and published figures beside our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from sb3_ppo_edu.envs.factory import make_training_env
from sb3_ppo_edu.lab.algorithms import build
from sb3_ppo_edu.lab.learning import MUJOCO, Task
from sb3_ppo_edu.lab.lecture_table import LECTURE_SAYS, lecture_section, published_section
from sb3_ppo_edu.lab.published import PUBLISHED, best_published
from tests.test_report import point, row

TASKS = [Task("CartPole-v1", 100, 450.0, 50.0), Task("Pendulum-v1", 100, -200.0, 20.0)]


def in_zoo(rows: Sequence[Any]) -> list[Any]:
    """The same with the zoo's settings."""
    return [replace(one, settings="zoo") for one in rows]


def test_each_word_of_the_lecture_has_what_was_measured_beside_it() -> None:
    """
    DQN reaches 450 at 50 steps and ends at 440 after 500: 0 of 1 runs, a forgotten 60 of 450 are 13%.

    SAC cannot act in CartPole, and of Pendulum has no curve.
    """
    rows = in_zoo([row("dqn", 0, 440.0), row("sac", 0, -150.0, env="Pendulum-v1")])
    points = in_zoo([point("dqn", 0, 50, 500.0), point("dqn", 0, 100, 440.0)])
    table = lecture_section(rows, points, TASKS).table
    assert table is not None
    assert [list(line) for line in table.rows] == [
        ["SAC", "very good", "cannot act / –", "high", "1 of 1", "moderate", "5, replay buffer", "moderate", "Box"],
        ["DQN", "good", "50 / cannot act", "moderate", "0 of 1, 13%", "moderate", "2, replay buffer", "low", "Discrete"],
    ]


@pytest.mark.parametrize("algorithm", LECTURE_SAYS)
def test_networks_are_counted_in_the_models_themselves(algorithm: str) -> None:
    """Each network ends in one linear layer to what it estimates: as many of these as the table says."""
    env = make_training_env("CartPole-v1" if algorithm == "dqn" else "Pendulum-v1")
    model = build(algorithm, env, "MlpPolicy", {}, 0)
    names = [name for name, layer in model.policy.named_modules() if isinstance(layer, nn.Linear)]
    # Layers of one network are numbered or named within it: …qf0.0, …qf0.2, …; of PPO's the heads stand beside.
    last = {name for name in names if name.endswith((".4", ".mu", "action_net", "value_net"))}
    assert len(last) == LECTURE_SAYS[algorithm].networks, names
    assert hasattr(model, "replay_buffer") == LECTURE_SAYS[algorithm].replays


def test_published_figures_stand_beside_ours_with_their_versions() -> None:
    """Two runs of 1,000 and 3,000 are 2,000 ± 1,000; CleanRL has no Ant; the target is the highest mean."""
    rows = [row("eduppo", seed, final, env="Ant-v5") for seed, final in ((0, 1000.0), (1, 3000.0))]
    section = published_section(rows, [task for task in MUJOCO if task.env == "Ant-v5"])
    assert section.table is not None
    header = ["environment", "EduPPO, here (seeds)", "RL Baselines3 Zoo, v3", "CleanRL, v4", "Tianshou, v3"]
    assert list(section.table.header) == header
    assert section.table.rows == [["Ant-v5", "2,000 ± 1,000 (2)", "1,327 ± 452", "–", "3,258 ± 1,079"]]
    assert all(one.address in section.text[0] for one in PUBLISHED)
    assert best_published("Ant-v5") == 3258.4 and best_published("HalfCheetah-v5") == 5819.099
