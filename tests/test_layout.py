"""The house: an import goes down, never up, files are short and named by an idea, and the algorithm is a handful of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import coverage
import gymnasium
import pytest
import stable_baselines3

from tests.layout.files import long_files, names_without_idea, strangers_at_the_top
from tests.layout.imports import House, circles, eager_face, missing_services, missing_targets
from tests.layout.private_names import foreign_privates, private_names_of_library
from tests.layout.source import build

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "sb3_ppo_edu"
TESTS = PROJECT / "tests"

# Room (folder or module directly below the package) -> floor. A new room gets its line here.
FLOORS = {
    # 1 the mathematics
    "functional": 1,
    "version": 1,
    # 2 the machine
    "engines": 2,
    "policies": 2,
    "rollouts": 2,
    "serialization": 2,
    "vec_env": 2,
    # 3 the algorithm
    "algorithms": 3,
    # 4 the services
    "checkpoint": 4,
    "distributed": 4,
    "doctor": 4,
    "envs": 4,
    "export": 4,
    "training": 4,
    "zoo": 4,
    # 5 the laboratory and the course
    "course": 5,
    "lab": 5,
    # 6 the front door
    "__main__": 6,
    "cli": 6,
    # The package's face lies above all floors: it names what users want, and nothing inside imports it.
    "__init__": 7,
}

# What a room, or a module of one, may know beside the standard library and the floors below it. Other rooms may know all.
TENSORS = ("numpy", "torch")
TRAINING = (*TENSORS, "gymnasium", "stable_baselines3")
KNOWS = {
    "functional": TENSORS,
    "functional/distributions": (*TENSORS, "stable_baselines3.common.distributions"),
    "functional/losses": ("torch",),
    "version": (),
    "engines": TRAINING,
    "policies": (*TRAINING, "sb3_contrib"),
    "rollouts": TRAINING,
    "rollouts/masked_sequences": (*TRAINING, "sb3_contrib"),
    "rollouts/sequences": (*TRAINING, "sb3_contrib"),
    "serialization": (*TRAINING, "yaml"),
    "vec_env": TRAINING,
    "algorithms": TRAINING,
    "algorithms/maskable": (*TRAINING, "sb3_contrib"),
    "algorithms/recurrent": (*TRAINING, "sb3_contrib"),
    "checkpoint": TRAINING,
    "course/exercises": (*TENSORS, "IPython.display"),
    "__init__": (),
}

# Above floor 3 anything may be imported, save these: they are slow to import or patch what they touch.
DRAWING = ("PIL", "imageio", "matplotlib", "moviepy", "pandas", "seaborn")

HOUSE = House(
    floors=FLOORS,
    knows=KNOWS,
    only_in={"rl_zoo3": "zoo"},
    from_floor=dict.fromkeys(DRAWING, 5),
)

# The one table of functions that lie above those who call them by name: name -> "module:function".
SERVICES = {
    "resume": "sb3_ppo_edu.checkpoint.resume:resume",
    "export": "sb3_ppo_edu.export.onnx_file:export",
    "from_hub": "sb3_ppo_edu.training.hub:from_hub",
    "doctor_page": "sb3_ppo_edu.lab.doctor_page:write_page",
}

# Exact resume is one of the promises, so it stands under the coverage threshold although it lies above floor 3.
COVERED_ABOVE = {"checkpoint"}

# File -> why it touches privates of Stable-Baselines3, Gymnasium or torch.
LIBRARY_PRIVATES = {
    "algorithms/diagnostics.py": "SB3 counts updates in _n_updates, and keeps the ends of episodes in _last_episode_starts",
    "algorithms/model.py": "SB3 calls the static method _wrap_env for what it trains in; a static method has no super()",
    "checkpoint/environments.py": "Box2D environments take their world down in _destroy, for which there is no public name",
    "doctor/callback.py": "SB3 counts updates in _n_updates, and the steps before this learn in _num_timesteps_at_start",
    "engines/fingerprint.py": "torch tells only in private attributes whether hooks are registered, and who has a memory",
    "engines/flat.py": "copies and norms of many tensors in one call",
    "engines/validation.py": "torch tells only in _validate_args whether its distributions validate what they are given",
    "export/graph.py": "sb3-contrib's policies make a distribution of what an LSTM gives in _get_action_dist_from_latent",
    "export/sampling.py": "SB3's gSDE keeps what its noise depends on in _latent_sde",
    "rollouts/lean.py": "SB3 keeps in _last_obs and _last_episode_starts where a rollout goes on, and counts episodes in "
    "_update_info_buffer",
    "vec_env/normalize.py": "SB3 normalises in _normalize_obs and _update_reward, which somebody may have replaced",
    "vec_env/workers.py": "the worker process is SB3's _worker with a watch around it",
}

GENERATED: tuple[str, ...] = ()


def test_imports_go_down() -> None:
    """No module of the package imports from a floor above it or a library that its room does not know."""
    assert HOUSE.violations(PACKAGE) == []


def test_services_are_those_listed() -> None:
    """The table of services has the entries that are listed here, and each leads to a function."""
    entries = HOUSE.entries(PACKAGE)
    assert entries == SERVICES
    assert missing_services(entries, PACKAGE) == []


def test_no_circle_between_files() -> None:
    """No file imports, over whatever other files, itself."""
    assert circles(PACKAGE) == []


def test_private_names_stay_private() -> None:
    """No class reaches into another class of ours, and only listed files into the libraries'."""
    libraries = [Path(str(library.__file__)).parent for library in (stable_baselines3, gymnasium)]
    names = frozenset().union(*map(private_names_of_library, libraries))
    own, theirs, not_needed = foreign_privates(PACKAGE, names, LIBRARY_PRIVATES)
    assert (own, theirs, not_needed) == ([], [], [])


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=lambda folder: folder.name)
def test_files_are_short(folder: Path) -> None:
    """No file of package and tests has more than 500 lines."""
    assert long_files(folder, GENERATED) == []


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=lambda folder: folder.name)
def test_files_are_named_by_an_idea(folder: Path) -> None:
    """No file or folder is called "part", "misc", "utils", "common" or "helpers", or by a number."""
    assert names_without_idea(folder) == []


