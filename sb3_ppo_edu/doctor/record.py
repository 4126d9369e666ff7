"""
The record of a training: what was logged, as numbers by key over environment steps.

It is read from what a run leaves, ``progress.csv`` or TensorBoard events, of EduPPO or of Stable-Baselines3's PPO, or built
from rows that a callback has collected. What was not logged is NaN; what was logged and is not a finite number is remembered,
because it is a finding.

SB3 writes a row after each rollout and before its update, so ``train/`` values in a row are those of the update before.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sb3_ppo_edu.functional.schedules import read
from sb3_ppo_edu.serialization.yaml_files import read_yaml

PROGRESS_FILE = "progress.csv"
SETTINGS_FILE = "settings.yml"
EVALUATION_FILE = "evaluation.json"
EVENTS_PATTERN = "events.out.tfevents.*"

STEPS_KEY = "time/total_timesteps"
PPO_KEYS = ("train/approx_kl", "train/clip_fraction", "train/policy_gradient_loss", "train/clip_range")
"""Keys that only a PPO logs; one of them makes a record that of a PPO."""

OTHER_ALGORITHMS = {
    "train/actor_loss": "an actor-critic with replay (SAC, TD3, DDPG)",
    "train/policy_loss": "A2C",
    "train/policy_objective": "TRPO",
    "train/kl_divergence_loss": "TRPO",
}
POSSIBLE: Mapping[str, tuple[float, float]] = {
    "train/clip_fraction": (0.0, 1.0),
    "train/explained_variance": (-math.inf, 1.0),
    "train/value_loss": (0.0, math.inf),
    "train/std": (0.0, math.inf),
    "train/learning_rate": (0.0, math.inf),
}
"""What numbers can be by their definition, to rounding: others were not written by a PPO of SB3's, whatever their names."""

LARGEST_FILE = 200 * 2**20
"""Bytes; a log beyond this is no training log of ours, and would not fit into memory as text."""


NOTHING = np.empty(0)
"""The numbers of a key that was not logged."""

Worked = TypeVar("Worked")


class RecordError(ValueError):
    """What was given is no record of a PPO training; the message says what was found and what was expected."""


