"""One flat tensor for all parameters, one for all gradients, and one for each kind of optimizer state.

They belong to one update: it loads what the policy and its optimizer have, computes on one array instead of a dozen, and
stores the results back into the tensors that torch knows. Those stay the same objects in the same memory, and nothing of the
update's is ever saved, pickled or copied with them.

An optimizer's step is elementwise. Torch's own optimizer, given one flat parameter instead of a dozen small ones, therefore
computes the same bits with a fraction of the calls.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from sb3_ppo_edu.engines.fingerprint import Fingerprint, overlap, why_not_plain_optimizer

ELEMENTWISE_OPTIMIZERS = (th.optim.Adam, th.optim.AdamW, th.optim.SGD, th.optim.RMSprop, RMSpropTFLike)
"""Optimizers whose step on a flat tensor is the step on its parts."""


ALIGNMENT = 16
"""Each parameter begins at a multiple of 64 bytes, as torch's own allocations do: the bits of a matrix product may depend on
the alignment of its operands. The padding is zero and stays zero."""


def why_not_flat(policy: ActorCriticPolicy) -> str | None:
    """
    Find out whether parameters and optimizer may share flat tensors.

    :param policy: actor-critic policy with its optimizer
    :return: the first obstacle, as the end of a sentence, or None if there is none
    """
    optimizer = policy.optimizer
    if type(optimizer) not in ELEMENTWISE_OPTIMIZERS:
        return f"the optimizer is {type(optimizer).__name__}"
    if changed := why_not_plain_optimizer(optimizer):
        return changed
    parameters = list(policy.parameters())
    if len(optimizer.param_groups) > 1:
        return "the optimizer has several parameter groups"
    if sorted(map(id, optimizer.param_groups[0]["params"])) != sorted(map(id, parameters)):
        return "the optimizer does not have exactly the policy's parameters"
    if any(optimizer.param_groups[0].get(option) for option in ("capturable", "differentiable")):
        return "the optimizer is capturable or differentiable"
    if any(parameter.device.type != "cpu" for parameter in parameters):
        return "the policy is not on the CPU"
    if len({parameter.dtype for parameter in parameters}) > 1 or parameters[0].dtype not in (th.float32, th.float64):
        return "the parameters are not all float32"
    if not all(parameter.requires_grad for parameter in parameters):
        return "some parameters are frozen"
    for name, parameter in policy.named_parameters():
        if not parameter.is_contiguous():
            return f"policy.{name} is not contiguous"
    if overlap(parameters):
        return "parameters share memory"
    return why_not_one_state(optimizer, parameters)


def why_not_one_state(optimizer: th.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> str | None:
    """
    Find out whether an optimizer's state of all parameters is of one kind, after the same number of steps.

    :param optimizer: the policy's optimizer
    :param parameters: the policy's parameters
    :return: the obstacle, as the end of a sentence, or None if there is none
    """
    states = [optimizer.state[parameter] for parameter in parameters if optimizer.state.get(parameter)]
    if states and len(states) != len(parameters):
        return "the optimizer has state of some parameters and not of others"
    for parameter, state in zip(parameters if states else (), states, strict=True):
        for name, value in state.items():
            if not (is_count(value, type(optimizer)) if name == "step" else value is None or is_like(value, parameter)):
                return f"the optimizer's state has {name!r}, which is not of torch's form"
    tensors = [value for state in states for value in state.values() if isinstance(value, th.Tensor)]
    if overlap(tensors):
        return "the optimizer's parameters share state"
    if len({(*state,) for state in states}) > 1 or len({float(state.get("step", 0)) for state in states}) > 1:
        return "the optimizer's parameters have taken different numbers of steps"
    if len({tuple(name for name, value in state.items() if value is None) for state in states}) > 1:
        return "the optimizer has state of some parameters and not of others"
    return None


def state_fingerprint(optimizer: th.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Fingerprint:
    """
    Collect what :func:`why_not_one_state` depends on, and where the state lies, at a fraction of its cost.

    :param optimizer: the policy's optimizer
    :param parameters: the policy's parameters
    :return: a fingerprint that stays the same while steps are taken
    """
    objects: list[Any] = []
    facts: list[Any] = []
    counts: list[Any] = []
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        objects.append(parameter)
        facts += state
        for name, value in state.items():
            if type(value) is th.Tensor:
                objects.append(value)
                facts += (value.data_ptr(), value.shape, value.stride())
                if name == "step" and value.numel() == 1:
                    counts.append(value.item())
            elif name == "step" and type(value) is int:
                counts.append(value)
            else:
                objects.append(value)
    facts.append(counts.count(counts[0]) if counts else 0)
    return Fingerprint(objects, facts)


def is_count(value: Any, kind: type) -> bool:
    """Tell whether a value counts steps as a kind of optimizer does: SB3's in an int, torch's in a tensor of one number."""
    if kind is RMSpropTFLike:
        return type(value) is int
    known = (th.float32, th.float64)
    return type(value) is th.Tensor and value.shape == () and value.dtype in known and value.device.type == "cpu"


def is_like(value: Any, parameter: nn.Parameter) -> bool:
    """Tell whether a value is a contiguous tensor of a parameter's shape, type and device."""
    return (
        type(value) is th.Tensor
        and (value.shape, value.dtype, value.device) == (parameter.shape, parameter.dtype, parameter.device)
        and value.layout == th.strided
        and value.is_contiguous()
    )


