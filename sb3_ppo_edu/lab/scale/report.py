"""The report of the scaling experiment, and the projection to more machines than there are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.envs.backends import BACKENDS
from sb3_ppo_edu.lab.formatting import NOTHING, number
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table
from sb3_ppo_edu.lab.plots import BLUE, GREEN, VERMILLION
from sb3_ppo_edu.lab.rows import read_rows
from sb3_ppo_edu.lab.scale.measure import (
    ALL_REDUCE,
    BATCH,
    ENVS,
    EPISODES,
    EPOCHS,
    FILE,
    N_STEPS,
    STEPPING,
    TRAINING,
    UPDATE,
    ScaleRow,
)

WORTH = 1.6
"""How much faster two processes shall be than one."""

LATENCY, BANDWIDTH = 50e-6, 1.25e9
"""The network between machines in the projection: seconds for a message, bytes a second (10 Gbit/s Ethernet)."""
PER_MACHINE = 8
"""Processes on each machine of the projection."""
PROJECTED = (1, 2, 4, 8, 16, 32, 64)
STYLES = {
    "dummy": (BLUE, "o-"),
    "gymnasium-sync": (BLUE, "s--"),
    "workers": (VERMILLION, "^:"),
    "subproc": (VERMILLION, "o-"),
    "gymnasium-async": (VERMILLION, "s--"),
    "gymnasium-native": (GREEN, "s--"),
    "envpool": (GREEN, "o-"),
}


def read_page(folder: Path, command: str) -> Page:
    """
    Make the report of the rows that are there.

    :param folder: where they are
    :param command: what has measured them
    :return: the report
    :raises ValueError: if there are none
    """
    rows = read_rows(folder / FILE, ScaleRow)
    if not rows:
        raise ValueError(f"{folder / FILE}: found no rows, expected those of `sb3-edu bench scale`")
    sections = [stepping_section(rows), training_section(rows), projection_section(rows), episodes_section(rows)]
    made = f"Made by `{command}` on {rows[-1].machine}; {rows[-1].versions}. Rows: [{FILE}]({FILE})."
    return Page("Past one core", lead(rows), sections, made)


def medians(rows: Sequence[ScaleRow], kind: str) -> dict[tuple[str, str, int], float]:
    """
    Take the median over repetitions.

    :param rows: all rows
    :param kind: which of them
    :return: by environment, backend and number
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        if row.kind == kind:
            found.setdefault((row.env, row.backend, row.number), []).append(row.value)
    return {key: statistics.median(values) for key, values in found.items()}


def names(rows: Sequence[ScaleRow], kind: str) -> list[str]:
    """
    List the environments of some rows, in their order.

    :param rows: all rows
    :param kind: which of them
    :return: environments
    """
    return list(dict.fromkeys(row.env for row in rows if row.kind == kind))


def lead(rows: Sequence[ScaleRow]) -> list[str]:
    """
    Say what it comes to.

    :param rows: all rows
    :return: paragraphs
    """
    rates = medians(rows, TRAINING)
    gains = {env: rates[env, "", 2] / rates[env, "", 1] for env in names(rows, TRAINING) if (env, "", 2) in rates}
    listed = ", ".join(f"{env} {gain:.2f}" for env, gain in gains.items())
    worth = [env for env, gain in gains.items() if gain >= WORTH]
    return [
        f"**Two processes against one with the same settings, times as fast: {listed}.** "
        + (f"At least {WORTH}, and so worth a core: {', '.join(worth)}." if worth else f"None reaches {WORTH}."),
        *(best_backend(rows, env) for env in names(rows, STEPPING)),
    ]


