"""
From a notebook the part that one function needs: its own definition and, again and again, what the names in it stand for.

Whatever else a notebook does (training, plotting, calling ``check``) is left out and so cannot crash, loop or cheat. This
module knows only the standard library: the process that runs submissions loads it by its path.
"""

from __future__ import annotations

import ast
import copy
import re
import symtable
from collections.abc import Collection, Iterable, Iterator, Sequence

Statement = ast.stmt
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try)
"""Statements in which others stand."""
CHANGING = ("append", "extend", "insert", "add", "update", "setdefault")
"""Methods that fill what a name stands for."""
EVERYTHING = "*"
"""What `from module import *` defines."""

MAGIC = re.compile(r"^(?P<indent>\s*)(%time\s+(?P<timed>.+)|[%!?].*|.*\?|[\w ,]+=\s*[%!].*)$")
"""A line of IPython's own; what `%time` times is Python."""


def statements(cells: Iterable[str]) -> list[Statement]:
    """
    Parse cells one by one; those with syntax errors are left out.

    :param cells: sources of the code cells
    :return: all top-level statements, in their order
    """
    found: list[Statement] = []
    for cell in cells:
        text = cell.lstrip("\ufeff")  # an editor's mark
        for source in (text, "\n".join(_without_magic(line) for line in text.splitlines())):
            try:
                found += ast.parse(source).body
                break
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
    return found


def _without_magic(line: str) -> str:
    """Leave out IPython's magics, which are no Python; what they do is of no use to a function."""
    magic = MAGIC.match(line)
    return line if magic is None else magic["indent"] + (magic["timed"] or "pass")


def names_defined(statement: Statement) -> set[str]:
    """List the names that a statement gives a meaning to, or takes it from, wherever in it but in functions of its own."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Delete):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, COMPOUND):
        own = {name for part in _headers(statement) for name in _stored(part)}
        return own.union(*(names_defined(inner) for block in _blocks(statement) for inner in block))
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {name for target in targets for name in _stored(target)}
    called = statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    if isinstance(called, ast.Attribute) and called.attr in CHANGING and isinstance(called.value, ast.Name):
        return {called.value.id}
    return set()


def _stored(target: ast.AST) -> Iterator[str]:
    """List the names that a target gives a meaning to, or an entry: not `torch.x = …`, which defines nothing."""
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield node.value.id


def _headers(statement: Statement) -> list[ast.AST]:
    """List what stands before a compound statement's blocks."""
    if isinstance(statement, ast.For):
        return [statement.target, statement.iter]
    if isinstance(statement, ast.With):
        return [part for item in statement.items for part in (item.context_expr, item.optional_vars) if part is not None]
    return [statement.test] if isinstance(statement, ast.If | ast.While) else []


def _blocks(statement: Statement) -> Iterator[list[Statement]]:
    """List the blocks of a compound statement."""
    for part in (statement, *getattr(statement, "handlers", ())):
        for field in ("body", "orelse", "finalbody"):
            if block := getattr(part, field, None):
                yield block


def _pruned(statement: Statement, wanted: Collection[str]) -> Statement:
    """Leave out of a compound statement, or a ``del``, what defines nothing that is wanted: training, plots, prints."""
    if isinstance(statement, ast.Delete):
        targets = [target for target in statement.targets if not isinstance(target, ast.Name) or target.id in wanted]
        return ast.copy_location(ast.Delete(targets=targets), statement)
    if not isinstance(statement, COMPOUND):
        return statement
    kept = copy.deepcopy(statement)
    for block in _blocks(kept):
        block[:] = [_pruned(inner, wanted) for inner in block if names_defined(inner).intersection(wanted) or _leaves(inner)]
        block += [] if block else [ast.Pass()]
    return ast.fix_missing_locations(kept)


def _leaves(statement: Statement) -> bool:
    """Tell whether a statement may end a loop."""
    if isinstance(statement, COMPOUND):
        return any(_leaves(inner) for block in _blocks(statement) for inner in block)
    return isinstance(statement, ast.Break | ast.Continue)


def names_used(statement: Statement) -> set[str]:
    """List the global names that a statement looks up, wherever in it: not its functions' own variables of the same names."""
    return set(_globals_of(symtable.symtable(ast.unparse(statement), "<submission>", "exec")))


def _globals_of(table: symtable.SymbolTable) -> Iterator[str]:
    """List the global names that a scope and those within it look up."""
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (top or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals_of(child)


def slice_for(name: str, found: Sequence[Statement]) -> ast.Module | None:
    """
    Gather what a function needs.

    :param name: of the function
    :param found: statements of the notebook
    :return: a module that defines it, or None if nothing does
    """
    definitions = [(statement, names_defined(statement)) for statement in found]
    if not any(name in defined for _, defined in definitions):
        return None
    known, todo = set[str](), {name, EVERYTHING}
    while todo:
        known |= todo
        needed = (_pruned(statement, known) for statement, defined in definitions if defined & todo)
        todo = {used for statement in needed for used in names_used(statement)} - known
    body = [_pruned(statement, known) for statement, defined in definitions if defined & known and not _is_future(statement)]
    # Annotations are not needed to compute anything, and may name what is not there.
    future = ast.parse("from __future__ import annotations").body
    return ast.Module(body=[*future, *body], type_ignores=[])


def _is_future(statement: Statement) -> bool:
    """Tell whether a statement has to be the first one."""
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
