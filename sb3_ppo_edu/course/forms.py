"""
What remains of a function when names, comments and docstrings are taken away: by this, copies are told.

Knows only the standard library: the process that reads submissions loads it by its path.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

NAME = "#"
"""Before the number of a name."""


def forms(statements: Iterable[ast.stmt]) -> list[list[str]]:
    """
    Reduce statements to what does not depend on how things are called.

    :param statements: of a slice, say; imports are left out
    :return: for each statement its tokens
    """
    found = []
    for statement in statements:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            places: dict[str, int] = {}
            found.append(list(_tokens(statement, places)))
    return found


def size(form: Iterable[str]) -> int:
    """Count the statements in a form."""
    return sum(token.startswith("\n") for token in form)


def _tokens(node: ast.AST, places: dict[str, int]) -> Iterator[str]:
    """List a tree's nodes; a name is the place where it came first."""
    kind = type(node).__name__.replace("AnnAssign", "Assign")
    if isinstance(node, ast.expr_context | ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return  # a docstring, or nothing
    yield f"\n{kind}" if isinstance(node, ast.stmt) else kind
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment", "decorator_list", "kind", "type_params", "simple"):
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _tokens(part, places)
            elif isinstance(part, str) and field in ("id", "arg", "name") and not isinstance(node, ast.keyword):
                yield f"{NAME}{places.setdefault(part, len(places))}"
            elif part is not None:
                yield repr(float(part) if type(part) is int and abs(part) < 1e9 else part)
