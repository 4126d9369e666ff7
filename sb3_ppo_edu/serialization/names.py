"""
The one gate for names in files: settings, saved objectives and command lines name classes and functions by dotted names.

To import a module is to run it, and to build what is named is to call it. :func:`import_named` does both for whom the user
trusts; :func:`check_named` stands before it wherever a file may be a stranger's.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.serialization.errors import UntrustedFileError

HARMLESS_MODULES = (
    "gymnasium.wrappers",
    "rl_zoo3.callbacks",
    "rl_zoo3.wrappers",
    "sb3_contrib.common.maskable",
    "sb3_contrib.common.recurrent",
    "sb3_contrib.common.wrappers",
    "sb3_ppo_edu",
    "stable_baselines3.common.atari_wrappers",
    "stable_baselines3.common.buffers",
    "stable_baselines3.common.callbacks",
    "stable_baselines3.common.monitor",
    "stable_baselines3.common.policies",
    "stable_baselines3.common.vec_env",
)
"""Modules, with those in them, whose classes a stranger's file may name: what they do is known to be harmless."""

WRITE_OR_IMPORT = frozenset(
    ("best_model_save_path", "filename", "folder", "log_path", "name_prefix", "page", "save_path", "video_folder")
)
"""Arguments of those classes that say where to write or what to import: no stranger's file may give them."""

SIZES = frozenset(("delay", "height", "n_stack", "screen_size", "shape", "stack_size", "width"))
MOST = 1000
"""Arguments of those classes that say how much memory they take, and the most that a stranger's file may give them."""

HOW_TO_TRUST = "if you trust whoever made it, add --trust (in Python trusted=True)"
"""The last part of a refusal."""


def import_named(name: str) -> Any:
    """
    Import an object by its dotted name.

    Importing a module runs it: from untrusted files take only names that :func:`check_named` has let pass.

    :param name: such as ``"stable_baselines3.common.callbacks.CheckpointCallback"``
    :return: the object
    :raises ValueError: if there is no such object
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r}: expected the dotted name of something that can be imported ({error})") from error


def check_named(name: str, kinds: tuple[type, ...], where: str, what: str, arguments: Mapping[str, Any] | None = None) -> None:
    """
    Check that what a file names is a class known to be harmless, and is told neither where to write nor what to import.

    :param name: dotted name; nothing is imported unless its module is known
    :param kinds: classes of which it must be one
    :param where: the file, for the message
    :param what: such as ``"wrapper"``, for the message
    :param arguments: that it is to be built with
    :raises ValueError: if there is no such class
    :raises UntrustedFileError: if it is anything else
    """
    module = name.rpartition(".")[0]
    # Importing a private module or __main__ may do anything.
    known = "._" not in name and any(module == one or module.startswith(f"{one}.") for one in HARMLESS_MODULES)
    try:
        found = import_named(name) if known else None
    except ValueError as error:
        raise ValueError(f"{where}: {what} {error}") from error
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise UntrustedFileError(
            f"{where}: found {what} {name[:200]!r}, which may run any program; expected one of "
            f"{', '.join(dict.fromkeys(one.partition('.')[0] for one in HARMLESS_MODULES))} that is known to be harmless: "
            f"{HOW_TO_TRUST}"
        )
    needed = sorted(WRITE_OR_IMPORT.intersection(needed_arguments(found)))
    if needed:
        raise UntrustedFileError(
            f"{where}: found {what} {name}, which has to be told {needed[0]}, where to write or what to import; "
            f"expected none: {HOW_TO_TRUST}"
        )
    told = sorted(str(key) for key, value in (arguments or {}).items() if key in WRITE_OR_IMPORT and value is not None)
    if told:
        raise UntrustedFileError(
            f"{where}: found {what} {name} with {told[0]}={str((arguments or {})[told[0]])[:200]!r}, which says where to "
            f"write or what to import; expected it without: {HOW_TO_TRUST}"
        )
    for key in SIZES.intersection(arguments or ()):
        value = (arguments or {})[key]
        if any(isinstance(one, int | float) and not one <= MOST for one in (value if isinstance(value, list) else [value])):
            raise UntrustedFileError(
                f"{where}: found {what} {name} with {key}={shown(value)}, expected at most {MOST}: {HOW_TO_TRUST}"
            )


KNOWN_CODE = {*(name.partition(".")[0] for name in HARMLESS_MODULES), "numpy", "torch", *sys.stdlib_module_names}
"""Packages that do with a value what they are told."""


def only_known_code(error: BaseException) -> bool:
    """
    Tell whether an exception came through known code only, so that a value from a file is its cause.

    :param error: as it was caught
    :return: False if there is code of a user's own among what was called
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return all(str(frame.f_globals.get("__name__")).partition(".")[0] in KNOWN_CODE for frame in frames)


def needed_arguments(cls: type) -> list[str]:
    """
    Name the arguments without which a class is not built.

    :param cls: the class
    :return: names of those that have no default
    """
    return [one.name for one in inspect.signature(cls).parameters.values() if one.default is inspect.Parameter.empty]


def check_environment_id(env_id: Any, where: str) -> None:
    """
    Check that an environment's id, as a file has it, imports no module.

    :param env_id: as the file has it
    :param where: the file, for the message
    :raises UntrustedFileError: for ``module:id``, and for ids that import the module that another argument names
    """
    if not isinstance(env_id, str) or ":" in env_id or env_id.startswith(("GymV21", "GymV26")):
        raise UntrustedFileError(
            f"{where}: found the environment {str(env_id)[:200]!r}, which imports a module; expected a registered id: "
            f"{HOW_TO_TRUST}"
        )


def check_engine_kwargs(kwargs: Any, where: str) -> None:
    """
    Check that an engine's options, as a file has them, do not call a compiler, which writes where it likes.

    :param kwargs: as the file has them
    :param where: the file, for the message
    :raises UntrustedFileError: for ``compile``
    """
    if "compile" in (kwargs or ()) and (not isinstance(kwargs, Mapping) or kwargs["compile"]):
        raise UntrustedFileError(
            f"{where}: found engine_kwargs={str(kwargs)[:200]}, which runs a compiler and writes outside of "
            f"the run's folder; expected none that compile: {HOW_TO_TRUST}"
        )
