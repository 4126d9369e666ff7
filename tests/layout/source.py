"""A package as text: its files, their syntax trees, and what counts as a line of code."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

PACKAGE = "sb3_ppo_edu"
FORWARDING_LINES = 5


@dataclass(frozen=True)
class Source:
    """
    One file of a package.

    :param path: below the package's folder
    :param text: what is in it
    """

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """Dotted name of the package that it lies in."""
        return ".".join([PACKAGE, *self.path.parts[:-1]])

    @property
    def module(self) -> str:
        """Its dotted name."""
        return self.folder if self.path.stem == "__init__" else f"{self.folder}.{self.path.stem}"

    @property
    def room(self) -> str:
        """Name of the module or folder directly below the package."""
        return self.path.parts[0].removesuffix(".py")

    @cached_property
    def is_forwarding(self) -> bool:
        """Whether it only sends those who know its old name to the new one: a few lines with a call of ``forward``."""
        calls = (node.func for node in ast.walk(self.tree) if isinstance(node, ast.Call))
        few = code_lines(self.text) <= FORWARDING_LINES
        return few and any(isinstance(function, ast.Name) and function.id == "forward" for function in calls)


@cache
def read(root: Path) -> tuple[Source, ...]:
    """
    Read a package.

    :param root: the package's folder
    :return: its Python files, in order
    """
    return tuple(Source(path.relative_to(root), path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py")))


def build(root: Path, files: Mapping[str, str]) -> Path:
    """
    Write a package for a checker to judge.

    :param root: folder to write into
    :param files: path below it -> source
    :return: the folder
    """
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def docstrings(tree: ast.AST) -> set[ast.Constant]:
    """
    Find the strings that stand for themselves: docstrings of modules, classes, functions and attributes.

    :param tree: syntax tree
    :return: their nodes
    """
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    return {text for text in texts if isinstance(text.value, str)}


def code_lines(text: str) -> int:
    """
    Count lines of code: blank lines, comments and docstrings are none.

    :param text: source of a module
    :return: how many there are
    """
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            code |= set(range(token.start[0], token.end[0] + 1))
    for text_node in docstrings(ast.parse(text)):
        code -= set(range(text_node.lineno, (text_node.end_lineno or text_node.lineno) + 1))
    return len(code)
