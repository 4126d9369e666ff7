"""Python without some of the libraries that are installed. Imports nothing that could be one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Without(PathFinder):
    """Finds modules where Python does, as if some libraries were not installed."""

    blocked: frozenset[str] = frozenset()

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module, unless it belongs to one of them."""
        return None if fullname.partition(".")[0] in cls.blocked else PathFinder.find_spec(fullname, path, target)

    @classmethod
    def in_place_of_pythons(cls, blocked: Iterable[str]) -> list[Any]:
        """Give what to find modules with."""
        made = type("Without", (cls,), {"blocked": frozenset(blocked)})
        return [made if finder is PathFinder else finder for finder in sys.meta_path]