@dataclass(frozen=True)
class Record:
    """
    What a training has logged.

    :param source: where it comes from, for people
    :param steps: environment steps of each row, ascending, shape ``(rows,)``
    :param columns: for each key its numbers, shape ``(rows,)``, NaN where a row has none
    :param settings: arguments of the algorithm and of the run, as far as they are known, by name
    :param not_finite: for each key that was logged as NaN or infinite, the steps at which it first was
    :param notes: what the reader has to say: lines left out, files that are missing
    """

    source: str
    steps: np.ndarray
    columns: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    not_finite: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    _finite: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _worked_out: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def has(self, key: str, at_least: int = 1) -> bool:
        """
        Say whether enough was logged under a key.

        :param key: such as ``train/approx_kl``
        :param at_least: how many finite numbers are needed
        """
        return len(self.series(key)[1]) >= at_least

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Give the finite numbers of a key.

        :param key: such as ``train/approx_kl``
        :return: steps and values, both empty if the key was not logged
        """
        if key not in self._finite:
            # Kept: a look asks for the same columns a hundred times, while training waits.
            column = self.columns.get(key, NOTHING)
            finite = np.isfinite(column)
            self._finite[key] = (self.steps[finite], column[finite]) if len(column) else (NOTHING, NOTHING)
        return self._finite[key]

    def values(self, key: str, begin: float = 0.0, end: float = 1.0) -> np.ndarray:
        """
        Give the finite numbers of a key within a part of the run.

        :param key: such as ``train/approx_kl``
        :param begin: where the part begins, as a share of the numbers in [0, 1]
        :param end: where it ends
        :return: values; at least one, if there is any
        """
        values = self.series(key)[1]
        first = min(int(begin * len(values)), max(len(values) - 1, 0))
        return values[first : max(math.ceil(end * len(values)), first + 1)]

    def once(self, work: Callable[[Record], Worked]) -> Worked:
        """
        Work something out of the record, unless that has been done.

        :param work: what several symptoms ask for, and takes long
        :return: what it gives
        """
        if work not in self._worked_out:
            self._worked_out[work] = work(self)
        worked: Worked = self._worked_out[work]
        return worked

    @property
    def updates(self) -> int:
        """How many updates the record tells of."""
        return self.once(count_updates)

    def setting(self, name: str) -> Any:
        """Look up a setting."""
        return self.settings.get(name)

    def number(self, name: str) -> float | None:
        """
        Look up a setting that is a number; of a schedule such as "lin_3e-4" the number that it starts from.

        :return: the number, or None if it is not known or is no number
        """
        value = self.settings.get(name)
        try:
            if isinstance(value, str) and "_" in value:
                value = read(value).start
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return number if math.isfinite(number) else None


def count_updates(record: Record) -> int:
    """Count the updates that a record tells of."""
    return max(len(record.series(key)[1]) for key in PPO_KEYS)


# --------------------------------------------------------------------------------------------------------------------------
# From rows
# --------------------------------------------------------------------------------------------------------------------------


def record_of_rows(
    rows: Iterable[Mapping[str, Any]],
    source: str,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Record:
    """
    Build a record from rows of logged values.

    Rows are put in the order of their steps, and rows of the same steps are made one. A later value goes over an earlier one.

    :param rows: for each row key -> value; text and None count as not logged; each needs ``time/total_timesteps``
    :param settings: see :class:`Record`
    :param notes: see :class:`Record`
    """
    table: dict[int, dict[str, float]] = {}
    not_finite: dict[str, int] = {}
    for row in rows:
        numbers = {key: number for key, value in row.items() if (number := as_number(value)) is not None}
        steps = numbers.pop(STEPS_KEY, math.nan)
        if not math.isfinite(steps):
            continue
        place = table.setdefault(int(steps), {})
        for key, number in numbers.items():
            place[key] = number
            if not math.isfinite(number):
                not_finite[key] = min(int(steps), not_finite.get(key, int(steps)))
    ordered = sorted(table)
    keys = sorted({key for row in table.values() for key in row})
    columns = {key: np.array([table[steps].get(key, math.nan) for steps in ordered], dtype=np.float64) for key in keys}
    columns[STEPS_KEY] = np.array(ordered, dtype=np.float64)
    return Record(source, columns[STEPS_KEY], columns, dict(settings or {}), not_finite, tuple(notes))


def as_number(value: Any) -> float | None:
    """
    Read a logged value.

    :param value: number or text
    :return: the number, which may be NaN or infinite, or None if it is none
    """
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


# --------------------------------------------------------------------------------------------------------------------------
# From files
# --------------------------------------------------------------------------------------------------------------------------


def read_record(path: Path) -> Record:
    """
    Read the record of a run.

    :param path: the run's folder, a ``progress.csv``, or a TensorBoard events file
    :raises RecordError: if there is nothing there, it is empty, or it is not the record of a PPO training
    """
    if path.is_dir():
        file, kind = find_log(path)
    elif path.is_file():
        file, kind = path, "events" if "tfevents" in path.name else "csv"
    else:
        raise RecordError(f"{path}: there is nothing; expected a run's folder, its {PROGRESS_FILE}, or TensorBoard events")
    if file.stat().st_size > LARGEST_FILE:
        raise RecordError(f"{file}: {file.stat().st_size:,} bytes; expected a training log of at most {LARGEST_FILE:,}")
    rows, notes = read_csv(file) if kind == "csv" else read_events(file)
    check_keys({key for row in rows for key in row}, file)
    logged = {
        key.removeprefix(SETTINGS_PREFIX): number
        for row in rows
        for key, value in row.items()
        if key.startswith(SETTINGS_PREFIX) and (number := as_number(value)) is not None and math.isfinite(number)
    }
    settings, more_notes = read_settings(file.parent)
    if logged:
        more_notes = [note for note in more_notes if note != NO_SETTINGS]
    record = record_of_rows(rows, str(path), as_settings(logged) | settings, [*notes, *more_notes])
    if not len(record.steps):
        raise RecordError(f"{file}: no row has {STEPS_KEY}; expected one after each rollout, as SB3's logger writes them")
    check_values(record, file)
    return record


def find_log(folder: Path) -> tuple[Path, str]:
    """
    Find a run's log.

    :return: the file, and "csv" or "events"
    :raises RecordError: if there is none
    """
    if (folder / PROGRESS_FILE).is_file():
        return folder / PROGRESS_FILE, "csv"
    events = sorted(folder.glob(EVENTS_PATTERN))
    if len(events) > 1:
        # Several loggers in one folder are several runs, or one that was begun again: the newest is the one meant.
        events.sort(key=lambda event: event.stat().st_mtime)
    if events:
        return events[-1], "events"
    below = sorted({path.parent.name for pattern in (PROGRESS_FILE, EVENTS_PATTERN) for path in folder.glob(f"*/{pattern}")})
    hint = f"; {folder} has the runs {', '.join(below[:8])}" if below else ""
    raise RecordError(
        f"{folder}: neither {PROGRESS_FILE} nor {EVENTS_PATTERN}; expected the folder of one run, with what SB3's logger "
        f"wrote into it: configure(folder, ['csv']) or tensorboard_log=folder{hint}"
    )


def read_csv(file: Path) -> tuple[list[dict[str, str]], list[str]]:
    """
    Read what SB3's CSV logger has written.

    :return: rows, and what was left out
    :raises RecordError: if it is empty or no CSV
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{file}: not text ({error.reason}); expected a CSV file as SB3's logger writes it") from error
    if "\0" in text:
        raise RecordError(f"{file}: not text (it holds zero bytes); expected a CSV file as SB3's logger writes it")
    if not text.strip():
        raise RecordError(f"{file}: empty; expected a header and a row after each rollout: had the first rollout ended?")
    try:
        header, *lines = [line for line in csv.reader(text.splitlines()) if line]
    except csv.Error as error:
        raise RecordError(f"{file}: no CSV ({error}); expected a file as SB3's logger writes it") from error
    if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
        raise RecordError(f"{file}: cells are separated by {other!r}; expected commas, as SB3's logger writes them")
    notes = []
    if lines and not text.endswith(("\n", "\r")):
        # What was being written when the training was killed: its last number may lack digits.
        lines.pop()
        notes.append("The last line was cut off and is left out.")
    whole = [line for line in lines if len(line) == len(header)]
    if len(whole) < len(lines):
        notes.append(f"{len(lines) - len(whole)} of {len(lines)} lines have another number of cells and are left out.")
    if not whole:
        raise RecordError(
            f"{file}: a header and no whole row; expected a row after each rollout: the training was too short to log one"
        )
    return [dict(zip(header, line, strict=True)) for line in whole], notes


