"""The optimizers of the fused engine: the same steps as torch's, each on one flat array for all parameters.

Each works on the torch optimizer's own state: the entries of ``optimizer.state`` are views of flat buffers. Hyperparameters
are read from ``optimizer.param_groups`` at every step, so schedules and later changes count.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_ppo_edu.engines.flat import Array, FlatBuffer, FlatParameters

BLOCK = 16384
"""Elements that are updated together: a step makes a dozen passes over its arrays, which stay in the cache that way."""


class FlatOptimizer:
    """
    What the optimizers share: their state as flat buffers, and the walk over blocks.

    :param optimizer: the policy's optimizer, with one parameter group
    :param parameters: the policy's parameters, of the same set
    """

    initial_square: ClassVar[float] = 0.0

    def __init__(self, optimizer: th.optim.Optimizer, parameters: FlatParameters) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.steps = np.zeros(len(parameters.parameters), np.float32)
        self._step_views = list(th.from_numpy(self.steps).unbind())
        self.buffers: dict[str, FlatBuffer] = {}
        self._inverse_scale = th.ones(())
        self._scratch = (np.empty(BLOCK, parameters.values.flat.dtype), np.empty(BLOCK, parameters.values.flat.dtype))

    @property
    def group(self) -> dict[str, Any]:
        """The hyperparameters."""
        group: dict[str, Any] = self.optimizer.param_groups[0]
        return group

    def state_names(self) -> list[str]:
        """
        Names of the state tensors that the present hyperparameters need.

        :return: keys of torch's own state
        """
        raise NotImplementedError

    def attach(self) -> None:
        """Take over the optimizer's state: at the start, after ``load_state_dict``, or after another engine made it."""
        for name in self.state_names():
            if name not in self.buffers:
                self.buffers[name] = FlatBuffer(self.parameters.parameters)
                if name == "square_avg":
                    self.buffers[name].flat[:] = self.initial_square
        for index, parameter in enumerate(self.parameters.parameters):
            state = self.optimizer.state[parameter]
            self._attach_step(index, state)
            for name in self.state_names():
                buffer = self.buffers[name]
                if not buffer.holds(index, state.get(name)):
                    if state.get(name) is not None:
                        buffer.views[index].copy_(state[name])
                    state[name] = buffer.views[index]

    def _attach_step(self, index: int, state: dict[str, Any]) -> None:
        """
        Let the step counter of a parameter be a view of the common array.

        :param index: index of the parameter
        :param state: its state
        """
        step = state.get("step")
        if not isinstance(step, th.Tensor) or step.data_ptr() != self._step_views[index].data_ptr():
            self.steps[index] = 0.0 if step is None else float(step)
            state["step"] = self._step_views[index]

    def step(self, grad_scale: float) -> None:
        """
        Take one step with the gradients of the flat buffer.

        :param grad_scale: factor of the gradients, of the clipping
        """
        self.steps += 1
        flat, gradients = self.parameters.values.flat, self.parameters.gradients.flat
        states = [self.buffers[name].flat for name in self.state_names()]
        for start in range(0, len(flat), BLOCK):
            block = slice(start, start + BLOCK)
            grad = gradients[block]
            if grad_scale != 1.0:
                grad *= grad_scale
            scratch = (self._scratch[0][: len(grad)], self._scratch[1][: len(grad)])
            self.update(flat[block], self._regularised(grad, flat[block]), [state[block] for state in states], scratch)

    def _regularised(self, grad: Array, values: Array) -> Array:
        """
        Gradient with sign and weight decay as the hyperparameters ask.

        :param grad: gradients
        :param values: parameters
        :return: the gradient to use; a new array where it differs
        """
        if self.group.get("maximize", False):
            grad = -grad
        if self.group["weight_decay"] != 0:
            grad = grad + self.group["weight_decay"] * values
        return grad

    def update(self, values: Array, grad: Array, states: list[Array], scratch: tuple[Array, Array]) -> None:
        """
        Update one block in place.

        :param values: parameters
        :param grad: gradients
        :param states: states in the order of ``state_names``
        :param scratch: two arrays of the same length to write to
        """
        raise NotImplementedError


