"""A training's log in Weights & Biases or MLflow, beside the run's own files: ``sb3-edu train --track wandb``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from sb3_ppo_edu.algorithms.arguments import PPOArguments

PROJECT = "sb3_ppo_edu"
"""Name of the project or experiment there."""


class Tracker(KVWriter):
    """
    Sends each row of SB3's log on.

    :param send: takes the row's numbers by key, and the step
    :param end: ends the run there
    """

    def __init__(self, send: Callable[[dict[str, float], int], object], end: Callable[[], object]) -> None:
        self.send, self.end, self.failed = send, end, False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send the numbers of a row; pictures, videos and text stay in the run's folder."""
        numbers = {key: float(value) for key, value in key_values.items() if isinstance(value, (int, float))}
        self._unless_failed(lambda: self.send(numbers, step))

    def close(self) -> None:
        """End the run there."""
        self._unless_failed(self.end)

    def _unless_failed(self, act: Callable[[], object]) -> None:
        """Do something there; a service that fails is left alone from then on, since no training may be lost by it."""
        if self.failed:
            return
        try:
            act()
        except Exception as error:
            self.failed = True
            warnings.warn(f"tracking failed and ends here, the training goes on: {error!r}", stacklevel=2)


def wandb_tracker(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """
    Begin a run in Weights & Biases, or go on with it; ``WANDB_MODE=offline`` keeps it in ``wandb/``.

    :param folder: of the run; its name is the run's name there, and resumed it is the same run
    :param settings: the training's
    """
    wandb = import_module("wandb")
    run = wandb.init(project=PROJECT, name=folder.name, id=folder.name, resume="allow", config=dict(settings))
    return Tracker(lambda numbers, step: run.log(numbers, step=step), run.finish)


def mlflow_tracker(folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """
    Begin a run in MLflow, where ``MLFLOW_TRACKING_URI`` says.

    :param folder: of the run; its name is the run's name there
    :param settings: the training's
    """
    mlflow = import_module("mlflow")
    mlflow.set_experiment(PROJECT)
    run = mlflow.start_run(run_name=folder.name)
    mlflow.log_params(dict(settings))
    return Tracker(lambda numbers, step: mlflow.log_metrics(numbers, step=step, run_id=run.info.run_id), mlflow.end_run)


TRACKERS = {"wandb": wandb_tracker, "mlflow": mlflow_tracker}


def arguments_of(model: object) -> dict[str, bool | int | float | str | None]:
    """
    List the plain arguments of an algorithm; SB3's PPO has most of ours.

    :param model: the algorithm
    """
    found = {field.name: getattr(model, field.name, None) for field in fields(PPOArguments)}
    return {name: value for name, value in found.items() if value is None or isinstance(value, (bool, int, float, str))}


def service_package(to: str) -> ModuleType:
    """
    Import a service's package.

    :param to: name of the service
    :raises ImportError: if it is not installed, with the remedy, or can't be imported
    """
    try:
        return import_module(to)
    except ImportError as error:
        raise ImportError(f"tracking in {to} needs its package: pip install 'sb3-ppo-edu[{to}]' ({error})") from error


class Track(BaseCallback):
    """
    Sends a training's log to a tracking service while it trains.

    :param to: ``"wandb"`` or ``"mlflow"``; each is an extra of this package
    :param verbose: as in all callbacks
    :raises ValueError: if there is no such service
    :raises ImportError: if its package is not installed, with the remedy
    """

    def __init__(self, to: str, verbose: int = 0) -> None:
        super().__init__(verbose)
        if to not in TRACKERS:
            raise ValueError(f"to={to!r}: expected one of {', '.join(TRACKERS)}")
        service_package(to)
        self.to = to

    def _on_training_start(self) -> None:
        """Begin the run there, with the training's settings."""
        folder = Path(self.logger.get_dir() or ".")
        self._tracker = TRACKERS[self.to](folder, arguments_of(self.model))
        self.logger.output_formats.append(self._tracker)

    def _on_step(self) -> bool:
        """Go on."""
        return True

    def _on_training_end(self) -> None:
        """End the run there."""
        self.logger.output_formats.remove(self._tracker)
        self._tracker.close()
