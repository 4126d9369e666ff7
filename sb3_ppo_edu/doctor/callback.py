"""The doctor beside a training: it collects the record as it comes, warns once per finding, and leaves its report."""

from __future__ import annotations

import atexit
import json
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_ppo_edu.algorithms.diagnostics import rollout_statistics, share_at_bounds
from sb3_ppo_edu.algorithms.environment_numbers import Bootstrap, environment_numbers, is_sampled
from sb3_ppo_edu.algorithms.logged_settings import logged_settings
from sb3_ppo_edu.algorithms.ppo import EduPPO
from sb3_ppo_edu.algorithms.services import SERVICES, service
from sb3_ppo_edu.doctor.checks import gae_error, sample_of, surrogate_gain
from sb3_ppo_edu.doctor.diagnose import Diagnosis, diagnose
from sb3_ppo_edu.doctor.record import (
    SETTINGS_PREFIX,
    STEPS_KEY,
    Record,
    as_settings,
    read_settings,
)
from sb3_ppo_edu.doctor.symptoms import BY_NAME
from sb3_ppo_edu.engines import NonFiniteUpdateError
from sb3_ppo_edu.policies.further_inputs import further_inputs
from sb3_ppo_edu.serialization.names import import_named
from sb3_ppo_edu.serialization.writing import write_atomically
from sb3_ppo_edu.vec_env.guard import NonFiniteStepError

REPORT_FILE, PAGE_FILE = "doctor.json", "doctor.html"

CHECK_EVERY = 20
"""Updates from one whose effect on the policy is looked at to the next."""

PageWriter = Callable[[Diagnosis, Path], Any]

DEFAULT_PAGE = "doctor_page"
"""Who draws the page, by its name in the table of services: drawing is the business of a floor above this one."""

EVERY = 20
"""Updates between two looks while a training is young: a look takes about 2 ms, an update of the smallest ones 8 ms."""

MOST_BETWEEN_LOOKS = 10
"""Later looks are as far apart as the record is long, but at most this many times ``every``, or a tenth of a long record."""


