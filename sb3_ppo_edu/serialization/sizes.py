"""How large a model will be that a file asks for, by arithmetic, before memory and time go into it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from sb3_ppo_edu.functional.values import shown
from sb3_ppo_edu.serialization.errors import ANOTHER_COPY, DamagedFileError, reason

LARGEST_ROLLOUT = 2**31
"""Bytes of observations in a rollout that a stranger's model may ask for."""

MOST_LAYERS = 1000
"""Layers that a stranger's model may have; each costs some thousand bytes, however narrow it is."""

_KERNELS = ((8, 4), (4, 2), (3, 1))
"""Kernel and stride of NatureCNN's convolutions (https://www.nature.com/articles/nature14236)."""


def check_sizes(attributes: Mapping[str, Any], n_bytes: int, where: str) -> None:
    """
    Check that a model is not larger than the weights that its file has, and that its rollout fits into memory.

    :param attributes: of the model, as the file has them
    :param n_bytes: size of its weights in the file
    :param where: the file, for the message
    :raises DamagedFileError: if it asks for more
    """
    try:
        if not isinstance(attributes["policy_kwargs"], Mapping):
            raise TypeError(f"policy_kwargs={shown(attributes['policy_kwargs'])}: expected a dict")
        layers, weights = _policy_size(attributes)
        steps = math.prod(_count(attributes, name) for name in ("n_steps", "n_envs"))
        n_units, n_layers = _memory(attributes)
        # Of two networks the hidden states, and as many cell states, in float32.
        states = 4 * 4 * n_units * n_layers
        rollout = steps * (states + sum(_bytes(one) for one in _parts(attributes["observation_space"])))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFileError(
            f"{where}: no model can be built from it ({reason(error)}); expected spaces and policy_kwargs of a PPO: "
            f"{ANOTHER_COPY}"
        ) from error
    asked = shown(attributes["policy_kwargs"])
    if 4 * weights > n_bytes or layers > MOST_LAYERS:
        raise DamagedFileError(
            f"{where}: no model can be built from it: found policy_kwargs={asked} and spaces that ask for {layers} layers of "
            f"{4 * weights:,} bytes, with {n_bytes:,} bytes of weights; expected as many, in {MOST_LAYERS} layers at most: "
            f"{ANOTHER_COPY}"
        )
    if rollout > LARGEST_ROLLOUT:
        raise DamagedFileError(
            f"{where}: found n_steps={attributes['n_steps']} and n_envs={attributes['n_envs']}, a rollout of {rollout:,} "
            f"bytes; expected at most {LARGEST_ROLLOUT:,}: {ANOTHER_COPY}"
        )


def _count(attributes: Mapping[str, Any], name: str) -> int:
    """Take a number of steps or environments."""
    value = attributes[name]
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise TypeError(f"{name}={shown(value)}: expected an integer ≥ 1")
    return int(value)


def _policy_size(attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Count the layers that a policy surely has, and their weights without biases."""
    kwargs = attributes["policy_kwargs"]
    policy, space = attributes["policy_class"], attributes["observation_space"]
    extractor = kwargs.get("features_extractor_class") or _default(policy, "features_extractor_class")
    if extractor is None:
        raise TypeError(f"policy_class={policy.__name__}: found no features extractor")
    of_extractor = kwargs.get("features_extractor_kwargs") or {}
    inputs = weights = for_critic = 0
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else [None]
    for key, part in zip(keys, _parts(space), strict=True):
        image = extractor is NatureCNN or (extractor is CombinedExtractor and _is_image(part))
        if image:
            features = int(
                of_extractor.get("features_dim", 512) if extractor is NatureCNN else of_extractor.get("cnn_output_dim", 256)
            )
            weights += features * _flattened_by_convolutions(part)
        else:
            features = spaces.utils.flatdim(part)
        inputs += features
        for_critic += features * (key in (kwargs.get("critic_keys") or ()))
    net_arch = kwargs.get("net_arch")
    if net_arch is None:
        net_arch = [] if extractor is NatureCNN else [64, 64]
    n_units, layers = _memory(attributes)
    if layers:
        # Of the actor alone, and with three gates: an LSTM has four.
        weights += 3 * n_units * (int(inputs) + n_units + (layers - 1) * 2 * n_units)
        inputs = n_units
    shared = [abs(int(width)) for width in kwargs.get("shared_net_arch") or ()]
    layers += len(shared)
    weights += sum(one * other for one, other in pairwise([int(inputs), *shared]))
    inputs = [int(inputs), *shared][-1]
    outputs = _n_actions(attributes["action_space"])
    for name, first, out in (("pi", inputs - int(for_critic), outputs), ("vf", inputs, 1)):
        listed = net_arch.get(name, []) if isinstance(net_arch, dict) else net_arch
        widths = [abs(int(width)) for width in listed if isinstance(width, int)]
        layers += len(widths) + 1
        weights += sum(one * other for one, other in pairwise([first, *widths, out]))
    return layers, weights


def _default(policy: type, name: str) -> Any:
    """Find the default of an argument of a policy's constructor, or of those above it; None where none has the argument."""
    for cls in policy.__mro__:
        parameter = inspect.signature(cls).parameters.get(name)
        if parameter is not None:
            return parameter.default
    return None


def _memory(attributes: Mapping[str, Any]) -> tuple[int, int]:
    """Count the units and layers that a policy remembers with: none, if it has no memory."""
    kwargs, default = attributes["policy_kwargs"], _default(attributes["policy_class"], "lstm_hidden_size")
    if default is None:
        return 0, 0
    return abs(int(kwargs.get("lstm_hidden_size", default))), abs(int(kwargs.get("n_lstm_layers", 1)))


def _parts(space: spaces.Space) -> list[spaces.Space]:
    """List the spaces that a space of observations has."""
    return list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]


def _bytes(space: spaces.Space) -> int:
    """Count the bytes of an observation."""
    shape = space.shape or ()
    return math.prod(int(size) for size in shape) * (space.dtype.itemsize if space.dtype is not None else 8)


def _is_image(space: spaces.Space) -> bool:
    """Tell whether a part of an observation goes through convolutions."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == "uint8"


def _flattened_by_convolutions(space: spaces.Space) -> int:
    """Count what NatureCNN's convolutions leave of an image."""
    assert space.shape is not None
    sides = [int(size) for size in space.shape[1:]]
    for kernel, stride in _KERNELS:
        sides = [(side - kernel) // stride + 1 for side in sides]
    return 64 * math.prod(max(side, 0) for side in sides)


def _n_actions(space: spaces.Space) -> int:
    """Count the numbers that describe the distribution of an action, at the least."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(int(size) for size in space.shape or ())