def test_top_level_holds_rooms() -> None:
    """Directly below the package lie rooms, its face and its front door, and forwarding modules that lead somewhere."""
    assert strangers_at_the_top(PACKAGE) == []
    assert missing_targets(PACKAGE) == []


def run(code: str, path: Path) -> str:
    """
    Run a program in a fresh interpreter.

    :param code: the program
    :param path: folder to find packages in
    :return: what it prints
    """
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=path, env=environment).stdout


LOADED = "import sys, sb3_ppo_edu; print(*sorted({'gymnasium', 'numpy', 'stable_baselines3', 'torch'} & set(sys.modules)))"


def test_import_loads_no_torch() -> None:
    """``import sb3_ppo_edu`` loads neither torch nor SB3 nor numpy; the first use of a name does."""
    assert run(LOADED, PROJECT).split() == []
    assert eager_face(PACKAGE) == []


def test_face_shows_what_it_has() -> None:
    """Each name of ``__all__`` is there and in ``dir()``; another name is refused by the package's name."""
    code = """
import sb3_ppo_edu as package
assert set(package.__all__) <= set(dir(package)), dir(package)
print(*(type(getattr(package, name)).__name__ for name in ("EduPPO", "Reinforce", "__version__")))
try:
    package.nothing
except AttributeError as error:
    print(error)
"""
    assert run(code, PROJECT) == "ABCMeta ABCMeta str\nmodule 'sb3_ppo_edu' has no attribute 'nothing'\n"


def test_coverage_threshold_is_for_floors_1_to_3() -> None:
    """The rooms that the coverage report leaves out are those above floor 3, save one that makes a promise."""
    omitted = coverage.Coverage(config_file=str(PROJECT / "pyproject.toml")).get_option("run:omit")
    above = [room for room, floor in FLOORS.items() if 3 < floor < FLOORS["__init__"] and room not in COVERED_ABOVE]
    assert isinstance(omitted, list)
    assert sorted(omitted) == sorted(f"sb3_ppo_edu/{room}{ending}" for room in above for ending in (".py", "/*"))


# -- the checkers themselves -----------------------------------------------------------------------------------------------

FORWARDING = """\
'''Moved.'''
from sb3_ppo_edu.serialization.moved import forward

__getattr__ = forward(__name__, "sb3_ppo_edu.algorithms.ppo")
"""

