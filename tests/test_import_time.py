"""``import sb3_ppo_edu`` stays quick because of what it does not load; benchmarks/import_time.py measures the seconds."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

LIST_MODULES = "import sys; before = set(sys.modules); import {module}; {then}; print(*sorted(set(sys.modules) - before))"


@cache
def loaded_by(module: str, then: str = "pass") -> frozenset[str]:
    """
    List what an import loads in a fresh interpreter.

    :param module: name of the module to import
    :param then: what is done with it
    :return: dotted names of the modules that were not loaded before
    """
    command = [sys.executable, "-c", LIST_MODULES.format(module=module, then=then)]
    return frozenset(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_no_library_beyond_sb3s() -> None:
    """The package loads no third-party library that Stable-Baselines3 does not load: no plots, no zoo, no progress bar."""
    ours = {module.split(".")[0] for module in loaded_by("sb3_ppo_edu", "sb3_ppo_edu.EduPPO")}
    theirs = {module.split(".")[0] for module in loaded_by("stable_baselines3")}
    assert "torch" in theirs
    assert ours - theirs - set(sys.stdlib_module_names) == {"sb3_ppo_edu"}


def test_import_loads_floors_1_to_3_only() -> None:
    """The algorithm comes with the first use of EduPPO; services, laboratory and front door wait until they are asked for."""
    loaded = loaded_by("sb3_ppo_edu", "sb3_ppo_edu.EduPPO")
    rooms = {module.split(".")[1] for module in loaded if module.startswith("sb3_ppo_edu.")}
    assert "algorithms" in rooms
    assert rooms.isdisjoint(
        {"checkpoint", "cli", "course", "distributed", "doctor", "envs", "export", "hyperparams", "lab", "training", "zoo"}
    )
