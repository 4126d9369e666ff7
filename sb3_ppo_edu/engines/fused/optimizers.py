"""The optimizer as the kernels see it. Its state is torch's own, in torch's format: the kernels move it in place."""

from __future__ import annotations

import ctypes
from typing import Any

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from sb3_ppo_edu.engines.fingerprint import Fingerprint
from sb3_ppo_edu.engines.flat import state_fingerprint
from sb3_ppo_edu.engines.fused.description import address, members

ADAM, SGD, RMSPROP, RMSPROP_TF = range(4)
KINDS: dict[Any, int] = {
    th.optim.Adam: ADAM,
    th.optim.AdamW: ADAM,
    th.optim.SGD: SGD,
    th.optim.RMSprop: RMSPROP,
    RMSpropTFLike: RMSPROP_TF,
}


class ParameterStruct(ctypes.Structure):
    """A parameter, its gradient, and the optimizer's state of it."""

    _fields_ = members("size", "", "value gradient first second third step")


class OptimizerStruct(ctypes.Structure):
    """An optimizer and its hyperparameters."""

    _fields_ = [
        *members("kind count amsgrad decoupled_weight_decay maximize nesterov centered first_step double_step"),
        *members("", "lr beta1 beta2 eps weight_decay momentum dampening alpha", "parameters"),
    ]


def state_names(kind: int, group: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Torch's names of the state that a step needs, in the order of the kernels' ``first``, ``second`` and ``third``."""
    if kind == ADAM:
        return "exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None
    momentum = "momentum_buffer" if group["momentum"] != 0 else None
    if kind == SGD:
        return momentum, None, None
    return "square_avg", momentum, "grad_avg" if group["centered"] else None


class OptimizerTable:
    """
    Addresses of parameters, gradients and state, and the hyperparameters.

    :param optimizer: the policy's optimizer, of one of the kinds above, with one parameter group
    :param parameters: its parameters
    """

    def __init__(self, optimizer: th.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.kind = KINDS[type(optimizer)]
        self.table = (ParameterStruct * len(parameters))()
        self.struct = OptimizerStruct(kind=self.kind, count=len(parameters), parameters=ctypes.addressof(self.table))
        self.names: tuple[str | None, ...] = ()
        self._started: list[nn.Parameter] = []
        self._found: Fingerprint | None = None
        """Where everything was that the table points to."""

    def point(self) -> None:
        """Look up hyperparameters, gradients and state; where there is no state yet, begin it as torch does."""
        group = self.optimizer.param_groups[0]
        for name in ("lr", "eps", "weight_decay", "momentum", "dampening", "alpha"):
            setattr(self.struct, name, float(group.get(name, 0.0)))
        for name in ("amsgrad", "decoupled_weight_decay", "maximize", "nesterov", "centered"):
            setattr(self.struct, name, bool(group.get(name, False)))
        self.struct.beta1, self.struct.beta2 = map(float, group.get("betas", (0.0, 0.0)))
        self.names = state_names(self.kind, group)
        self._started, self.struct.first_step = [], False
        found = self._where_everything_is()
        if self._found is not None and found.matches(self._found):
            return
        for parameter, entry in zip(self.parameters, self.table, strict=True):
            grad = parameter.grad
            assert grad is not None
            entry.size, entry.value = parameter.numel(), address(parameter, "parameter", parameter.dtype, parameter.shape)
            entry.gradient = address(grad, "gradient", parameter.dtype, parameter.shape)
            state = self._state_of(parameter)
            for place, kept in zip(("first", "second", "third"), self.names, strict=True):
                where = 0 if kept is None else address(state[kept], kept, parameter.dtype, parameter.shape)
                setattr(entry, place, where)
            step = state.get("step")
            if isinstance(step, th.Tensor):
                self.struct.double_step = step.dtype is th.float64
                entry.step = address(step, "step", th.float64 if self.struct.double_step else th.float32, ())
        # Where state has just begun it lies elsewhere than before.
        self._found = None if self._started else found

    def _where_everything_is(self) -> Fingerprint:
        """What the table depends on, so that it is not written anew for each update."""
        found = state_fingerprint(self.optimizer, self.parameters)
        found.facts.append(self.names)
        for parameter in self.parameters:
            grad: Any = parameter.grad
            found.facts.extend((parameter.data_ptr(), grad.data_ptr(), grad.shape, grad.stride()))
        return found

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The optimizer's state of a parameter; of SGD's without momentum there is none."""
        wanted = [name for name in self.names if name is not None]
        if not wanted:
            return {}
        state: dict[str, Any] = self.optimizer.state[parameter]
        if self.kind == SGD:
            if state.get("momentum_buffer") is None:
                self._start(parameter)
                self.struct.first_step = True
                state["momentum_buffer"] = th.zeros_like(parameter)
        elif not state:
            self._start(parameter)
            scalar_type = th.float64 if th.get_default_dtype() is th.float64 else th.float32
            state["step"] = 0 if self.kind == RMSPROP_TF else th.zeros((), dtype=scalar_type)
            for name in wanted:
                begin = th.ones_like if self.kind == RMSPROP_TF and name == "square_avg" else th.zeros_like
                state[name] = begin(parameter)
        for name in wanted:
            state[name] = state[name].contiguous()
        return state

    def _start(self, parameter: nn.Parameter) -> None:
        """Remember that a parameter's state began here."""
        self._started.append(parameter)

    def stepped(self) -> None:
        """A step was taken: what began is there to stay."""
        self.struct.first_step = False
        self._started = []
        if self.kind == RMSPROP_TF:
            for parameter in self.parameters:
                self.optimizer.state[parameter]["step"] += 1

    def forget_begun(self) -> None:
        """No step was taken: what began in vain is taken back."""
        for parameter in self._started:
            del self.optimizer.state[parameter]
