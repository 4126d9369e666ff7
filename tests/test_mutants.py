"""Mutants are drawn by a seed and change one thing; the tests nearest to them judge them, and what is judged stays judged."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "benchmarks" / "house"


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that draws."""
    monkeypatch.syspath_prepend(str(HOUSE))
    return importlib.import_module("mutant_drawing")


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that judges."""
    monkeypatch.syspath_prepend(str(HOUSE))
    return importlib.import_module("mutant_judging")


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command."""
    monkeypatch.syspath_prepend(str(HOUSE))
    return importlib.import_module("mutants")


SOURCE = '''"""1 + 1 in a docstring."""

def clip(ratio: float | None, eps=0.2) -> float | None:
    """2 - 1 in a docstring."""
    if ratio is None or not eps:
        raise ValueError(f"{ratio + 1}")
    if ratio:
        check(ratio)
    return min(-(ratio), 1 +
               eps)
'''


def test_what_is_changed_in_python(drawing: ModuleType) -> None:
    """All of statements; no docstring, annotation or error's message. Each mutant is Python, and another program."""
    found = list(drawing.python_mutants("clip.py", SOURCE))
    assert {(mutant.kind, mutant.first, mutant.last, mutant.change) for mutant in found} == {
        ("constant", 3, 3, "def clip(ratio: float | None, eps=0.[2 → 4]) -> float | None:"),
        ("comparison", 5, 5, "if ratio is [ → not]None or not eps:"),
        ("operator", 5, 5, "if ratio is None [or → and] not eps:"),
        ("sign", 5, 5, "if ratio is None or [not → ]eps:"),
        ("condition", 7, 7, "if [ratio: → not (ratio):]"),
        ("call", 8, 8, "[check(ratio) → pass]"),
        ("function", 9, 10, "return [min → max](-(ratio), 1 +"),
        ("sign", 9, 10, "return min[(-( → ((]ratio), 1 +"),
        ("constant", 9, 10, "return min(-(ratio), [1 → 2] +"),
        ("operator", 9, 10, "return min(-(ratio), 1 [+ → -]"),
    }
    for mutant in found:
        made = mutant.made(SOURCE)
        assert made is not None
        assert ast.dump(ast.parse(made)) != ast.dump(ast.parse(SOURCE))


C_SOURCE = """#include "kernels.h" /* a + b */
#define EPS 1e-8
/* 1 + 1 */
static REAL f(const REAL *x, int64_t n) {
    REAL sum = -x[n]; // 2 - 1
    for (int64_t i = 0; i < n; i++) sum += smaller(x[i], EPS) * x[i];
    return sum;
}
"""


def test_what_is_changed_in_c(drawing: ModuleType) -> None:
    """Operators between operands, constants and functions; no pointer's star, comment, type's width or include."""
    found = list(drawing.c_mutants("engines/fused/csrc/f.c", C_SOURCE))
    assert {(mutant.kind, mutant.first, mutant.change) for mutant in found} == {
        ("constant", 2, "#define EPS [1e-8 → 2e-08]"),
        ("sign", 5, "REAL sum = [- → ]x[n]; // 2 - 1"),
        ("constant", 6, "for (int64_t i = [0 → 1]; i < n; i++) sum += smaller(x[i], EPS) * x[i];"),
        ("comparison", 6, "for (int64_t i = 0; i [< → <=] n; i++) sum += smaller(x[i], EPS) * x[i];"),
        ("operator", 6, "for (int64_t i = 0; i < n; i++) sum [+= → -=] smaller(x[i], EPS) * x[i];"),
        ("function", 6, "for (int64_t i = 0; i < n; i++) sum += [smaller → larger](x[i], EPS) * x[i];"),
        ("operator", 6, "for (int64_t i = 0; i < n; i++) sum += smaller(x[i], EPS) [* → /] x[i];"),
    }


