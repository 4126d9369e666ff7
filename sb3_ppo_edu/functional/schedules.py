r"""
Schedules as text: how a learning rate, a clip range or a coefficient changes while a model learns.

The text is the same in Python, in YAML and on the command line. With x the share of the training that is done, from 0 to 1:

=====================================  =======================================================================================
text                                   value
=====================================  =======================================================================================
``lin_3e-4``                           a line from 3e-4 to 0: :math:`a + x (b - a)`
``lin_3e-4_1e-5``                      a line from a = 3e-4 to b = 1e-5
``cos_3e-4``, ``cos_3e-4_1e-5``        half a cosine from a to b, 0 unless it is given: :math:`b + (a - b) (1 + \cos\pi x) / 2`
``exp_3e-4_1e-5``                      the same factor in equal times: :math:`a (b/a)^x`, both > 0
``piecewise_3e-4_0.5_1e-4_0.8_1e-5``   3e-4, from x = 0.5 on 1e-4, from x = 0.8 on 1e-5
``warmup_0.05_cos_3e-4``               a line from 0 to 3e-4 for the first 5%, then the other schedule over what is left
``warmup_0.05_3e-4``                   the same, then 3e-4 for good
=====================================  =======================================================================================

The learning rate may follow the KL divergence instead (``kl_0.01``), see :mod:`~sb3_ppo_edu.functional.kl`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from sb3_ppo_edu.functional.values import shown


def line(x: float, start: float, end: float = 0.0) -> float:
    """A line from one value to the other: :math:`a + x (b - a)`."""
    return start + x * (end - start)


def cosine(x: float, start: float, end: float = 0.0) -> float:
    r"""Half a cosine: :math:`b + (a - b) (1 + \cos\pi x) / 2`, Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983."""
    return end + (start - end) * (1 + math.cos(math.pi * x)) / 2


def exponential(x: float, start: float, end: float) -> float:
    """The same factor in equal times: :math:`a (b/a)^x`."""
    return start * math.pow(end / start, x)


def piecewise(x: float, first: float, *later: float) -> float:
    """Constant pieces: a value, then the share of the training at which each next one begins, and that value."""
    values = (first, *(value for begin, value in zip(later[::2], later[1::2], strict=True) if x >= begin))
    return values[-1]


def constant(x: float, value: float) -> float:
    """What there is after a warm-up without another schedule."""
    return value


WARMUP, KL, CONSTANT = "warmup", "kl", ""
MOST_PIECES = 1000
"""Values of a piecewise schedule: its text is read whenever it is asked."""
KL_START = 3e-4
"""Learning rate that one that follows the KL begins with, unless it is given: SB3's default."""

SHAPES: dict[str, Callable[..., float]] = {
    "lin": line,
    "cos": cosine,
    "exp": exponential,
    "piecewise": piecewise,
    CONSTANT: constant,
}
FORMS = {
    "lin": "lin_START or lin_START_END",
    "cos": "cos_START or cos_START_END",
    "exp": "exp_START_END with both > 0",
    "piecewise": f"piecewise_VALUE_SHARE_VALUE… with shares that rise between 0 and 1, and {MOST_PIECES:,} values at most",
    WARMUP: "warmup_SHARE_ before another schedule or a number, with a share ≥ 0 and < 1",
    KL: "kl_TARGET, kl_TARGET_START or kl_TARGET_START_LOW_HIGH with all > 0",
}
"""How each kind of text is written; the first word says which it is."""


