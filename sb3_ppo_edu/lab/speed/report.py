"""The report of the speed experiment: tables and words, made from the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from sb3_ppo_edu.lab.formatting import NOTHING, interval
from sb3_ppo_edu.lab.page import Page, Picture, Section, Table
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, REFERENCE
from sb3_ppo_edu.lab.speed.plots import draw_end_to_end, draw_scaling, draw_split
from sb3_ppo_edu.lab.speed.rows import (
    END_TO_END_FILE,
    GRID_FILE,
    SPLIT_FILE,
    EndToEndRow,
    GridRow,
    SplitRow,
    Tables,
    read_tables,
)
from sb3_ppo_edu.lab.speed.summary import (
    FLOOR,
    FLOOR_PARTS,
    PARTS,
    Point,
    algorithms_in,
    cases_in,
    estimate,
    grid_microseconds,
    grid_speedups,
    median_of,
    parts_of,
    speedups,
    times_floor,
)

Cell = TypeVar("Cell")

COMMAND = "sb3-edu bench speed"


def read_page(folder: Path) -> Page:
    """
    Make the report from the rows of a folder.

    :param folder: where the CSV files are
    :return: the report
    :raises ValueError: if there are no rows, or a file has other columns
    """
    tables = read_tables(folder)
    if not any(tables):
        expected = ", ".join((END_TO_END_FILE, SPLIT_FILE, GRID_FILE))
        raise ValueError(f"{folder}: found no rows, expected some in {expected}; measure first: {COMMAND} --folder {folder}")
    return make_page(tables)


def make_page(tables: Tables) -> Page:
    """
    Make the report.

    :param tables: all rows, at least one
    :return: the report
    """
    sections = []
    if tables.end_to_end:
        sections += [trainings(tables.end_to_end), processor_time(tables.end_to_end)]
        if "sbx" in algorithms_in(tables.end_to_end):
            sections.append(compiling(tables.end_to_end))
        sections.append(memory(tables.end_to_end))
    if tables.split:
        sections.append(split(tables.split))
        if any(row.algorithm == FLOOR for row in tables.split):
            sections.append(floor(tables.split))
    if tables.grid:
        sections += updates(tables.grid)
    quick = any(row.size == "quick" for row in chain(*tables))
    lead = ["**These are quick runs, shortened to try the command out. They are no result.**"] if quick else []
    return Page("How fast EduPPO trains", lead, [*sections, method(tables)], made_by(tables, quick))


def in_seconds(value: float | None) -> str:
    """
    Write a time.

    :param value: seconds, if there are any
    :return: such as "3.71 s"
    """
    return NOTHING if value is None else f"{value:.2f} s"


def repetitions_of(rows: Sequence[EndToEndRow] | Sequence[SplitRow]) -> int:
    """
    Count the repetitions.

    :param rows: the rows
    :return: the largest number of repetitions of a case and algorithm
    """
    return len({row.repetition for row in rows})


def made_by(tables: Tables, quick: bool) -> str:
    """
    Say what the rows were made with.

    :param tables: all rows
    :param quick: whether there are rows of quick runs
    :return: a paragraph
    """
    threads, machine, versions = (
        "; ".join(dict.fromkeys(str(getattr(row, name)) for row in chain(*tables)))
        for name in ("threads", "machine", "versions")
    )
    return (
        f"Made by `{COMMAND}{' --quick' if quick else ''}` on {machine}, with {threads} thread in each process; {versions}. "
        f"Every number comes from the rows beside this file; `{COMMAND} --report-only` writes it anew from them."
    )


def trainings(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write how much faster trainings are.

    :param rows: of the trainings
    :return: the section
    """
    others = [name for name in algorithms_in(rows) if name != REFERENCE]
    steps = sorted({row.steps for row in rows})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    text = [
        "How many times as fast as SB3's PPO: 2.00 means the same training in half the time. Wall clock of `learn` over a "
        f"few rollouts, {span} steps, median of {repetitions_of(rows)} repetitions, in brackets its 95% bootstrap interval.",
        *notes(others),
    ]
    picture = Picture("end_to_end.png", draw_end_to_end(rows), "How many times as fast as SB3's PPO")
    return Section("Trainings", text, speedup_table(rows, others, "wall_seconds"), picture)