class TrainingDoctor(BaseCallback):
    """
    Watch a training of EduPPO, or of SB3's PPO, and say what is wrong with it.

    Each finding is printed once, as soon as it is sure and has lasted for two looks. At the end ``doctor.json`` and a page,
    ``doctor.html``, are written, and ``diagnosis`` holds the result: also where training breaks off. EduPPO says so itself;
    of SB3's PPO the report is written when the process ends, or at the end of a ``with`` block::

        with TrainingDoctor("report") as doctor:
            model.learn(100_000, callback=doctor)

    SIGTERM, unless the program handles it itself, ends the training at the next step, and the process once the report is
    there.

    :param folder: where the report is written; None for the logger's folder, and nothing is written if there is none
    :param page: draws the page: a function of the diagnosis and the folder, its dotted name, or its name in
        :data:`~sb3_ppo_edu.algorithms.services.SERVICES`; None for no page
    :param every: updates before the first look, ≥ 1; later looks are as far apart as the record is long, up to ten times this
        or a tenth of the record
    :param sure: confidence from which a finding is printed, in [0, 1]
    :param verbose: 0 prints nothing, 1 warnings and the verdict
    :raises ValueError: for a number out of range
    """

    changes_policy = False

    reads_every_step = False
    """EduPPO counts for itself what SB3's PPO has to be watched for at every step."""

    not_resumed = ("folder", "_terminated", "_began")
    """What a resumed training takes from its own process, see :class:`~sb3_ppo_edu.checkpoint.ExactCheckpoint`."""

    def __init__(
        self,
        folder: Path | str | None = None,
        page: PageWriter | str | None = DEFAULT_PAGE,
        every: int = EVERY,
        sure: float = 0.65,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        if every < 1:
            raise ValueError(f"every={every}: expected an integer ≥ 1")
        if not 0 <= sure <= 1:
            raise ValueError(f"sure={sure}: expected a number ≥ 0 and ≤ 1")
        self.folder = None if folder is None else str(folder)
        self.page = page
        self.every = every
        self.sure = sure
        self.diagnosis: Diagnosis | None = None
        self._began = 0.0
        self._watching = False
        self._terminated = False
        self._forget()

    def _forget(self) -> None:
        """Begin a new record."""
        self.settings: dict[str, Any] = {}
        self.warned: list[str] = []
        self._columns: dict[str, np.ndarray] = {}
        self._new_rows: list[dict[str, float]] = []
        self._row: dict[str, float] = {}
        self._not_finite: dict[str, int] = {}
        self._seen_before: list[str] = []
        self._counting = False
        self._truncated: list[Bootstrap] = []
        self._updates = 0
        self._next_look = self.every
        self._sample: tuple[th.Tensor, ...] | None = None
        self._episodes = np.empty((2, 0))
        self._last_episode: dict[str, Any] | None = None

    # -- what is collected -------------------------------------------------------------------------------------------------

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Hold on to the local variables of the training, without the copy that SB3 makes at every step."""
        self.locals = locals_

    def _on_training_start(self) -> None:
        """Take down the settings, refuse what is not a PPO, and see to it that the report gets written."""
        if not isinstance(self.model, (EduPPO, PPO)):
            raise ValueError(f"model={type(self.model).__name__}: expected EduPPO or stable_baselines3.PPO")
        if self.model.num_timesteps == 0:
            self._forget()
        folder = self._report_folder()
        written = {} if folder is None else read_settings(folder)[0]
        # A training's own numbers go over those in its folder, which may be an older one's.
        self.settings = {**written, **settings_of(self.model)}
        # EduPPO logs how many episodes a time limit cut off.
        self._counting = not isinstance(self.model, EduPPO)
        self._updates = self.model._n_updates
        self._began = time.time()
        self._watching, self._terminated = True, False
        atexit.register(self._at_exit)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._terminate)

    def _on_step(self) -> bool:
        """Count the episodes that a time limit cut off; go on unless the process is to end."""
        if self._counting:
            dones = self.locals["dones"]
            if dones.any():
                infos, now = self.locals["infos"], self.model.num_timesteps
                cut_off = (int(i) for i in np.flatnonzero(dones) if infos[i].get("TimeLimit.truncated", False))
                self._truncated += [(now, i, math.nan) for i in cut_off]
        return not self._terminated

    def _on_rollout_start(self) -> None:
        """Take in the update that has just ended, and look at it now and then."""
        self._check_update()
        self._take_row()
        rows = self._count_rows()
        if rows >= self._next_look:
            self._next_look = rows + min(max(rows, self.every), max(MOST_BETWEEN_LOOKS * self.every, rows // 10))
            self._look()
        self._truncated = []

    def _on_rollout_end(self) -> None:
        """Begin a row with what the rollout says."""
        assert isinstance(self.model, (EduPPO, PPO))
        self._take_row()
        buffer = self.model.rollout_buffer
        elapsed = max((time.time_ns() - self.model.start_time) / 1e9, 1e-9)
        rows = self._count_rows()
        row: dict[str, float] = {
            STEPS_KEY: float(self.num_timesteps),
            "time/iterations": float(rows + 1),
            "time/time_elapsed": elapsed,
            "time/fps": (self.num_timesteps - self.model._num_timesteps_at_start) / elapsed,
        }
        if self.model.ep_info_buffer:
            self._take_episodes(self.model.ep_info_buffer)
            rewards, lengths = self._episodes.cumsum(axis=1)[:, -1].tolist()
            count = len(self.model.ep_info_buffer)
            row |= {"rollout/ep_rew_mean": rewards / count, "rollout/ep_len_mean": lengths / count}
        evaluated = last_evaluation(self.locals.get("callback"))
        if evaluated is not None:
            row["eval/mean_reward"] = evaluated
        own = {} if isinstance(self.model, EduPPO) else self._rollout_of_sb3(buffer)
        if not rows:
            error = gae_error(buffer, self.locals.get("values"), self.locals.get("dones"))
            own |= {} if error is None else {"doctor/gae_error": error}
        for key, value in own.items():
            # For the log too: sb3-edu doctor may have nothing else to read.
            self.logger.record(key, value, exclude="stdout")
        self._row = row | own
        if rows % CHECK_EVERY == 0 and not (further_inputs(self.model.policy) or self.model.use_sde):
            self._sample = sample_of(buffer)

    def _take_episodes(self, episodes: Sequence[dict[str, Any]]) -> None:
        """Take in the episodes that are new: to read all of them after each rollout takes as long as all the rest."""
        new = list(takewhile(lambda episode: episode is not self._last_episode, reversed(episodes)))[::-1]
        if new:
            self._last_episode = new[-1]
            known = np.empty((2, 0)) if len(new) == len(episodes) else self._episodes
            found = np.array([[episode["r"] for episode in new], [episode["l"] for episode in new]], np.float64)
            self._episodes = np.concatenate([known, found], axis=1)[:, -len(episodes) :]

    def _check_update(self) -> None:
        """See what the update that has just ended has done to the actions of its rollout."""
        if self._sample is None or not self._row:
            return
        assert isinstance(self.model, (EduPPO, PPO))
        improvement = surrogate_gain(self.model.policy, *self._sample)
        if improvement is not None:
            self._row["doctor/improvement"] = improvement
            self.logger.record("doctor/improvement", improvement, exclude="stdout")
        self._sample = None

    def _rollout_of_sb3(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Measure what EduPPO logs of a rollout and SB3's PPO does not."""
        row = {f"train/{name}": value for name, value in rollout_statistics(buffer).items()}
        assert isinstance(self.model, PPO)
        space, policy = self.model.action_space, self.model.policy
        if isinstance(space, spaces.Box):
            actions = buffer.actions.reshape(-1, *space.shape)
            actions = policy.unscale_action(actions) if policy.squash_output else np.clip(actions, space.low, space.high)
            row["train/action_saturation"] = share_at_bounds(actions, space)
        row["train/advantage_std"] = float(buffer.advantages.std())
        ends = self.locals.get("dones")
        if ends is not None:
            row["train/episodes_ended"] = float(buffer.episode_starts[1:].sum() + np.sum(ends))
            row["train/episodes_truncated"] = float(len(self._truncated))
        rows = self._count_rows()
        if is_sampled(rows):
            numbers = environment_numbers(self.model, ends, self._truncated)
            row |= {f"train/{name}": value for name, value in numbers.items()}
        if rows == 0:
            for name, value in logged_settings(self.model).items():
                self.logger.record(f"{SETTINGS_PREFIX}{name}", value, exclude="stdout")
        return row

    def _take_row(self) -> None:
        """Complete the row with what the update after its rollout has logged, and put it to the others."""
        if not self._row:
            return
        assert isinstance(self.model, (EduPPO, PPO))
        if self.model._n_updates != self._updates:
            self._updates = self.model._n_updates
            logged = self.logger.name_to_value
            self._row |= {key: float(value) for key, value in logged.items() if key.startswith("train/")}
        self._new_rows.append(self._row)
        self._row = {}

    def _count_rows(self) -> int:
        """Count the rows that are complete."""
        return len(self._columns.get(STEPS_KEY, ())) + len(self._new_rows)

    # -- what is said ------------------------------------------------------------------------------------------------------

    def record(self, *notes: str) -> Record:
        """Give the record so far."""
        # Only now, and only those that are new: row by row, while training goes on, it would take twice as long.
        for row in self._new_rows:
            if not math.isfinite(sum(row.values())):
                for key, value in row.items():
                    if not math.isfinite(value):
                        self._not_finite.setdefault(key, int(row[STEPS_KEY]))
        self._columns, self._new_rows = with_rows(self._columns, self._new_rows), []
        source = f"training of {self.settings.get('env') or 'an environment'}"
        steps = self._columns.get(STEPS_KEY, np.empty(0))
        return Record(source, steps, self._columns, dict(self.settings), dict(self._not_finite), notes)

    def _look(self) -> None:
        """Diagnose what there is, and warn of what has lasted since the last look."""
        findings = [
            one for one in diagnose(self.record()).findings if one.explained_by is None and one.confidence >= self.sure
        ]
        for finding in findings:
            self.logger.record(f"doctor/{finding.name}", finding.confidence, exclude="stdout")
            if finding.name in self._seen_before and finding.name not in self.warned:
                self.warned.append(finding.name)
                symptom = BY_NAME[finding.name]
                self._print(
                    f"doctor, step {self.num_timesteps:,}: {symptom.title} ({finding.evidence[0].key}: "
                    f"{finding.evidence[0].text}). {symptom.remedy}"
                )
        self._seen_before = [finding.name for finding in findings]
        self.logger.record("doctor/findings", len(findings), exclude="stdout")

    # -- how it ends -------------------------------------------------------------------------------------------------------

    def _on_training_end(self) -> None:
        """Come to a verdict and write the report."""
        self._finish()

    def on_training_failed(self, error: BaseException) -> None:
        """Write the report of a training that an exception has ended. EduPPO calls it."""
        self._break_off(error)

    def __enter__(self) -> TrainingDoctor:
        """Watch the trainings of a ``with`` block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Write the report of a training that has not come to its end."""
        self._break_off(error)

    def _at_exit(self) -> None:
        """Write the report when the process ends, unless there is one of a later training."""
        folder = self._report_folder() if self._watching else None
        if folder is not None and (folder / REPORT_FILE).is_file() and (folder / REPORT_FILE).stat().st_mtime > self._began:
            return
        self._break_off(getattr(sys, "last_value", None))

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Have training end at the next step, as SIGTERM asks for."""
        self._terminated = True

    def _break_off(self, error: BaseException | None) -> None:
        """Write the report of a training that has broken off, whatever else may be broken."""
        if not self._watching:
            return
        if isinstance(error, (NonFiniteUpdateError, NonFiniteStepError)) or not parameters_are_finite(self.model):
            self._not_finite.setdefault("train/loss", self.num_timesteps)
        reason = "" if error is None else f" by {type(error).__name__}: {error}".rstrip(": ")
        try:
            self._finish(f"Training was broken off after {self.num_timesteps:,} steps{reason}")
        except Exception as failure:
            # What has ended the training is more important, and is being raised.
            warnings.warn(f"the doctor's report could not be written ({failure!r})", stacklevel=2)

    def _finish(self, *notes: str) -> None:
        """Come to a verdict, write the report, and take no more notice of the process."""
        terminated, self._watching = self._terminated, False
        atexit.unregister(self._at_exit)
        ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == self._terminate
        try:
            self._check_update()
            self._take_row()
            if terminated:
                notes = (*notes, f"Training was ended by SIGTERM after {self.num_timesteps:,} steps")
            self.diagnosis = diagnose(self.record(*(f"{note}." for note in notes)))
            self._print(f"doctor: {self.diagnosis.summary}")
            folder = self._report_folder()
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                write_report(self.diagnosis, folder)
                if self.page is not None:
                    page_writer(self.page)(self.diagnosis, folder)
        finally:
            if ours:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if terminated:
                    signal.raise_signal(signal.SIGTERM)

    def _report_folder(self) -> Path | None:
        """Say where the report goes."""
        folder = self.folder or self.logger.get_dir()
        return None if folder is None else Path(folder)

    def _print(self, text: str) -> None:
        """Print one line where output is wanted."""
        if self.verbose >= 1:
            Console(highlight=False).print(text, markup=False, soft_wrap=True)


def with_rows(columns: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """
    Put rows behind columns that grow while training goes on: cheaper than to build them anew from all rows at every look.

    :param columns: for each key its numbers, NaN where a row had none; all of the same length
    :param rows: for each key -> number, among them ``time/total_timesteps``
    :return: columns, of the keys of both
    """
    before: Any = np.full(len(columns.get(STEPS_KEY, ())), math.nan)
    keys: dict[str, Any] = {**columns}
    for row in rows:
        keys |= row
    return {key: np.concatenate([columns.get(key, before), [row.get(key, math.nan) for row in rows]]) for key in keys}


def page_writer(page: PageWriter | str) -> PageWriter:
    """
    Find who draws the page.

    :param page: a function, its dotted name (settings and checkpoints of older versions hold one), or the name of a service
    :raises ValueError: if there is none of that name
    """
    if not isinstance(page, str):
        return page
    writer: PageWriter = service(page) if page in SERVICES else import_named(page)
    return writer


def parameters_are_finite(model: EduPPO | PPO | Any) -> bool:
    """
    Tell whether a policy can still act.

    :return: False if a parameter is NaN or infinite
    """
    return all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


def write_report(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write what was found for programs to read."""
    text = json.dumps(diagnosis.as_json(), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / REPORT_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return folder / REPORT_FILE


def last_evaluation(callback: Any) -> float | None:
    """
    Find the last evaluation among the callbacks beside this one.

    :param callback: of the training, perhaps a list of several
    """
    if isinstance(callback, CallbackList):
        return next((found for one in callback.callbacks if (found := last_evaluation(one)) is not None), None)
    if isinstance(callback, EvalCallback) and math.isfinite(callback.last_mean_reward):
        return float(callback.last_mean_reward)
    return None


def settings_of(model: EduPPO | PPO) -> dict[str, Any]:
    """Take down those settings of a model that are numbers, and what its environment is."""
    policy = model.policy
    # What is said of a small network holds neither for images nor for an LSTM.
    plain = isinstance(policy.features_extractor, FlattenExtractor) and "lstm_states" not in further_inputs(policy)
    return {
        **as_settings(logged_settings(model)),
        "env": environment_id(model),
        "policy": "MlpPolicy" if plain else type(policy).__name__,
        "device": str(model.device),
        "torch_threads": th.get_num_threads(),
    }


def environment_id(model: EduPPO | PPO) -> str | None:
    """Find the id under which a model's environment is registered, or None if it has none."""
    try:
        return str(model.env.get_attr("spec", 0)[0].id) if model.env is not None else None
    except AttributeError:
        return None
