"""The errors of reading files that others made, and what all their messages say in the same words."""

from __future__ import annotations

ANOTHER_COPY = "take another copy of the file"
"""What to do about a damaged file."""

LONGEST_REASON = 500
"""Characters of what a library says about a file."""


class DamagedFileError(ValueError):
    """A file is not what it should be: cut off, changed, of another kind or version. The message says what and where."""


class UntrustedFileError(ValueError):
    """A file wants something that is not known to be harmless. The message names it and says how to load it knowingly."""


def reason(error: BaseException) -> str:
    """
    Say what an exception says, on one line: a library may name every tensor of a file.

    :param error: the exception
    :return: its message, or its name where it has none
    """
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]} …"


def how_to_trust(attribute: str | None = None) -> str:
    """
    Say how to load what is refused.

    :param attribute: of a model, which ``custom_objects`` may replace
    :return: the last part of a message
    """
    replaced = "" if attribute is None else f", or replace it with custom_objects={{{attribute!r}: ...}}"
    return f"if you trust whoever made the file, load it with trusted=True (on the command line --trust){replaced}"