def notes(algorithms: Sequence[str]) -> list[str]:
    """
    Explain the columns.

    :param algorithms: keys of ``ALGORITHMS``
    :return: one note each
    """
    explained = {
        "autograd": "**autograd** is the engine that ends with the same bits as SB3's PPO.",
        "fused": '**fused** is the engine that `EduPPO` takes by itself where it can (`engine="auto"`). Like autograd it '
        "steps its environments in `InProcessVecEnv`, as EduPPO's users do; the others have theirs in SB3's `DummyVecEnv`.",
        "fused-dummy": "**in SB3's DummyVecEnv** is the same engine with SB3's vector environment: what the engine alone "
        "gains.",
        "sbx": "**SBX** compiles while it trains, which counts, since its users wait for it. What is left without stands "
        "below.",
    }
    render = (
        "**As users run it**: SB3's `make_vec_env` sets a render mode, for which LunarLander simulates its exhaust; EduPPO's "
        "environments have none. In all other rows nobody's have one."
    )
    return [*(text for name, text in explained.items() if name in algorithms), render]


def speedup_table(rows: Sequence[EndToEndRow], others: Sequence[str], quantity: str) -> Table:
    """
    Write ratios to SB3's PPO.

    :param rows: of the trainings
    :param others: keys of ``ALGORITHMS``
    :param quantity: "wall_seconds" or "cpu_seconds"
    :return: the table
    """
    lines = []
    for case in cases_in(rows):
        ratios = [interval(estimate(speedups(rows, case, name, quantity))) for name in others]
        lines.append([CASES[case].title, in_seconds(median_of(rows, case, REFERENCE, quantity)), *ratios])
    return Table(["training", f"{ALGORITHMS[REFERENCE].title} takes", *(ALGORITHMS[name].title for name in others)], lines)


