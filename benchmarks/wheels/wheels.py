"""
Builds a wheel for every platform and checks what is in it: ``make wheels``.

zig compiles for all of them from any of them. The library for this machine is also loaded and asked for its processor; the
others were built, never run. The first build for a platform compiles parts of its C library: seconds, for Windows a minute.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sb3_ppo_edu.engines.fused import build

PROJECT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
ASK = "import ctypes, sys; cpu = ctypes.CDLL(sys.argv[1]).sb3edu_cpu; cpu.restype = ctypes.c_char_p; print(cpu().decode())"


def build_wheel(target: build.Target, folder: Path) -> Path:
    """
    Build a platform's wheel.

    :param target: the platform
    :param folder: where the wheel goes
    :return: the wheel
    """
    command = [sys.executable, "-c", BUILD, str(folder)]
    environment = {**os.environ, "SB3_EDU_TARGET": target.name}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stdout}{done.stderr}")
    return folder / done.stdout.split()[-1]


def check_wheel(wheel: Path, target: build.Target) -> tuple[list[str], str]:
    """
    Check what a wheel holds; where it is for this machine, load its library.

    :param wheel: the wheel
    :param target: the platform that it is for
    :return: what is wrong, and what was tried
    """
    wrong = [] if wheel.name.endswith(f"-py3-none-{target.wheel_tag}.whl") else [f"tag: expected py3-none-{target.wheel_tag}"]
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        inside = [name for name in archive.namelist() if "libsb3edu-" in name]
        if inside != [f"sb3_ppo_edu/engines/fused/{target.library_name}"]:
            return [*wrong, f"libraries: found {inside}, expected {target.library_name}"], "not run"
        library = Path(archive.extract(inside[0], folder))
        wrong += build.faults(library, target)
        if target != build.host_target():
            return wrong, "built, never run"
        asked = subprocess.run([sys.executable, "-c", ASK, str(library)], capture_output=True, text=True, check=False)
        if asked.returncode:
            wrong.append(f"cannot be loaded: {asked.stderr}")
        return wrong, f"loaded here: {asked.stdout.strip()}"


def main() -> int:
    """
    Build and check the wheels.

    :return: 0, or 1 where one is wrong
    """
    parser = argparse.ArgumentParser(description="build and check a wheel for every platform")
    parser.add_argument("--output", type=Path, default=PROJECT / "dist", help="folder for the wheels")
    parser.add_argument("targets", nargs="*", help=f"platforms (default: all): {', '.join(build.TARGETS)}")
    chosen = parser.parse_args()
    failed = False
    for name in chosen.targets or build.TARGETS:
        target = build.TARGETS[name]
        wheel = build_wheel(target, chosen.output)
        wrong, tried = check_wheel(wheel, target)
        failed |= bool(wrong)
        print(
            f"{name:15} {', '.join(target.levels):10} {wheel.stat().st_size // 1024:6} KB  {tried}  {'; '.join(wrong)}",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
