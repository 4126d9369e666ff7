"""
All small changes to what is right: the families of mistakes that need no catalogue.

The source of an exercise's function is read, its faults are taken out, and then one thing at a time is changed in it: a term
or a factor left out, a sign, a function, an axis, a bound, an index, a number, an argument. What a student's numbers look like
can so be compared with every such change, and the change says in words what it is. It names the arguments that it is about and
not the formula.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ppo_edu.course.exercises.catalogue import EXERCISES
from sb3_ppo_edu.course.exercises.faultless import FAULTS, functions_of
from sb3_ppo_edu.course.exercises.observing import Answer

DROPPED = {
    **dict.fromkeys(("exp", "log", "tanh", "sqrt", "abs", "square", "clamp", "clip", "softmax", "log_softmax"), "function"),
    **dict.fromkeys(("mean", "sum", "median", "sort", "diff", "cumsum"), "reduction"),
    "detach": "gradient",
}
"""Functions that one may forget, with the family of the mistake; what they are called with stays."""

EXCHANGED = {
    "min": ("max",), "max": ("min",), "minimum": ("maximum",), "maximum": ("minimum",), "amax": ("amin",),
    "sum": ("mean",), "mean": ("sum",), "median": ("mean", "max", "min"), "var": ("std",), "any": ("all",), "all": ("any",),
    "exp": ("log", "expm1"), "log": ("log2", "log10", "log1p", "exp"), "log_softmax": ("softmax", "logsigmoid"),
    "tanh": ("sigmoid",),
}  # fmt: skip
"""Functions that are taken for others."""

COMPARED = {
    ast.Gt: (ast.Lt, ast.GtE), ast.Lt: (ast.Gt, ast.LtE), ast.GtE: (ast.LtE, ast.Gt), ast.LtE: (ast.GtE, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip

AXES = ("dim", "axis")
SUMS, PRODUCTS, BITS = (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr)


@dataclass(frozen=True)
class Variant:
    """
    An answer that differs from the right one in one thing.

    :param family: kind of the mistake, such as "sign"
    :param title: in a few words, as in the catalogue
    :param answer: the function
    """

    family: str
    title: str
    answer: Answer


class Edit(NamedTuple):
    """
    One change to a function's source.

    :param family: of the mistake
    :param title: in a few words
    :param place: what holds the changed part, with the name of its field and the place in it
    :param new: what stands there instead
    """

    family: str
    title: str
    place: tuple[ast.AST, str, int | None]
    new: Any


@lru_cache(maxsize=64)
def variants(name: str) -> tuple[Variant, ...]:
    """
    Make all answers that differ in one thing from the right one.

    :param name: of the exercise
    """
    module, functions = functions_of(name)
    return tuple(
        Variant(edit.family, edit.title, answer)
        for edit in _edits(name, functions)
        if (answer := _compiled(module, functions, edit)) is not None
    )


def _compiled(module: ModuleType, functions: Sequence[ast.FunctionDef], edit: Edit) -> Answer | None:
    """Make a function with one edit, or None if there is no such function."""
    before = _get(edit.place)
    _set(edit.place, edit.new)
    try:
        tree = ast.fix_missing_locations(ast.Module(list(functions), type_ignores=[]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of an index into what is no list
            code = compile(tree, "<variant>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, TypeError):
        return None
    finally:
        _set(edit.place, before)
    namespace = dict(vars(module))
    exec(code, namespace)
    return partial(namespace[functions[0].name], frozenset())


def _get(place: tuple[ast.AST, str, int | None]) -> Any:
    """Read what stands at a place."""
    node, name, index = place
    return getattr(node, name) if index is None else getattr(node, name)[index]


def _set(place: tuple[ast.AST, str, int | None], new: Any) -> None:
    """Put something at a place."""
    node, name, index = place
    if index is None:
        setattr(node, name, new)
    else:
        getattr(node, name)[index] = new


@lru_cache(maxsize=64)
def _edits(name: str, functions: tuple[ast.FunctionDef, ...]) -> tuple[Edit, ...]:
    """List the changes to all functions of an exercise, those of the more telling families first."""
    arguments = EXERCISES[name].cases()[0].arguments
    known = {one.arg for one in functions[0].args.args}
    found = [edit for function in functions for edit in _edits_within(function, arguments, known)]
    return tuple(sorted(found, key=lambda edit: _FAMILIES.index(edit.family)))


def _edits_within(function: ast.FunctionDef, arguments: dict[str, Any], known: set[str]) -> Iterator[Edit]:
    """List the changes to one function."""
    words = _Words(function, arguments, known)
    for parent in ast.walk(function):
        if isinstance(parent, ast.arguments) or parent in function.decorator_list or parent is function.returns:
            continue
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "args", "targets") and not isinstance(parent, ast.Call):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                place = (parent, field, index)
                for rule in _RULES:
                    if rule is _names and isinstance(parent, ast.Compare):
                        continue  # a threshold elsewhere says the same
                    for family, title, new in rule(node, words):
                        yield Edit(family, title, place, new)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in arguments:
                    yield from _other_arguments(node, place, arguments)


class _Words:
    """
    Says what an expression is made of in words of the exercise.

    :param function: that it stands in
    :param arguments: of one of the exercise's cases
    :param known: names that a student knows; a function that the exercise's own calls may have others
    """

    def __init__(self, function: ast.FunctionDef, arguments: dict[str, Any], known: set[str]) -> None:
        self.known = known
        self.library = "th" if any(isinstance(value, th.Tensor) for value in arguments.values()) else "np"
        self.arguments = [one.arg for one in function.args.args if one.arg != FAULTS]
        self.made_of: dict[str, set[str]] = {}
        for target, source in (pair for node in ast.walk(function) for pair in _bindings(node)):
            used = {one.id for one in ast.walk(source) if isinstance(one, ast.Name)} if source else set()
            for one in ast.walk(target):
                if isinstance(one, ast.Name):
                    self.made_of.setdefault(one.id, set()).update(used)

    def __call__(self, node: ast.AST) -> str:
        """Name the arguments that an expression is made of, such as "`values`, `returns`"."""
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
        if not names & (set(self.arguments) | self.made_of.keys()):
            return f"{ast.unparse(node)}" if len(ast.unparse(node)) < 12 else "a number"
        while more := {used for name in names for used in self.made_of.get(name, ())} - names:
            names |= more
        return ", ".join(f"`{name}`" for name in self.arguments if name in names & self.known) or "a number"


def _bindings(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """List what a statement binds to what; a tuple part by part."""
    if isinstance(node, ast.For | ast.AnnAssign):
        yield node.target, node.iter if isinstance(node, ast.For) else node.value
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple):
        yield from zip(node.targets[0].elts, node.value.elts, strict=False)
    elif isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)


Change = tuple[str, str, Any]
Rule = Callable[[Any, _Words], Iterator[Change]]


def _arithmetic(node: Any, words: _Words) -> Iterator[Change]:
    """Leave out terms and factors, turn signs and fractions."""
    if not isinstance(node, ast.BinOp):
        return
    left, op, right = node.left, node.op, node.right
    if isinstance(op, SUMS):
        minus = isinstance(op, ast.Sub)
        yield "term", f"A term is missing: the one with {words(right)}", left
        yield "term", f"A term is missing: the one with {words(left)}", ast.UnaryOp(ast.USub(), right) if minus else right
        other = ast.Add() if minus else ast.Sub()
        yield "sign", f"A sign is wrong, that of the term with {words(right)}", ast.BinOp(left, other, right)
        yield "sign", f"A sign is wrong, that of the term with {words(left)}", ast.BinOp(_minus(left), op, right)
        yield "sign", f"The wrong one is subtracted, in what is made of {words(node)}", _minus(node)
        yield (
            "operation",
            f"Multiplied where it should be added or subtracted: {words(node)}",
            ast.BinOp(left, ast.Mult(), right),
        )
        for inner, outer, where in ((left, right, "left"), (right, left, "right")):
            if isinstance(inner, ast.BinOp) and isinstance(inner.op, PRODUCTS):
                parts = (inner.left, outer) if where == "left" else (outer, inner.left)
                all_of_it = ast.BinOp(ast.BinOp(parts[0], op, parts[1]), inner.op, inner.right)
                yield "brackets", f"A factor weighs too much: the one with {words(inner.right)}", all_of_it
        if minus:
            yield "operation", f"Divided where it should be subtracted: {words(node)}", ast.BinOp(left, ast.Div(), right)
    elif isinstance(op, PRODUCTS):
        divided = isinstance(op, ast.Div)
        if isinstance(left, ast.BinOp) and isinstance(left.op, SUMS):
            second = ast.BinOp(left.left, left.op, ast.BinOp(left.right, op, right))
            yield "brackets", f"Brackets are missing: {words(left)}", second
            first = ast.BinOp(ast.BinOp(left.left, op, right), left.op, left.right)
            yield "brackets", f"A factor belongs to both terms and weighs one: the one with {words(right)}", first
        what = "A division is missing: the one by" if divided else "A factor is missing: the one with"
        yield "factor", f"{what} {words(right)}", left
        if not divided:
            yield "factor", f"A factor is missing: the one with {words(left)}", right
        yield "factor", f"{'Multiplied with' if divided else 'Divided by'} {words(right)}, and it should not be", ast.BinOp(
            left, ast.Mult() if divided else ast.Div(), right
        )  # fmt: skip
        yield "operation", f"Added where it should be multiplied: {words(node)}", ast.BinOp(left, ast.Add(), right)
        if divided:
            yield "operation", f"A fraction is upside down: {words(node)}", ast.BinOp(right, op, left)
        else:
            twice = ast.BinOp(node, ast.Mult(), right)
            yield "factor", f"A factor is there once too often: the one with {words(right)}", twice
            again = ast.BinOp(node, ast.Mult(), left)
            yield "factor", f"A factor is there once too often: the one with {words(left)}", again
    elif isinstance(op, ast.Pow):
        yield "power", f"The power is missing: {words(left)}", left
        yield "power", f"An absolute value for a power: {words(left)}", _call("abs", left)
        yield "power", f"A power is another one: {words(left)}", ast.BinOp(left, op, ast.Constant(3))
        if words.library == "th":
            huber_loss = ast.parse("th.nn.functional.huber_loss", mode="eval").body
            errors: list[ast.expr] = [left, ast.BinOp(left, ast.Mult(), ast.Constant(0))]
            huber = ast.Call(huber_loss, errors, [ast.keyword("reduction", ast.Constant("none"))])
            yield "power", f"A Huber (smooth L1) loss for a square: {words(left)}", huber
    elif isinstance(op, ast.FloorDiv):
        for function, how in (("round", "to the nearest"), ("ceil", "up")):
            rounded = ast.Call(
                ast.Attribute(ast.Name("np", ast.Load()), function, ast.Load()), [ast.BinOp(left, ast.Div(), right)], []
            )
            yield "bound", f"A quotient is rounded {how}, not down: {words(left)}", _call("int", rounded)
    elif isinstance(op, BITS):
        yield "condition", f"A condition is missing: the one on {words(right)}", left
        yield "condition", f"A condition is missing: the one on {words(left)}", right
        other_op = ast.BitOr() if isinstance(op, ast.BitAnd) else ast.BitAnd()
        yield "condition", f"“both” and “one of the two” are exchanged: {words(node)}", ast.BinOp(left, other_op, right)


def _signs(node: Any, words: _Words) -> Iterator[Change]:
    """Leave out a minus, a not."""
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        family, what = ("sign", "A sign is wrong, that") if isinstance(node.op, ast.USub) else ("condition", "The opposite")
        yield family, f"{what} of what is made of {words(node)}", node.operand


def _functions(node: Any, words: _Words) -> Iterator[Change]:
    """Leave out a function or take another, another axis, other bounds."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    # `x.exp()`, or `th.exp(x)`
    method = isinstance(node.func, ast.Attribute) and not (
        isinstance(node.func.value, ast.Name) and node.func.value.id in _MODULES
    )
    inner = node.func.value if method and isinstance(node.func, ast.Attribute) else node.args[0] if node.args else None
    if inner is None:
        return
    if name in DROPPED:
        yield DROPPED[name], f"`{name}` is missing: {words(inner)}", inner
    if name in ("mean", "sum"):
        yield (
            "power",
            f"Squared before the `{name}`: {words(inner)}",
            _around(node, inner, ast.BinOp(inner, ast.Pow(), ast.Constant(2))),
        )
        yield "function", f"An absolute value before the `{name}`: {words(inner)}", _around(node, inner, _call("abs", inner))
        for argument in words.arguments:
            weighed = ast.BinOp(inner, ast.Mult(), ast.Name(argument, ast.Load()))
            yield "factor", f"Weighed with `{argument}` before the `{name}`", _around(node, inner, weighed)
            exponential = ast.Call(ast.Attribute(ast.Name(words.library, ast.Load()), "exp", ast.Load()), [weighed.right], [])
            title = f"Weighed with the exponential of `{argument}` before the `{name}`"
            yield "factor", title, _around(node, inner, ast.BinOp(inner, ast.Mult(), exponential))
    if name in ("var", "std") and not any(one.arg in ("ddof", "correction") for one in node.keywords):
        called = copy.copy(node)
        called.keywords = [*node.keywords, ast.keyword("correction" if words.library == "th" else "ddof", ast.Constant(
            0 if words.library == "th" else 1))]  # fmt: skip
        yield "number", f"In the `{name}` of {words(inner)} n and n − 1 are exchanged", called
    for other in EXCHANGED.get(name, ()):
        called = copy.copy(node)
        called.func = copy.copy(node.func)
        setattr(called.func, "attr" if isinstance(node.func, ast.Attribute) else "id", other)
        if other in ("expm1", "log2", "log10", "log1p", "log", "sigmoid", "softmax"):
            called.func = ast.Attribute(inner, other, ast.Load()) if method else called.func
        yield "function", f"`{other}` where `{name}` belongs: {words(inner)}", called
    for index, keyword in enumerate(node.keywords):
        if keyword.arg in AXES and not isinstance(keyword.value, ast.Constant | ast.UnaryOp):
            continue
        if keyword.arg in AXES:
            for axis in (0, 1, None):
                called = copy.copy(node)
                called.keywords = [
                    *node.keywords[:index],
                    ast.keyword(keyword.arg, ast.Constant(axis)),
                    *node.keywords[index + 1 :],
                ]
                where = "everything" if axis is None else "the wrong axis"
                yield "axis", f"`{name}` goes over {where}: {words(inner)}", called
    if name in ("clamp", "clip") and len(node.args) + method == 3:
        for place, which in ((-2, "lower"), (-1, "upper")):
            called = copy.copy(node)
            called.args = list(node.args)
            called.args[place] = ast.Constant(None)
            yield "bound", f"The {which} bound is missing: {words(inner)}", called
    if name == "where" and len(node.args) == 3:
        yes, no = node.args[1:]
        yield "condition", f"A case distinction is the wrong way round: {words(node.args[0])}", _call_like(node, no, yes)
        yield "condition", f"A case distinction is missing: {words(node.args[0])}", yes
        yield "condition", f"A case distinction is missing: {words(node.args[0])}", no
    if name in ("min", "max", "minimum", "maximum") and len(node.args) == 2:
        means: list[ast.expr] = [ast.Call(ast.Attribute(one, "mean", ast.Load()), [], []) for one in node.args]
        yield "order", f"The mean is taken before the `{name}`: {words(node)}", ast.Call(node.func, means, [])
    if name == "reversed":
        yield "order", "The loop runs the other way through time", node.args[0]


