"""Callbacks of the command line: the progress bar, and the end that a signal asks for."""

from __future__ import annotations

import os
import select
import signal
import sys

import pytest

from sb3_ppo_edu.cli.callbacks import Progress, StopOnRequest, stopping_on_signals


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_progress_shows_on_a_terminal_without_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pseudo-terminals of CI and containers say that they have no rows and columns; the bar shows there too."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress(1000)
        progress.num_timesteps = 1024
        progress._on_step()
        progress.close()
        terminal.flush()
        shown = ""
        # A busy system hands over what was written in pieces.
        while "1.00k/1.00k" not in shown:
            assert select.select([master], [], [], 10)[0], shown
            shown += os.read(master, 10_000).decode(errors="replace")
    os.close(master)
    # The last rollout goes beyond the total, the bar does not.
    assert "training: 100%" in shown
    assert "1.00k/1.00k" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    """The first signal lets the step end, the second raises at once, and afterwards the handler is the one before."""
    before = signal.getsignal(number)
    stop = StopOnRequest()
    with stopping_on_signals(stop):
        assert stop._on_step()
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal == number
        assert not stop._on_step()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
