"""The callback that makes checkpoints, and what it does when a training is about to end."""

from __future__ import annotations

import signal
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_edu.algorithms.session import Session
from sb3_ppo_edu.checkpoint import files
from sb3_ppo_edu.checkpoint.plain import NotPlainError, pack
from sb3_ppo_edu.checkpoint.session import CheckpointSession
from sb3_ppo_edu.checkpoint.snapshot import capture, constructor

if TYPE_CHECKING:
    from sb3_ppo_edu.algorithms.ppo import EduPPO

ON_SAVE_ERROR = ("raise", "warn")
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""What asks a training to end: Ctrl-C, a cluster, and a terminal that is closed (which Windows does not have)."""


def handle_signals(handler: Any) -> dict[int, Any]:
    """
    Take over the signals that ask a training to end; nohup, which has SIGHUP ignored, stays as it is.

    :param handler: of all of them
    :return: what handled them before, by number
    """
    taken = [one for one in SIGNALS if one in SIGNALS[:2] or signal.getsignal(one) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in taken}


def give_signals_back(before: dict[int, Any]) -> None:
    """
    Undo :func:`handle_signals`.

    :param before: what it gave
    """
    for number, handler in before.items():
        signal.signal(number, handler)


def ending(number: int) -> BaseException:
    """
    Say how a signal ends the training.

    :param number: one of :data:`SIGNALS`
    :return: ``KeyboardInterrupt``, or an exit with the usual code (143 for SIGTERM)
    """
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


class ExactCheckpoint(BaseCallback):
    """
    Save all that decides a training's future, so that ``EduPPO.resume`` goes on as if it had never been interrupted.

    A checkpoint is made every ``save_freq`` steps, at the next step after SIGINT (Ctrl-C), SIGTERM or SIGHUP, after an
    exception in a callback, and at the end. Environments are restored exactly if they are wrapped in
    :class:`~sb3_ppo_edu.checkpoint.Resumable`.

    :param save_freq: steps, summed over all environments, between checkpoints, ≥ 1
    :param folder: where the checkpoints are kept
    :param keep: how many stay, ≥ 1
    :param on_save_error: "raise" ends the training when a checkpoint can't be written, "warn" goes on without; in either case
        the ones that are there stay
    :param handle_signals: whether SIGINT, SIGTERM and SIGHUP make a checkpoint before they end the training
    :param save_at_start: whether the first is made before the first step, so that a training killed early can be resumed
    :param settings: plain data that each checkpoint keeps, for whoever resumes to compare with
    :param verbose: 1 says what is saved
    :raises ValueError: for arguments out of range
    """

    not_resumed = (
        *("save_freq", "folder", "keep", "on_save_error", "handle_signals", "save_at_start", "settings"),
        *("last_saved", "due", "stop", "_constructor"),
    )
    """Attributes that are what the resumed training's own callback says."""
    changes_policy = False

    def __init__(
        self,
        save_freq: int,
        folder: str | Path,
        keep: int = 3,
        on_save_error: str = "raise",
        handle_signals: bool = True,
        verbose: int = 0,
        save_at_start: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(verbose)
        for name, value in (("save_freq", save_freq), ("keep", keep)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected a positive integer")
        if on_save_error not in ON_SAVE_ERROR:
            raise ValueError(f"on_save_error={on_save_error!r}: expected one of {', '.join(ON_SAVE_ERROR)}")
        self.save_freq, self.keep, self.on_save_error, self.handle_signals = save_freq, keep, on_save_error, handle_signals
        self.save_at_start, self.settings = save_at_start, settings
        # A relative path would lead elsewhere once an environment has changed the working directory.
        self.folder = Path(folder).absolute()
        self.last_saved = 0
        self.due = False
        self.stop: int | None = None
        self._constructor: bytes | None = None
        self._handlers: dict[int, Any] = {}

    def make_session(self, before: Session) -> CheckpointSession:
        """
        Give the session that calls back between steps; ``learn`` asks for it.

        :param before: the session before, which may know of an interrupted training
        """
        return CheckpointSession(self, before.resumption if isinstance(before, CheckpointSession) else None)

    def _on_training_start(self) -> None:
        """Keep what the model was built from, and take over the signals."""
        model: Any = self.model
        session = getattr(model, "session", None)
        if session is None:
            raise TypeError(f"ExactCheckpoint: found {type(model).__name__}, expected EduPPO, which stops between two steps")
        if getattr(session, "safe_point", None) is not self:
            raise ValueError("ExactCheckpoint: found another one in the same training, expected one")
        self._constructor = constructor(model)
        self.last_saved = self.model.num_timesteps
        self.due, self.stop = self.save_at_start and self.last_saved == 0, None
        if self.handle_signals and threading.current_thread() is threading.main_thread():
            self._handlers = handle_signals(self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; a second one is not waited for."""
        if self.stop is not None:
            raise ending(number)
        self.stop = number

    def _on_step(self) -> bool:
        """Note when a checkpoint is due; it is made at the step's end."""
        self.due = self.due or self.num_timesteps - self.last_saved >= self.save_freq
        return True

    def reached(self) -> None:
        """
        Make a checkpoint if one is due, and end the training if a signal asked for it. Called between steps.

        :raises KeyboardInterrupt: after SIGINT
        :raises SystemExit: after SIGTERM and SIGHUP, with the usual exit codes of 143 and 129
        """
        if self.due or self.stop is not None:
            self.save()
        if self.stop is not None:
            raise ending(self.stop)

    def failed(self) -> None:
        """Make a checkpoint before an exception of a callback ends the training. Called at the step's end."""
        self.save()

    def released(self) -> None:
        """Give the signals back. Called when training ends, however it does."""
        give_signals_back(self._handlers)
        self._handlers = {}

    def save(self) -> Path | None:
        """
        Make a checkpoint now.

        :return: its file, or None if it could not be written and ``on_save_error`` is "warn"
        :raises CheckpointError: if it could not be written and ``on_save_error`` is "raise"
        """
        # A callback of SB3 knows any algorithm; _on_training_start has refused all others.
        model: EduPPO = self.model  # type: ignore[assignment]
        self.due, self.last_saved = False, model.num_timesteps
        assert self._constructor is not None
        try:
            state = {**capture(model, outermost(self)), "settings": self.settings}
            members = {files.STATE: pack(state), files.MODEL: self._constructor}
            path = files.save(self.folder, model.num_timesteps, members, self.keep)
        except (OSError, NotPlainError) as error:
            step = model.num_timesteps
            message = f"{self.folder}: the checkpoint at step {step} could not be written ({error}); those before stay"
            if self.on_save_error == "raise":
                raise files.CheckpointError(message) from error
            warnings.warn(message, stacklevel=2)
            return None
        if self.verbose >= 1:
            print(f"Checkpoint: {path}")
        return path

    def _on_training_end(self) -> None:
        """Make the last checkpoint, from which there is nothing left to do."""
        self.save()


def outermost(callback: BaseCallback) -> BaseCallback:
    """Find the callback that all others are inside of."""
    found: Any = callback.locals.get("callback", callback)
    return found if isinstance(found, BaseCallback) else callback
