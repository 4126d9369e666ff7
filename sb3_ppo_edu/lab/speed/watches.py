"""What a measurement looks at: clocks, memory, and functions that are wrapped for a while."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Reading(NamedTuple):
    """
    What the clocks and the memory say.

    :param wall: seconds of the wall clock
    :param cpu: seconds of processor time of this process, all threads together
    :param memory_mib: resident memory
    """

    wall: float
    cpu: float
    memory_mib: float


def read_clocks() -> Reading:
    """Look at the memory, then at the clocks."""
    memory = memory_mib(peak=False)
    return Reading(time.perf_counter(), time.process_time(), memory)


def memory_mib(*, peak: bool) -> float:
    """
    Find out how much memory this process has.

    :param peak: the largest so far instead of the present
    :return: resident memory in MiB; where the system doesn't tell the present one (macOS), the largest so far; where it tells
        none (Windows), nan
    """
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux it begins with what the parent had when it started this process.
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return float(lines["VmHWM" if peak else "VmRSS"].split()[0]) / 1024
    try:
        import resource
    except ImportError:
        return math.nan
    in_bytes = sys.platform == "darwin"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if in_bytes else 1024)


class Stopwatch:
    """Measures calls."""

    def __init__(self) -> None:
        self.calls: list[float] = []

    @property
    def seconds(self) -> float:
        """All calls together."""
        return sum(self.calls)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        Time each call of a function.

        :param function: the function
        :return: a function that does the same
        """
        clock, noted = time.perf_counter, self.calls.append

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                noted(clock() - start)

        return timed

    def around_what_it_gives(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        Time each call of the function that another function gives.

        :param function: gives a function
        :return: a function that gives one that does the same
        """

        def given(*args: Any, **kwargs: Any) -> Any:
            return self.around(function(*args, **kwargs))

        return given


@contextmanager
def replaced(holder: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """
    Wrap an attribute for a while.

    :param holder: an object or module
    :param name: name of its attribute
    :param wrap: gives the wrapped attribute
    """
    own = name in vars(holder)
    before = getattr(holder, name)
    setattr(holder, name, wrap(before))
    try:
        yield
    finally:
        if own:
            setattr(holder, name, before)
        else:
            delattr(holder, name)
