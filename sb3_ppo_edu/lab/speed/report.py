"""The report of the speed experiment: tables and words, made from the rows alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeVar

from sb3_ppo_edu.lab.formatting import NOTHING
from sb3_ppo_edu.lab.page import Table, markdown_table
from sb3_ppo_edu.lab.plots import save_figure
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
from sb3_ppo_edu.lab.statistics.aggregates import Interval
from sb3_ppo_edu.training.folder import write_atomically

REPORT_FILE = "speed.md"
END_TO_END_PICTURE, SPLIT_PICTURE, SCALING_PICTURE = "end_to_end.png", "split.png", "scaling.png"

Cell = TypeVar("Cell")

COMMAND = "sb3-edu bench speed"


def write_report(folder: Path) -> list[Path]:
    """
    Write the report and the pictures from the rows of a folder, in place of those that are there.

    :param folder: where the CSV files are
    :return: what was written
    :raises ValueError: if there are no rows, or a file has other columns
    """
    tables = read_tables(folder)
    if not any(tables):
        expected = ", ".join((END_TO_END_FILE, SPLIT_FILE, GRID_FILE))
        raise ValueError(f"{folder}: found no rows, expected some in {expected}; measure first: {COMMAND} --folder {folder}")
    pictures = [
        (folder / name, figure)
        for name, rows, figure in (
            (END_TO_END_PICTURE, tables.end_to_end, lambda: draw_end_to_end(tables.end_to_end)),
            (SPLIT_PICTURE, tables.split, lambda: draw_split(tables.split)),
            (SCALING_PICTURE, tables.grid, lambda: draw_scaling(tables.grid)),
        )
        if rows
    ]
    for path, figure in pictures:
        save_figure(figure(), path)
    report = folder / REPORT_FILE
    write_atomically(report, lambda temporary: temporary.write_text(report_text(tables), encoding="utf-8"))
    return [report, *(path for path, _ in pictures)]


def report_text(tables: Tables) -> str:
    """
    Write the report.

    :param tables: all rows, at least one
    :return: Markdown
    """
    sections = [heading(tables)]
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
        sections.append(updates(tables.grid))
    return "\n\n".join([*sections, method(tables)]) + "\n"


def prose(text: str, indent: str = "") -> str:
    """
    Break a paragraph into lines.

    :param text: the paragraph
    :param indent: "- " for an item of a list
    :return: Markdown
    """
    following = " " * len(indent)
    return textwrap.fill(
        text, 120, initial_indent=indent, subsequent_indent=following, break_long_words=False, break_on_hyphens=False
    )


def with_interval(found: Interval | None) -> str:
    """
    Write an estimate.

    :param found: the estimate, if there is one
    :return: such as "7.13 (6.79 to 7.43)"
    """
    return NOTHING if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def in_seconds(value: float | None) -> str:
    """
    Write a time.

    :param value: seconds, if there are any
    :return: such as "3.71 s"
    """
    return NOTHING if value is None else f"{value:.2f} s"


def joined(values: Sequence[str]) -> str:
    """
    List distinct values in the order in which they come.

    :param values: may be repeated
    :return: separated by semicolons
    """
    return "; ".join(dict.fromkeys(values))


def repetitions_of(rows: Sequence[EndToEndRow] | Sequence[SplitRow]) -> int:
    """
    Count the repetitions.

    :param rows: the rows
    :return: the largest number of repetitions of a case and algorithm
    """
    return len({row.repetition for row in rows})


def heading(tables: Tables) -> str:
    """
    Write what the report is about, and how it was made.

    :param tables: all rows
    :return: Markdown
    """
    rows = list(chain(*tables))
    quick = any(row.size == "quick" for row in rows)
    threads, machine, versions = (
        joined([str(getattr(row, name)) for row in rows]) for name in ("threads", "machine", "versions")
    )
    paragraphs = [
        "# How fast EduPPO trains",
        prose(
            f"Made by `{COMMAND}{' --quick' if quick else ''}` on {machine}, with {threads} thread in each process; "
            f"{versions}. Every number comes from the rows beside this file; `{COMMAND} --report-only` writes it anew from "
            "them."
        ),
    ]
    if quick:
        paragraphs.append("**These are quick runs, shortened to try the command out. They are no result.**")
    return "\n\n".join(paragraphs)


def trainings(rows: Sequence[EndToEndRow]) -> str:
    """
    Write how much faster trainings are.

    :param rows: of the trainings
    :return: Markdown
    """
    others = [name for name in algorithms_in(rows) if name != REFERENCE]
    steps = sorted({row.steps for row in rows})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    paragraphs = [
        "## Trainings",
        prose(
            "How many times as fast as SB3's PPO: 2.00 means the same training in half the time. Wall clock of `learn` "
            f"over a few rollouts, {span} steps, median of {repetitions_of(rows)} repetitions, in parentheses its 95% "
            "bootstrap interval."
        ),
        speedup_table(rows, others, "wall_seconds"),
        f"![How many times as fast as SB3's PPO]({END_TO_END_PICTURE})",
        "\n".join(prose(note, "- ") for note in notes(others)),
    ]
    return "\n\n".join(paragraphs)


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


def speedup_table(rows: Sequence[EndToEndRow], others: Sequence[str], quantity: str) -> str:
    """
    Write ratios to SB3's PPO.

    :param rows: of the trainings
    :param others: keys of ``ALGORITHMS``
    :param quantity: "wall_seconds" or "cpu_seconds"
    :return: Markdown
    """
    lines = []
    for case in cases_in(rows):
        ratios = [with_interval(estimate(speedups(rows, case, name, quantity))) for name in others]
        lines.append([CASES[case].title, in_seconds(median_of(rows, case, REFERENCE, quantity)), *ratios])
    return markdown_table(
        Table(["training", f"{ALGORITHMS[REFERENCE].title} takes", *(ALGORITHMS[name].title for name in others)], lines)
    )


def processor_time(rows: Sequence[EndToEndRow]) -> str:
    """
    Write the ratios of processor time.

    :param rows: of the trainings
    :return: Markdown
    """
    paragraphs = [
        "### Processor time",
        prose(
            "The same for the processor time of the process, all its threads together. Other work on the machine disturbs it "
            "less."
        ),
        speedup_table(rows, [name for name in algorithms_in(rows) if name != REFERENCE], "cpu_seconds"),
    ]
    return "\n\n".join(paragraphs)


def compiling(rows: Sequence[EndToEndRow]) -> str:
    """
    Write what SBX takes, and what its compiler has of it.

    :param rows: of the trainings, some of them SBX's
    :return: Markdown
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
    paragraphs = [
        "### What SBX compiles",
        prose(
            "Seconds of `learn`, and of these what JAX's compiler reports; what it takes while the model is built is not "
            "counted. The compiler has threads of its own, which the processor time above includes."
        ),
        markdown_table(Table(["training", "SBX takes", "of which it compiles", "SB3's PPO takes"], lines)),
    ]
    return "\n\n".join(paragraphs)


