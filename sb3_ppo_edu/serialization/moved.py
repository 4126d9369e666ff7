"""Import paths that moved: an old one goes on to give the very module that the new one names, so that nothing exists twice."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class MovedBelow(MetaPathFinder, Loader):
    """
    Finds what lies below a package that moved.

    :param old: dotted name of the package where it was
    :param new: dotted name of the package where it is
    :param renamed: names below the old one -> names below the new one, where they differ
    """

    def __init__(self, old: str, new: str, renamed: Mapping[str, str]) -> None:
        self.old, self.new, self.renamed = old, new, renamed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        if not fullname.startswith(f"{self.old}.") or importlib.util.find_spec(self._now(fullname)) is None:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Have Python make a module, for which ``exec_module`` puts the one that moved."""

    def exec_module(self, module: ModuleType) -> None:
        """See :meth:`importlib.abc.Loader.exec_module`."""
        sys.modules[module.__name__] = importlib.import_module(self._now(module.__name__))

    def _now(self, fullname: str) -> str:
        """Give the new name of an old one."""
        below = fullname.removeprefix(f"{self.old}.")
        return f"{self.new}.{self.renamed.get(below, below)}"


def forward(old: str, new: str, renamed: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """
    Put a module in the place of the one that calls this, which is all that is left where the module was.

    Who imports the old name gets the module that the new name gives, not a copy: classes are the same, old pickles give them,
    and what is replaced in the one is replaced in the other.

    :param old: name of the calling module
    :param new: dotted name of the module that it stands for
    :param renamed: if that is a package: names below the old one -> names below the new one, where they differ
    :return: gives the module's attributes; as ``__getattr__`` it tells type checkers that there are some
    """
    warnings.warn(f"{old} has moved to {new}: import it from there", DeprecationWarning, stacklevel=3)
    module = importlib.import_module(new)
    if hasattr(module, "__path__") and not any(isinstance(one, MovedBelow) and one.old == old for one in sys.meta_path):
        sys.meta_path.insert(0, MovedBelow(old, new, renamed or {}))
    sys.modules[old] = module
    return functools.partial(getattr, module)