EMPTY_HOUSE = {
    "__init__.py": "",
    "zoo.py": "",
    "functional/losses.py": "",
    "algorithms/__init__.py": "",
    "algorithms/ppo.py": "",
    "checkpoint/resume.py": "def resume(): ...",
    "engines/__init__.py": "",
    "ppo.py": FORWARDING,
}


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("functional/losses.py", "import sb3_ppo_edu.algorithms.ppo", "goes up from floor 1 to floor 3"),
        ("functional/losses.py", "from sb3_ppo_edu.algorithms.ppo import EduPPO", "goes up from floor 1 to floor 3"),
        ("functional/losses.py", "from sb3_ppo_edu.algorithms import ppo", "goes up from floor 1 to floor 3"),
        ("functional/losses.py", "from sb3_ppo_edu import EduPPO", "goes up from floor 1 to floor 7"),
        ("functional/losses.py", "from .. import algorithms", "goes up from floor 1 to floor 3"),
        ("functional/losses.py", "from ..engines import autograd", "goes up from floor 1 to floor 2"),
        ("engines/autograd.py", "from ..algorithms.ppo import EduPPO", "goes up from floor 2 to floor 3"),
        ("engines/autograd.py", "from ..zoo import main", "goes up from floor 2 to floor 4"),
        ("algorithms/ppo.py", "def f():\n    from sb3_ppo_edu.zoo import main", "goes up from floor 3 to floor 4"),
        ("algorithms/ppo.py", "if TYPE_CHECKING:\n    from sb3_ppo_edu.zoo import main", "goes up from floor 3 to floor 4"),
        ("algorithms/ppo.py", "importlib.import_module('sb3_ppo_edu.zoo')", "goes up from floor 3 to floor 4"),
        ("algorithms/ppo.py", "MAIN = 'sb3_ppo_edu.zoo.main'", "only algorithms/services.py looks up"),
        ("algorithms/ppo.py", "HERE = 'sb3_ppo_edu.functional.losses:f'", "only algorithms/services.py looks up"),
        ("zoo.py", "from sb3_ppo_edu import EduPPO", "goes up from floor 4 to floor 7"),
        ("zoo.py", "import sb3_ppo_edu", "goes up from floor 4 to floor 7"),
        ("zoo.py", "from sb3_ppo_edu.ppo import EduPPO", "is a forwarding module"),
        ("zoo.py", "from sb3_ppo_edu import ppo", "is a forwarding module"),
        ("functional/losses.py", "import numpy as np", "functional knows only torch"),
        ("functional/losses.py", "import torchvision", "functional knows only torch"),
        ("functional/losses.py", "from stable_baselines3.common.utils import obs_as_tensor", "functional knows only torch"),
        ("functional/advantages.py", "from gymnasium import spaces", "functional knows only numpy, torch"),
        ("functional/distributions.py", "from stable_baselines3 import PPO", "functional knows only numpy, torch"),
        ("algorithms/ppo.py", "import matplotlib.pyplot as plt", "algorithms knows only"),
        ("algorithms/ppo.py", "import rl_zoo3", "algorithms knows only"),
        ("algorithms/ppo.py", "import sb3_contrib", "algorithms knows only"),
        ("__init__.py", "import torch", "__init__ knows only the standard library"),
        ("cli.py", "from rl_zoo3 import ALGOS", "rl_zoo3 is imported only in zoo"),
        ("cli.py", "runpy.run_module('rl_zoo3.train')", "rl_zoo3 is imported only in zoo"),
        ("zoo.py", "import pandas as pd", "drawing and tables start on floor 5"),
        ("training/run.py", "from PIL import Image", "drawing and tables start on floor 5"),
        ("attic.py", "", "room 'attic' has no floor"),
        ("attic/dust.py", "", "room 'attic' has no floor"),
    ],
)
def test_bad_import_is_found(tmp_path: Path, name: str, source: str, rule: str) -> None:
    """One bad import in an otherwise empty house is found, once, with its file and the rule that it breaks."""
    (found,) = HOUSE.violations(build(tmp_path, {**EMPTY_HOUSE, name: source}))
    assert found.startswith(name)
    assert rule in found