def _comparisons(node: Any, words: _Words) -> Iterator[Change]:
    """Turn comparisons round, leave out cases."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        for other in COMPARED[type(node.ops[0])]:
            title = f"A comparison is not the right one: {words(node)}"
            yield "comparison", title, ast.Compare(node.left, [other()], node.comparators)
        for by, where in ((0.5, "low"), (0.6, "low"), (0.8, "low"), (1.25, "high"), (1.6, "high"), (2.0, "high")):
            moved = ast.BinOp(node.comparators[0], ast.Mult(), ast.Constant(by))
            title = f"A threshold is too {where}: the one on {words(node)}"
            yield "comparison", title, ast.Compare(node.left, node.ops, [moved])
    elif isinstance(node, ast.BoolOp):
        for index, value in enumerate(node.values):
            rest = [*node.values[:index], *node.values[index + 1 :]]
            title = f"A condition is missing: the one on {words(value)}"
            yield "condition", title, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        exchanged = ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield "condition", f"“both” and “one of the two” are exchanged: {words(node)}", exchanged
    elif isinstance(node, ast.IfExp):
        for branch in (node.body, node.orelse):
            yield "condition", f"A case distinction is missing: {words(node.test)}", branch
        exchanged_branches = ast.IfExp(node.test, node.orelse, node.body)
        yield "condition", f"A case distinction is the wrong way round: {words(node.test)}", exchanged_branches
    elif isinstance(node, ast.If):
        for always in (False, True):
            chosen = ast.If(ast.Constant(always), node.body, node.orelse)
            yield "condition", f"A case distinction is missing: {words(node.test)}", chosen


def _numbers(node: Any, words: _Words) -> Iterator[Change]:
    """Take other numbers."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value: Any = node.value
        # A slice or an index takes whole numbers only.
        for other in dict.fromkeys((value * 2, value / 2, value + 1, value - 1, -value)):
            if other != value:
                new = int(other) if isinstance(value, int) and float(other).is_integer() else other
                yield "number", f"A number is not right: {new:g} stands where another belongs", ast.Constant(new)


