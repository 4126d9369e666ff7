"""What models offer and rooms above the algorithm do: the one place where an import may go up."""

from __future__ import annotations

import importlib
from typing import Any

SERVICES = {
    "resume": "sb3_ppo_edu.checkpoint.resume:resume",
}
"""Name of the method, and the function behind it."""


def service(name: str) -> Any:
    """
    Find the function behind a method.

    :param name: of the method
    :return: the function
    """
    module, _, function = SERVICES[name].partition(":")
    return getattr(importlib.import_module(module), function)
