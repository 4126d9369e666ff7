"""Text from files is text: what would command a terminal is shown, not obeyed."""

from __future__ import annotations


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