def read_events(file: Path) -> tuple[list[dict[str, float]], list[str]]:
    """
    Read TensorBoard events.

    :return: a row for each step that was logged, and no notes
    :raises RecordError: if it holds no scalars
    """
    # Imported here: it takes longer than all the rest.
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        SCALARS,
        EventAccumulator,
    )

    accumulator = EventAccumulator(str(file), size_guidance={SCALARS: 0})
    try:
        accumulator.Reload()
    except Exception as error:
        raise RecordError(f"{file}: no TensorBoard events ({error}); expected a file as SB3's logger writes it") from error
    rows: dict[int, dict[str, float]] = {}
    for key in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(key):
            # SB3 leaves time/total_timesteps out of TensorBoard, since it is every event's step.
            rows.setdefault(event.step, {STEPS_KEY: float(event.step)})[key] = float(event.value)
    if not rows:
        raise RecordError(f"{file}: no scalars; expected what SB3's logger writes after each rollout")
    return [rows[step] for step in sorted(rows)], []


def check_keys(keys: set[str], file: Path) -> None:
    """
    Refuse logs that are not those of a PPO.

    :raises RecordError: naming what was found
    """
    if keys & set(PPO_KEYS):
        return
    shown = ", ".join(sorted(keys)[:6]) + (", …" if len(keys) > 6 else "")
    other = next((name for key, name in OTHER_ALGORITHMS.items() if key in keys), None)
    if other is not None:
        raise RecordError(f"{file}: the log of {other}: found {shown}; expected one of a PPO, with {PPO_KEYS[0]}")
    if any(key.startswith(("rollout/", "time/", "eval/")) for key in keys):
        raise RecordError(
            f"{file}: no update is in it: found {shown}; expected {PPO_KEYS[0]}. SB3 logs an update with the rollout after "
            "it: train for at least two rollouts"
        )
    raise RecordError(
        f"{file}: not a training log of SB3: found {shown or 'no column'}; expected columns such as {STEPS_KEY} "
        f"and {PPO_KEYS[0]}"
    )


