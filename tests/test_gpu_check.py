"""The check for a machine with a GPU: its script runs through on the CPU, skips without a GPU, and notices what is wrong."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch as th

from sb3_ppo_edu import EduPPO

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> Any:
    """The script, loaded; dataclasses look their module up."""
    specification = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own, which joins a process group."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], env=environment, capture_output=True, text=True, check=False
    )


def test_without_a_device_it_skips_and_says_why() -> None:
    """No CUDA device is no failure: one sentence, exit code 0, nothing tried."""
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpu_check: skipped: torch ")
    assert len(done.stdout.splitlines()) == 1


def test_every_check_passes_on_the_cpu() -> None:
    """On the CPU the device is the reference: every check passes, data-parallel training by gloo."""
    done = run("--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(" passed " in line for line in lines) == 9
    assert any(line.startswith("data-parallel") and "gloo" in line for line in lines)
    assert lines[-1].endswith("all passed")


def test_a_failed_check_is_exit_code_1(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check that finds something wrong, or that raises, is named; the others are still made."""

    def broken() -> Any:
        raise RuntimeError("no kernel")

    listed = [("bits", lambda: gpu_check.Finding("1", "0", False)), ("broken", broken)]
    listed.append(("good", lambda: gpu_check.Finding("0", "0", True)))
    monkeypatch.setattr(gpu_check, "checks", lambda *_: iter(listed))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu"])
    monkeypatch.setattr(th.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(th.backends.cudnn, "deterministic", False)
    assert gpu_check.main() == 1
    output = capsys.readouterr().out
    assert output.rstrip().endswith("2 failed: bits; broken")
    assert "RuntimeError: no kernel" in output
    assert "passed" in next(line for line in output.splitlines() if line.startswith("good"))


@pytest.mark.parametrize("wrong", [{"clip_range": 0.18}, {"ent_coef": 0.02}, {"vf_coef": 0.49}])
def test_another_update_is_not_put_down_to_rounding(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, float]
) -> None:
    """A device whose update has a slightly different loss fails the comparison with the CPU."""
    build = gpu_check.Case.build
    made: list[Any] = []

    def build_wrongly(case: Any, kind: Any, device: str, **arguments: Any) -> Any:
        made.append(build(case, kind, device, **arguments, **(wrong if made else {})))
        return made[-1]

    monkeypatch.setattr(gpu_check.Case, "build", build_wrongly)
    assert not gpu_check.one_update(gpu_check.CARTPOLE, "cpu").passed
    assert isinstance(made[0], EduPPO)


def test_a_resumption_that_forgets_is_noticed(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A resumed training with other random streams than the one that was saved does not pass."""
    resume = EduPPO.resume

    def forgetful(*arguments: Any, **named: Any) -> EduPPO:
        model = resume(*arguments, **named)
        monkeypatch.setattr(th, "set_rng_state", lambda *_: None)
        return model

    monkeypatch.setattr(EduPPO, "resume", forgetful)
    assert not gpu_check.exact_resume(gpu_check.CARTPOLE, "cpu", tmp_path).passed
