"""Measure what threads do to small networks: CartPole-v1 with the zoo's settings, alone and beside a second such process.

``python benchmarks/speed/threads.py`` writes ``threads.md`` beside this file. Each training runs in a process of its own,
with the libraries' own numbers of threads or with one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES
from sb3_ppo_edu.lab.speed.rows import conditions
from sb3_ppo_edu.lab.speed.runs import make_model
from sb3_ppo_edu.lab.speed.suite import ENVIRONMENT

CASE = "cartpole-zoo"
ROLLOUTS = 20
REPEATS = 3
NAMES = ("sb3", "autograd", "fused")


def train(algorithm: str) -> float:
    """
    Train in this process.

    :param algorithm: key of :data:`ALGORITHMS`
    :return: seconds
    """
    case = CASES[CASE]
    model = make_model(case, ALGORITHMS[algorithm], 0)
    start = time.perf_counter()
    model.learn(ROLLOUTS * case.n_steps * case.n_envs)
    return time.perf_counter() - start


def seconds_beside(algorithm: str, processes: int, *, one_thread: bool) -> float:
    """
    Train in several processes at once.

    :param algorithm: key of :data:`ALGORITHMS`
    :param processes: how many
    :param one_thread: whether each is limited to one thread; otherwise the libraries choose
    :return: seconds of the slowest
    """
    others = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    env = {**others, **ENVIRONMENT} if one_thread else others
    command = [sys.executable, __file__, algorithm]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return max(float(process.communicate()[0].splitlines()[-1]) for process in running)


def main() -> None:
    """Measure all and write the table; with the name of an algorithm, train it and print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", nargs="?", choices=NAMES, help="train it once, and print the seconds")
    given = parser.parse_args()
    if given.algorithm is not None:
        print(train(given.algorithm))
        return
    lines = []
    for algorithm in NAMES:
        cells = []
        for processes in (1, 2):
            for one_thread in (True, False):
                tries = sorted(seconds_beside(algorithm, processes, one_thread=one_thread) for _ in range(REPEATS))
                cells.append(f"{tries[REPEATS // 2]:.2f} s")
        lines.append(f"| {ALGORITHMS[algorithm].title} | {' | '.join(cells)} |")
    now = conditions("full")
    text = f"""# Threads and small networks

{CASES[CASE].title}: {ROLLOUTS} rollouts with their updates, in one process and in two at once, each with one thread
(`OMP_NUM_THREADS=1`) or with as many as the libraries choose by themselves. Medians of {REPEATS}; of two processes the
slower one.

| | one process, one thread | one process | two processes, one thread each | two processes |
|---|---|---|---|---|
{chr(10).join(lines)}

The fused engine does small work in one thread whatever the libraries are set to, and restores their setting after each call.

Made by `python benchmarks/speed/threads.py` on {now.machine}; {now.versions}.
"""
    Path(__file__).with_name("threads.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
