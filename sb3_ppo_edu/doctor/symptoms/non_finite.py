"""Numbers that are no longer finite, or on the way there."""

from __future__ import annotations

import numpy as np

from sb3_ppo_edu.doctor.findings import MIN_UPDATES, Band, Evidence, Finding, Symptom, beyond, evidence_of, find, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.consequences import OUTCOME, VALUE
from sb3_ppo_edu.doctor.symptoms.metrics import EXPLAINED, KL
from sb3_ppo_edu.doctor.symptoms.settings import NORMALIZE


def nan_coming(record: Record) -> Finding | None:
    """Find numbers that are no longer finite, or that grow without bound."""
    # The explained variance of returns that do not vary, and the mean of no episode, are NaN in good health.
    broken = {
        key: step
        for key, step in record.not_finite.items()
        if key.startswith("train/") and key not in (EXPLAINED, "train/grad_norm_policy", "train/grad_norm_value")
    }
    if broken:
        key, step = min(broken.items(), key=lambda item: (item[1], item[0]))
        last = max(step, int(record.steps[-1]) if len(record.steps) else 0)
        return Finding("nan-coming", 1.0, 1.0, (Evidence(key, f"NaN or infinite from step {step:,} on", step, last),))
    for key in ("train/value_loss", "train/grad_norm", "train/loss", KL):
        sizes = np.abs(record.values(key))
        sizes = sizes[sizes > 0]
        if len(sizes) < MIN_UPDATES:
            continue
        growth = float(np.median(sizes[-2:]) / np.median(sizes[: len(sizes) // 2]))
        finding = find(
            "nan-coming",
            min(beyond(growth, 1e4, 1e7), beyond(float(sizes[-1]), 1e6, 1e10)),
            evidence_of(record, key, f"{show(float(sizes[-1]))} at the end, {growth:.0e} times its usual size"),
        )
        if finding is not None:
            return finding
    return None


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        name="nan-coming",
        title="Numbers are no longer finite, or on the way there",
        needs=(),
        healthy="finite, and of the same order throughout",
        source="arithmetic: one NaN in a parameter makes the policy useless",
        meaning="A loss or gradient has left the range of float32; what comes after it is lost.",
        remedy="Look for NaN or huge values in observations and rewards (VecCheckNan), normalise both, lower the learning "
        "rate.",
        not_when="an explained variance of NaN is no fault: it only says that all returns were equal.",
        examine=nan_coming,
        changes=(NORMALIZE,),
        bands=(Band("train/value_loss", None, None, log=True),),
        min_updates=0,
        explains=(*OUTCOME, *VALUE, "gradients-always-clipped"),
    ),
)
