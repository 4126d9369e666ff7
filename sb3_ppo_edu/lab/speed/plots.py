"""Pictures of the speed experiment, each a function from its rows to a ``Figure``."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from sb3_ppo_edu.lab.plots import BLUE, GREEN, GREY, VERMILLION
from sb3_ppo_edu.lab.speed.cases import ALGORITHMS, CASES, PEERS, REFERENCE, STANDARD_CASES
from sb3_ppo_edu.lab.speed.rows import EndToEndRow, GridRow, SplitRow
from sb3_ppo_edu.lab.speed.summary import (
    FLOOR,
    FLOOR_PARTS,
    PARTS,
    Point,
    algorithms_in,
    cases_in,
    floor_seconds,
    grid_microseconds,
    median_of,
    parts_of,
)

SKY, ORANGE, LIGHT_GREY = "#56B4E9", "#E69F00", "#E5E5E5"

ENGINE_COLOURS = {
    "sb3": VERMILLION,
    "autograd": GREEN,
    "fused": BLUE,
    "fused-v3": SKY,
    FLOOR: GREY,
}
PART_COLOURS = {"environment": GREEN, "acting": SKY, "advantages": ORANGE, "update": BLUE, "rest": GREY}

GLANCE = {
    REFERENCE: "Stable-Baselines3",
    "cleanrl": "CleanRL",
    "sbx": "SBX (JAX), which compiles first",
    "sbx-warm": "SBX, compiled before",
    "numpy": "EduPPO in numpy",
    "fused": "EduPPO",
    FLOOR: "environment and matrix products alone",
}
"""Whom the picture for a glance shows, from top to bottom, and their names there."""

GLANCE_COLOURS = {REFERENCE: VERMILLION, "fused": BLUE, "numpy": SKY, FLOOR: GREY, **dict.fromkeys(PEERS, ORANGE)}

SHOWN = (64, 256, 1024)
"""Widths, and batch sizes, of which the scaling plot shows a panel each, where they were measured."""

BAR_INCHES, GAP_BARS = 0.24, 1.6


def name_of(algorithm: str) -> str:
    """
    Name an algorithm or the floor.

    :param algorithm: key of ``ALGORITHMS``, or "floor"
    :return: what readers know it by
    """
    return "floor of EduPPO, kernels" if algorithm == FLOOR else ALGORITHMS[algorithm].title


def grouped_axes(figure: Figure, groups: Sequence[tuple[str, Sequence[str]]]) -> tuple[Axes, dict[tuple[str, str], float]]:
    """
    Make axes for groups of horizontal bars under headings.

    :param figure: the figure
    :param groups: for each case its bars, from top to bottom
    :return: the axes, and where each bar is
    """
    axes = figure.add_subplot()
    places: dict[tuple[str, str], float] = {}
    at = 0.0
    for case, bars in groups:
        axes.text(0, at, CASES[case].title, fontweight="bold", fontsize=10, va="center")
        for bar in bars:
            at += 1
            places[case, bar] = at
        at += GAP_BARS
    axes.set_ylim(at - 0.4, -0.8)
    axes.set_yticks(list(places.values()), [name_of(bar) for _, bar in places], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=LIGHT_GREY, linewidth=0.8)
    axes.set_axisbelow(True)
    return axes, places


def grouped_height(groups: Sequence[tuple[str, Sequence[str]]]) -> float:
    """
    Choose the height of a figure of grouped bars.

    :param groups: for each case its bars
    :return: inches
    """
    return 1.2 + BAR_INCHES * sum(len(bars) + GAP_BARS for _, bars in groups)


def draw_glance(rows: Sequence[EndToEndRow], parts: Sequence[SplitRow]) -> Figure:
    """
    Draw what the four standard trainings, or all where there are as few, take with each implementation, and at least.

    :param rows: of the trainings
    :param parts: of their parts, for the floor
    :return: the figure
    """
    cases = cases_in(rows)
    if len(cases) > len(STANDARD_CASES):
        cases = [case for case in STANDARD_CASES if case in cases] or cases
    contrib = all(CASES[case].masks or CASES[case].memory for case in cases)
    titles = {**GLANCE, REFERENCE: "sb3-contrib"} if contrib else GLANCE
    names = [name for name in GLANCE if name == FLOOR or name in algorithms_in(rows)]
    figure = Figure(figsize=(10, 0.5 + (0.75 + 0.3 * len(names)) * -(-len(cases) // 2)), dpi=150, layout="constrained")
    columns = min(len(cases), 2)
    panels = figure.subplots(-(-len(cases) // columns), columns, sharey=True, squeeze=False).flat
    for case, axes in zip(cases, panels, strict=False):
        seconds = {name: median_of(rows, case, name, "wall_seconds") for name in names}
        seconds[FLOOR] = floor_seconds(parts, case)
        known = {name: value for name, value in seconds.items() if value is not None}
        reference, longest = known.get(REFERENCE), max(known.values())
        for name, value in known.items():
            axes.barh(titles[name], value, height=0.8, color=GLANCE_COLOURS.get(name, LIGHT_GREY))
            times = f" ({reference / value:.1f} ×)" if reference and name == "fused" else ""
            weight = "bold" if name == "fused" else "normal"
            axes.text(value + 0.015 * longest, titles[name], f"{value:.2f} s{times}", va="center", fontsize=9, weight=weight)
        for name in names:  # a place for each, also where it was not measured
            axes.barh(titles[name], 0.0)
        axes.set_title(CASES[case].title.replace(", ", "\n"), fontsize=10, loc="left", weight="bold")
        axes.set_xlim(0, 1.18 * longest)
        axes.xaxis.set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9.5)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    for axes in list(panels):
        axes.set_visible(False)
    figure.axes[0].invert_yaxis()
    return figure


def draw_split(rows: Sequence[SplitRow]) -> Figure:
    """
    Draw where the time of each training goes, beside SB3's time and the floor.

    :param rows: of the parts of trainings
    :return: the figure
    """
    bars = [*algorithms_in(rows), FLOOR]
    cases = [case for case in cases_in(rows) if parts_of(rows, case, REFERENCE)]
    parts = {(case, bar): split for case in cases for bar in bars if (split := parts_of(rows, case, bar))}
    groups = [(case, [bar for bar in bars if (case, bar) in parts]) for case in cases]
    figure = Figure(figsize=(9, grouped_height(groups)), dpi=120, layout="constrained")
    axes, places = grouped_axes(figure, groups)
    longest = 1.0
    for (case, bar), split in parts.items():
        whole = sum(parts[case, REFERENCE].values())
        left = 0.0
        for part in FLOOR_PARTS if bar == FLOOR else PARTS:
            share = split[part] / whole
            axes.barh(places[case, bar], share, left=left, height=0.78, color=PART_COLOURS[part])
            left += share
        axes.text(left, places[case, bar], f"  {left * whole:.2f} s", va="center", fontsize=8)
        longest = max(longest, left)
    for part in PARTS:
        axes.barh(0, 0, color=PART_COLOURS[part], label=part)
    axes.set_xlim(0, 1.12 * longest)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    axes.set_xlabel("share of the time that SB3's PPO takes")
    figure.suptitle("Where the time goes", x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.legend(loc="outside upper right", ncols=len(PARTS), frameon=False, fontsize=9)
    return figure


def draw_scaling(rows: Sequence[GridRow]) -> Figure:
    """
    Draw what an update costs against batch size and width, and a step of acting against environments, for all engines.

    :param rows: of the grid
    :return: the figure
    """
    depths = sorted({row.depth for row in rows})
    depth = depths[len(depths) // 2]
    widths = shown([row.width for row in rows])
    batch_sizes = shown([row.rows for row in rows if row.kind == "update"])
    panels = max(len(widths), len(batch_sizes))
    figure = Figure(figsize=(4.2 * panels, 10.5), dpi=120, layout="constrained")
    grid = figure.subplots(3, panels, sharex="row", sharey="row", squeeze=False)
    for column in range(panels):
        for row in range(3):
            known = batch_sizes if row == 1 else widths
            if column >= len(known):
                grid[row][column].set_visible(False)
                continue
            value, kind = known[column], "acting" if row == 2 else "update"
            axis = 0 if row == 1 else 2
            fixed = {2: value} if row == 1 else {0: value}
            draw_engines(grid[row][column], rows, kind, axis, {**fixed, 1: depth}, labels=column == len(known) - 1)
            title = f"batches of {value:,}" if row == 1 else f"{depth} layers of {value:,}"
            grid[row][column].set_title(
                f"{'one step of acting' if row == 2 else 'one update'}, {title}", fontsize=10, loc="left"
            )
            grid[row][column].set_xlabel(("batch size", "units of each hidden layer", "environments")[row])
        grid[1][column].set_ylabel("")
    for axes in grid[:, 0]:
        axes.set_ylabel("microseconds")
    figure.suptitle("What an update and a step of acting cost", x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def shown(values: Sequence[int]) -> list[int]:
    """
    Choose what gets a panel.

    :param values: measured widths or batch sizes
    :return: those of :data:`SHOWN`, or if none of them were measured the smallest
    """
    known = sorted(set(values))
    return [value for value in known if value in SHOWN] or known[:1]


def draw_engines(axes: Axes, rows: Sequence[GridRow], kind: str, axis: int, fixed: dict[int, int], *, labels: bool) -> None:
    """
    Draw the cost of every engine along one dimension of the grid.

    :param axes: where
    :param rows: of the grid
    :param kind: "update" or "acting"
    :param axis: index of the dimension in a point
    :param fixed: the other dimensions' indices and values
    :param labels: whether to write the names at the ends of the lines
    """
    ticks: set[int] = set()
    ends: list[tuple[float, str]] = []
    for engine in ENGINE_COLOURS:
        costs = grid_microseconds(rows, kind, engine)
        points: list[Point] = sorted(point for point in costs if all(point[index] == value for index, value in fixed.items()))
        if not points:
            continue
        line = [point[axis] for point in points]
        dashes = (0, (4, 2)) if engine == FLOOR else "solid"
        axes.plot(
            line,
            [costs[point] for point in points],
            color=ENGINE_COLOURS[engine],
            marker="o",
            markersize=3.5,
            linewidth=1.8,
            linestyle=dashes,
        )
        ticks.update(line)
        ends.append((costs[points[-1]], engine))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LIGHT_GREY, linewidth=0.8)
    if labels and ends:
        label_ends(axes, max(ticks), ends)


def label_ends(axes: Axes, at: float, ends: Sequence[tuple[float, str]]) -> None:
    """
    Write the engines' names at the ends of their lines, far enough apart to be read.

    :param axes: where
    :param at: where the lines end
    :param ends: height and engine of each line
    """
    titles = {key: algorithm.title for key, algorithm in ALGORITHMS.items()}
    names = {**titles, "fused-v3": "EduPPO, kernels, AVX2", FLOOR: "bare matrix products"}
    low, high = axes.get_ylim()
    apart = (high / low) ** 0.065
    height = 0.0
    for cost, engine in sorted(ends):
        height = max(cost, height * apart)
        axes.annotate(
            names[engine],
            (at, height),
            (7, 0),
            textcoords="offset points",
            color=ENGINE_COLOURS[engine],
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
