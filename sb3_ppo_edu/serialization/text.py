"""Text for people: what would command a terminal is shown, not obeyed; long values are cut; near names are found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str) -> str:
    r"""
    Show control characters as escapes, so that a terminal does not obey them.

    :param text: such as a message with names from a stranger's file
    :return: the same, with ``\x1b`` and the like spelled out; line ends and tabs stay
    """
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)


LONGEST_SENTENCE = 2000
"""Characters that an error has, whatever the values are that it names."""


def sentence(text: str) -> str:
    """
    Put what is said about values, which may be a file's, into one line, and leave out the middle where they are long.

    :param text: a message
    :return: the message in one line
    """
    line = " ".join(text.split())
    half = LONGEST_SENTENCE // 2
    return line if len(line) <= LONGEST_SENTENCE else f"{line[:half]} … {line[-half:]}"


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """
    Look for the name that was probably meant; case does not count.

    :param name: what was found
    :param legal: the legal names
    :return: a parenthesis with the nearest of them, or nothing if none is near
    """
    spelling = {candidate.lower(): candidate for candidate in legal}
    near = difflib.get_close_matches(name.lower(), list(spelling), n=1)
    return f" (did you mean {spelling[near[0]]!r}?)" if near else ""
