"""
Finds the compiled kernels, chooses the instruction set and loads them, at first use.

``SB3_EDU_KERNELS`` names an instruction set (``v2``, ``v3``, ``v4``) or ``off``; by default the highest is taken that both the
library and the processor have. In a checkout the library is compared with its sources and, where they differ, built anew.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_ppo_edu.engines.fused import build

VARIABLE = "SB3_EDU_KERNELS"

# Written into an installed package whose library could not be built: the reason.
NOT_BUILT = "kernels_not_built.txt"


class LibraryMissing(RuntimeError):
    """There are no kernels to call; ``reason`` says why, and what to do about it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Library:
    """
    The compiled kernels, at one instruction set.

    :param level: the instruction set: ``v2``, ``v3``, ``v4`` or ``arm64``
    :param path: file that they were loaded from
    :param compiler: who compiled them
    :param loaded: the file as ctypes has it
    """

    level: str
    path: Path
    compiler: str
    loaded: ctypes.CDLL

    def function(self, verb: str, dtype: str) -> Any:
        """
        Return a kernel.

        :param verb: what it does
        :param dtype: ``f32`` or ``f64``
        :return: a ctypes function, the same object each time
        :raises ValueError: if there is no such kernel
        """
        name = f"sb3edu_{verb}_{dtype}_{self.level}"
        try:
            return getattr(self.loaded, name)
        except AttributeError:
            raise ValueError(f"{name}: no such kernel in {self.path}") from None


_lock = threading.Lock()
# What became of each folder's library in this process: the library, or why there is none.
_loaded: dict[Path, ctypes.CDLL | str] = {}


def load_library(folder: Path = build.HERE) -> Library:
    """
    Load the kernels; the first call in a process reads the file, later ones only choose the instruction set.

    :param folder: where the library, and in a checkout ``csrc/``, lies
    :return: the library
    :raises LibraryMissing: if there is none for this machine, or it is turned off
    :raises ValueError: if ``SB3_EDU_KERNELS`` asks for what this processor does not have
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        raise LibraryMissing(f"{VARIABLE}=off")
    target = build.host_target()
    if target is None:
        raise LibraryMissing(f"no kernels for {build.platform_name()}; there are for {', '.join(build.TARGETS)}")
    if wanted and wanted not in target.levels:
        raise ValueError(f"{VARIABLE}={wanted}: expected {', '.join(target.levels)} or off")
    with _lock:
        found = _loaded.get(folder)
        if found is None:
            try:
                found = _open(_up_to_date(folder, target))
            except LibraryMissing as missing:
                found = missing.reason
            _loaded[folder] = found
    if isinstance(found, str):
        raise LibraryMissing(found)
    level = choose_level(target.levels, _text(found, "sb3edu_cpu"), wanted)
    return Library(level, folder / target.library_name, _text(found, "sb3edu_compiler"), found)


def choose_level(levels: tuple[str, ...], processor: str, wanted: str) -> str:
    """
    Choose the instruction set.

    :param levels: those that the library was compiled for, lowest first
    :param processor: the processor's own; ``v1`` if it has none of them
    :param wanted: the one asked for; empty for the highest
    :return: the one to use
    :raises LibraryMissing: if the processor has none of them
    :raises ValueError: if it does not have the one asked for
    """
    if processor not in levels:
        raise LibraryMissing(f"this processor's level is {processor}, the kernels need {levels[0]} or higher")
    if wanted and levels.index(wanted) > levels.index(processor):
        raise ValueError(f"{VARIABLE}={wanted}: this processor's level is {processor}; choose one up to that, or off")
    return wanted or processor


def _up_to_date(folder: Path, target: build.Target) -> Path:
    """Return the library's path, after building it where a checkout has none or an old one."""
    library = folder / target.library_name
    project = build.project_of(folder)
    if project is None:
        if not library.exists():
            note = folder / NOT_BUILT
            reason = note.read_text(encoding="utf-8") if note.exists() else "this installation has no compiled kernels"
            raise LibraryMissing(reason.strip())
        return library
    sources = folder / "csrc"
    found = build.stamp_of(library)
    if found != build.stamp(sources, target):
        what = f"{library.name} is older than its sources" if found else f"{library.name} is not there"
        print(f"{what}: compiling the kernels (once; some seconds)", file=sys.stderr)
        try:
            build.build_library(library, target, sources, project / "build" / "zig")
        except build.BuildFailed as error:
            raise LibraryMissing(f"{what}, and cannot be built: {error}") from error
    return library


def _open(library: Path) -> ctypes.CDLL:
    """Load a file as a library, once its processor's answers have their types."""
    try:
        loaded = ctypes.CDLL(str(library))
        for name in ("sb3edu_cpu", "sb3edu_compiler"):
            getattr(loaded, name).restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{library} cannot be loaded: {error}") from error
    return loaded


def _text(loaded: ctypes.CDLL, name: str) -> str:
    """Call a function of the library that returns a text."""
    answer: bytes = getattr(loaded, name)()
    return answer.decode().strip()
