"""
Pictures of runs.

A picture is a function from numbers to a ``Figure``; reading the numbers and saving the picture are functions of their own.
Figures are made without ``pyplot``, so that no window system, global state or style of the caller's is touched.
"""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.training.folder import EVALUATION_FILE, EVALUATIONS_FILE, MONITOR_FOLDER

# Okabe and Ito's palette, told apart by colour-blind readers too: https://jfly.uni-koeln.de/color/
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

MINUS = "\N{MINUS SIGN}"

THOUSANDS = "{x:,.12g}"
"""How an axis writes returns: 7,000 and 0.25."""

ROLLING_EPISODES = 20
"""Episodes in the running mean of the training returns."""


@dataclass(frozen=True)
class LearningCurve:
    """
    What a learning curve shows.

    :param title: environment
    :param train_steps: step at which each training episode ended, ascending, shape ``(n_episodes,)``
    :param train_returns: its return, shape ``(n_episodes,)``
    :param eval_steps: step of each evaluation, shape ``(n_evaluations,)``
    :param eval_returns: returns of its episodes, shape ``(n_evaluations, n_eval_episodes)``
    :param final_returns: returns of the final evaluation, shape ``(n_final,)``; may be empty
    :param random_returns: returns of random actions, shape ``(n_random,)``; may be empty
    """

    title: str
    train_steps: np.ndarray
    train_returns: np.ndarray
    eval_steps: np.ndarray
    eval_returns: np.ndarray
    final_returns: np.ndarray
    random_returns: np.ndarray


def read_learning_curve(folder: Path, title: str, steps_per_decision: int = 1) -> LearningCurve:
    """
    Read a run's learning curve from its folder.

    :param folder: the run's folder
    :param title: what the picture is of
    :param steps_per_decision: environment steps that an action is repeated for, which the evaluations' steps do not count
    :return: the curve; what the folder does not have is empty
    """
    train_steps, train_returns = read_training_episodes(folder / MONITOR_FOLDER)
    eval_steps, eval_returns = np.zeros(0), np.zeros((0, 0))
    if (folder / EVALUATIONS_FILE).is_file():
        with np.load(folder / EVALUATIONS_FILE) as evaluations:
            eval_steps, eval_returns = evaluations["timesteps"] * steps_per_decision, evaluations["results"]
    final: dict[str, dict[str, list[float]]] = {}
    if (folder / EVALUATION_FILE).is_file():
        final = json.loads((folder / EVALUATION_FILE).read_text(encoding="utf-8"))
    final_returns, random_returns = (
        np.asarray(final[who]["returns"] if final else [], dtype=float) for who in ("trained", "random")
    )
    return LearningCurve(title, train_steps, train_returns, eval_steps, eval_returns, final_returns, random_returns)


