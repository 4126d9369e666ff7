"""The report's part on single updates and steps of acting, at all sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from sb3_ppo_edu.lab.formatting import NOTHING
from sb3_ppo_edu.lab.page import Picture, Section, Table
from sb3_ppo_edu.lab.speed.plots import draw_scaling
from sb3_ppo_edu.lab.speed.rows import GridRow
from sb3_ppo_edu.lab.speed.summary import FLOOR, Point, grid_microseconds, grid_speedups

Cell = TypeVar("Cell")


def updates(rows: Sequence[GridRow]) -> list[Section]:
    """
    Write what single updates and steps of acting take.

    :param rows: of the grid
    :return: the sections
    """
    engines = ("sb3", "autograd", "fused", FLOOR)
    costs = [grid_microseconds(rows, "update", engine) for engine in engines]
    together = {point: tuple(cost[point] for cost in costs) for point in costs[0]}
    setting = (
        "Networks as SB3 builds them (two towers, tanh), for 8 observations and 4 actions, with Adam and synthetic data. An "
        "update is an epoch of `train()` on a buffer of one minibatch, acting one call of the policy or the engine. How many "
        "times as fast as SB3's PPO the kernels are stands below."
    )
    picture = Picture("scaling.png", draw_scaling(rows), "What an update and a step of acting cost")
    sections = [Section("A single update, a single step of acting", [setting], None, picture)]
    for engine, level in (("fused", ""), ("fused-v3", ", without AVX-512")):
        for kind, title, what, column in (
            ("update", "An update", "batch size {:,}", "one update, batch size"),
            ("acting", "A step of acting", "n_envs {:,}", "one step of acting, environments"),
        ):
            found = grid_speedups(rows, kind, engine)
            if found:
                text = [worst_point(found, what), beside_autograd(rows, kind, engine, what)]
                table = grid_table(found, column, lambda ratio: f"{ratio:.2f}")
                sections.append(Section(f"{title}, times as fast{level}", text, table))
    sections.append(
        Section(
            "Microseconds of an update",
            ["SB3's PPO / autograd / kernels / bare matrix products."],
            grid_table(together, "one update, batch size", lambda cells: " / ".join(f"{cell:,.0f}" for cell in cells)),
        )
    )
    return sections


def beside_autograd(rows: Sequence[GridRow], kind: str, engine: str, what: str) -> str:
    """
    Say where the autograd engine is faster than the kernels.

    :param rows: of the grid
    :param kind: "update" or "acting"
    :param engine: "fused" or "fused-v3"
    :param what: the rows of a point in words, with braces where their number goes
    :return: a sentence
    """
    kernels, autograd = (grid_microseconds(rows, kind, name) for name in (engine, "autograd"))
    slower = sorted(point for point, taken in kernels.items() if taken > autograd.get(point, math.inf))
    named = ", ".join(f"{depth} × {width}, {what.format(size)}" for width, depth, size in slower)
    return f"The autograd engine is faster than the kernels at {len(slower)} of {len(kernels)}" + (
        f": {named}." if slower else "."
    )


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
    Say where the kernels gain least, and where they lose.

    :param found: ratios at each point
    :param what: the rows of a point in words, with braces where their number goes
    :return: a paragraph
    """
    (width, depth, rows), least = min(found.items(), key=lambda item: item[1])
    slower = sum(ratio < 1 for ratio in found.values())
    return (
        f"The least is {least:.2f} ({depth} × {width}, {what.format(rows)}). The kernels are slower than SB3's PPO at "
        f"{slower} of {len(found)} points."
    )