def best_backend(rows: Sequence[ScaleRow], env: str) -> str:
    """
    Say which backend pays on an environment.

    :param rows: all rows
    :param env: the environment
    :return: a sentence
    """
    rates = medians(rows, STEPPING)
    most = max(number for name, _, number in rates if name == env and (env, "dummy", number) in rates and number <= ENVS)
    here = {
        backend: rates[env, backend, most] / rates[env, "dummy", most] for backend in BACKENDS if (env, backend, most) in rates
    }
    fastest = max(here, key=lambda backend: here[backend])
    if fastest == "dummy":
        return f"**{env}**, {most} environments: `dummy` is the fastest."
    exact = max((one for one in here if one not in ("envpool", "gymnasium-native")), key=lambda backend: here[backend])
    rest = "" if exact == fastest else f"; of those that give SB3's episodes `{exact}` ({here[exact]:.1f})"
    return f"**{env}**, {most} environments: `{fastest}` is {here[fastest]:.1f} times as fast as `dummy`{rest}."


def stepping_section(rows: Sequence[ScaleRow]) -> Section:
    """
    Show steps a second by backend and number of environments.

    :param rows: all rows
    :return: the section
    """
    rates = medians(rows, STEPPING)
    numbers = sorted({count for _, _, count in rates})
    cells = [
        [env, backend, *(thousands(rates.get((env, backend, count))) for count in numbers)]
        for env in names(rows, STEPPING)
        for backend in BACKENDS
        if any((env, backend, count) in rates for count in numbers)
    ]
    header = ["environment", "backend", *(f"{count} envs" for count in numbers)]
    text = [
        "Thousands of environment steps a second with random actions, medians over the repetitions. Processes are not tried "
        "beyond eight environments here: this machine has two cores."
    ]
    return Section(
        "Stepping environments",
        text,
        Table(header, cells, names=2),
        Picture(
            "stepping.png", draw_stepping(rates, names(rows, STEPPING)), "Environment steps a second against environments"
        ),
    )


def thousands(rate: float | None) -> str:
    """
    Write a rate.

    :param rate: steps a second, or None
    :return: in thousands
    """
    return NOTHING if rate is None else f"{rate / 1000:.1f}"


def draw_stepping(rates: Mapping[tuple[str, str, int], float], envs: Sequence[str]) -> Figure:
    """
    Draw steps a second against the number of environments.

    :param rates: by environment, backend and number
    :param envs: environments, one panel each
    :return: the figure
    """
    columns = min(len(envs), 2)
    lines = math.ceil(len(envs) / columns)
    figure = Figure(figsize=(5 * columns, 3.4 * lines + 0.5), layout="constrained")
    handles = {}
    for index, env in enumerate(envs):
        axes = figure.add_subplot(lines, columns, index + 1)
        for backend, (colour, style) in STYLES.items():
            points = sorted((count, rate) for (name, one, count), rate in rates.items() if (name, one) == (env, backend))
            if points:
                inside = "white" if style.startswith("s") else colour
                counts, values = zip(*points, strict=True)
                (handles[backend],) = axes.plot(counts, values, style, color=colour, markersize=5, markerfacecolor=inside)
        axes.set_title(env, fontsize=10, loc="left")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(EngFormatter())
        # 2k and 5k too: most panels span less than a decade.
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("environments")
        axes.set_ylabel("environment steps/s")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=3, frameon=False)
    return figure


def training_section(rows: Sequence[ScaleRow]) -> Section:
    """
    Show training by one and two processes.

    :param rows: all rows
    :return: the section
    """
    rates = medians(rows, TRAINING)
    cells = []
    for env in names(rows, TRAINING):
        one, two = rates.get((env, "", 1)), rates.get((env, "", 2))
        pairs = paired(rows, env)
        spread = f"{min(pairs):.2f} to {max(pairs):.2f}" if pairs else NOTHING
        gain = NOTHING if one is None or two is None else f"{two / one:.2f}"
        cells.append([env, thousands(one), thousands(two), gain, spread])
    text = [
        f"The same training, {ENVS} environments, rollouts of {ENVS * N_STEPS:,} steps, minibatches of {BATCH}, {EPOCHS} "
        "epochs, fused engine, in one process and shared out to two with one thread each; from the second rollout on, in turn."
    ]
    header = ["environment", "one process, 1,000 steps/s", "two", "ratio of medians", "ratios in turn"]
    return Section("Training in two processes", text, Table(header, cells))


