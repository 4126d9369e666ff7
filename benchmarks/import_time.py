"""Measure how much longer ``from sb3_ppo_edu import EduPPO`` takes than ``import stable_baselines3``.

Each import runs in fresh interpreters, the two in turn, so that a machine that slows down slows both; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LIMIT_SECONDS = 0.3
MEASURE = "import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"


def import_seconds(statement: str) -> float:
    """
    Time one import in a fresh interpreter.

    :param statement: what to import
    :return: seconds that the import took, the interpreter's own start not counted
    """
    command = [sys.executable, "-c", MEASURE.format(statement=statement)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def main() -> int:
    """
    Print both medians and their difference.

    :return: 0 if the difference is within the limit, else 1
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11, help="runs of each import (default: %(default)s)")
    repeats = parser.parse_args().repeats
    statements = ("import stable_baselines3", "from sb3_ppo_edu import EduPPO")
    for statement in statements:
        import_seconds(statement)  # fills the disk cache and writes the byte code
    rounds = [[import_seconds(statement) for statement in statements] for _ in range(repeats)]
    base, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"median of {repeats}: {statements[0]} {base:.3f} s, {statements[1]} {ours:.3f} s, {ours - base:+.3f} s", end=" ")
    print(f"(limit +{LIMIT_SECONDS} s)")
    return int(ours - base > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
