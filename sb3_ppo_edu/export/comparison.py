"""Does a file do what the policy does? Asked before it is left where others find it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_edu.export.graph import (
    ACTION,
    MASKS,
    NEXT,
    NOISE,
    START,
    STATES,
    STOCHASTIC,
    ExportError,
    PolicyGraph,
    example_inputs,
    part_names,
    part_of,
)
from sb3_ppo_edu.serialization.errors import reason
from sb3_ppo_edu.vec_env.action_masks import choices_of

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO

OBSERVATIONS = 64
TOLERANCE = 1e-5
"""Largest difference of a number, in units of itself or of an action's half range where these are above 1."""
SAME = 0.95
"""Least share of discrete actions that agree: where two are equally likely, rounding decides."""


def sample_observations(given: spaces.Space[Any], normalization: VecNormalize | None) -> dict[str, np.ndarray]:
    """
    Make observations to compare on, of the scale that the policy knows.

    :param given: space of what the environment gives
    :param normalization: what normalises them, or None
    :return: by the names of inputs, shape ``(OBSERVATIONS, …)``
    """
    rng = np.random.default_rng(0)
    moments: Any = normalization.obs_rms if normalization is not None and normalization.norm_obs else None
    return {
        name: _sample(rng, part_of(given, key), moments.get(key) if isinstance(moments, dict) else moments)
        for key, name in part_names(given).items()
    }


def _sample(rng: np.random.Generator, space: spaces.Space[Any], moments: Any) -> np.ndarray:
    """Make observations of one array."""
    shape, dtype = (OBSERVATIONS, *(space.shape or ())), cast(Any, space.dtype)
    values: np.ndarray
    if not isinstance(space, spaces.Box):
        sizes = 2 if isinstance(space, spaces.MultiBinary) else getattr(space, "nvec", getattr(space, "n", 2))
        values = rng.integers(0, sizes, shape)
    elif moments is not None:
        values = np.clip(moments.mean + np.sqrt(moments.var) * rng.standard_normal(shape), space.low, space.high)
    elif np.issubdtype(dtype, np.integer):
        low = np.maximum(space.low.astype(np.int64), -500)
        width = np.minimum(space.high.astype(float) - low, 1000.0)
        values = low + rng.integers(0, width.astype(np.int64), shape, endpoint=True)
    else:
        values = np.clip(3.0 * rng.standard_normal(shape), space.low, space.high)
    return values.astype(dtype)


def compare(
    content: bytes,
    graph: PolicyGraph,
    model: EduPPO,
    observations: dict[str, np.ndarray],
    normalization: VecNormalize | None,
) -> None:
    """
    Run a file and compare what it gives with the policy.

    :param content: of the file
    :param graph: what it was written from
    :param model: whose ``predict`` counts
    :param observations: by the names of inputs
    :param normalization: what normalises them, or None
    :raises ExportError: if they differ
    """
    onnxruntime = importlib.import_module("onnxruntime")  # of an extra
    rng = np.random.default_rng(1)
    inputs = {name: values.cpu().numpy() for name, values in example_inputs(graph, observations).items()}
    inputs[NOISE] = rng.standard_normal(inputs[NOISE].shape).astype(np.float32)
    if MASKS in inputs:
        inputs[MASKS] = random_masks(rng, choices_of(model.action_space), len(inputs[MASKS]))
    for name in (name for name in STATES if name in inputs):
        inputs[name] = np.tanh(rng.standard_normal(inputs[name].shape)).astype(np.float32)
    if START in inputs:
        inputs[START] = rng.random(inputs[START].shape) < 0.3
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, inputs), strict=True))
    except Exception as error:  # of onnxruntime's own kinds
        raise ExportError(f"export: onnxruntime can't run the policy's graph ({reason(error)})") from error
    in_torch = graph({name: th.as_tensor(values, device=model.policy.device) for name, values in inputs.items()})
    for name, values in in_torch.items():
        check_equal(found[name], values.cpu().numpy(), graph, name, "onnxruntime and torch")
    actions, states = predict(model, inputs, graph, normalization)
    check_equal(found[ACTION], actions, graph, ACTION, "the file and predict")
    for name, values in zip(STATES[: graph.n_states], states or (), strict=False):
        check_equal(found[NEXT + name], values, graph, NEXT + name, "the file and predict")


def random_masks(rng: np.random.Generator, choices: list[int], n: int) -> np.ndarray:
    """
    Make masks that leave at least one class of each choice.

    :param choices: number of classes of each
    :return: shape ``(n, sum(choices))``, bool
    """
    masks = [rng.random((n, size)) < 0.5 for size in choices]
    for mask in masks:
        mask[np.arange(n), rng.integers(0, mask.shape[1], n)] = True
    return np.concatenate(masks, axis=1)


def predict(
    model: EduPPO, inputs: dict[str, np.ndarray], graph: PolicyGraph, normalization: VecNormalize | None
) -> tuple[np.ndarray, Any]:
    """
    Have the model act deterministically on a file's inputs.

    :param model: the model
    :param inputs: by name, observations as the environment gives them
    :param graph: the policy
    :param normalization: what normalises them, or None
    :return: actions, and the next states or None
    """
    observations: Any = {key: inputs[name] for key, name in graph.names.items()}
    observations = observations.get("", observations)
    if normalization is not None:
        space, n = normalization.observation_space, len(next(iter(inputs.values())))
        zeros = {key: np.zeros((n, *(part_of(space, key).shape or ()))) for key in graph.unseen}
        observations = normalization.normalize_obs({**observations, **zeros} if zeros else observations)
        observations = {key: observations[key] for key in graph.names} if zeros else observations
    parts = observations if isinstance(observations, dict) else {"": observations}
    for key, part in zip(graph.names, graph.parts, strict=True):
        if cast(Any, part).transposed:
            parts[key] = parts[key].transpose(0, 3, 1, 2)
    given: dict[str, Any] = {MASKS: inputs[MASKS]} if MASKS in inputs else {}
    if graph.n_states:
        hidden = inputs[STATES[0]]
        given |= {"state": (hidden, inputs.get(STATES[1], np.zeros_like(hidden))), "episode_start": inputs[START]}
    return model.predict(parts.get("", parts), deterministic=True, **given)


def check_equal(found: np.ndarray, expected: np.ndarray, graph: PolicyGraph, name: str, whose: str) -> None:
    """
    Compare two arrays.

    :param found: of the file
    :param expected: of the policy
    :param graph: whose actions' range is the measure
    :param name: of the output
    :param whose: the two arrays are, for the message
    :raises ExportError: if they differ
    """
    what = f"{name}: {whose}"
    if found.shape != expected.shape:
        raise ExportError(f"export: {what} have shapes {found.shape} and {expected.shape}, expected the same")
    if name in (ACTION, STOCHASTIC) and not graph.bounded:
        same = float(np.mean(found == expected))
        if same < SAME:
            raise ExportError(f"export: {what} agree in {same:.0%} of {found.size} actions, expected all")
        return
    if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * graph.scale):
        worst = float(np.nanmax(np.abs(found - expected)))
        raise ExportError(
            f"export: {what} differ by up to {worst:g}, expected at most {TOLERANCE * graph.scale:g}: the policy "
            f"{type(graph.policy).__name__} acts in another way than its distribution says, or computes what ONNX does not"
        )
