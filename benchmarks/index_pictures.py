"""Draw what the doctor's second trial and the killed trainings came to: ``python benchmarks/index_pictures.py``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure

from sb3_ppo_edu.lab.plots import BLUE, GREY, VERMILLION, save_figure

HERE = Path(__file__).resolve().parent
DOCTOR, DURABILITY = HERE / "doctor", HERE / "durability"
BITS = ("parameters", "optimizer", "progress.csv", "evaluations.npz")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read the rows of a measurement."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def named_first(rows: list[dict[str, str]]) -> dict[str, tuple[int, int]]:
    """Count for each planted fault how often it, or one of two, was named first, and its trainings; most often first."""
    sys.path.insert(0, str(DOCTOR))
    from scores import is_right  # a script beside its rows, no package

    counted: dict[str, tuple[int, int]] = {}
    for row in rows:
        fault = "two faults: one of them" if "+" in row["fault"] else row["fault"]
        right = not row["first"] if fault == "none" else is_right(row, 1)
        hits, total = counted.get(fault, (0, 0))
        counted[fault] = (hits + right, total + 1)
    counted["none: declared healthy"] = counted.pop("none")
    return dict(sorted(counted.items(), key=lambda one: (-one[1][0] / one[1][1], -one[1][1], one[0])))


def draw_doctor(counted: dict[str, tuple[int, int]]) -> Figure:
    """Draw the share of trainings of each fault in which it was named first, with the counts."""
    figure = Figure(figsize=(8, 0.27 * len(counted) + 0.9), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    names = list(counted)
    shares = [100 * hits / total for hits, total in counted.values()]
    axes.barh(names, [100.0] * len(names), color="#EEEEEE", height=0.7)
    axes.barh(names, shares, color=[VERMILLION if share < 80 else BLUE for share in shares], height=0.7)
    for index, (hits, total) in enumerate(counted.values()):
        axes.text(101, index, f"{hits} of {total}", va="center", fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("named first in % of the trainings (orange: below the aim of 80)")
    axes.set_title("What the doctor named first, second trial", loc="left", fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    return figure


def draw_kills(rows: list[dict[str, str]]) -> Figure:
    """Draw each killed training at the step that it went on from: a dot if it ended with the undisturbed one's bits."""
    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    cases = list(dict.fromkeys(f"{row['case']}, {row['engine']}" for row in rows))
    same = [all(row[name] == "True" for name in BITS) for row in rows]
    for equal, colour, marker, label in ((True, BLUE, "o", "the same bits"), (False, VERMILLION, "x", "other bits")):
        chosen = [row for row, one in zip(rows, same, strict=True) if one is equal]
        places = [int(row["resumed_at"]) for row in chosen]
        heights = [cases.index(f"{row['case']}, {row['engine']}") for row in chosen]
        axes.scatter(places, heights, color=colour, marker=marker, alpha=0.6, label=f"{label}: {len(chosen)} of {len(rows)}")
    axes.set_yticks(range(len(cases)), cases, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(-60, 3060)
    axes.set_xlabel("step that it went on from (0: none was saved yet)")
    axes.set_title("100 trainings of 3,000 steps, killed and resumed", loc="left", fontweight="bold")
    axes.grid(axis="x", color=GREY, alpha=0.15)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def main() -> None:
    """Draw both pictures beside their rows."""
    save_figure(draw_doctor(named_first(rows_of(DOCTOR / "trial2-eduppo.csv"))), DOCTOR / "named.png")
    save_figure(draw_kills(rows_of(DURABILITY / "kill.csv")), DURABILITY / "kill.png")


if __name__ == "__main__":
    main()
