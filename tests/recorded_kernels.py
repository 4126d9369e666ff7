"""Writes down what the kernels were given and gave, for the sanitizers' program: into the folder that SB3_EDU_CASES names."""

from __future__ import annotations

import ctypes
import os
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_edu.engines import FusedEngine, UpdateSettings
from sb3_ppo_edu.engines.fused.description import (
    GSDE,
    LayerStruct,
    RecurrentLayerStruct,
    RecurrentStruct,
    SettingsStruct,
    StatisticsStruct,
    TowerStruct,
)
from sb3_ppo_edu.engines.fused.minibatches import FusedMinibatch
from sb3_ppo_edu.engines.fused.observations import StoredParts
from tests.kernel_cases import KernelCase

FOLDER = os.environ.get("SB3_EDU_CASES")
TOLERANCE = {"f32": {"rtol": 1e-3, "atol": 1e-3}, "f64": {"rtol": 1e-9, "atol": 1e-9}}
numbers = count()


def without_pointers(struct: Any) -> bytes:
    """A structure's bytes, with zeros for the addresses."""
    copied = type(struct).from_buffer_copy(struct)
    for name, kind in struct._fields_:
        if kind is ctypes.c_void_p:
            setattr(copied, name, None)
    return bytes(copied)


def numbers_at(address: int, size: int, kind: Any) -> np.ndarray:
    """Some numbers of the kernels' memory."""
    return np.frombuffer(ctypes.string_at(address, int(size) * np.dtype(kind).itemsize), kind)


class RecordedCall:
    """
    A call of a kernel that becomes a case.

    :param engine: whose kernel it is
    :param verb: the kernel
    """

    def __init__(self, engine: FusedEngine, verb: str) -> None:
        self.engine, self.description = engine, engine.description
        self.dtype = "f64" if self.description.dtype is th.float64 else "f32"
        self.case = KernelCase(verb, self.dtype)
        self._blocks: list[tuple[int, int]] = []

    def struct(self, struct: Any) -> int:
        """Add a structure, or several of one kind side by side."""
        parts = list(struct) if isinstance(struct, ctypes.Array) else [struct]
        block = self.case.block(b"".join(map(without_pointers, parts)))
        self._blocks.append((ctypes.addressof(struct), block))
        return block

    def array(self, array: Any, expected: Any = None, alignment: int = 8) -> int:
        """Add numbers; what is expected is compared as the kernel's own type."""
        before = np.ascontiguousarray(array)
        if expected is None:
            return self.case.block(before, alignment=alignment)
        kind = "int64" if before.dtype == np.int64 else "real"
        tolerance = {} if kind == "int64" else TOLERANCE[self.dtype]
        return self.case.block(before, np.ascontiguousarray(expected), kind=kind, alignment=alignment, **tolerance)

    def point(self, struct: Any, member: str, block: int) -> None:
        """Let a member of a structure that was added, or of one within it, point to a block."""
        where = ctypes.addressof(struct)
        start, inside = max(found for found in self._blocks if found[0] <= where)
        self.case.pointer(inside, where - start + getattr(type(struct), member).offset, block)

    def model(self, gradients_expected: bool = False) -> int:
        """Add the description of the policy."""
        model = self.description.model
        block = self.struct(model)
        for tower in (model.actor, model.critic, model.shared):
            assert isinstance(tower, TowerStruct)
            if tower.depth:
                layers = (LayerStruct * tower.depth).from_address(tower.layers)
                self.point(tower, "layers", self.struct(layers))
        self.recurrent_layers()
        for parameter, struct, member in self.description.places:
            self.point(struct, member, self.array(parameter.detach().numpy()))
            if gradients_expected:
                assert parameter.grad is not None
                expected = parameter.grad.numpy()
                self.point(struct, f"{member}_gradient", self.array(np.full_like(expected, np.nan), expected))
        real = np.float64 if self.dtype == "f64" else np.float32
        for member, size, kind in (
            ("sizes", model.choices, np.int64),
            ("node", model.nodes, real),
            ("node_weight", model.nodes, real),
            ("scratch", model.capacity, real),
        ):
            if size:
                content = np.zeros(size, kind) if member == "scratch" else numbers_at(getattr(model, member), size, kind)
                self.point(model, member, self.array(content, alignment=64))
        return block

    def recurrent_layers(self) -> None:
        """Add the layers of LSTMs and GRUs, the states that they begin with and, where they are left, the next ones."""
        model, real = self.description.model, np.float64 if self.dtype == "f64" else np.float32
        blocks: dict[int, int] = {}
        for tower in (model.actor, model.critic):
            if tower.recurrent:
                found = RecurrentStruct.from_address(tower.recurrent)
                if tower.recurrent not in blocks:
                    blocks[tower.recurrent] = self.struct(found)
                    layers = (RecurrentLayerStruct * found.depth).from_address(found.layers)
                    self.point(found, "layers", self.struct(layers))
                    size = numbers_at(model.counts, 1, np.int64)[0] * found.depth * found.units
                    for name in ("hidden", "cell"):
                        self.point(found, name, self.array(numbers_at(getattr(found, name), size, real)))
                        if address := getattr(found, f"next_{name}"):
                            expected = numbers_at(address, size, real)
                            self.point(found, f"next_{name}", self.array(np.copy(expected), expected))
                self.point(tower, "recurrent", blocks[tower.recurrent])
        if model.steps:
            counts = numbers_at(model.counts, model.steps, np.int64)
            self.point(model, "counts", self.array(counts))
            self.point(model, "episode_starts", self.array(numbers_at(model.episode_starts, counts.sum(), real)))

    def parts(self, stored: StoredParts) -> int:
        """Add the observations of a rollout buffer."""
        block = self.struct(stored.struct)
        self.point(stored.struct, "parts", self.struct(stored.table))
        for entry, part, array in zip(stored.table, stored.parts, stored.arrays, strict=True):
            self.point(entry, "data", self.case.block(array))
            if part.classes is not None:
                self.point(entry, "classes", self.case.block(part.classes))
        return block

    def write(self) -> None:
        """Write the case."""
        self.case.write(Path(str(FOLDER)) / f"{self.case.kernel}-{next(numbers):05}")


