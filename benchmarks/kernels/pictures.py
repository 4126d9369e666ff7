"""Draw the pictures of ``sb3_ppo_edu/engines/fused/HOW_IT_WORKS.md`` and write its tables anew.

Run ``python benchmarks/kernels/pictures.py``. Sizes of tiles and blocks are read from the kernels' sources, costs from
``minibatch.md``, which ``minibatch.py`` makes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from sb3_ppo_edu.engines.fused import build
from sb3_ppo_edu.lab.plots import BLUE, GREEN, GREY, VERMILLION, save_figure

FOLDER = Path(__file__).resolve().parent
PAGE = build.HERE / "HOW_IT_WORKS.md"
PALE_BLUE, PALE_GREEN, PALE_RED, WHITE = "#CFE6F5", "#CDEBDF", "#F8D9C4", "#FFFFFF"
LANES = 16
"""Float32 numbers in a vector of 64 bytes."""

# The example of the page: 2 inputs, 3 outputs, 4 transitions.
WEIGHT = np.array([[1, 2], [0, 1], [3, -1]])
INPUTS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
SLOPE = np.array([[1, 0, 2, 1], [0, 1, 0, 1], [1, 1, 0, 0]])

# Instruction set -> its name, and how many registers of how many bytes it has.
REGISTERS = {
    "v4": ("AVX-512", 32, 64),
    "v3": ("AVX2", 16, 32),
    "v2": ("SSE4", 16, 16),
    "arm64": ("NEON", 32, 16),
}
TABLE_OF_COSTS, TABLE_FLAGS = r"^\| part \|.*?^\| \*\*together\*\* .*?$", re.MULTILINE | re.DOTALL

LEVEL_OF_GUARD = {"__AVX512F__": "v4", "__AVX2__": "v3", "__aarch64__": "arm64", "": "v2"}


def tile_sizes() -> dict[str, tuple[int, int]]:
    """
    Read the register tiles from ``products.c``.

    :return: for each instruction set rows, and vectors side by side
    :raises ValueError: if the source does not have them where they were
    """
    source = (build.SOURCES / "products.c").read_text(encoding="utf-8")
    pattern = r"#(?:if|elif|else)(?: defined\((\w+)\))?\n#define TILE_ROWS (\d+)\n#define TILE_VECTORS (\d+)"
    found = {LEVEL_OF_GUARD[guard]: (int(rows), int(vectors)) for guard, rows, vectors in re.findall(pattern, source)}
    if set(found) != set(build.LEVELS):
        raise ValueError(f"products.c: found tiles for {sorted(found)}, expected {sorted(build.LEVELS)}")
    return found


def block_size() -> int:
    """
    Read from ``products.c`` how many k a block has.

    :return: the number
    """
    found = re.search(r"#define BLOCK (\d+)", (build.SOURCES / "products.c").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("products.c: found no '#define BLOCK'")
    return int(found.group(1))


def blank(figure: Figure, place: tuple[float, float, float, float], width: float, height: float) -> Axes:
    """
    Make axes without frame, with y downwards and squares that are square.

    :param figure: the figure
    :param place: left, bottom, width and height, as shares of the figure
    :param width: of what is drawn, in cells
    :param height: of what is drawn, in cells
    :return: the axes
    """
    axes = figure.add_axes(place)
    axes.set(xlim=(-0.1, width), ylim=(height, -0.1), aspect="equal")
    axes.axis("off")
    return axes


def cells(
    axes: Axes,
    left: float,
    top: float,
    shape: tuple[int, int],
    colour: str = WHITE,
    coloured: tuple[Sequence[int], Sequence[int]] | None = None,
    texts: np.ndarray | None = None,
) -> None:
    """
    Draw a matrix.

    :param axes: where
    :param left: x of the first cell
    :param top: y of the first cell
    :param shape: rows and columns
    :param colour: of the cells
    :param coloured: rows and columns of the cells that have it; all if it isn't given
    :param texts: what is in the cells, of that shape
    """
    for row, column in product(range(shape[0]), range(shape[1])):
        has_it = coloured is None or (row in coloured[0] and column in coloured[1])
        face = colour if has_it else WHITE
        axes.add_patch(Rectangle((left + column, top + row), 1, 1, facecolor=face, edgecolor=GREY, linewidth=0.7))
        if texts is not None:
            axes.text(left + column + 0.5, top + row + 0.53, texts[row, column], ha="center", va="center", fontsize=9)


def label(axes: Axes, x: float, y: float, text: str, colour: str = "black", size: float = 10, align: str = "center") -> None:
    """
    Write a line, or several.

    :param axes: where
    :param x: horizontal position
    :param y: vertical position
    :param text: what
    :param colour: of the text
    :param size: in points
    :param align: horizontal alignment
    """
    axes.text(x, y, text, ha=align, va="center", color=colour, fontsize=size, linespacing=1.35)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
    """
    Draw an arrow.

    :param axes: where
    :param start: from here
    :param end: to here
    :param colour: of the arrow
    """
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.4))


def draw_layouts() -> Figure:
    """
    Draw where the numbers of a layer lie, in the order of transitions and in that of units.

    :return: two units of four transitions, both ways
    """
    figure = Figure(figsize=(8.6, 2.9), facecolor=WHITE)
    axes = blank(figure, (0.01, 0.01, 0.98, 0.98), 25.5, 8.2)
    by_unit = np.array([["a1", "a2", "a3", "a4"], ["b1", "b2", "b3", "b4"]])
    for left, title, matrix, vector, note in (
        (0.0, "transition by transition, as torch has them", by_unit.T, 2, "two units of\ntwo transitions"),
        (13.0, "feature-major: unit by unit, as the kernels have them", by_unit, 1, "one unit of\nfour transitions"),
    ):
        rows, columns = matrix.shape
        label(axes, left, 0.4, title, align="left")
        cells(axes, left + 2.4, 1.6, (rows, columns), PALE_BLUE, (range(vector), range(columns)), matrix)
        for row in range(rows):
            name = f"transition {row + 1}" if columns == 2 else f"unit {'ab'[row]}"
            label(axes, left + 2.2, 2.13 + row, name, GREY, 8, "right")
        label(axes, left + 3 + columns, 2.6, f"one vector holds\n{note}", BLUE, 9, "left")
        label(axes, left, 6.45, "in memory", GREY, 8, "left")
        cells(axes, left, 7, (1, 8), PALE_BLUE, (range(1), range(4)), matrix.reshape(1, 8))
    return figure


def draw_products() -> Figure:
    """
    Draw the three products of the page's example: what of A is one number, and what of B and C a whole row.

    :return: forward pass, input gradient and weight gradient, for 2 inputs, 3 outputs, 4 transitions
    """
    figure = Figure(figsize=(8.6, 6.1), facecolor=WHITE)
    axes = blank(figure, (0.01, 0.01, 0.98, 0.98), 27, 19.1)
    products = (
        ("forward", "Z", "W", WEIGHT, "H", INPUTS, "W lies as torch has it, H and Z are feature-major"),
        (
            "input gradient",
            "H̄",
            "Wᵀ",
            WEIGHT.T,
            "Z̄",
            SLOPE,
            "Wᵀ is W read down its columns, a number at a time: nothing is copied",
        ),
        (
            "weight gradient",
            "W̄",
            "Z̄",
            SLOPE,
            "Hᵀ",
            INPUTS.T,
            "rows of Hᵀ are columns of H: the one matrix that is transposed first",
        ),
    )
    for index, (title, c_name, a_name, a, b_name, b, note) in enumerate(products):
        top, c, k = 1.6 + 6.4 * index, a @ b, 1
        label(axes, 0, top - 1.1, title, size=11, align="left")
        label(axes, 5.2, top - 1.1, note, GREY, 9, "left")
        for left, name, matrix, colour, rows, columns in (
            (1.0, c_name, c, PALE_GREEN, [0], range(c.shape[1])),
            (8.0, a_name, a, PALE_RED, [0], [k]),
            (14.5, b_name, b, PALE_BLUE, [k], range(b.shape[1])),
        ):
            cells(axes, left, top, matrix.shape, colour, (rows, columns), matrix)
            label(axes, left + matrix.shape[1] / 2, top + 0.45 + len(matrix), name, size=10)
        label(axes, 6.4, top + 1.5, "=", size=13)
        label(axes, 13.2, top + 1.5, "×", size=13)
        label(axes, 20.2, top + 0.7, "k = 2: a number of A,", VERMILLION, 9, "left")
        label(axes, 20.2, top + 1.5, "times row k of B,", BLUE, 9, "left")
        label(axes, 20.2, top + 2.3, "is added to a row of C", GREEN, 9, "left")
    return figure


def draw_tile(level: str) -> Figure:
    """
    Draw the register tile of an instruction set at one step of k.

    :param level: instruction set
    :return: the tile, the row of B above it and the numbers of A beside it
    """
    rows, vectors = tile_sizes()[level]
    width = vectors * LANES
    figure = Figure(figsize=(8.6, 8.6 * (rows + 6.2) / (width + 14)), facecolor=WHITE)
    axes = blank(figure, (0.01, 0.01, 0.98, 0.98), width + 14, rows + 6.2)
    left, top = 5.2, 4.0
    cells(axes, left, 1.6, (1, width), PALE_BLUE)
    cells(axes, 2.6, top, (rows, 1), PALE_RED)
    cells(axes, left, top, (rows, width), PALE_GREEN)
    for vector in range(vectors + 1):
        axes.plot([left + vector * LANES] * 2, [top, top + rows], color="black", linewidth=1.4)
        axes.plot([left + vector * LANES] * 2, [1.6, 2.6], color="black", linewidth=1.4)
    for row in range(rows):
        arrow(axes, (3.7, top + row + 0.5), (5.1, top + row + 0.5), VERMILLION)
    for vector in range(vectors):
        middle = left + LANES * (vector + 0.5)
        label(axes, middle, 1.0, f"vector {vector + 1} of row k of B", BLUE, 9)
        arrow(axes, (middle, 2.65), (middle, 3.95), BLUE)
    label(axes, 3.1, top - 0.75, "A[i][k]", VERMILLION, 9)
    products = rows * vectors
    side = left + width + 0.6
    label(axes, side, top + rows / 2, f"{products} sums in registers:\n{products * LANES} elements of C", GREEN, 10, "left")
    label(axes, side, 2.1, f"{vectors} loads of B", BLUE, 10, "left")
    label(axes, 0.0, top + rows + 1.1, f"{rows} loads of A, each filled into a whole vector", VERMILLION, 10, "left")
    text = f"one step of k: {rows} + {vectors} loads, {products} multiply-adds of {LANES} numbers each"
    label(axes, side + 8, top + rows + 1.1, text, size=10, align="right")
    return figure


def draw_blocks() -> Figure:
    """
    Draw how a large product goes: blocks of k, a panel of B laid out side by side, tiles down the rows of A.

    :return: the picture
    """
    figure = Figure(figsize=(8.6, 4.4), facecolor=WHITE)
    axes = blank(figure, (0.01, 0.01, 0.98, 0.98), 43, 21)
    depth = block_size()

    def matrix(left: float, top: float, width: float, height: float, name: str) -> None:
        axes.add_patch(Rectangle((left, top), width, height, facecolor=WHITE, edgecolor=GREY, linewidth=1))
        label(axes, left + width / 2, top + height + 0.9, name)

    def part(left: float, top: float, width: float, height: float, colour: str) -> None:
        axes.add_patch(Rectangle((left, top), width, height, facecolor=colour, edgecolor=GREY, linewidth=1))

    matrix(0.5, 4, 9, 10, "A: rows × k")
    part(0.5, 4, 4.5, 2, PALE_RED)
    matrix(13, 4, 10, 9, "B: k × columns")
    part(15, 4, 2, 4.5, PALE_BLUE)
    axes.plot([5, 5], [3.4, 14.4], color="black", linestyle="--", linewidth=1)
    axes.plot([12.4, 23.6], [8.5, 8.5], color="black", linestyle="--", linewidth=1)
    label(axes, 2.75, 2.9, "block 1", GREY, 9)
    label(axes, 7.25, 2.9, "block 2", GREY, 9)
    label(axes, 5, 1.6, f"k is cut every {depth}", size=10)
    label(axes, 16, 2.9, "panel", BLUE, 9)
    arrow(axes, (1.6, 6.2), (1.6, 9.6), VERMILLION)
    label(axes, 2.0, 8.2, "next tile", VERMILLION, 9, "left")

    part(28, 4, 2, 4.5, PALE_BLUE)
    for row in range(1, 9):
        axes.plot([28, 30], [4 + row / 2] * 2, color=GREY, linewidth=0.6)
    arrow(axes, (17.2, 6.2), (27.7, 6.2), BLUE)
    label(axes, 25.6, 5.5, "copied", BLUE, 9)
    label(axes, 30.5, 5.4, "its rows now lie one after\nthe other, and stay in the\ncache for all tiles", BLUE, 9, "left")

    matrix(28, 11, 10, 6, "C: rows × columns")
    part(30, 11, 2, 2, PALE_GREEN)
    label(axes, 28, 19.4, "block 1 leaves the sums of its tile in C,\nblock 2 goes on from them", GREEN, 9, "left")
    return figure


def tile_row(level: str) -> str:
    """
    Describe the tile of an instruction set.

    :param level: instruction set
    :return: a line of the page's table
    """
    name, registers, size = REGISTERS[level]
    rows, vectors = tile_sizes()[level]
    wide = vectors * 64 // size
    loads = rows + wide
    cells_of_row = (
        name,
        f"{registers} of {size} bytes",
        f"{rows} × {vectors}",
        rows * wide,
        loads,
        f"{rows * wide / loads:.1f}",
    )
    return f"| {level} " + "".join(f"| {cell} " for cell in cells_of_row) + "|"


def with_tables(text: str) -> str:
    """
    Put the tables of now into the page.

    :param text: the page
    :return: the page, up to date
    """
    for level in REGISTERS:
        text = re.sub(rf"^\| {level} \|.*$", tile_row(level), text, flags=re.MULTILINE)
    costs = re.search(TABLE_OF_COSTS, (FOLDER / "minibatch.md").read_text(encoding="utf-8"), TABLE_FLAGS)
    if costs is None:
        raise ValueError("minibatch.md: found no table")
    return re.sub(TABLE_OF_COSTS, lambda _: costs[0], text, flags=TABLE_FLAGS)


def main() -> None:
    """Draw all pictures and write the tables."""
    pictures = {"layouts": draw_layouts(), "products": draw_products(), "tile": draw_tile("v4"), "blocks": draw_blocks()}
    for name, figure in pictures.items():
        save_figure(figure, FOLDER / f"{name}.png")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
