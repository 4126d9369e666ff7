"""A policy as an ONNX file: written, and compared with ``predict`` before it is left in its place."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage, unwrap_vec_normalize

from sb3_ppo_edu.engines.validation import WithoutValidation
from sb3_ppo_edu.export.comparison import compare, sample_observations
from sb3_ppo_edu.export.graph import ExportError, PolicyGraph, example_inputs, part_names, part_of, seen_by_actor
from sb3_ppo_edu.functional.distributions import BetaDistribution
from sb3_ppo_edu.serialization.errors import reason
from sb3_ppo_edu.serialization.extras import need
from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.version import __version__

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO

NEEDED = ("onnx", "onnxscript", "onnxruntime")
BATCH = "n"
"""Name of the axis of observations, of which a file takes any number."""


def export(model: EduPPO, path: str | Path, env: VecEnv | None = None) -> Path:
    """
    Write a policy into an ONNX file, see :meth:`sb3_ppo_edu.algorithms.saving.SavingModel.export`.

    :param model: the model, which stays as it is
    :param path: the file, with or without ``.onnx``
    :param env: environments as the policy acts in, for what they normalise and transpose; None for the model's own
    :return: the file
    :raises ExportError: if the policy has what can't be exported
    :raises ImportError: if the packages of the extra are missing
    """
    for name in NEEDED:
        need(name, "export", "export")
    for name, weights in model.policy.named_parameters():
        if not bool(th.isfinite(weights).all()):
            raise ExportError(f"export: found NaN or infinity in {name}, expected finite weights: such a policy can't act")
    if not isinstance(path, str | Path):
        raise ExportError(f"export: found path={path!r}, expected the name of a file")
    if env is not None and not isinstance(env, VecEnv):
        raise ExportError(
            f"export: found env={env!r}, expected a vector environment, such as model.normalized({env!r}), or None"
        )
    path = Path(path)
    named = path if path.suffix or not path.name else path.with_suffix(".onnx")
    folder = next((f", and {one} is one" for one in (path, named) if path.name and one.is_dir()), "")
    if not path.name or folder or not path.parent.is_dir():  # before the seconds that it takes
        raise ExportError(f"export: found path={str(path)!r}, expected a file in a folder that is there{folder}")
    path = named
    env = model.get_env() if env is None else env
    around = None if env is None else unwrap_vec_normalize(env)
    normalization = model.normalization() if around is None else around
    given = seen_by_actor(given_space(model.policy.observation_space, env, normalization), model.policy)
    observations = sample_observations(given, normalization)
    with _ready(model.policy):
        graph = PolicyGraph(model.policy, given, normalization).eval()
        content = _write(graph, example_inputs(graph, {name: values[:2] for name, values in observations.items()}))
        compare(content, graph, model, observations, normalization)
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return path


def given_space(taken: spaces.Space[Any], env: VecEnv | None, normalization: VecNormalize | None) -> spaces.Space[Any]:
    """
    Find the space of what comes before normalisation and transposition.

    :param taken: space of what the policy takes
    :param env: environments as the policy acts in. Without any, images come with the channels last, as from environments
    :param normalization: what normalises observations, or None
    :return: the space
    :raises ExportError: if anything but a transposition lies between normalisation and policy
    """
    if isinstance(env, VecTransposeImage):
        env = env.venv
    given: spaces.Space[Any] = env.observation_space if env is not None else _as_given(taken)
    if normalization is not None:
        if env is None or env is normalization:
            given = normalization.observation_space if env is None else env.venv.observation_space
        elif unwrap_vec_normalize(env) is normalization and _shapes(given) != _shapes(normalization.observation_space):
            raise ExportError(
                f"export: found {type(env).__name__} between VecNormalize and the policy, expected nothing that changes "
                "observations there: stack frames before normalising them, so that the file can do both in this order"
            )
    for key in part_names(given):
        one, other = part_of(given, key).shape, part_of(taken, key).shape
        if one != other and (one is None or len(one) != 3 or (one[2], *one[:2]) != other):
            raise ExportError(
                f"export: found observations of shape {one}, expected the policy's {other}, or images to transpose"
            )
    return given


def _as_given(taken: spaces.Space[Any]) -> spaces.Space[Any]:
    """Put the channels of images last, where SB3 has put them first."""
    if isinstance(taken, spaces.Dict):
        return spaces.Dict({key: _as_given(space) for key, space in taken.spaces.items()})
    if is_image_space(taken) and isinstance(taken, spaces.Box) and is_image_space_channels_first(taken):
        low, high = (np.moveaxis(bound, 0, -1) for bound in (taken.low, taken.high))
        return spaces.Box(low, high, dtype=taken.dtype)
    return taken


def _shapes(space: spaces.Space[Any]) -> list[Any]:
    """List the shapes of an observation's parts."""
    return [part_of(space, key).shape for key in part_names(space)]


@contextmanager
def _ready(policy: ActorCriticPolicy) -> Iterator[None]:
    """Put a policy into evaluation mode, with a distribution that may be left with a graph's tensors, and back."""
    training, distribution = policy.training, policy.action_dist
    policy.set_training_mode(False)
    policy.action_dist = copy(distribution)
    if isinstance(policy.action_dist, BetaDistribution):
        policy.action_dist.precision = th.float32
    try:
        with th.no_grad(), WithoutValidation():
            yield
    finally:
        policy.action_dist = distribution
        policy.set_training_mode(training)


def _write(graph: PolicyGraph, inputs: dict[str, th.Tensor]) -> bytes:
    """Turn a policy into the content of an ONNX file."""
    axes = {name: {1 if name.endswith("_state") else 0: th.export.Dim(BATCH)} for name in inputs}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it says what torchvision would add
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = th.onnx.export(
                graph,
                (),
                kwargs={"inputs": inputs},
                input_names=list(inputs),
                output_names=list(graph(inputs)),
                dynamic_shapes={"inputs": axes},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"export: torch can't turn the policy {type(graph.policy).__name__} into a graph ({reason(_origin(error))}); "
            "expected modules whose course does not hang on the values of tensors"
        ) from error
    finally:
        logger.setLevel(level)
    file = program.model_proto
    # Where in which source each operation stands is of nobody's concern.
    written = file.graph
    parts = (*written.node, *written.input, *written.output, *written.value_info, *file.functions)
    for part in (file, written, *parts):
        del part.metadata_props[:]
        part.doc_string = ""
    file.producer_name, file.producer_version = "sb3_ppo_edu", __version__
    content: bytes = file.SerializeToString()
    return content


def _origin(error: BaseException) -> BaseException:
    """Find what torch's advice on an error is about."""
    return error if error.__cause__ is None else _origin(error.__cause__)
