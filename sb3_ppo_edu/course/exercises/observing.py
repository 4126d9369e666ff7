"""
What an answer does, as plain numbers: values, gradients, shapes, errors, and whether it keeps its hands off its inputs.

This module runs what a student wrote; it judges nothing. It knows only numpy and torch, so that a grader can run it in a
process that does not hold the package, and take the observations from there as JSON.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch as th

Answer = Callable[..., Any]

WORST_LENGTH = 100_000
"""Numbers that an answer may return; the exercises ask for hundreds."""


@dataclass(frozen=True)
class Case:
    """
    Inputs to try an answer on.

    :param name: what is special about them, such as "an episode ends in the middle"
    :param arguments: tensors, arrays and numbers, in the order of the signature
    :param differentiable: names of the tensors with respect to which gradients are looked at
    :param beyond: lessons, by their numbers, whose text asks for no such input
    """

    name: str
    arguments: dict[str, Any]
    differentiable: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observation:
    """
    What an answer did with one case.

    :param case: name of the case
    :param kind: type of what it returned
    :param shape: shape of that, or None if it is not made of numbers
    :param values: its numbers, flat
    :param gradients: for each differentiable input the gradient of a fixed weighted sum of the result, flat; zeros where none
        flows
    :param changed: inputs that the answer changed in place
    :param repeatable: whether a second call gave the same numbers
    :param error: type of the exception that it raised, or empty
    :param message: the exception's message
    :param line: line of the answer that raised it, or None
    """

    case: str
    kind: str = ""
    shape: tuple[int, ...] | None = None
    values: list[float] = field(default_factory=list)
    gradients: dict[str, list[float]] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    repeatable: bool = True
    error: str = ""
    message: str = ""
    line: str | None = None

    def to_json(self) -> dict[str, Any]:
        """
        Turn into what JSON knows.

        :return: a dictionary of plain values
        """
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Observation:
        """
        Take an observation from a process that is not trusted: every field is converted, none is believed.

        :param found: what was parsed
        :raises ValueError: if it is none
        """
        try:
            return cls(
                case=str(found["case"])[:200],
                kind=str(found["kind"])[:100],
                shape=None if found["shape"] is None else tuple(int(size) for size in found["shape"]),
                values=[float(value) for value in found["values"][:WORST_LENGTH]],
                gradients={str(name): [float(value) for value in found["gradients"][name]] for name in found["gradients"]},
                changed=tuple(str(name)[:100] for name in found["changed"][:20]),
                repeatable=found["repeatable"] is True,
                error=str(found["error"])[:200],
                message=str(found["message"])[:2000],
                line=None if found["line"] is None else str(found["line"])[:500],
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no observation: {error!r}") from error


def observe(answer: Answer, cases: Sequence[Case]) -> list[Observation]:
    """
    Run an answer on all cases, then once more in the reverse order: it may depend on its arguments and nothing else.

    :param answer: what the student wrote
    :param cases: the inputs
    :return: one observation for each case
    """
    first = [observe_once(answer, case) for case in cases]
    again = [observe_once(answer, case) for case in reversed(cases)][::-1]
    return [
        one if _same_numbers(one.values, other.values) and one.shape == other.shape else _not_repeatable(one)
        for one, other in zip(first, again, strict=True)
    ]


def observe_once(answer: Answer, case: Case) -> Observation:
    """
    Run an answer on one case.

    :param answer: what the student wrote
    :param case: the inputs
    :return: what it did
    """
    given = {name: _copy(value) for name, value in case.arguments.items()}
    for name in case.differentiable:
        given[name].requires_grad_(True)
    # What is left of the caller's mode, such as no_grad, is none of the answer's business.
    with th.enable_grad():
        try:
            result = answer(*given.values())
        except Exception as error:
            return _raised(case, error)
        changed = tuple(name for name, value in case.arguments.items() if not _same(value, given[name]))
        kind = type(result).__name__
        try:
            numbers = to_numbers(result)
        except (TypeError, ValueError, RuntimeError):
            return Observation(case.name, kind, changed=changed)
        try:
            gradients = _gradients(result, {name: given[name] for name in case.differentiable})
        except RuntimeError as error:  # such as of a number that was changed in place before its gradient was asked for
            return replace(_raised(case, error), changed=changed)
    return Observation(case.name, kind, numbers.shape, numbers.ravel().tolist(), gradients, changed)


def to_numbers(result: Any) -> np.ndarray:
    """
    Read numbers from whatever an answer may reasonably return: tensor, array, number, or a list of these.

    :param result: what it returned
    :return: float64 array
    :raises TypeError: if it is something else
    :raises ValueError: if a list's parts do not fit together
    """
    if isinstance(result, th.Tensor):
        numbers = result.detach().cpu().numpy().astype(np.float64)
    elif isinstance(result, list | tuple):
        numbers = np.array([to_numbers(part) for part in result], dtype=np.float64)
    elif isinstance(result, np.ndarray | np.number | float | int):
        numbers = np.asarray(result, dtype=np.float64)
    else:
        raise TypeError(f"{type(result).__name__} is not made of numbers")
    if numbers.size > WORST_LENGTH:
        raise ValueError(f"{numbers.size} numbers")
    return numbers


def case_to_json(case: Case) -> dict[str, Any]:
    """
    Write a case as what JSON knows.

    :return: a dictionary of plain values
    """
    return {
        "name": case.name,
        "differentiable": list(case.differentiable),
        "arguments": [[name, _argument_to_json(value)] for name, value in case.arguments.items()],
    }


def case_from_json(found: dict[str, Any]) -> Case:
    """Read what :func:`case_to_json` wrote."""
    arguments = {name: _argument_from_json(value) for name, value in found["arguments"]}
    return Case(found["name"], arguments, tuple(found["differentiable"]))


def _argument_to_json(value: Any) -> dict[str, Any]:
    """Write one argument."""
    if isinstance(value, th.Tensor):
        return {"kind": "tensor", "dtype": str(value.dtype).removeprefix("torch."), "numbers": value.tolist()}
    if isinstance(value, np.ndarray):
        return {"kind": "array", "dtype": str(value.dtype), "numbers": value.tolist()}
    return {"kind": "number", "numbers": value}


def _argument_from_json(found: dict[str, Any]) -> Any:
    """Read one argument."""
    if found["kind"] == "tensor":
        return th.tensor(found["numbers"], dtype=getattr(th, found["dtype"]))
    if found["kind"] == "array":
        return np.array(found["numbers"], dtype=found["dtype"])
    return found["numbers"]


def _raised(case: Case, error: Exception) -> Observation:
    """Describe an exception by the last line of the answer's own code that it passed."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename and frame.line]
    line = f"line {own[-1].lineno}: {own[-1].line}" if own else None
    return Observation(case.name, error=type(error).__name__, message=str(error), line=line)


