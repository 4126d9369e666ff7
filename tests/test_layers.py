"""The house: an import goes down, never up, and each library is known only to the rooms that need it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "sb3_ppo_edu"

# Room (module or folder directly below the package) -> floor. A new room gets its line here.
FLOORS = {
    # 1 the mathematics
    "advantages": 1,
    "distributions": 1,
    "losses": 1,
    "objectives": 1,
    "version": 1,
    # 2 the machine
    "buffers": 2,
    "engines": 2,
    "guard": 2,
    "policies": 2,
    "vec_env": 2,
    "workers": 2,
    # 3 the algorithm, its argument checks, and the package's face (__init__)
    "__init__": 3,
    "arguments": 3,
    "callbacks": 3,
    "checkpoint": 3,
    "checks": 3,
    "diagnostics": 3,
    "engine_choice": 3,
    "model": 3,
    "ppo": 3,
    "reinforce": 3,
    "saved_objective": 3,
    "services": 3,
    "session": 3,
    "trust": 3,
    # 4 the services
    "distributed": 4,
    "doctor": 4,
    "envs": 4,
    "hyperparameters": 4,
    "rerun": 4,
    "runs": 4,
    "teaching": 4,
    "zoo": 4,
    # 5 the laboratory
    "bench": 5,
    "course": 5,
    # 6 the front door
    "__main__": 6,
    "cli": 6,
}

# What a room may know beside the standard library and the floors below it.
TENSORS = ("numpy", "torch")
TRAINING = (*TENSORS, "gymnasium", "stable_baselines3")
KNOWS = {
    "advantages": TENSORS,
    "distributions": (*TENSORS, "stable_baselines3.common.distributions"),
    "losses": ("torch",),
    "objectives": TENSORS,
    "version": (),
    "buffers": TRAINING,
    "engines": TRAINING,
    "guard": TRAINING,
    "policies": TRAINING,
    "vec_env": TRAINING,
    "workers": TRAINING,
    "__init__": (),
    "arguments": TRAINING,
    "callbacks": TRAINING,
    "checkpoint": TRAINING,
    "checks": TRAINING,
    "diagnostics": TRAINING,
    "engine_choice": TRAINING,
    "model": TRAINING,
    "ppo": TRAINING,
    "reinforce": TRAINING,
    "saved_objective": (),
    "services": (),
    "session": TRAINING,
    "teaching": (*TENSORS, "IPython.display"),
    "trust": TRAINING,
}

# Above floor 3 anything may be imported, save these: they are slow to import or patch what they touch.
DRAWING = ("PIL", "imageio", "matplotlib", "moviepy", "pandas", "seaborn")
DRAWING_FLOOR = 5
ZOO_LIBRARY = "rl_zoo3"
ZOO_ROOM = "zoo"


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """
    List what a module imports, wherever in it: at the top, in a function, for type checking, or by a literal name.

    :param tree: syntax tree of the module
    :param package: dotted name of the package that the module lies in, for relative imports
    :return: pairs of line number and absolute dotted name; ``from a import b`` gives ``a.b``
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"__import__", "import_module", "run_module"} and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def room_of(module: str, root: Path) -> str:
    """
    Name the room of one of the package's own modules.

    :param module: absolute dotted name below the package, or the name of something in the package's face
    :param root: the package's folder
    :return: name of the room; ``__init__`` for the face
    """
    room = [*module.split("."), "__init__"][1]
    exists = (root / room).is_dir() or (root / f"{room}.py").is_file()
    return room if exists else "__init__"


def broken_rule(room: str, module: str, root: Path) -> str | None:
    """
    Judge one import.

    :param room: the room that imports
    :param module: absolute dotted name of what it imports
    :param root: the package's folder
    :return: the rule that it breaks, or None
    """
    library = module.split(".")[0]
    if library == PACKAGE:
        other = room_of(module, root)
        if FLOORS.get(other, 0) > FLOORS[room]:
            return f"goes up from floor {FLOORS[room]} to floor {FLOORS[other]}"
    elif library in sys.stdlib_module_names:
        return None
    elif room in KNOWS:
        if not any(f"{module}.".startswith(f"{known}.") for known in KNOWS[room]):
            return f"{room} knows only {', '.join(KNOWS[room]) or 'the standard library'}"
    elif library == ZOO_LIBRARY and room != ZOO_ROOM:
        return f"{ZOO_LIBRARY} is imported only in {ZOO_ROOM}.py"
    elif library in DRAWING and FLOORS[room] < DRAWING_FLOOR:
        return f"drawing and tables start on floor {DRAWING_FLOOR}"
    return None


def violations(root: Path) -> list[str]:
    """
    Walk a package and list the imports that break a rule.

    :param root: the package's folder
    :return: one line for each: file, line number, what is imported, which rule it breaks
    """
    found = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        room = inside.parts[0].removesuffix(".py")
        if room not in FLOORS:
            found.append(f"{inside}: room {room!r} has no floor; give it one in tests/test_layers.py")
            continue
        package = ".".join([PACKAGE, *inside.parts[:-1]])
        for line, module in imported_modules(ast.parse(path.read_text(encoding="utf-8")), package):
            rule = broken_rule(room, module, root)
            if rule:
                found.append(f"{inside}:{line}: imports {module}: {rule}")
    return found