def _indices(node: Any, words: _Words) -> Iterator[Change]:
    """Take the neighbour in time, another end, another order."""
    if not isinstance(node, ast.Subscript):
        return
    value, index = node.value, node.slice
    if isinstance(index, ast.Name):
        for step, when in ((1, "late"), (-1, "early")):
            moved = ast.BinOp(index, ast.Add(), ast.Constant(step))
            yield "step", f"One step too {when}: {words(value)}", ast.Subscript(value, moved, node.ctx)
    elif isinstance(index, ast.Slice):
        if index.lower is not None and index.upper is None:
            other = ast.Slice(None, ast.UnaryOp(ast.USub(), index.lower))
            yield "step", f"One step too early: {words(value)}", ast.Subscript(value, other, node.ctx)
        for lower, upper in ((None, index.upper), (index.lower, None)):
            yield "step", f"A range begins or ends at the wrong place: {words(value)}", ast.Subscript(
                value, ast.Slice(lower, upper), node.ctx
            )  # fmt: skip


def _statements(node: Any, words: _Words) -> Iterator[Change]:
    """Leave out a step that changes something which is there already."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        if name in words.arguments or any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(node.value)):
            yield "statement", f"A step is missing: the one that changes `{name}`", ast.Pass()
        if not isinstance(node.value, ast.Constant | ast.Tuple | ast.Compare):
            for family, title, function in (
                ("bound", "is held at 0 from below", "clip"),
                ("reduction", "is averaged too early", "mean"),
            ):
                arguments: list[ast.expr] = [ast.Constant(0), ast.Constant(None)] if function == "clip" else []
                called = ast.Call(ast.Attribute(node.value, function, ast.Load()), arguments, [])
                yield family, f"Something {title}: what is made of {words(node.value)}", ast.Assign(node.targets, called)


def _other_arguments(node: ast.Name, place: tuple[ast.AST, str, int | None], arguments: dict[str, Any]) -> Iterator[Edit]:
    """Take another argument of the same kind, or leave a number out."""
    mine = arguments[node.id]
    for name, value in arguments.items():
        if name != node.id and type(value) is type(mine) and getattr(value, "shape", None) == getattr(mine, "shape", None):
            yield Edit("argument", f"`{name}` stands where `{node.id}` belongs", place, ast.Name(name, ast.Load()))
        elif np.shape(value)[1:] == np.shape(mine) and np.ndim(value):
            for index, which in ((-1, "last"), (0, "first")):
                entry = ast.Subscript(ast.Name(name, ast.Load()), ast.Constant(index), ast.Load())
                yield Edit("argument", f"The {which} of `{name}` stands where `{node.id}` belongs", place, entry)
        if name != node.id and isinstance(mine, int | float) and isinstance(value, int | float):
            product = ast.BinOp(node, ast.Mult(), ast.Name(name, ast.Load()))
            yield Edit("factor", f"`{name}` is a factor too many, beside `{node.id}`", place, product)
    if isinstance(mine, int | float):
        for number in (1.0, 0.0):
            yield Edit("argument", f"`{node.id}` is missing in one place", place, ast.Constant(number))


def _names(node: Any, words: _Words) -> Iterator[Change]:
    """Cut the graph, or take a function of what should be taken as it is."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in {*words.arguments, *words.made_of}:
        if words.library == "th":
            detached = ast.Call(ast.Attribute(node, "detach", ast.Load()), [], [])
            yield "gradient", f"It is detached, and should not be: {words(node)}", detached
        for op, done in ((ast.Mult(), "doubled"), (ast.Div(), "halved")):
            yield "number", f"It is {done} in one place: {words(node)}", ast.BinOp(node, op, ast.Constant(2))
        for function in ("tanh", "exp", "log", "sqrt", "abs") if node.id in words.arguments else ():
            called = ast.Call(ast.Attribute(ast.Name(words.library, ast.Load()), function, ast.Load()), [node], [])
            yield "function", f"`{function}` of {words(node)} where it is taken as it is", called


