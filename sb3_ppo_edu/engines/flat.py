"""One flat tensor for all parameters, one for all gradients, and one for each kind of optimizer state.

The policy's ``nn.Parameter`` objects, their ``.grad`` and the optimizer's state tensors become views of these tensors: an
engine sees one array, torch sees the tensors it always had, and both see every change at once. So saving, loading,
``set_parameters`` and a change of engine need no copying back and forth.

An optimizer's step is elementwise. Torch's own optimizer, given one flat parameter instead of a dozen small ones, therefore
computes the same bits with a fraction of the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

Array = NDArray[np.floating[Any]]

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
    parameters = list(policy.parameters())
    if type(optimizer) not in ELEMENTWISE_OPTIMIZERS:
        return f"the optimizer is {type(optimizer).__name__}"
    if len(optimizer.param_groups) > 1:
        return "the optimizer has several parameter groups"
    if {id(parameter) for parameter in optimizer.param_groups[0]["params"]} != {id(parameter) for parameter in parameters}:
        return "the optimizer does not have exactly the policy's parameters"
    if any(optimizer.param_groups[0].get(option) for option in ("capturable", "differentiable")):
        return "the optimizer is capturable or differentiable"
    if any(parameter.device.type != "cpu" for parameter in parameters):
        return "the policy is not on the CPU"
    if len({parameter.dtype for parameter in parameters}) > 1 or parameters[0].dtype not in (th.float32, th.float64):
        return "the parameters are not all float32"
    if not all(parameter.requires_grad for parameter in parameters):
        return "some parameters are frozen"
    return None


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

    def holds(self, index: int, tensor: th.Tensor | None) -> bool:
        """
        Tell whether a tensor is the view of this buffer.

        :param index: index of the parameter
        :param tensor: the tensor in question
        :return: True if both are the same memory
        """
        return tensor is not None and tensor.data_ptr() == self.views[index].data_ptr()


class FlatParameters:
    """
    The policy's parameters and gradients as views of two flat tensors.

    :param parameters: all parameters, in the order they are to lie in memory
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.values = FlatBuffer(self.parameters)
        self.gradients = FlatBuffer(self.parameters)

    def attach(self) -> None:
        """Take over parameters that live elsewhere, at the start or because something replaced their memory."""
        for index, parameter in enumerate(self.parameters):
            if not self.values.holds(index, parameter.data):
                self.values.views[index].copy_(parameter.data)
                parameter.data = self.values.views[index]

    def attach_gradients(self) -> None:
        """Let every ``.grad`` be a view again, after ``zero_grad`` has set it to None."""
        for index, parameter in enumerate(self.parameters):
            if not self.gradients.holds(index, parameter.grad):
                parameter.grad = self.gradients.views[index]

    def view(self, parameters: Sequence[nn.Parameter]) -> tuple[th.Tensor, th.Tensor]:
        """
        Tensors over parameters of one shape that lie side by side in the buffer.

        :param parameters: one or more parameters of equal shape, neighbours in the buffer
        :return: values and gradients, each of shape ``(len(parameters), *shape)``
        """
        index = next(i for i, parameter in enumerate(self.parameters) if parameter is parameters[0])
        shape = (len(parameters), *parameters[0].shape)
        strides = (padded_size(parameters[0]), *parameters[0].stride())
        first, first_gradient = self.values.views[index], self.gradients.views[index]
        return (
            self.values.tensor.as_strided(shape, strides, first.storage_offset()),
            self.gradients.tensor.as_strided(shape, strides, first_gradient.storage_offset()),
        )


