"""An engine that says what it is told to: for tests of the KL rule and of the log around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import AutogradEngine, MinibatchStatistics, UpdateSettings
from tests.rollouts import N_STEPS, collect, make_model, record


class ScriptedEngine(AutogradEngine):
    """An engine that reports a list of KL estimates and counts its steps, in order to test the rule around it."""

    name = "scripted"

    def __init__(self, policy: Any, *, kls: tuple[float, ...]) -> None:
        super().__init__(policy)
        self.kls = kls
        self.calls: list[str] = []

    def gradients(self, minibatch: Any, settings: UpdateSettings) -> MinibatchStatistics:
        """Report the next estimate; the other statistics count up from 1."""
        number = self.calls.count("gradients")
        self.calls.append("gradients")
        return MinibatchStatistics(
            policy_loss=1.0 + number,
            value_loss=10.0 + number,
            entropy_loss=-1.0 - number,
            loss=100.0 + number,
            approx_kl=np.float32(self.kls[number]),
            clip_fraction=0.125 * number,
            ratio_max=1.0 + [0.0, 0.75, 0.25, 0.5, 0.0, 0.0][number],
        )

    def apply(self, settings: UpdateSettings) -> float:
        """Count the step; the norms are 2, 4, 6, ..."""
        self.calls.append("apply")
        return 2.0 * self.calls.count("apply")


def scripted_update(kls: tuple[float, ...], **arguments: Any) -> tuple[EduPPO, ScriptedEngine, dict[str, Any]]:
    """Run one update of 3 epochs of 2 minibatches with scripted KL estimates; give model, engine and log."""
    model = make_model(batch_size=N_STEPS // 2, n_epochs=3, engine=ScriptedEngine, engine_kwargs={"kls": kls}, **arguments)
    recorder = record(model)
    collect(model)
    model.train()
    model.logger.dump()
    engine = model.attach_engine()
    assert isinstance(engine, ScriptedEngine)
    return model, engine, recorder.rows[-1]
