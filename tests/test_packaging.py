"""What is published works without the checkout, and the lock, the declared dependencies and the imports agree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sb3_ppo_edu.engines.fused import build
from sb3_ppo_edu.version import __version__

PROJECT = Path(__file__).resolve().parent.parent
LOCKED_EXTRAS = ("mujoco", "plots", "lab", "ray", "export", "course", "docs", "tests", "dev")
BUILD = "from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
TRAIN = """
import sb3_ppo_edu
from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters
print(sb3_ppo_edu.__file__)
print(load_hyperparameters("CartPole-v1")["n_timesteps"])
print(EduPPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1).learn(64).num_timesteps)
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    """
    Run a command and return what it printed; fail with what it complained about.

    :param command: program and arguments
    :param cwd: folder to run in
    :param environment: variables to add
    :return: its standard output
    """
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def setup_cfg() -> ConfigParser:
    """
    Read the metadata.

    :return: the parsed setup.cfg
    """
    parser = ConfigParser()
    parser.read(PROJECT / "setup.cfg", encoding="utf-8")
    return parser


def listed(section: str, option: str) -> list[str]:
    """
    Read a list from setup.cfg.

    :param section: name of the section
    :param option: name of the option
    :return: its lines, comments left out
    """
    lines = (line.strip() for line in setup_cfg()[section][option].splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def locked() -> list[Requirement]:
    """
    Read the lock.

    :return: one exact requirement for each line that is no comment
    """
    lines = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution from a copy of the checkout, without network."""
    copy = tmp_path_factory.mktemp("checkout") / "copy"
    for folder in ("sb3_ppo_edu", "hyperparams"):
        copytree(PROJECT / folder, copy / folder, ignore=ignore_patterns("__pycache__"))
    for file in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy2(PROJECT / file, copy)
    return copy / "dist" / run(sys.executable, "-c", BUILD.format(kind="sdist"), cwd=copy).split()[-1]


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the unpacked source distribution, as an installer does that finds no wheel."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(PROJECT / "build" / "zig")}
    return source / "dist" / run(sys.executable, "-c", BUILD.format(kind="wheel"), cwd=source, **caches).split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder of its own, away from the checkout."""
    target = tmp_path_factory.mktemp("installed") / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile")
    run(*pip, "--target", str(target), str(wheel), cwd=target.parent)
    return target


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every file of the package and the settings are in the wheel; tests, lessons and benchmarks are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"sb3_ppo_edu-{__version__}.dist-info/METADATA").decode()
    files = [path for path in (PROJECT / "sb3_ppo_edu").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = [path for path in files if not path.name.startswith("libsb3edu-")]
    settings = {f"sb3_ppo_edu/hyperparams/{path.name}" for path in (PROJECT / "hyperparams").glob("*.yml")}
    assert "sb3_ppo_edu/hyperparams/eduppo.yml" in settings
    assert {path.relative_to(PROJECT).as_posix() for path in files} | settings | {"sb3_ppo_edu/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {"sb3_ppo_edu", f"sb3_ppo_edu-{__version__}.dist-info"}
    assert f"\nVersion: {__version__}\n" in metadata


def kernels_in(wheel: Path) -> dict[str, str]:
    """
    List what a wheel holds of compiled kernels.

    :param wheel: the wheel
    :return: the names of libraries, with nothing behind them, and of the note why there is none, with its text
    """
    folder = "sb3_ppo_edu/engines/fused/"
    with zipfile.ZipFile(wheel) as archive:
        libraries = {name.removeprefix(folder): "" for name in archive.namelist() if "libsb3edu-" in name}
        notes = [name for name in archive.namelist() if name.endswith("kernels_not_built.txt")]
        return libraries | {name.removeprefix(folder): archive.read(name).decode() for name in notes}


def test_wheel_holds_the_kernels_of_its_platform(wheel: Path) -> None:
    """Where there is a compiler, the wheel is for every Python on one platform, and holds that platform's library alone."""
    target = build.host_target()
    if target is None or not build.compilers(target):
        pytest.skip("no C compiler here: neither ziglang, clang nor gcc")
    assert kernels_in(wheel) == {target.library_name: ""}
    assert re.fullmatch(r"sb3_ppo_edu-[\w.]+-py3-none-(?!any)[\w.]+\.whl", wheel.name)


def test_wheel_without_kernels_says_why(sdist: Path, tmp_path: Path) -> None:
    """Where no kernels are compiled, the package is built all the same, for any platform, with a note that says why."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    name = run(sys.executable, "-c", BUILD.format(kind="wheel"), cwd=source, SB3_EDU_KERNELS="off").split()[-1]
    assert name == f"sb3_ppo_edu-{__version__}-py3-none-any.whl"
    assert kernels_in(source / "dist" / name) == {"kernels_not_built.txt": "the package was built with SB3_EDU_KERNELS=off\n"}


def test_every_package_is_listed() -> None:
    """setup.cfg lists each folder with an ``__init__.py``, and the settings."""
    packages = {".".join(path.parent.relative_to(PROJECT).parts) for path in (PROJECT / "sb3_ppo_edu").rglob("__init__.py")}
    assert set(listed("options", "packages")) == packages | {"sb3_ppo_edu.hyperparams"}


def test_installed_wheel_trains(installed: Path, tmp_path: Path) -> None:
    """From the wheel alone: the package imports, finds its settings and trains, and this checkout has no part in it."""
    output = run(sys.executable, "-c", TRAIN, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert Path(output[0]).parent == installed / "sb3_ppo_edu"
    assert float(output[1]) > 0
    assert output[2] == "64"


def test_installed_command_line_answers(installed: Path, tmp_path: Path) -> None:
    """Both ways to start the installed command line print the same help."""
    module = run(sys.executable, "-m", "sb3_ppo_edu", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    script = run(sys.executable, str(installed / "bin" / "sb3-edu"), "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "train" in module
    assert module.split() == script.split()


def test_lock_is_exact_and_names_no_machine() -> None:
    """Each line of the lock pins one version; no address, no path, no CUDA package; torch is the version measured with."""
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    pins = locked()
    assert all(re.fullmatch(r"==[^,*]+", str(pin.specifier)) and not pin.url for pin in pins)
    assert not re.search(r"://|^-|[ =]/|\bnvidia|\bcuda|\btriton", text, re.MULTILINE)
    assert [str(pin) for pin in pins if pin.name == "torch"] == ["torch==2.13.0"]


def test_lock_satisfies_the_declared_dependencies() -> None:
    """For each dependency that `make install` provides for, the lock has pins, and all of them lie in the declared range."""
    declared = listed("options", "install_requires")
    for extra in LOCKED_EXTRAS:
        declared += listed("options.extras_require", extra)
    pins: dict[str, list[str]] = {}
    for pin in locked():
        pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    for requirement in map(Requirement, declared):
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not locked: run `make lock`"
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: locked {versions}"


def test_what_is_imported_is_declared() -> None:
    """Each library that the package imports is a declared dependency, not one that happens to come with another."""
    declared = listed("options", "install_requires")
    for extra in setup_cfg()["options.extras_require"]:
        declared += listed("options.extras_require", extra)
    names = {canonicalize_name(Requirement(line).name) for line in declared}
    providers = packages_distributions()
    for path in (PROJECT / "sb3_ppo_edu").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = {str(node.module).split(".")[0]}
            else:
                continue
            for root in roots - set(sys.stdlib_module_names) - {"sb3_ppo_edu"}:
                found = {canonicalize_name(name) for name in providers.get(root, [root])}
                assert found & names, f"{path.relative_to(PROJECT)} imports {root}: declare {' or '.join(found)} in setup.cfg"