def record_gradients(engine: FusedEngine, minibatch: FusedMinibatch, update: UpdateSettings, ratios: Any) -> None:
    """
    Write down the call of ``gradients`` that was just made.

    :param engine: the engine
    :param minibatch: what it was given
    :param update: the settings
    :param ratios: what it gave, beside gradients
    """
    # Where gSDE's deviation is close to its epsilon, what v2 rounds otherwise is a thousand times as large in float32.
    rounded = engine.description.model.distribution == GSDE and engine.description.dtype is th.float32
    if FOLDER is None or rounded:
        return
    call = RecordedCall(engine, "gradients")
    settings, statistics = SettingsStruct(), StatisticsStruct()
    settings.take(update)
    arguments = [call.model(gradients_expected=True), call.struct(minibatch.struct), call.array(minibatch.rows)]
    observations, *others, masks = minibatch.columns
    if masks is not None:
        call.point(minibatch.struct, "masks", call.array(masks))
    if isinstance(observations, StoredParts):
        call.point(minibatch.struct, "parts", call.parts(observations))
    else:
        call.point(minibatch.struct, "observations", call.array(observations))
    for (member, _), column in zip(minibatch.struct._fields_[1:6], others, strict=True):
        call.point(minibatch.struct, member, call.array(column))
    arguments += [call.struct(settings), call.struct(statistics), call.array(np.zeros_like(ratios), ratios)]
    for index, block in enumerate(arguments):
        call.case.pass_block(block)
        if index == 2:
            call.case.pass_number(minibatch.size)
    call.write()


def record_features(engine: FusedEngine, stored: StoredParts, first: int, features: Any) -> None:
    """
    Write down a call of ``features``.

    :param engine: the engine
    :param stored: observations of a rollout buffer
    :param first: the transition that it began with
    :param features: what it gave
    """
    if FOLDER is None:
        return
    call = RecordedCall(engine, "features")
    call.case.pass_block(call.parts(stored))
    call.case.pass_number(first)
    call.case.pass_number(len(features))
    call.case.pass_block(call.array(np.full_like(features, np.nan), features))
    call.case.pass_number(features.shape[1])
    call.write()


def record_value(engine: FusedEngine, observations: th.Tensor, values: th.Tensor) -> None:
    """
    Write down a call of ``value``.

    :param engine: the engine
    :param observations: what it was given
    :param values: what it gave
    """
    if FOLDER is None:
        return
    call = RecordedCall(engine, "value")
    call.case.pass_block(call.model())
    call.case.pass_block(call.array(observations.numpy()))
    call.case.pass_number(len(observations))
    call.case.pass_block(call.array(np.zeros_like(values.numpy()), values.numpy()))
    call.write()


def record_act(
    engine: FusedEngine, observations: th.Tensor, noise: Any, outputs: tuple[th.Tensor, ...], masks: Any = None
) -> None:
    """
    Write down a call of ``act``.

    :param engine: the engine
    :param observations: what it was given
    :param noise: the random numbers
    :param outputs: actions, values and log-probabilities
    :param masks: 0 where a class is illegal, in the kernel's type, or None
    """
    if FOLDER is None:
        return
    call = RecordedCall(engine, "act")
    call.case.pass_block(call.model())
    if masks is not None:
        call.point(engine.description.model, "masks", call.array(masks))
    call.case.pass_block(call.array(observations.numpy()))
    call.case.pass_number(len(observations))
    call.case.pass_block(call.array(noise))
    for output in outputs:
        call.case.pass_block(call.array(np.zeros_like(output.numpy()), output.numpy()))
    call.write()


def tensors_of(engine: FusedEngine) -> list[list[np.ndarray | None]]:
    """Copies of what a step reads and writes of each parameter, in the order of the kernels' table."""
    found: list[list[np.ndarray | None]] = []
    for parameter in engine.parameters:
        state = engine.policy.optimizer.state.get(parameter, {})
        tensors = [
            parameter.detach(),
            parameter.grad,
            *(state.get(str(name)) for name in engine.optimizer.names),
            state.get("step"),
        ]
        found.append([tensor.numpy().copy() if isinstance(tensor, th.Tensor) else None for tensor in tensors])
    return found


def record_apply(engine: FusedEngine, before: list[list[np.ndarray | None]], max_grad_norm: float) -> None:
    """
    Write down the call of ``apply`` that was just made.

    :param engine: the engine
    :param before: what :func:`tensors_of` gave before the call
    :param max_grad_norm: the bound of the norm
    """
    if FOLDER is None:
        return
    call = RecordedCall(engine, "apply")
    table = engine.optimizer.table
    call.case.pass_block(call.struct(engine.optimizer.struct))
    call.point(engine.optimizer.struct, "parameters", call.struct(table))
    for entry, old, new in zip(table, before, tensors_of(engine), strict=True):
        for member, content, expected in zip(("value", "gradient", "first", "second", "third", "step"), old, new, strict=True):
            if content is not None and member == "step":
                call.point(entry, member, call.case.block(content, expected))
            elif content is not None:
                call.point(entry, member, call.array(content, expected))
    call.case.pass_number(float(max_grad_norm))
    call.write()
