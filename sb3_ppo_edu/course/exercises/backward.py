"""Derivatives worked out by hand, with faults, and inputs that tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_ppo_edu.course.exercises.inputs import moved, varied
from sb3_ppo_edu.course.exercises.objectives import on_all_sides
from sb3_ppo_edu.course.exercises.observing import Case

FloatArray = npt.NDArray[np.floating]
Faults = frozenset[str]
Rng = np.random.Generator


def surrogate_gradient(faults: Faults, ratio: FloatArray, advantages: FloatArray, clip_range: float) -> FloatArray:
    """
    Differentiate PPO's policy loss with respect to the log-probabilities.

    :param ratio: shape ``(batch,)``
    :param advantages: shape ``(batch,)``
    :param clip_range: ε
    :return: shape ``(batch,)``
    """
    silent = np.where(advantages > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    if "silent-on-both-sides" in faults:
        silent = np.abs(ratio - 1) > clip_range
    if "never-silent" in faults:
        silent = np.zeros_like(silent)
    slope = np.ones_like(ratio) if "ratio-not-differentiated" in faults else ratio
    held = np.clip(ratio, 1 - clip_range, 1 + clip_range) if "bound-for-zero" in faults else 0.0
    gradient = -np.where(silent, held * advantages, slope * advantages)
    if "mean-not-differentiated" not in faults:
        gradient = gradient / len(ratio)
    return -gradient if "gradient-sign" in faults else gradient


def surrogate_cases(rng: Rng) -> list[Case]:
    """Make ratios on all sides of the window."""

    def case(name: str, ratio: Any, advantages: Any, clip_range: float = 0.2) -> Case:
        arguments = {"ratio": np.array(ratio), "advantages": np.array(advantages), "clip_range": clip_range}
        return Case(name, arguments)

    return [
        case("a good action", [0.5, 0.9, 1.0, 1.1, 1.5], [2.0] * 5),
        case("a bad action", [0.5, 0.9, 1.0, 1.1, 1.5], [-2.0] * 5),
        several := case("ten random ones, ε = 0.3", *on_all_sides(rng, 0.3, 0.1), 0.3),
        varied(several, clip_range=0.1),
        moved(several, "advantages", 3, by=float(np.sign(several.arguments["advantages"][3]))),
    ]


def logits_gradient(faults: Faults, logits: FloatArray, actions: npt.NDArray[np.integer], upstream: FloatArray) -> FloatArray:
    """
    Differentiate the log-probabilities of the actions taken with respect to the logits.

    :param logits: shape ``(batch, n_actions)``
    :param actions: shape ``(batch,)``
    :param upstream: derivative of the loss with respect to each log-probability, shape ``(batch,)``
    :return: shape ``(batch, n_actions)``
    """
    axis = 0 if "softmax-over-batch" in faults else -1
    largest = np.zeros(1) if "softmax-overflows" in faults else logits.max(axis=axis, keepdims=True)
    exponentials = np.exp(logits - largest)
    taken = np.eye(logits.shape[1])[actions]
    gradient: FloatArray = taken - exponentials / exponentials.sum(axis=axis, keepdims=True)
    if "only-the-action-taken" in faults:
        gradient = taken * gradient
    if "normaliser-not-differentiated" in faults:
        gradient = taken
    if "upstream-missing" not in faults:
        gradient = gradient * upstream[:, None]
    return -gradient if "gradient-sign" in faults else gradient


def logits_cases(rng: Rng) -> list[Case]:
    """Make logits, actions, and what comes down the chain."""

    def case(name: str, logits: Any, actions: Any, upstream: Any) -> Case:
        arguments = {"logits": np.array(logits, dtype=float), "actions": np.array(actions), "upstream": np.array(upstream)}
        return Case(name, arguments)

    return [
        case("equal logits, two actions", [[0.0, 0.0]], [1], [2.0]),
        several := case(
            "three states, four actions", rng.normal(size=(3, 4)).round(2), [0, 3, 1], rng.normal(size=3).round(2)
        ),
        moved(several, "logits", 1, 2),
        case("the last action is not among those taken", rng.normal(size=(2, 3)).round(2), [1, 0], [1.5, -0.5]),
        case("large logits", [[1000.0, 0.0, 999.0], [1.0, 2.0, 3.0]], [2, 0], [1.0, -1.0]),
    ]


def tanh_gradient(faults: Faults, outputs: FloatArray, upstream: FloatArray) -> FloatArray:
    """
    Carry a derivative back through y = tanh(x), given y.

    :param outputs: y, any shape
    :param upstream: derivative of the loss with respect to y, the same shape
    :return: derivative with respect to x, the same shape
    """
    slope: FloatArray
    if "tanh-once-too-often" in faults:
        slope = 1.0 - np.tanh(outputs) ** 2
    elif "tanh-not-squared" in faults:
        slope = 1.0 - outputs
    elif "slope-of-sigmoid" in faults:
        slope = outputs * (1.0 - outputs)
    else:
        slope = 1.0 - outputs**2
    return slope if "upstream-missing" in faults else slope * upstream


def tanh_cases(rng: Rng) -> list[Case]:
    """Make outputs of tanh, and what comes down the chain."""
    return [
        Case("y = 0, ½ and 1", {"outputs": np.array([0.0, 0.5, 1.0]), "upstream": np.array([1.0, 2.0, 3.0])}),
        Case("a layer", {"outputs": np.tanh(rng.normal(size=(4, 3))).round(2), "upstream": rng.normal(size=(4, 3)).round(2)}),
    ]


def weight_gradient(faults: Faults, inputs: FloatArray, upstream: FloatArray) -> FloatArray:
    """
    Differentiate a linear layer x W' + b with respect to its weights W.

    :param inputs: x, shape ``(batch, n_inputs)``
    :param upstream: derivative of the loss with respect to the layer's outputs, shape ``(batch, n_outputs)``
    :return: shape of W, ``(n_outputs, n_inputs)``
    """
    gradient: FloatArray = upstream.T @ inputs
    if "averaged-again" in faults:
        gradient = gradient / len(inputs)
    if "product-of-sums" in faults:
        gradient = np.outer(upstream.sum(axis=0), inputs.sum(axis=0))
    return gradient.T if "weights-transposed" in faults else gradient


def weight_cases(rng: Rng) -> list[Case]:
    """Make inputs of a layer, and what comes down the chain."""

    def case(name: str, batch: int, n_inputs: int, n_outputs: int) -> Case:
        shapes = {"inputs": (batch, n_inputs), "upstream": (batch, n_outputs)}
        return Case(name, {key: rng.normal(size=shape).round(2) for key, shape in shapes.items()})

    return [
        case("a batch of one", 1, 2, 3),
        several := case("a batch of five, two inputs, three outputs", 5, 2, 3),
        moved(several, "inputs", 0, 1),
        case("as many inputs as outputs", 4, 3, 3),
    ]
