"""Libraries that an extra of this package brings, imported by their names where they are needed: all else works without."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """A library is not installed; the message says what needs it, and which extra brings it."""


def need(module: str, extra: str, purpose: str) -> Any:
    """
    Import a library that an extra brings.

    :param module: dotted name
    :param extra: the package's extra
    :param purpose: what needs it
    :return: the module
    :raises MissingExtraError: if it is missing
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise MissingExtraError(
            f"{purpose} needs {library}, which is not installed; the extra brings it: pip install 'sb3-ppo-edu[{extra}]'"
        ) from error
