"""Measure what one minibatch costs, part by part: CartPole-v1 with SB3's defaults, 64 transitions, two towers of 64 and 64.

``python benchmarks/kernels/minibatch.py`` writes ``minibatch.md`` beside this file. The kernels are compiled anew, with
``stopwatch.c`` linked around their parts; the engine in Python is the one that trains.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from sb3_ppo_edu import EduPPO
from sb3_ppo_edu.engines import FusedEngine, UpdateSettings
from sb3_ppo_edu.engines.fused import build
from sb3_ppo_edu.engines.fused import engine as fused_engine
from sb3_ppo_edu.engines.fused.library import Library, load_library
from sb3_ppo_edu.lab.rows import machine
from sb3_ppo_edu.training.settings import versions

PROJECT = Path(__file__).resolve().parents[2]
BATCH_SIZE = 64
EPOCHS = 400
PEAK_STEPS, PEAK_TRIES = 10**5, 100

# In the order of stopwatch.c.
PARTS = (
    "rows of the rollout, to feature-major",
    "products, forward",
    "products, weight gradients",
    "products, input gradients",
    "transposing the layers' inputs",
    "tanh",
    "its derivative",
    "log-probability and entropy",
    "their derivatives",
    "losses",
    "norm, clipping, Adam",
    "bias gradients, columns of the rollout, all else in C",
)
WRAPPED = (
    "product",
    "transpose",
    "gather",
    "activate",
    "activate_backward",
    "evaluate",
    "distribution_backward",
    "losses",
)
SETTINGS = UpdateSettings(
    clip_range=0.2,
    clip_range_vf=None,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
    normalize_advantage=True,
    advantage_moments=None,
    clip_advantage=None,
    dual_clip=None,
    vf_clip_mode="sb3",
    kl_estimator="k3",
    log_std_bounds=None,
)


class TimedLibrary(Library):
    """The kernels with stopwatches: the verbs that update are the timed ones."""

    def function(self, verb: str, dtype: str) -> Any:
        """See :meth:`Library.function`."""
        return super().function(f"timed_{verb}" if verb in ("gradients", "apply") else verb, dtype)


def build_timed(folder: Path) -> TimedLibrary:
    """
    Compile the kernels with stopwatches, for the level that is chosen on this machine.

    :param folder: where the library goes
    :return: the library
    """
    level, host = load_library().level, build.host_target()
    assert host is not None  # or there would have been no library
    target = build.Target(host.name, host.zig, host.wheel_tag, (level,), host.suffix)
    compiler, cache = build.compilers(target)[0], PROJECT / "build" / "zig"
    sources = [*build.kernel_sources(build.SOURCES), Path(__file__).with_name("stopwatch.c")]
    options = (f"-I{build.SOURCES}",)
    objects = build.compile_all(compiler, target, build.SOURCES, folder, cache, sources, options)
    path = folder / "timed.so"
    wraps = [f"-Wl,--wrap=sb3edu_internal_{part}_{dtype}_{level}" for part in WRAPPED for dtype in build.REALS]
    link = (*compiler.command, *compiler.options(target), "-O3", "-shared", "-o", str(path), *wraps, *map(str, objects), "-lm")
    build.run(link, cache, folder)
    return TimedLibrary(level, path, compiler.name, ctypes.CDLL(str(path)))


class Stopwatch:
    """
    What the timed kernels have counted, in microseconds.

    :param library: the timed kernels
    """

    def __init__(self, library: TimedLibrary) -> None:
        self._read, self._peak = library.function("read", "f32"), library.function("peak", "f32")
        self._now = library.function("now", "f32")
        self._now.restype = self._peak.restype = ctypes.c_double
        self._peak.argtypes = [ctypes.c_int64, ctypes.c_void_p]
        self._read.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.ticks_per_microsecond = self._calibrate()

    def _calibrate(self) -> float:
        """Count ticks over a tenth of a second."""
        start, ticks = time.perf_counter(), self._now()
        while (elapsed := time.perf_counter() - start) < 0.1:
            pass
        rate: float = (self._now() - ticks) / (elapsed * 1e6)
        return rate

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Read the stopwatches and set them to 0.

        :return: microseconds and multiply-adds of each part
        """
        ticks, multiply_adds = np.zeros(len(PARTS)), np.zeros(len(PARTS))
        self._read(ticks.ctypes.data, multiply_adds.ctypes.data)
        return ticks / self.ticks_per_microsecond, multiply_adds

    def peak(self) -> float:
        """
        Measure the core's peak.

        :return: multiply-adds in a microsecond, the best of some tries
        """
        rates: list[float] = []
        result = np.empty(16, np.float32)
        for _ in range(PEAK_TRIES):
            result[:2] = 0.5, 1.0
            start = time.perf_counter()
            count = self._peak(PEAK_STEPS, result.ctypes.data)
            rates.append(count / (time.perf_counter() - start) / 1e6)
        return max(rates)