def check_values(record: Record, file: Path) -> None:
    """
    Refuse logs that have a PPO's names and not its numbers, such as shares in per cent.

    :raises RecordError: naming the first number that cannot be
    """
    for key, (low, high) in POSSIBLE.items():
        steps, values = record.series(key)
        odd = np.flatnonzero((values < low - 1e-6) | (values > high + 1e-6))
        if len(odd):
            raise RecordError(
                f"{file}: {key} is {values[odd[0]]:g} at step {int(steps[odd[0]]):,}; expected {low:g} to {high:g}, as SB3's "
                "PPO logs it: is it somebody else's?"
            )


# --------------------------------------------------------------------------------------------------------------------------
# The settings in a log, and beside it
# --------------------------------------------------------------------------------------------------------------------------

SETTINGS_PREFIX = "settings/"

NO_SETTINGS = "No settings lie beside the log; what needs them is not examined."

TRUE_OR_FALSE = (
    "adaptive", "layer_norm", "normalize", "normalize_advantage", "normalize_observations", "normalize_rewards",
    "recompute_advantages", "use_sde",
)  # fmt: skip
"""Settings that are logged as 1 or 0."""


def as_settings(logged: Mapping[str, float]) -> dict[str, Any]:
    """
    Read settings that a training has logged.

    :param logged: numbers by name, without the prefix
    :return: by name, True or False where they are that; an argument that is off, which is not logged, is None
    """
    settings: dict[str, Any] = {name: bool(value) if name in TRUE_OR_FALSE else value for name, value in logged.items()}
    return {"target_kl": None, **settings} if settings else {}


MODEL_SETTINGS = (
    "n_steps",
    "batch_size",
    "n_epochs",
    "gamma",
    "gae_lambda",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "target_kl",
    "normalize_advantage",
    "n_envs",
    "seed",
    "learning_rate",
)
"""What is read from a saved model, where it is a plain number there."""


def read_settings(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """
    Read the settings that lie beside a log: ours, or else those inside of a model that SB3 has saved, which runs no code.

    :return: settings by name, and what was not found
    """
    settings: dict[str, Any] = {}
    try:
        if (folder / SETTINGS_FILE).is_file():
            settings = flat_settings(read_yaml(folder / SETTINGS_FILE))
        else:
            settings = next(
                (found for path in sorted(folder.glob("*.zip")) if path.is_file() and (found := model_settings(path))), {}
            )
        if (folder / EVALUATION_FILE).is_file() and (folder / EVALUATION_FILE).stat().st_size <= LARGEST_FILE:
            evaluation = json.loads((folder / EVALUATION_FILE).read_text(encoding="utf-8"))
            settings["random_return"] = float(evaluation["random"]["mean"])
            settings["random_std"] = float(evaluation["random"]["std"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return settings, [f"The settings beside the log cannot be read ({type(error).__name__}) and are left out."]
    notes = [] if settings else [NO_SETTINGS]
    return settings, notes


def flat_settings(written: Mapping[str, Any]) -> dict[str, Any]:
    """
    Bring the settings of one of our runs into one level.

    :param written: as ``settings.yml`` has them
    """
    environment = dict(written.get("environment") or {})
    names = ("n_envs", "steps", "seed", "device", "policy", "command")
    return {
        **dict(written.get("algorithm") or {}),
        **{name: written[name] for name in names if name in written},
        "env": environment.get("id"),
        "normalize": environment.get("normalize"),
        "torch_threads": dict(written.get("threads") or {}).get("torch"),
    }


def model_settings(path: Path) -> dict[str, Any]:
    """
    Read the plain numbers among the settings of a saved model, without unpickling anything.

    :param path: a ``.zip``
    :return: settings by name; empty if it is no model of SB3's
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("data").file_size > LARGEST_FILE:
                return {}
            data = json.loads(archive.read("data"))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {name: data[name] for name in MODEL_SETTINGS if isinstance(data.get(name), (bool, int, float))}
