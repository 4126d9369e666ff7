"""Callbacks of a training at the command line: its progress bar, and its end when a signal asks for it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_ppo_edu.checkpoint.callback import give_signals_back, handle_signals


class StopOnRequest(BaseCallback):
    """
    Ends training at the next step once :attr:`requested` is set, so that no update is cut in half; :attr:`signal` asked.

    :param on_first_step: called once this process has made a step, when :attr:`began` is set
    """

    changes_policy = False
    not_resumed = ("requested", "signal", "began", "on_first_step")

    def __init__(self, on_first_step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.requested, self.began = False, False
        self.signal = signal.SIGINT
        self.on_first_step = on_first_step

    def _on_step(self) -> bool:
        """Go on unless asked to stop."""
        if not self.began:
            self.began = True
            self.on_first_step()
        return not self.requested


@contextmanager
def stopping_on_signals(stop: StopOnRequest) -> Iterator[None]:
    """
    Let the first Ctrl-C, SIGTERM (which is how a cluster asks) or SIGHUP end training at the next step, the second at once.

    :param stop: the callback to ask
    """

    def handle(number: int, _: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested, stop.signal = True, signal.Signals(number)
        again = "Ctrl-C" if number == signal.SIGINT else stop.signal.name
        # Not print(): it may be interrupted print() that this signal interrupted. A closed terminal takes nothing.
        with suppress(OSError):
            os.write(2, f"\nStopping at the next step; {again} again stops at once.\n".encode())

    before = handle_signals(handle)
    try:
        yield
    finally:
        give_signals_back(before)


def undisturbed(do: Callable[[], None]) -> None:
    """
    Do something that no signal to end interrupts.

    :param do: what takes a moment only
    """
    done = False
    while not done:
        # The signal that ends training may be followed by others before they are ignored.
        with suppress(KeyboardInterrupt):
            before = handle_signals(signal.SIG_IGN)
            try:
                do()
                done = True
            finally:
                give_signals_back(before)


class Progress(BaseCallback):
    """
    A progress bar with the mean return of the latest episodes.

    :param total: environment steps of the run
    """

    changes_policy = False

    def __init__(self, total: int) -> None:
        super().__init__()
        # A log file needs no ten lines a second.
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._total = total
        # Asked here, because tqdm shows nothing at all on a terminal that does not know its own size.
        columns, lines = shutil.get_terminal_size()
        self._bar = tqdm(
            total=total,
            desc="training",
            unit=" steps",
            unit_scale=True,
            mininterval=interval,
            ncols=min(columns, 100),
            nrows=lines,
        )

    def _on_step(self) -> bool:
        """Count; the last rollout goes a little beyond the total."""
        self._bar.update(min(self.num_timesteps, self._total) - self._bar.n)
        return True

    def _on_rollout_end(self) -> None:
        """Show what the latest episodes returned."""
        episodes = self.model.ep_info_buffer
        if episodes:
            self._bar.set_postfix_str(f"return {np.mean([episode['r'] for episode in episodes]):.1f}", refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
