"""exp, log, tanh and erf in float32: how far they are from the right number, in units of its last place (ulp)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_ppo_edu.engines.fused import build

PROJECT = Path(__file__).resolve().parent.parent
TARGET = build.host_target()
COMPILERS = build.compilers(TARGET) if TARGET else []
LEVEL = TARGET.levels[min(1, len(TARGET.levels) - 1)] if TARGET else ""

pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler here: neither ziglang, clang nor gcc")

SOURCE = """
#include "vectors.h"
#define EACH(name) void each_##name(const REAL *x, REAL *y, int64_t n) { \\
    for (int64_t i = 0; i < n; i += LANES) store_unaligned(y + i, name(load_unaligned(x + i))); }
EACH(vexp) EACH(vlog) EACH(vtanh) EACH(verf)
"""

# Every how many-th of all float32 is tried: two million of them.
EVERY = 2003

Function = Callable[[np.ndarray], np.ndarray]
EXACT: dict[str, Function] = {
    "vexp": np.exp,
    "vlog": np.log,
    "vtanh": np.tanh,
    "verf": lambda x: th.erf(th.from_numpy(x)).numpy(),
}


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The functions of ``vectors.h`` for arrays, compiled as the kernels are."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "each.c").write_text(SOURCE, encoding="utf-8")
    assert TARGET is not None
    options = (*build.FLAGS, *COMPILERS[0].options(TARGET, LEVEL), f"-I{build.SOURCES}", "-DREAL=float", "-shared")
    command = (*COMPILERS[0].command, *options, "-o", "each.so", "each.c", "-lm")
    build.run(command, PROJECT / "build" / "zig", folder)
    return ctypes.CDLL(str(folder / "each.so"))


def errors_in_ulp(functions: ctypes.CDLL, name: str, low: float, high: float, least: float) -> np.ndarray:
    """
    Compare a function with float64's.

    :param functions: the compiled functions
    :param name: the function
    :param low: least argument
    :param high: largest argument
    :param least: least size of an argument
    :return: distance from the right result in units of the last place that a float32 of its size has
    """
    every = np.arange(0, 2**32, EVERY, dtype=np.uint32).view(np.float32)
    x = every[(every >= low) & (every <= high) & (np.abs(every) >= least)]
    x = np.append(x, np.full(-len(x) % 16, 1, np.float32))
    y = np.empty_like(x)
    getattr(functions, f"each_{name}")(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_int64(len(x)))
    exact = EXACT[name](x.astype(np.float64))
    place = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    errors: np.ndarray = np.abs(y - exact) / place
    return errors


@pytest.mark.parametrize(
    ("name", "low", "high", "least", "most"),
    [
        ("vexp", -87.3, 88.7, 0.0, 1.1),
        ("vlog", 1.2e-38, 3.4e38, 0.0, 0.9),
        ("vtanh", -50, 50, 0.0, 5.0),
        ("verf", -50, 50, 1e-35, 6.0),  # what is smaller loses digits to numbers that have few
    ],
)
def test_errors_in_ulp(functions: ctypes.CDLL, name: str, low: float, high: float, least: float, most: float) -> None:
    """Wherever the result is a normal number, it is no further off than HOW_IT_WORKS.md says."""
    errors = errors_in_ulp(functions, name, low, high, least)
    assert len(errors) > 100_000
    assert errors.max() <= most
