"""
Runs the kernels under gcc's address and undefined-behaviour sanitizers: ``make sanitize``.

The property tests of the kernels write their calls as files into the folder that ``SB3_EDU_CASES`` names; a program in C,
without Python and torch, runs them again at every instruction set of this processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sb3_ppo_edu.engines.fused import build

PROJECT = Path(__file__).resolve().parents[2]
TESTS = [f"tests/test_{name}.py" for name in ("kernels", "features", "gsde", "recurrent_kernels", "net_arch_engines")]
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def main() -> int:
    """
    Write the cases, build the program, run it.

    :return: 0 if no kernel did wrong or there is no gcc, else 1
    """
    parser = argparse.ArgumentParser(description="run the kernels under sanitizers")
    parser.add_argument("--cases", type=Path, help="folder of cases to run (default: those that the tests write)")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="tests that write the cases")
    chosen = parser.parse_args()
    target, gcc = build.host_target(), shutil.which("gcc")
    if target is None or gcc is None:
        print("skipped: no gcc with sanitizers on this machine")
        return 0
    cases: Path = chosen.cases or PROJECT / "build" / "cases"
    if chosen.cases is None:
        if missing := [test for test in chosen.tests if not (PROJECT / test).exists()]:
            print(f"skipped: {missing[0]} is not there, so there are no cases")
            return 0
        shutil.rmtree(cases, ignore_errors=True)
        cases.mkdir(parents=True)
        command = [sys.executable, "-m", "pytest", "--quiet", "-m", "not slow", *chosen.tests]
        if subprocess.run(command, cwd=PROJECT, env={**os.environ, "SB3_EDU_CASES": str(cases)}, check=False).returncode:
            return 1
    files = sorted(map(str, cases.glob("*")))
    if not files:
        print(f"skipped: no cases in {cases}")
        return 0
    driver = PROJECT / "build" / "driver"
    driver.parent.mkdir(exist_ok=True)
    build.build_driver(driver, build.Compiler("gcc", (gcc,)), target, extra=SANITIZERS)
    return subprocess.run([str(driver), *files], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
