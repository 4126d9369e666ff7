"""Libraries that only some experiments need."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str, purpose: str) -> Any:
    """
    Import a library that an extra brings.

    :param module: dotted name
    :param extra: the package's extra
    :param purpose: what needs it
    :return: the module
    :raises ImportError: if it is missing, naming the extra
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {library}, which is not installed; the extra brings it: pip install 'sb3-ppo-edu[{extra}]'"
        ) from error
