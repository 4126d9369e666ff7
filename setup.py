"""Compiles the kernels where the package is built; all else about the package stands in setup.cfg."""

from __future__ import annotations

import importlib.util
import os
import sys
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

FUSED = Path(__file__).resolve().parent / "sb3_ppo_edu" / "engines" / "fused"


@cache
def builder() -> ModuleType:
    """Load ``engines/fused/build.py`` alone: the package itself needs torch, which is not there yet."""
    spec = importlib.util.spec_from_file_location("sb3_edu_build", FUSED / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def chosen_target() -> Any:
    """Return the platform to build for: this one, or that of ``SB3_EDU_TARGET``; None where there are no kernels for it."""
    named = os.environ.get("SB3_EDU_TARGET")
    if named and named not in builder().TARGETS:
        raise SystemExit(f"SB3_EDU_TARGET={named}: expected one of {', '.join(builder().TARGETS)}")
    return builder().TARGETS[named] if named else builder().host_target()


@cache
def library() -> tuple[Path | None, str]:
    """Build the library in place; return it, or None and why there is none: the package works without it."""
    build, target = builder(), chosen_target()
    if os.environ.get("SB3_EDU_KERNELS") == "off":
        return None, "the package was built with SB3_EDU_KERNELS=off"
    if target is None:
        return None, f"no kernels for {build.platform_name()}; there are for {', '.join(build.TARGETS)}"
    path: Path = FUSED / target.library_name
    if build.stamp_of(path) != build.stamp(build.SOURCES, target):
        try:
            build.build_library(path, target)
        except build.BuildFailed as error:
            return None, f"the kernels could not be compiled where the package was built: {error}"
    return path, ""


class BuildWithKernels(build_py):
    """Puts the library, or a note why there is none, beside the Python files."""

    def run(self) -> None:
        """Copy the package, and add what was compiled; an editable installation has it in place."""
        super().run()
        path, reason = library()
        if path is None:
            print(f"sb3_ppo_edu: no kernels, training will be slower: {reason}", file=sys.stderr)
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "sb3_ppo_edu" / "engines" / "fused"
        for old in (*folder.glob("libsb3edu-*"), folder / "kernels_not_built.txt"):
            old.unlink(missing_ok=True)
        if path is None:
            (folder / "kernels_not_built.txt").write_text(reason + "\n", encoding="utf-8")
        else:
            self.copy_file(str(path), str(folder / path.name))


class WheelForAPlatform(bdist_wheel):
    """One wheel a platform serves every Python, since the library does not know Python."""

    def run(self) -> None:
        """Say before the wheel is laid out whether a compiled file will be in it."""
        if library()[0] is not None:
            self.distribution.has_ext_modules = lambda: True
            self.root_is_pure = False
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag: any Python 3, and the platform if there is a library for it."""
        if self.root_is_pure:
            return "py3", "none", "any"
        # zig compiles for the oldest system that the target names, the system's own compiler for this one.
        if builder().built_by(library()[0]) == "zig":
            return "py3", "none", chosen_target().wheel_tag
        return "py3", "none", super().get_tag()[2]


def project_urls() -> dict[str, str]:
    """Make the package's addresses from the one that ``setup.cfg`` names; none while it is empty."""
    settings = ConfigParser()
    settings.read(Path(__file__).with_name("setup.cfg"), encoding="utf-8")
    repository = settings["publish"]["repository"].rstrip("/")
    pages = {"Source": "", "Issues": "/issues", "Changelog": "/blob/main/CHANGELOG.md", "Documentation": "/tree/main/docs"}
    return {name: repository + page for name, page in pages.items()} if repository else {}


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelForAPlatform}, project_urls=project_urls())
