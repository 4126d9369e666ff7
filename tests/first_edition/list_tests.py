"""
List the test functions of a checkout with their laws.

For the first edition::

    python tests/first_edition/list_tests.py ../first/tests > tests/first_edition/tests.csv
"""

from __future__ import annotations

import ast
import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path


def test_functions(folder: Path) -> Iterator[tuple[str, str, str]]:
    """
    Find all test functions below a folder.

    :param folder: with files named ``test_*.py``
    :return: for each its file below the folder, its name (``Class.name`` in a class), and its docstring's first sentence
    """
    for path in sorted(folder.rglob("test_*.py")):
        for name, function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
            yield path.relative_to(folder).as_posix(), name, first_sentence(ast.get_docstring(function) or "")


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """List what pytest collects as tests: functions named ``test…``, at the top or in a class named ``Test…``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
            yield prefix + node.name, node


def first_sentence(docstring: str) -> str:
    """
    Cut a docstring after its first sentence.

    :param docstring: any
    :return: one line without the full stop: up to the first that a capital letter follows, or the first paragraph's end
    """
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"\.(?= [^a-z0-9]|$)", paragraph)[0]


if __name__ == "__main__":
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "name", "law"])
    writer.writerows(test_functions(Path(sys.argv[1])))
