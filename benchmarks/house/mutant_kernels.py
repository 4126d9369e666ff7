"""Builds the kernels' library of a scratch copy again where one of its sources has changed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mutant_sessions import PACKAGE

FUSED = f"{PACKAGE}/engines/fused"


class Kernels:
    """
    Has the library's object files, so that only what has changed is compiled again.

    :param root: of a scratch copy, as it is without a mutant
    :param folder: for what a mutant needs
    :param kept: for the object files of these sources, which others and later runs use too
    """

    def __init__(self, root: Path, folder: Path, kept: Path) -> None:
        specification = importlib.util.spec_from_file_location("mutant_build", root / FUSED / "build.py")
        assert specification is not None and specification.loader is not None
        self.build: ModuleType = importlib.util.module_from_spec(specification)
        sys.modules["mutant_build"] = self.build
        specification.loader.exec_module(self.build)
        self.sources, self.cache = root / FUSED / "csrc", folder / "zig"
        self.target = self.build.host_target()
        self.compiler = self.build.compilers(self.target)[0]
        self.library = root / FUSED / self.target.library_name
        self.changed, self.original = folder / "changed", folder / self.target.library_name
        self.every: list[Path] = self.build.kernel_sources(self.sources)
        with kept.with_suffix(".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                shutil.rmtree(beside := kept.with_suffix(".new"), ignore_errors=True)
                self._compile(beside, self.every)
                beside.rename(kept)
        self.objects = sorted(kept.glob("*.o"))
        self._link(self.objects)
        shutil.copy(self.library, self.original)

    def rebuild(self, path: Path) -> str | None:
        """
        Compile what a changed source or header is in, and put the library in place.

        :param path: the file
        :return: what the compiler says against it, or None
        """
        shutil.rmtree(self.changed, ignore_errors=True)
        try:
            new = {one.name: one for one in self._compile(self.changed, [path] if path in self.every else self.every)}
            self._link([new.get(one.name, one) for one in self.objects])
        except self.build.BuildFailed as error:
            return str(error)
        return None

    def restore(self) -> None:
        """Put the library of the unchanged sources in place."""
        beside = self.original.with_suffix(".copy")
        shutil.copy(self.original, beside)
        os.replace(beside, self.library)

    def _compile(self, folder: Path, sources: Sequence[Path]) -> list[Path]:
        """Compile sources for each instruction set and number type, and the file that has the library's stamp."""
        folder.mkdir()
        found: list[Path] = self.build.compile_all(self.compiler, self.target, self.sources, folder, self.cache, sources)
        return found

    def _link(self, objects: Sequence[Path]) -> None:
        """Link, and put the library in place in one step: a process that has the old one loaded keeps it."""
        beside = self.original.with_suffix(".linked")
        options = (*self.compiler.options(self.target), "-O3", "-shared", "-s", "-o", str(beside))
        self.build.run((*self.compiler.command, *options, *map(str, objects), "-lm"), self.cache, beside.parent)
        os.replace(beside, self.library)
