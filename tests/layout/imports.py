"""What imports what: floors, libraries, circles, forwarding modules, and the package's face."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.layout.source import PACKAGE, Source, docstrings, read


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


def named_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """
    List the strings that are the dotted name of something in the package, as in "sb3_ppo_edu.room.module:function".

    :param tree: syntax tree of a module
    :return: pairs of line number and string
    """
    for node in {node for node in ast.walk(tree) if isinstance(node, ast.Constant)} - docstrings(tree):
        if isinstance(node.value, str) and re.fullmatch(rf"{PACKAGE}(\.\w+)+(:\w+)?", node.value):
            yield node.lineno, node.value


def owner(name: str, modules: Collection[str]) -> str | None:
    """
    Find the module that a dotted name leads to.

    :param name: dotted name of a module or of something in one
    :param modules: the modules that there are
    :return: the longest beginning that is a module, or None
    """
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


@dataclass(frozen=True)
class House:
    """
    Rooms, floors, and what each may know.

    :param floors: room -> floor; ``__init__`` is the package's face
    :param knows: room or ``room/module`` -> libraries beside the standard library and the floors below; others may know all
    :param only_in: library -> the rooms that alone may import it
    :param from_floor: library -> the lowest floor that may import it
    :param table: path of the one module that names, as strings, functions of floors above it
    """

    floors: Mapping[str, int]
    knows: Mapping[str, tuple[str, ...]]
    only_in: Mapping[str, str]
    from_floor: Mapping[str, int]
    table: str = "algorithms/services.py"

    def violations(self, root: Path) -> list[str]:
        """
        List the imports of a package that break a rule.

        :param root: the package's folder
        :return: one line for each: file, line number, what is imported, which rule it breaks
        """
        sources = {source.module: source for source in read(root)}
        found = []
        for source in sources.values():
            if source.is_forwarding:
                continue
            if source.room not in self.floors:
                found.append(f"{source.path}: room {source.room!r} has no floor; give it one in tests/test_layout.py")
                continue
            imports = list(imported_modules(source.tree, source.folder))
            for line, name in imports:
                rule = self._broken_rule(source, name, sources)
                if rule:
                    found.append(f"{source.path}:{line}: imports {name}: {rule}")
            for line, name in set(named_modules(source.tree)) - set(imports):
                target = sources.get(owner(name.split(":")[0], sources) or "")
                if target is None or target.module == PACKAGE or source.path.as_posix() == self.table:
                    continue
                if ":" in name or self.floors.get(target.room, 0) > self.floors[source.room]:
                    found.append(f"{source.path}:{line}: names {name}: only {self.table} looks up what lies above it")
        return found

    def _broken_rule(self, source: Source, name: str, sources: Mapping[str, Source]) -> str | None:
        """Judge one import: the rule that it breaks, or None."""
        library, floor = name.split(".")[0], self.floors[source.room]
        if library == PACKAGE:
            target = sources.get(owner(name, sources) or "")
            if target is not None and target.is_forwarding:
                return "is a forwarding module; import what it forwards to"
            other = self.floors.get("__init__" if target is None else target.room, 0)
            return f"goes up from floor {floor} to floor {other}" if other > floor else None
        if library in sys.stdlib_module_names:
            return None
        known = self.knows.get(f"{source.room}/{source.path.stem}", self.knows.get(source.room))
        if known is not None and not any(f"{name}.".startswith(f"{one}.") for one in known):
            return f"{source.room} knows only {', '.join(known) or 'the standard library'}"
        if self.only_in.get(library, source.room) != source.room:
            return f"{library} is imported only in {self.only_in[library]}"
        if known is None and floor < self.from_floor.get(library, 0):
            return f"drawing and tables start on floor {self.from_floor[library]}"
        return None

    def entries(self, root: Path) -> dict[str, str]:
        """
        Read the table of services.

        :param root: the package's folder
        :return: name -> "module:function", of all dictionaries at the top of the module
        """
        table = next((source for source in read(root) if source.path.as_posix() == self.table), None)
        found: dict[str, str] = {}
        for node in ast.walk(table.tree) if table is not None else ():
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and ":" in str(value.value):
                        found[str(key.value)] = str(value.value)
        return found


def missing_services(entries: Mapping[str, str], root: Path) -> list[str]:
    """
    List entries of a table of services that lead nowhere.

    :param entries: name -> "module:function"
    :param root: the package's folder
    :return: one line for each
    """
    sources = {source.module: source for source in read(root)}
    found = []
    for name, path in entries.items():
        module, _, function = path.partition(":")
        defined = {getattr(node, "name", "") for node in sources[module].tree.body} if module in sources else set()
        if function not in defined:
            found.append(f"{name}: {path} is not there")
    return found


def circles(root: Path) -> list[str]:
    """
    List the circles of imports between files. Lazy imports and those for type checking count.

    :param root: the package's folder
    :return: for each set of files that all reach each other, the shortest way around from the first of them
    """
    modules = {source.module for source in read(root)}
    imports = {
        source.module: {
            target
            for _, name in imported_modules(source.tree, source.folder)
            if (target := owner(name, modules)) is not None and target != source.module
        }
        for source in read(root)
    }
    found, done = [], set()
    for start in sorted(imports):
        ways, frontier = {start: [start]}, [start]
        while frontier and start not in done:
            module = frontier.pop(0)
            for target in sorted(imports[module]):
                if target == start:
                    found.append(" -> ".join([*ways[module], start]))
                    done |= set(ways[module])
                    frontier.clear()
                    break
                if target not in ways:
                    ways[target] = [*ways[module], target]
                    frontier.append(target)
    return found


def missing_targets(root: Path) -> list[str]:
    """
    List forwarding modules that send to where nothing is.

    :param root: the package's folder
    :return: one line for each
    """
    modules = {source.module for source in read(root)}
    return [
        f"{source.path}: forwards to {name}, which is not there"
        for source in read(root)
        if source.is_forwarding
        for _, name in named_modules(source.tree)
        if name not in modules
    ]


def eager_face(root: Path) -> list[str]:
    """
    List what keeps a package's face from being lazy as PEP 562 has it.

    :param root: the package's folder
    :return: one line for each: no ``__getattr__``, and imports of rooms that are made when the package is imported
    """
    (face,) = (source for source in read(root) if source.path.as_posix() == "__init__.py")
    functions = {node.name for node in face.tree.body if isinstance(node, ast.FunctionDef)}
    found = [f"__init__.py: no {name} (PEP 562)" for name in ("__dir__", "__getattr__") if name not in functions]
    at_once = [node for node in face.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in at_once:
        for line, name in imported_modules(ast.Module([node], []), PACKAGE):
            if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith(f"{PACKAGE}.version"):
                found.append(f"__init__.py:{line}: imports {name} at once")
    return found