def test_good_imports_pass(tmp_path: Path) -> None:
    """Imports that go down or stay on their floor, and libraries that a room knows, are not complained about."""
    good = {
        "__init__.py": "if TYPE_CHECKING:\n    from sb3_ppo_edu.algorithms.ppo import EduPPO\nHOME = 'sb3_ppo_edu.zoo'",
        "functional/losses.py": "from __future__ import annotations\nimport math\nimport torch as th",
        "functional/distributions.py": "from stable_baselines3.common.distributions import DiagGaussianDistribution",
        "engines/fused.py": "from ..functional import losses\nfrom . import autograd\nimport stable_baselines3.common",
        "algorithms/services.py": "SERVICES = {'resume': 'sb3_ppo_edu.checkpoint.resume:resume'}",
        "algorithms/reinforce.py": "'''See sb3_ppo_edu.zoo.'''\nfrom .ppo import EduPPO\nTEXT = 'see sb3_ppo_edu.zoo, please'",
        "algorithms/maskable.py": "from sb3_contrib import MaskablePPO",
        "zoo.py": "import rl_zoo3\nfrom sb3_ppo_edu.algorithms.ppo import EduPPO",
        "lab/plots.py": "import matplotlib.pyplot as plt\nimport pandas as pd\nTHEIRS = 'sb3_ppo_edu.EduPPO'",
        "cli.py": "import rich\nfrom sb3_ppo_edu.lab import plots",
    }
    root = build(tmp_path, {**EMPTY_HOUSE, **good})
    assert HOUSE.violations(root) == []
    assert HOUSE.entries(root) == {"resume": "sb3_ppo_edu.checkpoint.resume:resume"}


def test_service_that_is_not_there_is_found(tmp_path: Path) -> None:
    """An entry leads to a function of a module of the package, or is named."""
    root = build(tmp_path, EMPTY_HOUSE)
    assert missing_services({"resume": "sb3_ppo_edu.checkpoint.resume:resume"}, root) == []
    assert missing_services({"export": "sb3_ppo_edu.export:export"}, root) == [
        "export: sb3_ppo_edu.export:export is not there"
    ]
    assert len(missing_services({"a": "sb3_ppo_edu.checkpoint.resume:other"}, root)) == 1


@pytest.mark.parametrize("last", ["import sb3_ppo_edu.a", "def f():\n    from sb3_ppo_edu import a", "from .a import x"])
def test_circle_is_found(tmp_path: Path, last: str) -> None:
    """Three files that import each other in turn are one circle, lazily too; a file beside them is in none."""
    files = {"a.py": "from sb3_ppo_edu import b", "b.py": "import sb3_ppo_edu.c", "c.py": last, "d.py": "from . import a"}
    (circle,) = circles(build(tmp_path, {"__init__.py": "", **files}))
    assert circle == "sb3_ppo_edu.a -> sb3_ppo_edu.b -> sb3_ppo_edu.c -> sb3_ppo_edu.a"


def test_no_circle_where_a_package_shows_its_modules(tmp_path: Path) -> None:
    """A package that imports its modules, which import each other by their full names, is no circle."""
    files = {
        "e/__init__.py": "from .a import x\nfrom sb3_ppo_edu.e.b import y",
        "e/a.py": "x = 1",
        "e/b.py": "from .a import x",
    }
    assert circles(build(tmp_path, {"__init__.py": "", **files})) == []


OWNER = "class A:\n    def __init__(self):\n        self._secret = 1\n    _table: int = 0\n    def _work(self): ...\n"


@pytest.mark.parametrize(
    "source",
    [
        "a._secret",
        "a._secret = 2",
        "make()._work()",
        "a.b._table",
        "getattr(a, '_secret')",
        "setattr(a, '_secret', 1)",
        "class B:\n    def f(self, a):\n        return a._secret",
    ],
)
def test_private_name_of_ours_is_found(tmp_path: Path, source: str) -> None:
    """A private attribute or method of one class, read, written or called by another, is found, once."""
    root = build(tmp_path, {"a.py": OWNER, "b.py": source})
    (found,), theirs, _ = foreign_privates(root, (), {})
    assert found.startswith("b.py:")
    assert theirs == []


def test_private_names_that_are_ones_own_pass(tmp_path: Path) -> None:
    """A class may use its own private names, its base's, those of another instance, and documented ones."""
    source = """
class B(A):
    def __init__(self):
        self._mine = super()._work()
    def same(self, other):
        return self._mine == other._mine and self._secret and self.__dict__ and cls._table
def f(row):
    return row._replace(x=1), row._asdict()
"""
    assert foreign_privates(build(tmp_path, {"a.py": OWNER, "b.py": source}), (), {}) == ([], [], [])


