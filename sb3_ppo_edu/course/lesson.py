"""What the lessons have in common, so that their cells show what they teach and nothing else."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import torch as th
from cycler import cycler
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ppo_edu.envs.factory import action_repeat, make_evaluation_env, make_training_env
from sb3_ppo_edu.lab.plots import BLUE, GREEN, GREY, VERMILLION, rolling_mean
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
    training_env = model.get_env()
    if training_env is not None and model.get_vec_normalize_env() is not None:
        sync_envs_normalization(training_env, env)
    try:
        return evaluate(model, env, episodes)
    finally:
        env.close()


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
        return textwrap.fill(self.text, NOTE_WIDTH)
