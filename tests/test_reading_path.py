"""The algorithm in a handful of files: what a reader opens from ``train`` to the clip, and from the rollout to GAE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.layout.reading_path import (
    Calls,
    Function,
    Place,
    clamps_ratio,
    files_of,
    length_without_docstring,
    lines_of_code,
    reading_path,
    runs_backwards,
)
from tests.layout.source import build, code_lines

PACKAGE = Path(__file__).resolve().parent.parent / "sb3_ppo_edu"
FILES_OF_ONE_PATH, FILES_OF_BOTH, LINES_OF_BOTH = 4, 6, 1000
METHOD_LINES, ALGORITHM_LINES = 40, 400

PATHS: dict[str, Callable[[Function], bool]] = {"train": clamps_ratio, "collect_rollouts": runs_backwards}
"""Method of the algorithm -> what tells that the reader has arrived."""


def ways_of(root: Path) -> dict[str, list[Place]]:
    """
    Walk both reading paths of a package.

    :param root: the package's folder
    :return: method of ``EduPPO`` -> the functions from there to the mathematics
    """
    calls = Calls(root)
    starts = {name: calls.method("EduPPO", name) for name in PATHS}
    return {name: reading_path(calls, start, PATHS[name]) for name, start in starts.items() if start is not None}


@pytest.mark.parametrize("method", PATHS)
def test_reading_path_is_short(method: str) -> None:
    """From the method of the algorithm to its equation a reader opens at most four files."""
    way = ways_of(PACKAGE)[method]
    assert way, f"calls don't lead from EduPPO.{method} to its equation"
    assert len(files_of([way])) <= FILES_OF_ONE_PATH, " -> ".join(map(str, way))


def test_algorithm_is_a_handful_of_files() -> None:
    """Both paths together lead through at most six files of at most 1,000 lines of code."""
    opened = files_of(list(ways_of(PACKAGE).values()))
    lengths = {str(source.path): code_lines(source.text) for source in opened}
    assert len(opened) <= FILES_OF_BOTH, lengths
    assert lines_of_code(opened) <= LINES_OF_BOTH, lengths


@pytest.mark.parametrize("method", PATHS)
def test_method_fits_on_a_screen(method: str) -> None:
    """The two methods that are the algorithm have at most forty lines each, their docstring not counted."""
    place = Calls(PACKAGE).method("EduPPO", method)
    assert place is not None
    assert length_without_docstring(place) <= METHOD_LINES


def test_algorithm_file_is_short() -> None:
    """The file that holds the algorithm has at most 400 lines."""
    place = Calls(PACKAGE).method("EduPPO", "train")
    assert place is not None
    assert len(place.source.text.splitlines()) <= ALGORITHM_LINES


# -- the reader itself -----------------------------------------------------------------------------------------------------

PPO = """
from sb3_ppo_edu.engines import make_engine
from sb3_ppo_edu.rollouts.buffers import finish
class EduPPO(Base):
    def train(self):
        '''
        Text.
        '''
        self._epoch(make_engine())
    def collect_rollouts(self):
        finish(self.buffer)
class Base:
    def _epoch(self, engine):
        engine.gradients(1)
"""
ENGINES = {
    "engines/__init__.py": "from sb3_ppo_edu.engines.base import make_engine",
    "engines/base.py": "class Engine(Protocol):\n    def gradients(self, m): ...\ndef make_engine(): ...",
    "engines/autograd.py": """
class AutogradEngine:
    def gradients(self, minibatch):
        return self.objective(minibatch)
""",
    "engines/other.py": "class OtherEngine:\n    def gradients(self, ratio):\n        return np.clip(ratio, 0, 1)",
}
OBJECTIVE = """
from sb3_ppo_edu import losses
class Objective:
    def __call__(self, minibatch):
        return self.policy_loss(minibatch)
    def policy_loss(self, minibatch): ...
class PPOObjective(Objective):
    def policy_loss(self, minibatch):
        return losses.clipped(minibatch)
"""
LOSSES = "def clipped(ratio):\n    return th.clamp(ratio, 1, 2)"
BUFFERS = "from .. import advantages as a\ndef finish(buffer):\n    return a.estimate(buffer)"
ADVANTAGES = """
def estimate(deltas):
    last = 0
    for t in reversed(range(3)):
        last = deltas[t] + last
    return last
"""
SMALL = {
    "__init__.py": "",
    "algorithms/ppo.py": PPO,
    **ENGINES,
    "objective.py": OBJECTIVE,
    "losses.py": LOSSES,
    "rollouts/buffers.py": BUFFERS,
    "advantages.py": ADVANTAGES,
}


def test_calls_are_followed_by_name(tmp_path: Path) -> None:
    """Through ``self``, base classes and what overrides them, the reference engine, a called objective, and modules."""
    ways = ways_of(build(tmp_path, SMALL))
    assert [place.name for place in ways["train"]] == [
        "EduPPO.train",
        "Base._epoch",
        "AutogradEngine.gradients",
        "Objective.__call__",
        "PPOObjective.policy_loss",
        "clipped",
    ]
    assert [str(place.source.path) for place in ways["collect_rollouts"]] == [
        "algorithms/ppo.py",
        "rollouts/buffers.py",
        "advantages.py",
    ]
    opened = files_of(list(ways.values()))
    assert len(opened) == 6
    assert lines_of_code(opened) == 10 + 3 + 8 + 2 + 3 + 5


def test_path_that_ends_is_empty(tmp_path: Path) -> None:
    """Where the calls stop before the equation, there is no path."""
    files = {**SMALL, "losses.py": "def clipped(ratio):\n    return ratio"}
    assert ways_of(build(tmp_path, files))["train"] == []


def test_long_path_is_seen(tmp_path: Path) -> None:
    """A file that only hands on makes the path longer by one."""
    hop = {"rollouts/hop.py": "from sb3_ppo_edu.advantages import estimate\ndef hop(b):\n    return estimate(b)"}
    files = {**SMALL, **hop, "rollouts/buffers.py": "from .hop import hop\ndef finish(buffer):\n    return hop(buffer)"}
    assert len(files_of([ways_of(build(tmp_path, files))["collect_rollouts"]])) == 4


def test_ambiguous_method_is_not_followed(tmp_path: Path) -> None:
    """Where several classes define a method and none is the reference, no path is made up."""
    engine = ENGINES["engines/autograd.py"].replace("AutogradEngine", "ThirdEngine")
    assert ways_of(build(tmp_path, {**SMALL, "engines/autograd.py": engine}))["train"] == []


def test_code_lines_are_counted() -> None:
    """Blank lines, comments and docstrings are none; a statement over three lines is three, a string's lines are code."""
    text = (
        '"""Text."""\n\nx = (\n    1,\n)  # why\nclass A:\n    """\n    Text.\n    """\n    y = """\n\n"""\n    """Text."""\n'
    )
    assert code_lines(text) == 3 + 1 + 3


def test_docstring_is_not_counted_as_length(tmp_path: Path) -> None:
    """``train`` above has its signature and one statement."""
    place = Calls(build(tmp_path, SMALL)).method("EduPPO", "train")
    assert place is not None
    assert length_without_docstring(place) == 2
