"""
The right one of an exercise's functions: its source without the faults that it knows.

What is left is short and has one path, so that a small change to it is a small change to what is right.
"""

from __future__ import annotations

import ast
import copy
import inspect
from functools import lru_cache
from types import ModuleType
from typing import Any

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES

FAULTS = "faults"
"""Name of the argument that the functions of the exercises have in common."""


class _Faultless(ast.NodeTransformer):
    """Takes the faults out of a function: what is left is what is right, without cases."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Answer `"name" in faults`."""
        if any(isinstance(one, ast.Name) and one.id == FAULTS for one in node.comparators):
            return ast.Constant(isinstance(node.ops[0], ast.NotIn))
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Answer `faults & {"name", "other"}`."""
        if isinstance(node.op, ast.BitAnd) and any(isinstance(one, ast.Name) and one.id == FAULTS for one in ast.walk(node)):
            return ast.Constant(False)
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Negate a constant."""
        self.generic_visit(node)
        known = isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant)
        return ast.Constant(not node.operand.value) if known else node  # type: ignore[attr-defined]

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Leave out what decides nothing."""
        self.generic_visit(node)
        decisive = isinstance(node.op, ast.Or)
        left = [one for one in node.values if not (isinstance(one, ast.Constant) and one.value is not decisive)]
        if any(isinstance(one, ast.Constant) for one in left) or not left:
            return ast.Constant(decisive if left else not decisive)
        return left[0] if len(left) == 1 else ast.BoolOp(node.op, left)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Choose."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_If(self, node: ast.If) -> Any:
        """Choose a branch."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Leave out `x = x`."""
        self.generic_visit(node)
        return None if ast.unparse(node.targets[0]) == ast.unparse(node.value) else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Leave out docstrings."""
        return None if isinstance(node.value, ast.Constant) else node


def _takes_faults(function: ast.FunctionDef) -> bool:
    """Tell whether a function knows mistakes."""
    return FAULTS in [one.arg for one in function.args.args]


@lru_cache(maxsize=64)
def functions_of(name: str) -> tuple[ModuleType, tuple[ast.FunctionDef, ...]]:
    """
    Read an exercise's function and what it calls of its own module, without faults.

    :param name: of the exercise
    :return: the module, and the functions, the exercise's own first
    """
    faulty = EXERCISES[name].faulty
    module = inspect.getmodule(faulty)
    assert module is not None
    tree = ast.parse(inspect.getsource(module))
    defined = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef) and _takes_faults(one)}
    found: list[ast.FunctionDef] = []
    todo = [faulty.__name__]
    while todo:
        function = _Faultless().visit(copy.deepcopy(defined[todo.pop(0)]))
        found.append(ast.fix_missing_locations(function))
        called = {one.id for one in ast.walk(function) if isinstance(one, ast.Name)} & defined.keys()
        todo += sorted(called - {one.name for one in found} - set(todo))
    return module, tuple(found)