class FlatOptimizer:
    """
    Torch's own optimizer on one flat parameter, in step with the policy's optimizer.

    The state tensors of the policy's optimizer are views of the flat optimizer's, so its ``state_dict`` is always current.

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
        # Torch counts the steps of each parameter: one array has all these numbers, and behind them the flat parameter's.
        steps = th.zeros(len(parameters.parameters) + 1)
        *self._step_views, self._flat_step = steps.unbind()
        self._steps: Array = steps.numpy()

    @property
    def state(self) -> dict[str, Any]:
        """State of the flat parameter, in torch's own names."""
        state: dict[str, Any] = self.flat_optimizer.state[self.flat_parameter]
        return state

    def attach(self) -> None:
        """
        Take over hyperparameters and state.

        Needed before each update: the learning rate follows its schedule, and the state may be new after ``load_state_dict``
        or another engine's update.
        """
        hyperparameters = {name: value for name, value in self.optimizer.param_groups[0].items() if name != "params"}
        self.flat_optimizer.param_groups[0].update(hyperparameters)
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters.parameters]
        if not self._is_current(states):
            self.state.clear()
            self._buffers.clear()
            for name, value in states[0].items():
                if name == "step":
                    self.state[name] = value
                elif value is not None:
                    self._buffers[name] = FlatBuffer(self.parameters.parameters)
                    self.state[name] = self._buffers[name].tensor
                    for view, state in zip(self._buffers[name].views, states, strict=True):
                        view.copy_(state[name])
            self._publish()

    def _is_current(self, states: list[dict[str, Any]]) -> bool:
        """
        Tell whether the policy's optimizer still has our views.

        :param states: its state of each parameter
        :return: True if there is nothing to take over
        """
        shared = [name for name, value in states[0].items() if name != "step" and value is not None]
        return shared == list(self._buffers) and all(
            buffer.holds(index, state.get(name))
            for name, buffer in self._buffers.items()
            for index, state in enumerate(states)
        )

    def _publish(self) -> None:
        """Give the policy's optimizer views of every tensor of the flat state."""
        for name, value in self.state.items():
            if isinstance(value, th.Tensor) and name != "step" and name not in self._buffers:
                self._buffers[name] = FlatBuffer(self.parameters.parameters, value)
        if isinstance(self.state.get("step"), th.Tensor):
            self._steps.fill(float(self.state["step"]))
            self.state["step"] = self._flat_step
        for index, parameter in enumerate(self.parameters.parameters):
            for name, value in self.state.items():
                state = self.optimizer.state[parameter]
                if name in self._buffers:
                    state[name] = self._buffers[name].views[index]
                elif name == "step" and isinstance(value, th.Tensor):
                    state[name] = self._step_views[index]
                else:
                    state[name] = value

    def step(self) -> None:
        """Take one step with the gradients of the flat tensor."""
        state = self.state
        had = len(state)
        self.take_step()
        if len(state) != had:
            self._publish()  # torch creates its state at the first step
        elif isinstance(state.get("step"), th.Tensor):
            self._steps[:-1] += 1.0
        elif "step" in state:
            for parameter in self.parameters.parameters:
                self.optimizer.state[parameter]["step"] = state["step"]

    def take_step(self) -> None:
        """Let torch step."""
        self.flat_optimizer.step()


class FusedAdam(FlatOptimizer):
    r"""
    Adam (https://arxiv.org/abs/1412.6980, algorithm 1) and AdamW (https://arxiv.org/abs/1711.05101) by torch's fused kernel.

    .. math:: m = \beta_1 m + (1-\beta_1) g, \quad v = \beta_2 v + (1-\beta_2) g^2, \quad
        \theta = \theta - \frac{\eta}{1-\beta_1^t} \frac{m}{\sqrt{v/(1-\beta_2^t)} + \epsilon}

    One pass over memory instead of a dozen, without the optimizer's bookkeeping around it; equal to within rounding.
    """

    def take_step(self) -> None:
        """Call the kernel that ``Adam(fused=True)`` calls."""
        group, state = self.flat_optimizer.param_groups[0], self.state
        if not state:
            state["step"] = self._flat_step
            for name in ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ())):
                state[name] = th.zeros_like(self.flat_parameter.data)
        beta1, beta2 = group["betas"]
        self._steps[-1] += 1.0
        kernel = th._fused_adamw_ if group.get("decoupled_weight_decay", False) else th._fused_adam_
        kernel(
            [self.parameters.values.tensor],
            [self.parameters.gradients.tensor],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [state["max_exp_avg_sq"]] if group["amsgrad"] else [],
            [state["step"]],
            lr=float(group["lr"]),
            beta1=float(beta1),
            beta2=float(beta2),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=None,
        )


def make_fast_optimizer(optimizer: th.optim.Optimizer, parameters: FlatParameters) -> FlatOptimizer:
    """
    Choose the fastest flat optimizer that agrees to within rounding.

    :param optimizer: the policy's optimizer
    :param parameters: the policy's parameters
    :return: torch's fused kernel for Adam and AdamW, else torch's own step on the flat parameter
    """
    kind = FusedAdam if type(optimizer) in (th.optim.Adam, th.optim.AdamW) else FlatOptimizer
    return kind(optimizer, parameters)
