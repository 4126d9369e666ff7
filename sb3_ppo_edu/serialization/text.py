"""Text from files is text: what would command a terminal is shown, not obeyed."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""
    Show control characters as escapes, so that a terminal does not obey them.

    :param text: such as a message with names from a stranger's file
    :return: the same, with ``\x1b`` and the like spelled out; line ends and tabs stay
    """
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)
