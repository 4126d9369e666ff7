"""Names with a leading underscore, and who touches them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.layout.source import PACKAGE, Source, read

PUBLIC_BY_DOCUMENTATION = {"_asdict", "_exit", "_field_defaults", "_fields", "_getframe", "_make", "_replace"}
"""Documented names of the standard library that begin with an underscore."""

OWN = {"self", "cls", "mcs"}
BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}


def is_private(name: str) -> bool:
    """
    Tell whether a name is private.

    :param name: of an attribute
    :return: True for one leading underscore
    """
    return name.startswith("_") and not name.startswith("__") and len(name) > 1 and name not in PUBLIC_BY_DOCUMENTATION


def private_names(node: ast.ClassDef) -> set[str]:
    """
    List the private attributes and methods that a class defines.

    :param node: the class
    :return: names that it defines in its body or assigns on ``self`` or ``cls``
    """
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(part.name)
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and getattr(part.value, "id", "") in OWN:
            names.add(part.attr)
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if is_private(name)}


def private_accesses(source: Source) -> Iterator[tuple[int, str, set[str]]]:
    """
    List where a file touches a private attribute of something that is not ``self``, ``cls`` or ``super()``.

    Attributes named in ``getattr`` and the like count, and private names imported from a library.

    :param source: the file
    :return: line number, name, and the private names of the classes around
    """

    def visit(node: ast.AST, around: set[str]) -> Iterator[tuple[int, str, set[str]]]:
        if isinstance(node, ast.ClassDef):
            around = around | private_names(node)
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            base = node.value.func if isinstance(node.value, ast.Call) else node.value
            if getattr(base, "id", "") not in {*OWN, "super"}:
                yield node.lineno, node.attr, around
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME and len(node.args) > 1:
            base, name = node.args[0], getattr(node.args[1], "value", None)
            if isinstance(name, str) and is_private(name) and getattr(base, "id", "") not in OWN:
                yield node.lineno, name, around
        if isinstance(node, ast.ImportFrom) and not node.level and not str(node.module).startswith(PACKAGE):
            yield from ((node.lineno, alias.name, around) for alias in node.names if is_private(alias.name))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, around)

    yield from visit(source.tree, set())


def foreign_privates(
    root: Path, libraries: Collection[str], allowed: Mapping[str, str]
) -> tuple[list[str], list[str], list[str]]:
    """
    List private attributes of other classes that a package touches.

    :param root: the package's folder
    :param libraries: private names that the libraries define; ours of the same name are theirs
    :param allowed: file -> why it may touch privates of the libraries
    :return: privates of other classes of ours; privates of libraries in files that are not on the list; files that are on the
        list and touch none
    """
    classes = (node for source in read(root) for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef))
    ours = {name for node in classes for name in private_names(node)} - set(libraries)
    own, theirs, needed = [], [], set()
    for source in read(root):
        for line, name, around in private_accesses(source):
            if name in ours:
                if name not in around:
                    own.append(f"{source.path}:{line}: {name} is private to another class of ours")
            elif source.path.as_posix() in allowed:
                needed.add(source.path.as_posix())
            else:
                theirs.append(f"{source.path}:{line}: {name} is private to a library")
    return own, theirs, sorted(set(allowed) - needed)


@cache
def private_names_of_library(folder: Path) -> frozenset[str]:
    """
    List the private names that the classes of a library define.

    :param folder: of the library
    :return: the names
    """
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    classes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return frozenset(name for node in classes for name in private_names(node))