def paired(rows: Sequence[ScaleRow], env: str) -> list[float]:
    """
    Compare one and two processes repetition by repetition.

    :param rows: all rows
    :param env: the environment
    :return: ratios
    """
    found = {(row.repetition, row.number): row.value for row in rows if row.kind == TRAINING and row.env == env}
    return [value / found[index, 1] for (index, count), value in found.items() if count == 2 and (index, 1) in found]


# -- the projection ------------------------------------------------------------------------------------------------------

STEPS = ENVS * N_STEPS
"""Environment steps of a rollout."""

MINIBATCHES = STEPS // BATCH * EPOCHS
"""Minibatches of its update."""


def all_reduce_seconds(processes: int, size: float, here: float) -> float:
    """
    Estimate an all-reduce: within a machine as measured, between machines as the network model has it.

    Recursive halving and doubling: ``2 log2(m)`` messages one after the other between ``m`` machines, and ``2 (m - 1) / m``
    times the bytes over each wire.

    :param processes: how many
    :param size: bytes
    :param here: seconds that two processes of one machine take for it, measured
    :return: seconds
    """
    if processes == 1:
        return 0.0
    inside = here * math.log2(min(processes, PER_MACHINE))
    machines = math.ceil(processes / PER_MACHINE)
    if machines == 1:
        return inside
    return inside + 2 * math.log2(machines) * LATENCY + 2 * (machines - 1) / machines * size / BANDWIDTH


def interpolated(points: Mapping[int, float], at: float) -> float:
    """
    Read a measured curve between its points, on straight lines; beyond its ends in proportion, but never below the lowest.

    :param points: values by number
    :param at: where
    :return: the value there
    """
    known = sorted(points)
    if at >= known[-1]:
        return points[known[-1]] * at / known[-1]
    return float(np.interp(at, known, [points[one] for one in known]))


def modelled_seconds(rows: Sequence[ScaleRow], env: str, processes: int, weak: bool) -> float:
    """
    Estimate from its parts how long a rollout and its update take.

    :param rows: all rows
    :param env: the environment
    :param processes: how many
    :param weak: as :func:`project` has it
    :return: seconds
    """
    updates = {count: value * 1e-6 for (_, _, count), value in medians(rows, UPDATE).items()}
    measured = {count: value * 1e-6 for (_, _, count), value in medians(rows, ALL_REDUCE).items()}
    rate = medians(rows, TRAINING)[env, "", 1]
    # Of the measured training, what is not updates is stepping and acting.
    collecting = max(STEPS / rate - MINIBATCHES * interpolated(updates, BATCH), 0.0)
    share = 1.0 if weak else 1.0 / processes
    size = 4.0 * parameters(env)
    all_reduce = all_reduce_seconds(processes, size, interpolated(measured, size))
    return collecting * share + MINIBATCHES * (interpolated(updates, BATCH * share) + all_reduce)


def unexplained_seconds(rows: Sequence[ScaleRow], env: str) -> float:
    """
    Measure what two processes take beyond the model: waiting for the slower one, and what both of them do.

    :param rows: all rows
    :param env: the environment
    :return: seconds for a rollout and its update; 0 if two were not measured, or were faster than the model
    """
    rate = medians(rows, TRAINING).get((env, "", 2))
    return 0.0 if rate is None else max(STEPS / rate - modelled_seconds(rows, env, 2, weak=False), 0.0)


def project(rows: Sequence[ScaleRow], env: str, processes: int, weak: bool) -> float:
    """
    Estimate steps a second of many processes.

    What two processes were measured to take beyond the model grows with the logarithm of their number, as an all-reduce does.

    :param rows: all rows
    :param env: the environment
    :param processes: how many
    :param weak: True for as many environments and as large minibatches in each process as one has now; False for the same
        training shared out
    :return: environment steps a second, of all together
    """
    seconds = modelled_seconds(rows, env, processes, weak) + math.log2(processes) * unexplained_seconds(rows, env)
    return (STEPS * processes if weak else STEPS) / seconds


