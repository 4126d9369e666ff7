"""What ``docs/guides/options.md`` says of options, classes and engines holds: its table is read and tried."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_edu import EduPPO, MaskableEduPPO, MaskableRecurrentEduPPO, RecurrentEduPPO
from sb3_ppo_edu.algorithms.arguments import EngineName
from sb3_ppo_edu.engines import UnsupportedPolicyError
from sb3_ppo_edu.vec_env import Curiosity
from tests.environments import RandomWalk
from tests.masked_environments import MaskedWalk

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "options.md"
CLASSES: list[Any] = [EduPPO, MaskableEduPPO, RecurrentEduPPO, MaskableRecurrentEduPPO]
ENGINES = [one for one in get_args(EngineName) if one != "auto"]


def table() -> dict[str, list[set[str]]]:
    """By option, for each class the engines of the guide's table."""
    head, *rows = re.findall(r"^\| (.*) \|$", GUIDE.read_text(encoding="utf-8").partition("## What goes with what")[2], re.M)
    assert re.findall(r"`(\w+)`", head) == [one.__name__ for one in CLASSES]
    found = {}
    for row in rows:
        first, *cells = (cell.strip() for cell in f"{row} ".split("|"))
        engines = [{*ENGINES} if cell == "all" else {*cell.split(", ")} - {""} for cell in cells]
        found.update(dict.fromkeys(re.findall(r"`([^`]+)`", first), engines))
    return found


def engines_of(algorithm: Any, option: str) -> set[str]:
    """Build a model with the option, and ask it for each engine; a class without the argument has none."""
    masked, name, _ = issubclass(algorithm, MaskableEduPPO | MaskableRecurrentEduPPO), *option.partition("=")[::2]
    observation = "dict" if name == "critic_keys" else "box"
    action = "box" if name in ("action_distribution", "log_std_bounds", "use_sde") and not masked else "discrete"
    env: Any = DummyVecEnv([lambda: (MaskedWalk if masked else RandomWalk)(observation, action)])
    given = {} if option == "Curiosity(env)" else {name: ast.literal_eval(option.partition("=")[2])}
    policy = next(one for one in algorithm.policy_aliases if one.startswith("MultiInput" if observation == "dict" else "Mlp"))
    found = set()
    for engine in ENGINES:
        around = env if given else Curiosity(env)
        try:
            algorithm(policy, around, n_steps=16, batch_size=16, device="cpu", engine=engine, **given).attach_engine()
        except (UnsupportedPolicyError, TypeError) as error:
            assert isinstance(error, UnsupportedPolicyError) or f"{name}=" in str(error)
            continue
        found.add(engine)
    return found


@pytest.mark.parametrize("option", table())
def test_the_table_is_true(option: str) -> None:
    """Each option with each class and engine."""
    assert [engines_of(algorithm, option) for algorithm in CLASSES] == table()[option]
