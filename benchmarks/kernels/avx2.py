"""Measure the kernels without AVX-512 where they are nearest to SB3's PPO: the largest networks and minibatches.

``python benchmarks/kernels/avx2.py`` prints a line for each size: milliseconds of an update of one minibatch, SB3's
``train()`` and ours in turn, seven of each, and their ratios. Torch is limited to AVX2 too, unless ``--torch-free`` is given.
Two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SIZES = ((1024, 3, 4096), (1024, 3, 1024), (1024, 2, 4096))
"""Units of a hidden layer, hidden layers, transitions of a minibatch."""


def main() -> None:
    """Measure, and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-free", action="store_true", help="let torch take what the processor has")
    limits = {} if parser.parse_args().torch_free else AVX2
    os.environ.update(limits, OMP_NUM_THREADS="1")

    from sb3_ppo_edu.lab.speed import grid  # torch reads the limits when it is imported

    grid.POINT_SECONDS, grid.MOST_REPEATS = 200.0, 7
    for width, depth, batch_size in SIZES:
        models = {engine: grid.make_model(engine, width, depth, batch_size) for engine in ("sb3", "fused-v3")}
        seconds = grid.time_alternating({engine: partial(grid.update, model) for engine, model in models.items()})
        taken = ", ".join(f"{engine} {1000 * statistics.median(times):.0f} ms" for engine, times in seconds.items())
        ratios = sorted(theirs / ours for theirs, ours in zip(*seconds.values(), strict=True))
        print(
            f"{depth} × {width}, {batch_size:,} transitions: {taken}; {statistics.median(ratios):.2f} times as fast "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
