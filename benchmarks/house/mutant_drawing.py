"""Which mutants there are: a source with one operator, comparison, constant, sign, condition, function or call changed."""

from __future__ import annotations

import ast
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

ROOMS = ("functional", "rollouts", "engines")
"""Folders of the package that mutants are drawn from."""

KERNEL_SHARE = 5
"""One mutant in so many is of the kernels, in C."""

OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.And: "or",
    ast.Or: "and",
}
"""What each operator becomes in Python."""

FUNCTIONS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
"""What each function becomes in Python."""

C_OPERATORS = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "%": "*",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "&&": "||",
    "||": "&&",
    "+=": "-=",
    "-=": "+=",
    "*=": "/=",
}
"""What each operator becomes in C."""

C_FUNCTIONS = {"smaller": "larger", "larger": "smaller"}
"""What each function becomes in C."""

HARMLESS_ARGUMENTS = {"strict", "stacklevel", "copy", "validate_args", "maxsize", "retain_graph"}
"""Keyword arguments whose change no result shows."""


@dataclass(frozen=True)
class Mutant:
    """
    One change.

    :param number: its place in the list, from 1
    :param file: the file, below the package
    :param kind: operator, comparison, constant, sign, condition, function or call
    :param first: first line of the statement that it is in
    :param last: last line of that statement; of an ``if`` and its like without what is below it
    :param before: a line or a few, which stand once in the file
    :param after: the same with the change
    """

    number: int
    file: str
    kind: str
    first: int
    last: int
    before: str
    after: str

    @property
    def room(self) -> str:
        """The room that it is in; the kernels count as one of their own."""
        return self.file.partition("/")[0] + (", kernels" if is_kernel(self.file) else "")

    @property
    def change(self) -> str:
        """The line with the change marked: ``a [+ → -] b``."""
        before, after = (re.findall(r"\w+|\s+|[^\w\s]+", text) for text in (self.before, self.after))
        start = in_common(before, after)
        end = in_common(before[start:][::-1], after[start:][::-1])
        old, new = ("".join(part[start : len(part) - end]).strip() for part in (before, after))
        head, tail = "".join(before[:start]), "".join(before[len(before) - end :])
        return f"{head.rpartition(chr(10))[2].lstrip()}[{old} → {new}]{tail.partition(chr(10))[0]}"

    def made(self, source: str) -> str | None:
        """
        Make the change.

        :param source: the file's text
        :return: the text with the change; None where the mutant's lines do not stand in it once
        """
        return source.replace(self.before, self.after) if source.count(self.before) == 1 else None


def in_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Count the tokens with which both begin."""
    differ = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(one), len(other)))


def is_kernel(file: str) -> bool:
    """Say whether a file is C."""
    return file.endswith((".c", ".h"))


class Text:
    """
    A source file, with positions of the syntax tree as indices into its text.

    :param source: the text
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def index(self, line: int, column: int) -> int:
        """Turn a line from 1 and a column in bytes into an index."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Give the start and the end of an expression."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.index(node.lineno, node.col_offset), self.index(node.end_lineno, node.end_col_offset)

    def widened(self, start: int, end: int, new: str) -> tuple[str, str] | None:
        """Take whole lines around a change, as many as it needs to stand once in the file; None if five are too few."""
        first = bisect_right(self.starts, start) - 1
        last = max(bisect_left(self.starts, end) - 1, first)
        while last - first < 5:
            begin, finish = self.starts[first], self.starts[last + 1]
            before = self.source[begin:finish]
            if self.source.count(before) == 1:
                return before, self.source[begin:start] + new + self.source[end:finish]
            if (last - first) % 2 or first == 0:
                last = min(last + 1, len(self.lines) - 1)
            else:
                first -= 1
        return None


# -- Python --------------------------------------------------------------------------------------------------------------


def expressions(node: ast.AST, statement: ast.stmt | None = None) -> Iterator[tuple[ast.AST, ast.stmt]]:
    """
    Walk over what a mutant may change.

    :param node: where to begin
    :param statement: the statement that it is in
    :return: each node with its statement; annotations, messages of errors and the like are left out
    """
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    statement = node if isinstance(node, ast.stmt) else statement
    if statement is not None:
        yield node, statement
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            harmless = isinstance(child, ast.keyword) and child.arg in HARMLESS_ARGUMENTS
            if isinstance(child, ast.AST) and not harmless:
                yield from expressions(child, statement)


def operators_between(text: Text, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
    """List the changes of the operators between a node's operands."""
    operands: list[ast.expr] = []
    operators: list[ast.AST] = []
    if isinstance(node, ast.BinOp):
        operands, operators = [node.left, node.right], [node.op]
    elif isinstance(node, ast.Compare):
        operands, operators = [node.left, *node.comparators], list(node.ops)
    elif isinstance(node, ast.BoolOp):
        operands, operators = node.values, [node.op] * (len(node.values) - 1)
    for (left, right), operation in zip(pairwise(operands), operators, strict=True):
        if type(operation) not in OPERATORS:
            continue
        start, end = text.span(left)[1], text.span(right)[0]
        # Between two operands stand the operator and their parentheses.
        operator = re.search(r"[^\s()#]+(\s+(not|in)\b)?", text.source[start:end])
        assert operator is not None
        kind = "comparison" if isinstance(node, ast.Compare) else "operator"
        yield kind, start + operator.start(), start + operator.end(), OPERATORS[type(operation)]


