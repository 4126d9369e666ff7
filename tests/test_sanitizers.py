"""The sanitizers' program reads cases, runs kernels at every level, and finds wrong numbers and bytes touched outside."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import copy2, which

import numpy as np
import pytest

from sb3_ppo_edu.engines.fused import build
from tests.kernel_cases import KernelCase

TOY = Path(__file__).resolve().parent / "toy_kernels"
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GCC = which("gcc")
TARGET = build.host_target()

pytestmark = pytest.mark.skipif(GCC is None or TARGET is None, reason="no gcc with sanitizers here")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program with the toy kernel, once."""
    folder = tmp_path_factory.mktemp("driver")
    for source in (*TOY.glob("*.c"), build.SOURCES / "cpu.c"):
        copy2(source, folder)
    assert GCC is not None and TARGET is not None
    build.build_driver(folder / "driver", build.Compiler("gcc", (GCC,)), TARGET, folder, SANITIZERS)
    return folder / "driver"


def axpy(dtype: str, n: int = 5, length: int = 5, wrong: float = 0.0) -> KernelCase:
    """
    Write down the call y ← 2·x + y with x = 0, 1, 2, … and y = 10.

    :param dtype: ``f32`` or ``f64``
    :param n: number of elements that the kernel is told
    :param length: number of elements that there are
    :param wrong: error of the last expected number
    :return: the case
    """
    real = {"f32": np.float32, "f64": np.float64}[dtype]
    x = np.arange(length, dtype=real)
    expected = 2 * x + 10
    expected[-1] += wrong
    case = KernelCase("axpy", dtype)
    vectors = case.block(bytes(16))
    case.pointer(vectors, 0, case.block(x, x, kind="real"))
    case.pointer(vectors, 8, case.block(np.full(length, 10, real), expected, kind="real", rtol=1e-6))
    case.pass_number(n)
    case.pass_number(2.0)
    case.pass_block(vectors)
    return case


def run(driver: Path, *cases: KernelCase) -> subprocess.CompletedProcess[str]:
    """
    Write cases and run the program on them.

    :param driver: the program
    :param cases: the cases
    :return: how it ended
    """
    paths = [driver.parent / f"case{i}" for i in range(len(cases))]
    for case, path in zip(cases, paths, strict=True):
        case.write(path)
    return subprocess.run([str(driver), *map(str, paths)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_right_numbers_pass(driver: Path, dtype: str) -> None:
    """A kernel that computes what is expected passes, at each level that the processor has."""
    done = run(driver, axpy(dtype), axpy(dtype, n=3, length=3))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": 0 differ\n")
    assert int(done.stdout.split()[0]) % 2 == 0


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_wrong_number_is_found(driver: Path, dtype: str) -> None:
    """A number that differs from the expected one fails, with file, kernel, block and element; one within tolerance passes."""
    done = run(driver, axpy(dtype, wrong=0.5))
    assert done.returncode == 1
    assert f"(axpy, {dtype}, " in done.stdout
    assert "block 2, element 4: found 18, expected 18.5" in done.stdout
    assert run(driver, axpy(dtype, wrong=1e-6)).returncode == 0


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_byte_outside_is_found(driver: Path, dtype: str) -> None:
    """A kernel that goes one element beyond its array is stopped by the address sanitizer."""
    done = run(driver, axpy(dtype, n=6))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_unknown_kernel_and_broken_case_are_named(driver: Path) -> None:
    """A case that names no kernel, gives too few arguments or is cut off is refused with its file."""
    stranger, short = axpy("f32"), axpy("f32")
    stranger.kernel = "fly"
    short.arguments.pop()
    assert "case0: names no kernel" in run(driver, stranger).stderr
    assert "case0: has another number of arguments" in run(driver, short).stderr
    path = driver.parent / "cut"
    axpy("f32").write(path)
    path.write_bytes(path.read_bytes()[:-9])
    done = subprocess.run([str(driver), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "cut: ends early" in done.stderr) == (2, True)


def test_case_refuses_expected_of_another_size() -> None:
    """Content and expected content have the same size."""
    with pytest.raises(ValueError, match="found 8 bytes, expected 16 as in content"):
        KernelCase("axpy", "f64").block(np.zeros(2), np.zeros(1))