class FlatAdam(FlatOptimizer):
    r"""
    Adam (https://arxiv.org/abs/1412.6980, algorithm 1) and AdamW, by torch's own fused kernel on the flat buffers.

    .. math:: m = \beta_1 m + (1-\beta_1) g, \quad v = \beta_2 v + (1-\beta_2) g^2, \quad
        \theta = \theta - \frac{\eta}{1-\beta_1^t} \frac{m}{\sqrt{v/(1-\beta_2^t)} + \epsilon}
    """

    def state_names(self) -> list[str]:
        """See :meth:`FlatOptimizer.state_names`."""
        return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if self.group["amsgrad"] else [])]

    def step(self, grad_scale: float) -> None:
        """See :meth:`FlatOptimizer.step`."""
        group = self.group
        self.steps += 1
        # The kernel divides the gradients by its ``grad_scale``, which is meant for mixed precision.
        self._inverse_scale.fill_(1.0 / grad_scale)
        # SB3 sets the learning rate as a float; torch's own settings may hold a tensor.
        beta1, beta2 = group["betas"]
        kernel = th._fused_adamw_ if group.get("decoupled_weight_decay", False) else th._fused_adam_
        kernel(
            [self.parameters.values.tensor],
            [self.parameters.gradients.tensor],
            [self.buffers["exp_avg"].tensor],
            [self.buffers["exp_avg_sq"].tensor],
            [self.buffers["max_exp_avg_sq"].tensor] if group["amsgrad"] else [],
            [self._step_views[0]],
            lr=float(group["lr"]),
            beta1=float(beta1),
            beta2=float(beta2),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group.get("maximize", False),
            grad_scale=self._inverse_scale,
            found_inf=None,
        )


class FlatSGD(FlatOptimizer):
    """Stochastic gradient descent with momentum, dampening and Nesterov's form as torch defines them."""

    def state_names(self) -> list[str]:
        """See :meth:`FlatOptimizer.state_names`."""
        return ["momentum_buffer"] if self.group["momentum"] != 0 else []

    def attach(self) -> None:
        """Remember whether there is momentum yet: torch starts it with the first gradient, undampened."""
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters.parameters]
        self.started = all(state.get("momentum_buffer") is not None for state in states)
        if self.state_names():
            super().attach()

    def _attach_step(self, index: int, state: dict[str, Any]) -> None:
        """Torch's SGD counts no steps."""

    def step(self, grad_scale: float) -> None:
        """See :meth:`FlatOptimizer.step`."""
        super().step(grad_scale)
        self.started = True

    def update(self, values: Array, grad: Array, states: list[Array], scratch: tuple[Array, Array]) -> None:
        """See :meth:`FlatOptimizer.update`."""
        momentum = self.group["momentum"]
        if states:
            buffer = states[0]
            if self.started:
                buffer *= momentum
                buffer += (1.0 - self.group["dampening"]) * grad
            else:
                buffer[:] = grad
            grad = grad + momentum * buffer if self.group["nesterov"] else buffer
        values -= np.multiply(grad, float(self.group["lr"]), out=scratch[0])


class FlatRMSprop(FlatOptimizer):
    """RMSprop as torch defines it: ε is added behind the root."""

    eps_in_root: ClassVar[bool] = False

    def state_names(self) -> list[str]:
        """See :meth:`FlatOptimizer.state_names`."""
        momentum = ["momentum_buffer"] if self.group["momentum"] > 0 else []
        return ["square_avg", *momentum, *(["grad_avg"] if self.group["centered"] else [])]

    def update(self, values: Array, grad: Array, states: list[Array], scratch: tuple[Array, Array]) -> None:
        """See :meth:`FlatOptimizer.update`."""
        alpha, eps, lr = self.group["alpha"], self.group["eps"], float(self.group["lr"])
        square, (term, root) = states[0], scratch
        np.multiply(grad, grad, out=term)
        term *= 1.0 - alpha
        square *= alpha
        square += term
        np.copyto(root, square)
        if self.group["centered"]:
            mean = states[-1]
            mean += (1.0 - alpha) * (grad - mean)
            root -= mean * mean
        if self.eps_in_root:
            root += eps
            np.sqrt(root, out=root)
        else:
            np.sqrt(root, out=root)
            root += eps
        np.divide(grad, root, out=term)
        if self.group["momentum"] > 0:
            momentum_buffer = states[1]
            momentum_buffer *= self.group["momentum"]
            momentum_buffer += term
            np.copyto(term, momentum_buffer)
        term *= lr
        values -= term


class FlatRMSpropTFLike(FlatRMSprop):
    """RMSprop as TensorFlow defines it, SB3's ``RMSpropTFLike``: ε inside the root, averages that start at 1."""

    eps_in_root = True
    initial_square = 1.0

    def _attach_step(self, index: int, state: dict[str, Any]) -> None:
        """SB3's counter is a Python integer that nothing reads: keep it one."""
        state["step"] = state.get("step", 0)

    def step(self, grad_scale: float) -> None:
        """See :meth:`FlatOptimizer.step`."""
        super().step(grad_scale)
        for parameter in self.parameters.parameters:
            self.optimizer.state[parameter]["step"] += 1


FLAT_OPTIMIZERS: dict[type[th.optim.Optimizer], type[FlatOptimizer]] = {
    th.optim.Adam: FlatAdam,
    th.optim.AdamW: FlatAdam,
    th.optim.SGD: FlatSGD,
    th.optim.RMSprop: FlatRMSprop,
    RMSpropTFLike: FlatRMSpropTFLike,
}