def changes(text: Text, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
    """
    List what one mutant may change at a node.

    :param text: its file
    :param node: a node of the syntax tree
    :return: kind, start and end of what is replaced, and by what
    """
    yield from operators_between(text, node)
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        start = text.span(node.target)[1]
        operator = re.match(r"\s*(\S+)=", text.source[start:])
        assert operator is not None
        yield "operator", start + operator.start(1), start + operator.end(1), OPERATORS[type(node.op)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        start = text.span(node)[0]
        yield "sign", start, start + (1 if isinstance(node.op, ast.USub) else len("not ")), ""
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        if not negated and not isinstance(node.test, (ast.Compare, ast.BoolOp, ast.Constant)):
            start, end = text.span(node.test)
            yield "condition", start, end, f"not ({text.source[start:end]})"
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) or value == 0 else 2 * value
        yield "constant", *text.span(node), repr(changed)
    if isinstance(node, ast.Call):
        function = node.func
        name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
        if name in FUNCTIONS:
            end = text.span(function)[1]
            yield "function", end - len(name), end, FUNCTIONS[name]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "call", *text.span(node.value), "pass"


def lines_of(statement: ast.stmt) -> tuple[int, int]:
    """Give the first and the last line of a statement, of one with a body without it."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return statement.lineno, max(statement.lineno, last)


def python_mutants(file: str, source: str) -> Iterator[Mutant]:
    """
    List the mutants of a file in Python.

    :param file: its path below the package
    :param source: its text
    :return: the mutants, with number 0
    """
    text = Text(source)
    for node, statement in expressions(ast.parse(source)):
        for kind, start, end, new in changes(text, node):
            if around := text.widened(start, end, new):
                yield Mutant(0, file, kind, *lines_of(statement), *around)


# -- C -------------------------------------------------------------------------------------------------------------------

# The formatter puts spaces on both sides of a binary operator and on neither of a pointer's star or a sign.
C_CHANGES = re.compile(
    r"(?<=\s)(?P<operator>[-+*/%]|[-+*]=|&&|\|\|)(?=\s)|(?<=\s)(?P<comparison>[<>=!]=|[<>])(?=\s)"
    r"|(?<=[ (])(?P<sign>-)(?=[A-Za-z_(])|\b(?P<function>smaller|larger)(?=\()"
    r"|(?<![\w.])(?P<constant>\d+(\.\d*)?(e[-+]?\d+)?)(?![\w.])"
)
C_NO_CODE = re.compile(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"|^[ \t]*#(?!define)[^\n]*', flags=re.DOTALL | re.MULTILINE)


def c_mutants(file: str, source: str) -> Iterator[Mutant]:
    """
    List the mutants of a file in C.

    :param file: its path below the package
    :param source: its text
    :return: the mutants, with number 0; comments, strings, includes and conditions of the preprocessor are left out
    """
    text = Text(source)
    code = C_NO_CODE.sub(lambda found: re.sub(r"\S", " ", found.group()), source)
    for found in C_CHANGES.finditer(code):
        kind, old = str(found.lastgroup), found.group()
        if kind == "constant":
            new = repr(2 * float(old)) if re.search(r"[.e]", old) and float(old) else str(int(float(old)) + 1)
        else:
            new = C_OPERATORS.get(old) or C_FUNCTIONS.get(old) or ""
        if kind == "sign":
            new = ""
        if around := text.widened(*found.span(), new):
            line = source.count("\n", 0, found.start()) + 1
            yield Mutant(0, file, kind, line, line, *around)


def draw(package: Path, seed: int, number: int) -> list[Mutant]:
    """
    Draw mutants of the rooms, each place that can be changed as likely as any other of its language.

    :param package: folder of the package
    :param seed: of the draw
    :param number: how many
    :return: the mutants; one in :data:`KERNEL_SHARE` is of the kernels
    """
    python: list[Mutant] = []
    kernels: list[Mutant] = []
    for path in sorted(path for room in ROOMS for path in (package / room).rglob("*.*")):
        file = path.relative_to(package).as_posix()
        if path.suffix == ".py":
            python += python_mutants(file, path.read_text(encoding="utf-8"))
        elif path.suffix in (".c", ".h") and not path.name.startswith("driver"):  # the driver is the sanitizers' program
            kernels += c_mutants(file, path.read_text(encoding="utf-8"))
    for name, found in {"python": python, "kernels": kernels}.items():
        random.Random(f"{seed} {name}").shuffle(found)
    drawn: list[Mutant] = []
    for place in range(1, number + 1):
        first, second = (kernels, python) if place % KERNEL_SHARE == 0 else (python, kernels)
        if found := first or second:
            drawn.append(replace(found.pop(0), number=place))
    return drawn
