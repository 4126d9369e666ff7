"""What a reader opens to get from one function to another: calls, followed by name through the source of a package."""

from __future__ import annotations

import ast
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.layout.imports import owner
from tests.layout.source import Source, code_lines, docstrings, read

PREFERRED = ("AutogradEngine", "PPOObjective")
"""Where several classes define a method, the reader follows the reference engine and PPO's own objective."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Place:
    """
    A function and where it stands.

    :param source: the file
    :param owner: name of the class around it, or ""
    :param node: its syntax tree
    """

    source: Source = field(repr=False)
    owner: str
    node: Function = field(repr=False)

    @property
    def name(self) -> str:
        """The function's name, with the class in front."""
        return f"{self.owner}.{self.node.name}".lstrip(".")

    def __str__(self) -> str:
        """File and name."""
        return f"{self.source.path}:{self.name}"


class Calls:
    """
    The calls of a package, by name.

    ``name()`` is a function or class of the same file, or what is imported under that name; ``module.name()`` the same in that
    module; ``self.name()`` the method of the class or its bases, and any other ``x.name()`` the method of that name where only
    one class defines it, else that of a preferred class. What can't be told so is not followed.

    :param root: the package's folder
    """

    def __init__(self, root: Path) -> None:
        self.sources = {source.module: source for source in read(root) if not source.is_forwarding}
        self.classes: dict[str, list[tuple[Source, ast.ClassDef]]] = {}
        for source in self.sources.values():
            for node in source.tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, []).append((source, node))

    def method(self, owner_name: str, name: str) -> Place | None:
        """
        Find a method.

        :param owner_name: of the class
        :param name: of the method, which may be one of a base class's
        :return: where it is defined, or None
        """
        for source, node in self.classes.get(owner_name, []):
            for part in node.body:
                if isinstance(part, Function) and part.name == name:
                    return Place(source, owner_name, part)
            for base in node.bases:
                last = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
                found = self.method(last, name) if last != owner_name else None
                if found is not None:
                    return found
        return None

    def next_places(self, place: Place) -> Iterator[Place]:
        """
        List the functions that a function calls.

        :param place: the function
        :return: those that the package defines
        """
        imported = self._imported(place.source)
        for node in ast.walk(place.node):
            if isinstance(node, ast.Call):
                found = self._target(node.func, place, imported)
                if found is not None and found.node is not place.node:
                    yield found

    def _target(self, function: ast.expr, place: Place, imported: dict[str, str]) -> Place | None:
        """Find what one call calls."""
        if isinstance(function, ast.Name):
            path = imported.get(function.id, f"{place.source.module}.{function.id}")
            return self._by_path(path) or self._called_instance(function.id)
        if not isinstance(function, ast.Attribute):
            return None
        base, name = function.value, function.attr
        if isinstance(base, ast.Name) and base.id in imported:
            return self._by_path(f"{imported[base.id]}.{name}")
        if isinstance(base, ast.Name) and base.id in {"self", "cls"}:
            return self.method(self._likely_class(place.owner), name) or self._called_instance(name)
        return self._by_name(name) or self._called_instance(name)

    def _likely_class(self, owner_name: str) -> str:
        """Name the class that ``self`` is of in a method of a base class: a preferred one, where one derives from it."""
        for one in PREFERRED:
            bases = [one]
            for name in bases:
                nodes = [node for _, node in self.classes.get(name, [])]
                bases += [getattr(base, "id", "") for node in nodes for base in node.bases]
            if owner_name in bases:
                return one
        return owner_name

    def _by_path(self, path: str) -> Place | None:
        """Find a function, a class's ``__init__``, or a class's method, by its dotted name."""
        module = owner(path, self.sources)
        names = path.removeprefix(f"{module}.").split(".") if module else []
        if module is None or path == module:
            return None
        for node in self.sources[module].tree.body:
            if isinstance(node, Function) and names == [node.name]:
                return Place(self.sources[module], "", node)
            if isinstance(node, ast.ClassDef) and names[0] == node.name:
                return self.method(node.name, names[1] if len(names) > 1 else "__init__")
        again = self._imported(self.sources[module]).get(names[0])
        return self._by_path(".".join([again, *names[1:]])) if again not in {None, path} else None

    def _by_name(self, name: str) -> Place | None:
        """Find a method that is called on something of unknown class."""
        owners = [one for one in self.classes if self._defines(one, name)]
        chosen = [one for one in PREFERRED if one in self.classes and self.method(one, name) is not None]
        return self.method((chosen or owners)[0], name) if chosen or len(owners) == 1 else None

    def _defines(self, owner_name: str, name: str) -> bool:
        """Tell whether a class that is no protocol defines a method itself."""
        return any(
            isinstance(part, Function) and part.name == name
            for _, node in self.classes[owner_name]
            if not any(getattr(base, "id", "") == "Protocol" for base in node.bases)
            for part in node.body
        )

    def _called_instance(self, name: str) -> Place | None:
        """Find ``__call__`` where an instance is called that is named like a preferred class, as ``objective`` is."""
        word = name.strip("_").lower()
        for one in PREFERRED:
            if word and one.lower().endswith(word):
                return self.method(one, "__call__")
        return None

    def _imported(self, source: Source) -> dict[str, str]:
        """Map the names that a file imports to what they stand for."""
        names: dict[str, str] = {}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom):
                parents = source.folder.split(".")[: len(source.folder.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*parents, *([node.module] if node.module else [])])
                names |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        return names


