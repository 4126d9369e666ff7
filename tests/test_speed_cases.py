"""The speed laboratory's cases are what they are said to be, and algorithms take turns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from torch import nn

from sb3_ppo_edu.lab.speed.cases import CASES, quick_version, rotated
from tests.speed_measurements import TINY


def test_zoo_cases_are_the_zoos() -> None:
    """Every setting of the zoo's cases is that of rl_zoo3's own file, but for the number of steps and Pendulum's gSDE."""
    spec = importlib.util.find_spec("rl_zoo3")
    assert spec is not None
    assert spec.submodule_search_locations
    (folder,) = spec.submodule_search_locations
    theirs = yaml.safe_load((Path(folder) / "hyperparams" / "ppo.yml").read_text(encoding="utf-8"))
    compared = [case for name, case in CASES.items() if name.endswith(("-zoo", "-users", "-gsde", "-dict"))]
    for case in compared:
        block = theirs[case.env_id.replace("Humanoid-v5", "Humanoid-v4")]
        wanted = {key: value for key, value in block.items() if key not in ("policy", "n_timesteps")}
        if case.title.endswith("without gSDE"):
            assert wanted.pop("use_sde") and wanted.pop("sde_sample_freq")
        if "policy_kwargs" in wanted:
            wanted["policy_kwargs"] = eval(wanted["policy_kwargs"], {"nn": nn})  # as the zoo does
        ours = {**case.arguments, "n_envs": case.n_envs, **({"normalize": True} if case.normalize else {})}
        assert ours == wanted, case.title
    assert len(compared) == 10
    assert CASES["cartpole-defaults"].arguments == {}


def test_case_trains_whole_rollouts() -> None:
    """A training's steps are rollouts x n_steps x n_envs; SB3's default rollout has 2048 steps."""
    assert CASES["cartpole-defaults"].steps == 3 * 2048
    assert TINY.steps == 2 * 32 * 2


@pytest.mark.parametrize("name", CASES)
def test_quick_cases_are_small(name: str) -> None:
    """A quick case has about two thousand transitions and all other settings of the full one."""
    case, quick = CASES[name], quick_version(CASES[name])
    assert quick.steps == 2048
    assert {**quick.arguments, "n_steps": case.n_steps} == {"n_steps": case.n_steps, **case.arguments}
    assert (quick.env_id, quick.n_envs, quick.normalize) == (case.env_id, case.n_envs, case.normalize)


def test_rotation() -> None:
    """Each round begins with the next name, and after as many rounds as names with the first again."""
    assert [rotated("abc", turn) for turn in range(4)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