def _minus(node: ast.expr) -> ast.expr:
    """Negate."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return ast.BinOp(node.right, ast.Sub(), node.left)
    return ast.UnaryOp(ast.USub(), node)


def _call(name: str, node: ast.expr) -> ast.expr:
    """Call a function of Python's own."""
    return ast.Call(ast.Name(name, ast.Load()), [node], [])


def _around(node: ast.Call, inner: ast.expr, changed: ast.expr) -> ast.expr:
    """Make the same call of something else: `x.mean()`, or `th.mean(x)`."""
    if node.args and node.args[0] is inner:
        return ast.Call(node.func, [changed, *node.args[1:]], node.keywords)
    assert isinstance(node.func, ast.Attribute)
    return ast.Call(ast.Attribute(changed, node.func.attr, ast.Load()), node.args, node.keywords)


def _call_like(node: ast.Call, *last: ast.expr) -> ast.Call:
    """Make the same call with other last arguments."""
    return ast.Call(node.func, [*node.args[: -len(last)], *last], node.keywords)


_MODULES = ("np", "th", "F", "math")
_RULES: tuple[Rule, ...] = (_arithmetic, _signs, _functions, _comparisons, _numbers, _indices, _statements, _names)
_FAMILIES = (
    "sign", "term", "factor", "brackets", "argument", "function", "reduction", "axis", "bound", "power", "step", "order",
    "condition", "comparison", "operation", "gradient", "number", "statement",
)  # fmt: skip
