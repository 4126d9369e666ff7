"""What a logger has not written yet when a checkpoint is made."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.logger import Image, configure

from sb3_ppo_edu.checkpoint.files import CheckpointError
from sb3_ppo_edu.checkpoint.logs import capture_logger, cut_csv, restore_waiting


def test_what_waits_goes_on_without_pictures(tmp_path: Path) -> None:
    """A picture can't be kept; the numbers beside it are written, whatever else a damaged file says."""
    logger = configure(str(tmp_path / "before"), ["csv"])
    logger.record("a", 1.0)
    logger.record("picture", Image(np.zeros((1, 1, 3)), "HWC"), exclude="csv")
    logger.record_mean("b", 2.0)
    state = capture_logger(logger)
    state["values"].update(nobody=1.0, odd=1.0)
    state["excluded"].update(nothing=(), odd=7)
    resumed = configure(str(tmp_path / "after"), ["csv"])
    restore_waiting(resumed, state)
    resumed.record_mean("b", 4.0)
    resumed.dump(5)
    for one in (logger, resumed):
        one.close()
    (row,) = csv.DictReader((tmp_path / "after" / "progress.csv").read_text().splitlines())
    assert row == {"a": "1.0", "b": "3.0"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xba\x00\xff" * 9, "found no text"),
        (b"c,d\n1,2\n", "found the columns 'c,d', expected a, b"),
        (b"a,b\n", "found 1"),
    ],
)
def test_a_log_that_is_something_else_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """It is named, and stays as it is."""
    path = tmp_path / "progress.csv"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"progress.csv: {said}"):
        cut_csv(path, 2, ["a", "b"])
    assert path.read_bytes() == content
