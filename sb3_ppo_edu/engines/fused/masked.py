"""The fast engine with action masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_edu.engines.base import PolicyInputs
from sb3_ppo_edu.engines.fused.description import array_address
from sb3_ppo_edu.engines.fused.engine import FusedEngine


class MaskedEngine(FusedEngine):
    """
    Acts and updates by compiled kernels, which set the logits of illegal classes to -10⁸ before all else.

    :param policy: one of sb3-contrib's with masks that :func:`~sb3_ppo_edu.engines.fused.engine.why_not_fused` lets pass
    """

    n_columns = 7

    def act(self, inputs: PolicyInputs) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """See :meth:`sb3_ppo_edu.engines.base.Engine.act`."""
        model, masks = self.description.model, inputs.action_masks
        if masks is None:
            model.masks = None
            return super().act(inputs)
        seen: Any = inputs.observations
        n = len(next(iter(seen.values())) if isinstance(seen, dict) else seen)
        if masks.shape != (n, self.description.n_outputs):
            raise ValueError(f"action_masks: found shape {tuple(masks.shape)}, expected ({n}, {self.description.n_outputs})")
        numbers = np.ascontiguousarray(masks.numpy(), self._form["dtype"])
        model.masks = array_address(numbers)
        return super().act(inputs)

    def acting_in(self, rollout_buffer: RolloutBuffer) -> Callable[[int], NDArray[Any]] | None:
        """See :meth:`sb3_ppo_edu.engines.fused.engine.FusedEngine.acting_in`: the buffer has the step's masks, too."""
        act, model = super().acting_in(rollout_buffer), self.description.model
        masks: NDArray[Any] = rollout_buffer.action_masks  # type: ignore[attr-defined]
        if act is None or masks.dtype != self._form["dtype"] or not masks.flags.c_contiguous:
            return None
        address, size = array_address(masks), masks.strides[0]

        def act_in(step: int) -> NDArray[Any]:
            """Act on one step's observations and masks."""
            if rollout_buffer.action_masks is not masks:  # type: ignore[attr-defined]
                raise RuntimeError(f"rollout_buffer: found other action_masks in step {step} than at the rollout's start")
            model.masks = address + step * size
            return act(step)

        return act_in

    @property
    def _form(self) -> dict[str, Any]:
        """Sizes and type of columns."""
        return {**super()._form, "n_masks": self.description.n_outputs}