def processor_time(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write the ratios of processor time.

    :param rows: of the trainings
    :return: the section
    """
    others = [name for name in algorithms_in(rows) if name != REFERENCE]
    text = (
        "The same for the processor time of the process, all its threads together. Other work on the machine disturbs it less."
    )
    return Section("Processor time", [text], speedup_table(rows, others, "cpu_seconds"))


def compiling(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write what SBX takes, and what its compiler has of it.

    :param rows: of the trainings, some of them SBX's
    :return: the section
    """
    lines = [
        [
            CASES[case].title,
            in_seconds(median_of(rows, case, "sbx", "wall_seconds")),
            in_seconds(median_of(rows, case, "sbx", "compile_seconds")),
            in_seconds(median_of(rows, case, REFERENCE, "wall_seconds")),
        ]
        for case in cases_in(rows)
    ]
    text = (
        "Seconds of `learn`, and of these what JAX's compiler reports; what it takes while the model is built is not counted. "
        "The compiler has threads of its own, which the processor time above includes."
    )
    header = ["training", "SBX takes", "of which it compiles", "SB3's PPO takes"]
    return Section("What SBX compiles", [text], Table(header, lines))


def memory(rows: Sequence[EndToEndRow]) -> Section:
    """
    Write how much memory the trainings took.

    :param rows: of the trainings
    :return: the section
    """
    names = algorithms_in(rows)

    def cell(case: str, name: str) -> str:
        peak, before = (median_of(rows, case, name, f"memory_{when}_mib") for when in ("peak", "before"))
        return NOTHING if peak is None or before is None else f"{peak:.0f} ({before:.0f})"

    lines = [[CASES[case].title, *(cell(case, name) for name in names)] for case in cases_in(rows)]
    text = (
        "Largest resident memory of the process in MiB, in parentheses what it had before `learn`: libraries (SB3 and EduPPO "
        "in every process), environments, networks. Medians."
    )
    return Section("Memory", [text], Table(["training", *(ALGORITHMS[name].title for name in names)], lines))


def split(rows: Sequence[SplitRow]) -> Section:
    """
    Write where the time goes.

    :param rows: of the parts of trainings
    :return: the section
    """
    lines = []
    for case in cases_in(rows):
        for name in algorithms_in(rows):
            parts = parts_of(rows, case, name)
            if parts:
                cells = [f"{parts[part]:.3f}" for part in PARTS]
                lines.append([CASES[case].title, ALGORITHMS[name].title, *cells, f"{sum(parts.values()):.3f}"])
    text = (
        f"Seconds of each part, medians of {repetitions_of(rows)} trainings of their own with stopwatches around the parts. "
        '"rest" is what remains: the rollout buffer, values to bootstrap from, callbacks, logs.'
    )
    table = Table(["training", "algorithm", *PARTS, "all"], lines, names=2)
    return Section("Where the time goes", [text], table, Picture("split.png", draw_split(rows), "Where the time goes"))


def floor(rows: Sequence[SplitRow]) -> Section:
    """
    Write how far the fused engine is from what its work takes at least.

    :param rows: of the parts of trainings, the floor among them
    :return: the section
    """
    lines = []
    for case in cases_in(rows):
        least = parts_of(rows, case, FLOOR)
        if least:
            parts = [least[part] for part in FLOOR_PARTS]
            taken = sum(parts_of(rows, case, "fused").values())
            seconds = [f"{value:.3f}" for value in (taken, *parts, sum(parts))]
            ratio = interval(estimate(times_floor(rows, case)))
            lines.append([CASES[case].title, *seconds, ratio, f"{least['bare environment']:.3f}"])
    header = ["training", "EduPPO, fused", *FLOOR_PARTS, "floor", "times the floor", "bare environment"]
    text = (
        "What the work of the fused engine's training takes at least, in seconds, measured in its process, right after it: "
        "**environment**, its vector environment stepped alone with the same actions; **acting** and **update**, nothing but "
        "the networks' matrix products, as many and of the same shapes, by numpy or torch, whichever is faster, into memory "
        "allocated beforehand, no activation, sampling, loss, shuffling or optimizer. The last column is not part of the "
        "floor: the same steps without a vector environment."
    )
    return Section("The floor", [text], Table(header, lines))


def updates(rows: Sequence[GridRow]) -> list[Section]:
    """
    Write what single updates and steps of acting take.

    :param rows: of the grid
    :return: the sections
    """
    engines = ("sb3", "autograd", "fused", FLOOR)
    costs = [grid_microseconds(rows, "update", engine) for engine in engines]
    together = {point: tuple(cost[point] for cost in costs) for point in costs[0]}
    updating, acting = (grid_speedups(rows, kind, "fused") for kind in ("update", "acting"))
    setting = (
        "Networks as SB3 builds them (two towers, tanh), for 8 observations and 4 actions, with Adam and synthetic data. An "
        "update is an epoch of `train()` on a buffer of one minibatch, acting one call of the policy or the engine. How many "
        "times as fast as SB3's PPO the fused engine is stands below."
    )
    picture = Picture("scaling.png", draw_scaling(rows), "What an update and a step of acting cost")
    return [
        Section("A single update, a single step of acting", [setting], None, picture),
        Section(
            "An update, times as fast",
            [worst_point(updating, "batch size {:,}")],
            grid_table(updating, "one update, batch size", lambda ratio: f"{ratio:.2f}"),
        ),
        Section(
            "A step of acting, times as fast",
            [worst_point(acting, "n_envs {:,}")],
            grid_table(acting, "one step of acting, environments", lambda ratio: f"{ratio:.2f}"),
        ),
        Section(
            "Microseconds of an update",
            ["SB3's PPO / autograd / fused / bare matrix products."],
            grid_table(together, "one update, batch size", lambda cells: " / ".join(f"{cell:,.0f}" for cell in cells)),
        ),
    ]


def grid_table(found: dict[Point, Cell], title: str, write: Callable[[Cell], str]) -> Table:
    """
    Write a cell for each point of the grid.

    :param found: what is in the cells
    :param title: of the first column
    :param write: writes a cell
    :return: the table
    """
    columns = sorted({rows for _, _, rows in found})
    networks = sorted({(depth, width) for width, depth, _ in found})
    lines = []
    for depth, width in networks:
        points = [(width, depth, rows) for rows in columns]
        lines.append([f"{depth} × {width}", *(write(found[point]) if point in found else NOTHING for point in points)])
    return Table([f"layers × units; {title}", *(f"{rows:,}" for rows in columns)], lines)


def worst_point(found: dict[Point, float], what: str) -> str:
    """
    Say where the fused engine gains least, and where it loses.

    :param found: ratios at each point
    :param what: the rows of a point in words, with braces where their number goes
    :return: a paragraph
    """
    (width, depth, rows), least = min(found.items(), key=lambda item: item[1])
    slower = sum(ratio < 1 for ratio in found.values())
    return (
        f"The least is {least:.2f} ({depth} × {width}, {what.format(rows)}). The fused engine is slower than SB3's PPO at "
        f"{slower} of {len(found)} points."
    )


def method(tables: Tables) -> Section:
    """
    Write how it was measured.

    :param tables: all rows
    :return: the section
    """
    files = [name for name, rows in zip((END_TO_END_FILE, SPLIT_FILE, GRID_FILE), tables, strict=True) if rows]
    items = [
        "Each training runs in a fresh process, limited to one thread in every library, without warm-up. Only `learn` is "
        "timed.",
        "The algorithms take turns within a repetition, and another one begins each time, so that a machine that slows down "
        "slows all of them. Ratios are taken within a repetition, where all have the same seed.",
        "The intervals are percentile bootstrap intervals of the median: for five repetitions or fewer, from the smallest to "
        "the largest ratio.",
        "The zoo's settings are those of `hyperparams/ppo.yml` in rl_zoo3 2.9.2, trained for a few rollouts only.",
        f"Raw rows: {', '.join(f'[{name}]({name})' for name in files)}.",
    ]
    return Section("How it was measured", items)
