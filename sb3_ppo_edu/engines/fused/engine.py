"""The fast engine: act, value, gradients and step as one call each of compiled kernels, whose sources are in ``csrc``.

Python only says where things lie. The kernels read and write the policy's own parameters, their ``.grad`` and the optimizer's
own state, so that nothing has to be given back. The README in ../derivation derives what they compute.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from operator import attrgetter, is_
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_ppo_edu.engines.base import (
    MinibatchStatistics,
    PolicyInputs,
    check_finite,
    check_finite_norm,
    check_finite_output,
    project_log_std,
    statistics_of,
    stops,
)
from sb3_ppo_edu.engines.features import features_of
from sb3_ppo_edu.engines.fingerprint import holders_of
from sb3_ppo_edu.engines.flat import why_not_flat
from sb3_ppo_edu.engines.fused.description import (
    BERNOULLI,
    BETA,
    CATEGORICAL,
    GSDE,
    Description,
    SettingsStruct,
    StatisticsStruct,
    array_address,
)
from sb3_ppo_edu.engines.fused.library import Library, load_library
from sb3_ppo_edu.engines.fused.minibatches import Epochs, FusedMinibatch, as_columns, pick_rows, struct_of
from sb3_ppo_edu.engines.fused.observations import StoredParts, kernel_parts, parts_at
from sb3_ppo_edu.engines.fused.optimizers import OptimizerTable
from sb3_ppo_edu.engines.support import why_not_derived
from sb3_ppo_edu.functional import losses
from sb3_ppo_edu.functional.objectives import Array, Derivatives, Transitions, UpdateSettings, derivatives_of, is_ppos
from sb3_ppo_edu.rollouts.buffers import is_plain

grad_of = attrgetter("grad")
data_ptr_of = th.Tensor.data_ptr

ADDRESS, COUNT = ctypes.c_void_p, ctypes.c_int64
VERBS: dict[str, list[Any]] = {
    "scratch": [ADDRESS, COUNT],
    "act": [ADDRESS, ADDRESS, COUNT, ADDRESS, ADDRESS, ADDRESS, ADDRESS],
    "value": [ADDRESS, ADDRESS, COUNT, ADDRESS],
    "features": [ADDRESS, COUNT, COUNT, ADDRESS, COUNT],
    "outputs": [ADDRESS, ADDRESS, COUNT, ADDRESS, ADDRESS],
    "log_prob": [ADDRESS, ADDRESS, COUNT, ADDRESS],
    "gradients": [ADDRESS, ADDRESS, ADDRESS, COUNT, ADDRESS, ADDRESS, ADDRESS],
    "evaluate": [ADDRESS, ADDRESS, ADDRESS, COUNT, ADDRESS],
    "backward": [ADDRESS, COUNT, ADDRESS, COUNT],
    "apply": [ADDRESS, ctypes.c_double],
    "products": [ADDRESS, COUNT, COUNT],
}
ROW_BY_ROW, FORWARD, FORWARD_AND_BACKWARD = range(3)
"""Kinds of :meth:`FusedEngine.multiply`, as floor.c has them."""

RESULTS: dict[str, Any] = {"scratch": COUNT, "act": COUNT, "apply": ctypes.c_double}


def load_kernels(library: Library, double: bool) -> Any:
    """
    Look up the library's functions for one floating type.

    :param library: the library
    :param double: float64 instead of float32
    :return: a namespace with a function for each verb
    """
    found = {verb: library.function(verb, "f64" if double else "f32") for verb in VERBS}
    for verb, function in found.items():
        function.argtypes, function.restype = VERBS[verb], RESULTS.get(verb)
    return SimpleNamespace(**found)


def why_not_fused(policy: ActorCriticPolicy, why_not_passes: Callable[[Any], str | None] = why_not_derived) -> str | None:
    """
    Find the first thing that the kernels do not have.

    :param policy: actor-critic policy with its optimizer
    :param why_not_passes: finds what forward and backward pass do not have
    :return: what it is, as the end of a sentence, or None if they have it all
    """
    if obstacle := why_not_passes(policy) or why_not_flat(policy):
        return obstacle
    for name, parameter in policy.named_parameters():
        if not parameter.is_contiguous():
            return f"policy.{name} is not contiguous"
    return None


class StepMemory(NamedTuple):
    """
    Memory for one step of a number of environments.

    :param noise: random numbers in the order in which SB3's distributions draw them, a tensor for each call of the generator
    :param address: where the random numbers lie
    :param like: tensors with the shapes and types of actions, values and log-probabilities
    """

    noise: list[th.Tensor]
    address: int
    like: tuple[th.Tensor, th.Tensor, th.Tensor]


class FusedEngine:
    """
    Acts and updates by compiled kernels.

    It supports what :func:`why_not_fused` does not refuse, with any objective. Results agree with the autograd engine to float
    rounding, random numbers are drawn from the same streams in the same order.

    :param policy: actor-critic policy with its optimizer
    :param description: the policy as the kernels see it; None to make it
    """

    name, n_columns = "fused", 6

    def __init__(self, policy: ActorCriticPolicy, description: Description | None = None) -> None:
        self.policy = policy
        self.parameters = list(policy.parameters())
        self.description = description or Description(policy)
        self._dtype, self._real = self.description.dtype, np.float64 if self.description.dtype is th.float64 else np.float32
        library = load_library()
        self.instruction_set = library.level
        self._kernels = load_kernels(library, self._dtype is th.float64)
        self._model = ctypes.addressof(self.description.model)
        self._settings, self._statistics = SettingsStruct(), StatisticsStruct()
        self._settings_address = ctypes.addressof(self._settings)
        self._statistics_address = ctypes.addressof(self._statistics)
        self._taken: UpdateSettings | None = None
        self.optimizer = OptimizerTable(policy.optimizer, self.parameters)
        self._optimizer_address = ctypes.addressof(self.optimizer.struct)
        self._optimizer_current = False
        self._grads: list[th.Tensor] = []
        self._grad_places: list[int] = []
        self._grad_holders: list[tuple[int, int]] = []
        self._places: list[int] = []
        self._memory: dict[int, StepMemory] = {}
        self._epochs = Epochs()
        self._n_features: int = policy.features_dim
        self._action_shape = tuple(policy.action_space.shape or ())
        kind = self.description.model.distribution
        self._beta = kind == BETA
        self._matrix_shape = (*policy.log_std.shape[:1], self.description.action_size) if kind == GSDE else ()
        draws = {CATEGORICAL: th.Tensor.exponential_, BERNOULLI: th.Tensor.uniform_, GSDE: self._take_exploration}
        self._draw: Any = draws.get(kind, th.Tensor.normal_)
        space = policy.observation_space
        images = policy.normalize_images and is_image_space(space)
        self._plain_box = isinstance(space, spaces.Box) and not images
        self._are_features = self._plain_box and space.dtype == np.float32
        self._parts = None if self._are_features else kernel_parts(policy)
        self.attach()

    # -- what belongs to the policy --------------------------------------------------------------------------------------

    def attach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.attach`: look up where everything lies."""
        places = list(map(data_ptr_of, self.parameters))
        if places != self._places:
            self.description.point_to_parameters()
            # Whoever gives a parameter other memory in the middle of a rollout leaves this behind, and not nothing.
            self._places, self._alive = places, [parameter.detach() for parameter in self.parameters]
        # A gradient can be given other memory without becoming another tensor. One that somebody keeps is written no more.
        places, holders = list(map(data_ptr_of, self._grads)), list(map(holders_of, self._grads))
        if (places, holders) != (self._grad_places, self._grad_holders):
            self._grads = []
        self._optimizer_current = False

    def detach(self) -> None:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.detach`: the policy has everything already."""
        self._epochs.forget()

    def _own_gradients(self) -> None:
        """Let every parameter have a ``.grad`` of its own for the kernels to write."""
        if self._grads and all(map(is_, map(grad_of, self.parameters), self._grads)):
            return
        for parameter in self.parameters:
            parameter.grad = th.zeros_like(parameter)
        self.description.point_to_gradients()
        self._grads = list(map(grad_of, self.parameters))
        self._grad_places, self._grad_holders = list(map(data_ptr_of, self._grads)), list(map(holders_of, self._grads))
        self._optimizer_current = False

    def _reserve(self, rows: int) -> None:
        """Have scratch memory for so many transitions."""
        self.description.reserve(rows, self._kernels.scratch)
        self._ratios: Array = np.empty(rows, self._real)
        self._ratios_address = array_address(self._ratios)

    # -- acting ----------------------------------------------------------------------------------------------------------

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        x = self._features(inputs.observations)
        n = len(x)
        if self._beta:
            return self._act_beta(x, n)
        memory = self._memory.get(n) or self._make_memory(n)
        for part in memory.noise:
            self._draw(part)
        actions, values, log_probs = map(th.empty_like, memory.like)
        self._kernels.act(
            self._model, x.data_ptr(), n, memory.address, actions.data_ptr(), values.data_ptr(), log_probs.data_ptr()
        )
        return actions, values, log_probs

    def acting_in(self, rollout_buffer: RolloutBuffer) -> Callable[[int], NDArray[Any]] | None:
        """
        Act on observations that lie in a rollout buffer, and leave everything there, at one call a step.

        :param rollout_buffer: SB3's own, emptied
        :return: a function that is given a step of which the buffer has the observations, writes its actions, values and
            log-probabilities into the buffer, and gives the actions; None where only :meth:`act` will do: types of actions
            that the kernels do not write, Beta, and observations that storing may change or of which Python makes features
        """
        number, n, parts = self._form["dtype"], rollout_buffer.n_envs, None
        x = stored_observations = rollout_buffer.observations
        if not self._are_features:
            parts = StoredParts(self._parts or [], stored_observations, rollout_buffer.buffer_size * n)
            x = np.empty((1, n, self._n_features), number)
            parts.arrays.append(x)  # as long as somebody acts, it has to be there
            if not (self._parts and parts.may_be_written):
                return None
        arrays = (x, rollout_buffer.actions, rollout_buffer.values, rollout_buffer.log_probs)
        kinds = (number, np.int64 if self.description.sizes else number, number, number)
        in_form = all(array.dtype == kind and array.flags.c_contiguous for array, kind in zip(arrays, kinds, strict=True))
        if self._beta or not in_form:
            return None
        if n > self.description.rows:
            self._reserve(n)
        memory = self._memory.get(n) or self._make_memory(n)
        noise, noise_address, draw = memory.noise, memory.address, self._draw
        observations, actions, values, log_probs = map(array_address, arrays)
        observation_step, action_step, value_step, log_prob_step = (array.strides[0] for array in arrays)
        make_features, n_features = self._kernels.features, self._n_features
        if parts:
            observation_step = 0
        stored, shape, act, model = rollout_buffer.actions, (n, *self._action_shape), self._kernels.act, self._model

        _, _, stored_values, stored_log_probs = arrays

        def act_in(step: int) -> NDArray[Any]:
            """Act on one step's observations."""
            if (
                rollout_buffer.observations is not stored_observations
                or rollout_buffer.actions is not stored
                or rollout_buffer.values is not stored_values
                or rollout_buffer.log_probs is not stored_log_probs
            ):
                raise RuntimeError(
                    f"rollout_buffer: found other arrays in step {step} of a rollout than at its start, expected the same: "
                    "an environment or a thread has replaced them or called its reset"
                )
            for part in noise:
                draw(part)
            if parts:
                make_features(parts.address, step * n, n, observations, n_features)
            finite = act(
                model,
                observations + step * observation_step,
                n,
                noise_address,
                actions + step * action_step,
                values + step * value_step,
                log_probs + step * log_prob_step,
            )
            if not finite:
                if parts:  # a class that there is not raises here, as in SB3
                    self._features(parts_at(stored_observations, step))
                check_finite_output(stored[step], rollout_buffer.values[step], rollout_buffer.log_probs[step])
            taken: NDArray[Any] = stored[step].reshape(shape).copy()
            return taken

        return act_in

    def _act_beta(self, x: th.Tensor, n: int) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """The same for a Beta, whose gammas torch draws from the concentrations."""
        outputs, values = th.empty((n, self.description.n_outputs), dtype=self._dtype), th.empty((n, 1), dtype=self._dtype)
        log_probs = th.empty(n, dtype=self._dtype)
        self._kernels.outputs(self._model, x.data_ptr(), n, outputs.data_ptr(), values.data_ptr())
        # NaN would be drawn from for ever; its log-probability is not finite whatever the action.
        concentration = 1.0 + th.nn.functional.softplus(outputs.double().nan_to_num())
        gammas = th.distributions.Gamma(concentration, th.ones_like(concentration), validate_args=False).sample()
        log_alphas, log_betas = gammas.log().chunk(2, dim=1)
        actions = (log_alphas - log_betas).to(self._dtype).contiguous()
        self._kernels.log_prob(self._model, actions.data_ptr(), n, log_probs.data_ptr())
        return actions.reshape((n, *self._action_shape)), values, log_probs

    def _make_memory(self, n: int) -> StepMemory:
        """Have memory for a step of n environments."""
        sizes = self.description.sizes or [self.description.action_size]
        if self._matrix_shape:
            sizes = [math.prod(self._matrix_shape)]
        noise = th.empty(n * sum(sizes), dtype=self._dtype)
        parts = [part.view(n, size) for part, size in zip(noise.split([n * size for size in sizes]), sizes, strict=True)]
        actions = th.empty((n, *self._action_shape), dtype=th.int64 if self.description.sizes else self._dtype)
        like = (actions, th.empty((n, 1), dtype=self._dtype), th.empty(n, dtype=self._dtype))
        memory = self._memory[n] = StepMemory(parts, noise.data_ptr(), like)
        return memory

    def _take_exploration(self, noise: th.Tensor) -> None:
        """Take gSDE's matrices as they are now: a row of numbers for each environment."""
        distribution: Any = self.policy.action_dist
        matrices, n = distribution.exploration_matrices, len(noise)
        if n == 1 or n != len(matrices):  # SB3's rule
            matrices = distribution.exploration_mat[None]
        if matrices.shape[1:] != self._matrix_shape:
            raise ValueError(f"exploration matrices: found shape {tuple(matrices.shape[1:])}, expected {self._matrix_shape}")
        noise.copy_(matrices.detach().flatten(1))

    def value(self, inputs: PolicyInputs) -> th.Tensor:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.value`."""
        x = self._features(inputs.observations)
        values = th.empty((len(x), 1), dtype=self._dtype)
        self._kernels.value(self._model, x.data_ptr(), len(x), values.data_ptr())
        return values

    def columns(self, inputs: PolicyInputs) -> dict[str, Any]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.columns`."""
        return inputs.columns()

    def _features(self, observations: PyTorchObs) -> th.Tensor:
        """The matrix that the networks take, in the parameters' type and contiguous; scratch memory for as many rows."""
        features: Any = observations
        if not self._plain_box:
            with th.no_grad():
                features = features_of(self.policy, observations)
        if features.dtype is not self._dtype:
            features = features.to(self._dtype)
        if not features.is_contiguous():
            features = features.contiguous()
        n = len(features)
        if features.numel() != n * self._n_features:
            expected = f"({n}, …) with {self._n_features} numbers each"
            raise ValueError(f"observations: found shape {tuple(features.shape)}, expected {expected}")
        if n > self.description.rows:
            self._reserve(n)
        found: th.Tensor = features
        return found

    # -- updating --------------------------------------------------------------------------------------------------------

    def minibatches(self, rollout_buffer: RolloutBuffer, batch_size: int) -> Iterator[FusedMinibatch]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.minibatches`."""
        if is_plain(rollout_buffer) and (self._are_features or self._parts):
            yield from self._epochs.shuffled(rollout_buffer, batch_size, self._parts, **self._form)
            return
        samples_of_epoch = rollout_buffer.get(batch_size)
        while True:
            # A buffer of the user's own may look at the policy, or change it, between two minibatches.
            self.attach()
            if (samples := next(samples_of_epoch, None)) is None:
                return
            self.attach()
            yield self.minibatch_of(*samples[: self.n_columns])

    @property
    def _form(self) -> dict[str, Any]:
        """Sizes, type and actions of columns."""
        sizes = {"features_dim": self._n_features, "action_size": self.description.action_size}
        return {**sizes, "dtype": self._real, "action_space": self.policy.action_space}

    def minibatch_of(self, observations: th.Tensor, *columns: th.Tensor) -> FusedMinibatch:
        """
        Put transitions in the form that the kernels read.

        :param observations: as the rollout buffer stores them
        :param columns: actions, old values, old log-probabilities, advantages and returns, as in SB3's samples
        :return: all of them as one minibatch
        """
        made = as_columns(self._features(observations).numpy(), *(column.numpy() for column in columns), **self._form)
        n = len(made.returns)
        return next(pick_rows(made, struct_of(made), np.arange(n), n))

    def gradients(self, minibatch: FusedMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.gradients`."""
        n = minibatch.size
        if n > self.description.rows:
            self._reserve(n)
        self._own_gradients()
        if not is_ppos(settings.objective):
            return self._own_objective(minibatch, settings)
        if settings is not self._taken:
            self._settings.take(settings)
            self._taken = settings
        self._kernels.gradients(
            self._model,
            ctypes.addressof(minibatch.struct),
            minibatch.address,
            n,
            self._settings_address,
            self._statistics_address,
            self._ratios_address,
        )
        found: Any = self._statistics
        statistics = MinibatchStatistics(
            found.policy_loss,
            found.value_loss,
            found.entropy_loss,
            found.loss,
            np.float32(found.approx_kl),
            found.clip_fraction,
            found.ratio_max,
            1.0,
            self._ratios[:n].copy(),
        )
        check_finite(statistics)
        return statistics

    def _own_objective(self, minibatch: FusedMinibatch, settings: UpdateSettings) -> MinibatchStatistics:
        """The same with an objective of the user's: Python computes the losses, the kernels everything else."""
        n = minibatch.size
        evaluated = np.empty((3, n), self._ratios.dtype)
        struct, rows = ctypes.addressof(minibatch.struct), minibatch.rows
        self._kernels.evaluate(self._model, struct, minibatch.address, n, array_address(evaluated))
        old_values, old_log_prob, advantages, returns = (th.from_numpy(column[rows]) for column in minibatch.columns[2:6])
        advantages = losses.policy_advantages(
            advantages, settings.normalize_advantage, settings.advantage_moments, settings.clip_advantage
        )
        log_prob, values, entropy = evaluated[0], evaluated[1], None if self.description.model.squashed else evaluated[2]
        data = Transitions(old_log_prob, old_values, advantages, returns)
        found, derivatives = derivatives_of(settings.objective, log_prob, values, entropy, data, settings)
        statistics = statistics_of(found, th.from_numpy(log_prob), old_log_prob, settings)
        check_finite(statistics)
        if stops(statistics, settings):
            return statistics
        slopes = as_slopes(derivatives, evaluated)
        self._kernels.backward(self._model, n, array_address(slopes), derivatives.entropy is not None)
        return statistics

    def apply(self, settings: UpdateSettings) -> float:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.apply`."""
        if not (self._grads and all(map(is_, map(grad_of, self.parameters), self._grads))):
            return self._apply_torchs(settings)
        if not self._optimizer_current:
            self.optimizer.point()
            self._optimizer_current = True
        grad_norm: float = self._kernels.apply(self._optimizer_address, settings.max_grad_norm)
        if grad_norm - grad_norm != 0.0:
            self.optimizer.forget_begun()
            check_finite_norm(grad_norm)
        self.optimizer.stepped()
        project_log_std(self.policy, settings.log_std_bounds)
        return grad_norm

    def _apply_torchs(self, settings: UpdateSettings) -> float:
        """The step by torch itself, where somebody has put other gradients in the place of ours, or there are none."""
        self._optimizer_current = False
        grad_norm = th.nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm).item()
        check_finite_norm(grad_norm)
        self.policy.optimizer.step()
        project_log_std(self.policy, settings.log_std_bounds)
        return grad_norm

    def multiply(self, rows: int, kind: int) -> None:
        """
        Compute nothing but the matrix products of a pass, on numbers that mean nothing, for who wants to measure them.

        :param rows: transitions
        :param kind: :data:`ROW_BY_ROW` or :data:`FORWARD`, as acting does it; or :data:`FORWARD_AND_BACKWARD`, which leaves
            nothing that means anything in the gradients
        """
        if rows > self.description.rows:
            self._reserve(rows)
        self._own_gradients()
        self._kernels.products(self._model, rows, kind)


def as_slopes(derivatives: Derivatives, like: Array) -> Array:
    """
    Put an objective's derivatives in the form that the kernels read.

    :param derivatives: with respect to log-probability, value and entropy
    :param like: what they are derivatives with respect to, shape ``(3, batch)``
    :return: the same shape
    """
    slopes = np.zeros_like(like)
    slopes[0], slopes[1] = derivatives.log_prob, derivatives.values
    if derivatives.entropy is not None:
        slopes[2] = derivatives.entropy
    return slopes
