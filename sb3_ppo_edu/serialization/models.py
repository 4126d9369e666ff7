"""
Stable-Baselines3's ``model.zip`` from someone else: checked as a whole before a model is built of it.

Nothing of the file is run, and no network is built that is larger than the weights in it.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_ppo_edu.functional.objectives import Objective
from sb3_ppo_edu.serialization.archive import bad_member, read_archive, read_file
from sb3_ppo_edu.serialization.constructors import is_method
from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, UntrustedFileError, how_to_trust, reason
from sb3_ppo_edu.serialization.names import check_named, import_named
from sb3_ppo_edu.serialization.sizes import check_sizes
from sb3_ppo_edu.serialization.spaces import check_space
from sb3_ppo_edu.serialization.unpickler import read_pickle

_REQUIRED_MEMBERS = ("data", "policy.pth", "policy.optimizer.pth")
_TENSOR_MEMBERS = (*_REQUIRED_MEMBERS[1:], "pytorch_variables.pth")

_REQUIRED_ATTRIBUTES = frozenset(
    {
        "policy_class",
        "policy_kwargs",
        "observation_space",
        "action_space",
        "learning_rate",
        "n_steps",
        "batch_size",
        "n_epochs",
        "gamma",
        "gae_lambda",
        "clip_range",
        "clip_range_vf",
        "ent_coef",
        "vf_coef",
        "max_grad_norm",
        "n_envs",
        "use_sde",
        "num_timesteps",
        "seed",
        "verbose",
    }
)
"""What every PPO's file has, and no other algorithm's."""

NOT_SAVED = frozenset(
    {
        "policy",
        "device",
        "env",
        "rollout_buffer",
        "replay_buffer",
        "logger",
        "_vec_normalize_env",
        "_episode_storage",
        "_logger",
        "_custom_logger",
        "_engine",
        "_engines",
        "_session",
        "_learning",
        "_saved_statistics",
        "session",
        "objective",
        "changes_to_check",
    }
)
"""What no file of Stable-Baselines3 has, because it is built anew."""

_SERIALIZED = ":serialized:"

OLD_SCHEDULES = {"learning_rate": 3e-4, "lr_schedule": 3e-4, "clip_range": 0.2, "clip_range_vf": None}
"""What Stable-Baselines3 1.x saves as functions, even where it is constant, and what stands for it: PPO's defaults."""


class OldScheduleWarning(UserWarning):
    """A model of Stable-Baselines3 1.x is read without its schedules, which are code."""


@dataclass(frozen=True)
class CheckedModel:
    """
    A model's file that is safe to give to ``load``.

    :param file: its content
    :param attributes: every attribute in it; given as ``custom_objects``, nothing is left to unpickle
    """

    file: io.BytesIO
    attributes: dict[str, Any]


def check_model(
    path: Any, algorithm: type, custom_objects: Mapping[str, Any] | None = None, given: Collection[str] = ()
) -> CheckedModel:
    """
    Read a model's file without running anything of it.

    :param path: the file, or its name with or without ``.zip``, as Stable-Baselines3 takes it
    :param algorithm: class that it is to become
    :param custom_objects: attributes that replace what the file has, which is then not looked at
    :param given: arguments that the model gets anew, for whose old values nobody asks
    :return: the model, checked
    :raises FileNotFoundError: if there is no such file
    :raises DamagedFileError: if it is damaged or no PPO's
    :raises UntrustedFileError: if it wants anything that is not on the list
    """
    where = f"model {path}" if isinstance(path, (str, Path)) else "model"
    content = read_file(path, where)
    members = read_archive(content, where, compressed=True)
    missing = [name for name in _REQUIRED_MEMBERS if name not in members]
    if missing:
        raise DamagedFileError(
            f"{where}: found no {' and no '.join(missing)} in it; expected a model as EduPPO or Stable-Baselines3's PPO saves "
            f"it: {ANOTHER_COPY}"
        )
    for name in members:
        if name.endswith(".pth"):
            _check_tensors(members[name], name, where)
    replaced = dict(custom_objects or {})
    if members.get("_stable_baselines3_version", b"2")[:2] in (b"0.", b"1."):
        replaced = _old_schedules(members["data"], where, {*replaced, *given}) | replaced
    replaced.setdefault("tensorboard_log", None)  # no file says where to write
    attributes = _read_attributes(members["data"], where, algorithm, replaced)
    for key in {"observation_space", "action_space"} - replaced.keys():
        check_space(attributes[key], f"{where}, attribute {key!r}")
    check_sizes(attributes, len(members["policy.pth"]), where)
    return CheckedModel(io.BytesIO(content), attributes)


