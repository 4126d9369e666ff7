"""The speed laboratory's other implementations: they get the same settings, and only their training is timed."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sb3_ppo_edu.lab.speed import peers
from sb3_ppo_edu.lab.speed.cases import CASES
from tests.speed_measurements import TINY

SCRIPT = """
import sys, time
import gymnasium as gym
assert __name__ == "__main__"
envs = gym.vector.SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
gym.wrappers.TransformObservation(envs.envs[0], lambda observation: observation)
time.sleep(0.05)
envs.reset(seed=0)
time.sleep(0.01)
open("log", "w").write(" ".join(sys.argv))
envs.close()
time.sleep(0.05)
"""


def test_cleanrl_has_the_settings_of_its_case() -> None:
    """Rates, minibatches and epochs are the case's, SB3's defaults where it names none; the value loss is not clipped."""
    flags = peers.cleanrl_flags(CASES["cartpole-zoo"], 3)
    for flag in ("num-envs=8", "num-steps=32", "total-timesteps=10240", "num-minibatches=1", "update-epochs=20", "seed=3"):
        assert f"--{flag}" in flags
    assert {"--learning-rate=0.001", "--clip-coef=0.2", "--gae-lambda=0.8", "--anneal-lr", "--no-clip-vloss"} <= set(flags)
    defaults = peers.cleanrl_flags(CASES["cartpole-defaults"], 0)
    # 2048 transitions in minibatches of 64
    assert {"--num-minibatches=32", "--learning-rate=0.0003", "--gamma=0.99", "--no-anneal-lr"} <= set(defaults)


@pytest.mark.parametrize("rate", ["cos_1e-3", "lin_1e-3_1e-4", "warmup_0.1_lin_1e-3", "kl_0.01"])
def test_cleanrl_is_not_given_a_rate_that_it_does_not_have(rate: str) -> None:
    """Its scripts have a constant rate or a line to 0; the clip range is constant, what a schedule begins with."""
    case = replace(TINY, arguments={"batch_size": 64, "learning_rate": rate})
    with pytest.raises(ValueError, match=f"learning_rate='{rate}': expected a number, or a line to 0"):
        peers.cleanrl_flags(case, 0)
    case = replace(TINY, arguments={"batch_size": 64, "learning_rate": 1e-3, "clip_range": "cos_0.3_0.1"})
    assert {"--learning-rate=0.001", "--clip-coef=0.3", "--no-anneal-lr"} <= set(peers.cleanrl_flags(case, 0))


def test_cleanrl_is_timed_from_reset_to_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script does before and after its training does not count; folder and arguments are as they were afterwards."""
    (tmp_path / "cleanrl").mkdir()
    (tmp_path / "cleanrl" / "ppo.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setenv(peers.CLEANRL, str(tmp_path))
    before = os.getcwd(), list(sys.argv)
    start, end = peers.run_cleanrl(TINY, 0)
    assert end.wall - start.wall >= 0.01
    assert end.cpu - start.cpu < 0.05
    assert (os.getcwd(), sys.argv) == before
    assert not (tmp_path / "log").exists()
    assert "CleanRL's ppo.py" in peers.versions_of("cleanrl")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without package, checkout or backend it is said which, and where it comes from; SB3's PPO is always there."""
    monkeypatch.setenv(peers.CLEANRL, str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(peers, "ONE_BY_ONE", {})
    assert "[peers]" in (peers.why_missing("sbx-warm") or "")
    assert "CLEANRL" in (peers.why_missing("cleanrl") or "")
    assert "no backend 'workers'" in (peers.why_missing("fused-two-cores") or "")
    assert peers.why_missing("sb3") is None