class Words(NamedTuple):
    """
    A schedule's text, taken apart.

    :param warmup: share of the training that the warm-up takes, in [0, 1); 0 for none, whether the text has it or not
    :param shape: key of :data:`SHAPES`, or "kl"
    :param numbers: that the text gives it
    """

    warmup: float
    shape: str
    numbers: tuple[float, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers that are values, the first one first; those of a piecewise schedule alternate with shares."""
        return self.numbers[::2] if self.shape == "piecewise" else self.numbers

    @property
    def start(self) -> float:
        """The value to begin with, after a warm-up."""
        return self.numbers[0] if self.shape != KL else self.numbers[1] if len(self.numbers) > 1 else KL_START


def read(text: str) -> Words:
    """
    Take a schedule's text apart.

    :param text: as the module describes it
    :return: its parts
    :raises ValueError: if it is none; the message is what to write instead, in parentheses, where that can be told
    """
    shape, *words = text.split("_")
    warmup, numbers, alone = 0.0, tuple[float, ...](), shape == CONSTANT
    try:
        if shape == WARMUP and 0 <= float(words[0]) < 1:
            warmup = float(words[0])
            is_constant = len(words) == 2 and words[1] not in FORMS
            shape, words = (CONSTANT, words[1:]) if is_constant else (words[1], words[2:])
        numbers = tuple(map(float, words))
    except (ValueError, IndexError):
        pass
    if alone or not _fit(shape, numbers):
        raise ValueError(_instead(text, shape or WARMUP * (not alone)))
    return Words(warmup, shape, numbers)


def _fit(shape: str, numbers: tuple[float, ...]) -> bool:
    """Tell whether a shape takes these numbers."""
    n = len(numbers)
    if not n or not all(map(math.isfinite, numbers)):
        return False
    match shape:
        case "lin" | "cos":
            return n <= 2
        case "exp":
            return n == 2 and min(numbers) > 0
        case "piecewise":
            shares = (0.0, *numbers[1::2], 1.0)
            return n % 2 == 1 and 1 < n <= 2 * MOST_PIECES and all(one < following for one, following in pairwise(shares))
        case "kl":
            return n in (1, 2, 4) and min(numbers) > 0
    return shape == CONSTANT and n == 1


def _instead(text: str, word: str) -> str:
    """Say what was probably meant: the nearest text that can be read, or how one of this kind is written."""
    if word in FORMS:
        return f" ({FORMS[word]})"
    if word == text or word.lower().startswith("const"):
        with suppress(ValueError):
            return f" (a constant is a number, not text: {float(text.rpartition('_')[2]):g})"
    near = difflib.get_close_matches(word.lower(), FORMS, n=1, cutoff=0.4)
    if not near:
        return f" (such text begins with {', '.join(f'{one}_' for one in FORMS)})"
    meant = text.replace(word, near[0], 1)
    try:
        read(meant)
    except ValueError:
        return f" (did you mean {FORMS[near[0]]}?)"
    return f" (did you mean {shown(meant)}?)"


def beginning_at(text: str, start: float) -> str:
    """
    Let a schedule begin at another value.

    :param text: as the module describes it
    :param start: the value; of a rate that follows the KL within its bounds
    :return: the text with that value in the place of its first; of a rate that follows the KL behind the target
    """
    words = text.split("_")
    at = 2 * (words[0] == WARMUP)
    at += 2 if words[at] == KL else words[at] in SHAPES
    words[at : at + 1] = [f"{start:g}"]
    return "_".join(words)


@dataclass(frozen=True)
class TextSchedule:
    """
    A function of the remaining progress that is written as text. It can be pickled, and holds nothing but the text.

    :param text: as the module describes it
    :raises ValueError: if it can't be read, or follows the KL
    """

    text: str

    def __post_init__(self) -> None:
        """Read it once, so that a wrong one is refused where it is given."""
        if read(self.text).shape == KL:
            raise ValueError(" (what follows the KL is a learning rate)")

    def __call__(self, progress_remaining: float) -> float:
        """
        Evaluate the schedule.

        :param progress_remaining: 1 at the start, 0 at the end, or less: the last rollout may go beyond it
        :return: the value
        """
        done = min(max(1.0 - progress_remaining, 0.0), 1.0)
        warmup, shape, numbers = read(self.text)
        value = SHAPES[shape]
        if done < warmup:
            return done / warmup * value(0.0, *numbers)
        return value((done - warmup) / (1.0 - warmup), *numbers)
