"""One flat buffer for all parameters, one for all gradients, and one for each kind of optimizer state.

The policy's ``nn.Parameter`` objects, their ``.grad`` and the optimizer's state tensors become views of these buffers: numpy
sees one array, torch sees the tensors it always had, and both see every change at once. So saving, loading,
``set_parameters`` and a change of engine need no copying back and forth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.floating[Any]]


class FlatBuffer:
    """
    A flat array with one torch view per parameter.

    :param parameters: the parameters that give order and shapes
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.flat = np.zeros(sum(parameter.numel() for parameter in parameters), numpy_dtype(parameters[0]))
        self.views: list[th.Tensor] = []
        start = 0
        self.tensor = th.from_numpy(self.flat)
        for parameter in parameters:
            self.views.append(self.tensor[start : start + parameter.numel()].view(parameter.shape))
            start += parameter.numel()

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
    The policy's parameters and gradients as views of two flat buffers.

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
        """Let every ``.grad`` be a view, after ``zero_grad`` has set it to None."""
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
        start = sum(parameter.numel() for parameter in self.parameters[:index])
        size = sum(parameter.numel() for parameter in parameters)
        shape = (len(parameters), *parameters[0].shape)
        return (
            self.values.tensor[start : start + size].view(shape),
            self.gradients.tensor[start : start + size].view(shape),
        )


def numpy_dtype(tensor: th.Tensor) -> np.dtype[np.floating]:
    """
    Numpy's name of a tensor's type.

    :param tensor: float32 or float64 tensor
    :return: the type
    """
    return np.dtype(np.float64 if tensor.dtype == th.float64 else np.float32)
