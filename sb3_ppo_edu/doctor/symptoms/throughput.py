"""The speed of a training."""

from __future__ import annotations

import numpy as np

from sb3_ppo_edu.doctor.findings import MIN_UPDATES, Band, Change, Finding, Symptom, beyond, evidence_of, find, median, show
from sb3_ppo_edu.doctor.record import Record
from sb3_ppo_edu.doctor.symptoms.metrics import EVALUATED


def throughput_lost(record: Record) -> Finding | None:
    """Find a training that has become slow, or was slow from the start for a reason that the settings tell."""
    steps, elapsed = record.series("time/time_elapsed")
    spent = elapsed[-1] - elapsed[0]
    # Evaluations in between take their time too, and other times as the policy changes.
    if len(steps) >= 2 * MIN_UPDATES and spent >= 20 and not record.has(EVALUATED):
        half = int(np.searchsorted(steps, (steps[0] + steps[-1]) / 2))
        first = (steps[half] - steps[0]) / max(elapsed[half] - elapsed[0], 1.0)
        second = (steps[-1] - steps[half]) / max(elapsed[-1] - elapsed[half], 1.0)
        text = f"{show(float(second))} steps per second in the second half, {show(float(first))} in the first"
        position = beyond(float(first / max(second, 1e-9)), 4.0, 10.0)
        if position >= 0:
            return find("throughput-lost", position, evidence_of(record, "time/time_elapsed", text), most=0.7)
    fps = median(record, "time/fps")
    threads, policy, device = record.number("torch_threads"), record.setting("policy"), str(record.setting("device"))
    if policy != "MlpPolicy" or spent < 20:
        return None
    if threads is not None and threads > 1:
        text = f"{show(fps)} steps per second with {threads:.0f} torch threads; a small network is fastest with one"
        return find("throughput-lost", beyond(fps, 500.0, 50.0), evidence_of(record, "time/fps", text), most=0.65)
    if device.startswith("cuda"):
        text = f"{show(fps)} steps per second on {device}; a small network is faster on the CPU"
        return find("throughput-lost", beyond(fps, 1000.0, 100.0), evidence_of(record, "time/fps", text), most=0.65)
    return None


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        name="throughput-lost",
        title="Time is lost to threads, rendering or a device that does not pay",
        needs=("time/time_elapsed", "time/fps"),
        healthy="the same speed throughout; thousands of steps per second with a small network",
        source="benchmarks/speed (threads.md, limits.md); that it has to be four times slower is calibration: on a machine "
        "that others use too, healthy trainings became three times slower",
        meaning="Small networks are slower with several threads or on a GPU, a render mode makes an environment draw for "
        "nobody, and "
        "a training that slows down shares its machine or fills its memory.",
        remedy="Use one thread (--threads 1), the CPU (--device cpu), and no render mode.",
        not_when="large networks and images; with evaluations in between, whose length changes, a training that slows down is "
        "not looked for.",
        examine=throughput_lost,
        changes=(Change("threads", 1),),
        bands=(Band("time/fps", None, None),),
    ),
)