@cache
def parameters(env: str) -> int:
    """
    Count the parameters of the networks that were trained: two towers of 64 x 64, as SB3 builds them.

    :param env: the environment
    :return: how many
    """
    made = gym.make(env)
    model = EduPPO("MlpPolicy", made, device="cpu")
    made.close()
    return sum(parameter.numel() for parameter in model.policy.parameters())


def projection_section(rows: Sequence[ScaleRow]) -> Section:
    """
    Show what the model says of more processes.

    :param rows: all rows
    :return: the section
    """
    rates = medians(rows, TRAINING)
    cells = []
    for env in names(rows, TRAINING):
        if (env, "", 1) not in rates:
            continue
        for weak in (False, True):
            gains = [project(rows, env, count, weak) / project(rows, env, 1, weak) for count in PROJECTED]
            cells.append([env, "grows with the processes" if weak else "shared out", *(f"{gain:.1f}" for gain in gains)])
    updates, reductions = medians(rows, UPDATE), medians(rows, ALL_REDUCE)
    measured = ", ".join(f"{count}: {number(value)}" for (_, _, count), value in sorted(updates.items()))
    reduced = ", ".join(f"{number(count / 1000)} kB: {number(value)}" for (_, _, count), value in sorted(reductions.items()))
    text = [
        "**On paper**, not measured: speed against one process, for up to 64 processes on 8 machines of 8 cores.",
        f"Measured here: an update of so many transitions, µs ({measured}); an average over two processes of one machine, µs "
        f"({reduced}). Assumed: each process has a core of its own; between machines 10 Gbit/s and {LATENCY * 1e6:.0f} µs a "
        "message, averaged by recursive halving and doubling; within a machine as measured for two, times the logarithm of "
        "their number. What two processes were measured to take beyond these parts, such as waiting for the slower one, is "
        "added, times that logarithm, so that for two the table says no more than the measurement above.",
        "Shared out, the same training is cut into ever smaller minibatches, whose updates and all-reduces soon take all the "
        f"time. What grows with the processes keeps {ENVS} environments and minibatches of {BATCH} in each: that is another "
        "training, with rollouts and minibatches as many times as large.",
    ]
    header = ["environment", "the training", *(str(count) for count in PROJECTED)]
    return Section("Projected to 64 processes", text, Table(header, cells, names=2))


# -- EnvPool -------------------------------------------------------------------------------------------------------------


def episodes_section(rows: Sequence[ScaleRow]) -> Section:
    """
    Compare the episodes of backends that have environments of their own with Gymnasium's.

    :param rows: all rows
    :return: the section
    """
    cells = []
    for env in names(rows, EPISODES):
        found = {row.backend: row for row in rows if row.kind == EPISODES and row.env == env}
        reference = found.get("dummy")
        for backend, row in found.items():
            if reference is None or backend == "dummy":
                continue
            error = math.sqrt(row.spread**2 / row.number + reference.spread**2 / reference.number)
            difference = row.value - reference.value
            cells.append(
                [
                    env,
                    backend,
                    f"{number(reference.value, 1)} ({reference.length:.1f} steps)",
                    f"{number(row.value, 1)} ({row.length:.1f} steps)",
                    f"{number(difference, 1)} ± {1.96 * error:.1f}",
                    "yes" if abs(difference) <= 1.96 * error else "**no**",
                ]
            )
    text = [
        "Random actions, so that only the environment counts: mean return and length of as many episodes of each. A "
        "difference beyond its 95 % interval means other dynamics (or, one time in twenty, chance)."
    ]
    header = ["environment", "backend", "Gymnasium", "backend's", "difference", "agrees"]
    return Section("Are they the same environments?", text, Table(header, cells, names=2))