def padded_size(parameter: th.Tensor) -> int:
    """
    Elements that a parameter takes in a flat tensor.

    :param parameter: the parameter
    :return: its size, rounded up so that the next one begins at an aligned address
    """
    return -(-parameter.numel() // ALIGNMENT) * ALIGNMENT


class FlatBuffer:
    """
    A flat tensor with one view per parameter.

    :param parameters: the parameters that give order and shapes
    :param tensor: the flat tensor; zeros if there is none yet
    """

    def __init__(self, parameters: Sequence[nn.Parameter], tensor: th.Tensor | None = None) -> None:
        sizes = [padded_size(parameter) for parameter in parameters]
        self.tensor = th.zeros(sum(sizes), dtype=parameters[0].dtype) if tensor is None else tensor
        self.views = [
            part[: parameter.numel()].view(parameter.shape)
            for part, parameter in zip(self.tensor.split(sizes), parameters, strict=True)
        ]

    def load(self, tensors: list[th.Tensor]) -> None:
        """Copy tensors in, one for each parameter."""
        th._foreach_copy_(self.views, tensors)

    def store(self, tensors: list[th.Tensor]) -> None:
        """Copy the values out, into one tensor for each parameter."""
        th._foreach_copy_(tensors, self.views)

    def norm(self) -> th.Tensor:
        """The global L2 norm to torch's bits: the norm of the parameters' norms; a flat one is rounded otherwise."""
        norm: th.Tensor = th.linalg.vector_norm(th.stack(th._foreach_norm(self.views, 2.0)), 2.0)
        return norm


class FlatParameters:
    """
    Copies of the policy's parameters and gradients in two flat tensors.

    :param parameters: all parameters, in the order they are to lie in memory
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.values = FlatBuffer(self.parameters)
        self.gradients = FlatBuffer(self.parameters)

    def load(self) -> None:
        """Take over the parameters' values."""
        with th.no_grad():
            self.values.load([*self.parameters])

    def store_values(self) -> None:
        """Give the parameters their values."""
        with th.no_grad():
            self.values.store([*self.parameters])


class FlatOptimizer:
    """
    Torch's own optimizer on one flat parameter, for the time of an update.

    :param optimizer: the policy's optimizer, for which :func:`why_not_flat` found no obstacle
    :param parameters: the policy's parameters
    """

    def __init__(self, optimizer: th.optim.Optimizer, parameters: FlatParameters) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.flat_parameter = nn.Parameter(parameters.values.tensor)
        self.flat_parameter.grad = parameters.gradients.tensor
        kind: Any = type(optimizer)
        self.flat_optimizer: th.optim.Optimizer = kind([self.flat_parameter], lr=1.0)
        self._buffers: dict[str, FlatBuffer] = {}

    @property
    def state(self) -> dict[str, Any]:
        """State of the flat parameter, in torch's own names."""
        state: dict[str, Any] = self.flat_optimizer.state[self.flat_parameter]
        return state

    def load(self) -> None:
        """Take over hyperparameters and state from the policy's optimizer."""
        hyperparameters = {name: value for name, value in self.optimizer.param_groups[0].items() if name != "params"}
        self.flat_optimizer.param_groups[0].update(hyperparameters)
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters.parameters]
        self.state.clear()
        for name, value in states[0].items():
            if name == "step" or value is None:
                self.state[name] = copy.copy(value) if not isinstance(value, th.Tensor) else value.clone()
            else:
                buffer = self._buffers.setdefault(name, FlatBuffer(self.parameters.parameters))
                buffer.load([state[name] for state in states])
                self.state[name] = buffer.tensor

    def store(self) -> None:
        """Give the policy's optimizer its state, in tensors of its own. Twice is the same as once."""
        for name, value in self.state.items():
            shared = isinstance(value, th.Tensor) and name != "step"
            if shared and (name not in self._buffers or self._buffers[name].tensor is not value):
                self._buffers[name] = FlatBuffer(self.parameters.parameters, value)
            for index, parameter in enumerate(self.parameters.parameters):
                state = self.optimizer.state[parameter]
                own = self._buffers[name].views[index] if shared else value
                if isinstance(own, th.Tensor) and isinstance(state.get(name), th.Tensor):
                    state[name].copy_(own)
                else:
                    state[name] = own.clone() if isinstance(own, th.Tensor) else own

    def step(self) -> None:
        """Take one step with the gradients of the flat tensor."""
        self.flat_optimizer.step()
