"""Standard output and error that nobody reads, that are closed, or that lack letters: a training goes on without them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

DISK = frozenset({errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Numbers of the errors of a disk that takes no more."""


class UnreadStream:
    """
    A stream that goes nowhere once its reader has gone, as that of ``sb3-edu train | head``, or the disk is full.

    :param stream: the stream
    :param results: whether it is an error if the disk does not take what is written: :meth:`flush` raises it at the latest
    """

    def __init__(self, stream: TextIO, results: bool) -> None:
        self._stream, self._results = stream, results
        self._error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        """Give what the stream has."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if anybody reads."""
        with self._without_reader():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is left, if anybody reads."""
        with self._without_reader():
            self._stream.flush()
        if self._error is not None:  # whoever wrote may have passed over it, as argparse does
            error, self._error = self._error, None
            raise error

    @contextlib.contextmanager
    def _without_reader(self) -> Iterator[None]:
        """Let the stream, and who else writes to its descriptor, go nowhere when its reader has gone."""
        try:
            yield
        except OSError as error:
            # Windows says of a reader that has gone that an argument is invalid.
            gone = isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)
            if not gone and error.errno not in DISK:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if self._results and error.errno in DISK:
                self._error = OSError(error.errno, error.strerror, self._stream.name)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Have standard output and error that take whatever is written, and flush them at the end."""
    before = sys.stdout, sys.stderr
    for one in before:
        if isinstance(one, io.TextIOWrapper) and one.errors == "strict":
            with contextlib.suppress(OSError):  # whatever waits is written before, and the reader may have gone
                one.reconfigure(errors="replace")  # Windows' files have some hundred letters, and λ is none of them
    # Closed ones (2>&-) are None in Python, and print would write its errors to standard output.
    out, err = (
        open(os.devnull, "w", encoding="utf-8") if one is None else UnreadStream(one, one is before[0])  # noqa: SIM115
        for one in before
    )
    sys.stdout, sys.stderr = out, err
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def describe_disk(error: OSError) -> str:
    """
    Say which file a disk did not take.

    :param error: one of :data:`DISK`
    :return: file, where the error knows it, and reason
    """
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}; expected a disk that takes what is written"