def _old_schedules(text: bytes, where: str, given: Collection[str]) -> dict[str, Any]:
    """Give what stands for the functions of an old file, and say so: who only acts with the model misses nothing."""
    record = _read_json(text, where)
    code = [key for key in OLD_SCHEDULES if "function" in str(_type_of(record.get(key)))]
    told = ", ".join(f"{key}={OLD_SCHEDULES[key]}" for key in code if key not in {"lr_schedule", *given})
    if told:
        warnings.warn(
            f"{where}: saved by Stable-Baselines3 1.x, whose schedules are code and are not read: found functions, took "
            f"{told}; to train on, give those it had, as arguments of load",
            OldScheduleWarning,
            stacklevel=5,
        )
    return {key: OLD_SCHEDULES[key] for key in code}


def _type_of(value: Any) -> Any:
    """Give the type that a file names for a pickled attribute; None for a plain one."""
    return value.get(":type:") if isinstance(value, dict) else None


def _check_tensors(content: bytes, name: str, where: str) -> None:
    """Check that a member is an archive of torch's present format, none of which is compressed."""
    if name not in _TENSOR_MEMBERS:
        raise bad_member(where, f"the member {name!r}", f"tensors in {', '.join(_TENSOR_MEMBERS)}")
    read_archive(content, f"{where}, {name}")


def _read_json(text: bytes, where: str) -> dict[str, Any]:
    """Read the JSON of a model's attributes."""
    try:
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{where}, data: found broken JSON ({reason(error)}); expected a model's attributes: {ANOTHER_COPY}"
        ) from error
    return record


def _read_attributes(text: bytes, where: str, algorithm: type, custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """Read the attributes of a model from their JSON and the pickles in it."""
    record = _read_json(text, where)
    missing = sorted(_REQUIRED_ATTRIBUTES - record.keys())
    if missing:
        raise DamagedFileError(
            f"{where}, data: found no {', '.join(missing)}; expected a model of EduPPO or Stable-Baselines3's PPO: "
            "load it with the algorithm that has saved it"
        )
    odd = sorted(key for key in record if is_method(algorithm, key) or key in NOT_SAVED)
    if odd:
        raise UntrustedFileError(
            f"{where}, data: found an attribute {odd[0]!r}, which would replace a part of {algorithm.__name__}; expected only "
            f"attributes that model.save() writes: {how_to_trust()}"
        )
    check_objective(record.get("saved_objective"), f"{where}, data")
    return {key: _read_attribute(key, value, where) for key, value in record.items() if key not in custom_objects} | {
        **custom_objects
    }


def check_objective(description: Any, where: str) -> None:
    """
    Check that an objective that a file names is one of ours, and its attributes are numbers and text.

    :param description: as the file has it, or None
    :param where: the file, for the message
    :raises UntrustedFileError: if it is anything else
    """
    if description is None:
        return
    path = str(description.get("path") if isinstance(description, dict) else None)
    check_named(path, (Objective,), where, "the objective")
    attributes = description.get("attributes")
    if not isinstance(attributes, dict) or any(is_method(import_named(path), key) for key in attributes):
        raise UntrustedFileError(f"{where}: found an objective with attributes that replace a part of it: {how_to_trust()}")


def _read_attribute(key: str, value: Any, where: str) -> Any:
    """Read one attribute, plain or pickled."""
    if not isinstance(value, dict) or _SERIALIZED not in value:
        return value
    where = f"{where}, attribute {key!r}"
    try:
        content = base64.b64decode(value[_SERIALIZED], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DamagedFileError(f"{where}: found broken base64 ({reason(error)}); expected a pickle: {ANOTHER_COPY}") from error
    return read_pickle(content, where, remedy=how_to_trust(key))


@contextmanager
def describing_failure(path: Any) -> Iterator[None]:
    """
    Say which file it was whose content does not make a model: types and sizes are checked only by building it.

    :param path: the file
    :raises DamagedFileError: with the reason
    """
    where = f"model {path}" if isinstance(path, (str, Path)) else "model"
    try:
        yield
    except pickle.UnpicklingError as error:  # torch's message is twenty lines, and advises to read it without this check
        raise DamagedFileError(
            f"{where}: found more than tensors among its weights, expected only these: {ANOTHER_COPY}"
        ) from error
    except Exception as error:
        raise DamagedFileError(
            f"{where}: no model can be built from it ({reason(error)}); expected one as EduPPO or Stable-Baselines3's PPO "
            f"saves it, and an environment with the same spaces: {ANOTHER_COPY}"
        ) from error
