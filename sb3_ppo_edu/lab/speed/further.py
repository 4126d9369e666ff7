"""Measurements of what else users wait for: the import, the first update, and SB3's callbacks beside a training."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from stable_baselines3.common import callbacks

from sb3_ppo_edu.lab.speed.cases import Algorithm, Case
from sb3_ppo_edu.lab.speed.runs import make_env, make_model, time_training
from sb3_ppo_edu.lab.speed.watches import Stopwatch, replaced

IMPORTS = {
    "stable_baselines3": "import stable_baselines3",
    "sb3_ppo_edu": "import sb3_ppo_edu",
    "sb3_ppo_edu and its EduPPO": "from sb3_ppo_edu import EduPPO",
}
"""What is imported, and the statement that does it."""

FIRST_UPDATE, LATER_UPDATES = "first update", "later updates"
ALONE, WITH_CALLBACKS, THEIR_WORK = "alone", "with callbacks", "evaluations and checkpoints"

CALLBACKS_EVERY = 10_000
"""Steps between evaluations, and between checkpoints: SB3's default for evaluations."""

ROLLOUTS_WITH_CALLBACKS = 20


def import_seconds(statement: str) -> float:
    """
    Time an import in a fresh interpreter.

    :param statement: what imports
    :return: seconds, the interpreter's own start not counted
    """
    program = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    found = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return float(found.stdout.splitlines()[-1])


def measure_imports() -> dict[str, float]:
    """
    Time the imports of :data:`IMPORTS`, once before to fill the disk cache and write the byte code.

    :return: seconds of each
    """
    for statement in IMPORTS.values():
        import_seconds(statement)
    return {name: import_seconds(statement) for name, statement in IMPORTS.items()}


def measure_updates(case: Case, algorithm: Algorithm, seed: int) -> dict[str, float]:
    """
    Time the updates of a training.

    :param case: the training
    :param algorithm: who trains
    :param seed: of the training
    :return: seconds of the first, and the median of all others
    """
    model = make_model(case, algorithm, seed)
    watch = Stopwatch()
    with replaced(model, "train", watch.around):
        time_training(model, case)
    first, *later = watch.calls
    return {FIRST_UPDATE: first, LATER_UPDATES: statistics.median(later)}


def measure_callbacks(case: Case, algorithm: Algorithm, seed: int) -> dict[str, float]:
    """
    Train alone, and with SB3's callbacks for evaluations and checkpoints and a progress bar; each first every other time.

    :param case: the training; it goes on for :data:`ROLLOUTS_WITH_CALLBACKS` rollouts
    :param algorithm: who trains
    :param seed: of the training
    :return: seconds of both, and what the episodes of evaluations and the writing of files have of the second
    """
    longer = replace(case, rollouts=ROLLOUTS_WITH_CALLBACKS)
    found: dict[str, float] = {}
    for name in (ALONE, WITH_CALLBACKS) if seed % 2 == 0 else (WITH_CALLBACKS, ALONE):
        found.update(with_callbacks(longer, algorithm, seed) if name == WITH_CALLBACKS else alone(longer, algorithm, seed))
    return found


def alone(case: Case, algorithm: Algorithm, seed: int) -> dict[str, float]:
    """Train without callbacks."""
    return {ALONE: time_training(make_model(case, algorithm, seed), case)}


def with_callbacks(case: Case, algorithm: Algorithm, seed: int) -> dict[str, float]:
    """Train with callbacks."""
    model, work = make_model(case, algorithm, seed), Stopwatch()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        watching: list[callbacks.BaseCallback] = [
            callbacks.EvalCallback(make_env(case, algorithm, seed + 1), eval_freq=CALLBACKS_EVERY, log_path=folder, verbose=0),
            callbacks.CheckpointCallback(CALLBACKS_EVERY, folder),
        ]
        stack.enter_context(replaced(callbacks, "evaluate_policy", work.around))
        stack.enter_context(replaced(model, "save", work.around))
        seconds = time_training(model, case, callback=watching, progress_bar=True)
    return {WITH_CALLBACKS: seconds, THEIR_WORK: work.seconds}


def measure_further(kind: str, case: Case | None, algorithm: Algorithm | None, seed: int) -> list[dict[str, Any]]:
    """
    Measure one of these.

    :param kind: "import", "updates" or "callbacks"
    :param case: the training; None for imports
    :param algorithm: who trains; None for imports
    :param seed: of the training
    :return: rows for ``further.csv``, without names and conditions
    """
    if case is None or algorithm is None:
        found = measure_imports()
    else:
        found = (measure_updates if kind == "updates" else measure_callbacks)(case, algorithm, seed)
    return [{"part": part, "seconds": round(seconds, 6)} for part, seconds in found.items()]