def read_training_episodes(monitor_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the training episodes from SB3's monitor files, one file for each environment.

    The environments step together, so when one of them has made ``k`` steps, all ``n_envs`` have: the run's step is
    ``k * n_envs``. (SB3's own ``load_results`` adds up the lengths of finished episodes, and so lags behind by those that are
    not yet finished.)

    :param monitor_folder: folder of the files
    :return: steps and returns, both of shape ``(n_episodes,)``, by ascending step
    """
    files = sorted(monitor_folder.glob("*.monitor.csv"))
    steps, returns = [np.zeros(0)], [np.zeros(0)]
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            # The first line is a comment in JSON.
            next(lines)
            rows = list(csv.DictReader(lines))
        steps.append(np.cumsum([float(row["l"]) for row in rows]) * len(files))
        returns.append(np.array([float(row["r"]) for row in rows]))
    all_steps, all_returns = np.concatenate(steps), np.concatenate(returns)
    order = np.argsort(all_steps, kind="stable")
    return all_steps[order], all_returns[order]


def rolling_mean(values: np.ndarray, window: int) -> np.ndarray:
    """
    Average each value with those before it.

    :param values: shape ``(n,)``
    :param window: number of values averaged; fewer at the start
    :return: the means, shape ``(n,)``
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def draw_learning_curve(curve: LearningCurve) -> Figure:
    """
    Draw how a run learned: every training episode, the evaluations with their spread, and random actions for comparison.

    :param curve: what to show
    :return: the figure
    """
    figure, axes = _begin(curve.title, 4.8)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(StrMethodFormatter(THOUSANDS))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if len(curve.train_returns):
        axes.scatter(
            curve.train_steps, curve.train_returns, s=7, color=BLUE, alpha=0.22, linewidths=0, label="training episode"
        )
        mean = rolling_mean(curve.train_returns, ROLLING_EPISODES)
        axes.plot(curve.train_steps, mean, color=BLUE, linewidth=1.8, label=f"training, mean of {ROLLING_EPISODES} episodes")
    if len(curve.eval_steps):
        mean, std = curve.eval_returns.mean(axis=1), curve.eval_returns.std(axis=1)
        axes.fill_between(curve.eval_steps, mean - std, mean + std, color=VERMILLION, alpha=0.18, linewidth=0)
        label = f"evaluation, mean ± std of {curve.eval_returns.shape[1]} episodes"
        axes.plot(curve.eval_steps, mean, color=VERMILLION, linewidth=2.2, marker="o", markersize=4, label=label)
    if len(curve.random_returns):
        mean_random = curve.random_returns.mean()
        label = f"random actions, mean {mean_random:.0f}".replace("-", MINUS)
        axes.axhline(mean_random, color=GREY, linewidth=1.5, linestyle=(0, (4, 3)), label=label)
    if len(curve.final_returns):
        end = max([*curve.train_steps[-1:], *curve.eval_steps[-1:]], default=0)
        mean_final, std_final = curve.final_returns.mean(), curve.final_returns.std()
        final = f"{mean_final:.0f} ± {std_final:.0f}".replace("-", MINUS)
        label = f"final evaluation, {final} over {len(curve.final_returns)} episodes"
        axes.errorbar(
            [end],
            [mean_final],
            [std_final],
            color=GREEN,
            marker="D",
            markersize=7,
            capsize=4,
            linewidth=2,
            label=label,
            zorder=5,
        )
    axes.set_ylim(*_visible_range(curve))
    axes.set_xlim(left=0)
    _draw_legend(axes, columns=2)
    return figure


def _visible_range(curve: LearningCurve) -> tuple[float, float]:
    """Choose the returns to show: the means, and training episodes but for the lowest hundredth, which would flatten them."""
    parts = [np.percentile(curve.train_returns, [1, 100])] if len(curve.train_returns) else []
    if len(curve.eval_steps):
        mean, std = curve.eval_returns.mean(axis=1), curve.eval_returns.std(axis=1)
        parts += [mean - std, mean + std]
    for returns in (curve.final_returns, curve.random_returns):
        if len(returns):
            parts.append(returns.mean() + returns.std() * np.array([-1, 1]))
    low, high = (np.min(np.concatenate(parts)), np.max(np.concatenate(parts))) if parts else (0.0, 1.0)
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def save_figure(figure: Figure, path: Path) -> None:
    """
    Save a figure as an image; its name decides the format.

    :param figure: the figure
    :param path: the file
    """
    write_atomically(path, lambda temporary: figure.savefig(temporary))


CURVE_COLOURS = (BLUE, GREEN, VERMILLION, "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#999933", "#882255")
"""Okabe and Ito's palette, and an olive and a wine red where it ends."""

CURVE_MARKERS = "oDs^vPX*h"
CURVE_STYLES: tuple[Any, ...] = ("-", "-", (0, (5, 4)), "-", (0, (5, 4)), "-", (0, (5, 4)), "-", (0, (5, 4)))
"""Some are broken, the third one of all, SB3's PPO, so that of two equal curves both are seen."""

BELOW_RANDOM = 0.75
"""How far below random actions a picture goes, in parts of the way from them to the target."""


@dataclass(frozen=True)
class Band:
    """
    A learning curve over seeds.

    :param steps: environment steps, shape ``(n,)``
    :param mean: mean over the seeds
    :param low: lower end of the bootstrap interval of the mean
    :param high: its upper end
    :param seeds: number of runs
    """

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def _begin(title: str, height: float = 4.6) -> tuple[Figure, Axes]:
    """Begin a picture with one pair of axes, its height in inches."""
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold")
    _draw_grid(axes)
    return figure, axes


def _draw_grid(axes: Axes) -> None:
    """Draw horizontal lines behind the curves, and no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_legend(axes: Axes, columns: int = 3) -> None:
    """Draw a legend below the picture, its lines long enough for two strokes of a broken one, and nothing pale."""
    where: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.16), "frameon": False}
    legend = axes.legend(*axes.get_legend_handles_labels(), **where, ncols=columns, fontsize=9, handlelength=4.5)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def draw_bands(
    title: str, bands: Mapping[str, Band], target: float | None, random: float | None, known: Sequence[str] = ()
) -> Figure:
    """
    Draw learning curves of several algorithms, each with the interval of its mean over seeds.

    Curves differ in colour and in marker, for readers who don't see all colours. What falls far below random actions is cut
    off, and the legend says whose mean.

    :param title: what the picture is of
    :param bands: curve by name of the algorithm
    :param target: return that counts as reached, or None
    :param random: mean return of random actions, or None
    :param known: names in the order of the palette, so that one has the same colour in all pictures; else they have it in
        the order of ``bands``
    :return: the figure
    """
    floor = lowest_shown(target, random)
    figure, axes = _begin("\n".join(textwrap.wrap(title, 64)))
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of the policy, deterministic")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(StrMethodFormatter(THOUSANDS))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    looks = list(zip(CURVE_COLOURS, CURVE_MARKERS, CURVE_STYLES, strict=True))
    for index, (name, band) in enumerate(bands.items()):
        colour, marker, style = looks[known.index(name) if name in known else index]
        axes.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
        label = f"{name} ({band.seeds} seed{'s' if band.seeds > 1 else ''}){' ↓' if band.mean.min() < floor else ''}"
        # The first one is wider, and seen where another lies on it: EduPPO and SB3's PPO often have the same bits.
        width, size = (2.0, 4) if index else (5.0, 7)
        axes.plot(
            band.steps, band.mean, color=colour, linestyle=style, marker=marker, markersize=size, linewidth=width, label=label
        )
    if target is not None:
        axes.axhline(target, color=GREY, linewidth=1.2, label=f"target, {target:,.0f}".replace("-", MINUS))
    if random is not None:
        label = f"random actions, {random:,.0f}".replace("-", MINUS)
        axes.axhline(random, color=GREY, linewidth=1.2, linestyle=(0, (1, 2)), label=label)
    axes.set_xlim(left=0)
    if any(band.low.min() < floor for band in bands.values()):
        highest = max(target or 0.0, *(float(band.high.max()) for band in bands.values()))
        axes.set_ylim(floor, highest + 0.05 * (highest - floor))
    if any(band.mean.min() < floor for band in bands.values()):
        axes.plot([], [], " ", label="↓ goes below the picture")
    _draw_legend(axes)
    return figure


def draw_each(
    title: str, bands: Mapping[str, Band], target: float | None, random: float | None, known: Sequence[str] = ()
) -> Figure:
    """
    Draw learning curves of many algorithms, a small picture for each, in which the others are grey.

    :param title: what the picture is of
    :param bands: curve by name of the algorithm
    :param target: return that counts as reached, or None
    :param random: mean return of random actions, or None
    :param known: as :func:`draw_bands` has it
    :return: the figure; its steps are on a logarithmic scale where some algorithms train for much longer than others
    """
    columns = 3
    rows = -(-len(bands) // columns)
    figure = Figure(figsize=(9, 0.9 + 2.5 * rows), dpi=150, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 80)), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supylabel("return of the policy, deterministic", fontsize=10)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    floor = lowest_shown(target, random)
    highest = max([target or -np.inf, *(float(band.high.max()) for band in bands.values())])
    ends = [int(band.steps[-1]) for band in bands.values()]
    for index, (axes, (name, own)) in enumerate(zip(grid.flat, bands.items(), strict=False)):
        _draw_grid(axes)
        for other in bands.values():
            axes.plot(other.steps, other.mean, color="#C8C8C8", linewidth=1, zorder=1)
        colour = CURVE_COLOURS[(known.index(name) if name in known else index) % len(CURVE_COLOURS)]
        axes.fill_between(own.steps, own.low, own.high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(own.steps, own.mean, color=colour, marker="o", markersize=3, linewidth=2, zorder=3)
        seeds = f"{own.seeds} seed{'s' if own.seeds > 1 else ''}"
        axes.set_title("\n".join(textwrap.wrap(f"{name} ({seeds})", 36)), loc="left", fontsize=9.5)
        for level, style in ((target, "-"), (random, (0, (1, 2)))):
            if level is not None:
                axes.axhline(level, color=GREY, linewidth=1, linestyle=style)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(StrMethodFormatter(THOUSANDS))
        if index + columns >= len(bands):
            axes.tick_params(labelbottom=True)
    if max(ends) > 4 * min(ends):
        grid.flat[0].set_xscale("log")
        grid.flat[0].xaxis.set_minor_formatter(NullFormatter())
    else:
        grid.flat[0].set_xlim(left=0)
        grid.flat[0].xaxis.set_major_locator(MaxNLocator(5))
    if any(band.low.min() < floor for band in bands.values()):
        grid.flat[0].set_ylim(floor, highest + 0.05 * (highest - floor))
    for axes in grid.flat[len(bands) :]:
        axes.set_visible(False)
    levels = [f"solid line: target, {target:,.0f}"] if target is not None else []
    levels += [f"dotted: random actions, {random:,.0f}"] if random is not None else []
    below = "; what leaves a picture below goes on there" if np.isfinite(floor) else ""
    legend = f"grey: the other algorithms; {'; '.join(levels)}{below}".replace("-", MINUS)
    figure.supxlabel("\n".join(["environment steps", *textwrap.wrap(legend, 110)]), fontsize=9)
    return figure


def lowest_shown(target: float | None, random: float | None) -> float:
    """
    Say below which return nothing is drawn.

    :param target: return that counts as reached, or None
    :param random: mean return of random actions, or None
    :return: somewhat below random actions; minus infinity where one of them is unknown, or random actions are better
    """
    if target is None or random is None or target <= random:
        return float("-inf")
    return random - BELOW_RANDOM * (target - random)


def draw_profiles(title: str, profiles: Mapping[str, Band], known: Sequence[str] = ()) -> Figure:
    """
    Draw performance profiles: the share of runs whose score is above each threshold.

    :param title: what the picture is of
    :param profiles: by name of the algorithm; the steps of a band are its thresholds
    :param known: as :func:`draw_bands` has it
    :return: the figure
    """
    figure, axes = _begin(title)
    axes.set_xlabel("score (0 random actions, 1 the target)")
    axes.set_ylabel("share of runs above it")
    looks = list(zip(CURVE_COLOURS, CURVE_STYLES, strict=True))
    for index, (name, band) in enumerate(profiles.items()):
        colour, style = looks[known.index(name) if name in known else index]
        axes.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(band.steps, band.mean, color=colour, linestyle=style, linewidth=2, label=name)
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="the target")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _draw_legend(axes)
    return figure


@dataclass(frozen=True)
class Panel:
    """
    What one setting does: scores at its levels.

    :param title: of the setting
    :param levels: its values, in order
    :param means: mean score at each
    :param lows: lower ends of their intervals
    :param highs: upper ends
    :param default: SB3's value
    """

    title: str
    levels: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    default: float


LEAST_SPAN = 10.0
"""Levels whose largest is that many times the smallest stand where their logarithms do; others are evenly spaced."""

SCORE_AXIS = "score (0 random actions, 1 the target)"


def draw_panels(title: str, panels: Sequence[Panel], scale: str = SCORE_AXIS, *, from_zero: bool = True) -> Figure:
    """
    Draw what each of several settings does, one panel for each, on one scale.

    :param title: what the picture is of
    :param panels: the settings
    :param scale: what is drawn
    :param from_zero: begin the scale at 0
    :return: the figure
    """
    columns = 4
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(10, 0.6 + 2.5 * rows), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    figure.supylabel(scale, fontsize=10)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_levels(axes, panel, BLUE, "o", apart=0.15)
        axes.set_title(panel.title, loc="left", fontsize=10)
    if from_zero:
        grid.flat[0].set_ylim(bottom=0)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    return figure


def draw_one_setting(title: str, panels: Mapping[str, Panel]) -> Figure:
    """
    Draw what one setting does in several environments.

    :param title: what the picture is of
    :param panels: by name of the environment, all with the same levels
    :return: the figure
    """
    figure, axes = _begin(title)
    for (name, panel), colour, marker in zip(panels.items(), CURVE_COLOURS, CURVE_MARKERS, strict=False):
        _draw_levels(axes, panel, colour, marker, name)
        axes.set_xlabel(panel.title)
    axes.set_ylabel(SCORE_AXIS)
    axes.set_ylim(bottom=0)
    _draw_legend(axes)
    return figure


def short(level: float) -> str:
    """
    Write a level so that many fit side by side.

    :param level: the number
    :return: such as "3e-4" or "0.95"
    """
    return f"{level:.0e}".replace("e-0", "e-") if 0 < level < 0.01 else f"{level:g}"


def _draw_levels(axes: Axes, panel: Panel, colour: str, marker: str, name: str | None = None, *, apart: float = 0.0) -> None:
    """
    Draw means with their intervals at the levels, to scale where they span decades, and a line at the default.

    A level is named where it lies that part of the picture's width to the right of the last one named.
    """
    decades = min(panel.levels) > 0 and max(panel.levels) >= LEAST_SPAN * min(panel.levels)
    places = [float(np.log10(level)) if decades else float(index) for index, level in enumerate(panel.levels)]
    axes.fill_between(places, panel.lows, panel.highs, color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, panel.means, color=colour, marker=marker, markersize=5, linewidth=2, label=name)
    if panel.default in panel.levels:
        axes.axvline(places[panel.levels.index(panel.default)], color=GREY, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
    labels, last = [], -np.inf
    for place, level in zip(places, panel.levels, strict=True):
        named = place - last >= apart * (places[-1] - places[0])
        labels.append(short(level) if named else "")
        last = place if named else last
    axes.set_xticks(places, labels, fontsize=8)
    _draw_grid(axes)
