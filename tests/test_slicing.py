"""Slicing: from a notebook the part that one function needs."""

from __future__ import annotations

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