def memory(rows: Sequence[EndToEndRow]) -> str:
    """
    Write how much memory the trainings took.

    :param rows: of the trainings
    :return: Markdown
    """
    names = algorithms_in(rows)

    def cell(case: str, name: str) -> str:
        peak, before = (median_of(rows, case, name, f"memory_{when}_mib") for when in ("peak", "before"))
        return NOTHING if peak is None or before is None else f"{peak:.0f} ({before:.0f})"

    lines = [[CASES[case].title, *(cell(case, name) for name in names)] for case in cases_in(rows)]
    paragraphs = [
        "### Memory",
        prose(
            "Largest resident memory of the process in MiB, in parentheses what it had before `learn`: libraries (SB3 and "
            "EduPPO in every process), environments, networks. Medians."
        ),
        markdown_table(Table(["training", *(ALGORITHMS[name].title for name in names)], lines)),
    ]
    return "\n\n".join(paragraphs)


def split(rows: Sequence[SplitRow]) -> str:
    """
    Write where the time goes.

    :param rows: of the parts of trainings
    :return: Markdown
    """
    lines = []
    for case in cases_in(rows):
        for name in algorithms_in(rows):
            parts = parts_of(rows, case, name)
            if parts:
                cells = [f"{parts[part]:.3f}" for part in PARTS]
                lines.append([CASES[case].title, ALGORITHMS[name].title, *cells, f"{sum(parts.values()):.3f}"])
    paragraphs = [
        "## Where the time goes",
        prose(
            f"Seconds of each part, medians of {repetitions_of(rows)} trainings of their own with stopwatches around the "
            'parts. "rest" is what remains: the rollout buffer, values to bootstrap from, callbacks, logs.'
        ),
        markdown_table(Table(["training", "algorithm", *PARTS, "all"], lines, names=2)),
        f"![Where the time goes]({SPLIT_PICTURE})",
    ]
    return "\n\n".join(paragraphs)


