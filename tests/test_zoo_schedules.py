"""Schedules as text through the zoo's own command, which would take any ``name_number`` for a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SETTINGS = """
CartPole-v1:
  policy: MlpPolicy
  n_timesteps: 192
  n_envs: 2
  n_steps: 32
  batch_size: 32
  n_epochs: 1
  policy_kwargs: "dict(net_arch=[8])"
  clip_range: cos_0.4_0.2
  clip_range_vf: warmup_0.1_0.3
  ent_coef: exp_0.1_0.01
  vf_coef: lin_1_0.5
  objective: {sb3_ppo_edu.functional.kl.KLPenaltyObjective: {d_targ: warmup_0.1_1000.0, beta: 4.0}}
"""
LATER = {
    "lin_0.004_0.001": 0.002,
    "cos_0.004": 0.001,
    "exp_0.008_0.001": 0.002,
    "piecewise_0.004_0.4_0.001": 0.001,
    "warmup_0.75_lin_0.0045": 0.004,
    "kl_1000_0.002": 0.003,
    "warmup_0.9_kl_0.000001_0.003": 0.002,
}
"""Text -> learning rate of the second of three updates; the first has gone far beyond the last target, and not near 1000."""

PROGRAM = """
import sys
from sb3_ppo_edu import zoo
settings, logs, *texts = sys.argv[1:]
for text in texts:
    print("trained with", text, flush=True)
    given = ["--env", "CartPole-v1", "-f", logs, "--eval-freq", "-1", "--seed", "3", "--device", "cpu", "--num-threads", "1"]
    assert zoo.main(["train", *given, "--conf-file", settings, "-params", f"learning_rate:'{text}'"]) == 0
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Train with each text, and read the last table that SB3 prints, which is of the second update."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "settings.yml").write_text(SETTINGS)
    words = [sys.executable, "-c", PROGRAM, str(folder / "settings.yml"), str(folder / "logs"), *LATER]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=folder, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = {}
    for printed in done.stdout.split("trained with ")[1:]:
        text, _, output = printed.partition("\n")
        cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in output.splitlines() if line.count("|") == 3]
        found[text] = {name: float(value) for name, value in cells if value}
    return found


@pytest.mark.parametrize("text", LATER)
def test_the_rate_is_the_schedules(tables: dict[str, dict[str, float]], text: str) -> None:
    """``train/learning_rate`` at two thirds of the training, as worked out by hand."""
    assert tables[text]["learning_rate"] == pytest.approx(LATER[text], rel=1e-2)


def test_other_arguments_have_them_too(tables: dict[str, dict[str, float]]) -> None:
    """Both clip ranges at two thirds, and an objective with arguments, whose weight the small divergence has halved."""
    for table in tables.values():
        assert table["clip_range"] == pytest.approx(0.25) and table["clip_range_vf"] == pytest.approx(0.3)
        assert table["beta"] == 2.0
