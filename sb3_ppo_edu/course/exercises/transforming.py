"""What can be done to an argument before, or to a result after, the right thing is computed: the families of detours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_edu.course.exercises.observing import Answer

Transform = Callable[[Any], Any]


def _lib(x: Any) -> Any:
    """Choose the library that an array or a tensor belongs to."""
    return th if isinstance(x, th.Tensor) else np


def _shifted(x: Any, by: int) -> Any:
    """Move along the first axis, and put 0 where nothing comes from."""
    moved = _lib(x).roll(x, by, 0)
    moved = moved.clone() if isinstance(x, th.Tensor) else moved.copy()
    moved[0 if by > 0 else -1] = 0
    return moved


def _sorted(x: Any) -> Any:
    """Put in order along the last axis."""
    return x.sort(-1).values if isinstance(x, th.Tensor) else np.sort(x)


def _scaled(x: Any) -> Any:
    """Give mean 0 and standard deviation 1."""
    return (x - x.mean()) / (x.std() + 1e-8)


def _softmax(x: Any) -> Any:
    """Make probabilities of logits."""
    exponentials = _lib(x).exp(x - x.max())
    return exponentials / exponentials.sum(-1)[..., None] if x.ndim else x


WITH: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("multiplied by", lambda x, y: x * y),
    ("divided by", lambda x, y: x / y),
    ("multiplied by 1 minus", lambda x, y: x * (1 - y)),
    ("made larger by", lambda x, y: x + y),
    ("made smaller by", lambda x, y: x - y),
)
"""With a result and an argument: what was done, how."""

BOTH: tuple[tuple[str, str, Transform], ...] = (
    ("sign", "negated", lambda x: -x),
    ("function", "exponentiated", lambda x: _lib(x).exp(x)),
    ("function", "replaced by its logarithm", lambda x: _lib(x).log(x)),
    ("function", "replaced by its logarithm to base 2", lambda x: _lib(x).log2(x)),
    ("function", "replaced by its logarithm to base 10", lambda x: _lib(x).log10(x)),
    ("function", "put through tanh", lambda x: _lib(x).tanh(x)),
    ("function", "replaced by its absolute value", abs),
    ("power", "squared", lambda x: x**2),
    ("power", "replaced by its square root", lambda x: _lib(x).sqrt(x)),
    ("power", "inverted (1/x)", lambda x: 1 / x),
    ("complement", "replaced by 1 minus it", lambda x: 1 - x),
    ("number", "doubled", lambda x: 2 * x),
    ("number", "halved", lambda x: x / 2),
    ("number", "made larger by 1", lambda x: x + 1),
    ("number", "made smaller by 1", lambda x: x - 1),
)
"""For numbers, arrays and tensors: family, what was done, how."""

ARRAYS: tuple[tuple[str, str, Transform], ...] = (
    ("order", "turned round in time", lambda x: _lib(x).flip(x, (0,))),
    ("order", "sorted", _sorted),
    ("order", "replaced by its first entry in every place", lambda x: 0 * x + x[:1]),
    ("order", "replaced by its last entry in every place", lambda x: 0 * x + x[-1:]),
    ("step", "shifted one step later", lambda x: _shifted(x, 1)),
    ("step", "shifted one step earlier", lambda x: _shifted(x, -1)),
    ("step", "rolled on by one step", lambda x: _lib(x).roll(x, 1, 0)),
    ("step", "rolled back by one step", lambda x: _lib(x).roll(x, -1, 0)),
    ("normalised", "normalised (mean 0, standard deviation 1)", _scaled),
    ("normalised", "reduced by its mean", lambda x: x - x.mean()),
    ("normalised", "reduced by its mean over the first axis", lambda x: x - x.mean(0)),
    ("normalised", "divided by its standard deviation", lambda x: x / x.std()),
    ("normalised", "divided by its mean", lambda x: x / x.mean()),
    ("normalised", "divided by its sum", lambda x: x / x.sum()),
    ("normalised", "divided by its largest absolute value", lambda x: x / abs(x).max()),
    ("normalised", "put through a softmax", _softmax),
    ("reduction", "replaced by its mean", lambda x: x * 0 + x.mean()),
    ("reduction", "replaced by its sum", lambda x: x * 0 + x.sum()),
    ("reduction", "added up step by step (cumsum)", lambda x: _lib(x).cumsum(x, 0)),
    ("bound", "clipped to 0 from below", lambda x: x.clip(0, None)),
    ("bound", "clipped to 0 from above", lambda x: x.clip(None, 0)),
    ("bound", "clipped to [0, 1]", lambda x: x.clip(0, 1)),
    ("bound", "clipped to [−1, 1]", lambda x: x.clip(-1, 1)),
    ("number", "rounded", lambda x: x.round()),
    ("condition", "replaced by its sign", lambda x: _lib(x).sign(x)),
    ("condition", "replaced by whether it is above 0", lambda x: (x > 0) * 1.0),
    ("gradient", "detached", lambda x: x.detach()),
)
"""For arrays and tensors."""

SHAPES: tuple[tuple[str, str, Transform], ...] = (
    ("reduction", "averaged", lambda x: x.mean()),
    ("reduction", "added up", lambda x: x.sum()),
    ("axis", "averaged over the last axis", lambda x: x.mean(-1)),
    ("axis", "added up over the last axis", lambda x: x.sum(-1)),
    ("axis", "averaged over the first axis", lambda x: x.mean(0)),
    ("axis", "added up over the first axis", lambda x: x.sum(0)),
    ("reduction", "reduced to its largest", lambda x: x.max()),
    ("reduction", "reduced to its smallest", lambda x: x.min()),
    ("shape", "transposed", lambda x: x.T if x.ndim == 2 else x),
    ("shape", "given one axis more (at the end)", lambda x: x[..., None]),
    ("shape", "given one axis more (at the beginning)", lambda x: x[None]),
    ("shape", "flattened", lambda x: x.reshape(-1)),
    ("shape", "cut to its first entry", lambda x: x[0]),
    ("shape", "cut to its last entry", lambda x: x[-1]),
    ("step", "cut by its last entry", lambda x: x[:-1]),
    ("step", "cut by its first entry", lambda x: x[1:]),
)
"""For results, whose shape is changed."""


def before(arguments: dict[str, Any]) -> Iterator[tuple[str, str, Callable[[Answer], Answer]]]:
    """
    List what can be done to the arguments of an exercise.

    :param arguments: of one of its cases
    :return: family, title, and what makes an answer that does it first
    """
    names = list(arguments)
    for index, (name, value) in enumerate(arguments.items()):
        if getattr(value, "dtype", None) == th.bool:
            yield "condition", f"`{name}` is read the wrong way round", _first(index, lambda x: ~x)
            continue
        known = BOTH if isinstance(value, int | float) else (*BOTH, *ARRAYS)
        for family, what, change in known:
            yield family, f"`{name}` is {what} first", _first(index, change)
        for other in range(index + 1, len(names)):
            partner = arguments[names[other]]
            if type(partner) is type(value) and getattr(partner, "shape", ()) == getattr(value, "shape", ()):
                yield "argument", f"`{name}` and `{names[other]}` are exchanged", _exchanged(index, other)
    batch = [index for index, value in enumerate(arguments.values()) if np.ndim(value)]
    for what, part in (("last", slice(-1, None)), ("first", slice(0, 1))):
        yield "reduction", f"Only the {what} of the batch counts", _cut(batch, part)
    for index, name in enumerate(arguments):
        for what, join in WITH:
            yield "factor", f"the result is {what} `{name}`", _with(index, join)
    sizes = [(index, name) for index, (name, value) in enumerate(arguments.items()) if getattr(value, "ndim", 0)]
    for index, name in sizes[:1]:
        yield "number", f"the result is multiplied by the number of `{name}`", _by_length(index, 1)
        yield "number", f"the result is divided by the number of `{name}`", _by_length(index, -1)
        yield "number", f"it divides by n − 1 instead of n, or the like (n: number of `{name}`)", _by_freedom(index, 1)
        yield "number", f"it divides by n instead of n − 1, or the like (n: number of `{name}`)", _by_freedom(index, -1)


def after(number: bool) -> Iterator[tuple[str, str, Callable[[Answer], Answer]]]:
    """
    List what can be done to a result.

    :param number: whether it is a single number
    :return: family, title, and what makes an answer that does it at the end
    """
    for family, what, change in BOTH if number else (*BOTH, *ARRAYS, *SHAPES):
        if what != "detached":
            yield family, f"the result is {what}", _last(change)
    for family, what, change in SHAPES if number else ():
        if family == "shape":
            yield family, f"the result is {what}", _last(change)
    if number:
        yield "bound", "the result is clipped to 0 from below", _last(lambda x: x.clip(0, None))
        yield "bound", "the result is clipped to [0, 1]", _last(lambda x: x.clip(0, 1))
        yield "number", "the result is rounded", _last(lambda x: x.round())


def _first(index: int, change: Transform) -> Callable[[Answer], Answer]:
    """Change an argument, then compute."""
    return lambda answer: lambda *given: answer(*given[:index], change(given[index]), *given[index + 1 :])


def _last(change: Transform) -> Callable[[Answer], Answer]:
    """Compute, then change the result."""
    return lambda answer: lambda *given: change(_array(answer(*given)))


def _with(index: int, change: Callable[[Any, Any], Any]) -> Callable[[Answer], Answer]:
    """Compute, then join the result with an argument."""
    return lambda answer: lambda *given: change(_array(answer(*given)), given[index])


def _exchanged(one: int, other: int) -> Callable[[Answer], Answer]:
    """Exchange two arguments, then compute."""

    def make(answer: Answer) -> Answer:
        def call(*given: Any) -> Any:
            mixed = list(given)
            mixed[one], mixed[other] = mixed[other], mixed[one]
            return answer(*mixed)

        return call

    return make


def _cut(batch: list[int], part: slice) -> Callable[[Answer], Answer]:
    """Keep a part of each array's first axis, then compute."""
    return lambda answer: lambda *given: answer(*(one[part] if index in batch else one for index, one in enumerate(given)))


def _by_length(index: int, power: int) -> Callable[[Answer], Answer]:
    """Compute, then multiply by a length or divide by it."""
    return lambda answer: lambda *given: _array(answer(*given)) * float(len(given[index])) ** power


def _by_freedom(index: int, power: int) -> Callable[[Answer], Answer]:
    """Compute, then exchange n for n − 1 in the denominator, or the other way round."""

    def scale(x: Any) -> float:
        n = float(np.prod(x.shape))
        return float((n / (n - 1) if n > 1 else np.inf) ** power)

    return lambda answer: lambda *given: _array(answer(*given)) * scale(given[index])


def _array(result: Any) -> Any:
    """Make an array of a list or a number."""
    return result if isinstance(result, th.Tensor) else np.asarray(result, dtype=float)
