"""Mutants are drawn by a seed, change one thing, and are found again wherever their text has moved."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "house" / "mutants.py"


@pytest.fixture(scope="module")
def mutants() -> Iterator[ModuleType]:
    """The script, loaded; dataclasses look their module up."""
    specification = importlib.util.spec_from_file_location("house_mutants", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = sys.modules["house_mutants"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    del sys.modules["house_mutants"]


SOURCE = '''"""1 + 1 in a docstring."""

def clip(ratio: float | None, eps=0.2) -> float | None:
    """2 - 1 in a docstring."""
    if ratio is None or not eps:
        raise ValueError(f"{ratio + 1}")
    return min(-ratio, 1 +
               eps)
'''


def test_what_is_drawn(mutants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators, comparisons, constants, signs and functions of statements; no docstring, annotation or error's message."""
    (tmp_path / "clip.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(mutants, "FILES", {"clip.py": ()})
    drawn = mutants.draw(tmp_path, 3, 100)
    changes = {(mutant.kind, *(part.strip() for part in mutant.change[1:])) for mutant in drawn}
    assert changes == {
        ("constant", "2", "4"),  # of 0.2
        ("comparison", "", "not"),
        ("operator", "or", "and"),
        ("sign", "not", ""),
        ("function", "min", "max"),
        ("sign", "(-", "("),
        ("constant", "1", "2"),
        ("operator", "+", "-"),
    }
    assert drawn == mutants.draw(tmp_path, 3, 100)
    assert drawn != mutants.draw(tmp_path, 4, 100)
    for mutant in drawn:
        [(_, mutated)] = mutants.places(mutant, tmp_path)
        assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(SOURCE))


def test_a_mutant_is_made_where_its_text_is_now(mutants: ModuleType, tmp_path: Path) -> None:
    """Files, line breaks and indentation may change; one that stands in two files is changed in each, a lost one in none."""
    mutant = mutants.Mutant(
        1, "losses.py", "operator", "    low = 1 - clip_range\n    return low", "    low = 1 + clip_range\n    return low"
    )
    (tmp_path / "functional").mkdir()
    (tmp_path / "other.py").write_text("low = 1 - clip_range\n", encoding="utf-8")
    assert mutants.places(mutant, tmp_path) == []
    text = "class A:\n    def f(self):\n        low = (1\n            {} clip_range)\n        return low\n"
    mutant = mutants.Mutant(
        1, "losses.py", "operator", "low = (1 - clip_range)\nreturn low", "low = (1 + clip_range)\nreturn low"
    )
    for name in ("a.py", "b.py"):
        (tmp_path / "functional" / name).write_text(text.format("-"), encoding="utf-8")
    assert mutants.places(mutant, tmp_path) == [
        (tmp_path / "functional" / name, text.format("+")) for name in ("a.py", "b.py")
    ]


def test_the_nearest_tests_come_first(mutants: ModuleType, tmp_path: Path) -> None:
    """A test of the module's name, and those that import it; then those that reach it through others, by name or by string."""
    for path, text in {
        "sb3_ppo_edu/__init__.py": "NAMES = {'PPO': 'sb3_ppo_edu.algorithms.ppo'}",
        "sb3_ppo_edu/algorithms/ppo.py": "from sb3_ppo_edu.functional import losses",
        "sb3_ppo_edu/functional/losses.py": "",
        "sb3_ppo_edu/vec_env/guard.py": "",
        "tests/test_losses.py": "",
        "tests/floor/test_kl.py": "from sb3_ppo_edu.functional.losses import kl",
        "tests/test_ppo.py": "from sb3_ppo_edu import PPO",
        "tests/test_guard.py": "import sb3_ppo_edu.vec_env.guard",
        "tests/test_pages.py": "from sb3_ppo_edu import PPO",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    nearest, wider = mutants.stages(tmp_path, "sb3_ppo_edu.functional.losses")
    assert [path.stem for path in nearest] == ["test_losses", "test_kl"]
    assert [path.stem for path in wider] == ["test_ppo"]


def test_killed_and_survived(mutants: ModuleType, tmp_path: Path) -> None:
    """A mutant that a test notices is killed by it, one that none notices survives, and one without its text is not found."""
    tree = tmp_path / "tree"
    for path, text in {
        "sb3_ppo_edu/__init__.py": "",
        "sb3_ppo_edu/functional/losses.py": "def f(a, b):\n    return a + b\n\n\ndef g(a):\n    return a - 0\n",
        "tests/test_losses.py": "from sb3_ppo_edu.functional.losses import f\n\n\ndef test_sum():\n    assert f(1, 2) == 3\n",
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text, encoding="utf-8")
    (tree / "pytest.ini").write_text("[pytest]\nmarkers = slow\n", encoding="utf-8")
    listed = [
        mutants.Mutant(1, "losses.py", "operator", "return a + b", "return a - b"),
        mutants.Mutant(2, "losses.py", "operator", "return a - 0", "return a + 0"),
        mutants.Mutant(3, "losses.py", "operator", "return a * b", "return a / b"),
    ]
    assert mutants.run(tree, listed, tmp_path / "rows.csv", 60.0, 10) == 1
    assert mutants.read(tmp_path / "rows.csv", "killed") == listed[:1]
    assert mutants.read(tmp_path / "rows.csv", "survived") == listed[1:2]
    assert mutants.read(tmp_path / "rows.csv", "not found") == listed[2:]
    assert "tests/test_losses.py::test_sum" in (tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert "return a + b" in (tree / "sb3_ppo_edu" / "functional" / "losses.py").read_text(encoding="utf-8")
