"""Slicing: from a notebook the part that one function needs."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from sb3_ppo_edu.course import slicing


def test_slice_holds_what_a_function_needs_and_no_more() -> None:
    """Helpers of helpers, constants and imports come along; training, printing and other functions stay behind."""
    cells = ["import math\nimport os", "A = 1", "def helper():\n    return math.pi * A", "print('training')", "B = train()"]
    module = slicing.slice_for("wanted", slicing.statements([*cells, "def wanted():\n    return helper()"]))
    assert module is not None
    names = [sorted(slicing.names_defined(statement)) for statement in module.body]
    assert names == [["annotations"], ["math"], ["A"], ["helper"], ["wanted"]]
    assert slicing.slice_for("missing", slicing.statements(cells)) is None

    # Its own variables are not those of the notebook that happen to have the same names.
    local = "def wanted(A):\n    B = [math for math in A]\n    return B, os"
    module = slicing.slice_for("wanted", slicing.statements([*cells, local]))
    assert module is not None
    assert [sorted(slicing.names_defined(statement)) for statement in module.body] == [["annotations"], ["os"], ["wanted"]]


HONEST = {
    "if": "if True:\n    FACTOR = 2\n    def wanted(x):\n        return FACTOR * x",
    "main": "if __name__ == '__main__':\n    def wanted(x):\n        return 2 * x",
    "try": "try:\n    import numpy as n\nexcept ImportError:\n    n = None\ndef wanted(x):\n    return n.multiply(2, x)",
    "with": "import contextlib\nwith contextlib.nullcontext(2) as FACTOR:\n    def wanted(x):\n        return FACTOR * x",
    "star": "from math import *\ndef wanted(x):\n    return round(exp(log(2))) * x",
    "loop": "for factor in [1, 2]:\n    FACTOR = factor\n    train(factor)\ndef wanted(x):\n    return FACTOR * x",
    "while": "n = 0\nwhile True:\n    n += 1\n    print(n)\n    if n == 2:\n        break\ndef wanted(x):\n    return n * x",
    "list": "FACTORS = []\nfor k in range(3):\n    FACTORS.append(k)\ndef wanted(x):\n    return FACTORS[-1] * x",
    "table": "FACTORS = {}\nfor k in range(3):\n    FACTORS[k] = k\n    1 / 0\ndef wanted(x):\n    return FACTORS[2] * x",
    "question mark": "def wanted(x):\n    return 2 * x\nwanted?",
    "two question marks": "wanted??\ndef wanted(x):\n    return 2 * x",
    "magics": "%%time\n%load_ext nothing\nhere = %pwd\nfiles = !ls\n%time FACTOR = 2\ndef wanted(x):\n    return FACTOR * x",
    "indented magic": "if True:\n    %matplotlib inline\n    !ls\ndef wanted(x):\n    return 2 * x",
    "percent in a text": 'def wanted(x):\n    """Double.\n\n%d and\n! and what?\n    """\n    return 2 * x',
    "later change": "FACTOR = 1\nFACTOR += 1\ndef wanted(x):\n    return FACTOR * x",
}


@pytest.mark.parametrize("what", sorted(HONEST))
def test_honest_notebooks_keep_their_functions(what: str) -> None:
    """Definitions in blocks, star imports, constants of loops and IPython's lines are what they are in a notebook."""
    module = slicing.slice_for("wanted", slicing.statements(["def train(*a):\n    1 / 0", HONEST[what]]))
    assert module is not None
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(module, "<slice>", "exec"), namespace)
    assert namespace["wanted"](21) == 42


def test_what_a_function_does_not_need_is_left_out_of_blocks_too() -> None:
    """A loop that trains keeps the line with the constant and loses the training."""
    cell = "for step in range(9):\n    model.learn(step)\n    with open('log') as log:\n        print(step)\n    LAST = step"
    module = slicing.slice_for("wanted", slicing.statements([cell, "def wanted():\n    return LAST"]))
    assert module is not None
    assert ast.unparse(module.body[1]) == "for step in range(9):\n    LAST = step"


def test_what_is_deleted_is_gone_and_an_editors_mark_is_none() -> None:
    """A function that is deleted after its definition is not there; a byte order mark is no syntax error."""
    module = slicing.slice_for("f", slicing.statements(["\ufeffdef f():\n    return 1", "g = 2", "del f, g"]))
    assert module is not None
    namespace: dict[str, object] = {}
    exec(compile(module, "cells", "exec"), namespace)
    assert "f" not in namespace
    assert slicing.slice_for("f", slicing.statements(["\ufeffdef f():\n    return 1"])) is not None