def floor(rows: Sequence[SplitRow]) -> str:
    """
    Write how far the fused engine is from what its work takes at least.

    :param rows: of the parts of trainings, the floor among them
    :return: Markdown
    """
    lines = []
    for case in cases_in(rows):
        least = parts_of(rows, case, FLOOR)
        if least:
            parts = [least[part] for part in FLOOR_PARTS]
            taken = sum(parts_of(rows, case, "fused").values())
            seconds = [f"{value:.3f}" for value in (taken, *parts, sum(parts))]
            ratio = with_interval(estimate(times_floor(rows, case)))
            lines.append([CASES[case].title, *seconds, ratio, f"{least['bare environment']:.3f}"])
    header = ["training", "EduPPO, fused", *FLOOR_PARTS, "floor", "times the floor", "bare environment"]
    paragraphs = [
        "### The floor",
        prose(
            "What the work of the fused engine's training takes at least, in seconds, measured in the same process right "
            "after it. *environment*: its vector environment stepped alone with the same actions. *acting* and *update*: "
            "nothing but the networks' matrix products, as many and of the same shapes, by numpy or torch, whichever is "
            "faster, into memory allocated beforehand; no activation, sampling, loss, shuffling or optimizer. The last "
            "column is not part of the floor: the same steps without a vector environment."
        ),
        markdown_table(Table(header, lines)),
    ]
    return "\n\n".join(paragraphs)


def updates(rows: Sequence[GridRow]) -> str:
    """
    Write what single updates and steps of acting take.

    :param rows: of the grid
    :return: Markdown
    """
    engines = ("sb3", "autograd", "fused", FLOOR)
    costs = [grid_microseconds(rows, "update", engine) for engine in engines]
    together = {point: tuple(cost[point] for cost in costs) for point in costs[0]}
    updating, acting = (grid_speedups(rows, kind, "fused") for kind in ("update", "acting"))
    paragraphs = [
        "## A single update, a single step of acting",
        f"![What an update and a step of acting cost]({SCALING_PICTURE})",
        prose(
            "Networks as SB3 builds them (two towers, tanh), for 8 observations and 4 actions, with Adam and synthetic data. "
            "An update is an epoch of `train()` on a buffer of one minibatch, acting one call of the policy or the engine. "
            "How many times as fast as SB3's PPO the fused engine is:"
        ),
        grid_table(updating, "one update, batch size", lambda ratio: f"{ratio:.2f}"),
        worst_point(updating, "batch size {:,}"),
        grid_table(acting, "one step of acting, environments", lambda ratio: f"{ratio:.2f}"),
        worst_point(acting, "n_envs {:,}"),
        "Microseconds of an update: SB3's PPO / autograd / fused / bare matrix products.",
        grid_table(together, "one update, batch size", lambda cells: " / ".join(f"{cell:,.0f}" for cell in cells)),
    ]
    return "\n\n".join(paragraphs)


def grid_table(found: dict[Point, Cell], title: str, write: Callable[[Cell], str]) -> str:
    """
    Write a cell for each point of the grid.

    :param found: what is in the cells
    :param title: of the first column
    :param write: writes a cell
    :return: Markdown
    """
    columns = sorted({rows for _, _, rows in found})
    networks = sorted({(depth, width) for width, depth, _ in found})
    lines = []
    for depth, width in networks:
        points = [(width, depth, rows) for rows in columns]
        lines.append([f"{depth} × {width}", *(write(found[point]) if point in found else NOTHING for point in points)])
    return markdown_table(Table([f"layers × units; {title}", *(f"{rows:,}" for rows in columns)], lines))


def worst_point(found: dict[Point, float], what: str) -> str:
    """
    Say where the fused engine gains least, and where it loses.

    :param found: ratios at each point
    :param what: the rows of a point in words, with braces where their number goes
    :return: Markdown
    """
    (width, depth, rows), least = min(found.items(), key=lambda item: item[1])
    slower = sum(ratio < 1 for ratio in found.values())
    return prose(
        f"The least is {least:.2f} ({depth} × {width}, {what.format(rows)}). The fused engine is slower than SB3's PPO at "
        f"{slower} of {len(found)} points."
    )


def method(tables: Tables) -> str:
    """
    Write how it was measured.

    :param tables: all rows
    :return: Markdown
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
    return "\n\n".join(["## How it was measured", "\n".join(prose(item, "- ") for item in items)])
