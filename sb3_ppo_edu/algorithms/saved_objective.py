"""An objective as a file names it: the path of its class, and the numbers that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_ppo_edu.algorithms.arguments import ArgumentError
from sb3_ppo_edu.functional.kl import KLPenaltyObjective
from sb3_ppo_edu.functional.objectives import Objective, PPOObjective
from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.serialization.errors import DamagedFileError
from sb3_ppo_edu.serialization.names import import_named

FIRST_FORM = ("policy_loss", "value_loss", "entropy_loss", "weights", "__call__")
"""Methods of which an objective's value is made; ``gradients`` is the second form."""


def resolve_objective(objective: Any) -> Objective:
    """
    Make an objective of what ``EduPPO(objective=…)`` is given.

    :param objective: an instance, a class, the dotted path of a class, ``{path: {argument: value}}``, or None for PPO's own
    :return: the instance
    :raises ArgumentError: if it is none of these
    """
    if objective is None:
        return PPOObjective()
    arguments: dict[str, Any] | None = None
    if isinstance(objective, Mapping):
        ((objective, arguments),) = objective.items()
    found = named_class(objective) if isinstance(objective, str) else objective
    if isinstance(found, type) and issubclass(found, Objective):
        try:
            found = found(**(arguments or {}))
        except (TypeError, ValueError) as error:
            instance = f"{found.__name__}(…), or as text {{path: {{argument: value}}}}"
            given, remedy = (
                ("without arguments", f": expected some: {instance}") if not arguments else (f"with {shown(arguments)}", "")
            )
            raise ArgumentError(f"objective={found.__name__}: it can't be made {given} ({error}){remedy}") from error
    if isinstance(found, Objective):
        _check_forms(found)
        check_state(found)
        return found
    raise ArgumentError(f"objective={shown(objective)}: expected an Objective, its class, or the dotted path of its class")


def check_state(objective: Objective) -> None:
    """
    Check what a penalty holds, which may have been set since it was made.

    :param objective: any
    :raises ArgumentError: for a wrong value, naming it
    """
    if isinstance(objective, KLPenaltyObjective):
        try:
            objective.check()
        except ValueError as error:
            raise ArgumentError(f"objective={type(objective).__name__}: {error}") from error


def _check_forms(objective: Objective) -> None:
    """Refuse an objective with derivatives of its own beside PPO's losses: autograd would train with those."""
    kind = type(objective)
    same_losses = all(getattr(kind, name) is getattr(Objective, name) for name in FIRST_FORM)
    if same_losses and ("gradients" in vars(objective) or kind.gradients not in (Objective.gradients, PPOObjective.gradients)):
        raise ArgumentError(
            f"objective={kind.__name__}: found the derivatives (gradients) replaced and no loss, expected both forms of an "
            f"objective to say the same: replace {', '.join(FIRST_FORM[:-1])} or __call__ too. From them the derivatives "
            "follow by themselves, so that gradients can be left out"
        )


def named_class(path: str) -> Any:
    """
    Import a class by its dotted path.

    :param path: such as ``package.module.Class``
    :return: the class
    :raises ArgumentError: if there is nothing of that name
    """
    try:
        return import_named(path)
    except ValueError as error:
        raise ArgumentError(f"objective={error}") from error


def describe_objective(objective: Objective) -> dict[str, Any] | None:
    """
    Name an objective for a file.

    :param objective: the objective
    :return: its class's path and its attributes, slots included; None for PPO's own
    :raises ArgumentError: if an attribute would not come back as it is, naming it
    """
    state = objective.__reduce_ex__(2)[2]  # as copy and pickle take it: with slots there are two parts
    attributes = {**vars(objective), **(state[1] if isinstance(state, tuple) else {})}
    if type(objective) is PPOObjective and not attributes:
        return None
    path = f"{type(objective).__module__}.{type(objective).__qualname__}"
    for name, value in attributes.items():
        if obstacle := _why_not_saved(name, value):
            raise ArgumentError(
                f"objective={path}: its attributes can't be saved: {obstacle}: expected Python's own numbers and text, and "
                "lists and dicts of them with text as keys"
            )
    return {"path": path, "attributes": attributes}


def _why_not_saved(name: str, value: Any) -> str | None:
    """Find the first part of an attribute that JSON would lose, or give back as another type."""
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return f"{name} has the key {key!r}"
    if type(value) in (list, dict):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return next(filter(None, (_why_not_saved(f"{name}[{key!r}]", part) for key, part in parts)), None)
    return None if value is None or type(value) in (bool, int, float, str) else f"{name} is a {type(value).__name__}"


def restore_objective(description: dict[str, Any] | None) -> Objective:
    """
    Make the objective that a file names.

    :param description: as :func:`describe_objective` gave it
    :return: the objective
    :raises ArgumentError: if its class can't be imported
    :raises DamagedFileError: if it holds what no penalty can
    """
    if description is None:
        return PPOObjective()
    try:
        found = named_class(description["path"])
    except ArgumentError as error:
        raise ArgumentError(f"{error}; the saved model has it: give the class to load(…, objective=…)") from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ArgumentError(f"objective={description['path']!r}: expected the class of an Objective, found {found!r}")
    objective = found.__new__(found)
    for name, value in description["attributes"].items():
        object.__setattr__(objective, name, value)
    try:
        check_state(objective)
    except ArgumentError as error:
        raise DamagedFileError(f"attribute {error}") from error
    return objective