def test_private_name_of_a_library_needs_a_reason(tmp_path: Path) -> None:
    """Privates of libraries, also those that a class of ours sets, pass in listed files only; a listing in vain is found."""
    source = "from torch import _C\nmodel._last_obs\nth._fused()"
    ours = "class Ours:\n    def f(self):\n        self._last_obs = None"
    root = build(tmp_path, {"a.py": ours, "b.py": source})
    own, theirs, not_needed = foreign_privates(root, {"_last_obs"}, {"a.py": "for no reason"})
    assert (own, [one.split(":")[:2] for one in theirs], not_needed) == ([], [["b.py", str(n)] for n in (1, 2, 3)], ["a.py"])
    assert foreign_privates(root, {"_last_obs"}, {"b.py": "a reason"}) == ([], [], [])


def test_long_file_is_found(tmp_path: Path) -> None:
    """500 lines are allowed, 501 are not, unless nobody writes them."""
    root = build(tmp_path, {"good.py": "x = 1\n" * 500, "room/bad.py": "x = 1\n" * 501})
    assert long_files(root) == [f"{tmp_path.name}/room/bad.py: 501 lines, expected at most 500"]
    assert long_files(root, ["room/bad.py"]) == []


@pytest.mark.parametrize("name", ["misc", "utils", "losses_part", "part2", "helpers/x", "cli/common", "losses2", "losses_2"])
def test_name_without_idea_is_found(tmp_path: Path, name: str) -> None:
    """Names that say nothing, and numbers, are found in files and folders."""
    assert len(names_without_idea(build(tmp_path, {f"{name}.py": ""}))) == 1


def test_names_with_an_idea_pass(tmp_path: Path) -> None:
    """Words that only contain such a name, and the field's own names with digits, pass."""
    names = ("partition", "commons", "sb3_parity", "bf16", "k3", "__init__", "__main__", "utility")
    assert names_without_idea(build(tmp_path, {f"{name}.py": "" for name in names})) == []


def test_stranger_at_the_top_is_found(tmp_path: Path) -> None:
    """A module of the top level that does something, and one that forwards in too many lines, are found."""
    long = FORWARDING + "a = 1\nb = 2\nc = 3\nd = 4\n"
    files = {"__main__.py": "", "version.py": "", "README.md": "", "py.typed": "", "room/x.py": "", "ours.py": "x = 1"}
    found = strangers_at_the_top(build(tmp_path, {**EMPTY_HOUSE, **files, "guard.py": long}))
    assert [line.split(":")[0] for line in found] == ["guard.py", "ours.py"]


def test_forwarding_to_nowhere_is_found(tmp_path: Path) -> None:
    """A forwarding module whose target is gone is found."""
    root = build(tmp_path, {**EMPTY_HOUSE, "envs/adapters.py": FORWARDING.replace("algorithms.ppo", "vec_env.adapters")})
    assert missing_targets(root) == ["envs/adapters.py: forwards to sb3_ppo_edu.vec_env.adapters, which is not there"]


LAZY = (
    "from importlib import import_module\nfrom sb3_ppo_edu.version import __version__\nif TYPE_CHECKING:\n    import torch\n"
)
PEP_562 = "def __getattr__(name): ...\ndef __dir__(): ...\n"


def test_eager_face_is_found(tmp_path: Path) -> None:
    """A face that imports a room or a library at once, or has nothing to look names up with, is found."""
    assert eager_face(build(tmp_path / "lazy", {"__init__.py": LAZY + PEP_562})) == []
    assert len(eager_face(build(tmp_path / "no", {"__init__.py": LAZY}))) == 2
    (found,) = eager_face(build(tmp_path / "eager", {"__init__.py": PEP_562 + "from sb3_ppo_edu.zoo import main"}))
    assert "sb3_ppo_edu.zoo.main at once" in found


def test_what_an_import_loads_is_seen(tmp_path: Path) -> None:
    """The list of loaded libraries names the one that a package's face imports."""
    build(tmp_path, {"sb3_ppo_edu/__init__.py": "import numpy"})
    assert run(LOADED, tmp_path).split() == ["numpy"]
