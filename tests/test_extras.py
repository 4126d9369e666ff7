"""Without what only extras bring the package trains, and what needs it says which extra brings it; setup.cfg has the lists."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.envs import backends, registration
from sb3_ppo_edu.lab.importance import forest_shares
from sb3_ppo_edu.lab.speed.peers import why_missing
from sb3_ppo_edu.lab.statistics.comparisons import equivalence
from sb3_ppo_edu.lab.suite import on_ray
from sb3_ppo_edu.training.hub import hub
from sb3_ppo_edu.training.tracking import Track
from sb3_ppo_edu.zoo import main as zoo
from tests.test_packaging import PROJECT, listed, setup_cfg
from tests.without import Without

EXTRAS = tuple(setup_cfg()["options.extras_require"])
UNDECLARED_BY_THE_ZOO = {"pandas", "requests"}
"""What rl_zoo3 imports for enjoy and for the report of -optimize without asking for it, so that we ask."""

EVERYDAY = """
import json, sys
before = set(sys.modules)
from tests.without import Without
sys.meta_path = Without.in_place_of_pythons(json.loads(sys.argv[1]))
from sb3_ppo_edu import EduPPO
print(EduPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1).learn(32).num_timesteps)
from sb3_ppo_edu.cli import main
from sb3_ppo_edu.course.exercises import check
try:
    main(["train", "--help"])
except SystemExit as ended:
    print(ended.code)
sizes = "--steps 64 --n-steps 32 --n-envs 1 --batch-size 32 --n-epochs 1 --eval-episodes 1".split()
print(main(["train", "--env", "LunarLanderContinuous-v3", "--doctor", "--folder", "runs", *sizes]))
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@cache
def asked_for(name: str, extra: str = "") -> frozenset[Requirement]:
    """List what a library asks for, itself or with one of its extras; nothing where it is not installed."""
    try:
        found = [Requirement(one) for one in requires(name) or ()]
    except PackageNotFoundError:
        return frozenset()
    plain = {one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})}
    with_it = {one for one in found if one.marker and one.marker.evaluate({"extra": extra})}
    return frozenset(with_it - plain if extra else plain)


