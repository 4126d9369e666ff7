"""What the lessons have in common, so that their cells show what they teach and nothing else."""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from cycler import cycler
from PIL import Image, ImageDraw
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ppo_edu.envs.factory import action_repeat, make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.plots import BLUE, GREEN, GREY, VERMILLION, rolling_mean
from sb3_ppo_edu.lab.replay import CannotRenderError, Film, film_episode, reduce_colours
from sb3_ppo_edu.training.evaluation import EVALUATION_SEED, Evaluation, RandomPolicy, evaluate
from sb3_ppo_edu.training.hyperparameters import load_hyperparameters
from sb3_ppo_edu.training.settings import RunSettings, settings_from_hyperparameters

SHORT = "SB3_EDU_SHORT" in os.environ
"""Whether lessons only try out that they run, as CI does: they train for a moment and draw what there is."""

PALETTE = [BLUE, VERMILLION, GREEN, GREY]

NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?|nan|inf")
"""What a cell of a column that stands right looks like."""

NOTE_WIDTH = 100
"""Characters in a line of a note where there is no Markdown."""

FILM_WIDTH = 300
"""Pixels of a film's width in a notebook."""

T = TypeVar("T")


def begin() -> None:
    """Set colours, sizes and one thread for this notebook; small networks are faster with one."""
    th.set_num_threads(1)
    mpl.rcParams.update(
        {
            "figure.figsize": (7.5, 3.6),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "figure.autolayout": True,
        }
    )


def quick(full: T, short: T) -> T:
    """
    Choose a number for a lesson.

    :param full: what the lesson is about
    :param short: what is enough to see that it runs
    :return: one of the two
    """
    return short if SHORT else full


def recipe(env_id: str, seed: int = 0) -> tuple[RunSettings, VecEnv]:
    """
    Look up the package's settings for an environment, and build it.

    :param env_id: Gymnasium id
    :param seed: of the run
    :return: settings, and the vectorised training environment
    """
    settings = settings_from_hyperparameters(env_id, load_hyperparameters(env_id), seed=seed)
    return settings, make_training_env(settings.environment, settings.n_envs, seed)


def play(model: BaseAlgorithm, settings: RunSettings, episodes: int = 50) -> Evaluation:
    """
    Play episodes with the most likely actions, on starting states that training has not seen.

    :param model: the trained model
    :param settings: from :func:`recipe`
    :param episodes: how many
    :return: their returns
    """
    env = make_evaluation_env(settings.environment, min(episodes, 10), EVALUATION_SEED)
    _copy_statistics(model, env)
    try:
        return evaluate(model, env, episodes)
    finally:
        env.close()


def _copy_statistics(model: BaseAlgorithm, env: VecEnv) -> None:
    """Have an environment normalise observations as the one that the model was trained in."""
    training_env = model.get_env()
    if training_env is not None and model.get_vec_normalize_env() is not None:
        sync_envs_normalization(training_env, env)


def play_randomly(settings: RunSettings, episodes: int = 50) -> Evaluation:
    """
    Play the same episodes with random actions.

    :param settings: from :func:`recipe`
    :param episodes: how many
    :return: their returns
    """
    n_envs = min(episodes, 10)
    env = make_evaluation_env(settings.environment, n_envs, EVALUATION_SEED)
    try:
        return evaluate(RandomPolicy(env.action_space, n_envs, EVALUATION_SEED), env, episodes)
    finally:
        env.close()


def explore(draw: Callable[[Any, float], object], name: str, values: Sequence[float]) -> None:
    """
    Draw what a parameter does: for some of its values side by side and, where there are widgets, with a slider below.

    :param draw: takes the axes to draw on, and the parameter
    :param name: of the parameter
    :param values: to draw without a slider, rising; it goes from the first to the last
    """
    _, row = plt.subplots(1, len(values), figsize=(3.5 * len(values), 3), sharey=True)
    for axes, value in zip(row, values, strict=True):
        draw(axes, value)
        axes.set_title(f"{name} = {value:g}")
    plt.show()
    try:
        from ipywidgets import FloatSlider, interact  # type: ignore[import-untyped]
    except ImportError:
        print("pip install ipywidgets, and there will be a slider here.")
        return

    def move(value: float) -> None:
        _, axes = plt.subplots(figsize=(5, 3))
        draw(axes, value)
        plt.show()

    low, high = values[0], values[-1]
    slider = FloatSlider(values[1], min=low, max=high, step=(high - low) / 50, description=name, continuous_update=False)
    if not SHORT:  # a short run has nobody to move it
        interact(move, value=slider)


def film(model: BaseAlgorithm, settings: RunSettings) -> Film | None:
    """
    Film one episode with the most likely actions; it begins the same way for every model.

    :param model: as it is now
    :param settings: from :func:`recipe`
    :return: for :class:`Films`; None, and a sentence, where the environment cannot draw itself
    """
    env = make_evaluation_env(settings.environment, 1, EVALUATION_SEED, render_mode="rgb_array")
    _copy_statistics(model, env)
    try:
        filmed = film_episode(model, env)
    except CannotRenderError as error:
        print(f"No pictures on this machine: {error}")
        return None
    finally:
        env.close()
    return replace(filmed, seconds_per_frame=filmed.seconds_per_frame * action_repeat(settings.environment.wrapper))


