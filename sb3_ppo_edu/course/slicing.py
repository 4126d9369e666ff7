"""
From a notebook the part that one function needs: its own definition and, again and again, what the names in it stand for.

Whatever else a notebook does (training, plotting, calling ``check``) is left out and so cannot crash, loop or cheat. This
module knows only the standard library: the process that runs submissions loads it by its path.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Sequence

Statement = ast.stmt
DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def statements(cells: Iterable[str]) -> list[Statement]:
    """
    Parse cells one by one; those with syntax errors are left out.

    :param cells: sources of the code cells
    :return: all top-level statements, in their order
    """
    found: list[Statement] = []
    for cell in cells:
        # IPython's magics are no Python; what they do is of no use to a function.
        lines = [f"pass  # {line}" if line.startswith(("%", "!", "?")) else line for line in cell.splitlines()]
        try:
            found += ast.parse("\n".join(lines)).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return found


def names_defined(statement: Statement) -> set[str]:
    """List the names that a top-level statement gives a meaning to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        nodes = (node for target in targets for node in ast.walk(target))
        # Not `torch.x = …`, which defines nothing.
        return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return set()


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
    definitions = [(statement, names_defined(statement)) for statement in found if isinstance(statement, DEFINING)]
    if not any(name in defined for _, defined in definitions):
        return None
    wanted, todo = set[int](), {name}
    known: set[str] = set()
    while todo:
        known |= todo
        chosen = {index for index, (_, defined) in enumerate(definitions) if defined & todo} - wanted
        wanted |= chosen
        todo = {used for index in chosen for used in names_used(definitions[index][0])} - known
    # Annotations are not needed to compute anything, and may name what is not there.
    future = ast.parse("from __future__ import annotations").body
    body = [statement for statement in (definitions[index][0] for index in sorted(wanted)) if not _is_future(statement)]
    return ast.Module(body=[*future, *body], type_ignores=[])


def _is_future(statement: Statement) -> bool:
    """Tell whether a statement has to be the first one."""
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
