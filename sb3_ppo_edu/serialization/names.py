"""The one gate for names in files: settings, saved objectives and command lines name classes and functions by dotted names."""

from __future__ import annotations

import importlib
from typing import Any


def import_named(name: str) -> Any:
    """
    Import an object by its dotted name.

    Importing a module runs it: from untrusted files take only names that were checked before.

    :param name: such as ``"stable_baselines3.common.callbacks.CheckpointCallback"``
    :return: the object
    :raises ValueError: if there is no such object
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r}: expected the dotted name of something that can be imported ({error})") from error
