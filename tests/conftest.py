"""What all tests share: no window, one thread, the same random streams whatever ran before."""

from __future__ import annotations

import multiprocessing
import os
import random

# Before any import reads them. Subprocesses that tests start inherit them.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch as th
from hypothesis import settings

# Environments in processes of their own start in milliseconds where the server that forks them has imported what they need.
if "forkserver" in multiprocessing.get_all_start_methods():
    multiprocessing.set_forkserver_preload(["stable_baselines3", "sb3_ppo_edu.vec_env"])

# Two test processes with two threads each on two cores are many times slower than with one.
th.set_num_threads(1)

# Derandomised, so that a failure in CI is the failure on the desk; without a deadline, since a busy machine is no defect.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same random streams, so that neither the order nor the number of processes matters."""
    random.seed(0)
    np.random.seed(0)
    th.manual_seed(0)
    th.distributions.Distribution.set_default_validate_args(True)  # torch.compile turns it off for the rest of a process