def with_all_below(wanted: Iterable[str]) -> set[str]:
    """Name the libraries that are installed with some, those that they ask for among them."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(one) for one in wanted]
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            key = canonicalize_name(one.name), extra
            if key not in found:
                found.add(key)
                waiting += asked_for(one.name, extra)
    return {name for name, _ in found}


@cache
def makers() -> dict[str, set[str]]:
    """Name for each module the installed libraries that it is part of."""
    return {module: set(map(canonicalize_name, names)) for module, names in packages_distributions().items()}


def modules_of(names: Iterable[str]) -> set[str]:
    """Name the modules that installed libraries have."""
    wanted = set(names)
    return {module for module, libraries in makers().items() if wanted & libraries}


def brought_by(extra: str) -> set[str]:
    """Name the libraries that an extra brings and whatever is installed by default, the zoo aside, does not."""
    libraries: set[str] = set()
    for one in map(Requirement, listed("options.extras_require", extra)):
        libraries |= {canonicalize_name(below.name) for own in one.extras for below in asked_for(one.name, own)}
        libraries |= set() if one.extras else {canonicalize_name(one.name)}
    default = [one for one in listed("options", "install_requires") if Requirement(one).name != "rl-zoo3"]
    return libraries - with_all_below(default)


def imports(file: Path) -> set[str]:
    """Name the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules that importing, learning, help and ``sb3-edu train`` have loaded where no extra was installed."""
    blocked = modules_of(set().union(*map(brought_by, EXTRAS)))
    assert {"scipy", "pytest", "huggingface_hub", "optuna"} <= blocked
    done = subprocess.run(
        [sys.executable, "-c", EVERYDAY, json.dumps(sorted(blocked))],
        cwd=tmp_path_factory.mktemp("everyday"),
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, ended, modules = done.stdout.splitlines()
    assert (said[0], ended) == ("32", "0")
    assert not blocked & set(modules.split())
    return set(modules.split())


def test_every_day_needs_no_extra(loaded: set[str]) -> None:
    """Without whatever setup.cfg has in extras only, the package learns, prints help, and ``sb3-edu train`` ends well."""
    assert {"sb3_ppo_edu", "torch", "Box2D"} <= loaded


def test_default_is_what_training_needs_and_the_zoo(loaded: set[str]) -> None:
    """What is installed by default is what ``sb3-edu train`` loads, the zoo, and what the zoo fails to ask for."""
    default = {canonicalize_name(Requirement(one).name) for one in listed("options", "install_requires")}
    unused = {name for name in default if not modules_of([name]) & loaded}
    assert unused == {"rl-zoo3"} | UNDECLARED_BY_THE_ZOO
    found = find_spec("rl_zoo3")
    assert found is not None and found.submodule_search_locations is not None
    (folder,) = found.submodule_search_locations
    assert set().union(*map(imports, Path(folder).glob("*.py"))) >= UNDECLARED_BY_THE_ZOO
    assert not {one.name for one in asked_for("rl-zoo3")} & UNDECLARED_BY_THE_ZOO


def test_what_only_tools_need_no_module_imports() -> None:
    """The extras of tests, documentation and development are for the checkout: the package imports nothing of them."""
    tools = modules_of(set().union(*map(brought_by, ("tests", "docs", "dev"))) - brought_by("lab"))
    assert {"pytest", "mypy"} <= tools
    assert not {path for path in (PROJECT / "sb3_ppo_edu").rglob("*.py") if imports(path) & tools}


def exported() -> object:
    """Export a policy."""
    return EduPPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}).export("policy.onnx")


USES: dict[str, list[Callable[[], object]]] = {
    "mujoco": [
        lambda: registration.make("HalfCheetah-v5"),
        lambda: main(["train", "--env", "HalfCheetah-v5", "--steps", "64", "--folder", "runs"]),
    ],
    "atari": [
        lambda: main(["train", "--env", "ale_py:ALE/Pong-v5", "--folder", "runs"]),
        lambda: main(["train", "--env", "ALE/Pong-v5", "--folder", "runs"]),
    ],
    "plots": [lambda: zoo(["plot_train"])],
    "lab": [
        lambda: equivalence([0.0, 1.0], [1.0, 2.0], margin=1.0),
        lambda: forest_shares([], np.zeros(0), seed=0, trees=1),
        lambda: main(["train", "--env", "MinAtar/Breakout-v1", "--folder", "runs"]),
    ],
    "ray": [on_ray],
    "envpool": [lambda: backends.envpool("CartPole-v1", 1, 0, {})],
    "peers": [lambda: print(why_missing("sbx"))],
    "export": [exported],
    "hub": [hub],
    "wandb": [lambda: Track("wandb")],
    "mlflow": [lambda: Track("mlflow")],
    "course": [lambda: main(["course", "build"])],
}
"""What the extras are for. A new extra belongs here, or among those of the checkout's tools."""


@pytest.mark.parametrize("extra", [extra for extra in EXTRAS if extra not in ("tests", "docs", "dev")])
def test_what_needs_an_extra_names_it(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an extra's libraries, what they are for is refused in one sentence with the command that installs the extra."""
    monkeypatch.chdir(tmp_path)
    blocked = modules_of(brought_by(extra))
    monkeypatch.setattr(sys, "meta_path", Without.in_place_of_pythons(blocked))
    for name in [name for name in sys.modules if name.partition(".")[0] in blocked]:
        monkeypatch.delitem(sys.modules, name)
    for use in USES[extra]:
        try:
            use()
            printed = capsys.readouterr()
            said = (printed.out + printed.err).strip()
        except Exception as error:
            said = str(error)
        assert f"pip install 'sb3-ppo-edu[{extra}]'" in said
        assert "\n" not in said
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
