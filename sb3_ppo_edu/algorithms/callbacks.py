"""What the algorithm has to know of callbacks: what is inside of them, what they read, and what they may change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)

OUTSIDE = frozenset(("parent", "model", "logger", "locals", "globals", "training_env", "verbose"))
"""Attributes of callbacks that belong to the training and not to them."""

HARMLESS = (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
"""Callbacks of SB3 that leave the policy alone, if those inside of them do."""

SILENT = (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
"""Callbacks of SB3 that never look at a step's local variables, if those inside of them don't."""


def callbacks_of(callback: Any) -> Iterator[BaseCallback]:
    """
    List a callback and those inside it, in an order that depends on how they were put together only.

    :param callback: the outermost; or a list, a function or None, as ``learn`` is given them
    :return: callbacks, each once
    """
    yield from _below(callback, set())


def _below(callback: Any, seen: set[int]) -> Iterator[BaseCallback]:
    """Those of :func:`callbacks_of` that have not been seen: callbacks may know each other."""
    if isinstance(callback, list):
        for one in callback:
            yield from _below(one, seen)
    if not isinstance(callback, BaseCallback) or id(callback) in seen:
        return
    seen.add(id(callback))
    yield callback
    for name, value in vars(callback).items():
        if name not in OUTSIDE:
            yield from _below(value, seen)


def reads_every_step(callback: BaseCallback) -> bool:
    """
    Tell whether a callback, or one inside of it, may look at the local variables of every step.

    To collect them costs time, and without them a rollout may have the lean loop.

    :param callback: the outermost callback
    :return: False for none at all, for SB3's own that don't, and for those that say ``reads_every_step = False``
    """
    return any(not is_silent(one) for one in callbacks_of(callback))


def is_silent(callback: BaseCallback) -> bool:
    """Tell whether a callback, without those inside of it, never looks at a step's local variables."""
    if is_patched(callback):
        return False
    if type(callback) is ConvertCallback:
        # Without a callback SB3 puts an empty one in its place, whose local variables nobody can see.
        return callback.callback is None
    silent = type(callback) in SILENT or evaluates_with_masks(callback)
    return silent or not getattr(callback, "reads_every_step", True)


def may_change_policy(callback: BaseCallback) -> bool:
    """
    Tell whether a callback may change the policy at any step, so that it has to be looked at after each.

    :param callback: the outermost callback
    :return: False for SB3's own, and for those that say ``changes_policy = False``, if the same holds for all inside of them
    """
    return any(not is_harmless(one) for one in callbacks_of(callback))


def is_patched(callback: BaseCallback) -> bool:
    """Tell whether what a callback does at a step has been replaced in the instance."""
    return "_on_step" in vars(callback) or "on_step" in vars(callback)


def is_harmless(callback: BaseCallback) -> bool:
    """Tell whether a callback, without those inside of it, leaves the policy alone."""
    if is_patched(callback):
        return False
    if type(callback) is ConvertCallback:
        # LogEveryNTimesteps has one around a method of its own.
        return callback.callback is None or type(getattr(callback.callback, "__self__", None)) is LogEveryNTimesteps
    harmless = type(callback) in HARMLESS or evaluates_with_masks(callback)
    return harmless or not getattr(callback, "changes_policy", True)


def evaluates_with_masks(callback: BaseCallback) -> bool:
    """
    Tell whether a callback is sb3-contrib's ``MaskableEvalCallback``, as harmless as SB3's; nothing is imported for it.

    :param callback: without those inside of it
    """
    module = sys.modules.get("sb3_contrib.common.maskable.callbacks")
    return module is not None and type(callback) is module.MaskableEvalCallback


def tell_training_failed(callback: BaseCallback, error: BaseException) -> None:
    """
    Tell callbacks that want to know it that training ends with an exception: those with ``on_training_failed``.

    :param callback: the outermost callback
    :param error: the exception, which stays the one that is raised: what a callback raises here is chained to it
    """
    for one in callbacks_of(callback):
        if hasattr(one, "on_training_failed"):
            try:
                one.on_training_failed(error)
            except Exception as second:
                if second is not error:
                    _chain(error, second)


def _chain(error: BaseException, second: BaseException) -> None:
    """Put an exception behind the last of those that a traceback shows before another."""
    second.__context__, seen = None, {id(second)}
    while (before := error.__cause__ or error.__context__) is not None and id(before) not in seen:
        seen.add(id(error))
        error = before
    error.__context__ = second