def _not_repeatable(one: Observation) -> Observation:
    """Mark an observation whose numbers a second call did not give again."""
    return Observation(**{**asdict(one), "shape": one.shape, "changed": one.changed, "repeatable": False})


def _gradients(result: Any, inputs: dict[str, th.Tensor]) -> dict[str, list[float]]:
    """Differentiate a weighted sum of the result; the weights differ, so that no two elements can be taken for each other."""
    flows = isinstance(result, th.Tensor) and result.requires_grad
    if not inputs or not flows:
        return {name: [0.0] * tensor.numel() for name, tensor in inputs.items()}
    weights = th.linspace(1.0, 2.0, max(result.numel(), 2), dtype=result.dtype)[: result.numel()].reshape(result.shape)
    gradients = th.autograd.grad((result * weights).sum(), list(inputs.values()), allow_unused=True)
    return {
        name: [0.0] * tensor.numel() if gradient is None else gradient.double().flatten().tolist()
        for (name, tensor), gradient in zip(inputs.items(), gradients, strict=True)
    }


def _copy(value: Any) -> Any:
    """Copy an argument, so that each call has its own."""
    if isinstance(value, th.Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(before: Any, after: Any) -> bool:
    """Tell whether an argument is as it was."""
    if isinstance(before, th.Tensor):
        return before.shape == after.shape and bool(((before == after) | ((before != before) & (after != after))).all())
    return bool(np.array_equal(before, after, equal_nan=True)) if isinstance(before, np.ndarray) else True


def _same_numbers(first: Sequence[float], second: Sequence[float]) -> bool:
    """Tell whether two calls gave the same numbers to within the noise of threads."""
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=1e-5, atol=1e-7, equal_nan=True))