def clamps_ratio(node: Function) -> bool:
    """
    Tell whether a function is where the probability ratio is clipped.

    :param node: the function
    :return: True if it calls ``clamp(ratio, …)``, ``clip(ratio, …)`` or the same as a method of the ratio
    """
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in {"clamp", "clip"}:
            clipped = [part.func.value, *part.args[:1]]
            if any(isinstance(one, ast.Name) and one.id in {"ratio", "ratios"} for one in clipped):
                return True
    return False


def runs_backwards(node: Function) -> bool:
    """
    Tell whether a function is the recursion of GAE.

    :param node: the function
    :return: True if it loops over ``reversed(…)`` and there computes a number from the same number of the step after
    """
    for loop in ast.walk(node):
        if isinstance(loop, ast.For) and isinstance(loop.iter, ast.Call) and getattr(loop.iter.func, "id", "") == "reversed":
            for part in loop.body:
                if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                    read_names = {one.id for one in ast.walk(part.value) if isinstance(one, ast.Name)}
                    if part.targets[0].id in read_names:
                        return True
    return False


def reading_path(calls: Calls, start: Place, is_goal: Callable[[Function], bool]) -> list[Place]:
    """
    Find the way with the fewest changes of file from one function to another.

    :param calls: the calls of the package
    :param start: where the reader begins
    :param is_goal: tells where the reader has arrived
    :return: the functions on the way, both ends included; empty if calls don't lead there
    """
    waiting: list[tuple[int, int, int, list[Place]]] = [(0, 0, 0, [start])]
    seen: set[tuple[Path, str]] = set()
    count = 0
    while waiting:
        changes, length, _, way = heapq.heappop(waiting)
        place = way[-1]
        if is_goal(place.node):
            return way
        if (place.source.path, place.name) in seen:
            continue
        seen.add((place.source.path, place.name))
        for target in calls.next_places(place):
            count += 1
            changed = changes + (target.source.path != place.source.path)
            heapq.heappush(waiting, (changed, length + 1, count, [*way, target]))
    return []


def files_of(ways: Sequence[Sequence[Place]]) -> list[Source]:
    """
    List the files that a reader opens.

    :param ways: functions, way by way
    :return: each file once
    """
    return list({place.source.path: place.source for way in ways for place in way}.values())


def lines_of_code(sources: Sequence[Source]) -> int:
    """
    Add up what a reader reads.

    :param sources: files
    :return: their lines of code
    """
    return sum(code_lines(source.text) for source in sources)


def length_without_docstring(place: Place) -> int:
    """
    Count a function's lines from ``def`` to its end.

    :param place: the function
    :return: lines, those of its docstring not counted
    """
    node = place.node
    texts = docstrings(node)
    described = sum((text.end_lineno or text.lineno) - text.lineno + 1 for text in texts)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - described