class Films:
    """
    Episodes that play side by side in a notebook, over and over; the shorter ones wait for the longest.

    :param films: by name
    """

    def __init__(self, films: dict[str, Film | None]) -> None:
        self._films = {name: one for name, one in films.items() if one is not None}

    def __repr__(self) -> str:
        """Write what is to be seen."""
        return "; ".join(f"{name}: {one.episode_return:.0f} points" for name, one in self._films.items()) or "No pictures."

    def _repr_png_(self) -> bytes | None:
        """Draw as an animated PNG, which every browser plays, and which shows its first picture elsewhere."""
        if not self._films:
            return None
        pictures = []
        for number in range(max(len(one.frames) for one in self._films.values())):
            page = Image.new("RGB", (FILM_WIDTH * len(self._films), FILM_WIDTH * 2 // 3 + 20), "white")
            for column, (name, one) in enumerate(self._films.items()):
                frame = one.frames[min(number, len(one.frames) - 1)]
                page.paste(frame.resize((FILM_WIDTH - 4, FILM_WIDTH * 2 // 3)), (FILM_WIDTH * column, 20))
                ImageDraw.Draw(page).text((FILM_WIDTH * column + 4, 4), f"{name}: {one.episode_return:.0f} points", "black")
            pictures.append(page)
        first, *rest = reduce_colours(pictures)
        milliseconds = 1000 * next(iter(self._films.values())).seconds_per_frame
        file = io.BytesIO()
        first.save(file, "PNG", save_all=True, append_images=rest, duration=[milliseconds] * len(rest) + [2000], loop=0)
        return file.getvalue()


class Curve(BaseCallback):
    """
    Notes each finished episode of a training.

    :param settings: from :func:`recipe`, for how many steps of the environment a decision is; None for one
    """

    changes_policy = False

    def __init__(self, settings: RunSettings | None = None) -> None:
        super().__init__()
        self._repeat = 1 if settings is None else action_repeat(settings.environment.wrapper)
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        """Note what has ended."""
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps * self._repeat)
                self.returns.append(float(info["episode"]["r"]))
        return True

    def draw(self, axes: Any, label: str, window: int = 20) -> None:
        """
        Draw the running mean of the returns.

        :param window: episodes in the mean
        """
        if self.returns:
            axes.plot(self.steps, rolling_mean(np.asarray(self.returns), window), label=label)
        axes.set_xlabel("steps of the environment")
        axes.set_ylabel(f"return, mean of {window} episodes")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """
    Make a table that a notebook shows as one.

    :param header: titles of the columns
    :param rows: cells; numbers are rounded to four digits
    :return: what displays itself as Markdown, and as text elsewhere
    """
    lines = [[cell if isinstance(cell, str) else f"{cell:,.4g}" for cell in row] for row in rows]
    return Table([list(header), *lines])


class Table:
    """
    A small table.

    :param lines: cells as text; the first line is the header
    """

    def __init__(self, lines: list[list[str]]) -> None:
        self.lines = lines

    def _repr_markdown_(self) -> str:
        """Write as Markdown."""
        header, *rest = (" | ".join(line) for line in self.lines)
        rule = " | ".join("---:" if self._holds_numbers(i) else "---" for i in range(len(self.lines[0])))
        return "\n".join([f"| {header} |", f"| {rule} |", *(f"| {line} |" for line in rest)])

    def _holds_numbers(self, column: int) -> bool:
        """Whether a column is one of numbers, which stand right."""
        cells = [line[column] for line in self.lines[1:] if line[column]]
        return sum(bool(NUMBER.fullmatch(cell)) for cell in cells) * 2 > len(cells)

    def __repr__(self) -> str:
        """Write as text."""
        widths = [max(len(line[i]) for line in self.lines) for i in range(len(self.lines[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in self.lines)


def note(text: str) -> Any:
    """
    Write a sentence about a run with the run's own numbers, so that no sentence can contradict what stands above it.

    :param text: in Markdown
    :return: what displays itself as Markdown, and as text elsewhere
    """
    return Note(text)


def compare(prediction: Any, found: Any, what: str) -> Any:
    """
    Set what was predicted before a run beside what came of it.

    :param prediction: a number or a word; None if none was made
    :param found: what the run came to; numbers are rounded to three digits
    :param what: it is
    :return: what displays itself as Markdown, and as text elsewhere
    """
    came, said = (f"{value:,.3g}" if isinstance(value, (int, float)) else str(value) for value in (found, prediction))
    return note(f"{what}: **{came}**. " + ("You predicted nothing." if prediction is None else f"You predicted {said}."))


class Note:
    """
    A paragraph whose numbers are those of the run above it.

    :param text: in Markdown
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_markdown_(self) -> str:
        """Write as Markdown."""
        return self.text

    def __repr__(self) -> str:
        """Write as text."""
        return textwrap.fill(self.text.replace("**", ""), NOTE_WIDTH)
