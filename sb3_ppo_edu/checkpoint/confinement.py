"""The state of a training that a stranger may have written: nothing in it says where to write or what to import."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from sb3_ppo_edu.checkpoint.files import CheckpointError
from sb3_ppo_edu.checkpoint.logs import LOG_FILES
from sb3_ppo_edu.checkpoint.snapshot import MODEL_SKIP
from sb3_ppo_edu.serialization.constructors import is_method
from sb3_ppo_edu.serialization.models import NOT_SAVED, check_objective
from sb3_ppo_edu.serialization.names import HOW_TO_TRUST

FORM: dict[str, type] = {
    **dict.fromkeys(("model", "parameters", "noise", "rollout", "env", "logger", "random"), dict),
    **dict.fromkeys(("iteration", "rollout_steps", "elapsed"), int),
    "callbacks": list,
}
"""What every state has, and of which type. SB3 takes parameters that are no dictionary for the name of a file."""

OF_THE_POLICY = frozenset(
    (
        *("policy_kwargs", "use_sde", "action_distribution"),
        *("shared_net_arch", "layer_norm", "critic_keys", "recurrent_cell"),
    )
)
"""What policies are built from: the checkpoint's model has it, compared with the weights before anything is built."""


MOST_OUTPUTS = 10
"""Of a logger; SB3 knows five kinds, of which TensorBoard's starts a thread."""


def confined(state: dict[str, Any], algorithm: type, where: str) -> dict[str, Any]:
    """
    Check what a checkpoint's state names, and leave out what only its own training had to know.

    Text among the attributes of callbacks, environments and their layers is a setting, such as a path: the resumed training's
    own settings have it.

    :param state: as :func:`sb3_ppo_edu.checkpoint.snapshot.capture` gave it, or anybody else
    :param algorithm: class of the model that it becomes the state of
    :param where: the file, for messages
    :return: the state to go on with
    :raises CheckpointError: if it has not the form of a state, or names a log file that is none in the run's folder
    :raises UntrustedFileError: if it names an objective that is not ours
    """
    odd = [name for name, kind in FORM.items() if not isinstance(state.get(name), kind)]
    if odd:
        raise CheckpointError(f"{where}: found no state of a training: {odd[0]} is {type(state.get(odd[0])).__name__}")
    try:
        check_objective(state.get("objective"), where)
        outputs = state["logger"]["outputs"]
        if len(outputs) > MOST_OUTPUTS:
            raise CheckpointError(f"{where}: found {len(outputs)} outputs of a logger, expected at most {MOST_OUTPUTS}")
        for output in outputs:
            check_log_files(output, where)
        skip = MODEL_SKIP | NOT_SAVED | OF_THE_POLICY
        model = {name: one for name, one in state["model"].items() if name not in skip and not is_method(algorithm, name)}
        return {
            **state,
            "model": model,
            "env": without_text(state["env"]),
            "callbacks": [
                {**one, "attributes": _not_text(one["attributes"]), "envs": _each(one["envs"], without_text)}
                for one in state["callbacks"]
            ],
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ValueError) and type(error) is not ValueError:
            raise
        raise CheckpointError(
            f"{where}: found no state of a training ({error!r}); expected one as this package saves it"
        ) from error


def check_log_files(output: dict[str, Any], where: str) -> None:
    """
    Check that the files of a logger's output are log files by their plain names.

    :param output: as :func:`sb3_ppo_edu.checkpoint.logs.capture_output` gave it, or anybody else
    :param where: the file, for the message
    :raises CheckpointError: naming the first that is none
    """
    for name in output["files"]:
        plain = isinstance(name, str) and PurePath(name).name == name and "\\" not in name
        if not plain or output["kind"] not in LOG_FILES or not PurePath(name).match(LOG_FILES[output["kind"]]):
            raise CheckpointError(
                f"{where}: found the log file {name!r} of kind {str(output['kind'])[:50]!r}; expected a name such as "
                f"{', '.join(LOG_FILES.values())}, in the run's folder: {HOW_TO_TRUST}"
            )


def without_text(state: dict[str, Any]) -> dict[str, Any]:
    """
    Leave the text out of the attributes of a vector environment.

    :param state: as :func:`sb3_ppo_edu.checkpoint.environments.capture_vec_env` gave it
    :return: the same without text
    """
    return {
        "layers": [(name, _not_text(own), _each(parts, _not_text)) for name, own, parts in state["layers"]],
        "envs": [
            one and {**one, "wrappers": [(name, _not_text(attributes)) for name, attributes in one["wrappers"]]}
            for one in state["envs"]
        ],
    }


def _not_text(attributes: dict[str, Any]) -> dict[str, Any]:
    """Leave out the attributes that are text."""
    return {name: value for name, value in attributes.items() if not isinstance(value, str | bytes)}


def _each(values: dict[str, Any], change: Any) -> dict[str, Any]:
    """Change every value of a dictionary."""
    return {name: change(value) for name, value in values.items()}