def build(root: Path, files: dict[str, str]) -> Path:
    """
    Write a package for the walker to judge.

    :param root: folder to write into
    :param files: path below it -> source
    :return: the folder
    """
    for name, source in {
        "__init__.py": "",
        "losses.py": "",
        "ppo.py": "",
        "zoo.py": "",
        "engines/__init__.py": "",
        **files,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


def test_imports_go_down() -> None:
    """No module of the package imports from a floor above it or a library that its room does not know."""
    assert violations(PROJECT / PACKAGE) == []


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("losses.py", "import sb3_ppo_edu.ppo", "goes up from floor 1 to floor 3"),
        ("losses.py", "from sb3_ppo_edu.ppo import EduPPO", "goes up from floor 1 to floor 3"),
        ("losses.py", "from sb3_ppo_edu import ppo", "goes up from floor 1 to floor 3"),
        ("losses.py", "from sb3_ppo_edu import EduPPO", "goes up from floor 1 to floor 3"),
        ("losses.py", "from . import ppo", "goes up from floor 1 to floor 3"),
        ("losses.py", "from .engines import autograd", "goes up from floor 1 to floor 2"),
        ("engines/fused.py", "from ..ppo import EduPPO", "goes up from floor 2 to floor 3"),
        ("engines/fused.py", "from ..zoo import main", "goes up from floor 2 to floor 4"),
        ("ppo.py", "def f():\n    from sb3_ppo_edu.zoo import main", "goes up from floor 3 to floor 4"),
        ("ppo.py", "if TYPE_CHECKING:\n    from sb3_ppo_edu.zoo import main", "goes up from floor 3 to floor 4"),
        ("ppo.py", "importlib.import_module('sb3_ppo_edu.zoo')", "goes up from floor 3 to floor 4"),
        ("__init__.py", "from sb3_ppo_edu.zoo import register", "goes up from floor 3 to floor 4"),
        ("losses.py", "import numpy as np", "losses knows only torch"),
        ("losses.py", "import torchvision", "losses knows only torch"),
        ("losses.py", "from stable_baselines3.common.utils import explained_variance", "losses knows only torch"),
        ("advantages.py", "from gymnasium import spaces", "advantages knows only numpy, torch"),
        ("distributions.py", "from stable_baselines3 import PPO", "distributions knows only numpy, torch"),
        ("ppo.py", "import matplotlib.pyplot as plt", "ppo knows only"),
        ("ppo.py", "import rl_zoo3", "ppo knows only"),
        ("__init__.py", "import torch", "__init__ knows only the standard library"),
        ("cli.py", "from rl_zoo3 import ALGOS", "rl_zoo3 is imported only in zoo.py"),
        ("cli.py", "runpy.run_module('rl_zoo3.train')", "rl_zoo3 is imported only in zoo.py"),
        ("zoo.py", "import pandas as pd", "drawing and tables start on floor 5"),
        ("runs.py", "from PIL import Image", "drawing and tables start on floor 5"),
        ("attic.py", "", "room 'attic' has no floor"),
        ("attic/dust.py", "", "room 'attic' has no floor"),
    ],
)
def test_bad_import_is_found(tmp_path: Path, name: str, source: str, rule: str) -> None:
    """One bad import in an otherwise empty house is found, once, with its file and the rule that it breaks."""
    (found,) = violations(build(tmp_path, {name: source}))
    assert found.startswith(name)
    assert rule in found


def test_good_imports_pass(tmp_path: Path) -> None:
    """Imports that go down or stay on their floor, and libraries that a room knows, are not complained about."""
    good = {
        "__init__.py": "from sb3_ppo_edu.ppo import EduPPO\nfrom sb3_ppo_edu.version import __version__",
        "losses.py": "from __future__ import annotations\nimport math\nimport torch as th\nfrom torch.nn import functional",
        "distributions.py": "from stable_baselines3.common.distributions import DiagGaussianDistribution",
        "engines/fused.py": "from .. import losses\nfrom . import autograd\nfrom stable_baselines3.common import utils",
        "reinforce.py": "from .ppo import EduPPO",
        "zoo.py": "import rl_zoo3\nfrom sb3_ppo_edu import EduPPO",
        "bench/plots.py": "import matplotlib.pyplot as plt\nimport pandas as pd",
        "cli.py": "import rich\nfrom sb3_ppo_edu.bench import plots",
    }
    assert violations(build(tmp_path, good)) == []


def test_coverage_threshold_is_for_floors_1_to_3() -> None:
    """The rooms that the coverage report leaves out are exactly those above floor 3."""
    omitted = coverage.Coverage(config_file=str(PROJECT / "pyproject.toml")).get_option("report:omit")
    above = [room for room, floor in FLOORS.items() if floor > 3]
    assert isinstance(omitted, list)
    assert sorted(omitted) == sorted(f"{PACKAGE}/{room}{ending}" for room in above for ending in (".py", "/*"))