def update(engine: FusedEngine, buffer: Any) -> tuple[float, int]:
    """
    Do one epoch as the algorithm does it.

    :param engine: the engine
    :param buffer: a full rollout buffer
    :return: microseconds of processor time, and the number of minibatches
    """
    start, count = time.process_time_ns(), 0
    for minibatch in engine.minibatches(buffer, BATCH_SIZE):
        engine.gradients(minibatch, SETTINGS)
        engine.apply(SETTINGS)
        count += 1
    return (time.process_time_ns() - start) / 1000, count


def main() -> None:
    """Measure and write the table."""
    model = EduPPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", engine="fused", n_epochs=1)
    model.learn(model.n_steps)
    with tempfile.TemporaryDirectory() as folder:
        library = build_timed(Path(folder))
        watch = Stopwatch(library)
        with patch.object(fused_engine, "load_library", lambda: library):
            timed = FusedEngine(model.policy)
        plain = FusedEngine(model.policy)
        rows, wholes, plains = [], [], []
        for _ in range(EPOCHS):
            watch.read()
            whole, count = update(timed, model.rollout_buffer)
            parts, multiply_adds = watch.read()
            rows.append(parts / count)
            wholes.append(whole / count)
            plains.append(update(plain, model.rollout_buffer)[0] / count)
        peak = watch.peak()
    fastest = EPOCHS // 10
    microseconds = np.median(sorted(rows, key=sum)[:fastest], axis=0)
    whole, without = (statistics.median(sorted(column)[:fastest]) for column in (wholes, plains))
    lines = []
    for name, taken, work in zip(PARTS, microseconds, multiply_adds / count, strict=True):
        rate = f"{work / 1000:.0f} | {work / taken / peak:.0%}" if work else " | "
        lines.append(f"| {name} | {taken:.2f} | {taken / whole:.1%} | {rate} |")
    rest = whole - sum(microseconds)
    lines.append(f"| Python: shuffling, slicing, two calls, statistics | {rest:.2f} | {rest / whole:.1%} | | |")
    lines.append(f"| **together** | **{whole:.1f}** | | | |")
    numbers = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = f"""# What a minibatch of {BATCH_SIZE} costs

CartPole-v1 with SB3's defaults: two towers of 64 and 64 units, tanh, Adam. Microseconds for one minibatch in one thread,
medians of the fastest tenth of {EPOCHS} epochs, which other work on the machine disturbs least. "Of the peak": of the
multiply-adds that the core does where nothing has to be loaded or stored, {peak / 1000:.0f} in a nanosecond here.

| part | µs | share | thousand multiply-adds | of the peak |
|---|---:|---:|---:|---:|
{chr(10).join(lines)}

Without the stopwatches a minibatch took {without:.1f} µs.

Made by `python benchmarks/kernels/minibatch.py` on {machine()}; instruction set {library.level}, compiled by
{library.compiler}; {numbers}.
"""
    Path(__file__).with_name("minibatch.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