def test_a_draw_is_its_seeds(drawing: ModuleType, tmp_path: Path) -> None:
    """The same seed draws the same, fewer are the first of more; one in five is of the kernels; the driver is no kernel."""
    for name in ("functional/clip.py", "engines/fused/csrc/f.c", "engines/fused/csrc/driver.c", "envs/clip.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(C_SOURCE if name.endswith("c") else SOURCE, encoding="utf-8")
    drawn = drawing.draw(tmp_path, 3, 10)
    assert [mutant.number for mutant in drawn] == list(range(1, 11))
    assert [mutant.number for mutant in drawn if mutant.room == "engines, kernels"] == [5, 10]
    assert {mutant.file for mutant in drawn} == {"functional/clip.py", "engines/fused/csrc/f.c"}
    assert drawing.draw(tmp_path, 3, 6) == drawn[:6]
    assert drawing.draw(tmp_path, 4, 10) != drawn


def test_a_mutant_is_made_where_its_text_stands_once(drawing: ModuleType) -> None:
    """Lines may move; where they stand twice or not at all, nothing is changed."""
    mutant = drawing.Mutant(1, "a.py", "operator", 2, 2, "    return a + b\n", "    return a - b\n")
    assert mutant.made("# moved\n\ndef f(a, b):\n    return a + b\n") == "# moved\n\ndef f(a, b):\n    return a - b\n"
    assert mutant.made("def f(a, b):\n    return b + a\n") is None
    assert mutant.made(2 * "def f(a, b):\n    return a + b\n") is None


def test_the_nearest_tests_come_first(judging: ModuleType, tmp_path: Path) -> None:
    """A test of the module's name, those that import it, those that reach it through others, by name or by string."""
    for path, text in {
        "sb3_ppo_edu/__init__.py": "NAMES = {'PPO': 'sb3_ppo_edu.algorithms.ppo'}",
        "sb3_ppo_edu/algorithms/ppo.py": "from sb3_ppo_edu.functional import losses",
        "sb3_ppo_edu/functional/losses.py": "",
        "sb3_ppo_edu/vec_env/guard.py": "",
        "tests/test_losses.py": "",
        "tests/floor/test_kl.py": "from sb3_ppo_edu.functional.losses import kl",
        "tests/test_ppo.py": "from sb3_ppo_edu import PPO",
        "tests/test_guard.py": "import sb3_ppo_edu.vec_env.guard",
        "tests/test_plots.py": "from sb3_ppo_edu import PPO",
        "tests/test_speed_rows.py": "from sb3_ppo_edu.functional import losses",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    found = judging.tests_by_distance(tmp_path, judging.imports(tmp_path), "sb3_ppo_edu.functional.losses")
    assert found == [
        (0, "tests/test_losses.py"),
        (1, "tests/floor/test_kl.py"),
        (1, "tests/test_speed_rows.py"),
        (3, "tests/test_ppo.py"),
    ]


TOY = {
    "pytest.ini": "[pytest]\nmarkers = slow\npythonpath = .\n",
    "sb3_ppo_edu/__init__.py": "",
    "sb3_ppo_edu/functional/losses.py": "def f(a, b):\n    return a + b\n\n\ndef g(a):\n    return a - 0\n",
    "tests/test_losses.py": """from sb3_ppo_edu.functional.losses import f, g


def test_sum():
    assert f(1, 2) == 3


def test_none():
    assert g(1) == 1


def test_that_fails_anyway():
    assert f(1, 1) == 3
""",
}


def test_judged_once_and_once_again(mutants: ModuleType, tmp_path: Path) -> None:
    """What is judged is not judged again, unless it survived and a test has come; fewer than 95 % killed is exit code 1."""
    for path, text in {**TOY, "tests/conftest.py": (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    command = [sys.executable, str(HOUSE / "mutants.py"), "--tree", str(tmp_path), "--out", str(tmp_path), "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def outcomes(*options: str) -> tuple[int, dict[str, tuple[str, str, int]], str]:
        done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
        rows = mutants.read_rows(tmp_path / "mutants_rooms.csv")
        return done.returncode, {row.mutant.change: (row.outcome, row.by, row.tests) for row in rows}, done.stdout

    code, rows, said = outcomes()
    assert (code, "fail without a mutant and are left out: tests/test_losses.py::test_that_fails_anyway" in said) == (1, True)
    assert rows == {
        "return a [+ → -] b": ("killed", "tests/test_losses.py::test_sum", 1),
        "return a - [0 → 1]": ("killed", "tests/test_losses.py::test_none", 1),
        "return a [- → +] 0": ("survived", "", 2),
    }
    assert outcomes()[1:] == (rows, said.splitlines()[-1] + "\n")
    with (tmp_path / "tests" / "test_losses.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef test_sign():\n    assert str(g(-0.0)) == '-0.0'\n")
    code, rows, said = outcomes("--again")
    assert (code, rows["return a [- → +] 0"][:2]) == (0, ("killed", "tests/test_losses.py::test_sign"))
    assert "| functional | 3 | 0 | 0 | 3 | 0 | 100.0 % |" in (tmp_path / "mutants_rooms.md").read_text(encoding="utf-8")
